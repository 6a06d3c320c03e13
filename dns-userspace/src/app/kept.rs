//! What a process keeps beside its control socket for the next one: a file that is replaced in one step.

use std::{fs, io, path::Path};

use serde::{Serialize, de::DeserializeOwned};

/// Replaces the file. What cannot be written is asked for again by the next process.
pub fn write(path: &Path, value: &impl Serialize) {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    let new = path.with_file_name(name);
    let written = serde_json::to_vec(value)
        .map_err(io::Error::other)
        .and_then(|text| fs::write(&new, text))
        .and_then(|()| fs::rename(&new, path));
    if let Err(error) = written {
        tracing::debug!(%error, path = %path.display(), "cannot keep this for the next process");
    }
}

/// What an earlier process has kept; `None` where there is nothing that can be read.
pub fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}
