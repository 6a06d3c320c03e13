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
        add(&serde_json::from_str(line)?, &mut found);
    }
    Ok(found)
}

/// The program of a message of cargo's, if it is about one.
fn add(message: &serde_json::Value, found: &mut BTreeMap<String, PathBuf>) {
    // A binary comes a second time as the harness of its own unit tests.
    let target = &message["target"];
    let is_bin = target["kind"][0] == "bin";
    if is_bin && message["profile"]["test"] == true {
        return;
    }
    let name = target["name"].as_str();
    if let (Some(name), Some(path)) = (name, message["executable"].as_str()) {
        // Tests and a binary may have one name: the tests are meant.
        if !(is_bin && found.contains_key(name)) {
            found.insert(name.to_owned(), PathBuf::from(path));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tests_go_before_a_binary_of_the_same_name() {
        let message = |kind: &str, is_test: bool, path: &str| {
            json!({
                "target": { "kind": [kind], "name": "chaos" },
                "profile": { "test": is_test },
                "executable": path,
            })
        };
        let binary = message("bin", false, "/bin");
        let tests = message("test", true, "/tests");
        let harness = message("bin", true, "/harness");
        for messages in [[&binary, &tests, &harness], [&tests, &harness, &binary]] {
            let mut found = BTreeMap::new();
            for message in messages {
                add(message, &mut found);
            }
            assert_eq!(found["chaos"], PathBuf::from("/tests"));
        }
        let mut found = BTreeMap::new();
        add(&binary, &mut found);
        assert_eq!(found["chaos"], PathBuf::from("/bin"));
    }
}
