//! The transport that carried a DNS message.

use serde::{Deserialize, Serialize};

/// What carried a query or a reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    Udp,
    Tcp,
}
