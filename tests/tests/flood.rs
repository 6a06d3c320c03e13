//! One pod asks for matched names as fast as it can: the others get their answers, gregor stays within its limits, and other
//! queries still pass. Wants root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use dns_common::verdict::{Reason, TAKEN};
use e2e::{Question, UdpServer};
use gregor::datapath::Limit;
use gregor_tests::{
    lab::{
        Ask, CacheKind, Gregor, Lab, Pod, tools,
        world::{FOREIGN, NODE_LOCAL_V4},
    },
    packets::{
        build::{name, question, record, udp_to},
        loaded::{LOOPBACK, Loaded, compile, options},
        table::{ALONE, FIRST_V4},
    },
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};

const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 5300);
/// How long the upstream takes to say that a namespace has no target.
const SLOW: Duration = Duration::from_millis(100);

/// When the flooding pod stops, whichever comes first.
const MOST_SENT: u64 = 200_000;
const LONGEST: Duration = Duration::from_secs(10);
/// Queries that the other pod must have sent by then; it continues after the flood on a slow machine.
const LEAST_ASKED: u64 = 200;

/// The limits that gregor is started with: its own, but for a store that a flood can fill.
const PER_SECOND: u64 = 2000;
const BURST: u64 = 400;
const CHASES: u64 = 64;
const ANSWERS: u64 = 1600;
/// One sixteenth of the store is what one interface may fill.
const SHARE: u64 = ANSWERS / 16;
/// Memory for the ring's backlog, the queries that wait (1,024 an interface) and three stores, with plenty to spare in an
/// unoptimised build; 200,000 whole queries would take more.
const MOST_GROWTH: u64 = 16 << 20;

/// An upstream in the node's own namespace that no flood reaches but through gregor: `foo`, `bar` and `cold-…` have
/// targets, `dead…` is never answered, all else is NXDOMAIN after [`SLOW`]. Other types than A have NODATA.
struct Upstream {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Upstream {
    fn start(lab: &Lab) -> Self {
        let socket = lab
            .node()
            .enter(|| UdpSocket::bind(UPSTREAM).unwrap())
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let late_socket = socket.try_clone().unwrap();
        let (late, delayed) = mpsc::channel::<(Instant, Vec<u8>, SocketAddr)>();
        let stopped = Arc::clone(&stop);
        let threads = vec![
            thread::spawn(move || {
                let mut buffer = [0; 4096];
                while !stopped.load(Ordering::Relaxed) {
                    let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                        continue;
                    };
                    match reply(&buffer[..length]) {
                        Reply::Now(reply) => drop(socket.send_to(&reply, client).unwrap()),
                        Reply::Late(reply) => {
                            late.send((Instant::now() + SLOW, reply, client)).unwrap();
                        }
                        Reply::Never => {}
                    }
                }
            }),
            thread::spawn(move || {
                for (due, reply, client) in delayed {
                    thread::sleep(due.saturating_duration_since(Instant::now()));
                    // gregor may have given up by now and closed its socket.
                    let _ = late_socket.send_to(&reply, client);
                }
            }),
        ];
        Self { stop, threads }
    }
}

