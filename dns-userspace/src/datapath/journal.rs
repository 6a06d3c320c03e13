//! The queries that this process has taken from the ring and not answered yet, in a pinned map: a successor takes them over.
//!
//! A slot is filled before its record leaves the ring, counts from just after that, and is free again just before the reply
//! or the query that passes is sent. A process that is killed in between, within nanoseconds, loses that one query; none is
//! answered twice. What a successor takes over is not kept for a third one: a query that ends its process ends one more at most.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aya::maps::{Array, Map, MapData, MapError};
use dns_common::word::Word;

use super::{
    DatapathError,
    heartbeat::monotonic_ns,
    mapping::Mapping,
    pins::{Shape, State, unpin},
    pod::Plain,
};
use crate::model::Held;

/// Name of the map. Programs do not know it.
pub(super) const TAKEN: &str = "TAKEN";
/// As many as there may be look-ups in flight.
const SLOTS: u32 = 2048;
const SLOT_WORDS: usize = 32;
/// What the kernel charges for it.
pub(super) const BYTES: u64 = SLOTS as u64 * 8 * SLOT_WORDS as u64;
/// What is left for a record. A longer one is not kept: its name has more than some 130 bytes.
const RECORD_WORDS: usize = SLOT_WORDS - 2;
/// A client has given up by then.
const PATIENCE: Duration = Duration::from_secs(5);

#[repr(C)]
struct Slot {
    /// Bytes of the record; 0 where there is none.
    len: Word,
    /// When it was taken, by the clock of the programs.
    taken_ns: Word,
    record: [Word; RECORD_WORDS],
}

impl Slot {
    fn fill(&self, record: &[u8], now_ns: u64) {
        for (word, bytes) in self.record.iter().zip(record.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(padded));
        }
        self.taken_ns.store(now_ns);
    }

    /// The record, unless it is too old; the slot is free then.
    fn take(&self, now_ns: u64) -> Option<Vec<u8>> {
        let len = usize::try_from(self.len.load()).unwrap_or(usize::MAX);
        self.len.store(0);
        let age = Duration::from_nanos(now_ns.saturating_sub(self.taken_ns.load()));
        if len == 0 || len > 8 * RECORD_WORDS || age > PATIENCE {
            return None;
        }
        let mut record: Vec<u8> = self
            .record
            .iter()
            .flat_map(|word| word.load().to_ne_bytes())
            .collect();
        record.truncate(len);
        Some(record)
    }
}

/// See the module.
pub(super) struct Journal(Mutex<Option<Inner>>);

/// A journal, where something is pinned: without, what a process has taken ends with it.
#[derive(Default)]
pub(super) struct Opened {
    pub journal: Option<Arc<Journal>>,
    /// Records that an earlier process had taken and not answered.
    pub left: Vec<Vec<u8>>,
}

struct Inner {
    slots: Mapping<Slot>,
    free: Vec<u32>,
}

/// A query in a slot.
struct InSlot {
    journal: Arc<Journal>,
    index: u32,
    is_released: AtomicBool,
}

/// A slot that is filled and does not count yet.
pub(super) struct Filled {
    journal: Arc<Journal>,
    index: u32,
    len: u64,
}

impl Filled {
    /// The record has left the ring.
    pub fn hold(self) -> Arc<dyn Held> {
        self.journal.set(self.index, self.len);
        Arc::new(InSlot {
            journal: self.journal,
            index: self.index,
            is_released: AtomicBool::new(false),
        })
    }
}

impl Held for InSlot {
    fn release(&self) {
        if !self.is_released.swap(true, Ordering::Relaxed) {
            self.journal.release(self.index);
        }
    }
}

impl std::fmt::Debug for InSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("InSlot").field(&self.index).finish()
    }
}

impl Drop for InSlot {
    fn drop(&mut self) {
        self.release();
    }
}

/// Makes the map where there is none that fits.
pub(super) fn prepare(state: &State) -> Result<std::path::PathBuf, DatapathError> {
    const MMAPABLE: u32 = 1 << 10;
    let path = state.map(TAKEN);
    let wanted = Shape {
        kind: aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY as u32,
        key_bytes: 4,
        value_bytes: size_of::<Slot>() as u32,
        elements: SLOTS,
    };
    if Shape::of_pin(&path) == Some(wanted) {
        return Ok(path);
    }
    unpin(&path);
    let map: Array<MapData, Plain<[u64; SLOT_WORDS]>> =
        Array::create(SLOTS, MMAPABLE).map_err(|error| match error {
            MapError::CreateError { io_error, .. } => DatapathError::CreateMap {
                name: TAKEN.to_owned(),
                error: io_error,
            },
            error => DatapathError::Map { name: TAKEN, error },
        })?;
    map.pin(&path).map_err(|error| DatapathError::Pin {
        path: path.clone(),
        error,
    })?;
    Ok(path)
}

