//! The loaded program: the table of packets, its place on the hook, its limits. Wants root and a kernel with tcx.

use std::{net::IpAddr, process::Command, sync::atomic::Ordering, time::Duration};

use dns_common::{
    answer::Body,
    verdict::{EXPIRED, Reason, TAKEN, Verdict},
};
use gregor::datapath::{
    HIT_LANES, Hook, Limit, LoadOptions, Order, Protection, ReturnPath, State, Term,
};
use gregor_tests::{
    packets::{
        answers,
        build::{Frame, Packet, Transport, udp_to},
        engine::{Engine as _, Outcome, TestRun, Veth, agree, agree_on_answers, agree_when_closed},
        loaded::{LOOPBACK, Loaded, answering, compile, options, wait_until},
        observer::{Observer, Place},
        table::{
            ALONE, Engines, FIRST_V4, FIRST_V6, SEVERAL, broker_query, broker_query_of, cases,
        },
        wire::on_a_wire,
    },
    reading,
};
use nix::net::if_::if_nametoindex;

#[test]
fn the_table_under_test_run() {
    let cases = cases();
    let ran = agree(&mut TestRun::new(SEVERAL).unwrap(), cases.iter());
    assert_eq!(ran, cases.iter().filter(|c| c.engines.test_run).count());
    assert!(ran > 200, "{ran}");
}

#[test]
fn the_table_under_test_run_with_one_rule() {
    let cases = cases();
    let ran = agree(
        &mut TestRun::new(ALONE).unwrap(),
        cases.iter().filter(|case| case.holds_alone()),
    );
    assert!(ran > 180, "{ran}");
}

/// What passes is seen by a program behind ours on tcx and by one on clsact; what is taken by neither.
#[test]
fn the_table_on_a_veth() {
    on_a_wire(|wire| {
        let cases = cases();
        let ran = agree(
            &mut Veth::new(wire, SEVERAL, Hook::Tcx).unwrap(),
            cases.iter(),
        );
        assert_eq!(ran, cases.iter().filter(|c| c.engines.veth).count());
        assert!(ran > 200, "{ran}");
    });
}

/// The same on the hook of kernels without tcx.
#[test]
fn the_table_on_clsact() {
    on_a_wire(|wire| {
        let cases = cases();
        let ran = agree(
            &mut Veth::new(wire, SEVERAL, Hook::Clsact).unwrap(),
            cases.iter(),
        );
        assert!(ran > 200, "{ran}");
    });
}

#[test]
fn answers_under_test_run() {
    let cases = answers::cases();
    let mut program = TestRun::with_options(&answering()).unwrap();
    agree_on_answers(&mut program, cases.iter());
}

/// A program with tables of answers to other questions.
#[test]
fn the_table_with_answers_to_other_questions() {
    let mut program = TestRun::with_options(&LoadOptions {
        answers: answering().answers,
        ..options(compile(SEVERAL))
    })
    .unwrap();
    program
        .fill(&[answers::cached("absent", answers::endpoint())])
        .unwrap();
    agree(&mut program, cases().iter());
}

/// A program without its own answers hands over what another one would answer, whatever is in its tables.
#[test]
fn no_answers() {
    let mut program = TestRun::with_options(&options(answers::rules())).unwrap();
    for case in answers::cases() {
        if !program.takes(&case.engines()) {
            continue;
        }
        program.fill(&case.cached).unwrap();
        let outcome = program.run(&case.frame()).unwrap();
        assert_eq!(outcome.verdict(), Verdict::Taken, "{}", case.name);
    }
}

/// Every reply arrives at the pod, once and with right checksums, and no program behind ours has seen the query.
#[test]
fn answers_on_a_veth() {
    on_a_wire(|wire| {
        let cases = answers::cases();
        let mut veth = Veth::with_options(wire, &answering()).unwrap();
        agree_on_answers(&mut veth, cases.iter());
    });
}

