//! gregor short of file descriptors: pods that flood it do not use up those of others, and a failure of the node itself is
//! never an answer about a name. Wants root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report"
)]

mod e2e;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    thread,
    time::Duration,
};

use e2e::{Metrics, Question, UdpServer, Wire, addresses, exchange_from, until};
use gregor_tests::lab::{CacheKind, Lab, Pod, tools, world::NODE_LOCAL_V4};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};

const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 5300);
const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
const FLOODING: [&str; 5] = ["noisy-1", "noisy-2", "noisy-3", "noisy-4", "noisy-5"];
/// Distinct namespaces that each of them asks for: more than the default of `chases_per_interface`.
const NAMESPACES: usize = 300;
/// What the quiet pod asks for while they wait.
const QUIET_NAMES: usize = 40;
/// In the answers of the upstream and of the cache.
const TARGET: [u8; 4] = [10, 10, 0, 1];

/// Does not answer for the namespaces of the flood, and answers at once for all others.
fn upstream(query: &[u8]) -> Option<Vec<u8>> {
    let mut reply = query.to_vec();
    if query
        .to_ascii_lowercase()
        .windows(5)
        .any(|part| part == b"dead-")
    {
        return None;
    }
    // The question, without the OPT behind it.
    reply.truncate(Question::read(query).end);
    reply[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, 1, 0, 0, 0, 0]);
    reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
    reply.extend(TARGET);
    Some(reply)
}

/// The existing cache has none of these names.
fn nxdomain(query: &[u8]) -> Option<Vec<u8>> {
    let mut reply = query.to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x83]);
    Some(reply)
}

fn broker(namespace: &str) -> String {
    format!("lkc-1.eu-west-1.aws.private.kafka.managed.{namespace}.svc.cluster.local")
}

fn ask(pod: &Pod, namespace: &str, qtype: RecordType) -> Option<Message> {
    let (query, _) = Wire::new(&broker(namespace), qtype).bytes();
    let reply = exchange_from(pod, CACHE, &query)?;
    Some(Message::from_vec(&reply).unwrap())
}

/// gregor with a limit of this many open files.
fn gregor_with_open_files(lab: &Lab, most: u32) -> PathBuf {
    let path = lab.directory().join("gregor-with-few-files");
    let binary = tools::gregor().unwrap();
    let script = format!(
        "#!/bin/sh\nulimit -n {most} && exec '{}' \"$@\"\n",
        binary.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// Sends one query for each of many namespaces and does not wait for replies.
fn flood(pod: &Pod, number: usize) {
    pod.netns()
        .enter(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect((CACHE, 53)).unwrap();
            for namespace in 0..NAMESPACES {
                let name = broker(&format!("dead-{number}-{namespace}"));
                let (query, _) = Wire::new(&name, RecordType::A).bytes();
                socket.send(&query).unwrap();
                // Leaves the ring buffer time to be read.
                thread::sleep(Duration::from_micros(500));
            }
        })
        .unwrap();
}

#[test]
fn five_flooding_pods_do_not_use_up_the_look_ups_of_a_sixth() {
    let mut lab = Lab::builder("fewfiles").pod("quiet").cache(CacheKind::None);
    for pod in FLOODING {
        lab = lab.pod(pod);
    }
    let lab = lab.start().unwrap();
    let _upstream = UdpServer::start(&lab, UPSTREAM, upstream);
    let _cache = UdpServer::start(&lab, SocketAddr::new(CACHE, 53), nxdomain);
    // Time enough that no look-up of the flood ends before the quiet pod has asked.
    let config = format!(
        "{}[upstream]\nserver = \"{UPSTREAM}\"\ntimeout = \"30s\"\n[limits]\nqueries_per_second = 0\n",
        lab.gregor_config()
    );
    let gregor = lab
        .start_gregor(&gregor_with_open_files(&lab, 1024), &config)
        .unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", gregor.process().pid())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    assert!(files.unwrap().contains(" 1024 "), "{limits}");

    thread::scope(|scope| {
        for (number, pod) in FLOODING.iter().enumerate() {
            let pod = lab.pod(pod);
            scope.spawn(move || flood(pod, number));
        }
    });

    let mut answered = 0;
    for number in 0..QUIET_NAMES {
        let namespace = format!("quiet-{number}");
        let reply = ask(lab.pod("quiet"), &namespace, RecordType::A).expect(&namespace);
        match reply.metadata.response_code {
            ResponseCode::NoError => {
                assert_eq!(addresses(&reply), [IpAddr::from(TARGET)], "{namespace}");
                answered += 1;
            }
            // From the cache: what cannot be looked up is passed on.
            ResponseCode::NXDomain => {}
            rcode => panic!("{namespace}: {rcode}"),
        }
    }
    assert!(answered > 0, "every query of the quiet pod was passed on");

    // The look-ups of the flood still wait, and it did not exceed its share.
    let metrics = Metrics::of(&gregor);
    assert!(metrics.get("gregor_chases_in_flight") > 300.0);
    assert!(metrics.passed_on("busy") > 0.0);
    assert_eq!(metrics.responses("SERVFAIL"), 0.0);
    let open = fs::read_dir(format!("/proc/{}/fd", gregor.process().pid()));
    assert!(open.unwrap().count() < 512, "its look-ups share sockets");
    assert_eq!(gregor.get("/readyz").unwrap().0, 200);
}

/// An uncached name passes to the existing cache.
#[test]
fn without_a_route_to_the_upstream_a_cached_name_keeps_its_answer() {
    let lab = Lab::builder("noroute")
        .pod("quiet")
        .cache(CacheKind::None)
        .start()
        .unwrap();
    let upstream_at = SocketAddr::new([198, 51, 100, 53].into(), 5300);
    lab.node()
        .ip("address add 198.51.100.53/32 dev lo\n")
        .unwrap();
    let reachable = UdpServer::start(&lab, upstream_at, upstream);
    let _cache = UdpServer::start(&lab, SocketAddr::new(CACHE, 53), nxdomain);
    let config = format!(
        "{}[upstream]\nserver = \"{upstream_at}\"\n[answer]\nmax_ttl = \"1s\"\nkernel = false\n",
        lab.gregor_config()
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let quiet = lab.pod("quiet");
    let known = || ask(quiet, "known", RecordType::A).unwrap();
    assert_eq!(addresses(&known()), [IpAddr::from(TARGET)]);

    drop(reachable);
    lab.node()
        .ip("address del 198.51.100.53/32 dev lo\nroute add unreachable 198.51.100.53\n")
        .unwrap();
    until("a stale answer", || {
        assert_eq!(addresses(&known()), [IpAddr::from(TARGET)]);
        (Metrics::of(&gregor).get("gregor_stale_answers_total") > 0.0).then_some(())
    });
    let unknown = ask(quiet, "unknown", RecordType::A).unwrap();
    assert_eq!(unknown.metadata.response_code, ResponseCode::NXDomain);
    let metrics = Metrics::of(&gregor);
    assert!(metrics.get(r#"gregor_chase_failures_total{reason="local"}"#) > 0.0);
    assert_eq!(metrics.responses("SERVFAIL"), 0.0);
}
