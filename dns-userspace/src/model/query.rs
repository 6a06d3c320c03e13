//! An intercepted query as the kernel program handed it to userspace.

use std::{fmt::Debug, sync::Arc};

use dns_common::abi::TRAILER_LEN;
pub use dns_common::packet::VlanTag;

use super::{client::Client, publish::Publish};
use crate::rules::RuleSet;

/// A query that a rule matched, with everything needed to answer it or to pass it on.
#[derive(Clone, Debug)]
pub struct Intercepted {
    /// Interface that it came in on.
    pub ifindex: u32,
    /// Index into `rules.rules()`; beyond its end when no rule matches any more.
    pub rule: usize,
    /// The rule set that has the rule.
    pub rules: Arc<RuleSet>,
    /// Who asks, and under which id, where the rule depends on it.
    pub client: Option<(u32, Arc<Client>)>,
    /// The answers that the program serves by itself.
    pub answers: Arc<dyn Publish>,
    /// The program has answered this query too, with an answer that is to be refreshed.
    pub is_answered: bool,
    /// Set where a successor of this process takes the query over until it is released.
    pub held: Option<Arc<dyn Held>>,
    /// Tag that the kernel keeps outside the frame; a reply carries it inside.
    pub vlan: Option<VlanTag>,
    pub reinjection: Reinjection,
    /// Where the IP header starts in `frame`.
    pub l3_offset: usize,
    /// The frame from its Ethernet header on, as the pod sent it. The pipeline has checked the lengths of its headers,
    /// that it is UDP to a configured server, and that the DNS message is one question and at most one OPT of version 0.
    pub frame: Vec<u8>,
}

/// A query that outlives its process until it is answered or passed on.
pub trait Held: Debug + Send + Sync {
    /// To be called just before that, so that it never happens twice; dropping it does the same.
    fn release(&self);
}

/// What a query needs in order to pass the programs of its interface, should it go back there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reinjection {
    /// No TC program of gregor's has to recognise it.
    pub keeps_tc_index: bool,
    /// What goes behind the frame, where an XDP program of gregor's gets it once more: see [`dns_common::abi::Trailer`].
    pub trailer: Option<[u8; TRAILER_LEN as usize]>,
}
