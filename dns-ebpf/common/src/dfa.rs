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
    answer::{Asked, Captures, Key, Lookup, REPLY_LEN, REPLY_MASK, SECTION_LEN, STRIDE},
    packet::HEADERS,
    pipeline::Frame,
    verifier,
    wire::{FULL_COOKIE_LEN, MAX_NAME, OPT_LEN, QUESTION_TAIL},
};

/// Stands for a label boundary. A byte of this value inside a label never matches.
pub const SEPARATOR: u8 = 0xff;

/// Where the name starts in the scratch: room in front, so that words read from the end never run below zero.
pub const NAME_AT: u32 = 64;
/// Most bytes copied there: the longest name, qtype and qclass.
pub const NAME_COPY: u32 = MAX_NAME + QUESTION_TAIL;

/// Words of a COOKIE option with the longest cookie.
const COOKIE_WORDS: usize = (4 + *FULL_COOKIE_LEN.end() as usize).div_ceil(8);
// Behind the longest section and an OPT.
const _: () = assert!(SECTION_LEN + OPT_LEN as usize + COOKIE_WORDS * 8 <= REPLY_LEN);

const SCRATCH_MASK: u32 = 511;
/// A word may start at the last masked index.
const SCRATCH_LEN: usize = SCRATCH_MASK as usize + 1 + 8;

/// Per-processor working memory, too large for the stack of a program.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Scratch {
    pub bytes: [u8; SCRATCH_LEN],
    /// Number of labels, the root not counted.
    pub label_count: u32,
    /// Bytes of the name on the wire, the root label included.
    pub name_len: u32,
    /// See [`Scratch::enter`].
    in_use: u32,
    /// See [`Scratch::forget`].
    forgotten: u32,
    /// See [`Scratch::set_rounds`].
    rounds: u32,
    /// See [`Scratch::edns`].
    pub(crate) edns: [u32; 4],
    pub(crate) frame: Frame,
    /// See [`Scratch::echoed`].
    pub(crate) echoed: [u32; 2],
    /// Where each label begins, its length byte included, counted from the start of the name; then the root label.
    labels: [u8; 128],
    /// What is asked of the table of answers, and what it said.
    pub asked: Asked,
    pub lookup: Lookup,
    pub(crate) key: Key,
    /// The headers of a frame that becomes a reply.
    pub headers: [u8; HEADERS],
    /// A COOKIE option that the reply repeats, and what follows it.
    cookie: [u64; COOKIE_WORDS],
    /// A reply's sections, from the answer section on. A stride may start at the last masked index.
    pub reply: [u8; REPLY_LEN + STRIDE],
}

impl Scratch {
    pub const fn new() -> Self {
        Self {
            bytes: [0; SCRATCH_LEN],
            label_count: 0,
            name_len: 0,
            in_use: 0,
            forgotten: 0,
            rounds: 0,
            edns: [0; 4],
            frame: Frame::NONE,
            echoed: [0; 2],
            labels: [0; 128],
            asked: Asked {
                now_ns: 0,
                rule: 0,
                captures: Captures::NEVER,
                qtype: 0,
                server: 0,
                client: 0,
                room: 0,
                copied: 0,
                takes_expired: 0,
                padding: 0,
            },
            lookup: Lookup {
                sequence: 0,
                slot: 0,
                len: 0,
                answers: 0,
                authorities: 0,
                sum: 0,
                found: 0,
                rule: 0,
            },
            key: Key::EMPTY,
            headers: [0; HEADERS],
            cookie: [0; COOKIE_WORDS],
            reply: [0; REPLY_LEN + STRIDE],
        }
    }

    /// Takes the scratch for one frame, unless a program has it that this one interrupts: programs of one processor may nest
    /// where softirqs can be preempted (PREEMPT_RT). The one that interrupts ends first, so no atomic operation is needed.
    #[inline(always)]
    #[must_use]
    pub fn enter(&mut self) -> bool {
        let in_use = &raw mut self.in_use;
        // SAFETY: a field of ours.
        unsafe {
            let is_free = in_use.read_volatile() == 0;
            if is_free {
                in_use.write_volatile(1);
            }
            is_free
        }
    }

    /// Whether a program has it.
    pub fn is_in_use(&self) -> bool {
        self.in_use != 0
    }

