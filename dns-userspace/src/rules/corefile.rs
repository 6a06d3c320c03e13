//! From a CoreDNS Corefile to rules of a configuration: what the library `corefile` reads from it, as far as the rules compile.

pub use ::corefile::{Note, NoteKind};

use super::{Budget, Complaint, MatchSpec, RuleSet, RuleSpec};

/// The rules of a Corefile, and what was not imported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Import {
    pub rules: Vec<Imported>,
    /// In the order of the file.
    pub notes: Vec<Note>,
}

/// A rule and the line of the directive that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub line: usize,
    pub rule: RuleSpec,
}

impl Import {
    /// How many directives, or parts of them, have no rule.
    pub fn left_out(&self) -> usize {
        self.notes
            .iter()
            .filter(|note| note.kind == NoteKind::LeftOut)
            .count()
    }

    /// The rules as a part of a configuration file.
    pub fn to_toml(&self) -> String {
        let mut text = String::new();
        for Imported { line, rule } in &self.rules {
            let (key, pattern) = match &rule.matches {
                MatchSpec::Pattern(pattern) => ("match", pattern),
                MatchSpec::Regex(regex) => ("regex", regex),
            };
            if !text.is_empty() {
                text.push('\n');
            }
            text.push_str(&format!(
                "# line {line} of the Corefile\n[[rule]]\nname = {}\n{key} = {}\ncname = {}\nttl = {}\n",
                quoted(&rule.name),
                quoted(pattern),
                quoted(&rule.cname),
                rule.ttl_seconds
            ));
            if !rule.follow {
                text.push_str("follow = false\n");
            }
        }
        text
    }
}

fn quoted(text: &str) -> String {
    // A literal string holds neither a quote nor control characters: a Corefile's words may go over several lines.
    let literal = !text.contains(|letter: char| letter == '\'' || letter.is_control());
    if text.contains('\\') && literal {
        format!("'{text}'")
    } else {
        toml::Value::String(text.to_owned()).to_string()
    }
}

/// Reads a Corefile, a part of one, or a file that has one in it; `budget` is for the compilation of its rules.
pub fn import(bytes: &[u8], budget: &Budget) -> Import {
    let mut read = ::corefile::import(bytes);
    loop {
        let rules: Vec<Imported> = read.rules.iter().map(imported).collect();
        let complaints = match compile(&rules, budget) {
            Ok(warnings) => {
                for warning in warnings {
                    let line = rules[warning.rule].line;
                    read.warn(line, format!("as a rule, {}", warning.problem));
                }
                read.sort_notes();
                return Import {
                    rules,
                    notes: read.notes,
                };
            }
            Err(complaints) => complaints,
        };
        let mut bad = refused(&rules, &complaints);
        if budget.check_time().is_err() {
            bad.extend(expressions(&rules, &bad));
        }
        read.take_out(&bad);
    }
}

fn imported(rule: &::corefile::Rule) -> Imported {
    Imported {
        line: rule.line,
        rule: RuleSpec {
            name: rule.name.clone(),
            matches: match &rule.matches {
                ::corefile::Matches::Pattern(text) => MatchSpec::Pattern(text.clone()),
                ::corefile::Matches::Regex(text) => MatchSpec::Regex(text.clone()),
            },
            cname: rule.cname.clone(),
            ttl_seconds: rule.ttl_seconds,
            follow: rule.follow,
            ..RuleSpec::default()
        },
    }
}

/// The complaints about the rules when they are compiled together.
fn compile(rules: &[Imported], budget: &Budget) -> Result<Vec<Complaint>, Vec<Complaint>> {
    let specs: Vec<RuleSpec> = rules.iter().map(|rule| rule.rule.clone()).collect();
    // Without expressions, what was made in time compiles in time.
    let has_expressions = specs
        .iter()
        .any(|spec| matches!(spec.matches, MatchSpec::Regex(_)));
    let compiled = if has_expressions {
        RuleSet::compile_within(&specs, "", budget)
    } else {
        RuleSet::compile(&specs)
    };
    compiled.map(|rules| rules.warnings().to_vec())
}

/// The rules that there are complaints about, at least one, with the reasons.
fn refused(rules: &[Imported], complaints: &[Complaint]) -> Vec<(usize, String)> {
    let mut bad = Vec::new();
    for complaint in complaints {
        for at in complaint.others.iter().chain([&complaint.rule]) {
            bad.push((
                (*at).min(rules.len().saturating_sub(1)),
                format!(
                    "as a rule, {}: {}; {}",
                    complaint.key.as_str(),
                    complaint.problem,
                    complaint.remedy
                ),
            ));
        }
    }
    bad
}

/// The other expressions, where no time is left to find out which of them are too many.
fn expressions(rules: &[Imported], bad: &[(usize, String)]) -> Vec<(usize, String)> {
    rules
        .iter()
        .enumerate()
        .filter(|(at, rule)| {
            matches!(rule.rule.matches, MatchSpec::Regex(_))
                && !bad.iter().any(|(other, _)| other == at)
        })
        .map(|(at, _)| {
            (
                at,
                "the expressions of this file take too long to compile together: import it in parts"
                    .to_owned(),
            )
        })
        .collect()
}
