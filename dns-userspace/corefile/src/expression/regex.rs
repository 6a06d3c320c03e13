//! An expression as a `regex` rule: its unused groups no longer capture, and it matches nothing beyond its zone.

use std::ops::Range;

use regex_syntax::ast::{self, Ast, GroupKind, RepetitionKind};

use super::items::{is_dot, is_end};
use super::{Converted, Group, Scope, example};
use crate::Matches;
use crate::answer::{Answer, Reference};
use crate::language::{Set, matched};

pub fn convert(
    text: &str,
    ast: &Ast,
    names: &Set,
    scope: &Scope<'_>,
    answer: &Answer,
) -> Result<Converted, String> {
    let all = matched(text).ok_or_else(|| format!("`{text}` is too large when it is compiled"))?;
    let beyond = all.without(scope.names());
    // The whole match, where it is asked for, is one more group.
    let whole = answer
        .references()
        .any(|reference| *reference == Reference::Number(0));
    let (grouped, grouped_ast) = if whole {
        let grouped = format!("({text})");
        let ast = super::parse(&grouped)?;
        (grouped, ast)
    } else {
        (text.to_owned(), ast.clone())
    };
    let within = if scope.languages.is_empty(beyond.clone()) {
        Some(grouped)
    } else {
        restricted(&grouped, &grouped_ast, names, scope)
    };
    let within = within.ok_or_else(|| {
        format!(
            "`{text}` is not a pattern of labels, and as a `regex` it would reach beyond the zone {}{}: let it end with the zone and `\\.$`",
            scope.zone,
            example(scope.languages, beyond)
        )
    })?;
    let (rewritten, kept) = with_used_groups(&within, answer, whole)?;
    let spell = |reference: &Reference| {
        let (index, group) = kept
            .iter()
            .enumerate()
            .find(|(_, group)| group.is(reference))?;
        let name = group.name.clone().unwrap_or((index + 1).to_string());
        Some(format!("{{{name}}}"))
    };
    let cname = answer.target(scope.template_zone, spell)?;
    Ok(Converted {
        rules: vec![(Matches::Regex(rewritten), cname)],
        warnings: vec![
            "as a `regex`, the responder answers it each time, the kernel only recognises it"
                .to_owned(),
        ],
        left: None,
    })
}

/// The expression with only the groups capturing that the answer uses, and these groups in their order.
fn with_used_groups(
    text: &str,
    answer: &Answer,
    whole: bool,
) -> Result<(String, Vec<Group>), String> {
    let ast = super::parse(text)?;
    let mut groups = Groups::default();
    ast::visit(&ast, &mut groups)?;
    let mut rewritten = String::new();
    let mut copied = 0;
    let mut kept: Vec<Group> = Vec::new();
    for (mut group, opening) in groups.found {
        group.number -= usize::from(whole);
        if group.is_used(answer) {
            kept.push(group);
        } else {
            rewritten.push_str(&text[copied..opening.start]);
            rewritten.push_str("(?:");
            copied = opening.end;
        }
    }
    rewritten.push_str(&text[copied..]);
    Ok((rewritten, kept))
}

/// The expression with its end spelled out, so that it matches the names of its zone and no others. For each name of
/// the zone every match stays as it was, whatever the end of it leaves of the name.
fn restricted(text: &str, ast: &Ast, names: &Set, scope: &Scope<'_>) -> Option<String> {
    let end = End::of(text, ast);
    let zone = scope.zone.0.replace('.', r"\.");
    let dot = if end.dot_follows { "" } else { r"\." };
    let whole = format!("{}{}", scope.zone.0, if end.dot_follows { "" } else { "." });
    let mut kept = vec![format!(r".*\.{zone}{dot}")];
    // The rest of the name may be the zone, or less than the zone where the match reaches into it.
    let mut shorter: Vec<String> = Vec::new();
    for at in (0..whole.len()).filter(|&at| at > 0 || !scope.zone.is_root()) {
        shorter.push(whole[at..].replace('.', r"\."));
    }
    if end.may_be_empty {
        shorter.push(String::new());
    }
    let in_zone = |rest: &str| Some(matched(&end.spelled(text, rest))?.and(scope.names()));
    if !scope.languages.is_empty(in_zone(&shorter.join("|"))?) {
        for rest in shorter {
            if !scope.languages.is_empty(in_zone(&rest)?) {
                kept.push(rest);
            }
        }
    }
    let spelled = end.spelled(text, &kept.join("|"));
    let set = matched(&spelled)?;
    let same = scope.languages.is_within(&set, names) && scope.languages.is_within(names, &set);
    same.then_some(spelled)
}

