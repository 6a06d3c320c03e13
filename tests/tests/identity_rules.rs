//! Rules that know who asks: from pods whose namespaces and labels a static file says, by unmodified names, with what the
//! programs have answered before, over changes, restarts, and what a hostile pod tries.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
    time::Duration,
};

use e2e::pods::{Pods, known};
use e2e::{
    Metrics, Wire, addresses, chain, exchange, exchange_from, exchange_tcp, exchange_within,
    large_world, loads, of_family, qualified, reload, sorted, until, until_the_programs_answer,
};
use gregor_tests::{
    lab::{
        Ask, CacheKind, Gregor, Lab, Pod, Transport,
        world::{
            BAR_ADDRESSES, BAR_ENDPOINT, BROKER, FOO_ADDRESSES, NODE_LOCAL_V4, NODE_LOCAL_V6,
            PUBLIC_ADDRESS,
        },
    },
    tools,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);

/// The provider's own names, for whoever has a Service.
const UNMODIFIED: &str = r#"
[[rule]]
name  = "unmodified"
match = "*.aws.private.kafka.managed"
cname = "kafka-upstream.{client.namespace}.svc.cluster.local"
"#;

fn ask(pod: &Pod, name: &str) -> Message {
    pod.ask(Ask::new(CACHE, name, RecordType::A)).unwrap()
}

/// The IPv4 addresses that a pod gets for a name; none for a denial.
fn gets(pod: &Pod, name: &str) -> Vec<IpAddr> {
    addresses(&ask(pod, name))
}

fn v4_of(endpoint: [IpAddr; 3]) -> Vec<IpAddr> {
    sorted(endpoint.into_iter().filter(IpAddr::is_ipv4))
}

fn start(lab: &Lab, pods: &Pods, rules: &str) -> Gregor {
    let config = format!("{}{rules}{}", lab.gregor_config(), pods.config());
    start_with(lab, &config)
}

/// The same with a whole configuration.
fn start_with(lab: &Lab, config: &str) -> Gregor {
    let gregor = lab.start_gregor(&tools::gregor().unwrap(), config).unwrap();
    known(&gregor, lab);
    gregor
}

#[test]
fn unmodified_names_lead_to_the_pods_own_endpoint() {
    let lab = Lab::builder("e2eown")
        .pod("foo")
        .pod("bar")
        .pod("baz")
        .pod("stranger")
        .start()
        .unwrap();
    let [foo, bar, baz, stranger] = ["foo", "bar", "baz", "stranger"].map(|name| lab.pod(name));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}"), (baz, "{}")]);
    let gregor = start(&lab, &pods, UNMODIFIED);

    let everybody = || {
        [
            (foo, v4_of(FOO_ADDRESSES)),
            (bar, v4_of(BAR_ADDRESSES)),
            // Without a Service, and without being known.
            (baz, vec![PUBLIC_ADDRESS]),
            (stranger, vec![PUBLIC_ADDRESS]),
        ]
    };
    for (pod, expected) in everybody() {
        let before = Metrics::of(&gregor).requests();
        assert_eq!(gets(pod, BROKER), expected, "{}", pod.namespace);
        assert_eq!(Metrics::of(&gregor).requests(), before + 1.0, "one query");
    }
    assert!(Metrics::of(&gregor).passed("unknown_client") >= 1.0);
    let reply = ask(foo, BROKER);
    assert_eq!(chain(&reply)[0].0, format!("{BROKER}."));

    // The same from the kernel, and over IPv6.
    for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
        until_the_programs_answer(&gregor, &pod.namespace, |_| {
            assert_eq!(gets(pod, BROKER), v4_of(endpoint));
        });
    }
    for (pod, expected) in everybody() {
        assert_eq!(gets(pod, BROKER), expected, "{}", pod.namespace);
        let v6 = pod.ask(Ask::new(NODE_LOCAL_V6.into(), BROKER, RecordType::A));
        assert_eq!(addresses(&v6.unwrap()), expected, "{}", pod.namespace);
        // Whoever goes on to TCP gets what he got without gregor.
        let (query, _) = Wire::new(BROKER, RecordType::A).bytes();
        let reply = exchange_tcp(pod, CACHE, &query).unwrap();
        let reply = Message::from_vec(&reply).unwrap();
        assert_eq!(addresses(&reply), [PUBLIC_ADDRESS], "over TCP");
    }
    // As programs ask, with the pod's own resolv.conf.
    assert_eq!(
        foo.getent(&format!("{BROKER}.")).unwrap(),
        v4_of(FOO_ADDRESSES)
    );
}

