//! The responder in force. A reload that changes none of its options keeps it, and with it the last good answers.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use arc_swap::ArcSwap;

use super::{clients::Clients, kernel::End, settings::Settings, state::Responding};
use crate::{
    datapath::{Intercepted, Node, ReturnPath, missing_capabilities_remedy, one_line},
    inject::Injector,
    model::{Changes, Client, Publish},
    monitor::Hub,
    resolve::{DnsSource, Responder, ResponderStatus, Stats, Steer, StreamQuery},
    sources::{Reporter, SharedServices},
    tcp::Answer,
};

type Live = Responder<DnsSource, Arc<Injector>>;

/// Hands queries to the responder in force.
pub struct Respond {
    live: ArcSwap<Live>,
    /// Closed at the end.
    return_path: Mutex<Option<ReturnPath>>,
    /// Those before it, as long as queries wait there.
    earlier: Mutex<Vec<Weak<Live>>>,
    /// What is known of targets beside DNS, and where outcomes of look-ups are reported.
    reporter: Arc<Reporter>,
    /// Of all responders: its sockets take capabilities to open.
    injector: Arc<Injector>,
    steer: Arc<dyn Steer>,
    hub: Arc<Hub>,
    /// Of all responders that were in force.
    stats: Arc<Stats>,
    /// What the programs serve.
    answers: Arc<dyn Publish>,
    clients: Arc<Clients>,
    /// Of the responder in force.
    settings: Mutex<Settings>,
}

/// A responder that is not in force yet.
pub struct Prepared {
    live: Arc<Live>,
    settings: Settings,
}

impl Respond {
    pub fn new(
        settings: &Settings,
        steer: Arc<dyn Steer>,
        hub: Arc<Hub>,
        reporter: Arc<Reporter>,
        answers: Arc<dyn Publish>,
        clients: Arc<Clients>,
    ) -> anyhow::Result<Arc<Self>> {
        let return_path = ReturnPath::open()
            .map_err(|error| anyhow::anyhow!("queries cannot pass: {}", one_line(&error)))?;
        let stats: Arc<Stats> = Arc::default();
        let counted = Arc::clone(&stats);
        let failed = move |error| {
            counted.not_sent();
            tracing::debug!(%error, "query not passed on");
        };
        let injector =
            Injector::open(Arc::clone(return_path.index()), failed).map_err(|error| {
                let remedy = missing_capabilities_remedy(&Node::look())
                    .map_or_else(String::new, |remedy| format!("; {remedy}"));
                anyhow::anyhow!("cannot open the sockets for replies: {error}{remedy}")
            })?;
        let injector = Arc::new(injector);
        Ok(Arc::new(Self {
            live: ArcSwap::from_pointee(open(settings, &injector, &steer, &hub, &reporter, &stats)),
            return_path: Mutex::new(Some(return_path)),
            injector,
            earlier: Mutex::default(),
            reporter,
            steer,
            hub,
            stats,
            answers,
            clients,
            settings: Mutex::new(settings.clone()),
        }))
    }

    /// Answers a query, passes it on, or lets it wait for a look-up.
    pub fn handle(&self, query: Intercepted) {
        self.live.load().handle(query);
    }

    /// Releases the cache entries and limits of an interface that was removed.
    pub fn release_interface(&self, index: u32) {
        self.live.load().release_interface(index);
    }

    /// Opens the responder of another configuration, `None` when the one in force serves it as well. [`Respond::commit`] puts
    /// it in force.
    pub fn prepare(&self, settings: &Settings) -> Option<Prepared> {
        if self.settings().same_responder(settings) {
            return None;
        }
        Some(Prepared {
            live: Arc::new(open(
                settings,
                &self.injector,
                &self.steer,
                &self.hub,
                &self.reporter,
                &self.stats,
            )),
            settings: settings.clone(),
        })
    }

    /// Puts another responder in force. The previous one answers the queries that wait at it.
    pub fn commit(&self, prepared: Prepared) {
        let mut settings = self.settings();
        let earlier = self.live.swap(prepared.live);
        let mut all = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|responder| responder.strong_count() > 0);
        all.push(Arc::downgrade(&earlier));
        *settings = prepared.settings;
    }

    /// Forgets what is no longer right now that targets have changed, also where queries wait at an earlier responder.
    pub fn changed(&self, changes: &Changes, answers: &dyn Publish) {
        let earlier = {
            let all = self.earlier.lock().unwrap_or_else(PoisonError::into_inner);
            all.iter().filter_map(Weak::upgrade).collect::<Vec<_>>()
        };
        for responder in earlier {
            responder.changed(changes, answers);
        }
        self.live.load_full().changed(changes, answers);
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Restores the device by which queries pass where another process removed it or its program.
    pub fn restore_return_path(&self) {
        let mut path = self
            .return_path
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match path.as_mut().map_or(Ok(false), ReturnPath::mend) {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                "another process removed the device by which queries pass, or its program; it is restored"
            ),
            Err(error) => tracing::warn!(
                error = one_line(&error),
                "another process removed the device by which queries pass; will try again"
            ),
        }
    }

    /// Removes the device by which queries pass, unless a successor uses it: the last thing, since those that wait may pass
    /// until then.
    pub fn close(&self, end: End) {
        self.injector.close();
        let path = self.return_path.lock();
        let path = path.unwrap_or_else(PoisonError::into_inner).take();
        match (path, end) {
            (Some(path), End::Leave) => path.leave(),
            (path, _) => drop(path),
        }
    }

    /// Returns once no query waits for an answer.
    pub async fn idle(&self) {
        self.live.load_full().drained().await;
    }
}

impl Responding for Respond {
    fn status(&self) -> ResponderStatus {
        self.live.load().status()
    }

    fn services(&self) -> &SharedServices {
        self.reporter.services()
    }
}

impl Answer for Respond {
    fn answer(&self, query: StreamQuery) {
        self.live.load().handle_stream(query, Some(&self.answers));
    }

    fn client(&self, ifindex: u32, address: IpAddr) -> Option<Arc<Client>> {
        self.clients.asking(ifindex, address)
    }
}

fn open(
    settings: &Settings,
    injector: &Arc<Injector>,
    steer: &Arc<dyn Steer>,
    hub: &Arc<Hub>,
    reporter: &Arc<Reporter>,
    stats: &Arc<Stats>,
) -> Live {
    let responder = Responder::new(
        settings.responder_options(),
        DnsSource::new(settings.timeout).with_targets(reporter.services().clone()),
        Arc::clone(injector),
        Arc::clone(stats),
    );
    let responder = responder
        .with_steering(Arc::clone(steer))
        .with_outcomes(reporter.clone());
    responder.with_monitor(Arc::clone(hub))
}
