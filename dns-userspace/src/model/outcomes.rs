//! The outcome of looking a target up, for reports to its owner.

use std::fmt::Debug;

use hickory_proto::rr::Name;

/// The end of a look-up that says something about the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TargetState {
    /// It leads to an answer.
    Resolves,
    /// The end of its chain does not exist.
    Broken,
    /// The end of its chain has no address of either family.
    NoAddress,
    /// It is an alias of an address in the place of a name.
    IsAddress,
}

/// Takes note of outcomes.
pub trait Outcomes: Debug + Send + Sync + 'static {
    /// Must not block.
    fn note(&self, target: &Name, state: TargetState);
}
