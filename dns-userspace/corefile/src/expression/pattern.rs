//! An expression as patterns of labels, if that is what it is.

use regex_syntax::ast::Ast;

use super::items::{Expression, Item};
use super::{Converted, Group, Scope, example};
use crate::Matches;
use crate::answer::{Answer, Reference};
use crate::language::{Set, matched};

/// The capture that names the tenant.
const NAMESPACE: &str = "namespace";
/// What a capture takes: a label of RFC 1123.
const HOST_LABEL: &str = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?";
/// The same with hyphens at its ends, which are in no host's name; whether an expression takes these is nothing to say.
const HYPHENS: &str = "[a-z0-9-]+";

/// One label of a pattern.
enum Label {
    Literal(String),
    /// Its name, and its form in an expression that takes all that the group takes.
    Capture(String, &'static str),
}

/// The patterns for an expression; `None` where no pattern says what it says.
pub fn convert(
    ast: &Ast,
    names: &Set,
    scope: &Scope<'_>,
    answer: &Answer,
) -> Option<Result<Converted, String>> {
    let expression = Expression::read(ast);
    let shape = Shape::of(&expression, answer)?;
    let patterns: Vec<String> = shape.variants().map(|any| shape.pattern(any)).collect();
    let says = shape.set(Some(HOST_LABEL), false)?;
    if !scope.languages.is_within(&says, names) {
        return None;
    }
    let mut warnings = shape.warnings.clone();
    if !expression.end {
        warnings.push(
            "the expression has no `\\.$`: it also matched longer names of the zone; the rule does not"
                .to_owned(),
        );
    }
    // What the warnings do not account for.
    let admitted = shape.set(None, !expression.end)?;
    let rest = names.clone().without(admitted);
    if !scope.languages.is_empty(rest.clone()) {
        warnings.push(format!(
            "the expression also matched other names{}; the rule does not",
            example(scope.languages, rest)
        ));
    }
    let left = names.clone().without(shape.set(Some(HYPHENS), false)?);
    let left = (!scope.languages.is_empty(left.clone())).then_some(left);
    let spell = |reference: &Reference| {
        let (_, name) = shape
            .captured
            .iter()
            .find(|(group, _)| group.is(reference))?;
        Some(format!("{{{name}}}"))
    };
    Some(answer.target(scope.template_zone, spell).map(|cname| {
        Converted {
            rules: patterns
                .into_iter()
                .map(|pattern| (Matches::Pattern(pattern), cname.clone()))
                .collect(),
            warnings,
            left,
        }
    }))
}

/// The labels of an expression.
struct Shape {
    /// Whether any labels come first.
    any: bool,
    /// Whether none may come first as well.
    or_none: bool,
    labels: Vec<Label>,
    captured: Vec<(Group, String)>,
    warnings: Vec<String>,
}

impl Shape {
    fn of(expression: &Expression, answer: &Answer) -> Option<Self> {
        let final_dot = expression.items.last() == Some(&Item::Dot);
        // A name ends with its final dot, so `$` needs one in front.
        if expression.end && !final_dot {
            return None;
        }
        let items = &expression.items[..expression.items.len() - usize::from(final_dot)];
        let mut groups: Vec<&[Item]> = items.split(|item| *item == Item::Dot).collect();
        let uses =
            |group: &Option<Group>| group.as_ref().is_some_and(|group| group.is_used(answer));
        let mut shape = Shape {
            any: false,
            or_none: expression.or_dot,
            labels: Vec::new(),
            captured: Vec::new(),
            warnings: Vec::new(),
        };
        let leading = match groups.first()? {
            [Item::Any(group)] if groups.len() > 1 && !uses(group) && !expression.or_dot => true,
            // An expression that begins with a dot and is not anchored has at least one label in front.
            [] if groups.len() > 1 && !expression.start => true,
            _ => false,
        };
        let greedy = leading && !groups[0].is_empty();
        if leading {
            shape.any = true;
            groups.remove(0);
        } else if !expression.start {
            // It may begin in the middle of a label.
            return None;
        }
        for (index, label) in groups.iter().enumerate() {
            let [Item::Any(Some(group)) | Item::Label(Some(group), _)] = label else {
                shape.labels.push(Label::Literal(literal(label)?));
                continue;
            };
            if !group.is_used(answer) {
                return None;
            }
            // Where the expression may begin at several places, it begins at the first, and takes the most.
            let is_any = matches!(label[0], Item::Any(_));
            if is_any && shape.any && !greedy || is_any && expression.or_dot {
                return None;
            }
            let before_svc = groups.get(index + 1).and_then(|next| literal(next));
            let name = match &group.name {
                Some(name) => name.to_ascii_lowercase(),
                None if before_svc.as_deref() == Some("svc") => NAMESPACE.to_owned(),
                None => format!("match{}", group.number),
            };
            if !is_capture_name(&name) || shape.captured.iter().any(|(_, other)| *other == name) {
                return None;
            }
            let takes = match label[0] {
                Item::Any(_) => {
                    shape.warnings.push(format!(
                        "group {} also spanned several labels; `{{{name}}}` is exactly one RFC 1123 label",
                        group.number
                    ));
                    r".+"
                }
                Item::Label(_, true) => {
                    shape.warnings.push(format!(
                        "group {} also took labels outside of RFC 1123; `{{{name}}}` does not",
                        group.number
                    ));
                    r"[^.]+"
                }
                _ => HYPHENS,
            };
            shape.captured.push((group.clone(), name.clone()));
            shape.labels.push(Label::Capture(name, takes));
        }
        let others = shape
            .captured
            .iter()
            .filter(|(_, name)| name != NAMESPACE)
            .count();
        (others <= 1 && shape.captured.len() <= 2).then_some(shape)
    }

    /// Whether any labels come first, for each pattern that it takes.
    fn variants(&self) -> impl Iterator<Item = bool> {
        let exact = self.or_none.then_some(false);
        exact.into_iter().chain([self.any || self.or_none])
    }

    fn pattern(&self, any: bool) -> String {
        let labels = self.labels.iter().map(|label| match label {
            Label::Literal(text) => text.clone(),
            Label::Capture(name, _) => format!("{{{name}}}"),
        });
        let star = any.then(|| "*".to_owned());
        star.into_iter().chain(labels).collect::<Vec<_>>().join(".")
    }

    /// The names of the patterns, with `capture` for each, or all that its group took; and the longer ones.
    fn set(&self, capture: Option<&str>, goes_on: bool) -> Option<Set> {
        let labels: Vec<String> = self
            .labels
            .iter()
            .map(|label| match label {
                Label::Literal(text) => regex_syntax::escape(text),
                Label::Capture(_, takes) => capture.unwrap_or(takes).to_owned(),
            })
            .collect();
        let start = match (self.any, self.or_none) {
            (true, _) => r"^.+\.",
            (false, true) => r"(?:^|\.)",
            (false, false) => "^",
        };
        let end = if goes_on { "" } else { r"\.$" };
        matched(&format!("{start}{}{end}", labels.join(r"\.")))
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

fn is_capture_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
