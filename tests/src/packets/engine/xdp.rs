//! The loaded XDP program under BPF_PROG_TEST_RUN, which takes frames that the TC program is not given there.

use std::sync::Arc;

use anyhow::Context as _;
use gregor::datapath::{Hook, LoadOptions};

use super::{Engine, Outcome};
use crate::packets::{
    answers::Entry,
    build::Frame,
    loaded::{LOOPBACK, Loaded, compile, options},
    table::{self, Engines, Rule},
};

/// The program, loaded with a set of rules and attached nowhere; every source is allowed.
pub struct Xdp(Loaded);

impl Xdp {
    pub fn new(rules: &[Rule]) -> anyhow::Result<Self> {
        Self::with_options(&options(compile(rules)))
    }

    pub fn with_options(options: &LoadOptions) -> anyhow::Result<Self> {
        let mut loaded = Loaded::new(&LoadOptions {
            hook: Hook::Xdp,
            ..options.clone()
        })?;
        loaded.datapath.allow_interface(LOOPBACK)?;
        // The program does not look.
        loaded
            .datapath
            .identify(LOOPBACK, Some(Arc::new(table::client())));
        Ok(Self(loaded))
    }
}

impl Engine for Xdp {
    fn name(&self) -> &'static str {
        "XDP under BPF_PROG_TEST_RUN"
    }

    fn takes(&self, engines: &Engines) -> bool {
        engines.xdp
    }

    fn fill(&mut self, entries: &[Entry]) -> anyhow::Result<()> {
        self.0.fill(entries)
    }

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome> {
        self.0
            .test_run(&frame.bytes)
            .with_context(|| format!("{} bytes", frame.bytes.len()))
    }
}
