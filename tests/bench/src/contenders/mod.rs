//! What is measured, each real and started by the harness: the two limits, the caches that people run, gregor over them.

mod cluster;
mod coredns;
mod gregor;
mod limit;
mod testbed;
mod unbound;

use anyhow::{Context as _, Result};

pub use gregor::Setup as GregorSetup;
pub use testbed::{Needs, Senders, Testbed, frames_for, in_namespace, names_of, namespace};

/// Something that answers DNS queries of pods.
pub trait Contender: Sync {
    /// Short and stable: cells and reports name it so.
    fn id(&self) -> &'static str;

    /// For a person who reads the report.
    fn title(&self) -> &'static str;

    /// What exactly was started.
    fn about(&self) -> String;

    /// Installs or builds what is missing, makes a lab and starts it there.
    fn start(&self, needs: &Needs) -> Result<Testbed>;
}

pub const DISCARD: &str = "discard";
pub const REFLECTOR: &str = "reflector";
pub const REFLECTOR_LONG: &str = "reflector-long";
pub const COREDNS: &str = "coredns";
pub const NODELOCAL: &str = "nodelocal";
pub const UNBOUND: &str = "unbound";
pub const GREGOR_COREDNS: &str = "gregor+coredns";
pub const GREGOR_NODELOCAL: &str = "gregor+nodelocal";
pub const RESPONDER: &str = "responder+nodelocal";

/// All of them, limits first.
pub fn all() -> Vec<Box<dyn Contender>> {
    vec![
        Box::new(limit::DISCARD),
        Box::new(limit::REFLECTOR),
        Box::new(limit::REFLECTOR_LONG),
        Box::new(coredns::COREDNS),
        Box::new(coredns::NODELOCAL),
        Box::new(unbound::Unbound),
        Box::new(gregor::OVER_COREDNS),
        Box::new(gregor::OVER_NODELOCAL),
        Box::new(gregor::RESPONDER),
    ]
}

pub fn by_id(id: &str) -> Result<Box<dyn Contender>> {
    all()
        .into_iter()
        .find(|contender| contender.id() == id)
        .with_context(|| format!("no contender {id}"))
}
