//! What the API server of the cluster says: of Services, where a target comes from beside DNS, and of the labels of namespaces.
//!
//! What is known and what follows from a report is decided here without I/O; `watch` and `post` speak to the API server.

mod backoff;
mod claimants;
#[cfg(feature = "kubernetes")]
pub mod client;
mod denials;
mod events;
#[cfg(any(feature = "kubernetes", test))]
mod labelled;
#[cfg(feature = "kubernetes")]
pub mod namespaces;
#[cfg(feature = "kubernetes")]
pub mod post;
mod reporter;
#[cfg(all(test, feature = "kubernetes"))]
mod scripted;
mod selected;
mod selector;
mod services;
mod shared;
#[cfg(feature = "kubernetes")]
pub mod watch;

/// Why nothing is asked of the API server in a build without the feature `kubernetes`.
pub const NOT_BUILT: &str = "this gregor is built without it";

pub use backoff::Backoff;
pub use claimants::{ClaimReport, Claimants};
pub use events::{Note, Object, Subject};
pub use reporter::Reporter;
pub use selected::{Selected, SelectedStatus};
pub use selector::{ClusterDomain, Selector, selectors};
pub use services::{Kind, Report, Service, Services};
pub use shared::{ApiStatus, ErrorReason, EventOutcome, ServiceStatus, SharedServices};
