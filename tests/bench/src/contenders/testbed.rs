//! A contender in a lab of its own, with generators in its pods.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use gregor_lab::{
    CacheKind, ClusterKind, Gregor, Lab, Pod, Process, tools,
    world::{NODE_LOCAL_V4, World},
};
use nix::sched::{CloneFlags, setns};

use crate::{
    limits::{Attached, Limits},
    load::{
        flow::{self, Flow, Pace, Span},
        frames::{Path as FramePath, queries},
        names::{Names, Traffic},
        replies::Counter,
        socket::{BATCH, Frames},
    },
    machine,
};

/// The requirements of a testbed.
#[derive(Clone, Debug)]
pub struct Needs {
    /// One per Kubernetes namespace.
    pub pods: usize,
    /// TTL of whatever there is to ask for; `None` for those that a cluster has.
    pub ttl: Option<u32>,
}

impl Default for Needs {
    fn default() -> Self {
        Self { pods: 1, ttl: None }
    }
}

/// The program of [`Limits`] that drops.
const DISCARD: &str = "discard";

/// The namespace of a pod by its number.
pub fn namespace(index: usize) -> String {
    format!("tenant-{index}")
}

/// Generators, by the thread that they run on.
pub type Senders = Vec<Vec<Frames>>;

/// A running contender.
pub struct Testbed {
    pub lab: Lab,
    pub gregor: Option<Gregor>,
    /// How long the last program that answers took from its start to its readiness.
    pub start_time: Duration,
    /// The servers on the node, gregor aside.
    pub servers: Vec<Process>,
    limits: Limits,
    counter: Counter,
    attached: Vec<Attached>,
    /// The program that was attached for good.
    limit: Option<&'static str>,
    cores: usize,
}

impl Testbed {
    /// Pods and a cluster DNS, with nothing to answer on the node, and the receiver of replies in each pod.
    pub(super) fn new(needs: &Needs) -> Result<Self> {
        let mut builder = Lab::builder("bench")
            .cache(CacheKind::None)
            .cluster(ClusterKind::None)
            .world(World {
                external_names: Vec::new(),
                namespaces: Vec::new(),
                zones: Vec::new(),
            });
        for index in 0..needs.pods {
            builder = builder.pod(&namespace(index));
        }
        let lab = builder.start()?;
        super::cluster::start(&lab, needs.ttl)?;
        let mut limits = Limits::load()?;
        let counter = limits.replies()?;
        let mut attached = Vec::new();
        for pod in lab.pods() {
            attached.push(in_namespace(pod.netns().name(), || {
                limits.attach("receive", "eth0")
            })?);
        }
        Ok(Self {
            lab,
            gregor: None,
            start_time: Duration::ZERO,
            servers: Vec::new(),
            limits,
            counter,
            attached,
            limit: None,
            cores: thread::available_parallelism()?.get(),
        })
    }

    /// The address that pods ask.
    pub fn server(&self) -> SocketAddr {
        SocketAddr::new(NODE_LOCAL_V4.into(), 53)
    }

    /// The pod that single-pod measurements ask from.
    pub fn pod(&self) -> &Pod {
        self.pod_numbered(0)
    }

    pub fn pod_numbered(&self, index: usize) -> &Pod {
        self.lab.pod(&namespace(index))
    }

    /// Attaches a program of [`Limits`] to the node's end of every pod's veth, in front of all others.
    pub(super) fn attach_for_good(&mut self, program: &'static str) -> Result<()> {
        self.limit = Some(program);
        let attached = self.attach(program)?;
        self.attached.extend(attached);
        Ok(())
    }

    fn attach(&mut self, program: &str) -> Result<Vec<Attached>> {
        let interfaces: Vec<String> = self
            .lab
            .pods()
            .map(|pod| pod.host_interface.clone())
            .collect();
        let limits = &mut self.limits;
        in_namespace(self.lab.node().name(), || {
            interfaces
                .iter()
                .map(|interface| limits.attach(program, interface))
                .collect()
        })
    }

    /// Starts gregor, attached to every pod's veth and ready.
    pub fn start_gregor(&mut self, config: &str) -> Result<()> {
        let binary = tools::gregor()?;
        let started = Instant::now();
        self.gregor = Some(self.lab.start_gregor(&binary, config)?);
        self.start_time = started.elapsed();
        Ok(())
    }

    /// Ends gregor; its programs are gone when this returns.
    pub fn stop_gregor(&mut self) -> Result<()> {
        if let Some(gregor) = self.gregor.take() {
            let status = gregor.stop().context("gregor was gone")?;
            ensure!(status.success(), "gregor ended with {status}");
        }
        Ok(())
    }

