//! Which Services can be targets of the rules, and so what is watched: as little as the rules allow; no I/O.
//!
//! A rule's target is a Service where it is spelled `SERVICE.NAMESPACE.svc.CLUSTER-DOMAIN`. Where SERVICE is written out, the
//! watch is for that name, of any type: a Service that has become another type can then be distinguished from one that was deleted. Where
//! it is not, and the namespace is not either, every Service would match: then only those of type ExternalName are watched.

use std::{collections::BTreeSet, fmt};

use hickory_proto::rr::Name;

use crate::rules::template_labels;

/// Watches beyond this are one for every ExternalName of the cluster: each is a connection of each node.
pub const MAX_WATCHES: usize = 16;

/// Services that are watched together. The order is that of their width.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Selector {
    /// `None` for any.
    pub name: Option<String>,
    /// `None` for any.
    pub namespace: Option<String>,
}

impl Selector {
    /// Every ExternalName of the cluster.
    pub const ANY: Selector = Selector {
        name: None,
        namespace: None,
    };

    pub fn selects(&self, namespace: &str, name: &str) -> bool {
        self.name.as_deref().is_none_or(|own| own == name)
            && self.namespace.as_deref().is_none_or(|own| own == namespace)
    }

    /// Whether Services of every type are watched, so that one which is not there does not exist.
    pub fn has_all_types(&self) -> bool {
        *self != Selector::ANY
    }

    /// The field selector of the API; empty for all Services of the namespace.
    pub fn fields(&self) -> String {
        match &self.name {
            Some(name) => format!("metadata.name={name}"),
            None if self.has_all_types() => String::new(),
            None => "spec.type=ExternalName".to_owned(),
        }
    }

    /// Whether everything that `other` selects is selected here, as well as there.
    fn covers(&self, other: &Selector) -> bool {
        let within = |own: &Option<String>, other: &Option<String>| own.is_none() || own == other;
        within(&self.name, &other.name)
            && within(&self.namespace, &other.namespace)
            && (self.has_all_types() || !other.has_all_types())
    }
}

/// For logs and `gregor status`.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.namespace, &self.name) {
            (Some(namespace), Some(name)) => write!(f, "{name} in {namespace}"),
            (Some(namespace), None) => write!(f, "all in {namespace}"),
            (None, Some(name)) => write!(f, "{name} in every namespace"),
            (None, None) => f.write_str("every ExternalName"),
        }
    }
}

/// The domain that the names of Services end with, `cluster.local` for most.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDomain {
    /// With `svc` in front, in lower case.
    labels: Vec<String>,
}

impl Default for ClusterDomain {
    fn default() -> Self {
        ClusterDomain {
            labels: ["svc", "cluster", "local"].map(str::to_owned).into(),
        }
    }
}

impl ClusterDomain {
    /// `None` for what is not a domain.
    pub fn new(text: &str) -> Option<ClusterDomain> {
        let text = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        let name = Name::from_ascii(&text).ok()?;
        let is_domain = !text.is_empty()
            && name.num_labels() > 0
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b));
        is_domain.then(|| ClusterDomain {
            labels: ["svc"]
                .into_iter()
                .chain(text.split('.'))
                .map(str::to_owned)
                .collect(),
        })
    }

    /// What the names of Services end with, in lower case.
    pub fn suffix(&self) -> String {
        self.labels.join(".")
    }

    /// The domain itself, in lower case, without the final dot.
    pub fn domain(&self) -> String {
        self.labels.get(1..).unwrap_or_default().join(".")
    }

    /// The namespace and the name of the Service that a target names.
    pub fn service_of(&self, target: &Name) -> Option<(String, String)> {
        let text = target.to_ascii().to_ascii_lowercase();
        let mut labels = self.before(text.strip_suffix('.').unwrap_or(&text))?;
        let (name, namespace) = (labels.next()?, labels.next()?);
        (labels.next().is_none()).then(|| (namespace.to_owned(), name.to_owned()))
    }

    /// The target that names a Service.
    pub fn target_of(&self, namespace: &str, name: &str) -> Option<Name> {
        let labels = [name, namespace]
            .into_iter()
            .chain(self.labels.iter().map(String::as_str));
        Name::from_labels(labels.map(str::as_bytes)).ok()
    }

    /// The labels in front of the domain, if the text ends with it.
    fn before<'t>(&self, text: &'t str) -> Option<impl Iterator<Item = &'t str>> {
        let labels: Vec<&str> = template_labels(text).collect();
        let front = labels.len().checked_sub(self.labels.len())?;
        (labels[front..] == self.labels).then(|| labels.into_iter().take(front))
    }
}

