//! Where a query came from: how it is answered or passed on, and its record for the monitor.

use std::{sync::Arc, time::Instant};

use crate::{
    inject::QueryFrame,
    model::{Publish, Transport},
    monitor::Record,
    resolve::stream::ReplyTo,
};

/// See the module.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) reply_path: ReplyPath,
    /// Set while a monitor is connected.
    pub(super) watched: Option<Box<Watched>>,
    /// Whether the answer depends on who asks: nobody is known over TCP.
    pub(super) is_known: bool,
    /// Where answers are published; missing for TCP.
    pub(super) answers: Option<Arc<dyn Publish>>,
}

#[derive(Debug)]
pub(super) enum ReplyPath {
    Frame(QueryFrame),
    Stream { ifindex: u32, reply: ReplyTo },
}

/// A query as `gregor monitor` shows it.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) since: Instant,
    /// All but the outcome.
    pub(super) record: Record,
}

impl Client {
    pub(super) fn ifindex(&self) -> u32 {
        match &self.reply_path {
            ReplyPath::Frame(frame) => frame.ifindex,
            ReplyPath::Stream { ifindex, .. } => *ifindex,
        }
    }

    pub(super) fn transport(&self) -> Transport {
        match &self.reply_path {
            ReplyPath::Frame(_) => Transport::Udp,
            ReplyPath::Stream { .. } => Transport::Tcp,
        }
    }
}
