//! Two tenants, two Kafka clusters whose brokers have the same names: each tenant's clients, in Java and with librdkafka, reach
//! their own. Apache Kafka's own broker (KRaft) advertises the names.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    fs,
    net::{IpAddr, TcpStream},
    process::Command,
};

use e2e::{
    Metrics, PATIENCE,
    identified::{Pods, UNMODIFIED, known},
    until,
};
use gregor_tests::{
    lab::{
        Lab, Pod,
        world::{BAR_ADDRESSES, BROKER, FOO_ADDRESSES, World},
    },
    tools,
};

const TOPIC: &str = "tenant";

/// What the brokers of both clusters call themselves.
fn advertised() -> String {
    format!("b0.{BROKER}:9092")
}

fn kafka(class: &str) -> Command {
    let mut command = Command::new("timeout");
    command
        .arg(PATIENCE.as_secs().to_string())
        .arg(tools::kafka().unwrap())
        .arg(class);
    command
}

fn text(what: &str, output: std::process::Output) -> String {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{what}: {}: {said}\n{error}",
        output.status
    );
    said
}

/// A cluster of one broker in the node, at the address of an endpoint. Pods know its name alone, and this test reaches it by a
/// listener of its own.
fn start_cluster(lab: &Lab, name: &str, address: IpAddr, own: u16) {
    let batch = format!("addr add {address}/32 dev lo\n");
    lab.node().ip(&batch).unwrap();
    let directory = lab.directory().join(format!("kafka-{name}"));
    fs::create_dir_all(&directory).unwrap();
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
    )
    .unwrap();
    let mut format = kafka("kafka.tools.StorageTool");
    format
        .args(["format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"])
        .arg(&properties);
    text("formatting", lab.node().output(format).unwrap());
    let mut broker = Command::new(tools::kafka().unwrap());
    broker.arg("kafka.Kafka").arg(&properties);
    let log = format!("kafka-{name}.log");
    let process = lab.spawn_in_node(broker, &log).unwrap();
    until(&format!("Kafka of {name}"), || {
        assert!(process.exited().is_none(), "{}", process.log());
        let connected = lab
            .node()
            .enter(move || TcpStream::connect(("127.0.0.1", own)).is_ok());
        connected.unwrap().then_some(())
    });
    let mut write = kafka("Client");
    let message = format!("of {name}");
    write.args(["write", &format!("127.0.0.1:{own}"), TOPIC, &message]);
    text("writing", lab.node().output(write).unwrap());
}

/// What the Java client finds in a pod, which has the bootstrap name only.
fn read_with_java(pod: &Pod) -> String {
    let mut command = kafka("Client");
    command.args(["read", &format!("{BROKER}:9092"), TOPIC]);
    text("the Java client", pod.output(command).unwrap())
}

/// The same with kcat.
fn read_with_librdkafka(pod: &Pod) -> String {
    let kcat = |arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command
            .arg(PATIENCE.as_secs().to_string())
            .arg(tools::kcat().unwrap())
            .args(["-b", &format!("{BROKER}:9092")])
            .args(arguments);
        text("kcat", pod.output(command).unwrap())
    };
    let listed: serde_json::Value = serde_json::from_str(&kcat(&["-L", "-J"])).unwrap();
    let broker = listed["brokers"][0]["name"].as_str().unwrap();
    let message = kcat(&["-C", "-t", TOPIC, "-o", "beginning", "-e", "-q"]);
    format!("broker {broker}\nmessage {message}")
}

/// The article's way: the pod's search list makes a name of its namespace.
#[test]
fn each_tenants_clients_reach_its_own_brokers() {
    reach_their_own_brokers(false);
}

/// The brokers' names as they are, in pods without any change.
#[test]
fn each_tenants_unchanged_clients_reach_its_own_brokers() {
    reach_their_own_brokers(true);
}

fn reach_their_own_brokers(by_identity: bool) {
    let mut world = World::default();
    for zone in &mut world.zones {
        // The first address of each endpoint: a broker has one.
        zone.records.dedup_by(|one, other| one.owner == other.owner);
    }
    let mut builder = Lab::builder("e2ebrokers")
        .pod("foo")
        .pod("bar")
        .world(world);
    if by_identity {
        builder = builder.default_ndots();
    }
    let lab = builder.start().unwrap();
    start_cluster(&lab, "foo", FOO_ADDRESSES[0], 19092);
    start_cluster(&lab, "bar", BAR_ADDRESSES[0], 29092);
    let mut config = lab.gregor_config();
    if by_identity {
        let pods = Pods::new(&lab);
        pods.say(lab.pods().map(|pod| (pod, "{}")));
        config = format!("{config}{UNMODIFIED}{}", pods.config());
    }
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    if by_identity {
        known(&gregor, &lab);
    }
    for namespace in ["foo", "bar"] {
        let expected = format!("broker {}\nmessage of {namespace}\n", advertised());
        let pod = lab.pod(namespace);
        let before = Metrics::of(&gregor);
        assert_eq!(read_with_java(pod), expected, "Java in {namespace}");
        let between = Metrics::of(&gregor);
        assert!(between.intercepted() > before.intercepted());
        assert_eq!(
            read_with_librdkafka(pod),
            expected,
            "librdkafka in {namespace}"
        );
        assert!(Metrics::of(&gregor).intercepted() > between.intercepted());
    }
}
