//! Pods whose identity a static file says, and the rules for unmodified names.

use std::{fs, path::PathBuf};

use gregor_tests::lab::{Gregor, Lab, Pod};

use super::until;

/// The provider's own names, for whoever has a Service.
pub const UNMODIFIED: &str = r#"
[[rule]]
name  = "unmodified"
match = "*.aws.private.kafka.managed"
cname = "kafka-upstream.{client.namespace}.svc.cluster.local"
"#;

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
