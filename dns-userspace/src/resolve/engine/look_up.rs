//! The state of one look-up: which name is asked for next, and whether the answer has to be confirmed.

use hickory_proto::rr::{Name, RecordType};

use crate::resolve::{
    cache::Key,
    chain::{Failure, Outcome},
};

/// Looks up the last target; where that does not exist, the ones before it, which may be more than names of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookUp {
    pub key: Key,
    /// The interface to whose limits it counts.
    pub ifindex: u32,
    /// The type that is asked for now.
    pub qtype: RecordType,
    /// An address of the other family is cached, so that none has to be looked for.
    pub has_address: bool,
    /// Index into `key.via`; its length for the target.
    index: usize,
    /// The answer that is being confirmed by asking for another type.
    unconfirmed: Option<Outcome>,
}

/// What follows from the outcome for one name.
pub(super) enum Step {
    /// Ask for the next name.
    Ask(LookUp),
    /// The outcome for the key, if nothing contradicts it.
    Found(LookUp, Outcome),
    /// The outcome for the key.
    Confirmed(LookUp, Outcome),
}

impl LookUp {
    pub(super) fn new(key: Key, ifindex: u32, has_address: bool) -> LookUp {
        LookUp {
            qtype: key.qtype,
            index: key.via.len(),
            key,
            ifindex,
            has_address,
            unconfirmed: None,
        }
    }

    /// The name that is asked for now, at `key.upstream`.
    pub fn name(&self) -> &Name {
        self.key.via.get(self.index).unwrap_or(&self.key.target)
    }

    /// The same for another type, to confirm an answer.
    pub(super) fn confirm(self, qtype: RecordType, has_address: bool, answer: Outcome) -> LookUp {
        LookUp {
            qtype,
            has_address,
            index: self.key.via.len(),
            unconfirmed: Some(answer),
            ..self
        }
    }

    /// Takes the outcome for [`LookUp::name`].
    pub(super) fn take(mut self, outcome: Outcome) -> Step {
        if outcome == Outcome::NoTarget && self.index > 0 {
            self.index -= 1;
            return Step::Ask(self);
        }
        match self.unconfirmed.take() {
            // The upstream has one family and denies the other: the name is being added or removed, and both count as absent,
            // or a resolver that asks for both would see NXDOMAIN beside an answer.
            Some(_) if outcome == Outcome::NoTarget => Step::Confirmed(self, Outcome::NoTarget),
            Some(answer) => Step::Confirmed(self, answer),
            None => {
                let outcome = with_prefix(&self.key.via[..self.index], outcome);
                Step::Found(self, outcome)
            }
        }
    }
}

/// Puts the targets that led to an answer in front of its chain.
fn with_prefix(via: &[Name], outcome: Outcome) -> Outcome {
    let Outcome::Answer(mut answer) = outcome else {
        return outcome;
    };
    if via.iter().any(|name| answer.names.contains(name)) {
        return Outcome::Failed(Failure::Loop);
    }
    answer.names.splice(0..0, via.iter().cloned());
    Outcome::Answer(answer)
}
