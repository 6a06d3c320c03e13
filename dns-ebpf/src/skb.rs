//! A `Packet` over an skb: linear bytes are read in place, others through the helper.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_load_bytes, bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use dns_common::{
    answer::REPLY_LEN,
    dfa::Scratch,
    packet::{Packet, Scalar, VlanTag, Window},
};

use crate::host::{self, Frame};

pub struct Skb {
    context: *mut __sk_buff,
    data: usize,
    data_end: usize,
}

impl Skb {
    #[inline(always)]
    pub fn new(context: &TcContext) -> Self {
        Frame::from_raw(context.as_ptr().cast())
    }

    /// Finds the frame again after a helper may have moved it.
    #[inline(always)]
    fn locate(&mut self) {
        let skb = self.raw();
        (self.data, self.data_end) = (skb.data as usize, skb.data_end as usize);
    }

    #[inline(always)]
    fn raw(&self) -> &__sk_buff {
        // SAFETY: the kernel's context lives as long as the program runs.
        unsafe { &*self.context }
    }
}

impl Frame for Skb {
    const IS_FROM_A_WIRE: bool = false;

    type Context = __sk_buff;

    #[inline(always)]
    fn from_raw(context: *mut __sk_buff) -> Self {
        // SAFETY: the context lives as long as the program runs.
        let skb = unsafe { &*context };
        Self {
            context,
            data: skb.data as usize,
            data_end: skb.data_end as usize,
        }
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut __sk_buff {
        self.context
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.raw().ifindex
    }

    #[inline(always)]
    fn vlan(&self) -> Option<VlanTag> {
        let skb = self.raw();
        (skb.vlan_present != 0).then(|| VlanTag {
            tci: skb.vlan_tci as u16,
            tpid: u16::from_be(skb.vlan_proto as u16),
        })
    }

    #[inline(always)]
    unsafe fn copy(&self, offset: u32, to: *mut u8, len: u32) -> bool {
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
        host::copy_name(self, offset, len, scratch)
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        self.raw().gso_size != 0
    }

    #[inline(always)]
    fn copy_options(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
        host::copy_options(self, offset, len, scratch)
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> bool {
        // SAFETY: the context is the kernel's. The whole frame is linear and ours afterwards.
        let done = unsafe { bpf_skb_change_tail(self.context.cast(), len, 0) == 0 };
        self.locate();
        done
    }

    #[inline(always)]
    fn write(&mut self, offset: u32, scratch: &Scratch, len: u32) -> bool {
        if len == 0 || len > REPLY_LEN as u32 {
            return false;
        }
        // SAFETY: 0 < len ≤ REPLY_LEN, which the scratch has.
        let done = unsafe {
            bpf_skb_store_bytes(
                self.context.cast(),
                offset,
                scratch.reply.as_ptr().cast(),
                len,
                0,
            ) == 0
        };
        self.locate();
        done
    }

    #[inline(always)]
    fn change_udp_checksum(&mut self, offset: u32, delta: u16, old_len: u16, new_len: u16) -> bool {
        let mangled = u64::from(BPF_F_MARK_MANGLED_0);
        // What a checksum covers, and the pseudo-header, one by one: a frame whose checksum is only begun has the latter
        // alone in its field, and the helper knows which frames these are.
        // SAFETY: the context is the kernel's.
        let done = unsafe {
            bpf_l4_csum_replace(
                self.context.cast(),
                offset,
                0,
                u64::from(delta.to_be()),
                mangled,
            ) == 0
                && bpf_l4_csum_replace(
                    self.context.cast(),
                    offset,
                    u64::from(old_len.to_be()),
                    u64::from(new_len.to_be()),
                    mangled | u64::from(BPF_F_PSEUDO_HDR) | 2,
                ) == 0
        };
        self.locate();
        done
    }

    #[inline(always)]
    fn window<const N: usize>(&mut self, offset: u32) -> Option<Window<'_, N>> {
        let at = self.data + (offset & 31) as usize;
        if at + N > self.data_end {
            return None;
        }
        // SAFETY: N bytes of the linear part, which is ours alone once the frame was resized.
        Some(unsafe { Window::new(at as *mut u8) })
    }
}
