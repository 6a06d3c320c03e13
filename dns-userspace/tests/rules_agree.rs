//! The table, a regular expression on the presentation form and a comparison label by label agree on which rule matches.

use gregor::rules::testing::{Expected, Oracle, Rng, random_name, random_rules, realistic_rules};
use gregor::rules::{Budget, RuleSet};

const NAMES: usize = 1_000;

/// Pairs of a rule set and a name: `GREGOR_PAIRS`, or a million.
fn pairs() -> usize {
    match std::env::var("GREGOR_PAIRS") {
        Ok(text) => text.parse().expect("GREGOR_PAIRS is a number"),
        Err(_) => 1_000_000,
    }
}

fn hex(wire: &[u8]) -> String {
    wire.escape_ascii().to_string()
}

#[derive(Default)]
struct Seen {
    names: usize,
    matched: usize,
    not_first: usize,
    observed: usize,
    observed_and_answered: usize,
    /// Names outside of host names: escapes, dots or separators in labels.
    odd: usize,
    longest: usize,
    most_labels: usize,
}

fn agree(rules: &RuleSet, oracle: &Oracle, wire: &[u8], context: &str, seen: &mut Seen) {
    let found = rules.find(wire, None);
    let observing = rules.observed(wire, None).into_iter();
    let expected = Expected {
        answering: found,
        observing: observing
            .filter_map(|rule| rules.index_of(rule.id()))
            .collect(),
    };
    assert_eq!(
        expected,
        oracle.by_regex(wire),
        "regex, {context}: {}",
        hex(wire)
    );
    assert_eq!(
        expected,
        oracle.by_labels(wire),
        "labels, {context}: {}",
        hex(wire)
    );
    if let Some(rule) = found {
        // What the kernel took, the responder can say more about: captured labels always fit the targets here, while
        // a group may be longer than a label.
        let rule = &rules.rules()[rule];
        assert!(
            rule.is_regex() || rule.apply(wire, None).is_some(),
            "apply, {context}: {}",
            hex(wire)
        );
        seen.matched += 1;
        seen.not_first += usize::from(found > Some(0));
    }
    seen.observed += usize::from(!expected.observing.is_empty());
    seen.observed_and_answered += usize::from(!expected.observing.is_empty() && found.is_some());
    seen.names += 1;
    seen.odd += usize::from(
        !wire
            .iter()
            .all(|b| *b < 64 || b.is_ascii_alphanumeric() || *b == b'_'),
    );
    seen.longest = seen.longest.max(wire.len());
    let mut labels = 0;
    let mut at = 0;
    while wire[at] != 0 {
        at += 1 + usize::from(wire[at]);
        labels += 1;
    }
    seen.most_labels = seen.most_labels.max(labels);
}

#[test]
fn three_engines_agree_on_random_rules_and_names() {
    let mut seen = Seen::default();
    for seed in 0..pairs().div_ceil(NAMES) as u64 {
        let mut random = Rng::new(seed);
        let specs = random_rules(&mut random, 8);
        let rules = match RuleSet::compile(&specs) {
            Ok(rules) => rules,
            Err(complaints) => panic!("seed {seed}: {complaints:?}\n{specs:#?}"),
        };
        let oracle = Oracle::new(&specs);
        let context = format!("seed {seed}");
        for _ in 0..NAMES {
            let wire = random_name(&mut random, &specs);
            agree(&rules, &oracle, &wire, &context, &mut seen);
        }
    }
    // The corpus is worth something only when it keeps hitting and missing narrowly.
    let share = |part: usize| 100 * part / seen.names;
    assert!(
        (25..=85).contains(&share(seen.matched)),
        "{}% matched",
        share(seen.matched)
    );
    assert!(
        share(seen.not_first) >= 10,
        "{}% not by the first rule",
        share(seen.not_first)
    );
    assert!(
        share(seen.observed) >= 5 && seen.observed_and_answered > 1_000,
        "{} observed, {} of them answered",
        seen.observed,
        seen.observed_and_answered
    );
    assert!(share(seen.odd) >= 5, "{}% odd", share(seen.odd));
    assert_eq!((seen.longest, seen.most_labels), (255, 127));
}

#[test]
fn three_engines_agree_on_many_rules() {
    let specs = realistic_rules(200);
    let rules = RuleSet::compile(&specs).expect("realistic rules compile");
    let oracle = Oracle::new(&specs);
    let mut random = Rng::new(1);
    let mut seen = Seen::default();
    for _ in 0..2_000 {
        let wire = random_name(&mut random, &specs);
        agree(&rules, &oracle, &wire, "200 rules", &mut seen);
    }
    assert!(seen.matched > 500, "{} matched", seen.matched);
}

#[test]
fn a_thousand_rules_stay_small() {
    let specs = realistic_rules(1000);
    // A quarter of the rules has a target with another reference beside the namespace.
    for (protects, patterns, warnings) in [(false, 0, 0), (true, 250, 250)] {
        let budget = Budget::of_this_process();
        let begun = std::time::Instant::now();
        let rules = RuleSet::compile_and_protect(&specs, "", &budget, protects)
            .expect("realistic rules compile");
        let bytes = rules.table().bytes();
        println!(
            "{patterns} protected patterns: {bytes} bytes in {:?}",
            begun.elapsed()
        );
        assert!(bytes < 16 << 20, "{bytes}");
        assert_eq!(rules.warnings().len(), warnings);
        assert_eq!(rules.protected().count(), patterns);
    }
}
