//! A loaded program, with its ring, maps and counters for tests.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use dns_common::{
    answer::Key,
    verdict::{ANSWERED, EXPIRED, REFRESHED, Reason, TAKEN, UNANSWERED},
};
use gregor::{
    datapath::{
        AnswerOptions, Attempt, Base, Datapath, DatapathError, HIT_LANES, Heartbeat, Hook,
        Intercepted, Limit, LoadOptions, Order, Protection, Ring, State,
    },
    rules::{RuleSet, RuleSpec},
};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::{
    answers::{self, Entry, What},
    build::Tag,
    engine::{Event, Outcome},
    table::{Rule, servers},
};

/// The rules of a fixture, compiled.
pub fn compile(rules: &[Rule]) -> Arc<RuleSet> {
    let specs: Vec<RuleSpec> = rules.iter().map(Rule::spec).collect();
    Arc::new(RuleSet::compile(&specs).expect("rules of a fixture"))
}

/// No limit, space for every case of the table, first on tcx.
pub fn options(rules: Arc<RuleSet>) -> LoadOptions {
    LoadOptions {
        servers: servers(),
        rules,
        hook: Hook::Tcx,
        order: Order::First,
        sources: every_source(),
        ring_bytes: 1 << 20,
        limit: Limit {
            queries_per_second: 0,
            burst: 0,
        },
        answers: AnswerOptions::NONE,
        hit_lanes: HIT_LANES,
        protection: Protection::default(),
    }
}

/// Every source, for programs that ask.
pub fn every_source() -> Vec<IpNet> {
    vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())]
}

/// The same for the rules of the table of answers, with space for them.
pub fn answering() -> LoadOptions {
    LoadOptions {
        answers: AnswerOptions {
            total: 4096,
            per_interface: 4096,
            per_server: true,
            stale_ttl: 30,
        },
        ..options(answers::rules())
    }
}

/// A program, its ring and its heartbeat, whose deadline is an hour from now.
pub struct Loaded {
    pub datapath: Datapath,
    pub heartbeat: Arc<Heartbeat>,
    ring: Ring,
    actions: Actions,
    /// The entries of its tables.
    cached: Vec<Key>,
    // The ring is registered with it.
    _runtime: tokio::runtime::Runtime,
}

/// What runs under BPF_PROG_TEST_RUN comes in on the loopback interface, whose index is 1 in every namespace.
pub const LOOPBACK: u32 = 1;

/// What a program returns for a frame that passes, for one that it takes, and for one that it answers.
struct Actions {
    pass: u32,
    taken: u32,
    answered: u32,
}

/// TCX_NEXT or TC_ACT_UNSPEC, TC_ACT_SHOT, TC_ACT_REDIRECT.
const TC: Actions = Actions {
    pass: u32::MAX,
    taken: 2,
    answered: 7,
};
/// XDP_PASS, XDP_DROP, XDP_TX.
const XDP: Actions = Actions {
    pass: 2,
    taken: 1,
    answered: 3,
};

/// The verifier gives up with EAGAIN where a signal waits, and the SIGCHLD of another thread's child may go to any thread.
fn without_signals<T>(load: impl FnOnce() -> T) -> nix::Result<T> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let loaded = load();
    before.thread_set_mask()?;
    Ok(loaded)
}

impl Loaded {
    pub fn new(options: &LoadOptions) -> anyhow::Result<Self> {
        Self::with(options, || Datapath::load(options))
    }

    /// The program of a process whose maps are pinned in this directory.
    pub fn pinned(options: &LoadOptions, state: &State) -> anyhow::Result<Self> {
        let attempt = Attempt {
            base: Base::pinned(state),
            logging: false,
            limit: Duration::from_secs(60),
        };
        Self::with(options, || attempt.load(options, &mut |_, _| {}))
    }

    /// The program that logs what it decides.
    pub fn logging(options: &LoadOptions) -> anyhow::Result<Self> {
        Self::with(options, || Datapath::load_logging(options))
    }

    /// The program that puts an answered query back into its frame.
    pub fn restored(options: &LoadOptions) -> anyhow::Result<Self> {
        Self::of_tests(options, Self::restored_name(options.hook))
    }

