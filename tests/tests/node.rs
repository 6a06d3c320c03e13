//! A node in small, on whatever kernel this is: each way in which a pod may be connected, each hook, and the life of gregor.
//! The assertions are about what a pod gets. `cargo xtask kernels` runs these on every kernel of its matrix.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{fs, net::IpAddr, path::Path, process::Command};

use e2e::{
    MORE, Metrics, OVERRIDDEN, REPLY, Wire, addresses, exchange_within, large_world, of_family,
    qualified, sorted, until, until_the_programs_answer,
};
use gregor::datapath::{Hook, RETURN_DEVICES, detect_hook};
use gregor_tests::{
    lab::{
        Ask, Gregor, Lab, Netns, Pod, Transport, forbid_bpf, keep_capabilities, limit_memlock,
        patience, skip, threads,
        world::{
            BAR_ADDRESSES, FOO_ADDRESSES, FOREIGN, FOREIGN_ADDRESSES, NODE_LOCAL_V4, NODE_LOCAL_V6,
        },
    },
    packets::{
        observer::{Observer, Place},
        probe,
    },
    tools,
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);
const CACHE_V6: IpAddr = IpAddr::V6(NODE_LOCAL_V6);

/// As in README: CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF.
const DOCUMENTED_CAPABILITIES: [u8; 4] = [12, 13, 38, 39];

fn start(lab: &Lab, config: &str) -> Gregor {
    lab.start_gregor(&tools::gregor().unwrap(), config).unwrap()
}

/// The lab's configuration with more lines in [intercept].
fn with(lab: &Lab, lines: &str) -> String {
    lab.gregor_config()
        .replace("[intercept]\n", &format!("[intercept]\n{lines}\n"))
}

fn try_ask(pod: &Pod, server: IpAddr, name: &str, qtype: RecordType) -> anyhow::Result<Message> {
    let mut ask = Ask::new(server, name, qtype);
    ask.timeout = patience(REPLY);
    pod.ask(ask)
}

fn ask(pod: &Pod, server: IpAddr, name: &str, qtype: RecordType) -> Message {
    try_ask(pod, server, name, qtype).unwrap()
}

/// What the existing cache says to a matching name by itself: there is no such name.
fn is_the_caches(reply: &Message) -> bool {
    reply.metadata.response_code == ResponseCode::NXDomain && reply.answers.is_empty()
}

/// The pod gets its endpoint's addresses from the responder and then from the program, and everything else from the cache,
/// which sees the pod's own address.
fn is_served(lab: &Lab, gregor: &Gregor, pod: &Pod, server: IpAddr) {
    let own = qualified(&pod.namespace);
    let name = |round: usize| format!("b{round}-{own}");
    until_the_programs_answer(
        gregor,
        &format!("{} asks {server}", pod.namespace),
        |round| {
            for name in [own.clone(), name(round)] {
                let reply = ask(pod, server, &name, RecordType::A);
                assert_eq!(
                    addresses(&reply),
                    sorted(FOO_ADDRESSES),
                    "{name} of {server}"
                );
            }
        },
    );
    lab.cache().forget();
    let foreign = ask(pod, server, FOREIGN, RecordType::A);
    assert_eq!(addresses(&foreign), [FOREIGN_ADDRESSES[0]]);
    let asked = lab.cache().asked();
    let from: Vec<IpAddr> = asked.iter().map(|asked| asked.client).collect();
    assert!(
        !from.is_empty() && from.iter().all(|client| is_of(pod, *client)),
        "{from:?} is not {}",
        pod.namespace
    );
    assert!(
        asked
            .iter()
            .all(|asked| asked.qname == format!("{FOREIGN}."))
    );
}

/// Whether an address is one of the pod's, by whatever interface it asks.
fn is_of(pod: &Pod, address: IpAddr) -> bool {
    address == IpAddr::V4(pod.v4) || address == IpAddr::V6(pod.v6)
}

/// What the responder passes on reaches the cache with the pod's own address, and the reply the pod.
fn has_no_target(lab: &Lab, pod: &Pod, server: IpAddr) {
    lab.cache().forget();
    let reply = ask(pod, server, &qualified(&pod.namespace), RecordType::A);
    assert!(is_the_caches(&reply), "{reply}");
    let qname = format!("{}.", qualified(&pod.namespace));
    assert!(
        lab.cache()
            .saw(|asked| asked.qname == qname && is_of(pod, asked.client)),
        "{:?}",
        lab.cache().asked()
    );
}

