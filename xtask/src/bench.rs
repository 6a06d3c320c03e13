//! `cargo xtask bench`: builds and starts the benchmarks, whose own help says what they measure.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{machine, setup};

#[derive(Debug, Args)]
pub struct Options {
    /// `program [--rounds N] [--repeat N] [--rules N,N]`, or `rules [N]` for the time that N rules take to compile
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        required = true,
        value_name = "BENCHMARK"
    )]
    arguments: Vec<String>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure_build()?;
    let mut cargo = machine::cargo()?;
    cargo.args(["run", "--quiet", "--release", "--package"]);
    match options.arguments.split_first() {
        Some((first, rest)) if first == "rules" => cargo
            .args(["dns-userspace", "--example", "compile_rules", "--"])
            .args(rest),
        _ => {
            setup::ensure_run()?;
            cargo
                .args(["gregor-tests", "--bin", "bench", "--"])
                .args(&options.arguments)
        }
    };
    let status = cargo.status().context("running cargo")?;
    Ok(ExitCode::from(u8::from(!status.success())))
}
