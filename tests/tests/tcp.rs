//! TCP: a client that gets TC=1 gets the whole answer, everything else over TCP reaches the existing cache, and with
//! the responder dead, hung or switched off, all of it does.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    DOCUMENTED_CAPABILITIES, Metrics, REPLY, Wire, addresses, exchange_from, large_world,
    many_addresses, of_family, programs_on, qualified, sorted, until, world_with,
};
use gregor_tests::{
    lab::{
        Ask, CacheKind, Gregor, Lab, Pod, Transport,
        world::{BROKER, CLUSTER_DNS_V4, FOREIGN, FOREIGN_ADDRESSES, NODE_LOCAL_V4, NODE_LOCAL_V6},
    },
    packets::{
        loaded::{Loaded, compile, options},
        table::SEVERAL,
    },
    tools,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
const CACHE_V6: IpAddr = IpAddr::V6(NODE_LOCAL_V6);
const CLUSTER: IpAddr = IpAddr::V4(CLUSTER_DNS_V4);

fn lab(cache: CacheKind) -> Lab {
    Lab::builder("e2etcp")
        .pod("foo")
        .pod("bar")
        .cache(cache)
        .world(large_world())
        .start()
        .unwrap()
}

fn start(lab: &Lab, mode: &str) -> Gregor {
    let config = lab
        .gregor_config()
        .replace("[intercept]\n", &format!("[intercept]\ntcp = \"{mode}\"\n"));
    lab.start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap()
}

fn parsed(message: &[u8]) -> Message {
    Message::from_vec(message).unwrap()
}

/// Asks over UDP without EDNS: the answer that does not fit.
fn over_udp(pod: &Pod, server: IpAddr, qtype: RecordType) -> Message {
    let (query, _) = Wire::new(&qualified("foo"), qtype).bytes();
    parsed(&exchange_from(pod, server, &query).unwrap())
}

fn over_tcp(pod: &Pod, server: IpAddr, name: &str, qtype: RecordType) -> Message {
    let mut ask = Ask::new(server, name, qtype);
    ask.transport = Transport::Tcp;
    ask.timeout = REPLY;
    pod.ask(ask).unwrap()
}

/// What the existing cache says to a matching name without gregor: there is no such name.
fn is_the_caches(reply: &Message) -> bool {
    reply.metadata.response_code == ResponseCode::NXDomain && reply.answers.is_empty()
}

fn connections(gregor: &Gregor) -> f64 {
    Metrics::of(gregor).get("gregor_tcp_connections_total")
}

fn queries(gregor: &Gregor, result: &str) -> f64 {
    Metrics::of(gregor).get(&format!(r#"gregor_tcp_queries_total{{result="{result}"}}"#))
}

/// Sends TC=1 to a client.
fn truncate(pod: &Pod, server: IpAddr, qtype: RecordType) {
    let reply = over_udp(pod, server, qtype);
    assert!(reply.metadata.truncation, "{reply}");
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert!(!addresses(&reply).is_empty(), "what fits is there");
}

/// A stream in a pod, driven from the test.
struct Stream(TcpStream);

impl Stream {
    fn open(pod: &Pod, server: IpAddr) -> Self {
        let stream = pod
            .netns()
            .enter(move || TcpStream::connect_timeout(&SocketAddr::new(server, 53), REPLY))
            .unwrap()
            .unwrap();
        stream.set_read_timeout(Some(REPLY)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream)
    }

    /// A connection of a client that got TC=1, steered.
    fn open_steered(pod: &Pod, server: IpAddr, gregor: &Gregor) -> Self {
        until("a connection is steered", || {
            let before = connections(gregor);
            truncate(pod, server, RecordType::A);
            let mut stream = Self::open(pod, server);
            let (query, _) = Wire::new(FOREIGN, RecordType::A).bytes();
            stream.send(&[query]);
            stream.receive().unwrap();
            (connections(gregor) > before).then_some(stream)
        })
    }

    fn send(&mut self, messages: &[Vec<u8>]) {
        let framed: Vec<u8> = messages
            .iter()
            .flat_map(|message| framed(message))
            .collect();
        self.0.write_all(&framed).unwrap();
    }

    fn receive(&mut self) -> std::io::Result<Vec<u8>> {
        let mut length = [0; 2];
        self.0.read_exact(&mut length)?;
        let mut message = vec![0; u16::from_be_bytes(length).into()];
        self.0.read_exact(&mut message)?;
        Ok(message)
    }

    /// Whether the other end closes it before it sends anything more.
    fn is_closed(&mut self) -> bool {
        self.0
            .set_read_timeout(Some(Duration::from_secs(30)))
            .unwrap();
        match self.0.read(&mut [0; 1]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => !matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ),
        }
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&(message.len() as u16).to_be_bytes()[..], message].concat()
}

#[test]
fn the_sk_lookup_program_is_small() {
    let mut loaded = Loaded::new(&options(compile(SEVERAL))).unwrap();
    let interception = loaded.datapath.summary().unwrap();
    let steering = loaded.datapath.steering_summary().unwrap();
    assert_ne!(steering.id, interception.id);
    let verified = steering.verified_instructions;
    assert!((100..5_000).contains(&verified), "{verified}");
    assert!(!loaded.datapath.is_steering(), "attached to nothing yet");
}

#[test]
fn a_truncated_answer_is_complete_over_tcp() {
    let lab = lab(CacheKind::Embedded);
    let gregor = start(&lab, "after-truncation");
    let foo = lab.pod("foo");
    for server in [CACHE, CACHE_V6] {
        for (qtype, v4) in [(RecordType::A, true), (RecordType::AAAA, false)] {
            let before = (connections(&gregor), queries(&gregor, "answered"));
            truncate(foo, server, qtype);
            let whole = over_tcp(foo, server, &qualified("foo"), qtype);
            assert!(!whole.metadata.truncation);
            assert_eq!(addresses(&whole), of_family(v4), "{server} {qtype}");
            assert_eq!(connections(&gregor), before.0 + 1.0);
            assert_eq!(queries(&gregor, "answered"), before.1 + 1.0);
        }
    }
    // With EDNS, sixty A fit and forty AAAA do not.
    for (qtype, truncated) in [(RecordType::A, false), (RecordType::AAAA, true)] {
        let mut ask = Ask::new(CACHE, &qualified("foo"), qtype);
        ask.edns = Some(1232);
        let reply = foo.ask(ask).unwrap();
        assert_eq!(reply.metadata.truncation, truncated, "{qtype}");
    }
    // libc does all of that by itself.
    assert_eq!(foo.getent(BROKER).unwrap(), sorted(many_addresses()));
    assert!(
        lab.cache()
            .asked()
            .iter()
            .all(|asked| !asked.qname.starts_with("lkc-1."))
    );

    let status = gregor.status_text(&[]).unwrap();
    assert!(status.contains("tcp (after-truncation)"), "{status}");
    assert!(
        status.contains(&format!("local servers          {CACHE}")),
        "{status}"
    );
    let check = gregor
        .command(&["check", "--config", gregor.config_path().to_str().unwrap()])
        .unwrap();
    let check = String::from_utf8_lossy(&check.stdout).into_owned();
    for (server, place) in [
        (CACHE, "local to the node"),
        (CLUSTER, "not local to the node"),
    ] {
        let line = check
            .lines()
            .find(|line| line.contains(&format!("tcp {server} ")))
            .unwrap_or_else(|| panic!("{check}"));
        assert!(line.contains(place), "{line}");
    }
}

/// CAP_SYS_ADMIN is not among them: links are kept by the descriptor that made them, and never opened by their id.
#[test]
fn documented_capabilities_are_enough_to_steer() {
    for hook in ["tcx", "clsact"] {
        let lab = lab(CacheKind::Embedded);
        let config = lab.gregor_config().replace(
            "[intercept]\n",
            &format!("[intercept]\nhook = \"{hook}\"\n"),
        );
        let binary = e2e::gregor_with(&lab, DOCUMENTED_CAPABILITIES);
        let gregor = lab.start_gregor(&binary, &config).unwrap();
        let status =
            fs::read_to_string(format!("/proc/{}/status", gregor.process().pid())).unwrap();
        assert!(
            status.contains("CapBnd:\t000000c000003000\n"),
            "bpf, perfmon, net_admin, net_raw:\n{status}"
        );
        let foo = lab.pod("foo");
        let steers = || {
            let before = connections(&gregor);
            truncate(foo, CACHE, RecordType::A);
            let whole = over_tcp(foo, CACHE, &qualified("foo"), RecordType::A);
            assert_eq!(addresses(&whole), of_family(true));
            assert_eq!(connections(&gregor), before + 1.0);
        };
        steers();
        // The programs of a reload take the places of those before them.
        gregor.signal(Signal::SIGHUP);
        until("the reload", || {
            gregor.log().contains("is in force").then_some(())
        });
        steers();
        let log = gregor.log();
        assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
        if hook == "tcx" {
            assert_eq!(programs_on(&lab, &foo.host_interface), ["gregor"]);
        }
        assert!(gregor.stop().unwrap().success());
        assert!(programs_on(&lab, &foo.host_interface).is_empty());
        assert!(is_the_caches(&over_tcp(
            foo,
            CACHE,
            &qualified("foo"),
            RecordType::A
        )));
    }
}

/// On one connection: what a rule matches, what none does, what has no target, with IDs that meet.
#[test]
fn pipelined_questions_are_answered_or_relayed() {
    for cache in [CacheKind::Embedded, CacheKind::CoreDns { template: false }] {
        let lab = lab(cache);
        let gregor = start(&lab, "after-truncation");
        let foo = lab.pod("foo");
        for server in [CACHE, CACHE_V6] {
            truncate(foo, server, RecordType::A);
            lab.cache().forget();
            let mut stream = Stream::open(foo, server);
            let mut sent = Vec::new();
            for round in 0..6 {
                for (kind, name, qtype) in [
                    (0, FOREIGN.to_owned(), RecordType::A),
                    (1, qualified("foo"), RecordType::A),
                    (2, FOREIGN.to_owned(), RecordType::AAAA),
                    (3, qualified("baz"), RecordType::A),
                ] {
                    let (mut query, question) = Wire::new(&name, qtype).bytes();
                    // The relayed ones of two rounds share their IDs.
                    query[..2].copy_from_slice(&[kind, round / 2]);
                    sent.push((kind, query[12..question].to_vec(), query));
                }
            }
            let queries: Vec<Vec<u8>> = sent.iter().map(|(_, _, query)| query.clone()).collect();
            stream.send(&queries);
            let mut missing = sent;
            while !missing.is_empty() {
                let reply = stream.receive().unwrap();
                let at = missing
                    .iter()
                    .position(|(_, question, query)| {
                        query[..2] == reply[..2] && reply[12..].starts_with(question)
                    })
                    .unwrap_or_else(|| panic!("a reply to nothing: {:?}", parsed(&reply)));
                let (kind, ..) = missing.remove(at);
                let reply = parsed(&reply);
                match kind {
                    0 => assert_eq!(addresses(&reply), [FOREIGN_ADDRESSES[0]]),
                    1 => assert_eq!(addresses(&reply), of_family(true)),
                    2 => assert_eq!(addresses(&reply), [FOREIGN_ADDRESSES[1]]),
                    _ => assert!(is_the_caches(&reply), "{reply}"),
                }
            }
            // Some caches write their log after the reply.
            let seen = |name: &str| {
                let asked = lab.cache().asked();
                let name = format!("{name}.");
                asked.iter().filter(|asked| asked.qname == name).count()
            };
            for (name, count) in [(FOREIGN.to_owned(), 12), (qualified("baz"), 6)] {
                until(&format!("{cache:?} lists {name}"), || {
                    (seen(&name) >= count).then_some(())
                });
                assert_eq!(seen(&name), count);
            }
            assert_eq!(seen(&qualified("foo")), 0);
        }
        assert_eq!(self::queries(&gregor, "lost"), 0.0);
    }
}

/// Replies of the cache are relayed unchanged, whatever they are.
#[test]
fn relayed_messages_are_the_caches_byte_for_byte() {
    let lab = lab(CacheKind::CoreDns { template: false });
    let gregor = start(&lab, "always");
    let foo = lab.pod("foo");
    let node = lab.node();
    let cases = [
        Wire::new(FOREIGN, RecordType::A),
        Wire::new(FOREIGN, RecordType::AAAA).edns(0),
        Wire::new("wWw.eXaMpLe.CoM", RecordType::TXT),
        // MAILB, a meta type: not for gregor.
        Wire::new(&qualified("foo"), RecordType::Unknown(253)),
        Wire::new(&qualified("foo"), RecordType::A).edns(1),
        Wire::new(&qualified("foo"), RecordType::A).class(3),
        Wire::new(&qualified("baz"), RecordType::AAAA),
        Wire::new("", RecordType::NS),
    ];
    for case in cases {
        let (query, _) = case.bytes();
        let direct = {
            let query = query.clone();
            // From the node itself: never steered.
            move || {
                node.enter(move || tcp_exchange(CACHE, &query, REPLY))
                    .unwrap()
            }
        };
        let relayed = {
            let query = query.clone();
            foo.netns()
                .enter(move || tcp_exchange(CACHE, &query, REPLY))
                .unwrap()
        };
        let expected = direct();
        assert!(expected.is_some());
        let bare = |reply: Option<Vec<u8>>| reply.map(|r| e2e::without_id_and_ttls(&r));
        assert_eq!(bare(relayed.clone()), bare(expected), "{case:?}");
        assert_eq!(relayed.unwrap()[..2], query[..2]);
    }
    assert_eq!(connections(&gregor), 8.0);
    assert_eq!(queries(&gregor, "relayed"), 8.0);

    // ANY is answered with the CNAME alone (RFC 8482 §4.1).
    let (query, _) = Wire::new(&qualified("foo"), RecordType::ANY).bytes();
    let exchange = move || tcp_exchange(CACHE, &query, REPLY);
    let reply = parsed(&foo.netns().enter(exchange).unwrap().unwrap());
    let target = "kafka-upstream.foo.svc.cluster.local.".to_owned();
    assert_eq!(
        e2e::chain(&reply),
        [(format!("{}.", qualified("foo")), target)]
    );
    assert_eq!((reply.answers.len(), reply.authorities.len()), (1, 0));
}

fn tcp_exchange(server: IpAddr, message: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(server, 53), REPLY).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(&framed(message)).ok()?;
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut reply = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut reply).ok()?;
    Some(reply)
}

