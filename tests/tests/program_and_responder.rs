//! The loaded program and the responder answer the same questions with the same bytes, but for the order of addresses.
//! Wants root. `GREGOR_ALIKE_QUESTIONS` says how many questions, 50,000 by default.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::{env, net::IpAddr, time::Duration};

use dns_common::wire::{TYPE_A, TYPE_AAAA, TYPE_CNAME, TYPE_HTTPS};
use gregor::{
    datapath::{AnswerOptions, LoadOptions, Term},
    resolve::{Answer, Query, Section, fuzzing},
};
use gregor_tests::packets::{
    build::{labels_of, opt, question, udp_to},
    loaded::{LOOPBACK, Loaded, answering, compile},
    table::{FIRST_V4, FIRST_V6, Rule},
};
use hickory_proto::rr::{Name, RecordType, rdata::SOA};
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};

const RULES: [Rule; 2] = [
    Rule::new(
        "any",
        "*.kafka.{namespace}.svc.test",
        "up.{namespace}.svc.test",
    ),
    Rule::new(
        "one",
        "db.{namespace}.svc.test",
        "db-up.{namespace}.svc.test",
    ),
];
const QTYPES: [u16; 4] = [TYPE_A, TYPE_AAAA, TYPE_CNAME, TYPE_HTTPS];
const SERVERS: [IpAddr; 2] = [FIRST_V4, FIRST_V6];
const NAMESPACES: usize = 150;
const TTL: u32 = 17;
const TC_ACT_SHOT: u32 = 2;
const TC_ACT_REDIRECT: u32 = 7;

/// What the tables have for a rule, a namespace and a qtype.
struct Known {
    rule: usize,
    namespace: String,
    qtype: u16,
    section: Section,
    records: usize,
}

fn name(text: &str) -> Name {
    Name::from_ascii(text).unwrap()
}

fn label(random: &mut StdRng, longest: usize) -> String {
    let len = random.random_range(1..=longest);
    (0..len)
        .map(|at| match random.random_range(0..20u8) {
            0 if at > 0 && at + 1 < len => '-',
            digit @ 1..=5 => char::from(b'0' + digit),
            _ => char::from(random.random_range(b'a'..=b'z')),
        })
        .collect()
}

/// An answer as a chase might return it: some with a long chain, some without an address, some too long for UDP.
fn answer(random: &mut StdRng, target: &str, qtype: u16) -> (Answer, usize) {
    let mut names = vec![name(target)];
    for _ in 0..random.random_range(0..3) {
        let next = format!("{}.{}.vpce.test.", label(random, 40), label(random, 20));
        names.push(name(&next));
    }
    let count = random.random_range(0..14usize);
    let len = match qtype {
        TYPE_A => 4,
        TYPE_AAAA => 16,
        _ => 2 * random.random_range(4..20usize),
    };
    let rdata: Vec<Vec<u8>> = match qtype {
        TYPE_CNAME => Vec::new(),
        _ => (0..count)
            .map(|_| (0..len).map(|_| random.random()).collect())
            .collect(),
    };
    let soa = (rdata.is_empty() && qtype != TYPE_CNAME && random.random()).then(|| {
        let soa = SOA::new(name("ns.test."), name("hostmaster.test."), 1, 2, 3, 4, 5);
        Box::new((name("svc.test."), soa))
    });
    let records = rdata.len();
    let answer = Answer {
        qtype: RecordType::from(qtype),
        names,
        rdata,
        soa,
        ttl_seconds: 60,
    };
    (answer, records)
}

/// A name that the rule matches, its letters in any case.
fn qname(random: &mut StdRng, known: &Known) -> Vec<u8> {
    let mut labels: Vec<Vec<u8>> = Vec::new();
    let fixed: &[&str] = match known.rule {
        0 => {
            for _ in 0..random.random_range(1..7) {
                labels.push(label(random, 12).into_bytes());
            }
            &["kafka", &known.namespace, "svc", "test"]
        }
        _ => &["db", &known.namespace, "svc", "test"],
    };
    labels.extend(fixed.iter().map(|label| label.as_bytes().to_vec()));
    for byte in labels.iter_mut().flatten() {
        if random.random() {
            byte.make_ascii_uppercase();
        }
    }
    let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
    labels_of(&labels)
}

