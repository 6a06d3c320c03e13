//! The answers that one loaded program gives by itself: which there are, and on whose account.
//!
//! Userspace is the only writer of the tables; the program reads them and counts. A program that replaces another one has
//! tables of its own, so an answer never outlives the rule set that it was made for.

use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::Ebpf;
use dns_common::{
    abi::{MAX_SERVERS, maps},
    answer::{self, Absent, Body, Key, Lifetime, Settings, Slot, SuffixSettings, WAYS, Ways, Word},
    wire::KEPT_QTYPES,
};

use super::{DatapathError, heartbeat::monotonic_ns, mapping::Mapping};
use crate::{
    fair::{FairMap, Limits},
    rules::RuleSet,
};

/// What a program may answer by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerOptions {
    /// Answers in all, and as many targets that do not exist; 0 for a program that answers nothing.
    pub total: usize,
    /// Of one interface.
    pub per_interface: usize,
    /// Whether answers depend on the server that was asked.
    pub per_server: bool,
}

impl AnswerOptions {
    /// The program answers nothing.
    pub const NONE: AnswerOptions = AnswerOptions {
        total: 0,
        per_interface: 0,
        per_server: true,
    };

    fn buckets(&self) -> usize {
        // Two slots in a bucket of eight on average: one that is full has a chance of about one in 4,000.
        (self.total / (WAYS / 4)).next_power_of_two()
    }
}

/// How an answer is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Told with the TTL that is left until then.
    pub fresh: Duration,
    /// Then with a TTL of 1, while it is asked for again.
    pub grace: Duration,
    /// In the place of the TTL that is left, in seconds.
    pub fixed_ttl: Option<u32>,
}

/// Where answers go that a program is to give by itself.
pub trait Publish: std::fmt::Debug + Send + Sync + 'static {
    /// The key of a question; `None` where its answer must not be kept by the program.
    fn key(&self, rule: usize, qtype: u16, server: IpAddr, captures: &[String]) -> Option<Key>;
    /// The program answers with this from now on.
    fn answer(&self, ifindex: u32, key: &Key, body: &Body, term: &Term);
    /// The program passes these queries for this much longer.
    fn no_target(&self, ifindex: u32, key: &Key, left: Duration);
    /// The program hands these queries over.
    fn nothing(&self, key: &Key);
}

/// Answers that the program gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// By rule.
    pub rules: BTreeMap<u32, u64>,
    /// By namespace, of which there are at most as many as are told of; then all others.
    pub namespaces: BTreeMap<String, u64>,
    pub other_namespaces: u64,
}

/// Most namespaces that hits are counted for.
const MAX_NAMESPACES: usize = 1024;

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerSizes {
    pub answers: usize,
    pub absent: usize,
    /// Answers that found no place in the index.
    pub unplaced: u64,
}

/// The tables of one program.
pub struct Answers {
    servers: Vec<IpAddr>,
    seed: u64,
    per_server: bool,
    rules: Arc<RuleSet>,
    suffixes: SuffixSettings,
    lanes: usize,
    shares_lanes: bool,
    hits: Mapping<Word>,
    inner: Mutex<Inner>,
}

struct Inner {
    answers: Table<Slot>,
    absent: Table<Absent>,
    suffix_index: Mapping<Ways>,
    /// Hits of a slot when it came to its key.
    before: Vec<u64>,
    given: Given,
    unplaced: u64,
}

/// An index, its entries, and who has which.
struct Table<T> {
    index: Mapping<Ways>,
    entries: Mapping<T>,
    keys: FairMap<Key, u32>,
    free: Vec<u32>,
}

