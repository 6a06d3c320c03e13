//! Looks from time to time for Services of tenants whose namespace no rule is for, which then get an Event.

use std::{sync::Arc, time::Duration};

use crate::{
    rules::RuleSet,
    sources::{ClusterDomain, Reporter},
};

/// How often. At most one Event is sent each time.
const LOOK: Duration = Duration::from_secs(5);

/// Looks for as long as it is polled.
pub async fn look(reporter: Arc<Reporter>, rules: Arc<RuleSet>, domain: ClusterDomain) {
    let suffix = domain.suffix();
    loop {
        tokio::time::sleep(LOOK).await;
        reporter.look_for_denied(|subject| {
            let rule = rules.leave_out(&subject.name, &subject.namespace, &suffix)?;
            Some(rule.name().to_owned())
        });
    }
}
