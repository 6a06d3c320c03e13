//! The load of a chaos run: a pod asks for names of three kinds at a steady rate, each query once, and judges each reply.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};

use super::{
    counts::{Merge as _, counts},
    task::Task,
    upstream::{self, Clock},
};
use crate::lab::{Ask, Pod, dropped_at, hold_bursts, patience};

/// How long a client waits for its reply.
pub const TIMEOUT: Duration = Duration::from_secs(5);
/// Tenants that a pod asks for again and again.
const KNOWN: usize = 8;
/// Foreign names, asked for in turns.
const FOREIGN: u32 = 64;
/// A reply that takes longer is late.
const LATE: Duration = Duration::from_millis(300);
/// Most incidents that one pod keeps; further ones are only counted.
const MOST_INCIDENTS: usize = 100_000;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Matched by a rule, and answered before, from the tables that are in use.
    Known,
    /// Matched by a rule, of a tenant that was not asked for before, or not since the tables were made anew.
    New,
    /// Matched by no rule.
    Foreign,
}

impl Kind {
    #[cfg(test)]
    pub const ALL: [Self; 3] = [Self::Known, Self::New, Self::Foreign];

    pub fn name(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::New => "new",
            Self::Foreign => "foreign",
        }
    }

    /// Of ten queries six are for known names, one is for a new one.
    fn of(number: u64) -> Self {
        match number % 10 {
            0 => Self::New,
            1 | 4 | 7 => Self::Foreign,
            _ => Self::Known,
        }
    }
}

/// An event that may break a promise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// When the query was sent, since the start of the run.
    pub sent: Duration,
    pub round: usize,
    /// The Kubernetes namespace of the pod.
    pub pod: String,
    pub kind: Kind,
    pub qname: String,
    pub what: Problem,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Problem {
    /// No reply within [`TIMEOUT`].
    Lost,
    /// The same, and the kernel has dropped a datagram at the pod's full socket.
    Dropped,
    /// An address that is not the name's and never was.
    Wrong(String),
    /// A known name without the address of its endpoint.
    Leaked(String),
}

counts! {
    /// The results of the queries that were sent in one round.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Counts {
        pub sent: [u64; 3],
        /// New names that the existing cache answered, with a denial.
        pub passed: u64,
        /// Foreign names without an address.
        pub failed: u64,
        /// Second replies to one query.
        pub twice: u64,
        /// Longest time without a reply that ended in the round, by kind.
        pub gap: [Duration; 3],
        /// Of the oldest answer.
        pub oldest: Duration,
    }
}

/// What pods have seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// By round.
    pub counts: BTreeMap<usize, Counts>,
    pub incidents: Vec<Incident>,
    /// Queries for new names that waited.
    pub late: Vec<Late>,
}

/// A query for a new name, by the clock of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    pub sent: Duration,
    pub replied: Duration,
}

impl Seen {
    pub fn add(&mut self, other: Self) {
        for (round, counts) in other.counts {
            self.counts.entry(round).or_default().merge(&counts);
        }
        self.incidents.extend(other.incidents);
        self.late.extend(other.late);
    }
}

/// What the pods of a run share.
#[derive(Debug)]
pub struct Shared {
    pub clock: Clock,
    pub server: IpAddr,
    /// The round that queries belong to.
    pub round: AtomicUsize,
    /// How often the tables were made anew.
    tables: AtomicUsize,
    next_tenant: AtomicU32,
    answered: AtomicU64,
}

impl Shared {
    pub fn new(clock: Clock, server: IpAddr) -> Arc<Self> {
        Arc::new(Self {
            clock,
            server,
            round: AtomicUsize::new(0),
            tables: AtomicUsize::new(0),
            next_tenant: AtomicU32::new(1),
            answered: AtomicU64::new(0),
        })
    }

    /// One that was not asked for yet.
    fn new_tenant(&self) -> u32 {
        self.next_tenant.fetch_add(1, Ordering::Relaxed)
    }

    /// A process serves that could not take over the answers of the one before it.
    pub fn tables_are_new(&self) {
        self.tables.fetch_add(1, Ordering::Relaxed);
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }
}

