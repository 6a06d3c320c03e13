//! A rule that names its namespaces is for their names alone, and one that observes changes nothing: from a pod, over reloads,
//! with what the programs have answered before.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{fs, net::IpAddr};

use e2e::{
    Metrics, addresses, chain, exchange_tcp, loads, qualified, sorted, until,
    until_the_programs_answer, wait_for_log,
};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, Pod,
        world::{BAR_ADDRESSES, FOO_ADDRESSES, NODE_LOCAL_V4},
    },
    tools,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);

fn ask(pod: &Pod, name: &str) -> Message {
    pod.ask(Ask::new(CACHE, name, RecordType::A)).unwrap()
}

/// What the pod gets is the tenant's endpoint, or the existing cache's denial.
fn is_served(pod: &Pod, namespace: &str, endpoint: [IpAddr; 3]) -> bool {
    let reply = ask(pod, &qualified(namespace));
    match reply.metadata.response_code {
        ResponseCode::NoError => {
            let endpoint = endpoint.into_iter().filter(IpAddr::is_ipv4);
            assert_eq!(addresses(&reply), sorted(endpoint));
            true
        }
        code => {
            assert_eq!(code, ResponseCode::NXDomain);
            assert_eq!(chain(&reply), []);
            false
        }
    }
}

/// The lab's configuration with more keys in its only rule.
fn with_keys(lab: &Lab, keys: &str) -> String {
    format!("{}{keys}\n", lab.gregor_config())
}

fn reload(gregor: &Gregor, config: &str) {
    let before = loads(gregor, "success");
    gregor.write_config(config).unwrap();
    until("the reload", || {
        let status = gregor.status().unwrap();
        assert!(status["config"]["error"].is_null(), "{status}");
        (loads(gregor, "success") > before).then_some(())
    });
}

fn start(lab: &Lab, config: &str) -> Gregor {
    lab.start_gregor(&tools::gregor().unwrap(), config).unwrap()
}

/// Until a namespace's names are answered in the kernel, by their end and by their captures.
fn become_known(gregor: &Gregor, pod: &Pod, namespace: &str, endpoint: [IpAddr; 3]) {
    until_the_programs_answer(gregor, namespace, |_| {
        assert!(is_served(pod, namespace, endpoint));
    });
}

#[test]
fn a_rule_is_for_the_namespaces_that_it_names() {
    let lab = Lab::builder("e2enamespaces").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let only = |list: &str| with_keys(&lab, &format!("namespaces = [{list}]"));
    let gregor = start(&lab, &only("\"foo\", \"team-*\""));
    let served = || {
        [
            is_served(foo, "foo", FOO_ADDRESSES),
            is_served(foo, "bar", BAR_ADDRESSES),
        ]
    };
    assert_eq!(served(), [true, false]);
    become_known(&gregor, foo, "foo", FOO_ADDRESSES);
    assert_eq!(served(), [true, false]);

    // One more namespace: what is known of the first one stays.
    reload(&gregor, &only("\"foo\", \"b*r\""));
    let taken = Metrics::of(&gregor).taken();
    assert!(is_served(foo, "foo", FOO_ADDRESSES));
    assert_eq!(Metrics::of(&gregor).taken(), taken, "foo is known still");
    assert_eq!(served(), [true, true]);
    become_known(&gregor, foo, "bar", BAR_ADDRESSES);

    // The first one goes: what is known of it is not answered any more.
    reload(&gregor, &only("\"bar\""));
    assert_eq!(served(), [false, true]);
    reload(&gregor, &lab.gregor_config());
    assert_eq!(served(), [true, true]);
}

/// Which namespaces have the labels only the API server can say. Without one the rule is for none, and everything says so; what an
/// earlier process knew counts until it does.
#[test]
fn without_an_api_server_a_rule_with_labels_is_for_the_namespaces_that_were_known() {
    let lab = Lab::builder("e2elabels").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let labelled = with_keys(&lab, "namespaces = { tier = \"gold\" }");
    let gregor = start(&lab, &labelled);
    let served = || {
        [
            is_served(foo, "foo", FOO_ADDRESSES),
            is_served(foo, "bar", BAR_ADDRESSES),
        ]
    };
    assert_eq!(served(), [false, false]);
    let status = gregor.status_text(&[]).unwrap();
    for part in [
        "for namespaces with tier=gold: NOT KNOWN, so for none",
        "NOT WATCHED",
    ] {
        assert!(status.contains(part), "{part}: {status}");
    }
    let log = gregor.log();
    assert!(log.contains("the rule is for none"), "{log}");
    assert_eq!(
        Metrics::of(&gregor).get("gregor_kubernetes_selectors_unknown"),
        1.0
    );
    // The API server has not taken part in what else there is.
    reload(&gregor, &with_keys(&lab, "namespaces = [\"foo\"]"));
    assert_eq!(served(), [true, false]);
    reload(&gregor, &labelled);
    assert_eq!(served(), [false, false]);
    gregor.stop();

    // As an earlier process has left it.
    let known = r#"[[{"tier":["gold"]},["foo"]]]"#;
    fs::write(lab.directory().join("namespaces.json"), known).unwrap();
    let gregor = start(&lab, &labelled);
    assert_eq!(served(), [true, false]);
    let status = gregor.status_text(&[]).unwrap();
    assert!(
        status.contains("for namespaces with tier=gold: foo"),
        "{status}"
    );
    become_known(&gregor, foo, "foo", FOO_ADDRESSES);
    assert_eq!(served(), [true, false]);
    gregor.stop();

    // As a pod of the DaemonSet has left it to the next one, which finds no file.
    let spawn = |name: &str| {
        let binary = tools::gregor().unwrap();
        lab.spawn_successor(name, &binary, &labelled).unwrap()
    };
    let first = spawn("first");
    wait_for_log(&first, "gregor::app: ready");
    fs::create_dir(lab.directory().join("other")).unwrap();
    let second = spawn("other/second");
    wait_for_log(&second, "ready to take over");
    first.stop();
    wait_for_log(&second, "gregor::app: ready");
    assert_eq!(served(), [true, false]);
}

