//! Answers that the program gives by itself: the layout of their tables, and the one way to read an entry while it may be
//! overwritten.
//!
//! Userspace writes the tables through a mapping, without a lock that the program could take. Each entry therefore
//! carries its whole key and a sequence number that is odd while it is written: a reader copies, patches the copy, and
//! looks at the number again. What was copied from an entry that changed meanwhile is never sent.
//!
//! An entry is found by a set-associative index: a bucket of eight words, each the upper half of a hash and a slot. An
//! answer is keyed by rule, captures, qtype, server and client, and depends on nothing else of the name, so all names that
//! a rule's `*` takes in share one entry. Rule and server are numbers that mean the same in every program and every
//! process, so entries outlive both.

use seqlock::Reader;

use crate::{
    dfa::{NAME_AT, Scratch},
    wire::{DNS_HEADER_LEN, QUESTION_TAIL},
};

/// Most captures of a rule whose answers are kept here.
pub const MAX_CAPTURES: usize = 2;
/// Words of one captured label.
pub const CAPTURE_WORDS: usize = 8;
/// Slots that one bucket of the index names.
pub const WAYS: usize = 8;
/// Words of an entry, the last four of which are only there to be read past the section's end.
pub const ENTRY_WORDS: usize = 132;
/// Words of an entry of the table of targets that do not exist.
pub const ABSENT_WORDS: usize = 24;

// Places of an entry's words.
const SEQUENCE: usize = 0;
const FRESH_UNTIL: usize = 1;
const SERVE_UNTIL: usize = 2;
const CLAIMED: usize = 3;
const HEAD: usize = 4;
const RULE: usize = 5;
const LENGTHS: usize = 6;
const STALE_UNTIL: usize = LENGTHS + 1;
const SHAPE: usize = STALE_UNTIL + 1;
const RRSET: usize = SHAPE + 1;
const SUMS: usize = RRSET + 1;
const COUNTS: usize = SUMS + 1;
const PATCHES: usize = COUNTS + 1;
const SECTION: usize = PATCHES + (MAX_POINTERS + MAX_TTLS) / 4;

/// Most compression pointers in front of the RRset.
pub const MAX_POINTERS: usize = 16;
/// Most TTLs in front of the RRset.
pub const MAX_TTLS: usize = 12;
/// Behind the section: an answer found by its suffix needs none of them.
const CAPTURES: usize = 1024 / 8 - MAX_CAPTURES * CAPTURE_WORDS;
/// Where an entry without a section has its captures.
const ABSENT_CAPTURES: usize = LENGTHS + 1;
/// Most bytes of a section, its RRset counted twice.
pub const SECTION_LEN: usize = (CAPTURES - SECTION) * 8;
/// Bytes copied at a time.
pub(crate) const STRIDE: usize = 32;
/// Most addresses of an answer that is kept here.
pub const MAX_RECORDS: usize = 20;

const _: () = assert!(ENTRY_WORDS * 8 == 1024 + STRIDE);
const _: () = assert!(ABSENT_CAPTURES + MAX_CAPTURES * CAPTURE_WORDS <= ABSENT_WORDS);

const fn captures_of(words: usize) -> usize {
    if words == ENTRY_WORDS {
        CAPTURES
    } else {
        ABSENT_CAPTURES
    }
}

/// A word that userspace may write while a program reads it.
#[repr(transparent)]
pub struct Word(core::cell::UnsafeCell<u64>);

// SAFETY: every access is a single load or store of the whole word (`load`, `store`).
unsafe impl Sync for Word {}

impl Word {
    pub const fn new(value: u64) -> Self {
        Self(core::cell::UnsafeCell::new(value))
    }

    #[inline(always)]
    pub fn load(&self) -> u64 {
        #[cfg(target_arch = "bpf")]
        {
            // SAFETY: aligned and within a map value; loads of a word do not tear.
            unsafe { core::ptr::read_volatile(self.0.get()) }
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: aligned and valid as long as `self` is.
            unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
                .load(core::sync::atomic::Ordering::Acquire)
        }
    }

