//! Which Events the tenants' Services get: one per state for the whole cluster, and few of them; no I/O, simulated clock.
//!
//! Every node that looks a target up comes to the same name for the same Event, so the API server keeps the first and refuses
//! the others. The name has the time in it, in steps: a state that comes back later is reported again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use hickory_proto::rr::Name;
use sha2::{Digest as _, Sha256};

use crate::model::TargetState;

/// The step of the time in the name of an Event.
const STEP: u64 = 600;
/// What is wrong is reported again in each period of this length, because the API server forgets Events after an hour. A multiple
/// of [`STEP`], so that all nodes report it in the same step.
pub const PERIOD: u64 = 5 * STEP;
/// Events that a node may send at once, and how long it takes until it may send another.
const BURST: u32 = 10;
const REFILL: Duration = Duration::from_secs(10);
/// The reason of Events on claims.
const CLAIM_REFUSED: &str = "ClaimRefused";
/// Services that are remembered.
const MAX_SERVICES: usize = 10_000;

/// A Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Object {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The Service that a target names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// What it is an alias of.
    pub alias: Name,
}

impl From<Subject> for Object {
    fn from(subject: Subject) -> Self {
        Self {
            namespace: subject.namespace,
            name: subject.name,
            uid: subject.uid,
        }
    }
}

/// An Event to be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub subject: Object,
    /// What was reported last is remembered by it.
    pub key: String,
    /// The same on every node.
    pub name: String,
    pub reason: &'static str,
    pub message: String,
    pub is_warning: bool,
}

/// See the module.
#[derive(Debug)]
pub struct Events {
    /// What was reported last, by [`Note::key`].
    reported: HashMap<String, Reported>,
    /// Time that the Events sent so far take, from which the limit follows.
    full_until: Instant,
    /// The same for refused claims, which take none of the others' room.
    claims_full_until: Instant,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Reported {
    /// What was said.
    message: String,
    period: u64,
}

impl Events {
    pub fn new(now: Instant) -> Events {
        Events {
            reported: HashMap::new(),
            full_until: now,
            claims_full_until: now,
        }
    }

    /// Takes the outcome of a look-up; returns the Event that it is worth. `unix_seconds` is what the clocks of all nodes show.
    pub fn take(
        &mut self,
        subject: Subject,
        state: TargetState,
        now: Instant,
        unix_seconds: u64,
    ) -> Option<Note> {
        let key = subject.uid.clone();
        let is_wrong = state != TargetState::Resolves;
        let (reason, message) = describe(&subject.alias, state);
        let content = format!("{} {reason}", alias_of(&subject));
        let subject = Object::from(subject);
        let name = name(&subject, &content, unix_seconds / STEP);
        let note = Note {
            subject,
            key,
            name,
            reason,
            message,
            is_warning: is_wrong,
        };
        self.tell(note, now, unix_seconds)
    }

    /// Takes names that a Service claims and does not get; returns the Event that this is worth.
    pub fn refuse(
        &mut self,
        subject: Object,
        message: String,
        now: Instant,
        unix_seconds: u64,
    ) -> Option<Note> {
        let note = Note {
            // Beside what comes of its look-ups.
            key: format!("claim {}", subject.uid),
            name: name(&subject, &message, unix_seconds / STEP),
            subject,
            reason: CLAIM_REFUSED,
            message,
            is_warning: true,
        };
        self.tell(note, now, unix_seconds)
    }

    fn tell(&mut self, note: Note, now: Instant, unix_seconds: u64) -> Option<Note> {
        let reported = Reported {
            message: note.message.clone(),
            period: if note.is_warning {
                unix_seconds / PERIOD
            } else {
                0
            },
        };
        if self.reported.get(&note.key) == Some(&reported) {
            return None;
        }
        let full_until = match note.reason {
            CLAIM_REFUSED => &mut self.claims_full_until,
            _ => &mut self.full_until,
        };
        let filled = (*full_until).max(now) + REFILL;
        if filled > now + REFILL * BURST {
            // Reported later.
            return None;
        }
        *full_until = filled;
        if self.reported.len() >= MAX_SERVICES {
            self.reported.clear();
        }
        self.reported.insert(note.key.clone(), reported);
        Some(note)
    }

