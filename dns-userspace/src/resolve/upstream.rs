//! Asks one question of the upstream and takes only the reply to it (SEMANTICS rule 13).
//!
//! What does not match is ignored, and the right reply may still come after it: spoofing wins nothing by being first. A
//! server that does not take EDNS or does not keep case is asked again in another form, from another port and with
//! another ID, so that a forged sign of either has to be followed by a second guess.

mod infra;
mod pool;
mod question;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout_at},
};

pub use infra::RetryReason;
pub use pool::Pool;

use self::{
    infra::{CaseDoubt, case_doubt, case_matters},
    pool::Event,
    question::{Check, Question},
};
use super::chain::Failure;
use crate::model::Transport;

/// Replies that do not match before TCP is tried.
const MAX_MISMATCHES: u32 = 4;
/// Tries that go unanswered before an OPT is left out: on some ways only that gets through.
const TRIES_WITH_EDNS: u32 = 2;

/// When to give up, and how often to ask again until then.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub deadline: Instant,
    pub retry_after: Duration,
}

/// A reply, and what it took to get it.
#[derive(Clone, Debug)]
pub struct UpstreamReply {
    pub message: Message,
    pub transport: Transport,
    /// Why the question was asked more than once.
    pub retries: Vec<RetryReason>,
}

/// Asks `server` for (`qname`, `qtype`), in the form that it is known to take.
///
/// # Errors
/// [`Failure::Timeout`] when no acceptable reply came in time, [`Failure::Network`] when the server refuses to be asked,
/// [`Failure::Tcp`] when its reply needs TCP and there is none, [`Failure::Local`] when this node could not ask.
pub async fn ask(
    pool: &Arc<Pool>,
    server: SocketAddr,
    qname: &Name,
    qtype: RecordType,
    patience: Patience,
) -> Result<UpstreamReply, Failure> {
    let infra = pool.infra();
    let mut style = infra.style(server, Instant::now());
    let mut retries = Vec::new();
    // The reply to the question in mixed case, while the one in lower case is awaited.
    let mut first: Option<(Message, Transport)> = None;
    // Ends: each round but the last takes something from the style.
    loop {
        // Nothing but this node takes part in opening a socket.
        let lease = pool.lease(server).map_err(|_| Failure::Local)?;
        let question = Question::new(qname, qtype, lease.id(), style);
        let result = match attempt(pool, server, &question, &lease, patience).await {
            Ok(result) => result,
            Err(failure) => {
                let fallback =
                    first.filter(|(reply, _)| case_doubt(reply) == Some(CaseDoubt::Failed));
                let (message, transport) = fallback.ok_or(failure)?;
                return Ok(UpstreamReply {
                    message,
                    transport,
                    retries,
                });
            }
        };
        match result {
            Attempt::NoEdns => {
                style.edns = false;
                retries.push(RetryReason::WithoutEdns);
            }
            Attempt::OtherCase => {
                style.mixed_case = false;
                retries.push(RetryReason::CaseNotKept);
            }
            Attempt::Reply {
                message,
                transport,
                plain_only,
            } => {
                if first.is_none() && question.is_mixed_case() && case_doubt(&message).is_some() {
                    style.mixed_case = false;
                    retries.push(RetryReason::LowerCase);
                    first = Some((*message, transport));
                    continue;
                }
                if plain_only {
                    retries.push(RetryReason::WithoutEdns);
                }
                let first = first.as_ref().map(|(message, _)| message);
                for reason in confirmed(&retries, first, &message) {
                    infra.learn(server, reason, Instant::now());
                }
                return Ok(UpstreamReply {
                    message: *message,
                    transport,
                    retries,
                });
            }
        }
    }
}

/// What the reply confirms of the reasons for asking again.
fn confirmed(
    retries: &[RetryReason],
    first: Option<&Message>,
    reply: &Message,
) -> Vec<RetryReason> {
    let is_confirmed = |reason: &RetryReason| match reason {
        RetryReason::WithoutEdns => !matches!(
            reply.metadata.response_code,
            ResponseCode::FormErr | ResponseCode::NotImp
        ),
        RetryReason::CaseNotKept => true,
        RetryReason::LowerCase => first.is_some_and(|first| case_matters(first, reply)),
    };
    retries.iter().copied().filter(is_confirmed).collect()
}

/// What a question brought.
enum Attempt {
    Reply {
        message: Box<Message>,
        transport: Transport,
        /// It came once the OPT was left out, and has none itself.
        plain_only: bool,
    },
    NoEdns,
    OtherCase,
}

