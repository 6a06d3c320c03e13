//! Looks for the entry of a question whose rule the matcher has found.

use super::layout::{
    HEAD, LENGTHS, RULE, SEQUENCE, SERVE_UNTIL, Settings, Slot, Tables, captures_of,
};
use crate::{
    key::{CAPTURE_WORDS, Captures, head, mix},
    scratch::{NAME_AT, Scratch},
    seqlock::Reader,
    ways::slot_of,
};

impl Scratch {
    /// Puts the key of a question into the scratch; returns what its hash begins with, before the head is mixed in.
    #[inline(always)]
    pub(super) fn make_key(&mut self, settings: &Settings) -> u64 {
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
        self.label_behind(captures.behind[INDEX])
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
    pub(super) fn is_for<const N: usize>(&mut self, entry: &mut Reader<'_, N>, head: u64) -> bool {
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
