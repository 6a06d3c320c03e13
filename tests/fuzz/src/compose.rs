//! Answers and queries of every shape through the compose step; what comes out must say exactly what went in.

mod input;

use gregor::resolve::{
    Answer, Query, Section,
    fuzzing::{ExtendedError, UDP_SIZE, answer, servfail},
    wire_name,
};
use hickory_proto::{op::Message as Hickory, rr::RecordType};

use crate::wire::Message;
use input::Input;

pub fn target(data: &[u8]) {
    let Ok(input) = Input::read(data) else {
        return;
    };
    judge_answer(&input);
    judge_failure(&input.query);
}

fn limit(query: &Query) -> usize {
    match query.edns {
        Some(edns) => usize::from(edns.udp_size).clamp(512, 1232),
        None => 512,
    }
}

fn judge_answer(input: &Input) {
    let Input { query, found, .. } = input;
    let Some(section) = Section::new(found) else {
        assert!(uncompressed(found) > 0x1000, "refused without need");
        return;
    };
    let opt_len = if query.edns.is_some() { 11 } else { 0 };
    let whole = 12 + query.question().len() + section.len() + opt_len;
    let Some(reply) = answer(query, &section, input.ttl_seconds, input.rotation) else {
        assert!(whole > limit(query), "left out although it fits");
        for rdata in &found.rdata {
            let alone = Answer {
                rdata: vec![rdata.clone()],
                ..found.clone()
            };
            let section = Section::new(&alone).expect("a part of what is encoded");
            let size = 12 + query.question().len() + section.len() + opt_len;
            assert!(
                size > limit(query),
                "not even one record, although one fits"
            );
        }
        return;
    };
    assert!(reply.len() <= limit(query));
    if whole <= limit(query) {
        assert_eq!(reply.len(), whole, "cut although it fits");
    }
    let message = judge_envelope(query, &reply, 0);
    judge_records(input, &message);
    if input.hickory_reads {
        let parsed = Hickory::from_vec(&reply).expect("hickory reads the reply");
        assert_eq!(parsed.answers.len(), message.answers.len());
        assert_eq!(parsed.authorities.len(), message.authorities.len());
        assert_eq!(parsed.queries.len(), 1);
    }
}

/// Header, question and OPT of any reply.
fn judge_envelope<'a>(query: &Query, reply: &'a [u8], rcode: u16) -> Message<'a> {
    let message = Message::parse(reply).expect("a reply that parses");
    assert_eq!(message.id, query.id);
    // QR and RA are set, RD and CD are copied, AA, TC, Z and AD are not set.
    assert_eq!(message.flags, 0x8080 | query.flags & 0x0110 | rcode);
    let asked = query.question();
    assert_eq!(reply.get(12..12 + asked.len()), Some(asked));
    assert_eq!(message.questions.len(), 1);
    match (query.edns, message.additionals.as_slice()) {
        (None, []) => {}
        (Some(edns), [opt]) => {
            assert!(opt.owner.is_empty());
            assert_eq!((opt.rtype, opt.class), (41, UDP_SIZE));
            assert_eq!(opt.ttl, u32::from(edns.dnssec_ok) << 15);
        }
        (_, additionals) => panic!("{} additional records", additionals.len()),
    }
    message
}

fn judge_records(input: &Input, message: &Message) {
    let Input { query, found, .. } = input;
    let expected = input.ttl_seconds.max(1);
    for record in message.answers.iter().chain(&message.authorities) {
        assert_eq!((record.class, record.ttl), (1, expected));
    }

    let only_cname = found.qtype == RecordType::CNAME;
    let chain = if only_cname {
        &found.names[..1]
    } else {
        &found.names[..]
    };
    let (aliases, rrset) = message.answers.split_at(chain.len());
    let mut owner = query.qname().to_vec();
    for (alias, name) in aliases.iter().zip(chain) {
        assert_eq!(alias.rtype, 5);
        assert_eq!(crate::wire::to_wire(&alias.owner), owner);
        owner = wire_name(name);
        let target = alias.target.as_ref().expect("a CNAME's target");
        assert_eq!(crate::wire::to_wire(target), owner);
    }

    let mut wanted = if only_cname {
        Vec::new()
    } else {
        found.rdata.clone()
    };
    if !wanted.is_empty() {
        let first = input.rotation % wanted.len();
        wanted.rotate_left(first);
        assert!(!rrset.is_empty(), "a bare chain");
    }
    // What does not fit is left out; the rest keeps its order.
    let mut wanted = wanted.iter();
    for record in rrset {
        assert_eq!(record.rtype, u16::from(found.qtype));
        assert_eq!(crate::wire::to_wire(&record.owner), owner);
        assert!(
            wanted.any(|rdata| rdata == record.rdata),
            "a record that was not found, or out of order"
        );
    }

    let soa = found.soa.as_deref();
    let negative = only_cname || found.rdata.is_empty();
    match message.authorities.as_slice() {
        [] => {}
        [record] => {
            let (zone, soa) = soa
                .filter(|_| negative)
                .expect("an SOA that the answer does not have");
            assert_eq!(record.rtype, 6);
            assert_eq!(crate::wire::to_wire(&record.owner), wire_name(zone));
            let mname = record.target.as_ref().expect("an SOA's first name");
            assert_eq!(crate::wire::to_wire(mname), wire_name(&soa.mname));
            assert!(record.rdata.ends_with(&soa.minimum.to_be_bytes()));
        }
        more => panic!("{} authority records", more.len()),
    }
}

fn judge_failure(query: &Query) {
    let error = ExtendedError {
        code: 22,
        text: "no answer from the upstream",
    };
    let reply = servfail(query, error);
    assert!(reply.len() <= limit(query));
    let message = judge_envelope(query, &reply, 2);
    assert!(message.answers.is_empty() && message.authorities.is_empty());
    if let [opt] = message.additionals.as_slice() {
        let text = error.text.as_bytes();
        let mut option = vec![0, 15, 0, 2 + text.len() as u8, 0, 22];
        option.extend_from_slice(text);
        assert_eq!(opt.rdata, option);
    }
    assert!(Hickory::from_vec(&reply).is_ok());
}

/// Bytes of the section without compression.
fn uncompressed(found: &Answer) -> usize {
    let names: usize = found.names.iter().map(|name| wire_name(name).len()).sum();
    let rdata: usize = found.rdata.iter().map(|rdata| rdata.len() + 12).sum();
    let soa = found.soa.as_deref().map_or(0, |(zone, soa)| {
        32 + [zone, &soa.mname, &soa.rname]
            .map(|name| wire_name(name).len())
            .iter()
            .sum::<usize>()
    });
    2 * names + 12 * found.names.len() + rdata + soa + 255 * found.rdata.len().min(1)
}
