//! A successor waits for its predecessor to end: everything that may fail is tried before, and it says that it is ready.

use std::{sync::Arc, time::Duration};

use super::{Options, Owner, prepare, serve, shutdown::Shutdown};
use crate::{
    datapath::{Base, Claim, State as Pins},
    monitor::{Hub, Subscription},
    observe::{self, ConfigStatus, Readiness, Source, Status},
};

/// How often the lock is tried.
const POLL: Duration = Duration::from_millis(5);

/// Status and monitor while another gregor serves.
struct Standby {
    config: ConfigStatus,
    hub: Arc<Hub>,
}

impl Source for Standby {
    fn status(&self) -> Status {
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            readiness: Readiness {
                loaded: true,
                standby: true,
                ..Readiness::default()
            },
            config: self.config.clone(),
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
    shutdown: &Shutdown,
) -> anyhow::Result<Claim> {
    // With maps of its own: those that are pinned are the predecessor's.
    let tried = prepare(options.clone(), Base::default())?.await??;
    drop(tried.datapath);
    // A predecessor that has this very socket keeps it until it ends.
    let is_free = std::os::unix::net::UnixStream::connect(&options.control).is_err();
    let stop = is_free
        .then(|| listen(options, owner, shutdown))
        .transpose()?;
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

/// Serves the control socket until the trigger is dropped.
fn listen(
    options: &Options,
    owner: &mut Owner,
    shutdown: &Shutdown,
) -> anyhow::Result<super::Trigger> {
    let source = Standby {
        config: ConfigStatus {
            path: options.config.display().to_string(),
            ..ConfigStatus::default()
        },
        hub: Arc::default(),
    };
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
        observe::control(Arc::new(source)),
        &either,
    );
    Ok(trigger)
}
