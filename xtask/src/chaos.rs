//! `cargo xtask chaos`: builds and starts the fault injection, whose own help says what it does.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{build, machine, setup};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// None for some minutes and a million queries; `--long`, `--quick`, `--for SECONDS`, `--hook tcx|clsact`, `--only FAULTS`,
    /// `--rate N`, `--pods N`, `--seed N`, `--incidents FILE`, `--plant FAULT`, `--help`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "OPTION"
    )]
    arguments: Vec<String>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure_build()?;
    setup::ensure_run()?;
    // The harness starts the one beside it.
    build::run(&build::Options {
        release: true,
        ..Default::default()
    })?;
    let status = machine::cargo()?
        .args(["run", "--quiet", "--release", "--package", "gregor-tests"])
        .args(["--bin", "chaos", "--"])
        .args(&options.arguments)
        .status()
        .context("running cargo")?;
    Ok(ExitCode::from(u8::from(!status.success())))
}
