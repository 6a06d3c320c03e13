//! Frames through the packet pipeline, whose verdict must be that of a second reading of RFC 791, 8200, 768 and 1035, and
//! whose answers must be those of the compose step.
//!
//! The first byte of an input chooses the rules (its two lowest bits) and the conditions of the run ([`GSO`], [`REFUSED`],
//! [`CRAMPED`], [`AS_IT_IS`]); the rest is the frame.

mod expected;
mod known;
mod reply;
mod rules;

use std::cell::RefCell;

use dns_common::{
    packet::SlicePacket,
    pipeline::{Matched, MemoryHost, intercept},
    scratch::{NAME_AT, Scratch},
    verdict::{Reason, Verdict},
    wire::{TYPE_A, TYPE_AAAA},
};
use gregor::resolve::Query;
use hickory_proto::op::Message;

use crate::wire;
use expected::{Expected, expected};
use known::{NOW_NS, Says, Shared, says};
use rules::{Fixture, fixtures, servers};

/// The frame is several datagrams (GSO).
pub const GSO: u8 = 0x80;
/// Queries cannot be handed over now.
pub const REFUSED: u8 = 0x40;
/// The frame cannot grow.
pub const CRAMPED: u8 = 0x20;
/// The checksums stay as they are; else they are put right first.
pub const AS_IT_IS: u8 = 0x10;
const RULES: u8 = 0x03;

/// Bytes to which a frame can grow.
const ROOM: usize = 4096;

/// The result for a frame.
#[derive(Debug, PartialEq, Eq)]
struct Outcome {
    verdict: Verdict,
    handed_over: Option<Matched>,
    frame: Vec<u8>,
}

pub fn target(data: &[u8]) {
    let Some((&choice, frame)) = data.split_first() else {
        return;
    };
    let fixture = &fixtures()[usize::from(choice & RULES)];
    let mut frame = frame.to_vec();
    let expected = expected(fixture, &frame, choice & GSO != 0);
    if let Some(expected) = &expected
        && choice & AS_IT_IS == 0
    {
        reply::correct_checksums(&mut frame, expected);
    }
    let outcome = decide(fixture, &frame, choice, dirty(choice));
    match &expected {
        None => judge_passed(&frame, &outcome),
        Some(expected) => judge_matched(fixture, &frame, choice, expected, &outcome),
    }
    let again = decide(fixture, &frame, choice, Scratch::new());
    assert_eq!(
        outcome.verdict, again.verdict,
        "what stood in the scratch decided"
    );
}

fn judge_passed(frame: &[u8], outcome: &Outcome) {
    assert!(matches!(outcome.verdict, Verdict::Pass(_)), "{outcome:?}");
    assert_eq!(outcome.handed_over, None);
    assert_eq!(outcome.frame, frame, "written to");
}

fn judge_matched(
    fixture: &Fixture,
    frame: &[u8],
    choice: u8,
    expected: &Expected,
    outcome: &Outcome,
) {
    if expected.ends_like_another && outcome.verdict == Verdict::Pass(Reason::NoRule) {
        return judge_passed(frame, outcome);
    }
    let message = &frame[expected.message.clone()];
    let query = judge_message(message, fixture, expected);
    let says = match &query {
        Some(query) if expected.has_short_options => {
            let rule = &fixture.rules.rules()[expected.rule];
            rule.apply(query.qname(), None)
                .map_or(Says::Nothing, |matched| {
                    says(
                        &fixture.known,
                        expected.rule,
                        query.qtype,
                        &matched.captures,
                        expected.server,
                    )
                })
        }
        _ => Says::Nothing,
    };
    match (says, query) {
        (Says::NoTarget, _) => {
            assert_eq!(outcome.verdict, Verdict::Pass(Reason::NoTarget));
            return judge_passed(frame, outcome);
        }
        (Says::Answer(known, is_stale), Some(query)) if known.fits(&query) => {
            let reply = known.replies(&query).next().expect("it fits");
            if expected.message.start + reply.len() <= room(frame, choice) {
                assert_eq!(outcome.verdict, Verdict::Answered);
                reply::judge(frame, &outcome.frame, expected, &query, known);
                if let Some(matched) = outcome.handed_over {
                    assert!(is_stale && choice & REFUSED == 0, "asked without need");
                    judge_handed_over(&matched, frame, expected, true);
                }
                return;
            }
            if is_stale && outcome.handed_over.is_some_and(|first| first.is_answered) {
                // A refresh was requested, and the answer did not fit.
                return assert_eq!(outcome.frame, frame);
            }
        }
        _ => {}
    }
    assert_eq!(outcome.frame, frame, "written to");
    if choice & REFUSED != 0 {
        let verdict = if exists(message, fixture, expected) {
            Verdict::Unanswered
        } else {
            Verdict::Pass(Reason::RateLimited)
        };
        assert_eq!(outcome.verdict, verdict);
        return assert_eq!(outcome.handed_over, None);
    }
    assert_eq!(outcome.verdict, Verdict::Taken);
    let matched = outcome.handed_over.expect("a query that was handed over");
    judge_handed_over(&matched, frame, expected, false);
}

