//! Fault injection, as `cargo xtask chaos` starts it.

use std::process::ExitCode;

use clap::Parser;
use gregor_tests::chaos::{self, Run};

/// Replaces, kills, stops, reloads and disturbs gregor while pods go on asking; exit code 1 when a promise is broken
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask chaos")]
struct Cli {
    #[command(flatten)]
    options: chaos::Options,
}

fn main() -> anyhow::Result<ExitCode> {
    let options = Cli::parse().options;
    let run = Run::of(&options);
    let outcome = chaos::run("chaos", &run)?;
    print!("\n{}", chaos::render(&outcome.verdict));
    println!(
        "the kernel dropped {} queries at the existing cache",
        outcome.dropped_at_cache
    );
    if let Some(path) = &options.incidents {
        let lines: String = outcome
            .incidents
            .iter()
            .map(|one| format!("{one:?}\n"))
            .collect();
        std::fs::write(path, lines)?;
    }
    for skipped in &outcome.skipped {
        println!("skipped: {skipped}");
    }
    for broken in &outcome.verdict.broken {
        println!("BROKEN: {broken}");
    }
    Ok(if outcome.verdict.broken.is_empty() {
        println!("every promise was kept");
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
