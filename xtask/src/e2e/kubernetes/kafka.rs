//! Kafka in the cluster: two tenants' brokers with the same names beside it, and their clients in pods.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail, ensure};
use gregor_lab::tools;
use serde_json::{Value, json};

use super::{
    cluster::{Cluster, NODES},
    images::{JAVA, JAVA_CLASSES, KAFKA, KCAT},
    manifests::{BROKER, MOVES},
    pods::{name_of, pods, rolled_out},
};

/// Tenants with a Kafka cluster each: its address at the gateway, by its last number, and a port of this process's own there.
const TENANTS: [(&str, u8, u16); 2] = [("shop", 201, 19092), ("bank", 202, 29092)];
const TOPIC: &str = "tenant";
/// What a broker prints.
const LOG: &str = "broker.log";

/// The brokers, one for each tenant, ended when dropped.
pub struct Brokers {
    running: Vec<Child>,
    /// Each writes a message that names the tenant, once its broker serves.
    writing: Vec<JoinHandle<Result<()>>>,
}

impl Brokers {
    /// Starts them, and returns meanwhile.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let mut brokers = Self {
            running: Vec::new(),
            writing: Vec::new(),
        };
        let kafka = tools::kafka()?;
        for (tenant, last, own) in TENANTS {
            cluster.add_address(&address(last))?;
            let directory = cluster.beside(&format!("kafka-{tenant}"))?;
            // By this thread: what it starts ends with it.
            let broker = broker(cluster, &kafka, &directory, &address(last), own);
            brokers.running.push(broker.context("starting Kafka")?);
            let mut write = cluster.on_wire(&kafka);
            let (server, message) = (format!("127.0.0.1:{own}"), format!("of {tenant}"));
            // Its client waits for the broker.
            write.args(["Client", "write", &server, TOPIC, &message]);
            brokers.writing.push(thread::spawn(move || {
                said("writing", &mut write).map(drop).with_context(|| {
                    let log = fs::read_to_string(directory.join(LOG)).unwrap_or_default();
                    let tail: Vec<&str> = log.lines().rev().take(15).collect();
                    format!("Kafka of {tenant}:\n{}", tail.join("\n"))
                })
            }));
        }
        Ok(brokers)
    }

    fn ready(&mut self) -> Result<()> {
        for thread in self.writing.drain(..) {
            match thread.join() {
                Ok(written) => written?,
                Err(_) => bail!("the thread that writes to a broker panicked"),
            }
        }
        for broker in &mut self.running {
            let ended = broker.try_wait()?;
            ensure!(ended.is_none(), "a broker ended: {ended:?}");
        }
        Ok(())
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        for broker in &mut self.running {
            let _ = broker.kill();
            let _ = broker.wait();
        }
    }
}

fn address(last: u8) -> String {
    format!("10.30.0.{last}")
}

/// What the brokers of both clusters call themselves.
fn advertised() -> String {
    format!("b0.{BROKER}:9092")
}

/// A cluster of one broker.
fn broker(
    cluster: &Cluster,
    kafka: &Path,
    directory: &Path,
    address: &str,
    own: u16,
) -> Result<Child> {
    let properties = directory.join("server.properties");
    let controller = own + 1;
    fs::write(
        &properties,
        format!(
            "process.roles=broker,controller\nnode.id=0\ncontroller.quorum.voters=0@127.0.0.1:{controller}\n\
             listeners=PODS://{address}:9092,OWN://127.0.0.1:{own},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PODS://{},OWN://127.0.0.1:{own}\n\
             listener.security.protocol.map=PODS:PLAINTEXT,OWN:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
             controller.listener.names=CONTROLLER\ninter.broker.listener.name=OWN\nlog.dirs={}\n\
             offsets.topic.replication.factor=1\n",
            advertised(),
            directory.join("log").display(),
        ),
    )?;
    let log = File::create(directory.join(LOG))?;
    let script = "\"$0\" kafka.tools.StorageTool format -t MkU3OEVBNTcwNTJENDM2Qk -c \"$1\" && exec \"$0\" kafka.Kafka \"$1\"";
    let broker = cluster
        .on_wire(Path::new("/bin/sh"))
        .args(["-c", script])
        .args([kafka, &properties])
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    Ok(broker)
}

