//! The `namespaces` key of a rule, a list of names or a table of labels, and what is to be asked about it.

use toml::de::DeValue;

use super::{
    labels,
    reader::{Reader, Section},
};
use crate::rules::{
    RuleSpec,
    selector::{Labelled, Labels, is_possible},
};

/// Names and globs, or labels.
pub(super) fn read(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
) -> (Option<Vec<String>>, Option<Labels>) {
    const KEY: &str = "namespaces";
    if let Some(DeValue::Table(_)) = section.get(KEY).map(|value| value.get_ref()) {
        let labels = labels::read(reader, section, KEY, "rule.namespaces");
        return (None, Some(labels));
    }
    let texts = reader.strings(section, KEY, "[\"foo\", \"team-*\"]");
    let texts = texts.map(|texts| texts.into_iter().map(|text| text.value).collect());
    (texts, None)
}

/// The selectors of rules, each once; without those that the API server would refuse.
pub(super) fn selectors(rules: &[RuleSpec]) -> Vec<Labels> {
    let mut selectors: Vec<Labels> = rules
        .iter()
        .filter_map(|rule| rule.namespace_labels.clone())
        .filter(is_possible)
        .collect();
    selectors.sort();
    selectors.dedup();
    selectors
}

/// Puts in the namespaces that are known to have the labels.
pub(super) fn fill(rules: &mut [RuleSpec], labelled: &Labelled) {
    for rule in rules {
        let Some(selector) = &rule.namespace_labels else {
            continue;
        };
        let known = labelled.of(selector);
        rule.namespaces = known.map(|names| names.iter().cloned().collect());
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::Path};

    use super::*;
    use crate::config::{Diagnostic, compile_for, to_select};

    fn text(namespaces: &str) -> String {
        format!(
            "[intercept]
servers = [\"169.254.20.10\"]
[[rule]]
name  = \"kafka\"
match = \"*.kafka.managed.{{namespace}}.svc.cluster.local\"
cname = \"kafka-upstream.{{namespace}}.svc.cluster.local\"
namespaces = {namespaces}
"
        )
    }

    fn load(
        namespaces: &str,
        labelled: &Labelled,
    ) -> Result<(Vec<String>, String), Vec<Diagnostic>> {
        let path = Path::new("gregor.toml");
        let (_, rules, warnings) =
            compile_for(path, &text(namespaces), labelled).map_err(|errors| errors.0)?;
        let names = rules.rules()[0].namespaces().unwrap_or_default().to_vec();
        let warnings = warnings.iter().map(ToString::to_string);
        Ok((names, warnings.collect::<Vec<_>>().join(" ")))
    }

    #[test]
    fn a_table_stands_for_the_namespaces_that_have_its_labels() {
        const GOLD: &str = "{ tier = \"gold\", \"example.com/team\" = [\"a\", \"b\"] }";
        let mut selector = Labels::new();
        selector.insert("tier".to_owned(), vec!["gold".to_owned()]);
        let teams = ["a", "b"].map(str::to_owned).to_vec();
        selector.insert("example.com/team".to_owned(), teams);
        let mut labelled = Labelled::default();
        let (names, warnings) = load(GOLD, &labelled).unwrap();
        assert_eq!(names, [""; 0]);
        for part in [
            "gregor.toml:7",
            "tier=gold",
            "is not known",
            "[kubernetes] watch",
        ] {
            assert!(warnings.contains(part), "{part}: {warnings}");
        }
        labelled.set(selector.clone(), BTreeSet::new());
        let (names, warnings) = load(GOLD, &labelled).unwrap();
        assert_eq!(names, [""; 0]);
        assert!(
            warnings.contains("no namespace has the labels"),
            "{warnings}"
        );
        labelled.set(selector.clone(), ["foo", "bar"].map(str::to_owned).into());
        let (names, warnings) = load(GOLD, &labelled).unwrap();
        assert_eq!(
            (&names[..], warnings.as_str()),
            (&["bar".to_owned(), "foo".to_owned()][..], "")
        );
        // Another selector is not known for it.
        let (names, _) = load("{ tier = \"silver\" }", &labelled).unwrap();
        assert_eq!(names, [""; 0]);

        let directory = std::env::temp_dir().join(format!("gregor-select-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("gregor.toml");
        for (namespaces, selectors, watch) in [
            (GOLD, vec![selector.clone()], true),
            (GOLD, vec![selector], false),
            ("{ tier = \"a b\" }", Vec::new(), true),
            ("[\"foo\"]", Vec::new(), true),
        ] {
            let watched = format!("{}[kubernetes]\nwatch = {watch}\n", text(namespaces));
            std::fs::write(&file, watched).unwrap();
            assert_eq!(to_select(&file).unwrap(), (selectors, watch));
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn mistakes_are_named_at_their_place() {
        for (namespaces, problem) in [
            ("{}", "no label is named"),
            ("{ tier = 1 }", "expected a string"),
            ("{ tier = [] }", "values of `tier` is empty"),
            ("{ \"a b\" = \"x\" }", "cannot be the key of a label"),
            ("{ tier = \"a b\" }", "no label `tier` can have the value"),
            ("\"foo\"", "expected an array of strings"),
        ] {
            let errors = load(namespaces, &Labelled::default()).unwrap_err();
            let found = errors.iter().any(|error| {
                error.key.starts_with("rule.namespaces")
                    && error.line == 7
                    && error.problem.contains(problem)
            });
            assert!(found, "{namespaces}: {errors:?}");
        }
    }

    /// Whatever the cluster says: two rules that are the same now need not be so always.
    #[test]
    fn what_selectors_stand_for_never_makes_a_configuration_wrong() {
        let second = "[[rule]]
name  = \"second\"
match = \"*.kafka.managed.{namespace}.svc.cluster.local\"
cname = \"other-upstream.{namespace}.svc.cluster.local\"
namespaces = { tier = \"silver\" }
";
        let text = text("{ tier = \"gold\" }") + second;
        let compiled = |labelled: &Labelled| {
            compile_for(Path::new("gregor.toml"), &text, labelled).map(|(_, rules, _)| rules)
        };
        let mut labelled = Labelled::default();
        compiled(&labelled).unwrap();
        for tier in ["gold", "silver"] {
            let selector = Labels::from([("tier".to_owned(), vec![tier.to_owned()])]);
            labelled.set(selector, ["foo".to_owned()].into());
        }
        compiled(&labelled).unwrap();
        let twice = text.replace("silver", "gold");
        assert!(compile_for(Path::new("gregor.toml"), &twice, &labelled).is_err());
    }
}
