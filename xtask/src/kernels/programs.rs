//! What runs in a guest: the test binaries that `cargo xtask test` builds, gregor, and the programs that tests call.

use std::{collections::BTreeMap, path::PathBuf};

use anyhow::{Context as _, Result};
use gregor_lab::{guest::Step, tools};

use super::{
    Architecture,
    built::{executables, names},
    foreign,
    image::{Programs, test_path},
};
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
    let confined = steps
        .iter()
        .any(|step| step.program == test_path("confined"));
    let (apparmor_parser, secilc) = if confined {
        (Some(tools::apparmor_parser()?), Some(tools::secilc()?))
    } else {
        (None, None)
    };
    let mut called = Vec::new();
    for (at, path) in [
        ("/usr/sbin/ip", Some(tools::iproute2()?)),
        ("/usr/sbin/tc", tools::find("tc")),
        ("/usr/bin/getent", tools::find("getent")),
        ("/usr/sbin/ethtool", Some(tools::ethtool()?)),
        ("/usr/sbin/apparmor_parser", apparmor_parser),
        ("/usr/bin/secilc", secilc),
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
