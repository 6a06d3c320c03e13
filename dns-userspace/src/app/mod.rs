//! The life of `gregor run`: a configuration becomes programs in the kernel and a responder; shutdown drains them.
//!
//! One task owns the interfaces and the reloads, one task per loaded program drains its ring, one more tells whoever
//! watches what that program decides by itself, one serves each listener.
//! All of them hear the same [`shutdown::Shutdown`].

mod attachments;
mod follow;
mod kernel;
pub mod load;
mod owner;
mod panics;
mod reload;
mod respond;
mod ring;
pub mod settings;
mod shutdown;
mod state;
mod tcp;
mod totals;
mod watch;

use std::{io, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, bail};
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinHandle, JoinSet},
};

use self::{
    kernel::Kernel,
    owner::Owner,
    respond::Respond,
    settings::Settings,
    shutdown::{Shutdown, Trigger},
    state::State,
    tcp::Tcp,
    watch::{Cause, Reloads},
};
use crate::{
    datapath::{
        Attempt, Datapath, DatapathError, Decisions, Heartbeat, ProgramLog, Ring, one_line,
        trim_heap,
    },
    discover::{Event, Links},
    monitor::Hub,
    observe::{self, ConfigStatus},
    tcp::Steering,
};

/// How often interfaces that could not be attached are tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long pods that already asked are waited for at shutdown.
const DRAIN: Duration = Duration::from_secs(5);

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: PathBuf,
    /// Globs that take the place of `[intercept] interfaces`.
    pub interfaces: Vec<String>,
    /// Path of the control socket.
    pub control: PathBuf,
    /// Load programs that log what they decide.
    pub debug_bpf: bool,
    /// How long the kernel may take to load them.
    pub load_timeout: Duration,
}

