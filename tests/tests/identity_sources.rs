//! Who is behind a veth, in real network namespaces: results as libcni writes them, also of the real plugins, a static file, pods
//! that take addresses of others, and churn. Needs root (CAP_NET_ADMIN, CAP_SYS_ADMIN) and iproute2.
//!
//! `GREGOR_IDENTITY_CHURN` is how many veths come and go.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Condvar, Mutex, OnceLock},
    thread,
    time::{Duration, Instant},
};

use gregor::{
    config,
    discover::{Links, Selection},
    identity::{Board, Identities, Input, Pod, PodKey, PodReport, Sink},
    model::{Identity, IdentitySource, Who, WhyNot},
};
use gregor_lab::patience;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};

/// Where Debian's package of the plugins has them.
const PLUGINS: &str = "/usr/lib/cni";

/// What was published, in its order.
#[derive(Clone, Debug)]
enum Published {
    Who(u32, Who),
    Gone(u32),
}

#[derive(Default)]
struct Journal {
    entries: Mutex<Vec<Published>>,
    news: Condvar,
    /// What the sources are like, for a panic.
    board: OnceLock<Arc<Board>>,
}

impl Journal {
    fn add(&self, entry: Published) {
        self.entries.lock().unwrap().push(entry);
        self.news.notify_all();
    }

    fn latest(&self, index: u32) -> Option<Who> {
        let entries = self.entries.lock().unwrap();
        latest(&entries, index)
    }

    /// Waits until what is known of an interface is as wanted.
    fn until(&self, index: u32, what: &str, wanted: impl Fn(&Who) -> bool) -> Who {
        let end = Instant::now() + patience(Duration::from_secs(10));
        let mut entries = self.entries.lock().unwrap();
        loop {
            let last = latest(&entries, index);
            if let Some(who) = last.as_ref().filter(|who| wanted(who)) {
                return who.clone();
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{what}: {last:?}, {:#?}",
                self.board.get().map(|board| board.status())
            );
            entries = self.news.wait_timeout(entries, left).unwrap().0;
        }
    }

    fn is(&self, index: u32, pod: &str) -> Arc<Identity> {
        let is = |who: &Who| who.as_ref().is_ok_and(|one| one.pod == pod);
        self.until(index, pod, is).unwrap()
    }

    fn is_not(&self, index: u32, why: WhyNot) {
        self.until(index, why.label(), |who| *who == Err(why))
            .unwrap_err();
    }
}

fn latest(entries: &[Published], index: u32) -> Option<Who> {
    let last = entries.iter().rev().find_map(|entry| match entry {
        Published::Who(one, who) if *one == index => Some(Some(who.clone())),
        Published::Gone(one) if *one == index => Some(None),
        _ => None,
    });
    last.flatten()
}

impl Sink for Journal {
    fn publish(&self, index: u32, who: Who) {
        self.add(Published::Who(index, who));
    }

    fn gone(&self, index: u32) {
        self.add(Published::Gone(index));
    }
}

/// A node, its pods, and the sources; removed when dropped.
struct Lab {
    name: String,
    folder: PathBuf,
    pods: Mutex<Vec<String>>,
}

impl Lab {
    fn new(name: &str) -> Lab {
        let name = format!("gi{}{name}", std::process::id());
        let folder = std::env::temp_dir().join(&name);
        fs::DirBuilder::new().mode(0o700).create(&folder).unwrap();
        ip(&format!("netns add {name}"));
        Lab {
            name,
            folder,
            pods: Mutex::default(),
        }
    }

    /// The network namespace of a pod.
    fn pod(&self, name: &str) -> String {
        let pod = format!("{}{name}", self.name);
        let mut pods = self.pods.lock().unwrap();
        if !pods.contains(&pod) {
            ip(&format!("netns add {pod}"));
            pods.push(pod.clone());
        }
        pod
    }

    fn delete_pod(&self, name: &str) {
        let pod = format!("{}{name}", self.name);
        ip(&format!("netns del {pod}"));
        self.pods.lock().unwrap().retain(|other| *other != pod);
    }

