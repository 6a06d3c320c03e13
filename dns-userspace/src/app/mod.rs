//! The life of `gregor run`: a configuration becomes programs in the kernel and a responder; shutdown drains them.
//!
//! A thread owns the programs and their places (`kernel`), another one drains the ring, the main thread follows the interfaces and
//! does the reloads, one forwards the programs' own decisions to monitors, one serves each listener.

mod attachments;
mod claims;
mod clients;
mod cluster;
mod denied;
mod follow;
mod identity;
mod kept;
mod kernel;
mod learn;
pub mod load;
mod owner;
mod panics;
mod reload;
mod respond;
mod ring;
mod select;
pub mod settings;
mod shutdown;
mod standby;
pub mod state;
mod tcp;
mod watch;

use std::{io, path::PathBuf, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, bail};
use sd_notify::NotifyState;
use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::{oneshot, watch as latest},
    task::{JoinHandle, JoinSet},
    time::Instant,
};

use self::{
    claims::{Claims, Presence},
    clients::Clients,
    cluster::Cluster,
    identity::Identity,
    kept::Kept,
    kernel::{End, Kernel},
    learn::Learner,
    owner::Owner,
    respond::Respond,
    select::Selecting,
    settings::Settings,
    shutdown::{Shutdown, Trigger},
    state::State,
    tcp::Tcp,
    watch::{Cause, Reloads},
};
use crate::{
    claims::Snapshot,
    datapath::{
        Attempt, Base, Claim, Datapath, Decisions, FilterChanges, HEARTBEAT_VALID, Heartbeat,
        ProgramLog, Ring, State as Pins, one_line, trim_heap,
    },
    discover::{Event, Links},
    monitor::Hub,
    nameservers::Source,
    observe::{self, ConfigStatus},
    privileges::{Role, restrict_thread},
    rules::selector::Labelled,
    sources::{Reporter, SharedServices},
    tcp::Steering,
};

/// How often interfaces that could not be attached are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// An agent that changes filters makes several changes in a row; they are handled together.
const FILTERS_SETTLE: Duration = Duration::from_millis(20);
/// How long a shutdown waits for the answers that pods wait for.
const DRAIN: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// Globs that take the place of `[intercept] interfaces`.
    pub interfaces: Vec<String>,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Directory of bpffs for what outlives the process.
    pub state: PathBuf,
    /// Take over from a running gregor once it ends, and leave everything to a successor at the end.
    pub handover: bool,
    /// Load programs that log what they decide.
    pub debug_bpf: bool,
    /// How long the kernel may take to load them.
    pub load_timeout: Duration,
    /// Of threads that handle queries.
    pub worker: Role,
}

/// Runs until SIGTERM or SIGINT, or until an essential part fails.
pub async fn run(options: Options) -> anyhow::Result<()> {
    panics::install();
    let (trigger, shutdown) = shutdown::channel();
    stop_on_signals(trigger)?;
    // First: nothing is loaded or attached beside another gregor.
    let mut owner = if options.handover {
        Owner::successor(&options.control)
    } else {
        Owner::claim(&options.control)?
    };
    let pins = Pins::open(&options.state)?;
    let kept = Kept::new(Some(pins.clone()), &options.control);
    let learner = Learner::new(&options.config, kept.clone());
    let selecting = Selecting::new(&options.config, kept.clone());
    let mut stopped = shutdown.clone();
    tokio::select! {
        started = App::start(&options, &mut owner, (pins, kept), (learner, selecting), shutdown) => match started {
            Ok(app) => app.run().await,
            Err(error) => Err(error),
        },
        // The kernel may take its time to load the programs, and a predecessor to end.
        () = stopped.requested() => {
            tracing::info!("stopped before it had started");
            Ok(())
        }
    }
}

