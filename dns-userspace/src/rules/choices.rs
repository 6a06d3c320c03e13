//! What the matcher's result means: for a set of rules that match one name, those that may leave it to the next one, because they
//! observe or are not for every client, and the first that answers everybody.

use std::collections::HashMap;

use dns_common::{
    answer::{RuleEntry, asks},
    dfa::MAX_RULES,
    pipeline::MAX_CHOICES,
};

use super::{Mode, Rule};

/// What of a rule decides whether it may leave a name to the next one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Kind {
    pub mode: Mode,
    /// Whether it depends on who asks.
    pub asks: bool,
    /// Whether the next rule is right for others only where this one is looked at.
    pub is_guard: bool,
}

impl Kind {
    fn passes_on(self) -> bool {
        self.asks || self.mode == Mode::Observe
    }
}

/// A number for each sequence of rules that a name can have: that of a rule by itself is the rule's index, others follow.
#[derive(Debug)]
pub struct Choices {
    kinds: Vec<Kind>,
    /// For each rule that observes, its place among those; for others nothing.
    counters: Vec<Option<u16>>,
    /// Two or more rules each: one that may leave the name to the next, and the number for the rest.
    sequences: Vec<(u16, u32)>,
    numbers: HashMap<(u16, u32), u32>,
    reached: Vec<bool>,
}

impl Choices {
    pub fn new(kinds: impl Iterator<Item = Kind>) -> Self {
        let kinds: Vec<Kind> = kinds.collect();
        let mut observing = 0;
        let counters = kinds.iter().map(|kind| {
            (kind.mode == Mode::Observe).then(|| {
                observing += 1;
                observing - 1
            })
        });
        Self {
            counters: counters.collect(),
            reached: vec![false; kinds.len()],
            kinds,
            sequences: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// For one rule that answers.
    pub fn one() -> Self {
        Self::new(std::iter::once(Kind::default()))
    }

    /// The number for a name that these rules match, lowest first. `None` when there are too many such sets.
    pub fn number(&mut self, matching: impl Iterator<Item = usize>) -> Option<u32> {
        let mut rules = Vec::new();
        for rule in matching {
            let kind = self.kinds.get(rule).copied().unwrap_or_default();
            let passes_on = kind.passes_on();
            if passes_on && rules.len() + 1 == MAX_CHOICES as usize {
                if !kind.is_guard {
                    continue;
                }
                rules.pop();
            }
            rules.push(rule);
            if !passes_on {
                break;
            }
        }
        for &rule in &rules {
            self.reached[rule] = true;
        }
        let mut number = rules.pop()? as u32;
        for rule in rules.into_iter().rev() {
            number = self.sequence(rule as u16, number)?;
        }
        Some(number)
    }

    fn sequence(&mut self, first: u16, rest: u32) -> Option<u32> {
        let next = self.count();
        let number = *self.numbers.entry((first, rest)).or_insert(next as u32);
        if number as usize == next {
            if next >= MAX_RULES {
                return None;
            }
            self.sequences.push((first, rest));
        }
        Some(number)
    }

    /// Whether each rule is used for some name.
    pub fn reached(&self) -> &[bool] {
        &self.reached
    }

    /// The rules of a number, in their order.
    pub fn rules(&self, mut number: u32) -> Vec<usize> {
        let mut rules = Vec::new();
        while let Some(at) = (number as usize).checked_sub(self.kinds.len()) {
            let Some(&(first, rest)) = self.sequences.get(at) else {
                return rules;
            };
            rules.push(usize::from(first));
            number = rest;
        }
        rules.push(number as usize);
        rules
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.kinds.len() + self.sequences.len()
    }

    /// What a program has under each number.
    pub fn entries<'r>(&self, rules: impl Iterator<Item = &'r Rule>) -> Vec<RuleEntry> {
        let alone = rules.zip(&self.counters).map(|(rule, counter)| {
            let entry = rule.entry();
            RuleEntry {
                observed: counter.map_or(0, |counter| counter + 1),
                identifies: u8::from(entry.asks != asks::NOBODY),
                ..entry
            }
        });
        let mut entries: Vec<RuleEntry> = alone.collect();
        for &(first, rest) in &self.sequences {
            // A sequence is made after its rest.
            let (first, next) = (entries[usize::from(first)], entries[rest as usize]);
            entries.push(RuleEntry {
                next: rest as u16 + 1,
                identifies: first.identifies | next.identifies,
                ..first
            });
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWERS: Kind = Kind {
        mode: Mode::Answer,
        asks: false,
        is_guard: false,
    };
    const OBSERVES: Kind = Kind {
        mode: Mode::Observe,
        asks: false,
        is_guard: false,
    };
    const ASKS: Kind = Kind {
        mode: Mode::Answer,
        asks: true,
        is_guard: false,
    };

    #[test]
    fn a_number_stands_for_those_that_pass_on_and_the_first_that_answers_everybody() {
        let mut choices = Choices::new([OBSERVES, ANSWERS, ASKS, ANSWERS, OBSERVES].into_iter());
        assert_eq!(choices.number([1, 2, 3].into_iter()), Some(1));
        assert_eq!(choices.number([0].into_iter()), Some(0));
        let both = choices.number([0, 1, 3].into_iter()).unwrap();
        let two = choices.number([0, 2, 3, 4].into_iter()).unwrap();
        assert_eq!(choices.number([0, 2, 3].into_iter()), Some(two));
        let none = choices.number([0, 4].into_iter()).unwrap();
        for (number, rules) in [
            (1, vec![1]),
            (0, vec![0]),
            (both, vec![0, 1]),
            (two, vec![0, 2, 3]),
            (none, vec![0, 4]),
        ] {
            assert_eq!(choices.rules(number), rules);
        }
        assert_eq!(choices.reached(), [true, true, true, true, true]);
    }

    #[test]
    fn so_many_are_looked_at_for_a_name_and_the_one_for_everybody_in_any_case() {
        let most = MAX_CHOICES as usize - 1;
        let kinds = std::iter::repeat_n(OBSERVES, most + 3).chain([ANSWERS]);
        let mut choices = Choices::new(kinds);
        let number = choices.number(0..most + 4).unwrap();
        let rules: Vec<usize> = (0..most).chain([most + 3]).collect();
        assert_eq!(choices.rules(number), rules);
        assert!(!choices.reached()[most]);
    }

    #[test]
    fn a_guard_is_looked_at_however_many_rules_are_in_front() {
        let guard = Kind {
            is_guard: true,
            ..ASKS
        };
        let many = MAX_CHOICES as usize + 3;
        let kinds = std::iter::repeat_n(ASKS, many).chain([guard, ANSWERS]);
        let mut choices = Choices::new(kinds);
        let number = choices.number(0..many + 2).unwrap();
        let rules = choices.rules(number);
        assert_eq!(rules.len(), MAX_CHOICES as usize);
        assert_eq!(rules[rules.len() - 2..], [many, many + 1]);
    }
}
