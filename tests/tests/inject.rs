//! What the injector sends arrives: at pods through their veth, at the existing cache in the pod's own name; and the
//! responder answers over it.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions only, not in what they call.

use std::{
    fs::File,
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use dns_common::answer;
use gregor::{
    datapath::ReturnPath,
    inject::{Inject, Injector, QueryFrame},
    model::{Changes, Intercepted, LastGood, Publish, PublishedEntry, Reinjection, Term},
    resolve::{DnsSource, Responder, ResponderOptions},
    rules::{MatchSpec, RuleSet, RuleSpec},
};
use gregor_tests::packets::build::internet_checksum;
use hickory_proto::rr::Name;
use nix::sched::{CloneFlags, setns};

const POD_PORT: u16 = 40_053;
const POD_MAC: [u8; 6] = [2, 0x67, 0, 0, 0, 1];
const HOST_MAC: [u8; 6] = [2, 0x67, 0, 0, 0, 2];
/// Only reached when something is broken.
const PATIENCE: Duration = Duration::from_secs(5);

const POD_V4: &str = "10.9.0.2";
const POD_V6: &str = "fd09::2";
/// On the node, as NodeLocal has it, and behind it.
const LOCAL: [&str; 2] = ["169.254.20.10", "fd00:20::10"];
const ROUTED: [&str; 2] = ["10.8.0.2", "fd08::2"];

/// A node, a pod behind a veth, and a server behind the node; every namespace is removed with it.
struct Lab {
    prefix: String,
}

impl Lab {
    fn new(name: &str) -> Lab {
        let lab = Lab {
            prefix: format!("gri-{name}-{}", std::process::id()),
        };
        for namespace in ["node", "pod", "srv"] {
            lab.ip(&format!("netns add {}", lab.name(namespace)));
            lab.inside(namespace, "link set lo up");
        }
        let (node, pod, srv) = (lab.name("node"), lab.name("pod"), lab.name("srv"));
        lab.ip(&format!(
            "link add eth0 address {} netns {pod} type veth peer name veth-pod address {} netns {node}",
            mac(POD_MAC),
            mac(HOST_MAC)
        ));
        lab.ip(&format!(
            "link add eth0 netns {srv} type veth peer name veth-srv netns {node}"
        ));
        for setting in [
            "ipv4.ip_forward=1",
            "ipv6.conf.all.forwarding=1",
            // The strictest: a packet from the pod's address may come from the pod's veth alone.
            "ipv4.conf.all.rp_filter=1",
            "ipv4.conf.lo.rp_filter=1",
            "ipv4.conf.veth-pod.rp_filter=1",
            "ipv4.conf.veth-srv.rp_filter=1",
        ] {
            let command = format!("netns exec {node} sysctl -qw net.{setting}");
            lab.ip(&command);
        }
        // A bridge without ports replaces the dummy device.
        lab.inside("node", "link add nodelocaldns type bridge");
        for command in [
            "link set nodelocaldns up",
            "link set veth-pod up",
            "link set veth-srv up",
            "addr add 169.254.20.10/32 dev nodelocaldns",
            "addr add fd00:20::10/128 dev nodelocaldns nodad",
            "addr add 10.9.0.1/24 dev veth-pod",
            "addr add fd09::1/64 dev veth-pod nodad",
            "addr add 10.8.0.1/24 dev veth-srv",
            "addr add fd08::1/64 dev veth-srv nodad",
        ] {
            lab.inside("node", command);
        }
        for (namespace, net) in [("pod", 9), ("srv", 8)] {
            lab.inside(namespace, "link set eth0 up");
            lab.inside(namespace, &format!("addr add 10.{net}.0.2/24 dev eth0"));
            lab.inside(
                namespace,
                &format!("addr add fd0{net}::2/64 dev eth0 nodad"),
            );
            lab.inside(namespace, &format!("route add default via 10.{net}.0.1"));
            lab.inside(namespace, &format!("route add default via fd0{net}::1"));
        }
        lab
    }

    fn name(&self, namespace: &str) -> String {
        format!("{}-{namespace}", self.prefix)
    }

    fn ip(&self, arguments: &str) {
        let status = Command::new("ip")
            .args(arguments.split_whitespace())
            .status()
            .unwrap();
        assert!(status.success(), "ip {arguments}");
    }

    fn inside(&self, namespace: &str, arguments: &str) {
        let family = if arguments.contains("::") { "-6" } else { "-4" };
        self.ip(&format!("{family} -n {} {arguments}", self.name(namespace)));
    }

    /// Runs `open` in a namespace; sockets stay where they were opened.
    fn enter<T: Send>(&self, namespace: &str, open: impl FnOnce() -> T + Send) -> T {
        let path = format!("/run/netns/{}", self.name(namespace));
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                open()
            });
            thread.join().unwrap()
        })
    }

    fn socket(&self, namespace: &str, address: &str, port: u16) -> UdpSocket {
        let address = SocketAddr::new(address.parse().unwrap(), port);
        let socket = self.enter(namespace, || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn injector(&self) -> Injector {
        self.enter("node", || {
            let path = ReturnPath::open().unwrap();
            let device = Arc::clone(path.index());
            // It goes with the namespace, which the thread that would drop it is not in.
            std::mem::forget(path);
            Injector::open(device, |error| panic!("{error}")).unwrap()
        })
    }

    fn query(&self, server: &str, message: &[u8]) -> QueryFrame {
        let pod = if server.contains(':') { POD_V6 } else { POD_V4 };
        let ifindex = self.enter("node", || {
            nix::net::if_::if_nametoindex("veth-pod").unwrap()
        });
        QueryFrame {
            held: None,
            ifindex,
            vlan: None,
            reinjection: Reinjection::default(),
            l3_offset: 14,
            frame: frame(pod.parse().unwrap(), server.parse().unwrap(), message),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in ["node", "pod", "srv"] {
            let _ = Command::new("ip")
                .args(["netns", "del", &self.name(namespace)])
                .status();
        }
    }
}

fn mac(address: [u8; 6]) -> String {
    address.map(|byte| format!("{byte:02x}")).join(":")
}

/// A query as the pod's kernel leaves it on the veth: the UDP checksum is only begun.
fn frame(pod: IpAddr, server: IpAddr, message: &[u8]) -> Vec<u8> {
    let mut frame = [HOST_MAC, POD_MAC].concat();
    let udp_len = 8 + message.len() as u16;
    match (pod, server) {
        (IpAddr::V4(pod), IpAddr::V4(server)) => {
            frame.extend([8, 0, 0x45, 0]);
            frame.extend((20 + udp_len).to_be_bytes());
            frame.extend([0x12, 0x34, 0x40, 0, 63, 17, 0, 0]);
            frame.extend(pod.octets());
            frame.extend(server.octets());
            let sum = internet_checksum(&[&frame[14..]]);
            frame[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        (IpAddr::V6(pod), IpAddr::V6(server)) => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend(udp_len.to_be_bytes());
            frame.extend([17, 63]);
            frame.extend(pod.octets());
            frame.extend(server.octets());
        }
        _ => unreachable!("one family"),
    }
    let addresses = &frame[if pod.is_ipv4() { 26 } else { 22 }..];
    let begun = !internet_checksum(&[addresses, &17u16.to_be_bytes(), &udp_len.to_be_bytes()]);
    for word in [POD_PORT, 53, udp_len, begun] {
        frame.extend(word.to_be_bytes());
    }
    frame.extend(message);
    frame
}

fn receive(socket: &UdpSocket) -> io::Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2000];
    let (length, from) = socket.recv_from(&mut buffer)?;
    Ok((buffer[..length].to_vec(), from))
}

fn passes_on(lab: &Lab, injector: &Injector, namespace: &str, server: &str) {
    let pod = if server.contains(':') { POD_V6 } else { POD_V4 };
    let pod = lab.socket("pod", pod, POD_PORT);
    let cache = lab.socket(namespace, server, 53);
    let query = lab.query(server, b"is it me you are looking for");

    let mut from = pod.local_addr().unwrap();
    // A trailer that no program removes is padding.
    for trailer in [None, Some([7; 16])] {
        let mut query = query.clone();
        query.reinjection.trailer = trailer;
        injector.pass_on(&query).unwrap();
        let message;
        (message, from) = receive(&cache).unwrap_or_else(|error| panic!("{server}: {error}"));
        assert_eq!(message, b"is it me you are looking for");
        assert_eq!(from, pod.local_addr().unwrap());
    }

    // And its reply reaches the pod.
    cache.send_to(b"an answer", from).unwrap();
    let (message, from) = receive(&pod).unwrap_or_else(|error| panic!("{server}: {error}"));
    assert_eq!(message, b"an answer");
    assert_eq!(from, cache.local_addr().unwrap());
}

#[test]
fn a_server_on_the_node_gets_the_query_from_the_pods_address() {
    let lab = Lab::new("local");
    let injector = lab.injector();
    for server in LOCAL {
        passes_on(&lab, &injector, "node", server);
    }
}

#[test]
fn a_server_behind_the_node_gets_the_query_from_the_pods_address() {
    let lab = Lab::new("routed");
    let injector = lab.injector();
    for server in ROUTED {
        passes_on(&lab, &injector, "srv", server);
    }
}

#[test]
fn a_reply_reaches_the_pod_from_the_address_that_it_asked() {
    let lab = Lab::new("reply");
    let injector = lab.injector();
    for server in LOCAL.into_iter().chain(ROUTED) {
        let pod = if server.contains(':') { POD_V6 } else { POD_V4 };
        let pod = lab.socket("pod", pod, POD_PORT);
        // Connected: the kernel delivers nothing from other addresses.
        pod.connect(SocketAddr::new(server.parse().unwrap(), 53))
            .unwrap();
        for message in [&b"short"[..], &[b'x'; 1232]] {
            injector.reply(&lab.query(server, b"?"), message).unwrap();
            let (received, _) = receive(&pod).unwrap_or_else(|error| panic!("{server}: {error}"));
            assert_eq!(received, message);
        }
    }
}

#[test]
fn a_failed_send_is_an_error() {
    let lab = Lab::new("errors");
    let injector = lab.injector();
    let mut gone = lab.query(LOCAL[0], b"?");
    gone.ifindex = 4_000_000;
    assert!(injector.reply(&gone, b"!").is_err());
    let mut no_query = lab.query(LOCAL[0], b"?");
    no_query.frame.truncate(30);
    for result in [injector.reply(&no_query, b"!"), injector.pass_on(&no_query)] {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    // Brought back once, and taken by a program that does not know the trailer.
    let mut in_a_circle = lab.query(LOCAL[0], b"?");
    in_a_circle.reinjection.trailer = Some([7; 16]);
    in_a_circle.frame.extend([7; 16]);
    assert!(injector.pass_on(&in_a_circle).is_err());
    // Those that wait are tried before it closes.
    let device = Arc::new(AtomicU32::new(4_000_000));
    let failures = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&failures);
    let failed = move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
    };
    let injector = lab.enter("node", || Injector::open(device, failed).unwrap());
    for _ in 0..2 {
        injector.pass_on(&lab.query(LOCAL[0], b"?")).unwrap();
    }
    injector.close();
    assert_eq!(failures.load(Ordering::Relaxed), 2);
    assert!(injector.pass_on(&lab.query(LOCAL[0], b"?")).is_err());
}

