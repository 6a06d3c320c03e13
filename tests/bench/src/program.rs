//! Program times by BPF_PROG_TEST_RUN, as ratios to a reflector of a fixed answer in the same run: of one address, and for
//! kernel answers of as many bytes as these have.
//!
//! Every figure is net of an empty program. The frames of the reflector and of a kernel answer are put back after each
//! run, and the time of putting them back is taken off. That each run took the verdict it is named for is asserted from
//! the counters. Rounds are interleaved: each measures every case once.

use std::{
    fs,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use dns_common::verdict::{Reason, Verdict};
use gregor::{
    datapath::{AnswerOptions, HIT_LANES, Hook, Limit, LoadOptions, Order, Protection, Term},
    resolve::{Answer, Section},
    rules::{Budget, ClientsSpec, MatchSpec, RuleSet, RuleSpec, testing::realistic_rules},
};
use hickory_proto::rr::{Name, RecordType};

use super::{limits::Limits, metric, stats};
use gregor_tests::packets::{
    build::{name, question, udp_to},
    loaded::{LOOPBACK, Loaded, every_source},
    table,
};

const SERVER: &str = "169.254.20.10";
const TYPE_A: u16 = 1;
/// Names as pods ask them; the matching one has 63 bytes.
const FOREIGN: &str = "sqs.eu-west-1.amazonaws.com";
const CLUSTER: &str = "kubernetes.default.svc.cluster.local";
const MATCHING: &str = "lkc-1.eu-west-1.aws.private.kafka.managed.foo.svc.cluster.local";

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds; figures are medians over them
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    /// Runs of a program in each round
    #[arg(long, default_value_t = 20_000)]
    repeat: u32,
    /// Sizes of rule sets, the first of which the others are compared with
    #[arg(long, value_delimiter = ',', default_values_t = [1, 1000])]
    rules: Vec<usize>,
    /// Measure the XDP program; what is taken off and compared with stays that of TC programs
    #[arg(long)]
    xdp: bool,
    /// Another build's object with the programs of tests (target/PROFILE/ebpf-testing/…/gregor-ebpf), measured beside
    /// this build's in each round; exit code 1 when a case takes more than 1.05 times as long
    #[arg(long, value_name = "OBJECT")]
    against: Option<PathBuf>,
}

/// Most that a case may take, in multiples of the other build's.
const AGAINST_LIMIT: f64 = 1.05;
/// Most that a case may take where a rule asks who the client is, in multiples of the same rule for everybody.
const ASKING_LIMIT: f64 = 1.15;
/// A difference of nanoseconds that is noise: BPF_PROG_TEST_RUN gives whole ones.
const RESOLUTION: f64 = 1.0;

/// Answers that the later rule sets come with.
const ENTRIES: usize = 100_000;

const HEARTBEAT: Duration = Duration::from_secs(60);

/// What a case may cost, in multiples of the reflector.
struct Case {
    label: &'static str,
    /// What the report calls it.
    metric: &'static str,
    frame: Vec<u8>,
    verdict: Verdict,
    limit: f64,
}

impl Case {
    /// The part of its time that is not the program's.
    fn not_its_own(&self, empty: f64, undo: f64) -> f64 {
        match self.verdict {
            Verdict::Answered => undo,
            _ => empty,
        }
    }
}

