//! Tables of labels, each with a value or several, as rules select pods and namespaces by them.

use toml::de::DeValue;

use super::reader::{Reader, Section};
use crate::rules::selector::Labels;

/// The table under `key`; `path` is that key, dotted.
pub(super) fn read(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
    key: &str,
    path: &'static str,
) -> Labels {
    let table = reader.section_at(section, key, path);
    let mut labels = Labels::new();
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
