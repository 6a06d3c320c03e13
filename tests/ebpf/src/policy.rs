//! Policies that a node may have beside gregor, reduced to their effect on DNS: one that passes only replies to questions that
//! it saw, one that drops every reply, one that drops every question, one that passes everything and ends the chain.

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT},
    macros::{classifier, map},
    maps::{LruHashMap, PerCpuArray},
    programs::TcContext,
};

const NEXT: i32 = -1;
const ETHERTYPE_AT: usize = 12;
const L3: usize = 14;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const UDP: u8 = 17;
const DNS: u16 = 53;

/// Both ends of a datagram: addresses (IPv4's in the first word), then ports. Always UDP.
#[repr(C)]
#[derive(Clone, Copy)]
struct Flow {
    pod: [u32; 4],
    server: [u32; 4],
    pod_port: u16,
    server_port: u16,
}

/// Questions that `policy_track` saw.
#[map]
static FLOWS: LruHashMap<Flow, u8> = LruHashMap::with_max_entries(4096, 0);

/// How many questions it saw.
#[map]
static TRACKED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// How many replies were dropped.
#[map]
static DROPPED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// How many questions were dropped.
#[map]
static DENIED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

#[inline(always)]
fn count(counter: &PerCpuArray<u64>) {
    if let Some(value) = counter.get_ptr_mut(0) {
        // SAFETY: the value belongs to this processor.
        unsafe { *value += 1 };
    }
}

/// Ingress: records client and server of each question.
#[classifier]
pub fn policy_track(context: TcContext) -> i32 {
    if let Some(flow) = from_pod(&context)
        && flow.server_port == DNS
    {
        count(&TRACKED);
        let _ = FLOWS.insert(flow, 1, 0);
    }
    NEXT
}

/// Egress: drops replies to questions that `policy_track` did not see, as a connection tracker does.
#[classifier]
pub fn policy_untracked(context: TcContext) -> i32 {
    match to_pod(&context) {
        // SAFETY: nothing is read through the reference.
        Some(flow) if flow.server_port == DNS && unsafe { FLOWS.get(flow) }.is_none() => {
            count(&DROPPED);
            TC_ACT_SHOT
        }
        _ => NEXT,
    }
}

/// Egress: drops every reply.
#[classifier]
pub fn policy_silence(context: TcContext) -> i32 {
    match to_pod(&context) {
        Some(flow) if flow.server_port == DNS => {
            count(&DROPPED);
            TC_ACT_SHOT
        }
        _ => NEXT,
    }
}

/// Ingress: drops every question.
#[classifier]
pub fn policy_deny(context: TcContext) -> i32 {
    match from_pod(&context) {
        Some(flow) if flow.server_port == DNS => {
            count(&DENIED);
            TC_ACT_SHOT
        }
        _ => NEXT,
    }
}

/// Ingress: passes everything, and ends the chain.
#[classifier]
pub fn policy_end(_context: TcContext) -> i32 {
    TC_ACT_OK
}

#[inline(always)]
fn from_pod(context: &TcContext) -> Option<Flow> {
    let (source, destination, ports) = datagram(context)?;
    Some(Flow {
        pod: source,
        server: destination,
        pod_port: ports[0],
        server_port: ports[1],
    })
}

#[inline(always)]
fn to_pod(context: &TcContext) -> Option<Flow> {
    let (source, destination, ports) = datagram(context)?;
    Some(Flow {
        pod: destination,
        server: source,
        pod_port: ports[1],
        server_port: ports[0],
    })
}

/// Source, destination and ports of a UDP datagram behind a plain header.
#[inline(always)]
fn datagram(context: &TcContext) -> Option<([u32; 4], [u32; 4], [u16; 2])> {
    let ethertype: u16 = context.load(ETHERTYPE_AT).ok()?;
    let (protocol, source, destination, ports): (u8, _, _, [u16; 2]) = match u16::from_be(ethertype)
    {
        IPV4 => (
            context.load(L3 + 9).ok()?,
            [context.load(L3 + 12).ok()?, 0, 0, 0],
            [context.load(L3 + 16).ok()?, 0, 0, 0],
            context.load(L3 + 20).ok()?,
        ),
        IPV6 => (
            context.load(L3 + 6).ok()?,
            context.load(L3 + 8).ok()?,
            context.load(L3 + 24).ok()?,
            context.load(L3 + 40).ok()?,
        ),
        _ => return None,
    };
    let ports = [u16::from_be(ports[0]), u16::from_be(ports[1])];
    (protocol == UDP).then_some((source, destination, ports))
}
