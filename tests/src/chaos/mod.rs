//! Fault injection: gregor is replaced, killed, stopped, reloaded and disturbed under the load of pods, and the pods judge
//! whether it kept its promises.

mod counts;
mod drops;
mod faults;
mod judge;
mod load;
mod memory;
mod report;
mod run;
mod task;
mod upstream;
mod witness;

pub use faults::Plant;
pub use judge::{Fault, Verdict};
pub use report::render;
pub use run::{Options, Outcome, Place, Plan, QUICK, Run, run};