#[test]
fn a_namespace_is_asked_about_from_inside_alone() {
    let lab = Lab::builder("e2einside")
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let (foo, bar) = (lab.pod("foo"), lab.pod("bar"));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    // The last key of the lab's only rule.
    let gregor = start(&lab, &pods, "clients = \"own-namespace\"\n");
    let expected = |pod: &Pod, namespace: &str, endpoint| {
        if pod.namespace == namespace {
            v4_of(endpoint)
        } else {
            Vec::new()
        }
    };
    let all = || {
        for pod in [foo, bar] {
            for (namespace, endpoint) in [("foo", FOO_ADDRESSES), ("bar", BAR_ADDRESSES)] {
                let reply = ask(pod, &qualified(namespace));
                let expected = expected(pod, namespace, endpoint);
                assert_eq!(addresses(&reply), expected, "{} {namespace}", pod.namespace);
                let is_denied = reply.metadata.response_code == ResponseCode::NXDomain;
                assert_eq!(is_denied, expected.is_empty());
            }
        }
    };
    all();
    for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
        until_the_programs_answer(&gregor, &pod.namespace, |_| {
            assert_eq!(gets(pod, &qualified(&pod.namespace)), v4_of(endpoint));
        });
    }
    all();
    assert!(Metrics::of(&gregor).passed("other_client") >= 4.0);
}

/// A connection has no interface: its client is known where the node's route to its address leads to a pod's own interface, and not
/// where it leads to a bridge.
#[test]
fn a_large_answer_comes_over_tcp_to_whom_it_is_for() {
    let lab = Lab::builder("e2ewhotcp")
        .pod("foo")
        .pod("bar")
        .pod("stranger")
        .world(large_world())
        .start()
        .unwrap();
    let [foo, bar, stranger] = ["foo", "bar", "stranger"].map(|name| lab.pod(name));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    let gregor = start(&lab, &pods, "clients = \"own-namespace\"\n");
    let name = qualified("foo");
    let over = |pod: &Pod, server: IpAddr, transport| {
        let exchange = match transport {
            Transport::Udp => exchange_from,
            Transport::Tcp => exchange_tcp,
        };
        let (query, _) = Wire::new(&name, RecordType::A).bytes();
        Message::from_vec(&exchange(pod, server, &query).unwrap()).unwrap()
    };
    let connections = || Metrics::of(&gregor).get("gregor_tcp_connections_total");
    let is_denied = |reply: &Message| reply.metadata.response_code == ResponseCode::NXDomain;

    for server in [CACHE, NODE_LOCAL_V6.into()] {
        // It was not sent there yet, and others never are.
        for pod in [foo, bar, stranger] {
            let before = connections();
            assert!(is_denied(&over(pod, server, Transport::Tcp)));
            assert_eq!(connections(), before);
        }
        let reply = over(foo, server, Transport::Udp);
        assert!(reply.metadata.truncation, "{reply}");
        let all = sorted(addresses(&over(foo, server, Transport::Tcp)));
        assert_eq!(all, of_family(true), "{server}");
        for pod in [bar, stranger] {
            assert!(is_denied(&over(pod, server, Transport::Udp)));
            let before = connections();
            assert!(is_denied(&over(pod, server, Transport::Tcp)));
            assert_eq!(connections(), before);
        }
    }

    // As behind a bridge: where the node sends what is for foo, others may be too.
    let node = |arguments: &str| {
        let mut command = Command::new("ip");
        command.args(arguments.split(' '));
        let output = lab.node().output(command).unwrap();
        assert!(output.status.success(), "{arguments}: {output:?}");
    };
    until("foo is no longer steered", || {
        let before = connections();
        let reply = over(foo, CACHE, Transport::Tcp);
        (is_denied(&reply) && connections() == before).then_some(())
    });
    node("link add cni0 type bridge");
    node("link set cni0 up");
    node(&format!("link set {} master cni0", foo.host_interface));
    node(&format!("route replace {}/32 dev cni0", foo.v4));
    let reply = over(foo, CACHE, Transport::Udp);
    assert!(!reply.metadata.truncation, "{reply}");
    let fitting = addresses(&reply);
    assert!(!fitting.is_empty() && fitting.len() < of_family(true).len());
    assert!(is_denied(&over(foo, CACHE, Transport::Tcp)));
}

