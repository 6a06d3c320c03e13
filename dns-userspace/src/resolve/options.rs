//! The options of the responder, and which key of the configuration each comes from.

use std::{net::SocketAddr, time::Duration};

use crate::config::{Config, UpstreamServer};

/// Interfaces that may fill their share of the cache before it is full.
const FULL_SHARES: usize = 64;

/// The server that is asked for targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upstream {
    /// The server that the pod asked.
    Same,
    Addr(SocketAddr),
}

/// See the configuration keys of the same names.
#[derive(Clone, Copy, Debug)]
pub struct ResponderOptions {
    pub upstream: Upstream,
    /// Largest TTL of an answer.
    pub max_ttl: Duration,
    /// How long an answer may outlive its TTL while the upstream fails.
    pub serve_stale: Duration,
    /// Look-ups that one interface may have in flight.
    pub chases_per_interface: usize,
    /// Answers in the cache.
    pub max_answers: usize,
    /// Answers in the cache that count for one interface.
    pub answers_per_interface: usize,
}

impl Default for ResponderOptions {
    fn default() -> Self {
        ResponderOptions {
            upstream: Upstream::Same,
            max_ttl: Duration::from_secs(30),
            serve_stale: Duration::from_secs(3600),
            chases_per_interface: 64,
            max_answers: 16_384,
            answers_per_interface: 16_384 / FULL_SHARES,
        }
    }
}

impl From<&Config> for ResponderOptions {
    fn from(config: &Config) -> Self {
        ResponderOptions {
            upstream: match config.upstream.server {
                UpstreamServer::Same => Upstream::Same,
                UpstreamServer::Address(address) => Upstream::Addr(address),
            },
            max_ttl: config.answer.max_ttl,
            serve_stale: config.answer.serve_stale,
            chases_per_interface: config.limits.chases_per_interface,
            max_answers: config.limits.answers,
            answers_per_interface: (config.limits.answers / FULL_SHARES).max(1),
        }
    }
}
