//! Criterion's benches of what gregor does in userspace: compiling rules, looking names up, parsing queries, composing
//! answers. Each has a neighbour that does the same work another way or on another scale: `cargo xtask bench gate` judges
//! their ratios, which hold on any machine.

#![allow(clippy::unwrap_used, reason = "inputs are written here")]

use std::{hint::black_box, net::Ipv4Addr, str::FromStr as _};

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use gregor::{
    resolve::{Answer, Query, Section},
    rules::{RuleSet, testing::realistic_rules},
};
use gregor_tests::packets::build::{name, opt, question};
use hickory_proto::{
    op::{Message, MessageType, OpCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME},
    },
};

const QNAME: &str = "lkc-1.eu-west-1.aws.private.kafka.managed.foo.svc.cluster.local";
const CHAIN: [&str; 2] = [
    "kafka-upstream.foo.svc.cluster.local.",
    "vpce-0f00f00f00f00f00f.vpce-svc-00df17f473adaf690.eu-west-1.vpce.amazonaws.com.",
];
const ADDRESSES: [[u8; 4]; 3] = [[10, 10, 1, 11], [10, 10, 2, 11], [10, 10, 3, 11]];

fn compile(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    let specs = realistic_rules(1000);
    group.bench_function("1000", |bencher| {
        bencher.iter(|| RuleSet::compile(black_box(&specs)).unwrap());
    });
    // As long as the one above when time grows with the number of rules: what disturbs one then disturbs both.
    let specs = realistic_rules(500);
    group.bench_function("500-twice", |bencher| {
        bencher.iter(|| {
            for _ in 0..2 {
                black_box(RuleSet::compile(black_box(&specs)).unwrap());
            }
        });
    });
}

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("find");
    let qname = name("broker-1.team1.svc.cluster.local");
    for count in [10, 1000] {
        let rules = RuleSet::compile(&realistic_rules(count)).unwrap();
        assert!(rules.find(&qname, None).is_some());
        group.bench_function(count.to_string(), |bencher| {
            bencher.iter(|| rules.find(black_box(&qname), None));
        });
    }
}

fn parse(criterion: &mut Criterion) {
    let bytes = question(name(QNAME), 1)
        .additional(opt(1232, 0, &[]))
        .build();
    let mut group = criterion.benchmark_group("parse");
    group.bench_function("gregor", |bencher| {
        bencher.iter(|| Query::parse(black_box(&bytes)).unwrap());
    });
    group.bench_function("hickory", |bencher| {
        bencher.iter(|| Message::from_vec(black_box(&bytes)).unwrap());
    });
}

fn compose(criterion: &mut Criterion) {
    let names = CHAIN.map(|text| Name::from_str(text).unwrap());
    let answer = Answer {
        qtype: RecordType::A,
        names: names.to_vec(),
        rdata: ADDRESSES.map(|address| address.to_vec()).to_vec(),
        soa: None,
        ttl_seconds: 60,
    };
    let mut message = Message::new(1, MessageType::Response, OpCode::Query);
    let owner = Name::from_str(&format!("{QNAME}.")).unwrap();
    let alias = |owner: &Name, target: &Name| {
        Record::from_rdata(owner.clone(), 60, RData::CNAME(CNAME(target.clone())))
    };
    message.answers.push(alias(&owner, &names[0]));
    message.answers.push(alias(&names[0], &names[1]));
    for address in ADDRESSES {
        let address = RData::A(A(Ipv4Addr::from(address)));
        let record = Record::from_rdata(names[1].clone(), 60, address);
        message.answers.push(record);
    }

    let mut group = criterion.benchmark_group("compose");
    // What is made of a chase, and the form in which the kernel keeps it.
    group.bench_function("gregor", |bencher| {
        bencher.iter_batched(
            || answer.clone(),
            |answer| Section::new(black_box(&answer)).unwrap().body().unwrap(),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("hickory", |bencher| {
        bencher.iter(|| black_box(&message).to_vec().unwrap());
    });
}

criterion_group!(benches, compile, find, parse, compose);
criterion_main!(benches);
