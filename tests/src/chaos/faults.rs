//! Injects the faults of a chaos run, and records when.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{Arc, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use gregor::datapath::{Hook, STATE, programs_on};
use nix::sys::signal::Signal;
use rand::{RngExt as _, rngs::StdRng};

use super::{
    judge::{Event, Fault, Round},
    load::{self, Load, Seen, Shared},
    memory::Group,
};
use crate::{
    agent::{detach_by_force, pinned_links},
    lab::{Gregor, Lab, patience},
    other::Other,
    tools,
};

/// How long a process is stopped.
const STOPPED: Duration = Duration::from_secs(3);
/// How long the existing cache is stopped.
const CACHE_AWAY: Duration = Duration::from_secs(1);
/// Pods that come and go at once.
const CHURN: usize = 3;
/// Far more than anything takes on a working machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The log line of a gregor that serves.
const READY: &str = "gregor::app: ready";
/// The log line of one that waits for its predecessor's end.
const STANDBY: &str = "ready to take over";

/// A planted fault, to see whether it is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Plant {
    /// Nothing outlives the process: each has a state directory of its own, which is removed with it
    Pins,
    /// The responder is stopped from the start: the deadline of the programs is not renewed
    Heartbeat,
}

/// Of a run.
#[derive(Clone, Debug)]
pub struct Settings {
    pub hook: Hook,
    /// Queries per second of each pod.
    pub rate: u32,
    /// How long no process runs after a kill.
    pub absence: Duration,
    pub plant: Option<Plant>,
    /// What will be injected.
    pub faults: Vec<Fault>,
}

/// The one gregor of a run, its lab, and the rounds so far.
pub struct Driver<'a> {
    lab: &'a mut Lab,
    /// This version's.
    own: PathBuf,
    /// What runs.
    binary: PathBuf,
    others: Vec<(Fault, Result<PathBuf>)>,
    config: String,
    settings: Settings,
    shared: Arc<Shared>,
    random: StdRng,
    gregor: Gregor,
    /// gregors that were started.
    started: usize,
    /// Pods that came for a while.
    guests: usize,
    /// Whether the configuration in force has the second rule.
    has_more: bool,
    memory: Result<Group>,
    pub rounds: Vec<Round>,
    /// By pods that were removed.
    pub seen: Seen,
}

impl<'a> Driver<'a> {
    /// Starts the first gregor; everything until the first fault is a quiet round.
    pub fn start(
        lab: &'a mut Lab,
        settings: Settings,
        shared: Arc<Shared>,
        random: StdRng,
    ) -> Result<Self> {
        let binary = tools::gregor()?;
        let others = [
            (Fault::OtherAbi, Other::Abi),
            (Fault::OtherLayout, Other::Layout),
        ]
        .into_iter()
        .filter(|(fault, _)| settings.faults.contains(fault))
        .map(|(fault, other)| (fault, other.binary()))
        .collect();
        let config = config(lab, settings.hook);
        let memory = Group::make(lab.name());
        let gregor = spawn(lab, &binary, &config, settings.plant, 0)?;
        wait_for_log(&gregor, READY)?;
        Ok(Self {
            lab,
            own: binary.clone(),
            binary,
            others,
            config,
            settings,
            shared,
            random,
            gregor,
            started: 0,
            guests: 0,
            has_more: false,
            memory,
            rounds: vec![round(Fault::Quiet)],
            seen: Seen::default(),
        })
    }

    pub fn lab(&self) -> &Lab {
        self.lab
    }

    /// Why a fault cannot be injected on this machine.
    pub fn cannot(&self, fault: Fault) -> Option<String> {
        match (&self.memory, fault) {
            (Err(error), Fault::OutOfMemory) => Some(format!("{error:#}")),
            _ => {
                let other = self.others.iter().find(|(of, _)| *of == fault);
                let error = other.and_then(|(_, binary)| binary.as_ref().err())?;
                Some(format!("{error:#}"))
            }
        }
    }