    /// Gives it back.
    #[inline(always)]
    pub fn leave(&mut self) {
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.in_use).write_volatile(0) };
    }

    /// Where a label begins; the index is masked.
    #[inline(always)]
    pub(crate) fn label(&self, index: u32) -> u32 {
        // SAFETY: masked to the length of the array.
        u32::from(unsafe { *self.labels.as_ptr().add(verifier::index::<127>(index)) })
    }

    /// A big-endian 16-bit integer of the reply; the position is masked.
    #[inline(always)]
    pub(crate) fn reply16(&self, position: u32) -> u16 {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: two bytes from a masked index are within the array.
        unsafe {
            u16::from(*self.reply.as_ptr().add(at)) << 8
                | u16::from(*self.reply.as_ptr().add(at + 1))
        }
    }

    /// Eight bytes of the reply, little-endian; the position is masked.
    #[inline(always)]
    pub(crate) fn reply_word(&self, position: u32) -> u64 {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: eight bytes from a masked index are within the array.
        u64::from_le(unsafe { unaligned(self.reply.as_ptr().add(at)) })
    }

    #[inline(always)]
    pub(crate) fn set_reply16(&mut self, position: u32, value: u16) {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: as in `reply16`.
        unsafe { put(self.reply.as_mut_ptr().add(at), value.to_be()) }
    }

    #[inline(always)]
    pub(crate) fn set_reply32(&mut self, position: u32, value: u32) {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: four bytes from a masked index are within the array.
        unsafe { put(self.reply.as_mut_ptr().add(at), value.to_be()) }
    }

    #[inline(always)]
    pub(crate) fn set_reply_words(&mut self, position: u32, values: [u64; STRIDE / 8]) {
        let at = verifier::index::<REPLY_MASK>(position);
        let mut index = 0;
        while index < STRIDE / 8 {
            // SAFETY: a stride from a masked index is within the array.
            unsafe {
                put(
                    self.reply.as_mut_ptr().add(at + index * 8),
                    values[index].to_le(),
                )
            };
            index += 1;
        }
    }

    /// Eight bytes, little-endian.
    #[inline(always)]
    pub(crate) fn set_reply_word(&mut self, position: u32, value: u64) {
        let at = verifier::index::<REPLY_MASK>(position);
        // SAFETY: eight bytes from a masked index are within the array.
        unsafe { put(self.reply.as_mut_ptr().add(at), value.to_le()) }
    }

    /// Keeps the option at the start of the reply's place.
    #[inline(always)]
    pub(crate) fn take_cookie(&mut self) {
        let mut index = 0;
        while index < COOKIE_WORDS {
            self.cookie[index] = self.reply_word(index as u32 * 8);
            index += 1;
        }
    }

    /// Puts the option that was kept, and bytes without a meaning behind it, at a position of the reply.
    #[inline(always)]
    pub(crate) fn put_cookie(&mut self, position: u32) {
        let mut index = 0;
        while index < COOKIE_WORDS {
            self.set_reply_word(position + index as u32 * 8, self.cookie[index]);
            index += 1;
        }
    }

    /// A byte of the scratch; the index is masked, never out of bounds.
    #[inline(always)]
    pub fn byte(&self, index: u64) -> u8 {
        let index = verifier::index64::<SCRATCH_MASK>(index);
        // SAFETY: masked to the length of the array. A checked index would pull the panic machinery into the program.
        unsafe { *self.bytes.as_ptr().add(index) }
    }

    /// Eight bytes from `index`, little-endian; the index is masked.
    #[inline(always)]
    pub(crate) fn word(&self, index: u32) -> u64 {
        let index = verifier::index::<SCRATCH_MASK>(index);
        // SAFETY: index ≤ SCRATCH_MASK and SCRATCH_MASK + 8 < SCRATCH_LEN.
        u64::from_le(unsafe { unaligned(self.bytes.as_ptr().add(index)) })
    }

    #[inline(always)]
    fn set(&mut self, index: u32, value: u8) {
        let index = verifier::index::<SCRATCH_MASK>(index);
        // SAFETY: masked to the length of the array.
        unsafe { *self.bytes.as_mut_ptr().add(index) = value }
    }

    /// `value`, of which the verifier knows nothing any more. It walks every round of a loop; what leaves the loop as a
    /// different constant each time would make it walk all that follows as often.
    #[inline(always)]
    pub(crate) fn forget(&mut self, value: u32) -> u32 {
        let slot = &raw mut self.forgotten;
        // SAFETY: `slot` is a field of ours.
        unsafe {
            slot.write_volatile(value);
            slot.read_volatile()
        }
    }

    /// Sets how often the next loop is to run. Each loop has a constant bound as well; [`Scratch::rounds`] is read again in
    /// each of its rounds, because LLVM would else merge both into a bound that the verifier cannot follow.
    #[inline(always)]
    pub(crate) fn set_rounds(&mut self, rounds: u32) {
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.rounds).write_volatile(rounds) }
    }

    /// How often the current loop is to run.
    #[inline(always)]
    pub(crate) fn rounds(&self) -> u32 {
        verifier::reread(&self.rounds)
    }

    /// Big-endian 16-bit integer at `index`.
    #[inline(always)]
    pub fn be16(&self, index: u32) -> u16 {
        let index = u64::from(index);
        u16::from(self.byte(index)) << 8 | u16::from(self.byte(index + 1))
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// Reads a word at any alignment.
///
/// # Safety
/// Eight bytes from `at` must be readable.
#[inline(always)]
unsafe fn unaligned(at: *const u8) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        // SAFETY: the machines that gregor supports read unaligned words; `read_unaligned` would become eight byte
        // loads here, because LLVM's BPF target knows no unaligned access.
        unsafe { core::ptr::read_volatile(at.cast::<u64>()) }
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: as the caller promises.
        unsafe { at.cast::<u64>().read_unaligned() }
    }
}

