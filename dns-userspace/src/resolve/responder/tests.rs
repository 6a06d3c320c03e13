//! The responder against a source whose outcomes the test gives, and an injector that records what is sent.

mod changes;
mod families;
mod follow;
mod known;
mod protect;
mod targets;

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque},
    io,
    net::IpAddr,
    time::Duration,
};

use dns_common::answer;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::sync::oneshot;

use super::{intake::Plan, *};
use crate::{
    model::{Reinjection, Term},
    resolve::{
        cache::NEGATIVE_LIFETIME,
        chain::{Answer, Failure, Outcome},
        compose::Section,
        engine::{Action, GRACE, OTHER_TYPES_PER_SECOND},
        testing::*,
    },
    rules::{MatchSpec, RuleSet, RuleSpec},
};

const TARGET: &str = "kafka-upstream.foo.svc.cluster.local.";
const QNAME: &str = "lkc-1.aws.private.kafka.managed.foo.svc.cluster.local.";
const SERVER: &str = "169.254.20.10:53";

thread_local! {
    /// How far the clock of this test has been moved; `#[tokio::test]` keeps to one thread.
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    static START: Instant = Instant::now();
}

fn clock() -> Instant {
    START.with(|start| *start) + PASSED.get()
}

fn pass(seconds: u64) {
    PASSED.set(PASSED.get() + Duration::from_secs(seconds));
}

type Question = (Name, RecordType, SocketAddr);
type Pending = VecDeque<(Question, oneshot::Sender<Outcome>)>;

/// Look-ups wait until the test gives them an outcome.
#[derive(Clone, Default)]
struct Scripted {
    pending: Arc<Mutex<Pending>>,
    /// The argument of each look-up.
    has_address: Arc<Mutex<Vec<bool>>>,
}

impl TargetSource for Scripted {
    async fn look_up(
        &self,
        target: &Name,
        qtype: RecordType,
        upstream: SocketAddr,
        has_address: bool,
    ) -> Outcome {
        let (sender, receiver) = oneshot::channel();
        let asked = (target.clone(), qtype, upstream);
        self.has_address.lock().unwrap().push(has_address);
        self.pending.lock().unwrap().push_back((asked, sender));
        receiver.await.expect("a look-up that the test abandoned")
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Sent {
    Reply(u32, Vec<u8>),
    PassedOn(u32),
}

#[derive(Clone, Default)]
struct Recorder {
    sent: Arc<Mutex<Vec<Sent>>>,
}

impl Inject for Recorder {
    fn reply(&self, query: &QueryFrame, message: &[u8]) -> io::Result<()> {
        let sent = Sent::Reply(query.ifindex, message.to_vec());
        self.sent.lock().unwrap().push(sent);
        Ok(())
    }

    fn pass_on(&self, query: &QueryFrame) -> io::Result<()> {
        self.sent
            .lock()
            .unwrap()
            .push(Sent::PassedOn(query.ifindex));
        Ok(())
    }
}

struct Lab {
    responder: Arc<Responder<Scripted, Recorder>>,
    source: Scripted,
    injector: Recorder,
}

impl Lab {
    /// A query on interface 3 that the program has taken by the rule at this index.
    fn intercepts(
        &self,
        rules: &Arc<RuleSet>,
        rule: usize,
        client: Option<(u32, Arc<crate::model::Client>)>,
        answers: Arc<Published>,
        message: &[u8],
    ) {
        let query = frame(3, message);
        self.responder.handle(Intercepted {
            client,
            held: None,
            ifindex: query.ifindex,
            rule,
            rules: rules.clone(),
            answers,
            is_answered: false,
            vlan: query.vlan,
            reinjection: query.reinjection,
            l3_offset: query.l3_offset,
            frame: query.frame,
        });
    }

    fn new(options: ResponderOptions) -> Lab {
        Lab::with_stats(options, &Arc::default())
    }

    fn with_stats(options: ResponderOptions, stats: &Arc<Stats>) -> Lab {
        let (source, injector) = (Scripted::default(), Recorder::default());
        let responder = Responder::with_clock(
            options,
            source.clone(),
            injector.clone(),
            stats.clone(),
            clock,
        );
        Lab {
            responder: Arc::new(responder),
            source,
            injector,
        }
    }

    /// A query from an interface; the label before `svc` says the namespace.
    fn asks(&self, ifindex: u32, id: u16, qname: &str, qtype: RecordType) {
        self.asks_with(ifindex, &query_bytes(id, qname, qtype, Some((1232, false))));
    }

    fn asks_with(&self, ifindex: u32, message: &[u8]) {
        let frame = frame(ifindex, message);
        self.takes(frame, None, |qname| {
            let labels: Vec<&[u8]> = labels(qname);
            let at = labels.iter().position(|label| *label == b"svc")?;
            let namespace = std::str::from_utf8(labels[at - 1]).ok()?;
            Some(Plan {
                via: vec![],
                target: name(&format!("kafka-upstream.{namespace}.svc.cluster.local.")),
                namespace: Some(namespace.to_owned()),
                published_by: None,
                rule_ttl: Duration::from_secs(60),
            })
        });
    }

    fn takes(
        &self,
        frame: QueryFrame,
        program: Option<Program>,
        plan: impl FnOnce(&[u8]) -> Option<Plan>,
    ) {
        let query = self
            .responder
            .accept_frame(frame, program, None, |qname| plan(qname).into());
        if let Some(query) = query {
            self.responder.apply(Event::Query(query));
        }
    }

    /// Lets the spawned look-ups run as far as they can.
    async fn settle(&self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
    }

    /// Ends the oldest look-up.
    async fn resolve(&self, outcome: Outcome) -> Question {
        self.settle().await;
        let (asked, sender) = self.source.pending.lock().unwrap().pop_front().unwrap();
        sender.send(outcome).unwrap();
        self.settle().await;
        asked
    }

    async fn pending(&self) -> usize {
        self.settle().await;
        self.source.pending.lock().unwrap().len()
    }

    fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.injector.sent.lock().unwrap())
    }

