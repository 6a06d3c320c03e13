//! Accepts steered connections, as many as there may be, and says which of their messages a rule matches.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use dns_common::wire::DNS_PORT;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::connection;
use crate::{
    datapath::{Limit, Listeners},
    discover::Routes,
    resolve::{Limiter, Query, StreamQuery},
    rules::RuleSet,
};

/// Connections in all.
const MAX_CONNECTIONS: usize = 1024;
/// Of one client address.
const MAX_PER_CLIENT: usize = 32;
/// Of all clients behind one interface: a pod with a veth of its own leaves room for others, whatever its addresses.
const MAX_PER_INTERFACE: usize = 256;
/// Pause after an error of accept(2), which is most often a lack of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

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
    /// Whether its client is within its rate.
    pub is_within_rate: bool,
}

/// See the module.
pub struct Service {
    answer: Arc<dyn Answer>,
    served: ArcSwap<Served>,
    rate: Mutex<Option<Limiter>>,
    routes: Routes,
    room: Mutex<Room>,
    /// Connections there are; whoever ends tells.
    open: watch::Sender<usize>,
    stop: watch::Sender<bool>,
    pub(super) counters: Counters,
}

/// Numbers that only grow.
#[derive(Debug, Default)]
pub struct Counters {
    connections: AtomicU64,
    refused: AtomicU64,
    answered: AtomicU64,
    relayed: AtomicU64,
    lost: AtomicU64,
}

/// What the service tells of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Connections accepted.
    pub connections: u64,
    /// Of these, closed at once: too many, or not to a server.
    pub refused: u64,
    pub open: usize,
    /// Messages that the responder answered.
    pub answered: u64,
    /// Messages sent on to the server.
    pub relayed: u64,
    /// Messages whose reply never came, or came too late for the client.
    pub lost: u64,
}

impl Counters {
    pub(super) fn answered(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn relayed(&self) {
        self.relayed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn lost(&self, messages: usize) {
        self.lost.fetch_add(messages as u64, Ordering::Relaxed);
    }
}

impl Service {
    /// Needs a tokio runtime, in the network namespace of the clients.
    pub fn new(answer: Arc<dyn Answer>, served: Served) -> anyhow::Result<Arc<Self>> {
        let service = Service {
            answer,
            rate: Mutex::new(limiter(served.limit)),
            served: ArcSwap::from_pointee(served),
            routes: Routes::open()?,
            room: Mutex::default(),
            open: watch::Sender::new(0),
            stop: watch::Sender::new(false),
            counters: Counters::default(),
        };
        Ok(Arc::new(service))
    }

    /// Connections that stand go on with the new rules.
    pub fn reconfigure(&self, served: Served) {
        if served.limit != self.served.load().limit {
            *lock(&self.rate) = limiter(served.limit);
        }
        self.served.store(Arc::new(served));
    }

    /// Accepts from listeners until [`Service::stop`].
    pub fn listen(self: &Arc<Self>, listeners: &Listeners) -> io::Result<()> {
        for listener in std::iter::once(&listeners.v4).chain(&listeners.v6) {
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            tokio::spawn(self.clone().accept(listener));
        }
        Ok(())
    }

    /// Takes no more connections; those that stand get the replies that are on their way. Returns once they are gone.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        // An error means that the sender is gone, and it is ours.
        let _ = self.open.subscribe().wait_for(|&open| open == 0).await;
    }

    pub fn numbers(&self) -> Numbers {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Numbers {
            connections: get(&self.counters.connections),
            refused: get(&self.counters.refused),
            open: *self.open.borrow(),
            answered: get(&self.counters.answered),
            relayed: get(&self.counters.relayed),
            lost: get(&self.counters.lost),
        }
    }

    /// The query of a message and the rule that it is answered by.
    pub(super) fn matches(&self, message: &[u8], ifindex: u32) -> Option<Matched> {
        let query = connection::parse(message)?;
        let served = self.served.load();
        let rule = served.rules.find(query.qname())?;
        let is_within_rate = lock(&self.rate)
            .as_mut()
            .is_none_or(|rate| rate.admit(ifindex, Instant::now()));
        Some(Matched {
            query,
            rules: Arc::clone(&served.rules),
            rule,
            is_within_rate,
        })
    }

    pub(super) fn answer(&self, query: StreamQuery) {
        self.answer.answer(query);
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut stop = self.stop.subscribe();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            match accepted {
                Ok((stream, client)) => self.take(stream, client),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    }

    fn take(self: &Arc<Self>, stream: TcpStream, client: SocketAddr) {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        let server = stream.local_addr().ok().filter(|server| {
            // Everything else is somebody who found the listener's port.
            server.port() == DNS_PORT && self.served.load().servers.contains(&server.ip())
        });
        let seat = server.and_then(|server| Some((server, self.seat(client.ip())?)));
        let Some((server, mut seat)) = seat else {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            return;
        };
        tokio::spawn(async move {
            let service = seat.service.clone();
            let interface = service.routes.interface(client.ip()).await;
            let ifindex = interface.ok().flatten().unwrap_or(0);
            if !seat.charge(ifindex) || stream.set_nodelay(true).is_err() {
                service.counters.refused.fetch_add(1, Ordering::Relaxed);
                return;
            }
            let stop = service.stop.subscribe();
            connection::serve(&service, stream, server, ifindex, stop).await;
        });
    }

    /// Room for a connection of a client, if there is.
    fn seat(self: &Arc<Self>, client: IpAddr) -> Option<Seat> {
        let mut room = lock(&self.room);
        let open = *self.open.borrow();
        if open >= MAX_CONNECTIONS || !enter(&mut room.clients, client, MAX_PER_CLIENT) {
            return None;
        }
        self.open.send_replace(open + 1);
        Some(Seat {
            service: self.clone(),
            client,
            ifindex: None,
        })
    }
}

/// How many connections each has; as many entries as there are connections.
#[derive(Debug, Default)]
struct Room {
    clients: HashMap<IpAddr, usize>,
    interfaces: HashMap<u32, usize>,
}

/// One connection's place among them.
struct Seat {
    service: Arc<Service>,
    client: IpAddr,
    ifindex: Option<u32>,
}

impl Seat {
    /// Counts it for an interface as well, or says that this one has enough.
    fn charge(&mut self, ifindex: u32) -> bool {
        let mut room = lock(&self.service.room);
        let admitted = enter(&mut room.interfaces, ifindex, MAX_PER_INTERFACE);
        self.ifindex = admitted.then_some(ifindex);
        admitted
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = lock(&self.service.room);
        leave(&mut room.clients, &self.client);
        if let Some(ifindex) = self.ifindex {
            leave(&mut room.interfaces, &ifindex);
        }
        self.service.open.send_modify(|open| *open -= 1);
    }
}

fn enter<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, most: usize) -> bool {
    let count = counts.entry(key).or_insert(0);
    let room = *count < most;
    *count += usize::from(room);
    room
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn limiter(limit: Limit) -> Option<Limiter> {
    (limit.queries_per_second > 0)
        .then(|| Limiter::new(Instant::now(), limit.queries_per_second, limit.burst))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
