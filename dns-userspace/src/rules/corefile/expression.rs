//! A `match` of the `template` plugin as patterns, and as a `regex` where a pattern cannot say it.

use regex_syntax::ast::{self, Ast, GroupKind, RepetitionKind, RepetitionRange};
use regex_syntax::hir::{Class, HirKind};

use super::answer::{Answer, Piece};
use crate::rules::pattern::NAMESPACE;
use crate::rules::{MatchSpec, regex::RegexMatcher};

/// Rules that together stand for one `match`.
#[derive(Debug, Default)]
pub struct Converted {
    /// What each matches, and its `cname`.
    pub rules: Vec<(MatchSpec, String)>,
    pub warnings: Vec<String>,
}

/// The rules for an expression within `zones` and the answer to it, or why there are none.
pub fn convert(text: &str, zones: &[String], answer: &Answer) -> Result<Converted, String> {
    if matches!(text, ".*" | ".+" | "^.*$" | "^.+$" | "^.*" | "^.+") {
        return every_name(zones, answer);
    }
    let ast = ast::parse::Parser::new()
        .parse(text)
        .map_err(|error| format!("`{text}` is no regular expression: {}", error.kind()))?;
    let zone = match zones {
        [zone] => Some(zone.as_str()),
        _ => None,
    };
    let expression = Expression::read(&ast);
    match expression.as_pattern(zones, zone, answer) {
        Some(converted) => converted,
        None => as_regex(text, &ast, &expression, zones, zone, answer),
    }
}

fn every_name(zones: &[String], answer: &Answer) -> Result<Converted, String> {
    let mut converted = Converted::default();
    for zone in zones {
        if zone == "." {
            return Err("it takes every name there is".to_owned());
        }
        let cname = cname(answer, Some(zone), |_| None)?;
        for pattern in [zone.clone(), format!("*.{zone}")] {
            converted
                .rules
                .push((MatchSpec::Pattern(pattern), cname.clone()));
        }
    }
    Ok(converted)
}

