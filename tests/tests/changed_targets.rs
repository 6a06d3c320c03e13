//! A target that has changed is withdrawn from the loaded program, by its name alone, and no other is. Wants root.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::{net::IpAddr, time::Duration};

use dns_common::wire::{TYPE_A, TYPE_AAAA};
use gregor::{
    datapath::{AnswerOptions, LoadOptions, Term},
    model::{Changes, Known, PublishedEntry},
    resolve::{Answer, Section},
};
use gregor_tests::packets::{
    build::{labels_of, question, udp_to},
    loaded::{LOOPBACK, Loaded, answering, compile},
    table::{FIRST_V4, FIRST_V6, Rule},
};
use hickory_proto::rr::{Name, RecordType};

/// The second leads to the third.
const RULES: [Rule; 3] = [
    Rule::new(
        "any",
        "*.kafka.{namespace}.svc.test",
        "up.{namespace}.svc.test",
    ),
    Rule::new(
        "outer",
        "db.{namespace}.svc.test",
        "inner.{namespace}.svc.test",
    ),
    Rule::new(
        "inner",
        "inner.{namespace}.svc.test",
        "up.{namespace}.svc.test",
    ),
];
const SERVERS: [IpAddr; 2] = [FIRST_V4, FIRST_V6];
const NAMESPACES: [&str; 3] = ["foo", "bar", "foo-bar"];
/// Its target does not exist.
const NOBODYS: &str = "baz";
const TC_ACT_UNSPEC: u32 = u32::MAX;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

struct Lab {
    loaded: Loaded,
}

impl Lab {
    fn new() -> Lab {
        let mut loaded = Loaded::new(&LoadOptions {
            rules: compile(&RULES),
            answers: AnswerOptions {
                total: 1024,
                per_interface: 1024,
                per_server: true,
                stale_ttl: 30,
            },
            ..answering()
        })
        .unwrap();
        loaded.datapath.allow_interface(LOOPBACK).unwrap();
        let lab = Lab { loaded };
        let answers = lab.loaded.datapath.answers();
        let hour = Duration::from_secs(3600);
        for rule in 0..2 {
            for server in SERVERS {
                for namespace in NAMESPACES {
                    for qtype in [TYPE_A, TYPE_AAAA] {
                        let answer = Answer {
                            qtype: RecordType::from(qtype),
                            names: vec![name(&format!("up.{namespace}.svc.test.")), name("end.")],
                            rdata: vec![vec![10; if qtype == TYPE_A { 4 } else { 16 }]],
                            soa: None,
                            ttl_seconds: 60,
                        };
                        let body = Section::new(&answer).unwrap().body().unwrap();
                        let term = Term {
                            fresh: hour,
                            ..Term::default()
                        };
                        answers.publish(
                            LOOPBACK,
                            &lab.key(rule, server, namespace, qtype),
                            &body,
                            &term,
                        );
                    }
                }
                let key = lab.key(rule, server, NOBODYS, TYPE_A);
                answers.publish_absent(LOOPBACK, &key, hour);
            }
        }
        lab
    }

    fn key(
        &self,
        rule: usize,
        server: IpAddr,
        namespace: &str,
        qtype: u16,
    ) -> dns_common::answer::Key {
        let id = self.loaded.datapath.rules().rules()[rule].id();
        let answers = self.loaded.datapath.answers();
        answers
            .key(id, qtype, server, &[namespace.to_owned()], 0)
            .unwrap()
    }

    /// What becomes of a query of the namespace: for each rule, server and type.
    fn verdicts(&mut self, namespace: &str) -> Vec<u32> {
        let mut verdicts = Vec::new();
        for labels in [vec!["b-1", "aws", "kafka"], vec!["db"]] {
            let labels = labels.into_iter().chain([namespace, "svc", "test"]);
            let labels: Vec<&[u8]> = labels.map(str::as_bytes).collect();
            for server in SERVERS {
                for qtype in [TYPE_A, TYPE_AAAA] {
                    let message = question(labels_of(&labels), qtype).build();
                    let frame = udp_to(server, message).build().bytes;
                    let run = self.loaded.datapath.test_run(&frame, 1).unwrap();
                    verdicts.push(run.return_value);
                    self.loaded.drain();
                }
            }
        }
        verdicts
    }

    fn all_are(&mut self, namespace: &str, verdict: u32) {
        assert_eq!(self.verdicts(namespace), [verdict; 8], "{namespace}");
    }
}

fn change(namespace: &str) -> Changes {
    let mut changes = Changes::default();
    let target = name(&format!("up.{namespace}.svc.test."));
    changes.add(target, Known::Alias(name("another.")));
    changes
}

#[test]
fn a_changed_target_is_withdrawn_from_the_program_and_no_other() {
    let mut lab = Lab::new();
    for namespace in NAMESPACES {
        lab.all_are(namespace, TC_ACT_REDIRECT);
    }
    lab.all_are(NOBODYS, TC_ACT_UNSPEC);

    // What agrees with the change stays.
    let answers = lab.loaded.datapath.answers().clone();
    answers.remove_changed(&change("foo"), &|_, _| false);
    lab.all_are("foo", TC_ACT_REDIRECT);

    answers.remove_changed(&change("foo"), &|targets, entry| {
        // All that the query may be looked up by, the rule's own first.
        assert_eq!(targets.last(), Some(&name("up.foo.svc.test.")));
        assert!(matches!(
            entry,
            PublishedEntry::Answer(TYPE_A | TYPE_AAAA, _)
        ));
        true
    });
    lab.all_are("foo", TC_ACT_SHOT);
    lab.all_are("bar", TC_ACT_REDIRECT);
    lab.all_are("foo-bar", TC_ACT_REDIRECT);
    lab.all_are(NOBODYS, TC_ACT_UNSPEC);

    answers.remove_changed(&change(NOBODYS), &|_, entry| {
        assert!(matches!(entry, PublishedEntry::NoTarget));
        true
    });
    lab.all_are(NOBODYS, TC_ACT_SHOT);
    lab.all_are("bar", TC_ACT_REDIRECT);
    // A target of no answer.
    answers.remove_changed(&change("nobody"), &|_, _| panic!("nothing is concerned"));
}
