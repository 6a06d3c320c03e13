//! TCP over the life of the app: listeners when they are first needed, one program after another, and the status.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use tokio::task::JoinHandle;

use super::{
    load::Failure,
    settings::{Settings, tcp_name},
};
use crate::{
    datapath::{Datapath, DatapathError, Steered},
    discover::Routes,
    model::{Identify, Listeners, SteerMode, SteeredClients},
    observe::TcpStatus,
    tcp::{Answer, Service, Steering, open_listeners},
};

/// See the module.
pub struct Tcp {
    service: Arc<Service>,
    steering: Arc<Steering>,
    inner: Mutex<Inner>,
    watch: JoinHandle<()>,
}

#[derive(Default)]
struct Inner {
    listeners: Option<Listeners>,
    mode: &'static str,
    error: Option<String>,
}

impl Tcp {
    pub async fn new(
        settings: &Settings,
        steering: Arc<Steering>,
        answer: Arc<dyn Answer>,
        clients: Arc<dyn Identify>,
    ) -> anyhow::Result<Arc<Self>> {
        let routes = Routes::open()?;
        // Now, so that no client gets TC=1 that cannot be steered.
        steering.refresh(&routes).await;
        Ok(Arc::new(Self {
            service: Service::new(answer, clients, settings.served())?,
            watch: tokio::spawn(steering.clone().watch(routes)),
            steering,
            inner: Mutex::default(),
        }))
    }

    /// Configures what a program steers, before it is attached.
    pub fn prepare(&self, settings: &Settings, datapath: &mut Datapath) -> anyhow::Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        if settings.tcp != SteerMode::Never && inner.listeners.is_none() {
            let listeners = open_listeners().context("cannot listen for TCP on 127.0.0.1")?;
            self.service.listen(&listeners)?;
            inner.listeners = Some(listeners);
        }
        Ok(datapath.configure_steering(settings.tcp, inner.listeners.as_ref())?)
    }

    /// Adds a program before it is attached: it gets the node's addresses, and the clients that receive TC=1 from now on.
    pub fn add_program(&self, settings: &Settings, datapath: &Datapath) {
        if let Some(program) = datapath.steered() {
            self.steering.also(settings.tcp, Arc::new(program));
        }
    }

    /// The program is attached, or could not be: then TCP reaches the existing cache, and no client gets TC=1.
    pub fn attached(
        &self,
        settings: &Settings,
        steered: Option<Steered>,
        result: Result<(), DatapathError>,
        log_directories: &[PathBuf],
    ) {
        let error = result.err().map(|error| {
            Failure::of(&error, &settings.load_options(), log_directories).to_string()
        });
        if let Some(error) = &error {
            let consequence = match settings.tcp {
                SteerMode::Required => "is refused",
                _ => "reaches the existing cache",
            };
            tracing::warn!(error, "TCP is not steered and {consequence}");
        }
        let mode = match error {
            None => settings.tcp,
            Some(_) => SteerMode::Never,
        };
        self.service.reconfigure(settings.served());
        let steered = steered.map(|steered| -> Arc<dyn SteeredClients> { Arc::new(steered) });
        self.steering.only(mode, steered, settings.servers.clone());
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.mode = tcp_name(settings.tcp);
        inner.error = error;
    }

    /// Open connections get the replies that are due.
    pub async fn stop(&self) {
        self.service.stop().await;
    }

    pub fn status(&self) -> TcpStatus {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        TcpStatus {
            mode: inner.mode.to_owned(),
            error: inner.error.clone(),
            local_servers: self.steering.local(),
            counters: self.service.counters(),
        }
    }
}

impl Drop for Tcp {
    fn drop(&mut self) {
        self.watch.abort();
    }
}
