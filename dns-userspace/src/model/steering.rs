//! Steering of TCP connections to the responder: which ones, where they are accepted, and the table of clients.

use std::{
    collections::HashSet,
    fmt::Debug,
    io,
    net::{IpAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

/// Which TCP connections to a server come to the responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteerMode {
    Never,
    /// Those of a client that has just received TC=1.
    AfterTruncation,
    /// All but the node's own.
    Always,
    /// The same, and none that cannot be steered reaches a server.
    Required,
}

/// Where steered connections are accepted, one socket for each family that the node has.
#[derive(Clone, Debug)]
pub struct Listeners {
    pub v4: Arc<TcpListener>,
    /// Missing where the kernel runs without IPv6.
    pub v6: Option<Arc<TcpListener>>,
}

/// The clients whose connections one loaded program steers.
pub trait SteeredClients: Debug + Send + Sync + 'static {
    /// From now on, and for this long, TCP connections of `client` are steered.
    fn insert(&self, client: IpAddr, valid: Duration) -> io::Result<()>;
    /// The addresses of the node, whose connections are never steered, and the servers of which all others' are.
    fn set_own(&self, addresses: &HashSet<IpAddr>, steered: &HashSet<IpAddr>) -> io::Result<()>;
}
