//! From a query and an answer to the bytes of a reply; no I/O, no clock.
//!
//! The answer section is a value of its own ([`Section`]), made once per chase and copied behind any question: its
//! compression pointers count from its own start, and only the question is pointed to absolutely. hickory encodes whole
//! messages against one fixed question, in its own case; hence an encoder here.

use std::{collections::HashMap, ops::Range};

use dns_common::{
    answer::{Body, MAX_RECORDS, SECTION_LEN},
    wire::{
        self, CLASS_IN, DNS_HEADER_LEN, FLAG_QR, FLAG_RA, FLAG_TC, OPT_LEN, OPTION_COOKIE,
        TYPE_CNAME, TYPE_OPT, TYPE_SOA,
    },
};
use hickory_proto::rr::{Name, RecordType, rdata::SOA};

use super::{
    chain::Answer,
    query::{MAX_COOKIE, Query},
};
use crate::model::{Transport, wire_name};

/// As a field of a message.
pub const UDP_SIZE: u16 = wire::UDP_SIZE as u16;
const PLAIN_SIZE: u16 = wire::PLAIN_SIZE as u16;
/// A compression pointer to the question's name, which follows the header.
const QNAME_POINTER: u16 = POINTER | DNS_HEADER_LEN as u16;
const POINTER: u16 = 0xc000;
const MAX_POINTER: usize = 0x3fff;
/// A section of this length fits behind any question, with an OPT and a cookie, into a message over TCP.
const MAX_SECTION: usize =
    65_535 - DNS_HEADER_LEN as usize - (255 + 4) - OPT_LEN as usize - (4 + MAX_COOKIE);
const RCODE_SERVFAIL: u16 = 2;
const RCODE_REFUSED: u16 = 5;
const OPTION_EDE: u16 = 15;

/// An answer section that can be put behind any question.
///
/// First the CNAMEs in chain order, the first of them owned by the question's name; then the RRset, or for a NODATA the
/// SOA that goes into the authority section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    bytes: Vec<u8>,
    /// Positions of the pointers that count from the start of `bytes`.
    pointers: Vec<u16>,
    /// Positions of the TTLs.
    ttls: Vec<u16>,
    /// End of the CNAMEs.
    chain_end: usize,
    chain_count: u16,
    /// The records of the RRset.
    rrset: Vec<Range<usize>>,
    /// Records that do not fit into any message.
    left_out: usize,
    has_soa: bool,
}

impl Section {
    /// Encodes an answer, with as many records as a message holds. `None` when it holds no record of the RRset, or the
    /// chain is longer than compression pointers reach.
    pub fn new(answer: &Answer) -> Option<Section> {
        let mut writer = Writer::default();
        let targets = if answer.qtype == RecordType::CNAME {
            &answer.names[..answer.names.len().min(1)]
        } else {
            &answer.names[..]
        };
        let mut owner = None;
        for target in targets {
            writer.record(owner, TYPE_CNAME, |writer| writer.name(target));
            owner = Some(target);
        }
        let chain_end = writer.bytes.len();
        let mut rrset = Vec::with_capacity(answer.rdata.len());
        let mut left_out = 0;
        if answer.qtype != RecordType::CNAME {
            for rdata in &answer.rdata {
                // The owner is a pointer, or the root.
                if writer.bytes.len() + 12 + rdata.len() > MAX_SECTION {
                    left_out += 1;
                    continue;
                }
                let start = writer.bytes.len();
                writer.record(owner, answer.qtype.into(), |writer| {
                    writer.bytes.extend_from_slice(rdata);
                });
                rrset.push(start..writer.bytes.len());
            }
        }
        if rrset.is_empty() && left_out > 0 {
            return None;
        }
        let denies = rrset.is_empty() && answer.qtype != RecordType::CNAME;
        let soa = answer.soa.as_deref().filter(|_| denies);
        if let Some((zone, soa)) = soa {
            writer.record(Some(zone), TYPE_SOA, |writer| writer.soa(soa));
        }
        let fixed = if rrset.is_empty() {
            writer.bytes.len()
        } else {
            chain_end
        };
        (fixed < MAX_POINTER / 2).then_some(Section {
            chain_end,
            chain_count: targets.len() as u16,
            rrset,
            left_out,
            has_soa: soa.is_some(),
            bytes: writer.bytes,
            pointers: writer.pointers,
            ttls: writer.ttls,
        })
    }

