//! Claims against a configuration's rules: what each namespace's pods get of them.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::model::{Client, wire_name};

const DOMAIN: &str = "cluster.local";

fn platform_with(
    may_claim: &[&str],
    names_per_namespace: usize,
    rules: &[(&str, &str)],
) -> Platform {
    let spec = |(index, (pattern, cname)): (usize, &(&str, &str))| RuleSpec {
        name: format!("platform-{index}"),
        matches: MatchSpec::Pattern((*pattern).to_owned()),
        cname: (*cname).to_owned(),
        ttl_seconds: DEFAULT_TTL,
        follow: true,
        ..RuleSpec::default()
    };
    let specs: Vec<RuleSpec> = rules.iter().enumerate().map(spec).collect();
    Platform {
        tenants: Tenants {
            may_claim: may_claim
                .iter()
                .map(|text| NamePattern::parse(text).unwrap())
                .collect(),
            names_per_namespace,
            file: None,
        },
        cluster_domain: DOMAIN.to_owned(),
        rules: Arc::new(RuleSet::compile(&specs).unwrap()),
        specs,
        terms: String::new(),
        protects: false,
        mode: Mode::Answer,
    }
}

fn platform() -> Platform {
    platform_with(&["*.confluent.cloud", "lkc-1.example.net"], 32, &[])
}

fn claimant(namespace: &str, service: &str, names: &str) -> Claimant {
    Claimant {
        namespace: namespace.to_owned(),
        service: service.to_owned(),
        uid: format!("{namespace}-{service}"),
        names: names.to_owned(),
        ..Claimant::default()
    }
}

fn snapshot(claimants: Vec<Claimant>, namespaces: &[&str]) -> Snapshot {
    Snapshot {
        claimants,
        namespaces: namespaces.iter().map(|&text| text.to_owned()).collect(),
    }
}

fn budget() -> Budget {
    Budget::new(Duration::from_secs(60), 128 << 20)
}

/// The target that a pod of a namespace has for a name.
fn target(rules: &RuleSet, namespace: &str, name: &str) -> Option<String> {
    let client = Client {
        namespace: namespace.to_owned(),
        claims: rules.claims_of(namespace),
        ..Client::default()
    };
    let qname = wire_name(&format!("{name}.").parse().unwrap());
    let rule = rules.find(&qname, Some(&client))?;
    let chain = rules.follow(rule, &qname, Some(&client))?;
    chain.last().map(|(_, matched)| matched.target.to_ascii())
}

fn compiled(platform: &Platform, snapshot: &Snapshot) -> (Arc<RuleSet>, Decision) {
    compile(platform, snapshot, budget)
}

/// What was refused of a Service, by name and label.
fn refused(decision: &Decision, service: &str) -> Vec<(String, &'static str)> {
    let verdict = decision.verdicts.iter().find(|one| one.service == service);
    let refused = verdict.unwrap().refused.iter();
    refused
        .map(|(name, why)| (name.clone(), why.label()))
        .collect()
}

#[test]
fn tenants_claim_the_same_names_for_services_of_their_own() {
    let claims = vec![
        claimant(
            "foo",
            "kafka-upstream",
            "*.aws.confluent.cloud, lkc-1.example.net",
        ),
        claimant("bar", "kafka", "*.aws.confluent.cloud"),
        claimant("elsewhere", "kafka", "*.elsewhere.confluent.cloud"),
    ];
    let all = snapshot(claims, &["foo", "bar", "baz"]);
    let (rules, decision) = compiled(&platform(), &all);
    let get = |namespace: &str, name: &str| target(&rules, namespace, name);
    let foo = Some("kafka-upstream.foo.svc.cluster.local.".to_owned());
    assert_eq!(get("foo", "lkc-7.aws.confluent.cloud"), foo);
    assert_eq!(get("foo", "lkc-1.example.net"), foo);
    let bar = Some("kafka.bar.svc.cluster.local.".to_owned());
    assert_eq!(get("bar", "lkc-7.aws.confluent.cloud"), bar);
    assert_eq!(get("bar", "lkc-1.example.net"), None);
    assert_eq!(get("baz", "lkc-7.aws.confluent.cloud"), None);
    // Without pods here.
    assert_eq!(get("elsewhere", "a.elsewhere.confluent.cloud"), None);
    assert_eq!(decision.rules.len(), 2, "one for each pattern");
    assert_eq!(decision.verdicts.len(), 2);
}

