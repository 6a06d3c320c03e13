//! Set-associative indexes: buckets that name slots of another table by the upper halves of hashes.

use crate::word::Word;

/// Slots that one bucket names.
pub const WAYS: usize = 8;
/// One bucket of an index: the upper half of a hash, and a slot plus one. 0 is free.
pub type Ways = [Word; WAYS];

/// The slot that a bucket names for a hash. Without branches: the verifier would go on from each of the ways.
#[inline(always)]
pub(crate) fn slot_of(ways: &Ways, hash: u64) -> Option<u32> {
    let mut named = 0u64;
    let mut way = 0;
    while way < WAYS {
        // SAFETY: way < WAYS; a checked index would pull the panic machinery into the program.
        let word = unsafe { (*ways.as_ptr().add(way)).load() };
        let other = (word ^ hash) >> 32;
        // All ones where the halves agree: 0 - 1 has the sign that other numbers of 32 bits lose nothing to.
        named |= word & crate::verifier::spread_sign(other.wrapping_sub(1));
        way += 1;
    }
    (named as u32).checked_sub(1)
}