struct App {
    options: Options,
    settings: Settings,
    state: Arc<State>,
    kernel: Kernel,
    respond: Arc<Respond>,
    cluster: Cluster,
    clients: Arc<Clients>,
    identity: Identity,
    claims: Claims,
    tcp: Arc<Tcp>,
    ring: RingTask,
    links: Links,
    /// `None` where the kernel does not announce them: then the retry finds out.
    filters: Option<FilterChanges>,
    reloads: Reloads,
    learner: Learner,
    selecting: Selecting,
    shutdown: Shutdown,
    /// The maps, for later programs.
    base: Base,
    claim: Claim,
    pins: Pins,
    kept: Kept,
    /// Why nothing is pinned, if so.
    pins_error: Option<String>,
    logs: Logs,
    /// What the last reload was of.
    loading: Of,
    /// The reload in progress.
    pending: Option<oneshot::Receiver<anyhow::Result<Prepared>>>,
    /// Whether there was a cause for another one meanwhile.
    again: bool,
}

/// A configuration with its program, loaded and attached nowhere.
struct Prepared {
    settings: Settings,
    datapath: Datapath,
    of: Of,
}

/// What is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Of {
    /// The configuration's file.
    File,
    /// What tenants claim, for the configuration in force.
    Claims,
}

impl App {
    async fn start(
        options: &Options,
        owner: &mut Owner,
        (pins, kept): (Pins, Kept),
        (mut learner, mut selecting): (Learner, Selecting),
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let claim = match pins.try_claim()? {
            Some(claim) => {
                let learnt = learner.learnt();
                let waits =
                    |error: &_| standby::without_servers(options, owner, &shutdown, &learnt, error);
                learner.first(learn::GRACE, waits).await?;
                selecting.first(learn::GRACE).await;
                claim
            }
            None if options.handover => {
                let followed = (&mut learner, &mut selecting);
                standby::wait(options, owner, &pins, followed, &shutdown).await?
            }
            None => bail!(crate::datapath::StateError::Held(options.state.clone())),
        };
        let is_fresh = pins.is_empty();
        let started = {
            let followed = (learner, selecting);
            let left = (&pins, kept);
            Self::start_as_owner(options, owner, left, claim, followed, shutdown).await
        };
        if started.is_err() && is_fresh {
            pins.remove();
        }
        started
    }

