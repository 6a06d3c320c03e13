//! The checks of what gregor learns from the API server: a tenant's change is in force at once, and without an API server
//! everything goes on.

use std::{
    collections::BTreeSet,
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use hickory_proto::op::ResponseCode;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, NODES, condition},
    config::{NODE_LOCAL, NodeName},
    load::{Load, Observer, Reply},
    manifests::{BROKER, EMPTY, MOVES, STRANGER, TENANTS},
    node::API_SERVER_DOWN,
    pods::{
        self, MINUTE, NAMESPACE, broker_of, flawless, gregor_on, gregors, helm, own_endpoints,
        process, questions, same_step_for_all, settled, status, tenant_pod,
    },
    results::Results,
};

/// The tenant whose Service is changed. The other one must not notice.
const MOVED: (&str, &[&str]) = TENANTS[1];
const STAYS: (&str, &[&str]) = TENANTS[0];
pub const SERVICE: &str = "kafka-upstream";
const CHANGES: usize = 50;
const ROUNDS: usize = 10;
/// What a change may take.
const LIMIT: Duration = Duration::from_secs(1);
/// What the caches of the cluster DNS may keep, and some more.
const CACHES: Duration = Duration::from_secs(40);

pub fn checks(cluster: &Cluster, results: &mut Results) {
    results.check("the Services that rules lead to are watched", || {
        for node in NODES {
            connected(cluster, node)?;
        }
        let api = api(cluster, NODES[0])?;
        ensure!(api["watches"] == json!(["kafka-upstream in every namespace"]));
        ensure!(
            api["services"]["external_name"] == TENANTS.len(),
            "{}",
            api["services"]
        );
        Ok(format!("{} Services known", TENANTS.len()))
    });
    results.check(
        "the tenant's Service has an Event that says what came of it, one for both nodes",
        || repaired(cluster, events(cluster)),
    );
    results.check(
        &format!(
            "a changed externalName is seen by the next query, {CHANGES} times, on both nodes"
        ),
        || untouched(cluster, || changes(cluster)),
    );
    results.check(
        "a deleted Service is seen by the next query, and a created one",
        || untouched(cluster, || deleted_and_created(cluster)),
    );
    results.check(
        "a Service that leads to another tenant's follows its changes",
        || repaired(cluster, linked(cluster)),
    );
    results.check(
        "an ExternalName that becomes another type is left to DNS",
        || repaired(cluster, another_type(cluster)),
    );
    results.check(
        "`gregor explain` says what the API server says of a target",
        || {
            let said = explain(cluster)?;
            let line = said
                .lines()
                .find(|line| line.contains("the Kubernetes API says"))
                .with_context(|| format!("no such line: {said}"))?;
            ensure!(
                line.contains(&format!("{}.endpoints.example", MOVED.0)),
                "{line}"
            );
            Ok(line.trim().to_owned())
        },
    );
    results.check(
        "a change while gregor is dead is seen as soon as it is back",
        || repaired(cluster, missed(cluster)),
    );
    results.check(
        &format!(
            "the API server is killed and comes back after {} s: nothing is lost, and changes are seen again",
            API_SERVER_DOWN.as_secs()
        ),
        || untouched(cluster, || killed(cluster)),
    );
    results.check(
        "without the role, DNS alone: one warning, and no endpoint is lost",
        || repaired(cluster, without_role(cluster)),
    );
}

/// The part of `gregor status` on a node.
fn api(cluster: &Cluster, node: NodeName) -> Result<Value> {
    Ok(status(cluster, node)?["kubernetes"].clone())
}

fn connected(cluster: &Cluster, node: NodeName) -> Result<()> {
    cluster.wait_until(&format!("Services are watched on {node}"), MINUTE, || {
        let api = api(cluster, node)?;
        Ok(api["mode"] == "on" && api["connected"] == 1)
    })?;
    Ok(())
}

/// The pods of the tenant whose Service is changed.
fn observers(cluster: &Cluster) -> Result<Vec<Observer>> {
    pods::observers(cluster, MOVED.0, &broker_of(MOVED.0))
}

fn service(external: &str) -> String {
    service_in(MOVED.0, external)
}

