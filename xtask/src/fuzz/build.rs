//! Builds the fuzz programs, with coverage instrumentation, in one of two ways.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::tools::{self, apt_install, say};

use crate::{machine, setup};

/// What cargo-fuzz passes too: counters and comparisons, as libFuzzer reads them.
const COVERAGE: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];

/// Packages of the workspace that are instrumented in a short build.
const FUZZED: [&str; 4] = ["corefile", "dns-common", "dns-userspace", "gregor-fuzz"];

#[derive(Clone, Copy, Debug)]
pub enum Build {
    /// Optimised, all crates instrumented, with the address sanitizer where the toolchain brings its runtime: minutes
    /// the first time.
    Whole,
    /// On top of the crates that `cargo test` has built, of which only [`FUZZED`] are built again.
    Short,
}

impl Build {
    /// Builds the programs of the workspace in `tree` and returns their directory.
    pub fn build(self, tree: &Path) -> Result<PathBuf> {
        setup::ensure_build()?;
        if tools::find("c++").is_none() {
            apt_install(&["g++"]).context("libFuzzer is C++")?;
        }
        let mut cargo = machine::cargo()?;
        cargo
            .current_dir(tree)
            .args(["build", "--package", "gregor-fuzz", "--bins"])
            .args(["--features", "gregor-fuzz/libfuzzer"]);
        let programs = match self {
            Self::Whole => whole(&mut cargo, tree)?,
            Self::Short => short(&mut cargo)?,
        };
        let status = cargo.status().context("running cargo")?;
        if !status.success() {
            bail!("building the fuzz targets: {status}");
        }
        Ok(programs)
    }
}

fn whole(cargo: &mut Command, tree: &Path) -> Result<PathBuf> {
    let host = host()?;
    let mut flags = COVERAGE.to_vec();
    if has_address_sanitizer(&host)? {
        flags.push("-Zsanitizer=address");
        // The sanitizer is unstable; no other unstable feature is used.
        cargo.env("RUSTC_BOOTSTRAP", "1");
    } else {
        say("this toolchain has no runtime of the address sanitizer: fuzzing without");
    }
    let directory = machine::target_directory()?.join("fuzz-build");
    switch_tree(&directory, &host, tree)?;
    cargo
        .args(["--profile", "fuzz", "--target", &host, "--target-dir"])
        .arg(&directory)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    Ok(directory.join(host).join("fuzz"))
}

fn short(cargo: &mut Command) -> Result<PathBuf> {
    let wrapper = machine::root()?.join("tests/fuzz/instrument.sh");
    cargo
        .env("RUSTC_WORKSPACE_WRAPPER", wrapper)
        .env("GREGOR_FUZZ_FLAGS", COVERAGE.join(" "));
    for package in FUZZED {
        cargo
            .arg("--config")
            .arg(format!("profile.dev.package.{package}.opt-level=2"));
    }
    Ok(machine::target_directory()?.join("debug"))
}

/// cargo distinguishes the crates of two copies of a workspace by time alone: those of the other copy are removed first.
fn switch_tree(directory: &Path, host: &str, tree: &Path) -> Result<()> {
    let marker = directory.join("built-from");
    let tree = tree.display().to_string();
    if fs::read_to_string(&marker).is_ok_and(|built_from| built_from == tree) {
        return Ok(());
    }
    let fingerprints = directory.join(host).join("fuzz").join(".fingerprint");
    if let Ok(entries) = fs::read_dir(fingerprints) {
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if FUZZED.iter().any(|package| name.starts_with(package)) {
                fs::remove_dir_all(entry.path())?;
            }
        }
    }
    fs::create_dir_all(directory)?;
    fs::write(&marker, tree).with_context(|| format!("writing {}", marker.display()))
}

fn host() -> Result<String> {
    let output = Command::new("rustc").arg("-vV").output()?;
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find_map(|line| line.strip_prefix("host: ").map(str::to_owned))
        .context("rustc does not name its host")
}

fn has_address_sanitizer(host: &str) -> Result<bool> {
    let sysroot = machine::first_line(Command::new("rustc").args(["--print", "sysroot"]))
        .context("rustc has no sysroot")?;
    let libraries = Path::new(&sysroot)
        .join("lib/rustlib")
        .join(host)
        .join("lib");
    Ok(fs::read_dir(libraries)?.flatten().any(|entry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.starts_with("librustc-") && name.ends_with("_rt.asan.a")
    }))
}