/// A pod that asks.
#[derive(Debug)]
pub struct Load(Task<Seen>);

impl Load {
    /// Asks for the pod's tenants until each has been answered, and goes on at `rate` queries per second.
    pub fn start(pod: &Pod, shared: &Arc<Shared>, rate: u32) -> Result<Self> {
        let tenants: Vec<u32> = (0..KNOWN).map(|_| shared.new_tenant()).collect();
        for tenant in &tenants {
            make_known(pod, shared, *tenant)?;
        }
        let asker = Asker {
            pod: pod.namespace.clone(),
            shared: Arc::clone(shared),
            known_in: vec![shared.tables.load(Ordering::Relaxed); tenants.len()],
            tenants,
            interval: Duration::from_secs(1) / rate.max(1),
            number: 0,
            slots: (0..=u16::MAX).map(|_| None).collect(),
            order: VecDeque::new(),
            waiting: 0,
            last_reply: [None; 3],
            port: 0,
            dropped: 0,
            seen: Seen::default(),
        };
        Task::start(pod.netns(), move |stop| asker.run(stop)).map(Self)
    }

    /// Sends nothing more, waits for the replies that are due, and returns what was seen.
    pub fn finish(self) -> Result<Seen> {
        self.0.finish()
    }
}

/// Asks for a tenant until its endpoint answers.
pub fn make_known(pod: &Pod, shared: &Shared, tenant: u32) -> Result<()> {
    let limit = patience(Duration::from_secs(60));
    let started = Instant::now();
    let qname = upstream::matched(0, tenant);
    loop {
        let reply = pod.ask(Ask::new(shared.server, &qname, RecordType::A));
        let age = reply.map(|reply| shared.clock.age(tenant, &addresses(&reply)));
        match age {
            Ok(Some(_)) => return Ok(()),
            _ if started.elapsed() > limit => bail!("{qname}: no endpoint within {limit:?}"),
            _ => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Asks for a tenant that was not asked for before until its endpoint answers.
pub fn served(pod: &Pod, shared: &Shared) -> Result<()> {
    make_known(pod, shared, shared.new_tenant())
}

fn addresses(reply: &Message) -> Vec<Ipv4Addr> {
    let address = |record: &hickory_proto::rr::Record| match &record.data {
        RData::A(address) => Some(address.0),
        _ => None,
    };
    reply.answers.iter().filter_map(address).collect()
}

/// A query that was sent.
#[derive(Debug)]
struct Sent {
    at: Instant,
    round: usize,
    kind: Kind,
    /// Tenant, or number of the foreign name.
    number: u32,
    qname: String,
    /// The tables in use.
    tables: usize,
    is_answered: bool,
}

/// The thread of a load.
struct Asker {
    pod: String,
    shared: Arc<Shared>,
    tenants: Vec<u32>,
    /// For each of them the tables that it was last answered from.
    known_in: Vec<usize>,
    interval: Duration,
    /// Of the next query.
    number: u64,
    /// By ID; kept until the timeout has passed, answered or not.
    slots: Vec<Option<Sent>>,
    /// IDs in the order in which they were used.
    order: VecDeque<u16>,
    waiting: usize,
    last_reply: [Option<Instant>; 3],
    /// Of its socket.
    port: u16,
    /// Queries that count as dropped at its socket.
    dropped: u64,
    seen: Seen,
}

impl Asker {
    fn run(mut self, stop: &AtomicBool) -> io::Result<Seen> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        hold_bursts(&socket)?;
        self.port = socket.local_addr()?.port();
        let server = SocketAddr::new(self.shared.server, 53);
        let mut buffer = [0; 4096];
        let mut next = Instant::now();
        loop {
            let stopped = stop.load(Ordering::Relaxed);
            let now = Instant::now();
            self.expire(now);
            if stopped && self.waiting == 0 {
                return Ok(self.seen);
            }
            if !stopped && next <= now {
                self.send(&socket, server)?;
                next += self.interval;
                // A machine that stalls gets no burst afterwards.
                if next + Duration::from_millis(100) < now {
                    next = now;
                }
                if next <= now {
                    continue;
                }
            }
            let pause = if stopped {
                Duration::from_millis(20)
            } else {
                next.saturating_duration_since(Instant::now())
            };
            socket.set_read_timeout(Some(pause.max(Duration::from_micros(100))))?;
            match socket.recv_from(&mut buffer) {
                Ok((length, from)) if from == server => self.receive(&buffer[..length]),
                Ok(_) => {}
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                            | io::ErrorKind::ConnectionRefused
                    ) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn send(&mut self, socket: &UdpSocket, server: SocketAddr) -> io::Result<()> {
        let mut kind = Kind::of(self.number);
        let tables = self.shared.tables.load(Ordering::Relaxed);
        let id = self.number as u16;
        let turn = (self.number / 10) as u32;
        let (number, qname) = match kind {
            Kind::Known => {
                let place = self.number as usize % self.tenants.len();
                if self.known_in[place] != tables {
                    kind = Kind::New;
                }
                let tenant = self.tenants[place];
                (tenant, upstream::matched(turn, tenant))
            }
            Kind::New => {
                let tenant = self.shared.new_tenant();
                (tenant, upstream::matched(turn, tenant))
            }
            Kind::Foreign => {
                let number = turn % FOREIGN;
                (number, upstream::foreign(number))
            }
        };
        self.number += 1;
        if self.slots[usize::from(id)].is_some() {
            return Err(io::Error::other("all IDs are in use: the rate is too high"));
        }
        let round = self.shared.round.load(Ordering::Relaxed);
        let query = query(id, &qname);
        let at = Instant::now();
        match socket.send_to(&query, server) {
            Ok(_) => {}
            // Not sent, so not lost: an interface that is being removed, or a full buffer.
            Err(_) => return Ok(()),
        }
        self.counts(round).sent[kind as usize] += 1;
        self.last_reply[kind as usize].get_or_insert(at);
        self.slots[usize::from(id)] = Some(Sent {
            at,
            round,
            kind,
            number,
            qname,
            tables,
            is_answered: false,
        });
        self.order.push_back(id);
        self.waiting += 1;
        Ok(())
    }

    fn counts(&mut self, round: usize) -> &mut Counts {
        self.seen.counts.entry(round).or_default()
    }

    /// Drops queries that were sent too long ago.
    fn expire(&mut self, now: Instant) {
        while let Some(id) = self.order.front() {
            let slot = &mut self.slots[usize::from(*id)];
            let is_over = slot.as_ref().is_none_or(|sent| sent.at + TIMEOUT <= now);
            if !is_over {
                return;
            }
            let sent = slot.take();
            self.order.pop_front();
            if let Some(sent) = sent
                && !sent.is_answered
            {
                self.waiting -= 1;
                let problem = if dropped_at(self.port).unwrap_or(0) > self.dropped {
                    self.dropped += 1;
                    Problem::Dropped
                } else {
                    Problem::Lost
                };
                self.happened(&sent, problem);
            }
        }
    }

    fn happened(&mut self, sent: &Sent, what: Problem) {
        let since_start = self.shared.clock.elapsed();
        let sent_at = since_start.saturating_sub(sent.at.elapsed());
        if self.seen.incidents.len() < MOST_INCIDENTS {
            self.seen.incidents.push(Incident {
                sent: sent_at,
                round: sent.round,
                pod: self.pod.clone(),
                kind: sent.kind,
                qname: sent.qname.clone(),
                what,
            });
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let Some(id) = bytes.first_chunk().map(|id| u16::from_be_bytes(*id)) else {
            return;
        };
        // Later than the timeout: its query is lost already.
        let Some(mut sent) = self.slots[usize::from(id)].take() else {
            return;
        };
        if sent.is_answered {
            self.counts(sent.round).twice += 1;
        } else {
            sent.is_answered = true;
            self.waiting -= 1;
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
            self.replied(sent.kind);
            let waited = sent.at.elapsed();
            if sent.kind == Kind::New && waited > LATE && self.seen.late.len() < MOST_INCIDENTS {
                let replied = self.shared.clock.elapsed();
                self.seen.late.push(Late {
                    sent: replied.saturating_sub(waited),
                    replied,
                });
            }
            self.judge(&sent, bytes);
        }
        self.slots[usize::from(id)] = Some(sent);
    }

    /// A reply to a query of this kind came now.
    fn replied(&mut self, kind: Kind) {
        let now = Instant::now();
        let current = self.shared.round.load(Ordering::Relaxed);
        let last = self.last_reply[kind as usize].replace(now);
        if let Some(last) = last {
            let gap = &mut self.counts(current).gap[kind as usize];
            *gap = (*gap).max(now.duration_since(last));
        }
    }

    fn judge(&mut self, sent: &Sent, bytes: &[u8]) {
        let Ok(reply) = Message::from_vec(bytes) else {
            return self.happened(sent, Problem::Wrong("not a DNS message".to_owned()));
        };
        let asked = format!("{}.", sent.qname);
        let is_ours = reply
            .queries
            .first()
            .is_some_and(|question| question.name().to_ascii().eq_ignore_ascii_case(&asked));
        if !is_ours {
            return self.happened(sent, Problem::Wrong(format!("another question: {reply}")));
        }
        let found = addresses(&reply);
        if found.is_empty() {
            let code = reply.metadata.response_code;
            return self.without_address(sent, code);
        }
        if sent.kind == Kind::Foreign {
            if found != [upstream::foreign_address(sent.number)] {
                self.happened(sent, Problem::Wrong(format!("{found:?}")));
            }
            return;
        }
        match self.shared.clock.age(sent.number, &found) {
            Some(age) => {
                let counts = self.counts(sent.round);
                counts.oldest = counts.oldest.max(age);
                self.is_known(sent);
            }
            None => self.happened(sent, Problem::Wrong(format!("{found:?}"))),
        }
    }

    /// Its endpoint answers for this tenant; what answered has published that before it replied.
    fn is_known(&mut self, sent: &Sent) {
        let mut tenants = self.tenants.iter();
        if let Some(place) = tenants.position(|tenant| *tenant == sent.number) {
            self.known_in[place] = self.known_in[place].max(sent.tables);
        }
    }

    fn without_address(&mut self, sent: &Sent, code: ResponseCode) {
        match sent.kind {
            Kind::Known => self.happened(sent, Problem::Leaked(code.to_string())),
            Kind::New => self.counts(sent.round).passed += 1,
            Kind::Foreign => self.counts(sent.round).failed += 1,
        }
    }
}

/// An A query, as glibc sends it.
pub(super) fn query(id: u16, qname: &str) -> Vec<u8> {
    let mut bytes = id.to_be_bytes().to_vec();
    bytes.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in qname.split('.') {
        bytes.push(label.len() as u8);
        bytes.extend(label.as_bytes());
    }
    bytes.extend([0, 0, 1, 0, 1]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_back() {
        let query = Message::from_vec(&query(0x1234, "b1.example.com")).unwrap();
        assert_eq!(query.metadata.id, 0x1234);
        assert_eq!(query.queries[0].name().to_ascii(), "b1.example.com.");
        assert_eq!(query.queries[0].query_type(), RecordType::A);
    }

    #[test]
    fn most_queries_are_for_known_names() {
        let count = |kind| (0..1000).filter(|number| Kind::of(*number) == kind).count();
        assert_eq!(Kind::ALL.map(count), [600, 100, 300]);
    }

    /// A load thread of the pod `pod` that asks for one tenant.
    fn asker(tenant: u32) -> Asker {
        Asker {
            pod: "pod".to_owned(),
            shared: Shared::new(Clock::start(), Ipv4Addr::LOCALHOST.into()),
            tenants: vec![tenant],
            known_in: vec![0],
            interval: Duration::from_secs(1),
            number: 0,
            slots: (0..=u16::MAX).map(|_| None).collect(),
            order: VecDeque::new(),
            waiting: 0,
            last_reply: [None; 3],
            port: 0,
            dropped: 0,
            seen: Seen::default(),
        }
    }

    /// Its verdict on a reply.
    fn judged(kind: Kind, number: u32, change: impl FnOnce(&mut Message, Clock)) -> Seen {
        let mut asker = asker(number);
        let clock = asker.shared.clock;
        asker.order.push_back(0);
        asker.waiting = 1;
        let qname = match kind {
            Kind::Foreign => upstream::foreign(number),
            _ => upstream::matched(1, number),
        };
        asker.slots[0] = Some(Sent {
            at: Instant::now(),
            round: 3,
            kind,
            number,
            qname: qname.clone(),
            tables: 0,
            is_answered: false,
        });
        let mut reply = Message::from_vec(&query(0, &qname)).unwrap();
        change(&mut reply, clock);
        let bytes = reply.to_vec().unwrap();
        asker.receive(&bytes);
        asker.receive(&bytes);
        assert_eq!(asker.seen.counts[&3].twice, 1);
        assert_eq!(asker.waiting, 0);
        asker.seen
    }

    fn answer(reply: &mut Message, addresses: &[Ipv4Addr]) {
        let name = reply.queries[0].name().clone();
        reply.answers.extend(addresses.iter().map(|address| {
            let data = RData::A(hickory_proto::rr::rdata::A(*address));
            hickory_proto::rr::Record::from_rdata(name.clone(), 1, data)
        }));
    }

    #[test]
    fn replies_are_judged_by_what_was_asked() {
        let endpoint = |reply: &mut Message, clock: Clock, tenant| {
            answer(reply, &clock.endpoint(tenant));
        };
        for kind in [Kind::Known, Kind::New] {
            let seen = judged(kind, 7, |reply, clock| endpoint(reply, clock, 7));
            assert_eq!(seen.incidents, []);
            let seen = judged(kind, 7, |reply, clock| endpoint(reply, clock, 8));
            assert!(matches!(seen.incidents[0].what, Problem::Wrong(_)));
        }
        let denied = |reply: &mut Message, _: Clock| {
            reply.metadata.response_code = ResponseCode::NXDomain;
        };
        let seen = judged(Kind::Known, 7, denied);
        assert!(matches!(seen.incidents[0].what, Problem::Leaked(_)));
        let seen = judged(Kind::New, 7, denied);
        assert_eq!((seen.incidents.len(), seen.counts[&3].passed), (0, 1));
        let seen = judged(Kind::Foreign, 7, denied);
        assert_eq!((seen.incidents.len(), seen.counts[&3].failed), (0, 1));
        let seen = judged(Kind::Foreign, 7, |reply, _| {
            answer(reply, &[Ipv4Addr::new(12, 0, 0, 7)]);
        });
        assert_eq!(seen.incidents, []);
        let seen = judged(Kind::Foreign, 7, |reply, _| {
            answer(reply, &[Ipv4Addr::new(12, 0, 0, 8)]);
        });
        assert!(matches!(seen.incidents[0].what, Problem::Wrong(_)));
    }

    /// Tables that were made anew know no name until it has been asked for again.
    #[test]
    fn what_the_tables_have_lost_is_new() {
        let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = server.local_addr().unwrap();
        let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut asker = asker(7);
        let sent = |asker: &mut Asker| {
            let id = 2;
            asker.number = id;
            asker.slots[2] = None;
            asker.send(&client, address).unwrap();
            asker.slots[2].as_ref().unwrap().kind
        };
        let answered = |asker: &mut Asker, addresses: &[Ipv4Addr]| {
            let qname = &asker.slots[2].as_ref().unwrap().qname;
            let mut reply = Message::from_vec(&query(2, qname)).unwrap();
            answer(&mut reply, addresses);
            asker.receive(&reply.to_vec().unwrap());
        };
        assert_eq!(sent(&mut asker), Kind::Known);
        asker.shared.tables_are_new();
        // Sent before, and answered by the tables before.
        let endpoint = asker.shared.clock.endpoint(7);
        answered(&mut asker, &endpoint);
        assert_eq!(sent(&mut asker), Kind::New);
        answered(&mut asker, &[]);
        assert_eq!(sent(&mut asker), Kind::New);
        answered(&mut asker, &endpoint);
        assert_eq!(sent(&mut asker), Kind::Known);
    }
}
