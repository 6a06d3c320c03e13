//! Which rules match by the last labels of a name alone: those with a leading `*` whose names no earlier rule matches.
//!
//! For these the program may find an answer by the suffix of the name (`dns_common::answer::locate_by_suffix`). The result is
//! conservative: `false` for a rule that could be `true` only costs time.

use std::collections::HashMap;

use super::pattern::{Pattern, PatternLabel};

/// Limit of visited nodes; more than some thousands of rules of usual shape take.
const MAX_VISITS: usize = 4_000_000;

/// Labels of the rules so far, from the root on.
#[derive(Debug, Default)]
struct Node {
    literals: HashMap<String, Node>,
    capture: Option<Box<Node>>,
    /// A rule with a leading `*` has all its labels here.
    ends_any: bool,
}

impl Node {
    fn insert(&mut self, pattern: &Pattern) {
        let mut node = self;
        for label in pattern.labels.iter().rev() {
            node = match label {
                PatternLabel::Literal(text) => {
                    node.literals.entry(text.to_ascii_lowercase()).or_default()
                }
                PatternLabel::Capture(_) => node.capture.get_or_insert_default(),
            };
        }
        node.ends_any |= pattern.any_labels;
    }

    fn is_leaf(&self) -> bool {
        self.literals.is_empty() && self.capture.is_none()
    }

    /// Whether a name that ends with `labels`, and has more in front of them, can match a rule of this subtree.
    fn meets(&self, labels: &[&PatternLabel], visits_left: &mut usize) -> bool {
        if self.ends_any || *visits_left == 0 {
            return true;
        }
        *visits_left -= 1;
        let Some((label, rest)) = labels.split_first() else {
            // Rules that go on from here have more labels; one that ends here, without `*`, has too few.
            return !self.is_leaf();
        };
        let capture = self.capture.as_deref();
        if capture.is_some_and(|node| node.meets(rest, visits_left)) {
            return true;
        }
        match label {
            PatternLabel::Literal(text) => self
                .literals
                .get(&text.to_ascii_lowercase())
                .is_some_and(|node| node.meets(rest, visits_left)),
            PatternLabel::Capture(_) => self
                .literals
                .values()
                .any(|node| node.meets(rest, visits_left)),
        }
    }
}

/// For each rule, whether the suffix decides it; `None` is a rule that is not a pattern.
pub fn by_rule(patterns: &[Option<&Pattern>]) -> Vec<bool> {
    let mut seen = Node::default();
    let mut visits_left = MAX_VISITS;
    let mut unclear = false;
    patterns
        .iter()
        .map(|pattern| {
            let Some(pattern) = pattern else {
                // The names of a regular expression are not analysed.
                unclear = true;
                return false;
            };
            let labels: Vec<&PatternLabel> = pattern.labels.iter().rev().collect();
            let decides = !unclear && pattern.any_labels && !seen.meets(&labels, &mut visits_left);
            seen.insert(pattern);
            decides
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decided(patterns: &[&str]) -> Vec<bool> {
        let parsed: Vec<Pattern> = patterns
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect();
        by_rule(&parsed.iter().map(Some).collect::<Vec<_>>())
    }

    #[test]
    fn the_suffix_decides_a_rule_unless_an_earlier_one_matches_some_of_its_names() {
        let kafka = "*.kafka.{namespace}.svc.cluster.local";
        assert_eq!(decided(&[kafka]), [true]);
        assert_eq!(
            decided(&[kafka, "*.db.{namespace}.svc.cluster.local"]),
            [true, true]
        );
        // Later rules do not matter.
        assert_eq!(
            decided(&[kafka, "a.kafka.foo.svc.cluster.local"]),
            [true, false]
        );
        for earlier in [
            "a.kafka.foo.svc.cluster.local",
            "*.a.kafka.{x}.svc.cluster.local",
            "a.b.{x}.{namespace}.svc.cluster.local",
            "*.cluster.local",
            "*.{x}.{namespace}.svc.cluster.local",
            kafka,
        ] {
            assert!(!decided(&[earlier, kafka])[1], "{earlier}");
        }
        for earlier in [
            // Exactly as many labels as follow `*`, or fewer.
            "kafka.foo.svc.cluster.local",
            "foo.svc.cluster.local",
            "*.kafka.{namespace}.pod.cluster.local",
            "*.other.foo.svc.cluster.local",
        ] {
            assert!(decided(&[earlier, kafka])[1], "{earlier}");
        }
        // Without `*` there is nothing in front.
        assert_eq!(decided(&["kafka.{namespace}.svc"]), [false]);
    }

    #[test]
    fn the_suffix_decides_no_rule_after_a_regular_expression() {
        let pattern = Pattern::parse("*.kafka.{namespace}.svc").unwrap();
        assert_eq!(
            by_rule(&[Some(&pattern), None, Some(&pattern)]),
            [true, false, false]
        );
    }
}
