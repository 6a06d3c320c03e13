//! One mapped table of the programs: an index, its entries, and which key has which slot for which interface.

use dns_common::{
    answer::{self, Key, WAYS, Ways},
    word::Word,
};

use aya::Ebpf;

use super::super::{DatapathError, mapping::Mapping, object::mapping};
use crate::fair::{FairMap, Limits};

/// An index, its entries, and their owners.
pub(super) struct Table<T> {
    index: Mapping<Ways>,
    entries: Mapping<T>,
    keys: FairMap<Key, u32>,
    free: Vec<u32>,
}

/// Where an entry is to be written.
pub(super) struct Place {
    pub slot: u32,
    /// Hash and way of the key, unless the index leads to this slot already.
    way: Option<(u64, usize)>,
    /// The slot that the key has had until then.
    pub before: Option<u32>,
}

impl Place {
    /// Whether the slot had another key, or none, before.
    pub fn is_new(&self) -> bool {
        self.way.is_some()
    }
}

impl<T: AsRef<[Word]>> Table<T> {
    /// Takes the maps, with the entries that are in them; those that end before `now_ns` are released.
    pub fn open(
        ebpf: &mut Ebpf,
        index: &'static str,
        entries: &'static str,
        limits: Limits,
        seed: u64,
        now_ns: u64,
    ) -> Result<Self, DatapathError> {
        let mut table = Self {
            index: mapping(ebpf, index)?,
            entries: mapping(ebpf, entries)?,
            keys: FairMap::new(limits),
            free: Vec::new(),
        };
        table.adopt(limits.total as u32, seed, now_ns);
        Ok(table)
    }

    /// Makes index and accounts agree with the entries. What an earlier process has left half done is undone: a writer may
    /// end between any two stores.
    fn adopt(&mut self, slots: u32, seed: u64, now_ns: u64) {
        let mut taken = vec![false; slots as usize];
        let mut found = Vec::new();
        for slot in 0..slots {
            let Some(entry) = self.entries.element(slot as usize).map(AsRef::as_ref) else {
                continue;
            };
            let key = answer::key_of(entry).filter(|key| {
                answer::until_of(entry) > now_ns && self.is_found(key.hash(seed), slot)
            });
            match key {
                Some(key) => found.push((answer::until_of(entry), slot, key)),
                None => answer::release(entry),
            }
        }
        // Those that were published longest ago are evicted first. In the order of their slots that would be the names that are
        // known longest, which are the ones that are asked for all the time.
        found.sort_unstable_by_key(|(until, slot, _)| (*until, *slot));
        for (_, slot, key) in found {
            if self.keys.adopt(key, slot) {
                taken[slot as usize] = true;
            } else if let Some(entry) = self.entries.element(slot as usize) {
                answer::release(entry.as_ref());
            }
        }
        for bucket in 0..self.index.len() {
            for way in self.index.element(bucket).into_iter().flatten() {
                let slot = (way.load() as u32).wrapping_sub(1);
                if !taken.get(slot as usize).copied().unwrap_or(false) {
                    way.store(0);
                }
            }
        }
        self.free = (0..slots)
            .rev()
            .filter(|slot| !taken[*slot as usize])
            .collect();
    }

    /// Whether the index leads to a slot, and to no other that looks the same.
    fn is_found(&self, hash: u64, slot: u32) -> bool {
        let ways = self.ways(hash).into_iter().flatten();
        let mut alike = ways
            .map(Word::load)
            .filter(|tag| *tag != 0 && tag >> 32 == hash >> 32);
        alike.next() == Some(tag(hash, slot)) && alike.next().is_none()
    }

    pub fn buckets(&self) -> usize {
        self.index.len()
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn entry(&self, slot: u32) -> Option<&T> {
        self.entries.element(slot as usize)
    }

    /// The entry of a key.
    pub fn find(&self, key: &Key) -> Option<&T> {
        self.entry(*self.keys.get(key)?)
    }

    /// Every key with its slot, in no order.
    pub fn keys(&self) -> impl Iterator<Item = (&Key, u32)> {
        self.keys.iter().map(|(key, slot)| (key, *slot))
    }

    pub fn release_interface(&mut self, ifindex: u32) {
        self.keys.release(ifindex);
    }

    fn ways(&self, hash: u64) -> Option<&Ways> {
        ways(&self.index, hash)
    }

    /// A free slot for a key, which no program can find yet; `None` when the table is full. `gone` is called with each
    /// key that was evicted. A key that has a slot gets another one: a process that ends in the middle leaves the entry whole
    /// that programs find. Only where there is none left does it get its own again.
    pub fn place(
        &mut self,
        ifindex: u32,
        key: &Key,
        seed: u64,
        mut gone: impl FnMut(&Key, u32),
    ) -> Option<Place> {
        if let Some(place) = self.beside(key, seed) {
            self.keys.touch(key);
            return Some(place);
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
            before: None,
        })
    }

