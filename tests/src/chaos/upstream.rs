//! The cluster DNS of a chaos run: every tenant has an endpoint, and its address changes every few seconds.
//!
//! An answer has its tenant and its generation, so that a client can judge it by itself: of two addresses one holds the tenant,
//! the other one the generation.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::Result;
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{A, CNAME, SOA},
    },
};

use crate::lab::{Netns, hold_bursts};

/// How long an endpoint keeps its address.
pub const GENERATION: Duration = Duration::from_secs(3);
/// TTL of everything, in seconds.
const TTL: u32 = 2;
/// Generations are counted modulo this.
const GENERATIONS: u32 = 1 << 12;
/// Tenants are numbered below this.
const TENANTS: u32 = 1 << 24;

const SUFFIX: &str = "eu-west-1.aws.private.kafka.managed";
const ENDPOINTS: &str = "endpoints.test";
const FOREIGN: &str = "example.com";

/// A broker's name in a tenant's namespace.
pub fn matched(broker: u32, tenant: u32) -> String {
    format!("b{broker}.{SUFFIX}.t{tenant}.svc.cluster.local")
}

/// A name that no rule matches.
pub fn foreign(number: u32) -> String {
    format!("w{number}.{FOREIGN}")
}

/// The one address of a foreign name.
pub fn foreign_address(number: u32) -> Ipv4Addr {
    numbered(12, number)
}

fn numbered(first: u8, number: u32) -> Ipv4Addr {
    let [_, b, c, d] = number.to_be_bytes();
    Ipv4Addr::new(first, b, c, d)
}

/// Time in generations.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    fn generation(&self) -> u32 {
        (self.elapsed().as_secs() / GENERATION.as_secs()) as u32 % GENERATIONS
    }

    /// The addresses of a tenant's endpoint now.
    pub(super) fn endpoint(&self, tenant: u32) -> [Ipv4Addr; 2] {
        endpoint(tenant, self.generation())
    }

    /// How old an answer is, if these are the addresses that the tenant's endpoint has or had.
    pub fn age(&self, tenant: u32, addresses: &[Ipv4Addr]) -> Option<Duration> {
        let now = self.generation();
        let [_, b, c, _] = addresses
            .iter()
            .find(|address| address.octets()[0] == 11)?
            .octets();
        let generation = (u32::from(b) << 4) | (u32::from(c) >> 4);
        let mut expected = endpoint(tenant, generation);
        let mut found = <[Ipv4Addr; 2]>::try_from(addresses).ok()?;
        expected.sort();
        found.sort();
        let age = (now + GENERATIONS - generation) % GENERATIONS;
        // More is the future.
        (expected == found && age < GENERATIONS / 2).then(|| GENERATION * age)
    }
}

fn endpoint(tenant: u32, generation: u32) -> [Ipv4Addr; 2] {
    let tenant = tenant % TENANTS;
    let mixed = ((generation % GENERATIONS) << 12) | (tenant & 0xfff);
    [numbered(10, tenant), numbered(11, mixed)]
}

/// The server; it ends when this is dropped.
#[derive(Debug)]
pub struct Upstream {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Serves UDP at an address of the namespace.
    pub fn start(netns: &Netns, address: IpAddr, clock: Clock) -> Result<Self> {
        let bind = move || -> io::Result<UdpSocket> {
            let socket = UdpSocket::bind(SocketAddr::new(address, 53))?;
            hold_bursts(&socket)?;
            socket.set_read_timeout(Some(Duration::from_millis(100)))?;
            Ok(socket)
        };
        let socket = netns.enter(bind)??;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut buffer = [0; 1500];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if let Some(reply) = reply(&buffer[..length], clock) {
                    // A client that has ended asks for nothing more.
                    let _ = socket.send_to(&reply, client);
                }
            }
        });
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn reply(query: &[u8], clock: Clock) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let question = query.queries.first()?;
    let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
    reply.metadata.authoritative = true;
    reply.metadata.recursion_desired = query.metadata.recursion_desired;
    reply.queries = query.queries.clone();
    let name = question.name();
    let text = name.to_ascii().to_ascii_lowercase();
    match look_up(&text, question.query_type(), clock) {
        Some(records) => {
            let record = |(owner, data): (Option<String>, RData)| {
                let owner = match owner {
                    None => name.clone(),
                    Some(owner) => Name::from_ascii(owner).ok()?,
                };
                Some(Record::from_rdata(owner, TTL, data))
            };
            reply.answers = records.into_iter().filter_map(record).collect();
        }
        None => reply.metadata.response_code = ResponseCode::NXDomain,
    }
    if reply.answers.is_empty() {
        reply.authorities = vec![soa()?];
    }
    reply.to_vec().ok()
}

