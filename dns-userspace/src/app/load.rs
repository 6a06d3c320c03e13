//! Loads the programs for `gregor run` and `gregor check`, and says on one line why that failed.

use std::{
    fmt,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::datapath::{
    Attempt, Datapath, DatapathError, Diagnosis, LoadOptions, Node, Stage, raise_memlock,
    verifier_log, wanted,
};

/// What is kept of a verifier's log, from its end: the reason is there.
const MAX_LOG: usize = 4 << 20;

/// Why the programs cannot be loaded.
#[derive(Clone, Debug)]
pub struct Failure {
    pub diagnosis: Diagnosis,
    /// Where the verifier's log is, if there is one and a place for it.
    pub log: Option<PathBuf>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.diagnosis)?;
        match &self.log {
            Some(path) => write!(f, "; the verifier's log is in {}", path.display()),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

impl Failure {
    /// Of an error of loading with these options. A log goes to the first of the directories that takes it.
    pub fn of(error: &DatapathError, options: &LoadOptions, directories: &[PathBuf]) -> Self {
        let log = verifier_log(error).and_then(|refused| {
            let name = format!("{}-verifier.log", refused.program);
            directories
                .iter()
                .find_map(|directory| keep(directory, &name, &refused.log).ok())
        });
        Self {
            diagnosis: Diagnosis::of(error, &Node::look(), &wanted(options)),
            log,
        }
    }
}

/// Loads as `gregor run` does; nothing is attached.
pub fn load(
    options: &LoadOptions,
    attempt: &Attempt,
    directories: &[PathBuf],
    progress: &mut dyn FnMut(Stage, Duration),
) -> Result<Datapath, Failure> {
    raise_memlock();
    attempt
        .load(options, progress)
        .map_err(|error| Failure::of(&error, options, directories))
}

/// The progress message.
pub fn progress_line(stage: Stage, took: Duration) -> String {
    format!("the kernel is still {stage} ({} s)", took.as_secs())
}

/// Where logs go: beside the control socket, else where temporary files are.
pub fn log_directories(control: &Path) -> Vec<PathBuf> {
    control
        .parent()
        .map(Path::to_owned)
        .into_iter()
        .chain([std::env::temp_dir()])
        .collect()
}

/// Writes a file that only its owner reads, in the place of one of an earlier run. A link of that name is replaced and never
/// followed.
fn keep(directory: &Path, name: &str, text: &str) -> io::Result<PathBuf> {
    let path = directory.join(name);
    let new = directory.join(format!(".{name}.{}", std::process::id()));
    // One that an earlier process of this number left half written.
    let _ = fs::remove_file(&new);
    let written = write_new(&new, text).and_then(|()| fs::rename(&new, &path));
    if let Err(error) = written {
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    Ok(path)
}

fn write_new(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    let from = text.len().saturating_sub(MAX_LOG);
    let from = (from..=text.len())
        .find(|index| text.is_char_boundary(*index))
        .unwrap_or(text.len());
    if from > 0 {
        writeln!(file, "({from} bytes before this are left out)")?;
    }
    file.write_all(&text.as_bytes()[from..])
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    /// A directory that is removed with the test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("gregor-{name}-{}", std::process::id()));
            fs::create_dir(&path).unwrap();
            Self(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn logs_are_private_bounded_and_replace_links() {
        let scratch = Scratch::new("keep");
        let victim = scratch.0.join("victim");
        fs::write(&victim, "mine").unwrap();
        symlink(&victim, scratch.0.join("x.log")).unwrap();
        let path = keep(&scratch.0, "x.log", "first").unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
        assert_eq!(fs::read_to_string(&path).unwrap(), "first");
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);

        let long = "ä".repeat(MAX_LOG) + "end";
        keep(&scratch.0, "x.log", &long).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.len() < MAX_LOG + 100, "{}", text.len());
        assert!(text.ends_with("ääend"));
        assert!(text.starts_with(&format!("({} bytes", long.len() - MAX_LOG + 1)));
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(&scratch.0).unwrap().count(), 2);
        assert!(keep(&scratch.0.join("nowhere"), "x.log", "").is_err());
    }
}
