//! Answers that say whose they are, for tests in which tables change while a program looks answers up.

use crate::scratch::Scratch;

/// Keys that are asked for.
pub const KEYS: usize = 16;
/// Answers of each, which differ in length.
pub const VERSIONS: usize = 6;

// The frame that such a program runs over: an Ethernet header and padding, counts, names in wire format.

/// Offset of the counts: look-ups, answers that were the key's own, answers that were not.
pub const SEEN: usize = 16;
pub const SEEN_WORDS: usize = 3;
/// Offset of the names.
pub const NAMES: usize = SEEN + SEEN_WORDS * 8;
/// Words of a name, zero behind its end but for the last byte.
pub const NAME_WORDS: usize = 8;
/// Offset of a name's length from its start.
pub const NAME_LEN: usize = NAME_WORDS * 8 - 1;

/// What an answer consists of.
pub const fn mark(key: u32, version: u32) -> [u8; 2] {
    [1 + key as u8, 1 + version as u8]
}

/// Words of an answer.
pub const fn words(key: u32, version: u32) -> u32 {
    10 + 13 * version + key
}

const MAX_WORDS: u32 = words(KEYS as u32 - 1, VERSIONS as u32 - 1);
const _: () = assert!(MAX_WORDS as usize * 8 <= crate::answer::SECTION_LEN);

/// Whether the answer in the scratch is one of this key's, every byte of it.
#[inline(always)]
pub fn is_own(scratch: &Scratch, key: u32) -> bool {
    let first = word(scratch, 0);
    let version = ((first >> 8) as u32 & 0xff).wrapping_sub(1);
    if version >= VERSIONS as u32 || scratch.lookup.len != 8 * words(key, version) {
        return false;
    }
    let mark = u64::from(u16::from_le_bytes(mark(key, version)));
    let expected = mark * 0x0001_0001_0001_0001;
    if u64::from(scratch.lookup.answers) != mark || u64::from(scratch.lookup.authorities) != mark {
        return false;
    }
    let mut at = 0u32;
    while at < MAX_WORDS {
        if at * 8 >= scratch.lookup.len {
            break;
        }
        if word(scratch, at) != expected {
            return false;
        }
        at += 1;
    }
    true
}

#[inline(always)]
fn word(scratch: &Scratch, index: u32) -> u64 {
    scratch.reply_word(index * 8)
}
