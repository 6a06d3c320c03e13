//! Sets of names, and whether there is a name in one: regular languages over the presentation form that CoreDNS matches
//! (lower case, final dot). Names that need an escape in that form are left out of account, as gregor's `regex` does.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use regex_automata::dfa::{Automaton, StartKind, dense};
use regex_automata::nfa::thompson::{self, WhichCaptures};
use regex_automata::util::primitives::StateID;
use regex_automata::util::start;
use regex_automata::{Anchored, MatchKind};
use regex_syntax::hir::{Dot, Hir};

/// Most memory for one automaton, in bytes.
const AUTOMATON_BYTES: usize = 2 << 20;
/// Most states of several automata side by side in one search.
const SEARCH_STATES: usize = 50_000;
/// Most steps of all searches together, so that an import ends in time.
const STEPS: u64 = 50_000_000;

/// A domain name without its final dot, in lower case; "" is the root.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Zone(pub String);

impl Zone {
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn labels(&self) -> usize {
        if self.is_root() {
            0
        } else {
            self.0.split('.').count()
        }
    }

    /// Whether a zone is this one or below it.
    pub fn contains(&self, other: &Zone) -> bool {
        self.is_root()
            || other
                .0
                .strip_suffix(&self.0)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    }

    /// With the final dot.
    pub fn absolute(&self) -> String {
        format!("{}.", self.0)
    }
}

impl std::fmt::Display for Zone {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(if self.is_root() { "." } else { &self.0 })
    }
}

/// A set of names.
#[derive(Clone, Debug)]
pub enum Set {
    All,
    Matched(Rc<dense::DFA<Vec<u32>>>),
    And(Vec<Set>),
    Or(Vec<Set>),
    Not(Box<Set>),
}

impl Set {
    pub fn and(self, other: Set) -> Set {
        Set::And(vec![self, other])
    }

    pub fn without(self, other: Set) -> Set {
        self.and(Set::Not(Box::new(other)))
    }

    fn leaves(&self, leaves: &mut Vec<Rc<dense::DFA<Vec<u32>>>>) {
        match self {
            Set::All => {}
            Set::Matched(automaton) => {
                if !leaves.iter().any(|leaf| Rc::ptr_eq(leaf, automaton)) {
                    leaves.push(automaton.clone());
                }
            }
            Set::And(sets) | Set::Or(sets) => sets.iter().for_each(|set| set.leaves(leaves)),
            Set::Not(set) => set.leaves(leaves),
        }
    }

    fn holds(&self, leaf: &impl Fn(&Rc<dense::DFA<Vec<u32>>>) -> bool) -> bool {
        match self {
            Set::All => true,
            Set::Matched(automaton) => leaf(automaton),
            Set::And(sets) => sets.iter().all(|set| set.holds(leaf)),
            Set::Or(sets) => sets.iter().any(|set| set.holds(leaf)),
            Set::Not(set) => !set.holds(leaf),
        }
    }

    /// Whether a name, without its final dot, is in the set.
    pub fn has(&self, name: &str) -> bool {
        self.holds(&|automaton| {
            let config = start::Config::new().anchored(Anchored::Yes);
            let Ok(mut state) = automaton.start_state(&config) else {
                return false;
            };
            for byte in name.bytes().chain([b'.']) {
                state = automaton.next_state(state, byte);
            }
            automaton.is_match_state(automaton.next_eoi_state(state))
        })
    }
}

/// What a search for a name came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Search {
    Nothing,
    /// One of the shortest names, without its final dot.
    Name(String),
    /// It would take too long to find out.
    Unclear,
}

/// Makes sets and searches them, within limits.
pub struct Languages {
    names: Rc<dense::DFA<Vec<u32>>>,
    zones: RefCell<HashMap<Zone, Set>>,
    steps: Cell<u64>,
}

impl Languages {
    pub fn new() -> Option<Self> {
        let Set::Matched(names) = matched(r#"^(?:[^\x00-\x20."\\'@;()A-Z\x7f-\xff]+\.)+$"#)? else {
            return None;
        };
        Some(Self {
            names,
            zones: RefCell::default(),
            steps: Cell::new(STEPS),
        })
    }

    /// The zone and all names below it.
    pub fn zone(&self, zone: &Zone) -> Set {
        if zone.is_root() {
            return Set::All;
        }
        self.zones
            .borrow_mut()
            .entry(zone.clone())
            .or_insert_with(|| {
                let text = format!(r"(?:^|\.){}\.$", regex_syntax::escape(&zone.0));
                matched(&text).unwrap_or(Set::All)
            })
            .clone()
    }

    pub fn zones(&self, zones: &[Zone]) -> Set {
        Set::Or(zones.iter().map(|zone| self.zone(zone)).collect())
    }

    /// Whether no name is in the set; `false` where that is unclear.
    pub fn is_empty(&self, set: Set) -> bool {
        self.search(set) == Search::Nothing
    }

    /// Whether every name of one set is in another; `false` where that is unclear.
    pub fn is_within(&self, inner: &Set, outer: &Set) -> bool {
        self.is_empty(inner.clone().without(outer.clone()))
    }

