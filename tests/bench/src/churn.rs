//! Pods that come and go: how soon a new interface has its program, whether one is missed or something of one stays, what a
//! restart with hundreds of interfaces takes, and what all of it leaves in memory.

use std::{
    collections::{HashMap, VecDeque},
    fs,
    io::Write as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::Arc,
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, tc::TcAttachType};
use clap::Args;
use gregor_lab::{CacheKind, ClusterKind, Gregor, Lab, Netns, tools};
use nix::{net::if_::if_nametoindex, sys::signal::Signal};

/// From a veth's appearance to its program, at the 99th percentile.
const ATTACHED_MAX: Duration = Duration::from_millis(50);
/// To take over the links of a process that was killed.
const ADOPTED_MAX: Duration = Duration::from_millis(100);
/// Descriptors and maps beside those of before.
const MORE_MAX: u64 = 0;
/// How long a pod of the steady part lives.
const LIFE: Duration = Duration::from_secs(2);
/// A program that is not there after this is missed.
const MISSED: Duration = Duration::from_secs(30);
/// Between two looks.
const LOOK: Duration = Duration::from_micros(250);
const PODS_END: &str = "many";
/// So many times, gregor's footprint is printed while pods come and go.
const SAMPLES: usize = 6;

#[derive(Debug, Args)]
pub struct Options {
    /// How long pods come and go at a steady rate
    #[arg(long = "for", value_name = "TIME", default_value = "1m", value_parser = humantime::parse_duration)]
    duration: Duration,
    /// Pods per second of that
    #[arg(long, default_value_t = 20)]
    rate: u32,
    /// Pods that come at once, and go at once
    #[arg(long, default_value_t = 500)]
    burst: usize,
    /// Interfaces that a restart finds
    #[arg(long, default_value_t = 250)]
    restart: usize,
}

