//! Nothing but its dependencies: see `Cargo.toml`.
//!
//! `cargo xtask run` compiles xtask and then gregor, `cargo xtask test` then the lab, the tests and the benches. Cargo gives a crate
//! the features that the package being built asks for, so a crate with other features in a later build would be compiled once more,
//! and all that use it.
#![no_std]
