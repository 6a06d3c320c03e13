//! Notes of a process for the next one, pinned beside the tables: each is a map of one element, replaced in one step, since bpffs
//! takes no plain files.

use std::{
    fs, io, iter,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    link,
    pins::{Shape, State, make_directory, unpin},
    sys::{Attr, bpf_raw, descriptor},
};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_int = 1;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;

const BPF_MAP_TYPE_ARRAY: u32 = 2;

/// The folder of notes in that of a version.
const NOTES: &str = "notes";

impl State {
    /// Leaves a note for the next process in the place of the one before. A name has no dots; a note is not empty. Only for the
    /// holder of the lock.
    pub fn leave_note(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let folder = self.map(NOTES);
        make_directory(&folder)?;
        let new = folder.join(format!("{name}-new"));
        // Of a process that was killed between the two steps.
        unpin(&new);
        link::pin(&write(text)?, &new)?;
        fs::rename(&new, folder.join(name))
    }

    /// What a process of this ABI version has left, or one of another.
    pub fn note(&self, name: &str) -> Option<Vec<u8>> {
        let own = iter::once(self.map(NOTES));
        let others = self.other_versions().map(|version| version.join(NOTES));
        own.chain(others)
            .find_map(|folder: PathBuf| read(&folder.join(name)))
    }
}

/// The part of `union bpf_attr` for an element.
#[repr(C, align(8))]
struct Element {
    map: u32,
    unused: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Element {
    /// The only one; `value` is an address.
    fn of(map: &OwnedFd, key: &u32, value: u64) -> Self {
        Self {
            map: map.as_raw_fd() as u32,
            unused: 0,
            key: std::ptr::from_ref(key) as u64,
            value,
            flags: 0,
        }
    }
}

/// A map whose only element is this text.
fn write(text: &[u8]) -> io::Result<OwnedFd> {
    let bytes = u32::try_from(text.len()).map_err(io::Error::other)?;
    let attr = Attr([BPF_MAP_TYPE_ARRAY, size_of::<u32>() as u32, bytes, 1]);
    let map = descriptor(BPF_MAP_CREATE, attr)?;
    let mut element = Element::of(&map, &0, text.as_ptr() as u64);
    // SAFETY: key and value are there, and the value is as long as the map's.
    unsafe { bpf_raw(BPF_MAP_UPDATE_ELEM, &mut element) }?;
    Ok(map)
}

/// `None` if the note does not exist or cannot be read.
fn read(path: &Path) -> Option<Vec<u8>> {
    let shape = Shape::of_pin(path)?;
    let is_note = (shape.kind, shape.key_bytes, shape.elements) == (BPF_MAP_TYPE_ARRAY, 4, 1);
    if !is_note {
        return None;
    }
    let read = link::open(path).and_then(|map| {
        let mut text = vec![0; shape.value_bytes as usize];
        let mut element = Element::of(&map, &0, text.as_mut_ptr() as u64);
        // SAFETY: the key is there, and the value has the room that the map's takes.
        unsafe { bpf_raw(BPF_MAP_LOOKUP_ELEM, &mut element) }?;
        Ok(text)
    });
    read.inspect_err(|error| {
        tracing::warn!(path = %path.display(), %error, "cannot read a note of an earlier process");
    })
    .ok()
}
