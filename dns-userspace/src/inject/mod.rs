//! Frames that gregor sends: replies to pods, and queries passed on to the existing cache in the pod's own name.

pub mod frame;
mod socket;

use std::{io, sync::Arc};

pub use frame::Datagram;
pub use socket::Injector;

use crate::model::{Held, Intercepted, Reinjection, VlanTag};

/// An intercepted query without the rules that matched it: all that is needed to answer it or to pass it on.
#[derive(Clone, Debug)]
pub struct QueryFrame {
    /// Interface that it came in on.
    pub ifindex: u32,
    /// Released just before it is answered or passed on.
    pub held: Option<Arc<dyn Held>>,
    /// Tag that the kernel keeps outside the frame; a reply carries it inside.
    pub vlan: Option<VlanTag>,
    pub reinjection: Reinjection,
    /// Where the IP header starts in `frame`.
    pub l3_offset: usize,
    /// The frame from its Ethernet header on, as the pod sent it.
    pub frame: Vec<u8>,
}

impl From<Intercepted> for QueryFrame {
    fn from(query: Intercepted) -> Self {
        QueryFrame {
            ifindex: query.ifindex,
            held: query.held,
            vlan: query.vlan,
            reinjection: query.reinjection,
            l3_offset: query.l3_offset,
            frame: query.frame,
        }
    }
}

impl QueryFrame {
    /// No other process answers it from here on.
    pub fn release(&self) {
        if let Some(held) = &self.held {
            held.release();
        }
    }
}

/// The two things that can be done with an intercepted query.
pub trait Inject: Send + Sync + 'static {
    /// Sends a DNS message to the pod, on the interface that the query came in on and from the address it asked.
    ///
    /// # Errors
    /// When the frame is not what [`QueryFrame`] promises, or the interface is gone or full.
    fn reply(&self, query: &QueryFrame, message: &[u8]) -> io::Result<()>;

    /// Sends the query back into the ingress of its interface, where it goes on as if gregor were not there.
    ///
    /// # Errors
    /// When the frame is not what [`QueryFrame`] promises, or too many queries wait to be sent.
    fn pass_on(&self, query: &QueryFrame) -> io::Result<()>;
}

impl<T: Inject> Inject for std::sync::Arc<T> {
    fn reply(&self, query: &QueryFrame, message: &[u8]) -> io::Result<()> {
        T::reply(self, query, message)
    }

    fn pass_on(&self, query: &QueryFrame) -> io::Result<()> {
        T::pass_on(self, query)
    }
}