fn cases() -> Result<Vec<Case>> {
    let server = SERVER.parse()?;
    let ask = |text: &str| udp_to(server, question(name(text), TYPE_A).build());
    Ok(vec![
        Case {
            label: "not DNS",
            metric: metric::PROGRAM_NOT_DNS,
            frame: ask(FOREIGN)
                .with_udp(|udp| udp.destination_port = 4433)
                .build()
                .bytes,
            verdict: Verdict::Pass(Reason::NotDns),
            limit: 0.15,
        },
        Case {
            label: "foreign name",
            metric: metric::PROGRAM_FOREIGN,
            frame: ask(FOREIGN).build().bytes,
            verdict: Verdict::Pass(Reason::NoRule),
            limit: 0.3,
        },
        Case {
            label: "other svc.cluster.local name",
            metric: metric::PROGRAM_CLUSTER,
            frame: ask(CLUSTER).build().bytes,
            verdict: Verdict::Pass(Reason::NoRule),
            limit: 1.5,
        },
        Case {
            label: "match, no responder",
            metric: metric::PROGRAM_RECOGNISED,
            frame: ask(MATCHING).build().bytes,
            verdict: Verdict::Pass(Reason::NoResponder),
            limit: f64::INFINITY,
        },
        Case {
            label: "match, handed to the responder",
            metric: metric::PROGRAM_HANDED_OVER,
            frame: ask(MATCHING).build().bytes,
            verdict: Verdict::Taken,
            limit: 2.0,
        },
        Case {
            label: "match, answered",
            metric: metric::PROGRAM_ANSWERED,
            frame: ask(MATCHING).build().bytes,
            verdict: Verdict::Answered,
            limit: 3.0,
        },
    ])
}

/// What a program is measured with.
#[derive(Clone)]
struct Kind<'a> {
    hook: Hook,
    rules: usize,
    entries: usize,
    /// Another build's, or `None` for this one's.
    object: Option<&'a [u8]>,
    clients: ClientsSpec,
    /// Whether names of targets are refused.
    protects: bool,
}

impl Kind<'_> {
    /// One answer, and rules for everybody.
    fn new(hook: Hook, rules: usize) -> Self {
        Self {
            hook,
            rules,
            entries: 1,
            object: None,
            clients: ClientsSpec::Any,
            protects: false,
        }
    }
}

/// A program with a rule set of one size.
struct Subject {
    rules: usize,
    compile: Duration,
    loaded: Loaded,
    /// The same with kernel answers, each taken back.
    restored: Loaded,
    /// Answers that it has.
    entries: usize,
    /// Nanoseconds per case and round.
    times: Vec<Vec<f64>>,
}

impl Subject {
    fn new(kind: Kind<'_>, cases: usize) -> Result<Self> {
        let Kind {
            hook,
            rules: count,
            entries,
            object,
            clients,
            protects,
        } = kind;
        let asks_who = clients != ClientsSpec::Any;
        let mut specs = vec![RuleSpec {
            name: "kafka".to_owned(),
            matches: MatchSpec::Pattern(
                "*.aws.private.kafka.managed.{namespace}.svc.cluster.local".to_owned(),
            ),
            cname: "kafka-upstream.{namespace}.svc.cluster.local".to_owned(),
            ttl_seconds: 60,
            follow: true,
            clients,
            ..RuleSpec::default()
        }];
        specs.extend(realistic_rules(count.saturating_sub(1)));
        let started = Instant::now();
        let rules = RuleSet::compile_and_protect(&specs, "", &Budget::of_this_process(), protects)
            .map_err(|complaints| anyhow::anyhow!("{} complaints", complaints.len()))?;
        let compile = started.elapsed();
        let options = LoadOptions {
            servers: vec![SERVER.parse()?],
            rules: Arc::new(rules),
            hook,
            order: Order::First,
            sources: every_source(),
            ring_bytes: 1 << 24,
            limit: Limit {
                queries_per_second: 0,
                burst: 0,
            },
            answers: AnswerOptions::NONE,
            hit_lanes: HIT_LANES,
            protection: Protection {
                keeps_unread: protects,
                requires_tcp: protects,
            },
        };
        let mut loaded = match object {
            Some(object) => Loaded::of_object(&options, object, hook.program())?,
            None => Loaded::new(&options)?,
        };
        loaded.datapath.allow_interface(LOOPBACK)?;
        let options = LoadOptions {
            answers: AnswerOptions {
                total: entries,
                per_interface: entries,
                per_server: true,
                stale_ttl: 30,
            },
            ..options
        };
        let mut restored = match object {
            Some(object) => Loaded::of_object(&options, object, Loaded::restored_name(hook))?,
            None => Loaded::restored(&options)?,
        };
        restored.datapath.allow_interface(LOOPBACK)?;
        if asks_who {
            for datapath in [&loaded.datapath, &restored.datapath] {
                datapath.identify(LOOPBACK, Some(Arc::new(table::client())));
            }
        }
        let client = restored.datapath.client(LOOPBACK).unwrap_or(0);
        publish(&restored, entries, client)?;
        Ok(Self {
            restored,
            entries,
            rules: count,
            compile,
            loaded,
            times: vec![Vec::new(); cases],
        })
    }

