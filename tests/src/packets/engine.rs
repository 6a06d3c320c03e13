//! The engines: each runs the pipeline over a frame in its own way and reports the result.

mod slice;
mod test_run;
mod veth;
mod xdp;

use std::{
    fmt::Write as _,
    time::{Duration, Instant},
};

use dns_common::{
    abi::{EventHeader, IS_ANSWERED},
    verdict::{Reason, Verdict},
};

pub use slice::Slice;
pub use test_run::TestRun;
pub use veth::Veth;
pub use xdp::Xdp;

use super::{
    answers::{self, Entry},
    build::{Frame, Tag},
    table::{Case, Engines, Expect},
};

/// The result for a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed: the programs behind saw it.
    Passed(Reason),
    /// Userspace got it, and no other program.
    Taken(Event),
    /// It came back as this frame to its sender alone; userspace may have been asked for a refresh.
    Answered {
        reply: Vec<u8>,
        refresh: Option<Event>,
    },
    /// It was dropped.
    Unanswered,
}

/// What userspace gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub rule: u32,
    pub l3_offset: u16,
    /// The program has answered it already.
    pub is_answered: bool,
    /// Tag outside the frame.
    pub vlan: Option<Tag>,
    pub frame: Vec<u8>,
}

impl Event {
    pub fn new(header: &EventHeader, frame: &[u8]) -> Self {
        assert_eq!(usize::from(header.frame_len), frame.len());
        Self {
            // The ids of tables in memory are the indexes of their rules.
            rule: header.rule as u32,
            l3_offset: header.l3_offset,
            is_answered: header.flags & IS_ANSWERED != 0,
            vlan: (header.vlan_tpid != 0).then_some(Tag {
                tpid: header.vlan_tpid,
                tci: header.vlan_tci,
            }),
            frame: frame.to_vec(),
        }
    }
}

impl Outcome {
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::Passed(reason) => Verdict::Pass(*reason),
            Self::Taken(_) => Verdict::Taken,
            Self::Answered { .. } => Verdict::Answered,
            Self::Unanswered => Verdict::Unanswered,
        }
    }
}

/// A way of putting frames through the pipeline.
pub trait Engine {
    fn name(&self) -> &'static str;

    /// Whether this engine can take the frame.
    fn takes(&self, engines: &Engines) -> bool;

    /// Whether the kernel moves the outer tag out of the frame before the program sees it.
    fn moves_tags(&self) -> bool {
        false
    }

    /// Whether the clock by which answers age goes on while the engine runs.
    fn has_clock(&self) -> bool {
        true
    }

    /// Makes these all entries of the program's tables.
    fn fill(&mut self, entries: &[Entry]) -> anyhow::Result<()>;

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome>;
}

/// What the case expects of this engine.
fn expected(case: &Case, engine: &dyn Engine) -> Outcome {
    match case.expect {
        Expect::Pass(reason) => Outcome::Passed(reason),
        Expect::Taken { rule, l3_offset } => {
            Outcome::Taken(event(rule, l3_offset, &case.frame, engine))
        }
    }
}

/// What userspace gets of this frame by this engine.
fn event(rule: u32, l3_offset: u16, frame: &Frame, engine: &dyn Engine) -> Event {
    let mut event = Event {
        rule,
        l3_offset,
        is_answered: false,
        vlan: None,
        frame: frame.bytes.clone(),
    };
    if engine.moves_tags() && l3_offset > 14 {
        let tag: Vec<u8> = event.frame.drain(12..16).collect();
        event.l3_offset -= 4;
        event.vlan = Some(Tag {
            tpid: u16::from_be_bytes([tag[0], tag[1]]),
            tci: u16::from_be_bytes([tag[2], tag[3]]),
        });
    }
    event
}