/// Runs until SIGTERM or SIGINT, or until something that it cannot do without fails.
pub async fn run(options: Options) -> anyhow::Result<()> {
    panics::install();
    let (trigger, shutdown) = shutdown::channel();
    stop_on_signals(trigger)?;
    // First: nothing is loaded or attached beside another gregor.
    let mut owner = Owner::claim(&options.control)?;
    let control = owner.bind()?;
    let mut stopped = shutdown.clone();
    tokio::select! {
        started = App::start(options.clone(), control, shutdown) => match started {
            Ok(app) => app.run().await,
            Err(error) => Err(error),
        },
        // The kernel may take its time to load the programs.
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
    respond: Arc<Respond>,
    tcp: Arc<Tcp>,
    ring: RingTask,
    links: Links,
    reloads: Reloads,
    shutdown: Shutdown,
    /// A reload on its way.
    pending: Option<JoinHandle<anyhow::Result<Prepared>>>,
    /// Causes that came while one was on its way.
    again: bool,
}

/// A configuration with its program, loaded and attached nowhere.
struct Prepared {
    settings: Settings,
    datapath: Datapath,
}

impl App {
    async fn start(
        options: Options,
        control: tokio::net::UnixListener,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        // Before the first load, so that no change falls in between.
        let reloads = Reloads::watch(&options.config).context("cannot listen for SIGHUP")?;
        let Prepared {
            settings,
            mut datapath,
        } = prepare(options.clone()).await??;
        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        let pages = observe::bind_pages(settings.listen).await?;
        let links = Links::open(settings.selection.clone())?;
        let hub = Arc::new(Hub::default());
        let steering = Arc::new(Steering::new(settings.servers.clone()));
        let respond = Respond::new(&settings, steering.clone(), hub.clone())?;
        let tcp = Tcp::new(&settings, steering, respond.clone()).await?;
        tcp.prepare(&settings, &mut datapath)?;

        let readers = Readers::take(&mut datapath)?;
        tcp.takes_over(&datapath);
        let steers = datapath.attach_steering(None);
        tcp.attached(
            &settings,
            &datapath,
            steers,
            &load::log_directories(&options.control),
        );
        let state = Arc::new(State::new(
            Kernel::new(datapath),
            ConfigStatus {
                path: options.config.display().to_string(),
                loads: 1,
                failures: 0,
                error: None,
                warnings: settings.warnings.clone(),
            },
            settings.told(),
            respond.clone(),
            tcp.clone(),
            hub,
            links.errors(),
        ));
        let ring = RingTask::spawn(readers, &respond, &state);

        serve(
            "control socket",
            control,
            observe::control(state.clone()),
            &shutdown,
        );
        serve("metrics", pages, observe::pages(state.clone()), &shutdown);
        tracing::info!(
            config = %options.config.display(),
            rules = settings.rules.rules().len(),
            metrics = %settings.listen,
            "started"
        );
        Ok(Self {
            options,
            settings,
            state,
            respond,
            tcp,
            ring,
            links,
            reloads,
            shutdown,
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
        let mut told_ready = false;
        let mut listed = false;
        loop {
            if !told_ready && self.state.is_ready() {
                told_ready = true;
                notify(&[NotifyState::Ready]);
                tracing::info!(
                    interfaces = self.state.kernel().attachments.status().len(),
                    "ready"
                );
            }
            tokio::select! {
                () = self.shutdown.requested() => return Ok(()),
                batch = self.links.next() => {
                    let mut kernel = self.state.kernel();
                    let (datapath, attachments) = kernel.parts();
                    for event in batch {
                        if let Event::Vanished(index) = &event {
                            self.respond.release_interface(*index);
                        }
                        attachments.apply(datapath, event);
                    }
                    drop(kernel);
                    if !listed {
                        listed = true;
                        self.state.listed();
                    }
                }
                _ = retry.tick() => {
                    let mut kernel = self.state.kernel();
                    let (datapath, attachments) = kernel.parts();
                    attachments.retry(datapath);
                    datapath.find_ways_out();
                }
                // The first turn of the ring comes on its own: look again until then.
                () = tokio::time::sleep(Duration::from_millis(50)), if !told_ready && listed => {}
                cause = self.reloads.next() => self.reload(cause),
                prepared = finished(&mut self.pending), if self.pending.is_some() => {
                    self.pending = None;
                    self.finish_reload(prepared).await;
                    if std::mem::take(&mut self.again) {
                        self.reload(Cause::Change);
                    }
                }
                result = &mut self.ring.task => {
                    return match result {
                        Ok(Ok(())) => bail!("the ring was drained to its end, which only shutdown asks for"),
                        Ok(Err(error)) => Err(error).context("cannot read the ring buffer"),
                        Err(error) => Err(error).context("the ring loop panicked"),
                    };
                }
            }
        }
    }

    /// Deadline to zero, drain, detach; then the pods that already asked get their answers.
    async fn stop(self) {
        notify(&[NotifyState::Stopping]);
        self.state.stopping();
        tracing::info!("stopping");
        self.ring.finish().await;
        self.state.kernel().detach_all();
        let drained = async {
            self.respond.idle().await;
            self.tcp.stop().await;
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            tracing::warn!("gave up waiting for answers on their way");
        }
        self.respond.close();
        tracing::info!("stopped");
    }
}

/// What userspace reads of one program, or writes for it.
struct Readers {
    ring: Ring,
    heartbeat: Heartbeat,
    decisions: Decisions,
    log: Option<ProgramLog>,
}

impl Readers {
    fn take(datapath: &mut Datapath) -> Result<Self, DatapathError> {
        Ok(Self {
            ring: datapath.ring()?,
            heartbeat: datapath.heartbeat()?,
            decisions: datapath.decisions()?,
            log: datapath.log()?,
        })
    }
}

/// The loop that drains one program's ring, and those that tell what it does.
struct RingTask {
    task: JoinHandle<io::Result<()>>,
    finish: Trigger,
    /// Nothing is lost with them but what somebody would have looked at.
    others: JoinSet<()>,
}

impl RingTask {
    fn spawn(mut readers: Readers, respond: &Arc<Respond>, state: &Arc<State>) -> Self {
        let (finish, finished) = shutdown::channel();
        let respond = Arc::clone(respond);
        let pulse = Arc::clone(&state.pulse);
        // Before the program takes over, not when the task gets its turn: TCP connections that are on their way to the
        // responder would miss it.
        if let Err(error) = readers.heartbeat.renew(ring::VALID) {
            tracing::error!(error = one_line(&error), "cannot write the deadline");
        }
        let mut others = JoinSet::new();
        let following = follow::follow(readers.decisions, Arc::clone(&state.hub));
        others.spawn(async {
            if let Err(error) = following.await {
                tracing::error!(%error, "cannot read what the program tells; `gregor monitor` shows the responder only");
            }
        });
        if let Some(log) = readers.log {
            others.spawn(async {
                if let Err(error) = log.run().await {
                    tracing::error!(%error, "cannot read the program's log");
                }
            });
        }
        Self {
            task: tokio::spawn(ring::drain(
                readers.ring,
                readers.heartbeat,
                move |query| respond.handle(query),
                pulse,
                finished,
            )),
            finish,
            others,
        }
    }

    /// Drains what is left.
    async fn finish(mut self) {
        self.finish.stop();
        if self.task.is_finished() {
            return;
        }
        match (&mut self.task).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "cannot drain the ring buffer"),
            Err(error) => tracing::error!(%error, "the ring loop ended early"),
        }
        self.others.shutdown().await;
    }
}

/// Reads the configuration, compiles its rules and loads its program, away from the serving threads.
fn prepare(options: Options) -> JoinHandle<anyhow::Result<Prepared>> {
    tokio::task::spawn_blocking(move || {
        let settings = Settings::load(&options.config, &options.interfaces)?;
        let attempt = Attempt {
            logging: options.debug_bpf,
            limit: options.load_timeout,
        };
        let datapath = load::load(
            &settings.load_options(),
            attempt,
            &load::log_directories(&options.control),
            &mut |stage, took| tracing::info!("{}", load::progress_line(stage, took)),
        )
        .context("cannot load")?;
        trim_heap();
        Ok(Prepared { settings, datapath })
    })
}

async fn finished<T>(pending: &mut Option<JoinHandle<T>>) -> Result<T, tokio::task::JoinError> {
    match pending {
        Some(handle) => handle.await,
        None => std::future::pending().await,
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
                tracing::warn!("stopped at once; queries on their way are lost");
                std::process::exit(1);
            }
        }
    });
    Ok(())
}

fn notify(states: &[NotifyState<'_>]) {
    // Without NOTIFY_SOCKET this does nothing.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "cannot tell the service manager");
    }
}
