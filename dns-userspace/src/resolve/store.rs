//! What is known about targets: answers, targets that do not exist, failures. Bounded, and fair between interfaces.
//!
//! An answer depends on nothing but the target, the qtype and the upstream, so that is its key: all names that a rule
//! maps to one target share it, and a reload that keeps the target keeps the last good answer. The rule's own TTL is
//! applied when the answer is read. Whoever gives targets a further input (the asking client, say) adds it to [`Key`].
//!
//! Answers of types that programs do not keep are kept here only, a few of them: one pod could ask for 65,535 types.

mod kept;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use dns_common::wire::{KEPT_QTYPES, qtype_is_kept};
use hickory_proto::rr::{Name, RecordType};

use super::{
    chain::{Failure, Outcome},
    compose::Section,
};
use crate::fair::FairMap;
pub use crate::fair::Limits;
pub use kept::Kept;
use kept::{LARGE, Large};

/// How long a target counts as missing, or a failure as lasting, before it is asked for again.
pub const NEGATIVE_LIFETIME: Duration = Duration::from_secs(5);
/// Targets of which answers of other types are kept, in all and of one interface, and how many types of each.
const OTHER_TARGETS: Limits = Limits {
    total: 1024,
    per_interface: 64,
};
const OTHER_TYPES: usize = 16;
/// How long a denial is remembered after it was believed: longer than caches keep what they know of a name, in which time
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
pub enum Trouble {
    Failed(Failure),
    /// The end of the chain does not exist.
    BrokenChain,
    /// There is no address of either family.
    NoAddress,
}

/// The types that a target without an address is broken for.
fn needs_address(qtype: RecordType) -> bool {
    family(qtype).is_some()
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
    /// The name exists: there is an answer to another qtype, or its chain leads nowhere.
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
    /// Of types that programs do not keep, the oldest first.
    others: FairMap<Owner, Vec<(RecordType, Arc<Kept>)>>,
    no_target: FairMap<Owner, Denial>,
    trouble: FairMap<Key, (Trouble, Instant)>,
    /// Until when targets are known to have no address of either family.
    no_address: FairMap<Owner, Instant>,
}

/// NXDOMAIN for a target.
#[derive(Clone, Copy, Debug)]
struct Denial {
    /// Until when it is believed.
    until: Instant,
    /// When it was said in reply to a question for A, and for AAAA.
    of_family: [Option<Instant>; 2],
}

fn family(qtype: RecordType) -> Option<usize> {
    match qtype {
        RecordType::A => Some(0),
        RecordType::AAAA => Some(1),
        _ => None,
    }
}

impl Inner {
    fn answer(&self, key: &Key) -> Option<&Arc<Kept>> {
        if qtype_is_kept(key.qtype.into()) {
            return self.answers.get(key);
        }
        let others = self.others.get(&key.owner())?;
        let (_, kept) = others.iter().find(|(qtype, _)| *qtype == key.qtype)?;
        Some(kept)
    }

