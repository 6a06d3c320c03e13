//! The end of an answer's names, as a table keeps it: the labels behind those that a rule's leading `*` takes in.

use crate::{
    key::{Key, mix},
    name::LiteralWord,
    word::Word,
};

/// Most words of a suffix that is kept.
pub const SUFFIX_WORDS: usize = 12;
/// Beginnings of suffixes that are looked for.
pub const STARTERS: usize = 2;

pub(super) const LENGTH: usize = 0;
pub(super) const PAIRS: usize = 2;

/// The length of the end of the names of an answer, and this in pairs of words: the bytes in lower case, and the bits that
/// make capitals into small letters.
pub type Suffix = [Word; SUFFIX_LEN];

pub(super) const SUFFIX_LEN: usize = PAIRS + 2 * SUFFIX_WORDS + 2;

/// For the words of a suffix, then for what the answer depends on beside it: two words.
const FACTORS: usize = SUFFIX_WORDS + 2;

/// How suffixes are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct SuffixSettings {
    /// Random odd numbers: the hash is a sum of products, which do not wait for each other.
    pub factors: [u64; FACTORS],
    /// The first bytes of suffixes; what is not used matches nothing.
    pub starters: [LiteralWord; STARTERS],
    /// Buckets of their index, less one.
    pub mask: u32,
    /// Starters in use.
    pub starter_count: u32,
    /// A bit for each starter whose answers depend on the client.
    pub asks: u32,
    #[doc(hidden)]
    pub padding: u32,
}

impl SuffixSettings {
    /// No suffix is found.
    pub const NONE: SuffixSettings = SuffixSettings {
        factors: [1; FACTORS],
        starters: [NO_STARTER; STARTERS],
        mask: 0,
        starter_count: 0,
        asks: 0,
        padding: 0,
    };

    /// The hash of a suffix in wire format, for the qtype, server and client of a key. `None` when it is too long.
    pub fn hash(&self, suffix: &[u8], key: &Key) -> Option<u64> {
        if suffix.len() > SUFFIX_WORDS * 8 {
            return None;
        }
        let mut sum = self.begin(suffix.len() as u32, key.head, key.client());
        for (index, chunk) in suffix.chunks(8).enumerate() {
            let mut word = 0u64;
            for (at, byte) in chunk.iter().enumerate() {
                word |= u64::from(byte | 0x20) << (8 * at);
            }
            sum = sum.wrapping_add(word.wrapping_mul(self.factors[index]));
        }
        Some(Self::end(sum))
    }
}

impl SuffixSettings {
    /// What a hash begins with.
    #[inline(always)]
    pub(super) const fn begin(&self, len: u32, head: u64, client: u32) -> u64 {
        let rest = len as u64 | (client as u64) << 32;
        head.wrapping_mul(self.factors[SUFFIX_WORDS])
            .wrapping_add(rest.wrapping_mul(self.factors[SUFFIX_WORDS + 1]))
    }

    /// The hash of a sum. Names that differ in the last byte of a word alone have sums that differ in the uppermost byte alone,
    /// which a product leaves there: so the upper half is put over the lower one first.
    #[inline(always)]
    pub(super) const fn end(sum: u64) -> u64 {
        mix(sum, sum >> 32)
    }
}

/// Matches nothing.
pub const NO_STARTER: LiteralWord = LiteralWord {
    fold: 0,
    care: 0,
    value: 1,
};

/// Writes a suffix in wire format, in lower case; to be called while its entry is being written.
#[cfg(not(target_arch = "bpf"))]
pub fn write_suffix(place: &Suffix, suffix: &[u8]) {
    for index in 0..SUFFIX_WORDS {
        let chunk = suffix.chunks(8).nth(index).unwrap_or(&[]);
        let (mut value, mut fold) = (0u64, 0u64);
        for (at, byte) in chunk.iter().enumerate() {
            value |= u64::from(*byte) << (8 * at);
            if byte.is_ascii_lowercase() {
                fold |= 0x20 << (8 * at);
            }
        }
        place[PAIRS + 2 * index].store(value);
        place[PAIRS + 2 * index + 1].store(fold);
    }
    place[LENGTH].store(suffix.len() as u64);
}