/// The next rule that matches is for the others.
#[test]
fn namespaces_that_a_rule_does_not_name_are_the_next_rules() {
    let lab = Lab::builder("e2enextrule").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let next = r#"
[[rule]]
name  = "others"
match = "*.aws.private.kafka.managed.{namespace}.svc.cluster.local"
cname = "kafka-upstream.bar.svc.cluster.local"
namespaces = ["foo", "bar"]
"#;
    let only = |list: &str| {
        let first = with_keys(&lab, &format!("namespaces = [{list}]"));
        format!("{first}{next}")
    };
    let gregor = start(&lab, &only("\"foo\""));
    assert!(is_served(foo, "foo", FOO_ADDRESSES));
    assert!(is_served(foo, "bar", BAR_ADDRESSES));
    become_known(&gregor, foo, "foo", FOO_ADDRESSES);
    reload(&gregor, &only("\"bar\""));
    assert!(is_served(foo, "foo", BAR_ADDRESSES));
    become_known(&gregor, foo, "foo", BAR_ADDRESSES);
    reload(&gregor, &only("\"foo\""));
    assert!(is_served(foo, "foo", FOO_ADDRESSES));
}

#[test]
fn a_rule_that_observes_changes_nothing_and_counts() {
    let lab = Lab::builder("e2eobserve").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let observing = with_keys(&lab, "mode = \"observe\"");
    let gregor = start(&lab, &observing);
    let observed = || Metrics::of(&gregor).get(r#"gregor_observed_requests_total{rule="kafka"}"#);
    for round in 1..=3 {
        assert!(!is_served(foo, "foo", FOO_ADDRESSES));
        assert_eq!(observed(), f64::from(round));
    }
    let metrics = Metrics::of(&gregor);
    assert_eq!(metrics.passed("observed"), 3.0);
    assert_eq!(metrics.taken() + metrics.answered(), 0.0);
    let status = gregor.status_text(&[]).unwrap();
    assert!(status.contains("ONLY OBSERVES"), "{status}");

    // It answers, until it observes again: what the programs knew is not answered.
    reload(&gregor, &lab.gregor_config());
    become_known(&gregor, foo, "foo", FOO_ADDRESSES);
    assert_eq!(observed(), 3.0, "what was counted stays");
    reload(&gregor, &observing);
    assert!(!is_served(foo, "foo", FOO_ADDRESSES));
    assert_eq!(observed(), 4.0);
}

/// Also for names that another rule answers, in the kernel too.
#[test]
fn a_rule_that_observes_in_front_of_another_leaves_it_as_it_is() {
    let lab = Lab::builder("e2einfront").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let new = r#"
[[rule]]
name  = "new"
match = "*.{namespace}.svc.cluster.local"
cname = "elsewhere.{namespace}.svc.cluster.local"
mode  = "observe"
"#;
    let config = lab.gregor_config();
    let at = config.find("[[rule]]").unwrap();
    let gregor = start(&lab, &format!("{}{new}\n{}", &config[..at], &config[at..]));
    let observed = || Metrics::of(&gregor).get(r#"gregor_observed_requests_total{rule="new"}"#);
    let mut asked = 0.0;
    until_the_programs_answer(&gregor, "foo", |_| {
        assert!(is_served(foo, "foo", FOO_ADDRESSES));
        asked += 1.0;
    });
    assert_eq!(observed(), asked);
    // A name that only the one that observes matches.
    let reply = ask(foo, "a.b.foo.svc.cluster.local");
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(observed(), asked + 1.0);
    assert_eq!(Metrics::of(&gregor).passed("observed"), 1.0);
}

/// `[intercept] mode` is for all rules, over TCP too.
#[test]
fn nothing_is_answered_where_everything_is_observed() {
    let lab = Lab::builder("e2eallobserve").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    let config = lab.gregor_config().replace(
        "[intercept]",
        "[intercept]\nmode = \"observe\"\ntcp = \"always\"",
    );
    assert!(config.contains("observe"), "{config}");
    let gregor = start(&lab, &config);
    assert!(!is_served(foo, "foo", FOO_ADDRESSES));
    let (query, _) = e2e::Wire::new(&qualified("foo"), RecordType::A).bytes();
    let reply = exchange_tcp(foo, CACHE, &query).unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(Metrics::of(&gregor).passed("observed"), 1.0);
    reload(&gregor, &lab.gregor_config());
    assert!(is_served(foo, "foo", FOO_ADDRESSES));
}
