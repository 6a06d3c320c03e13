//! The loaded program under BPF_PROG_TEST_RUN.

use anyhow::Context as _;

use super::{Engine, Outcome};
use crate::packets::{
    build::Frame,
    loaded::{LOOPBACK, Loaded, compile, options},
    table::{Engines, Rule},
};

/// The program, loaded with a set of rules and attached nowhere.
pub struct TestRun(Loaded);

impl TestRun {
    pub fn new(rules: &[Rule]) -> anyhow::Result<Self> {
        let mut loaded = Loaded::new(&options(compile(rules)))?;
        loaded.datapath.allow_interface(LOOPBACK)?;
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

    fn run(&mut self, frame: &Frame) -> anyhow::Result<Outcome> {
        self.0
            .test_run(&frame.bytes)
            .with_context(|| format!("{} bytes", frame.bytes.len()))
    }
}