    #[inline(always)]
    pub fn store(&self, value: u64) {
        #[cfg(target_arch = "bpf")]
        {
            // SAFETY: as in `load`.
            unsafe { core::ptr::write_volatile(self.0.get(), value) }
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: as in `load`.
            unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
                .store(value, core::sync::atomic::Ordering::Release)
        }
    }

    /// Adds one to a word that has several writers. The value before is not asked for: that takes Linux 5.12.
    #[inline(always)]
    pub fn count_shared(&self) {
        #[cfg(target_arch = "bpf")]
        {
            // SAFETY: as in `load`; core has no such operation for this target.
            unsafe {
                core::arch::asm!(
                    "lock *(u64 *)({0} + 0) += {1}",
                    in(reg) self.0.get(),
                    in(reg) 1u64,
                    options(nostack)
                );
            }
        }
        #[cfg(not(target_arch = "bpf"))]
        {
            // SAFETY: as in `load`.
            unsafe { core::sync::atomic::AtomicU64::from_ptr(self.0.get()) }
                .fetch_add(1, core::sync::atomic::Ordering::Relaxed);
        }
    }
}

/// One bucket of an index: the upper half of a hash, and a slot plus one. 0 is free.
pub type Ways = [Word; WAYS];
/// An answer.
pub type Entry = [Word; ENTRY_WORDS];

/// An answer and how it is found by the end of its names: side by side, so that there is one place to fetch from memory.
#[repr(C, align(64))]
pub struct Slot {
    pub suffix: Suffix,
    pub entry: Entry,
}

impl Slot {
    pub fn empty() -> Slot {
        Slot {
            suffix: core::array::from_fn(|_| Word::new(0)),
            entry: core::array::from_fn(|_| Word::new(0)),
        }
    }
}

impl AsRef<[Word]> for Slot {
    fn as_ref(&self) -> &[Word] {
        &self.entry
    }
}

/// A target that does not exist.
pub type Absent = [Word; ABSENT_WORDS];

/// What an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Key {
    /// qtype, and in the upper half the server's id.
    pub head: u64,
    /// The rule's id.
    pub rule: u64,
    /// Lengths of the captures, and in the upper half the client's id.
    pub lengths: u64,
    /// The captured labels in lower case, each from a word of its own on, zero behind their ends.
    pub captures: [u64; MAX_CAPTURES * CAPTURE_WORDS],
}

impl Key {
    pub const EMPTY: Key = Key {
        head: 0,
        rule: 0,
        lengths: 0,
        captures: [0; MAX_CAPTURES * CAPTURE_WORDS],
    };

    /// `None` for more or longer captures than a key has room for. A `qtype` of 0 means all of them.
    pub fn new(rule: u64, qtype: u16, server: u32, captures: &[&[u8]]) -> Option<Key> {
        if captures.len() > MAX_CAPTURES {
            return None;
        }
        let mut key = Key {
            head: head(qtype, server),
            rule,
            ..Key::EMPTY
        };
        for (index, label) in captures.iter().enumerate() {
            if label.is_empty() || label.len() >= CAPTURE_WORDS * 8 {
                return None;
            }
            key.lengths |= (label.len() as u64) << (8 * index);
            for (at, byte) in label.iter().enumerate() {
                key.captures[index * CAPTURE_WORDS + at / 8] |=
                    u64::from(byte | 0x20) << (8 * (at % 8));
            }
        }
        Some(key)
    }

    /// The same for another qtype.
    pub fn with_qtype(&self, qtype: u16) -> Key {
        Key {
            head: head(qtype, self.server()),
            ..*self
        }
    }

    pub fn qtype(&self) -> u16 {
        self.head as u16
    }

    /// See [`crate::abi::Servers`].
    pub fn server(&self) -> u32 {
        (self.head >> 32) as u32
    }

    /// 0 as long as answers do not depend on the client.
    pub fn client(&self) -> u32 {
        (self.lengths >> 32) as u32
    }

