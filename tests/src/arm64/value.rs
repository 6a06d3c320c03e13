//! What is known of the contents of a register or a place on the stack.

use std::collections::BTreeSet;

/// A set of small numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bits(Vec<u64>);

impl Bits {
    pub fn of(number: usize) -> Self {
        let mut bits = Self::default();
        bits.insert(number);
        bits
    }

    pub fn insert(&mut self, number: usize) {
        if self.0.len() <= number / 64 {
            self.0.resize(number / 64 + 1, 0);
        }
        self.0[number / 64] |= 1 << (number % 64);
    }

    pub fn contains(&self, number: usize) -> bool {
        self.0
            .get(number / 64)
            .is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    pub fn remove(&mut self, other: &Bits) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word &= !other;
        }
        self.trim();
    }

    pub fn add(&mut self, other: &Bits) {
        if self.0.len() < other.0.len() {
            self.0.resize(other.0.len(), 0);
        }
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }

    pub fn keep(&mut self, other: &Bits) {
        for (index, word) in self.0.iter_mut().enumerate() {
            *word &= other.0.get(index).copied().unwrap_or(0);
        }
        self.trim();
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    pub fn iter(&self) -> impl Iterator<Item = usize> {
        (0..self.0.len() * 64).filter(|number| self.contains(*number))
    }

    /// Equal sets are equal vectors.
    fn trim(&mut self) {
        while self.0.last() == Some(&0) {
            self.0.pop();
        }
    }
}

/// Which value it is: two places with the same one hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Identity {
    /// What a register has where the function begins.
    Entry(u8),
    /// Made by an instruction; one may make two.
    Made(usize, u8),
    /// Either of several where ways meet, before an instruction: by place.
    Met(usize, Place),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    Register(u8),
    /// A place in memory, by number.
    Memory(usize),
}

/// What an address was made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Root {
    /// An address of the kernel that is in the code: a map's values.
    Kernel(u64),
    /// What a function returned.
    Returned(usize),
    /// The stack pointer.
    Stack,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    pub identity: Identity,
    pub constant: Option<u64>,
    /// Zeros that were made from something (see [`super::order`]) and that it depends on, by number, on every way.
    pub zeros: Bits,
    /// It is what was loaded from an address that depends on these zeros.
    pub via: Bits,
    /// As an address, what it may have been made from.
    pub roots: BTreeSet<Root>,
    /// Loads that it may be the unchanged result of.
    pub origins: BTreeSet<usize>,
    /// It is this zero itself.
    pub zero: Option<usize>,
    /// It is the sum of another value and a zero: that value, which waits for more.
    pub handed: Option<(Identity, usize)>,
    /// Data that were loaded and that it does not depend on: see [`super::flow`].
    pub missing: Bits,
}

impl Value {
    /// Nothing is known; it depends on none of the data that were loaded.
    pub fn unknown(identity: Identity, loaded: &Bits) -> Self {
        Self {
            identity,
            constant: None,
            zeros: Bits::default(),
            via: Bits::default(),
            roots: BTreeSet::new(),
            origins: BTreeSet::new(),
            zero: None,
            handed: None,
            missing: loaded.clone(),
        }
    }

    pub fn constant(identity: Identity, value: u64, loaded: &Bits) -> Self {
        let mut made = Self::unknown(identity, loaded);
        made.constant = Some(value);
        // Kernels with addresses of 52 bits begin at 0xfff0…; what begins with 32 ones is a negative number.
        if value >> 52 == 0xfff && value >> 32 != 0xffff_ffff {
            made.roots.insert(Root::Kernel(value));
        }
        made
    }

    /// Made from others by arithmetic.
    pub fn combined(identity: Identity, of: &[&Value], loaded: &Bits) -> Self {
        let mut made = Self::unknown(identity, loaded);
        for value in of {
            made.zeros.add(&value.zeros);
            made.roots.extend(&value.roots);
            made.missing.keep(&value.missing);
        }
        made
    }

    /// Either this or another, where ways meet.
    pub fn meet(&mut self, other: &Value, identity: Identity) {
        if self.identity != other.identity {
            self.identity = identity;
        }
        if self.constant != other.constant {
            self.constant = None;
        }
        if self.zero != other.zero {
            self.zero = None;
        }
        if self.handed != other.handed {
            self.handed = None;
        }
        self.zeros.keep(&other.zeros);
        self.via.keep(&other.via);
        self.roots.extend(&other.roots);
        self.origins.extend(&other.origins);
        self.missing.add(&other.missing);
    }
}
