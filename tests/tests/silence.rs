//! What the tenants' resolvers make of one query that is left without a reply, and of one that gets SERVFAIL, before the
//! answer is there: why gregor keeps silent about a name that exists and that it cannot look up. Wants root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use e2e::{clients, qualified};
use gregor_tests::lab::{
    CacheKind, Lab,
    world::{BROKER, NODE_LOCAL_V4},
};

const TENANT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// How long a limit stays exceeded.
const LIMIT: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq)]
enum First {
    Silence,
    Servfail,
}

/// The pods' nameserver: for a second, as while a limit is exceeded, queries for the tenant's name get `first`, then the answer.
struct Nameserver {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Nameserver {
    fn start(lab: &Lab, first: First) -> Self {
        let address = SocketAddr::new(NODE_LOCAL_V4.into(), 53);
        let socket = lab
            .node()
            .enter(move || UdpSocket::bind(address).unwrap())
            .unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            let mut since = None;
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                    continue;
                };
                if let Some(reply) = reply(&buffer[..length], first, &mut since) {
                    let _ = socket.send_to(&reply, client);
                }
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn reply(query: &[u8], first: First, since: &mut Option<Instant>) -> Option<Vec<u8>> {
    let mut labels = Vec::new();
    let mut at = 12;
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
        at = end;
    }
    let name = labels.join(".");
    let end = at + 5;
    let qtype = u16::from_be_bytes([query[at + 1], query[at + 2]]);
    let (rcode, address) = if name == qualified("foo") {
        if since.get_or_insert_with(Instant::now).elapsed() < LIMIT {
            match first {
                First::Silence => return None,
                First::Servfail => (2, None),
            }
        } else {
            (0, Some(TENANT))
        }
    } else if name == BROKER {
        (0, Some(PUBLIC))
    } else {
        (3, None)
    };
    let address = address.filter(|_| qtype == 1);
    let mut reply = query[..2].to_vec();
    reply.extend([0x81, 0x80 | rcode, 0, 1, 0, u8::from(address.is_some())]);
    reply.extend([0, 0, 0, 0]);
    reply.extend(&query[12..end]);
    if let Some(address) = address {
        reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 30, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}

#[test]
fn after_silence_a_resolver_asks_again_and_after_servfail_it_goes_elsewhere() {
    let lab = Lab::builder("silence")
        .pod("foo")
        .cache(CacheKind::None)
        .start()
        .unwrap();
    for client in clients() {
        let found = {
            let _nameserver = Nameserver::start(&lab, First::Silence);
            client.finds(lab.pod("foo"), BROKER)
        };
        assert_eq!(found, Ok(vec![TENANT.into()]), "{}", client.name);
    }
    for client in clients() {
        let found = {
            let _nameserver = Nameserver::start(&lab, First::Servfail);
            client.finds(lab.pod("foo"), BROKER)
        };
        match client.name {
            // It waits as if there were no reply.
            "musl" => assert_eq!(found, Ok(vec![TENANT.into()])),
            "c-ares" => assert!(found.is_err(), "{found:?}"),
            name => assert_eq!(found, Ok(vec![PUBLIC.into()]), "{name}"),
        }
    }
}
