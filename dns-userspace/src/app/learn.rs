//! Learns the servers that pods ask, where the configuration leaves it to gregor, and says when others are to be intercepted. What was
//! intercepted by a process that this one takes over from goes on until every source has named some.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch as latest,
    task::JoinSet,
    time::{Instant, Interval, MissedTickBehavior, interval, sleep},
};

use super::kept::Kept;
use crate::{
    config::{self, ToLearn},
    nameservers::{self, Source, Unknown, kubelet},
};

/// How often the kubelet's configuration is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long a start waits for the API server where the kubelet has named servers: they would be loaded again soon.
pub const GRACE: Duration = Duration::from_secs(1);
/// The same where a predecessor serves.
pub const LONG_GRACE: Duration = Duration::from_secs(10);
/// The name by which what is intercepted is kept.
const KEPT: &str = "servers";
/// While nothing is learnt.
const RETRY: Duration = Duration::from_millis(200);
/// The same within the grace: each is later for the pods.
const EARLY_RETRY: Duration = Duration::from_millis(20);

/// What is learnt, for `gregor status`.
#[derive(Clone, Debug, Default)]
pub struct Learnt(Arc<Mutex<Vec<Source>>>);

impl Learnt {
    pub fn sources(&self) -> Vec<Source> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn set(&self, sources: Vec<Source>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sources;
    }
}

/// See the module.
pub struct Learner {
    path: PathBuf,
    kept: Kept,
    /// `None` where the configuration names all servers itself.
    task: Option<Task>,
    learnt: Learnt,
    /// Those of the last load.
    loaded: Option<Vec<IpAddr>>,
    looks: Interval,
}

struct Task {
    what: ToLearn,
    kubelet: Source,
    services: latest::Receiver<Source>,
    /// Whether the API server is asked.
    asks: bool,
    /// What was intercepted before these sources were looked at. It goes on while one of them has named nothing yet: the configuration
    /// may have come before the file that it needs, as in a rollout.
    before: Vec<IpAddr>,
    /// For as long as nothing watches.
    _unused: Option<latest::Sender<Source>>,
    _watch: JoinSet<()>,
}