    /// The captured labels, lower-cased.
    pub fn labels(&self) -> impl Iterator<Item = ([u8; CAPTURE_WORDS * 8], usize)> {
        (0..MAX_CAPTURES).filter_map(|index| {
            let len = (self.lengths >> (8 * index)) as usize & 0xff;
            let mut label = [0; CAPTURE_WORDS * 8];
            for (at, byte) in label.iter_mut().take(len).enumerate() {
                *byte = (self.captures[index * CAPTURE_WORDS + at / 8] >> (8 * (at % 8))) as u8;
            }
            (len > 0).then_some((label, len))
        })
    }

    /// The hash that places it in an index.
    pub fn hash(&self, seed: u64) -> u64 {
        let mut hash = mix(mix(seed, self.rule), self.lengths);
        for index in 0..MAX_CAPTURES {
            let len = (self.lengths >> (8 * index)) as usize & 0xff;
            for word in &self.captures[index * CAPTURE_WORDS..][..len.div_ceil(8)] {
                hash = mix(hash, *word);
            }
        }
        mix(hash, self.head)
    }
}

#[inline(always)]
const fn head(qtype: u16, server: u32) -> u64 {
    qtype as u64 | (server as u64) << 32
}

/// Hashes a key with a random seed per program; a collision costs its key the place, never an answer
/// its right one, since entries carry their whole key.
#[inline(always)]
const fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// What a program needs to know of all answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Settings {
    /// Random.
    pub seed: u64,
    /// Buckets of the index of answers, less one; a power of two less one.
    pub bucket_mask: u32,
    /// The same for targets that do not exist.
    pub absent_mask: u32,
    /// Slots of the table of answers; 0 when the program is to answer nothing.
    pub slots: u32,
    /// Words that count the hits of a slot, less one; a power of two less one.
    pub lane_mask: u16,
    /// Not 0 where processors share those words.
    pub shares_lanes: u16,
    /// Most seconds of TTL of an answer that is given past its time while no responder is there; 0 for none.
    pub stale_ttl: u32,
    #[doc(hidden)]
    pub padding: u32,
    pub suffixes: SuffixSettings,
}

/// What a rule captures, in the form that the program reads: the number of captures, then for each how many labels stand
/// behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Captures {
    pub count: u8,
    pub behind: [u8; MAX_CAPTURES],
    /// 0 for a rule whose answers are never kept here.
    pub kept: u8,
}

impl Captures {
    /// Of a rule whose answers are not kept here.
    pub const NEVER: Captures = Captures {
        count: 0,
        behind: [0; MAX_CAPTURES],
        kept: 0,
    };
}

/// A rule of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RuleEntry {
    /// A hash of everything that its answers depend on: the same in every program that has this rule.
    pub id: u64,
    pub captures: Captures,
    #[doc(hidden)]
    pub padding: u32,
}

/// The tables, as the program and the tests have them.
pub trait Tables {
    fn settings(&self) -> Option<&Settings>;
    /// The rule with this place in the program's rule set.
    fn rule(&self, index: u32) -> Option<RuleEntry>;
    /// Whether no responder is there to be asked.
    fn is_unattended(&self, now_ns: u64) -> bool;
    fn ways(&self, bucket: u32) -> Option<&Ways>;
    fn slot(&self, slot: u32) -> Option<&Slot>;
    fn absent_ways(&self, bucket: u32) -> Option<&Ways>;
    fn absent(&self, slot: u32) -> Option<&Absent>;
    fn suffix_ways(&self, bucket: u32) -> Option<&Ways>;
    /// Another number for each answer given from a slot, which it counts.
    fn count(&self, slot: u32) -> u32;
}

/// The parameters of a look-up.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Asked {
    pub now_ns: u64,
    /// Id of the rule.
    pub rule: u64,
    pub captures: Captures,
    pub qtype: u32,
    /// Id of the server; see `abi::Servers`.
    pub server: u32,
    /// Id of the client; 0 as long as answers do not depend on it.
    pub client: u32,
    /// Most bytes of an answer section.
    pub room: u32,
    /// Bytes of the message from the question on that are in the scratch.
    pub copied: u32,
    /// Not 0 where an answer past its time will do.
    pub takes_expired: u32,
    #[doc(hidden)]
    pub padding: u32,
}

