//! One cached answer: how long it is fresh and stale, and the room that large answers may take.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dns_common::answer::Body;
use hickory_proto::rr::{Name, RecordType};

use crate::{model::Changes, resolve::compose::Section};

/// Sections longer than this share [`LARGE_TOTAL`]; no datagram carries one.
pub(super) const LARGE: usize = 4096;
/// Bytes of all large sections in the cache. An answer that finds no room is looked up each time.
pub(super) const LARGE_TOTAL: usize = 8 << 20;

/// A cached answer.
#[derive(Debug)]
pub struct CacheEntry {
    pub section: Section,
    /// The form in which the kernel program serves it.
    pub body: Option<Body>,
    ttl: Duration,
    at: Instant,
    /// How long it may be served from `at` on while the upstream fails, where that does not follow from its TTL.
    stale_left: Option<Duration>,
    rotation: AtomicUsize,
    /// Its part of what all large answers may occupy.
    pub(super) large: Option<Large>,
}

/// Bytes taken from [`LARGE_TOTAL`], given back when dropped.
#[derive(Debug)]
pub(super) struct Large {
    bytes: usize,
    taken: Arc<AtomicUsize>,
}

impl Large {
    pub(super) fn take(bytes: usize, taken: &Arc<AtomicUsize>) -> Option<Large> {
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

impl CacheEntry {
    pub fn new(section: Section, ttl_seconds: u32, rotation: u8, at: Instant) -> CacheEntry {
        CacheEntry {
            body: section.body(),
            section,
            // A TTL of 0 would make every query a chase of its own.
            ttl: Duration::from_secs(ttl_seconds.max(1).into()),
            at,
            stale_left: None,
            rotation: AtomicUsize::new(rotation.into()),
            large: None,
        }
    }

    /// What the program has of an answer that this process does not: it is not fresh, and served for at most `left` from
    /// `at` on. `None` for a body that cannot be read.
    pub fn of_program(body: Body, left: Duration, at: Instant) -> Option<CacheEntry> {
        Some(CacheEntry {
            section: Section::of_body(&body)?,
            body: Some(body),
            ttl: Duration::ZERO,
            at,
            stale_left: Some(left),
            rotation: AtomicUsize::default(),
            large: None,
        })
    }

    /// Whether it, of this type, is no longer right for these targets now that some have changed; nothing can be said of one that cannot be
    /// read, so it counts as outdated.
    pub fn is_outdated<'a>(
        &self,
        targets: impl IntoIterator<Item = &'a Name>,
        qtype: RecordType,
        changes: &Changes,
    ) -> bool {
        self.section
            .chain()
            .is_none_or(|chain| changes.contradict(targets, &chain, qtype == RecordType::CNAME))
    }

    /// The number of replies so far, from where [`CacheEntry::new`] began.
    pub fn next_rotation(&self) -> usize {
        self.rotation.fetch_add(1, Ordering::Relaxed)
    }

    /// What is left of its TTL, at most `cap`; `None` once it is not fresh.
    pub fn fresh_for(&self, cap: Duration, now: Instant) -> Option<Duration> {
        let left = self
            .ttl
            .min(cap)
            .checked_sub(now.saturating_duration_since(self.at))?;
        (!left.is_zero()).then_some(left)
    }

    /// How long it may still be served while the upstream fails.
    pub fn stale_for(&self, limit: Duration, now: Instant) -> Duration {
        let limit = self.stale_left.map_or(limit, |left| left.min(limit));
        (self.ttl + limit).saturating_sub(now.saturating_duration_since(self.at))
    }
}