/// The target with each group as `name` spells it.
fn cname(
    answer: &Answer,
    zone: Option<&str>,
    name: impl Fn(&Piece) -> Option<String>,
) -> Result<String, String> {
    let mut text = String::new();
    for piece in &answer.target {
        match piece {
            Piece::Text(literal) => text.push_str(literal),
            Piece::Zone => match zone {
                Some(zone) if zone != "." => text.push_str(zone),
                _ => {
                    return Err(
                        "the target uses `{{ .Zone }}`, which is not one name here".to_owned()
                    );
                }
            },
            group => match name(group) {
                Some(name) => text.push_str(&format!("{{{name}}}")),
                None => {
                    return Err("the target uses a group that the expression lacks".to_owned());
                }
            },
        }
    }
    Ok(text)
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Item {
    /// A literal dot.
    Dot,
    Byte(char),
    /// `.+` or `.*`, captured or not.
    Any(Option<Group>),
    /// A class that stands for one label, captured or not; whether it takes more than RFC 1123 does.
    Label(Option<Group>, bool),
    /// What no pattern can say.
    Other,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    number: usize,
    name: Option<String>,
}

/// The parts of an expression, as far as a pattern can say them.
struct Expression {
    start: bool,
    end: bool,
    items: Vec<Item>,
}

impl Expression {
    fn read(ast: &Ast) -> Self {
        let mut expression = Self {
            start: false,
            end: false,
            items: Vec::new(),
        };
        let parts = match ast {
            Ast::Concat(concat) => &concat.asts[..],
            other => std::slice::from_ref(other),
        };
        for (index, part) in parts.iter().enumerate() {
            let kind = match part {
                Ast::Assertion(assertion) => Some(&assertion.kind),
                _ => None,
            };
            match kind {
                Some(ast::AssertionKind::StartLine | ast::AssertionKind::StartText)
                    if index == 0 =>
                {
                    expression.start = true;
                }
                Some(ast::AssertionKind::EndLine | ast::AssertionKind::EndText)
                    if index + 1 == parts.len() =>
                {
                    expression.end = true;
                }
                Some(_) => expression.items.push(Item::Other),
                None => expression
                    .items
                    .push(item(part, None).unwrap_or(Item::Other)),
            }
        }
        expression
    }

    /// The labels that the expression ends with, from the last one on; `None` in the place of what is not literal.
    fn last_labels(&self) -> Vec<Option<String>> {
        let items = match self.items.last() {
            Some(Item::Dot) => &self.items[..self.items.len() - 1],
            _ => &self.items[..],
        };
        items
            .rsplit(|item| *item == Item::Dot)
            .map(literal)
            .collect()
    }

    /// Whether every name that it matches in a zone ends where the expression ends.
    fn ends_in(&self, zone: &str) -> bool {
        let last = self.last_labels();
        zone == "."
            || zone
                .rsplit('.')
                .enumerate()
                .all(|(index, label)| last.get(index) == Some(&Some(label.to_owned())))
    }

    /// The expression as a pattern, if it is one.
    fn as_pattern(
        &self,
        zones: &[String],
        zone: Option<&str>,
        answer: &Answer,
    ) -> Option<Result<Converted, String>> {
        let final_dot = self.items.last() == Some(&Item::Dot);
        if self.end {
            // A name ends with its final dot, so `$` needs one in front.
            if !final_dot {
                return None;
            }
        } else if !zones.iter().any(|zone| zone != "." && self.ends_in(zone)) {
            return None;
        }
        if !zones.iter().any(|zone| self.ends_in(zone)) {
            return None;
        }
        let items = if final_dot {
            &self.items[..self.items.len() - 1]
        } else {
            &self.items[..]
        };
        let groups: Vec<&[Item]> = items.split(|item| *item == Item::Dot).collect();
        let uses = |group: &Group| {
            answer.target.iter().any(|piece| match piece {
                Piece::Group(number) => *number == group.number,
                Piece::Named(name) => group.name.as_ref() == Some(name),
                _ => false,
            })
        };
        let mut warnings = Vec::new();
        let mut labels: Vec<String> = Vec::new();
        let mut captured: Vec<(Group, String)> = Vec::new();
        for (index, label) in groups.iter().enumerate() {
            match label {
                // An expression that begins with a dot and is not anchored has at least one label in front.
                [] if index == 0 && !self.start && groups.len() > 1 => labels.push("*".to_owned()),
                [Item::Any(group)]
                    if index == 0 && groups.len() > 1 && !group.as_ref().is_some_and(uses) =>
                {
                    labels.push("*".to_owned());
                }
                [Item::Any(Some(group)) | Item::Label(Some(group), _)] if uses(group) => {
                    if index == 0 && !self.start && matches!(label[0], Item::Label(..)) {
                        return None;
                    }
                    let before_svc = groups.get(index + 1).map(|next| literal(next))
                        == Some(Some("svc".to_owned()));
                    let name = match &group.name {
                        Some(name) => name.to_ascii_lowercase(),
                        None if before_svc => NAMESPACE.to_owned(),
                        None => format!("match{}", group.number),
                    };
                    match label[0] {
                        Item::Any(_) => warnings.push(format!(
                            "group {} also spanned several labels; `{{{name}}}` is exactly one RFC 1123 label",
                            group.number
                        )),
                        Item::Label(_, true) => warnings.push(format!(
                            "group {} also took labels outside of RFC 1123; `{{{name}}}` does not",
                            group.number
                        )),
                        _ => {}
                    }
                    captured.push((group.clone(), name.clone()));
                    labels.push(format!("{{{name}}}"));
                }
                label => {
                    if index == 0 && !self.start {
                        // It may begin in the middle of a label.
                        return None;
                    }
                    labels.push(literal(label)?);
                }
            }
        }
        let others = captured
            .iter()
            .filter(|(_, name)| name != NAMESPACE)
            .count();
        if others > 1 || captured.len() > 2 {
            return None;
        }
        if !self.end {
            warnings.push(
                "the expression has no `\\.$`: it also matched names of the zone that go on behind it; the rule does not"
                    .to_owned(),
            );
        }
        let named = |piece: &Piece| {
            captured
                .iter()
                .find(|(group, _)| match piece {
                    Piece::Group(number) => group.number == *number,
                    Piece::Named(name) => group.name.as_ref() == Some(name),
                    _ => false,
                })
                .map(|(_, name)| name.clone())
        };
        Some(cname(answer, zone, named).map(|cname| Converted {
            rules: vec![(MatchSpec::Pattern(labels.join(".")), cname)],
            warnings,
        }))
    }
}

fn literal(label: &[Item]) -> Option<String> {
    if label.is_empty() {
        return None;
    }
    label
        .iter()
        .map(|item| match item {
            Item::Byte(c) => Some(*c),
            _ => None,
        })
        .collect()
}

fn item(ast: &Ast, group: Option<&Group>) -> Option<Item> {
    match ast {
        Ast::Literal(literal) if group.is_none() => match literal.c {
            '.' => Some(Item::Dot),
            // CoreDNS compares with a lower-cased name, so an upper-case letter never matches.
            c if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_' => {
                Some(Item::Byte(c))
            }
            _ => None,
        },
        Ast::Repetition(repetition) => {
            let plus = match repetition.op.kind {
                RepetitionKind::OneOrMore => true,
                RepetitionKind::Range(RepetitionRange::AtLeast(1)) => true,
                RepetitionKind::ZeroOrMore => false,
                _ => return None,
            };
            if matches!(*repetition.ast, Ast::Dot(_)) {
                return Some(Item::Any(group.cloned()));
            }
            // A class that takes at least all bytes of RFC 1123 labels, and no dot.
            let wider = plus.then(|| label_class(&repetition.ast))??;
            Some(Item::Label(group.cloned(), wider))
        }
        Ast::Group(inner) if group.is_none() => match &inner.kind {
            GroupKind::CaptureIndex(number) => {
                let group = Group {
                    number: *number as usize,
                    name: None,
                };
                item(&inner.ast, Some(&group))
            }
            GroupKind::CaptureName { name, .. } => {
                let group = Group {
                    number: name.index as usize,
                    name: Some(name.name.clone()),
                };
                item(&inner.ast, Some(&group))
            }
            GroupKind::NonCapturing(flags) if flags.items.is_empty() => item(&inner.ast, None),
            GroupKind::NonCapturing(_) => None,
        },
        _ => None,
    }
}