fn serves_by_hook(prefix: &str, hook: &str) {
    let lab = Lab::new(prefix).unwrap();
    let gregor = start(&lab, &with(&lab, &format!("hook = \"{hook}\"")));
    if hook != "auto" {
        assert_eq!(gregor.status().unwrap()["hook"], hook);
    }
    is_served(&lab, &gregor, lab.pod("foo"), CACHE);
    has_no_target(&lab, lab.pod("baz"), CACHE);
}

/// With the hook that gregor finds by itself; three tenants.
#[test]
fn pod_by_veth() {
    serves_by_hook("nodeveth", "auto");
}

#[test]
fn clsact() {
    serves_by_hook("nodeclsact", "clsact");
}

fn has_tcx(test: &str) -> bool {
    let found = detect_hook() == Hook::Tcx;
    if !found {
        skip(test, "no tcx");
    }
    found
}

#[test]
fn tcx() {
    if has_tcx("tcx") {
        serves_by_hook("nodetcx", "tcx");
    }
}

#[test]
fn ipv6() {
    let lab = Lab::new("nodesix").unwrap();
    let gregor = start(&lab, &lab.gregor_config());
    is_served(&lab, &gregor, lab.pod("foo"), CACHE_V6);
    let (four, six) = (&BAR_ADDRESSES[..2], &BAR_ADDRESSES[2..]);
    for (qtype, expected) in [(RecordType::A, four), (RecordType::AAAA, six)] {
        until_the_programs_answer(&gregor, &format!("bar asks for {qtype}"), |_| {
            let reply = ask(lab.pod("bar"), CACHE_V6, &qualified("bar"), qtype);
            assert_eq!(addresses(&reply), sorted(expected.iter().copied()));
        });
    }
    has_no_target(&lab, lab.pod("baz"), CACHE_V6);
}

/// As the bridge plug-in and flannel wire a pod up: the gateway is a bridge with an address of its own, so that the veth's
/// end on the node is addressed by no frame.
fn behind_a_bridge(lab: &Lab, pod: &Pod) {
    let third = pod.v4.octets()[2];
    let veth = &pod.host_interface;
    lab.node()
        .ip(&format!(
            "link add cni0 address 02:0a:00:00:00:01 type bridge forward_delay 0
addr flush dev {veth}
link set {veth} master cni0
addr add 10.244.{third}.1/24 dev cni0
addr add fd00:244:{third:x}::1/64 dev cni0 nodad
link set cni0 up
"
        ))
        .unwrap();
    // Learnt before the bridge came.
    pod.netns().ip("neigh flush dev eth0\n").unwrap();
}

#[test]
fn pod_behind_a_bridge() {
    let lab = Lab::new("nodebridge").unwrap();
    let foo = lab.pod("foo");
    behind_a_bridge(&lab, foo);
    let gregor = start(&lab, &lab.gregor_config());
    is_served(&lab, &gregor, foo, CACHE);
    is_served(&lab, &gregor, foo, CACHE_V6);
}

/// The same without `bpf_redirect_peer` into the pod, which is used where the other end is known.
#[test]
fn pod_behind_a_bridge_on_clsact() {
    let lab = Lab::new("nodebridgecls").unwrap();
    let foo = lab.pod("foo");
    behind_a_bridge(&lab, foo);
    let gregor = start(&lab, &with(&lab, "hook = \"clsact\""));
    is_served(&lab, &gregor, foo, CACHE);
}

/// Makes an interface of a kind that a kernel may not have; any other failure is the test's.
fn made(netns: &Netns, line: &str) -> bool {
    let Err(error) = netns.ip(&format!("{line}\n")) else {
        return true;
    };
    let said = format!("{error:#}");
    let unknown = ["Operation not supported", "Unknown device type"];
    assert!(unknown.iter().any(|words| said.contains(words)), "{said}");
    false
}

/// The pod asks from a VLAN of its interface, so that its frames arrive with a tag.
#[test]
fn vlan() {
    let lab = Lab::new("nodevlan").unwrap();
    let foo = lab.pod("foo");
    let veth = &foo.host_interface;
    let tagged = format!("link add link {veth} name tagged type vlan id 7");
    if !made(lab.node(), &tagged) {
        return skip("vlan", "no 8021q");
    }
    // The networks differ in their tag alone: the pod's addresses move.
    lab.node()
        .ip(&format!(
            "addr flush dev {veth}
addr add 10.244.1.1/24 dev tagged
addr add fd00:244:1::1/64 dev tagged nodad
link set tagged up
"
        ))
        .unwrap();
    foo.netns()
        .ip(&format!(
            "addr flush dev eth0
link add link eth0 name tagged type vlan id 7
addr add {}/24 dev tagged
addr add {}/64 dev tagged nodad
link set tagged up
route replace default via 10.244.1.1
route replace ::/0 via fd00:244:1::1
",
            foo.v4, foo.v6
        ))
        .unwrap();
    let gregor = start(&lab, &lab.gregor_config());
    is_served(&lab, &gregor, foo, CACHE);
    is_served(&lab, &gregor, foo, CACHE_V6);
}

