//! What the pipeline finds around it in the kernel: maps, clock, ring buffer.

use aya_ebpf::{
    bindings::{BPF_RB_AVAIL_DATA, BPF_RB_RING_SIZE},
    helpers::generated::{bpf_get_smp_processor_id, bpf_ktime_get_ns},
    maps::{lpm_trie::Key, ring_buf::RingBufEntry},
};
use dns_common::{
    abi::{self, EventHeader, MAX_FRAME, Servers},
    answer::{self, Absent, Captures, Found, Located, RuleEntry, Settings, Slot, Tables, Ways},
    client::{Client, Clients, Permit, Who, identify},
    dfa::{Tail, Tails},
    packet::{MAX_OPTIONS, Packet, VlanTag},
    pipeline::{self, Address, BySuffix, Chosen, Host, Matched, Recognised},
    reply::Replied,
    scratch::{NAME_AT, NAME_COPY, Scratch},
    verdict::{EXPIRED, REFRESHED, Reason, Verdict},
    verifier,
    word::Word,
};

use crate::{
    log,
    maps::{
        self, ABSENT, ABSENT_INDEX, ANSWERS, CLIENT_INDEX, CLIENTS, DFA, HEARTBEAT, HITS, INDEX,
        OTHER_SERVERS, OWN, RING, RULES, SERVERS, SETTINGS, SOURCES, SUFFIX_INDEX, TABLE, TAILS,
    },
    process,
};

pub struct Kernel;

/// What the kernel says of a frame beside its bytes.
pub trait Frame: Packet {
    /// Whether it may come from anybody, and so only some are listened to.
    const IS_FROM_A_WIRE: bool;

    /// The kernel's context.
    type Context;

    fn from_raw(context: *mut Self::Context) -> Self;

    fn as_ptr(&self) -> *mut Self::Context;

    /// [`finish`] as a stage.
    fn finish(&self, scratch: &Scratch) -> u32;

    /// [`keeps`] as a stage.
    fn keeps(&self, reason: u32) -> u32;

    /// [`reply`] as a stage.
    fn reply(context: *mut Self::Context) -> u32;

    /// Whether the responder's process is found from here; see [`process`].
    fn finds_process(&self) -> bool;

    /// The interface that it came in on.
    fn ifindex(&self) -> u32;

    /// The tag that the kernel took out of it.
    fn vlan(&self) -> Option<VlanTag>;

    /// Copies `len` bytes from `offset` to `to`.
    ///
    /// # Safety
    /// `len` bytes at `to` must be writable, and `len` must come from [`verifier::length`] or be a constant above 0.
    unsafe fn copy(&self, offset: u32, to: *mut u8, len: u32) -> bool;
}

/// [`Packet::copy_name`] of every frame.
#[inline(always)]
pub fn copy_name<F: Frame>(frame: &F, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
    if len == 0 || len > NAME_COPY {
        return false;
    }
    // SAFETY: NAME_AT + NAME_COPY bytes fit, and 0 < len ≤ NAME_COPY.
    unsafe {
        frame.copy(
            offset,
            scratch.bytes.as_mut_ptr().add(NAME_AT as usize),
            verifier::length::<{ NAME_COPY.next_power_of_two() }>(len),
        )
    }
}

/// [`Packet::copy_options`] of every frame.
#[inline(always)]
pub fn copy_options<F: Frame>(frame: &F, offset: u32, len: u32, scratch: &mut Scratch) -> bool {
    if len == 0 || len > MAX_OPTIONS {
        return false;
    }
    // SAFETY: MAX_OPTIONS bytes fit, and 0 < len ≤ MAX_OPTIONS.
    unsafe {
        frame.copy(
            offset,
            scratch.reply.as_mut_ptr(),
            verifier::length::<MAX_OPTIONS>(len),
        )
    }
}

struct MapTails;

impl Tails for MapTails {
    #[inline(always)]
    fn tail(&self, index: u32) -> Option<&Tail> {
        TAILS.get(index)
    }
}

/// The tables of answers.
pub struct MapTables;

