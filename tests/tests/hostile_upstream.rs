//! A hostile upstream: what a pod gets while gregor's look-ups are answered with replies that are cut, forged or endless, and
//! the right one comes after them or never. Wants root.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use e2e::Question;
use gregor_tests::{
    lab::{Ask, Gregor, Lab, tools, world::NODE_LOCAL_V4},
    packets::build::{name, record},
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{RData, RecordType},
};

/// In the node's own namespace: loopback, so that a second address for forgeries costs nothing.
const UPSTREAM: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53)), 5300);
const ELSEWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66)), 5300);
const GOOD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// In every bad reply that has a record at all.
const BAD: Ipv4Addr = Ipv4Addr::new(6, 6, 6, 6);

const QR_RD_RA: u16 = 0x8180;
const TC: u16 = 0x0200;
/// A pointer to the question's name.
const QNAME: [u8; 2] = [0xc0, 12];

/// A query of gregor's, as far as replies need it.
struct Query {
    id: u16,
    /// As it was sent, in its random case.
    question: Vec<u8>,
    /// The second label: `kafka-upstream.<namespace>.…`.
    namespace: String,
}

impl Query {
    fn read(message: &[u8]) -> Self {
        let question = Question::read(message);
        Self {
            id: u16::from_be_bytes([message[0], message[1]]),
            namespace: question.labels.get(1).cloned().unwrap_or_default(),
            question: message[12..question.end].to_vec(),
        }
    }

    fn reply(&self, flags: u16, answers: &[Vec<u8>]) -> Vec<u8> {
        message(self.id, flags, &self.question, answers.len(), answers)
    }

    fn bad(&self) -> Vec<u8> {
        self.reply(QR_RD_RA, &[bad_address(&QNAME)])
    }

    /// A chain of one alias and its address.
    fn good(&self) -> Vec<u8> {
        let alias = name("good.example");
        let chain = [
            record(&QNAME, 5, 1, 30, &alias),
            record(&alias, 1, 1, 30, &GOOD.octets()),
        ];
        self.reply(QR_RD_RA, &chain)
    }
}

fn message(id: u16, flags: u16, question: &[u8], count: usize, answers: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for word in [id, flags, 1, count as u16, 0, 0] {
        bytes.extend(word.to_be_bytes());
    }
    bytes.extend(question);
    bytes.extend(answers.iter().flatten());
    bytes
}

fn bad_address(owner: &[u8]) -> Vec<u8> {
    record(owner, 1, 1, 30, &BAD.octets())
}

/// How a query is treated.
struct Treatment {
    name: &'static str,
    /// Sent over UDP before the right reply.
    bad: fn(&Query) -> Vec<Vec<u8>>,
    /// Sent from another address and from another port, not from the upstream's own.
    forged: bool,
    /// Over TCP, once gregor comes; nothing means that the connection is closed. The right reply comes by TCP only
    /// where UDP says that it does not fit.
    over_tcp: Option<fn(&Query) -> Vec<u8>>,
    /// Whether gregor accepts such a reply, so that only a later look-up can find the right one.
    believed: bool,
}

const fn treatment(name: &'static str, bad: fn(&Query) -> Vec<Vec<u8>>) -> Treatment {
    Treatment {
        name,
        bad,
        forged: false,
        over_tcp: None,
        believed: false,
    }
}

