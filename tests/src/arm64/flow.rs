//! What is known of registers and memory before and after an instruction.
//!
//! A value that was made from a register by `x & 0` or `x - x` is a *zero*: it says nothing, but what is made from it
//! waits for that register. A load whose address was made from a zero is *ordered*. Of each value it is known which
//! ordered loads it does not depend on, so that a witness can be asked whether it has them all.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    decode::{Address, Combine, Instruction, SP, ZERO},
    value::{Bits, Identity, Place, Root, Value},
};

/// Numbers for what is met during the analysis: zeros, ordered loads and places in memory.
#[derive(Debug)]
pub struct Numbers<K> {
    of: BTreeMap<K, usize>,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self {
            of: BTreeMap::new(),
        }
    }
}

impl<K: Ord + Copy> Numbers<K> {
    pub fn number(&mut self, key: K) -> usize {
        let next = self.of.len();
        *self.of.entry(key).or_insert(next)
    }

    pub fn key(&self, number: usize) -> Option<K> {
        self.of
            .iter()
            .find_map(|(key, value)| (*value == number).then_some(*key))
    }
}

/// Shared by all states of one analysis.
#[derive(Debug, Default)]
pub struct Names {
    pub zeros: Numbers<usize>,
    pub loads: Numbers<usize>,
    memory: Numbers<(Identity, i64)>,
}

/// A zero when it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zero {
    /// What it was made from.
    pub input: Value,
    /// The ordered loads before it.
    loaded: Bits,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    registers: Vec<Value>,
    memory: BTreeMap<usize, Value>,
    /// Ordered loads so far, each twice: 2n for the last time that load n was executed, 2n + 1 for the times before.
    loaded: Bits,
    zeros: BTreeMap<usize, Zero>,
    /// Zeros whose register was compared with what it should still be.
    closed: BTreeSet<usize>,
}

/// What an instruction did that matters for the order of loads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Loaded {
        zeros: Bits,
        roots: BTreeSet<Root>,
        /// After the last look at the sequence number of every zero that it waits for.
        is_late: bool,
    },
    /// A zero, and the loads that may have brought what it was made from.
    Zeroed {
        zero: usize,
        origins: BTreeSet<usize>,
    },
    /// What was loaded by way of the zero `last` was compared with what the zero `first` was made from, or that together
    /// with the zero `last` was stored for another stage, whose loads then wait for all that this one has loaded.
    Closed {
        first: usize,
        last: usize,
        /// Twice the number of each load that `last` does not wait for, or that plus one.
        missing: Bits,
    },
}

impl State {
    /// Where a function begins.
    pub fn entry() -> Self {
        let none = Bits::default();
        let mut registers: Vec<Value> = (0..=SP)
            .map(|number| Value::unknown(Identity::Entry(number), &none))
            .collect();
        registers[usize::from(SP)].roots.insert(Root::Stack);
        registers.push(Value::constant(Identity::Entry(ZERO), 0, &none));
        Self {
            registers,
            memory: BTreeMap::new(),
            loaded: none,
            zeros: BTreeMap::new(),
            closed: BTreeSet::new(),
        }
    }

    /// Either this or another, before the instruction `at`; whether that says less than before.
    pub fn meet(&mut self, other: &State, at: usize) -> bool {
        let before = self.clone();
        // What one way has not loaded is not missing there.
        for (number, (own, others)) in self.registers.iter_mut().zip(&other.registers).enumerate() {
            own.meet(others, Identity::Met(at, Place::Register(number as u8)));
        }
        self.memory.retain(|place, own| {
            let others = other.memory.get(place);
            if let Some(others) = others {
                own.meet(others, Identity::Met(at, Place::Memory(*place)));
            }
            others.is_some()
        });
        self.loaded.add(&other.loaded);
        for (number, zero) in &other.zeros {
            match self.zeros.get_mut(number) {
                Some(own) => {
                    own.input
                        .meet(&zero.input, Identity::Met(at, Place::Memory(*number)));
                    own.loaded.add(&zero.loaded);
                }
                None => {
                    self.zeros.insert(*number, zero.clone());
                }
            }
        }
        self.closed.extend(&other.closed);
        *self != before
    }

    fn get(&self, register: u8) -> &Value {
        &self.registers[usize::from(register)]
    }

    fn set(&mut self, register: u8, value: Value) {
        if register != ZERO {
            self.registers[usize::from(register)] = value;
        }
    }

    fn forget(&mut self, register: u8, at: usize) {
        let unknown = Value::unknown(Identity::Made(at, register), &self.loaded);
        self.set(register, unknown);
    }

