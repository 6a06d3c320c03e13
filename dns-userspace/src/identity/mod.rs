//! Who is behind an interface: the pod, as the results of the CNI, the API server or a static file say.
//!
//! [`Registry`] decides and does no I/O. [`Identities`] is the thread that reads what the sources say and tells it; what it
//! decides goes to each [`Sink`].

mod board;
mod cni;
mod facts;
mod follow;
mod input;
mod inside;
#[cfg(feature = "kubernetes")]
pub mod pods;
mod registry;

pub use board::{Board, IdentityStatus, Sink, SourceStatus, WhoStatus};
pub use cni::Ignored;
pub use facts::{CniResult, Entry, Look, Mac, Peer, Pod, PodKey, PodReport};
pub use follow::{Identities, folder_error};
pub use input::Input;
pub use inside::Inside;
pub use registry::{Registry, Ticket, is_label};
