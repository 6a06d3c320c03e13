//! A kernel on this machine: its image and its modules, from the archive by way of a cache, or from anybody's files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::tools;

use super::{
    apt::{self, Apt},
    catalogue::{Release, Wanted},
    modules::{self, Module},
};

/// What a guest boots.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub image: PathBuf,
    /// A directory of modules; its own order and compression do not matter.
    pub modules: PathBuf,
}

impl Kernel {
    pub fn modules(&self) -> Result<Vec<Module>> {
        modules::collect(&self.modules)
    }
}

/// Where kernels are kept.
pub fn cache() -> Result<PathBuf> {
    let directory = tools::cache_dir()?.join("kernels");
    fs::create_dir_all(&directory)?;
    Ok(directory)
}

/// The kernel that a name stands for, downloaded if need be; `None` when the archive has none of that name.
pub fn find(wanted: &Wanted, apt: &Apt, releases: &[Release]) -> Result<Option<(String, Kernel)>> {
    for release in wanted.candidates(releases) {
        let directory = cache()?.join(&release.text);
        if !directory.join("vmlinuz").exists() {
            let Some(packages) = apt.packages_of(release)? else {
                continue;
            };
            fetch(&packages, apt, release, &directory)
                .with_context(|| format!("fetching kernel {}", release.text))?;
        }
        return Ok(Some((
            release.text.clone(),
            Kernel {
                image: directory.join("vmlinuz"),
                modules: directory.join("modules"),
            },
        )));
    }
    Ok(None)
}

/// Downloads and unpacks aside, and keeps the image and those directories of modules that the tests may need.
fn fetch(packages: &[String], apt: &Apt, release: &Release, directory: &Path) -> Result<()> {
    let _lock = tools::exclusive("kernels")?;
    if directory.join("vmlinuz").exists() {
        return Ok(());
    }
    if tools::find("xz").is_none() {
        tools::apt_install(&["xz-utils"])?;
    }
    let aside = directory.with_extension("partial");
    if aside.exists() {
        fs::remove_dir_all(&aside)?;
    }
    let tree = aside.join("tree");
    apt.download(
        &format!("fetching kernel {}", release.text),
        packages,
        &aside.join("packages"),
    )?;
    apt::unpack(&aside.join("packages"), &tree)?;

    // A merged /usr or not, and the image in /boot or beside the modules.
    let roots = ["usr/lib/modules", "lib/modules"].map(|at| tree.join(at).join(&release.text));
    let modules = roots
        .iter()
        .find(|root| root.join("kernel").is_dir())
        .with_context(|| format!("no modules in {packages:?}"))?;
    let image = [tree.join(format!("boot/vmlinuz-{}", release.text))]
        .into_iter()
        .chain(roots.iter().map(|root| root.join("vmlinuz")))
        .find(|image| image.exists())
        .with_context(|| format!("no vmlinuz in {packages:?}"))?;
    let kept = aside.join("kept");
    for part in ["net", "drivers/net", "drivers/virtio", "lib"] {
        let from = modules.join("kernel").join(part);
        if from.is_dir() {
            copy(&from, &kept.join("modules").join(part))?;
        }
    }
    fs::copy(image, kept.join("vmlinuz"))?;
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::rename(&kept, directory)?;
    fs::remove_dir_all(&aside)?;
    Ok(())
}

/// Directories of drivers that no guest has a device for.
const LEFT_OUT: &[&str] = &[
    "wireless",
    "usb",
    "ethernet",
    "can",
    "wan",
    "hamradio",
    "phy",
    "arcnet",
    "fddi",
    "bluetooth",
    "mac80211",
];

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let target = to.join(&name);
        if !entry.file_type()?.is_dir() {
            fs::copy(entry.path(), target)?;
        } else if !LEFT_OUT.contains(&name.to_string_lossy().as_ref()) {
            copy(&entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Anybody's kernel.
pub fn given(image: &Path, modules: &Path) -> Result<Kernel> {
    if !image.is_file() {
        bail!("--image {}: no such file", image.display());
    }
    if !modules.is_dir() {
        bail!(
            "--modules {}: no such directory (that of the kernel's release below /lib/modules, say)",
            modules.display()
        );
    }
    Ok(Kernel {
        image: image.to_owned(),
        modules: modules.to_owned(),
    })
}
