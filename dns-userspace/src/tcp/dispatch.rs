//! Decides which messages of a connection a rule matches, hands those to the responder, and counts the outcomes.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use arc_swap::ArcSwap;
use dns_common::abi::MAX_FRAME;
use serde::{Deserialize, Serialize};

use crate::{
    model::{Client, Identify, Limit},
    resolve::{Limiter, Query, StreamQuery, only_qname},
    rules::{Protected, RuleSet},
};

/// Answers queries of connections; every one gets one reply.
pub trait Answer: Send + Sync + 'static {
    fn answer(&self, query: StreamQuery);
}

/// What is served, replaced as a whole by a reload.
#[derive(Clone, Debug)]
pub struct Served {
    pub servers: Vec<IpAddr>,
    pub rules: Arc<RuleSet>,
    /// What the clients behind one interface may ask of the responder.
    pub limit: Limit,
}

/// A message that a rule matches.
pub(super) struct Matched {
    pub query: Query,
    pub rules: Arc<RuleSet>,
    pub rule: usize,
    /// Who asks, where that is known.
    pub asked_by: Option<(u32, Arc<Client>)>,
    /// Whether its client is within its rate.
    pub is_within_rate: bool,
}

/// The responder, the rules in force and the rate limits, shared by all connections.
pub(super) struct Dispatch {
    answer: Arc<dyn Answer>,
    clients: Arc<dyn Identify>,
    served: ArcSwap<Served>,
    rate: Mutex<Option<Limiter>>,
    counters: Mutex<Counters>,
}

/// Counters of steered connections and of their messages.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Connections accepted.
    pub connections: u64,
    /// Of these, closed at once: too many, or not to a server.
    pub refused: u64,
    /// Open at this moment.
    pub open: u64,
    /// Messages that the responder answered.
    pub answered: u64,
    /// Messages sent on to the server.
    pub relayed: u64,
    /// Messages whose reply never came, or came too late for the client.
    pub lost: u64,
    /// Messages that may hide the name of a protected target from gregor: their connection is closed.
    pub unread: u64,
}

impl Dispatch {
    pub fn new(answer: Arc<dyn Answer>, clients: Arc<dyn Identify>, served: Served) -> Dispatch {
        Dispatch {
            answer,
            clients,
            rate: Mutex::new(limiter(served.limit)),
            served: ArcSwap::from_pointee(served),
            counters: Mutex::default(),
        }
    }

    /// Takes effect with the next message, also of open connections.
    pub fn reconfigure(&self, served: Served) {
        if served.limit != self.served.load().limit {
            *self.rate.lock().unwrap_or_else(PoisonError::into_inner) = limiter(served.limit);
        }
        self.served.store(Arc::new(served));
    }

    /// Whether an address is one of the servers whose queries are answered.
    pub fn serves(&self, server: IpAddr) -> bool {
        self.served.load().servers.contains(&server)
    }

    /// The query of a message, and the rule that it is answered or refused by. `ifindex` is the interface that the node's route to the
    /// client leads to, 0 for none: whoever has completed a handshake with an address gets what is sent to it, so a client is
    /// known by it where that interface is its own, and not where it is a bridge.
    pub fn matches(&self, message: &[u8], ifindex: u32, source: IpAddr) -> Option<Matched> {
        let query = parse(message)?;
        let served = self.served.load();
        let rules = &served.rules;
        let asked_by = self.clients.asking(ifindex, source);
        let client = asked_by.as_ref().map(|(_, client)| &**client);
        let rule = match client {
            Some(client) => rules.find(query.qname(), Some(client)),
            None => rules.find_for_anybody(query.qname()),
        };
        let rule = rule.or_else(|| refusing(rules, query.qname(), client))?;
        let is_within_rate = self
            .rate
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_mut()
            .is_none_or(|rate| rate.admit(ifindex, Instant::now()));
        Some(Matched {
            query,
            rules: Arc::clone(&served.rules),
            rule,
            asked_by,
            is_within_rate,
        })
    }

    /// Whether a message that is not [matched](Self::matches) may go on to the server: where names are refused, one whose name
    /// is read, and is not among them. A server finds the name of the only question where this does, whatever else it makes of
    /// the message.
    pub fn passes(&self, message: &[u8], ifindex: u32, source: IpAddr) -> bool {
        let served = self.served.load();
        let rules = &served.rules;
        if rules.protected().next().is_none() {
            return true;
        }
        let Some(qname) = only_qname(message) else {
            return false;
        };
        let asked_by = self.clients.asking(ifindex, source);
        let client = asked_by.as_ref().map(|(_, client)| &**client);
        refusing(rules, qname, client).is_none()
    }

    /// To count.
    pub fn counters(&self) -> MutexGuard<'_, Counters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn answer(&self, query: StreamQuery) {
        self.answer.answer(query);
    }
}

/// The index by which the name of a target is refused that is not the client's.
fn refusing(rules: &RuleSet, qname: &[u8], client: Option<&Client>) -> Option<usize> {
    rules.protected().next()?;
    match rules.protection(qname, client)? {
        (index, Protected::Foreign) => Some(index),
        (_, Protected::Own { .. }) => None,
    }
}

/// The query of a message, if it is small enough to have been intercepted as a datagram, too.
fn parse(message: &[u8]) -> Option<Query> {
    (message.len() <= MAX_FRAME)
        .then(|| Query::parse(message))
        .flatten()
}

fn limiter(limit: Limit) -> Option<Limiter> {
    (limit.queries_per_second > 0)
        .then(|| Limiter::new(Instant::now(), limit.queries_per_second, limit.burst))
}
