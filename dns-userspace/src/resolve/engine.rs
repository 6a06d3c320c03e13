//! The resolver's state machine: takes events, returns actions; no I/O, no clock, no randomness but its seed.
//!
//! It answers from the cache, lets queries wait for one look-up per key, bounds look-ups, and decides what to do when there is
//! no answer. Sockets, timers, tables and the monitor are where its actions are performed.

mod conclude;
mod event;
mod look_up;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use dns_common::wire::qtype_is_kept;
use hickory_proto::rr::Name;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tracing::debug;

pub use event::{Action, AnswerAction, Event, MatchedQuery, PublishKey, Published};
pub use look_up::LookUp;

use self::look_up::Step;
use super::{
    cache::{Cache, Cached, CachedFailure, Key, Limits, NEGATIVE_LIFETIME, Sizes},
    chain::{Failure, Outcome},
    chase::looks_like_address,
    in_flight::{InFlight, Joined, MAX_CHASES},
    limiter::Limiter,
    options::ResponderOptions,
    stats::{PassReason, Stats},
};
use crate::model::{Changes, TargetState};

/// Look-ups of one interface for types that the program does not keep.
pub const OTHER_TYPES_PER_SECOND: u32 = 20;
/// How long the program serves an expired answer while it is refreshed: longer than an upstream has to answer, unless it is
/// configured to have more.
pub const GRACE: Duration = Duration::from_secs(3);
/// Refreshes start within this time, so that answers that came together are not always refreshed together.
const SPREAD: Duration = Duration::from_millis(1000);
/// Refreshes that are delayed at one time. The answer of one that is refused expires, and is looked up with the next query.
const MAX_DELAYED: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Engine<C> {
    options: ResponderOptions,
    cache: Cache,
    in_flight: InFlight<MatchedQuery<C>>,
    other_types: Limiter,
    /// Refreshes that are delayed.
    delayed: usize,
    epoch: u64,
    rng: StdRng,
    stats: Arc<Stats>,
}

impl<C: Clone> Engine<C> {
    /// `seed` decides about delays and about which address comes first.
    pub fn new(options: ResponderOptions, stats: Arc<Stats>, seed: u64, now: Instant) -> Engine<C> {
        Engine {
            cache: Cache::new(Limits {
                total: options.max_answers,
                per_interface: options.answers_per_interface,
            }),
            in_flight: InFlight::new(options.chases_per_interface, MAX_CHASES),
            other_types: Limiter::new(now, OTHER_TYPES_PER_SECOND, OTHER_TYPES_PER_SECOND),
            delayed: 0,
            epoch: 0,
            rng: StdRng::seed_from_u64(seed),
            stats,
            options,
        }
    }

    /// Handles an event at `now`; returns the actions to perform.
    pub fn handle(&mut self, event: Event<C>, now: Instant) -> Vec<Action<C>> {
        let mut actions = Vec::new();
        match event {
            Event::Query(query) => self.query(query, now, &mut actions),
            Event::Refresh(query) => self.refresh(query, &mut actions),
            Event::RefreshDue(query) => {
                self.delayed = self.delayed.saturating_sub(1);
                self.query(query, now, &mut actions);
            }
            Event::LookedUp(look_up, outcome) => {
                self.looked_up(look_up, outcome, now, &mut actions);
            }
            Event::Abandoned(look_up) => {
                for query in self.in_flight.finish(&look_up.key) {
                    self.without_look_up(query, PassReason::Abandoned, now, &mut actions);
                }
            }
            Event::InterfaceGone(ifindex) => {
                self.cache.release(ifindex);
                self.other_types.release(ifindex);
            }
            Event::Changed(changes) => self.changed(&changes),
        }
        actions
    }

    /// Forgets what is no longer right. Look-ups in flight have asked for what the targets were before.
    fn changed(&mut self, changes: &Changes) {
        self.epoch += 1;
        self.cache.forget(changes);
        self.in_flight.outdate(
            |key| changes.concern(key.targets()),
            |query| query.published = Published::default(),
        );
    }

