//! Entries published, replaced, withdrawn and evicted while a loaded program looks them up on another processor: no look-up
//! shows a byte of another key's answer, or of two answers; and without the look at the sequence number after the copy some do.
//! Wants root.
//!
//! `GREGOR_CHURN_LOOKUPS` is how many look-ups there are.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use dns_common::{
    answer::{Body, Key},
    churn::{KEYS, NAME_LEN, NAME_WORDS, NAMES, SEEN, VERSIONS, mark, words},
};
use gregor::{
    datapath::{AnswerOptions, Answers, LoadOptions, Term},
    rules::RuleSet,
};
use gregor_tests::packets::{
    build::name,
    loaded::{Loaded, compile, options},
    table::{FIRST_V4, Rule},
};

/// Answers of the first are found by the suffixes of their names, too.
const RULES: [Rule; 2] = [
    Rule::new("settled", "*.db.{namespace}.test", "{namespace}.target"),
    Rule::new(
        "capture-first",
        "{namespace}.other.test",
        "{namespace}.target",
    ),
];
const SLOTS: usize = 6;
/// Look-ups of one system call.
const REPEAT: u32 = 500_000;

/// Of a key; they differ in length and in one letter.
fn namespace(key: usize) -> String {
    let letter = char::from(b'a' + key as u8);
    format!("{}{letter}", "n".repeat(1 + key * 2))
}

fn body(key: usize, version: usize) -> Body {
    let (key, version) = (key as u32, version as u32);
    let mark = mark(key, version);
    Body {
        chain: mark.repeat(4 * words(key, version) as usize),
        answers: u16::from_le_bytes(mark),
        authorities: u16::from_le_bytes(mark),
        ..Body::default()
    }
}

fn load(program: &'static str) -> Loaded {
    let options = LoadOptions {
        answers: AnswerOptions {
            total: SLOTS,
            per_interface: SLOTS,
            // The programs of this test ask for answers of any server.
            per_server: false,
            stale_ttl: 30,
        },
        ..options(compile(&RULES))
    };
    Loaded::of_tests(&options, program).expect("a program for tests")
}

/// The questions, and no count yet.
fn frame() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5];
    frame.resize(NAMES, 0);
    for key in 0..KEYS {
        let namespace = namespace(key);
        let mut wire = match key % 2 {
            0 => name(&format!("b.db.{namespace}.test")),
            _ => name(&format!("{namespace}.other.test")),
        };
        let len = wire.len();
        assert!(len <= NAME_LEN);
        wire.resize(NAME_WORDS * 8, 0);
        wire[NAME_LEN] = len as u8;
        frame.extend(wire);
    }
    frame
}

/// Publishes, replaces, withdraws and evicts until `done` is set; returns how often.
fn churn(answers: &Answers, rules: &RuleSet, done: &AtomicBool) -> u64 {
    let keys: Vec<Key> = (0..KEYS)
        .map(|key| {
            answers.key(
                rules.rules()[key % 2].id(),
                1,
                FIRST_V4,
                &[namespace(key)],
                0,
            )
        })
        .map(|key| key.expect("a key"))
        .collect();
    let bodies: Vec<Vec<Body>> = (0..KEYS)
        .map(|key| (0..VERSIONS).map(|version| body(key, version)).collect())
        .collect();
    let term = Term {
        fresh: Duration::from_secs(3600),
        grace: Duration::ZERO,
        fixed_ttl: None,
        ..Term::default()
    };
    let mut random = 1u64;
    let mut writes = 0;
    while !done.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let key = (random >> 8) as usize % KEYS;
        let version = (random >> 16) as usize % VERSIONS;
        match (random >> 24) % 16 {
            0 => answers.remove(&keys[key]),
            1 => answers.publish_absent(1, &keys[key], Duration::from_micros(50)),
            _ => answers.publish(1, &keys[key], &bodies[key][version], &term),
        }
        writes += 1;
    }
    writes
}

#[derive(Debug, Default)]
struct Seen {
    lookups: u64,
    own: u64,
    foreign: u64,
}

impl Seen {
    fn read(frame: &[u8]) -> Self {
        let count = |index: usize| {
            let at = SEEN + index * 8;
            u64::from_le_bytes(frame[at..at + 8].try_into().expect("eight bytes"))
        };
        Self {
            lookups: count(0),
            own: count(1),
            foreign: count(2),
        }
    }
}

/// Looks up while entries change, until `enough`.
fn run(program: &'static str, enough: impl Fn(&Seen) -> bool) -> Seen {
    let mut loaded = load(program);
    let answers = Arc::clone(loaded.datapath.answers());
    let rules = Arc::clone(loaded.datapath.rules());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| churn(&answers, &rules, &done));
        let started = Instant::now();
        let mut frame = frame();
        let seen = loop {
            let run = loaded.datapath.test_run(&frame, REPEAT);
            frame = run.expect("a test run").data;
            let seen = Seen::read(&frame);
            if enough(&seen) || started.elapsed() > Duration::from_secs(3600) {
                break seen;
            }
        };
        let took = started.elapsed();
        done.store(true, Ordering::Relaxed);
        let writes = writer.join().expect("the writer");
        println!("{program}: {seen:?} among {writes} writes in {took:?}");
        seen
    })
}

#[test]
fn no_look_up_returns_bytes_of_another_key() {
    let lookups = env::var("GREGOR_CHURN_LOOKUPS")
        .map_or(10_000_000, |count| count.parse().expect("a number"));
    let seen = run("churn", |seen| seen.lookups >= lookups || seen.foreign > 0);
    assert_eq!(seen.foreign, 0, "{seen:?}");
    assert!(seen.own > lookups / 50, "{seen:?}: too few for a result");
}

#[test]
fn without_the_second_check_some_look_ups_do() {
    // As many look-ups as it takes.
    let seen = run("churn_unchecked", |seen| {
        seen.foreign > 0 || seen.lookups > 2_000_000_000
    });
    assert!(
        seen.foreign > 0,
        "{seen:?}: the other test would not notice"
    );
}
