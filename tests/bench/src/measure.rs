//! Takes one measurement of one cell, in labs that are made when they are first needed.

use std::{
    collections::{BTreeMap, HashMap, hash_map::Entry},
    fmt::Write as _,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use gregor::rules::{MatchSpec, testing::realistic_rules};

use super::{
    contenders::{
        self, DISCARD, GregorSetup, NODELOCAL, Needs, REFLECTOR, Senders, Testbed, frames_for,
        names_of, namespace,
    },
    external,
    latency::{self, Recorded},
    load::{
        closed,
        flow::{Flow, Pace},
        names::{Names, Traffic},
        open,
        socket::BATCH,
    },
    metric,
    pair::Pairs,
    plan::{Axis, Cell, LABELS, Mode, Pair, WINDOW, What},
    program,
};

/// What a measurement has given.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    pub values: BTreeMap<String, f64>,
    pub latency: Option<Recorded>,
}

impl Measured {
    fn set(&mut self, metric: &str, value: f64) {
        self.values.insert(metric.to_owned(), value);
    }
}

/// A lab with its generators, by what they send.
struct Ready {
    testbed: Testbed,
    senders: HashMap<String, Senders>,
}

/// The labs of a group of cells.
pub struct Bench {
    mode: Mode,
    ready: HashMap<String, Ready>,
    /// Number of the first label that was not asked for.
    fresh: usize,
    program: Option<program::Times>,
    pairs: Option<Pairs>,
}

