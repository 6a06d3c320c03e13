//! Serves one steered connection: messages that a rule matches go to the responder, all others to the server itself.
//!
//! One task, and every queue is bounded: while a client does not read its replies, nothing is read from it, nor from the server
//! on its behalf.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    net::{TcpSocket, TcpStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    dispatch::Dispatch,
    framing::{Inbox, Malformed, Outbox},
    relay::Relay,
};
use crate::resolve::{ReplyTo, StreamQuery, StreamReply};

/// Messages of one connection that have no reply yet.
const IN_FLIGHT: usize = 32;
/// No more is read once so many bytes wait to be written.
const HIGH_WATER: usize = 1 << 16;
/// How long a connection may be idle (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// How long a message may take from its first byte to its last.
const MESSAGE: Duration = Duration::from_secs(5);
/// How long a client may leave its replies unread.
const UNREAD: Duration = Duration::from_secs(5);
/// How long the server may send nothing while replies are due; resolvers have given up by then.
const SERVER: Duration = Duration::from_secs(10);
/// The responder ends every look-up well before.
const RESPONDER: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(2);

/// One client, and the server whose address it connected to.
pub(super) struct Connection<'a> {
    dispatch: &'a Dispatch,
    /// The client.
    peer: SocketAddr,
    server: SocketAddr,
    ifindex: u32,
    inbox: Inbox,
    outbox: Outbox,
    /// Messages that the responder has, unchanged.
    waiting: HashMap<u32, Vec<u8>>,
    next_slot: u32,
    reply_to: mpsc::Sender<(u32, StreamReply)>,
    /// Bytes of answers that the responder has sent and the connection has not taken.
    queued: Arc<AtomicUsize>,
    relay: Relay,
    upstream: Upstream,
    /// No more is read from the client: it has closed its side, or the connection is about to be closed.
    closing: bool,
    /// The time of the last message or reply.
    active: Instant,
    /// When the first byte of an incomplete message arrived.
    partial_since: Option<Instant>,
    /// When bytes were last written to the client, or began to wait.
    wrote: Instant,
}

