//! Decides which links are wanted, and what changed since the last look; no I/O.

use std::collections::BTreeMap;

use globset::{Glob, GlobSet, GlobSetBuilder};

use crate::model::{Interface, RETURN_DEVICES};

/// A network interface as rtnetlink reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// IFLA_INFO_KIND, such as `veth`; empty for hardware.
    pub kind: String,
    /// IFLA_LINK_NETNSID is there: the peer lives in another network namespace.
    pub peer_elsewhere: bool,
    /// A default route leaves by it: it is the node's uplink, also where the node itself is a container with a veth.
    pub is_uplink: bool,
}

/// Which links are wanted.
#[derive(Clone, Debug)]
pub enum Selection {
    /// Every veth whose peer lives in another network namespace, but for the node's own uplinks.
    PodVeths,
    /// Every link whose name matches one of the globs, whatever its kind.
    Globs(GlobSet),
}

/// An invalid glob.
#[derive(Debug, thiserror::Error)]
#[error("`{glob}` is not a glob: {reason}; write for example \"cali*\" or \"eni*\"")]
pub struct SelectionError {
    pub glob: String,
    pub reason: String,
}

impl Selection {
    /// The globs, or pod veths when there are none.
    pub fn new<S: AsRef<str>>(globs: &[S]) -> Result<Self, SelectionError> {
        if globs.is_empty() {
            return Ok(Self::PodVeths);
        }
        let mut set = GlobSetBuilder::new();
        for glob in globs {
            let glob = glob.as_ref();
            set.add(Glob::new(glob).map_err(|error| SelectionError {
                glob: glob.to_owned(),
                reason: error.kind().to_string(),
            })?);
        }
        let set = set.build().map_err(|error| SelectionError {
            glob: error.glob().unwrap_or_default().to_owned(),
            reason: error.kind().to_string(),
        })?;
        Ok(Self::Globs(set))
    }

    /// Whether an interface of this name may be wanted, if its kind fits.
    pub fn may_want(&self, name: &str) -> bool {
        match self {
            Self::PodVeths => true,
            Self::Globs(globs) => globs.is_match(name),
        }
    }

    /// Whether a link is to be attached to.
    pub fn wants(&self, link: &Link) -> bool {
        self.judge(link).is_ok()
    }

    /// Why a link is to be attached to, or, as an error, why it is left alone.
    pub fn judge(&self, link: &Link) -> Result<Taken, Left> {
        if RETURN_DEVICES.contains(&link.name.as_str()) {
            return Err(Left::Own);
        }
        match self {
            Self::PodVeths => match link.kind.as_str() {
                "veth" if link.is_uplink => Err(Left::Uplink),
                "veth" if link.peer_elsewhere => Ok(Taken::PodVeth),
                "veth" => Err(Left::PeerHere),
                _ => Err(Left::Kind),
            },
            Self::Globs(globs) if globs.is_match(&link.name) => Ok(Taken::Named),
            Self::Globs(_) => Err(Left::NotNamed),
        }
    }
}

/// Why a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A veth whose peer is in another network namespace.
    PodVeth,
    /// Its name matches a glob.
    Named,
}

/// Why a link is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// gregor's own device.
    Own,
    /// A veth by which a default route leaves.
    Uplink,
    /// A veth whose peer is in this network namespace.
    PeerHere,
    /// It is no veth.
    Kind,
    /// Its name matches no glob.
    NotNamed,
}

/// What happened to the wanted interfaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Attach to it.
    Appeared(Interface),
    /// It has another name now; programs are attached by index and stay.
    Renamed(Interface),
    /// It was deleted, moved to another namespace, or is no longer wanted.
    Vanished(u32),
}

/// The wanted interfaces that were last seen.
#[derive(Debug)]
pub struct Tracker {
    selection: Selection,
    /// As many as the node has interfaces.
    known: BTreeMap<u32, String>,
}

impl Tracker {
    pub fn new(selection: Selection) -> Self {
        Self {
            selection,
            known: BTreeMap::new(),
        }
    }

    /// Selects other links; takes effect with the next [`Tracker::resync`].
    pub fn select(&mut self, selection: Selection) {
        self.selection = selection;
    }

