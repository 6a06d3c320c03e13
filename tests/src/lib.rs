//! What the end-to-end tests, `cargo xtask run` and the benchmarks share: the lab and its parts.

pub mod packets;
