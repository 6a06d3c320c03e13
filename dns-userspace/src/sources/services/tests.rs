use proptest::prelude::*;

use super::*;
use crate::sources::selectors;

const RULE: &str = "up.{namespace}.svc.cluster.local";

fn name(text: &str) -> Name {
    let mut name = Name::from_ascii(text).unwrap();
    name.set_fqdn(true);
    name
}

fn target(namespace: &str) -> Name {
    name(&format!("up.{namespace}.svc.cluster.local"))
}

fn alias(namespace: &str, external: &str) -> Service {
    Service {
        namespace: namespace.to_owned(),
        name: "up".to_owned(),
        uid: String::new(),
        kind: Kind::Alias(name(external)),
    }
}

fn other(namespace: &str) -> Service {
    Service {
        kind: Kind::Other,
        ..alias(namespace, "unused")
    }
}

/// A store with its one selector and a clock.
struct Store {
    services: Services,
    selector: Selector,
    now: Instant,
}

impl Store {
    fn new(cname: &str) -> Store {
        let domain = ClusterDomain::new("cluster.local").unwrap();
        let selectors = selectors([cname], &domain);
        Store {
            selector: selectors[0].clone(),
            services: Services::new(domain, selectors),
            now: Instant::now(),
        }
    }

    fn take(&mut self, report: Report) -> Changes {
        self.services.take(&self.selector, report, self.now)
    }

    fn deleted(&mut self, namespace: &str) -> Changes {
        self.take(Report::Deleted(namespace.to_owned(), "up".to_owned()))
    }

