//! `cargo xtask litmus`: the order of loads and stores around an answer's sequence number, in the memory model of arm64.
//!
//! Each file of tests/litmus says of one outcome that it must not be possible (`~exists`) or that it must be (`exists`),
//! which herd7 decides by going through all executions. Those of the second kind show that the others could fail.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use gregor_lab::tools::{self, apt, apt_install, say};

use crate::{kernels::packages, machine};

#[derive(Debug, Args)]
pub struct Options {}

pub fn run(_options: &Options) -> Result<ExitCode> {
    let (passed, failed) = all(&Herd::find()?)?;
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// How many tests hold, and how many do not.
pub fn all(herd: &Herd) -> Result<(u64, u64)> {
    let files = files()?;
    let (mut passed, mut failed) = (0, 0);
    for file in &files {
        let name = file.file_stem().unwrap_or_default().to_string_lossy();
        match check(herd, file) {
            Ok(observation) => {
                println!("litmus {name} ... ok, {observation}");
                passed += 1;
            }
            Err(error) => {
                println!("litmus {name} ... FAILED: {error:#}");
                failed += 1;
            }
        }
    }
    Ok((passed, failed))
}

fn files() -> Result<Vec<PathBuf>> {
    let directory = machine::root()?.join("tests/litmus");
    let mut files: Vec<PathBuf> = fs::read_dir(&directory)
        .with_context(|| format!("reading {}", directory.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "litmus"))
        .collect();
    files.sort();
    ensure!(!files.is_empty(), "no tests in {}", directory.display());
    Ok(files)
}

fn check(herd: &Herd, file: &Path) -> Result<String> {
    let output = herd
        .command()
        .arg(file)
        .stdin(Stdio::null())
        .output()
        .context("running herd7")?;
    let said = String::from_utf8_lossy(&output.stdout);
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success() && complaints.trim().is_empty(),
        "{}: {}",
        output.status,
        complaints.trim()
    );
    let name = file.file_stem().unwrap_or_default().to_string_lossy();
    verdict(&said, &name)
}

/// The line of herd7 on what it observed, if its condition holds.
fn verdict(said: &str, name: &str) -> Result<String> {
    let prefix = format!("Observation {name} ");
    let observation = said
        .lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .with_context(|| format!("herd7 said nothing of {name}"))?;
    if !said.lines().any(|line| line == "Ok") {
        bail!("the condition does not hold: {observation}");
    }
    Ok(observation.to_owned())
}

/// herd7 and where it has its models.
#[derive(Debug)]
pub struct Herd {
    /// The program, or the dynamic loader of the libc that it was built for.
    program: PathBuf,
    arguments: Vec<PathBuf>,
}

impl Herd {
    /// On PATH, from this machine's suite, or from a newer one into the cache.
    pub fn find() -> Result<Self> {
        if let Some(program) = tools::find("herd7") {
            return Ok(Self::installed(program));
        }
        if let Some(herd) = Self::unpacked()? {
            return Ok(herd);
        }
        let in_suite = tools::find("apt-cache").is_some_and(|apt| {
            Command::new(apt)
                .args(["show", "herdtools7"])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status()
                .is_ok_and(|status| status.success())
        });
        if in_suite && machine::is_root() {
            apt_install(&["herdtools7"])?;
            return Ok(Self::installed(
                tools::find("herd7").context("package herdtools7 brought no herd7")?,
            ));
        }
        Self::unpack()
            .context("no herd7: install herdtools7 (Debian 14, or `opam install herdtools7`)")?;
        Self::unpacked()?.context("the package herdtools7 has no herd7")
    }

    fn installed(program: PathBuf) -> Self {
        Self {
            program,
            arguments: Vec::new(),
        }
    }

    fn directory() -> Result<PathBuf> {
        Ok(tools::cache_dir()?.join("herdtools7"))
    }

    fn unpacked() -> Result<Option<Self>> {
        let root = Self::directory()?;
        let herd = root.join("usr/bin/herd7");
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        Ok(herd.exists().then(|| Self {
            program: libraries.join("ld-linux-x86-64.so.2"),
            arguments: vec![
                "--library-path".into(),
                libraries,
                herd,
                "-set-libdir".into(),
                root.join("usr/share/herdtools7/herd"),
            ],
        }))
    }

    /// With the libc that it needs, which may be newer than this machine's.
    fn unpack() -> Result<()> {
        let _lock = tools::exclusive("herdtools7")?;
        let directory = Self::directory()?;
        if directory.exists() {
            return Ok(());
        }
        ensure!(
            std::env::consts::ARCH == "x86_64",
            "its package is unpacked on x86-64 only"
        );
        let half = directory.with_extension("half");
        let _ = fs::remove_dir_all(&half);
        say("herd7 comes from one of Debian's newer suites, into the cache");
        let archives = half.join("packages");
        let names = ["herdtools7", "libc6", "libgmp10"].map(str::to_owned);
        packages::open("amd64", false)?.download("fetching herd7", &names, &archives)?;
        apt::unpack(&archives, &half)?;
        fs::remove_dir_all(&archives)?;
        fs::rename(&half, &directory)?;
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.arguments);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn condition_that_does_not_hold_fails() {
        let held = "States 1\nOk\nWitnesses\nObservation reader Never 0 18\n";
        assert_eq!(verdict(held, "reader").expect("it holds"), "Never 0 18");
        let failed = held.replace("Ok", "No");
        assert!(verdict(&failed, "reader").is_err());
        assert!(verdict(held, "writer").is_err());
        assert!(verdict("", "reader").is_err());
    }
}
