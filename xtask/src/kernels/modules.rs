//! The modules of a kernel that a guest needs, with those that they need, in the order in which they are loaded.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

/// What the tests use where the kernel has it; what is built in needs no file.
pub const WANTED: &[&str] = &[
    "virtio_pci",
    "virtio_net",
    "veth",
    "bridge",
    "8021q",
    "dummy",
    "ipvlan",
    "macvlan",
    "tun",
    "ifb",
    "netkit",
    "sch_ingress",
    "cls_bpf",
    "act_bpf",
];

/// A module without compression.
pub struct Module {
    pub name: String,
    pub content: Vec<u8>,
}

/// Finds [`WANTED`] below a directory of modules.
pub fn collect(tree: &Path) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(tree, &mut files)?;
    if files.is_empty() {
        bail!("no modules (*.ko) below {}", tree.display());
    }
    let mut modules = Vec::new();
    let mut seen = BTreeSet::new();
    for name in WANTED {
        add(name, &files, &mut seen, &mut modules)?;
    }
    Ok(modules)
}

fn index(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory)
        .with_context(|| format!("reading modules in {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Adds a module behind those that it depends on.
fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    seen: &mut BTreeSet<String>,
    modules: &mut Vec<Module>,
) -> Result<()> {
    let name = name.replace('-', "_");
    // Without a file it is built in, or the kernel does not have it: the tests look for themselves.
    let Some(path) = files.get(&name) else {
        return Ok(());
    };
    if !seen.insert(name.clone()) {
        return Ok(());
    }
    let content = read(path)?;
    for dependency in dependencies(&content) {
        add(&dependency, files, seen, modules)?;
    }
    modules.push(Module { name, content });
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let decompress = |program: &str, package: &str| -> Result<Vec<u8>> {
        let output = Command::new(program)
            .arg("-dc")
            .arg(path)
            .output()
            .with_context(|| format!("running {program} (package {package})"))?;
        if !output.status.success() {
            bail!(
                "{program} {}: {}",
                path.display(),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(output.stdout)
    };
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => decompress("xz", "xz-utils"),
        Some("zst") => decompress("zstd", "zstd"),
        Some("gz") => decompress("gzip", "gzip"),
        _ => fs::read(path).with_context(|| format!("reading {}", path.display())),
    }
}

/// What the section .modinfo names: `depends=a,b`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"depends=";
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-,".contains(byte);
    let mut from = 0;
    while let Some(at) = find(&module[from..], KEY).map(|at| from + at) {
        let value = &module[at + KEY.len()..];
        let end = value.iter().position(|byte| *byte == 0).unwrap_or(0);
        let starts = at == 0 || !is_name(&module[at - 1]);
        if starts && value[..end].iter().all(is_name) && value.get(end) == Some(&0) {
            return String::from_utf8_lossy(&value[..end])
                .split(',')
                .filter(|name| !name.is_empty())
                .map(str::to_owned)
                .collect();
        }
        from = at + KEY.len();
    }
    Vec::new()
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_are_read_from_the_module() {
        let module = b"\x7fELF no depends=%s here\0license=GPL\0depends=stp,llc\0name=bridge\0";
        assert_eq!(dependencies(module), ["stp", "llc"]);
        assert_eq!(dependencies(b"\0depends=\0name=veth\0"), [""; 0]);
    }
}
