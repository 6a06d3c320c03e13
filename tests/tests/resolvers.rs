//! What the tenants' own resolvers find: the unqualified broker name leads to the endpoint of the pod's namespace, whichever
//! library asks, whichever cache the node has, over IPv4 and IPv6; and the answer is gregor's.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::IpAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

use e2e::pods::{Pods, UNMODIFIED, UNMODIFIED_RULE, known, with_public_names, without_dns_config};
use e2e::{Metrics, PATIENCE, clients, qualified, sorted, until, until_the_programs_answer};
use gregor_tests::{
    lab::{
        CacheKind, ClusterKind, Gregor, Lab, Pod,
        world::{
            BAR_ADDRESSES, BAR_ENDPOINT, BROKER, CLUSTER_DNS_V4, CLUSTER_DNS_V6, ExternalName,
            FOO_ADDRESSES, FOO_ENDPOINT, NODE_LOCAL_V4, NODE_LOCAL_V6, PUBLIC_ADDRESS, World,
        },
    },
    tools,
};

/// Tenants by the nameserver of their pods; each has its own Service, half of them foo's endpoint, half bar's.
const TENANTS: [(&str, IpAddr, &str); 8] = [
    ("foo", IpAddr::V4(NODE_LOCAL_V4), FOO_ENDPOINT),
    ("bar", IpAddr::V4(NODE_LOCAL_V4), BAR_ENDPOINT),
    ("foo6", IpAddr::V6(NODE_LOCAL_V6), FOO_ENDPOINT),
    ("bar6", IpAddr::V6(NODE_LOCAL_V6), BAR_ENDPOINT),
    ("foo-direct", IpAddr::V4(CLUSTER_DNS_V4), FOO_ENDPOINT),
    ("bar-direct", IpAddr::V4(CLUSTER_DNS_V4), BAR_ENDPOINT),
    ("foo-direct6", IpAddr::V6(CLUSTER_DNS_V6), FOO_ENDPOINT),
    ("bar-direct6", IpAddr::V6(CLUSTER_DNS_V6), BAR_ENDPOINT),
];

fn world() -> World {
    World {
        external_names: TENANTS
            .iter()
            .map(|(namespace, _, target)| ExternalName {
                service: "kafka-upstream".to_owned(),
                namespace: (*namespace).to_owned(),
                target: (*target).to_owned(),
            })
            .collect(),
        namespaces: TENANTS.map(|(namespace, ..)| namespace.to_owned()).to_vec(),
        ..World::default()
    }
}

fn lab_with_tenants(prefix: &str, cache: CacheKind, cluster: ClusterKind) -> Lab {
    let mut lab = Lab::builder(prefix)
        .cache(cache)
        .cluster(cluster)
        .world(world())
        .start()
        .unwrap();
    for (namespace, server, _) in TENANTS {
        lab.add_pod_asking(namespace, &[server]).unwrap();
    }
    lab
}

fn addresses_of(endpoint: &str) -> [IpAddr; 3] {
    match endpoint {
        FOO_ENDPOINT => FOO_ADDRESSES,
        _ => BAR_ADDRESSES,
    }
}

