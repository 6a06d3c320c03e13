//! Asks one question of the upstream and takes only the reply to it (SEMANTICS rule 13).
//!
//! What does not match is ignored, and the right reply may still come after it: spoofing wins nothing by being first. A
//! server that does not take EDNS or does not keep case is asked again in another form, from another port and with
//! another ID, so that a forged sign of either has to be followed by a second guess.

mod manners;
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

pub use manners::Again;
pub use pool::Pool;

use self::{
    manners::{Doubt, case_matters, doubt},
    pool::Event,
    question::{Check, Question},
};
use super::chain::Failure;

/// Replies that do not match before TCP is tried.
const MAX_MISMATCHES: u32 = 4;
/// Tries that go unanswered before an OPT is left out: on some ways only that gets through.
const TRIES_WITH_EDNS: u32 = 2;

/// How the reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// When to give up, and how often to ask again until then.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    pub deadline: Instant,
    pub retry_after: Duration,
}

/// A reply, and what it took to get it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub message: Message,
    pub transport: Transport,
    /// Why the question was asked more than once.
    pub again: Vec<Again>,
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
) -> Result<Asked, Failure> {
    let manners = pool.manners();
    let mut style = manners.style(server, Instant::now());
    let mut again = Vec::new();
    // The reply to the question in mixed case, while the one in lower case is awaited.
    let mut first: Option<Message> = None;
    // Ends: each round but the last takes something from the style.
    loop {
        // Nothing but this node takes part in opening a socket.
        let lease = pool.lease(server).map_err(|_| Failure::Local)?;
        let question = Question::new(qname, qtype, lease.id(), style);
        let heard = match attempt(pool, server, &question, &lease, patience).await {
            Ok(heard) => heard,
            Err(failure) => {
                let fallback = first.filter(|reply| doubt(reply) == Some(Doubt::Failed));
                let message = fallback.ok_or(failure)?;
                return Ok(Asked {
                    message,
                    transport: Transport::Udp,
                    again,
                });
            }
        };
        match heard {
            Heard::NoEdns => {
                style.edns = false;
                again.push(Again::WithoutEdns);
            }
            Heard::OtherCase => {
                style.mixed_case = false;
                again.push(Again::CaseNotKept);
            }
            Heard::Reply {
                message,
                transport,
                plain_only,
            } => {
                if first.is_none() && question.is_mixed_case() && doubt(&message).is_some() {
                    style.mixed_case = false;
                    again.push(Again::LowerCase);
                    first = Some(*message);
                    continue;
                }
                if plain_only {
                    again.push(Again::WithoutEdns);
                }
                for lesson in lessons(&again, first.as_ref(), &message) {
                    manners.learn(server, lesson, Instant::now());
                }
                return Ok(Asked {
                    message: *message,
                    transport,
                    again,
                });
            }
        }
    }
}

/// What the reply confirms of the reasons for asking again.
fn lessons(again: &[Again], first: Option<&Message>, reply: &Message) -> Vec<Again> {
    let confirmed = |lesson: &Again| match lesson {
        Again::WithoutEdns => !matches!(
            reply.metadata.response_code,
            ResponseCode::FormErr | ResponseCode::NotImp
        ),
        Again::CaseNotKept => true,
        Again::LowerCase => first.is_some_and(|first| case_matters(first, reply)),
    };
    again.iter().copied().filter(confirmed).collect()
}

/// What a question brought.
enum Heard {
    Reply {
        message: Box<Message>,
        transport: Transport,
        /// It came once the OPT was left out, and has none itself.
        plain_only: bool,
    },
    NoEdns,
    OtherCase,
}

/// Asks one question until something is heard of it, over UDP and where need be over TCP.
async fn attempt(
    pool: &Pool,
    server: SocketAddr,
    question: &Question,
    lease: &pool::Lease,
    patience: Patience,
) -> Result<Heard, Failure> {
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
                    return Ok(Heard::Reply {
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
                Check::NoEdns => return Ok(Heard::NoEdns),
                Check::OtherCase if question.is_mixed_case() => return Ok(Heard::OtherCase),
                // Not even lower case is kept: a connection tells the server from who guesses.
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
            if let Ok(heard) = over_tcp(pool, server, question, until).await {
                return Ok(heard);
            }
        }
    }
}

async fn over_tcp(
    pool: &Pool,
    server: SocketAddr,
    question: &Question,
    deadline: Instant,
) -> Result<Heard, Failure> {
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
        Check::Reply(message) => Ok(Heard::Reply {
            message,
            transport: Transport::Tcp,
            plain_only: false,
        }),
        Check::NoEdns => Ok(Heard::NoEdns),
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
