//! What is known about targets: answers, targets that do not exist, failures. Bounded, and fair between interfaces.
//!
//! An answer depends on nothing but the target, the qtype and the upstream, so that is its key: all names that a rule
//! maps to one target share it, and a reload that keeps the target keeps the last good answer. The rule's own TTL is
//! applied when the answer is read. Whoever gives targets a further input (the asking client, say) adds it to [`Key`].

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use hickory_proto::rr::{Name, RecordType};

use super::{
    chain::{Failure, Outcome},
    compose::Section,
};

/// How long a target counts as missing, or a failure as lasting, before it is asked for again.
pub const NEGATIVE_LIFETIME: Duration = Duration::from_secs(5);
/// The interface of entries whose own is gone: anybody may push them out.
const NOBODY: u32 = 0;

/// What was looked up.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    pub target: Name,
    pub qtype: RecordType,
    pub upstream: SocketAddr,
}

/// A target without a qtype: a name that does not exist has none.
type Owner = (Name, SocketAddr);

/// A kept answer.
#[derive(Debug)]
pub struct Kept {
    pub section: Section,
    ttl: Duration,
    at: Instant,
    rotation: AtomicUsize,
}

impl Kept {
    pub fn new(section: Section, ttl_seconds: u32, at: Instant) -> Kept {
        Kept {
            section,
            // A TTL of 0 would make every query a chase of its own.
            ttl: Duration::from_secs(ttl_seconds.max(1).into()),
            at,
            // Else the first answer of every refresh would lead with the same address.
            rotation: AtomicUsize::new(usize::from(rand::random::<u8>())),
        }
    }

    /// How often it was given, from a random start.
    pub fn next_rotation(&self) -> usize {
        self.rotation.fetch_add(1, Ordering::Relaxed)
    }

    /// What is left of its TTL when `cap` is the most that a client is told; `None` once it is not fresh.
    pub fn fresh_for(&self, cap: Duration, now: Instant) -> Option<Duration> {
        let left = self
            .ttl
            .min(cap)
            .checked_sub(now.saturating_duration_since(self.at))?;
        (!left.is_zero()).then_some(left)
    }

    /// Whether it may still stand in for an upstream that fails.
    fn serves_stale(&self, limit: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.at) < self.ttl + limit
    }
}

/// Why there is no answer although the target exists or might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    Failed(Failure),
    BrokenChain,
}

/// What a look at the store shows.
#[derive(Clone, Debug)]
pub enum Found {
    Fresh(Arc<Kept>, Duration),
    NoTarget,
    Trouble(Trouble),
    Nothing,
}

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub total: usize,
    pub per_interface: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    answers: FairMap<Key, Arc<Kept>>,
    no_target: FairMap<Owner, Instant>,
    trouble: FairMap<Key, (Trouble, Instant)>,
}

/// Number of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub answers: usize,
    pub no_target: usize,
    pub trouble: usize,
}

impl Store {
    pub fn new(limits: Limits) -> Store {
        Store {
            inner: Mutex::new(Inner {
                answers: FairMap::new(limits),
                no_target: FairMap::new(limits),
                trouble: FairMap::new(limits),
            }),
        }
    }

    /// A panic elsewhere leaves the maps whole: each change to them is complete before anything that could panic.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known now. `cap` is the most that a client is told.
    pub fn find(&self, key: &Key, cap: Duration, now: Instant) -> Found {
        let inner = self.lock();
        let owner = (key.target.clone(), key.upstream);
        if inner
            .no_target
            .get(&owner)
            .is_some_and(|&until| now < until)
        {
            return Found::NoTarget;
        }
        if let Some(kept) = inner.answers.get(key)
            && let Some(left) = kept.fresh_for(cap, now)
        {
            return Found::Fresh(kept.clone(), left);
        }
        match inner.trouble.get(key) {
            Some(&(trouble, until)) if now < until => Found::Trouble(trouble),
            _ => Found::Nothing,
        }
    }

    /// The last good answer, if it is younger than its TTL and `limit` together.
    pub fn stale(&self, key: &Key, limit: Duration, now: Instant) -> Option<Arc<Kept>> {
        let inner = self.lock();
        let kept = inner.answers.get(key)?;
        kept.serves_stale(limit, now).then(|| kept.clone())
    }

