//! Every input of the corpora, the finds of former runs among them, keeps the promises that its target checks.

use std::{
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

/// The files below `directories`, which are relative to `tests/`.
fn inputs(directories: &[&str]) -> Vec<PathBuf> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files: Vec<PathBuf> = directories
        .iter()
        .flat_map(|directory| {
            fs::read_dir(tests.join(directory)).expect("the corpus is in the repository")
        })
        .map(|entry| entry.expect("a readable directory").path())
        .collect();
    files.sort();
    files
}

fn replay(target: fn(&[u8]), directories: &[&str], at_least: usize) {
    let files = inputs(directories);
    assert!(files.len() >= at_least, "only {} inputs", files.len());
    let mut failed = Vec::new();
    for path in files {
        let data = fs::read(&path).expect("a readable file");
        if catch_unwind(|| target(&data)).is_err() {
            failed.push(path);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn pipeline() {
    replay(
        gregor_fuzz::pipeline::target,
        &["fuzz/corpus/pipeline"],
        100,
    );
}

#[test]
fn compose() {
    replay(gregor_fuzz::compose::target, &["fuzz/corpus/compose"], 30);
}

#[test]
fn upstream() {
    replay(gregor_fuzz::upstream::target, &["fuzz/corpus/upstream"], 50);
}

#[test]
fn config() {
    replay(
        gregor_fuzz::config::target,
        &["fuzz/corpus/config", "corpus/config"],
        100,
    );
}

#[test]
fn corefile() {
    replay(
        gregor_fuzz::corefile::target,
        &["fuzz/corpus/corefile", "corpus/corefile"],
        60,
    );
}