/// The end of an expression, in front of which its matches are as they were.
struct End {
    /// What takes the rest of the name now, if anything in the text does.
    rest: Option<Range<usize>>,
    /// Whether the name's final dot follows.
    dot_follows: bool,
    may_be_empty: bool,
    /// Whether it says that the name ends there.
    anchored: bool,
    alternation: bool,
    /// Whether every match begins where the name does, without saying so.
    from_start: bool,
}

/// The part inside of groups, at the one end of what they hold.
fn outermost<'a>(mut ast: &'a Ast, end: impl Fn(&'a [Ast]) -> Option<&'a Ast>) -> &'a Ast {
    loop {
        let inner = match ast {
            Ast::Group(group) => Some(&*group.ast),
            Ast::Concat(concat) => end(&concat.asts),
            _ => None,
        };
        match inner {
            Some(inner) => ast = inner,
            None => return ast,
        }
    }
}

/// `.*` or `.+`.
fn any_text(ast: &Ast) -> Option<&ast::Repetition> {
    match ast {
        Ast::Repetition(repetition)
            if matches!(*repetition.ast, Ast::Dot(_))
                && matches!(
                    repetition.op.kind,
                    RepetitionKind::ZeroOrMore | RepetitionKind::OneOrMore
                ) =>
        {
            Some(repetition)
        }
        _ => None,
    }
}

impl End {
    fn of(text: &str, ast: &Ast) -> Self {
        let mut end = End {
            rest: None,
            dot_follows: false,
            may_be_empty: true,
            anchored: false,
            alternation: matches!(ast, Ast::Alternation(_)),
            from_start: false,
        };
        let all = match ast {
            Ast::Concat(concat) => &concat.asts[..],
            other => std::slice::from_ref(other),
        };
        let (parts, dot) = match all {
            [parts @ .., dot, last] if is_end(last) && is_dot(dot) => (parts, true),
            [parts @ .., last] if is_end(last) => (parts, false),
            parts => (parts, false),
        };
        let anchored = parts.len() < all.len();
        // What begins by taking any text begins where the name does.
        end.from_start = all
            .first()
            .is_some_and(|first| any_text(outermost(first, |asts| asts.first())).is_some());
        let last = parts.last().map(|last| outermost(last, |asts| asts.last()));
        if let Some(repetition) = last.and_then(any_text)
            // What takes the most takes the rest, whether or not that is said.
            && (anchored || repetition.greedy)
        {
            let span = repetition.span.start.offset..repetition.span.end.offset;
            debug_assert!(text.get(span.clone()).is_some());
            end.rest = Some(span);
            end.dot_follows = dot;
            end.anchored = anchored;
            end.may_be_empty = repetition.op.kind == RepetitionKind::ZeroOrMore;
        }
        end
    }

    /// The text with `rest` in the place of what took the rest of the name.
    fn spelled(&self, text: &str, rest: &str) -> String {
        let start = if self.from_start { "^" } else { "" };
        match &self.rest {
            Some(span) => {
                let end = if self.anchored { "" } else { "$" };
                let (before, behind) = (&text[..span.start], &text[span.end..]);
                format!("{start}{before}(?:{rest}){behind}{end}")
            }
            None if self.alternation => format!("(?:{text})(?:{rest})$"),
            None => format!("{start}{text}(?:{rest})$"),
        }
    }
}

/// The capturing groups of an expression, and the text that opens each.
#[derive(Default)]
struct Groups {
    found: Vec<(Group, Range<usize>)>,
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
