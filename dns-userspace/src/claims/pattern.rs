//! A name, or `*.` and a domain, as it is claimed or may be.

use std::{cmp::Reverse, fmt};

use crate::rules::{MAX_LABEL, MAX_NAME};

/// Most labels of a domain behind `*.`: one name is then matched by so few patterns that the programs look at all of them
/// (`MAX_CHOICES`), whatever others claim.
const MAX_LABELS: usize = 8;

/// See the module. In lower case, without the final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NamePattern {
    /// Whether it stands for the names below the domain, and not for the name itself.
    is_below: bool,
    labels: Vec<String>,
}

impl NamePattern {
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<NamePattern, String> {
        let lower = text.trim().to_ascii_lowercase();
        let whole = lower.strip_suffix('.').unwrap_or(&lower);
        let (is_below, domain) = match whole.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, whole),
        };
        if domain.is_empty() {
            return Err("it is empty".to_owned());
        }
        let labels: Vec<String> = domain.split('.').map(str::to_owned).collect();
        for label in &labels {
            if label.is_empty() {
                return Err("a label is empty".to_owned());
            }
            if label.contains('*') {
                return Err("`*` may only be the first label".to_owned());
            }
            let is_inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
            let is_cut = label.starts_with('-') || label.ends_with('-');
            if !label.bytes().all(is_inner) || is_cut || label.len() > MAX_LABEL {
                return Err(
                    "a label has other than letters, digits and inner hyphens, or more than 63"
                        .to_owned(),
                );
            }
        }
        if labels.len() < 2 {
            return Err("it has one label; write the domain".to_owned());
        }
        if is_below && labels.len() > MAX_LABELS {
            return Err(format!("more than {MAX_LABELS} labels are behind `*.`"));
        }
        // On the wire, with a label for `*`.
        if domain.len() + 2 + if is_below { 2 } else { 0 } > MAX_NAME {
            return Err("it is longer than a name may be".to_owned());
        }
        Ok(NamePattern { is_below, labels })
    }

    /// Whether each of its names is one of `other`'s.
    pub fn is_within(&self, other: &NamePattern) -> bool {
        let ends_alike = self.labels.ends_with(&other.labels);
        match (self.is_below, other.is_below) {
            (true, true) => ends_alike,
            (false, true) => ends_alike && self.labels.len() > other.labels.len(),
            (false, false) => self.labels == other.labels,
            (true, false) => false,
        }
    }

    /// Whether a name below a domain, or the domain itself, is one of its names.
    pub fn meets(&self, domain: &str) -> bool {
        let domain: Vec<&str> = domain.split('.').collect();
        let (own, other) = (self.labels.len(), domain.len());
        let ends = self.labels.iter().rev().zip(domain.iter().rev());
        let ends_alike = ends.into_iter().all(|(own, other)| own == other);
        ends_alike && (own >= other || self.is_below)
    }

    /// In the order in which rules are looked at: what is narrower comes first.
    pub(super) fn rank(&self) -> impl Ord + '_ {
        (self.is_below, Reverse(self.labels.len()), &self.labels)
    }
}

/// As a rule's `match` has it.
impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_below {
            f.write_str("*.")?;
        }
        f.write_str(&self.labels.join("."))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> NamePattern {
        NamePattern::parse(text).unwrap()
    }

    #[test]
    fn names_and_domains() {
        assert_eq!(
            parse(" *.Confluent.Cloud. ").to_string(),
            "*.confluent.cloud"
        );
        assert_eq!(parse("lkc-1.example.net").to_string(), "lkc-1.example.net");
        for bad in [
            "",
            "*",
            "*.",
            ".",
            "cloud",
            "*.cloud",
            "a.*.b",
            "a*.b.c",
            "a..b",
            "a b.c",
            "-a.b",
            "{namespace}.a.b",
            "ä.example",
            "*.1.2.3.4.5.6.7.8.9",
            &format!("{}.b", "x".repeat(64)),
            &vec!["x".repeat(60); 5].join("."),
        ] {
            assert!(NamePattern::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_within_what() {
        for (own, other, expected) in [
            ("*.a.b", "*.a.b", true),
            ("*.x.a.b", "*.a.b", true),
            ("x.a.b", "*.a.b", true),
            ("a.b", "*.a.b", false),
            ("*.a.b", "*.x.a.b", false),
            ("*.xa.b", "*.a.b", false),
            ("a.b", "a.b", true),
            ("*.a.b", "a.b", false),
        ] {
            assert_eq!(
                parse(own).is_within(&parse(other)),
                expected,
                "{own} {other}"
            );
        }
        for (own, expected) in [
            ("*.svc.cluster.local", true),
            ("cluster.local", true),
            ("*.cluster.local", true),
            ("x.cluster.local", true),
            ("*.other.local", false),
            ("xcluster.local", false),
            ("cluster.local.example", false),
        ] {
            assert_eq!(parse(own).meets("cluster.local"), expected, "{own}");
        }
        assert!(parse("*.cluster.example").meets("k8s.cluster.example"));
        assert!(!parse("cluster.example").meets("k8s.cluster.example"));
    }
}