#[test]
fn the_narrower_claim_of_a_namespace_comes_first_and_others_have_the_next() {
    let claims = vec![
        claimant("foo", "wide", "*.confluent.cloud"),
        claimant("foo", "narrow", "*.aws.confluent.cloud"),
        claimant("foo", "exact", "lkc-1.aws.confluent.cloud"),
        claimant(
            "bar",
            "narrow",
            "lkc-1.aws.confluent.cloud, *.eu.aws.confluent.cloud",
        ),
        claimant("baz", "wide", "*.confluent.cloud"),
    ];
    let (rules, _) = compiled(&platform(), &snapshot(claims, &["foo", "bar", "baz"]));
    for (namespace, name, service) in [
        ("foo", "lkc-1.aws.confluent.cloud", Some("exact")),
        ("foo", "lkc-2.aws.confluent.cloud", Some("narrow")),
        ("foo", "lkc-2.eu.aws.confluent.cloud", Some("narrow")),
        ("foo", "lkc-2.gcp.confluent.cloud", Some("wide")),
        ("bar", "lkc-1.aws.confluent.cloud", Some("narrow")),
        ("bar", "lkc-2.aws.confluent.cloud", None),
        ("baz", "lkc-1.aws.confluent.cloud", Some("wide")),
        ("baz", "lkc-2.eu.aws.confluent.cloud", Some("wide")),
    ] {
        let expected = service.map(|service| format!("{service}.{namespace}.svc.cluster.local."));
        assert_eq!(
            target(&rules, namespace, name),
            expected,
            "{namespace} {name}"
        );
    }
}

#[test]
fn each_refusal_says_why_and_leaves_the_rest() {
    let platform = platform_with(
        &["*.confluent.cloud"],
        4,
        &[("*.taken.confluent.cloud", "up.example.net")],
    );
    let older = claimant("foo", "older", "*.a.confluent.cloud");
    let mut newer = claimant(
        "foo",
        "newer",
        "*.A.confluent.cloud, a b.confluent.cloud, *.example.net, x.svc.cluster.local,, *.x.taken.confluent.cloud,\
         1.confluent.cloud, 1.confluent.cloud, 2.confluent.cloud, 3.confluent.cloud, 4.confluent.cloud",
    );
    newer.created = 1;
    let (_, decision) = compiled(&platform, &snapshot(vec![newer, older], &["foo"]));
    assert_eq!(refused(&decision, "older"), []);
    let names = refused(&decision, "newer");
    let expected = [
        ("*.A.confluent.cloud", "contradiction"),
        ("a b.confluent.cloud", "malformed"),
        ("*.example.net", "not_allowed"),
        ("x.svc.cluster.local", "cluster_domain"),
    ];
    let expected = expected.map(|(name, label)| (name.to_owned(), label));
    assert_eq!(names, expected);
    let newer = &decision.verdicts[0];
    assert_eq!((newer.counts["shadowed"], newer.counts["too_many"]), (1, 1));
    let message = newer.message().unwrap();
    assert!(
        message.contains("*.A.confluent.cloud: the Service older"),
        "{message}"
    );
    assert!(
        message.ends_with("; and 2 more") && message.len() < 1024,
        "{message}"
    );
    assert_eq!(newer.service, "newer");
    assert_eq!(newer.accepted.len(), 3);
}

#[test]
fn ten_thousand_names_of_one_namespace_leave_the_others_theirs() {
    let many: Vec<String> = (0..10_000)
        .map(|n| format!("{n}.confluent.cloud"))
        .collect();
    let claims = vec![
        claimant("hostile", "many", &many.join(",")),
        claimant("foo", "up", "*.confluent.cloud"),
    ];
    let (rules, decision) = compiled(&platform(), &snapshot(claims, &["foo", "hostile"]));
    assert_eq!(decision.rules.len(), 33);
    let hostile = &decision.verdicts[1];
    assert_eq!(hostile.counts["too_many"], 10_000 - 32);
    assert!(hostile.refused.len() <= MAX_REFUSED);
    let own = target(&rules, "foo", "7.confluent.cloud").unwrap();
    assert_eq!(own, "up.foo.svc.cluster.local.");
}

