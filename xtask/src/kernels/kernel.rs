//! A kernel on this machine: its image and its modules, from the archive by way of a cache, or from given files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::tools::{
    self,
    apt::{self, Apt},
};

use super::{
    catalogue::{Release, Wanted},
    modules::{self, Module},
    packages,
};

/// What a guest boots.
#[derive(Clone, Debug)]
pub struct Kernel {
    pub image: PathBuf,
    /// A directory of modules; its own order and compression do not matter. `None` when the archive has none any more.
    pub modules: Option<PathBuf>,
}

impl Kernel {
    pub fn modules(&self) -> Result<Vec<Module>> {
        match &self.modules {
            Some(directory) => modules::collect(directory),
            None => Ok(Vec::new()),
        }
    }
}

/// The kernel of a name, downloaded if need be; `None` when the archive has none of that name. One with its modules comes
/// before a newer one without.
pub fn find(wanted: &Wanted, apt: &Apt, releases: &[Release]) -> Result<Option<(String, Kernel)>> {
    let mut without_modules = None;
    for release in wanted.candidates(releases) {
        if let Some(kernel) = cached(release)?
            && kernel.modules.is_some()
        {
            return Ok(Some((release.text.clone(), kernel)));
        }
        match packages::packages_of(apt, release)? {
            Some((packages, true)) => return get(release, &packages, apt).map(Some),
            Some((packages, false)) if without_modules.is_none() => {
                without_modules = Some((release, packages));
            }
            _ => {}
        }
    }
    without_modules
        .map(|(release, packages)| get(release, &packages, apt))
        .transpose()
}

fn cached(release: &Release) -> Result<Option<Kernel>> {
    let directory = packages::cache()?.join(&release.text);
    let (image, modules) = (directory.join("vmlinuz"), directory.join("modules"));
    Ok(image.exists().then(|| Kernel {
        image,
        modules: modules.is_dir().then_some(modules),
    }))
}

fn get(release: &Release, packages: &[String], apt: &Apt) -> Result<(String, Kernel)> {
    if cached(release)?.is_none() {
        fetch(packages, apt, release)
            .with_context(|| format!("fetching kernel {}", release.text))?;
    }
    let kernel = cached(release)?.context("a kernel that was just fetched")?;
    Ok((release.text.clone(), kernel))
}

/// Downloads and unpacks aside, and keeps the image and those directories of modules that the tests may need.
fn fetch(packages: &[String], apt: &Apt, release: &Release) -> Result<()> {
    let directory = packages::cache()?.join(&release.text);
    let _lock = tools::exclusive("kernels")?;
    if cached(release)?.is_some() {
        return Ok(());
    }
    if tools::find("xz").is_none() {
        tools::apt_install(&["xz-utils"])?;
    }
    let aside = directory.with_file_name(format!("{}.partial", release.text));
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
    let image = [tree.join(format!("boot/vmlinuz-{}", release.text))]
        .into_iter()
        .chain(roots.iter().map(|root| root.join("vmlinuz")))
        .find(|image| image.exists())
        .with_context(|| format!("no vmlinuz in {packages:?}"))?;
    let kept = aside.join("kept");
    fs::create_dir_all(&kept)?;
    for root in &roots {
        for part in ["net", "drivers/net", "drivers/virtio", "lib"] {
            let from = root.join("kernel").join(part);
            if from.is_dir() {
                copy(&from, &kept.join("modules").join(part))?;
            }
        }
    }
    fs::copy(image, kept.join("vmlinuz"))?;
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::rename(&kept, &directory)?;
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

/// A kernel from files.
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
        modules: Some(modules.to_owned()),
    })
}
