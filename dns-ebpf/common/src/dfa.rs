//! The matcher: a reversed DFA over a name whose length bytes were replaced by a separator, walked from the root label
//! back.
//!
//! The input of a name `a.bc.` (wire `01 a 02 b c 00`) is `FF a FF b c`, read from its end. The table is made by
//! userspace (`dns-userspace/src/rules/table.rs`); this module only walks it. Three things keep the walk short without
//! changing what it accepts: the literal ends that rules have are compared in words before the first step ([`Head`]);
//! where only literal labels are left to the end of a rule, those are compared in words too ([`Tail`]); and a state from
//! which every further sequence of labels leads to the same rule (a leading `*`) ends the walk.
//!
//! The table is a double array (Aoe, 1989) in one map value: a state is an index, its transition on a class is the entry
//! that many places further on, and the entry says which class it is for. Rows overlap, so thousands of rules fit into
//! the 4 MiB that a map value may have, one load is one step, and there is nothing to switch while walking.

use crate::{
    name::LiteralWord,
    scratch::{NAME_AT, Scratch},
    verifier,
    wire::MAX_NAME,
};

/// Most heads of a table.
pub const HEADS: usize = 8;
/// Words of a head.
pub const HEAD_WORDS: usize = 4;
/// Words of a tail.
pub const TAIL_WORDS: usize = 8;

/// A literal end that some rules have, with which the walk begins; no two differ only past the first word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Head {
    /// Last word first; unused ones have `care` 0.
    pub words: [LiteralWord; HEAD_WORDS],
    /// The end on the wire: seven bytes, with length bytes for separators, and the root label.
    pub wire: LiteralWord,
    /// Words in use.
    pub word_count: u32,
    /// Bytes that they hold.
    pub len: u32,
    /// State in front of them.
    pub start: u32,
    #[doc(hidden)]
    pub padding: u32,
}

impl Head {
    /// Compares nothing and starts nowhere.
    pub const NONE: Self = Self {
        words: [LiteralWord::NONE; HEAD_WORDS],
        wire: LiteralWord::NONE,
        word_count: 0,
        len: 0,
        start: 0,
        padding: 0,
    };
}

/// The literal labels that are left of a rule, with the separator in front of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tail {
    /// Last word first; unused ones have `care` 0.
    pub words: [LiteralWord; TAIL_WORDS],
    /// Words in use.
    pub word_count: u32,
    /// Bytes that they hold.
    pub len: u32,
    /// Rule, plus one, that is accepted when the name ends in front of them; 0 for none.
    pub at_end: u32,
    /// Rule, plus one, that is accepted when at least one more label precedes them; 0 for none.
    pub any_labels: u32,
}

/// The tails of a table.
pub trait Tails {
    fn tail(&self, index: u32) -> Option<&Tail>;
}

impl Tails for [Tail] {
    fn tail(&self, index: u32) -> Option<&Tail> {
        self.get(index as usize)
    }
}

/// Everything about the table but its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Header {
    /// Class of each byte, [`FIRST_CLASS`] and up.
    pub classes: [u8; 256],
    /// One of these every name that matches ends with.
    pub heads: [Head; HEADS],
    /// Heads in use; 0 in a table that matches nothing.
    pub head_count: u32,
    /// States from here on end the walk: a tail is left, or whatever labels follow, the rule is the same.
    pub last_from: u32,
    /// Entries in use.
    pub entries: u32,
}

impl Header {
    /// A table that matches nothing.
    pub const EMPTY: Header = Header {
        classes: [FIRST_CLASS; 256],
        heads: [Head::NONE; HEADS],
        head_count: 0,
        last_from: u32::MAX,
        entries: 0,
    };

    /// Whether a name can match whose last seven bytes and root label on the wire are this word: the first
    /// byte is the lowest.
    #[inline(always)]
    pub fn may_match(&self, end_of_name: u64) -> bool {
        let mut index = 0u32;
        while index < HEADS as u32 && index < verifier::reread(&self.head_count) {
            // SAFETY: index < HEADS.
            if unsafe { &*self.heads.as_ptr().add(index as usize) }
                .wire
                .matches(end_of_name)
            {
                return true;
            }
            index += 1;
        }
        false
    }

    /// The same table, by which [any end may match](Self::may_match): a message may end as if it asked for another name than it
    /// does.
    pub const fn reading_every_name(mut self) -> Self {
        self.heads[0].wire = LiteralWord::NONE;
        self
    }

