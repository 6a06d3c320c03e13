//! Who asks: the layout of the table of clients by interface, and the one way to read it.
//!
//! Userspace writes an entry whole before the index names it, and another one in its place where anything of it changes, so a
//! reader finds the one or the other. Each entry has its interface and a sequence number: a reader that was led to it by an
//! index of before sees that it is for another one.

use crate::{
    key::{CAPTURE_WORDS, Captures, MAX_CAPTURES},
    scratch::Scratch,
    seqlock::{Reader, SEQUENCE},
    verifier,
    ways::{Ways, slot_of},
    word::Word,
};

/// Buckets of the index of clients; a power of two.
pub const CLIENT_BUCKETS: u32 = 1024;
/// Entries of the table of clients. One stays for its readers a while when another one takes its place.
pub const CLIENT_SLOTS: u32 = 2048;
/// Most addresses that a client asks from.
pub const CLIENT_ADDRESSES: usize = 4;
/// Words of an entry.
pub const CLIENT_WORDS: usize = 24;

const IFINDEX: usize = SEQUENCE + 1;
/// Id of the client, and in the upper half the length of its namespace.
const ID: usize = IFINDEX + 1;
const ADDRESSES: usize = ID + 1;
const NAMESPACE: usize = ADDRESSES + 2 * CLIENT_ADDRESSES;
/// For userspace alone.
const DIGEST: usize = NAMESPACE + CAPTURE_WORDS;

const _: () = assert!(DIGEST + DIGEST_WORDS <= CLIENT_WORDS);

/// Words of a digest of everything that a client is known by.
pub const DIGEST_WORDS: usize = 4;

/// The client behind an interface.
pub type Client = [Word; CLIENT_WORDS];

/// The key of a client that a rule is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(C)]
pub struct Permit {
    /// Id of the rule.
    pub rule: u64,
    /// Id of the client.
    pub client: u32,
    #[doc(hidden)]
    pub padding: u32,
}

impl Permit {
    pub const fn new(rule: u64, client: u32) -> Self {
        Self {
            rule,
            client,
            padding: 0,
        }
    }
}

/// The tables of clients. The program for XDP, and most tests, have none.
pub trait Clients {
    fn client_ways(&self, _bucket: u32) -> Option<&Ways> {
        None
    }

    fn client(&self, _slot: u32) -> Option<&Client> {
        None
    }

    /// Whether a rule that asks for permits is for this client.
    fn permits(&self, _permit: &Permit) -> bool {
        false
    }
}

/// What is known of who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Who {
    /// Nobody is known behind the interface.
    Unknown = 0,
    /// A client, whose id is in the scratch.
    Known = 1,
    /// Somebody who asks from another address than the client's.
    Impostor = 2,
}

impl Who {
    #[inline(always)]
    pub const fn from_code(code: u32) -> Who {
        match code {
            1 => Who::Known,
            2 => Who::Impostor,
            _ => Who::Unknown,
        }
    }
}

/// The bucket of an interface.
#[inline(always)]
pub const fn client_bucket(ifindex: u32) -> u32 {
    ifindex % CLIENT_BUCKETS
}

/// What a way of the index holds for an interface, but for the slot.
#[inline(always)]
pub const fn client_hash(ifindex: u32) -> u64 {
    (ifindex as u64) << 32
}

/// Looks for who asks, by the interface and the source address in the scratch.
#[inline(always)]
pub fn identify<T: Clients + ?Sized>(tables: &T, scratch: &mut Scratch) -> Who {
    scratch.asked.identified = 0;
    let ifindex = scratch.asked.ifindex;
    let source = scratch.asked.source;
    let Some(slot) = tables
        .client_ways(client_bucket(ifindex))
        .and_then(|ways| slot_of(ways, client_hash(ifindex)))
    else {
        return Who::Unknown;
    };
    let Some(entry) = tables.client(slot) else {
        return Who::Unknown;
    };
    let sequence = entry[SEQUENCE].load();
    let mut entry = Reader::after(entry, sequence);
    let id = entry.word(ID) as u32;
    let is_ours = entry.word(IFINDEX) == u64::from(ifindex);
    let mut who = Who::Impostor;
    let mut index = 0;
    while index < CLIENT_ADDRESSES {
        let place = ADDRESSES + 2 * index;
        if entry.word(place + 1) == source[1] && entry.word(place) == source[0] {
            who = Who::Known;
            break;
        }
        index += 1;
    }
    if sequence & 1 != 0 || id == 0 || !is_ours || entry.last(SEQUENCE) != sequence {
        return Who::Unknown;
    }
    if who == Who::Impostor {
        return who;
    }
    scratch.asked.identified = id;
    scratch.asked.client_slot = slot;
    scratch.asked.client_sequence = sequence;
    Who::Known
}