/// Whether a class takes more than RFC 1123 does; `None` when it takes less, or a dot.
fn label_class(ast: &Ast) -> Option<bool> {
    if !matches!(ast, Ast::ClassBracketed(_) | Ast::ClassPerl(_)) {
        return None;
    }
    let hir = regex_syntax::hir::translate::TranslatorBuilder::new()
        .unicode(false)
        .utf8(false)
        .build()
        .translate("", ast)
        .ok()?;
    let HirKind::Class(Class::Bytes(class)) = hir.kind() else {
        return None;
    };
    let takes = |byte: u8| {
        class
            .ranges()
            .iter()
            .any(|range| (range.start()..=range.end()).contains(&byte))
    };
    let host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let whole = (0..=255u8).filter(|&byte| host(byte)).all(takes);
    let wider = (0..=255u8).any(|byte| takes(byte) && !host(byte) && !byte.is_ascii_uppercase());
    (whole && !takes(b'.')).then_some(wider)
}

/// The expression as a `regex` rule, its unused groups no longer capturing.
fn as_regex(
    text: &str,
    ast: &Ast,
    expression: &Expression,
    zones: &[String],
    zone: Option<&str>,
    answer: &Answer,
) -> Result<Converted, String> {
    let anchored = |zone: &String| {
        expression.end && expression.items.last() == Some(&Item::Dot) && expression.ends_in(zone)
    };
    if !zones.iter().any(|zone| zone == "." || anchored(zone)) {
        return Err(format!(
            "`{text}` is not a pattern of labels, and as a `regex` it would reach beyond the zone {}: end it with the zone and `\\.$`",
            zones.join(" ")
        ));
    }
    if let Err(problem) = RegexMatcher::parse(text) {
        return Err(format!("{}; {}", problem.problem, problem.remedy));
    }
    let mut groups = Groups::default();
    ast::visit(ast, &mut groups)?;
    let uses = |group: &Group| {
        answer.target.iter().any(|piece| match piece {
            Piece::Group(number) => *number == group.number,
            Piece::Named(name) => group.name.as_ref() == Some(name),
            _ => false,
        })
    };
    let mut rewritten = String::new();
    let mut copied = 0;
    let mut kept: Vec<&Group> = Vec::new();
    for (group, opening) in &groups.found {
        if uses(group) {
            kept.push(group);
        } else {
            rewritten.push_str(&text[copied..opening.start]);
            rewritten.push_str("(?:");
            copied = opening.end;
        }
    }
    rewritten.push_str(&text[copied..]);
    let named = |piece: &Piece| {
        kept.iter().enumerate().find_map(|(index, group)| {
            let found = match piece {
                Piece::Group(number) => group.number == *number,
                Piece::Named(name) => group.name.as_ref() == Some(name),
                _ => false,
            };
            found.then(|| group.name.clone().unwrap_or((index + 1).to_string()))
        })
    };
    let cname = cname(answer, zone, named)?;
    Ok(Converted {
        rules: vec![(MatchSpec::Regex(rewritten), cname)],
        warnings: vec![
            "imported as `regex`: the responder answers it each time, the kernel only recognises it"
                .to_owned(),
        ],
    })
}

/// The capturing groups of an expression, and the text that opens each.
#[derive(Default)]
struct Groups {
    found: Vec<(Group, std::ops::Range<usize>)>,
}

impl ast::Visitor for &mut Groups {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        if let Ast::Group(inner) = ast {
            let start = inner.span.start.offset;
            match &inner.kind {
                GroupKind::CaptureIndex(number) => {
                    let group = Group {
                        number: *number as usize,
                        name: None,
                    };
                    self.found.push((group, start..start + 1));
                }
                GroupKind::CaptureName { name, .. } => {
                    let group = Group {
                        number: name.index as usize,
                        name: Some(name.name.clone()),
                    };
                    // The name and the `>` behind it.
                    self.found.push((group, start..name.span.end.offset + 1));
                }
                GroupKind::NonCapturing(_) => {}
            }
        }
        Ok(())
    }
}
