//! The committed inputs of the targets.

use std::{env, fs, io, path::Path, process::Command};

/// Name and content of every input of a target: those of its archive, and the files beside it and in `tests/corpus`, which have
/// names of their own.
///
/// # Errors
/// When there is no archive, or no `tar`.
pub fn inputs(target: &str) -> io::Result<Vec<(String, Vec<u8>)>> {
    let crate_directory = Path::new(env!("CARGO_MANIFEST_DIR"));
    let corpus = crate_directory.join("corpus");
    let unpacked = env::temp_dir().join(format!("gregor-{target}-{}", std::process::id()));
    fs::create_dir_all(&unpacked)?;
    let status = Command::new("tar")
        .arg("-xzf")
        .arg(corpus.join(target).with_extension("tar.gz"))
        .arg("-C")
        .arg(&unpacked)
        .status()?;
    if !status.success() {
        return Err(io::Error::other(format!("tar: {status}")));
    }
    let named = [
        corpus.join(target),
        crate_directory.join("../corpus").join(target),
    ];
    let mut inputs = Vec::new();
    for directory in named
        .iter()
        .filter(|named| named.is_dir())
        .chain([&unpacked])
    {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            inputs.push((path.display().to_string(), fs::read(path)?));
        }
    }
    fs::remove_dir_all(unpacked)?;
    inputs.sort();
    Ok(inputs)
}