#[test]
fn a_name_below_all_the_domains_that_others_claim_is_still_the_owners() {
    let label = |depth: usize| {
        (0..depth)
            .rev()
            .map(|n| format!("l{n}."))
            .collect::<String>()
    };
    let nested: Vec<String> = (0..8)
        .map(|depth| format!("*.{}confluent.cloud", label(depth)))
        .collect();
    let name = format!("x.{}confluent.cloud", label(12));
    let claims = vec![
        claimant("hostile", "nested", &format!("{},{name}", nested.join(","))),
        claimant("foo", "up", "*.confluent.cloud"),
    ];
    let (rules, _) = compiled(&platform(), &snapshot(claims, &["foo", "hostile"]));
    let own = target(&rules, "foo", &name).unwrap();
    assert_eq!(own, "up.foo.svc.cluster.local.");
}

#[test]
fn the_same_claims_in_any_order_are_the_same_rules() {
    let mut claims: Vec<Claimant> = (0..20)
        .map(|n| {
            claimant(
                &format!("ns-{}", n % 5),
                &format!("s{n}"),
                &format!("{}.confluent.cloud,*.confluent.cloud", n % 3),
            )
        })
        .collect();
    let namespaces = ["ns-0", "ns-1", "ns-2", "ns-3", "ns-4"];
    let first = decide(&platform(), &snapshot(claims.clone(), &namespaces), 100);
    claims.reverse();
    assert_eq!(
        decide(&platform(), &snapshot(claims, &namespaces), 100),
        first
    );
}

#[test]
fn the_room_of_a_node_is_shared_by_namespace() {
    let claims = vec![
        claimant(
            "foo",
            "up",
            "1.confluent.cloud,2.confluent.cloud,3.confluent.cloud",
        ),
        claimant("bar", "up", "1.confluent.cloud"),
    ];
    let decision = decide(&platform(), &snapshot(claims.clone(), &["foo", "bar"]), 4);
    assert_eq!(decision.verdicts[0].accepted, ["1.confluent.cloud"]);
    assert_eq!(decision.verdicts[1].accepted.len(), 2);
    assert_eq!(decision.verdicts[1].counts["no_room"], 1);
    // No budget at all leaves the configuration's rules.
    let none = || Budget::new(Duration::ZERO, 0);
    let again = snapshot(claims, &["foo", "bar"]);
    let (rules, decision) = compile(&platform(), &again, none);
    assert!(rules.rules().is_empty() && decision.rules.is_empty());
    let verdicts = &decision.verdicts;
    assert!(
        verdicts
            .iter()
            .all(|one| one.accepted.is_empty() && one.counts.contains_key("no_room"))
    );
    let same = decision.with_the_same_rules(&platform(), &again);
    assert_eq!(same, None);
}

/// A rule of the configuration is never led on to a claim, so its answers do not depend on any.
#[test]
fn what_the_configuration_answers_does_not_depend_on_claims() {
    let platform = platform_with(
        &["*.confluent.cloud"],
        32,
        &[
            ("alias.example.net", "x.confluent.cloud"),
            ("*.example.org", "alias.example.net"),
        ],
    );
    let without = compiled(&platform, &snapshot(vec![], &["foo"])).0;
    let claims = vec![claimant("foo", "up", "*.confluent.cloud")];
    let with = compiled(&platform, &snapshot(claims, &["foo"])).0;
    assert_eq!(with.rules().len(), 3);
    for (before, after) in without.rules().iter().zip(with.rules()) {
        assert_eq!(before.id(), after.id());
    }
    for name in ["alias.example.net", "a.example.org"] {
        assert_eq!(target(&with, "foo", name).unwrap(), "x.confluent.cloud.");
    }
}

/// 500 namespaces that claim 20 names in common and 5 of their own; 60 of them have pods here.
#[test]
fn a_large_cluster_compiles() {
    let shared: Vec<String> = (0..20).map(|n| format!("*.c{n}.confluent.cloud")).collect();
    let shared = shared.join(",");
    let claims: Vec<Claimant> = (0..500)
        .map(|n| {
            let own: Vec<String> = (0..5)
                .map(|k| format!("lkc-{n}-{k}.own.confluent.cloud"))
                .collect();
            claimant(
                &format!("ns-{n}"),
                "up",
                &format!("{shared},{}", own.join(",")),
            )
        })
        .collect();
    let names: Vec<String> = (0..60).map(|n| format!("ns-{}", n * 8)).collect();
    let namespaces: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = snapshot(claims, &namespaces);
    let started = Instant::now();
    let (rules, decision) = compile(&platform(), &all, || {
        Budget::new(Duration::from_secs(60), 32 << 20)
    });
    println!(
        "{} rules of {} claims in {:?}, a matcher of {} kB",
        rules.rules().len(),
        all.claimants.len() * 25,
        started.elapsed(),
        rules.table().entries.len() * size_of_val(&rules.table().entries[0]) / 1024
    );
    assert_eq!(decision.rules.len(), 20 + 60 * 5);
    for name in &names {
        let own = target(&rules, name, "b0.c7.confluent.cloud").unwrap();
        assert_eq!(own, format!("up.{name}.svc.cluster.local."));
    }
    let own = format!("lkc-{}-3.own.confluent.cloud", 8 * 7);
    assert!(target(&rules, &names[7], &own).is_some());
    assert_eq!(target(&rules, &names[8], &own), None);
}