impl Learner {
    /// One that looks at nothing yet.
    pub fn new(path: &Path, kept: Kept) -> Self {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            path: path.to_owned(),
            kept,
            task: None,
            learnt: Learnt::default(),
            loaded: None,
            looks,
        }
    }

    pub fn learnt(&self) -> Learnt {
        self.learnt.clone()
    }

    /// Waits until there is something to load the configuration with. Where nothing is learnt it says so once, by `waits`.
    ///
    /// # Errors
    /// Those of `waits`.
    pub async fn first<T>(
        &mut self,
        grace: Duration,
        mut waits: impl FnMut(&Unknown) -> anyhow::Result<T>,
    ) -> anyhow::Result<()> {
        let started = Instant::now();
        let mut waiting = None;
        loop {
            self.follow(&[]);
            let is_early = started.elapsed() < grace;
            match self.look() {
                Ok(_) if !(is_early && self.waits_for_services()) => return Ok(()),
                Err(error @ Unknown::Nothing(_)) if !is_early && waiting.is_none() => {
                    tracing::warn!("{error}; waiting for it, and nothing is attached meanwhile");
                    waiting = Some(waits(&error)?);
                }
                Ok(_) | Err(Unknown::Nothing(_)) => {}
                // The load reports it.
                Err(Unknown::TooMany(_)) => return Ok(()),
            }
            sleep(if is_early { EARLY_RETRY } else { RETRY }).await;
        }
    }

    /// What is learnt now.
    pub fn known(&mut self) -> Vec<Source> {
        self.follow(&[]);
        self.loaded = self.look().ok();
        self.learnt.sources()
    }

    /// What to load the configuration with now, while these servers are intercepted. Kept for the next process.
    pub fn take(&mut self, in_force: &[IpAddr]) -> Vec<Source> {
        self.follow(in_force);
        self.loaded = self.look().ok();
        if let (Some(_), Some(servers)) = (&self.task, &self.loaded) {
            self.kept.write(KEPT, servers);
        }
        self.learnt.sources()
    }

    /// Ready when what is learnt differs from that of the last load. Cancel-safe.
    pub async fn changed(&mut self) {
        loop {
            let Some(task) = &mut self.task else {
                return std::future::pending().await;
            };
            tokio::select! {
                _ = self.looks.tick() => {}
                said = task.services.changed() => if said.is_err() {
                    // The task that watches has panicked.
                    self.looks.tick().await;
                },
            }
            if self.differs() {
                return;
            }
        }
    }

    /// Whether other servers are known than those of the last load.
    fn differs(&mut self) -> bool {
        match self.look() {
            Ok(servers) if self.task.is_some() && self.loaded.as_ref() != Some(&servers) => {
                tracing::info!(?servers, "other servers are learnt");
                true
            }
            _ => false,
        }
    }

    /// Looks at what the configuration says of it. One that is wrong leaves everything as it is: so does the load.
    fn follow(&mut self, in_force: &[IpAddr]) {
        let Ok(what) = config::to_learn(&self.path) else {
            return;
        };
        let Some(what) = what else {
            self.task = None;
            self.learnt.set(Vec::new());
            return;
        };
        match &mut self.task {
            Some(task) if task.what.kubernetes == what.kubernetes => task.what = what,
            _ => {
                let before = match in_force {
                    [] => self.kept.pinned(KEPT).unwrap_or_default(),
                    servers => servers.to_vec(),
                };
                self.task = Some(Task::start(what, before));
            }
        }
    }

    /// The servers to intercept, after a look at the kubelet's configuration.
    fn look(&mut self) -> Result<Vec<IpAddr>, Unknown> {
        let Some(task) = &mut self.task else {
            return Ok(Vec::new());
        };
        let kubernetes = &task.what.kubernetes;
        task.kubelet.take(kubelet::read(
            &kubernetes.kubelet_config,
            kubernetes.kubelet_config_dir.as_deref(),
        ));
        let mut sources = vec![task.kubelet.clone(), task.services.borrow().clone()];
        let asked = if task.asks { 2 } else { 1 };
        let is_incomplete = sources
            .iter()
            .take(asked)
            .any(|source| source.servers.is_empty());
        let mut servers = nameservers::join(&task.what.written, &sources);
        if is_incomplete && !task.before.is_empty() {
            let mut before =
                Source::silent("what was intercepted before, until all are learnt", "");
            before.take(Ok(task.before.clone()));
            sources.push(before);
            let with_those = nameservers::join(&task.what.written, &sources);
            // Beyond the limit on servers, only those that are learnt now.
            servers = with_those.or(servers);
        }
        self.learnt.set(sources);
        servers
    }

    /// Whether the API server is asked and has not answered.
    fn waits_for_services(&self) -> bool {
        let source = self.task.as_ref().map(|task| task.services.borrow());
        source.is_some_and(|source| source.error.as_deref() == Some(ASKED))
    }
}

/// Until the API server answers.
const ASKED: &str = "the API server has not answered yet";

impl Task {
    fn start(what: ToLearn, before: Vec<IpAddr>) -> Self {
        let kubelet = kubelet::source(&what.kubernetes.kubelet_config);
        let (source, services) = latest::channel(Source::services(ASKED));
        let mut watch = JoinSet::new();
        let unused = match spawn(&mut watch, &what, &source) {
            Ok(()) => None,
            Err(why) => {
                source.send_replace(Source::services(why));
                Some(source)
            }
        };
        Self {
            what,
            kubelet,
            services,
            asks: unused.is_none(),
            before,
            _unused: unused,
            _watch: watch,
        }
    }
}

#[cfg(feature = "kubernetes")]
fn spawn(
    watch: &mut JoinSet<()>,
    what: &ToLearn,
    source: &latest::Sender<Source>,
) -> Result<(), String> {
    use crate::sources::client;

    let client = client::where_allowed(what.kubernetes.watch)?;
    watch.spawn(nameservers::services::follow(client, source.clone()));
    Ok(())
}

