//! What the tenants' own resolvers find: the unqualified broker name leads to the endpoint of the pod's namespace, whichever
//! libc asks, whichever cache the node has, over IPv4 and IPv6; and it is gregor who says so.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::net::IpAddr;

use e2e::{Metrics, clients, qualified, sorted};
use gregor_tests::{
    lab::{
        CacheKind, ClusterKind, Gregor, Lab,
        world::{
            BAR_ADDRESSES, BAR_ENDPOINT, BROKER, CLUSTER_DNS_V4, CLUSTER_DNS_V6, ExternalName,
            FOO_ADDRESSES, FOO_ENDPOINT, NODE_LOCAL_V4, NODE_LOCAL_V6, World,
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

fn every_resolver_gets_its_own_endpoint(cache: CacheKind, cluster: ClusterKind) {
    let mut lab = Lab::builder("e2eres")
        .cache(cache)
        .cluster(cluster)
        .world(world())
        .start()
        .unwrap();
    for (namespace, server, _) in TENANTS {
        lab.add_pod_asking(namespace, &[server]).unwrap();
    }
    // Without gregor nobody gets there: what follows cannot come from the servers.
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
        let expected = sorted(match endpoint {
            FOO_ENDPOINT => FOO_ADDRESSES,
            _ => BAR_ADDRESSES,
        });
        for client in &clients {
            let before = Metrics::of(&gregor);
            let what = format!("{} in {namespace}, asking {server}", client.name);
            let found = client.finds(lab.pod(namespace), BROKER);
            assert_eq!(found.as_ref(), Ok(&expected), "{what}");
            gregor_answered(&gregor, &before, namespace, &what);
        }
        // Neither server has ever seen the name: it is none of their answers.
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
    let taken = grown(Metrics::taken);
    assert!(taken >= 2.0, "{what}: {taken} taken");
    assert_eq!(grown(|m| m.responses("NOERROR")), taken, "{what}");
    assert_eq!(grown(|m| m.responses("SERVFAIL")), 0.0, "{what}");
    assert_eq!(grown(|m| m.passed("no_rule")), 0.0, "{what}");
    assert_eq!(grown(|m| m.passed_on("no_target")), 0.0, "{what}");
    let own = after.namespace(namespace, "answer") - before.namespace(namespace, "answer");
    assert_eq!(own, taken, "{what}");
}

#[test]
fn behind_coredns_as_nodelocal_runs_it() {
    every_resolver_gets_its_own_endpoint(
        CacheKind::CoreDns { template: false },
        ClusterKind::CoreDns,
    );
}

#[test]
fn behind_unbound() {
    every_resolver_gets_its_own_endpoint(CacheKind::Unbound, ClusterKind::CoreDns);
}

#[test]
fn behind_the_embedded_cache() {
    every_resolver_gets_its_own_endpoint(CacheKind::Embedded, ClusterKind::Embedded);
}

#[test]
fn behind_node_cache() {
    if tools::node_cache().is_err() {
        return gregor_tests::lab::skip("behind_node_cache", "no node-cache on PATH");
    }
    every_resolver_gets_its_own_endpoint(CacheKind::NodeCache, ClusterKind::CoreDns);
}
