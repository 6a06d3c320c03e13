//! From a CoreDNS Corefile to rules: what its `template` and `rewrite` plugins answer queries of class IN with.
//!
//! Nothing is lost silently, and no rule says what the Corefile does not: whatever a rule cannot express is a note with its
//! line and the reason. The way of a text is that of CoreDNS: the Corefile in it is found ([`source`]), split into words
//! ([`lexer`]), snippets are expanded and server blocks read ([`parser`], [`server`]), the two plugins' directives read
//! ([`template`], [`rewrite`]), and then put in the order in which CoreDNS asks them ([`plan`]).

mod answer;
mod expression;
mod language;
mod lexer;
mod parser;
mod plan;
mod rewrite;
mod server;
mod source;
mod template;

use std::collections::HashSet;
use std::fmt;

use language::{Languages, Set, Zone};
use lexer::Token;
use parser::{Parsed, Place};
use plan::{Claim, Taken};
use source::Document;

/// What a Corefile became.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// The first one that matches a name is the one that answers.
    pub rules: Vec<Rule>,
    /// In the order of the file.
    pub notes: Vec<Note>,
    /// The names that the directive of each rule is for.
    names: Vec<Names>,
}

/// The names of a directive's expression, and which expression that is.
#[derive(Clone, Debug)]
struct Names {
    group: usize,
    set: Set,
}

/// A rule, and the line of the directive that it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// From 1.
    pub line: usize,
    /// Of letters, digits, `-`, `_` and `.`, at most 63 of them. It follows from the zone and from what the rule says, so that
    /// rules of several imports can be in one file.
    pub name: String,
    pub matches: Matches,
    pub cname: String,
    pub ttl_seconds: u32,
    /// Whether another rule takes its target up: not after a `rewrite`, of which CoreDNS runs one.
    pub follow: bool,
}

/// What a rule matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Matches {
    /// Labels; `*` in front is one or more, `{name}` one.
    Pattern(String),
    /// An expression in the syntax of RE2, on the lower-cased name with its final dot.
    Regex(String),
}

/// A note about a line.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// From 1.
    pub line: usize,
    pub kind: NoteKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoteKind {
    /// The rule says nearly the same, or there is nothing to say; the text says what differs.
    Warning,
    /// It has become no rule; the text has the reason.
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
    pub fn warn(&mut self, line: usize, text: impl Into<String>) {
        self.note(line, NoteKind::Warning, text.into());
    }

    pub fn leave_out(&mut self, line: usize, text: impl Into<String>) {
        self.note(line, NoteKind::LeftOut, text.into());
    }

    fn note(&mut self, line: usize, kind: NoteKind, text: String) {
        self.notes.push(Note { line, kind, text });
    }

    /// Takes out rules, each by its index and with the reason, and warns of later ones that then answer their names.
    pub fn take_out(&mut self, rules: &[(usize, String)]) {
        let mut stays = vec![true; self.rules.len()];
        for (at, reason) in rules {
            if let Some(stays) = stays.get_mut(*at) {
                *stays = false;
                self.leave_out(self.rules[*at].line, reason.clone());
            }
        }
        self.warn_of_heirs(&stays);
        let mut kept = stays.iter();
        self.rules.retain(|_| kept.next().copied().unwrap_or(true));
        let mut kept = stays.iter();
        self.names.retain(|_| kept.next().copied().unwrap_or(true));
    }

    /// Warns of rules that answer names which an earlier rule would have answered otherwise.
    fn warn_of_heirs(&mut self, stays: &[bool]) {
        let Some(languages) = Languages::new() else {
            return;
        };
        let mut notes = Vec::new();
        for later in (0..self.rules.len()).filter(|&at| stays[at]) {
            let own = &self.rules[later];
            for gone in (0..later).filter(|&at| !stays[at]) {
                let rule = &self.rules[gone];
                let same = rule.cname == own.cname
                    && rule.ttl_seconds == own.ttl_seconds
                    && !rule.cname.contains('{');
                // Two patterns of one expression share its names.
                if same || self.names[gone].group == self.names[later].group {
                    continue;
                }
                let claim = Claim {
                    zone: Zone(String::new()),
                    set: self.names[gone].set.clone(),
                    place: Place::default(),
                    taken: Taken::ByDirective,
                };
                let note = claim.takes_some(&languages, &self.names[later].set, rule.line);
                notes.extend(note.map(|note| (own.line, note)));
            }
        }
        for (line, note) in notes {
            self.warn(line, note);
        }
    }

    /// Puts the notes in the order of the file, each once.
    pub fn sort_notes(&mut self) {
        let mut seen = HashSet::new();
        self.notes.retain(|note| seen.insert(note.clone()));
        self.notes.sort_by_key(|note| note.line);
    }
}

/// Reads a Corefile, a part of one, or a file that has one in it.
pub fn import(bytes: &[u8]) -> Import {
    let text = source::decode(bytes);
    let mut import = Import::default();
    let found = source::find(&text);
    for (line, problem) in found.problems {
        import.leave_out(line, problem);
    }
    read(&found.documents, &mut import);
    for (line, word) in found.outside {
        let text = format!("`{word}` is here, outside of the Corefile that was read");
        if import.rules.is_empty() {
            import.leave_out(line, text);
        } else {
            import.warn(line, text);
        }
    }
    if import.rules.is_empty() && import.notes.is_empty() {
        unread(&text, &mut import);
    }
    import.sort_notes();
    import
}

