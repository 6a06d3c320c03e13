//! Finds the Corefile in what people have: the file itself, or a ConfigMap, JSON, `kubectl describe`, Terraform or Helm
//! around it. Decides what is a Corefile and what only mentions one; does not read it.

mod helm;
mod scalars;

pub use helm::Control;

use scalars::Scalar;

/// Deepest nesting of one file in another.
const MAX_DEPTH: usize = 4;
/// What prints the Corefile itself.
pub const REMEDY: &str = "kubectl -n kube-system get configmap coredns -o jsonpath='{.data.Corefile}' prints the Corefile alone";

/// A Corefile, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The key that it is kept under, if any.
    pub name: Option<String>,
    pub text: String,
    /// The line of the whole input that each line of the text comes from, from 1.
    pub lines: Vec<usize>,
    /// Whether Helm's escapes were taken off.
    pub helm: bool,
    /// Lines of a Helm chart's template that were taken out.
    pub controls: Vec<Control>,
}

impl Document {
    /// The line of the whole input for a line of the text, both from 1.
    pub fn source_line(&self, line: usize) -> usize {
        let line = line.max(1) - 1;
        self.lines
            .get(line)
            .or(self.lines.last())
            .copied()
            .unwrap_or(1)
    }
}

/// What was found in an input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    pub documents: Vec<Document>,
    /// Why nothing was found, or what is outside of the documents.
    pub problems: Vec<(usize, String)>,
    /// Lines outside of the documents that name a plugin, when there are documents.
    pub outside: Vec<(usize, &'static str)>,
}