fn some_claims() -> impl Strategy<Value = Vec<(String, String, i64)>> {
    let name = prop::sample::select(vec![
        "*.confluent.cloud",
        "*.a.confluent.cloud",
        "*.b.a.confluent.cloud",
        "x.b.a.confluent.cloud",
        "x.a.confluent.cloud",
        "confluent.cloud",
        "lkc-1.example.net",
        "*.cluster.local",
        "",
        "*",
    ]);
    let names = prop::collection::vec(name, 0..6).prop_map(|names| names.join(","));
    let service = prop::sample::select(vec!["s1", "s2", "s3"]).prop_map(str::to_owned);
    prop::collection::vec((service, names, 0..3i64), 0..4)
}

fn of(namespace: &str, claims: &[(String, String, i64)]) -> Vec<Claimant> {
    let mut seen = BTreeSet::new();
    let claims = claims
        .iter()
        .filter(|(service, ..)| seen.insert(service.clone()));
    let claims = claims.map(|(service, names, created)| Claimant {
        created: *created,
        ..claimant(namespace, service, names)
    });
    claims.collect()
}

proptest! {
    #[test]
    fn no_claim_changes_what_another_namespaces_pods_get(
        foo in some_claims(),
        before in some_claims(),
        after in some_claims(),
        limit in 1usize..5,
        room in 0usize..12,
    ) {
        let platform = platform_with(
            &["*.confluent.cloud", "lkc-1.example.net"],
            limit,
            &[("*.b.a.confluent.cloud", "platform.example.net")],
        );
        let with = |bar: &[(String, String, i64)]| {
            let claims = [of("foo", &foo), of("bar", bar)].concat();
            let all = snapshot(claims, &["foo", "bar"]);
            let decision = decide(&platform, &all, room);
            let specs = [platform.specs.clone(), decision.rules.clone()].concat();
            let verdicts = decision.verdicts.into_iter().filter(|one| one.namespace == "foo");
            (RuleSet::compile(&specs).unwrap(), verdicts.collect::<Vec<_>>())
        };
        let ((before, said_before), (after, said_after)) = (with(&before), with(&after));
        prop_assert_eq!(said_before, said_after);
        for name in [
            "z.confluent.cloud", "z.a.confluent.cloud", "x.a.confluent.cloud", "x.b.a.confluent.cloud",
            "z.b.a.confluent.cloud", "confluent.cloud", "lkc-1.example.net", "a.cluster.local",
        ] {
            prop_assert_eq!(target(&before, "foo", name), target(&after, "foo", name));
            prop_assert_eq!(target(&after, "nobody", name).is_some(), name.ends_with(".b.a.confluent.cloud"));
        }
        prop_assert_eq!(before.claims_of("foo"), after.claims_of("foo"));
    }
}

/// `protect_targets` holds beside claims, for the configuration's targets and for those of claims.
#[test]
fn targets_stay_protected() {
    let mut platform = platform_with(
        &["*.confluent.cloud"],
        32,
        &[(
            "*.kafka.{namespace}.svc.cluster.local",
            "kafka-upstream.{namespace}.svc.cluster.local",
        )],
    );
    platform.protects = true;
    let snapshot = snapshot(vec![claimant("foo", "up", "*.confluent.cloud")], &["foo"]);
    let (rules, _) = compile(&platform, &snapshot, Budget::of_this_process);
    let mut patterns: Vec<&str> = rules.protected().map(crate::rules::Rule::pattern).collect();
    patterns.sort_unstable();
    assert_eq!(
        patterns,
        [
            "kafka-upstream.{namespace}.svc.cluster.local",
            "up.{namespace}.svc.cluster.local"
        ]
    );
}