    /// The replies sent since the last look, parsed; fails when anything else was sent.
    fn replies(&self) -> Vec<Message> {
        let reply = |sent| match sent {
            Sent::Reply(_, bytes) => Message::from_vec(&bytes).unwrap(),
            Sent::PassedOn(_) => panic!("passed on"),
        };
        self.sent().into_iter().map(reply).collect()
    }

    fn reply(&self) -> Message {
        let mut replies = self.replies();
        assert_eq!(replies.len(), 1);
        replies.remove(0)
    }
}

fn labels(mut wire: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    while wire[0] != 0 {
        let (label, rest) = wire[1..].split_at(wire[0].into());
        labels.push(label);
        wire = rest;
    }
    labels
}

fn frame(ifindex: u32, message: &[u8]) -> QueryFrame {
    let udp_len = 8 + message.len() as u16;
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0]);
    frame.extend((20 + udp_len).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 169, 254, 20, 10]);
    frame.extend([0x9c, 0x40, 0, 53]);
    frame.extend(udp_len.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(message);
    QueryFrame {
        held: None,
        ifindex,
        vlan: None,
        reinjection: Reinjection::default(),
        l3_offset: 14,
        frame,
    }
}

fn found(count: u8, ttl_seconds: u32) -> Outcome {
    Outcome::Answer(addresses(&[TARGET], count, ttl_seconds))
}

/// The target exists and has nothing of the type.
fn nodata(qtype: RecordType) -> Outcome {
    Outcome::Answer(Answer {
        qtype,
        soa: Some(Box::new((name("cluster.local."), soa_data(30)))),
        ..addresses(&[TARGET], 0, 30)
    })
}

fn rules(specs: &[(&str, MatchSpec, &str, u32)]) -> Arc<RuleSet> {
    let specs: Vec<RuleSpec> = specs
        .iter()
        .map(|(name, matches, cname, ttl_seconds)| RuleSpec {
            name: (*name).to_owned(),
            matches: matches.clone(),
            cname: (*cname).to_owned(),
            ttl_seconds: *ttl_seconds,
            follow: true,
            ..RuleSpec::default()
        })
        .collect();
    Arc::new(RuleSet::compile(&specs).unwrap())
}

fn pattern(text: &str) -> MatchSpec {
    MatchSpec::Pattern(text.to_owned())
}

/// The article's rule.
fn kafka_rule(ttl_seconds: u32) -> Arc<RuleSet> {
    rules(&[(
        "kafka",
        pattern("*.aws.private.kafka.managed.{namespace}.svc.cluster.local"),
        "kafka-upstream.{namespace}.svc.cluster.local",
        ttl_seconds,
    )])
}

