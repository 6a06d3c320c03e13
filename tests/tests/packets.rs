//! The table of packets over the engines that need no privileges, and what the table itself must cover.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::{collections::BTreeSet, time::Duration};

use dns_common::verdict::{Reason, Verdict};
use gregor::datapath::Term;
use gregor::rules::Mode;
use gregor_tests::{
    lab::skip,
    packets::{
        answers::{self, addresses},
        build::{name, opt, question, udp_to},
        engine::{Engine as _, Outcome, Slice, agree, agree_on_answers},
        table::{
            ALONE, BROKER, Case, Expect, FIRST_V4, NOT_FROM_A_FRAME, SEVERAL, broker_query, cases,
        },
    },
    reading, tools,
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
fn cases_are_distinct() {
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
fn every_rule_matches_a_case() {
    let taken: BTreeSet<u32> = cases()
        .iter()
        .filter_map(|case: &Case| match case.expect {
            Expect::Taken { rule, .. } => Some(rule),
            Expect::Pass(_) => None,
        })
        .collect();
    let answering = (0..)
        .zip(SEVERAL)
        .filter(|(_, rule)| rule.mode == Mode::Answer && rule.clients.have_the_pod())
        .map(|(index, _)| index);
    assert_eq!(taken, answering.collect());
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
    ("AXFR and IXFR", &["AXFR", "IXFR"]),
    ("a class other than IN", &["class CH"]),
];

#[test]
fn cases_that_must_pass_do_pass() {
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

#[test]
fn answers_over_a_slice() {
    let cases = answers::cases();
    let mut slice = Slice::with_rules(answers::rules());
    agree_on_answers(&mut slice, cases.iter());
    slice.knows_suffixes = false;
    agree_on_answers(&mut slice, cases.iter());
}

/// Each answer as two unrelated parsers read it.
#[test]
fn two_parsers_read_the_answers_as_described() {
    if !tools::has_go() {
        return skip(
            "two_parsers_read_the_answers_as_described",
            "no Go to build the second parser with",
        );
    }
    let cases = answers::cases();
    let mut slice = Slice::with_rules(answers::rules());
    let replies = agree_on_answers(&mut slice, cases.iter());
    let messages: Vec<&[u8]> = replies.iter().map(|(_, reply)| &reply[..]).collect();
    let readings = reading::both(&messages).unwrap();
    for ((case, reply), reading) in replies.iter().zip(&readings) {
        assert!(
            case.is_read_in(reading),
            "{}: {reading:#?} in {reply:02x?}",
            case.name
        );
    }
}

#[test]
fn answer_cases_are_distinct() {
    let cases = answers::cases();
    let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
    assert_eq!(names.len(), cases.len(), "a name twice");
    let count = |expect| cases.iter().filter(|case| case.expect == expect).count();
    for expect in [
        answers::Expect::Answered,
        answers::Expect::Refreshed,
        answers::Expect::Taken,
        answers::Expect::NoTarget,
    ] {
        assert!(count(expect) > 2, "{expect:?}");
    }
}

/// With empty tables, and with none, everything is as before.
#[test]
fn the_table_with_answers_to_other_questions() {
    let cases = cases();
    let mut slice = Slice::new(SEVERAL);
    slice
        .fill(&[answers::cached("absent", answers::endpoint())])
        .unwrap();
    agree(&mut slice, cases.iter());
}

/// A program that interrupts another one on its processor does not touch its scratch memory; its frame passes.
#[test]
fn nested_runs_pass() {
    let mut slice = Slice::new(SEVERAL);
    let frame = broker_query().build();
    assert!(slice.scratch.enter());
    let nested = slice.run(&frame).unwrap();
    assert_eq!(nested, Outcome::Passed(Reason::Internal));
    slice.scratch.leave();
    let outcome = slice.run(&frame).unwrap();
    assert_eq!(outcome.verdict(), Verdict::Taken);
}

/// The reply of a slice, its TTL and the addresses in their order.
fn ttl_and_addresses(outcome: &Outcome) -> (u32, Vec<Vec<u8>>) {
    let Outcome::Answered { reply, .. } = outcome else {
        panic!("{outcome:?}");
    };
    let reading = reading::hickory(&reply[42..]).unwrap();
    let ttl = reading.answer[0].ttl;
    assert!(reading.answer.iter().all(|record| record.ttl == ttl));
    let addresses = reading.answer.iter().filter(|record| record.rtype == 1);
    let bytes = |hex: &str| {
        (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect()
    };
    (ttl, addresses.map(|record| bytes(&record.data)).collect())
}

#[test]
fn an_answer_ages_by_the_second() {
    const SECOND: u64 = 1_000_000_000;
    let mut slice = Slice::with_rules(answers::rules());
    let begin = slice.now_ns;
    let entry = answers::cached("foo", answers::endpoint()).for_term(Term {
        fresh: Duration::from_secs(30),
        grace: Duration::from_secs(3),
        fixed_ttl: None,
        ..Term::default()
    });
    slice.fill(&[entry]).unwrap();
    let query = broker_query().build();
    for (after, ttl) in [
        (0, 30),
        (1, 30),
        (SECOND - 1, 30),
        (SECOND, 29),
        (SECOND + 1, 29),
        (28 * SECOND, 2),
        (29 * SECOND - 1, 2),
        (29 * SECOND, 1),
        (30 * SECOND - 1, 1),
    ] {
        slice.now_ns = begin + after;
        let outcome = slice.run(&query).unwrap();
        assert_eq!(ttl_and_addresses(&outcome).0, ttl, "{after} ns later");
        assert!(matches!(outcome, Outcome::Answered { refresh: None, .. }));
    }
    // One query of its grace is handed over, and no second one before the entry is another.
    for (after, refreshes) in [
        (30 * SECOND, true),
        (30 * SECOND, false),
        (33 * SECOND - 1, false),
    ] {
        slice.now_ns = begin + after;
        let outcome = slice.run(&query).unwrap();
        assert_eq!(ttl_and_addresses(&outcome).0, 1);
        let Outcome::Answered { refresh, .. } = outcome else {
            unreachable!();
        };
        assert_eq!(refresh.is_some(), refreshes, "{after} ns later");
    }
    slice.now_ns = begin + 33 * SECOND;
    assert_eq!(slice.run(&query).unwrap().verdict(), Verdict::Taken);
}

#[test]
fn addresses_take_turns() {
    let mut slice = Slice::with_rules(answers::rules());
    let message = question(name(BROKER), 1).additional(opt(1232, 0, &[]));
    let query = udp_to(FIRST_V4, message.build()).build();
    for count in 1..=20u8 {
        let answer = answers::Answer {
            rdata: addresses(count),
            ..answers::endpoint()
        };
        if answer.body().is_none() {
            continue;
        }
        slice.fill(&[answers::cached("foo", answer)]).unwrap();
        for turn in 0..3 * usize::from(count) {
            let mut expected = addresses(count);
            expected.rotate_left(turn % usize::from(count));
            let outcome = slice.run(&query).unwrap();
            assert_eq!(
                ttl_and_addresses(&outcome).1,
                expected,
                "answer {turn} of {count}"
            );
        }
    }
}

/// A frame that cannot grow goes to userspace unchanged.
#[test]
fn frames_that_cannot_grow_are_handed_over() {
    let mut slice = Slice::with_rules(answers::rules());
    slice
        .fill(&[answers::cached("foo", answers::endpoint())])
        .unwrap();
    let query = broker_query().build();
    let mut verdicts = BTreeSet::new();
    for room in 0..400 {
        slice.room = room;
        let outcome = slice.run(&query).unwrap();
        verdicts.insert(format!("{:?}", outcome.verdict()));
        match outcome {
            Outcome::Taken(event) => assert_eq!(event.frame, query.bytes),
            Outcome::Answered { reply, .. } => assert!(reply.len() <= query.bytes.len() + room),
            passed => panic!("{passed:?}"),
        }
    }
    assert_eq!(verdicts.len(), 2);
}
