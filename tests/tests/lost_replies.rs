//! How the tenants' resolvers react to one query without a reply, and to one with SERVFAIL, before the answer is there: why
//! gregor sends no reply for a name that exists and that it cannot look up. Wants root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use e2e::{Question, UdpServer, clients, qualified};
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
fn nameserver(lab: &Lab, first: First) -> UdpServer {
    let mut since = None;
    let address = SocketAddr::new(NODE_LOCAL_V4.into(), 53);
    UdpServer::start(lab, address, move |query| reply(query, first, &mut since))
}

fn reply(query: &[u8], first: First, since: &mut Option<Instant>) -> Option<Vec<u8>> {
    let Question { labels, qtype, end } = Question::read(query);
    let name = labels.join(".");
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
fn resolvers_retry_after_no_reply_and_go_on_after_servfail() {
    let lab = Lab::builder("silence")
        .pod("foo")
        .cache(CacheKind::None)
        .start()
        .unwrap();
    for client in clients() {
        let found = {
            let _nameserver = nameserver(&lab, First::Silence);
            client.finds(lab.pod("foo"), BROKER)
        };
        assert_eq!(found, Ok(vec![TENANT.into()]), "{}", client.name);
    }
    for client in clients() {
        let found = {
            let _nameserver = nameserver(&lab, First::Servfail);
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