/// `check` names what it leaves alone, and why: one line for each reason.
fn is_left_alone(lab: &Lab, name: &str, reason: &str) {
    let config = lab.directory().join("kinds.toml");
    fs::write(&config, lab.gregor_config()).unwrap();
    let mut command = Command::new(tools::gregor().unwrap());
    command.args(["check", "--json", "--config"]).arg(&config);
    let output = lab.node().output(command).unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let found = said["findings"].as_array().unwrap().iter().any(|finding| {
        let detail = finding["detail"].as_str().unwrap();
        let names = detail.strip_suffix(&format!(": {reason}"));
        let is_named = |names: &str| names.split(", ").any(|listed| listed == name);
        finding["what"] == "left alone" && names.is_some_and(is_named)
    });
    assert!(found, "{name}: {reason}: {said:#}");
}

/// What the reasons of kinds behind which pods may be have in common.
const BY_NAME: &str = "[intercept] interfaces names such, where pods are behind them";

#[test]
fn interfaces_that_are_no_veths_are_named() {
    const TEST: &str = "interfaces_that_are_no_veths_are_named";
    const NO_WAY: &str =
        "what pods send by their own does not come past the node's network, and cannot be served";
    let lab = Lab::builder("nodekinds").pod("foo").start().unwrap();
    let node = lab.node();
    let mut missing = Vec::new();
    for (kind, line, reason) in [
        (
            "dummy",
            "link add kind-dummy type dummy",
            "dummy, which no pod is behind".to_owned(),
        ),
        (
            "ipvlan",
            "link add kind-ipvlan link veth-foo type ipvlan mode l3",
            format!("ipvlan: {NO_WAY}"),
        ),
        (
            "macvlan",
            "link add kind-macvlan link veth-foo type macvlan",
            format!("macvlan: {NO_WAY}"),
        ),
        (
            "ifb",
            "link add kind-ifb type ifb",
            "ifb, which no pod is behind".to_owned(),
        ),
        (
            "bridge",
            "link add kind-bridge type bridge",
            "bridges: the pods are behind their ports".to_owned(),
        ),
        (
            "tun",
            "tuntap add dev kind-tun mode tap",
            format!("tap or tun, as of virtual machines; {BY_NAME}"),
        ),
    ] {
        // A device that is there as a file only says which driver is not.
        let has_driver = kind != "tun" || Path::new("/dev/net/tun").exists();
        if !has_driver || !made(node, line) {
            missing.push(kind);
            continue;
        }
        is_left_alone(&lab, &format!("kind-{kind}"), &reason);
        node.ip(&format!("link del kind-{kind}\n")).unwrap();
    }
    println!("not here: {missing:?}");
    if !missing.is_empty() {
        skip(TEST, &format!("no {}", missing.join(", ")));
    }
}

/// A netkit pair in the place of a veth, gregor on its end on the node.
#[test]
fn netkit() {
    use rtnetlink::{LinkNetkit, packet_route::link::NetkitMode};

    let lab = Lab::new("nodenetkit").unwrap();
    let foo = lab.pod("foo");
    let made = lab.node().enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let pair = LinkNetkit::new("nk-foo", "nk-pod", NetkitMode::L2).build();
            handle.link().add(pair).execute().await
        })
    });
    if let Err(error) = made.unwrap() {
        let unknown = matches!(&error, rtnetlink::Error::NetlinkError(message)
            if message.raw_code() == -libc::EOPNOTSUPP);
        assert!(unknown, "{error}");
        return skip("netkit", "no netkit");
    }
    lab.node()
        .ip(&format!("link del {}\n", foo.host_interface))
        .unwrap();
    move_in(&lab, foo, "nk-foo", "nk-pod");
    is_left_alone(&lab, "nk-foo", &format!("netkit; {BY_NAME}"));
    let gregor = start(&lab, &with(&lab, "interfaces = [\"nk-foo\"]"));
    is_served(&lab, &gregor, foo, CACHE);
    is_served(&lab, &gregor, foo, CACHE_V6);
}