#[test]
fn answers_on_clsact() {
    on_a_wire(|wire| {
        let cases = answers::cases();
        let options = LoadOptions {
            hook: Hook::Clsact,
            ..answering()
        };
        let mut veth = Veth::with_options(wire, &options).unwrap();
        agree_on_answers(&mut veth, cases.iter());
    });
}

/// Expired entries, which are not served while a responder is there.
fn expired() -> answers::Entry {
    answers::cached("foo", answers::endpoint()).for_term(Term {
        unattended: Duration::from_secs(3600),
        fresh: Duration::ZERO,
        grace: Duration::ZERO,
        fixed_ttl: None,
    })
}

/// RFC 8767: expired answers are served while no responder can refresh them, with a short TTL.
#[test]
fn expired_answers_without_a_responder() {
    let mut loaded = Loaded::new(&answering()).unwrap();
    loaded.datapath.allow_interface(LOOPBACK).unwrap();
    loaded.fill(&[expired()]).unwrap();
    let outcome = loaded.test_run(&matched()).unwrap();
    assert_eq!(outcome.verdict(), Verdict::Taken, "a responder is there");
    loaded.heartbeat.stop();
    let outcome = loaded.test_run(&matched()).unwrap();
    assert!(
        matches!(outcome, Outcome::Answered { refresh: None, .. }),
        "{outcome:?}"
    );
    assert_eq!(loaded.counters().unwrap()[EXPIRED], 1);
    loaded.fill(&[]).unwrap();
    let outcome = loaded.test_run(&matched()).unwrap();
    assert_eq!(outcome, Outcome::Passed(Reason::NoResponder));
}

/// A program that hands over one query a second of the interface.
fn one_query_a_second() -> Loaded {
    let mut loaded = Loaded::new(&LoadOptions {
        limit: Limit {
            queries_per_second: 1,
            burst: 1,
        },
        ..answering()
    })
    .expect("the program loads");
    loaded
        .datapath
        .allow_interface(LOOPBACK)
        .expect("an interface more");
    loaded
}

/// A pass would be a denial of a name that has a target: over its rate, a pod gets expired answers.
#[test]
fn expired_answers_over_the_rate() {
    let mut loaded = one_query_a_second();
    loaded.fill(&[expired()]).unwrap();
    let first = loaded.test_run(&matched()).unwrap();
    assert_eq!(first.verdict(), Verdict::Taken);
    let second = loaded.test_run(&matched()).unwrap();
    assert!(
        matches!(second, Outcome::Answered { refresh: None, .. }),
        "{second:?}"
    );
    loaded.fill(&[]).unwrap();
    let unknown = loaded.test_run(&matched()).unwrap();
    assert_eq!(unknown, Outcome::Passed(Reason::RateLimited));
}

/// A pass would be a denial of a name that has a target: without an answer there is no reply.
#[test]
fn existing_names_over_the_rate_get_no_reply() {
    const TXT: u16 = 16;
    const AAAA: u16 = 28;
    let mut loaded = one_query_a_second();
    let of = |loaded: &mut Loaded, entry: &[answers::Entry], qtype| {
        loaded.fill(entry).unwrap();
        let query = broker_query_of(qtype).build().bytes;
        loaded.test_run(&query).unwrap()
    };
    let known = [answers::cached("foo", answers::endpoint())];
    let first = of(&mut loaded, &known, TXT);
    assert_eq!(first.verdict(), Verdict::Taken, "within the rate");
    for qtype in [TXT, AAAA] {
        assert_eq!(of(&mut loaded, &known, qtype), Outcome::Unanswered);
    }
    // A cached answer that does not fit into 512 bytes.
    let large = answers::cases()
        .into_iter()
        .find(|case| case.name == "513 bytes without OPT")
        .unwrap();
    loaded.fill(&large.cached).unwrap();
    let outcome = loaded.test_run(&large.frame().bytes).unwrap();
    assert_eq!(outcome, Outcome::Unanswered);
    // An expired entry still proves that the name exists, until its end.
    assert_eq!(of(&mut loaded, &[expired()], TXT), Outcome::Unanswered);
    let ended = answers::cached("foo", answers::endpoint()).for_term(Term {
        fresh: Duration::ZERO,
        grace: Duration::ZERO,
        unattended: Duration::ZERO,
        ..Term::default()
    });
    for entries in [&[ended][..], &[]] {
        let outcome = of(&mut loaded, entries, TXT);
        assert_eq!(outcome, Outcome::Passed(Reason::RateLimited));
    }
    // Without a responder there would be no reply until one starts.
    loaded.heartbeat.stop();
    for entries in [&known[..], &[]] {
        let outcome = of(&mut loaded, entries, TXT);
        assert_eq!(outcome, Outcome::Passed(Reason::NoResponder));
    }
}

