//! `cargo xtask test`: formatting, lints, unit tests, end-to-end tests, and one closing line over all of them.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Command, ExitCode, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result};
use clap::Args;
use gregor_lab::{
    SKIPPED_FILE,
    tools::{self, say},
};

use crate::{
    beside::Beside,
    build,
    cross::Arch,
    emulated, fuzz,
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
    /// The image and the unit tests of this architecture, under qemu's user emulation, and nothing else
    #[arg(long, value_name = "ARCH", conflicts_with = "unit")]
    arch: Option<Arch>,
}

/// Crates for the BPF target, which are linted by themselves and have no tests.
const BPF: [&str; 2] = ["dns-ebpf", "bench-ebpf"];

/// Crates whose tests make network namespaces or load programs.
const PRIVILEGED: [&str; 3] = ["gregor-lab", "gregor-tests", BENCH];
const BENCH: &str = "gregor-bench";

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
    if let Some(arch) = options.arch {
        return emulated(arch, options, tally);
    }
    if options.filter.is_some() {
        // Single tests are wanted and nothing else.
        return tests(options, tally, None);
    }
    setup::ensure_lints()?;
    let beside = Beside::start()?;
    if !options.unit {
        // The longest of what the lab will want; what goes wrong, it will say then.
        beside.add(|_| drop(tools::coredns()))?;
    }
    beside.add(lint)?;
    if !options.unit {
        beside.add(|tally| {
            check("chart", tally, || {
                Ok(format!("{} renderings", manifests::check()?))
            });
        })?;
        beside.add(litmus)?;
    }
    let ended = tests(options, tally, Some(&beside));
    say("waiting for what was begun beside the tests");
    tally.add(beside.finish()?);
    ended
}

/// The tests themselves.
fn tests(options: &Options, tally: &mut Tally, beside: Option<&Beside<Tally>>) -> Result<()> {
    let mut unit = cargo_test(&["--workspace"])?;
    for package in PRIVILEGED.iter().chain(&BPF) {
        unit.args(["--exclude", package]);
    }
    harness("unit tests", filter(&mut unit, options, false), tally)?;
    let beside = beside.filter(|_| !options.unit);
    if let Some(beside) = beside {
        // Now, since they are built on top of what the unit tests have built.
        beside.add(fuzz)?;
        // Run later, without company: some have limits on their time.
        let ahead: [Make; 2] = [with_kubernetes, || cargo_test(&["--package", BENCH])];
        for tests in ahead {
            beside.add(move |_| build_only(tests))?;
        }
    } else {
        kubernetes(options, tally)?;
    }
    if !options.unit {
        end_to_end(options, tally)?;
    }
    if beside.is_some() {
        kubernetes(options, tally)?;
    }
    Ok(())
}

/// The client of the API server is in the image only, and so are its tests.
fn with_kubernetes() -> Result<Command> {
    cargo_test(&[
        "--package",
        "dns-userspace",
        "--lib",
        "--features",
        "kubernetes",
    ])
}

fn kubernetes(options: &Options, tally: &mut Tally) -> Result<()> {
    harness(
        "unit tests, with the Kubernetes API",
        filter(&mut with_kubernetes()?, options, false).args(["sources::"]),
        tally,
    )
}

/// Ahead of their turn, in which they say what is wrong.
fn build_only(tests: Make) {
    let built = tests().and_then(|mut tests| {
        let output = tests.arg("--no-run").stdin(Stdio::null()).output();
        output.context("running cargo")
    });
    drop(built);
}

