//! From the messages of the upstream to an outcome: follows the CNAME chain from the target to its end; no I/O.

use std::collections::HashSet;

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::SOA},
    serialize::binary::{BinEncodable, BinEncoder, NameEncoding},
};

/// Most CNAMEs behind the target (SEMANTICS rule 13).
pub const MAX_STEPS: usize = 10;
/// Most records of an RRset that are kept: more addresses than a message of 64 KiB holds, each of which takes 16 bytes.
pub const MAX_RECORDS: usize = 4096;
/// Most bytes of rdata that are kept of one RRset: no reply holds more.
pub const MAX_RDATA: usize = u16::MAX as usize;
/// The TTL of a NODATA without SOA, in seconds.
const NODATA_TTL: u32 = 5;

/// The TTL of what is known without DNS, in seconds: the caps on answers decide, since a change is noticed at once.
const KNOWN_TTL: u32 = 86_400;

/// The outcome of a look-up of a target and a qtype.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The target exists; what it has may be nothing (NODATA).
    Answer(Answer),
    /// The target's owner name is NXDOMAIN.
    NoTarget,
    /// The target exists, the end of its chain is NXDOMAIN.
    BrokenChain,
    /// The chain ends at this name, which has no address of either family.
    NoAddress(Name),
    /// The look-up failed.
    Failed(Failure),
}

impl Outcome {
    /// The target is known to exist, and more is not asked for.
    pub fn exists(target: Name) -> Outcome {
        Outcome::Answer(Answer {
            qtype: RecordType::CNAME,
            names: vec![target],
            rdata: Vec::new(),
            soa: None,
            ttl_seconds: KNOWN_TTL,
        })
    }
}

/// The chain from the target to its end, and the RRset there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub qtype: RecordType,
    /// The target, then each alias in chain order. Never empty.
    pub names: Vec<Name>,
    /// Uncompressed rdata of the RRset at the last name. Empty means NODATA.
    pub rdata: Vec<Vec<u8>>,
    /// Of a NODATA, if the upstream gave one.
    pub soa: Option<Box<(Name, SOA)>>,
    /// Minimum over the chain, the RRset and the SOA.
    pub ttl_seconds: u32,
}

/// Why a chase gave nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Failure {
    /// No acceptable reply within the time.
    Timeout,
    /// The server's host reports a closed port.
    Network,
    /// The reply over UDP is cut (TC=1), and TCP is refused, hangs or ends without one.
    Tcp,
    /// An rcode other than NOERROR and NXDOMAIN.
    Rcode,
    /// The chain comes back to a name of its own.
    Loop,
    /// More than [`MAX_STEPS`] aliases.
    TooLong,
    /// A well-formed reply that contradicts itself or only refers elsewhere.
    Unusable,
    /// This node could not send the query: no socket, no memory, no route, a filter of its own. Says nothing about the name.
    Local,
}

impl Failure {
    pub const ALL: [Failure; 8] = [
        Failure::Timeout,
        Failure::Network,
        Failure::Tcp,
        Failure::Rcode,
        Failure::Loop,
        Failure::TooLong,
        Failure::Unusable,
        Failure::Local,
    ];

    /// The name used in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Failure::Timeout => "timeout",
            Failure::Network => "network",
            Failure::Tcp => "tcp",
            Failure::Rcode => "rcode",
            Failure::Loop => "loop",
            Failure::TooLong => "too_long",
            Failure::Unusable => "unusable",
            Failure::Local => "local",
        }
    }
}

/// A chase in progress: the next question, and the chain so far.
#[derive(Debug)]
pub struct Walk {
    qtype: RecordType,
    names: Vec<Name>,
    ttl_seconds: u32,
}

impl Walk {
    /// Starts at the target. For qtype CNAME only its existence is looked at: the answer is the rule's own CNAME.
    pub fn new(target: Name, qtype: RecordType) -> Walk {
        Walk {
            qtype,
            names: vec![target],
            ttl_seconds: u32::MAX,
        }
    }

    /// Starts behind a target that is known to be an alias.
    pub fn over(target: Name, alias: Name, qtype: RecordType) -> Result<Walk, Failure> {
        let alias = alias.to_lowercase();
        if alias == target {
            return Err(Failure::Loop);
        }
        Ok(Walk {
            qtype,
            names: vec![target, alias],
            ttl_seconds: KNOWN_TTL,
        })
    }

    pub fn qtype(&self) -> RecordType {
        self.qtype
    }

    /// The name to ask for next, with the qtype of the walk.
    pub fn next_name(&self) -> &Name {
        // The vector is made with one element and only grows.
        &self.names[self.names.len() - 1]
    }

