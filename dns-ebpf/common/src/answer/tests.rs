use std::vec::Vec;

use super::{layout::SEQUENCE, *};
use crate::seqlock::Reader;
use crate::{key::mix, scratch::NAME_AT, word::Word};

/// xorshift64*, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        (0..len).map(|_| self.next() as u8).collect()
    }

    /// As a captured label may be.
    fn label(&mut self, len: usize) -> Vec<u8> {
        const OUTER: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";
        const INNER: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ-";
        (0..len)
            .map(|at| match at {
                0 => OUTER[self.below(OUTER.len())],
                at if at + 1 == len => OUTER[self.below(OUTER.len())],
                _ => INNER[self.below(INNER.len())],
            })
            .collect()
    }
}

/// A scratch with a name in it, as the pipeline leaves it.
fn scratch_of(labels: &[Vec<u8>]) -> Scratch {
    let mut scratch = Scratch::new();
    // What was there before must not be read into a key.
    scratch.bytes.fill(0xaa);
    let mut at = NAME_AT as usize;
    for label in labels {
        scratch.bytes[at] = label.len() as u8;
        scratch.bytes[at + 1..][..label.len()].copy_from_slice(label);
        at += 1 + label.len();
    }
    scratch.bytes[at] = 0;
    assert!(scratch.split_labels((at + 1) as u32 - NAME_AT).is_ok());
    scratch
}

fn settings(seed: u64) -> Settings {
    Settings {
        seed,
        slots: 1,
        lane_mask: 0,
        shares_lanes: 0,
        bucket_mask: 0,
        absent_mask: 0,
        stale_ttl: 30,
        padding: 0,
        suffixes: SuffixSettings::NONE,
    }
}

fn entry_of<const N: usize>() -> [Word; N] {
    core::array::from_fn(|_| Word::new(0))
}

#[test]
fn a_key_is_the_same_from_a_name_and_from_its_captures() {
    let mut random = Random(1);
    for round in 0..20_000 {
        let mut labels = Vec::new();
        while labels.len() < 1 + round % 6 {
            let len = 1 + random.below(40.min(1 + round / 10));
            labels.push(random.label(len));
        }
        let count = random.below(3).min(labels.len());
        let mut places: Vec<usize> = (0..count).map(|_| random.below(labels.len())).collect();
        places.sort_unstable();
        places.dedup();
        let mut captures = Captures {
            count: places.len() as u8,
            kept: 1,
            ..Captures::NEVER
        };
        for (index, place) in places.iter().enumerate() {
            captures.behind[index] = (labels.len() - 1 - place) as u8;
        }
        let lower: Vec<Vec<u8>> = places
            .iter()
            .map(|at| labels[*at].to_ascii_lowercase())
            .collect();
        let slices: Vec<&[u8]> = lower.iter().map(Vec::as_slice).collect();
        let (rule, qtype, server) = (random.next(), random.next() as u16, random.next() as u32);
        let client = random.below(3) as u32;
        let of_client = |key: Key| Key {
            lengths: key.lengths | u64::from(client) << 32,
            ..key
        };
        let key = of_client(Key::new(rule, qtype, server, &slices).unwrap());

        let seed = random.next();
        let mut scratch = scratch_of(&labels);
        scratch.asked.rule = rule;
        scratch.asked.qtype = qtype.into();
        scratch.asked.server = server;
        scratch.asked.client = client;
        scratch.asked.captures = captures;
        let begun = scratch.make_key(&settings(seed));
        assert_eq!(mix(begun, scratch.key.head), key.hash(seed), "{labels:?}");
        assert_eq!(scratch.key.head, key.head);
        assert_eq!(scratch.key.lengths, key.lengths);
        assert_eq!((scratch.key.rule, key.rule), (rule, rule));
        assert_eq!(
            (key.qtype(), key.server(), key.client()),
            (qtype, server, client)
        );
        let told: Vec<Vec<u8>> = key
            .labels()
            .map(|(label, len)| label[..len].to_vec())
            .collect();
        assert_eq!(told, lower);

        let entry = entry_of();
        write(&entry, &key, &Body::default(), &Lifetime::default());
        assert!(scratch.is_for(&mut Reader::after(&entry, 0), key.head));
        let absent = entry_of::<ABSENT_WORDS>();
        let any = key.with_qtype(0);
        write_absent(&absent, &any, 1);
        assert!(
            scratch.is_for(&mut Reader::after(&absent, 0), any.head)
                && any.qtype() == 0
                && any.rule == rule
        );
        // One letter more, less or other, another rule, type, server or client.
        let mut others = [
            Key {
                rule: rule ^ 1 << random.below(64),
                ..key
            },
            key.with_qtype(qtype ^ 0x100),
            of_client(Key::new(rule, qtype, server ^ 1 << random.below(32), &slices).unwrap()),
            Key {
                lengths: key.lengths ^ 1 << (32 + random.below(32)),
                ..key
            },
        ]
        .to_vec();
        if !lower.is_empty() {
            let changed = random.below(lower.len());
            let mut variants = Vec::from([lower.clone(), lower.clone(), lower.clone()]);
            variants[0][changed].push(b'x');
            variants[1][changed].pop();
            let at = random.below(lower[changed].len());
            variants[2][changed][at] ^= 1;
            for variant in variants {
                let slices: Vec<&[u8]> = variant.iter().map(Vec::as_slice).collect();
                others.extend(Key::new(rule, qtype, server, &slices).map(of_client));
            }
        }
        for other in others {
            write(&entry, &other, &Body::default(), &Lifetime::default());
            assert!(
                !scratch.is_for(&mut Reader::after(&entry, 0), key.head),
                "{labels:?} {other:?}"
            );
        }
    }
}