impl Tables for MapTables {
    #[inline(always)]
    fn settings(&self) -> Option<&Settings> {
        SETTINGS.get(0)
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<RuleEntry> {
        RULES.get(index).copied()
    }

    #[inline(always)]
    fn is_unattended(&self, now_ns: u64) -> bool {
        now_ns + abi::SUSPECT_NS > deadline()
    }

    #[inline(always)]
    fn ways(&self, bucket: u32) -> Option<&Ways> {
        INDEX.get(bucket)
    }

    #[inline(always)]
    fn slot(&self, slot: u32) -> Option<&Slot> {
        ANSWERS.get(slot)
    }

    #[inline(always)]
    fn absent_ways(&self, bucket: u32) -> Option<&Ways> {
        ABSENT_INDEX.get(bucket)
    }

    #[inline(always)]
    fn absent(&self, slot: u32) -> Option<&Absent> {
        ABSENT.get(slot)
    }

    #[inline(always)]
    fn suffix_ways(&self, bucket: u32) -> Option<&Ways> {
        SUFFIX_INDEX.get(bucket)
    }

    #[inline(always)]
    fn count(&self, slot: u32) -> u32 {
        let Some(settings) = SETTINGS.get(0) else {
            return 0;
        };
        // SAFETY: takes no argument.
        let processor = unsafe { bpf_get_smp_processor_id() };
        let lane = processor & u32::from(settings.lane_mask);
        let Some(hits) = HITS.get(lane.wrapping_mul(settings.slots).wrapping_add(slot)) else {
            return 0;
        };
        let before = hits.load();
        if settings.shares_lanes == 0 {
            hits.store(before + 1);
        } else {
            hits.count_shared();
        }
        before as u32
    }
}

impl Clients for MapTables {
    #[inline(always)]
    fn client_ways(&self, bucket: u32) -> Option<&Ways> {
        CLIENT_INDEX.get(bucket)
    }

    #[inline(always)]
    fn client(&self, slot: u32) -> Option<&Client> {
        CLIENTS.get(slot)
    }

    #[inline(always)]
    fn permits(&self, permit: &Permit) -> bool {
        is_permitted(permit.rule, permit.client) != 0
    }
}

/// Frames up to this size take the smaller record: nearly all queries.
const SMALL_FRAME: u32 = 256;
/// Room for every frame that an event carries, as the verifier bounds its length.
const LARGE_FRAME: u32 = (MAX_FRAME as u32).next_power_of_two();

/// A ring buffer record. The verifier wants reservations of constant size.
#[repr(C)]
struct Record<const N: usize> {
    header: EventHeader,
    frame: [u8; N],
}

impl<F: Frame> Host<F> for Kernel {
    const CHECKS_SOURCES: bool = F::IS_FROM_A_WIRE;

    #[inline(always)]
    fn allows(&self, source: Address) -> bool {
        let [high, low] = source.mapped();
        is_allowed(high, low) != 0
    }

    #[inline(always)]
    fn servers(&self) -> Option<&Servers> {
        SERVERS.get(0)
    }

    #[inline(always)]
    fn protection(&self) -> u32 {
        maps::protection()
    }

    #[inline(always)]
    fn is_steered(&self, server: Address) -> bool {
        let [high, low] = server.mapped();
        is_steered(high, low) != 0
    }

    #[inline(always)]
    fn keeps(&self, packet: &F, reason: Reason) -> bool {
        packet.keeps(reason as u32) != 0
    }

    #[inline(always)]
    fn saw_other_server(&self, address: Address) {
        let key = address.mapped();
        if let Some(count) = OTHER_SERVERS.get_ptr_mut(key) {
            // SAFETY: a u64 lives there; a lost increment does no harm.
            unsafe { *count += 1 };
        } else {
            // A full map or a race loses one count.
            let _ = OTHER_SERVERS.insert(key, 1, 0);
        }
    }

    #[inline(always)]
    fn may_match(&self, end_of_name: u64) -> bool {
        DFA.get(0)
            .is_some_and(|header| header.may_match(end_of_name))
    }

    #[inline(always)]
    fn recognise(&self, scratch: &mut Scratch) -> Recognised {
        Recognised::from_code(stage(scratch, gregor_recognise))
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: takes no argument.
        unsafe { bpf_ktime_get_ns() }
    }

    #[inline(always)]
    fn rule(&self, index: u32) -> Option<RuleEntry> {
        MapTables.rule(index)
    }

    /// Whoever is on a wire is not known by the interface.
    const KNOWS_CLIENTS: bool = !F::IS_FROM_A_WIRE;

    #[inline(always)]
    fn ifindex(&self, packet: &F) -> u32 {
        packet.ifindex()
    }

    #[inline(always)]
    fn identify(&self, scratch: &mut Scratch) -> Who {
        Who::from_code(stage(scratch, gregor_identify))
    }

    #[inline(always)]
    fn choose(&self, index: u32, scratch: &mut Scratch) -> Chosen {
        verifier::share(scratch);
        let found = gregor_choose_next(index);
        // On a wire a rule that asks is never the first.
        if !F::IS_FROM_A_WIRE && pipeline::is_first(found) {
            Chosen::Rule(index)
        } else {
            Chosen::from_code(gregor_choose(found))
        }
    }

    #[inline(always)]
    fn served_expired(&self) {
        maps::count(EXPIRED);
    }

