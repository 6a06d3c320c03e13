//! Names that tenants claim for their own endpoints, from pods whose namespaces a static file says and with claims of a static file:
//! who gets what, over changes, restarts, and with a tenant that changes its claims all the time.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fmt::Write as _,
    fs,
    net::IpAddr,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use e2e::{Metrics, addresses, sorted, until, until_the_programs_answer, wait_for_log};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, Pod,
        world::{
            BAR_ADDRESSES, BAR_ENDPOINT, BROKER, ExternalName, FOO_ADDRESSES, FOO_ENDPOINT,
            NODE_LOCAL_V4, PUBLIC_ADDRESS, World,
        },
    },
    tools,
};
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
/// What the tenants claim: all brokers of the provider.
const NAMES: &str = "*.aws.private.kafka.managed";

fn gets(pod: &Pod, name: &str) -> Vec<IpAddr> {
    addresses(&pod.ask(Ask::new(CACHE, name, RecordType::A)).unwrap())
}

fn v4_of(endpoint: [IpAddr; 3]) -> Vec<IpAddr> {
    sorted(endpoint.into_iter().filter(IpAddr::is_ipv4))
}

/// The files that say who the pods are, and what is claimed.
struct Files {
    pods: PathBuf,
    claims: PathBuf,
}

impl Files {
    fn new(lab: &Lab) -> Files {
        let files = Files {
            pods: lab.directory().join("pods.toml"),
            claims: lab.directory().join("claims.toml"),
        };
        files.says_pods(lab.pods());
        files.claim(&[]);
        files
    }

    fn says_pods<'p>(&self, pods: impl Iterator<Item = &'p Pod>) {
        let text = pods.fold(String::new(), |mut text, pod| {
            let _ = write!(
                text,
                "[[pod]]\nnamespace = \"{}\"\npod = \"{}-0\"\ninterface = \"{}\"\naddresses = [\"{}\", \"{}\"]\n\n",
                pod.namespace, pod.namespace, pod.host_interface, pod.v4, pod.v6
            );
            text
        });
        replace(&self.pods, &text);
    }

    /// Namespace, Service and names of each.
    fn claim(&self, claims: &[(&str, &str, &str)]) {
        let text = claims.iter().fold(String::new(), |mut text, (namespace, service, names)| {
            let _ = write!(
                text,
                "[[claim]]\nnamespace = \"{namespace}\"\nservice = \"{service}\"\nnames = \"{names}\"\n\n"
            );
            text
        });
        replace(&self.claims, &text);
    }

    fn config(&self, lab: &Lab, rules: &str) -> String {
        format!(
            "{}{rules}\n[identity]\nsources = [\"file\"]\nfile = \"{}\"\n\
             [tenants]\nmay_claim = [\"{NAMES}\"]\nfile = \"{}\"\n",
            lab.gregor_config(),
            self.pods.display(),
            self.claims.display()
        )
    }
}

