//! Asks one question of the upstream and takes only the reply to it (SEMANTICS rule 13).
//!
//! What does not match is ignored, and the right reply may still come after it: spoofing wins nothing by being first.

mod pool;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use dns_common::wire::{
    CLASS_IN, DNS_HEADER_LEN, FLAG_OPCODE, FLAG_QR, FLAG_RD, FLAG_TC, TYPE_OPT,
};
use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout_at},
};

pub use pool::Pool;

use self::pool::Event;
use super::{
    chain::Failure,
    compose::{UDP_SIZE, wire_name},
};

const HEADER: usize = DNS_HEADER_LEN as usize;
/// Replies with more records are not looked at: no message of 64 KiB holds as many addresses.
const MAX_RECORDS: usize = 4096;
/// Replies that do not match before TCP is tried.
const MAX_MISMATCHES: u32 = 4;

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

/// Asks `server` for (`qname`, `qtype`).
///
/// # Errors
/// [`Failure::Timeout`] when no acceptable reply came in time, [`Failure::Network`] when the server refuses to be asked,
/// [`Failure::Local`] when this node could not ask.
pub async fn ask(
    pool: &Arc<Pool>,
    server: SocketAddr,
    qname: &Name,
    qtype: RecordType,
    patience: Patience,
) -> Result<(Message, Transport), Failure> {
    // Nothing but this node takes part in opening a socket.
    let lease = pool.lease(server).map_err(|_| Failure::Local)?;
    let question = Question::new(qname, qtype, lease.id());
    let mut send = interval_at(
        Instant::now(),
        patience.retry_after.max(Duration::from_millis(1)),
    );
    send.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut mismatches = 0;
    // What to say when time is up.
    let mut failure = Failure::Timeout;
    loop {
        let event = tokio::select! {
            () = sleep_until(patience.deadline) => return Err(failure),
            _ = send.tick() => {
                match lease.send(&question.message).await.map_err(|error| Failure::of(&error)) {
                    Ok(()) => {}
                    // At once: what is known is answered, and nothing is gained by letting the client wait for it.
                    Err(Failure::Local) => return Err(Failure::Local),
                    Err(error) => failure = error,
                }
                continue;
            }
            event = lease.next() => event,
        };
        let new_mismatches = match event {
            // A server that is just starting may be there for the next try.
            Event::Unreachable => {
                failure = Failure::Network;
                continue;
            }
            Event::Reply(reply) => match question.check(&reply, Transport::Udp) {
                Check::Reply(message) => return Ok((*message, Transport::Udp)),
                Check::Truncated => {
                    return over_tcp(pool, server, &question, patience.deadline)
                        .await
                        .map(|message| (message, Transport::Tcp));
                }
                Check::Ignored => 1,
            },
            Event::Mismatches(count) => count,
        };
        failure = Failure::Timeout;
        let had_enough = mismatches >= MAX_MISMATCHES;
        mismatches += new_mismatches;
        if mismatches >= MAX_MISMATCHES && !had_enough {
            // Somebody may be guessing. A server without TCP must not cost more than a part of the time left.
            let until = patience.deadline.min(Instant::now() + patience.retry_after);
            if let Ok(message) = over_tcp(pool, server, &question, until).await {
                return Ok((message, Transport::Tcp));
            }
        }
    }
}

async fn over_tcp(
    pool: &Pool,
    server: SocketAddr,
    question: &Question,
    deadline: Instant,
) -> Result<Message, Failure> {
    let Some(_place) = pool.tcp(deadline).await else {
        return Err(Failure::Local);
    };
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let length = question.message.len() as u16;
        let framed = [&length.to_be_bytes()[..], &question.message].concat();
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
        Check::Reply(message) => Ok(*message),
        Check::Truncated | Check::Ignored => Err(Failure::Unusable),
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

/// A query, and what its reply must repeat.
struct Question {
    message: Vec<u8>,
    /// End of the question section.
    end: usize,
}

enum Check {
    Reply(Box<Message>),
    Truncated,
    Ignored,
}

impl Question {
    /// Letters in random case (0x20), RD, an OPT with [`UDP_SIZE`].
    fn new(qname: &Name, qtype: RecordType, id: u16) -> Question {
        Question::with(qname, qtype, id, rand::random::<bool>)
    }

    fn with(qname: &Name, qtype: RecordType, id: u16, mut flip: impl FnMut() -> bool) -> Question {
        let mut message = Vec::with_capacity(HEADER + 255 + 4 + 11);
        message.extend_from_slice(&id.to_be_bytes());
        message.extend_from_slice(&FLAG_RD.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
        message.extend(wire_name(qname).into_iter().map(|byte| {
            // Length bytes are below 64 and no letters.
            if byte.is_ascii_alphabetic() && flip() {
                byte ^ 0x20
            } else {
                byte
            }
        }));
        message.extend_from_slice(&u16::from(qtype).to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        let end = message.len();
        message.push(0);
        message.extend_from_slice(&TYPE_OPT.to_be_bytes());
        message.extend_from_slice(&UDP_SIZE.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
        Question { message, end }
    }

    /// Whether `reply` is the reply to this question, and well-formed.
    fn check(&self, reply: &[u8], transport: Transport) -> Check {
        let (Some(header), Some(question)) =
            (reply.first_chunk::<HEADER>(), reply.get(HEADER..self.end))
        else {
            return Check::Ignored;
        };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let asked = &self.message[HEADER..self.end];
        let same_question = match transport {
            Transport::Udp => question == asked,
            // A connection is hard to forge, and some servers lower-case what they echo.
            Transport::Tcp => question.eq_ignore_ascii_case(asked),
        };
        let records = [6, 8, 10]
            .map(|at| usize::from(word(at)))
            .iter()
            .sum::<usize>();
        if header[..2] != self.message[..2]
            || word(2) & (FLAG_QR | FLAG_OPCODE) != FLAG_QR
            || word(4) != 1
            || !same_question
            || records > MAX_RECORDS
        {
            return Check::Ignored;
        }
        if word(2) & FLAG_TC != 0 {
            return Check::Truncated;
        }
        match Message::from_vec(reply) {
            Ok(message) => Check::Reply(Box::new(message)),
            Err(_) => Check::Ignored,
        }
    }
}

/// What a reply to a question of this ID, in the name's own case, is taken for: for the fuzz targets.
pub mod fuzzing {
    use super::*;

    /// The question section of such a question.
    pub fn question(qname: &Name, qtype: RecordType) -> Vec<u8> {
        let question = Question::with(qname, qtype, 0, || false);
        question.message[HEADER..question.end].to_vec()
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
            Check::Truncated | Check::Ignored => None,
        }
    }
}

#[cfg(test)]
mod tests;
