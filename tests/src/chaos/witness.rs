//! Asks the existing cache from the node itself, where no program of gregor's is: what goes unanswered here is lost by the cache, as
//! where a busy machine leaves it no processor.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Result;

use super::{
    load::{TIMEOUT, query},
    task::Task,
    upstream::{self, Clock},
};
use crate::lab::Netns;

const INTERVAL: Duration = Duration::from_millis(100);

/// A client in the node.
#[derive(Debug)]
pub struct Witness(Task<Vec<Duration>>);

impl Witness {
    pub fn start(node: &Netns, server: IpAddr, clock: Clock) -> Result<Self> {
        Task::start(node, move |stop| ask(server, clock, stop)).map(Self)
    }

    /// When the queries were sent that had no reply within [`TIMEOUT`], but for those of the end.
    pub fn finish(self) -> Result<Vec<Duration>> {
        self.0.finish()
    }
}

fn ask(server: IpAddr, clock: Clock, stop: &AtomicBool) -> io::Result<Vec<Duration>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.connect((server, 53))?;
    let mut buffer = [0; 512];
    let mut waiting = BTreeMap::new();
    let mut unanswered = Vec::new();
    let (mut id, mut next) = (0_u16, clock.elapsed());
    while !stop.load(Ordering::Relaxed) {
        let now = clock.elapsed();
        if next <= now {
            id = id.wrapping_add(1);
            // What cannot be sent, since the cache is away, is not answered either.
            let _ = socket.send(&query(id, &upstream::foreign(u32::from(id))));
            waiting.insert(id, now);
            next = now + INTERVAL;
        }
        waiting.retain(|_, sent| {
            let is_over = *sent + TIMEOUT <= now;
            if is_over {
                unanswered.push(*sent);
            }
            !is_over
        });
        let pause = next.saturating_sub(clock.elapsed());
        socket.set_read_timeout(Some(pause.max(Duration::from_millis(1))))?;
        // An error is that of a cache that is away.
        if let Ok(length) = socket.recv(&mut buffer)
            && let Some(id) = buffer[..length].first_chunk()
        {
            waiting.remove(&u16::from_be_bytes(*id));
        }
    }
    Ok(unanswered)
}
