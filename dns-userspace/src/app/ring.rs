//! Drains the ring into the responder. The same loop, and nothing else, renews the heartbeat of the programs.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::kernel::End;
use crate::datapath::{HEARTBEAT_VALID, Heartbeat, Intercepted, Ring};

/// Most milliseconds since the last turn for `/readyz` to say yes.
const SERVING: Duration = Duration::from_secs(2);

/// The time of the last turn of the loop.
#[derive(Debug)]
pub struct Pulse {
    started: Instant,
    /// Nanoseconds after `started`, plus one; 0 before the first time.
    last: AtomicU64,
}

impl Pulse {
    pub fn new() -> Self {
        Self {
            started: Instant::now(),
            last: AtomicU64::new(0),
        }
    }

    fn beat(&self) {
        let now = self.started.elapsed().as_nanos() as u64;
        self.last.store(now + 1, Ordering::Relaxed);
    }

    /// Time since the last turn; `None` before the first.
    pub fn age(&self) -> Option<Duration> {
        let last = self.last.load(Ordering::Relaxed).checked_sub(1)?;
        Some(
            self.started
                .elapsed()
                .saturating_sub(Duration::from_nanos(last)),
        )
    }

    /// Whether the loop runs as often as it should.
    pub fn is_serving(&self) -> bool {
        self.age().is_some_and(|age| age < SERVING)
    }
}

/// Drains until it is asked to finish. Then it sets the deadline to zero and drains what is left, or leaves both to a successor.
pub async fn drain(
    mut ring: Ring,
    heartbeat: Arc<Heartbeat>,
    handle: impl Fn(Intercepted),
    pulse: Arc<Pulse>,
    mut finish: watch::Receiver<Option<End>>,
) -> io::Result<()> {
    let mut batch = Vec::new();
    while finish.borrow_and_update().is_none() {
        heartbeat.renew(HEARTBEAT_VALID);
        pulse.beat();
        ring.next(&mut batch).await?;
        hand_over(&mut batch, &handle);
    }
    if *finish.borrow() == Some(End::Leave) {
        heartbeat.hand_over();
        return Ok(());
    }
    heartbeat.stop();
    // A program that read the deadline just before is done within microseconds: one empty turn is the end.
    loop {
        ring.next(&mut batch).await?;
        if batch.is_empty() {
            return Ok(());
        }
        hand_over(&mut batch, &handle);
    }
}

fn hand_over(batch: &mut Vec<Intercepted>, handle: &impl Fn(Intercepted)) {
    for query in batch.drain(..) {
        // A query whose handling panics must not affect the others; the hook counts and logs the panic.
        let _ = catch_unwind(AssertUnwindSafe(|| handle(query)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_has_no_age_before_it_beats() {
        let pulse = Pulse::new();
        assert_eq!(pulse.age(), None);
        assert!(!pulse.is_serving());
        pulse.beat();
        assert!(pulse.age().is_some());
    }
}
