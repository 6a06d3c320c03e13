//! Takes note of what came of look-ups, and hands the Events that follow to whoever sends them.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use hickory_proto::rr::Name;
use tokio::sync::mpsc;

use super::{
    denials::Denials,
    events::{Events, NOT_ALLOWED, Note, Object, Subject, not_allowed},
    shared::{EventOutcome, SharedServices},
};
use crate::model::{Outcomes, TargetState};

/// Events that wait to be sent: more than the limit lets through at once.
const QUEUE: usize = 16;

/// See the module.
#[derive(Debug)]
pub struct Reporter {
    services: Arc<SharedServices>,
    events: Mutex<Events>,
    denials: Mutex<Denials>,
    queue: mpsc::Sender<Note>,
    is_on: AtomicBool,
}

impl Reporter {
    /// With what it hands over. Off at first.
    pub fn new(services: Arc<SharedServices>) -> (Arc<Reporter>, mpsc::Receiver<Note>) {
        let (queue, notes) = mpsc::channel(QUEUE);
        let reporter = Reporter {
            services,
            events: Mutex::new(Events::new(Instant::now())),
            denials: Mutex::default(),
            queue,
            is_on: AtomicBool::new(false),
        };
        (Arc::new(reporter), notes)
    }

    pub fn services(&self) -> &Arc<SharedServices> {
        &self.services
    }

    /// Whether anyone sends them.
    pub fn set_on(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    /// What came of an Event. One that was not sent is reported again, with the next look-up or later.
    pub fn sent(&self, note: &Note, outcome: EventOutcome) {
        if note.reason == NOT_ALLOWED {
            let now = Instant::now();
            match outcome {
                EventOutcome::Created | EventOutcome::Exists => self
                    .denials()
                    .reported(outcome == EventOutcome::Created, now),
                EventOutcome::Failed | EventOutcome::Dropped => {
                    self.denials().again(&note.subject.uid, now);
                }
                EventOutcome::Refused => {}
            }
        } else if matches!(outcome, EventOutcome::Failed | EventOutcome::Dropped) {
            self.events().forget(&note.key);
        }
    }

    /// Looks for Services that no rule is for, and reports one of them at most. `left_out` gives the name of the rule that might have been
    /// for a Service.
    pub fn look_for_denied(&self, left_out: impl Fn(&Subject) -> Option<String>) {
        let random = rand::random::<f64>;
        self.look_at(left_out, Instant::now(), unix_seconds(), random);
    }

    fn look_at(
        &self,
        left_out: impl Fn(&Subject) -> Option<String>,
        now: Instant,
        unix: u64,
        random: impl FnMut() -> f64,
    ) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let mut all = self.services.subjects();
        let mut rules = HashMap::new();
        all.retain(|subject| {
            let rule = left_out(subject);
            let is_left_out = rule.is_some();
            rules.extend(rule.map(|rule| (subject.uid.clone(), rule)));
            is_left_out
        });
        let found = self.denials().look(&all, now, unix, random);
        if let Some(subject) = found
            && let Some(rule) = rules.get(&subject.uid)
        {
            self.queue(not_allowed(subject, rule, unix));
        }
    }

    /// Names that a Service claims are refused.
    pub fn refuse(&self, subject: Object, message: String) {
        if self.is_on.load(Ordering::Relaxed) {
            let note = self
                .events()
                .refuse(subject, message, Instant::now(), unix_seconds());
            if let Some(note) = note {
                self.queue(note);
            }
        }
    }

    fn queue(&self, note: Note) {
        if let Err(error) = self.queue.try_send(note) {
            self.sent(&error.into_inner(), EventOutcome::Dropped);
            self.services.event(EventOutcome::Dropped);
        }
    }

    fn denials(&self) -> MutexGuard<'_, Denials> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Outcomes for Reporter {
    fn note(&self, target: &Name, state: TargetState) {
        if !self.is_on.load(Ordering::Relaxed) {
            return;
        }
        let Some(subject) = self.services.subject(target) else {
            return;
        };
        let note = self
            .events()
            .take(subject, state, Instant::now(), unix_seconds());
        if let Some(note) = note {
            self.queue(note);
        }
    }
}

fn unix_seconds() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    unix.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::sources::{ClusterDomain, Kind, Report, Service, selectors};

    #[test]
    fn only_services_that_are_known_get_events_and_only_while_someone_sends_them() {
        let domain = ClusterDomain::default();
        let selectors = selectors(["up.{namespace}.svc.cluster.local"], &domain);
        let services = Arc::new(SharedServices::new(domain, selectors.clone()));
        let service = Service {
            namespace: "foo".to_owned(),
            name: "up".to_owned(),
            uid: "1".to_owned(),
            kind: Kind::Alias(Name::from_ascii("a.example.").unwrap()),
        };
        services.report(&selectors[0], Report::Listed(vec![service]));
        let (reporter, mut notes) = Reporter::new(services);
        let foo = Name::from_ascii("up.foo.svc.cluster.local.").unwrap();
        let bar = Name::from_ascii("up.bar.svc.cluster.local.").unwrap();
        reporter.note(&foo, TargetState::Resolves);
        assert!(notes.try_recv().is_err());
        reporter.set_on(true);
        reporter.note(&bar, TargetState::Resolves);
        assert!(notes.try_recv().is_err());
        reporter.note(&foo, TargetState::Resolves);
        let note = notes.try_recv().unwrap();
        assert_eq!((note.reason, note.subject.uid.as_str()), ("Resolved", "1"));
        reporter.note(&foo, TargetState::Resolves);
        assert!(notes.try_recv().is_err());
        reporter.sent(&note, EventOutcome::Failed);
        reporter.note(&foo, TargetState::Resolves);
        assert_eq!(notes.try_recv().unwrap(), note);
    }

    #[test]
    fn a_service_that_no_rule_is_for_gets_an_event() {
        let domain = ClusterDomain::default();
        let selectors = selectors(["up.{namespace}.svc.cluster.local"], &domain);
        let services = Arc::new(SharedServices::new(domain, selectors.clone()));
        let service = |namespace: &str| Service {
            namespace: namespace.to_owned(),
            name: "up".to_owned(),
            uid: namespace.to_owned(),
            kind: Kind::Alias(Name::from_ascii("a.example.").unwrap()),
        };
        let all = vec![service("foo"), service("bar")];
        services.report(&selectors[0], Report::Listed(all));
        let (reporter, mut notes) = Reporter::new(services.clone());
        reporter.set_on(true);
        let left_out = |subject: &Subject| (subject.namespace == "bar").then(|| "kafka".to_owned());
        let start = Instant::now();
        let look = |seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            reporter.look_at(left_out, now, 1_800_000_000 + seconds, || 0.5);
        };
        look(0);
        assert!(notes.try_recv().is_err(), "it has not settled");
        look(120);
        let note = notes.try_recv().unwrap();
        assert_eq!((note.reason, note.is_warning), ("NotAllowed", true));
        assert!(note.message.contains("rule kafka"), "{}", note.message);
        assert_eq!(note.subject.namespace, "bar");
        assert!(notes.try_recv().is_err());
        // Not sent: again, some time later.
        reporter.sent(&note, EventOutcome::Failed);
        look(600);
        assert_eq!(notes.try_recv().unwrap().subject, note.subject);
        // A state that may be old is no reason.
        services.report(&selectors[0], Report::Lost);
        assert_eq!(services.subjects(), []);
    }
}
