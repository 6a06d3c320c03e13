//! Entries overwritten, taken away and given to other keys while another thread looks them up: no look-up shows a byte
//! of another key's answer, or of two answers; and without the look at the sequence number after the copy some do.
//!
//! `GREGOR_CHURN_LOOKUPS` is how many look-ups there are.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use dns_common::{
    answer::{
        self, Absent, Body, Captures, Found, Key, Lifetime, RuleEntry, Settings, Slot,
        SuffixSettings, Tables, Ways, find_with, release,
    },
    scratch::{NAME_AT, Scratch},
    word::Word,
};

const KEYS: usize = 24;
const SLOTS: usize = 8;
const BUCKETS: usize = 4;
const SEED: u64 = 0x0123_4567_89ab_cdef;
/// Bodies of each key, of lengths of their own.
const VERSIONS: usize = 6;

struct Shared {
    settings: Settings,
    index: Vec<Ways>,
    slots: Vec<Slot>,
    hits: Vec<Word>,
}

fn words<const N: usize>() -> [Word; N] {
    std::array::from_fn(|_| Word::new(0))
}

impl Shared {
    fn new() -> Self {
        Self {
            settings: Settings {
                stale_ttl: 0,
                padding: 0,
                seed: SEED,
                bucket_mask: BUCKETS as u32 - 1,
                absent_mask: 0,
                lane_mask: 0,
                shares_lanes: 0,
                slots: SLOTS as u32,
                suffixes: SuffixSettings::NONE,
            },
            index: (0..BUCKETS).map(|_| words()).collect(),
            slots: (0..SLOTS).map(|_| Slot::empty()).collect(),
            hits: (0..SLOTS).map(|_| Word::new(0)).collect(),
        }
    }
}

impl dns_common::client::Clients for Shared {}

impl Tables for Shared {
    fn settings(&self) -> Option<&Settings> {
        Some(&self.settings)
    }

    fn rule(&self, _index: u32) -> Option<RuleEntry> {
        None
    }

    fn is_unattended(&self, _now_ns: u64) -> bool {
        false
    }

    fn ways(&self, bucket: u32) -> Option<&Ways> {
        self.index.get(bucket as usize)
    }

    fn slot(&self, slot: u32) -> Option<&Slot> {
        self.slots.get(slot as usize)
    }

    fn absent_ways(&self, _bucket: u32) -> Option<&Ways> {
        None
    }

    fn absent(&self, _slot: u32) -> Option<&Absent> {
        None
    }

    fn suffix_ways(&self, _bucket: u32) -> Option<&Ways> {
        None
    }

    fn count(&self, slot: u32) -> u32 {
        let hits = &self.hits[slot as usize];
        let before = hits.load();
        hits.store(before + 1);
        before as u32
    }
}

/// Keys whose labels differ in their last bytes only.
fn label(key: usize) -> Vec<u8> {
    let mut label = vec![b'n'; 4 + 2 * key];
    let end = label.len();
    label[end - 2] = b'a' + (key / 5) as u8;
    label[end - 1] = b'a' + (key % 5) as u8;
    label
}

fn key(index: usize) -> Key {
    Key::new(0, 1, 0, &[&label(index)]).expect("one short label")
}

/// Two bytes that say whose they are, over and over.
fn mark(key: usize, version: usize) -> [u8; 2] {
    [1 + key as u8, 1 + version as u8]
}

fn body(key: usize, version: usize) -> Body {
    let pairs = 20 + (key * 37 + version * 101) % 200;
    let mark = mark(key, version);
    // An owner and a TTL will stand over some of it.
    let record: Vec<u8> = mark.repeat(8);
    let records = (version % 4) * 2;
    Body {
        chain: mark.repeat(pairs),
        records: vec![record; records],
        answers: u16::from_be_bytes(mark),
        authorities: u16::from_be_bytes(mark),
        ..Body::default()
    }
}

/// What a look-up of a key showed that no writer has written.
fn is_foreign(scratch: &Scratch, key: usize) -> bool {
    let lookup = scratch.lookup;
    let reply = &scratch.reply[..(lookup.len as usize).min(scratch.reply.len())];
    if reply.len() < 2 || usize::from(reply[0]) != 1 + key {
        return true;
    }
    let version = usize::from(reply[1]).wrapping_sub(1);
    if version >= VERSIONS {
        return true;
    }
    let mark = mark(key, version);
    let expected = body_len(key, version);
    let counts = u32::from(u16::from_be_bytes(mark));
    if reply.len() != expected.0 + expected.1
        || (lookup.answers, lookup.authorities) != (counts, counts)
    {
        return true;
    }
    let (chain, records) = reply.split_at(expected.0);
    let base = 12 + (scratch.name_len as u16) + 4;
    let owner = u16::from_be_bytes(mark).wrapping_add(base).to_be_bytes();
    chain.chunks_exact(2).any(|pair| pair != mark)
        || records.chunks_exact(16).any(|record| {
            record[..2] != owner
                || record[2..6].chunks_exact(2).any(|pair| pair != mark)
                || record[6..10] != 9u32.to_be_bytes()
                || record[10..].chunks_exact(2).any(|pair| pair != mark)
        })
}

