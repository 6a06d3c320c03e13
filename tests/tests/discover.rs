//! Real veths and namespaces: needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and iproute2.
//!
//! Everything happens in namespaces of its own, named after the process, that are deleted at the end.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::{process::Command, thread, time::Duration};

use gregor::{
    datapath::Interface,
    discover::{Event, Links, Selection, present},
};
use nix::sched::{CloneFlags, setns};

/// Two namespaces, a node and a pod, deleted when dropped, with everything in them.
struct Lab {
    node: String,
    pod: String,
}

impl Lab {
    fn new(name: &str) -> Self {
        let lab = Self {
            node: format!("gd{}{name}n", std::process::id()),
            pod: format!("gd{}{name}p", std::process::id()),
        };
        ip(&format!("netns add {}", lab.node));
        ip(&format!("netns add {}", lab.pod));
        lab
    }

    /// `ip` in the node's namespace; POD in the arguments is the pod's.
    fn node(&self, arguments: &str) {
        ip(&format!(
            "-n {} {}",
            self.node,
            arguments.replace("POD", &self.pod)
        ));
    }

    fn pod(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.pod));
    }

    /// Runs a future on a thread of its own inside the node's namespace.
    fn run<F: Future<Output = ()>>(&self, test: impl FnOnce() -> F + Send) {
        let path = format!("/run/netns/{}", self.node);
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    let namespace = std::fs::File::open(path).unwrap();
                    setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .unwrap()
                        .block_on(test());
                })
                .join()
                .unwrap();
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.pod, &self.node] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip")
        .args(arguments.split(' '))
        .status()
        .unwrap();
    assert!(status.success(), "ip {arguments}");
}

/// Waits until an event comes that is not about what is already known; a minute is "never".
async fn next(links: &mut Links) -> Vec<Event> {
    tokio::time::timeout(Duration::from_secs(60), links.next())
        .await
        .expect("no event within a minute")
}

fn name(event: &Event) -> &str {
    match event {
        Event::Appeared(Interface { name, .. }) | Event::Renamed(Interface { name, .. }) => name,
        Event::Vanished(_) => "",
    }
}

#[test]
fn pod_veths_appear_change_and_vanish() {
    let lab = Lab::new("a");
    lab.node("link add old type veth peer name eth0 netns POD");
    lab.node("link add here1 type veth peer name here2");
    lab.run(|| async {
        let mut links = Links::open(Selection::PodVeths).unwrap();

        let first = next(&mut links).await;
        assert_eq!(first.iter().map(name).collect::<Vec<_>>(), ["old"]);
        let Event::Appeared(old) = &first[0] else {
            panic!("{first:?}");
        };

        lab.node("link add new type veth peer name eth1 netns POD");
        let second = next(&mut links).await;
        assert_eq!(second.len(), 1);
        let Event::Appeared(new) = &second[0] else {
            panic!("{second:?}");
        };
        assert_eq!(new.name, "new");

        // A port joining and leaving a bridge is not the link vanishing; the rename after it is the next event.
        lab.node("link add bridge type bridge");
        lab.node("link set new master bridge");
        lab.node("link set new nomaster");
        lab.node("link set new name newer");
        let renamed = next(&mut links).await;
        assert_eq!(
            renamed,
            [Event::Renamed(Interface {
                index: new.index,
                name: "newer".to_owned()
            })]
        );

        // The pod is removed with its end, and so is the other end.
        lab.pod("link del eth1");
        assert_eq!(next(&mut links).await, [Event::Vanished(new.index)]);

        // The node's end moves to another namespace.
        lab.node("link set old netns POD");
        assert_eq!(next(&mut links).await, [Event::Vanished(old.index)]);

        // A pair made on the node becomes a pod's when one end moves.
        lab.node("link set here1 up");
        lab.node("link set here2 netns POD");
        lab.pod("link set here2 up");
        let moved = next(&mut links).await;
        assert_eq!(moved.iter().map(name).collect::<Vec<_>>(), ["here1"]);
        assert!(matches!(moved[0], Event::Appeared(_)), "{moved:?}");

        assert_eq!(
            present(&Selection::PodVeths)
                .await
                .unwrap()
                .into_iter()
                .map(|interface| interface.name)
                .collect::<Vec<_>>(),
            ["here1"]
        );
    });
}

