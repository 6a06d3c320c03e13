//! Copies the answer of an entry that was located into the scratch, as it is to be sent.

use super::layout::*;
use crate::seqlock::Reader;
use crate::{
    checksum::swap,
    scratch::{Lookup, STRIDE, Scratch},
    wire::{DNS_HEADER_LEN, QUESTION_TAIL},
};

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
