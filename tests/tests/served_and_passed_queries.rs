//! Passed queries are unchanged, byte for byte, and the cache sees the pod's address; answers follow the rules when upstreams
//! fail, change, or contradict themselves.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use e2e::{
    Metrics, REPLY, Wire, addresses, chain, clients, exchange_from, exchange_tcp, exchange_within,
    qualified, sorted, until, without_id_and_ttls,
};
use gregor_tests::{
    lab::{
        Ask, CacheKind, ClusterKind, Gregor, Lab, Pod,
        world::{
            BAR_ADDRESSES, BAR_ENDPOINT, BROKER, CLUSTER_DNS_V4, CLUSTER_TTL, ExternalName,
            FOO_ADDRESSES, FOO_ENDPOINT, FOREIGN, NODE_LOCAL_V4, NODE_LOCAL_V6, PUBLIC_ADDRESS,
            World,
        },
    },
    tools,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{CNAME, HTTPS, SVCB, TXT, opt::EdnsCode},
    },
};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
const CLUSTER: IpAddr = IpAddr::V4(CLUSTER_DNS_V4);

/// How a query is expected to reach the cache.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    /// The program passes it, for this reason.
    Kernel(&'static str),
    /// The responder looked for a target, found none and sent it on.
    Responder,
    /// The program does not count it.
    Unseen,
}

struct Case {
    what: &'static str,
    query: Wire,
    way: Way,
    /// Whether every cache lists it among its questions: some refuse what is odd before they log.
    listed: bool,
    /// Some caches say nothing at all to it.
    silence: bool,
}

fn case(what: &'static str, query: Wire, way: Way) -> Case {
    Case {
        what,
        query,
        way,
        listed: true,
        silence: false,
    }
}

impl Case {
    fn unlisted(self) -> Self {
        Self {
            listed: false,
            ..self
        }
    }

    fn perhaps_silent(self) -> Self {
        Self {
            listed: false,
            silence: true,
            ..self
        }
    }
}

fn cases() -> Vec<Case> {
    use RecordType::{A, AAAA, ANY, AXFR, CNAME, HINFO, HTTPS, MX, NS, PTR, SRV, TXT};
    use Way::{Kernel, Responder};
    let baz = qualified("baz");
    let foo = qualified("foo");
    let mixed = baz.replace("lkc", "LkC").replace("baz", "BaZ");
    let suffix = "aws.private.kafka.managed.foo.svc.cluster.local";
    vec![
        case("no target, A", Wire::new(&baz, A), Responder),
        case("no target, AAAA", Wire::new(&baz, AAAA), Responder),
        case("no target, EDNS", Wire::new(&baz, A).edns(0), Responder),
        case("no target, 0x20", Wire::new(&mixed, A), Responder),
        case("no target, HTTPS", Wire::new(&baz, HTTPS), Responder),
        case("no target, TXT", Wire::new(&baz, TXT), Responder),
        case("no target, CNAME", Wire::new(&baz, CNAME), Responder),
        case("the public name", Wire::new(BROKER, A), Kernel("no_rule")),
        case("foreign", Wire::new(FOREIGN, A), Kernel("no_rule")),
        case(
            "foreign AAAA, EDNS",
            Wire::new(FOREIGN, AAAA).edns(0),
            Kernel("no_rule"),
        ),
        case(
            "foreign, 0x20",
            Wire::new("wWw.eXaMpLe.CoM", A),
            Kernel("no_rule"),
        ),
        case(
            "amazonaws.com",
            Wire::new("sts.eu-west-1.amazonaws.com", A),
            Kernel("no_rule"),
        ),
        case(
            "a target itself",
            Wire::new(FOO_ENDPOINT, A),
            Kernel("no_rule"),
        ),
        case(
            "a Service",
            Wire::new("kubernetes.default.svc.cluster.local", A),
            Kernel("no_rule"),
        ),
        case(
            "a target's owner",
            Wire::new("kafka-upstream.foo.svc.cluster.local", A),
            Kernel("no_rule"),
        ),
        case("the bare suffix", Wire::new(suffix, A), Kernel("no_rule")),
        case(
            "two labels for the namespace",
            Wire::new("b.aws.private.kafka.managed.x.foo.svc.cluster.local", A),
            Kernel("no_rule"),
        ),
        case(
            "PTR",
            Wire::new("10.0.20.172.in-addr.arpa", PTR),
            Kernel("no_rule"),
        ),
        case(
            "SRV",
            Wire::new("_dns._udp.kube-dns.kube-system.svc.cluster.local", SRV),
            Kernel("no_rule"),
        ),
        case("foreign TXT", Wire::new(FOREIGN, TXT), Kernel("no_rule")),
        case(
            "foreign MX",
            Wire::new("example.com", MX),
            Kernel("no_rule"),
        ),
        case("the root", Wire::new("", NS), Kernel("no_rule")),
        case("foreign ANY", Wire::new(FOREIGN, ANY), Kernel("no_rule")),
        case(
            "a loop probe",
            Wire::new("1234567.7654321.cluster.local", HINFO),
            Kernel("no_rule"),
        ),
        case("AXFR", Wire::new(&foo, AXFR), Kernel("qtype")).perhaps_silent(),
        case("class CH", Wire::new(&foo, TXT).class(3), Kernel("qtype")).unlisted(),
        case(
            "EDNS version 1",
            Wire::new(&foo, A).edns(1),
            Kernel("edns_version"),
        )
        .unlisted(),
        case(
            "opcode STATUS",
            Wire::new(&foo, A).flags(0x1000),
            Kernel("opcode"),
        )
        .perhaps_silent(),
        case(
            "a response",
            Wire::new(&foo, A).flags(0x8180),
            Kernel("response"),
        )
        .perhaps_silent(),
    ]
}

