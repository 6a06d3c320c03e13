//! `servers = "auto"` on real nodes: what the kubelets and the Services name is intercepted, and followed without a restart.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, NODES},
    config::{CLUSTER_DNS, KUBELET_CONFIG, NODE_LOCAL},
    load::{Observer, Reply},
    manifests::TENANTS,
    pods::{
        MINUTE, gregors, helm, own_endpoints, process, questions, restarts_of, settled, status,
        tenant_pod, under_load,
    },
    policies::in_force,
};

/// One more Service of the cluster DNS, and the addresses that it has one after the other.
const SERVICE: &str = "kube-dns-more";
const ADDRESSES: [&str; 2] = ["10.96.0.11", "10.96.0.12"];

fn service(address: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": SERVICE, "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" },
        },
        "spec": {
            "clusterIP": address,
            "selector": { "k8s-app": "kube-dns" },
            "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }],
        },
    })
    .to_string()
}

fn servers(status: &Value) -> Vec<&str> {
    let servers = status["servers"].as_array().into_iter().flatten();
    servers.filter_map(Value::as_str).collect()
}

pub fn learnt(cluster: &Cluster) -> Result<String> {
    let said = under_load(cluster, || {
        // The configuration reaches the pods that have no mount of the kubelet's: nothing is lost until they are replaced.
        helm(
            cluster,
            "upgrade",
            &["--set", "preset=auto,kubernetes.kubeletConfig="],
        )?;
        in_force(cluster, "the Services are learnt", |status| {
            let learnt = status["learnt"].as_array();
            learnt.is_some_and(|sources| {
                let services = sources.get(1);
                services.is_some_and(|source| source["servers"] == json!([CLUSTER_DNS]))
            })
        })?;
        helm(cluster, "upgrade", &["--set", "preset=auto"])?;
        settled(cluster)
    })?;
    let followed = followed(cluster);
    cluster.kubectl(&[
        "delete",
        "service",
        "--namespace=kube-system",
        SERVICE,
        "--ignore-not-found",
    ])?;
    let followed = followed?;
    own_endpoints(cluster)?;
    helm(cluster, "upgrade", &[])?;
    settled(cluster)?;
    Ok(format!("{followed}; the rollout: {said}"))
}

fn followed(cluster: &Cluster) -> Result<String> {
    let (cache, dns) = (NODE_LOCAL.to_string(), CLUSTER_DNS.to_string());
    for node in NODES {
        let status = status(cluster, node)?;
        ensure!(
            servers(&status) == [&cache, &dns],
            "{node}: {}",
            status["servers"]
        );
        let [kubelet, services] = status["learnt"].as_array().map_or(&[][..], Vec::as_slice) else {
            anyhow::bail!("{node}: {}", status["learnt"]);
        };
        let name = kubelet["name"].as_str().unwrap_or_default();
        ensure!(name.contains(KUBELET_CONFIG), "{name}");
        ensure!(kubelet["servers"] == json!([cache]), "{kubelet}");
        ensure!(services["servers"] == json!([dns]), "{services}");
    }
    let restarts =
        || -> Result<Vec<u64>> { Ok(gregors(cluster)?.iter().map(restarts_of).collect()) };
    let before = restarts()?;
    let mut took = Vec::new();
    for address in ADDRESSES {
        // Made anew under another address, as by an installation that is repeated.
        cluster.kubectl(&[
            "delete",
            "service",
            "--namespace=kube-system",
            SERVICE,
            "--ignore-not-found",
        ])?;
        cluster.apply(&service(address), &[])?;
        let since = std::time::Instant::now();
        for node in NODES {
            cluster.wait_until(
                &format!("{address} is intercepted on {node}"),
                MINUTE,
                || {
                    let status = status(cluster, node)?;
                    Ok(servers(&status) == [&cache, &dns, address])
                },
            )?;
        }
        took.push(format!("{:.1} s", since.elapsed().as_secs_f64()));
        for node in NODES {
            for (tenant, expected) in TENANTS {
                let pod = tenant_pod(cluster, tenant, "glibc", node)?;
                let question = questions(tenant).swap_remove(0);
                let server = address.parse().context("it is an address")?;
                let observer = Observer::start(process(cluster, &pod)?, server, &question.qname)?;
                let now = std::time::Instant::now();
                observer.until(&Reply::addresses(expected), now, MINUTE / 6)?;
            }
        }
    }
    ensure!(restarts()? == before, "restarts: {before:?} before");
    Ok(format!(
        "a Service made anew with another address is intercepted after {}",
        took.join(" and ")
    ))
}
