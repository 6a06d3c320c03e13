//! Lists and watches objects at the API server, and reports what it says; decides nothing but when to ask again.
//!
//! Not kube's own watcher: that one reports neither bookmarks nor that a watch goes on after a failure, so the age of what is known
//! would not be known.

use std::{
    fmt::Debug,
    io,
    time::{Duration, Instant},
};

use futures::{StreamExt as _, TryStreamExt as _};
use kube::{
    Api, Error, Resource, ResourceExt as _,
    api::{ListParams, VersionMatch, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Backoff, ErrorReason};

/// For a whole list, and for the beginning of a watch.
const LIST: Duration = Duration::from_secs(30);
/// How long a watch lasts, in seconds: the server ends it. Below the 5 minutes that proxies often allow, and different from node
/// to node.
const WATCH: std::ops::Range<u32> = 200..290;
/// After a restart of the API server every node has to list again: they do so within this time, not all at once. What is known
/// counts meanwhile.
const RELIST: Duration = Duration::from_secs(5);
/// A watch that says nothing for this long hangs: the server sends a bookmark every minute.
const SILENCE: Duration = Duration::from_secs(150);
/// No watch is shorter, unless the server ends.
const SHORTEST: Duration = Duration::from_secs(1);
/// The version that stands for "whatever the server has in memory".
const ANY_VERSION: &str = "0";

/// Takes what the API server says of the objects of one kind.
pub trait Reports<K>: Send + Sync {
    /// What is watched, for the log: the kind.
    fn kind(&self) -> &'static str;
    /// And which of it.
    fn which(&self) -> String;
    /// What happens without it, for the log.
    fn meanwhile(&self) -> &'static str;
    /// All of them.
    fn listed(&self, objects: Vec<K>);
    fn applied(&self, object: K);
    fn deleted(&self, object: K);
    /// Nothing has changed.
    fn heard(&self);
    /// It will be asked again.
    fn failed(&self, reason: ErrorReason, error: &str);
}

/// An object of a kind that is known when this is compiled.
pub trait Object:
    Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
}

impl<K> Object for K where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static
{
}

/// Watches the objects with these fields (all where it is empty) for as long as it is polled.
pub async fn follow<K: Object>(api: Api<K>, fields: String, reports: impl Reports<K>) {
    let mut watch = Watch {
        api,
        fields,
        reports,
        version: None,
        newest: None,
    };
    let mut backoff = Backoff::default();
    let mut is_failing = false;
    loop {
        match watch.once(&mut backoff, &mut is_failing).await {
            Ok(()) => {}
            Err((reason, error)) => {
                watch.reports.failed(reason, &error);
                if reason == ErrorReason::Gone {
                    // Listed again: what was missed comes with that.
                    watch.version = None;
                    sleep(RELIST.mul_f64(rand::random())).await;
                    continue;
                }
                if !is_failing {
                    is_failing = true;
                    warn!(
                        which = watch.reports.which(),
                        reason = reason.label(),
                        error,
                        "cannot watch {}; {}",
                        watch.reports.kind(),
                        watch.reports.meanwhile()
                    );
                }
                sleep(backoff.next(rand::random())).await;
            }
        }
    }
}

struct Watch<K, R> {
    api: Api<K>,
    fields: String,
    reports: R,
    /// Where the watch goes on; `None` for a list first.
    version: Option<String>,
    /// The newest that was seen: a list must not be older.
    newest: Option<String>,
}

type Failed = (ErrorReason, String);