/// What was found, beside the bytes in the scratch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lookup {
    /// Sequence number of the entry.
    pub sequence: u64,
    pub slot: u32,
    /// Bytes of the section.
    pub len: u32,
    /// ANCOUNT.
    pub answers: u32,
    /// NSCOUNT.
    pub authorities: u32,
    /// Ones' complement sum of the section as if it began at an even offset, not folded.
    pub sum: u32,
    /// [`Found`].
    pub found: u32,
    /// Id of the rule.
    pub rule: u64,
}

/// What a look-up shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Found {
    /// Userspace has to answer.
    Nothing = 0,
    /// An answer, in the scratch.
    Answer = 1,
    /// The same, and userspace should be asked for a newer one.
    Stale = 2,
    /// There is no target: the query passes.
    NoTarget = 3,
    /// An answer past its time, in the scratch: no responder is there to find a newer one.
    Expired = 4,
}

impl Found {
    #[inline(always)]
    pub const fn from_code(code: u32) -> Found {
        match code {
            1 => Found::Answer,
            2 => Found::Stale,
            3 => Found::NoTarget,
            4 => Found::Expired,
            _ => Found::Nothing,
        }
    }
}

/// Bytes of the scratch that hold a reply's section, and a mask for positions in it.
pub const REPLY_LEN: usize = 1024;
pub(crate) const REPLY_MASK: u32 = REPLY_LEN as u32 - 1;

impl Scratch {
    /// Puts the key of a question into the scratch; returns what its hash begins with, before the head is mixed in.
    #[inline(always)]
    fn make_key(&mut self, settings: &Settings) -> u64 {
        let captures = self.asked.captures;
        self.key.head = head(self.asked.qtype as u16, self.asked.server);
        self.key.rule = self.asked.rule;
        let (first_at, first_len) = self.captured::<0>(captures);
        let (second_at, second_len) = self.captured::<1>(captures);
        let client = u64::from(self.asked.client) << 32;
        self.key.lengths = u64::from(first_len) | u64::from(second_len) << 8 | client;
        let mut hash = mix(mix(settings.seed, self.key.rule), self.key.lengths);
        hash = self.add_capture::<0>(hash, first_at, first_len);
        self.add_capture::<1>(hash, second_at, second_len)
    }

    /// Where a captured label begins, and its length.
    #[inline(always)]
    fn captured<const INDEX: usize>(&mut self, captures: Captures) -> (u32, u32) {
        if INDEX >= captures.count as usize {
            return (NAME_AT, 0);
        }
        let label = self
            .label_count
            .wrapping_sub(1 + u32::from(captures.behind[INDEX]));
        let at = self.label(label) + 1;
        let len = self.label(label.wrapping_add(1)).wrapping_sub(at) & 63;
        (NAME_AT + at, len)
    }

    #[inline(always)]
    fn add_capture<const INDEX: usize>(&mut self, mut hash: u64, at: u32, len: u32) -> u64 {
        let mut word = 0u32;
        self.set_rounds(len.div_ceil(8));
        while word < CAPTURE_WORDS as u32 && word < self.rounds() {
            let left = len - word * 8;
            // A captured label has letters, digits and hyphens: this bit is set in all of them but capitals.
            let mut value = self.word(at + word * 8) | 0x2020_2020_2020_2020;
            if left < 8 {
                value &= (1u64 << (8 * left)) - 1;
            }
            // SAFETY: word < CAPTURE_WORDS and INDEX < MAX_CAPTURES.
            unsafe {
                *self
                    .key
                    .captures
                    .as_mut_ptr()
                    .add(INDEX * CAPTURE_WORDS + word as usize) = value;
            }
            hash = mix(hash, value);
            word += 1;
        }
        hash
    }

    /// Whether an entry is for the key in the scratch.
    #[inline(always)]
    fn is_for<const N: usize>(&mut self, entry: &mut Reader<'_, N>, head: u64) -> bool {
        let lengths = self.key.lengths;
        if entry.word(HEAD) != head
            || entry.word(RULE) != self.key.rule
            || entry.word(LENGTHS) != lengths
        {
            return false;
        }
        self.has_capture::<N, 0>(entry, lengths as u32 & 63)
            && self.has_capture::<N, 1>(entry, (lengths >> 8) as u32 & 63)
    }

