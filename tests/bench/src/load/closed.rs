//! One query after the other over one socket: how long a client waits when nothing else goes on.

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use hdrhistogram::Histogram;

use super::super::latency;
use gregor_tests::packets::build::{name, question};

const TYPE_A: u16 = 1;
/// A reply that takes longer is lost.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A socket, and what is asked through it.
pub struct Client {
    socket: UdpSocket,
    queries: Vec<Vec<u8>>,
}

/// How long replies took, and how many queries had none.
pub struct Waits {
    pub times: Histogram<u64>,
    pub lost: u64,
}

impl Client {
    /// In the calling thread's namespace.
    pub fn new(server: SocketAddr, names: &[String]) -> Result<Self> {
        ensure!(!names.is_empty(), "no names to ask for");
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        Ok(Self {
            socket,
            queries: names
                .iter()
                .map(|text| question(name(text), TYPE_A).build())
                .collect(),
        })
    }

    /// The time until the reply to the query numbered so came, if one did.
    fn ask(&self, number: usize) -> Result<Option<Duration>> {
        let mut buffer = [0; 4096];
        let id = number as u16;
        let mut query = self.queries[number % self.queries.len()].clone();
        query[..2].copy_from_slice(&id.to_be_bytes());
        let asked = Instant::now();
        self.socket.send(&query)?;
        let is_answered = wait(&self.socket, &mut buffer, id)?;
        Ok(is_answered.then(|| asked.elapsed()))
    }
}

/// Asks for each name in turn until `duration` is over, from the calling thread's namespace.
pub fn run(server: SocketAddr, names: &[String], duration: Duration) -> Result<Waits> {
    let waits = alternate(&[Client::new(server, names)?], duration)?;
    waits.into_iter().next().context("one client")
}

/// Lets clients ask one query each, in one order and then in the other, until `duration` is over.
pub fn alternate(clients: &[Client], duration: Duration) -> Result<Vec<Waits>> {
    let nothing = |_| {
        let times = latency::histogram()?;
        Ok(Waits { times, lost: 0 })
    };
    let mut waits: Vec<Waits> = (0..clients.len()).map(nothing).collect::<Result<_>>()?;
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < duration {
        for place in 0..clients.len() {
            let client = if number % 2 == 0 {
                place
            } else {
                clients.len() - 1 - place
            };
            match clients[client].ask(number)? {
                Some(time) => waits[client].times.saturating_record(latency::units(time)),
                None => waits[client].lost += 1,
            }
        }
        number += 1;
    }
    Ok(waits)
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
