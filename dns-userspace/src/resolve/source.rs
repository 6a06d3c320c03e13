//! Where the answer for a target comes from: a trait, and the chase through the existing cache as its one implementation.

use std::{
    future::Future,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use super::{
    chain::{Failure, Outcome},
    chase::Chase,
    upstream::{self, Pool, RetryPolicy, RetryReason, UpstreamReply},
};
use crate::model::{Known, Targets, Transport};

/// Tries within the time of one chase.
const TRIES: u32 = 4;

/// Looks targets up.
pub trait TargetSource: Send + Sync + 'static {
    /// Looks `qtype` of `target` up, to the end of its chain. Ends within a bounded time. `has_address` when an address of the
    /// other family is cached, so that none has to be looked for.
    fn look_up(
        &self,
        target: &Name,
        qtype: RecordType,
        upstream: SocketAddr,
        has_address: bool,
    ) -> impl Future<Output = Outcome> + Send;
}

/// The DNS chase.
#[derive(Clone, Debug)]
pub struct DnsSource {
    timeout: Duration,
    pool: Arc<Pool>,
    targets: Option<Arc<dyn Targets>>,
}

impl DnsSource {
    /// `timeout` bounds a whole chase.
    pub fn new(timeout: Duration) -> DnsSource {
        DnsSource {
            timeout,
            pool: Arc::new(Pool::for_this_process()),
            targets: None,
        }
    }

    /// What is known of a target goes before what DNS says of it.
    pub fn with_targets(self, targets: Arc<dyn Targets>) -> DnsSource {
        DnsSource {
            targets: Some(targets),
            ..self
        }
    }

    fn known(&self, target: &Name) -> Known {
        self.targets
            .as_ref()
            .map_or(Known::Nothing, |targets| targets.find(target))
    }

    async fn chase(
        &self,
        target: &Name,
        qtype: RecordType,
        server: SocketAddr,
        has_address: bool,
        known: Known,
        mut steps: Option<&mut Vec<Step>>,
    ) -> Outcome {
        let policy = RetryPolicy {
            deadline: Instant::now() + self.timeout,
            retry_after: self.timeout / TRIES,
        };
        let mut chase = match Chase::of_known(target.clone(), known, qtype, has_address) {
            Ok(chase) => chase,
            Err(outcome) => return outcome,
        };
        loop {
            let asked_at = Instant::now();
            let (name, qtype) = chase.next_question();
            let name = name.clone();
            let result = upstream::ask(&self.pool, server, &name, qtype, policy).await;
            if let Some(steps) = &mut steps {
                let elapsed = asked_at.elapsed();
                steps.push(Step::new(server, name, qtype, &result, elapsed));
            }
            let reply = result.as_ref().map(|asked| &asked.message);
            if let Some(outcome) = chase.take(reply.map_err(|failure| *failure)) {
                return outcome;
            }
        }
    }
}

impl TargetSource for DnsSource {
    async fn look_up(
        &self,
        target: &Name,
        qtype: RecordType,
        upstream: SocketAddr,
        has_address: bool,
    ) -> Outcome {
        let known = self.known(target);
        self.chase(target, qtype, upstream, has_address, known, None)
            .await
    }
}

/// One question of a chase, for people.
#[derive(Clone, Debug)]
pub struct Step {
    pub server: SocketAddr,
    pub name: Name,
    pub qtype: RecordType,
    pub elapsed: Duration,
    pub reply: Result<StepReply, Failure>,
}

/// The reply.
#[derive(Clone, Debug)]
pub struct StepReply {
    pub transport: Transport,
    pub rcode: ResponseCode,
    /// The answer section in presentation format.
    pub records: Vec<String>,
    /// Why the question was asked more than once.
    pub retries: Vec<RetryReason>,
}

impl Step {
    fn new(
        server: SocketAddr,
        name: Name,
        qtype: RecordType,
        result: &Result<UpstreamReply, Failure>,
        elapsed: Duration,
    ) -> Step {
        let reply = match result {
            Ok(asked) => Ok(StepReply {
                transport: asked.transport,
                rcode: asked.message.metadata.response_code,
                records: asked
                    .message
                    .answers
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                retries: asked.retries.clone(),
            }),
            Err(failure) => Err(*failure),
        };
        Step {
            server,
            name,
            qtype,
            elapsed,
            reply,
        }
    }
}

/// A chase with all of its questions.
#[derive(Clone, Debug)]
pub struct Explanation {
    pub steps: Vec<Step>,
    pub outcome: Outcome,
}

/// Chases a target now, for `gregor explain`.
pub async fn explain(
    target: &Name,
    qtype: RecordType,
    server: SocketAddr,
    timeout: Duration,
) -> Explanation {
    explain_known(target, Known::Nothing, qtype, server, timeout).await
}

/// The same for a target of which another source than DNS says this.
pub async fn explain_known(
    target: &Name,
    known: Known,
    qtype: RecordType,
    server: SocketAddr,
    timeout: Duration,
) -> Explanation {
    let mut steps = Vec::new();
    let outcome = DnsSource::new(timeout)
        .chase(target, qtype, server, false, known, Some(&mut steps))
        .await;
    Explanation { steps, outcome }
}

#[cfg(test)]
mod tests;
