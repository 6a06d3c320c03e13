//! The deadline of the programs: until when the responder is known to drain the ring.

use std::time::Duration;

use dns_common::{abi, answer::Word};
use nix::time::{ClockId, clock_gettime};

use super::mapping::Mapping;

/// How long a renewed deadline holds.
pub const HEARTBEAT_VALID: Duration = Duration::from_nanos(abi::HEARTBEAT_VALID_NS);

/// The deadline past which matched queries pass to the existing cache. Renewed from the loop that drains the ring, so that the
/// programs stop handing queries to a loop that hangs.
pub struct Heartbeat(Mapping<Word>);

impl Heartbeat {
    pub(super) fn new(deadline_ns: Mapping<Word>) -> Self {
        Self(deadline_ns)
    }

    /// Renews the deadline by this much.
    pub fn renew(&self, valid: Duration) {
        self.set(monotonic_ns().saturating_add(valid.as_nanos() as u64));
    }

    /// From now on matched queries pass.
    pub fn stop(&self) {
        self.set(0);
    }

    fn set(&self, deadline_ns: u64) {
        if let Some(word) = self.0.element(0) {
            word.store(deadline_ns);
        }
    }
}

/// The clock of `bpf_ktime_get_ns`.
pub(super) fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
        .unwrap_or(0)
}
