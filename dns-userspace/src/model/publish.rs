//! The interface through which the responder publishes answers to the kernel's tables.

use std::{fmt::Debug, net::IpAddr, time::Duration};

use dns_common::answer::{Body, Key};
use hickory_proto::rr::Name;

use super::targets::Changes;

/// How long a published answer is served, and with what TTL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Term {
    /// Served with the TTL that is left of this.
    pub fresh: Duration,
    /// Served after that with a TTL of 1, while the responder refreshes it.
    pub grace: Duration,
    /// Served with this TTL, in seconds, in place of the one that is left.
    pub fixed_ttl: Option<u32>,
    /// From now on, how long it is served while no responder runs (RFC 8767).
    pub unattended: Duration,
}

/// What the program has of a question, published by this process or by an earlier one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastGood {
    /// The last answer to it, and how much longer that may be served while it cannot be refreshed.
    pub answer: Option<(Body, Duration)>,
    /// Whether there is such an answer to it or to another qtype of the same name.
    pub exists: bool,
}

/// What is published of one key.
#[derive(Debug)]
pub enum PublishedEntry<'a> {
    /// An answer to questions of this type.
    Answer(u16, &'a Body),
    /// The target does not exist.
    NoTarget,
}

/// A table of answers that the kernel program serves by itself.
pub trait Publish: Debug + Send + Sync + 'static {
    /// The key of a question under the rule with this id; `None` where the program must not keep its answer.
    /// `client` is the id of the client that asks, 0 where the rule does not depend on it.
    fn key(
        &self,
        rule: u64,
        qtype: u16,
        server: IpAddr,
        captures: &[String],
        client: u32,
    ) -> Option<Key>;
    /// What the program has of the question with this key.
    fn last_good(&self, key: &Key) -> LastGood;
    /// The program serves this answer from now on.
    fn answer(&self, ifindex: u32, key: &Key, body: &Body, term: &Term);
    /// The program passes queries of this key, whatever their qtype, for this much longer.
    fn no_target(&self, ifindex: u32, key: &Key, left: Duration);
    /// The program sends queries of this key to the responder from now on.
    fn withdraw(&self, key: &Key);
    /// The same for every key whose rule leads to one of the targets that have changed, and of which `is_outdated` says so,
    /// given all its targets.
    fn withdraw_changed(
        &self,
        changes: &Changes,
        is_outdated: &dyn Fn(&[Name], &PublishedEntry<'_>) -> bool,
    );
}