fn timeout() -> Outcome {
    Outcome::Failed(Failure::Timeout)
}

fn ttl(message: &Message) -> u32 {
    message.answers[0].ttl
}

/// Of a reply without records whose OPT has nothing but an extended error (RFC 8914 §2).
fn extended_error_code(reply: &[u8]) -> u16 {
    let query = query_bytes(
        0,
        &QNAME.replace("foo", "bar"),
        RecordType::A,
        Some((0, false)),
    );
    let option = &reply[query.len()..];
    assert_eq!(option[..2], [0, 15]);
    u16::from_be_bytes([option[4], option[5]])
}

fn is_servfail(message: &Message) -> bool {
    message.metadata.response_code == ResponseCode::ServFail
}

#[tokio::test]
async fn the_first_query_is_looked_up_and_the_next_is_answered_from_the_cache() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::A);
    assert_eq!(lab.sent(), []);
    let asked = lab.resolve(found(1, 20)).await;
    assert_eq!(
        asked,
        (name(TARGET), RecordType::A, SERVER.parse().unwrap())
    );
    let first = lab.reply();
    assert_eq!(first.metadata.id, 1);
    assert_eq!(
        first.answers,
        [cname(QNAME, 20, TARGET), a(TARGET, 20, [10, 0, 0, 1])]
    );

    pass(5);
    // Another broker, another pod, the same tenant.
    let other = QNAME.replace("lkc-1", "LKC-77");
    lab.asks(4, 2, &other, RecordType::A);
    let second = lab.reply();
    assert_eq!(second.answers[0], cname(&other, 15, TARGET));
    assert_eq!(lab.pending().await, 0);
    let status = lab.responder.status();
    assert_eq!((status.queries, status.chases), (2, 1));
    assert_eq!(status.namespaces["foo"]["answer"], 2);
}

#[tokio::test]
async fn the_counters_of_a_responder_go_on_in_its_successor() {
    let stats = Arc::new(Stats::default());
    for queries in 1..=3 {
        let lab = Lab::with_stats(ResponderOptions::default(), &stats);
        lab.asks(3, 1, QNAME, RecordType::A);
        lab.resolve(found(1, 20)).await;
        let status = lab.responder.status();
        assert_eq!(
            (status.queries, status.replies["NOERROR"]),
            (queries, queries)
        );
        assert_eq!(status.namespaces["foo"]["answer"], queries);
        assert_eq!(status.stores["answers"], 1, "of the one in force");
    }
}

#[tokio::test]
async fn ttls_are_capped_by_max_ttl_and_age() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(found(1, 3600)).await;
    assert_eq!(ttl(&lab.reply()), 30);
    pass(29);
    lab.asks(3, 1, QNAME, RecordType::A);
    assert_eq!(ttl(&lab.reply()), 1);
    pass(1);
    lab.asks(3, 1, QNAME, RecordType::A);
    assert_eq!(lab.pending().await, 1);
}

#[tokio::test]
async fn one_look_up_answers_all_waiting_queries_retries_included() {
    let lab = Lab::new(ResponderOptions::default());
    for (ifindex, id) in [(3, 1), (3, 1), (3, 2), (4, 1)] {
        lab.asks(ifindex, id, QNAME, RecordType::A);
    }
    assert_eq!(lab.pending().await, 1);
    assert_eq!(lab.responder.status().chases_in_flight, 1);
    lab.resolve(found(2, 20)).await;
    let replies = lab.sent();
    let to: Vec<(u32, u8)> = replies
        .iter()
        .map(|sent| match sent {
            Sent::Reply(ifindex, bytes) => (*ifindex, bytes[1]),
            Sent::PassedOn(_) => panic!("passed on"),
        })
        .collect();
    assert_eq!(to, [(3, 1), (3, 1), (3, 2), (4, 1)]);
    assert_eq!(lab.responder.status().chases_in_flight, 0);
    lab.responder.drained().await;
}