    /// Executes the instruction `at`.
    pub fn execute(
        &mut self,
        at: usize,
        instruction: &Instruction,
        names: &mut Names,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        match *instruction {
            Instruction::Nothing
            | Instruction::CompareNumber
            | Instruction::Jump { .. }
            | Instruction::Branch { .. }
            | Instruction::End => {}
            Instruction::Constant { to, value } => {
                let value = Value::constant(Identity::Made(at, to), value, &self.loaded);
                self.set(to, value);
            }
            Instruction::Insert { to, value, shift } => {
                let made = match self.get(to).constant {
                    Some(constant) => {
                        let value = constant & !(0xffff << shift) | value;
                        Value::constant(Identity::Made(at, to), value, &self.loaded)
                    }
                    None => self.combine(Identity::Made(at, to), &[to]),
                };
                self.set(to, made);
            }
            Instruction::Copy { to, from } => {
                let value = self.get(from).clone();
                self.set(to, value);
            }
            Instruction::Change { to, from, add } => {
                let mut made = self.combine(Identity::Made(at, to), &[from]);
                if let (Some(constant), Some(add)) = (self.get(from).constant, add) {
                    made.constant = Some(constant.wrapping_add_signed(add));
                }
                self.set(to, made);
            }
            Instruction::Both { to, from, how } => {
                let made = match self.zeroed(from, how) {
                    Some(input) => self.zero(at, to, input, names, &mut events),
                    None => {
                        let mut made = self.combine(Identity::Made(at, to), &from);
                        if how == Combine::Add {
                            made.handed = self.handed(from);
                        }
                        made
                    }
                };
                self.set(to, made);
            }
            Instruction::Three { to, from } => {
                let made = self.combine(Identity::Made(at, to), &from);
                self.set(to, made);
            }
            Instruction::Load { to, bytes, address } => {
                self.load(at, to, bytes, &address, 0, names, &mut events);
                self.write_back(at, &address);
            }
            Instruction::LoadPair { to, address } => {
                for (index, to) in to.into_iter().enumerate() {
                    self.load(at, to, 8, &address, 8 * index as i64, names, &mut events);
                }
                self.write_back(at, &address);
            }
            Instruction::Store {
                from,
                bytes,
                address,
            } => {
                self.store(from, bytes, &address, 0, names, &mut events);
                self.write_back(at, &address);
            }
            Instruction::StorePair { from, address } => {
                for (index, from) in from.into_iter().enumerate() {
                    self.store(from, 8, &address, 8 * index as i64, names, &mut events);
                }
                self.write_back(at, &address);
            }
            Instruction::Atomic { to, .. } | Instruction::System { to } => self.forget(to, at),
            Instruction::Compare {
                of: [one, other],
                is_wide,
            } => {
                if is_wide {
                    self.compare(one, other, &mut events);
                    self.compare(other, one, &mut events);
                }
            }
            Instruction::Call => {
                // The callee's to use, and the link register.
                for register in (0..=18).chain([30]) {
                    self.forget(register, at);
                }
                self.registers[0].roots.insert(Root::Returned(at));
            }
        }
        events
    }

    fn combine(&self, identity: Identity, of: &[u8]) -> Value {
        let of: Vec<&Value> = of
            .iter()
            .map(|register| self.get(*register))
            .filter(|value| value.constant.is_none() || !value.roots.is_empty())
            .collect();
        Value::combined(identity, &of, &self.loaded)
    }

    /// What the zero is made from, if this makes one.
    fn zeroed(&self, from: [u8; 2], how: Combine) -> Option<Value> {
        let [one, other] = from.map(|register| self.get(register));
        match how {
            Combine::Differ if from[0] == from[1] && from[0] != ZERO => Some(one.clone()),
            Combine::And if other.constant == Some(0) && one.constant.is_none() => {
                Some(one.clone())
            }
            Combine::And if one.constant == Some(0) && other.constant.is_none() => {
                Some(other.clone())
            }
            _ => None,
        }
    }

    /// What the sum of a value and a zero is.
    fn handed(&self, from: [u8; 2]) -> Option<(Identity, usize)> {
        let [one, other] = from.map(|register| self.get(register));
        match (one.zero, other.zero) {
            (None, Some(zero)) => Some((one.identity, zero)),
            (Some(zero), None) => Some((other.identity, zero)),
            _ => None,
        }
    }

    fn zero(
        &mut self,
        at: usize,
        to: u8,
        input: Value,
        names: &mut Names,
        events: &mut Vec<Event>,
    ) -> Value {
        let number = names.zeros.number(at);
        let mut made = Value::unknown(Identity::Made(at, to), &self.loaded);
        made.zeros = input.zeros.clone();
        made.zeros.insert(number);
        made.missing = input.missing.clone();
        made.zero = Some(number);
        events.push(Event::Zeroed {
            zero: number,
            origins: input.origins.clone(),
        });
        self.closed.remove(&number);
        self.zeros.insert(
            number,
            Zero {
                input,
                loaded: self.loaded.clone(),
            },
        );
        made
    }

