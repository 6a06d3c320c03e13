//! Every malformed file of `tests/corpus/config` is refused with exactly the complaints that its first lines announce,
//! each with file, line, key and remedy.

use std::fs;
use std::path::{Path, PathBuf};

use gregor::config;

/// `# expect: LINE: KEY: part of the message`
fn expectations(text: &str) -> Vec<(usize, String, String)> {
    text.lines()
        .filter_map(|line| line.strip_prefix("# expect: "))
        .map(|line| {
            let mut parts = line.splitn(3, ": ");
            let mut part = || parts.next().expect("LINE: KEY: message").to_owned();
            (part().parse().expect("a line number"), part(), part())
        })
        .collect()
}

fn corpus() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/config");
    let mut files: Vec<_> = fs::read_dir(directory)
        .expect("the corpus is in the repository")
        .map(|entry| entry.expect("a readable directory").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "toml")
        })
        .collect();
    files.sort();
    files
}

#[test]
fn malformed_files_are_refused_with_their_complaints() {
    let files = corpus();
    assert!(files.len() >= 30, "only {} files", files.len());
    for path in files {
        let text = fs::read_to_string(&path).expect("a readable file");
        let name = path.file_name().expect("a file").display().to_string();
        let expected = expectations(&text);
        assert!(!expected.is_empty(), "{name} expects nothing");
        let errors = match config::load(&path) {
            Ok(_) => panic!("{name} was accepted"),
            Err(errors) => errors,
        };
        assert_eq!(errors.0.len(), expected.len(), "{name}:\n{errors}");
        for (error, (line, key, message)) in errors.0.iter().zip(expected) {
            let shown = error.to_string();
            assert_eq!(
                (error.line, error.key.as_str()),
                (line, key.as_str()),
                "{shown}"
            );
            let place = format!("{}:{line}:{}: {key}: ", path.display(), error.column);
            assert!(shown.starts_with(&place), "{shown}");
            assert!(shown.contains(&message), "{shown}\ndoes not say: {message}");
            assert!(
                !error.problem.is_empty() && !error.remedy.is_empty(),
                "{shown}"
            );
            assert!(!shown.contains('\n'), "{shown}");
        }
    }
}

#[test]
fn a_file_that_is_not_there_is_a_complaint_too() {
    let errors = config::load(Path::new("/nonexistent/gregor.toml")).expect_err("no such file");
    assert!(
        errors
            .to_string()
            .starts_with("/nonexistent/gregor.toml:1:1: file: cannot be read")
    );
}
