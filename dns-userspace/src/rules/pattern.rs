//! The pattern language: what `match` and `cname` may contain, and how they apply to a name. Independent of the tables.

use std::fmt;

use super::clients::FromClient;
use super::labels::{MAX_LABEL, MAX_NAME, NAMESPACE, Problem, is_rfc1123};
use super::namespaces::Namespaces;

/// One label of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PatternLabel {
    /// In lower case.
    Literal(String),
    /// One RFC 1123 label, under this name.
    Capture(String),
}

/// A `match` key: an optional leading `*`, then labels.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern {
    /// Whether one or more labels of any kind come first.
    pub any_labels: bool,
    /// From the first label towards the root.
    pub labels: Vec<PatternLabel>,
    /// What `{namespace}` may be; `None` for any label.
    pub namespaces: Option<Namespaces>,
}

impl Pattern {
    /// Reads a `match` key; says everything that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut pattern = Pattern {
            any_labels: false,
            labels: Vec::new(),
            namespaces: None,
        };
        if let Some(problem) = not_a_name(text) {
            return Err(vec![problem]);
        }
        for (index, label) in without_final_dot(text).split('.').enumerate() {
            if label == "*" {
                if index == 0 {
                    pattern.any_labels = true;
                } else {
                    problems.push(Problem::new(
                        "`*` is behind other labels",
                        "let `*` come first, and write `{name}` for one label elsewhere",
                    ));
                }
                continue;
            }
            match parse_pattern_label(label) {
                Ok(label) => pattern.labels.push(label),
                Err(problem) => problems.push(problem),
            }
        }
        if problems.is_empty() && pattern.labels.is_empty() {
            problems.push(Problem::new(
                "`*` alone takes every name there is",
                "write the domain behind it, as in `*.example.com`",
            ));
        }
        problems.extend(check_captures(&pattern));
        let shortest = pattern
            .labels
            .iter()
            .map(|label| match label {
                PatternLabel::Literal(text) => text.len() + 1,
                PatternLabel::Capture(_) => 2,
            })
            .sum::<usize>()
            + if pattern.any_labels { 2 } else { 0 };
        if shortest + 1 > MAX_NAME {
            problems.push(too_long(shortest + 1));
        }
        if problems.is_empty() {
            Ok(pattern)
        } else {
            Err(problems)
        }
    }

    /// Names of the captures, in the order of the pattern.
    pub fn captures(&self) -> impl Iterator<Item = &str> {
        self.labels.iter().filter_map(|label| match label {
            PatternLabel::Capture(name) => Some(name.as_str()),
            PatternLabel::Literal(_) => None,
        })
    }

    /// For each capture, the number of labels between it and the root.
    pub fn labels_behind_captures(&self) -> impl Iterator<Item = usize> {
        let last = self.labels.len();
        self.labels
            .iter()
            .enumerate()
            .filter(|(_, label)| matches!(label, PatternLabel::Capture(_)))
            .map(move |(index, _)| last - 1 - index)
    }

    /// What the captures take from a name given as its labels, lower-cased; `None` when it does not match.
    pub fn captured(&self, labels: &[&[u8]]) -> Option<Vec<String>> {
        let free = labels.len().checked_sub(self.labels.len())?;
        if self.any_labels != (free > 0) {
            return None;
        }
        let (free, fixed) = labels.split_at(free);
        if !free.iter().all(|label| is_plain(label)) {
            return None;
        }
        let mut captured = Vec::new();
        for (expected, label) in self.labels.iter().zip(fixed) {
            match expected {
                PatternLabel::Literal(text) => {
                    if !text.as_bytes().eq_ignore_ascii_case(label) {
                        return None;
                    }
                }
                PatternLabel::Capture(name) => {
                    if !is_rfc1123(label) {
                        return None;
                    }
                    let label = String::from_utf8_lossy(label).to_ascii_lowercase();
                    if !self.allows(name, &label) {
                        return None;
                    }
                    captured.push(label);
                }
            }
        }
        Some(captured)
    }

    /// Whether a capture may be this RFC 1123 label.
    pub fn allows(&self, capture: &str, label: &str) -> bool {
        self.namespaces_of(capture)
            .is_none_or(|namespaces| namespaces.contains(label))
    }

    /// What a capture may be, where that is not any label.
    pub fn namespaces_of(&self, capture: &str) -> Option<&Namespaces> {
        self.namespaces.as_ref().filter(|_| capture == NAMESPACE)
    }

    /// Whether every name that `other` matches is matched by this pattern too. Conservative: `false` may be wrong.
    pub fn covers(&self, other: &Pattern) -> bool {
        let (ours, theirs) = (self.labels.len(), other.labels.len());
        let enough = match (self.any_labels, other.any_labels) {
            (true, true) => theirs >= ours,
            (true, false) => theirs > ours,
            (false, true) => false,
            (false, false) => theirs == ours,
        };
        enough
            && self
                .labels
                .iter()
                .rev()
                .zip(other.labels.iter().rev())
                .all(|pair| match pair {
                    (PatternLabel::Literal(a), PatternLabel::Literal(b)) => a == b,
                    (PatternLabel::Literal(_), PatternLabel::Capture(_)) => false,
                    (PatternLabel::Capture(a), PatternLabel::Literal(b)) => {
                        is_rfc1123(b.as_bytes()) && self.allows(a, b)
                    }
                    (PatternLabel::Capture(a), PatternLabel::Capture(b)) => {
                        match (self.namespaces_of(a), other.namespaces_of(b)) {
                            (None, _) => true,
                            (Some(_), None) => false,
                            (Some(ours), Some(theirs)) => ours.covers(theirs),
                        }
                    }
                })
    }

    /// The pattern with its captures numbered: equal for two patterns that match the same names.
    pub fn anonymous(&self) -> String {
        let mut text = String::from(if self.any_labels { "*" } else { "" });
        for label in &self.labels {
            if !text.is_empty() {
                text.push('.');
            }
            match label {
                PatternLabel::Literal(literal) => text.push_str(literal),
                PatternLabel::Capture(name) => match self.namespaces_of(name) {
                    Some(namespaces) => text.push_str(&format!("{{{}}}", namespaces.text())),
                    None => text.push_str("{}"),
                },
            }
        }
        text
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        if self.any_labels {
            out.write_str("*")?;
            first = false;
        }
        for label in &self.labels {
            if !first {
                out.write_str(".")?;
            }
            first = false;
            match label {
                PatternLabel::Literal(text) => out.write_str(text)?,
                PatternLabel::Capture(name) => write!(out, "{{{name}}}")?,
            }
        }
        Ok(())
    }
}

