//! The life of gregor under the load of pods: pods are added and removed, it is killed, stopped, ended and reloaded. The
//! existing cache answers what gregor does not, and no query is lost.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs,
    net::IpAddr,
    path::Path,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use e2e::{
    HeldUpstream, Load, MORE, Metrics, OVERRIDDEN, PATIENCE, REPLY, Wire, addresses, alone,
    exchange, exchange_from, exchange_within, loads, programs_on, qualified, sorted, until,
};
use gregor::datapath::STATE;
use gregor_tests::{
    agent::{self, detach_by_force},
    lab::{
        CacheKind, ClusterKind, Gregor, Lab, Pod,
        world::{BROKER, ExternalName, FOO_ADDRESSES, FOO_ENDPOINT, FOREIGN, NODE_LOCAL_V4},
    },
    tools,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);

fn ask(pod: &Pod, name: &str) -> Message {
    let (query, _) = Wire::new(name, RecordType::A).bytes();
    let reply = exchange_from(pod, CACHE, &query);
    Message::from_vec(&reply.unwrap_or_else(|| panic!("no reply to {name}"))).unwrap()
}

fn ask_for_own(pod: &Pod) -> Message {
    ask(pod, &qualified(&pod.namespace))
}

/// Whether the cache has seen the pod's own question.
fn cache_was_asked(lab: &Lab, pod: &Pod) -> bool {
    let qname = format!("{}.", qualified(&pod.namespace));
    lab.cache()
        .asked()
        .iter()
        .any(|asked| asked.qname == qname && asked.client == IpAddr::V4(pod.v4))
}

/// gregor answers. A machine that stalls for the length of the heartbeat's deadline lets a query pass, hence the patience.
fn served_by_gregor(gregor: &Gregor, pod: &Pod) {
    until("an answer of gregor's", || {
        let before = Metrics::of(gregor);
        let reply = ask_for_own(pod);
        let after = Metrics::of(gregor);
        if after.intercepted() == before.intercepted() {
            assert!(after.passed("no_responder") > before.passed("no_responder"));
            return None;
        }
        assert_eq!(addresses(&reply), sorted(FOO_ADDRESSES));
        assert_eq!(
            after.responses("NOERROR") - before.responses("NOERROR"),
            after.taken() - before.taken()
        );
        Some(())
    });
}

/// The next answer is the cache's.
fn served_by_the_cache(lab: &Lab, pod: &Pod) {
    lab.cache().forget();
    ask_for_own(pod);
    until("the cache sees the pod", || {
        cache_was_asked(lab, pod).then_some(())
    });
}

fn wait_for_end(gregor: &Gregor) -> std::process::ExitStatus {
    until("gregor ends", || gregor.process().exited())
}

/// A node whose cache keeps the article's template: it answers what gregor does not.
fn lab_with_template(prefix: &str) -> Lab {
    Lab::builder(prefix)
        .pod("foo")
        .pod("baz")
        .cache(CacheKind::CoreDns { template: true })
        .cluster(ClusterKind::CoreDns)
        .start()
        .unwrap()
}

fn start(lab: &Lab, config: &str) -> Gregor {
    lab.start_gregor(&tools::gregor().unwrap(), config).unwrap()
}

/// Questions of every kind: answered, passed on by the responder, passed by the program.
fn questions() -> Vec<Vec<String>> {
    vec![
        vec![qualified("foo"), format!("b-2.{}", qualified("foo"))],
        vec![qualified("baz"), qualified("foo")],
        vec![FOREIGN.to_owned()],
    ]
}

/// Targets are asked for again all the time, so that look-ups are in flight whenever something happens.
fn short_lived(config: &str) -> String {
    config.replace("ttl   = 60", "ttl   = 1")
}

