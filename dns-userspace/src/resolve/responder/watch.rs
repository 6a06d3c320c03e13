//! What `gregor monitor` shows of a query.

use std::time::{Instant, SystemTime};

use super::{
    Responder,
    waiting::{Origin, Watched},
};
use crate::{
    inject::Inject,
    model::Transport,
    monitor::{Exchange, Record},
    resolve::{source::TargetSource, stats::Replied},
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
        record.rule = rules.rules().get(rule).map(|rule| rule.name().to_owned());
        Some(Box::new(Watched {
            since: (self.clock)(),
            record,
        }))
    }

    pub(super) fn report_answer(&self, origin: &Origin, rcode: &str, replied: Replied) {
        self.report(origin, |record, since| {
            record.rcode = Some(rcode.to_owned());
            record.stale = replied == Replied::Stale;
            record.latency = Some((self.clock)().saturating_duration_since(since));
        });
    }

    /// Sends the record of a query to the monitors.
    pub(super) fn report(&self, origin: &Origin, outcome: impl FnOnce(&mut Record, Instant)) {
        if let Some(watched) = &origin.watched {
            let mut record = watched.record.clone();
            record.time = SystemTime::now();
            outcome(&mut record, watched.since);
            self.monitor.tell(record);
        }
    }
}