fn check_captures(pattern: &Pattern) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for name in pattern.captures() {
        if seen.contains(&name) {
            problems.push(Problem::new(
                format!("`{{{name}}}` is used twice"),
                "give each capture a name of its own",
            ));
        } else {
            seen.push(name);
        }
    }
    let others: Vec<_> = seen.iter().filter(|name| **name != NAMESPACE).collect();
    if others.len() > 1 {
        let listed: Vec<_> = others.iter().map(|name| format!("`{{{name}}}`")).collect();
        problems.push(Problem::new(
            format!("too many captures: {}", listed.join(", ")),
            "capture `{namespace}` and at most one more label; write the others as literal labels",
        ));
    }
    problems
}

fn parse_pattern_label(label: &str) -> Result<PatternLabel, Problem> {
    if let Some(name) = label
        .strip_prefix('{')
        .and_then(|rest| rest.strip_suffix('}'))
        && !name.contains(['{', '}'])
    {
        check_capture_name(name)?;
        return Ok(PatternLabel::Capture(name.to_owned()));
    }
    if label.contains(['{', '}']) {
        let balanced = label.matches('{').count() == label.matches('}').count();
        return Err(if balanced {
            Problem::new(
                format!("the capture in `{label}` is only a part of its label"),
                "let a capture be a whole label, or write the rule with `regex`",
            )
        } else {
            Problem::new(
                format!("a brace of `{label}` has no partner"),
                "write a capture as `{name}`",
            )
        });
    }
    if label.contains('*') {
        return Err(Problem::new(
            format!("the `*` in `{label}` is only a part of its label"),
            "let `*` be the whole first label, or write the rule with `regex`",
        ));
    }
    check_literal(label)?;
    Ok(PatternLabel::Literal(label.to_ascii_lowercase()))
}

