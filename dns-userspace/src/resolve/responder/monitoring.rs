//! The record of a query for `gregor monitor`.

use std::time::{Instant, SystemTime};

use super::{
    Responder,
    client::{Client, Watched},
};
use crate::{
    inject::Inject,
    model::Transport,
    monitor::{Exchange, Record},
    resolve::source::TargetSource,
    rules::RuleSet,
};

impl<S: TargetSource, I: Inject> Responder<S, I> {
    /// Begins the record of a query; costs nothing without a monitor.
    pub(super) fn watch(
        &self,
        rules: &RuleSet,
        rule: usize,
        exchange: impl FnOnce() -> Option<(Exchange, Transport, u32)>,
    ) -> Option<Box<Watched>> {
        if !self.monitor.is_watched() {
            return None;
        }
        let (exchange, transport, ifindex) = exchange()?;
        let mut record = Record::new(&exchange, SystemTime::now(), ifindex);
        record.transport = transport;
        record.rule = rules.shown_name(rule).map(str::to_owned);
        Some(Box::new(Watched {
            since: (self.clock)(),
            record,
        }))
    }

    pub(super) fn report_answer(&self, client: &Client, rcode: &str, is_stale: bool) {
        self.report(client, |record, since| {
            record.rcode = Some(rcode.to_owned());
            record.stale = is_stale;
            record.latency = Some((self.clock)().saturating_duration_since(since));
        });
    }

    /// Sends the record of a query to the monitors.
    pub(super) fn report(&self, client: &Client, outcome: impl FnOnce(&mut Record, Instant)) {
        if let Some(watched) = &client.watched {
            let mut record = watched.record.clone();
            record.time = SystemTime::now();
            outcome(&mut record, watched.since);
            self.monitor.publish(record);
        }
    }
}
