//! Takes note of what came of look-ups, and hands the Events that follow to whoever sends them.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use hickory_proto::rr::Name;
use tokio::sync::mpsc;

use super::{
    events::{Events, Note, Object},
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

    /// An Event was not sent: the next look-up reports it again.
    pub fn again(&self, note: &Note) {
        self.events().forget(&note.key);
    }

    /// Names that a Service claims are refused.
    pub fn refuse(&self, subject: Object, message: String) {
        if self.is_on.load(Ordering::Relaxed) {
            let note = self
                .events()
                .refuse(subject, message, Instant::now(), unix_seconds());
            self.hand_over(note);
        }
    }

    fn hand_over(&self, note: Option<Note>) {
        if let Some(note) = note
            && let Err(error) = self.queue.try_send(note)
        {
            self.again(&error.into_inner());
            self.services.event(EventOutcome::Dropped);
        }
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
        self.hand_over(note);
    }
}

fn unix_seconds() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH);
    unix.unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
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
        reporter.again(&note);
        reporter.note(&foo, TargetState::Resolves);
        assert_eq!(notes.try_recv().unwrap(), note);
    }
}
