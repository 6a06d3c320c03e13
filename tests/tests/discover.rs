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
