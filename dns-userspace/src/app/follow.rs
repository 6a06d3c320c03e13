//! Forwards the decisions of a program to the monitors, and enables the events of the program while a monitor is connected.

use std::{
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::timeout;

use crate::{
    datapath::{Decided, Decision, Decisions},
    model::Client,
    monitor::{Exchange, Hub, Record, Verdict},
    resolve::PassReason,
    rules::{Protected, RuleSet},
};

/// How long a program reports its decisions after this process last asked for them.
pub const VALID: Duration = Duration::from_secs(3);
/// How often this process asks again.
const RENEW: Duration = Duration::from_secs(1);

/// Runs until the ring fails.
pub async fn follow(mut decisions: Decisions, hub: Arc<Hub>) -> io::Result<()> {
    let mut readers = hub.readers();
    let mut batch = Vec::new();
    let mut left_out = decisions.switch().left_out();
    loop {
        if *readers.borrow_and_update() == 0 {
            decisions.switch().stop();
            if readers.changed().await.is_err() {
                return Ok(());
            }
            // Events from after the last reader left.
            while decisions.drain(&mut batch) > 0 {}
            batch.clear();
            left_out = decisions.switch().left_out();
            continue;
        }
        decisions.switch().listen_for(VALID);
        tokio::select! {
            _ = readers.changed() => {}
            result = timeout(RENEW, decisions.next(&mut batch)) => result.unwrap_or(Ok(()))?,
        }
        for decided in batch.drain(..) {
            let client = decisions.client(decided.ifindex);
            if let Some(record) = record(&decided, &decisions.rules(), client.as_deref()) {
                hub.publish(record);
            }
        }
        let total = decisions.switch().left_out();
        hub.left_out_by_kernel(total.wrapping_sub(std::mem::replace(&mut left_out, total)));
    }
}

/// An event has the frame alone: the rule and the namespace are looked up again.
fn record(decided: &Decided, rules: &RuleSet, client: Option<&Client>) -> Option<Record> {
    let exchange = Exchange::parse(&decided.frame)?;
    let mut record = Record::new(&exchange, SystemTime::now(), decided.ifindex);
    match decided.decision {
        Decision::Answered => record.verdict = Verdict::Kernel,
        Decision::Unanswered => record.verdict = Verdict::Unanswered,
        Decision::Passed(reason) => {
            record.verdict = Verdict::PassedOn;
            record.reason = Some(reason.label().to_owned());
        }
    }
    record.rcode = exchange.rcode_text();
    if let Some((index, protected)) = rules.protection(&exchange.qname, client) {
        record.rule = rules.shown_name(index).map(str::to_owned);
        // The program keeps a client's own target as one that does not exist.
        if matches!(protected, Protected::Own { .. })
            && record.reason.as_deref() == Some(PassReason::NoTarget.label())
        {
            record.reason = Some(PassReason::OwnTarget.label().to_owned());
        }
    }
    let rule = rules
        .find(&exchange.qname, client)
        .and_then(|index| rules.rules().get(index));
    if let Some(rule) = rule {
        record.rule = Some(rule.name().to_owned());
        record.namespace = rule
            .apply(&exchange.qname, client)
            .and_then(|matched| matched.namespace);
    }
    Some(record)
}