/// A client over its rate still gets cached answers.
#[test]
fn over_the_rate_of_tcp_cached_answers_are_served() {
    let lab = lab(CacheKind::Embedded);
    let config = format!(
        "{}[limits]\nqueries_per_second = 1\nburst = 1\n",
        lab.gregor_config()
            .replacen("[intercept]\n", "[intercept]\ntcp = \"always\"\n", 1)
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let name = qualified("foo");
    for round in 0..30 {
        let whole = over_tcp(lab.pod("foo"), CACHE, &name, RecordType::A);
        assert_eq!(addresses(&whole).len(), 60, "{round}: {whole}");
    }
    assert_eq!(queries(&gregor, "relayed"), 0.0);
}

/// Only a client that got TC=1 is steered, and only for a while; an open connection is not torn down by that.
#[test]
fn one_client_is_steered_for_a_few_seconds() {
    let lab = lab(CacheKind::Embedded);
    let gregor = start(&lab, "after-truncation");
    let name = qualified("foo");
    let (query, _) = Wire::new(&name, RecordType::A).bytes();
    for server in [CACHE, CACHE_V6] {
        let ask = |pod: &str| over_tcp(lab.pod(pod), server, &name, RecordType::A);
        // Its answer is cached by now, but no client got TC=1.
        assert!(is_the_caches(&ask("bar")));
        let mut stream = Stream::open_steered(lab.pod("foo"), server, &gregor);
        assert!(is_the_caches(&ask("bar")), "another client");
        until("the window ends", || {
            stream.send(std::slice::from_ref(&query));
            assert_eq!(addresses(&parsed(&stream.receive().unwrap())).len(), 60);
            is_the_caches(&ask("foo")).then_some(())
        });
        stream.send(std::slice::from_ref(&query));
        assert_eq!(addresses(&parsed(&stream.receive().unwrap())).len(), 60);
    }
}

#[test]
fn without_a_responder_tcp_reaches_the_cache() {
    let lab = lab(CacheKind::Embedded);
    let foo = lab.pod("foo");
    let name = qualified("foo");
    for mode in ["after-truncation", "always"] {
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            let gregor = start(&lab, mode);
            truncate(foo, CACHE, RecordType::A);
            let whole = over_tcp(foo, CACHE, &name, RecordType::A);
            assert_eq!(addresses(&whole).len(), 60);
            gregor.signal(signal);
            if signal == Signal::SIGKILL {
                until("it is gone", || gregor.process().exited());
            }
            // A hung one shows after its deadline; connections before that wait for it and time out.
            for server in [CACHE, CACHE_V6] {
                // A signal takes a moment to stop every thread.
                until(&format!("{mode} {signal}: TCP is the cache's"), || {
                    let (query, _) = Wire::new(&name, RecordType::A).bytes();
                    let exchange = move || tcp_exchange(server, &query, Duration::from_secs(2));
                    let reply = foo.netns().enter(exchange).unwrap()?;
                    is_the_caches(&parsed(&reply)).then_some(())
                });
            }
            if signal == Signal::SIGSTOP {
                gregor.signal(Signal::SIGCONT);
                until("it steers again", || {
                    let reply = over_udp(foo, CACHE, RecordType::A);
                    reply.metadata.truncation.then_some(())
                });
                let whole = over_tcp(foo, CACHE, &name, RecordType::A);
                assert_eq!(addresses(&whole).len(), 60);
                assert!(gregor.stop().unwrap().success());
                assert!(is_the_caches(&over_tcp(foo, CACHE, &name, RecordType::A)));
            }
        }
    }
}

