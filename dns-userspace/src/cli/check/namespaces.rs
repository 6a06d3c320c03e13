//! The namespaces that rules select by labels: which those are now, or why that is not known here.

use super::finding::Finding;
use crate::rules::{RuleSet, selector};

const WHAT: &str = "namespaces";
const REMEDY: &str = "the API server has to say it: run this where gregor runs, with [kubernetes] watch and the right to list and watch \
                      namespaces, or name the namespaces";

/// One for each rule that selects any; `unknown` says why nobody could say.
pub fn judge(rules: &RuleSet, unknown: Option<&str>) -> Vec<Finding> {
    let selecting = rules
        .rules()
        .iter()
        .filter_map(|rule| Some((rule, rule.namespace_labels()?)));
    let findings = selecting.map(|(rule, labels)| {
        let labels = selector::text(labels);
        match (rule.namespaces(), unknown) {
            (Some(names), _) => Finding::ok(
                WHAT,
                format!("{}: {} with {labels}", rule.name(), names.len()),
            ),
            (None, why) => Finding::warning(
                WHAT,
                format!(
                    "{}: not known which have {labels}, so it is for none: {}",
                    rule.name(),
                    why.unwrap_or("nothing said it")
                ),
                REMEDY,
            ),
        }
    });
    findings.collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::finding::Level, *};
    use crate::{
        config::compile_for,
        rules::selector::{Labelled, Labels},
    };

    #[test]
    fn a_rule_whose_namespaces_nobody_knows_is_a_warning() {
        let text = "[intercept]
servers = [\"10.0.0.1\"]
[[rule]]
name  = \"kafka\"
match = \"*.kafka.{namespace}.test\"
cname = \"up.{namespace}.test\"
namespaces = { tier = \"gold\" }
";
        let judge = |labelled: &Labelled, why| {
            let (_, rules, _) = compile_for(Path::new("x.toml"), text, labelled).unwrap();
            judge(&rules, why)
        };
        let mut labelled = Labelled::default();
        let found = judge(&labelled, Some("not in a cluster"));
        assert_eq!((found.len(), found[0].level), (1, Level::Warning));
        for part in ["kafka", "tier=gold", "for none", "not in a cluster"] {
            assert!(found[0].detail.contains(part), "{found:?}");
        }
        let selector = Labels::from([("tier".to_owned(), vec!["gold".to_owned()])]);
        labelled.set(selector, ["foo".to_owned()].into());
        let found = judge(&labelled, None);
        assert_eq!((found.len(), found[0].level), (1, Level::Ok));
        assert_eq!(found[0].detail, "kafka: 1 with tier=gold");
    }
}
