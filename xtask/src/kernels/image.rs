//! The initramfs of a guest: what all guests of an architecture share, and behind it each one's modules and plan.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::{
    guest::{PLAN, Plan},
    tools,
};

use super::{cpio::Archive, modules::Module};

/// The programs of a guest. All of them are for the guest's architecture.
#[derive(Clone, Debug)]
pub struct Programs {
    /// Process 1.
    pub init: PathBuf,
    /// Missing where nothing runs that needs it.
    pub gregor: Option<PathBuf>,
    /// libtest programs, by the name that they get in /tests.
    pub tests: Vec<(String, PathBuf)>,
    /// Programs that the tests call, by their path in the guest: at least `/usr/sbin/ip`.
    pub tools: Vec<(String, PathBuf)>,
    /// Files as they are, by their path in the guest: libraries of programs that cannot be run here to ask them.
    pub files: Vec<(String, PathBuf)>,
    /// What takes symbols out of programs of this architecture.
    pub strip: PathBuf,
    /// Whether the programs can be asked for their libraries.
    pub is_native: bool,
}

/// Where a guest finds its tests.
pub fn test_path(name: &str) -> String {
    format!("/tests/{name}")
}

/// What does not depend on the kernel.
pub fn base(programs: &Programs, scratch: &Path) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for directory in [
        "proc", "sys", "dev", "tmp", "run", "etc", "root", "var", "modules",
    ] {
        archive.directory(directory);
    }
    // The kernel opens it for process 1 before anything is mounted.
    archive.character_device("dev/console", 5, 1);
    archive.file("etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n");
    archive.file("etc/nsswitch.conf", b"hosts: files dns\n");
    archive.file("etc/resolv.conf", b"");
    archive.file("etc/hosts", b"127.0.0.1 localhost\n::1 localhost\n");

    let mut added = BTreeSet::new();
    let mut add = |at: &str, from: &Path, is_ours: bool| -> Result<()> {
        let content = if is_ours {
            stripped(from, &programs.strip, scratch)?
        } else {
            read(from)?
        };
        archive.file(at.trim_start_matches('/'), &content);
        if programs.is_native {
            for library in libraries(from)? {
                if added.insert(library.clone()) {
                    let content = read(&library)?;
                    let at = library.to_string_lossy().into_owned();
                    archive.file(at.trim_start_matches('/'), &content);
                }
            }
        }
        Ok(())
    };
    add("/init", &programs.init, true)?;
    if let Some(gregor) = &programs.gregor {
        add("/usr/bin/gregor", gregor, true)?;
    }
    for (name, path) in &programs.tests {
        add(&test_path(name), path, true)?;
    }
    for (at, path) in programs.tools.iter().chain(&programs.files) {
        add(at, path, false)?;
    }
    Ok(archive.finish())
}

/// What depends on the kernel, and what is to be done in it.
pub fn with_kernel(modules: &[Module], mut plan: Plan) -> Result<Vec<u8>> {
    let mut archive = Archive::default();
    for module in modules {
        let at = format!("modules/{}.ko", module.name);
        archive.file(&at, &module.content);
        plan.modules.push(format!("/{at}"));
    }
    archive.file(
        PLAN.trim_start_matches('/'),
        serde_json::to_string_pretty(&plan)?.as_bytes(),
    );
    Ok(archive.finish())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("reading {}", path.display()))
}

/// A program without its symbols, which are most of it.
fn stripped(path: &Path, strip: &Path, scratch: &Path) -> Result<Vec<u8>> {
    let output = scratch.join("stripped");
    let status = Command::new(strip)
        .arg("-o")
        .arg(&output)
        .arg(path)
        .status()
        .with_context(|| format!("running {} (package binutils)", strip.display()))?;
    if !status.success() {
        bail!("{} {}: {status}", strip.display(), path.display());
    }
    let content = read(&output)?;
    fs::remove_file(&output)?;
    Ok(content)
}

/// The libraries of a program of this machine, its dynamic linker among them; none for a static one.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let ldd = tools::find("ldd").context("this machine has no ldd (package libc-bin)")?;
    let output = Command::new(ldd).arg(program).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("not found") {
        bail!("{}: a library is not there:\n{text}", program.display());
    }
    Ok(text
        .lines()
        .filter_map(|line| {
            let line = line.trim();
            let path = line.split_once("=> ").map_or(line, |(_, path)| path);
            let path = path.split_whitespace().next()?;
            path.starts_with('/').then(|| PathBuf::from(path))
        })
        .collect())
}
