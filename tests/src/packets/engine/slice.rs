//! The pipeline over a byte slice, with a plain comparison of labels in the place of the DFA.

use std::cell::RefCell;

use dns_common::{
    abi::{EventHeader, MAX_SERVERS, Servers},
    dfa::{NAME_AT, Scratch},
    packet::SlicePacket,
    pipeline::{Address, Host, Matched, intercept},
    verdict::{Reason, Verdict},
};

use super::{Engine, Event, Outcome};
use crate::packets::{
    build::Frame,
    table::{Engines, Rule},
};

/// The slice engine for one set of rules.
pub struct Slice {
    rules: &'static [Rule],
    servers: Servers,
    scratch: Scratch,
}

impl Slice {
    pub fn new(rules: &'static [Rule]) -> Self {
        Self {
            rules,
            servers: servers(),
            scratch: Scratch::new(),
        }
    }
}

/// The table's servers as the programs get them.
fn servers() -> Servers {
    let mut servers = Servers::default();
    for address in crate::packets::table::servers() {
        match address {
            std::net::IpAddr::V4(address) => {
                servers.v4[servers.v4_count as usize] = u32::from_ne_bytes(address.octets());
                servers.v4_count += 1;
            }
            std::net::IpAddr::V6(address) => {
                let octets = address.octets();
                let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| octets[at + i]));
                servers.v6[servers.v6_count as usize] = [half(0), half(8)];
                servers.v6_count += 1;
            }
        }
    }
    assert!(servers.v4_count as usize == MAX_SERVERS && servers.v6_count as usize == MAX_SERVERS);
    servers
}

impl Engine for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn takes(&self, engines: &Engines) -> bool {
        engines.slice
    }

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome> {
        let mut bytes = frame.bytes.clone();
        let packet = SlicePacket {
            bytes: &mut bytes,
            gso: frame.gso_size.is_some(),
        };
        let host = LabelComparison {
            rules: self.rules,
            servers: &self.servers,
            event: RefCell::new(None),
        };
        let verdict = intercept(&packet, &host, || Some(&mut self.scratch));
        let event = host.event.into_inner();
        anyhow::ensure!(bytes == frame.bytes, "the pipeline wrote to the frame");
        match (verdict, event) {
            (Verdict::Pass(reason), None) => Ok(Outcome::Passed(reason)),
            (Verdict::Taken, Some(header)) => Ok(Outcome::Taken(Event::new(&header, &bytes))),
            (verdict, event) => anyhow::bail!("{verdict:?}, but handed over {event:?}"),
        }
    }
}

struct LabelComparison<'a> {
    rules: &'static [Rule],
    servers: &'a Servers,
    event: RefCell<Option<EventHeader>>,
}

impl Host<SlicePacket<'_>> for LabelComparison<'_> {
    fn servers(&self) -> Option<&Servers> {
        Some(self.servers)
    }

    fn saw_other_server(&self, _address: Address) {}

    fn find_rule(&self, scratch: &Scratch) -> Option<u32> {
        let mut name = *scratch;
        name.restore_lengths();
        let start = NAME_AT as usize;
        let labels = labels(&name.bytes[start..start + name.name_len as usize]);
        let rule = self
            .rules
            .iter()
            .position(|rule| matches(rule.pattern, &labels))?;
        Some(rule as u32)
    }

    fn admit(&self, _packet: &SlicePacket<'_>) -> Result<(), Reason> {
        Ok(())
    }

    fn hand_over(&self, _packet: &SlicePacket<'_>, matched: &Matched) -> Result<(), Reason> {
        let before = self.event.replace(Some(matched.event(1)));
        assert!(before.is_none(), "handed over twice");
        Ok(())
    }
}

fn labels(mut wire: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    while let [length @ 1..=63, rest @ ..] = wire {
        let (label, rest) = rest.split_at(usize::from(*length));
        labels.push(label);
        wire = rest;
    }
    labels
}

fn matches(pattern: &str, labels: &[&[u8]]) -> bool {
    let plain = |label: &&[u8]| !label.iter().any(|byte| [b'.', 0xff].contains(byte));
    let (pattern, labels) = match pattern.strip_prefix("*.") {
        Some(rest) => {
            let Some(under_star) = labels.len().checked_sub(rest.split('.').count()) else {
                return false;
            };
            let (star, labels) = labels.split_at(under_star);
            if star.is_empty() || !star.iter().all(plain) {
                return false;
            }
            (rest, labels)
        }
        None => (pattern, labels),
    };
    pattern.split('.').count() == labels.len()
        && pattern.split('.').zip(labels).all(|(want, label)| {
            if want.starts_with('{') {
                is_rfc1123(label)
            } else {
                want.as_bytes().eq_ignore_ascii_case(label)
            }
        })
}

fn is_rfc1123(label: &[u8]) -> bool {
    !label.is_empty()
        && label
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || *b == b'-')
        && label[0] != b'-'
        && label[label.len() - 1] != b'-'
}