    async fn start_as_owner(
        options: &Options,
        owner: &mut Owner,
        (pins, kept): (&Pins, Kept),
        claim: Claim,
        (mut learner, mut selecting): (Learner, Selecting),
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        // Before the first load, so that no change falls in between.
        let reloads = Reloads::watch(&options.config)
            .await
            .context("cannot listen for SIGHUP")?;
        let no_claims = Snapshot::default();
        let base = Base::pinned(pins);
        let Prepared {
            mut settings,
            mut datapath,
            ..
        } = {
            let known = (learner.take(&[]), selecting.take());
            prepare(options.clone(), base, known, no_claims)?.await??
        };
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let pages = if options.handover {
            None
        } else {
            Some(observe::bind_pages(settings.listen).await?)
        };
        let links = Links::open(settings.selection.clone())?;
        let hub = Arc::new(Hub::default());
        let steering = Arc::new(Steering::new(settings.servers.clone()));
        let services = Arc::new(SharedServices::new(
            settings.cluster_domain.clone(),
            settings.selectors(),
        ));
        let (reporter, notes) = Reporter::new(services);
        let answers = datapath.shared().answers().clone();
        let respond = Respond::new(
            &settings,
            steering.clone(),
            hub.clone(),
            reporter.clone(),
            answers.clone(),
        )?;
        let tcp = Tcp::new(
            &settings,
            steering,
            respond.clone(),
            datapath.shared().clone(),
        )
        .await?;
        tcp.prepare(&settings, &mut datapath)?;

        tcp.add_program(&settings, &datapath);
        let base = datapath.base();
        let readers = Readers::take(&mut datapath)?;
        let mut logs = Logs::default();
        logs.follow(datapath.log()?);
        let clients = Clients::new(datapath.shared());
        let presence = Arc::new(Presence::default());
        if settings.platform.is_some() {
            clients.hold();
        }
        let mut claims = Claims::new(reporter.services().clone(), presence.clone(), kept.clone());
        claims.follow(&settings);
        let cluster = Cluster::start(&settings, reporter, notes, respond.clone(), answers.clone());
        let mut identity = Identity::start(&settings, vec![clients.clone(), presence.clone()])
            .context("cannot start a thread")?;
        if settings.platform.is_some() {
            identity
                .settle(&settings, |index| presence.is_known(index))
                .await;
            if settings.watches_claims() && !cluster.is_watching() {
                tracing::warn!("Services are not watched: what tenants claim is unknown");
            } else {
                claims.known().await;
            }
            let snapshot = claims.snapshot();
            claims.keep(&snapshot);
            let prepared = prepare_claims(options, base.clone(), settings.clone(), snapshot)?;
            let with_claims = prepared.await?.and_then(|prepared| {
                let Prepared {
                    settings,
                    datapath: mut next,
                    ..
                } = prepared;
                tcp.prepare(&settings, &mut next)?;
                tcp.add_program(&settings, &next);
                logs.follow(next.log()?);
                // Nothing is attached yet.
                next.adopt(&mut datapath, |_| true)
                    .map_err(|error| anyhow::anyhow!(one_line(&error)))?;
                Ok((settings, next))
            });
            match with_claims {
                Ok(with_claims) => (settings, datapath) = with_claims,
                Err(error) => claims_refused(&error),
            }
            clients.release();
        } else {
            identity
                .settle(&settings, |index| clients.is_known(index))
                .await;
        }
        // Before the programs hand queries over, not when the task is first scheduled: TCP connections for the responder would
        // reach the existing cache meanwhile.
        readers.heartbeat.renew(HEARTBEAT_VALID);
        let (kernel, start) = Kernel::start(datapath).context("cannot start a thread")?;
        let state = State::new(
            kernel.board().clone(),
            ConfigStatus {
                path: options.config.display().to_string(),
                loads: 1,
                failures: 0,
                error: None,
                warnings: settings.warnings.clone(),
            },
            settings.view(),
            respond.clone(),
            tcp.clone(),
            hub,
            links.errors(),
            learner.learnt(),
        );
        let state = state
            .with_identities(Arc::clone(identity.board()))
            .with_selected(selecting.board());
        let state = Arc::new(state);
        state.claimed(settings.claims_status());
        let ring = RingTask::spawn(readers, &respond, &state, options.worker)
            .context("cannot start a thread")?;
        // The sockets are open.
        restrict_thread(Role::Main);
        let (steers, steered) = start.await.context("the kernel thread ended early")?;
        if settings.identity.sources.is_empty() {
            clients.forget_all();
        }
        let directories = load::log_directories(&options.control);
        tcp.attached(&settings, steered, steers, &directories);

        let control = owner.bind()?;
        serve(
            "control socket",
            control,
            observe::control(state.clone()),
            &shutdown,
        );
        let router = observe::pages(state.clone());
        match pages {
            Some(pages) => serve("metrics", pages, router, &shutdown),
            None => {
                tokio::spawn(serve_when_free(settings.listen, router, shutdown.clone()));
            }
        }
        tracing::info!(
            config = %options.config.display(),
            rules = settings.rules.rules().len(),
            metrics = %settings.listen,
            "started"
        );
        Ok(Self {
            options: options.clone(),
            settings,
            state,
            kernel,
            respond,
            cluster,
            clients,
            identity,
            claims,
            tcp,
            ring,
            links,
            filters: FilterChanges::open().ok(),
            reloads,
            learner,
            selecting,
            shutdown,
            base,
            claim,
            pins: pins.clone(),
            kept,
            pins_error: None,
            logs,
            loading: Of::File,
            pending: None,
            again: false,
        })
    }

    async fn run(mut self) -> anyhow::Result<()> {
        let result = self.until_stopped().await;
        self.stop().await;
        result
    }

