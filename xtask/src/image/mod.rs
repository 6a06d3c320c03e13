//! `cargo xtask image`: a container image with nothing in it but the static binary, made without a container engine.

pub mod archive;
pub mod layer;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use flate2::Compression;

use self::{archive::Image, layer::Layer};
use crate::{
    build,
    cross::Arch,
    machine::{self, first_line},
};

/// Where the binary is in the image: on the PATH, so that `kubectl exec … -- gregor status` finds it.
const BINARY: &str = "usr/bin/gregor";
/// What an image may take; it has to be fetched by each node.
const MAX_BYTES: u64 = 15 << 20;
const SOURCE: &str = "https://github.com/gregor-dns/gregor";

#[derive(Clone, Debug, Default, Args)]
pub struct Options {
    /// Architecture of the image; this machine's unless named
    #[arg(long, value_name = "ARCH")]
    pub arch: Option<Arch>,
    /// Name of the image; `gregor:VERSION` unless given
    #[arg(long, value_name = "NAME:TAG")]
    pub tag: Option<String>,
}

/// An image that was written.
#[derive(Debug)]
pub struct Written {
    pub path: PathBuf,
    /// What is in it.
    pub binary: PathBuf,
    pub digest: String,
    pub bytes: u64,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let written = write(options)?;
    println!("path    {}", written.path.display());
    println!("digest  {}", written.digest);
    println!(
        "size    {} bytes ({:.1} MiB)",
        written.bytes,
        written.bytes as f64 / f64::from(1 << 20)
    );
    Ok(ExitCode::SUCCESS)
}

/// Builds the binary and the image around it.
pub fn write(options: &Options) -> Result<Written> {
    let arch = match options.arch {
        Some(arch) => arch,
        None => Arch::host()?,
    };
    let binary = build::run(&build::Options {
        release: true,
        is_static: true,
        arch: Some(arch),
    })?;
    let directory = machine::target_directory()?.join("image").join(arch.name());
    fs::create_dir_all(&directory)?;
    let stripped = directory.join("gregor");
    strip(arch, &binary, &stripped)?;

    let image = Image {
        reference: options
            .tag
            .clone()
            .unwrap_or_else(|| format!("gregor:{}", env!("CARGO_PKG_VERSION"))),
        architecture: arch.of_images(),
        layers: vec![layer(&fs::read(&stripped)?)?],
        entrypoint: vec![format!("/{BINARY}")],
        command: Vec::new(),
        labels: labels()?,
        compression: Compression::best(),
    };
    let path = directory.join("gregor.tar");
    let digest = image.write(&path)?;
    let bytes = fs::metadata(&path)?.len();
    if bytes > MAX_BYTES {
        bail!(
            "{} has {bytes} bytes, more than {MAX_BYTES}",
            path.display()
        );
    }
    Ok(Written {
        path,
        binary: stripped,
        digest,
        bytes,
    })
}

fn strip(arch: Arch, from: &Path, to: &Path) -> Result<()> {
    let status = Command::new(arch.strip()?)
        .args(["--strip-all", "-o"])
        .args([to, from])
        .status()
        .context("running strip")?;
    if !status.success() {
        bail!("stripping {}: {status}", from.display());
    }
    Ok(())
}

fn layer(binary: &[u8]) -> Result<Layer> {
    let mut layer = Layer::default();
    layer.file(BINARY, 0o755, binary.to_vec());
    Ok(layer)
}

/// The labels of the OCI's annotations that say what this is and where it comes from. None has a time in it.
fn labels() -> Result<Vec<(&'static str, String)>> {
    let mut labels = vec![
        ("org.opencontainers.image.title", "gregor".to_owned()),
        (
            "org.opencontainers.image.description",
            "Gives every tenant of a Kubernetes node its own answer for a wildcard of DNS names"
                .to_owned(),
        ),
        (
            "org.opencontainers.image.version",
            env!("CARGO_PKG_VERSION").to_owned(),
        ),
        (
            "org.opencontainers.image.licenses",
            "MIT OR Apache-2.0".to_owned(),
        ),
        ("org.opencontainers.image.source", SOURCE.to_owned()),
    ];
    // A source tree without its history has none.
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"])
        .current_dir(machine::root()?);
    if let Some(revision) = first_line(&mut git) {
        labels.push(("org.opencontainers.image.revision", revision));
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_has_one_file_and_the_labels_of_the_workspace() {
        let layer = layer(b"binary").unwrap();
        assert_eq!(
            layer.paths().collect::<Vec<_>>(),
            ["usr", "usr/bin", "usr/bin/gregor"]
        );
        let labels = labels().unwrap();
        let manifest = fs::read_to_string(machine::root().unwrap().join("Cargo.toml")).unwrap();
        for key in ["source", "version"] {
            let key = format!("org.opencontainers.image.{key}");
            let (_, value) = labels.iter().find(|(label, _)| **label == key).unwrap();
            assert!(manifest.contains(&format!("\"{value}\"")), "{key}: {value}");
        }
    }
}