/// gregor on the interfaces of foo and baz; the pod `ref` asks as if there were none.
fn lab_with_a_reference(cache: CacheKind, cluster: ClusterKind) -> (Lab, String) {
    let lab = Lab::builder("e2epass")
        .pod("foo")
        .pod("baz")
        .pod("ref")
        .cache(cache)
        .cluster(cluster)
        .start()
        .unwrap();
    let config = lab.gregor_config().replace(
        "[intercept]\n",
        "[intercept]\ninterfaces = [\"veth-foo\", \"veth-baz\"]\n",
    );
    (lab, config)
}

fn queries_pass_unchanged(cache: CacheKind, cluster: ClusterKind) {
    let (lab, config) = lab_with_a_reference(cache, cluster);
    let before: Vec<_> = clients()
        .iter()
        .map(|client| client.finds(lab.pod("baz"), BROKER))
        .collect();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    for case in cases() {
        passes(&lab, &gregor, CACHE, &case);
    }
    for case in cases().iter().filter(|case| case.way == Way::Responder) {
        passes(&lab, &gregor, NODE_LOCAL_V6.into(), case);
    }
    let over_tcp = [
        case(
            "TCP, matching",
            Wire::new(&qualified("foo"), RecordType::A),
            Way::Unseen,
        ),
        case(
            "TCP, foreign",
            Wire::new(FOREIGN, RecordType::A),
            Way::Unseen,
        ),
    ];
    for case in over_tcp {
        is_the_same(&lab, &gregor, CACHE, &case, |pod, server, query, _| {
            exchange_tcp(pod, server, query)
        });
    }
    for (client, before) in clients().iter().zip(before) {
        // What the responder passes on the first time, the program passes from then on.
        let recognised = || {
            let metrics = Metrics::of(&gregor);
            metrics.intercepted() + metrics.passed("no_target")
        };
        let seen = recognised();
        let found = client.finds(lab.pod("baz"), BROKER);
        assert_eq!(found, before, "{}", client.name);
        assert!(recognised() > seen, "{}", client.name);
        if cache != (CacheKind::CoreDns { template: true }) {
            assert_eq!(found, Ok(vec![PUBLIC_ADDRESS]), "{}", client.name);
        }
    }
    assert_eq!(Metrics::of(&gregor).get("gregor_send_errors_total"), 0.0);
    assert_eq!(Metrics::of(&gregor).responses("NOERROR"), 0.0);
    assert_eq!(Metrics::of(&gregor).responses("SERVFAIL"), 0.0);
}

fn passes(lab: &Lab, gregor: &Gregor, server: IpAddr, case: &Case) {
    is_the_same(lab, gregor, server, case, exchange_within);
}

