//! The `rewrite` plugin: one directive as CoreDNS reads it.

use crate::language::{Set, Zone, matched};
use crate::parser::{Directive, Place};
use crate::server;

/// A `rewrite` directive.
#[derive(Clone, Debug)]
pub struct Rewrite {
    pub place: Place,
    /// Whether the directives behind it see the new name.
    pub goes_on: bool,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// One name becomes another.
    Exact { from: Zone, to: Zone },
    /// These names become others in a way that a rule cannot say, for the reason given.
    Names(Set, String),
    /// What it changes is not the name, or no name is known.
    Other(String),
}

const ONLY: &str = "of `rewrite` only `name exact FROM TO` can be said by a rule";

/// Reads a directive.
pub fn read(directive: &Directive) -> Rewrite {
    let mut words: Vec<&str> = directive.words[1..].iter().map(String::as_str).collect();
    // With fewer words than a rewrite needs, the rest is in a block.
    if words.len() < 2 {
        words.extend(directive.block_words());
    }
    let mode = words.first().map(|word| word.to_ascii_lowercase());
    let goes_on = mode.as_deref() == Some("continue");
    if matches!(mode.as_deref(), Some("stop" | "continue")) {
        words.remove(0);
    }
    Rewrite {
        place: directive.place,
        goes_on,
        kind: kind(&words),
    }
}

fn kind(words: &[&str]) -> Kind {
    let (Some(field), rest) = (words.first(), words.get(1..).unwrap_or_default()) else {
        return Kind::Other("`rewrite` without anything to rewrite".to_owned());
    };
    if !field.eq_ignore_ascii_case("name") {
        return Kind::Other(format!("`rewrite {field}`: {ONLY}"));
    }
    let (way, from, to, answers) = match rest {
        [from, to] => ("exact".to_owned(), *from, *to, &[][..]),
        [way, from, to, answers @ ..] => (way.to_ascii_lowercase(), *from, *to, answers),
        _ => return Kind::Other("`rewrite name` needs two names".to_owned()),
    };
    if way == "exact" {
        return exact(from, to, answers);
    }
    let escaped = regex_syntax::escape(&from.to_ascii_lowercase());
    let dotted = if from.ends_with('.') { "" } else { r"\." };
    let expression = match &way[..] {
        "prefix" => format!("^{}", escaped.trim_end_matches(r"\.")),
        "suffix" => format!("{escaped}{dotted}$"),
        "substring" => escaped,
        "regex" => from.to_owned(),
        _ => return Kind::Other(format!("`rewrite name {way}`: {ONLY}")),
    };
    let reason = format!("`rewrite name {way}`: {ONLY}");
    match matched(&expression) {
        Some(set) => Kind::Names(set, reason),
        None => Kind::Other(reason),
    }
}

fn exact(from: &str, to: &str, answers: &[&str]) -> Kind {
    let from_zone = match server::zone(from) {
        Ok(zone) => zone,
        Err(reason) => return Kind::Other(reason),
    };
    let only = || {
        let text = format!(r"^{}\.$", regex_syntax::escape(&from_zone.0));
        matched(&text).unwrap_or(Set::All)
    };
    let to = match server::zone(to) {
        Ok(zone) if zone.is_root() => {
            return Kind::Names(only(), "it leads to the root".to_owned());
        }
        Ok(zone) => zone,
        Err(reason) => return Kind::Names(only(), reason),
    };
    if from_zone.is_root() {
        return Kind::Other("it is for the root, which no rule matches".to_owned());
    }
    if !reverts(answers, &from_zone, &to) {
        return Kind::Names(
            only(),
            format!(
                "`{}`: a rule does not change what is in an answer",
                answers.join(" ")
            ),
        );
    }
    Kind::Exact {
        from: from_zone,
        to,
    }
}

/// Whether words behind the names of an exact rewrite ask for no more than the old name in the answer, which is what
/// they get without.
fn reverts(answers: &[&str], from: &Zone, to: &Zone) -> bool {
    match answers {
        [] => true,
        ["answer", "auto", rest @ ..] => reverts(rest, from, to),
        ["answer", "name", pattern, replacement, rest @ ..] => {
            let back = replacement
                .trim_end_matches('.')
                .eq_ignore_ascii_case(&from.0);
            let whole = regex::Regex::new(pattern).is_ok_and(|pattern| {
                pattern
                    .find(&to.absolute())
                    .is_some_and(|found| found.start() == 0)
            });
            back && whole && reverts(rest, from, to)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::tokens;
    use crate::parser::parse;

    fn rewrite(text: &str) -> Rewrite {
        let tokens = tokens(text, 0).unwrap();
        let parsed = parse(tokens, true, &mut |_| None).unwrap();
        read(&parsed.blocks[0].directives[0])
    }

    #[test]
    fn exact_names_in_all_their_forms() {
        for (text, goes_on) in [
            ("rewrite name exact A.x. b.y", false),
            ("rewrite name a.x B.y.", false),
            ("rewrite stop name exact a.x b.y answer auto", false),
            ("rewrite CONTINUE NAME Exact a.x b.y", true),
            ("rewrite {\n name exact a.x b.y\n}", false),
            (
                "rewrite continue {\n name exact a.x b.y\n answer name b\\.y\\. a.x\n}",
                true,
            ),
            ("rewrite stop {\n name a.x b.y\n}", false),
        ] {
            let rewrite = rewrite(text);
            assert_eq!(rewrite.goes_on, goes_on, "{text}");
            match rewrite.kind {
                Kind::Exact { from, to } => assert_eq!((&from.0[..], &to.0[..]), ("a.x", "b.y")),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn templates_that_no_rule_can_express() {
        for (text, reason, name) in [
            (
                "rewrite name suffix .old.example. .new.example.",
                "suffix",
                "a.old.example",
            ),
            (
                "rewrite name suffix .old.example .new.example",
                "suffix",
                "a.old.example",
            ),
            (
                "rewrite name regex (.*)\\.a\\.b {1}.c answer auto",
                "regex",
                "x.a.b",
            ),
            ("rewrite name prefix foo bar", "prefix", "foox.y"),
            ("rewrite name substring oo b", "substring", "foo.y"),
            ("rewrite name exact a.x {$TARGET}", "placeholder", "a.x"),
            (
                "rewrite name exact a.x b.y answer value (.*) c",
                "in an answer",
                "a.x",
            ),
        ] {
            match rewrite(text).kind {
                Kind::Names(set, text) => {
                    assert!(text.contains(reason) && set.has(name), "{text}");
                    assert!(!set.has("other.name"));
                }
                other => panic!("{text}: {other:?}"),
            }
        }
        for (text, reason) in [
            ("rewrite type AAAA A", "rewrite type"),
            ("rewrite name *.a.example b", "literal star"),
            ("rewrite name exact *.a.example b", "literal star"),
            ("rewrite name __PILLAR__ b", "placeholder"),
            ("rewrite", "without"),
            ("rewrite name a", "two names"),
        ] {
            match rewrite(text).kind {
                Kind::Other(text) => assert!(text.contains(reason), "{text}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }
}
