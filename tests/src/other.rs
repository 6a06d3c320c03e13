//! gregor of other ABI versions, built for tests of succession.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};

/// How the other version differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Other {
    /// Answers and records have the same layouts.
    Abi,
    /// They have others.
    Layout,
}

impl Other {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Abi => ("gregor-other-abi", "other-abi"),
            Self::Layout => ("gregor-other-layout", "other-layout"),
        }
    }

    /// Builds it, where it is not built yet, in the profile of this crate.
    ///
    /// # Errors
    /// When there is no cargo, or it fails.
    pub fn binary(self) -> Result<PathBuf> {
        let (binary, feature) = self.names();
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(".."))
            .args(["build", "--package", "dns-userspace", "--bin", binary])
            .args(["--features", feature, "--message-format", "json"])
            .args((!cfg!(debug_assertions)).then_some("--release"))
            .stdin(Stdio::null());
        let output = command
            .output()
            .with_context(|| format!("building {binary} with cargo"))?;
        if !output.status.success() {
            bail!(
                "building {binary}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        messages
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .find(|message| message["target"]["name"] == binary && !message["executable"].is_null())
            .and_then(|message| message["executable"].as_str().map(PathBuf::from))
            .with_context(|| format!("cargo says nothing of {binary}"))
    }
}
