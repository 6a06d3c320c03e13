//! A reload: everything that may fail is done before anything takes effect, and the last good configuration stays in force when
//! it fails.

use sd_notify::NotifyState;
use tokio::sync::oneshot::error::RecvError;

use super::{
    App, Of, Prepared, claims_refused, load, notify, prepare, prepare_claims, respond,
    settings::Settings, watch::Cause,
};
use crate::datapath::{Datapath, ProgramLog, one_line};

/// A configuration that is ready to be attached.
struct Ready {
    settings: Settings,
    datapath: Datapath,
    log: Option<ProgramLog>,
    /// `None` when the responder in force stays.
    responder: Option<respond::Prepared>,
    of: Of,
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
        let claims = self.claims.snapshot();
        self.claims.loads();
        self.claims.keep(&claims);
        match prepare(self.options.clone(), self.base.clone(), known, claims) {
            Ok(pending) => (self.loading, self.pending) = (Of::File, Some(pending)),
            Err(error) => self.refuse(&error),
        }
    }

    /// Loads the rules that tenants claim now, if they are others than those in force.
    pub(super) fn load_claims(&mut self) {
        if self.pending.is_some() {
            // Looked at again when that is in force.
            self.claims.notice();
            self.claims.loads();
            return;
        }
        let snapshot = self.claims.snapshot();
        if self.settings.has_rules_of(&snapshot) {
            self.state.claimed(self.settings.claims_status());
            return;
        }
        tracing::debug!("tenants claim other names");
        self.claims.loads();
        self.claims.keep(&snapshot);
        let (base, settings) = (self.base.clone(), self.settings.clone());
        match prepare_claims(&self.options, base, settings, snapshot) {
            Ok(pending) => (self.loading, self.pending) = (Of::Claims, Some(pending)),
            Err(error) => claims_refused(&error),
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
            Err(error) if self.loading == Of::Claims => claims_refused(&error),
            Ok(()) if self.loading == Of::Claims => {}
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
            of,
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
            of,
        })
    }

    /// Fails only where the program cannot be attached to the hook that the configuration names; then nothing has changed.
    async fn commit(&mut self, ready: Ready) -> anyhow::Result<()> {
        let Ready {
            settings,
            datapath,
            log,
            responder,
            of,
        } = ready;
        if of == Of::File {
            self.identity.reload(&settings);
            let clients = &self.clients;
            self.identity
                .settle(&settings, |index| clients.is_known(index))
                .await;
        }
        self.tcp.add_program(&settings, &datapath);
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
        if of == Of::Claims {
            self.state
                .has_rules(settings.view(), settings.claims_status());
            tracing::info!(
                rules = settings.rules.rules().len(),
                claimed = settings.claims.rules.len(),
                "the names that tenants claim are in force"
            );
            self.settings = settings;
            return Ok(());
        }

        for warning in &settings.warnings {
            tracing::warn!("{warning}");
        }
        if settings.listen != self.settings.listen {
            tracing::warn!("[metrics] listen has changed; that takes effect with a restart");
        }
        if settings.identity.sources.is_empty() {
            self.clients.forget_all();
        }
        self.claims.follow(&settings);
        self.claims.notice();
        self.cluster.reload(&settings);
        self.links.select(settings.selection.clone());
        self.state
            .loaded(settings.view(), settings.warnings.clone());
        self.state.claimed(settings.claims_status());
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
