//! What the end-to-end tests share: raw DNS messages, gregor's metrics as numbers, conditions that are waited for.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub mod pods;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use gregor_tests::{
    lab::{
        Gregor, Lab, Netns, Pod, patience, skip,
        world::{BROKER, Data, FOO_ENDPOINT, Record, World},
    },
    packets::observer::Passing,
    tools,
};
use hickory_proto::{
    op::{Message, MessageType},
    rr::{RData, RecordType, rdata::A},
};

/// Far more than anything here takes on a working machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long a client waits for its one reply.
pub const REPLY: Duration = Duration::from_secs(10);

/// Tries until there is a value. Panics with `what` when there is none for [`PATIENCE`].
pub fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let limit = patience(PATIENCE);
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until a gregor that runs has logged this.
pub fn wait_for_log(gregor: &Gregor, text: &str) {
    until(text, || {
        assert!(gregor.process().exited().is_none(), "{}", gregor.log());
        gregor.log().contains(text).then_some(())
    });
}

/// The lines that gregor printed, but for those about a kernel that takes its time.
pub fn lines_said(said: &str) -> usize {
    let slow = |line: &&str| line.contains("the kernel is still");
    said.lines().filter(|line| !slow(line)).count()
}

/// The broker's name behind the search list of a namespace, without its trailing dot.
pub fn qualified(namespace: &str) -> String {
    format!("{BROKER}.{namespace}.svc.cluster.local")
}

pub fn sorted(addresses: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
    let mut addresses: Vec<IpAddr> = addresses.into_iter().collect();
    addresses.sort();
    addresses
}

/// The addresses in an answer section, sorted.
pub fn addresses(message: &Message) -> Vec<IpAddr> {
    sorted(
        message
            .answers
            .iter()
            .filter_map(|record| match &record.data {
                RData::A(address) => Some(address.0.into()),
                RData::AAAA(address) => Some(address.0.into()),
                _ => None,
            }),
    )
}

/// Owner and target of each CNAME in an answer section, in its order.
pub fn chain(message: &Message) -> Vec<(String, String)> {
    message
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::CNAME(target) => Some((record.name.to_ascii(), target.0.to_ascii())),
            _ => None,
        })
        .collect()
}

/// Sixty A and forty AAAA records: neither fits into 512 bytes, nor the AAAA into 1,232.
pub fn many_addresses() -> Vec<IpAddr> {
    let four = (1..=60).map(|last| IpAddr::V4(Ipv4Addr::new(10, 10, 7, last)));
    let six = (1..=40).map(|last| IpAddr::V6(Ipv6Addr::new(0xfd00, 0x10, 7, 0, 0, 0, 0, last)));
    four.chain(six).collect()
}

/// Those of one family, sorted.
pub fn of_family(v4: bool) -> Vec<IpAddr> {
    sorted(many_addresses().into_iter().filter(|a| a.is_ipv4() == v4))
}

/// A world in which the endpoint of foo has many addresses.
pub fn large_world() -> World {
    world_with(many_addresses())
}

/// A world in which the endpoint of foo has these addresses.
pub fn world_with(foo: Vec<IpAddr>) -> World {
    let mut world = World::default();
    for zone in &mut world.zones {
        if zone.apex == "vpce.amazonaws.com." {
            zone.records.retain(|record| record.owner != FOO_ENDPOINT);
            zone.records
                .extend(foo.iter().copied().map(|address| Record {
                    owner: FOO_ENDPOINT.to_owned(),
                    ttl: 60,
                    data: match address {
                        IpAddr::V4(address) => Data::A(address),
                        IpAddr::V6(address) => Data::Aaaa(address),
                    },
                }));
        }
    }
    world
}

/// A query in wire format, also one that hickory would not send.
#[derive(Clone, Debug)]
pub struct Wire {
    pub qname: String,
    pub qtype: u16,
    pub qclass: u16,
    pub flags: u16,
    /// Version, DO bit, options.
    pub edns: Option<(u8, bool, Vec<u8>)>,
}

