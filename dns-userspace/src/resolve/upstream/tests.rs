//! Servers that lie, on loopback. Nothing here waits for time to pass but the tests of silence.

mod odd;

use std::time::Duration;

use hickory_proto::op::ResponseCode;
use tokio::net::{TcpListener, UdpSocket};

use super::{exchange::MAX_MISMATCHES, infra::Style, *};
use crate::{
    model::wire_name,
    resolve::testing::{a, name},
};

const QNAME: &str = "kafka-upstream.foo.svc.cluster.local.";
/// Longer than any of these tests takes.
const LONG: Duration = Duration::from_secs(30);

/// What a server does with the queries that it gets: each gives any number of datagrams.
type Script = Box<dyn FnMut(&[u8]) -> Vec<Vec<u8>> + Send>;

/// The reply to a query over TCP.
type TcpScript = fn(&[u8]) -> Vec<u8>;

/// A port that is free for both.
async fn bind_both() -> (UdpSocket, TcpListener) {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        if let Ok(listener) = TcpListener::bind(udp.local_addr().unwrap()).await {
            return (udp, listener);
        }
    }
}

async fn serve_udp(socket: UdpSocket, mut script: Script) {
    let mut buffer = [0; 2000];
    while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
        for reply in script(&buffer[..length]) {
            socket.send_to(&reply, from).await.unwrap();
        }
    }
}

/// Starts a server; `tcp` gives its reply to a query over TCP, or there is no TCP.
async fn server(script: Script, tcp: Option<TcpScript>) -> SocketAddr {
    let (udp, listener) = bind_both().await;
    let address = udp.local_addr().unwrap();
    tokio::spawn(serve_udp(udp, script));
    if let Some(tcp) = tcp {
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let length = stream.read_u16().await.unwrap();
                let mut query = vec![0; length.into()];
                stream.read_exact(&mut query).await.unwrap();
                let reply = tcp(&query);
                stream.write_u16(reply.len() as u16).await.unwrap();
                stream.write_all(&reply).await.unwrap();
            }
        });
    }
    address
}

async fn ask_it(server: SocketAddr) -> Result<(Message, Transport), Failure> {
    ask_within(server, LONG, LONG).await
}

async fn ask_within(
    server: SocketAddr,
    timeout: Duration,
    retry_after: Duration,
) -> Result<(Message, Transport), Failure> {
    let policy = RetryPolicy {
        deadline: Instant::now() + timeout,
        retry_after,
    };
    let pool = Arc::new(Pool::new(16));
    let asked = ask(&pool, server, &name(QNAME), RecordType::A, policy).await?;
    Ok((asked.message, asked.transport))
}

/// Where a query's question ends.
fn end_of_question(query: &[u8]) -> usize {
    let opt = if query[11] == 1 { 11 } else { 0 };
    query.len() - opt
}

/// The question of a query without its OPT, as a reply with `count` records that follow in `records`.
fn reply(query: &[u8], flags: u16, count: u16, records: &[u8]) -> Vec<u8> {
    let question = &query[12..end_of_question(query)];
    let mut reply = query[..2].to_vec();
    reply.extend_from_slice(&flags.to_be_bytes());
    reply.extend_from_slice(&[0, 1]);
    reply.extend_from_slice(&count.to_be_bytes());
    reply.extend_from_slice(&[0; 4]);
    reply.extend_from_slice(question);
    reply.extend_from_slice(records);
    reply
}

const ADDRESS: &[u8] = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";

fn good(query: &[u8]) -> Vec<u8> {
    reply(query, 0x8180, 1, ADDRESS)
}

fn assert_good(result: Result<(Message, Transport), Failure>, transport: Transport) {
    let (message, came_by) = result.unwrap();
    assert_eq!(came_by, transport);
    assert_eq!(message.metadata.response_code, ResponseCode::NoError);
    assert_eq!(message.answers, [a(QNAME, 60, [10, 0, 0, 1])]);
}

/// A bad reply is no answer, and the good one behind it is.
async fn is_ignored(bad: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) {
    let script: Script = Box::new(move |query| vec![bad(query), good(query)]);
    assert_good(ask_it(server(script, None).await).await, Transport::Udp);
}

#[tokio::test]
async fn a_good_reply_is_taken() {
    let server = server(Box::new(|query| vec![good(query)]), None).await;
    assert_good(ask_it(server).await, Transport::Udp);
}