#[test]
fn an_answer_of_tens_of_kilobytes_is_complete_over_tcp() {
    // The lab's servers do not compress the owners: these fill most of a message.
    let foo: Vec<IpAddr> = (0..700u16)
        .map(|number| {
            let [high, low] = number.to_be_bytes();
            IpAddr::from([10, 11, high, low])
        })
        .collect();
    let lab = Lab::builder("e2etcplarge")
        .pod("foo")
        .cache(CacheKind::Embedded)
        .world(world_with(foo.clone()))
        .start()
        .unwrap();
    let _gregor = start(&lab, "after-truncation");
    let pod = lab.pod("foo");
    truncate(pod, CACHE, RecordType::A);
    let whole = over_tcp(pod, CACHE, &qualified("foo"), RecordType::A);
    assert_eq!(addresses(&whole), sorted(foo));
}

#[test]
fn with_tcp_never_or_a_remote_server_the_answer_has_what_fits() {
    let lab = lab(CacheKind::Embedded);
    let foo = lab.pod("foo");
    let name = qualified("foo");
    let gregor = start(&lab, "never");
    for server in [CACHE, CACHE_V6] {
        let reply = over_udp(foo, server, RecordType::A);
        assert!(!reply.metadata.truncation);
        assert!(addresses(&reply).len() > 10);
        assert!(is_the_caches(&over_tcp(foo, server, &name, RecordType::A)));
    }
    assert_eq!(connections(&gregor), 0.0);
    assert!(gregor.stop().unwrap().success());

    for mode in ["after-truncation", "always"] {
        let gregor = start(&lab, mode);
        let reply = over_udp(foo, CLUSTER, RecordType::A);
        assert!(!reply.metadata.truncation, "{mode}");
        assert!(addresses(&reply).len() > 10);
        assert!(is_the_caches(&over_tcp(foo, CLUSTER, &name, RecordType::A)));
        assert_eq!(connections(&gregor), 0.0);
        assert!(gregor.stop().unwrap().success());
    }
}