fn check_capture_name(name: &str) -> Result<(), Problem> {
    let mut bytes = name.bytes();
    let good = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if good {
        Ok(())
    } else {
        Err(Problem::new(
            format!("`{{{name}}}` is not a name for a capture"),
            "name it with lower-case letters, digits and `_`, a letter first, as in `{namespace}`",
        ))
    }
}

fn check_literal(label: &str) -> Result<(), Problem> {
    if label.is_empty() {
        return Err(Problem::new(
            "a label is empty",
            "remove the extra dot: names have neither a leading dot nor two in a row",
        ));
    }
    if label.len() > MAX_LABEL {
        return Err(Problem::new(
            format!(
                "the label `{}…` has {} bytes",
                label.get(..16).unwrap_or(label),
                label.len()
            ),
            "shorten it: a label has at most 63 bytes (RFC 1035)",
        ));
    }
    match label.chars().find(|&c| !is_literal_char(c)) {
        Some(c) => Err(Problem::new(
            format!("`{c}` in the label `{label}`"),
            "use letters, digits, `-` and `_` in literal labels",
        )),
        None => Ok(()),
    }
}

fn is_literal_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

/// Why a text cannot be a name at all.
fn not_a_name(text: &str) -> Option<Problem> {
    if text.is_empty() || text == "." {
        return Some(Problem::new(
            "no name is given",
            "write a domain name, as in `kafka.example.com`",
        ));
    }
    if text.contains('\\') {
        return Some(Problem::new(
            "the name has a backslash",
            "write names without presentation escapes; bytes that need them cannot be matched (or use `regex`)",
        ));
    }
    if !text.is_ascii() {
        return Some(Problem::new(
            "the name is not ASCII",
            "write internationalised labels in their `xn--` form",
        ));
    }
    None
}

fn too_long(bytes: usize) -> Problem {
    Problem::new(
        format!("the name has at least {bytes} bytes on the wire"),
        "shorten it: a name has at most 255 bytes (RFC 1035)",
    )
}

fn without_final_dot(text: &str) -> &str {
    text.strip_suffix('.').unwrap_or(text)
}

/// Whether a label can be part of what `*` matches: no literal dot, no separator byte.
pub fn is_plain(label: &[u8]) -> bool {
    !label.is_empty()
        && label
            .iter()
            .all(|&b| b != b'.' && b != dns_common::name::SEPARATOR)
}

/// The labels of a name in wire format, or `None` when it is not one uncompressed name and nothing else.
pub fn wire_labels(wire: &[u8]) -> Option<Vec<&[u8]>> {
    if wire.len() > MAX_NAME {
        return None;
    }
    let mut labels = Vec::new();
    let mut rest = wire;
    loop {
        let (&length, tail) = rest.split_first()?;
        if length == 0 {
            return tail.is_empty().then_some(labels);
        }
        if usize::from(length) > MAX_LABEL {
            return None;
        }
        let (label, tail) = tail.split_at_checked(usize::from(length))?;
        labels.push(label);
        rest = tail;
    }
}

/// A piece of a `cname` template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part<R> {
    Text(String),
    /// The text of a capture.
    Capture(R),
}

/// A `cname` key, its captures referred to by `R`: by name as written, by index once they are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template<R> {
    /// Text in lower case; the dots are in the text, and there is none at the end.
    pub parts: Vec<Part<R>>,
}