const TREATMENTS: &[Treatment] = &[
    treatment("wrong-id", |query| {
        let nxdomain = message(query.id ^ 1, QR_RD_RA | 3, &query.question, 0, &[]);
        let mut address = query.bad();
        address[0] ^= 0x55;
        vec![address, nxdomain]
    }),
    treatment("wrong-question", |query| {
        let mut letter = query.bad();
        letter[13] = if letter[13] == b'z' { b'y' } else { b'z' };
        let mut qtype = query.bad();
        let at = 12 + query.question.len() - 3;
        qtype[at] = 28;
        let mut qclass = query.bad();
        qclass[at + 2] = 3;
        vec![letter, qtype, qclass]
    }),
    treatment("wrong-case", |query| {
        let mut swapped = query.bad();
        for byte in &mut swapped[13..13 + 14] {
            if byte.is_ascii_alphabetic() {
                *byte ^= 0x20;
            }
        }
        // What a forger that does not see the query would spell.
        let mut lower = query.bad();
        lower[12..12 + query.question.len() - 4].make_ascii_lowercase();
        vec![swapped, lower]
            .into_iter()
            .filter(|reply| reply[12..12 + query.question.len()] != query.question)
            .collect()
    }),
    treatment("cut", |query| {
        let whole = query.bad();
        let record = whole.len() - 16;
        [
            0,
            1,
            11,
            12,
            20,
            record - 1,
            record,
            record + 5,
            whole.len() - 1,
        ]
        .map(|end| whole[..end].to_vec())
        .to_vec()
    }),
    treatment("looping-pointers", |query| {
        let at = 12 + query.question.len();
        let to = |offset: usize| (0xc000 | offset as u16).to_be_bytes();
        let mut pair = bad_address(&to(at + 16));
        pair.extend(bad_address(&to(at)));
        let alias = |target: &[u8]| query.reply(QR_RD_RA, &[record(&QNAME, 5, 1, 30, target)]);
        vec![
            // To itself, to each other, past the end, and in rdata.
            query.reply(QR_RD_RA, &[bad_address(&to(at))]),
            message(query.id, QR_RD_RA, &query.question, 2, &[pair]),
            query.reply(QR_RD_RA, &[bad_address(&to(0x3fff))]),
            alias(&to(at + 12)),
            alias(&[&[1, b'a'][..], &to(at + 12)].concat()),
        ]
    }),
    treatment("bad-lengths", |query| {
        let mut rdata_len = query.bad();
        let at = rdata_len.len() - 6;
        rdata_len[at..at + 2].copy_from_slice(&0xffffu16.to_be_bytes());
        let mut label = query.reply(QR_RD_RA, &[bad_address(&[0x3f, b'a', 0])]);
        label.truncate(label.len() - 1);
        let reserved = query.reply(QR_RD_RA, &[bad_address(&[0x80, 0])]);
        let short_address = query.reply(QR_RD_RA, &[record(&QNAME, 1, 1, 30, &[6, 6, 6])]);
        let many = message(
            query.id,
            QR_RD_RA,
            &query.question,
            3,
            &[bad_address(&QNAME)],
        );
        vec![rdata_len, label, reserved, short_address, many]
    }),
    treatment("no-reply-at-all", |query| {
        let question = message(query.id, 0x0100, &query.question, 1, &[bad_address(&QNAME)]);
        let opcode = query.reply(QR_RD_RA | 0x2000, &[bad_address(&QNAME)]);
        let mut two = query.bad();
        two[5] = 2;
        vec![question, opcode, two, b"GET / HTTP/1.0\r\n\r\n".to_vec()]
    }),
    treatment("bare-errors", |query| {
        // Only the ID matches: at most a sign that EDNS is not supported.
        let bare = |rcode: u16, id: u16| message(id, QR_RD_RA | rcode, &[], 0, &[])[..12].to_vec();
        [(2, 0), (5, 0), (1, 1), (4, 2), (2, 3)]
            .map(|(rcode, off)| bare(rcode, query.id ^ off))
            .to_vec()
    }),
    treatment("ten-thousand-records", |query| {
        // As many as a datagram holds; the header promises the rest.
        let records = vec![bad_address(&QNAME); 4_000];
        vec![
            message(query.id, QR_RD_RA, &query.question, 10_000, &records),
            message(query.id, QR_RD_RA, &query.question, 10_000, &records[..10]),
            query.reply(QR_RD_RA, &records[..1_000]),
        ]
    }),
    treatment("fifty-guesses", |query| {
        (1..=50)
            .map(|guess| {
                let mut reply = query.bad();
                reply[..2].copy_from_slice(&query.id.wrapping_add(guess).to_be_bytes());
                reply
            })
            .collect()
    }),
    Treatment {
        forged: true,
        ..treatment("spoofed-source", |query| vec![query.bad(); 8])
    },
    Treatment {
        over_tcp: Some(Query::good),
        ..treatment("truncated", |query| {
            vec![query.reply(QR_RD_RA | TC, &[bad_address(&QNAME)])]
        })
    },
    Treatment {
        believed: true,
        over_tcp: Some(|query| {
            let records = vec![bad_address(&QNAME); 4_000];
            message(query.id, QR_RD_RA, &query.question, 10_000, &records)
        }),
        ..treatment("ten-thousand-over-tcp", |query| {
            vec![query.reply(QR_RD_RA | TC, &[])]
        })
    },
    Treatment {
        believed: true,
        ..treatment("self-cname", |query| {
            let own = record(&QNAME, 5, 1, 30, &QNAME);
            vec![query.reply(QR_RD_RA, &[own, bad_address(&name("evil.example"))])]
        })
    },
    Treatment {
        believed: true,
        ..treatment("cname-loop", |query| {
            let [a, b] = ["a.example", "b.example"].map(name);
            let chain = [
                record(&QNAME, 5, 1, 30, &a),
                record(&a, 5, 1, 30, &b),
                record(&b, 5, 1, 30, &a),
                bad_address(&name("c.example")),
            ];
            vec![query.reply(QR_RD_RA, &chain)]
        })
    },
    Treatment {
        believed: true,
        ..treatment("endless-chain", |query| {
            let alias = |step: u32| name(&format!("s{step}.example"));
            let mut chain = vec![record(&QNAME, 5, 1, 30, &alias(0))];
            chain.extend((0..40).map(|step| record(&alias(step), 5, 1, 30, &alias(step + 1))));
            chain.push(bad_address(&alias(40)));
            vec![query.reply(QR_RD_RA, &chain)]
        })
    },
];