#[test]
fn changes_in_lost_messages_are_found_by_a_dump() {
    let lab = Lab::new("b");
    lab.run(|| async {
        let mut links = Links::open(Selection::new(&["wanted*"]).unwrap()).unwrap();
        assert_eq!(next(&mut links).await, []);

        lab.node("link add noise type bridge");
        // More messages than the receive buffer holds, none of them read.
        let batch = "link set noise up\nlink set noise down\n".repeat(8_000);
        let path = std::env::temp_dir().join(format!("{}.batch", lab.node));
        std::fs::write(&path, batch).unwrap();
        lab.node(&format!("-batch {}", path.display()));
        std::fs::remove_file(&path).unwrap();
        lab.node("link add wanted type bridge");

        let found = next(&mut links).await;
        assert_eq!(found.iter().map(name).collect::<Vec<_>>(), ["wanted"]);
        assert!(links.overruns() > 0, "the receive buffer never overflowed");
    });
}

/// Makes a link of a kind that a kernel may not have; any other failure is the test's.
fn made(lab: &Lab, arguments: &str) -> bool {
    let output = Command::new("ip")
        .args(["-n", &lab.node])
        .args(arguments.split(' '))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    let unknown = [
        "Operation not supported",
        "Unknown device type",
        "No such device",
        "is not supported",
    ];
    assert!(
        output.status.success() || unknown.iter().any(|words| said.contains(words)),
        "{arguments}: {said}"
    );
    output.status.success()
}

async fn netkit_is_made() -> bool {
    use rtnetlink::{LinkNetkit, packet_route::link::NetkitMode};

    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    let pair = LinkNetkit::new("netkit0", "netkit1", NetkitMode::L2).build();
    match handle.link().add(pair).execute().await {
        Ok(()) => true,
        Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EOPNOTSUPP => {
            false
        }
        Err(error) => panic!("{error}"),
    }
}