#[tokio::test]
async fn queries_differ_in_id_and_case_and_carry_an_opt() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let script: Script = Box::new(move |query| {
        sender.send(query.to_vec()).unwrap();
        vec![good(query)]
    });
    let server = server(script, None).await;
    for _ in 0..4 {
        assert_good(ask_it(server).await, Transport::Udp);
    }
    let queries: Vec<Vec<u8>> = receiver.try_iter().collect();
    assert_eq!(queries.len(), 4);
    // Four equal IDs or spellings come about once in 2^48.
    assert!(queries.iter().any(|query| query[..2] != queries[0][..2]));
    assert!(queries.iter().any(|query| query[12..] != queries[0][12..]));
    for query in &queries {
        assert_eq!(query[2..12], [1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        assert!(query.ends_with(b"\0\0\x29\x04\xd0\0\0\0\0\0\0"));
        let wire = wire_name(&name(QNAME));
        assert!(query[12..12 + wire.len()].eq_ignore_ascii_case(&wire));
    }
}

#[tokio::test]
async fn another_id_is_ignored() {
    is_ignored(|query| {
        let mut reply = good(query);
        reply[1] ^= 1;
        reply
    })
    .await;
}

#[tokio::test]
async fn another_question_is_ignored() {
    for at in [13, 12 + wire_name(&name(QNAME)).len() + 1] {
        is_ignored(move |query| {
            let mut reply = good(query);
            reply[at] ^= 3;
            reply
        })
        .await;
    }
}

#[tokio::test]
async fn another_case_is_ignored() {
    is_ignored(|query| {
        let mut reply = good(query);
        reply[13] ^= 0x20;
        reply
    })
    .await;
}

#[tokio::test]
async fn a_query_for_a_reply_another_opcode_or_count_is_ignored() {
    for (at, value) in [(2, 0x01), (2, 0xa1), (5, 0), (5, 2)] {
        is_ignored(move |query| {
            let mut reply = good(query);
            reply[at] = value;
            reply
        })
        .await;
    }
}

#[tokio::test]
async fn every_truncation_is_ignored() {
    let length = {
        let question = Question::new(&name(QNAME), RecordType::A, 7, Style::FULL, rand::random);
        good(question.message()).len()
    };
    // One server for all lengths, each sent once per question.
    for end in 0..length {
        is_ignored(move |query| good(query)[..end].to_vec()).await;
    }
}

#[tokio::test]
async fn pointers_that_loop_or_lead_forward_are_ignored() {
    let question_len = wire_name(&name(QNAME)).len() + 4;
    let here = 12 + question_len as u16;
    for pointer in [here, here + 2, 0x3fff] {
        is_ignored(move |query| {
            let mut record = ADDRESS.to_vec();
            record[..2].copy_from_slice(&(0xc000 | pointer).to_be_bytes());
            reply(query, 0x8180, 1, &record)
        })
        .await;
    }
    // A CNAME whose target points at itself.
    is_ignored(move |query| {
        let target = (0xc000 | (here + 12)).to_be_bytes();
        let record = [&b"\xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x02"[..], &target].concat();
        reply(query, 0x8180, 1, &record)
    })
    .await;
}

#[tokio::test]
async fn records_without_end_are_ignored() {
    // Said only, and really there.
    is_ignored(|query| reply(query, 0x8180, 10_000, ADDRESS)).await;
    // Owned by the root: more records than a message holds with names in them.
    let tcp = |query: &[u8]| {
        let record = b"\0\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01";
        reply(query, 0x8180, 4300, &record.repeat(4300))
    };
    let truncated: Script = Box::new(|query| vec![reply(query, 0x8380, 0, &[])]);
    let server = server(truncated, Some(tcp)).await;
    assert_eq!(ask_it(server).await.unwrap_err(), Failure::Unusable);
}

#[tokio::test]
async fn truncation_leads_to_tcp() {
    let script: Script = Box::new(|query| vec![reply(query, 0x8380, 0, &[])]);
    let server = server(script, Some(good)).await;
    assert_good(ask_it(server).await, Transport::Tcp);
}

#[tokio::test]
async fn a_reply_over_tcp_may_fill_64_kib() {
    let script: Script = Box::new(|query| vec![reply(query, 0x8380, 0, &[])]);
    let tcp = |query: &[u8]| reply(query, 0x8180, 4000, &ADDRESS.repeat(4000));
    let (message, transport) = ask_it(server(script, Some(tcp)).await).await.unwrap();
    assert_eq!((message.answers.len(), transport), (4000, Transport::Tcp));
}

#[tokio::test]
async fn a_forged_reply_does_not_come_from_the_server() {
    // Everything is right but the source: a second socket answers first.
    let other = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            let query = &buffer[..length];
            let mut forged = good(query);
            let last = forged.len() - 1;
            forged[last] = 66;
            other.send_to(&forged, from).unwrap();
            udp.send_to(&good(query), from).await.unwrap();
        }
    });
    assert_good(ask_it(address).await, Transport::Udp);
}

fn guesses(query: &[u8]) -> Vec<Vec<u8>> {
    (1..=2 * MAX_MISMATCHES as u8)
        .map(|guess| {
            let mut reply = good(query);
            reply[0] ^= guess;
            reply
        })
        .collect()
}

#[tokio::test]
async fn after_some_guesses_tcp_is_asked() {
    let server = server(Box::new(guesses), Some(good)).await;
    assert_good(ask_it(server).await, Transport::Tcp);
}

#[tokio::test]
async fn after_guesses_and_without_tcp_the_right_reply_is_still_taken() {
    let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = udp.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2000];
        while let Ok((length, from)) = udp.recv_from(&mut buffer).await {
            let query = &buffer[..length];
            for reply in guesses(query).iter().chain([&good(query)]) {
                udp.send_to(reply, from).await.unwrap();
            }
        }
    });
    assert_good(ask_it(address).await, Transport::Udp);
}

#[tokio::test]
async fn a_lost_query_is_sent_again() {
    let mut seen = 0;
    let script: Script = Box::new(move |query| {
        seen += 1;
        if seen < 3 { vec![] } else { vec![good(query)] }
    });
    let server = server(script, None).await;
    let result = ask_within(server, LONG, Duration::from_millis(10)).await;
    assert_good(result, Transport::Udp);
}

#[tokio::test]
async fn silence_is_a_timeout_and_a_closed_port_is_the_network() {
    let silent = server(Box::new(|_| vec![]), None).await;
    let (short, again) = (Duration::from_millis(60), Duration::from_millis(20));
    let result = ask_within(silent, short, again).await;
    assert_eq!(result.unwrap_err(), Failure::Timeout);

    let closed = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = closed.local_addr().unwrap();
    drop(closed);
    let result = ask_within(address, short, again).await;
    assert_eq!(result.unwrap_err(), Failure::Network);
}
