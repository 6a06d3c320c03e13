//! The program attached to the host end of a veth, with an observer behind it.

use dns_common::verdict::TAKEN;
use gregor::datapath::{Hook, LoadOptions};

use super::{Engine, Outcome};
use crate::packets::{
    build::Frame,
    loaded::{Loaded, compile, options, wait_until},
    observer::{Observer, Place, Seen},
    table::{Engines, Rule},
    wire::Wire,
};

/// The attached program, its wire, and who else is on the hook.
pub struct Veth<'a> {
    pub loaded: Loaded,
    wire: &'a Wire,
    /// The first of them is next on our hook; all are behind the program.
    observers: Vec<Observer>,
}

impl<'a> Veth<'a> {
    /// The program first on its hook, and behind it an observer on each hook that comes after.
    pub fn new(wire: &'a Wire, rules: &[Rule], hook: Hook) -> anyhow::Result<Self> {
        let mut loaded = Loaded::new(&LoadOptions {
            hook,
            ..options(compile(rules))
        })?;
        loaded.datapath.attach(&wire.interface)?;
        let name = wire.interface.name.as_str();
        let clsact = Observer::attach(name, Place::Clsact { priority: 100 })?;
        let observers = match hook {
            Hook::Tcx => vec![Observer::attach(name, Place::Tcx)?, clsact],
            Hook::Clsact | Hook::Xdp => vec![clsact],
        };
        Ok(Self {
            loaded,
            wire,
            observers,
        })
    }

    fn seen(&self) -> Vec<Seen> {
        self.observers
            .iter()
            .map(|observer| observer.seen().expect("the observer's map"))
            .collect()
    }
}

impl Engine for Veth<'_> {
    fn name(&self) -> &'static str {
        "veth"
    }

    fn takes(&self, engines: &Engines) -> bool {
        engines.veth
    }

    fn moves_tags(&self) -> bool {
        true
    }

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome> {
        let counters = self.loaded.counters()?;
        let seen = self.seen();
        self.wire.send(frame)?;
        // The last observer is the last to see a frame.
        wait_until("a frame that is taken or passes", || {
            let last = self.observers.last().expect("at least one");
            last.seen().expect("the observer's map").frames > seen[seen.len() - 1].frames
                || self.loaded.counters().expect("counters")[TAKEN] > counters[TAKEN]
        });
        let outcome = self.loaded.outcome(&counters)?;
        let now = self.seen();
        let passed = u64::from(matches!(outcome, Outcome::Passed(_)));
        for (now, before) in now.iter().zip(&seen) {
            anyhow::ensure!(
                now.frames - before.frames == passed,
                "{outcome:?}, but behind it {now:?} after {before:?}"
            );
            // A tag is outside the frame there, and not part of its length.
            let tag = if frame.bytes[12..14] == [0x81, 0] || frame.bytes[12..14] == [0x88, 0xa8] {
                4
            } else {
                0
            };
            let len = (frame.bytes.len() - tag) as u64;
            anyhow::ensure!(
                passed == 0 || now.last_len == len,
                "{len} bytes sent, {now:?}"
            );
        }
        Ok(outcome)
    }
}
