//! Who is behind an interface: the pod, as the results of the CNI, the API server or a static file say.
//!
//! [`Registry`] decides and does no I/O. The other modules read what the sources say.

mod facts;
mod registry;

pub use facts::{CniResult, Entry, Look, Mac, Peer, Pod, PodKey, PodReport};
pub use registry::{Registry, is_label};
