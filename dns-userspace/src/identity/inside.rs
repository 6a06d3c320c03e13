//! Reads an interface and what is behind it over rtnetlink: the addresses inside another network namespace, without entering it.
//!
//! The kernel answers for the namespace that a number of this one (`nsid`) stands for. Such numbers are used again, so the
//! interface is read once more afterwards, and nothing counts where it has changed.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::IpAddr,
};

use super::facts::{Look, Mac, Peer};
use crate::datapath::{Netlink, attributes};

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_TARGET_NETNSID: u16 = 10;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
/// The entry of the table itself is wanted, not the path that it leads to.
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTN_UNICAST: u8 = 1;
/// Routes that come from the network: an ICMP redirect, a router advertisement.
const RTPROT_REDIRECT: u8 = 1;
const RTPROT_RA: u8 = 9;
/// `struct ifinfomsg`, `ifaddrmsg`, `rtmsg`.
const LINK_HEADER: usize = 16;
const ADDRESS_HEADER: usize = 8;
const ROUTE_HEADER: usize = 12;
/// An interface that changes each time it is read.
const ATTEMPTS: usize = 3;

/// Reads interfaces of the network namespace that it was opened in. Needs CAP_NET_ADMIN.
pub struct Inside(Netlink);

/// One link, as one message has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    mac: Option<Mac>,
    is_veth: bool,
    /// The index of its peer.
    peer: Option<u32>,
    /// The number of the peer's network namespace.
    nsid: Option<i32>,
}

impl Inside {
    pub fn open() -> io::Result<Inside> {
        Netlink::open_strict(libc::NETLINK_ROUTE).map(Inside)
    }

    /// Reads an interface; `None` where there is none of this index.
    pub fn look(&self, index: u32) -> io::Result<Option<Look>> {
        let mut peer = Peer::Unreadable;
        let mut link = Link::default();
        for _ in 0..ATTEMPTS {
            let Some(before) = self.link(index, None)? else {
                return Ok(None);
            };
            peer = self.peer(&before);
            let Some(after) = self.link(index, None)? else {
                return Ok(None);
            };
            let is_same = before == after;
            link = after;
            if is_same {
                break;
            }
            peer = Peer::Unreadable;
        }
        Ok(Some(Look {
            name: link.name,
            mac: link.mac,
            peer,
        }))
    }

    fn peer(&self, link: &Link) -> Peer {
        let (true, Some(nsid), Some(peer)) = (link.is_veth, link.nsid, link.peer) else {
            return Peer::None;
        };
        let other = match self.link(peer, Some(nsid)) {
            Ok(Some(other)) if other.is_veth && other.peer == Some(link.index) => other,
            Ok(_) => return Peer::Unreadable,
            Err(error) => {
                tracing::debug!(%error, "cannot read the peer of an interface");
                return Peer::Unreadable;
            }
        };
        match self.addresses(nsid) {
            Ok(addresses) => Peer::Inside {
                mac: other.mac,
                addresses,
            },
            Err(error) => {
                tracing::debug!(%error, "cannot read the addresses behind an interface");
                Peer::Unreadable
            }
        }
    }

    fn link(&self, index: u32, nsid: Option<i32>) -> io::Result<Option<Link>> {
        let mut body = [0; LINK_HEADER].to_vec();
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        if let Some(nsid) = nsid {
            append(&mut body, IFLA_TARGET_NETNSID, &nsid.to_ne_bytes());
        }
        let mut found = None;
        let asked = self.0.ask(libc::RTM_GETLINK, false, &body, |_, message| {
            found = read_link(message);
        });
        match asked {
            Ok(()) => Ok(found),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The addresses of all interfaces of a network namespace.
    fn addresses(&self, nsid: i32) -> io::Result<BTreeSet<IpAddr>> {
        let mut addresses = BTreeSet::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut body = [0; ADDRESS_HEADER].to_vec();
            body[0] = family as u8;
            append(&mut body, IFA_TARGET_NETNSID, &nsid.to_ne_bytes());
            let asked = self.0.ask(libc::RTM_GETADDR, true, &body, |kind, message| {
                if kind == libc::RTM_NEWADDR {
                    addresses.extend(read_address(message));
                }
            });
            match asked {
                // A kernel without IPv6.
                Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
                asked => asked?,
            }
        }
        Ok(addresses)
    }

    /// The interfaces that the node's own routes to single addresses lead to. Others, such as to the pods' whole network behind a
    /// bridge, say nothing about one address; neither do neighbours and the tables of bridges, which are learned from what pods
    /// send.
    pub fn routes<'a>(
        &self,
        addresses: impl IntoIterator<Item = &'a IpAddr>,
    ) -> io::Result<HashMap<IpAddr, u32>> {
        let mut routes = HashMap::new();
        for address in addresses {
            let octets = match address {
                IpAddr::V4(v4) => v4.octets().to_vec(),
                IpAddr::V6(v6) => v6.octets().to_vec(),
            };
            let mut body = [0; ROUTE_HEADER].to_vec();
            let family = match address {
                IpAddr::V4(_) => libc::AF_INET,
                IpAddr::V6(_) => libc::AF_INET6,
            };
            let bits = octets.len() as u8 * 8;
            body[0] = family as u8;
            body[1] = bits;
            body[8..12].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
            append(&mut body, RTA_DST, &octets);
            let asked = self.0.ask(libc::RTM_GETROUTE, false, &body, |_, message| {
                if let Some(index) = read_host_route(message, bits) {
                    routes.insert(*address, index);
                }
            });
            match asked {
                // No route: the kernel has several codes for that.
                Err(error)
                    if error
                        .raw_os_error()
                        .is_some_and(|code| code != libc::EAGAIN) => {}
                asked => asked?,
            }
        }
        Ok(routes)
    }
}

