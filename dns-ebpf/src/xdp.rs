//! A `Packet` over an XDP buffer: bytes are read in place, runs of variable length through the helpers of Linux 5.18.
//!
//! Checksums are taken to cover everything, as they do on a wire: nothing in the buffer marks one that a local
//! sender has left partial.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_md,
    helpers::generated::{
        bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
        bpf_xdp_store_bytes,
    },
    programs::XdpContext,
};
use dns_common::{
    abi::{MAX_FRAME, TRAILER_LEN},
    checksum::changed_checksum,
    packet::{Packet, Scalar, VlanTag, Window},
    scratch::{REPLY_LEN, Scratch},
    verdict::{Reason, Verdict},
    verifier,
};

use crate::{
    host::{self, Frame},
    maps::{self, MOVED, TRAILER},
    process,
};

/// XDP_PACKET_HEADROOM: what every driver leaves in front of a frame.
const HEADROOM: u32 = 256;

/// Bounds where a trailer begins: behind the longest frame that is handed over.
const TRAILER_AT: u32 = MAX_FRAME.next_power_of_two() as u32 - 1;

pub struct Buffer {
    context: *mut xdp_md,
    data: usize,
    data_end: usize,
}

impl Buffer {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Self {
        Frame::from_raw(context.as_ptr().cast())
    }

    /// Finds the frame again after a helper may have moved it.
    #[inline(always)]
    fn locate(&mut self) {
        *self = Self::from_raw(self.context);
    }

    #[inline(always)]
    fn raw(&self) -> &xdp_md {
        // SAFETY: the kernel's context lives as long as the program runs.
        unsafe { &*self.context }
    }

    /// Gives the frame `by` more bytes by moving it into its headroom: a buffer that was made to measure, as those of
    /// generic XDP are, has no room behind.
    #[inline(always)]
    fn move_forward(&mut self, by: u32) -> bool {
        let len = self.len();
        if by == 0 || by > HEADROOM || len == 0 || len > MOVED {
            return false;
        }
        let Some(kept) = maps::moving() else {
            return false;
        };
        let context = self.context;
        let len = verifier::length::<MOVED>(len);
        // SAFETY: the context is the kernel's; `kept` has room for 0 < len ≤ MOVED bytes.
        let done = unsafe {
            if bpf_xdp_adjust_head(context, -(by as i32)) != 0 {
                false
            } else if bpf_xdp_load_bytes(context, by, kept.cast(), len) != 0
                || bpf_xdp_store_bytes(context, 0, kept.cast(), len) != 0
            {
                // Nothing was written: back to where it stood.
                bpf_xdp_adjust_head(context, by as i32);
                false
            } else {
                true
            }
        };
        self.locate();
        done
    }
}

impl Frame for Buffer {
    const IS_FROM_A_WIRE: bool = true;

    type Context = xdp_md;

    #[inline(always)]
    fn from_raw(context: *mut xdp_md) -> Self {
        // SAFETY: the context lives as long as the program runs.
        let buffer = unsafe { &*context };
        Self {
            context,
            data: verifier::context_pointer(buffer.data),
            data_end: verifier::context_pointer(buffer.data_end),
        }
    }

    #[inline(always)]
    fn as_ptr(&self) -> *mut xdp_md {
        self.context
    }

    #[inline(always)]
    fn finish(&self, scratch: &Scratch) -> u32 {
        // Hardly a query has so much behind its IP packet.
        if self.len().wrapping_sub(scratch.end()) >= TRAILER_LEN {
            gregor_pass_or_finish_xdp(self.context)
        } else {
            gregor_finish_xdp(self.context)
        }
    }

    #[inline(always)]
    fn keeps(&self, reason: u32) -> u32 {
        gregor_keeps_xdp(self.context, reason)
    }

    #[inline(always)]
    fn reply(context: *mut xdp_md) -> u32 {
        gregor_reply_xdp(context)
    }

    #[inline(always)]
    fn finds_process(&self) -> bool {
        process::gregor_process_xdp(self.context) != 0
    }

    #[inline(always)]
    fn ifindex(&self) -> u32 {
        self.raw().ingress_ifindex
    }

    /// The loader refuses interfaces that take tags out.
    #[inline(always)]
    fn vlan(&self) -> Option<VlanTag> {
        None
    }

    #[inline(always)]
    unsafe fn copy(&self, offset: u32, to: *mut u8, len: u32) -> bool {
        // SAFETY: as the caller promises.
        unsafe { bpf_xdp_load_bytes(self.context, offset, to.cast(), len) == 0 }
    }
}

/// See [`host::finish`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_finish_xdp(context: *mut xdp_md) -> u32 {
    host::finish::<Buffer>(context)
}

