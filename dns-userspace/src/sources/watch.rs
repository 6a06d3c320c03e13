//! Lists and watches objects at the API server, and reports what it says; decides nothing but when to ask again.
//!
//! Not kube's own watcher: that one reports neither bookmarks nor that a watch goes on after a failure, so the age of what is known
//! would not be known.

use std::{
    fmt,
    future::Future,
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{Stream, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1;
use kube::{
    Api, Client, Error, Resource, ResourceExt as _,
    api::{ListParams, ObjectList, PartialObjectMeta, VersionMatch, WatchEvent, WatchParams},
};
use serde::de::DeserializeOwned;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::{Backoff, ClaimReport, ErrorReason, Kind, Report, Selector, Service, SharedServices};
use crate::model::{Claimant, NAMES_ANNOTATION, claim_text};

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

/// How the API server is asked for objects.
pub trait Ask: Send + Sync {
    type Object: Resource + Clone + Send;

    fn list(
        &self,
        parameters: &ListParams,
    ) -> impl Future<Output = Result<ObjectList<Self::Object>, Error>> + Send;

    fn watch(
        &self,
        parameters: &WatchParams,
        version: &str,
    ) -> impl Future<Output = Result<Events<Self::Object>, Error>> + Send;
}

type Events<K> = BoxStream<'static, Result<WatchEvent<K>, Error>>;

fn boxed<K>(
    events: impl Stream<Item = Result<WatchEvent<K>, Error>> + Send + 'static,
) -> Events<K> {
    events.boxed()
}

impl<K> Ask for Api<K>
where
    K: Resource + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
{
    type Object = K;

    async fn list(&self, parameters: &ListParams) -> Result<ObjectList<K>, Error> {
        Api::list(self, parameters).await
    }

    async fn watch(&self, parameters: &WatchParams, version: &str) -> Result<Events<K>, Error> {
        Api::watch(self, parameters, version).await.map(boxed)
    }
}

/// Asks for the metadata alone.
pub struct Metadata<K>(pub Api<K>);

impl<K> Ask for Metadata<K>
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + fmt::Debug + Send + Sync + 'static,
{
    type Object = PartialObjectMeta<K>;

    async fn list(&self, parameters: &ListParams) -> Result<ObjectList<Self::Object>, Error> {
        self.0.list_metadata(parameters).await
    }

    async fn watch(
        &self,
        parameters: &WatchParams,
        version: &str,
    ) -> Result<Events<Self::Object>, Error> {
        self.0.watch_metadata(parameters, version).await.map(boxed)
    }
}

/// What is listed and watched.
pub struct Query<A> {
    pub api: A,
    /// Field selector of the API; empty for none.
    pub fields: String,
    /// The same for labels.
    pub labels: String,
    /// For the log.
    pub name: String,
    /// For the log: what goes on without it.
    pub otherwise: &'static str,
}

/// What the API server says of the objects.
pub enum Said<K> {
    /// All of them.
    Listed(Vec<K>),
    Applied(K),
    Deleted(K),
    /// Nothing has changed up to now.
    Nothing,
}

/// Takes what a watch finds.
pub trait Sink<K> {
    fn said(&self, said: Said<K>);
    fn failed(&self, reason: ErrorReason, error: &str);
}

/// The Services of one selector.
struct Selected {
    selector: Selector,
    services: Arc<SharedServices>,
}

impl Sink<v1::Service> for Selected {
    fn said(&self, said: Said<v1::Service>) {
        if self.selector == Selector::ANY
            && let Some(report) = claims(&said)
        {
            self.services.report_claims(report);
        }
        let report = match said {
            Said::Listed(services) => Report::Listed(services.into_iter().map(read).collect()),
            Said::Applied(service) => Report::Applied(read(service)),
            Said::Deleted(service) => {
                let service = read(service);
                Report::Deleted(service.namespace, service.name)
            }
            Said::Nothing => Report::Heard,
        };
        self.services.report(&self.selector, report);
    }

    fn failed(&self, reason: ErrorReason, error: &str) {
        self.services.failed(&self.selector, reason, error);
    }
}

/// Watches the Services that rules lead to, for as long as it is polled.
pub async fn follow(client: Client, selector: Selector, services: Arc<SharedServices>) {
    let query = Query {
        api: match &selector.namespace {
            Some(namespace) => Api::namespaced(client, namespace),
            None => Api::all(client),
        },
        fields: selector.fields(),
        labels: String::new(),
        name: format!("Services ({selector})"),
        otherwise: "targets are looked up by DNS until the API server says more",
    };
    watch(query, Selected { selector, services }).await;
}

/// Watches for as long as it is polled.
pub async fn watch<A, S>(query: Query<A>, sink: S)
where
    A: Ask,
    S: Sink<A::Object>,
{
    let mut watch = Watch {
        query,
        sink,
        version: None,
        newest: None,
    };
    let mut backoff = Backoff::default();
    let mut is_failing = false;
    loop {
        match watch.once(&mut backoff, &mut is_failing).await {
            Ok(()) => {}
            Err((reason, error)) => {
                watch.sink.failed(reason, &error);
                if reason == ErrorReason::Gone {
                    // Listed again: what was missed comes with that.
                    watch.version = None;
                    sleep(RELIST.mul_f64(rand::random())).await;
                    continue;
                }
                if !is_failing {
                    is_failing = true;
                    let Query {
                        name, otherwise, ..
                    } = &watch.query;
                    let reason = reason.label();
                    warn!(reason, error, "cannot watch {name}; {otherwise}");
                }
                sleep(backoff.next(rand::random())).await;
            }
        }
    }
}

struct Watch<A, S> {
    query: Query<A>,
    sink: S,
    /// Where the watch goes on; `None` for a list first.
    version: Option<String>,
    /// The newest that was seen: a list must not be older.
    newest: Option<String>,
}

type Failed = (ErrorReason, String);

impl<A, S> Watch<A, S>
where
    A: Ask,
    S: Sink<A::Object>,
{
    /// Lists if need be, and watches until the server ends it.
    async fn once(&mut self, backoff: &mut Backoff, is_failing: &mut bool) -> Result<(), Failed> {
        let version = match self.version.clone() {
            Some(version) => version,
            None => self.list().await?,
        };
        let mut parameters = WatchParams::default().timeout(rand::random_range(WATCH));
        if !self.query.fields.is_empty() {
            parameters = parameters.fields(&self.query.fields);
        }
        if !self.query.labels.is_empty() {
            parameters = parameters.labels(&self.query.labels);
        }
        let events = timeout(LIST, self.query.api.watch(&parameters, &version)).await;
        let mut events = events.map_err(|_| silent())?.map_err(failed)?;
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
                        info!("{} are watched again", self.query.name);
                    }
                }
            }
            let Some(event) = event else {
                self.sink.said(Said::Nothing);
                continue;
            };
            match event {
                // One that ends at once would be asked for again and again.
                None if began.elapsed() < SHORTEST => return Err(cut()),
                None => return Ok(()),
                Some(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                    self.seen(object.resource_version());
                    self.sink.said(Said::Applied(object));
                }
                Some(WatchEvent::Deleted(object)) => {
                    self.seen(object.resource_version());
                    self.sink.said(Said::Deleted(object));
                }
                Some(WatchEvent::Bookmark(bookmark)) => {
                    self.seen(Some(bookmark.metadata.resource_version));
                    self.sink.said(Said::Nothing);
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
        if !self.query.fields.is_empty() {
            parameters = parameters.fields(&self.query.fields);
        }
        if !self.query.labels.is_empty() {
            parameters = parameters.labels(&self.query.labels);
        }
        // Should the server not know this version any more, the next list takes what it has.
        self.newest = None;
        let list = timeout(LIST, self.query.api.list(&parameters)).await;
        let list = list.map_err(|_| silent())?.map_err(failed)?;
        let version = list.metadata.resource_version.unwrap_or_default();
        if version.is_empty() {
            return Err((ErrorReason::Server, "a list without a version".to_owned()));
        }
        self.seen(Some(version.clone()));
        self.sink.said(Said::Listed(list.items));
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

fn read(service: v1::Service) -> Service {
    let spec = service.spec.as_ref();
    let external = spec
        .filter(|spec| spec.type_.as_deref() == Some("ExternalName"))
        .and_then(|spec| spec.external_name.as_deref());
    Service {
        namespace: service.namespace().unwrap_or_default(),
        name: service.name_any(),
        uid: service.uid().unwrap_or_default(),
        kind: external.and_then(alias).map_or(Kind::Other, Kind::Alias),
    }
}

/// What a report says of claims.
fn claims(said: &Said<v1::Service>) -> Option<ClaimReport> {
    let id = |service: &v1::Service| (service.namespace().unwrap_or_default(), service.name_any());
    match said {
        Said::Listed(services) => {
            let all = services.iter().filter_map(claimant);
            Some(ClaimReport::Listed(all.collect()))
        }
        Said::Applied(service) => {
            let (namespace, name) = id(service);
            Some(ClaimReport::Applied(namespace, name, claimant(service)))
        }
        Said::Deleted(service) => {
            let (namespace, name) = id(service);
            Some(ClaimReport::Deleted(namespace, name))
        }
        Said::Nothing => None,
    }
}

/// What a Service claims.
fn claimant(service: &v1::Service) -> Option<Claimant> {
    let names = service.annotations().get(NAMES_ANNOTATION)?;
    let created = service.creation_timestamp();
    let (names, is_cut) = claim_text(names);
    Some(Claimant {
        namespace: service.namespace().unwrap_or_default(),
        service: service.name_any(),
        uid: service.uid().unwrap_or_default(),
        created: created.map_or(0, |time| time.0.as_second()),
        names,
        is_cut,
    })
}

/// Absolute, in lower case.
fn alias(external: &str) -> Option<Name> {
    if external.is_empty() || external == "." {
        return None;
    }
    let mut name = Name::from_ascii(external).ok()?.to_lowercase();
    name.set_fqdn(true);
    Some(name)
}

#[cfg(test)]
mod tests;