/// Gives a pod that has lost its veth another pair of interfaces, both of them in the node until now.
fn move_in(lab: &Lab, pod: &Pod, host: &str, other: &str) {
    let third = pod.v4.octets()[2];
    lab.node()
        .ip(&format!(
            "link set {other} netns {}
addr add 10.244.{third}.1/24 dev {host}
addr add fd00:244:{third:x}::1/64 dev {host} nodad
link set {host} up
",
            pod.netns().name()
        ))
        .unwrap();
    pod.netns()
        .ip(&format!(
            "link set {other} name eth0
addr add {}/24 dev eth0
addr add {}/64 dev eth0 nodad
link set eth0 up
route add default via 10.244.{third}.1
route add ::/0 via fd00:244:{third:x}::1
",
            pod.v4, pod.v6
        ))
        .unwrap();
}

/// The machine's network cards with this driver.
fn cards(driver: &str) -> Vec<String> {
    let mut cards: Vec<String> = fs::read_dir("/sys/class/net")
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            fs::read_link(entry.path().join("device/driver"))
                .is_ok_and(|link| link.file_name() == Some(driver.as_ref()))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    cards.sort();
    cards
}

/// Whether a card is unused: without addresses and down.
fn is_free(card: &str) -> bool {
    let up = fs::read_to_string(Path::new("/sys/class/net").join(card).join("operstate"));
    up.is_ok_and(|state| state.trim() == "down")
}

/// Queries that arrive from a wire, answered by the driver's XDP program. Two cards of the machine that are on one wire go
/// into the lab and come back when their namespaces end.
#[test]
fn xdp_on_virtio_net() {
    const TEST: &str = "xdp_on_virtio_net";
    let cards: Vec<String> = cards("virtio_net")
        .into_iter()
        .filter(|card| is_free(card))
        .collect();
    let [near, far] = cards.as_slice() else {
        return skip(TEST, "no two free virtio-net cards");
    };
    if let Some(lacks) = probe::lacks_for_xdp() {
        return skip(TEST, &lacks);
    }
    let lab = Lab::new("nodexdp").unwrap();
    let foo = lab.pod("foo");
    let node = lab.node();
    node.ip(&format!("link del {}\n", foo.host_interface))
        .unwrap();
    for (card, name) in [(near, "wire"), (far, "wire-pod")] {
        let moved = Command::new("ip")
            .args(["link", "set", card, "name", name, "netns", node.name()])
            .status()
            .unwrap();
        assert!(moved.success(), "{card}");
    }
    move_in(&lab, foo, "wire", "wire-pod");
    let gregor = start(
        &lab,
        &with(
            &lab,
            &format!(
                "hook = \"xdp\"\ninterfaces = [\"wire\"]\nallow_sources = [\"{}/32\", \"{}/128\"]",
                foo.v4, foo.v6
            ),
        ),
    );
    assert_eq!(
        gregor.status().unwrap()["interfaces"][0]["mode"],
        "native",
        "{}",
        gregor.log()
    );
    is_served(&lab, &gregor, foo, CACHE);
    is_served(&lab, &gregor, foo, CACHE_V6);
}

/// A client that got TC=1 gets the whole answer over TCP, from gregor.
fn steers(gregor: &Gregor, pod: &Pod, server: IpAddr) {
    let steered = |gregor: &Gregor| Metrics::of(gregor).get("gregor_tcp_connections_total");
    let before = steered(gregor);
    let cut = ask(pod, server, &qualified("foo"), RecordType::A);
    assert!(cut.metadata.truncation, "no TC=1: {cut}");
    let mut whole = Ask::new(server, &qualified("foo"), RecordType::A);
    whole.transport = Transport::Tcp;
    whole.timeout = patience(REPLY);
    let whole = pod.ask(whole).unwrap();
    assert_eq!(addresses(&whole), of_family(true), "{server}");
    assert_eq!(steered(gregor), before + 1.0);
}

fn lab_with_large_answers(prefix: &str) -> Lab {
    Lab::builder(prefix)
        .pod("foo")
        .pod("bar")
        .pod("baz")
        .world(large_world())
        .start()
        .unwrap()
}

#[test]
fn tcp_steering() {
    let lab = lab_with_large_answers("nodetcp");
    let gregor = start(&lab, &lab.gregor_config());
    for server in [CACHE, CACHE_V6] {
        steers(&gregor, lab.pod("foo"), server);
    }
    // A client that got no TC=1 speaks with the cache.
    let mut ask = Ask::new(CACHE, FOREIGN, RecordType::A);
    ask.transport = Transport::Tcp;
    ask.timeout = patience(REPLY);
    let reply = lab.pod("baz").ask(ask).unwrap();
    assert_eq!(addresses(&reply), [FOREIGN_ADDRESSES[0]]);
}