    /// Starts a server in the node and waits until it answers.
    pub(super) fn start_server(&mut self, command: Command) -> Result<()> {
        let started = Instant::now();
        let log = "bench-cache/log";
        let server = self.lab.start_in_node(command, log, NODE_LOCAL_V4.into())?;
        self.start_time = started.elapsed();
        self.servers.push(server);
        Ok(())
    }

    /// Generators in the first `pods` pods for these names, spread over at most `threads` threads.
    pub fn senders(
        &self,
        pods: usize,
        threads: usize,
        names: impl Fn(usize) -> Vec<String>,
    ) -> Result<Senders> {
        let mut senders = Senders::new();
        senders.resize_with(threads.min(pods), Vec::new);
        for index in 0..pods {
            let pod = self.pod_numbered(index);
            let frames = queries(&self.path(pod)?, &names(index))?;
            let sender = pod
                .netns()
                .enter(move || Frames::new("eth0", frames))?
                .context("a generator in a pod")?;
            let threads = senders.len();
            senders[index % threads].push(sender);
        }
        Ok(senders)
    }

    /// Sends at a pace and measures.
    pub fn run(&self, senders: &mut [Vec<Frames>], pace: Pace, span: Span) -> Result<Flow> {
        flow::run(senders, &self.counter, pace, span, self.cores)
    }

    /// Sends every frame once, from one pod.
    pub fn run_once(&self, frames: &mut Frames, window: u64) -> Result<Flow> {
        flow::once(frames, &self.counter, window, self.cores)
    }

    /// The same pace against a program that drops every query in front of the contender: what the generator costs.
    pub fn run_discarding(
        &mut self,
        senders: &mut [Vec<Frames>],
        pace: Pace,
        span: Span,
    ) -> Result<Flow> {
        // The same program twice on one hook is refused.
        let attached = match self.limit {
            Some(DISCARD) => Vec::new(),
            _ => self.attach(DISCARD)?,
        };
        let flow = self.run(senders, pace, span);
        drop(attached);
        flow
    }

    /// Asks until every name has been answered from all pods, so that what can be warm is.
    pub fn warm(&self, senders: &mut [Vec<Frames>], names: usize) -> Result<()> {
        let span = Span {
            warm_up: Duration::ZERO,
            duration: Duration::from_millis(40),
        };
        // A cache in userspace answers some thousands of new names in a second.
        let deadline =
            Instant::now() + Duration::from_secs(5) + Duration::from_millis(1) * names as u32;
        let mut answered = 0;
        while Instant::now() < deadline {
            let flow = self.run(senders, Pace::Window(32), span)?;
            answered += flow.replies.answers;
            // Twice over: the first answers may have been made while others waited for the same target.
            if answered >= 2 * names as u64 && flow.replies.answers == flow.replies.all() {
                // Filling a cache leaves work behind, such as CoreDNS's garbage.
                return machine::settle();
            }
        }
        anyhow::bail!("only {answered} answers to {names} names");
    }

    /// Memory of the processes on the node and of gregor's BPF maps, in KiB.
    pub fn memory(&self) -> Result<Memory> {
        let mut memory = Memory::default();
        for server in &self.servers {
            memory.servers_kib += machine::resident_kib(server.pid())?;
        }
        if let Some(gregor) = &self.gregor {
            let pid = gregor.process().pid();
            memory.gregor_kib = machine::resident_kib(pid)?;
            memory.maps_kib = map_kib(pid)?;
        }
        Ok(memory)
    }

    fn path(&self, pod: &Pod) -> Result<FramePath> {
        let own = pod.netns().enter(|| mac("eth0"))??;
        let interface = pod.host_interface.clone();
        let peer = self.lab.node().enter(move || mac(&interface))??;
        Ok(FramePath {
            pod_mac: own,
            node_mac: peer,
            pod: IpAddr::V4(pod.v4),
            server: NODE_LOCAL_V4.into(),
        })
    }
}

/// Names of one kind for each pod, in that pod's own namespace.
pub fn names_of(traffic: Traffic, labels: usize) -> impl Fn(usize) -> Vec<String> {
    move |pod| Names::of(traffic, &namespace(pod), labels).list(frames_for(traffic, labels))
}

/// Whole batches, so that no call is cut short where the frames start again; a mix also comes out even.
pub fn frames_for(traffic: Traffic, labels: usize) -> usize {
    match traffic {
        Traffic::Mixed(_) => labels.next_multiple_of(BATCH * 25),
        Traffic::Matched | Traffic::Foreign => labels.next_multiple_of(BATCH),
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    pub servers_kib: u64,
    pub gregor_kib: u64,
    /// Charged to the kernel's memory, so not part of the above.
    pub maps_kib: u64,
}

/// What the kernel has charged for the maps that a process holds.
fn map_kib(pid: u32) -> Result<u64> {
    let mut maps = std::collections::BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        // Descriptors come and go while they are read.
        let Ok(text) = fs::read_to_string(entry?.path()) else {
            continue;
        };
        let field = |key: &str| -> Option<u64> {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.trim().parse().ok())
        };
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum::<u64>() / 1024)
}

