//! Who is behind an interface: the pod, as the results of the CNI, the API server or a static file say.
//!
//! [`Registry`] decides and does no I/O. The other modules read what the sources say.

mod cni;
mod facts;
mod inside;
mod registry;

pub use facts::{CniResult, Entry, Look, Mac, Peer, Pod, PodKey, PodReport};
pub use inside::Inside;
pub use registry::{Registry, Ticket, is_label};
