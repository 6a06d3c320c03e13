//! From CoreDNS's `template` and `rewrite` to rules. What a rule cannot say is left out with its line and the reason;
//! nothing is guessed. Knows the Corefile's syntax and these two plugins; the others are none of its business.

mod answer;
mod expression;
mod syntax;

use std::fmt;

use super::{DEFAULT_TTL, MAX_TTL, MatchSpec, RuleSet, RuleSpec};
use answer::Answer;
use syntax::Statement;

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

/// Something to know about a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// From 1.
    pub line: usize,
    pub kind: NoteKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoteKind {
    /// The rule says nearly the same; the text says what differs.
    Warning,
    /// There is no rule for it; the text says why.
    LeftOut,
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            NoteKind::Warning => "warning",
            NoteKind::LeftOut => "not imported",
        };
        write!(out, "{}: {kind}: {}", self.line, self.text)
    }
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

    fn warn(&mut self, line: usize, text: impl Into<String>) {
        self.note(line, NoteKind::Warning, text.into());
    }

    fn leave_out(&mut self, line: usize, text: impl Into<String>) {
        self.note(line, NoteKind::LeftOut, text.into());
    }

    fn note(&mut self, line: usize, kind: NoteKind, text: String) {
        self.notes.push(Note { line, kind, text });
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

/// Reads a Corefile, or a part of one, or a Helm template of one.
pub fn import(text: &str) -> Import {
    let mut import = Import::default();
    let (text, helm) = syntax::without_helm(text);
    match syntax::parse(&text) {
        Ok(statements) => {
            for statement in &statements {
                top_level(&mut import, statement, helm);
            }
        }
        Err(error) => import.leave_out(error.line, error.problem),
    }
    check_together(&mut import);
    import.notes.sort_by_key(|note| note.line);
    import.notes.dedup();
    import
}

fn top_level(import: &mut Import, statement: &Statement, helm: bool) {
    let first = statement.word(0);
    if matches!(first, "template" | "rewrite" | "import") {
        directive(import, statement, &[".".to_owned()], helm);
        return;
    }
    let Some(body) = &statement.block else { return };
    if first.starts_with('(') {
        if contains(body, &["template", "rewrite"]) {
            import.leave_out(
                statement.line,
                format!("the snippet {first} is not followed: import what it expands to"),
            );
        }
        return;
    }
    let zones: Vec<String> = statement
        .words
        .iter()
        .flat_map(|word| word.split(','))
        .filter(|key| !key.is_empty())
        .map(server_zone)
        .collect();
    for inner in body {
        directive(import, inner, &zones, helm);
    }
}

fn contains(statements: &[Statement], names: &[&str]) -> bool {
    statements.iter().any(|statement| {
        names.contains(&statement.word(0))
            || statement
                .block
                .as_deref()
                .is_some_and(|block| contains(block, names))
    })
}

/// The zone of a server block's key, as in `dns://example.org:53`.
fn server_zone(key: &str) -> String {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    let zone = match key.rsplit_once(':') {
        Some((zone, port)) if port.bytes().all(|b| b.is_ascii_digit()) => zone,
        _ => key,
    };
    normal_zone(zone)
}

/// Lower case, without the final dot; "." for the root.
fn normal_zone(zone: &str) -> String {
    let zone = zone.strip_suffix('.').unwrap_or(zone).to_ascii_lowercase();
    if zone.is_empty() {
        ".".to_owned()
    } else {
        zone
    }
}

fn directive(import: &mut Import, statement: &Statement, zones: &[String], helm: bool) {
    match statement.word(0) {
        "template" => template(import, statement, zones, helm),
        "rewrite" => rewrite(import, statement),
        "import" => import.leave_out(
            statement.line,
            format!(
                "`import {}` is not followed: import that file or snippet by itself",
                statement.word(1)
            ),
        ),
        _ => {}
    }
}

fn rewrite(import: &mut Import, statement: &Statement) {
    let line = statement.line;
    let mut words: Vec<&str> = statement.words[1..].iter().map(String::as_str).collect();
    if let Some(&("stop" | "continue")) = words.first() {
        words.remove(0);
    }
    let (from, to) = match (&words[..], &statement.block) {
        (["name", "exact", from, to], None) => (*from, *to),
        (["name", from, to], None) => (*from, *to),
        _ => {
            import.leave_out(
                line,
                "of `rewrite` only `name exact FROM TO` can be said by a rule",
            );
            return;
        }
    };
    if from.contains('{') || to.contains('{') {
        import.leave_out(line, "variables in `rewrite` cannot be said by a rule");
        return;
    }
    import.warn(
        line,
        "`rewrite` answers under the name that was asked; the rule answers with a CNAME to the other name",
    );
    import.rules.push(Imported {
        line,
        rule: RuleSpec {
            name: format!("rewrite-{line}"),
            matches: MatchSpec::Pattern(normal_zone(from)),
            cname: normal_zone(to),
            ttl_seconds: DEFAULT_TTL,
            follow: false,
        },
    });
}

fn template(import: &mut Import, statement: &Statement, server_zones: &[String], helm: bool) {
    let line = statement.line;
    match class_and_type(statement) {
        Ok(()) => {}
        Err(reason) => return import.leave_out(line, reason),
    }
    let mut zones: Vec<String> = statement
        .words
        .iter()
        .skip(3)
        .map(|z| normal_zone(z))
        .collect();
    if zones.is_empty() {
        zones = server_zones.to_vec();
    }
    if let Some(zone) = zones.iter().find(|zone| zone.contains(['{', '/'])) {
        return import.leave_out(line, format!("the zone `{zone}` is not a plain name"));
    }
    let mut matches: Vec<(usize, &str)> = Vec::new();
    let mut answers: Vec<(usize, &str)> = Vec::new();
    let mut falls_through = false;
    for part in statement.block.as_deref().unwrap_or_default() {
        let arguments = part.words[1..]
            .iter()
            .map(|word| (part.line, word.as_str()));
        match part.word(0) {
            "match" => matches.extend(arguments),
            "answer" => answers.extend(arguments),
            "fallthrough" if part.words.len() == 1 => falls_through = true,
            "fallthrough" => {}
            "upstream" => {}
            "rcode" if part.word(1).eq_ignore_ascii_case("NOERROR") => {}
            other @ ("additional" | "authority" | "rcode" | "ederror") => {
                return import.leave_out(
                    part.line,
                    format!("`{other}`: a rule's answer is one CNAME and what it leads to"),
                );
            }
            other => return import.leave_out(part.line, format!("unknown property `{other}`")),
        }
    }
    let &[(answer_line, answer)] = &answers[..] else {
        return import.leave_out(
            line,
            format!("{} answers: a rule's answer is one CNAME", answers.len()),
        );
    };
    let answer = match Answer::parse(answer) {
        Ok(answer) => answer,
        Err(reason) => return import.leave_out(answer_line, reason),
    };
    if !falls_through {
        import.warn(
            line,
            "without `fallthrough` CoreDNS refuses the zone's other names; gregor lets them pass",
        );
    }
    let ttl_seconds = answer.ttl.clamp(1, MAX_TTL);
    if ttl_seconds != answer.ttl {
        import.warn(
            answer_line,
            format!("a TTL of {} becomes {ttl_seconds}", answer.ttl),
        );
    }
    let implied = matches.is_empty();
    if implied {
        matches.push((line, ".*"));
    }
    let several = matches.len() > 1 || zones.len() > 1;
    let mut number = 0;
    for (match_line, text) in matches {
        let text = match unescaped(text, helm) {
            Ok((text, halved)) => {
                if halved {
                    import.warn(
                        match_line,
                        "`\\\\` is read as `\\`, as Helm's escaping means it",
                    );
                }
                text
            }
            Err(reason) => {
                import.leave_out(match_line, reason);
                continue;
            }
        };
        match expression::convert(&text, &zones, &answer) {
            Ok(converted) => {
                for warning in converted.warnings {
                    import.warn(match_line, warning);
                }
                for (matches, cname) in converted.rules {
                    number += 1;
                    let name = if several || number > 1 {
                        format!("template-{line}-{number}")
                    } else {
                        format!("template-{line}")
                    };
                    import.rules.push(Imported {
                        line,
                        rule: RuleSpec {
                            name,
                            matches,
                            cname,
                            ttl_seconds,
                            follow: true,
                        },
                    });
                }
            }
            Err(reason) => import.leave_out(match_line, reason),
        }
    }
}

fn class_and_type(statement: &Statement) -> Result<(), String> {
    let (class, qtype) = (statement.word(1), statement.word(2));
    if class.is_empty() || qtype.is_empty() {
        return Err("`template` needs a class and a type".to_owned());
    }
    if !class.eq_ignore_ascii_case("IN") {
        return Err(format!("class {class}: rules are for class IN"));
    }
    if !qtype.eq_ignore_ascii_case("ANY") {
        return Err(format!(
            "only for type {qtype}: a rule answers every type of query for a name"
        ));
    }
    Ok(())
}

/// The expression without the backslashes that Helm's escaping doubles, and whether there were any.
fn unescaped(text: &str, helm: bool) -> Result<(String, bool), String> {
    if !text.contains(r"\\") {
        return Ok((text.to_owned(), false));
    }
    if helm {
        return Ok((text.replace(r"\\", r"\"), true));
    }
    Err(
        "`\\\\` is a literal backslash to CoreDNS, which no name shows before a dot; write `\\.` for a dot"
            .to_owned(),
    )
}

/// Leaves out what does not compile, alone or with the others.
fn check_together(import: &mut Import) {
    while !import.rules.is_empty() {
        let specs: Vec<RuleSpec> = import.rules.iter().map(|rule| rule.rule.clone()).collect();
        let complaints = match RuleSet::compile(&specs) {
            Ok(rules) => {
                for warning in rules.warnings() {
                    let line = import.rules[warning.rule].line;
                    import.warn(line, format!("as a rule, {}", warning.problem));
                }
                return;
            }
            Err(complaints) => complaints,
        };
        let mut bad: Vec<usize> = Vec::new();
        for complaint in complaints {
            let at = complaint.rule.min(import.rules.len() - 1);
            let line = import.rules[at].line;
            import.leave_out(
                line,
                format!(
                    "as a rule, {}: {}; {}",
                    complaint.key.as_str(),
                    complaint.problem,
                    complaint.remedy
                ),
            );
            bad.push(at);
        }
        let mut index = 0;
        import.rules.retain(|_| {
            index += 1;
            !bad.contains(&(index - 1))
        });
    }
}