#[tokio::test]
async fn answers_to_one_qtype_alternate_although_others_come_between() {
    let lab = Lab::new(ResponderOptions::default());
    let v6 = Outcome::Answer(Answer {
        qtype: RecordType::AAAA,
        rdata: vec![vec![1; 16], vec![2; 16]],
        ..addresses(&[TARGET], 0, 20)
    });
    let mut leads = HashMap::new();
    for round in 0..4 {
        for (qtype, outcome) in [
            (RecordType::A, found(2, 20)),
            (RecordType::AAAA, v6.clone()),
        ] {
            lab.asks(3, round, QNAME, qtype);
            if round == 0 {
                lab.resolve(outcome).await;
            }
            let lead = lab.reply().answers[1].data.to_string();
            *leads.entry((qtype, lead)).or_insert(0) += 1;
        }
    }
    assert_eq!(leads.len(), 4);
    assert!(leads.values().all(|&times| times == 2));
}

#[tokio::test]
async fn without_target_every_query_passes_to_the_cache() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.asks(4, 1, QNAME, RecordType::A);
    lab.resolve(Outcome::NoTarget).await;
    assert_eq!(lab.sent(), [Sent::PassedOn(3), Sent::PassedOn(4)]);
    // Cached for every qtype now, but not for long.
    lab.asks(3, 1, QNAME, RecordType::AAAA);
    lab.asks(3, 1, QNAME, RecordType::MX);
    assert_eq!(lab.sent(), [Sent::PassedOn(3), Sent::PassedOn(3)]);
    assert_eq!(lab.pending().await, 0);
    pass(5);
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(found(1, 20)).await;
    assert_eq!(lab.reply().answers.len(), 2);
    assert_eq!(lab.responder.status().passed_on["no_target"], 4);
}

#[tokio::test]
async fn namespaces_never_see_each_others_answers() {
    let lab = Lab::new(ResponderOptions::default());
    let bar = QNAME.replace("foo", "bar");
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.asks(4, 2, &bar, RecordType::A);
    lab.resolve(found(1, 20)).await;
    assert_eq!(lab.replies().len(), 1);
    let asked = lab.resolve(Outcome::NoTarget).await;
    assert_eq!(asked.0, name("kafka-upstream.bar.svc.cluster.local."));
    assert_eq!(lab.sent(), [Sent::PassedOn(4)]);
}

#[tokio::test]
async fn a_failing_upstream_gets_the_last_good_answer_until_serve_stale() {
    let lab = Lab::new(ResponderOptions {
        serve_stale: Duration::from_secs(100),
        ..ResponderOptions::default()
    });
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(found(1, 10)).await;
    lab.sent();

    pass(40);
    lab.asks(3, 2, QNAME, RecordType::A);
    lab.resolve(timeout()).await;
    let stale = lab.reply();
    assert_eq!((ttl(&stale), stale.answers.len()), (30, 2));
    // The failure is cached: the next query does not wait.
    pass(4);
    lab.asks(3, 3, QNAME, RecordType::A);
    assert_eq!(lab.reply().answers.len(), 2);
    assert_eq!(lab.responder.status().stale_answers, 2);

    pass(66);
    lab.asks(3, 4, QNAME, RecordType::A);
    lab.resolve(timeout()).await;
    let reply = lab.reply();
    assert!(is_servfail(&reply) && reply.answers.is_empty());
    let status = lab.responder.status();
    assert_eq!(status.chase_failures["timeout"], 2);
    assert_eq!(status.replies["SERVFAIL"], 1);
}

#[tokio::test]
async fn a_failing_upstream_gives_the_last_good_answer_else_servfail_with_its_extended_error() {
    for (failure, code) in [
        (Failure::Timeout, 22),
        (Failure::Network, 23),
        (Failure::Tcp, 23),
        (Failure::Rcode, 0),
        (Failure::Unusable, 0),
    ] {
        let lab = Lab::new(ResponderOptions::default());
        lab.asks(3, 1, QNAME, RecordType::A);
        lab.resolve(found(1, 10)).await;
        lab.sent();
        pass(11);
        lab.asks(3, 2, QNAME, RecordType::A);
        lab.resolve(Outcome::Failed(failure)).await;
        assert_eq!(lab.reply().answers.len(), 2, "{failure:?}");

        lab.asks(3, 3, &QNAME.replace("foo", "bar"), RecordType::A);
        lab.resolve(Outcome::Failed(failure)).await;
        let [Sent::Reply(_, bytes)] = &lab.sent()[..] else {
            panic!("not one reply to {failure:?}");
        };
        let reply = Message::from_vec(bytes).unwrap();
        assert!(is_servfail(&reply), "{failure:?}");
        assert_eq!(extended_error_code(bytes), code, "{failure:?}");
        let counted = lab.responder.status().chase_failures;
        assert_eq!(counted[failure.label()], 2, "{failure:?}");
    }
}

