//! The sockets that look-ups ask through: bounded in number, each connected to one server.
//!
//! Up to the limit, a look-up has a socket, and so a random port, of its own. Beyond that, look-ups of one server share the
//! open sockets: each still has an ID that no other had on that socket, and letters in random case. A socket takes new look-ups
//! for a short time only, and closes with the last of them, so that no port is used for long.

use std::{
    collections::{HashMap, VecDeque},
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nix::sys::resource::{Resource, getrlimit};
use rand::seq::IteratorRandom as _;
use tokio::{
    net::UdpSocket,
    sync::{Notify, Semaphore, SemaphorePermit},
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use super::{exchange::Received, infra::InfraCache};

/// Most sockets of a pool. Beyond 192 look-ups in flight they are shared.
const MAX_SOCKETS: usize = 256;
/// Least sockets of a pool, however few files the process may open.
const MIN_SOCKETS: usize = 16;
/// A pool takes one in this many of the files that the process may open: interfaces and connections need them, too.
const FILES_PER_SOCKET: usize = 4;
/// How long a socket takes new look-ups.
const SHARED_FOR: Duration = Duration::from_secs(5);
/// IDs used on a socket before it takes no new look-ups.
const MAX_IDS: usize = 4096;
/// Replies in the inbox of a look-up. More are dropped, as from a full socket buffer.
const MAX_REPLIES: usize = 8;
/// More than was advertised, for servers that send a little more.
const BUFFER: usize = 4096;

/// See the module.
#[derive(Debug)]
pub struct Pool {
    max_sockets: usize,
    /// Sockets whose file is open.
    open: Arc<AtomicUsize>,
    sockets: Mutex<Vec<Arc<Connected>>>,
    tcp: Semaphore,
    infra: InfraCache,
}

/// One place on a socket, for one question; given back when dropped.
#[derive(Debug)]
pub struct Lease {
    pool: Arc<Pool>,
    socket: Arc<Connected>,
    id: u16,
    inbox: Arc<Inbox>,
}

#[derive(Debug)]
struct Connected {
    server: SocketAddr,
    socket: UdpSocket,
    opened: Instant,
    state: Mutex<State>,
    // Dropped after the socket.
    _open: OpenFile,
}

#[derive(Debug, Default)]
struct State {
    /// `None` once the look-up has ended: a late reply to it is not a guess at the ID of another.
    inboxes: HashMap<u16, Option<Arc<Inbox>>>,
    in_use: usize,
    reader: Option<AbortHandle>,
}

#[derive(Debug)]
struct OpenFile(Arc<AtomicUsize>);

#[derive(Debug, Default)]
struct Inbox {
    arrived: Mutex<Arrived>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct Arrived {
    replies: VecDeque<Vec<u8>>,
    mismatches: u32,
    unreachable: bool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each change is complete before anything that could panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Pool {
    /// As many sockets as suit the number of files that this process may open.
    pub fn for_this_process() -> Pool {
        let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let sockets = usize::try_from(files).unwrap_or(usize::MAX) / FILES_PER_SOCKET;
        Pool::new(sockets.clamp(MIN_SOCKETS, MAX_SOCKETS))
    }

    /// At most `max_sockets` for UDP, and a quarter of that for TCP.
    pub fn new(max_sockets: usize) -> Pool {
        Pool {
            max_sockets,
            open: Arc::default(),
            sockets: Mutex::default(),
            tcp: Semaphore::new((max_sockets / 4).max(1)),
            infra: InfraCache::default(),
        }
    }

    /// A place on a socket that is connected to `server`. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// When no socket can be opened and none of that server is open: never a failure of the server.
    pub fn lease(self: &Arc<Self>, server: SocketAddr) -> io::Result<Lease> {
        let mut sockets = lock(&self.sockets);
        let open = self.open.load(Ordering::Relaxed);
        // The last quarter is for servers that have no socket yet.
        let has_room = open < self.max_sockets - self.max_sockets / 4
            || (open < self.max_sockets && !sockets.iter().any(|socket| socket.server == server));
        let opened = if has_room {
            self.connect(server)
        } else {
            Err(io::Error::from_raw_os_error(libc::EMFILE))
        };
        let socket = match opened {
            Ok(socket) => {
                sockets.push(Arc::clone(&socket));
                socket
            }
            Err(error) => shared(&sockets, server, Instant::now()).ok_or(error)?,
        };
        let inbox = Arc::new(Inbox::default());
        let id = socket.enter(&inbox);
        Ok(Lease {
            pool: Arc::clone(self),
            socket,
            id,
            inbox,
        })
    }

    /// How the servers have to be asked.
    pub fn infra(&self) -> &InfraCache {
        &self.infra
    }

    /// A place among the connections over TCP; `None` when there was none until the deadline.
    pub async fn tcp(&self, deadline: Instant) -> Option<SemaphorePermit<'_>> {
        timeout_at(deadline, self.tcp.acquire()).await.ok()?.ok()
    }

    /// A socket of a random port that receives nothing but from `server`.
    fn connect(&self, server: SocketAddr) -> io::Result<Arc<Connected>> {
        let any: SocketAddr = match server {
            SocketAddr::V4(_) => ([0; 4], 0).into(),
            SocketAddr::V6(_) => ([0u16; 8], 0).into(),
        };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.connect(server)?;
        socket.set_nonblocking(true)?;
        self.open.fetch_add(1, Ordering::Relaxed);
        let open = OpenFile(Arc::clone(&self.open));
        let connected = Arc::new(Connected {
            server,
            socket: UdpSocket::from_std(socket)?,
            opened: Instant::now(),
            state: Mutex::default(),
            _open: open,
        });
        let reader = tokio::spawn(read(Arc::clone(&connected)));
        lock(&connected.state).reader = Some(reader.abort_handle());
        Ok(connected)
    }
}

/// An open socket of `server` that takes a further look-up: any of the young ones, else the youngest, so that the older ones
/// close.
fn shared(sockets: &[Arc<Connected>], server: SocketAddr, now: Instant) -> Option<Arc<Connected>> {
    let of_server = || sockets.iter().filter(|socket| socket.server == server);
    of_server()
        .filter(|socket| {
            now < socket.opened + SHARED_FOR && lock(&socket.state).inboxes.len() < MAX_IDS
        })
        .choose(&mut rand::rng())
        .or_else(|| {
            of_server()
                // Half of all IDs: finding a free one must stay quick.
                .filter(|socket| lock(&socket.state).inboxes.len() < 1 << 15)
                .max_by_key(|socket| socket.opened)
        })
        .cloned()
}

async fn read(socket: Arc<Connected>) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match socket.socket.recv(&mut buffer).await {
            Ok(length) => socket.deliver(&buffer[..length]),
            Err(_) => socket.each(|arrived| arrived.unreachable = true),
        }
    }
}

impl Connected {
    /// Registers an inbox under a random ID that was never used on this socket.
    fn enter(&self, inbox: &Arc<Inbox>) -> u16 {
        let mut state = lock(&self.state);
        state.in_use += 1;
        loop {
            let id = rand::random();
            if let std::collections::hash_map::Entry::Vacant(entry) = state.inboxes.entry(id) {
                entry.insert(Some(Arc::clone(inbox)));
                return id;
            }
        }
    }

    fn deliver(&self, datagram: &[u8]) {
        let id = datagram.first_chunk().map(|id| u16::from_be_bytes(*id));
        if let Some(id) = id
            && let Some(inbox) = lock(&self.state).inboxes.get(&id)
        {
            if let Some(inbox) = inbox {
                inbox.change(|arrived| {
                    if arrived.replies.len() < MAX_REPLIES {
                        arrived.replies.push_back(datagram.to_vec());
                    }
                });
            }
            return;
        }
        self.each(|arrived| arrived.mismatches += 1);
    }

    fn each(&self, change: impl Fn(&mut Arrived)) {
        for inbox in lock(&self.state).inboxes.values().flatten() {
            inbox.change(&change);
        }
    }
}

impl Inbox {
    fn change(&self, change: impl FnOnce(&mut Arrived)) {
        change(&mut lock(&self.arrived));
        self.notify.notify_one();
    }

    fn take(&self) -> Option<Received> {
        let mut arrived = lock(&self.arrived);
        // The right reply may be among the guesses.
        if let Some(reply) = arrived.replies.pop_front() {
            return Some(Received::Reply(reply));
        }
        if std::mem::take(&mut arrived.unreachable) {
            return Some(Received::Unreachable);
        }
        match std::mem::take(&mut arrived.mismatches) {
            0 => None,
            count => Some(Received::Mismatches(count)),
        }
    }
}

impl Lease {
    /// What the question must carry.
    pub fn id(&self) -> u16 {
        self.id
    }

    pub async fn send(&self, message: &[u8]) -> io::Result<()> {
        self.socket.socket.send(message).await.map(drop)
    }

    /// The next thing that came. Can be dropped and called again without losing any.
    pub async fn next(&self) -> Received {
        loop {
            if let Some(event) = self.inbox.take() {
                return event;
            }
            self.inbox.notify.notified().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // First, so that no look-up takes a place on the socket that closes here.
        let mut sockets = lock(&self.pool.sockets);
        let mut state = lock(&self.socket.state);
        state.inboxes.insert(self.id, None);
        state.in_use -= 1;
        if state.in_use == 0 {
            if let Some(reader) = state.reader.take() {
                reader.abort();
            }
            sockets.retain(|socket| !Arc::ptr_eq(socket, &self.socket));
        }
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