    async fn until_stopped(&mut self) -> anyhow::Result<()> {
        let mut retry = tokio::time::interval(RETRY);
        retry.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_announced = false;
        // When filters changed that were not looked at since.
        let mut noticed = None;
        loop {
            if !is_announced && self.state.is_ready() {
                is_announced = true;
                notify(&[NotifyState::Ready]);
                tracing::info!(interfaces = self.state.kernel().interfaces().len(), "ready");
            }
            tokio::select! {
                () = self.shutdown.requested() => return Ok(()),
                batch = self.links.next() => {
                    self.identity.links(&batch);
                    for event in &batch {
                        if let Event::Vanished(index) = event {
                            self.respond.release_interface(*index);
                        }
                    }
                    self.kernel.links(batch);
                }
                changed = filters_changed(&self.filters) => match changed {
                    Ok(()) => {
                        noticed.get_or_insert_with(Instant::now);
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot follow the changes of filters; looks every 5 s");
                        self.filters = None;
                    }
                },
                () = settled(noticed), if noticed.is_some() => {
                    noticed = None;
                    self.kernel.filters();
                }
                _ = retry.tick() => {
                    self.look_after_pins();
                    self.kernel.retry();
                    self.restore_return_path();
                    self.cluster.report(&self.settings);
                }
                // Attaching and the first turn of the ring come on their own: look again until then.
                () = tokio::time::sleep(Duration::from_millis(10)), if !is_announced => {}
                cause = self.reloads.next() => self.reload(cause),
                () = self.learner.changed() => self.reload(Cause::Servers),
                () = self.selecting.changed() => self.reload(Cause::Namespaces),
                () = self.claims.changed(), if self.settings.platform.is_some() => self.load_claims(),
                prepared = finished(&mut self.pending), if self.pending.is_some() => {
                    self.pending = None;
                    self.finish_reload(prepared).await;
                    if std::mem::take(&mut self.again) {
                        self.reload(Cause::Change);
                    }
                }
                result = &mut self.ring.task => {
                    return match result {
                        Ok(Ok(())) => bail!("the ring loop ended without a shutdown"),
                        Ok(Err(error)) => Err(error).context("cannot read the ring buffer"),
                        Err(_) => bail!("the ring loop panicked"),
                    };
                }
            }
        }
    }

    /// Pins everything again where another bpffs was mounted or the directory was removed: otherwise nothing would outlive this
    /// process.
    fn look_after_pins(&mut self) {
        if self.pins.is_claimed_by(&self.claim) {
            self.pins_error = None;
            return;
        }
        let claimed = Pins::open(&self.options.state).and_then(|pins| match pins.try_claim()? {
            Some(claim) => Ok(claim),
            None => Err(crate::datapath::StateError::Held(
                self.options.state.clone(),
            )),
        });
        match claimed {
            Ok(claim) => {
                tracing::warn!(
                    state = %self.options.state.display(),
                    "what was pinned is gone: bpffs was mounted anew, or another process removed the directory; pinning again"
                );
                self.claim = claim;
                self.kernel.pin();
                self.kept.pin_again();
            }
            Err(error) => {
                let error = error.to_string();
                // Logged once, not at every retry.
                if self.pins_error.as_ref() != Some(&error) {
                    tracing::error!(
                        error,
                        "what was pinned is gone, and nothing outlives this process"
                    );
                    self.pins_error = Some(error);
                }
            }
        }
    }

    /// Not after `detach --all`, which removes the device too.
    fn restore_return_path(&self) {
        let (respond, pins) = (Arc::clone(&self.respond), self.pins.clone());
        let result = privileged(move || {
            if !pins.is_dismissed() {
                respond.restore_return_path();
            }
        });
        if let Err(error) = result {
            tracing::warn!(%error, "cannot look after the device by which queries pass");
        }
    }

