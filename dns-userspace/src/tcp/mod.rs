//! DNS over TCP (RFC 7766) for connections that the sk_lookup program steers to the responder.
//!
//! A client whose answer did not fit into a datagram is told TC=1 ([`Steering`]) and comes back over TCP, to the address of
//! the existing cache. Its connection is accepted here ([`Service`]): what a rule matches is answered in full, everything
//! else goes to the cache and comes back byte for byte.

mod connection;
mod framing;
mod relay;
mod service;
mod steering;

pub use service::{Answer, Numbers, Served, Service};
pub use steering::Steering;
