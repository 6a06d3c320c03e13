//! What an answer depends on: the key under which it is kept, and its hash.

/// Most captures of a rule whose answers are kept here.
pub const MAX_CAPTURES: usize = 2;
/// Words of one captured label.
pub const CAPTURE_WORDS: usize = 8;

/// What an answer depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Key {
    /// qtype, and in the upper half the server's id.
    pub head: u64,
    /// The rule's id.
    pub rule: u64,
    /// Lengths of the captures, and in the upper half the client's id.
    pub lengths: u64,
    /// The captured labels in lower case, each from a word of its own on, zero behind their ends.
    pub captures: [u64; MAX_CAPTURES * CAPTURE_WORDS],
}

impl Key {
    pub const EMPTY: Key = Key {
        head: 0,
        rule: 0,
        lengths: 0,
        captures: [0; MAX_CAPTURES * CAPTURE_WORDS],
    };

    /// `None` for more or longer captures than a key has room for. A `qtype` of 0 means all of them.
    pub fn new(rule: u64, qtype: u16, server: u32, captures: &[&[u8]]) -> Option<Key> {
        if captures.len() > MAX_CAPTURES {
            return None;
        }
        let mut key = Key {
            head: head(qtype, server),
            rule,
            ..Key::EMPTY
        };
        for (index, label) in captures.iter().enumerate() {
            if label.is_empty() || label.len() >= CAPTURE_WORDS * 8 {
                return None;
            }
            key.lengths |= (label.len() as u64) << (8 * index);
            for (at, byte) in label.iter().enumerate() {
                key.captures[index * CAPTURE_WORDS + at / 8] |=
                    u64::from(byte | 0x20) << (8 * (at % 8));
            }
        }
        Some(key)
    }

    /// The same for another qtype.
    pub fn with_qtype(&self, qtype: u16) -> Key {
        Key {
            head: head(qtype, self.server()),
            ..*self
        }
    }

    /// The same for a client; 0 for all of them.
    pub fn of_client(&self, client: u32) -> Key {
        Key {
            lengths: self.lengths & u64::from(u32::MAX) | u64::from(client) << 32,
            ..*self
        }
    }

    pub fn qtype(&self) -> u16 {
        self.head as u16
    }

    /// See [`crate::abi::Servers`].
    pub fn server(&self) -> u32 {
        (self.head >> 32) as u32
    }

    /// 0 as long as answers do not depend on the client.
    pub fn client(&self) -> u32 {
        (self.lengths >> 32) as u32
    }

    /// The captured labels, lower-cased.
    pub fn labels(&self) -> impl Iterator<Item = ([u8; CAPTURE_WORDS * 8], usize)> {
        (0..MAX_CAPTURES).filter_map(|index| {
            let len = (self.lengths >> (8 * index)) as usize & 0xff;
            let mut label = [0; CAPTURE_WORDS * 8];
            for (at, byte) in label.iter_mut().take(len).enumerate() {
                *byte = (self.captures[index * CAPTURE_WORDS + at / 8] >> (8 * (at % 8))) as u8;
            }
            (len > 0).then_some((label, len))
        })
    }

    /// The hash that places it in an index.
    pub fn hash(&self, seed: u64) -> u64 {
        let mut hash = mix(mix(seed, self.rule), self.lengths);
        for index in 0..MAX_CAPTURES {
            let len = (self.lengths >> (8 * index)) as usize & 0xff;
            for word in &self.captures[index * CAPTURE_WORDS..][..len.div_ceil(8)] {
                hash = mix(hash, *word);
            }
        }
        mix(hash, self.head)
    }
}

#[inline(always)]
pub(crate) const fn head(qtype: u16, server: u32) -> u64 {
    qtype as u64 | (server as u64) << 32
}

/// Hashes a key with a random seed per program; a collision costs its key the place, never an answer
/// its right one, since entries carry their whole key.
#[inline(always)]
pub(crate) const fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// What a rule captures, in the form that the program reads: the number of captures, then for each how many labels stand
/// behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Captures {
    pub count: u8,
    pub behind: [u8; MAX_CAPTURES],
    /// 0 for a rule whose answers are never kept here, [`Captures::REFUSED`] for one that refuses.
    pub kept: u8,
}

impl Captures {
    /// The names of such a rule are the responder's to refuse: while there is one, they never pass.
    pub const REFUSED: u8 = 2;

    /// Of a rule whose answers are not kept here.
    pub const NEVER: Captures = Captures {
        count: 0,
        behind: [0; MAX_CAPTURES],
        kept: 0,
    };
}