/// Without a responder the program answers from its tables, asks for no refresh, and passes the rest.
#[test]
fn answers_without_a_responder() {
    let mut loaded = Loaded::new(&answering()).unwrap();
    loaded.datapath.allow_interface(LOOPBACK).unwrap();
    let in_grace = answers::cached("foo", answers::endpoint()).for_term(Term {
        fresh: Duration::ZERO,
        grace: Duration::from_secs(3600),
        fixed_ttl: None,
        ..Term::default()
    });
    loaded.fill(&[in_grace]).unwrap();
    loaded.heartbeat.stop();
    for _ in 0..3 {
        let outcome = loaded.test_run(&matched()).unwrap();
        assert!(
            matches!(outcome, Outcome::Answered { refresh: None, .. }),
            "{outcome:?}"
        );
    }
    loaded.heartbeat.renew(Duration::from_secs(3600));
    for refreshes in [true, false, false] {
        let outcome = loaded.test_run(&matched()).unwrap();
        let Outcome::Answered { refresh, .. } = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(
            refresh.is_some(),
            refreshes,
            "once, and only where a responder runs"
        );
    }
    loaded.fill(&[]).unwrap();
    loaded.heartbeat.stop();
    assert_eq!(
        loaded.test_run(&matched()).unwrap(),
        Outcome::Passed(Reason::NoResponder)
    );
}

/// Successive answers of one processor begin with the next address each.
#[test]
fn addresses_take_turns() {
    on_one_processor();
    let mut program = TestRun::with_options(&answering()).unwrap();
    for count in [1u8, 2, 3, 5, 16, 20] {
        let answer = answers::Answer {
            rdata: answers::addresses(count),
            chain: vec!["kafka-upstream.foo.svc.cluster.local".to_owned()],
            ..answers::endpoint()
        };
        program.fill(&[answers::cached("foo", answer)]).unwrap();
        let mut first = None;
        for turn in 0..3 * usize::from(count) {
            let outcome = program.run(&broker_query().build()).unwrap();
            let Outcome::Answered { reply, .. } = outcome else {
                panic!("{outcome:?}");
            };
            let reading = reading::hickory(&reply[42..]).unwrap();
            let own = &reading.answer[1].data;
            let position = (answers::addresses(count).iter())
                .position(|rdata| {
                    *own == rdata.iter().map(|b| format!("{b:02x}")).collect::<String>()
                })
                .unwrap();
            let first = *first.get_or_insert(position);
            assert_eq!(position, (first + turn) % usize::from(count));
        }
    }
}

/// Keeps the calling thread, and the test runs that it starts, on one processor.
fn on_one_processor() {
    use nix::{
        sched::{CpuSet, sched_getaffinity, sched_setaffinity},
        unistd::Pid,
    };
    let allowed = sched_getaffinity(Pid::from_raw(0)).expect("affinity");
    let first = (0..CpuSet::count())
        .find(|&cpu| allowed.is_set(cpu) == Ok(true))
        .expect("a processor");
    let mut one = CpuSet::new();
    one.set(first).expect("its number");
    sched_setaffinity(Pid::from_raw(0), &one).expect("affinity");
}

