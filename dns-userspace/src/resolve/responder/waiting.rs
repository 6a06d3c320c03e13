//! A query on its way to a reply: how it came, who waits for what, and who watches.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dns_common::{answer, wire::qtype_is_kept};

use crate::{
    inject::QueryFrame,
    model::Publish,
    monitor::Record,
    resolve::{compose::Carrier, query::Query, stream::ReplyTo},
};

/// A query with everything that its reply needs.
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) query: Query,
    pub(super) namespace: Option<String>,
    /// Largest TTL of the reply: the rule's TTL and `max_ttl`.
    pub(super) ttl_cap: Duration,
    /// It may begin a look-up: its client is within its rate.
    pub(super) may_look_up: bool,
    /// The program has answered it already: what is found out goes to the program only.
    pub(super) is_answered: bool,
    /// Where the program keeps what is known of the name. Types that it does not keep have a key too: what they show of
    /// the name itself holds for all of them.
    pub(super) publish: Option<(Arc<dyn Publish>, answer::Key)>,
}

impl Waiting {
    /// Where the program keeps the answer to this query, if it keeps answers of this type.
    pub(super) fn entry(&self) -> Option<&(Arc<dyn Publish>, answer::Key)> {
        self.publish
            .as_ref()
            .filter(|_| qtype_is_kept(self.query.qtype))
    }
}

/// The program that took a query.
pub(super) struct Program {
    pub(super) answers: Arc<dyn Publish>,
    pub(super) is_answered: bool,
}

/// How a query came, and so how it is answered or passed on, and who wants to know.
pub(super) struct Origin {
    pub(super) way: Way,
    /// Set while a monitor is connected.
    pub(super) watched: Option<Box<Watched>>,
}

#[derive(Debug)]
pub(super) enum Way {
    Frame(QueryFrame),
    Stream { ifindex: u32, reply: ReplyTo },
}

/// A query as `gregor monitor` shows it.
pub(super) struct Watched {
    pub(super) since: Instant,
    /// All but what becomes of it.
    pub(super) record: Record,
}

impl Origin {
    pub(super) fn ifindex(&self) -> u32 {
        match &self.way {
            Way::Frame(frame) => frame.ifindex,
            Way::Stream { ifindex, .. } => *ifindex,
        }
    }

    pub(super) fn carrier(&self) -> Carrier {
        match &self.way {
            Way::Frame(_) => Carrier::Datagram,
            Way::Stream { .. } => Carrier::Stream,
        }
    }
}
