//! The sk_lookup program: which TCP connections to a server go to the responder's listener instead of the existing cache.
//!
//! It runs where a SYN finds the socket that it is for, so only for addresses of this network namespace, and never for
//! packets of an established connection. What it does not understand is delivered as without it.

use aya_ebpf::{
    bindings::{
        bpf_sk_lookup,
        sk_action::{SK_DROP, SK_PASS},
    },
    helpers::generated::bpf_ktime_get_ns,
    macros::{map, sk_lookup},
    maps::{Array, LruHashMap, SockMap},
    programs::SkLookupContext,
};
use dns_common::{
    abi::{self, MAX_SERVERS, Servers, steer},
    wire::DNS_PORT,
};

use crate::maps::{HEARTBEAT, OWN, SERVERS};

/// One of the constants of [`abi::steer`].
#[map]
static STEERING: Array<u32> = Array::with_max_entries(1, 0);

/// Clients that got TC=1, IPv4-mapped, with the time until when they are steered, `bpf_ktime_get_ns`.
#[map]
static STEERED: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(abi::MAX_STEERED, 0);

/// The responder's listeners, by [`steer::LISTENER_V4`] and [`steer::LISTENER_V6`].
#[map]
static LISTENERS: SockMap = SockMap::with_max_entries(2, 0);

const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
const IPPROTO_TCP: u32 = 6;

/// See the module.
#[sk_lookup]
pub fn gregor_tcp(context: SkLookupContext) -> u32 {
    match steer(&context) {
        Some(()) => unsteered(),
        None => SK_PASS,
    }
}

/// `Some` for a connection that may have to be steered and was not. All others go to the listener, where that was chosen, or
/// their ordinary way.
#[inline(always)]
fn steer(context: &SkLookupContext) -> Option<()> {
    let lookup = context.lookup;
    // SAFETY: the kernel's context, read in the one width that the verifier takes.
    let (family, protocol, port) = unsafe {
        (
            (&raw const (*lookup).family).read_volatile(),
            (&raw const (*lookup).protocol).read_volatile(),
            (&raw const (*lookup).local_port).read_volatile(),
        )
    };
    if protocol != IPPROTO_TCP || port != u32::from(DNS_PORT) {
        return None;
    }
    let servers = SERVERS.get(0)?;
    let (client, listener) = match family {
        AF_INET => (client_v4(lookup, servers)?, steer::LISTENER_V4),
        AF_INET6 => (client_v6(lookup, servers)?, steer::LISTENER_V6),
        _ => return None,
    };
    // SAFETY: takes no argument.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > HEARTBEAT.get(abi::DEADLINE)?.load() {
        // SAFETY: only whether there is an entry matters.
        return unsafe { OWN.get(client) }.is_none().then_some(());
    }
    let chosen = match *STEERING.get(0)? {
        steer::ALWAYS.. => true,
        // SAFETY: a u64; the value of a client that took this one's place would only steer a moment longer or shorter.
        steer::AFTER_TRUNCATION => now <= unsafe { *STEERED.get(client)? },
        _ => false,
    };
    // SAFETY: as above.
    if chosen && unsafe { OWN.get(client) }.is_none() {
        // Not without a listener, or with another program's choice made already.
        return LISTENERS
            .redirect_sk_lookup(context, listener, 0)
            .err()
            .map(drop);
    }
    None
}

/// What becomes of a connection that cannot be steered. A function of its own, which is walked once.
#[inline(never)]
fn unsteered() -> u32 {
    match STEERING.get(0) {
        Some(&steer::REQUIRED) => SK_DROP,
        _ => SK_PASS,
    }
}

/// The client of a connection to a server, IPv4-mapped. Not the node itself, which reaches an address of its own from that
/// very address unless it binds to another one.
#[inline(always)]
fn client_v4(lookup: *const bpf_sk_lookup, servers: &Servers) -> Option<[u64; 2]> {
    // SAFETY: as in `steer`.
    let (local, remote) = unsafe {
        (
            (&raw const (*lookup).local_ip4).read_volatile(),
            (&raw const (*lookup).remote_ip4).read_volatile(),
        )
    };
    let mut index = 0u32;
    loop {
        if index >= servers.v4_count || index >= MAX_SERVERS as u32 {
            return None;
        }
        // SAFETY: index < MAX_SERVERS.
        if unsafe { *servers.v4.as_ptr().add(index as usize) } == local {
            break;
        }
        index += 1;
    }
    (remote != local).then(|| abi::mapped(remote))
}

/// The same for IPv6.
#[inline(always)]
fn client_v6(lookup: *const bpf_sk_lookup, servers: &Servers) -> Option<[u64; 2]> {
    // SAFETY: as in `steer`.
    let (local, remote) = unsafe {
        (
            halves(&raw const (*lookup).local_ip6),
            halves(&raw const (*lookup).remote_ip6),
        )
    };
    let mut index = 0u32;
    loop {
        if index >= servers.v6_count || index >= MAX_SERVERS as u32 {
            return None;
        }
        // SAFETY: index < MAX_SERVERS.
        let server = unsafe { &*servers.v6.as_ptr().add(index as usize) };
        if server[0] == local[0] && server[1] == local[1] {
            break;
        }
        index += 1;
    }
    (remote[0] != local[0] || remote[1] != local[1]).then_some(remote)
}

/// An address of the context, which may only be read in words of four bytes.
///
/// # Safety
/// `words` points into the kernel's context.
#[inline(always)]
unsafe fn halves(words: *const [u32; 4]) -> [u64; 2] {
    let words = words.cast::<u32>();
    // SAFETY: the caller's promise; volatile, so that no two reads become one.
    let word = |at: usize| u64::from(unsafe { words.add(at).read_volatile() });
    [word(0) | word(1) << 32, word(2) | word(3) << 32]
}
