//! Access to a frame, whatever holds it: an skb, an XDP buffer or a byte slice.

#[cfg(not(target_arch = "bpf"))]
mod slice;

use core::marker::PhantomData;

use crate::{abi::MAX_FRAME, scratch::Scratch, verifier};

#[cfg(not(target_arch = "bpf"))]
pub use slice::SlicePacket;

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

    /// Copies `len` bytes (1 to [`crate::scratch::NAME_COPY`]) from `offset` to [`crate::scratch::NAME_AT`] of the scratch.
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

/// An offset of a frame whose length was checked, where the verifier sees its bound: a pointer that is moved by more has
/// none to it.
#[inline(always)]
pub(crate) fn frame_offset(offset: u32) -> u32 {
    verifier::index::<{ MAX_FRAME.next_power_of_two() as u32 - 1 }>(offset) as u32
}

/// A big-endian 16-bit integer; `None` past the end.
#[inline(always)]
pub(crate) fn be16<P: Packet>(packet: &P, offset: u32) -> Option<u16> {
    packet.load::<u16>(offset).map(u16::from_be)
}