    /// The last Event with this key was not sent after all.
    pub fn forget(&mut self, key: &str) {
        self.reported.remove(key);
    }
}

/// The reason of an Event on a Service that no rule is for.
pub const NOT_ALLOWED: &str = "NotAllowed";

/// That no rule is for the namespace of a Service, such as the one of this name.
pub fn not_allowed(subject: Subject, rule: &str, unix_seconds: u64) -> Note {
    let message = format!(
        "gregor's rule {rule} leads to Services of this name, and neither it nor any other is for this namespace: its pods get what they \
         would get without gregor; the platform team has to allow the namespace"
    );
    let content = format!("{} {NOT_ALLOWED}", alias_of(&subject));
    let key = subject.uid.clone();
    let subject = Object::from(subject);
    Note {
        // Nodes report it at different times, and one of them is enough.
        name: name(&subject, &content, unix_seconds / PERIOD),
        key,
        subject,
        reason: NOT_ALLOWED,
        message,
        is_warning: true,
    }
}

fn alias_of(subject: &Subject) -> String {
    subject.alias.to_ascii().trim_end_matches('.').to_owned()
}

/// The reason and the message for the outcome of a look-up.
fn describe(alias: &Name, state: TargetState) -> (&'static str, String) {
    let text = alias.to_ascii();
    let alias = text.trim_end_matches('.');
    match state {
        TargetState::Resolves => (
            "Resolved",
            format!("{alias} resolves: pods of this namespace get its addresses"),
        ),
        TargetState::Broken => (
            "DoesNotResolve",
            format!(
                "{alias} does not exist, or leads to a name that does not (NXDOMAIN): pods of this namespace get SERVFAIL; correct externalName"
            ),
        ),
        TargetState::NoAddress => (
            "NoAddress",
            format!(
                "{alias} has neither an A nor an AAAA record: pods of this namespace get SERVFAIL; correct externalName"
            ),
        ),
        TargetState::IsAddress => (
            "IsAddress",
            format!(
                "externalName must be a name, and {alias} is an address: pods of this namespace get SERVFAIL; for an address, use a Service without selector and an EndpointSlice"
            ),
        ),
    }
}

/// The name of an Event that says this, the same on every node while the step of the time is.
fn name(subject: &Object, content: &str, step: u64) -> String {
    let hash = Sha256::new()
        .chain_update(subject.uid.as_bytes())
        .chain_update(content.as_bytes())
        .chain_update(step.to_be_bytes())
        .finalize();
    let hash: String = hash[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    // At most 63 and 17 bytes: names of Events have up to 253.
    format!("{}.{hash}", subject.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: u64 = 1_800_000_000 / PERIOD * PERIOD;

    fn subject(uid: &str, alias: &str) -> Subject {
        Subject {
            namespace: "foo".to_owned(),
            name: "up".to_owned(),
            uid: uid.to_owned(),
            alias: Name::from_ascii(alias).unwrap(),
        }
    }

    fn events() -> (Events, Instant) {
        let now = Instant::now();
        (Events::new(now), now)
    }

    #[test]
    fn each_state_is_told_once_and_all_nodes_give_it_the_same_name() {
        let (mut one, now) = events();
        let (mut other, _) = events();
        let foo = || subject("1", "a.example.");
        let first = one.take(foo(), TargetState::Broken, now, AT).unwrap();
        assert_eq!((first.reason, first.is_warning), ("DoesNotResolve", true));
        assert!(first.message.starts_with("a.example does not exist"));
        assert_eq!(one.take(foo(), TargetState::Broken, now, AT + 60), None);
        let late = other.take(foo(), TargetState::Broken, now, AT + STEP - 1);
        assert_eq!(late.unwrap().name, first.name);
        let moved = one.take(subject("1", "b.example."), TargetState::Broken, now, AT);
        assert_ne!(moved.unwrap().name, first.name);
        let another = one.take(subject("2", "a.example."), TargetState::Broken, now, AT);
        assert_ne!(another.unwrap().name, first.name);
    }

    #[test]
    fn a_state_that_comes_back_is_told_again() {
        let (mut events, now) = events();
        let mut name = |state, at| {
            let note = events.take(subject("1", "a.example."), state, now, at);
            note.map(|note| note.name)
        };
        let first = name(TargetState::Resolves, AT).unwrap();
        name(TargetState::Broken, AT + 100).unwrap();
        assert_ne!(name(TargetState::Resolves, AT + STEP).unwrap(), first);
    }

    #[test]
    fn what_is_wrong_is_told_again_before_the_server_forgets_it_and_what_is_right_is_not() {
        for (state, again) in [
            (TargetState::Resolves, false),
            (TargetState::Broken, true),
            (TargetState::NoAddress, true),
            (TargetState::IsAddress, true),
        ] {
            let (mut events, now) = events();
            let mut take = |at| events.take(subject("1", "a.example."), state, now, at);
            assert!(take(AT).is_some());
            assert!(take(AT + PERIOD - 1).is_none());
            assert_eq!(take(AT + PERIOD).is_some(), again, "{state:?}");
        }
        const { assert!(PERIOD < 3600) };
    }

    #[test]
    fn a_node_sends_few_and_what_was_put_off_is_told_later() {
        let (mut events, now) = events();
        let mut take = |uid: u32, now| {
            let subject = subject(&uid.to_string(), "a.example.");
            events.take(subject, TargetState::Broken, now, AT).is_some()
        };
        assert_eq!(
            (0..100).filter(|uid| take(*uid, now)).count(),
            BURST as usize
        );
        assert!(!take(99, now));
        assert!(take(99, now + REFILL));
        assert!(!take(98, now + REFILL));
        let reported = (0..99).filter(|uid| take(*uid, now + Duration::from_secs(3600)));
        assert_eq!(reported.count(), BURST as usize);
    }

    #[test]
    fn that_no_rule_is_for_a_service_has_one_name_in_each_period() {
        let name = |at| not_allowed(subject("1", "a.example."), "kafka", at).name;
        assert_eq!(name(AT), name(AT + PERIOD - 1));
        assert_ne!(name(AT), name(AT + PERIOD));
        assert_ne!(
            name(AT),
            not_allowed(subject("2", "a.example."), "kafka", AT).name
        );
    }

    #[test]
    fn names_are_names_of_objects() {
        let (mut events, now) = events();
        let long = Subject {
            name: "x".repeat(63),
            ..subject("1", "a.example.")
        };
        let note = events.take(long, TargetState::IsAddress, now, AT).unwrap();
        assert!(note.name.len() <= 253);
        let is_good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.';
        assert!(note.name.chars().all(is_good), "{}", note.name);
    }

    #[test]
    fn refused_claims_are_told_beside_what_comes_of_look_ups() {
        let (mut events, now) = events();
        let object = || Object {
            namespace: "foo".to_owned(),
            name: "up".to_owned(),
            uid: "1".to_owned(),
        };
        let mut refuse = |message: &str, at| {
            let note = events.refuse(object(), message.to_owned(), now, at);
            note.map(|note| (note.reason, note.name))
        };
        let first = refuse("a.b: not allowed", AT).unwrap();
        assert_eq!(first.0, "ClaimRefused");
        assert_eq!(refuse("a.b: not allowed", AT + 1), None);
        assert_ne!(refuse("c.d: not allowed", AT).unwrap().1, first.1);
        assert!(refuse("c.d: not allowed", AT + PERIOD).is_some());
        for turn in 0..100 {
            refuse(&turn.to_string(), AT);
        }
        assert_eq!(refuse("x.y: not allowed", AT), None, "one node sends few");
        // However many claims are refused.
        assert!(
            events
                .take(subject("1", "a.example."), TargetState::Resolves, now, AT)
                .is_some()
        );
    }
}