impl<K: Object, R: Reports<K>> Watch<K, R> {
    /// Lists if need be, and watches until the server ends it.
    async fn once(&mut self, backoff: &mut Backoff, is_failing: &mut bool) -> Result<(), Failed> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list().await?,
        };
        let mut parameters = WatchParams::default().timeout(rand::random_range(WATCH));
        if !self.fields.is_empty() {
            parameters = parameters.fields(&self.fields);
        }
        let events = timeout(LIST, self.api.watch(&parameters, &version)).await;
        let events = events.map_err(|_| silent())?.map_err(failed)?;
        let mut events = events.boxed();
        let began = Instant::now();
        let mut is_open = false;
        loop {
            // Most watches say nothing at first. One that was refused says so at once, after a reply that looks good.
            let patience = if is_open { SILENCE } else { SHORTEST };
            let event = match timeout(patience, events.try_next()).await {
                Ok(event) => Some(event.map_err(failed)?),
                Err(_) if is_open => return Err(silent()),
                Err(_) => None,
            };
            match &event {
                Some(Some(WatchEvent::Error(_)) | None) => {}
                _ => {
                    is_open = true;
                    backoff.reset();
                    if std::mem::take(is_failing) {
                        info!(
                            which = self.reports.which(),
                            "{} are watched again",
                            self.reports.kind()
                        );
                    }
                }
            }
            let Some(event) = event else {
                self.reports.heard();
                continue;
            };
            match event {
                // One that ends at once would be asked for again and again.
                None if began.elapsed() < SHORTEST => return Err(cut()),
                None => return Ok(()),
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    self.seen(object.resource_version());
                    self.reports.applied(object);
                }
                Some(WatchEvent::Deleted(object)) => {
                    self.seen(object.resource_version());
                    self.reports.deleted(object);
                }
                Some(WatchEvent::Bookmark(bookmark)) => {
                    self.seen(Some(bookmark.metadata.resource_version));
                    self.reports.heard();
                }
                Some(WatchEvent::Error(status)) => return Err(failed(Error::Api(status))),
            }
        }
    }

    /// From the server's memory, which need not be the newest: the watch goes on from there.
    async fn list(&mut self) -> Result<String, Failed> {
        let newest = self.newest.clone();
        let mut parameters = ListParams {
            version_match: Some(VersionMatch::NotOlderThan),
            resource_version: Some(newest.unwrap_or_else(|| ANY_VERSION.to_owned())),
            ..ListParams::default()
        };
        if !self.fields.is_empty() {
            parameters = parameters.fields(&self.fields);
        }
        // Should the server not know this version any more, the next list takes what it has.
        self.newest = None;
        let list = timeout(LIST, self.api.list(&parameters)).await;
        let list = list.map_err(|_| silent())?.map_err(failed)?;
        let version = list.metadata.resource_version.unwrap_or_default();
        if version.is_empty() {
            return Err((ErrorReason::Server, "a list without a version".to_owned()));
        }
        self.seen(Some(version.clone()));
        self.reports.listed(list.items);
        Ok(version)
    }

    fn seen(&mut self, version: Option<String>) {
        if let Some(version) = version.filter(|version| !version.is_empty()) {
            self.newest = Some(version.clone());
            self.version = Some(version);
        }
    }
}

fn cut() -> Failed {
    let text = "the API server ends each watch at once";
    (ErrorReason::Connection, text.to_owned())
}

fn silent() -> Failed {
    (ErrorReason::Timeout, "the API server is silent".to_owned())
}

fn failed(error: Error) -> Failed {
    let reason = match &error {
        Error::Api(status) => match status.code {
            401 => ErrorReason::Unauthorized,
            403 => ErrorReason::Forbidden,
            410 => ErrorReason::Gone,
            _ => ErrorReason::Server,
        },
        Error::ReadEvents(_) | Error::HyperError(_) => ErrorReason::Connection,
        Error::Service(error) => {
            let timed_out = error
                .downcast_ref::<io::Error>()
                .is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
            if timed_out {
                ErrorReason::Timeout
            } else {
                ErrorReason::Connection
            }
        }
        _ => ErrorReason::Server,
    };
    let text = match error {
        Error::Api(status) => format!("{} ({})", status.message, status.code),
        error => {
            let error = anyhow::Error::from(error);
            format!("{error:#}")
        }
    };
    (reason, text)
}
