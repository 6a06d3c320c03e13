//! What a hostile pod sends so that the program does not read whose target it asks for: a real cache and a real cluster DNS answer
//! it, and where targets are protected they never get it.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs,
    net::{IpAddr, UdpSocket},
    os::fd::AsRawFd as _,
    time::Duration,
};

use e2e::pods::{Pods, known};
use e2e::{Metrics, Wire, exchange_tcp, reload, until};
use gregor_tests::{
    lab::{
        Ask, CacheKind, ClusterKind, Lab, Pod, patience,
        world::{
            BAR_ADDRESSES, CLUSTER_DNS_V4, FOREIGN, FOREIGN_ADDRESSES, NODE_LOCAL_V4, NODE_LOCAL_V6,
        },
    },
    tools,
};
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
/// Not local to the node.
const CLUSTER: IpAddr = IpAddr::V4(CLUSTER_DNS_V4);
const TARGET: &str = "kafka-upstream.bar.svc.cluster.local";
/// For the replies that are to come.
const REPLY: Duration = Duration::from_secs(2);
/// For those that must not.
const SILENCE: Duration = Duration::from_millis(300);

/// An OPT record without options.
const OPT: [u8; 11] = [0, 0, 41, 0x04, 0xd0, 0, 0, 0, 0, 0, 0];
/// How a query for another name ends.
const OTHER_END: &[u8] = b"\x07example\x03com\0\0\x01\0\x01";

/// A TXT record of the root.
fn txt(rdata: &[u8]) -> Vec<u8> {
    let mut record = vec![0, 0, 16, 0, 1, 0, 0, 0, 0];
    record.extend((rdata.len() as u16).to_be_bytes());
    record.extend(rdata);
    record
}

/// A query for the target with these counts, and bytes behind its question.
fn with(counts: [u8; 4], more: &[u8]) -> Vec<u8> {
    let (mut message, _) = Wire::new(TARGET, RecordType::A).bytes();
    for (at, count) in counts.into_iter().enumerate() {
        message[5 + 2 * at] = count;
    }
    message.extend(more);
    message
}

/// A query that is larger than a frame that the program hands over: over UDP it goes in fragments. CoreDNS reads such ones over
/// TCP alone.
fn padded() -> Vec<u8> {
    let mut wire = Wire::new(TARGET, RecordType::A).edns(0);
    let padding = [0; 2000];
    let options = [&12u16.to_be_bytes()[..], &2000u16.to_be_bytes(), &padding].concat();
    wire.edns = Some((0, false, options));
    wire.bytes().0
}

