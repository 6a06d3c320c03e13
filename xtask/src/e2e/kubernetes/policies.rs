//! The checks of the policies that give pods their `ndots`, and of rules for some namespaces or for none.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    cluster::{Cluster, NODES},
    components::Components,
    manifests::TENANTS,
    pods::{
        MINUTE, NOBODYS, addresses, all_public, each_pod_finds, endpoint, found_by, helm, job,
        own_endpoints, status,
    },
};
use crate::machine;

pub const ANNOTATION: &str = "gregor-dns.github.io/ndots";

/// Annotation of a pod, its DNS configuration, and what a policy makes of that.
pub fn mutations() -> [(Option<&'static str>, Value, Value); 9] {
    use serde_json::json;
    let ndots = |value: &str| json!({ "options": [{ "name": "ndots", "value": value }] });
    let others = json!({
        "searches": ["example.com"],
        "options": [{ "name": "ndots", "value": "2" }, { "name": "edns0" }],
    });
    let merged = json!({
        "searches": ["example.com"],
        "options": [{ "name": "edns0" }, { "name": "ndots", "value": "7" }],
    });
    [
        (Some("7"), Value::Null, ndots("7")),
        (Some("7"), others.clone(), merged),
        (None, others.clone(), others),
        (None, Value::Null, Value::Null),
        (Some("7"), ndots("10"), ndots("10")),
        (Some("10"), ndots("9"), ndots("10")),
        (Some("16"), ndots("9"), ndots("9")),
        (Some("seven"), Value::Null, Value::Null),
        (Some("07"), Value::Null, Value::Null),
    ]
}

pub fn annotated(annotation: Option<&str>, dns_config: &Value) -> Value {
    let annotations = match annotation {
        Some(annotation) => serde_json::json!({ ANNOTATION: annotation }),
        None => serde_json::json!({}),
    };
    let mut pod = job("ndots", TENANTS[0].0, &annotations, dns_config);
    if dns_config.is_null() {
        pod["spec"]
            .as_object_mut()
            .map(|spec| spec.remove("dnsConfig"));
    }
    pod
}

/// The policy of the chart, and what a pod that it was for finds.
pub fn ndots(cluster: &Cluster) -> Result<String> {
    helm(cluster, "upgrade", &["--set", "ndotsPolicy.enabled=true"])?;
    let (_, expected) = TENANTS[0];
    let mutated = |annotation: Option<&str>, dns_config: &Value| -> Result<Value> {
        let pod = annotated(annotation, dns_config).to_string();
        let made = cluster.apply(&pod, &["--dry-run=server", "--output=json"])?;
        let made: Value = serde_json::from_str(&made)?;
        Ok(made["spec"]["dnsConfig"].clone())
    };
    let rows = mutations();
    // A policy takes a moment to come into force.
    cluster.wait_until("the policy is in force", MINUTE, || {
        Ok(mutated(rows[0].0, &rows[0].1)? == rows[0].2)
    })?;
    for (annotation, before, after) in &rows {
        let made = mutated(*annotation, before)?;
        ensure!(made == *after, "{annotation:?}, {before}: {made}");
    }
    let mut pods = [Some("7"), None].map(|annotation| annotated(annotation, &Value::Null));
    pods[1]["metadata"]["name"] = "no-ndots".into();
    let found = found_by(cluster, &pods)?;
    ensure!(
        found == [addresses(expected), addresses(NOBODYS)],
        "annotated, and not: {found:?}"
    );
    helm(cluster, "upgrade", &[])?;
    Ok(format!("{} kinds of pods", rows.len()))
}

/// The same policy for Kyverno, by its command line.
pub fn ndots_by_kyverno(cluster: &Cluster, components: &Components) -> Result<String> {
    let policy = machine::root()?.join("deploy/policies/kyverno-ndots.yaml");
    let directory = machine::target_directory()?.join("e2e/kubernetes/kyverno");
    fs::create_dir_all(&directory)?;
    let rows = mutations();
    for (annotation, before, after) in &rows {
        let (from, to) = (directory.join("pod.json"), directory.join("mutated.yaml"));
        fs::write(&from, annotated(*annotation, before).to_string())?;
        fs::write(&to, "")?;
        let output = Command::new(&components.kyverno)
            .arg("apply")
            .arg(&policy)
            .arg("--resource")
            .arg(&from)
            .arg("--output")
            .arg(&to)
            .output()
            .context("running kyverno")?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "kyverno apply: {said}");
        let made = fs::read_to_string(&to)?;
        // Written where the policy applies.
        let made = if made.trim().is_empty() {
            before.clone()
        } else {
            let made = cluster.apply(&made, &["--dry-run=client", "--output=json"])?;
            let made: Value = serde_json::from_str(&made)?;
            made["spec"]["dnsConfig"].clone()
        };
        ensure!(made == *after, "{annotation:?}, {before}: {made}; {said}");
    }
    Ok(format!("{} kinds of pods", rows.len()))
}

/// What `gregor status` says on both nodes comes to be true; a ConfigMap takes a while to reach them.
pub fn in_force(cluster: &Cluster, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    for node in NODES {
        cluster.wait_until(&format!("{what} on {node}"), 3 * MINUTE, || {
            Ok(holds(&status(cluster, node)?))
        })?;
    }
    Ok(())
}

pub fn only_foo(cluster: &Cluster) -> Result<String> {
    let (tenant, _) = TENANTS[0];
    let rules = serde_json::json!([{
        "name": "kafka",
        "match": "*.aws.private.kafka.managed.{namespace}.svc.cluster.local",
        "cname": "kafka-upstream.{namespace}.svc.cluster.local",
        "ttl": 60,
        "namespaces": [tenant, "none-*"],
    }]);
    helm(
        cluster,
        "upgrade",
        &["--set-json", &format!("rules={rules}")],
    )?;
    in_force(cluster, "the list is in force", |status| {
        status["rules"][0]["namespaces"].is_array()
    })?;
    let said = each_pod_finds(cluster, |namespace| {
        addresses(if namespace == tenant {
            endpoint(namespace)
        } else {
            NOBODYS
        })
    })?;
    helm(cluster, "upgrade", &[])?;
    in_force(cluster, "the list is gone", |status| {
        status["rules"][0]["namespaces"].is_null()
    })?;
    own_endpoints(cluster)?;
    Ok(said)
}

pub fn observed(cluster: &Cluster) -> Result<String> {
    helm(cluster, "upgrade", &["--set", "mode=observe"])?;
    in_force(cluster, "it observes", |status| {
        status["rules"][0]["observes"] == true
    })?;
    all_public(cluster)?;
    let mut counts = Vec::new();
    for node in NODES {
        let count = status(cluster, node)?["kernel"]["observed"]["kafka"].as_u64();
        let count = count.context("nothing is counted")?;
        ensure!(count > 0, "{node}: nothing is counted");
        counts.push(count.to_string());
    }
    helm(cluster, "upgrade", &[])?;
    in_force(cluster, "it answers", |status| {
        status["rules"][0]["observes"] == false
    })?;
    own_endpoints(cluster)?;
    Ok(format!("{} matches", counts.join(" and ")))
}
