//! Counters of the responder, from which the metrics are made.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{cache::Sizes, chain::Failure};

/// Most namespaces with counts of their own.
pub const MAX_NAMESPACES: usize = 1000;
/// The label of all others. Not a namespace name that Kubernetes allows.
pub const OTHER: &str = "_other";

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident => $label:literal, )+) => {
        /// Why the responder passed a query on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(usize)]
        pub enum PassReason { $( $(#[doc = $doc])+ $name, )+ }

        impl PassReason {
            pub const ALL: &'static [PassReason] = &[$( PassReason::$name, )+];

            /// The name used in metrics.
            pub const fn label(self) -> &'static str {
                match self { $( PassReason::$name => $label, )+ }
            }
        }
    };
}

reasons! {
    /// The DNS message is not one that gregor answers.
    Query => "query",
    /// No rule matches the name any more.
    NoRule => "no_rule",
    /// The tenant has no target.
    NoTarget => "no_target",
    /// The interface has enough look-ups under way.
    Busy => "busy",
    /// Too many look-ups of types that the program does not keep, or too many queries over TCP, for a name without a cached
    /// answer.
    RateLimited => "rate_limited",
    /// A look-up ended without an outcome (shutdown).
    Abandoned => "abandoned",
    /// No socket, no memory, no route, or a filter of the node, for a name without a cached answer.
    LocalFailure => "local_failure",
}

/// Counters, each of them only ever growing.
#[derive(Debug, Default)]
pub struct Stats {
    pub(super) queries: Counter,
    pub(super) noerror: Counter,
    pub(super) servfail: Counter,
    pub(super) stale: Counter,
    pub(super) unanswered: Counter,
    pub(super) truncated: Counter,
    pub(super) chases: Counter,
    pub(super) broken_chains: Counter,
    pub(super) no_address: Counter,
    pub(super) send_errors: Counter,
    pub(super) refreshes: Counter,
    pub(super) refreshes_refused: Counter,
    passed: [Counter; PassReason::ALL.len()],
    failures: [Counter; Failure::ALL.len()],
    namespaces: Mutex<HashMap<String, NamespaceCounts>>,
}

/// One number.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Replies to queries for one namespace's target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NamespaceCounts {
    pub answers: u64,
    pub stale: u64,
    pub servfail: u64,
}

/// What a reply was, for the counts of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Replied {
    Answer,
    Stale,
    Servfail,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    pub queries: u64,
    /// By rcode.
    pub replies: BTreeMap<&'static str, u64>,
    /// By [`PassReason::label`].
    pub passed: BTreeMap<&'static str, u64>,
    pub chases: u64,
    /// By [`Failure::label`].
    pub chase_failures: BTreeMap<&'static str, u64>,
    pub broken_chains: u64,
    pub no_address: u64,
    pub stale_answers: u64,
    /// Queries for names that exist, left without a reply because this node did not look them up.
    pub unanswered: u64,
    /// Replies with TC=1.
    pub truncated: u64,
    /// Replies and passed queries that could not be sent.
    pub send_errors: u64,
    /// Look-ups for published answers that are about to expire.
    pub refreshes: u64,
    /// The same, refused because there were too many.
    pub refreshes_refused: u64,
    pub in_flight: usize,
    pub store: Sizes,
    /// At most `MAX_NAMESPACES`, and `OTHER`.
    pub namespaces: BTreeMap<String, NamespaceCounts>,
}

impl Stats {
    pub(super) fn passed(&self, reason: PassReason) {
        self.passed[reason as usize].add();
    }

    pub(super) fn failed(&self, failure: Failure) {
        self.failures[failure as usize].add();
    }

    /// Counts a reply for a namespace. Only a namespace whose target exists gets a line of its own: the name is what a
    /// pod made up until then.
    pub(super) fn replied(&self, namespace: Option<&str>, replied: Replied) {
        let Some(namespace) = namespace else {
            return;
        };
        let mut namespaces = self
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = namespaces.contains_key(namespace);
        let room = namespaces.len() < MAX_NAMESPACES && replied != Replied::Servfail;
        let line = if known || room { namespace } else { OTHER };
        let counts = match namespaces.get_mut(line) {
            Some(counts) => counts,
            None => namespaces.entry(line.to_owned()).or_default(),
        };
        match replied {
            Replied::Answer => counts.answers += 1,
            Replied::Stale => counts.stale += 1,
            Replied::Servfail => counts.servfail += 1,
        }
    }

    pub(super) fn snapshot(&self, in_flight: usize, store: Sizes) -> Snapshot {
        let namespaces = self
            .namespaces
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            queries: self.queries.get(),
            replies: BTreeMap::from([
                ("NOERROR", self.noerror.get()),
                ("SERVFAIL", self.servfail.get()),
            ]),
            passed: PassReason::ALL
                .iter()
                .map(|reason| (reason.label(), self.passed[*reason as usize].get()))
                .collect(),
            chases: self.chases.get(),
            chase_failures: Failure::ALL
                .iter()
                .map(|failure| (failure.label(), self.failures[*failure as usize].get()))
                .collect(),
            broken_chains: self.broken_chains.get(),
            no_address: self.no_address.get(),
            stale_answers: self.stale.get(),
            unanswered: self.unanswered.get(),
            truncated: self.truncated.get(),
            send_errors: self.send_errors.get(),
            refreshes: self.refreshes.get(),
            refreshes_refused: self.refreshes_refused.get(),
            in_flight,
            store,
            namespaces: namespaces
                .iter()
                .map(|(name, counts)| (name.clone(), *counts))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_namespaces_do_not_fill_the_table() {
        let stats = Stats::default();
        for number in 0..3 * MAX_NAMESPACES {
            stats.replied(Some(&format!("made-up-{number}")), Replied::Servfail);
        }
        stats.replied(Some("foo"), Replied::Answer);
        for number in 0..3 * MAX_NAMESPACES {
            stats.replied(Some(&format!("real-{number}")), Replied::Answer);
        }
        stats.replied(Some("foo"), Replied::Servfail);
        let namespaces = stats.snapshot(0, Sizes::default()).namespaces;
        assert!(namespaces.len() <= MAX_NAMESPACES + 1);
        let foo = NamespaceCounts {
            answers: 1,
            stale: 0,
            servfail: 1,
        };
        assert_eq!(namespaces["foo"], foo);
        assert_eq!(namespaces[OTHER].servfail, 3 * MAX_NAMESPACES as u64);
        let answers: u64 = namespaces.values().map(|counts| counts.answers).sum();
        assert_eq!(answers, 3 * MAX_NAMESPACES as u64 + 1);
    }
}
