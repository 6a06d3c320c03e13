//! The checks of a rule for the namespaces that have a label: who has it is in force at once, and who has not is told by an Event.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    cluster::Cluster,
    load::Reply,
    manifests::TENANTS,
    pods::{MINUTE, broker_of, events_on, helm, observers, own_endpoints, same_step_for_all},
    policies::in_force,
};

const LABEL: &str = "gregor-e2e/tier";
const ROUNDS: usize = 10;
/// What a change may take: no two reloads begin within a second.
const LIMIT: Duration = Duration::from_secs(3);
/// The step of the time in the name of such an Event, and what an Event may take.
const STEP: u64 = 3000;
const EVENT: u64 = 150;

/// The first tenant gets the label, loses it and gets it again; the other one has none. The rule stays.
pub fn chosen(cluster: &Cluster) -> Result<String> {
    same_step_for_all(STEP, EVENT)?;
    let ((tenant, endpoint), (other, _)) = (TENANTS[0], TENANTS[1]);
    label(cluster, Some("gold"))?;
    let rules = json!([{
        "name": "kafka",
        "match": "*.aws.private.kafka.managed.{namespace}.svc.cluster.local",
        "cname": "kafka-upstream.{namespace}.svc.cluster.local",
        "ttl": 60,
        "namespaces": { LABEL: ["gold", "platinum"] },
    }]);
    let rules = format!("rules={rules}");
    helm(cluster, "upgrade", &["--set-json", &rules])?;
    in_force(cluster, "the selector is in force", |status| {
        status["rules"][0]["namespaces"] == json!([tenant])
    })?;
    let own = observers(cluster, tenant, &broker_of(tenant))?;
    let others = observers(cluster, other, &broker_of(other))?;
    let (served, passed) = (Reply::addresses(endpoint), Reply::nxdomain());
    for observer in &own {
        observer.until(&served, Instant::now(), LIMIT)?;
    }
    for observer in &others {
        observer.until(&passed, Instant::now(), LIMIT)?;
    }
    let mut most = Duration::ZERO;
    for round in 0..ROUNDS {
        for (value, reply) in [
            (None, &passed),
            (Some(["gold", "platinum"][round % 2]), &served),
        ] {
            let since = Instant::now();
            label(cluster, value)?;
            for observer in &own {
                most = most.max(observer.until(reply, since, LIMIT)?);
            }
        }
    }
    for observer in &others {
        observer.until(&passed, Instant::now(), LIMIT)?;
    }
    Ok(format!(
        "{} changes of a label, each seen within {} ms",
        2 * ROUNDS,
        most.as_millis()
    ))
}

/// The other tenant has an Event; then the rule is as before.
pub fn not_allowed(cluster: &Cluster) -> Result<String> {
    let said = event(cluster);
    label(cluster, None)?;
    helm(cluster, "upgrade", &[])?;
    in_force(cluster, "the selector is gone", |status| {
        status["rules"][0]["namespace_labels"].is_null()
    })?;
    own_endpoints(cluster)?;
    said
}

fn event(cluster: &Cluster) -> Result<String> {
    let (tenant, other) = (TENANTS[0].0, TENANTS[1].0);
    let mut found = Vec::new();
    cluster.wait_until("an Event NotAllowed", 3 * MINUTE, || {
        found = events_on(cluster, other, "NotAllowed")?;
        Ok(!found.is_empty())
    })?;
    // The other node has its turn within a minute of the first.
    thread::sleep(Duration::from_secs(5));
    found = events_on(cluster, other, "NotAllowed")?;
    ensure!(found.len() == 1, "{} Events: {found:?}", found.len());
    ensure!(
        found[0].contains("neither it nor any other is for this namespace"),
        "{found:?}"
    );
    let own_events = events_on(cluster, tenant, "NotAllowed")?;
    ensure!(own_events.is_empty(), "{own_events:?}");
    Ok(String::new())
}

fn label(cluster: &Cluster, value: Option<&str>) -> Result<()> {
    let change = match value {
        Some(value) => format!("{LABEL}={value}"),
        None => format!("{LABEL}-"),
    };
    cluster.kubectl(&["label", "namespace", TENANTS[0].0, &change, "--overwrite"])?;
    Ok(())
}