impl<T: AsRef<[Word]>> Table<T> {
    fn open(
        ebpf: &mut Ebpf,
        index: &'static str,
        entries: &'static str,
        limits: Limits,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            index: mapping(ebpf, index)?,
            entries: mapping(ebpf, entries)?,
            keys: FairMap::new(limits),
            free: (0..limits.total as u32).rev().collect(),
        })
    }

    fn ways(&self, hash: u64) -> Option<&Ways> {
        ways(&self.index, hash)
    }

    /// The slot of a key, or a free one that nobody can find yet; `None` when there is no room for it. Tells of each key
    /// that had to go.
    fn place(
        &mut self,
        ifindex: u32,
        key: &Key,
        seed: u64,
        mut gone: impl FnMut(&Key, u32),
    ) -> Option<Place> {
        if let Some(&slot) = self.keys.get(key) {
            self.keys.touch(key);
            return Some(Place { slot, way: None });
        }
        if let Some((oldest, slot)) = self.keys.make_room(ifindex).ok()? {
            self.vacate(&oldest, slot, seed);
            gone(&oldest, slot);
        }
        let hash = key.hash(seed);
        let way = free_way(self.ways(hash)?, hash)?;
        let slot = self.free.pop()?;
        self.keys.insert(ifindex, *key, slot);
        Some(Place {
            slot,
            way: Some((hash, way)),
        })
    }

    /// Lets the program find what was written.
    fn show(&self, place: &Place) {
        if let Some((hash, way)) = place.way
            && let Some(ways) = self.ways(hash)
        {
            ways[way].store(tag(hash, place.slot));
        }
    }

    fn remove(&mut self, key: &Key, seed: u64) -> Option<u32> {
        let slot = self.keys.remove(key)?;
        self.vacate(key, slot, seed);
        Some(slot)
    }

    /// Takes a slot away from a key that has left `keys`.
    fn vacate(&mut self, key: &Key, slot: u32, seed: u64) {
        clear(self.ways(key.hash(seed)), slot);
        if let Some(entry) = self.entries.element(slot as usize) {
            answer::release(entry.as_ref());
        }
        self.free.push(slot);
    }
}

fn ways(index: &Mapping<Ways>, hash: u64) -> Option<&Ways> {
    // A power of two.
    index.element(hash as usize & (index.len() - 1))
}

/// A free way, unless another key looks the same from here.
fn free_way(ways: &Ways, hash: u64) -> Option<usize> {
    let tags = ways.each_ref().map(Word::load);
    if tags.iter().any(|tag| *tag != 0 && tag >> 32 == hash >> 32) {
        return None;
    }
    tags.iter().position(|tag| *tag == 0)
}

fn tag(hash: u64, slot: u32) -> u64 {
    hash >> 32 << 32 | u64::from(slot + 1)
}

/// Lets nobody find a slot in a bucket any more.
fn clear(ways: Option<&Ways>, slot: u32) {
    for way in ways.into_iter().flatten() {
        if way.load() as u32 == slot + 1 {
            way.store(0);
        }
    }
}

/// Where an entry is to be written.
struct Place {
    slot: u32,
    /// Hash and way of a key that the index does not have yet.
    way: Option<(u64, usize)>,
}

impl Answers {
    /// Takes the maps of a loaded program and tells it how to read them.
    pub(super) fn open(
        ebpf: &mut Ebpf,
        options: &AnswerOptions,
        servers: &[IpAddr],
        rules: &Arc<RuleSet>,
        shares_lanes: bool,
    ) -> Result<Self, DatapathError> {
        let limits = Limits {
            total: options.total,
            per_interface: options.per_interface,
        };
        let seed = rand::random();
        let inner = Inner {
            answers: Table::open(ebpf, maps::INDEX, maps::ANSWERS, limits)?,
            absent: Table::open(ebpf, maps::ABSENT_INDEX, maps::ABSENT, limits)?,
            suffix_index: mapping(ebpf, maps::SUFFIX_INDEX)?,
            before: vec![0; options.total],
            given: Given::default(),
            unplaced: 0,
        };
        let hits: Mapping<Word> = mapping(ebpf, maps::HITS)?;
        let mut suffixes = SuffixSettings {
            mask: inner.suffix_index.len() as u32 - 1,
            ..SuffixSettings::NONE
        };
        for factor in &mut suffixes.factors {
            *factor = rand::random::<u64>() | 1;
        }
        for (place, starter) in suffixes.starters.iter_mut().zip(rules.starters()) {
            *place = starter;
            suffixes.starter_count += 1;
        }
        Ok(Self {
            servers: servers.to_vec(),
            seed,
            per_server: options.per_server,
            rules: Arc::clone(rules),
            suffixes,
            lanes: hits.len().checked_div(options.total).unwrap_or(0),
            shares_lanes,
            hits,
            inner: Mutex::new(inner),
        })
    }