fn said(what: &str, command: &mut Command) -> Result<String> {
    let output = command.output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{what}: {}: {text}\n{error}", output.status);
    }
    Ok(text)
}

/// The tenant's namespace, its Service, and a pod with the clients on each node.
fn manifests(tenant: &str, last: u8) -> String {
    let labels = json!({ "app": "kafka" });
    let objects = [
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": tenant } }),
        json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": "kafka-upstream", "namespace": tenant },
            "spec": { "type": "ExternalName", "externalName": format!("m{last}.{MOVES}") },
        }),
        json!({
            "apiVersion": "apps/v1", "kind": "DaemonSet",
            "metadata": { "name": "kafka", "namespace": tenant },
            "spec": {
                "selector": { "matchLabels": labels },
                "template": {
                    "metadata": { "labels": labels },
                    "spec": {
                        "terminationGracePeriodSeconds": 0,
                        "automountServiceAccountToken": false,
                        "dnsConfig": { "options": [{ "name": "ndots", "value": "7" }] },
                        "containers": [{ "name": "pod", "image": KAFKA, "imagePullPolicy": "Never" }],
                    },
                },
            },
        }),
    ];
    objects.map(|object| object.to_string()).join("\n---\n")
}

/// Each tenant's clients reach its own brokers, by names that are the same for both.
pub fn own_brokers(cluster: &Cluster, brokers: &mut Brokers) -> Result<String> {
    for (tenant, last, _) in TENANTS {
        cluster.apply(&manifests(tenant, last), &[])?;
    }
    brokers.ready()?;
    let checked = clients(cluster);
    for (tenant, _, _) in TENANTS {
        cluster.kubectl(&["delete", "namespace", tenant, "--wait=false"])?;
    }
    checked
}

fn clients(cluster: &Cluster) -> Result<String> {
    let bootstrap = format!("{BROKER}:9092");
    let mut asked = 0;
    for (tenant, _, _) in TENANTS {
        rolled_out(cluster, tenant, "daemonset/kafka")?;
        let expected = format!("broker {}\nmessage of {tenant}\n", advertised());
        for pod in pods(cluster, tenant, "app=kafka")? {
            let java = exec(
                cluster,
                tenant,
                &pod,
                &[
                    JAVA,
                    "-Xmx64m",
                    "-XX:+UseSerialGC",
                    "-XX:TieredStopAtLevel=1",
                    "-cp",
                    JAVA_CLASSES,
                    "Client",
                    "read",
                    &bootstrap,
                    TOPIC,
                ],
            )?;
            ensure!(java == expected, "Java in {tenant}: {java}");
            let kcat = |arguments: &[&str]| {
                let command = [&[KCAT, "-b", &bootstrap], arguments].concat();
                exec(cluster, tenant, &pod, &command)
            };
            let listed: Value = serde_json::from_str(&kcat(&["-L", "-J"])?)?;
            let broker = listed["brokers"][0]["name"].as_str().unwrap_or_default();
            let message = kcat(&["-C", "-t", TOPIC, "-o", "beginning", "-e", "-q"])?;
            let librdkafka = format!("broker {broker}\nmessage {message}");
            ensure!(librdkafka == expected, "kcat in {tenant}: {librdkafka}");
            asked += 1;
        }
    }
    ensure!(asked == TENANTS.len() * NODES.len(), "{asked} pods");
    Ok(format!(
        "{asked} pods of {} tenants, whose brokers both are {}",
        TENANTS.len(),
        advertised()
    ))
}

fn exec(cluster: &Cluster, tenant: &str, pod: &Value, command: &[&str]) -> Result<String> {
    let namespace = format!("--namespace={tenant}");
    let prefix = ["exec", &namespace, name_of(pod), "--"];
    cluster.kubectl(&[&prefix, command].concat())
}
