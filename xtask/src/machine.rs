//! What this machine has: toolchains, kernel, rights. Looks only; `setup` changes things.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};
use gregor_lab::tools;

/// The distribution's rustc must not be older: what aya and this workspace ask for.
pub const RUSTC_MIN: (u32, u32) = (1, 96);
pub const BPF_LINKER_VERSION: &str = "0.13.0";
pub const CARGO_DENY_VERSION: &str = "0.20.2";

/// The toolchain that can compile `core` for the BPF target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Toolchain {
    /// rustup's nightly with rust-src.
    Nightly,
    /// `/usr/bin/rustc` with its source.
    System,
}

impl Toolchain {
    /// The toolchain that dns-userspace/build.rs will take: the same places in the same order.
    pub fn find() -> Option<Self> {
        if let Ok(name) = std::env::var("GREGOR_EBPF_TOOLCHAIN") {
            return Some(if Path::new(&name).is_absolute() {
                Self::System
            } else {
                Self::Nightly
            });
        }
        if has_core_source(Command::new("rustup").args(["run", "nightly", "rustc"])) {
            return Some(Self::Nightly);
        }
        has_core_source(&mut Command::new("/usr/bin/rustc")).then_some(Self::System)
    }

    pub fn describe(self) -> String {
        match self {
            Self::Nightly => {
                first_line(Command::new("rustup").args(["run", "nightly", "rustc", "-V"]))
            }
            Self::System => first_line(Command::new("/usr/bin/rustc").arg("-V")),
        }
        .unwrap_or_else(|| "of GREGOR_EBPF_TOOLCHAIN".to_owned())
    }

    /// Its cargo, free of what the cargo that runs us has put into the environment.
    pub fn cargo(self) -> Command {
        let mut command = match self {
            Self::Nightly => Command::new("rustup"),
            Self::System => Command::new("/usr/bin/cargo"),
        };
        self.prepare(&mut command);
        if self == Self::Nightly {
            command.args(["run", "nightly", "cargo"]);
        }
        command
    }

    /// `cargo clippy` of this toolchain.
    pub fn clippy(self) -> Command {
        let mut command = match self {
            Self::Nightly => Command::new("rustup"),
            // By its path: through cargo it would be rustup's, which comes first in cargo's own directory.
            Self::System => Command::new("/usr/bin/cargo-clippy"),
        };
        self.prepare(&mut command);
        match self {
            Self::Nightly => command.args(["run", "nightly", "cargo", "clippy"]),
            Self::System => command.arg("clippy"),
        };
        command
    }

    fn prepare(self, command: &mut Command) {
        for name in ["CARGO", "RUSTUP_TOOLCHAIN", "RUSTFLAGS", "LD_LIBRARY_PATH"] {
            command.env_remove(name);
        }
        if self == Self::System {
            command
                .env("CARGO", "/usr/bin/cargo")
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1");
        }
    }

    /// Whether clippy goes with it.
    pub fn has_clippy(self) -> bool {
        match self {
            Self::Nightly => tools::works("rustup", &["run", "nightly", "cargo-clippy", "-V"]),
            Self::System => Path::new("/usr/bin/cargo-clippy").exists(),
        }
    }
}

fn has_core_source(rustc: &mut Command) -> bool {
    first_line(rustc.args(["--print", "sysroot"])).is_some_and(|sysroot| {
        Path::new(&sysroot)
            .join("lib/rustlib/src/rust/library/core/Cargo.toml")
            .exists()
    })
}

/// First line of a command's output, if it ends well.
pub fn first_line(command: &mut Command) -> Option<String> {
    let output = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    output
        .status
        .success()
        .then(|| text.lines().next().unwrap_or("").trim().to_owned())
}

/// The first two numbers of a version somewhere in a text.
pub fn version(text: &str) -> Option<(u32, u32)> {
    text.split_whitespace().find_map(|word| {
        let (major, rest) = word.split_once('.')?;
        let minor: String = rest.chars().take_while(char::is_ascii_digit).collect();
        Some((major.parse().ok()?, minor.parse().ok()?))
    })
}

/// Version of bpf-linker, if it runs.
pub fn bpf_linker() -> Option<String> {
    first_line(Command::new("bpf-linker").arg("--version"))
}

/// Whether the pinned cargo-deny runs: another version may have other checks, or fewer.
pub fn has_cargo_deny() -> bool {
    first_line(Command::new("cargo-deny").arg("--version"))
        .is_some_and(|line| line == format!("cargo-deny {CARGO_DENY_VERSION}"))
}

pub fn kernel_release() -> String {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// Whether programs are compiled: the switch is absent where the kernel allows nothing else.
pub fn jit() -> bool {
    fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
        .map_or(true, |value| value.trim() != "0")
}

pub const BPFFS: &str = "/sys/fs/bpf";

pub fn has_bpffs() -> bool {
    fs::read_to_string("/proc/mounts").is_ok_and(|mounts| {
        mounts.lines().any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            fields.next() == Some(BPFFS) && fields.next() == Some("bpf")
        })
    })
}

pub fn is_root() -> bool {
    effective("Uid:", 1).is_some_and(|uid| uid == "0")
}

/// Capabilities that gregor or the lab need, with what for.
pub const CAPABILITIES: &[(&str, u32, &str)] = &[
    ("CAP_BPF", 39, "load programs and make maps"),
    ("CAP_NET_ADMIN", 12, "attach to interfaces"),
    (
        "CAP_PERFMON",
        38,
        "what the verifier asks for pointer arithmetic",
    ),
    ("CAP_NET_RAW", 13, "send replies and pass queries on"),
    (
        "CAP_SYS_ADMIN",
        21,
        "network namespaces, for the lab and the tests",
    ),
];

/// Those of [`CAPABILITIES`] that this process lacks.
pub fn missing_capabilities() -> Vec<&'static str> {
    let set = effective("CapEff:", 0)
        .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
        .unwrap_or(0);
    CAPABILITIES
        .iter()
        .filter(|(_, bit, _)| set & (1 << bit) == 0)
        .map(|(name, _, _)| *name)
        .collect()
}

fn effective(key: &str, index: usize) -> Option<String> {
    fs::read_to_string("/proc/self/status")
        .ok()?
        .lines()
        .find_map(|line| line.strip_prefix(key))?
        .split_whitespace()
        .nth(index)
        .map(str::to_owned)
}

/// The repository: the parent of this crate.
pub fn root() -> Result<PathBuf> {
    let crate_directory = match std::env::var_os("CARGO_MANIFEST_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")),
    };
    Ok(crate_directory
        .parent()
        .context("the repository is the parent of xtask/")?
        .to_owned())
}

/// Where cargo puts what it builds.
pub fn target_directory() -> Result<PathBuf> {
    Ok(match std::env::var_os("CARGO_TARGET_DIR") {
        Some(directory) => std::env::current_dir()?.join(directory),
        None => root()?.join("target"),
    })
}

/// The rustc of the cargo that runs us.
pub fn rustc() -> Command {
    Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()))
}

/// The cargo that runs us, in the repository.
pub fn cargo() -> Result<Command> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()?);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        assert_eq!(
            version("rustc 1.96.0 (ac68faa20 2026-05-25)"),
            Some((1, 96))
        );
        assert_eq!(version("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(version("no number"), None);
    }
}