    fn find(&self, namespace: &str) -> Known {
        self.services.find(&target(namespace), self.now)
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

fn changes(expected: &[(&str, Known)]) -> Changes {
    let mut changes = Changes::default();
    for (namespace, known) in expected {
        changes.add(target(namespace), known.clone());
    }
    changes
}

fn to(external: &str) -> Known {
    Known::Alias(name(external))
}

#[test]
fn nothing_is_known_before_the_first_list() {
    let mut store = Store::new(RULE);
    assert_eq!(store.find("foo"), Known::Nothing);
    store.take(Report::Lost);
    assert_eq!(store.find("foo"), Known::Nothing);
    assert_eq!(store.services.summary(store.now).age, None);
}

#[test]
fn the_first_list_tells_aliases_and_leaves_the_rest_to_dns() {
    let mut store = Store::new(RULE);
    let reported = store.take(Report::Listed(vec![
        alias("foo", "a.example"),
        other("bar"),
    ]));
    assert_eq!(reported, changes(&[("foo", to("a.example"))]));
    assert_eq!(store.find("foo"), to("a.example"));
    assert_eq!(store.find("bar"), Known::Nothing);
    assert_eq!(store.find("baz"), Known::Nothing, "it was never there");
    let elsewhere = name("other.foo.svc.cluster.local");
    assert_eq!(store.services.find(&elsewhere, store.now), Known::Nothing);
}

#[test]
fn each_change_is_told_once_and_of_its_own_target_only() {
    let mut store = Store::new(RULE);
    store.take(Report::Listed(vec![alias("foo", "a.example")]));
    assert_eq!(
        store.take(Report::Applied(alias("foo", "b.example"))),
        changes(&[("foo", to("b.example"))])
    );
    assert!(
        store
            .take(Report::Applied(alias("foo", "b.example")))
            .is_empty(),
        "a label has changed, say"
    );
    assert_eq!(
        store.take(Report::Applied(alias("bar", "c.example"))),
        changes(&[("bar", to("c.example"))])
    );
    assert_eq!(store.deleted("foo"), changes(&[("foo", Known::Absent)]));
    assert!(store.deleted("foo").is_empty());
    assert_eq!(store.find("bar"), to("c.example"));
}

#[test]
fn an_alias_of_another_one_is_followed_to_its_end() {
    let to_bar = "up.bar.svc.cluster.local";
    let mut store = Store::new(RULE);
    assert_eq!(
        store.take(Report::Listed(vec![
            alias("foo", to_bar),
            alias("bar", "a.example"),
            alias("baz", "up.foo.svc.cluster.local"),
            alias("else", "other.bar.svc.cluster.local"),
        ])),
        changes(&[
            ("foo", to("a.example")),
            ("bar", to("a.example")),
            ("baz", to("a.example")),
            ("else", to("other.bar.svc.cluster.local")),
        ])
    );
    assert_eq!(store.find("foo"), to("a.example"));
    // A change is one of those that lead to it, and of no others.
    assert_eq!(
        store.take(Report::Applied(alias("bar", "b.example"))),
        changes(&[
            ("foo", to("b.example")),
            ("bar", to("b.example")),
            ("baz", to("b.example")),
        ])
    );
    // What is gone, or another type, is left to DNS from there on.
    assert_eq!(
        store.deleted("bar"),
        changes(&[
            ("foo", to(to_bar)),
            ("bar", Known::Absent),
            ("baz", to(to_bar)),
        ])
    );
    store.take(Report::Applied(other("bar")));
    assert_eq!(store.find("baz"), to(to_bar));
    // The first one leads elsewhere.
    assert_eq!(
        store.take(Report::Applied(alias("foo", "c.example"))),
        changes(&[("foo", to("c.example")), ("baz", to("c.example"))])
    );
}

#[test]
fn aliases_in_a_circle_end_somewhere_in_it() {
    let mut store = Store::new(RULE);
    store.take(Report::Applied(alias("foo", "up.foo.svc.cluster.local")));
    assert_eq!(store.find("foo"), to("up.foo.svc.cluster.local"));
    store.take(Report::Applied(alias("foo", "up.bar.svc.cluster.local")));
    let circle = store.take(Report::Applied(alias("bar", "up.foo.svc.cluster.local")));
    assert_eq!(circle.len(), 2);
    for namespace in ["foo", "bar"] {
        assert!(matches!(store.find(namespace), Known::Alias(_)));
    }
}

#[test]
fn a_deleted_service_is_absent_for_as_long_as_caches_may_have_it() {
    let mut store = Store::new(RULE);
    store.take(Report::Listed(vec![alias("foo", "a.example")]));
    store.deleted("foo");
    store.pass(ABSENT_FOR - Duration::from_secs(1));
    assert_eq!(store.find("foo"), Known::Absent);
    store.pass(Duration::from_secs(1));
    assert_eq!(store.find("foo"), Known::Nothing);
}

#[test]
fn a_service_that_comes_back_is_an_alias_at_once() {
    let mut store = Store::new(RULE);
    store.take(Report::Listed(vec![alias("foo", "a.example")]));
    store.deleted("foo");
    store.take(Report::Applied(alias("foo", "b.example")));
    assert_eq!(store.find("foo"), to("b.example"));
}

#[test]
fn a_service_of_another_type_is_left_to_dns_and_is_not_absent() {
    let mut store = Store::new(RULE);
    store.take(Report::Listed(vec![alias("foo", "a.example")]));
    assert_eq!(
        store.take(Report::Applied(other("foo"))),
        changes(&[("foo", Known::Nothing)])
    );
    assert_eq!(store.find("foo"), Known::Nothing);
    // A new one: what was denied a moment ago exists now.
    assert_eq!(
        store.take(Report::Applied(other("bar"))),
        changes(&[("bar", Known::Nothing)])
    );
}

#[test]
fn where_only_external_names_are_watched_a_deletion_is_left_to_dns() {
    let mut store = Store::new("{service}.{namespace}.svc.cluster.local");
    store.take(Report::Listed(vec![alias("foo", "a.example")]));
    assert_eq!(store.deleted("foo"), changes(&[("foo", Known::Nothing)]));
    assert_eq!(store.find("foo"), Known::Nothing);
}

#[test]
fn a_list_after_a_gap_tells_what_was_missed() {
    let mut store = Store::new(RULE);
    store.take(Report::Listed(vec![
        alias("same", "a.example"),
        alias("moved", "a.example"),
        alias("gone", "a.example"),
        other("other"),
    ]));
    store.take(Report::Lost);
    store.pass(Duration::from_secs(10));
    let reported = store.take(Report::Listed(vec![
        alias("same", "a.example"),
        alias("moved", "b.example"),
        alias("new", "a.example"),
        other("other"),
    ]));
    assert_eq!(
        reported,
        changes(&[
            // Told again: answers may be older than what is known here.
            ("same", to("a.example")),
            ("moved", to("b.example")),
            ("gone", Known::Absent),
            ("new", to("a.example")),
        ])
    );
}

#[test]
fn the_last_state_counts_for_a_while_after_the_connection_is_lost() {
    let mut store = Store::new(RULE);
    store.take(Report::Listed(vec![alias("foo", "a.example")]));
    store.pass(Duration::from_secs(3600));
    assert_eq!(store.find("foo"), to("a.example"), "it is connected");
    store.take(Report::Lost);
    store.pass(LOST_FOR - Duration::from_secs(1));
    // Failing again does not prolong it.
    store.take(Report::Lost);
    assert_eq!(store.find("foo"), to("a.example"));
    let summary = store.services.summary(store.now);
    assert_eq!(
        summary.age,
        Some(Duration::from_secs(3600) + LOST_FOR - Duration::from_secs(1))
    );
    assert_eq!((summary.watches, summary.connected), (1, 0));
    store.pass(Duration::from_secs(1));
    assert_eq!(store.find("foo"), Known::Nothing);
    store.take(Report::Heard);
    assert_eq!(store.find("foo"), to("a.example"));
    assert_eq!(store.services.summary(store.now).age, Some(Duration::ZERO));
}

#[test]
fn another_selection_keeps_what_stays() {
    let mut store = Store::new(RULE);
    store.take(Report::Listed(vec![alias("foo", "a.example")]));
    let domain = ClusterDomain::new("cluster.local").unwrap();
    let both = selectors([RULE, "down.{namespace}.svc.cluster.local"], &domain);
    store.services.select(domain.clone(), both);
    assert_eq!(store.find("foo"), to("a.example"));
    assert_eq!(store.services.summary(store.now).age, None);
    let down = selectors(["down.{namespace}.svc.cluster.local"], &domain);
    store.services.select(domain, down);
    assert_eq!(store.find("foo"), Known::Nothing);
    // Of a watch that is ending.
    assert!(
        store
            .take(Report::Applied(alias("foo", "b.example")))
            .is_empty()
    );
    assert_eq!(store.find("foo"), Known::Nothing);
}

#[derive(Clone, Debug)]
enum Step {
    Listed(Vec<(u8, Option<u8>)>),
    Applied(u8, Option<u8>),
    Deleted(u8),
    Heard,
    Lost,
    Pass(u16),
}

fn step() -> impl Strategy<Value = Step> {
    let kind = || prop::option::of(0..3u8);
    prop_oneof![
        1 => prop::collection::vec((0..4u8, kind()), 0..5).prop_map(Step::Listed),
        4 => (0..4u8, kind()).prop_map(|(n, k)| Step::Applied(n, k)),
        2 => (0..4u8).prop_map(Step::Deleted),
        1 => Just(Step::Heard),
        1 => Just(Step::Lost),
        2 => (0..400u16).prop_map(Step::Pass),
    ]
}

fn service(namespace: u8, kind: Option<u8>) -> Service {
    match kind {
        Some(external) => alias(&namespace.to_string(), &format!("e{external}.example")),
        None => other(&namespace.to_string()),
    }
}

proptest! {
    /// Whoever keeps answers and drops those that a change contradicts never has one that the store denies.
    #[test]
    fn answers_that_heed_the_changes_never_contradict_what_is_known(
        steps in prop::collection::vec(step(), 0..60)
    ) {
        let mut store = Store::new(RULE);
        // The chain of the answer that is kept for each target.
        let mut kept: HashMap<Name, Vec<Name>> = HashMap::new();
        for step in steps {
            let reported = match step {
                Step::Listed(list) => {
                    let by_id: HashMap<u8, Option<u8>> = list.into_iter().collect();
                    let list = by_id.into_iter().map(|(n, k)| service(n, k)).collect();
                    store.take(Report::Listed(list))
                }
                Step::Applied(n, k) => store.take(Report::Applied(service(n, k))),
                Step::Deleted(n) => store.deleted(&n.to_string()),
                Step::Heard => store.take(Report::Heard),
                Step::Lost => store.take(Report::Lost),
                Step::Pass(seconds) => {
                    store.pass(Duration::from_secs(seconds.into()));
                    Changes::default()
                }
            };
            kept.retain(|target, chain| !reported.contradict([target], chain, false));
            for namespace in 0..4u8 {
                let target = target(&namespace.to_string());
                let known = store.services.find(&target, store.now);
                match (known, kept.get(&target)) {
                    (Known::Alias(alias), Some(chain)) => prop_assert_eq!(chain.get(1), Some(&alias)),
                    (Known::Alias(alias), None) => {
                        kept.insert(target.clone(), vec![target, alias]);
                    }
                    (Known::Absent, chain) => prop_assert_eq!(chain, None),
                    // DNS decides, which is out of sight here: its answers are refreshed by their TTL.
                    (Known::Nothing, _) => {
                        kept.remove(&target);
                    }
                }
            }
        }
    }
}
