//! `cargo xtask arm64`: the static binary on Debian's arm64 kernels, emulated, and the order of loads in the code that
//! their JIT makes of the programs.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use gregor_lab::tools::{self, apt_install, say};

use crate::{
    archive::Archive,
    build,
    cross::{self, Arch},
    initramfs::Initramfs,
    machine, setup,
};

#[derive(Debug, Args)]
pub struct Options {
    /// Names of kernel packages, or the beginnings of their versions; the newest of each is taken
    #[arg(value_name = "KERNEL", default_values = ["6.1.", "6.12."])]
    kernels: Vec<String>,
}

const SUITES: [&str; 3] = ["bookworm", "trixie", "sid"];
/// A guest that says nothing more has stopped.
const PATIENCE: Duration = Duration::from_secs(1800);
/// What the guest says about itself begins so.
const MARK: &str = "guest: ";

/// Runs as the first process.
const INIT: &str = r#"#!/bin/sh
mkdir -p /proc /sys /dev /tmp /run
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mount -t bpf bpf /sys/fs/bpf; mount -t tmpfs tmp /tmp; mount -t tmpfs run /run
echo 0 > /proc/sys/kernel/kptr_restrict
ip link set lo up
step() { name=$1; shift; "$@" 2>&1; echo "guest: $name ended with $?"; }
echo "guest: $(uname -sr) on $(uname -m)"
step version /gregor --version
step check /gregor check
for test in /tests/*; do step "${test#/tests/}" $test --test-threads=1 --nocapture; done
echo "guest: done"
poweroff -f
"#;

pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure_build()?;
    let qemu = qemu()?;
    let gregor = build::run(&build::Options {
        release: true,
        is_static: true,
        arch: Some(Arch::Aarch64),
    })?;
    let tests = cross::test_binaries(Arch::Aarch64, "gregor-tests", &["arm64"])?;
    let archive = Archive::open(&SUITES, "arm64")?;
    let root = root(&archive, &gregor, &tests)?;
    let (mut passed, mut failed) = (0, 0);
    for wanted in &options.kernels {
        let name = newest(&archive, wanted)?;
        let image = kernel(&archive, &name)?;
        say(&format!("booting {name}"));
        match boot(&qemu, &image, &root) {
            Ok(seconds) => {
                println!("{name} ... ok in {seconds} s");
                passed += 1;
            }
            Err(error) => {
                println!("{name} ... FAILED: {error:#}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn qemu() -> Result<PathBuf> {
    const PROGRAM: &str = "qemu-system-aarch64";
    if tools::find(PROGRAM).is_none() {
        apt_install(&["qemu-system-arm"])?;
    }
    tools::find(PROGRAM).with_context(|| format!("no {PROGRAM} on PATH"))
}

/// Writes the guest's root file system.
fn root(archive: &Archive, gregor: &Path, tests: &[PathBuf]) -> Result<PathBuf> {
    let directory = tools::cache_dir()?.join("busybox-arm64");
    let busybox = directory.join("bin/busybox");
    let merged = directory.join("usr/bin/busybox");
    if !busybox.exists() && !merged.exists() {
        archive.unpack(&["busybox-static"], &directory)?;
    }
    let busybox = if merged.exists() { merged } else { busybox };
    let mut root = Initramfs::default();
    for path in ["bin", "tests"] {
        root.directory(path);
    }
    root.copy("bin/busybox", &busybox)?;
    for applet in ["sh", "mkdir", "mount", "echo", "uname", "ip", "poweroff"] {
        root.link(&format!("bin/{applet}"), "busybox");
    }
    root.program("init", INIT.as_bytes())
        .copy("gregor", gregor)?;
    for test in tests {
        let name = test.file_name().unwrap_or_default().to_string_lossy();
        root.copy(&format!("tests/{name}"), test)?;
    }
    let path = machine::target_directory()?.join("arm64.cpio");
    fs::write(&path, root.finish())?;
    Ok(path)
}

/// The newest kernel for clouds, the smallest that Debian has, whose version begins so.
fn newest(archive: &Archive, wanted: &str) -> Result<String> {
    let names = archive.names("^linux-image-[0-9].*-cloud-arm64$")?;
    names
        .into_iter()
        .filter(|name| {
            name == wanted
                || name
                    .strip_prefix("linux-image-")
                    .is_some_and(|version| version.starts_with(wanted))
        })
        .max_by_key(|name| numbers(name))
        .with_context(|| format!("no kernel {wanted} in {}", SUITES.join(", ")))
}

/// The numbers in a name, to sort by.
fn numbers(name: &str) -> Vec<u64> {
    name.split(|c: char| !c.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// The image of a kernel, fetched if need be.
fn kernel(archive: &Archive, package: &str) -> Result<PathBuf> {
    let directory = tools::cache_dir()?.join("kernels").join(package);
    let version = package.trim_start_matches("linux-image-");
    let image = directory.join(format!("boot/vmlinuz-{version}"));
    if !image.exists() {
        archive.unpack(&[package], &directory)?;
    }
    if !image.exists() {
        // Newer ones come in several packages.
        archive.unpack(&[&format!("linux-binary-{version}")], &directory)?;
    }
    ensure!(image.exists(), "{package} brought no {}", image.display());
    Ok(image)
}

/// Boots, shows what the guest says, and returns how many seconds it took.
fn boot(qemu: &Path, image: &Path, root: &Path) -> Result<u64> {
    let started = Instant::now();
    let mut guest = Command::new("timeout")
        .arg(PATIENCE.as_secs().to_string())
        .arg(qemu)
        .args(["-machine", "virt", "-accel", "tcg", "-cpu", "max"])
        .args(["-m", "2048", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-serial", "stdio", "-kernel"])
        .arg(image)
        .arg("-initrd")
        .arg(root)
        .args(["-append", "console=ttyAMA0 quiet panic=-1"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("starting qemu")?;
    let output = guest.stdout.take().context("stdout is piped")?;
    let log = File::create(machine::target_directory()?.join("arm64.log"))?;
    let mut report = Report::default();
    {
        use std::io::Write as _;
        let mut log = std::io::BufWriter::new(log);
        for line in BufReader::new(output).split(b'\n') {
            let line = line?;
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end();
            writeln!(log, "{line}")?;
            println!("  {line}");
            report.read(line);
        }
    }
    let status = guest.wait()?;
    report.end(&status.to_string())?;
    Ok(started.elapsed().as_secs())
}

/// What the guest said.
#[derive(Debug, Default)]
struct Report {
    failed: Vec<String>,
    is_done: bool,
}

impl Report {
    fn read(&mut self, line: &str) {
        let Some(said) = line.strip_prefix(MARK) else {
            return;
        };
        if said == "done" {
            self.is_done = true;
        } else if let Some((name, code)) = said.split_once(" ended with ")
            && code != "0"
        {
            self.failed.push(format!("{name} ({code})"));
        }
    }

    fn end(&self, status: &str) -> Result<()> {
        if !self.is_done {
            bail!("the guest stopped before its end ({status})");
        }
        ensure!(self.failed.is_empty(), "{}", self.failed.join(", "));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guest_that_stops_or_fails_is_no_success() {
        let mut report = Report::default();
        report.read("guest: version ended with 0");
        assert!(report.end("exit status: 0").is_err());
        report.read("guest: done");
        assert!(report.end("exit status: 0").is_ok());
        report.read("guest: check ended with 1");
        assert!(report.end("exit status: 0").is_err());
    }

    #[test]
    fn versions_sort_by_number() {
        assert!(numbers("linux-image-6.1.0-9-arm64") < numbers("linux-image-6.1.0-56-arm64"));
        assert!(
            numbers("linux-image-6.12.43+deb13-arm64")
                < numbers("linux-image-6.12.118+deb13-arm64")
        );
    }
}
