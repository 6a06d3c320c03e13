//! Events in, actions out, with a simulated clock.

mod changes;

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use dns_common::answer;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::*;
use crate::{
    model::Term,
    resolve::{cache::CacheEntry, chain::Answer, compose::Section, testing::*},
};

const TARGET: &str = "kafka-upstream.foo.svc.cluster.local.";
const QNAME: &str = "lkc-1.aws.private.kafka.managed.foo.svc.cluster.local.";
const SERVE_STALE: Duration = Duration::from_secs(100);

/// What a test compares of an action. Clients are numbers.
#[derive(Clone, Debug, PartialEq)]
enum Seen {
    /// Name, type, and whether an address of the other family is cached.
    LookUp(String, RecordType, bool),
    Delay(u32),
    Publish(u32, Term),
    PublishNoTarget(u32, Duration),
    Withdraw(u32),
    /// Client, TTL, and whether it is stale.
    Answer(u32, u32, bool),
    /// Client and the code of the extended error.
    ServFail(u32, u16),
    NoReply(u32, PassReason),
    PassOn(u32, PassReason),
    Warn,
}

/// An engine, the time, and the look-ups that it has asked for.
struct Sim {
    engine: Engine<u32>,
    now: Instant,
    look_ups: VecDeque<LookUp>,
    delayed: VecDeque<(Duration, MatchedQuery<u32>)>,
    reported: Vec<(String, TargetState)>,
}

impl Sim {
    fn new(options: ResponderOptions) -> Sim {
        Sim::with_seed(options, 7)
    }

