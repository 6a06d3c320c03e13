//! The figures of a run: how soon a pod gets its answer, and what gregor takes at rest and under load.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::{
    cluster::{Cluster, NODES},
    config::{AUDIT_LOG, NODE_LOCAL, NodeName},
    load::{Observer, Rate, Reply},
    manifests::TENANTS,
    pods::{MINUTE, gregor_on, process, questions, tenant_pod},
};

/// "At rest".
const REST: Duration = Duration::from_secs(60);
/// Answers per second, of one pod.
const RATE: u32 = 10_000;
const LOADED: Duration = Duration::from_secs(10);
const MIB: f64 = (1 << 20) as f64;

/// Pods that ask for their endpoint again and again, one on each node.
pub struct FirstAnswers(Vec<(NodeName, Observer)>);

impl FirstAnswers {
    pub fn wait(cluster: &Cluster) -> Result<Self> {
        let (tenant, _) = TENANTS[0];
        let mut observers = Vec::new();
        for node in NODES {
            let pod = tenant_pod(cluster, tenant, "glibc", node)?;
            let question = questions(tenant).swap_remove(0);
            let pid = process(cluster, &pod)?;
            let observer = Observer::start(pid, NODE_LOCAL.into(), &question.qname)?;
            observers.push((node, observer));
        }
        Ok(Self(observers))
    }

    /// The first one on each node, from the start of gregor's process there.
    pub fn of(&self, cluster: &Cluster) -> Result<String> {
        let (_, expected) = TENANTS[0];
        let mut said = Vec::new();
        for (node, observer) in &self.0 {
            let pid = process(cluster, &gregor_on(cluster, *node)?)?;
            let started = Instant::now()
                .checked_sub(age(pid)?)
                .context("gregor is older than this process")?;
            let took = observer.until(&Reply::addresses(expected), started, MINUTE)?;
            ensure!(!took.is_zero(), "{node}: an answer before gregor was there");
            said.push(format!("{} ms", took.as_millis()));
        }
        Ok(format!(
            "a pod's first answer on each node {} after gregor's process began",
            said.join(" and ")
        ))
    }
}

/// How long ago a process began.
fn age(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // Behind the name, which may have spaces: the state is the third field, the start the 22nd.
    let (_, rest) = stat.rsplit_once(')').context("a strange /proc/PID/stat")?;
    let ticks: f64 = rest
        .split_whitespace()
        .nth(19)
        .context("a short /proc/PID/stat")?
        .parse()?;
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
    // USER_HZ is 100 on every architecture that this runs on.
    Ok(Duration::from_secs_f64((uptime - ticks / 100.0).max(0.0)))
}

/// What the pods' containers take now, in MiB.
fn memory(cluster: &Cluster) -> Result<Vec<f64>> {
    let mut found = Vec::new();
    for node in NODES {
        let pod = gregor_on(cluster, node)?;
        let mut bytes = 0;
        for group in cluster.cgroups(&pod)? {
            let text = ["memory.usage_in_bytes", "memory.current"]
                .iter()
                .find_map(|name| fs::read_to_string(group.join(name)).ok())
                .context("no such file of the memory controller")?;
            bytes += text.trim().parse::<u64>()?;
        }
        found.push(bytes as f64 / MIB);
    }
    Ok(found)
}

fn said(memory: &[f64]) -> String {
    let each: Vec<String> = memory.iter().map(|mib| format!("{mib:.0} MiB")).collect();
    each.join(" and ")
}

/// gregor's requests by the API server's own log, each once, with its verb.
fn requests(cluster: &Cluster) -> Result<BTreeMap<String, String>> {
    let path = cluster.directory.join("log").join(AUDIT_LOG);
    let mut found = BTreeMap::new();
    for line in fs::read_to_string(path).unwrap_or_default().lines() {
        // The last line may be half written.
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        found.insert(text("auditID"), text("verb"));
    }
    Ok(found)
}

/// Memory, and requests to the API server, while nothing happens in the cluster.
pub struct AtRest {
    began: Instant,
    before: BTreeSet<String>,
}

impl AtRest {
    pub fn begin(cluster: &Cluster) -> Result<Self> {
        let before: BTreeSet<String> = requests(cluster)?.into_keys().collect();
        ensure!(
            !before.is_empty(),
            "the API server logs no request of gregor"
        );
        Ok(Self {
            began: Instant::now(),
            before,
        })
    }

    /// After a minute.
    pub fn end(&self, cluster: &Cluster) -> Result<String> {
        thread::sleep(REST.saturating_sub(self.began.elapsed()));
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        at_rest(cluster, &self.before, minutes)
    }
}

fn at_rest(cluster: &Cluster, before: &BTreeSet<String>, minutes: f64) -> Result<String> {
    let after = requests(cluster)?;
    let new: Vec<&str> = after
        .iter()
        .filter(|(id, _)| !before.contains(*id))
        .map(|(_, verb)| verb.as_str())
        .collect();
    let lists = new.iter().filter(|verb| **verb != "watch").count();
    // Each watch lasts 200 to 290 s.
    ensure!(lists == 0, "requests at rest: {new:?}");
    ensure!(new.len() <= 2 * NODES.len(), "requests at rest: {new:?}");
    Ok(format!(
        "memory {}; {} requests to the API server in {:.0} s by both nodes together: watches begin anew, each after 200 to 290 s; {} since the installation",
        said(&memory(cluster)?),
        new.len(),
        minutes * 60.0,
        after.len(),
    ))
}

/// Memory while a pod on each node gets ten thousand answers per second.
pub fn under_answers(cluster: &Cluster) -> Result<String> {
    let (tenant, _) = TENANTS[0];
    let mut rates = Vec::new();
    for node in NODES {
        let pod = tenant_pod(cluster, tenant, "glibc", node)?;
        let mut names: Vec<String> = questions(tenant)
            .into_iter()
            .map(|question| question.qname)
            .collect();
        // The one that no rule matches.
        names.pop();
        let pid = process(cluster, &pod)?;
        rates.push(Rate::start(pid, NODE_LOCAL.into(), &names, RATE, LOADED)?);
    }
    let mut most = vec![0.0; NODES.len()];
    let started = Instant::now();
    while started.elapsed() < LOADED {
        for (most, now) in most.iter_mut().zip(memory(cluster)?) {
            *most = now.max(*most);
        }
        thread::sleep(Duration::from_millis(500));
    }
    let mut answered = Vec::new();
    for rate in rates {
        let (sent, right) = rate.finish()?;
        let per_second = right as f64 / LOADED.as_secs_f64();
        ensure!(right * 10 >= sent * 9, "{right} answers to {sent} queries");
        answered.push(format!("{per_second:.0}/s ({right} of {sent})"));
    }
    Ok(format!("{} at {}", said(&most), answered.join(" and ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_this_process_is_seconds_not_days() {
        let age = age(std::process::id()).unwrap();
        assert!(age < Duration::from_secs(3600), "{age:?}");
    }
}
