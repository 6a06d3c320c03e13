//! The maps, each with the one thing that programs do with it. Names and values: `dns_common::abi`.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, lpm_trie::LpmTrie},
};
use dns_common::{
    abi,
    answer::{Absent, RuleEntry, Settings, Slot, Ways},
    client::{CLIENT_BUCKETS, CLIENT_SLOTS, Client, Permit},
    dfa::{Header, Table, Tail},
    scratch::Scratch,
    verdict::COUNTERS as COUNTER_COUNT,
    verifier,
    word::Word,
};

/// Bits of [`abi::protection`], under the name [`abi::PROTECTION`].
#[unsafe(no_mangle)]
static PROTECTION: u32 = 0;

/// A constant to the verifier, which does not walk what is off.
#[inline(always)]
pub fn protection() -> u32 {
    // SAFETY: it is there, and the loader has set it.
    unsafe { (&raw const PROTECTION).read_volatile() }
}

#[map]
pub static SERVERS: Array<abi::Servers> = Array::with_max_entries(1, 0);

#[map]
pub static DFA: Array<Header> = Array::with_max_entries(1, 0);

/// Written through a mapping: a value of this size is too large for the copies of bpf(2) on older kernels.
#[map]
pub static TABLE: Array<Table> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Sized by the loader.
#[map]
pub static TAILS: Array<Tail> = Array::with_max_entries(1, 0);

#[map]
pub static COUNTERS: PerCpuArray<abi::Counters> = PerCpuArray::with_max_entries(1, 0);

/// Sized by the loader.
#[map]
pub static RING: RingBuf = RingBuf::with_byte_size(1 << 18, 0);

/// What is known of the responder: see [`abi::DEADLINE`] and [`abi::PROCESS`].
#[map]
pub static HEARTBEAT: Array<Word> = Array::with_max_entries(2, BPF_F_MMAPABLE);

/// The interfaces that the program is attached to, by slot.
#[map]
static INTERFACES: Array<abi::Interface> = Array::with_max_entries(abi::INTERFACE_SLOTS, 0);

/// Those whose slot another one has, by index; sized by the loader.
#[map]
static MORE_INTERFACES: HashMap<u32, abi::Interface> = HashMap::with_max_entries(1, 0);

/// Addresses asked on port 53 that are not in the configuration, with a count.
#[map]
pub static OTHER_SERVERS: LruHashMap<[u64; 2], u64> = LruHashMap::with_max_entries(64, 0);

/// Networks whose queries are looked at where frames arrive from a wire, IPv4 ones mapped (RFC 4291 §2.5.5.2).
#[map]
pub static SOURCES: LpmTrie<[u64; 2], u8> = LpmTrie::with_max_entries(abi::MAX_SOURCES, 0);

/// The node's addresses, whose connections are never steered, be they the responder's own. The context does not say what is
/// local: the interface is in it from 5.17 on only, and over IPv6 it is that of the address, not `lo`.
#[map]
pub static OWN: HashMap<[u64; 2], u8> = HashMap::with_max_entries(abi::MAX_OWN, 0);

#[map]
pub static TRAILER: Array<abi::Trailer> = Array::with_max_entries(1, 0);

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, 0);

/// Sized by the loader.
#[map]
pub static RULES: Array<RuleEntry> = Array::with_max_entries(1, 0);

/// Names that each rule has observed; sized by the loader.
#[map]
static OBSERVED: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

/// Counts a name for a rule that observes.
#[inline(always)]
pub fn observe(counter: u32) {
    if let Some(count) = OBSERVED.get_ptr_mut(counter) {
        // SAFETY: the value belongs to this processor.
        unsafe { *count += 1 };
    }
}

// The tables of clients and of answers are written through mappings; those of answers are sized by the loader.

#[map]
pub static CLIENT_INDEX: Array<Ways> = Array::with_max_entries(CLIENT_BUCKETS, BPF_F_MMAPABLE);

#[map]
pub static CLIENTS: Array<Client> = Array::with_max_entries(CLIENT_SLOTS, BPF_F_MMAPABLE);

/// Clients that a rule is for, where that is not decided by the query.
#[map]
static PERMITS: HashMap<Permit, u8> =
    HashMap::with_max_entries(abi::MAX_PERMITS, BPF_F_NO_PREALLOC);

/// Whether a client has a permit. A value may be another one's by the time that it is read: nothing is read.
#[inline(always)]
pub fn is_permitted(permit: &Permit) -> bool {
    PERMITS.get_ptr(permit).is_some()
}

#[map]
pub static INDEX: Array<Ways> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static ANSWERS: Array<Slot> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static ABSENT_INDEX: Array<Ways> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static ABSENT: Array<Absent> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
pub static SUFFIX_INDEX: Array<Ways> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// Answers given, by slot within lane: a processor each, up to a number; read without a system call.
#[map]
pub static HITS: Array<Word> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This processor's working memory; programs do not nest.
#[inline(always)]
pub fn scratch<'a>() -> Option<&'a mut Scratch> {
    let scratch = SCRATCH.get_ptr_mut(0)?;
    // SAFETY: a value of this type lives there, and only the program running on this processor uses it.
    Some(unsafe { &mut *scratch })
}

/// Most bytes of a frame that is moved to make room behind it.
pub const MOVED: u32 = 512;

#[map]
static MOVING: PerCpuArray<[u8; MOVED as usize]> = PerCpuArray::with_max_entries(1, 0);

/// Where a frame of up to [`MOVED`] bytes is kept while it is moved.
#[inline(always)]
pub fn moving() -> Option<*mut u8> {
    Some(MOVING.get_ptr_mut(0)?.cast())
}

/// What is known of an interface that the program is attached to.
#[inline(always)]
pub fn interface(ifindex: u32) -> Option<*mut abi::Interface> {
    let slot = INTERFACES.get_ptr_mut(abi::interface_slot(ifindex))?;
    // SAFETY: a value of this type lives there.
    if unsafe { (*slot).ifindex } == u64::from(ifindex) {
        return Some(slot);
    }
    MORE_INTERFACES.get_ptr_mut(ifindex)
}

/// Counts in one of this processor's counters: [`dns_common::verdict::Verdict::counter`], or another of their indexes.
#[inline(always)]
pub fn count(counter: usize) {
    if let Some(counters) = COUNTERS.get_ptr_mut(0) {
        let counter = verifier::index::<{ COUNTER_COUNT as u32 - 1 }>(counter as u32);
        // SAFETY: masked to the counters; the value belongs to this processor.
        unsafe { *counters.cast::<u64>().add(counter) += 1 };
    }
}
