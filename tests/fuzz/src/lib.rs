//! Fuzz targets: each takes any bytes and panics when the product breaks one of its promises.
//!
//! `cargo xtask fuzz` runs them under libFuzzer; `cargo test` puts the committed corpora through them.

pub mod compose;
pub mod config;
pub mod corefile;
pub mod corpus;
pub mod pipeline;
pub mod upstream;
pub mod wire;