fn service_in(namespace: &str, external: &str) -> String {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": SERVICE, "namespace": namespace },
        "spec": { "type": "ExternalName", "externalName": external },
    })
    .to_string()
}

/// Where the tenant's Service leads to at first.
fn home() -> String {
    format!("{}.endpoints.example", MOVED.0)
}

pub fn lead_to(cluster: &Cluster, external: &str) -> Result<()> {
    let patch = json!({ "spec": { "externalName": external } }).to_string();
    cluster.kubectl(&[
        "patch",
        "service",
        &format!("--namespace={}", MOVED.0),
        SERVICE,
        "--patch",
        &patch,
    ])?;
    Ok(())
}

/// Whatever becomes of a check, the next one finds the Service as it was.
fn repaired(cluster: &Cluster, what: Result<String>) -> Result<String> {
    if what.is_err() {
        let namespace = format!("--namespace={}", MOVED.0);
        let delete = [
            "delete",
            "service",
            &namespace,
            SERVICE,
            "--ignore-not-found",
        ];
        cluster.kubectl(&delete)?;
        cluster.apply(&service(&home()), &[])?;
        thread::sleep(LIMIT);
    }
    what
}

/// Runs something while the other tenant's pods ask: they must not notice.
fn untouched(cluster: &Cluster, what: impl FnOnce() -> Result<String>) -> Result<String> {
    let mut load = Load::new();
    for node in NODES {
        let pod = tenant_pod(cluster, STAYS.0, "glibc", node)?;
        load.add(
            &format!("{} on {node}", STAYS.0),
            process(cluster, &pod)?,
            NODE_LOCAL.into(),
            questions(STAYS.0),
        )?;
    }
    let said = repaired(cluster, what());
    let loaded = load.finish();
    let said = said?;
    Ok(format!(
        "{said}; meanwhile {}",
        flawless(loaded, "the other tenant")?
    ))
}

/// Times until both nodes have seen it, from before `kubectl` starts.
struct Times(Vec<Duration>);

impl Times {
    fn percentile(&mut self, percent: usize) -> u128 {
        self.0.sort();
        let at = (self.0.len() * percent).div_ceil(100).saturating_sub(1);
        self.0.get(at).copied().unwrap_or_default().as_millis()
    }

    fn said(&mut self) -> String {
        format!(
            "p50 {} ms, p99 {} ms from the start of `kubectl` on",
            self.percentile(50),
            self.percentile(99)
        )
    }
}

fn seen_by_all(observers: &[Observer], reply: &Reply, since: Instant) -> Result<Duration> {
    let mut last = Duration::ZERO;
    for observer in observers {
        last = last.max(observer.until(reply, since, 2 * LIMIT)?);
    }
    ensure!(
        last < LIMIT,
        "only after {} ms: {reply:?}",
        last.as_millis()
    );
    Ok(last)
}

fn changes(cluster: &Cluster) -> Result<String> {
    let observers = observers(cluster)?;
    let mut times = Times(Vec::new());
    for number in 1..=CHANGES {
        let since = Instant::now();
        lead_to(cluster, &format!("m{number}.{MOVES}"))?;
        let reply = Reply::addresses(&[&format!("10.30.0.{number}")]);
        times.0.push(seen_by_all(&observers, &reply, since)?);
    }
    lead_to(cluster, &home())?;
    seen_by_all(&observers, &Reply::addresses(MOVED.1), Instant::now())?;
    // No reply in between was anything else than one of the two ends.
    for observer in &observers {
        let seen = observer.seen();
        ensure!(
            seen.len() == CHANGES + 2,
            "{} different replies: {seen:?}",
            seen.len()
        );
    }
    Ok(times.said())
}

