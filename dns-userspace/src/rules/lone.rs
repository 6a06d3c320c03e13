//! Which rules settle a name by its last labels alone: those with a leading `*` of which no earlier rule takes a part.
//!
//! For these the program may know an answer by the end of the name (`dns_common::answer::locate_by_suffix`). To say no
//! where yes would do costs time only, so whatever is hard to tell is a no.

use std::collections::HashMap;

use super::pattern::{Pattern, PatternLabel};

/// Nodes visited in all; more than some thousands of rules of usual shape take.
const PATIENCE: usize = 4_000_000;

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

    /// Whether a name that `labels` end, with more in front of them, can be one of a rule in here.
    fn meets(&self, labels: &[&PatternLabel], patience: &mut usize) -> bool {
        if self.ends_any || *patience == 0 {
            return true;
        }
        *patience -= 1;
        let Some((label, rest)) = labels.split_first() else {
            // Rules that go on from here have more labels; one that ends here, without `*`, has too few.
            return !self.is_leaf();
        };
        let capture = self.capture.as_deref();
        if capture.is_some_and(|node| node.meets(rest, patience)) {
            return true;
        }
        match label {
            PatternLabel::Literal(text) => self
                .literals
                .get(&text.to_ascii_lowercase())
                .is_some_and(|node| node.meets(rest, patience)),
            PatternLabel::Capture(_) => self
                .literals
                .values()
                .any(|node| node.meets(rest, patience)),
        }
    }
}

/// For each rule whether it is one; `None` stands for a rule that is not a pattern.
pub fn lone(patterns: &[Option<&Pattern>]) -> Vec<bool> {
    let mut seen = Node::default();
    let mut patience = PATIENCE;
    let mut unclear = false;
    patterns
        .iter()
        .map(|pattern| {
            let Some(pattern) = pattern else {
                // What a regular expression takes is hard to tell.
                unclear = true;
                return false;
            };
            let labels: Vec<&PatternLabel> = pattern.labels.iter().rev().collect();
            let lone = !unclear && pattern.any_labels && !seen.meets(&labels, &mut patience);
            seen.insert(pattern);
            lone
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lone_of(patterns: &[&str]) -> Vec<bool> {
        let parsed: Vec<Pattern> = patterns
            .iter()
            .map(|text| Pattern::parse(text).unwrap())
            .collect();
        lone(&parsed.iter().map(Some).collect::<Vec<_>>())
    }

    #[test]
    fn a_rule_is_alone_unless_an_earlier_one_takes_names_of_its_own() {
        let kafka = "*.kafka.{namespace}.svc.cluster.local";
        assert_eq!(lone_of(&[kafka]), [true]);
        assert_eq!(
            lone_of(&[kafka, "*.db.{namespace}.svc.cluster.local"]),
            [true, true]
        );
        // Later rules do not matter.
        assert_eq!(
            lone_of(&[kafka, "a.kafka.foo.svc.cluster.local"]),
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
            assert!(!lone_of(&[earlier, kafka])[1], "{earlier}");
        }
        for earlier in [
            // Exactly as many labels as stand behind `*`, or fewer.
            "kafka.foo.svc.cluster.local",
            "foo.svc.cluster.local",
            "*.kafka.{namespace}.pod.cluster.local",
            "*.other.foo.svc.cluster.local",
        ] {
            assert!(lone_of(&[earlier, kafka])[1], "{earlier}");
        }
        // Without `*` there is nothing in front.
        assert_eq!(lone_of(&["kafka.{namespace}.svc"]), [false]);
    }

    #[test]
    fn after_a_regular_expression_nobody_is_alone() {
        let pattern = Pattern::parse("*.kafka.{namespace}.svc").unwrap();
        assert_eq!(
            lone(&[Some(&pattern), None, Some(&pattern)]),
            [true, false, false]
        );
    }
}
