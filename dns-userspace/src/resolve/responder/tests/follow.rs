//! Rules whose target is another rule's name, and rules by `regex`.

use super::*;

const ZONAL: &str = "lkc-1-az1.kafka.foo.svc.cluster.local.";

/// A global name that points to a zonal one, which has a rule of its own.
fn zonal() -> Arc<RuleSet> {
    rules(&[
        (
            "global",
            pattern("bootstrap.{namespace}.svc.cluster.local"),
            "lkc-1-az1.kafka.{namespace}.svc.cluster.local",
            60,
        ),
        (
            "zonal",
            pattern("*.kafka.{namespace}.svc.cluster.local"),
            "kafka-upstream.{namespace}.svc.cluster.local",
            7,
        ),
    ])
}

fn ask(lab: &Lab, rules: &Arc<RuleSet>, qname: &str, qtype: RecordType) {
    let rule = rules.find(&wire(qname), None).unwrap();
    let message = query_bytes(1, qname, qtype, None);
    lab.intercepts(rules, rule, None, Arc::default(), &message);
}

fn wire(text: &str) -> Vec<u8> {
    crate::resolve::wire_name(&name(text))
}

const GLOBAL: &str = "bootstrap.foo.svc.cluster.local.";

#[tokio::test]
async fn a_target_that_is_another_rules_name_is_followed_inside() {
    let (lab, rules) = (Lab::new(ResponderOptions::default()), zonal());
    ask(&lab, &rules, GLOBAL, RecordType::A);
    assert_eq!(lab.resolve(found(1, 20)).await.0, name(TARGET));
    let reply = lab.reply();
    assert_eq!(
        reply.answers,
        [
            cname(GLOBAL, 7, ZONAL),
            cname(ZONAL, 7, TARGET),
            a(TARGET, 7, [10, 0, 0, 1])
        ]
    );
    assert_eq!(lab.responder.status().namespaces["foo"]["answer"], 1);
    // The zonal name by itself has an answer of its own.
    ask(&lab, &rules, ZONAL, RecordType::A);
    lab.resolve(found(1, 20)).await;
    assert_eq!(lab.reply().answers.len(), 2);
    // qtype CNAME: the first one alone.
    ask(&lab, &rules, GLOBAL, RecordType::CNAME);
    let exists = Outcome::Answer(Answer {
        qtype: RecordType::CNAME,
        ..addresses(&[TARGET], 0, 20)
    });
    lab.resolve(exists).await;
    assert_eq!(lab.reply().answers, [cname(GLOBAL, 7, ZONAL)]);
}

#[tokio::test]
async fn without_a_target_behind_the_second_rule_the_first_ones_is_looked_up() {
    let (lab, rules) = (Lab::new(ResponderOptions::default()), zonal());
    ask(&lab, &rules, GLOBAL, RecordType::A);
    assert_eq!(lab.resolve(Outcome::NoTarget).await.0, name(TARGET));
    let zonal_itself = Outcome::Answer(addresses(&[ZONAL], 1, 20));
    assert_eq!(lab.resolve(zonal_itself).await.0, name(ZONAL));
    assert_eq!(
        lab.reply().answers,
        [cname(GLOBAL, 7, ZONAL), a(ZONAL, 7, [10, 0, 0, 1])]
    );
    // And with neither the query passes.
    let lab = Lab::new(ResponderOptions::default());
    ask(&lab, &rules, GLOBAL, RecordType::A);
    lab.resolve(Outcome::NoTarget).await;
    lab.resolve(Outcome::NoTarget).await;
    assert_eq!(lab.sent(), [Sent::PassedOn(3)]);
}

#[tokio::test]
async fn three_rules_in_a_row_and_a_regex_among_them() {
    let rules = rules(&[
        (
            "first",
            pattern("a.{namespace}.svc.cluster.local"),
            "b.{namespace}.svc.cluster.local",
            60,
        ),
        (
            "second",
            MatchSpec::Regex(r"^b\.(?P<namespace>[a-z]+)\.svc\.cluster\.local\.$".to_owned()),
            "c.{namespace}.svc.cluster.local",
            60,
        ),
        (
            "third",
            pattern("c.{namespace}.svc.cluster.local"),
            "kafka-upstream.{namespace}.svc.cluster.local",
            60,
        ),
    ]);
    let lab = Lab::new(ResponderOptions::default());
    ask(&lab, &rules, "a.foo.svc.cluster.local.", RecordType::A);
    lab.resolve(found(1, 20)).await;
    let reply = lab.reply();
    let owners: Vec<String> = reply.answers.iter().map(|r| r.name.to_string()).collect();
    assert_eq!(
        owners,
        [
            "a.foo.svc.cluster.local.",
            "b.foo.svc.cluster.local.",
            "c.foo.svc.cluster.local.",
            TARGET
        ]
    );
}

#[tokio::test]
async fn a_chain_that_comes_back_to_a_rules_target_is_a_loop() {
    let (lab, rules) = (Lab::new(ResponderOptions::default()), zonal());
    ask(&lab, &rules, GLOBAL, RecordType::A);
    let back = Outcome::Answer(addresses(&[TARGET, ZONAL], 1, 20));
    lab.resolve(back).await;
    assert!(is_servfail(&lab.reply()));
    assert_eq!(lab.responder.status().chase_failures["loop"], 1);
}

/// A loop that only a group of several labels makes is not seen when the rules are compiled.
#[test]
fn following_ends() {
    let rules = rules(&[(
        "grows",
        MatchSpec::Regex(r"^(.*)\.x\.example\.$".to_owned()),
        "{1}.x.y.example",
        60,
    )]);
    let chain = rules.follow(0, &wire("a.x.example."), None).unwrap();
    assert_eq!(chain.len(), 1);
}

/// The names of a regex have no part in the key: one look-up serves whatever leads to the same target.
#[tokio::test]
async fn repeated_names_of_a_regex_are_answered_without_a_look_up() {
    let rules = rules(&[(
        "vendor",
        MatchSpec::Regex(
            r"^e-[0-9]+-az[0-9]-[0-9]+\.kafka\.(?P<namespace>[a-z]+)\.svc\.cluster\.local\.$"
                .to_owned(),
        ),
        "kafka-upstream.{namespace}.svc.cluster.local",
        60,
    )]);
    let lab = Lab::new(ResponderOptions::default());
    ask(
        &lab,
        &rules,
        "e-0013-az1-43860.kafka.foo.svc.cluster.local.",
        RecordType::A,
    );
    lab.resolve(found(1, 20)).await;
    lab.reply();
    for qname in [
        "e-0013-az1-43860.kafka.foo.svc.cluster.local.",
        "E-0013-AZ1-43860.kafka.foo.svc.cluster.local.",
        "e-0014-az2-43861.kafka.foo.svc.cluster.local.",
        "e-99-az3-1.kafka.foo.svc.cluster.local.",
    ] {
        ask(&lab, &rules, qname, RecordType::A);
        assert_eq!(lab.reply().answers.len(), 2, "{qname}");
    }
    assert_eq!(lab.responder.status().chases, 1);
}