#[test]
fn pods_are_added_and_removed() {
    let mut lab = Lab::builder("e2epods").pod("foo").start().unwrap();
    lab.change_world(|world| {
        world.external_names.push(ExternalName {
            service: "kafka-upstream".to_owned(),
            namespace: "qux".to_owned(),
            target: FOO_ENDPOINT.to_owned(),
        });
    });
    let gregor = start(&lab, &lab.gregor_config());
    let attached = |interface: &str| {
        gregor.status().unwrap()["interfaces"]
            .as_array()
            .unwrap()
            .iter()
            .any(|one| one["name"] == interface && one["error"].is_null())
    };
    let gauge = || Metrics::of(&gregor).get("gregor_attached_interfaces");
    let before = gauge();
    assert!(attached("veth-foo"));
    for round in 0..3 {
        let pod = lab.add_pod("qux").unwrap();
        until("the new pod's interface is attached", || {
            attached("veth-qux").then_some(())
        });
        served_by_gregor(&gregor, pod);
        assert_eq!(programs_on(&lab, "veth-qux"), ["gregor"], "round {round}");
        assert_eq!(gauge(), before + 1.0);
        lab.remove_pod("qux").unwrap();
        until("the interface is forgotten", || {
            (!attached("veth-qux")).then_some(())
        });
        assert_eq!(gauge(), before);
    }
    for number in 0..20 {
        lab.add_pod(&format!("many-{number}")).unwrap();
    }
    until("all are attached", || {
        (gauge() == before + 20.0).then_some(())
    });
    for number in 0..20 {
        lab.remove_pod(&format!("many-{number}")).unwrap();
    }
    until("all are gone", || (gauge() == before).then_some(()));
    assert_eq!(
        Metrics::of(&gregor).get("gregor_unattached_interfaces"),
        0.0
    );
    served_by_gregor(&gregor, lab.pod("foo"));
}

/// Asks for uncached names, until the cache sees one.
fn uncached_names_pass(lab: &Lab, pod: &Pod) {
    until("the cache is asked for what is not known", || {
        let (query, _) = Wire::new(&qualified(&pod.namespace), RecordType::AAAA).bytes();
        // One that was taken just before the deadline may wait for a successor.
        let _ = exchange_within(pod, CACHE, &query, Duration::from_secs(1));
        cache_was_asked(lab, pod).then_some(())
    });
    lab.cache().forget();
}

/// Asks once for a name that is not cached: that the process is gone is noticed with this query. In the ring it would be lost.
fn an_uncached_name_passes_at_once(lab: &Lab, pod: &Pod) {
    lab.cache().forget();
    let (query, _) = Wire::new(&qualified(&pod.namespace), RecordType::AAAA).bytes();
    let reply = exchange_from(pod, CACHE, &query);
    assert!(reply.is_some(), "handed over to a process that is gone");
    until("the cache's log", || {
        cache_was_asked(lab, pod).then_some(())
    });
}

/// Asks for a cached name, until the reply has the TTL of a stale answer. The cache is never asked.
fn expired_answers_are_served(lab: &Lab, pod: &Pod) {
    lab.cache().forget();
    until("an answer past its time", || {
        let reply = until_answered(pod);
        assert_eq!(addresses(&reply), sorted(FOO_ADDRESSES));
        assert!(!cache_was_asked(lab, pod));
        reply
            .answers
            .iter()
            .all(|record| record.ttl == STALE_TTL)
            .then_some(())
    });
}

/// TTL of expired answers, which no other answer of [`short_lived`] has.
const STALE_TTL: u32 = 30;

