//! What the pipeline needs around it: tables, clock, the way to the responder.

use super::stages::{BySuffix, Chosen, Recognised};
use crate::{
    abi::{EventHeader, IS_ANSWERED, Servers, mapped},
    answer::{Found, Located, RuleEntry},
    client::Who,
    reply::Replied,
    scratch::Scratch,
    verdict::{Reason, Verdict},
};

/// What the pipeline needs around it: tables, clock, the way to the responder.
pub trait Host<P> {
    /// The server addresses of the configuration.
    fn servers(&self) -> Option<&Servers>;

    /// Whether queries are looked at from some sources only.
    const CHECKS_SOURCES: bool = false;

    /// Whether queries from this address are looked at; asked for those to a server that may match.
    fn allows(&self, _source: Address) -> bool {
        true
    }

    /// Bits of [`crate::abi::protection`].
    fn protection(&self) -> u32 {
        0
    }

    /// Whether the TCP connections to a server go to the responder.
    fn is_steered(&self, _server: Address) -> bool {
        false
    }

    /// See [`super::is_kept`].
    fn keeps(&self, packet: &P, reason: Reason) -> bool;

    /// Called for each query to port 53 of an address that is not a server.
    fn saw_other_server(&self, address: Address);

    /// Whether a name can match whose last seven bytes and root label on the wire are this word; the
    /// first byte is the lowest.
    fn may_match(&self, end_of_name: u64) -> bool;

    /// See [`super::recognise`].
    fn recognise(&self, scratch: &mut Scratch) -> Recognised;

    /// Nanoseconds of the clock that lifetimes are written in.
    fn now_ns(&self) -> u64;

    /// The rule with this place in the rule set.
    fn rule(&self, index: u32) -> Option<RuleEntry>;

    /// Whether somebody may be known behind an interface.
    const KNOWS_CLIENTS: bool = true;

    /// The interface of a query.
    fn ifindex(&self, packet: &P) -> u32;

    /// See [`crate::client::identify`].
    fn identify(&self, scratch: &mut Scratch) -> Who;

    /// See [`super::go_through`].
    fn choose(&self, index: u32, scratch: &mut Scratch) -> Chosen;

    /// See [`super::locate_by_suffix`].
    fn locate_by_suffix(&self, scratch: &mut Scratch) -> BySuffix;

    /// See [`super::locate_by_own_suffix`].
    fn locate_by_own_suffix(&self, scratch: &mut Scratch) -> bool;

    /// See [`super::locate`].
    fn locate(&self, scratch: &mut Scratch) -> Located;

    /// See [`crate::answer::read`].
    fn read_answer(&self, scratch: &mut Scratch) -> Found;

    /// Says that the answer in the scratch is being refreshed.
    fn claim(&self, scratch: &Scratch);

    /// Counts an answer that is given past its time.
    fn served_expired(&self);

    /// Whether the responder may be asked now on behalf of this packet's interface.
    fn admit(&self, packet: &P, now_ns: u64) -> Result<(), Reason>;

    /// Hands the frame to the responder.
    fn hand_over(&self, packet: &P, matched: &Matched) -> Result<(), Reason>;

    /// [`super::finish`], then [`super::refuse`].
    fn finish(&self, packet: &mut P, scratch: &mut Scratch) -> Verdict;

    /// See [`super::reply`].
    fn reply(&self, packet: &mut P, scratch: &mut Scratch) -> Replied;
}

/// Source or destination address of a query, in the byte order of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4(u32),
    V6([u64; 2]),
}

impl Address {
    /// As IPv6 (RFC 4291 §2.5.5.2), in the byte order of the packet.
    #[inline(always)]
    pub fn mapped(self) -> [u64; 2] {
        match self {
            Address::V4(address) => mapped(address),
            Address::V6(halves) => halves,
        }
    }
}

/// A query that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Id of the rule.
    pub rule: u64,
    /// Where the IP header starts.
    pub l3_offset: u32,
    /// Bytes of the frame.
    pub frame_len: u32,
    /// Id of the client that asks, where the rule depends on it; else 0.
    pub client: u32,
    /// Whether the program answers it itself, and wants a newer answer.
    pub is_answered: bool,
}

impl Matched {
    /// The event header of this query.
    #[inline(always)]
    pub fn event(&self, ifindex: u32) -> EventHeader {
        EventHeader {
            ifindex,
            rule: self.rule,
            frame_len: self.frame_len as u16,
            l3_offset: self.l3_offset as u16,
            vlan_tci: 0,
            vlan_tpid: 0,
            client: self.client,
            padding: 0,
            flags: if self.is_answered { IS_ANSWERED } else { 0 },
        }
    }
}
