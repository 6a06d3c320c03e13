//! Writes entries so that a reader sees a whole one, or that it does not.

use alloc::vec::Vec;

use super::{
    layout::*,
    suffix::{Suffix, write_suffix},
};
use crate::{key::Key, seqlock::change, word::Word};

/// An answer as an entry keeps it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    /// The records before the RRset, or all there are: CNAMEs, or CNAMEs and an SOA. Relative pointers have 0xc000
    /// added and count from the start of the section.
    pub chain: Vec<u8>,
    /// Records of one size, each with a relative pointer first, a TTL at byte 6.
    pub records: Vec<Vec<u8>>,
    /// Offsets of relative pointers in `chain`.
    pub pointers: Vec<u16>,
    /// Offsets of TTLs in `chain`.
    pub ttls: Vec<u16>,
    /// ANCOUNT.
    pub answers: u16,
    /// NSCOUNT.
    pub authorities: u16,
}

/// How long an entry is used, `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    /// Until then the TTL is what is left.
    pub fresh_until_ns: u64,
    /// Until then the TTL is 1, and a refresh is asked for.
    pub serve_until_ns: u64,
    /// Until then it is given while no responder is there.
    pub stale_until_ns: u64,
    /// TTL in seconds while it is fresh; 0 for what is left.
    pub fixed_ttl: u32,
}

impl Body {
    /// Whether an entry has room for it.
    pub fn fits(&self) -> bool {
        let size = self.records.first().map_or(0, Vec::len);
        self.records.len() <= MAX_RECORDS
            && size < 256
            && size.is_multiple_of(2)
            && self.records.iter().all(|record| {
                record.len() == size && size >= 12 && record[..2] == self.records[0][..2]
            })
            && self.pointers.len() <= MAX_POINTERS
            && self.ttls.len() <= MAX_TTLS
            && self.chain.len() + 2 * size * self.records.len() <= SECTION_LEN
    }

    /// Words of the entry from [`SHAPE`] on.
    fn words(&self) -> [u64; CAPTURES - SHAPE] {
        let mut words = [0; CAPTURES - SHAPE];
        let size = self.records.first().map_or(0, Vec::len);
        let owner = self
            .records
            .first()
            .map_or(0, |record| u16::from_be_bytes([record[0], record[1]]));
        words[0] = self.chain.len() as u64
            | u64::from(self.answers) << 16
            | u64::from(self.authorities) << 32;
        words[RRSET - SHAPE] = self.records.len() as u64 | (size as u64) << 8;
        words[COUNTS - SHAPE] =
            self.pointers.len() as u64 | (self.ttls.len() as u64) << 8 | u64::from(owner) << 16;

        let mut section = self.chain.clone();
        let odd = |positions: &[u16]| positions.iter().filter(|at| *at % 2 != 0).count();
        let (mut pointers, mut ttls) = (
            [
                self.pointers.len() - odd(&self.pointers),
                odd(&self.pointers),
            ],
            [self.ttls.len() - odd(&self.ttls), odd(&self.ttls)],
        );
        let parity = section.len() % 2;
        pointers[parity] += self.records.len();
        ttls[parity] += self.records.len();
        for record in &self.records {
            section.extend_from_slice(record);
        }
        words[SUMS - SHAPE] = u64::from(fold(sum(&section)))
            | (pointers[0] as u64) << 16
            | (pointers[1] as u64) << 24
            | (ttls[0] as u64) << 32
            | (ttls[1] as u64) << 40;
        // Twice, so that any rotation is one piece.
        for record in &self.records {
            section.extend_from_slice(record);
        }

        let pointers = self.pointers.iter().enumerate();
        let ttls = self.ttls.iter().enumerate();
        for (index, position) in pointers.chain(ttls.map(|(index, at)| (MAX_POINTERS + index, at)))
        {
            words[PATCHES - SHAPE + index / 4] |= u64::from(*position) << (16 * (index % 4));
        }
        for (index, byte) in section.iter().enumerate() {
            words[SECTION - SHAPE + index / 8] |= u64::from(*byte) << (8 * (index % 8));
        }
        words
    }
}

/// Ones' complement sum of big-endian 16-bit words, not folded (RFC 1071).
pub(crate) fn sum(bytes: &[u8]) -> u32 {
    bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low)))
        .sum()
}

pub(crate) fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Overwrites an entry. The body must fit; there must be one writer at a time.
pub fn write(entry: &Entry, key: &Key, body: &Body, lifetime: &Lifetime) {
    write_with(entry, key, body, lifetime, || {});
}

