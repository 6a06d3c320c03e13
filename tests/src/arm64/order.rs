//! Whether a reader of an entry keeps its loads in order on a machine that may do any load early.
//!
//! A reader looks at the sequence number, loads data, looks at the number again and compares. Two orders must hold: the
//! data wait for the first look, and the second look waits for all the data. Branches order no loads on arm64, but the
//! register that an address is made from does, even if what it adds is zero: see tests/litmus. So in the code there must be
//!
//! - a zero made from the number, from which the address of every load of the entry is made;
//! - a zero made from a witness into which all that was loaded went, from which the address of the second look is made;
//! - a comparison of what the second look brought with the number that the first zero was made from.
//!
//! A reader in several stages, which pass the number on in memory, has the last two in its last stage. Each stage before
//! adds a zero made from its witness to the number that it stores, so that the next one waits for it.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
};

use super::{
    decode::{Instruction, decode},
    flow::{Event, Names, State},
    value::{Bits, Root},
};

/// Instructions by their places in the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reader {
    /// Where the zero for the data is made.
    pub first: usize,
    /// Where the zero for the second look is made, or for the number that the next stage gets.
    pub last: usize,
    /// Loads that wait for the first look.
    pub loads: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A load of an entry does not wait for its sequence number.
    Early { load: usize },
    /// A second look does not wait for what this load brings.
    Unwitnessed { load: usize, last: usize },
    /// A load after the last look.
    Late { load: usize },
    /// A zero that belongs to no reader: there is no comparison for it.
    Unmatched { zero: usize },
    /// A first look that no load waits for.
    Empty { first: usize },
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub readers: BTreeSet<Reader>,
    pub faults: BTreeSet<Fault>,
}

/// An instruction that is not known, or a jump out of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub at: usize,
    pub word: u32,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "instruction {}, {:#010x}, is not understood",
            self.at, self.word
        )
    }
}

impl std::error::Error for Unreadable {}

/// Goes through one function.
pub fn check(words: &[u32]) -> Result<Report, Unreadable> {
    let mut analysis = Analysis {
        words,
        names: Names::default(),
        states: BTreeMap::new(),
    };
    analysis.settle()?;
    analysis.report()
}

struct Analysis<'a> {
    words: &'a [u32],
    names: Names,
    /// Before the first instruction of each stretch that is entered from somewhere else.
    states: BTreeMap<usize, State>,
}

/// Where control goes after an instruction.
enum Next {
    On,
    To(usize),
    Either(usize),
    Nowhere,
}