#[cfg(not(feature = "kubernetes"))]
fn spawn(_: &mut JoinSet<()>, what: &ToLearn, _: &latest::Sender<Source>) -> Result<(), String> {
    Err(if what.kubernetes.watch {
        crate::sources::NOT_BUILT.to_owned()
    } else {
        "[kubernetes] watch = false".to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A configuration and a kubelet's, removed with the test.
    struct Files(PathBuf);

    impl Drop for Files {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    impl Files {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("gregor-learn-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            let files = Self(path);
            files.configure("\"auto\"");
            files
        }

        fn config(&self) -> PathBuf {
            self.0.join("gregor.toml")
        }

        fn learner(&self) -> Learner {
            let kept = Kept::new(None, &self.0.join("gregor.sock"));
            Learner::new(&self.config(), kept)
        }

        fn configure(&self, servers: &str) {
            let kubelet = self.0.join("config.yaml");
            let text = format!(
                "[intercept]\nservers = {servers}\n[kubernetes]\nwatch = false\nkubelet_config = \"{}\"\n",
                kubelet.display()
            );
            fs::write(self.config(), text).unwrap();
        }

        fn kubelet(&self, text: &str) {
            fs::write(self.0.join("config.yaml"), text).unwrap();
        }
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn never(error: &Unknown) -> anyhow::Result<()> {
        panic!("{error}");
    }

    #[tokio::test]
    async fn it_waits_until_something_is_learnt_and_says_so_once() {
        let files = Files::new("waits");
        let mut learner = files.learner();
        let mut said = Vec::new();
        let first = learner.first(GRACE, |error| {
            said.push(error.to_string());
            files.kubelet("clusterDNS: [10.0.0.10]\n");
            Ok(())
        });
        first.await.unwrap();
        assert_eq!(said.len(), 1);
        assert!(said[0].contains("cannot be read"), "{said:?}");
        let sources = learner.take(&[]);
        assert_eq!(sources[0].servers, ips(&["10.0.0.10"]));
        assert_eq!(
            sources[1].error.as_deref(),
            Some("[kubernetes] watch = false")
        );
        assert_eq!(learner.loaded, Some(ips(&["10.0.0.10"])));
    }

    #[tokio::test]
    async fn only_other_servers_are_a_change() {
        let files = Files::new("change");
        files.kubelet("clusterDNS: [10.0.0.10]\n");
        let mut learner = files.learner();
        learner.first(GRACE, never).await.unwrap();
        learner.take(&[]);
        // Half written, written without the key, written otherwise: the servers stay.
        for text in ["clusterDNS: [", "", "clusterDNS:\n- 10.0.0.10\n"] {
            files.kubelet(text);
            assert!(!learner.differs(), "{text}");
        }
        files.kubelet("clusterDNS: [10.0.0.11]\n");
        learner.changed().await;
        assert_eq!(learner.take(&[])[0].servers, ips(&["10.0.0.11"]));
        assert!(!learner.differs(), "loaded already");
    }

    #[tokio::test]
    async fn addresses_beside_it_serve_while_nothing_is_learnt() {
        let files = Files::new("beside");
        files.configure("[\"10.0.0.1\", \"auto\"]");
        let mut learner = files.learner();
        learner.first(GRACE, never).await.unwrap();
        learner.take(&[]);
        assert_eq!(learner.loaded, Some(ips(&["10.0.0.1"])));
        files.kubelet("clusterDNS: [10.0.0.10]\n");
        assert!(learner.differs());
        learner.take(&[]);
        assert_eq!(learner.loaded, Some(ips(&["10.0.0.1", "10.0.0.10"])));
    }

    #[tokio::test]
    async fn without_the_word_nothing_is_looked_at() {
        let files = Files::new("written");
        files.configure("[\"10.0.0.1\"]");
        files.kubelet("clusterDNS: [10.0.0.10]\n");
        let mut learner = files.learner();
        learner.first(GRACE, never).await.unwrap();
        assert_eq!(learner.take(&[]), []);
        assert!(!learner.differs());
        // A configuration that is wrong leaves it as it is.
        files.configure("[\"auto\"");
        assert_eq!(learner.take(&[]), []);
        files.configure("\"auto\"");
        assert_eq!(learner.take(&[])[0].servers, ips(&["10.0.0.10"]));
        files.configure("[\"auto\"");
        assert_eq!(learner.take(&[])[0].servers, ips(&["10.0.0.10"]));
        assert_eq!(learner.learnt().sources().len(), 2);
    }

    #[tokio::test]
    async fn what_was_intercepted_goes_on_until_the_kubelet_has_named_servers() {
        let files = Files::new("transition");
        files.configure("[\"10.0.0.1\"]");
        let mut learner = files.learner();
        learner.first(GRACE, never).await.unwrap();
        learner.take(&[]);
        // The configuration is there before the file is.
        let before = ips(&["10.0.0.1"]);
        files.configure("[\"auto\", \"10.0.0.2\"]");
        learner.take(&before);
        assert_eq!(learner.loaded, Some(ips(&["10.0.0.2", "10.0.0.1"])));
        learner.take(&ips(&["10.0.0.2", "10.0.0.1"]));
        assert_eq!(learner.loaded, Some(ips(&["10.0.0.2", "10.0.0.1"])));
        files.kubelet("clusterDNS: [10.0.0.10]\n");
        assert!(learner.differs());
        learner.take(&ips(&["10.0.0.2", "10.0.0.1"]));
        assert_eq!(learner.loaded, Some(ips(&["10.0.0.2", "10.0.0.10"])));
    }
}
