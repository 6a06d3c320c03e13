//! Kafka in the cluster: two tenants' brokers with the same names beside it, and their clients in pods.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
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
/// For the start of a broker, on a machine that does other things at the same time.
const PATIENCE: Duration = Duration::from_secs(120);

/// The brokers, one for each tenant, ended when dropped.
pub struct Brokers {
    starting: Vec<JoinHandle<Result<Child>>>,
    running: Vec<Child>,
}

impl Brokers {
    /// Starts them, and returns meanwhile.
    pub fn start(cluster: &Cluster) -> Result<Self> {
        let mut starting = Vec::new();
        for (tenant, last, own) in TENANTS {
            let address = address(last);
            cluster.add_address(&address)?;
            let directory = cluster.beside(&format!("kafka-{tenant}"))?;
            let kafka = tools::kafka()?;
            let command = || cluster.on_wire(&kafka);
            let (format, broker, write) = (command(), command(), command());
            starting.push(thread::spawn(move || {
                run(tenant, &address, own, &directory, format, broker, write)
                    .with_context(|| format!("Kafka of {tenant}"))
            }));
        }
        Ok(Self {
            starting,
            running: Vec::new(),
        })
    }

    fn ready(&mut self) -> Result<()> {
        for thread in self.starting.drain(..) {
            match thread.join() {
                Ok(child) => self.running.push(child?),
                Err(_) => bail!("the thread that starts a broker panicked"),
            }
        }
        ensure!(self.running.len() == TENANTS.len(), "not every broker runs");
        Ok(())
    }
}

impl Drop for Brokers {
    fn drop(&mut self) {
        let _ = self.ready();
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

/// A cluster of one broker, and a message in it that names the tenant.
fn run(
    tenant: &str,
    address: &str,
    own: u16,
    directory: &Path,
    mut format: Command,
    mut broker: Command,
    mut write: Command,
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
    format
        .args(["kafka.tools.StorageTool", "format"])
        .args(["-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"])
        .arg(&properties);
    said("formatting", &mut format)?;
    let log = File::create(directory.join("broker.log"))?;
    let mut child = broker
        .arg("kafka.Kafka")
        .arg(&properties)
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()?;
    let server = format!("127.0.0.1:{own}");
    write.args(["Client", "write", &server, TOPIC, &format!("of {tenant}")]);
    let deadline = Instant::now() + PATIENCE;
    // Its own client waits for it.
    let written = said("writing", &mut write);
    if written.is_err() || child.try_wait()?.is_some() || Instant::now() > deadline {
        let _ = child.kill();
        let _ = child.wait();
        let text = fs::read_to_string(directory.join("broker.log")).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(15).collect();
        bail!("{written:?}\n{}", tail.join("\n"));
    }
    Ok(child)
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
