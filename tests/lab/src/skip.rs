//! Reports that a test cannot run on this machine, so that it is not counted as passed.

use std::{fs::OpenOptions, io::Write as _};

/// The environment variable that names the file to report to; `cargo xtask test` sets it.
pub const SKIPPED_FILE: &str = "GREGOR_SKIPPED_FILE";

/// Reports that `test` did not run, and why. The test returns right after it.
pub fn skip(test: &str, why: &str) {
    eprintln!("skipped: {test}: {why}");
    let Some(path) = std::env::var_os(SKIPPED_FILE) else {
        return;
    };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{test}: {why}"));
    if let Err(error) = written {
        panic!("{test} was skipped ({why}), and that could not be reported: {error}");
    }
}
