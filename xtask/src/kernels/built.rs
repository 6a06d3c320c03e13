//! The programs that cargo makes for a guest: which the steps need, and where they are.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::guest::Step;

/// The test programs of the steps, each once.
pub fn names(steps: &[Step]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for step in steps {
        let name = step.program.rsplit('/').next().unwrap_or_default();
        if !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    }
    names
}

/// Runs cargo and returns the programs that it made, by the names of their targets.
pub fn executables(cargo: &mut Command) -> Result<BTreeMap<String, PathBuf>> {
    let output = cargo
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    if !output.status.success() {
        bail!("building the tests: {}", output.status);
    }
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let message: serde_json::Value = serde_json::from_str(line)?;
        // A binary comes a second time as the harness of its own unit tests.
        let target = &message["target"];
        if target["kind"][0] == "bin" && message["profile"]["test"] == true {
            continue;
        }
        let name = target["name"].as_str();
        if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}
