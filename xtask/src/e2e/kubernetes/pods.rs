//! What the checks share: the pods of the cluster, what they find, and loads from them.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail, ensure};
use gregor_lab::tools::say;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    chart,
    cluster::{Cluster, NODES, condition},
    config::{NODE_LOCAL, NodeName},
    images,
    load::{Load, Observer, Outcome, Question},
    manifests::{BROKER, FOREIGN, FOREIGN_ADDRESS, PUBLIC, STRANGER, TENANTS},
};

pub const NAMESPACE: &str = "--namespace=kube-system";

pub const DAEMON_SET: &str = "daemonset/gregor";

/// The program of a pod that asks its resolver.
const LOOKUP: &str = "/usr/bin/lookup";

pub const MINUTE: Duration = Duration::from_secs(60);

/// What a namespace without a Service gets.
pub const NOBODYS: &[&str] = &[PUBLIC];

/// `helm install` or `helm upgrade` with what the cluster needs.
pub fn helm(cluster: &Cluster, command: &str, values: &[&str]) -> Result<()> {
    let chart = chart()?.display().to_string();
    let mut arguments = vec![command, "gregor", &chart, NAMESPACE];
    // Prometheus scrapes from another host.
    arguments.extend(["--set", "image.pullPolicy=Never,metrics.address=0.0.0.0"]);
    arguments.extend(values);
    cluster.helm(&arguments)?;
    Ok(())
}

/// The chart's values with these sources of identity.
pub fn sources(sources: &[&str]) -> String {
    format!("identity.sources={}", serde_json::json!(sources))
}

pub fn rolled_out(cluster: &Cluster, namespace: &str, what: &str) -> Result<()> {
    let namespace = format!("--namespace={namespace}");
    let rollout = cluster.kubectl(&["rollout", "status", &namespace, what, "--timeout=120s"]);
    if let Err(error) = rollout {
        // The logs of the pods help to find the reason.
        let pods = cluster
            .kubectl(&["describe", "pods", &namespace])
            .unwrap_or_default();
        let logs = cluster
            .kubectl(&["logs", &namespace, what, "--all-containers", "--tail=30"])
            .unwrap_or_default();
        say(&format!("{pods}\n{logs}"));
        return Err(error);
    }
    Ok(())
}

/// The DaemonSet is rolled out, and the pods that it replaced have ended.
pub fn settled(cluster: &Cluster) -> Result<()> {
    rolled_out(cluster, "kube-system", DAEMON_SET)?;
    cluster.wait_until("the pods before are gone", MINUTE, || {
        Ok(gregors(cluster)?.len() == NODES.len())
    })?;
    Ok(())
}

pub fn namespaces() -> impl Iterator<Item = &'static str> {
    TENANTS
        .into_iter()
        .map(|(tenant, _)| tenant)
        .chain([STRANGER])
}

