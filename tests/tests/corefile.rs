//! Imported rules against the CoreDNS that they come from: random names to a CoreDNS with a Corefile, and to the rules
//! that `gregor import corefile` makes of it. Both give the same answer, or the import says what differs. Wants CoreDNS;
//! all traffic is on the loopback interface.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

#[path = "corefile/files.rs"]
mod files;
#[path = "corefile/server.rs"]
mod server;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use gregor::rules::{
    Budget, RuleSet, RuleSpec,
    corefile::{Import, NoteKind, import},
};
use hickory_proto::rr::Name;
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use server::{CoreDns, Outcome, Upstream};

/// Random Corefiles, each with as many names.
const FILES: u64 = 60;
const NAMES: usize = 60;

/// Notes of the import that explain why a rule answers a name that CoreDNS does not.
const TAKEN: [&str; 5] = [
    "takes names away from it",
    "answers queries of type",
    "has no `fallthrough` for some of its names",
    "depends on the client",
    "is for these names too",
];
/// Notes that explain why CoreDNS answers a name and no rule does.
const NARROWER: [&str; 4] = [
    "also spanned several labels",
    "outside of RFC 1123",
    "also matched longer names",
    "also matched other names",
];

fn imported(text: &str) -> (Import, RuleSet) {
    let import = import(
        text.as_bytes(),
        &Budget::new(Duration::from_secs(3600), 32 << 20),
    );
    let specs: Vec<RuleSpec> = import.rules.iter().map(|rule| rule.rule.clone()).collect();
    let rules = RuleSet::compile(&specs).unwrap();
    (import, rules)
}

/// Where the rules send a name.
fn target(rules: &RuleSet, name: &str) -> Option<String> {
    let wire = Name::from_ascii(name).unwrap().to_lowercase();
    let mut bytes = Vec::new();
    for label in wire.iter() {
        bytes.push(label.len() as u8);
        bytes.extend(label);
    }
    bytes.push(0);
    let rule = rules.find(&bytes, None)?;
    let found = rules.rules()[rule].apply(&bytes, None)?;
    Some(found.target.to_string())
}

/// Whether the import has one of these notes, or leaves something out where that explains it.
fn says(import: &Import, texts: &[&str], or_left_out: bool) -> bool {
    import.notes.iter().any(|note| {
        texts.iter().any(|text| note.text.contains(text))
            || (or_left_out && note.kind == NoteKind::LeftOut)
    })
}

/// What is wrong with the rules for a name, if anything is.
fn difference(import: &Import, rules: &RuleSet, name: &str, outcome: &Outcome) -> Option<String> {
    let rule = target(rules, name);
    let same = match (&rule, outcome) {
        (Some(target), Outcome::Leads(to)) => target == to,
        // What no rule matches goes to the cache that is there, which may refuse it.
        (None, Outcome::Passed | Outcome::Refused) => true,
        _ => false,
    };
    let excused = match rule {
        Some(_) => says(import, &TAKEN, false),
        None => says(import, &NARROWER, true),
    };
    (!same && !excused).then(|| format!("{name}: CoreDNS {outcome:?}, rules {rule:?}"))
}

#[test]
fn random_corefiles_answer_as_their_rules() {
    let upstream = Upstream::start();
    let first = server::seed();
    let mut answered = 0;
    let mut unreported = 0;
    for seed in first..first + FILES {
        let mut random = StdRng::seed_from_u64(seed);
        let text = files::corefile(&mut random);
        let (import, rules) = imported(&text);
        let coredns = CoreDns::start(&text, &upstream).unwrap_or_else(|log| {
            panic!("seed {seed}: {log}\n{text}");
        });
        unreported += usize::from(import.left_out() == 0);
        for _ in 0..NAMES {
            let name = files::name(&mut random);
            let outcome = coredns.ask(&name, &upstream);
            answered += usize::from(target(&rules, &name).is_some());
            if let Some(difference) = difference(&import, &rules, &name, &outcome) {
                panic!(
                    "seed {seed}: {difference}\n{text}\n{}\n{:#?}",
                    import.to_toml(),
                    import.notes
                );
            }
        }
    }
    if first != server::FIRST_SEED {
        return;
    }
    // The names meet the rules, and many files have rules for all of it.
    assert!(answered > 200, "only {answered} names had a rule");
    assert!(
        unreported >= 5,
        "only {unreported} files were imported whole"
    );
}

/// Corefiles of the corpus that CoreDNS does not take, and why.
const NOT_SERVED: [(&str, &str); 13] = [
    ("article", "Helm's escapes"),
    ("condition", "a plugin that is not built in"),
    ("configmap_block_scalar", "in YAML"),
    ("configmap_escaped_scalar", "in YAML"),
    ("custom_parts", "in YAML"),
    ("describe", "in other text"),
    ("helm_values", "in YAML"),
    ("not_a_cname", "an expression that is none"),
    ("other_transports", "certificates"),
    ("rfc1123_class", "a template that Go does not parse"),
    ("unclosed", "not a Corefile"),
    ("unclosed_block", "not a Corefile"),
    ("variable_in_port", "variables"),
];

#[test]
fn the_corpus_answers_as_its_rules() {
    let upstream = Upstream::start();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/corefile");
    let mut served = 0;
    let mut wrong = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path
            .extension()
            .is_none_or(|extension| extension != "corefile")
        {
            continue;
        }
        let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
        if NOT_SERVED.iter().any(|(name, _)| *name == stem) {
            continue;
        }
        let coredns = match CoreDns::start(&text, &upstream) {
            Ok(coredns) => coredns,
            Err(log) => {
                wrong += &format!("{stem}: CoreDNS does not take it: {log}\n");
                continue;
            }
        };
        served += 1;
        let (import, rules) = imported(&text);
        let mut random = StdRng::seed_from_u64(1);
        for name in names_for(&text, &mut random) {
            let outcome = coredns.ask(&name, &upstream);
            if let Some(difference) = difference(&import, &rules, &name, &outcome) {
                wrong += &format!("{stem}: {difference}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(served >= 30, "only {served} files");
}

/// Names out of the words that a Corefile is made of.
fn names_for(text: &str, random: &mut impl Rng) -> Vec<String> {
    let words: BTreeSet<&str> = text
        .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'))
        .filter(|word| {
            (1..=20).contains(&word.len()) && !word.starts_with('-') && !word.ends_with('-')
        })
        .collect();
    let words: Vec<&str> = words.into_iter().collect();
    // Runs of labels as they are in the text, with something in front.
    let plain = text.replace(['\\', '[', ']'], "");
    let names: BTreeSet<String> = plain
        .split(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || "-._".contains(c)))
        .map(|name| name.trim_matches(['.', '-', '_']).to_owned())
        .filter(|name| name.contains('.') && !name.contains("..") && name.len() < 100)
        .collect();
    let mut all = Vec::new();
    for name in names {
        all.push(format!("{name}."));
        for front in ["x", "x.y", "lkc-1", "canary", "foo"] {
            all.push(format!("{front}.{name}."));
        }
    }
    for _ in 0..100 {
        let count = random.random_range(1..=6);
        let labels: Vec<&str> = (0..count)
            .map(|_| words[random.random_range(0..words.len())])
            .collect();
        all.push(format!("{}.", labels.join(".")));
    }
    all.retain(|name| {
        name.len() < 200
            && name
                .split('.')
                .all(|label| !label.starts_with('-') && !label.ends_with('-'))
    });
    all
}
