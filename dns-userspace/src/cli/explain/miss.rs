//! Where a name that no rule matches stops following the nearest one.

use hickory_proto::rr::Name;

use crate::rules::{NAMESPACE, Rule, selector};

/// The rule that a name fails latest, seen from the root, and at which label.
pub(super) fn nearest(rules: &[Rule], name: &Name) -> Option<String> {
    let labels: Vec<String> = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    rules
        .iter()
        .filter(|rule| !rule.is_regex())
        .filter_map(|rule| Some((rule, miss(rule, &labels)?)))
        .max_by_key(|(_, miss)| miss.matched)
        // A shared `local` or `com` does not count.
        .filter(|(_, miss)| miss.matched >= 2)
        .map(|(rule, miss)| format!("rule `{}` ({}): {}", rule.name(), rule.pattern(), miss.why))
}

/// Where a name stops following a pattern.
#[derive(Debug, PartialEq, Eq)]
struct Miss {
    /// Labels from the root that do follow it.
    matched: usize,
    why: String,
}

/// Where a name stops following a rule; `None` when it matches after all.
fn miss(rule: &Rule, labels: &[&str]) -> Option<Miss> {
    miss_of_pattern(rule.pattern(), labels, |namespace| {
        (!rule.is_for(namespace)).then(|| {
            let which = match rule.namespace_labels() {
                Some(labels) => format!("with the labels {}", selector::text(labels)),
                None => rule.namespaces().unwrap_or_default().join(", "),
            };
            format!("the rule is for the namespaces {which}, not for `{namespace}`")
        })
    })
}

/// Compares label by label from the root.
fn miss_of_pattern(
    pattern: &str,
    labels: &[&str],
    refuses: impl Fn(&str) -> Option<String>,
) -> Option<Miss> {
    let pattern: Vec<&str> = pattern.trim_end_matches('.').split('.').collect();
    let (any, fixed) = match pattern.split_first() {
        Some((&"*", rest)) => (true, rest),
        _ => (false, &pattern[..]),
    };
    for (matched, (expected, found)) in fixed.iter().rev().zip(labels.iter().rev()).enumerate() {
        if let Some(capture) = expected
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
        {
            if !is_rfc1123(found) {
                return Some(Miss {
                    matched,
                    why: format!("`{found}` cannot be {{{capture}}}: no RFC 1123 label"),
                });
            }
            if capture == NAMESPACE
                && let Some(why) = refuses(found)
            {
                return Some(Miss { matched, why });
            }
        } else if !expected.eq_ignore_ascii_case(found) {
            return Some(Miss {
                matched,
                why: format!("`{found}` in the place of `{expected}`"),
            });
        }
    }
    let matched = fixed.len().min(labels.len());
    if labels.len() < fixed.len() {
        let missing = &fixed[fixed.len() - labels.len() - 1];
        return Some(Miss {
            matched,
            why: format!("the name ends where it says `{missing}`"),
        });
    }
    let more = labels.len() - fixed.len();
    match (any, more) {
        (true, 0) => Some(Miss {
            matched,
            why: "`*` is one or more labels, and there is none".to_owned(),
        }),
        (false, 1..) => Some(Miss {
            matched,
            why: format!("`{}` is one label too many", labels[more - 1]),
        }),
        _ => None,
    }
}

fn is_rfc1123(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_failing_label_is_named() {
        let pattern = "*.kafka.{namespace}.svc.cluster.local";
        for (name, matched, why) in [
            (
                "a.kafka.foo.svc.cluster.com",
                0,
                "`com` in the place of `local`",
            ),
            (
                "a.kafka.foo.pod.cluster.local",
                2,
                "`pod` in the place of `svc`",
            ),
            (
                "a.kafka.fo_o.svc.cluster.local",
                3,
                "`fo_o` cannot be {namespace}: no RFC 1123 label",
            ),
            (
                "a.kafka.foo.bar.svc.cluster.local",
                4,
                "`foo` in the place of `kafka`",
            ),
            (
                "kafka.foo.svc.cluster.local",
                5,
                "`*` is one or more labels, and there is none",
            ),
            (
                "svc.cluster.local",
                3,
                "the name ends where it says `{namespace}`",
            ),
        ] {
            let labels: Vec<&str> = name.split('.').collect();
            assert_eq!(
                miss_of_pattern(pattern, &labels, |_| None),
                Some(Miss {
                    matched,
                    why: why.to_owned()
                }),
                "{name}"
            );
        }
        let labels = ["b", "a", "kafka", "foo", "svc", "cluster", "local"];
        assert_eq!(miss_of_pattern(pattern, &labels, |_| None), None);
        assert_eq!(
            miss_of_pattern(
                "kafka.example.com",
                &["a", "kafka", "example", "com"],
                |_| None
            ),
            Some(Miss {
                matched: 3,
                why: "`a` is one label too many".to_owned()
            })
        );
        assert_eq!(
            miss_of_pattern("kafka.example.com", &["kafka", "example", "com"], |_| None),
            None
        );
    }
}