/// Pods by a label.
pub fn pods(cluster: &Cluster, namespace: &str, label: &str) -> Result<Vec<Value>> {
    let namespace = format!("--namespace={namespace}");
    let list = cluster.json(&["get", "pods", &namespace, &format!("--selector={label}")])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

pub fn gregors(cluster: &Cluster) -> Result<Vec<Value>> {
    pods(cluster, "kube-system", "app.kubernetes.io/name=gregor")
}

pub fn on(pods: &[Value], node: NodeName) -> Result<&Value> {
    pods.iter()
        .find(|pod| {
            pod["spec"]["nodeName"] == node.to_string()
                && pod["metadata"]["deletionTimestamp"].is_null()
        })
        .with_context(|| format!("no such pod on {node}"))
}

pub fn gregor_on(cluster: &Cluster, node: NodeName) -> Result<Value> {
    Ok(on(&gregors(cluster)?, node)?.clone())
}

pub fn tenant_pod(cluster: &Cluster, namespace: &str, kind: &str, node: NodeName) -> Result<Value> {
    Ok(on(&pods(cluster, namespace, &format!("app={kind}"))?, node)?.clone())
}

pub fn name_of(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}

/// Sends a signal to gregor on each of these nodes and waits until its containers were restarted and are ready.
pub fn restarted_after(cluster: &Cluster, nodes: &[NodeName], signal: Signal) -> Result<()> {
    let mut before = Vec::new();
    for node in nodes {
        let pod = gregor_on(cluster, *node)?;
        before.push((*node, restarts_of(&pod)));
        kill(Pid::from_raw(process(cluster, &pod)? as i32), signal)?;
    }
    for (node, before) in before {
        cluster.wait_until(
            &format!("the container is ready again on {node}"),
            2 * MINUTE,
            || {
                let pod = gregor_on(cluster, node)?;
                Ok(restarts_of(&pod) > before && condition(&pod, "Ready"))
            },
        )?;
    }
    Ok(())
}

pub fn restarts_of(pod: &Value) -> u64 {
    pod["status"]["containerStatuses"][0]["restartCount"]
        .as_u64()
        .unwrap_or(0)
}

/// The one process of a pod.
pub fn process(cluster: &Cluster, pod: &Value) -> Result<u32> {
    let processes = cluster.processes(pod)?;
    processes
        .first()
        .copied()
        .with_context(|| format!("{} has no process", name_of(pod)))
}

/// Another pod than this one is ready on a node.
pub fn another_is_ready(cluster: &Cluster, node: NodeName, old: &Value) -> Result<()> {
    cluster.wait_until(
        &format!("another gregor is ready on {node}"),
        2 * MINUTE,
        || {
            let pod = gregor_on(cluster, node)?;
            Ok(pod["metadata"]["uid"] != old["metadata"]["uid"] && condition(&pod, "Ready"))
        },
    )?;
    Ok(())
}

/// What `gregor status --json` says on a node.
pub fn status(cluster: &Cluster, node: NodeName) -> Result<Value> {
    let pod = gregor_on(cluster, node)?;
    let said = cluster.kubectl(&[
        "exec",
        NAMESPACE,
        name_of(&pod),
        "--",
        "gregor",
        "status",
        "--json",
    ])?;
    Ok(serde_json::from_str(&said)?)
}

/// What a pod's own resolver finds.
pub fn lookup(cluster: &Cluster, pod: &Value, name: &str) -> Result<BTreeSet<IpAddr>> {
    let said = cluster.in_pod(pod, LOOKUP, &[name])?;
    said.lines().map(|line| Ok(line.trim().parse()?)).collect()
}

/// A namespace's pods on both nodes, which ask for a name.
pub fn observers(cluster: &Cluster, namespace: &str, qname: &str) -> Result<Vec<Observer>> {
    let observers = NODES.into_iter().map(|node| {
        let pod = tenant_pod(cluster, namespace, "glibc", node)?;
        Observer::start(process(cluster, &pod)?, NODE_LOCAL.into(), qname)
    });
    observers.collect()
}

/// What a pod asks first for a broker of its namespace.
pub fn broker_of(namespace: &str) -> String {
    format!("{BROKER}.{namespace}.svc.cluster.local")
}

pub fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
    texts.iter().filter_map(|text| text.parse().ok()).collect()
}

/// Each pod finds these addresses, by its namespace.
pub fn each_pod_finds(
    cluster: &Cluster,
    expected: impl Fn(&str) -> BTreeSet<IpAddr>,
) -> Result<String> {
    let mut asked = 0;
    for namespace in namespaces() {
        let expected = expected(namespace);
        for kind in ["glibc", "musl"] {
            let pods = pods(cluster, namespace, &format!("app={kind}"))?;
            for node in NODES {
                let pod = on(&pods, node)?;
                let mut found = Ok(BTreeSet::new());
                // kube-proxy refuses for a moment after the cluster DNS is ready, and the cache keeps that.
                let so = cluster.wait_until("the expected addresses", MINUTE / 3, || {
                    found = lookup(cluster, pod, BROKER);
                    Ok(found.as_ref().is_ok_and(|found| *found == expected))
                });
                if so.is_err() {
                    bail!("{namespace}, {kind}, {node}: {found:?}, not {expected:?}");
                }
                ensure!(
                    lookup(cluster, pod, FOREIGN)? == addresses(&[FOREIGN_ADDRESS]),
                    "{namespace}, {kind}, {node}: {FOREIGN}"
                );
                asked += 1;
            }
        }
    }
    Ok(format!("{asked} pods"))
}

pub fn all_public(cluster: &Cluster) -> Result<String> {
    each_pod_finds(cluster, |_| addresses(&[PUBLIC]))
}

pub fn own_endpoints(cluster: &Cluster) -> Result<String> {
    each_pod_finds(cluster, |namespace| addresses(endpoint(namespace)))
}

pub fn endpoint(namespace: &str) -> &'static [&'static str] {
    TENANTS
        .iter()
        .find(|(tenant, _)| *tenant == namespace)
        .map_or(NOBODYS, |(_, addresses)| *addresses)
}

