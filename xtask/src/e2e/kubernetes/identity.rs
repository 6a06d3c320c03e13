//! Rules that know who asks, on real nodes: unmodified names, and nothing of another tenant's, by the CNI's results and by the API
//! alone.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::json;

use super::{
    claims,
    cluster::{Cluster, NODES},
    config::NODE_LOCAL,
    load::{Observer, Reply},
    manifests::{BROKER, STRANGER, TENANTS},
    node::API_SERVER_DOWN,
    pods::{
        MINUTE, addresses, endpoint, helm, lookup, name_of, namespaces, own_endpoints, process,
        settled, sources, status, tenant_pod, under_load,
    },
    policies::in_force,
    services::api_server,
};

/// Chooses the endpoint, for names like this one.
const LABEL: &str = "kafka-dedicated-tenant";
const LABELLED: &str = "mykafka.kafkas.managed.service";
/// What a change may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(5);

/// By these sources every pod gets its own endpoint for the provider's own name, and nothing for another's. Turning it on loses
/// neither a query nor an endpoint.
pub fn by(cluster: &Cluster, from: &[&str]) -> Result<String> {
    let rules = json!([
        {
            "name": "kafka",
            "match": "*.aws.private.kafka.managed.{namespace}.svc.cluster.local",
            "cname": "kafka-upstream.{namespace}.svc.cluster.local",
            "ttl": 60,
        },
        {
            "name": "unmodified",
            "match": "*.aws.private.kafka.managed",
            "cname": "kafka-upstream.{client.namespace}.svc.cluster.local",
            "ttl": 60,
        },
        {
            "name": "labelled",
            "match": "*.kafkas.managed.service",
            "cname": format!("{{client.label.{LABEL}}}.kafka.managed.service"),
            "ttl": 60,
        },
        {
            "name": "override",
            "match": "{namespace}.kafka.managed.service",
            "cname": "kafka-upstream.{namespace}.svc.cluster.local",
            "ttl": 60,
            "clients": "any",
        },
    ]);
    let values = format!("rules={rules},{}", sources(from));
    let on = under_load(cluster, || {
        helm(cluster, "upgrade", &["--set-json", &values])?;
        // Another source is another mount or role: the pods are rolled out, unless nothing of that has changed.
        settled(cluster)?;
        in_force(cluster, "the rules are in force", |status| {
            status["rules"][0]["clients"].is_string() && status["rules"][3].is_object()
        })
    })?;
    let said = all_get_their_own(cluster)?;
    let labels = label_chooses(cluster)?;
    Ok(format!("{said}; {labels}; on: {on}"))
}

/// The same by the API server's pods, and while it is away.
pub fn by_api_alone(cluster: &Cluster) -> Result<String> {
    let said = by(cluster, &["kubernetes"])?;
    without_api_server(cluster)?;
    Ok(said)
}

/// The label of a running pod that has no Service says whose endpoint it gets: the article's attempt 6, with a rule behind its
/// rule.
fn label_chooses(cluster: &Cluster) -> Result<String> {
    let passed = Reply::nxdomain();
    let mut most = Duration::ZERO;
    let mut changes = 0;
    for node in NODES {
        let pod = tenant_pod(cluster, STRANGER, "glibc", node)?;
        let observer = Observer::start(process(cluster, &pod)?, NODE_LOCAL.into(), LABELLED)?;
        observer.until(&passed, Instant::now(), LIMIT)?;
        let namespace = format!("--namespace={STRANGER}");
        let mut label = |value: &str, reply: &Reply| -> Result<()> {
            let since = Instant::now();
            let change = [
                "label",
                "pod",
                &namespace,
                name_of(&pod),
                value,
                "--overwrite",
            ];
            cluster.kubectl(&change)?;
            most = most.max(observer.until(reply, since, LIMIT)?);
            changes += 1;
            Ok(())
        };
        for (tenant, addresses) in TENANTS.into_iter().cycle().take(2 * TENANTS.len()) {
            label(&format!("{LABEL}={tenant}"), &Reply::addresses(addresses))?;
        }
        label(&format!("{LABEL}-"), &passed)?;
    }
    Ok(format!(
        "{changes} changes of a pod's label, each seen within {} ms",
        most.as_millis()
    ))
}

/// Identity is switched off, and no endpoint is lost.
pub fn off(cluster: &Cluster) -> Result<String> {
    let off = under_load(cluster, || {
        helm(cluster, "upgrade", &[])?;
        settled(cluster)?;
        in_force(cluster, "the rules are gone", |status| {
            status["rules"][0]["clients"].is_null() && status["rules"][1].is_null()
        })
    })?;
    claims::withdraw_all(cluster)?;
    own_endpoints(cluster)?;
    Ok(off)
}

/// While the API server is down, and when it comes back, every pod gets its own endpoint for the provider's own name, and
/// nothing else.
pub fn without_api_server(cluster: &Cluster) -> Result<()> {
    let mut observers = Vec::new();
    for node in NODES {
        for (namespace, _) in TENANTS {
            let pod = tenant_pod(cluster, namespace, "glibc", node)?;
            let observer = Observer::start(process(cluster, &pod)?, NODE_LOCAL.into(), BROKER)?;
            let expected = Reply::addresses(endpoint(namespace));
            observer.until(&expected, Instant::now(), MINUTE / 3)?;
            observers.push((observer, expected));
        }
    }
    kill(api_server(cluster)?, Signal::SIGKILL)?;
    thread::sleep(API_SERVER_DOWN / 2);
    cluster.wait_until("the API server serves", 2 * MINUTE, || {
        cluster.kubectl(&["get", "--raw=/readyz"])?;
        Ok(true)
    })?;
    for (observer, expected) in observers {
        for seen in observer.seen() {
            ensure!(seen.as_ref() == Ok(&expected), "{seen:?}, not {expected:?}");
        }
    }
    Ok(())
}

fn all_get_their_own(cluster: &Cluster) -> Result<String> {
    let mut asked = 0;
    for node in NODES {
        for namespace in namespaces() {
            for kind in ["glibc", "musl"] {
                let pod = tenant_pod(cluster, namespace, kind, node)?;
                let expected = addresses(endpoint(namespace));
                let mut found = BTreeSet::new();
                // An absolute name, which no search list changes.
                let unmodified = format!("{BROKER}.");
                cluster.wait_until("the expected addresses", MINUTE / 3, || {
                    found = lookup(cluster, &pod, &unmodified).unwrap_or_default();
                    Ok(found == expected)
                })?;
                for (other, _) in TENANTS {
                    let name = format!("{BROKER}.{other}.svc.cluster.local.");
                    let found = lookup(cluster, &pod, &name).unwrap_or_default();
                    let wanted: BTreeSet<IpAddr> = if other == namespace {
                        expected.clone()
                    } else {
                        BTreeSet::new()
                    };
                    ensure!(found == wanted, "{namespace} asks for {other}'s: {found:?}");
                }
                asked += 1;
            }
        }
        let status = status(cluster, node)?;
        let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
        let known = interfaces
            .iter()
            .filter(|interface| interface["who"].is_object())
            .count();
        ensure!(
            known >= 6,
            "{node}: {known} of {} are known",
            interfaces.len()
        );
    }
    Ok(format!("{asked} pods"))
}
