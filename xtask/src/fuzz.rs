//! `cargo xtask fuzz`: builds the targets of tests/fuzz and runs them under libFuzzer from their committed corpora.

mod build;
mod planted;
mod report;

use std::{
    fs,
    fs::File,
    iter,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use gregor_lab::tools::say;

use crate::{
    machine,
    table::{self, Cell, Colour, cell},
};

use build::Build;
use report::Report;

#[derive(Debug, Args)]
pub struct Options {
    /// Only this one
    target: Option<Target>,
    /// How long each target runs
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// End after so many executions of each target instead
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    runs: Option<u64>,
    /// Build with a bug for each target and show that it is found
    #[arg(long, conflicts_with_all = ["seconds", "runs", "keep"])]
    planted: bool,
    /// What `cargo xtask test` does: a quick build, and a fixed number of executions
    #[arg(long, conflicts_with_all = ["target", "seconds", "runs", "planted", "keep"])]
    short: bool,
    /// Afterwards add what reached new code to the committed corpus
    #[arg(long)]
    keep: bool,
}

/// A fuzz target; its function is in the module of this name of tests/fuzz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// Frames through the packet pipeline
    Pipeline,
    /// Answers and queries through the compose step
    Compose,
    /// Replies of the upstream
    Upstream,
    /// Configuration files
    Config,
    /// Corefiles through the import
    Corefile,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Pipeline => "pipeline",
            Self::Compose => "compose",
            Self::Upstream => "upstream",
            Self::Config => "config",
            Self::Corefile => "corefile",
        }
    }

    /// Longer inputs show nothing that shorter ones do not.
    fn max_len(self) -> usize {
        match self {
            Self::Pipeline => 1600,
            Self::Compose => 4096,
            Self::Upstream => 8192,
            Self::Config | Self::Corefile => 4096,
        }
    }

    /// Executions in a short run, those of the corpus among them: it is to take seconds, or two minutes at most.
    fn short_runs(self) -> u64 {
        match self {
            Self::Pipeline | Self::Compose | Self::Upstream | Self::Config => 20_000,
            // Each one compiles what it imports.
            Self::Corefile => 4_000,
        }
    }

    fn has_dictionary(self) -> bool {
        matches!(self, Self::Config | Self::Corefile)
    }
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
enum Until {
    Seconds(u64),
    /// Executions, those of the corpus among them, with a seed of their own so that each such run is the same.
    Runs(u64),
    /// The same, as many as a short run of the target has.
    Short,
}

/// The result of one run.
struct Run {
    report: Report,
    log: PathBuf,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let targets = match &options.target {
        Some(target) => vec![*target],
        None => Target::value_variants().to_vec(),
    };
    if options.planted {
        return planted::run(&targets);
    }
    if options.short {
        let (_, failed) = short()?;
        return Ok(ExitCode::from(u8::from(failed > 0)));
    }
    let until = match options.runs {
        Some(runs) => Until::Runs(runs),
        None => Until::Seconds(options.seconds),
    };
    let programs = Build::Whole.build(&machine::root()?)?;
    let found = run_all(&targets, &programs, until)?;
    if options.keep {
        for target in targets {
            keep(target, &programs)?;
        }
    }
    Ok(ExitCode::from(u8::from(found > 0)))
}

/// Builds the targets and does the short run of `cargo xtask test`: the number of those without a finding and of those with one.
pub fn short() -> Result<(u64, u64)> {
    let programs = Build::Short.build(&machine::root()?)?;
    let targets = Target::value_variants();
    let found = run_all(targets, &programs, Until::Short)?;
    Ok((targets.len() as u64 - found, found))
}

/// Runs the targets one after the other; how many found something.
fn run_all(targets: &[Target], programs: &Path, until: Until) -> Result<u64> {
    let mut rows = Vec::new();
    let mut found = 0;
    for &target in targets {
        let run = fuzz(target, programs, until, &seeds(target)?)?;
        let (outcome, colour) = match &run.report.finding {
            None => ("none".to_owned(), Colour::Green),
            Some(finding) => {
                found += 1;
                say(&format!(
                    "{}: {}\n{}\nthe whole story: {}",
                    target.name(),
                    finding.what,
                    finding.input,
                    run.log.display()
                ));
                (finding.what.clone(), Colour::Red)
            }
        };
        rows.push(vec![
            Cell::from(target.name()),
            run.report.executions.to_string().into(),
            run.report.edges().into(),
            run.report.features.to_string().into(),
            run.report.corpus.to_string().into(),
            cell(outcome, colour),
        ]);
    }
    table::print(
        &[
            "target",
            "executions",
            "edges reached",
            "features",
            "corpus",
            "findings",
        ],
        rows,
    );
    Ok(found)
}

