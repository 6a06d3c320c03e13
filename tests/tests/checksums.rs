//! The checksums of replies, verified where they arrive: for queries with complete ones, as from a wire, and for queries of a
//! local pod, whose checksums are partial, as are those of the replies. Wants root.
//!
//! `GREGOR_CHECKSUM_QUERIES` is how many queries there are of each kind.

use std::{
    collections::HashMap,
    env,
    time::{Duration, Instant},
};

use gregor::datapath::Term;
use gregor_tests::packets::{
    answers::{self, Answer, Entry, name_of},
    build::{internet_checksum, opt, question, udp_to},
    engine::Veth,
    loaded::answering,
    table::{FIRST_V4, FIRST_V6, LAST_V6},
    wire::{Wire, on_a_wire},
};
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};

/// Sent before any reply is looked at.
const BATCH: usize = 200;

fn queries() -> usize {
    env::var("GREGOR_CHECKSUM_QUERIES").map_or(100_000, |count| count.parse().expect("a number"))
}

/// The same in every run, unless GREGOR_SEED says otherwise.
fn seeded() -> StdRng {
    let seed = env::var("GREGOR_SEED").map_or(5, |seed| seed.parse().expect("a number"));
    println!("GREGOR_SEED={seed}");
    StdRng::seed_from_u64(seed)
}

const QTYPES: [u16; 3] = [1, 28, 65];

/// Addresses of both families, and a NODATA of the third type.
fn cached() -> Vec<Entry> {
    let mut entries = Vec::new();
    for server in [FIRST_V4, FIRST_V6, LAST_V6] {
        let ends: [(Vec<Vec<u8>>, Option<String>); 3] = [
            (answers::addresses(3), None),
            ((0..4).map(|i| vec![0xfd ^ (i * 77); 16]).collect(), None),
            (Vec::new(), Some("vpce.amazonaws.com".to_owned())),
        ];
        for (qtype, (rdata, zone)) in QTYPES.into_iter().zip(ends) {
            let answer = Answer {
                qtype,
                rdata,
                zone,
                ..answers::endpoint()
            };
            // For longer than a run of millions takes.
            let term = Term {
                fresh: Duration::from_secs(86_400),
                grace: Duration::ZERO,
                fixed_ttl: None,
                ..Term::default()
            };
            entries.push(answers::cached("foo", answer).at(server).for_term(term));
        }
    }
    entries
}

/// A query, the length of its IP header, where its UDP header begins, and its ID.
struct Question {
    frame: Vec<u8>,
    ip_len: usize,
    udp_at: usize,
    id: u16,
}

fn ask(rng: &mut impl Rng) -> Question {
    let server = [FIRST_V4, FIRST_V6, LAST_V6][rng.random_range(0..3)];
    let qtype = QTYPES[rng.random_range(0..3)];
    let mut message = question(name_of(rng.random_range(60..200)), qtype);
    message.id = rng.random();
    message.flags = [0x0100, 0x0110, 0x0120, 0][rng.random_range(0..4)];
    if rng.random_bool(0.7) {
        let data: Vec<u8> = (0..rng.random_range(0..40)).map(|_| rng.random()).collect();
        // Padding, and an option without a meaning.
        let options = [(12, &data[..]), (65_001, &data[..data.len() / 2])];
        let options = &options[..rng.random_range(0..3)];
        message = message.additional(opt(1232, 0, options));
    }
    let id = message.id;
    let mut packet = udp_to(server, message.build()).with_udp(|udp| {
        udp.source_port = rng.random_range(1..=u16::MAX);
    });
    for tpid in [&[][..], &[0x8100], &[0x88a8, 0x8100]][rng.random_range(0..3)] {
        packet = packet.tag(*tpid, rng.random_range(1..4095));
    }
    let ip_len = if server.is_ipv4() { 20 } else { 40 };
    let udp_at = 14 + 4 * packet.tags.len() + ip_len;
    Question {
        frame: packet.build().bytes,
        ip_len,
        udp_at,
        id,
    }
}

/// Source, destination, protocol and length, as a UDP checksum covers them.
fn pseudo_header(frame: &[u8], udp_at: usize, ip_len: usize) -> Vec<u8> {
    let addresses = &frame[udp_at - if ip_len == 20 { 8 } else { 32 }..udp_at];
    let mut pseudo = addresses.to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend(&frame[udp_at + 4..udp_at + 6]);
    pseudo
}

