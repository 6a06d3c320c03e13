//! `cargo xtask test`: formatting, lints, unit tests, end-to-end tests, and one closing line over all of them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::Args;
use gregor_lab::{SKIPPED_FILE, tools::say};

use crate::{
    build, fuzz,
    litmus::{self, Herd},
    machine::{self, Toolchain},
    manifests, setup,
    table::{bold, line},
};

#[derive(Debug, Args)]
pub struct Options {
    /// Only tests whose name contains this, and neither formatting nor lints
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Only what needs no privileges: no end-to-end tests
    #[arg(long)]
    unit: bool,
}

/// Crates for the BPF target, which are linted by themselves and have no tests.
const BPF: [&str; 2] = ["dns-ebpf", "bench-ebpf"];

/// Crates whose tests make network namespaces or load programs.
const PRIVILEGED: [&str; 3] = ["gregor-lab", "gregor-tests", "gregor-bench"];

#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: Vec<String>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let mut tally = Tally::default();
    if let Err(error) = steps(options, &mut tally) {
        say(&format!("error: {error:#}"));
        tally.failed += 1;
    }
    println!();
    for skipped in &tally.skipped {
        println!("skipped: {skipped}");
    }
    if !tally.skipped.is_empty() {
        println!("{} skipped", tally.skipped.len());
    }
    println!("{} passed, {} failed", tally.passed, tally.failed);
    Ok(if tally.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn steps(options: &Options, tally: &mut Tally) -> Result<()> {
    setup::ensure_build()?;
    if options.filter.is_none() {
        setup::ensure_lints()?;
        setup::ensure_deny()?;
        lint(tally)?;
    }

    let mut unit = cargo_test("--workspace")?;
    for package in PRIVILEGED.iter().chain(&BPF) {
        unit.args(["--exclude", package]);
    }
    harness("unit tests", filter(&mut unit, options, false), tally)?;
    // The client of the API server is in the image only, and so are its tests.
    let mut kubernetes = cargo_test("--package")?;
    kubernetes.args(["dns-userspace", "--lib", "--features", "kubernetes"]);
    harness(
        "unit tests, with the Kubernetes API",
        filter(&mut kubernetes, options, false).args(["sources::"]),
        tally,
    )?;
    if options.unit {
        return Ok(());
    }
    if options.filter.is_none() {
        fuzz(tally)?;
    }

    setup::ensure_run()?;
    setup::ensure_tests()?;
    if options.filter.is_none() {
        chart(tally);
        litmus(tally)?;
    }
    let binary = build::run(&build::Options {
        release: true,
        ..Default::default()
    })?;
    let skipped = machine::target_directory()?.join("skipped-tests.txt");
    let _ = fs::remove_file(&skipped);
    for package in PRIVILEGED {
        let mut tests = cargo_test("--package")?;
        tests
            .arg(package)
            .env("GREGOR_BINARY", &binary)
            .env(SKIPPED_FILE, &skipped);
        harness(
            &format!("end-to-end tests, {package}"),
            filter(&mut tests, options, true),
            tally,
        )?;
    }
    // These returned early and so were counted as passed.
    for reason in fs::read_to_string(&skipped).unwrap_or_default().lines() {
        tally.passed = tally.passed.saturating_sub(1);
        tally.skipped.push(reason.to_owned());
    }
    let _ = fs::remove_file(&skipped);
    Ok(())
}

fn lint(tally: &mut Tally) -> Result<()> {
    step(
        "formatting",
        machine::cargo()?.args(["fmt", "--all", "--check"]),
        tally,
    )?;
    step(
        "dependencies",
        machine::cargo()?
            .args(["deny", "--locked", "check", "--hide-inclusion-graph"])
            .args(["bans", "licenses", "sources"]),
        tally,
    )?;
    step(
        "clippy, host crates",
        machine::cargo()?
            .args(["clippy", "--workspace", "--all-targets"])
            .args(BPF.iter().flat_map(|package| ["--exclude", package]))
            .args(["--", "-D", "warnings"]),
        tally,
    )?;
    step(
        "clippy, with the Kubernetes API",
        machine::cargo()?
            .args(["clippy", "--package", "dns-userspace", "--all-targets"])
            .args(["--features", "kubernetes", "--", "-D", "warnings"]),
        tally,
    )?;
    // By itself: in one run with the host crates its panic handler clashes with that of std.
    let toolchain = Toolchain::find().context("no toolchain for the BPF target")?;
    step(
        "clippy, BPF crates",
        toolchain
            .clippy()
            .current_dir(machine::root()?)
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
            )
            .args(BPF.iter().flat_map(|package| ["--package", package]))
            .args(["-Z", "build-std=core"])
            .args(["--target", "bpfel-unknown-none", "--target-dir"])
            .arg(machine::target_directory()?.join("clippy-bpf"))
            .args(["--", "-D", "warnings"]),
        tally,
    )
}