impl Wire {
    pub fn new(qname: &str, qtype: RecordType) -> Self {
        Self {
            qname: qname.to_owned(),
            qtype: qtype.into(),
            qclass: 1,
            flags: 0x0100,
            edns: None,
        }
    }

    pub fn class(mut self, qclass: u16) -> Self {
        self.qclass = qclass;
        self
    }

    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    pub fn edns(mut self, version: u8) -> Self {
        self.edns = Some((version, false, Vec::new()));
        self
    }

    /// The message, and where its question ends.
    pub fn bytes(&self) -> (Vec<u8>, usize) {
        let mut bytes = rand::random::<u16>().to_be_bytes().to_vec();
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.edns.is_some())]);
        for label in self.qname.split('.').filter(|label| !label.is_empty()) {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(self.qtype.to_be_bytes());
        bytes.extend(self.qclass.to_be_bytes());
        let question = bytes.len();
        if let Some((version, dnssec_ok, options)) = &self.edns {
            bytes.extend([0, 0, 41, 0x04, 0xd0, 0, *version]);
            bytes.extend((u16::from(*dnssec_ok) << 15).to_be_bytes());
            bytes.extend((options.len() as u16).to_be_bytes());
            bytes.extend(options);
        }
        (bytes, question)
    }
}

/// Sends a message from the calling thread's namespace and waits for the reply with its ID.
pub fn exchange(server: IpAddr, message: &[u8], patience: Duration) -> Option<Vec<u8>> {
    let any: IpAddr = match server {
        IpAddr::V4(_) => [0, 0, 0, 0].into(),
        IpAddr::V6(_) => [0u16; 8].into(),
    };
    let socket = UdpSocket::bind((any, 0)).unwrap();
    socket.connect(SocketAddr::new(server, 53)).unwrap();
    socket.send(message).unwrap();
    let deadline = Instant::now() + gregor_tests::lab::patience(patience);
    let mut buffer = vec![0; 65_535];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        socket.set_read_timeout(Some(left)).unwrap();
        match socket.recv(&mut buffer) {
            Ok(length) if buffer[..length].starts_with(&message[..2]) => {
                return Some(buffer[..length].to_vec());
            }
            Ok(_) => {}
            // A closed port is answered with ICMP; no other reply can come then.
            Err(_) => return None,
        }
    }
}

/// [`exchange`] from a pod.
pub fn exchange_from(pod: &Pod, server: IpAddr, message: &[u8]) -> Option<Vec<u8>> {
    exchange_within(pod, server, message, REPLY)
}

pub fn exchange_within(
    pod: &Pod,
    server: IpAddr,
    message: &[u8],
    patience: Duration,
) -> Option<Vec<u8>> {
    let message = message.to_vec();
    pod.netns()
        .enter(move || exchange(server, &message, patience))
        .unwrap()
}

/// The same over TCP.
pub fn exchange_tcp(pod: &Pod, server: IpAddr, message: &[u8]) -> Option<Vec<u8>> {
    let message = message.to_vec();
    let exchange = move || -> std::io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect((server, 53))?;
        stream.set_read_timeout(Some(patience(REPLY)))?;
        stream.write_all(&[&(message.len() as u16).to_be_bytes()[..], &message].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply)?;
        Ok(reply)
    };
    pod.netns().enter(exchange).unwrap().ok()
}

/// A message with ID and TTLs zeroed, the OPT's flags kept: what two replies of one server have in common.
pub fn without_id_and_ttls(message: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    let count = |at: usize| usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    let (questions, records) = (count(4), count(6) + count(8) + count(10));
    message[..2].fill(0);
    let mut at = 12;
    for _ in 0..questions {
        at = after_name(&message, at) + 4;
    }
    for _ in 0..records {
        at = after_name(&message, at);
        let opt = message[at..at + 2] == [0, 41];
        if !opt {
            message[at + 4..at + 8].fill(0);
        }
        let length = u16::from_be_bytes([message[at + 8], message[at + 9]]);
        at += 10 + usize::from(length);
    }
    assert_eq!(at, message.len(), "a well-formed message: {message:02x?}");
    message
}