    #[inline(always)]
    fn has_capture<const N: usize, const INDEX: usize>(
        &mut self,
        entry: &mut Reader<'_, N>,
        len: u32,
    ) -> bool {
        let mut word = 0u32;
        self.set_rounds(len.div_ceil(8));
        while word < CAPTURE_WORDS as u32 && word < self.rounds() {
            let place = INDEX * CAPTURE_WORDS + word as usize;
            // SAFETY: word < CAPTURE_WORDS and INDEX < MAX_CAPTURES.
            let own = unsafe { *self.key.captures.as_ptr().add(place) };
            if entry.word(captures_of(N) + place) != own {
                return false;
            }
            word += 1;
        }
        true
    }
}

#[inline(always)]
fn word_of<const N: usize>(entry: &[Word; N], index: usize) -> u64 {
    // SAFETY: callers keep below N; a checked index would pull the panic machinery into the program.
    unsafe { (*entry.as_ptr().add(index)).load() }
}

/// The slot that a bucket names for a hash. Without branches: the verifier would go on from each of the ways.
#[inline(always)]
fn slot_of(ways: &Ways, hash: u64) -> Option<u32> {
    let mut named = 0u64;
    let mut way = 0;
    while way < WAYS {
        let word = word_of(ways, way);
        let other = (word ^ hash) >> 32;
        // All ones where the halves agree: 0 - 1 has the sign that other numbers of 32 bits lose nothing to.
        named |= word & crate::verifier::spread_sign(other.wrapping_sub(1));
        way += 1;
    }
    (named as u32).checked_sub(1)
}

/// What the tables say of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Located {
    Nowhere = 0,
    /// There is an entry, named in the scratch.
    Entry = 1,
    /// There is no target.
    NoTarget = 2,
}

impl Located {
    #[inline(always)]
    pub const fn from_code(code: u32) -> Located {
        match code {
            1 => Located::Entry,
            2 => Located::NoTarget,
            _ => Located::Nowhere,
        }
    }
}

/// Looks for the answer to the question in the scratch, whose labels were split and whose rule is known. Slot, rule and
/// sequence number are left in the scratch.
#[inline(always)]
pub fn locate<T: Tables + ?Sized>(tables: &T, scratch: &mut Scratch) -> Located {
    let Some(settings) = tables.settings() else {
        return Located::Nowhere;
    };
    if settings.slots == 0 || scratch.asked.captures.kept == 0 {
        return Located::Nowhere;
    }
    let begun = scratch.make_key(settings);
    let head = scratch.key.head;
    let hash = mix(begun, head);
    if let Some(slot) = tables
        .ways(hash as u32 & settings.bucket_mask)
        .and_then(|ways| slot_of(ways, hash))
        && let Some(Slot { entry, .. }) = tables.slot(slot)
    {
        let sequence = entry[SEQUENCE].load();
        let mut entry = Reader::after(entry, sequence);
        // Whether it is too old is seen when it is read.
        if sequence & 1 == 0 && scratch.is_for(&mut entry, head) {
            scratch.lookup.slot = slot;
            scratch.lookup.sequence = entry.witnessed(sequence);
            scratch.lookup.rule = scratch.asked.rule;
            return Located::Entry;
        }
    }
    let head = head & !0xffff;
    let hash = mix(begun, head);
    if let Some(slot) = tables
        .absent_ways(hash as u32 & settings.absent_mask)
        .and_then(|ways| slot_of(ways, hash))
        && let Some(absent) = tables.absent(slot)
    {
        let sequence = absent[SEQUENCE].load();
        let mut absent = Reader::after(absent, sequence);
        let until = absent.word(SERVE_UNTIL);
        if sequence & 1 == 0
            && scratch.is_for(&mut absent, head)
            && scratch.asked.now_ns < until
            && absent.last(SEQUENCE) == sequence
        {
            return Located::NoTarget;
        }
    }
    Located::Nowhere
}

/// Copies the entry that was located: its section is left in the scratch with pointers and TTLs as they are to be sent.
#[inline(always)]
pub fn read<T: Tables + ?Sized>(tables: &T, scratch: &mut Scratch) -> Found {
    read_with::<T, true>(tables, scratch)
}

