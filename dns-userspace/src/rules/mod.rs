//! Tenant rules: from patterns to one reversed DFA, and from a matched name to its captures and its target.
//!
//! A `match` is a leading `*` (one or more labels), literal labels, `{namespace}` and at most one more `{capture}` (each
//! exactly one RFC 1123 label); its `cname` uses the captures by name, anywhere in a label. A `regex` is matched as
//! CoreDNS's `template` does it: unanchored, on the lower-cased name with its final dot; its `cname` uses groups as
//! `{1}` or, where they are named (`(?P<namespace>…)`), as `{namespace}`. The first rule that matches wins.

mod check;
mod pattern;
mod regex;
mod table;

use dns_common::dfa::{self, NAME_AT, Scratch};
use hickory_proto::rr::Name;

pub use pattern::{MAX_LABEL, MAX_NAME, NAMESPACE};
pub use table::{MAX_CHUNKS, Table};

use pattern::{Pattern, Problem, Template};
use regex::RegexMatcher;

/// Longest `name` of a rule.
pub const MAX_RULE_NAME: usize = 63;
/// What a rule's `ttl` is when it is left out, in seconds.
pub const DEFAULT_TTL: u32 = 60;
/// Largest `ttl`, in seconds: a day.
pub const MAX_TTL: u32 = 86_400;

/// A rule as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSpec {
    pub name: String,
    pub matches: MatchSpec,
    pub cname: String,
    pub ttl_seconds: u32,
}

/// What a rule matches, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatchSpec {
    /// The `match` key.
    Pattern(String),
    /// The `regex` key.
    Regex(String),
}

/// The key of a rule that a complaint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Name,
    Match,
    Regex,
    Cname,
    Ttl,
}

impl Key {
    /// As it is spelled in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Key::Name => "name",
            Key::Match => "match",
            Key::Regex => "regex",
            Key::Cname => "cname",
            Key::Ttl => "ttl",
        }
    }
}

/// What is wrong with one of the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {}: {}: {problem}; {remedy}", .rule + 1, .key.as_str())]
pub struct Complaint {
    /// Index of the rule.
    pub rule: usize,
    pub key: Key,
    pub problem: String,
    pub remedy: String,
}

impl Complaint {
    fn new(rule: usize, key: Key, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            rule,
            key,
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// Every rule of a configuration, compiled; immutable, shared by the programs' tables and the responder.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    table: Table,
    warnings: Vec<Complaint>,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    name: String,
    ttl_seconds: u32,
    /// The `match` or `regex` key and the `cname` key as written.
    pattern: String,
    cname: String,
    matcher: Matcher,
    /// Names of the captures in the order of [`Match::captures`]; groups may have none.
    captures: Vec<Option<String>>,
    namespace: Option<usize>,
    target: Template<usize>,
}

#[derive(Debug)]
enum Matcher {
    Pattern(Pattern),
    Regex(Box<RegexMatcher>),
}

/// What a rule makes of a name that it matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// The captured labels in the order of the pattern, lower-cased; for a `regex` rule its groups.
    pub captures: Vec<String>,
    /// The capture named `namespace`, if the rule has one.
    pub namespace: Option<String>,
    /// Where the CNAME points: absolute, lower case.
    pub target: Name,
}

impl RuleSet {
    /// Compiles rules, or says everything that is wrong with them.
    pub fn compile(specs: &[RuleSpec]) -> Result<Self, Vec<Complaint>> {
        let mut complaints = Vec::new();
        if specs.len() > dfa::MAX_RULES {
            return Err(vec![Complaint::new(
                dfa::MAX_RULES,
                Key::Match,
                format!("there are {} rules", specs.len()),
                format!(
                    "keep to {}: captures let one rule serve many names",
                    dfa::MAX_RULES
                ),
            )]);
        }
        let mut rules = Vec::with_capacity(specs.len());
        let mut languages = Vec::with_capacity(specs.len());
        for (index, spec) in specs.iter().enumerate() {
            if let Some((rule, language)) = Rule::compile(index, spec, &mut complaints) {
                rules.push((index, rule));
                languages.push(language);
            }
        }
        let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
        complaints.extend(check::duplicates(&names, &rules));
        complaints.extend(check::loops(&rules));
        if !complaints.is_empty() {
            complaints.sort_by_key(|complaint| complaint.rule);
            return Err(complaints);
        }
        let built = table::build(&languages).map_err(|table::TooLarge| {
            vec![Complaint::new(
                0,
                rules.first().map_or(Key::Match, |(_, rule)| rule.key()),
                "the rules together need too large a table",
                "use fewer rules, and `match` in the place of `regex` where it can say the same",
            )]
        })?;
        let rules: Vec<Rule> = rules.into_iter().map(|(_, rule)| rule).collect();
        let warnings = warnings(&rules, &built.reached);
        Ok(Self {
            rules,
            table: built.table,
            warnings,
        })
    }