fn mac(interface: &str) -> Result<[u8; 6]> {
    let path = Path::new("/sys/class/net").join(interface).join("address");
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let bytes: Vec<u8> = text
        .trim()
        .split(':')
        .map(|byte| u8::from_str_radix(byte, 16))
        .collect::<Result<_, _>>()?;
    bytes
        .try_into()
        .ok()
        .with_context(|| format!("{text:?} is no Ethernet address"))
}

/// Runs `body` on a thread of its own in a network namespace.
pub fn in_namespace<T: Send>(name: &str, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let file = fs::File::open(Path::new("/run/netns").join(name))
        .with_context(|| format!("namespace {name}"))?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(file, CloneFlags::CLONE_NEWNET).context("entering a namespace")?;
            body()
        });
        thread.join().ok().context("a thread panicked")?
    })
}

/// Whether a configuration is one that this gregor takes.
pub fn takes(config: &str) -> Result<()> {
    let checked = ::gregor::config::compile(Path::new("bench.toml"), config);
    ensure!(checked.is_ok(), "this gregor does not take it");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        contenders::{NODELOCAL, REFLECTOR, by_id},
        load::{closed, open},
    };

    const COUNT: usize = 5000;

    fn once(testbed: &Testbed, names: &[String]) -> Flow {
        let mut senders = testbed.senders(1, 1, |_| names.to_vec()).unwrap();
        testbed.run_once(&mut senders[0][0], 64).unwrap()
    }

    #[test]
    fn every_frame_is_answered_and_counted_once() {
        let mut testbed = by_id(REFLECTOR).unwrap().start(&Needs::default()).unwrap();
        let names = Names::of(Traffic::Matched, &namespace(0), COUNT).list(COUNT);
        let flow = once(&testbed, &names);
        assert_eq!(flow.sent, COUNT as u64);
        assert_eq!(flow.replies.answers, COUNT as u64, "{flow:?}");
        assert_eq!((flow.replies.all(), flow.lost_in_all), (COUNT as u64, 0));
        // Each frame grows by one record of 16 bytes.
        let sent: usize = names.iter().map(|name| name.len() + 2 + 4 + 12 + 42).sum();
        assert_eq!(flow.replies.bytes, (sent + 16 * COUNT) as u64);

        let mut senders = testbed.senders(1, 1, |_| names.clone()).unwrap();
        let span = Span {
            warm_up: Duration::ZERO,
            duration: Duration::from_millis(50),
        };
        let flow = testbed.run(&mut senders, Pace::Window(100), span).unwrap();
        assert!(
            flow.replies.answers > 0 && flow.lost_in_all == 0,
            "{flow:?}"
        );
        let dropped = testbed
            .run_discarding(&mut senders, flow.same_pace(), span)
            .unwrap();
        assert!(
            dropped.sent > 0 && dropped.replies.all() == 0,
            "{dropped:?}"
        );
        // What dropped is gone again.
        assert_eq!(once(&testbed, &names).lost_in_all, 0);

        // Sockets in the same pod get their replies: the receiver takes those of the generator alone.
        let server = testbed.server();
        let ask = names[..10].to_vec();
        let closed::Waits { times, lost } = testbed
            .pod()
            .netns()
            .enter(move || closed::run(server, &ask, Duration::from_millis(50)))
            .unwrap()
            .unwrap();
        assert!(!times.is_empty() && lost == 0, "{lost} of {}", times.len());
        let ask = names[..10].to_vec();
        let outcome = testbed
            .pod()
            .netns()
            .enter(move || open::run(server, &ask, 1000, Duration::from_millis(100)))
            .unwrap()
            .unwrap();
        assert_eq!((outcome.sent, outcome.lost), (100, 0));
        assert_eq!(outcome.times.len(), 100);
    }

    #[test]
    fn replies_are_counted_by_kind() {
        let testbed = by_id(NODELOCAL).unwrap().start(&Needs::default()).unwrap();
        let matched = Names::of(Traffic::Matched, &namespace(0), 40).list(40);
        let foreign = Names::of(Traffic::Foreign, &namespace(0), 40).list(40);
        for names in [matched, foreign] {
            let replies = once(&testbed, &names).replies;
            assert_eq!((replies.answers, replies.all()), (40, 40), "{replies:?}");
        }
        let missing: Vec<String> = (0..40).map(|n| format!("n{n}.cluster.local")).collect();
        let replies = once(&testbed, &missing).replies;
        assert_eq!((replies.nxdomain, replies.all()), (40, 40), "{replies:?}");
    }
}
