//! A reload: everything that may fail is done before anything takes effect, and the last good configuration stays in force when
//! it fails.

use sd_notify::NotifyState;
use tokio::sync::oneshot::error::RecvError;

use super::{App, Prepared, load, notify, prepare, respond, settings::Settings, watch::Cause};
use crate::datapath::{Datapath, ProgramLog, one_line};

/// A configuration that is ready to be attached.
struct Ready {
    settings: Settings,
    datapath: Datapath,
    log: Option<ProgramLog>,
    /// `None` when the responder in force stays.
    responder: Option<respond::Prepared>,
}

impl App {
    pub(super) fn reload(&mut self, cause: Cause) {
        if self.pending.is_some() {
            self.again = true;
            return;
        }
        tracing::info!(?cause, "loading the configuration again");
        notify(&reloading());
        let learnt = self.learner.take(&self.settings.servers);
        let known = (learnt, self.selecting.take());
        match prepare(self.options.clone(), self.base.clone(), known) {
            Ok(pending) => self.pending = Some(pending),
            Err(error) => self.refuse(&error),
        }
    }

    /// Puts a prepared configuration in force; one that cannot be leaves the last good one running.
    pub(super) async fn finish_reload(
        &mut self,
        prepared: Result<anyhow::Result<Prepared>, RecvError>,
    ) {
        let result = match prepared
            .unwrap_or_else(|error| Err(error.into()))
            .and_then(|prepared| self.make_ready(prepared))
        {
            Ok(ready) => self.commit(ready).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => notify(&[NotifyState::Ready]),
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&self, error: &anyhow::Error) {
        let error = format!("{error:#}");
        tracing::error!(
            error,
            "the new configuration is refused; the last good one stays in force"
        );
        self.state.refused(error);
        notify(&[NotifyState::Ready]);
    }

    fn make_ready(&self, prepared: Prepared) -> anyhow::Result<Ready> {
        let Prepared {
            settings,
            mut datapath,
        } = prepared;
        self.tcp.prepare(&settings, &mut datapath)?;
        let responder = self.respond.prepare(&settings);
        let log = datapath
            .log()
            .map_err(|error| anyhow::anyhow!(one_line(&error)))?;
        Ok(Ready {
            settings,
            datapath,
            log,
            responder,
        })
    }

    /// Fails only where the program cannot be attached to the hook that the configuration names; then nothing has changed.
    async fn commit(&mut self, ready: Ready) -> anyhow::Result<()> {
        let Ready {
            settings,
            datapath,
            log,
            responder,
        } = ready;
        self.identity.reload(&settings);
        let clients = &self.clients;
        self.identity
            .settle(&settings, |index| clients.is_known(index))
            .await;
        self.tcp.add_program(&datapath);
        let replaced = self
            .kernel
            .replace(datapath, settings.selection.clone())
            .await;
        let (steers, steered) = match replaced {
            Ok(replaced) => replaced,
            Err(error) => anyhow::bail!("cannot attach: {}", one_line(&error)),
        };
        if let Some(responder) = responder {
            self.respond.commit(responder);
        }
        let directories = load::log_directories(&self.options.control);
        self.tcp.attached(&settings, steered, steers, &directories);
        self.logs.follow(log);

        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        if settings.listen != self.settings.listen {
            tracing::warn!("[metrics] listen has changed; that takes effect with a restart");
        }
        if settings.identity.sources.is_empty() {
            self.clients.forget_all();
        }
        self.cluster.reload(&settings);
        self.links.select(settings.selection.clone());
        self.state
            .loaded(settings.view(), settings.warnings.clone());
        tracing::info!(
            rules = settings.rules.rules().len(),
            "the new configuration is in force"
        );
        self.settings = settings;
        Ok(())
    }
}

fn reloading() -> Vec<NotifyState<'static>> {
    let mut states = vec![NotifyState::Reloading];
    states.extend(NotifyState::monotonic_usec_now());
    states
}
