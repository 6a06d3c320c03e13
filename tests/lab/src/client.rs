//! A DNS client for tests and for `cargo xtask run`: one question, one server, no search list.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{Name, RecordType},
};

use crate::patience;

/// How a question travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// A question to one server.
#[derive(Clone, Debug)]
pub struct Ask {
    pub server: SocketAddr,
    /// Sent as it is spelled.
    pub qname: String,
    pub qtype: RecordType,
    pub transport: Transport,
    /// The UDP payload size to advertise; `None` sends no OPT.
    pub edns: Option<u16>,
    pub timeout: Duration,
}

impl Ask {
    /// Over UDP, without EDNS, as glibc and musl ask.
    pub fn new(server: IpAddr, qname: &str, qtype: RecordType) -> Self {
        Self {
            server: SocketAddr::new(server, 53),
            qname: qname.to_owned(),
            qtype,
            transport: Transport::Udp,
            edns: None,
            timeout: patience(Duration::from_secs(3)),
        }
    }

    /// The query with a random ID, in wire format.
    pub fn query(&self) -> Result<Message> {
        let mut query = Message::new(rand::random(), MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        let name = Name::from_ascii(format!("{}.", self.qname.trim_end_matches('.')))?;
        query.add_query(Query::query(name, self.qtype));
        if let Some(size) = self.edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size);
            query.edns = Some(edns);
        }
        Ok(query)
    }

    /// Sends the query from the calling thread's namespace and returns the first reply with its ID.
    pub fn send(&self) -> Result<Message> {
        let query = self.query()?;
        let wire = query.to_vec()?;
        match self.transport {
            Transport::Udp => self.send_udp(query.metadata.id, &wire),
            Transport::Tcp => self.send_tcp(&wire),
        }
        .with_context(|| format!("asking {} for {} {}", self.server, self.qname, self.qtype))
    }

    fn send_udp(&self, id: u16, wire: &[u8]) -> Result<Message> {
        let any: IpAddr = match self.server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0))?;
        socket.connect(self.server)?;
        socket.send(wire)?;
        let deadline = Instant::now() + self.timeout;
        let mut buffer = vec![0; 65_535];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!("no reply");
            }
            socket.set_read_timeout(Some(left))?;
            let length = socket.recv(&mut buffer)?;
            let reply = Message::from_vec(&buffer[..length])?;
            if reply.metadata.id == id {
                return Ok(reply);
            }
        }
    }

    fn send_tcp(&self, wire: &[u8]) -> Result<Message> {
        let mut stream = TcpStream::connect_timeout(&self.server, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.write_all(&[&(wire.len() as u16).to_be_bytes()[..], wire].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        let mut reply = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut reply)?;
        Ok(Message::from_vec(&reply)?)
    }
}