impl Bench {
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            ready: HashMap::new(),
            fresh: 1_000_000,
            program: None,
            pairs: None,
        }
    }

    /// Ends everything that cells of one group have started.
    pub fn clear(&mut self) {
        self.ready.clear();
        self.program = None;
        self.pairs = None;
    }

    /// One measurement of a cell, in `round`, at `point` where something grows.
    pub fn measure(&mut self, cell: &Cell, round: usize, point: Option<usize>) -> Result<Measured> {
        match cell.what {
            What::Throughput { traffic } => self.throughput(cell, traffic),
            What::Cold => self.cold(cell),
            What::Dnsperf => self.dnsperf(cell),
            What::Closed => self.closed(cell),
            What::Open { per_second } => self.open(cell, per_second),
            What::Pair(pair) => self.pair(pair, round),
            What::Start => start(cell),
            What::Program => self.program(),
            What::Growth(axis) => self.growth(axis, point.context("a point of a growth curve")?),
        }
        .with_context(|| format!("measuring {}", cell.id))
    }

    fn of(&mut self, cell: &Cell) -> Result<&mut Ready> {
        let contender = contender(cell)?;
        self.ready(contender, cell.pods)
    }

    fn ready(&mut self, contender: &str, pods: usize) -> Result<&mut Ready> {
        let key = format!("{contender}/{pods}");
        if !self.ready.contains_key(&key) {
            let needs = Needs {
                pods,
                ..Needs::default()
            };
            let testbed = contenders::by_id(contender)?
                .start(&needs)
                .with_context(|| format!("starting {contender}"))?;
            self.put(&key, testbed);
        }
        self.ready.get_mut(&key).context("was put there")
    }

    fn put(&mut self, key: &str, testbed: Testbed) {
        let senders = HashMap::new();
        self.ready
            .insert(key.to_owned(), Ready { testbed, senders });
    }

    fn throughput(&mut self, cell: &Cell, traffic: Traffic) -> Result<Measured> {
        let span = self.mode.span();
        let contender = contender(cell)?;
        let (testbed, senders) = self.of(cell)?.senders(cell.pods, traffic)?;
        if contender == DISCARD {
            // Faster than any machine sends.
            let pace = Pace::Rate {
                per_second: 1e8,
                batch: BATCH,
            };
            let mut measured = Measured::default();
            let flow = testbed.run(senders, pace, span)?;
            measured.set(metric::SENT, flow.sent_per_second());
            measured.set(metric::BUSY, busy_per_million(&flow, flow.sent));
            return Ok(measured);
        }
        testbed.warm(senders, cell.pods * LABELS)?;
        let flow = testbed.run(senders, Pace::Window(WINDOW), span)?;
        let control = testbed.run_discarding(senders, flow.same_pace(), span)?;
        Ok(of_flow(&flow, Some(&control)))
    }

    fn cold(&mut self, cell: &Cell) -> Result<Measured> {
        let count = self.mode.cold_names();
        let first = self.fresh;
        self.fresh += count;
        let testbed = &self.of(cell)?.testbed;
        let mut senders = testbed.senders(1, 1, |pod| {
            let names = Names::of(Traffic::Matched, &namespace(pod), count);
            Names { first, ..names }.list(count)
        })?;
        let frames = senders.iter_mut().flatten().next().context("no sender")?;
        let flow = testbed.run_once(frames, WINDOW)?;
        ensure!(flow.replies.answers > 0, "no answer to a new name");
        Ok(of_flow(&flow, None))
    }

    fn dnsperf(&mut self, cell: &Cell) -> Result<Measured> {
        let ready = self.of(cell)?;
        ready.warm(Traffic::Matched)?;
        let names = names_of(Traffic::Matched, LABELS)(0);
        let testbed = &ready.testbed;
        let rate = external::dnsperf(&testbed.lab, testbed.pod(), testbed.server(), &names)?;
        let mut measured = Measured::default();
        measured.set(metric::ANSWERS, rate);
        Ok(measured)
    }

    fn closed(&mut self, cell: &Cell) -> Result<Measured> {
        let duration = self.mode.latency();
        let ready = self.of(cell)?;
        ready.warm(Traffic::Matched)?;
        closed_loop(&ready.testbed, Traffic::Matched, duration)
    }

    fn open(&mut self, cell: &Cell, per_second: u32) -> Result<Measured> {
        let duration = self.mode.latency();
        let ready = self.of(cell)?;
        ready.warm(Traffic::Matched)?;
        let (testbed, server) = (&ready.testbed, ready.testbed.server());
        let names = names_of(Traffic::Matched, LABELS)(0);
        let outcome = testbed
            .pod()
            .netns()
            .enter(move || open::run(server, &names, per_second, duration))??;
        let mut measured = of_times(&outcome.times);
        measured.set(
            metric::LOST,
            outcome.lost as f64 / outcome.sent.max(1) as f64,
        );
        Ok(measured)
    }

    fn pair(&mut self, pair: Pair, round: usize) -> Result<Measured> {
        let pairs = match &mut self.pairs {
            Some(pairs) => pairs,
            none => none.insert(Pairs::start(self.mode)?),
        };
        let done = pairs.measure(pair, round)?;
        let mut measured = Measured::default();
        measured.set(metric::WITH, done.with);
        measured.set(metric::WITHOUT, done.without);
        measured.set(metric::RATIO, done.ratio);
        Ok(measured)
    }

    fn program(&mut self) -> Result<Measured> {
        let program = match &mut self.program {
            Some(program) => program,
            none => none.insert(program::Times::new()?),
        };
        let mut measured = Measured::default();
        for (metric, nanoseconds) in program.round(PROGRAM_RUNS)? {
            measured.set(metric, nanoseconds);
        }
        Ok(measured)
    }

    fn growth(&mut self, axis: Axis, point: usize) -> Result<Measured> {
        let span = self.mode.span();
        let key = format!("{}/{point}", axis.id());
        if !self.ready.contains_key(&key) {
            let testbed = grown(axis, point)?;
            self.put(&key, testbed);
        }
        let names = growth_names(axis, point);
        let pods = growth_pods(axis);
        let reflected = match axis {
            // What the generator itself pays for long names and for many of them.
            Axis::NameLength | Axis::Namespaces => {
                let reflector = self.ready(REFLECTOR, pods)?;
                let (testbed, senders) = reflector.senders_of(&key, pods, &names)?;
                let flow = testbed.run(senders, Pace::Window(WINDOW), span)?;
                Some(flow.replies_per_second())
            }
            Axis::Rules | Axis::Interfaces => None,
        };
        let ready = self.ready.get_mut(&key).context("was put there")?;
        let (testbed, senders) = ready.senders_of(&key, pods, &names)?;
        testbed.warm(senders, names.len())?;
        let flow = testbed.run(senders, Pace::Window(WINDOW), span)?;
        let control = testbed.run_discarding(senders, flow.same_pace(), span)?;
        let mut measured = of_flow(&flow, Some(&control));
        let memory = testbed.memory()?;
        measured.set(metric::READY, milliseconds(testbed.start_time));
        measured.set(metric::RESIDENT, memory.gregor_kib as f64);
        measured.set(metric::MAPS, memory.maps_kib as f64);
        if let Some(reflected) = reflected {
            measured.set(metric::REFLECTED, reflected);
        }
        Ok(measured)
    }
}