/// What a pod's resolver asks first, some brokers, and a name that no rule matches.
pub fn questions(namespace: &str) -> Vec<Question> {
    let mut questions: Vec<Question> = (1..=5)
        .map(|number| {
            let broker = BROKER.replacen('1', &number.to_string(), 1);
            Question::new(
                &format!("{broker}.{namespace}.svc.cluster.local"),
                match TENANTS.iter().find(|(tenant, _)| *tenant == namespace) {
                    Some((_, addresses)) => addresses,
                    None => &[],
                },
            )
        })
        .collect();
    questions.push(Question::new(FOREIGN, &[FOREIGN_ADDRESS]));
    questions
}

/// Runs something under the load of a pod of each tenant on each node.
pub fn under_load(cluster: &Cluster, what: impl FnOnce() -> Result<()>) -> Result<String> {
    let mut load = Load::new();
    for node in NODES {
        for (tenant, _) in TENANTS {
            let pod = tenant_pod(cluster, tenant, "glibc", node)?;
            let name = format!("{tenant} on {node}");
            load.add(
                &name,
                process(cluster, &pod)?,
                NODE_LOCAL.into(),
                questions(tenant),
            )?;
        }
    }
    cluster.wait_until("the load runs", MINUTE, || Ok(load.sent() > 100))?;
    let happened = what();
    let sent = load.sent();
    cluster.wait_until("the load goes on", MINUTE, || Ok(load.sent() > sent + 200))?;
    let outcome = load.finish();
    happened.with_context(|| {
        format!(
            "{} of {} wrong meanwhile",
            outcome.wrong.len(),
            outcome.queries
        )
    })?;
    flawless(outcome, "2 pods on each node")
}

pub fn flawless(outcome: Outcome, who: &str) -> Result<String> {
    let Outcome {
        queries,
        wrong,
        time,
    } = outcome;
    if !wrong.is_empty() {
        let first = &wrong[..wrong.len().min(5)];
        bail!("{} of {queries} queries: {}", wrong.len(), first.join("; "));
    }
    Ok(format!(
        "{queries} queries of {who} in {:.0} s",
        time.as_secs_f64()
    ))
}

/// The messages of a namespace's Events with this reason.
pub fn events_on(cluster: &Cluster, namespace: &str, reason: &str) -> Result<Vec<String>> {
    let namespace = format!("--namespace={namespace}");
    let reason = format!("--field-selector=reason={reason}");
    let list = cluster.json(&["get", "events", &namespace, &reason])?;
    let items = list["items"].as_array().into_iter().flatten();
    let messages = items.map(|item| item["message"].as_str().unwrap_or_default().to_owned());
    Ok(messages.collect())
}

/// Waits for the next step of the time where this one ends within `need` seconds: Events have the step in their names, and are
/// one for all nodes only within it.
pub fn same_step_for_all(step: u64, need: u64) -> Result<()> {
    let into_step = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() % step;
    if into_step > step - need {
        thread::sleep(Duration::from_secs(step - into_step));
    }
    Ok(())
}

/// A pod that looks a broker up and ends.
pub fn job(name: &str, namespace: &str, annotations: &Value, dns_config: &Value) -> Value {
    serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "annotations": annotations },
        "spec": {
            "restartPolicy": "Never",
            "dnsConfig": dns_config,
            "containers": [{
                "name": "pod",
                "image": images::GLIBC,
                "imagePullPolicy": "Never",
                "command": [LOOKUP, BROKER],
            }],
        },
    })
}

/// What such pods find, which are made at once; they are deleted then.
pub fn found_by(cluster: &Cluster, pods: &[Value]) -> Result<Vec<BTreeSet<IpAddr>>> {
    let all = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": pods });
    cluster.apply(&all.to_string(), &[])?;
    let mut found = Vec::new();
    for pod in pods {
        let namespace = pod["metadata"]["namespace"].as_str().unwrap_or_default();
        let namespace = format!("--namespace={namespace}");
        let name = name_of(pod);
        cluster.wait_until(&format!("{name} has ended"), MINUTE, || {
            let pod = cluster.json(&["get", "pod", &namespace, name])?;
            Ok(matches!(
                pod["status"]["phase"].as_str(),
                Some("Succeeded" | "Failed")
            ))
        })?;
        let said = cluster.kubectl(&["logs", &namespace, name])?;
        cluster.kubectl(&["delete", "pod", &namespace, name, "--now", "--wait=false"])?;
        found.push(said.lines().filter_map(|line| line.parse().ok()).collect());
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_have_endpoints_and_the_stranger_the_public_address() {
        assert_eq!(endpoint("foo"), ["10.10.1.11", "10.10.2.11"]);
        assert_eq!(endpoint(STRANGER), [PUBLIC]);
    }
}