/// Which servers are local is noticed as it changes.
#[test]
fn answers_of_an_address_that_leaves_the_node_are_not_truncated() {
    let lab = lab(CacheKind::Embedded);
    let gregor = start(&lab, "after-truncation");
    let foo = lab.pod("foo");
    let locals = || {
        let status = gregor.status().unwrap();
        status["tcp"]["local_servers"].as_array().unwrap().len()
    };
    assert_eq!(locals(), 2);
    let gives_what_fits = || {
        let reply = over_udp(foo, CLUSTER, RecordType::A);
        assert!(addresses(&reply).len() > 10, "{reply}");
        !reply.metadata.truncation
    };
    assert!(gives_what_fits());
    // What is kept is the same; only the place of the address changes.
    lab.node()
        .ip(&format!("addr add {CLUSTER}/32 dev nodelocaldns\n"))
        .unwrap();
    until("the cluster's address is local", || {
        (locals() == 3).then_some(())
    });
    assert!(!gives_what_fits());
    lab.node()
        .ip(&format!("addr del {CLUSTER}/32 dev nodelocaldns\n"))
        .unwrap();
    until("it is not", || (locals() == 2).then_some(()));
    assert!(gives_what_fits());
}

#[test]
fn always_answers_pods_and_never_the_node() {
    let lab = lab(CacheKind::Embedded);
    let gregor = start(&lab, "always");
    for server in [CACHE, CACHE_V6] {
        for pod in ["foo", "bar"] {
            let whole = over_tcp(lab.pod(pod), server, &qualified("foo"), RecordType::A);
            assert_eq!(addresses(&whole).len(), 60, "{pod} {server}");
        }
        let before = connections(&gregor);
        let mut ask = Ask::new(server, &qualified("foo"), RecordType::A);
        ask.transport = Transport::Tcp;
        let own = lab.node().enter(move || ask.send()).unwrap().unwrap();
        assert!(is_the_caches(&own), "{own}");
        // Also from another of its addresses.
        let from: SocketAddr = match server {
            IpAddr::V4(_) => "10.244.1.1:0".parse().unwrap(),
            IpAddr::V6(_) => "[fd00:244:1::1]:0".parse().unwrap(),
        };
        let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
        let own = lab
            .node()
            .enter(move || bound_exchange(from, server, &query))
            .unwrap();
        assert!(is_the_caches(&parsed(&own)));
        assert_eq!(connections(&gregor), before, "{server}");
    }
    // The listener itself serves no connection that was not steered.
    let ports = lab
        .node()
        .enter(|| std::fs::read_to_string("/proc/thread-self/net/tcp").unwrap())
        .unwrap();
    let port = ports
        .lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            let (local, _, state) = (words.next()?, words.next()?, words.next()?);
            let port = local.strip_prefix("0100007F:")?;
            (state == "0A").then(|| u16::from_str_radix(port, 16).unwrap())
        })
        .find(|port| *port != 9753)
        .expect("a listener on 127.0.0.1");
    let closed = lab
        .node()
        .enter(move || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            stream.set_read_timeout(Some(REPLY)).unwrap();
            matches!(stream.read(&mut [0]), Ok(0))
        })
        .unwrap();
    assert!(closed);
}