/// `tcp = "always"`: the responder decides about each message.
#[test]
fn every_connection_is_answered_to_whom_it_is_for() {
    let lab = Lab::builder("e2ealltcp")
        .pod("foo")
        .pod("bar")
        .pod("stranger")
        .start()
        .unwrap();
    let [foo, bar, stranger] = ["foo", "bar", "stranger"].map(|name| lab.pod(name));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    let config = format!("{}{UNMODIFIED}{}", lab.gregor_config(), pods.config());
    let config = config.replace("[intercept]\n", "[intercept]\ntcp = \"always\"\n");
    let _gregor = start_with(&lab, &config);
    let (query, _) = Wire::new(BROKER, RecordType::A).bytes();
    for (pod, expected) in [
        (foo, v4_of(FOO_ADDRESSES)),
        (bar, v4_of(BAR_ADDRESSES)),
        (stranger, vec![PUBLIC_ADDRESS]),
    ] {
        for server in [CACHE, NODE_LOCAL_V6.into()] {
            let reply = exchange_tcp(pod, server, &query).unwrap();
            let reply = Message::from_vec(&reply).unwrap();
            assert_eq!(addresses(&reply), expected, "{} {server}", pod.namespace);
        }
    }

    // The victim's address on one's own interface: the reply to a handshake goes to the victim.
    ip(foo, &format!("addr add {}/32 dev eth0", bar.v4));
    let victim = SocketAddr::new(bar.v4.into(), 0);
    let connects = move || {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
        socket.bind(&victim.into())?;
        socket.connect_timeout(&SocketAddr::new(CACHE, 53).into(), Duration::from_secs(2))
    };
    assert!(foo.netns().enter(connects).unwrap().is_err());
    assert_eq!(gets(bar, BROKER), v4_of(BAR_ADDRESSES));
}

/// Attempt 6 of the article: a label of the pod chooses the endpoint.
#[test]
fn a_label_chooses_and_its_change_is_in_force_at_once() {
    let lab = Lab::builder("e2elabel").pod("client").start().unwrap();
    let client = lab.pod("client");
    let pods = Pods::new(&lab);
    let rules = r#"
[[rule]]
name  = "attempt-6"
match = "*.kafkas.managed.service"
cname = "{client.label.example.com/tenant}.kafka.managed.service"
[[rule]]
name  = "override"
match = "{namespace}.kafka.managed.service"
cname = "kafka-upstream.{namespace}.svc.cluster.local"
"#;
    let tenant = |name: &str| format!("{{ \"example.com/tenant\" = \"{name}\" }}");
    pods.say([(client, tenant("foo").as_str())]);
    let gregor = start(&lab, &pods, rules);
    let name = "mykafka.kafkas.managed.service";
    let reply = ask(client, name);
    let targets: Vec<String> = chain(&reply)
        .into_iter()
        .map(|(_, target)| target)
        .collect();
    assert_eq!(
        targets[..2],
        [
            "foo.kafka.managed.service.",
            "kafka-upstream.foo.svc.cluster.local."
        ]
    );
    assert_eq!(addresses(&reply), v4_of(FOO_ADDRESSES));
    until_the_programs_answer(&gregor, "client", |_| {
        assert_eq!(gets(client, name), v4_of(FOO_ADDRESSES));
    });

    for (labels, expected) in [
        (tenant("bar"), v4_of(BAR_ADDRESSES)),
        (tenant("foo"), v4_of(FOO_ADDRESSES)),
        // No label of a name, and none at all: the query passes.
        (tenant("not.a.label"), vec![]),
        ("{}".to_owned(), vec![]),
        (tenant("bar"), v4_of(BAR_ADDRESSES)),
    ] {
        pods.say([(client, labels.as_str())]);
        until(&format!("{labels} in force"), || {
            (gets(client, name) == expected).then_some(())
        });
        // And it stays so.
        for _ in 0..10 {
            assert_eq!(gets(client, name), expected, "{labels}");
        }
    }
}

/// Sends from an address of its own choice; `None` where nothing comes back.
fn ask_from(pod: &Pod, source: IpAddr, name: &str) -> Option<Vec<IpAddr>> {
    let (query, _) = Wire::new(name, RecordType::A).bytes();
    let reply = pod.netns().enter(move || {
        let socket = UdpSocket::bind(SocketAddr::new(source, 0)).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(500)))
            .unwrap();
        socket.send_to(&query, (CACHE, 53)).unwrap();
        let mut buffer = [0; 4096];
        let len = socket.recv(&mut buffer).ok()?;
        Some(buffer[..len].to_vec())
    });
    let reply = Message::from_vec(&reply.unwrap()?).unwrap();
    Some(addresses(&reply))
}