fn message(random: &mut StdRng, known: &Known) -> Vec<u8> {
    let mut message = question(qname(random, known), known.qtype);
    let mut padding = vec![0; random.random_range(0..200)];
    random.fill_bytes(&mut padding);
    let size = *[0, 512, 513, 600, 1232, 1400, 4096, 65_535]
        .get(random.random_range(0..8usize))
        .unwrap();
    message = match random.random_range(0..6u8) {
        0 | 1 => message,
        2 | 3 => message.additional(opt(size, 0, &[])),
        4 => message.additional(opt(size, 0, &[(10, &[7; 8])])),
        _ => message.additional(opt(size, 0, &[(12, &padding), (65_001, b"x")])),
    };
    let mut bytes = message.build();
    bytes[..2].copy_from_slice(&random.random::<[u8; 2]>());
    // RD, AD and CD are all that a query may have; DO is in the OPT's flags.
    bytes[2] = random.random_range(0..2u8);
    bytes[3] = [0, 0x10, 0x20, 0x30][random.random_range(0..4usize)];
    bytes
}

#[test]
fn the_program_answers_as_the_responder_does() {
    let questions: usize = match env::var("GREGOR_ALIKE_QUESTIONS") {
        Ok(number) => number.parse().unwrap(),
        Err(_) => 50_000,
    };
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let mut loaded = Loaded::new(&LoadOptions {
        rules: compile(&RULES),
        answers: AnswerOptions {
            total: 16_384,
            per_interface: 16_384,
            per_server: true,
            stale_ttl: 30,
        },
        ..answering()
    })
    .unwrap();
    loaded.datapath.allow_interface(LOOPBACK).unwrap();

    let mut all = Vec::new();
    let term = Term {
        fresh: Duration::from_secs(86_400),
        grace: Duration::ZERO,
        fixed_ttl: Some(TTL),
        ..Term::default()
    };
    for number in 0..NAMESPACES {
        let namespace = format!("{}-{number}", label(&mut random, 50));
        for rule in 0..RULES.len() {
            for qtype in QTYPES {
                let target = match rule {
                    0 => format!("up.{namespace}.svc.test."),
                    _ => format!("db-up.{namespace}.svc.test."),
                };
                let (answer, records) = answer(&mut random, &target, qtype);
                let section = Section::new(&answer).unwrap();
                let Some(body) = section.body() else {
                    // Too long for an entry: asked as well, and handed over.
                    all.push((false, rule, namespace.clone(), qtype, section, records));
                    continue;
                };
                let answers = loaded.datapath.answers();
                let placed = SERVERS.iter().all(|server| {
                    let before = answers.sizes().answers;
                    let captures = [namespace.clone()];
                    let id = loaded.datapath.rules().rules()[rule].id();
                    let key = answers.key(id, qtype, *server, &captures, 0).unwrap();
                    answers.publish(LOOPBACK, &key, &body, &term);
                    answers.sizes().answers == before + 1
                });
                if placed {
                    all.push((true, rule, namespace.clone(), qtype, section, records));
                }
            }
        }
    }

    let (mut answered, mut handed_over) = (0, 0);
    for number in 0..questions {
        let (is_kept, rule, namespace, qtype, section, records) =
            &all[random.random_range(0..all.len())];
        let known = Known {
            rule: *rule,
            namespace: namespace.clone(),
            qtype: *qtype,
            section: section.clone(),
            records: *records,
        };
        let message = message(&mut random, &known);
        let query = Query::parse(&message).unwrap();
        let server = SERVERS[random.random_range(0..SERVERS.len())];
        let headers = if server.is_ipv4() { 42 } else { 62 };
        let frame = udp_to(server, message.clone()).build().bytes;
        let run = loaded.datapath.test_run(&frame, 1).unwrap();

        let limit = query
            .edns
            .map_or(512, |edns| edns.udp_size.clamp(512, 1232));
        let opt = if query.edns.is_some() { 11 } else { 0 };
        let whole = 12 + query.question().len() + known.section.len() + opt;
        let fits = *is_kept && whole <= usize::from(limit);
        match run.return_value {
            TC_ACT_REDIRECT => {
                assert!(fits, "{message:02x?}");
                let reply = &run.data[headers..];
                let alike = (0..known.records.max(1)).any(|rotation| {
                    fuzzing::answer(&query, &known.section, TTL, rotation).as_deref() == Some(reply)
                });
                assert!(alike, "seed {seed}, {number}: {message:02x?}\n{reply:02x?}");
                answered += 1;
            }
            TC_ACT_SHOT => {
                assert!(!fits, "seed {seed}, {number}: {message:02x?}");
                handed_over += 1;
            }
            action => panic!("action {action}: {message:02x?}"),
        }
        if number % 1000 == 0 {
            loaded.drain();
        }
    }
    println!(
        "{questions} questions: {answered} answered, {handed_over} handed over, no difference"
    );
    assert!(answered > questions / 2 && handed_over > 0);
}
