//! A successor waits for its predecessor to end: everything that may fail is tried before, and it says that it is ready.

use std::{sync::Arc, time::Duration};

use super::{
    Options, Owner,
    learn::{self, Learner, Learnt},
    prepare,
    select::Selecting,
    serve,
    shutdown::Shutdown,
};
use crate::{
    claims::Snapshot,
    datapath::{Base, Claim, State as Pins},
    monitor::{Hub, Subscription},
    nameservers::Unknown,
    observe::{self, ConfigStatus, Readiness, Source, Status},
};

/// How often the lock is tried.
const POLL: Duration = Duration::from_millis(5);

/// Status and monitor while another gregor serves, or while it is not known what to intercept.
struct Standby {
    config: ConfigStatus,
    /// Whether it could take over.
    is_prepared: bool,
    learnt: Learnt,
    hub: Arc<Hub>,
}

impl Source for Standby {
    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            readiness: Readiness {
                loaded: self.is_prepared,
                standby: self.is_prepared,
                ..Readiness::default()
            },
            config: self.config.clone(),
            learnt: self.learnt.sources(),
            ..Status::default()
        }
    }

    fn monitor(&self) -> Subscription {
        self.hub.subscribe()
    }
}

/// Returns with the lock once the predecessor has released it.
///
/// # Errors
/// When this one could not take over: the configuration is wrong, or the kernel refuses its programs.
pub(super) async fn wait(
    options: &Options,
    owner: &mut Owner,
    pins: &Pins,
    (learner, selecting): (&mut Learner, &mut Selecting),
    shutdown: &Shutdown,
) -> anyhow::Result<Claim> {
    let learnt = learner.learnt();
    let waits = |error: &_| without_servers(options, owner, shutdown, &learnt, error);
    learner.first(learn::LONG_GRACE, waits).await?;
    selecting.first(learn::LONG_GRACE).await;
    // With maps of its own: those that are pinned are the predecessor's.
    let known = (learner.known(), selecting.known());
    let no_claims = Snapshot::default();
    let tried = prepare(options.clone(), Base::default(), known, no_claims)?.await??;
    drop(tried.datapath);
    let standby = Standby {
        config: config(options),
        is_prepared: true,
        learnt: learner.learnt(),
        hub: Arc::default(),
    };
    let stop = listen(options, owner, shutdown, standby)?;
    tracing::info!(
        state = %options.state.display(),
        "ready to take over; another gregor serves until it ends"
    );
    let claim = loop {
        if let Some(claim) = pins.try_claim()? {
            break claim;
        }
        tokio::time::sleep(POLL).await;
    };
    tracing::info!("taking over");
    drop(stop);
    Ok(claim)
}

/// Serves the control socket while no server is learnt, until what it returns is dropped.
pub(super) fn without_servers(
    options: &Options,
    owner: &mut Owner,
    shutdown: &Shutdown,
    learnt: &Learnt,
    error: &Unknown,
) -> anyhow::Result<Option<super::Trigger>> {
    let standby = Standby {
        config: ConfigStatus {
            error: Some(error.to_string()),
            failures: 1,
            ..config(options)
        },
        is_prepared: false,
        learnt: learnt.clone(),
        hub: Arc::default(),
    };
    listen(options, owner, shutdown, standby)
}

fn config(options: &Options) -> ConfigStatus {
    ConfigStatus {
        path: options.config.display().to_string(),
        ..ConfigStatus::default()
    }
}

/// Serves the control socket until the trigger is dropped. A predecessor that has this very socket keeps it until it ends.
fn listen(
    options: &Options,
    owner: &mut Owner,
    shutdown: &Shutdown,
    standby: Standby,
) -> anyhow::Result<Option<super::Trigger>> {
    let is_anothers =
        !owner.has_bound() && std::os::unix::net::UnixStream::connect(&options.control).is_ok();
    if is_anothers {
        return Ok(None);
    }
    let (trigger, stop) = super::shutdown::channel();
    let mut all = shutdown.clone();
    let (both, either) = super::shutdown::channel();
    tokio::spawn(async move {
        let mut stop = stop;
        tokio::select! {
            () = stop.requested() => {}
            () = all.requested() => {}
        }
        drop(both);
    });
    serve(
        "control socket",
        owner.bind()?,
        observe::control(Arc::new(standby)),
        &either,
    );
    Ok(Some(trigger))
}
