//! What the kernel side and userspace share: the ABI of the maps, the packet pipeline and the DFA walk.
//!
//! Nothing here knows of aya, of maps or of sockets: the same code runs in the loaded programs, over byte slices in
//! tests, and under a fuzzer.
//!
//! Layers, from below: values and layouts ([`wire`], [`verdict`], [`word`], [`abi`], `key`), arithmetic ([`checksum`],
//! [`verifier`]), the memory that all stages share ([`scratch`]), words that userspace overwrites meanwhile (`seqlock`, `ways`);
//! what reads and changes it ([`name`], [`packet`], `edns`, [`reply`]); who asks ([`client`]); the matcher ([`dfa`]) and the
//! tables of answers ([`answer`]), neither of which uses the other; the [`pipeline`].
#![cfg_attr(not(test), no_std)]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[cfg(not(target_arch = "bpf"))]
extern crate alloc;

pub mod abi;
pub mod answer;
pub mod checksum;
#[doc(hidden)]
pub mod churn;
pub mod client;
pub mod dfa;
mod edns;
mod key;
pub mod name;
pub mod packet;
pub mod pipeline;
pub mod reply;
pub mod scratch;
mod seqlock;
pub mod verdict;
pub mod verifier;
mod ways;
pub mod wire;
pub mod word;
