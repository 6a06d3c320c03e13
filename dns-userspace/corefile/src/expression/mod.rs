//! A `match` of the `template` plugin as rules within a zone: patterns where they say the same, a `regex` elsewhere.
//! Whatever is made is compared with the expression as a set of names before it is given out.

mod items;
mod pattern;
mod regex;

use regex_syntax::ast;

use crate::Matches;
use crate::answer::{Answer, Reference};
use crate::language::{Languages, Search, Set, Zone, matched};

/// Where an expression counts.
pub struct Scope<'a> {
    pub languages: &'a Languages,
    /// The zone that all its names are in.
    pub zone: &'a Zone,
    /// What `.Zone` is.
    pub template_zone: &'a Zone,
}

impl Scope<'_> {
    fn names(&self) -> Set {
        self.languages.zone(self.zone)
    }
}

/// Rules that together replace one `match`.
#[derive(Clone, Debug)]
pub struct Converted {
    /// What each matches, and its `cname`.
    pub rules: Vec<(Matches, String)>,
    pub warnings: Vec<String>,
    /// Names that the expression matches and no rule does.
    pub left: Option<Set>,
}

/// The names that an expression matches in a zone; or why that is not known.
pub fn names(text: &str, scope: &Scope<'_>) -> Result<Set, String> {
    parse(text)?;
    let set = matched(text).ok_or_else(|| {
        format!("`{text}` is too large when it is compiled, or not of RE2's syntax")
    })?;
    Ok(scope.names().and(set))
}

/// The rules for an expression and the answer to it, or why there are none. `names` are those it matches in the zone.
pub fn convert(
    text: &str,
    names: &Set,
    scope: &Scope<'_>,
    answer: &Answer,
) -> Result<Converted, String> {
    let ast = parse(text)?;
    if answer.references().next().is_none() && scope.languages.is_within(&scope.names(), names) {
        return whole_zone(scope, answer);
    }
    if let Some(converted) = pattern::convert(&ast, names, scope, answer) {
        return converted;
    }
    regex::convert(text, &ast, names, scope, answer)
}

/// The syntax tree; or why CoreDNS reads the expression otherwise.
fn parse(text: &str) -> Result<ast::Ast, String> {
    if let Some(reason) = crate::server::variable(text) {
        return Err(reason);
    }
    // RE2 takes such a count literally.
    if text.contains("{,") {
        return Err(format!(
            "`{{,` in `{text}`: write `{{0,`, or `\\{{` for a brace"
        ));
    }
    ast::parse::Parser::new()
        .parse(text)
        .map_err(|error| format!("`{text}` is not a regular expression: {}", error.kind()))
}

fn whole_zone(scope: &Scope<'_>, answer: &Answer) -> Result<Converted, String> {
    if scope.zone.is_root() {
        return Err("it takes every name there is".to_owned());
    }
    let cname = answer.target(scope.template_zone, |_| None)?;
    let patterns = [scope.zone.0.clone(), format!("*.{}", scope.zone)];
    Ok(Converted {
        rules: patterns
            .into_iter()
            .map(|pattern| (Matches::Pattern(pattern), cname.clone()))
            .collect(),
        warnings: Vec::new(),
        left: None,
    })
}

/// A group of an expression.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Group {
    number: usize,
    name: Option<String>,
}

impl Group {
    fn is(&self, reference: &Reference) -> bool {
        match reference {
            Reference::Number(number) => *number == self.number,
            Reference::Name(name) => self.name.as_ref() == Some(name),
        }
    }

    fn is_used(&self, answer: &Answer) -> bool {
        answer.references().any(|reference| self.is(reference))
    }
}

/// A name of a set for a message.
fn example(languages: &Languages, set: Set) -> String {
    match languages.search(set) {
        Search::Name(name) => format!(", such as `{name}`"),
        _ => String::new(),
    }
}
