//! When the rules that tenants claim are made anew: other names are claimed, or pods of another namespace are here. Changes are
//! gathered, and there is a time between two, so that a tenant who changes its claims all the time delays no other.

use std::{
    collections::{BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{kept::Kept, settings::Settings};
use crate::{
    claims::{Damper, Snapshot},
    config,
    identity::Sink,
    model::{Claimant, Who},
    sources::{ClaimReport, SharedServices},
};

/// Changes that come within this time are one.
const GATHER: Duration = Duration::from_millis(250);
/// Between two loads of rules: with it, and with what a load takes, a change is in force within a second.
const BETWEEN: Duration = Duration::from_millis(500);
/// How long the rules of a namespace stay whose last pod has gone: pods of jobs come and go.
const LINGER: Duration = Duration::from_secs(600);
/// How often the static file is looked at.
const LOOK: Duration = Duration::from_millis(200);
/// How long a start waits for the first list: what is not there yet would be lost by pods that had it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The name of what [`Claims::keep`] keeps.
const KEPT: &str = "claims";

/// The namespaces of the pods that are here.
#[derive(Default)]
pub struct Presence {
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Default)]
struct Inner {
    /// Behind each interface; `None` where it is not known.
    interfaces: HashMap<u32, Option<String>>,
    /// When a pod of each was seen last.
    seen: HashMap<String, Instant>,
}

impl Presence {
    /// Whether it is known who is behind an interface.
    pub fn is_known(&self, index: u32) -> bool {
        self.lock()
            .interfaces
            .get(&index)
            .is_some_and(Option::is_some)
    }

    /// Those that have pods here, or had until a while ago.
    fn namespaces(&self) -> BTreeSet<String> {
        let mut inner = self.lock();
        let now = Instant::now();
        let Inner { interfaces, seen } = &mut *inner;
        for namespace in interfaces.values().flatten() {
            seen.insert(namespace.clone(), now);
        }
        seen.retain(|_, at| now.duration_since(*at) < LINGER);
        seen.keys().cloned().collect()
    }

    fn set(&self, index: u32, namespace: Option<String>) {
        let mut inner = self.lock();
        let now = Instant::now();
        let mut is_new = false;
        if let Some(namespace) = &namespace {
            is_new = inner.seen.insert(namespace.clone(), now).is_none();
        }
        if let Some(Some(before)) = inner.interfaces.insert(index, namespace) {
            inner.seen.insert(before, now);
        }
        drop(inner);
        if is_new {
            self.news.notify_one();
        }
    }

    /// A panic elsewhere leaves plain data behind.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Presence {
    fn publish(&self, index: u32, who: Who) {
        let namespace = who.ok().map(|identity| identity.namespace.clone());
        self.set(index, namespace);
    }

    fn gone(&self, index: u32) {
        self.set(index, None);
        self.lock().interfaces.remove(&index);
    }
}

/// See the module.
pub struct Claims {
    services: Arc<SharedServices>,
    presence: Arc<Presence>,
    /// Where it is kept what is in force, for a start while the API server is away.
    kept: Kept,
    damper: Damper,
    /// The static file that is read, and by what.
    file: Option<PathBuf>,
    reader: JoinSet<()>,
    /// When something was noticed that has not been looked at since.
    noticed: Option<Instant>,
    /// When there may be another load.
    rested: Instant,
}

impl Claims {
    pub fn new(services: Arc<SharedServices>, presence: Arc<Presence>, kept: Kept) -> Claims {
        Claims {
            services,
            presence,
            kept,
            damper: Damper::default(),
            file: None,
            reader: JoinSet::new(),
            noticed: None,
            rested: Instant::now(),
        }
    }

    /// Reads what the configuration names.
    pub fn follow(&mut self, settings: &Settings) {
        let platform = settings.platform.as_ref();
        let file = platform.and_then(|platform| platform.tenants.file.clone());
        if file == self.file {
            return;
        }
        self.reader.abort_all();
        self.reader = JoinSet::new();
        self.file.clone_from(&file);
        if let Some(path) = file {
            let services = Arc::clone(&self.services);
            self.reader.spawn(read_file(path, services));
        }
    }

    /// What the programs go by that are attached already counts at once, and without any a moment is waited for the first list.
    /// Where that does not come, what an earlier process has had counts.
    pub async fn known(&self) {
        if let Some(claimants) = self.kept.pinned::<Vec<Claimant>>(KEPT) {
            tracing::debug!("what tenants claimed before counts until there is a list");
            self.services.report_claims(ClaimReport::Kept(claimants));
            return;
        }
        let listed = async {
            while self.services.claims().is_none() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(PATIENCE, listed).await.is_ok() {
            return;
        }
        match self.kept.read::<Vec<Claimant>>(KEPT) {
            Some(claimants) => {
                tracing::warn!(
                    "what tenants claim is not known yet: what an earlier process has had counts"
                );
                self.services.report_claims(ClaimReport::Kept(claimants));
            }
            None => {
                tracing::warn!("what tenants claim is not known yet: their names pass until it is")
            }
        }
    }

    /// Keeps what is in force.
    pub fn keep(&self, snapshot: &Snapshot) {
        let here = snapshot.claimants.iter();
        let here: Vec<&Claimant> = here
            .filter(|claimant| snapshot.namespaces.contains(&claimant.namespace))
            .collect();
        self.kept.write(KEPT, &here);
    }

    /// What is claimed now, and by whom who is here. Before any are known there are none.
    pub fn snapshot(&mut self) -> Snapshot {
        let all = self.services.claims().unwrap_or_default();
        let (claimants, wait) = self.damper.take(all, Instant::now().into_std());
        if let Some(wait) = wait {
            let again = Instant::now() + wait;
            // Looked at again when the first of those that were held back may be.
            self.noticed = Some(again.checked_sub(GATHER).unwrap_or(again));
        }
        Snapshot {
            claimants,
            namespaces: self.presence.namespaces(),
        }
    }

    /// Ready when it may differ from what it was. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            let due = self
                .noticed
                .map(|noticed| (noticed + GATHER).max(self.rested));
            tokio::select! {
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    self.noticed = None;
                    return;
                }
                () = self.services.claims_changed() => self.notice(),
                // At once: its pods are about to ask.
                () = self.presence.news.notified() => {
                    let now = Instant::now();
                    self.noticed = Some(now.checked_sub(GATHER).unwrap_or(now));
                }
            }
        }
    }

    /// Looks again soon.
    pub fn notice(&mut self) {
        let now = Instant::now();
        self.noticed = Some(self.noticed.map_or(now, |noticed| noticed.min(now)));
    }

    /// The rules are loaded now.
    pub fn loads(&mut self) {
        self.rested = Instant::now() + BETWEEN;
    }
}

/// Reads the static file whenever it changes, for as long as it is polled.
async fn read_file(path: PathBuf, services: Arc<SharedServices>) {
    let mut seen = None;
    loop {
        let text = read_text(path.clone()).await;
        if seen.as_ref() != Some(&text) {
            match text.clone().and_then(|text| parse(&path, &text)) {
                Ok(claims) => {
                    tracing::info!(claims = claims.len(), "the static file of claims is read");
                    services.report_claims(ClaimReport::Listed(claims));
                }
                Err(error) => tracing::error!(
                    error,
                    "the static file of claims is refused; what it said last stays in force"
                ),
            }
            seen = Some(text);
        }
        sleep(LOOK).await;
    }
}

async fn read_text(path: PathBuf) -> Result<String, String> {
    let read = tokio::task::spawn_blocking(move || config::read_text(&path));
    match read.await {
        Ok(read) => read.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

fn parse(path: &Path, text: &str) -> Result<Vec<Claimant>, String> {
    config::parse_claims(path, text).map_err(|error| error.to_string())
}
