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
    assert_eq!(ran, cases.len(), "the slice takes every frame");
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
