//! Feeds the tracker from rtnetlink: a dump of the links, then RTM_NEWLINK and RTM_DELLINK.
//!
//! The multicast socket is read directly, so that its receive buffer bounds the backlog: when that overflows, the kernel
//! reports it (ENOBUFS), and a dump finds what was missed. Any other error leads to new sockets and a dump: attached programs
//! do not need rtnetlink.

use std::{
    collections::HashSet,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::TryStreamExt as _;
use rtnetlink::{
    Handle,
    packet_core::{NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        link::{LinkAttribute, LinkInfo, LinkMessage},
    },
    sys::{
        AsyncSocket as _, AsyncSocketExt as _, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE,
    },
};
use tokio::{task::JoinHandle, time::Instant};

use super::{
    DiscoverError, Event, Link, Selection, Tracker,
    route::{is_default, uplinks},
};
use crate::model::Interface;

/// RTMGRP_LINK, RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE.
const GROUPS: u32 = 1 | 0x40 | 0x400;
/// A few thousand link messages, which are about 1.5 kB each.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Pause after an error; twice as long after each that follows it, up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The interfaces to attach to, as they come and go in the network namespace where this was opened.
pub struct Links {
    socket: TokioSocket,
    requests: Requests,
    tracker: Tracker,
    /// As of the last list.
    uplinks: HashSet<u32>,
    needs_dump: bool,
    /// A dump in progress, in a task of its own: it is still here after a caller was cancelled.
    dump: Option<Dump>,
    overruns: u64,
    errors: Arc<AtomicU64>,
    /// Set after an error: when the sockets are opened again, and the pause after the next error.
    reopen: Option<Instant>,
    pause: Duration,
    /// Whether the log has said that messages cannot be read.
    has_warned: bool,
}

impl Links {
    /// Starts to listen. Needs a tokio runtime.
    pub fn open(selection: Selection) -> Result<Self, DiscoverError> {
        Ok(Self {
            socket: listen().map_err(DiscoverError::Open)?,
            requests: Requests::open().map_err(DiscoverError::Open)?,
            tracker: Tracker::new(selection),
            uplinks: HashSet::new(),
            needs_dump: true,
            dump: None,
            overruns: 0,
            errors: Arc::default(),
            reopen: None,
            pause: FIRST_PAUSE,
            has_warned: false,
        })
    }

    /// Selects other interfaces; the next batch has the difference.
    pub fn select(&mut self, selection: Selection) {
        self.tracker.select(selection);
        self.needs_dump = true;
    }

    /// How often the receive buffer overflowed.
    pub fn overruns(&self) -> u64 {
        self.overruns
    }

    /// Errors of rtnetlink so far, each of which led to new sockets and a list of all interfaces.
    pub fn errors(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.errors)
    }

    /// The next changes: first all present interfaces (perhaps none), then each change. After an error it starts again, and
    /// what changed meanwhile comes as events. Cancel-safe.
    pub async fn next(&mut self) -> Vec<Event> {
        loop {
            match self.advance().await {
                Ok(events) => {
                    self.pause = FIRST_PAUSE;
                    return events;
                }
                Err(error) => {
                    tracing::warn!(
                        %error,
                        "interface changes may be lost; rtnetlink is opened again in {} ms",
                        self.pause.as_millis()
                    );
                    self.errors.fetch_add(1, Ordering::Relaxed);
                    self.dump = None;
                    self.reopen = Some(Instant::now() + self.pause);
                    self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    async fn advance(&mut self) -> Result<Vec<Event>, DiscoverError> {
        if let Some(at) = self.reopen {
            tokio::time::sleep_until(at).await;
            self.socket = listen().map_err(DiscoverError::Open)?;
            self.requests = Requests::open().map_err(DiscoverError::Open)?;
            self.needs_dump = true;
            self.reopen = None;
        }
        loop {
            if let Some(dump) = &mut self.dump {
                let links = (&mut dump.0).await;
                self.dump = None;
                let links =
                    links.map_err(|error| DiscoverError::Read(io::Error::other(error)))??;
                self.uplinks = links
                    .iter()
                    .filter(|link| link.is_uplink)
                    .map(|link| link.index)
                    .collect();
                if !self.needs_dump {
                    return Ok(self.tracker.resync(links));
                }
            }
            if self.needs_dump {
                self.needs_dump = false;
                self.dump = Some(Dump(tokio::spawn(dump(self.requests.handle.clone()))));
                continue;
            }
            let (datagram, sender) = match self.socket.recv_from_full().await {
                Ok(received) => received,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    tracing::info!("interface changes were lost; listing all interfaces again");
                    self.needs_dump = true;
                    self.overruns += 1;
                    continue;
                }
                Err(error) => return Err(DiscoverError::Read(error)),
            };
            // The kernel's port is 0.
            if sender.port_number() != 0 {
                continue;
            }
            let events = self.take(&datagram);
            if !events.is_empty() {
                return Ok(events);
            }
            if self.needs_dump {
                continue;
            }
        }
    }

    fn take(&mut self, mut datagram: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(message) = next_message(&mut datagram) {
            match message {
                Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message))) => {
                    if let Some(mut link) = link(&message) {
                        link.is_uplink = self.uplinks.contains(&link.index);
                        events.extend(self.tracker.seen(link));
                    }
                }
                Ok(NetlinkPayload::InnerMessage(
                    RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route),
                )) if is_default(&route) => self.needs_dump = true,
                Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(message))) => {
                    events.extend(link(&message).and_then(|link| self.tracker.gone(link.index)));
                }
                Ok(NetlinkPayload::Overrun(_)) => self.needs_dump = true,
                Ok(_) => {}
                Err(error) if !std::mem::replace(&mut self.has_warned, true) => tracing::warn!(
                    %error,
                    "a message of rtnetlink cannot be read: its interface may not be served, and `gregor status` does not \
                     list it; further ones are logged at debug"
                ),
                Err(error) => tracing::debug!(%error, "a message of rtnetlink cannot be read"),
            }
        }
        events
    }
}