    /// Median of a case, less what is not the program's own.
    fn net(&self, index: usize, case: &Case, empty: f64, undo: f64) -> f64 {
        median(&self.times[index]) - case.not_its_own(empty, undo)
    }

    fn time(&mut self, case: &Case, repeat: u32) -> Result<f64> {
        let counter = case.verdict.counter();
        if case.verdict == Verdict::Answered {
            let before = self.restored.datapath.counters()?;
            let outcome = self.restored.datapath.test_run(&case.frame, repeat)?;
            let after = self.restored.datapath.counters()?;
            ensure!(
                after[counter] - before[counter] == u64::from(repeat),
                "{}: {} of {repeat} runs",
                case.label,
                after[counter] - before[counter]
            );
            return Ok(nanoseconds(outcome.duration));
        }
        let before = self.loaded.datapath.counters()?;
        if case.verdict == Verdict::Pass(Reason::NoResponder) {
            self.loaded.heartbeat.stop();
        } else {
            self.loaded.heartbeat.renew(HEARTBEAT);
        }
        let outcome = self.loaded.datapath.test_run(&case.frame, repeat)?;
        let after = self.loaded.datapath.counters()?;
        self.loaded.drain();
        for (index, (before, after)) in before.iter().zip(&after).enumerate() {
            let counted = case.verdict != Verdict::Pass(Reason::NotDns) && index == counter;
            let expected = if counted { u64::from(repeat) } else { 0 };
            ensure!(
                after - before == expected,
                "{}: counter {index} went up by {}, not {expected}",
                case.label,
                after - before
            );
        }
        Ok(nanoseconds(outcome.duration))
    }
}

/// Lets the program answer the matching name with CNAME, CNAME and three addresses, and as many names of other
/// namespaces as make `entries` in all.
fn publish(loaded: &Loaded, entries: usize, client: u32) -> Result<()> {
    let name = |text: &str| Name::from_ascii(text).context("a name");
    let answer = Answer {
        qtype: RecordType::A,
        names: vec![
            name("kafka-upstream.foo.svc.cluster.local.")?,
            name(
                "vpce-0123456789abcdef0-abcdefgh.vpce-svc-0123456789abcdef0.eu-west-1.vpce.amazonaws.com.",
            )?,
        ],
        rdata: (11..14).map(|last| vec![10, 10, 1, last]).collect(),
        soa: None,
        ttl_seconds: 60,
    };
    let body = Section::new(&answer)
        .and_then(|section| section.body())
        .context("an answer that a program can give")?;
    let term = Term {
        fresh: Duration::from_secs(24 * 3600),
        grace: Duration::ZERO,
        fixed_ttl: Some(30),
        ..Term::default()
    };
    let answers = loaded.datapath.answers();
    let server = SERVER.parse()?;
    let rule = loaded.datapath.rules().rules()[0].id();
    for number in 0..entries {
        let namespace = match number {
            0 => "foo".to_owned(),
            _ => format!("tenant-{number:06}"),
        };
        let key = answers
            .key(rule, TYPE_A, server, &[namespace], client)
            .context("a key")?;
        answers.publish(LOOPBACK, &key, &body, &term);
    }
    let sizes = answers.sizes();
    ensure!(
        sizes.answers as u64 + sizes.unplaced == entries as u64,
        "{sizes:?}"
    );
    Ok(())
}

/// Nanoseconds of one round of the programs around gregor's.
struct Around {
    empty: f64,
    undo: f64,
    /// Net of `undo`.
    reflect: f64,
    reflect_whole: f64,
}

impl Around {
    fn time(limits: &mut Limits, frame: &[u8], repeat: u32) -> Result<Self> {
        let mut limit = |name| limits.time(name, frame, repeat).map(nanoseconds);
        let (empty, undo) = (limit("empty")?, limit("undo")?);
        Ok(Self {
            empty,
            undo,
            reflect: limit("reflect_undo")? - undo,
            reflect_whole: limit("reflect_whole_undo")? - undo,
        })
    }
}

