//! The same work over the same node and cache from two pods in turn, one of which has gregor on its interface: what
//! everything pays that is not gregor's to answer.
//!
//! A machine that others use as well is faster in one second than in the next, by more than what is looked for. So the
//! pods take turns many times in a second, one around the other, and all of it stays on one processor; which pod has
//! gregor alternates from round to round.

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TcAttachType};
use hdrhistogram::Histogram;

use super::{
    contenders::{self, GregorSetup, NODELOCAL, Needs, Senders, Stand, in_namespace, names_of},
    external::{self, Stream},
    latency,
    load::{closed, flow::Pace, names::Traffic},
    machine::OnOneProcessor,
    plan::{LABELS, Mode, Pair, WINDOW},
};
use crate::packets::wire::set_segmentation;

const PODS: usize = 2;

/// The two pods, and what they ask with.
pub struct Pairs {
    mode: Mode,
    stand: Stand,
    /// One generator for each pod.
    senders: Senders,
    /// The pod that has gregor.
    attached: Option<usize>,
}

/// What one pod has got done in all of its turns.
struct Done {
    sum: f64,
    turns: f64,
    times: Histogram<u64>,
}

impl Pairs {
    pub fn start(mode: Mode) -> Result<Self> {
        let _pinned = OnOneProcessor::pin()?;
        let needs = Needs {
            pods: PODS,
            ..Needs::default()
        };
        let stand = contenders::by_id(NODELOCAL)?.start(&needs)?;
        // Small segments are to be small in front of gregor too, not cut out of large ones behind it.
        for pod in stand.lab.pods() {
            pod.netns().enter(|| set_segmentation("eth0", false))??;
        }
        let senders = stand.senders(PODS, PODS, names_of(Traffic::Foreign, LABELS))?;
        Ok(Self {
            mode,
            stand,
            senders,
            attached: None,
        })
    }

    /// What is got done with gregor, and without.
    pub fn measure(&mut self, pair: Pair, round: usize) -> Result<(f64, f64)> {
        let _pinned = OnOneProcessor::pin()?;
        let with = round % PODS;
        self.attach(with)?;
        if matches!(pair, Pair::DnsThroughput | Pair::DnsLatency) {
            self.stand.warm(&mut self.senders, PODS * LABELS)?;
        }
        let mut done = [Done::nothing()?, Done::nothing()?];
        for turn in 0..self.mode.turns(pair) {
            let first = turn % PODS;
            for pod in [first, 1 - first] {
                self.turn(pair, pod, &mut done[pod])?;
            }
        }
        let [with, without] = [with, 1 - with].map(|pod| done[pod].value(pair));
        ensure!(without > 0.0, "nothing came through without gregor");
        Ok((with, without))
    }

    /// Moves gregor to a pod's interface, and makes sure that it is there and nowhere else.
    fn attach(&mut self, pod: usize) -> Result<()> {
        if self.attached == Some(pod) {
            return Ok(());
        }
        self.attached = None;
        self.stand.stop_gregor()?;
        let interfaces = (0..PODS).map(|pod| self.stand.pod_numbered(pod).host_interface.clone());
        let interfaces: Vec<String> = interfaces.collect();
        let setup = GregorSetup {
            interface: Some(interfaces[pod].clone()),
            ..GregorSetup::default()
        };
        self.stand.start_gregor(&setup.config())?;
        let programs = in_namespace(self.stand.lab.node().name(), || {
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

    fn turn(&mut self, pair: Pair, pod: usize, done: &mut Done) -> Result<()> {
        done.turns += 1.0;
        let (lab, from) = (&self.stand.lab, self.stand.pod_numbered(pod));
        let span = self.mode.pair();
        match pair {
            Pair::DnsThroughput => {
                let senders = &mut self.senders[pod..=pod];
                let flow = self.stand.run(senders, Pace::Window(WINDOW), span)?;
                done.sum += flow.replies.answers as f64 / flow.elapsed.as_secs_f64();
            }
            Pair::DnsLatency => {
                let names = names_of(Traffic::Foreign, LABELS)(pod);
                let server = self.stand.server();
                let duration = span.warm_up + span.duration;
                let (times, _) = from
                    .netns()
                    .enter(move || closed::run(server, &names, duration))??;
                done.times.add(&times)?;
            }
            Pair::Tcp => done.sum += external::iperf(lab, from, Stream::Tcp)?,
            Pair::Udp => done.sum += external::iperf(lab, from, Stream::Udp)?,
        }
        Ok(())
    }
}

impl Done {
    fn nothing() -> Result<Self> {
        Ok(Self {
            sum: 0.0,
            turns: 0.0,
            times: latency::histogram()?,
        })
    }

    /// The mean of all turns; of waiting times, the median.
    fn value(&self, pair: Pair) -> f64 {
        match pair {
            Pair::DnsLatency => latency::microseconds(&self.times, 0.5),
            Pair::DnsThroughput | Pair::Tcp | Pair::Udp => self.sum / self.turns,
        }
    }
}
