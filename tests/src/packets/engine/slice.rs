//! The pipeline over a byte slice, with the tables that the program would be loaded with.

use std::{cell::RefCell, net::IpAddr, sync::Arc};

use anyhow::Context as _;
use dns_common::{
    abi::{MAX_SERVERS, Servers},
    answer::{Key, Lifetime, MemoryTables},
    client::{ClientRecord, Permit},
    packet::SlicePacket,
    pipeline::{Matched, MemoryHost, intercept},
    scratch::Scratch,
    verdict::Verdict,
};
use gregor::{model::Client, rules::RuleSet};

use super::{Engine, Event, Outcome};
use crate::packets::{
    answers::{Entry, What},
    build::Frame,
    loaded::compile,
    table,
};

/// The slice engine for one set of rules.
pub struct Slice {
    rules: Arc<RuleSet>,
    servers: Servers,
    pub scratch: Scratch,
    answers: MemoryTables,
    /// The time at which frames come in.
    pub now_ns: u64,
    /// Whether answers are found by the suffixes of names, too.
    pub knows_suffixes: bool,
    /// By how much a frame may grow.
    pub room: usize,
}

/// Far from zero, so that what lies in the past has a time too.
const NOW_NS: u64 = 1 << 60;

impl Slice {
    pub fn new(rules: &[table::Rule]) -> Self {
        Self::with_rules(compile(rules))
    }

    pub fn with_rules(rules: Arc<RuleSet>) -> Self {
        let answers = MemoryTables::none().with_rules(rules.entries_by_index());
        Self {
            answers: with_client(answers, &rules),
            rules,
            servers: servers(),
            scratch: Scratch::new(),
            now_ns: NOW_NS,
            knows_suffixes: true,
            room: 2048,
        }
    }
}

/// The interface that frames come in on, and the id of the client behind it.
const INTERFACE: u32 = 7;
const CLIENT_ID: u32 = 99;

/// With the pod of the table behind the interface.
fn with_client(tables: MemoryTables, rules: &RuleSet) -> MemoryTables {
    let pod = table::client();
    let halves = |address: &IpAddr| {
        let address = match address {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => *address,
        };
        let bits = address.to_bits();
        [(bits >> 64) as u64, bits as u64].map(u64::to_be)
    };
    let tables = tables.with_client(&ClientRecord {
        ifindex: INTERFACE,
        id: CLIENT_ID,
        addresses: pod.addresses.iter().map(halves).collect(),
        namespace: pod.namespace.clone(),
        digest: [0; 4],
    });
    let client = Client {
        namespace: pod.namespace,
        labels: pod.labels.unwrap_or_default(),
        ..Client::default()
    };
    let permits = rules.permits(&client).filter_map(|id| rules.index_of(id));
    permits.fold(tables, |tables, rule| {
        tables.with_permit(Permit::new(rule as u64, CLIENT_ID))
    })
}

/// The key of an entry; `qtype` 0 is all of them.
fn key(entry: &Entry, qtype: u16) -> Option<Key> {
    let servers = table::servers();
    let mut family = servers
        .iter()
        .filter(|server| server.is_ipv4() == entry.server.is_ipv4());
    let index = family.position(|server| *server == entry.server)?;
    let first = if entry.server.is_ipv4() {
        0
    } else {
        MAX_SERVERS
    };
    let captures: Vec<&[u8]> = entry.captures.iter().map(String::as_bytes).collect();
    Key::new(entry.rule as u64, qtype, (first + index) as u32, &captures)
}

/// The table's servers in the form that the pipeline reads.
fn servers() -> Servers {
    let mut servers = Servers::default();
    for address in table::servers() {
        match address {
            IpAddr::V4(address) => {
                servers.v4[servers.v4_count as usize] = u32::from_ne_bytes(address.octets());
                servers.v4_count += 1;
            }
            IpAddr::V6(address) => {
                let octets = address.octets();
                let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| octets[at + i]));
                servers.v6[servers.v6_count as usize] = [half(0), half(8)];
                servers.v6_count += 1;
            }
        }
    }
    assert_eq!(servers.v4_count as usize, MAX_SERVERS);
    assert_eq!(servers.v6_count as usize, MAX_SERVERS);
    servers.ids = std::array::from_fn(|index| index as u32);
    servers
}