/// Writes an integer at any alignment.
///
/// # Safety
/// The bytes of a `T` from `at` must be writable.
#[inline(always)]
unsafe fn put<T>(at: *mut u8, value: T) {
    #[cfg(target_arch = "bpf")]
    {
        // SAFETY: see `unaligned`.
        unsafe { core::ptr::write_volatile(at.cast::<T>(), value) }
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        // SAFETY: as the caller promises.
        unsafe { at.cast::<T>().write_unaligned(value) }
    }
}

/// Most heads of a table.
pub const HEADS: usize = 8;
/// Words of a head.
pub const HEAD_WORDS: usize = 4;
/// Words of a tail.
pub const TAIL_WORDS: usize = 8;

/// Up to eight literal bytes, the last one highest: `(name | fold) & care == value`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct LiteralWord {
    /// 0x20 where there is a letter, so that both cases become the lower one.
    pub fold: u64,
    /// 0xff where a byte is compared.
    pub care: u64,
    pub value: u64,
}

impl LiteralWord {
    /// Compares nothing.
    pub const NONE: Self = Self {
        fold: 0,
        care: 0,
        value: 0,
    };

    /// Whether eight bytes of a name, the last one highest, are these.
    #[inline(always)]
    pub const fn matches(&self, word: u64) -> bool {
        (word | self.fold) & self.care == self.value
    }
}

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

/// What is wrong with a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// A label type other than 00, or more than 255 bytes.
    Invalid,
    /// It does not end within the bytes given.
    Truncated,
}

impl Scratch {
    /// Finds the labels of the name at [`NAME_AT`], of which at most `available` bytes are there, and puts
    /// [`SEPARATOR`] in the place of each length byte. Sets `label_count` and `name_len`.
    #[inline(always)]
    pub fn split_labels(&mut self, available: u32) -> Result<(), NameError> {
        let mut position = 0u32;
        let mut count = 0u32;
        // 127 labels of one byte fill 255 bytes with the root label; one more round finds the root.
        while count < 128 {
            if position >= available {
                return Err(NameError::Truncated);
            }
            let length = u32::from(self.byte(u64::from(NAME_AT + position)));
            // SAFETY: masked to the length of the array.
            unsafe {
                *self.labels.as_mut_ptr().add(verifier::index::<127>(count)) = position as u8
            };
            if length == 0 {
                self.label_count = count;
                self.name_len = position + 1;
                return Ok(());
            }
            if length > 63 {
                return Err(NameError::Invalid);
            }
            self.set(NAME_AT + position, SEPARATOR);
            position += length + 1;
            if position > 254 {
                return Err(NameError::Invalid);
            }
            count += 1;
        }
        Err(NameError::Invalid)
    }
}

