//! gregor and the other packages share what they compile.

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

/// Those that are built one after the other, each by its own run of cargo.
const OTHERS: [&str; 5] = [
    "xtask",
    "gregor-lab",
    "gregor-tests",
    "gregor-bench",
    "gregor-fuzz",
];

#[test]
fn crates_of_gregor_have_the_same_features_elsewhere() {
    let gregor = crates("dns-userspace");
    for package in OTHERS {
        let own = crates(package);
        let shared = own.keys().filter(|name| gregor.contains_key(*name));
        assert!(shared.clone().count() > 50, "{package}: {own:?}");
        let different: Vec<String> = shared
            .filter(|name| own[*name] != gregor[*name])
            .map(|name| {
                format!(
                    "{name}: [{} for {package}, [{} for gregor",
                    own[name], gregor[name]
                )
            })
            .collect();
        assert!(different.is_empty(), "{different:#?}");
    }
}