/// Each fuzz target for a fixed number of executions: what lies next to the corpus, no more.
fn fuzz(tally: &mut Tally) -> Result<()> {
    headline("fuzz targets");
    let started = Instant::now();
    let (passed, failed) = fuzz::short()?;
    say(&format!(
        "fuzz targets: {passed} passed, {failed} failed in {} s",
        started.elapsed().as_secs()
    ));
    tally.passed += passed;
    tally.failed += failed;
    Ok(())
}

/// The chart, and the manifests made of it.
fn chart(tally: &mut Tally) {
    headline("chart");
    match manifests::check() {
        Ok(renderings) => {
            say(&format!("chart: {renderings} renderings passed"));
            tally.passed += 1;
        }
        Err(error) => {
            say(&format!("chart: {error:#}"));
            tally.failed += 1;
        }
    }
}

/// The order of loads and stores around an answer, where herd7 is available.
fn litmus(tally: &mut Tally) -> Result<()> {
    headline("litmus tests");
    match Herd::find() {
        Ok(herd) => {
            let (passed, failed) = litmus::all(&herd)?;
            tally.passed += passed;
            tally.failed += failed;
        }
        Err(error) => tally.skipped.push(format!("litmus tests: {error:#}")),
    }
    Ok(())
}

fn cargo_test(which: &str) -> Result<Command> {
    let mut command = machine::cargo()?;
    command.args(["test", "--no-fail-fast", which]);
    Ok(command)
}

fn filter<'a>(command: &'a mut Command, options: &Options, one_by_one: bool) -> &'a mut Command {
    command.arg("--");
    if one_by_one {
        // Some of them flood an interface or measure: they must not disturb each other.
        command.arg("--test-threads=1");
    }
    command.args(&options.filter)
}

fn headline(text: &str) {
    println!("\n{}", line(bold(format!("== {text}"))));
}

/// A step that passes or fails as a whole.
fn step(name: &str, command: &mut Command, tally: &mut Tally) -> Result<()> {
    headline(name);
    let started = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{name}: running {:?}", command.get_program()))?;
    let seconds = started.elapsed().as_secs();
    if status.success() {
        say(&format!("{name}: passed in {seconds} s"));
        tally.passed += 1;
    } else {
        say(&format!("{name}: failed after {seconds} s ({status})"));
        tally.failed += 1;
    }
    Ok(())
}

/// Runs `cargo test`, shows its output and adds up what its harnesses say.
fn harness(name: &str, command: &mut Command, tally: &mut Tally) -> Result<()> {
    headline(name);
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("{name}: running cargo"))?;
    let output = child.stdout.take().context("stdout is piped")?;
    let mut own = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        own.read(&line);
    }
    let status = child.wait()?;
    if !status.success() && own.failed == 0 {
        // It did not build, or a test took the whole process with it.
        own.failed = 1;
    }
    say(&format!(
        "{name}: {} passed, {} failed, {} skipped in {} s",
        own.passed,
        own.failed,
        own.skipped.len(),
        started.elapsed().as_secs()
    ));
    tally.passed += own.passed;
    tally.failed += own.failed;
    tally.skipped.extend(own.skipped);
    Ok(())
}

impl Tally {
    /// Takes in one line of a harness's output.
    fn read(&mut self, line: &str) {
        if let Some(rest) = line.strip_prefix("test result: ") {
            for part in rest.split([';', '.']) {
                let mut words = part.split_whitespace();
                if let (Some(Ok(count)), Some(what)) =
                    (words.next().map(str::parse::<u64>), words.next())
                {
                    match what {
                        "passed" => self.passed += count,
                        "failed" => self.failed += count,
                        _ => {}
                    }
                }
            }
        } else if let Some((name, reason)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... ignored"))
        {
            self.skipped.push(format!("{name}{reason}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn harness_output_is_added_up() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test a ... ok",
            "test b ... FAILED",
            "test c ... ignored, takes an hour",
            "test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
            "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s",
        ] {
            tally.read(line);
        }
        assert_eq!(
            tally,
            Tally {
                passed: 13,
                failed: 1,
                skipped: vec!["c, takes an hour".to_owned()],
            }
        );
    }
}