#[test]
fn keys_have_room_for_two_labels_of_63_bytes() {
    let longest = [b'a'; 63];
    assert!(Key::new(1, 1, 1, &[&longest, &longest]).is_some());
    assert!(Key::new(1, 1, 1, &[&[b'a'; 64]]).is_none());
    assert!(Key::new(1, 1, 1, &[b"a", b""]).is_none());
    assert!(Key::new(1, 1, 1, &[b"a", b"b", b"c"]).is_none());
    assert!(Key::new(1, 1, 1, &[]).is_some());
}

/// A record of this many bytes.
fn record(size: usize) -> Vec<u8> {
    let mut record = Vec::from([0xc0, 0]);
    record.resize(size, 7);
    record
}

#[test]
fn what_fits() {
    let body = |chain: usize, records: Vec<Vec<u8>>| Body {
        chain: Vec::from([1; SECTION_LEN])[..chain.min(SECTION_LEN)].to_vec(),
        records,
        ..Body::default()
    };
    let full = SECTION_LEN - 2 * 16 * 10;
    assert!(
        body(
            full,
            Vec::from([(); 10]).iter().map(|()| record(16)).collect()
        )
        .fits()
    );
    assert!(
        !body(
            full + 1,
            Vec::from([(); 10]).iter().map(|()| record(16)).collect()
        )
        .fits()
    );
    assert!(body(SECTION_LEN, Vec::new()).fits());
    assert!(
        !Body {
            chain: Vec::from([0; SECTION_LEN + 1]),
            ..Body::default()
        }
        .fits()
    );
    assert!(body(0, Vec::from([record(254)])).fits());
    assert!(
        !body(0, Vec::from([record(256)])).fits(),
        "a length of one byte"
    );
    assert!(!body(0, Vec::from([record(17)])).fits(), "an odd size");
    assert!(
        !body(0, Vec::from([record(10)])).fits(),
        "shorter than a record's header"
    );
    assert!(body(0, Vec::from([record(12)])).fits());
    assert!(
        !body(0, Vec::from([record(16), record(18)])).fits(),
        "two sizes"
    );
    let mut other = record(16);
    other[1] = 1;
    assert!(
        !body(0, Vec::from([record(16), other])).fits(),
        "two owners"
    );
    let patches = |pointers, ttls| Body {
        chain: Vec::from([0; 100]),
        pointers: (0..pointers).collect(),
        ttls: (0..ttls).collect(),
        ..Body::default()
    };
    let (pointers, ttls) = (MAX_POINTERS as u16, MAX_TTLS as u16);
    assert!(patches(pointers, ttls).fits());
    assert!(!patches(pointers + 1, ttls).fits());
    assert!(!patches(pointers, ttls + 1).fits());
}

