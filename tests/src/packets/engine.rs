//! The engines: each puts a frame through the pipeline in its own way and reports what became of it.

mod slice;
mod test_run;
mod veth;
mod xdp;

use std::fmt::Write as _;

use dns_common::{
    abi::EventHeader,
    verdict::{Reason, Verdict},
};

pub use slice::Slice;
pub use test_run::TestRun;
pub use veth::Veth;
pub use xdp::Xdp;

use super::{
    build::{Frame, Tag},
    table::{Case, Engines, Expect},
};

/// What became of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It went on; whoever stands behind saw it.
    Passed(Reason),
    /// Userspace got it, and nobody else.
    Taken(Event),
}

/// What userspace gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub rule: u32,
    pub l3_offset: u16,
    /// Tag outside the frame.
    pub vlan: Option<Tag>,
    pub frame: Vec<u8>,
}

impl Event {
    pub fn new(header: &EventHeader, frame: &[u8]) -> Self {
        assert_eq!(usize::from(header.frame_len), frame.len());
        Self {
            rule: header.rule,
            l3_offset: header.l3_offset,
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

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome>;
}

/// What the case expects of this engine.
fn expected(case: &Case, engine: &dyn Engine) -> Outcome {
    let (rule, l3_offset) = match case.expect {
        Expect::Pass(reason) => return Outcome::Passed(reason),
        Expect::Taken { rule, l3_offset } => (rule, l3_offset),
    };
    let mut event = Event {
        rule,
        l3_offset,
        vlan: None,
        frame: case.frame.bytes.clone(),
    };
    if engine.moves_tags() && l3_offset > 14 {
        let tag: Vec<u8> = event.frame.drain(12..16).collect();
        event.l3_offset -= 4;
        event.vlan = Some(Tag {
            tpid: u16::from_be_bytes([tag[0], tag[1]]),
            tci: u16::from_be_bytes([tag[2], tag[3]]),
        });
    }
    Outcome::Taken(event)
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
