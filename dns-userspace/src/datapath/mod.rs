//! The one user of aya: loads the programs, attaches them, reads their maps.

mod event;

pub use event::{Intercepted, VlanTag};
