//! Where an answer's parts are in the words of its entry, and what a program needs around the entries to find them.

use super::suffix::{Suffix, SuffixSettings};
use crate::{
    client::Clients,
    key::{CAPTURE_WORDS, Captures, MAX_CAPTURES},
    scratch::{COOKIE_WORDS, REPLY_LEN, STRIDE},
    ways::Ways,
    wire::OPT_LEN,
    word::Word,
};

/// Words of an entry, the last four of which are only there to be read past the section's end.
pub const ENTRY_WORDS: usize = 132;
/// Words of an entry of the table of targets that do not exist.
pub const ABSENT_WORDS: usize = 24;

// Places of an entry's words.
pub(super) use crate::seqlock::SEQUENCE;
pub(super) const FRESH_UNTIL: usize = 1;
pub(super) const SERVE_UNTIL: usize = 2;
pub(super) const CLAIMED: usize = 3;
pub(super) const HEAD: usize = 4;
pub(super) const RULE: usize = 5;
pub(super) const LENGTHS: usize = 6;
pub(super) const STALE_UNTIL: usize = LENGTHS + 1;
pub(super) const SHAPE: usize = STALE_UNTIL + 1;
pub(super) const RRSET: usize = SHAPE + 1;
pub(super) const SUMS: usize = RRSET + 1;
pub(super) const COUNTS: usize = SUMS + 1;
pub(super) const PATCHES: usize = COUNTS + 1;
pub(super) const SECTION: usize = PATCHES + (MAX_POINTERS + MAX_TTLS) / 4;

/// Most compression pointers in front of the RRset.
pub const MAX_POINTERS: usize = 16;
/// Most TTLs in front of the RRset.
pub const MAX_TTLS: usize = 12;

/// Behind the section: an answer found by its suffix needs none of them.
pub(super) const CAPTURES: usize = 1024 / 8 - MAX_CAPTURES * CAPTURE_WORDS;
/// Where an entry without a section has its captures.
pub(super) const ABSENT_CAPTURES: usize = LENGTHS + 1;

/// Most bytes of a section, its RRset counted twice.
pub const SECTION_LEN: usize = (CAPTURES - SECTION) * 8;

/// Most addresses of an answer that is kept here.
pub const MAX_RECORDS: usize = 20;

const _: () = assert!(ENTRY_WORDS * 8 == 1024 + STRIDE);
const _: () = assert!(ABSENT_CAPTURES + MAX_CAPTURES * CAPTURE_WORDS <= ABSENT_WORDS);
// A reply has room for an OPT with a cookie behind the longest section.
const _: () = assert!(SECTION_LEN + OPT_LEN as usize + COOKIE_WORDS * 8 <= REPLY_LEN);

pub(super) const fn captures_of(words: usize) -> usize {
    if words == ENTRY_WORDS {
        CAPTURES
    } else {
        ABSENT_CAPTURES
    }
}

/// An answer.
pub type Entry = [Word; ENTRY_WORDS];

/// An answer and how it is found by the end of its names: side by side, so that there is one place to fetch from memory.
#[repr(C, align(64))]
pub struct Slot {
    #[cfg(not(feature = "other-layout"))]
    pub suffix: Suffix,
    pub entry: Entry,
    #[cfg(feature = "other-layout")]
    pub suffix: Suffix,
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

/// A rule of a program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RuleEntry {
    /// A hash of everything that its answers depend on: the same in every program that has this rule.
    pub id: u64,
    pub captures: Captures,
    /// Not 0 for one that only counts what it matches: its place among those counters, plus one.
    pub observed: u16,
    /// Where this rule does not end it: place of the entry that goes on for the name, plus one.
    pub next: u16,
    /// Who it is for: one of the constants of [`asks`].
    pub asks: u8,
    /// Where the client's own namespace is to be captured: place among the captures, plus one.
    pub own: u8,
    /// Not 0 where this entry or one that goes on from it asks who the client is.
    pub identifies: u8,
    #[doc(hidden)]
    pub padding: [u8; 5],
}

/// Whom a rule is for.
pub mod asks {
    /// Everybody.
    pub const NOBODY: u8 = 0;
    /// Every client that is known.
    pub const KNOWN: u8 = 1;
    /// Clients with a permit: see [`crate::client::Permit`].
    pub const PERMITTED: u8 = 2;
}

impl RuleEntry {
    /// Whether this is more than one rule that answers everybody.
    #[inline(always)]
    pub fn is_choice(&self) -> bool {
        self.observed != 0 || self.asks != asks::NOBODY
    }
}

/// The tables, as the program and the tests have them.
pub trait Tables: Clients {
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
