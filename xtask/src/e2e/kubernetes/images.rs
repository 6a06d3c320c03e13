//! Images of the cluster's pods, built from programs of this machine.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use flate2::Compression;
use gregor_lab::tools;

use super::components::{Components, libraries};
use crate::{
    cross::Arch,
    image::{archive::Image, layer::Layer},
};

pub const PAUSE: &str = "localhost/pause:1";
/// Pods whose resolver is glibc's, and pods whose resolver is musl's: each has a program `lookup NAME`.
pub const GLIBC: &str = "localhost/glibc:1";
pub const MUSL: &str = "localhost/musl:1";
pub const COREDNS: &str = "localhost/coredns:1";
/// Kafka's clients, on glibc: in Java, and kcat.
pub const KAFKA: &str = "localhost/kafka:1";
/// Paths in it.
pub const JAVA: &str = "/opt/java/bin/java";
pub const JAVA_CLASSES: &str = "/opt/kafka:/opt/kafka/*";
pub const KCAT: &str = "/usr/bin/kcat";
/// Of Kafka's libraries, those that its client takes.
const CLIENT_LIBRARIES: [&str; 2] = ["kafka-clients-", "slf4j-"];

const BUSYBOX: &str = "bin/busybox";
const SLEEP: [&str; 3] = ["/bin/busybox", "sleep", "1000000"];

/// Writes the archives into a directory.
pub fn write(directory: &Path, components: &Components) -> Result<()> {
    fs::create_dir_all(directory)?;
    let mut pause = Layer::default();
    pause.copy(Path::new("/bin/busybox"), BUSYBOX)?;
    image(PAUSE, pause, &SLEEP).write(&directory.join("pause.tar"))?;

    let mut glibc = base()?;
    dynamic(&mut glibc, &tools::glibc_client()?, "usr/bin/lookup")?;
    resolver(&mut glibc)?;
    image(KAFKA, kafka()?, &SLEEP).write(&directory.join("kafka.tar"))?;
    image(GLIBC, glibc, &SLEEP).write(&directory.join("glibc.tar"))?;

    let mut musl = base()?;
    musl.copy(&tools::musl_client()?, "usr/bin/lookup")?;
    image(MUSL, musl, &SLEEP).write(&directory.join("musl.tar"))?;

    let mut coredns = Layer::default();
    coredns.copy(&components.coredns, "coredns")?;
    image(COREDNS, coredns, &["/coredns"]).write(&directory.join("coredns.tar"))?;
    Ok(())
}

/// What getaddrinfo loads by its name.
fn resolver(layer: &mut Layer) -> Result<()> {
    for library in ["libnss_dns.so.2", "libnss_files.so.2", "libresolv.so.2"] {
        if let Some(path) = library_path(library) {
            layer.copy(&path, &path.display().to_string()[1..])?;
        }
    }
    Ok(())
}

fn kafka() -> Result<Layer> {
    let mut layer = base()?;
    resolver(&mut layer)?;
    dynamic(&mut layer, &tools::kcat()?, &KCAT[1..])?;
    let runtime = tools::java_runtime()?;
    for part in ["bin", "conf", "lib"] {
        tree(&mut layer, &runtime.join(part), &format!("opt/java/{part}"))?;
    }
    let kafka = tools::kafka()?;
    let kafka = kafka.parent().context("it is in a directory")?;
    layer.copy(&kafka.join("Client.class"), "opt/kafka/Client.class")?;
    for entry in fs::read_dir(kafka.join("lib"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if CLIENT_LIBRARIES.iter().any(|start| name.starts_with(start)) {
            layer.copy(&entry.path(), &format!("opt/kafka/{name}"))?;
        }
    }
    Ok(layer)
}

/// A directory with all that is in it, and the libraries that its own ones take.
fn tree(layer: &mut Layer, from: &Path, to: &str) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = format!("{to}/{name}");
        if path.is_dir() {
            tree(layer, &path, &to)?;
            continue;
        }
        layer.copy(&path, &to)?;
        let is_elf = fs::read(&path)?.starts_with(b"\x7fELF");
        for library in if is_elf {
            libraries(&path)?
        } else {
            Vec::new()
        } {
            // Those of the tree itself are found by their place in it.
            if library.starts_with("/lib") || library.starts_with("/usr/lib") {
                layer.copy(&library, &library.display().to_string()[1..])?;
            }
        }
    }
    Ok(())
}

fn image(reference: &str, layer: Layer, entrypoint: &[&str]) -> Image {
    Image {
        reference: reference.to_owned(),
        architecture: Arch::host().map_or("amd64", Arch::of_images),
        layers: vec![layer],
        entrypoint: entrypoint.iter().map(|&word| word.to_owned()).collect(),
        command: Vec::new(),
        labels: Vec::new(),
        // They go no further than this machine.
        compression: Compression::fast(),
    }
}

fn base() -> Result<Layer> {
    let mut layer = Layer::default();
    layer.copy(Path::new("/bin/busybox"), BUSYBOX)?;
    layer.link("bin/sh", "busybox");
    layer.link("bin/sleep", "busybox");
    layer.directory("tmp", 0o1777);
    layer.file("etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n".to_vec());
    layer.file("etc/nsswitch.conf", 0o644, b"hosts: files dns\n".to_vec());
    Ok(layer)
}

/// A program and its libraries, where its loader looks for them.
fn dynamic(layer: &mut Layer, program: &Path, path: &str) -> Result<()> {
    layer.copy(program, path)?;
    for library in libraries(program)? {
        layer.copy(&library, &library.display().to_string()[1..])?;
    }
    Ok(())
}

/// Where the compiler's libc has a library.
fn library_path(name: &str) -> Option<PathBuf> {
    let output = Command::new("cc")
        .arg(format!("-print-file-name={name}"))
        .output()
        .context("running cc")
        .ok()?;
    let path = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    let path = fs::canonicalize(path).ok()?;
    path.starts_with("/").then_some(path)
}