    fn insert(&mut self, ifindex: u32, key: &Key, kept: Arc<Kept>) {
        if qtype_is_kept(key.qtype.into()) {
            self.answers.insert(ifindex, key.clone(), kept);
            return;
        }
        let owner = key.owner();
        let mut others = self.others.get(&owner).cloned().unwrap_or_default();
        others.retain(|(qtype, _)| *qtype != key.qtype);
        if others.len() >= OTHER_TYPES {
            others.remove(0);
        }
        others.push((key.qtype, kept));
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

/// Number of entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    pub answers: usize,
    /// Targets with answers of types that programs do not keep.
    pub other_types: usize,
    pub no_target: usize,
    pub trouble: usize,
}

impl Store {
    pub fn new(limits: Limits) -> Store {
        Store {
            inner: Mutex::new(Inner {
                answers: FairMap::new(limits),
                others: FairMap::new(OTHER_TARGETS),
                no_target: FairMap::new(limits),
                trouble: FairMap::new(limits),
                no_address: FairMap::new(limits),
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
        let owner = key.owner();
        if let Some(denial) = inner.no_target.get(&owner)
            && now < denial.until
        {
            return Found::NoTarget(denial.until - now);
        }
        if let Some(kept) = inner.answer(key)
            && let Some(left) = kept.fresh_for(cap, now)
        {
            return Found::Fresh(kept.clone(), left);
        }
        if let Some(&until) = inner.no_address.get(&owner)
            && now < until
            && needs_address(key.qtype)
        {
            return Found::Trouble(Trouble::NoAddress);
        }
        match inner.trouble.get(key) {
            Some(&(trouble, until)) if now < until => Found::Trouble(trouble),
            _ => Found::Nothing,
        }
    }

    /// The last good answer, if it is younger than its TTL and `limit` together.
    pub fn stale(&self, key: &Key, limit: Duration, now: Instant) -> Option<Arc<Kept>> {
        let inner = self.lock();
        let kept = inner.answer(key)?;
        (!kept.stale_for(limit, now).is_zero()).then(|| kept.clone())
    }

    /// What is known of a name when this node fails to look it up. `limit` as for [`Store::stale`].
    pub fn known(&self, key: &Key, limit: Duration, now: Instant) -> Known {
        if let Some(kept) = self.stale(key, limit, now) {
            return Known::Answer(kept);
        }
        let inner = self.lock();
        let owner = key.owner();
        let lasts = |kept: &Arc<Kept>| !kept.stale_for(limit, now).is_zero();
        let of_type = |qtype: u16| {
            let key = key.of_type(qtype);
            let is_broken = matches!(
                inner.trouble.get(&key),
                Some((Trouble::BrokenChain, until)) if now < *until
            );
            is_broken || inner.answer(&key).is_some_and(lasts)
        };
        let exists = KEPT_QTYPES.into_iter().any(of_type)
            || inner
                .others
                .get(&owner)
                .is_some_and(|others| others.iter().any(|(_, kept)| lasts(kept)))
            || inner
                .no_address
                .get(&owner)
                .is_some_and(|until| now < *until);
        if exists {
            Known::Exists
        } else {
            Known::Nothing
        }
    }

    /// Whether the other family of an A or AAAA is known to have an address, or had one a moment ago.
    pub fn has_other_address(&self, key: &Key, now: Instant) -> bool {
        let other = match key.qtype {
            RecordType::A => RecordType::AAAA,
            RecordType::AAAA => RecordType::A,
            _ => return false,
        };
        self.stale(&key.of_type(other.into()), NEGATIVE_LIFETIME, now)
            .is_some_and(|kept| kept.section.has_records())
    }

    /// The type for which the target was denied a short while ago, if an answer to `key` contradicts that: caches may
    /// have one family of a Service that comes or goes and deny the other. Ask again for it before the answer is kept.
    pub fn contradicts(&self, key: &Key, now: Instant) -> Option<RecordType> {
        let inner = self.lock();
        let denial = inner.no_target.get(&key.owner())?;
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

    /// Remembers what a chase showed, on the account of the interface that asked for it. The answer comes back in the
    /// form that it is served in; `None` when the outcome is none, or too long to be served.
    pub fn keep(
        &self,
        ifindex: u32,
        key: &Key,
        outcome: &Outcome,
        now: Instant,
    ) -> Option<Arc<Kept>> {
        let trouble = match outcome {
            Outcome::Answer(answer) => match Section::new(answer) {
                Some(section) => {
                    let kept = Kept::new(section, answer.ttl_seconds, now);
                    return Some(self.keep_answer(ifindex, key, kept));
                }
                None => Trouble::Failed(Failure::Unusable),
            },
            Outcome::NoTarget => {
                self.keep_denial(ifindex, key, now);
                return None;
            }
            Outcome::BrokenChain => Trouble::BrokenChain,
            Outcome::NoAddress(_) => {
                self.keep_no_address(ifindex, key, now);
                Trouble::NoAddress
            }
            // Says nothing about the name, and may be over the next moment.
            Outcome::Failed(Failure::Local) => return None,
            Outcome::Failed(failure) => Trouble::Failed(*failure),
        };
        let entry = (trouble, now + NEGATIVE_LIFETIME);
        let mut inner = self.lock();
        if trouble == Trouble::BrokenChain {
            // The upstream has said that it is gone: nothing to fall back on. For this type only: there are servers that
            // deny the name for one family and have the other (RFC 4074 §4.2).
            inner.remove(key);
        }
        inner.trouble.insert(ifindex, key.clone(), entry);
        None
    }

    fn keep_answer(&self, ifindex: u32, key: &Key, mut kept: Kept) -> Arc<Kept> {
        let bytes = kept.section.len();
        let mut inner = self.lock();
        inner.no_target.remove(&key.owner());
        inner.trouble.remove(key);
        if needs_address(key.qtype) {
            inner.no_address.remove(&key.owner());
        }
        if bytes > LARGE {
            // First, so that its room is there for the new one.
            inner.remove(key);
            kept.large = Large::take(bytes, &self.large);
            if kept.large.is_none() {
                return Arc::new(kept);
            }
        }
        let kept = Arc::new(kept);
        inner.insert(ifindex, key, kept.clone());
        kept
    }

    /// Both families were asked for, so nothing that needs an address is left to fall back on.
    fn keep_no_address(&self, ifindex: u32, key: &Key, now: Instant) {
        let mut inner = self.lock();
        for key in KEPT_QTYPES.map(|qtype| key.of_type(qtype)) {
            if needs_address(key.qtype) {
                inner.answers.remove(&key);
            }
        }
        inner.remove(key);
        inner
            .no_address
            .insert(ifindex, key.owner(), now + NEGATIVE_LIFETIME);
    }

    fn keep_denial(&self, ifindex: u32, key: &Key, now: Instant) {
        let mut inner = self.lock();
        let owner = key.owner();
        // NXDOMAIN is about the name: the answers to other qtypes must not come back once it is forgotten.
        for key in KEPT_QTYPES.map(|qtype| key.of_type(qtype)) {
            inner.trouble.remove(&key);
            inner.answers.remove(&key);
        }
        inner.others.remove(&owner);
        inner.no_address.remove(&owner);
        let before = inner.no_target.get(&owner);
        let mut of_family = before.map_or([None; 2], |denial| denial.of_family);
        if let Some(index) = family(key.qtype) {
            of_family[index] = Some(now);
        }
        let denial = Denial {
            until: now + NEGATIVE_LIFETIME,
            of_family,
        };
        inner.no_target.insert(ifindex, owner, denial);
    }

    pub fn sizes(&self) -> Sizes {
        let inner = self.lock();
        Sizes {
            answers: inner.answers.len(),
            other_types: inner.others.len(),
            no_target: inner.no_target.len(),
            trouble: inner.trouble.len() + inner.no_address.len(),
        }
    }

    /// Gives the entries of an interface that is gone to nobody.
    pub fn release(&self, ifindex: u32) {
        let mut inner = self.lock();
        inner.answers.release(ifindex);
        inner.others.release(ifindex);
        inner.no_target.release(ifindex);
        inner.trouble.release(ifindex);
        inner.no_address.release(ifindex);
    }
}

#[cfg(test)]
mod tests;