/// Each thread has the documented capabilities, and those that load programs `more`.
fn threads_are_as_documented(gregor: &Gregor, more: &str) {
    threads::are_as_documented(gregor.process().pid(), more).unwrap();
}

/// The capabilities in README are enough for everything, and each thread keeps what docs/security.md says.
#[test]
fn documented_capabilities() {
    let mut lab = lab_with_large_answers("nodecaps");
    let binary = tools::gregor().unwrap();
    let gregor = lab
        .start_gregor_with(&binary, &lab.gregor_config(), &DOCUMENTED_CAPABILITIES)
        .unwrap();
    threads_are_as_documented(&gregor, "");
    // It has no CAP_SETPCAP to clear that with.
    let status = fs::read_to_string(format!("/proc/{}/status", gregor.process().pid())).unwrap();
    let granted = DOCUMENTED_CAPABILITIES
        .iter()
        .fold(0u64, |set, capability| set | 1 << capability);
    assert!(
        status.contains(&format!("CapBnd:\t{granted:016x}")),
        "{status}"
    );
    let foo = lab.pod("foo");
    for server in [CACHE, CACHE_V6] {
        steers(&gregor, foo, server);
    }
    until_the_programs_answer(&gregor, "bar asks for A", |_| {
        let reply = ask(lab.pod("bar"), CACHE, &qualified("bar"), RecordType::A);
        let expected = BAR_ADDRESSES[..2].iter().copied();
        assert_eq!(addresses(&reply), sorted(expected));
    });
    has_no_target(&lab, lab.pod("baz"), CACHE);

    // A new interface, and one less.
    lab.add_pod("qux").unwrap();
    let is_attached = |gregor: &Gregor, name: &str| {
        let status = gregor.status().unwrap();
        let interfaces = status["interfaces"].as_array().unwrap().clone();
        let is_it = |interface: &serde_json::Value| {
            interface["name"] == name && interface["error"].is_null()
        };
        interfaces.iter().any(is_it)
    };
    let veth = lab.pod("qux").host_interface.clone();
    until("the new pod's interface", || {
        is_attached(&gregor, &veth).then_some(())
    });
    has_no_target(&lab, lab.pod("qux"), CACHE);
    lab.remove_pod("qux").unwrap();
    until("it is gone", || {
        (!is_attached(&gregor, &veth)).then_some(())
    });

    // Other rules, and another responder: its limits have changed.
    let more = format!(
        "{}{MORE}[upstream]\ntimeout = \"3s\"\n",
        lab.gregor_config()
    );
    gregor.write_config(&more).unwrap();
    until("the new rules", || {
        assert_eq!(e2e::loads(&gregor, "failure"), 0.0, "{}", gregor.log());
        (e2e::loads(&gregor, "success") >= 2.0).then_some(())
    });
    let overridden = ask(lab.pod("foo"), CACHE, OVERRIDDEN, RecordType::A);
    assert_eq!(addresses(&overridden), [FOREIGN_ADDRESSES[0]]);
    steers(&gregor, lab.pod("foo"), CACHE);
    let [device, _] = RETURN_DEVICES;
    lab.node().ip(&format!("link del {device}\n")).unwrap();
    until("the device is made anew", || {
        gregor.log().contains("it is restored").then_some(())
    });
    lab.add_pod("quux").unwrap();
    has_no_target(&lab, lab.pod("quux"), CACHE);
    assert!(Metrics::of(&gregor).requests() > 0.0);
    threads_are_as_documented(&gregor, "");
    assert!(!gregor.log().contains("EPERM"), "{}", gregor.log());
    assert!(!gregor.log().contains("not permitted"), "{}", gregor.log());

    gregor.signal(Signal::SIGTERM);
    let ended = until("gregor ends", || gregor.process().exited());
    assert_eq!(ended.code(), Some(0), "{}", gregor.log());
    assert!(is_the_caches(&ask(
        lab.pod("foo"),
        CACHE,
        &qualified("foo"),
        RecordType::A
    )));
    let left = lab.node().ip(&format!("link show {device}\n"));
    assert!(left.is_err(), "{device} is there still");
}

#[test]
fn as_root_threads_have_the_same_capabilities() {
    let lab = Lab::builder("nodecapsroot").pod("foo").start().unwrap();
    let gregor = start(&lab, &lab.gregor_config());
    is_served(&lab, &gregor, lab.pod("foo"), CACHE);
    threads_are_as_documented(&gregor, "CAP_DAC_READ_SEARCH");
    let status = fs::read_to_string(format!("/proc/{}/status", gregor.process().pid())).unwrap();
    assert!(status.contains("CapBnd:\t0000000000000000"), "{status}");
}

