//! Whether the responder's process is there: it holds a UDP socket on the loopback address, which the kernel closes with it,
//! however it ends. A process that hangs holds it too; for that there is the deadline.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, bpf_sock_tuple, bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1, xdp_md},
    helpers::generated::{bpf_sk_lookup_udp, bpf_sk_release},
};
use dns_common::{abi, word::Word};

use crate::maps::HEARTBEAT;

/// BPF_F_CURRENT_NETNS.
const CURRENT_NETNS: u64 = u64::MAX;
/// 127.0.0.1 in network byte order.
const LOOPBACK: u32 = u32::from_be_bytes([127, 0, 0, 1]).to_be();

/// The port of the process that owns the maps; 0 where there is none to be looked for.
#[inline(always)]
pub fn port() -> u64 {
    HEARTBEAT.get(abi::PROCESS).map_or(0, Word::load)
}

/// Returns 1 where its socket is found. A stage, as those of [`crate::host`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn gregor_process_skb(context: *mut __sk_buff) -> u32 {
    look_up(context.cast())
}

/// Returns 1 where its socket is found. A stage, as those of [`crate::host`].
#[inline(never)]
#[unsafe(no_mangle)]
pub extern "C" fn gregor_process_xdp(context: *mut xdp_md) -> u32 {
    look_up(context.cast())
}

#[inline(always)]
fn look_up(context: *mut c_void) -> u32 {
    let mut tuple = bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 {
        saddr: LOOPBACK,
        daddr: LOOPBACK,
        sport: 0,
        dport: (port() as u16).to_be(),
    };
    // SAFETY: the context is the kernel's, and the tuple as long as it says. What is found is released.
    unsafe {
        let socket = bpf_sk_lookup_udp(
            context,
            (&raw mut tuple).cast::<bpf_sock_tuple>(),
            size_of_val(&tuple) as u32,
            CURRENT_NETNS,
            0,
        );
        if socket.is_null() {
            return 0;
        }
        bpf_sk_release(socket.cast());
    }
    1
}
