//! The lab without gregor: the properties that the other tests rely on. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

use std::{
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use gregor_lab::{
    Ask, CacheKind, ClusterKind, Lab, sweep, tools,
    world::{self, BROKER, FOREIGN, FOREIGN_ADDRESSES, NODE_LOCAL_V6, PUBLIC_ADDRESS},
};
use hickory_proto::{op::ResponseCode, rr::RecordType};

/// What a pod without gregor gets, whichever servers are real.
fn behaves_as_a_node(lab: &Lab) {
    let foo = lab.pod("foo");
    assert_eq!(foo.getent(BROKER).unwrap(), [PUBLIC_ADDRESS]);
    let mut foreign = foo.getent(FOREIGN).unwrap();
    foreign.sort();
    let mut expected = FOREIGN_ADDRESSES;
    expected.sort();
    assert_eq!(foreign, expected);

    let qualified = format!("{BROKER}.foo.svc.cluster.local.");
    assert!(
        lab.cache()
            .saw(|asked| asked.qname == qualified && asked.client == IpAddr::V4(foo.v4)),
        "ndots 7 appends the pod's namespace first, and the cache sees the pod: {:?}",
        lab.cache().asked()
    );

    let target = "kafka-upstream.foo.svc.cluster.local";
    let server = lab.cache().addresses()[0];
    let reply = foo.ask(Ask::new(server, target, RecordType::A)).unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.answers.len(), 1 + world::FOO_ADDRESSES.len());
    let reply = foo
        .ask(Ask::new(
            server,
            "kafka-upstream.baz.svc.cluster.local",
            RecordType::A,
        ))
        .unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
    // Asked directly, the cluster DNS gives the bare CNAME of an ExternalName without AAAA.
    let cluster = lab.cluster().addresses()[0];
    let reply = foo
        .ask(Ask::new(cluster, target, RecordType::AAAA))
        .unwrap();
    assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
    assert_eq!(reply.answers.len(), 1);
    assert!(reply.authorities.is_empty());
    let reply = foo
        .ask(Ask::new(cluster, target, RecordType::HTTPS))
        .unwrap();
    assert!(reply.answers.is_empty());
    assert_eq!(reply.authorities.len(), 1);

    let over_v6 = foo.ask(Ask::new(NODE_LOCAL_V6.into(), FOREIGN, RecordType::AAAA));
    assert_eq!(over_v6.unwrap().answers.len(), 1);
    assert!(
        lab.cache().saw(|asked| asked.client == IpAddr::V6(foo.v6)),
        "the cache sees the pod's IPv6 address too"
    );
}

fn lab(cache: CacheKind, cluster: ClusterKind) -> Lab {
    Lab::builder("labtest")
        .pod("foo")
        .pod("bar")
        .cache(cache)
        .cluster(cluster)
        .start()
        .unwrap()
}

#[test]
fn with_embedded_servers() {
    let lab = lab(CacheKind::Embedded, ClusterKind::Embedded);
    behaves_as_a_node(&lab);
}

#[test]
fn with_coredns_twice() {
    let lab = lab(CacheKind::CoreDns { template: false }, ClusterKind::CoreDns);
    behaves_as_a_node(&lab);
}

#[test]
fn with_unbound() {
    let lab = lab(CacheKind::Unbound, ClusterKind::CoreDns);
    behaves_as_a_node(&lab);
}

#[test]
fn the_articles_template_answers_in_the_cache() {
    let lab = lab(CacheKind::CoreDns { template: true }, ClusterKind::CoreDns);
    let mut expected = world::BAR_ADDRESSES;
    expected.sort();
    assert_eq!(lab.pod("bar").getent(BROKER).unwrap(), expected);
}

