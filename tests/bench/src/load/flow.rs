//! Sends queries from pods at a pace for a time, and says how many came back and what that cost the whole machine.
//!
//! With a window, no more queries are under way than it allows: a server in userspace is kept busy without its socket's
//! buffer overflowing, and the same generator drives answers from the kernel, which are back before it looks.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{
    replies::{Counter, Replies},
    socket::{BATCH, Frames},
};
use crate::machine::{self, Idle, busy};

/// How fast queries are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As fast as replies allow, with at most so many queries under way.
    Window(u64),
    /// So many per second whatever comes back, in calls of at most `batch`.
    Rate { per_second: f64, batch: usize },
}

/// How long a run takes.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Before figures are taken.
    pub warm_up: Duration,
    pub duration: Duration,
}

/// No run is longer: a larger value is a mistake.
const LONGEST: Duration = Duration::from_secs(60);
/// Fewer free places in the window are not worth a system call.
const WORTHWHILE: u64 = 8;
/// How long to sleep until there is something to do again.
const NAP: Duration = Duration::from_micros(50);
/// Queries are given up for lost when no reply has come for so long.
const PATIENCE: Duration = Duration::from_millis(100);

/// What a run has shown.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub elapsed: Duration,
    pub sent: u64,
    /// System calls that sent them.
    pub calls: u64,
    /// Replies in that time, some of which belong to queries before it.
    pub replies: Replies,
    /// Of the whole run with its warm-up, once everything had time to come back.
    pub sent_in_all: u64,
    pub lost_in_all: u64,
    /// Processor time of the whole machine.
    pub busy: Duration,
}

impl Flow {
    pub fn sent_per_second(&self) -> f64 {
        self.sent as f64 / self.elapsed.as_secs_f64()
    }

    pub fn replies_per_second(&self) -> f64 {
        self.replies.all() as f64 / self.elapsed.as_secs_f64()
    }

    /// The pace that sends as many queries in as many calls, whatever comes back.
    pub fn same_pace(&self) -> Pace {
        let batch = self.sent.div_ceil(self.calls.max(1)) as usize;
        Pace::Rate {
            per_second: self.sent_per_second(),
            batch: batch.clamp(1, BATCH),
        }
    }
}

/// What the threads of a run share.
struct Shared<'a> {
    counter: &'a Counter,
    before: u64,
    stop: AtomicBool,
    sent: AtomicU64,
    calls: AtomicU64,
    written_off: AtomicU64,
}

/// A moment's figures.
struct Moment {
    at: Instant,
    sent: u64,
    calls: u64,
    replies: Replies,
    idle: Idle,
}

impl Shared<'_> {
    fn now(&self) -> Result<Moment> {
        Ok(Moment {
            at: Instant::now(),
            sent: self.sent.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
            replies: self.counter.read()?,
            idle: Idle::now()?,
        })
    }

    fn answered(&self) -> Result<u64> {
        Ok(self.counter.read()?.all() - self.before)
    }
}

/// Sends from all pods in turn, with one thread per element of `senders`.
pub fn run(
    senders: &mut [Vec<Frames>],
    counter: &Counter,
    pace: Pace,
    span: Span,
    cores: usize,
) -> Result<Flow> {
    ensure!(
        span.warm_up + span.duration <= LONGEST,
        "a run takes at most {LONGEST:?}"
    );
    ensure!(
        !senders.is_empty() && senders.iter().all(|pods| !pods.is_empty()),
        "nothing to send from"
    );
    let shared = Shared {
        counter,
        before: counter.read()?.all(),
        stop: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        calls: AtomicU64::new(0),
        written_off: AtomicU64::new(0),
    };
    let threads = senders.len();
    thread::scope(|scope| -> Result<Flow> {
        let workers: Vec<_> = senders
            .iter_mut()
            .enumerate()
            .map(|(index, pods)| {
                let shared = &shared;
                scope.spawn(move || {
                    // A thread that moves has its buffers freed on one processor and taken on another.
                    machine::stay(index)?;
                    send(pods, shared, pace, threads)
                })
            })
            .collect();
        let moments = || -> Result<(Moment, Moment)> {
            thread::sleep(span.warm_up);
            let from = shared.now()?;
            thread::sleep(span.duration);
            Ok((from, shared.now()?))
        };
        let moments = moments();
        shared.stop.store(true, Ordering::Relaxed);
        for worker in workers {
            worker.join().ok().context("a sender panicked")??;
        }
        let (from, to) = moments?;
        let sent_in_all = shared.sent.load(Ordering::Relaxed);
        let answered = settle(&shared, sent_in_all)?;
        let elapsed = to.at - from.at;
        Ok(Flow {
            elapsed,
            sent: to.sent - from.sent,
            calls: to.calls - from.calls,
            replies: to.replies - from.replies,
            sent_in_all,
            lost_in_all: sent_in_all.saturating_sub(answered),
            busy: busy(elapsed, to.idle - from.idle, cores),
        })
    })
}

