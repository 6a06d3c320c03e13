//! `regex` rules: CoreDNS's way of matching (RE2, unanchored, on the lower-cased presentation name with its final dot),
//! translated to the alphabet of the table. Independent of the tables, too.
//!
//! A name with a byte that presentation form would escape is matched by no `regex` rule: neither here nor in the table.

use regex_syntax::ast::{self, Ast};
use regex_syntax::hir::{Class, Hir, HirKind, Look, Repetition};

use super::labels::Problem;
use super::language::{class, repeat};
use dns_common::name::SEPARATOR;

/// Longest text of a `regex` key.
pub const MAX_TEXT: usize = 1024;
/// Most memory that its matcher for captures may take.
const REGEX_SIZE: usize = 256 * 1024;

/// A compiled `regex` key.
#[derive(Debug)]
pub struct RegexMatcher {
    regex: regex::bytes::Regex,
}

impl RegexMatcher {
    /// Reads a `regex` key, into a matcher for captures and the language for the table: all names in the form
    /// `label separator label separator …` that it matches.
    pub fn parse(text: &str) -> Result<(Self, Hir), Problem> {
        if text.len() > MAX_TEXT {
            return Err(Problem::new(
                format!("the expression has {} bytes", text.len()),
                format!("shorten it to {MAX_TEXT} bytes, or split the rule"),
            ));
        }
        let ast = ast::parse::Parser::new()
            .parse(text)
            .map_err(|error| syntax_problem(&error.kind().to_string()))?;
        ast::visit(&ast, SetOperations)?;
        let hir = regex_syntax::hir::translate::TranslatorBuilder::new()
            .unicode(false)
            .utf8(false)
            .build()
            .translate(text, &ast)
            .map_err(|error| syntax_problem(&error.kind().to_string()))?;
        let translated = translate(&hir)?;
        let regex = regex::bytes::RegexBuilder::new(text)
            .unicode(false)
            .size_limit(REGEX_SIZE)
            .build()
            .map_err(|_| {
                Problem::new(
                    "the expression is too large when compiled",
                    "use smaller repetition counts, or split the rule",
                )
            })?;
        let any = || Hir::repetition(repeat(0, None, class(any_byte)));
        let language = Hir::concat(vec![any(), translated, any()]);
        Ok((Self { regex }, language))
    }

    /// Names of the groups, group 1 first.
    pub fn groups(&self) -> impl Iterator<Item = Option<&str>> {
        self.regex.capture_names().skip(1)
    }

    /// The texts of the groups, group 1 first; `None` for a group that took no part.
    pub fn captured(&self, labels: &[&[u8]]) -> Option<Vec<Option<String>>> {
        let name = presentation(labels)?;
        let captures = self.regex.captures(name.as_bytes())?;
        Some(
            captures
                .iter()
                .skip(1)
                .map(|group| group.map(|m| String::from_utf8_lossy(m.as_bytes()).into_owned()))
                .collect(),
        )
    }
}

/// The lower-cased presentation form with its final dot, of a name that needs no escapes and is not the root.
pub fn presentation(labels: &[&[u8]]) -> Option<String> {
    if labels.is_empty() {
        return None;
    }
    let mut name = String::new();
    for label in labels {
        for &byte in *label {
            if !is_unescaped(byte) {
                return None;
            }
            name.push(char::from(byte.to_ascii_lowercase()));
        }
        name.push('.');
    }
    Some(name)
}

/// Whether presentation form shows a byte of a label as itself (the escapes are those of the DNS library of CoreDNS).
pub fn is_unescaped(byte: u8) -> bool {
    byte.is_ascii_graphic() && !br#".\"'@;()"#.contains(&byte)
}

fn syntax_problem(error: &str) -> Problem {
    Problem::new(
        format!("not a regular expression: {error}"),
        "write RE2 syntax in a literal TOML string, as in regex = '^.+\\.example\\.com\\.$'",
    )
}

/// Set operations and nested classes mean something else in RE2: refused rather than guessed.
struct SetOperations;

impl ast::Visitor for SetOperations {
    type Output = ();
    type Err = Problem;

