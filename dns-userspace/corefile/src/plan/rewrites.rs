//! The rules of a block's rewrites.

use super::claims::{Claim, Taken};
use super::{DEFAULT_TTL, Plan, Server, elsewhere, list, names, only};
use crate::language::{Set, Zone};
use crate::parser::Place;
use crate::rewrite::{Kind, Rewrite};
use crate::{Matches, Names};

impl Plan<'_> {
    pub(super) fn rewrites(&mut self, server: &Server<'_>) {
        let rewrites = &server.content.rewrites;
        for rewrite in rewrites {
            match &rewrite.kind {
                Kind::Exact { from, .. } if server.zones.iter().any(|zone| zone.contains(from)) => {
                    if server.zone.contains(from) {
                        self.exact(server, rewrite, from);
                    }
                }
                Kind::Exact { from, .. } => {
                    let zones = list(server.zones);
                    self.warn(
                        rewrite.place,
                        format!("never used: `{from}` is not in the block's zone {zones}"),
                    );
                }
                Kind::Names(set, reason) => {
                    self.leave_out(rewrite.place, reason);
                    self.claims.add(Claim {
                        zone: server.zone.clone(),
                        set: self.languages.zone(&server.zone).and(set.clone()),
                        place: rewrite.place,
                        taken: Taken::ByDirective,
                    });
                }
                Kind::Other(reason) => self.leave_out(rewrite.place, reason),
            }
        }
    }

    /// The rule of a rewrite of one name: where the name ends up after all rewrites and templates of the block.
    fn exact(&mut self, server: &Server<'_>, rewrite: &Rewrite, from: &Zone) {
        let place = rewrite.place;
        let claimed = self.claims.of(from).next().cloned();
        if let Some(claim) = &claimed
            && self.is_apart(claim, place)
        {
            let line = self.line(claim.place);
            self.warn(place, elsewhere(line));
        } else if let Some(claim) = claimed {
            let (text, conditional) = claim.covers(self.line(claim.place));
            if conditional {
                self.leave_out(place, text);
            } else {
                self.warn(place, text);
            }
            return;
        }
        let end = names::follow(server.content, server.zones, from);
        let unsayable = |at: Place, plan: &Self| {
            let line = plan.line(at);
            format!("`{from}` goes on to line {line}, and what that makes of it is not a rule")
        };
        let (name, ttl, steps) = match end {
            names::End::Name { name, ttl, steps } => (name, ttl, steps),
            names::End::Unsayable(at) => {
                let text = unsayable(at, self);
                self.leave_out(place, text);
                self.claims.add(Claim {
                    zone: server.zone.clone(),
                    set: only(from).unwrap_or(Set::All),
                    place,
                    taken: Taken::ByDirective,
                });
                return;
            }
        };
        if steps.first() != Some(&place) {
            let line = steps.first().map_or(0, |&first| self.line(first));
            self.warn(
                place,
                format!("never used: line {line} takes `{from}` first"),
            );
            return;
        }
        self.warn(
            place,
            "`rewrite` answers under the name that was asked; the rule answers with a CNAME to the other name",
        );
        if let Some(last) = steps[1..].last() {
            let line = self.line(*last);
            self.warn(
                place,
                format!("the name goes on to line {line}: the rule leads to `{name}` at once"),
            );
        }
        let set = only(from).unwrap_or(Set::All);
        self.rewritten.insert(from.0.clone(), place);
        self.ends.push((place, name.clone()));
        self.push(
            place,
            from,
            "rewrite",
            Matches::Pattern(from.0.clone()),
            (name, ttl.unwrap_or(DEFAULT_TTL)),
            Names {
                group: self.import.rules.len(),
                set,
            },
        );
    }
}
