//! How a query ends: an answer, the last good answer, SERVFAIL, silence, or on to the existing cache.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dns_common::wire::{TYPE_A, TYPE_AAAA};

use super::{
    Engine, GRACE,
    event::{Action, AnswerAction, MatchedQuery, Published},
};
use crate::{
    model::Term,
    resolve::{
        cache::{CacheEntry, CachedFailure, Existence, NEGATIVE_LIFETIME},
        chain::Failure,
        compose::ExtendedError,
        stats::PassReason,
    },
};

/// The TTL of an answer that outlived its own (RFC 8767 §4).
const STALE_TTL: Duration = Duration::from_secs(30);

impl<C: Clone> Engine<C> {
    /// Answers and publishes what is fresh for `left`.
    pub(super) fn answer(
        &mut self,
        query: MatchedQuery<C>,
        entry: &Arc<CacheEntry>,
        left: Duration,
        now: Instant,
        actions: &mut Vec<Action<C>>,
    ) {
        let term = Term {
            fresh: left,
            grace: GRACE,
            fixed_ttl: None,
            unattended: entry.stale_for(self.options.serve_stale, now),
        };
        reply(query, entry, left, term, false, actions);
    }

    /// Answers and publishes what has expired.
    fn answer_stale(
        &mut self,
        query: MatchedQuery<C>,
        entry: &Arc<CacheEntry>,
        now: Instant,
        actions: &mut Vec<Action<C>>,
    ) {
        self.stats.lock().stale_answers += 1;
        let ttl = STALE_TTL.min(query.ttl_cap);
        let left = entry.stale_for(self.options.serve_stale, now);
        let fresh = left.min(NEGATIVE_LIFETIME);
        let term = Term {
            fresh,
            grace: GRACE.min(left - fresh),
            fixed_ttl: Some(seconds(ttl)),
            unattended: left,
        };
        reply(query, entry, ttl, term, true, actions);
    }

    /// The target does not exist: the existing cache answers, now and until that expires.
    pub(super) fn no_target(
        &mut self,
        query: MatchedQuery<C>,
        left: Duration,
        actions: &mut Vec<Action<C>>,
    ) {
        if let Some(publish) = query.publish {
            actions.push(Action::PublishNoTarget {
                client: query.client.clone(),
                ifindex: query.ifindex,
                key: publish.key,
                left,
            });
        }
        pass_on(query, PassReason::NoTarget, actions);
    }

    /// The upstream failed or contradicts itself: the last good answer, else SERVFAIL.
    pub(super) fn without_answer(
        &mut self,
        query: MatchedQuery<C>,
        failure: CachedFailure,
        now: Instant,
        actions: &mut Vec<Action<C>>,
    ) {
        let serve_stale = self.options.serve_stale;
        let stale = match failure {
            CachedFailure::LookUp(_) => self
                .cache
                .stale(&query.key, serve_stale, now)
                .or_else(|| query.published.stale(serve_stale, now)),
            CachedFailure::BrokenChain | CachedFailure::NoAddress => None,
        };
        if let Some(entry) = stale {
            return self.answer_stale(query, &entry, now, actions);
        }
        if let Some(key) = query.entry() {
            let mut withdraw = |key| {
                let client = query.client.clone();
                actions.push(Action::Withdraw { client, key });
            };
            withdraw(key);
            if failure == CachedFailure::NoAddress {
                // For neither family.
                for qtype in [TYPE_A, TYPE_AAAA] {
                    withdraw(key.with_qtype(qtype));
                }
            }
        }
        if !query.is_answered {
            actions.push(Action::ServFail {
                client: query.client,
                query: query.query,
                namespace: query.namespace,
                error: extended_error(failure),
            });
        }
    }

    /// This node did not look the name up, which says nothing about the name (SEMANTICS rule 13): the last good answer; the
    /// existing cache if nothing is known; and no reply if the name exists, since the cache would deny it.
    pub(super) fn without_look_up(
        &mut self,
        query: MatchedQuery<C>,
        reason: PassReason,
        now: Instant,
        actions: &mut Vec<Action<C>>,
    ) {
        let serve_stale = self.options.serve_stale;
        let existence = match self.cache.existence(&query.key, serve_stale, now) {
            Existence::Answer(entry) => Existence::Answer(entry),
            other => match query.published.stale(serve_stale, now) {
                Some(entry) => Existence::Answer(entry),
                None if query.published.exists => Existence::Exists,
                None => other,
            },
        };
        match existence {
            Existence::Answer(entry) => self.answer_stale(query, &entry, now, actions),
            Existence::Exists if query.is_answered => {}
            Existence::Exists => actions.push(Action::NoReply {
                client: query.client,
                reason,
            }),
            Existence::Unknown => pass_on(query, reason, actions),
        }
    }
}

impl Published {
    /// The last good answer, as [`Cache::stale`](crate::resolve::cache::Cache::stale).
    fn stale(&self, limit: Duration, now: Instant) -> Option<Arc<CacheEntry>> {
        let entry = self.answer.as_ref()?;
        (!entry.stale_for(limit, now).is_zero()).then(|| Arc::clone(entry))
    }
}

/// Publishes an entry, and sends it as an answer unless the program has done so.
fn reply<C: Clone>(
    query: MatchedQuery<C>,
    entry: &Arc<CacheEntry>,
    ttl: Duration,
    term: Term,
    is_stale: bool,
    actions: &mut Vec<Action<C>>,
) {
    if let Some(key) = query.entry() {
        let client = query.client.clone();
        actions.push(match &entry.body {
            Some(_) => Action::Publish {
                client,
                ifindex: query.ifindex,
                key,
                entry: entry.clone(),
                term,
            },
            None => Action::Withdraw { client, key },
        });
    }
    if !query.is_answered {
        actions.push(Action::Answer(AnswerAction {
            client: query.client,
            query: query.query,
            namespace: query.namespace,
            entry: entry.clone(),
            ttl_seconds: seconds(ttl),
            rotation: entry.next_rotation(),
            is_stale,
        }));
    }
}

/// Passes a query on, unless the program has answered it.
fn pass_on<C>(query: MatchedQuery<C>, reason: PassReason, actions: &mut Vec<Action<C>>) {
    if !query.is_answered {
        actions.push(Action::PassOn {
            client: query.client,
            reason,
        });
    }
}

/// Rounded up: what is left of a second counts as one.
fn seconds(ttl: Duration) -> u32 {
    (ttl.as_millis().div_ceil(1000) as u32).max(1)
}

/// RFC 8914 §4 and the codes registered there.
fn extended_error(failure: CachedFailure) -> ExtendedError {
    let (code, text) = match failure {
        CachedFailure::BrokenChain => (0, "the end of the target's CNAME chain does not exist"),
        CachedFailure::NoAddress => (0, "the target has no address of either family"),
        CachedFailure::LookUp(failure) => match failure {
            Failure::Timeout => (22, "no reply for the target"),
            Failure::Network => (23, "upstream unreachable"),
            Failure::Tcp => (
                23,
                "the reply for the target needs TCP, which the upstream does not answer",
            ),
            Failure::Rcode => (0, "upstream failed for the target"),
            Failure::Loop => (0, "the target's CNAME chain is a loop"),
            Failure::TooLong => (0, "the target's CNAME chain is too long"),
            Failure::Unusable => (0, "no usable reply"),
            Failure::Local => (0, "not looked up"),
        },
    };
    ExtendedError { code, text }
}
