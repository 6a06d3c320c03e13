use hickory_proto::{op::ResponseCode::*, rr::RData};

use super::*;
use crate::resolve::testing::*;

const TARGET: &str = "kafka-upstream.foo.svc.cluster.local.";
const END: &str = "vpce-1.vpce.amazonaws.com.";

fn walk(qtype: RecordType) -> Walk {
    Walk::new(name(TARGET), qtype)
}

fn answer(outcome: Option<Outcome>) -> Answer {
    match outcome {
        Some(Outcome::Answer(answer)) => answer,
        other => panic!("{other:?}"),
    }
}

fn failed(failure: Failure) -> Option<Outcome> {
    Some(Outcome::Failed(failure))
}

#[test]
fn a_whole_chain_in_one_reply_is_an_answer_with_its_minimum_ttl() {
    let reply = message(
        NoError,
        vec![
            // Not in chain order, with records that are not on the chain.
            a(END, 60, [10, 0, 0, 1]),
            a("other.example.", 1, [10, 9, 9, 9]),
            cname("mid.example.", 7, END),
            aaaa(END, 3, 1),
            cname(TARGET, 30, "MID.example."),
            a(END, 50, [10, 0, 0, 2]),
        ],
        vec![],
    );
    let answer = answer(walk(RecordType::A).take(&reply));
    assert_eq!(
        answer.names,
        [name(TARGET), name("mid.example."), name(END)]
    );
    // In lower case, whatever the case in the reply.
    assert!(answer.names[1].eq_case(&name("mid.example.")));
    assert_eq!(answer.rdata, [[10, 0, 0, 1], [10, 0, 0, 2]]);
    assert_eq!(answer.ttl_seconds, 7);
    assert_eq!(answer.soa, None);
}

#[test]
fn the_end_of_a_bare_cname_is_asked_for_itself_whatever_the_rcode() {
    for rcode in [NoError, NXDomain] {
        let bare = message(rcode, vec![cname(TARGET, 30, END)], vec![]);
        let mut walk = walk(RecordType::AAAA);
        assert_eq!(walk.take(&bare), None);
        assert_eq!(*walk.next_name(), name(END));

        let nodata = message(NoError, vec![], vec![soa("amazonaws.com.", 900, 20)]);
        let answer = answer(walk.take(&nodata));
        assert_eq!(answer.names, [name(TARGET), name(END)]);
        assert_eq!((answer.rdata.len(), answer.ttl_seconds), (0, 20));
        assert_eq!(
            answer.soa,
            Some(Box::new((name("amazonaws.com."), soa_data(20))))
        );
    }
}

#[test]
fn an_end_that_does_not_exist_is_a_broken_chain_and_not_a_missing_target() {
    let mut walk = walk(RecordType::A);
    let bare = message(NoError, vec![cname(TARGET, 30, END)], vec![]);
    assert_eq!(walk.take(&bare), None);
    let reply = message(NXDomain, vec![], vec![soa("amazonaws.com.", 900, 20)]);
    assert_eq!(walk.take(&reply), Some(Outcome::BrokenChain));
}

#[test]
fn a_target_that_does_not_exist_is_no_target_for_every_qtype() {
    for qtype in [RecordType::A, RecordType::CNAME, RecordType::TXT] {
        let reply = message(NXDomain, vec![], vec![soa("cluster.local.", 5, 5)]);
        assert_eq!(walk(qtype).take(&reply), Some(Outcome::NoTarget));
    }
}

#[test]
fn other_rcodes_and_contradictions_are_failures() {
    for rcode in [ServFail, Refused, NotImp, FormErr] {
        let reply = message(rcode, vec![a(TARGET, 9, [10, 0, 0, 1])], vec![]);
        assert_eq!(walk(RecordType::A).take(&reply), failed(Failure::Rcode));
    }
    let both = message(NXDomain, vec![a(TARGET, 9, [10, 0, 0, 1])], vec![]);
    assert_eq!(walk(RecordType::A).take(&both), failed(Failure::Unusable));
    let ns = RData::NS(hickory_proto::rr::rdata::NS(name("ns.example.")));
    let referral = Record::from_rdata(name("local."), 60, ns);
    let referral = message(NoError, vec![], vec![referral]);
    assert_eq!(
        walk(RecordType::A).take(&referral),
        failed(Failure::Unusable)
    );
}

