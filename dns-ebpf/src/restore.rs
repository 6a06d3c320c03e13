//! The program with the query put back behind it, so that one frame can be timed many times (BPF_PROG_TEST_RUN restores
//! nothing between its runs). Not part of the product: built for measurements only.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action,
    helpers::generated::{bpf_skb_change_tail, bpf_xdp_adjust_tail},
    macros::{classifier, map, xdp},
    maps::PerCpuArray,
    programs::{TcContext, XdpContext},
};

/// Words from the Ethernet header to the end of a DNS header over IPv4, without options or tags.
const WORDS: usize = 7;

/// Where the headers wait: the stack has no room for them.
#[map]
static HEADERS: PerCpuArray<[u64; WORDS]> = PerCpuArray::with_max_entries(1, 0);

/// As `gregor`; an untagged query over IPv4, without OPT, is back in its frame afterwards.
#[classifier]
pub fn restored(context: TcContext) -> i32 {
    let len = context.len();
    let Some(headers) = HEADERS.get_ptr_mut(0) else {
        return crate::NEXT;
    };
    let headers = headers.cast::<u64>();
    if !each_word((context.data(), context.data_end()), |word, at| {
        // SAFETY: `each_word` has checked the place, and names no word past WORDS.
        unsafe { headers.add(word).write_volatile(at.read_volatile()) };
    }) {
        return crate::NEXT;
    }
    let action = crate::run(&context);
    if context.len() != len {
        // SAFETY: the context is the kernel's.
        unsafe { bpf_skb_change_tail(context.as_ptr().cast(), len, 0) };
        each_word((context.data(), context.data_end()), |word, at| {
            // SAFETY: as above.
            unsafe { at.write_volatile(headers.add(word).read_volatile()) };
        });
    }
    action
}

/// The same for XDP.
#[xdp(frags)]
pub fn restored_xdp(context: XdpContext) -> u32 {
    let len = context.data_end() - context.data();
    let Some(headers) = HEADERS.get_ptr_mut(0) else {
        return xdp_action::XDP_PASS;
    };
    let headers = headers.cast::<u64>();
    if !each_word((context.data(), context.data_end()), |word, at| {
        // SAFETY: `each_word` has checked the place, and names no word past WORDS.
        unsafe { headers.add(word).write_volatile(at.read_volatile()) };
    }) {
        return xdp_action::XDP_PASS;
    }
    let action = crate::run_xdp(&context);
    let now = context.data_end() - context.data();
    if now != len {
        // SAFETY: the context is the kernel's.
        unsafe { bpf_xdp_adjust_tail(context.as_ptr().cast(), (len as i64 - now as i64) as i32) };
        each_word((context.data(), context.data_end()), |word, at| {
            // SAFETY: as above.
            unsafe { at.write_volatile(headers.add(word).read_volatile()) };
        });
    }
    action
}

/// Visits each word between these addresses of the frame's two ends.
#[inline(always)]
fn each_word((data, end): (usize, usize), mut visit: impl FnMut(usize, *mut u64)) -> bool {
    if data + WORDS * 8 > end {
        return false;
    }
    let mut word = 0;
    while word < WORDS {
        visit(word, (data + word * 8) as *mut u64);
        word += 1;
    }
    true
}