/// The connection to the server, opened with the first message for it.
#[derive(Default)]
struct Upstream {
    connecting: Option<Connecting>,
    stream: Option<TcpStream>,
    inbox: Inbox,
    outbox: Outbox,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

enum Event {
    ClientReadable,
    ClientWritable,
    Reply((u32, StreamReply)),
    Connected(io::Result<TcpStream>),
    ServerReadable,
    ServerWritable,
    Timeout,
    Stop,
}

/// Serves until client, server or `stop` ends it. `server` is the address that the client asked, `ifindex` the interface that
/// the node's route to it leads to.
pub(super) async fn serve(
    dispatch: &Dispatch,
    client: TcpStream,
    server: SocketAddr,
    ifindex: u32,
    mut stop: watch::Receiver<bool>,
) {
    let (reply_to, mut replies) = mpsc::channel(IN_FLIGHT);
    let now = Instant::now();
    let Ok(peer) = client.peer_addr() else {
        return;
    };
    let mut connection = Connection {
        dispatch,
        peer,
        server,
        ifindex,
        inbox: Inbox::default(),
        outbox: Outbox::default(),
        waiting: HashMap::new(),
        next_slot: 0,
        reply_to,
        queued: Arc::default(),
        relay: Relay::default(),
        upstream: Upstream::default(),
        closing: false,
        active: now,
        partial_since: None,
        wrote: now,
    };
    while connection.take_messages().is_ok() && !connection.is_done() {
        let reads = !connection.closing && connection.has_room();
        let writes = !connection.outbox.is_empty();
        let replies_fit = connection.outbox.pending().len() < HIGH_WATER;
        let deadline = connection.deadline();
        let upstream = &mut connection.upstream;
        let event = tokio::select! {
            _ = client.readable(), if reads => Event::ClientReadable,
            _ = client.writable(), if writes => Event::ClientWritable,
            Some(reply) = replies.recv(), if replies_fit => Event::Reply(reply),
            result = connected(&mut upstream.connecting) => Event::Connected(result),
            () = readable(upstream.stream.as_ref()), if replies_fit => Event::ServerReadable,
            () = writable(upstream.stream.as_ref()), if !upstream.outbox.is_empty() => {
                Event::ServerWritable
            }
            () = sleep_until(deadline) => Event::Timeout,
            _ = stop.wait_for(|stop| *stop), if !connection.closing => Event::Stop,
        };
        if connection.on(event, &client).is_err() {
            break;
        }
    }
    dispatch.counters().lost += connection.due() as u64;
}

/// The connection has ended.
struct Over;

impl Connection<'_> {
    fn on(&mut self, event: Event, client: &TcpStream) -> Result<(), Over> {
        let now = Instant::now();
        match event {
            Event::ClientReadable => match client.try_read_buf(self.inbox.spare()) {
                Ok(0) => self.closing = true,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Over),
            },
            Event::ClientWritable => match client.try_write(self.outbox.pending()) {
                Ok(written) => {
                    self.outbox.advance(written);
                    (self.wrote, self.active) = (now, now);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return Err(Over),
            },
            Event::Reply((slot, reply)) => self.reply(slot, reply, now),
            Event::Connected(Ok(stream)) => {
                self.upstream.connecting = None;
                self.upstream.stream = Some(stream);
            }
            Event::Connected(Err(error)) => {
                tracing::debug!(server = %self.server, %error, "cannot relay over TCP");
                self.server_gone();
            }
            Event::ServerReadable => self.read_server(now),
            Event::ServerWritable => {
                let upstream = &mut self.upstream;
                if let Some(stream) = &upstream.stream {
                    match stream.try_write(upstream.outbox.pending()) {
                        Ok(written) => upstream.outbox.advance(written),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                        Err(_) => self.server_gone(),
                    }
                }
            }
            Event::Timeout => return Err(Over),
            Event::Stop => self.closing = true,
        }
        Ok(())
    }

    /// Takes complete messages up to the limit in flight.
    fn take_messages(&mut self) -> Result<(), Malformed> {
        let mut took = false;
        while self.has_room() {
            match self.inbox.next() {
                Some(message) => self.take(message?)?,
                None => break,
            }
            took = true;
        }
        let now = Instant::now();
        if took {
            self.active = now;
        }
        // A message that waits for a free slot is not late, and its time starts with its first byte.
        self.partial_since = match self.partial_since {
            _ if !self.inbox.is_partial() || !self.has_room() => None,
            Some(since) if !took => Some(since),
            _ => Some(now),
        };
        Ok(())
    }

    fn take(&mut self, message: Vec<u8>) -> Result<(), Malformed> {
        let address = self.peer.ip();
        let Some(matched) = self.dispatch.matches(&message, self.ifindex, address) else {
            if !self.dispatch.passes(&message, self.ifindex, address) {
                self.dispatch.counters().unread += 1;
                return Err(Malformed);
            }
            self.pass_on(message);
            return Ok(());
        };
        let slot = self.next_slot;
        self.next_slot = slot.wrapping_add(1);
        self.waiting.insert(slot, message);
        self.dispatch.answer(StreamQuery {
            query: matched.query,
            client: self.peer,
            server: self.server,
            ifindex: self.ifindex,
            rules: matched.rules,
            rule: matched.rule,
            asked_by: matched.asked_by,
            is_within_rate: matched.is_within_rate,
            reply: ReplyTo {
                slot,
                replies: self.reply_to.clone(),
                queued: Arc::clone(&self.queued),
            },
        });
        Ok(())
    }

    /// Sends a message to the server.
    fn pass_on(&mut self, mut message: Vec<u8>) {
        self.dispatch.counters().relayed += 1;
        self.relay.send(&mut message, rand::random);
        let upstream = &mut self.upstream;
        upstream.outbox.push(&message);
        if upstream.stream.is_none() && upstream.connecting.is_none() {
            upstream.connecting = Some(Box::pin(connect(self.server)));
        }
    }

