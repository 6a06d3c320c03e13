//! Reads intercepted queries from the ring buffer.

use std::{io, mem::size_of, sync::Arc, time::Duration};

use aya::maps::{MapData, RingBuf};
use dns_common::{
    abi::{EventHeader, IS_ANSWERED, MAX_FRAME},
    packet::VlanTag,
};
use tokio::io::unix::AsyncFd;

use super::{
    Answers, Intercepted,
    clients::Clients,
    journal::{Filled, Journal, Opened},
    other_version::OtherRing,
    reinjections::Reinjections,
    rule_sets::RuleSets,
};
use crate::{
    model::Client,
    monitor::Exchange,
    rules::{Rule, RuleSet},
};

/// How long [`Ring::next`] waits before it returns without a query, so that its caller can renew the heartbeat.
const IDLE: Duration = Duration::from_millis(250);
/// The same while there are rings that do not wake it.
const IDLE_WITH_OTHERS: Duration = Duration::from_millis(5);
/// Most queries of one turn. The heartbeat is renewed between turns: on a node whose processors are busy, a turn of a few
/// hundred replies took longer than the programs wait for it.
const BATCH: usize = 64;

/// The queries that the programs hand over.
pub struct Ring {
    buffer: AsyncFd<RingBuf<MapData>>,
    rules: Arc<RuleSets>,
    clients: Arc<Clients>,
    answers: Arc<Answers>,
    reinjections: Arc<Reinjections>,
    journal: Opened,
    /// Until their programs are detached.
    others: Vec<OtherRing>,
}

impl Ring {
    pub(super) fn new(
        buffer: RingBuf<MapData>,
        rules: Arc<RuleSets>,
        clients: Arc<Clients>,
        answers: Arc<Answers>,
        reinjections: Arc<Reinjections>,
        journal: Opened,
        others: Vec<OtherRing>,
    ) -> io::Result<Self> {
        // SAFETY: the ring buffer owns its descriptor, keeps it open as long as it lives, and always returns the same.
        let buffer = unsafe { AsyncFd::register(buffer) }?;
        Ok(Self {
            buffer,
            rules,
            clients,
            answers,
            reinjections,
            journal,
            others,
        })
    }

    /// Appends what is there, at most 64 queries; waits for the first for at most 250 ms.
    pub async fn next(&mut self, out: &mut Vec<Intercepted>) -> io::Result<()> {
        for other in &self.others {
            other.renew();
        }
        if self.drain(out) > 0 {
            // The ring may hold more: let others run, then come back without waiting.
            tokio::task::yield_now().await;
            return Ok(());
        }
        if let Ok(ready) = tokio::time::timeout(self.idle(), self.buffer.readable_mut()).await {
            ready?.clear_ready();
            self.drain(out);
        }
        Ok(())
    }

    fn idle(&self) -> Duration {
        if self.others.is_empty() {
            IDLE
        } else {
            IDLE_WITH_OTHERS
        }
    }

    fn drain_others(&mut self, out: &mut Vec<Intercepted>) -> usize {
        let Self {
            rules,
            clients,
            answers,
            reinjections,
            others,
            ..
        } = self;
        let before = out.len();
        others.retain_mut(|other| {
            other.take(BATCH, |record| {
                out.extend(decode(record, rules, clients, answers, reinjections));
            })
        });
        out.len() - before
    }

    /// Takes what is there without waiting; returns how many records there were.
    pub fn drain(&mut self, out: &mut Vec<Intercepted>) -> usize {
        let mut records = self.journal.left.len().min(BATCH);
        for record in self.journal.left.drain(..records) {
            out.extend(decode(
                &record,
                &self.rules,
                &self.clients,
                &self.answers,
                &self.reinjections,
            ));
        }
        records += self.drain_others(out);
        while records < BATCH {
            let Some(record) = self.buffer.get_mut().next() else {
                break;
            };
            records += 1;
            match decode(
                &record,
                &self.rules,
                &self.clients,
                &self.answers,
                &self.reinjections,
            ) {
                Some(mut query) => {
                    let filled = fill(self.journal.journal.as_ref(), &record, &query);
                    drop(record);
                    query.held = filled.map(Filled::hold);
                    out.push(query);
                }
                None => tracing::error!(bytes = record.len(), "ring record not understood"),
            }
        }
        records
    }
}

/// A slot of the journal for a query, unless the program has given the pod its answer already.
fn fill(journal: Option<&Arc<Journal>>, record: &[u8], query: &Intercepted) -> Option<Filled> {
    let journal = journal.filter(|_| !query.is_answered)?;
    let len = size_of::<EventHeader>() + query.frame.len();
    journal.fill(record.get(..len)?)
}

fn decode(
    record: &[u8],
    sets: &RuleSets,
    clients: &Clients,
    answers: &Arc<Answers>,
    reinjections: &Reinjections,
) -> Option<Intercepted> {
    let (header, frame) = record.split_at_checked(size_of::<EventHeader>())?;
    // SAFETY: `header` has the size of an EventHeader, which any bytes are.
    let header = unsafe { header.as_ptr().cast::<EventHeader>().read_unaligned() };
    let len = usize::from(header.frame_len);
    if len > MAX_FRAME {
        return None;
    }
    let frame = frame.get(..len)?;
    let mut known = match header.client {
        0 => None,
        id => clients.known(id).map(|known| (id, known.client)),
    };
    let client = known.as_ref().map(|(_, client)| &**client);
    let (mut rules, mut rule) = sets
        .find(header.rule)
        .unwrap_or_else(|| match_again(frame, sets, client));
    if header.client == 0 && rules.rules().get(rule).is_some_and(Rule::asks_who) {
        // A program of before has handed it over, whose rules did not ask.
        known = asked_by(frame, header.ifindex, clients);
        let client = known.as_ref().map(|(_, client)| &**client);
        (rules, rule) = match_again(frame, sets, client);
    }
    if header.client != 0 && known.is_none() {
        // Whoever has asked is not known any more: the query passes.
        rule = usize::MAX;
    }
    Some(Intercepted {
        ifindex: header.ifindex,
        rule,
        rules,
        client: known,
        answers: answers.clone(),
        is_answered: header.flags & IS_ANSWERED != 0,
        held: None,
        vlan: (header.vlan_tpid != 0).then_some(VlanTag {
            tci: header.vlan_tci,
            tpid: header.vlan_tpid,
        }),
        reinjection: reinjections.reinjection(header.ifindex),
        l3_offset: usize::from(header.l3_offset),
        frame: frame.to_vec(),
    })
}

/// Who asks, by the interface and the source address of a query, as the programs look for it.
fn asked_by(frame: &[u8], ifindex: u32, clients: &Clients) -> Option<(u32, Arc<Client>)> {
    let source = Exchange::parse(frame)?.client.ip();
    clients.asking(ifindex, source)
}

/// A query for an earlier process, under rules that may have changed: the rule that matches it now, or an index out of range
/// where none does.
fn match_again(frame: &[u8], sets: &RuleSets, client: Option<&Client>) -> (Arc<RuleSet>, usize) {
    let rules = sets.current();
    let found = |exchange: Exchange| match client {
        Some(client) => rules.find(&exchange.qname, Some(client)),
        None => rules.find_for_anybody(&exchange.qname),
    };
    let rule = Exchange::parse(frame).and_then(found);
    (rules, rule.unwrap_or(usize::MAX))
}
