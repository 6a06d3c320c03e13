//! Counts the replies to a load generator by kind at the pod's own interface, and drops them.

use aya_ebpf::{
    bindings::TC_ACT_SHOT,
    macros::{classifier, map},
    maps::PerCpuArray,
    programs::TcContext,
};

use crate::{HEADERS, NEXT, load};

/// Destination ports of the generator; other packets pass. As in `tests/bench/src/load/frames.rs`.
const PORTS: core::ops::Range<u16> = 20_000..24_096;

const ADDRESSES: usize = 0;
const EMPTY: usize = 1;
const TRUNCATED: usize = 2;
const NXDOMAIN: usize = 3;
const OTHER: usize = 4;
const BYTES: usize = 5;

/// Replies by kind; the last number counts the bytes of all of them. One element, so that one look-up reads all.
#[map]
static RECEIVED: PerCpuArray<[u64; 6]> = PerCpuArray::with_max_entries(1, 0);

/// Attached to the ingress of a pod's interface.
#[classifier]
pub fn receive(context: TcContext) -> i32 {
    let data = context.data();
    if data + HEADERS > context.data_end()
        || load::<u16>(data, 12) != 0x0800_u16.to_be()
        || (load::<u16>(data, 22) >> 8) as u8 != 17
        || load::<u16>(data, 34) != 53_u16.to_be()
        || !PORTS.contains(&u16::from_be(load::<u16>(data, 36)))
    {
        return NEXT;
    }
    let flags = u16::from_be(load::<u16>(data, 44));
    let kind = match (flags & 0xf, load::<u16>(data, 48)) {
        _ if flags & 0x8000 == 0 => OTHER,
        _ if flags & 0x0200 != 0 => TRUNCATED,
        (0, 0) => EMPTY,
        (0, _) => ADDRESSES,
        (3, _) => NXDOMAIN,
        _ => OTHER,
    };
    if let Some(received) = RECEIVED.get_ptr_mut(0) {
        // SAFETY: the value belongs to this processor, and the kernel's context lives as long as the program runs.
        unsafe {
            (*received)[kind] += 1;
            (*received)[BYTES] += u64::from((*context.skb.skb).len);
        }
    }
    TC_ACT_SHOT
}