/// The hostile server.
struct Hostile {
    /// Bad replies sent, by namespace.
    sent: Arc<Mutex<HashMap<String, usize>>>,
    /// From now on the right reply alone.
    reformed: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Ends a namespace's name: the right reply never comes.
const ONLY: &str = "-only";

impl Hostile {
    fn start(lab: &Lab) -> Self {
        let sent = Arc::new(Mutex::new(HashMap::new()));
        let reformed = Arc::new(AtomicBool::new(false));
        let stop = Arc::new(AtomicBool::new(false));
        let (udp, forger, tcp) = lab
            .node()
            .enter(|| {
                let udp = UdpSocket::bind(UPSTREAM).unwrap();
                udp.set_read_timeout(Some(Duration::from_millis(100)))
                    .unwrap();
                let tcp = TcpListener::bind(UPSTREAM).unwrap();
                tcp.set_nonblocking(true).unwrap();
                let other_port = UdpSocket::bind((UPSTREAM.ip(), 0)).unwrap();
                (udp, [UdpSocket::bind(ELSEWHERE).unwrap(), other_port], tcp)
            })
            .unwrap();
        let server = Server {
            sent: Arc::clone(&sent),
            reformed: Arc::clone(&reformed),
            stop: Arc::clone(&stop),
        };
        let for_tcp = server.clone();
        let threads = vec![
            std::thread::spawn(move || server.serve_udp(&udp, &forger)),
            std::thread::spawn(move || for_tcp.serve_tcp(&tcp)),
        ];
        Self {
            sent,
            reformed,
            stop,
            threads,
        }
    }

