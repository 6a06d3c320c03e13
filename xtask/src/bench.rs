//! `cargo xtask bench`: builds and starts the benchmarks, whose own help says what they measure.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;

use crate::{build, machine, setup};

#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Options {
    /// None for everything beside what people run today: `--quick` for at most 3 minutes, `--resume`, `--cell TEXT`, `--rounds N`, `--list`;
    /// or `program` for times of the kernel program, `churn` for pods that come and go, `rules [N]` for the time that N rules take to compile, `host` for
    /// Criterion's benches and `gate` to judge their ratios, `compare A.json B.json`, `render`
    #[arg(
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "BENCHMARK"
    )]
    arguments: Vec<String>,
}

/// Criterion's benches of what gregor does in userspace.
fn host(cargo: &mut Command) -> &mut Command {
    cargo
        .args(["bench", "--package", "gregor-bench", "--bench", "host"])
        .arg("--")
}

fn harness(cargo: &mut Command) -> &mut Command {
    cargo
        .args(["run", "--quiet", "--release", "--package", "gregor-bench"])
        .arg("--")
}

pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure_build()?;
    let mut cargo = machine::cargo()?;
    match options.arguments.split_first() {
        Some((first, rest)) if first == "rules" => cargo
            .args(["run", "--quiet", "--release", "--package", "dns-userspace"])
            .args(["--example", "compile_rules", "--"])
            .args(rest),
        Some((first, rest)) if first == "host" => host(&mut cargo).args(rest),
        Some((first, _)) if ["gate", "compare", "render"].contains(&first.as_str()) => {
            harness(&mut cargo).args(&options.arguments)
        }
        _ => {
            setup::ensure_run()?;
            // The benchmarks start the one beside them.
            build::run(&build::Options {
                release: true,
                ..Default::default()
            })?;
            harness(&mut cargo).args(&options.arguments)
        }
    };
    if options
        .arguments
        .first()
        .is_some_and(|first| first == "gate")
    {
        // What is judged is measured first, briefly: the limits allow for noise.
        let mut benches = machine::cargo()?;
        let brief = ["--warm-up-time", "0.5", "--measurement-time", "1"];
        let status = host(&mut benches).args(brief).status();
        if !status.context("running cargo")?.success() {
            return Ok(ExitCode::FAILURE);
        }
    }
    let status = cargo.status().context("running cargo")?;
    Ok(ExitCode::from(u8::from(!status.success())))
}
