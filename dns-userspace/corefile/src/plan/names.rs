//! One name on its way through the rewrites and templates of a block; and the names of rules.

use super::Content;
use crate::Matches;
use crate::answer::Reference;
use crate::language::Zone;
use crate::parser::Place;
use crate::rewrite::Kind;
use crate::server;
use crate::template::Template;

/// Where a name ends up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    Name {
        name: String,
        /// Of the template that answered, if one did.
        ttl: Option<u32>,
        /// The directives that it went through.
        steps: Vec<Place>,
    },
    /// At something that no rule says.
    Unsayable(Place),
}

/// What a block makes of a name.
pub fn follow(content: &Content, zones: &[Zone], from: &Zone) -> End {
    let mut name = from.clone();
    let mut steps = Vec::new();
    for rewrite in &content.rewrites {
        match &rewrite.kind {
            Kind::Exact { from, to } if *from == name => {
                name = to.clone();
                steps.push(rewrite.place);
                if !rewrite.goes_on {
                    break;
                }
            }
            Kind::Names(set, _) if set.has(&name.0) => return End::Unsayable(rewrite.place),
            _ => {}
        }
    }
    for template in &content.templates {
        let Some(zone) = template.zone_for(zones, &name) else {
            continue;
        };
        match filled(template, zone, &name) {
            // In an answer, a rewrite's new name becomes the old one again, also at the end of another name.
            Ok(Some((target, _))) if name != *from && name.contains(&Zone(target.clone())) => {
                return End::Unsayable(template.place);
            }
            Ok(Some((target, ttl))) => {
                steps.push(template.place);
                return End::Name {
                    name: target,
                    ttl: Some(ttl),
                    steps,
                };
            }
            Ok(None) => {}
            Err(at) => return End::Unsayable(at),
        }
    }
    End::Name {
        name: name.0,
        ttl: None,
        steps,
    }
}

/// The target and TTL of a template for a name; nothing where it leaves the name to others.
fn filled(template: &Template, zone: &Zone, name: &Zone) -> Result<Option<(String, u32)>, Place> {
    let absolute = name.absolute();
    let everything = [(template.place, String::from(".*"))];
    let matches = template.matches.as_deref().unwrap_or(&everything);
    for (place, text) in matches {
        let expression = regex::bytes::RegexBuilder::new(text)
            .unicode(false)
            .build()
            .map_err(|_| *place)?;
        let Some(captures) = expression.captures(absolute.as_bytes()) else {
            continue;
        };
        let (Ok((_, answer)), None) = (&template.answer, &template.qtype) else {
            return Err(template.place);
        };
        let spell = |reference: &Reference| {
            let known = match reference {
                Reference::Number(number) => *number < captures.len(),
                Reference::Name(name) => {
                    expression.capture_names().flatten().any(|own| own == name)
                }
            };
            let group = match reference {
                Reference::Number(number) => captures.get(*number),
                Reference::Name(name) => captures.name(name),
            };
            let text = group.map_or(&b""[..], |group| group.as_bytes());
            known.then(|| String::from_utf8_lossy(text).into_owned())
        };
        let target = answer.target(zone, spell).map_err(|_| template.place)?;
        let target = server::zone(&target).map_err(|_| template.place)?;
        return Ok(Some((target.0, answer.ttl.clamp(1, super::MAX_TTL))));
    }
    let passed = template.falls_through.iter().flatten();
    if passed.into_iter().any(|zone| zone.contains(name)) {
        Ok(None)
    } else {
        Err(template.place)
    }
}

/// Longest name of a rule.
const MAX_RULE_NAME: usize = 63;

/// A name that another import gives only to the same rule: the zone is for the reader, the digits are of what it says.
pub fn rule_name(plugin: &str, zone: &Zone, matches: &Matches, cname: &str, ttl: u32) -> String {
    // FNV-1a.
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let (Matches::Pattern(text) | Matches::Regex(text)) = matches;
    for byte in format!("{text}\n{cname}\n{ttl}").bytes() {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let digits = format!("{:08x}", (hash ^ (hash >> 32)) as u32);
    if zone.is_root() {
        return format!("{plugin}-{digits}");
    }
    let room = MAX_RULE_NAME - plugin.len() - digits.len() - 2;
    let zone = &zone.0[zone.0.len().saturating_sub(room)..];
    format!("{plugin}-{}-{digits}", zone.trim_start_matches(['.', '-']))
}
