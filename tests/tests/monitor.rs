//! `gregor monitor` and `gregor run --debug-bpf`: the records of queries that pods send, and the cost without a reader.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{IpAddr, UdpSocket},
    os::unix::net::UnixStream,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use aya::{
    maps::{Array, Map, MapData, MapInfo},
    programs::loaded_programs,
};
use dns_common::{abi::maps, verdict::Reason};
use e2e::{Wire, addresses, exchange_from, exchange_within, qualified, sorted, until};
use gregor::datapath::Decision;
use gregor_tests::{
    lab::{
        CacheKind, Gregor, Lab, Pod,
        world::{BROKER, FOO_ADDRESSES, NODE_LOCAL_V4},
    },
    packets::{
        loaded::{LOOPBACK, Loaded, compile, options},
        table::{SEVERAL, broker_query, cases},
    },
    tools,
};
use hickory_proto::{op::Message, rr::RecordType};
use nix::sys::signal::Signal;
use serde_json::Value;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);

/// A reader, ended when it is dropped.
struct Monitor {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Monitor {
    /// Returns once it is subscribed.
    fn start(lab: &Lab, gregor: &Gregor, options: &[&str]) -> Self {
        let readers = |gregor: &Gregor| monitor_words(gregor).is_some_and(|words| words[0] != 0);
        let was_watched = readers(gregor);
        let mut command = Command::new(tools::gregor().unwrap());
        command
            .arg("monitor")
            .arg("--control")
            .arg(gregor.control_path())
            .args(options)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let mut child = lab.node().spawn(command).unwrap();
        let lines: Arc<Mutex<Vec<String>>> = Arc::default();
        let output = BufReader::new(child.stdout.take().unwrap());
        let store = Arc::clone(&lines);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                store.lock().unwrap().push(line);
            }
        });
        if was_watched {
            // Another one is there already, so the program reports nothing about this one.
            thread::sleep(Duration::from_secs(1));
        } else {
            until("a reader is connected", || readers(gregor).then_some(()));
        }
        Self { child, lines }
    }

    fn text(&self) -> Vec<String> {
        self.lines.lock().unwrap().clone()
    }

    fn json(&self) -> Vec<Value> {
        self.text()
            .iter()
            .map(|line| {
                serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
            })
            .collect()
    }

    fn queries(&self) -> Vec<Value> {
        let mut lines = self.json();
        lines.retain(|line| line.get("qname").is_some());
        lines
    }

    fn end(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The words of the map in which userspace says whether the program is to report.
fn monitor_words(gregor: &Gregor) -> Option<[u64; 4]> {
    let status = gregor.status().unwrap();
    let id = status["kernel"]["program"]["id"].as_u64().unwrap() as u32;
    let program = loaded_programs()
        .filter_map(Result::ok)
        .find(|program| program.id() == id)?;
    let map = program
        .map_ids()
        .unwrap()?
        .into_iter()
        .filter_map(|id| MapInfo::from_id(id).ok())
        .find(|info| info.name_as_str() == Some(maps::MONITOR))?;
    let map = Map::Array(MapData::from_id(map.id()).unwrap());
    let map: Array<_, [u64; 4]> = map.try_into().unwrap();
    Some(map.get(&0, 0).unwrap())
}

fn lab(prefix: &str) -> Lab {
    Lab::builder(prefix)
        .pod("foo")
        .pod("bar")
        .pod("baz")
        .cache(CacheKind::CoreDns { template: false })
        .start()
        .unwrap()
}

fn start(lab: &Lab) -> Gregor {
    lab.start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap()
}

fn ask(pod: &Pod, name: &str, qtype: RecordType) -> Message {
    let (query, _) = Wire::new(name, qtype).bytes();
    let reply = exchange_from(pod, CACHE, &query);
    Message::from_vec(&reply.unwrap_or_else(|| panic!("no reply to {name}"))).unwrap()
}

/// Asks for names of the pod's own namespace, each one only once, until the program answers by itself.
fn ask_until_kernel(gregor: &Gregor, pod: &Pod, stem: &str) -> Vec<String> {
    let mut asked = Vec::new();
    let mut answered = e2e::Metrics::of(gregor).answered();
    until("the program answers", || {
        let name = format!("{stem}{}.{}", asked.len(), qualified(&pod.namespace));
        ask(pod, &name, RecordType::A);
        asked.push(format!("{name}."));
        let now = e2e::Metrics::of(gregor).answered();
        (std::mem::replace(&mut answered, now) < now).then_some(())
    });
    asked
}

#[test]
fn every_query_is_recorded_once_with_its_fields() {
    let lab = lab("monone");
    let gregor = start(&lab);
    let monitor = Monitor::start(&lab, &gregor, &["--json"]);
    let people = Monitor::start(&lab, &gregor, &[]);
    let only_bar = Monitor::start(&lab, &gregor, &["--json", "--namespace", "bar"]);
    let (foo, bar, baz) = (lab.pod("foo"), lab.pod("bar"), lab.pod("baz"));

    let mut names = ask_until_kernel(&gregor, foo, "f-");
    names.extend(ask_until_kernel(&gregor, bar, "b-"));
    // Passed on by the responder, then by the program; and one that no rule matches.
    let missing = format!("{}.", qualified("baz"));
    ask(baz, &qualified("baz"), RecordType::A);
    ask(baz, &qualified("baz"), RecordType::A);
    ask(foo, BROKER, RecordType::A);
    ask(foo, &qualified("foo"), RecordType::TXT);

    let expected = names.len() + 2 + 1;
    let mut lines = until("a line for each query", || {
        let lines = monitor.queries();
        (lines.len() >= expected).then_some(lines)
    });
    // A duplicate would be there before a later query.
    ask(foo, &qualified("foo"), RecordType::AAAA);
    until("the last line", || {
        lines = monitor.queries();
        lines
            .iter()
            .any(|line| line["qtype"] == "AAAA")
            .then_some(())
    });
    assert_eq!(lines.len(), expected + 1, "{lines:#?}");

    for (namespace, pod) in [("foo", foo), ("bar", bar)] {
        let of: Vec<&Value> = lines
            .iter()
            .filter(|line| line["namespace"] == namespace && line["qtype"] == "A")
            .collect();
        for line in &of {
            let name = line["qname"].as_str().unwrap();
            assert_eq!(
                names.iter().filter(|other| *other == name).count(),
                1,
                "{line}"
            );
            let client = line["client"].as_str().unwrap();
            assert!(client.starts_with(&format!("{}:", pod.v4)), "{line}");
            assert_eq!(line["server"], format!("{CACHE}:53"));
            assert_eq!(line["rule"], "kafka");
            assert_eq!(line["rcode"], "NOERROR");
            assert_eq!(line["interface"], pod.host_interface, "{line}");
            assert_eq!(line["reason"], Value::Null);
        }
        assert_eq!(
            of.len(),
            names
                .iter()
                .filter(|name| name.contains(&format!(".{namespace}.")))
                .count()
        );
        let verdicts: Vec<&str> = of
            .iter()
            .map(|line| line["verdict"].as_str().unwrap())
            .collect();
        assert_eq!(
            (verdicts[0], verdicts[of.len() - 1]),
            ("responder", "kernel")
        );
        assert!(of[0]["latency_seconds"].as_f64().unwrap() > 0.0);
        assert_eq!(of[of.len() - 1]["latency_seconds"], Value::Null);
    }
    let passed: Vec<&Value> = lines
        .iter()
        .filter(|line| line["qname"] == *missing)
        .collect();
    assert_eq!(passed.len(), 2);
    for line in passed {
        assert_eq!(
            (&line["verdict"], &line["reason"]),
            (&"passed_on".into(), &"no_target".into())
        );
        assert_eq!(line["rcode"], Value::Null);
        assert_eq!(line["namespace"], "baz");
    }

    // The other readers saw theirs.
    let text = until("as many lines for people", || {
        let text = people.text();
        (text.len() > expected + 1).then_some(text)
    });
    assert!(text[0].starts_with("TIME "), "{}", text[0]);
    assert!(
        text.iter()
            .any(|line| line.contains(" passed on: no_target ") && line.ends_with(&missing))
    );
    assert!(
        text.iter()
            .any(|line| line.contains(" kernel ") && line.ends_with(&names[names.len() - 1]))
    );
    let of_bar = only_bar.queries();
    assert!(of_bar.iter().all(|line| line["namespace"] == "bar"));
    assert_eq!(
        of_bar.len(),
        names.iter().filter(|name| name.contains(".bar.")).count()
    );

    // Names are for readers, and not for the log.
    assert!(!gregor.log().contains("managed.foo"), "{}", gregor.log());
}

/// Where it is known which pod is behind an interface, lines name it, whoever decided about the query.
#[test]
fn lines_name_the_pod_and_nothing_else_does() {
    let lab = lab("monpod");
    let (foo, baz) = (lab.pod("foo"), lab.pod("baz"));
    let file = lab.directory().join("pods.toml");
    let pods = format!(
        "[[pod]]\nnamespace = \"foo\"\npod = \"shy-pod-7\"\ninterface = \"{}\"\n",
        foo.host_interface
    );
    fs::write(&file, pods).unwrap();
    let config = format!(
        "{}[identity]\nsources = [\"file\"]\nfile = \"{}\"\nprotect_targets = true\n",
        lab.gregor_config(),
        file.display()
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    until("the pod is known", || {
        let status = gregor.status().unwrap();
        let interfaces = status["interfaces"].as_array().unwrap();
        let known = interfaces
            .iter()
            .any(|one| one["who"]["pod"] == "shy-pod-7");
        known.then_some(())
    });
    let monitor = Monitor::start(&lab, &gregor, &["--json"]);
    let people = Monitor::start(&lab, &gregor, &[]);
    let only = Monitor::start(&lab, &gregor, &["--json", "--pod", "foo/shy-pod-7"]);

    let names = ask_until_kernel(&gregor, foo, "f-");
    ask(baz, &qualified("foo"), RecordType::A);
    let target = |namespace: &str| format!("kafka-upstream.{namespace}.svc.cluster.local");
    for _ in 0..2 {
        ask(foo, &target("foo"), RecordType::A);
        ask(foo, &target("bar"), RecordType::A);
        ask(baz, &target("bar"), RecordType::A);
    }
    let expected = names.len() + 1 + 6;
    let lines = until("a line for each query", || {
        let lines = monitor.queries();
        (lines.len() >= expected).then_some(lines)
    });
    assert_eq!(lines.len(), expected, "{lines:#?}");
    for line in &lines {
        let is_foo = line["interface"] == foo.host_interface;
        let pod = if is_foo {
            "foo/shy-pod-7".into()
        } else {
            Value::Null
        };
        assert_eq!(line["pod"], pod, "{line}");
    }
    // One of each kind: by the responder and by the program.
    let of = |qname: &str, is_foo: bool| -> Vec<[String; 4]> {
        let own = lines.iter().filter(|line| {
            line["qname"] == format!("{qname}.") && line["pod"].is_string() == is_foo
        });
        let field = |line: &Value, key: &str| line[key].as_str().unwrap_or("-").to_owned();
        own.map(|line| ["rule", "verdict", "reason", "rcode"].map(|key| field(line, key)))
            .collect()
    };
    let passed = ["protect_targets", "passed_on", "own_target", "-"];
    let refused = ["protect_targets", "responder", "-", "REFUSED"];
    assert_eq!(of(&target("foo"), true), [passed, passed]);
    assert_eq!(of(&target("bar"), true), [refused, refused]);
    assert_eq!(of(&target("bar"), false), [refused, refused]);

    let text = until("as many lines for people", || {
        let text = people.text();
        (text.len() > expected).then_some(text)
    });
    let named = text.iter().filter(|line| line.contains(" foo/shy-pod-7 "));
    assert_eq!(named.count(), names.len() + 4);
    let only = until("as many of the pod", || {
        let only = only.queries();
        (only.len() >= names.len() + 4).then_some(only)
    });
    assert_eq!(only.len(), names.len() + 4);

    // Pods are for readers, and neither for the log nor for the metrics.
    assert!(!gregor.log().contains("shy-pod"), "{}", gregor.log());
    assert!(!gregor.metrics().unwrap().contains("shy-pod"));
}

/// Sends a burst of queries that the program answers, and returns how many it answered.
fn burst(gregor: &Gregor, pod: &Pod, count: usize) -> u64 {
    let before = e2e::Metrics::of(gregor).answered();
    let name = qualified(&pod.namespace);
    pod.netns()
        .enter(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(1)))
                .unwrap();
            for number in 0..count {
                let (query, _) = Wire::new(&format!("n{number}.{name}"), RecordType::A).bytes();
                socket.send_to(&query, (CACHE, 53)).unwrap();
                let _ = socket.recv(&mut [0; 1500]);
            }
        })
        .unwrap();
    (e2e::Metrics::of(gregor).answered() - before) as u64
}