impl Engine for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn takes(&self, engines: &table::Engines) -> bool {
        engines.slice
    }

    fn has_clock(&self) -> bool {
        false
    }

    fn fill(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        self.answers = MemoryTables::new(2 * entries.len().max(1), Vec::new())
            .with_rules(self.rules.entries_by_index())
            .with_starters(&self.rules.starters());
        self.answers = with_client(std::mem::take(&mut self.answers), &self.rules);
        for (index, entry) in entries.iter().enumerate() {
            let later = &entries[index + 1..];
            let overruled = later.iter().any(|later| {
                matches!(later.what, What::NoTarget) && key(later, 0) == key(entry, 0)
            });
            let qtype = match entry.what {
                What::Answer(..) => entry.qtype,
                _ => 0,
            };
            let key = key(entry, qtype).context("a key with room for these captures")?;
            match &entry.what {
                What::Answer(answer, term) if !overruled => {
                    let fresh_until_ns = self.now_ns + term.fresh.as_nanos() as u64;
                    let lifetime = Lifetime {
                        fresh_until_ns,
                        serve_until_ns: fresh_until_ns + term.grace.as_nanos() as u64,
                        stale_until_ns: self.now_ns + term.unattended.as_nanos() as u64,
                        fixed_ttl: term.fixed_ttl.unwrap_or(0),
                    };
                    if let Some(body) = answer.body() {
                        let captures = entry.captures.iter().map(String::as_bytes);
                        let placed = match self.rules.suffix(entry.rule, captures) {
                            Some(suffix) if self.knows_suffixes => self
                                .answers
                                .insert_with_suffix(&key, &body, &lifetime, &suffix),
                            _ => self.answers.insert(&key, &body, &lifetime),
                        };
                        anyhow::ensure!(placed, "no place in the tables");
                    }
                }
                What::NoTarget => {
                    let placed = self.answers.insert_absent(&key, self.now_ns + 1);
                    anyhow::ensure!(placed, "no place in the tables");
                }
                What::NoTargetBefore => {
                    self.answers.insert_absent(&key, self.now_ns);
                }
                What::Answer(..) | What::TakenAway(..) => {}
            }
        }
        Ok(())
    }

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome> {
        let len = frame.bytes.len();
        let mut bytes = frame.bytes.clone();
        bytes.resize(len + self.room, 0xee);
        let mut packet = SlicePacket::with_room(&mut bytes, len);
        packet.gso = frame.gso_size.is_some();
        let matched = RefCell::new(Vec::new());
        let host = MemoryHost {
            ifindex: INTERFACE,
            servers: self.servers,
            header: &self.rules.table().header,
            table: &self.rules.table().entries,
            tails: &self.rules.table().tails,
            answers: &self.answers,
            now_ns: self.now_ns,
            admission: Ok(()),
            protection: 0,
            sink: RefCell::new(|query| matched.borrow_mut().push(query)),
        };
        let in_use = self.scratch.is_in_use();
        let verdict = intercept(&mut packet, &host, || Some(&mut self.scratch));
        let result = packet.bytes().to_vec();
        anyhow::ensure!(
            self.scratch.is_in_use() == in_use,
            "the scratch was not given back, or taken away"
        );
        anyhow::ensure!(
            verdict == Verdict::Answered || result == frame.bytes,
            "the pipeline wrote to the frame"
        );
        let event = |query: &Matched| Event::new(&query.event(1), &frame.bytes);
        match (verdict, matched.into_inner().as_slice()) {
            (Verdict::Pass(reason), []) => Ok(Outcome::Passed(reason)),
            (Verdict::Unanswered, []) => Ok(Outcome::Unanswered),
            (Verdict::Taken, [query]) => Ok(Outcome::Taken(event(query))),
            (Verdict::Answered, queries @ ([] | [_])) => Ok(Outcome::Answered {
                reply: result,
                refresh: queries.first().map(event),
            }),
            (verdict, queries) => anyhow::bail!("{verdict:?}, but handed over {queries:?}"),
        }
    }
}
