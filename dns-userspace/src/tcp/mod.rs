//! DNS over TCP (RFC 7766) for connections that the sk_lookup program steers to the responder.
//!
//! A client whose answer did not fit into a datagram gets TC=1 ([`Steering`]) and retries over TCP, at the address of the
//! existing cache. Its connection is accepted here ([`Service`]): messages that a rule matches are answered in full, all others
//! are relayed to the cache, and its replies back, byte for byte.

mod connection;
mod dispatch;
mod framing;
mod listeners;
mod relay;
mod service;
mod steering;

pub use dispatch::{Answer, Counters, Served};
pub use listeners::open_listeners;
pub use service::Service;
pub use steering::Steering;