fn sum_left_out(lines: &[Value]) -> u64 {
    lines
        .iter()
        .filter_map(|line| line.get("left_out")?.as_object())
        .flat_map(|counts| counts.values())
        .map(|count| count.as_u64().unwrap())
        .sum()
}

#[test]
fn a_burst_beyond_the_rate_is_counted() {
    let lab = lab("monburst");
    let gregor = start(&lab);
    let foo = lab.pod("foo");
    ask_until_kernel(&gregor, foo, "f-");
    let slow = Monitor::start(&lab, &gregor, &["--json", "--rate", "5"]);
    let all = Monitor::start(&lab, &gregor, &["--json", "--rate", "0"]);

    // Far past the 1,000 per second that the program reports.
    let answered = burst(&gregor, foo, 20_000);
    assert!(answered > 5_000, "{answered}");
    // Each answer is shown or counted; two processors that count at once may count one.
    for (monitor, most) in [(&slow, answered / 4), (&all, answered)] {
        let (shown, left_out) = until("every answer is accounted for", || {
            let lines = monitor.json();
            let left_out = sum_left_out(&lines);
            let shown = monitor.queries().len() as u64;
            (shown + left_out >= answered - answered / 20).then_some((shown, left_out))
        });
        assert!(
            shown > 0 && left_out > 0,
            "{shown} shown, {left_out} left out"
        );
        assert!(shown <= most, "{shown} of {answered}");
    }
    assert!(all.queries().len() > slow.queries().len());
    let kernel: u64 = all
        .json()
        .iter()
        .filter_map(|line| line["left_out"]["kernel"].as_u64())
        .sum();
    assert!(kernel > 0, "the program reports a part only");
}