/// Whether a pod's stack computes the checksums or leaves them to the interface: a veth does not compute them, and queries then
/// have partial ones.
fn offload_checksums(pod: &Pod, state: &str) {
    let ethtool = |arguments: &[&str]| {
        let mut command = Command::new(tools::ethtool().unwrap());
        command.args(arguments);
        let output = pod.output(command).unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    ethtool(&["-K", "eth0", "tx", state]);
    let now = ethtool(&["-k", "eth0"]);
    let set = format!("tx-checksumming: {state}");
    assert!(now.lines().any(|line| line == set), "{now}");
}

fn every_resolver_gets_its_own_endpoint(cache: CacheKind, cluster: ClusterKind) {
    let lab = lab_with_tenants("e2eres", cache, cluster);
    // Without gregor no pod reaches an endpoint: what follows cannot come from the servers.
    for (namespace, ..) in TENANTS {
        let found = lab.pod(namespace).getent(BROKER).unwrap();
        assert!(
            !found
                .iter()
                .any(|a| FOO_ADDRESSES.contains(a) || BAR_ADDRESSES.contains(a)),
            "{namespace}: {found:?}"
        );
    }
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    lab.cache().forget();
    lab.cluster().forget();
    let clients = clients();
    for (namespace, server, endpoint) in TENANTS {
        let expected = sorted(addresses_of(endpoint));
        let pod = lab.pod(namespace);
        for state in ["on", "off"] {
            offload_checksums(pod, state);
            for client in &clients {
                let what = format!(
                    "{} in {namespace}, asking {server}, tx {state}",
                    client.name
                );
                until_the_programs_answer(&gregor, &what, |_| {
                    let before = Metrics::of(&gregor);
                    let found = client.finds(pod, BROKER);
                    assert_eq!(found.as_ref(), Ok(&expected), "{what}");
                    gregor_answered(&gregor, &before, namespace, &what);
                });
            }
        }
        // Neither server has seen the name: the answer is not theirs.
        let name = format!("{}.", qualified(namespace));
        for server in [lab.cache(), lab.cluster()] {
            let asked = server.asked();
            assert!(
                !asked.iter().any(|asked| asked.qname == name),
                "{namespace}: {asked:?}"
            );
        }
    }
    assert!(
        !lab.cluster().asked().is_empty(),
        "the list of questions does work"
    );
}

/// One query per family at least came to gregor and was answered in the name of this namespace, and nothing else was done.
fn gregor_answered(gregor: &Gregor, before: &Metrics, namespace: &str, what: &str) {
    let after = Metrics::of(gregor);
    let grown = |value: fn(&Metrics) -> f64| value(&after) - value(before);
    let intercepted = grown(Metrics::intercepted);
    assert!(intercepted >= 2.0, "{what}: {intercepted} intercepted");
    let taken = grown(Metrics::taken);
    assert_eq!(grown(|m| m.responses("NOERROR")), taken, "{what}");
    assert_eq!(grown(|m| m.responses("SERVFAIL")), 0.0, "{what}");
    assert_eq!(grown(|m| m.passed("no_rule")), 0.0, "{what}");
    assert_eq!(grown(|m| m.passed_on("no_target")), 0.0, "{what}");
    let own = after.namespace(namespace, "answer") - before.namespace(namespace, "answer");
    assert_eq!(own, taken, "{what}");
    let in_kernel = after.namespace_in_kernel(namespace) - before.namespace_in_kernel(namespace);
    assert_eq!(in_kernel, intercepted - taken, "{what}");
}

/// A Kafka cluster in the node, at the addresses of an endpoint: see `tests/clients/broker`. It ends when it is dropped.
struct Kafka {
    name: &'static str,
    bootstrap: &'static str,
    process: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Kafka {
    /// One whose brokers are called after `bootstrap`.
    fn start(lab: &Lab, name: &'static str, bootstrap: &'static str, addresses: &[IpAddr]) -> Self {
        let mut batch = String::new();
        for address in addresses {
            let (prefix, nodad) = match address {
                IpAddr::V4(_) => (32, ""),
                IpAddr::V6(_) => (128, " nodad"),
            };
            batch += &format!("addr add {address}/{prefix} dev lo{nodad}\n");
        }
        lab.node().ip(&batch).unwrap();
        let mut command = Command::new(tools::kafka_broker().unwrap());
        command
            .args([name, bootstrap])
            .args(addresses.iter().map(IpAddr::to_string))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = lab.node().spawn(command).unwrap();
        let said = Arc::new(Mutex::new(Vec::new()));
        let (output, log) = (process.stdout.take().unwrap(), said.clone());
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                log.lock().unwrap().push(line);
            }
        });
        let kafka = Self {
            name,
            bootstrap,
            process,
            said,
        };
        until(&format!("Kafka of {name}"), || {
            (kafka.said.lock().unwrap().first()? == "ready").then_some(())
        });
        kafka.forget();
        kafka
    }

    fn forget(&self) {
        self.said.lock().unwrap().clear();
    }

    /// Each connection since then: number of the broker, address of the endpoint.
    fn connections(&self) -> Vec<(u8, IpAddr)> {
        let said = self.said.lock().unwrap();
        said.iter()
            .map(|line| {
                let rest = line.strip_prefix("broker ").unwrap();
                let (broker, address) = rest.split_once(" accepted at ").unwrap();
                (broker.parse().unwrap(), address.parse().unwrap())
            })
            .collect()
    }
}