/// `false` where a figure is missed.
pub fn run(options: &Options) -> Result<bool> {
    let lab = Lab::builder("benchchurn")
        .cache(CacheKind::None)
        .cluster(ClusterKind::None)
        .pod(PODS_END)
        .start()?;
    let gregor = start(&lab)?;
    let own = attached(&gregor)?;
    let mut good = true;
    let mut judge = |what: &str, figure: String, limit: &str, is_met: bool| {
        let verdict = if is_met { "" } else { "MISSED" };
        println!("{what:<62} {figure:>22}  {limit:<10} {verdict}");
        good &= is_met;
    };

    let before = Footprint::of(&gregor)?;
    let mut times = steady(&lab, &gregor, options)?;
    until_settled(&lab, &gregor, own)?;
    let after = Footprint::of(&gregor)?;
    let missed = times.iter().filter(|time| time.is_none()).count();
    times.retain(Option::is_some);
    times.sort();
    let at = |part: f64| {
        let index = ((times.len() as f64 * part) as usize).min(times.len().saturating_sub(1));
        times.get(index).copied().flatten().unwrap_or_default()
    };
    let what = format!(
        "{} pods, {} per second: program after, p50",
        times.len(),
        options.rate
    );
    judge(&what, milliseconds(at(0.5)), "", true);
    let p99 = at(0.99);
    judge(
        "the same, p99",
        milliseconds(p99),
        "≤ 50 ms",
        p99 <= ATTACHED_MAX,
    );
    judge("the same, longest", milliseconds(at(1.0)), "", true);
    judge("missed", missed.to_string(), "0", missed == 0);
    judge(
        "resident memory of its own before and after that",
        format!("{} → {} KiB", before.private_kib, after.private_kib),
        "",
        true,
    );
    judge(
        "descriptors",
        format!("{} → {}", before.descriptors, after.descriptors),
        "flat",
        after.descriptors <= before.descriptors + MORE_MAX,
    );
    judge(
        "maps, programs and links that it holds",
        format!("{} → {}", before.objects, after.objects),
        "flat",
        after.objects <= before.objects + MORE_MAX,
    );
    judge(
        "kernel memory of these (memlock)",
        format!("{} → {} KiB", before.kernel_kib, after.kernel_kib),
        "flat",
        after.kernel_kib <= before.kernel_kib,
    );

    let burst = burst(&lab, &gregor, options.burst, own)?;
    judge(
        &format!("{} pods at once: all have a program after", options.burst),
        milliseconds(burst.all),
        "",
        true,
    );
    judge(
        "per pod, making the veths included",
        milliseconds(burst.all / options.burst.max(1) as u32),
        "",
        true,
    );
    judge("missed", burst.missed.to_string(), "0", burst.missed == 0);
    judge(
        "left when they are gone",
        burst.left.to_string(),
        "0",
        burst.left == 0,
    );

    let restart = restart(&lab, gregor, options.restart, own)?;
    for (what, took) in &restart.steps {
        judge(
            &format!("restart, {} links: {what}", options.restart),
            milliseconds(*took),
            "",
            true,
        );
    }
    judge(
        "restart: all of it, from the start of the process until it is ready",
        milliseconds(restart.steps.iter().map(|(_, took)| *took).sum()),
        "",
        true,
    );
    judge(
        &format!("restart: taking over {} links", options.restart),
        milliseconds(restart.adopting),
        "≤ 100 ms",
        restart.adopting <= ADOPTED_MAX,
    );
    judge(
        "interfaces without their program at any look meanwhile",
        restart.without.to_string(),
        "0",
        restart.without == 0,
    );
    Ok(good)
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn start(lab: &Lab) -> Result<Gregor> {
    let binary = tools::gregor()?;
    let mut command = Command::new(&binary);
    command.env("RUST_LOG", "info,gregor::app=debug,aya::sys=error");
    lab.start_gregor_as(command, &binary, &lab.gregor_config())
}

/// Interfaces that have the program, as gregor counts them.
fn attached(gregor: &Gregor) -> Result<usize> {
    let status = gregor.status()?;
    let interfaces = status["interfaces"].as_array().context("no interfaces")?;
    Ok(interfaces
        .iter()
        .filter(|one| one["error"].is_null())
        .count())
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + 4 * MISSED;
    while !done()? {
        ensure!(Instant::now() < deadline, "not in {:?}: {what}", 4 * MISSED);
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// Nothing is left of interfaces that went.
fn until_settled(lab: &Lab, gregor: &Gregor, own: usize) -> Result<()> {
    until("the interfaces are gone", || Ok(attached(gregor)? == own))?;
    until("their pins are gone", || Ok(pinned_links(lab)? == own))
}

/// Links on interfaces that are pinned.
fn pinned_links(lab: &Lab) -> Result<usize> {
    lab.node().enter(|| {
        let versions = fs::read_dir("/sys/fs/bpf/gregor")?;
        let mut count = 0;
        for version in versions {
            for link in fs::read_dir(version?.path().join("links"))? {
                let name = link?.file_name();
                count += usize::from(name.to_string_lossy().starts_with("tcx-"));
            }
        }
        Ok(count)
    })?
}

/// `ip` in the node, which does lines as they come. A new one after some: it keeps the descriptor of each namespace that a line
/// names.
struct Batch {
    node: Arc<Netns>,
    running: Running,
    done: u32,
}

struct Running {
    child: Child,
    lines: ChildStdin,
}

impl Running {
    fn start(node: &Netns) -> Result<Self> {
        let mut child = Command::new("ip")
            .args(["-n", node.name(), "-force", "-batch", "-"])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("running `ip`")?;
        let lines = child.stdin.take().context("no standard input")?;
        Ok(Self { child, lines })
    }

    fn finish(mut self) -> Result<()> {
        drop(self.lines);
        self.child.wait()?;
        Ok(())
    }
}

impl Batch {
    const LINES: u32 = 500;

    fn start(node: &Arc<Netns>) -> Result<Self> {
        Ok(Self {
            node: Arc::clone(node),
            running: Running::start(node)?,
            done: 0,
        })
    }

    fn line(&mut self, line: &str) -> Result<()> {
        if self.done == Self::LINES {
            let next = Running::start(&self.node)?;
            std::mem::replace(&mut self.running, next).finish()?;
            self.done = 0;
        }
        self.done += 1;
        writeln!(self.running.lines, "{line}")?;
        Ok(self.running.lines.flush()?)
    }

    fn finish(self) -> Result<()> {
        self.running.finish()
    }
}

fn add(lab: &Lab, name: &str) -> String {
    let pod = lab.pod(PODS_END).netns().name();
    format!("link add {name} type veth peer name p{name} netns {pod}")
}

/// Whether there is a program on the ingress of an interface of this thread's namespace.
fn has_program(name: &str) -> bool {
    SchedClassifier::query_tcx(name, TcAttachType::Ingress)
        .is_ok_and(|(_, programs)| !programs.is_empty())
}

/// Waits in the node's namespace for an interface and then for its program; `None` where that never comes.
fn watch(lab: &Lab, name: String) -> Result<JoinHandle<Option<Duration>>> {
    lab.node().enter_detached(move || {
        let began = Instant::now();
        let wait_for = |done: &dyn Fn() -> bool| {
            while !done() {
                if began.elapsed() > MISSED {
                    return None;
                }
                thread::sleep(LOOK);
            }
            Some(Instant::now())
        };
        let appeared = wait_for(&|| if_nametoindex(name.as_str()).is_ok())?;
        Some(wait_for(&|| has_program(&name))? - appeared)
    })
}

/// Pods at a steady rate, whatever those before them take.
fn steady(lab: &Lab, gregor: &Gregor, options: &Options) -> Result<Vec<Option<Duration>>> {
    let (mut come, mut go) = (Batch::start(lab.node())?, Batch::start(lab.node())?);
    let began = Instant::now();
    // In the order of their start: each ends within a bounded time, so those in front are done first.
    let mut watched = VecDeque::new();
    let mut times = Vec::new();
    let mut gone = 0;
    let total = (options.duration.as_secs_f64() * f64::from(options.rate)) as usize;
    let due = |number: usize| began + Duration::from_secs(1) * number as u32 / options.rate;
    for number in 0..total {
        thread::sleep(due(number).saturating_duration_since(Instant::now()));
        let name = format!("c{number}");
        watched.push_back(watch(lab, name.clone())?);
        // An hour's threads would not fit into this process.
        while watched.front().is_some_and(JoinHandle::is_finished)
            && let Some(thread) = watched.pop_front()
        {
            times.push(thread.join().unwrap_or(None));
        }
        come.line(&add(lab, &name))?;
        // Not before it was seen: another `ip` makes it, and on a busy machine may be later.
        while gone < times.len() && due(gone) + LIFE < Instant::now() {
            go.line(&format!("link del c{gone}"))?;
            gone += 1;
        }
        if (number + 1) * SAMPLES / total > number * SAMPLES / total {
            println!("{}", Footprint::of(gregor)?.line(began.elapsed()));
        }
    }
    let rest = watched.into_iter();
    times.extend(rest.map(|thread| thread.join().unwrap_or(None)));
    for number in gone..total {
        go.line(&format!("link del c{number}"))?;
    }
    come.finish()?;
    go.finish()?;
    Ok(times)
}

struct Burst {
    all: Duration,
    missed: usize,
    left: usize,
}

fn burst(lab: &Lab, gregor: &Gregor, count: usize, own: usize) -> Result<Burst> {
    let names: Vec<String> = (0..count).map(|number| format!("b{number}")).collect();
    let began = Instant::now();
    come(lab, &names)?;
    // Those that are not in the count by then are looked for one by one.
    let all = until(
        "all have a program",
        || Ok(attached(gregor)? == own + count),
    );
    let took = began.elapsed();
    let looked_for = names.clone();
    let missed = lab
        .node()
        .enter(move || looked_for.iter().filter(|name| !has_program(name)).count())?;
    if missed == 0 {
        all?;
    }
    go(lab, &names)?;
    let settled = until_settled(lab, gregor, own);
    let left = match settled {
        Ok(()) => 0,
        Err(_) => attached(gregor)?.max(pinned_links(lab)?) - own,
    };
    Ok(Burst {
        all: took,
        missed,
        left,
    })
}

fn come(lab: &Lab, names: &[String]) -> Result<()> {
    let lines: Vec<String> = names.iter().map(|name| add(lab, name) + "\n").collect();
    lab.node().ip(&lines.concat())
}

fn go(lab: &Lab, names: &[String]) -> Result<()> {
    let lines: Vec<String> = names
        .iter()
        .map(|name| format!("link del {name}\n"))
        .collect();
    lab.node().ip(&lines.concat())
}

struct Restart {
    steps: Vec<(&'static str, Duration)>,
    adopting: Duration,
    without: usize,
}

/// Kills gregor and starts it again; it finds this many interfaces with programs.
fn restart(lab: &Lab, gregor: Gregor, count: usize, own: usize) -> Result<Restart> {
    let names: Vec<String> = (0..count).map(|number| format!("r{number}")).collect();
    come(lab, &names)?;
    until("all have a program", || {
        Ok(attached(&gregor)? == own + count)
    })?;
    gregor.signal(Signal::SIGKILL);
    until("it ends", || Ok(gregor.process().exited().is_some()))?;
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let looked_at = names.clone();
    let looking = lab.node().enter_detached(move || {
        let mut without = 0;
        while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
            without += looked_at.iter().filter(|name| !has_program(name)).count();
            // So that looking takes no processor from what is looked at.
            thread::sleep(Duration::from_millis(50));
        }
        without
    })?;
    let began = time_of(&humantime::format_rfc3339_micros(SystemTime::now()).to_string())
        .context("no time")?;
    let gregor = start(lab)?;
    drop(stop);
    let without = looking.join().unwrap_or(count);
    let log = gregor.log();
    let at = |line: &str| -> Result<Duration> {
        let found = log.lines().find(|one| one.contains(line));
        let found = found.with_context(|| format!("no line `{line}` in\n{log}"))?;
        time_of(found).with_context(|| format!("no time in {found}"))
    };
    let mut steps = Vec::new();
    let mut last = began;
    for (what, line) in [
        (
            "process, configuration and rules",
            "the configuration is read",
        ),
        ("maps opened, programs verified", "the programs are loaded"),
        ("device, sockets, listeners", "taking over what is pinned"),
        ("links taken over", "took over from an earlier process"),
        ("ready", "INFO gregor::app: ready"),
    ] {
        let time = at(line)?;
        steps.push((what, time.saturating_sub(last)));
        last = time;
    }
    let adopting = steps
        .iter()
        .find(|(what, _)| *what == "links taken over")
        .map_or(Duration::MAX, |(_, took)| *took);
    go(lab, &names)?;
    until_settled(lab, &gregor, own)?;
    let ended = gregor.stop();
    ensure!(
        ended.is_some_and(|status| status.success()),
        "it ended with {ended:?}"
    );
    Ok(Restart {
        steps,
        adopting,
        without,
    })
}

/// What a process has in memory and in the kernel.
struct Footprint {
    private_kib: u64,
    descriptors: u64,
    objects: u64,
    kernel_kib: u64,
}

impl Footprint {
    fn of(gregor: &Gregor) -> Result<Self> {
        let process = format!("/proc/{}", gregor.process().pid());
        let process = Path::new(&process);
        let status = fs::read_to_string(process.join("status"))?;
        let private_kib = field(&status, "RssAnon:").context("no RssAnon")?;
        let mut memory: HashMap<(&str, u64), u64> = HashMap::new();
        let mut descriptors = 0;
        for entry in fs::read_dir(process.join("fdinfo"))? {
            descriptors += 1;
            // Descriptors come and go while they are read.
            let Ok(text) = fs::read_to_string(entry?.path()) else {
                continue;
            };
            for kind in ["map_id:", "prog_id:", "link_id:"] {
                if let Some(id) = field(&text, kind) {
                    // A link names its program as well.
                    if kind == "prog_id:" && text.contains("link_id:") {
                        continue;
                    }
                    memory.insert((kind, id), field(&text, "memlock:").unwrap_or(0));
                }
            }
        }
        Ok(Self {
            private_kib,
            descriptors,
            objects: memory.len() as u64,
            kernel_kib: memory.values().sum::<u64>() >> 10,
        })
    }

    /// While pods are there, each with a link.
    fn line(&self, after: Duration) -> String {
        let Self {
            private_kib,
            descriptors,
            objects,
            kernel_kib,
        } = self;
        let seconds = Duration::from_secs(after.as_secs());
        format!(
            "after {}: {private_kib} KiB of its own, {descriptors} descriptors, {objects} maps, programs and links, {kernel_kib} KiB in the kernel",
            humantime::format_duration(seconds)
        )
    }
}

fn field(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The time of a line of the log, `2026-01-31T12:34:56.123456Z …`, since the epoch.
fn time_of(line: &str) -> Option<Duration> {
    let time = humantime::parse_rfc3339(line.split_whitespace().next()?).ok()?;
    time.duration_since(SystemTime::UNIX_EPOCH).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_the_log_and_fields_of_proc_are_read() {
        let at = |line| time_of(line).unwrap();
        let took = at("2026-01-31T00:00:00.000500Z  INFO gregor::app: ready")
            - at("2026-01-30T23:59:59.999000Z DEBUG gregor::app: x");
        assert_eq!(took, Duration::from_micros(1500));
        assert_eq!(time_of("no time"), None);
        assert_eq!(
            field("map_id:\t7\nmemlock:\t4096\n", "memlock:"),
            Some(4096)
        );
        assert_eq!(field("RssAnon:\t 312 kB\n", "RssAnon:"), Some(312));
    }
}
