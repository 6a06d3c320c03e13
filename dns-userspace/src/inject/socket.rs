//! The sockets behind [`Inject`]: AF_PACKET towards pods and towards the return device, raw IP where there is none.
//!
//! A query that passes goes to the return device, whose program brings it back to the ingress that it was taken from
//! (`datapath/return_path.rs`): reverse path filter, input rules and policies see it as they would without gregor.
//!
//! With `hook = "xdp"` it would enter the XDP program again where the kernel runs that, and is sent by a raw IP socket with
//! the client's address as its source. Where the asked address is local to the node, the kernel routes such a packet over
//! `lo` with the route already attached; where it is not, it leaves by the ordinary output path, so that a Service address
//! is translated there, and the reply translated back. Which sources may come is what `allow_sources` says.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, RawFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Inject, QueryFrame, frame};

/// How the sockets are opened.
#[derive(Clone, Debug, Default)]
pub struct InjectorOptions {
    /// SO_MARK of queries that are passed on, so that policy can tell them from others.
    pub mark: Option<u32>,
    /// Index of the device by which queries go back to where they came from, which may be made anew; without one they leave by
    /// raw IP sockets.
    pub return_device: Option<Arc<AtomicU32>>,
}

/// Sends frames to interfaces and packets to servers in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Injector {
    packet: Socket,
    returning: Option<Returning>,
    raw_v4: Socket,
    /// Missing where the kernel runs without IPv6.
    raw_v6: Option<Socket>,
}

impl Injector {
    /// Opens the sockets; needs CAP_NET_RAW, and CAP_NET_ADMIN for a mark.
    ///
    /// # Errors
    /// When a socket cannot be opened or set up.
    pub fn open(options: InjectorOptions) -> io::Result<Injector> {
        // Protocol 0: this socket sends and never receives.
        let packet = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        // The reply bypasses the egress hook, where a policy that never saw the query may drop it.
        bypass_qdisc(packet.as_raw_fd())?;
        let raw_v4 = open_raw(Domain::IPV4, options.mark)?;
        let raw_v6 = match open_raw(Domain::IPV6, options.mark) {
            Ok(socket) => Some(socket),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        Ok(Injector {
            packet,
            returning: options.return_device.map(Returning::open).transpose()?,
            raw_v4,
            raw_v6,
        })
    }
}

/// The socket towards the return device.
#[derive(Debug)]
struct Returning {
    device: Arc<AtomicU32>,
    /// Its mark is the index of the interface that the frame goes back to.
    socket: Mutex<Socket>,
}

impl Returning {
    fn open(device: Arc<AtomicU32>) -> io::Result<Self> {
        // Without PACKET_QDISC_BYPASS: the program is on the egress hook.
        let socket = Socket::new(Domain::PACKET, Type::RAW.nonblocking(), None)?;
        Ok(Self {
            device,
            socket: Mutex::new(socket),
        })
    }

    fn send(&self, query: &QueryFrame) -> io::Result<()> {
        let frame = frame::original_frame(query).ok_or_else(not_a_query)?;
        let address = link_address(self.device.load(Ordering::Relaxed), &frame)?;
        let socket = self.socket.lock().unwrap_or_else(PoisonError::into_inner);
        socket.set_mark(query.ifindex)?;
        let sent = socket.send_to(&frame, &address)?;
        whole(sent, frame.len())
    }
}

impl Inject for Injector {
    fn reply(&self, query: &QueryFrame, message: &[u8]) -> io::Result<()> {
        let frame = frame::reply(query, message).ok_or_else(not_a_query)?;
        let sent = self
            .packet
            .send_to(&frame, &link_address(query.ifindex, &frame)?)?;
        whole(sent, frame.len())
    }

    fn pass_on(&self, query: &QueryFrame) -> io::Result<()> {
        if let Some(returning) = &self.returning {
            return returning.send(query);
        }
        let (packet, mut server) = frame::original_packet(query).ok_or_else(not_a_query)?;
        // Raw IPv6 sockets take a port for a protocol number.
        server.set_port(0);
        if let SocketAddr::V6(server) = &mut server
            && server.ip().is_unicast_link_local()
        {
            server.set_scope_id(query.ifindex);
        }
        let socket = match server {
            SocketAddr::V4(_) => &self.raw_v4,
            SocketAddr::V6(_) => self.raw_v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        let sent = socket.send_to(&packet, &server.into())?;
        whole(sent, packet.len())
    }
}

fn not_a_query() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        "the frame is not a UDP datagram that gregor answers",
    )
}

fn whole(sent: usize, length: usize) -> io::Result<()> {
    if sent == length {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// A raw socket whose sender writes the IP header; IPPROTO_RAW receives nothing.
fn open_raw(domain: Domain, mark: Option<u32>) -> io::Result<Socket> {
    let socket = Socket::new(
        domain,
        Type::RAW.nonblocking(),
        Some(Protocol::from(libc::IPPROTO_RAW)),
    )?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    Ok(socket)
}

fn bypass_qdisc(socket: RawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: the option is an int, and `on` is one that outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket,
            libc::SOL_PACKET,
            libc::PACKET_QDISC_BYPASS,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Where a frame leaves; its protocol is the frame's own EtherType.
fn link_address(ifindex: u32, frame: &[u8]) -> io::Result<SockAddr> {
    let ethertype = frame
        .get(12..14)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u16::from_ne_bytes)
        .ok_or_else(not_a_query)?;
    let ifindex = i32::try_from(ifindex).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the storage is large enough for a sockaddr_ll and aligned for it, every bit pattern of which is valid;
    // the length is that of what was written.
    let ((), address) = unsafe {
        SockAddr::try_init(|storage, length| {
            storage
                .cast::<libc::sockaddr_ll>()
                .write(libc::sockaddr_ll {
                    sll_family: libc::AF_PACKET as u16,
                    sll_protocol: ethertype,
                    sll_ifindex: ifindex,
                    sll_hatype: 0,
                    sll_pkttype: 0,
                    sll_halen: 0,
                    sll_addr: [0; 8],
                });
            length.write(size_of::<libc::sockaddr_ll>() as libc::socklen_t);
            Ok(())
        })?
    };
    Ok(address)
}
