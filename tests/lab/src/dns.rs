//! The embedded DNS servers: the cluster's, answering from a [`World`], and a forwarding cache for the node.
//!
//! Good enough for a demonstration and for tests that change the data under gregor; what has to be real is tested with
//! CoreDNS and unbound.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdUdp},
    sync::{Arc, Mutex, PoisonError, RwLock},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, ResponseCode},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{A, AAAA, CNAME, SOA},
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    time::timeout,
};

use crate::{
    config,
    datagrams::hold_bursts,
    netns::Netns,
    patience,
    sync::lock,
    world::{CLUSTER_TTL, Data, World},
};

/// Most entries of the query log; older ones are dropped.
const LOG_MAX: usize = 100_000;
/// Most entries of the cache; it is emptied when full.
const CACHE_MAX: usize = 4096;
/// Queries handled at once.
const IN_FLIGHT: usize = 512;
/// Most names of a CNAME chain: a test may well put a loop into the table.
const CHAIN_MAX: usize = 16;
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
const TCP_IDLE: Duration = Duration::from_secs(5);

/// A query that a server saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedQuery {
    pub client: IpAddr,
    /// Lower case, with its trailing dot.
    pub qname: String,
    /// As CoreDNS prints it: `A`, `AAAA`, …
    pub qtype: String,
}

/// Where answers come from.
#[derive(Debug)]
pub(crate) enum Role {
    Authority(Arc<RwLock<World>>),
    Cache(Cache),
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Embedded {
    log: Arc<Mutex<Vec<LoggedQuery>>>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

impl Embedded {
    /// Binds UDP and TCP port 53 of each address inside the namespace and serves in a thread there.
    pub fn start(netns: &Netns, addresses: &[IpAddr], role: Role) -> Result<Self> {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (stop, stopped) = watch::channel(false);
        let (bound, outcome) = std::sync::mpsc::sync_channel(1);
        let addresses = addresses.to_owned();
        let server = Arc::new(Server {
            role,
            log: log.clone(),
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT)),
        });
        let thread = netns.enter_detached(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(bound.send(Err(error.into()))),
            };
            runtime.block_on(async move {
                match bind(&addresses) {
                    Ok((udp, tcp)) => {
                        let _ = bound.send(Ok(()));
                        serve(server, udp, tcp, stopped).await;
                    }
                    Err(error) => drop(bound.send(Err(error))),
                }
            });
        })?;
        outcome
            .recv()
            .context("the DNS server's thread died")?
            .context("starting the embedded DNS server")?;
        Ok(Self {
            log,
            stop,
            thread: Some(thread),
        })
    }

    pub fn asked(&self) -> Vec<LoggedQuery> {
        lock(&self.log).clone()
    }

    pub fn forget(&self) {
        lock(&self.log).clear();
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn bind(addresses: &[IpAddr]) -> Result<(Vec<UdpSocket>, Vec<TcpListener>)> {
    let mut udp = Vec::new();
    let mut tcp = Vec::new();
    for &address in addresses {
        let address = SocketAddr::new(address, 53);
        let socket = StdUdp::bind(address).with_context(|| format!("binding {address}"))?;
        hold_bursts(&socket)?;
        socket.set_nonblocking(true)?;
        udp.push(UdpSocket::from_std(socket)?);
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        tcp.push(TcpListener::from_std(listener)?);
    }
    Ok((udp, tcp))
}

async fn serve(
    server: Arc<Server>,
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    mut stopped: watch::Receiver<bool>,
) {
    for socket in udp {
        tokio::spawn(server.clone().serve_udp(Arc::new(socket)));
    }
    for listener in tcp {
        tokio::spawn(server.clone().serve_tcp(listener));
    }
    let _ = stopped.wait_for(|stop| *stop).await;
}

struct Server {
    role: Role,
    log: Arc<Mutex<Vec<LoggedQuery>>>,
    in_flight: Arc<Semaphore>,
}

impl Server {
    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = [0u8; 4096];
        loop {
            let Ok((length, client)) = socket.recv_from(&mut buffer).await else {
                continue;
            };
            let Ok(permit) = self.in_flight.clone().acquire_owned().await else {
                return;
            };
            let query = buffer[..length].to_vec();
            let (server, socket) = (self.clone(), socket.clone());
            tokio::spawn(async move {
                if let Some(reply) = server.reply(&query, client.ip(), true).await {
                    let _ = socket.send_to(&reply, client).await;
                }
                drop(permit);
            });
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        while let Ok((stream, client)) = listener.accept().await {
            let Ok(permit) = self.in_flight.clone().acquire_owned().await else {
                return;
            };
            let server = self.clone();
            tokio::spawn(async move {
                let _ = server.serve_stream(stream, client.ip()).await;
                drop(permit);
            });
        }
    }

    async fn serve_stream(&self, mut stream: TcpStream, client: IpAddr) -> Result<()> {
        loop {
            let length = timeout(TCP_IDLE, stream.read_u16()).await??;
            let mut query = vec![0; length.into()];
            timeout(TCP_IDLE, stream.read_exact(&mut query)).await??;
            if let Some(reply) = self.reply(&query, client, false).await {
                let framed = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
                stream.write_all(&framed).await?;
            }
        }
    }

    /// The reply to a message in wire format, or `None` where none is sent.
    async fn reply(&self, query: &[u8], client: IpAddr, udp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        if query.metadata.message_type != MessageType::Query {
            return None;
        }
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata.recursion_desired = query.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.checking_disabled = query.metadata.checking_disabled;
        reply.queries = query.queries.clone();
        if query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(1232);
            reply.edns = Some(edns);
        }
        let question = match query.queries.as_slice() {
            [question] if query.metadata.op_code == OpCode::Query => question,
            _ => {
                reply.metadata.response_code = ResponseCode::NotImp;
                return reply.to_vec().ok();
            }
        };
        let qname = question.name().to_lowercase();
        self.record(client, &qname, question.query_type());

        let found = match (&self.role, question.query_class()) {
            (Role::Authority(world), DNSClass::IN) => {
                reply.metadata.authoritative = true;
                let world = world.read().unwrap_or_else(PoisonError::into_inner);
                look_up(&world, &qname, question.query_type())
            }
            (Role::Cache(cache), DNSClass::IN) => {
                cache.look_up(&qname, question.query_type()).await
            }
            _ => Found::failure(ResponseCode::Refused),
        };
        reply.metadata.response_code = found.rcode;
        reply.answers = found.answers;
        reply.authorities = found.authorities;
        // The first owner spelled as it was asked for.
        for record in &mut reply.answers {
            if record.name == *question.name() {
                record.name = question.name().clone();
            }
        }
        let wire = reply.to_vec().ok()?;
        let limit = usize::from(query.edns.as_ref().map_or(512, |_| query.max_payload()));
        if udp && wire.len() > limit {
            return reply.truncate().to_vec().ok();
        }
        Some(wire)
    }

    fn record(&self, client: IpAddr, qname: &Name, qtype: RecordType) {
        let mut log = lock(&self.log);
        if log.len() == LOG_MAX {
            log.drain(..LOG_MAX / 2);
        }
        log.push(LoggedQuery {
            client: canonical(client),
            qname: qname.to_ascii(),
            qtype: qtype.to_string(),
        });
    }
}

