//! One query after the other over one socket: how long a client waits when nothing else goes on.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use hdrhistogram::Histogram;

use super::super::latency;
use crate::packets::build::{name, question};

const TYPE_A: u16 = 1;
/// A reply that takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(1);

/// Asks for each name in turn until `duration` is over, from the calling thread's namespace; the second number counts
/// queries without a reply.
pub fn run(
    server: SocketAddr,
    names: &[String],
    duration: Duration,
) -> Result<(Histogram<u64>, u64)> {
    ensure!(!names.is_empty(), "no names to ask for");
    let queries: Vec<Vec<u8>> = names
        .iter()
        .map(|text| question(name(text), TYPE_A).build())
        .collect();
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(server)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let mut times = latency::histogram()?;
    let mut lost = 0;
    let mut buffer = [0; 4096];
    let start = Instant::now();
    for (id, query) in (0..=u16::MAX).cycle().zip(queries.iter().cycle()) {
        if start.elapsed() >= duration {
            break;
        }
        let mut query = query.clone();
        query[..2].copy_from_slice(&id.to_be_bytes());
        let asked = Instant::now();
        socket.send(&query)?;
        if wait(&socket, &mut buffer, id)? {
            times.saturating_record(latency::units(asked.elapsed()));
        } else {
            lost += 1;
        }
    }
    Ok((times, lost))
}

/// Waits for the reply with this ID.
fn wait(socket: &UdpSocket, buffer: &mut [u8], id: u16) -> Result<bool> {
    loop {
        match socket.recv(buffer) {
            Ok(length) if length >= 12 && buffer[..2] == id.to_be_bytes() => return Ok(true),
            // The reply to a query that was given up.
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