#[tokio::test]
async fn failures_are_cached_for_five_seconds_and_not_as_success() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(timeout()).await;
    assert!(is_servfail(&lab.reply()));
    pass(4);
    lab.asks(3, 2, QNAME, RecordType::A);
    assert!(is_servfail(&lab.reply()));
    assert_eq!(lab.pending().await, 0);
    pass(1);
    lab.asks(3, 3, QNAME, RecordType::A);
    lab.resolve(found(1, 10)).await;
    assert!(!is_servfail(&lab.reply()));
}

fn local_failure() -> Outcome {
    Outcome::Failed(Failure::Local)
}

/// SEMANTICS rule 13.
#[tokio::test]
async fn a_local_failure_is_never_servfail() {
    let lab = Lab::new(ResponderOptions {
        serve_stale: Duration::from_secs(100),
        ..ResponderOptions::default()
    });
    // Unknown: the existing cache answers.
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(local_failure()).await;
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);

    // Not remembered: it may be over the next moment.
    lab.asks(3, 2, QNAME, RecordType::A);
    lab.resolve(found(1, 10)).await;
    assert_eq!(lab.reply().answers.len(), 2);

    // Known: the last good answer, again and again.
    pass(11);
    for id in 0..3 {
        lab.asks(3, id, QNAME, RecordType::A);
        lab.resolve(local_failure()).await;
        let stale = lab.reply();
        assert_eq!((ttl(&stale), stale.answers.len()), (30, 2));
    }

    // Another type of a name that exists: the existing cache would deny the name.
    for qtype in [RecordType::AAAA, RecordType::TXT] {
        lab.asks(3, 3, QNAME, qtype);
        lab.resolve(local_failure()).await;
        assert_eq!(lab.sent(), [], "{qtype}");
    }

    // Once `serve_stale` is over, nothing is known.
    pass(100);
    lab.asks(3, 4, QNAME, RecordType::A);
    lab.resolve(local_failure()).await;
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);

    let status = lab.responder.status();
    assert_eq!(status.passed_on["local_failure"], 2);
    assert_eq!(status.unanswered, 2);
    assert_eq!(status.stale_answers, 3);
    assert_eq!(status.replies["SERVFAIL"], 0);
    assert_eq!(status.chase_failures["local"], 7);
}

#[tokio::test]
async fn a_local_failure_withdraws_nothing_from_the_program() {
    let lab = Lab::new(ResponderOptions::default());
    let published = Arc::new(Published::default());
    // In the program's table only, as after a change of the configuration.
    from_program(&lab, &published, RecordType::A, true);
    lab.resolve(local_failure()).await;
    assert_eq!((published.take(), lab.sent()), (vec![], vec![]));

    from_program(&lab, &published, RecordType::A, false);
    lab.resolve(found(1, 20)).await;
    lab.reply();
    published.take();
    pass(21);
    from_program(&lab, &published, RecordType::A, true);
    lab.resolve(local_failure()).await;
    let stale = Term {
        fresh: NEGATIVE_LIFETIME,
        grace: GRACE,
        fixed_ttl: Some(30),
        unattended: SERVE_STALE - Duration::from_secs(1),
    };
    let key = kernel_key(RecordType::A);
    assert_eq!(published.take(), [Publication::Answer(3, key, stale)]);
}

#[tokio::test]
async fn a_broken_chain_is_servfail_and_no_stale_answer() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(found(1, 10)).await;
    lab.sent();
    pass(11);
    lab.asks(3, 2, QNAME, RecordType::A);
    lab.resolve(Outcome::BrokenChain).await;
    assert!(is_servfail(&lab.reply()));
    lab.asks(3, 3, QNAME, RecordType::A);
    assert!(is_servfail(&lab.reply()));
    assert_eq!(lab.responder.status().broken_chains, 1);
}