fn canonical(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(address) => address.to_ipv4_mapped().map_or(address.into(), IpAddr::V4),
        v4 => v4,
    }
}

/// The result of a look-up.
#[derive(Clone, Debug)]
struct Found {
    rcode: ResponseCode,
    answers: Vec<Record>,
    authorities: Vec<Record>,
}

impl Found {
    fn answer(answers: Vec<Record>) -> Self {
        Self {
            rcode: ResponseCode::NoError,
            answers,
            authorities: Vec::new(),
        }
    }

    fn negative(rcode: ResponseCode, soa: Record) -> Self {
        Self {
            rcode,
            answers: Vec::new(),
            authorities: vec![soa],
        }
    }

    fn failure(rcode: ResponseCode) -> Self {
        Self {
            rcode,
            answers: Vec::new(),
            authorities: Vec::new(),
        }
    }
}

/// Answers from the table. An ExternalName is answered as CoreDNS's kubernetes plugin does: CNAME and whatever its target
/// has for A and AAAA, the rcode of the target dropped; the CNAME for CNAME; NODATA for anything else.
fn look_up(world: &World, qname: &Name, qtype: RecordType) -> Found {
    chase(world, qname, qtype, CHAIN_MAX)
}

fn chase(world: &World, qname: &Name, qtype: RecordType, steps: usize) -> Found {
    let Some(steps) = steps.checked_sub(1) else {
        return Found::failure(ResponseCode::ServFail);
    };
    let text = qname.to_ascii();
    let cluster = parse("cluster.local.");
    if cluster.zone_of(qname) {
        let soa = soa_record(&cluster, "ns.dns.cluster.local.", CLUSTER_TTL);
        let service = world.external_names.iter().find(|s| s.owner() == text);
        if let Some(service) = service {
            let target = parse(&service.target);
            let cname = Record::from_rdata(
                qname.clone(),
                CLUSTER_TTL,
                RData::CNAME(CNAME(target.clone())),
            );
            return match qtype {
                RecordType::CNAME => Found::answer(vec![cname]),
                RecordType::A | RecordType::AAAA => {
                    let mut answers = vec![cname];
                    answers.extend(chase(world, &target.to_lowercase(), qtype, steps).answers);
                    Found::answer(answers)
                }
                _ => Found::negative(ResponseCode::NoError, soa),
            };
        }
        let rcode = if config::existing_cluster_names(world).contains(&text) {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        };
        return Found::negative(rcode, soa);
    }
    let Some(zone) = world.zones.iter().find(|z| parse(&z.apex).zone_of(qname)) else {
        return Found::negative(
            ResponseCode::NXDomain,
            soa_record(&Name::root(), "a.root-servers.net.", 30),
        );
    };
    let soa = soa_record(&parse(&zone.apex), &format!("ns.{}", zone.apex), 30);
    let owners: Vec<Name> = zone.records.iter().map(|r| parse(&r.owner)).collect();
    let exact = owners.iter().any(|owner| owner == qname);
    // An empty non-terminal exists and stops a wildcard (RFC 4592 §2.2.2).
    let exists = exact || owners.iter().any(|owner| qname.zone_of(owner));
    let mut answers = Vec::new();
    for (record, owner) in zone.records.iter().zip(&owners) {
        let wildcard = !exists && owner.is_wildcard() && owner.base_name().zone_of(qname);
        if (exact && owner == qname) || wildcard {
            answers.push(Record::from_rdata(
                qname.clone(),
                record.ttl,
                rdata(&record.data),
            ));
        }
    }
    if answers.is_empty() {
        let rcode = if exists || parse(&zone.apex) == *qname {
            ResponseCode::NoError
        } else {
            ResponseCode::NXDomain
        };
        return Found::negative(rcode, soa);
    }
    if let Some(RData::CNAME(target)) = answers.first().map(|record| record.data.clone()) {
        answers.truncate(1);
        if qtype != RecordType::CNAME {
            let chased = chase(world, &target.0.to_lowercase(), qtype, steps);
            answers.extend(chased.answers);
            return Found {
                rcode: chased.rcode,
                answers,
                authorities: chased.authorities,
            };
        }
        return Found::answer(answers);
    }
    answers.retain(|record| record.record_type() == qtype);
    if answers.is_empty() {
        return Found::negative(ResponseCode::NoError, soa);
    }
    Found::answer(answers)
}

