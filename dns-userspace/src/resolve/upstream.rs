//! Asks the upstream one question over sockets and takes only the reply to it (SEMANTICS rule 13).
//!
//! What does not match is ignored, and the right reply may still come after it: spoofing wins nothing by being first. A server
//! that does not take EDNS or does not keep case is asked again in another form, from another port and with another ID, so that
//! an attacker who forges either has to guess a second time.

mod exchange;
mod infra;
mod pool;
mod question;
mod retry;

use std::{io, net::SocketAddr, sync::Arc, time::Instant};

use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep_until, timeout_at},
};

pub use exchange::RetryPolicy;
pub use infra::RetryReason;
pub use pool::Pool;
pub use retry::UpstreamReply;

use self::{
    exchange::{Attempt, Exchange, Next},
    question::{Check, Question},
    retry::{Done, Retry},
};
use super::chain::Failure;
use crate::model::Transport;

/// Asks `server` for (`qname`, `qtype`), in the form that it needs.
///
/// # Errors
/// [`Failure::Timeout`] when no acceptable reply came in time, [`Failure::Network`] when the server refuses to be asked,
/// [`Failure::Tcp`] when its reply needs TCP and there is none, [`Failure::Local`] when this node could not send the query.
pub async fn ask(
    pool: &Arc<Pool>,
    server: SocketAddr,
    qname: &Name,
    qtype: RecordType,
    policy: RetryPolicy,
) -> Result<UpstreamReply, Failure> {
    let infra = pool.infra();
    let mut retry = Retry::new(infra.style(server, Instant::now()));
    loop {
        // Opening a socket depends on this node alone.
        let lease = pool.lease(server).map_err(|_| Failure::Local)?;
        let question = Question::new(qname, qtype, lease.id(), retry.style(), rand::random);
        let is_mixed_case = question.is_mixed_case();
        let result = attempt(pool, server, question, &lease, policy).await;
        if let Some(Done { result, learned }) = retry.take(is_mixed_case, result) {
            for reason in learned {
                infra.learn(server, reason, Instant::now());
            }
            return result;
        }
    }
}

/// Asks one question until there is a result, over UDP and where need be over TCP.
async fn attempt(
    pool: &Pool,
    server: SocketAddr,
    question: Question,
    lease: &pool::Lease,
    policy: RetryPolicy,
) -> Result<Attempt, Failure> {
    let mut exchange = Exchange::new(question, policy, Instant::now());
    let mut next = exchange.time(Instant::now());
    loop {
        next = match next {
            Next::Send(message) => {
                let sent = lease.send(&message).await;
                exchange.sent(sent.map_err(|error| Failure::of(&error)))
            }
            Next::AskTcp(until) => {
                let reply = over_tcp(pool, server, exchange.question().message(), until).await;
                exchange.tcp_ended(reply)
            }
            Next::Wait(until) => tokio::select! {
                () = sleep_until(until.into()) => exchange.time(Instant::now()),
                received = lease.next() => exchange.received(received, Instant::now()),
            },
            Next::Done(result) => return result,
        };
    }
}

/// The reply to a query over a connection of its own.
async fn over_tcp(
    pool: &Pool,
    server: SocketAddr,
    query: &[u8],
    deadline: Instant,
) -> Result<Vec<u8>, Failure> {
    let Some(_permit) = pool.tcp(deadline.into()).await else {
        return Err(Failure::Local);
    };
    let exchange = async {
        let mut stream = TcpStream::connect(server).await?;
        let length = query.len() as u16;
        let framed = [&length.to_be_bytes()[..], query].concat();
        stream.write_all(&framed).await?;
        let length = usize::from(stream.read_u16().await?);
        let mut reply = vec![0; length];
        stream.read_exact(&mut reply).await?;
        io::Result::Ok(reply)
    };
    timeout_at(deadline.into(), exchange)
        .await
        .map_err(|_| Failure::Timeout)?
        .map_err(|error| Failure::of(&error))
}

impl Failure {
    /// Whether this node or the path to the server failed, by the error of a socket that is open.
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
            // EHOSTUNREACH and EACCES may come from a router.
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