const ONES: u64 = 0x0101_0101_0101_0101;
const LOW_BITS: u64 = 0x7f7f_7f7f_7f7f_7f7f;

/// 0x80 in each byte of `word` that is zero, exactly.
#[inline(always)]
const fn zero_bytes(word: u64) -> u64 {
    !(((word & LOW_BITS) + LOW_BITS) | word | LOW_BITS)
}

/// Not zero when one of the bytes is '.' or [`SEPARATOR`].
#[inline(always)]
pub(crate) const fn has_separator_or_dot(word: u64) -> u64 {
    zero_bytes(word ^ (ONES * b'.' as u64)) | zero_bytes(!word)
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

impl Scratch {
    /// Whether these literals, last word first, precede `end`.
    #[inline(always)]
    fn ends_with<const N: usize>(&self, end: u32, words: &[LiteralWord; N], count: &u32) -> bool {
        let mut index = 0usize;
        while index < N && index < verifier::reread(count) as usize {
            // SAFETY: index < N.
            let expected = unsafe { &*words.as_ptr().add(index) };
            if !expected.matches(self.word(end.wrapping_sub(8 * (index as u32 + 1)))) {
                return false;
            }
            index += 1;
        }
        true
    }
}

impl Scratch {
    /// Whether the name up to `end` has a separator at each label boundary and nowhere else, and no '.' in a label: the
    /// walk ends before it has read the labels of a leading `*`.
    ///
    /// Words are read from the end, so that what does not belong to the name is the room in front of it, which is zero.
    #[inline(always)]
    fn is_plain(&self, end: u32) -> bool {
        let mut dots = 0u64;
        let mut separators = 0u64;
        let mut at = end;
        while at > NAME_AT {
            at -= 8;
            let word = self.word(at);
            dots |= zero_bytes(word ^ (ONES * b'.' as u64));
            separators += zero_bytes(!word) >> 7;
        }
        // Each byte lane counted at most 32.
        dots == 0 && separators.wrapping_mul(ONES) >> 56 == u64::from(self.label_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_bytes_is_exact() {
        for word in [
            0u64,
            1,
            0x0100,
            0x8000_0001_00ff_0100,
            u64::MAX,
            0x0001_0203_8081_00ff,
        ] {
            let expected = (0..8)
                .filter(|i| (word >> (i * 8)) & 0xff == 0)
                .fold(0u64, |sum, i| sum | 0x80 << (i * 8));
            assert_eq!(zero_bytes(word), expected, "{word:#x}");
        }
    }

    fn scratch(wire: &[u8]) -> Scratch {
        let mut scratch = Scratch::new();
        scratch.bytes[NAME_AT as usize..][..wire.len()].copy_from_slice(wire);
        scratch
    }

    #[test]
    fn labels_are_split() {
        let wire = b"\x01a\x02bc\x00";
        let mut s = scratch(wire);
        s.split_labels(wire.len() as u32).unwrap();
        assert_eq!((s.label_count, s.name_len), (2, 6));
        assert_eq!(&s.bytes[64..70], b"\xffa\xffbc\x00");
    }

    #[test]
    fn names_at_the_limits() {
        let longest: Vec<u8> = [1, b'a'].repeat(127).into_iter().chain([0]).collect();
        assert_eq!(longest.len(), 255);
        let mut s = scratch(&longest);
        s.split_labels(255).unwrap();
        assert_eq!((s.label_count, s.name_len), (127, 255));

        let mut over = [1, b'a'].repeat(126);
        over.extend([2, b'a', b'a', 0]);
        assert_eq!(over.len(), 256);
        assert_eq!(scratch(&over).split_labels(256), Err(NameError::Invalid));
        assert_eq!(scratch(&[64]).split_labels(255), Err(NameError::Invalid));
        assert_eq!(
            scratch(&[0xc0, 12]).split_labels(2),
            Err(NameError::Invalid)
        );
        assert_eq!(
            scratch(&[3, b'a']).split_labels(2),
            Err(NameError::Truncated)
        );
        let mut root = scratch(&[0]);
        root.split_labels(1).unwrap();
        assert_eq!((root.label_count, root.name_len), (0, 1));
    }
}