/// Every kind of link that this kernel makes: which are taken, and what `gregor check` says of the others.
#[test]
fn each_kind_of_link_is_taken_or_left_alone_for_a_reason() {
    const UPLINK: &str = "the node's uplink: a default route leaves by it";
    const HERE: &str = "veths whose other end is in this network namespace too";
    const TAP: &str = "tap or tun, as of virtual machines; [intercept] interfaces names such";
    const BRIDGE: &str = "bridges: the pods are behind their ports";
    const CANNOT: &str = "does not come past the node's network, and cannot be served";
    let lab = Lab::new("k");
    // As in kind: the node's own end of a veth, with its address and its default route; the second by IPv6 alone.
    for (name, address, gateway) in [
        ("eth0", "172.18.0.2/16", "172.18.0.1"),
        ("eth1", "fd00:18::2/64", "fd00:18::1"),
    ] {
        lab.node(&format!(
            "link add {name} type veth peer name {name} netns POD"
        ));
        lab.node(&format!("addr add {address} dev {name} nodad"));
        lab.node(&format!("link set {name} up"));
        lab.pod(&format!("link set {name} up"));
        lab.node(&format!("route add default via {gateway} dev {name}"));
    }
    lab.node("link add pod1 type veth peer name pod1 netns POD");
    // The point-to-point plug-in gives the node's end an address: the gateway of the pod.
    lab.node("link add pod2 type veth peer name pod2 netns POD");
    lab.node("addr add 10.244.0.1/32 dev pod2");
    lab.node("link add here1 type veth peer name here2");
    lab.node("link add cni0 type bridge");
    // A port of a bridge is a pod's as well.
    lab.node("link add pod3 type veth peer name pod3 netns POD");
    lab.node("link set pod3 master cni0");
    let mut expected = vec![
        ("eth0", Some(UPLINK)),
        ("eth1", Some(UPLINK)),
        ("pod1", None),
        ("pod2", None),
        ("pod3", None),
        ("here1", Some(HERE)),
        ("here2", Some(HERE)),
        ("cni0", Some(BRIDGE)),
    ];
    let mut lacking = Vec::new();
    for (name, command, reason) in [
        ("tap0", "tuntap add tap0 mode tap", TAP),
        (
            "mac0",
            "link add mac0 link cni0 type macvlan mode bridge",
            CANNOT,
        ),
        (
            "ipv0",
            "link add ipv0 link cni0 type ipvlan mode l2",
            CANNOT,
        ),
        (
            "vx0",
            "link add vx0 type vxlan id 7 dstport 4789",
            "vxlan, which no pod is behind",
        ),
        (
            "dum0",
            "link add dum0 type dummy",
            "dummy, which no pod is behind",
        ),
    ] {
        if made(&lab, command) {
            expected.push((name, Some(reason)));
        } else {
            lacking.push(name);
        }
    }
    let has_netkit = std::sync::atomic::AtomicBool::new(false);
    lab.run(|| async {
        let made = netkit_is_made().await;
        has_netkit.store(made, std::sync::atomic::Ordering::Relaxed);
    });
    if has_netkit.into_inner() {
        let reason = "netkit; [intercept] interfaces names such";
        expected.extend([("netkit0", Some(reason)), ("netkit1", Some(reason))]);
    } else {
        lacking.push("netkit0");
    }
    println!("this kernel does not make {lacking:?}");

    let taken: Vec<&str> = expected
        .iter()
        .filter(|(_, reason)| reason.is_none())
        .map(|(name, _)| *name)
        .collect();
    lab.run(|| async {
        let mut links = Links::open(Selection::PodVeths).unwrap();
        let first = next(&mut links).await;
        let mut names: Vec<&str> = first.iter().map(name).collect();
        names.sort_unstable();
        assert_eq!(names, taken);
    });
    // bpffs may be missing in there: what counts is what it says of interfaces.
    let said = Command::new("ip")
        .args(["netns", "exec", &lab.node])
        .arg(gregor_tests::tools::gregor().unwrap())
        .args(["check", "--json"])
        .output()
        .unwrap();
    let report: serde_json::Value = serde_json::from_slice(&said.stdout).unwrap();
    let findings: Vec<(&str, &str)> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["what"].as_str().unwrap(),
                one["detail"].as_str().unwrap(),
            )
        })
        .collect();
    for (name, reason) in expected {
        let is_interface = findings
            .iter()
            .any(|(what, _)| *what == format!("interface {name}"));
        assert_eq!(is_interface, reason.is_none(), "{name}: {findings:#?}");
        let left: Vec<&str> = findings
            .iter()
            .filter(|(what, _)| *what == "left alone")
            .filter_map(|(_, detail)| detail.split_once(": "))
            .filter(|(names, _)| names.split(", ").any(|listed| listed == name))
            .map(|(_, reason)| reason)
            .collect();
        match reason {
            None => assert!(left.is_empty(), "{name}: {left:?}"),
            Some(reason) => assert!(
                left.len() == 1 && left[0].contains(reason),
                "{name}: {left:?} in {findings:#?}"
            ),
        }
    }
}

/// A default route that comes or goes makes a veth the node's uplink, or a pod's.
#[test]
fn a_default_route_makes_an_uplink() {
    let lab = Lab::new("u");
    lab.node("link add eth0 type veth peer name eth0 netns POD");
    lab.node("addr add 172.18.0.2/16 dev eth0");
    lab.node("link set eth0 up");
    lab.pod("link set eth0 up");
    lab.run(|| async {
        let mut links = Links::open(Selection::PodVeths).unwrap();
        let first = next(&mut links).await;
        assert_eq!(first.iter().map(name).collect::<Vec<_>>(), ["eth0"]);
        let Event::Appeared(eth0) = &first[0] else {
            panic!("{first:?}");
        };
        lab.node("route add default via 172.18.0.1");
        assert_eq!(next(&mut links).await, [Event::Vanished(eth0.index)]);
        lab.node("route del default");
        assert_eq!(next(&mut links).await, [Event::Appeared(eth0.clone())]);
    });
}
