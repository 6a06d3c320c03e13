//! What is known about targets: answers, targets that do not exist, failures. Bounded, and fair between interfaces.
//!
//! An answer depends on nothing but the target, the qtype and the upstream, so that is its key: all names that a rule
//! maps to one target share it, and a reload that keeps the target keeps the last good answer. The rule's own TTL is
//! applied when the answer is read. Whoever gives targets a further input (the asking client, say) adds it to [`Key`].

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dns_common::{answer::Body, wire::KEPT_QTYPES};
use hickory_proto::rr::{Name, RecordType};

use super::{
    chain::{Failure, Outcome},
    compose::Section,
};
use crate::fair::FairMap;
pub use crate::fair::Limits;

/// How long a target counts as missing, or a failure as lasting, before it is asked for again.
pub const NEGATIVE_LIFETIME: Duration = Duration::from_secs(5);
/// Sections longer than this share [`LARGE_TOTAL`]; no datagram carries one.
const LARGE: usize = 4096;
/// Bytes of all large sections that are kept. An answer that finds no room is looked up each time.
const LARGE_TOTAL: usize = 8 << 20;

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
    /// What a program can answer with.
    pub body: Option<Body>,
    ttl: Duration,
    at: Instant,
    rotation: AtomicUsize,
    /// Its part of what all large answers may occupy.
    large: Option<Large>,
}

/// Bytes taken from [`LARGE_TOTAL`], given back when dropped.
#[derive(Debug)]
struct Large {
    bytes: usize,
    taken: Arc<AtomicUsize>,
}

impl Large {
    fn take(bytes: usize, taken: &Arc<AtomicUsize>) -> Option<Large> {
        let large = Large {
            bytes,
            taken: Arc::clone(taken),
        };
        let before = taken.fetch_add(bytes, Ordering::Relaxed);
        (before + bytes <= LARGE_TOTAL).then_some(large)
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        self.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Kept {
    pub fn new(section: Section, ttl_seconds: u32, at: Instant) -> Kept {
        Kept {
            body: section.body(),
            section,
            // A TTL of 0 would make every query a chase of its own.
            ttl: Duration::from_secs(ttl_seconds.max(1).into()),
            at,
            // Else the first answer of every refresh would lead with the same address.
            rotation: AtomicUsize::new(usize::from(rand::random::<u8>())),
            large: None,
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

    /// How long it may still stand in for an upstream that fails.
    pub fn stale_for(&self, limit: Duration, now: Instant) -> Duration {
        (self.ttl + limit).saturating_sub(now.saturating_duration_since(self.at))
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
    /// For this much longer.
    NoTarget(Duration),
    Trouble(Trouble),
    Nothing,
}

/// What is known of a name that cannot be looked up.
#[derive(Clone, Debug)]
pub enum Known {
    /// The last good answer to this question, stale or not.
    Answer(Arc<Kept>),
    /// The name exists: there is an answer to another qtype.
    Exists,
    Nothing,
}

/// See the module.
#[derive(Debug)]
pub struct Store {
    inner: Mutex<Inner>,
    large: Arc<AtomicUsize>,
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
            large: Arc::default(),
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
        if let Some(&until) = inner.no_target.get(&owner)
            && now < until
        {
            return Found::NoTarget(until - now);
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
        (!kept.stale_for(limit, now).is_zero()).then(|| kept.clone())
    }

    /// What is known of a name when this node fails to look it up. `limit` as for [`Store::stale`].
    pub fn known(&self, key: &Key, limit: Duration, now: Instant) -> Known {
        if let Some(kept) = self.stale(key, limit, now) {
            return Known::Answer(kept);
        }
        let of_type = |qtype: u16| Key {
            qtype: qtype.into(),
            ..key.clone()
        };
        let exists = KEPT_QTYPES
            .iter()
            .any(|qtype| self.stale(&of_type(*qtype), limit, now).is_some());
        if exists {
            Known::Exists
        } else {
            Known::Nothing
        }
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
                    let bytes = section.len();
                    let mut kept = Kept::new(section, answer.ttl_seconds, now);
                    let mut inner = self.lock();
                    inner.no_target.remove(&owner());
                    inner.trouble.remove(key);
                    if bytes > LARGE {
                        // First, so that its room is there for the new one.
                        inner.answers.remove(key);
                        kept.large = Large::take(bytes, &self.large);
                        if kept.large.is_none() {
                            return Some(Arc::new(kept));
                        }
                    }
                    let kept = Arc::new(kept);
                    inner.answers.insert(ifindex, key.clone(), kept.clone());
                    return Some(kept);
                }
                None => Trouble::Failed(Failure::Unusable),
            },
            Outcome::NoTarget => {
                let mut inner = self.lock();
                // NXDOMAIN is about the name: the answers to other qtypes must not come back once it is forgotten.
                for qtype in KEPT_QTYPES {
                    let key = Key {
                        qtype: qtype.into(),
                        ..key.clone()
                    };
                    inner.trouble.remove(&key);
                    inner.answers.remove(&key);
                }
                inner.no_target.insert(ifindex, owner(), until);
                return None;
            }
            Outcome::BrokenChain => Trouble::BrokenChain,
            // Says nothing about the name, and may be over the next moment.
            Outcome::Failed(Failure::Local) => return None,
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

#[cfg(test)]
mod tests;