#[test]
fn every_resolver_finds_the_foreign_name() {
    let lab = lab(CacheKind::Embedded, ClusterKind::Embedded);
    let mut expected: Vec<String> = FOREIGN_ADDRESSES.iter().map(IpAddr::to_string).collect();
    expected.sort();
    let clients = [
        (tools::musl_client().unwrap(), ""),
        (tools::glibc_client().unwrap(), ""),
        (tools::cares_client().unwrap(), ""),
        (tools::go_client().unwrap(), "netdns=go"),
        (tools::go_client().unwrap(), "netdns=cgo"),
    ];
    for (program, debug) in clients {
        let mut command = Command::new(&program);
        command.arg(FOREIGN).env("GODEBUG", debug);
        let output = lab.pod("foo").output(command).unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut found: Vec<&str> = text.lines().collect();
        found.sort();
        found.dedup();
        assert_eq!(found, expected, "{} {debug}: {output:?}", program.display());
    }
}

#[test]
fn a_dropped_lab_is_removed() {
    let (name, directory, pid);
    {
        let lab = lab(CacheKind::Unbound, ClusterKind::Embedded);
        name = lab.name().to_owned();
        directory = lab.directory().to_owned();
        pid = lab.cache().process().unwrap().pid();
        assert!(directory.exists());
        assert!(
            Path::new("/run/netns")
                .join(format!("{name}.node"))
                .exists()
        );
    }
    assert!(!directory.exists());
    assert!(!Path::new("/proc").join(pid.to_string()).exists());
    assert!(leavings(&name).is_empty());
}

#[test]
fn a_panic_removes_the_lab() {
    let (send, receive) = std::sync::mpsc::channel();
    let died = std::thread::spawn(move || {
        let lab = lab(CacheKind::Embedded, ClusterKind::Embedded);
        send.send(lab.name().to_owned()).unwrap();
        panic!("as a failing test does");
    })
    .join();
    assert!(died.is_err());
    assert!(leavings(&receive.recv().unwrap()).is_empty());
}

/// In the child that the two tests below start, and only there: holds a lab until SIGTERM or SIGKILL.
fn hold_a_lab_if_child() -> bool {
    let Ok(prefix) = std::env::var("LAB_PREFIX") else {
        return false;
    };
    let lab = Lab::builder(&prefix)
        .pod("foo")
        .cache(CacheKind::Unbound)
        .start()
        .unwrap();
    println!("lab {}", lab.name());
    std::thread::sleep(Duration::from_secs(60));
    true
}

/// Starts the child and waits for its lab; returns the lab's name too.
fn start_child(test: &str, prefix: &str) -> (std::process::Child, String) {
    use std::io::BufRead as _;
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("LAB_PREFIX", prefix)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let name = std::io::BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .find_map(|line| line.split_once("lab ").map(|(_, name)| name.to_owned()))
        .unwrap();
    (child, name)
}

#[test]
fn an_interrupt_removes_the_lab() {
    if hold_a_lab_if_child() {
        return;
    }
    let (mut child, name) = start_child("an_interrupt_removes_the_lab", "labint");
    assert!(!leavings(&name).is_empty());
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(leavings(&name).is_empty());
}

#[test]
fn the_next_start_removes_what_a_killed_process_left() {
    if hold_a_lab_if_child() {
        return;
    }
    let (mut child, name) = start_child(
        "the_next_start_removes_what_a_killed_process_left",
        "labkill",
    );
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!leavings(&name).is_empty());
    let started = Instant::now();
    assert!(sweep("labkill") > 0);
    assert!(leavings(&name).is_empty(), "after {:?}", started.elapsed());
}

/// Namespaces, files and directories of a lab that exist.
fn leavings(name: &str) -> Vec<String> {
    [
        "/run/netns",
        "/etc/netns",
        std::env::temp_dir().to_str().unwrap(),
    ]
    .iter()
    .flat_map(|directory| std::fs::read_dir(directory).into_iter().flatten().flatten())
    .map(|entry| entry.path().display().to_string())
    .filter(|path| path.contains(name))
    .collect()
}
