//! Walks a parsed TOML table key by key and collects every complaint. It handles TOML types, not the meaning of keys.

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::diagnostic::{ConfigErrors, Diagnostic, Source};

/// A value and its position.
#[derive(Clone, Debug)]
pub(super) struct At<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// Collects complaints while tables are read.
pub(super) struct Reader<'a> {
    pub source: Source<'a>,
    pub errors: Vec<Diagnostic>,
}

/// One table of the file.
pub(super) struct Section<'t, 'i> {
    /// Dotted path, empty for the file itself.
    path: &'static str,
    table: Option<&'t DeTable<'i>>,
    /// The position of the table, for what is missing in it.
    pub span: Range<usize>,
}

impl<'t, 'i> Section<'t, 'i> {
    pub fn new(path: &'static str, table: Option<&'t DeTable<'i>>, span: Range<usize>) -> Self {
        Self { path, table, span }
    }

    pub fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    pub fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        let table = self.table?;
        table
            .iter()
            .find(|(name, _)| name.get_ref() == key)
            .map(|(_, value)| value)
    }

    pub fn keys(&self) -> Vec<String> {
        let keys = self.table.into_iter().flat_map(|table| table.keys());
        keys.map(|key| key.get_ref().to_string()).collect()
    }

    /// The position of a key's value, or of the table where it is missing.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.get(key).map_or(self.span.clone(), Spanned::span)
    }
}

impl Reader<'_> {
    pub fn complain(
        &mut self,
        span: &Range<usize>,
        key: impl Into<String>,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        let diagnostic = self.source.diagnostic(span, key, problem, remedy);
        self.errors.push(diagnostic);
    }

    /// Complains about every key of the section that is not among `known`.
    pub fn refuse_unknown(&mut self, section: &Section<'_, '_>, known: &[&str]) {
        let Some(table) = section.table else { return };
        for key in table.keys() {
            let name = key.get_ref();
            if known.contains(&name.as_ref()) {
                continue;
            }
            let nearest = known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(name, known), known))
                .min()
                .filter(|(distance, known)| *distance <= 1 + known.len() / 3);
            let remedy = match nearest {
                Some((_, known)) => format!("did you mean `{known}`?"),
                None => format!("remove it; the keys here are {}", quoted(known)),
            };
            self.complain(&key.span(), section.key(name), "unknown key", remedy);
        }
    }

    /// What keeps a text from being TOML.
    pub fn complain_of_syntax(&mut self, errors: &[toml::de::Error]) {
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            let message = error.message().replace('\n', ", ");
            self.complain(&span, "toml", message, "write valid TOML 1.1 here");
        }
    }

    /// The table under `key`; an empty one where it is missing or not a table.
    pub fn section<'t, 'i>(
        &mut self,
        root: &Section<'t, 'i>,
        key: &'static str,
    ) -> Section<'t, 'i> {
        self.section_at(root, key, key)
    }

    /// The same for a table in another one; `path` is dotted.
    pub fn section_at<'t, 'i>(
        &mut self,
        root: &Section<'t, 'i>,
        key: &str,
        path: &'static str,
    ) -> Section<'t, 'i> {
        match root.get(key) {
            None => Section::new(path, None, root.span.clone()),
            Some(value) => {
                let table = value.get_ref().as_table();
                if table.is_none() {
                    self.wrong_type(value, path, "a table", &format!("[{path}]"));
                }
                Section::new(path, table, value.span())
            }
        }
    }

    pub fn wrong_type(
        &mut self,
        value: &Spanned<DeValue<'_>>,
        key: impl Into<String>,
        expected: &str,
        example: &str,
    ) {
        let found = value.get_ref().type_str();
        self.complain(
            &value.span(),
            key,
            format!("expected {expected}, found {}", with_article(found)),
            format!("write it as in {example}"),
        );
    }

    pub fn string(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        example: &str,
    ) -> Option<At<String>> {
        let value = section.get(key)?;
        match value.get_ref().as_str() {
            Some(text) => Some(At {
                value: text.to_owned(),
                span: value.span(),
            }),
            None => {
                let example = format!("{key} = {example}");
                self.wrong_type(value, section.key(key), "a string", &example);
                None
            }
        }
    }

    /// A string that has to be there.
    pub fn required(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        example: &str,
    ) -> Option<At<String>> {
        if section.get(key).is_none() {
            self.complain(
                &section.span,
                section.key(key),
                "missing",
                format!("add {key} = {example}"),
            );
        }
        self.string(section, key, example)
    }

    /// A path from the root on.
    pub fn absolute(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        example: &str,
        remedy: &str,
    ) -> Option<PathBuf> {
        let text = self.string(section, key, &format!("\"{example}\""))?;
        let path = PathBuf::from(&text.value);
        if path.is_absolute() {
            return Some(path);
        }
        self.complain(
            &text.span,
            section.key(key),
            format!("\"{}\" is not an absolute path", text.value),
            remedy,
        );
        None
    }

    pub fn strings(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        example: &str,
    ) -> Option<Vec<At<String>>> {
        let value = section.get(key)?;
        let example = format!("{key} = {example}");
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(value, section.key(key), "an array of strings", &example);
            return None;
        };
        let mut texts = Vec::new();
        for element in array.iter() {
            match element.get_ref().as_str() {
                Some(text) => texts.push(At {
                    value: text.to_owned(),
                    span: element.span(),
                }),
                None => self.wrong_type(element, section.key(key), "a string", &example),
            }
        }
        Some(texts)
    }

    pub fn boolean(&mut self, section: &Section<'_, '_>, key: &str) -> Option<bool> {
        let value = section.get(key)?;
        let DeValue::Boolean(boolean) = value.get_ref() else {
            let example = format!("{key} = true");
            self.wrong_type(value, section.key(key), "true or false", &example);
            return None;
        };
        Some(*boolean)
    }

    /// A whole number within `range`.
    pub fn number(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        range: std::ops::RangeInclusive<u64>,
        unit: &str,
    ) -> Option<u64> {
        let value = section.get(key)?;
        let (low, high) = (*range.start(), *range.end());
        let Some(integer) = value.get_ref().as_integer() else {
            let example = format!("{key} = {}", low.max(1));
            self.wrong_type(value, section.key(key), "a whole number", &example);
            return None;
        };
        let parsed = u64::from_str_radix(integer.as_str(), integer.radix()).ok();
        if let Some(number) = parsed.filter(|number| range.contains(number)) {
            return Some(number);
        }
        self.complain(
            &value.span(),
            section.key(key),
            format!("{integer} is out of range"),
            format!("write a number of {unit} from {low} to {high}"),
        );
        None
    }

    /// A duration within `range`, written as in `2s` or `1h 30m`.
    pub fn duration(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        range: std::ops::RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let value = section.get(key)?;
        let (low, high) = (
            humantime::format_duration(*range.start()),
            humantime::format_duration(*range.end()),
        );
        let Some(text) = value.get_ref().as_str() else {
            let example = format!("{key} = \"{high}\"");
            self.wrong_type(value, section.key(key), "a duration in a string", &example);
            return None;
        };
        let problem = match humantime::parse_duration(text) {
            Ok(duration) if range.contains(&duration) => return Some(duration),
            Ok(_) => format!("\"{text}\" is out of range"),
            Err(error) => format!("\"{text}\" is not a duration ({error})"),
        };
        self.complain(
            &value.span(),
            section.key(key),
            problem,
            format!("write a duration from \"{low}\" to \"{high}\""),
        );
        None
    }

    /// One of several words.
    pub fn choice<T: Copy>(
        &mut self,
        section: &Section<'_, '_>,
        key: &str,
        choices: &[(&str, T)],
    ) -> Option<At<T>> {
        let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
        let text = self.string(section, key, &format!("\"{}\"", words[0]))?;
        let found = choices.iter().find(|(word, _)| *word == text.value);
        if let Some((_, choice)) = found {
            return Some(At {
                value: *choice,
                span: text.span,
            });
        }
        self.complain(
            &text.span,
            section.key(key),
            format!("\"{}\" is not a value of this key", text.value),
            format!("write one of {}", quoted(&words)),
        );
        None
    }
}