#[tokio::test]
async fn over_its_limit_the_queries_of_an_interface_pass_and_others_do_not() {
    let lab = Lab::new(ResponderOptions {
        chases_per_interface: 2,
        ..ResponderOptions::default()
    });
    let of = |number: u32| QNAME.replace("foo", &format!("ns-{number}"));
    for number in 0..5 {
        lab.asks(3, 1, &of(number), RecordType::A);
    }
    assert_eq!(lab.sent(), vec![Sent::PassedOn(3); 3]);
    lab.asks(4, 1, &of(4), RecordType::A);
    assert_eq!(lab.sent(), []);
    assert_eq!(lab.pending().await, 3);
    assert_eq!(lab.responder.status().passed_on["busy"], 3);
}

/// SEMANTICS rule 13: a pass would make the cache deny the name.
#[tokio::test]
async fn over_its_limit_an_interface_gets_cached_answers() {
    let lab = Lab::new(ResponderOptions {
        chases_per_interface: 1,
        ..ResponderOptions::default()
    });
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.resolve(found(1, 10)).await;
    lab.sent();
    pass(11);
    lab.asks(3, 2, &QNAME.replace("foo", "bar"), RecordType::A);
    assert_eq!(lab.pending().await, 1);

    lab.asks(3, 3, QNAME, RecordType::A);
    let stale = lab.reply();
    assert_eq!((ttl(&stale), stale.answers.len()), (30, 2));
    // The name exists: no other server may be asked about it, and what it has is not known.
    lab.asks(3, 4, QNAME, RecordType::AAAA);
    assert_eq!(lab.sent(), []);
    lab.asks(3, 5, &QNAME.replace("foo", "baz"), RecordType::A);
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
    assert_eq!(lab.responder.status().passed_on["busy"], 1);
}

#[tokio::test]
async fn queries_that_no_rule_matches_or_that_do_not_parse_are_passed_on() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, "lkc-1.example.", RecordType::A);
    lab.asks_with(3, &query_bytes(1, QNAME, RecordType::A, None)[..30]);
    assert_eq!(lab.sent(), [Sent::PassedOn(3), Sent::PassedOn(3)]);
    let passed = lab.responder.status().passed_on;
    assert_eq!((passed["no_rule"], passed["query"]), (1, 1));
}

#[tokio::test]
async fn a_look_up_that_panics_passes_its_waiting_queries_on() {
    let lab = Lab::new(ResponderOptions::default());
    lab.asks(3, 1, QNAME, RecordType::A);
    lab.settle().await;
    // Makes the source panic.
    lab.source.pending.lock().unwrap().clear();
    lab.settle().await;
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
    assert_eq!(lab.responder.status().chases_in_flight, 0);
    lab.asks(3, 2, QNAME, RecordType::A);
    assert_eq!(lab.pending().await, 1);
}

#[tokio::test]
async fn the_configured_upstream_is_asked_instead() {
    let upstream = "192.0.2.53:5353".parse().unwrap();
    let lab = Lab::new(ResponderOptions {
        upstream: Upstream::Addr(upstream),
        ..ResponderOptions::default()
    });
    lab.asks(3, 1, QNAME, RecordType::A);
    assert_eq!(lab.resolve(found(1, 9)).await.2, upstream);
}

#[tokio::test]
async fn nodata_is_noerror_with_the_chain() {
    let lab = Lab::new(ResponderOptions::default());
    let nodata = Answer {
        qtype: RecordType::AAAA,
        soa: Some(Box::new((name("cluster.local."), soa_data(30)))),
        ..addresses(&[TARGET], 0, 12)
    };
    lab.asks(3, 1, QNAME, RecordType::AAAA);
    lab.resolve(Outcome::Answer(nodata)).await;
    let reply = lab.reply();
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.answers, [cname(QNAME, 12, TARGET)]);
    assert_eq!(reply.authorities, [soa("cluster.local.", 12, 30)]);
}

