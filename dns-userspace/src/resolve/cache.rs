//! The responder's cache: answers, targets that do not exist, and failures, bounded and fair between interfaces; no I/O, no clock.
//!
//! An answer depends on nothing but the target, the qtype and the upstream, so that is its key: all names that a rule
//! maps to one target share it, and a reload that keeps the target keeps the last good answer. The rule's own TTL is
//! applied when the answer is read. A source whose targets have a further input (the asking client, say) adds it to [`Key`].
//!
//! Answers of types that the kernel program does not keep are kept here only, and few of them: one pod could ask for 65,535
//! types.

mod entry;

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use dns_common::wire::{KEPT_QTYPES, qtype_is_kept};
use hickory_proto::rr::{Name, RecordType};

use super::{
    chain::{Failure, Outcome},
    compose::Section,
};
pub use crate::fair::Limits;
use crate::{fair::FairMap, model::Changes};
pub use entry::CacheEntry;
use entry::{LARGE, Large};

/// How long a target counts as missing, or a failure as lasting, before it is asked for again.
pub const NEGATIVE_LIFETIME: Duration = Duration::from_secs(5);
/// Targets of which answers of other types are kept, in all and of one interface, and how many types of each.
const OTHER_TARGETS: Limits = Limits {
    total: 1024,
    per_interface: 64,
};
const OTHER_TYPES: usize = 16;
/// How long a denial is remembered after it has expired: longer than caches keep what they have of a name, in which time
/// they may deny one family and have the other.
const DENIAL_REMEMBERED: Duration = Duration::from_secs(60);

/// What was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Targets that are names of further rules, in chain order.
    pub via: Vec<Name>,
    pub target: Name,
    pub qtype: RecordType,
    pub upstream: SocketAddr,
}

/// A target without a qtype: a name that does not exist has none.
type Owner = (Vec<Name>, Name, SocketAddr);

impl Key {
    fn owner(&self) -> Owner {
        (self.via.clone(), self.target.clone(), self.upstream)
    }

    /// Every name that may be looked up for it.
    pub fn targets(&self) -> impl Iterator<Item = &Name> {
        self.via.iter().chain([&self.target])
    }

    /// The same target's key for another type.
    pub fn of_type(&self, qtype: u16) -> Key {
        Key {
            qtype: qtype.into(),
            ..self.clone()
        }
    }
}

/// Why there is no answer although the target exists or might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CachedFailure {
    LookUp(Failure),
    /// The end of the chain does not exist.
    BrokenChain,
    /// There is no address of either family.
    NoAddress,
}

/// The result of a look into the cache.
#[derive(Clone, Debug)]
pub enum Cached {
    /// An answer, and how much of its TTL is left.
    Fresh(Arc<CacheEntry>, Duration),
    /// The target does not exist, for this much longer.
    NoTarget(Duration),
    Failure(CachedFailure),
    Miss,
}

/// What the cache has of a name that cannot be looked up.
#[derive(Clone, Debug)]
pub enum Existence {
    /// The last good answer to this question, stale or not.
    Answer(Arc<CacheEntry>),
    /// The name exists: there is an answer to another qtype, or its chain leads nowhere.
    Exists,
    Unknown,
}

/// See the module.
#[derive(Debug)]
pub struct Cache {
    answers: FairMap<Key, Arc<CacheEntry>>,
    /// Of types that the program does not keep, the oldest first.
    others: FairMap<Owner, Vec<(RecordType, Arc<CacheEntry>)>>,
    no_target: FairMap<Owner, Denial>,
    failures: FairMap<Key, (CachedFailure, Instant)>,
    /// Until when targets count as having no address of either family.
    no_address: FairMap<Owner, Instant>,
    /// Bytes of the large answers.
    large: Arc<AtomicUsize>,
}

/// NXDOMAIN for a target.
#[derive(Clone, Copy, Debug)]
struct Denial {
    until: Instant,
    /// When it came in reply to a question for A, and for AAAA.
    of_family: [Option<Instant>; 2],
}

/// The types that a target without an address is broken for.
fn needs_address(qtype: RecordType) -> bool {
    family(qtype).is_some()
}

fn family(qtype: RecordType) -> Option<usize> {
    match qtype {
        RecordType::A => Some(0),
        RecordType::AAAA => Some(1),
        _ => None,
    }
}

/// Number of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub answers: usize,
    /// Targets with answers of types that the program does not keep.
    pub other_types: usize,
    pub no_target: usize,
    pub failures: usize,
}

impl Cache {
    pub fn new(limits: Limits) -> Cache {
        Cache {
            answers: FairMap::new(limits),
            others: FairMap::new(OTHER_TARGETS),
            no_target: FairMap::new(limits),
            failures: FairMap::new(limits),
            no_address: FairMap::new(limits),
            large: Arc::default(),
        }
    }

