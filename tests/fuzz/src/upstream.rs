//! Replies of a hostile upstream through the check that accepts them and the walk that follows their chain.
//!
//! The first byte of an input chooses transport and qtype, then come replies, each behind two bytes of length. The top bit of a
//! length puts the ID and the question that were asked in place of the reply's own, which are cut off at twelve bytes; without
//! it the reply is used unchanged.

use gregor::resolve::{
    Answer, Outcome, Query, Section, Transport,
    fuzzing::{MAX_RDATA, MAX_RECORDS, MAX_STEPS, Walk, accept, answer, question},
    wire_name,
};
use hickory_proto::rr::{Name, RecordType};

use crate::wire::{self, Labels, same_name};

/// ID of every question.
pub const ID: u16 = 0x4242;
/// Where the chase starts.
pub const TARGET: &str = "kafka-upstream.foo.svc.cluster.local.";
/// What the first byte chooses from.
pub const QTYPES: [RecordType; 6] = [
    RecordType::A,
    RecordType::AAAA,
    RecordType::CNAME,
    RecordType::HTTPS,
    RecordType::TXT,
    RecordType::SRV,
];
/// In the first byte: the replies come over TCP.
pub const TCP: u8 = 0x80;
/// In a length: ID and question are put right.
pub const GRAFTED: u16 = 0x8000;

pub fn target(data: &[u8]) {
    let Some((&choice, mut rest)) = data.split_first() else {
        return;
    };
    let qtype = QTYPES[usize::from(choice & !TCP) % QTYPES.len()];
    let transport = if choice & TCP != 0 {
        Transport::Tcp
    } else {
        Transport::Udp
    };
    let target = Name::from_ascii(TARGET).expect("a name");
    let mut walk = Walk::new(target, qtype);
    let mut accepted = Vec::new();
    loop {
        let asked = question(walk.next_name(), qtype);
        let Some((reply, left)) = next(rest, &asked) else {
            return;
        };
        rest = left;
        let Some(message) = accept(walk.next_name(), qtype, ID, &reply, transport) else {
            continue;
        };
        assert_eq!(&reply[..2], ID.to_be_bytes());
        assert!(reply[2] & 0x80 != 0, "a query for a reply");
        let echoed = &reply[12..12 + asked.len()];
        match transport {
            Transport::Udp => assert_eq!(echoed, asked),
            Transport::Tcp => assert!(echoed.eq_ignore_ascii_case(&asked)),
        }
        accepted.push(reply);
        let before = walk.next_name().clone();
        match walk.take(&message) {
            None => {
                assert_ne!(*walk.next_name(), before, "the same question again");
                assert!(accepted.len() <= MAX_STEPS, "a walk without end");
            }
            Some(Outcome::Answer(answer)) => {
                judge(&answer, qtype, &accepted);
                return;
            }
            Some(_) => return,
        }
    }
}

/// The next reply of an input and what follows it.
fn next<'a>(data: &'a [u8], question: &[u8]) -> Option<(Vec<u8>, &'a [u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    let length = u16::from_be_bytes(*length);
    let (raw, rest) = rest.split_at(usize::from(length & !GRAFTED).min(rest.len()));
    let mut reply = raw.to_vec();
    if length & GRAFTED != 0
        && let Some((header, records)) = raw.split_first_chunk::<12>()
    {
        reply = ID.to_be_bytes().to_vec();
        reply.push(header[2] | 0x80);
        reply.push(header[3]);
        reply.extend([0, 1]);
        reply.extend_from_slice(&header[6..]);
        reply.extend_from_slice(question);
        reply.extend_from_slice(records);
    }
    Some((reply, rest))
}

/// Nothing in an answer but what the accepted replies say about the names of the chain.
fn judge(found: &Answer, qtype: RecordType, accepted: &[Vec<u8>]) {
    assert_eq!(found.qtype, qtype);
    assert!((1..=MAX_STEPS + 1).contains(&found.names.len()));
    assert!(found.rdata.len() <= MAX_RECORDS);
    assert!(found.rdata.iter().map(Vec::len).sum::<usize>() <= MAX_RDATA);

    let replies: Vec<wire::Message> = accepted
        .iter()
        .map(|reply| wire::Message::parse(reply))
        .collect::<Option<_>>()
        .unwrap_or_default();
    // hickory reads some replies that are a little broken; nothing is said about those.
    if replies.len() == accepted.len() {
        let chain: Vec<Labels> = found.names.iter().map(labels).collect();
        let records = || {
            replies
                .iter()
                .flat_map(|reply| &reply.answers)
                .filter(|record| record.class == 1)
        };
        for (index, pair) in chain.windows(2).enumerate() {
            assert!(
                records().any(|record| record.rtype == 5
                    && same_name(&record.owner, &pair[0])
                    && record
                        .target
                        .as_ref()
                        .is_some_and(|target| same_name(target, &pair[1]))),
                "alias {index} is in no reply"
            );
            assert!(
                !chain[index + 1..]
                    .iter()
                    .any(|name| same_name(name, &pair[0]))
            );
        }
        let end = chain.last().expect("the target at least");
        if matches!(qtype, RecordType::A | RecordType::AAAA) {
            for rdata in &found.rdata {
                assert!(
                    records().any(|record| record.rtype == u16::from(qtype)
                        && same_name(&record.owner, end)
                        && record.rdata == rdata),
                    "an address that is not on the chain"
                );
            }
        }
    }
    judge_reply(found);
}

/// What was found can be answered to a pod, within its limit.
fn judge_reply(found: &Answer) {
    let Some(section) = Section::new(found) else {
        return;
    };
    for size in [None, Some(512), Some(4096)] {
        let query = pod_query(found.qtype, size);
        let Some(reply) = answer(&query, &section, found.ttl_seconds, 1) else {
            continue;
        };
        assert!(reply.len() <= usize::from(size.unwrap_or(512).min(1232)));
        let parsed = wire::Message::parse(&reply).expect("a reply that parses");
        assert_eq!(parsed.id, query.id);
        assert!(parsed.answers.iter().all(|record| record.ttl >= 1));
    }
}

fn pod_query(qtype: RecordType, size: Option<u16>) -> Query {
    let mut message = vec![
        0x12,
        0x34,
        1,
        0,
        0,
        1,
        0,
        0,
        0,
        0,
        0,
        u8::from(size.is_some()),
    ];
    message.extend(b"\x05lkc-1\x03aws\x03foo\x00");
    message.extend(u16::from(qtype).to_be_bytes());
    message.extend([0, 1]);
    if let Some(size) = size {
        message.extend([0, 0, 41]);
        message.extend(size.to_be_bytes());
        message.extend([0; 6]);
    }
    Query::parse(&message).expect("a plain query")
}

fn labels(name: &Name) -> Labels {
    let wire = wire_name(name);
    let mut labels = Vec::new();
    let mut at = 0;
    while wire[at] != 0 {
        let end = at + 1 + usize::from(wire[at]);
        labels.push(wire[at + 1..end].to_vec());
        at = end;
    }
    labels
}