    /// One round, at the end of which gregor serves again.
    pub fn round(&mut self, fault: Fault) -> Result<()> {
        self.rounds.push(round(fault));
        self.shared
            .round
            .store(self.rounds.len() - 1, Ordering::Relaxed);
        if self.settings.plant != Some(Plant::Heartbeat) && self.random.random() {
            // The next fault meets a reload in progress.
            self.change_config()?;
            self.pause(60);
        }
        self.inflict(fault)
            .with_context(|| format!("{}, {}", fault.name(), self.log_tail()))?;
        if self.settings.plant != Some(Plant::Heartbeat) {
            self.is_served()?;
        }
        self.pause(400);
        Ok(())
    }

    fn inflict(&mut self, fault: Fault) -> Result<()> {
        match fault {
            Fault::Quiet => thread::sleep(Duration::from_secs(3)),
            Fault::Upgrade => self.upgrade()?,
            Fault::OtherAbi | Fault::OtherLayout => self.upgrade_and_back(fault)?,
            Fault::Kill => self.kill(Duration::ZERO)?,
            Fault::Absence => self.kill(self.settings.absence)?,
            Fault::Stop => {
                let at = self.shared.clock.elapsed();
                self.gregor.signal(Signal::SIGSTOP);
                thread::sleep(STOPPED);
                let until = self.shared.clock.elapsed();
                self.gregor.signal(Signal::SIGCONT);
                self.note(Event::Stopped { at, until });
            }
            Fault::OutOfMemory => self.run_out_of_memory()?,
            Fault::Reload => self.reload()?,
            Fault::Churn => self.churn()?,
            Fault::Purge => self.purge()?,
            Fault::Cache => self.restart_cache()?,
        }
        Ok(())
    }

    /// The responder is stopped for the rest of the run.
    pub fn stop_for_good(&self) {
        self.gregor.signal(Signal::SIGSTOP);
    }

    /// Ends gregor.
    pub fn end(&self) {
        self.gregor.signal(Signal::SIGKILL);
    }

    fn note(&mut self, event: Event) {
        if let Some(round) = self.rounds.last_mut() {
            round.events.push(event);
        }
    }

    fn pause(&mut self, most_milliseconds: u64) {
        let milliseconds = self.random.random_range(0..=most_milliseconds);
        thread::sleep(Duration::from_millis(milliseconds));
    }

    /// The end of the log, for a report.
    fn log_tail(&self) -> String {
        let log = self.gregor.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(15);
        format!("the log ends with:\n{}", lines[from..].join("\n"))
    }

    fn is_served(&self) -> Result<()> {
        let pod = self.lab.pods().next().context("no pod")?;
        load::served(pod, &self.shared)
    }

    fn spawn(&mut self) -> Result<Gregor> {
        self.started += 1;
        self.has_more = false;
        spawn(
            self.lab,
            &self.binary,
            &self.config,
            self.settings.plant,
            self.started,
        )
    }

    /// To another version and back.
    fn upgrade_and_back(&mut self, fault: Fault) -> Result<()> {
        let other = self.others.iter().find(|(of, _)| *of == fault);
        self.binary = match other {
            Some((_, Ok(binary))) => binary.clone(),
            Some((_, Err(error))) => bail!("{error:#}"),
            None => bail!("no binary of another version"),
        };
        let keeps_answers = fault != Fault::OtherLayout;
        self.upgrade()?;
        self.note_tables(keeps_answers);
        self.is_served()?;
        self.pause(400);
        self.binary = self.own.clone();
        self.upgrade()?;
        self.note_tables(keeps_answers);
        Ok(())
    }

    /// What was answered before an upgrade that keeps no answers is known again once it has been asked for again.
    fn note_tables(&self, keeps_answers: bool) {
        if !keeps_answers {
            self.shared.tables_are_new();
        }
    }

