//! Names that tenants claim by an annotation of their Service: each holds for the tenant's own pods, through changes and rollouts.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use serde_json::json;

use super::{
    cluster::{Cluster, NODES},
    config::NODE_LOCAL,
    load::{Load, Observer, Question, Reply},
    manifests::{BROKER, MOVES, STRANGER, TENANTS},
    pods::{
        MINUTE, NAMESPACE, endpoint, events_on, flawless, helm, namespaces, observers, process,
        same_step_for_all, settled, sources, tenant_pod,
    },
    policies::in_force,
    services::{SERVICE, lead_to},
};

const ANNOTATION: &str = "gregor-dns.github.io/names";
/// What may be claimed, what the tenants claim of it, and what they cannot have.
const ALLOWED: &str = "*.private.kafka.managed";
const CLAIMED: &str = "*.eu-west-1.aws.private.kafka.managed";
const REFUSED: &str = "*.elsewhere.example";
/// What a change may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(5);

/// The chart's values with which names may be claimed.
pub fn values() -> String {
    let sources = sources(&["cni", "kubernetes"]);
    format!("{sources},tenants.mayClaim={}", json!([ALLOWED]))
}

/// What can be had and what not, in one annotation.
fn with_refused() -> String {
    format!("{CLAIMED}, {REFUSED}")
}

/// A tenant's pods of both nodes, which ask for a broker by the provider's own name.
struct Pods {
    namespace: &'static str,
    observers: Vec<Observer>,
}

impl Pods {
    fn of(cluster: &Cluster, namespace: &'static str) -> Result<Self> {
        Ok(Self {
            namespace,
            observers: observers(cluster, namespace, BROKER)?,
        })
    }

    /// Until all of them get these addresses, from `since` on.
    fn until(&self, addresses: &[&str], since: Instant, limit: Duration) -> Result<Duration> {
        let mut last = Duration::ZERO;
        for observer in &self.observers {
            last = last.max(observer.until(&Reply::addresses(addresses), since, limit)?);
        }
        Ok(last)
    }

    /// No reply had other addresses than these.
    fn got_only(&self, sets: &[&[&str]]) -> Result<()> {
        let expected: Vec<_> = sets
            .iter()
            .map(|addresses| Ok(Reply::addresses(addresses)))
            .collect();
        for observer in &self.observers {
            for reply in observer.seen() {
                ensure!(expected.contains(&reply), "{}: {reply:?}", self.namespace);
            }
        }
        Ok(())
    }
}

fn claim(cluster: &Cluster, namespace: &str, names: Option<&str>) -> Result<()> {
    let change = match names {
        Some(names) => format!("{ANNOTATION}={names}"),
        None => format!("{ANNOTATION}-"),
    };
    let namespace = format!("--namespace={namespace}");
    cluster.kubectl(&[
        "annotate",
        "service",
        &namespace,
        SERVICE,
        &change,
        "--overwrite",
    ])?;
    Ok(())
}

/// Both tenants claim the names, and each gets its own endpoint for them.
pub fn claim_all(cluster: &Cluster) -> Result<()> {
    for (tenant, endpoint) in TENANTS {
        // What it claimed last: another change may have to wait, after many.
        claim(cluster, tenant, Some(&with_refused()))?;
        Pods::of(cluster, tenant)?.until(endpoint, Instant::now(), LIMIT)?;
    }
    Ok(())
}

/// Nothing is claimed any more.
pub fn withdraw_all(cluster: &Cluster) -> Result<()> {
    for (tenant, _) in TENANTS {
        claim(cluster, tenant, None)?;
    }
    Ok(())
}

/// Both tenants claim the same names, change their minds, and keep what they have while gregor is rolled out.
pub fn claimed(cluster: &Cluster) -> Result<String> {
    helm(cluster, "upgrade", &["--set-json", &values()])?;
    settled(cluster)?;
    in_force(
        cluster,
        "names may be claimed, and no rule has them",
        |status| status["claims"]["is_on"] == true && status["rules"][1].is_null(),
    )?;
    let public = endpoint(STRANGER);
    let mut pods = Vec::new();
    for namespace in namespaces() {
        let of = Pods::of(cluster, namespace)?;
        of.until(public, Instant::now(), LIMIT)?;
        pods.push(of);
    }
    let mut times = Vec::new();
    let with_refused = with_refused();
    same_step_for_all(600, 40)?;
    // As often as a namespace may change its claims without a wait.
    for names in [
        Some(CLAIMED),
        None,
        Some(BROKER),
        None,
        Some(with_refused.as_str()),
    ] {
        for of in pods.iter().filter(|of| of.namespace != STRANGER) {
            let expected = names.map_or(public, |_| endpoint(of.namespace));
            let since = Instant::now();
            claim(cluster, of.namespace, names)?;
            times.push(of.until(expected, since, LIMIT)?);
        }
    }
    for of in &pods {
        of.got_only(&[public, endpoint(of.namespace)])?;
    }
    for (tenant, _) in TENANTS {
        let mut messages = Vec::new();
        cluster.wait_until("an Event ClaimRefused", MINUTE, || {
            messages = events_on(cluster, tenant, "ClaimRefused")?;
            Ok(!messages.is_empty())
        })?;
        let [message] = messages.as_slice() else {
            bail!("{} Events in {tenant}: {messages:?}", messages.len());
        };
        ensure!(
            message.contains(REFUSED) && !message.contains(CLAIMED),
            "{message}"
        );
    }
    // A claim is of a Service, whose changes are followed.
    let (moved, stays) = (&pods[1], &pods[0]);
    lead_to(cluster, &format!("m95.{MOVES}"))?;
    let moved_within = moved.until(&["10.30.0.95"], Instant::now(), LIMIT);
    lead_to(cluster, &format!("{}.endpoints.example", moved.namespace))?;
    moved.until(endpoint(moved.namespace), Instant::now(), LIMIT)?;
    moved_within?;
    stays.until(endpoint(stays.namespace), Instant::now(), LIMIT)?;
    let rollout = rolled_out_under_load(cluster)?;
    times.sort();
    let median = times[times.len() / 2].as_millis();
    let most = times.last().map_or(0, Duration::as_millis);
    Ok(format!(
        "{} changes, each seen after {median} ms (median) and {most} ms (most) from the start of `kubectl` on; an Event ClaimRefused \
         for both nodes; a rollout: {rollout}",
        times.len()
    ))
}

/// A new pod of gregor has the claims before it takes over.
fn rolled_out_under_load(cluster: &Cluster) -> Result<String> {
    let mut load = Load::new();
    for node in NODES {
        for namespace in namespaces() {
            let pod = tenant_pod(cluster, namespace, "musl", node)?;
            let questions = (1..=5).map(|number| {
                let name = BROKER.replacen('1', &number.to_string(), 1);
                Question::new(&name, endpoint(namespace))
            });
            load.add(
                &format!("{namespace} on {node}"),
                process(cluster, &pod)?,
                NODE_LOCAL.into(),
                questions.collect(),
            )?;
        }
    }
    cluster.kubectl(&["rollout", "restart", NAMESPACE, "daemonset/gregor"])?;
    let settled = settled(cluster);
    let loaded = load.finish();
    settled?;
    flawless(loaded, "3 pods on each node")
}