/// Appends an attribute.
fn append(body: &mut Vec<u8>, name: u16, value: &[u8]) {
    body.extend(((4 + value.len()) as u16).to_ne_bytes());
    body.extend(name.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

fn is_gone(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENODEV)
}

fn read_link(message: &[u8]) -> Option<Link> {
    let index = message.get(4..8)?.first_chunk()?;
    let mut link = Link {
        index: u32::from_ne_bytes(*index),
        ..Link::default()
    };
    for (name, value) in attributes(message.get(LINK_HEADER..)?) {
        match name {
            IFLA_IFNAME => link.name = text(value),
            IFLA_ADDRESS => link.mac = value.try_into().ok().map(Mac),
            IFLA_LINK => link.peer = number(value).map(|number| number as u32),
            IFLA_LINK_NETNSID => link.nsid = number(value),
            IFLA_LINKINFO => {
                let kind = attributes(value).find(|(name, _)| *name == IFLA_INFO_KIND);
                link.is_veth = kind.is_some_and(|(_, kind)| text(kind) == "veth");
            }
            _ => {}
        }
    }
    Some(link)
}

/// The address of a message; of a point-to-point interface its own, not the peer's.
fn read_address(message: &[u8]) -> Option<IpAddr> {
    let mut found = None;
    for (name, value) in attributes(message.get(ADDRESS_HEADER..)?) {
        match name {
            IFA_LOCAL => return address(value),
            IFA_ADDRESS => found = address(value),
            _ => {}
        }
    }
    found
}

fn read_host_route(message: &[u8], bits: u8) -> Option<u32> {
    let header = message.first_chunk::<ROUTE_HEADER>()?;
    let (length, protocol, kind) = (header[1], header[5], header[7]);
    let is_learned = protocol == RTPROT_REDIRECT || protocol == RTPROT_RA;
    if length != bits || kind != RTN_UNICAST || is_learned {
        return None;
    }
    let index = attributes(&message[ROUTE_HEADER..]).find(|(name, _)| *name == RTA_OIF)?;
    number(index.1).map(|number| number as u32)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
        .ok()
}

fn number(bytes: &[u8]) -> Option<i32> {
    bytes.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes))
}

fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_there_and_is_nobodys() {
        let inside = Inside::open().unwrap();
        let look = inside.look(1).unwrap().unwrap();
        assert_eq!((&*look.name, look.peer), ("lo", Peer::None));
        assert_eq!(inside.look(u32::MAX >> 1).unwrap(), None);
    }

    #[test]
    fn only_routes_of_the_node_to_one_address_count() {
        let route = |length: u8, protocol: u8, kind: u8| {
            let mut message = vec![2, length, 0, 0, 254, protocol, 0, kind, 0, 0, 0, 0];
            append(&mut message, RTA_OIF, &7i32.to_ne_bytes());
            read_host_route(&message, 32)
        };
        assert_eq!(route(32, 3, RTN_UNICAST), Some(7));
        assert_eq!(route(24, 3, RTN_UNICAST), None);
        assert_eq!(route(32, 3, 2), None);
        assert_eq!(route(32, RTPROT_RA, RTN_UNICAST), None);
        assert_eq!(route(32, RTPROT_REDIRECT, RTN_UNICAST), None);
        assert_eq!(read_host_route(&[], 32), None);
        let inside = Inside::open().unwrap();
        let addresses = ["192.0.2.1", "2001:db8::1"].map(|text| text.parse().unwrap());
        assert!(inside.routes(&addresses).unwrap().len() <= 2);
    }

    #[test]
    fn messages_that_are_too_short_are_nothing() {
        for length in 0..LINK_HEADER {
            assert_eq!(read_link(&vec![0; length]), None);
        }
        assert_eq!(read_address(&[0; 4]), None);
        assert_eq!(read_address(&[0; ADDRESS_HEADER]), None);
    }
}
