//! Watches what the kernel drops at the existing cache: a query that is lost there is none that gregor has lost.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;

use super::{judge::Drops, task::Task, upstream::Clock};
use crate::lab::{Netns, dropped_at};

const INTERVAL: Duration = Duration::from_millis(200);

/// Watches the sockets of a namespace that serve DNS.
#[derive(Debug)]
pub struct Watch(Task<Vec<Drops>>);

impl Watch {
    pub fn start(node: &Netns, clock: Clock) -> Result<Self> {
        Task::start(node, move |stop| watch(clock, stop)).map(Self)
    }

    /// What was dropped, and when.
    pub fn finish(self) -> Result<Vec<Drops>> {
        self.0.finish()
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