/// The first label, and a pointer to the others in the owner of a record.
fn pointing() -> Vec<u8> {
    let mut message = rand::random::<u16>().to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
    message.extend(b"\x0ekafka-upstream");
    let owner = message.len() + 2 + 4;
    message.extend((0xc000 | owner as u16).to_be_bytes());
    message.extend([0, 1, 0, 1]);
    message.extend(b"\x03bar\x03svc\x07cluster\x05local\0");
    message.extend([0, 16, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    message
}

/// Messages that hide what they ask for.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    let question = &with([1, 0, 0, 0], &[])[12..];
    vec![
        (
            "NOTIFY",
            Wire::new(TARGET, RecordType::A).flags(0x2100).bytes().0,
        ),
        (
            "STATUS",
            Wire::new(TARGET, RecordType::A).flags(0x1100).bytes().0,
        ),
        (
            "two additional records",
            with([1, 0, 0, 2], &[&OPT[..], &txt(b"\0")].concat()),
        ),
        ("an answer", with([1, 1, 0, 0], &txt(b"\0"))),
        ("an authority", with([1, 0, 1, 0], &txt(b"\0"))),
        ("two questions", with([2, 0, 0, 0], question)),
        ("a pointer", pointing()),
        ("another end", with([1, 0, 0, 0], OTHER_END)),
        ("another end in a record", {
            let rdata = [OTHER_END, &OPT].concat();
            // One string of it all, for who looks.
            with(
                [1, 0, 0, 1],
                &txt(&[&[rdata.len() as u8][..], &rdata].concat()),
            )
        }),
        ("more than a frame", padded()),
    ]
}

/// Sends a message by this socket, and returns the reply.
fn exchange_by(
    socket: &UdpSocket,
    server: IpAddr,
    message: &[u8],
    wait: Duration,
) -> Option<Vec<u8>> {
    socket.connect((server, 53)).unwrap();
    socket.send(message).unwrap();
    socket.set_read_timeout(Some(patience(wait))).unwrap();
    let mut reply = vec![0; 65_535];
    let len = socket.recv(&mut reply).ok()?;
    reply.truncate(len);
    Some(reply)
}

fn over_udp(
    pod: &Pod,
    server: IpAddr,
    message: &[u8],
    ip_options: &[u8],
    wait: Duration,
) -> Option<Vec<u8>> {
    let (message, ip_options) = (message.to_vec(), ip_options.to_vec());
    let exchange = move || {
        let any: IpAddr = match server {
            IpAddr::V4(_) => [0; 4].into(),
            IpAddr::V6(_) => [0u16; 8].into(),
        };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        if !ip_options.is_empty() {
            // SAFETY: the option takes so many bytes from there.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::IPPROTO_IP,
                    libc::IP_OPTIONS,
                    ip_options.as_ptr().cast(),
                    ip_options.len() as libc::socklen_t,
                )
            };
            assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
        }
        exchange_by(&socket, server, &message, wait)
    };
    pod.netns().enter(exchange).unwrap()
}

/// Whether the bytes of one of bar's addresses are in a reply.
fn has_endpoint(reply: Option<&Vec<u8>>) -> bool {
    let secrets = BAR_ADDRESSES.into_iter().filter(IpAddr::is_ipv4);
    let octets = secrets.map(|address| match address {
        IpAddr::V4(address) => address.octets(),
        IpAddr::V6(_) => unreachable!("filtered"),
    });
    let octets: Vec<[u8; 4]> = octets.collect();
    reply.is_some_and(|reply| {
        reply
            .windows(4)
            .any(|part| octets.iter().any(|o| o == part))
    })
}

/// Each form of the query, and whether the pod gets the endpoint by it.
fn try_all(pod: &Pod, wait: Duration) -> Vec<(String, bool)> {
    let mut found = Vec::new();
    let (plain, _) = Wire::new(TARGET, RecordType::A).bytes();
    for server in [CACHE, NODE_LOCAL_V6.into(), CLUSTER] {
        for (what, message) in messages() {
            let reply = over_udp(pod, server, &message, &[], wait);
            found.push((format!("{what}, {server}"), has_endpoint(reply.as_ref())));
        }
        if server.is_ipv4() {
            // No operation, four times.
            let reply = over_udp(pod, server, &plain, &[1; 4], wait);
            found.push((
                format!("IP options, {server}"),
                has_endpoint(reply.as_ref()),
            ));
        }
    }
    for server in [CACHE, CLUSTER] {
        for (what, message) in messages().into_iter().chain([("plain", plain.clone())]) {
            let reply = connect(pod, server).then(|| exchange_tcp(pod, server, &message));
            let reply = reply.flatten();
            found.push((
                format!("{what}, TCP, {server}"),
                has_endpoint(reply.as_ref()),
            ));
        }
    }
    found
}

/// Whether a connection is made soon: one that is dropped would wait for minutes.
fn connect(pod: &Pod, server: IpAddr) -> bool {
    let connect = move || {
        std::net::TcpStream::connect_timeout(&(server, 53).into(), patience(SILENCE)).is_ok()
    };
    pod.netns().enter(connect).unwrap()
}