#[tokio::test]
async fn rules_decide_about_the_target_and_their_ttl_is_a_cap() {
    let rules = kafka_rule(7);
    let lab = Lab::new(ResponderOptions::default());
    let published = Arc::new(Published::default());
    let ask = |rule, qname: &str| {
        let message = query_bytes(1, qname, RecordType::A, None);
        lab.intercepts(&rules, rule, None, published.clone(), &message);
    };
    let shouted = QNAME.to_uppercase();
    ask(0, &shouted);
    let asked = lab.resolve(found(1, 20)).await;
    assert_eq!(asked.0, name(TARGET));
    let reply = lab.reply();
    assert_eq!(reply.answers[0], cname(&shouted, 7, TARGET));
    assert!(reply.queries[0].name().eq_case(&name(&shouted)));
    assert_eq!(lab.responder.status().namespaces["foo"]["answer"], 1);

    // A rule that is not there, and one that does not match: what the kernel says is checked.
    ask(1, QNAME);
    ask(0, "aws.private.kafka.managed.foo.svc.cluster.local.");
    assert_eq!(lab.sent(), [Sent::PassedOn(3), Sent::PassedOn(3)]);
}

/// Of the default options.
const SERVE_STALE: Duration = Duration::from_secs(3600);

/// What was published, in order, and what the program has from before.
#[derive(Debug, Default)]
struct Published(Mutex<Vec<Publication>>, LastGood);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Publication {
    Answer(u32, answer::Key, Term),
    NoTarget(answer::Key, Duration),
    Withdrawn(answer::Key),
    /// The number of targets.
    Changed(usize),
}

