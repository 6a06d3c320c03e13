//! Gives the programs who is behind each interface, as the sources of identity find it out.

use std::{net::IpAddr, sync::Arc};

use crate::{
    datapath::Shared,
    identity::Sink,
    model::{Client, Who, WhyNot},
};

/// See the module.
pub struct Clients(Arc<Shared>);

impl Clients {
    /// Without sources nobody is known; to be called once no program asks that was made for them.
    pub fn forget_all(&self) {
        self.0.forget_clients();
    }

    /// Whether somebody is known behind an interface, also if an earlier process has said so.
    pub fn is_known(&self, index: u32) -> bool {
        self.0.has_client(index)
    }

    /// Who is behind an interface, where it asks from this address.
    pub fn asking(&self, index: u32, address: IpAddr) -> Option<Arc<Client>> {
        self.0.client_asking(index, address)
    }

    pub fn new(maps: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self(Arc::clone(maps)))
    }
}

impl Sink for Clients {
    fn publish(&self, index: u32, who: Who) {
        match who {
            Ok(identity) => self.0.identify(index, Some(identity)),
            // A program that asks may be there still: see `forget_all`.
            Err(WhyNot::Off) => {}
            // What an earlier process has left stays in force until this one knows better.
            Err(WhyNot::Unread) if self.0.is_unconfirmed(index) => {}
            Err(_) => self.0.identify(index, None),
        }
    }

    fn gone(&self, index: u32) {
        self.0.identify(index, None);
    }
}