    fn sent(&self, namespace: &str) -> usize {
        self.sent
            .lock()
            .unwrap()
            .get(namespace)
            .copied()
            .unwrap_or(0)
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

#[derive(Clone)]
struct Server {
    sent: Arc<Mutex<HashMap<String, usize>>>,
    reformed: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
}

impl Server {
    fn serve_udp(&self, socket: &UdpSocket, forger: &[UdpSocket]) {
        let mut buffer = [0; 4096];
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((length, client)) = socket.recv_from(&mut buffer) else {
                continue;
            };
            let query = Query::read(&buffer[..length]);
            if self.reformed.load(Ordering::Relaxed) {
                socket.send_to(&query.good(), client).unwrap();
                continue;
            }
            let namespace = query.namespace.clone();
            let Some(treatment) = treatment_of(&namespace) else {
                // An alias of the right reply, or a target that is none of ours.
                continue;
            };
            for reply in (treatment.bad)(&query) {
                let senders = if treatment.forged {
                    forger
                } else {
                    std::slice::from_ref(socket)
                };
                // Counted first: gregor may have answered before the next line runs.
                *self
                    .sent
                    .lock()
                    .unwrap()
                    .entry(namespace.clone())
                    .or_default() += 1;
                for sender in senders {
                    sender.send_to(&reply, client).unwrap();
                }
            }
            if !namespace.ends_with(ONLY) && !treatment.believed && treatment.over_tcp.is_none() {
                socket.send_to(&query.good(), client).unwrap();
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while !self.stop.load(Ordering::Relaxed) {
            match listener.accept() {
                Ok((stream, _)) => drop(self.serve_stream(stream)),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    fn serve_stream(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut message = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut message)?;
        let query = Query::read(&message);
        let namespace = query.namespace.clone();
        let reply = if self.reformed.load(Ordering::Relaxed) {
            Some(query.good())
        } else {
            let over_tcp = treatment_of(&namespace).and_then(|treatment| treatment.over_tcp);
            // A server without a right reply closes the connection.
            over_tcp
                .filter(|_| !namespace.ends_with(ONLY))
                .map(|reply| reply(&query))
        };
        let Some(reply) = reply else {
            return Ok(());
        };
        stream.write_all(&(reply.len() as u16).to_be_bytes())?;
        stream.write_all(&reply)
    }
}

fn treatment_of(namespace: &str) -> Option<&'static Treatment> {
    let name = namespace.trim_end_matches(ONLY);
    TREATMENTS.iter().find(|treatment| treatment.name == name)
}

fn broker(namespace: &str, broker: &str) -> String {
    format!("{broker}.eu-west-1.aws.private.kafka.managed.{namespace}.svc.cluster.local")
}

fn ask(lab: &Lab, namespace: &str, label: &str) -> Message {
    let qname = broker(namespace, label);
    let mut ask = Ask::new(NODE_LOCAL_V4.into(), &qname, RecordType::A);
    ask.timeout = Duration::from_secs(30);
    let reply = lab.pod("foo").ask(ask).unwrap();
    assert!(
        !addresses(&reply).contains(&BAD),
        "{namespace}: an answer made of a bad reply: {reply:?}"
    );
    reply
}

fn addresses(message: &Message) -> Vec<Ipv4Addr> {
    message
        .answers
        .iter()
        .filter_map(|record| match record.data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .collect()
}

fn assert_good(namespace: &str, reply: &Message) {
    assert_eq!(
        reply.metadata.response_code,
        ResponseCode::NoError,
        "{namespace}: {reply:?}"
    );
    assert_eq!(addresses(reply), [GOOD], "{namespace}: {reply:?}");
    assert_eq!(reply.answers.len(), 3, "{namespace}: {reply:?}");
}

fn assert_servfail(namespace: &str, reply: &Message) {
    assert_eq!(
        reply.metadata.response_code,
        ResponseCode::ServFail,
        "{namespace}: {reply:?}"
    );
    assert!(reply.answers.is_empty(), "{namespace}: {reply:?}");
}

fn alive(gregor: &Gregor, pid: u32) {
    assert_eq!(gregor.process().exited(), None, "{}", gregor.log());
    assert_eq!(gregor.process().pid(), pid);
    assert_eq!(gregor.get("/readyz").unwrap().0, 200);
    let status = gregor.status().unwrap();
    assert_eq!(status["panics"], 0, "{}", gregor.log());
    assert_eq!(status["responder"]["send_errors"], 0);
}

#[test]
fn bad_replies_are_ignored_and_the_right_one_after_them_is_taken() {
    let lab = Lab::builder("hostile").pod("foo").start().unwrap();
    let hostile = Hostile::start(&lab);
    let config = format!(
        "{}[upstream]\nserver = \"{UPSTREAM}\"\ntimeout = \"4s\"\n",
        lab.gregor_config()
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let pid = gregor.process().pid();

    for treatment in TREATMENTS.iter().filter(|treatment| !treatment.believed) {
        let namespace = treatment.name;
        let started = Instant::now();
        let reply = ask(&lab, namespace, "lkc-1");
        println!("{namespace}: {:?}", started.elapsed());
        assert_good(namespace, &reply);
        assert!(
            hostile.sent(namespace) > 0,
            "{namespace}: nothing bad was sent"
        );
    }
    alive(&gregor, pid);

    // All at once, because each lasts as long as the time-out.
    std::thread::scope(|scope| {
        for treatment in TREATMENTS {
            let (lab, hostile) = (&lab, &hostile);
            scope.spawn(move || {
                let namespace = format!("{}{ONLY}", treatment.name);
                assert_servfail(&namespace, &ask(lab, &namespace, "lkc-1"));
                assert!(
                    hostile.sent(&namespace) > 0,
                    "{namespace}: nothing bad was sent"
                );
            });
        }
    });
    alive(&gregor, pid);

    // What a reply says about the server is cached for a short time, and then checked again.
    let believed: Vec<&Treatment> = TREATMENTS.iter().filter(|t| t.believed).collect();
    assert!(!believed.is_empty());
    for treatment in &believed {
        assert_servfail(treatment.name, &ask(&lab, treatment.name, "lkc-1"));
        assert!(hostile.sent(treatment.name) > 0, "{}", treatment.name);
    }
    alive(&gregor, pid);

    let failures = gregor.status().unwrap()["responder"]["chase_failures"].clone();
    for reason in ["timeout", "loop", "too_long", "unusable"] {
        assert!(failures[reason].as_u64() > Some(0), "{reason}: {failures}");
    }

    hostile.reformed.store(true, Ordering::Relaxed);
    let deadline = Instant::now() + Duration::from_secs(60);
    for treatment in TREATMENTS {
        let namespace = format!("{}{ONLY}", treatment.name);
        for namespace in [&namespace, treatment.name] {
            loop {
                let reply = ask(&lab, namespace, "lkc-2");
                if reply.metadata.response_code == ResponseCode::NoError {
                    assert_good(namespace, &reply);
                    break;
                }
                assert_servfail(namespace, &reply);
                assert!(Instant::now() < deadline, "{namespace}: still SERVFAIL");
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
    alive(&gregor, pid);
    let status = gregor.status().unwrap();
    assert!(status["responder"]["replies"]["SERVFAIL"].as_u64() > Some(0));
    for (reason, count) in status["responder"]["passed_on"].as_object().unwrap() {
        assert_eq!(count, 0, "a bad reply made gregor pass on: {reason}");
    }
}