/// Directories with the committed inputs: a new one with those of the archive, then those of the inputs that have names.
fn seeds(target: Target) -> Result<Vec<PathBuf>> {
    let unpacked = empty(target, "corpus")?;
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive(target)?);
    done(tar.arg("-C").arg(&unpacked))?;
    let tests = machine::root()?.join("tests");
    let named = ["fuzz/corpus", "corpus"].map(|below| tests.join(below).join(target.name()));
    let named = named.into_iter().filter(|directory| directory.is_dir());
    Ok(iter::once(unpacked).chain(named).collect())
}

fn done(command: &mut Command) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("running {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}

fn archive(target: Target) -> Result<PathBuf> {
    let corpus = machine::root()?.join("tests/fuzz/corpus");
    Ok(corpus.join(target.name()).with_extension("tar.gz"))
}

/// Where libFuzzer may write: inputs that reached something new, inputs that crashed, logs.
fn work(target: Target, what: &str) -> Result<PathBuf> {
    let directory = machine::target_directory()?
        .join("fuzz")
        .join(what)
        .join(target.name());
    fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
    Ok(directory)
}

/// The same without what former runs have left in it.
fn empty(target: Target, what: &str) -> Result<PathBuf> {
    let directory = work(target, what)?;
    for entry in fs::read_dir(&directory)? {
        fs::remove_file(entry?.path())?;
    }
    Ok(directory)
}

fn fuzz(target: Target, programs: &Path, until: Until, seeds: &[PathBuf]) -> Result<Run> {
    let crashes = work(target, "crashes")?;
    let mut program = Command::new(programs.join(format!("fuzz-{}", target.name())));
    program
        .arg("-print_final_stats=1")
        // Of the sanitized build on a busy machine; a rule of the largest size allowed takes seconds there.
        .arg("-timeout=120")
        .arg("-rss_limit_mb=3072")
        .arg(format!("-max_len={}", target.max_len()))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        // libFuzzer's end of the process is a finding already; leaks at exit do not matter.
        .arg("-detect_leaks=0")
        .env("RUST_BACKTRACE", "1");
    if target.has_dictionary() {
        let dictionary = machine::root()?.join(format!("tests/fuzz/dict/{}.dict", target.name()));
        program.arg(format!("-dict={}", dictionary.display()));
    }
    let runs = match until {
        Until::Seconds(seconds) => {
            program.arg(format!("-max_total_time={seconds}"));
            program.arg(work(target, "found")?);
            None
        }
        Until::Runs(runs) => Some(runs),
        Until::Short => Some(target.short_runs()),
    };
    if let Some(runs) = runs {
        program.args([format!("-runs={runs}"), "-seed=1".to_owned()]);
        // Nothing is written and nothing former is read: every run starts from the committed inputs.
        program.arg(empty(target, "none")?);
    }
    let log = work(target, "logs")?.join("log.txt");
    let status = program
        .args(seeds)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .status()
        .with_context(|| format!("running {:?}", program.get_program()))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let report = Report::read(&text, status.success());
    if status.success() && report.executions == 0 {
        bail!(
            "{}: no execution at all; see {}",
            target.name(),
            log.display()
        );
    }
    Ok(Run { report, log })
}

/// Adds what reached code that the committed corpus does not reach.
fn keep(target: Target, programs: &Path) -> Result<()> {
    let seeds = seeds(target)?;
    let (first, others) = seeds.split_first().context("no corpus")?;
    let before = fs::read_dir(first)?.count();
    let status = Command::new(programs.join(format!("fuzz-{}", target.name())))
        .args(["-merge=1", "-set_cover_merge=1", "-detect_leaks=0"])
        // By edges alone: how often each is taken would keep several times as many.
        .arg("-use_counters=0")
        .arg(format!("-max_len={}", target.max_len()))
        .arg(first)
        .args(others)
        .arg(work(target, "found")?)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    if !status.success() {
        bail!("{}: merging: {status}", target.name());
    }
    let added = fs::read_dir(first)?.count() - before;
    let archive = archive(target)?;
    if added > 0 {
        let names = fs::read_dir(first)?.map(|entry| Ok(entry?.file_name()));
        let mut names = names.collect::<Result<Vec<_>>>()?;
        names.sort();
        let mut tar = Command::new("tar");
        // The same inputs make the same archive.
        tar.args(["--mtime=@0", "--owner=0", "--group=0"])
            .args(["--numeric-owner", "--mode=644"])
            .args(["--use-compress-program", "gzip -9n", "-C"])
            .arg(first)
            .arg("-cf")
            .arg(&archive)
            .args(names);
        done(&mut tar)?;
    }
    say(&format!("{added} inputs added to {}", archive.display()));
    Ok(())
}
