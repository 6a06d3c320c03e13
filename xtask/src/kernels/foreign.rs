//! Programs for guests of another architecture than this machine's: static ones of this repository, and Debian's with their
//! libraries.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use gregor_lab::{
    guest::Step,
    tools::{self, apt},
};

use super::{
    Architecture,
    built::{executables, names},
    image::Programs,
    packages,
};
use crate::{cross, elf, setup};

/// What has the programs that tests call.
const PACKAGES: [&str; 4] = ["iproute2", "libc-bin", "apparmor", "secilc"];
const CALLED: [&str; 5] = [
    "/usr/sbin/ip",
    "/usr/sbin/tc",
    "/usr/bin/getent",
    "/usr/sbin/apparmor_parser",
    "/usr/bin/secilc",
];

/// Builds and finds everything for these steps.
pub fn build(architecture: Architecture, steps: &[Step]) -> Result<Programs> {
    setup::ensure_build()?;
    let target = architecture.target();
    let names = names(steps);
    let live = steps.iter().any(|step| step.group == "lab");
    // Optimised, since emulated processors are slow. In one call, so that all are made from the same libraries.
    let mut cargo = cross::cargo(target, "build")?;
    cargo
        .args(["--release", "--package", "gregor-tests", "--bin", "guest"])
        .args(names.iter().flat_map(|name| ["--test", name]))
        .args(["--message-format", "json-render-diagnostics"]);
    if live {
        cargo.args(["--package", "dns-userspace", "--bin", "gregor"]);
    }
    let mut built = executables(&mut cargo)?;
    let mut tests = Vec::new();
    for name in names {
        let path = built
            .remove(&name)
            .with_context(|| format!("cargo built no test {name}"))?;
        tests.push((name, path));
    }
    let gregor = built.remove("gregor");
    if let Some(gregor) = &gregor {
        elf::ensure_static(gregor)?;
    }
    let root = packaged(architecture)?;
    let called = CALLED
        .iter()
        .filter_map(|at| Some(((*at).to_owned(), find(&root, at)?)))
        .collect();
    Ok(Programs {
        init: built.remove("guest").context("cargo built no guest")?,
        gregor,
        tests,
        tools: called,
        files: libraries(&root)?,
        strip: target.strip()?,
        is_native: false,
    })
}

/// Where Debian's programs are unpacked.
fn packaged(architecture: Architecture) -> Result<PathBuf> {
    let debian = architecture.debian();
    let root = packages::cache()?.join(format!("programs-{debian}-{}", PACKAGES.join("-")));
    let _lock = tools::exclusive("kernels")?;
    if root.exists() {
        return Ok(root);
    }
    let aside = root.with_extension("partial");
    let _ = fs::remove_dir_all(&aside);
    let archives = aside.join("packages");
    packages::open(debian, false)?.download_with_dependencies(
        &format!("fetching {} for {debian}", PACKAGES.join(" and ")),
        &PACKAGES,
        &archives,
    )?;
    let tree = aside.join("tree");
    apt::unpack(&archives, &tree)?;
    fs::rename(&tree, &root)?;
    fs::remove_dir_all(&aside)?;
    Ok(root)
}

/// A program of the tree; /sbin and /bin may be directories of their own there.
fn find(root: &Path, at: &str) -> Option<PathBuf> {
    [at, at.strip_prefix("/usr")?]
        .iter()
        .map(|at| root.join(at.trim_start_matches('/')))
        .find(|path| path.is_file())
}

/// Every library of the tree, in a directory that the dynamic loader looks into, and that loader where programs name it.
fn libraries(root: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    for above in ["lib", "usr/lib"].map(|path| root.join(path)) {
        for directory in entries(&above)?.into_iter().filter(|path| path.is_dir()) {
            for path in entries(&directory)? {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                // A link to a file of a package that was not unpacked is none.
                if !name.contains(".so") || !path.is_file() {
                    continue;
                }
                if name.starts_with("ld-linux") {
                    found.push((format!("/lib/{name}"), path.clone()));
                }
                let triple = directory.file_name().unwrap_or_default().to_string_lossy();
                found.push((format!("/usr/lib/{triple}/{name}"), path.clone()));
            }
        }
    }
    Ok(found)
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    if !directory.exists() {
        return Ok(Vec::new());
    }
    let mut entries = Vec::new();
    for entry in
        fs::read_dir(directory).with_context(|| format!("reading {}", directory.display()))?
    {
        entries.push(entry?.path());
    }
    Ok(entries)
}
