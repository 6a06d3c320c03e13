//! The tables of answers in memory, for tests and fuzzing.

use alloc::{boxed::Box, vec::Vec};

use super::{
    layout::*,
    suffix::{SuffixSettings, write_suffix},
    write::{Body, Lifetime, write, write_absent},
};
use crate::{
    client::{CLIENT_BUCKETS, Client, ClientRecord, Clients, Permit, client_bucket, client_hash},
    key::{Captures, Key, mix},
    name::LiteralWord,
    ways::Ways,
    word::Word,
};

/// As many slots as are wanted, given out one after the other.
pub struct MemoryTables {
    settings: Settings,
    rules: Vec<RuleEntry>,
    unattended: bool,
    ways: Box<[Ways]>,
    slots: Box<[Slot]>,
    absent_ways: Box<[Ways]>,
    absent: Box<[Absent]>,
    suffix_ways: Box<[Ways]>,
    hits: Box<[Word]>,
    used: u32,
    used_absent: u32,
    client_ways: Box<[Ways]>,
    clients: Vec<Client>,
    permits: Vec<Permit>,
}

impl Default for MemoryTables {
    fn default() -> Self {
        Self::none()
    }
}

fn zeroed<const N: usize>(count: usize) -> Box<[[Word; N]]> {
    (0..count)
        .map(|_| core::array::from_fn(|_| Word::new(0)))
        .collect()
}

impl MemoryTables {
    /// `slots` answers and as many targets that do not exist, for rules with these captures; a rule's index is its id.
    pub fn new(slots: usize, captures: Vec<Captures>) -> Self {
        let buckets = slots.max(1).next_power_of_two();
        Self {
            settings: Settings {
                seed: 0x0123_4567_89ab_cdef,
                bucket_mask: buckets as u32 - 1,
                absent_mask: buckets as u32 - 1,
                lane_mask: 0,
                shares_lanes: 0,
                slots: slots as u32,
                stale_ttl: 30,
                padding: 0,
                suffixes: SuffixSettings::NONE,
            },
            rules: captures
                .into_iter()
                .enumerate()
                .map(|(index, captures)| RuleEntry {
                    id: index as u64,
                    captures,
                    ..RuleEntry::default()
                })
                .collect(),
            unattended: false,
            ways: zeroed(buckets),
            slots: (0..slots.max(1)).map(|_| Slot::empty()).collect(),
            absent_ways: zeroed(buckets),
            absent: zeroed(slots.max(1)),
            suffix_ways: zeroed(buckets),
            hits: (0..slots.max(1)).map(|_| Word::new(0)).collect(),
            used: 0,
            used_absent: 0,
            client_ways: zeroed(CLIENT_BUCKETS as usize),
            clients: Vec::new(),
            permits: Vec::new(),
        }
    }

    /// With these entries of a rule set in the place of those that it has.
    pub fn with_rules(mut self, rules: Vec<RuleEntry>) -> Self {
        self.rules = rules;
        self
    }

    /// With somebody behind an interface.
    pub fn with_client(mut self, record: &ClientRecord) -> Self {
        let entry: Client = core::array::from_fn(|_| Word::new(0));
        record.write(&entry);
        let slot = self.clients.len() as u32;
        let bucket = client_bucket(record.ifindex) as usize;
        place(&self.client_ways[bucket], client_hash(record.ifindex), slot);
        self.clients.push(entry);
        self
    }

    /// With a permit of a client for a rule that asks for them.
    pub fn with_permit(mut self, permit: Permit) -> Self {
        self.permits.push(permit);
        self
    }

    /// Says whether a responder is there.
    pub fn set_unattended(&mut self, unattended: bool) {
        self.unattended = unattended;
    }

    /// A program that answers nothing.
    pub fn none() -> Self {
        Self::new(0, Vec::new())
    }

    /// Lets the answers that are added from now on be found by their suffixes as well, where these begin so.
    /// Each with whether its answers depend on the client.
    pub fn with_starters(mut self, starters: &[(LiteralWord, bool)]) -> Self {
        let suffixes = &mut self.settings.suffixes;
        for (index, factor) in suffixes.factors.iter_mut().enumerate() {
            *factor = mix(index as u64 + 1, 1) | 1;
        }
        for (place, (starter, asks)) in suffixes.starters.iter_mut().zip(starters) {
            *place = *starter;
            suffixes.asks |= u32::from(*asks) << suffixes.starter_count;
            suffixes.starter_count += 1;
        }
        suffixes.mask = self.settings.bucket_mask;
        self
    }