    /// Leaves the programs to a successor, or detaches them once the ring is drained; then the pods that already asked get
    /// their answers.
    async fn stop(mut self) {
        notify(&[NotifyState::Stopping]);
        self.state.stopping();
        let end = if self.options.handover {
            tracing::info!("stopping; the programs stay for a successor");
            End::Leave
        } else {
            tracing::info!("stopping");
            End::Detach
        };
        self.cluster.stop();
        self.identity.stop();
        // What waits in the ring is this process's own where its successor cannot read it.
        let ring_end = if self.pins.successors_read_records() {
            end
        } else {
            End::Detach
        };
        self.ring.finish(ring_end).await;
        self.kernel.end(end).await;
        // From here on a successor may write the tables.
        drop(self.claim);
        let drained = async {
            self.respond.idle().await;
            self.tcp.stop().await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("gave up waiting for answers in flight");
        }
        self.respond.close(end);
        self.logs.0.shutdown().await;
        tracing::info!("stopped");
    }
}

/// The maps that userspace reads, or writes for the programs.
struct Readers {
    /// Of the thread that drains the ring, which is registered with it.
    runtime: Runtime,
    ring: Ring,
    heartbeat: Arc<Heartbeat>,
    decisions: Decisions,
}

impl Readers {
    fn take(datapath: &mut Datapath) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot make a runtime")?;
        let ring = {
            let _guard = runtime.enter();
            datapath.ring()?
        };
        Ok(Self {
            runtime,
            ring,
            heartbeat: datapath.heartbeat(),
            decisions: datapath.decisions()?,
        })
    }
}

/// The thread that drains the ring, and the task that forwards the programs' decisions. A thread of its own: however busy the
/// others are, the ring is drained and its deadline renewed.
struct RingTask {
    /// Its result; an error means that it panicked.
    task: oneshot::Receiver<io::Result<()>>,
    finish: latest::Sender<Option<End>>,
    /// Without it only monitors miss something.
    following: JoinHandle<()>,
}

impl RingTask {
    /// # Errors
    /// When the thread cannot be started.
    fn spawn(
        readers: Readers,
        respond: &Arc<Respond>,
        state: &Arc<State>,
        role: Role,
    ) -> io::Result<Self> {
        let Readers {
            runtime,
            ring,
            heartbeat,
            decisions,
        } = readers;
        let (finish, finished) = latest::channel(None);
        let (done, task) = oneshot::channel();
        let respond = Arc::clone(respond);
        let pulse = Arc::clone(&state.pulse);
        // Look-ups are tasks of this runtime.
        let tasks = tokio::runtime::Handle::current();
        thread::Builder::new()
            .name("ring".to_owned())
            .spawn(move || {
                restrict_thread(role);
                let handle = |query| {
                    let _guard = tasks.enter();
                    respond.handle(query);
                };
                let drained =
                    runtime.block_on(ring::drain(ring, heartbeat, handle, pulse, finished));
                // The process may end without it.
                let _ = done.send(drained);
            })?;
        let following = follow::follow(decisions, Arc::clone(&state.hub));
        let following = tokio::spawn(async {
            if let Err(error) = following.await {
                tracing::error!(%error, "cannot read the events of the program; `gregor monitor` shows the responder only");
            }
        });
        Ok(Self {
            task,
            finish,
            following,
        })
    }

    /// Ends the loop: what is left in the ring is drained, or left to a successor.
    async fn finish(&mut self, end: End) {
        self.finish.send_replace(Some(end));
        self.following.abort();
        if self.task.is_terminated() {
            return;
        }
        match (&mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot drain the ring buffer"),
            Err(error) => tracing::error!(%error, "the ring loop ended early"),
        }
    }
}

/// The lines of programs that log, each program's by a task of its own.
#[derive(Default)]
struct Logs(JoinSet<()>);

impl Logs {
    fn follow(&mut self, log: Option<ProgramLog>) {
        let Some(log) = log else { return };
        self.0.spawn(async {
            if let Err(error) = log.run().await {
                tracing::error!(%error, "cannot read the program's log");
            }
        });
    }
}

