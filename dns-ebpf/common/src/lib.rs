//! What the kernel side and userspace share: the ABI of the maps, the packet pipeline and the DFA walk.
//!
//! Nothing here knows of aya, of maps or of sockets: the same code runs in the loaded programs, over byte slices in
//! tests, and under a fuzzer.
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
extern crate alloc;

pub mod abi;
pub mod answer;
#[doc(hidden)]
pub mod churn;
pub mod dfa;
pub mod packet;
pub mod pipeline;
pub mod reply;
pub mod verdict;
pub mod verifier;
pub mod wire;