#[test]
fn loops_end_within_one_reply_and_over_several() {
    let within = message(
        NoError,
        vec![
            cname(TARGET, 9, "x.example."),
            cname("x.example.", 9, TARGET),
        ],
        vec![],
    );
    assert_eq!(walk(RecordType::A).take(&within), failed(Failure::Loop));
    let itself = message(NoError, vec![cname(TARGET, 9, TARGET)], vec![]);
    assert_eq!(walk(RecordType::A).take(&itself), failed(Failure::Loop));

    let mut walk = walk(RecordType::A);
    let there = message(NoError, vec![cname(TARGET, 9, "x.example.")], vec![]);
    let back = message(NoError, vec![cname("x.example.", 9, TARGET)], vec![]);
    assert_eq!(walk.take(&there), None);
    assert_eq!(walk.take(&back), failed(Failure::Loop));
}

fn links(count: usize) -> Vec<Record> {
    (0..count)
        .map(|step| {
            let owner = match step {
                0 => TARGET.to_owned(),
                step => format!("n{step}.example."),
            };
            cname(&owner, 9, &format!("n{}.example.", step + 1))
        })
        .collect()
}

#[test]
fn ten_steps_are_followed_and_eleven_are_not() {
    let mut records = links(MAX_STEPS);
    records.push(a(&format!("n{MAX_STEPS}.example."), 9, [10, 0, 0, 1]));
    let whole = message(NoError, records, vec![]);
    assert_eq!(
        answer(walk(RecordType::A).take(&whole)).names.len(),
        MAX_STEPS + 1
    );
    let longer = message(NoError, links(MAX_STEPS + 1), vec![]);
    assert_eq!(walk(RecordType::A).take(&longer), failed(Failure::TooLong));

    let mut one_by_one = walk(RecordType::A);
    for link in links(MAX_STEPS) {
        assert_eq!(one_by_one.take(&message(NoError, vec![link], vec![])), None);
    }
    let last = links(MAX_STEPS + 1).pop().unwrap();
    let last = message(NoError, vec![last], vec![]);
    assert_eq!(one_by_one.take(&last), failed(Failure::TooLong));
}

#[test]
fn qtype_cname_looks_at_the_target_alone() {
    for reply in [
        message(NoError, vec![cname(TARGET, 30, END)], vec![]),
        message(NoError, vec![], vec![soa("cluster.local.", 30, 30)]),
    ] {
        let answer = answer(walk(RecordType::CNAME).take(&reply));
        assert_eq!(answer.names, [name(TARGET)]);
        assert!(answer.rdata.is_empty());
        assert_eq!(answer.ttl_seconds, 30);
    }
}

#[test]
fn a_nodata_without_soa_or_with_a_foreign_one_is_short() {
    for authorities in [vec![], vec![soa("example.org.", 900, 900)]] {
        let answer = answer(walk(RecordType::AAAA).take(&message(NoError, vec![], authorities)));
        assert_eq!((answer.soa, answer.ttl_seconds), (None, NODATA_TTL));
    }
}

#[test]
fn a_ttl_with_the_top_bit_counts_as_zero() {
    let reply = message(NoError, vec![a(TARGET, 0x8000_0000, [10, 0, 0, 1])], vec![]);
    assert_eq!(answer(walk(RecordType::A).take(&reply)).ttl_seconds, 0);
}

#[test]
fn large_rrsets_are_whole_and_duplicates_dropped() {
    let many = (0..4000u16)
        .map(|number| a(TARGET, 9, [10, 0, (number >> 8) as u8, number as u8]))
        .collect();
    let answer_of_many = answer(walk(RecordType::A).take(&message(NoError, many, vec![])));
    assert_eq!(answer_of_many.rdata.len(), 4000);
    let same = vec![a(TARGET, 9, [10, 0, 0, 1]), a(TARGET, 8, [10, 0, 0, 1])];
    let same = answer(walk(RecordType::A).take(&message(NoError, same, vec![])));
    assert_eq!((same.rdata.len(), same.ttl_seconds), (1, 8));
}