    fn with_seed(options: ResponderOptions, seed: u64) -> Sim {
        let now = Instant::now();
        Sim {
            engine: Engine::new(options, Arc::default(), seed, now),
            now,
            look_ups: VecDeque::new(),
            delayed: VecDeque::new(),
            reported: Vec::new(),
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn feed(&mut self, event: Event<u32>) -> Vec<Seen> {
        let actions = self.engine.handle(event, self.now);
        let seen = |action| {
            let seen = match action {
                Action::LookUp(look_up) => {
                    let (name, qtype) = (look_up.name().to_string(), look_up.qtype);
                    let seen = Seen::LookUp(name, qtype, look_up.has_address);
                    self.look_ups.push_back(look_up);
                    seen
                }
                Action::Delay(delay, query) => {
                    let client = query.client;
                    self.delayed.push_back((delay, *query));
                    Seen::Delay(client)
                }
                Action::Publish { client, term, .. } => Seen::Publish(client, term),
                Action::PublishNoTarget { client, left, .. } => Seen::PublishNoTarget(client, left),
                Action::Withdraw { client, .. } => Seen::Withdraw(client),
                Action::Answer(answer) => {
                    Seen::Answer(answer.client, answer.ttl_seconds, answer.is_stale)
                }
                Action::ServFail { client, error, .. } => Seen::ServFail(client, error.code),
                Action::NoReply { client, reason } => Seen::NoReply(client, reason),
                Action::PassOn { client, reason } => Seen::PassOn(client, reason),
                Action::Warn { .. } => Seen::Warn,
                Action::Report(target, state) => {
                    self.reported.push((target.to_string(), state));
                    return None;
                }
            };
            Some(seen)
        };
        actions.into_iter().filter_map(seen).collect()
    }

    fn query(&mut self, client: u32, qtype: RecordType) -> Vec<Seen> {
        self.feed(Event::Query(query_of(client, "foo", qtype)))
    }

    /// Ends the oldest look-up.
    fn looked_up(&mut self, outcome: Outcome) -> Vec<Seen> {
        let look_up = self.look_ups.pop_front().expect("a look-up");
        self.feed(Event::LookedUp(look_up, outcome))
    }
}

fn options() -> ResponderOptions {
    ResponderOptions {
        serve_stale: SERVE_STALE,
        ..ResponderOptions::default()
    }
}

/// A query from interface 3 whose answer is not published.
fn query_of(client: u32, namespace: &str, qtype: RecordType) -> MatchedQuery<u32> {
    MatchedQuery {
        client,
        ifindex: 3,
        query: query(QNAME, qtype, None),
        key: Key {
            via: vec![],
            target: name(&TARGET.replace("foo", namespace)),
            qtype,
            upstream: ([169, 254, 20, 10], 53).into(),
        },
        namespace: Some(namespace.to_owned()),
        ttl_cap: Duration::from_secs(30),
        may_look_up: true,
        is_answered: false,
        publish: None,
        published: Published::default(),
    }
}

/// The same, published in a table.
fn published(client: u32, qtype: RecordType, table: usize) -> MatchedQuery<u32> {
    let key = answer::Key::new(4, qtype.into(), 0, &[b"foo"]).unwrap();
    MatchedQuery {
        publish: Some(PublishKey { table, key }),
        ..query_of(client, "foo", qtype)
    }
}

fn found(ttl_seconds: u32) -> Outcome {
    Outcome::Answer(addresses(&[TARGET], 1, ttl_seconds))
}

fn nodata(qtype: RecordType) -> Outcome {
    Outcome::Answer(Answer {
        qtype,
        soa: Some(Box::new((name("cluster.local."), soa_data(30)))),
        ..addresses(&[TARGET], 0, 30)
    })
}

fn timeout() -> Outcome {
    Outcome::Failed(Failure::Timeout)
}

fn look_up(qtype: RecordType) -> Seen {
    Seen::LookUp(TARGET.to_owned(), qtype, false)
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn one_look_up_answers_all_waiting_queries_and_the_cache_the_next_until_the_ttl_ends() {
    let mut sim = Sim::new(options());
    assert_eq!(sim.query(1, RecordType::A), [look_up(RecordType::A)]);
    assert_eq!(sim.query(2, RecordType::A), []);
    assert_eq!(sim.engine.in_flight(), 1);
    let answers = [Seen::Answer(1, 20, false), Seen::Answer(2, 20, false)];
    assert_eq!(sim.looked_up(found(20)), answers);
    assert_eq!(sim.engine.in_flight(), 0);
    sim.pass(19);
    assert_eq!(sim.query(3, RecordType::A), [Seen::Answer(3, 1, false)]);
    sim.pass(1);
    assert_eq!(sim.query(4, RecordType::A), [look_up(RecordType::A)]);
}

#[test]
fn a_missing_target_passes_queries_of_every_type_for_five_seconds() {
    let mut sim = Sim::new(options());
    let reason = PassReason::NoTarget;
    let first = sim.feed(Event::Query(published(1, RecordType::A, 1)));
    assert_eq!(first, [look_up(RecordType::A)]);
    let expected = [
        Seen::PublishNoTarget(1, seconds(5)),
        Seen::PassOn(1, reason),
    ];
    assert_eq!(sim.looked_up(Outcome::NoTarget), expected);
    sim.pass(2);
    let next = sim.feed(Event::Query(published(2, RecordType::TXT, 1)));
    let expected = [
        Seen::PublishNoTarget(2, seconds(3)),
        Seen::PassOn(2, reason),
    ];
    assert_eq!(next, expected);
    sim.pass(3);
    assert_eq!(sim.query(3, RecordType::TXT), [look_up(RecordType::TXT)]);
}

#[test]
fn answers_are_published_with_their_term_once_per_table() {
    let mut sim = Sim::new(options());
    for (client, table) in [(1, 1), (2, 1), (3, 2)] {
        sim.feed(Event::Query(published(client, RecordType::A, table)));
    }
    let term = Term {
        fresh: seconds(20),
        grace: GRACE,
        fixed_ttl: None,
        unattended: seconds(20) + SERVE_STALE,
    };
    let expected = [
        Seen::Publish(1, term),
        Seen::Answer(1, 20, false),
        Seen::Answer(2, 20, false),
        Seen::Publish(3, term),
        Seen::Answer(3, 20, false),
    ];
    assert_eq!(sim.looked_up(found(20)), expected);
}

#[test]
fn a_failed_look_up_gives_the_last_good_answer_until_serve_stale_ends() {
    let mut sim = Sim::new(options());
    sim.query(1, RecordType::A);
    sim.looked_up(found(10));
    sim.pass(50);
    sim.feed(Event::Query(published(2, RecordType::A, 1)));
    let term = Term {
        fresh: NEGATIVE_LIFETIME,
        grace: GRACE,
        fixed_ttl: Some(30),
        unattended: seconds(60),
    };
    let expected = [Seen::Publish(2, term), Seen::Answer(2, 30, true)];
    assert_eq!(sim.looked_up(timeout()), expected);
    // The failure is cached for as long.
    sim.pass(4);
    assert_eq!(sim.query(3, RecordType::A), [Seen::Answer(3, 30, true)]);
    sim.pass(56);
    sim.feed(Event::Query(published(4, RecordType::A, 1)));
    let expected = [Seen::Withdraw(4), Seen::ServFail(4, 22)];
    assert_eq!(sim.looked_up(timeout()), expected);
}

#[test]
fn a_local_failure_passes_uncached_names_and_gives_existing_ones_no_reply() {
    let mut sim = Sim::new(options());
    let local = || Outcome::Failed(Failure::Local);
    sim.query(1, RecordType::A);
    let expected = [Seen::PassOn(1, PassReason::LocalFailure)];
    assert_eq!(sim.looked_up(local()), expected);
    sim.query(2, RecordType::A);
    sim.looked_up(found(10));
    sim.query(3, RecordType::AAAA);
    let expected = [Seen::NoReply(3, PassReason::LocalFailure)];
    assert_eq!(sim.looked_up(local()), expected);
    sim.pass(11);
    sim.query(4, RecordType::A);
    assert_eq!(sim.looked_up(local()), [Seen::Answer(4, 30, true)]);
}

#[test]
fn a_broken_chain_is_servfail_with_a_warning_and_an_address_of_neither_family_withdraws_both() {
    let mut sim = Sim::new(options());
    sim.feed(Event::Query(published(1, RecordType::A, 1)));
    let expected = [Seen::Warn, Seen::Withdraw(1), Seen::ServFail(1, 0)];
    assert_eq!(sim.looked_up(Outcome::BrokenChain), expected);
    sim.pass(5);
    sim.feed(Event::Query(published(2, RecordType::A, 1)));
    let withdrawn = [Seen::Withdraw(2), Seen::Withdraw(2), Seen::Withdraw(2)];
    let expected = [&[Seen::Warn][..], &withdrawn, &[Seen::ServFail(2, 0)]].concat();
    assert_eq!(sim.looked_up(Outcome::NoAddress(name(TARGET))), expected);
}

#[test]
fn a_target_that_does_not_exist_leads_to_the_one_before_it() {
    let mut sim = Sim::new(options());
    let mut query = query_of(1, "foo", RecordType::A);
    query.key.via = vec![name("first.example."), name("second.example.")];
    assert_eq!(sim.feed(Event::Query(query)), [look_up(RecordType::A)]);
    for previous in ["second.example.", "first.example."] {
        let expected = [Seen::LookUp(previous.to_owned(), RecordType::A, false)];
        assert_eq!(sim.looked_up(Outcome::NoTarget), expected);
        assert_eq!(sim.engine.in_flight(), 1);
    }
    let found = Outcome::Answer(addresses(&["first.example."], 1, 9));
    assert_eq!(sim.looked_up(found), [Seen::Answer(1, 9, false)]);
}

#[test]
fn an_answer_that_contradicts_a_denial_of_the_other_family_is_confirmed_first() {
    let no_target = Seen::PassOn(2, PassReason::NoTarget);
    for (confirmation, expected) in [
        (Outcome::NoTarget, no_target),
        (nodata(RecordType::AAAA), Seen::Answer(2, 5, false)),
        // Says nothing about the name.
        (timeout(), Seen::Answer(2, 5, false)),
    ] {
        let mut sim = Sim::new(options());
        sim.query(1, RecordType::AAAA);
        sim.looked_up(Outcome::NoTarget);
        sim.pass(5);
        sim.query(2, RecordType::A);
        assert_eq!(sim.looked_up(found(5)), [look_up(RecordType::AAAA)]);
        assert_eq!(sim.engine.in_flight(), 1, "the query still waits");
        assert_eq!(sim.looked_up(confirmation), [expected]);
    }
}

#[test]
fn a_cached_address_of_the_other_family_comes_with_the_look_up() {
    let mut sim = Sim::new(options());
    sim.query(1, RecordType::A);
    sim.looked_up(found(20));
    let expected = Seen::LookUp(TARGET.to_owned(), RecordType::AAAA, true);
    assert_eq!(sim.query(2, RecordType::AAAA), [expected]);
}

/// The program has an answer for 40 s that this process never looked up, as after a restart.
fn inherited(client: u32, qtype: RecordType, now: Instant) -> MatchedQuery<u32> {
    let section = Section::new(&addresses(&[TARGET], 1, 20)).unwrap();
    let entry = CacheEntry::of_program(section.body().unwrap(), seconds(40), now).unwrap();
    MatchedQuery {
        published: Published {
            answer: (qtype == RecordType::A).then(|| Arc::new(entry)),
            exists: true,
        },
        ..published(client, qtype, 1)
    }
}

#[test]
fn an_answer_of_an_earlier_process_outlives_failed_look_ups() {
    let mut sim = Sim::new(options());
    let expected = |client, left| {
        let term = Term {
            fresh: seconds(5),
            grace: GRACE,
            fixed_ttl: Some(30),
            unattended: seconds(left),
        };
        [Seen::Publish(client, term), Seen::Answer(client, 30, true)]
    };
    let first = inherited(1, RecordType::A, sim.now);
    sim.feed(Event::Query(first.clone()));
    assert_eq!(sim.looked_up(timeout()), expected(1, 40));
    // While the failure is remembered.
    let second = inherited(2, RecordType::A, sim.now);
    assert_eq!(sim.feed(Event::Query(second)), expected(2, 40));
    // This node cannot look it up.
    sim.pass(10);
    sim.feed(Event::Query(first.clone()));
    assert_eq!(
        sim.looked_up(Outcome::Failed(Failure::Local)),
        expected(1, 30)
    );
    // A refresh keeps what the program has.
    let refresh = MatchedQuery {
        is_answered: true,
        ..first.clone()
    };
    sim.feed(Event::RefreshDue(refresh));
    assert_eq!(sim.looked_up(timeout()), expected(1, 30)[..1]);
    // It is too old.
    sim.pass(30);
    sim.feed(Event::Query(first));
    let expected = [Seen::Withdraw(1), Seen::ServFail(1, 22)];
    assert_eq!(sim.looked_up(timeout()), expected);
}

#[test]
fn an_answer_of_an_earlier_process_yields_to_the_upstream() {
    let mut sim = Sim::new(options());
    let query = inherited(1, RecordType::A, sim.now);
    sim.feed(Event::Query(query.clone()));
    let expected = [
        Seen::PublishNoTarget(1, seconds(5)),
        Seen::PassOn(1, PassReason::NoTarget),
    ];
    assert_eq!(sim.looked_up(Outcome::NoTarget), expected);
    let mut sim = Sim::new(options());
    sim.feed(Event::Query(query));
    let expected = [Seen::Warn, Seen::Withdraw(1), Seen::ServFail(1, 0)];
    assert_eq!(sim.looked_up(Outcome::BrokenChain), expected);
}

#[test]
fn a_name_that_an_earlier_process_found_is_not_left_to_the_cache() {
    let mut sim = Sim::new(options());
    let query = inherited(1, RecordType::AAAA, sim.now);
    sim.feed(Event::Query(query));
    let expected = [Seen::NoReply(1, PassReason::LocalFailure)];
    assert_eq!(sim.looked_up(Outcome::Failed(Failure::Local)), expected);
}

#[test]
fn a_refresh_is_delayed_up_to_a_second_and_publishes_without_a_reply() {
    let mut sim = Sim::new(options());
    let refresh = || MatchedQuery {
        is_answered: true,
        ..published(1, RecordType::A, 1)
    };
    assert_eq!(sim.feed(Event::Refresh(refresh())), [Seen::Delay(1)]);
    let (delay, query) = sim.delayed.pop_front().unwrap();
    assert!(delay < seconds(1), "{delay:?}");
    assert_eq!(sim.feed(Event::RefreshDue(query)), [look_up(RecordType::A)]);
    assert!(matches!(sim.looked_up(found(9))[..], [Seen::Publish(1, _)]));

    for _ in 0..MAX_DELAYED {
        assert_eq!(sim.feed(Event::Refresh(refresh())).len(), 1);
    }
    assert_eq!(sim.feed(Event::Refresh(refresh())), []);
    // They are spread.
    let early = sim
        .delayed
        .iter()
        .filter(|(delay, _)| *delay < seconds(1) / 2);
    let share = early.count() * 100 / MAX_DELAYED;
    assert!((40..60).contains(&share), "{share} % in the first half");
    let (_, query) = sim.delayed.pop_front().unwrap();
    sim.feed(Event::RefreshDue(query));
    assert_eq!(sim.feed(Event::Refresh(refresh())), [Seen::Delay(1)]);
}

#[test]
fn the_same_seed_and_events_give_the_same_actions() {
    let run = |seed| {
        let mut sim = Sim::with_seed(options(), seed);
        for client in 0..10 {
            let query = published(client, RecordType::A, 1);
            sim.feed(Event::Refresh(query));
        }
        let delays = sim.delayed.into_iter().map(|(delay, _)| delay);
        delays.collect::<Vec<_>>()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn over_its_limit_the_queries_of_an_interface_pass_and_others_do_not() {
    let mut sim = Sim::new(ResponderOptions {
        chases_per_interface: 1,
        ..options()
    });
    sim.feed(Event::Query(query_of(1, "one", RecordType::A)));
    let busy = sim.feed(Event::Query(query_of(2, "two", RecordType::A)));
    assert_eq!(busy, [Seen::PassOn(2, PassReason::Busy)]);
    let other = MatchedQuery {
        ifindex: 4,
        ..query_of(3, "two", RecordType::A)
    };
    assert!(matches!(
        sim.feed(Event::Query(other))[..],
        [Seen::LookUp(..)]
    ));
}

#[test]
fn an_abandoned_look_up_passes_its_waiting_queries_on() {
    let mut sim = Sim::new(options());
    sim.query(1, RecordType::A);
    sim.query(2, RecordType::A);
    let look_up = sim.look_ups.pop_front().unwrap();
    let reason = PassReason::Abandoned;
    let expected = [Seen::PassOn(1, reason), Seen::PassOn(2, reason)];
    assert_eq!(sim.feed(Event::Abandoned(look_up)), expected);
    assert_eq!(sim.engine.in_flight(), 0);
}

#[test]
fn the_entries_of_a_removed_interface_are_evicted_first() {
    let mut sim = Sim::new(ResponderOptions {
        max_answers: 4,
        answers_per_interface: 4,
        ..options()
    });
    let ask = |sim: &mut Sim, ifindex, number: u32| {
        let query = MatchedQuery {
            ifindex,
            ..query_of(number, &format!("ns-{number}"), RecordType::A)
        };
        sim.feed(Event::Query(query));
        sim.looked_up(found(300));
    };
    for number in 0..4 {
        ask(&mut sim, 3, number);
    }
    let cached = |sim: &mut Sim, number: u32| {
        let query = query_of(number, &format!("ns-{number}"), RecordType::A);
        let seen = sim.feed(Event::Query(query));
        let is_cached = matches!(seen[..], [Seen::Answer(..)]);
        if !is_cached {
            sim.looked_up(timeout());
        }
        is_cached
    };
    ask(&mut sim, 4, 10);
    assert!(!cached(&mut sim, 10), "the other interface has all entries");
    assert_eq!(sim.feed(Event::InterfaceGone(3)), []);
    sim.pass(5);
    ask(&mut sim, 4, 11);
    assert!(cached(&mut sim, 11));
    assert_eq!(sim.engine.cached().answers, 4);
}

#[derive(Clone, Debug)]
enum Step {
    Query(u8, u8, bool),
    LookedUp(u8),
    Abandon,
    Pass(u8),
    Gone,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..4u8, 0..4u8, any::<bool>()).prop_map(|(n, q, may)| Step::Query(n, q, may)),
        4 => (0..8u8).prop_map(Step::LookedUp),
        1 => Just(Step::Abandon),
        1 => (0..40u8).prop_map(Step::Pass),
        1 => Just(Step::Gone),
    ]
}

proptest! {
    /// Whatever happens, each query that the program has not answered ends exactly once, and none waits for ever.
    #[test]
    fn every_query_ends_exactly_once(steps in prop::collection::vec(step(), 0..200)) {
        let mut sim = Sim::new(ResponderOptions {
            chases_per_interface: 3,
            max_answers: 6,
            answers_per_interface: 4,
            ..options()
        });
        let mut ended: HashMap<u32, usize> = HashMap::new();
        let mut count = |seen: Vec<Seen>| {
            for seen in seen {
                if let Seen::Answer(client, ..)
                | Seen::ServFail(client, _)
                | Seen::NoReply(client, _)
                | Seen::PassOn(client, _) = seen
                {
                    *ended.entry(client).or_default() += 1;
                }
            }
        };
        let mut clients = 0;
        for step in steps {
            let seen = match step {
                Step::Query(namespace, qtype, may_look_up) => {
                    let qtype = [RecordType::A, RecordType::AAAA, RecordType::TXT, RecordType::CNAME]
                        [usize::from(qtype)];
                    let query = MatchedQuery {
                        may_look_up,
                        ..query_of(clients, &format!("ns-{namespace}"), qtype)
                    };
                    clients += 1;
                    sim.feed(Event::Query(query))
                }
                Step::LookedUp(_) | Step::Abandon if sim.look_ups.is_empty() => continue,
                Step::LookedUp(outcome) => {
                    let qtype = sim.look_ups[0].qtype;
                    sim.looked_up(match outcome {
                        0 => Outcome::NoTarget,
                        1 => Outcome::BrokenChain,
                        2 => Outcome::NoAddress(name(TARGET)),
                        3 => timeout(),
                        4 => Outcome::Failed(Failure::Local),
                        5 => nodata(qtype),
                        _ => Outcome::Answer(Answer { qtype, ..addresses(&[TARGET], 2, 9) }),
                    })
                }
                Step::Abandon => {
                    let look_up = sim.look_ups.pop_front().unwrap();
                    sim.feed(Event::Abandoned(look_up))
                }
                Step::Pass(seconds) => {
                    sim.pass(seconds.into());
                    continue;
                }
                Step::Gone => sim.feed(Event::InterfaceGone(3)),
            };
            count(seen);
            prop_assert_eq!(sim.engine.in_flight(), sim.look_ups.len());
        }
        while !sim.look_ups.is_empty() {
            count(sim.looked_up(timeout()));
        }
        prop_assert_eq!(sim.engine.in_flight(), 0);
        for client in 0..clients {
            prop_assert_eq!(ended.get(&client), Some(&1), "client {}", client);
        }
    }
}