impl Analysis<'_> {
    fn instruction(&self, at: usize) -> Result<Instruction, Unreadable> {
        let word = self.words.get(at).copied().unwrap_or(0);
        decode(word).ok_or(Unreadable { at, word })
    }

    fn next(&self, at: usize, instruction: &Instruction) -> Result<Next, Unreadable> {
        let target = |by: i64| {
            usize::try_from(at as i64 + by)
                .ok()
                .filter(|target| *target < self.words.len())
                .ok_or(Unreadable {
                    at,
                    word: self.words[at],
                })
        };
        Ok(match instruction {
            Instruction::Jump { by } => Next::To(target(*by)?),
            Instruction::Branch { by } => Next::Either(target(*by)?),
            Instruction::End => Next::Nowhere,
            _ => Next::On,
        })
    }

    /// Executes from an entered place up to the next one, and hands every event to `see`.
    fn stretch(
        &mut self,
        from: usize,
        entered: &BTreeSet<usize>,
        mut see: impl FnMut(usize, Event),
    ) -> Result<Vec<(usize, State)>, Unreadable> {
        let mut state = self.states[&from].clone();
        let mut at = from;
        loop {
            let instruction = self.instruction(at)?;
            for event in state.execute(at, &instruction, &mut self.names) {
                see(at, event);
            }
            match self.next(at, &instruction)? {
                Next::On if entered.contains(&(at + 1)) => return Ok(vec![(at + 1, state)]),
                Next::On => at += 1,
                Next::To(target) => return Ok(vec![(target, state)]),
                Next::Either(target) => return Ok(vec![(target, state.clone()), (at + 1, state)]),
                Next::Nowhere => return Ok(Vec::new()),
            }
        }
    }

    /// Places that control comes to from elsewhere than the instruction before.
    fn entered(&self) -> Result<BTreeSet<usize>, Unreadable> {
        let mut entered = BTreeSet::from([0]);
        let mut seen = BTreeSet::new();
        let mut left = vec![0];
        while let Some(at) = left.pop() {
            if !seen.insert(at) {
                continue;
            }
            match self.next(at, &self.instruction(at)?)? {
                Next::On => left.push(at + 1),
                Next::To(target) => {
                    entered.insert(target);
                    left.push(target);
                }
                Next::Either(target) => {
                    entered.extend([target, at + 1]);
                    left.extend([target, at + 1]);
                }
                Next::Nowhere => {}
            }
        }
        Ok(entered)
    }

    fn settle(&mut self) -> Result<(), Unreadable> {
        let entered = self.entered()?;
        self.states.insert(0, State::entry());
        let mut left = VecDeque::from([0]);
        while let Some(from) = left.pop_front() {
            for (target, state) in self.stretch(from, &entered, |_, _| {})? {
                let is_news = match self.states.get_mut(&target) {
                    Some(known) => known.meet(&state, target),
                    None => {
                        self.states.insert(target, state);
                        true
                    }
                };
                if is_news && !left.contains(&target) {
                    left.push_back(target);
                }
            }
        }
        Ok(())
    }

    fn report(&mut self) -> Result<Report, Unreadable> {
        let entered: BTreeSet<usize> = self.states.keys().copied().collect();
        let mut loads: BTreeMap<usize, (Bits, BTreeSet<Root>)> = BTreeMap::new();
        let mut origins: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
        let mut closings: Vec<(usize, usize, Bits)> = Vec::new();
        let mut report = Report::default();
        for from in &entered {
            self.stretch(*from, &entered, |at, event| match event {
                Event::Loaded {
                    zeros,
                    roots,
                    is_late,
                } => {
                    if is_late {
                        report.faults.insert(Fault::Late { load: at });
                    }
                    loads.insert(at, (zeros, roots));
                }
                Event::Zeroed {
                    zero,
                    origins: whence,
                } => origins.entry(zero).or_default().extend(whence),
                Event::Closed {
                    first,
                    last,
                    missing,
                } => closings.push((first, last, missing)),
            })?;
        }

        let firsts: BTreeSet<usize> = closings.iter().map(|(first, ..)| *first).collect();
        let lasts: BTreeSet<usize> = closings.iter().map(|(_, last, _)| *last).collect();
        let place = |zero: usize| self.names.zeros.key(zero).unwrap_or(usize::MAX);
        let waits_for = |load: usize, first: usize| {
            loads
                .get(&load)
                .is_some_and(|(zeros, _)| zeros.contains(first))
        };
        for (first, last, missing) in &closings {
            let ordered = loads
                .keys()
                .filter(|load| waits_for(**load, *first))
                .count();
            report.readers.insert(Reader {
                first: place(*first),
                last: place(*last),
                loads: ordered,
            });
            if ordered == 0 {
                report.faults.insert(Fault::Empty {
                    first: place(*first),
                });
            }
            for number in missing.iter() {
                if let Some(load) = self.names.loads.key(number / 2)
                    && waits_for(load, *first)
                {
                    report.faults.insert(Fault::Unwitnessed {
                        load,
                        last: place(*last),
                    });
                }
            }
        }
        for zero in origins.keys() {
            if !firsts.contains(zero) && !lasts.contains(zero) {
                report
                    .faults
                    .insert(Fault::Unmatched { zero: place(*zero) });
            }
        }
        let first_looks: BTreeSet<usize> = firsts
            .iter()
            .filter_map(|first| origins.get(first))
            .flatten()
            .copied()
            .collect();
        let entries: BTreeSet<Root> = loads
            .values()
            .filter(|(zeros, _)| !zeros.is_empty())
            .flat_map(|(_, roots)| roots.iter().copied())
            .collect();
        for (load, (zeros, roots)) in &loads {
            if zeros.is_empty() && !roots.is_disjoint(&entries) && !first_looks.contains(load) {
                report.faults.insert(Fault::Early { load: *load });
            }
        }
        Ok(report)
    }
}
