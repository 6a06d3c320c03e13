//! The thread that reads the sources and the interfaces, tells the registry, and publishes what it decides.
//!
//! One thread, so that what is told is told in its order. It reads files of root's and asks the kernel about interfaces of other
//! network namespaces, which takes CAP_NET_ADMIN.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use notify::{
    EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use tokio::runtime::Handle;

use super::{
    board::{Board, Sink, SourceStatus},
    cni::{self, Ignored},
    input::Input,
    inside::Inside,
    registry::Registry,
};
use crate::{
    config::{self, load_pods},
    discover::Event,
    model::IdentitySource,
    privileges::{Role, restrict_thread},
};

/// How often all interfaces are read: what pods change behind theirs has no message.
const ROUND: Duration = Duration::from_secs(1);
/// How often all results of the CNI are read again.
const SCAN: Duration = Duration::from_secs(5);
/// Errors of a round after which the rest of it waits for the next one: each may take as long as the kernel is waited for.
const MOST_ERRORS: usize = 3;
/// A new interface is read again after this time, and after twice as long each time, until an address is behind it.
const FIRST_LOOK: Duration = Duration::from_millis(5);
/// Inputs that are taken together.
const BATCH: usize = 4096;
/// Files of results that are read at most.
const MAX_FILES: usize = 65_536;

