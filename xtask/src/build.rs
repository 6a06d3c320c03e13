//! `cargo xtask build`: the gregor binary with the eBPF object inside.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::{
    cross::{self, Arch},
    elf, machine, setup,
};

#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Optimised, in target/release
    #[arg(long)]
    pub release: bool,
    /// One file without libraries, in target/TRIPLE/release
    #[arg(long = "static")]
    pub is_static: bool,
    /// Architecture of the static binary; this machine's unless named
    #[arg(long, value_name = "ARCH", requires = "is_static")]
    pub arch: Option<Arch>,
}

impl Options {
    fn profile(&self) -> &'static str {
        if self.release { "release" } else { "debug" }
    }
}

/// Builds and returns the binary's path.
pub fn run(options: &Options) -> Result<PathBuf> {
    setup::ensure_build()?;
    let binary = if options.is_static {
        static_binary(options)?
    } else {
        ordinary_binary(options)?
    };
    eprintln!("gregor: {}", binary.display());
    Ok(binary)
}

fn ordinary_binary(options: &Options) -> Result<PathBuf> {
    let mut cargo = machine::cargo()?;
    cargo.arg("build");
    compile(&mut cargo, options)?;
    existing(machine::target_directory()?.join(options.profile()))
}

fn static_binary(options: &Options) -> Result<PathBuf> {
    let arch = match options.arch {
        Some(arch) => arch,
        None => Arch::host()?,
    };
    compile(&mut cross::cargo(arch, "build")?, options)?;
    let directory = machine::target_directory()?
        .join(arch.triple())
        .join(options.profile());
    let binary = existing(directory)?;
    elf::ensure_static(&binary)?;
    Ok(binary)
}

/// What a static binary has beside: it is for images, and those are for clusters. Elsewhere it would only cost compile time.
const FEATURES: &str = "kubernetes";

fn compile(cargo: &mut std::process::Command, options: &Options) -> Result<()> {
    cargo.args(["--package", "dns-userspace", "--bin", "gregor"]);
    if options.release {
        cargo.arg("--release");
    }
    if options.is_static {
        cargo.args(["--features", FEATURES]);
    }
    let status = cargo.status().context("running cargo")?;
    if !status.success() {
        bail!("building gregor: {status}");
    }
    Ok(())
}

fn existing(directory: PathBuf) -> Result<PathBuf> {
    let binary = directory.join("gregor");
    if !binary.exists() {
        bail!("cargo left no {}", binary.display());
    }
    Ok(binary)
}
