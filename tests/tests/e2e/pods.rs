//! Who the pods are, by a static file; and names that brokers advertise, for pods as Kubernetes makes them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use gregor_tests::lab::{
    Gregor, Lab, Pod,
    world::{Data, NODE_LOCAL_V4, PUBLIC_ADDRESS, Record, World, Zone},
};

use super::until;

/// The provider's own name of a broker: five dots, so that resolvers with `ndots: 5` ask for it as it is.
pub const UNMODIFIED: &str = "lkc-abc.eu-west-1.aws.private.confluent.cloud";

/// The rule for such names.
pub const UNMODIFIED_RULE: &str = r#"
[[rule]]
name  = "confluent"
match = "*.eu-west-1.aws.private.confluent.cloud"
cname = "kafka-upstream.{client.namespace}.svc.cluster.local"
"#;

/// The public answer to such names.
pub fn with_public_names(mut world: World) -> World {
    let owner = "*.eu-west-1.aws.private.confluent.cloud.".to_owned();
    let std::net::IpAddr::V4(address) = PUBLIC_ADDRESS else {
        unreachable!("it is IPv4")
    };
    world.zones.push(Zone {
        apex: "confluent.cloud.".to_owned(),
        records: vec![Record {
            owner,
            ttl: 300,
            data: Data::A(address),
        }],
    });
    world
}

/// Gives a pod the resolv.conf that Kubernetes makes without any `dnsConfig`.
pub fn without_dns_config(pod: &Pod) {
    let namespace = &pod.namespace;
    let text = format!(
        "nameserver {NODE_LOCAL_V4}\nsearch {namespace}.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5\n"
    );
    let path = Path::new("/etc/netns").join(pod.netns().name());
    fs::write(path.join("resolv.conf"), text).unwrap();
}

/// The file that says who the pods are, each with its interface, addresses and labels.
pub struct Pods {
    path: PathBuf,
}

impl Pods {
    pub fn new(lab: &Lab) -> Self {
        Self {
            path: lab.directory().join("pods.toml"),
        }
    }

    /// Says that these pods are who they are; `labels` is an inline table.
    pub fn say<'p>(&self, pods: impl IntoIterator<Item = (&'p Pod, &'p str)>) {
        let text: String = pods
            .into_iter()
            .map(|(pod, labels)| {
                format!(
                    "[[pod]]\nnamespace = \"{}\"\npod = \"{}-0\"\ninterface = \"{}\"\n\
                     addresses = [\"{}\", \"{}\"]\nlabels = {labels}\n\n",
                    pod.namespace, pod.namespace, pod.host_interface, pod.v4, pod.v6
                )
            })
            .collect();
        // In one step, as configuration management does it.
        let new = self.path.with_extension("new");
        fs::write(&new, text).unwrap();
        fs::rename(&new, &self.path).unwrap();
    }

    pub fn config(&self) -> String {
        format!(
            "\n[identity]\nsources = [\"file\"]\nfile = \"{}\"\n",
            self.path.display()
        )
    }
}

/// Waits until it is known who is behind the interface of each pod that the file names.
pub fn known(gregor: &Gregor, lab: &Lab) {
    let file = fs::read_to_string(lab.directory().join("pods.toml")).unwrap();
    for pod in lab.pods().filter(|pod| file.contains(&pod.host_interface)) {
        until("the identity of a pod", || {
            let who = who(gregor, pod);
            (who == Some(pod.namespace.clone())).then_some(())
        });
    }
}

/// The namespace of who is behind a pod's interface, as `gregor status` says it.
pub fn who(gregor: &Gregor, pod: &Pod) -> Option<String> {
    let status = gregor.status().unwrap();
    let interfaces = status["interfaces"].as_array().unwrap();
    let own = interfaces
        .iter()
        .find(|interface| interface["name"] == pod.host_interface.as_str())?;
    Some(own["who"]["namespace"].as_str()?.to_owned())
}
