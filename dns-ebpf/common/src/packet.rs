//! Access to a frame, whatever holds it: an skb, an XDP buffer or a byte slice.

use crate::dfa::Scratch;

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
    /// Bytes in the whole frame, including what is not linear.
    fn len(&self) -> u32;

    /// Whether there is no byte at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads an integer in native byte order, as it stands in memory; `None` past the end.
    fn load<T: Scalar>(&self, offset: u32) -> Option<T>;

    /// Copies `len` bytes (1 to [`crate::dfa::NAME_COPY`]) from `offset` to [`crate::dfa::NAME_AT`] of the scratch.
    fn copy_name(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool;

    /// Whether the buffer stands for several datagrams (generic segmentation offload).
    fn is_gso(&self) -> bool;
}

/// A frame in memory, for tests and fuzzing.
#[derive(Debug)]
pub struct SlicePacket<'a> {
    pub bytes: &'a mut [u8],
    pub gso: bool,
}

impl<'a> SlicePacket<'a> {
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { bytes, gso: false }
    }
}

impl Packet for SlicePacket<'_> {
    fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn load<T: Scalar>(&self, offset: u32) -> Option<T> {
        T::from_slice(self.bytes.get(offset as usize..)?)
    }

    fn copy_name(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
        let (start, len) = (offset as usize, len as usize);
        let to = crate::dfa::NAME_AT as usize;
        match (
            self.bytes.get(start..start + len),
            scratch.bytes.get_mut(to..to + len),
        ) {
            (Some(from), Some(to)) => {
                to.copy_from_slice(from);
                true
            }
            _ => false,
        }
    }

    fn is_gso(&self) -> bool {
        self.gso
    }
}