    /// RTM_NEWLINK: the link is there, new or changed.
    pub fn seen(&mut self, link: Link) -> Option<Event> {
        if !self.selection.wants(&link) {
            return self.gone(link.index);
        }
        let interface = Interface {
            index: link.index,
            name: link.name.clone(),
        };
        match self.known.insert(link.index, link.name.clone()) {
            None => Some(Event::Appeared(interface)),
            Some(before) if before != link.name => Some(Event::Renamed(interface)),
            Some(_) => None,
        }
    }

    /// RTM_DELLINK: the link was deleted or left this namespace.
    pub fn gone(&mut self, index: u32) -> Option<Event> {
        self.known.remove(&index).map(|_| Event::Vanished(index))
    }

    /// A dump: everything that is there now. Whatever was missed in between comes out as events.
    ///
    /// An index under another name may be a rename or another interface altogether, because the messages between were
    /// lost: it vanishes and appears again.
    pub fn resync(&mut self, links: Vec<Link>) -> Vec<Event> {
        let before = std::mem::take(&mut self.known);
        let mut appeared = Vec::new();
        for link in links {
            if !self.selection.wants(&link) {
                continue;
            }
            if before.get(&link.index) != Some(&link.name) {
                appeared.push(Event::Appeared(Interface {
                    index: link.index,
                    name: link.name.clone(),
                }));
            }
            self.known.insert(link.index, link.name);
        }
        before
            .iter()
            .filter(|(index, name)| self.known.get(index) != Some(name))
            .map(|(index, _)| Event::Vanished(*index))
            .chain(appeared)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, kind: &str) -> Link {
        Link {
            index,
            name: name.to_owned(),
            kind: if kind.contains("veth") { "veth" } else { "" }.to_owned(),
            peer_elsewhere: kind.contains("elsewhere"),
            is_uplink: kind.contains("uplink"),
        }
    }

    fn appeared(index: u32, name: &str) -> Event {
        Event::Appeared(Interface {
            index,
            name: name.to_owned(),
        })
    }

    fn renamed(index: u32, name: &str) -> Event {
        Event::Renamed(Interface {
            index,
            name: name.to_owned(),
        })
    }

    #[test]
    fn links_wanted() {
        let table: &[(&[&str], &str, &str, bool, &str)] = &[
            (&[], "veth1", "veth elsewhere", true, "a pod's veth"),
            (&[], "veth1", "veth", false, "both ends on the node"),
            (
                &[],
                "eth0",
                "veth elsewhere uplink",
                false,
                "the uplink of a node that is a container",
            ),
            (
                &["eth*"],
                "eth0",
                "veth elsewhere uplink",
                true,
                "an uplink that was asked for",
            ),
            (
                &[],
                "vlan7",
                "elsewhere",
                false,
                "a VLAN over a link elsewhere is not a veth",
            ),
            (&[], "eth0", "", false, "a NIC"),
            (
                &["cali*", "eni*"],
                "cali12ab",
                "veth elsewhere",
                true,
                "first glob",
            ),
            (
                &["cali*", "eni*"],
                "eni9",
                "",
                true,
                "second glob, any kind",
            ),
            (
                &["cali*", "eni*"],
                "veth1",
                "veth elsewhere",
                false,
                "globs replace the default",
            ),
            (&["eth0"], "eth0", "", true, "a plain name"),
            (
                &["eth0"],
                "eth01",
                "",
                false,
                "a plain name is not a prefix",
            ),
            (&["[ev]*"], "veth3", "", true, "a class"),
        ];
        for (globs, name, kind, wanted, why) in table {
            let selection = Selection::new(globs).unwrap();
            assert_eq!(selection.wants(&link(1, name, kind)), *wanted, "{why}");
        }
    }

    #[test]
    fn a_bad_glob_is_named_with_a_remedy() {
        let error = Selection::new(&["ok*", "cali["]).unwrap_err().to_string();
        assert!(error.starts_with("`cali[` is not a glob"), "{error}");
        assert!(error.contains("write for example"), "{error}");
    }

    #[test]
    fn a_link_appears_once_and_vanishes_once() {
        let mut tracker = Tracker::new(Selection::PodVeths);
        // Created on the node with both ends here, then one end moves into the pod.
        assert_eq!(tracker.seen(link(7, "veth7", "veth")), None);
        assert_eq!(
            tracker.seen(link(7, "veth7", "veth elsewhere")),
            Some(appeared(7, "veth7"))
        );
        assert_eq!(tracker.seen(link(7, "veth7", "veth elsewhere")), None);
        assert_eq!(tracker.gone(7), Some(Event::Vanished(7)));
        assert_eq!(tracker.gone(7), None);
        // The index may be used again.
        assert_eq!(
            tracker.seen(link(7, "other", "veth elsewhere")),
            Some(appeared(7, "other"))
        );
    }