fn bound_exchange(from: SocketAddr, server: IpAddr, query: &[u8]) -> Vec<u8> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let stream = runtime.block_on(async {
        let socket = match from {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4().unwrap(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6().unwrap(),
        };
        socket.bind(from).unwrap();
        socket
            .connect((server, 53).into())
            .await
            .unwrap()
            .into_std()
            .unwrap()
    });
    stream.set_nonblocking(false).unwrap();
    let mut stream = Stream(stream);
    stream.0.set_read_timeout(Some(REPLY)).unwrap();
    stream.send(&[query.to_vec()]);
    stream.receive().unwrap()
}

/// Half a message, one byte at a time, wrong lengths, too many connections: each harms its own client at most, and the others
/// are answered meanwhile.
#[test]
fn hostile_clients_harm_only_themselves() {
    let lab = lab(CacheKind::Embedded);
    let gregor = start(&lab, "always");
    let (foo, bar) = (lab.pod("foo"), lab.pod("bar"));
    let name = qualified("foo");
    let (query, _) = Wire::new(&name, RecordType::A).bytes();

    // A message shorter than a header is none.
    for length in [0u8, 1, 11] {
        let mut stream = Stream::open(foo, CACHE);
        stream
            .0
            .write_all(&[&[0, length][..], &[7; 11]].concat())
            .unwrap();
        assert!(stream.is_closed(), "{length}");
    }
    // Garbage of the right length is the cache's.
    let mut garbage = Stream::open(foo, CACHE);
    garbage.send(&[vec![0xff; 40], query.clone()]);
    assert_eq!(addresses(&parsed(&garbage.receive().unwrap())).len(), 60);

    // Half a message, and nothing: closed after a while. One byte at a time never gets there.
    let mut half = Stream::open(foo, CACHE);
    half.0.write_all(&framed(&query)[..10]).unwrap();
    let mut silent = Stream::open(foo, CACHE);
    let mut slow = Stream::open(foo, CACHE);
    let (done, dripped) = mpsc::channel();
    let drip = thread::spawn(move || {
        let started = Instant::now();
        for byte in [&[0xff, 0xff][..], &[0; 60_000]].concat() {
            if slow.0.write_all(&[byte]).is_err() || started.elapsed() > Duration::from_secs(30) {
                break;
            }
            thread::sleep(Duration::from_millis(50));
        }
        done.send(started.elapsed()).unwrap();
    });
    // As many connections as there may be, and then some.
    let mut many: Vec<Stream> = (0..100).map(|_| Stream::open(foo, CACHE)).collect();
    until("the surplus is closed", || {
        (Metrics::of(&gregor).get("gregor_tcp_connections_refused_total") >= 60.0).then_some(())
    });
    // One that asks and never reads.
    let mut deaf = Stream::open(bar, CACHE);
    deaf.0
        .set_write_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let flood = framed(&query).repeat(2000);
    let deaf = thread::spawn(move || {
        // Ends with an error once it is closed.
        while deaf.0.write_all(&flood).is_ok() {}
        true
    });
    for _ in 0..20 {
        let whole = over_tcp(bar, CACHE, &name, RecordType::A);
        assert_eq!(addresses(&whole).len(), 60, "others are served");
    }
    assert!(half.is_closed() && silent.is_closed());
    let took = dripped.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(
        took < Duration::from_secs(30),
        "a dripping client was kept for {took:?}"
    );
    drip.join().unwrap();
    assert!(deaf.join().unwrap());
    assert!(many.iter_mut().all(Stream::is_closed));
    drop(garbage);
    until("none is open", || {
        (Metrics::of(&gregor).get("gregor_tcp_connections_open") == 0.0).then_some(())
    });
    let whole = over_tcp(foo, CACHE, &name, RecordType::A);
    assert_eq!(
        addresses(&whole).len(),
        60,
        "and so is it, afterwards: {whole}\n{}\n{}",
        gregor.status().unwrap(),
        gregor.log()
    );
    assert_eq!(Metrics::of(&gregor).get("gregor_panics_total"), 0.0);
}

