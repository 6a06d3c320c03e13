//! `[kubernetes]`: what is asked of the API server of the cluster, and how its Services are named.

use std::path::PathBuf;

use super::reader::{Reader, Section};
use crate::{nameservers::kubelet, sources::ClusterDomain};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether Services that are targets of rules are watched, where gregor runs in a cluster and may.
    pub watch: bool,
    /// Whether the tenants' Services get Events.
    pub events: bool,
    /// What the names of Services end with.
    pub cluster_domain: ClusterDomain,
    /// Where the kubelet says which servers pods ask; looked at with `servers = "auto"`.
    pub kubelet_config: PathBuf,
    /// The directory of files that go over it, where the kubelet has one.
    pub kubelet_config_dir: Option<PathBuf>,
}

pub(super) const KEYS: [&str; 5] = [
    "watch",
    "events",
    "cluster_domain",
    "kubelet_config",
    "kubelet_config_dir",
];

pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_, '_>) -> Kubernetes {
    let section = reader.section(root, "kubernetes");
    reader.refuse_unknown(&section, &KEYS);
    let mut kubernetes = Kubernetes::default();
    if let Some(watch) = reader.boolean(&section, "watch") {
        kubernetes.watch = watch;
    }
    if let Some(events) = reader.boolean(&section, "events") {
        kubernetes.events = events;
    }
    if let Some(text) = reader.string(&section, "cluster_domain", "\"cluster.local\"") {
        match ClusterDomain::new(&text.value) {
            Some(domain) => kubernetes.cluster_domain = domain,
            None => reader.complain(
                &text.span,
                section.key("cluster_domain"),
                format!("\"{}\" is not a domain", text.value),
                "write the kubelet's clusterDomain, as in \"cluster.local\"",
            ),
        }
    }
    if let Some(path) = read_path(reader, &section, "kubelet_config") {
        kubernetes.kubelet_config = path;
    }
    kubernetes.kubelet_config_dir = read_path(reader, &section, "kubelet_config_dir");
    kubernetes
}

fn read_path(reader: &mut Reader<'_>, section: &Section<'_, '_>, key: &str) -> Option<PathBuf> {
    let remedy = "write the path from the root on, as the kubelet's --config has it";
    reader.absolute(section, key, kubelet::CONFIG, remedy)
}

impl Default for Kubernetes {
    fn default() -> Self {
        Kubernetes {
            watch: true,
            events: true,
            cluster_domain: ClusterDomain::default(),
            kubelet_config: kubelet::CONFIG.into(),
            kubelet_config_dir: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const SERVERS: &str = "[intercept]\nservers = [\"169.254.20.10\"]\n";

    fn parse(text: &str) -> Result<Kubernetes, String> {
        let text = format!("{SERVERS}{text}");
        Config::parse(Path::new("c.toml"), &text)
            .map(|config| config.kubernetes)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn without_a_section_services_of_the_usual_domain_are_watched() {
        let default = parse("").unwrap();
        assert!(default.watch && default.events);
        assert_eq!(
            default.cluster_domain,
            ClusterDomain::new("cluster.local").unwrap()
        );
        assert_eq!(
            default.kubelet_config.to_str(),
            Some("/var/lib/kubelet/config.yaml")
        );
        assert_eq!(default.kubelet_config_dir, None);
        let other = parse(
            "[kubernetes]\nkubelet_config = \"/etc/k.json\"\nkubelet_config_dir = \"/etc/k.json.d\"",
        )
        .unwrap();
        assert_eq!(other.kubelet_config.to_str(), Some("/etc/k.json"));
        assert_eq!(
            other.kubelet_config_dir,
            Some(PathBuf::from("/etc/k.json.d"))
        );
        let other =
            parse("[kubernetes]\nwatch = false\nevents = false\ncluster_domain = \"K8s.example.\"")
                .unwrap();
        assert!(!other.watch && !other.events);
        assert_eq!(
            other.cluster_domain,
            ClusterDomain::new("k8s.example").unwrap()
        );
    }

    #[test]
    fn mistakes_are_named_with_line_and_key() {
        for (text, parts) in [
            (
                "[kubernetes]\nwatch = \"yes\"",
                ["c.toml:4", "kubernetes.watch", "true or false"],
            ),
            (
                "[kubernetes]\nevents = 1",
                ["c.toml:4", "kubernetes.events", "true or false"],
            ),
            (
                "[kubernetes]\ncluster_domain = \"a b\"",
                ["c.toml:4", "kubernetes.cluster_domain", "clusterDomain"],
            ),
            (
                "[kubernetes]\nkubelet_config = \"config.yaml\"",
                ["c.toml:4", "kubernetes.kubelet_config", "absolute path"],
            ),
            (
                "[kubernetes]\nclusterdomain = \"a\"",
                ["c.toml:4", "kubernetes.clusterdomain", "`cluster_domain`"],
            ),
            ("kubernetes = 1", ["c.toml", "kubernetes", "table"]),
        ] {
            // A key in front of the first table belongs to the file.
            let whole = if text.starts_with('[') {
                parse(text)
            } else {
                Config::parse(Path::new("c.toml"), &format!("{text}\n{SERVERS}"))
                    .map(|config| config.kubernetes)
                    .map_err(|errors| errors.to_string())
            };
            let said = whole.unwrap_err();
            for part in parts {
                assert!(said.contains(part), "{text}: no {part} in {said}");
            }
        }
    }
}