/// The pod gets what the reference gets just before or just after; a reply may leave the cache in between, so a
/// difference counts when it stays.
fn is_the_same(
    lab: &Lab,
    gregor: &Gregor,
    server: IpAddr,
    case: &Case,
    exchange: impl Fn(&Pod, IpAddr, &[u8], Duration) -> Option<Vec<u8>>,
) {
    let what = format!("{}, asking {server}", case.what);
    let (query, _) = case.query.bytes();
    let patience = if case.silence {
        Duration::from_secs(1)
    } else {
        REPLY
    };
    let ask = |pod: &str| {
        exchange(lab.pod(pod), server, &query, patience).map(|reply| without_id_and_ttls(&reply))
    };
    // So that the cache has it.
    ask("ref");
    let mut attempts = 0;
    loop {
        attempts += 1;
        let first = ask("ref");
        assert!(first.is_some() || case.silence, "{what}: no reply at all");
        lab.cache().forget();
        let before = Metrics::of(gregor);
        let own = ask("baz");
        let after = Metrics::of(gregor);
        went(&what, case.way, &before, &after);
        if case.listed {
            let pod = lab.pod("baz");
            let client: IpAddr = match server {
                IpAddr::V4(_) => pod.v4.into(),
                IpAddr::V6(_) => pod.v6.into(),
            };
            let qname = format!(
                "{}.",
                case.query.qname.to_ascii_lowercase().trim_matches('.')
            );
            assert!(
                lab.cache()
                    .saw(|asked| asked.client == client && asked.qname == qname),
                "{what}: the cache sees {client}"
            );
        }
        if own == first || own == ask("ref") {
            return;
        }
        assert!(attempts < 5, "{what}:\n{own:02x?}\n{first:02x?}");
    }
}

fn went(what: &str, way: Way, before: &Metrics, after: &Metrics) {
    let grown = |value: &dyn Fn(&Metrics) -> f64| value(after) - value(before);
    let taken = grown(&Metrics::taken);
    match way {
        Way::Kernel(reason) => {
            assert_eq!(
                grown(&|m| m.passed(reason)),
                1.0,
                "{what}: passed as {reason}"
            );
            assert_eq!(taken, 0.0, "{what}");
        }
        Way::Responder => {
            assert_eq!(taken, grown(&|m| m.passed_on("no_target")), "{what}");
            // In the program's table by then, most of the time: the program passes it.
            let passed = taken + grown(&|m| m.passed("no_target"));
            assert_eq!(passed, 1.0, "{what}");
        }
        Way::Unseen => {
            let counted = |m: &Metrics| {
                m.0.iter()
                    .filter(|(series, _)| series.starts_with("gregor_dns_requests"))
                    .map(|(_, value)| value)
                    .sum::<f64>()
            };
            assert_eq!(grown(&counted), 0.0, "{what}");
        }
    }
}

#[test]
fn passed_queries_are_unchanged_behind_coredns_as_nodelocal() {
    queries_pass_unchanged(CacheKind::CoreDns { template: false }, ClusterKind::CoreDns);
}

#[test]
fn passed_queries_are_unchanged_behind_the_articles_template() {
    queries_pass_unchanged(CacheKind::CoreDns { template: true }, ClusterKind::CoreDns);
}

#[test]
fn passed_queries_are_unchanged_behind_unbound() {
    queries_pass_unchanged(CacheKind::Unbound, ClusterKind::CoreDns);
}

#[test]
fn passed_queries_are_unchanged_behind_the_embedded_cache() {
    queries_pass_unchanged(CacheKind::Embedded, ClusterKind::Embedded);
}