fn ip(pod: &Pod, arguments: &str) {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    let output = pod.output(command).unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// What pods try to get at the endpoint of another one, and what they get.
#[test]
fn a_hostile_pod_learns_no_other_endpoint() {
    let lab = Lab::builder("e2ehostile")
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let (foo, bar) = (lab.pod("foo"), lab.pod("bar"));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    let rules = format!("clients = \"own-namespace\"\n{UNMODIFIED}");
    let gregor = start(&lab, &pods, &rules);
    for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
        until_the_programs_answer(&gregor, &pod.namespace, |_| {
            assert_eq!(gets(pod, BROKER), v4_of(endpoint));
            assert_eq!(gets(pod, &qualified(&pod.namespace)), v4_of(endpoint));
        });
    }
    let secret = v4_of(BAR_ADDRESSES);
    let bars = qualified("bar");
    let learns = |reply: Option<Vec<IpAddr>>| {
        reply.is_some_and(|found| found.iter().any(|address| secret.contains(address)))
    };

    // Another's namespace, with EDNS and without, by either server address, over TCP.
    for edns in [None, Some(512), Some(1232), Some(4096)] {
        for server in [CACHE, NODE_LOCAL_V6.into()] {
            for qtype in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
                let mut asked = Ask::new(server, &bars, qtype);
                asked.edns = edns;
                let reply = foo.ask(asked).unwrap();
                assert!(
                    !learns(Some(addresses(&reply))),
                    "{edns:?} {server} {qtype}"
                );
                assert_eq!(chain(&reply), [], "{edns:?} {server} {qtype}");
            }
        }
    }
    let (query, _) = Wire::new(&bars, RecordType::A).bytes();
    let reply = exchange_tcp(foo, CACHE, &query).unwrap();
    assert!(!learns(Some(addresses(
        &Message::from_vec(&reply).unwrap()
    ))));

    // An address of its own choice, and the victim's own, on eth0.
    ip(foo, "addr add 10.99.99.99/32 dev eth0");
    assert!(!learns(ask_from(foo, [10, 99, 99, 99].into(), &bars)));
    assert!(!learns(ask_from(foo, [10, 99, 99, 99].into(), BROKER)));
    ip(foo, "addr del 10.99.99.99/32 dev eth0");
    ip(foo, &format!("addr add {}/32 dev eth0", bar.v4));
    for _ in 0..3 {
        assert!(!learns(ask_from(foo, bar.v4.into(), &bars)));
        assert!(!learns(ask_from(foo, bar.v4.into(), BROKER)));
        // The victim loses nothing.
        assert_eq!(gets(bar, BROKER), secret);
        assert_eq!(gets(bar, &bars), secret);
    }
    ip(foo, &format!("addr del {}/32 dev eth0", bar.v4));

    // Another name for its interface.
    ip(foo, "link set eth0 down");
    ip(foo, "link set eth0 name veth-bar");
    ip(foo, "link set veth-bar up");
    ip(foo, "route add default dev veth-bar");
    assert!(!learns(ask_from(foo, foo.v4.into(), &bars)));
    assert!(!learns(ask_from(foo, foo.v4.into(), BROKER)));
    assert_eq!(gets(bar, BROKER), secret);
}

/// What is known of who asks, and of their answers, outlives the process: the next one takes it over and looks again.
#[test]
fn identities_outlive_a_process() {
    let lab = Lab::builder("e2eidlife")
        .pod("foo")
        .pod("bar")
        .cache(CacheKind::Embedded)
        .start()
        .unwrap();
    let (foo, bar) = (lab.pod("foo"), lab.pod("bar"));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    let gregor = start(&lab, &pods, UNMODIFIED);
    let right = |pod: &Pod, endpoint| {
        assert_eq!(gets(pod, BROKER), v4_of(endpoint), "{}", pod.namespace);
    };
    for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
        until_the_programs_answer(&gregor, &pod.namespace, |_| right(pod, endpoint));
    }
    let config = fs::read_to_string(gregor.config_path()).unwrap();
    gregor.signal(Signal::SIGKILL);
    until("the end of the process", || gregor.process().exited());
    // Nobody is home.
    for _ in 0..5 {
        right(foo, FOO_ADDRESSES);
        right(bar, BAR_ADDRESSES);
    }
    let binary = tools::gregor().unwrap();
    let next = lab.start_gregor(&binary, &config).unwrap();
    right(foo, FOO_ADDRESSES);
    right(bar, BAR_ADDRESSES);
    known(&next, &lab);
    let taken = Metrics::of(&next).taken();
    right(foo, FOO_ADDRESSES);
    right(bar, BAR_ADDRESSES);
    assert_eq!(Metrics::of(&next).taken(), taken, "the answers are kept");

    // A pod that is not named any more is not known any more.
    pods.say([(bar, "{}")]);
    until("the pod is forgotten", || {
        (gets(foo, BROKER) == [PUBLIC_ADDRESS]).then_some(())
    });
    right(bar, BAR_ADDRESSES);
}

