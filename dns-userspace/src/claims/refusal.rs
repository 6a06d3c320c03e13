//! Why a name that a tenant claims does not become a rule.

use std::fmt;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is neither a name nor a pattern.
    Malformed(String),
    /// `may_claim` does not have it.
    NotAllowed,
    /// It has names of the cluster's domain.
    ClusterDomain,
    /// A rule of the configuration answers all of it.
    Shadowed(String),
    /// Another Service of the namespace, an older one, claims the same.
    Contradiction(String),
    /// The namespace claims more than it may.
    TooMany(usize),
    /// The node has no room for more.
    NoRoom(usize),
}

impl Refusal {
    /// Every [`Refusal::label`].
    pub const LABELS: [&'static str; 7] = [
        "malformed",
        "not_allowed",
        "cluster_domain",
        "shadowed",
        "contradiction",
        "too_many",
        "no_room",
    ];

    /// The name used in metrics.
    pub const fn label(&self) -> &'static str {
        match self {
            Refusal::Malformed(_) => Self::LABELS[0],
            Refusal::NotAllowed => Self::LABELS[1],
            Refusal::ClusterDomain => Self::LABELS[2],
            Refusal::Shadowed(_) => Self::LABELS[3],
            Refusal::Contradiction(_) => Self::LABELS[4],
            Refusal::TooMany(_) => Self::LABELS[5],
            Refusal::NoRoom(_) => Self::LABELS[6],
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Malformed(problem) => write!(f, "not a name or `*.` and a domain: {problem}"),
            Refusal::NotAllowed => f.write_str("the platform does not let tenants claim it"),
            Refusal::ClusterDomain => {
                f.write_str("names of the cluster's domain cannot be claimed")
            }
            Refusal::Shadowed(rule) => {
                write!(f, "the platform's rule `{rule}` answers these names")
            }
            Refusal::Contradiction(service) => {
                write!(f, "the Service {service}, which is older, claims the same")
            }
            Refusal::TooMany(limit) => write!(f, "a namespace may claim {limit} names"),
            Refusal::NoRoom(limit) => {
                write!(f, "this node has room for {limit} names of each namespace")
            }
        }
    }
}