/// The template's answer for a tenant without target reaches the pod unchanged.
#[test]
fn a_bare_cname_of_the_operators_template_reaches_the_pod() {
    let (lab, config) =
        lab_with_a_reference(CacheKind::CoreDns { template: true }, ClusterKind::CoreDns);
    let _gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let reply = ask(lab.pod("baz"), CACHE, &qualified("baz"), RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    let target = "kafka-upstream.baz.svc.cluster.local.";
    assert_eq!(
        chain(&reply),
        [(format!("{}.", qualified("baz")), target.to_owned())]
    );
    assert_eq!(reply.answers.len(), 1);
}

fn ask(pod: &Pod, server: IpAddr, name: &str, qtype: RecordType) -> Message {
    let mut ask = Ask::new(server, name, qtype);
    ask.timeout = REPLY;
    pod.ask(ask).unwrap()
}

fn ask_with_edns(pod: &Pod, server: IpAddr, name: &str, qtype: RecordType) -> Message {
    let mut ask = Ask::new(server, name, qtype);
    ask.timeout = REPLY;
    ask.edns = Some(1232);
    pod.ask(ask).unwrap()
}

fn extended_error(message: &Message) -> bool {
    message
        .edns
        .as_ref()
        .is_some_and(|edns| edns.options().get(EdnsCode::from(15u16)).is_some())
}

fn is_servfail(pod: &Pod, server: IpAddr, name: &str) {
    let plain = ask(pod, server, name, RecordType::A);
    assert_eq!(plain.metadata.response_code, ResponseCode::ServFail);
    assert!(plain.edns.is_none(), "no OPT was asked with");
    assert!(plain.answers.is_empty() && plain.authorities.is_empty());
    let edns = ask_with_edns(pod, server, name, RecordType::A);
    assert_eq!(edns.metadata.response_code, ResponseCode::ServFail);
    assert!(extended_error(&edns), "{edns}");
}

/// Answers are asked for again after a second.
fn short_lived(config: &str) -> String {
    let short = config.replace("ttl   = 60", "ttl   = 1");
    assert_ne!(short, config);
    short
}

const SERVE_STALE: Duration = Duration::from_secs(8);

fn failing_config(lab: &Lab) -> String {
    format!(
        "{}\n[upstream]\ntimeout = \"500ms\"\n[answer]\nserve_stale = \"{}s\"\n",
        short_lived(&lab.gregor_config()),
        SERVE_STALE.as_secs()
    )
}

/// From the moment that the upstream has ended: the last good answer, and nothing else, until `serve_stale` is over.
fn last_good_answer_then_servfail(lab: &Lab, gregor: &Gregor, server: IpAddr, started: Instant) {
    let foo = lab.pod("foo");
    let mut stale = 0;
    let servfail = until("SERVFAIL once serve_stale is over", || {
        let reply = ask(foo, server, &qualified("foo"), RecordType::A);
        let now = Instant::now();
        if reply.metadata.response_code == ResponseCode::ServFail {
            return Some(now);
        }
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(addresses(&reply), sorted(FOO_ADDRESSES));
        assert!(reply.answers.iter().all(|record| record.ttl == 1));
        if Metrics::of(gregor).get("gregor_stale_answers_total") > 0.0 {
            stale += 1;
        }
        None
    });
    assert!(stale > 0, "the last good answer was given");
    // It was learned after `started`, so it held for this long at least.
    assert!(servfail - started > SERVE_STALE);
    is_servfail(foo, server, &qualified("foo"));
}

#[test]
fn a_dead_cluster_dns_leaves_the_last_good_answer() {
    let lab = Lab::builder("e2edead")
        .pod("foo")
        .pod("bar")
        .cache(CacheKind::CoreDns { template: false })
        .cluster(ClusterKind::CoreDns)
        .start()
        .unwrap();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &failing_config(&lab))
        .unwrap();
    let foo = lab.pod("foo");
    let started = Instant::now();
    for server in [CLUSTER, CACHE] {
        let reply = ask(foo, server, &qualified("foo"), RecordType::A);
        assert_eq!(addresses(&reply), sorted(FOO_ADDRESSES));
    }
    let cluster = lab.cluster().process().unwrap();
    cluster.signal(Signal::SIGSTOP);
    // Not cached: there is no last good answer.
    is_servfail(lab.pod("bar"), CLUSTER, &qualified("bar"));
    assert!(Metrics::of(&gregor).get(r#"gregor_chase_failures_total{reason="timeout"}"#) > 0.0);
    last_good_answer_then_servfail(&lab, &gregor, CLUSTER, started);
    cluster.signal(Signal::SIGCONT);
    until("served again", || {
        let reply = ask(foo, CLUSTER, &qualified("foo"), RecordType::A);
        (addresses(&reply) == sorted(FOO_ADDRESSES)).then_some(())
    });
}

#[test]
fn a_resolver_behind_a_dead_cluster_dns_stays_on_its_endpoint() {
    let lab = Lab::builder("e2edead")
        .pod("foo")
        .cache(CacheKind::CoreDns { template: false })
        .cluster(ClusterKind::CoreDns)
        .start()
        .unwrap();
    let config = failing_config(&lab).replace("serve_stale = \"8s\"", "serve_stale = \"1h\"");
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let foo = lab.pod("foo");
    assert_eq!(foo.getent(BROKER).unwrap(), sorted(FOO_ADDRESSES));
    let cluster = lab.cluster().process().unwrap();
    cluster.signal(Signal::SIGSTOP);
    let stale = || Metrics::of(&gregor).get("gregor_stale_answers_total");
    // The program keeps answering it, and it is counted when a look-up fails: not at each question.
    until("an A of the past, once the cache has none either", || {
        let reply = ask(foo, CACHE, &qualified("foo"), RecordType::A);
        assert_eq!(addresses(&reply), sorted(FOO_ADDRESSES));
        (stale() > 0.0).then_some(())
    });
    // From here on the program has it, and keeps answering it.
    let before = Metrics::of(&gregor).intercepted();
    assert_eq!(foo.getent(BROKER).unwrap(), sorted(FOO_ADDRESSES));
    assert!(Metrics::of(&gregor).intercepted() > before);
    cluster.signal(Signal::SIGCONT);
}

#[test]
fn without_a_route_to_the_cluster_dns_a_cached_name_keeps_its_answer() {
    let lab = Lab::builder("e2eunr")
        .pod("foo")
        .pod("bar")
        .cache(CacheKind::None)
        .start()
        .unwrap();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &failing_config(&lab))
        .unwrap();
    let foo = || {
        let reply = ask(lab.pod("foo"), CLUSTER, &qualified("foo"), RecordType::A);
        assert_eq!(addresses(&reply), sorted(FOO_ADDRESSES));
    };
    foo();
    lab.node().ip("link set uplink down\n").unwrap();
    // Not cached: passed to the server, which cannot be reached.
    let (query, _) = Wire::new(&qualified("bar"), RecordType::A).bytes();
    let reply = exchange_within(lab.pod("bar"), CLUSTER, &query, Duration::from_secs(1));
    assert_eq!(reply, None);
    until("the last good answer", || {
        foo();
        (Metrics::of(&gregor).get("gregor_stale_answers_total") > 0.0).then_some(())
    });
    let metrics = Metrics::of(&gregor);
    assert!(metrics.passed_on("local_failure") > 0.0);
    assert!(metrics.get(r#"gregor_chase_failures_total{reason="local"}"#) > 0.0);
    assert_eq!(metrics.responses("SERVFAIL"), 0.0);
}

fn point_at(lab: &Lab, namespace: &str, target: Option<&str>) {
    lab.change_world(|world| {
        world
            .external_names
            .retain(|service| service.namespace != namespace);
        world
            .external_names
            .extend(target.map(|target| ExternalName {
                service: "kafka-upstream".to_owned(),
                namespace: namespace.to_owned(),
                target: target.to_owned(),
            }));
    });
}

/// Changes of a Service take effect one TTL later at the latest, its creation and deletion too.
#[test]
fn a_changed_target_is_served_within_its_ttl() {
    let lab = Lab::builder("e2echange")
        .pod("foo")
        .pod("baz")
        .cache(CacheKind::None)
        .start()
        .unwrap();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let find = |namespace: &str| {
        let reply = ask(
            lab.pod(namespace),
            CLUSTER,
            &qualified(namespace),
            RecordType::A,
        );
        let ttls: Vec<u32> = reply.answers.iter().map(|record| record.ttl).collect();
        // One TTL over all of it, the least of the chain.
        assert!(
            ttls.iter()
                .all(|ttl| (1..=CLUSTER_TTL).contains(ttl) && *ttl == ttls[0]),
            "{reply}"
        );
        reply
    };
    let bars_v4: Vec<IpAddr> = sorted(BAR_ADDRESSES.into_iter().filter(IpAddr::is_ipv4));
    assert_eq!(addresses(&find("foo")), sorted(FOO_ADDRESSES));
    point_at(&lab, "foo", Some(BAR_ENDPOINT));
    until("foo is led to the new endpoint", || {
        let found = addresses(&find("foo"));
        assert!(
            found == bars_v4 || found == sorted(FOO_ADDRESSES),
            "{found:?}"
        );
        (found == bars_v4).then_some(())
    });

    assert_eq!(find("baz").metadata.response_code, ResponseCode::NXDomain);
    point_at(&lab, "baz", Some(FOO_ENDPOINT));
    until("baz has a target now", || {
        (addresses(&find("baz")) == sorted(FOO_ADDRESSES)).then_some(())
    });

    point_at(&lab, "foo", None);
    lab.cluster().forget();
    until("foo has none any more", || {
        (find("foo").metadata.response_code == ResponseCode::NXDomain).then_some(())
    });
    let qname = format!("{}.", qualified("foo"));
    let client = IpAddr::V4(lab.pod("foo").v4);
    assert!(
        lab.cluster()
            .saw(|asked| asked.qname == qname && asked.client == client),
        "passed on as the pod's own"
    );
    let metrics = Metrics::of(&gregor);
    assert!(metrics.passed_on("no_target") + metrics.passed("no_target") >= 2.0);
}

#[test]
fn a_broken_chain_is_servfail_with_a_warning() {
    let lab = Lab::builder("e2ebroken")
        .pod("foo")
        .cache(CacheKind::None)
        .start()
        .unwrap();
    point_at(&lab, "foo", Some("nowhere.vpce.amazonaws.com."));
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    is_servfail(lab.pod("foo"), CLUSTER, &qualified("foo"));
    let metrics = Metrics::of(&gregor);
    assert!(metrics.get("gregor_broken_chains_total") >= 1.0);
    assert!(metrics.responses("SERVFAIL") >= 2.0);
    assert!(
        gregor
            .log()
            .contains("the name at the end of its CNAME chain does not"),
        "{}",
        gregor.log()
    );
    // Repaired: served within the time that a failure is cached.
    point_at(&lab, "foo", Some(FOO_ENDPOINT));
    until("repaired", || {
        let reply = ask(lab.pod("foo"), CLUSTER, &qualified("foo"), RecordType::A);
        (addresses(&reply) == sorted(FOO_ADDRESSES)).then_some(())
    });
}

/// An ExternalName that is an IP address: for the cluster DNS a name like any other.
fn an_external_name_that_is_an_address(cache: CacheKind, cluster: ClusterKind) {
    let lab = Lab::builder("e2eaddress")
        .pod("foo")
        .cache(cache)
        .cluster(cluster)
        .world(World {
            external_names: ["10.0.0.5.", "255.1.2.3."]
                .into_iter()
                .zip(["foo", "bar"])
                .map(|(target, namespace)| ExternalName {
                    service: "kafka-upstream".to_owned(),
                    namespace: namespace.to_owned(),
                    target: target.to_owned(),
                })
                .collect(),
            namespaces: vec!["foo".to_owned(), "bar".to_owned()],
            ..World::default()
        })
        .start()
        .unwrap();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let foo = lab.pod("foo");
    for namespace in ["foo", "bar"] {
        for qtype in [RecordType::A, RecordType::AAAA, RecordType::A] {
            let reply = ask(foo, CACHE, &qualified(namespace), qtype);
            let rcode = reply.metadata.response_code;
            assert_eq!(rcode, ResponseCode::ServFail, "{namespace} {qtype}");
        }
    }
    assert_eq!(foo.getent(BROKER).unwrap(), [PUBLIC_ADDRESS]);
    let log = gregor.log();
    assert!(log.contains("an externalName must be a name"), "{log}");
    assert!(!log.contains("10.0.0.5"), "{log}");
    let name = format!("{}.", qualified("foo"));
    let config = gregor.config_path().to_str().unwrap();
    let explained = gregor
        .command(&["explain", &name, "--config", config])
        .unwrap();
    let text = String::from_utf8_lossy(&explained.stdout);
    assert!(
        text.contains("externalName looks like an address (10.0.0.5)"),
        "{text}"
    );
}

#[test]
fn an_external_name_that_is_an_address_behind_coredns() {
    an_external_name_that_is_an_address(
        CacheKind::CoreDns { template: false },
        ClusterKind::CoreDns,
    );
}

#[test]
fn an_external_name_that_is_an_address_behind_unbound() {
    an_external_name_that_is_an_address(CacheKind::Unbound, ClusterKind::CoreDns);
}

#[test]
fn an_external_name_that_is_an_address_behind_the_embedded_servers() {
    an_external_name_that_is_an_address(CacheKind::Embedded, ClusterKind::Embedded);
}

fn a_family_that_the_target_lacks(cache: CacheKind, cluster: ClusterKind) {
    let lab = Lab::builder("e2enodata")
        .pod("foo")
        .cache(cache)
        .cluster(cluster)
        .start()
        .unwrap();
    let _gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let foo = lab.pod("foo");
    for server in [CACHE, CLUSTER] {
        let reply = ask(foo, server, &qualified("foo"), RecordType::AAAA);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        let target = "kafka-upstream.foo.svc.cluster.local.";
        assert_eq!(
            chain(&reply),
            [
                (format!("{}.", qualified("foo")), target.to_owned()),
                (target.to_owned(), FOO_ENDPOINT.to_owned()),
            ],
            "{server}"
        );
        assert_eq!(reply.answers.len(), 2, "{server}: {reply}");
        let [soa] = reply.authorities.as_slice() else {
            panic!("{server}: {reply}")
        };
        assert_eq!(soa.record_type(), RecordType::SOA, "{server}");
        assert_eq!(soa.name.to_ascii(), "vpce.amazonaws.com.", "{server}");
    }
    assert_eq!(foo.getent(BROKER).unwrap(), sorted(FOO_ADDRESSES));
}

#[test]
fn a_missing_family_is_nodata_behind_coredns() {
    a_family_that_the_target_lacks(CacheKind::CoreDns { template: false }, ClusterKind::CoreDns);
}

#[test]
fn a_missing_family_is_nodata_behind_unbound() {
    a_family_that_the_target_lacks(CacheKind::Unbound, ClusterKind::CoreDns);
}

#[test]
fn a_missing_family_is_nodata_behind_the_embedded_cache() {
    a_family_that_the_target_lacks(CacheKind::Embedded, ClusterKind::Embedded);
}

/// Header, question and OPT of an answer: SEMANTICS of what a client may rely on, byte by byte.
#[test]
fn header_question_and_opt_of_an_answer() {
    let lab = Lab::builder("e2eform")
        .pod("foo")
        .cache(CacheKind::Embedded)
        .start()
        .unwrap();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let foo = lab.pod("foo");

    // The question comes back byte for byte, RD and CD as they were sent, AA and AD clear.
    let mixed = "LkC-1.eU-wEsT-1.AwS.pRiVaTe.KaFkA.mAnAgEd.FoO.sVc.ClUsTeR.lOcAl";
    for flags in [0x0000, 0x0100, 0x0010, 0x0110, 0x0120] {
        let (query, question) = Wire::new(mixed, RecordType::A).flags(flags).bytes();
        let reply = exchange_from(foo, CACHE, &query).unwrap();
        assert_eq!(reply[12..question], query[12..question], "{flags:04x}");
        let got = u16::from_be_bytes([reply[2], reply[3]]);
        assert_eq!(got, 0x8080 | (flags & 0x0110), "{flags:04x}");
        let message = Message::from_vec(&reply).unwrap();
        assert_eq!(addresses(&message), sorted(FOO_ADDRESSES));
        assert_eq!(message.answers[0].name.to_ascii(), format!("{mixed}."));
        assert!(message.edns.is_none());
    }

    // OPT for OPT: our own size, DO copied, a cookie and an unknown option ignored.
    for dnssec_ok in [false, true] {
        let mut query = Wire::new(&qualified("foo"), RecordType::A);
        let options = b"\x00\x0a\x00\x08cookie!!\xfd\xe9\x00\x01x".to_vec();
        query.edns = Some((0, dnssec_ok, options));
        let reply = exchange_from(foo, CACHE, &query.bytes().0).unwrap();
        let message = Message::from_vec(&reply).unwrap();
        let edns = message.edns.as_ref().unwrap();
        assert_eq!(edns.flags().dnssec_ok, dnssec_ok);
        assert_eq!(edns.version(), 0);
        assert!(edns.max_payload() >= 512);
        assert!(edns.options().as_ref().is_empty(), "{edns:?}");
        assert!(!message.metadata.authentic_data);
    }

    // CNAME asked for: the CNAME alone.
    let reply = ask(foo, CACHE, &qualified("foo"), RecordType::CNAME);
    assert_eq!(reply.answers.len(), 1);
    assert_eq!(chain(&reply)[0].1, "kafka-upstream.foo.svc.cluster.local.");
    assert!(reply.authorities.is_empty());

    // Each of the addresses comes first once in a while.
    let mut first = std::collections::BTreeSet::new();
    until("each address comes first", || {
        let reply = ask(foo, CACHE, &qualified("foo"), RecordType::A);
        let address = reply.answers.iter().find_map(|record| match &record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        });
        first.extend(address);
        (first.len() == FOO_ADDRESSES.len()).then_some(())
    });
    assert_eq!(Metrics::of(&gregor).passed_on("query"), 0.0);
    let name = format!("{}.", qualified("foo"));
    assert!(!lab.cache().asked().iter().any(|asked| asked.qname == name));
}

/// An upstream with one target, an alias of a name with TXT, HTTPS and SVCB records.
fn serve_other_types(socket: &UdpSocket) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        let Ok(query) = Message::from_vec(&buffer[..length]) else {
            return;
        };
        let question = query.queries[0].clone();
        let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        let end = Name::from_ascii("end.example.").unwrap();
        let target = question.name().to_lowercase().to_ascii();
        let at_end = target == "end.example.";
        if !at_end && target == "kafka-upstream.foo.svc.cluster.local." {
            let alias = RData::CNAME(CNAME(end.clone()));
            reply
                .answers
                .push(Record::from_rdata(question.name().clone(), 7, alias));
        } else if !at_end {
            reply.metadata.response_code = ResponseCode::NXDomain;
        }
        let service = SVCB::new(1, Name::root(), Vec::new());
        let data = match question.query_type() {
            RecordType::TXT => Some(RData::TXT(TXT::new(vec!["hello".to_owned()]))),
            RecordType::HTTPS => Some(RData::HTTPS(HTTPS(service))),
            RecordType::SVCB => Some(RData::SVCB(service)),
            _ => None,
        };
        if reply.metadata.response_code == ResponseCode::NoError
            && let Some(data) = data
        {
            reply.answers.push(Record::from_rdata(end, 9, data));
        }
        reply.queries.push(question);
        let _ = socket.send_to(&reply.to_vec().unwrap(), client);
    }
}

