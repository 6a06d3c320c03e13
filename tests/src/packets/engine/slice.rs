//! The pipeline over a byte slice, with the tables that the program would be loaded with.

use std::{cell::RefCell, net::IpAddr, sync::Arc};

use dns_common::{
    abi::{MAX_SERVERS, Servers},
    answer::MemoryTables,
    dfa::Scratch,
    packet::SlicePacket,
    pipeline::{MemoryHost, intercept},
    verdict::Verdict,
};
use gregor::rules::RuleSet;

use super::{Engine, Event, Outcome};
use crate::packets::{build::Frame, loaded::compile, table};

/// The slice engine for one set of rules.
pub struct Slice {
    rules: Arc<RuleSet>,
    servers: Servers,
    scratch: Scratch,
}

impl Slice {
    pub fn new(rules: &[table::Rule]) -> Self {
        Self::with_rules(compile(rules))
    }

    pub fn with_rules(rules: Arc<RuleSet>) -> Self {
        Self {
            rules,
            servers: servers(),
            scratch: Scratch::new(),
        }
    }
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
    servers
}

impl Engine for Slice {
    fn name(&self) -> &'static str {
        "slice"
    }

    fn takes(&self, engines: &table::Engines) -> bool {
        engines.slice
    }

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome> {
        let mut bytes = frame.bytes.clone();
        let mut packet = SlicePacket::new(&mut bytes);
        packet.gso = frame.gso_size.is_some();
        let matched = RefCell::new(Vec::new());
        let host = MemoryHost {
            servers: self.servers,
            header: &self.rules.table().header,
            table: &self.rules.table().entries,
            tails: &self.rules.table().tails,
            answers: MemoryTables::none(),
            now_ns: 0,
            admission: Ok(()),
            sink: RefCell::new(|query| matched.borrow_mut().push(query)),
        };
        let verdict = intercept(&mut packet, &host, || Some(&mut self.scratch));
        anyhow::ensure!(bytes == frame.bytes, "the pipeline wrote to the frame");
        match (verdict, matched.into_inner().as_slice()) {
            (Verdict::Pass(reason), []) => Ok(Outcome::Passed(reason)),
            (Verdict::Taken, [query]) => Ok(Outcome::Taken(Event::new(&query.event(1), &bytes))),
            (verdict, queries) => anyhow::bail!("{verdict:?}, but handed over {queries:?}"),
        }
    }
}
