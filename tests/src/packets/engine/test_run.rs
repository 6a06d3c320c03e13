//! The loaded program under BPF_PROG_TEST_RUN.

use std::sync::Arc;

use anyhow::Context as _;
use gregor::datapath::LoadOptions;

use super::{Engine, Outcome};
use crate::packets::{
    answers::Entry,
    build::Frame,
    loaded::{LOOPBACK, Loaded, compile, options},
    table::{self, Engines, Rule},
};

/// The program, loaded with a set of rules and attached nowhere.
pub struct TestRun(Loaded);

impl TestRun {
    pub fn new(rules: &[Rule]) -> anyhow::Result<Self> {
        Self::with_options(&options(compile(rules)))
    }

    pub fn with_options(options: &LoadOptions) -> anyhow::Result<Self> {
        let mut loaded = Loaded::new(options)?;
        loaded.datapath.allow_interface(LOOPBACK)?;
        loaded
            .datapath
            .identify(LOOPBACK, Some(Arc::new(table::client())));
        Ok(Self(loaded))
    }
}

impl Engine for TestRun {
    fn name(&self) -> &'static str {
        "BPF_PROG_TEST_RUN"
    }

    fn takes(&self, engines: &Engines) -> bool {
        engines.test_run
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
