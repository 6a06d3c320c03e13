//! Counters that never go backwards, although each program starts its own at zero.

use std::{collections::BTreeMap, net::IpAddr};

use crate::observe::{MAX_NAMESPACES, OTHER_NAMESPACES};

/// Most addresses kept over all programs; each program tells at most 64.
const MAX_SERVERS: usize = 256;

/// What one program has counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Indexed by [`dns_common::verdict::Verdict::counter`].
    pub verdicts: Vec<u64>,
    pub other_servers: BTreeMap<IpAddr, u64>,
    /// Answers given by the program, by the name of their rule.
    pub rules: BTreeMap<String, u64>,
    /// The same by namespace; [`OTHER_NAMESPACES`] sums up what is past the bound.
    pub namespaces: BTreeMap<String, u64>,
}

impl Reading {
    fn add(&mut self, other: &Reading) {
        if self.verdicts.len() < other.verdicts.len() {
            self.verdicts.resize(other.verdicts.len(), 0);
        }
        for (sum, value) in self.verdicts.iter_mut().zip(&other.verdicts) {
            *sum += value;
        }
        for (server, count) in &other.other_servers {
            if self.other_servers.len() < MAX_SERVERS || self.other_servers.contains_key(server) {
                *self.other_servers.entry(*server).or_default() += count;
            }
        }
        for (rule, count) in &other.rules {
            *self.rules.entry(rule.clone()).or_default() += count;
        }
        for (namespace, count) in &other.namespaces {
            let known = self.namespaces.contains_key(namespace);
            let line = if known || self.namespaces.len() < MAX_NAMESPACES {
                namespace
            } else {
                OTHER_NAMESPACES
            };
            *self.namespaces.entry(line.to_owned()).or_default() += count;
        }
    }
}

/// The sum over programs that are gone.
#[derive(Clone, Debug, Default)]
pub struct Totals {
    retired: Reading,
}

impl Totals {
    /// A program is gone; this was its last reading.
    pub fn retire(&mut self, last: &Reading) {
        self.retired.add(last);
    }

    /// The sum with the programs that still run.
    pub fn with<'a>(&self, running: impl IntoIterator<Item = &'a Reading>) -> Reading {
        let mut sum = self.retired.clone();
        for reading in running {
            sum.add(reading);
        }
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(verdicts: &[u64], servers: &[(&str, u64)]) -> Reading {
        Reading {
            verdicts: verdicts.to_vec(),
            other_servers: servers
                .iter()
                .map(|(server, count)| (server.parse().unwrap(), *count))
                .collect(),
            ..Reading::default()
        }
    }

    #[test]
    fn sums_never_go_backwards_over_reloads() {
        let mut totals = Totals::default();
        let old = reading(&[5, 7], &[("8.8.8.8", 2)]);
        let before = totals.with([&old]);
        assert_eq!(before, old);

        // Both run for a moment; the old one still counts.
        let old = reading(&[6, 7], &[("8.8.8.8", 3)]);
        let new = reading(&[1, 0], &[("1.1.1.1", 1)]);
        let during = totals.with([&old, &new]);
        assert_eq!(during, reading(&[7, 7], &[("8.8.8.8", 3), ("1.1.1.1", 1)]));

        totals.retire(&old);
        assert_eq!(totals.with([&new]), during);
    }

    #[test]
    fn servers_are_bounded() {
        let mut totals = Totals::default();
        for batch in 0..10u8 {
            let servers = (0..64u8)
                .map(|n| (IpAddr::from([10, batch, 0, n]), 1))
                .collect();
            totals.retire(&Reading {
                other_servers: servers,
                ..Reading::default()
            });
        }
        assert_eq!(totals.with([]).other_servers.len(), MAX_SERVERS);
    }
}
