//! Builds the kernel side and leaves its object in `OUT_DIR/gregor-ebpf`.
//!
//! Two toolchains can do it: a rustup nightly with rust-src, or a distribution's rustc that ships its own source
//! (`/usr/bin/rustc` with `RUSTC_BOOTSTRAP=1`). `GREGOR_EBPF_TOOLCHAIN` names one of them; `cargo xtask` sets it.

use std::{path::Path, process::Command};

use anyhow::{Context as _, bail};
use aya_build::{Package, Toolchain, build_ebpf};

const TOOLCHAIN: &str = "GREGOR_EBPF_TOOLCHAIN";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN}");
    println!("cargo:rerun-if-changed=../dns-ebpf/common/src");
    let toolchain = match std::env::var(TOOLCHAIN) {
        Ok(name) => name,
        Err(_) => find_toolchain()?,
    };
    if Path::new(&toolchain).is_absolute() {
        // SAFETY: a build script has one thread.
        unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    }
    build_ebpf(
        [Package {
            name: "dns-ebpf",
            root_dir: "../dns-ebpf",
            ..Default::default()
        }],
        Toolchain::Custom(&toolchain),
    )
    .context("building the eBPF programs; `cargo xtask setup` installs what is missing")
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
