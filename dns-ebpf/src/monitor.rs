//! Reports to userspace what the program decides by itself about matched queries, while a reader is connected.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_MMAPABLE},
    helpers::generated::{bpf_ktime_get_ns, bpf_skb_load_bytes},
    macros::map,
    maps::{Array, RingBuf, ring_buf::RingBufEntry},
    programs::TcContext,
};
use dns_common::{
    abi::{Bucket, MONITOR_LIMIT, Monitor, SEEN_FRAME, Seen},
    verdict::{Reason, Verdict},
    verifier,
};

#[map]
static MONITOR: Array<Monitor> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Not the ring to the responder: reports must never take room there.
#[map]
static MONITOR_RING: RingBuf = RingBuf::with_byte_size(1 << 17, 0);

/// One load and one comparison without a reader, and only for matched queries. To be called last: then the verifier walks
/// it once, whatever came before.
#[inline(always)]
pub fn report(context: &TcContext, verdict: Verdict) {
    let is_reported = matches!(
        verdict,
        Verdict::Answered
            | Verdict::Unanswered
            | Verdict::Pass(
                Reason::NoTarget
                    | Reason::NoResponder
                    | Reason::RateLimited
                    | Reason::RingFull
                    | Reason::Observed
            )
    );
    if is_reported
        && let Some(monitor) = MONITOR.get(0)
        && monitor.until_ns.load() != 0
    {
        record(context.as_ptr().cast(), verdict.counter() as u32, monitor);
    }
}

/// A function of its own, so that the program keeps its registers when there is no reader.
#[inline(never)]
fn record(context: *mut __sk_buff, verdict: u32, monitor: &Monitor) {
    // SAFETY: takes no argument.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if now_ns > monitor.until_ns.load() {
        return;
    }
    let mut bucket = Bucket {
        arrival_ns: monitor.arrival_ns.load(),
        ..MONITOR_LIMIT
    };
    if !bucket.admit(now_ns) {
        return leave_out(monitor);
    }
    monitor.arrival_ns.store(bucket.arrival_ns);
    let Some(mut entry): Option<RingBufEntry<Seen>> = MONITOR_RING.reserve(0) else {
        return leave_out(monitor);
    };
    let seen = entry.as_mut_ptr();
    // SAFETY: the context is the kernel's; the reservation has room for a `Seen`.
    unsafe {
        let whole = (*context).len;
        let len = if whole > SEEN_FRAME as u32 {
            SEEN_FRAME as u32
        } else {
            whole
        };
        (*seen).ifindex = (*context).ifindex;
        (*seen).verdict = verdict;
        (*seen).len = len;
        let frame = (&raw mut (*seen).frame).cast();
        let len = verifier::length::<{ SEEN_FRAME as u32 }>(len);
        (*seen).failed = bpf_skb_load_bytes(context.cast(), 0, frame, len) as u32;
    }
    entry.submit(0);
}

/// Two processors at once may count one.
#[inline(always)]
fn leave_out(monitor: &Monitor) {
    monitor.left_out.store(monitor.left_out.load() + 1);
}