#[test]
fn after_a_kill_the_kernel_serves_cached_names() {
    let lab = lab_with_template("e2ekill");
    let config = short_lived(&lab.gregor_config());
    let gregor = start(&lab, &config);
    let foo = lab.pod("foo");
    served_by_gregor(&gregor, foo);
    assert!(!cache_was_asked(&lab, foo));
    assert_eq!(programs_on(&lab, &foo.host_interface), ["gregor"]);
    gregor.signal(Signal::SIGKILL);
    wait_for_end(&gregor);
    an_uncached_name_passes_at_once(&lab, foo);
    assert_eq!(programs_on(&lab, &foo.host_interface), ["gregor"]);
    expired_answers_are_served(&lab, foo);
    uncached_names_pass(&lab, foo);

    // The next one takes over the programs, and also its predecessor's socket.
    let gregor = start(&lab, &config);
    assert_eq!(programs_on(&lab, &foo.host_interface), ["gregor"]);
    let status = gregor.status().unwrap();
    assert!(status["kernel"]["answers"]["expired"].as_u64().unwrap() > 0);
    served_by_gregor(&gregor, foo);
    until("a fresh answer", || {
        let reply = ask_for_own(foo);
        reply
            .answers
            .iter()
            .all(|record| record.ttl <= 1)
            .then_some(())
    });

    // A process that ends in order leaves nothing.
    gregor.signal(Signal::SIGTERM);
    assert_eq!(wait_for_end(&gregor).code(), Some(0), "{}", gregor.log());
    assert!(programs_on(&lab, &foo.host_interface).is_empty());
    let is_left = || Path::new(STATE).exists();
    assert!(!lab.node().enter(is_left).unwrap());
    served_by_the_cache(&lab, foo);
}

/// Names of the links that are pinned in this mount namespace, without that for TCP.
fn pinned_links() -> Vec<String> {
    agent::pinned_links(Path::new(STATE))
        .unwrap()
        .iter()
        .map(|link| link.file_name().unwrap().to_str().unwrap().to_owned())
        .filter(|name| name != "tcp")
        .collect()
}

/// As links on it are pinned.
fn index_of(lab: &Lab, interface: &'static str) -> String {
    let index = move || nix::net::if_::if_nametoindex(interface).unwrap();
    format!("-{}", lab.node().enter(index).unwrap())
}

/// Whether gregor is ready, and the number of programs that other processes detached.
fn removals(gregor: &Gregor) -> (u16, u64) {
    let removed = gregor.status().unwrap()["kernel"]["removed"].as_u64();
    (gregor.get("/readyz").unwrap().0, removed.unwrap())
}

#[test]
fn programs_that_other_processes_detach_are_attached_again() {
    let lab = lab_with_template("e2eforce");
    let gregor = start(&lab, &lab.gregor_config());
    let foo = lab.pod("foo");
    served_by_gregor(&gregor, foo);
    assert_eq!(removals(&gregor), (200, 0));
    let index = index_of(&lab, "veth-foo");
    let force = move || {
        let links = agent::pinned_links(Path::new(STATE)).unwrap();
        let link = links.iter().filter(|link| {
            let name = link.file_name().unwrap().to_str().unwrap();
            name == "tcp" || name.ends_with(&index)
        });
        link.map(|link| detach_by_force(link).unwrap()).count()
    };
    assert_eq!(lab.node().enter(force).unwrap(), 2);
    assert!(programs_on(&lab, "veth-foo").is_empty());
    until("the program is back", || {
        (programs_on(&lab, "veth-foo") == ["gregor"]).then_some(())
    });
    served_by_gregor(&gregor, foo);
    until("the status says so", || {
        (removals(&gregor) == (200, 1)).then_some(())
    });
    until("TCP is steered again", || {
        gregor
            .log()
            .contains("detached the link for TCP; it is attached again")
            .then_some(())
    });
    // It is pinned as before: the next process takes it over.
    let index = index_of(&lab, "veth-foo");
    let pinned = move || pinned_links().iter().any(|name| name.ends_with(&index));
    assert!(lab.node().enter(pinned).unwrap());
}

/// Runs a command of the node, as another agent does.
fn on_the_node(lab: &Lab, command: &str) {
    let mut words = command.split(' ');
    let mut agent = Command::new(words.next().unwrap());
    agent.args(words);
    let output = lab.node().output(agent).unwrap();
    assert!(output.status.success(), "{command}: {output:?}");
}

