//! What the end-to-end tests, `cargo xtask run` and the benchmarks share: the lab and its parts.

pub use gregor_lab as lab;
pub use gregor_lab::tools;

pub mod agent;
pub mod arm64;
pub mod bench;
pub mod chaos;
pub mod packets;
pub mod reading;
