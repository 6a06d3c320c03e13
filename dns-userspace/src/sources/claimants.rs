//! The Services whose annotation claims names, as they were reported last; no I/O.

use std::collections::BTreeMap;

use crate::model::Claimant;

/// Services of a namespace whose annotation is kept: of further ones, that they have it.
const MAX_SERVICES: usize = 64;

/// What is said of them.
#[derive(Clone, Debug)]
pub enum ClaimReport {
    /// All of them.
    Listed(Vec<Claimant>),
    /// What an earlier process has known: it counts until there is a list.
    Kept(Vec<Claimant>),
    /// A Service was created or changed: what it claims now, if anything, by namespace and name.
    Applied(String, String, Option<Claimant>),
    /// It was deleted, or is no ExternalName any more.
    Deleted(String, String),
}

/// See the module.
#[derive(Debug, Default)]
pub struct Claimants {
    by_id: BTreeMap<(String, String), Claimant>,
    is_listed: bool,
}

impl Claimants {
    /// Takes a report; returns whether anything is another thing than before.
    pub fn take(&mut self, report: ClaimReport) -> bool {
        match report {
            ClaimReport::Kept(_) if self.is_listed => false,
            ClaimReport::Kept(mut all) | ClaimReport::Listed(mut all) => {
                // The same ones are kept whatever the order.
                all.sort_by(|a, b| (a.created, &a.service).cmp(&(b.created, &b.service)));
                let before = std::mem::take(&mut self.by_id);
                for claimant in all {
                    self.apply(claimant);
                }
                let was_listed = std::mem::replace(&mut self.is_listed, true);
                !was_listed || self.by_id != before
            }
            ClaimReport::Applied(_, _, Some(claimant)) => self.apply(claimant),
            ClaimReport::Applied(namespace, name, None) | ClaimReport::Deleted(namespace, name) => {
                self.by_id.remove(&(namespace, name)).is_some()
            }
        }
    }

    fn apply(&mut self, mut claimant: Claimant) -> bool {
        let id = (claimant.namespace.clone(), claimant.service.clone());
        let first = (claimant.namespace.clone(), String::new());
        let own = self.by_id.range(first..);
        let own = own.take_while(|((namespace, _), _)| *namespace == claimant.namespace);
        let others = own.filter(|(other, kept)| **other != id && !kept.names.is_empty());
        if others.count() >= MAX_SERVICES {
            claimant.names = String::new();
            claimant.is_cut = true;
        }
        self.by_id.insert(id, claimant.clone()) != Some(claimant)
    }

    /// All that are known; `None` before anything was.
    pub fn all(&self) -> Option<Vec<Claimant>> {
        self.is_listed
            .then(|| self.by_id.values().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimant(service: &str, names: &str) -> Claimant {
        Claimant {
            namespace: "foo".to_owned(),
            service: service.to_owned(),
            names: names.to_owned(),
            ..Claimant::default()
        }
    }

    #[test]
    fn only_what_differs_is_news() {
        let mut claimants = Claimants::default();
        assert_eq!(claimants.all(), None);
        assert!(
            claimants.take(ClaimReport::Listed(vec![])),
            "the first list"
        );
        assert!(!claimants.take(ClaimReport::Listed(vec![])));
        let applied = |names: Option<&str>| {
            let claimant = names.map(|names| claimant("up", names));
            ClaimReport::Applied("foo".to_owned(), "up".to_owned(), claimant)
        };
        assert!(!claimants.take(applied(None)));
        assert!(claimants.take(applied(Some("a.example"))));
        assert!(!claimants.take(applied(Some("a.example"))));
        assert!(claimants.take(applied(Some("b.example"))));
        assert_eq!(claimants.all().unwrap(), [claimant("up", "b.example")]);
        assert!(!claimants.take(ClaimReport::Listed(vec![claimant("up", "b.example")])));
        let deleted = || ClaimReport::Deleted("foo".to_owned(), "up".to_owned());
        assert!(claimants.take(deleted()) && !claimants.take(deleted()));
        assert!(claimants.take(applied(Some("a.example"))) && claimants.take(applied(None)));
    }

    #[test]
    fn what_was_kept_counts_until_there_is_a_list() {
        let kept = |names: &str| ClaimReport::Kept(vec![claimant("up", names)]);
        let mut claimants = Claimants::default();
        assert!(claimants.take(kept("a.example")));
        assert_eq!(claimants.all().unwrap(), [claimant("up", "a.example")]);
        let listed = |names: &str| ClaimReport::Listed(vec![claimant("up", names)]);
        assert!(!claimants.take(listed("a.example")), "no other than before");
        assert!(claimants.take(listed("b.example")));
        assert!(!claimants.take(kept("a.example")));
        assert_eq!(claimants.all().unwrap(), [claimant("up", "b.example")]);
    }

    #[test]
    fn annotations_of_one_namespace_take_bounded_memory() {
        let mut claimants = Claimants::default();
        let many = (0..1000).map(|n| claimant(&format!("s{n}"), "a.example"));
        let other = Claimant {
            namespace: "zoo".to_owned(),
            ..claimant("up", "b.example")
        };
        claimants.take(ClaimReport::Listed(many.chain([other.clone()]).collect()));
        let kept = |claimants: &Claimants| {
            let all = claimants.all().unwrap();
            let own = all.iter().filter(|one| one.namespace == "foo");
            let (kept, cut): (Vec<_>, Vec<_>) = own.partition(|one| !one.names.is_empty());
            assert!(cut.iter().all(|one| one.is_cut));
            assert!(all.contains(&other));
            (kept.len(), cut.len())
        };
        assert_eq!(kept(&claimants), (MAX_SERVICES, 1000 - MAX_SERVICES));
        claimants.take(ClaimReport::Deleted("foo".to_owned(), "s0".to_owned()));
        let again = claimant("s999", "a.example");
        claimants.take(ClaimReport::Applied(
            "foo".to_owned(),
            "s999".to_owned(),
            Some(again),
        ));
        assert_eq!(kept(&claimants), (MAX_SERVICES, 999 - MAX_SERVICES));
    }
}