/// Asks one question until there is a result, over UDP and where need be over TCP.
async fn attempt(
    pool: &Pool,
    server: SocketAddr,
    question: &Question,
    lease: &pool::Lease,
    patience: Patience,
) -> Result<Attempt, Failure> {
    let mut send = interval_at(
        Instant::now(),
        patience.retry_after.max(Duration::from_millis(1)),
    );
    send.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tries = 0;
    let mut mismatches = 0;
    // What to say when time is up.
    let mut failure = Failure::Timeout;
    loop {
        let event = tokio::select! {
            () = sleep_until(patience.deadline) => return Err(failure),
            _ = send.tick() => {
                tries += 1;
                let sent = if tries > TRIES_WITH_EDNS {
                    lease.send(&question.without_edns()).await
                } else {
                    lease.send(question.message()).await
                };
                match sent.map_err(|error| Failure::of(&error)) {
                    Ok(()) => {}
                    // At once: what is known is answered, and nothing is gained by letting the client wait for it.
                    Err(Failure::Local) => return Err(Failure::Local),
                    Err(error) => failure = error,
                }
                continue;
            }
            event = lease.next() => event,
        };
        let (new_mismatches, new_failure) = match event {
            // A server that is just starting may be there for the next try.
            Event::Unreachable => {
                failure = Failure::Network;
                continue;
            }
            Event::Reply(reply) => match question.check(&reply, Transport::Udp) {
                Check::Reply(message) => {
                    let plain_only =
                        tries > TRIES_WITH_EDNS && question.has_edns() && message.edns.is_none();
                    return Ok(Attempt::Reply {
                        message,
                        transport: Transport::Udp,
                        plain_only,
                    });
                }
                Check::Truncated => {
                    return over_tcp(pool, server, question, patience.deadline)
                        .await
                        .map_err(|failure| match failure {
                            Failure::Timeout | Failure::Network => Failure::Tcp,
                            other => other,
                        });
                }
                Check::NoEdns => return Ok(Attempt::NoEdns),
                Check::OtherCase if question.is_mixed_case() => return Ok(Attempt::OtherCase),
                // Not even lower case is kept: over TCP the reply is the server's.
                Check::OtherCase => (MAX_MISMATCHES, Failure::Timeout),
                Check::BareError => (0, Failure::Rcode),
                Check::Ignored => (1, Failure::Timeout),
            },
            Event::Mismatches(count) => (count, Failure::Timeout),
        };
        failure = new_failure;
        let had_enough = mismatches >= MAX_MISMATCHES;
        mismatches += new_mismatches;
        if mismatches >= MAX_MISMATCHES && !had_enough {
            // Somebody may be guessing. A server without TCP must not cost more than a part of the time left.
            let until = patience.deadline.min(Instant::now() + patience.retry_after);
            if let Ok(result) = over_tcp(pool, server, question, until).await {
                return Ok(result);
            }
        }
    }
}

async fn over_tcp(
    pool: &Pool,
    server: SocketAddr,
    question: &Question,
    deadline: Instant,
) -> Result<Attempt, Failure> {
    let Some(_place) = pool.tcp(deadline).await else {
        return Err(Failure::Local);
    };
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let length = question.message().len() as u16;
        let framed = [&length.to_be_bytes()[..], question.message()].concat();
        stream.write_all(&framed).await?;
        let length = usize::from(stream.read_u16().await?);
        let mut reply = vec![0; length];
        stream.read_exact(&mut reply).await?;
        io::Result::Ok(reply)
    };
    let reply = timeout_at(deadline, exchange)
        .await
        .map_err(|_| Failure::Timeout)?
        .map_err(|error| Failure::of(&error))?;
    match question.check(&reply, Transport::Tcp) {
        Check::Reply(message) => Ok(Attempt::Reply {
            message,
            transport: Transport::Tcp,
            plain_only: false,
        }),
        Check::NoEdns => Ok(Attempt::NoEdns),
        Check::Truncated | Check::OtherCase | Check::BareError | Check::Ignored => {
            Err(Failure::Unusable)
        }
    }
}

impl Failure {
    /// Whether this node or the way to the server failed, by the error of a socket that is open.
    fn of(error: &io::Error) -> Failure {
        match error.raw_os_error() {
            Some(
                libc::EMFILE
                | libc::ENFILE
                | libc::ENOBUFS
                | libc::ENOMEM
                | libc::EADDRINUSE
                | libc::EADDRNOTAVAIL
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EPERM,
            ) => Failure::Local,
            // EHOSTUNREACH and EACCES may be what a router says.
            _ => Failure::Network,
        }
    }
}

/// What a reply to a question of this ID, in the name's own case, is taken for: for the fuzz targets.
pub mod fuzzing {
    use super::*;

    /// The question section of such a question.
    pub fn question(qname: &Name, qtype: RecordType) -> Vec<u8> {
        let question = Question::with(qname, qtype, 0, || false);
        question.section().to_vec()
    }

    /// The message, if it is the reply.
    pub fn accept(
        qname: &Name,
        qtype: RecordType,
        id: u16,
        reply: &[u8],
        transport: Transport,
    ) -> Option<Message> {
        match Question::with(qname, qtype, id, || false).check(reply, transport) {
            Check::Reply(message) => Some(*message),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
