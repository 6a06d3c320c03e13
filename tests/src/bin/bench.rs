//! The benchmarks, as `cargo xtask bench` starts them.

use std::process::ExitCode;

use clap::Parser;
use gregor_tests::bench;

#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench")]
enum Cli {
    /// Times of the kernel program by BPF_PROG_TEST_RUN, as ratios to a reflector of a fixed answer
    Program(bench::program::Options),
}

fn main() -> anyhow::Result<ExitCode> {
    let within = match Cli::parse() {
        Cli::Program(options) => bench::program::run(&options)?,
    };
    Ok(if within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