/// Every frame has an engine that runs the program itself.
#[test]
fn every_case_runs_in_the_loaded_program() {
    for case in cases() {
        let Engines {
            test_run,
            xdp,
            veth,
            ..
        } = case.engines;
        let runs = test_run || xdp || veth;
        // Not even AF_PACKET sends less than an Ethernet header.
        let cannot = case.frame.bytes.len() < 14;
        assert_ne!(runs, cannot, "{}", case.name);
    }
}

/// A program in front of ours sees everything, taken or not; one behind ours only what passes.
#[test]
fn last_on_tcx() {
    on_a_wire(|wire| {
        let name = wire.interface.name.clone();
        let in_front = Observer::attach(&name, Place::Tcx).unwrap();
        let mut loaded = Loaded::new(&LoadOptions {
            order: Order::Last,
            ..options(compile(SEVERAL))
        })
        .unwrap();
        loaded.datapath.attach(&wire.interface).unwrap();
        let behind = Observer::attach(&name, Place::Clsact { priority: 1 }).unwrap();

        wire.send(&broker_query().build()).unwrap();
        wait_until("the query is taken", || {
            loaded.counters().unwrap()[TAKEN] == 1
        });
        assert_eq!(in_front.seen().unwrap().frames, 1);
        assert_eq!(behind.seen().unwrap().frames, 0);

        wire.send(&foreign()).unwrap();
        wait_until("the query passes", || behind.seen().unwrap().frames == 1);
        assert_eq!(in_front.seen().unwrap().frames, 2);
        assert_eq!(loaded.drain().len(), 1);
    });
}

/// Once, and not again while it is there.
#[test]
fn return_path_that_others_take_away() {
    let mended = |mut path: ReturnPath, command: &'static str| {
        assert!(!path.mend().unwrap(), "it is there");
        let mut words = command.split(' ');
        let mut agent = Command::new(words.next().unwrap());
        assert!(agent.args(words).status().unwrap().success());
        assert!(path.mend().unwrap(), "{command}");
        assert!(!path.mend().unwrap(), "it is back");
        let index = path.index().load(Ordering::Relaxed);
        assert_eq!(if_nametoindex("gregor0").unwrap(), index);
    };
    on_a_wire(move |_| {
        mended(ReturnPath::open().unwrap(), "ip link del gregor0");
        let clsact = ReturnPath::on(Hook::Clsact).unwrap();
        mended(clsact, "tc qdisc del dev gregor0 clsact");
        let clsact = ReturnPath::on(Hook::Clsact).unwrap();
        mended(clsact, "ip link del gregor0");
        // Each has removed its device.
        assert!(if_nametoindex("gregor0").is_err());
    });
}

/// `order = "last"` on clsact leaves the filters in front alone.
#[test]
fn last_on_clsact() {
    on_a_wire(|wire| {
        let name = wire.interface.name.clone();
        let in_front = Observer::attach(&name, Place::Clsact { priority: 100 }).unwrap();
        let mut loaded = Loaded::new(&LoadOptions {
            hook: Hook::Clsact,
            order: Order::Last,
            ..options(compile(SEVERAL))
        })
        .unwrap();
        loaded.datapath.attach(&wire.interface).unwrap();

        wire.send(&broker_query().build()).unwrap();
        wait_until("the query is taken", || {
            loaded.counters().unwrap()[TAKEN] == 1
        });
        assert_eq!(in_front.seen().unwrap().frames, 1);
    });
}

/// First means first also with earlier programs on the hook.
#[test]
fn first_before_earlier_programs() {
    for (hook, place) in [
        (Hook::Tcx, Place::Tcx),
        (Hook::Clsact, Place::Clsact { priority: 100 }),
    ] {
        on_a_wire(|wire| {
            let earlier = Observer::attach(&wire.interface.name, place).unwrap();
            let mut loaded = Loaded::new(&LoadOptions {
                hook,
                ..options(compile(SEVERAL))
            })
            .unwrap();
            loaded.datapath.attach(&wire.interface).unwrap();
            wire.send(&broker_query().build()).unwrap();
            wait_until("the query is taken", || {
                loaded.counters().unwrap()[TAKEN] == 1
            });
            assert_eq!(earlier.seen().unwrap().frames, 0, "{hook:?}");
        });
    }
}