    /// What there is now. `cap` is the largest TTL of a reply.
    pub fn find(&self, key: &Key, cap: Duration, now: Instant) -> Cached {
        let owner = key.owner();
        if let Some(denial) = self.no_target.get(&owner)
            && now < denial.until
        {
            return Cached::NoTarget(denial.until - now);
        }
        if let Some(entry) = self.answer(key)
            && let Some(left) = entry.fresh_for(cap, now)
        {
            return Cached::Fresh(entry.clone(), left);
        }
        if let Some(&until) = self.no_address.get(&owner)
            && now < until
            && needs_address(key.qtype)
        {
            return Cached::Failure(CachedFailure::NoAddress);
        }
        match self.failures.get(key) {
            Some(&(failure, until)) if now < until => Cached::Failure(failure),
            _ => Cached::Miss,
        }
    }

    /// The last good answer, if it is younger than its TTL and `limit` together.
    pub fn stale(&self, key: &Key, limit: Duration, now: Instant) -> Option<Arc<CacheEntry>> {
        let entry = self.answer(key)?;
        (!entry.stale_for(limit, now).is_zero()).then(|| entry.clone())
    }

    /// What there is of a name that this node fails to look up. `limit` as for [`Cache::stale`].
    pub fn existence(&self, key: &Key, limit: Duration, now: Instant) -> Existence {
        if let Some(entry) = self.stale(key, limit, now) {
            return Existence::Answer(entry);
        }
        let owner = key.owner();
        let lasts = |entry: &Arc<CacheEntry>| !entry.stale_for(limit, now).is_zero();
        let of_type = |qtype: u16| {
            let key = key.of_type(qtype);
            let is_broken = matches!(
                self.failures.get(&key),
                Some((CachedFailure::BrokenChain, until)) if now < *until
            );
            is_broken || self.answer(&key).is_some_and(lasts)
        };
        let exists = KEPT_QTYPES.into_iter().any(of_type)
            || self
                .others
                .get(&owner)
                .is_some_and(|others| others.iter().any(|(_, entry)| lasts(entry)))
            || self
                .no_address
                .get(&owner)
                .is_some_and(|until| now < *until);
        if exists {
            Existence::Exists
        } else {
            Existence::Unknown
        }
    }

    /// Whether the other family of an A or AAAA has an address, or had one a moment ago.
    pub fn has_other_address(&self, key: &Key, now: Instant) -> bool {
        let other = match key.qtype {
            RecordType::A => RecordType::AAAA,
            RecordType::AAAA => RecordType::A,
            _ => return false,
        };
        self.stale(&key.of_type(other.into()), NEGATIVE_LIFETIME, now)
            .is_some_and(|entry| entry.section.has_records())
    }

    /// The type for which the target was denied a short while ago, if an answer to `key` contradicts that: caches may
    /// have one family of a Service that comes or goes and deny the other. Ask again for it before the answer is inserted.
    pub fn contradicts(&self, key: &Key, now: Instant) -> Option<RecordType> {
        let denial = self.no_target.get(&key.owner())?;
        let own = family(key.qtype);
        [RecordType::A, RecordType::AAAA]
            .into_iter()
            .enumerate()
            .find(|(index, _)| {
                Some(*index) != own
                    && denial.of_family[*index].is_some_and(|at| now < at + DENIAL_REMEMBERED)
            })
            .map(|(_, qtype)| qtype)
    }

    /// Inserts the outcome of a look-up, on the account of the interface that asked for it. An answer comes back in the form
    /// that it is served in; `None` for other outcomes, and for an answer that is too long to be served. `rotation` says which
    /// address the first reply begins with.
    pub fn insert(
        &mut self,
        ifindex: u32,
        key: &Key,
        outcome: &Outcome,
        rotation: u8,
        now: Instant,
    ) -> Option<Arc<CacheEntry>> {
        let failure = match outcome {
            Outcome::Answer(answer) => match Section::new(answer) {
                Some(section) => {
                    let entry = CacheEntry::new(section, answer.ttl_seconds, rotation, now);
                    return Some(self.insert_answer(ifindex, key, entry));
                }
                None => CachedFailure::LookUp(Failure::Unusable),
            },
            Outcome::NoTarget => {
                self.insert_denial(ifindex, key, now);
                return None;
            }
            Outcome::BrokenChain => CachedFailure::BrokenChain,
            Outcome::NoAddress(_) => {
                self.insert_no_address(ifindex, key, now);
                CachedFailure::NoAddress
            }
            // Says nothing about the name, and may be over the next moment.
            Outcome::Failed(Failure::Local) => return None,
            Outcome::Failed(failure) => CachedFailure::LookUp(*failure),
        };
        if failure == CachedFailure::BrokenChain {
            // The upstream has said that it is gone: nothing to fall back on. For this type only: there are servers that
            // deny the name for one family and have the other (RFC 4074 §4.2).
            self.remove(key);
        }
        let expires = now + NEGATIVE_LIFETIME;
        self.failures
            .insert(ifindex, key.clone(), (failure, expires));
        None
    }