/// The existing cache on the node, as quick as can be: a flood is to press on gregor, not on the lab's own DNS. It has
/// [`FOREIGN`], and nothing else.
fn cache(lab: &Lab) -> UdpServer {
    let foreign = question(name(FOREIGN), 1).build()[12..].to_vec();
    UdpServer::start(
        lab,
        SocketAddr::new(NODE_LOCAL_V4.into(), 53),
        move |query| {
            let mut reply = query.to_vec();
            reply[2..4].copy_from_slice(&0x8183u16.to_be_bytes());
            if reply[12..].eq_ignore_ascii_case(&foreign) {
                reply[3] = 0x80;
                reply[7] = 1;
                reply.extend(record(&QNAME, 1, 1, 30, &[192, 0, 2, 80]));
            }
            Some(reply)
        },
    )
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

enum Reply {
    Now(Vec<u8>),
    Late(Vec<u8>),
    Never,
}

const QNAME: [u8; 2] = [0xc0, 12];

fn reply(query: &[u8]) -> Reply {
    let Question { labels, qtype, end } = Question::read(query);
    let question = &query[12..end];
    let namespace = labels[1].as_str();
    let message = |rcode: u16, answers: &[Vec<u8>]| {
        let mut bytes = query[..2].to_vec();
        for word in [0x8180 | rcode, 1, answers.len() as u16, 0, 0] {
            bytes.extend(word.to_be_bytes());
        }
        bytes.extend(question);
        bytes.extend(answers.iter().flatten());
        bytes
    };
    if namespace.starts_with("dead") {
        return Reply::Never;
    }
    match address_of(namespace) {
        Some(address) if qtype == 1 => Reply::Now(message(
            0,
            &[
                // Short-lived, so that it is looked up again during the flood.
                record(&QNAME, 5, 1, 1, &name("vpce.example")),
                record(&name("vpce.example"), 1, 1, 1, &address.octets()),
            ],
        )),
        Some(_) => Reply::Now(message(0, &[])),
        None => Reply::Late(message(3, &[])),
    }
}

fn address_of(namespace: &str) -> Option<Ipv4Addr> {
    match namespace {
        "foo" => Some(Ipv4Addr::new(10, 10, 0, 1)),
        "bar" => Some(Ipv4Addr::new(10, 20, 0, 1)),
        _ => {
            let number: u16 = namespace.strip_prefix("cold-")?.parse().ok()?;
            let [high, low] = number.to_be_bytes();
            Some(Ipv4Addr::new(10, 30, high, low))
        }
    }
}

fn broker(label: &str, namespace: &str) -> String {
    format!("{label}.eu-west-1.aws.private.kafka.managed.{namespace}.svc.cluster.local")
}

fn start() -> (Lab, (Upstream, UdpServer), Gregor) {
    let lab = Lab::builder("flood")
        .pod("noisy")
        .pod("quiet")
        .cache(CacheKind::None)
        .start()
        .unwrap();
    let servers = (Upstream::start(&lab), cache(&lab));
    let config = format!(
        "{}[upstream]\nserver = \"{UPSTREAM}\"\ntimeout = \"2s\"\n[limits]\nqueries_per_second = {PER_SECOND}\n\
         burst = {BURST}\nchases_per_interface = {CHASES}\nanswers = {ANSWERS}\n",
        lab.gregor_config()
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    (lab, servers, gregor)
}

/// What a flood sends: the name and the type of its `n`th query.
type Flood = fn(n: u64) -> (String, u16);

#[derive(Clone, Copy, Debug)]
struct Sent {
    queries: u64,
    /// From before the first to after the last.
    took: Duration,
}

/// Sends its share; the replies are not read.
fn flood(pod: &Pod, what: Flood) -> Sent {
    pod.netns()
        .enter(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((NODE_LOCAL_V4, 53)).unwrap();
            let started = Instant::now();
            let mut queries = 0;
            while queries < MOST_SENT && started.elapsed() < LONGEST {
                let (qname, qtype) = what(queries);
                let mut query = question(name(&qname), qtype);
                query.id = queries as u16;
                socket.send(&query.build()).unwrap();
                queries += 1;
            }
            Sent {
                queries,
                took: started.elapsed(),
            }
        })
        .unwrap()
}

/// One query, one try.
fn ask(pod: &Pod, qname: &str, qtype: RecordType) -> anyhow::Result<Message> {
    let mut ask = Ask::new(NODE_LOCAL_V4.into(), qname, qtype);
    ask.timeout = Duration::from_secs(20);
    pod.ask(ask)
}

fn assert_address(reply: &Message, namespace: &str) {
    assert_eq!(
        reply.metadata.response_code,
        ResponseCode::NoError,
        "{namespace}: {reply:?}"
    );
    let addresses: Vec<Ipv4Addr> = reply
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .collect();
    assert_eq!(
        addresses,
        [address_of(namespace).unwrap()],
        "{namespace}: {reply:?}"
    );
}

/// The samples of `/metrics`, by name and labels.
fn metrics(gregor: &Gregor) -> BTreeMap<String, u64> {
    gregor
        .metrics()
        .unwrap()
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            Some((series.to_owned(), value.parse::<f64>().ok()? as u64))
        })
        .collect()
}

fn get(metrics: &BTreeMap<String, u64>, series: &str) -> u64 {
    *metrics
        .get(series)
        .unwrap_or_else(|| panic!("no {series} in {metrics:#?}"))
}

fn kernel(metrics: &BTreeMap<String, u64>, reason: &str) -> u64 {
    let verdict = if reason == "matched" { "taken" } else { "pass" };
    get(
        metrics,
        &format!("gregor_dns_requests_total{{verdict=\"{verdict}\",reason=\"{reason}\"}}"),
    )
}

