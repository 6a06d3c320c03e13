//! Runs a plan: each group's rounds interleaved over its cells, every measurement written down at once.

use std::{
    fs,
    io::{IsTerminal as _, stderr},
    num::NonZero,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{
    analyse, claims, contenders, html,
    journal::{Entry, Head, Journal, duration_text},
    latency::Recorded,
    machine::{Idle, Machine, busy},
    measure::Bench,
    plan::{Mode, Plan},
    schema::{Build, CellReport, ContenderText, Report, SCHEMA, Sample},
    terminal,
};

#[derive(Debug, Default, clap::Args)]
pub struct Options {
    /// At most 3 minutes, for finding mistakes; without it at most 60
    #[arg(long)]
    quick: bool,
    /// Go on with the run that was interrupted
    #[arg(long)]
    resume: bool,
    /// Only cells whose name contains this; may be given several times
    #[arg(long, value_name = "TEXT")]
    cell: Vec<String>,
    /// So many rounds of each cell in place of the plan's; fewer than 6 give no intervals
    #[arg(long, value_name = "N")]
    rounds: Option<NonZero<usize>>,
    /// Name the cells and measure nothing
    #[arg(long)]
    list: bool,
    /// Where the report goes
    #[arg(long, value_name = "DIRECTORY", default_value = "target/bench")]
    output: PathBuf,
}

/// Runs the plan and writes the report; `false` when a claim does not hold.
pub fn run(options: &Options) -> Result<bool> {
    let mode = if options.quick {
        Mode::Quick
    } else {
        Mode::Full
    };
    let mut plan = Plan::new(mode);
    if !options.cell.is_empty() {
        plan.keep(&options.cell);
    }
    if let Some(rounds) = options.rounds {
        for group in &mut plan.groups {
            group.rounds = rounds.get();
        }
    }
    anyhow::ensure!(plan.cells().count() > 0, "no cell has such a name");
    if options.list {
        for cell in plan.cells() {
            println!("{}", cell.id);
        }
        return Ok(true);
    }
    fs::create_dir_all(&options.output)?;
    let machine = Machine::describe()?;
    let background = background(machine.cores)?;
    if background > 0.05 {
        eprintln!(
            "others use {:.0} % of this machine: figures will be noisy",
            background * 100.0
        );
    }
    let head = Head::new(&plan, build(), machine, background);
    let path = options.output.join("samples.jsonl");
    let mut journal = match options.resume {
        true => Journal::resume(&path, head)?,
        false => Journal::create(&path, head)?,
    };
    let mut progress = Progress::new(&plan, &journal);
    let outcome = measure(&plan, &mut journal, &mut progress);
    progress.bar.finish_and_clear();
    // What was measured before an error is worth a report too.
    let report = report(&plan, &journal)?;
    write(&report, &options.output)?;
    outcome?;
    terminal::claims(&report);
    println!(
        "\n{} and report.json beside it, after {}",
        options.output.join("report.html").display(),
        duration_text(Duration::from_secs_f64(report.seconds))
    );
    Ok(report.claims.iter().all(|claim| claim.holds != Some(false)))
}

/// Writes both files.
pub fn write(report: &Report, directory: &Path) -> Result<()> {
    report.write(&directory.join("report.json"))?;
    fs::write(directory.join("report.html"), html::page(report)?)?;
    Ok(())
}

fn measure(plan: &Plan, journal: &mut Journal, progress: &mut Progress) -> Result<()> {
    let mut bench = Bench::new(plan.mode);
    for group in &plan.groups {
        for round in 0..group.rounds {
            for cell in &group.cells {
                for point in cell.points(plan.mode) {
                    if journal.has(&cell.id, round, point) {
                        continue;
                    }
                    progress.begin(&cell.id, round, group.rounds, point);
                    let started = Instant::now();
                    let measured = bench.measure(cell, round, point)?;
                    let seconds = started.elapsed().as_secs_f64();
                    journal.add(Entry {
                        cell: cell.id.clone(),
                        sample: Sample {
                            round,
                            point,
                            values: measured.values,
                        },
                        latency: measured.latency,
                        seconds,
                    })?;
                    progress.end(cell.expected(plan.mode), seconds);
                }
            }
        }
        bench.clear();
        let cells = cells(plan, journal)?;
        progress
            .bar
            .suspend(|| terminal::group(&cells, &group.title));
    }
    Ok(())
}

/// A bar with the time that is left on a terminal, and nothing elsewhere but the tables.
struct Progress {
    bar: ProgressBar,
    /// What the rest is expected to take, and how long what has been done took beside what was expected.
    left: Duration,
    expected: Duration,
    taken: Duration,
}

impl Progress {
    fn new(plan: &Plan, journal: &Journal) -> Self {
        let mut left = Duration::ZERO;
        let mut steps = 0;
        for group in &plan.groups {
            for round in 0..group.rounds {
                for cell in &group.cells {
                    for point in cell.points(plan.mode) {
                        if !journal.has(&cell.id, round, point) {
                            left += cell.expected(plan.mode);
                            steps += 1;
                        }
                    }
                }
            }
        }
        let target = match stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(steps), target);
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len}  {prefix} left  {wide_msg}");
        // The template is the one above.
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self {
            bar,
            left,
            expected: Duration::ZERO,
            taken: Duration::ZERO,
        }
    }

    fn begin(&self, cell: &str, round: usize, rounds: usize, point: Option<usize>) {
        let at = point.map_or(String::new(), |point| format!(" at {point}"));
        self.bar
            .set_message(format!("{cell}{at}, round {} of {rounds}", round + 1));
        self.bar.set_prefix(duration_text(self.time_left()));
        self.bar.tick();
    }

    fn end(&mut self, expected: Duration, seconds: f64) {
        self.left = self.left.saturating_sub(expected);
        self.expected += expected;
        self.taken += Duration::from_secs_f64(seconds);
        self.bar.inc(1);
    }

    fn time_left(&self) -> Duration {
        if self.expected.is_zero() {
            return self.left;
        }
        self.left
            .mul_f64(self.taken.as_secs_f64() / self.expected.as_secs_f64())
    }
}

