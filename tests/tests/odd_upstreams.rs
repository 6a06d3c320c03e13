//! Upstreams as they are found in the field: without EDNS, with case-sensitive names, without TCP, or with empty replies about
//! a target; and what a pod gets then. Wants root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report"
)]

mod e2e;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use e2e::{Metrics, Question, UdpServer, addresses, chain, qualified};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, tools,
        world::{BROKER, NODE_LOCAL_V4},
    },
    packets::build::{name, record},
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};

const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 5300);
const GOOD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const TARGET: &str = "kafka-upstream.foo.svc.cluster.local";
/// A pointer to the question's name.
const QNAME: [u8; 2] = [0xc0, 12];

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const NOERROR: u8 = 0;
const FORMERR: u8 = 1;
const NXDOMAIN: u8 = 3;
const NOTIMP: u8 = 4;
const REFUSED: u8 = 5;

/// A query of gregor's, as far as replies need it.
struct Query {
    message: Vec<u8>,
    question: Question,
}

impl Query {
    fn read(message: &[u8]) -> Self {
        Self {
            message: message.to_vec(),
            question: Question::read(message),
        }
    }

    fn has_opt(&self) -> bool {
        self.message[11] == 1
    }

    fn is_mixed(&self) -> bool {
        self.message[12..self.question.end]
            .iter()
            .any(u8::is_ascii_uppercase)
    }

    /// The first label of the name that is asked for, in lower case.
    fn label(&self) -> &str {
        &self.question.labels[0]
    }