/// [`read`], with or without the look at the sequence number after the copy. Without it answers of other keys get out:
/// the tests show that they would notice.
#[inline(always)]
pub fn read_with<T: Tables + ?Sized, const CHECKED: bool>(
    tables: &T,
    scratch: &mut Scratch,
) -> Found {
    let slot = scratch.lookup.slot;
    match tables.slot(slot) {
        Some(Slot { entry, .. }) => {
            copy_entry::<T, CHECKED>(tables, entry, slot, scratch).unwrap_or(Found::Nothing)
        }
        None => Found::Nothing,
    }
}

/// [`locate`] and [`read`].
pub fn find<T: Tables + ?Sized>(tables: &T, scratch: &mut Scratch) -> Found {
    find_with::<T, true>(tables, scratch)
}

/// [`locate`] and [`read_with`].
#[inline(always)]
pub fn find_with<T: Tables + ?Sized, const CHECKED: bool>(
    tables: &T,
    scratch: &mut Scratch,
) -> Found {
    match locate(tables, scratch) {
        Located::Entry => read_with::<T, CHECKED>(tables, scratch),
        Located::NoTarget => Found::NoTarget,
        Located::Nowhere => Found::Nothing,
    }
}

const NANOSECONDS: u64 = 1_000_000_000;

/// `None` when the entry is too old, too long, or changed since it was located.
#[inline(always)]
fn copy_entry<T: Tables + ?Sized, const CHECKED: bool>(
    tables: &T,
    entry: &Entry,
    slot: u32,
    scratch: &mut Scratch,
) -> Option<Found> {
    // What is read here is read after the number, and after what was compared when the entry was located.
    let sequence = scratch.lookup.sequence;
    let mut entry = Reader::after(entry, sequence);
    let now = scratch.asked.now_ns;
    let fresh_until = entry.word(FRESH_UNTIL);
    let rrset = entry.word(RRSET);
    let fixed_ttl = (rrset >> 32) as u32;
    let ttl;
    // Into the scratch: the stack has no room for it until the end.
    if now < fresh_until {
        scratch.lookup.found = Found::Answer as u32;
        ttl = if fixed_ttl != 0 {
            fixed_ttl
        } else {
            (fresh_until - now).div_ceil(NANOSECONDS) as u32
        };
    } else if now < entry.word(SERVE_UNTIL) {
        scratch.lookup.found = if entry.word(CLAIMED) != sequence {
            Found::Stale as u32
        } else {
            Found::Answer as u32
        };
        ttl = 1;
    } else {
        scratch.lookup.found = Found::Expired as u32;
        ttl = expired_ttl(tables, &mut entry, now, scratch.asked.takes_expired)?;
    }

    let shape = entry.word(SHAPE);
    let chain_len = shape as u32 & 0x3ff;
    let answers = (shape >> 16) as u32 & 0xffff;
    let authorities = (shape >> 32) as u32 & 0xffff;
    let count = rrset as u32 & 0xff;
    let size = (rrset >> 8) as u32 & 0xff;
    let records_len = count * size;
    let len = chain_len + records_len;
    if len > scratch.asked.room || chain_len + 2 * records_len > SECTION_LEN as u32 {
        return None;
    }

    copy(&mut entry, 0, scratch, 0, chain_len);
    let base = DNS_HEADER_LEN + (scratch.name_len & 0xff) + QUESTION_TAIL;
    let counts = entry.word(COUNTS);
    let pointers = counts as u32 & 0xff;
    let ttls = (counts >> 8) as u32 & 0xff;
    let mut index = 0u32;
    scratch.set_rounds(pointers);
    while index < MAX_POINTERS as u32 && index < scratch.rounds() {
        let position = entry.half(PATCHES, index);
        let pointer = scratch.reply16(position) + base as u16;
        scratch.set_reply16(position, pointer);
        index += 1;
    }
    let mut index = 0u32;
    scratch.set_rounds(ttls);
    while index < MAX_TTLS as u32 && index < scratch.rounds() {
        scratch.set_reply32(entry.half(PATCHES, MAX_POINTERS as u32 + index), ttl);
        index += 1;
    }
    if count != 0 {
        let first = tables.count(slot) % count * size;
        copy(
            &mut entry,
            chain_len + first,
            scratch,
            chain_len,
            records_len,
        );
        // All records of the RRset have one owner.
        let owner = (counts >> 16) as u16 + base as u16;
        let mut record = 0u32;
        let mut position = chain_len;
        scratch.set_rounds(count);
        while record < MAX_RECORDS as u32 && record < scratch.rounds() {
            scratch.set_reply16(position, owner);
            scratch.set_reply32(position + 6, ttl);
            position += size;
            record += 1;
        }
    } else {
        tables.count(slot);
    }

    let sums = entry.word(SUMS);
    let ttl_sum = (ttl >> 16) + (ttl & 0xffff);
    let ttl_sum = (ttl_sum & 0xffff) + (ttl_sum >> 16);
    let mut sum = sums as u32 & 0xffff;
    sum += base * ((sums >> 16) as u32 & 0xff) + swap(base) * ((sums >> 24) as u32 & 0xff);
    sum += ttl_sum * ((sums >> 32) as u32 & 0xff) + swap(ttl_sum) * ((sums >> 40) as u32 & 0xff);
    scratch.lookup.sum = sum;
    scratch.lookup.len = len;
    scratch.lookup.answers = answers;
    scratch.lookup.authorities = authorities;
    if CHECKED && entry.last(SEQUENCE) != sequence {
        return None;
    }
    Some(Found::from_code(scratch.lookup.found))
}