    fn reply(&mut self, slot: u32, reply: StreamReply, now: Instant) {
        if let StreamReply::Answer(answer) = &reply {
            self.queued.fetch_sub(answer.len(), Ordering::Relaxed);
        }
        let Some(message) = self.waiting.remove(&slot) else {
            return;
        };
        self.active = now;
        match reply {
            StreamReply::Answer(answer) => {
                self.dispatch.counters().answered += 1;
                self.push(&answer, now);
            }
            StreamReply::PassOn => self.pass_on(message),
            StreamReply::NoReply => self.dispatch.counters().lost += 1,
        }
    }

    fn read_server(&mut self, now: Instant) {
        let upstream = &mut self.upstream;
        let Some(stream) = &upstream.stream else {
            return;
        };
        match stream.try_read_buf(upstream.inbox.spare()) {
            Ok(0) => return self.server_gone(),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return self.server_gone(),
        }
        while let Some(message) = self.upstream.inbox.next() {
            let Ok(mut reply) = message else {
                return self.server_gone();
            };
            if self.relay.receive(&mut reply) {
                self.active = now;
                self.push(&reply, now);
            }
        }
    }

    fn push(&mut self, message: &[u8], now: Instant) {
        if self.outbox.is_empty() {
            self.wrote = now;
        }
        self.outbox.push(message);
    }

    /// The server closes idle connections, and the next message opens another. If it closes while replies are due, the client's
    /// connection is closed too, after the replies that have arrived: the client would see that without gregor, and resolvers go
    /// on to their next server then, which they would not after SERVFAIL.
    fn server_gone(&mut self) {
        if self.relay.len() > 0 {
            self.dispatch.counters().lost += self.relay.awaited() as u64;
            self.closing = true;
            self.inbox = Inbox::default();
        }
        self.relay.clear();
        self.upstream = Upstream::default();
    }

    fn has_room(&self) -> bool {
        self.waiting.len() + self.relay.len() < IN_FLIGHT
            && self.outbox.pending().len() < HIGH_WATER
            && self.upstream.outbox.pending().len() < HIGH_WATER
    }

    /// Replies that the client waits for.
    fn due(&self) -> usize {
        self.waiting.len() + self.relay.awaited()
    }

    /// Nothing more is to be sent or received.
    fn is_done(&self) -> bool {
        self.closing && self.waiting.is_empty() && self.relay.len() == 0 && self.outbox.is_empty()
    }

    fn deadline(&self) -> Instant {
        let limit = if !self.waiting.is_empty() {
            RESPONDER
        } else if self.relay.awaited() > 0 {
            SERVER
        } else {
            IDLE
        };
        let mut deadline = self.active + limit;
        if let Some(since) = self.partial_since {
            deadline = deadline.min(since + MESSAGE);
        }
        if !self.outbox.is_empty() {
            deadline = deadline.min(self.wrote + UNREAD);
        }
        deadline
    }
}

/// Connects to a server from its own address: by that the program recognises the node's own connections.
async fn connect(server: SocketAddr) -> io::Result<TcpStream> {
    let socket = match server {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // With the port left to connect(2), one port serves many servers. Where that cannot be had, it takes a port of its own.
    let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
    let mut own = server;
    own.set_port(0);
    socket.bind(own)?;
    let stream = timeout(CONNECT, socket.connect(server)).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connected(connecting: &mut Option<Connecting>) -> io::Result<TcpStream> {
    match connecting {
        Some(connecting) => connecting.await,
        None => std::future::pending().await,
    }
}

/// Errors show when the stream is read.
async fn readable(stream: Option<&TcpStream>) {
    match stream {
        Some(stream) => drop(stream.readable().await),
        None => std::future::pending().await,
    }
}

async fn writable(stream: Option<&TcpStream>) {
    match stream {
        Some(stream) => drop(stream.writable().await),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
