//! The Services behind a lock: the resolver looks targets up, the watches report, and the changes wait to be delivered.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use hickory_proto::rr::Name;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::{
    claimants::{ClaimReport, Claimants},
    events::Subject,
    selector::{ClusterDomain, Selector},
    services::{Kind, Report, Service, Services},
};
use crate::model::{Changes, Claimant, Known, Targets};

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident => $label:literal, )+) => {
        /// Why the API server gave nothing.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ErrorReason { $( $(#[doc = $doc])+ $name, )+ }

        impl ErrorReason {
            const ALL: &'static [ErrorReason] = &[$( ErrorReason::$name, )+];

            /// The name used in metrics.
            pub const fn label(self) -> &'static str {
                match self { $( ErrorReason::$name => $label, )+ }
            }
        }
    };
}

reasons! {
    /// The role is missing (403).
    Forbidden => "forbidden",
    /// The token is not accepted (401).
    Unauthorized => "unauthorized",
    /// The version to go on from is too old (410): everything is listed again.
    Gone => "gone",
    /// No reply, or nothing more from a watch, within the time.
    Timeout => "timeout",
    /// The connection is refused or broken.
    Connection => "connection",
    /// Another error of the server's, or a reply that cannot be read.
    Server => "server",
}

/// What came of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventOutcome {
    Created,
    /// Another node had created it.
    Exists,
    /// The role is missing, or the namespace is being deleted.
    Refused,
    Failed,
    /// Too many waited.
    Dropped,
}

impl EventOutcome {
    const ALL: [EventOutcome; 5] = [
        EventOutcome::Created,
        EventOutcome::Exists,
        EventOutcome::Refused,
        EventOutcome::Failed,
        EventOutcome::Dropped,
    ];

    /// The name used in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            EventOutcome::Created => "created",
            EventOutcome::Exists => "exists",
            EventOutcome::Refused => "refused",
            EventOutcome::Failed => "failed",
            EventOutcome::Dropped => "dropped",
        }
    }
}

/// The state of the watches, for metrics and `gregor status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ApiStatus {
    /// `on`, or `off` and why.
    pub mode: String,
    /// What is watched, for people.
    pub watches: Vec<String>,
    /// Watches that are up to date.
    pub connected: u64,
    /// Seconds since the watch that was silent for the longest was heard last; absent before each has a list.
    pub age_seconds: Option<f64>,
    /// Services by type: `external_name`, `other`.
    pub services: BTreeMap<Cow<'static, str>, u64>,
    /// Lists that were asked for, those after the first included.
    pub lists: u64,
    /// Targets that have changed.
    pub changes: u64,
    /// By [`ErrorReason::label`].
    pub errors: BTreeMap<Cow<'static, str>, u64>,
    /// Events on Services, by [`EventOutcome::label`].
    pub events: BTreeMap<Cow<'static, str>, u64>,
    /// The last error, while it lasts.
    pub error: Option<String>,
}

/// What is known of one target, for `gregor explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStatus {
    /// `alias`, `absent` or `nothing`.
    pub known: String,
    /// What it is an alias of.
    pub alias: Option<String>,
    /// What that leads to, by other Services that are known.
    pub end: Option<String>,
    /// Seconds since the API server was heard last.
    pub age_seconds: u64,
}

/// The mode where Services are watched.
const ON: &str = "on";

/// See the module.
#[derive(Debug)]
pub struct SharedServices {
    inner: Mutex<Inner>,
    /// Changes wait.
    news: Notify,
    claimants: Mutex<Claimants>,
    /// Other names are claimed than before.
    claims_news: Notify,
    clock: fn() -> Instant,
}

#[derive(Debug)]
struct Inner {
    services: Services,
    pending: Changes,
    mode: String,
    lists: u64,
    changes: u64,
    errors: BTreeMap<Cow<'static, str>, u64>,
    events: BTreeMap<Cow<'static, str>, u64>,
    error: Option<String>,
}

impl SharedServices {
    pub fn new(domain: ClusterDomain, selectors: Vec<Selector>) -> SharedServices {
        let errors = ErrorReason::ALL
            .iter()
            .map(|reason| (reason.label().into(), 0));
        SharedServices {
            inner: Mutex::new(Inner {
                services: Services::new(domain, selectors),
                pending: Changes::default(),
                mode: "off".to_owned(),
                lists: 0,
                changes: 0,
                errors: errors.collect(),
                events: EventOutcome::ALL
                    .map(|outcome| (outcome.label().into(), 0))
                    .into(),
                error: None,
            }),
            news: Notify::new(),
            claimants: Mutex::default(),
            claims_news: Notify::new(),
            clock: Instant::now,
        }
    }

