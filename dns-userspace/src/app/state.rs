//! The state that the pages read.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

use super::{
    kernel::Board as KernelBoard, learn::Learnt, panics, ring::Pulse, select, settings::ConfigView,
    tcp::Tcp,
};
use crate::{
    identity::{Board, WhoStatus},
    model::WhyNot,
    monitor::{Hub, Subscription},
    observe::{ClaimsStatus, ConfigStatus, InterfaceStatus, Readiness, Source, Status, Vital},
    resolve::ResponderStatus,
    sources::{ServiceStatus, SharedServices},
};

/// The variable in which the chart says it.
const NODE_NAME: &str = "NODE_NAME";

/// The responder as the pages see it.
pub trait Responding: Send + Sync + 'static {
    fn status(&self) -> ResponderStatus;
    /// What it knows of targets beside DNS.
    fn services(&self) -> &SharedServices;
}

/// Shared by the tasks; each lock is held for a few system calls at most.
pub struct State {
    started: Instant,
    node: String,
    kernel: Arc<KernelBoard>,
    config: Mutex<ConfigStatus>,
    config_view: Mutex<ConfigView>,
    responder: Arc<dyn Responding>,
    tcp: Arc<Tcp>,
    /// Records of queries for monitors.
    pub hub: Arc<Hub>,
    pub pulse: Arc<Pulse>,
    stopping: AtomicBool,
    /// Counted where interfaces are discovered.
    interface_resyncs: Arc<AtomicU64>,
    /// Who is behind each interface.
    identities: Arc<Board>,
    /// From where servers are learnt.
    learnt: Learnt,
    /// The namespaces that rules select by labels.
    selected: select::Board,
    claims: Mutex<ClaimsStatus>,
}

impl State {
    #[expect(
        clippy::too_many_arguments,
        reason = "it puts together what the parts have"
    )]
    pub fn new(
        kernel: Arc<KernelBoard>,
        config: ConfigStatus,
        config_view: ConfigView,
        responder: Arc<dyn Responding>,
        tcp: Arc<Tcp>,
        hub: Arc<Hub>,
        interface_resyncs: Arc<AtomicU64>,
        learnt: Learnt,
    ) -> Self {
        Self {
            started: Instant::now(),
            node: node(),
            kernel,
            config: Mutex::new(config),
            config_view: Mutex::new(config_view),
            responder,
            tcp,
            hub,
            pulse: Arc::new(Pulse::new()),
            stopping: AtomicBool::new(false),
            interface_resyncs,
            identities: Arc::default(),
            learnt,
            selected: select::Board::default(),
            claims: Mutex::default(),
        }
    }

    /// With who is behind each interface.
    pub fn with_identities(self, identities: Arc<Board>) -> Self {
        Self { identities, ..self }
    }

    /// With what is known of the namespaces that rules select by labels.
    pub fn with_selected(self, selected: select::Board) -> Self {
        Self { selected, ..self }
    }

    fn interfaces(&self) -> Vec<InterfaceStatus> {
        let mut interfaces = self.kernel.interfaces();
        for interface in &mut interfaces {
            match self.identities.who(interface.index) {
                Some(Ok(identity)) => interface.who = Some(WhoStatus::from(&*identity)),
                Some(Err(WhyNot::Off)) | None => {}
                Some(Err(why)) => interface.nobody = Some(why.text().to_owned()),
            }
        }
        interfaces
    }

    pub fn kernel(&self) -> &KernelBoard {
        &self.kernel
    }

    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Another configuration is in force.
    pub fn loaded(&self, config_view: ConfigView, warnings: Vec<String>) {
        let mut config = lock(&self.config);
        config.loads += 1;
        config.error = None;
        config.warnings = warnings;
        *lock(&self.config_view) = config_view;
    }

    /// Other claims are in force, for the same configuration.
    pub fn has_rules(&self, config_view: ConfigView, claims: ClaimsStatus) {
        *lock(&self.config_view) = config_view;
        self.claimed(claims);
    }

    /// What became of claims.
    pub fn claimed(&self, claims: ClaimsStatus) {
        *lock(&self.claims) = claims;
    }

    /// A configuration was refused; the previous one stays in force.
    pub fn refused(&self, error: String) {
        let mut config = lock(&self.config);
        config.failures += 1;
        config.error = Some(error);
    }

    fn readiness(&self) -> Readiness {
        Readiness {
            loaded: true,
            attached: self.kernel.is_attached(),
            serving: self.pulse.is_serving(),
            stopping: self.stopping.load(Ordering::Relaxed),
            standby: false,
        }
    }

    /// Whether `/readyz` says yes.
    pub fn is_ready(&self) -> bool {
        let readiness = self.readiness();
        readiness.attached && readiness.serving && !readiness.stopping
    }
}

impl Source for State {
    fn monitor(&self) -> Subscription {
        let subscription = self.hub.subscribe();
        // The task that follows the program does so too, but some time later.
        self.kernel.listen();
        subscription
    }

    fn pod(&self, index: u32) -> Option<String> {
        let identity = self.identities.who(index)?.ok()?;
        Some(format!("{}/{}", identity.namespace, identity.pod))
    }

    fn target(&self, target: &str) -> Option<ServiceStatus> {
        self.responder.services().explain(target)
    }

    fn vital(&self) -> Vital {
        Vital {
            readiness: self.readiness(),
            heartbeat_age_seconds: self.pulse.age().map(|age| age.as_secs_f64()),
        }
    }

    fn status(&self) -> Status {
        let view = lock(&self.config_view).clone();
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: self.node.clone(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            readiness: self.readiness(),
            config: lock(&self.config).clone(),
            hook: view.hook,
            order: view.order,
            servers: view.servers,
            learnt: self.learnt.sources(),
            rules: view.rules,
            interfaces: self.interfaces(),
            heartbeat_age_seconds: self.pulse.age().map(|age| age.as_secs_f64()),
            kernel: self.kernel.status(),
            responder: self.responder.status(),
            tcp: self.tcp.status(),
            kubernetes: self.responder.services().status(),
            selected: self.selected.status(),
            identity: self.identities.status(),
            claims: lock(&self.claims).clone(),
            interface_resyncs: self.interface_resyncs.load(Ordering::Relaxed),
            panics: panics::count(),
        }
    }
}

/// What Kubernetes calls the node, which its chart says, or the name that the machine has.
pub fn node() -> String {
    let hostname = || nix::unistd::gethostname().ok()?.into_string().ok();
    let named = std::env::var(NODE_NAME)
        .ok()
        .filter(|name| !name.is_empty());
    named.or_else(hostname).unwrap_or_default()
}

/// A panic while a lock was held leaves plain data behind, which is still consistent.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