/// In one step, as configuration management does it.
fn replace(path: &PathBuf, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

fn start(lab: &Lab, files: &Files, rules: &str) -> Gregor {
    let config = files.config(lab, rules);
    lab.start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap()
}

/// Waits until a pod gets these addresses; returns how long that took.
fn until_gets(pod: &Pod, name: &str, expected: &[IpAddr]) -> Duration {
    let started = Instant::now();
    until(
        &format!("{} gets {expected:?} for {name}", pod.namespace),
        || (gets(pod, name) == expected).then_some(()),
    );
    started.elapsed()
}

/// What `gregor status` says of a namespace's claims: its Services, each with what is accepted and what is refused.
fn status_of(gregor: &Gregor, namespace: &str) -> Vec<(String, usize, Vec<String>)> {
    let status = gregor.status().unwrap();
    let claims = status["claims"]["claims"].as_array().unwrap();
    let own = claims
        .iter()
        .filter(|claim| claim["namespace"] == namespace);
    own.map(|claim| {
        let refused = claim["refused"].as_array().unwrap().iter();
        (
            claim["service"].as_str().unwrap().to_owned(),
            claim["accepted"].as_array().unwrap().len(),
            refused
                .map(|pair| pair[1].as_str().unwrap().to_owned())
                .collect(),
        )
    })
    .collect()
}

/// foo has a second Service, for bar's endpoint.
fn world() -> World {
    let mut world = World::default();
    world.external_names.push(ExternalName {
        service: "second".to_owned(),
        namespace: "foo".to_owned(),
        target: BAR_ENDPOINT.to_owned(),
    });
    world
}

#[test]
fn tenants_claim_the_same_names_for_endpoints_of_their_own() {
    let lab = Lab::builder("e2eclaims")
        .world(world())
        .pod("foo")
        .pod("bar")
        .pod("baz")
        .start()
        .unwrap();
    let [foo, bar, baz] = ["foo", "bar", "baz"].map(|name| lab.pod(name));
    let files = Files::new(&lab);
    files.claim(&[
        ("foo", "kafka-upstream", NAMES),
        ("bar", "kafka-upstream", NAMES),
    ]);
    // The pod of bar is not known yet.
    files.says_pods([foo, baz].into_iter());
    let gregor = start(&lab, &files, "");
    assert_eq!(gets(foo, BROKER), v4_of(FOO_ADDRESSES));
    assert_eq!(gets(bar, BROKER), [PUBLIC_ADDRESS]);
    files.says_pods([foo, bar, baz].into_iter());
    let took = until_gets(bar, BROKER, &v4_of(BAR_ADDRESSES));
    println!("claims of a namespace whose first pod comes: in force after {took:?}");

    // From the first query on, with names that nobody has changed; baz has no Service.
    let everybody = || {
        assert_eq!(gets(foo, BROKER), v4_of(FOO_ADDRESSES));
        assert_eq!(gets(bar, BROKER), v4_of(BAR_ADDRESSES));
        assert_eq!(gets(baz, BROKER), [PUBLIC_ADDRESS]);
    };
    everybody();
    for (pod, endpoint) in [(foo, FOO_ADDRESSES), (bar, BAR_ADDRESSES)] {
        until_the_programs_answer(&gregor, &pod.namespace, |_| {
            assert_eq!(gets(pod, BROKER), v4_of(endpoint));
        });
    }
    everybody();
    assert_eq!(
        status_of(&gregor, "foo"),
        [("kafka-upstream".to_owned(), 1, vec![])]
    );
    assert_eq!(
        gregor
            .metrics()
            .unwrap()
            .matches("gregor_claims_accepted 2")
            .count(),
        1
    );
    let explain = |pod: &str| {
        let config = gregor.config_path().display().to_string();
        let control = gregor.control_path().display().to_string();
        let arguments = [
            "explain",
            BROKER,
            "--pod",
            pod,
            "--config",
            &config,
            "--control",
            &control,
        ];
        let output = gregor.command(&arguments).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let explained = explain("foo/foo-0");
    assert!(
        explained.contains("target kafka-upstream.foo.svc.cluster.local"),
        "{explained}"
    );
    let explained = explain("baz/baz-0");
    assert!(explained.contains("is not for this pod"), "{explained}");

    // A claim is added, changed to another Service, made narrower, and withdrawn; bar's stays what it was, from the kernel.
    let mut took = Vec::new();
    for (claims, name, expected) in [
        (vec![("foo", "second", NAMES)], BROKER, v4_of(BAR_ADDRESSES)),
        (
            vec![("foo", "kafka-upstream", NAMES)],
            BROKER,
            v4_of(FOO_ADDRESSES),
        ),
        (
            vec![("foo", "kafka-upstream", NAMES), ("foo", "second", BROKER)],
            BROKER,
            v4_of(BAR_ADDRESSES),
        ),
        (vec![], BROKER, vec![PUBLIC_ADDRESS]),
        (
            vec![("foo", "kafka-upstream", NAMES)],
            BROKER,
            v4_of(FOO_ADDRESSES),
        ),
    ] {
        let before = Metrics::of(&gregor);
        let all = [claims, vec![("bar", "kafka-upstream", NAMES)]].concat();
        files.claim(&all);
        took.push(until_gets(foo, name, &expected));
        for _ in 0..10 {
            assert_eq!(gets(foo, name), expected, "and it stays so");
            assert_eq!(gets(bar, BROKER), v4_of(BAR_ADDRESSES));
            assert_eq!(gets(baz, BROKER), [PUBLIC_ADDRESS]);
        }
        let after = Metrics::of(&gregor);
        // Each of bar's ten was answered by the program: nothing of it was withdrawn.
        assert!(after.answered() >= before.answered() + 10.0);
    }
    println!("changes of claims in force after {took:?}");

    // A restart keeps all of it, also where nothing says what is claimed.
    drop(gregor);
    let gregor = start(&lab, &files, "");
    everybody();
    drop(gregor);
    fs::remove_file(&files.claims).unwrap();
    let _gregor = start(&lab, &files, "");
    everybody();
}

/// As the DaemonSet's next pod, which finds no file of its predecessor's, while nothing says what is claimed.
#[test]
fn successors_go_by_the_claims_of_their_predecessors() {
    let lab = Lab::builder("e2eclaimskept")
        .world(world())
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let [foo, bar] = ["foo", "bar"].map(|name| lab.pod(name));
    let files = Files::new(&lab);
    let both = [("foo", "second", NAMES), ("bar", "kafka-upstream", NAMES)];
    files.claim(&both);
    let spawn = |name: &str| {
        fs::create_dir(lab.directory().join(name)).unwrap();
        let (binary, config) = (tools::gregor().unwrap(), files.config(&lab, ""));
        lab.spawn_successor(&format!("{name}/gregor"), &binary, &config)
            .unwrap()
    };
    let ends = |gregor: &Gregor, signal| {
        gregor.signal(signal);
        until("it ends", || gregor.process().exited());
    };
    let both_have_their_endpoints = || {
        // What second leads to.
        assert_eq!(gets(foo, BROKER), v4_of(BAR_ADDRESSES));
        assert_eq!(gets(bar, BROKER), v4_of(BAR_ADDRESSES));
    };
    let first = spawn("first");
    wait_for_log(&first, "gregor::app: ready");
    both_have_their_endpoints();
    fs::remove_file(&files.claims).unwrap();

    let second = spawn("second");
    wait_for_log(&second, "ready to take over");
    ends(&first, Signal::SIGTERM);
    wait_for_log(&second, "gregor::app: ready");
    both_have_their_endpoints();
    assert_eq!(
        status_of(&second, "foo"),
        [("second".to_owned(), 1, vec![])]
    );

    // Also where all that was pinned has gone meanwhile.
    let mut remove = Command::new("rm");
    remove.args(["-r", "/sys/fs/bpf/gregor"]);
    assert!(lab.node().output(remove).unwrap().status.success());
    wait_for_log(&second, "everything is pinned again");
    ends(&second, Signal::SIGKILL);
    let third = spawn("third");
    wait_for_log(&third, "gregor::app: ready");
    both_have_their_endpoints();

    // A list takes the place of what was kept.
    files.claim(&[
        ("foo", "kafka-upstream", NAMES),
        ("bar", "kafka-upstream", NAMES),
    ]);
    until_gets(foo, BROKER, &v4_of(FOO_ADDRESSES));
    assert_eq!(gets(bar, BROKER), v4_of(BAR_ADDRESSES));
}

#[test]
fn what_is_refused_is_said_and_harms_nobody() {
    let lab = Lab::builder("e2erefuse")
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let [foo, bar] = ["foo", "bar"].map(|name| lab.pod(name));
    let files = Files::new(&lab);
    let many: Vec<String> = (0..500)
        .map(|n| format!("{n}.aws.private.kafka.managed"))
        .collect();
    let many = many.join(",");
    files.claim(&[
        (
            "foo",
            "kafka-upstream",
            "www.example.com, *.bar.svc.cluster.local, a b",
        ),
        ("foo", "many", &many),
        ("bar", "kafka-upstream", NAMES),
    ]);
    let gregor = start(&lab, &files, "");
    assert_eq!(gets(bar, BROKER), v4_of(BAR_ADDRESSES));
    assert_eq!(gets(foo, BROKER), [PUBLIC_ADDRESS]);
    let said = status_of(&gregor, "foo");
    assert_eq!((said[0].1, said[0].2.len()), (0, 3), "{said:?}");
    assert_eq!(said[1].1, 32);
    let page = gregor.metrics().unwrap();
    for reason in ["not_allowed", "cluster_domain", "malformed"] {
        let line = format!("gregor_claims_refused{{reason=\"{reason}\"}} 1");
        assert!(page.contains(&line), "{line}");
    }
    let shown = gregor.status_text(&[]).unwrap();
    assert!(
        shown.contains("REFUSED www.example.com: the platform does not let"),
        "{shown}"
    );

    // A file that is refused leaves what was claimed last.
    replace(&files.claims, "[[claim]]\nnamespace = 1\n");
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(gets(bar, BROKER), v4_of(BAR_ADDRESSES));
}

/// Claims that change a hundred times a second: the other tenant's answers, and its own changes, do not wait.
#[test]
fn a_tenant_that_changes_its_claims_all_the_time_harms_nobody() {
    let lab = Lab::builder("e2eunrest")
        .world(world())
        .pod("foo")
        .pod("bar")
        .start()
        .unwrap();
    let [foo, bar] = ["foo", "bar"].map(|name| lab.pod(name));
    let files = Files::new(&lab);
    let claim = |turn: usize, service: &str| {
        let hostile = format!("b{turn}.aws.private.kafka.managed");
        files.claim(&[("bar", "kafka-upstream", &hostile), ("foo", service, NAMES)]);
    };
    claim(0, "kafka-upstream");
    let gregor = start(&lab, &files, "");
    assert_eq!(gets(foo, BROKER), v4_of(FOO_ADDRESSES));
    let loads_before = lines_of(&gregor, "the names that tenants claim are in force");
    let mut took = Vec::new();
    let mut turn = 0;
    let began = Instant::now();
    let services = [("second", BAR_ADDRESSES), ("kafka-upstream", FOO_ADDRESSES)];
    for (service, endpoint) in services.into_iter().chain(services) {
        let started = Instant::now();
        let mut is_in_force = false;
        // The old or the new, never the public one; and each of a hundred in a second is claimed.
        // On a machine as slow as it may be: the change is waited for.
        while started.elapsed() < Duration::from_secs(if is_in_force { 4 } else { 60 }) {
            turn += 1;
            claim(turn, service);
            let found = gets(foo, BROKER);
            assert_ne!(found, [PUBLIC_ADDRESS]);
            if found == v4_of(endpoint) {
                if !std::mem::replace(&mut is_in_force, true) {
                    took.push(started.elapsed());
                }
            } else {
                assert!(!is_in_force, "back again: {found:?}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert!(is_in_force, "{service} never came into force");
    }
    let loads = lines_of(&gregor, "the names that tenants claim are in force") - loads_before;
    println!(
        "{turn} changes of bar's claims in {:?}: {loads} loads; foo's four changes were in force after {took:?}",
        began.elapsed()
    );
    // bar has five changes, and one in ten seconds; foo has four.
    let most = 10 + began.elapsed().as_secs().div_ceil(10) as usize;
    assert!(loads <= most, "{loads} loads");
    assert_eq!(gets(bar, BROKER), [PUBLIC_ADDRESS]);
}

/// 500 namespaces that claim 20 names in common and 5 of their own; 60 of them have pods here. A change of one's claims is in force
/// within a second, of its own names and of those in common.
#[test]
fn a_node_with_pods_of_sixty_namespaces() {
    const PODS: usize = 60;
    const CHANGES: usize = 40;
    let namespace = |n: usize| format!("ns-{n}");
    let mut world = World::default();
    for n in 0..PODS {
        world.namespaces.push(namespace(n));
        for (service, target) in [("up", FOO_ENDPOINT), ("second", BAR_ENDPOINT)] {
            world.external_names.push(ExternalName {
                service: service.to_owned(),
                namespace: namespace(n),
                target: target.to_owned(),
            });
        }
    }
    let mut builder = Lab::builder("e2emany").world(world);
    for n in 0..PODS {
        builder = builder.pod(&namespace(n));
    }
    let lab = builder.start().unwrap();
    let files = Files::new(&lab);
    let shared: Vec<String> = (0..20)
        .map(|n| format!("*.c{n}.aws.private.kafka.managed"))
        .collect();
    let shared = shared.join(",");
    let names: Vec<(String, String)> = (0..500)
        .map(|n| {
            let own: Vec<String> = (0..5)
                .map(|k| format!("b{k}.own-{n}.aws.private.kafka.managed"))
                .collect();
            (namespace(n), format!("{shared},{}", own.join(",")))
        })
        .collect();
    let mut services = vec!["up"; names.len()];
    let say = |services: &[&str]| {
        let claims = names.iter().zip(services);
        let claims: Vec<(&str, &str, &str)> = claims
            .map(|((namespace, names), service)| (namespace.as_str(), *service, names.as_str()))
            .collect();
        files.claim(&claims);
    };
    say(&services);
    let gregor = start(&lab, &files, "");
    let pods: Vec<&Pod> = (0..PODS).map(|n| lab.pod(&namespace(n))).collect();
    for (n, pod) in pods.iter().enumerate() {
        assert_eq!(
            gets(pod, "x.c7.aws.private.kafka.managed"),
            v4_of(FOO_ADDRESSES)
        );
        assert_eq!(
            gets(pod, &format!("b3.own-{n}.aws.private.kafka.managed")),
            v4_of(FOO_ADDRESSES)
        );
        let others = format!("b3.own-{}.aws.private.kafka.managed", (n + 1) % PODS);
        assert_eq!(gets(pod, &others), [PUBLIC_ADDRESS]);
    }
    let memory = rss(&gregor);
    let mut took = Vec::new();
    for change in 0..CHANGES {
        let n = change % PODS;
        services[n] = if services[n] == "up" { "second" } else { "up" };
        let endpoint = if services[n] == "up" {
            FOO_ADDRESSES
        } else {
            BAR_ADDRESSES
        };
        let name = match change % 2 {
            0 => "x.c3.aws.private.kafka.managed".to_owned(),
            _ => format!("b1.own-{n}.aws.private.kafka.managed"),
        };
        say(&services);
        took.push(until_gets(pods[n], &name, &v4_of(endpoint)));
        let another = pods[(n + 1) % PODS];
        let unchanged = if services[(n + 1) % PODS] == "up" {
            FOO_ADDRESSES
        } else {
            BAR_ADDRESSES
        };
        assert_eq!(
            gets(another, "x.c3.aws.private.kafka.managed"),
            v4_of(unchanged)
        );
    }
    took.sort();
    let status = gregor.status().unwrap();
    println!(
        "{} rules on {PODS} interfaces, loaded in {:.0} ms, a matcher of {} kB; {memory} kB resident before, {} kB after {CHANGES} changes; \
         in force after {:?} (median), {:?} (most)",
        status["rules"].as_array().unwrap().len(),
        status["kernel"]["program"]["load_seconds"]
            .as_f64()
            .unwrap()
            * 1000.0,
        status["kernel"]["program"]["table_bytes"].as_u64().unwrap() / 1024,
        rss(&gregor),
        took[CHANGES / 2],
        took[CHANGES - 1]
    );
}

/// Memory that a gregor has, in kB.
fn rss(gregor: &Gregor) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", gregor.process().pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// How many lines of the log have this text.
fn lines_of(gregor: &Gregor, text: &str) -> usize {
    gregor
        .log()
        .lines()
        .filter(|line| line.contains(text))
        .count()
}
