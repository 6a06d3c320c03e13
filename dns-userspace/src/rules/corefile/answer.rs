//! An `answer` of the `template` plugin: one CNAME for the name that was asked, or the reason why it is something else.

/// `{{ .Name }} TTL IN CNAME TARGET`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub ttl: u32,
    /// The target without its final dot.
    pub target: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// `index .Match N`
    Group(usize),
    /// `.Group.NAME`
    Named(String),
    /// `.Zone`
    Zone,
}

/// What CoreDNS gives a record without a TTL.
const RR_DEFAULT_TTL: u32 = 3600;

impl Answer {
    pub fn parse(text: &str) -> Result<Self, String> {
        let pieces = actions(text)?;
        // Words of the record; the actions in them stay whole.
        let mut fields: Vec<Vec<Part<'_>>> = Vec::new();
        let mut joins = false;
        for piece in &pieces {
            match piece {
                Part::Action(_) => {
                    push(&mut fields, piece.clone(), joins);
                    joins = true;
                }
                Part::Text(text) => {
                    joins = joins && !text.starts_with(char::is_whitespace);
                    for (index, word) in text.split_whitespace().enumerate() {
                        push(&mut fields, Part::Text(word), joins && index == 0);
                    }
                    joins = !text.ends_with(char::is_whitespace);
                }
            }
        }
        let mut fields = fields.into_iter();
        match fields.next().as_deref() {
            Some([Part::Action(".Name")]) => {}
            _ => return Err("the owner of the answer is not `{{ .Name }}`".to_owned()),
        }
        let mut ttl = RR_DEFAULT_TTL;
        let mut is_cname = false;
        for field in fields.by_ref() {
            let [Part::Text(word)] = field[..] else {
                return Err("the answer's TTL, class and type are not plain text".to_owned());
            };
            if let Ok(seconds) = word.parse() {
                ttl = seconds;
            } else if word.eq_ignore_ascii_case("CNAME") {
                is_cname = true;
                break;
            } else if !word.eq_ignore_ascii_case("IN") {
                return Err(format!("the answer is a {word}, not a CNAME"));
            }
        }
        let (Some(target), None, true) = (fields.next(), fields.next(), is_cname) else {
            return Err("the answer is not one CNAME record".to_owned());
        };
        let mut pieces = target
            .into_iter()
            .map(|part| match part {
                Part::Text(text) => Ok(Piece::Text(text.to_ascii_lowercase())),
                Part::Action(action) => target_action(action),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if let Some(Piece::Text(last)) = pieces.last_mut()
            && last.ends_with('.')
        {
            last.pop();
        }
        Ok(Self {
            ttl,
            target: pieces,
        })
    }
}

#[derive(Clone, Debug)]
enum Part<'a> {
    Text(&'a str),
    Action(&'a str),
}

fn push<'a>(fields: &mut Vec<Vec<Part<'a>>>, part: Part<'a>, joins: bool) {
    match fields.last_mut() {
        Some(field) if joins => field.push(part),
        _ => fields.push(vec![part]),
    }
}

fn actions(text: &str) -> Result<Vec<Part<'_>>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        if start > 0 {
            parts.push(Part::Text(&rest[..start]));
        }
        let Some(length) = rest[start + 2..].find("}}") else {
            return Err("`{{` is not closed in the answer".to_owned());
        };
        let action = &rest[start + 2..][..length];
        let action = action.strip_prefix('-').unwrap_or(action);
        let action = action.strip_suffix('-').unwrap_or(action);
        parts.push(Part::Action(action.trim()));
        rest = &rest[start + 2 + length + 2..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    Ok(parts)
}

fn target_action(action: &str) -> Result<Piece, String> {
    let words: Vec<&str> = action.split_whitespace().collect();
    match words[..] {
        [".Zone"] => return Ok(Piece::Zone),
        ["index", ".Match", number] => {
            if let Ok(number) = number.parse::<usize>()
                && number > 0
            {
                return Ok(Piece::Group(number));
            }
        }
        ["index", ".Group", name] => {
            let name = name.trim_matches('"');
            if let Ok(number) = name.parse::<usize>()
                && number > 0
            {
                return Ok(Piece::Group(number));
            }
            return Ok(Piece::Named(name.to_owned()));
        }
        [field] => {
            if let Some(name) = field.strip_prefix(".Group.") {
                return Ok(Piece::Named(name.to_owned()));
            }
        }
        _ => {}
    }
    let reason = if action.starts_with(".Meta") {
        "a rule does not know the pod's metadata"
    } else if action.starts_with(".Remote") {
        "a rule does not know the pod's address"
    } else if action.contains("parseInt") {
        "a rule does not compute"
    } else {
        "a rule's target holds text and what was captured"
    };
    Err(format!("the target uses `{{{{ {action} }}}}`: {reason}"))
}
