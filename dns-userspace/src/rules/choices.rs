//! What the matcher's result means: for a set of rules that match one name, those that observe it and the first that answers it.

use std::collections::HashMap;

use dns_common::{answer::RuleEntry, dfa::MAX_RULES, pipeline::MAX_OBSERVING};

use super::{Mode, Rule};

/// A number for each sequence of rules that a name can have: that of a rule by itself is the rule's index, others follow.
#[derive(Debug)]
pub struct Choices {
    modes: Vec<Mode>,
    /// For each rule that observes, its place among those; for others nothing.
    counters: Vec<Option<u16>>,
    /// Two or more rules each: some that observe, and the number for the rest.
    sequences: Vec<(u16, u32)>,
    numbers: HashMap<(u16, u32), u32>,
    reached: Vec<bool>,
}

impl Choices {
    pub fn new(modes: impl Iterator<Item = Mode>) -> Self {
        let modes: Vec<Mode> = modes.collect();
        let mut observing = 0;
        let counters = modes.iter().map(|mode| {
            (*mode == Mode::Observe).then(|| {
                observing += 1;
                observing - 1
            })
        });
        Self {
            counters: counters.collect(),
            reached: vec![false; modes.len()],
            modes,
            sequences: Vec::new(),
            numbers: HashMap::new(),
        }
    }

    /// For one rule that answers.
    pub fn one() -> Self {
        Self::new(std::iter::once(Mode::Answer))
    }

    /// The number for a name that these rules match, lowest first. `None` when there are too many such sets.
    pub fn number(&mut self, matching: impl Iterator<Item = usize>) -> Option<u32> {
        let mut rules = Vec::new();
        for rule in matching {
            let observes = self.modes.get(rule) == Some(&Mode::Observe);
            if observes && rules.len() == MAX_OBSERVING as usize {
                continue;
            }
            rules.push(rule);
            if !observes {
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

    /// The rule that answers under a number.
    pub fn answering(&self, number: u32) -> Option<usize> {
        let (_, last) = self.walk(number);
        last.filter(|&rule| self.modes.get(rule) == Some(&Mode::Answer))
    }

    /// The rules that observe under a number.
    pub fn observing(&self, number: u32) -> Vec<usize> {
        let (mut rules, last) = self.walk(number);
        rules.extend(last.filter(|&rule| self.modes.get(rule) == Some(&Mode::Observe)));
        rules
    }

    fn walk(&self, mut number: u32) -> (Vec<usize>, Option<usize>) {
        let mut rules = Vec::new();
        while let Some(at) = (number as usize).checked_sub(self.modes.len()) {
            let Some(&(first, rest)) = self.sequences.get(at) else {
                return (rules, None);
            };
            rules.push(usize::from(first));
            number = rest;
        }
        (rules, Some(number as usize))
    }

    /// How many numbers there are.
    pub fn count(&self) -> usize {
        self.modes.len() + self.sequences.len()
    }

    /// What a program has under each number.
    pub fn entries(&self, rules: &[Rule]) -> Vec<RuleEntry> {
        let observe = |rule: usize, next: u16| RuleEntry {
            id: rules[rule].id(),
            observed: self.counters[rule].map_or(0, |counter| counter + 1),
            next,
            ..RuleEntry::default()
        };
        let alone = (0..rules.len()).map(|rule| match self.modes[rule] {
            Mode::Answer => rules[rule].entry(),
            Mode::Observe => observe(rule, 0),
        });
        let sequences = self.sequences.iter();
        alone
            .chain(sequences.map(|&(first, rest)| observe(first.into(), rest as u16 + 1)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_stands_for_those_that_observe_and_the_first_that_answers() {
        use Mode::{Answer, Observe};
        let mut choices = Choices::new([Observe, Answer, Observe, Answer, Observe].into_iter());
        assert_eq!(choices.number([1, 2, 3].into_iter()), Some(1));
        assert_eq!(choices.number([0].into_iter()), Some(0));
        let both = choices.number([0, 1, 3].into_iter()).unwrap();
        let two = choices.number([0, 2, 3, 4].into_iter()).unwrap();
        assert_eq!(choices.number([0, 2, 3].into_iter()), Some(two));
        let none = choices.number([0, 4].into_iter()).unwrap();
        for (number, observing, answering) in [
            (1, vec![], Some(1)),
            (0, vec![0], None),
            (both, vec![0], Some(1)),
            (two, vec![0, 2], Some(3)),
            (none, vec![0, 4], None),
        ] {
            assert_eq!(choices.observing(number), observing);
            assert_eq!(choices.answering(number), answering);
        }
        assert_eq!(choices.reached(), [true, true, true, true, true]);
    }

    #[test]
    fn a_name_is_counted_for_so_many_rules_and_answered_in_any_case() {
        let most = MAX_OBSERVING as usize;
        let modes = std::iter::repeat_n(Mode::Observe, most + 3).chain([Mode::Answer]);
        let mut choices = Choices::new(modes);
        let number = choices.number(0..most + 4).unwrap();
        assert_eq!(choices.observing(number).len(), most);
        assert_eq!(choices.answering(number), Some(most + 3));
        assert!(!choices.reached()[most]);
    }
}
