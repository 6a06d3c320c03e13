//! The rules of a block's templates.

use super::claims::{Claim, Taken};
use super::{MAX_TTL, Plan, Server, elsewhere, list};
use crate::Names;
use crate::answer::Answer;
use crate::expression::{self, Scope};
use crate::language::{Set, Zone};
use crate::parser::Place;
use crate::template::Template;

/// Most sets whose union is looked at: more would take too long, and are a warning.
const MOST_TOGETHER: usize = 16;
/// Most directives that a rule's warnings name as taking names from it.
const MOST_NOTES: usize = 3;

impl Plan<'_> {
    pub(super) fn template(&mut self, server: &Server<'_>, template: &Template) {
        let zones: Vec<Zone> = effective(server, template);
        if zones.is_empty() {
            // It is said once, of the block's zones that it is in none of.
            let own = template.zones.as_deref().unwrap_or_default();
            let meets = |zone: &Zone| {
                own.iter()
                    .any(|own| own.contains(zone) || zone.contains(own))
            };
            if !server.zones.iter().any(meets) {
                let (own, zones) = (list(own), list(server.zones));
                self.warn(
                    template.place,
                    format!("never used: the zone {own} is not in the block's zone {zones}"),
                );
            }
            return;
        }
        if let Err((place, reason)) = &template.answer {
            self.leave_out(*place, reason);
        }
        let before = self.import.rules.len();
        for zone in &zones {
            self.template_in(server, template, zone);
        }
        if self.import.rules.len() > before {
            for (place, text) in &template.warnings {
                self.warn(*place, text.clone());
            }
        }
    }

    /// A template within one zone.
    fn template_in(&mut self, server: &Server<'_>, template: &Template, zone: &Zone) {
        let Some(template_zone) = template.zone_for(server.zones, zone) else {
            return;
        };
        let scope = Scope {
            languages: self.languages,
            zone,
            template_zone,
        };
        let everything = [(template.place, String::from(".*"))];
        let matches = template.matches.as_deref().unwrap_or(&everything);
        let mut taken: Vec<Set> = Vec::new();
        let mut rules = 0;
        for (place, text) in matches {
            let names = match expression::names(text, &scope) {
                Ok(names) => names,
                Err(reason) => {
                    self.leave_out(*place, reason);
                    continue;
                }
            };
            if self.languages.is_empty(names.clone()) {
                let several = template.zones.as_ref().is_some_and(|zones| zones.len() > 1)
                    || server.zones.len() > 1;
                if !several {
                    self.warn(
                        *place,
                        format!("never used: `{text}` matches no name of the zone {zone}, all of which are in lower case"),
                    );
                }
                continue;
            }
            match &template.answer {
                Ok((_, answer)) => {
                    rules += self.matched(template, (*place, text), &names, &scope, answer);
                }
                Err((place, _)) => self.claims.add(Claim {
                    zone: zone.clone(),
                    set: names.clone(),
                    place: *place,
                    taken: match &template.qtype {
                        Some(qtype) => Taken::ForType(qtype.clone()),
                        None => Taken::ByDirective,
                    },
                }),
            }
            taken.push(names);
        }
        self.others(template, zone, Set::Or(taken), rules > 0);
    }

    /// What CoreDNS does with the names of a zone that a template does not match.
    fn others(&mut self, template: &Template, zone: &Zone, taken: Set, has_rules: bool) {
        let passed = template.falls_through.as_deref().unwrap_or_default();
        let refused = self
            .languages
            .zone(zone)
            .without(taken)
            .without(self.languages.zones(passed));
        if self.languages.is_empty(refused.clone()) {
            return;
        }
        if has_rules {
            self.warn(
                template.place,
                "without `fallthrough` CoreDNS refuses the zone's other names; gregor lets them pass",
            );
        }
        self.claims.add(Claim {
            zone: zone.clone(),
            set: refused,
            place: template.place,
            taken: match &template.qtype {
                Some(qtype) => Taken::ForType(qtype.clone()),
                None => Taken::Refused,
            },
        });
    }

    /// The rules of one expression of a template; how many there are.
    fn matched(
        &mut self,
        template: &Template,
        (place, text): (Place, &str),
        names: &Set,
        scope: &Scope<'_>,
        answer: &Answer,
    ) -> usize {
        // What something else takes before this template is asked.
        let ttl = answer.ttl.clamp(1, MAX_TTL);
        let converted = expression::convert(text, names, scope, answer);
        let mut notes: Vec<String> = Vec::new();
        let claims = self.claims.near(scope.zone);
        // What takes all together what is not taken by one, for short.
        let mut all: Vec<Set> = Vec::new();
        let mut first: Option<String> = None;
        for claim in claims {
            if claim.taken == Taken::ByRule {
                all.push(claim.set.clone());
                continue;
            }
            if notes.len() == MOST_NOTES {
                continue;
            }
            let line = self.line(claim.place);
            let Some(note) = claim.takes_some(self.languages, names, line) else {
                continue;
            };
            let takes_all = claim.takes_all(self.languages, names);
            if takes_all && self.is_apart(&claim, place) {
                notes.push(elsewhere(line));
            } else if takes_all {
                let (text, conditional) = claim.covers(line);
                let is_there = converted
                    .as_ref()
                    .is_ok_and(|converted| converted.rules.iter().all(|rule| self.has(rule, ttl)));
                if conditional {
                    self.leave_out(place, text);
                } else if !is_there {
                    self.warn(template.place, text);
                }
                return 0;
            } else {
                if claim.takes_surely() {
                    all.push(claim.set.clone());
                }
                first.get_or_insert(claim.covers(line).0);
                notes.push(note);
            }
        }
        if let Some(text) = first
            && all.len() <= MOST_TOGETHER
            && self.languages.is_within(names, &Set::Or(all))
        {
            self.warn(template.place, text);
            return 0;
        }
        let converted = match converted {
            Ok(converted) => converted,
            Err(reason) => {
                self.leave_out(place, reason);
                self.claims.add(Claim {
                    zone: scope.zone.clone(),
                    set: names.clone(),
                    place,
                    taken: Taken::ByDirective,
                });
                return 0;
            }
        };
        for warning in converted.warnings {
            self.warn(place, warning);
        }
        for note in notes {
            self.warn(template.place, note);
        }
        if ttl != answer.ttl
            && let Ok((at, _)) = &template.answer
        {
            self.warn(*at, format!("a TTL of {} becomes {ttl}", answer.ttl));
        }
        if let Some(left) = converted.left {
            self.claims.add(Claim {
                zone: scope.zone.clone(),
                set: left,
                place: template.place,
                taken: Taken::ByDirective,
            });
        }
        let count = converted.rules.len();
        let own = Names {
            group: self.import.rules.len(),
            set: names.clone(),
        };
        for (matches, cname) in converted.rules {
            self.push(
                template.place,
                scope.zone,
                "template",
                matches,
                (cname, ttl),
                own.clone(),
            );
        }
        self.ruled.push((template.place, names.clone()));
        self.claims.add(Claim {
            zone: scope.zone.clone(),
            set: names.clone(),
            place: template.place,
            taken: Taken::ByRule,
        });
        count
    }
}

/// The zones within a server's zone that a template is for, the longest first.
fn effective(server: &Server<'_>, template: &Template) -> Vec<Zone> {
    let mut zones: Vec<Zone> = template
        .zones
        .as_deref()
        .unwrap_or(server.zones)
        .iter()
        .filter_map(|own| {
            if own.contains(&server.zone) {
                Some(server.zone.clone())
            } else if server.zone.contains(own) {
                Some(own.clone())
            } else {
                None
            }
        })
        .collect();
    zones.sort_by_key(|zone| std::cmp::Reverse(zone.labels()));
    zones.dedup();
    zones
}
