//! A query that passes by way of the responder takes the way that it would have taken without gregor: reverse path filter,
//! netfilter's input interface and programs behind gregor's see the same, whatever its source, and so does the cache.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    process::Command,
};

use aya::{
    Ebpf,
    maps::PerCpuArray,
    programs::{
        SchedClassifier, TcAttachType,
        tc::{NlOptions, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
};
use e2e::{Metrics, Wire, alone, exchange_from, qualified, until, wire};
use gregor_tests::{
    lab::{
        CacheKind, ClusterKind, Gregor, Lab, skip,
        world::{NODE_LOCAL_V4, NODE_LOCAL_V6},
    },
    packets::{
        build::{Checksum, name, question, udp_to},
        probe,
        wire::PlainSender,
    },
    tools,
};
use hickory_proto::rr::RecordType;
use nix::sys::signal::Signal;

const TYPE_A: u16 = 1;
const POD: &str = "baz";
const INTERFACE: &str = "veth-baz";

/// Sources that a pod may write into its queries.
fn sources(lab: &Lab) -> Vec<(IpAddr, IpAddr)> {
    let (own, other) = (lab.pod(POD), lab.pod("foo"));
    let v4 = [
        own.v4,
        // In the pod's own network, and no pod's.
        Ipv4Addr::from(u32::from(own.v4) + 1),
        other.v4,
        Ipv4Addr::new(8, 8, 8, 8),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        // The node's: its end of the veth, and the cache itself.
        Ipv4Addr::from(u32::from(own.v4) & 0xffff_ff00 | 1),
        NODE_LOCAL_V4,
    ];
    let v6 = [
        own.v6,
        other.v6,
        "2001:4860:4860::8888".parse().unwrap(),
        Ipv6Addr::LOCALHOST,
        Ipv6Addr::UNSPECIFIED,
        "ff02::1".parse().unwrap(),
        NODE_LOCAL_V6,
    ];
    v4.into_iter()
        .map(|source| (source.into(), NODE_LOCAL_V4.into()))
        .chain(
            v6.into_iter()
                .map(|source| (source.into(), NODE_LOCAL_V6.into())),
        )
        .collect()
}

/// What was seen of one query of each source.
#[derive(Debug, PartialEq)]
struct Seen {
    /// From whom the cache had it; `None` when it did not get there.
    by_cache: Vec<Option<IpAddr>>,
    /// Of the pod's interface before routing.
    by_netfilter: u64,
    /// By the program behind gregor's place.
    by_program: u64,
}

/// The node with everything that looks at queries.
struct Watched {
    lab: Lab,
    sender: PlainSender,
    /// Counts queries behind gregor's place.
    program: Ebpf,
    /// Runs so far: each asks other names, since what passed once is known to pass for a while.
    runs: usize,
    /// Queries of the last run.
    sent: usize,
}

impl Watched {
    fn new() -> Self {
        let lab = Lab::builder("e2eforged")
            .pod("foo")
            .pod(POD)
            .cache(CacheKind::Embedded)
            .cluster(ClusterKind::Embedded)
            .start()
            .unwrap();
        nft(&lab, "add table inet pods");
        nft(
            &lab,
            "add chain inet pods in { type filter hook prerouting priority -300 ; }",
        );
        nft(
            &lab,
            &format!("add rule inet pods in iifname {INTERFACE} udp dport 53 counter"),
        );
        let sender = lab
            .pod(POD)
            .netns()
            .enter(|| PlainSender::new("eth0").unwrap())
            .unwrap();
        let program = lab.node().enter(count_behind).unwrap();
        Self {
            lab,
            sender,
            program,
            runs: 0,
            sent: 0,
        }
    }

    fn counted(&self) -> u64 {
        let listed = nft(&self.lab, "list chain inet pods in");
        let (_, counted) = listed.split_once("counter packets ").unwrap();
        counted.split(' ').next().unwrap().parse().unwrap()
    }

    fn tracked(&self) -> u64 {
        let map = self.program.map("TRACKED").unwrap();
        let counts: PerCpuArray<_, u64> = PerCpuArray::try_from(map).unwrap();
        counts.get(&0, 0).unwrap().iter().sum()
    }

    fn host_mac(&self) -> [u8; 6] {
        let interface = format!("/sys/class/net/{INTERFACE}/address");
        let mut command = Command::new("cat");
        command.arg(interface);
        let output = self.lab.node().output(command).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let octets: Vec<u8> = text
            .trim()
            .split(':')
            .map(|octet| u8::from_str_radix(octet, 16).unwrap())
            .collect();
        octets.try_into().unwrap()
    }

    /// Asks once from each source; `handled` is true once all of them have been dealt with.
    fn ask(&mut self, checksum: Checksum, handled: impl Fn() -> bool) -> Seen {
        self.runs += 1;
        let run = self.runs;
        let netfilter = self.counted();
        let program = self.tracked();
        let mac = self.host_mac();
        let sources = sources(&self.lab);
        self.lab.cache().forget();
        let names: Vec<String> = (0..sources.len())
            .map(|index| qualified(&format!("nobody-{run}-{index}")))
            .collect();
        for (text, (source, server)) in names.iter().zip(&sources) {
            let frame = udp_to(*server, question(name(text), TYPE_A).build())
                .with(|packet| {
                    packet.destination_mac = mac;
                    packet.source = *source;
                })
                .with_udp(|udp| udp.checksum = checksum)
                .build();
            self.sender.send(&frame.bytes).unwrap();
        }
        until("every query is dealt with", || handled().then_some(()));
        // Behind them all, on the same way.
        let last = qualified(&format!("nobody-{run}-last"));
        let (query, _) = Wire::new(&last, RecordType::A).bytes();
        let pod = self.lab.pod(POD);
        self.sent = sources.len();
        until("the last query is answered", || {
            self.sent += 1;
            exchange_from(pod, NODE_LOCAL_V4.into(), &query)
        });
        let asked = self.lab.cache().asked();
        Seen {
            by_cache: names
                .iter()
                .map(|name| {
                    let seen = asked.iter().find(|asked| asked.qname == format!("{name}."));
                    seen.map(|asked| asked.client)
                })
                .collect(),
            by_netfilter: self.counted() - netfilter,
            by_program: self.tracked() - program,
        }
    }
}

/// A filter on clsact, which comes after all of tcx and after gregor's filter there.
fn count_behind() -> Ebpf {
    let mut ebpf = Ebpf::load(gregor_tests::PROGRAMS).unwrap();
    qdisc_add_clsact(INTERFACE).unwrap();
    let program: &mut SchedClassifier = ebpf
        .program_mut("policy_track")
        .unwrap()
        .try_into()
        .unwrap();
    program.load().unwrap();
    let options = TcAttachOptions::Netlink(NlOptions {
        priority: 100,
        handle: TcHandle::default(),
        classid: None,
    });
    program
        .attach_with_options(INTERFACE, TcAttachType::Ingress, options)
        .unwrap();
    ebpf
}

fn nft(lab: &Lab, arguments: &str) -> String {
    let mut command = Command::new(tools::nft().unwrap());
    command.args(arguments.split(' '));
    let output = lab.node().output(command).unwrap();
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The configuration for a hook; `mode` is that of XDP, which has one interface, and listens to everybody here.
fn config(lab: &Lab, hook: &str, mode: Option<&str>) -> String {
    let mut intercept = format!("[intercept]\nhook = \"{hook}\"\n");
    if mode.is_some() {
        intercept.push_str(&format!(
            "interfaces = [\"{INTERFACE}\"]\nallow_sources = [\"0.0.0.0/0\", \"::/0\"]\n"
        ));
    }
    lab.gregor_config().replace("[intercept]\n", &intercept)
}

fn passes_as_without_gregor(hook: &str, mode: Option<&str>) {
    let mut watched = Watched::new();
    let _other_end = mode.map(|mode| wire(&watched.lab, watched.lab.pod(POD), mode));
    for (rp_filter, checksum) in [
        ("0", Checksum::Right),
        ("1", Checksum::Right),
        ("2", Checksum::Right),
        ("0", Checksum::Zero),
        ("0", Checksum::Wrong),
    ] {
        for place in ["all", INTERFACE] {
            let path = format!("net/ipv4/conf/{place}/rp_filter");
            watched.lab.node().sysctl(&path, rp_filter).unwrap();
        }
        let start = |lab: &Lab, config: &str| {
            let binary = tools::gregor().unwrap();
            lab.start_gregor(&binary, config).unwrap()
        };
        let config = config(&watched.lab, hook, mode);
        // Behind generic XDP, Linux 6.18 hides the Ethernet header from programs on TC: what gregor is compared with there
        // is its own program, which takes no source of the lab.
        let without_sources = config.replace("\"0.0.0.0/0\", \"::/0\"", "\"192.0.2.0/24\"");
        let takes_no_source =
            (mode == Some("generic")).then(|| start(&watched.lab, &without_sources));
        let without = watched.ask(checksum, || true);
        if let Some(gregor) = takes_no_source {
            gregor.stop();
        }
        let gregor = start(&watched.lab, &config);
        let status = gregor.status().unwrap();
        assert_eq!(status["interfaces"][0]["mode"].as_str(), mode);
        let count = sources(&watched.lab).len() as f64;
        let with = watched.ask(checksum, || dealt_with(&gregor) >= count);
        assert_eq!(with, without, "rp_filter {rp_filter}, {checksum:?}");
        let metrics = Metrics::of(&gregor);
        // 0.0.0.0, broadcast, multicast, :: and ff02::1.
        assert_eq!(metrics.passed("source"), 5.0);
        // Once each: not once more when they come back.
        assert_eq!(metrics.requests(), watched.sent as f64);
        // The pod's own query is among those that arrive, or nothing was tested.
        let own = (checksum != Checksum::Wrong).then(|| IpAddr::V4(watched.lab.pod(POD).v4));
        assert_eq!(with.by_cache[0], own, "{checksum:?}");
        gregor.stop();
        let devices = devices(&watched.lab);
        assert!(!devices.contains("gregor"), "{devices}");
    }
}

#[test]
fn queries_that_pass_take_the_way_of_the_pods_frame_on_tcx() {
    passes_as_without_gregor("tcx", None);
}

#[test]
fn queries_that_pass_take_the_way_of_the_pods_frame_on_clsact() {
    passes_as_without_gregor("clsact", None);
}

fn on_xdp(test: &str, mode: &str) {
    match probe::lacks_for_xdp() {
        Some(lacks) => skip(test, &lacks),
        None => passes_as_without_gregor("xdp", Some(mode)),
    }
}

#[test]
fn queries_that_pass_take_the_way_of_the_pods_frame_on_native_xdp() {
    on_xdp(
        "queries_that_pass_take_the_way_of_the_pods_frame_on_native_xdp",
        "native",
    );
}

#[test]
fn queries_that_pass_take_the_way_of_the_pods_frame_on_generic_xdp() {
    on_xdp(
        "queries_that_pass_take_the_way_of_the_pods_frame_on_generic_xdp",
        "generic",
    );
}

/// The device of a gregor that was killed serves the next one, and goes with it; `detach --all` removes one that is left.
#[test]
fn the_device_of_a_crash_is_taken_over_or_removed() {
    for hook in ["tcx", "clsact"] {
        let mut watched = Watched::new();
        let config = config(&watched.lab, hook, None);
        let start = |lab: &Lab| {
            lab.start_gregor(&tools::gregor().unwrap(), &config)
                .unwrap()
        };
        let kill = |gregor: Gregor| {
            gregor.signal(Signal::SIGKILL);
            until("it is gone", || gregor.process().exited());
        };
        let without = watched.ask(Checksum::Right, || true);
        kill(start(&watched.lab));
        assert!(devices(&watched.lab).contains("gregor0"), "{hook}");

        let gregor = start(&watched.lab);
        let count = sources(&watched.lab).len() as f64;
        let with = watched.ask(Checksum::Right, || dealt_with(&gregor) >= count);
        assert_eq!(with, without, "{hook}");
        gregor.stop();
        assert!(!devices(&watched.lab).contains("gregor"), "{hook}");

        let gregor = start(&watched.lab);
        gregor.signal(Signal::SIGKILL);
        until("it is gone", || gregor.process().exited());
        if !alone("the_device_of_a_crash_is_taken_over_or_removed", &gregor) {
            return;
        }
        let output = gregor.command(&["detach", "--all"]).unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.contains("removed interface gregor0"), "{text}");
        assert!(!devices(&watched.lab).contains("gregor"), "{hook}");
    }
}

/// Queries that have passed: by way of the responder, or at once, where no host has the source.
fn dealt_with(gregor: &Gregor) -> f64 {
    let metrics = Metrics::of(gregor);
    metrics.passed_on("no_target") + metrics.passed("source")
}

/// Names of the node's interfaces.
fn devices(lab: &Lab) -> String {
    let mut command = Command::new("ls");
    command.arg("/sys/class/net");
    let output = lab.node().output(command).unwrap();
    String::from_utf8(output.stdout).unwrap()
}
