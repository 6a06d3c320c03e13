//! Who is behind each interface: the thread that finds out, and the watch of this node's pods, which begins and ends with the
//! configuration.

use std::{
    collections::HashMap,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{task::JoinSet, time::sleep};

use super::settings::Settings;
use crate::{
    config,
    discover::{Event, present},
    identity::{Board, Identities, Input, Sink},
    model::{IdentitySource, Interface},
};

/// How long an interface of which nothing is known is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// See the module.
pub struct Identity {
    identities: Identities,
    config: config::Identity,
    /// The watch of the pods.
    watch: JoinSet<()>,
    /// Interfaces that the thread has from [`Identity::settle`] already: one that appears again begins anew there.
    announced: HashMap<u32, String>,
}

impl Identity {
    /// Starts what the configuration names; what is found goes to each sink.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(settings: &Settings, sinks: Vec<Arc<dyn Sink>>) -> io::Result<Identity> {
        let mut identity = Identity {
            identities: Identities::start(sinks)?,
            config: config::Identity::default(),
            watch: JoinSet::new(),
            announced: HashMap::new(),
        };
        identity.reload(settings);
        Ok(identity)
    }

    /// The same for another configuration.
    pub fn reload(&mut self, settings: &Settings) {
        if settings.identity == self.config {
            return;
        }
        let watches =
            |config: &config::Identity| config.sources.contains(&IdentitySource::Kubernetes);
        let (before, after) = (watches(&self.config), watches(&settings.identity));
        self.config = settings.identity.clone();
        self.identities.tell(Input::Configure(self.config.clone()));
        if before && !after {
            self.watch.abort_all();
            self.watch = JoinSet::new();
        }
        if after
            && !before
            && let Err(why) = self.spawn()
        {
            self.identities.tell(Input::Api(Some(why)));
        }
    }

    /// Waits a moment until it is known who is behind each interface that is there, where rules ask: their programs would let
    /// pass what those before them have answered. What an earlier process has said counts.
    pub async fn settle(&mut self, settings: &Settings, is_known: impl Fn(u32) -> bool) {
        let asks = settings.rules.asks_who() || settings.platform.is_some();
        if settings.identity.sources.is_empty() || !asks {
            return;
        }
        // Without a list nothing is waited for.
        let present = present(&settings.selection).await.unwrap_or_default();
        let board = self.board();
        let new = present.iter().filter(|one| board.who(one.index).is_none());
        let new: Vec<Interface> = new.cloned().collect();
        self.links(&new.iter().cloned().map(Event::Appeared).collect::<Vec<_>>());
        let announced = new.into_iter().map(|one| (one.index, one.name));
        self.announced.extend(announced);
        let deadline = Instant::now() + PATIENCE;
        let is_open = |interface: &Interface| !is_known(interface.index);
        while present.iter().any(is_open) && Instant::now() < deadline {
            sleep(LOOK_AGAIN).await;
        }
    }

    /// Interfaces came or went.
    pub fn links(&mut self, events: &[Event]) {
        let mut new = events.to_vec();
        new.retain(|event| match event {
            Event::Appeared(one) => self.announced.remove(&one.index).as_ref() != Some(&one.name),
            Event::Renamed(one) => {
                self.announced.remove(&one.index);
                true
            }
            Event::Vanished(index) => {
                self.announced.remove(index);
                true
            }
        });
        self.identities.tell(Input::Links(new));
    }

    pub fn board(&self) -> &Arc<Board> {
        self.identities.board()
    }

    /// Ends all of it; nothing is published afterwards.
    pub fn stop(&mut self) {
        self.watch.abort_all();
        self.identities.stop();
    }

    #[cfg(feature = "kubernetes")]
    fn spawn(&mut self) -> Result<(), String> {
        use crate::{identity::pods, sources::client};

        if !client::is_in_cluster() {
            return Err("not in a cluster".to_owned());
        }
        let node = super::state::node();
        let client = client::in_cluster().map_err(|error| format!("{error:#}"))?;
        self.watch
            .spawn(pods::follow(client, node, self.identities.inputs()));
        Ok(())
    }

    #[cfg(not(feature = "kubernetes"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    fn spawn(&mut self) -> Result<(), String> {
        Err(crate::sources::NOT_BUILT.to_owned())
    }
}