/// Whether the capture with place `own` less one in the name, whose labels were split, is the namespace of the client that
/// [`identify`] has found.
#[inline(always)]
pub(crate) fn is_own_namespace<T: Clients + ?Sized>(
    tables: &T,
    scratch: &mut Scratch,
    captures: Captures,
    own: u8,
) -> bool {
    const LAST: u32 = MAX_CAPTURES as u32 - 1;
    let place = verifier::index::<LAST>(u32::from(own).wrapping_sub(1));
    // SAFETY: masked to the length of the array.
    let behind = unsafe { *captures.behind.as_ptr().add(place) };
    let (at, len) = scratch.label_behind(behind);
    let Some(entry) = tables.client(scratch.asked.client_slot) else {
        return false;
    };
    let sequence = scratch.asked.client_sequence;
    let mut entry = Reader::after(entry, sequence);
    if entry.word(ID) >> 32 != u64::from(len) {
        return false;
    }
    let mut index = 0u32;
    scratch.set_rounds(len.div_ceil(8));
    while index < CAPTURE_WORDS as u32 && index < scratch.rounds() {
        let left = len - index * 8;
        let mut word = scratch.word(at + index * 8) | 0x2020_2020_2020_2020;
        if left < 8 {
            word &= (1u64 << (8 * left)) - 1;
        }
        if entry.word(NAMESPACE + index as usize) != word {
            return false;
        }
        index += 1;
    }
    entry.last(SEQUENCE) == sequence
}

/// What is known of a client, as its entry has it.
#[cfg(not(target_arch = "bpf"))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    pub ifindex: u32,
    /// Never 0.
    pub id: u32,
    /// As IPv6 (RFC 4291 §2.5.5.2), in network byte order: at least one, at most [`CLIENT_ADDRESSES`].
    pub addresses: alloc::vec::Vec<[u64; 2]>,
    /// An RFC 1123 label in lower case.
    pub namespace: alloc::string::String,
    pub digest: [u64; DIGEST_WORDS],
}

#[cfg(not(target_arch = "bpf"))]
impl ClientRecord {
    /// Overwrites an entry that no index names. There must be one writer at a time.
    pub fn write(&self, entry: &Client) {
        let mut words = [0; CLIENT_WORDS];
        words[IFINDEX] = self.ifindex.into();
        words[ID] = u64::from(self.id) | (self.namespace.len() as u64) << 32;
        // What is not in use repeats the first one: no address stands for none.
        for index in 0..CLIENT_ADDRESSES {
            let address = self.addresses.get(index).or(self.addresses.first());
            if let Some([high, low]) = address {
                words[ADDRESSES + 2 * index] = *high;
                words[ADDRESSES + 2 * index + 1] = *low;
            }
        }
        for (at, byte) in self.namespace.bytes().take(8 * CAPTURE_WORDS).enumerate() {
            words[NAMESPACE + at / 8] |= u64::from(byte | 0x20) << (8 * (at % 8));
        }
        words[DIGEST..][..DIGEST_WORDS].copy_from_slice(&self.digest);
        crate::seqlock::change(entry, || {
            for (place, word) in entry.iter().zip(words).skip(SEQUENCE + 1) {
                place.store(word);
            }
        });
    }

    /// The inverse; `None` for an entry that is in nobody's use. Only for the one writer.
    pub fn read(entry: &Client) -> Option<Self> {
        let word = |at: usize| entry[at].load();
        let (id, len) = (word(ID) as u32, (word(ID) >> 32) as usize);
        let ifindex = u32::try_from(word(IFINDEX)).ok()?;
        if word(SEQUENCE) & 1 != 0 || id == 0 || ifindex == 0 || len >= 8 * CAPTURE_WORDS {
            return None;
        }
        let mut addresses: alloc::vec::Vec<[u64; 2]> = (0..CLIENT_ADDRESSES)
            .map(|index| [word(ADDRESSES + 2 * index), word(ADDRESSES + 2 * index + 1)])
            .collect();
        while addresses.len() > 1 && addresses.last() == addresses.first() {
            addresses.pop();
        }
        let namespace = (0..len)
            .map(|at| char::from((word(NAMESPACE + at / 8) >> (8 * (at % 8))) as u8))
            .collect();
        Some(Self {
            ifindex,
            id,
            addresses,
            namespace,
            digest: core::array::from_fn(|index| word(DIGEST + index)),
        })
    }
}

/// Marks an entry as nobody's.
#[cfg(not(target_arch = "bpf"))]
pub fn release_client(entry: &Client) {
    crate::seqlock::change(entry, || {
        entry[ID].store(0);
        entry[IFINDEX].store(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let entry: Client = core::array::from_fn(|_| Word::new(0));
        assert_eq!(ClientRecord::read(&entry), None);
        let record = ClientRecord {
            ifindex: 7,
            id: 9,
            addresses: std::vec![[1, 2], [3, 4]],
            namespace: "a-namespace-0".into(),
            digest: [1, 2, 3, 4],
        };
        record.write(&entry);
        assert_eq!(ClientRecord::read(&entry), Some(record));
        release_client(&entry);
        assert_eq!(ClientRecord::read(&entry), None);
    }
}