    /// Looks for a shortest name in a set.
    pub fn search(&self, set: Set) -> Search {
        let mut leaves = vec![self.names.clone()];
        set.leaves(&mut leaves);
        let config = start::Config::new().anchored(Anchored::Yes);
        let mut start: Vec<StateID> = Vec::new();
        for leaf in &leaves {
            match leaf.start_state(&config) {
                Ok(state) => start.push(state),
                Err(_) => return Search::Unclear,
            }
        }
        let bytes = representatives(&leaves);
        // Each tuple of states with the one before it and the byte between.
        let mut seen: HashMap<Vec<StateID>, usize> = HashMap::new();
        let mut reached: Vec<(Vec<StateID>, usize, u8)> = vec![(start.clone(), 0, 0)];
        seen.insert(start, 0);
        let mut at = 0;
        while let Some((states, ..)) = reached.get(at) {
            let states = states.clone();
            let accepts = |automaton: &Rc<dense::DFA<Vec<u32>>>| {
                leaves
                    .iter()
                    .position(|leaf| Rc::ptr_eq(leaf, automaton))
                    .is_some_and(|leaf| {
                        let end = automaton.next_eoi_state(states[leaf]);
                        automaton.is_match_state(end)
                    })
            };
            if accepts(&self.names) && set.holds(&accepts) {
                return Search::Name(path(&reached, at));
            }
            let left = self.steps.get().saturating_sub(bytes.len() as u64);
            self.steps.set(left);
            if left == 0 || reached.len() > SEARCH_STATES {
                return Search::Unclear;
            }
            for &byte in &bytes {
                let next: Vec<StateID> = leaves
                    .iter()
                    .zip(&states)
                    .map(|(leaf, &state)| leaf.next_state(state, byte))
                    .collect();
                if self.names.is_dead_state(next[0]) || seen.contains_key(&next) {
                    continue;
                }
                seen.insert(next.clone(), reached.len());
                reached.push((next, at, byte));
            }
            at += 1;
        }
        Search::Nothing
    }
}

fn path(reached: &[(Vec<StateID>, usize, u8)], mut at: usize) -> String {
    let mut name = Vec::new();
    while at != 0 {
        let (_, before, byte) = &reached[at];
        name.push(char::from(*byte));
        at = *before;
    }
    // The final dot.
    name.remove(0);
    name.into_iter().rev().collect()
}

/// One byte of each kind that all automata treat alike, those that names are mostly made of first.
fn representatives(leaves: &[Rc<dense::DFA<Vec<u32>>>]) -> Vec<u8> {
    let mut seen: Vec<Vec<u8>> = Vec::new();
    let mut bytes = Vec::new();
    let order = (b'a'..=b'z')
        .chain(b'0'..=b'9')
        .chain(b"-._".iter().copied());
    let rest =
        (0x21..0x7f).filter(|byte: &u8| !byte.is_ascii_alphanumeric() && !b"-._".contains(byte));
    for byte in order.chain(rest) {
        let kind: Vec<u8> = leaves
            .iter()
            .map(|leaf| leaf.byte_classes().get(byte))
            .collect();
        if !seen.contains(&kind) {
            seen.push(kind);
            bytes.push(byte);
        }
    }
    bytes
}

/// The names in which an expression finds a match; `None` when it is none or too large.
pub fn matched(text: &str) -> Option<Set> {
    let hir = regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .build()
        .parse(text)
        .ok()?;
    let any = || {
        Hir::repetition(regex_syntax::hir::Repetition {
            min: 0,
            max: None,
            greedy: true,
            sub: Box::new(Hir::dot(Dot::AnyByte)),
        })
    };
    let nfa = thompson::Compiler::new()
        .configure(
            thompson::Config::new()
                .utf8(false)
                .which_captures(WhichCaptures::None)
                .nfa_size_limit(Some(AUTOMATON_BYTES)),
        )
        .build_from_hir(&Hir::concat(vec![any(), hir, any()]))
        .ok()?;
    let automaton = dense::Builder::new()
        .configure(
            dense::Config::new()
                .match_kind(MatchKind::All)
                .start_kind(StartKind::Anchored)
                .accelerate(false)
                .dfa_size_limit(Some(AUTOMATON_BYTES))
                .determinize_size_limit(Some(AUTOMATON_BYTES)),
        )
        .build_from_nfa(&nfa)
        .ok()?;
    Some(Set::Matched(Rc::new(automaton)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(text: &str) -> Set {
        matched(text).unwrap()
    }

    #[test]
    fn sets_of_names() {
        let languages = Languages::new().unwrap();
        let zone = languages.zone(&Zone("b.c".into()));
        for (name, inside) in [
            ("b.c", true),
            ("a.b.c", true),
            ("ab.c", false),
            ("b.c.d", false),
        ] {
            assert_eq!(zone.has(name), inside, "{name}");
        }
        assert!(languages.is_within(&set(r"^.+\.b\.c\.$"), &zone));
        assert!(languages.is_within(&set(r"^x[.]b[.]c\.?$"), &zone));
        assert!(!languages.is_within(&set(r"b\.c\.$"), &zone));
        assert!(languages.is_empty(set("[A-Z]")));
        assert!(languages.is_empty(set(r"\\")));
        assert_eq!(
            languages.search(zone.clone().without(set(r"^b"))),
            Search::Name("a.b.c".into())
        );
        assert_eq!(
            languages.search(set(r"^a.*pixel").and(zone)),
            Search::Name("apixel.b.c".into())
        );
    }

    #[test]
    fn zones() {
        let zone = |text: &str| Zone(text.to_owned());
        assert!(zone("").contains(&zone("a")) && zone("a").contains(&zone("b.a")));
        assert!(!zone("a").contains(&zone("ba")) && !zone("a").contains(&zone("")));
        assert_eq!((zone("").absolute(), zone("a.b").labels()), (".".into(), 2));
    }
}