fn body_len(key: usize, version: usize) -> (usize, usize) {
    (
        2 * (20 + (key * 37 + version * 101) % 200),
        16 * 2 * (version % 4),
    )
}

/// A scratch that asks for a key.
fn question(index: usize) -> Scratch {
    let mut scratch = Scratch::new();
    let label = label(index);
    let at = NAME_AT as usize;
    scratch.bytes[at] = label.len() as u8;
    scratch.bytes[at + 1..][..label.len()].copy_from_slice(&label);
    assert!(scratch.split_labels(label.len() as u32 + 2).is_ok());
    scratch.asked.qtype = 1;
    scratch.asked.captures = Captures {
        count: 1,
        behind: [0; 2],
        kept: 1,
    };
    scratch.asked.room = 1000;
    scratch
}

/// Overwrites, takes away and gives away until it is told to end; returns how often.
fn churn(shared: &Shared, done: &AtomicBool) -> u64 {
    let keys: Vec<Key> = (0..KEYS).map(key).collect();
    let bodies: Vec<Vec<Body>> = (0..KEYS)
        .map(|key| (0..VERSIONS).map(|version| body(key, version)).collect())
        .collect();
    assert!(bodies.iter().flatten().all(Body::fits));
    let lifetime = Lifetime {
        fresh_until_ns: u64::MAX,
        serve_until_ns: u64::MAX,
        fixed_ttl: 9,
        ..Lifetime::default()
    };
    let mut holders = [None::<usize>; SLOTS];
    let mut random = 1u64;
    let mut writes = 0;
    while !done.load(Ordering::Relaxed) {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let slot = random as usize % SLOTS;
        let wanted = (random >> 8) as usize % KEYS;
        let version = (random >> 16) as usize % VERSIONS;
        let entry = &shared.slots[slot].entry;
        let ways = |key: usize| {
            let hash = keys[key].hash(SEED);
            (&shared.index[hash as usize % BUCKETS], hash)
        };
        match holders[slot] {
            // As it is overwritten where it stands.
            Some(holder) if (random >> 24).is_multiple_of(2) => {
                answer::write(entry, &keys[holder], &bodies[holder][version], &lifetime);
            }
            // As it goes to another key.
            Some(holder) => {
                for way in ways(holder).0 {
                    if way.load() as u32 as usize == slot + 1 {
                        way.store(0);
                    }
                }
                release(entry);
                holders[slot] = None;
            }
            None if holders.contains(&Some(wanted)) => continue,
            None => {
                let (ways, hash) = ways(wanted);
                let Some(way) = ways.iter().find(|way| way.load() == 0) else {
                    continue;
                };
                answer::write(entry, &keys[wanted], &bodies[wanted][version], &lifetime);
                way.store(hash >> 32 << 32 | (slot as u64 + 1));
                holders[slot] = Some(wanted);
            }
        }
        writes += 1;
    }
    writes
}

#[derive(Debug, Default)]
struct Seen {
    lookups: u64,
    answers: u64,
    foreign: u64,
}

/// Looks keys up until there were `lookups`, or something foreign where that ends it, or the time is up.
fn ask<const CHECKED: bool>(shared: &Shared, lookups: u64, until: Instant) -> Seen {
    let mut questions: Vec<Scratch> = (0..KEYS).map(question).collect();
    let mut seen = Seen::default();
    while seen.lookups < lookups && (CHECKED || seen.foreign == 0) {
        for (key, scratch) in questions.iter_mut().enumerate() {
            if find_with::<_, CHECKED>(shared, scratch) == Found::Answer {
                seen.answers += 1;
                seen.foreign += u64::from(is_foreign(scratch, key));
            }
        }
        seen.lookups += KEYS as u64;
        if seen.lookups % (1 << 20) < KEYS as u64 && Instant::now() > until {
            break;
        }
    }
    seen
}

fn run<const CHECKED: bool>(lookups: u64, patience: Duration) -> Seen {
    let shared = Shared::new();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let writer = scope.spawn(|| churn(&shared, &done));
        let started = Instant::now();
        let seen = ask::<CHECKED>(&shared, lookups, started + patience);
        let took = started.elapsed();
        done.store(true, Ordering::Relaxed);
        let writes = writer.join().expect("the writer");
        println!("{seen:?} among {writes} writes in {took:?}");
        seen
    })
}

#[test]
fn no_look_up_shows_another_keys_bytes() {
    let lookups = env::var("GREGOR_CHURN_LOOKUPS")
        .map_or(10_000_000, |count| count.parse().expect("a number"));
    let seen = run::<true>(lookups, Duration::from_secs(3600));
    assert!(seen.lookups >= lookups);
    assert!(seen.answers > lookups / 50, "{seen:?}: too few to tell");
    assert_eq!(seen.foreign, 0, "{seen:?}");
}

#[test]
fn without_the_second_look_some_do() {
    let seen = run::<false>(u64::MAX, Duration::from_secs(120));
    assert!(
        seen.foreign > 0,
        "{seen:?}: the other test would not notice"
    );
}
