//! How many replies have reached the pods' interfaces, by kind, as the receiving program counts them.

use std::ops::Sub;

use anyhow::Result;
use aya::maps::{MapData, PerCpuArray};
use serde::{Deserialize, Serialize};

/// Replies by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replies {
    /// NOERROR with records in the answer section.
    pub answers: u64,
    /// NOERROR without.
    pub empty: u64,
    pub truncated: u64,
    pub nxdomain: u64,
    /// Any other rcode, or no reply at all.
    pub other: u64,
    /// Of all frames.
    pub bytes: u64,
}

impl Replies {
    pub fn all(&self) -> u64 {
        self.answers + self.empty + self.truncated + self.nxdomain + self.other
    }
}

impl Sub for Replies {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            answers: self.answers - before.answers,
            empty: self.empty - before.empty,
            truncated: self.truncated - before.truncated,
            nxdomain: self.nxdomain - before.nxdomain,
            other: self.other - before.other,
            bytes: self.bytes - before.bytes,
        }
    }
}

/// Reads the counters of the receiving program.
pub struct Counter(PerCpuArray<MapData, [u64; 6]>);

impl Counter {
    pub fn new(map: PerCpuArray<MapData, [u64; 6]>) -> Self {
        Self(map)
    }

    pub fn read(&self) -> Result<Replies> {
        let mut replies = Replies::default();
        for [answers, empty, truncated, nxdomain, other, bytes] in self.0.get(&0, 0)?.iter() {
            replies.answers += answers;
            replies.empty += empty;
            replies.truncated += truncated;
            replies.nxdomain += nxdomain;
            replies.other += other;
            replies.bytes += bytes;
        }
        Ok(replies)
    }
}
