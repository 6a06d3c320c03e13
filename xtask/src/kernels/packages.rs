//! Debian's kernel packages: which there are, and which make up a kernel.

use std::{fs, path::PathBuf};

use anyhow::{Context as _, Result};
use gregor_lab::tools::{self, apt::Apt};

use super::catalogue::Release;

/// Where kernels, and what is run on them, come from.
const SUITES: &[&str] = &[
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-backports",
    "bookworm-security",
    "trixie",
    "trixie-backports",
    "trixie-security",
    "forky",
    "sid",
    "experimental",
];

/// Fetches new lists where there are none of this week, or if `update` asks for it.
pub fn open(architecture: &'static str, update: bool) -> Result<Apt> {
    Apt::open(&cache()?, architecture, SUITES, update)
        .context("the packages come from there; `cargo xtask kernels --image FILE --modules DIR` takes a kernel of your own")
}

/// Every kernel of the archive.
pub fn releases(apt: &Apt) -> Result<Vec<Release>> {
    let found = apt.output("apt-cache", &["pkgnames", "linux-image-"])?;
    Ok(found
        .lines()
        .filter_map(|package| Release::of_package(package.trim(), apt.architecture()))
        .collect())
}

/// Where kernels are kept.
pub fn cache() -> Result<PathBuf> {
    let directory = tools::cache_dir()?.join("kernels");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The packages that make up a kernel, and whether its modules are among them; `None` when the archive no longer has
/// its image. From 7.0 on there are several packages, and some stay in the archive longer than the rest.
pub fn packages_of(apt: &Apt, release: &Release) -> Result<Option<(Vec<String>, bool)>> {
    let image = format!("linux-image-{}", release.text);
    let mut packages = vec![image.clone()];
    let mut has_modules = true;
    for line in apt.output("apt-cache", &["depends", &image])?.lines() {
        let Some(dependency) = line.trim().strip_prefix("Depends: ") else {
            continue;
        };
        // Packages in angle brackets do not exist.
        let name = dependency.trim_matches(['<', '>']);
        let exists = name == dependency;
        if !name.ends_with(&release.text) {
            continue;
        }
        if name.starts_with("linux-binary-") && !exists {
            return Ok(None);
        }
        if name.starts_with("linux-modules-") {
            has_modules = exists;
        }
        // linux-base-… is for the hooks of an installation.
        if exists && !name.starts_with("linux-base-") {
            packages.push(name.to_owned());
        }
    }
    Ok(Some((packages, has_modules)))
}
