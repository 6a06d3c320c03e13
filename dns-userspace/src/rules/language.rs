//! Pieces that the languages of patterns and expressions are put together from.

use regex_syntax::hir::{Class, ClassBytes, ClassBytesRange, Hir, Repetition};

/// The class of all bytes that `is_in` takes.
pub fn class(is_in: impl Fn(u8) -> bool) -> Hir {
    let ranges = (0..=255u8)
        .filter(|&byte| is_in(byte))
        .map(|byte| ClassBytesRange::new(byte, byte));
    Hir::class(Class::Bytes(ClassBytes::new(ranges)))
}

/// `sub` repeated.
pub fn repeat(min: u32, max: Option<u32>, sub: Hir) -> Repetition {
    Repetition {
        min,
        max,
        greedy: true,
        sub: Box::new(sub),
    }
}