/// A body of random bytes whose pointers and TTLs do not overlap.
fn random_body(random: &mut Random) -> Body {
    let size = 12 + 2 * random.below(20);
    let room = SECTION_LEN / (2 * size);
    let count = random.below(room.min(MAX_RECORDS) + 1);
    let chain_len = random.below(SECTION_LEN - 2 * size * count + 1);
    let mut chain = random.bytes(chain_len);
    let (mut pointers, mut ttls) = (Vec::new(), Vec::new());
    let mut at = random.below(6);
    while at + 4 <= chain_len {
        if random.below(2) == 0 && pointers.len() < MAX_POINTERS {
            let relative = 0xc000 | random.below(700) as u16;
            chain[at..at + 2].copy_from_slice(&relative.to_be_bytes());
            pointers.push(at as u16);
            at += 2;
        } else if ttls.len() < MAX_TTLS {
            chain[at..at + 4].fill(0);
            ttls.push(at as u16);
            at += 4;
        }
        at += 1 + random.below(40);
    }
    let owner = 0xc000 | random.below(700) as u16;
    let records = (0..count)
        .map(|_| {
            let mut record = random.bytes(size);
            record[..2].copy_from_slice(&owner.to_be_bytes());
            record[6..10].fill(0);
            record
        })
        .collect();
    Body {
        chain,
        records,
        pointers,
        ttls,
        answers: random.next() as u16,
        authorities: random.next() as u16,
    }
}

/// What a body says behind a question that ends at `base`, put together one piece after the other.
fn spelt_out(body: &Body, base: u16, ttl: u32, rotation: usize) -> Vec<u8> {
    let mut bytes = body.chain.clone();
    for at in body.pointers.iter().map(|at| usize::from(*at)) {
        let pointer = u16::from_be_bytes([bytes[at], bytes[at + 1]]) + base;
        bytes[at..at + 2].copy_from_slice(&pointer.to_be_bytes());
    }
    for at in body.ttls.iter().map(|at| usize::from(*at)) {
        bytes[at..at + 4].copy_from_slice(&ttl.to_be_bytes());
    }
    for index in 0..body.records.len() {
        let mut record = body.records[(index + rotation) % body.records.len()].clone();
        let pointer = u16::from_be_bytes([record[0], record[1]]) + base;
        record[..2].copy_from_slice(&pointer.to_be_bytes());
        record[6..10].copy_from_slice(&ttl.to_be_bytes());
        bytes.extend(record);
    }
    bytes
}

const SECOND: u64 = 1_000_000_000;

#[test]
fn what_is_written_is_read() {
    let mut random = Random(2);
    let key = Key::new(0, 1, 0, &[]).unwrap();
    for round in 0..20_000usize {
        let body = random_body(&mut random);
        assert!(body.fits());
        let mut tables = MemoryTables::new(
            1,
            Vec::from([Captures {
                kept: 1,
                ..Captures::NEVER
            }]),
        );
        let fixed_ttl = if round % 3 == 0 {
            random.next() as u32
        } else {
            0
        };
        let left = random.next() % (1 << 52);
        let now = SECOND;
        let lifetime = Lifetime {
            fresh_until_ns: now + left,
            serve_until_ns: now + left + 1,
            fixed_ttl,
            ..Lifetime::default()
        };
        assert!(tables.insert(&key, &body, &lifetime));
        let name_len = 2 + random.below(254);
        let mut scratch = scratch_of(&[Vec::from([b'a'])]);
        scratch.name_len = name_len as u32;
        scratch.asked.qtype = 1;
        scratch.asked.captures.kept = 1;
        scratch.asked.now_ns = now;
        let expected_ttl = match (left, fixed_ttl) {
            (0, _) => 1,
            (_, 0) => left.div_ceil(SECOND) as u32,
            (_, fixed) => fixed,
        };
        let base = 12 + name_len as u16 + 4;
        for rotation in 0..3 {
            let expected = spelt_out(&body, base, expected_ttl, rotation);
            let len = expected.len() as u32;
            if len > 0 {
                scratch.asked.room = len - 1;
                assert_eq!(
                    find(&tables, &mut scratch),
                    Found::Nothing,
                    "a byte too long"
                );
            }
            scratch.asked.room = len;
            let found = find(&tables, &mut scratch);
            assert_eq!(
                found,
                if left == 0 {
                    Found::Stale
                } else {
                    Found::Answer
                }
            );
            let lookup = scratch.lookup;
            assert_eq!(lookup.len, len);
            assert_eq!(scratch.reply[..expected.len()], expected);
            assert_eq!(lookup.answers, u32::from(body.answers));
            assert_eq!(lookup.authorities, u32::from(body.authorities));
            assert_eq!(
                write::fold(lookup.sum),
                write::fold(write::sum(&expected)),
                "{body:?}"
            );
        }
    }
}

