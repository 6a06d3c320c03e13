use std::collections::HashMap;

use dns_common::wire::KEPT_QTYPES;
use proptest::prelude::*;

use super::{entry::LARGE_TOTAL, *};
use crate::resolve::testing::*;

const SECOND: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(1000);

fn limits(total: usize, per_interface: usize) -> Limits {
    Limits {
        total,
        per_interface,
    }
}

fn key(target: &str, qtype: RecordType) -> Key {
    Key {
        via: vec![],
        target: name(target),
        qtype,
        upstream: ([127, 0, 0, 1], 53).into(),
    }
}

fn outcome(ttl_seconds: u32) -> Outcome {
    Outcome::Answer(addresses(&["t.example."], 1, ttl_seconds))
}

#[test]
fn an_answer_is_fresh_until_its_ttl_and_stale_until_the_limit() {
    let (mut cache, now) = (Cache::new(limits(9, 9)), Instant::now());
    let key = key("t.example.", RecordType::A);
    cache.insert(1, &key, &outcome(10), 0, now);
    match cache.find(&key, LONG, now + 4 * SECOND) {
        Cached::Fresh(_, left) => assert_eq!(left, 6 * SECOND),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        cache.find(&key, LONG, now + 10 * SECOND),
        Cached::Miss
    ));
    // A rule with a shorter TTL has it sooner.
    assert!(matches!(
        cache.find(&key, 3 * SECOND, now + 4 * SECOND),
        Cached::Miss
    ));
    assert!(cache.stale(&key, 20 * SECOND, now + 29 * SECOND).is_some());
    assert!(cache.stale(&key, 20 * SECOND, now + 30 * SECOND).is_none());
}

#[test]
fn a_missing_target_is_missing_for_every_qtype_and_for_five_seconds() {
    let (mut cache, now) = (Cache::new(limits(9, 9)), Instant::now());
    let (a, aaaa) = (
        key("t.example.", RecordType::A),
        key("T.EXAMPLE.", RecordType::AAAA),
    );
    cache.insert(1, &a, &outcome(10), 0, now);
    cache.insert(1, &a, &Outcome::NoTarget, 0, now);
    assert!(matches!(cache.find(&a, LONG, now), Cached::NoTarget(_)));
    assert!(matches!(cache.find(&aaaa, LONG, now), Cached::NoTarget(_)));
    let later = now + NEGATIVE_LIFETIME;
    assert!(matches!(cache.find(&a, LONG, later), Cached::Miss));
    assert!(cache.stale(&a, LONG, later).is_none());
}

#[test]
fn nxdomain_for_one_qtype_removes_the_answers_of_all() {
    let (mut cache, now) = (Cache::new(limits(9, 9)), Instant::now());
    let of = |qtype: u16| key("t.example.", qtype.into());
    for qtype in KEPT_QTYPES {
        cache.insert(1, &of(qtype), &outcome(3600), 0, now);
    }
    let other = key("other.example.", RecordType::AAAA);
    cache.insert(1, &other, &outcome(3600), 0, now);
    cache.insert(1, &of(1), &Outcome::NoTarget, 0, now);

    // As after a deletion: what was known of the name must not return once its absence is forgotten.
    let later = now + NEGATIVE_LIFETIME;
    for qtype in KEPT_QTYPES {
        let key = of(qtype);
        assert!(
            matches!(cache.find(&key, LONG, later), Cached::Miss),
            "{qtype}"
        );
        assert!(cache.stale(&key, LONG, later).is_none(), "{qtype}");
    }
    assert!(matches!(cache.find(&other, LONG, later), Cached::Fresh(..)));
    assert_eq!(cache.sizes().answers, 1);
}

#[test]
fn a_failure_is_remembered_and_leaves_the_last_good_answer() {
    let (mut cache, now) = (Cache::new(limits(9, 9)), Instant::now());
    let key = key("t.example.", RecordType::A);
    cache.insert(1, &key, &outcome(1), 0, now);
    let later = now + 2 * SECOND;
    cache.insert(1, &key, &Outcome::Failed(Failure::Timeout), 0, later);
    let found = cache.find(&key, LONG, later + SECOND);
    assert!(matches!(
        found,
        Cached::Failure(CachedFailure::LookUp(Failure::Timeout))
    ));
    assert!(cache.stale(&key, LONG, later).is_some());
    assert!(matches!(
        cache.find(&key, LONG, later + NEGATIVE_LIFETIME),
        Cached::Miss
    ));
    // A broken chain does not.
    cache.insert(1, &key, &Outcome::BrokenChain, 0, later);
    assert!(cache.stale(&key, LONG, later).is_none());
    // And a good answer clears it.
    cache.insert(1, &key, &outcome(9), 0, later);
    assert!(matches!(cache.find(&key, LONG, later), Cached::Fresh(..)));
}

