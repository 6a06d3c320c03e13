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

use e2e::pods::{Pods, UNMODIFIED, UNMODIFIED_RULE, known, with_public_names, without_dns_config};
use e2e::{Metrics, PATIENCE, until};
use gregor_tests::{
    lab::{
        Gregor, Lab, Pod,
        world::{BAR_ADDRESSES, BROKER, FOO_ADDRESSES, PUBLIC_ADDRESS, World},
    },
    tools,
};

const TOPIC: &str = "tenant";

/// What the brokers of both clusters call themselves.
fn advertised(bootstrap: &str) -> String {
    format!("b0.{bootstrap}:9092")
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
fn start_cluster(lab: &Lab, name: &str, bootstrap: &str, address: IpAddr, own: u16) {
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
            advertised(bootstrap),
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
fn read_with_java(pod: &Pod, bootstrap: &str) -> String {
    let mut command = kafka("Client");
    command.args(["read", &format!("{bootstrap}:9092"), TOPIC]);
    text("the Java client", pod.output(command).unwrap())
}

/// The same with kcat.
fn read_with_librdkafka(pod: &Pod, bootstrap: &str) -> String {
    let kcat = |arguments: &[&str]| {
        let mut command = Command::new("timeout");
        command
            .arg(PATIENCE.as_secs().to_string())
            .arg(tools::kcat().unwrap())
            .args(["-b", &format!("{bootstrap}:9092")])
            .args(arguments);
        text("kcat", pod.output(command).unwrap())
    };
    let listed: serde_json::Value = serde_json::from_str(&kcat(&["-L", "-J"])).unwrap();
    let broker = listed["brokers"][0]["name"].as_str().unwrap();
    let message = kcat(&["-C", "-t", TOPIC, "-o", "beginning", "-e", "-q"]);
    format!("broker {broker}\nmessage {message}")
}

/// Two endpoints of one address each: a broker has one.
fn world() -> World {
    let mut world = World::default();
    for zone in &mut world.zones {
        zone.records.dedup_by(|one, other| one.owner == other.owner);
    }
    world
}

fn reach_their_own_brokers(lab: &Lab, gregor: &Gregor, bootstrap: &str) {
    for namespace in ["foo", "bar"] {
        let expected = format!("broker {}\nmessage of {namespace}\n", advertised(bootstrap));
        let pod = lab.pod(namespace);
        let before = Metrics::of(gregor);
        assert_eq!(
            read_with_java(pod, bootstrap),
            expected,
            "Java in {namespace}"
        );
        let between = Metrics::of(gregor);
        assert!(between.intercepted() > before.intercepted());
        assert_eq!(
            read_with_librdkafka(pod, bootstrap),
            expected,
            "librdkafka in {namespace}"
        );
        assert!(Metrics::of(gregor).intercepted() > between.intercepted());
    }
}

fn start_clusters(lab: &Lab, bootstrap: &str) {
    start_cluster(lab, "foo", bootstrap, FOO_ADDRESSES[0], 19092);
    start_cluster(lab, "bar", bootstrap, BAR_ADDRESSES[0], 29092);
}

#[test]
fn each_tenants_clients_reach_its_own_brokers() {
    let lab = Lab::builder("e2ebrokers")
        .pod("foo")
        .pod("bar")
        .world(world())
        .start()
        .unwrap();
    start_clusters(&lab, BROKER);
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    reach_their_own_brokers(&lab, &gregor, BROKER);
}

/// By the names that brokers advertise, from pods with `ndots: 5` and no `dnsConfig`: who asks decides.
#[test]
fn each_tenants_clients_reach_its_own_brokers_by_unmodified_names() {
    let lab = Lab::builder("e2eunmodj")
        .pod("foo")
        .pod("bar")
        .pod("baz")
        .world(with_public_names(world()))
        .start()
        .unwrap();
    start_clusters(&lab, UNMODIFIED);
    start_cluster(&lab, "public", UNMODIFIED, PUBLIC_ADDRESS, 39092);
    let pods = Pods::new(&lab);
    pods.say(lab.pods().map(|pod| (pod, "{}")));
    lab.pods().for_each(without_dns_config);
    let config = format!("{}{UNMODIFIED_RULE}{}", lab.gregor_config(), pods.config());
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    known(&gregor, &lab);
    reach_their_own_brokers(&lab, &gregor, UNMODIFIED);
    // Without a Service, the public ones.
    let expected = format!("broker {}\nmessage of public\n", advertised(UNMODIFIED));
    assert_eq!(read_with_java(lab.pod("baz"), UNMODIFIED), expected);
    assert_eq!(read_with_librdkafka(lab.pod("baz"), UNMODIFIED), expected);
}
