//! Tells the programs until when the responder is known to drain the ring, and by which socket they notice its end.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use dns_common::{abi, word::Word};
use nix::time::{ClockId, clock_gettime};

use super::mapping::Mapping;

/// How long a renewed deadline holds.
pub const HEARTBEAT_VALID: Duration = Duration::from_nanos(abi::HEARTBEAT_VALID_NS);

/// The deadline past which matched queries pass to the existing cache, and the socket by which programs notice the end of this
/// process before that. Renewed from the loop that drains the ring, so that the programs stop handing queries to a loop that hangs.
pub struct Heartbeat {
    words: Mapping<Word>,
    /// Never read from; closed with the process.
    _socket: Option<UdpSocket>,
    /// Its port; 0 without a socket: the deadline alone counts then.
    port: u64,
}

impl Heartbeat {
    /// Opens the socket in the network namespace of the calling thread, which is that of the interfaces.
    pub(super) fn new(words: Mapping<Word>) -> Self {
        let opened = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|socket| Ok((socket.local_addr()?.port(), socket)));
        let (port, socket) = match opened {
            Ok((port, socket)) => (port, Some(socket)),
            Err(error) => {
                tracing::debug!(%error, "no socket on the loopback address: the programs notice the end of this process after a second");
                (0, None)
            }
        };
        Self {
            words,
            _socket: socket,
            port: port.into(),
        }
    }

    /// The same words of other programs, without a socket.
    pub(super) fn of_others(words: Mapping<Word>) -> Self {
        Self {
            words,
            _socket: None,
            port: 0,
        }
    }

    /// Renews the deadline by this much.
    pub fn renew(&self, valid: Duration) {
        self.set(abi::PROCESS, self.port);
        let deadline = monotonic_ns().saturating_add(valid.as_nanos() as u64);
        self.set(abi::DEADLINE, deadline);
    }

    /// From now on matched queries pass.
    pub fn stop(&self) {
        self.set(abi::DEADLINE, 0);
    }

    /// A successor is there before the deadline ends: that this process ends says nothing.
    pub fn hand_over(&self) {
        self.set(abi::PROCESS, 0);
    }

    fn set(&self, index: u32, value: u64) {
        if let Some(word) = self.words.element(index as usize) {
            word.store(value);
        }
    }
}

/// The clock of `bpf_ktime_get_ns`.
pub(super) fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(|now| now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64)
        .unwrap_or(0)
}
