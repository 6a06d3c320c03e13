//! The provider's own names, as brokers advertise them, in pods without any change: ndots 5, no dnsConfig. Whichever library asks, each
//! tenant gets its own endpoint with one query for each family.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use e2e::{
    Metrics, clients,
    identified::{Pods, UNMODIFIED, known},
    sorted, until_the_programs_answer,
};
use gregor_tests::{
    lab::{
        CacheKind, ClusterKind, Lab,
        world::{BAR_ADDRESSES, BROKER, FOO_ADDRESSES, PUBLIC_ADDRESS},
    },
    tools,
};

fn every_resolver_gets_its_own_endpoint(cache: CacheKind, cluster: ClusterKind) {
    let lab = Lab::builder("e2eplain")
        .default_ndots()
        .pod("foo")
        .pod("bar")
        .pod("baz")
        .cache(cache)
        .cluster(cluster)
        .start()
        .unwrap();
    let [foo, bar, baz] = ["foo", "bar", "baz"].map(|name| lab.pod(name));
    let pods = Pods::new(&lab);
    pods.say([(foo, "{}"), (bar, "{}"), (baz, "{}")]);
    let public = vec![PUBLIC_ADDRESS];
    for pod in [foo, bar, baz] {
        assert_eq!(pod.getent(BROKER).unwrap(), public, "without gregor");
    }
    // As the chart has it: the article's rule for those who ask by the long name too.
    let config = format!(
        "{}clients = \"own-namespace\"\n{UNMODIFIED}{}",
        lab.gregor_config(),
        pods.config()
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    known(&gregor, &lab);
    for client in clients() {
        for (pod, expected) in [
            (foo, sorted(FOO_ADDRESSES)),
            (bar, sorted(BAR_ADDRESSES)),
            // Without a Service.
            (baz, public.clone()),
        ] {
            let what = format!("{} in {}", client.name, pod.namespace);
            let asks = || {
                let before = Metrics::of(&gregor).requests();
                let found = client.finds(pod, BROKER);
                assert_eq!(found.as_ref(), Ok(&expected), "{what}");
                let requests = Metrics::of(&gregor).requests() - before;
                assert_eq!(requests, 2.0, "{what}: one query for each family");
            };
            // First from the responder, where it was not asked before; then from the kernel.
            asks();
            if expected != public {
                until_the_programs_answer(&gregor, &what, |_| asks());
            }
        }
    }
}

#[test]
fn behind_coredns_as_nodelocal_runs_it() {
    let cache = CacheKind::CoreDns { template: false };
    every_resolver_gets_its_own_endpoint(cache, ClusterKind::CoreDns);
}

#[test]
fn behind_unbound() {
    every_resolver_gets_its_own_endpoint(CacheKind::Unbound, ClusterKind::CoreDns);
}

#[test]
fn behind_the_embedded_cache() {
    every_resolver_gets_its_own_endpoint(CacheKind::Embedded, ClusterKind::Embedded);
}
