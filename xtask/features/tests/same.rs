//! xtask and gregor share what they compile.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::{collections::BTreeMap, process::Command};

/// The crates that a package is built from, each version with its features.
fn crates(package: &str) -> BTreeMap<String, String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--offline", "--locked", "--package", package])
        .args(["--edges", "normal,build", "--prefix", "none", "--no-dedupe"])
        .args(["--format", "{p} [{f}]"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter_map(|line| line.split_once(" ["))
        .map(|(name, features)| (name.to_owned(), features.to_owned()))
        .collect()
}

#[test]
fn crates_of_both_have_the_same_features() {
    let (xtask, gregor) = (crates("xtask"), crates("dns-userspace"));
    let shared = xtask.keys().filter(|name| gregor.contains_key(*name));
    assert!(shared.clone().count() > 50, "{xtask:?}");
    let different: Vec<String> = shared
        .filter(|name| xtask[*name] != gregor[*name])
        .map(|name| {
            format!(
                "{name}: [{} for xtask, [{} for gregor",
                xtask[name], gregor[name]
            )
        })
        .collect();
    assert!(different.is_empty(), "{different:#?}");
}
