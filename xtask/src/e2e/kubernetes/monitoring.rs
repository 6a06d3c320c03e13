//! A real Prometheus beside the cluster, which scrapes gregor's pods as the chart's PodMonitor says.
//!
//! Debian's has no discovery by the API server: this module reads the pods there and gives it their labels as the discovery would.

use std::{
    fs::{self, File},
    process::Child,
};

use anyhow::{Context as _, Result, ensure};
use gregor_lab::tools;
use serde_json::{Value, json};

use super::{
    chart,
    cluster::{Cluster, NODES},
    pods::{MINUTE, NAMESPACE, gregors},
};
use crate::manifests::KUBE_VERSION;

const PAGE: &str = "127.0.0.1:9090";

struct Prometheus(Child);

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The relabelings of the chart's PodMonitor, as Prometheus spells them.
fn relabelings(cluster: &Cluster) -> Result<String> {
    let chart = chart()?.display().to_string();
    let manifest = cluster.helm(&[
        "template",
        "gregor",
        &chart,
        NAMESPACE,
        "--kube-version",
        KUBE_VERSION,
        "--set",
        "clusterDNS={10.96.0.10},podMonitor.enabled=true",
        "--show-only",
        "templates/podmonitor.yaml",
    ])?;
    let (_, relabelings) = manifest
        .split_once("relabelings:\n")
        .context("the PodMonitor has no relabelings")?;
    Ok(relabelings
        .replace("sourceLabels", "source_labels")
        .replace("targetLabel", "target_label"))
}

/// The pods of gregor, with the labels that the discovery would give them.
fn targets(cluster: &Cluster) -> Result<Value> {
    let pods = gregors(cluster)?.into_iter().map(|pod| {
        let ip = &pod["status"]["podIP"];
        json!({
            "targets": [ip],
            "labels": {
                "__meta_kubernetes_pod_ip": ip,
                "__meta_kubernetes_pod_node_name": pod["spec"]["nodeName"],
                "__meta_kubernetes_pod_container_init": "false",
            },
        })
    });
    Ok(pods.collect())
}

/// Each pod of gregor is a target, and up.
pub fn scraped(cluster: &Cluster) -> Result<String> {
    let directory = cluster.beside("prometheus")?;
    let targets_file = directory.join("targets.json");
    fs::write(&targets_file, targets(cluster)?.to_string())?;
    let config = directory.join("prometheus.yml");
    fs::write(
        &config,
        format!(
            "scrape_configs:\n- job_name: gregor\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  \
             file_sd_configs: [{{files: ['{}']}}]\n  relabel_configs:\n{}",
            targets_file.display(),
            relabelings(cluster)?
        ),
    )?;
    let program = tools::prometheus()?;
    let log = File::create(directory.join("log"))?;
    let mut command = cluster.on_wire(&program);
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("data").display()
        ))
        .arg(format!("--web.listen-address={PAGE}"))
        .stdout(log.try_clone()?)
        .stderr(log);
    let _prometheus = Prometheus(command.spawn().context("starting Prometheus")?);

    let promtool = program.with_file_name("promtool");
    let mut said = String::new();
    let query = |query: &str| -> Result<String> {
        let mut command = cluster.on_wire(&promtool);
        let url = format!("http://{PAGE}");
        let output = command.args(["query", "instant", &url, query]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let scraped = cluster.wait_until("each target is up", MINUTE, || {
        // One line for each: its labels, `=>`, its value.
        said = query("up")?;
        let is_up = |node| {
            let label = format!("node=\"{node}\"");
            let mut lines = said.lines().filter(|line| line.contains(&label));
            lines.next().is_some_and(|line| line.contains("=> 1 ")) && lines.next().is_none()
        };
        Ok(said.lines().count() == NODES.len() && NODES.into_iter().all(is_up))
    });
    if let Err(error) = scraped {
        let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
        let tail: Vec<&str> = log.lines().rev().take(10).collect();
        return Err(error.context(format!("up: {said}\n{}", tail.join("\n"))));
    }
    let ready = query("gregor_ready == 1")?;
    ensure!(
        ready.lines().count() == NODES.len(),
        "gregor_ready: {ready}"
    );
    let series = query("count({job=\"gregor\", __name__=~\"gregor_.*\"})")?;
    let count = series
        .split("=> ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    Ok(format!(
        "{} targets, with the PodMonitor's relabelings; {} series",
        NODES.len(),
        count.unwrap_or("no")
    ))
}
