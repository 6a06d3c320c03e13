//! The programs that gregor is measured against, loaded: see `tests/ebpf`.

use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::{
    Ebpf, TestRun as _, TestRunOptions,
    maps::{MapData, PerCpuArray},
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        tc::{SchedClassifierLink, TcAttachOptions},
    },
};

use super::load::replies::Counter;

/// A program on a hook, for as long as this lives.
pub struct Attached {
    _link: SchedClassifierLink,
}

/// All of them.
pub struct Limits {
    ebpf: Ebpf,
    taken: PerCpuArray<MapData, u64>,
}

impl Limits {
    pub fn load() -> Result<Self> {
        let mut ebpf = Ebpf::load(gregor_tests::PROGRAMS)?;
        for name in [
            "empty",
            "discard",
            "reflect",
            "reflect_whole",
            "reflect_undo",
            "reflect_whole_undo",
            "undo",
            "receive",
        ] {
            program(&mut ebpf, name)?.load()?;
        }
        let taken = ebpf.take_map("TAKEN").context("no map TAKEN")?.try_into()?;
        Ok(Self { ebpf, taken })
    }

    /// Mean time of one run of a program over a frame, after making sure that each run of one which counts did so.
    pub fn time(&mut self, name: &str, frame: &[u8], repeat: u32) -> Result<Duration> {
        let before = self.taken()?;
        let outcome = program(&mut self.ebpf, name)?.test_run(TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::new()
        })?;
        let counted = self.taken()? - before;
        let expected = if name == "empty" {
            0
        } else {
            u64::from(repeat)
        };
        anyhow::ensure!(
            counted == expected,
            "{name} counted {counted} of {repeat} runs"
        );
        Ok(outcome.duration)
    }

    /// Attaches a program to the ingress of an interface of the calling thread's namespace, first on its hook. It stays
    /// there until what is returned is dropped.
    pub fn attach(&mut self, name: &str, interface: &str) -> Result<Attached> {
        let program = program(&mut self.ebpf, name)?;
        let link = program
            .attach_with_options(
                interface,
                TcAttachType::Ingress,
                TcAttachOptions::TcxOrder(LinkOrder::first()),
            )
            .with_context(|| format!("attaching {name} to {interface}"))?;
        Ok(Attached {
            _link: program.take_link(link)?,
        })
    }

    /// The counters of the program `receive`.
    pub fn replies(&mut self) -> Result<Counter> {
        let map = self.ebpf.take_map("RECEIVED");
        Ok(Counter::new(map.context("no map RECEIVED")?.try_into()?))
    }

    fn taken(&self) -> Result<u64> {
        Ok(self.taken.get(&0, 0)?.iter().sum())
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut SchedClassifier> {
    Ok(ebpf
        .program_mut(name)
        .with_context(|| format!("no program {name}"))?
        .try_into()?)
}