/// Detached, on either hook: everything passes, and the others are still there.
#[test]
fn detached() {
    for hook in [Hook::Tcx, Hook::Clsact] {
        on_a_wire(|wire| {
            let mut veth = Veth::new(wire, SEVERAL, hook).unwrap();
            let taken = veth.run(&broker_query().build()).unwrap();
            assert_eq!(taken.verdict(), Verdict::Taken);
            veth.loaded.datapath.detach(wire.interface.index);
            // Nothing is counted any more, which reads like the one reason that never is.
            let passed = veth.run(&broker_query().build()).unwrap();
            assert_eq!(passed, Outcome::Passed(Reason::NotDns), "{hook:?}");
        });
    }
}

/// A reload: the next program takes over in one step and in the same place.
#[test]
fn adopted() {
    for hook in [Hook::Tcx, Hook::Clsact] {
        on_a_wire(|wire| {
            let mut veth = Veth::new(wire, ALONE, hook).unwrap();
            let exact = frame_of("exact override");
            let outcome = veth.run(&exact).unwrap();
            assert_eq!(outcome, Outcome::Passed(Reason::NoRule));

            let mut next = Loaded::new(&LoadOptions {
                hook,
                ..options(compile(SEVERAL))
            })
            .unwrap();
            let failed = next.datapath.adopt(&mut veth.loaded.datapath, |_| true);
            let failed = failed.unwrap();
            assert!(failed.is_empty(), "{failed:?}");
            assert_eq!(
                next.datapath.attached().as_slice(),
                std::slice::from_ref(&wire.interface)
            );
            let previous = std::mem::replace(&mut veth.loaded, next);
            drop(previous);
            // It would pass under the old rules, and an observer in front of the new program would see it.
            let outcome = veth.run(&exact).unwrap();
            assert_eq!(outcome.verdict(), Verdict::Taken, "{hook:?}");
        });
    }
}

/// A process that takes over full tables evicts what was published longest ago, whichever slot it has.
#[test]
fn taken_over_answers_keep_their_order_of_eviction() {
    const TOTAL: usize = 8;
    let root = format!("/sys/fs/bpf/gregor-order-{}", std::process::id());
    let state = State::open(std::path::Path::new(&root)).unwrap();
    let mut options = options(compile(ALONE));
    options.answers.total = TOTAL;
    options.answers.per_interface = TOTAL;
    let publish = |loaded: &Loaded, namespace: &str, seconds: u64| {
        let rule = loaded.datapath.rules().rules()[0].id();
        let answers = loaded.datapath.answers();
        let key = answers.key(rule, 1, FIRST_V4, &[namespace.to_owned()], 0);
        let term = Term {
            unattended: Duration::from_secs(seconds),
            ..Term::default()
        };
        answers.publish(1, &key.unwrap(), &Body::default(), &term);
        key.unwrap()
    };
    let first = Loaded::pinned(&options, &state).unwrap();
    let keys: Vec<_> = (0..TOTAL)
        .map(|number| publish(&first, &format!("ns-{number}"), 1000 + number as u64))
        .collect();
    // The first one is refreshed.
    publish(&first, "ns-0", 2000);
    let mut first = first;
    first.datapath.leave();
    drop(first);

    let mut next = Loaded::pinned(&options, &state).unwrap();
    publish(&next, "another", 1000);
    let answers = next.datapath.answers().clone();
    let kept: Vec<bool> = keys
        .iter()
        .map(|key| answers.last_good(key).exists)
        .collect();
    assert_eq!(kept, [true, false, true, true, true, true, true, true]);
    next.datapath.remove();
}