/// Reads the configuration, compiles its rules and loads its program, away from the serving threads.
fn prepare(
    options: Options,
    base: Base,
    (learnt, labelled): (Vec<Source>, Labelled),
    claims: Snapshot,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<Prepared>>> {
    privileged(move || {
        let settings = Settings::load(&options.config, &options.interfaces, &learnt, &labelled)?;
        tracing::debug!("the configuration is read");
        load_programs(&options, base, settings.with_claims(&claims), Of::File)
    })
    .context("cannot start a thread")
}

/// The same for the configuration in force with what tenants claim now.
fn prepare_claims(
    options: &Options,
    base: Base,
    settings: Settings,
    claims: Snapshot,
) -> anyhow::Result<oneshot::Receiver<anyhow::Result<Prepared>>> {
    let options = options.clone();
    privileged(move || load_programs(&options, base, settings.with_claims(&claims), Of::Claims))
        .context("cannot start a thread")
}

/// Programs without other claims than before are better than none.
fn claims_refused(error: &anyhow::Error) {
    let error = format!("{error:#}");
    tracing::error!(error, "the names that tenants claim now are not loaded");
}

fn load_programs(
    options: &Options,
    base: Base,
    settings: Settings,
    of: Of,
) -> anyhow::Result<Prepared> {
    let attempt = Attempt {
        base,
        logging: options.debug_bpf,
        limit: options.load_timeout,
    };
    let datapath = load::load(
        &settings.load_options(),
        &attempt,
        &load::log_directories(&options.control),
        &mut |stage, took| tracing::info!("{}", load::progress_line(stage, took)),
    )
    .context("cannot load")?;
    tracing::debug!("the programs are loaded");
    trim_heap();
    Ok(Prepared {
        settings,
        datapath,
        of,
    })
}

/// Does something on a thread with the capabilities of this one, the main thread, which those of the runtime do not have. An
/// error of the receiver means that it panicked.
fn privileged<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (sender, receiver) = oneshot::channel();
    thread::Builder::new()
        .name("privileged".to_owned())
        .spawn(move || {
            // The caller may have given up.
            let _ = sender.send(work());
        })?;
    Ok(receiver)
}

/// How often an address that a predecessor still has is tried.
const BIND_RETRY: Duration = Duration::from_millis(200);

/// Serves the pages once their address is free: a predecessor may have it.
async fn serve_when_free(
    address: std::net::SocketAddr,
    router: axum::Router,
    mut shutdown: Shutdown,
) {
    let mut is_first = true;
    loop {
        match observe::bind_pages(address).await {
            Ok(pages) => return serve("metrics", pages, router, &shutdown),
            Err(error) if is_first => {
                tracing::warn!("{error}; will try again until it is free");
                is_first = false;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.requested() => return,
            () = tokio::time::sleep(BIND_RETRY) => {}
        }
    }
}

async fn finished<T>(
    pending: &mut Option<oneshot::Receiver<T>>,
) -> Result<T, oneshot::error::RecvError> {
    match pending {
        Some(result) => result.await,
        None => std::future::pending().await,
    }
}

async fn filters_changed(changes: &Option<FilterChanges>) -> io::Result<()> {
    match changes {
        Some(changes) => changes.next().await,
        None => std::future::pending().await,
    }
}

/// Ready some time after a change, so that those that come in a row are one.
async fn settled(noticed: Option<Instant>) {
    if let Some(noticed) = noticed {
        tokio::time::sleep_until(noticed + FILTERS_SETTLE).await;
    }
}

fn serve<L>(what: &'static str, listener: L, router: axum::Router, shutdown: &Shutdown)
where
    L: axum::serve::Listener,
    L::Addr: std::fmt::Debug,
{
    let mut shutdown = shutdown.clone();
    tokio::spawn(async move {
        let stop = async move { shutdown.requested().await };
        if let Err(error) = observe::serve(listener, router, stop).await {
            tracing::error!(%error, "the {what} listener failed");
        }
    });
}

/// The first signal asks for an orderly end; the second does not wait for it.
fn stop_on_signals(trigger: Trigger) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if first {
                trigger.stop();
            } else {
                tracing::warn!("stopped at once; queries in flight are lost");
                std::process::exit(1);
            }
        }
    });
    Ok(())
}

fn notify(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