/// Both nodes look each target up; the tenant sees one Event.
fn events(cluster: &Cluster) -> Result<String> {
    // Events have the time in their name, in steps of ten minutes: both nodes within one of them.
    same_step_for_all(600, 40)?;
    let observers = observers(cluster)?;
    let servfail = Reply {
        rcode: ResponseCode::ServFail,
        addresses: BTreeSet::new(),
    };
    let mut reasons = Vec::new();
    for (external, reason, reply) in [
        (home(), "Resolved", Reply::addresses(MOVED.1)),
        (
            "gone.example".to_owned(),
            "DoesNotResolve",
            servfail.clone(),
        ),
        (EMPTY.to_owned(), "NoAddress", servfail.clone()),
        ("10.1.2.3".to_owned(), "IsAddress", servfail),
    ] {
        lead_to(cluster, &external)?;
        for observer in &observers {
            observer.until(&reply, Instant::now(), MINUTE / 6)?;
        }
        let mut found = Vec::new();
        cluster.wait_until(&format!("an Event {reason}"), MINUTE, || {
            found = events_of(cluster, reason)?;
            Ok(!found.is_empty())
        })?;
        // The other node's comes at the same time, if it does.
        thread::sleep(Duration::from_secs(1));
        found = events_of(cluster, reason)?;
        let [event] = found.as_slice() else {
            bail!("{} Events {reason}: {found:?}", found.len());
        };
        let message = event["message"].as_str().unwrap_or_default();
        ensure!(message.contains(&external), "{message}");
        reasons.push(reason);
    }
    let described = cluster.kubectl(&[
        "describe",
        "service",
        &format!("--namespace={}", MOVED.0),
        SERVICE,
    ])?;
    for reason in &reasons {
        ensure!(described.contains(reason), "no {reason} in {described}");
    }
    lead_to(cluster, &home())?;
    for observer in &observers {
        observer.until(&Reply::addresses(MOVED.1), Instant::now(), MINUTE / 6)?;
    }
    let mut counts = [0, 0];
    for node in NODES {
        let api = api(cluster, node)?;
        for (count, result) in counts.iter_mut().zip(["created", "exists"]) {
            *count += api["events"][result].as_u64().unwrap_or(0);
        }
    }
    let [created, exists] = counts;
    ensure!(exists > 0, "only one node has sent Events");
    Ok(format!(
        "`kubectl describe service` shows {}; {created} created, {exists} there already",
        reasons.join(", ")
    ))
}

