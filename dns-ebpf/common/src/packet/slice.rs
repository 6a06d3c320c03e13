//! A frame in memory, for tests and fuzzing.

use super::{Packet, Scalar, Window};
use crate::{
    checksum::changed_checksum,
    scratch::{NAME_AT, Scratch},
};

/// A frame in memory, for tests and fuzzing.
#[derive(Debug)]
pub struct SlicePacket<'a> {
    /// The frame, and room for it to grow.
    bytes: &'a mut [u8],
    len: usize,
    pub gso: bool,
}

impl<'a> SlicePacket<'a> {
    /// A frame that cannot grow.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        let len = bytes.len();
        Self::with_room(bytes, len)
    }

    /// A frame of `len` bytes in a buffer that may be longer.
    pub fn with_room(bytes: &'a mut [u8], len: usize) -> Self {
        assert!(len <= bytes.len());
        Self {
            bytes,
            len,
            gso: false,
        }
    }

    /// The frame.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Packet for SlicePacket<'_> {
    fn len(&self) -> u32 {
        self.len as u32
    }

    fn load<T: Scalar>(&self, offset: u32) -> Option<T> {
        T::from_slice(self.bytes().get(offset as usize..)?)
    }

    fn copy_name(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
        let to = NAME_AT as usize;
        copy(self.bytes(), offset, scratch.bytes.get_mut(to..), len)
    }

    fn copy_options(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
        copy(self.bytes(), offset, scratch.reply.get_mut(..), len)
    }

    fn is_gso(&self) -> bool {
        self.gso
    }

    fn resize(&mut self, len: u32) -> bool {
        let len = len as usize;
        if len > self.bytes.len() {
            return false;
        }
        self.len = len;
        true
    }

    fn write(&mut self, offset: u32, scratch: &Scratch, len: u32) -> bool {
        let (at, len, end) = (offset as usize, len as usize, self.len);
        match (
            self.bytes[..end].get_mut(at..at + len),
            scratch.reply.get(..len),
        ) {
            (Some(to), Some(from)) => {
                to.copy_from_slice(from);
                true
            }
            _ => false,
        }
    }

    fn change_udp_checksum(
        &mut self,
        offset: u32,
        delta: u16,
        old_len: u16,
        new_len: u16,
        scratch: &mut Scratch,
    ) -> bool {
        let Some(window) = self.window::<2>(offset, scratch) else {
            return false;
        };
        let checksum = u16::from_be(window.get(0));
        let checksum = changed_checksum(checksum, delta, old_len, new_len);
        window.put(0, checksum.to_be());
        true
    }

    fn window<'a, const N: usize>(
        &'a mut self,
        offset: u32,
        _scratch: &'a mut Scratch,
    ) -> Option<Window<'a, N>> {
        let (at, end) = (offset as usize, self.len);
        let bytes = self.bytes[..end].get_mut(at..at + N)?;
        // SAFETY: N bytes, borrowed as long as the window lives.
        Some(unsafe { Window::new(bytes.as_mut_ptr()) })
    }
}

fn copy(frame: &[u8], offset: u32, to: Option<&mut [u8]>, len: u32) -> bool {
    let (at, len) = (offset as usize, len as usize);
    match (frame.get(at..at + len), to.and_then(|to| to.get_mut(..len))) {
        (Some(from), Some(to)) => {
            to.copy_from_slice(from);
            true
        }
        _ => false,
    }
}
