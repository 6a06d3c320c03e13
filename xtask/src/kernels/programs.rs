//! What runs in a guest: the test binaries that `cargo xtask test` builds, gregor, and the programs that tests call.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::{guest::Step, tools};

use super::{Architecture, foreign, image::Programs};
use crate::{build, cross::Arch, machine, setup};

/// Builds and finds everything for these steps.
pub fn build(architecture: Architecture, steps: &[Step]) -> Result<Programs> {
    if architecture.target() == Arch::host()? {
        native(steps)
    } else {
        foreign::build(architecture, steps)
    }
}

/// Programs of this machine, with its libraries.
fn native(steps: &[Step]) -> Result<Programs> {
    setup::ensure_build()?;
    let mut built = test_binaries(steps)?;
    let mut tests = Vec::new();
    for name in names(steps) {
        let path = built
            .remove(&name)
            .with_context(|| format!("cargo built no test {name}"))?;
        tests.push((name, path));
    }
    let live = steps.iter().any(|step| step.group == "lab");
    let gregor = if live {
        Some(build::run(&build::Options {
            release: true,
            ..build::Options::default()
        })?)
    } else {
        None
    };
    let mut called = Vec::new();
    for (at, path) in [
        ("/usr/sbin/ip", Some(tools::iproute2()?)),
        ("/usr/sbin/tc", tools::find("tc")),
        ("/usr/bin/getent", tools::find("getent")),
        ("/usr/sbin/ethtool", Some(tools::ethtool()?)),
    ] {
        if let Some(path) = path {
            called.push((at.to_owned(), path));
        }
    }
    Ok(Programs {
        init: built.remove("guest").context("cargo built no guest")?,
        gregor,
        tests,
        tools: called,
        files: Vec::new(),
        strip: tools::find("strip").context("no `strip` (package binutils)")?,
        is_native: true,
    })
}

/// The test programs of the steps, each once.
pub fn names(steps: &[Step]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for step in steps {
        let name = step.program.rsplit('/').next().unwrap_or_default();
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Builds the tests and process 1, as `cargo xtask test` builds them, and returns where they are.
fn test_binaries(steps: &[Step]) -> Result<BTreeMap<String, PathBuf>> {
    let mut cargo = machine::cargo()?;
    cargo.args(["test", "--no-run", "--package", "gregor-tests"]);
    cargo.args(["--bin", "guest"]);
    for name in names(steps) {
        cargo.args(["--test", &name]);
    }
    cargo.args(["--message-format", "json-render-diagnostics"]);
    executables(&mut cargo)
}

/// Runs cargo and returns the programs that it made, by the names of their targets.
pub fn executables(cargo: &mut Command) -> Result<BTreeMap<String, PathBuf>> {
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    if !output.status.success() {
        bail!("building the tests: {}", output.status);
    }
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        // A binary comes a second time as the harness of its own unit tests.
        let target = &message["target"];
        if target["kind"][0] == "bin" && message["profile"]["test"] == true {
            continue;
        }
        let name = target["name"].as_str();
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}
