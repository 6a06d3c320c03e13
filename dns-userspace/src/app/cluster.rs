//! The watches of the cluster's Services: they begin and end with the configuration, and what they find changed is delivered to
//! the responder and to the programs' answers.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, mpsc},
    task::{JoinHandle, JoinSet},
};

use super::{denied, respond::Respond, settings::Settings};
use crate::{
    model::Publish,
    sources::{Note, Object, Reporter, Selector, SharedServices},
};

/// Changes that come within this time are delivered together: each delivery looks at all answers.
const GATHER: Duration = Duration::from_millis(50);

/// Services of one namespace that get Events about refused claims.
const MAX_REPORTED: usize = 3;

/// See the module.
pub struct Cluster {
    services: Arc<SharedServices>,
    reporter: Arc<Reporter>,
    /// Events to be sent.
    #[cfg_attr(
        not(feature = "kubernetes"),
        expect(dead_code, reason = "nothing sends them")
    )]
    notes: Arc<Mutex<mpsc::Receiver<Note>>>,
    /// Of the watches.
    selectors: Vec<Selector>,
    sends_events: bool,
    /// The watches, and who sends the Events.
    watches: JoinSet<()>,
    /// Who looks for Services that no rule is for.
    denied: Option<JoinHandle<()>>,
    delivery: JoinHandle<()>,
}

impl Cluster {
    /// Starts to watch what the configuration names.
    pub fn start(
        settings: &Settings,
        reporter: Arc<Reporter>,
        notes: mpsc::Receiver<Note>,
        respond: Arc<Respond>,
        answers: Arc<dyn Publish>,
    ) -> Cluster {
        let services = Arc::clone(reporter.services());
        let delivery = tokio::spawn(deliver(Arc::clone(&services), respond, answers));
        let mut cluster = Cluster {
            services,
            reporter,
            notes: Arc::new(Mutex::new(notes)),
            selectors: Vec::new(),
            sends_events: false,
            watches: JoinSet::new(),
            denied: None,
            delivery,
        };
        cluster.watch(settings);
        cluster.look_for_denied(settings);
        cluster
    }

    /// The same for another configuration.
    pub fn reload(&mut self, settings: &Settings) {
        let selectors = settings.selectors();
        self.services
            .select(settings.cluster_domain.clone(), selectors.clone());
        if selectors != self.selectors || settings.sends_events != self.sends_events {
            self.watches.abort_all();
            self.watches = JoinSet::new();
            self.watch(settings);
        }
        self.look_for_denied(settings);
    }

    /// With the rules of this configuration.
    fn look_for_denied(&mut self, settings: &Settings) {
        if let Some(before) = self.denied.take() {
            before.abort();
        }
        if settings.sends_events && settings.rules.has_allow_lists() {
            let reporter = Arc::clone(&self.reporter);
            let rules = Arc::clone(&settings.rules);
            let domain = settings.cluster_domain.clone();
            self.denied = Some(tokio::spawn(denied::look(reporter, rules, domain)));
        }
    }

    /// Whether anything is watched.
    pub fn is_watching(&self) -> bool {
        !self.watches.is_empty()
    }

    /// Says to the Services what of their claims is refused; each time the same, which is sent once.
    pub fn report(&self, settings: &Settings) {
        let mut of_namespace = ("", 0);
        for verdict in &settings.claims.verdicts {
            if verdict.refused.is_empty() {
                continue;
            }
            if of_namespace.0 != verdict.namespace {
                of_namespace = (&verdict.namespace, 0);
            }
            of_namespace.1 += 1;
            let Some(message) = verdict.message().filter(|_| of_namespace.1 <= MAX_REPORTED) else {
                continue;
            };
            let subject = Object {
                namespace: verdict.namespace.clone(),
                name: verdict.service.clone(),
                uid: verdict.uid.clone(),
            };
            self.reporter.refuse(subject, message);
        }
    }

    /// Ends the watches.
    pub fn stop(&mut self) {
        self.watches.abort_all();
        if let Some(denied) = self.denied.take() {
            denied.abort();
        }
        self.delivery.abort();
    }

    fn watch(&mut self, settings: &Settings) {
        self.selectors = settings.selectors();
        self.sends_events = settings.sends_events;
        let spawned = self.spawn(settings);
        self.reporter.set_on(spawned.is_ok() && self.sends_events);
        self.services.set_mode(spawned);
    }

    #[cfg(feature = "kubernetes")]
    fn spawn(&mut self, settings: &Settings) -> Result<(), &'static str> {
        use crate::sources::{client, post, watch};

        if !settings.watches_services {
            return Err("[kubernetes] watch = false");
        }
        if self.selectors.is_empty() {
            return Err("no rule leads to a Service");
        }
        if !client::is_in_cluster() {
            return Err("not in a cluster");
        }
        let client = client::in_cluster().map_err(|error| {
            tracing::warn!(
                error = format!("{error:#}"),
                "cannot watch Services; targets are looked up by DNS alone"
            );
            "no service account"
        })?;
        for selector in &self.selectors {
            let services = Arc::clone(&self.services);
            self.watches
                .spawn(watch::follow(client.clone(), selector.clone(), services));
        }
        if self.sends_events {
            let (notes, reporter) = (Arc::clone(&self.notes), Arc::clone(&self.reporter));
            self.watches.spawn(post::send(
                client,
                notes,
                reporter,
                Arc::clone(&self.services),
            ));
        }
        tracing::info!(watches = self.selectors.len(), "Services are watched");
        Ok(())
    }

    #[cfg(not(feature = "kubernetes"))]
    fn spawn(&mut self, settings: &Settings) -> Result<(), &'static str> {
        if settings.watches_services {
            Err(crate::sources::NOT_BUILT)
        } else {
            Err("[kubernetes] watch = false")
        }
    }
}

/// Delivers changes for as long as it is polled.
async fn deliver(services: Arc<SharedServices>, respond: Arc<Respond>, answers: Arc<dyn Publish>) {
    loop {
        let changes = services.changes().await;
        tracing::debug!(targets = changes.len(), "targets have changed");
        let (respond, answers) = (Arc::clone(&respond), Arc::clone(&answers));
        // It takes the longer the more answers there are.
        let delivered = tokio::task::spawn_blocking(move || respond.changed(&changes, &*answers));
        // An error is a panic, which is counted and logged where it happens.
        let _ = delivered.await;
        tokio::time::sleep(GATHER).await;
    }
}
