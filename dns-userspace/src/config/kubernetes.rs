//! `[kubernetes]`: what is asked of the API server of the cluster, and how its Services are named.

use super::reader::{Reader, Section};
use crate::sources::ClusterDomain;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// Whether Services that are targets of rules are watched, where gregor runs in a cluster and may.
    pub watch: bool,
    /// Whether the tenants' Services get Events.
    pub events: bool,
    /// What the names of Services end with.
    pub cluster_domain: ClusterDomain,
}

pub(super) const KEYS: [&str; 3] = ["watch", "events", "cluster_domain"];

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
    kubernetes
}

impl Default for Kubernetes {
    fn default() -> Self {
        Kubernetes {
            watch: true,
            events: true,
            cluster_domain: ClusterDomain::default(),
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