    /// Remembers what a chase showed, on the account of the interface that asked for it. The answer comes back in the
    /// form that it is served in; `None` when the outcome is none, or too long to be served.
    pub fn keep(
        &self,
        ifindex: u32,
        key: &Key,
        outcome: &Outcome,
        now: Instant,
    ) -> Option<Arc<Kept>> {
        let until = now + NEGATIVE_LIFETIME;
        let owner = || (key.target.clone(), key.upstream);
        let trouble = match outcome {
            Outcome::Answer(answer) => match Section::new(answer) {
                Some(section) => {
                    let kept = Arc::new(Kept::new(section, answer.ttl_seconds, now));
                    let mut inner = self.lock();
                    inner.no_target.remove(&owner());
                    inner.trouble.remove(key);
                    inner.answers.insert(ifindex, key.clone(), kept.clone());
                    return Some(kept);
                }
                None => Trouble::Failed(Failure::Unusable),
            },
            Outcome::NoTarget => {
                let mut inner = self.lock();
                inner.trouble.remove(key);
                inner.answers.remove(key);
                inner.no_target.insert(ifindex, owner(), until);
                return None;
            }
            Outcome::BrokenChain => Trouble::BrokenChain,
            Outcome::Failed(failure) => Trouble::Failed(*failure),
        };
        let mut inner = self.lock();
        if trouble == Trouble::BrokenChain {
            // The upstream has said that it is gone: nothing to fall back on.
            inner.answers.remove(key);
        }
        inner.trouble.insert(ifindex, key.clone(), (trouble, until));
        None
    }

    pub fn sizes(&self) -> Sizes {
        let inner = self.lock();
        Sizes {
            answers: inner.answers.len(),
            no_target: inner.no_target.len(),
            trouble: inner.trouble.len(),
        }
    }

    /// Gives the entries of an interface that is gone to nobody.
    pub fn release(&self, ifindex: u32) {
        let mut inner = self.lock();
        inner.answers.release(ifindex);
        inner.no_target.release(ifindex);
        inner.trouble.release(ifindex);
    }
}

/// A map with room for each interface, in which an interface can push out only entries of its own.
///
/// Entries leave in the order in which they were last written. An answer in use is written again at each refresh, so
/// that is near enough to least recently used, and reading writes nothing.
#[derive(Debug)]
struct FairMap<K, V> {
    limits: Limits,
    slots: HashMap<K, Slot<V>>,
    /// The keys of each interface, oldest write first.
    queues: HashMap<u32, BTreeMap<u64, K>>,
    writes: u64,
}

#[derive(Debug)]
struct Slot<V> {
    value: V,
    ifindex: u32,
    write: u64,
}

impl<K: Clone + Eq + Hash, V> FairMap<K, V> {
    fn new(limits: Limits) -> Self {
        FairMap {
            limits,
            slots: HashMap::new(),
            queues: HashMap::new(),
            writes: 0,
        }
    }

    fn len(&self) -> usize {
        self.slots.len()
    }

    fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(key).map(|slot| &slot.value)
    }

    /// Writes an entry. One that is there stays on the account of who asked first; a new one may find no room, when
    /// others fill the map within their share and this interface has nothing to give up.
    fn insert(&mut self, ifindex: u32, key: K, value: V) -> bool {
        let ifindex = match self.remove(&key) {
            Some(slot) if slot.ifindex != NOBODY => slot.ifindex,
            _ => ifindex,
        };
        if self.count(ifindex) >= self.limits.per_interface {
            self.pop_oldest(ifindex);
        }
        if self.slots.len() >= self.limits.total
            && !self.pop_oldest(NOBODY)
            && !self.pop_oldest(ifindex)
        {
            return false;
        }
        self.writes += 1;
        let write = self.writes;
        self.queues
            .entry(ifindex)
            .or_default()
            .insert(write, key.clone());
        let slot = Slot {
            value,
            ifindex,
            write,
        };
        self.slots.insert(key, slot);
        true
    }

    fn remove(&mut self, key: &K) -> Option<Slot<V>> {
        let slot = self.slots.remove(key)?;
        if let Some(queue) = self.queues.get_mut(&slot.ifindex) {
            queue.remove(&slot.write);
            if queue.is_empty() {
                self.queues.remove(&slot.ifindex);
            }
        }
        Some(slot)
    }

    fn count(&self, ifindex: u32) -> usize {
        self.queues.get(&ifindex).map_or(0, BTreeMap::len)
    }

    fn pop_oldest(&mut self, ifindex: u32) -> bool {
        let oldest = self
            .queues
            .get(&ifindex)
            .and_then(BTreeMap::first_key_value);
        let Some(key) = oldest.map(|(_, key)| key.clone()) else {
            return false;
        };
        self.remove(&key).is_some()
    }

    fn release(&mut self, ifindex: u32) {
        let Some(queue) = self.queues.remove(&ifindex) else {
            return;
        };
        for key in queue.values() {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.ifindex = NOBODY;
            }
        }
        self.queues.entry(NOBODY).or_default().extend(queue);
    }
}

#[cfg(test)]
mod tests;
