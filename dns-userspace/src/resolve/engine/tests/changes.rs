//! Targets that another source than DNS reports as changed.

use super::*;
use crate::model::{Changes, Known};

fn changed(known: Known) -> Event<u32> {
    changed_in("foo", known)
}

fn changed_in(namespace: &str, known: Known) -> Event<u32> {
    let mut changes = Changes::default();
    changes.add(name(&TARGET.replace("foo", namespace)), known);
    Event::Changed(changes)
}

fn to(alias: &str) -> Known {
    Known::Alias(name(alias))
}

fn found_at(alias: &str) -> Outcome {
    Outcome::Answer(addresses(&[TARGET, alias], 1, 20))
}

#[test]
fn the_next_query_after_a_change_is_looked_up_and_others_are_not() {
    let mut sim = Sim::new(options());
    sim.query(1, RecordType::A);
    sim.looked_up(found_at("old.example."));
    sim.feed(Event::Query(query_of(2, "bar", RecordType::A)));
    sim.looked_up(found_at("old.example."));
    assert_eq!(sim.feed(changed(to("new.example."))), []);
    assert_eq!(sim.query(3, RecordType::A), [look_up(RecordType::A)]);
    let other = sim.feed(Event::Query(query_of(4, "bar", RecordType::A)));
    assert_eq!(other, [Seen::Answer(4, 20, false)]);
}

#[test]
fn an_answer_that_agrees_stays() {
    let mut sim = Sim::new(options());
    sim.query(1, RecordType::A);
    sim.looked_up(found_at("same.example."));
    sim.feed(changed(to("same.example.")));
    assert_eq!(sim.query(2, RecordType::A), [Seen::Answer(2, 20, false)]);
}

#[test]
fn after_a_change_the_answer_before_it_is_no_fallback() {
    let mut sim = Sim::new(options());
    sim.query(1, RecordType::A);
    sim.looked_up(found_at("old.example."));
    sim.feed(changed(to("new.example.")));
    sim.query(2, RecordType::A);
    assert_eq!(sim.looked_up(timeout()), [Seen::ServFail(2, 22)]);
}

#[test]
fn a_denial_ends_when_the_target_is_created() {
    let mut sim = Sim::new(options());
    sim.query(1, RecordType::A);
    sim.looked_up(Outcome::NoTarget);
    sim.feed(changed(Known::Absent));
    let passed = [Seen::PassOn(2, PassReason::NoTarget)];
    assert_eq!(sim.query(2, RecordType::A), passed);
    sim.feed(changed(to("new.example.")));
    assert_eq!(sim.query(3, RecordType::A), [look_up(RecordType::A)]);
    // The denial is not a contradiction that has to be confirmed.
    let answer = sim.looked_up(found_at("new.example."));
    assert_eq!(answer, [Seen::Answer(3, 20, false)]);
}

#[test]
fn failures_end_with_a_change() {
    for outcome in [
        Outcome::BrokenChain,
        Outcome::NoAddress(name("old.example.")),
        timeout(),
    ] {
        let mut sim = Sim::new(options());
        sim.query(1, RecordType::A);
        sim.looked_up(outcome);
        sim.feed(changed(to("new.example.")));
        assert_eq!(sim.query(2, RecordType::A), [look_up(RecordType::A)]);
    }
}

#[test]
fn a_look_up_in_flight_is_made_again_and_what_it_found_is_not_kept() {
    let mut sim = Sim::new(options());
    sim.query(1, RecordType::A);
    sim.feed(Event::Query(query_of(2, "bar", RecordType::A)));
    sim.feed(changed(to("new.example.")));
    assert_eq!(
        sim.looked_up(found_at("old.example.")),
        [look_up(RecordType::A)]
    );
    assert_eq!(sim.engine.in_flight(), 2);
    // The other target has not changed.
    assert_eq!(sim.looked_up(found_at("x.")), [Seen::Answer(2, 20, false)]);
    assert_eq!(
        sim.looked_up(found_at("new.example.")),
        [Seen::Answer(1, 20, false)]
    );
    assert_eq!(sim.query(3, RecordType::A), [Seen::Answer(3, 20, false)]);
}

#[test]
fn what_the_program_had_before_the_change_is_no_fallback_for_those_who_wait() {
    let mut sim = Sim::new(options());
    let section = Section::new(&addresses(&[TARGET, "old.example."], 1, 20)).unwrap();
    let entry = CacheEntry::new(section, 20, 0, sim.now);
    let query = MatchedQuery {
        published: Published {
            answer: Some(Arc::new(entry)),
            exists: true,
        },
        ..query_of(1, "foo", RecordType::A)
    };
    sim.feed(Event::Query(query));
    sim.feed(changed(to("new.example.")));
    sim.looked_up(timeout());
    assert_eq!(sim.looked_up(timeout()), [Seen::ServFail(1, 22)]);
}

#[test]
fn what_came_of_a_look_up_is_reported_for_the_target_that_it_came_from() {
    const FIRST: &str = "first.example.";
    let via = |client| {
        let mut query = query_of(client, "foo", RecordType::A);
        query.key.via = vec![name(FIRST)];
        query
    };
    let address = Outcome::NoAddress(name("10.0.0.1."));
    for (outcomes, expected) in [
        (vec![found_at("a.")], Some((TARGET, TargetState::Resolves))),
        (
            vec![
                Outcome::NoTarget,
                Outcome::Answer(addresses(&[FIRST, "a."], 1, 20)),
            ],
            Some((FIRST, TargetState::Resolves)),
        ),
        (
            vec![Outcome::BrokenChain],
            Some((TARGET, TargetState::Broken)),
        ),
        (
            vec![Outcome::NoTarget, Outcome::BrokenChain],
            Some((FIRST, TargetState::Broken)),
        ),
        (
            vec![Outcome::NoAddress(name("a."))],
            Some((TARGET, TargetState::NoAddress)),
        ),
        (vec![address], Some((TARGET, TargetState::IsAddress))),
        (vec![timeout()], None),
        (vec![Outcome::NoTarget, Outcome::NoTarget], None),
    ] {
        let mut sim = Sim::new(options());
        sim.feed(Event::Query(via(1)));
        for outcome in outcomes {
            sim.looked_up(outcome);
        }
        let expected = expected.map(|(target, state)| (target.to_owned(), state));
        assert_eq!(sim.reported, Vec::from_iter(expected));
    }
}
