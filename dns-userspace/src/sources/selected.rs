//! What is known of the namespaces that rules select by labels, and how old that is; for whoever loads the rules, and `gregor status`.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::rules::selector::{Labelled, Labels};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Selected {
    pub labelled: Labelled,
    /// When the API server was heard last.
    heard: Option<Instant>,
    /// Why it is not heard, if so.
    pub error: Option<String>,
}

/// The same for `gregor status` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelectedStatus {
    /// Selectors of rules; 0 where no rule has one, and then nothing is asked.
    pub selectors: u64,
    /// Those of which nothing is known yet: their rules are for no namespace.
    pub unknown: u64,
    /// Namespaces that are selected by any.
    pub namespaces: u64,
    /// Seconds since the API server was heard last; absent before the first time.
    pub age_seconds: Option<f64>,
    /// Why it is not heard, if so.
    pub error: Option<String>,
}

impl Selected {
    /// Nothing, and why.
    pub fn nothing(why: &str) -> Self {
        Self {
            error: Some(why.to_owned()),
            ..Self::default()
        }
    }

    /// The API server says something, which may be that nothing has changed.
    pub fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
        self.error = None;
    }

    pub fn status(&self, selectors: &[Labels], now: Instant) -> SelectedStatus {
        let known = selectors.iter().filter_map(|one| self.labelled.of(one));
        let mut names: Vec<&String> = known.clone().flatten().collect();
        names.sort_unstable();
        names.dedup();
        SelectedStatus {
            selectors: selectors.len() as u64,
            unknown: (selectors.len() - known.count()) as u64,
            namespaces: names.len() as u64,
            age_seconds: self
                .heard
                .map(|heard| now.saturating_duration_since(heard).as_secs_f64()),
            error: self.error.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_not_known_is_counted_and_the_age_is_that_of_the_last_word() {
        let selector = |tier: &str| Labels::from([("tier".to_owned(), vec![tier.to_owned()])]);
        let selectors = [selector("gold"), selector("silver"), selector("iron")];
        let now = Instant::now();
        let mut selected = Selected::nothing("not in a cluster");
        let status = selected.status(&selectors, now);
        assert_eq!(
            (status.selectors, status.unknown, status.namespaces),
            (3, 3, 0)
        );
        assert_eq!(
            (status.age_seconds, status.error.as_deref()),
            (None, Some("not in a cluster"))
        );
        selected.heard(now);
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        selected.labelled.set(selector("gold"), names(&["a", "b"]));
        selected.labelled.set(selector("silver"), names(&["b"]));
        let status = selected.status(&selectors, now + Duration::from_secs(2));
        assert_eq!((status.unknown, status.namespaces), (1, 2));
        assert_eq!((status.age_seconds, status.error), (Some(2.0), None));
    }
}
