//! A chaos run: a lab, a load from its pods, faults in random order, and the verdict.

use std::time::{Duration, Instant};

use anyhow::Result;
use gregor::datapath::{Hook, has_tcx};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};

use super::{
    drops::Watch,
    faults::{Driver, Plant, Settings},
    judge::{self, Event, Fault, Verdict},
    load::{Incident, Load, Seen, Shared},
    upstream::{Clock, Upstream},
    witness::Witness,
};
use crate::{
    lab::{
        CacheKind, ClusterKind, Lab,
        world::{CLUSTER_DNS_V4, NODE_LOCAL_V4},
    },
    tools::say,
};

/// The hook of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Place {
    Tcx,
    Clsact,
}

/// How often each fault.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub faults: &'static [(Fault, usize)],
    /// How long no process runs after a kill.
    pub absence: Duration,
    /// Queries per second of each pod.
    pub rate: u32,
    /// Runs until so many were answered.
    pub queries: u64,
}

/// About a minute, for tests.
pub const QUICK: Plan = Plan {
    faults: &[
        (Fault::Upgrade, 8),
        (Fault::OtherAbi, 1),
        (Fault::OtherLayout, 1),
        (Fault::Kill, 8),
        (Fault::Absence, 1),
        (Fault::Stop, 2),
        (Fault::OutOfMemory, 2),
        (Fault::Reload, 3),
        (Fault::Churn, 3),
        (Fault::Purge, 2),
        (Fault::Cache, 1),
    ],
    absence: Duration::from_secs(6),
    rate: 200,
    queries: 0,
};

const USUAL: Plan = Plan {
    faults: &[
        (Fault::Quiet, 2),
        (Fault::Upgrade, 25),
        (Fault::OtherAbi, 2),
        (Fault::OtherLayout, 2),
        (Fault::Kill, 25),
        (Fault::Absence, 2),
        (Fault::Stop, 8),
        (Fault::OutOfMemory, 3),
        (Fault::Reload, 10),
        (Fault::Churn, 8),
        (Fault::Purge, 5),
        (Fault::Cache, 1),
    ],
    absence: Duration::from_secs(10),
    rate: 1000,
    queries: 1_000_000,
};

const LONG: Plan = Plan {
    faults: &[
        (Fault::Quiet, 5),
        (Fault::Upgrade, 100),
        (Fault::OtherAbi, 5),
        (Fault::OtherLayout, 5),
        (Fault::Kill, 100),
        (Fault::Absence, 5),
        (Fault::Stop, 30),
        (Fault::OutOfMemory, 10),
        (Fault::Reload, 50),
        (Fault::Churn, 30),
        (Fault::Purge, 20),
        (Fault::Cache, 1),
    ],
    absence: Duration::from_secs(60),
    rate: 1000,
    queries: 10_000_000,
};

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Every fault some hundred times, no process for 60 s after a kill, and at least 10,000,000 queries
    #[arg(long, conflicts_with = "quick")]
    long: bool,
    /// About a minute, as in `cargo xtask test`
    #[arg(long)]
    quick: bool,
    /// Go on for this time, whatever the number of queries
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
    /// The hook; tcx where the kernel has it
    #[arg(long, value_name = "HOOK")]
    hook: Option<Place>,
    /// Pods that ask
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=200))]
    pods: u8,
    /// Queries per second of each pod
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5000))]
    rate: Option<u32>,
    /// Of the order of the faults, to have the same one again
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// These faults alone, as often as otherwise
    #[arg(long, value_name = "FAULT", value_delimiter = ',')]
    only: Vec<Fault>,
    /// Write each incident to this file
    #[arg(long, value_name = "FILE")]
    pub incidents: Option<std::path::PathBuf>,
    /// Break something on purpose, which has to be found
    #[arg(long, value_name = "FAULT")]
    plant: Option<Plant>,
}

/// One run.
#[derive(Clone, Debug)]
pub struct Run {
    pub plan: Plan,
    pub place: Place,
    pub pods: u8,
    pub seed: u64,
    pub plant: Option<Plant>,
    /// The faults of the plan that are injected; all if empty.
    pub only: Vec<Fault>,
    /// Runs for this time.
    pub time: Option<Duration>,
}