    fn insert_answer(&mut self, ifindex: u32, key: &Key, mut entry: CacheEntry) -> Arc<CacheEntry> {
        let bytes = entry.section.len();
        self.no_target.remove(&key.owner());
        self.failures.remove(key);
        if needs_address(key.qtype) {
            self.no_address.remove(&key.owner());
        }
        if bytes > LARGE {
            // First, so that its room is there for the new one.
            self.remove(key);
            entry.large = Large::take(bytes, &self.large);
            if entry.large.is_none() {
                return Arc::new(entry);
            }
        }
        let entry = Arc::new(entry);
        self.place(ifindex, key, entry.clone());
        entry
    }

    /// Both families were asked for, so nothing that needs an address is left to fall back on.
    fn insert_no_address(&mut self, ifindex: u32, key: &Key, now: Instant) {
        for key in KEPT_QTYPES.map(|qtype| key.of_type(qtype)) {
            if needs_address(key.qtype) {
                self.answers.remove(&key);
            }
        }
        self.remove(key);
        self.no_address
            .insert(ifindex, key.owner(), now + NEGATIVE_LIFETIME);
    }

    fn insert_denial(&mut self, ifindex: u32, key: &Key, now: Instant) {
        let owner = key.owner();
        // NXDOMAIN is about the name: the answers to other qtypes must not come back once it has expired.
        for key in KEPT_QTYPES.map(|qtype| key.of_type(qtype)) {
            self.failures.remove(&key);
            self.answers.remove(&key);
        }
        self.others.remove(&owner);
        self.no_address.remove(&owner);
        let before = self.no_target.get(&owner);
        let mut of_family = before.map_or([None; 2], |denial| denial.of_family);
        if let Some(index) = family(key.qtype) {
            of_family[index] = Some(now);
        }
        let denial = Denial {
            until: now + NEGATIVE_LIFETIME,
            of_family,
        };
        self.no_target.insert(ifindex, owner, denial);
    }

    /// Removes what is no longer right now that targets have changed.
    pub fn forget(&mut self, changes: &Changes) {
        let is_outdated = |key: &Key, entry: &Arc<CacheEntry>| {
            changes.concern(key.targets()) && entry.is_outdated(key.targets(), key.qtype, changes)
        };
        self.answers.retain(|key, entry| !is_outdated(key, entry));
        self.others.retain(|(via, target, _), answers| {
            let targets = || via.iter().chain([target]);
            !changes.concern(targets())
                || !answers
                    .iter()
                    .any(|(qtype, entry)| entry.is_outdated(targets(), *qtype, changes))
        });
        self.no_target
            .retain(|(via, target, _), _| !changes.contradict_denial(via.iter().chain([target])));
        self.failures
            .retain(|key, _| !changes.concern(key.targets()));
        self.no_address
            .retain(|(via, target, _), _| !changes.concern(via.iter().chain([target])));
    }

    pub fn sizes(&self) -> Sizes {
        Sizes {
            answers: self.answers.len(),
            other_types: self.others.len(),
            no_target: self.no_target.len(),
            failures: self.failures.len() + self.no_address.len(),
        }
    }

    /// Marks the entries of an interface that is gone as ownerless: any interface may push them out.
    pub fn release(&mut self, ifindex: u32) {
        self.answers.release(ifindex);
        self.others.release(ifindex);
        self.no_target.release(ifindex);
        self.failures.release(ifindex);
        self.no_address.release(ifindex);
    }

    fn answer(&self, key: &Key) -> Option<&Arc<CacheEntry>> {
        if qtype_is_kept(key.qtype.into()) {
            return self.answers.get(key);
        }
        let others = self.others.get(&key.owner())?;
        let (_, entry) = others.iter().find(|(qtype, _)| *qtype == key.qtype)?;
        Some(entry)
    }

    fn place(&mut self, ifindex: u32, key: &Key, entry: Arc<CacheEntry>) {
        if qtype_is_kept(key.qtype.into()) {
            self.answers.insert(ifindex, key.clone(), entry);
            return;
        }
        let owner = key.owner();
        let mut others = self.others.get(&owner).cloned().unwrap_or_default();
        others.retain(|(qtype, _)| *qtype != key.qtype);
        if others.len() >= OTHER_TYPES {
            others.remove(0);
        }
        others.push((key.qtype, entry));
        self.others.insert(ifindex, owner, others);
    }

    fn remove(&mut self, key: &Key) {
        if qtype_is_kept(key.qtype.into()) {
            self.answers.remove(key);
        } else if let Some(mut others) = self.others.get(&key.owner()).cloned() {
            others.retain(|(qtype, _)| *qtype != key.qtype);
            self.others.insert(0, key.owner(), others);
        }
    }
}

#[cfg(test)]
mod tests;