    #[inline(always)]
    fn locate_by_suffix(&self, scratch: &mut Scratch) -> BySuffix {
        BySuffix::from_code(stage(scratch, gregor_locate_by_suffix))
    }

    #[inline(always)]
    fn locate_by_own_suffix(&self, scratch: &mut Scratch) -> bool {
        stage(scratch, gregor_locate_by_own_suffix) != 0
    }

    #[inline(always)]
    fn locate(&self, scratch: &mut Scratch) -> Located {
        let located = Located::from_code(stage(scratch, gregor_locate));
        log::located(located);
        located
    }

    #[inline(always)]
    fn read_answer(&self, scratch: &mut Scratch) -> Found {
        let found = Found::from_code(stage(scratch, gregor_read_answer));
        log::found(found);
        found
    }

    #[inline(always)]
    fn claim(&self, scratch: &Scratch) {
        answer::claim(&MapTables, &scratch.lookup);
        maps::count(REFRESHED);
        log::claimed();
    }

    #[inline(always)]
    fn admit(&self, packet: &F, now: u64) -> Result<(), Reason> {
        if now > deadline() {
            return Err(Reason::NoResponder);
        }
        let interface = maps::interface(packet.ifindex()).ok_or(Reason::NoResponder)?;
        let process = process::port();
        if process != 0 {
            // SAFETY: a value of this type lives there; all who write it at one time write the same.
            unsafe {
                if !packet.finds_process() {
                    // Where it was never found, the look-up may not work: the deadline decides.
                    if (*interface).process == process {
                        return Err(Reason::NoResponder);
                    }
                } else if (*interface).process != process {
                    (*interface).process = process;
                }
            }
        }
        // The second half of the ring is for those who ask little: else one pod at its full rate could fill it with more
        // than a busy responder drains, and the queries of all others would pass.
        // SAFETY: a value of this type lives there; see `Bucket` on races.
        if unsafe { (*interface).bucket.is_pressing(now) } && ring_is_half_full() {
            return Err(Reason::RateLimited);
        }
        // SAFETY: as above.
        if unsafe { (*interface).bucket.admit(now) } {
            Ok(())
        } else {
            Err(Reason::RateLimited)
        }
    }

    #[inline(always)]
    fn finish(&self, packet: &mut F, scratch: &mut Scratch) -> Verdict {
        verifier::share(scratch);
        let mut counter = packet.finish(scratch);
        if scratch.asked.captures.kept == Captures::REFUSED {
            counter = gregor_refuse(counter);
        }
        Verdict::from_counter(counter)
    }

    #[inline(always)]
    fn reply(&self, packet: &mut F, scratch: &mut Scratch) -> Replied {
        verifier::share(scratch);
        Replied::from_code(F::reply(packet.as_ptr()))
    }

