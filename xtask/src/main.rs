//! Every task of this repository, one file per subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use gregor_lab::tools::say;

mod bench;
mod beside;
mod build;
mod chaos;
mod cross;
mod doctor;
mod e2e;
mod elf;
mod emulated;
mod fuzz;
mod image;
mod kernels;
mod litmus;
mod machine;
mod manifests;
mod run;
mod setup;
mod table;
mod test;

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
    /// Write a container image around the static binary
    Image(image::Options),
    /// Render the chart as plain manifests
    Manifests(manifests::Options),
    /// Show gregor in a lab of network namespaces, or run it on this node
    Run(run::Options),
    /// Formatting, lints, unit tests and end-to-end tests
    Test(test::Options),
    /// Measure
    Bench(bench::Options),
    /// Replace, kill, stop and disturb gregor while pods go on asking
    Chaos(chaos::Options),
    /// Prove the order of loads and stores around an answer on arm64, with herd7
    Litmus(litmus::Options),
    /// Fuzz what reads packets, replies and files
    Fuzz(fuzz::Options),
    /// Load the programs and run a lab on other kernels, under qemu
    Kernels(kernels::Options),
    /// End-to-end runs that take more than a lab of network namespaces
    E2e(e2e::Options),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Doctor(options) => doctor::run(&options),
        Task::Setup(options) => setup::run(&options).map(|()| ExitCode::SUCCESS),
        Task::Build(options) => build::run(&options).map(|_| ExitCode::SUCCESS),
        Task::Image(options) => image::run(&options),
        Task::Manifests(options) => manifests::run(&options),
        Task::Run(options) => run::run(&options),
        Task::Test(options) => test::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Chaos(options) => chaos::run(&options),
        Task::Litmus(options) => litmus::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Kernels(options) => kernels::run(&options),
        Task::E2e(options) => e2e::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        // What to do about it, without a backtrace of this program.
        say(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}
