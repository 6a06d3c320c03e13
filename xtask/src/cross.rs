//! Toolchains for static binaries: of this machine's architecture and of the others that gregor runs on.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use gregor_lab::tools::{self, apt_install};

use crate::machine::{self, Toolchain, first_line};

/// An architecture that gregor is built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Arch {
    /// x86-64, amd64
    #[value(name = "x86_64", alias = "amd64")]
    X86_64,
    /// arm64
    #[value(name = "aarch64", alias = "arm64")]
    Aarch64,
}

impl Arch {
    /// This machine's.
    pub fn host() -> Result<Self> {
        Self::from_str(std::env::consts::ARCH, false)
            .map_err(|_| anyhow::anyhow!("gregor is not built for {}", std::env::consts::ARCH))
    }

    /// Strips its programs; comes with the linker.
    pub fn strip(self) -> Result<PathBuf> {
        let program = if self == Self::host()? {
            "strip"
        } else {
            match self {
                Self::X86_64 => "x86_64-linux-gnu-strip",
                Self::Aarch64 => "aarch64-linux-gnu-strip",
            }
        };
        tools::find(program).with_context(|| format!("no {program} on PATH (package binutils)"))
    }

    /// Its name in directories.
    pub fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Its name in container images.
    pub fn of_images(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// The name of the Rust target.
    pub fn triple(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// The environment variable of one of cargo's settings for the target.
    pub fn variable(self, setting: &str) -> String {
        let triple = self.triple().to_uppercase().replace('-', "_");
        format!("CARGO_TARGET_{triple}_{setting}")
    }

    /// Debian's cross compiler, which links, and its package and that of its libc.
    fn cross_compiler(self) -> (&'static str, [&'static str; 2]) {
        match self {
            Self::X86_64 => (
                "x86_64-linux-gnu-gcc",
                ["gcc-x86-64-linux-gnu", "libc6-dev-amd64-cross"],
            ),
            Self::Aarch64 => (
                "aarch64-linux-gnu-gcc",
                ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"],
            ),
        }
    }

    /// The linker, which finds a static libc; installed if need be.
    fn linker(self) -> Result<PathBuf> {
        let (compiler, packages) = if self == Self::host()? {
            ("cc", ["gcc", "libc6-dev"])
        } else {
            self.cross_compiler()
        };
        if tools::find(compiler).is_none() || !has_static_libc(compiler) {
            apt_install(&packages).with_context(|| {
                format!("a static binary takes {compiler} and a static libc (libc.a)")
            })?;
        }
        if !has_static_libc(compiler) {
            bail!("{compiler} finds no libc.a: install the static libc of your distribution");
        }
        tools::find(compiler).with_context(|| format!("no {compiler} on PATH"))
    }
}

fn has_static_libc(compiler: &str) -> bool {
    // The bare name comes back where there is none.
    first_line(Command::new(compiler).arg("-print-file-name=libc.a"))
        .is_some_and(|path| Path::new(&path).is_absolute() && Path::new(&path).exists())
}

/// `cargo COMMAND`, for static binaries of an architecture.
///
/// The target is always named, so that the flags are for what runs there and not for build scripts and macros.
pub fn cargo(arch: Arch, command: &str) -> Result<Command> {
    let triple = arch.triple();
    let linker = arch.linker()?;
    let mut cargo = machine::cargo()?;
    cargo.arg(command);
    if !has_std(&mut machine::rustc(), triple) {
        let toolchain = Toolchain::find().context("no toolchain with the source of `std`")?;
        cargo = toolchain.cargo();
        cargo
            .current_dir(machine::root()?)
            .args([command, "-Z", "build-std=std,panic_abort"]);
    }
    cargo
        .args(["--target", triple])
        .env(arch.variable("LINKER"), linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags());
    Ok(cargo)
}

/// What a static libc takes. The crate getrandom looks for the system call's function with `dlsym`, which finds nothing in a
/// static binary, and then needs /dev/urandom, which an empty root does not have: the flag makes it call the function.
const FLAGS: [&str; 2] = [
    "-Ctarget-feature=+crt-static",
    "--cfg=getrandom_backend=\"linux_getrandom\"",
];

/// What the caller wants of rustc, and [`FLAGS`].
fn flags() -> String {
    let of_caller = match std::env::var("CARGO_ENCODED_RUSTFLAGS") {
        Ok(flags) => flags,
        Err(_) => std::env::var("RUSTFLAGS")
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join("\x1f"),
    };
    [of_caller.as_str()]
        .into_iter()
        .chain(FLAGS)
        .filter(|flags| !flags.is_empty())
        .collect::<Vec<_>>()
        .join("\x1f")
}

/// Whether a compiler comes with `std` for a target.
fn has_std(rustc: &mut Command, triple: &str) -> bool {
    first_line(rustc.args(["--print", "target-libdir", "--target", triple]))
        .is_some_and(|directory| Path::new(&directory).exists())
}
