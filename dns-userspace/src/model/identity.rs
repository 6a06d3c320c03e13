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

macro_rules! reasons {
    ($( $(#[doc = $doc:literal])+ $name:ident => $label:literal, $text:literal; )+) => {
        /// Why nobody is known behind an interface.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum WhyNot { $( $(#[doc = $doc])+ $name, )+ }

        impl WhyNot {
            pub const ALL: &'static [WhyNot] = &[$( WhyNot::$name, )+];

            /// The name used in metrics.
            pub const fn label(self) -> &'static str {
                match self { $( WhyNot::$name => $label, )+ }
            }

            /// For people.
            pub const fn text(self) -> &'static str {
                match self { $( WhyNot::$name => $text, )+ }
            }
        }
    };
}

reasons! {
    /// No source is configured.
    Off => "off", "no source of identity is configured";
    /// No source knows a pod for it.
    Unknown => "unknown", "no source knows a pod for it";
    /// No source knows a pod for it, and the API server has not said anything yet.
    Unlisted => "unlisted", "the API server has not listed the pods of this node yet";
    /// It is new: nothing was read of it yet.
    Unread => "unread", "it was not looked at yet";
    /// What is inside the peer's network namespace cannot be read.
    Unreadable => "unreadable", "the network namespace behind it cannot be read";
    /// It is no veth with its peer in another network namespace.
    NotPodVeth => "no_pod_veth", "it is no veth whose peer is in another network namespace";
    /// Several pods may be it, or several claim each of its addresses.
    Ambiguous => "ambiguous", "several pods claim it, or its addresses";
    /// An address of another pod is configured behind it.
    ForeignAddress => "foreign_address", "an address of another pod is configured behind it";
    /// A pod in the node's own network.
    HostNetwork => "host_network", "the pod uses the network of the node";
    /// Phase Succeeded or Failed, or deleted.
    Finished => "finished", "the pod has finished or is deleted";
    /// The name fits, its MAC address or that of its peer does not.
    Disagrees => "disagrees", "what the source says of it, its MAC addresses or those behind it do not agree";
    /// It was another pod's.
    Changed => "changed", "it belonged to another pod before";
    /// The namespace is no RFC 1123 label.
    NotALabel => "no_label", "the namespace is no RFC 1123 label";
    /// The source says no address for the pod.
    NoAddress => "no_address", "the pod has no address";
}

/// Who is behind an interface, or why nobody is known.
pub type Who = Result<std::sync::Arc<Identity>, WhyNot>;