    /// Name of that program.
    pub fn restored_name(hook: Hook) -> &'static str {
        match hook {
            Hook::Xdp => "restored_xdp",
            Hook::Tcx | Hook::Clsact => "restored",
        }
    }

    /// One of the programs that only tests run.
    pub fn of_tests(options: &LoadOptions, program: &'static str) -> anyhow::Result<Self> {
        static OBJECT: &[u8] =
            aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/gregor-ebpf-testing"));
        Self::with(options, || Datapath::load_object(options, OBJECT, program))
    }

    /// A program of another build's testing object, to compare with.
    pub fn of_object(
        options: &LoadOptions,
        object: &[u8],
        program: &'static str,
    ) -> anyhow::Result<Self> {
        Self::with(options, || Datapath::load_object(options, object, program))
    }

    fn with(
        options: &LoadOptions,
        load: impl FnOnce() -> Result<Datapath, DatapathError>,
    ) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let mut datapath = without_signals(load)??;
        let ring = {
            let _guard = runtime.enter();
            datapath.ring()?
        };
        let heartbeat = datapath.heartbeat();
        heartbeat.renew(Duration::from_secs(3600));
        Ok(Self {
            datapath,
            heartbeat,
            ring,
            actions: match options.hook {
                Hook::Xdp => XDP,
                Hook::Tcx | Hook::Clsact => TC,
            },
            cached: Vec::new(),
            _runtime: runtime,
        })
    }

    /// The records in the ring that userspace has not taken yet.
    pub fn drain(&mut self) -> Vec<Intercepted> {
        let mut queries = Vec::new();
        while self.ring.drain(&mut queries) > 0 {}
        queries
    }

    pub fn counters(&self) -> anyhow::Result<Vec<u64>> {
        Ok(self.datapath.counters()?)
    }

    /// Runs the program over a frame that comes in on the loopback interface.
    pub fn test_run(&mut self, frame: &[u8]) -> anyhow::Result<Outcome> {
        let before = self.counters()?;
        let run = self.datapath.test_run(frame, 1)?;
        let outcome = self.outcome(&before, || Ok(run.data.clone()))?;
        let action = match outcome {
            Outcome::Passed(_) => self.actions.pass,
            Outcome::Taken(_) | Outcome::Unanswered => self.actions.taken,
            Outcome::Answered { .. } => self.actions.answered,
        };
        anyhow::ensure!(
            action == self.actions.answered || run.data == frame,
            "the program wrote to the frame"
        );
        anyhow::ensure!(
            run.return_value == action,
            "action {:#x} for {outcome:?}",
            run.return_value
        );
        Ok(outcome)
    }

    /// Makes these all entries of the program's tables.
    pub fn fill(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        let answers = Arc::clone(self.datapath.answers());
        for key in self.cached.drain(..) {
            answers.remove(&key);
            answers.publish_absent(LOOPBACK, &key, Duration::ZERO);
        }
        for entry in entries {
            let rule = self.datapath.rules().rules()[entry.rule].id();
            let key = answers
                .key(rule, entry.qtype, entry.server, &entry.captures, 0)
                .context("a key with room for these captures")?;
            self.cached.push(key);
            match &entry.what {
                What::Answer(answer, term) | What::TakenAway(answer, term) => {
                    if let Some(body) = answer.body() {
                        answers.publish(LOOPBACK, &key, &body, term);
                    }
                    if matches!(entry.what, What::TakenAway(..)) {
                        answers.remove(&key);
                    }
                }
                What::NoTarget => {
                    answers.publish_absent(LOOPBACK, &key, Duration::from_secs(3600));
                }
                What::NoTargetBefore => answers.publish_absent(LOOPBACK, &key, Duration::ZERO),
            }
        }
        Ok(())
    }

    /// The result for the one frame that came in since the counters were `before`; `reply` has it if it came back.
    pub fn outcome(
        &mut self,
        before: &[u64],
        reply: impl FnOnce() -> anyhow::Result<Vec<u8>>,
    ) -> anyhow::Result<Outcome> {
        let after = self.counters()?;
        let refreshed = after[REFRESHED] - before[REFRESHED];
        // These count with others.
        let mut moved = (0..after.len())
            .filter(|&i| ![REFRESHED, EXPIRED].contains(&i) && after[i] != before[i]);
        let counter = moved.next();
        anyhow::ensure!(moved.next().is_none(), "more than one counter moved");
        let mut queries = self.drain();
        match counter {
            Some(TAKEN) => {
                anyhow::ensure!(after[TAKEN] == before[TAKEN] + 1 && queries.len() == 1);
                anyhow::ensure!(refreshed == 0);
                Ok(Outcome::Taken(event(&queries.remove(0))))
            }
            Some(ANSWERED) => {
                anyhow::ensure!(after[ANSWERED] == before[ANSWERED] + 1);
                anyhow::ensure!(queries.len() as u64 == refreshed && refreshed < 2);
                Ok(Outcome::Answered {
                    reply: reply()?,
                    refresh: queries.first().map(event),
                })
            }
            counter => {
                anyhow::ensure!(queries.is_empty(), "handed over, and yet {counter:?}");
                if counter == Some(UNANSWERED) {
                    anyhow::ensure!(after[UNANSWERED] == before[UNANSWERED] + 1);
                    return Ok(Outcome::Unanswered);
                }
                let Some(counter) = counter else {
                    // The one verdict that is not counted.
                    return Ok(Outcome::Passed(Reason::NotDns));
                };
                anyhow::ensure!(after[counter] == before[counter] + 1);
                let reason = Reason::ALL.get(counter).context("a counter of no reason")?;
                Ok(Outcome::Passed(*reason))
            }
        }
    }
}

fn event(query: &Intercepted) -> Event {
    Event {
        rule: query.rule as u32,
        l3_offset: query.l3_offset as u16,
        is_answered: query.is_answered,
        vlan: query.vlan.map(|tag| Tag {
            tpid: tag.tpid,
            tci: tag.tci,
        }),
        frame: query.frame.clone(),
    }
}

/// Waits until `done` holds.
///
/// # Panics
/// When it does not within ten seconds, far more than it takes.
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "{what}: never");
        std::thread::sleep(Duration::from_millis(1));
    }
}
