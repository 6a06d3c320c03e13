//! An `answer` of the `template` plugin: one CNAME for the name that was asked, or the reason why it is something else.

use crate::language::Zone;

/// `{{ .Name }} TTL IN CNAME TARGET`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub ttl: u32,
    /// The target as it is written, in lower case, with its final dot if it has one.
    target: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Group(Reference),
    /// `.Zone`
    Zone,
}

/// How an answer names what was matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `index .Match N`; 0 is the whole match.
    Number(usize),
    /// `.Group.NAME`
    Name(String),
}

/// What CoreDNS gives a record without a TTL.
const RR_DEFAULT_TTL: u32 = 3600;

impl Answer {
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut fields = fields(&parts(text)?).into_iter();
        match fields.next().as_deref() {
            Some([Part::Action(owner)]) if matches!(&owner[..], ".Name" | ".Question.Name") => {}
            _ => return Err("the owner of the answer is not `{{ .Name }}`".to_owned()),
        }
        let mut ttl = RR_DEFAULT_TTL;
        let mut is_cname = false;
        for field in fields.by_ref() {
            let word = match &field[..] {
                [Part::Text(word)] => word.as_str(),
                // Only queries of this class match.
                [Part::Action(action)] if action == ".Class" => "IN",
                _ => return Err("the answer's TTL, class and type are not plain text".to_owned()),
            };
            if let Some(seconds) = ttl_of(word) {
                ttl = seconds;
            } else if word.eq_ignore_ascii_case("CNAME") {
                is_cname = true;
                break;
            } else if !word.eq_ignore_ascii_case("IN") {
                return Err(format!(
                    "the answer is a record of type {word}, not a CNAME"
                ));
            }
        }
        let (Some(target), None, true) = (fields.next(), fields.next(), is_cname) else {
            return Err("the answer is not one CNAME record".to_owned());
        };
        let target = target
            .into_iter()
            .map(|part| match part {
                Part::Text(text) => Ok(Piece::Text(text.to_ascii_lowercase())),
                Part::Action(action) => target_action(&action),
            })
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self { ttl, target })
    }

    /// What the target uses of the match.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        self.target.iter().filter_map(|piece| match piece {
            Piece::Group(reference) => Some(reference),
            _ => None,
        })
    }

    /// The target without its final dot, for the zone that CoreDNS finds the name in, with each group as `spell` has it.
    pub fn target(
        &self,
        zone: &Zone,
        spell: impl Fn(&Reference) -> Option<String>,
    ) -> Result<String, String> {
        let mut text = String::new();
        for piece in &self.target {
            match piece {
                Piece::Text(literal) => text.push_str(literal),
                Piece::Zone => text.push_str(&zone.absolute()),
                Piece::Group(reference) => match spell(reference) {
                    Some(spelled) => text.push_str(&spelled),
                    None => {
                        return Err("the target uses a group that the expression lacks".to_owned());
                    }
                },
            }
        }
        // CoreDNS reads a target without a final dot as absolute too.
        let name = text.strip_suffix('.').unwrap_or(&text);
        if name.is_empty() || name.split('.').any(str::is_empty) {
            let hint = if self.target.contains(&Piece::Zone) {
                ": `{{ .Zone }}` ends with a dot of its own"
            } else {
                ""
            };
            return Err(format!("the target `{text}` is not a name{hint}"));
        }
        Ok(name.to_owned())
    }
}

/// Seconds, or a sum of parts with units as in `1h30m`.
fn ttl_of(word: &str) -> Option<u32> {
    if !word.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let mut total: u32 = 0;
    let mut part: u32 = 0;
    for c in word.chars() {
        let unit = match c.to_ascii_lowercase() {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            'w' => 604_800,
            c => {
                part = part.checked_mul(10)?.checked_add(c.to_digit(10)?)?;
                continue;
            }
        };
        total = total.checked_add(part.checked_mul(unit)?)?;
        part = 0;
    }
    total.checked_add(part)
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// The text of an action, with single blanks.
    Action(String),
}

/// The record's fields; an action and the text that touches it are one.
fn fields(parts: &[Part]) -> Vec<Vec<Part>> {
    let mut fields: Vec<Vec<Part>> = Vec::new();
    let mut joins = false;
    for part in parts {
        let Part::Text(text) = part else {
            push(&mut fields, part.clone(), joins);
            joins = true;
            continue;
        };
        joins = joins && !text.starts_with(char::is_whitespace);
        for (index, word) in text.split_whitespace().enumerate() {
            push(
                &mut fields,
                Part::Text(word.to_owned()),
                joins && index == 0,
            );
        }
        joins =
            !text.is_empty() && !text.ends_with(char::is_whitespace) || (joins && text.is_empty());
    }
    fields
}

fn push(fields: &mut Vec<Vec<Part>>, part: Part, joins: bool) {
    match fields.last_mut() {
        Some(field) if joins => field.push(part),
        _ => fields.push(vec![part]),
    }
}

