//! Where a target comes from beside DNS: the Services of the cluster, as its API server reports them.
//!
//! What is known and what follows from a report is decided here without I/O; [`watch`] speaks to the API server.

mod backoff;
mod selector;
mod services;
mod shared;
#[cfg(feature = "kubernetes")]
pub mod watch;

pub use backoff::Backoff;
pub use selector::{ClusterDomain, Selector, selectors};
pub use services::{Kind, Report, Service, Services};
pub use shared::{ApiStatus, ErrorReason, ServiceStatus, SharedServices};
