//! What a program is loaded with, and what the maps then take.

use std::{net::IpAddr, sync::Arc};

use aya::util::nr_cpus;
use dns_common::abi::{maps, protection};
use ipnet::IpNet;

use super::{
    AnswerOptions, DatapathError, Hook, Limit, Order, Wanted, answers, footprint::Footprint,
    journal, object::OBJECT,
};
use crate::rules::RuleSet;

/// Words that count how often an answer is given, at most: machines may have 256 processors, or say that they could.
pub const HIT_LANES: usize = 16;

/// Everything that a program is loaded with.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Addresses whose queries are looked at; at most 16 of each family.
    pub servers: Vec<IpAddr>,
    pub rules: Arc<RuleSet>,
    pub hook: Hook,
    pub order: Order,
    /// With [`Hook::Xdp`], the only addresses whose queries are looked at, at most 256 networks; unused elsewhere.
    pub sources: Vec<IpNet>,
    /// Size of the ring buffer: a power of two and a multiple of the page size.
    pub ring_bytes: u32,
    pub limit: Limit,
    pub answers: AnswerOptions,
    /// Most words that count how often an answer is given, a power of two: one for each processor, which share them where
    /// there are more. [`HIT_LANES`] unless a test has another.
    pub hit_lanes: usize,
    pub protection: Protection,
}

/// What does not pass to servers, beside queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Protection {
    /// What may hide a query from the program.
    pub keeps_unread: bool,
    /// TCP connections that the responder does not get.
    pub requires_tcp: bool,
}

impl Protection {
    /// As the programs have it.
    pub(super) fn bits(self) -> u32 {
        let bit = |is_on, bit| if is_on { bit } else { 0 };
        bit(self.keeps_unread, protection::UNREAD) | bit(self.requires_tcp, protection::TCP)
    }
}

/// Interfaces whose slot in the array is used by another one. Indexes are given out one after the other, so of a few hundred
/// interfaces a few collide, and only on a node that has seen thousands come and go.
const SHARED_SLOTS: u32 = 1024;

/// Maps that the loader sizes, with their elements.
pub(super) fn sizes(options: &LoadOptions, processors: usize) -> Vec<(&'static str, u32)> {
    let mut sizes = vec![
        (maps::TAILS, options.rules.table().tails.len().max(1) as u32),
        (maps::RING, options.ring_bytes),
        (maps::MORE_INTERFACES, SHARED_SLOTS),
        (maps::RULES, options.rules.entry_count().max(1) as u32),
        (
            maps::OBSERVED,
            options.rules.observing().count().max(1) as u32,
        ),
    ];
    let lanes = processors.next_power_of_two().min(options.hit_lanes);
    sizes.extend(answers::sizes(&options.answers, lanes));
    sizes
}

pub(super) fn processors() -> Result<usize, DatapathError> {
    nr_cpus().map_err(|(path, error)| DatapathError::Processors { path, error })
}

/// What the maps would take of this kernel.
pub fn wanted(options: &LoadOptions) -> Wanted {
    let processors = processors().unwrap_or(1);
    let footprint = Footprint::of(OBJECT, &sizes(options, processors), processors);
    Wanted {
        bytes: footprint.bytes + journal::BYTES,
        of_reload: footprint.of_reload,
        processors: processors as u64,
        per_processor: footprint.per_processor,
        unsupported: footprint.unsupported(),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the maps take with this many answers.
    pub(in super::super) fn footprint(answers: usize, processors: usize) -> Footprint {
        let options = LoadOptions {
            servers: Vec::new(),
            rules: Arc::new(RuleSet::compile(&[]).unwrap()),
            hook: Hook::Tcx,
            order: Order::First,
            sources: Vec::new(),
            ring_bytes: 1 << 20,
            limit: Limit {
                queries_per_second: 0,
                burst: 0,
            },
            answers: AnswerOptions {
                total: answers,
                per_interface: answers,
                per_server: true,
                stale_ttl: 30,
            },
            hit_lanes: HIT_LANES,
            protection: Protection::default(),
        };
        Footprint::of(OBJECT, &sizes(&options, processors), processors)
    }
}