    fn place(&self, address: &Address, add: i64, names: &mut Names) -> Option<usize> {
        let index = match address.index {
            Some(index) => self.get(index).constant? as i64,
            None => 0,
        };
        let base = self.get(address.base).identity;
        let offset = address.offset.wrapping_add(index).wrapping_add(add);
        Some(names.memory.number((base, offset)))
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of one instruction")]
    fn load(
        &mut self,
        at: usize,
        to: u8,
        bytes: u8,
        address: &Address,
        add: i64,
        names: &mut Names,
        events: &mut Vec<Event>,
    ) {
        let registers: Vec<u8> = [address.base].into_iter().chain(address.index).collect();
        let whence = self.combine(Identity::Entry(ZERO), &registers);
        let is_ordered = !whence.zeros.is_empty();
        let known = if is_ordered || bytes != 8 {
            None
        } else {
            let place = self.place(address, add, names);
            place.and_then(|place| self.memory.get(&place))
        };
        let loaded = match known {
            Some(stored) => stored.clone(),
            None => {
                if is_ordered {
                    let number = names.loads.number(at);
                    self.pass(number);
                }
                let mut loaded = Value::unknown(Identity::Made(at, to), &self.loaded);
                if is_ordered {
                    loaded.missing.remove(&Bits::of(2 * names.loads.number(at)));
                }
                loaded.via = whence.zeros.clone();
                loaded.origins.insert(at);
                loaded
            }
        };
        events.push(Event::Loaded {
            is_late: is_ordered && whence.zeros.iter().all(|zero| self.closed.contains(&zero)),
            zeros: whence.zeros,
            roots: whence.roots,
        });
        self.set(to, loaded);
    }

    /// An ordered load is executed: no value depends on it yet, and those that did not depend on what it brought the last
    /// time never will.
    fn pass(&mut self, number: usize) {
        let (last, before) = (2 * number, 2 * number + 1);
        if self.loaded.contains(last) {
            self.loaded.insert(before);
        }
        self.loaded.insert(last);
        let values = self.registers.iter_mut().chain(self.memory.values_mut());
        for value in values {
            if value.missing.contains(last) {
                value.missing.insert(before);
            }
            value.missing.insert(last);
        }
    }

    fn store(
        &mut self,
        from: u8,
        bytes: u8,
        address: &Address,
        add: i64,
        names: &mut Names,
        events: &mut Vec<Event>,
    ) {
        if bytes == 8 && !self.get(address.base).roots.contains(&Root::Stack) {
            self.hand_over(from, events);
        }
        let Some(place) = self.place(address, add, names) else {
            return;
        };
        if bytes == 8 {
            let value = self.get(from).clone();
            self.memory.insert(place, value);
        } else {
            self.memory.remove(&place);
        }
    }

    /// A first look is stored for another stage: with a zero that makes it wait for what was loaded since.
    fn hand_over(&self, from: u8, events: &mut Vec<Event>) {
        let Some((whole, last)) = self.get(from).handed else {
            return;
        };
        let Some(closing) = self.zeros.get(&last) else {
            return;
        };
        for (number, opening) in &self.zeros {
            if *number != last && opening.input.identity == whole {
                events.push(Event::Closed {
                    first: *number,
                    last,
                    missing: closing.input.missing.clone(),
                });
            }
        }
    }

    fn write_back(&mut self, at: usize, address: &Address) {
        if address.writes_back {
            let made = self.combine(Identity::Made(at, address.base), &[address.base]);
            self.set(address.base, made);
        }
    }

    /// Whether `again` was loaded by way of a zero, and `first` is what another zero was made from.
    fn compare(&mut self, again: u8, first: u8, events: &mut Vec<Event>) {
        let first = self.get(first).identity;
        let mut done = Bits::default();
        for last in self.get(again).via.clone().iter() {
            let Some(closing) = self.zeros.get(&last) else {
                continue;
            };
            if closing.input.identity == first {
                // By way of a first look, too.
                continue;
            }
            let missing = closing.input.missing.clone();
            let mut had = closing.loaded.clone();
            had.remove(&missing);
            for (number, opening) in &self.zeros {
                if *number != last && opening.input.identity == first {
                    self.closed.insert(*number);
                    done.add(&had);
                    events.push(Event::Closed {
                        first: *number,
                        last,
                        missing: missing.clone(),
                    });
                }
            }
        }
        // They are before the second look, and so before everything that waits for that.
        self.loaded.remove(&done);
        let values = self.registers.iter_mut().chain(self.memory.values_mut());
        for value in values {
            value.missing.remove(&done);
        }
    }
}