    fn upgrade(&mut self) -> Result<()> {
        let next = self.spawn()?;
        match self.settings.plant {
            None => wait_for_log(&next, STANDBY)?,
            Some(_) => wait_for_log(&next, READY)?,
        }
        self.pause(100);
        let asked = self.shared.clock.elapsed();
        self.gregor.signal(Signal::SIGTERM);
        let status = until("the predecessor ends", || {
            Ok(self.gregor.process().exited())
        })?;
        let ended = self.shared.clock.elapsed();
        if !status.success() {
            bail!("the predecessor ended with {status}");
        }
        wait_for_log(&next, READY)?;
        let served = self.shared.clock.elapsed();
        self.note(Event::Replaced {
            asked,
            ended,
            served,
        });
        let before = self.started - 1;
        self.gregor = next;
        self.forget_state(before)
    }

    fn kill(&mut self, absence: Duration) -> Result<()> {
        self.gregor.signal(Signal::SIGKILL);
        self.succeed(absence)
    }

    fn run_out_of_memory(&mut self) -> Result<()> {
        match &self.memory {
            Ok(group) => group.kill(self.gregor.process())?,
            Err(error) => bail!("{error:#}"),
        }
        self.succeed(Duration::ZERO)
    }

    /// Starts the next one when this one has ended.
    fn succeed(&mut self, after: Duration) -> Result<()> {
        until("gregor ends", || Ok(self.gregor.process().exited()))?;
        let at = self.shared.clock.elapsed();
        self.forget_state(self.started)?;
        thread::sleep(after);
        self.gregor = self.spawn()?;
        wait_for_log(&self.gregor, READY)?;
        let served = self.shared.clock.elapsed();
        self.note(Event::Died { at, served });
        Ok(())
    }

    /// Where pins are left out, what a process has pinned goes with it.
    fn forget_state(&self, number: usize) -> Result<()> {
        if self.settings.plant == Some(Plant::Pins) {
            let directory = state(number);
            let remove = move || fs::remove_dir_all(directory);
            // One that ended in order may have removed it.
            let _ = self.lab.node().enter(remove)?;
        }
        Ok(())
    }

    /// Replaces the configuration by one with another rule beside that of the load, or without.
    fn change_config(&mut self) -> Result<()> {
        self.has_more = !self.has_more;
        let more = if self.has_more { MORE } else { "" };
        self.gregor.write_config(&format!("{}{more}", self.config))
    }

    fn reload(&mut self) -> Result<()> {
        const DONE: &str = "the new configuration is in force";
        for _ in 0..3 {
            let count = |gregor: &Gregor| gregor.log().matches(DONE).count();
            let before = count(&self.gregor);
            self.change_config()?;
            // Where the file changed just before, it may be what it was again.
            self.gregor.signal(Signal::SIGHUP);
            until("a reload", || {
                Ok((count(&self.gregor) > before).then_some(()))
            })?;
        }
        Ok(())
    }

    fn guest(&mut self) -> String {
        self.guests += 1;
        format!("guest{}", self.guests)
    }

    fn churn(&mut self) -> Result<()> {
        let names: Vec<String> = (0..CHURN).map(|_| self.guest()).collect();
        for name in &names {
            self.lab.add_pod(name)?;
        }
        for name in &names {
            load::served(self.lab.pod(name), &self.shared)?;
        }
        for name in &names {
            self.lab.remove_pod(name)?;
        }
        Ok(())
    }

    /// A pod of its own each time: where a program is detached repeatedly, gregor waits longer and longer.
    fn purge(&mut self) -> Result<()> {
        let name = self.guest();
        self.lab.add_pod(&name)?;
        let pod = self.lab.pod(&name);
        let interface = pod.host_interface.clone();
        let load = Load::start(pod, &self.shared, self.settings.rate)?;
        until("the program is on the hook", || {
            self.is_attached(&interface).map(|is| is.then_some(()))
        })?;
        self.remove_program(&interface)?;
        let at = self.shared.clock.elapsed();
        self.note(Event::Purged {
            pod: name.clone(),
            at,
        });
        until("the program is back", || {
            self.is_attached(&interface).map(|is| is.then_some(()))
        })?;
        load::served(self.lab.pod(&name), &self.shared)?;
        thread::sleep(Duration::from_millis(500));
        self.seen.add(load.finish()?);
        self.lab.remove_pod(&name)
    }