/// Runs of the program in each round and for each kind of frame.
const PROGRAM_RUNS: u32 = 20_000;

impl Ready {
    /// Generators in as many pods, on no more threads than there are processors.
    fn senders(&mut self, pods: usize, traffic: Traffic) -> Result<(&mut Testbed, &mut Senders)> {
        let threads = thread::available_parallelism()?.get();
        let key = format!("{}/{pods}", traffic.label());
        self.generators(key, |testbed| {
            testbed.senders(pods, threads, names_of(traffic, LABELS))
        })
    }

    /// Generators on one thread that share these names out among `pods`.
    fn senders_of(
        &mut self,
        key: &str,
        pods: usize,
        names: &[String],
    ) -> Result<(&mut Testbed, &mut Senders)> {
        let share = |pod| names.iter().skip(pod).step_by(pods).cloned().collect();
        self.generators(key.to_owned(), |testbed| testbed.senders(pods, 1, share))
    }

    fn generators(
        &mut self,
        key: String,
        make: impl FnOnce(&Testbed) -> Result<Senders>,
    ) -> Result<(&mut Testbed, &mut Senders)> {
        let senders = match self.senders.entry(key) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(place) => place.insert(make(&self.testbed)?),
        };
        Ok((&mut self.testbed, senders))
    }

    fn warm(&mut self, traffic: Traffic) -> Result<()> {
        let (testbed, senders) = self.senders(1, traffic)?;
        testbed.warm(senders, LABELS)
    }
}

fn contender(cell: &Cell) -> Result<&'static str> {
    cell.contender.context("a cell without a contender")
}

fn closed_loop(testbed: &Testbed, traffic: Traffic, duration: Duration) -> Result<Measured> {
    let server = testbed.server();
    let names = names_of(traffic, LABELS)(0);
    let closed::Waits { times, lost } = testbed
        .pod()
        .netns()
        .enter(move || closed::run(server, &names, duration))??;
    let mut measured = of_times(&times);
    let asked = times.len() + lost;
    measured.set(metric::LOST, lost as f64 / asked.max(1) as f64);
    Ok(measured)
}

fn of_times(times: &hdrhistogram::Histogram<u64>) -> Measured {
    let mut measured = Measured {
        latency: Some(Recorded::from(times)),
        ..Measured::default()
    };
    for (metric, quantile) in [
        (metric::P50, 0.5),
        (metric::P99, 0.99),
        (metric::P999, 0.999),
    ] {
        measured.set(metric, latency::microseconds(times, quantile));
    }
    measured
}

fn of_flow(flow: &Flow, control: Option<&Flow>) -> Measured {
    let mut measured = Measured::default();
    let replies = flow.replies.all().max(1);
    measured.set(
        metric::ANSWERS,
        flow.replies.answers as f64 / flow.elapsed.as_secs_f64(),
    );
    measured.set(
        metric::LOST,
        flow.lost_in_all as f64 / flow.sent_in_all.max(1) as f64,
    );
    measured.set(
        metric::WRONG,
        (flow.replies.all() - flow.replies.answers) as f64 / replies as f64,
    );
    if let Some(control) = control {
        measured.set(
            metric::BUSY,
            busy_per_million(flow, flow.replies.answers) - busy_per_million(control, control.sent),
        );
    }
    measured
}

