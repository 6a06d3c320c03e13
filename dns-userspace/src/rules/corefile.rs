//! From a CoreDNS Corefile to rules of a configuration: what the library `corefile` makes of it, as far as the rules compile.

pub use ::corefile::{Note, NoteKind};

use super::{Budget, Complaint, MatchSpec, RuleSet, RuleSpec};

/// What a Corefile became.
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
    let mut rules: Vec<Imported> = std::mem::take(&mut read.rules)
        .into_iter()
        .map(|rule| Imported {
            line: rule.line,
            rule: RuleSpec {
                name: rule.name,
                matches: match rule.matches {
                    ::corefile::Matches::Pattern(text) => MatchSpec::Pattern(text),
                    ::corefile::Matches::Regex(text) => MatchSpec::Regex(text),
                },
                cname: rule.cname,
                ttl_seconds: rule.ttl_seconds,
            },
        })
        .collect();
    while let Err(complaints) = compiles(&rules, budget, &mut read) {
        leave_out(&mut rules, &complaints, &mut read);
        if budget.check_time().is_err() {
            without_expressions(&mut rules, &mut read);
            break;
        }
    }
    read.sort_notes();
    Import {
        rules,
        notes: read.notes,
    }
}

/// Compiles the rules together, and passes on what there is to say about those that do.
fn compiles(
    rules: &[Imported],
    budget: &Budget,
    read: &mut ::corefile::Import,
) -> Result<(), Vec<Complaint>> {
    if rules.is_empty() {
        return Ok(());
    }
    let specs: Vec<RuleSpec> = rules.iter().map(|rule| rule.rule.clone()).collect();
    let compiled = RuleSet::compile_within(&specs, budget)?;
    for warning in compiled.warnings() {
        let line = rules[warning.rule].line;
        read.warn(line, format!("as a rule, {}", warning.problem));
    }
    Ok(())
}

/// Takes out the rules that there are complaints about; always at least one.
fn leave_out(rules: &mut Vec<Imported>, complaints: &[Complaint], read: &mut ::corefile::Import) {
    let mut bad = vec![false; rules.len()];
    for complaint in complaints {
        for at in complaint.others.iter().chain([&complaint.rule]) {
            let at = (*at).min(rules.len() - 1);
            bad[at] = true;
            read.leave_out(
                rules[at].line,
                format!(
                    "as a rule, {}: {}; {}",
                    complaint.key.as_str(),
                    complaint.problem,
                    complaint.remedy
                ),
            );
        }
    }
    let mut bad = bad.into_iter();
    rules.retain(|_| !bad.next().unwrap_or(false));
}

/// Where no time is left to find out which expressions are too many, none stays.
fn without_expressions(rules: &mut Vec<Imported>, read: &mut ::corefile::Import) {
    rules.retain(|imported| {
        let is_expression = matches!(imported.rule.matches, MatchSpec::Regex(_));
        if is_expression {
            read.leave_out(
                imported.line,
                "the expressions of this file take too long to compile together: import it in parts",
            );
        }
        !is_expression
    });
}