/// A process whose one source has not said anything yet takes nothing back.
#[test]
fn identities_outlive_a_process_until_the_api_server_has_listed_the_pods() {
    let lab = Lab::builder("e2eidunlist").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}")]);
    let gregor = start(&lab, &pods, UNMODIFIED);
    assert_eq!(gets(foo, BROKER), v4_of(FOO_ADDRESSES));
    gregor.signal(Signal::SIGKILL);
    until("the end of the process", || gregor.process().exited());
    // It is in no cluster.
    let config = format!(
        "{}{UNMODIFIED}[identity]\nsources = [\"kubernetes\"]\n",
        lab.gregor_config()
    );
    let binary = tools::gregor().unwrap();
    let next = lab.start_gregor(&binary, &config).unwrap();
    until("the decision", || {
        assert_eq!(gets(foo, BROKER), v4_of(FOO_ADDRESSES));
        let status = next.status().unwrap();
        let why = status["interfaces"][0]["nobody"].as_str()?.to_owned();
        why.contains("has not listed").then_some(())
    });
    for _ in 0..5 {
        assert_eq!(gets(foo, BROKER), v4_of(FOO_ADDRESSES));
    }
    // A name that is in no table yet.
    let another = BROKER.replacen("lkc", "other", 1);
    assert_eq!(gets(foo, &another), v4_of(FOO_ADDRESSES), "{another}");
}

/// A reload that begins to ask who the clients are leaves nobody out.
#[test]
fn a_reload_that_begins_to_ask_loses_no_endpoint() {
    let lab = Lab::builder("e2eidbegin")
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let (foo, bar) = (lab.pod("foo"), lab.pod("bar"));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    let plain = lab.gregor_config();
    let asking = format!("{plain}clients = \"own-namespace\"\n{}", pods.config());
    let gregor = lab.start_gregor(&tools::gregor().unwrap(), &plain).unwrap();
    let right = || {
        for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
            let found = gets(pod, &qualified(&pod.namespace));
            let page = || gregor.metrics().unwrap();
            assert_eq!(found, v4_of(endpoint), "{}: {}", pod.namespace, page());
        }
    };
    right();
    // Other rules that ask, too.
    let more = format!("{asking}{UNMODIFIED}");
    for config in [&asking, &more, &asking, &plain, &asking] {
        let before = loads(&gregor, "success");
        gregor.write_config(config).unwrap();
        until("the reload", || {
            right();
            (loads(&gregor, "success") > before).then_some(())
        });
        for _ in 0..20 {
            right();
        }
    }
    assert_eq!(gets(foo, &qualified("bar")), [] as [IpAddr; 0]);

    // Who a pod is stands since then, not since the last reload.
    let since = || {
        let status = gregor.status().unwrap();
        let interfaces = status["interfaces"].as_array().unwrap().clone();
        let own = interfaces
            .iter()
            .find(|one| one["name"] == foo.host_interface.as_str());
        own.unwrap()["who"]["since"].as_u64().unwrap()
    };
    let before = since();
    std::thread::sleep(Duration::from_millis(1_100));
    let loaded = loads(&gregor, "success");
    gregor.write_config(&more).unwrap();
    until("the reload", || {
        (loads(&gregor, "success") > loaded).then_some(())
    });
    right();
    assert_eq!(since(), before);
    assert_eq!(Metrics::of(&gregor).passed("unknown_client"), 0.0);
}

const PROTECTED: &str = "protect_targets = true\n";

fn target(namespace: &str) -> String {
    format!("kafka-upstream.{namespace}.svc.cluster.local")
}

/// The code of the extended error of a reply (RFC 8914), which hickory keeps as an option that it does not know.
fn extended_error(reply: &Message) -> Option<u16> {
    let wire = reply.to_vec().unwrap();
    let text = b"target of another namespace";
    let at = wire.windows(text.len()).position(|part| part == text)?;
    Some(u16::from_be_bytes([wire[at - 2], wire[at - 1]]))
}