/// Verifies both sums of a reply, and that it is whole; returns its ID. The field of a partial checksum holds the sum of the
/// pseudo-header.
fn verify(frame: &[u8], is_begun: bool) -> u16 {
    let mut at = 12;
    while matches!(frame[at..at + 2], [0x81, 0x00] | [0x88, 0xa8]) {
        at += 4;
    }
    let ip_len = match frame[at..at + 2] {
        [0x08, 0x00] => {
            assert_eq!(
                internet_checksum(&[&frame[at + 2..at + 22]]),
                0,
                "{frame:02x?}"
            );
            20
        }
        [0x86, 0xdd] => 40,
        _ => panic!("neither IPv4 nor IPv6: {frame:02x?}"),
    };
    let udp_at = at + 2 + ip_len;
    let udp = &frame[udp_at..];
    assert_eq!(usize::from(u16::from_be_bytes([udp[4], udp[5]])), udp.len());
    assert_ne!(udp[6..8], [0, 0], "no checksum: {frame:02x?}");
    let pseudo = pseudo_header(frame, udp_at, ip_len);
    if is_begun {
        let begun = !internet_checksum(&[&pseudo]);
        assert_eq!(udp[6..8], begun.to_be_bytes(), "{frame:02x?}");
    } else {
        assert_eq!(internet_checksum(&[&pseudo, udp]), 0, "{frame:02x?}");
    }
    assert_eq!(udp[10] & 0x80, 0x80, "a reply");
    assert!(udp[14..18] != [0; 4], "an answer or an authority");
    u16::from_be_bytes([udp[8], udp[9]])
}

/// Asks in batches; the replies of each must be to its IDs, each with right sums.
fn run(wire: &Wire, send: impl Fn(&Wire, &Question), is_partial: bool, count: usize) {
    let mut veth = Veth::with_options(wire, &answering()).expect("a program on a veth");
    veth.loaded.fill(&cached()).expect("answers");
    let mut receiver = wire.receiver().expect("a socket in the pod");
    receiver.set_buffer(16 << 20).expect("room for a batch");
    let mut rng = seeded();
    let started = Instant::now();
    let dropped_before = dropped();
    let (mut done, mut lost) = (0, 0);
    while done < count {
        let mut open = HashMap::<u16, usize>::new();
        for _ in 0..BATCH {
            let asked = ask(&mut rng);
            send(wire, &asked);
            *open.entry(asked.id).or_default() += 1;
        }
        for _ in 0..BATCH {
            let Some(reply) = receiver.frame().expect("a socket") else {
                // The queue between the ends of a veth is the processor's, and so other namespaces' too.
                assert!(
                    dropped() > dropped_before,
                    "no reply to {open:?} after {done}"
                );
                lost += 1;
                break;
            };
            assert_eq!(reply.is_partial, is_partial);
            let id = verify(&reply.bytes, is_partial);
            let left = open.get_mut(&id).expect("an ID of the batch");
            *left = left.checked_sub(1).expect("a reply twice");
        }
        done += BATCH;
    }
    assert!(
        receiver.is_idle().expect("a socket"),
        "more replies than queries"
    );
    assert!(
        lost <= 3,
        "{lost} batches with a frame that the machine dropped"
    );
    println!(
        "{done} queries in {:?}, {lost} batches cut short",
        started.elapsed()
    );
}

/// Frames that found a processor's queue full, as the kernel has counted since it was started.
fn dropped() -> u64 {
    let text = std::fs::read_to_string("/proc/net/softnet_stat").expect("/proc/net/softnet_stat");
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .map(|field| u64::from_str_radix(field, 16).expect("a hexadecimal number"))
        .sum()
}

fn send_whole(wire: &Wire, asked: &Question) {
    wire.send(&asked.frame.clone().into())
        .expect("a frame sent");
}

/// As the pod's stack sends it: the sum of the pseudo-header alone.
fn send_partial(wire: &Wire, asked: &Question) {
    let mut frame = asked.frame.clone();
    let pseudo = pseudo_header(&frame, asked.udp_at, asked.ip_len);
    let begun = !internet_checksum(&[&pseudo]);
    frame[asked.udp_at + 6..][..2].copy_from_slice(&begun.to_be_bytes());
    wire.send_partial(&frame, asked.udp_at)
        .expect("a frame sent");
}

#[test]
fn whole_checksums() {
    on_a_wire(|wire| run(wire, send_whole, false, queries()));
}

#[test]
fn partial_checksums() {
    on_a_wire(|wire| run(wire, send_partial, true, queries()));
}