    /// What the program needs to know.
    pub(super) fn settings(&self) -> Settings {
        let inner = self.lock();
        Settings {
            seed: self.seed,
            bucket_mask: inner.answers.index.len() as u32 - 1,
            absent_mask: inner.absent.index.len() as u32 - 1,
            lane_mask: self.lanes.saturating_sub(1) as u16,
            shares_lanes: self.shares_lanes.into(),
            slots: inner.before.len() as u32,
            suffixes: self.suffixes,
        }
    }

    /// A panic elsewhere leaves the tables in a state that only costs room.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key of a question, if its answer may be kept here: not for rules by `regex`, nor for servers of one link.
    pub fn key(&self, rule: usize, qtype: u16, server: IpAddr, captures: &[String]) -> Option<Key> {
        let mut upstream = 0;
        if self.per_server {
            let link_local = matches!(server, IpAddr::V6(server) if server.is_unicast_link_local());
            let mut family = self
                .servers
                .iter()
                .filter(|other| other.is_ipv4() == server.is_ipv4());
            let index = family.position(|other| *other == server)?;
            if link_local {
                return None;
            }
            upstream = if server.is_ipv4() {
                index
            } else {
                MAX_SERVERS + index
            };
        }
        let captures: Vec<&[u8]> = captures.iter().map(String::as_bytes).collect();
        Key::new(rule as u32, qtype, upstream as u16, &captures)
    }

    /// Lets the program answer from now on, or with something else than before. An answer that has no room is answered
    /// by userspace.
    pub fn publish(&self, ifindex: u32, key: &Key, body: &Body, term: &Term) {
        if !body.fits() {
            self.remove(key);
            return;
        }
        let now = monotonic_ns();
        let fresh_until_ns = now.saturating_add(term.fresh.as_nanos() as u64);
        let lifetime = Lifetime {
            fresh_until_ns,
            serve_until_ns: fresh_until_ns.saturating_add(term.grace.as_nanos() as u64),
            fixed_ttl: term.fixed_ttl.unwrap_or(0),
        };
        let mut inner = self.lock();
        let Inner {
            answers,
            absent,
            suffix_index,
            before,
            given,
            unplaced,
        } = &mut *inner;
        absent.remove(&key.with_qtype(0), self.seed);
        let place = answers.place(ifindex, key, self.seed, |gone, slot| {
            self.settle(given, gone, slot, before);
            self.hide_suffix(suffix_index, gone, slot);
        });
        let Some(place) = place else {
            *unplaced += u64::from(!before.is_empty());
            return;
        };
        let is_new = place.way.is_some();
        if is_new {
            before[place.slot as usize] = self.hits(place.slot);
        }
        let suffix = if is_new { self.suffix(key) } else { None };
        if let Some(slot) = answers.entries.element(place.slot as usize) {
            answer::write_with(&slot.entry, key, body, &lifetime, || {
                // Without a suffix of its own, too: a reader that was led here by the slot's last key must not find
                // that key's suffix beside this answer.
                if is_new {
                    let suffix = suffix.as_ref().map_or(&[][..], |(suffix, _)| suffix);
                    answer::write_suffix(&slot.suffix, suffix);
                }
            });
        }
        answers.show(&place);
        if let Some((_, hash)) = suffix
            && let Some(ways) = ways(suffix_index, hash)
            && let Some(way) = free_way(ways, hash)
        {
            ways[way].store(tag(hash, place.slot));
        }
    }

    /// What names with this key end with, and its hash; `None` where that does not settle the key.
    fn suffix(&self, key: &Key) -> Option<(Vec<u8>, u64)> {
        let captures: Vec<_> = key.labels().collect();
        let captures = captures.iter().map(|(label, len)| &label[..*len]);
        let suffix = self.rules.suffix(key.rule() as usize, captures)?;
        let hash = self.suffixes.hash(&suffix, key.qtype(), key.upstream())?;
        Some((suffix, hash))
    }

    fn hide_suffix(&self, index: &Mapping<Ways>, key: &Key, slot: u32) {
        if let Some((_, hash)) = self.suffix(key) {
            clear(ways(index, hash), slot);
        }
    }