/// The thread, and what it is told by. It ends when this is stopped.
pub struct Identities {
    inputs: Sender<Input>,
    board: Arc<Board>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Identities {
    /// Starts without sources; see [`Input::Configure`]. Needs a tokio runtime, whose threads wait for changes of files.
    pub fn start(sinks: Vec<Arc<dyn Sink>>) -> io::Result<Identities> {
        let (inputs, received) = channel();
        let board = Arc::new(Board::default());
        let follow = Follow {
            registry: Registry::default(),
            config: config::Identity::default(),
            inside: None,
            sinks: [Arc::clone(&board) as Arc<dyn Sink>]
                .into_iter()
                .chain(sinks)
                .collect(),
            board: Arc::clone(&board),
            inputs: inputs.clone(),
            runtime: Handle::current(),
            watcher: None,
            young: BTreeMap::new(),
            ignored: HashMap::new(),
            errors: BTreeMap::new(),
            watch_error: None,
            read_error: None,
            file_seen: None,
        };
        let thread = thread::Builder::new()
            .name("identity".to_owned())
            .spawn(move || {
                restrict_thread(Role::Identity);
                follow.run(&received);
            })?;
        Ok(Identities {
            inputs,
            board,
            thread: Some(thread),
        })
    }

    /// Tells the thread something.
    pub fn tell(&self, input: Input) {
        // An error says that it has ended, which is logged as a panic.
        let _ = self.inputs.send(input);
    }

    /// For those who have something to tell.
    pub fn inputs(&self) -> Sender<Input> {
        self.inputs.clone()
    }

    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Ends the thread. Nothing is published afterwards.
    pub fn stop(&mut self) {
        self.tell(Input::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Follow {
    registry: Registry,
    config: config::Identity,
    inside: Option<Inside>,
    sinks: Vec<Arc<dyn Sink>>,
    board: Arc<Board>,
    inputs: Sender<Input>,
    runtime: Handle,
    /// Dropping it ends the watch.
    watcher: Option<RecommendedWatcher>,
    /// Interfaces with nothing behind them yet: when they are read again, and after which time.
    young: BTreeMap<u32, (Instant, Duration)>,
    /// Files that are no results.
    ignored: HashMap<String, Ignored>,
    /// Why sources cannot be read.
    errors: BTreeMap<IdentitySource, String>,
    /// Why changes of files are not noticed.
    watch_error: Option<String>,
    read_error: Option<String>,
    /// The static file as it was read last.
    file_seen: Option<Vec<u8>>,
}

/// What is to be read again.
#[derive(Default)]
struct Due {
    interfaces: BTreeSet<u32>,
    /// Of which nobody is known.
    unknown: bool,
    all: bool,
}

impl Follow {
    fn run(mut self, received: &Receiver<Input>) {
        let mut round = Instant::now() + ROUND;
        let mut scan = Instant::now() + SCAN;
        loop {
            let next = self
                .young
                .values()
                .map(|(at, _)| *at)
                .fold(round, Instant::min);
            let wait = next.saturating_duration_since(Instant::now());
            let first = match received.recv_timeout(wait) {
                Ok(input) => Some(input),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut due = Due::default();
            for input in first.into_iter().chain(received.try_iter().take(BATCH)) {
                if matches!(input, Input::Stop) {
                    return;
                }
                self.take(input, &mut due);
            }
            let now = Instant::now();
            if now >= round {
                due.all = true;
                // A folder that went at the wrong moment.
                if self.is_blind() {
                    self.watch();
                }
                round = now + ROUND;
            }
            if now >= scan {
                // A change of a file of which nothing was said.
                self.scan();
                scan = now + SCAN;
            }
            self.grow(now, &mut due);
            self.read(due);
            for (index, who) in self.registry.settle(SystemTime::now()) {
                tracing::debug!(index, ?who, "identity");
                for sink in &self.sinks {
                    sink.publish(index, who.clone());
                }
            }
            self.board
                .set_sources(self.status(), self.read_error.clone());
        }
    }

    fn is_on(&self) -> bool {
        !self.config.sources.is_empty()
    }

    fn has(&self, source: IdentitySource) -> bool {
        self.config.sources.contains(&source)
    }

    fn take(&mut self, input: Input, due: &mut Due) {
        match input {
            Input::Links(events) => {
                for event in events {
                    self.link(event, due);
                }
            }
            Input::Configure(config) => {
                self.configure(config);
                due.all = true;
            }
            Input::Pods(report) => {
                self.errors.remove(&IdentitySource::Kubernetes);
                self.registry.pods(report);
                due.unknown = true;
            }
            Input::Api(error) => match error {
                Some(error) => {
                    self.errors.insert(IdentitySource::Kubernetes, error);
                }
                None => {
                    self.errors.remove(&IdentitySource::Kubernetes);
                }
            },
            Input::Paths(paths) => self.paths(&paths, due),
            Input::Rescan => {
                self.watch();
                due.all = true;
            }
            Input::Stop => {}
        }
    }

    fn link(&mut self, event: Event, due: &mut Due) {
        match event {
            Event::Appeared(interface) => {
                self.registry.appeared(interface.index, &interface.name);
                let first = (Instant::now() + FIRST_LOOK, FIRST_LOOK);
                self.young.insert(interface.index, first);
                due.interfaces.insert(interface.index);
            }
            Event::Renamed(interface) => {
                self.registry.renamed(interface.index, &interface.name);
                due.interfaces.insert(interface.index);
            }
            Event::Vanished(index) => {
                self.registry.vanished(index);
                self.young.remove(&index);
                for sink in &self.sinks {
                    sink.gone(index);
                }
            }
        }
    }

    /// Has young interfaces read when it is time.
    fn grow(&mut self, now: Instant, due: &mut Due) {
        let registry = &self.registry;
        let is_on = !self.config.sources.is_empty();
        self.young.retain(|index, (at, delay)| {
            if !is_on || !registry.is_empty(*index) || *delay > ROUND {
                return false;
            }
            if now >= *at {
                due.interfaces.insert(*index);
                *delay *= 2;
                *at = now + *delay;
            }
            true
        });
    }

    fn read(&mut self, due: Due) {
        if !self.is_on() {
            return;
        }
        let mut indexes = due.interfaces;
        if due.all {
            indexes.extend(self.registry.indexes());
        } else if due.unknown {
            indexes.extend(self.registry.unknown());
        }
        if indexes.is_empty() {
            return;
        }
        let result = self.read_interfaces(&indexes);
        if let Err(error) = &result {
            let text = format!("cannot read interfaces over rtnetlink: {error}");
            if self.read_error.as_ref() != Some(&text) {
                tracing::warn!("{text}");
            }
            self.read_error = Some(text);
        } else {
            self.read_error = None;
        }
    }

    /// An interface that cannot be read keeps no other one from being read. Returns the first error.
    fn read_interfaces(&mut self, indexes: &BTreeSet<u32>) -> io::Result<()> {
        let mut failed = Vec::new();
        for index in indexes {
            let Some(ticket) = self.registry.ticket(*index) else {
                continue;
            };
            match self.inside().and_then(|inside| inside.look(*index)) {
                Ok(look) => {
                    self.registry.looked(ticket, look);
                }
                Err(error) => {
                    // A socket that is out of step is no use.
                    self.inside = None;
                    failed.push(error);
                    if failed.len() == MOST_ERRORS {
                        break;
                    }
                }
            }
        }
        let moment = self.registry.moment();
        let addresses = self.registry.addresses();
        match self.inside().and_then(|inside| inside.routes(&addresses)) {
            Ok(routes) => {
                self.registry.routed(moment, routes);
            }
            Err(error) => {
                self.inside = None;
                failed.push(error);
            }
        }
        failed.into_iter().next().map_or(Ok(()), Err)
    }

    fn inside(&mut self) -> io::Result<&Inside> {
        match &mut self.inside {
            Some(inside) => Ok(inside),
            none => Ok(none.insert(Inside::open()?)),
        }
    }

    fn configure(&mut self, config: config::Identity) {
        self.registry.select(config.sources.clone());
        let is_same = config == self.config && self.watcher.is_some();
        self.config = config;
        if is_same {
            return;
        }
        self.errors.clear();
        self.file_seen = None;
        if !self.has(IdentitySource::File) {
            self.registry.entries(Vec::new());
        }
        if !self.has(IdentitySource::Cni) {
            self.forget_results(&BTreeSet::new());
        }
        if !self.has(IdentitySource::Kubernetes) {
            self.registry
                .pods(super::facts::PodReport::Listed(Vec::new()));
        }
        self.watch();
    }

    /// Whether anything is to be watched that is not.
    fn is_blind(&self) -> bool {
        let files = [IdentitySource::Cni, IdentitySource::File];
        self.watcher.is_none() && files.iter().any(|source| self.has(*source))
    }

    /// Watches the folders that there are, and reads what is in them.
    fn watch(&mut self) {
        self.watcher = None;
        self.watch_error = None;
        let mut folders = BTreeSet::new();
        if self.has(IdentitySource::Cni) {
            folders.insert(existing(&self.config.cni_results).to_owned());
        }
        if let Some(file) = self.config.file.as_deref()
            && self.has(IdentitySource::File)
        {
            folders.insert(existing(file.parent().unwrap_or(file)).to_owned());
        }
        if !folders.is_empty() {
            match self.start_watcher(folders.clone()) {
                Ok(watcher) => self.watcher = Some(watcher),
                Err(error) => {
                    tracing::debug!(%error, "cannot watch the sources of identity for changes");
                    self.watch_error = Some(format!("cannot be watched for changes: {error}"));
                }
            }
        }
        self.scan();
        self.read_file();
        // Made since: nothing says so any more.
        let cni = &self.config.cni_results;
        if self.has(IdentitySource::Cni)
            && self.watcher.is_some()
            && !folders.contains(existing(cni))
        {
            let _ = self.inputs.send(Input::Rescan);
        }
    }

    /// The watcher has a thread of its own, which has the capabilities of the one that starts it: of a worker, none.
    fn start_watcher(&self, folders: BTreeSet<PathBuf>) -> notify::Result<RecommendedWatcher> {
        let inputs = self.inputs.clone();
        let (done, started) = channel();
        let start = move || {
            let mut watcher = notify::recommended_watcher(move |event| {
                if let Some(input) = input_of(event) {
                    let _ = inputs.send(input);
                }
            })?;
            for folder in &folders {
                watcher.watch(folder, RecursiveMode::NonRecursive)?;
            }
            Ok(watcher)
        };
        self.runtime.spawn_blocking(move || {
            // The caller waits for it.
            let _ = done.send(start());
        });
        let ended = |_| Err(notify::Error::generic("gregor ends"));
        started.recv().unwrap_or_else(ended)
    }

    fn paths(&mut self, paths: &[PathBuf], due: &mut Due) {
        let results = self.config.cni_results.clone();
        let mut is_other = false;
        for path in paths {
            if path.parent() == Some(&results) {
                if let Some(name) = path.file_name() {
                    let name = name.to_string_lossy().into_owned();
                    due.interfaces.extend(self.result(&name));
                }
            } else {
                is_other = true;
            }
            // It, or what it is in, came or went.
            if self.has(IdentitySource::Cni) && results.starts_with(path) {
                self.watch();
                due.all = true;
                return;
            }
        }
        if is_other && self.read_file() {
            due.all = true;
        }
    }

    /// Reads one result; returns the interfaces that it names.
    fn result(&mut self, name: &str) -> Vec<u32> {
        if !self.has(IdentitySource::Cni) {
            return Vec::new();
        }
        let read = match folder_error(&self.config.cni_results) {
            None => cni::read(&self.config.cni_results.join(name)),
            Some(error) => {
                self.errors.insert(IdentitySource::Cni, error);
                Ok(None)
            }
        };
        self.ignored.remove(name);
        match read {
            Ok(Some(result)) => {
                let hosts = result.host.iter();
                let named = hosts.flat_map(|(host, _)| self.registry.named(host));
                let named = named.collect();
                self.registry.cni(name, Some(result));
                named
            }
            Ok(None) => {
                self.registry.cni(name, None);
                Vec::new()
            }
            Err(why) => {
                tracing::debug!(name, why = why.text(), "not a result of a pod");
                self.registry.cni(name, None);
                if self.ignored.len() < MAX_FILES {
                    self.ignored.insert(name.to_owned(), why);
                }
                Vec::new()
            }
        }
    }

    /// Reads all results.
    fn scan(&mut self) {
        if !self.has(IdentitySource::Cni) {
            return;
        }
        self.errors.remove(&IdentitySource::Cni);
        let mut found = BTreeSet::new();
        let folder = self.config.cni_results.clone();
        match fs::read_dir(&folder) {
            Ok(entries) => {
                let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
                found.extend(names.take(MAX_FILES));
            }
            // Made with the first pod.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let text = format!("{}: {error}", folder.display());
                self.errors.insert(IdentitySource::Cni, text);
            }
        }
        self.forget_results(&found);
        for name in found {
            self.result(&name);
        }
    }

    fn forget_results(&mut self, except: &BTreeSet<String>) {
        let gone: Vec<String> = self
            .registry
            .cni_files()
            .filter(|file| !except.contains(*file))
            .map(str::to_owned)
            .collect();
        for file in gone {
            self.registry.cni(&file, None);
        }
        self.ignored.retain(|file, _| except.contains(file));
    }

    /// Reads the static file; `false` where it is as before.
    fn read_file(&mut self) -> bool {
        let Some(path) = self.config.file.clone() else {
            return false;
        };
        if !self.has(IdentitySource::File) {
            return false;
        }
        let bytes = fs::read(&path).unwrap_or_default();
        if self.file_seen.as_ref() == Some(&bytes) {
            return false;
        }
        self.file_seen = Some(bytes);
        match load_pods(&path) {
            Ok(entries) => {
                tracing::info!(
                    pods = entries.len(),
                    "the static file of identities is read"
                );
                self.registry.entries(entries);
                self.errors.remove(&IdentitySource::File);
                true
            }
            Err(error) => {
                let error = error.to_string();
                tracing::error!(
                    error,
                    "the static file of identities is refused; what it said last stays in force"
                );
                self.errors.insert(IdentitySource::File, error);
                false
            }
        }
    }

    fn status(&self) -> Vec<SourceStatus> {
        let sources = self.config.sources.iter();
        let status = sources.map(|source| {
            let mut ignored: BTreeMap<Cow<'static, str>, u64> = BTreeMap::new();
            let pods = match source {
                IdentitySource::Cni => {
                    for why in self.ignored.values() {
                        *ignored.entry(why.text().into()).or_default() += 1;
                    }
                    self.registry.cni_files().count()
                }
                IdentitySource::Kubernetes => self.registry.pod_count(),
                IdentitySource::File => self.registry.entry_count(),
            };
            let blind = match source {
                IdentitySource::Kubernetes => None,
                _ => self.watch_error.as_ref(),
            };
            SourceStatus {
                source: source.as_str().to_owned(),
                pods: pods as u64,
                ignored,
                error: self.errors.get(source).or(blind).cloned(),
            }
        });
        status.collect()
    }
}

/// Why a folder's files are not to be trusted, if so.
pub fn folder_error(folder: &Path) -> Option<String> {
    let metadata = fs::metadata(folder).ok()?;
    if !metadata.is_dir() {
        return Some(format!("{} is not a folder", folder.display()));
    }
    (!cni::is_roots(&metadata))
        .then(|| format!("{} is not root's alone to write", folder.display()))
}

/// A folder, or the nearest above it that is there.
fn existing(folder: &Path) -> &Path {
    let mut above = folder.ancestors();
    above
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("/"))
}

fn input_of(event: notify::Result<notify::Event>) -> Option<Input> {
    let Ok(event) = event else {
        return Some(Input::Rescan);
    };
    if event.need_rescan() {
        return Some(Input::Rescan);
    }
    match event.kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Create(_)
        | EventKind::Modify(
            notify::event::ModifyKind::Name(_) | notify::event::ModifyKind::Metadata(_),
        )
        | EventKind::Remove(_) => Some(Input::Paths(event.paths)),
        _ => None,
    }
}
