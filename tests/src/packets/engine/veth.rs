//! The program attached to the host end of a veth, with an observer behind it.

use std::sync::Arc;

use anyhow::Context as _;
use dns_common::verdict::{ANSWERED, SPOILED, TAKEN, UNANSWERED};
use gregor::datapath::{Hook, LoadOptions};

use super::{Engine, Outcome};
use crate::packets::{
    answers::Entry,
    build::Frame,
    loaded::{Loaded, compile, options, wait_until},
    observer::{Observer, Place, Seen},
    table::{self, Engines, Rule},
    wire::{Receiver, Wire},
};

/// The attached program, its wire, and the observers.
pub struct Veth<'a> {
    pub loaded: Loaded,
    wire: &'a Wire,
    /// At the pod's end.
    receiver: Receiver,
    /// The first of them is next on our hook; all are behind the program.
    observers: Vec<Observer>,
}

impl<'a> Veth<'a> {
    /// The program first on its hook, and behind it an observer on each hook that comes after.
    pub fn new(wire: &'a Wire, rules: &[Rule], hook: Hook) -> anyhow::Result<Self> {
        Self::with_options(
            wire,
            &LoadOptions {
                hook,
                ..options(compile(rules))
            },
        )
    }

    pub fn with_options(wire: &'a Wire, options: &LoadOptions) -> anyhow::Result<Self> {
        let mut loaded = Loaded::new(options)?;
        loaded.datapath.attach(&wire.interface)?;
        loaded
            .datapath
            .identify(wire.interface.index, Some(Arc::new(table::client())));
        let name = wire.interface.name.as_str();
        let clsact = Observer::attach(name, Place::Clsact { priority: 100 })?;
        let observers = match options.hook {
            Hook::Tcx => vec![Observer::attach(name, Place::Tcx)?, clsact],
            Hook::Clsact | Hook::Xdp => vec![clsact],
        };
        Ok(Self {
            loaded,
            wire,
            receiver: wire.receiver()?,
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

    fn fill(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        self.loaded.fill(entries)
    }

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome> {
        let counters = self.loaded.counters()?;
        let seen = self.seen();
        self.wire.send(frame)?;
        // The last observer is the last to see a frame.
        wait_until("a frame that is taken, answered or passes", || {
            let last = self.observers.last().expect("at least one");
            last.seen().expect("the observer's map").frames > seen[seen.len() - 1].frames || {
                let now = self.loaded.counters().expect("counters");
                [TAKEN, ANSWERED, SPOILED, UNANSWERED]
                    .iter()
                    .any(|&counter| now[counter] > counters[counter])
            }
        });
        let receiver = &mut self.receiver;
        let outcome = self.loaded.outcome(&counters, || {
            let frame = receiver.frame()?.context("a reply that never came")?;
            anyhow::ensure!(!frame.is_partial, "the query had a whole checksum");
            Ok(frame.bytes)
        })?;
        anyhow::ensure!(self.receiver.is_idle()?, "{outcome:?}, and a frame besides");
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
