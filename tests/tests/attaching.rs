//! Hundreds of veths come and go while gregor has one worker thread. Attaching waits for grace periods of the kernel; pages and
//! queries do not wait for it.
//!
//! What this asserts does not depend on the machine's speed. How long `/healthz` took is printed (`--nocapture`).

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    collections::HashSet,
    fmt::Write as _,
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use e2e::{Metrics, Wire, exchange_from, qualified, until};
use gregor::datapath::programs_on;
use gregor_tests::{
    lab::{Gregor, Lab, world::NODE_LOCAL_V4},
    tools,
};
use hickory_proto::rr::RecordType;
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::signal::Signal,
    unistd::Pid,
};

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
const VETHS: usize = 300;
/// A machine that stands still for this long may let the programs' deadline pass, which gregor renews 750 ms before its end.
const STANDSTILL: Duration = Duration::from_millis(500);
/// From one request for `/healthz` to the next.
const PACE: Duration = Duration::from_millis(5);
/// From one query to the next.
const QUERY_PACE: Duration = Duration::from_millis(10);
const ATTACHED: &str = "gregor_attached_interfaces";

/// This thread.
const SELF: Pid = Pid::from_raw(0);

/// A processor that this process may use.
fn processor() -> usize {
    let allowed = sched_getaffinity(SELF).unwrap();
    let is_allowed = |number: &usize| allowed.is_set(*number).unwrap();
    (0..CpuSet::count()).find(is_allowed).unwrap()
}

/// gregor with this processor alone, and so one worker thread: a command to be started in its place.
fn gregor_on(lab: &Lab, processor: usize) -> PathBuf {
    let path = lab.directory().join("gregor-on-one-processor");
    let binary = tools::gregor().unwrap();
    let script = format!(
        "#!/bin/sh\nexec taskset -c {processor} '{}' \"$@\"\n",
        binary.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn veth(number: usize) -> String {
    format!("many-{number}")
}

/// Makes all of them, their other ends in a pod's namespace, in this order.
fn come(lab: &Lab) {
    let pod = lab.pod("many").netns().name();
    let mut batch = String::new();
    for number in 0..VETHS {
        let name = veth(number);
        writeln!(
            batch,
            "link add {name} type veth peer name p{number} netns {pod}"
        )
        .unwrap();
    }
    lab.node().ip(&batch).unwrap();
}

fn go(lab: &Lab) {
    let lines = (0..VETHS).map(|number| format!("link del {}\n", veth(number)));
    lab.node().ip(&lines.collect::<String>()).unwrap();
}

/// When the first veth was seen with a program, and when the last one was last seen without.
fn pending(lab: &Lab) -> (Instant, Instant) {
    let has_program = |number| {
        let name = veth(number);
        let programs = move || programs_on(&name).unwrap_or_default();
        !lab.node().enter(programs).unwrap().is_empty()
    };
    until("the first has a program", || has_program(0).then_some(()));
    let first = Instant::now();
    let mut last = first;
    until("the last has a program", || {
        let now = Instant::now();
        if has_program(VETHS - 1) {
            return Some(());
        }
        last = now;
        None
    });
    (first, last)
}

/// How the veths come.
#[derive(Clone, Copy, Debug)]
enum Come {
    /// As the machine makes them.
    OneByOne,
    /// All in one list: gregor stands still meanwhile.
    AtOnce,
}

/// Has a loop end, also when a test fails.
struct Until<'a>(&'a AtomicBool);

impl Drop for Until<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What went on while the veths came and went.
struct Round {
    /// Begin and end of each request for `/healthz`. None fails.
    requests: Vec<(Instant, Instant)>,
    /// Requests that began and ended while some of the veths had their program and others waited for it.
    while_pending: usize,
    queries: usize,
    /// Queries that passed because no responder renewed the deadline.
    unattended: f64,
    /// Longest time that a thread on gregor's processor was not run.
    standstill: Duration,
}

fn ask(lab: &Lab) {
    // No program keeps answers for this type: each query goes to the responder.
    let (query, _) = Wire::new(&qualified("foo"), RecordType::TXT).bytes();
    exchange_from(lab.pod("foo"), CACHE, &query).expect("a reply");
}

/// Asks at a pace of its own, whoever answers and when, until it is `done`. Each query gets its reply.
fn ask_without_waiting(done: &AtomicBool) -> usize {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    socket.connect((CACHE, 53)).unwrap();
    let (mut asked, mut waiting, mut reply) = (0usize, HashSet::new(), [0; 4096]);
    let mut receive = |within: Duration, waiting: &mut HashSet<[u8; 2]>| {
        let deadline = Instant::now() + within;
        while !waiting.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || socket.set_read_timeout(Some(left)).is_err() {
                return;
            }
            if socket.recv(&mut reply).is_ok() {
                waiting.remove(&reply[..2]);
            }
        }
        thread::sleep(deadline.saturating_duration_since(Instant::now()));
    };
    while !done.load(Ordering::Relaxed) {
        let (mut query, _) = Wire::new(&qualified("foo"), RecordType::TXT).bytes();
        let id = (asked as u16).to_be_bytes();
        query[..2].copy_from_slice(&id);
        assert!(waiting.insert(id), "65,536 wait for their reply");
        socket.send(&query).unwrap();
        asked += 1;
        receive(QUERY_PACE, &mut waiting);
    }
    until("all replies", || {
        receive(QUERY_PACE, &mut waiting);
        waiting.is_empty().then_some(())
    });
    asked
}