    /// How often targets have changed. Answers of an earlier epoch must not be published any more.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Look-ups in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Entries of the cache.
    pub fn cached(&self) -> Sizes {
        self.cache.sizes()
    }

    /// Schedules a look-up that refreshes an answer of the program.
    fn refresh(&mut self, query: MatchedQuery<C>, actions: &mut Vec<Action<C>>) {
        if self.delayed >= MAX_DELAYED {
            self.stats.lock().refreshes_refused += 1;
            return;
        }
        self.stats.lock().refreshes += 1;
        self.delayed += 1;
        let delay = SPREAD.mul_f64(self.rng.random());
        actions.push(Action::Delay(delay, Box::new(query)));
    }

    fn query(&mut self, query: MatchedQuery<C>, now: Instant, actions: &mut Vec<Action<C>>) {
        match self.cache.find(&query.key, query.ttl_cap, now) {
            Cached::Fresh(entry, left) => self.answer(query, &entry, left, now, actions),
            Cached::NoTarget(left) => self.no_target(query, left, actions),
            Cached::Failure(failure) => self.without_answer(query, failure, now, actions),
            Cached::Miss => self.wait(query, now, actions),
        }
    }

    /// Lets a query wait for the look-up of its key, and starts that if there is none. Look-ups are limited, answers are not.
    fn wait(&mut self, query: MatchedQuery<C>, now: Instant, actions: &mut Vec<Action<C>>) {
        let (ifindex, key, may_look_up) = (query.ifindex, query.key.clone(), query.may_look_up);
        let may_start = || {
            may_look_up && (qtype_is_kept(key.qtype.into()) || self.other_types.admit(ifindex, now))
        };
        match self.in_flight.join(ifindex, &key, query, may_start) {
            Joined::Waits => {}
            Joined::Refused(query) => {
                self.without_look_up(query, PassReason::RateLimited, now, actions);
            }
            Joined::Full(query) if query.is_answered => self.stats.lock().refreshes_refused += 1,
            Joined::Full(query) => self.without_look_up(query, PassReason::Busy, now, actions),
            Joined::Started => {
                self.stats.lock().chases += 1;
                let has_address = self.cache.has_other_address(&key, now);
                actions.push(Action::LookUp(LookUp::new(key, ifindex, has_address)));
            }
        }
    }

    fn looked_up(
        &mut self,
        look_up: LookUp,
        outcome: Outcome,
        now: Instant,
        actions: &mut Vec<Action<C>>,
    ) {
        if self.in_flight.take_outdated(&look_up.key) {
            self.stats.lock().chases += 1;
            let (key, ifindex) = (look_up.key, look_up.ifindex);
            let has_address = self.cache.has_other_address(&key, now);
            return actions.push(Action::LookUp(LookUp::new(key, ifindex, has_address)));
        }
        match look_up.take(outcome) {
            Step::Ask(look_up) => actions.push(Action::LookUp(look_up)),
            Step::Confirmed(look_up, outcome) => self.finish(&look_up, &outcome, now, actions),
            Step::Found(look_up, outcome) => {
                if matches!(outcome, Outcome::Answer(_))
                    && let Some(denied) = self.cache.contradicts(&look_up.key, now)
                {
                    self.stats.lock().chases += 1;
                    let key = look_up.key.of_type(denied.into());
                    let has_address = self.cache.has_other_address(&key, now);
                    let look_up = look_up.confirm(denied, has_address, outcome);
                    return actions.push(Action::LookUp(look_up));
                }
                self.finish(&look_up, &outcome, now, actions);
            }
        }
    }

