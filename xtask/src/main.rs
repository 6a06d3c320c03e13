//! Every task of this repository, one file per subcommand.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

mod build;
mod doctor;
mod machine;
mod setup;
mod table;

/// Every task of this repository.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Say what this machine has and lacks, and the command that installs each lack
    Doctor(doctor::Options),
    /// Install what is missing
    Setup(setup::Options),
    /// Build target/debug/gregor, or target/release/gregor
    Build(build::Options),
}

fn main() -> Result<ExitCode> {
    match Cli::parse().task {
        Task::Doctor(options) => doctor::run(&options),
        Task::Setup(options) => setup::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Build(options) => build::run(&options).map(|_| ExitCode::SUCCESS),
    }
}