    /// Takes the reply to a question for [`Walk::next_name`]. `None` when the end of the chain has to be asked for itself.
    ///
    /// A reply that ends in a CNAME says nothing about the end, whatever its rcode: CoreDNS drops the rcode of what it chased,
    /// and only the end's own zone has the SOA of a NODATA.
    pub fn take(&mut self, reply: &Message) -> Option<Outcome> {
        let asked = self.names.len();
        let exists = match reply.metadata.response_code {
            ResponseCode::NoError => true,
            ResponseCode::NXDomain => false,
            _ => return Some(Outcome::Failed(Failure::Rcode)),
        };
        if self.qtype != RecordType::CNAME
            && let Err(failure) = self.follow(&reply.answers)
        {
            return Some(Outcome::Failed(failure));
        }

        let end = self.next_name();
        let records: Vec<&Record> = of(&reply.answers, end, self.qtype)
            .take(MAX_RECORDS)
            .collect();
        if !exists && !records.is_empty() {
            return Some(Outcome::Failed(Failure::Unusable));
        }
        if records.is_empty() && self.names.len() > asked {
            return None;
        }
        if !exists {
            return Some(if self.names.len() == 1 {
                Outcome::NoTarget
            } else {
                Outcome::BrokenChain
            });
        }
        Some(if records.is_empty() {
            self.nodata(reply)
        } else {
            self.found(&records)
        })
    }

    /// Walks over the CNAMEs of one answer section.
    fn follow(&mut self, answers: &[Record]) -> Result<(), Failure> {
        loop {
            let Some(record) = of(answers, self.next_name(), RecordType::CNAME).next() else {
                return Ok(());
            };
            let RData::CNAME(alias) = &record.data else {
                return Err(Failure::Unusable);
            };
            if self.names.contains(&alias.0) {
                return Err(Failure::Loop);
            }
            if self.names.len() > MAX_STEPS {
                return Err(Failure::TooLong);
            }
            self.ttl_seconds = self.ttl_seconds.min(ttl(record));
            // Compression against a question in random case leaves that case in what it shares with it.
            self.names.push(alias.0.to_lowercase());
        }
    }

    fn found(&self, records: &[&Record]) -> Outcome {
        let ttl_seconds = records
            .iter()
            .map(|record| ttl(record))
            .fold(self.ttl_seconds, u32::min);
        let mut rdata = Vec::with_capacity(records.len());
        let mut seen = HashSet::with_capacity(records.len());
        let mut left = MAX_RDATA;
        // Existence is all that a query for the CNAME needs.
        for record in records.iter().filter(|_| self.qtype != RecordType::CNAME) {
            let Some(bytes) = encode(&record.data) else {
                return Outcome::Failed(Failure::Unusable);
            };
            let Some(rest) = left.checked_sub(bytes.len()) else {
                break;
            };
            left = rest;
            if seen.insert(bytes.clone()) {
                rdata.push(bytes);
            }
        }
        if rdata.is_empty() && self.qtype != RecordType::CNAME {
            // One record that is larger than any reply.
            return Outcome::Failed(Failure::Unusable);
        }
        Outcome::Answer(Answer {
            qtype: self.qtype,
            names: self.names.clone(),
            rdata,
            soa: None,
            ttl_seconds,
        })
    }

    fn nodata(&self, reply: &Message) -> Outcome {
        let end = self.next_name();
        let soa = reply
            .authorities
            .iter()
            .find_map(|record| match &record.data {
                RData::SOA(soa) if record.dns_class == DNSClass::IN && record.name.zone_of(end) => {
                    Some((record, soa))
                }
                _ => None,
            });
        let referral = reply
            .authorities
            .iter()
            .any(|record| record.record_type() == RecordType::NS);
        if soa.is_none() && referral {
            return Outcome::Failed(Failure::Unusable);
        }
        // RFC 2308 §5
        let negative = soa.map_or(NODATA_TTL, |(record, soa)| ttl(record).min(soa.minimum));
        Outcome::Answer(Answer {
            qtype: self.qtype,
            names: self.names.clone(),
            rdata: Vec::new(),
            // The CNAME is what was asked for: nothing is denied.
            soa: soa
                .filter(|_| self.qtype != RecordType::CNAME)
                .map(|(record, soa)| Box::new(lower_case(&record.name, soa))),
            ttl_seconds: self.ttl_seconds.min(negative),
        })
    }
}

fn lower_case(zone: &Name, soa: &SOA) -> (Name, SOA) {
    let mut soa = soa.clone();
    soa.mname = soa.mname.to_lowercase();
    soa.rname = soa.rname.to_lowercase();
    (zone.to_lowercase(), soa)
}

/// The records of one RRset.
fn of<'a, 'n>(
    records: &'a [Record],
    owner: &'n Name,
    rtype: RecordType,
) -> impl Iterator<Item = &'a Record> + use<'a, 'n> {
    records.iter().filter(move |record| {
        record.record_type() == rtype && record.dns_class == DNSClass::IN && record.name == *owner
    })
}

/// A TTL with the top bit set counts as 0 (RFC 2181 §8).
fn ttl(record: &Record) -> u32 {
    if record.ttl > i32::MAX as u32 {
        0
    } else {
        record.ttl
    }
}

/// Rdata without compression, valid at any place in a message.
fn encode(rdata: &RData) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = BinEncoder::new(&mut bytes);
    encoder.set_name_encoding(NameEncoding::Uncompressed);
    rdata.emit(&mut encoder).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests;