fn passed_on(metrics: &BTreeMap<String, u64>, reason: &str) -> u64 {
    get(
        metrics,
        &format!("gregor_responder_passed_on_total{{reason=\"{reason}\"}}"),
    )
}

fn store(metrics: &BTreeMap<String, u64>, store: &str) -> u64 {
    get(
        metrics,
        &format!("gregor_store_entries{{store=\"{store}\"}}"),
    )
}

fn sum(metrics: &BTreeMap<String, u64>, family: &str) -> u64 {
    let prefix = format!("{family}{{");
    metrics
        .iter()
        .filter(|(series, _)| series.starts_with(&prefix))
        .map(|(_, value)| value)
        .sum()
}

/// Everything that is not 0.
fn counters_text(metrics: &BTreeMap<String, u64>) -> String {
    let lines: Vec<String> = metrics
        .iter()
        .filter(|(_, value)| **value > 0)
        .map(|(series, value)| format!("{series} {value}"))
        .collect();
    lines.join("\n")
}

/// Bytes of memory that are resident.
fn resident(gregor: &Gregor) -> u64 {
    let path = format!("/proc/{}/status", gregor.process().pid());
    let status = fs::read_to_string(path).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
    kib << 10
}

/// The most that was seen while the flood ran.
#[derive(Debug, Default)]
struct Peak {
    samples: u64,
    resident: u64,
    answers: u64,
    no_target: u64,
    trouble: u64,
    in_flight: u64,
}

impl Peak {
    fn sample(&mut self, gregor: &Gregor) {
        let metrics = metrics(gregor);
        self.samples += 1;
        self.resident = self.resident.max(resident(gregor));
        self.answers = self.answers.max(store(&metrics, "answers"));
        self.no_target = self.no_target.max(store(&metrics, "no_target"));
        self.trouble = self.trouble.max(store(&metrics, "trouble"));
        self.in_flight = self.in_flight.max(get(&metrics, "gregor_chases_in_flight"));
    }
}

/// The result of a flood.
struct Outcome {
    sent: Sent,
    /// Queries of the other pod, all of them answered.
    answered: u64,
    peak: Peak,
    metrics: BTreeMap<String, u64>,
}

