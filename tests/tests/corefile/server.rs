//! CoreDNS on the loopback interface, and an upstream that records the name that it was asked for.
//!
//! Questions are of type TXT: with addresses, CoreDNS looks a target up by itself, for ever where it leads back.

use std::{
    collections::HashMap,
    fs,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use gregor_tests::lab::tools;
use hickory_proto::{
    op::{Message, MessageType, OpCode, Query, ResponseCode},
    rr::{Name, RData, Record, RecordType, rdata::TXT},
};

/// How long CoreDNS may take to start, and to answer.
const PATIENCE: Duration = Duration::from_secs(20);
const ATTEMPTS: usize = 5;

/// The outcome for a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A CNAME to this name, or what this name has.
    Leads(String),
    /// What the upstream has for the name itself.
    Passed,
    Refused,
    /// Anything else.
    Other(String),
}

pub const FIRST_SEED: u64 = 1;

/// The first seed of random files; `GREGOR_SEED` names another one.
pub fn seed() -> u64 {
    std::env::var("GREGOR_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(FIRST_SEED)
}

/// Answers each name with an address of its own.
pub struct Upstream {
    address: SocketAddr,
    names: Arc<Mutex<HashMap<String, String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Upstream {
    pub fn start() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        let address = socket.local_addr().unwrap();
        let names: Arc<Mutex<HashMap<String, String>>> = Arc::default();
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (names, stop) = (names.clone(), stop.clone());
            std::thread::spawn(move || serve(&socket, &names, &stop))
        };
        Self {
            address,
            names,
            stop,
            thread: Some(thread),
        }
    }

    fn name_of(&self, text: &str) -> Option<String> {
        self.names.lock().unwrap().get(text).cloned()
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

fn serve(socket: &UdpSocket, names: &Mutex<HashMap<String, String>>, stop: &AtomicBool) {
    let mut buffer = [0; 4096];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let Ok(query) = Message::from_vec(&buffer[..length]) else {
            continue;
        };
        let Some(question) = query.queries.first().cloned() else {
            continue;
        };
        let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_available = true;
        reply.add_query(question.clone());
        if question.query_type() == RecordType::TXT {
            let name = question.name().to_lowercase().to_string();
            let mut names = names.lock().unwrap();
            let known = names.iter().find(|(_, other)| **other == name);
            let text = known.map_or(format!("name{}", names.len()), |(text, _)| text.clone());
            names.insert(text.clone(), name);
            let data = RData::TXT(TXT::new(vec![text]));
            reply.add_answer(Record::from_rdata(question.name().clone(), 60, data));
        }
        let _ = socket.send_to(&reply.to_vec().unwrap(), client);
    }
}

/// A port without a listener that the kernel does not give to a client's socket either.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = (std::process::id() % 100) as u16 * 100;
    (0..10_000)
        .map(|_| 20_000 + (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000)
        .find(|&port| {
            UdpSocket::bind(("127.0.0.1", port)).is_ok()
                && TcpListener::bind(("127.0.0.1", port)).is_ok()
        })
        .unwrap()
}

/// A running CoreDNS.
pub struct CoreDns {
    child: Child,
    address: SocketAddr,
    directory: PathBuf,
}

impl CoreDns {
    /// Starts it with a Corefile whose port 53 and upstreams become those of the test; or what it says instead.
    pub fn start(text: &str, upstream: &Upstream) -> Result<Self, String> {
        let program = tools::coredns().unwrap();
        let port = free_port();
        let directory =
            std::env::temp_dir().join(format!("gregor-corefile-{}-{port}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("Corefile");
        fs::write(&path, on_loopback(text, port, upstream.address)).unwrap();
        let log = fs::File::create(directory.join("log")).unwrap();
        let child = Command::new(program)
            .arg("-conf")
            .arg(&path)
            .args(["-dns.port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut coredns = Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            directory,
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            if coredns.child.try_wait().unwrap().is_some() {
                return Err(coredns.log());
            }
            if coredns
                .query("start.test.", Duration::from_millis(50))
                .is_some()
            {
                return Ok(coredns);
            }
            if Instant::now() > deadline {
                return Err("CoreDNS does not answer on the port".to_owned());
            }
            // Without a server there, the kernel refuses at once.
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.join("log")).unwrap()
    }

    fn query(&self, name: &str, patience: Duration) -> Option<Message> {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(patience)).unwrap();
        socket.connect(self.address).unwrap();
        let mut query = Message::new(0x4711, MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(
            Name::from_ascii(name).unwrap(),
            RecordType::TXT,
        ));
        socket.send(&query.to_vec().unwrap()).ok()?;
        let mut buffer = [0; 4096];
        let length = socket.recv(&mut buffer).ok()?;
        Message::from_vec(&buffer[..length])
            .ok()
            .filter(|reply| reply.metadata.message_type == MessageType::Response)
    }

    /// The outcome for a name with its final dot.
    pub fn ask(&self, name: &str, upstream: &Upstream) -> Outcome {
        let reply = (0..ATTEMPTS)
            .find_map(|_| self.query(name, PATIENCE / ATTEMPTS as u32))
            .unwrap_or_else(|| panic!("no answer for {name}: {}", self.log()));
        let code = reply.metadata.response_code;
        let asked = Name::from_ascii(name).unwrap();
        match reply.answers.first() {
            Some(first) if first.name != asked => Outcome::Other(format!("{first}")),
            Some(first) => match &first.data {
                RData::CNAME(target) => Outcome::Leads(target.0.to_lowercase().to_string()),
                RData::TXT(text) => match upstream.name_of(&text.to_string()) {
                    Some(own) if own == name => Outcome::Passed,
                    Some(other) => Outcome::Leads(other),
                    None => Outcome::Other(format!("{first}")),
                },
                _ => Outcome::Other(format!("{first}")),
            },
            None if matches!(code, ResponseCode::ServFail | ResponseCode::Refused) => {
                Outcome::Refused
            }
            None => Outcome::Other(format!("{code}")),
        }
    }
}

impl Drop for CoreDns {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// The Corefile with its ports and upstreams replaced, each block on the loopback interface alone.
fn on_loopback(text: &str, port: u16, upstream: SocketAddr) -> String {
    let mut depth = 0i32;
    // At what depth a directive that is taken out began.
    let mut without: Option<i32> = None;
    let mut lines = Vec::new();
    for line in text.lines() {
        let code = line.split('#').next().unwrap_or("").trim();
        let opens = code.ends_with('{');
        let first = code.split_whitespace().next().unwrap_or("");
        let here = depth;
        depth += i32::from(opens) - i32::from(code == "}");
        if let Some(outer) = without {
            if depth == outer {
                without = None;
            }
            continue;
        }
        if matches!(first, "forward" | "bind" | "kubernetes" | "loop") {
            without = opens.then_some(here);
            continue;
        }
        lines.push(with_port(line, port));
        if opens && here == 0 && !code.starts_with('(') && first != "template" {
            lines.push(format!("    bind 127.0.0.1\n    forward . {upstream}"));
        }
    }
    lines.join("\n") + "\n"
}

fn with_port(line: &str, port: u16) -> String {
    line.split_inclusive(char::is_whitespace)
        .map(|word| {
            let bare = word.trim_end();
            if bare.trim_end_matches(',').ends_with(":53") {
                word.replace(":53", &format!(":{port}"))
            } else {
                word.to_owned()
            }
        })
        .collect()
}
