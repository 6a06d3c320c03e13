//! Gives the programs who is behind each interface, as the sources of identity find it out.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    datapath::Shared,
    identity::Sink,
    model::{Who, WhyNot},
};

/// See the module.
pub struct Clients {
    maps: Arc<Shared>,
    /// What is not said to the programs yet; `None` where that is said at once.
    held: Mutex<Option<BTreeMap<u32, Who>>>,
}

impl Clients {
    /// Without sources nobody is known; to be called once no program asks that was made for them.
    pub fn forget_all(&self) {
        self.maps.forget_clients();
    }

    /// Whether somebody is known behind an interface, also if an earlier process has said so.
    pub fn is_known(&self, index: u32) -> bool {
        self.maps.has_client(index)
    }

    pub fn new(maps: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            maps: Arc::clone(maps),
            held: Mutex::new(None),
        })
    }

    /// Keeps what comes from now on: with rules that are not complete, clients would be others than for the programs that an
    /// earlier process has left.
    pub fn hold(&self) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(BTreeMap::new());
    }

    /// Says it.
    pub fn release(&self) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        for (index, who) in held.take().into_iter().flatten() {
            self.say(index, who);
        }
    }

    fn say(&self, index: u32, who: Who) {
        match who {
            Ok(identity) => self.maps.identify(index, Some(identity)),
            // A program that asks may be there still: see `forget_all`.
            Err(WhyNot::Off) => {}
            // What an earlier process has left stays in force until this one knows better.
            Err(WhyNot::Unread | WhyNot::Unlisted) if self.maps.is_unconfirmed(index) => {}
            Err(_) => self.maps.identify(index, None),
        }
    }
}

impl Sink for Clients {
    fn publish(&self, index: u32, who: Who) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        match held.as_mut() {
            Some(held) => {
                held.insert(index, who);
            }
            // With the lock, so that nothing overtakes what was held.
            None => self.say(index, who),
        }
    }

    fn gone(&self, index: u32) {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = held.as_mut() {
            held.remove(&index);
        }
        self.maps.identify(index, None);
    }
}