impl Run {
    pub fn of(options: &Options) -> Self {
        let mut plan = match (options.long, options.quick) {
            (true, _) => LONG,
            (_, true) => QUICK,
            _ => USUAL,
        };
        plan.rate = options.rate.unwrap_or(plan.rate);
        let best = match has_tcx() {
            Ok(true) => Place::Tcx,
            _ => Place::Clsact,
        };
        Self {
            plan,
            place: options.hook.unwrap_or(best),
            pods: options.pods,
            seed: options.seed.unwrap_or_else(rand::random),
            plant: options.plant,
            only: options.only.clone(),
            time: options.seconds.map(Duration::from_secs),
        }
    }
}

impl Run {
    fn faults(&self) -> impl Iterator<Item = &(Fault, usize)> {
        let is_injected = |fault| self.only.is_empty() || self.only.contains(fault);
        self.plan
            .faults
            .iter()
            .filter(move |(fault, _)| is_injected(fault))
    }
}

/// The verdict, and what could not be tried.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    pub verdict: Verdict,
    pub skipped: Vec<String>,
    /// What the pods have seen.
    pub incidents: Vec<Incident>,
    /// Datagrams that the kernel dropped at the existing cache, which were queries of pods or of gregor.
    pub dropped_at_cache: u64,
}

/// Makes a lab called `name` and runs the plan in it.
pub fn run(name: &str, run: &Run) -> Result<Outcome> {
    say(&format!(
        "chaos on {:?}, {} pods with {} queries a second each, seed {}",
        run.place, run.pods, run.plan.rate, run.seed
    ));
    let mut builder = Lab::builder(name)
        .cache(CacheKind::Embedded)
        .cluster(ClusterKind::None);
    for number in 0..run.pods {
        builder = builder.pod(&format!("pod{number}"));
    }
    let mut lab = builder.start()?;
    let clock = Clock::start();
    let _upstream = Upstream::start(lab.cluster_netns(), CLUSTER_DNS_V4.into(), clock)?;
    let shared = Shared::new(clock, NODE_LOCAL_V4.into());
    let settings = Settings {
        hook: match run.place {
            Place::Tcx => Hook::Tcx,
            Place::Clsact => Hook::Clsact,
        },
        rate: run.plan.rate,
        absence: run.plan.absence,
        plant: run.plant,
        faults: run.faults().map(|(fault, _)| *fault).collect(),
    };
    let mut random = StdRng::seed_from_u64(run.seed);
    let faults = StdRng::seed_from_u64(run.seed);
    let mut driver = Driver::start(&mut lab, settings, shared.clone(), faults)?;
    let loads = driver
        .lab()
        .pods()
        .map(|pod| Load::start(pod, &shared, run.plan.rate))
        .collect::<Result<Vec<Load>>>()?;
    let watch = Watch::start(driver.lab().node(), clock)?;
    let witness = Witness::start(driver.lab().node(), NODE_LOCAL_V4.into(), clock)?;
    std::thread::sleep(Duration::from_secs(1));
    if run.plant == Some(Plant::Heartbeat) {
        driver.stop_for_good();
    }

    let mut outcome = Outcome::default();
    let started = Instant::now();
    let is_over = || match run.time {
        Some(time) => started.elapsed() >= time,
        None => shared.answered() >= run.plan.queries,
    };
    loop {
        let mut faults: Vec<Fault> = Vec::new();
        for (fault, times) in run.faults() {
            match driver.cannot(*fault) {
                None => faults.extend(std::iter::repeat_n(*fault, *times)),
                Some(why) => {
                    let line = format!("{}: {why}", fault.name());
                    if !outcome.skipped.contains(&line) {
                        outcome.skipped.push(line);
                    }
                }
            }
        }
        faults.shuffle(&mut random);
        let count = faults.len();
        for (number, fault) in faults.into_iter().enumerate() {
            if run.time.is_some() && is_over() {
                break;
            }
            say(&format!(
                "{:>5} s  {:>3} of {count}  {}",
                started.elapsed().as_secs(),
                number + 1,
                fault.name()
            ));
            driver.round(fault)?;
        }
        if is_over() {
            break;
        }
    }
    let mut seen = Seen::default();
    for load in loads {
        seen.add(load.finish()?);
    }
    driver.end();
    seen.add(std::mem::take(&mut driver.seen));
    let unanswered = witness.finish()?.into_iter();
    if let Some(round) = driver.rounds.last_mut() {
        let silent = unanswered.map(|at| Event::CacheSilent { at });
        round.events.extend(silent);
    }
    let drops = watch.finish()?;
    outcome.dropped_at_cache = drops.iter().map(|drops| drops.count).sum();
    outcome.verdict = judge::judge(&driver.rounds, &seen, &drops);
    outcome.incidents = seen.incidents;
    Ok(outcome)
}
