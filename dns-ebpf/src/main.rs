//! The programs for TC and XDP: one frame in, one verdict out, turned into a kernel action here and nowhere else.
#![no_std]
#![no_main]

#[cfg(feature = "testing")]
mod churn;
mod host;
mod log;
mod maps;
mod monitor;
mod process;
#[cfg(feature = "testing")]
mod restore;
mod skb;
mod steer;
mod xdp;

use aya_ebpf::{
    bindings::{TC_ACT_SHOT, xdp_action},
    helpers::generated::{bpf_redirect, bpf_redirect_peer},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use dns_common::{
    abi, pipeline,
    verdict::{Reason, Verdict},
};

use crate::{
    host::{Frame, Kernel},
    skb::Skb,
    xdp::Buffer,
};

/// TCX_NEXT and TC_ACT_UNSPEC: the hook's next program runs. TC_ACT_OK would end the chain.
const NEXT: i32 = -1;

/// Ingress of the host end of a pod's veth.
#[classifier]
pub fn gregor(context: TcContext) -> i32 {
    run(&context)
}

#[inline(always)]
fn run(context: &TcContext) -> i32 {
    let mut packet = Skb::new(context);
    if packet.is_returned() {
        return NEXT;
    }
    let verdict = decide(&mut packet);
    let action = match verdict {
        Verdict::Pass(_) => NEXT,
        // On tcx, TC_ACT_STOLEN counts as next: the pod would get two answers.
        Verdict::Taken | Verdict::Spoiled | Verdict::Unanswered => TC_ACT_SHOT,
        Verdict::Answered => send_back(&packet),
    };
    monitor::report(context, verdict);
    action
}

/// An interface where frames arrive from a wire. Declared able to read frames of several buffers, which it lets pass:
/// drivers refuse others on interfaces with a large MTU.
#[xdp(frags)]
pub fn gregor_xdp(context: XdpContext) -> u32 {
    run_xdp(&context)
}

#[inline(always)]
fn run_xdp(context: &XdpContext) -> u32 {
    match decide(&mut Buffer::new(context)) {
        Verdict::Pass(_) => xdp_action::XDP_PASS,
        Verdict::Taken | Verdict::Spoiled | Verdict::Unanswered => xdp_action::XDP_DROP,
        Verdict::Answered => xdp_action::XDP_TX,
    }
}

#[inline(always)]
fn decide<F: Frame>(frame: &mut F) -> Verdict {
    let verdict = pipeline::intercept(frame, &Kernel, maps::scratch);
    if verdict != Verdict::Pass(Reason::NotDns) {
        maps::count(verdict.counter());
    }
    log::verdict(frame.ifindex(), verdict);
    verdict
}

/// Straight to the peer of the interface that the query came in on, else out of that interface.
#[inline(always)]
fn send_back(packet: &Skb) -> i32 {
    let ifindex = packet.ifindex();
    // SAFETY: a value of this type lives there; both helpers take an index and no flags.
    unsafe {
        match maps::interface(ifindex) {
            Some(interface) if (*interface).egress == abi::TO_PEER => {
                packet.address_to_host();
                bpf_redirect_peer(ifindex, 0) as i32
            }
            _ => bpf_redirect(ifindex, 0) as i32,
        }
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
