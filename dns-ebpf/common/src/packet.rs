//! Access to a frame, whatever holds it: an skb, an XDP buffer or a byte slice.

use core::marker::PhantomData;

use crate::{dfa::Scratch, reply::fold};

/// Fixed-size integers that may be read from any offset of a frame.
pub trait Scalar: Copy {
    #[doc(hidden)]
    fn from_slice(bytes: &[u8]) -> Option<Self>;
}

macro_rules! scalar {
    ($($t:ty),+) => {$(
        impl Scalar for $t {
            #[inline(always)]
            fn from_slice(bytes: &[u8]) -> Option<Self> {
                Some(<$t>::from_ne_bytes(*bytes.first_chunk()?))
            }
        }
    )+};
}
// No u8: LLVM turns its bounds check into `end > at`, from which the verifier learns nothing.
scalar!(u16, u32, u64);

/// An 802.1Q tag that the kernel keeps outside the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VlanTag {
    /// Host byte order.
    pub tci: u16,
    /// Host byte order.
    pub tpid: u16,
}

/// A frame from its Ethernet header on.
pub trait Packet {
    /// Bytes in the whole frame, including what is not linear, unless [`Packet::is_gso`].
    fn len(&self) -> u32;

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads an integer in native byte order; `None` past the end.
    fn load<T: Scalar>(&self, offset: u32) -> Option<T>;

    /// Copies `len` bytes (1 to [`crate::dfa::NAME_COPY`]) from `offset` to [`crate::dfa::NAME_AT`] of the scratch.
    fn copy_name(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool;

    /// Copies `len` bytes (1 to [`MAX_OPTIONS`]) from `offset` to the start of the scratch's reply.
    fn copy_options(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool;

    /// Whether the buffer holds several datagrams (generic segmentation offload), or for one that goes on in other
    /// buffers (XDP).
    fn is_gso(&self) -> bool;

    /// Gives the frame another length; what is new has any bytes. A frame for which that fails is as it was.
    fn resize(&mut self, len: u32) -> bool;

    /// Writes the first `len` bytes of the scratch's reply at `offset`.
    fn write(&mut self, offset: u32, scratch: &Scratch, len: u32) -> bool;

    /// Makes the first `len` bytes ready to be changed, in the scratch where they cannot be in place.
    fn take_headers(&mut self, _len: u32, _scratch: &mut Scratch) -> bool {
        true
    }

    /// Brings the UDP checksum at `offset` of the headers that were taken up to date: the ones' complement sum of what it
    /// covers has grown by `delta`, and the length in its pseudo-header has changed. A checksum of 0 over IPv4 stays.
    fn change_udp_checksum(
        &mut self,
        offset: u32,
        delta: u16,
        old_len: u16,
        new_len: u16,
        scratch: &mut Scratch,
    ) -> bool;

    /// `N` bytes at `offset` of the headers that were taken.
    fn window<'a, const N: usize>(
        &'a mut self,
        offset: u32,
        scratch: &'a mut Scratch,
    ) -> Option<Window<'a, N>>;

    /// Puts them back.
    fn put_headers(&mut self, _len: u32, _scratch: &Scratch) -> bool {
        true
    }
}

/// Most bytes of EDNS options that a program looks at.
pub const MAX_OPTIONS: u32 = 256;
/// Room for the headers of a frame: Ethernet, two tags, IPv6, UDP and DNS are 82 bytes.
pub const HEADERS: usize = 128;

/// Bytes of a frame that are known to be there.
pub struct Window<'a, const N: usize> {
    start: *mut u8,
    frame: PhantomData<&'a mut [u8]>,
}

impl<'a, const N: usize> Window<'a, N> {
    /// # Safety
    /// `N` bytes from `start` must be readable and writable as long as the window lives.
    #[inline(always)]
    pub unsafe fn new(start: *mut u8) -> Self {
        Self {
            start,
            frame: PhantomData,
        }
    }

    #[inline(always)]
    pub fn get<T: Scalar>(&self, at: usize) -> T {
        debug_assert!(at + size_of::<T>() <= N);
        // SAFETY: callers name places below N, all of them constants.
        unsafe {
            #[cfg(target_arch = "bpf")]
            {
                core::ptr::read_volatile(self.start.add(at).cast())
            }
            #[cfg(not(target_arch = "bpf"))]
            {
                self.start.add(at).cast::<T>().read_unaligned()
            }
        }
    }

    #[inline(always)]
    pub fn put<T: Scalar>(&self, at: usize, value: T) {
        debug_assert!(at + size_of::<T>() <= N);
        // SAFETY: as in `get`.
        unsafe {
            #[cfg(target_arch = "bpf")]
            {
                core::ptr::write_volatile(self.start.add(at).cast(), value);
            }
            #[cfg(not(target_arch = "bpf"))]
            {
                self.start.add(at).cast::<T>().write_unaligned(value);
            }
        }
    }

    /// The twelve bytes of a DNS header.
    #[inline(always)]
    pub(crate) fn dns_header(self, at: usize) -> Window<'a, 12> {
        debug_assert!(at + 12 <= N);
        // SAFETY: as in `get`.
        unsafe { Window::new(self.start.add(at)) }
    }
}

/// A checksum that covers everything, after what it covers has changed (RFC 1624).
#[inline(always)]
pub fn changed_checksum(checksum: u16, delta: u16, old_len: u16, new_len: u16) -> u16 {
    let delta = u32::from(delta) + u32::from(!old_len) + u32::from(new_len);
    with_delta(checksum, delta)
}

/// The same where the sum has grown by `delta`, in the byte order of the checksum. 0 means no checksum.
#[inline(always)]
pub fn with_delta(checksum: u16, delta: u32) -> u16 {
    if checksum == 0 {
        return 0;
    }
    match !fold(u32::from(!checksum) + delta) {
        0 => 0xffff,
        checksum => checksum,
    }
}

/// Whether a field that was `before` and is `after` has had a part of its pseudo-header, `from`, replaced by `to` as in a
/// checksum that is only begun: by adding to the field, where a whole one, which is the complement of its sum, is taken
/// from. An unchanged length shows nothing.
#[inline(always)]
pub fn is_begun(before: u16, after: u16, from: u16, to: u16) -> bool {
    let begun = fold(u32::from(before) + u32::from(!from) + u32::from(to));
    // Both 0 and 0xffff are zero.
    matches!(fold(u32::from(after) + u32::from(!begun)), 0 | 0xffff)
}

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
        let to = crate::dfa::NAME_AT as usize;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_length_does_to_a_checksum_tells_a_begun_one_from_a_whole_one() {
        for before in (1..=u16::MAX).step_by(7) {
            for (from, to) in [(100u16, 101u16), (101, 100), (9, 1240), (1240, 9), (8, 520)] {
                let (from, to) = (from.to_be(), to.to_be());
                let change = u32::from(!from) + u32::from(to);
                let begun = fold(u32::from(before) + change);
                assert!(is_begun(before, begun, from, to));
                let whole = with_delta(before, change);
                assert!(!is_begun(before, whole, from, to), "{before} {from} {to}");
            }
        }
    }

    #[test]
    fn a_delta_and_a_length_can_be_put_right_one_after_the_other() {
        for checksum in [0, 1, 0x1234, 0xfffe, 0xffff] {
            let at_once = changed_checksum(checksum, 0xabcd, 60, 259);
            let length = with_delta(checksum, u32::from(!60u16) + 259);
            assert_eq!(with_delta(length, 0xabcd), at_once);
        }
    }
}