/// Without a server at the address, a connection ends as it would without gregor.
/// A process on the node finds the listener's port: it gets nothing there.
#[test]
fn a_connection_to_the_listener_itself_is_closed() {
    let lab = lab(CacheKind::Embedded);
    let gregor = start(&lab, "always");
    let table = fs::read_to_string(format!("/proc/{}/net/tcp", gregor.process().pid())).unwrap();
    let listens_on_loopback = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (address, port) = fields[1].split_once(':')?;
        (address == "0100007F" && fields[3] == "0A").then(|| u16::from_str_radix(port, 16).unwrap())
    };
    let ports: Vec<u16> = table
        .lines()
        .skip(1)
        .filter_map(listens_on_loopback)
        .collect();
    let refused = || Metrics::of(&gregor).get("gregor_tcp_connections_refused_total");
    let before = refused();
    let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
    let mut closed = 0;
    for port in ports {
        let question = framed(&query);
        let received = lab.node().enter(move || {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            let _ = stream.write_all(&question);
            let mut received = Vec::new();
            // Closed with bytes that nobody has read: a reset.
            let _ = stream.read_to_end(&mut received);
            received
        });
        closed += usize::from(received.unwrap().is_empty());
    }
    assert_eq!(closed, 1, "the listener for IPv4; the pages answer");
    assert_eq!(refused(), before + 1.0);
}