/// Names of the table are written by hand in this crate or in a test: a bad one is a bug there.
fn parse(name: &str) -> Name {
    Name::from_ascii(name).unwrap_or_else(|error| panic!("{name} in the lab's table: {error}"))
}

fn rdata(data: &Data) -> RData {
    match data {
        Data::A(address) => RData::A(A(*address)),
        Data::Aaaa(address) => RData::AAAA(AAAA(*address)),
        Data::Cname(target) => RData::CNAME(CNAME(parse(target))),
    }
}

fn soa_record(apex: &Name, mname: &str, minimum: u32) -> Record {
    let rname = if apex.is_root() {
        parse("nstld.verisign-grs.com.")
    } else {
        parse(&format!("hostmaster.{}", apex.to_ascii()))
    };
    let soa = SOA::new(parse(mname), rname, 1, 7200, 1800, 86_400, minimum);
    Record::from_rdata(apex.clone(), minimum, RData::SOA(soa))
}

/// A forwarding cache with one upstream and the caps of CoreDNS's `cache 30`.
#[derive(Debug)]
pub(crate) struct Cache {
    upstream: SocketAddr,
    entries: Mutex<HashMap<(Name, RecordType), (Instant, Found)>>,
}

impl Cache {
    pub fn new(upstream: IpAddr) -> Self {
        Self {
            upstream: SocketAddr::new(upstream, 53),
            entries: Mutex::default(),
        }
    }

