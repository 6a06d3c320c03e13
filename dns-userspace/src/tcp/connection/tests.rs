//! Connections over real sockets on the loopback interface, against a responder and a server that the test controls.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::Notify,
};

use super::*;
use crate::{
    model::{Client, Identify, Limit},
    resolve::MAX_QUEUED,
    rules::{Budget, ClientsSpec, MatchSpec, Protected, RuleSet, RuleSpec},
    tcp::{Answer, Served, Service},
};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Keeps received queries until the test answers them.
#[derive(Default)]
struct Received {
    queries: Mutex<Vec<StreamQuery>>,
    more: Notify,
}

impl Answer for Received {
    fn answer(&self, query: StreamQuery) {
        self.queries.lock().unwrap().push(query);
        self.more.notify_one();
    }
}

impl Received {
    async fn wait_for(&self, count: usize) -> Vec<StreamQuery> {
        let enough = async {
            while self.queries.lock().unwrap().len() < count {
                self.more.notified().await;
            }
        };
        timeout(PATIENCE, enough).await.expect("queries");
        std::mem::take(&mut self.queries.lock().unwrap())
    }
}

/// The loopback address on interface 1 is a pod's of this namespace.
struct Pod(Option<&'static str>);

impl Identify for Pod {
    fn asking(&self, ifindex: u32, source: IpAddr) -> Option<(u32, Arc<Client>)> {
        let namespace = self.0.filter(|_| ifindex == 1 && source.is_loopback())?;
        let client = Client {
            namespace: namespace.to_owned(),
            ..Client::default()
        };
        Some((7, Arc::new(client)))
    }
}

fn reply(query: &StreamQuery, reply: StreamReply) {
    query.reply.send(reply).unwrap();
}

struct Lab {
    asked: Arc<Received>,
    service: Arc<Service>,
    server: TcpListener,
    client: TcpStream,
}

impl Lab {
    /// A client whose connection is served.
    async fn start() -> Lab {
        Lab::with(ClientsSpec::default(), Pod(None), false).await
    }

    /// The same under a rule for these clients.
    async fn with(clients: ClientsSpec, pod: Pod, protects: bool) -> Lab {
        let specs = [RuleSpec {
            name: "kafka".to_owned(),
            matches: MatchSpec::Pattern("*.kafka.{namespace}.svc".to_owned()),
            cname: "up.{namespace}.svc".to_owned(),
            ttl_seconds: 60,
            follow: true,
            clients,
            ..RuleSpec::default()
        }];
        let rules = RuleSet::compile_and_protect(&specs, "", &Budget::of_this_process(), protects);
        let asked = Arc::new(Received::default());
        let served = Served {
            servers: vec![IpAddr::from([127, 0, 0, 1])],
            rules: Arc::new(rules.unwrap()),
            limit: Limit {
                queries_per_second: 0,
                burst: 0,
            },
        };
        let service = Service::new(asked.clone(), Arc::new(pod), served).unwrap();
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let steered = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(steered.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, steered.accept());
        let (lab_service, address) = (service.clone(), server.local_addr().unwrap());
        let stop = tokio::sync::watch::channel(false);
        tokio::spawn(async move {
            let (sender, stop) = stop;
            serve(&lab_service.dispatch, accepted.unwrap().0, address, 1, stop).await;
            drop(sender);
        });
        Lab {
            asked,
            service,
            server,
            client: client.unwrap(),
        }
    }

    async fn send(&mut self, messages: &[&[u8]]) {
        self.client.write_all(&framed(messages)).await.unwrap();
    }

    async fn receive(&mut self) -> Option<Vec<u8>> {
        receive(&mut self.client).await
    }

    async fn server(&self) -> (OwnedReadHalf, OwnedWriteHalf) {
        let accepted = timeout(PATIENCE, self.server.accept()).await.unwrap();
        accepted.unwrap().0.into_split()
    }
}

fn framed(messages: &[&[u8]]) -> Vec<u8> {
    messages
        .iter()
        .flat_map(|message| [&(message.len() as u16).to_be_bytes()[..], message].concat())
        .collect()
}

/// `None` at the end of the stream.
async fn receive(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> Option<Vec<u8>> {
    let message = async {
        let length = stream.read_u16().await.ok()?;
        let mut message = vec![0; length.into()];
        stream.read_exact(&mut message).await.ok()?;
        Some(message)
    };
    timeout(PATIENCE, message)
        .await
        .expect("a message or the end")
}

fn query(id: u8, name: &str) -> Vec<u8> {
    let mut query = vec![0, id, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        query.push(label.len() as u8);
        query.extend(label.as_bytes());
    }
    query.extend([0, 0, 1, 0, 1]);
    query
}

fn reply_to(query: &[u8]) -> Vec<u8> {
    let mut reply = query.to_vec();
    reply[2] |= 0x80;
    reply
}

const MATCHING: &str = "b.kafka.foo.svc";

#[tokio::test]
async fn replies_are_sent_in_the_order_in_which_they_come() {
    let mut lab = Lab::start().await;
    let (mine, theirs) = (query(1, MATCHING), query(2, "www.example"));
    lab.send(&[&mine, &theirs]).await;
    let (mut from_us, mut to_us) = lab.server().await;
    assert_eq!(receive(&mut from_us).await.unwrap(), theirs);
    to_us
        .write_all(&framed(&[&reply_to(&theirs)]))
        .await
        .unwrap();
    assert_eq!(lab.receive().await.unwrap(), reply_to(&theirs));
    let asked = lab.asked.wait_for(1).await;
    assert_eq!(asked[0].query.question(), &mine[12..]);
    reply(&asked[0], StreamReply::Answer(b"the whole answer".to_vec()));
    assert_eq!(lab.receive().await.unwrap(), b"the whole answer");
    let counters = lab.service.counters();
    assert_eq!((counters.answered, counters.relayed), (1, 1));
}

#[tokio::test]
async fn a_query_that_the_responder_passes_on_reaches_the_server_unchanged() {
    let mut lab = Lab::start().await;
    let mine = query(7, "B.Kafka.foo.SVC");
    lab.send(&[&mine]).await;
    let asked = lab.asked.wait_for(1).await;
    reply(&asked[0], StreamReply::PassOn);
    let (mut from_us, mut to_us) = lab.server().await;
    assert_eq!(receive(&mut from_us).await.unwrap(), mine);
    to_us.write_all(&framed(&[&reply_to(&mine)])).await.unwrap();
    assert_eq!(lab.receive().await.unwrap(), reply_to(&mine));
}

#[tokio::test]
async fn the_names_of_protected_targets_are_the_responders_to_refuse_but_for_the_clients_own() {
    for (namespace, protects, is_refused) in [
        (Some("foo"), true, false),
        (Some("bar"), true, true),
        (None, true, true),
        (None, false, false),
    ] {
        let mut lab = Lab::with(ClientsSpec::default(), Pod(namespace), protects).await;
        let target = query(7, "Up.foo.svc");
        lab.send(&[&target]).await;
        if is_refused {
            let asked = lab.asked.wait_for(1).await;
            let (rules, qname) = (&asked[0].rules, asked[0].query.qname());
            let protected = rules.protection_at(asked[0].rule, qname, None);
            assert_eq!(protected, Some(Protected::Foreign), "{namespace:?}");
            continue;
        }
        let (mut from_us, _to_us) = lab.server().await;
        assert_eq!(receive(&mut from_us).await.unwrap(), target);
        assert_eq!(lab.service.counters().relayed, 1);
    }
}

/// The server may find a name where the responder does not.
#[tokio::test]
async fn what_may_hide_the_name_of_a_protected_target_is_not_relayed() {
    let (target, other) = (query(7, "up.foo.svc"), query(7, "www.example"));
    let changed = |message: &[u8], at: usize, to: u8, more: &[u8]| {
        let mut message = message.to_vec();
        message[at] = to;
        message.extend(more);
        message
    };
    let pointer = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0\x02up\xc0\x15\0\x01\0\x01\x03foo\x03svc\0";
    let txt = [0, 0, 16, 0, 1, 0, 0, 0, 0, 0, 1, 0];
    for (what, message, is_hidden) in [
        ("NOTIFY", changed(&target, 2, 0x21, &[]), true),
        ("a record", changed(&target, 11, 1, &txt), true),
        ("bytes behind it", changed(&target, 2, 1, &[0; 9]), true),
        ("two questions", changed(&other, 5, 2, &other[12..]), true),
        ("a pointer", pointer.to_vec(), true),
        (
            "NOTIFY, of another name",
            changed(&other, 2, 0x21, &[]),
            false,
        ),
        (
            "a record, of another name",
            changed(&other, 11, 1, &txt),
            false,
        ),
    ] {
        for (namespace, protects) in [(Some("bar"), true), (None, true), (Some("bar"), false)] {
            let mut lab = Lab::with(ClientsSpec::default(), Pod(namespace), protects).await;
            lab.send(&[&message]).await;
            if is_hidden && protects {
                assert_eq!(lab.receive().await, None, "{what}");
                let counters = lab.service.counters();
                assert_eq!((counters.unread, counters.relayed), (1, 0), "{what}");
                continue;
            }
            let (mut from_us, _to_us) = lab.server().await;
            assert_eq!(receive(&mut from_us).await.unwrap(), message, "{what}");
        }
    }
    // To its own clients the name is not hidden.
    let mut lab = Lab::with(ClientsSpec::default(), Pod(Some("foo")), true).await;
    let own = changed(&target, 2, 0x21, &[]);
    lab.send(&[&own]).await;
    let (mut from_us, _to_us) = lab.server().await;
    assert_eq!(receive(&mut from_us).await.unwrap(), own);
}

/// Replies that have arrived are sent; then the connection ends as the server ended its own.
#[tokio::test]
async fn a_server_that_closes_with_replies_due_ends_the_connection() {
    let mut lab = Lab::start().await;
    let (mine, theirs) = (query(1, MATCHING), query(2, "www.example"));
    lab.send(&[&mine, &theirs]).await;
    let (mut from_us, to_us) = lab.server().await;
    receive(&mut from_us).await.unwrap();
    drop((from_us, to_us));
    let asked = lab.asked.wait_for(1).await;
    reply(&asked[0], StreamReply::Answer(vec![1; 20]));
    assert_eq!(lab.receive().await, Some(vec![1; 20]));
    assert_eq!(lab.receive().await, None);
    assert_eq!(lab.service.counters().lost, 1);
}

/// A server may close idle connections.
#[tokio::test]
async fn a_server_that_closes_an_idle_connection_loses_nothing() {
    let mut lab = Lab::start().await;
    for id in 0..3 {
        let theirs = query(id, "www.example");
        lab.send(&[&theirs]).await;
        let (mut from_us, mut to_us) = lab.server().await;
        assert_eq!(receive(&mut from_us).await.unwrap(), theirs);
        to_us
            .write_all(&framed(&[&reply_to(&theirs)]))
            .await
            .unwrap();
        assert_eq!(lab.receive().await.unwrap(), reply_to(&theirs));
        drop(to_us);
        // The other end has noticed once it has closed, too.
        assert_eq!(receive(&mut from_us).await, None);
    }
    assert_eq!(lab.service.counters().lost, 0);
}

#[tokio::test]
async fn queries_in_flight_are_bounded() {
    const ALL: usize = 100;
    let mut lab = Lab::start().await;
    let all: Vec<Vec<u8>> = (0..ALL as u8).map(|id| query(id, MATCHING)).collect();
    let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    lab.send(&all).await;
    let mut waiting = std::collections::VecDeque::from(lab.asked.wait_for(IN_FLIGHT).await);
    for replied in 1..=ALL {
        assert!(waiting.len() <= IN_FLIGHT);
        let next = waiting.pop_front().unwrap();
        let answer = vec![next.query.id as u8; 12];
        reply(&next, StreamReply::Answer(answer.clone()));
        assert_eq!(lab.receive().await.unwrap(), answer);
        // Each reply frees a slot.
        if replied + IN_FLIGHT <= ALL {
            waiting.extend(lab.asked.wait_for(1).await);
        }
    }
    assert!(waiting.is_empty());
    assert!(lab.asked.queries.lock().unwrap().is_empty());
}

#[tokio::test]
async fn answers_that_wait_for_a_client_are_bounded_in_bytes() {
    const LARGE: usize = 60_000;
    let mut lab = Lab::start().await;
    let all: Vec<Vec<u8>> = (0..IN_FLIGHT as u8).map(|id| query(id, MATCHING)).collect();
    let all: Vec<&[u8]> = all.iter().map(Vec::as_slice).collect();
    lab.send(&all).await;
    let waiting = lab.asked.wait_for(IN_FLIGHT).await;
    // All before the connection takes the first.
    for query in &waiting {
        reply(
            query,
            StreamReply::Answer(vec![query.query.id as u8; LARGE]),
        );
    }
    let fit = MAX_QUEUED / LARGE;
    for query in &waiting[..fit] {
        let answer = vec![query.query.id as u8; LARGE];
        assert_eq!(lab.receive().await, Some(answer));
    }
    // The others are lost, and memory is free again.
    lab.send(&[&query(99, MATCHING)]).await;
    let last = lab.asked.wait_for(1).await;
    reply(&last[0], StreamReply::Answer(vec![99; LARGE]));
    assert_eq!(lab.receive().await, Some(vec![99; LARGE]));
    assert_eq!(lab.service.counters().lost, (IN_FLIGHT - fit) as u64);
}

#[tokio::test]
async fn a_client_that_has_closed_its_side_gets_its_replies() {
    let mut lab = Lab::start().await;
    lab.send(&[&query(1, MATCHING)]).await;
    lab.client.shutdown().await.unwrap();
    let asked = lab.asked.wait_for(1).await;
    reply(&asked[0], StreamReply::Answer(vec![5; 12]));
    assert_eq!(lab.receive().await, Some(vec![5; 12]));
    assert_eq!(lab.receive().await, None);
}

#[tokio::test]
async fn a_malformed_message_ends_the_connection() {
    let mut lab = Lab::start().await;
    lab.client.write_all(&[0, 11, 1]).await.unwrap();
    assert_eq!(lab.receive().await, None);
}

/// A rule that asks who the client is answers the one that it is for, and nobody else.
#[tokio::test]
async fn a_rule_that_asks_is_answered_to_whom_it_is_for() {
    for (pod, is_for) in [(Some("foo"), true), (Some("bar"), false), (None, false)] {
        let mut lab = Lab::with(ClientsSpec::OwnNamespace, Pod(pod), false).await;
        lab.send(&[&query(1, MATCHING)]).await;
        if is_for {
            let asked = lab.asked.wait_for(1).await;
            let (id, client) = asked[0].asked_by.clone().unwrap();
            assert_eq!((id, &*client.namespace), (7, "foo"));
            reply(&asked[0], StreamReply::Answer(vec![5; 12]));
            assert_eq!(lab.receive().await, Some(vec![5; 12]));
        } else {
            let (mut from_client, _to_client) = lab.server().await;
            let relayed = receive(&mut from_client).await.unwrap();
            assert_eq!(relayed[2..], query(1, MATCHING)[2..], "{pod:?}");
            assert_eq!(lab.service.counters().answered, 0);
        }
    }
}
