//! The fast path to an answer: by the end of the name on the wire, without the matcher.
//!
//! Where a rule begins with `*` and no earlier rule can match a name that it matches, the labels behind those that `*`
//! takes in settle rule and captures. An answer found by the matcher is therefore stored under these labels too:
//! the walk goes over the labels of `*` only, up to one that begins like the first label of such a rule, and the rest of
//! the name is hashed and compared in words.

use super::{
    layout::{HEAD, LENGTHS, RULE, SEQUENCE, Slot, Tables},
    suffix::{LENGTH, PAIRS, SUFFIX_LEN, SUFFIX_WORDS, SuffixSettings},
};
use crate::{
    key::head,
    name::has_separator_or_dot,
    scratch::{NAME_AT, Scratch},
    seqlock::Reader,
    verifier,
    ways::slot_of,
};

/// Most labels that `*` may take in on this way.
const STAR_LABELS: u32 = 4;
/// Most words that they fill.
const STAR_WORDS: u32 = 6;

const SMALL: u64 = 0x2020_2020_2020_2020;

/// The first `len` bytes of a word, 1 to 7.
#[inline(always)]
const fn first_bytes(len: u32) -> u64 {
    (1u64 << (8 * (len & 7))) - 1
}

impl Scratch {
    /// Where the suffix of the name begins, which has its length bytes still; 0 for nowhere. And whether its answers depend on
    /// the client.
    #[inline(always)]
    fn suffix_at(&mut self, settings: &SuffixSettings, end: u32) -> (u32, bool) {
        let mut position = 0u32;
        let mut label = 0;
        while label <= STAR_LABELS {
            let word = self.word(NAME_AT + position);
            if label != 0 {
                if settings.starters[0].matches(word) {
                    return (position, settings.asks & 1 != 0);
                }
                if settings.starters[1].matches(word) {
                    return (position, settings.asks & 2 != 0);
                }
            }
            let length = (word & 0xff) as u32;
            position += length + 1;
            if length == 0 || length > 63 || position >= end {
                return (0, false);
            }
            label += 1;
        }
        (0, false)
    }

    /// Whether what `*` takes in has no byte that the matcher would refuse. It may say no where the matcher says yes.
    #[inline(always)]
    fn star_is_plain(&mut self, len: u32) -> bool {
        if len > STAR_WORDS * 8 {
            return false;
        }
        let mut refused = 0u64;
        let mut index = 0u32;
        self.set_rounds(len / 8);
        while index < STAR_WORDS && index < self.rounds() {
            refused |= has_separator_or_dot(self.word(NAME_AT + index * 8));
            index += 1;
        }
        // A word of no bytes has none of these either.
        let rest = self.word(NAME_AT + (len & !7)) & first_bytes(len);
        refused | has_separator_or_dot(rest) == 0
    }
}

impl Scratch {
    /// What a word of the suffix adds to its hash.
    #[inline(always)]
    fn product(&self, settings: &SuffixSettings, from: u32, index: u32, mask: u64) -> u64 {
        let word = (self.word(from + index * 8) | SMALL) & mask;
        // SAFETY: index ≤ SUFFIX_WORDS, of which the mask is not to convince anybody but the verifier: what lies behind
        // the factors still belongs to the settings.
        let factor = unsafe { *settings.factors.as_ptr().add(verifier::index::<15>(index)) };
        word.wrapping_mul(factor)
    }

    /// Whether a word of the suffix is that of the name.
    #[inline(always)]
    fn has_word(
        &self,
        suffix: &mut Reader<'_, SUFFIX_LEN>,
        from: u32,
        index: u32,
        mask: u64,
    ) -> bool {
        let pair = PAIRS + 2 * verifier::index::<15>(index);
        let word = (self.word(from + index * 8) | suffix.word(pair + 1)) & mask;
        word == suffix.word(pair)
    }
}

/// Where the suffix of the name in the scratch begins, 0 for nowhere, and whether its answers depend on the client. `name_len`
/// is set, the length bytes are in their places.
#[inline(always)]
pub fn suffix_of<T: Tables + ?Sized>(tables: &T, scratch: &mut Scratch) -> (u32, bool) {
    match tables.settings() {
        Some(settings) if settings.slots != 0 && settings.suffixes.starter_count != 0 => {
            let end = scratch.name_len & 0xff;
            scratch.suffix_at(&settings.suffixes, end)
        }
        _ => (0, false),
    }
}

/// Looks for the answer with the suffix that begins at `at`; slot, rule and sequence number are left in the scratch, where
/// `asked` is set.
#[inline(always)]
pub fn locate_by_suffix<T: Tables + ?Sized>(tables: &T, scratch: &mut Scratch, at: u32) -> bool {
    let Some(settings) = tables.settings() else {
        return false;
    };
    let suffixes = &settings.suffixes;
    let end = scratch.name_len & 0xff;
    let len = end.wrapping_sub(at);
    if len == 0 || len > SUFFIX_WORDS as u32 * 8 || !scratch.star_is_plain(at) {
        return false;
    }
    let from = NAME_AT + at;
    let wanted = head(scratch.asked.qtype as u16, scratch.asked.server);
    let client = scratch.asked.client;
    let mut sum = suffixes.begin(len, wanted, client);
    let mut index = 0u32;
    scratch.set_rounds(len / 8);
    while index < SUFFIX_WORDS as u32 && index < scratch.rounds() {
        sum = sum.wrapping_add(scratch.product(suffixes, from, index, u64::MAX));
        index += 1;
    }
    // A word of no bytes adds nothing.
    let last = len / 8;
    sum = sum.wrapping_add(scratch.product(suffixes, from, last, first_bytes(len)));
    let hash = SuffixSettings::end(sum);
    let Some(slot) = tables
        .suffix_ways(hash as u32 & suffixes.mask)
        .and_then(|ways| slot_of(ways, hash))
    else {
        return false;
    };
    let Some(Slot { suffix, entry }) = tables.slot(slot) else {
        return false;
    };
    let sequence = entry[SEQUENCE].load();
    let mut entry = Reader::after(entry, sequence);
    let mut suffix = Reader::after(suffix, sequence);
    let rule = entry.word(RULE);
    if sequence & 1 != 0
        || entry.word(HEAD) != wanted
        || (entry.word(LENGTHS) >> 32) as u32 != client
        || suffix.word(LENGTH) != u64::from(len)
    {
        return false;
    }
    let mut index = 0u32;
    scratch.set_rounds(len / 8);
    while index < SUFFIX_WORDS as u32 && index < scratch.rounds() {
        if !scratch.has_word(&mut suffix, from, index, u64::MAX) {
            return false;
        }
        index += 1;
    }
    if len & 7 != 0 && !scratch.has_word(&mut suffix, from, last, first_bytes(len)) {
        return false;
    }
    // Where there is no answer to be read after all, userspace gets this rule.
    entry.join(&suffix);
    if entry.last(SEQUENCE) != sequence {
        return false;
    }
    scratch.lookup.slot = slot;
    scratch.lookup.sequence = entry.witnessed(sequence);
    scratch.lookup.rule = rule;
    true
}
