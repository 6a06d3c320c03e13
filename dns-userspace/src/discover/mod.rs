//! Which interfaces to attach to: veths with a peer in another network namespace, or the configured globs.
//!
//! [`Selection`] and [`Tracker`] decide and do no I/O; [`Links`] feeds them from rtnetlink.

mod error;
mod links;
mod route;
mod track;

pub use error::DiscoverError;
pub use links::{Links, all, present};
pub use route::{Routes, interface_to, own_addresses};
pub use track::{Event, Left, Link, Selection, SelectionError, Taken, Tracker};
