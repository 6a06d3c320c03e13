//! `cargo xtask build`: the gregor binary with the eBPF object inside.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{machine, setup};

#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Optimised, in target/release
    #[arg(long)]
    pub release: bool,
}

/// Builds and returns the binary's path.
pub fn run(options: &Options) -> Result<PathBuf> {
    setup::ensure_build()?;
    let mut cargo = machine::cargo()?;
    cargo.args(["build", "--package", "dns-userspace", "--bin", "gregor"]);
    let profile = if options.release {
        cargo.arg("--release");
        "release"
    } else {
        "debug"
    };
    let status = cargo.status().context("running cargo")?;
    if !status.success() {
        bail!("building gregor: {status}");
    }
    let binary = machine::target_directory()?.join(profile).join("gregor");
    if !binary.exists() {
        bail!("cargo left no {}", binary.display());
    }
    eprintln!("gregor: {}", binary.display());
    Ok(binary)
}
