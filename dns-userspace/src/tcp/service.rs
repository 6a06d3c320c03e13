//! Accepts steered connections within limits per client and interface, and serves each in a task of its own.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dns_common::wire::DNS_PORT;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{
    connection,
    dispatch::{Answer, Counters, Dispatch, Served},
};
use crate::{
    discover::Routes,
    model::{Identify, Listeners},
};

/// Connections in all.
const MAX_CONNECTIONS: usize = 1024;
/// Of one client address.
const MAX_PER_CLIENT: usize = 32;
/// Of all clients behind one interface: a pod with a veth of its own cannot use up the connections of others, whatever its
/// addresses.
const MAX_PER_INTERFACE: usize = 256;
/// Pause after an error of accept(2), which is most often a lack of descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// See the module.
pub struct Service {
    pub(super) dispatch: Dispatch,
    routes: Routes,
    admitted: Mutex<Admitted>,
    /// Open connections; decremented when one is dropped.
    open: watch::Sender<usize>,
    stop: watch::Sender<bool>,
}

impl Service {
    /// Needs a tokio runtime, in the network namespace of the clients.
    pub fn new(
        answer: Arc<dyn Answer>,
        clients: Arc<dyn Identify>,
        served: Served,
    ) -> anyhow::Result<Arc<Self>> {
        let service = Service {
            dispatch: Dispatch::new(answer, clients, served),
            routes: Routes::open()?,
            admitted: Mutex::default(),
            open: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        };
        Ok(Arc::new(service))
    }

    /// Open connections go on with the new rules.
    pub fn reconfigure(&self, served: Served) {
        self.dispatch.reconfigure(served);
    }

    /// Accepts from listeners until [`Service::stop`].
    pub fn listen(self: &Arc<Self>, listeners: &Listeners) -> io::Result<()> {
        for listener in std::iter::once(&listeners.v4).chain(&listeners.v6) {
            let listener = TcpListener::from_std(listener.try_clone()?)?;
            tokio::spawn(self.clone().accept(listener));
        }
        Ok(())
    }

    /// Accepts no more connections; open ones get the replies that are due. Returns once all are closed.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        // An error means that the sender is gone, and it is ours.
        let _ = self.open.subscribe().wait_for(|&open| open == 0).await;
    }

    /// The counters, and the connections that are open at this moment.
    pub fn counters(&self) -> Counters {
        Counters {
            open: *self.open.borrow() as u64,
            ..self.dispatch.counters().clone()
        }
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
        self.dispatch.counters().connections += 1;
        let server = stream.local_addr().ok().filter(|server| {
            // Other addresses mean that the client connected to the listener's own port.
            server.port() == DNS_PORT && self.dispatch.serves(server.ip())
        });
        let permit = server.and_then(|server| Some((server, self.admit(client.ip())?)));
        let Some((server, mut permit)) = permit else {
            self.dispatch.counters().refused += 1;
            return;
        };
        tokio::spawn(async move {
            let service = permit.service.clone();
            let interface = service.routes.interface(client.ip()).await;
            let ifindex = interface.ok().flatten().unwrap_or(0);
            if !permit.charge(ifindex) || stream.set_nodelay(true).is_err() {
                service.dispatch.counters().refused += 1;
                return;
            }
            let stop = service.stop.subscribe();
            connection::serve(&service.dispatch, stream, server, ifindex, stop).await;
        });
    }

    /// Counts a connection of a client, or refuses it over the limits.
    fn admit(self: &Arc<Self>, client: IpAddr) -> Option<Permit> {
        let mut admitted = lock(&self.admitted);
        let open = *self.open.borrow();
        if open >= MAX_CONNECTIONS || !enter(&mut admitted.clients, client, MAX_PER_CLIENT) {
            return None;
        }
        self.open.send_replace(open + 1);
        Some(Permit {
            service: self.clone(),
            client,
            ifindex: None,
        })
    }
}

/// Open connections per client address and per interface.
#[derive(Debug, Default)]
struct Admitted {
    clients: HashMap<IpAddr, usize>,
    interfaces: HashMap<u32, usize>,
}

/// One admitted connection; dropping it admits another.
struct Permit {
    service: Arc<Service>,
    client: IpAddr,
    ifindex: Option<u32>,
}

impl Permit {
    /// Counts the connection for its interface as well; `false` when that is at its limit.
    fn charge(&mut self, ifindex: u32) -> bool {
        let mut admitted = lock(&self.service.admitted);
        let has_room = enter(&mut admitted.interfaces, ifindex, MAX_PER_INTERFACE);
        self.ifindex = has_room.then_some(ifindex);
        has_room
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut admitted = lock(&self.service.admitted);
        leave(&mut admitted.clients, &self.client);
        if let Some(ifindex) = self.ifindex {
            leave(&mut admitted.interfaces, &ifindex);
        }
        self.service.open.send_modify(|open| *open -= 1);
    }
}

fn enter<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: K, most: usize) -> bool {
    let count = counts.entry(key).or_insert(0);
    let is_admitted = *count < most;
    *count += usize::from(is_admitted);
    is_admitted
}

fn leave<K: std::hash::Hash + Eq>(counts: &mut HashMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