fn is_refused(reply: &Message) -> bool {
    reply.metadata.response_code == ResponseCode::Refused && reply.answers.is_empty()
}

/// With `protect_targets`, asking for another namespace's Service by its own name leads nowhere.
#[test]
fn the_names_of_targets_are_refused_to_other_namespaces() {
    let lab = Lab::builder("e2eprotect")
        .pod("foo")
        .pod("bar")
        .pod("stranger")
        .start()
        .unwrap();
    let [foo, bar, stranger] = ["foo", "bar", "stranger"].map(|name| lab.pod(name));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    let plain = format!("{}{UNMODIFIED}{}", lab.gregor_config(), pods.config());
    let protecting = format!("{plain}{PROTECTED}");
    let gregor = start_with(&lab, &plain);
    // Without it a target is anybody's.
    for pod in [foo, bar, stranger] {
        assert_eq!(gets(pod, &target("bar")), v4_of(BAR_ADDRESSES));
    }
    reload(&gregor, &protecting);

    let servers = [CACHE, NODE_LOCAL_V6.into()];
    for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
        for server in servers {
            for name in [
                target(&pod.namespace),
                target(&pod.namespace).to_uppercase(),
            ] {
                for edns in [None, Some(1232)] {
                    let mut asked = Ask::new(server, &name, RecordType::A);
                    asked.edns = edns;
                    assert_eq!(
                        addresses(&pod.ask(asked).unwrap()),
                        v4_of(endpoint),
                        "{name}"
                    );
                }
            }
        }
    }
    // By now the programs let them pass by themselves.
    let before = Metrics::of(&gregor);
    assert!(before.passed_on("own_target") >= 1.0);
    for pod in [foo, bar] {
        for qtype in [RecordType::A, RecordType::AAAA, RecordType::HTTPS] {
            let asked = Ask::new(CACHE, &target(&pod.namespace), qtype);
            assert!(!is_refused(&pod.ask(asked).unwrap()));
        }
    }
    let after = Metrics::of(&gregor);
    assert_eq!(after.taken(), before.taken());
    assert_eq!(after.passed("no_target"), before.passed("no_target") + 6.0);

    let types = [
        RecordType::A,
        RecordType::AAAA,
        RecordType::CNAME,
        RecordType::HTTPS,
        RecordType::TXT,
        RecordType::SRV,
        RecordType::ANY,
    ];
    let before = Metrics::of(&gregor).responses("REFUSED");
    let mut refused = 0.0;
    for (pod, namespace) in [
        (foo, "bar"),
        (stranger, "bar"),
        (stranger, "foo"),
        (stranger, "stranger"),
    ] {
        for server in servers {
            for qtype in types {
                for (edns, name) in [
                    (None, target(namespace)),
                    (Some(1232), target(namespace).to_uppercase()),
                ] {
                    let mut asked = Ask::new(server, &name, qtype);
                    asked.edns = edns;
                    let reply = pod.ask(asked).unwrap();
                    let row = format!("{} {name} {qtype} {edns:?} {server}", pod.namespace);
                    assert!(is_refused(&reply), "{row}: {reply}");
                    assert_eq!(extended_error(&reply), edns.map(|_| 18), "{row}");
                    refused += 1.0;
                }
            }
        }
    }
    assert_eq!(Metrics::of(&gregor).responses("REFUSED"), before + refused);
    // As programs ask.
    assert_eq!(foo.getent(&target("foo")).unwrap(), v4_of(FOO_ADDRESSES));
    assert!(foo.getent(&target("bar")).unwrap_or_default().is_empty());

    // What is not protected: the forms of the search list, which exist nowhere; the names of rules; the name behind the
    // Service, which is public; and whatever the node asks.
    for suffix in [
        "foo.svc.cluster.local",
        "svc.cluster.local",
        "cluster.local",
    ] {
        let reply = ask(foo, &format!("{}.{suffix}", target("bar")));
        assert_eq!(
            reply.metadata.response_code,
            ResponseCode::NXDomain,
            "{suffix}"
        );
    }
    for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
        assert_eq!(gets(pod, BROKER), v4_of(endpoint));
        assert_eq!(gets(pod, &qualified("bar")), v4_of(BAR_ADDRESSES));
    }
    assert_eq!(gets(foo, BAR_ENDPOINT), v4_of(BAR_ADDRESSES));
    let (query, _) = Wire::new(&target("bar"), RecordType::A).bytes();
    let of_node = {
        let query = query.clone();
        let ask = move || exchange(CACHE, &query, Duration::from_secs(3));
        lab.node().enter(ask).unwrap()
    };
    let of_node = Message::from_vec(&of_node.unwrap()).unwrap();
    assert_eq!(addresses(&of_node), v4_of(BAR_ADDRESSES));

    // What the tools say.
    let says = |arguments: &[&str]| {
        let mut command = Command::new(tools::gregor().unwrap());
        command
            .args(arguments)
            .args(["--config"])
            .arg(gregor.config_path());
        command.arg("--control").arg(gregor.control_path());
        let output = lab.node().output(command).unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let explain = |name: &str, more: &[&str]| says(&[&["explain", name], more].concat());
    for (pod, name, more, expected) in [
        ("foo/foo-0", target("bar"), vec![], "the pod gets: REFUSED"),
        (
            "foo/foo-0",
            target("bar"),
            vec!["--type", "AXFR"],
            "the pod gets: no reply",
        ),
        (
            "bar/bar-0",
            target("bar"),
            vec![],
            "the target of its own namespace",
        ),
        ("bar/bar-0", BROKER.to_owned(), vec![], "NOERROR"),
    ] {
        let text = explain(&format!("{name}."), &[&["--pod", pod][..], &more].concat());
        assert!(text.contains(expected), "{pod} {name}: {text}");
    }
    let nobody = explain(&target("bar"), &["--interface", &stranger.host_interface]);
    assert!(nobody.contains("the pod gets: REFUSED"), "{nobody}");
    let check = says(&["check"]);
    let pattern = "protect_targets: kafka-upstream.{namespace}.svc.cluster.local is refused";
    assert!(check.contains(pattern), "{check}");

    // Over TCP where that is steered, which it is unless the configuration says otherwise; the client is known there too.
    let over_tcp = |pod: &Pod, namespace: &str| {
        let (query, _) = Wire::new(&target(namespace), RecordType::A).bytes();
        Message::from_vec(&exchange_tcp(pod, CACHE, &query).unwrap()).unwrap()
    };
    let steered = "[intercept]\ntcp = \"after-truncation\"\n";
    let truncated = protecting.replacen("[intercept]\n", steered, 1);
    reload(&gregor, &truncated);
    assert_eq!(addresses(&over_tcp(foo, "bar")), v4_of(BAR_ADDRESSES));
    reload(&gregor, &protecting);
    for (pod, namespace) in [
        (foo, "bar"),
        (bar, "foo"),
        (stranger, "foo"),
        (stranger, "bar"),
    ] {
        let reply = over_tcp(pod, namespace);
        assert!(is_refused(&reply), "{} {namespace}: {reply}", pod.namespace);
    }
    for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
        assert_eq!(addresses(&over_tcp(pod, &pod.namespace)), v4_of(endpoint));
    }
    let of_node = lab.node().enter(move || {
        let mut asked = Ask::new(CACHE, &target("bar"), RecordType::A);
        asked.transport = Transport::Tcp;
        asked.send()
    });
    assert_eq!(addresses(&of_node.unwrap().unwrap()), v4_of(BAR_ADDRESSES));

    // Off again, and on from where nobody asked who the pods are: their own targets are theirs all the while.
    reload(&gregor, &plain);
    assert_eq!(gets(stranger, &target("bar")), v4_of(BAR_ADDRESSES));
    for config in [&lab.gregor_config(), &protecting] {
        let before = loads(&gregor, "success");
        gregor.write_config(config).unwrap();
        until("the reload", || {
            for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
                assert_eq!(gets(pod, &target(&pod.namespace)), v4_of(endpoint));
            }
            (loads(&gregor, "success") > before).then_some(())
        });
    }
    assert!(is_refused(&ask(stranger, &target("bar"))));
}