/// A key's entry, and a scratch that asks for it.
fn one() -> (MemoryTables, Scratch, Key, Body) {
    let tables = MemoryTables::new(
        2,
        Vec::from([Captures {
            kept: 1,
            ..Captures::NEVER
        }]),
    );
    let mut scratch = scratch_of(&[Vec::from([b'a'])]);
    scratch.asked.qtype = 1;
    scratch.asked.captures.kept = 1;
    scratch.asked.now_ns = 10;
    scratch.asked.room = 500;
    let body = Body {
        chain: Vec::from(*b"section"),
        answers: 1,
        ..Body::default()
    };
    (tables, scratch, Key::new(0, 1, 0, &[]).unwrap(), body)
}

fn lasting(fresh_until_ns: u64, serve_until_ns: u64) -> Lifetime {
    Lifetime {
        fresh_until_ns,
        serve_until_ns,
        ..Lifetime::default()
    }
}

#[test]
fn an_entry_is_stale_until_somebody_claims_its_refresh_and_again_when_it_was_written() {
    let (mut tables, mut scratch, key, body) = one();
    assert!(tables.insert(&key, &body, &lasting(10, 20)));
    assert_eq!(find(&tables, &mut scratch), Found::Stale);
    assert_eq!(
        find(&tables, &mut scratch),
        Found::Stale,
        "nobody has claimed it"
    );
    let earlier = scratch.lookup;
    claim(&tables, &scratch.lookup);
    assert_eq!(find(&tables, &mut scratch), Found::Answer);
    write(
        &tables.slot(0).unwrap().entry,
        &key,
        &body,
        &lasting(10, 20),
    );
    assert_eq!(find(&tables, &mut scratch), Found::Stale);
    claim(&tables, &earlier);
    assert_eq!(
        find(&tables, &mut scratch),
        Found::Stale,
        "a late claim is one of the past"
    );
    scratch.asked.now_ns = 20;
    assert_eq!(find(&tables, &mut scratch), Found::Nothing);
}

#[test]
fn an_expired_entry_is_served_while_no_responder_is_there() {
    let (mut tables, mut scratch, key, body) = one();
    let lifetime = Lifetime {
        stale_until_ns: 40,
        fixed_ttl: 7,
        ..lasting(10, 20)
    };
    assert!(tables.insert(&key, &body, &lifetime));
    for (now, attended, unattended) in [
        (9, Found::Answer, Found::Answer),
        (19, Found::Stale, Found::Stale),
        (20, Found::Nothing, Found::Expired),
        (39, Found::Nothing, Found::Expired),
        (40, Found::Nothing, Found::Nothing),
    ] {
        scratch.asked.now_ns = now;
        tables.set_unattended(false);
        assert_eq!(find(&tables, &mut scratch), attended, "{now}");
        tables.set_unattended(true);
        assert_eq!(find(&tables, &mut scratch), unattended, "{now}");
    }
}

#[test]
fn an_entry_is_copied_with_its_key_and_its_times() {
    let (mut tables, mut scratch, key, body) = one();
    let lifetime = Lifetime {
        stale_until_ns: 40,
        ..lasting(10, 20)
    };
    assert_eq!(
        key_of(&tables.slot(0).unwrap().entry),
        None,
        "never written"
    );
    assert!(tables.insert(&key, &body, &lifetime));
    let entry = &tables.slot(0).unwrap().entry;
    assert_eq!(key_of(entry), Some(key));
    assert_eq!(until_of(entry), 40);
    assert_eq!(body_of(entry), body);
    let copy = entry_of::<ENTRY_WORDS>();
    copy_from(&copy, entry, || {});
    assert_eq!((key_of(&copy), until_of(&copy)), (Some(key), 40));
    release(entry);
    assert_eq!((key_of(entry), until_of(entry)), (None, 0));
    assert_eq!(find(&tables, &mut scratch), Found::Nothing);
}

#[test]
fn an_entry_that_is_being_written_or_was_released_is_not_there() {
    let (mut tables, mut scratch, key, body) = one();
    assert!(tables.insert(&key, &body, &lasting(100, 200)));
    assert_eq!(find(&tables, &mut scratch), Found::Answer);
    let entry = &tables.slot(0).unwrap().entry;
    let sequence = entry[SEQUENCE].load();
    entry[SEQUENCE].store(sequence | 1);
    assert_eq!(find(&tables, &mut scratch), Found::Nothing);
    entry[SEQUENCE].store(sequence);
    assert_eq!(find(&tables, &mut scratch), Found::Answer);
    release(entry);
    assert_eq!(find(&tables, &mut scratch), Found::Nothing);
    assert!(entry[SEQUENCE].load() > sequence && entry[SEQUENCE].load() % 2 == 0);
}

