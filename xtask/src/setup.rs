//! `cargo xtask setup`: installs what is missing, and nothing when nothing is.

use std::{path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use gregor_lab::tools::{self, apt_install, run_quietly, say};

use crate::{
    doctor::{DEBIAN_LLVM, DEBIAN_TOOLCHAIN},
    machine::{self, Toolchain, first_line, version},
};

#[derive(Debug, Args)]
pub struct Options {
    /// Also what the end-to-end tests need: CoreDNS, Helm, unbound, BIND, musl, c-ares, Go, a JDK, kcat
    #[arg(long)]
    pub tests: bool,
}

/// Where a rustup that cannot reach its server gives up.
const RUSTUP_PATIENCE: Duration = Duration::from_secs(180);

pub fn run(options: &Options) -> Result<()> {
    ensure_build()?;
    ensure_run()?;
    if options.tests {
        ensure_lints()?;
        ensure_deny()?;
        ensure_lab()?;
        tools::helm()?;
    }
    say("everything is there");
    Ok(())
}

/// What building gregor takes: a linker, a toolchain with the source of `core`, bpf-linker.
pub fn ensure_build() -> Result<()> {
    if tools::find("cc").is_none() {
        apt_install(&["gcc", "libc6-dev"])?;
    }
    let toolchain = match Toolchain::find().filter(|toolchain| is_new_enough(*toolchain)) {
        Some(toolchain) => toolchain,
        None => install_toolchain()?,
    };
    if machine::bpf_linker().is_none() {
        install_bpf_linker(toolchain)?;
    }
    Ok(())
}

/// What running it in a lab takes.
pub fn ensure_run() -> Result<()> {
    tools::iproute2()?;
    if !machine::has_bpffs() {
        if !machine::is_root() {
            bail!("no bpffs: run `sudo mount -t bpf bpf {}`", machine::BPFFS);
        }
        run_quietly(
            "mounting bpffs",
            Command::new("mount").args(["-t", "bpf", "bpf", machine::BPFFS]),
        )?;
    }
    Ok(())
}

/// What the end-to-end tests take on top; long the first time.
pub fn ensure_lab() -> Result<()> {
    // One call for all packages: each would read the package lists again.
    let packages: Vec<&str> = [
        ("unbound", tools::find("unbound").is_some()),
        ("bind9", tools::find("named").is_some()),
        ("dnsmasq-base", tools::find("dnsmasq").is_some()),
        ("musl-tools", tools::find("musl-gcc").is_some()),
        ("cmake", tools::find("cmake").is_some()),
        ("libc-ares-dev", Path::new("/usr/include/ares.h").exists()),
        ("golang-go", tools::has_go()),
        ("default-jdk-headless", tools::find("javac").is_some()),
        ("maven", tools::find("mvn").is_some()),
        ("kcat", tools::find("kcat").is_some()),
        ("ethtool", tools::find("ethtool").is_some()),
        ("nftables", tools::find("nft").is_some()),
    ]
    .into_iter()
    .filter_map(|(package, there)| (!there).then_some(package))
    .collect();
    if !packages.is_empty() {
        apt_install(&packages)?;
    }
    tools::musl_client()?;
    tools::glibc_client()?;
    tools::cares_client()?;
    tools::cookie_client()?;
    tools::unbound_with_cookies()?;
    tools::go_client()?;
    tools::java_client()?;
    tools::kafka_broker()?;
    tools::kafka()?;
    tools::prometheus()?;
    tools::unpack()?;
    tools::coredns()?;
    Ok(())
}

/// Formatting and clippy, for the host and for the BPF target.
pub fn ensure_lints() -> Result<()> {
    let host = first_line(machine::cargo()?.args(["clippy", "-V"])).is_some()
        && first_line(machine::cargo()?.args(["fmt", "--version"])).is_some();
    if !host {
        run_quietly(
            "adding rustfmt and clippy",
            Command::new("rustup").args(["component", "add", "rustfmt", "clippy"]),
        )?;
    }
    match Toolchain::find() {
        Some(toolchain) if toolchain.has_clippy() => Ok(()),
        Some(Toolchain::Nightly) => run_quietly(
            "adding clippy to the nightly",
            Command::new("rustup").args(["component", "add", "clippy", "--toolchain", "nightly"]),
        ),
        Some(Toolchain::System) => apt_install(&["rust-web-clippy"]),
        None => bail!("no toolchain for the BPF target"),
    }
}

/// cargo-deny, which checks the dependencies. Without optimisation and debug information, which would make it take minutes; its
/// own work is one second's.
pub fn ensure_deny() -> Result<()> {
    if machine::has_cargo_deny() {
        return Ok(());
    }
    let _lock = tools::exclusive("cargo-deny")?;
    if machine::has_cargo_deny() {
        return Ok(());
    }
    run_quietly(
        "building cargo-deny (some minutes)",
        machine::cargo()?
            .args(["install", "cargo-deny", "--force", "--locked", "--debug"])
            .args(["--version", machine::CARGO_DENY_VERSION])
            .env("CARGO_PROFILE_DEV_DEBUG", "0"),
    )?;
    if !machine::has_cargo_deny() {
        bail!(
            "cargo-deny was installed but does not run from PATH: is cargo's bin directory on it?"
        );
    }
    Ok(())
}

fn is_new_enough(toolchain: Toolchain) -> bool {
    toolchain == Toolchain::Nightly
        || version(&toolchain.describe()).is_some_and(|found| found >= machine::RUSTC_MIN)
}

/// The distribution's rustc first, because its LLVM is packaged too; else a nightly.
fn install_toolchain() -> Result<Toolchain> {
    let mut tried = String::new();
    if tools::find("apt-get").is_some() && machine::is_root() {
        match apt_install(&["rustc-web", "cargo-web", "rust-web-src"]) {
            Ok(()) if is_new_enough(Toolchain::System) => return Ok(Toolchain::System),
            Ok(()) => tried = format!("the packaged {} is too old; ", Toolchain::System.describe()),
            Err(error) => tried = format!("{error:#}; "),
        }
    }
    let mut rustup = Command::new("timeout");
    rustup.arg(RUSTUP_PATIENCE.as_secs().to_string()).args([
        "rustup",
        "toolchain",
        "install",
        "nightly",
        "--profile",
        "minimal",
        "--component",
        "rust-src",
    ]);
    run_quietly("installing a nightly with rust-src", &mut rustup).with_context(|| {
        format!(
            "{tried}no toolchain for the BPF target could be installed; by hand: `{DEBIAN_TOOLCHAIN}`"
        )
    })?;
    Toolchain::find().context("rustup installed a nightly without its source")
}

fn install_bpf_linker(toolchain: Toolchain) -> Result<()> {
    let _lock = tools::exclusive("bpf-linker")?;
    if machine::bpf_linker().is_some() {
        return Ok(());
    }
    let mut cargo = machine::cargo()?;
    cargo.args([
        "install",
        "bpf-linker",
        "--force",
        "--version",
        machine::BPF_LINKER_VERSION,
    ]);
    if toolchain == Toolchain::System {
        let llvm = "/usr/lib/llvm-22";
        if !Path::new(llvm).join("include/llvm-c").exists()
            || !Path::new(llvm).join("lib/libPolly.a").exists()
        {
            apt_install(&["llvm-22-dev", "libpolly-22-dev", "g++"]).context(DEBIAN_LLVM)?;
        }
        cargo
            .args(["--no-default-features", "--features", "llvm-22"])
            .env("LLVM_PREFIX", llvm)
            .env("LLVM_SYS_221_PREFIX", llvm);
    }
    run_quietly("building bpf-linker (about a minute)", &mut cargo)?;
    if machine::bpf_linker().is_none() {
        bail!(
            "bpf-linker was installed but does not run from PATH: is cargo's bin directory on it?"
        );
    }
    Ok(())
}