    /// The section that had this body ([`Section::body`]); `None` for a body that no section has.
    pub fn of_body(body: &Body) -> Option<Section> {
        let mut section = Section {
            bytes: body.chain.clone(),
            pointers: body.pointers.clone(),
            ttls: body.ttls.clone(),
            chain_end: body.chain.len(),
            chain_count: body.answers.checked_sub(body.records.len() as u16)?,
            rrset: Vec::with_capacity(body.records.len()),
            left_out: 0,
            has_soa: body.authorities > 0,
        };
        if section.has_soa {
            section.chain_end = end_of_records(&body.chain, section.chain_count)?;
        }
        for record in &body.records {
            let start = section.bytes.len();
            section.bytes.extend_from_slice(record);
            section.pointers.push(start as u16);
            section.ttls.push(start as u16 + 6);
            section.rrset.push(start..section.bytes.len());
        }
        for &position in &section.pointers {
            *section.bytes.get_mut(usize::from(position))? &= !((POINTER >> 8) as u8);
        }
        let is_whole = |position: &u16| usize::from(*position) + 4 <= section.bytes.len();
        section.ttls.iter().all(is_whole).then_some(section)
    }

    /// The names that the chain leads over, the target first. `None` for a section that cannot be read.
    pub fn chain(&self) -> Option<Vec<Name>> {
        let mut names = Vec::with_capacity(self.chain_count.into());
        let mut at = 0;
        for _ in 0..self.chain_count {
            let owner_end = if at == 0 { 2 } else { self.name(at)?.1 };
            let rdata = owner_end + 10;
            let (name, end) = self.name(rdata)?;
            names.push(name);
            at = end;
        }
        Some(names)
    }

    /// The name at this place, and where it ends.
    fn name(&self, start: usize) -> Option<(Name, usize)> {
        let mut labels: Vec<&[u8]> = Vec::new();
        let mut at = start;
        let mut end = None;
        loop {
            if self
                .pointers
                .binary_search(&u16::try_from(at).ok()?)
                .is_ok()
            {
                let bytes = self.bytes.get(at..at + 2)?;
                end.get_or_insert(at + 2);
                let earlier = usize::from(u16::from_be_bytes([bytes[0], bytes[1]]));
                // Each one leads back, so there is an end.
                if earlier >= at {
                    return None;
                }
                at = earlier;
                continue;
            }
            let length = usize::from(*self.bytes.get(at)?);
            if length == 0 {
                let name = Name::from_labels(labels).ok()?;
                return Some((name, end.unwrap_or(at + 1)));
            }
            labels.push(self.bytes.get(at + 1..at + 1 + length)?);
            at += 1 + length;
        }
    }

    /// Whether there is more than the chain and a denial.
    pub fn has_records(&self) -> bool {
        !self.rrset.is_empty()
    }

    /// Bytes that it occupies.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Always `false`: there is always a CNAME.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The form in which the kernel program keeps it; `None` for what it cannot serve, by its size or because its
    /// records are not of one size and so cannot be rotated by moving one piece.
    pub fn body(&self) -> Option<Body> {
        let absolute = |range: Range<usize>| {
            let mut bytes = self.bytes[range.clone()].to_vec();
            for &position in within(&self.pointers, &range) {
                bytes[usize::from(position) - range.start] |= (POINTER >> 8) as u8;
            }
            bytes
        };
        if self.bytes.len() > SECTION_LEN || self.rrset.len() > MAX_RECORDS {
            return None;
        }
        // An SOA is in one piece with the chain.
        let fixed = if self.rrset.is_empty() {
            0..self.bytes.len()
        } else {
            0..self.chain_end
        };
        for record in &self.rrset {
            let start = record.start as u16;
            if within(&self.pointers, record) != [start]
                || within(&self.ttls, record) != [start + 6]
            {
                return None;
            }
        }
        let body = Body {
            pointers: within(&self.pointers, &fixed).to_vec(),
            ttls: within(&self.ttls, &fixed).to_vec(),
            chain: absolute(fixed),
            records: self.rrset.iter().cloned().map(absolute).collect(),
            answers: self.chain_count + self.rrset.len() as u16,
            authorities: u16::from(self.has_soa),
        };
        body.fits().then_some(body)
    }

    /// Copies `range` to the end of `message`, which holds the section's start at `base`, or would if it were whole.
    fn copy(&self, range: Range<usize>, base: usize, ttl_seconds: u32, message: &mut Vec<u8>) {
        let at = message.len();
        message.extend_from_slice(&self.bytes[range.clone()]);
        for &position in within(&self.pointers, &range) {
            let position = usize::from(position) - range.start + at;
            let pointer = u16::from_be_bytes([message[position], message[position + 1]]);
            // Section and question together stay below MAX_POINTER.
            let moved = POINTER | (pointer + base as u16);
            message[position..position + 2].copy_from_slice(&moved.to_be_bytes());
        }
        for &position in within(&self.ttls, &range) {
            let position = usize::from(position) - range.start + at;
            message[position..position + 4].copy_from_slice(&ttl_seconds.to_be_bytes());
        }
    }
}

