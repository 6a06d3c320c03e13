//! A network interface, and the names of gregor's own ones.

/// A network interface of this namespace.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Interface {
    pub index: u32,
    pub name: String,
}

/// The device by which queries go back to the ingress of their interface, and its peer, which is never up: what the program
/// does not redirect is dropped.
pub const RETURN_DEVICES: [&str; 2] = ["gregor0", "gregor0-peer"];
