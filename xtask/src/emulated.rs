//! `cargo xtask test --arch`: the unit tests and the image of another architecture, under qemu's user emulation.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use gregor_lab::tools::{self, apt_install};
use serde::Deserialize;

use crate::{
    cross::{self, Arch},
    image, machine,
};

/// Packages with unit tests of what runs on a node.
const PACKAGES: [&str; 4] = ["corefile", "dns-common", "dns-userspace", "gregor-fuzz"];

/// Unit tests that ask the kernel for what qemu does not pass on, and why each fails there.
pub const LACKING: [(&str, &str); 2] = [
    (
        "datapath::clsact::tests::an_interface_without_clsact_has_no_filters",
        "qemu passes no traffic control on",
    ),
    (
        "datapath::offload::tests::the_features_of_the_kernel_are_parsed",
        "qemu passes no SIOCETHTOOL on",
    ),
];

/// `cargo test` for the unit tests of an architecture; optimised a little, since emulated processors are slow, and so are compilers
/// that optimise more.
pub fn unit_tests(arch: Arch) -> Result<Command> {
    let mut cargo = cross::cargo(arch, "test")?;
    cargo
        .args(["--no-fail-fast", "--release", "--lib"])
        .args(PACKAGES.iter().flat_map(|package| ["--package", package]))
        .args(["--features", "dns-userspace/kubernetes"]);
    cargo
        .env(arch.variable("RUNNER"), emulator(arch)?)
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1");
    Ok(cargo)
}

/// Runs what is in the image; returns what was seen.
pub fn image(arch: Arch) -> Result<String> {
    let emulator = emulator(arch)?;
    let written = image::write(&image::Options {
        arch: Some(arch),
        tag: None,
    })?;
    let run = |arguments: &[&str]| run(&emulator, &written.binary, arguments);
    let version = run(&["--version"])?;
    ensure!(
        version.status.success() && said(&version).contains(env!("CARGO_PKG_VERSION")),
        "--version: {}\n{}",
        version.status,
        said(&version)
    );
    let check = run(&["check", "--json"])?;
    judge(&check).with_context(|| format!("check: {}\n{}", check.status, said(&check)))?;
    Ok(format!(
        "{} bytes; `check` looks at the node and says that the kernel has no bpf(2)",
        written.bytes
    ))
}

/// What `check` has to say where everything but bpf(2) is there, which qemu does not have.
fn judge(check: &Output) -> Result<()> {
    let report: Report = serde_json::from_slice(&check.stdout).context("its output")?;
    ensure!(check.status.code() == Some(1) && !report.ok, "it passed");
    let find = |what: &str| {
        let mut findings = report.findings.iter();
        findings
            .find(|finding| finding.what == what)
            .with_context(|| format!("nothing about {what}"))
    };
    let kernel = find("kernel")?;
    ensure!(
        kernel.detail == machine::kernel_release(),
        "another kernel: {kernel:?}"
    );
    let maps = find("maps")?;
    ensure!(
        maps.level == "error"
            && maps.detail.contains("ENOSYS")
            && maps.remedy.contains("CONFIG_BPF_SYSCALL"),
        "not the missing system call: {maps:?}"
    );
    let without_remedy = report
        .findings
        .iter()
        .find(|finding| finding.level != "ok" && finding.remedy.is_empty());
    ensure!(
        without_remedy.is_none(),
        "without a remedy: {without_remedy:?}"
    );
    Ok(())
}

/// What `gregor check --json` prints.
#[derive(Debug, Deserialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    level: String,
    what: String,
    detail: String,
    #[serde(default)]
    remedy: String,
}

/// qemu for programs, installed if need be.
fn emulator(arch: Arch) -> Result<PathBuf> {
    let program = format!("qemu-{}-static", arch.name());
    if tools::find(&program).is_none() {
        apt_install(&["qemu-user-static"])?;
    }
    tools::find(&program).with_context(|| format!("no {program} on PATH"))
}

fn run(emulator: &Path, program: &Path, arguments: &[&str]) -> Result<Output> {
    Command::new(emulator)
        .arg(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {}", emulator.display()))
}

/// All that a program printed.
fn said(output: &Output) -> String {
    let all = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}