/// A UDP_SEGMENT send of an ordinary socket: one buffer, several queries, none of them lost.
#[test]
fn segmented_send_of_a_socket() {
    use std::{net::UdpSocket, os::fd::AsRawFd as _};

    on_a_wire(|wire| {
        use gregor_tests::packets::wire::ip;

        let mut loaded = Loaded::new(&options(compile(SEVERAL))).unwrap();
        loaded.datapath.attach(&wire.interface).unwrap();
        let behind = Observer::attach(&wire.interface.name, Place::Tcx).unwrap();
        let query = &broker_query().build().bytes[42..];
        wire.in_pod(|| {
            ip("address add 10.1.2.3/32 dev eth0")?;
            ip("route add default dev eth0")?;
            let socket = UdpSocket::bind("10.1.2.3:0")?;
            let size = query.len() as libc::c_int;
            // SAFETY: an int and its size.
            let set = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_UDP,
                    libc::UDP_SEGMENT,
                    (&raw const size).cast(),
                    size_of_val(&size) as u32,
                )
            };
            anyhow::ensure!(set == 0, "{}", std::io::Error::last_os_error());
            let sent = socket.send_to(&query.repeat(3), "169.254.20.10:53")?;
            anyhow::ensure!(sent == 3 * query.len());
            Ok(())
        })
        .unwrap();
        wait_until("the buffer passes", || behind.seen().unwrap().frames > 0);
        let seen = behind.seen().unwrap();
        assert_eq!(seen.frames, 1, "one buffer");
        assert_eq!(
            seen.last_len,
            42 + 3 * query.len() as u64,
            "all three queries"
        );
        assert_eq!(loaded.counters().unwrap()[TAKEN], 0);
        assert!(loaded.drain().is_empty());
    });
}

fn frame_of(case: &str) -> Frame {
    cases()
        .into_iter()
        .find(|other| other.name == case)
        .expect("a case of this name")
        .frame
}

fn foreign() -> Frame {
    frame_of("foreign name")
}

fn matched() -> Vec<u8> {
    broker_query().build().bytes
}

#[test]
fn without_a_responder_matched_queries_pass() {
    let mut loaded = Loaded::new(&options(compile(SEVERAL))).unwrap();
    loaded.datapath.allow_interface(LOOPBACK).unwrap();
    let passed = Outcome::Passed(Reason::NoResponder);
    assert!(matches!(
        loaded.test_run(&matched()).unwrap(),
        Outcome::Taken(_)
    ));
    loaded.heartbeat.stop();
    assert_eq!(loaded.test_run(&matched()).unwrap(), passed);
    assert_eq!(
        loaded.test_run(&foreign().bytes).unwrap(),
        Outcome::Passed(Reason::NoRule),
        "what does not match is counted as before"
    );
    loaded.heartbeat.renew(Duration::from_secs(3600));
    assert!(matches!(
        loaded.test_run(&matched()).unwrap(),
        Outcome::Taken(_)
    ));
    loaded.heartbeat.renew(Duration::ZERO);
    assert_eq!(
        loaded.test_run(&matched()).unwrap(),
        passed,
        "a deadline that has gone by"
    );
}

#[test]
fn an_interface_that_is_not_ours_passes() {
    let mut loaded = Loaded::new(&options(compile(SEVERAL))).unwrap();
    assert_eq!(
        loaded.test_run(&matched()).unwrap(),
        Outcome::Passed(Reason::NoResponder)
    );
}

#[test]
fn over_the_token_bucket_matched_queries_pass() {
    let mut loaded = Loaded::new(&LoadOptions {
        limit: Limit {
            // What comes back within the test only adds to the burst.
            queries_per_second: 1,
            burst: 50,
        },
        ..options(compile(SEVERAL))
    })
    .unwrap();
    loaded.datapath.allow_interface(LOOPBACK).unwrap();
    let mut taken = 0;
    let passed = loop {
        match loaded.test_run(&matched()).unwrap() {
            Outcome::Taken(_) => taken += 1,
            passed => break passed,
        }
        assert!(taken < 2000);
    };
    assert_eq!(passed, Outcome::Passed(Reason::RateLimited));
    assert!(taken >= 50, "{taken} of a burst of 50");
    assert_eq!(
        loaded.test_run(&foreign().bytes).unwrap(),
        Outcome::Passed(Reason::NoRule),
        "a bucket is for matched queries alone"
    );
}

