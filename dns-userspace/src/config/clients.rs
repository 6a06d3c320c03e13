//! The `clients` key of a rule: a word, a list of namespaces, or a table of labels.

use std::collections::BTreeMap;

use toml::de::DeValue;

use super::reader::{Reader, Section};
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
        Some(DeValue::Table(_)) => ClientsSpec::Labels(labels(reader, section)),
        Some(_) => {
            let is_own = [(ANY, false), (OWN_NAMESPACE, true)];
            match reader.choice(section, "clients", &is_own) {
                Some(word) if word.value => ClientsSpec::OwnNamespace,
                _ => ClientsSpec::Any,
            }
        }
    }
}

/// Keys with a value or several.
fn labels(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> BTreeMap<String, Vec<String>> {
    let table = reader.section_at(section, "clients", "rule.clients");
    let mut labels = BTreeMap::new();
    for key in table.keys() {
        let is_list = |value: &DeValue<'_>| matches!(value, DeValue::Array(_));
        let values = if table
            .get(&key)
            .is_some_and(|value| is_list(value.get_ref()))
        {
            let texts = reader.strings(&table, &key, "[\"kafka\", \"connect\"]");
            let texts = texts.into_iter().flatten().map(|text| text.value);
            texts.collect()
        } else {
            let text = reader.string(&table, &key, "\"kafka\"");
            text.into_iter().map(|text| text.value).collect()
        };
        labels.insert(key, values);
    }
    labels
}