    /// A veth to a pod with these addresses; its index.
    fn veth(&self, name: &str, pod: &str, addresses: &[&str]) -> u32 {
        let netns = self.pod(pod);
        self.node(&format!(
            "link add {name} type veth peer name eth0 netns {netns}"
        ));
        for address in addresses {
            ip(&format!("-n {netns} address add {address} dev eth0"));
        }
        self.index(name)
    }

    fn node(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    fn in_pod(&self, pod: &str, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.pod(pod)));
    }

    fn link(&self, netns: &str, name: &str) -> Value {
        let output = Command::new("ip")
            .args(["-j", "-n", netns, "link", "show", "dev", name])
            .output()
            .unwrap();
        let links: Value = serde_json::from_slice(&output.stdout).unwrap();
        links[0].clone()
    }

    fn index(&self, name: &str) -> u32 {
        self.link(&self.name, name)["ifindex"].as_u64().unwrap() as u32
    }

    fn results(&self) -> PathBuf {
        self.folder.join("cni/results")
    }

    fn result_file(&self, container: &str) -> PathBuf {
        self.results().join(format!("net-{container}-eth0"))
    }

    /// Writes a result as libcni does: in place, into a folder that it makes.
    fn keep_result(&self, container: &str, pod: &str, result: &Value) {
        let cached = json!({
            "kind": "cniCacheV1", "containerId": container, "config": "e30=", "ifName": "eth0",
            "networkName": "net", "netns": format!("/run/netns/{}", self.pod(pod)),
            "cniArgs": [
                ["IgnoreUnknown", "1"], ["K8S_POD_NAMESPACE", "tenant"], ["K8S_POD_NAME", pod],
                ["K8S_POD_INFRA_CONTAINER_ID", container], ["K8S_POD_UID", format!("uid-{pod}")],
            ],
            "result": result,
        });
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.results())
            .unwrap();
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(self.result_file(container))
            .unwrap();
        file.write_all(cached.to_string().as_bytes()).unwrap();
    }

    /// The same for a veth of the lab, as the ptp plugin has it.
    fn result(&self, veth: &str, pod: &str, addresses: &[&str]) {
        let netns = self.pod(pod);
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": veth, "mac": self.link(&self.name, veth)["address"] },
                {
                    "name": "eth0", "mac": self.link(&netns, "eth0")["address"],
                    "sandbox": format!("/run/netns/{netns}"),
                },
            ],
            "ips": addresses
                .iter()
                .map(|address| json!({ "interface": 1, "address": address }))
                .collect::<Vec<_>>(),
        });
        self.keep_result(pod, pod, &result);
    }

    fn pods_file(&self) -> PathBuf {
        self.folder.join("pods.toml")
    }

    /// Runs a test while the sources are followed in the node's namespace.
    fn follow(&self, sources: &[IdentitySource], test: impl FnOnce(&Journal, &Identities) + Send) {
        let path = format!("/run/netns/{}", self.name);
        let config = config::Identity {
            sources: sources.to_vec(),
            cni_results: self.results(),
            file: Some(self.pods_file()),
        };
        thread::scope(|scope| {
            let in_node = scope.spawn(|| {
                setns(fs::File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap();
                let guard = runtime.enter();
                let journal = Arc::new(Journal::default());
                let sink = Arc::clone(&journal) as Arc<dyn Sink>;
                let mut identities = Identities::start(vec![sink]).unwrap();
                let _ = journal.board.set(Arc::clone(identities.board()));
                identities.tell(Input::Configure(config));
                let mut links = Links::open(Selection::PodVeths).unwrap();
                let inputs = identities.inputs();
                let told = runtime.spawn(async move {
                    loop {
                        let _ = inputs.send(Input::Links(links.next().await));
                    }
                });
                test(&journal, &identities);
                told.abort();
                identities.stop();
                drop(guard);
            });
            if let Err(panic) = in_node.join() {
                std::panic::resume_unwind(panic);
            }
        });
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let pods = self.pods.lock().unwrap();
        for netns in pods.iter().chain([&self.name]) {
            let _ = Command::new("ip").args(["netns", "del", netns]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn ip(arguments: &str) {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

const CNI: &[IdentitySource] = &[IdentitySource::Cni];

#[test]
fn a_result_identifies_its_veth_before_and_after_the_folder_is_there() {
    let lab = Lab::new("a");
    lab.follow(CNI, |journal, _| {
        let one = lab.veth("veth1", "a", &["10.1.0.1/24", "fd00::1/64"]);
        journal.is_not(one, WhyNot::Unknown);
        // The first one makes the folder.
        lab.result("veth1", "a", &["10.1.0.1/24", "fd00::1/64"]);
        let identity = journal.is(one, "a");
        let addresses: [IpAddr; 2] = ["10.1.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(identity.addresses, addresses);
        assert_eq!((&*identity.namespace, &*identity.uid), ("tenant", "uid-a"));

        let two = lab.veth("veth2", "b", &["10.1.0.2/24"]);
        lab.result("veth2", "b", &["10.1.0.2/24"]);
        journal.is(two, "b");
        fs::remove_file(lab.result_file("b")).unwrap();
        journal.is_not(two, WhyNot::Unknown);
        lab.result("veth2", "b", &["10.1.0.2/24"]);
        journal.is(two, "b");
        // All of it goes, and comes again.
        fs::remove_dir_all(lab.folder.join("cni")).unwrap();
        journal.is_not(one, WhyNot::Unknown);
        journal.is_not(two, WhyNot::Unknown);
        lab.result("veth1", "a", &["10.1.0.1/24"]);
        journal.is(one, "a");
    });
    // After a restart, with what is there.
    lab.follow(CNI, |journal, _| {
        journal.is(lab.index("veth1"), "a");
    });
}

#[test]
fn files_that_are_no_results_or_not_roots_identify_nobody() {
    let lab = Lab::new("f");
    lab.follow(CNI, |journal, identities| {
        let one = lab.veth("veth1", "a", &["10.1.0.1/24"]);
        lab.result("veth1", "a", &["10.1.0.1/24"]);
        journal.is(one, "a");
        let file = lab.result_file("a");
        let good = fs::read(&file).unwrap();
        std::os::unix::fs::chown(&file, Some(65534), None).unwrap();
        journal.is_not(one, WhyNot::Unknown);
        std::os::unix::fs::chown(&file, Some(0), None).unwrap();
        journal.is(one, "a");
        for bad in [&b"{"[..], b"", b"null", &good[..good.len() / 2]] {
            fs::write(&file, bad).unwrap();
            journal.is_not(one, WhyNot::Unknown);
            fs::write(&file, &good).unwrap();
            journal.is(one, "a");
        }
        // A link to a good one.
        let aside = lab.folder.join("aside");
        fs::rename(&file, &aside).unwrap();
        std::os::unix::fs::symlink(&aside, &file).unwrap();
        journal.is_not(one, WhyNot::Unknown);
        let end = Instant::now() + patience(Duration::from_secs(10));
        while identities.board().status().sources[0].ignored.is_empty() {
            assert!(Instant::now() < end, "{:?}", identities.board().status());
            thread::sleep(Duration::from_millis(10));
        }
        let ignored = &identities.board().status().sources[0].ignored;
        assert_eq!(ignored["no regular file"], 1);
        fs::remove_file(&file).unwrap();
        fs::rename(&aside, &file).unwrap();
        journal.is(one, "a");
    });
}

#[test]
fn a_stale_result_identifies_nobody() {
    let lab = Lab::new("s");
    lab.follow(CNI, |journal, _| {
        let one = lab.veth("veth1", "a", &["10.1.0.1/24"]);
        lab.result("veth1", "a", &["10.1.0.1/24"]);
        journal.is(one, "a");
        lab.node("link del veth1");
        // Of the same name and address, of another pod, and the file is still there.
        let other = lab.veth("veth1", "b", &["10.1.0.1/24"]);
        journal.is_not(other, WhyNot::Disagrees);
        // The right one beside it.
        lab.result("veth1", "b", &["10.1.0.1/24"]);
        journal.is(other, "b");
    });
}

#[test]
fn a_pod_that_takes_an_address_loses_its_own_identity_alone() {
    let lab = Lab::new("v");
    lab.follow(CNI, |journal, _| {
        let (bad, good) = (
            lab.veth("veth1", "bad", &["10.1.0.1/24"]),
            lab.veth("veth2", "good", &["10.1.0.2/24"]),
        );
        lab.result("veth1", "bad", &["10.1.0.1/24"]);
        lab.result("veth2", "good", &["10.1.0.2/24"]);
        journal.is(bad, "bad");
        journal.is(good, "good");
        for device in ["eth0", "lo"] {
            lab.in_pod("bad", &format!("address add 10.1.0.2/32 dev {device}"));
            journal.is_not(bad, WhyNot::ForeignAddress);
            assert_eq!(journal.latest(good).unwrap().unwrap().pod, "good");
            lab.in_pod("bad", &format!("address del 10.1.0.2/32 dev {device}"));
            journal.is(bad, "bad");
        }
        // Another MAC address is no proof of anything, and neither is another name.
        lab.in_pod("bad", "link set eth0 address 02:00:00:00:00:99");
        journal.is_not(bad, WhyNot::Disagrees);
        let netns = lab.pod("bad");
        let mac = fs::read_to_string(lab.result_file("bad")).unwrap();
        let mac: Value = serde_json::from_str(&mac).unwrap();
        let mac = mac["result"]["interfaces"][1]["mac"].as_str().unwrap();
        ip(&format!("-n {netns} link set eth0 address {mac}"));
        journal.is(bad, "bad");
        lab.in_pod("bad", "link set eth0 down");
        lab.in_pod("bad", "link set eth0 name other");
        // It moves its end away: to a namespace of its own, and to the other pod's.
        lab.in_pod(
            "bad",
            &format!("link set other netns {}", lab.pod("nested")),
        );
        let _ = journal.until(bad, "moved", |who| {
            who.as_ref().map_or(true, |one| one.pod == "bad")
        });
        lab.in_pod(
            "nested",
            &format!("link set other netns {}", lab.pod("good")),
        );
        journal.is_not(bad, WhyNot::ForeignAddress);
        assert_eq!(journal.latest(good).unwrap().unwrap().pod, "good");
        let entries = journal.entries.lock().unwrap();
        for entry in entries.iter() {
            if let Published::Who(index, Ok(who)) = entry {
                assert_eq!(who.pod, if *index == bad { "bad" } else { "good" });
            }
        }
    });
}

#[test]
fn the_api_alone_goes_by_the_addresses_that_a_veth_came_with() {
    let lab = Lab::new("k");
    lab.follow(&[IdentitySource::Kubernetes], |journal, identities| {
        let pod = |name: &str, address: &str| Pod {
            key: PodKey {
                namespace: "tenant".to_owned(),
                pod: name.to_owned(),
                uid: name.to_owned(),
            },
            labels: BTreeMap::from([("is".to_owned(), name.to_owned())]),
            addresses: vec![address.parse().unwrap()],
            host_network: false,
            is_finished: false,
            is_deleted: false,
        };
        let report = |report| identities.tell(Input::Pods(report));
        let (bad, good) = (
            lab.veth("veth1", "bad", &["10.1.0.1/24"]),
            lab.veth("veth2", "good", &["10.1.0.2/24"]),
        );
        journal.is_not(bad, WhyNot::Unlisted);
        journal.is_not(good, WhyNot::Unlisted);
        report(PodReport::Listed(vec![
            pod("bad", "10.1.0.1"),
            pod("good", "10.1.0.2"),
        ]));
        journal.is(bad, "bad");
        assert_eq!(
            journal.is(good, "good").labels.as_ref().unwrap()["is"],
            "good"
        );
        // A label is changed.
        let mut changed = pod("good", "10.1.0.2");
        changed.labels.insert("is".to_owned(), "better".to_owned());
        report(PodReport::Applied(changed));
        let is_better = |who: &Who| {
            who.as_ref()
                .is_ok_and(|one| one.labels.as_ref().unwrap()["is"] == "better")
        };
        journal.until(good, "the label", is_better).unwrap();
        // The victim's address in the place of its own; then the victim ends, and the API does not know that yet.
        lab.in_pod("bad", "address add 10.1.0.2/24 dev eth0");
        journal.is_not(bad, WhyNot::ForeignAddress);
        lab.in_pod("bad", "address del 10.1.0.1/24 dev eth0");
        lab.node("link del veth2");
        thread::sleep(Duration::from_millis(1500));
        assert!(journal.latest(bad).unwrap().is_err());
        report(PodReport::Deleted(pod("good", "10.1.0.2").key));
        // The address is used again.
        let next = lab.veth("veth3", "next", &["10.1.0.2/24"]);
        journal.is_not(next, WhyNot::Unknown);
        report(PodReport::Applied(pod("next", "10.1.0.2")));
        journal.is(next, "next");
        // It has finished, and its veth stays for a while.
        let mut finished = pod("next", "10.1.0.2");
        finished.is_finished = true;
        report(PodReport::Applied(finished));
        journal.is_not(next, WhyNot::Finished);
    });
}

#[test]
fn a_static_file_is_read_again_when_it_changes() {
    let lab = Lab::new("t");
    let write = |text: &str| fs::write(lab.pods_file(), text).unwrap();
    write("[[pod]]\nnamespace = \"foo\"\npod = \"a\"\ninterface = \"veth1\"\n");
    lab.follow(&[IdentitySource::File], |journal, identities| {
        let one = lab.veth("veth1", "a", &["10.1.0.1/24"]);
        let two = lab.veth("veth2", "b", &["10.1.0.2/24"]);
        let identity = journal.is(one, "a");
        assert_eq!(identity.addresses, ["10.1.0.1".parse::<IpAddr>().unwrap()]);
        journal.is_not(two, WhyNot::Unknown);
        write(
            "[[pod]]\nnamespace = \"foo\"\npod = \"c\"\ninterface = \"veth1\"\nlabels = { a = \"b\" }\n\
             [[pod]]\nnamespace = \"bar\"\npod = \"b\"\naddresses = [\"10.1.0.2\"]\n",
        );
        assert_eq!(journal.is(one, "c").labels.as_ref().unwrap()["a"], "b");
        journal.is(two, "b");
        // What it said last stays in force.
        write("[[pod]]\nnamespace = 1\n");
        let end = Instant::now() + patience(Duration::from_secs(10));
        while identities.board().status().sources[0].error.is_none() {
            assert!(Instant::now() < end);
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(journal.latest(two).unwrap().unwrap().pod, "b");
        write("");
        journal.is_not(one, WhyNot::Unknown);
    });
}

/// Has a real plugin set up a pod, and keeps its result as libcni does.
fn add(lab: &Lab, plugin: &str, pod: &str) -> Value {
    let configuration = json!({
        "cniVersion": "1.0.0", "name": "net", "type": plugin, "bridge": "br0", "isGateway": true,
        "ipam": {
            "type": "host-local", "subnet": "10.2.0.0/24",
            "dataDir": lab.folder.join("ipam"),
        },
    });
    let netns = lab.pod(pod);
    let mut child = Command::new("ip")
        .args(["netns", "exec", &lab.name, &format!("{PLUGINS}/{plugin}")])
        .env("CNI_COMMAND", "ADD")
        .env("CNI_CONTAINERID", pod)
        .env("CNI_NETNS", format!("/run/netns/{netns}"))
        .env("CNI_IFNAME", "eth0")
        .env("CNI_PATH", PLUGINS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input
        .write_all(configuration.to_string().as_bytes())
        .unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{plugin}: {text}");
    let result: Value = serde_json::from_str(&text).unwrap();
    lab.keep_result(pod, pod, &result);
    result
}

#[test]
fn results_of_real_plugins() {
    for plugin in ["bridge", "ptp"] {
        if !Path::new(PLUGINS).join(plugin).exists() {
            gregor_lab::skip(
                "results_of_real_plugins",
                &format!("{PLUGINS}/{plugin} is not there"),
            );
            return;
        }
        let lab = Lab::new(&plugin[..1]);
        lab.follow(CNI, |journal, _| {
            let mut known = BTreeMap::new();
            for pod in ["x", "y", "z"] {
                let result = add(&lab, plugin, pod);
                let interfaces = result["interfaces"].as_array().unwrap();
                let host = interfaces
                    .iter()
                    .filter(|one| one.get("sandbox").is_none_or(|path| path == ""))
                    .map(|one| one["name"].as_str().unwrap())
                    .find(|name| *name != "br0")
                    .unwrap();
                let identity = journal.is(lab.index(host), pod);
                let address = result["ips"][0]["address"].as_str().unwrap();
                let address = address.split('/').next().unwrap();
                assert_eq!(identity.addresses, [address.parse::<IpAddr>().unwrap()]);
                known.insert(pod, (lab.index(host), address.to_owned()));
            }
            // One takes the address of another.
            let (bad, good) = (known["x"].0, known["y"].0);
            lab.in_pod("x", &format!("address add {}/32 dev lo", known["y"].1));
            journal.is_not(bad, WhyNot::ForeignAddress);
            assert_eq!(journal.latest(good).unwrap().unwrap().pod, "y");
        });
    }
}

/// Veths of three indexes, names and addresses come and go; half of their results stay behind.
#[test]
fn nobody_inherits_an_index_a_name_or_an_address() {
    let count: usize =
        std::env::var("GREGOR_IDENTITY_CHURN").map_or(60, |text| text.parse().unwrap());
    let lab = Lab::new("c");
    let first = 1000;
    lab.follow(CNI, |journal, _| {
        // Pods by the index that they had, in their order.
        let mut had: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for number in 0..count {
            let slot = number % 3;
            let (index, name) = (first + slot as u32, format!("veth{slot}"));
            let pod = format!("p{number}");
            let address = format!("10.1.0.{}/24", 1 + number * 7 % 5);
            if number >= 3 {
                let before = format!("p{}", number - 3);
                lab.node(&format!("link del {name}"));
                if number % 2 == 0 {
                    fs::remove_file(lab.result_file(&before)).unwrap();
                }
                lab.delete_pod(&before);
            }
            let netns = lab.pod(&pod);
            had.entry(index).or_default().push(pod.clone());
            lab.node(&format!(
                "link add {name} index {index} type veth peer name eth0 netns {netns}"
            ));
            ip(&format!("-n {netns} address add {address} dev eth0"));
            // Every other is over before anybody has said who it is.
            if number % 4 != 3 {
                lab.result(&name, &pod, &[&address]);
            } else {
                lab.keep_result(&pod, &pod, &json!({}));
            }
            if number % 4 == 1 {
                let known = journal.until(index, &pod, |who| {
                    who.as_ref().is_ok_and(|one| one.pod == pod) || *who == Err(WhyNot::Ambiguous)
                });
                // Two have the address at a time.
                assert!(known.is_ok() || number >= 2, "{known:?}");
            }
        }
        let entries = journal.entries.lock().unwrap();
        let mut gone: BTreeMap<u32, usize> = BTreeMap::new();
        let mut known = 0;
        for entry in entries.iter() {
            match entry {
                Published::Gone(index) => *gone.entry(*index).or_default() += 1,
                Published::Who(index, Ok(who)) => {
                    let before = gone.get(index).copied().unwrap_or_default();
                    // The one before it is gone, as far as was told: nothing is said of that any more.
                    let may_be = &had[index][before..];
                    assert!(
                        may_be.contains(&who.pod),
                        "{index} is {who:?} after {before}"
                    );
                    known += 1;
                }
                Published::Who(..) => {}
            }
        }
        assert!(known > count / 8, "{known} of {count}");
    });
}