fn listen() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    // Best effort: the default buffer works too, with more dumps.
    let _ = inner.set_rx_buf_sz(RECEIVE_BUFFER as u32);
    inner.bind(&SocketAddr::new(0, GROUPS))?;
    Ok(socket)
}

/// The present interfaces that a selection wants.
pub async fn present(selection: &Selection) -> Result<Vec<Interface>, DiscoverError> {
    let links = all().await?.into_iter();
    let wanted = links.filter(|link| selection.wants(link));
    Ok(wanted
        .map(|link| Interface {
            index: link.index,
            name: link.name,
        })
        .collect())
}

/// A connection for requests, driven by a task that ends with it.
struct Requests {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Requests {
    fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
        })
    }
}

async fn dump(handle: Handle) -> Result<Vec<Link>, DiscoverError> {
    let uplinks = uplinks(&handle).await?;
    handle
        .link()
        .get()
        .execute()
        .try_filter_map(|message| async move { Ok(link(&message)) })
        .map_ok(|link| Link {
            is_uplink: uplinks.contains(&link.index),
            ..link
        })
        .try_collect()
        .await
        .map_err(DiscoverError::Dump)
}

/// All links of this network namespace.
pub async fn all() -> Result<Vec<Link>, DiscoverError> {
    let requests = Requests::open().map_err(DiscoverError::Open)?;
    dump(requests.handle.clone()).await
}

/// Ends with its owner.
struct Dump(JoinHandle<Result<Vec<Link>, DiscoverError>>);