#[test]
fn large_answers_have_bounded_room() {
    let (mut cache, now) = (Cache::new(limits(1000, 1000)), Instant::now());
    let large = Outcome::Answer(many_addresses(&["t.example."], 4000));
    let of = |number: usize| key(&format!("t{number}.example."), RecordType::A);
    let most = LARGE_TOTAL / (16 * 4000);
    for number in 0..2 * most {
        let entry = cache.insert(1, &of(number), &large, 0, now).unwrap();
        assert!(entry.section.len() > 64_000, "served, if not cached");
    }
    assert!((most - 2..=most).contains(&cache.sizes().answers));
    // A newer answer takes the room of the older one, and room that is given back is there again.
    cache.insert(1, &of(0), &large, 0, now + SECOND);
    assert!(matches!(
        cache.find(&of(0), LONG, now + 60 * SECOND),
        Cached::Fresh(..)
    ));
    cache.insert(1, &of(0), &Outcome::NoTarget, 0, now);
    cache.insert(1, &of(2 * most), &large, 0, now);
    assert!(matches!(
        cache.find(&of(2 * most), LONG, now),
        Cached::Fresh(..)
    ));
    // Others are cached whatever the large ones take.
    cache.insert(
        1,
        &key("small.example.", RecordType::A),
        &outcome(9),
        0,
        now,
    );
    assert!(cache.sizes().answers > most - 2);
}

#[test]
fn a_flood_from_one_interface_pushes_out_only_its_own() {
    let (mut cache, now) = (Cache::new(limits(100, 10)), Instant::now());
    for number in 0..10 {
        let key = key(&format!("victim{number}.example."), RecordType::A);
        cache.insert(1, &key, &outcome(99), 0, now);
    }
    for number in 0..1000 {
        let key = key(&format!("flood{number}.example."), RecordType::A);
        cache.insert(2, &key, &outcome(99), 0, now);
        let key = Key {
            qtype: RecordType::AAAA,
            ..key
        };
        cache.insert(2, &key, &Outcome::Failed(Failure::Timeout), 0, now);
        let missing = self::key(&format!("missing{number}.example."), RecordType::A);
        cache.insert(2, &missing, &Outcome::NoTarget, 0, now);
    }
    for number in 0..10 {
        let key = key(&format!("victim{number}.example."), RecordType::A);
        assert!(matches!(cache.find(&key, LONG, now), Cached::Fresh(..)));
    }
    let sizes = cache.sizes();
    assert_eq!((sizes.answers, sizes.no_target), (20, 10));
}

proptest! {
    /// Keys that differ in target, qtype or upstream never see each other's answers.
    #[test]
    fn the_cache_returns_what_was_inserted_under_the_same_key(
        writes in prop::collection::vec((0..6u8, 0..3u8, 0..3u8), 1..60),
    ) {
        let (mut cache, now) = (Cache::new(limits(100, 100)), Instant::now());
        let mut expected = HashMap::new();
        let of = |target: u8, qtype: u8, upstream: u8| Key {
            via: vec![],
            target: name(&format!("t{target}.example.")),
            qtype: [RecordType::A, RecordType::HTTPS, RecordType::SVCB][usize::from(qtype)],
            upstream: ([127, 0, 0, upstream], 53).into(),
        };
        for (round, (target, qtype, upstream)) in writes.into_iter().enumerate() {
            let mut answer = addresses(&["same.example."], 1, 60);
            answer.rdata = vec![vec![target, qtype, upstream, round as u8]];
            let key = of(target, qtype, upstream);
            expected.insert(key.clone(), Section::new(&answer).unwrap());
            cache.insert(u32::from(target), &key, &Outcome::Answer(answer), 0, now);
        }
        for target in 0..6 {
            for qtype in 0..3 {
                for upstream in 0..3 {
                    let key = of(target, qtype, upstream);
                    match (cache.find(&key, LONG, now), expected.get(&key)) {
                        (Cached::Fresh(entry, _), Some(section)) => prop_assert_eq!(&entry.section, section),
                        (Cached::Miss, None) => {}
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
            }
        }
    }
}