/// As on a machine with more processors than words that count: none is lost, whichever processor answers.
#[test]
fn hits_are_counted_where_processors_share_the_words() {
    const RUNS: u32 = 500;
    let processors = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).unwrap();
    let processors: Vec<usize> = (0..nix::sched::CpuSet::count())
        .filter(|processor| processors.is_set(*processor).unwrap())
        .collect();
    for hit_lanes in [1, HIT_LANES] {
        let mut loaded = Loaded::restored(&LoadOptions {
            hit_lanes,
            ..answering()
        })
        .unwrap();
        loaded.datapath.allow_interface(LOOPBACK).unwrap();
        let case = answers::cases()
            .into_iter()
            .find(|case| matches!(case.expect, answers::Expect::Answered) && !case.paged)
            .unwrap();
        loaded.fill(&case.cached).unwrap();
        let mut runs = 0;
        for processor in &processors {
            let mut only = nix::sched::CpuSet::new();
            only.set(*processor).unwrap();
            nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &only).unwrap();
            let frame = case.frame();
            loaded.datapath.test_run(&frame.bytes, RUNS).unwrap();
            runs += u64::from(RUNS);
            let given = loaded.datapath.answers().given();
            assert_eq!(given.rules.values().sum::<u64>(), runs, "{hit_lanes} lanes");
        }
    }
}

#[test]
fn a_full_ring_passes() {
    let mut loaded = Loaded::new(&LoadOptions {
        ring_bytes: 4096,
        ..options(compile(SEVERAL))
    })
    .unwrap();
    loaded.datapath.allow_interface(LOOPBACK).unwrap();
    let before = loaded.counters().unwrap();
    loaded.datapath.test_run(&matched(), 100).unwrap();
    let after = loaded.counters().unwrap();
    let full = Reason::RingFull as usize;
    let taken = after[TAKEN] - before[TAKEN];
    assert!(taken > 0 && taken < 100, "{taken}");
    assert_eq!(taken + after[full] - before[full], 100);
    let queries = loaded.drain();
    assert_eq!(queries.len() as u64, taken, "what counts as taken is there");
    assert!(queries.iter().all(|query| query.frame == matched()));
    assert!(
        matches!(loaded.test_run(&matched()).unwrap(), Outcome::Taken(_)),
        "drained, it takes again"
    );
}

#[test]
fn queries_to_other_servers_are_counted() {
    let mut loaded = Loaded::new(&options(compile(SEVERAL))).unwrap();
    for (name, address) in [
        ("other server", "8.8.8.8"),
        ("IPv6 other server", "2001:4860:4860::8888"),
    ] {
        let frame = frame_of(name);
        loaded.test_run(&frame.bytes).unwrap();
        loaded.test_run(&frame.bytes).unwrap();
        let other = loaded.datapath.other_servers();
        assert!(
            other.contains(&(address.parse().unwrap(), 2)),
            "{address} in {other:?}"
        );
    }
}

/// The cost of every pod start and every reload.
#[test]
fn verifier_budget() {
    let mut loaded = Loaded::new(&options(compile(SEVERAL))).unwrap();
    let summary = loaded.datapath.summary().unwrap();
    println!(
        "{} instructions verified, {} bytes of machine code, loaded in {:?}",
        summary.verified_instructions, summary.jited_bytes, summary.load_time
    );
    assert!(summary.verified_instructions > 0);
    assert!(
        summary.verified_instructions < 50_000,
        "{}",
        summary.verified_instructions
    );
}

/// The program of `--debug-bpf` loads too; the product's has nothing of it.
#[test]
fn verifier_budget_of_the_logging_program() {
    let options = options(compile(SEVERAL));
    let mut loaded = Loaded::logging(&options).unwrap();
    let summary = loaded.datapath.summary().unwrap();
    println!(
        "{} instructions verified, {} bytes of machine code",
        summary.verified_instructions, summary.jited_bytes
    );
    assert!(summary.verified_instructions > 0);
    assert!(
        summary.verified_instructions < 200_000,
        "{}",
        summary.verified_instructions
    );
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    assert!(loaded.datapath.log().unwrap().is_some());
    let mut product = Loaded::new(&options).unwrap();
    assert!(product.datapath.log().unwrap().is_none(), "no AYA_LOGS");
}