/// Text and actions, without what trim markers and a comment of the record remove.
fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts: Vec<Part> = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let (before, from) = (&rest[..start], &rest[start + 2..]);
        let Some(length) = from.find("}}") else {
            return Err("`{{` is not closed in the answer".to_owned());
        };
        let mut action = &from[..length];
        rest = &from[length + 2..];
        let mut before = before;
        if let Some(trimmed) = action.strip_prefix('-')
            && trimmed.starts_with(char::is_whitespace)
        {
            before = before.trim_end();
            action = trimmed;
        }
        if let Some(trimmed) = action.strip_suffix('-')
            && trimmed.ends_with(char::is_whitespace)
        {
            rest = rest.trim_start();
            action = trimmed;
        }
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        let words: Vec<&str> = action.split_whitespace().collect();
        if !action.trim().starts_with("/*") {
            parts.push(Part::Action(words.join(" ")));
        }
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    // A semicolon begins a comment of the record.
    for at in 0..parts.len() {
        if let Part::Text(text) = &mut parts[at]
            && let Some(comment) = text.find(';')
        {
            text.truncate(comment);
            parts.truncate(at + 1);
            break;
        }
    }
    Ok(parts)
}

fn target_action(action: &str) -> Result<Piece, String> {
    let inner = action
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .unwrap_or(action);
    let words: Vec<&str> = inner.split_whitespace().collect();
    let group = |name: &str| {
        let name = name.trim_matches(['"', '`']);
        Piece::Group(match name.parse() {
            Ok(number) => Reference::Number(number),
            Err(_) => Reference::Name(name.to_owned()),
        })
    };
    match words[..] {
        [".Zone"] => return Ok(Piece::Zone),
        ["index", ".Match", number] if number.parse::<usize>().is_ok() => return Ok(group(number)),
        ["index", ".Group", name] if name.starts_with(['"', '`']) => return Ok(group(name)),
        [field] => {
            if let Some(name) = field.strip_prefix(".Group.")
                && !name.contains('.')
                && !name.starts_with(|c: char| c.is_ascii_digit())
            {
                return Ok(group(name));
            }
        }
        _ => {}
    }
    let reason = if action.contains(".Meta") {
        "a rule does not have the pod's metadata"
    } else if action.contains(".Remote") {
        "a rule does not have the pod's address"
    } else if action.contains("parseInt") {
        "a rule does not compute"
    } else if action.starts_with(".Group.") {
        "write a group with a number as `index .Group \"1\"` or `index .Match 1`"
    } else if action.contains(".Values") {
        "it is a value of a Helm chart; render the chart first"
    } else {
        "a rule's target holds text and what was captured"
    };
    Err(format!("the target uses `{{{{ {action} }}}}`: {reason}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str, zone: &str) -> Result<(u32, String), String> {
        let answer = Answer::parse(text)?;
        let target = answer.target(&Zone(zone.to_owned()), |reference| {
            Some(match reference {
                Reference::Number(number) => format!("<{number}>"),
                Reference::Name(name) => format!("<{name}>"),
            })
        })?;
        Ok((answer.ttl, target))
    }

    #[test]
    fn records() {
        for (text, ttl, expected) in [
            ("{{ .Name }} 60 IN CNAME a.B.", 60, "a.b"),
            ("{{.Name}} CNAME a", 3600, "a"),
            ("{{ .Question.Name }} IN 1h30m CNAME a.", 5400, "a"),
            ("{{ .Name }} 1W {{ .Class }} cname a. ; why", 604_800, "a"),
            (
                "{{- .Name }}  60\tIN CNAME  a{{ index .Match 1 }}.b",
                60,
                "a<1>.b",
            ),
            (
                "{{ .Name }} 60 IN CNAME {{ .Group.ns -}}  .b.",
                60,
                "<ns>.b",
            ),
            (
                "{{ .Name }} 60 IN CNAME {{ index .Group \"ns\" }}{{ index .Match 0 }}",
                60,
                "<ns><0>",
            ),
            ("{{ .Name }} {{/* why */}} 60 IN CNAME a.", 60, "a"),
            ("{{ .Name }} 60 IN CNAME inner.{{ .Zone }}", 60, "inner.z.y"),
            (
                "{{ .Name }} 60 IN CNAME {{ .Zone }}internal.test.",
                60,
                "z.y.internal.test",
            ),
        ] {
            assert_eq!(
                target(text, "z.y"),
                Ok((ttl, expected.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn answers_that_are_not_one_cname() {
        for (text, expected) in [
            ("{{ .Name }} 60 IN A 10.0.0.1", "type A"),
            ("{{ .Name }} 60 CH CNAME a.", "type CH"),
            ("x.{{ .Name }} 60 IN CNAME a.", "owner"),
            ("{{ .Name -}} 60 IN CNAME a.", "owner"),
            ("{{ .Name }} 60 IN CNAME", "one CNAME"),
            ("{{ .Name }} 60 IN CNAME a. b.", "one CNAME"),
            ("{{ .Name }} 60 IN {{ .Type }} a.", "plain text"),
            ("{{ .Name }} 60 IN CNAME {{ .Zone }}.", "dot of its own"),
            (
                "{{ .Name }} 60 IN CNAME inner.{{ .Zone }}.",
                "dot of its own",
            ),
            ("{{ .Name }} 60 IN CNAME a..b.", "not a name"),
            ("{{ .Name }} 60 IN CNAME {{ .Meta \"a/b\" }}.c", "metadata"),
            ("{{ .Name }} 60 IN CNAME {{ .Values.x }}.c", "Helm"),
            ("{{ .Name }} 60 IN CNAME {{ .Group.1 }}.c", "index .Match 1"),
            ("{{ .Name", "not closed"),
        ] {
            let problem = target(text, "z").unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
        assert!(target("{{ .Name }} 60 IN CNAME a.{{ .Zone }}", "").is_err());
        assert_eq!(
            target("{{ .Name }} 60 IN CNAME a{{ .Zone }}", "")
                .unwrap()
                .1,
            "a"
        );
    }
}
