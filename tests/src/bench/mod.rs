//! What is measured, and beside what.

pub mod contenders;
pub mod latency;
pub mod limits;
pub mod load;
pub mod machine;
pub mod program;