    #[test]
    fn a_link_vanishes_when_its_peer_comes_back() {
        let mut tracker = Tracker::new(Selection::PodVeths);
        tracker.seen(link(7, "veth7", "veth elsewhere"));
        assert_eq!(
            tracker.seen(link(7, "veth7", "veth")),
            Some(Event::Vanished(7))
        );
    }

    #[test]
    fn a_renamed_link_is_matched_against_the_globs_again() {
        let mut tracker = Tracker::new(Selection::new(&["cali*"]).unwrap());
        assert_eq!(tracker.seen(link(7, "tmp7", "veth")), None);
        assert_eq!(
            tracker.seen(link(7, "cali7", "veth")),
            Some(appeared(7, "cali7"))
        );
        assert_eq!(
            tracker.seen(link(7, "cali8", "veth")),
            Some(renamed(7, "cali8"))
        );
        assert_eq!(
            tracker.seen(link(7, "tmp7", "veth")),
            Some(Event::Vanished(7))
        );
    }

    #[test]
    fn a_dump_gives_only_what_changed() {
        let mut tracker = Tracker::new(Selection::PodVeths);
        let pod = |index, name| link(index, name, "veth elsewhere");
        assert_eq!(
            tracker.resync(vec![
                pod(1, "a"),
                pod(2, "b"),
                pod(3, "c"),
                link(9, "lo", "")
            ]),
            [appeared(1, "a"), appeared(2, "b"), appeared(3, "c")]
        );
        assert_eq!(
            tracker.resync(vec![pod(1, "a"), pod(3, "other"), pod(4, "d")]),
            [
                Event::Vanished(2),
                Event::Vanished(3),
                appeared(3, "other"),
                appeared(4, "d")
            ]
        );
        assert_eq!(
            tracker.resync(vec![pod(1, "a"), pod(3, "other"), pod(4, "d")]),
            []
        );
    }

    #[test]
    fn another_selection_takes_effect_with_the_next_dump() {
        let mut tracker = Tracker::new(Selection::PodVeths);
        let links = || vec![link(1, "veth1", "veth elsewhere"), link(2, "eth0", "")];
        tracker.resync(links());
        tracker.select(Selection::new(&["eth*"]).unwrap());
        assert_eq!(
            tracker.resync(links()),
            [Event::Vanished(1), appeared(2, "eth0")]
        );
    }

    #[test]
    fn any_sequence_of_changes_ends_where_a_dump_would() {
        use proptest::prelude::*;
        proptest!(|(steps in proptest::collection::vec((1u32..5, 0u8..4, 0u8..2), 0..40))| {
            let mut tracker = Tracker::new(Selection::PodVeths);
            let mut attached = BTreeMap::new();
            let mut truth: BTreeMap<u32, Link> = BTreeMap::new();
            let apply = |attached: &mut BTreeMap<u32, String>, event: Event| match event {
                Event::Appeared(interface) => {
                    assert!(attached.insert(interface.index, interface.name).is_none());
                }
                Event::Renamed(interface) => {
                    assert!(attached.insert(interface.index, interface.name).is_some());
                }
                Event::Vanished(index) => assert!(attached.remove(&index).is_some()),
            };
            for (index, action, name) in steps {
                let name = ["a", "b"][usize::from(name)];
                let event = match action {
                    0 => { truth.remove(&index); tracker.gone(index) }
                    1 => { truth.remove(&index); None }
                    2 => {
                        truth.insert(index, link(index, name, "veth"));
                        tracker.seen(link(index, name, "veth"))
                    }
                    _ => {
                        truth.insert(index, link(index, name, "veth elsewhere"));
                        tracker.seen(link(index, name, "veth elsewhere"))
                    }
                };
                if let Some(event) = event { apply(&mut attached, event); }
            }
            for event in tracker.resync(truth.values().cloned().collect()) {
                apply(&mut attached, event);
            }
            let expected: BTreeMap<u32, String> = truth
                .into_values()
                .filter(|link| link.peer_elsewhere)
                .map(|link| (link.index, link.name))
                .collect();
            prop_assert_eq!(attached, expected);
        });
    }
}