/// A reader that stops reading loses lines, and no other reader does.
#[test]
fn a_stalled_reader_delays_no_other_reader() {
    let lab = lab("monstall");
    let gregor = start(&lab);
    let (foo, baz) = (lab.pod("foo"), lab.pod("baz"));
    let mut stalled = UnixStream::connect(gregor.control_path()).unwrap();
    stalled
        .write_all(b"GET /monitor?rate=0 HTTP/1.0\r\n\r\n")
        .unwrap();
    until("a reader is connected", || {
        monitor_words(&gregor)
            .is_some_and(|words| words[0] != 0)
            .then_some(())
    });
    ask_until_kernel(&gregor, foo, "f-");

    // More than sockets and backlog take; a reader beside it shows when that is so.
    let beside = Monitor::start(&lab, &gregor, &["--json", "--rate", "0"]);
    let before = e2e::Metrics::of(&gregor);
    until("far more lines than fit anywhere", || {
        burst(&gregor, foo, 1000);
        let (query, _) = Wire::new(&qualified("foo"), RecordType::TXT).bytes();
        // Of a type that is not kept only so many are looked up in a second, and the others stay without a reply.
        until("the responder answers", || {
            exchange_within(foo, CACHE, &query, Duration::from_millis(200))
        });
        ask(baz, &qualified("baz"), RecordType::A);
        (beside.text().len() > 8000).then_some(())
    });
    assert_eq!(
        sorted(addresses(&ask(foo, &qualified("foo"), RecordType::A))),
        sorted(FOO_ADDRESSES)
    );
    let after = e2e::Metrics::of(&gregor);
    assert!(after.answered() > before.answered() + 1000.0);

    // It gets the number of lost lines when it reads again.
    let output = BufReader::new(stalled.try_clone().unwrap());
    let lost = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&lost);
    thread::spawn(move || {
        for line in output.lines().map_while(Result::ok) {
            if let Ok(line) = serde_json::from_str::<Value>(&line)
                && let Some(reader) = line["left_out"]["reader"].as_u64()
            {
                count.fetch_add(reader as usize, Ordering::Relaxed);
            }
        }
    });
    until("the reader gets the number of lost lines", || {
        burst(&gregor, foo, 10);
        (lost.load(Ordering::Relaxed) > 0).then_some(())
    });
}

