//! No answer for one namespace is ever given to a question for another, nor one of another rule, type, server or rule
//! set: entries of a loaded program are written, overwritten, evicted and replaced at random, and queries asked all along. Wants root.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use dns_common::verdict::Reason;
use gregor::datapath::{AnswerOptions, LoadOptions, Term};
use gregor_tests::{
    packets::{
        answers::Answer,
        build::{name, opt, question, udp_to},
        engine::Outcome,
        loaded::{LOOPBACK, Loaded, compile, options},
        table::{FIRST_V4, FIRST_V6, LAST_V4, Rule},
    },
    reading,
};
use proptest::prelude::*;

/// Names of one rule are `before`, the namespace, `behind`.
struct Kind {
    rule: Rule,
    before: &'static str,
    behind: &'static str,
}

const fn kind(pattern: &'static str, before: &'static str, behind: &'static str) -> Kind {
    Kind {
        rule: Rule::new(before, pattern, "target.{namespace}.test"),
        before,
        behind,
    }
}

/// Two that the suffix of a name decides, and two that it does not.
const KINDS: [Kind; 4] = [
    kind("*.kafka.{namespace}.svc.test", "b-1.lkc.kafka", "svc.test"),
    kind("one.db.{namespace}.test", "one.db", "test"),
    kind("*.cache.{namespace}.svc.test", "c.cache", "svc.test"),
    kind("two.{namespace}.db", "two", "db"),
];

/// Labels of which each has another that is one letter off, or one longer.
fn namespaces() -> Vec<String> {
    let long = "n".repeat(62);
    [
        "a",
        "b",
        "ab",
        "ba",
        "a-b",
        "aaaaaaa",
        "aaaaaaaa",
        "aaaaaaab",
        "aaaaaaaaa",
        &long,
        &format!("{long}a"),
        &format!("{long}b"),
    ]
    .map(str::to_owned)
    .to_vec()
}

const SERVERS: [IpAddr; 3] = [FIRST_V4, LAST_V4, FIRST_V6];
const QTYPES: [u16; 2] = [1, 28];

/// What is asked for, each field an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Question {
    kind: usize,
    namespace: usize,
    server: usize,
    qtype: usize,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Ask(Question),
    Publish {
        question: Question,
        version: u8,
        interface: u32,
        age: Age,
    },
    NoTarget {
        question: Question,
        interface: u32,
        past: bool,
    },
    TakeAway(Question),
    InterfaceGone(u32),
    /// The rules in another order, so that their indexes mean others.
    Reload,
}

#[derive(Clone, Copy, Debug)]
enum Age {
    Fresh,
    Grace,
    Past,
}

fn questions() -> impl Strategy<Value = Question> {
    (
        0..KINDS.len(),
        0..12usize,
        0..SERVERS.len(),
        0..QTYPES.len(),
    )
        .prop_map(|(kind, namespace, server, qtype)| Question {
            kind,
            namespace,
            server,
            qtype,
        })
}

fn steps() -> impl Strategy<Value = Step> {
    let age = prop_oneof![4 => Just(Age::Fresh), 1 => Just(Age::Grace), 1 => Just(Age::Past)];
    prop_oneof![
        40 => questions().prop_map(Step::Ask),
        40 => (questions(), any::<u8>(), 1..4u32, age).prop_map(
            |(question, version, interface, age)| Step::Publish { question, version, interface, age }
        ),
        8 => (questions(), 1..4u32, any::<bool>()).prop_map(
            |(question, interface, past)| Step::NoTarget { question, interface, past }
        ),
        8 => questions().prop_map(Step::TakeAway),
        2 => (1..4u32).prop_map(Step::InterfaceGone),
        1 => Just(Step::Reload),
    ]
}

/// An answer that identifies its key.
fn answer(question: Question, version: u8, generation: u8) -> Answer {
    let Question {
        kind,
        namespace,
        server,
        qtype,
    } = question;
    let mark = [kind, namespace, server, qtype].map(|index| index as u8);
    let more = [version, generation, !version, 0x5a];
    let rdata = match QTYPES[qtype] {
        1 => vec![mark.to_vec(), more.to_vec()],
        _ => vec![[mark, more, mark, more].concat()],
    };
    Answer {
        qtype: QTYPES[qtype],
        chain: vec![format!("t-{kind}-{namespace}-{server}-{qtype}.target.test")],
        rdata,
        zone: None,
    }
}

/// The entries written to the program, as far as it may still have them.
#[derive(Clone, Debug)]
enum Known {
    Answer(Answer),
    NoTarget,
}

struct World {
    loaded: Loaded,
    /// Which kind each rule is of.
    order: Vec<usize>,
    generation: u8,
    /// An entry without target is for all types.
    known: HashMap<Question, Known>,
}

#[derive(Debug, Default)]
struct Seen {
    answered: u64,
    taken: u64,
    no_target: u64,
}

impl World {
    fn new(generation: u8) -> Self {
        let mut order: Vec<usize> = (0..KINDS.len()).collect();
        order.rotate_left(usize::from(generation) % KINDS.len());
        let rules: Vec<Rule> = order.iter().map(|kind| KINDS[*kind].rule).collect();
        // So few that most entries evict another one.
        let options = LoadOptions {
            answers: AnswerOptions {
                total: 24,
                per_interface: 10,
                per_server: true,
                stale_ttl: 30,
            },
            ..options(compile(&rules))
        };
        let mut loaded = Loaded::new(&options).expect("a program");
        loaded.datapath.allow_interface(LOOPBACK).expect("a bucket");
        Self {
            loaded,
            order,
            generation,
            known: HashMap::new(),
        }
    }