/// Runs gregor to its end, with these capabilities, and returns what it printed and whether it succeeded.
fn ran_with(lab: &Lab, capabilities: &[u8], arguments: &[&str]) -> (String, bool) {
    let mut command = Command::new(tools::gregor().unwrap());
    keep_capabilities(&mut command, capabilities);
    command
        .args(arguments)
        .env_remove("RUST_LOG")
        .env("TMPDIR", lab.directory());
    let output = lab.node().output(command).unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
    (text.concat(), output.status.success())
}

/// Without one of them, gregor refuses to start, with one line that names it, and `check` says so first. Nothing is left.
#[test]
fn each_capability_is_needed() {
    let lab = Lab::builder("nodewithout").pod("foo").start().unwrap();
    let config = lab.directory().join("without.toml");
    fs::write(&config, lab.gregor_config()).unwrap();
    let control = lab.directory().join("without.sock");
    let (config, control) = (config.to_str().unwrap(), control.to_str().unwrap());
    for missing in ["CAP_BPF", "CAP_PERFMON", "CAP_NET_ADMIN", "CAP_NET_RAW"] {
        let rest: Vec<u8> = DOCUMENTED_CAPABILITIES
            .into_iter()
            .filter(|capability| threads::set_of(missing).unwrap() != 1 << capability)
            .collect();
        assert_eq!(rest.len(), 3);
        let named = format!("missing {missing}");
        let (said, is_fine) = ran_with(&lab, &rest, &["check", "--config", config]);
        assert!(!is_fine, "{missing}: {said}");
        let line = said.lines().find(|line| line.contains(" capabilities "));
        assert!(line.is_some_and(|line| line.contains(&named)), "{said}");

        let arguments = ["run", "--config", config, "--control", control];
        let (said, is_fine) = ran_with(&lab, &rest, &arguments);
        assert!(!is_fine, "{missing}: {said}");
        println!("without {missing}: {said}");
        // A slow machine is told that the kernel takes its time.
        let lines = said.lines().filter(|line| !line.contains("is still"));
        assert_eq!(lines.count(), 1, "{missing}: {said}");
        assert!(said.contains(&named), "{missing}: {said}");
        assert!(said.contains("securityContext.capabilities"), "{said}");
        assert!(lab.node().ip("link show gregor0\n").is_err(), "{missing}");
        if detect_hook() == Hook::Tcx {
            assert_eq!(e2e::programs_on(&lab, "veth-foo"), [""; 0], "{missing}");
        }
    }
    // With all of them it starts.
    let gregor = lab.start_gregor_with(
        &tools::gregor().unwrap(),
        &lab.gregor_config(),
        &DOCUMENTED_CAPABILITIES,
    );
    gregor.unwrap().stop();
}

