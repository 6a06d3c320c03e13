//! One gregor after another on a node whose pods go on asking: no query is lost, and no tenant loses its endpoint.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use e2e::{
    Asks, Load, MORE, Metrics, REPLY, Wire, addresses, exchange_tcp, programs_on, qualified,
    sorted, until, wait_for_log,
};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, Pod,
        world::{ExternalName, FOO_ADDRESSES, FOO_ENDPOINT, FOREIGN, NODE_LOCAL_V4},
    },
    other::Other,
    tools,
};
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
/// Tenants that the load asks for, one after the other.
const TENANTS: usize = 400;

fn tenant(number: usize) -> String {
    format!("tenant-{number}")
}

fn lab(prefix: &str) -> Lab {
    let lab = Lab::builder(prefix).pod("foo").start().unwrap();
    lab.change_world(|world| {
        let service = |number| ExternalName {
            service: "kafka-upstream".to_owned(),
            namespace: tenant(number),
            target: FOO_ENDPOINT.to_owned(),
        };
        world.external_names.extend((0..TENANTS).map(service));
    });
    lab
}

/// TTLs are short, so that nothing stays cached by luck.
fn config(lab: &Lab) -> String {
    lab.gregor_config()
        .replace("ttl   = 60", "ttl   = 1")
        .replace("[intercept]", "[intercept]\ntcp = \"always\"")
}

/// The tenants' endpoint, and nothing else.
fn has_endpoint(reply: &Message) -> bool {
    addresses(reply) == sorted(FOO_ADDRESSES)
}

/// Asks for names that are always cached, for names that come and go, and for names that no rule matches.
fn load(pod: &Pod) -> Load {
    let tenants = (0..TENANTS).map(|number| qualified(&tenant(number)));
    let asks = vec![
        Asks::addresses(vec![qualified("foo")], has_endpoint),
        Asks::addresses(tenants.collect(), has_endpoint),
        Asks::addresses(vec![FOREIGN.to_owned()], |_| true),
    ];
    Load::of(pod, CACHE, asks)
}

fn load_of(pod: &Pod, names: Vec<String>) -> Load {
    Load::of(pod, CACHE, vec![Asks::addresses(names, has_endpoint)])
}

/// Starts the gregor of this number, which takes over from the one that runs.
fn successor(lab: &Lab, number: usize) -> Gregor {
    successor_of(lab, number, &tools::gregor().unwrap())
}

fn successor_of(lab: &Lab, number: usize, binary: &Path) -> Gregor {
    lab.spawn_successor(&format!("gregor-{number}"), binary, &config(lab))
        .unwrap()
}

#[test]
fn rollouts_lose_no_query_and_no_endpoint() {
    let lab = lab("e2erollout");
    let foo = lab.pod("foo");
    let mut gregor = successor(&lab, 0);
    wait_for_log(&gregor, "gregor::app: ready");
    let load = load(foo);
    load.wait_for(200);
    for round in 1..=5 {
        let next = successor(&lab, round);
        wait_for_log(&next, "ready to take over");
        let status = next.status().unwrap();
        assert_eq!(status["readiness"]["standby"], true);
        load.wait_for(100);
        gregor.signal(Signal::SIGTERM);
        wait_for_log(&next, "gregor::app: ready");
        assert!(next.log().contains("took over from an earlier process"));
        let programs = programs_on(&lab, &foo.host_interface);
        assert_eq!(programs, ["gregor"], "{}{}", gregor.log(), next.log());
        let ended = until("the predecessor ends", || gregor.process().exited());
        assert_eq!(ended.code(), Some(0), "{}", gregor.log());
        assert_eq!(next.status().unwrap()["readiness"]["standby"], false);
        load.wait_for(200);
        // The pages are the successor's, once their address is free.
        until("the pages", || {
            matches!(next.get("/readyz"), Ok((200, _))).then_some(())
        });
        gregor = next;
    }
    assert_eq!(load.finish(), Vec::<String>::new());
}