/// Queries that pass by way of the responder reach the cache again. Nothing is cached for the namespace yet.
fn the_return_device_is_restored_after(lab: &Lab, gregor: &Gregor, command: &str, namespace: &str) {
    let lines = || gregor.log().matches("its program; it is restored").count();
    let before = lines();
    on_the_node(lab, command);
    until("the device is back", || (lines() > before).then_some(()));
    let qname = qualified(namespace);
    let (query, _) = Wire::new(&qname, RecordType::A).bytes();
    let before = Metrics::of(gregor);
    let _ = exchange_within(lab.pod("foo"), CACHE, &query, PATIENCE);
    let qname = format!("{qname}.");
    assert!(lab.cache().saw(|asked| asked.qname == qname));
    let after = Metrics::of(gregor);
    assert_eq!(
        after.taken() - before.taken(),
        1.0,
        "by way of the responder"
    );
}

#[test]
fn a_return_device_that_other_processes_remove_is_restored() {
    let lab = lab_with_template("e2ereturn");
    let gregor = start(&lab, &lab.gregor_config());
    served_by_gregor(&gregor, lab.pod("foo"));
    the_return_device_is_restored_after(&lab, &gregor, "ip link del gregor0", "nothing");
    the_return_device_is_restored_after(&lab, &gregor, "ip link del gregor0", "nowhere");
}

/// An agent that removes the qdisc, as some do when they end.
#[test]
fn filters_that_are_removed_with_their_qdisc_are_attached_again() {
    let lab = lab_with_template("e2epurge");
    let gregor = start(&lab, &clsact(&lab.gregor_config()));
    let foo = lab.pod("foo");
    served_by_gregor(&gregor, foo);
    on_the_node(&lab, "tc qdisc del dev veth-foo clsact");
    assert!(clsact_filters(&lab, "veth-foo").is_empty());
    until("the filter is back", || {
        (clsact_filters(&lab, "veth-foo").len() == 1).then_some(())
    });
    served_by_gregor(&gregor, foo);
    until("the status says so", || {
        (removals(&gregor) == (200, 1)).then_some(())
    });
}

/// A pod's interface that is removed while no gregor runs leaves no pin behind.
#[test]
fn pins_of_interfaces_removed_while_no_gregor_runs_are_deleted() {
    let mut lab = Lab::builder("e2egone")
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let gregor = start(&lab, &lab.gregor_config());
    let node = lab.node().clone();
    let links = || node.enter(pinned_links).unwrap();
    let before = links();
    let bar = index_of(&lab, "veth-bar");
    assert!(before.iter().any(|link| link.ends_with(&bar)), "{before:?}");
    gregor.signal(Signal::SIGKILL);
    wait_for_end(&gregor);
    lab.remove_pod("bar").unwrap();
    let gregor = start(&lab, &lab.gregor_config());
    let left = links();
    assert_eq!(left.len(), before.len() - 1, "{left:?}");
    assert!(!left.iter().any(|link| link.ends_with(&bar)), "{left:?}");
    served_by_gregor(&gregor, lab.pod("foo"));
}

/// Asks until a reply comes; what a stopped gregor has already taken gets none.
fn until_answered(pod: &Pod) -> Message {
    until("an answer from the cache", || {
        let (query, _) = Wire::new(&qualified(&pod.namespace), RecordType::A).bytes();
        let reply = exchange_within(pod, CACHE, &query, Duration::from_millis(300))?;
        Some(Message::from_vec(&reply).unwrap())
    })
}

#[test]
fn a_hung_gregor_gets_no_queries() {
    let lab = lab_with_template("e2ehang");
    let gregor = start(&lab, &short_lived(&lab.gregor_config()));
    let foo = lab.pod("foo");
    served_by_gregor(&gregor, foo);
    gregor.signal(Signal::SIGSTOP);
    expired_answers_are_served(&lab, foo);
    uncached_names_pass(&lab, foo);
    // From then on no query is handed over.
    for _ in 0..20 {
        let (query, _) = Wire::new(&qualified(&foo.namespace), RecordType::AAAA).bytes();
        exchange_from(foo, CACHE, &query).unwrap();
    }
    assert_eq!(foo.getent(BROKER).unwrap(), sorted(FOO_ADDRESSES));

    gregor.signal(Signal::SIGCONT);
    until("served again", || {
        let before = Metrics::of(&gregor).taken();
        ask_for_own(foo);
        (Metrics::of(&gregor).taken() > before).then_some(())
    });
    served_by_gregor(&gregor, foo);
    assert!(Metrics::of(&gregor).passed("no_responder") >= 20.0);
    assert_eq!(gregor.get("/readyz").unwrap().0, 200);
}