fn until_attached(gregor: &Gregor, count: f64) {
    until("gregor's count of interfaces", || {
        (Metrics::of(gregor).get(ATTACHED) == count).then_some(())
    });
}

fn stand_still(lab: &Lab, gregor: &Gregor, meanwhile: impl FnOnce()) {
    gregor.signal(Signal::SIGSTOP);
    meanwhile();
    gregor.signal(Signal::SIGCONT);
    until("gregor is asked again", || {
        let before = Metrics::of(gregor).taken();
        ask(lab);
        (Metrics::of(gregor).taken() > before).then_some(())
    });
}

/// Longest time that a thread on this processor was not run.
fn longest_standstill(processor: usize, is_done: impl Fn() -> bool) -> Duration {
    let mut own = CpuSet::new();
    own.set(processor).unwrap();
    sched_setaffinity(SELF, &own).unwrap();
    let (mut longest, pause) = (Duration::ZERO, Duration::from_millis(20));
    while !is_done() {
        let begun = Instant::now();
        thread::sleep(pause);
        longest = longest.max(begun.elapsed().saturating_sub(pause));
    }
    longest
}

fn round(lab: &Lab, gregor: &Gregor, processor: usize, how: Come) -> Round {
    let attached = Metrics::of(gregor).get(ATTACHED);
    let done = Arc::new(AtomicBool::new(false));
    let is_done = || done.load(Ordering::Relaxed);
    thread::scope(|scope| {
        let until_done = Until(&done);
        let standstill = scope.spawn(|| longest_standstill(processor, is_done));
        let pending = scope.spawn(|| pending(lab));
        if let Come::AtOnce = how {
            stand_still(lab, gregor, || come(lab));
        }
        let before = Metrics::of(gregor);
        let requests = scope.spawn(|| {
            let mut requests = Vec::new();
            while !is_done() {
                let begun = Instant::now();
                assert_eq!(gregor.get("/healthz").unwrap(), (200, "ok\n".to_owned()));
                requests.push((begun, Instant::now()));
                thread::sleep(PACE.saturating_sub(begun.elapsed()));
            }
            requests
        });
        let asking = Arc::clone(&done);
        let ask = move || ask_without_waiting(&asking);
        let queries = lab.pod("foo").netns().enter_detached(ask).unwrap();
        if let Come::OneByOne = how {
            come(lab);
        }
        let (first, last) = pending.join().unwrap();
        until_attached(gregor, attached + VETHS as f64);
        go(lab);
        until_attached(gregor, attached);
        drop(until_done);
        let (requests, queries) = (requests.join().unwrap(), queries.join().unwrap());
        let after = Metrics::of(gregor);
        let is_within = |(begin, end): &&(Instant, Instant)| *begin > first && *end < last;
        Round {
            while_pending: requests.iter().filter(is_within).count(),
            requests,
            queries,
            unattended: after.passed("no_responder") - before.passed("no_responder"),
            standstill: standstill.join().unwrap(),
        }
    })
}

impl Round {
    fn print(&self, how: Come) {
        let mut took: Vec<Duration> = Vec::new();
        for (begin, end) in &self.requests {
            // One that took longer kept others from being sent, which would have waited for the rest of that time.
            let mut left = *end - *begin;
            took.push(left);
            while left > PACE {
                left -= PACE;
                took.push(left);
            }
        }
        took.sort_unstable();
        let percentile = |percent: usize| took[(took.len() - 1) * percent / 100];
        println!(
            "{VETHS} veths, {how:?}: {} requests for /healthz, {} of them while veths waited: p50 {:.1?}, p99 {:.1?}, \
             longest {:.1?}; {} queries, {} passed as no_responder; the processor stood still for {:.1?} at most",
            self.requests.len(),
            self.while_pending,
            percentile(50),
            percentile(99),
            percentile(100),
            self.queries,
            self.unattended,
            self.standstill,
        );
    }
}

#[test]
fn hundreds_of_veths_come_and_go_and_nobody_waits_for_them() {
    let lab = Lab::builder("e2eattach")
        .pod("foo")
        .pod("many")
        .start()
        .unwrap();
    let processor = processor();
    let gregor = lab
        .start_gregor(&gregor_on(&lab, processor), &lab.gregor_config())
        .unwrap();
    for how in [Come::OneByOne, Come::AtOnce] {
        let round = until("a round in which the machine does not stand still", || {
            let round = round(&lab, &gregor, processor, how);
            round.print(how);
            (round.standstill < STANDSTILL).then_some(round)
        });
        assert_eq!(round.unattended, 0.0, "{how:?}: passed as no_responder");
        assert!(
            round.while_pending > 0,
            "{how:?}: no request was answered while veths waited for their program"
        );
        assert!(round.queries > 0);
    }
}
