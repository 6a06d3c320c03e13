//! Queries from the network namespaces of pods, one after the other without end, each with the addresses that it must get.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::Ask;
use hickory_proto::rr::{RData, RecordType};
use nix::sched::{CloneFlags, setns};

/// Between two queries of one pod.
const PAUSE: Duration = Duration::from_millis(4);

/// A question and the expected addresses.
#[derive(Clone, Debug)]
pub struct Question {
    pub qname: String,
    pub addresses: BTreeSet<IpAddr>,
}

impl Question {
    pub fn new(qname: &str, addresses: &[&str]) -> Self {
        Self {
            qname: qname.to_owned(),
            addresses: addresses
                .iter()
                .filter_map(|address| address.parse().ok())
                .collect(),
        }
    }
}

/// A load that goes on until it is finished.
pub struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    wrong: Arc<Mutex<Vec<String>>>,
    threads: Vec<JoinHandle<()>>,
    started: Instant,
}

/// Its result.
#[derive(Debug)]
pub struct Outcome {
    pub queries: u64,
    pub wrong: Vec<String>,
    pub time: Duration,
}

impl Load {
    pub fn new() -> Self {
        Self {
            stop: Arc::default(),
            sent: Arc::default(),
            wrong: Arc::default(),
            threads: Vec::new(),
            started: Instant::now(),
        }
    }

    /// Asks from the network namespace of a process.
    pub fn add(
        &mut self,
        pod: &str,
        pid: u32,
        server: IpAddr,
        questions: Vec<Question>,
    ) -> Result<()> {
        let file = File::open(format!("/proc/{pid}/ns/net"))
            .with_context(|| format!("the network namespace of {pod}"))?;
        let (stop, sent, wrong) = (
            Arc::clone(&self.stop),
            Arc::clone(&self.sent),
            Arc::clone(&self.wrong),
        );
        let pod = pod.to_owned();
        let started = self.started;
        let thread = thread::Builder::new().spawn(move || {
            let report = |line: String| {
                let mut wrong = wrong
                    .lock()
                    .unwrap_or_else(|poisoned| poisoned.into_inner());
                wrong.push(line);
            };
            // This thread alone, and it ends in there.
            if let Err(error) = setns(file, CloneFlags::CLONE_NEWNET) {
                return report(format!("{pod}: entering its network namespace: {error}"));
            }
            for question in questions.iter().cycle() {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let at = started.elapsed();
                if let Err(why) = ask(server, question) {
                    report(format!(
                        "{pod}, {:.1} s: {} {why}",
                        at.as_secs_f64(),
                        question.qname
                    ));
                }
                sent.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PAUSE);
            }
        })?;
        self.threads.push(thread);
        Ok(())
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn finish(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        let mut wrong = self
            .wrong
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        Outcome {
            queries: self.sent(),
            wrong: std::mem::take(&mut *wrong),
            time: self.started.elapsed(),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A page over HTTP, from the network namespace of a process.
pub fn fetch(pid: u32, address: &str, path: &str) -> Result<String> {
    let file = File::open(format!("/proc/{pid}/ns/net"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let address = address.to_owned();
    let thread = thread::spawn(move || -> Result<String> {
        setns(file, CloneFlags::CLONE_NEWNET)?;
        let mut stream = TcpStream::connect(&address)?;
        stream.write_all(request.as_bytes())?;
        let mut reply = String::new();
        stream.read_to_string(&mut reply)?;
        Ok(reply)
    });
    match thread.join() {
        Ok(reply) => reply.with_context(|| format!("fetching {path}")),
        Err(_) => bail!("the thread that fetches {path} panicked"),
    }
}

/// The error, if the reply is not the expected one.
fn ask(server: IpAddr, question: &Question) -> Result<(), String> {
    let reply = Ask::new(server, &question.qname, RecordType::A)
        .send()
        .map_err(|error| format!("{error:#}"))?;
    let found: BTreeSet<IpAddr> = reply
        .answers
        .iter()
        .filter_map(|record| match &record.data {
            RData::A(address) => Some(IpAddr::V4(address.0)),
            _ => None,
        })
        .collect();
    if found == question.addresses {
        return Ok(());
    }
    Err(format!("{:?} {found:?}", reply.metadata.response_code))
}
