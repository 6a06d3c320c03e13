//! What the responder and TCP exchange: queries from connections with their replies, and clients to be steered to TCP.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::mpsc;

use super::query::Query;
use crate::{model::Client, rules::RuleSet};

/// Bytes of answers that a connection has not taken yet. Four of the largest: a client that pipelines many questions for
/// such answers and reads none must not fill the memory.
pub const MAX_QUEUED: usize = 256 << 10;

/// A query that a rule matches, from a TCP connection.
#[derive(Debug)]
pub struct StreamQuery {
    pub query: Query,
    pub client: SocketAddr,
    /// The server that the client asked.
    pub server: SocketAddr,
    /// The interface that the client is behind, to whose limits the query counts.
    pub ifindex: u32,
    pub rules: Arc<RuleSet>,
    /// The rule that matches, an index into them.
    pub rule: usize,
    /// Who asks, with the id, where that is known.
    pub asked_by: Option<(u32, Arc<Client>)>,
    /// Whether it may be looked up. A client that is over its rate still gets cached answers.
    pub is_within_rate: bool,
    pub reply: ReplyTo,
}

/// Where the reply goes.
#[derive(Clone, Debug)]
pub struct ReplyTo {
    /// The slot of the query in its connection.
    pub slot: u32,
    pub replies: mpsc::Sender<(u32, StreamReply)>,
    /// Bytes of answers in `replies`; the connection subtracts what it takes out.
    pub queued: Arc<AtomicUsize>,
}

/// The reply to a query from a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamReply {
    Answer(Vec<u8>),
    /// The query is to be sent to the server itself.
    PassOn,
    /// No reply, as over UDP; the client asks again.
    NoReply,
}

impl ReplyTo {
    /// Fails when the connection is closed, or has more queries in flight than slots. An answer that exceeds the limit of
    /// waiting bytes becomes [`StreamReply::NoReply`].
    pub(crate) fn send(&self, mut reply: StreamReply) -> io::Result<()> {
        if let StreamReply::Answer(message) = &reply {
            let before = self.queued.fetch_add(message.len(), Ordering::Relaxed);
            if before + message.len() > MAX_QUEUED {
                self.queued.fetch_sub(message.len(), Ordering::Relaxed);
                reply = StreamReply::NoReply;
            }
        }
        self.replies
            .try_send((self.slot, reply))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// Decides whether a client of UDP may be sent to TCP.
pub trait Steer: Send + Sync + 'static {
    /// `true` when TCP connections of `client` to `server` reach the responder from now on, so that TC=1 helps it.
    ///
    /// `identified_on` is the interface of a query whose answer depends on who asks. A connection has no interface: the
    /// client is the same one there only if the node's route to its address leads to that interface.
    fn steer(&self, server: IpAddr, client: IpAddr, identified_on: Option<u32>) -> bool;
}