/// What has to be watched for these targets, spelled as the `cname` keys of rules are.
pub fn selectors<'c>(
    cnames: impl IntoIterator<Item = &'c str>,
    domain: &ClusterDomain,
) -> Vec<Selector> {
    let mut found = BTreeSet::new();
    for cname in cnames {
        let text = cname
            .strip_suffix('.')
            .unwrap_or(cname)
            .to_ascii_lowercase();
        let Some(front) = domain.before(&text) else {
            continue;
        };
        let literal = |label: &str| (!label.contains('{')).then(|| label.to_owned());
        match front.collect::<Vec<_>>()[..] {
            [name, namespace] => found.insert(Selector {
                name: literal(name),
                namespace: literal(namespace),
            }),
            // A group of an expression may have several labels.
            [both] if both.contains('{') => found.insert(Selector::ANY),
            _ => continue,
        };
    }
    if found.len() > MAX_WATCHES {
        return vec![Selector::ANY];
    }
    let all: Vec<Selector> = found.into_iter().collect();
    all.iter()
        .filter(|selector| {
            !all.iter()
                .any(|other| other != *selector && other.covers(selector))
        })
        .cloned()
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn domain() -> ClusterDomain {
        ClusterDomain::new("Cluster.Local.").unwrap()
    }

    fn of(cnames: &[&str]) -> Vec<(String, String)> {
        selectors(cnames.iter().copied(), &domain())
            .iter()
            .map(|selector| (selector.to_string(), selector.fields()))
            .collect()
    }

    fn pair(a: &str, b: &str) -> (String, String) {
        (a.to_owned(), b.to_owned())
    }

    #[test]
    fn a_name_that_is_written_out_is_watched_alone() {
        assert_eq!(
            of(&[
                "Kafka-Upstream.{namespace}.svc.cluster.local.",
                "kafka-upstream.{namespace}.svc.cluster.local",
                "other.{namespace}.svc.other.domain",
                "broker.example.com",
                "kafka-upstream.{client.namespace}.svc.cluster.local",
                "a.b.{namespace}.svc.cluster.local",
                "svc.cluster.local",
            ]),
            [pair(
                "kafka-upstream in every namespace",
                "metadata.name=kafka-upstream"
            )]
        );
    }

    #[test]
    fn names_with_captures_are_watched_as_narrowly_as_they_can_be() {
        assert_eq!(
            of(&["up.{client.namespace}.svc.cluster.local"]),
            [pair("up in every namespace", "metadata.name=up")]
        );
        assert_eq!(
            of(&["up-{namespace}.shared.svc.cluster.local"]),
            [pair("all in shared", "")]
        );
        assert_eq!(
            of(&["{service}.{namespace}.svc.cluster.local"]),
            [pair("every ExternalName", "spec.type=ExternalName")]
        );
        assert_eq!(
            of(&["{1}.svc.cluster.local"]),
            [pair("every ExternalName", "spec.type=ExternalName")]
        );
        assert_eq!(
            of(&["up.shared.svc.cluster.local"]),
            [pair("up in shared", "metadata.name=up")]
        );
    }

    #[test]
    fn what_another_watch_has_is_not_watched_twice() {
        assert_eq!(
            of(&[
                "up.shared.svc.cluster.local",
                "up.{namespace}.svc.cluster.local"
            ])
            .len(),
            1
        );
        // The wider one does not distinguish a deletion from a change of the type.
        assert_eq!(
            of(&[
                "up.{namespace}.svc.cluster.local",
                "{service}.{namespace}.svc.cluster.local"
            ])
            .len(),
            2
        );
    }

    #[test]
    fn the_number_of_watches_is_bounded() {
        let cnames: Vec<String> = (0..=MAX_WATCHES)
            .map(|number| format!("up{number}.{{namespace}}.svc.cluster.local"))
            .collect();
        let of = |count: usize| selectors(cnames[..count].iter().map(String::as_str), &domain());
        assert_eq!(of(MAX_WATCHES).len(), MAX_WATCHES);
        assert_eq!(of(MAX_WATCHES + 1), [Selector::ANY]);
    }

    #[test]
    fn targets_and_services_name_each_other() {
        let domain = domain();
        let target = Name::from_ascii("Up.Foo.SVC.cluster.local.").unwrap();
        let (namespace, name) = domain.service_of(&target).unwrap();
        assert_eq!((namespace.as_str(), name.as_str()), ("foo", "up"));
        assert_eq!(domain.target_of(&namespace, &name).unwrap(), target);
        for other in [
            "a.up.foo.svc.cluster.local.",
            "foo.svc.cluster.local.",
            "up.foo.pod.cluster.local.",
            "up.foo.svc.cluster.",
            ".",
        ] {
            let name = Name::from_ascii(other).unwrap();
            assert_eq!(domain.service_of(&name), None, "{other}");
        }
    }

    #[test]
    fn a_cluster_domain_is_a_name() {
        for bad in ["", ".", "a..b", "a b", "*.local", &"x".repeat(64)] {
            assert_eq!(ClusterDomain::new(bad), None, "{bad:?}");
        }
        assert!(ClusterDomain::new("k8s.example-1.com").is_some());
    }
}
