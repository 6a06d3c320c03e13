//! Compiles a BPF crate of this workspace from a build script and leaves its object in `OUT_DIR`.
//!
//! Two toolchains can do it: a rustup nightly with rust-src, or a distribution's rustc that ships its own source
//! (`/usr/bin/rustc` with `RUSTC_BOOTSTRAP=1`). `GREGOR_EBPF_TOOLCHAIN` names one of them; `cargo xtask` sets it.
//! Not aya-build, which leaves no way to set the compiler's flags below.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, bail};

const TOOLCHAIN: &str = "GREGOR_EBPF_TOOLCHAIN";
const TARGET: &str = "bpfel-unknown-none";

/// Machines on which a reader of the tables never takes one answer's bytes for another's while an entry is rewritten:
/// the order of its loads was proved there. See tests/litmus.
const ORDERED: [&str; 2] = ["x86_64", "aarch64"];

/// Builds the binary `object` of `package`, whose source is in `source`, and leaves it in `OUT_DIR/object`.
pub fn build(package: &str, object: &str, source: &str) -> anyhow::Result<()> {
    build_with(package, object, source, &[])
}

/// [`build`] with features of the package, whose names are added to that of the object.
pub fn build_with(
    package: &str,
    object: &str,
    source: &str,
    features: &[&str],
) -> anyhow::Result<()> {
    let name = [&[object], features].concat().join("-");
    build_as(package, object, source, features, &name)
}

/// The same, and `name` is that of the object in `OUT_DIR`.
pub fn build_as(
    package: &str,
    object: &str,
    source: &str,
    features: &[&str],
    name: &str,
) -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    println!("cargo:rerun-if-changed={source}");
    println!("cargo:rerun-if-changed=build.rs");
    // Of the machine that will load the object, which is not the one that builds it.
    let machine = env::var("CARGO_CFG_TARGET_ARCH")?;
    if !ORDERED.contains(&machine.as_str()) {
        println!(
            "cargo::error=gregor does not run on {machine}: its programs are for {}",
            ORDERED.join(" and ")
        );
        // cargo fails for the line above, and shows nothing else of a script that ends well.
        std::process::exit(0);
    }
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let toolchain = match env::var(TOOLCHAIN) {
        Ok(name) => name,
        Err(_) => find_toolchain()?,
    };
    compile(
        &toolchain,
        &machine,
        package,
        object,
        features,
        &out.join(name),
    )
    .context("building the eBPF programs; `cargo xtask setup` installs what is missing")
}

fn compile(
    toolchain: &str,
    machine: &str,
    package: &str,
    object: &str,
    features: &[&str],
    out: &Path,
) -> anyhow::Result<()> {
    let mut cargo = if Path::new(toolchain).is_absolute() {
        let bin = Path::new(toolchain).join("bin");
        let mut cargo = Command::new(bin.join("cargo"));
        cargo
            .env("RUSTC", bin.join("rustc"))
            .env("RUSTC_BOOTSTRAP", "1");
        cargo
    } else {
        let mut cargo = Command::new("rustup");
        cargo.args(["run", toolchain, "cargo"]).env_remove("RUSTC");
        cargo
    };
    let flags = [
        format!("--cfg=bpf_target_arch=\"{machine}\""),
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // 32-bit arithmetic and jumps: Linux 5.1 and later.
        "-Ctarget-cpu=v3".to_owned(),
    ];
    let target_dir = target_directory(out)?.join(format!("ebpf-{machine}"));
    // Left there by the inner cargo while it holds its lock: in the target directory, objects of other features have the
    // same name, and build scripts run side by side.
    let artifacts = out.with_extension("d");
    let output = cargo
        .args(["build", "--quiet", "--release", "--package", package])
        .args(["--bin", object, "--target", TARGET, "-Zbuild-std=core"])
        .args(["--features", &features.join(",")])
        .arg("--target-dir")
        .arg(&target_dir)
        .args(["-Zunstable-options", "--artifact-dir"])
        .arg(&artifacts)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output()
        .with_context(|| format!("starting {cargo:?}"))?;
    if !output.status.success() {
        bail!(
            "{}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    for line in String::from_utf8_lossy(&output.stderr).lines() {
        println!("cargo:warning={line}");
    }
    let built = artifacts.join(object);
    fs::copy(&built, out).with_context(|| format!("copying {}", built.display()))?;
    Ok(())
}

/// Where the outer cargo builds: `OUT_DIR` is target/PROFILE/build/PACKAGE/out, or target/TRIPLE/PROFILE/build/PACKAGE/out.
///
/// The programs get a directory of their own in it, since the outer cargo holds the lock of its own: one for each machine, so
/// that `core` is compiled once for all profiles and features.
fn target_directory(out: &Path) -> anyhow::Result<&Path> {
    let directory = out
        .ancestors()
        .find(|path| path.ends_with("build"))
        .and_then(|build| build.ancestors().nth(2))
        .context("OUT_DIR is not where cargo puts it")?;
    let triple = env::var("TARGET")?;
    Ok(match directory.parent() {
        Some(parent) if directory.ends_with(&triple) => parent,
        _ => directory,
    })
}

/// A nightly with its source if there is one, else the distribution's rustc with its source.
fn find_toolchain() -> anyhow::Result<String> {
    if has_core_source(Command::new("rustup").args(["run", "nightly", "rustc"])) {
        return Ok("nightly".to_owned());
    }
    if has_core_source(&mut Command::new("/usr/bin/rustc")) {
        return Ok("/usr".to_owned());
    }
    bail!(
        "no Rust toolchain with the source of `core` for the BPF target: run `cargo xtask setup`, or set {TOOLCHAIN}"
    )
}

fn has_core_source(rustc: &mut Command) -> bool {
    let Ok(output) = rustc.args(["--print", "sysroot"]).output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
}