    /// The same for a key that has a slot; `None` for one that has none.
    pub fn beside(&mut self, key: &Key, seed: u64) -> Option<Place> {
        let before = *self.keys.get(key)?;
        let hash = key.hash(seed);
        let mut ways = self.ways(hash)?.iter();
        let way = ways.position(|way| way.load() == tag(hash, before));
        let (Some(way), Some(slot)) = (way, self.free.pop()) else {
            return Some(Place {
                slot: before,
                way: None,
                before: None,
            });
        };
        *self.keys.get_mut(key)? = slot;
        Some(Place {
            slot,
            way: Some((hash, way)),
            before: Some(before),
        })
    }

    /// A free slot for a key without an owner; `None` when the table is full.
    pub fn place_unowned(&mut self, key: &Key, seed: u64) -> Option<Place> {
        let hash = key.hash(seed);
        let way = free_way(self.ways(hash)?, hash)?;
        let slot = *self.free.last()?;
        if !self.keys.adopt(*key, slot) {
            return None;
        }
        self.free.pop();
        Some(Place {
            slot,
            way: Some((hash, way)),
            before: None,
        })
    }

    /// Lets the programs find what was written, in the place of what they have found before.
    pub fn show(&self, place: &Place) {
        if let Some((hash, way)) = place.way
            && let Some(ways) = self.ways(hash)
        {
            ways[way].store(tag(hash, place.slot));
        }
    }

    /// Releases the slot that the key of a place has had, once nothing leads there.
    pub fn release_before(&mut self, place: &Place) {
        let Some(before) = place.before else {
            return;
        };
        if let Some(entry) = self.entry(before) {
            answer::release(entry.as_ref());
        }
        self.free.push(before);
    }

    pub fn remove(&mut self, key: &Key, seed: u64) -> Option<u32> {
        let slot = self.keys.remove(key)?;
        self.vacate(key, slot, seed);
        Some(slot)
    }

    /// Releases the slot of a key that has left `keys`.
    fn vacate(&mut self, key: &Key, slot: u32, seed: u64) {
        clear(self.ways(key.hash(seed)), slot);
        if let Some(entry) = self.entry(slot) {
            answer::release(entry.as_ref());
        }
        self.free.push(slot);
    }
}

/// The bucket of a hash.
pub(super) fn ways(index: &Mapping<Ways>, hash: u64) -> Option<&Ways> {
    // A power of two.
    index.element(hash as usize & (index.len() - 1))
}

/// A free way, unless another key looks the same from here.
fn free_way(ways: &Ways, hash: u64) -> Option<usize> {
    let tags: [u64; WAYS] = ways.each_ref().map(Word::load);
    if tags.iter().any(|tag| *tag != 0 && tag >> 32 == hash >> 32) {
        return None;
    }
    tags.iter().position(|tag| *tag == 0)
}

/// Leads from a hash to a slot, in the place of another one that it has led to, or where the bucket has a free way.
pub(super) fn show(index: &Mapping<Ways>, hash: u64, slot: u32) {
    let Some(ways) = ways(index, hash) else {
        return;
    };
    let find = |wanted: u64| ways.iter().find(|way| way.load() >> 32 == wanted);
    // A way that is free is all zero; a hash whose upper half is too finds one as well.
    if let Some(way) = find(hash >> 32).or_else(|| ways.iter().find(|way| way.load() == 0)) {
        way.store(tag(hash, slot));
    }
}

fn tag(hash: u64, slot: u32) -> u64 {
    hash >> 32 << 32 | u64::from(slot + 1)
}

/// Removes what leads to a slot from a bucket.
pub(super) fn clear(ways: Option<&Ways>, slot: u32) {
    for way in ways.into_iter().flatten() {
        if way.load() as u32 == slot + 1 {
            way.store(0);
        }
    }
}