    async fn look_up(&self, qname: &Name, qtype: RecordType) -> Found {
        let key = (qname.clone(), qtype);
        let now = Instant::now();
        if let Some((stored, found)) = lock(&self.entries).get(&key) {
            let age = now.duration_since(*stored).as_secs() as u32;
            if age < lifetime(found) {
                let mut found = found.clone();
                for record in found.answers.iter_mut().chain(&mut found.authorities) {
                    record.decrement_ttl(age);
                }
                return found;
            }
        }
        let Ok(reply) = self.forward(qname, qtype).await else {
            return Found::failure(ResponseCode::ServFail);
        };
        let mut found = Found {
            rcode: reply.metadata.response_code,
            answers: reply.answers,
            authorities: reply.authorities,
        };
        let cap = lifetime(&found);
        for record in &mut found.answers {
            record.ttl = cap;
        }
        if matches!(found.rcode, ResponseCode::NoError | ResponseCode::NXDomain) {
            let mut entries = lock(&self.entries);
            if entries.len() == CACHE_MAX {
                entries.clear();
            }
            entries.insert(key, (now, found.clone()));
        }
        found
    }

    async fn forward(&self, qname: &Name, qtype: RecordType) -> Result<Message> {
        let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(hickory_proto::op::Query::query(qname.clone(), qtype));
        let mut edns = Edns::new();
        edns.set_max_payload(1232);
        query.edns = Some(edns);
        let wire = query.to_vec()?;

        let any: IpAddr = match self.upstream {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(self.upstream).await?;
        socket.send(&wire).await?;
        let mut buffer = [0u8; 4096];
        let length = timeout(patience(UPSTREAM_TIMEOUT), socket.recv(&mut buffer)).await??;
        let reply = Message::from_vec(&buffer[..length])?;
        if reply.metadata.id != query.metadata.id {
            bail!("a reply to another query");
        }
        if !reply.metadata.truncation {
            return Ok(reply);
        }
        timeout(patience(UPSTREAM_TIMEOUT), async {
            let mut stream = TcpStream::connect(self.upstream).await?;
            let framed = [&(wire.len() as u16).to_be_bytes()[..], &wire].concat();
            stream.write_all(&framed).await?;
            let mut reply = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut reply).await?;
            Ok(Message::from_vec(&reply)?)
        })
        .await?
    }
}

/// The TTL of an answer in the cache: 30 s for a positive one, 5 s for a negative one, never longer than it says.
fn lifetime(found: &Found) -> u32 {
    let ttls = |records: &[Record]| records.iter().map(|record| record.ttl).min();
    match ttls(&found.answers) {
        Some(ttl) => ttl.min(30),
        None => ttls(&found.authorities).unwrap_or(0).min(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::{BROKER, FOO_ADDRESSES, FOO_ENDPOINT};

    fn ask(name: &str, qtype: RecordType) -> Found {
        look_up(&World::default(), &parse(name), qtype)
    }

    #[test]
    fn an_external_name_is_a_chain_for_a_and_a_bare_cname_for_aaaa() {
        let found = ask("kafka-upstream.foo.svc.cluster.local.", RecordType::A);
        assert_eq!(found.answers.len(), 1 + FOO_ADDRESSES.len());
        let found = ask("kafka-upstream.foo.svc.cluster.local.", RecordType::AAAA);
        assert_eq!(found.rcode, ResponseCode::NoError);
        assert_eq!(found.answers.len(), 1);
        assert!(found.authorities.is_empty());
        let found = ask("kafka-upstream.foo.svc.cluster.local.", RecordType::HTTPS);
        assert!(found.answers.is_empty());
        assert_eq!(found.authorities.len(), 1);
    }

    #[test]
    fn negatives_carry_the_soa_of_their_zone() {
        for (name, rcode) in [
            (
                "kafka-upstream.baz.svc.cluster.local.",
                ResponseCode::NXDomain,
            ),
            ("baz.svc.cluster.local.", ResponseCode::NoError),
            (FOO_ENDPOINT, ResponseCode::NoError),
            ("nothing.example.", ResponseCode::NXDomain),
        ] {
            let found = ask(name, RecordType::AAAA);
            assert_eq!(found.rcode, rcode, "{name}");
            assert!(found.answers.is_empty(), "{name}");
            assert_eq!(found.authorities.len(), 1, "{name}");
        }
    }

    #[test]
    fn the_public_wildcard_covers_the_broker() {
        let found = ask(&format!("{BROKER}."), RecordType::A);
        assert_eq!(found.answers.len(), 1);
        assert_eq!(
            ask("private.kafka.managed.", RecordType::A).rcode,
            ResponseCode::NoError
        );
    }
}
