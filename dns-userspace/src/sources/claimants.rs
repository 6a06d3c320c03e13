//! The Services whose annotation claims names, as they were reported last; no I/O.

use std::collections::BTreeMap;

use crate::model::Claimant;

/// What is said of them.
#[derive(Clone, Debug)]
pub enum ClaimReport {
    /// All of them.
    Listed(Vec<Claimant>),
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
            ClaimReport::Listed(all) => {
                let id =
                    |claimant: &Claimant| (claimant.namespace.clone(), claimant.service.clone());
                let by_id = all
                    .into_iter()
                    .map(|claimant| (id(&claimant), claimant))
                    .collect();
                let is_news = !self.is_listed || self.by_id != by_id;
                self.by_id = by_id;
                self.is_listed = true;
                is_news
            }
            ClaimReport::Applied(namespace, name, Some(claimant)) => {
                let before = self.by_id.insert((namespace, name), claimant.clone());
                before != Some(claimant)
            }
            ClaimReport::Applied(namespace, name, None) | ClaimReport::Deleted(namespace, name) => {
                self.by_id.remove(&(namespace, name)).is_some()
            }
        }
    }

    /// All that are known; `None` before there was a list.
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
}
