//! Which of the wanted interfaces have a program, and why the others have none.

use std::collections::BTreeMap;

use crate::{
    datapath::{Datapath, InFront, Interface, one_line},
    discover::Event,
    observe::{InFrontStatus, InterfaceStatus},
};

/// What can be attached and detached.
pub trait Programs {
    /// Attaches; an interface that has the program already is not an error.
    fn attach(&mut self, interface: &Interface) -> Result<(), String>;
    /// Detaches; an interface that does not exist is not an error.
    fn detach(&mut self, index: u32);
}

impl Programs for Datapath {
    fn attach(&mut self, interface: &Interface) -> Result<(), String> {
        Datapath::attach(self, interface).map_err(|error| one_line(&error))
    }

    fn detach(&mut self, index: u32) {
        Datapath::detach(self, index);
    }
}

/// The wanted interfaces; as many as the node has.
#[derive(Debug, Default)]
pub struct Attachments {
    wanted: BTreeMap<u32, Wanted>,
    removals: u64,
    moves: u64,
}

#[derive(Debug, Default)]
struct Wanted {
    name: String,
    error: Option<String>,
    backoff: Backoff,
    /// What gets the frames before the program.
    in_front: Vec<InFront>,
    /// Of moves in front.
    moves: Backoff,
}

/// When a program is attached or moved again after another process detached it or attached in front of it: at once, then after
/// more and more retries, so that two agents do not fight for ever.
#[derive(Clone, Copy, Debug, Default)]
struct Backoff {
    removals: u32,
    /// Retries to skip.
    wait: u32,
    /// Retries since it was attached again.
    steady: u32,
}

impl Backoff {
    const MAX_WAIT: u32 = 64;

    fn removed(&mut self) {
        self.wait = match self.removals {
            0 => 0,
            removals => 1u32
                .checked_shl(removals)
                .unwrap_or(u32::MAX)
                .min(Self::MAX_WAIT),
        };
        self.removals += 1;
        self.steady = 0;
    }

    /// A retry, with the program on its hook or not.
    fn tick(&mut self, attached: bool) {
        if !attached {
            self.wait = self.wait.saturating_sub(1);
            return;
        }
        self.steady += 1;
        if self.steady >= Self::MAX_WAIT {
            *self = Self::default();
        }
    }
}

impl Attachments {
    /// Does what an event asks for.
    pub fn apply(&mut self, programs: &mut impl Programs, event: Event) {
        match event {
            Event::Appeared(interface) => self.attach(programs, interface),
            Event::Renamed(interface) => {
                if let Some(wanted) = self.wanted.get_mut(&interface.index) {
                    wanted.name.clone_from(&interface.name);
                    // Attaching goes by name, so the old one may have been why it failed.
                    if wanted.error.is_some() {
                        self.attach(programs, interface);
                    }
                }
            }
            Event::Vanished(index) => {
                if self.wanted.remove(&index).is_some() {
                    programs.detach(index);
                }
            }
        }
    }

    /// Tries again what failed; `true` when every wanted interface has the program now.
    pub fn retry(&mut self, programs: &mut impl Programs) -> bool {
        for wanted in self.wanted.values_mut() {
            wanted.backoff.tick(wanted.error.is_none());
            wanted.moves.tick(!is_by_chance(&wanted.in_front));
        }
        self.attach_due(programs);
        self.complete()
    }

    /// Attaches what failed and need not wait for a retry.
    pub fn attach_due(&mut self, programs: &mut impl Programs) {
        for interface in self.failed() {
            self.attach(programs, interface);
        }
    }

    /// An interface lost its program while that was being replaced.
    pub fn lost(&mut self, interface: &Interface, error: String) {
        if let Some(wanted) = self.wanted.get_mut(&interface.index) {
            wanted.error = Some(error);
        }
    }

    /// Another process detached the program: the next retry attaches it again, or a later one where that happens repeatedly.
    pub fn removed(&mut self, interface: &Interface) {
        self.removals += 1;
        if let Some(wanted) = self.wanted.get_mut(&interface.index) {
            tracing::warn!(
                interface = interface.name,
                times = wanted.backoff.removals + 1,
                "another process detached the program; attaching it again"
            );
            wanted.error = Some("another process detached the program".to_owned());
            wanted.backoff.removed();
        }
    }

    /// How often another process detached a program.
    pub fn removals(&self) -> u64 {
        self.removals
    }

