//! DNS cookies (RFC 7873) of a cache and of clients that insist on them. Wants root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    io::{BufRead as _, BufReader, Lines, Write as _},
    net::IpAddr,
    process::{Child, ChildStdout, Command, Stdio},
};

use e2e::*;
use gregor_tests::{
    lab::{
        CacheKind, Lab, Pod,
        world::{FOO_ADDRESSES, FOREIGN, FOREIGN_ADDRESSES, NODE_LOCAL_V4, NODE_LOCAL_V6},
    },
    tools,
};
use hickory_proto::{
    op::Message,
    rr::{
        RecordType,
        rdata::opt::{EdnsCode, EdnsOption},
    },
};

/// A resolver of c-ares (1.33 and later) in a pod. A server whose cookie it has must send one with each reply; it drops others
/// for two minutes.
struct Client {
    child: Child,
    found: Lines<BufReader<ChildStdout>>,
}

impl Client {
    fn new(pod: &Pod, server: IpAddr) -> Self {
        let mut command = Command::new(tools::cookie_client().unwrap());
        command
            .arg(match server {
                IpAddr::V4(address) => address.to_string(),
                IpAddr::V6(address) => format!("[{address}]"),
            })
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = pod.netns().spawn(command).unwrap();
        let found = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, found }
    }

    /// The addresses, sorted, or why there are none.
    fn addresses(&mut self, name: &str) -> Result<Vec<IpAddr>, String> {
        writeln!(self.child.stdin.as_mut().unwrap(), "{name}").unwrap();
        let line = self.found.next().expect("a line for a name").unwrap();
        if line.starts_with("error: ") {
            return Err(line);
        }
        let addresses = line.split_whitespace();
        Ok(sorted(addresses.map(|address| address.parse().unwrap())))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The cookie in the reply to a query with this one.
fn cookie(pod: &Pod, server: IpAddr, name: &str, cookie: &[u8]) -> Option<Vec<u8>> {
    let mut query = Wire::new(name, RecordType::A).edns(0);
    let (_, _, options) = query.edns.as_mut().unwrap();
    options.extend([0, 10, 0, cookie.len() as u8]);
    options.extend(cookie);
    let reply = exchange_from(pod, server, &query.bytes().0).expect("a reply");
    let reply = Message::from_vec(&reply).unwrap();
    match reply.edns.as_ref()?.option(EdnsCode::Cookie)? {
        EdnsOption::Unknown(_, cookie) => Some(cookie.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn clients_that_insist_on_cookies_find_their_brokers_behind_bind() {
    clients_that_insist_on_cookies_find_their_brokers("e2ebind", CacheKind::Bind);
}

#[test]
fn clients_that_insist_on_cookies_find_their_brokers_behind_unbound() {
    clients_that_insist_on_cookies_find_their_brokers("e2eunbound", CacheKind::UnboundWithCookies);
}

/// A pod asks a foreign name first, through a cache that gives out cookies, and then its broker's.
fn clients_that_insist_on_cookies_find_their_brokers(prefix: &str, cache: CacheKind) {
    let lab = Lab::builder(prefix)
        .pod("foo")
        .cache(cache)
        .start()
        .unwrap();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let foo = lab.pod("foo");
    for server in [IpAddr::V4(NODE_LOCAL_V4), IpAddr::V6(NODE_LOCAL_V6)] {
        let mut client = Client::new(foo, server);
        let foreign = client.addresses(FOREIGN);
        let of_family = |addresses: &[IpAddr]| -> Vec<IpAddr> {
            sorted(addresses.iter().copied().filter(IpAddr::is_ipv4))
        };
        assert_eq!(foreign, Ok(of_family(&FOREIGN_ADDRESSES)));
        let given = cookie(foo, server, FOREIGN, &[7; 8]).expect("a cookie of the cache");
        assert_eq!(given.len(), 24, "the cache gives out server cookies");
        assert!(
            lab.cache()
                .saw(|asked| asked.qname == format!("{FOREIGN}."))
        );

        let broker = qualified("foo");
        let what = format!("asking {server}");
        until_the_programs_answer(&gregor, &what, |_| {
            let found = client.addresses(&broker);
            assert_eq!(found, Ok(of_family(&FOO_ADDRESSES)), "{what}");
        });
        let before = Metrics::of(&gregor).answered();
        let echoed = cookie(foo, server, &broker, &given);
        assert_eq!(echoed.as_ref(), Some(&given), "{what}");
        assert_eq!(cookie(foo, server, &broker, &given[..8]), None, "{what}");
        assert_eq!(Metrics::of(&gregor).answered() - before, 2.0, "{what}");
    }
}
