//! The one user of aya: loads the programs, attaches them, reads their maps.

mod event;

pub use event::{Intercepted, VlanTag};

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    pub index: u32,
    pub name: String,
}
