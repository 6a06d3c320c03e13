//! Reads the events in which a program reports its own decisions, and enables them.

use std::{io, mem::size_of, sync::Arc, time::Duration};

use aya::{
    Ebpf,
    maps::{MapData, RingBuf},
};
use dns_common::{
    abi::{self, Monitor, SEEN_FRAME, maps},
    verdict::{ANSWERED, Reason, UNANSWERED},
};
use tokio::io::unix::AsyncFd;

use super::{
    DatapathError, clients::Clients, heartbeat::monotonic_ns, mapping::Mapping, rule_sets::RuleSets,
};
use crate::{model::Client, rules::RuleSet};

/// Most events taken in one turn.
const BATCH: usize = 64;

/// A decision of the program itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    Answered,
    /// No reply at all: see [`dns_common::verdict::Verdict::Unanswered`].
    Unanswered,
    Passed(Reason),
}

/// A query that never reached the responder.
#[derive(Clone, Debug)]
pub struct Decided {
    /// Interface that the query came in on.
    pub ifindex: u32,
    pub decision: Decision,
    /// The beginning of the reply where the program has answered, else of the query; its question is whole.
    pub frame: Vec<u8>,
}

/// The switch for the events of one program.
pub struct Switch(Mapping<Monitor>);

impl Switch {
    pub(super) fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let name = maps::MONITOR;
        let map = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
        Mapping::new(map)
            .map(Switch)
            .map_err(|error| DatapathError::Mapping { name, error })
    }

    fn monitor(&self) -> Option<&Monitor> {
        self.0.element(0)
    }

    /// The program reports its decisions for this much longer.
    pub fn listen_for(&self, valid: Duration) {
        if let Some(monitor) = self.monitor() {
            let until = monotonic_ns().saturating_add(valid.as_nanos() as u64);
            monitor.until_ns.store(until);
        }
    }

    /// The program reports nothing from now on.
    pub fn stop(&self) {
        if let Some(monitor) = self.monitor() {
            monitor.until_ns.store(0);
        }
    }

    /// Decisions that were not reported although they were asked for, since the program was loaded; a race may lose some.
    pub fn left_out(&self) -> u64 {
        self.monitor().map_or(0, |monitor| monitor.left_out.load())
    }
}

/// The decisions of one program.
pub struct Decisions {
    buffer: AsyncFd<RingBuf<MapData>>,
    rules: Arc<RuleSets>,
    clients: Arc<Clients>,
    switch: Arc<Switch>,
}

impl Decisions {
    pub(super) fn open(
        buffer: RingBuf<MapData>,
        rules: Arc<RuleSets>,
        clients: Arc<Clients>,
        switch: Arc<Switch>,
    ) -> Result<Self, DatapathError> {
        // SAFETY: the ring buffer owns its descriptor, keeps it open as long as it lives, and always returns the same.
        let buffer = unsafe { AsyncFd::register(buffer) }.map_err(|error| DatapathError::Ring {
            name: maps::MONITOR_RING,
            error: error.into(),
        })?;
        Ok(Self {
            buffer,
            rules,
            clients,
            switch,
        })
    }

    /// The rule set in force.
    pub fn rules(&self) -> Arc<RuleSet> {
        self.rules.current()
    }

    /// Who is behind an interface now.
    pub fn client(&self, ifindex: u32) -> Option<Arc<Client>> {
        self.clients.behind(ifindex).map(|(_, client)| client)
    }

    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Appends what is there, at most 64 decisions; waits for the first.
    pub async fn next(&mut self, out: &mut Vec<Decided>) -> io::Result<()> {
        while self.drain(out) == 0 {
            self.buffer.readable_mut().await?.clear_ready();
        }
        Ok(())
    }

    /// Takes what is there without waiting; returns how many records there were.
    pub fn drain(&mut self, out: &mut Vec<Decided>) -> usize {
        let mut records = 0;
        while records < BATCH {
            let Some(record) = self.buffer.get_mut().next() else {
                break;
            };
            records += 1;
            match decode(&record) {
                Some(decided) => out.push(decided),
                None => tracing::error!(bytes = record.len(), "event not understood"),
            }
        }
        records
    }
}

fn decode(record: &[u8]) -> Option<Decided> {
    let record = record.get(..size_of::<abi::Seen>())?;
    // SAFETY: `record` has the size of a `Seen`, which any bytes are.
    let seen = unsafe { record.as_ptr().cast::<abi::Seen>().read_unaligned() };
    if seen.failed != 0 {
        return None;
    }
    let decision = match seen.verdict as usize {
        ANSWERED => Decision::Answered,
        UNANSWERED => Decision::Unanswered,
        reason => Decision::Passed(*Reason::ALL.get(reason)?),
    };
    Some(Decided {
        ifindex: seen.ifindex,
        decision,
        frame: seen
            .frame
            .get(..(seen.len as usize).min(SEEN_FRAME))?
            .to_vec(),
    })
}