/// Floods from one pod while another asks, one after the other, what `asks` says of the `n`th time.
fn run(lab: &Lab, gregor: &Gregor, what: Flood, asks: impl Fn(u64, &Pod) + Sync) -> Outcome {
    let pid = gregor.process().pid();
    let before = resident(gregor);
    let flooding = AtomicBool::new(true);
    let (sent, answered, foreign, peak) = thread::scope(|scope| {
        let quiet = scope.spawn(|| {
            let mut asked = 0;
            while flooding.load(Ordering::Relaxed) || asked < LEAST_ASKED {
                let asking = AssertUnwindSafe(|| asks(asked, lab.pod("quiet")));
                if let Err(panic) = catch_unwind(asking) {
                    // What the numbers say is most of the report.
                    println!("{}", counters_text(&metrics(gregor)));
                    resume_unwind(panic);
                }
                asked += 1;
                // Below its own rate, which the flood must not affect.
                thread::sleep(Duration::from_millis(1));
            }
            asked
        });
        let peak = scope.spawn(|| {
            let mut peak = Peak::default();
            while flooding.load(Ordering::Relaxed) || peak.samples < 3 {
                peak.sample(gregor);
                thread::sleep(Duration::from_millis(100));
            }
            peak
        });
        let foreign = scope.spawn(|| {
            let (mut asked, mut answered) = (0, 0);
            loop {
                // The cache is flooded too, by what passes: it may well lose some of these.
                let mut ask = Ask::new(NODE_LOCAL_V4.into(), FOREIGN, RecordType::A);
                ask.timeout = Duration::from_millis(500);
                asked += 1;
                let reply = lab.pod("noisy").ask(ask);
                if let Ok(reply) = reply
                    && reply.metadata.response_code == ResponseCode::NoError
                {
                    assert_eq!(reply.answers.len(), 1);
                    answered += 1;
                    if !flooding.load(Ordering::Relaxed) {
                        return (asked, answered);
                    }
                }
                assert!(asked < 1000, "the foreign name is never answered");
                thread::sleep(Duration::from_millis(20));
            }
        });
        let sent = flood(lab.pod("noisy"), what);
        flooding.store(false, Ordering::Relaxed);
        (
            sent,
            quiet.join().unwrap(),
            foreign.join().unwrap(),
            peak.join().unwrap(),
        )
    });

    // Every query is accounted for in the end.
    let deadline = Instant::now() + Duration::from_secs(60);
    let metrics = loop {
        let metrics = metrics(gregor);
        let taken = kernel(&metrics, "matched");
        let done = sum(&metrics, "gregor_dns_responses_total")
            + sum(&metrics, "gregor_responder_passed_on_total")
            + get(&metrics, "gregor_responder_unanswered_total");
        if taken == done && get(&metrics, "gregor_chases_in_flight") == 0 {
            break metrics;
        }
        assert!(
            Instant::now() < deadline,
            "{taken} taken, {done} answered or passed on: {metrics:#?}"
        );
        thread::sleep(Duration::from_millis(50));
    };
    assert_eq!(gregor.process().exited(), None, "{}", gregor.log());
    assert_eq!(gregor.process().pid(), pid);
    assert_eq!(gregor.get("/readyz").unwrap().0, 200);
    assert_eq!(get(&metrics, "gregor_panics_total"), 0);

    println!(
        "{} queries in {:?}, {:.0}/s; {} taken, {} over the rate; the other pod asked {answered} times; {peak:?}; {} KiB before",
        sent.queries,
        sent.took,
        sent.queries as f64 / sent.took.as_secs_f64(),
        kernel(&metrics, "matched"),
        kernel(&metrics, "rate_limited"),
        before >> 10,
    );
    println!("{}", counters_text(&metrics));

    // The token bucket held, and all else of that pod passed.
    let taken = kernel(&metrics, "matched");
    let allowed = BURST + PER_SECOND * sent.took.as_secs() + PER_SECOND + answered + 16;
    assert!(taken <= allowed, "{taken} taken, {allowed} allowed");
    assert!(kernel(&metrics, "rate_limited") > 0);
    // Not more than was sent; what the node's own backlog drops never reached gregor.
    let matched = ["matched", "rate_limited", "ring_full", "no_responder"]
        .map(|reason| kernel(&metrics, reason))
        .iter()
        .sum::<u64>();
    assert!(matched <= sent.queries + answered, "{matched} matched");
    let passed = kernel(&metrics, "no_rule");
    assert!(
        (foreign.1..=foreign.0).contains(&passed),
        "{passed} of the foreign queries passed; asked and answered: {foreign:?}"
    );

    assert!(
        peak.resident < before + MOST_GROWTH,
        "{} KiB resident, {} before",
        peak.resident >> 10,
        before >> 10
    );
    // The flooding pod's share, what the other one has asked for, and one refresh of what it had asked for before: a
    // refresh begins while the pod goes on asking.
    assert!(peak.in_flight <= CHASES + 2, "{peak:?}");
    assert!(peak.no_target <= SHARE, "{peak:?}");
    assert!(peak.trouble <= 2 * SHARE, "{peak:?}");
    assert!(peak.answers <= 2 * SHARE, "{peak:?}");
    Outcome {
        sent,
        answered,
        peak,
        metrics,
    }
}

#[test]
fn random_names_and_namespaces() {
    let (lab, _servers, gregor) = start();
    let outcome = run(
        &lab,
        &gregor,
        |n| match n % 2 {
            0 => (broker(&format!("lkc-{n}"), "foo"), 1),
            _ => (broker("b", &format!("ghost-{n}")), 28),
        },
        |n, pod| {
            // One cached namespace, and new ones all the time: their look-ups count for this pod.
            let cold = format!("cold-{}", n % 50);
            let namespace = if n % 2 == 0 { "bar" } else { &cold };
            let reply = ask(pod, &broker(&format!("q{n}"), namespace), RecordType::A);
            assert_address(&reply.unwrap(), namespace);
        },
    );
    let metrics = &outcome.metrics;
    assert!(passed_on(metrics, "busy") > 0, "the cap on look-ups shows");
    assert!(passed_on(metrics, "no_target") > 0);
    assert_eq!(
        store(metrics, "no_target"),
        SHARE,
        "too short a flood to show that the store is bounded"
    );
    assert_eq!(passed_on(metrics, "rate_limited"), 0);
    assert_eq!(
        get(metrics, "gregor_dns_responses_total{rcode=\"SERVFAIL\"}"),
        0
    );
}