/// Seconds of the whole machine for a million of them.
fn busy_per_million(flow: &Flow, count: u64) -> f64 {
    flow.busy.as_secs_f64() * 1e6 / count.max(1) as f64
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn start(cell: &Cell) -> Result<Measured> {
    let contender = contenders::by_id(contender(cell)?)?;
    let testbed = contender.start(&Needs::default())?;
    let mut senders = testbed.senders(1, 1, names_of(Traffic::Matched, LABELS))?;
    testbed.warm(&mut senders, LABELS)?;
    let memory = testbed.memory()?;
    let resident = match testbed.gregor {
        Some(_) => memory.gregor_kib,
        None => memory.servers_kib,
    };
    let mut measured = Measured::default();
    measured.set(metric::READY, milliseconds(testbed.start_time));
    measured.set(metric::RESIDENT, resident as f64);
    measured.set(metric::MAPS, memory.maps_kib as f64);
    Ok(measured)
}

/// Longer than a run: what grows is the number of names, not of look-ups.
const GROWTH_TTL: u32 = 3600;
/// The rule for names of every length, whose own parts are short.
const SHORT: (&str, &str) = ("k", "t");

/// gregor over NodeLocal with one thing grown to `point`.
fn grown(axis: Axis, point: usize) -> Result<Testbed> {
    let needs = Needs {
        pods: growth_pods(axis),
        ttl: Some(GROWTH_TTL),
    };
    let mut testbed = contenders::by_id(NODELOCAL)?.start(&needs)?;
    let mut setup = GregorSetup {
        ttl: Some(GROWTH_TTL),
        ..GregorSetup::default()
    };
    match axis {
        Axis::Rules => setup.rules = rules_toml(point - 1),
        Axis::Namespaces => setup.answers = Some(GROWTH_ANSWERS),
        Axis::Interfaces => {
            let mut batch = String::new();
            for index in 1..point {
                let pod = testbed.pod().netns().name();
                let _ = writeln!(
                    batch,
                    "link add more{index} type veth peer name peer{index} netns {pod}\nlink set more{index} up"
                );
            }
            testbed.lab.node().ip(&batch)?;
        }
        Axis::NameLength => {
            let (before, behind) = SHORT;
            setup.rules = format!(
                "\n[[rule]]\nname = \"short\"\nmatch = \"*.{before}.{{namespace}}.{behind}\"\ncname = \"kafka-upstream.{{namespace}}.svc.cluster.local\"\nttl = {GROWTH_TTL}\n"
            );
        }
    }
    testbed.start_gregor(&setup.config())?;
    Ok(testbed)
}

/// A limit for the answers of the most namespaces that are asked for.
const GROWTH_ANSWERS: usize = 100_000;

/// One pod may fill a sixteenth of all answers, so as many pods ask for names of many namespaces.
fn growth_pods(axis: Axis) -> usize {
    match axis {
        Axis::Namespaces => 16,
        Axis::Rules | Axis::Interfaces | Axis::NameLength => 1,
    }
}

fn growth_names(axis: Axis, point: usize) -> Vec<String> {
    let count = frames_for(Traffic::Matched, LABELS);
    let names = Names::of(Traffic::Matched, &namespace(0), LABELS);
    match axis {
        Axis::Rules | Axis::Interfaces => names.list(count),
        Axis::Namespaces => Names {
            namespaces: (0..point).map(namespace).collect(),
            ..names
        }
        // Whole batches for each pod.
        .list(
            LABELS
                .max(point)
                .next_multiple_of(BATCH * growth_pods(axis)),
        ),
        Axis::NameLength => Names {
            around: (SHORT.0.to_owned(), SHORT.1.to_owned()),
            length: Some(point),
            // Space for a length of 20.
            labels: 10,
            ..names
        }
        .list(count),
    }
}

/// Rules of a large cluster besides the one that is asked for.
fn rules_toml(count: usize) -> String {
    let mut text = String::new();
    for rule in realistic_rules(count) {
        let (key, value) = match &rule.matches {
            MatchSpec::Pattern(pattern) => ("match", pattern),
            MatchSpec::Regex(regex) => ("regex", regex),
        };
        let _ = write!(
            text,
            "\n[[rule]]\nname = '{}'\n{key} = '{value}'\ncname = '{}'\nttl = {}\n",
            rule.name, rule.cname, rule.ttl_seconds
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn configurations_of_growth_are_ones_that_gregor_takes() {
        for rules in [0, 9, 999] {
            let setup = GregorSetup {
                rules: rules_toml(rules),
                ..GregorSetup::default()
            };
            let path = std::path::Path::new("bench.toml");
            let (config, ..) = gregor::config::compile(path, &setup.config())
                .unwrap_or_else(|error| panic!("{rules} rules: {error:?}"));
            assert_eq!(config.rules.len(), rules + 1);
        }
    }

    #[test]
    fn names_of_growth_have_what_grows() {
        let names = growth_names(Axis::Namespaces, 5000);
        let distinct: std::collections::HashSet<&str> = names
            .iter()
            .filter_map(|name| name.split('.').nth(6))
            .collect();
        assert_eq!(distinct.len(), 5000);
        for length in [20, 75, 150, 250] {
            let names = growth_names(Axis::NameLength, length);
            assert!(names.iter().all(|name| name.len() == length));
        }
    }
}
