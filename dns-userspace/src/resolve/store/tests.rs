use std::collections::HashMap;

use dns_common::wire::KEPT_QTYPES;
use proptest::prelude::*;

use super::{kept::LARGE_TOTAL, *};
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
    let (store, now) = (Store::new(limits(9, 9)), Instant::now());
    let key = key("t.example.", RecordType::A);
    store.keep(1, &key, &outcome(10), now);
    match store.find(&key, LONG, now + 4 * SECOND) {
        Found::Fresh(_, left) => assert_eq!(left, 6 * SECOND),
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        store.find(&key, LONG, now + 10 * SECOND),
        Found::Nothing
    ));
    // A rule with a shorter TTL has it sooner.
    assert!(matches!(
        store.find(&key, 3 * SECOND, now + 4 * SECOND),
        Found::Nothing
    ));
    assert!(store.stale(&key, 20 * SECOND, now + 29 * SECOND).is_some());
    assert!(store.stale(&key, 20 * SECOND, now + 30 * SECOND).is_none());
}

#[test]
fn a_missing_target_is_missing_for_every_qtype_and_for_five_seconds() {
    let (store, now) = (Store::new(limits(9, 9)), Instant::now());
    let (a, aaaa) = (
        key("t.example.", RecordType::A),
        key("T.EXAMPLE.", RecordType::AAAA),
    );
    store.keep(1, &a, &outcome(10), now);
    store.keep(1, &a, &Outcome::NoTarget, now);
    assert!(matches!(store.find(&a, LONG, now), Found::NoTarget(_)));
    assert!(matches!(store.find(&aaaa, LONG, now), Found::NoTarget(_)));
    let later = now + NEGATIVE_LIFETIME;
    assert!(matches!(store.find(&a, LONG, later), Found::Nothing));
    assert!(store.stale(&a, LONG, later).is_none());
}

#[test]
fn nxdomain_for_one_qtype_removes_the_answers_of_all() {
    let (store, now) = (Store::new(limits(9, 9)), Instant::now());
    let of = |qtype: u16| key("t.example.", qtype.into());
    for qtype in KEPT_QTYPES {
        store.keep(1, &of(qtype), &outcome(3600), now);
    }
    let other = key("other.example.", RecordType::AAAA);
    store.keep(1, &other, &outcome(3600), now);
    store.keep(1, &of(1), &Outcome::NoTarget, now);

    // As after a deletion: what was known of the name must not return once its absence is forgotten.
    let later = now + NEGATIVE_LIFETIME;
    for qtype in KEPT_QTYPES {
        let key = of(qtype);
        assert!(
            matches!(store.find(&key, LONG, later), Found::Nothing),
            "{qtype}"
        );
        assert!(store.stale(&key, LONG, later).is_none(), "{qtype}");
    }
    assert!(matches!(store.find(&other, LONG, later), Found::Fresh(..)));
    assert_eq!(store.sizes().answers, 1);
}

#[test]
fn a_failure_is_remembered_and_leaves_the_last_good_answer() {
    let (store, now) = (Store::new(limits(9, 9)), Instant::now());
    let key = key("t.example.", RecordType::A);
    store.keep(1, &key, &outcome(1), now);
    let later = now + 2 * SECOND;
    store.keep(1, &key, &Outcome::Failed(Failure::Timeout), later);
    let found = store.find(&key, LONG, later + SECOND);
    assert!(matches!(
        found,
        Found::Trouble(Trouble::Failed(Failure::Timeout))
    ));
    assert!(store.stale(&key, LONG, later).is_some());
    assert!(matches!(
        store.find(&key, LONG, later + NEGATIVE_LIFETIME),
        Found::Nothing
    ));
    // A broken chain does not.
    store.keep(1, &key, &Outcome::BrokenChain, later);
    assert!(store.stale(&key, LONG, later).is_none());
    // And a good answer clears it.
    store.keep(1, &key, &outcome(9), later);
    assert!(matches!(store.find(&key, LONG, later), Found::Fresh(..)));
}

#[test]
fn large_answers_have_bounded_room() {
    let (store, now) = (Store::new(limits(1000, 1000)), Instant::now());
    let large = Outcome::Answer(many_addresses(&["t.example."], 4000));
    let of = |number: usize| key(&format!("t{number}.example."), RecordType::A);
    let most = LARGE_TOTAL / (16 * 4000);
    for number in 0..2 * most {
        let kept = store.keep(1, &of(number), &large, now).unwrap();
        assert!(kept.section.len() > 64_000, "given, if not kept");
    }
    assert!((most - 2..=most).contains(&store.sizes().answers));
    // A newer answer takes the room of the older one, and room that is given back is there again.
    store.keep(1, &of(0), &large, now + SECOND);
    assert!(matches!(
        store.find(&of(0), LONG, now + 60 * SECOND),
        Found::Fresh(..)
    ));
    store.keep(1, &of(0), &Outcome::NoTarget, now);
    store.keep(1, &of(2 * most), &large, now);
    assert!(matches!(
        store.find(&of(2 * most), LONG, now),
        Found::Fresh(..)
    ));
    // Others are kept whatever the large ones take.
    store.keep(1, &key("small.example.", RecordType::A), &outcome(9), now);
    assert!(store.sizes().answers > most - 2);
}

#[test]
fn a_flood_from_one_interface_pushes_out_only_its_own() {
    let (store, now) = (Store::new(limits(100, 10)), Instant::now());
    for number in 0..10 {
        let key = key(&format!("victim{number}.example."), RecordType::A);
        store.keep(1, &key, &outcome(99), now);
    }
    for number in 0..1000 {
        let key = key(&format!("flood{number}.example."), RecordType::A);
        store.keep(2, &key, &outcome(99), now);
        let key = Key {
            qtype: RecordType::AAAA,
            ..key
        };
        store.keep(2, &key, &Outcome::Failed(Failure::Timeout), now);
        let missing = self::key(&format!("missing{number}.example."), RecordType::A);
        store.keep(2, &missing, &Outcome::NoTarget, now);
    }
    for number in 0..10 {
        let key = key(&format!("victim{number}.example."), RecordType::A);
        assert!(matches!(store.find(&key, LONG, now), Found::Fresh(..)));
    }
    let sizes = store.sizes();
    assert_eq!((sizes.answers, sizes.no_target), (20, 10));
}

proptest! {
    /// Keys that differ in target, qtype or upstream never see each other's answers.
    #[test]
    fn the_store_gives_back_what_was_kept_under_the_same_key(
        writes in prop::collection::vec((0..6u8, 0..3u8, 0..3u8), 1..60),
    ) {
        let (store, now) = (Store::new(limits(100, 100)), Instant::now());
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
            store.keep(u32::from(target), &key, &Outcome::Answer(answer), now);
        }
        for target in 0..6 {
            for qtype in 0..3 {
                for upstream in 0..3 {
                    let key = of(target, qtype, upstream);
                    match (store.find(&key, LONG, now), expected.get(&key)) {
                        (Found::Fresh(kept, _), Some(section)) => prop_assert_eq!(&kept.section, section),
                        (Found::Nothing, None) => {}
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
            }
        }
    }
}
