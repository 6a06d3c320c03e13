//! `cargo xtask doctor`: what the machine has and lacks, with the command that installs what is missing.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use anyhow::Result;
use clap::Args;
use gregor_lab::tools;

use crate::{
    machine::{self, Toolchain, first_line, version},
    table::{self, Cell, Colour, cell},
};

#[derive(Debug, Args)]
pub struct Options {}

/// One line of the table.
struct Check {
    what: &'static str,
    /// What does not work without it.
    needed_for: &'static str,
    found: Found,
}

enum Found {
    Yes(String),
    /// Optional.
    Partly(String),
    No {
        said: String,
        remedy: String,
    },
}

/// What the Debian route installs, besides bpf-linker.
pub const DEBIAN_TOOLCHAIN: &str =
    "apt-get install --no-install-recommends rustc-web cargo-web rust-web-src";
/// What bpf-linker is linked against on the Debian route.
pub const DEBIAN_LLVM: &str = "apt-get install --no-install-recommends llvm-22-dev libpolly-22-dev";

pub fn run(_options: &Options) -> Result<ExitCode> {
    let checks = checks();
    let mut lacks = 0;
    let rows: Vec<Vec<Cell>> = checks
        .into_iter()
        .map(|check| {
            let (mark, colour, said) = match check.found {
                Found::Yes(said) => ("ok", Colour::Green, said),
                Found::Partly(said) => ("note", Colour::Yellow, said),
                Found::No { said, remedy } => {
                    lacks += 1;
                    ("lacks", Colour::Red, format!("{said}\n{remedy}"))
                }
            };
            vec![
                cell(mark, colour),
                check.what.into(),
                check.needed_for.into(),
                said.into(),
            ]
        })
        .collect();
    table::print(&["", "what", "for", "found, or how to get it"], rows);
    if lacks == 0 {
        println!("\nNothing is missing.");
        return Ok(ExitCode::SUCCESS);
    }
    println!("\n{lacks} missing: `cargo xtask setup --tests` installs what can be installed.");
    Ok(ExitCode::FAILURE)
}

fn checks() -> Vec<Check> {
    let mut checks = vec![
        Check {
            what: "rustc, host",
            needed_for: "build",
            found: program("rustc", &["-V"], "install rustup and its stable toolchain"),
        },
        Check {
            what: "C compiler",
            needed_for: "build",
            found: program("cc", &["--version"], "apt-get install gcc libc6-dev"),
        },
        Check {
            what: "rustc with core, BPF",
            needed_for: "build",
            found: toolchain(),
        },
        Check {
            what: "bpf-linker",
            needed_for: "build",
            found: match machine::bpf_linker() {
                Some(version) => Found::Yes(version),
                None => Found::No {
                    said: "not on PATH".to_owned(),
                    remedy: bpf_linker_remedy(),
                },
            },
        },
        Check {
            what: "rustup",
            needed_for: "build",
            found: program(
                "rustup",
                &["-V"],
                "install it: it brings the toolchain that builds gregor itself",
            ),
        },
    ];
    checks.extend(kernel());
    checks.extend([
        Check {
            what: "ip",
            needed_for: "lab",
            found: program("ip", &["-V"], "apt-get install iproute2"),
        },
        Check {
            what: "tc",
            needed_for: "tests",
            found: program("tc", &["-V"], "apt-get install iproute2"),
        },
        Check {
            what: "clippy, BPF",
            needed_for: "tests",
            found: match Toolchain::find() {
                Some(toolchain) if toolchain.has_clippy() => {
                    Found::Yes("goes with the toolchain".to_owned())
                }
                toolchain => Found::No {
                    said: "not there".to_owned(),
                    remedy: clippy_remedy(toolchain).to_owned(),
                },
            },
        },
        Check {
            what: "unbound",
            needed_for: "tests",
            found: program("unbound", &["-V"], "apt-get install unbound"),
        },
        Check {
            what: "BIND",
            needed_for: "tests",
            found: program("named", &["-v"], "apt-get install bind9"),
        },
        Check {
            what: "dnsmasq",
            needed_for: "tests",
            found: program("dnsmasq", &["--version"], "apt-get install dnsmasq-base"),
        },
        Check {
            what: "musl-gcc",
            needed_for: "tests",
            found: program("musl-gcc", &["--version"], "apt-get install musl-tools"),
        },
        Check {
            what: "cmake",
            needed_for: "tests",
            found: program("cmake", &["--version"], "apt-get install cmake"),
        },
        Check {
            what: "c-ares",
            needed_for: "tests",
            found: if Path::new("/usr/include/ares.h").exists() {
                Found::Yes("ares.h".to_owned())
            } else {
                Found::No {
                    said: "no ares.h".to_owned(),
                    remedy: "apt-get install libc-ares-dev".to_owned(),
                }
            },
        },
        Check {
            what: "Go",
            needed_for: "tests",
            found: program(
                "go",
                &["version"],
                "apt-get install golang-go (an old one fetches what it needs)",
            ),
        },
        Check {
            what: "JDK",
            needed_for: "tests",
            found: program(
                "javac",
                &["-version"],
                "apt-get install default-jdk-headless",
            ),
        },
        Check {
            what: "kcat",
            needed_for: "tests",
            found: program("kcat", &["-V"], "apt-get install kcat"),
        },
        Check {
            what: "ethtool",
            needed_for: "tests",
            found: program("ethtool", &["--version"], "apt-get install ethtool"),
        },
        Check {
            what: "nft",
            needed_for: "tests",
            found: program("nft", &["--version"], "apt-get install nftables"),
        },
        Check {
            what: "CoreDNS",
            needed_for: "tests",
            found: if tools::coredns_is_built() {
                Found::Yes("built".to_owned())
            } else {
                Found::No {
                    said: "not built yet; some 5 minutes".to_owned(),
                    remedy: "cargo xtask setup --tests".to_owned(),
                }
            },
        },
        Check {
            what: "Helm",
            needed_for: "tests",
            found: if tools::helm_is_built() {
                Found::Yes("built".to_owned())
            } else {
                Found::No {
                    said: "not built yet; some 3 minutes".to_owned(),
                    remedy: "cargo xtask setup --tests".to_owned(),
                }
            },
        },
        Check {
            what: "node-cache",
            needed_for: "--cache node-cache",
            found: match tools::find("node-cache") {
                Some(path) => Found::Yes(path.display().to_string()),
                None => Found::Partly(
                    "not on PATH; CoreDNS with NodeLocal's Corefile takes its place".to_owned(),
                ),
            },
        },
    ]);
    checks
}

