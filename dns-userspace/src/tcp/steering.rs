//! Decides which clients of UDP are told TC=1, and tells the program of them.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    datapath::{SteerMode, Steered},
    discover::{Routes, own_addresses},
    resolve::Steer,
};

/// How long the connections of a client are steered after it was told TC=1. It comes back at once; a second connection of
/// the same client within that time is answered as well by the responder as by the server.
const WINDOW: Duration = Duration::from_secs(5);
/// How often the kernel is asked for the node's addresses.
const REFRESH: Duration = Duration::from_secs(2);

/// See the module.
#[derive(Debug)]
pub struct Steering {
    inner: Mutex<Inner>,
    /// Servers whose packets end in this network namespace.
    local: ArcSwap<HashSet<IpAddr>>,
    servers: ArcSwap<Vec<IpAddr>>,
    /// The node's addresses.
    own: ArcSwap<HashSet<IpAddr>>,
}

#[derive(Debug)]
struct Inner {
    mode: SteerMode,
    /// One program; two while one takes the place of the other.
    programs: Vec<Steered>,
}

impl Steering {
    /// Nothing is steered yet, and no server known to be local.
    pub fn new(servers: Vec<IpAddr>) -> Self {
        Self {
            inner: Mutex::new(Inner {
                mode: SteerMode::Never,
                programs: Vec::new(),
            }),
            local: ArcSwap::default(),
            servers: ArcSwap::from_pointee(servers),
            own: ArcSwap::default(),
        }
    }

    /// Another program is about to be attached, perhaps in the place of one: it is told as well.
    pub fn also(&self, program: Steered) {
        tell_own(&program, &self.own.load());
        self.lock().programs.push(program);
    }

    /// This program steers and no other; with [`SteerMode::Never`], none does.
    pub fn only(&self, mode: SteerMode, program: Option<Steered>, servers: Vec<IpAddr>) {
        self.servers.store(Arc::new(servers));
        *self.lock() = Inner {
            mode,
            programs: match mode {
                SteerMode::Never => Vec::new(),
                SteerMode::AfterTruncation | SteerMode::Always => program.into_iter().collect(),
            },
        };
    }

    /// What TCP does now.
    pub fn mode(&self) -> SteerMode {
        self.lock().mode
    }

    /// The servers that are local, as they stand in the configuration.
    pub fn local(&self) -> Vec<IpAddr> {
        let local = self.local.load();
        let servers = self.servers.load();
        servers
            .iter()
            .filter(|server| local.contains(server))
            .copied()
            .collect()
    }

    /// Asks the kernel which addresses the node has, and which servers are among them.
    pub async fn refresh(&self, routes: &Routes) {
        let mut local = HashSet::new();
        for &server in self.servers.load().iter() {
            match routes.is_local(server).await {
                Ok(true) => drop(local.insert(server)),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "cannot tell whether a server is local"),
            }
        }
        if **self.local.load() != local {
            tracing::info!(?local, "servers whose TCP can be steered");
            self.local.store(Arc::new(local));
        }
        // A dump of what may be thousands of Service addresses, so not on a thread that serves.
        match tokio::task::spawn_blocking(own_addresses).await {
            Ok(Ok(own)) => self.own.store(Arc::new(own)),
            Ok(Err(error)) => tracing::debug!(%error, "cannot list the node's addresses"),
            Err(error) => tracing::debug!(%error, "cannot list the node's addresses"),
        }
        let own = self.own.load();
        for program in &self.lock().programs {
            tell_own(program, &own);
        }
    }

    /// Keeps what is known of the servers fresh, for ever.
    pub async fn watch(self: Arc<Self>, routes: Routes) {
        let mut again = tokio::time::interval(REFRESH);
        again.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            again.tick().await;
            self.refresh(&routes).await;
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell_own(program: &Steered, own: &HashSet<IpAddr>) {
    if let Err(error) = program.set_own(own) {
        tracing::debug!(%error, "some of the node's addresses are not known to the program");
    }
}

impl Steer for Steering {
    fn tell(&self, server: IpAddr, client: IpAddr) -> bool {
        if !self.local.load().contains(&server) {
            return false;
        }
        let inner = self.lock();
        match inner.mode {
            SteerMode::Never => false,
            SteerMode::Always => true,
            SteerMode::AfterTruncation => {
                let mut told = !inner.programs.is_empty();
                for program in &inner.programs {
                    if let Err(error) = program.insert(client, WINDOW) {
                        tracing::debug!(%error, "a client cannot be steered");
                        told = false;
                    }
                }
                told
            }
        }
    }
}
