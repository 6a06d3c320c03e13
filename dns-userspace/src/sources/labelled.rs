//! Which namespaces have the labels that rules select them by, as the API server reports them; no I/O.
//!
//! What was reported last stays while the API server is away: taking a tenant's endpoint away then would be worse than an allow-list
//! that is some minutes old.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::rules::selector::{self, Labelled, Labels};

/// What the API server says of namespaces.
#[derive(Clone, Debug)]
pub enum NamespaceReport {
    /// All that the watch selects, each with its labels.
    Listed(Vec<(String, BTreeMap<String, String>)>),
    Applied(String, BTreeMap<String, String>),
    /// It was deleted, or the watch selects it no longer.
    Deleted(String),
}

/// See the module.
#[derive(Debug)]
pub struct NamespaceLabels {
    selectors: Vec<Labels>,
    /// With the labels that are selected by. `None` before the first list.
    namespaces: Option<HashMap<String, BTreeMap<String, String>>>,
}

impl NamespaceLabels {
    pub fn new(selectors: Vec<Labels>) -> Self {
        Self {
            selectors,
            namespaces: None,
        }
    }

    /// The label selector of the API for all of them; empty where there is more than one, which one watch cannot have.
    pub fn query(selectors: &[Labels]) -> String {
        match selectors {
            [only] => selector::query(only),
            _ => String::new(),
        }
    }

    /// Takes a report; says what is known then, if anything is.
    pub fn take(&mut self, report: NamespaceReport) -> Option<Labelled> {
        match report {
            NamespaceReport::Listed(all) => {
                let all = all
                    .into_iter()
                    .map(|(name, labels)| (name, self.relevant(labels)));
                self.namespaces = Some(all.collect());
            }
            NamespaceReport::Applied(name, labels) => {
                let labels = self.relevant(labels);
                if let Some(namespaces) = &mut self.namespaces {
                    namespaces.insert(name, labels);
                }
            }
            NamespaceReport::Deleted(name) => {
                if let Some(namespaces) = &mut self.namespaces {
                    namespaces.remove(&name);
                }
            }
        }
        self.labelled()
    }

    fn labelled(&self) -> Option<Labelled> {
        let namespaces = self.namespaces.as_ref()?;
        let mut labelled = Labelled::default();
        for one in &self.selectors {
            let selected = namespaces
                .iter()
                .filter(|(_, labels)| selector::selects(one, labels))
                .map(|(name, _)| name.clone());
            labelled.set(one.clone(), selected.collect::<BTreeSet<_>>());
        }
        Some(labelled)
    }

    /// Others are not kept.
    fn relevant(&self, mut labels: BTreeMap<String, String>) -> BTreeMap<String, String> {
        labels.retain(|key, _| self.selectors.iter().any(|one| one.contains_key(key)));
        labels
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        labels.iter().map(owned).collect()
    }

    fn tier(value: &str) -> Labels {
        Labels::from([("tier".to_owned(), vec![value.to_owned()])])
    }

    fn names(labelled: Option<Labelled>, selector: &Labels) -> String {
        let labelled = labelled.unwrap();
        let names: Vec<&str> = labelled
            .of(selector)
            .unwrap()
            .iter()
            .map(String::as_str)
            .collect();
        names.join(" ")
    }

    #[test]
    fn nothing_is_known_before_the_first_list() {
        let mut all = NamespaceLabels::new(vec![tier("gold")]);
        let foo = || {
            (
                "foo".to_owned(),
                labels(&[("tier", "gold"), ("other", "x")]),
            )
        };
        let (name, own) = foo();
        assert_eq!(all.take(NamespaceReport::Applied(name, own)), None);
        assert_eq!(all.take(NamespaceReport::Deleted("foo".to_owned())), None);
        let listed = all.take(NamespaceReport::Listed(vec![foo()]));
        assert_eq!(names(listed, &tier("gold")), "foo");
        let kept = &all.namespaces.as_ref().unwrap()["foo"];
        assert_eq!(*kept, labels(&[("tier", "gold")]));
    }

    #[test]
    fn a_label_that_comes_changes_or_goes_is_seen() {
        let mut all = NamespaceLabels::new(vec![tier("gold"), tier("silver")]);
        all.take(NamespaceReport::Listed(vec![(
            "foo".to_owned(),
            labels(&[("tier", "gold")]),
        )]));
        let mut apply = |name: &str, own: &[(&str, &str)]| {
            let known = all.take(NamespaceReport::Applied(name.to_owned(), labels(own)));
            (
                names(known.clone(), &tier("gold")),
                names(known, &tier("silver")),
            )
        };
        let pair = |gold: &str, silver: &str| (gold.to_owned(), silver.to_owned());
        assert_eq!(apply("bar", &[("tier", "gold")]), pair("bar foo", ""));
        assert_eq!(apply("foo", &[("tier", "silver")]), pair("bar", "foo"));
        assert_eq!(apply("foo", &[]), pair("bar", ""));
        let deleted = all.take(NamespaceReport::Deleted("bar".to_owned()));
        assert_eq!(names(deleted, &tier("gold")), "");
        // What was missed while the watch was away.
        let listed = all.take(NamespaceReport::Listed(vec![(
            "baz".to_owned(),
            labels(&[("tier", "gold")]),
        )]));
        assert_eq!(names(listed, &tier("gold")), "baz");
    }

    #[test]
    fn one_selector_is_left_to_the_api_server() {
        assert_eq!(NamespaceLabels::query(&[tier("gold")]), "tier in (gold)");
        assert_eq!(NamespaceLabels::query(&[tier("gold"), tier("silver")]), "");
    }
}