    /// See [`Services::select`].
    pub fn select(&self, domain: ClusterDomain, selectors: Vec<Selector>) {
        self.lock().services.select(domain, selectors);
    }

    pub fn selectors(&self) -> Vec<Selector> {
        self.lock().services.selectors().cloned().collect()
    }

    /// Whether anything is watched, or why not.
    pub fn set_mode(&self, mode: Result<(), &str>) {
        self.lock().mode = match mode {
            Ok(()) => ON.to_owned(),
            Err(why) => format!("off: {why}"),
        };
    }

    /// Takes a report of a watch. What it changes is delivered by [`SharedServices::changes`].
    pub fn report(&self, selector: &Selector, report: Report) {
        let now = (self.clock)();
        let mut inner = self.lock();
        inner.lists += u64::from(matches!(report, Report::Listed(_)));
        if !matches!(report, Report::Lost) {
            inner.error = None;
        }
        let changes = inner.services.take(selector, report, now);
        if changes.is_empty() {
            return;
        }
        inner.changes += changes.len() as u64;
        inner.pending.extend(changes);
        drop(inner);
        self.news.notify_one();
    }

    /// A watch has failed.
    pub fn failed(&self, selector: &Selector, reason: ErrorReason, error: &str) {
        let now = (self.clock)();
        let mut inner = self.lock();
        *inner.errors.entry(reason.label().into()).or_default() += 1;
        inner.services.take(selector, Report::Lost, now);
        // Listed again within seconds: nothing to be seen to.
        if reason != ErrorReason::Gone {
            inner.error = Some(error.to_owned());
        }
    }

    /// Takes what is said of the Services that claim names.
    pub fn report_claims(&self, report: ClaimReport) {
        if self.claimants().take(report) {
            self.claims_news.notify_one();
        }
    }

    /// The Services that claim names; `None` before any were known.
    pub fn claims(&self) -> Option<Vec<Claimant>> {
        self.claimants().all()
    }

    /// Waits until they differ from when this was ready last. For one at a time.
    pub async fn claims_changed(&self) {
        self.claims_news.notified().await;
    }

    fn claimants(&self) -> MutexGuard<'_, Claimants> {
        let claimants = self.claimants.lock();
        claimants.unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for changes, and takes them.
    pub async fn changes(&self) -> Changes {
        loop {
            let changes = std::mem::take(&mut self.lock().pending);
            if !changes.is_empty() {
                return changes;
            }
            self.news.notified().await;
        }
    }

    /// What is known of the target that is spelled like this; `None` where nothing is watched.
    pub fn explain(&self, target: &str) -> Option<ServiceStatus> {
        let mut name = Name::from_ascii(target).ok()?;
        name.set_fqdn(true);
        let now = (self.clock)();
        let inner = self.lock();
        if inner.mode != ON {
            return None;
        }
        let service = inner.services.service(&name, now);
        let alias = service.and_then(|(service, _)| match &service.kind {
            Kind::Alias(alias) => Some(alias.to_ascii()),
            Kind::Other => None,
        });
        let (known, end) = match inner.services.find(&name, now) {
            Known::Nothing => ("nothing", None),
            Known::Alias(end) => ("alias", Some(end.to_ascii())),
            Known::Absent => ("absent", None),
        };
        Some(ServiceStatus {
            known: known.to_owned(),
            end: end.filter(|end| alias.as_ref() != Some(end)),
            alias,
            age_seconds: service.map_or(0, |(_, age)| age.as_secs()),
        })
    }

    /// Counts an Event.
    pub fn event(&self, outcome: EventOutcome) {
        let mut inner = self.lock();
        *inner.events.entry(outcome.label().into()).or_default() += 1;
    }

    /// The Service that a target names, if that is an ExternalName.
    pub fn subject(&self, target: &Name) -> Option<Subject> {
        let now = (self.clock)();
        let inner = self.lock();
        let (service, _) = inner.services.service(target, now)?;
        subject_of(service)
    }

    /// All ExternalNames that are known for certain: not those of watches that are away.
    pub fn subjects(&self) -> Vec<Subject> {
        let inner = self.lock();
        inner.services.connected().filter_map(subject_of).collect()
    }