#[test]
fn every_query_is_answered_while_gregor_ends_under_load() {
    let lab = lab_with_template("e2eterm");
    for round in 0..4 {
        let gregor = start(&lab, &short_lived(&lab.gregor_config()));
        let load = Load::start(lab.pod("foo"), CACHE, &questions());
        load.wait_for(200);
        assert!(Metrics::of(&gregor).intercepted() > 0.0);
        gregor.signal(Signal::SIGTERM);
        load.wait_for(50);
        let status = wait_for_end(&gregor);
        assert_eq!(status.code(), Some(0), "{}", gregor.log());
        for pod in lab.pods() {
            let left = programs_on(&lab, &pod.host_interface);
            assert!(left.is_empty(), "{}: {left:?}", pod.host_interface);
        }
        lab.cache().forget();
        load.wait_for(100);
        assert_eq!(load.finish(), Vec::<String>::new(), "round {round}");
        until("the cache sees the pod", || {
            cache_was_asked(&lab, lab.pod("foo")).then_some(())
        });
        let log = gregor.log();
        assert!(log.contains("stopped") && !log.contains("gave up"), "{log}");
        assert!(
            !gregor.control_path().exists(),
            "the control socket is removed"
        );
    }
}

/// A look-up is in flight at SIGTERM, and ends only after the programs are detached.
#[test]
fn waiting_queries_are_answered_at_shutdown() {
    let lab = lab_with_template("e2ewait");
    let upstream = HeldUpstream::start(&lab);
    let config = format!(
        "{}\n[upstream]\nserver = \"{}\"\ntimeout = \"4s\"\n",
        lab.gregor_config(),
        HeldUpstream::SERVER
    );
    let gregor = start(&lab, &config);
    let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
    let waiting = lab
        .pod("foo")
        .netns()
        .enter_detached(move || exchange(CACHE, &query, REPLY))
        .unwrap();
    upstream.was_asked();
    gregor.signal(Signal::SIGTERM);
    until("the programs are gone", || {
        programs_on(&lab, "veth-foo").is_empty().then_some(())
    });
    upstream.release();
    let reply = waiting
        .join()
        .unwrap()
        .unwrap_or_else(|| panic!("{}", gregor.log()));
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(addresses(&reply), [IpAddr::V4(HeldUpstream::ADDRESS)]);
    assert_eq!(wait_for_end(&gregor).code(), Some(0), "{}", gregor.log());
}

/// Does something and waits until it has led to a load with this result.
fn reloaded(gregor: &Gregor, result: &str, change: impl FnOnce()) {
    let before = loads(gregor, result);
    change();
    until(&format!("a load with {result}"), || {
        (loads(gregor, result) > before).then_some(())
    });
}

fn overridden(pod: &Pod) -> bool {
    let reply = ask(pod, OVERRIDDEN);
    match reply.metadata.response_code {
        ResponseCode::NoError => {
            assert_eq!(addresses(&reply), [IpAddr::from([192, 0, 2, 80])]);
            true
        }
        code => {
            assert_eq!(code, ResponseCode::NXDomain);
            false
        }
    }
}

#[test]
fn a_changed_configuration_file_is_loaded() {
    let lab = Lab::builder("e2efile").pod("foo").start().unwrap();
    let config = lab.gregor_config();
    let gregor = start(&lab, &config);
    let foo = lab.pod("foo");
    assert!(!overridden(foo));
    reloaded(&gregor, "success", || {
        gregor.write_config(&format!("{config}{MORE}")).unwrap();
    });
    assert!(overridden(foo));
    served_by_gregor(&gregor, foo);
    let status = gregor.status().unwrap();
    assert_eq!(status["rules"].as_array().unwrap().len(), 2);
    // And back; this time written in place.
    reloaded(&gregor, "success", || {
        fs::write(gregor.config_path(), &config).unwrap();
    });
    until("the rule is gone", || (!overridden(foo)).then_some(()));
    served_by_gregor(&gregor, foo);
}