fn end_to_end(options: &Options, tally: &mut Tally) -> Result<()> {
    setup::ensure_run()?;
    setup::ensure_lab()?;
    let binary = build::run(&build::Options {
        release: true,
        ..Default::default()
    })?;
    let skipped = machine::target_directory()?.join("skipped-tests.txt");
    let _ = fs::remove_file(&skipped);
    for package in PRIVILEGED {
        let mut tests = cargo_test(&["--package", package])?;
        tests
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

/// What runs on nodes of another architecture, as far as it needs no kernel of that architecture.
fn emulated(arch: Arch, options: &Options, tally: &mut Tally) -> Result<()> {
    if options.filter.is_none() {
        check(&format!("image, {}", arch.name()), tally, || {
            emulated::image(arch)
        });
    }
    let mut unit = emulated::unit_tests(arch)?;
    filter(&mut unit, options, false);
    for (test, why) in emulated::LACKING {
        unit.args(["--skip", test]);
        tally.skipped.push(format!("{test}: {why}"));
    }
    harness(&format!("unit tests, {}", arch.name()), &mut unit, tally)
}

/// Makes a command, after installing what it takes.
type Make = fn() -> Result<Command>;

/// Formatting, dependencies and clippy.
fn lint(tally: &mut Tally) {
    let steps: [(&str, Make); 5] = [
        ("formatting", formatting),
        ("dependencies", dependencies),
        ("clippy, host crates", clippy_host),
        ("clippy, with the Kubernetes API", clippy_kubernetes),
        ("clippy, BPF crates", clippy_bpf),
    ];
    for (name, make) in steps {
        step(name, make, tally);
    }
}

fn formatting() -> Result<Command> {
    let mut cargo = machine::cargo()?;
    cargo.args(["fmt", "--all", "--check"]);
    Ok(cargo)
}

fn dependencies() -> Result<Command> {
    setup::ensure_deny()?;
    let mut cargo = machine::cargo()?;
    cargo
        .args(["deny", "--locked", "check", "--hide-inclusion-graph"])
        .args(["bans", "licenses", "sources"]);
    Ok(cargo)
}

/// In a target directory of its own: two runs of cargo in one wait for each other.
fn clippy() -> Result<Command> {
    let mut cargo = machine::cargo()?;
    cargo
        .args(["clippy", "--all-targets", "--target-dir"])
        .arg(machine::target_directory()?.join("clippy"));
    Ok(cargo)
}

const DENY_WARNINGS: [&str; 3] = ["--", "-D", "warnings"];

fn clippy_host() -> Result<Command> {
    let mut cargo = clippy()?;
    cargo
        .arg("--workspace")
        .args(BPF.iter().flat_map(|package| ["--exclude", package]))
        .args(DENY_WARNINGS);
    Ok(cargo)
}

fn clippy_kubernetes() -> Result<Command> {
    let mut cargo = clippy()?;
    cargo
        .args(["--package", "dns-userspace", "--features", "kubernetes"])
        .args(DENY_WARNINGS);
    Ok(cargo)
}

/// By itself: in one run with the host crates its panic handler clashes with that of std.
fn clippy_bpf() -> Result<Command> {
    let toolchain = Toolchain::find().context("no toolchain for the BPF target")?;
    let mut cargo = toolchain.clippy();
    cargo
        .current_dir(machine::root()?)
        .env(
            "CARGO_ENCODED_RUSTFLAGS",
            format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        )
        .args(BPF.iter().flat_map(|package| ["--package", package]))
        .args(["-Z", "build-std=core"])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(machine::target_directory()?.join("clippy-bpf"))
        .args(DENY_WARNINGS);
    Ok(cargo)
}

/// Each fuzz target for a fixed number of executions: what lies next to the corpus, no more.
fn fuzz(tally: &mut Tally) {
    counted("fuzz targets", tally, fuzz::short);
}

/// The order of loads and stores around an answer, where herd7 is available.
fn litmus(tally: &mut Tally) {
    match Herd::find() {
        Ok(herd) => counted("litmus tests", tally, || litmus::all(&herd)),
        Err(error) => tally.skipped.push(format!("litmus tests: {error:#}")),
    }
}

fn cargo_test(which: &[&str]) -> Result<Command> {
    let mut command = machine::cargo()?;
    command.args(["test", "--no-fail-fast"]).args(which);
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

/// A command that passes or fails as a whole. What it prints is shown at once when it has ended, since tests print meanwhile.
fn step(name: &str, make: Make, tally: &mut Tally) {
    let started = Instant::now();
    let ended = make().and_then(|mut command| {
        command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("running {:?}", command.get_program()))
    });
    let seconds = started.elapsed().as_secs();
    let (shown, end) = match ended {
        Ok(output) if output.status.success() => {
            tally.passed += 1;
            (String::new(), format!("passed in {seconds} s"))
        }
        Ok(output) => {
            tally.failed += 1;
            let said = [output.stdout, output.stderr].concat();
            (
                String::from_utf8_lossy(&said).into_owned(),
                format!("failed after {seconds} s ({})", output.status),
            )
        }
        Err(error) => {
            tally.failed += 1;
            (String::new(), format!("failed: {error:#}"))
        }
    };
    print!("\n{}\n{shown}", line(bold(format!("== {name}"))));
    say(&format!("{name}: {end}"));
}

/// A check of this program's own, and what it says where it passes.
fn check(name: &str, tally: &mut Tally, run: impl FnOnce() -> Result<String>) {
    headline(name);
    match run() {
        Ok(said) => {
            say(&format!("{name}: passed, {said}"));
            tally.passed += 1;
        }
        Err(error) => {
            say(&format!("{name}: failed: {error:#}"));
            tally.failed += 1;
        }
    }
}

/// Tests of this program's own, of which it says how many passed and how many failed.
fn counted(name: &str, tally: &mut Tally, run: impl FnOnce() -> Result<(u64, u64)>) {
    headline(name);
    let started = Instant::now();
    match run() {
        Ok((passed, failed)) => {
            let seconds = started.elapsed().as_secs();
            say(&format!(
                "{name}: {passed} passed, {failed} failed in {seconds} s"
            ));
            tally.passed += passed;
            tally.failed += failed;
        }
        Err(error) => {
            say(&format!("{name}: failed: {error:#}"));
            tally.failed += 1;
        }
    }
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
    tally.add(own);
    Ok(())
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped.extend(other.skipped);
    }

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