fn program(name: &str, arguments: &[&str], remedy: &str) -> Found {
    let said = tools::find(name).map(|path| {
        first_line(Command::new(&path).args(arguments))
            .unwrap_or_else(|| path.display().to_string())
    });
    match said {
        Some(said) => Found::Yes(said),
        None => Found::No {
            said: "not on PATH".to_owned(),
            remedy: remedy.to_owned(),
        },
    }
}

fn toolchain() -> Found {
    let lacking = || Found::No {
        said: "neither a nightly with rust-src nor a distribution's rustc with its source"
            .to_owned(),
        remedy: format!(
            "{DEBIAN_TOOLCHAIN}\nor: rustup toolchain install nightly --component rust-src"
        ),
    };
    let Some(toolchain) = Toolchain::find() else {
        return lacking();
    };
    let said = toolchain.describe();
    if toolchain == Toolchain::System && version(&said).is_none_or(|v| v < machine::RUSTC_MIN) {
        return Found::No {
            said: format!(
                "{said}, older than {}.{}",
                machine::RUSTC_MIN.0,
                machine::RUSTC_MIN.1
            ),
            remedy: DEBIAN_TOOLCHAIN.to_owned(),
        };
    }
    Found::Yes(said)
}

fn bpf_linker_remedy() -> String {
    let install = format!(
        "cargo install bpf-linker --version {}",
        machine::BPF_LINKER_VERSION
    );
    match Toolchain::find() {
        Some(Toolchain::Nightly) => install,
        _ => format!(
            "{DEBIAN_LLVM}\nLLVM_PREFIX=/usr/lib/llvm-22 LLVM_SYS_221_PREFIX=/usr/lib/llvm-22 \\\n  {install} --no-default-features --features llvm-22"
        ),
    }
}

fn clippy_remedy(toolchain: Option<Toolchain>) -> &'static str {
    match toolchain {
        Some(Toolchain::Nightly) => "rustup component add clippy --toolchain nightly",
        _ => "apt-get install --no-install-recommends rust-web-clippy",
    }
}

fn kernel() -> Vec<Check> {
    let release = machine::kernel_release();
    let number = version(&release);
    let missing = machine::missing_capabilities();
    vec![
        Check {
            what: "kernel",
            needed_for: "run",
            found: match number {
                Some(number) if number >= (6, 6) => Found::Yes(format!("{release}, has tcx")),
                Some(number) if number >= (5, 10) => {
                    Found::Partly(format!("{release}, before 6.6: clsact instead of tcx"))
                }
                _ => Found::No {
                    said: format!("{release}, older than 5.10"),
                    remedy: "a newer kernel".to_owned(),
                },
            },
        },
        Check {
            what: "BPF JIT",
            needed_for: "run",
            found: if machine::jit() {
                Found::Yes("on".to_owned())
            } else {
                Found::Partly("off: sysctl -w net.core.bpf_jit_enable=1".to_owned())
            },
        },
        Check {
            what: "BTF",
            needed_for: "run",
            found: if machine::has_btf() {
                Found::Yes("/sys/kernel/btf/vmlinux".to_owned())
            } else {
                Found::Partly("the kernel has none; the programs load without it".to_owned())
            },
        },
        Check {
            what: "bpffs",
            needed_for: "run",
            found: if machine::has_bpffs() {
                Found::Yes(machine::BPFFS.to_owned())
            } else {
                Found::No {
                    said: format!("not mounted at {}", machine::BPFFS),
                    remedy: format!("mount -t bpf bpf {}", machine::BPFFS),
                }
            },
        },
        Check {
            what: "capabilities",
            needed_for: "run, lab, tests",
            found: if missing.is_empty() {
                Found::Yes("all".to_owned())
            } else {
                let why: Vec<String> = machine::CAPABILITIES
                    .iter()
                    .filter(|(name, _, _)| missing.contains(name))
                    .map(|(name, _, purpose)| format!("no {name}: {purpose}"))
                    .collect();
                Found::No {
                    said: why.join("\n"),
                    remedy: "run as root".to_owned(),
                }
            },
        },
    ]
}