#[test]
fn sighup_loads_changes_that_the_watch_does_not_see() {
    let lab = Lab::builder("e2ehup").pod("foo").start().unwrap();
    let config = lab.gregor_config();
    // A link into another directory: changes there are not seen.
    let elsewhere = lab.directory().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let file = elsewhere.join("gregor.toml");
    std::os::unix::fs::symlink(&file, lab.directory().join("gregor.toml")).unwrap();
    let gregor = start(&lab, &config);
    let foo = lab.pod("foo");
    assert!(!overridden(foo));
    fs::write(&file, format!("{config}{MORE}")).unwrap();
    assert!(!overridden(foo));
    reloaded(&gregor, "success", || gregor.signal(Signal::SIGHUP));
    assert_eq!(loads(&gregor, "success"), 2.0);
    assert!(overridden(foo));
    served_by_gregor(&gregor, foo);
    // The same once more is a load, too.
    reloaded(&gregor, "success", || gregor.signal(Signal::SIGHUP));
    assert!(overridden(foo));
}

#[test]
fn a_bad_configuration_leaves_the_last_good_one() {
    let lab = Lab::builder("e2ebad").pod("foo").start().unwrap();
    let config = format!("{}{MORE}", lab.gregor_config());
    let gregor = start(&lab, &config);
    let foo = lab.pod("foo");
    let program = |gregor: &Gregor| gregor.status().unwrap()["kernel"]["program"]["id"].clone();
    let before = program(&gregor);
    let bad = config.replace("cname = \"www.example.com\"", "cnam = \"www.example.com\"");
    reloaded(&gregor, "failure", || gregor.write_config(&bad).unwrap());
    assert!(overridden(foo));
    served_by_gregor(&gregor, foo);
    assert_eq!(program(&gregor), before);
    let metrics = Metrics::of(&gregor);
    assert_eq!(metrics.get("gregor_config_last_load_successful"), 0.0);
    assert_eq!(metrics.get("gregor_ready"), 1.0);
    let error = gregor.status().unwrap()["config"]["error"].to_string();
    let line = bad
        .lines()
        .position(|line| line.starts_with("cnam "))
        .unwrap()
        + 1;
    for (what, text) in [("status", error), ("log", gregor.log())] {
        assert!(text.contains("cnam"), "{what}: {text}");
        assert!(
            text.contains(&format!("gregor.toml:{line}")),
            "{what}: {text}"
        );
    }
    let log = gregor.log();
    assert!(
        log.contains("ERROR") && log.contains("the last good one stays in force"),
        "{log}"
    );

    // Missing, as during a replacement by hand: no error is reported.
    fs::remove_file(gregor.config_path()).unwrap();
    served_by_gregor(&gregor, foo);
    reloaded(&gregor, "success", || {
        gregor.write_config(&lab.gregor_config()).unwrap()
    });
    assert_eq!(
        Metrics::of(&gregor).get("gregor_config_last_load_successful"),
        1.0
    );
    assert!(!overridden(foo));
}