/// Where the first `count` records end.
fn end_of_records(bytes: &[u8], count: u16) -> Option<usize> {
    let mut at = 0;
    for _ in 0..count {
        loop {
            let label = usize::from(*bytes.get(at)?);
            at += 1;
            match label {
                0 => break,
                // A compression pointer.
                0xc0.. => {
                    at += 1;
                    break;
                }
                _ => at += label,
            }
        }
        let rdata_len = bytes.get(at + 8..at + 10)?;
        at += 10 + usize::from(u16::from_be_bytes([rdata_len[0], rdata_len[1]]));
    }
    (at <= bytes.len()).then_some(at)
}

/// The part of an ascending list that lies in a range.
fn within<'a>(positions: &'a [u16], range: &Range<usize>) -> &'a [u16] {
    let start = positions.partition_point(|&position| usize::from(position) < range.start);
    let end = positions.partition_point(|&position| usize::from(position) < range.end);
    &positions[start..end]
}

/// The most bytes that a reply may have (SEMANTICS rule 9).
fn limit(query: &Query, transport: Transport) -> usize {
    let limit = match transport {
        Transport::Udp => {
            let advertised = query.edns.map_or(PLAIN_SIZE, |edns| edns.udp_size);
            advertised.clamp(PLAIN_SIZE, UDP_SIZE)
        }
        Transport::Tcp => u16::MAX,
    };
    usize::from(limit)
}

/// A NOERROR reply, and whether it is all that there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub message: Vec<u8>,
    /// Records of the RRset that did not fit.
    pub left_out: usize,
}

/// A NOERROR reply: chain and RRset, the latter rotated by `rotation` and cut to what fits, or chain and SOA.
///
/// `None` when not even one record of the RRset fits behind its chain: a bare CNAME would stop libc resolvers.
pub fn answer(
    query: &Query,
    section: &Section,
    ttl_seconds: u32,
    rotation: usize,
    transport: Transport,
) -> Option<Reply> {
    let limit = limit(query, transport) - opt_len(query);
    let ttl_seconds = ttl_seconds.max(1);
    let mut message = header(query, 0);
    let base = message.len();

    section.copy(0..section.chain_end, base, ttl_seconds, &mut message);
    let mut answers = section.chain_count;
    let mut authority = false;
    if section.has_soa {
        // The SOA only says how long the NODATA holds; where it does not fit, the answer goes without it.
        if base + section.len() <= limit {
            let soa = section.chain_end..section.len();
            section.copy(soa, base, ttl_seconds, &mut message);
            authority = true;
        }
    } else if let Some(first) = rotation.checked_rem(section.rrset.len()) {
        let (tail, head) = section.rrset.split_at(first);
        for record in head.iter().chain(tail) {
            if message.len() + record.len() <= limit {
                section.copy(record.clone(), base, ttl_seconds, &mut message);
                answers += 1;
            }
        }
        if answers == section.chain_count {
            return None;
        }
    }
    if message.len() > limit {
        return None;
    }
    message[6..8].copy_from_slice(&answers.to_be_bytes());
    message[8..10].copy_from_slice(&u16::from(authority).to_be_bytes());
    push_opt(query, None, &mut message);
    Some(Reply {
        message,
        left_out: section.left_out + section.rrset.len()
            - usize::from(answers - section.chain_count),
    })
}

/// A NOERROR reply without records, to be sent with TC=1.
pub fn empty(query: &Query) -> Vec<u8> {
    let mut message = header(query, 0);
    push_opt(query, None, &mut message);
    message
}

/// Sets TC=1: the client gets the rest over TCP.
pub fn truncate(message: &mut [u8]) {
    if let Some(flags) = message.get_mut(2) {
        *flags |= (FLAG_TC >> 8) as u8;
    }
}

/// An extended error (RFC 8914).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExtendedError {
    pub code: u16,
    /// Never contains a name.
    pub text: &'static str,
}

/// A SERVFAIL reply, with the extended error if the query has an OPT.
pub fn servfail(query: &Query, error: ExtendedError) -> Vec<u8> {
    failure(query, RCODE_SERVFAIL, error)
}

/// The same with REFUSED.
pub fn refused(query: &Query, error: ExtendedError) -> Vec<u8> {
    failure(query, RCODE_REFUSED, error)
}

