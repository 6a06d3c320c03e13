//! Queries from the network namespaces of pods, one after the other without end, each with the addresses that it must get.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::{Ask, Transport};
use hickory_proto::{
    op::ResponseCode,
    rr::{RData, RecordType},
};
use nix::sched::{CloneFlags, setns};

/// Between two queries of one pod.
const PAUSE: Duration = Duration::from_millis(4);

/// A question and the expected addresses.
#[derive(Clone, Debug)]
pub struct Question {
    pub qname: String,
    pub addresses: BTreeSet<IpAddr>,
}

impl Question {
    pub fn new(qname: &str, addresses: &[&str]) -> Self {
        Self {
            qname: qname.to_owned(),
            addresses: addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect(),
        }
    }
}

/// A load that goes on until it is finished.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
}

/// Its result.
#[derive(Debug)]
pub struct Outcome {
    pub queries: u64,
    pub wrong: Vec<String>,
    pub time: Duration,
}

impl Load {
    pub fn new() -> Self {
        Self {
            stop: Arc::default(),
            sent: Arc::default(),
            wrong: Arc::default(),
            threads: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Asks from the network namespace of a process.
    pub fn add(
        &mut self,
        pod: &str,
        pid: u32,
        server: IpAddr,
        questions: Vec<Question>,
    ) -> Result<()> {
        let file = File::open(format!("/proc/{pid}/ns/net"))
            .with_context(|| format!("the network namespace of {pod}"))?;
        let (stop, sent, wrong) = (
            Arc::clone(&self.stop),
            Arc::clone(&self.sent),
            Arc::clone(&self.wrong),
        );
        let pod = pod.to_owned();
        let started = self.started;
        let thread = thread::Builder::new().spawn(move || {
            let report = |line: String| {
                let mut wrong = wrong
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                wrong.push(line);
            };
            // This thread alone, and it ends in there.
            if let Err(error) = setns(file, CloneFlags::CLONE_NEWNET) {
                return report(format!("{pod}: entering its network namespace: {error}"));
            }
            for question in questions.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let at = started.elapsed();
                if let Err(why) = ask(server, question) {
                    report(format!(
                        "{pod}, {:.1} s: {} {why}",
                        at.as_secs_f64(),
                        question.qname
                    ));
                }
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn finish(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let mut wrong = self
            .wrong
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        Outcome {
            queries: self.sent(),
            wrong: std::mem::take(&mut *wrong),
            time: self.started.elapsed(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A reply: its rcode and its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub rcode: ResponseCode,
    pub addresses: BTreeSet<IpAddr>,
}

impl Reply {
    pub fn addresses(addresses: &[&str]) -> Self {
        Self {
            rcode: ResponseCode::NoError,
            addresses: Question::new("", addresses).addresses,
        }
    }

    pub fn nxdomain() -> Self {
        Self {
            rcode: ResponseCode::NXDomain,
            addresses: BTreeSet::new(),
        }
    }
}

/// Since when a reply, or an error, was seen.
type Seen = Vec<(Instant, Result<Reply, String>)>;

/// Asks one question again and again, and notes when the reply changes.
pub struct Observer {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

impl Observer {
    /// Asks from the network namespace of a process.
    pub fn start(pid: u32, server: IpAddr, qname: &str) -> Result<Self> {
        let file = File::open(format!("/proc/{pid}/ns/net"))?;
        let stop = Arc::<AtomicBool>::default();
        let seen = Arc::<Mutex<Seen>>::default();
        let (stops, sees, qname) = (Arc::clone(&stop), Arc::clone(&seen), qname.to_owned());
        let thread = thread::Builder::new().spawn(move || {
            let entered = setns(file, CloneFlags::CLONE_NEWNET);
            while !stops.load(Ordering::Relaxed) {
                let reply = match entered {
                    Ok(()) => reply(server, &qname),
                    Err(error) => Err(format!("entering the network namespace: {error}")),
                };
                let mut seen = lock(&sees);
                if seen.last().is_none_or(|(_, last)| *last != reply) {
                    seen.push((Instant::now(), reply));
                }
                drop(seen);
                thread::sleep(PAUSE);
            }
        })?;
        Ok(Self {
            stop,
            seen,
            thread: Some(thread),
        })
    }

    /// Waits until the reply is this one, and returns since when it is, from `since` on.
    pub fn until(&self, reply: &Reply, since: Instant, limit: Duration) -> Result<Duration> {
        loop {
            let last = lock(&self.seen).last().cloned();
            match last {
                Some((at, Ok(last))) if last == *reply => {
                    return Ok(at.saturating_duration_since(since));
                }
                last if since.elapsed() > limit => bail!(
                    "not after {:.1} s: {reply:?}, but {:?}",
                    limit.as_secs_f64(),
                    last.map(|(_, reply)| reply)
                ),
                _ => thread::sleep(PAUSE / 4),
            }
        }
    }

    /// Every reply since the start, in order, each once until it changes.
    pub fn seen(&self) -> Vec<Result<Reply, String>> {
        let seen = lock(&self.seen);
        seen.iter().map(|(_, reply)| reply.clone()).collect()
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Runs something in the network namespace of a process, in a thread of its own.
fn in_netns_of<T: Send + 'static>(
    pid: u32,
    what: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let file = File::open(format!("/proc/{pid}/ns/net"))?;
    let thread = thread::spawn(move || {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        what()
    });
    match thread.join() {
        Ok(outcome) => outcome,
        Err(_) => bail!("a thread in a network namespace panicked"),
    }
}

/// A page over HTTP, from the network namespace of a process.
pub fn fetch(pid: u32, address: &str, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let address = address.to_owned();
    let page = in_netns_of(pid, move || {
        let mut stream = TcpStream::connect(&address)?;
        stream.write_all(request.as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    });
    page.with_context(|| format!("fetching {path}"))
}

/// The error, if the reply is not the expected one.
fn ask(server: IpAddr, question: &Question) -> Result<(), String> {
    let Reply { rcode, addresses } = reply(server, &question.qname)?;
    if addresses == question.addresses {
        return Ok(());
    }
    Err(format!("{rcode:?} {addresses:?}"))
}

fn reply(server: IpAddr, qname: &str) -> Result<Reply, String> {
    exchange(Ask::new(server, qname, RecordType::A))
}

/// Asks once over TCP, from the network namespace of a process.
pub fn over_tcp(pid: u32, server: IpAddr, qname: &str) -> Result<Reply> {
    let mut ask = Ask::new(server, qname, RecordType::A);
    ask.transport = Transport::Tcp;
    let reply = in_netns_of(pid, move || exchange(ask).map_err(anyhow::Error::msg));
    reply.with_context(|| format!("asking for {qname} over TCP"))
}

fn exchange(ask: Ask) -> Result<Reply, String> {
    let reply = ask.send().map_err(|error| format!("{error:#}"))?;
    let addresses = reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        });
    Ok(Reply {
        rcode: reply.metadata.response_code,
        addresses: addresses.collect(),
    })
}

/// Queries at a rate, from the network namespace of a process, whatever comes back.
pub struct Rate {
    sender: JoinHandle<Result<u64>>,
    receiver: JoinHandle<u64>,
}

/// In one go; the kernel's timers do no better on a busy machine.
const BURST: Duration = Duration::from_millis(5);
/// After the last query.
const LAST: Duration = Duration::from_millis(500);

impl Rate {
    pub fn start(
        pid: u32,
        server: IpAddr,
        qnames: &[String],
        per_second: u32,
        time: Duration,
    ) -> Result<Self> {
        let queries: Vec<Vec<u8>> = qnames
            .iter()
            .map(|qname| {
                let query = Ask::new(server, qname, RecordType::A).query()?;
                Ok(query.to_vec()?)
            })
            .collect::<Result<_>>()?;
        let socket = in_netns_of(pid, move || {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.connect((server, 53))?;
            Ok(socket)
        })?;
        socket.set_read_timeout(Some(LAST))?;
        let receives = socket.try_clone()?;
        let started = Instant::now();
        let receiver = thread::spawn(move || {
            let mut right = 0;
            let mut reply = [0; 1500];
            while started.elapsed() < time + LAST {
                // NOERROR, with records in the answer section.
                if let Ok(12..) = receives.recv(&mut reply)
                    && reply[3] & 0xf == 0
                    && reply[6..8] != [0, 0]
                {
                    right += 1;
                }
            }
            right
        });
        let sender = thread::spawn(move || {
            let mut sent = 0_u64;
            let mut queries = queries.into_iter().cycle();
            while started.elapsed() < time {
                let due = started.elapsed().as_secs_f64() * f64::from(per_second);
                while (sent as f64) < due {
                    let Some(mut query) = queries.next() else {
                        bail!("no names");
                    };
                    query[..2].copy_from_slice(&(sent as u16).to_be_bytes());
                    // A full queue is a query that is lost, and shows in the numbers.
                    let _ = socket.send(&query);
                    sent += 1;
                }
                thread::sleep(BURST);
            }
            Ok(sent)
        });
        Ok(Self { sender, receiver })
    }

    /// How many queries were sent, and how many answers with addresses came.
    pub fn finish(self) -> Result<(u64, u64)> {
        match (self.sender.join(), self.receiver.join()) {
            (Ok(sent), Ok(right)) => Ok((sent?, right)),
            _ => bail!("a thread of the load panicked"),
        }
    }
}