/// Every `_total` series that was there is there still, and not less.
fn grew(before: &Metrics, after: &Metrics) {
    let counters = |metrics: &Metrics| -> Vec<(String, f64)> {
        let series = metrics.0.iter();
        series
            .filter(|(series, _)| series.split('{').next().unwrap().ends_with("_total"))
            .map(|(series, value)| (series.clone(), *value))
            .collect()
    };
    let found = counters(before);
    assert!(found.len() > 20, "{found:?}");
    for (series, value) in found {
        let now = after.0.get(&series).copied();
        assert!(
            now.is_some_and(|now| now >= value),
            "{series} went from {value} to {now:?}"
        );
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn reloads_lose_nothing(lab: &Lab, config: &str) {
    let gregor = start(lab, config);
    let load = Load::start(lab.pod("foo"), CACHE, &questions());
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Also when an assertion fails: the scope waits for the sampler.
        let sampling = SetOnDrop(&done);
        let sampler = scope.spawn(|| {
            let mut last = Metrics::of(&gregor);
            let mut samples = 0;
            while !done.load(Ordering::Relaxed) {
                let next = Metrics::of(&gregor);
                grew(&last, &next);
                last = next;
                samples += 1;
            }
            samples
        });
        // Each differs from the one before: the same content would be no change.
        let versions = [
            format!("{config}{MORE}"),
            // Another responder, which goes on counting where the previous one stopped.
            format!("{config}\n[answer]\nmax_ttl = \"7s\"\n"),
            config.to_owned(),
        ];
        for round in 0..12 {
            reloaded(&gregor, "success", || match round % 4 {
                3 => gregor.signal(Signal::SIGHUP),
                version => gregor.write_config(&versions[version]).unwrap(),
            });
            load.wait_for(30);
        }
        drop(sampling);
        assert!(sampler.join().unwrap() > 12);
    });
    assert_eq!(load.finish(), Vec::<String>::new());
    let metrics = Metrics::of(&gregor);
    assert_eq!(loads(&gregor, "failure"), 0.0);
    assert_eq!(metrics.get("gregor_panics_total"), 0.0);
    assert_eq!(
        metrics.taken(),
        metrics.get("gregor_responder_queries_total"),
        "what one side counted as handed over the other has got"
    );
    assert!(metrics.taken() > 0.0);
    served_by_gregor(&gregor, lab.pod("foo"));
}

#[test]
fn reloads_lose_no_query_and_no_count() {
    let lab = lab_with_template("e2ereload");
    reloads_lose_nothing(&lab, &short_lived(&lab.gregor_config()));
}

#[test]
fn detach_removes_the_programs_of_a_hung_gregor() {
    let lab = lab_with_template("e2edetach");
    let gregor = start(&lab, &short_lived(&lab.gregor_config()));
    let foo = lab.pod("foo");
    served_by_gregor(&gregor, foo);
    gregor.signal(Signal::SIGSTOP);
    if !alone("detach_removes_the_programs_of_a_hung_gregor", &gregor) {
        return gregor.signal(Signal::SIGKILL);
    }
    let output = gregor.command(&["detach", "--all"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let lines = text
        .lines()
        .filter(|line| line.starts_with("detached link "));
    assert!(lines.count() >= 3, "one per pod, and that for TCP: {text}");
    assert!(text.contains(" on network namespace "), "{text}");
    assert!(programs_on(&lab, "veth-foo").is_empty());
    assert!(programs_on(&lab, "veth-baz").is_empty());
    for _ in 0..5 {
        served_by_the_cache(&lab, foo);
    }
    assert_eq!(foo.getent(BROKER).unwrap(), sorted(FOO_ADDRESSES));
    let again = gregor.command(&["detach", "--all"]).unwrap();
    assert_eq!(again.status.code(), Some(0));
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        "nothing of gregor is attached\n"
    );
    // It resumes on a node without its programs, does not attach them again, logs that, and still ends in order.
    gregor.signal(Signal::SIGCONT);
    until("gregor says what happened", || {
        let status = gregor.status().ok()?;
        let interfaces = status["interfaces"].as_array()?;
        let says = |interface: &serde_json::Value| {
            interface["error"]
                .as_str()
                .is_some_and(|error| error.contains("detach --all"))
        };
        interfaces.iter().all(says).then_some(())
    });
    assert_eq!(gregor.get("/readyz").unwrap().0, 503);
    assert!(programs_on(&lab, "veth-foo").is_empty());
    gregor.signal(Signal::SIGTERM);
    assert_eq!(wait_for_end(&gregor).code(), Some(0), "{}", gregor.log());
}

/// The lines of `tc` that name gregor's filter.
fn clsact_filters(lab: &Lab, interface: &str) -> Vec<String> {
    let mut command = Command::new("tc");
    command.args(["filter", "show", "dev", interface, "ingress"]);
    let output = lab.node().output(command).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains("gregor"))
        .map(str::to_owned)
        .collect()
}