/// This version, and the other one, in turns: `load` is what the pod asks for meanwhile.
fn rollouts_between(prefix: &str, other: Other, load: impl Fn(&Pod) -> Load) {
    let binaries = [tools::gregor().unwrap(), other.binary().unwrap()];
    let lab = lab(prefix);
    let foo = lab.pod("foo");
    let mut gregor = successor(&lab, 0);
    wait_for_log(&gregor, "gregor::app: ready");
    let load = load(foo);
    load.wait_for(200);
    for round in 1..=4 {
        let next = successor_of(&lab, round, &binaries[round % 2]);
        wait_for_log(&next, "ready to take over");
        load.wait_for(100);
        gregor.signal(Signal::SIGTERM);
        wait_for_log(&next, "gregor::app: ready");
        let ended = until("the predecessor ends", || gregor.process().exited());
        assert_eq!(ended.code(), Some(0), "{}", gregor.log());
        let reads = next
            .log()
            .contains("taking over the queries of another version");
        assert_eq!(reads, other == Other::Abi, "{}", next.log());
        let programs = programs_on(&lab, &foo.host_interface);
        assert_eq!(programs, ["gregor"], "{}{}", gregor.log(), next.log());
        load.wait_for(200);
        gregor = next;
    }
    assert_eq!(load.finish(), Vec::<String>::new());
}

/// Queries that wait in the ring of the version before are answered by the next one.
#[test]
fn rollouts_to_another_abi_version_lose_no_query_and_no_endpoint() {
    rollouts_between("e2eabi", Other::Abi, load);
}

/// Those that wait there are answered by the version before, since the next one cannot read them. A name that is not known passes
/// until the next one's programs are attached.
#[test]
fn rollouts_to_another_layout_lose_no_query_and_no_endpoint_that_is_known() {
    let load = |pod: &Pod| {
        let tenants = (0..TENANTS).map(|number| qualified(&tenant(number)));
        let asks = vec![
            Asks::addresses(vec![qualified("foo")], has_endpoint),
            Asks::addresses(tenants.collect(), |reply| {
                has_endpoint(reply) || addresses(reply).is_empty()
            }),
            Asks::addresses(vec![FOREIGN.to_owned()], |_| true),
        ];
        Load::of(pod, CACHE, asks)
    };
    rollouts_between("e2elayout", Other::Layout, load);
}

/// They can be answered by no process then.
#[test]
fn queries_that_waited_for_a_killed_gregor_of_another_layout_are_counted() {
    let binaries = [tools::gregor().unwrap(), Other::Layout.binary().unwrap()];
    let lab = lab("e2ecounted");
    let mut gregor = successor_of(&lab, 0, &binaries[0]);
    // Another round where the machine was slower than the deadline of the programs.
    for round in 1..=5 {
        wait_for_log(&gregor, "gregor::app: ready");
        gregor.signal(Signal::SIGSTOP);
        let once = Once::of(lab.pod("foo"));
        for id in 0..5 {
            let tenant = tenant(round * 5 + usize::from(id));
            once.ask(id, &qualified(&tenant));
        }
        gregor.signal(Signal::SIGKILL);
        until("it ends", || gregor.process().exited());
        gregor = successor_of(&lab, round, &binaries[round % 2]);
        wait_for_log(&gregor, "gregor::app: ready");
        let log = gregor.log();
        let line = log.lines().find(|line| line.contains("cannot be read"));
        if line.is_some_and(|line| line.contains("queries=5")) {
            return;
        }
    }
    panic!("{}", gregor.log());
}

#[test]
fn cached_names_keep_their_endpoint_while_gregor_is_killed() {
    let lab = lab("e2ekilled");
    let foo = lab.pod("foo");
    let mut gregor = successor(&lab, 0);
    wait_for_log(&gregor, "gregor::app: ready");
    let load = load(foo);
    // Every tenant is cached.
    load.wait_for(2 * 3 * TENANTS as u64);
    for round in 1..=5 {
        gregor.signal(Signal::SIGKILL);
        until("it ends", || gregor.process().exited());
        load.wait_for(200);
        gregor = successor(&lab, round);
        wait_for_log(&gregor, "gregor::app: ready");
        assert!(gregor.log().contains("took over from an earlier process"));
        assert_eq!(programs_on(&lab, &foo.host_interface), ["gregor"]);
        load.wait_for(200);
    }
    // The next one answers what the responder had taken; but a query on its way into the journal.
    let wrong = load.finish();
    let lost = wrong
        .iter()
        .filter(|line| line.ends_with("no reply"))
        .count();
    assert_eq!(lost, wrong.len(), "{wrong:?}");
    assert!(lost <= 1, "{wrong:?}");
}