#[test]
fn a_target_that_does_not_exist_is_so_for_every_type_and_until_its_time() {
    let (mut tables, mut scratch, key, _) = one();
    assert!(tables.insert_absent(&key.with_qtype(0), 11));
    for qtype in crate::wire::KEPT_QTYPES {
        scratch.asked.qtype = qtype.into();
        assert_eq!(find(&tables, &mut scratch), Found::NoTarget);
    }
    scratch.asked.now_ns = 11;
    assert_eq!(find(&tables, &mut scratch), Found::Nothing);
}

#[test]
fn nothing_is_found_for_rules_that_are_not_kept_and_in_tables_without_slots() {
    let (_, mut scratch, key, body) = one();
    let mut tables = MemoryTables::new(1, Vec::new());
    assert!(tables.insert(&key, &body, &lasting(100, 200)));
    assert_eq!(find(&tables, &mut scratch), Found::Answer);
    assert_eq!(find(&MemoryTables::none(), &mut scratch), Found::Nothing);
    scratch.asked.captures = Captures::NEVER;
    assert_eq!(find(&tables, &mut scratch), Found::Nothing);
}

/// A copy that was overtaken by a write: noticed with the look at the sequence number, and not without it.
#[test]
fn the_second_look_at_the_sequence_number_counts() {
    /// Changes the entry between the first word of the copy and the last look.
    struct Overtaken<'a> {
        tables: &'a MemoryTables,
        key: Key,
        body: Body,
    }

    impl crate::client::Clients for Overtaken<'_> {}

    impl Tables for Overtaken<'_> {
        fn settings(&self) -> Option<&Settings> {
            self.tables.settings()
        }
        fn rule(&self, index: u32) -> Option<RuleEntry> {
            self.tables.rule(index)
        }
        fn is_unattended(&self, now_ns: u64) -> bool {
            self.tables.is_unattended(now_ns)
        }
        fn ways(&self, bucket: u32) -> Option<&Ways> {
            self.tables.ways(bucket)
        }
        fn slot(&self, slot: u32) -> Option<&Slot> {
            self.tables.slot(slot)
        }
        fn absent_ways(&self, bucket: u32) -> Option<&Ways> {
            self.tables.absent_ways(bucket)
        }
        fn absent(&self, slot: u32) -> Option<&Absent> {
            self.tables.absent(slot)
        }
        fn suffix_ways(&self, bucket: u32) -> Option<&Ways> {
            self.tables.suffix_ways(bucket)
        }
        fn count(&self, slot: u32) -> u32 {
            let entry = &self.tables.slot(slot).unwrap().entry;
            write(entry, &self.key, &self.body, &lasting(100, 200));
            0
        }
    }

    let (mut tables, mut scratch, key, mut body) = one();
    body.records = Vec::from([record(12), record(12)]);
    assert!(tables.insert(&key, &body, &lasting(100, 200)));
    let mut foreign = body.clone();
    foreign.records = Vec::from([
        [&[0xc0, 0], &[9; 10][..]].concat(),
        [&[0xc0, 0], &[9; 10][..]].concat(),
    ]);
    let overtaken = Overtaken {
        tables: &tables,
        key: Key::new(0, 28, 0, &[]).unwrap(),
        body: foreign,
    };
    assert_eq!(
        find_with::<_, true>(&overtaken, &mut scratch),
        Found::Nothing
    );
    write(
        &tables.slot(0).unwrap().entry,
        &key,
        &body,
        &lasting(100, 200),
    );
    assert_eq!(
        find_with::<_, false>(&overtaken, &mut scratch),
        Found::Answer
    );
    assert!(scratch.reply[..scratch.lookup.len as usize].contains(&9));
}

/// Names that differ in one byte, wherever that is in its word, do not share a bucket.
#[test]
fn suffixes_are_spread_over_the_buckets() {
    const BUCKETS: u64 = 4096;
    let mut settings = SuffixSettings::NONE;
    let mut random = 1u64;
    for factor in &mut settings.factors {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *factor = random ^ random >> 29 | 1;
    }
    let key = Key::new(7, 1, 0, &[b"foo"]).unwrap();
    for place in 0..24 {
        let mut counts = std::collections::BTreeMap::new();
        for byte in (b'a'..=b'z').chain(b'0'..=b'9') {
            let mut suffix = *b"\x03aws\x17kafka-of-tenant-number";
            suffix[place] = byte;
            let hash = settings.hash(&suffix, &key).unwrap();
            *counts.entry(hash % BUCKETS).or_insert(0) += 1;
        }
        let most = counts.values().max().copied();
        assert!(most <= Some(4), "byte {place}: {most:?} in one bucket");
    }
}
