//! What is measured, and beside what.

pub mod limits;
pub mod program;