/// The TTL of an answer past its time (RFC 8767 §4); `None` where the responder is to be asked, or it is too old for that
/// too.
#[inline(always)]
fn expired_ttl<T: Tables + ?Sized>(
    tables: &T,
    entry: &mut Reader<'_, ENTRY_WORDS>,
    now: u64,
    takes_expired: u32,
) -> Option<u32> {
    let ttl = tables.settings()?.stale_ttl;
    let will_do = takes_expired != 0 || tables.is_unattended(now);
    (ttl != 0 && now < entry.word(STALE_UNTIL) && will_do).then_some(ttl)
}

/// The bytes of a 16-bit value the other way round.
#[inline(always)]
pub(crate) const fn swap(value: u32) -> u32 {
    (value & 0xff) << 8 | value >> 8 & 0xff
}

/// Says that the refresh of an entry is under way. A later write of the entry has another sequence number, so a claim
/// that comes late is one of the past.
#[inline(always)]
pub fn claim<T: Tables + ?Sized>(tables: &T, lookup: &Lookup) {
    if let Some(Slot { entry, .. }) = tables.slot(lookup.slot) {
        // SAFETY: CLAIMED < ENTRY_WORDS.
        unsafe { (*entry.as_ptr().add(CLAIMED)).store(lookup.sequence) };
    }
}

/// Copies `len` bytes from `from` of the section to `to` of the reply, and what follows up to a whole stride.
#[inline(always)]
fn copy(entry: &mut Reader<'_, ENTRY_WORDS>, from: u32, scratch: &mut Scratch, to: u32, len: u32) {
    scratch.set_rounds(len);
    let mut done = 0u32;
    while done < SECTION_LEN as u32 && done < scratch.rounds() {
        let words = entry.run(SECTION, from + done);
        scratch.set_reply_words(to + done, words);
        done += STRIDE as u32;
    }
}

#[cfg(not(target_arch = "bpf"))]
pub use memory::MemoryTables;
pub use suffix::{
    NO_STARTER, STARTERS, SUFFIX_WORDS, Suffix, SuffixSettings, locate_by_suffix, suffix_of,
};
#[cfg(not(target_arch = "bpf"))]
pub use suffix::{change_suffix, write_suffix};
#[cfg(not(target_arch = "bpf"))]
pub use write::{
    Body, Lifetime, body_of, copy_from, key_of, release, until_of, write, write_absent, write_with,
};

#[cfg(not(target_arch = "bpf"))]
mod memory;
mod seqlock;
mod suffix;
#[cfg(test)]
mod tests;
#[cfg(not(target_arch = "bpf"))]
mod write;