/// Those on the Service that is changed.
fn events_of(cluster: &Cluster, reason: &str) -> Result<Vec<Value>> {
    let fields = format!("--field-selector=involvedObject.name={SERVICE},reason={reason}");
    let namespace = format!("--namespace={}", MOVED.0);
    let list = cluster.json(&["get", "events", &namespace, &fields])?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

fn deleted_and_created(cluster: &Cluster) -> Result<String> {
    let observers = observers(cluster)?;
    let namespace = format!("--namespace={}", MOVED.0);
    let (mut deleted, mut created) = (Times(Vec::new()), Times(Vec::new()));
    for _ in 0..ROUNDS {
        let since = Instant::now();
        cluster.kubectl(&["delete", "service", &namespace, SERVICE])?;
        // The cache answers, which has no such name.
        deleted
            .0
            .push(seen_by_all(&observers, &Reply::nxdomain(), since)?);
        let since = Instant::now();
        cluster.apply(&service(&home()), &[])?;
        let reply = Reply::addresses(MOVED.1);
        created.0.push(seen_by_all(&observers, &reply, since)?);
    }
    Ok(format!(
        "{ROUNDS} times; deleted: {}; created: {}",
        deleted.said(),
        created.said()
    ))
}

/// The stranger's Service leads to that of the tenant, by its name in the cluster.
fn linked(cluster: &Cluster) -> Result<String> {
    let observers = pods::observers(cluster, STRANGER, &broker_of(STRANGER))?;
    let followed = || -> Result<String> {
        let mut times = Times(Vec::new());
        let since = Instant::now();
        let tenants = format!("{SERVICE}.{}.svc.cluster.local", MOVED.0);
        cluster.apply(&service_in(STRANGER, &tenants), &[])?;
        seen_by_all(&observers, &Reply::addresses(MOVED.1), since)?;
        for number in 90..90 + ROUNDS {
            let since = Instant::now();
            lead_to(cluster, &format!("m{number}.{MOVES}"))?;
            let reply = Reply::addresses(&[&format!("10.30.0.{number}")]);
            times.0.push(seen_by_all(&observers, &reply, since)?);
        }
        lead_to(cluster, &home())?;
        seen_by_all(&observers, &Reply::addresses(MOVED.1), Instant::now())?;
        Ok(format!("{ROUNDS} times; {}", times.said()))
    };
    let said = followed();
    let namespace = format!("--namespace={STRANGER}");
    let since = Instant::now();
    cluster.kubectl(&[
        "delete",
        "service",
        &namespace,
        SERVICE,
        "--ignore-not-found",
    ])?;
    let said = said?;
    seen_by_all(&observers, &Reply::nxdomain(), since)?;
    Ok(said)
}

fn another_type(cluster: &Cluster) -> Result<String> {
    let observers = observers(cluster)?;
    let namespace = format!("--namespace={}", MOVED.0);
    let patch = json!({ "spec": {
        "type": "ClusterIP", "externalName": null, "ports": [{ "port": 9092 }],
    } });
    let since = Instant::now();
    cluster.kubectl(&[
        "patch",
        "service",
        &namespace,
        SERVICE,
        "--patch",
        &patch.to_string(),
    ])?;
    let service = cluster.json(&["get", "service", &namespace, SERVICE])?;
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    let reply = Reply::addresses(&[address]);
    let mut took = Duration::ZERO;
    for observer in &observers {
        took = took.max(observer.until(&reply, since, CACHES)?);
    }
    for observer in &observers {
        let denied = observer.seen().contains(&Ok(Reply::nxdomain()));
        ensure!(!denied, "it was denied meanwhile: {:?}", observer.seen());
    }
    let since = Instant::now();
    cluster.kubectl(&["delete", "service", &namespace, SERVICE])?;
    cluster.apply(&self::service(&home()), &[])?;
    let back = seen_by_all(&observers, &Reply::addresses(MOVED.1), since)?;
    Ok(format!(
        "its address is seen after {:.1} s; and an ExternalName again after {} ms",
        took.as_secs_f64(),
        back.as_millis()
    ))
}

fn explain(cluster: &Cluster) -> Result<String> {
    let pod = gregor_on(cluster, NODES[0])?;
    cluster.kubectl(&[
        "exec",
        NAMESPACE,
        pod["metadata"]["name"].as_str().unwrap_or_default(),
        "--",
        "gregor",
        "explain",
        BROKER,
        "--namespace",
        MOVED.0,
        "--config",
        "/etc/gregor/gregor.toml",
    ])
}

/// The programs go on with what they know while gregor is away; what its successor finds in their tables is older than the
/// Service.
fn missed(cluster: &Cluster) -> Result<String> {
    let node = NODES[0];
    let pod = tenant_pod(cluster, MOVED.0, "glibc", node)?;
    let observer = Observer::start(
        process(cluster, &pod)?,
        NODE_LOCAL.into(),
        &broker_of(MOVED.0),
    )?;
    observer.until(&Reply::addresses(MOVED.1), Instant::now(), MINUTE)?;
    let gregor = gregor_on(cluster, node)?;
    let restarts = |pod: &Value| pod["status"]["containerStatuses"][0]["restartCount"].clone();
    let process = process(cluster, &gregor)?;
    // Stopped, so that it sees nothing; its container is restarted only after it is killed.
    let process = Pid::from_raw(process as i32);
    kill(process, Signal::SIGSTOP)?;
    lead_to(cluster, &format!("m77.{MOVES}"))?;
    kill(process, Signal::SIGKILL)?;
    cluster.wait_until("the container is restarted", 2 * MINUTE, || {
        let pod = gregor_on(cluster, node)?;
        Ok(restarts(&pod) != restarts(&gregor))
    })?;
    let since = Instant::now();
    cluster.wait_until("the container is ready", 2 * MINUTE, || {
        Ok(condition(&gregor_on(cluster, node)?, "Ready"))
    })?;
    let ready = since.elapsed();
    let took = observer.until(&Reply::addresses(&["10.30.0.77"]), since, ready + LIMIT)?;
    lead_to(cluster, &home())?;
    let since = Instant::now();
    observer.until(&Reply::addresses(MOVED.1), since, LIMIT)?;
    Ok(format!(
        "{} ms after its container was seen restarted",
        took.as_millis()
    ))
}

fn killed(cluster: &Cluster) -> Result<String> {
    let observers = observers(cluster)?;
    let lists = |node| -> Result<u64> { Ok(api(cluster, node)?["lists"].as_u64().unwrap_or(0)) };
    let before = NODES.map(|node| lists(node).unwrap_or(0));
    kill(api_server(cluster)?, Signal::SIGKILL)?;
    let since = Instant::now();
    thread::sleep(API_SERVER_DOWN / 2);
    for observer in &observers {
        let expected = Reply::addresses(MOVED.1);
        observer.until(&expected, Instant::now(), LIMIT)?;
    }
    cluster.wait_until("the API server serves", 2 * MINUTE, || {
        cluster.kubectl(&["get", "--raw=/readyz"])?;
        Ok(true)
    })?;
    let served = since.elapsed();
    for node in NODES {
        connected(cluster, node)?;
    }
    let connected = since.elapsed();
    let since = Instant::now();
    lead_to(cluster, &format!("m78.{MOVES}"))?;
    let reply = Reply::addresses(&["10.30.0.78"]);
    let seen = seen_by_all(&observers, &reply, since)?;
    lead_to(cluster, &home())?;
    seen_by_all(&observers, &Reply::addresses(MOVED.1), Instant::now())?;
    let after = NODES.map(|node| lists(node).unwrap_or(0));
    let errors = api(cluster, NODES[0])?["errors"].clone();
    Ok(format!(
        "it served after {:.1} s, both nodes watched after {:.1} s with {} more lists, a change was seen after {} ms; errors {errors}",
        served.as_secs_f64(),
        connected.as_secs_f64(),
        after.iter().sum::<u64>() - before.iter().sum::<u64>(),
        seen.as_millis()
    ))
}

/// The process of the API server, as the machine numbers it.
pub fn api_server(cluster: &Cluster) -> Result<Pid> {
    let directory = cluster.directory.display().to_string();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        let program = command.split(' ').next().unwrap_or_default();
        if program.ends_with("kube-apiserver") && command.contains(&directory) {
            return Ok(Pid::from_raw(pid));
        }
    }
    bail!("there is no API server")
}

