//! The program of the return device: brings a query that is to pass back into the ingress of the interface that it came
//! in on.
//!
//! An object of its own, without maps, so that it stays in place while the programs of interfaces are replaced.
#![no_std]
#![no_main]

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_INGRESS, TC_ACT_SHOT},
    helpers::generated::bpf_redirect,
    macros::classifier,
    programs::TcContext,
};
use dns_common::abi::{KEEPS_TC_INDEX, RETURNED};

/// Egress of the return device. The responder names the interface in the frame's mark; a frame without one is not the
/// responder's and goes nowhere.
#[classifier]
pub fn gregor_return(context: TcContext) -> i32 {
    let skb: *mut __sk_buff = context.as_ptr().cast();
    // SAFETY: the kernel's context, read and written in the one width that the verifier takes. The helper takes an index
    // and a flag.
    unsafe {
        let mark = (&raw const (*skb).mark).read_volatile();
        let target = mark & !KEEPS_TC_INDEX;
        if target == 0 {
            return TC_ACT_SHOT;
        }
        // As the pod's frame has: a mark does not cross namespaces.
        (&raw mut (*skb).mark).write_volatile(0);
        if mark & KEEPS_TC_INDEX == 0 {
            (&raw mut (*skb).tc_index).write_volatile(RETURNED);
        }
        bpf_redirect(target, u64::from(BPF_F_INGRESS)) as i32
    }
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: the verifier refuses a program in which a panic can be reached.
    unsafe { core::hint::unreachable_unchecked() }
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