    /// The rules in the order of the configuration; the index is the one that the kernel reports.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// Rules that can be loaded but hardly mean what they say.
    pub fn warnings(&self) -> &[Complaint] {
        &self.warnings
    }

    /// The first rule that matches a name in wire format (uncompressed, root label included, any case).
    pub fn find(&self, qname: &[u8]) -> Option<usize> {
        if qname.len() > MAX_NAME {
            return None;
        }
        let mut scratch = Scratch::new();
        scratch.bytes[NAME_AT as usize..][..qname.len()].copy_from_slice(qname);
        scratch.split_labels(qname.len() as u32).ok()?;
        let rule = dfa::find(&self.table.header, self.table.chunks.as_slice(), &scratch)?;
        Some(rule as usize)
    }
}

impl Rule {
    fn compile(
        index: usize,
        spec: &RuleSpec,
        complaints: &mut Vec<Complaint>,
    ) -> Option<(Self, regex_syntax::hir::Hir)> {
        let before = complaints.len();
        let mut complain = |key: Key, problem: Problem| {
            complaints.push(Complaint::new(index, key, problem.problem, problem.remedy));
        };
        if let Err(problem) = check_rule_name(&spec.name) {
            complain(Key::Name, problem);
        }
        if !(1..=MAX_TTL).contains(&spec.ttl_seconds) {
            complain(
                Key::Ttl,
                Problem::new(
                    format!("{} is out of range", spec.ttl_seconds),
                    format!("write a number of seconds from 1 to {MAX_TTL}"),
                ),
            );
        }
        let (key, numbers, text) = match &spec.matches {
            MatchSpec::Pattern(text) => (Key::Match, false, text),
            MatchSpec::Regex(text) => (Key::Regex, true, text),
        };
        let parsed = match &spec.matches {
            MatchSpec::Pattern(text) => Pattern::parse(text).map(|pattern| {
                let captures = pattern.captures().map(|name| Some(name.to_owned()));
                let captures: Vec<_> = captures.collect();
                let language = table::language(&pattern);
                (Matcher::Pattern(pattern), captures, language)
            }),
            MatchSpec::Regex(text) => RegexMatcher::parse(text)
                .and_then(|(regex, language)| {
                    table::check_size(&language).map_err(|table::TooLarge| {
                        Problem::new(
                            "the expression needs too large a table",
                            "use smaller repetition counts and fewer `.*`, or split the rule",
                        )
                    })?;
                    let captures = regex.groups().map(|name| name.map(str::to_owned)).collect();
                    Ok((Matcher::Regex(Box::new(regex)), captures, language))
                })
                .map_err(|problem| vec![problem]),
        };
        let parsed = parsed.map_err(|problems| {
            for problem in problems {
                complain(key, problem);
            }
        });
        let template = Template::parse(&spec.cname, numbers).map_err(|problems| {
            for problem in problems {
                complain(Key::Cname, problem);
            }
        });
        let (Ok((matcher, captures, language)), Ok(template)) = (parsed, template) else {
            return None;
        };

        let position = |reference: &str| {
            let number = reference.parse::<usize>().ok().filter(|_| numbers);
            match number {
                Some(number) => number.checked_sub(1).filter(|&at| at < captures.len()),
                None => captures
                    .iter()
                    .position(|name| name.as_deref() == Some(reference)),
            }
        };
        let mut used = vec![false; captures.len()];
        for reference in template.references() {
            match position(reference) {
                Some(at) => used[at] = true,
                None => complain(Key::Cname, unknown_capture(reference, &captures, numbers)),
            }
        }
        for (at, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
            complain(key, unused_capture(at, &captures, numbers));
        }
        let target = template.resolve(position)?;
        if complaints.len() > before {
            return None;
        }
        let namespace = captures
            .iter()
            .position(|name| name.as_deref() == Some(NAMESPACE));
        let rule = Self {
            name: spec.name.clone(),
            ttl_seconds: spec.ttl_seconds,
            pattern: text.clone(),
            cname: spec.cname.clone(),
            matcher,
            captures,
            namespace,
            target,
        };
        Some((rule, language))
    }