impl Template<String> {
    /// Reads a `cname` key. With `numbers`, captures may be referred to by number, as the groups of a `regex` are.
    pub fn parse(text: &str, numbers: bool) -> Result<Self, Vec<Problem>> {
        if let Some(problem) = not_a_name(text) {
            return Err(vec![problem]);
        }
        let mut problems = Vec::new();
        let mut parts = Vec::new();
        let mut shortest = 1;
        for (index, label) in template_labels(without_final_dot(text)).enumerate() {
            if index > 0 {
                push_text(&mut parts, ".");
            }
            match parse_template_label(label, numbers) {
                Ok(label) => {
                    let fixed: usize = label
                        .iter()
                        .map(|part| match part {
                            Part::Text(text) => text.len(),
                            Part::Capture(_) => 1,
                        })
                        .sum();
                    if fixed > MAX_LABEL {
                        problems.push(Problem::new(
                            format!("a label has at least {fixed} bytes"),
                            "shorten it: a label has at most 63 bytes (RFC 1035)",
                        ));
                    }
                    shortest += fixed + 1;
                    for part in label {
                        match part {
                            Part::Text(text) => push_text(&mut parts, &text),
                            capture => parts.push(capture),
                        }
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        if shortest > MAX_NAME {
            problems.push(too_long(shortest));
        }
        if problems.is_empty() {
            Ok(Self { parts })
        } else {
            Err(problems)
        }
    }

    /// What the template refers to, each once.
    pub fn references(&self) -> Vec<&str> {
        let mut names: Vec<&str> = Vec::new();
        for part in &self.parts {
            if let Part::Capture(name) = part
                && !names.contains(&name.as_str())
            {
                names.push(name);
            }
        }
        names
    }

    /// The same template with each reference resolved by `index`.
    pub fn resolve(self, index: impl Fn(&str) -> Option<usize>) -> Option<Template<usize>> {
        let parts = self
            .parts
            .into_iter()
            .map(|part| {
                Some(match part {
                    Part::Text(text) => Part::Text(text),
                    Part::Capture(name) => Part::Capture(index(&name)?),
                })
            })
            .collect::<Option<_>>()?;
        Some(Template { parts })
    }
}

impl Template<usize> {
    /// The template with its captures filled in, in presentation form without the final dot.
    pub fn fill(&self, captures: &[String]) -> Option<String> {
        let mut text = String::new();
        for part in &self.parts {
            match part {
                Part::Text(literal) => text.push_str(literal),
                Part::Capture(index) => text.push_str(captures.get(*index)?),
            }
        }
        Some(text)
    }
}

fn push_text<R>(parts: &mut Vec<Part<R>>, text: &str) {
    match parts.last_mut() {
        Some(Part::Text(last)) => last.push_str(text),
        _ => parts.push(Part::Text(text.to_owned())),
    }
}

/// The labels of a `cname`: a dot between braces belongs to a reference.
pub fn template_labels(text: &str) -> impl Iterator<Item = &str> {
    let mut is_inside = false;
    text.split(move |c| {
        match c {
            '{' => is_inside = true,
            '}' => is_inside = false,
            _ => {}
        }
        c == '.' && !is_inside
    })
}

fn parse_template_label(label: &str, numbers: bool) -> Result<Vec<Part<String>>, Problem> {
    if label.is_empty() {
        check_literal(label)?;
    }
    let mut parts = Vec::new();
    let mut rest = label;
    while !rest.is_empty() {
        let Some(open) = rest.find(['{', '}']) else {
            parts.push(literal_part(rest)?);
            break;
        };
        if open > 0 {
            parts.push(literal_part(&rest[..open])?);
        }
        let inner = rest[open..].strip_prefix('{').and_then(|tail| {
            let close = tail.find(['{', '}'])?;
            tail[close..].starts_with('}').then(|| &tail[..close])
        });
        let Some(name) = inner else {
            return Err(Problem::new(
                format!("a brace of `{label}` has no partner"),
                "write what was captured as `{name}`",
            ));
        };
        let number = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
        let is_group = numbers && (number || is_group_name(name));
        if !is_group && !FromClient::is_reference(name) {
            check_capture_name(name)?;
        }
        parts.push(Part::Capture(name.to_owned()));
        rest = &rest[open + name.len() + 2..];
    }
    Ok(parts)
}

fn is_group_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes
        .next()
        .is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn literal_part(text: &str) -> Result<Part<String>, Problem> {
    if text.contains('*') {
        return Err(Problem::new(
            "`*` is in a target",
            "write the one name that the CNAME points to; captures go in as `{name}`",
        ));
    }
    match text.chars().find(|&c| !is_literal_char(c)) {
        Some(c) => Err(Problem::new(
            format!("`{c}` in the target"),
            "use letters, digits, `-` and `_` in literal labels, and `{name}` for captures",
        )),
        None => Ok(Part::Text(text.to_ascii_lowercase())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        let problems = Pattern::parse(text).unwrap_err();
        assert!(problems.iter().all(|p| !p.remedy.is_empty()));
        problems[0].problem.clone()
    }

    #[test]
    fn patterns_that_are_refused() {
        for (text, expected) in [
            ("", "no name"),
            (".", "no name"),
            ("*", "every name"),
            ("a..b", "empty"),
            (".a", "empty"),
            ("a.*.b", "behind other labels"),
            ("*.*.b", "behind other labels"),
            ("lkc-*.b", "only a part"),
            ("lkc-{x}.b", "only a part"),
            ("{x.b", "no partner"),
            ("{}.b", "not a name for a capture"),
            ("{A}.b", "not a name for a capture"),
            ("{a}.{a}.b", "twice"),
            ("{a}.{b}.c", "too many"),
            ("{a}.{b}.{namespace}.c", "too many"),
            (r"a\.b", "backslash"),
            ("bücher.de", "not ASCII"),
            ("a b.c", "` ` in the label"),
        ] {
            assert!(
                problem(text).contains(expected),
                "{text}: {}",
                problem(text)
            );
        }
        assert!(problem(&format!("{}.b", "a".repeat(64))).contains("64 bytes"));
        assert!(problem(&["a"; 128].join(".")).contains("257 bytes"));
        assert!(Pattern::parse(&["a"; 127].join(".")).is_ok());
    }

    #[test]
    fn every_problem_of_a_pattern_is_reported() {
        assert_eq!(Pattern::parse("a.*.b$.{Q}").unwrap_err().len(), 3);
    }

    #[test]
    fn captures_are_whole_labels_of_rfc_1123() {
        let pattern = Pattern::parse("*.M.{namespace}.svc.").unwrap();
        assert_eq!(pattern.to_string(), "*.m.{namespace}.svc");
        let captured = |labels: &[&[u8]]| pattern.captured(labels);
        assert_eq!(captured(&[b"x", b"m", b"FoO", b"SVC"]).unwrap(), ["foo"]);
        assert_eq!(
            captured(&[b"y", b"\0", b"m", b"foo-1", b"svc"]).unwrap(),
            ["foo-1"]
        );
        assert_eq!(captured(&[b"m", b"foo", b"svc"]), None);
        for bad in [&b"-a"[..], b"a-", b"a_b", b"a.b", b"\xff"] {
            assert_eq!(captured(&[b"x", b"m", bad, b"svc"]), None);
        }
        assert_eq!(captured(&[b"x.y", b"m", b"foo", b"svc"]), None);
        assert_eq!(captured(&[b"x\xff", b"m", b"foo", b"svc"]), None);
    }

    #[test]
    fn templates() {
        let parse = |text, numbers| Template::parse(text, numbers);
        let template = parse("K-{namespace}x.{a}.Svc.", false).unwrap();
        assert_eq!(template.references(), ["namespace", "a"]);
        let filled = template
            .resolve(|name| ["a", "namespace"].iter().position(|n| *n == name))
            .unwrap()
            .fill(&["1".into(), "ns".into()]);
        assert_eq!(filled.unwrap(), "k-nsx.1.svc");
        assert!(parse("{1}.a", false).is_err());
        assert!(parse("{1}.a", true).is_ok());
        for bad in [
            "", ".", "a..b", "*.a", "{a", "a}", "{{a}}", "a b", r"a\046b",
        ] {
            assert!(parse(bad, true).is_err(), "{bad}");
        }
        assert!(parse(&format!("{}{{a}}.b", "x".repeat(63)), false).is_err());
    }

    #[test]
    fn wider_patterns_cover_narrower_ones() {
        let covers = |a: &str, b: &str| {
            Pattern::parse(a)
                .unwrap()
                .covers(&Pattern::parse(b).unwrap())
        };
        assert!(covers("*.a", "x.a"));
        assert!(covers("*.a", "*.x.a"));
        assert!(covers("{q}.a", "x.a"));
        assert!(!covers("{q}.a", "x_.a"));
        assert!(!covers("*.x.a", "*.a"));
        assert!(!covers("x.a", "*.a"));
        assert!(!covers("*.a", "a"));
    }
}
