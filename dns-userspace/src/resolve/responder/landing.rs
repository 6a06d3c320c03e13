//! A look-up under way, and what is counted and logged of its end.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use hickory_proto::rr::{Name, RecordType};
use tracing::{debug, warn};

use super::{Responder, waiting::Waiting};
use crate::{
    inject::Inject,
    resolve::{
        chain::{Failure, Outcome},
        chase::looks_like_address,
        source::TargetSource,
        store::Key,
    },
};

/// A look-up in flight. Dropping it answers all queries that wait, so that none waits for ever.
pub(super) struct Landing<S: TargetSource, I: Inject> {
    pub(super) responder: Arc<Responder<S, I>>,
    pub(super) key: Key,
    pub(super) ifindex: u32,
    pub(super) outcome: Option<Outcome>,
}

impl<S: TargetSource, I: Inject> Landing<S, I> {
    pub(super) async fn fly(mut self) {
        let responder = &self.responder;
        let mut outcome = self.look_up(self.key.qtype).await;
        if matches!(outcome, Outcome::Answer(_))
            && let Some(denied) = responder.store.contradicts(&self.key, (responder.clock)())
        {
            responder.stats.chases.add();
            // The upstream has one family and denies the other: the name comes or goes, and both count as not there, or
            // a resolver that asks for both would see NXDOMAIN beside an answer.
            if self.look_up(denied).await == Outcome::NoTarget {
                outcome = Outcome::NoTarget;
            }
        }
        self.outcome = Some(outcome);
    }

    /// Looks up the last target; where that does not exist, the ones before it, which may be more than names of rules.
    async fn look_up(&self, qtype: RecordType) -> Outcome {
        let Key {
            target,
            via,
            upstream,
            ..
        } = &self.key;
        let responder = &self.responder;
        let has_address = responder
            .store
            .has_other_address(&self.key.of_type(qtype.into()), (responder.clock)());
        for index in (0..=via.len()).rev() {
            let name = via.get(index).unwrap_or(target);
            let source = &responder.source;
            match source.look_up(name, qtype, *upstream, has_address).await {
                Outcome::NoTarget => {}
                outcome => return with_prefix(&via[..index], outcome),
            }
        }
        Outcome::NoTarget
    }
}

/// Puts the targets that led to an answer in front of its chain.
fn with_prefix(via: &[Name], outcome: Outcome) -> Outcome {
    let Outcome::Answer(mut answer) = outcome else {
        return outcome;
    };
    if via.iter().any(|name| answer.names.contains(name)) {
        return Outcome::Failed(Failure::Loop);
    }
    answer.names.splice(0..0, via.iter().cloned());
    Outcome::Answer(answer)
}

impl<S: TargetSource, I: Inject> Drop for Landing<S, I> {
    fn drop(&mut self) {
        self.responder
            .land(self.ifindex, &self.key, self.outcome.take());
    }
}

impl<S: TargetSource, I: Inject> Responder<S, I> {
    pub(super) fn count(
        &self,
        key: &Key,
        outcome: &Outcome,
        first: Option<&Waiting>,
        now: Instant,
    ) {
        let why = match outcome {
            Outcome::Failed(failure) => {
                self.stats.failed(*failure);
                debug!(target = %key.target, qtype = %key.qtype, failure = failure.label(), "look-up failed");
                return;
            }
            Outcome::Answer(_) | Outcome::NoTarget => return,
            Outcome::BrokenChain => {
                self.stats.broken_chains.add();
                "a tenant's target exists, but the name at the end of its CNAME chain does not"
            }
            Outcome::NoAddress(end) => {
                self.stats.no_address.add();
                if looks_like_address(end) {
                    "a tenant's target is an IP address in the place of a name: an externalName must be a name"
                } else {
                    "a tenant's target exists, but has no address of either family"
                }
            }
        };
        debug!(target = %key.target, qtype = %key.qtype, "{why}");
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.admit(0, now) {
            let namespace = first.and_then(|waiting| waiting.namespace.as_deref());
            warn!(
                namespace = namespace.unwrap_or("none"),
                qtype = %key.qtype,
                "{why}"
            );
        }
    }
}
