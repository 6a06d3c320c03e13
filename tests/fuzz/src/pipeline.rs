//! Frames through the packet pipeline, whose verdict must be that of a second reading of RFC 791, 8200, 768 and 1035.
//!
//! The first byte of an input chooses the rules (low bits) and segmentation offload (top bit); the rest is the frame.

mod expected;
mod rules;

use std::cell::RefCell;

use dns_common::{
    dfa::{NAME_AT, Scratch},
    packet::SlicePacket,
    pipeline::{Matched, MemoryHost, intercept},
    verdict::Verdict,
};
use gregor::resolve::Query;
use hickory_proto::op::Message;

use expected::expected;
pub use rules::{Fixture, fixtures, servers};

/// Top bit of the first byte: the frame stands for several datagrams.
pub const GSO: u8 = 0x80;

pub fn target(data: &[u8]) {
    let Some((&choice, frame)) = data.split_first() else {
        return;
    };
    let gso = choice & GSO != 0;
    let fixtures = fixtures();
    let fixture = &fixtures[usize::from(choice & !GSO) % fixtures.len()];

    let (verdict, matched) = decide(fixture, frame, gso, dirty(choice));
    let again = decide(fixture, frame, gso, Scratch::new());
    assert_eq!(
        (verdict, matched),
        again,
        "what stood in the scratch decided"
    );

    let expected = expected(fixture, frame, gso);
    let Some(matched) = matched else {
        assert!(matches!(verdict, Verdict::Pass(_)), "taken by nobody");
        assert_eq!(expected, None, "{verdict:?}");
        return;
    };
    assert_eq!(verdict, Verdict::Taken);
    let expected = expected.expect("a frame that ought to pass");
    assert_eq!(matched.rule as usize, expected.rule);
    assert_eq!(matched.l3_offset as usize, expected.l3_offset);
    assert_eq!(matched.frame_len as usize, frame.len());
    judge_message(&frame[expected.message.clone()], fixture, expected.rule);
}

/// What hickory and the responder make of a message that was taken.
fn judge_message(message: &[u8], fixture: &Fixture, rule: usize) {
    let parsed = Query::parse(message);
    if parsed.is_none() {
        // The one thing that the programs leave to userspace: the list of options inside the OPT.
        assert_eq!(&message[10..12], &[0, 1], "only an OPT may be refused");
        return;
    }
    match Message::from_vec(message) {
        Ok(parsed) => {
            let [question] = parsed.queries.as_slice() else {
                panic!("{} questions", parsed.queries.len());
            };
            let wire = gregor::resolve::wire_name(question.name());
            assert_eq!(fixture.rules.find(&wire), Some(rule));
        }
        // hickory knows the inside of some options and refuses what it finds there.
        Err(error) => assert_eq!(&message[10..12], &[0, 1], "{error}"),
    }
    let rule = &fixture.rules.rules()[rule];
    let name = &message[12..message.len()];
    let end = 1 + name
        .iter()
        .scan(0, |left, &byte| {
            if *left == 0 {
                *left = usize::from(byte);
                Some((true, byte))
            } else {
                *left -= 1;
                Some((false, byte))
            }
        })
        .position(|(length, byte)| length && byte == 0)
        .expect("a root label");
    // Captured labels always fit the targets of the fixtures; a group may be longer than a label.
    assert!(rule.is_regex() || rule.apply(&name[..end]).is_some());
}

/// A scratch as an earlier frame may have left it: nothing ever writes in front of the name.
fn dirty(byte: u8) -> Scratch {
    let mut scratch = Scratch::new();
    scratch.bytes[NAME_AT as usize..].fill(byte);
    scratch
}

fn decide(
    fixture: &Fixture,
    frame: &[u8],
    gso: bool,
    mut scratch: Scratch,
) -> (Verdict, Option<Matched>) {
    let mut bytes = frame.to_vec();
    let matched = RefCell::new(Vec::new());
    let host = MemoryHost {
        servers: fixture.servers,
        header: &fixture.rules.table().header,
        table: &fixture.rules.table().entries,
        tails: &fixture.rules.table().tails,
        admission: Ok(()),
        sink: RefCell::new(|query| matched.borrow_mut().push(query)),
    };
    let packet = SlicePacket {
        bytes: &mut bytes,
        gso,
    };
    let verdict = intercept(&packet, &host, || Some(&mut scratch));
    assert_eq!(bytes, frame, "the pipeline wrote to the frame");
    let matched = matched.into_inner();
    assert!(matched.len() <= 1, "handed over twice");
    (verdict, matched.first().copied())
}