/// Cached answers stay: a query that the kernel answered before a reload does not reach the responder after it.
#[test]
fn reloads_keep_the_answers_in_the_kernel() {
    let lab = lab("e2ereloads");
    let foo = lab.pod("foo");
    let config = lab.gregor_config();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let names: Vec<String> = (0..50).map(|number| qualified(&tenant(number))).collect();
    let load = load_of(foo, names.clone());
    load.wait_for(2 * names.len() as u64);
    assert_eq!(load.finish(), Vec::<String>::new());
    let taken = || Metrics::of(&gregor).taken();
    let entries = || gregor.status().unwrap()["kernel"]["answers"]["entries"].clone();
    let (taken_before, entries_before) = (taken(), entries());
    assert_eq!(entries_before, names.len());

    let load = load_of(foo, names);
    for round in 1..=20 {
        let text = match round % 2 {
            0 => config.clone(),
            _ => format!("{config}{MORE}"),
        };
        gregor.write_config(&text).unwrap();
        until("the reload", || {
            let status = gregor.status().unwrap();
            assert!(status["config"]["error"].is_null(), "{status}");
            (status["rules"].as_array().unwrap().len() == 1 + round % 2).then_some(())
        });
        load.wait_for(100);
    }
    assert_eq!(load.finish(), Vec::<String>::new());
    assert_eq!((taken(), entries()), (taken_before, entries_before));
}

/// The first one was not started for a handover and removes everything: the second one starts anew.
#[test]
fn a_successor_of_a_process_that_removes_everything_starts_anew() {
    let lab = lab("e2eanew");
    let foo = lab.pod("foo");
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config(&lab))
        .unwrap();
    let next = successor(&lab, 1);
    wait_for_log(&next, "ready to take over");
    gregor.signal(Signal::SIGTERM);
    wait_for_log(&next, "gregor::app: ready");
    assert!(!next.log().contains("took over from an earlier process"));
    assert_eq!(programs_on(&lab, &foo.host_interface), ["gregor"]);
    let load = load_of(foo, vec![qualified("foo")]);
    load.wait_for(20);
    assert_eq!(load.finish(), Vec::<String>::new());
}

/// One socket of a pod, from which each name is asked for once.
struct Once {
    socket: UdpSocket,
    /// Replies by ID.
    replies: BTreeMap<u16, Vec<Message>>,
}

impl Once {
    fn of(pod: &Pod) -> Self {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        Self {
            socket: pod.netns().enter(bind).unwrap().unwrap(),
            replies: BTreeMap::new(),
        }
    }