#[test]
fn the_program_reports_nothing_without_a_reader() {
    let lab = lab("monend");
    let gregor = start(&lab);
    let foo = lab.pod("foo");
    assert_eq!(monitor_words(&gregor).unwrap()[0], 0);
    let monitors = [
        Monitor::start(&lab, &gregor, &["--json"]),
        Monitor::start(&lab, &gregor, &["--json"]),
    ];
    ask_until_kernel(&gregor, foo, "f-");
    let [one, two] = monitors;
    one.end();
    thread::sleep(Duration::from_secs(3));
    assert_ne!(monitor_words(&gregor).unwrap()[0], 0, "one still watches");

    // A new program reports too.
    gregor.signal(Signal::SIGHUP);
    until("the configuration is loaded again", || {
        (gregor.status().unwrap()["config"]["loads"] == 2).then_some(())
    });
    let names = ask_until_kernel(&gregor, foo, "again-");
    until("the new program's answer", || {
        let last = names.last().unwrap().as_str();
        two.queries()
            .iter()
            .any(|line| line["qname"] == last && line["verdict"] == "kernel")
            .then_some(())
    });

    two.end();
    let words = until("no reader is connected", || {
        monitor_words(&gregor).filter(|words| words[0] == 0)
    });
    burst(&gregor, foo, 100);
    assert_eq!(
        monitor_words(&gregor).unwrap(),
        words,
        "nothing was reported or counted"
    );
}

