//! From an intercepted query to an answer: look the target up, follow its chain, compose the reply.

mod cache;
mod chain;
mod chase;
mod compose;
mod engine;
mod in_flight;
mod limiter;
mod options;
mod query;
mod responder;
mod source;
mod stats;
mod stream;
mod upstream;

pub use cache::Sizes;
pub use chain::{Answer, Failure, Outcome};
pub use chase::looks_like_address;
pub use compose::{ExtendedError, Section};
pub use limiter::Limiter;
pub use options::{ResponderOptions, Upstream};
pub use query::{Edns, Query, only_qname};
pub use responder::Responder;
pub use source::{DnsSource, Explanation, Step, StepReply, TargetSource, explain, explain_known};
pub use stats::{OTHER_NAMESPACES, PassReason, ResponderStatus, Stats};
pub use stream::{MAX_QUEUED, ReplyTo, Steer, StreamQuery, StreamReply};
pub use upstream::RetryReason;

pub use crate::model::{Transport, wire_name};

/// The steps of a chase and of a reply one by one, for the fuzz targets.
#[doc(hidden)]
pub mod fuzzing {
    pub use super::chain::{MAX_RDATA, MAX_RECORDS, MAX_STEPS, Walk};
    pub use super::compose::{ExtendedError, UDP_SIZE, servfail};
    pub use super::upstream::fuzzing::{accept, question};

    use super::{Query, Section, Transport, compose};

    /// A reply over UDP.
    pub fn answer(
        query: &Query,
        section: &Section,
        ttl_seconds: u32,
        rotation: usize,
    ) -> Option<Vec<u8>> {
        compose::answer(query, section, ttl_seconds, rotation, Transport::Udp)
            .map(|reply| reply.message)
    }
}

#[cfg(test)]
mod testing;