    fn reply(&self, rcode: u8, answers: &[Vec<u8>], authorities: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = self.message[..2].to_vec();
        bytes.extend([0x81, 0x80 | rcode, 0, 1]);
        bytes.extend((answers.len() as u16).to_be_bytes());
        bytes.extend((authorities.len() as u16).to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(&self.message[12..self.question.end]);
        bytes.extend(answers.iter().chain(authorities).flatten());
        bytes
    }

    fn address(&self) -> Vec<u8> {
        self.reply(NOERROR, &[record(&QNAME, A, 1, 5, &GOOD.octets())], &[])
    }

    fn nodata(&self) -> Vec<u8> {
        let mut soa = name("ns.cluster.local");
        soa.extend(name("hostmaster.cluster.local"));
        soa.extend([0, 0, 0, 5].repeat(5));
        self.reply(
            NOERROR,
            &[],
            &[record(&name("cluster.local"), 6, 1, 5, &soa)],
        )
    }

    /// A target with one IPv4 address.
    fn ordinary(&self) -> Vec<u8> {
        match self.question.qtype {
            A => self.address(),
            _ => self.nodata(),
        }
    }

    fn lower_cased(&self) -> Vec<u8> {
        let mut reply = self.ordinary();
        reply[12..self.question.end - 4].make_ascii_lowercase();
        reply
    }
}

/// The behaviour of a server; the test controls the second argument.
type Script = fn(&Query, bool) -> Option<Vec<u8>>;

/// A server in the node, over UDP alone: TCP is refused.
struct Upstream {
    asked: Arc<Mutex<Vec<Query>>>,
    switch: Arc<AtomicBool>,
    _server: UdpServer,
}

impl Upstream {
    fn start(lab: &Lab, script: Script) -> Self {
        let asked: Arc<Mutex<Vec<Query>>> = Arc::default();
        let switch: Arc<AtomicBool> = Arc::default();
        let (log, is_on) = (asked.clone(), switch.clone());
        let server = UdpServer::start(lab, UPSTREAM, move |query| {
            let query = Query::read(query);
            let reply = script(&query, is_on.load(Ordering::Relaxed));
            log.lock().unwrap().push(query);
            reply
        });
        Self {
            asked,
            switch,
            _server: server,
        }
    }
}

fn start(lab: &Lab, more: &str) -> Gregor {
    let config = format!(
        "{}{more}[upstream]\nserver = \"{UPSTREAM}\"\ntimeout = \"2s\"\n",
        lab.gregor_config()
    );
    lab.start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap()
}

fn ask(lab: &Lab, qname: &str, qtype: RecordType) -> Message {
    let mut ask = Ask::new(NODE_LOCAL_V4.into(), qname, qtype);
    ask.timeout = Duration::from_secs(30);
    lab.pod("foo").ask(ask).unwrap()
}

fn assert_good(label: &str, reply: &Message) {
    assert_eq!(
        reply.metadata.response_code,
        ResponseCode::NoError,
        "{label}: {reply:?}"
    );
    assert_eq!(addresses(reply), [IpAddr::V4(GOOD)], "{label}: {reply:?}");
}

fn assert_servfail(label: &str, reply: &Message) {
    assert_eq!(
        reply.metadata.response_code,
        ResponseCode::ServFail,
        "{label}: {reply:?}"
    );
    assert!(reply.answers.is_empty(), "{label}: {reply:?}");
}

fn failures(gregor: &Gregor) -> serde_json::Value {
    gregor.status().unwrap()["responder"]["chase_failures"].clone()
}

#[test]
fn servers_without_edns_and_case_sensitive_servers_answer_in_one_look_up() {
    fn bare(query: &Query, rcode: u8) -> Vec<u8> {
        let mut header = query.message[..12].to_vec();
        header[2..12].copy_from_slice(&[0x81, 0x80 | rcode, 0, 0, 0, 0, 0, 0, 0, 0]);
        header
    }
    // The target, its alias and the end, each asked for by itself.
    fn chained(query: &Query) -> Vec<u8> {
        let alias = |to: &str| query.reply(NOERROR, &[record(&QNAME, CNAME, 1, 5, &name(to))], &[]);
        match query.label() {
            "kafka-upstream" => alias("middle.example"),
            "middle" => alias("end.example"),
            _ => query.ordinary(),
        }
    }
    let kinds: &[(&str, Script)] = &[
        ("lower-cased chain of three", |query, _| {
            let mut reply = chained(query);
            reply[12..query.question.end - 4].make_ascii_lowercase();
            Some(reply)
        }),
        ("chain of three without EDNS", |query, _| {
            Some(if query.has_opt() {
                query.reply(FORMERR, &[], &[])
            } else {
                chained(query)
            })
        }),
        ("FORMERR", |query, _| {
            Some(if query.has_opt() {
                query.reply(FORMERR, &[], &[])
            } else {
                query.ordinary()
            })
        }),
        ("NOTIMP", |query, _| {
            Some(if query.has_opt() {
                query.reply(NOTIMP, &[], &[])
            } else {
                query.ordinary()
            })
        }),
        ("a header alone", |query, _| {
            Some(if query.has_opt() {
                bare(query, FORMERR)
            } else {
                query.ordinary()
            })
        }),
        ("silence to an OPT", |query, _| {
            (!query.has_opt()).then(|| query.ordinary())
        }),
        ("lower-cased question", |query, _| Some(query.lower_cased())),
        ("NXDOMAIN to mixed case", |query, _| {
            Some(if query.is_mixed() {
                query.reply(NXDOMAIN, &[], &[])
            } else {
                query.ordinary()
            })
        }),
        ("REFUSED to mixed case", |query, _| {
            Some(if query.is_mixed() {
                query.reply(REFUSED, &[], &[])
            } else {
                query.ordinary()
            })
        }),
        ("neither EDNS nor case", |query, _| {
            Some(if query.has_opt() {
                bare(query, NOTIMP)
            } else {
                query.lower_cased()
            })
        }),
    ];
    let lab = Lab::builder("e2eodd").pod("foo").start().unwrap();
    for (label, script) in kinds {
        let upstream = Upstream::start(&lab, *script);
        let gregor = start(&lab, "");
        assert_good(label, &ask(&lab, &qualified("foo"), RecordType::A));
        // The next look-up uses what the first one found out about the server.
        upstream.asked.lock().unwrap().clear();
        assert_good(label, &ask(&lab, &qualified("bar"), RecordType::A));
        let steps = if label.contains("chain") { 3 } else { 1 };
        assert_eq!(upstream.asked.lock().unwrap().len(), steps, "{label}");
        let failed = failures(&gregor);
        assert!(
            failed.as_object().unwrap().values().all(|count| count == 0),
            "{label}: {failed}"
        );
        gregor.stop();
    }
}

#[test]
fn a_truncated_reply_without_tcp_is_labelled_tcp() {
    let lab = Lab::builder("e2enotcp").pod("foo").start().unwrap();
    let upstream = Upstream::start(&lab, |query, is_cut| {
        let mut reply = query.ordinary();
        if is_cut {
            reply[2] |= 2;
        }
        Some(reply)
    });
    let gregor = start(&lab, "[answer]\nkernel = false\n");
    assert_good("before", &ask(&lab, &qualified("foo"), RecordType::A));
    upstream.switch.store(true, Ordering::Relaxed);
    // A tenant without a cached answer, and one with a last good answer.
    assert_servfail("unknown", &ask(&lab, &qualified("bar"), RecordType::A));
    thread::sleep(Duration::from_secs(6));
    assert_good("known", &ask(&lab, &qualified("foo"), RecordType::A));
    let failed = failures(&gregor);
    assert_eq!(failed["tcp"], 2, "{failed}");
    assert_eq!(failed["network"], 0, "{failed}");
    assert_eq!(failed["timeout"], 0, "{failed}");
}

#[test]
fn a_target_without_any_address_is_a_failure_and_the_resolver_tries_the_next_name() {
    let kinds: &[(&str, Script, &str)] = &[
        (
            "an address for a name",
            |query, _| {
                Some(if query.label() == "10" {
                    query.nodata()
                } else {
                    query.reply(
                        NOERROR,
                        &[record(&QNAME, CNAME, 1, 5, &name("10.0.0.5"))],
                        &[],
                    )
                })
            },
            "must be a name",
        ),
        (
            "nothing at all",
            |query, _| Some(query.reply(NOERROR, &[], &[])),
            "no address",
        ),
        (
            "another class",
            |query, _| Some(query.reply(NOERROR, &[record(&QNAME, A, 3, 5, &GOOD.octets())], &[])),
            "no address",
        ),
        (
            "NODATA for both",
            |query, _| Some(query.nodata()),
            "no address",
        ),
    ];
    let lab = Lab::builder("e2enoaddr").pod("foo").start().unwrap();
    for (label, script, logged) in kinds {
        let _upstream = Upstream::start(&lab, *script);
        let gregor = start(&lab, "");
        for qtype in [RecordType::A, RecordType::AAAA, RecordType::A] {
            assert_servfail(label, &ask(&lab, &qualified("foo"), qtype));
        }
        let metrics = Metrics::of(&gregor);
        assert!(metrics.get("gregor_targets_without_address_total") >= 1.0);
        assert!(gregor.log().contains(logged), "{label}: {}", gregor.log());
        // glibc goes on to the name without the namespace: never worse than no answer.
        let found = lab.pod("foo").getent(BROKER);
        assert!(!found.unwrap().is_empty(), "{label}");
        let explained = gregor
            .command(&[
                "explain",
                &format!("{}.", qualified("foo")),
                "--config",
                gregor.config_path().to_str().unwrap(),
            ])
            .unwrap();
        let text = String::from_utf8_lossy(&explained.stdout).into_owned();
        assert!(text.contains("SERVFAIL"), "{label}: {text}");
        assert_eq!(
            text.contains("externalName looks like an address (10.0.0.5)"),
            *label == "an address for a name",
            "{text}"
        );
        gregor.stop();
    }
}

#[test]
fn a_query_for_the_cname_of_a_service_with_addresses_gets_the_cname_alone() {
    let lab = Lab::builder("e2ecname").pod("foo").start().unwrap();
    let _upstream = Upstream::start(&lab, |query, _| Some(query.ordinary()));
    let _gregor = start(&lab, "");
    for _ in 0..2 {
        let reply = ask(&lab, &qualified("foo"), RecordType::CNAME);
        let expected = (format!("{}.", qualified("foo")), format!("{TARGET}."));
        assert_eq!(chain(&reply), [expected], "{reply}");
        assert_eq!((reply.answers.len(), reply.authorities.len()), (1, 0));
    }
    // One family alone is a NODATA as before.
    let reply = ask(&lab, &qualified("foo"), RecordType::AAAA);
    assert_eq!((reply.answers.len(), reply.authorities.len()), (1, 1));
}

#[test]
fn sixty_queries_of_another_type_are_never_a_denial() {
    let lab = Lab::builder("e2etypes").pod("foo").start().unwrap();
    let _upstream = Upstream::start(&lab, |query, _| Some(query.ordinary()));
    let gregor = start(&lab, "");
    for qtype in [RecordType::TXT, RecordType::MX, RecordType::SRV] {
        for _ in 0..60 {
            let reply = ask(&lab, &qualified("foo"), qtype);
            assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
            assert_eq!(chain(&reply).len(), 1, "{qtype}: {reply}");
        }
    }
    let status = gregor.status().unwrap();
    assert_eq!(status["responder"]["passed_on"]["rate_limited"], 0);
}

/// The upstream has an A record still, and denies AAAA.
#[test]
fn families_agree_while_a_service_is_deleted() {
    let lab = Lab::builder("e2egoes").pod("foo").start().unwrap();
    let upstream = Upstream::start(&lab, |query, is_gone| {
        Some(if is_gone && query.question.qtype == AAAA {
            query.reply(NXDOMAIN, &[], &[])
        } else {
            query.ordinary()
        })
    });
    let _gregor = start(&lab, "");
    let rcodes = || {
        [RecordType::A, RecordType::AAAA]
            .map(|qtype| ask(&lab, &qualified("foo"), qtype).metadata.response_code)
    };
    assert_eq!(rcodes(), [ResponseCode::NoError; 2]);
    upstream.switch.store(true, Ordering::Relaxed);
    e2e::until("the denial is seen", || {
        (rcodes()[1] == ResponseCode::NXDomain).then_some(())
    });
    // Over two expiries of the denial.
    for _ in 0..12 {
        assert_eq!(rcodes(), [ResponseCode::NXDomain; 2]);
        thread::sleep(Duration::from_secs(1));
    }
    upstream.switch.store(false, Ordering::Relaxed);
    e2e::until("both are there again", || {
        (rcodes() == [ResponseCode::NoError; 2]).then_some(())
    });
}

#[test]
fn a_target_that_is_another_rules_name_is_followed() {
    let lab = Lab::builder("e2efollow").pod("foo").start().unwrap();
    let _upstream = Upstream::start(&lab, |query, _| {
        Some(if query.label() == "kafka-upstream" {
            query.ordinary()
        } else {
            query.reply(NXDOMAIN, &[], &[])
        })
    });
    let gregor = start(
        &lab,
        "[[rule]]\nname = \"global\"\nmatch = \"bootstrap.{namespace}.svc.cluster.local\"\n\
         cname = \"b-1.aws.private.kafka.managed.{namespace}.svc.cluster.local\"\n",
    );
    let global = "bootstrap.foo.svc.cluster.local";
    let zonal = "b-1.aws.private.kafka.managed.foo.svc.cluster.local";
    // The second time from the kernel.
    for _ in 0..2 {
        let reply = ask(&lab, global, RecordType::A);
        assert_good("followed", &reply);
        assert_eq!(
            chain(&reply),
            [
                (format!("{global}."), format!("{zonal}.")),
                (format!("{zonal}."), format!("{TARGET}."))
            ]
        );
    }
    let explained = gregor
        .command(&[
            "explain",
            &format!("{global}."),
            "--config",
            gregor.config_path().to_str().unwrap(),
        ])
        .unwrap();
    let text = String::from_utf8_lossy(&explained.stdout).into_owned();
    assert!(
        text.contains("rule `global`") && text.contains("rule `kafka`"),
        "{text}"
    );
}

/// dnsmasq replies with an empty NOERROR for a name that lacks the type asked for.
#[test]
fn behind_dnsmasq_a_target_without_any_address_is_a_failure_and_one_family_a_nodata() {
    let lab = Lab::builder("e2ednsmasq").pod("foo").start().unwrap();
    let mut command = Command::new(tools::dnsmasq().unwrap());
    command.args([
        "--keep-in-foreground",
        "--log-facility=-",
        "--conf-file=/dev/null",
        "--pid-file=",
        "--user=root",
        "--no-resolv",
        "--no-hosts",
        "--bind-interfaces",
        "--except-interface=lo",
        "--listen-address=127.0.0.53",
        "--local=/svc.cluster.local/example/",
        "--local-ttl=5",
        "--host-record=kafka-upstream.foo.svc.cluster.local,10.77.0.1",
        "--txt-record=kafka-upstream.text.svc.cluster.local,no address",
        "--host-record=end.example,10.77.0.1",
        "--cname=kafka-upstream.alias.svc.cluster.local,end.example",
    ]);
    let address = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
    let _dnsmasq = lab.start_in_node(command, "dnsmasq.log", address).unwrap();
    let config = format!(
        "{}[upstream]\nserver = \"{address}\"\n",
        lab.gregor_config()
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    for namespace in ["foo", "alias"] {
        assert_good(namespace, &ask(&lab, &qualified(namespace), RecordType::A));
        let reply = ask(&lab, &qualified(namespace), RecordType::AAAA);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(addresses(&reply).is_empty() && !chain(&reply).is_empty());
    }
    for qtype in [RecordType::A, RecordType::AAAA] {
        assert_servfail("text", &ask(&lab, &qualified("text"), qtype));
    }
    assert!(Metrics::of(&gregor).get("gregor_targets_without_address_total") >= 1.0);
    // Existing records are answered.
    let reply = ask(&lab, &qualified("text"), RecordType::TXT);
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.answers.len(), 2, "{reply}");
    // No such name: the query passes.
    let reply = ask(&lab, &qualified("baz"), RecordType::A);
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
}
