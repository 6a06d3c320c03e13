//! `cargo xtask kernels`: the programs and a live lab on the kernels that nodes run, each booted under qemu.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::{Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use gregor_lab::{
    PATIENCE,
    guest::{GUEST, Outcome, Plan, Record},
    tools::{self, say},
};

use crate::{
    cross::Arch,
    machine,
    table::{self, Colour, cell},
};

mod built;
mod catalogue;
mod cpio;
mod foreign;
mod guest;
mod image;
mod kernel;
mod modules;
pub mod packages;
mod page;
mod plan;
mod programs;
mod report;
mod terminal;

use catalogue::{Release, Wanted};
use guest::Machine;
use kernel::Kernel;
use page::Records;
use plan::Part;
use report::{KernelReport, Report};

#[derive(Debug, Args)]
pub struct Options {
    /// 5.10, 6.1, 6.12 and the newest: loading, tables of packets, a short lab
    #[arg(long)]
    quick: bool,
    /// Only these parts
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Only these tests of them, by their names
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    tests: Vec<String>,
    /// A kernel from a file instead of Debian's: its image
    #[arg(long, value_name = "FILE", requires = "modules", conflicts_with_all = ["quick", "kernels"])]
    image: Option<PathBuf>,
    /// The modules of --image: the directory of its release below /lib/modules
    #[arg(long, value_name = "DIR", requires = "image")]
    modules: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "x86_64")]
    arch: Architecture,
    /// Guests at a time
    #[arg(long, default_value = "2", value_parser = clap::value_parser!(u8).range(1..=64))]
    jobs: u8,
    /// How long one guest may take
    #[arg(long, value_name = "MINUTES", default_value = "45")]
    limit: u64,
    /// Fetch the package lists again, even if they are not a week old
    #[arg(long)]
    update: bool,
    /// 6.12, 6.12-cloud, 6.12-rt, 6.12-cloud-oldest, newest-cloud, 6.12-cloud:2 (two processors), 6.12-cloud+selinux, or a whole
    /// release
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
}

impl Options {
    /// The whole matrix with all of its parts: what is written down.
    fn is_full(&self) -> bool {
        !self.quick
            && self.only.is_empty()
            && self.tests.is_empty()
            && self.image.is_none()
            && self.kernels.is_empty()
    }
}

/// What a guest's processor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Architecture {
    #[value(name = "x86_64")]
    X86_64,
    #[value(name = "aarch64")]
    Aarch64,
}