/// See [`host::keeps`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_keeps_xdp(context: *mut xdp_md, reason: u32) -> u32 {
    host::keeps::<Buffer>(context, reason)
}

/// See [`host::reply`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_reply_xdp(context: *mut xdp_md) -> u32 {
    host::reply::<Buffer>(context)
}

/// Lets a query pass that the responder has brought back, and leaves all others to [`gregor_finish_xdp`]. A stage of its own:
/// as a part of that one it would be walked with all that follows.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_pass_or_finish_xdp(context: *mut xdp_md) -> u32 {
    if take_trailer(context) {
        // It was counted when it was taken.
        return Verdict::Pass(Reason::NotDns).counter() as u32;
    }
    gregor_finish_xdp(context)
}

/// Removes the trailer of a query that the responder has brought back; `false` where there is none. The frame is longer than
/// its IP packet by a trailer at least. Only what may match is looked at so: a query that a reload has made foreign meanwhile
/// keeps its trailer, as padding.
#[inline(always)]
fn take_trailer(context: *mut xdp_md) -> bool {
    let buffer = Buffer::from_raw(context);
    let at = verifier::pointer(
        buffer.data,
        verifier::index::<TRAILER_AT>(buffer.len().wrapping_sub(TRAILER_LEN)),
    );
    if at + TRAILER_LEN as usize > buffer.data_end {
        return false;
    }
    let Some(trailer) = TRAILER.get(0) else {
        return false;
    };
    let found = at as *const u64;
    // SAFETY: within the buffer; on alignment see `Skb::load`.
    let found = unsafe { [found.read_volatile(), found.add(1).read_volatile()] };
    if found[0] != trailer[0] || found[1] != trailer[1] {
        return false;
    }
    // SAFETY: the context is the kernel's. Where that fails the trailer stays, as padding.
    unsafe { bpf_xdp_adjust_tail(context, -(TRAILER_LEN as i32)) };
    true
}

impl Packet for Buffer {
    #[inline(always)]
    fn len(&self) -> u32 {
        // The verifier knows no bounds of a difference; what does not fit in these is of several buffers to `is_gso`.
        ((self.data_end - self.data) & 0xffff) as u32
    }

    #[inline(always)]
    fn load<T: Scalar>(&self, offset: u32) -> Option<T> {
        let at = verifier::pointer(self.data, offset as usize);
        if at + size_of::<T>() > self.data_end {
            return None;
        }
        // SAFETY: within the buffer; on alignment see `Skb::load`.
        Some(unsafe { core::ptr::read_volatile(at as *const T) })
    }

    #[inline(always)]
    fn copy_name(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
        host::copy_name(self, offset, len, scratch)
    }

    #[inline(always)]
    fn copy_options(&self, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
        host::copy_options(self, offset, len, scratch)
    }

    #[inline(always)]
    fn is_gso(&self) -> bool {
        // SAFETY: the context is the kernel's.
        let whole = unsafe { bpf_xdp_get_buff_len(self.context) };
        whole != u64::from(self.len())
    }

    #[inline(always)]
    fn resize(&mut self, len: u32) -> bool {
        let by = len as i32 - self.len() as i32;
        // SAFETY: the context is the kernel's.
        let done = unsafe { bpf_xdp_adjust_tail(self.context, by) == 0 };
        self.locate();
        done || (by > 0 && self.move_forward(by as u32))
    }

    #[inline(always)]
    fn write(&mut self, offset: u32, scratch: &Scratch, len: u32) -> bool {
        if len == 0 || len > REPLY_LEN as u32 {
            return false;
        }
        let len = verifier::length::<{ REPLY_LEN as u32 }>(len);
        // SAFETY: 0 < len ≤ REPLY_LEN, which the scratch has.
        let done = unsafe {
            bpf_xdp_store_bytes(
                self.context,
                offset,
                scratch.reply.as_ptr().cast_mut().cast(),
                len,
            ) == 0
        };
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
        _scratch: &mut Scratch,
    ) -> bool {
        let at = verifier::pointer(self.data, verifier::index::<127>(offset));
        if at + 2 > self.data_end {
            return false;
        }
        // SAFETY: within the buffer.
        unsafe {
            let field = at as *mut u16;
            let sum = u16::from_be(field.read_volatile());
            field.write_volatile(changed_checksum(sum, delta, old_len, new_len).to_be());
        }
        true
    }

    #[inline(always)]
    fn window<'a, const N: usize>(
        &'a mut self,
        offset: u32,
        _scratch: &'a mut Scratch,
    ) -> Option<Window<'a, N>> {
        let at = verifier::pointer(self.data, verifier::index::<31>(offset));
        if at + N > self.data_end {
            return None;
        }
        // SAFETY: N bytes of the buffer, which is ours alone.
        Some(unsafe { Window::new(at as *mut u8) })
    }
}
