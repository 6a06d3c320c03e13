//! What the end-to-end tests and the benchmarks share: the lab, packets, and the programs of `tests/ebpf`.

pub use gregor_lab as lab;
pub use gregor_lab::tools;

pub mod agent;
pub mod arm64;
pub mod chaos;
pub mod other;
pub mod packets;
pub mod reading;

/// The object with the programs of `tests/ebpf`.
pub static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-ebpf"));
