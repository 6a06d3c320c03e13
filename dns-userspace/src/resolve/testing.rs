//! Names, records, messages and queries for the tests of this module.

use hickory_proto::{
    op::{Message, OpCode, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SOA},
    },
};

use super::{chain::Answer, query::Query};
use crate::model::wire_name;

pub fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

pub fn cname(owner: &str, ttl: u32, target: &str) -> Record {
    Record::from_rdata(name(owner), ttl, RData::CNAME(CNAME(name(target))))
}

pub fn a(owner: &str, ttl: u32, address: [u8; 4]) -> Record {
    Record::from_rdata(name(owner), ttl, RData::A(A(address.into())))
}

pub fn aaaa(owner: &str, ttl: u32, last: u16) -> Record {
    let address = std::net::Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
    Record::from_rdata(name(owner), ttl, RData::AAAA(AAAA(address)))
}

pub fn soa_data(minimum: u32) -> SOA {
    SOA::new(
        name("ns.dns.cluster.local."),
        name("hostmaster.cluster.local."),
        7,
        7200,
        1800,
        86400,
        minimum,
    )
}

pub fn soa(zone: &str, ttl: u32, minimum: u32) -> Record {
    Record::from_rdata(name(zone), ttl, RData::SOA(soa_data(minimum)))
}

pub fn message(rcode: ResponseCode, answers: Vec<Record>, authorities: Vec<Record>) -> Message {
    let mut message = Message::response(0, OpCode::Query);
    message.metadata.response_code = rcode;
    message.answers = answers;
    message.authorities = authorities;
    message
}

/// An answer with `count` addresses 10.0.0.1, 10.0.0.2, …
pub fn addresses(names: &[&str], count: u8, ttl_seconds: u32) -> Answer {
    Answer {
        qtype: RecordType::A,
        names: names.iter().map(|text| name(text)).collect(),
        rdata: (1..=count).map(|last| vec![10, 0, 0, last]).collect(),
        soa: None,
        ttl_seconds,
    }
}

/// The same with more of them than fit into any datagram: 10.1.0.0, 10.1.0.1, …
pub fn many_addresses(names: &[&str], count: u16) -> Answer {
    Answer {
        rdata: (0..count)
            .map(|number| [&[10, 1][..], &number.to_be_bytes()].concat())
            .collect(),
        ..addresses(names, 0, 60)
    }
}

/// A query with RD, and an OPT if a size is given.
pub fn query_bytes(id: u16, qname: &str, qtype: RecordType, opt: Option<(u16, bool)>) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(opt.is_some())]);
    bytes.extend(wire_name(&name(qname)));
    bytes.extend(u16::from(qtype).to_be_bytes());
    bytes.extend([0, 1]);
    if let Some((size, dnssec_ok)) = opt {
        bytes.extend([0, 0, 41]);
        bytes.extend(size.to_be_bytes());
        bytes.extend([0, 0, u8::from(dnssec_ok) << 7, 0, 0, 0]);
    }
    bytes
}

pub fn query(qname: &str, qtype: RecordType, opt: Option<(u16, bool)>) -> Query {
    Query::parse(&query_bytes(0x4242, qname, qtype, opt)).unwrap()
}