    /// What gets the frames of an interface before the program now. `true` when the program is to be moved in front of it.
    pub fn update_in_front(&mut self, interface: &Interface, found: Vec<InFront>) -> bool {
        let Some(wanted) = self.wanted.get_mut(&interface.index) else {
            return false;
        };
        if wanted.in_front != found {
            log_in_front(&interface.name, &found);
        }
        let (was, is) = (is_by_chance(&wanted.in_front), is_by_chance(&found));
        wanted.in_front = found;
        if is && !was {
            wanted.moves.removed();
        }
        is && wanted.moves.wait == 0
    }

    /// The program was moved in front of what was there by chance.
    pub fn moved(&mut self, interface: &Interface) {
        self.moves += 1;
        if let Some(wanted) = self.wanted.get_mut(&interface.index) {
            tracing::info!(
                interface = interface.name,
                times = wanted.moves.removals,
                "moved the program in front"
            );
            wanted.in_front.retain(|one| !one.is_by_chance);
        }
    }

    /// How often a program was moved in front.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    /// Whether an interface is wanted.
    pub fn wants(&self, index: u32) -> bool {
        self.wanted.contains_key(&index)
    }

    /// Whether every wanted interface has the program.
    pub fn complete(&self) -> bool {
        self.wanted.values().all(|wanted| wanted.error.is_none())
    }

    /// For `gregor status`, without the mode.
    pub fn status(&self) -> Vec<InterfaceStatus> {
        self.wanted
            .iter()
            .map(|(index, wanted)| InterfaceStatus {
                index: *index,
                name: wanted.name.clone(),
                mode: None,
                error: wanted.error.clone(),
                in_front: wanted.in_front.iter().map(described).collect(),
                ..InterfaceStatus::default()
            })
            .collect()
    }

    fn failed(&self) -> Vec<Interface> {
        self.wanted
            .iter()
            .filter(|(_, wanted)| wanted.error.is_some() && wanted.backoff.wait == 0)
            .map(|(index, wanted)| Interface {
                index: *index,
                name: wanted.name.clone(),
            })
            .collect()
    }

    fn attach(&mut self, programs: &mut impl Programs, interface: Interface) {
        let error = programs.attach(&interface).err();
        let wanted = self.wanted.entry(interface.index).or_default();
        match &error {
            // Logged once, not at every retry.
            Some(error) if wanted.error.as_ref() != Some(error) => {
                tracing::warn!(
                    interface = interface.name,
                    error,
                    "cannot attach; will try again"
                );
            }
            Some(_) => {}
            None => tracing::debug!(
                interface = interface.name,
                index = interface.index,
                "attached"
            ),
        }
        wanted.name = interface.name;
        wanted.error = error;
    }
}

fn is_by_chance(found: &[InFront]) -> bool {
    found.iter().any(|one| one.is_by_chance)
}

fn described(found: &InFront) -> InFrontStatus {
    InFrontStatus {
        hook: found.hook.to_owned(),
        program: found.name.clone(),
    }
}

