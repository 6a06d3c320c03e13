//! The same work over the same node and cache from two pods in turn, one of which has gregor on its interface: what
//! everything pays that is not gregor's to answer.
//!
//! A machine that others use as well is faster in one second than in the next, by more than what is looked for. So the
//! pods take turns many times in a second, one around the other, and all of it stays on one processor; which pod has
//! gregor alternates from round to round.

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};

use super::{
    contenders::{self, GregorSetup, NODELOCAL, Needs, Senders, Testbed, in_namespace, names_of},
    external::{self, Stream},
    latency,
    load::{
        closed::{Client, alternate},
        names::Traffic,
    },
    machine::OnOneProcessor,
    plan::{LABELS, Mode, Pair, WINDOW},
    stats::median,
};
use gregor_tests::packets::wire::set_segmentation;

const PODS: usize = 2;

/// The two pods, and what they ask with.
pub struct Pairs {
    mode: Mode,
    testbed: Testbed,
    /// One generator for each pod.
    senders: Senders,
    /// The pod that has gregor.
    attached: Option<usize>,
}

/// What was got done with gregor, without, and with it in parts of without.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub with: f64,
    pub without: f64,
    pub ratio: f64,
}

impl Pairs {
    pub fn start(mode: Mode) -> Result<Self> {
        let _pinned = OnOneProcessor::pin()?;
        let needs = Needs {
            pods: PODS,
            ..Needs::default()
        };
        let testbed = contenders::by_id(NODELOCAL)?.start(&needs)?;
        // Small segments are to be small in front of gregor too, not cut out of large ones behind it.
        for pod in testbed.lab.pods() {
            pod.netns().enter(|| set_segmentation("eth0", false))??;
        }
        let senders = testbed.senders(PODS, PODS, names_of(Traffic::Foreign, LABELS))?;
        Ok(Self {
            mode,
            testbed,
            senders,
            attached: None,
        })
    }

    /// The medians of all turns, and of the ratios of turns beside each other: what the machine does to one turn in ten
    /// moves neither.
    pub fn measure(&mut self, pair: Pair, round: usize) -> Result<Done> {
        let _pinned = OnOneProcessor::pin()?;
        let with = round % PODS;
        self.attach(with)?;
        if matches!(pair, Pair::DnsThroughput | Pair::DnsLatency) {
            self.testbed.warm(&mut self.senders, PODS * LABELS)?;
        }
        if pair == Pair::DnsLatency {
            return self.latency(with);
        }
        let mut turns = [Vec::new(), Vec::new()];
        for turn in 0..self.mode.turns(pair) {
            let first = turn % PODS;
            for pod in [first, 1 - first] {
                turns[pod].push(self.turn(pair, pod)?);
            }
        }
        let [with, without] = [&turns[with], &turns[1 - with]];
        let ratios: Vec<f64> = with.iter().zip(without).map(|(a, b)| a / b).collect();
        let of = |values: &[f64]| median(values).context("no turn");
        let done = Done {
            with: of(with)?,
            without: of(without)?,
            ratio: of(&ratios)?,
        };
        ensure!(done.without > 0.0, "nothing came through without gregor");
        Ok(done)
    }

    /// How long both pods wait when they ask one query each in turn.
    fn latency(&self, with: usize) -> Result<Done> {
        let server = self.testbed.server();
        let clients = (0..PODS).map(|pod| {
            let names = names_of(Traffic::Foreign, LABELS)(pod);
            let netns = self.testbed.pod_numbered(pod).netns();
            netns.enter(move || Client::new(server, &names))?
        });
        let clients: Vec<Client> = clients.collect::<Result<_>>()?;
        let waits = alternate(&clients, self.mode.latency())?;
        let [with, without] =
            [with, 1 - with].map(|pod| latency::microseconds(&waits[pod].times, 0.5));
        ensure!(without > 0.0, "nothing came through without gregor");
        Ok(Done {
            with,
            without,
            ratio: with / without,
        })
    }

    /// Moves gregor to a pod's interface, and makes sure that it is there and nowhere else.
    fn attach(&mut self, pod: usize) -> Result<()> {
        if self.attached == Some(pod) {
            return Ok(());
        }
        self.attached = None;
        self.testbed.stop_gregor()?;
        let interfaces = (0..PODS).map(|pod| self.testbed.pod_numbered(pod).host_interface.clone());
        let interfaces: Vec<String> = interfaces.collect();
        let setup = GregorSetup {
            interface: Some(interfaces[pod].clone()),
            ..GregorSetup::default()
        };
        self.testbed.start_gregor(&setup.config())?;
        let programs = in_namespace(self.testbed.lab.node().name(), || {
            interfaces
                .iter()
                .map(|interface| {
                    let query = SchedClassifier::query_tcx(interface, TcAttachType::Ingress);
                    Ok(query.context("asking for programs")?.1.len())
                })
                .collect::<Result<Vec<usize>>>()
        })?;
        ensure!(
            (programs[pod], programs[1 - pod]) == (1, 0),
            "programs on the two interfaces: {programs:?}"
        );
        self.attached = Some(pod);
        Ok(())
    }

    /// Answers or bits per second of one pod.
    fn turn(&mut self, pair: Pair, pod: usize) -> Result<f64> {
        let (lab, from) = (&self.testbed.lab, self.testbed.pod_numbered(pod));
        Ok(match pair {
            // Each name once: short enough that most turns are without a garbage collection of the cache's.
            Pair::DnsThroughput => {
                let frames = self.senders[pod].first_mut().context("no sender")?;
                let flow = self.testbed.run_once(frames, WINDOW)?;
                flow.replies.answers as f64 / flow.elapsed.as_secs_f64()
            }
            Pair::DnsLatency => anyhow::bail!("asked by both pods at once"),
            Pair::Tcp => external::iperf(lab, from, Stream::Tcp)?,
            Pair::Udp => external::iperf(lab, from, Stream::Udp)?,
        })
    }
}