/// Puts every case that the engine can take through it; returns how many there were.
///
/// # Panics
/// When the engine does not agree with the table, with every case that it disagrees on.
pub fn agree<'a>(engine: &mut dyn Engine, cases: impl Iterator<Item = &'a Case>) -> usize {
    let mut ran = 0;
    let mut wrong = String::new();
    for case in cases {
        if !engine.takes(&case.engines) {
            continue;
        }
        ran += 1;
        let outcome = engine
            .run(&case.frame)
            .unwrap_or_else(|error| panic!("{}: {}: {error:#}", engine.name(), case.name));
        let expected = expected(case, engine);
        if outcome != expected {
            let _ = writeln!(
                wrong,
                "{}: {}\n  because {}\n  expected {expected:02x?}\n  got      {outcome:02x?}",
                engine.name(),
                case.name,
                case.why,
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    ran
}

/// The same of a program that protects targets: what passes without its name being read does not reach a server, and everything
/// else is as ever. Returns how many frames were kept.
///
/// # Panics
/// With the first case that the engine disagrees on.
pub fn agree_when_closed<'a>(
    engine: &mut dyn Engine,
    cases: impl Iterator<Item = &'a Case>,
) -> usize {
    let mut kept = 0;
    for case in cases {
        if !engine.takes(&case.engines) {
            continue;
        }
        let outcome = engine
            .run(&case.frame)
            .unwrap_or_else(|error| panic!("{}: {}: {error:#}", engine.name(), case.name));
        let verdict = outcome.verdict();
        let is_unanswered = verdict == Verdict::Unanswered;
        kept += usize::from(is_unanswered);
        let is_right = match case.expect {
            Expect::Taken { .. } => verdict == Verdict::Taken,
            Expect::Pass(reason) => match reason {
                Reason::Oversize
                | Reason::Truncated
                | Reason::Opcode
                | Reason::Counts
                | Reason::BadName => is_unanswered,
                // For a server or not.
                Reason::NotDns | Reason::IpOptions | Reason::Fragment => {
                    is_unanswered || verdict == Verdict::Pass(reason)
                }
                // The end of a message does not say that its name is another one.
                Reason::NoRule => is_unanswered || matches!(verdict, Verdict::Pass(_)),
                _ => verdict == Verdict::Pass(reason),
            },
        };
        let (name, expect) = (case.name, case.expect);
        assert!(
            is_right,
            "{}: {name}: {expect:?}, {verdict:?}",
            engine.name()
        );
    }
    kept
}

/// Fills the engine's tables for each case, runs its query, and returns the DNS messages that came back, each with its case.
///
/// # Panics
/// When the engine does not agree with the table, with every case that it disagrees on.
pub fn agree_on_answers<'a>(
    engine: &mut dyn Engine,
    cases: impl Iterator<Item = &'a answers::Case>,
) -> Vec<(&'a answers::Case, Vec<u8>)> {
    let mut replies = Vec::new();
    let mut ran = 0;
    let mut wrong = String::new();
    for case in cases {
        if !engine.takes(&case.engines()) {
            continue;
        }
        ran += 1;
        let started = Instant::now();
        engine
            .fill(&case.cached)
            .unwrap_or_else(|error| panic!("{}: {}: {error:#}", engine.name(), case.name));
        let outcome = engine
            .run(&case.frame())
            .unwrap_or_else(|error| panic!("{}: {}: {error:#}", engine.name(), case.name));
        let elapsed = if engine.has_clock() {
            started.elapsed()
        } else {
            Duration::ZERO
        };
        let wanted = wanted(case, elapsed, engine);
        if !wanted.contains(&outcome) {
            let _ = writeln!(
                wrong,
                "{}: {}\n  because {}\n  expected {:02x?}\n  got      {outcome:02x?}",
                engine.name(),
                case.name,
                case.why,
                wanted[0],
            );
        }
        if let Outcome::Answered { reply, .. } = outcome {
            replies.push((case, case.message_in(&reply).to_vec()));
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    assert!(ran > 500 && replies.len() > 300, "{ran}, {}", replies.len());
    replies
}

/// The possible results for a case's frame.
fn wanted(case: &answers::Case, elapsed: Duration, engine: &dyn Engine) -> Vec<Outcome> {
    let event = event(case.rule as u32, case.l3_offset(), &case.frame(), engine);
    let refresh = match case.expect {
        answers::Expect::NoTarget => return vec![Outcome::Passed(Reason::NoTarget)],
        answers::Expect::Taken => return vec![Outcome::Taken(event)],
        answers::Expect::Answered => None,
        answers::Expect::Refreshed => Some(Event {
            is_answered: true,
            ..event
        }),
    };
    case.replies(elapsed)
        .into_iter()
        .map(|reply| Outcome::Answered {
            reply,
            refresh: refresh.clone(),
        })
        .collect()
}
