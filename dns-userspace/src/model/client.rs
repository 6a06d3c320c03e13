//! A client: all pods that the rules cannot tell apart, and so have the same answers.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

/// What rules may depend on of who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// An RFC 1123 label in lower case.
    pub namespace: String,
    /// Those of its labels that rules name. One that it has not is left out.
    pub labels: BTreeMap<String, String>,
    /// The Service of its namespace that each pattern of names leads to, for the patterns that the namespace claims.
    pub claims: BTreeMap<String, String>,
}

/// Identifies clients by where their packets come from.
pub trait Identify: Send + Sync + 'static {
    /// The id of the client behind an interface, and who that is, where this source address is its own.
    fn asking(&self, ifindex: u32, source: IpAddr) -> Option<(u32, Arc<Client>)>;
}