/// An address without zone, port or prefix.
pub(super) fn address(text: &str) -> Option<IpAddr> {
    text.parse().ok()
}

fn quoted(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("`{word}`")).collect();
    quoted.join(", ")
}

fn with_article(kind: &str) -> String {
    match kind {
        "integer" | "array" | "inline table" => format!("an {kind}"),
        _ => format!("a {kind}"),
    }
}

/// Reads a text that is an array of tables under one key.
pub(super) fn read_tables<T>(
    path: &Path,
    text: &str,
    name: &'static str,
    read: impl Fn(&mut Reader<'_>, &Section<'_, '_>) -> Option<T>,
) -> Result<Vec<T>, ConfigErrors> {
    let (document, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader {
        source: Source { file: path, text },
        errors: Vec::new(),
    };
    reader.complain_of_syntax(&syntax);
    let table = syntax.is_empty().then(|| document.get_ref());
    let root = Section::new("", table, 0..0);
    reader.refuse_unknown(&root, &[name]);
    let mut entries = Vec::new();
    if let Some(value) = root.get(name) {
        let example = format!("[[{name}]]");
        match value.get_ref().as_array() {
            None => reader.wrong_type(value, name, "an array of tables", &example),
            Some(array) => {
                for element in array.iter() {
                    let Some(table) = element.get_ref().as_table() else {
                        reader.wrong_type(element, name, "a table", &example);
                        continue;
                    };
                    let section = Section::new(name, Some(table), element.span());
                    entries.extend(read(&mut reader, &section));
                }
            }
        }
    }
    if reader.errors.is_empty() {
        Ok(entries)
    } else {
        let mut errors = reader.errors;
        errors.sort_by_key(|error| (error.line, error.column));
        Err(ConfigErrors(errors))
    }
}
