//! The `template` plugin: one directive as CoreDNS reads it.

use crate::answer::Answer;
use crate::language::Zone;
use crate::parser::{Directive, Place};
use crate::server;

/// A `template` directive.
#[derive(Clone, Debug)]
pub struct Template {
    pub place: Place,
    /// Its own zones; those of the block where there are none.
    pub zones: Option<Vec<Zone>>,
    /// The type of query that it is for; nothing for all.
    pub qtype: Option<String>,
    /// Expressions, and the position of each; without any, it takes every name.
    pub matches: Option<Vec<(Place, String)>>,
    /// The zones whose other names go on to the next template; `None` without `fallthrough`.
    pub falls_through: Option<Vec<Zone>>,
    /// Its answer, and the position of that; or where and why that is not a rule.
    pub answer: Result<(Place, Answer), (Place, String)>,
    /// Differences of the answer that a rule makes.
    pub warnings: Vec<(Place, String)>,
}

/// Reads a directive; or says where and why it is not one that answers queries of class IN in a way that is known.
pub fn read(directive: &Directive) -> Result<Template, (Place, String)> {
    let place = directive.place;
    let fail = |reason: String| Err((place, reason));
    let (class, qtype) = (directive.word(1), directive.word(2));
    if class.is_empty() || qtype.is_empty() {
        return fail("`template` needs a class and a type".to_owned());
    }
    if !matches!(class, "IN" | "ANY") {
        return fail(format!("class {class}: rules are for class IN"));
    }
    let mut zones = Vec::new();
    for word in directive.words.iter().skip(3) {
        match server::argument_zones(word) {
            Ok(named) => zones.extend(named),
            Err(reason) => return fail(reason),
        }
    }
    let mut template = Template {
        place,
        zones: (directive.words.len() > 3).then_some(zones),
        qtype: (qtype != "ANY").then(|| qtype.to_owned()),
        matches: None,
        falls_through: None,
        answer: Err((place, String::new())),
        warnings: Vec::new(),
    };
    let mut answers: Vec<(Place, &str)> = Vec::new();
    let mut obstacle: Option<(Place, String)> = None;
    for part in directive.block.as_deref().unwrap_or_default() {
        let arguments = &part.words[1..];
        let mut blocks = |reason: String| obstacle.get_or_insert((part.place, reason)).0;
        match part.word(0) {
            "match" => template
                .matches
                .get_or_insert_default()
                .extend(arguments.iter().map(|text| (part.place, text.clone()))),
            "answer" => answers.extend(arguments.iter().map(|text| (part.place, text.as_str()))),
            "fallthrough" => {
                let mut zones = Vec::new();
                for word in arguments {
                    zones.extend(
                        server::argument_zones(word).map_err(|reason| (part.place, reason))?,
                    );
                }
                if arguments.is_empty() {
                    zones.push(Zone(String::new()));
                }
                template.falls_through = Some(zones);
            }
            "upstream" => {}
            "rcode" if part.word(1) == "NOERROR" => {}
            "ederror" => template.warnings.push((
                part.place,
                "the rule's answers have no extended error in them".to_owned(),
            )),
            other @ ("additional" | "authority" | "rcode") => {
                blocks(format!(
                    "`{other}`: a rule's answer is one CNAME and what it leads to"
                ));
            }
            other => return Err((part.place, format!("`template` has no property `{other}`"))),
        }
        if let Some(inner) = &part.block {
            let place = inner.first().map_or(part.place, |inner| inner.place);
            return Err((place, "a block inside of `template`".to_owned()));
        }
    }
    template.answer = match (obstacle, &answers[..]) {
        (Some(obstacle), _) => Err(obstacle),
        (None, &[(at, text)]) => match placeholder_in(text) {
            Some(reason) => Err((at, reason)),
            None => Answer::parse(text)
                .map(|answer| (at, answer))
                .map_err(|reason| (at, reason)),
        },
        (None, _) => Err((
            place,
            format!("{} answers: a rule's answer is one CNAME", answers.len()),
        )),
    };
    if let (Some(qtype), Ok(_)) = (&template.qtype, &template.answer) {
        template.answer = Err((
            place,
            format!("only for type {qtype}: a rule answers every type of query for a name"),
        ));
    }
    Ok(template)
}

/// What is to be replaced in an answer; the names of groups in its actions are its own.
fn placeholder_in(answer: &str) -> Option<String> {
    let mut plain = String::new();
    let mut rest = answer;
    while let Some((before, action)) = rest.split_once("{{") {
        plain.push_str(before);
        plain.push(' ');
        rest = action.split_once("}}").map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    plain
        .split_whitespace()
        .find_map(server::placeholder)
        .or_else(|| server::variable(answer))
}

impl Template {
    /// The zone that CoreDNS finds a zone's names in: the longest of its own.
    pub fn zone_for<'a>(&'a self, block: &'a [Zone], zone: &Zone) -> Option<&'a Zone> {
        self.zones
            .as_deref()
            .unwrap_or(block)
            .iter()
            .filter(|own| own.contains(zone))
            .max_by_key(|own| own.0.len())
    }
}