/// Queries that the programs dropped.
fn unanswered(gregor: &Gregor) -> f64 {
    Metrics::of(gregor).get(r#"gregor_dns_requests_total{verdict="unanswered",reason="matched"}"#)
}

/// What a hostile pod tries against a protected target, with a responder and without.
#[test]
fn a_hostile_pod_gets_no_protected_target() {
    let lab = Lab::builder("e2eprothost")
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let (foo, bar) = (lab.pod("foo"), lab.pod("bar"));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}")]);
    let config = format!(
        "{}{UNMODIFIED}{}{PROTECTED}",
        lab.gregor_config(),
        pods.config()
    );
    let gregor = start_with(&lab, &config);
    let secret = v4_of(BAR_ADDRESSES);
    let learns = |reply: Option<Vec<IpAddr>>| {
        reply.is_some_and(|found| found.iter().any(|address| secret.contains(address)))
    };
    let right = || {
        assert_eq!(gets(bar, &target("bar")), secret);
        assert_eq!(gets(foo, &target("foo")), v4_of(FOO_ADDRESSES));
        assert!(is_refused(&ask(foo, &target("bar"))));
    };
    right();

    // An address of its own choice, which has no target of its own then either; the victim's.
    ip(foo, "addr add 10.99.99.99/32 dev eth0");
    for namespace in ["foo", "bar"] {
        assert_eq!(
            ask_from(foo, [10, 99, 99, 99].into(), &target(namespace)),
            Some(vec![])
        );
    }
    ip(foo, "addr del 10.99.99.99/32 dev eth0");
    ip(foo, &format!("addr add {}/32 dev eth0", bar.v4));
    for _ in 0..3 {
        assert!(!learns(ask_from(foo, bar.v4.into(), &target("bar"))));
        assert_eq!(gets(bar, &target("bar")), secret);
    }
    ip(foo, &format!("addr del {}/32 dev eth0", bar.v4));
    until("foo is known again", || {
        (gets(foo, &target("foo")) == v4_of(FOO_ADDRESSES)).then_some(())
    });
    right();

    const SILENCE: Duration = Duration::from_millis(500);
    // What gregor leaves to the cache of other names: of these it leaves nothing, and the cache would have answered.
    let (plain, _) = Wire::new(&target("bar"), RecordType::A).bytes();
    let mut with_record = plain.clone();
    with_record[11] = 1;
    // An empty TXT of the root.
    with_record.extend([0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    let (other_version, _) = Wire::new(&target("bar"), RecordType::A).edns(1).bytes();
    let (tkey, _) = Wire::new(&target("bar"), RecordType::from(249)).bytes();
    for odd in [&with_record, &other_version, &tkey] {
        let reply = exchange_within(foo, CACHE, odd, SILENCE);
        assert_eq!(reply, None, "{odd:02x?}");
        let own = exchange_within(bar, CACHE, odd, Duration::from_secs(3));
        assert!(own.is_some(), "{odd:02x?}");
    }

    // More than its limit lets it ask.
    let limited = format!("{config}[limits]\nqueries_per_second = 1\nburst = 1\n");
    reload(&gregor, &limited);
    const FLOOD: usize = 200;
    let before = unanswered(&gregor);
    let replies = foo.netns().enter(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        for _ in 0..FLOOD {
            socket.send_to(&plain, (CACHE, 53)).unwrap();
        }
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let mut replies = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(len) = socket.recv(&mut buffer) {
            replies.push(buffer[..len].to_vec());
        }
        replies
    });
    let replies = replies.unwrap();
    let dropped = unanswered(&gregor) - before;
    assert!(dropped >= FLOOD as f64 / 2.0, "{dropped} of {FLOOD}");
    assert!(!replies.is_empty());
    for reply in &replies {
        let reply = Message::from_vec(reply).unwrap();
        assert!(is_refused(&reply), "{reply}");
    }
    assert_eq!(gets(bar, &target("bar")), secret);
    reload(&gregor, &config);

    // Without a responder what would be refused gets no reply; a client's own target does, and other names. The next one takes
    // over.
    let config = fs::read_to_string(gregor.config_path()).unwrap();
    gregor.signal(Signal::SIGKILL);
    until("the end of the process", || gregor.process().exited());
    let (query, _) = Wire::new(&target("bar"), RecordType::A).bytes();
    for odd in [&query, &with_record, &other_version, &tkey] {
        assert_eq!(
            exchange_within(foo, CACHE, odd, SILENCE),
            None,
            "{odd:02x?}"
        );
    }
    assert_eq!(gets(bar, &target("bar")), secret);
    assert_eq!(gets(foo, &target("foo")), v4_of(FOO_ADDRESSES));
    assert_eq!(gets(foo, BAR_ENDPOINT), v4_of(BAR_ADDRESSES));
    let next = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    right();
    known(&next, &lab);
    right();

    // Whoever is not named any more is a stranger.
    pods.say([(bar, "{}")]);
    until("the pod is forgotten", || {
        is_refused(&ask(foo, &target("foo"))).then_some(())
    });
    assert_eq!(gets(bar, &target("bar")), secret);
}