/// Whether an address of the name is cached: then it exists, for every type.
fn exists(message: &[u8], fixture: &Fixture, expected: &Expected) -> bool {
    let parsed = wire::Message::parse(message).expect("a message that matches");
    let name = wire::to_wire(&parsed.questions[0].name);
    let rule = &fixture.rules.rules()[expected.rule];
    rule.apply(&name, None).is_some_and(|matched| {
        [TYPE_A, TYPE_AAAA].into_iter().any(|qtype| {
            let says = says(
                &fixture.known,
                expected.rule,
                qtype,
                &matched.captures,
                expected.server,
            );
            matches!(says, Says::Answer(..))
        })
    })
}

fn judge_handed_over(matched: &Matched, frame: &[u8], expected: &Expected, is_answered: bool) {
    assert_eq!(matched.rule as usize, expected.rule);
    assert_eq!(matched.l3_offset as usize, expected.l3_offset);
    assert_eq!(matched.frame_len as usize, frame.len());
    assert_eq!(matched.is_answered, is_answered);
}

/// Compares hickory's and the responder's reading of a message that matches.
fn judge_message(message: &[u8], fixture: &Fixture, expected: &Expected) -> Option<Query> {
    let parsed = Query::parse(message);
    let Some(query) = &parsed else {
        // The one thing that the programs leave to userspace: the list of options inside the OPT.
        assert_eq!(&message[10..12], &[0, 1], "only an OPT may be refused");
        return None;
    };
    match Message::from_vec(message) {
        Ok(message) => {
            let [question] = message.queries.as_slice() else {
                panic!("{} questions", message.queries.len());
            };
            let wire = gregor::resolve::wire_name(question.name());
            assert_eq!(fixture.rules.find(&wire, None), Some(expected.rule));
        }
        // hickory parses some options and refuses some of them.
        Err(error) => assert_eq!(&message[10..12], &[0, 1], "{error}"),
    }
    // Captured labels always fit the targets of the fixtures; a group may be longer than a label.
    let rule = &fixture.rules.rules()[expected.rule];
    assert!(rule.is_regex() || rule.apply(query.qname(), None).is_some());
    parsed
}

/// A scratch as an earlier frame may have left it: nothing ever writes in front of the name.
fn dirty(byte: u8) -> Scratch {
    let mut scratch = Scratch::new();
    scratch.bytes[NAME_AT as usize..].fill(byte);
    scratch.reply.fill(byte);
    scratch
}

fn room(frame: &[u8], choice: u8) -> usize {
    if choice & CRAMPED != 0 {
        frame.len()
    } else {
        frame.len().max(ROOM)
    }
}

fn decide(fixture: &Fixture, frame: &[u8], choice: u8, mut scratch: Scratch) -> Outcome {
    let mut bytes = frame.to_vec();
    bytes.resize(room(frame, choice), 0xa5);
    let handed_over = RefCell::new(Vec::new());
    let host = MemoryHost {
        ifindex: 1,
        servers: fixture.servers,
        header: &fixture.rules.table().header,
        table: &fixture.rules.table().entries,
        tails: &fixture.rules.table().tails,
        answers: Shared(&fixture.answers),
        now_ns: NOW_NS,
        admission: if choice & REFUSED != 0 {
            Err(Reason::RateLimited)
        } else {
            Ok(())
        },
        protection: 0,
        sink: RefCell::new(|query| handed_over.borrow_mut().push(query)),
    };
    let mut packet = SlicePacket::with_room(&mut bytes, frame.len());
    packet.gso = choice & GSO != 0;
    let verdict = intercept(&mut packet, &host, || Some(&mut scratch));
    let frame = packet.bytes().to_vec();
    let handed_over = handed_over.into_inner();
    // A query whose refreshed answer does not fit is handed over, too.
    let is_refresh = |matched: &Matched| matched.is_answered;
    assert!(handed_over.len() <= 1 + usize::from(handed_over.first().is_some_and(is_refresh)));
    Outcome {
        verdict,
        handed_over: handed_over.first().copied(),
        frame,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::corpus::inputs;

    #[test]
    fn the_corpus_leads_to_every_verdict_that_a_frame_can_bring_about() {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, data) in inputs("pipeline").expect("the corpus is in the repository") {
            let (choice, frame) = data.split_first().expect("no input is empty");
            let fixture = &fixtures()[usize::from(choice & RULES)];
            let outcome = decide(fixture, frame, *choice, Scratch::new());
            *counts.entry(format!("{:?}", outcome.verdict)).or_default() += 1;
            if outcome
                .handed_over
                .is_some_and(|matched| matched.is_answered)
            {
                *counts.entry("refreshed".to_owned()).or_default() += 1;
            }
        }
        // Rules that ask who the client is: `tests/tests/clients_in_memory.rs`.
        let elsewhere = [
            "NoResponder",
            "RingFull",
            "Internal",
            "Source",
            "UnknownClient",
            "ForgedClient",
            "OtherClient",
        ];
        let wanted = Reason::ALL
            .iter()
            .filter(|reason| !elsewhere.contains(&format!("{reason:?}").as_str()))
            .map(|reason| format!("Pass({reason:?})"))
            .chain(["Taken", "Answered", "refreshed"].map(str::to_owned));
        for verdict in wanted {
            assert!(counts.contains_key(&verdict), "{verdict}: {counts:?}");
        }
        assert!(counts["Answered"] >= 20, "{counts:?}");
    }
}
