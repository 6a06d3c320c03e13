//! Whether the loaded program, the pipeline over a slice, a regular expression on the presentation form and a plain comparison
//! of labels agree on cases that no table contains. Wants root.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dns_common::verdict::{Reason, Verdict};
use gregor::rules::{
    MatchSpec, RuleSet, RuleSpec,
    testing::{self, Oracle},
};
use gregor_tests::packets::{
    build::{Frame, labels_of, question, udp_to},
    engine::{Engine as _, Outcome, Slice, TestRun},
    loaded::{LOOPBACK, Loaded, options},
    mutate::mutate,
    oracle,
    table::{Engines, FIRST_V4, SEVERAL, cases},
};
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};

/// The same in every run, unless GREGOR_SEED says otherwise.
fn seeded() -> StdRng {
    let seed = std::env::var("GREGOR_SEED").map_or(3, |seed| seed.parse().expect("a number"));
    println!("GREGOR_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

#[test]
fn a_hundred_thousand_mutations() {
    let mut rng = seeded();
    let frames: Vec<Vec<u8>> = cases()
        .into_iter()
        .filter(|case| case.engines.test_run)
        .map(|case| case.frame.bytes)
        .collect();
    let mut slice = Slice::new(SEVERAL);
    let mut program = TestRun::new(SEVERAL).unwrap();
    let mut verdicts = BTreeMap::<String, u32>::new();
    let mut ran = 0;
    while ran < 100_000 {
        let frame = &frames[rng.random_range(0..frames.len())];
        let other = &frames[rng.random_range(0..frames.len())];
        let frame = Frame::from(mutate(&mut rng, frame, other));
        if !Engines::for_frame(&frame).test_run {
            continue;
        }
        ran += 1;
        let expected = slice.run(&frame).unwrap();
        let outcome = program
            .run(&frame)
            .unwrap_or_else(|error| panic!("{error:#}: {:02x?}", frame.bytes));
        assert_eq!(outcome, expected, "{:02x?}", frame.bytes);
        *verdicts
            .entry(format!("{:?}", outcome.verdict()))
            .or_default() += 1;
    }
    println!("{verdicts:#?}");
    let of_the_table: BTreeSet<String> = cases()
        .iter()
        .filter(|case| case.engines.test_run)
        .map(|case| format!("{:?}", slice.run(&case.frame).unwrap().verdict()))
        .collect();
    assert!(
        verdicts.keys().eq(&of_the_table),
        "mutations that do not reach every verdict show little: {verdicts:?}"
    );
}

const RULE_SETS: usize = 50;
const NAMES_EACH: usize = 200;

/// Ten thousand pairs of a rule set and a name, judged four ways: the loaded program, the pipeline over a slice, regular
/// expressions, labels compared one by one. Every other set has `regex` rules among its patterns.
#[test]
fn ten_thousand_names_through_the_program() {
    let mut rng = seeded();
    let mut other = testing::Rng::new(rng.random());
    let (mut sets, mut matched, mut by_regex_rule) = (0, 0, 0);
    while sets < RULE_SETS {
        let (specs, patterns) = if sets % 2 == 0 {
            let patterns = random_patterns(&mut rng);
            (specs_of(&patterns), Some(patterns))
        } else {
            (testing::random_rules(&mut other, 8), None)
        };
        // Contradictory rules are refused, which other tests cover.
        let Ok(rules) = RuleSet::compile(&specs).map(Arc::new) else {
            continue;
        };
        sets += 1;
        let oracle = Oracle::new(&specs);
        let mut loaded = Loaded::new(&options(Arc::clone(&rules))).unwrap();
        loaded.datapath.allow_interface(LOOPBACK).unwrap();
        let mut slice = Slice::with_rules(rules);
        for _ in 0..NAMES_EACH {
            let wire = match &patterns {
                Some(patterns) => random_name(&mut rng, patterns),
                None => testing::random_name(&mut other, &specs),
            };
            let frame = udp_to(FIRST_V4, question(&wire, 1).build()).build();
            let outcome = loaded.test_run(&frame.bytes).unwrap();
            let found = match &outcome {
                Outcome::Taken(event) => Some(event.rule as usize),
                Outcome::Passed(reason) => {
                    let expected = match oracle.by_labels(&wire).observing[..] {
                        [] => Reason::NoRule,
                        _ => Reason::Observed,
                    };
                    assert_eq!(*reason, expected, "{}", wire.escape_ascii());
                    None
                }
                Outcome::Answered { .. } | Outcome::Unanswered => {
                    panic!("{outcome:?}, and nothing is known")
                }
            };
            let context = || format!("{} under {specs:#?}", wire.escape_ascii());
            assert_eq!(
                found,
                oracle.by_regex(&wire).answering,
                "regex: {}",
                context()
            );
            assert_eq!(
                found,
                oracle.by_labels(&wire).answering,
                "labels: {}",
                context()
            );
            if let Some(patterns) = &patterns {
                let expected = oracle::find(patterns.iter().map(String::as_str), &wire);
                assert_eq!(found, expected, "{}", context());
            }
            assert_eq!(slice.run(&frame).unwrap(), outcome, "{}", context());
            matched += usize::from(outcome.verdict() == Verdict::Taken);
            by_regex_rule += usize::from(
                found.is_some_and(|rule| matches!(specs[rule].matches, MatchSpec::Regex(_))),
            );
        }
    }
    let pairs = RULE_SETS * NAMES_EACH;
    println!("{matched} of {pairs} names matched, {by_regex_rule} of them by a regex rule");
    assert!(
        (pairs / 10..pairs * 9 / 10).contains(&matched),
        "{matched} of {pairs} matched: too one-sided to show anything"
    );
    assert!(
        by_regex_rule >= pairs / 500,
        "{by_regex_rule} names matched by regex rules are too few"
    );
}

fn specs_of(patterns: &[String]) -> Vec<RuleSpec> {
    patterns
        .iter()
        .enumerate()
        .map(|(number, pattern)| RuleSpec {
            name: format!("r{number}"),
            matches: MatchSpec::Pattern(pattern.clone()),
            // Every capture must be used.
            cname: pattern
                .split('.')
                .filter(|label| label.starts_with('{'))
                .chain(["upstream", "target", "test"])
                .collect::<Vec<_>>()
                .join("."),
            ttl_seconds: 60,
            follow: true,
            ..RuleSpec::default()
        })
        .collect()
}

/// Few enough words that rules overlap and names match them.
const WORDS: &[&str] = &[
    "a",
    "b",
    "ab",
    "a-b",
    "svc",
    "cluster",
    "local",
    "kafka",
    "x0",
    "0",
    "a-very-long-label-of-a-name",
];

fn word(rng: &mut impl Rng) -> &'static str {
    WORDS[rng.random_range(0..WORDS.len())]
}

/// One to twelve patterns; in half of the sets they share their last labels, as tenants' rules do.
fn random_patterns(rng: &mut impl Rng) -> Vec<String> {
    let shared: Vec<&str> = if rng.random_bool(0.5) {
        (0..rng.random_range(1..4)).map(|_| word(rng)).collect()
    } else {
        Vec::new()
    };
    (0..rng.random_range(1..=12))
        .map(|_| {
            let mut labels: Vec<&str> = (0..rng.random_range(1..5)).map(|_| word(rng)).collect();
            for capture in ["{namespace}", "{id}"] {
                if rng.random_bool(0.4) {
                    let at = rng.random_range(0..=labels.len());
                    labels.insert(at, capture);
                }
            }
            if rng.random_bool(0.4) {
                labels.insert(0, "*");
            }
            labels.extend(&shared);
            labels.join(".")
        })
        .collect()
}

/// A name made from one of the patterns, then perhaps changed.
fn random_name(rng: &mut impl Rng, patterns: &[String]) -> Vec<u8> {
    let pattern = &patterns[rng.random_range(0..patterns.len())];
    let mut labels: Vec<Vec<u8>> = Vec::new();
    for wanted in pattern.split('.') {
        match wanted {
            "*" => {
                for _ in 0..rng.random_range(1..4) {
                    labels.push(random_label(rng));
                }
            }
            capture if capture.starts_with('{') => labels.push(random_label(rng)),
            literal => labels.push(literal.as_bytes().to_vec()),
        }
    }
    for _ in 0..rng.random_range(0..3) {
        let at = rng.random_range(0..labels.len());
        match rng.random_range(0..9) {
            0 => labels.insert(at, random_label(rng)),
            1 if labels.len() > 1 => {
                labels.remove(at);
            }
            2 => labels[at] = random_label(rng),
            3 => {
                let byte = [b'.', 0xff, 0, b'-', b'_', b'A', 0x80, b' '][rng.random_range(0..8)];
                let inside = rng.random_range(0..=labels[at].len());
                labels[at].insert(inside, byte);
            }
            // Two labels become one, with what could be mistaken for their boundary.
            4 | 5 if at + 1 < labels.len() => {
                let next = labels.remove(at + 1);
                labels[at].push([b'.', 0xff, next.len() as u8][rng.random_range(0..3)]);
                labels[at].extend(next);
            }
            // Folding that goes too far would not notice.
            6 => {
                let inside = rng.random_range(0..labels[at].len());
                labels[at][inside] ^= 0x20;
            }
            _ => labels[at].make_ascii_uppercase(),
        }
    }
    for label in &mut labels {
        label.truncate(63);
    }
    let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
    let wire = labels_of(&labels);
    if wire.len() > 255 {
        return random_name(rng, patterns);
    }
    wire
}

fn random_label(rng: &mut impl Rng) -> Vec<u8> {
    match rng.random_range(0..4) {
        0 => {
            const CHARACTERS: &[u8] = b"abcxyz0189-";
            (0..rng.random_range(1..20))
                .map(|_| CHARACTERS[rng.random_range(0..CHARACTERS.len())])
                .collect()
        }
        1 => {
            let len = rng.random_range(1..12);
            (0..len).map(|_| rng.random()).collect()
        }
        _ => word(rng).as_bytes().to_vec(),
    }
}
