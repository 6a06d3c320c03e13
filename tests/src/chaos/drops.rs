//! Watches what the kernel drops at the existing cache: a query that is lost there is none that gregor has lost.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, bail};

use super::{judge::Drops, upstream::Clock};
use crate::lab::{Netns, dropped_at};

const INTERVAL: Duration = Duration::from_millis(200);

/// Runs until it is finished or dropped.
#[derive(Debug)]
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<Vec<Drops>>>>,
}

impl Watch {
    /// Watches the sockets of the namespace that serve DNS.
    pub fn start(node: &Netns, clock: Clock) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = node.enter_detached(move || watch(clock, &stopped))?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// What was dropped, and when.
    pub fn finish(mut self) -> Result<Vec<Drops>> {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            bail!("a watch that was finished before");
        };
        match thread.join() {
            Ok(drops) => Ok(drops?),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(clock: Clock, stop: &AtomicBool) -> io::Result<Vec<Drops>> {
    let mut all = Vec::new();
    let (mut before, mut from) = (dropped_at(53)?, clock.elapsed());
    while !stop.load(Ordering::Relaxed) {
        thread::sleep(INTERVAL);
        let (dropped, until) = (dropped_at(53)?, clock.elapsed());
        // A cache that was restarted counts from zero.
        let count = dropped.checked_sub(before).unwrap_or(dropped);
        if count > 0 {
            all.push(Drops { from, until, count });
        }
        (before, from) = (dropped, until);
    }
    Ok(all)
}
