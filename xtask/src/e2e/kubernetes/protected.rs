//! Targets that are refused to other namespaces' pods: as long as gregor serves, and never to their own.

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Result, ensure};
use hickory_proto::op::ResponseCode;

use super::{
    claims,
    cluster::{Cluster, NODES},
    config::NODE_LOCAL,
    identity::without_api_server,
    load::{Observer, Reply, over_tcp},
    manifests::{BROKER, FOREIGN, FOREIGN_ADDRESS, TENANTS},
    pods::{
        MINUTE, NAMESPACE, endpoint, helm, namespaces, own_endpoints, process, settled, tenant_pod,
        under_load,
    },
    services::SERVICE,
};

/// What pods ask, and the one reply that each must get.
type Watched = Vec<(Observer, Reply)>;

/// Targets are protected while the claims are in force, through a rollout and an outage of the API server.
pub fn protected(cluster: &Cluster) -> Result<String> {
    let values = format!("{},identity.protectTargets=true", claims::values());
    helm(cluster, "upgrade", &["--set-json", &values])?;
    settled(cluster)?;
    claims::claim_all(cluster)?;
    let targets = ask_for_targets(cluster)?;
    for (observer, reply) in &targets {
        observer.until(reply, Instant::now(), MINUTE)?;
    }
    // From here on nothing else.
    let targets = ask_for_targets(cluster)?;
    let brokers = ask_for_brokers(cluster)?;
    let asked = targets.len() + brokers.len();
    over_tcp_too(cluster)?;
    own_endpoints(cluster)?;
    let rollout = under_load(cluster, || {
        cluster.kubectl(&["rollout", "restart", NAMESPACE, "daemonset/gregor"])?;
        settled(cluster)
    })?;
    without_api_server(cluster)?;
    own_endpoints(cluster)?;
    for (observer, reply) in targets.iter().chain(&brokers) {
        for seen in observer.seen() {
            ensure!(seen.as_ref() == Ok(reply), "{seen:?}, not {reply:?}");
        }
    }
    Ok(format!(
        "{asked} questions of {} pods, each with one reply throughout; a rollout: {rollout}",
        NODES.len() * namespaces().count()
    ))
}

/// Behind a bridge no client is identified over TCP, so the cache on the node is asked for no target at all.
fn over_tcp_too(cluster: &Cluster) -> Result<()> {
    for (namespace, pid) in pods(cluster)? {
        for (tenant, _) in TENANTS {
            let reply = over_tcp(pid, NODE_LOCAL.into(), &target(tenant))?;
            ensure!(
                reply == refused(),
                "{namespace} asks for {tenant}'s over TCP: {reply:?}"
            );
        }
        let reply = over_tcp(pid, NODE_LOCAL.into(), FOREIGN)?;
        let expected = Reply::addresses(&[FOREIGN_ADDRESS]);
        ensure!(
            reply == expected,
            "{namespace} asks for {FOREIGN} over TCP: {reply:?}"
        );
    }
    Ok(())
}

fn refused() -> Reply {
    Reply {
        rcode: ResponseCode::Refused,
        addresses: BTreeSet::new(),
    }
}

fn target(namespace: &str) -> String {
    format!("{SERVICE}.{namespace}.svc.cluster.local")
}

/// Every pod asks for every tenant's target.
fn ask_for_targets(cluster: &Cluster) -> Result<Watched> {
    let mut watched = Vec::new();
    for (namespace, pid) in pods(cluster)? {
        for (tenant, addresses) in TENANTS {
            let reply = match tenant == namespace {
                true => Reply::addresses(addresses),
                false => refused(),
            };
            let observer = Observer::start(pid, NODE_LOCAL.into(), &target(tenant))?;
            watched.push((observer, reply));
        }
    }
    Ok(watched)
}

/// Every pod asks for a broker by the provider's own name, which the tenants have claimed.
fn ask_for_brokers(cluster: &Cluster) -> Result<Watched> {
    let pods = pods(cluster)?.into_iter();
    pods.map(|(namespace, pid)| {
        let observer = Observer::start(pid, NODE_LOCAL.into(), BROKER)?;
        Ok((observer, Reply::addresses(endpoint(namespace))))
    })
    .collect()
}

/// A pod of each namespace on each node, as its namespace and its process.
fn pods(cluster: &Cluster) -> Result<Vec<(&'static str, u32)>> {
    let mut pods = Vec::new();
    for node in NODES {
        for namespace in namespaces() {
            let pod = tenant_pod(cluster, namespace, "glibc", node)?;
            pods.push((namespace, process(cluster, &pod)?));
        }
    }
    Ok(pods)
}