/// The input as text: UTF-8 with or without a mark, UTF-16 with one; other bytes become U+FFFD, as CoreDNS reads them.
pub fn decode(bytes: &[u8]) -> String {
    let utf16 = |bytes: &[u8], read: fn([u8; 2]) -> u16| {
        let units = bytes.chunks_exact(2).map(|pair| read([pair[0], pair[1]]));
        char::decode_utf16(units)
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect()
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => utf16(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => utf16(rest, u16::from_be_bytes),
        [0xef, 0xbb, 0xbf, rest @ ..] => String::from_utf8_lossy(rest).into_owned(),
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// The Corefiles of an input.
pub fn find(text: &str) -> Found {
    let lines: Vec<usize> = (1..=text.split('\n').count()).collect();
    let mut found = Found::default();
    let Some(kind) = container(text) else {
        found.documents.push(document(None, text, lines));
        return found;
    };
    let mut read = vec![false; lines.len() + 1];
    search(text, &lines, 1, &mut found.documents, &mut read);
    let outside: Vec<(usize, &'static str)> = mentions(text)
        .filter(|(line, ..)| !read[*line])
        .filter(|(.., key)| !*key || found.documents.is_empty())
        .map(|(line, word, _)| (line, word))
        .collect();
    if !found.documents.is_empty() {
        found.outside = outside;
    } else if let Some((line, word)) = outside.first() {
        found.problems.push((
            *line,
            format!(
                "`{word}` is here, but this is {kind}, and no Corefile was found in it; {REMEDY}"
            ),
        ));
    }
    found
}

fn document(name: Option<String>, text: &str, lines: Vec<usize>) -> Document {
    let (text, helm) = helm::without_escapes(text);
    let (text, controls) = helm::without_controls(&text);
    Document {
        name,
        text,
        lines,
        helm,
        controls,
    }
}

/// Searches a text that is not a Corefile for scalars that are, and marks the lines of those that need no further look.
fn search(
    text: &str,
    lines: &[usize],
    depth: usize,
    documents: &mut Vec<Document>,
    read: &mut [bool],
) {
    let mark = |scalar: &Scalar, read: &mut [bool]| {
        for line in scalar.first_line..=scalar.last_line {
            if let Some(&line) = lines.get(line) {
                read[line] = true;
            }
        }
    };
    for scalar in scalars::scalars(text) {
        // What `kubectl apply` was last given is not what is in force.
        if scalar.key.ends_with("last-applied-configuration") {
            mark(&scalar, read);
            continue;
        }
        let named = is_corefile_key(&scalar.key);
        if !named && mentions(&scalar.text).next().is_none() {
            continue;
        }
        let own: Vec<usize> = scalar
            .lines
            .iter()
            .map(|&line| lines.get(line).copied().unwrap_or(1))
            .collect();
        if container(&scalar.text).is_some() {
            if depth < MAX_DEPTH {
                let before = documents.len();
                search(&scalar.text, &own, depth + 1, documents, read);
                if documents.len() > before {
                    mark(&scalar, read);
                }
            }
        } else if named || looks_like_corefile(&scalar.text) {
            let name = (!scalar.key.is_empty()).then(|| scalar.key.clone());
            documents.push(document(name, &scalar.text, own));
            mark(&scalar, read);
        }
    }
}

/// Whether a ConfigMap's key names a Corefile or a part of one.
fn is_corefile_key(key: &str) -> bool {
    let name = key.rsplit('/').next().unwrap_or(key);
    name.eq_ignore_ascii_case("corefile")
        || name.to_ascii_lowercase().ends_with(".corefile")
        || name.ends_with(".override")
        || name.ends_with(".server")
}

fn looks_like_corefile(text: &str) -> bool {
    text.lines().any(|line| {
        let mut words = line.split_whitespace();
        let (first, second) = (words.next(), words.next().unwrap_or(""));
        match first {
            Some("template") => matches!(second, "IN" | "ANY" | "CH" | "HS"),
            Some("rewrite") => matches!(
                second.to_ascii_lowercase().as_str(),
                "name"
                    | "type"
                    | "class"
                    | "edns0"
                    | "ttl"
                    | "cname"
                    | "rcode"
                    | "stop"
                    | "continue"
                    | "{"
            ),
            _ => line.trim_end().ends_with('{'),
        }
    })
}

/// What a text is that is not a Corefile itself.
fn container(text: &str) -> Option<&'static str> {
    let body = text
        .lines()
        .find(|line| !is_comment(line) && !line.trim().is_empty())?
        .trim_start();
    let second = body
        .get(1..)
        .unwrap_or("")
        .trim_start()
        .chars()
        .next()
        .unwrap_or('"');
    let json = (body.starts_with('{') && "\"}".contains(second))
        || (body.starts_with('[') && "{[\"]".contains(second));
    if json {
        return Some("JSON");
    }
    let mut values = false;
    for line in text.lines().filter(|line| !is_comment(line)) {
        if scalars::is_heredoc(line) {
            return Some("Terraform or a script");
        }
        let line = line.trim_end();
        let bare = line.trim_start();
        if line.starts_with("resource \"") || line.starts_with("locals {") {
            return Some("Terraform");
        }
        if line == "====" || line.starts_with("Namespace:  ") {
            return Some("what `kubectl describe` prints");
        }
        if let Some((_, behind)) = line.split_once("Corefile")
            && behind
                .trim_start_matches(['"', '\'', ' '])
                .starts_with([':', '='])
        {
            values = true;
        }
        let key = bare.strip_prefix("- ").unwrap_or(bare);
        let Some((key, value)) = key.split_once(':') else {
            continue;
        };
        let key = key.trim().trim_matches(['"', '\'']);
        let plain = !key.is_empty()
            && key
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_./".contains(&b));
        if !plain {
            continue;
        }
        let value = value.trim();
        if matches!(
            key,
            "apiVersion" | "kind" | "metadata" | "configMapGenerator"
        ) {
            return Some("a Kubernetes manifest");
        }
        values |= scalars::is_block_header(value) || value.is_empty();
    }
    values.then_some("YAML, such as values of a Helm chart")
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with('#')
}

/// The lines, from 1, on which the name of an imported plugin is a word outside of comments; and whether it is a YAML key
/// there, as that of a pod template is.
pub fn mentions(text: &str) -> impl Iterator<Item = (usize, &'static str, bool)> {
    text.split('\n').enumerate().flat_map(|(index, line)| {
        // A comment, unless what follows has line breaks that are still escaped.
        let code = match line.find('#') {
            Some(at) if !line[at..].contains("\\n") => &line[..at],
            _ => line,
        };
        ["template", "rewrite"].into_iter().filter_map(move |word| {
            let at = word_at(code, word)?;
            let is_key = code[at + word.len()..]
                .trim_start_matches(['"', '\''])
                .starts_with(':');
            Some((index + 1, word, is_key))
        })
    })
}

/// The lines on which such a word is in a comment.
pub fn commented(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.split('\n').enumerate().flat_map(|(index, line)| {
        let comment = line.find('#').map_or("", |at| &line[at..]);
        ["template", "rewrite"]
            .into_iter()
            .filter(move |word| word_at(comment, word).is_some())
            .map(move |word| (index + 1, word))
    })
}

fn word_at(text: &str, word: &str) -> Option<usize> {
    let inner = |c: char| c.is_alphanumeric() || "_-./".contains(c);
    text.match_indices(word).map(|(at, _)| at).find(|&at| {
        // A line break that is still escaped ends a word too.
        let before = &text[..at];
        let starts = before.ends_with("\\n") || before.ends_with("\\t") || !before.ends_with(inner);
        starts && !text[at + word.len()..].starts_with(inner)
    })
}

#[cfg(test)]
mod tests;