/// With protected targets.
fn closed() -> LoadOptions {
    LoadOptions {
        protection: Protection {
            keeps_unread: true,
            requires_tcp: true,
        },
        ..options(compile(SEVERAL))
    }
}

#[test]
fn the_table_where_targets_are_protected() {
    let mut program = TestRun::with_options(&closed()).unwrap();
    let kept = agree_when_closed(&mut program, cases().iter());
    assert!(kept > 60, "{kept}");
    let mut loaded = Loaded::new(&closed()).unwrap();
    let verified = loaded.datapath.summary().unwrap().verified_instructions;
    println!("{verified} instructions verified");
    assert!(verified < 55_000, "{verified}");
}

/// What is for a server and what is not, over each family.
#[test]
fn where_targets_are_protected_nothing_is_kept_from_others_than_servers() {
    let mut program = TestRun::with_options(&closed()).unwrap();
    let [other_v4, other_v6] = ["192.0.2.53", "2001:db8::53"].map(|text| text.parse().unwrap());
    let tcp = |port: u16| {
        let mut header = vec![0; 20];
        header[2..4].copy_from_slice(&port.to_be_bytes());
        Transport::Other(6, header)
    };
    for (server, other) in [(FIRST_V4, other_v4), (FIRST_V6, other_v6)] {
        let is_v4 = server.is_ipv4();
        let to = |destination: IpAddr, transport: &Transport| {
            udp_to(destination, Vec::new()).with(|packet| packet.transport = transport.clone())
        };
        let query = broker_query().transport;
        let mut rows = vec![
            ("TCP", to(server, &tcp(53)), true),
            ("TCP to another port", to(server, &tcp(443)), false),
            (
                "ICMP",
                to(
                    server,
                    &Transport::Other(if is_v4 { 1 } else { 58 }, vec![8; 16]),
                ),
                false,
            ),
            (
                "UDP to another port",
                to(server, &query).with_udp(|udp| udp.destination_port = 443),
                false,
            ),
        ];
        let odd = |packet: Packet| {
            packet.with(|packet| match is_v4 {
                true => packet.options = vec![1; 4],
                false => {
                    // Destination options: a PadN of four bytes in front of UDP or TCP.
                    let next = match packet.transport {
                        Transport::Udp(_) => 17,
                        Transport::Other(protocol, _) => protocol,
                    };
                    packet.extension = 60;
                    packet.options = vec![next, 0, 1, 4, 0, 0, 0, 0];
                }
            })
        };
        rows.push(("UDP with options", odd(to(server, &query)), true));
        rows.push(("TCP with options", odd(to(server, &tcp(53))), true));
        let fragment = |packet: Packet| {
            packet.with(|packet| match is_v4 {
                true => packet.fragment = 0x2000,
                false => {
                    packet.extension = 44;
                    packet.options = vec![17, 0, 0, 1, 0, 0, 0, 9];
                }
            })
        };
        rows.push(("a fragment", fragment(to(server, &query)), true));
        for (what, packet, is_kept) in rows {
            let mut verdict = |packet: &Packet| program.run(&packet.build()).unwrap().verdict();
            let found = verdict(&packet);
            let is_unanswered = found == Verdict::Unanswered;
            assert_eq!(is_unanswered, is_kept, "{what} to {server}: {found:?}");
            let elsewhere = verdict(&packet.clone().with(|packet| packet.destination = other));
            assert!(
                matches!(elsewhere, Verdict::Pass(_)),
                "{what}: {elsewhere:?}"
            );
            let tagged = verdict(&packet.tag(0x8100, 7));
            assert_eq!(tagged, found, "{what}, tagged");
        }
    }
}