/// [`write`], with more that belongs to the entry and is written while readers see an odd sequence number.
pub fn write_with(entry: &Entry, key: &Key, body: &Body, lifetime: &Lifetime, more: impl FnOnce()) {
    debug_assert!(body.fits());
    let mut words = body.words();
    words[RRSET - SHAPE] |= u64::from(lifetime.fixed_ttl) << 32;
    change(entry, || {
        write_key(entry, key);
        entry[FRESH_UNTIL].store(lifetime.fresh_until_ns);
        entry[SERVE_UNTIL].store(lifetime.serve_until_ns);
        entry[STALE_UNTIL].store(lifetime.stale_until_ns);
        for (word, value) in entry[SHAPE..].iter().zip(words) {
            word.store(value);
        }
        more();
    });
}

/// Overwrites an entry of the table of targets that do not exist; `key` has a qtype of 0.
pub fn write_absent(absent: &Absent, key: &Key, until_ns: u64) {
    change(absent, || {
        write_key(absent, key);
        absent[SERVE_UNTIL].store(until_ns);
    });
}

/// The head of an entry that has no key: no query asks for a qtype of 65,535 and is answered here.
const FREE: u64 = u64::MAX;

/// The key of an entry; `None` for one that was never written, was released, or is half written. Only for the one writer.
pub fn key_of(entry: &[Word]) -> Option<Key> {
    let sequence = entry[SEQUENCE].load();
    let head = entry[HEAD].load();
    if sequence == 0 || sequence & 1 != 0 || head == FREE {
        return None;
    }
    let mut key = Key {
        head,
        rule: entry[RULE].load(),
        lengths: entry[LENGTHS].load(),
        ..Key::EMPTY
    };
    for (word, value) in key
        .captures
        .iter_mut()
        .zip(&entry[captures_of(entry.len())..])
    {
        *word = value.load();
    }
    Some(key)
}

/// The body of an entry that was written by [`write`]. Only for the one writer.
pub fn body_of(entry: &Entry) -> Body {
    let word = |at: usize| entry[at].load();
    let byte = |at: usize| (word(SECTION + at / 8) >> (8 * (at % 8))) as u8;
    let patch = |index: usize| (word(PATCHES + index / 4) >> (16 * (index % 4))) as u16;
    let (shape, rrset, counts) = (word(SHAPE), word(RRSET), word(COUNTS));
    let chain_len = (shape as u16 as usize).min(SECTION_LEN);
    let size = usize::from((rrset >> 8) as u8);
    let records = usize::from(rrset as u8)
        .min(MAX_RECORDS)
        .min((SECTION_LEN - chain_len).checked_div(size).unwrap_or(0));
    let bytes = |from: usize, len: usize| (from..from + len).map(byte).collect();
    Body {
        chain: bytes(0, chain_len),
        records: (0..records)
            .map(|index| bytes(chain_len + index * size, size))
            .collect(),
        pointers: (0..usize::from(counts as u8).min(MAX_POINTERS))
            .map(patch)
            .collect(),
        ttls: (0..usize::from((counts >> 8) as u8).min(MAX_TTLS))
            .map(|index| patch(MAX_POINTERS + index))
            .collect(),
        answers: (shape >> 16) as u16,
        authorities: (shape >> 32) as u16,
    }
}

/// Until when an entry is of any use, also while no responder is there.
pub fn until_of(entry: &[Word]) -> u64 {
    let serve = entry[SERVE_UNTIL].load();
    if entry.len() == ENTRY_WORDS {
        serve.max(entry[STALE_UNTIL].load())
    } else {
        serve
    }
}

/// Copies an entry of another table, with whatever belongs to it beside.
pub fn copy_from(entry: &[Word], from: &[Word], more: impl FnOnce()) {
    change(entry, || {
        for (to, from) in entry.iter().zip(from).skip(SEQUENCE + 1) {
            to.store(from.load());
        }
        entry[CLAIMED].store(0);
        more();
    });
}

/// Marks an entry as free.
pub fn release(entry: &[Word]) {
    change(entry, || {
        entry[SERVE_UNTIL].store(0);
        if entry.len() == ENTRY_WORDS {
            entry[STALE_UNTIL].store(0);
        }
        entry[HEAD].store(FREE);
    });
}

fn write_key(entry: &[Word], key: &Key) {
    entry[HEAD].store(key.head);
    entry[RULE].store(key.rule);
    entry[LENGTHS].store(key.lengths);
    for (word, value) in entry[captures_of(entry.len())..].iter().zip(key.captures) {
        word.store(value);
    }
}

/// Whether an entry has this suffix.
pub fn has_suffix(slot: &Slot, suffix: &[u8]) -> bool {
    let wanted: Suffix = core::array::from_fn(|_| Word::new(0));
    write_suffix(&wanted, suffix);
    let mut words = wanted.iter().zip(&slot.suffix);
    words.all(|(wanted, present)| wanted.load() == present.load())
}

/// Gives an entry another suffix, in its place.
pub fn change_suffix(slot: &Slot, suffix: &[u8]) {
    change(&slot.entry, || write_suffix(&slot.suffix, suffix));
}