fn without_role(cluster: &Cluster) -> Result<String> {
    const BINDING: &str = "clusterrolebinding/kube-system-gregor";
    cluster.kubectl(&["delete", BINDING])?;
    // Watches that are open stay open: the server asks for the role when they begin.
    cluster.kubectl(&["rollout", "restart", NAMESPACE, "daemonset/gregor"])?;
    settled(cluster)?;
    let mut warnings = 0;
    for node in NODES {
        cluster.wait_until("it is refused", MINUTE, || {
            let api = api(cluster, node)?;
            Ok(api["errors"]["forbidden"].as_u64() >= Some(2) && api["age_seconds"].is_null())
        })?;
    }
    own_endpoints(cluster)?;
    let observers = observers(cluster)?;
    let since = Instant::now();
    lead_to(cluster, &format!("m79.{MOVES}"))?;
    let reply = Reply::addresses(&["10.30.0.79"]);
    let mut took = Duration::ZERO;
    for observer in &observers {
        took = took.max(observer.until(&reply, since, CACHES)?);
    }
    lead_to(cluster, &home())?;
    for pod in gregors(cluster)? {
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        let log = cluster.kubectl(&["logs", NAMESPACE, name])?;
        let lines = log
            .lines()
            .filter(|line| line.contains("cannot watch Services"));
        let lines: Vec<&str> = lines.collect();
        ensure!(lines.len() == 1, "{name}: {lines:?}");
        warnings += lines.len();
    }
    helm(cluster, "upgrade", &[])?;
    let since = Instant::now();
    for node in NODES {
        connected(cluster, node)?;
    }
    let again = since.elapsed();
    for observer in &observers {
        observer.until(&Reply::addresses(MOVED.1), Instant::now(), LIMIT)?;
    }
    Ok(format!(
        "{warnings} warnings on {} nodes, a change is seen after {:.1} s; with the role again watched after {:.1} s",
        NODES.len(),
        took.as_secs_f64(),
        again.as_secs_f64()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_sorted_times() {
        let mut times = Times((1..=50).rev().map(Duration::from_millis).collect());
        assert_eq!((times.percentile(50), times.percentile(99)), (25, 50));
    }
}
