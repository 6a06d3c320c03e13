//! Decides which UDP clients get TC=1, and has their TCP connections steered.

use std::{
    collections::HashSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;

use crate::{
    discover::{Routes, interface_to, own_addresses},
    model::{SteerMode, SteeredClients},
    resolve::Steer,
};

/// How long the connections of a client are steered after it got TC=1. It retries at once; a second connection of the same
/// client within that time is answered as well by the responder as by the server.
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
    /// One program; two while one replaces the other.
    programs: Vec<Arc<dyn SteeredClients>>,
}

impl Steering {
    /// Steers nothing yet, and treats no server as local.
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

    /// Another program is about to be attached, perhaps in place of one: clients are inserted into both.
    pub fn also(&self, mode: SteerMode, program: Arc<dyn SteeredClients>) {
        self.update(mode, &*program);
        self.lock().programs.push(program);
    }

    /// Lets this program steer and no other; with [`SteerMode::Never`], none does.
    pub fn only(
        &self,
        mode: SteerMode,
        program: Option<Arc<dyn SteeredClients>>,
        servers: Vec<IpAddr>,
    ) {
        self.servers.store(Arc::new(servers));
        let programs: Vec<_> = program.into_iter().collect();
        for program in &programs {
            self.update(mode, &**program);
        }
        *self.lock() = Inner {
            mode,
            programs: match mode {
                SteerMode::Never => Vec::new(),
                _ => programs,
            },
        };
    }

    /// Gives a program the node's addresses, and the servers whose connections it has to steer.
    fn update(&self, mode: SteerMode, program: &dyn SteeredClients) {
        let local = self.local.load();
        let steered = match mode {
            SteerMode::Required => &**local,
            _ => &HashSet::new(),
        };
        if let Err(error) = program.set_own(&self.own.load(), steered) {
            tracing::debug!(%error, "some of the node's addresses are not known to the program");
        }
    }

    /// What TCP does now.
    pub fn mode(&self) -> SteerMode {
        self.lock().mode
    }

    /// The servers that are local, spelled and ordered as in the configuration.
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
                Err(error) => tracing::debug!(%error, "cannot find out whether a server is local"),
            }
        }
        if **self.local.load() != local {
            tracing::info!(?local, "servers whose TCP can be steered");
            self.local.store(Arc::new(local));
        }
        // A dump of possibly thousands of Service addresses, so not on a worker thread.
        match tokio::task::spawn_blocking(own_addresses).await {
            Ok(Ok(own)) => self.own.store(Arc::new(own)),
            Ok(Err(error)) => tracing::debug!(%error, "cannot list the node's addresses"),
            Err(error) => tracing::debug!(%error, "cannot list the node's addresses"),
        }
        let inner = self.lock();
        for program in &inner.programs {
            self.update(inner.mode, &**program);
        }
    }

    /// Refreshes the addresses periodically; never returns.
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

impl Steer for Steering {
    fn steer(&self, server: IpAddr, client: IpAddr, identified_on: Option<u32>) -> bool {
        if !self.local.load().contains(&server) {
            return false;
        }
        // On each such answer: routes change with the pods.
        if let Some(index) = identified_on
            && !interface_to(client).is_ok_and(|found| found == Some(index))
        {
            return false;
        }
        let inner = self.lock();
        match inner.mode {
            SteerMode::Never => false,
            SteerMode::Always | SteerMode::Required => true,
            SteerMode::AfterTruncation => {
                let mut is_steered = !inner.programs.is_empty();
                for program in &inner.programs {
                    if let Err(error) = program.insert(client, WINDOW) {
                        tracing::debug!(%error, "a client cannot be steered");
                        is_steered = false;
                    }
                }
                is_steered
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// The table of a program, which may be full.
    #[derive(Debug, Default)]
    struct Table {
        clients: Mutex<Vec<(IpAddr, Duration)>>,
        steered: Mutex<HashSet<IpAddr>>,
        is_full: bool,
    }

    impl SteeredClients for Table {
        fn insert(&self, client: IpAddr, valid: Duration) -> io::Result<()> {
            if self.is_full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.clients.lock().unwrap().push((client, valid));
            Ok(())
        }

        fn set_own(
            &self,
            _addresses: &HashSet<IpAddr>,
            steered: &HashSet<IpAddr>,
        ) -> io::Result<()> {
            self.steered.lock().unwrap().clone_from(steered);
            Ok(())
        }
    }

    const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 7));
    const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 10));
    const ELSEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(172, 20, 0, 10));

    fn steering(mode: SteerMode, table: Option<Arc<Table>>) -> Steering {
        let steering = Steering::new(vec![LOCAL, ELSEWHERE]);
        steering.local.store(Arc::new(HashSet::from([LOCAL])));
        let program = table.map(|table| -> Arc<dyn SteeredClients> { table });
        steering.only(mode, program, vec![LOCAL, ELSEWHERE]);
        steering
    }

    #[test]
    fn clients_of_a_local_server_are_inserted_into_every_program() {
        let [first, second] = [(); 2].map(|()| Arc::new(Table::default()));
        let steering = steering(SteerMode::AfterTruncation, Some(first.clone()));
        steering.also(SteerMode::AfterTruncation, second.clone());
        assert!(!steering.steer(ELSEWHERE, CLIENT, None));
        assert!(first.clients.lock().unwrap().is_empty());
        assert!(steering.steer(LOCAL, CLIENT, None));
        for table in [first, second] {
            assert_eq!(*table.clients.lock().unwrap(), [(CLIENT, WINDOW)]);
        }
    }

    #[test]
    fn a_client_gets_no_tc_where_its_connection_would_not_be_steered() {
        let full = Arc::new(Table {
            is_full: true,
            ..Table::default()
        });
        assert!(!steering(SteerMode::AfterTruncation, Some(full)).steer(LOCAL, CLIENT, None));
        assert!(!steering(SteerMode::AfterTruncation, None).steer(LOCAL, CLIENT, None));
        let table = Arc::new(Table::default());
        assert!(!steering(SteerMode::Never, Some(table.clone())).steer(LOCAL, CLIENT, None));
        assert!(steering(SteerMode::Always, Some(table.clone())).steer(LOCAL, CLIENT, None));
        assert!(table.clients.lock().unwrap().is_empty());
    }

    /// The programs drop TCP to servers that are not among them.
    #[test]
    fn programs_know_the_servers_whose_connections_all_come_here() {
        let table = Arc::new(Table::default());
        let steered = || table.steered.lock().unwrap().clone();
        for (mode, expected) in [
            (SteerMode::Always, HashSet::new()),
            (SteerMode::Required, HashSet::from([LOCAL])),
            // Where the program for TCP could not be attached.
            (SteerMode::Never, HashSet::new()),
        ] {
            let steering = steering(mode, Some(table.clone()));
            assert_eq!(steered(), expected, "{mode:?}");
            steering.also(SteerMode::Required, table.clone());
            assert_eq!(steered(), HashSet::from([LOCAL]), "{mode:?}");
        }
    }
}
