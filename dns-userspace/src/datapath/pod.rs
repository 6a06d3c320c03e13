//! Wraps the ABI's types so that aya takes them as map keys and values.

use aya::Pod;

/// A map key or value of the ABI.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Plain<T>(pub T);

// SAFETY: the types of `dns_common::abi` and `dns_common::dfa` are `repr(C)` integers and arrays of integers, without
// pointers; padding is written from initialised copies only.
unsafe impl<T: Copy + 'static> Pod for Plain<T> {}