/// The program with the article's rule and one answer, for the report.
pub struct Times {
    cases: Vec<Case>,
    limits: Limits,
    subject: Subject,
}

impl Times {
    pub fn new() -> Result<Self> {
        let cases = cases()?;
        Ok(Self {
            limits: Limits::load()?,
            subject: Subject::new(Kind::new(Hook::Tcx, 1), cases.len())?,
            cases,
        })
    }

    /// Nanoseconds of one run in each case, net of an empty program, by metric.
    pub fn round(&mut self, repeat: u32) -> Result<Vec<(&'static str, f64)>> {
        let frame = &self.cases.last().context("no case")?.frame;
        let around = Around::time(&mut self.limits, frame, repeat)?;
        let mut times = vec![
            (metric::PROGRAM_REFLECTOR, around.reflect),
            (metric::PROGRAM_WHOLE_REFLECTOR, around.reflect_whole),
        ];
        for case in &self.cases {
            let less = case.not_its_own(around.empty, around.undo);
            times.push((case.metric, self.subject.time(case, repeat)? - less));
        }
        Ok(times)
    }
}

/// Measures and prints; `false` when a ratio is over its limit.
pub fn run(options: &Options) -> Result<bool> {
    ensure!(
        options.rounds > 0 && !options.rules.is_empty(),
        "nothing to measure"
    );
    let cases = cases()?;
    let mut limits = Limits::load()?;
    let hook = if options.xdp { Hook::Xdp } else { Hook::Tcx };
    let mut subjects = options
        .rules
        .iter()
        .map(|&count| {
            let entries = if count == options.rules[0] {
                1
            } else {
                ENTRIES
            };
            let kind = Kind::new(hook, count);
            Subject::new(Kind { entries, ..kind }, cases.len())
        })
        .collect::<Result<Vec<_>>>()?;
    let kind = Kind::new(hook, options.rules[0]);
    let mut other = match &options.against {
        Some(path) => {
            let object = fs::read(path).with_context(|| path.display().to_string())?;
            let object = Some(object.as_slice());
            Some(Subject::new(
                Kind {
                    object,
                    ..kind.clone()
                },
                cases.len(),
            )?)
        }
        None => None,
    };
    // On a wire nobody is known.
    let mut own = match hook {
        Hook::Xdp => None,
        Hook::Tcx | Hook::Clsact => {
            let clients = ClientsSpec::OwnNamespace;
            Some(Subject::new(
                Kind {
                    clients,
                    ..kind.clone()
                },
                cases.len(),
            )?)
        }
    };
    let protects = true;
    let mut protecting = Subject::new(Kind { protects, ..kind }, cases.len())?;

    let frame = &cases.last().context("no case")?.frame;
    let mut around = Vec::new();
    for round in 0..options.rounds {
        eprint!("\rround {} of {}", round + 1, options.rounds);
        around.push(Around::time(&mut limits, frame, options.repeat)?);
        let others = other.iter_mut().chain(&mut own).chain([&mut protecting]);
        for subject in others.chain(&mut subjects) {
            for (index, case) in cases.iter().enumerate() {
                let time = subject.time(case, options.repeat)?;
                subject.times[index].push(time);
            }
        }
    }
    eprintln!();

    let of = |part: fn(&Around) -> f64| median(&around.iter().map(part).collect::<Vec<_>>());
    let (empty, undo) = (of(|it| it.empty), of(|it| it.undo));
    let (reflect, reflect_whole) = (of(|it| it.reflect), of(|it| it.reflect_whole));
    println!(
        "median of {} rounds of {} runs; ns net of an empty program ({empty:.0} ns); reflector of one address {reflect:.0} ns = 1.00 ×, of a whole answer {reflect_whole:.0} ns",
        options.rounds, options.repeat
    );
    let mut within = true;
    let mut first: Vec<f64> = Vec::new();
    for subject in &mut subjects {
        let summary = subject.loaded.datapath.summary()?;
        println!(
            "\n{} rules, {} answers: compiled in {:.0?}, table {} KiB, {} instructions verified, loaded in {:.0?}",
            subject.rules,
            subject.entries,
            subject.compile,
            summary.table_bytes.div_ceil(1024),
            summary.verified_instructions,
            summary.load_time,
        );
        for (index, case) in cases.iter().enumerate() {
            let time = subject.net(index, case, empty, undo);
            let ratio = match case.verdict {
                Verdict::Answered => time / reflect_whole,
                _ => time / reflect,
            };
            let ok = ratio <= case.limit;
            within &= ok;
            print!("  {:<32} {time:>6.0} ns  {ratio:>5.2} ×", case.label);
            if case.limit.is_finite() {
                let verdict = if ok { "within" } else { "OVER" };
                print!("  limit {:.2} ×  {verdict:<6}", case.limit);
            } else {
                print!("{:23}", "");
            }
            if case.verdict == Verdict::Answered {
                print!("  ({:.2} × one address)", time / reflect);
            }
            match first.get(index) {
                Some(base) => println!("  {:.2} × that of {} rules", time / base, options.rules[0]),
                None => println!(),
            }
        }
        if first.is_empty() {
            first = cases
                .iter()
                .enumerate()
                .map(|(index, case)| subject.net(index, case, empty, undo))
                .collect();
        }
    }
    if let (Some(own), Some(subject)) = (&own, subjects.first()) {
        println!("\nclients = \"own-namespace\", in multiples of the same rule for everybody:");
        for (index, case) in cases.iter().enumerate() {
            let less = case.not_its_own(empty, undo);
            let (time, ratio) = (
                own.net(index, case, empty, undo),
                paired(&own.times[index], &subject.times[index], less),
            );
            let plain = subject.net(index, case, empty, undo);
            let ok = ratio <= ASKING_LIMIT || time - plain <= RESOLUTION;
            within &= ok;
            println!(
                "  {:<32} {time:>6.0} ns  {ratio:>5.2} ×  limit {ASKING_LIMIT:.2} ×  {}",
                case.label,
                if ok { "within" } else { "OVER" }
            );
        }
    }
    if let Some(subject) = subjects.first() {
        println!("\nprotect_targets, in multiples of the same rule without:");
        for (index, case) in cases.iter().enumerate() {
            let less = case.not_its_own(empty, undo);
            let time = protecting.net(index, case, empty, undo);
            let ratio = paired(&protecting.times[index], &subject.times[index], less);
            println!("  {:<32} {time:>6.0} ns  {ratio:>5.2} ×", case.label);
        }
    }
    if let (Some(other), Some(subject)) = (&mut other, subjects.first()) {
        let summary = other.loaded.datapath.summary()?;
        println!(
            "\nagainst the other build: {} instructions verified, loaded in {:.0?}",
            summary.verified_instructions, summary.load_time,
        );
        for (index, case) in cases.iter().enumerate() {
            let before = other.net(index, case, empty, undo);
            let less = case.not_its_own(empty, undo);
            let ratio = paired(&subject.times[index], &other.times[index], less);
            let after = subject.net(index, case, empty, undo);
            let ok = ratio <= AGAINST_LIMIT || after - before <= RESOLUTION;
            within &= ok;
            println!(
                "  {:<32} {before:>6.0} ns before  {ratio:>5.2} ×  {}",
                case.label,
                if ok { "within" } else { "OVER" }
            );
        }
    }
    Ok(within)
}

/// The median ratio of the times of two programs in the same rounds, so that a slow one counts once. `less` is what is around
/// the programs in both.
fn paired(after: &[f64], before: &[f64], less: f64) -> f64 {
    let ratios = after.iter().zip(before);
    let ratios = ratios.map(|(after, before)| (after - less) / (before - less));
    median(&ratios.collect::<Vec<_>>())
}

fn nanoseconds(duration: Duration) -> f64 {
    duration.as_nanos() as f64
}

fn median(values: &[f64]) -> f64 {
    stats::median(values).unwrap_or(f64::NAN)
}