fn cells(plan: &Plan, journal: &Journal) -> Result<Vec<CellReport>> {
    let entries = journal.by_cell();
    let mut cells = Vec::new();
    for group in &plan.groups {
        for cell in &group.cells {
            let Some(entries) = entries.get(cell.id.as_str()) else {
                continue;
            };
            let times: Vec<&Recorded> = entries
                .iter()
                .filter_map(|entry| entry.latency.as_ref())
                .collect();
            let latency = match times.is_empty() {
                true => None,
                false => Some(Recorded::from(&Recorded::merge(times)?)),
            };
            cells.push(CellReport {
                id: cell.id.clone(),
                group: group.title.clone(),
                contender: cell.contender.map(str::to_owned),
                samples: entries.iter().map(|entry| entry.sample.clone()).collect(),
                figures: Vec::new(),
                latency,
            });
        }
    }
    analyse::figures(&mut cells);
    Ok(cells)
}

fn report(plan: &Plan, journal: &Journal) -> Result<Report> {
    let cells = cells(plan, journal)?;
    let head = &journal.head;
    Ok(Report {
        schema: SCHEMA,
        gregor: head.gregor.clone(),
        mode: head.mode,
        started: head.started,
        seconds: journal.seconds(),
        machine: head.machine.clone(),
        background: head.background,
        contenders: contenders::all()
            .iter()
            .map(|contender| ContenderText {
                id: contender.id().to_owned(),
                title: contender.title().to_owned(),
                about: contender.about(),
            })
            .collect(),
        claims: claims::claims(&cells),
        cells,
    })
}

/// Share of all processor time that others use just now.
fn background(cores: usize) -> Result<f64> {
    let (from, started) = (Idle::now()?, Instant::now());
    thread::sleep(Duration::from_secs(1));
    let elapsed = started.elapsed();
    let busy = busy(elapsed, Idle::now()? - from, cores);
    Ok(busy.as_secs_f64() / (elapsed.as_secs_f64() * cores as f64))
}

fn build() -> Build {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        output.status.success().then_some(text)
    };
    Build {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        commit: git(&["rev-parse", "HEAD"]),
        modified: git(&["status", "--porcelain", "--untracked-files=no"])
            .is_some_and(|changes| !changes.is_empty()),
    }
}

/// Reads a report, judges it and writes its page anew.
pub fn render(path: &Path) -> Result<PathBuf> {
    let mut report = Report::read(path)?;
    report.claims = claims::claims(&report.cells);
    let page = path.with_extension("html");
    fs::write(&page, html::page(&report)?).with_context(|| page.display().to_string())?;
    Ok(page)
}