#[test]
fn a_gregor_that_ends_is_an_error() {
    let lab = lab("mongone");
    let gregor = start(&lab);
    let mut monitor = Monitor::start(&lab, &gregor, &[]);
    gregor.stop();
    let status = until("the reader ends", || monitor.child.try_wait().unwrap());
    assert_eq!(status.code(), Some(1));
}

#[test]
fn decisions_in_the_log_of_a_debug_build() {
    let lab = lab("mondebug");
    let binary = lab.directory().join("gregor-debug");
    let script = format!(
        "#!/bin/sh\nexec {} \"$@\" --debug-bpf\n",
        tools::gregor().unwrap().display()
    );
    std::fs::write(&binary, script).unwrap();
    let mut permissions = std::fs::metadata(&binary).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&binary, permissions).unwrap();
    let gregor = lab.start_gregor(&binary, &lab.gregor_config()).unwrap();
    let (foo, baz) = (lab.pod("foo"), lab.pod("baz"));

    until("every kind of line", || {
        ask(foo, &qualified("foo"), RecordType::A);
        ask(baz, &qualified("baz"), RecordType::A);
        ask(foo, BROKER, RecordType::A);
        let log = gregor.log();
        [
            "tables: nothing",
            "handed to the responder",
            "tables: a fresh answer",
            ": answered",
            "tables: no target",
            "passed, no_target",
            "passed, no_rule",
        ]
        .iter()
        .all(|line| log.contains(line))
        .then_some(())
    });
    let log = gregor.log();
    assert!(log.contains("gregor::bpf: "), "a target of its own");
    for name in ["lkc-1", "managed", "svc.cluster"] {
        let of_program: Vec<&str> = log
            .lines()
            .filter(|line| line.contains("gregor::bpf"))
            .collect();
        assert!(
            of_program.iter().all(|line| !line.contains(name)),
            "{name} in {of_program:#?}"
        );
    }
}

/// The program itself, without a daemon: it reports nothing, then its decisions, then nothing.
#[test]
fn the_program_reports_until_the_deadline_of_its_reader() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let _guard = runtime.enter();
    let mut loaded = Loaded::new(&options(compile(SEVERAL))).unwrap();
    let mut decisions = loaded.datapath.decisions().unwrap();
    let switch = Arc::clone(loaded.datapath.switch());
    // The deadline is not renewed, so a match passes, and the program decides that itself.
    loaded.heartbeat.stop();
    let frame = broker_query().build();
    let mut decided = Vec::new();

    loaded.test_run(&frame.bytes).unwrap();
    assert_eq!(decisions.drain(&mut decided), 0);

    switch.listen_for(Duration::from_secs(60));
    loaded.test_run(&frame.bytes).unwrap();
    assert_eq!(decisions.drain(&mut decided), 1);
    assert_eq!(decided[0].ifindex, LOOPBACK);
    assert_eq!(decided[0].decision, Decision::Passed(Reason::NoResponder));
    assert_eq!(decided[0].frame, frame.bytes);

    // What no rule matches is not reported.
    let cases = cases();
    let foreign = cases
        .iter()
        .find(|case| case.name == "foreign name")
        .unwrap();
    loaded.test_run(&foreign.frame.bytes).unwrap();
    assert_eq!(decisions.drain(&mut decided), 0);

    // A second at most, whatever comes; the rest is counted.
    loaded.datapath.test_run(&frame.bytes, 100_000).unwrap();
    let mut drained = 0;
    while let records @ 1.. = decisions.drain(&mut decided) {
        drained += records as u64;
    }
    assert!(drained >= 100, "{drained}");
    assert_eq!(drained + switch.left_out(), 100_000);

    switch.stop();
    loaded.test_run(&frame.bytes).unwrap();
    assert_eq!(decisions.drain(&mut decided), 0);

    // A process that dies with a reader connected leaves a deadline behind.
    switch.listen_for(Duration::from_millis(1));
    thread::sleep(Duration::from_millis(50));
    loaded.test_run(&frame.bytes).unwrap();
    assert_eq!(decisions.drain(&mut decided), 0);
}