fn log_in_front(interface: &str, found: &[InFront]) {
    if found.is_empty() {
        tracing::info!(interface, "no program is in front of gregor's any more");
        return;
    }
    let programs: Vec<String> = found
        .iter()
        .map(|one| format!("{} ({})", one.name, one.hook))
        .collect();
    tracing::warn!(
        interface,
        programs = programs.join(", "),
        "in front of gregor's program, which sees only what these pass on"
    );
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A kernel that refuses some names.
    #[derive(Default)]
    struct Fake {
        attached: BTreeSet<u32>,
        refuses: BTreeSet<String>,
    }

    impl Programs for Fake {
        fn attach(&mut self, interface: &Interface) -> Result<(), String> {
            if self.refuses.contains(&interface.name) {
                return Err(format!("{} is busy", interface.name));
            }
            self.attached.insert(interface.index);
            Ok(())
        }

        fn detach(&mut self, index: u32) {
            self.attached.remove(&index);
        }
    }

    fn interface(index: u32, name: &str) -> Interface {
        Interface {
            index,
            name: name.to_owned(),
        }
    }

    fn errors(attachments: &Attachments) -> Vec<(String, bool)> {
        attachments
            .status()
            .into_iter()
            .map(|status| (status.name, status.error.is_some()))
            .collect()
    }

    #[test]
    fn failures_are_kept_retried_and_dropped_with_their_interface() {
        let mut kernel = Fake::default();
        kernel.refuses.insert("b".to_owned());
        let mut attachments = Attachments::default();
        assert!(attachments.complete(), "nothing wanted is everything done");
        attachments.apply(&mut kernel, Event::Appeared(interface(1, "a")));
        attachments.apply(&mut kernel, Event::Appeared(interface(2, "b")));
        assert!(!attachments.complete());
        assert_eq!(
            errors(&attachments),
            [("a".to_owned(), false), ("b".to_owned(), true)]
        );
        assert!(!attachments.retry(&mut kernel));
        kernel.refuses.clear();
        assert!(attachments.retry(&mut kernel));
        assert_eq!(kernel.attached, BTreeSet::from([1, 2]));

        attachments.lost(&interface(1, "a"), "no".to_owned());
        assert!(!attachments.complete());
        attachments.apply(&mut kernel, Event::Vanished(1));
        assert!(attachments.complete());
        assert_eq!(kernel.attached, BTreeSet::from([2]));
    }

    #[test]
    fn removed_programs_are_attached_again_at_growing_intervals() {
        let mut kernel = Fake::default();
        let mut attachments = Attachments::default();
        let veth = interface(1, "veth");
        attachments.apply(&mut kernel, Event::Appeared(veth.clone()));
        let mut retries = Vec::new();
        for _ in 0..8 {
            attachments.removed(&veth);
            assert!(!attachments.complete());
            retries.push(1);
            while !attachments.retry(&mut kernel) {
                *retries.last_mut().unwrap() += 1;
            }
        }
        assert_eq!(retries, [1, 2, 4, 8, 16, 32, 64, 64]);
        assert_eq!(attachments.removals(), 8);
        // Long enough in peace.
        for _ in 0..64 {
            attachments.retry(&mut kernel);
        }
        attachments.removed(&veth);
        assert!(attachments.retry(&mut kernel));
    }

    #[test]
    fn programs_in_front_are_logged_and_overtaken_at_growing_intervals() {
        let mut kernel = Fake::default();
        let mut attachments = Attachments::default();
        let veth = interface(1, "veth");
        attachments.apply(&mut kernel, Event::Appeared(veth.clone()));
        let front = |is_by_chance| InFront {
            hook: "clsact",
            name: "policy".to_owned(),
            is_by_chance,
        };
        // Placed there on purpose: it stays.
        for _ in 0..10 {
            assert!(!attachments.update_in_front(&veth, vec![front(false)]));
        }
        assert_eq!(attachments.status()[0].in_front[0].program, "policy");
        assert!(attachments.complete());
        assert!(!attachments.update_in_front(&veth, Vec::new()));
        assert!(attachments.status()[0].in_front.is_empty());

        let mut looks = Vec::new();
        for _ in 0..8 {
            looks.push(1);
            while !attachments.update_in_front(&veth, vec![front(true)]) {
                attachments.retry(&mut kernel);
                *looks.last_mut().unwrap() += 1;
            }
            attachments.moved(&veth);
            assert!(attachments.status()[0].in_front.is_empty());
        }
        assert_eq!(looks, [1, 3, 5, 9, 17, 33, 65, 65]);
        assert_eq!(attachments.moves(), 8);
        // Long enough in peace.
        for _ in 0..64 {
            attachments.retry(&mut kernel);
        }
        assert!(attachments.update_in_front(&veth, vec![front(true)]));
        // Not wanted: nothing to move.
        assert!(!attachments.update_in_front(&interface(2, "other"), vec![front(true)]));
    }

    #[test]
    fn a_rename_keeps_what_works_and_retries_what_failed() {
        let mut kernel = Fake::default();
        kernel.refuses.insert("bad".to_owned());
        let mut attachments = Attachments::default();
        attachments.apply(&mut kernel, Event::Appeared(interface(1, "good")));
        attachments.apply(&mut kernel, Event::Appeared(interface(2, "bad")));
        attachments.apply(&mut kernel, Event::Renamed(interface(1, "better")));
        attachments.apply(&mut kernel, Event::Renamed(interface(2, "fine")));
        assert_eq!(
            errors(&attachments),
            [("better".to_owned(), false), ("fine".to_owned(), false)]
        );
        assert_eq!(kernel.attached, BTreeSet::from([1, 2]));
        // Not wanted.
        attachments.apply(&mut kernel, Event::Renamed(interface(9, "x")));
        attachments.apply(&mut kernel, Event::Vanished(9));
        assert_eq!(attachments.status().len(), 2);
    }
}