impl Drop for Dump {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Requests {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

type Payload = NetlinkPayload<RouteNetlinkMessage>;

/// Takes the first message of a datagram.
fn next_message(
    datagram: &mut &[u8],
) -> Option<Result<Payload, rtnetlink::packet_core::DecodeError>> {
    const HEADER: usize = 16;
    let length = u32::from_ne_bytes(datagram.get(..4)?.try_into().ok()?) as usize;
    if length < HEADER || length > datagram.len() {
        return None;
    }
    let (message, _) = datagram.split_at(length);
    // Messages are padded to four bytes, the last one perhaps not.
    *datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    Some(NetlinkMessage::deserialize(message).map(|message| message.payload))
}

/// The relevant fields of a link message; `None` when it is not about the link itself.
fn link(message: &LinkMessage) -> Option<Link> {
    // AF_BRIDGE messages are about bridge ports: an RTM_DELLINK there means only that a port left its bridge.
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: String::new(),
        peer_elsewhere: false,
        is_uplink: false,
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    if let LinkInfo::Kind(kind) = info {
                        link.kind = kind.to_string();
                    }
                }
            }
            _ => {}
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use rtnetlink::{packet_core::NetlinkHeader, packet_route::link::InfoKind};

    use super::*;

    fn new_link(family: AddressFamily, attributes: Vec<LinkAttribute>) -> Vec<u8> {
        let mut message = LinkMessage::default();
        message.header.interface_family = family;
        message.header.index = 5;
        message.attributes = attributes;
        let mut message = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::from(RouteNetlinkMessage::NewLink(message)),
        );
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    fn read(mut datagram: &[u8]) -> Vec<Option<Link>> {
        let mut links = Vec::new();
        while let Some(message) = next_message(&mut datagram) {
            let Ok(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message))) = message
            else {
                panic!("not a link");
            };
            links.push(link(&message));
        }
        links
    }

    #[tokio::test]
    async fn an_error_of_rtnetlink_leads_to_a_new_list() {
        let mut links = Links::open(Selection::new(&["lo"]).unwrap()).unwrap();
        let loopback = Interface {
            index: 1,
            name: "lo".to_owned(),
        };
        assert_eq!(links.next().await, [Event::Appeared(loopback.clone())]);

        // Requests get no replies any more, so the next dump fails.
        links.requests.driver.abort();
        let _ = (&mut links.requests.driver).await;
        links.select(Selection::new(&["nothing"]).unwrap());
        assert_eq!(links.next().await, [Event::Vanished(1)]);
        assert_eq!(links.errors().load(Ordering::Relaxed), 1);
        assert_eq!(links.pause, FIRST_PAUSE);

        links.select(Selection::new(&["lo"]).unwrap());
        assert_eq!(links.next().await, [Event::Appeared(loopback)]);
        assert_eq!(links.errors().load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_veth_with_its_peer_elsewhere() {
        let bytes = new_link(
            AddressFamily::Unspec,
            vec![
                LinkAttribute::IfName("veth5".to_owned()),
                LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
                LinkAttribute::LinkNetNsId(0),
            ],
        );
        let expected = Link {
            index: 5,
            name: "veth5".to_owned(),
            kind: "veth".to_owned(),
            peer_elsewhere: true,
            is_uplink: false,
        };
        assert_eq!(read(&bytes), [Some(expected.clone())]);
        // Two in one datagram.
        let mut two = bytes.clone();
        two.resize(two.len().next_multiple_of(4), 0);
        two.extend_from_slice(&bytes);
        assert_eq!(read(&two), [Some(expected.clone()), Some(expected)]);
    }

    #[test]
    fn bridge_port_messages_are_ignored() {
        let bytes = new_link(
            AddressFamily::Bridge,
            vec![LinkAttribute::IfName("veth5".to_owned())],
        );
        assert_eq!(read(&bytes), [None]);
    }

    #[test]
    fn wrong_lengths_end_the_datagram() {
        let mut bytes = new_link(
            AddressFamily::Unspec,
            vec![LinkAttribute::IfName("veth5".to_owned())],
        );
        for length in [0u32, 15, bytes.len() as u32 + 1, u32::MAX] {
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(read(&bytes), []);
        }
        assert_eq!(read(&[1, 2, 3]), []);
    }
}
