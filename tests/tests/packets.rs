//! The table of packets over the engines that need no privileges, and what the table itself must cover.

use std::collections::BTreeSet;

use dns_common::verdict::Reason;
use gregor_tests::packets::{
    engine::{Slice, agree},
    table::{ALONE, Case, Expect, NOT_FROM_A_FRAME, SEVERAL, cases},
};

#[test]
fn slice() {
    let cases = cases();
    let ran = agree(&mut Slice::new(SEVERAL), cases.iter());
    assert_eq!(ran, cases.iter().filter(|c| c.engines.slice).count());
    assert!(ran > 200, "{ran}");
}

#[test]
fn slice_with_one_rule() {
    let cases = cases();
    let ran = agree(
        &mut Slice::new(ALONE),
        cases.iter().filter(|case| case.holds_alone()),
    );
    assert!(ran > 200, "{ran}");
}

#[test]
fn the_table_covers_every_reason() {
    let covered: BTreeSet<Reason> = cases()
        .iter()
        .filter_map(|case| match case.expect {
            Expect::Pass(reason) => Some(reason),
            Expect::Taken { .. } => None,
        })
        .collect();
    for reason in Reason::ALL {
        let elsewhere = NOT_FROM_A_FRAME.iter().any(|(other, _)| other == reason);
        assert_ne!(
            covered.contains(reason),
            elsewhere,
            "{reason:?}: either a case brings it about or it is listed as one that no frame can"
        );
    }
}

#[test]
fn every_case_is_one_of_its_own() {
    let cases = cases();
    assert!(cases.len() >= 60);
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name).collect();
    assert_eq!(names.len(), cases.len(), "a name twice");
    for case in &cases {
        assert!(!case.why.is_empty(), "{}", case.name);
        let twin = cases
            .iter()
            .find(|other| other.name != case.name && other.frame == case.frame);
        assert!(
            twin.is_none(),
            "{} and {:?}",
            case.name,
            twin.map(|c| c.name)
        );
    }
}

#[test]
fn every_rule_takes_something() {
    let taken: BTreeSet<u32> = cases()
        .iter()
        .filter_map(|case: &Case| match case.expect {
            Expect::Taken { rule, .. } => Some(rule),
            Expect::Pass(_) => None,
        })
        .collect();
    assert_eq!(taken, (0..SEVERAL.len() as u32).collect());
}

/// Each thing that is passed untouched by rule, and cases that hold it.
const PASSED_BY_RULE: &[(&str, &[&str])] = &[
    ("QR=1", &["QR=1"]),
    (
        "an opcode other than QUERY",
        &["opcode STATUS", "opcode UPDATE"],
    ),
    ("QDCOUNT other than 1", &["QDCOUNT 0", "two questions"]),
    ("ANCOUNT > 0", &["an answer in a query"]),
    ("NSCOUNT > 0", &["an authority in a query"]),
    (
        "a compressed question",
        &["compressed name", "name that is a pointer"],
    ),
    (
        "label types other than 00",
        &["label type 01", "label type 10", "compressed name"],
    ),
    (
        "names over 255 bytes",
        &["256 bytes", "122 labels in 257 bytes"],
    ),
    ("an EDNS version other than 0", &["EDNS version 1"]),
    ("two OPTs", &["two OPTs", "two OPTs counted as one"]),
    (
        "additional records other than OPT",
        &["an address in the additional section"],
    ),
    ("TSIG", &["TSIG", "OPT and TSIG"]),
    ("SIG(0)", &["SIG(0)"]),
    (
        "fragments",
        &["first fragment", "later fragment", "IPv6 fragment"],
    ),
    ("IPv4 options", &["router alert", "40 bytes of options"]),
    (
        "IPv6 extension headers",
        &["hop-by-hop options", "destination options"],
    ),
    ("GSO", &["GSO", "two queries by GSO"]),
    (
        "anything truncated",
        &["cut in the name", "message without qclass"],
    ),
    ("ANY", &["ANY"]),
    ("AXFR and IXFR", &["AXFR", "IXFR"]),
    ("HINFO", &["HINFO"]),
    ("a class other than IN", &["class CH"]),
];

#[test]
fn what_passes_by_rule_passes() {
    let cases = cases();
    for (line, names) in PASSED_BY_RULE {
        for name in *names {
            let case = cases
                .iter()
                .find(|case| case.name == *name)
                .unwrap_or_else(|| panic!("{line}: no case {name:?}"));
            assert!(matches!(case.expect, Expect::Pass(_)), "{line}: {name}");
        }
    }
}