    /// Lets the program pass the queries of a target that does not exist.
    pub fn publish_absent(&self, ifindex: u32, key: &Key, left: Duration) {
        let key = key.with_qtype(0);
        for qtype in KEPT_QTYPES {
            self.remove(&key.with_qtype(qtype));
        }
        let until = monotonic_ns().saturating_add(left.as_nanos() as u64);
        let mut inner = self.lock();
        let absent = &mut inner.absent;
        if let Some(place) = absent.place(ifindex, &key, self.seed, |_, _| {}) {
            if let Some(entry) = absent.entries.element(place.slot as usize) {
                answer::write_absent(entry, &key, until);
            }
            absent.show(&place);
        }
    }

    /// Takes an answer away from the program.
    pub fn remove(&self, key: &Key) {
        let mut inner = self.lock();
        let Inner {
            answers,
            suffix_index,
            before,
            given,
            ..
        } = &mut *inner;
        if let Some(slot) = answers.remove(key, self.seed) {
            self.settle(given, key, slot, before);
            self.hide_suffix(suffix_index, key, slot);
        }
    }

    /// Gives the entries of an interface that is gone to nobody.
    pub fn release_interface(&self, ifindex: u32) {
        let mut inner = self.lock();
        inner.answers.keys.release(ifindex);
        inner.absent.keys.release(ifindex);
    }

    pub fn sizes(&self) -> AnswerSizes {
        let inner = self.lock();
        AnswerSizes {
            answers: inner.answers.keys.len(),
            absent: inner.absent.keys.len(),
            unplaced: inner.unplaced,
        }
    }

    /// What the program has answered since it was loaded.
    pub fn given(&self) -> Given {
        let inner = self.lock();
        let mut given = inner.given.clone();
        for (key, &slot) in inner.answers.keys.iter() {
            self.settle(&mut given, key, slot, &inner.before);
        }
        given
    }

    /// Adds the hits of a slot to the account of its key.
    fn settle(&self, given: &mut Given, key: &Key, slot: u32, before: &[u64]) {
        let since = before.get(slot as usize).copied().unwrap_or(0);
        let hits = self.hits(slot).wrapping_sub(since);
        if hits == 0 {
            return;
        }
        *given.rules.entry(key.rule()).or_default() += hits;
        let rule = self.rules.rules().get(key.rule() as usize);
        let namespace = rule.and_then(|rule| rule.namespace());
        let Some((label, len)) = namespace.and_then(|at| key.labels().nth(at)) else {
            return;
        };
        let namespace = String::from_utf8_lossy(&label[..len]).into_owned();
        if given.namespaces.len() < MAX_NAMESPACES || given.namespaces.contains_key(&namespace) {
            *given.namespaces.entry(namespace).or_default() += hits;
        } else {
            given.other_namespaces += hits;
        }
    }

    /// Answers given from a slot, by whomever it was of.
    fn hits(&self, slot: u32) -> u64 {
        let slots = self.hits.len() / self.lanes.max(1);
        (0..self.lanes)
            .filter_map(|lane| self.hits.element(lane * slots + slot as usize))
            .map(Word::load)
            .fold(0, u64::wrapping_add)
    }
}

impl Publish for Answers {
    fn key(&self, rule: usize, qtype: u16, server: IpAddr, captures: &[String]) -> Option<Key> {
        Answers::key(self, rule, qtype, server, captures)
    }

    fn answer(&self, ifindex: u32, key: &Key, body: &Body, term: &Term) {
        self.publish(ifindex, key, body, term);
    }

    fn no_target(&self, ifindex: u32, key: &Key, left: Duration) {
        self.publish_absent(ifindex, key, left);
    }

    fn nothing(&self, key: &Key) {
        self.remove(key);
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers")
            .field("sizes", &self.sizes())
            .finish_non_exhaustive()
    }
}

/// Sizes of the maps: name and elements.
pub(super) fn sizes(options: &AnswerOptions, lanes: usize) -> [(&'static str, u32); 6] {
    let slots = options.total.max(1);
    let buckets = options.buckets();
    [
        (maps::INDEX, buckets),
        (maps::ANSWERS, slots),
        (maps::ABSENT_INDEX, buckets),
        (maps::ABSENT, slots),
        (maps::SUFFIX_INDEX, buckets),
        (maps::HITS, slots * lanes),
    ]
    .map(|(name, elements)| (name, elements as u32))
}

fn mapping<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<Mapping<T>, DatapathError> {
    let map = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    Mapping::new(map).map_err(|error: io::Error| DatapathError::Mapping { name, error })
}
