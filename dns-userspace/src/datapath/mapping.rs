//! The value of an array map as memory that this process writes and the programs read.

use std::{io, num::NonZero, ptr::NonNull};

use aya::maps::{Map, MapData};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};

/// A shared mapping of all elements of an array map.
pub struct Mapping<T> {
    start: NonNull<T>,
    elements: usize,
    bytes: NonZero<usize>,
    // The mapping outlives the descriptor, but the map's elements are counted while it is open.
    _map: MapData,
}

// SAFETY: what is mapped is reached by `element`, whose types take care of concurrent access themselves.
unsafe impl<T: Sync> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Mapping<T> {}

impl<T> Mapping<T> {
    /// Maps an array made with `BPF_F_MMAPABLE` of which `T` is the element.
    pub fn new(map: Map) -> io::Result<Self> {
        let Map::Array(map) = map else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let info = map.info().map_err(io::Error::other)?;
        // The kernel keeps elements at multiples of eight bytes.
        if info.value_size() as usize != size_of::<T>() || !size_of::<T>().is_multiple_of(8) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let elements = info.max_entries() as usize;
        let bytes = NonZero::new(elements * size_of::<T>()).ok_or(io::ErrorKind::InvalidData)?;
        // SAFETY: a new mapping of a map of this size.
        let start = unsafe {
            mmap(
                None,
                bytes,
                ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
                MapFlags::MAP_SHARED,
                map.fd(),
                0,
            )
        }?;
        Ok(Self {
            start: start.cast(),
            elements,
            bytes,
            _map: map,
        })
    }

    pub fn len(&self) -> usize {
        self.elements
    }

    /// One element; its type must allow for others to change it at any time.
    pub fn element(&self, index: usize) -> Option<&T> {
        // SAFETY: within the mapping, which lives as long as `self`; any bytes are a T (see `new`).
        (index < self.elements).then(|| unsafe { self.start.add(index).as_ref() })
    }
}

impl Mapping<dns_common::dfa::Table> {
    /// Writes the first entries of the table; no program may run with it yet.
    pub fn fill(&mut self, entries: &[u32]) {
        let len = entries.len().min(dns_common::dfa::TABLE_LEN);
        // SAFETY: the mapping has one table, and no program reads it yet.
        unsafe {
            std::ptr::copy_nonoverlapping(entries.as_ptr(), self.start.cast().as_ptr(), len);
        }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: mapped by `new`, and nothing borrowed from it is left.
        let _ = unsafe { munmap(self.start.cast(), self.bytes.get()) };
    }
}