/// The records of a name, with their owner where that is another one; `None` where there is no such name.
fn look_up(name: &str, qtype: RecordType, clock: Clock) -> Option<Vec<(Option<String>, RData)>> {
    let number = |prefix: &str, suffix: &str| -> Option<u32> {
        let suffix = format!(".{suffix}.");
        let number = name.strip_suffix(&suffix)?.strip_prefix(prefix)?;
        number.parse().ok()
    };
    let is_a = qtype == RecordType::A;
    let addresses = |owner: Option<&String>, addresses: &[Ipv4Addr]| {
        let record = |address: &Ipv4Addr| (owner.cloned(), RData::A(A(*address)));
        let found: Vec<_> = addresses.iter().map(record).collect();
        if is_a { found } else { Vec::new() }
    };
    if let Some(tenant) = number("kafka-upstream.t", "svc.cluster.local") {
        let target = format!("vpce-t{tenant}.{ENDPOINTS}.");
        let cname = RData::CNAME(CNAME(Name::from_ascii(&target).ok()?));
        let mut records = vec![(None, cname)];
        records.extend(addresses(Some(&target), &clock.endpoint(tenant)));
        Some(records)
    } else if let Some(tenant) = number("vpce-t", ENDPOINTS) {
        Some(addresses(None, &clock.endpoint(tenant)))
    } else {
        number("w", FOREIGN).map(|number| addresses(None, &[foreign_address(number)]))
    }
}

fn soa() -> Option<Record> {
    let name = |text| Name::from_ascii(text).ok();
    let soa = SOA::new(
        name("ns.test.")?,
        name("root.test.")?,
        1,
        7200,
        1800,
        86_400,
        TTL,
    );
    Some(Record::from_rdata(Name::root(), TTL, RData::SOA(soa)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_tenant_and_its_generation() {
        let clock = Clock(Instant::now());
        let own = clock.endpoint(70_000);
        assert_eq!(clock.age(70_000, &own), Some(Duration::ZERO));
        assert_eq!(clock.age(70_000, &[own[1], own[0]]), Some(Duration::ZERO));
        assert_eq!(clock.age(70_001, &own), None);
        assert_eq!(clock.age(70_000, &own[..1]), None);
        assert_eq!(clock.age(70_000, &[own[0], clock.endpoint(4)[1]]), None);
        // An address of a later generation.
        assert_eq!(clock.age(70_000, &endpoint(70_000, 9)), None);
        let old = endpoint(70_000, GENERATIONS - 2);
        assert_eq!(clock.age(70_000, &old), Some(GENERATION * 2));
    }

    #[test]
    fn names_lead_to_their_own_endpoint() {
        let clock = Clock::start();
        let ask = |name: &str, qtype| look_up(&format!("{name}."), qtype, clock);
        let found = ask("kafka-upstream.t7.svc.cluster.local", RecordType::A).unwrap();
        assert_eq!(found.len(), 3);
        let found = ask("kafka-upstream.t7.svc.cluster.local", RecordType::AAAA).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(
            ask("vpce-t7.endpoints.test", RecordType::A).unwrap().len(),
            2
        );
        assert_eq!(ask("w7.example.com", RecordType::A).unwrap().len(), 1);
        assert_eq!(ask(&matched(1, 7), RecordType::A), None);
    }
}
