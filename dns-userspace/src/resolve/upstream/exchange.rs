//! The exchange for one question: what to send and when, which reply to take, when to try TCP and when to give up; no I/O, no
//! clock.

use std::time::{Duration, Instant};

use hickory_proto::op::Message;

use super::question::{Check, Question};
use crate::{model::Transport, resolve::chain::Failure};

/// Replies that do not match before TCP is tried.
pub(super) const MAX_MISMATCHES: u32 = 4;
/// Tries that go unanswered before the OPT is left out: on some paths only that gets through.
const TRIES_WITH_EDNS: u32 = 2;

/// When to give up, and how often to ask again until then.
#[derive(Clone, Copy, Debug)]
pub struct RetryPolicy {
    pub deadline: Instant,
    pub retry_after: Duration,
}

/// What arrived at the socket of a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// A datagram from the server with the ID of the question.
    Reply(Vec<u8>),
    /// Datagrams from the server's address with an ID that no query of the socket has had.
    Mismatches(u32),
    /// An ICMP error.
    Unreachable,
}

/// The next step.
#[derive(Debug)]
pub enum Next {
    /// Send this over UDP, then call [`Exchange::sent`].
    Send(Vec<u8>),
    /// Ask over TCP until then, then call [`Exchange::tcp_ended`].
    AskTcp(Instant),
    /// Call [`Exchange::received`] when something arrives, or [`Exchange::time`] then.
    Wait(Instant),
    Done(Result<Attempt, Failure>),
}

/// The result of one question.
#[derive(Debug)]
pub enum Attempt {
    Reply {
        message: Box<Message>,
        transport: Transport,
        /// It came once the OPT was left out, and has none itself.
        plain_only: bool,
    },
    /// The server does not take the OPT.
    NoEdns,
    /// The server does not keep the case of the question.
    OtherCase,
}

/// Why TCP is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TcpReason {
    Truncated,
    Mismatches,
}

/// See the module.
#[derive(Debug)]
pub struct Exchange {
    question: Question,
    policy: RetryPolicy,
    next_try: Instant,
    tries: u32,
    mismatches: u32,
    tcp: Option<TcpReason>,
    /// The failure to report when the time is over.
    failure: Failure,
}

impl Exchange {
    /// The first call is [`Exchange::time`].
    pub fn new(question: Question, policy: RetryPolicy, now: Instant) -> Exchange {
        Exchange {
            question,
            policy,
            next_try: now,
            tries: 0,
            mismatches: 0,
            tcp: None,
            failure: Failure::Timeout,
        }
    }

    pub fn question(&self) -> &Question {
        &self.question
    }

    /// A timer has expired.
    pub fn time(&mut self, now: Instant) -> Next {
        if now >= self.policy.deadline {
            return Next::Done(Err(self.failure));
        }
        if now < self.next_try {
            return self.wait();
        }
        self.tries += 1;
        self.next_try = now + self.policy.retry_after.max(Duration::from_millis(1));
        Next::Send(if self.is_plain() {
            self.question.without_edns()
        } else {
            self.question.message().to_vec()
        })
    }

    /// The question was sent, or could not be.
    pub fn sent(&mut self, result: Result<(), Failure>) -> Next {
        match result {
            Ok(()) => {}
            // At once: a cached answer is served, and waiting longer gains the client nothing.
            Err(Failure::Local) => return Next::Done(Err(Failure::Local)),
            Err(failure) => self.failure = failure,
        }
        self.wait()
    }

    /// Something arrived.
    pub fn received(&mut self, received: Received, now: Instant) -> Next {
        let (mismatches, failure) = match received {
            // A server that is just starting may be there for the next try.
            Received::Unreachable => {
                self.failure = Failure::Network;
                return self.wait();
            }
            Received::Reply(reply) => match self.question.check(&reply, Transport::Udp) {
                Check::Reply(message) => {
                    let plain_only =
                        self.is_plain() && self.question.has_edns() && message.edns.is_none();
                    return Next::Done(Ok(Attempt::Reply {
                        message,
                        transport: Transport::Udp,
                        plain_only,
                    }));
                }
                Check::Truncated => {
                    return self.ask_tcp(TcpReason::Truncated, self.policy.deadline);
                }
                Check::NoEdns => return Next::Done(Ok(Attempt::NoEdns)),
                Check::OtherCase if self.question.is_mixed_case() => {
                    return Next::Done(Ok(Attempt::OtherCase));
                }
                // Not even lower case is kept: TCP shows whether the reply is the server's.
                Check::OtherCase => (MAX_MISMATCHES, Failure::Timeout),
                Check::BareError => (0, Failure::Rcode),
                Check::Ignored => (1, Failure::Timeout),
            },
            Received::Mismatches(count) => (count, Failure::Timeout),
        };
        self.failure = failure;
        let had_enough = self.mismatches >= MAX_MISMATCHES;
        self.mismatches += mismatches;
        if self.mismatches < MAX_MISMATCHES || had_enough {
            return self.wait();
        }
        // An attacker may be guessing. A server without TCP must not cost more than a part of the time left.
        let until = self.policy.deadline.min(now + self.policy.retry_after);
        self.ask_tcp(TcpReason::Mismatches, until)
    }

    /// The question over TCP has a reply, or failed.
    pub fn tcp_ended(&mut self, reply: Result<Vec<u8>, Failure>) -> Next {
        let reason = self.tcp.take();
        let checked = reply.and_then(|reply| match self.question.check(&reply, Transport::Tcp) {
            Check::Reply(message) => Ok(Attempt::Reply {
                message,
                transport: Transport::Tcp,
                plain_only: false,
            }),
            Check::NoEdns => Ok(Attempt::NoEdns),
            Check::Truncated | Check::OtherCase | Check::BareError | Check::Ignored => {
                Err(Failure::Unusable)
            }
        });
        match checked {
            Ok(attempt) => Next::Done(Ok(attempt)),
            Err(_) if reason == Some(TcpReason::Mismatches) => self.wait(),
            Err(Failure::Timeout | Failure::Network) => Next::Done(Err(Failure::Tcp)),
            Err(failure) => Next::Done(Err(failure)),
        }
    }

    /// Whether the OPT is left out by now.
    fn is_plain(&self) -> bool {
        self.tries > TRIES_WITH_EDNS
    }

    fn ask_tcp(&mut self, reason: TcpReason, until: Instant) -> Next {
        self.tcp = Some(reason);
        Next::AskTcp(until)
    }

    fn wait(&self) -> Next {
        Next::Wait(self.next_try.min(self.policy.deadline))
    }
}

#[cfg(test)]
mod tests;
