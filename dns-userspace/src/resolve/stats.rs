//! Counters of the responder, from which the metrics are made.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{cache::Sizes, chain::Failure};

/// Most namespaces with counts of their own.
const MAX_NAMESPACES: usize = 1000;
/// The label of all others. Not a namespace name that Kubernetes allows.
pub const OTHER_NAMESPACES: &str = "_other";

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident => $label:literal, )+) => {
        /// Why the responder passed a query on.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    /// The name of the client's own target, of those that `protect_targets` refuses to others.
    OwnTarget => "own_target",
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

/// Counts by a fixed set of labels.
type ByLabel = BTreeMap<Cow<'static, str>, u64>;

/// What the responder counts, and what it holds. Every page that shows it reads this.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponderStatus {
    pub queries: u64,
    /// By rcode.
    pub replies: ByLabel,
    /// By [`PassReason::label`].
    pub passed_on: ByLabel,
    pub chases: u64,
    /// By [`Failure::label`].
    pub chase_failures: ByLabel,
    pub broken_chains: u64,
    pub targets_without_address: u64,
    pub stale_answers: u64,
    /// Queries for names that exist, left without a reply because the node could not look them up.
    pub unanswered: u64,
    /// Replies with TC=1.
    pub truncated: u64,
    /// Look-ups for published answers that are about to expire.
    pub refreshes: u64,
    /// The same, refused because there were too many.
    pub refreshes_refused: u64,
    pub chases_in_flight: u64,
    /// Entries by store.
    pub stores: ByLabel,
    /// Replies and queries passed on that could not be sent.
    pub send_errors: u64,
    /// By the namespace that a rule captured: replies by [`ReplyKind::label`]. At most [`MAX_NAMESPACES`], and
    /// [`OTHER_NAMESPACES`].
    pub namespaces: BTreeMap<String, ByLabel>,
}

/// The counters of all responders of this process, which follow one another.
#[derive(Debug)]
pub struct Stats(Mutex<ResponderStatus>);

impl Default for Stats {
    /// With every label at 0.
    fn default() -> Stats {
        Stats(Mutex::new(ResponderStatus {
            replies: zeros(["NOERROR", "SERVFAIL", "REFUSED"]),
            passed_on: zeros(PassReason::ALL.iter().map(|reason| reason.label())),
            chase_failures: zeros(Failure::ALL.iter().map(|failure| failure.label())),
            ..ResponderStatus::default()
        }))
    }
}

impl Stats {
    /// To count. A panic while the lock was held leaves numbers behind, which are still right.
    pub(super) fn lock(&self) -> MutexGuard<'_, ResponderStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A query that was to pass could not be sent.
    pub fn not_sent(&self) {
        self.lock().send_errors += 1;
    }

    /// Everything at one moment.
    pub(super) fn status(&self, in_flight: usize, sizes: Sizes) -> ResponderStatus {
        let stores = [
            ("answers", sizes.answers),
            ("other_types", sizes.other_types),
            ("no_target", sizes.no_target),
            ("trouble", sizes.failures),
        ];
        ResponderStatus {
            chases_in_flight: in_flight as u64,
            stores: stores
                .map(|(store, entries)| (store.into(), entries as u64))
                .into(),
            ..self.lock().clone()
        }
    }
}

impl ResponderStatus {
    pub(super) fn passed_on(&mut self, reason: PassReason) {
        add(&mut self.passed_on, reason.label());
    }

    pub(super) fn failed(&mut self, failure: Failure) {
        add(&mut self.chase_failures, failure.label());
    }

    /// Counts a reply, by its rcode and for its namespace. Only a namespace whose target exists gets a line of its own:
    /// until then, the name may be one that a pod made up.
    pub(super) fn replied(&mut self, namespace: Option<&str>, kind: ReplyKind) {
        add(&mut self.replies, kind.rcode());
        let Some(namespace) = namespace else {
            return;
        };
        let namespaces = &mut self.namespaces;
        if let Some(counts) = namespaces.get_mut(namespace) {
            return add(counts, kind.label());
        }
        let may_be_added = namespaces.len() < MAX_NAMESPACES && kind != ReplyKind::Servfail;
        let line = if may_be_added {
            namespace
        } else {
            OTHER_NAMESPACES
        };
        let counts = namespaces
            .entry(line.to_owned())
            .or_insert_with(|| zeros(ReplyKind::ALL.map(ReplyKind::label)));
        add(counts, kind.label());
    }
}

fn zeros(labels: impl IntoIterator<Item = &'static str>) -> ByLabel {
    let labels = labels.into_iter();
    labels.map(|label| (label.into(), 0)).collect()
}

fn add(counts: &mut ByLabel, label: &'static str) {
    match counts.get_mut(label) {
        Some(count) => *count += 1,
        None => {
            counts.insert(label.into(), 1);
        }
    }
}

/// What a reply is, for the counts of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReplyKind {
    Answer,
    Stale,
    Servfail,
    /// It is counted for no namespace.
    Refused,
}

impl ReplyKind {
    const ALL: [ReplyKind; 3] = [ReplyKind::Answer, ReplyKind::Stale, ReplyKind::Servfail];

    /// The name used in metrics.
    const fn label(self) -> &'static str {
        match self {
            ReplyKind::Answer => "answer",
            ReplyKind::Stale => "stale",
            ReplyKind::Servfail => "servfail",
            ReplyKind::Refused => "refused",
        }
    }

    pub(super) const fn rcode(self) -> &'static str {
        match self {
            ReplyKind::Answer | ReplyKind::Stale => "NOERROR",
            ReplyKind::Servfail => "SERVFAIL",
            ReplyKind::Refused => "REFUSED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_namespaces_do_not_fill_the_table() {
        let stats = Stats::default();
        let replied = |namespace: &str, kind| stats.lock().replied(Some(namespace), kind);
        for number in 0..3 * MAX_NAMESPACES {
            replied(&format!("made-up-{number}"), ReplyKind::Servfail);
        }
        replied("foo", ReplyKind::Answer);
        for number in 0..3 * MAX_NAMESPACES {
            replied(&format!("real-{number}"), ReplyKind::Answer);
        }
        replied("foo", ReplyKind::Servfail);
        let namespaces = &stats.lock().namespaces;
        assert!(namespaces.len() <= MAX_NAMESPACES + 1);
        let foo = [("answer", 1), ("servfail", 1), ("stale", 0)];
        assert_eq!(
            namespaces["foo"],
            foo.map(|(kind, count)| (kind.into(), count)).into()
        );
        assert_eq!(
            namespaces[OTHER_NAMESPACES]["servfail"],
            3 * MAX_NAMESPACES as u64
        );
        let answers: u64 = namespaces.values().map(|counts| counts["answer"]).sum();
        assert_eq!(answers, 3 * MAX_NAMESPACES as u64 + 1);
    }
}