    fn finish(self) -> Result<(), Problem> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), Problem> {
        match ast {
            Ast::Assertion(assertion) => match assertion.kind {
                ast::AssertionKind::StartLine
                | ast::AssertionKind::EndLine
                | ast::AssertionKind::StartText
                | ast::AssertionKind::EndText => Ok(()),
                _ => Err(no_word_boundaries()),
            },
            _ => Ok(()),
        }
    }

    fn visit_class_set_item_pre(&mut self, item: &ast::ClassSetItem) -> Result<(), Problem> {
        match item {
            ast::ClassSetItem::Bracketed(_) => Err(no_set_operations()),
            _ => Ok(()),
        }
    }

    fn visit_class_set_binary_op_pre(
        &mut self,
        _op: &ast::ClassSetBinaryOp,
    ) -> Result<(), Problem> {
        Err(no_set_operations())
    }
}

fn no_set_operations() -> Problem {
    Problem::new(
        "a class holds another class or a set operation, which RE2 does not have",
        "write the class out, and escape `[`, `&`, `~` and `-` that are meant literally",
    )
}

fn no_word_boundaries() -> Problem {
    Problem::new(
        "word boundaries are not supported",
        "write the bytes at the boundary, as in `\\.` or `^`",
    )
}

fn translate(hir: &Hir) -> Result<Hir, Problem> {
    Ok(match hir.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::concat(
            literal
                .0
                .iter()
                .map(|&byte| class(|out| is_shown_as(byte, out)))
                .collect(),
        ),
        // Names are ASCII here, so what lies beyond it in a class never counts.
        HirKind::Class(Class::Bytes(set)) => class(|out| {
            set.ranges()
                .iter()
                .flat_map(|range| range.start()..=range.end())
                .any(|byte| is_shown_as(byte, out))
        }),
        HirKind::Class(Class::Unicode(set)) => class(|out| {
            (0..=0x7f)
                .filter(|&byte| {
                    set.ranges()
                        .iter()
                        .any(|range| (range.start()..=range.end()).contains(&char::from(byte)))
                })
                .any(|byte| is_shown_as(byte, out))
        }),
        HirKind::Look(look) => match look {
            // A name holds no line breaks, so lines and text are one.
            Look::Start | Look::StartLF | Look::StartCRLF => Hir::look(Look::Start),
            Look::End | Look::EndLF | Look::EndCRLF => Hir::look(Look::End),
            _ => return Err(no_word_boundaries()),
        },
        HirKind::Repetition(repetition) => Hir::repetition(Repetition {
            min: repetition.min,
            max: repetition.max,
            greedy: repetition.greedy,
            sub: Box::new(translate(&repetition.sub)?),
        }),
        HirKind::Capture(capture) => translate(&capture.sub)?,
        HirKind::Concat(parts) => {
            Hir::concat(parts.iter().map(translate).collect::<Result<_, _>>()?)
        }
        HirKind::Alternation(parts) => {
            Hir::alternation(parts.iter().map(translate).collect::<Result<_, _>>()?)
        }
    })
}

/// Whether a byte of the table's alphabet is what the lower-cased presentation name shows as `shown`.
fn is_shown_as(shown: u8, byte: u8) -> bool {
    if shown == b'.' {
        byte == SEPARATOR
    } else {
        is_unescaped(byte) && byte.to_ascii_lowercase() == shown
    }
}

fn any_byte(byte: u8) -> bool {
    byte == SEPARATOR || is_unescaped(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_that_are_refused() {
        for (text, expected) in [
            ("(", "not a regular expression"),
            (r"\bfoo", "word boundaries"),
            (r"foo\B", "word boundaries"),
            ("[a&&b]", "RE2"),
            ("[[a]b]", "RE2"),
            ("(?:a{100}){100}{100}", "too large"),
        ] {
            let problem = RegexMatcher::parse(text).unwrap_err();
            assert!(problem.problem.contains(expected), "{text}: {problem:?}");
        }
        assert!(RegexMatcher::parse(&"a".repeat(1025)).is_err());
    }

    #[test]
    fn groups_are_those_of_the_presentation_form() {
        let (regex, _) = RegexMatcher::parse(r"^(.+)\.m\.(?P<namespace>[^.]+)\.(x)?").unwrap();
        assert_eq!(
            regex.groups().collect::<Vec<_>>(),
            [None, Some("namespace"), None]
        );
        let captured = regex.captured(&[b"A", b"b", b"M", b"Foo"]).unwrap();
        assert_eq!(captured, [Some("a.b".into()), Some("foo".into()), None]);
        assert_eq!(regex.captured(&[b"a b", b"m", b"foo"]), None);
        assert_eq!(regex.captured(&[]), None);
    }
}