fn after_name(message: &[u8], mut at: usize) -> usize {
    loop {
        match message[at] {
            0 => return at + 1,
            length if length >= 0xc0 => return at + 2,
            length => at += 1 + usize::from(length),
        }
    }
}

/// The one question of a query.
pub struct Question {
    /// Of the name, in lower case.
    pub labels: Vec<String>,
    pub qtype: u16,
    /// Where it ends in the message.
    pub end: usize,
}

impl Question {
    pub fn read(query: &[u8]) -> Self {
        let mut labels = Vec::new();
        let mut at = 12;
        while query[at] != 0 {
            let end = at + 1 + usize::from(query[at]);
            labels.push(String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase());
            at = end;
        }
        Self {
            labels,
            qtype: u16::from_be_bytes([query[at + 1], query[at + 2]]),
            end: at + 5,
        }
    }
}

/// The numbers of `/metrics`, by series as it is written there.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(pub BTreeMap<String, f64>);

impl Metrics {
    pub fn of(gregor: &Gregor) -> Self {
        Self::parse(&gregor.metrics().unwrap())
    }

    /// Panics over a line that is no sample: a scraper would refuse the page.
    pub fn parse(page: &str) -> Self {
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        Self(
            samples
                .map(|line| {
                    let (series, value) = line.rsplit_once(' ').unwrap();
                    (series.to_owned(), value.parse().unwrap())
                })
                .collect(),
        )
    }

    /// 0 for a series that is not there, as in a query language.
    pub fn get(&self, series: &str) -> f64 {
        self.0.get(series).copied().unwrap_or(0.0)
    }

