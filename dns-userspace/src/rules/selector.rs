//! Selectors of labels, as they are written: keys, each with the values that it may have; and the namespaces that they select.

use std::collections::{BTreeMap, BTreeSet};

use super::labels::{Problem, is_rfc1123};

/// A value that any value matches.
const ANY_VALUE: &str = "*";
/// Longest key of a label: prefix, slash and name.
const MAX_LABEL_KEY: usize = 253 + 1 + 63;

/// Keys of labels, each with the values that it may have; `*` for any. All of them have to match.
pub type Labels = BTreeMap<String, Vec<String>>;

/// The namespaces that have the labels of each selector. Nothing is known of a selector that is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Labelled(BTreeMap<Labels, BTreeSet<String>>);

impl Labelled {
    /// What is known of a selector from now on.
    pub fn set(&mut self, selector: Labels, namespaces: BTreeSet<String>) {
        self.0.insert(selector, namespaces);
    }

    /// `None` where nothing is known.
    pub fn of(&self, selector: &Labels) -> Option<&BTreeSet<String>> {
        self.0.get(selector)
    }

    /// Forgets all selectors but these.
    pub fn retain(&mut self, selectors: &[Labels]) {
        self.0.retain(|selector, _| selectors.contains(selector));
    }
}

/// Whether an object with these labels is selected.
pub fn selects(selector: &Labels, labels: &BTreeMap<String, String>) -> bool {
    selector.iter().all(|(key, values)| {
        labels.get(key).is_some_and(|value| {
            let matches = |wanted: &String| wanted == ANY_VALUE || wanted == value;
            values.iter().any(matches)
        })
    })
}

/// For people.
pub fn text(selector: &Labels) -> String {
    let labels = selector
        .iter()
        .map(|(key, values)| format!("{key}={}", values.join("|")));
    labels.collect::<Vec<_>>().join(", ")
}

/// As the API of Kubernetes takes it.
pub fn query(selector: &Labels) -> String {
    let terms = selector.iter().map(|(key, values)| {
        if values.iter().any(|value| value == ANY_VALUE) {
            key.clone()
        } else {
            format!("{key} in ({})", values.join(","))
        }
    });
    terms.collect::<Vec<_>>().join(",")
}

/// Whether the API server takes it.
pub fn is_possible(selector: &Labels) -> bool {
    check_for_api(selector).is_empty()
}

/// What is wrong with a selector.
pub(super) fn check(selector: &Labels) -> impl Iterator<Item = Problem> {
    let empty = selector.is_empty().then(|| {
        Problem::new(
            "no label is named",
            "name one, as in { app = \"kafka\" }, or leave the key out for all",
        )
    });
    let keys = selector.keys().filter_map(|key| check_key(key));
    let values = selector
        .iter()
        .filter(|(_, values)| values.is_empty())
        .map(|(key, _)| {
            Problem::new(
                format!("the list of values of `{key}` is empty"),
                "name some, or \"*\" for any",
            )
        });
    empty.into_iter().chain(keys).chain(values)
}

/// The same where the API server is asked for the objects: it refuses values that no label can have.
pub(super) fn check_for_api(selector: &Labels) -> Vec<Problem> {
    let values = selector.iter().flat_map(|(key, values)| {
        let wrong = values
            .iter()
            .filter(|value| *value != ANY_VALUE && !is_value(value));
        wrong.map(move |value| {
            Problem::new(
                format!("no label `{key}` can have the value \"{value}\""),
                "write at most 63 letters, digits, `-`, `_` and `.`, with a letter or digit at both ends; \"*\" stands for any value",
            )
        })
    });
    check(selector).chain(values).collect()
}

/// What Kubernetes takes for the key of a label.
pub(super) fn check_key(key: &str) -> Option<Problem> {
    let (prefix, name) = key.rsplit_once('/').unwrap_or(("", key));
    let is_prefix = prefix.split('.').all(|label| is_rfc1123(label.as_bytes()));
    let good = key.len() <= MAX_LABEL_KEY
        && is_name(name)
        && (prefix.is_empty() && !key.contains('/') || is_prefix);
    (!good).then(|| {
        Problem::new(
            format!("`{key}` cannot be the key of a label"),
            "write it as Kubernetes does, as in `app.kubernetes.io/name`",
        )
    })
}

fn is_value(text: &str) -> bool {
    text.is_empty() || is_name(text)
}

fn is_name(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = [text.bytes().next(), text.bytes().last()];
    (1..=63).contains(&text.len())
        && text.bytes().all(is_inner)
        && ends.iter().flatten().all(u8::is_ascii_alphanumeric)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(labels: &[(&str, &[&str])]) -> Labels {
        let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        let labels = labels.iter();
        labels
            .map(|(key, values)| ((*key).to_owned(), owned(values)))
            .collect()
    }

    #[test]
    fn selectors_look_at_every_label() {
        let selector = selector(&[
            ("app", &["kafka", "connect"]),
            ("example.com/tenant", &["*"]),
        ]);
        let selects = |labels: &[(&str, &str)]| {
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            selects(&selector, &labels.iter().map(owned).collect())
        };
        assert!(selects(&[
            ("app", "kafka"),
            ("example.com/tenant", "a"),
            ("x", "y")
        ]));
        assert!(!selects(&[("app", "web"), ("example.com/tenant", "a")]));
        assert!(!selects(&[("app", "kafka")]));
        assert_eq!(text(&selector), "app=kafka|connect, example.com/tenant=*");
        assert_eq!(
            query(&selector),
            "app in (kafka,connect),example.com/tenant"
        );
    }

    #[test]
    fn what_cannot_be_a_label_is_refused() {
        for key in [
            "", "-a", "a-", "a b", "/a", "a/", "a/b/c", "a_b/c", "a..b/c",
        ] {
            assert!(check_key(key).is_some(), "{key}");
            assert!(check(&selector(&[(key, &["x"])])).count() == 1, "{key}");
        }
        for key in ["a", "A_b.c-d", "app.kubernetes.io/name"] {
            assert!(check_key(key).is_none(), "{key}");
        }
        for wrong in [selector(&[]), selector(&[("a", &[])])] {
            assert!(check(&wrong).count() == 1);
        }
        // The API server would refuse the whole watch.
        for value in ["a b", "-a", "a)", "x,y", &"a".repeat(64)] {
            let one = selector(&[("a", &["good", value])]);
            assert_eq!(check_for_api(&one).len(), 1, "{value}");
        }
        let good = selector(&[("a", &["", "*", "Gold_1.x"])]);
        assert_eq!(check_for_api(&good), []);
    }

    #[test]
    fn only_what_was_said_is_known() {
        let (gold, silver) = (
            selector(&[("tier", &["gold"])]),
            selector(&[("tier", &["silver"])]),
        );
        let mut labelled = Labelled::default();
        assert_eq!(labelled.of(&gold), None);
        labelled.set(gold.clone(), ["foo".to_owned()].into());
        labelled.set(silver.clone(), BTreeSet::new());
        assert_eq!(labelled.of(&silver), Some(&BTreeSet::new()));
        labelled.retain(std::slice::from_ref(&gold));
        assert_eq!(
            (labelled.of(&gold).map(BTreeSet::len), labelled.of(&silver)),
            (Some(1), None)
        );
    }
}