impl Drop for Kafka {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What kcat, which is librdkafka, prints in a pod. It has the bootstrap name only.
fn kcat(pod: &Pod, bootstrap: &str, arguments: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command
        .arg(PATIENCE.as_secs().to_string())
        .arg(tools::kcat().unwrap())
        .args(["-b", &format!("{bootstrap}:9092"), "-m", "30"])
        .args(arguments);
    let output = pod.output(command).unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(
        output.status.success(),
        "{}: kcat {arguments:?}: {}: {}",
        pod.namespace,
        output.status,
        text(&output.stderr)
    );
    text(&output.stdout)
}

/// kcat gets the brokers' names, connects to each of them, and finds this cluster; no other one is contacted.
fn reaches(pod: &Pod, own: &Kafka, endpoint: &[IpAddr], others: &[&Kafka], what: &str) {
    for kafka in others.iter().chain([&own]) {
        kafka.forget();
    }
    let listed: serde_json::Value =
        serde_json::from_str(&kcat(pod, own.bootstrap, &["-L", "-J"])).unwrap();
    let brokers = listed["brokers"].as_array().unwrap();
    let mut names: Vec<&str> = brokers
        .iter()
        .map(|broker| broker["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    let bootstrap = own.bootstrap;
    let advertised = [0, 1, 2].map(|broker| format!("b{broker}.{bootstrap}:{}", 9092 + broker));
    assert_eq!(names, advertised, "{what}");

    let read = kcat(
        pod,
        own.bootstrap,
        &["-C", "-t", "tenant", "-o", "beginning", "-e", "-q"],
    );
    let mut messages: Vec<&str> = read.lines().collect();
    messages.sort_unstable();
    let written = [0, 1, 2].map(|partition| format!("{} at {partition}", own.name));
    assert_eq!(messages, written, "{what}");

    let connections = own.connections();
    for broker in 0..3 {
        let reached = connections.iter().any(|(reached, _)| *reached == broker);
        assert!(reached, "{what}: broker {broker}: {connections:?}");
    }
    assert!(
        connections
            .iter()
            .all(|(_, address)| endpoint.contains(address)),
        "{what}: {connections:?}"
    );
    for other in others {
        let strayed = other.connections();
        assert!(strayed.is_empty(), "{what}: {}: {strayed:?}", other.name);
    }
}

/// Brokers' names from metadata lead each tenant to its own endpoint, though they are the same names for all.
fn librdkafka_reaches_its_own_brokers(cache: CacheKind, cluster: ClusterKind) {
    let mut lab = lab_with_tenants("e2ekafka", cache, cluster);
    lab.add_pod("baz").unwrap();
    let public = Kafka::start(&lab, "public", BROKER, &[PUBLIC_ADDRESS]);
    let foo = Kafka::start(&lab, "foo", BROKER, &FOO_ADDRESSES);
    let bar = Kafka::start(&lab, "bar", BROKER, &BAR_ADDRESSES);
    // Without gregor every tenant gets the public addresses.
    for (namespace, ..) in TENANTS {
        let pod = lab.pod(namespace);
        reaches(pod, &public, &[PUBLIC_ADDRESS], &[&foo, &bar], namespace);
    }
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    for (namespace, server, endpoint) in TENANTS {
        let pod = lab.pod(namespace);
        let (own, other) = match endpoint {
            FOO_ENDPOINT => (&foo, &bar),
            _ => (&bar, &foo),
        };
        for state in ["on", "off"] {
            offload_checksums(pod, state);
            let what = format!("kcat in {namespace}, asking {server}, tx {state}");
            until_the_programs_answer(&gregor, &what, |_| {
                let before = Metrics::of(&gregor);
                reaches(pod, own, &addresses_of(endpoint), &[other, &public], &what);
                gregor_answered(&gregor, &before, namespace, &what);
            });
        }
    }
    // Nor does gregor change that for a tenant without an endpoint.
    let before = Metrics::of(&gregor);
    reaches(
        lab.pod("baz"),
        &public,
        &[PUBLIC_ADDRESS],
        &[&foo, &bar],
        "kcat in baz",
    );
    let after = Metrics::of(&gregor);
    let no_target = |m: &Metrics| m.passed_on("no_target") + m.passed("no_target");
    assert!(no_target(&after) - no_target(&before) >= 2.0);
}

/// Pods as Kubernetes makes them, `ndots: 5` and nothing else, ask for the names that brokers advertise: two tenants, a third
/// one without a Service, and one of whom nobody knows who it is.
struct Unmodified {
    lab: Lab,
    gregor: Gregor,
}

const OWN: [(&str, &str); 2] = [("foo", FOO_ENDPOINT), ("bar", BAR_ENDPOINT)];
const OTHERS: [&str; 2] = ["baz", "stranger"];

impl Unmodified {
    fn start(prefix: &str, cache: CacheKind, cluster: ClusterKind) -> Self {
        let mut lab = Lab::builder(prefix)
            .cache(cache)
            .cluster(cluster)
            .world(with_public_names(World::default()))
            .start()
            .unwrap();
        for namespace in ["foo", "bar", "baz", "stranger"] {
            without_dns_config(lab.add_pod(namespace).unwrap());
        }
        let pods = Pods::new(&lab);
        pods.say(["foo", "bar", "baz"].map(|namespace| (lab.pod(namespace), "{}")));
        let config = format!("{}{UNMODIFIED_RULE}{}", lab.gregor_config(), pods.config());
        let gregor = lab
            .start_gregor(&tools::gregor().unwrap(), &config)
            .unwrap();
        known(&gregor, &lab);
        Self { lab, gregor }
    }

    /// What a look-up costs: one query for each family, whatever comes of them.
    fn costs_two_queries(&self, what: &str, look_up: impl FnOnce()) -> (f64, f64) {
        let before = Metrics::of(&self.gregor);
        look_up();
        let after = Metrics::of(&self.gregor);
        let asked = after.requests() - before.requests();
        assert_eq!(asked, 2.0, "{what}: queries");
        let intercepted = after.intercepted() - before.intercepted();
        (intercepted, asked - intercepted)
    }
}

fn every_resolver_gets_its_own_endpoint_by_the_unmodified_name(
    cache: CacheKind,
    cluster: ClusterKind,
) {
    let world = Unmodified::start("e2eunmod", cache, cluster);
    for client in &clients() {
        for (namespace, endpoint) in OWN {
            let what = format!("{} in {namespace}", client.name);
            let expected = sorted(addresses_of(endpoint));
            until_the_programs_answer(&world.gregor, &what, |_| {
                let (intercepted, passed) = world.costs_two_queries(&what, || {
                    let found = client.finds(world.lab.pod(namespace), UNMODIFIED);
                    assert_eq!(found.as_ref(), Ok(&expected), "{what}");
                });
                assert_eq!((intercepted, passed), (2.0, 0.0), "{what}");
            });
        }
        for namespace in OTHERS {
            let what = format!("{} in {namespace}", client.name);
            for _ in 0..2 {
                world.costs_two_queries(&what, || {
                    let found = client.finds(world.lab.pod(namespace), UNMODIFIED);
                    assert_eq!(found, Ok(vec![PUBLIC_ADDRESS]), "{what}");
                });
            }
        }
    }
}

fn librdkafka_reaches_its_own_brokers_by_unmodified_names(cache: CacheKind, cluster: ClusterKind) {
    let Unmodified { lab, gregor } = Unmodified::start("e2eunmodk", cache, cluster);
    let public = Kafka::start(&lab, "public", UNMODIFIED, &[PUBLIC_ADDRESS]);
    let foo = Kafka::start(&lab, "foo", UNMODIFIED, &FOO_ADDRESSES);
    let bar = Kafka::start(&lab, "bar", UNMODIFIED, &BAR_ADDRESSES);
    for (namespace, endpoint) in OWN {
        let (own, other) = match endpoint {
            FOO_ENDPOINT => (&foo, &bar),
            _ => (&bar, &foo),
        };
        let (pod, what) = (lab.pod(namespace), format!("kcat in {namespace}"));
        until_the_programs_answer(&gregor, &what, |_| {
            reaches(pod, own, &addresses_of(endpoint), &[other, &public], &what);
        });
    }
    for namespace in OTHERS {
        reaches(
            lab.pod(namespace),
            &public,
            &[PUBLIC_ADDRESS],
            &[&foo, &bar],
            namespace,
        );
    }
}

/// Each existing cache, with each kind of client.
macro_rules! behind {
    ($($module:ident: $cache:expr, $cluster:expr;)+) => {$(
        mod $module {
            use super::*;

            #[test]
            fn every_resolver_gets_its_own_endpoint() {
                super::every_resolver_gets_its_own_endpoint($cache, $cluster);
            }

            #[test]
            fn librdkafka_reaches_its_own_brokers() {
                super::librdkafka_reaches_its_own_brokers($cache, $cluster);
            }

            #[test]
            fn every_resolver_gets_its_own_endpoint_by_the_unmodified_name() {
                super::every_resolver_gets_its_own_endpoint_by_the_unmodified_name($cache, $cluster);
            }

            #[test]
            fn librdkafka_reaches_its_own_brokers_by_unmodified_names() {
                super::librdkafka_reaches_its_own_brokers_by_unmodified_names($cache, $cluster);
            }
        }
    )+};
}

behind! {
    coredns_as_nodelocal_runs_it: CacheKind::CoreDns { template: false }, ClusterKind::CoreDns;
    unbound: CacheKind::Unbound, ClusterKind::CoreDns;
    the_embedded_cache: CacheKind::Embedded, ClusterKind::Embedded;
}

#[test]
fn behind_node_cache() {
    if tools::node_cache().is_err() {
        return gregor_tests::lab::skip("behind_node_cache", "no node-cache on PATH");
    }
    every_resolver_gets_its_own_endpoint(CacheKind::NodeCache, ClusterKind::CoreDns);
    librdkafka_reaches_its_own_brokers(CacheKind::NodeCache, ClusterKind::CoreDns);
}

/// A search list of this many bytes, with the pod's own domains in front.
fn search_of(bytes: usize) -> String {
    let mut list = "foo.svc.cluster.local svc.cluster.local cluster.local".to_owned();
    while list.len() + 2 < bytes {
        let label = (bytes - list.len() - 1).min(40);
        // Not one byte alone at the end, which could only be a blank.
        let label = if bytes - list.len() - 1 - label == 1 {
            label - 1
        } else {
            label
        };
        list.push(' ');
        list.push_str(&"x".repeat(label));
    }
    assert_eq!(list.len(), bytes);
    list
}

/// What docs/limits.md and `gregor explain` say of long lists.
#[test]
fn musl_leaves_out_a_search_list_that_is_too_long() {
    let lab = Lab::builder("e2elist").pod("foo").start().unwrap();
    let _gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let foo = lab.pod("foo");
    for client in clients() {
        if !["glibc, getaddrinfo", "musl"].contains(&client.name) {
            continue;
        }
        for (bytes, is_long) in [(247, false), (248, true), (400, true)] {
            let text = format!(
                "nameserver {NODE_LOCAL_V4}\nsearch {}\noptions ndots:7\n",
                search_of(bytes)
            );
            let path = Path::new("/etc/netns").join(foo.netns().name());
            fs::write(path.join("resolv.conf"), text).unwrap();
            let expected = if client.name == "musl" && is_long {
                vec![PUBLIC_ADDRESS]
            } else {
                sorted(FOO_ADDRESSES)
            };
            let found = client.finds(foo, BROKER).unwrap();
            assert_eq!(found, expected, "{}, {bytes} bytes", client.name);
        }
    }
}