#[test]
fn what_hides_a_query_reaches_no_server() {
    let lab = Lab::builder("e2ehidden")
        .pod("foo")
        .pod("bar")
        .cache(CacheKind::CoreDns { template: false })
        .cluster(ClusterKind::CoreDns)
        .start()
        .unwrap();
    let (foo, bar) = (lab.pod("foo"), lab.pod("bar"));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    let plain = format!("{}{}", lab.gregor_config(), pods.config());
    let protecting = format!("{plain}protect_targets = true\n");
    let gregor = lab.start_gregor(&tools::gregor().unwrap(), &plain).unwrap();
    known(&gregor, &lab);

    // Without it the endpoint leaks: over UDP, over TCP, and at each server.
    assert!(!e2e::addresses(&bar.ask(Ask::new(CACHE, TARGET, RecordType::A)).unwrap()).is_empty());
    let forms = try_all(foo, REPLY);
    let leaks: Vec<&str> = forms
        .iter()
        .filter(|(_, leaks)| *leaks)
        .map(|(what, _)| what.as_str())
        .collect();
    println!("without protect_targets: {leaks:#?}");
    for what in [
        "two additional records, 169.254.20.10",
        "another end, 169.254.20.10",
        "IP options, 169.254.20.10",
        "a pointer, 169.254.20.10",
        "plain, TCP, 172.20.0.10",
        "two additional records, TCP, 169.254.20.10",
    ] {
        assert!(leaks.contains(&what), "{what} does not leak: {leaks:?}");
    }

    reload(&gregor, &protecting);
    let none_leaks = |forms: Vec<(String, bool)>| {
        for (what, leaks) in forms {
            assert!(!leaks, "{what} leaks the endpoint");
        }
    };
    none_leaks(try_all(foo, SILENCE));
    let own = |server, transport| {
        let mut asked = Ask::new(server, TARGET, RecordType::A);
        asked.transport = transport;
        let reply = bar.ask(asked).unwrap();
        assert!(!e2e::addresses(&reply).is_empty(), "{reply}");
    };
    own(CACHE, gregor_tests::lab::Transport::Udp);
    own(CLUSTER, gregor_tests::lab::Transport::Udp);
    own(CACHE, gregor_tests::lab::Transport::Tcp);
    // Other names are the cache's, over TCP too, where that goes by gregor.
    let foreign = |pod: &Pod, transport| {
        let mut asked = Ask::new(CACHE, FOREIGN, RecordType::A);
        asked.transport = transport;
        let reply = pod.ask(asked).unwrap();
        assert_eq!(
            e2e::addresses(&reply),
            e2e::sorted(FOREIGN_ADDRESSES.into_iter().filter(IpAddr::is_ipv4))
        );
    };
    foreign(foo, gregor_tests::lab::Transport::Udp);
    foreign(foo, gregor_tests::lab::Transport::Tcp);
    assert!(!connect(foo, CLUSTER));
    assert!(Metrics::of(&gregor).get(r#"gregor_tcp_queries_total{result="unread"}"#) >= 5.0);
    // The node's own connections are not refused.
    let of_node = move || std::net::TcpStream::connect((CLUSTER, 53)).is_ok();
    assert!(lab.node().enter(of_node).unwrap());

    // Without a responder.
    let config = fs::read_to_string(gregor.config_path()).unwrap();
    gregor.signal(Signal::SIGKILL);
    until("the end of the process", || gregor.process().exited());
    until("no connection is taken any more", || {
        (!connect(foo, CACHE)).then_some(())
    });
    none_leaks(try_all(foo, SILENCE));
    foreign(foo, gregor_tests::lab::Transport::Udp);
    let next = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    known(&next, &lab);
    foreign(foo, gregor_tests::lab::Transport::Tcp);

    // TCP as it was before, for who wants it.
    reload(
        &next,
        &protecting.replacen("[intercept]\n", "[intercept]\ntcp = \"always\"\n", 1),
    );
    assert!(connect(foo, CLUSTER));
}
