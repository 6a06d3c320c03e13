//! A client: all pods that the rules cannot tell apart, and so have the same answers.

use std::collections::BTreeMap;

/// What rules may depend on of who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Client {
    /// An RFC 1123 label in lower case.
    pub namespace: String,
    /// Those of its labels that rules name. One that it has not is left out.
    pub labels: BTreeMap<String, String>,
}
