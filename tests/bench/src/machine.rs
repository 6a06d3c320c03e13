//! The machine that figures come from: what it is, and how busy it has been as a whole.

use std::{
    fs,
    ops::Sub,
    thread::{self, available_parallelism},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};

/// What a reader needs to know to judge figures.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_kib: u64,
    /// Release of the running kernel.
    pub kernel: String,
    /// Whether the kernel sees a hypervisor.
    pub virtual_machine: bool,
    /// `performance`, `powersave`, …; none where the kernel does not govern the frequency.
    pub governor: Option<String>,
}

impl Machine {
    pub fn describe() -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let field = |key: &str| {
            cpuinfo
                .lines()
                .filter_map(|line| line.split_once(':'))
                .find(|(name, _)| name.trim() == key)
                .map(|(_, value)| value.trim().to_owned())
        };
        let vendor = field("vendor_id").unwrap_or_default();
        let model = field("model name").unwrap_or_else(|| "unknown".to_owned());
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let memory_kib = meminfo
            .lines()
            .find_map(|line| line.strip_prefix("MemTotal:"))
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .context("no MemTotal in /proc/meminfo")?;
        Ok(Self {
            cpu: format!("{vendor} {model}").trim().to_owned(),
            cores: available_parallelism()?.get(),
            memory_kib,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            virtual_machine: field("flags")
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
            governor: fs::read_to_string("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
                .ok()
                .map(|text| text.trim().to_owned()),
        })
    }
}

/// Time that all processors together have not worked for this machine, since it started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idle {
    idle: Duration,
    /// Taken by others on the same hardware.
    stolen: Duration,
}

/// Unit of /proc/stat: USER_HZ, which is 100 on every architecture that eBPF runs on.
const TICK: Duration = Duration::from_millis(10);

impl Idle {
    pub fn now() -> Result<Self> {
        Self::parse(&fs::read_to_string("/proc/stat")?)
    }

    /// Idle time is exact there, while the other columns are sampled at each tick.
    fn parse(stat: &str) -> Result<Self> {
        let line = stat.lines().next().unwrap_or_default();
        let ticks: Vec<u32> = line
            .strip_prefix("cpu ")
            .context("no line `cpu` in /proc/stat")?
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        // user nice system idle iowait irq softirq steal
        let column = |index: usize| ticks.get(index).map_or(Duration::ZERO, |&t| TICK * t);
        Ok(Self {
            idle: column(3) + column(4),
            stolen: column(7),
        })
    }
}

impl Sub for Idle {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            idle: self.idle.saturating_sub(before.idle),
            stolen: self.stolen.saturating_sub(before.stolen),
        }
    }
}

/// How much processor time this machine has used in a span of time, all processors together.
pub fn busy(elapsed: Duration, idle: Idle, cores: usize) -> Duration {
    (elapsed * cores as u32).saturating_sub(idle.idle + idle.stolen)
}

/// Waits until the machine has little to do, at most for two seconds: on a shared one it may never be quiet.
pub fn settle() -> Result<()> {
    const LOOK: Duration = Duration::from_millis(50);
    let cores = available_parallelism()?.get();
    let deadline = Instant::now() + Duration::from_secs(2);
    while Instant::now() < deadline {
        let (since, before) = (Instant::now(), Idle::now()?);
        thread::sleep(LOOK);
        let (elapsed, idle) = (since.elapsed(), Idle::now()? - before);
        if busy(elapsed, idle, cores) < elapsed * cores as u32 / 8 {
            break;
        }
    }
    Ok(())
}

/// Memory that a process has for itself, in KiB: not the program's text, which is shared, nor BPF maps that it has
/// mapped, which are counted by themselves.
pub fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("no RssAnon of process {pid}"))
}

/// The calling thread, and whatever it starts, on one processor for as long as this lives: where work is handed from one
/// processor to another, waking that one takes longer than the work, and more or less so from second to second.
pub struct OnOneProcessor {
    before: CpuSet,
}

impl OnOneProcessor {
    pub fn pin() -> Result<Self> {
        let before = sched_getaffinity(THIS).context("sched_getaffinity")?;
        stay(0)?;
        Ok(Self { before })
    }
}

/// Keeps the calling thread on one of the processors that it may use: the last, the one before it, and so on.
pub fn stay(index: usize) -> Result<()> {
    let allowed = sched_getaffinity(THIS).context("sched_getaffinity")?;
    let processors: Vec<usize> = (0..CpuSet::count())
        .rev()
        .filter(|&processor| allowed.is_set(processor).unwrap_or(false))
        .collect();
    let count = processors.len().max(1);
    let mut one = CpuSet::new();
    one.set(
        *processors
            .get(index % count)
            .context("no processor to run on")?,
    )?;
    sched_setaffinity(THIS, &one).context("sched_setaffinity")
}

/// The calling thread.
const THIS: Pid = Pid::from_raw(0);

impl Drop for OnOneProcessor {
    fn drop(&mut self) {
        let _ = sched_setaffinity(THIS, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_time_is_neither_idle_nor_stolen() {
        let before = Idle::parse("cpu  10 0 10 1000 10 0 5 3 0 0\ncpu0 1\n").unwrap();
        let after = Idle::parse("cpu  90 0 40 1090 20 0 15 13 0 0\ncpu0 1\n").unwrap();
        // Two cores for 1.5 s, of which 1 s idle and 0.1 s stolen.
        let busy = busy(Duration::from_millis(1500), after - before, 2);
        assert_eq!(busy, Duration::from_millis(1900));
        assert!(Idle::parse("intr 1").is_err());
    }

    #[test]
    fn this_machine_can_be_described() {
        let machine = Machine::describe().unwrap();
        assert!(machine.cores > 0 && machine.memory_kib > 0);
        assert!(Idle::now().unwrap().idle > Duration::ZERO);
        assert!(resident_kib(std::process::id()).unwrap() > 0);
    }
}
