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

    /// Reads an integer in native byte order, as it stands in memory; `None` past the end.
    fn load<T: Scalar>(&self, offset: u32) -> Option<T>;

    /// Copies `len` bytes (1 to [`crate::dfa::NAME_COPY`]) from `offset` to [`crate::dfa::NAME_AT`] of the scratch.
    fn copy_name(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool;

    /// Copies `len` bytes (1 to [`MAX_OPTIONS`]) from `offset` to the start of the scratch's reply.
    fn copy_options(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool;

    /// Whether the buffer stands for several datagrams (generic segmentation offload), or for one that goes on in other
    /// buffers (XDP).
    fn is_gso(&self) -> bool;

    /// Gives the frame another length; what is new has any bytes. A frame for which that fails is as it was.
    fn resize(&mut self, len: u32) -> bool;

    /// Writes the first `len` bytes of the scratch's reply at `offset`.
    fn write(&mut self, offset: u32, scratch: &Scratch, len: u32) -> bool;

    /// Brings the UDP checksum at `offset` up to date: the ones' complement sum of what it covers has grown by `delta`,
    /// and the length in its pseudo-header has changed. A checksum of 0 over IPv4 stays.
    fn change_udp_checksum(&mut self, offset: u32, delta: u16, old_len: u16, new_len: u16) -> bool;

    /// `N` bytes at `offset`, to be read and written in place. The frame is linear up to there once it was resized.
    fn window<const N: usize>(&mut self, offset: u32) -> Option<Window<'_, N>>;
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
    pub(crate) fn get<T: Scalar>(&self, at: usize) -> T {
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
    pub(crate) fn put<T: Scalar>(&self, at: usize, value: T) {
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
    if checksum == 0 {
        return 0;
    }
    let sum = u32::from(!checksum) + u32::from(delta) + u32::from(!old_len) + u32::from(new_len);
    match !fold(sum) {
        0 => 0xffff,
        checksum => checksum,
    }
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

    fn change_udp_checksum(&mut self, offset: u32, delta: u16, old_len: u16, new_len: u16) -> bool {
        let Some(window) = self.window::<2>(offset) else {
            return false;
        };
        let checksum = u16::from_be(window.get(0));
        let checksum = changed_checksum(checksum, delta, old_len, new_len);
        window.put(0, checksum.to_be());
        true
    }

    fn window<const N: usize>(&mut self, offset: u32) -> Option<Window<'_, N>> {
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
