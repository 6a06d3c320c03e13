//! The TC program: one frame in, one verdict out, turned into a kernel action here and nowhere else.
#![no_std]
#![no_main]

mod host;
mod maps;
mod skb;
mod steer;

use aya_ebpf::{bindings::TC_ACT_SHOT, macros::classifier, programs::TcContext};
use dns_common::{
    pipeline,
    verdict::{Reason, Verdict},
};

use crate::{host::Kernel, skb::Skb};

/// TCX_NEXT and TC_ACT_UNSPEC: whatever else is on the hook goes on. TC_ACT_OK would end the chain.
const NEXT: i32 = -1;

/// Ingress of the host end of a pod's veth.
#[classifier]
pub fn gregor(context: TcContext) -> i32 {
    let packet = Skb::new(&context);
    let verdict = pipeline::intercept(&packet, &Kernel, maps::scratch);
    if verdict != Verdict::Pass(Reason::NotDns) {
        maps::count(verdict);
    }
    match verdict {
        Verdict::Pass(_) => NEXT,
        // On tcx, TC_ACT_STOLEN counts as next: the pod would get two answers.
        Verdict::Taken => TC_ACT_SHOT,
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
