//! Tells the program until when the responder is known to drain the ring.

use std::time::Duration;

use aya::maps::{Array, MapData, MapError};
use nix::time::{ClockId, clock_gettime};

/// The deadline past which matched queries pass to the existing cache. Renewed from the loop that drains the ring, so
/// that a loop which hangs is a loop which is not asked.
pub struct Heartbeat {
    deadline_ns: Array<MapData, u64>,
}

impl Heartbeat {
    pub(super) fn new(deadline_ns: Array<MapData, u64>) -> Self {
        Self { deadline_ns }
    }

    /// The responder is there for this much longer.
    pub fn renew(&mut self, valid: Duration) -> Result<(), MapError> {
        let deadline = monotonic_ns().saturating_add(valid.as_nanos() as u64);
        self.deadline_ns.set(0, deadline, 0)
    }

    /// From now on matched queries pass.
    pub fn stop(&mut self) -> Result<(), MapError> {
        self.deadline_ns.set(0, 0, 0)
    }
}

/// The clock of `bpf_ktime_get_ns`.
pub(super) fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
        .unwrap_or(0)
}
