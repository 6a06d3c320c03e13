//! Who is behind an interface, as far as the sources of identity agree.

use std::{collections::BTreeMap, net::IpAddr, time::SystemTime};

/// The pod behind an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// An RFC 1123 label, in lower case.
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    /// `None` as long as no source has said.
    pub labels: Option<BTreeMap<String, String>>,
    /// From which it may ask; never empty.
    pub addresses: Vec<IpAddr>,
    /// What said so first.
    pub source: IdentitySource,
    pub since: SystemTime,
}

/// Where an identity is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum IdentitySource {
    /// The results that libcni keeps on the node.
    Cni,
    /// The Kubernetes API.
    Kubernetes,
    /// A static file.
    File,
}

impl IdentitySource {
    /// As it is spelled in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            IdentitySource::Cni => "cni",
            IdentitySource::Kubernetes => "kubernetes",
            IdentitySource::File => "file",
        }
    }
}