    fn key(&self) -> Key {
        match self.matcher {
            Matcher::Pattern(_) => Key::Match,
            Matcher::Regex(_) => Key::Regex,
        }
    }

    /// The rule's `name` key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rule's own cap on what clients are told.
    pub fn ttl_seconds(&self) -> u32 {
        self.ttl_seconds
    }

    /// The `match` key, or the `regex` key of a rule that has one.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether the rule has a `regex` key.
    pub fn is_regex(&self) -> bool {
        matches!(self.matcher, Matcher::Regex(_))
    }

    /// The `cname` key.
    pub fn cname(&self) -> &str {
        &self.cname
    }

    /// What stands for each of [`Match::captures`] in `pattern`: a capture's name, or a group's name or number.
    pub fn capture_names(&self) -> impl Iterator<Item = String> {
        self.captures
            .iter()
            .enumerate()
            .map(|(index, name)| name.clone().unwrap_or_else(|| (index + 1).to_string()))
    }

    /// The captures and the target for a name in wire format, or `None` when the rule does not match it after all, or
    /// when the target would not be a name.
    pub fn apply(&self, qname: &[u8]) -> Option<Match> {
        let labels = pattern::wire_labels(qname)?;
        let (captures, namespace) = match &self.matcher {
            Matcher::Pattern(pattern) => {
                let captures = pattern.captured(&labels)?;
                let namespace = self.namespace.map(|at| captures[at].clone());
                (captures, namespace)
            }
            Matcher::Regex(regex) => {
                let groups = regex.captured(&labels)?;
                let namespace = self.namespace.and_then(|at| groups[at].clone());
                let captures = groups.into_iter().map(Option::unwrap_or_default).collect();
                (captures, namespace)
            }
        };
        let target = self.target.fill(&captures)?;
        Some(Match {
            target: absolute(&target)?,
            captures,
            namespace,
        })
    }
}

/// The name of this presentation form, if it is one within the limits; no escapes.
fn absolute(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let good = text.len() + 2 <= MAX_NAME
        && text
            .split('.')
            .all(|label| (1..=MAX_LABEL).contains(&label.len()));
    if !good {
        return None;
    }
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

fn check_rule_name(name: &str) -> Result<(), Problem> {
    let good = (1..=MAX_RULE_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good {
        return Ok(());
    }
    Err(Problem::new(
        "this cannot be a rule's name",
        "use 1 to 63 letters, digits, `-`, `_` and `.`: metrics and logs show it",
    ))
}

fn spelled(at: usize, captures: &[Option<String>]) -> String {
    match captures.get(at) {
        Some(Some(name)) => format!("`{{{name}}}`"),
        _ => format!("`{{{}}}`", at + 1),
    }
}

fn unknown_capture(reference: &str, captures: &[Option<String>], numbers: bool) -> Problem {
    let known: Vec<String> = (0..captures.len())
        .map(|at| spelled(at, captures))
        .collect();
    let source = if numbers { "regex" } else { "match" };
    let remedy = if known.is_empty() {
        format!("capture it in `{source}`, or write the label out")
    } else {
        format!("use {}, or capture it in `{source}`", known.join(" or "))
    };
    Problem::new(
        format!("`{{{reference}}}` is not captured by the rule's `{source}`"),
        remedy,
    )
}

fn unused_capture(at: usize, captures: &[Option<String>], numbers: bool) -> Problem {
    let name = spelled(at, captures);
    if numbers {
        Problem::new(
            format!("the group {name} is not used by `cname`"),
            format!("use {name} in `cname`, or write the group as `(?:…)`"),
        )
    } else {
        Problem::new(
            format!("{name} is captured but not used by `cname`"),
            format!("use {name} in `cname`, or write the label out"),
        )
    }
}

fn warnings(rules: &[Rule], reached: &[bool]) -> Vec<Complaint> {
    let mut warnings = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        if !reached.get(index).copied().unwrap_or(true) {
            warnings.push(match check::shadow(rules, index) {
                Some(earlier) => Complaint::new(
                    index,
                    rule.key(),
                    format!(
                        "never used: `{}` matches the same names first",
                        earlier.name
                    ),
                    "put the narrower rule first, or remove it",
                ),
                None => Complaint::new(
                    index,
                    rule.key(),
                    "never used: earlier rules take all its names, or it matches none",
                    "put the narrower rule first, or remove it",
                ),
            });
        }
    }
    warnings
}
