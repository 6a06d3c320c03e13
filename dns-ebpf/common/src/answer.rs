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

mod by_key;
mod by_suffix;
mod copy;
mod layout;
#[cfg(not(target_arch = "bpf"))]
mod memory;
mod suffix;
#[cfg(test)]
mod tests;
#[cfg(not(target_arch = "bpf"))]
mod write;

use crate::scratch::Scratch;

pub use crate::key::{Captures, Key};
pub use crate::ways::{WAYS, Ways};
pub use by_key::{Located, locate};
pub use by_suffix::{locate_by_suffix, suffix_of};
pub use copy::{Found, claim, read, read_with};
pub use layout::{
    ABSENT_WORDS, Absent, ENTRY_WORDS, Entry, MAX_POINTERS, MAX_RECORDS, MAX_TTLS, RuleEntry,
    SECTION_LEN, Settings, Slot, Tables, asks,
};
#[cfg(not(target_arch = "bpf"))]
pub use memory::MemoryTables;
#[cfg(not(target_arch = "bpf"))]
pub use suffix::write_suffix;
pub use suffix::{NO_STARTER, STARTERS, SUFFIX_WORDS, Suffix, SuffixSettings};
#[cfg(not(target_arch = "bpf"))]
pub use write::{
    Body, Lifetime, body_of, change_suffix, copy_from, has_suffix, key_of, release, until_of,
    write, write_absent, write_with,
};

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