    /// Caches the outcome of a look-up, and answers all queries that waited for it.
    fn finish(
        &mut self,
        look_up: &LookUp,
        outcome: &Outcome,
        now: Instant,
        actions: &mut Vec<Action<C>>,
    ) {
        let key = &look_up.key;
        let rotation = self.rng.random();
        let entry = self
            .cache
            .insert(look_up.ifindex, key, outcome, rotation, now);
        let mut waiting = self.in_flight.finish(key);
        publish_once(&mut waiting);
        let namespace = waiting.first().and_then(|query| query.namespace.clone());
        self.count(key, outcome, namespace, actions);
        if let Some((target, state)) = state_of(look_up, outcome) {
            actions.push(Action::Report(target.clone(), state));
        }
        for query in waiting {
            match (&entry, outcome) {
                (Some(entry), _) => {
                    let left = entry.fresh_for(query.ttl_cap, now).unwrap_or_default();
                    self.answer(query, entry, left, now, actions);
                }
                (None, Outcome::NoTarget) => self.no_target(query, NEGATIVE_LIFETIME, actions),
                (None, Outcome::BrokenChain) => {
                    self.without_answer(query, CachedFailure::BrokenChain, now, actions);
                }
                (None, Outcome::NoAddress(_)) => {
                    self.without_answer(query, CachedFailure::NoAddress, now, actions);
                }
                (None, Outcome::Failed(Failure::Local)) => {
                    self.without_look_up(query, PassReason::LocalFailure, now, actions);
                }
                (None, Outcome::Failed(failure)) => {
                    self.without_answer(query, CachedFailure::LookUp(*failure), now, actions);
                }
                (None, Outcome::Answer(_)) => {
                    let failure = CachedFailure::LookUp(Failure::Unusable);
                    self.without_answer(query, failure, now, actions);
                }
            }
        }
    }

    /// Counts the outcome of a look-up, and warns of a target that its tenant has to correct.
    fn count(
        &self,
        key: &Key,
        outcome: &Outcome,
        namespace: Option<String>,
        actions: &mut Vec<Action<C>>,
    ) {
        let text = match outcome {
            Outcome::Failed(failure) => {
                self.stats.lock().failed(*failure);
                debug!(target = %key.target, qtype = %key.qtype, failure = failure.label(), "look-up failed");
                return;
            }
            Outcome::Answer(_) | Outcome::NoTarget => return,
            Outcome::BrokenChain => {
                self.stats.lock().broken_chains += 1;
                "a tenant's target exists, but the name at the end of its CNAME chain does not"
            }
            Outcome::NoAddress(end) => {
                self.stats.lock().targets_without_address += 1;
                if looks_like_address(end) {
                    "a tenant's target is an IP address in the place of a name: an externalName must be a name"
                } else {
                    "a tenant's target exists, but has no address of either family"
                }
            }
        };
        debug!(target = %key.target, qtype = %key.qtype, "{text}");
        actions.push(Action::Warn {
            namespace,
            qtype: key.qtype.into(),
            text,
        });
    }
}

/// What an outcome says of the target that it came from.
fn state_of<'l>(look_up: &'l LookUp, outcome: &Outcome) -> Option<(&'l Name, TargetState)> {
    match outcome {
        // Of several targets, the last one that the answer leads over.
        Outcome::Answer(answer) => {
            let targets = look_up.key.targets();
            let target = targets
                .filter(|target| answer.names.contains(target))
                .last()?;
            Some((target, TargetState::Resolves))
        }
        Outcome::BrokenChain => Some((look_up.name(), TargetState::Broken)),
        Outcome::NoAddress(end) if looks_like_address(end) => {
            Some((look_up.name(), TargetState::IsAddress))
        }
        Outcome::NoAddress(_) => Some((look_up.name(), TargetState::NoAddress)),
        Outcome::NoTarget | Outcome::Failed(_) => None,
    }
}

/// Leaves each entry of a table to the first query that publishes it: all of them would write the same.
fn publish_once<C>(waiting: &mut [MatchedQuery<C>]) {
    let mut entries = HashSet::new();
    for query in waiting {
        query.publish.take_if(|publish| !entries.insert(*publish));
    }
}