    #[inline(always)]
    fn hand_over(&self, packet: &F, matched: &Matched) -> Result<(), Reason> {
        let mut header = matched.event(packet.ifindex());
        if let Some(tag) = packet.vlan() {
            header.vlan_tci = tag.tci;
            header.vlan_tpid = tag.tpid;
        }
        match matched.frame_len {
            0 => Err(Reason::Truncated),
            1..=SMALL_FRAME => submit::<F, { SMALL_FRAME as usize }, SMALL_FRAME>(
                packet,
                &header,
                matched.frame_len,
            ),
            _ => submit::<F, { LARGE_FRAME as usize }, LARGE_FRAME>(
                packet,
                &header,
                matched.frame_len,
            ),
        }
    }
}

/// [`pipeline::finish`], for a stage of its own. Returns the counter of its verdict.
#[inline(always)]
pub fn finish<F: Frame>(context: *mut F::Context) -> u32 {
    let verdict = match maps::scratch() {
        Some(scratch) => pipeline::finish(&mut F::from_raw(context), &Kernel, scratch),
        None => Verdict::Pass(Reason::Internal),
    };
    verdict.counter() as u32
}

/// [`pipeline::reply`], for a stage of its own. Returns a [`Replied`].
#[inline(always)]
pub fn reply<F: Frame>(context: *mut F::Context) -> u32 {
    let replied = match maps::scratch() {
        Some(scratch) => pipeline::reply(&mut F::from_raw(context), scratch),
        None => Replied::Untouched,
    };
    replied as u32
}

/// [`pipeline::is_kept`], for a stage of its own. Takes the counter of a reason; returns 1 for yes.
#[inline(always)]
pub fn keeps<F: Frame>(context: *mut F::Context, reason: u32) -> u32 {
    match Verdict::from_counter(reason) {
        Verdict::Pass(reason) => {
            u32::from(pipeline::is_kept(&F::from_raw(context), &Kernel, reason))
        }
        _ => 0,
    }
}

/// Runs a stage, which finds the scratch by itself.
#[inline(always)]
fn stage(scratch: &mut Scratch, stage: extern "C" fn() -> u32) -> u32 {
    verifier::share(scratch);
    let code = stage();
    verifier::share(scratch);
    code
}

/// Until when the responder is there.
#[inline(always)]
fn deadline() -> u64 {
    HEARTBEAT.get(abi::DEADLINE).map_or(0, Word::load)
}

#[inline(always)]
fn ring_is_half_full() -> bool {
    RING.query(u64::from(BPF_RB_AVAIL_DATA)) > RING.query(u64::from(BPF_RB_RING_SIZE)) / 2
}

/// A function of its own, so that the key on its stack keeps no two paths of the caller apart. Returns 1 for yes.
#[inline(never)]
fn is_allowed(high: u64, low: u64) -> u32 {
    u32::from(SOURCES.get(Key::new(128, [high, low])).is_some())
}

/// The same: the key is on its stack.
#[inline(never)]
fn is_steered(high: u64, low: u64) -> u32 {
    // SAFETY: a byte.
    let value = unsafe { OWN.get([high, low]) };
    u32::from(value.is_some_and(|value| *value == abi::own::STEERED))
}

/// The same.
#[inline(never)]
fn is_permitted(rule: u64, client: u32) -> u32 {
    u32::from(maps::is_permitted(&Permit::new(rule, client)))
}

// Stages. Each is a global function, which the verifier checks once and by itself: what one knows does not multiply what
// another has to walk. Such a function takes the context or numbers, no pointers (before Linux 5.12), and returns a number.

/// Returns the code of a [`Recognised`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_recognise() -> u32 {
    let (Some(scratch), Some(header), Some(table)) = (maps::scratch(), DFA.get(0), TABLE.get(0))
    else {
        return Recognised::None.code();
    };
    pipeline::recognise(header, table, &MapTails, scratch).code()
}

/// Returns a [`Who`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_identify() -> u32 {
    maps::scratch().map_or(Who::Unknown as u32, |scratch| {
        identify(&MapTables, scratch) as u32
    })
}

/// Takes what [`gregor_choose_next`] has returned; returns the code of a [`Chosen`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_choose(found: u32) -> u32 {
    pipeline::go_through(found, |index| gregor_choose_next(index)).code()
}

/// Takes the place of an entry; see [`pipeline::choose_next`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_choose_next(index: u32) -> u32 {
    maps::scratch().map_or(0, |scratch| {
        pipeline::choose_next(&MapTables, index, scratch, maps::observe)
    })
}

/// Takes and returns the counter of a verdict; see [`pipeline::refuse`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_refuse(counter: u32) -> u32 {
    maps::scratch().map_or(counter, |scratch| {
        let verdict = Verdict::from_counter(counter);
        pipeline::refuse(verdict, scratch).counter() as u32
    })
}

/// Returns a [`BySuffix`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_locate_by_suffix() -> u32 {
    maps::scratch().map_or(BySuffix::Nowhere as u32, |scratch| {
        pipeline::locate_by_suffix(&MapTables, scratch) as u32
    })
}

/// Returns 1 where there is an entry.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_locate_by_own_suffix() -> u32 {
    maps::scratch().map_or(0, |scratch| {
        u32::from(pipeline::locate_by_own_suffix(&MapTables, scratch))
    })
}

/// Returns a [`Located`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_locate() -> u32 {
    maps::scratch().map_or(Located::Nowhere as u32, |scratch| {
        pipeline::locate(&MapTables, scratch) as u32
    })
}

/// Returns a [`Found`].
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn gregor_read_answer() -> u32 {
    maps::scratch().map_or(Found::Nothing as u32, |scratch| {
        answer::read(&MapTables, scratch) as u32
    })
}

#[inline(always)]
fn submit<F: Frame, const N: usize, const MAX: u32>(
    packet: &F,
    header: &EventHeader,
    len: u32,
) -> Result<(), Reason> {
    const { assert!(N == MAX as usize) };
    let mut entry: RingBufEntry<Record<N>> = RING.reserve(0).ok_or(Reason::RingFull)?;
    let record = entry.as_mut_ptr();
    // SAFETY: the reservation has room for a header and N bytes.
    let copied = unsafe {
        (*record).header = *header;
        packet.copy(
            0,
            (&raw mut (*record).frame).cast(),
            verifier::length::<MAX>(len),
        )
    };
    if copied {
        entry.submit(0);
        Ok(())
    } else {
        entry.discard(0);
        Err(Reason::Truncated)
    }
}