#[test]
fn other_types_are_chased_to_the_end_of_the_chain() {
    let lab = Lab::builder("e2etypes")
        .pod("foo")
        .cache(CacheKind::Embedded)
        .start()
        .unwrap();
    let upstream = lab
        .node()
        .enter(|| UdpSocket::bind("127.0.0.1:5300").unwrap())
        .unwrap();
    std::thread::spawn(move || serve_other_types(&upstream));
    let config = format!(
        "{}\n[upstream]\nserver = \"127.0.0.1:5300\"\n",
        lab.gregor_config()
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let foo = lab.pod("foo");
    for qtype in [RecordType::TXT, RecordType::HTTPS, RecordType::SVCB] {
        for _ in 0..2 {
            let reply = ask(foo, CACHE, &qualified("foo"), qtype);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert_eq!(chain(&reply).len(), 2, "{reply}");
            let [.., last] = reply.answers.as_slice() else {
                panic!("{reply}")
            };
            assert_eq!(last.record_type(), qtype);
            assert_eq!(last.name.to_ascii(), "end.example.");
            assert_eq!(reply.answers.len(), 3, "{reply}");
            assert!(reply.answers.iter().all(|record| record.ttl <= 7));
        }
    }
    let metrics = Metrics::of(&gregor);
    // HTTPS and SVCB are kept by the program, TXT by the responder.
    assert_eq!(metrics.get("gregor_chases_total"), 3.0);
    assert_eq!(metrics.responses("NOERROR"), 6.0);
}