fn clsact(config: &str) -> String {
    config.replace("[intercept]\n", "[intercept]\nhook = \"clsact\"\n")
}

#[test]
fn clsact_filter_left_behind_serves_and_is_replaced() {
    let lab = lab_with_template("e2eclsact");
    let config = short_lived(&clsact(&lab.gregor_config()));
    let gregor = start(&lab, &config);
    let foo = lab.pod("foo");
    assert_eq!(gregor.status().unwrap()["hook"], "clsact");
    served_by_gregor(&gregor, foo);
    assert!(programs_on(&lab, "veth-foo").is_empty());
    assert_eq!(clsact_filters(&lab, "veth-foo").len(), 1);
    let served_baz = ask_for_own(lab.pod("baz"));
    assert!(
        addresses(&served_baz).is_empty(),
        "the template's bare CNAME"
    );

    gregor.signal(Signal::SIGKILL);
    wait_for_end(&gregor);
    an_uncached_name_passes_at_once(&lab, foo);
    let left = clsact_filters(&lab, "veth-foo");
    assert_eq!(left.len(), 1, "no link cleans up here: {left:?}");
    expired_answers_are_served(&lab, foo);
    uncached_names_pass(&lab, foo);

    let gregor = start(&lab, &config);
    let replaced = clsact_filters(&lab, "veth-foo");
    assert_eq!(replaced.len(), 1, "{replaced:?}");
    assert_ne!(replaced, left);
    served_by_gregor(&gregor, foo);

    gregor.signal(Signal::SIGTERM);
    assert_eq!(wait_for_end(&gregor).code(), Some(0), "{}", gregor.log());
    for pod in lab.pods() {
        assert_eq!(
            clsact_filters(&lab, &pod.host_interface),
            Vec::<String>::new()
        );
    }
    served_by_the_cache(&lab, foo);
}

#[test]
fn on_clsact_reloads_lose_no_query_and_no_count() {
    let lab = lab_with_template("e2eclsactre");
    reloads_lose_nothing(&lab, &clsact(&short_lived(&lab.gregor_config())));
    assert_eq!(clsact_filters(&lab, "veth-foo").len(), 1);
}

#[test]
fn on_clsact_every_query_is_answered_while_gregor_ends_under_load() {
    let lab = lab_with_template("e2eclsactterm");
    for round in 0..3 {
        let gregor = start(&lab, &clsact(&short_lived(&lab.gregor_config())));
        let load = Load::start(lab.pod("foo"), CACHE, &questions());
        load.wait_for(200);
        gregor.signal(Signal::SIGTERM);
        assert_eq!(wait_for_end(&gregor).code(), Some(0), "{}", gregor.log());
        assert_eq!(clsact_filters(&lab, "veth-foo"), Vec::<String>::new());
        load.wait_for(100);
        assert_eq!(load.finish(), Vec::<String>::new(), "round {round}");
    }
}

#[test]
fn detach_removes_the_clsact_filters_of_a_hung_gregor() {
    let lab = lab_with_template("e2eclsactdet");
    let gregor = start(&lab, &clsact(&lab.gregor_config()));
    let foo = lab.pod("foo");
    served_by_gregor(&gregor, foo);
    gregor.signal(Signal::SIGSTOP);
    if !alone(
        "detach_removes_the_clsact_filters_of_a_hung_gregor",
        &gregor,
    ) {
        return gregor.signal(Signal::SIGKILL);
    }
    let output = gregor.command(&["detach", "--all"]).unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for pod in lab.pods() {
        let line = format!("removed the clsact filter of {}", pod.host_interface);
        assert!(text.lines().any(|found| found == line), "{text}");
        assert_eq!(
            clsact_filters(&lab, &pod.host_interface),
            Vec::<String>::new()
        );
    }
    for _ in 0..5 {
        served_by_the_cache(&lab, foo);
    }
    gregor.signal(Signal::SIGCONT);
}