/// Sends every frame of one pod once, with at most `window` queries under way, and measures until the last reply.
pub fn once(frames: &mut Frames, counter: &Counter, window: u64, cores: usize) -> Result<Flow> {
    let start = Instant::now();
    let idle = Idle::now()?;
    let before = counter.read()?;
    let total = frames.count() as u64;
    let (mut sent, mut calls, mut answered) = (0, 0, 0);
    let mut progress = Instant::now();
    let mut written_off = 0;
    while sent < total || answered + written_off < total {
        ensure!(
            start.elapsed() < LONGEST,
            "{answered} answers to {total} queries after {LONGEST:?}"
        );
        let now = (counter.read()? - before).all();
        if now != answered {
            (answered, progress) = (now, Instant::now());
        }
        let under_way = sent - (answered + written_off).min(sent);
        let most = (total - sent).min(window.saturating_sub(under_way));
        if most >= WORTHWHILE.min(total - sent).max(1) {
            sent += frames.send(most as usize).context("sending frames")? as u64;
            calls += 1;
        } else if progress.elapsed() > PATIENCE {
            written_off += under_way;
            progress = Instant::now();
        } else {
            thread::sleep(NAP);
        }
    }
    let elapsed = progress.duration_since(start);
    let replies = counter.read()? - before;
    Ok(Flow {
        elapsed,
        sent,
        calls,
        replies,
        sent_in_all: sent,
        lost_in_all: sent.saturating_sub(replies.all()),
        busy: busy(start.elapsed(), Idle::now()? - idle, cores),
    })
}

/// Waits for replies that are under way; returns how many came in all.
fn settle(shared: &Shared<'_>, sent: u64) -> Result<u64> {
    let mut answered = shared.answered()?;
    let mut progress = Instant::now();
    while answered < sent && progress.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(1));
        let now = shared.answered()?;
        if now != answered {
            (answered, progress) = (now, Instant::now());
        }
    }
    Ok(answered)
}

fn send(pods: &mut [Frames], shared: &Shared<'_>, pace: Pace, threads: usize) -> Result<()> {
    let mut pods = Pods { pods, turn: 0 };
    match pace {
        Pace::Window(window) => send_in_window(&mut pods, shared, window),
        Pace::Rate { per_second, batch } => {
            send_at_rate(&mut pods, shared, per_second / threads as f64, batch)
        }
    }
}

/// Sockets that take turns.
struct Pods<'a> {
    pods: &'a mut [Frames],
    turn: usize,
}

impl Pods<'_> {
    fn send(&mut self, most: usize, shared: &Shared<'_>) -> Result<u64> {
        let sent = self.pods[self.turn].send(most).context("sending frames")? as u64;
        self.turn = (self.turn + 1) % self.pods.len();
        shared.sent.fetch_add(sent, Ordering::Relaxed);
        shared.calls.fetch_add(1, Ordering::Relaxed);
        Ok(sent)
    }
}

fn send_in_window(pods: &mut Pods<'_>, shared: &Shared<'_>, window: u64) -> Result<()> {
    let (mut last_answered, mut progress) = (0, Instant::now());
    while !shared.stop.load(Ordering::Relaxed) {
        let answered = shared.answered()?;
        let gone = answered + shared.written_off.load(Ordering::Relaxed);
        let sent = shared.sent.load(Ordering::Relaxed);
        let free = window.saturating_sub(sent.saturating_sub(gone));
        if answered != last_answered {
            (last_answered, progress) = (answered, Instant::now());
        }
        if free >= WORTHWHILE.min(window) {
            if pods.send(free as usize, shared)? == 0 {
                thread::sleep(NAP);
            }
        } else if progress.elapsed() > PATIENCE {
            let missing = sent.saturating_sub(gone);
            shared.written_off.fetch_add(missing, Ordering::Relaxed);
            progress = Instant::now();
        } else {
            thread::sleep(NAP);
        }
    }
    Ok(())
}

fn send_at_rate(
    pods: &mut Pods<'_>,
    shared: &Shared<'_>,
    per_second: f64,
    batch: usize,
) -> Result<()> {
    let start = Instant::now();
    let mut sent = 0u64;
    while !shared.stop.load(Ordering::Relaxed) {
        let due = (start.elapsed().as_secs_f64() * per_second) as u64;
        // What could not be sent in time is not made up for in one burst.
        sent = sent.max(due.saturating_sub(BATCH as u64 * 16));
        if due < sent + batch as u64 {
            thread::sleep(NAP);
            continue;
        }
        let now = pods.send(batch, shared)?;
        sent += now;
        if now == 0 {
            thread::sleep(NAP);
        }
    }
    Ok(())
}