impl Architecture {
    /// The same for what is built.
    fn target(self) -> Arch {
        match self {
            Self::X86_64 => Arch::X86_64,
            Self::Aarch64 => Arch::Aarch64,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    fn qemu(self) -> (&'static str, &'static str) {
        match self {
            Self::X86_64 => ("qemu-system-x86_64", "qemu-system-x86"),
            Self::Aarch64 => ("qemu-system-aarch64", "qemu-system-arm"),
        }
    }
}

/// How much slower a guest is than the machine that the tests' time limits are meant for.
const GUEST_PATIENCE: u32 = 4;

/// A guest to be.
struct Job {
    wanted: Wanted,
    kernel: Option<Kernel>,
}

pub fn run(options: &Options) -> Result<ExitCode> {
    let (qemu, package) = options.arch.qemu();
    if tools::find(qemu).is_none() {
        tools::apt_install(&[package])?;
    }
    let directory = machine::target_directory()?.join("kernels");
    fs::create_dir_all(&directory)?;

    let steps = plan::steps(options.arch, &options.only, options.quick);
    let steps = plan::with_tests(steps, &options.tests)?;
    let programs = programs::build(options.arch, &steps)?;
    let base = image::base(&programs, &directory)?;
    let plan = Plan {
        modules: Vec::new(),
        environment: environment(),
        steps,
    };

    let mut jobs = jobs(options)?;
    jobs.retain(|job| plan.steps.iter().any(|step| step.boot == job.wanted.boot()));
    // Of what was built, whatever happens to the checkout meanwhile.
    let commit = commit();
    let records = Records::read()?;
    let kernels = run_all(options, jobs, &base, &plan, &directory)?;
    let mut report = Report {
        commit,
        architecture: options.arch.name().to_owned(),
        kernels,
    };
    let architecture = report.architecture.clone();
    report.judge(|kernel, column| records.instructions(&architecture, kernel, column));
    if options.is_full() {
        let page = records.write(&report)?;
        say(&format!("wrote {}", page.display()));
    }
    finish(&report, &directory)
}

/// What the tests find in their environment in the guest.
fn environment() -> Vec<(String, String)> {
    [
        ("PATH", "/usr/sbin:/usr/bin:/sbin:/bin".to_owned()),
        ("HOME", "/root".to_owned()),
        ("XDG_CACHE_HOME", "/tmp".to_owned()),
        ("GREGOR_BINARY", "/usr/bin/gregor".to_owned()),
        ("RUST_BACKTRACE", "0".to_owned()),
        (GUEST, "1".to_owned()),
        (PATIENCE, GUEST_PATIENCE.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

/// The kernels that were asked for, those of the archive resolved and downloaded.
fn jobs(options: &Options) -> Result<Vec<Job>> {
    if let (Some(image), Some(modules)) = (&options.image, &options.modules) {
        let kernel = kernel::given(image, modules)?;
        return Ok([1, 2]
            .map(|processors| Job {
                wanted: Wanted::given(image, processors),
                kernel: Some(kernel.clone()),
            })
            .into());
    }
    let wanted = if options.kernels.is_empty() {
        catalogue::matrix(options.arch, options.quick)
    } else {
        options
            .kernels
            .iter()
            .map(|name| Wanted::parse(name))
            .collect::<Result<_>>()?
    };
    let apt = packages::open(options.arch.debian(), options.update)?;
    let releases = packages::releases(&apt)?;
    let mut jobs: Vec<(String, Job)> = Vec::new();
    for wanted in wanted {
        let found = kernel::find(&wanted, &apt, &releases)?;
        if found.is_none() && !options.kernels.is_empty() {
            bail!("{}: {}", wanted.name, unknown(&releases));
        }
        let (release, kernel) = found.map_or((String::new(), None), |(r, k)| (r, Some(k)));
        // The newest may well be in the list by its series.
        let twice = jobs.iter().any(|(other, job)| {
            !release.is_empty()
                && *other == release
                && (job.wanted.processors, job.wanted.boot()) == (wanted.processors, wanted.boot())
        });
        if !twice {
            jobs.push((release, Job { wanted, kernel }));
        }
    }
    Ok(jobs.into_iter().map(|(_, job)| job).collect())
}

fn unknown(releases: &[Release]) -> String {
    let mut known: Vec<&str> = releases.iter().map(|r| r.text.as_str()).collect();
    known.sort_unstable();
    format!("Debian has no such kernel now; it has {}", known.join(", "))
}

/// Runs the guests, some at a time, and keeps their order.
fn run_all(
    options: &Options,
    jobs: Vec<Job>,
    base: &[u8],
    plan: &Plan,
    directory: &Path,
) -> Result<Vec<KernelReport>> {
    let count = jobs.len();
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let done = Mutex::new(Vec::with_capacity(count));
    thread::scope(|scope| {
        for _ in 0..options.jobs {
            scope.spawn(|| {
                loop {
                    let next = lock(&queue).next();
                    let Some((index, job)) = next else { break };
                    let mut report = KernelReport {
                        name: job.wanted.name.clone(),
                        processors: job.wanted.processors,
                        ..KernelReport::default()
                    };
                    if let Err(error) = run_one(options, &job, base, plan, directory, &mut report) {
                        report.troubles.push(format!("{error:#}"));
                    }
                    lock(&done).push((index, report));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    Ok(done.into_iter().map(|(_, report)| report).collect())
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run_one(
    options: &Options,
    job: &Job,
    base: &[u8],
    plan: &Plan,
    directory: &Path,
    report: &mut KernelReport,
) -> Result<()> {
    let name = &job.wanted.name;
    let Some(kernel) = &job.kernel else {
        report.not_run = Some("Debian has no such kernel any more".to_owned());
        say(&format!("{name}: Debian has no such kernel any more"));
        return Ok(());
    };
    let file = name.replace([':', '/'], "_");
    let initramfs = directory.join(format!("{file}.initrd"));
    let mut plan = plan.clone();
    plan.steps.retain(|step| step.boot == job.wanted.boot());
    if kernel.modules.is_none() {
        // Not even a veth.
        plan.steps.retain(|step| step.group != Part::Lab.group());
        report.no_lab = Some("its modules are no longer in the archive".to_owned());
    }
    let own = image::with_kernel(&kernel.modules()?, plan)?;
    fs::write(&initramfs, [base, &own].concat())?;
    let log = directory.join(format!("{file}.log"));
    say(&format!("{name}: booting, console in {}", log.display()));
    let ended = Machine {
        architecture: options.arch,
        processors: job.wanted.processors,
        kernel: &kernel.image,
        initramfs: &initramfs,
        log: &log,
        boot: job.wanted.boot(),
        limit: Duration::from_secs(60 * options.limit),
    }
    .run(|record| {
        if matches!(record, Record::Booted { .. }) {
            // Read long ago, and large.
            let _ = fs::remove_file(&initramfs);
        }
        if let Some(line) = progress(record) {
            say(&format!("{name}: {line}"));
        }
    });
    let _ = fs::remove_file(&initramfs);
    let ended = ended?;
    report.seconds = ended.time.as_secs();
    report.add(ended.records);
    report.troubles.extend(ended.trouble);
    say(&format!("{name}: done in {} s", report.seconds));
    Ok(())
}

fn progress(record: &Record) -> Option<String> {
    match record {
        Record::Booted { release, .. } => Some(format!("runs {release}")),
        Record::Load(load) => Some(match &load.refused {
            None => format!(
                "{} {}: {} instructions, {} states, {:.1} s",
                load.object,
                load.program,
                load.walk.instructions,
                load.walk.states,
                load.milliseconds as f64 / 1e3
            ),
            Some(why) => format!("{} {}: refused: {why}", load.object, load.program),
        }),
        Record::Test(test) => {
            let outcome = match test.outcome {
                Outcome::Passed => "passed".to_owned(),
                Outcome::Failed => format!("FAILED: {}", test.why),
                Outcome::Skipped => format!("not applicable: {}", test.why),
            };
            Some(format!(
                "{}::{} {outcome} ({:.1} s)",
                test.program, test.name, test.seconds
            ))
        }
        Record::Kernel { line } => Some(format!("kernel: {line}")),
        Record::Done => None,
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(machine::root().ok()?).args(arguments);
        machine::first_line(&mut command)
    };
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|first| !first.is_empty());
    let commit = git(&["rev-parse", "--short", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    format!("{commit}{}", if changed { "+" } else { "" })
}

fn finish(report: &Report, directory: &Path) -> Result<ExitCode> {
    let json = directory.join("report.json");
    fs::write(&json, serde_json::to_string_pretty(report)?)
        .with_context(|| format!("writing {}", json.display()))?;
    let (head, rows) = report.rows();
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    println!();
    table::print(&head, rows);
    println!();
    for note in report.notes() {
        println!("{note}");
    }
    println!("\n{}", json.display());
    let right = report.is_right();
    let (text, colour) = if right {
        ("every cell is green", Colour::Green)
    } else {
        ("not every cell is green", Colour::Red)
    };
    println!("{}", table::line(cell(text, colour)));
    Ok(if right {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