    /// Queries that the programs took off the stack.
    pub fn taken(&self) -> f64 {
        self.get(r#"gregor_dns_requests_total{verdict="taken",reason="matched"}"#)
    }

    /// Queries that the programs answered by themselves.
    pub fn answered(&self) -> f64 {
        self.get(r#"gregor_dns_requests_total{verdict="answered",reason="matched"}"#)
    }

    /// Queries that the programs did not let pass.
    pub fn intercepted(&self) -> f64 {
        self.taken() + self.answered()
    }

    /// Everything that the programs have counted.
    pub fn requests(&self) -> f64 {
        let series = self.0.iter();
        let requests = series.filter(|(name, _)| name.starts_with("gregor_dns_requests_total"));
        requests.map(|(_, count)| count).sum()
    }

    /// Queries that the programs let pass for this reason.
    pub fn passed(&self, reason: &str) -> f64 {
        self.get(&format!(
            r#"gregor_dns_requests_total{{verdict="pass",reason="{reason}"}}"#
        ))
    }

    pub fn passed_on(&self, reason: &str) -> f64 {
        self.get(&format!(
            r#"gregor_responder_passed_on_total{{reason="{reason}"}}"#
        ))
    }

    pub fn responses(&self, rcode: &str) -> f64 {
        self.get(&format!(r#"gregor_dns_responses_total{{rcode="{rcode}"}}"#))
    }

    /// Answers that the programs gave in the name of this namespace.
    pub fn namespace_in_kernel(&self, namespace: &str) -> f64 {
        self.get(&format!(
            r#"gregor_kernel_namespace_answers_total{{namespace="{namespace}"}}"#
        ))
    }

    pub fn namespace(&self, namespace: &str, result: &str) -> f64 {
        self.get(&format!(
            r#"gregor_namespace_responses_total{{namespace="{namespace}",result="{result}"}}"#
        ))
    }
}

/// Asks, again if need be, until no query of a round needed the responder: cached answers expire, so that a query may need it
/// at any time. `ask` judges the replies, whichever answered; it gets the number of earlier rounds.
pub fn until_the_programs_answer(gregor: &Gregor, what: &str, mut ask: impl FnMut(usize)) {
    let mut round = 0;
    until(&format!("{what}: answered in the kernel"), || {
        let before = Metrics::of(gregor);
        let changes = PrintChangesOnDrop(gregor, &before);
        ask(round);
        drop(changes);
        round += 1;
        let after = Metrics::of(gregor);
        let grown = |value: fn(&Metrics) -> f64| value(&after) - value(&before);
        assert!(grown(Metrics::intercepted) > 0.0, "{what}: not asked");
        (grown(Metrics::taken) == 0.0).then_some(())
    });
}

/// When a test fails, prints what gregor has counted since.
struct PrintChangesOnDrop<'a>(&'a Gregor, &'a Metrics);

impl Drop for PrintChangesOnDrop<'_> {
    fn drop(&mut self) {
        if !thread::panicking() {
            return;
        }
        let Ok(page) = self.0.metrics() else {
            return eprintln!("gregor does not serve its metrics");
        };
        for (series, value) in &Metrics::parse(&page).0 {
            let grown = value - self.1.get(series);
            if grown != 0.0 {
                eprintln!("{series} grew by {grown}");
            }
        }
        eprintln!("{}", self.0.status_text(&[]).unwrap_or_default());
        eprintln!("{}", self.0.log());
    }
}

/// A program that looks a name up with the pod's resolv.conf.
pub struct Client {
    pub name: &'static str,
    program: PathBuf,
    arguments: &'static [&'static str],
    /// Which of Go's resolvers.
    godebug: &'static str,
}

pub fn clients() -> Vec<Client> {
    let client = |name, program, arguments, godebug| Client {
        name,
        program,
        arguments,
        godebug,
    };
    let getent: &[&str] = &["ahosts"];
    vec![
        client("glibc, getent", "getent".into(), getent, ""),
        client(
            "glibc, getaddrinfo",
            tools::glibc_client().unwrap(),
            &[],
            "",
        ),
        client("musl", tools::musl_client().unwrap(), &[], ""),
        client("go", tools::go_client().unwrap(), &[], "netdns=go"),
        client(
            "go with cgo",
            tools::go_client().unwrap(),
            &[],
            "netdns=cgo",
        ),
        client("c-ares", tools::cares_client().unwrap(), &[], ""),
        client("jvm", tools::java_client().unwrap(), &[], ""),
    ]
}

impl Client {
    /// The addresses that it prints, sorted, or what it says when it finds none.
    pub fn finds(&self, pod: &Pod, name: &str) -> Result<Vec<IpAddr>, String> {
        let mut command = Command::new(&self.program);
        command
            .args(self.arguments)
            .arg(name)
            .env("GODEBUG", self.godebug);
        let output = pod.output(command).unwrap();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{}: {}", output.status, error.trim()));
        }
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut found = sorted(text.lines().map(|line| {
            let address = line.split_whitespace().next().unwrap();
            address.parse::<IpAddr>().unwrap()
        }));
        found.dedup();
        Ok(found)
    }
}

/// What README says that gregor needs, in the words of setpriv.
pub const DOCUMENTED_CAPABILITIES: &str = "+bpf,+perfmon,+net_admin,+net_raw";

/// gregor as root with these capabilities and no others: a command to be started in its place.
pub fn gregor_with(lab: &Lab, capabilities: &str) -> PathBuf {
    let path = lab.directory().join("gregor-with-capabilities");
    let binary = tools::gregor().unwrap();
    let script = format!(
        "#!/bin/sh\nexec setpriv --inh-caps=-all --bounding-set=-all,{capabilities} '{}' \"$@\"\n",
        binary.display()
    );
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The programs on the tcx ingress of a pod's interface.
pub fn programs_on(lab: &Lab, interface: &str) -> Vec<String> {
    let interface = interface.to_owned();
    lab.node()
        .enter(move || gregor::datapath::programs_on(&interface).unwrap())
        .unwrap()
}

/// A second rule, and the name that it overrides.
pub const MORE: &str = "
[[rule]]
name  = \"override\"
match = \"db.internal.example\"
cname = \"www.example.com\"
ttl   = 60
";
pub const OVERRIDDEN: &str = "db.internal.example";

/// How many configurations were loaded, or refused, since the start.
pub fn loads(gregor: &Gregor, result: &str) -> f64 {
    Metrics::of(gregor).get(&format!("gregor_config_loads_total{{result=\"{result}\"}}"))
}

/// Writes another configuration and waits until it is in force.
pub fn reload(gregor: &Gregor, config: &str) {
    let before = loads(gregor, "success");
    gregor.write_config(config).unwrap();
    until("the reload", || {
        (loads(gregor, "success") > before).then_some(())
    });
}

/// A DNS server in the node, over UDP alone: TCP is refused. It ends when this is dropped.
pub struct UdpServer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl UdpServer {
    /// `reply` makes the reply to each query.
    pub fn start(
        lab: &Lab,
        address: SocketAddr,
        mut reply: impl FnMut(&[u8]) -> Option<Vec<u8>> + Send + 'static,
    ) -> Self {
        let bind = move || UdpSocket::bind(address).unwrap();
        let socket = lab.node().enter(bind).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, client)) = socket.recv_from(&mut buffer)
                    && let Some(reply) = reply(&buffer[..length])
                {
                    // The client may have ended.
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

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// An upstream in the node that keeps each query until the test releases it.
pub struct HeldUpstream {
    asked: mpsc::Receiver<()>,
    // Before the server, which waits for it.
    release: mpsc::Sender<()>,
    _server: UdpServer,
}

impl HeldUpstream {
    pub const SERVER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 5300);
    /// Of every name.
    pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

    pub fn start(lab: &Lab) -> Self {
        let (report_asked, asked) = mpsc::channel();
        let (release, released) = mpsc::channel();
        let server = UdpServer::start(lab, Self::SERVER, move |query| {
            let query = Message::from_vec(query).unwrap();
            let _ = report_asked.send(());
            released.recv().ok()?;
            let mut reply = query.clone();
            reply.metadata.message_type = MessageType::Response;
            let name = query.queries[0].name().clone();
            let address = RData::A(A(Self::ADDRESS));
            reply.answers = vec![hickory_proto::rr::Record::from_rdata(name, 60, address)];
            Some(reply.to_vec().unwrap())
        });
        Self {
            asked,
            release,
            _server: server,
        }
    }

    /// Waits for a query.
    pub fn was_asked(&self) {
        self.asked.recv_timeout(PATIENCE).unwrap();
    }

    /// Has it answered.
    pub fn release(&self) {
        self.release.send(()).unwrap();
    }
}

/// The questions of one thread of a [`Load`], repeated.
pub struct Asks {
    pub questions: Vec<(String, RecordType)>,
    pub is_right: fn(&Message) -> bool,
}

impl Asks {
    /// A of each name.
    pub fn addresses(names: Vec<String>, is_right: fn(&Message) -> bool) -> Self {
        let question = |name| (name, RecordType::A);
        Self {
            questions: names.into_iter().map(question).collect(),
            is_right,
        }
    }

    /// A and AAAA of each name; any reply will do.
    pub fn both_families(names: &[String]) -> Self {
        let questions =
            |name: &String| [RecordType::A, RecordType::AAAA].map(|qtype| (name.clone(), qtype));
        Self {
            questions: names.iter().flat_map(questions).collect(),
            is_right: |_| true,
        }
    }
}

/// Asks in closed loops from a pod, one try per question, until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    askers: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    /// An asker ends when it has so much to report.
    const MOST_REPORTED: usize = 10;

    /// One asker per list of names, each going round in its list, for A and AAAA.
    pub fn start(pod: &Pod, server: IpAddr, lists: &[Vec<String>]) -> Self {
        let asks = lists.iter().map(|names| Asks::both_families(names));
        Self::of(pod, server, asks.collect())
    }

    /// One asker for each.
    pub fn of(pod: &Pod, server: IpAddr, asks: Vec<Asks>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let askers = asks
            .into_iter()
            .map(|asks| {
                let (stop, answered) = (stop.clone(), answered.clone());
                let ask = move || Self::ask(&asks, server, &stop, &answered);
                pod.netns().enter_detached(ask).unwrap()
            })
            .collect();
        Self {
            stop,
            answered,
            askers,
        }
    }

    fn ask(asks: &Asks, server: IpAddr, stop: &AtomicBool, answered: &AtomicU64) -> Vec<String> {
        let mut wrong = Vec::new();
        for (name, qtype) in asks.questions.iter().cycle() {
            if stop.load(Ordering::Relaxed) || wrong.len() >= Self::MOST_REPORTED {
                break;
            }
            let (query, _) = Wire::new(name, *qtype).bytes();
            let Some(reply) = exchange(server, &query, REPLY) else {
                wrong.push(format!("{name} {qtype}: no reply"));
                continue;
            };
            answered.fetch_add(1, Ordering::Relaxed);
            let reply = Message::from_vec(&reply).unwrap();
            if !(asks.is_right)(&reply) {
                wrong.push(format!("{name} {qtype}: {reply}"));
            }
        }
        wrong
    }

    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Returns after this many more answers.
    pub fn wait_for(&self, more: u64) {
        let goal = self.answered() + more;
        until("the load's next answers", || {
            (self.answered() >= goal).then_some(())
        });
    }

    /// Ends it; the questions that got no reply or a wrong one.
    pub fn finish(mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        std::mem::take(&mut self.askers)
            .into_iter()
            .flat_map(|asker| asker.join().unwrap())
            .collect()
    }
}

impl Drop for Load {
    /// Also when a test fails: the load must not run beside the tests that follow.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Other gregors of this machine that `detach --all` would detach, too.
fn other_gregors(own: &Gregor) -> Vec<String> {
    fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| *pid != own.process().pid())
        .filter(|pid| {
            let file = |name: &str| {
                fs::read_to_string(Path::new("/proc").join(pid.to_string()).join(name))
                    .unwrap_or_default()
            };
            file("comm").trim() == "gregor" && file("cmdline").split('\0').nth(1) == Some("run")
        })
        .map(|pid| pid.to_string())
        .collect()
}

/// `detach --all` reaches into every namespace, so it has to wait until no other gregor runs on the machine.
pub fn alone(test: &str, own: &Gregor) -> bool {
    for _ in 0..300 {
        if other_gregors(own).is_empty() {
            return true;
        }
        thread::sleep(Duration::from_millis(100));
    }
    let others = other_gregors(own).join(", ");
    skip(
        test,
        &format!("another gregor runs here, which it would detach: pid {others}"),
    );
    false
}

/// The pod's end of its veth, as a machine behind a wire would be: checksums are done before a frame leaves. Who runs the
/// program on the node's end follows from what the pod's end is like.
pub fn wire(lab: &Lab, pod: &Pod, mode: &str) -> Option<Passing> {
    ethtool(pod.netns(), "-K eth0 tx off");
    ethtool(lab.node(), &keep_tags(&pod.host_interface));
    if mode == "native" {
        let passing = pod.netns().enter(|| Passing::attach("eth0"));
        return Some(passing.unwrap().unwrap());
    }
    // More queues to send from than the other end has to receive with.
    ethtool(pod.netns(), "-L eth0 tx 2");
    None
}

pub fn keep_tags(interface: &str) -> String {
    format!("-K {interface} rxvlan off rx-vlan-stag-hw-parse off")
}

pub fn ethtool(netns: &Netns, arguments: &str) {
    let mut command = Command::new(tools::ethtool().unwrap());
    command.args(arguments.split_whitespace());
    let output = netns.output(command).unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ethtool {arguments}: {error}");
}