impl Journal {
    /// Opens the map of [`prepare`].
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open(path: &std::path::Path) -> io::Result<Opened> {
        let map = MapData::from_pin(path).map_err(io::Error::other)?;
        let slots: Mapping<Slot> = Mapping::new(Map::Array(map))?;
        let left = take_all(&slots);
        let free = (0..slots.len() as u32).rev().collect();
        let journal = Self(Mutex::new(Some(Inner { slots, free })));
        Ok(Opened {
            journal: Some(Arc::new(journal)),
            left,
        })
    }

    /// Copies a record; `None` where there is no room for it.
    pub fn fill(self: &Arc<Self>, record: &[u8]) -> Option<Filled> {
        if record.len() > 8 * RECORD_WORDS {
            return None;
        }
        let mut inner = self.lock();
        let Inner { slots, free } = inner.as_mut()?;
        let index = free.pop()?;
        slots.element(index as usize)?.fill(record, monotonic_ns());
        Some(Filled {
            journal: Arc::clone(self),
            index,
            len: record.len() as u64,
        })
    }

    fn set(&self, index: u32, len: u64) {
        if let Some(inner) = &*self.lock()
            && let Some(slot) = inner.slots.element(index as usize)
        {
            slot.len.store(len);
        }
    }

    fn release(&self, index: u32) {
        if let Some(inner) = &mut *self.lock()
            && let Some(slot) = inner.slots.element(index as usize)
        {
            slot.len.store(0);
            inner.free.push(index);
        }
    }

    /// Writes no more from here on: this process answers what it has taken, and a successor has the map.
    pub fn let_go(&self) {
        if let Some(inner) = self.lock().take() {
            take_all(&inner.slots);
        }
    }

    /// A panic elsewhere leaves a slot in use at most.
    fn lock(&self) -> MutexGuard<'_, Option<Inner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Empties a journal, in the order of the slots' age.
fn take_all(slots: &Mapping<Slot>) -> Vec<Vec<u8>> {
    let now = monotonic_ns();
    let mut records: Vec<(u64, Vec<u8>)> = (0..slots.len())
        .filter_map(|index| slots.element(index))
        .filter_map(|slot| Some((slot.taken_ns.load(), slot.take(now)?)))
        .collect();
    records.sort_by_key(|(taken_ns, _)| *taken_ns);
    records.into_iter().map(|(_, record)| record).collect()
}

/// What another version's process had taken, where its records are like this one's.
pub(super) fn take_of(path: &std::path::Path) -> Vec<Vec<u8>> {
    if !path.exists() {
        return Vec::new();
    }
    let slots = MapData::from_pin(path)
        .ok()
        .and_then(|map| Mapping::new(Map::Array(map)).ok());
    slots.as_ref().map_or_else(Vec::new, take_all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot() -> Slot {
        Slot {
            len: Word::new(0),
            taken_ns: Word::new(0),
            record: [const { Word::new(0) }; RECORD_WORDS],
        }
    }

    #[test]
    fn a_record_is_read_back_once() {
        for len in [1, 8, 167, 8 * RECORD_WORDS] {
            let record: Vec<u8> = (0..len).map(|byte| byte as u8).collect();
            let slot = slot();
            slot.fill(&record, 1000);
            assert_eq!(slot.take(1000), None, "it does not count yet");
            slot.len.store(len as u64);
            assert_eq!(slot.take(2000), Some(record));
            assert_eq!(slot.take(2000), None);
        }
    }

    #[test]
    fn what_no_client_waits_for_is_dropped() {
        let slot = slot();
        slot.fill(&[7; 100], 1000);
        slot.len.store(100);
        assert_eq!(slot.take(1001 + PATIENCE.as_nanos() as u64), None);
        assert_eq!(slot.len.load(), 0);
    }

    #[test]
    fn a_length_that_cannot_be_is_none() {
        let slot = slot();
        slot.len.store(u64::MAX);
        assert_eq!(slot.take(0), None);
    }
}
