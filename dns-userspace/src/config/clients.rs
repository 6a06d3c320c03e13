//! The `clients` key of a rule: a word, a list of namespaces, or a table of labels.

use toml::de::DeValue;

use super::{
    labels,
    reader::{Reader, Section},
};
use crate::rules::ClientsSpec;

const ANY: &str = "any";
const OWN_NAMESPACE: &str = "own-namespace";

pub(super) fn read(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> ClientsSpec {
    match section.get("clients").map(|value| value.get_ref()) {
        None => ClientsSpec::Any,
        Some(DeValue::Array(_)) => {
            let texts = reader.strings(section, "clients", "[\"foo\", \"team-*\"]");
            let texts = texts.into_iter().flatten().map(|text| text.value);
            ClientsSpec::Namespaces(texts.collect())
        }
        Some(DeValue::Table(_)) => {
            ClientsSpec::Labels(labels::read(reader, section, "clients", "rule.clients"))
        }
        Some(_) => {
            let is_own = [(ANY, false), (OWN_NAMESPACE, true)];
            match reader.choice(section, "clients", &is_own) {
                Some(word) if word.value => ClientsSpec::OwnNamespace,
                _ => ClientsSpec::Any,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Diagnostic, compile};

    const RULE: &str = "
[[rule]]
name  = \"kafka\"
match = \"*.kafka.managed.{namespace}.svc.cluster.local\"
cname = \"kafka-upstream.{namespace}.svc.cluster.local\"
";

    fn read(head: &str, clients: &str) -> Result<(ClientsSpec, Vec<Diagnostic>), Vec<Diagnostic>> {
        let text = format!("[intercept]\nservers = [\"169.254.20.10\"]\n{head}{RULE}{clients}\n");
        compile(Path::new("gregor.toml"), &text)
            .map(|(config, _, warnings)| (config.rules[0].clients.clone(), warnings))
            .map_err(|errors| errors.0)
    }

    #[test]
    fn a_word_a_list_or_a_table() {
        const KNOWN: &str = "[identity]\nsources = [\"cni\"]\n";
        let labels = |labels: &[(&str, &[&str])]| {
            let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
            let labels = labels.iter();
            ClientsSpec::Labels(
                labels
                    .map(|(key, values)| ((*key).to_owned(), owned(values)))
                    .collect(),
            )
        };
        for (text, expected) in [
            ("", ClientsSpec::Any),
            ("clients = \"any\"", ClientsSpec::Any),
            ("clients = \"own-namespace\"", ClientsSpec::OwnNamespace),
            (
                "clients = [\"foo\", \"team-*\"]",
                ClientsSpec::Namespaces(vec!["foo".to_owned(), "team-*".to_owned()]),
            ),
            (
                "clients = { \"example.com/tier\" = \"gold\", app = [\"a\", \"b\"] }",
                labels(&[("example.com/tier", &["gold"]), ("app", &["a", "b"])]),
            ),
        ] {
            assert_eq!(read(KNOWN, text).unwrap(), (expected, Vec::new()), "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_at_its_place() {
        for (text, problem) in [
            ("clients = \"own\"", "not a value of this key"),
            ("clients = 1", "expected a string"),
            ("clients = []", "empty"),
            ("clients = [1]", "expected a string"),
            ("clients = {}", "no label is named"),
            ("clients = { a = 1 }", "expected a string"),
            ("clients = { a = [] }", "values of `a` is empty"),
            (
                "clients = { \"a b\" = \"x\" }",
                "cannot be the key of a label",
            ),
        ] {
            let errors = read("", text).unwrap_err();
            assert!(
                errors
                    .iter()
                    .any(|error| error.key.starts_with("rule.clients")
                        && error.line == 8
                        && error.problem.contains(problem)),
                "{text}: {errors:?}"
            );
        }
    }

    #[test]
    fn where_nobody_is_known_a_rule_that_asks_is_worth_a_warning() {
        let warning = |head: &str| {
            let (_, warnings) = read(head, "clients = \"own-namespace\"").unwrap();
            warnings.into_iter().next().map(|warning| warning.problem)
        };
        assert!(warning("").unwrap().contains("no source says who that is"));
        let xdp = "hook = \"xdp\"\ninterfaces = [\"eth0\"]\nallow_sources = [\"10.0.0.0/8\"]\n[identity]\nsources = [\"cni\"]\n";
        assert!(warning(xdp).unwrap().contains("nobody is known"));
        assert_eq!(warning("[identity]\nsources = [\"cni\"]\n"), None);
        assert_eq!(read("", "").unwrap().1, []);
    }
}