    fn remove_program(&self, interface: &str) -> Result<()> {
        if self.settings.hook == Hook::Clsact {
            return self
                .tc(&["qdisc", "del", "dev", interface, "clsact"])
                .map(|_| ());
        }
        let interface = interface.to_owned();
        let force = move || -> Result<()> {
            let index = nix::net::if_::if_nametoindex(interface.as_str())?;
            let suffix = format!("-{index}");
            let links = pinned_links(Path::new(STATE))?;
            let link = links
                .iter()
                .find(|link| link.to_string_lossy().ends_with(&suffix));
            let link = link.context("no pinned link")?;
            Ok(detach_by_force(link)?)
        };
        self.lab.node().enter(force)?
    }

    fn is_attached(&self, interface: &str) -> Result<bool> {
        if self.settings.hook == Hook::Clsact {
            let filters = self.tc(&["filter", "show", "dev", interface, "ingress"])?;
            return Ok(filters.contains("gregor"));
        }
        let interface = interface.to_owned();
        let programs = self.lab.node().enter(move || programs_on(&interface))??;
        Ok(programs.iter().any(|name| name == "gregor"))
    }

    fn tc(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("tc");
        command.args(arguments);
        let output = self.lab.node().output(command)?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("tc {}: {}", arguments.join(" "), error.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn restart_cache(&mut self) -> Result<()> {
        let from = self.shared.clock.elapsed();
        self.lab.stop_cache();
        thread::sleep(CACHE_AWAY);
        self.lab.start_cache()?;
        let until = self.shared.clock.elapsed();
        self.note(Event::CacheAway { from, until });
        Ok(())
    }
}

fn round(fault: Fault) -> Round {
    Round {
        fault,
        events: Vec::new(),
    }
}

/// A rule that the load does not use.
const MORE: &str = "
[[rule]]
name  = \"more\"
match = \"db.internal.example\"
cname = \"w1.example.com\"
ttl   = 60
";

/// Answers live for a second, so that nothing stays cached by luck. The limits allow for what a pod asks for within some
/// seconds.
fn config(lab: &Lab, hook: Hook) -> String {
    let hook = match hook {
        Hook::Tcx => "tcx",
        Hook::Clsact => "clsact",
        Hook::Xdp => "xdp",
    };
    let config = lab
        .gregor_config()
        .replace("ttl   = 60", "ttl   = 1")
        .replace(
            "[intercept]\n",
            &format!("[intercept]\nhook = \"{hook}\"\n"),
        );
    format!("{config}\n[limits]\nanswers = 32768\n")
}

fn state(number: usize) -> PathBuf {
    PathBuf::from(format!("{STATE}-{number}"))
}

fn spawn(
    lab: &Lab,
    binary: &Path,
    config: &str,
    plant: Option<Plant>,
    number: usize,
) -> Result<Gregor> {
    let name = format!("gregor-{number}");
    let state = state(number);
    let state = state.to_string_lossy();
    let options: &[&str] = match plant {
        Some(Plant::Pins) => &["--state", &state],
        _ => &[],
    };
    lab.spawn_successor_with(&name, binary, config, options)
}

fn wait_for_log(gregor: &Gregor, text: &str) -> Result<()> {
    until(text, || {
        if let Some(status) = gregor.process().exited() {
            bail!("gregor ended with {status}:\n{}", gregor.log());
        }
        Ok(gregor.log().contains(text).then_some(()))
    })
}

/// Tries until there is a value.
fn until<T>(what: &str, mut probe: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let limit = patience(PATIENCE);
    let started = Instant::now();
    loop {
        if let Some(value) = probe()? {
            return Ok(value);
        }
        if started.elapsed() > limit {
            bail!("not within {limit:?}: {what}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}