#[test]
fn unusual_types() {
    let (lab, _servers, gregor) = start();
    let outcome = run(
        &lab,
        &gregor,
        |n| (broker("b", "foo"), 256 + (n % 65_000) as u16),
        |n, pod| {
            if n % 10 == 0 {
                // A type that is not kept, at a rate within the limit.
                thread::sleep(Duration::from_millis(60));
                let reply = ask(pod, &broker("t", "bar"), RecordType::TXT).unwrap();
                assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
                assert_eq!(reply.answers.len(), 1, "{reply:?}");
            } else {
                let reply = ask(pod, &broker(&format!("q{n}"), "bar"), RecordType::A);
                assert_address(&reply.unwrap(), "bar");
            }
        },
    );
    let metrics = &outcome.metrics;
    // Once a look-up has shown that the name exists, what is over the limit is left without a reply. Whether some pass
    // before that depends on how fast the flood begins.
    assert!(get(metrics, "gregor_responder_unanswered_total") > 0);
    // Twenty a second, and twenty at once, each of them a look-up; the other pod's come on top.
    let allowed = 20 + 20 * (outcome.sent.took.as_secs() + 1) + outcome.answered;
    assert!(get(metrics, "gregor_chases_total") <= allowed);
    assert!(
        outcome.peak.answers <= 1,
        "a type that is not kept is kept: {:?}",
        outcome.peak
    );
}

#[test]
fn an_upstream_that_does_not_answer_some_names() {
    let (lab, _servers, gregor) = start();
    let outcome = run(
        &lab,
        &gregor,
        |n| match n % 3 {
            0 => (broker("b", "dead"), 1),
            1 => (broker("b", &format!("dead-{n}")), 1),
            _ => (broker("b", &format!("slow-{n}")), 1),
        },
        |n, pod| {
            let cold = format!("cold-{}", n % 50);
            let namespace = if n % 2 == 0 { "foo" } else { &cold };
            let reply = ask(pod, &broker(&format!("q{n}"), namespace), RecordType::A);
            assert_address(&reply.unwrap(), namespace);
        },
    );
    let metrics = &outcome.metrics;
    assert!(passed_on(metrics, "busy") > 0);
    assert!(
        get(metrics, "gregor_chase_failures_total{reason=\"timeout\"}") > 0,
        "{metrics:#?}"
    );
    assert!(outcome.peak.in_flight >= CHASES / 2, "{:?}", outcome.peak);
    // A question that no upstream answers gets its SERVFAIL, flood or not.
    let reply = ask(lab.pod("quiet"), &broker("b", "dead"), RecordType::A).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::ServFail);
}

/// A pod that has used half of its burst can fill the ring to the middle only.
#[test]
fn the_second_half_of_the_ring_is_for_pods_below_half_of_their_burst() {
    const RING_BYTES: u32 = 8192;
    let mut options = options(compile(ALONE));
    options.ring_bytes = RING_BYTES;
    // Slow enough to refill that no machine is too slow for what follows.
    options.limit = Limit {
        queries_per_second: 1,
        burst: 24,
    };
    let mut loaded = Loaded::new(&options).unwrap();
    loaded.datapath.allow_interface(LOOPBACK).unwrap();
    let frame = udp_to(FIRST_V4, question(name(&broker("b", "foo")), 1).build()).build();

    let send = |loaded: &mut Loaded| {
        let before = loaded.counters().unwrap();
        loaded.datapath.test_run(&frame.bytes, 1).unwrap();
        let after = loaded.counters().unwrap();
        (0..after.len())
            .find(|&counter| after[counter] != before[counter])
            .unwrap()
    };
    let taken = (0..30).take_while(|_| send(&mut loaded) == TAKEN).count();
    assert!(
        (12..20).contains(&taken),
        "{taken} taken: neither the bucket's end nor the ring's, but the middle of the ring"
    );
    assert_eq!(send(&mut loaded), Reason::RateLimited as usize);

    // A fresh bucket, as another pod has one.
    loaded.datapath.allow_interface(LOOPBACK).unwrap();
    assert_eq!(send(&mut loaded), TAKEN);

    assert_eq!(loaded.drain().len(), taken + 1);
    let after = (0..30).take_while(|_| send(&mut loaded) == TAKEN).count();
    assert!(after >= 12, "{after} taken with the ring empty again");
}
