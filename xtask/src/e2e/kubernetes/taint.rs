//! A node that comes up with a taint: pods wait until gregor is there, as docs/kubernetes.md says how.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, NODES},
    config::NodeName,
    manifests::TENANTS,
    pods::{MINUTE, addresses, endpoint, found_by, gregor_on, job, name_of},
};

const NODE: NodeName = NODES[1];
/// Of docs/kubernetes.md.
const TAINT: &str = "gregor-dns.github.io/not-ready";
const TENANT: &str = TENANTS[1].0;

/// A pod that asks as soon as it starts, for the tainted node alone.
fn early() -> Value {
    let ndots = json!({ "options": [{ "name": "ndots", "value": "7" }] });
    let mut pod = job("early", TENANT, &Value::Null, &ndots);
    pod["spec"]["nodeSelector"] = json!({ "kubernetes.io/hostname": NODE.to_string() });
    pod
}

/// Before gregor is there: the node has the taint, and the pod waits for it.
pub fn pod_waits(cluster: &Cluster) -> Result<String> {
    let node = NODE.to_string();
    cluster.kubectl(&["taint", "node", &node, &format!("{TAINT}:NoSchedule")])?;
    cluster.apply(&early().to_string(), &[])?;
    let mut why = String::new();
    cluster.wait_until("the pod is not scheduled", MINUTE, || {
        let pod = read(cluster)?;
        let conditions = pod["status"]["conditions"].as_array();
        let scheduled = conditions
            .into_iter()
            .flatten()
            .find(|condition| condition["type"] == "PodScheduled");
        why = scheduled
            .and_then(|condition| condition["message"].as_str())
            .unwrap_or_default()
            .to_owned();
        Ok(why.contains("taint"))
    })?;
    let reason = why.split([',', '.']).find(|part| part.contains("taint"));
    Ok(reason.unwrap_or_default().trim().to_owned())
}

/// With gregor ready on the node, which tolerates the taint: it is taken away, and the pod's first query has its answer.
pub fn first_query_is_answered(cluster: &Cluster) -> Result<String> {
    let pod = read(cluster)?;
    ensure!(pod["status"]["phase"] == "Pending", "it ran before: {pod}");
    let gregor = gregor_on(cluster, NODE)?;
    // The commands of docs/kubernetes.md.
    let namespace = "--namespace=kube-system";
    let name = format!("pod/{}", name_of(&gregor));
    cluster.kubectl(&["wait", namespace, "--for=condition=Ready", &name])?;
    let node = NODE.to_string();
    cluster.kubectl(&["taint", "node", &node, &format!("{TAINT}:NoSchedule-")])?;
    let found = found_by(cluster, &[early()])?;
    ensure!(found == [addresses(endpoint(TENANT))], "{found:?}");
    Ok(String::new())
}

fn read(cluster: &Cluster) -> Result<Value> {
    cluster.json(&["get", "pod", &format!("--namespace={TENANT}"), "early"])
}