    fn ask(&self, id: u16, qname: &str) {
        let mut query = Message::new(id, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        let name = Name::from_ascii(qname).unwrap();
        query.add_query(Query::query(name, RecordType::A));
        let wire = query.to_vec().unwrap();
        self.socket.send_to(&wire, (CACHE, 53)).unwrap();
    }

    /// Reads until there is a reply to each of these, and whatever has arrived by then.
    fn read(&mut self, ids: std::ops::Range<u16>) {
        let limit = Instant::now() + REPLY;
        let mut buffer = [0; 4096];
        loop {
            let is_complete = ids.clone().all(|id| self.replies.contains_key(&id));
            if !is_complete && Instant::now() > limit {
                return;
            }
            let wait = if is_complete { 1 } else { 100 };
            let wait = Some(Duration::from_millis(wait));
            self.socket.set_read_timeout(wait).unwrap();
            match self.socket.recv(&mut buffer) {
                Ok(length) => {
                    let reply = Message::from_vec(&buffer[..length]).unwrap();
                    let replies = self.replies.entry(reply.metadata.id).or_default();
                    replies.push(reply);
                }
                Err(_) if is_complete => return,
                Err(_) => {}
            }
        }
    }
}

/// What the responder waits for an answer to when it is killed is the next one's, and what it has answered is not.
#[test]
fn a_successor_answers_what_a_killed_gregor_had_taken_once() {
    let own = tools::gregor().unwrap();
    taken_queries_are_answered_once("e2etaken", &[own]);
}

#[test]
fn a_successor_of_another_abi_version_answers_what_was_taken_once() {
    let binaries = [tools::gregor().unwrap(), Other::Abi.binary().unwrap()];
    taken_queries_are_answered_once("e2etakenabi", &binaries);
}

/// One binary after the other.
fn taken_queries_are_answered_once(prefix: &str, binaries: &[PathBuf]) {
    const TAKEN: u16 = 20;
    /// A successor takes over what is younger than five seconds.
    const IN_TIME: Duration = Duration::from_secs(4);
    let mut lab = lab(prefix);
    let config = config(&lab) + "\n[upstream]\ntimeout = \"10s\"\n";
    let mut started = 0;
    let start = |lab: &Lab, number: &mut usize| {
        *number += 1;
        let binary = &binaries[*number % binaries.len()];
        let gregor = lab
            .spawn_successor(&format!("gregor-{number}"), binary, &config)
            .unwrap();
        wait_for_log(&gregor, "gregor::app: ready");
        gregor
    };
    let kill = |gregor: &Gregor| {
        gregor.signal(Signal::SIGKILL);
        until("it ends", || gregor.process().exited());
    };
    let mut gregor = start(&lab, &mut started);
    // Another round where the machine was too slow.
    for round in 0..5 {
        let mut once = Once::of(lab.pod("foo"));
        let first = round * 2 * TAKEN;
        lab.stop_cache();
        let sent = Instant::now();
        for id in first..first + TAKEN {
            once.ask(id, &qualified(&tenant(id.into())));
        }
        until("they wait", || {
            let status = gregor.status().unwrap();
            (status["responder"]["chases_in_flight"] == u64::from(TAKEN)).then_some(())
        });
        kill(&gregor);
        lab.start_cache().unwrap();
        gregor = start(&lab, &mut started);
        if sent.elapsed() > IN_TIME {
            continue;
        }
        once.read(first..first + TAKEN);
        let log = gregor.log();
        assert_eq!(once.replies.len(), usize::from(TAKEN), "{log}");

        // All of it is answered now: there is nothing for the next one.
        kill(&gregor);
        let _gregor = start(&lab, &mut started);
        let last = first + TAKEN;
        once.ask(last, &qualified(&tenant(last.into())));
        once.read(last..last + 1);
        for (id, replies) in &once.replies {
            let [reply] = replies.as_slice() else {
                panic!("{} replies to {id}", replies.len());
            };
            assert!(has_endpoint(reply), "{reply:?}");
        }
        assert_eq!(once.replies.len(), usize::from(TAKEN) + 1);
        return;
    }
    panic!("five times, no successor was there within {IN_TIME:?}");
}

/// A process that takes over has looked nothing up itself: while the upstream is away, what the programs have is the last good
/// answer. The log of the second one says `taken`.
fn answers_outlive_their_process(prefix: &str, binaries: [PathBuf; 2], taken: &str) {
    let mut lab = lab(prefix);
    let gregor = successor_of(&lab, 0, &binaries[0]);
    wait_for_log(&gregor, "gregor::app: ready");
    let ask = |lab: &Lab| {
        let mut ask = Ask::new(CACHE, &qualified("foo"), RecordType::A);
        ask.timeout = REPLY;
        lab.pod("foo").ask(ask).unwrap()
    };
    let ask_over_tcp = |lab: &Lab| {
        let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
        let reply = exchange_tcp(lab.pod("foo"), CACHE, &query).unwrap();
        Message::from_vec(&reply).unwrap()
    };
    assert!(has_endpoint(&ask(&lab)));
    gregor.signal(Signal::SIGKILL);
    until("it ends", || gregor.process().exited());
    lab.stop_cache();
    let gregor = successor_of(&lab, 1, &binaries[1]);
    wait_for_log(&gregor, "gregor::app: ready");
    assert!(gregor.log().contains(taken), "{}", gregor.log());
    let interface = &lab.pod("foo").host_interface;
    assert_eq!(programs_on(&lab, interface), ["gregor"]);
    // A failed look-up takes nothing away: there is another one only where an answer was to be refreshed again.
    until("failed look-ups", || {
        let reply = ask(&lab);
        assert!(has_endpoint(&reply), "{reply:?}\n{}", gregor.log());
        let reply = ask_over_tcp(&lab);
        assert!(has_endpoint(&reply), "TCP: {reply:?}\n{}", gregor.log());
        let status = gregor.status().unwrap();
        let failures = status["responder"]["chase_failures"].as_object().unwrap();
        let failures: u64 = failures.values().filter_map(|count| count.as_u64()).sum();
        (failures > 1).then_some(())
    });
}

#[test]
fn answers_of_a_killed_gregor_outlive_an_upstream_that_is_away() {
    let own = || tools::gregor().unwrap();
    let taken = "took over from an earlier process";
    answers_outlive_their_process("e2eaway", [own(), own()], taken);
}

#[test]
fn answers_of_the_abi_version_before_outlive_an_upstream_that_is_away() {
    let binaries = [Other::Abi.binary().unwrap(), tools::gregor().unwrap()];
    let taken = "taking over the answers of another version";
    answers_outlive_their_process("e2ebefore", binaries, taken);
}

#[test]
fn answers_of_this_abi_version_outlive_an_upstream_that_is_away_in_the_next_one() {
    let binaries = [tools::gregor().unwrap(), Other::Abi.binary().unwrap()];
    let taken = "taking over the answers of another version";
    answers_outlive_their_process("e2enext", binaries, taken);
}
