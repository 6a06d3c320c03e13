//! The events that the engine takes and the actions that it returns.

use std::{sync::Arc, time::Duration};

use dns_common::{answer, wire::qtype_is_kept};
use hickory_proto::rr::Name;

use super::look_up::LookUp;
use crate::{
    model::{Changes, TargetState, Term},
    resolve::{
        cache::{CacheEntry, Key},
        chain::Outcome,
        compose::ExtendedError,
        query::Query,
        stats::PassReason,
    },
};

/// A query that a rule matches. `C` is where its reply goes, which the engine only passes through.
#[derive(Clone, Debug)]
pub struct MatchedQuery<C> {
    pub client: C,
    /// The interface that it came in on, to whose limits it counts.
    pub ifindex: u32,
    pub query: Query,
    /// What is to be looked up for it.
    pub key: Key,
    pub namespace: Option<String>,
    /// Largest TTL of the reply: the rule's TTL and `max_ttl`.
    pub ttl_cap: Duration,
    /// It may start a look-up: its client is within its rate.
    pub may_look_up: bool,
    /// The kernel program has answered it already: the outcome is published, and no reply is sent.
    pub is_answered: bool,
    /// Where answers to it are published. Types that the program does not keep have a key too: NXDOMAIN is about the name, so
    /// it is published whatever the type.
    pub publish: Option<PublishKey>,
    /// What is published of its name there, which an earlier process may have looked up.
    pub published: Published,
}

/// What the program has of a name.
#[derive(Clone, Debug, Default)]
pub struct Published {
    /// The last answer to this question.
    pub answer: Option<Arc<CacheEntry>>,
    /// Whether there is an answer to this or to another qtype.
    pub exists: bool,
}

/// An entry of one table of published answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishKey {
    /// Identifies the table of one program.
    pub table: usize,
    pub key: answer::Key,
}

impl<C> MatchedQuery<C> {
    /// The entry for the answer to this query, if the program keeps answers of its type.
    pub(super) fn entry(&self) -> Option<answer::Key> {
        self.publish
            .filter(|_| qtype_is_kept(self.query.qtype))
            .map(|publish| publish.key)
    }
}

/// The input of the engine.
#[derive(Debug)]
pub enum Event<C> {
    /// A query is to be answered, or passed on.
    Query(MatchedQuery<C>),
    /// A query that the program has answered asks for a newer answer.
    Refresh(MatchedQuery<C>),
    /// The delay of a refresh is over ([`Action::Delay`]).
    RefreshDue(MatchedQuery<C>),
    /// A look-up has an outcome ([`Action::LookUp`]).
    LookedUp(LookUp, Outcome),
    /// A look-up ended without an outcome (shutdown).
    Abandoned(LookUp),
    /// An interface was removed.
    InterfaceGone(u32),
    /// Targets have changed: what was known of them is no longer right.
    Changed(Changes),
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Action<C> {
    /// Look [`LookUp::name`] up, and report the outcome with [`Event::LookedUp`].
    LookUp(LookUp),
    /// Send the query back after this time, with [`Event::RefreshDue`].
    Delay(Duration, Box<MatchedQuery<C>>),
    /// The program serves this entry from now on.
    Publish {
        client: C,
        ifindex: u32,
        key: answer::Key,
        entry: Arc<CacheEntry>,
        term: Term,
    },
    /// The program passes queries of this key for this much longer.
    PublishNoTarget {
        client: C,
        ifindex: u32,
        key: answer::Key,
        left: Duration,
    },
    /// The program sends queries of this key to the responder.
    Withdraw { client: C, key: answer::Key },
    /// Send an answer.
    Answer(AnswerAction<C>),
    /// Send SERVFAIL.
    ServFail {
        client: C,
        query: Query,
        namespace: Option<String>,
        error: ExtendedError,
    },
    /// Send no reply: the client asks again.
    NoReply { client: C, reason: PassReason },
    /// Let the existing cache answer.
    PassOn { client: C, reason: PassReason },
    /// Tell whoever wants to know what came of looking a target up.
    Report(Name, TargetState),
    /// Log a warning about a tenant's target, unless there were too many.
    Warn {
        namespace: Option<String>,
        qtype: u16,
        text: &'static str,
    },
}

/// An answer to be sent.
#[derive(Debug)]
pub struct AnswerAction<C> {
    pub client: C,
    pub query: Query,
    pub namespace: Option<String>,
    pub entry: Arc<CacheEntry>,
    pub ttl_seconds: u32,
    /// Which address comes first.
    pub rotation: usize,
    /// The answer has outlived its TTL.
    pub is_stale: bool,
}
