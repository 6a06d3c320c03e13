//! Reads the code that the kernel's JIT makes on arm64, and checks the order of its loads.
//!
//! Under emulation on another machine no load is ever early, so that no test that only runs a program can fail there. This
//! one looks at the instructions.

mod decode;
mod flow;
pub mod jited;
mod order;
pub mod sample;
mod value;

#[cfg(test)]
mod tests;

pub use order::{Fault, Reader, Report, Unreadable, check};
