//! An expression as a row of the parts that a pattern can say.

use regex_syntax::ast::{self, Ast, GroupKind, RepetitionKind, RepetitionRange};
use regex_syntax::hir::{Class, HirKind};

use super::Group;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A literal dot.
    Dot,
    Byte(char),
    /// `.+` or `.*`, captured or not.
    Any(Option<Group>),
    /// A class that matches one label, captured or not; whether it takes more than RFC 1123 does.
    Label(Option<Group>, bool),
    /// What no pattern can say.
    Other,
}

/// The parts of an expression, as far as a pattern can say them.
pub struct Expression {
    /// Whether it begins where the name does.
    pub start: bool,
    /// Whether it may begin behind a dot as well, as `(^|\.)` says.
    pub or_dot: bool,
    /// Whether it ends where the name does.
    pub end: bool,
    pub items: Vec<Item>,
}

impl Expression {
    pub fn read(ast: &Ast) -> Self {
        let mut expression = Self {
            start: false,
            or_dot: false,
            end: false,
            items: Vec::new(),
        };
        let parts = match ast {
            Ast::Concat(concat) => &concat.asts[..],
            other => std::slice::from_ref(other),
        };
        for (index, part) in parts.iter().enumerate() {
            if index == 0 && is_start(part) {
                expression.start = true;
            } else if index == 0 && is_start_or_dot(part) {
                expression.start = true;
                expression.or_dot = true;
            } else if index + 1 == parts.len() && is_end(part) {
                expression.end = true;
            } else if index + 2 == parts.len() && is_end(&parts[index + 1]) && is_optional_dot(part)
            {
                // Every name ends with its dot.
                expression.items.push(Item::Dot);
            } else {
                expression
                    .items
                    .push(item(part, None).unwrap_or(Item::Other));
            }
        }
        expression
    }
}

fn assertion(ast: &Ast) -> Option<&ast::AssertionKind> {
    match ast {
        Ast::Assertion(assertion) => Some(&assertion.kind),
        _ => None,
    }
}

fn is_start(ast: &Ast) -> bool {
    matches!(
        assertion(ast),
        Some(ast::AssertionKind::StartLine | ast::AssertionKind::StartText)
    )
}

pub fn is_end(ast: &Ast) -> bool {
    matches!(
        assertion(ast),
        Some(ast::AssertionKind::EndLine | ast::AssertionKind::EndText)
    )
}

/// `(^|\.)`, in either order.
fn is_start_or_dot(ast: &Ast) -> bool {
    let Ast::Group(group) = ast else { return false };
    let Ast::Alternation(alternation) = &*group.ast else {
        return false;
    };
    match &alternation.asts[..] {
        [a, b] => (is_start(a) && is_dot(b)) || (is_dot(a) && is_start(b)),
        _ => false,
    }
}

pub fn is_dot(ast: &Ast) -> bool {
    single(ast) == Some('.')
}

/// `\.?`
pub fn is_optional_dot(ast: &Ast) -> bool {
    match ast {
        Ast::Repetition(repetition) => {
            repetition.op.kind == RepetitionKind::ZeroOrOne && is_dot(&repetition.ast)
        }
        _ => false,
    }
}

/// The one character of a lower-cased name that a part matches.
fn single(ast: &Ast) -> Option<char> {
    let takes: Vec<u8> = match ast {
        Ast::Literal(literal) => vec![u8::try_from(literal.c).ok()?],
        Ast::ClassBracketed(_) => class(ast)?,
        _ => return None,
    };
    // CoreDNS compares with a lower-cased name, so an upper-case letter never counts.
    match takes[..] {
        [byte] if !byte.is_ascii_uppercase() => Some(char::from(byte)),
        _ => None,
    }
}

/// The bytes of a class, upper-case letters left out.
fn class(ast: &Ast) -> Option<Vec<u8>> {
    let hir = regex_syntax::hir::translate::TranslatorBuilder::new()
        .unicode(false)
        .utf8(false)
        .build()
        .translate("", ast)
        .ok()?;
    let bytes: Vec<u8> = match hir.kind() {
        HirKind::Class(Class::Bytes(class)) => class
            .ranges()
            .iter()
            .flat_map(|range| range.start()..=range.end())
            .collect(),
        HirKind::Literal(literal) => literal.0.to_vec(),
        _ => return None,
    };
    Some(
        bytes
            .into_iter()
            .filter(|b| !b.is_ascii_uppercase())
            .collect(),
    )
}

fn item(ast: &Ast, group: Option<&Group>) -> Option<Item> {
    match ast {
        Ast::Literal(_) | Ast::ClassBracketed(_) if group.is_none() => match single(ast)? {
            '.' => Some(Item::Dot),
            c if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_' => {
                Some(Item::Byte(c))
            }
            _ => None,
        },
        // How much a lazy one takes depends on what follows.
        Ast::Repetition(repetition) if repetition.greedy => {
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
    let takes = class(ast)?;
    let host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let whole = (0..=255u8)
        .filter(|&byte| host(byte))
        .all(|byte| takes.contains(&byte));
    let wider = takes.iter().any(|&byte| !host(byte));
    (whole && !takes.contains(&b'.')).then_some(wider)
}