#[test]
fn a_relay_without_a_server_closes() {
    let lab = lab(CacheKind::None);
    let config = lab
        .gregor_config()
        .replace("[intercept]\n", "[intercept]\ntcp = \"always\"\n")
        + "\n[upstream]\nserver = \"172.20.0.10\"\n";
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    for server in [CACHE, CACHE_V6] {
        let mut stream = Stream::open(lab.pod("foo"), server);
        let (matching, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
        stream.send(&[matching]);
        assert_eq!(addresses(&parsed(&stream.receive().unwrap())).len(), 60);
        let (foreign, _) = Wire::new(FOREIGN, RecordType::A).bytes();
        stream.send(&[foreign]);
        assert!(stream.is_closed());
    }
    assert_eq!(queries(&gregor, "lost"), 2.0);
}

/// A reload leaves connections and recorded clients alone, and changes what is answered and whether connections are steered.
#[test]
fn reloads() {
    let lab = lab(CacheKind::Embedded);
    let gregor = start(&lab, "after-truncation");
    let foo = lab.pod("foo");
    let name = qualified("foo");
    let config = std::fs::read_to_string(gregor.config_path()).unwrap();
    let loads = || Metrics::of(&gregor).get(r#"gregor_config_loads_total{result="success"}"#);
    let reload = |text: &str| {
        let before = loads();
        gregor.write_config(text).unwrap();
        until("the reload", || (loads() > before).then_some(()));
    };
    let (query, _) = Wire::new(&name, RecordType::A).bytes();
    let mut stream = Stream::open_steered(foo, CACHE, &gregor);
    let mut steered = 0;
    until(
        "five reloads within the time that a client is steered",
        || {
            truncate(foo, CACHE, RecordType::A);
            let recorded = Instant::now();
            reload(&format!("{config}\n# {steered} {recorded:?}\n"));
            let reply = over_tcp(foo, CACHE, &name, RecordType::A);
            if recorded.elapsed() < Duration::from_secs(4) {
                assert_eq!(addresses(&reply).len(), 60, "recorded before the reload");
                steered += 1;
            }
            stream.send(std::slice::from_ref(&query));
            assert_eq!(addresses(&parsed(&stream.receive().unwrap())).len(), 60);
            (steered == 5).then_some(())
        },
    );

    reload(&config.replace("after-truncation", "never"));
    let reply = over_udp(foo, CACHE, RecordType::A);
    assert!(!reply.metadata.truncation);
    assert!(is_the_caches(&over_tcp(foo, CACHE, &name, RecordType::A)));
    reload(&config.replace("after-truncation", "always"));
    let whole = over_tcp(lab.pod("bar"), CACHE_V6, &name, RecordType::A);
    assert_eq!(addresses(&whole).len(), 60);
    reload(&config);
    assert!(is_the_caches(&over_tcp(
        lab.pod("bar"),
        CACHE_V6,
        &name,
        RecordType::A
    )));
    truncate(foo, CACHE, RecordType::A);
    assert_eq!(
        addresses(&over_tcp(foo, CACHE, &name, RecordType::A)).len(),
        60
    );

    // Another rule set: no rule matches the name now.
    reload(
        &config
            .replace("*.aws.private", "*.other.private")
            .replace("after-truncation", "always"),
    );
    assert!(is_the_caches(&over_tcp(foo, CACHE, &name, RecordType::A)));
}

/// A cache that binds its port with SO_REUSEPORT alone finds it free, also beside connections that are steered.
#[test]
fn a_cache_may_bind_beside_steered_connections() {
    let lab = lab(CacheKind::None);
    let gregor = start(&lab, "always");
    let stream = Stream::open(lab.pod("foo"), CACHE);
    until("the connection is gregor's", || {
        (connections(&gregor) == 1.0).then_some(())
    });
    let bind = |with: fn(&socket2::Socket) -> std::io::Result<()>| {
        let bound = move || {
            let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
            with(&socket)?;
            socket.bind(&SocketAddr::new(CACHE, 53).into())?;
            socket.listen(1)
        };
        lab.node().enter(bound).unwrap()
    };
    bind(|socket| socket.set_reuse_port(true)).unwrap();
    bind(|socket| socket.set_reuse_address(true)).unwrap();
    // Neither is what a cache does, and shows that the connection is in the way.
    assert!(bind(|_| Ok(())).is_err());
    drop(stream);
}