    #[inline(always)]
    fn class(&self, byte: u8) -> u32 {
        // SAFETY: a u8 indexes 256 entries.
        u32::from(unsafe { *self.classes.as_ptr().add(byte as usize) })
    }
}

/// Entries of a table: what fits into the largest value that a map may have on every supported kernel.
pub const TABLE_LEN: usize = 1 << 20;
const TABLE_MASK: u32 = TABLE_LEN as u32 - 1;

/// The entries. A state is an index above 0; an entry that is 0 belongs to no state.
pub type Table = [u32; TABLE_LEN];

/// Stands in the place of a class for the index of a state's tail, plus one: an entry that is 0 belongs to no state.
pub const TAIL: u8 = 0;
/// The same for the rule, plus one, that is accepted when the name ends in a state.
pub const AT_END: u8 = 1;
/// The same for the rule that is accepted whatever labels follow, at least one.
pub const ANY_LABELS: u8 = 2;
/// The first class of bytes.
pub const FIRST_CLASS: u8 = 3;

/// The entry for a class: a state; for [`TAIL`] a tail plus one; for [`AT_END`] and [`ANY_LABELS`] a rule plus one.
pub const fn entry(class: u8, value: u32) -> u32 {
    value << 8 | class as u32
}

/// Most rules of one table.
pub const MAX_RULES: usize = 65_534;

/// What the entry for `class` of `state` holds.
#[inline(always)]
fn step(table: &Table, state: u32, class: u32) -> Option<u32> {
    let index = verifier::index::<TABLE_MASK>(state + class);
    // SAFETY: masked to the length of the array.
    let entry = unsafe { *table.as_ptr().add(index) };
    if entry & 0xff != class {
        return None;
    }
    Some(entry >> 8)
}

/// The rule that the name in `scratch` matches, if any. The name was split by [`Scratch::split_labels`].
#[inline(always)]
pub fn find<T: Tails + ?Sized>(
    header: &Header,
    table: &Table,
    tails: &T,
    scratch: &mut Scratch,
) -> Option<u32> {
    let end = NAME_AT + (scratch.name_len & 0xff).wrapping_sub(1);
    let last_word = scratch.word(end - 8);
    let mut index = 0u32;
    let head = loop {
        if index >= HEADS as u32 || index >= verifier::reread(&header.head_count) {
            return None;
        }
        // SAFETY: index < HEADS.
        let head = unsafe {
            &*header
                .heads
                .as_ptr()
                .add(verifier::index::<{ HEADS as u32 - 1 }>(index))
        };
        if head.words[0].matches(last_word) {
            break head;
        }
        index += 1;
    };
    if end < NAME_AT + head.len || !scratch.ends_with(end, &head.words, &head.word_count) {
        return None;
    }

    let mut position = u64::from(end - (head.len & 63));
    if position > u64::from(NAME_AT + MAX_NAME) {
        return None;
    }
    let mut state = head.start;
    let last_from = header.last_from;
    while position > u64::from(NAME_AT) {
        verifier::decrement(&mut position);
        state = step(table, state, header.class(scratch.byte(position)))?;
        if state >= last_from {
            break;
        }
    }
    let position = scratch.forget(position as u32);
    let state = scratch.forget(state);
    let rule = accepted(table, tails, scratch, position, state)?;
    if rule == 0 || !scratch.is_plain(end) {
        return None;
    }
    Some(rule - 1)
}

/// The rule, plus one, that is accepted in `state` with the name up to `position` unread.
#[inline(always)]
fn accepted<T: Tails + ?Sized>(
    table: &Table,
    tails: &T,
    scratch: &Scratch,
    position: u32,
    state: u32,
) -> Option<u32> {
    if position <= NAME_AT {
        return step(table, state, u32::from(AT_END));
    }
    match step(table, state, u32::from(TAIL)) {
        // An entry of no state reads as a tail of index -1.
        None | Some(0) => step(table, state, u32::from(ANY_LABELS)),
        Some(index) => {
            let tail = tails.tail(index - 1)?;
            if position < NAME_AT + tail.len
                || !scratch.ends_with(position, &tail.words, &tail.word_count)
            {
                return None;
            }
            Some(if position == NAME_AT + tail.len {
                tail.at_end
            } else {
                tail.any_labels
            })
        }
    }
}