/// Reports the places of words that made nothing: as something else than directives, as keys of YAML, or in comments.
fn unread(text: &str, import: &mut Import) {
    if let Some((line, word, _)) = source::mentions(text).find(|(.., is_key)| !is_key) {
        import.leave_out(
            line,
            format!("`{word}` is not a directive here; {}", source::REMEDY),
        );
    } else if let Some((line, word, _)) = source::mentions(text).next() {
        import.warn(
            line,
            format!("`{word}` is a key here, and nowhere a directive"),
        );
    } else if let Some((line, word)) = source::commented(text).next() {
        import.warn(
            line,
            format!("`{word}` is in a comment, and nowhere a directive"),
        );
    }
}

/// Plugins whose name at the start of a text means that the block around them is somewhere else.
const BARE: [&str; 20] = [
    "template",
    "rewrite",
    "errors",
    "log",
    "health",
    "ready",
    "kubernetes",
    "prometheus",
    "forward",
    "cache",
    "loop",
    "reload",
    "loadbalance",
    "hosts",
    "bind",
    "acl",
    "file",
    "header",
    "dns64",
    "view",
];

/// Reads documents: each Corefile with what it imports of the others, and then the others.
fn read(documents: &[Document], import: &mut Import) {
    let mut tokens: Vec<Option<Vec<Token>>> = Vec::new();
    for (index, document) in documents.iter().enumerate() {
        for control in &document.controls {
            let line = document.source_line(control.line);
            if control.brings_text {
                import.leave_out(
                    line,
                    format!("what Helm puts in for `{}` is not known: render the chart first, with `helm template`", control.text),
                );
            } else {
                import.warn(
                    line,
                    format!(
                        "Helm's `{}` is not evaluated: everything below it counts",
                        control.text
                    ),
                );
            }
        }
        tokens.push(match lexer::tokens(&document.text, index) {
            Ok(tokens) => Some(tokens),
            Err(unclosed) => {
                import.leave_out(document.source_line(unclosed.line), "a quote is not closed");
                None
            }
        });
    }
    let mut imported = vec![false; documents.len()];
    let is_main = |document: &Document| document.name.as_deref().is_none_or(is_whole);
    let order = (0..documents.len())
        .filter(|&index| is_main(&documents[index]))
        .chain((0..documents.len()).filter(|&index| !is_main(&documents[index])));
    let mut apart = Parsed::default();
    for index in order {
        if imported[index] {
            continue;
        }
        let Some(own) = tokens[index].clone() else {
            continue;
        };
        let mut files = |pattern: &str| {
            let mut found: Option<Vec<Token>> = None;
            for (other, document) in documents.iter().enumerate() {
                if other != index
                    && document
                        .name
                        .as_deref()
                        .is_some_and(|name| is_matched(pattern, name))
                    && !is_main(document)
                {
                    imported[other] = true;
                    let tokens = tokens[other].clone().unwrap_or_default();
                    found.get_or_insert_default().extend(tokens);
                }
            }
            found
        };
        let parsed = match parser::parse(own.clone(), is_bare(&own), &mut files) {
            Ok(parsed) => parsed,
            Err(error) => {
                let document = &documents[error.place.document];
                import.leave_out(document.source_line(error.place.line), error.problem);
                continue;
            }
        };
        if is_main(&documents[index]) {
            plan::rules(&parsed, documents, false, import);
        } else {
            // Parts of one Corefile that is not at hand.
            apart.missing.extend(parsed.missing);
            apart.unused.extend(parsed.unused);
            join(&mut apart, parsed.blocks);
        }
    }
    plan::rules(&apart, documents, true, import);
}

/// Adds blocks; directives of the root block that is not at hand are those of one block.
fn join(parsed: &mut Parsed, blocks: Vec<parser::Block>) {
    for block in blocks {
        let root = block.keys == ["."];
        match parsed
            .blocks
            .iter_mut()
            .find(|other| root && other.keys == ["."])
        {
            Some(other) => other.directives.extend(block.directives),
            None => parsed.blocks.push(block),
        }
    }
}

/// Whether a ConfigMap's key is that of a whole Corefile.
fn is_whole(name: &str) -> bool {
    !(name.ends_with(".override") || name.ends_with(".server"))
}

fn is_bare(tokens: &[Token]) -> bool {
    let mut at = 0;
    while tokens.get(at).is_some_and(|token| token.text == "import") {
        at += 2;
    }
    let Some(first) = tokens.get(at) else {
        return false;
    };
    BARE.contains(&&first.text[..])
}

/// Whether the last part of an import's pattern, with at most one `*`, matches the key of a ConfigMap.
fn is_matched(pattern: &str, name: &str) -> bool {
    let pattern = pattern.rsplit('/').next().unwrap_or(pattern);
    match pattern.split_once('*') {
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
        None => pattern == name,
    }
}
