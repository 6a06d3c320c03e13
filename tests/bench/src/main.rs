//! The benchmarks, as `cargo xtask bench` starts them: what is measured, and beside what.

mod analyse;
mod churn;
mod claims;
mod compare;
mod contenders;
mod external;
mod figures;
mod gate;
mod html;
mod journal;
mod latency;
mod limits;
mod load;
mod machine;
mod measure;
mod metric;
mod pair;
mod plan;
mod program;
mod run;
mod schema;
mod stats;
mod terminal;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

/// Puts gregor beside what people run today, in one run, and writes target/bench/report.html and report.json
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    task: Option<Task>,
    #[command(flatten)]
    run: run::Options,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Times of the kernel program by BPF_PROG_TEST_RUN, as ratios to a reflector of a fixed answer
    Program(program::Options),
    /// Pods that come and go: time to a program, a burst, a restart, memory; exit code 1 when a figure is missed
    Churn(churn::Options),
    /// Two reports beside each other; exit code 1 when something is worse
    Compare(compare::Options),
    /// Judges the ratios between Criterion's benches; exit code 1 when one is over its limit
    Gate(gate::Options),
    /// Writes the page of a report.json anew
    Render(Render),
}

#[derive(Debug, Args)]
struct Render {
    #[arg(default_value = "target/bench/report.json")]
    report: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let within = match cli.task {
        None => run::run(&cli.run)?,
        Some(Task::Program(options)) => program::run(&options)?,
        Some(Task::Churn(options)) => churn::run(&options)?,
        Some(Task::Compare(options)) => compare::run(&options)?,
        Some(Task::Gate(options)) => gate::run(&options)?,
        Some(Task::Render(render)) => {
            println!("{}", run::render(&render.report)?.display());
            true
        }
    };
    Ok(if within {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
