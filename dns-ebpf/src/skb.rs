//! A `Packet` over an skb: linear bytes are read in place, others through the helper.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _, bindings::__sk_buff, helpers::generated::bpf_skb_load_bytes,
    programs::TcContext,
};
use dns_common::{
    dfa::{NAME_AT, NAME_COPY, Scratch},
    packet::{Packet, Scalar, VlanTag},
};

pub struct Skb {
    context: *mut __sk_buff,
    data: usize,
    data_end: usize,
}

impl Skb {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Self {
            context: context.as_ptr().cast(),
            data: context.data(),
            data_end: context.data_end(),
        }
    }

    #[inline(always)]
    fn raw(&self) -> &__sk_buff {
        // SAFETY: the kernel's context lives as long as the program runs.
        unsafe { &*self.context }
    }

    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        self.raw().ifindex
    }

    /// The tag that the kernel took out of the frame.
    #[inline(always)]
    pub fn vlan(&self) -> Option<VlanTag> {
        let skb = self.raw();
        (skb.vlan_present != 0).then(|| VlanTag {
            tci: skb.vlan_tci as u16,
            tpid: u16::from_be(skb.vlan_proto as u16),
        })
    }

    /// Copies `len` bytes from `offset` to `to`.
    ///
    /// # Safety
    /// `len` bytes at `to` must be writable, and the verifier must see that 0 < `len`.
    #[inline(always)]
    pub unsafe fn copy(&self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: as the caller promises.
        unsafe { bpf_skb_load_bytes(self.context.cast(), offset, to.cast(), len) == 0 }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.raw().len
    }

    #[inline(always)]
    fn load<T: Scalar>(&self, offset: u32) -> Option<T> {
        let at = self.data + offset as usize;
        if at + size_of::<T>() <= self.data_end {
            // SAFETY: within the linear part. The kernel aligns the IP header, not the Ethernet header; the machines
            // supported read unaligned integers, and `read_unaligned` would become byte loads on this target.
            return Some(unsafe { core::ptr::read_volatile(at as *const T) });
        }
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: `value` has room for a T, and any bytes are a T.
        unsafe {
            self.copy(offset, value.as_mut_ptr().cast(), size_of::<T>() as u32)
                .then(|| value.assume_init())
        }
    }

    #[inline(always)]
    fn copy_name(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
        if len == 0 || len > NAME_COPY {
            return false;
        }
        // SAFETY: NAME_AT + NAME_COPY bytes fit, and 0 < len ≤ NAME_COPY.
        unsafe {
            self.copy(
                offset,
                scratch.bytes.as_mut_ptr().add(NAME_AT as usize),
                len,
            )
        }
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        self.raw().gso_size != 0
    }
}
