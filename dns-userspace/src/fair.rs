//! A bounded map in which an interface can evict only entries of its own.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hash,
};

/// The owner of entries whose interface was removed: any interface may evict them.
const OWNERLESS: u32 = 0;

/// The size of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub total: usize,
    pub per_interface: usize,
}

/// Others fill the map within their share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A map with space for each interface, in which an interface can evict only entries of its own.
///
/// Entries leave in the order in which they were last written. An answer in use is written again at each refresh, so
/// that is near enough to least recently used, and reading writes nothing.
#[derive(Debug)]
pub struct FairMap<K, V> {
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
    pub fn new(limits: Limits) -> Self {
        FairMap {
            limits,
            slots: HashMap::new(),
            queues: HashMap::new(),
            writes: 0,
        }
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.slots.get(key).map(|slot| &slot.value)
    }

    /// To change a value in its place.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.slots.get_mut(key).map(|slot| &mut slot.value)
    }

    /// Writes an entry. An existing one stays with its first interface; a new one is refused when others fill the map within
    /// their share and this interface has no entry to replace.
    pub fn insert(&mut self, ifindex: u32, key: K, value: V) -> bool {
        let ifindex = match self.take(&key) {
            Some(slot) if slot.ifindex != OWNERLESS => slot.ifindex,
            _ => ifindex,
        };
        if self.make_room(ifindex).is_err() {
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

    /// Writes a new entry without an owner; `false` when it is full, or the key is there.
    pub fn adopt(&mut self, key: K, value: V) -> bool {
        if self.slots.len() >= self.limits.total || self.slots.contains_key(&key) {
            return false;
        }
        self.writes += 1;
        let write = self.writes;
        let queue = self.queues.entry(OWNERLESS).or_default();
        queue.insert(write, key.clone());
        let slot = Slot {
            value,
            ifindex: OWNERLESS,
            write,
        };
        self.slots.insert(key, slot);
        true
    }

    /// Makes an entry the newest of its interface.
    pub fn touch(&mut self, key: &K) {
        let Some(slot) = self.slots.get_mut(key) else {
            return;
        };
        let queue = self.queues.entry(slot.ifindex).or_default();
        queue.remove(&slot.write);
        self.writes += 1;
        slot.write = self.writes;
        queue.insert(self.writes, key.clone());
    }

    /// Makes room for one more entry of an interface; returns the evicted entry.
    pub fn make_room(&mut self, ifindex: u32) -> Result<Option<(K, V)>, Full> {
        if self.count(ifindex) >= self.limits.per_interface {
            return Ok(self.pop_oldest(ifindex));
        }
        if self.slots.len() < self.limits.total {
            return Ok(None);
        }
        self.pop_oldest(OWNERLESS)
            .or_else(|| self.pop_oldest(ifindex))
            .map(Some)
            .ok_or(Full)
    }

    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.take(key).map(|slot| slot.value)
    }

    /// Keeps the entries for which this says so.
    pub fn retain(&mut self, keep: impl Fn(&K, &V) -> bool) {
        let gone = self
            .slots
            .iter()
            .filter(|(key, slot)| !keep(key, &slot.value));
        let gone: Vec<K> = gone.map(|(key, _)| key.clone()).collect();
        for key in gone {
            self.take(&key);
        }
    }

    /// Every entry, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.slots.iter().map(|(key, slot)| (key, &slot.value))
    }

    fn take(&mut self, key: &K) -> Option<Slot<V>> {
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

    fn pop_oldest(&mut self, ifindex: u32) -> Option<(K, V)> {
        let oldest = self
            .queues
            .get(&ifindex)
            .and_then(BTreeMap::first_key_value);
        let key = oldest.map(|(_, key)| key.clone())?;
        let slot = self.take(&key)?;
        Some((key, slot.value))
    }

    /// Marks the entries of a removed interface as ownerless.
    pub fn release(&mut self, ifindex: u32) {
        let Some(queue) = self.queues.remove(&ifindex) else {
            return;
        };
        for key in queue.values() {
            if let Some(slot) = self.slots.get_mut(key) {
                slot.ifindex = OWNERLESS;
            }
        }
        self.queues.entry(OWNERLESS).or_default().extend(queue);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn entries_of_a_removed_interface_are_evicted_first() {
        let mut map = FairMap::new(Limits {
            total: 4,
            per_interface: 4,
        });
        for key in 0..4 {
            assert!(map.insert(1, key, ()));
        }
        assert!(!map.insert(2, 10, ()));
        map.release(1);
        for key in 10..14 {
            assert!(map.insert(2, key, ()));
        }
        assert_eq!((map.len(), map.count(2), map.count(OWNERLESS)), (4, 4, 0));
    }

    #[derive(Clone, Debug)]
    enum Action {
        Insert(u32, u8, u16),
        Remove(u8),
        Touch(u8),
        MakeRoom(u32),
        Release(u32),
        Adopt(u8, u16),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            8 => (1..5u32, 0..40u8, any::<u16>()).prop_map(|(i, k, v)| Action::Insert(i, k, v)),
            1 => (0..40u8).prop_map(Action::Remove),
            1 => (0..40u8).prop_map(Action::Touch),
            1 => (1..5u32).prop_map(Action::MakeRoom),
            1 => (1..5u32).prop_map(Action::Release),
            1 => (0..40u8, any::<u16>()).prop_map(|(k, v)| Action::Adopt(k, v)),
        ]
    }

    proptest! {
        /// Whatever happens, a key shows the last value written to it or none, and the map stays within its limits.
        #[test]
        fn keys_are_never_mixed_and_limits_hold(actions in prop::collection::vec(action(), 0..300)) {
            let mut map = FairMap::new(Limits { total: 20, per_interface: 8 });
            let mut written = HashMap::new();
            for action in actions {
                match action {
                    Action::Insert(ifindex, key, value) => {
                        map.insert(ifindex, key, value);
                        written.insert(key, value);
                    }
                    Action::Remove(key) => {
                        map.remove(&key);
                        written.remove(&key);
                    }
                    Action::Touch(key) => map.touch(&key),
                    Action::MakeRoom(ifindex) => {
                        let before = map.len();
                        if let Ok(gone) = map.make_room(ifindex) {
                            prop_assert_eq!(before - map.len(), usize::from(gone.is_some()));
                            prop_assert!(map.len() < 20 && map.count(ifindex) < 8);
                        }
                    }
                    Action::Release(ifindex) => map.release(ifindex),
                    Action::Adopt(key, value) => {
                        if map.adopt(key, value) {
                            written.insert(key, value);
                        }
                    }
                }
                prop_assert!(map.len() <= 20);
                prop_assert_eq!(map.queues.values().map(BTreeMap::len).sum::<usize>(), map.len());
                for (ifindex, queue) in &map.queues {
                    prop_assert!(!queue.is_empty());
                    prop_assert!(*ifindex == OWNERLESS || queue.len() <= 8);
                }
                for (key, slot) in &map.slots {
                    prop_assert_eq!(Some(&slot.value), written.get(key));
                    prop_assert_eq!(map.queues[&slot.ifindex].get(&slot.write), Some(key));
                }
            }
        }
    }
}
