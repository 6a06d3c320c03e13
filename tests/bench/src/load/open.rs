//! Queries at intended times, whether or not earlier ones have been answered: what a client waits under load.
//!
//! A query's time starts when it was meant to be sent. Were it to start at the actual sending, a server that stops for
//! a while would be charged for one slow query instead of all that had to wait (coordinated omission).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use super::super::latency;
use gregor_tests::packets::build::{name, question};

const TYPE_A: u16 = 1;
/// Queries that their IDs can distinguish.
const IDS: usize = 1 << 16;
/// No query is waited for longer than this after the last one was sent.
const DRAIN: Duration = Duration::from_millis(500);

/// What an open loop has shown.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// From the intended time of sending to the reply.
    pub times: Histogram<u64>,
    pub sent: u64,
    pub lost: u64,
}

/// Sends `per_second` queries, evenly spaced, for `duration`, from the calling thread's namespace.
pub fn run(
    server: SocketAddr,
    names: &[String],
    per_second: u32,
    duration: Duration,
) -> Result<Outcome> {
    ensure!(!names.is_empty() && per_second > 0, "nothing to send");
    let mut queries: Vec<Vec<u8>> = names
        .iter()
        .map(|text| question(name(text), TYPE_A).build())
        .collect();
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    let start = Instant::now();
    // When the query of each ID was due, in nanoseconds after the start and never 0; 0 when none is under way.
    let due: Vec<AtomicU64> = (0..IDS).map(|_| AtomicU64::new(0)).collect();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let receiver = {
            let socket = socket.try_clone()?;
            let (due, done) = (&due, &done);
            scope.spawn(move || receive(&socket, due, done, start))
        };
        let sender = scope.spawn(|| send(&socket, &mut queries, per_second, duration, &due, start));
        let sent = sender.join().ok().context("the sender panicked")?;
        thread::sleep(DRAIN);
        done.store(true, Ordering::Relaxed);
        let times = receiver.join().ok().context("the receiver panicked")??;
        let (sent, overtaken) = sent?;
        let waiting = due.iter().filter(|due| due.load(Ordering::Relaxed) != 0);
        Ok(Outcome {
            times,
            sent,
            lost: waiting.count() as u64 + overtaken,
        })
    })
}

/// Returns how many were sent, and how many of them were still waiting when their ID was needed again.
fn send(
    socket: &UdpSocket,
    queries: &mut [Vec<u8>],
    per_second: u32,
    duration: Duration,
    due: &[AtomicU64],
    start: Instant,
) -> Result<(u64, u64)> {
    wake_exactly()?;
    let interval = Duration::from_secs(1).as_nanos() as u64 / u64::from(per_second);
    let total = duration.as_nanos() as u64 / interval.max(1);
    let mut overtaken = 0;
    let mut turn = 0;
    for number in 0..total {
        let intended = (number + 1) * interval;
        let now = start.elapsed().as_nanos() as u64;
        if now < intended {
            thread::sleep(Duration::from_nanos(intended - now));
        }
        let id = number as usize % IDS;
        overtaken += u64::from(due[id].swap(intended, Ordering::AcqRel) != 0);
        turn = (turn + 1) % queries.len();
        let query = &mut queries[turn];
        query[..2].copy_from_slice(&(id as u16).to_be_bytes());
        loop {
            match socket.send(query) {
                Ok(_) => break,
                // There is no listener at this moment, by the ICMP error of an earlier query: that one is lost, this one may
                // not be.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok((total, overtaken))
}

/// Has the calling thread woken when its sleep is over, and not up to 50 µs later.
fn wake_exactly() -> Result<()> {
    // SAFETY: takes numbers alone and concerns this thread.
    let done = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
    ensure!(
        done == 0,
        "PR_SET_TIMERSLACK: {}",
        io::Error::last_os_error()
    );
    Ok(())
}

fn receive(
    socket: &UdpSocket,
    due: &[AtomicU64],
    done: &AtomicBool,
    start: Instant,
) -> Result<Histogram<u64>> {
    let mut times = latency::histogram()?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut buffer = [0; 4096];
    while !done.load(Ordering::Relaxed) {
        let Ok(length) = socket.recv(&mut buffer) else {
            continue;
        };
        let now = start.elapsed().as_nanos() as u64;
        if length < 12 {
            continue;
        }
        let id = usize::from(u16::from_be_bytes([buffer[0], buffer[1]]));
        let intended = due[id].swap(0, Ordering::AcqRel);
        if intended != 0 {
            times.saturating_record(latency::units(Duration::from_nanos(
                now.saturating_sub(intended),
            )));
        }
    }
    Ok(times)
}
