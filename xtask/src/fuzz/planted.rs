//! Shows that each target finds a bug: builds a copy of the sources with one planted for each, and fuzzes that.
//!
//! The bugs are changes of the text, so that the product has no switch for them. Inputs of the corpus that already show a
//! bug are set aside first: what is shown is that fuzzing finds it, not that it was found once.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use super::{Target, Until, build::Build, empty, fuzz, seeds};
use crate::{
    machine,
    table::{self, Cell, Colour, cell},
};

/// A text of one source file and the wrong one that replaces it.
struct Planted {
    target: Target,
    what: &'static str,
    file: &'static str,
    right: &'static str,
    wrong: &'static str,
}

/// Each is in a part that only its own target goes through.
const PLANTED: [Planted; 5] = [
    Planted {
        target: Target::Pipeline,
        what: "a UDP length below that of IP is believed",
        file: "dns-ebpf/common/src/pipeline/datagram.rs",
        right: "udp_len != ip_payload",
        wrong: "udp_len > ip_payload",
    },
    Planted {
        target: Target::Compose,
        what: "the limit is off by one record's last byte",
        file: "dns-userspace/src/resolve/compose.rs",
        right: "if message.len() + record.len() <= limit {",
        wrong: "if message.len() + record.len() <= limit + 1 {",
    },
    Planted {
        target: Target::Upstream,
        what: "owners are compared by their number of labels",
        file: "dns-userspace/src/resolve/chain.rs",
        right: "&& record.name == *owner",
        wrong: "&& record.name.num_labels() == owner.num_labels()",
    },
    Planted {
        target: Target::Config,
        what: "`max_ttl` may be 0",
        file: "dns-userspace/src/config/mod.rs",
        right: "Duration::from_secs(1)..=Duration::from_secs(u64::from(MAX_TTL))",
        wrong: "Duration::from_secs(0)..=Duration::from_secs(u64::from(MAX_TTL))",
    },
    Planted {
        target: Target::Corefile,
        what: "a quote inside a literal string",
        file: "dns-userspace/src/rules/corefile.rs",
        right: "letter == '\\'' || letter.is_control()",
        wrong: "letter.is_control()",
    },
];

/// Executions after which a bug counts as not found.
const RUNS: u64 = 2_000_000;
/// What building the fuzz targets reads.
const SOURCES: [&str; 6] = [
    "Cargo.toml",
    "Cargo.lock",
    "dns-ebpf",
    "dns-userspace",
    "tests",
    "xtask",
];

pub fn run(targets: &[Target]) -> Result<ExitCode> {
    let tree = machine::target_directory()?.join("fuzz").join("planted");
    copy_sources(&tree)?;
    let programs = Build::Whole.build(&tree)?;
    let mut rows = Vec::new();
    let mut missed = false;
    for planted in PLANTED.iter().filter(|bug| targets.contains(&bug.target)) {
        let (kept, shown) = harmless(planted.target, &programs)?;
        let run = fuzz(planted.target, &programs, Until::Runs(RUNS), &[kept])?;
        let (outcome, colour) = match &run.report.finding {
            Some(_) => (
                format!("found after {} executions", run.report.executions),
                Colour::Green,
            ),
            None => {
                missed = true;
                (
                    format!("not found in {} executions", run.report.executions),
                    Colour::Red,
                )
            }
        };
        rows.push(vec![
            Cell::from(planted.target.name()),
            planted.what.into(),
            shown.to_string().into(),
            cell(outcome, colour),
        ]);
    }
    table::print(
        &[
            "target",
            "planted",
            "shown by inputs set aside",
            "by fuzzing",
        ],
        rows,
    );
    Ok(if missed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

impl Planted {
    fn planted(&self, text: &str) -> Result<String> {
        let times = text.matches(self.right).count();
        ensure!(
            times == 1,
            "{}: `{}` is there {times} times: say in xtask/src/fuzz/planted.rs where the bug goes now",
            self.file,
            self.right
        );
        Ok(text.replace(self.right, self.wrong))
    }
}

/// A directory with the inputs of the corpus that do not show the planted bug, and how many do.
fn harmless(target: Target, programs: &Path) -> Result<(PathBuf, usize)> {
    let kept = empty(target, "harmless")?;
    let mut left = Vec::new();
    for directory in seeds(target)? {
        for entry in fs::read_dir(directory)? {
            let input = entry?.path();
            let copy = kept.join(input.file_name().context("an input has a name")?);
            fs::copy(&input, &copy)?;
            left.push(copy);
        }
    }
    let mut shown = 0;
    // The program ends with the first input that shows the bug, having said which it runs.
    while !left.is_empty() {
        let output = Command::new(programs.join(format!("fuzz-{}", target.name())))
            .arg("-detect_leaks=0")
            .args(&left)
            .env("RUST_BACKTRACE", "0")
            .env("ASAN_OPTIONS", "symbolize=0")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .output()?;
        if output.status.success() {
            break;
        }
        let log = String::from_utf8_lossy(&output.stderr);
        let last = log
            .lines()
            .filter_map(|line| line.strip_prefix("Running: "))
            .next_back()
            .with_context(|| format!("{} does not run: {log}", target.name()))?;
        let at = left
            .iter()
            .position(|input| input.as_os_str() == last)
            .with_context(|| format!("{last} is no input"))?;
        fs::remove_file(&left[at])?;
        left.drain(..=at);
        shown += 1;
    }
    Ok((kept, shown))
}

/// Makes `to` a copy of what the build reads, with the bugs in it.
fn copy_sources(to: &Path) -> Result<()> {
    let root = machine::root()?;
    for source in SOURCES {
        mirror(&root, Path::new(source), to)?;
    }
    Ok(())
}

/// Does not write unchanged files: cargo builds again what was written.
fn mirror(root: &Path, source: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    let (from, to_path) = (root.join(source), to.join(source));
    if !from.is_dir() {
        let mut content = fs::read(&from).with_context(|| format!("reading {}", from.display()))?;
        for planted in PLANTED.iter().filter(|bug| Path::new(bug.file) == source) {
            content = planted.planted(&String::from_utf8(content)?)?.into_bytes();
        }
        if fs::read(&to_path).is_ok_and(|there| there == content) {
            return Ok(());
        }
        return fs::write(&to_path, content)
            .with_context(|| format!("writing {}", to_path.display()));
    }
    if from.join("CACHEDIR.TAG").exists() {
        // A target directory.
        return Ok(());
    }
    fs::create_dir_all(&to_path)?;
    let names = |directory: &Path| -> Result<Vec<_>> {
        fs::read_dir(directory)?
            .map(|entry| Ok(entry?.file_name()))
            .collect()
    };
    let wanted = names(&from)?;
    for name in names(&to_path)? {
        let stray = to_path.join(&name);
        if wanted.contains(&name) {
            continue;
        }
        if stray.is_dir() {
            fs::remove_dir_all(stray)?;
        } else {
            fs::remove_file(stray)?;
        }
    }
    for name in wanted {
        mirror(root, &source.join(name), to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_target_has_a_bug_and_every_bug_its_place() -> Result<()> {
        let root = machine::root()?;
        for planted in &PLANTED {
            let text = fs::read_to_string(root.join(planted.file))?;
            if planted.planted(&text)? == text {
                anyhow::bail!("{}: nothing is changed", planted.file);
            }
        }
        for target in Target::value_variants() {
            ensure!(PLANTED.iter().any(|planted| planted.target == *target));
        }
        Ok(())
    }
}
