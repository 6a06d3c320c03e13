//! `cargo xtask e2e`: gregor among the real programs that it is made for.

mod kubernetes;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub struct Options {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// A cluster of two nodes on this machine, the image and the chart in it, tenants and what they see
    Kubernetes(kubernetes::Options),
    /// The first process of a node of that cluster, which starts the others
    #[command(hide = true)]
    Node(kubernetes::NodeOptions),
}

pub fn run(options: &Options) -> Result<ExitCode> {
    match &options.what {
        What::Kubernetes(options) => kubernetes::run(options),
        What::Node(options) => kubernetes::node(options),
    }
}