/// A DNS query without OPT, of class IN and type A.
fn dns_query(id: u16, qname: &str) -> Vec<u8> {
    let mut message = id.to_be_bytes().to_vec();
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in qname.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}

/// Answers for the target in foo, denies all others, and says REFUSED (5) to other names.
fn cluster_dns(query: &[u8]) -> Vec<u8> {
    let name_end = 12 + query[12..].iter().position(|&byte| byte == 0).unwrap() + 1;
    let name = query[12..name_end].to_ascii_lowercase();
    let mut reply = query[..name_end + 4].to_vec();
    reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]);
    if name.starts_with(b"\x0ekafka-upstream\x03foo") {
        reply[7] = 1;
        reply.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x0f\0\x04\x0a\0\0\x63");
    } else {
        reply[3] |= if name.starts_with(b"\x0ekafka-upstream") {
            3
        } else {
            5
        };
    }
    reply
}

#[test]
fn the_responder_answers_a_tenant_and_leaves_the_others_to_the_cache() {
    let lab = Lab::new("answer");
    let spec = RuleSpec {
        name: "kafka".to_owned(),
        matches: MatchSpec::Pattern("*.managed.{namespace}.svc.cluster.local".to_owned()),
        cname: "kafka-upstream.{namespace}.svc.cluster.local".to_owned(),
        ttl_seconds: 60,
        follow: true,
        ..RuleSpec::default()
    };
    let rules = Arc::new(RuleSet::compile(&[spec]).unwrap());
    for server in LOCAL {
        let cache = lab.socket("node", server, 53);
        let pod_address = if server.contains(':') { POD_V6 } else { POD_V4 };
        // A look-up, one that is denied and asked once more in lower case, and the query that is passed on.
        let cache = thread::spawn(move || {
            let mut asked_by = Vec::new();
            while asked_by.last().is_none_or(|last| last != pod_address) {
                let (query, from) = receive(&cache).unwrap();
                cache.send_to(&cluster_dns(&query), from).unwrap();
                asked_by.push(from.ip().to_string());
            }
            asked_by
        });
        let pod = lab.socket("pod", pod_address, POD_PORT);
        pod.connect(SocketAddr::new(server.parse().unwrap(), 53))
            .unwrap();

        let queries = [
            dns_query(1, "lkc-1.managed.foo.svc.cluster.local"),
            dns_query(2, "lkc-1.managed.foo.svc.cluster.local"),
            dns_query(3, "lkc-1.managed.bar.svc.cluster.local"),
        ];
        let frames = queries.each_ref().map(|query| lab.query(server, query));
        let injector = lab.injector();
        let (rules, pod) = (rules.clone(), &pod);
        let replies = lab.enter("node", move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let source = DnsSource::new(PATIENCE);
                let responder = Responder::new(
                    ResponderOptions::default(),
                    source,
                    injector,
                    Arc::default(),
                );
                let responder = Arc::new(responder);
                let mut replies = Vec::new();
                for frame in frames {
                    responder.handle(Intercepted {
                        client: None,
                        held: None,
                        ifindex: frame.ifindex,
                        rule: 0,
                        rules: rules.clone(),
                        answers: Arc::new(NoProgram),
                        is_answered: false,
                        vlan: None,
                        reinjection: frame.reinjection,
                        l3_offset: frame.l3_offset,
                        frame: frame.frame,
                    });
                    responder.drained().await;
                    replies.push(receive(pod).unwrap().0);
                }
                replies
            })
        });
        for (reply, rcode) in replies.iter().zip([0, 0, 5]) {
            assert_eq!(reply[3] & 0xf, rcode, "{server}: {reply:02x?}");
        }
        assert_eq!([replies[0][1], replies[1][1], replies[2][1]], [1, 2, 3]);
        assert!(replies[0].ends_with(&[0, 4, 10, 0, 0, 99]));
        assert!(replies[1].ends_with(&[0, 4, 10, 0, 0, 99]));

        // The second query was answered from the cache; the one passed on came from the pod.
        let asked_by = cache.join().unwrap();
        assert_eq!(asked_by.len(), 4, "{asked_by:?}");
    }
}

/// A program that keeps no answers.
#[derive(Debug)]
struct NoProgram;

impl Publish for NoProgram {
    fn key(&self, _: u64, _: u16, _: IpAddr, _: &[String], _: u32) -> Option<answer::Key> {
        None
    }

    fn last_good(&self, _: &answer::Key) -> LastGood {
        LastGood::default()
    }

    fn answer(&self, _: u32, _: &answer::Key, _: &answer::Body, _: &Term) {}

    fn no_target(&self, _: u32, _: &answer::Key, _: Duration) {}

    fn withdraw(&self, _: &answer::Key) {}

    fn withdraw_changed(&self, _: &Changes, _: &dyn Fn(&[Name], &PublishedEntry<'_>) -> bool) {}
}
