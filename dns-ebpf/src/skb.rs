//! A `Packet` over an skb: linear bytes are read in place, others through the helper.

use core::mem::MaybeUninit;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_skb_change_tail, bpf_skb_change_type, bpf_skb_load_bytes,
        bpf_skb_store_bytes,
    },
    programs::TcContext,
};
use dns_common::{
    abi::RETURNED,
    checksum::{is_begun, with_delta},
    packet::{Packet, Scalar, VlanTag, Window},
    scratch::{HEADERS, REPLY_LEN, Scratch},
    verifier,
};

use crate::{
    host::{self, Frame},
    process,
};

/// Of `<linux/if_packet.h>`: addressed to this host.
const PACKET_HOST: u32 = 0;
/// Bounds offsets and lengths of headers.
const HEADERS_MASK: u32 = HEADERS as u32 - 1;

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

    /// Whether the responder has brought this query back. From now on it is again as the pod sent it.
    #[inline(always)]
    pub fn is_returned(&self) -> bool {
        // SAFETY: the kernel's context, read and written in the one width that the verifier takes.
        unsafe {
            if (&raw const (*self.context).tc_index).read_volatile() != RETURNED {
                return false;
            }
            (&raw mut (*self.context).tc_index).write_volatile(0);
        }
        true
    }

    /// Makes the frame one that is addressed to its receiver. A query that a bridge is to forward is not, and before Linux
    /// 6.15 `bpf_redirect_peer` leaves it so: the pod would drop its answer.
    #[inline(always)]
    pub fn address_to_host(&self) {
        if self.raw().pkt_type != PACKET_HOST {
            // SAFETY: the context is the kernel's. It refuses only types that no received frame has.
            unsafe { bpf_skb_change_type(self.context.cast(), PACKET_HOST) };
        }
    }

    /// Copies `len` bytes into the frame.
    ///
    /// # Safety
    /// `len` bytes at `from` must be readable, and `len` must come from [`verifier::length`].
    #[inline(always)]
    unsafe fn store(&self, offset: u32, from: *const u8, len: u32) -> bool {
        // SAFETY: as the caller promises.
        unsafe { bpf_skb_store_bytes(self.context.cast(), offset, from.cast(), len, 0) == 0 }
    }

    /// `N` bytes of the headers in the scratch, at an offset that is masked.
    #[inline(always)]
    fn window_at<'a, const N: usize, const MASK: u32>(
        &self,
        offset: u32,
        scratch: &'a mut Scratch,
    ) -> Option<Window<'a, N>> {
        const { assert!(MASK as usize + N <= HEADERS + 1) };
        // SAFETY: N bytes from a masked offset are within the array, or one byte of what follows it.
        Some(unsafe {
            Window::new(
                scratch
                    .headers
                    .as_mut_ptr()
                    .add(verifier::index::<MASK>(offset)),
            )
        })
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
    fn finish(&self, _scratch: &Scratch) -> u32 {
        gregor_finish_skb(self.context)
    }

    #[inline(always)]
    fn keeps(&self, reason: u32) -> u32 {
        gregor_keeps_skb(self.context, reason)
    }

    #[inline(always)]
    fn reply(context: *mut __sk_buff) -> u32 {
        gregor_reply_skb(context)
    }

    #[inline(always)]
    fn finds_process(&self) -> bool {
        process::gregor_process_skb(self.context) != 0
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

/// See [`host::finish`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_finish_skb(context: *mut __sk_buff) -> u32 {
    host::finish::<Skb>(context)
}

/// See [`host::keeps`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_keeps_skb(context: *mut __sk_buff, reason: u32) -> u32 {
    host::keeps::<Skb>(context, reason)
}

/// See [`host::reply`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_reply_skb(context: *mut __sk_buff) -> u32 {
    host::reply::<Skb>(context)
}

impl Packet for Skb {
    #[inline(always)]
    fn len(&self) -> u32 {
        self.raw().len
    }

    #[inline(always)]
    fn load<T: Scalar>(&self, offset: u32) -> Option<T> {
        let at = verifier::pointer(self.data, offset as usize);
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
        let len = verifier::length::<{ REPLY_LEN as u32 }>(len);
        let done = unsafe { self.store(offset, scratch.reply.as_ptr(), len) };
        self.locate();
        done
    }

    // Not in place: a program that writes into frames by itself has the kernel copy each one that is a clone before it
    // runs, and every TCP segment is one.
    #[inline(always)]
    fn take_headers(&mut self, len: u32, scratch: &mut Scratch) -> bool {
        // SAFETY: 0 < len ≤ HEADERS, which the scratch has.
        let len = verifier::length::<{ HEADERS as u32 }>(len);
        unsafe { self.copy(0, scratch.headers.as_mut_ptr(), len) }
    }

    #[inline(always)]
    fn put_headers(&mut self, len: u32, scratch: &Scratch) -> bool {
        // SAFETY: 0 < len ≤ HEADERS, which the scratch has.
        let len = verifier::length::<{ HEADERS as u32 }>(len);
        let done = unsafe { self.store(0, scratch.headers.as_ptr(), len) };
        self.locate();
        done
    }

    #[inline(always)]
    fn change_udp_checksum(
        &mut self,
        offset: u32,
        delta: u16,
        old_len: u16,
        new_len: u16,
        scratch: &mut Scratch,
    ) -> bool {
        // What is not the pseudo-header is only in a whole checksum, and which frames have begun theirs is known to the
        // helper alone. It is called once, for the length: what that does to the field shows which it is.
        let Some(window) = self.window_at::<2, HEADERS_MASK>(offset, scratch) else {
            return false;
        };
        let before = window.get::<u16>(0);
        let (from, to, delta) = (old_len.to_be(), new_len.to_be(), delta.to_be());
        let mangled = u64::from(BPF_F_MARK_MANGLED_0);
        let pseudo = mangled | u64::from(BPF_F_PSEUDO_HDR) | 2;
        // An unchanged length shows nothing; then all has changed but the pseudo-header.
        let stays = from == to;
        let (was, is, flags) = if stays {
            (0, delta, mangled)
        } else {
            (from, to, pseudo)
        };
        // SAFETY: the context is the kernel's.
        let done = unsafe {
            bpf_l4_csum_replace(self.context.cast(), offset, was.into(), is.into(), flags) == 0
        };
        self.locate();
        let at = verifier::pointer(self.data, verifier::index::<HEADERS_MASK>(offset));
        if !done || at + size_of::<u16>() > self.data_end {
            return false;
        }
        // SAFETY: within the linear part.
        let mut checksum = unsafe { core::ptr::read_volatile(at as *const u16) };
        if !stays && !is_begun(before, checksum, from, to) {
            checksum = with_delta(checksum, delta.into());
        }
        window.put(0, checksum);
        true
    }

    #[inline(always)]
    fn window<'a, const N: usize>(
        &'a mut self,
        offset: u32,
        scratch: &'a mut Scratch,
    ) -> Option<Window<'a, N>> {
        self.window_at::<N, 31>(offset, scratch)
    }
}
