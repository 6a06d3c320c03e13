//! What is measured, and beside what.

mod analyse;
mod claims;
pub mod compare;
mod contenders;
mod external;
pub mod gate;
mod html;
mod journal;
mod latency;
mod limits;
mod load;
mod machine;
mod measure;
mod metric;
mod pair;
mod plan;
pub mod program;
pub mod run;
mod say;
mod schema;
mod stats;
mod terminal;