    /// Adds an answer that is also found by the end of its names, in wire format and lower case.
    pub fn insert_with_suffix(
        &mut self,
        key: &Key,
        body: &Body,
        lifetime: &Lifetime,
        suffix: &[u8],
    ) -> bool {
        let slot = self.used;
        if !self.insert(key, body, lifetime) {
            return false;
        }
        if let Some(hash) = self.settings.suffixes.hash(suffix, key) {
            write_suffix(&self.slots[slot as usize].suffix, suffix);
            let ways = &self.suffix_ways[(hash as u32 & self.settings.suffixes.mask) as usize];
            place(ways, hash, slot);
        }
        true
    }

    /// Adds an answer; `false` when there is no room.
    pub fn insert(&mut self, key: &Key, body: &Body, lifetime: &Lifetime) -> bool {
        if self.used >= self.settings.slots || !body.fits() {
            return false;
        }
        let hash = key.hash(self.settings.seed);
        let ways = &self.ways[(hash as u32 & self.settings.bucket_mask) as usize];
        let placed = place(ways, hash, self.used);
        if placed {
            write(&self.slots[self.used as usize].entry, key, body, lifetime);
            self.used += 1;
        }
        placed
    }

    /// Adds a target that does not exist; the key's qtype is 0.
    pub fn insert_absent(&mut self, key: &Key, until_ns: u64) -> bool {
        if self.used_absent >= self.settings.slots {
            return false;
        }
        let hash = key.hash(self.settings.seed);
        let ways = &self.absent_ways[(hash as u32 & self.settings.absent_mask) as usize];
        let placed = place(ways, hash, self.used_absent);
        if placed {
            write_absent(&self.absent[self.used_absent as usize], key, until_ns);
            self.used_absent += 1;
        }
        placed
    }
}

fn place(ways: &Ways, hash: u64, slot: u32) -> bool {
    match ways.iter().find(|way| way.load() == 0) {
        Some(way) => {
            way.store(hash >> 32 << 32 | u64::from(slot + 1));
            true
        }
        None => false,
    }
}

impl Clients for MemoryTables {
    fn client_ways(&self, bucket: u32) -> Option<&Ways> {
        self.client_ways.get(bucket as usize)
    }

    fn client(&self, slot: u32) -> Option<&Client> {
        self.clients.get(slot as usize)
    }

    fn permits(&self, permit: &Permit) -> bool {
        self.permits.contains(permit)
    }
}

impl<T: Clients> Clients for &T {
    fn client_ways(&self, bucket: u32) -> Option<&Ways> {
        T::client_ways(self, bucket)
    }

    fn client(&self, slot: u32) -> Option<&Client> {
        T::client(self, slot)
    }

    fn permits(&self, permit: &Permit) -> bool {
        T::permits(self, permit)
    }
}

impl Tables for MemoryTables {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn rule(&self, index: u32) -> Option<RuleEntry> {
        let unkept = RuleEntry {
            id: index.into(),
            ..RuleEntry::default()
        };
        Some(self.rules.get(index as usize).copied().unwrap_or(unkept))
    }

    fn is_unattended(&self, _now_ns: u64) -> bool {
        self.unattended
    }

    fn ways(&self, bucket: u32) -> Option<&Ways> {
        self.ways.get(bucket as usize)
    }

    fn slot(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)
    }

    fn absent_ways(&self, bucket: u32) -> Option<&Ways> {
        self.absent_ways.get(bucket as usize)
    }

    fn absent(&self, slot: u32) -> Option<&Absent> {
        self.absent.get(slot as usize)
    }

    fn suffix_ways(&self, bucket: u32) -> Option<&Ways> {
        self.suffix_ways.get(bucket as usize)
    }

    fn count(&self, slot: u32) -> u32 {
        let Some(hits) = self.hits.get(slot as usize) else {
            return 0;
        };
        let before = hits.load();
        hits.store(before + 1);
        before as u32
    }
}

impl<T: Tables> Tables for &T {
    fn settings(&self) -> Option<&Settings> {
        T::settings(self)
    }

    fn rule(&self, index: u32) -> Option<RuleEntry> {
        T::rule(self, index)
    }

    fn is_unattended(&self, now_ns: u64) -> bool {
        T::is_unattended(self, now_ns)
    }

    fn ways(&self, bucket: u32) -> Option<&Ways> {
        T::ways(self, bucket)
    }

    fn slot(&self, slot: u32) -> Option<&Slot> {
        T::slot(self, slot)
    }

    fn absent_ways(&self, bucket: u32) -> Option<&Ways> {
        T::absent_ways(self, bucket)
    }

    fn absent(&self, slot: u32) -> Option<&Absent> {
        T::absent(self, slot)
    }

    fn suffix_ways(&self, bucket: u32) -> Option<&Ways> {
        T::suffix_ways(self, bucket)
    }

    fn count(&self, slot: u32) -> u32 {
        T::count(self, slot)
    }
}