fn failure(query: &Query, rcode: u16, error: ExtendedError) -> Vec<u8> {
    let mut message = header(query, rcode);
    push_opt(query, Some(error), &mut message);
    message
}

/// Header without counts of answers, and the question as it was sent.
fn header(query: &Query, rcode: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(limit(query, Transport::Udp));
    message.extend_from_slice(&query.id.to_be_bytes());
    message.extend_from_slice(&(FLAG_QR | FLAG_RA | query.flags | rcode).to_be_bytes());
    message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 0]);
    message.extend_from_slice(query.question());
    message
}

/// Bytes of a reply's OPT without an extended error.
fn opt_len(query: &Query) -> usize {
    let Some(edns) = query.edns else { return 0 };
    let cookie = edns.cookie.map_or(0, |cookie| 4 + cookie.as_bytes().len());
    OPT_LEN as usize + cookie
}

fn push_opt(query: &Query, error: Option<ExtendedError>, message: &mut Vec<u8>) {
    let Some(edns) = query.edns else {
        return;
    };
    message[10..12].copy_from_slice(&1u16.to_be_bytes());
    message.push(0);
    message.extend_from_slice(&TYPE_OPT.to_be_bytes());
    message.extend_from_slice(&UDP_SIZE.to_be_bytes());
    let flags = u16::from(edns.dnssec_ok) << 15;
    // Extended rcode and version are 0.
    message.extend_from_slice(&u32::from(flags).to_be_bytes());
    let mut options = Vec::new();
    if let Some(cookie) = edns.cookie {
        push_option(OPTION_COOKIE, &[cookie.as_bytes()], &mut options);
    }
    if let Some(error) = error {
        let parts = [&error.code.to_be_bytes()[..], error.text.as_bytes()];
        push_option(OPTION_EDE, &parts, &mut options);
    }
    message.extend_from_slice(&(options.len() as u16).to_be_bytes());
    message.extend_from_slice(&options);
}

/// The value is what the parts are together.
fn push_option(code: u16, parts: &[&[u8]], options: &mut Vec<u8>) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    options.extend_from_slice(&code.to_be_bytes());
    options.extend_from_slice(&(len as u16).to_be_bytes());
    for part in parts {
        options.extend_from_slice(part);
    }
}

/// Encodes records with compression inside what it has written.
#[derive(Default)]
struct Writer {
    bytes: Vec<u8>,
    pointers: Vec<u16>,
    ttls: Vec<u16>,
    /// Where each name, and each end of a name, was first written. Case counts, so that none is changed.
    suffixes: HashMap<Vec<u8>, usize>,
}

impl Writer {
    /// One record of class IN, its TTL left open. No owner means the question's name.
    fn record(&mut self, owner: Option<&Name>, rtype: u16, rdata: impl FnOnce(&mut Self)) {
        match owner {
            Some(owner) => self.name(owner),
            None => self.bytes.extend_from_slice(&QNAME_POINTER.to_be_bytes()),
        }
        self.bytes.extend_from_slice(&rtype.to_be_bytes());
        self.bytes.extend_from_slice(&CLASS_IN.to_be_bytes());
        self.ttls.push(self.bytes.len() as u16);
        self.bytes.extend_from_slice(&[0; 4]);
        let length_at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 2]);
        rdata(self);
        let length = (self.bytes.len() - length_at - 2) as u16;
        self.bytes[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
    }

    fn name(&mut self, name: &Name) {
        let wire = wire_name(name);
        let mut at = 0;
        while wire[at] != 0 {
            if let Some(&earlier) = self.suffixes.get(&wire[at..]) {
                self.pointers.push(self.bytes.len() as u16);
                self.bytes
                    .extend_from_slice(&(earlier as u16).to_be_bytes());
                return;
            }
            // With space for the question in front of it.
            if self.bytes.len() < MAX_POINTER / 2 {
                self.suffixes.insert(wire[at..].to_vec(), self.bytes.len());
            }
            let end = at + 1 + usize::from(wire[at]);
            self.bytes.extend_from_slice(&wire[at..end]);
            at = end;
        }
        self.bytes.push(0);
    }

    fn soa(&mut self, soa: &SOA) {
        self.name(&soa.mname);
        self.name(&soa.rname);
        self.bytes.extend_from_slice(&soa.serial.to_be_bytes());
        for interval in [soa.refresh, soa.retry, soa.expire] {
            self.bytes.extend_from_slice(&interval.to_be_bytes());
        }
        self.bytes.extend_from_slice(&soa.minimum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