/// The capabilities are there, and something else forbids bpf(2): that is named, and nothing that is not in force.
#[test]
fn a_seccomp_filter_that_forbids_bpf_is_named() {
    let lab = Lab::builder("nodeseccomp").pod("foo").start().unwrap();
    let config = lab.directory().join("seccomp.toml");
    fs::write(&config, lab.gregor_config()).unwrap();
    let control = lab.directory().join("seccomp.sock");
    let (config, control) = (config.to_str().unwrap(), control.to_str().unwrap());
    let run = ["run", "--config", config, "--control", control];
    for arguments in [&["check", "--config", config][..], &run] {
        let mut command = Command::new(tools::gregor().unwrap());
        keep_capabilities(&mut command, &DOCUMENTED_CAPABILITIES);
        forbid_bpf(&mut command);
        command.args(arguments).env_remove("RUST_LOG");
        let output = lab.node().output(command).unwrap();
        let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap());
        let said = text.concat();
        assert_eq!(output.status.code(), Some(1), "{said}");
        let line = said.lines().find(|line| line.contains("cannot be created"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        assert!(
            line.contains("EPERM") && line.contains("; a seccomp filter forbids bpf(2)"),
            "{said}"
        );
        assert!(!line.contains("AppArmor"), "{said}");
    }
}

/// What a process without capabilities sends by the device for queries that pass reaches no interface: it has no mark, and cannot
/// have one.
#[test]
fn an_unprivileged_process_gets_nothing_into_a_pods_interface() {
    use std::{io, net::Ipv4Addr};

    const NOBODY: libc::c_long = 65_534;
    let lab = Lab::builder("nodenobody").pod("foo").start().unwrap();
    let gregor = start(&lab, &lab.gregor_config());
    is_served(&lab, &gregor, lab.pod("foo"), CACHE);
    let [device, peer] = RETURN_DEVICES;
    let frames = || {
        // By `ip`, which guests have.
        let mut command = Command::new("ip");
        command.args(["-json", "-statistics", "link", "show", "dev", peer]);
        let output = lab.node().output(command).unwrap();
        let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        said[0]["stats64"]["rx"]["packets"].as_u64().unwrap()
    };
    let before = frames();
    let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
    let marked = lab.node().enter(move || {
        // SAFETY: numbers only; the system call itself is about this thread alone, which ends here.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None).unwrap();
        socket.bind_device(Some(device.as_bytes())).unwrap();
        socket.set_broadcast(true).unwrap();
        let to = std::net::SocketAddr::from((Ipv4Addr::BROADCAST, 53));
        for _ in 0..10 {
            // The program drops it, of which the sender may hear.
            let _ = socket.send_to(&query, &to.into());
        }
        socket.set_mark(1).map_err(|error| error.raw_os_error())
    });
    assert_eq!(marked.unwrap(), Err(Some(libc::EPERM)));
    is_served(&lab, &gregor, lab.pod("foo"), CACHE);
    assert_eq!(frames(), before);
}

/// Before Linux 5.11 maps are charged to RLIMIT_MEMLOCK, which takes CAP_SYS_RESOURCE to raise; later it does not matter.
#[test]
fn memlock() {
    let lab = Lab::builder("nodememlock").pod("foo").start().unwrap();
    let charges = threads::kernel_version().unwrap() < (5, 11);
    let started = |capabilities: &[u8]| {
        let mut command = Command::new(tools::gregor().unwrap());
        limit_memlock(&mut command, 64 << 10);
        keep_capabilities(&mut command, capabilities);
        lab.start_gregor_as(command, &tools::gregor().unwrap(), &lab.gregor_config())
    };
    match started(&DOCUMENTED_CAPABILITIES) {
        Ok(gregor) => {
            assert!(!charges, "64 KiB cannot be enough");
            gregor.stop();
        }
        Err(error) => {
            let said = format!("{error:#}");
            assert!(charges, "{said}");
            assert!(said.contains("RLIMIT_MEMLOCK allows 64 KiB"), "{said}");
            assert!(said.contains("CAP_SYS_RESOURCE"), "{said}");
        }
    }
    let more = [&DOCUMENTED_CAPABILITIES[..], &[24]].concat();
    let gregor = started(&more).unwrap();
    // Only for that.
    threads_are_as_documented(&gregor, "");
    is_served(&lab, &gregor, lab.pod("foo"), CACHE);
}

/// tcx holds some 60 programs. Where others have taken all places, that interface is left to them, and said so; the rest is served, and
/// that one as soon as there is a place.
#[test]
fn a_hook_without_a_place() {
    const MANY: usize = 100;
    if !has_tcx("a_hook_without_a_place") {
        return;
    }
    let lab = Lab::new("nodefull").unwrap();
    let veth = lab.pod("bar").host_interface.clone();
    let attach = move || {
        let attached = (0..MANY).map(|_| Observer::attach(&veth, Place::Tcx));
        attached.map_while(Result::ok).collect::<Vec<Observer>>()
    };
    let others = lab.node().enter(attach).unwrap();
    assert!(others.len() < MANY, "there is no end of places");
    println!("{} programs", others.len());
    let gregor = lab
        .spawn_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let is_left = until("the interface is given up", || {
        let status = gregor.status().ok()?;
        let interfaces = status["interfaces"].as_array()?;
        let of = |name: &str| interfaces.iter().find(|one| one["name"] == name);
        let others_are_served = of("veth-foo")?["error"].is_null();
        let why = of("veth-bar")?["error"].as_str()?.to_owned();
        others_are_served.then_some(why)
    });
    println!("{is_left}");
    for part in ["have all the places", "on tcx; detach some", "ERANGE"] {
        assert!(is_left.contains(part), "{is_left}");
    }
    assert!(matches!(gregor.get("/readyz"), Ok((503, _))));
    is_served(&lab, &gregor, lab.pod("foo"), CACHE);
    drop(others);
    until("it is attached", || {
        matches!(gregor.get("/readyz"), Ok((200, _))).then_some(())
    });
    let reply = ask(lab.pod("bar"), CACHE, &qualified("bar"), RecordType::A);
    let expected = BAR_ADDRESSES[..2].iter().copied();
    assert_eq!(addresses(&reply), sorted(expected));
}

fn kill(gregor: &Gregor) {
    gregor.signal(Signal::SIGKILL);
    until("gregor ends", || gregor.process().exited());
}

/// Asks until the cache answers a matching name.
fn until_the_cache_answers(pod: &Pod) {
    until("the cache answers", || {
        let (query, _) = Wire::new(&qualified(&pod.namespace), RecordType::A).bytes();
        let reply = exchange_within(pod, CACHE, &query, patience(REPLY) / 10)?;
        is_the_caches(&Message::from_vec(&reply).unwrap()).then_some(())
    });
}

/// A rule whose answers last for minutes on any machine, and its name.
const LASTING: &str = "
[answer]
max_ttl = \"1h\"

[[rule]]
name  = \"override\"
match = \"db.internal.example\"
cname = \"www.example.com\"
ttl   = 3600
";

#[test]
fn killed_and_started_again_on_tcx() {
    if has_tcx("killed_and_started_again_on_tcx") {
        killed_and_started_again("nodekilltcx", "tcx");
    }
}

#[test]
fn killed_and_started_again_on_clsact() {
    killed_and_started_again("nodekillcls", "clsact");
}

/// The program stays, answers from its tables and passes the rest to the cache; the next gregor takes it over, and removes it
/// when it ends in order.
fn killed_and_started_again(lab: &str, hook: &str) {
    let lab = Lab::new(lab).unwrap();
    let (foo, bar) = (lab.pod("foo"), lab.pod("bar"));
    let config = with(&lab, &format!("hook = \"{hook}\"")) + LASTING;
    let gregor = start(&lab, &config);
    is_served(&lab, &gregor, foo, CACHE);
    let overridden = || addresses(&ask(foo, CACHE, OVERRIDDEN, RecordType::A));
    until_the_programs_answer(&gregor, OVERRIDDEN, |_| {
        assert_eq!(overridden(), [FOREIGN_ADDRESSES[0]]);
    });
    kill(&gregor);
    // The responder's deadline expires; bar has never asked, so its name is not cached.
    until_the_cache_answers(bar);
    lab.cache().forget();
    for _ in 0..3 {
        assert_eq!(overridden(), [FOREIGN_ADDRESSES[0]], "from its tables");
        let unknown = ask(bar, CACHE, &qualified("bar"), RecordType::A);
        assert!(is_the_caches(&unknown), "{unknown}");
    }
    let asked = lab.cache().asked();
    assert!(
        asked.iter().all(|asked| asked.client == IpAddr::V4(bar.v4)),
        "{asked:?}"
    );
    let gregor = start(&lab, &config);
    assert!(gregor.log().contains("took over from an earlier process"));
    // It has the answers of the first one, too.
    let taken = || Metrics::of(&gregor).taken();
    let before = taken();
    assert_eq!(overridden(), [FOREIGN_ADDRESSES[0]]);
    assert_eq!(taken(), before);
    is_served(&lab, &gregor, foo, CACHE);
    gregor.signal(Signal::SIGTERM);
    until("gregor ends", || gregor.process().exited());
    until_the_cache_answers(foo);
}

/// Removes the programs of a hung gregor, on either hook, and of a killed one.
#[test]
fn detach_all() {
    let hooks = if detect_hook() == Hook::Tcx {
        &["tcx", "clsact"][..]
    } else {
        &["clsact"]
    };
    for hook in hooks {
        let lab = Lab::new("nodedetach").unwrap();
        let foo = lab.pod("foo");
        let gregor = start(&lab, &with(&lab, &format!("hook = \"{hook}\"")));
        is_served(&lab, &gregor, foo, CACHE);
        gregor.signal(Signal::SIGSTOP);
        if let Some(other) = another_gregor(&gregor) {
            gregor.signal(Signal::SIGKILL);
            return skip(
                "detach_all",
                &format!("another gregor runs here, which it would detach: pid {other}"),
            );
        }
        for expected in ["", "nothing of gregor is attached\n"] {
            let output = gregor.command(&["detach", "--all"]).unwrap();
            assert!(output.status.success(), "{output:?}");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(expected.is_empty() || said == expected, "{said}");
        }
        for _ in 0..3 {
            let reply = ask(foo, CACHE, &qualified("foo"), RecordType::A);
            assert!(is_the_caches(&reply), "{hook}: {reply}");
        }
        kill(&gregor);
    }
}

/// `detach --all` reaches into every namespace of the machine.
fn another_gregor(own: &Gregor) -> Option<u32> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own.process().pid())
        .find(|pid| {
            let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            name.trim() == "gregor" && command.split('\0').nth(1) == Some("run")
        })
}
