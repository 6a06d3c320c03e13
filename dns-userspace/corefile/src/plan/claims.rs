//! What takes names before a directive is asked: rules, answers that no rule gives, refusals, other blocks.

use std::rc::Rc;

use crate::language::{Languages, Search, Set, Zone};
use crate::parser::Place;

/// Names that are taken, and by what.
#[derive(Clone, Debug)]
pub struct Claim {
    /// All its names are in this zone.
    pub zone: Zone,
    pub set: Set,
    pub place: Place,
    pub taken: Taken,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A rule does the same.
    ByRule,
    /// Another block is for the zone.
    ByBlock,
    /// A directive answers, or makes other names of them.
    ByDirective,
    /// A template without `fallthrough` ends the search.
    Refused,
    /// Only queries of one type.
    ForType(String),
    /// Depending on something that no rule has.
    Conditionally,
}

#[derive(Debug, Default)]
pub struct Claims {
    claims: Vec<Rc<Claim>>,
}

impl Claims {
    pub fn add(&mut self, claim: Claim) {
        self.claims.push(Rc::new(claim));
    }

    /// Those that may take names of a zone.
    pub fn near(&self, zone: &Zone) -> Vec<Rc<Claim>> {
        self.claims
            .iter()
            .filter(|claim| claim.zone.contains(zone) || zone.contains(&claim.zone))
            .cloned()
            .collect()
    }

    /// Those that take a name.
    pub fn of(&self, name: &Zone) -> impl Iterator<Item = &Rc<Claim>> {
        self.claims.iter().filter(|claim| {
            !matches!(claim.taken, Taken::ForType(_) | Taken::ByRule)
                && claim.zone.contains(name)
                && claim.set.has(&name.0)
        })
    }
}

impl Claim {
    /// Whether a rule for these names would never be asked, or not always.
    pub fn takes_all(&self, languages: &Languages, names: &Set) -> bool {
        !matches!(self.taken, Taken::ForType(_) | Taken::ByRule)
            && languages.is_within(names, &self.set)
    }

    /// Whether its names are taken for every type and every client.
    pub fn takes_surely(&self) -> bool {
        !matches!(self.taken, Taken::ForType(_) | Taken::Conditionally)
    }

    /// The reason where nothing is left, and whether that depends on the client.
    pub fn covers(&self, line: usize) -> (String, bool) {
        let text = match &self.taken {
            Taken::ByRule => format!("never used: line {line} takes these names first"),
            Taken::ByBlock => format!("never used: the block on line {line} is for these names"),
            Taken::ByDirective => format!("never used: line {line} takes these names first"),
            Taken::Refused => format!(
                "never used: line {line} has no `fallthrough` for these names, so nothing behind it is asked"
            ),
            Taken::ForType(qtype) => format!("line {line} answers queries of type {qtype} first"),
            Taken::Conditionally => format!(
                "the answer to these names depends on the client, or on the address that was asked (line {line})"
            ),
        };
        (text, self.taken == Taken::Conditionally)
    }

    /// What to say where some names are taken.
    pub fn takes_some(&self, languages: &Languages, names: &Set, line: usize) -> Option<String> {
        let example = match languages.search(names.clone().and(self.set.clone())) {
            Search::Nothing => return None,
            Search::Name(name) => format!(", such as `{name}`"),
            Search::Unclear => String::new(),
        };
        Some(match &self.taken {
            Taken::ByRule => return None,
            Taken::ByBlock => format!(
                "the block on line {line} takes names away from it{example}: CoreDNS asks that block for them, the rule answers them"
            ),
            Taken::ByDirective => format!(
                "line {line} takes names away from it{example}: CoreDNS does not answer these with the CNAME, the rule does"
            ),
            Taken::Refused => format!(
                "line {line} has no `fallthrough` for some of its names{example}: CoreDNS refuses these, the rule answers them"
            ),
            Taken::ForType(qtype) => format!(
                "line {line} answers queries of type {qtype} first for some of its names{example}: the rule answers these too"
            ),
            Taken::Conditionally => format!(
                "the answer to some of its names{example} depends on the client, or on the address that was asked (line {line}): the rule answers them always"
            ),
        })
    }
}