impl Published {
    fn take(&self) -> Vec<Publication> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Publish for Published {
    fn key(
        &self,
        rule: u64,
        qtype: u16,
        _server: IpAddr,
        captures: &[String],
        client: u32,
    ) -> Option<answer::Key> {
        let captures: Vec<&[u8]> = captures.iter().map(|label| label.as_bytes()).collect();
        Some(answer::Key::new(rule, qtype, 0, &captures)?.of_client(client))
    }

    fn last_good(&self, _key: &answer::Key) -> LastGood {
        self.1.clone()
    }

    fn answer(&self, ifindex: u32, key: &answer::Key, body: &answer::Body, term: &Term) {
        assert!(body.fits());
        self.0
            .lock()
            .unwrap()
            .push(Publication::Answer(ifindex, *key, *term));
    }

    fn no_target(&self, _ifindex: u32, key: &answer::Key, left: Duration) {
        self.0
            .lock()
            .unwrap()
            .push(Publication::NoTarget(*key, left));
    }

    fn withdraw(&self, key: &answer::Key) {
        self.0.lock().unwrap().push(Publication::Withdrawn(*key));
    }

    fn withdraw_changed(
        &self,
        changes: &Changes,
        _: &dyn Fn(&[Name], &PublishedEntry<'_>) -> bool,
    ) {
        let changed = Publication::Changed(changes.len());
        self.0.lock().unwrap().push(changed);
    }
}

/// A program's queries, some of them answered by it already.
fn from_program(lab: &Lab, published: &Arc<Published>, qtype: RecordType, is_answered: bool) {
    let program = Program {
        is_known: false,
        answers: published.clone(),
        is_answered,
        refuses: false,
    };
    let query = frame(3, &query_bytes(1, QNAME, qtype, None));
    lab.takes(query, Some(program), |_| {
        Some(Plan {
            via: vec![],
            target: name(TARGET),
            namespace: Some("foo".to_owned()),
            published_by: Some(intake::PublishedBy {
                rule: 4,
                captures: vec!["foo".to_owned()],
                client: 0,
            }),
            rule_ttl: Duration::from_secs(60),
        })
    });
}

fn kernel_key(qtype: RecordType) -> answer::Key {
    answer::Key::new(4, qtype.into(), 0, &[b"foo"]).unwrap()
}

#[tokio::test]
async fn outcomes_are_published_and_a_query_that_the_program_answered_gets_no_second_reply() {
    let lab = Lab::new(ResponderOptions::default());
    let published = Arc::new(Published::default());
    from_program(&lab, &published, RecordType::A, false);
    lab.resolve(found(1, 20)).await;
    lab.reply();
    let key = kernel_key(RecordType::A);
    let term = Term {
        fresh: Duration::from_secs(20),
        grace: GRACE,
        fixed_ttl: None,
        unattended: SERVE_STALE + Duration::from_secs(20),
    };
    assert_eq!(published.take(), [Publication::Answer(3, key, term)]);

    // It has expired, and the program asks for a refresh.
    pass(21);
    from_program(&lab, &published, RecordType::A, true);
    lab.resolve(found(2, 20)).await;
    assert_eq!(published.take(), [Publication::Answer(3, key, term)]);
    assert_eq!(lab.sent(), []);
    assert_eq!(lab.responder.status().queries, 1);

    // The upstream fails: the last good answer, for as long as the failure is remembered.
    pass(21);
    from_program(&lab, &published, RecordType::A, true);
    lab.resolve(Outcome::Failed(Failure::Timeout)).await;
    let stale = Term {
        fresh: NEGATIVE_LIFETIME,
        grace: GRACE,
        fixed_ttl: Some(30),
        unattended: SERVE_STALE - Duration::from_secs(1),
    };
    assert_eq!(published.take(), [Publication::Answer(3, key, stale)]);

    // The target was deleted.
    pass(6);
    from_program(&lab, &published, RecordType::A, true);
    lab.resolve(Outcome::NoTarget).await;
    assert_eq!(
        published.take(),
        [Publication::NoTarget(key, NEGATIVE_LIFETIME)]
    );
    assert_eq!(lab.sent(), [], "the program answered all of these itself");
    // Cached now: the next query publishes it, for what is left.
    pass(2);
    from_program(&lab, &published, RecordType::AAAA, false);
    assert_eq!(
        published.take(),
        [Publication::NoTarget(
            kernel_key(RecordType::AAAA),
            NEGATIVE_LIFETIME - Duration::from_secs(2)
        )]
    );
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
}

#[tokio::test]
async fn one_look_up_publishes_one_entry_per_table_however_many_queries_wait() {
    let lab = Lab::new(ResponderOptions::default());
    let [first, second] = [(); 2].map(|()| Arc::new(Published::default()));
    for _ in 0..5 {
        from_program(&lab, &first, RecordType::A, false);
    }
    // A program that replaces the first while the look-up is under way.
    from_program(&lab, &second, RecordType::A, false);
    from_program(&lab, &second, RecordType::A, true);
    lab.resolve(found(1, 20)).await;
    assert_eq!(lab.replies().len(), 6);
    assert_eq!((first.take().len(), second.take().len()), (1, 1));

    pass(21);
    for outcome in [timeout(), Outcome::NoTarget] {
        for _ in 0..5 {
            from_program(&lab, &first, RecordType::A, false);
        }
        lab.resolve(outcome).await;
        assert_eq!(first.take().len(), 1);
        pass(6);
    }
}

#[tokio::test]
async fn nxdomain_for_a_type_that_the_program_does_not_keep_is_published_too() {
    let lab = Lab::new(ResponderOptions::default());
    let published = Arc::new(Published::default());
    from_program(&lab, &published, RecordType::A, false);
    lab.resolve(found(1, 20)).await;
    lab.reply();
    published.take();

    from_program(&lab, &published, RecordType::TXT, false);
    lab.resolve(Outcome::NoTarget).await;
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
    let [Publication::NoTarget(key, _)] = published.take()[..] else {
        panic!("the program still answers for A");
    };
    assert_eq!(key.with_qtype(0), kernel_key(RecordType::A).with_qtype(0));
    from_program(&lab, &published, RecordType::A, false);
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
}

#[tokio::test]
async fn without_a_good_answer_the_published_one_is_withdrawn() {
    let lab = Lab::new(ResponderOptions::default());
    let published = Arc::new(Published::default());
    for outcome in [
        Outcome::Failed(Failure::Rcode),
        Outcome::BrokenChain,
        Outcome::NoAddress(name(TARGET)),
    ] {
        let for_all = matches!(outcome, Outcome::NoAddress(_));
        from_program(&lab, &published, RecordType::A, true);
        lab.resolve(outcome).await;
        let published = published.take();
        assert_eq!(
            published[0],
            Publication::Withdrawn(kernel_key(RecordType::A))
        );
        // The outcome holds for both families.
        for (qtype, expected) in [
            (RecordType::AAAA, for_all),
            (RecordType::HTTPS, false),
            (RecordType::SVCB, false),
            (RecordType::CNAME, false),
        ] {
            let is_published = published.contains(&Publication::Withdrawn(kernel_key(qtype)));
            assert_eq!(is_published, expected, "{qtype}");
        }
        assert_eq!(lab.sent(), []);
        pass(6);
    }
    // Types that are not kept are never published.
    from_program(&lab, &published, RecordType::TXT, false);
    lab.resolve(found(1, 20)).await;
    assert_eq!(published.take(), []);
}
