use hickory_proto::{
    op::ResponseCode::{NXDomain, NoError, ServFail},
    rr::{DNSClass, Record},
};

use super::*;
use crate::resolve::testing::*;

const TARGET: &str = "kafka-upstream.foo.svc.cluster.local.";
const END: &str = "10.0.0.5.";

type Replies = Vec<((&'static str, RecordType), Result<Message, Failure>)>;

/// Runs a chase against these replies, in this order.
fn run(qtype: RecordType, replies: Replies) -> Outcome {
    let mut chase = Chase::new(name(TARGET), qtype, false);
    let count = replies.len();
    for (number, ((owner, qtype), reply)) in replies.into_iter().enumerate() {
        assert_eq!(
            chase.next_question(),
            (&name(owner), qtype),
            "question {number}"
        );
        if let Some(outcome) = chase.take(reply.as_ref().map_err(|failure| *failure)) {
            assert_eq!(number + 1, count, "questions are left over");
            return outcome;
        }
    }
    panic!("the chase is not over: it asks {:?}", chase.next_question());
}

fn alias() -> Result<Message, Failure> {
    Ok(message(NoError, vec![cname(TARGET, 30, END)], vec![]))
}

fn nodata() -> Result<Message, Failure> {
    Ok(message(NoError, vec![], vec![soa(".", 20, 20)]))
}

fn nothing() -> Result<Message, Failure> {
    Ok(message(NoError, vec![], vec![]))
}

fn nxdomain() -> Result<Message, Failure> {
    Ok(message(NXDomain, vec![], vec![]))
}

fn v4(owner: &str) -> Result<Message, Failure> {
    Ok(message(NoError, vec![a(owner, 9, [10, 0, 0, 1])], vec![]))
}

/// An ExternalName that is an address, at a server that does not deny such names.
#[test]
fn a_chain_whose_end_has_no_address_is_no_answer_for_either_family() {
    use RecordType::{A, AAAA};
    for (own, other) in [(A, AAAA), (AAAA, A)] {
        let replies = vec![
            ((TARGET, own), alias()),
            ((END, own), nodata()),
            ((END, other), nodata()),
        ];
        assert_eq!(run(own, replies), Outcome::NoAddress(name(END)));
    }
}

/// The same behind servers that ask the root, which denies such names.
#[test]
fn an_end_that_spells_an_address_has_none_whatever_the_reply() {
    use RecordType::{A, AAAA};
    for (own, other) in [(A, AAAA), (AAAA, A)] {
        let replies = vec![((TARGET, own), alias()), ((END, own), nxdomain())];
        assert_eq!(run(own, replies), Outcome::NoAddress(name(END)));
        let replies = vec![
            ((TARGET, own), alias()),
            ((END, own), nodata()),
            ((END, other), nxdomain()),
        ];
        assert_eq!(run(own, replies), Outcome::NoAddress(name(END)));
    }
}

/// dnsmasq says nothing at all; others have a record of another class, owner or type there.
#[test]
fn an_empty_reply_about_the_target_is_no_answer() {
    use RecordType::{A, AAAA};
    let mut chaos = a(TARGET, 9, [10, 0, 0, 1]);
    chaos.dns_class = DNSClass::CH;
    let elsewhere = a("other.example.", 9, [10, 0, 0, 1]);
    let fillers: [Vec<Record>; 3] = [vec![], vec![chaos], vec![elsewhere]];
    for answers in fillers {
        let replies = vec![
            ((TARGET, A), Ok(message(NoError, answers.clone(), vec![]))),
            ((TARGET, AAAA), Ok(message(NoError, answers, vec![]))),
        ];
        assert_eq!(run(A, replies), Outcome::NoAddress(name(TARGET)));
    }
}

#[test]
fn one_family_alone_missing_is_nodata() {
    use RecordType::{A, AAAA};
    for first in [nodata(), nothing()] {
        let replies = vec![((TARGET, AAAA), first), ((TARGET, A), v4(TARGET))];
        let Outcome::Answer(answer) = run(AAAA, replies) else {
            panic!("no answer");
        };
        assert!(answer.rdata.is_empty());
        assert_eq!((answer.qtype, answer.names), (AAAA, vec![name(TARGET)]));
    }
}

/// Other types have a denial of their own; where there is none, the CNAME would be bare.
#[test]
fn a_denial_of_another_type_is_enough_and_silence_about_it_is_not() {
    use RecordType::{A, AAAA, HTTPS, MX, TXT};
    for qtype in [HTTPS, TXT, MX] {
        let replies = vec![((TARGET, qtype), nodata())];
        assert!(matches!(run(qtype, replies), Outcome::Answer(_)));
        let replies = vec![((TARGET, qtype), nothing()), ((TARGET, A), v4(TARGET))];
        assert!(matches!(run(qtype, replies), Outcome::Answer(_)));
        let replies = vec![
            ((TARGET, qtype), nothing()),
            ((TARGET, A), nothing()),
            ((TARGET, AAAA), nothing()),
        ];
        assert_eq!(run(qtype, replies), Outcome::NoAddress(name(TARGET)));
    }
}

#[test]
fn a_cached_address_is_not_asked_for() {
    for reply in [nodata(), nothing()] {
        let mut chase = Chase::new(name(TARGET), RecordType::AAAA, true);
        let outcome = chase.take(reply.as_ref().map_err(|failure| *failure));
        assert!(matches!(outcome, Some(Outcome::Answer(_))));
    }
}

#[test]
fn the_other_family_may_be_at_the_end_of_a_chain_of_its_own() {
    use RecordType::{A, AAAA};
    let replies = vec![
        ((TARGET, AAAA), nodata()),
        ((TARGET, A), alias()),
        ((END, A), v4(END)),
    ];
    assert!(matches!(run(AAAA, replies), Outcome::Answer(_)));
}

#[test]
fn nxdomain_for_the_other_family_is_about_the_name() {
    use RecordType::{A, AAAA};
    let replies = vec![((TARGET, A), nodata()), ((TARGET, AAAA), nxdomain())];
    assert_eq!(run(A, replies), Outcome::NoTarget);
    let end = "gone.example.";
    let alias = message(NoError, vec![cname(TARGET, 30, end)], vec![]);
    let replies = vec![
        ((TARGET, A), Ok(alias)),
        ((end, A), nodata()),
        ((end, AAAA), nxdomain()),
    ];
    assert_eq!(run(A, replies), Outcome::BrokenChain);
}

#[test]
fn a_failed_look_up_of_a_family_decides_nothing() {
    use RecordType::{A, AAAA};
    let servfail = || Ok(message(ServFail, vec![], vec![]));
    for (reply, failure) in [
        (servfail(), Failure::Rcode),
        (Err(Failure::Timeout), Failure::Timeout),
        (Err(Failure::Tcp), Failure::Tcp),
        (Err(Failure::Local), Failure::Local),
    ] {
        let replies = vec![((TARGET, A), nodata()), ((TARGET, AAAA), reply)];
        assert_eq!(run(A, replies), Outcome::Failed(failure));
    }
}

#[test]
fn a_query_for_the_cname_asks_no_further() {
    use RecordType::CNAME;
    for reply in [alias(), nodata(), nothing()] {
        let Outcome::Answer(answer) = run(CNAME, vec![((TARGET, CNAME), reply)]) else {
            panic!("no answer");
        };
        assert_eq!(answer.soa, None);
    }
}

#[test]
fn names_that_are_addresses() {
    for text in ["10.0.0.5", "255.255.255.255", "fd00::1", "10.0.0.5:9092"] {
        let name = Name::from_labels(text.split('.').map(str::as_bytes)).unwrap();
        assert!(looks_like_address(&name), "{text}");
    }
    for text in [
        "kafka.example.",
        "10.0.0.5.example.",
        "10.0.0.",
        "10.0.0.256.",
        "5.0.0.10.in-addr.arpa.",
    ] {
        assert!(!looks_like_address(&name(text)), "{text}");
    }
}