    fn step(&mut self, step: Step, seen: &mut Seen) {
        let answers = Arc::clone(self.loaded.datapath.answers());
        let key = |question: Question| {
            let rule = self.order.iter().position(|kind| *kind == question.kind);
            let namespace = namespaces().swap_remove(question.namespace);
            let server = SERVERS[question.server];
            let rule = rule.expect("a rule of each kind");
            let rule = self.loaded.datapath.rules().rules()[rule].id();
            answers
                .key(rule, QTYPES[question.qtype], server, &[namespace], 0)
                .expect("a key")
        };
        match step {
            Step::Ask(question) => self.ask(question, seen),
            Step::Publish {
                question,
                version,
                interface,
                age,
            } => {
                let (fresh, grace) = match age {
                    Age::Fresh => (3600, 0),
                    Age::Grace => (0, 3600),
                    Age::Past => (0, 0),
                };
                let term = Term {
                    fresh: Duration::from_secs(fresh),
                    grace: Duration::from_secs(grace),
                    fixed_ttl: None,
                    unattended: Duration::ZERO,
                };
                let expected = answer(question, version, self.generation);
                let body = expected.body().expect("a small answer");
                answers.publish(interface, &key(question), &body, &term);
                // An answer of one type contradicts an entry without target.
                for qtype in 0..QTYPES.len() {
                    let other = Question { qtype, ..question };
                    if matches!(self.known.get(&other), Some(Known::NoTarget)) {
                        self.known.remove(&other);
                    }
                }
                match age {
                    Age::Past => self.known.remove(&question),
                    _ => self.known.insert(question, Known::Answer(expected)),
                };
            }
            Step::NoTarget {
                question,
                interface,
                past,
            } => {
                let left = if past { 0 } else { 3600 };
                answers.publish_absent(interface, &key(question), Duration::from_secs(left));
                for qtype in 0..QTYPES.len() {
                    let other = Question { qtype, ..question };
                    self.known.remove(&other);
                    if !past {
                        self.known.insert(other, Known::NoTarget);
                    }
                }
            }
            Step::TakeAway(question) => {
                answers.remove(&key(question));
                if matches!(self.known.get(&question), Some(Known::Answer(_))) {
                    self.known.remove(&question);
                }
            }
            Step::InterfaceGone(interface) => answers.release_interface(interface),
            Step::Reload => *self = World::new(self.generation.wrapping_add(1)),
        }
    }

    /// An entry may have been evicted; an answer must be the last one written.
    fn ask(&mut self, question: Question, seen: &mut Seen) {
        let kind = &KINDS[question.kind];
        let namespace = &namespaces()[question.namespace];
        let wire = name(&format!("{}.{namespace}.{}", kind.before, kind.behind));
        let message = self::question(wire, QTYPES[question.qtype]).additional(opt(1232, 0, &[]));
        let server = SERVERS[question.server];
        let frame = udp_to(server, message.build()).build().bytes;
        let known = self.known.get(&question);
        match self.loaded.test_run(&frame).expect("a test run") {
            Outcome::Answered { reply, .. } => {
                seen.answered += 1;
                let Some(Known::Answer(expected)) = known else {
                    panic!("{question:?} was answered, but {known:?}: {reply:02x?}");
                };
                let headers = if server.is_ipv4() { 42 } else { 62 };
                let got = &reply[headers..];
                let reading = reading::hickory(got).expect("a message");
                let ttl = reading.answer[0].ttl;
                let rotations = 0..expected.rdata.len();
                assert!(
                    rotations
                        .map(|rotation| expected.message(&message, ttl, rotation))
                        .any(|expected| expected == got),
                    "{question:?} has the answer {expected:?} and got {reading:#?}"
                );
            }
            Outcome::Taken(_) => seen.taken += 1,
            Outcome::Passed(Reason::NoTarget) => {
                seen.no_target += 1;
                assert!(
                    matches!(known, Some(Known::NoTarget)),
                    "{question:?}: {known:?}"
                );
            }
            outcome => panic!("{outcome:?}"),
        }
    }
}

#[test]
fn no_question_gets_the_answer_to_another() {
    let mut seen = Seen::default();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 10,
        max_shrink_iters: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let seen_by_all = std::cell::RefCell::new(&mut seen);
    runner
        .run(&prop::collection::vec(steps(), 300..400), |steps| {
            let mut seen = seen_by_all.borrow_mut();
            let mut world = World::new(0);
            for step in steps {
                world.step(step, &mut seen);
                // All that were written are asked for: an evicted entry has to be one of them.
                if let Step::Publish { question, .. } = step {
                    for namespace in 0..namespaces().len() {
                        world.ask(
                            Question {
                                namespace,
                                ..question
                            },
                            &mut seen,
                        );
                    }
                }
            }
            Ok(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
    println!("{seen:?}");
    assert!(
        seen.answered > 1000 && seen.taken > 1000 && seen.no_target > 50,
        "{seen:?}"
    );
}