    pub fn status(&self) -> ApiStatus {
        let now = (self.clock)();
        let inner = self.lock();
        let summary = inner.services.summary(now);
        ApiStatus {
            mode: inner.mode.clone(),
            watches: if inner.mode == ON {
                inner
                    .services
                    .selectors()
                    .map(ToString::to_string)
                    .collect()
            } else {
                Vec::new()
            },
            connected: summary.connected as u64,
            age_seconds: summary.age.map(|age| age.as_secs_f64()),
            services: [
                ("external_name", summary.aliases),
                ("other", summary.others),
            ]
            .map(|(kind, count)| (kind.into(), count as u64))
            .into(),
            lists: inner.lists,
            changes: inner.changes,
            errors: inner.errors.clone(),
            events: inner.events.clone(),
            error: inner.error.clone(),
        }
    }

    /// A panic elsewhere leaves plain data behind.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn subject_of(service: &Service) -> Option<Subject> {
    let Kind::Alias(alias) = &service.kind else {
        return None;
    };
    Some(Subject {
        namespace: service.namespace.clone(),
        name: service.name.clone(),
        uid: service.uid.clone(),
        alias: alias.clone(),
    })
}

impl Targets for SharedServices {
    fn find(&self, target: &Name) -> Known {
        self.lock().services.find(target, (self.clock)())
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;
    use crate::sources::selectors;

    const TARGET: &str = "up.foo.svc.cluster.local";

    fn alias(external: &str) -> Service {
        Service {
            namespace: "foo".to_owned(),
            name: "up".to_owned(),
            uid: "1".to_owned(),
            kind: Kind::Alias(Name::from_ascii(external).unwrap()),
        }
    }

    fn services() -> (SharedServices, Selector) {
        let domain = ClusterDomain::new("cluster.local").unwrap();
        let selectors = selectors(["up.{namespace}.svc.cluster.local"], &domain);
        let selector = selectors[0].clone();
        (SharedServices::new(domain, selectors), selector)
    }

    #[test]
    fn changes_are_delivered_together_and_once() {
        let (shared, selector) = services();
        assert!(shared.changes().now_or_never().is_none());
        shared.report(&selector, Report::Listed(vec![alias("a.example.")]));
        shared.report(&selector, Report::Applied(alias("b.example.")));
        let changes = shared.changes().now_or_never().unwrap();
        let target = Name::from_ascii("up.foo.svc.cluster.local.").unwrap();
        let expected = Known::Alias(Name::from_ascii("b.example.").unwrap());
        assert_eq!(changes.get(&target), Some(&expected));
        assert_eq!(changes.len(), 1);
        assert_eq!(shared.find(&target), expected);
        assert!(shared.changes().now_or_never().is_none());
    }

    #[test]
    fn status_and_explanation_say_what_is_known_and_how_old_it_is() {
        let (shared, selector) = services();
        assert_eq!(shared.explain(TARGET), None);
        shared.set_mode(Ok(()));
        assert_eq!(shared.status().age_seconds, None);
        assert_eq!(shared.explain(TARGET).unwrap().known, "nothing");
        shared.failed(&selector, ErrorReason::Forbidden, "no role");
        let status = shared.status();
        assert_eq!(status.errors["forbidden"], 1);
        assert_eq!(status.error.as_deref(), Some("no role"));
        shared.report(&selector, Report::Listed(vec![alias("a.example.")]));
        let status = shared.status();
        assert_eq!((status.connected, status.lists, status.changes), (1, 1, 1));
        assert_eq!(status.services["external_name"], 1);
        assert_eq!((status.error, status.age_seconds.is_some()), (None, true));
        let explained = shared.explain(TARGET).unwrap();
        assert_eq!(explained.alias.as_deref(), Some("a.example."));
        assert_eq!(explained.end, None);
        let mut first = alias(&format!("{TARGET}."));
        first.namespace = "bar".to_owned();
        shared.report(&selector, Report::Applied(first));
        let explained = shared.explain("up.bar.svc.cluster.local").unwrap();
        let names = [explained.alias, explained.end].map(Option::unwrap);
        assert_eq!(names, [format!("{TARGET}."), "a.example.".to_owned()]);
        shared.failed(&selector, ErrorReason::Gone, "too old");
        let status = shared.status();
        assert_eq!((status.connected, status.error), (0, None));
        shared.failed(&selector, ErrorReason::Connection, "refused");
        assert_eq!(shared.status().connected, 0);
        assert_eq!(shared.explain(TARGET).unwrap().known, "alias");
    }
}
