//! Sockets on loopback; nothing here waits for time to pass.

use std::{collections::HashSet, net::SocketAddr};

use tokio::net::UdpSocket;

use super::*;

async fn server() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

fn lease(pool: &Arc<Pool>, server: SocketAddr) -> Lease {
    pool.lease(server).unwrap()
}

fn port(lease: &Lease) -> u16 {
    lease.socket.socket.local_addr().unwrap().port()
}

/// A message with an ID, and one byte that distinguishes it.
fn message(id: u16, byte: u8) -> Vec<u8> {
    [&id.to_be_bytes()[..], &[byte]].concat()
}

/// Waits until the unused sockets are closed.
async fn closed(pool: &Pool, open: usize) {
    while pool.open.load(Ordering::Relaxed) != open {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn each_look_up_has_a_port_of_its_own_up_to_the_limit() {
    let pool = Arc::new(Pool::new(16));
    let (_socket, server) = server().await;
    let leases: Vec<Lease> = (0..12).map(|_| lease(&pool, server)).collect();
    let ports: HashSet<u16> = leases.iter().map(port).collect();
    assert_eq!(ports.len(), 12);

    // One after the other, too: a port does not outlive its look-up.
    drop(leases);
    closed(&pool, 0).await;
    assert!(lock(&pool.sockets).is_empty());
    let mut ports = HashSet::new();
    for _ in 0..8 {
        ports.insert(port(&lease(&pool, server)));
        closed(&pool, 0).await;
    }
    assert!(ports.len() > 1, "eight random ports are equal");
}

#[tokio::test]
async fn a_flood_shares_sockets_and_leaves_some_for_other_servers() {
    let pool = Arc::new(Pool::new(16));
    let (_socket, flooded) = server().await;
    let leases: Vec<Lease> = (0..2000).map(|_| lease(&pool, flooded)).collect();
    assert_eq!(pool.open.load(Ordering::Relaxed), 12);
    let places: HashSet<(u16, u16)> = leases.iter().map(|l| (port(l), l.id())).collect();
    assert_eq!(places.len(), leases.len(), "port and ID identify a look-up");

    let mut others = Vec::new();
    for _ in 0..4 {
        let (socket, server) = server().await;
        others.push((lease(&pool, server), lease(&pool, server), socket));
    }
    assert!(others.iter().all(|(a, b, _)| port(a) == port(b)));
    let (_socket, one_too_many) = server().await;
    assert_eq!(
        pool.lease(one_too_many).unwrap_err().raw_os_error(),
        Some(libc::EMFILE)
    );
    drop(leases);
    closed(&pool, 4).await;
    lease(&pool, one_too_many);
}

#[tokio::test]
async fn replies_reach_the_look_up_of_their_id_only() {
    let pool = Arc::new(Pool::new(1));
    let (socket, server) = server().await;
    let leases: Vec<Lease> = (0..3).map(|_| lease(&pool, server)).collect();
    let client = SocketAddr::from(([127, 0, 0, 1], port(&leases[0])));
    assert!(leases.iter().all(|lease| port(lease) == client.port()));
    for (lease, byte) in leases.iter().zip(0..3).rev() {
        socket
            .send_to(&message(lease.id(), byte), client)
            .await
            .unwrap();
    }
    for (lease, byte) in leases.iter().zip(0..) {
        let reply = Received::Reply(message(lease.id(), byte));
        assert_eq!(lease.next().await, reply);
    }
}

#[tokio::test]
async fn guesses_count_for_all_and_late_replies_for_none() {
    let pool = Arc::new(Pool::new(1));
    let (socket, server) = server().await;
    let [first, second, ended] = [(); 3].map(|()| lease(&pool, server));
    let client = SocketAddr::from(([127, 0, 0, 1], port(&first)));
    let late = ended.id();
    drop(ended);
    let guess = (0..).find(|id| ![first.id(), second.id(), late].contains(id));
    let send = async |id| socket.send_to(&message(id, 0), client).await.unwrap();
    // The right reply behind a guess comes first: a look-up that has it does not need the guesses.
    send(late).await;
    send(guess.unwrap()).await;
    send(second.id()).await;
    assert_eq!(first.next().await, Received::Mismatches(1));
    while lock(&second.inbox.arrived).replies.is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        second.next().await,
        Received::Reply(message(second.id(), 0))
    );
    assert_eq!(second.next().await, Received::Mismatches(1));
}

#[tokio::test]
async fn datagrams_from_other_addresses_are_not_received() {
    let pool = Arc::new(Pool::new(1));
    let (socket, server) = server().await;
    let (other, _) = self::server().await;
    let lease = lease(&pool, server);
    let client = SocketAddr::from(([127, 0, 0, 1], port(&lease)));
    other
        .send_to(&message(lease.id(), 66), client)
        .await
        .unwrap();
    socket
        .send_to(&message(lease.id(), 1), client)
        .await
        .unwrap();
    assert_eq!(lease.next().await, Received::Reply(message(lease.id(), 1)));
}

#[tokio::test]
async fn a_closed_port_is_unreachable_for_every_look_up() {
    let pool = Arc::new(Pool::new(1));
    let (socket, server) = server().await;
    drop(socket);
    let [first, second] = [(); 2].map(|()| lease(&pool, server));
    first.send(b"a question").await.unwrap();
    assert_eq!(first.next().await, Received::Unreachable);
    assert_eq!(second.next().await, Received::Unreachable);
}

#[tokio::test]
async fn an_old_socket_takes_no_look_ups_once_there_is_a_younger_one() {
    let pool = Arc::new(Pool::new(4));
    let (_socket, server) = server().await;
    let leases: Vec<Lease> = (0..3).map(|_| lease(&pool, server)).collect();
    let sockets = lock(&pool.sockets);
    let [old, middle, young] = [0, 1, 2].map(|at| sockets[at].opened);
    let chosen = |now: Instant| -> HashSet<u16> {
        (0..200)
            .map(|_| shared(&sockets, server, now).unwrap())
            .map(|socket| socket.socket.local_addr().unwrap().port())
            .collect()
    };
    assert!(old < middle && middle < young);
    let ports: HashSet<u16> = leases.iter().map(port).collect();
    assert_eq!(chosen(young), ports);
    // One of three is missed by 200 choices once in 10^34.
    assert!(!chosen(old + SHARED_FOR).contains(&port(&leases[0])));
    // All are old: the youngest has to do, and the others end.
    let last = HashSet::from([port(&leases[2])]);
    assert_eq!(chosen(young + SHARED_FOR), last);
    drop(sockets);
}

#[tokio::test]
async fn connections_over_tcp_are_bounded() {
    let pool = Pool::new(8);
    let now = Instant::now();
    let first = pool.tcp(now).await.unwrap();
    let _second = pool.tcp(now).await.unwrap();
    assert!(pool.tcp(now).await.is_none());
    drop(first);
    assert!(pool.tcp(now).await.is_some());
}
