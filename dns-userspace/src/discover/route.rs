//! Route look-ups: whether an address is local, which interface packets to it leave by, and the node's own addresses.

use std::{collections::HashSet, io, net::IpAddr};

use futures::TryStreamExt as _;
use nix::{ifaddrs::getifaddrs, net::if_::if_indextoname};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::{
        AddressFamily, RouteNetlinkMessage,
        route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteType},
    },
    sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE},
};
use tokio::task::JoinHandle;

use super::DiscoverError;

/// The interface that kube-proxy's IPVS mode puts the Service addresses on. They are local addresses, but packets to them go
/// to another machine.
const VIRTUAL: &str = "kube-ipvs0";

/// Route look-ups in the network namespace where this was opened.
#[derive(Debug)]
pub struct Routes {
    handle: Handle,
    driver: JoinHandle<()>,
}

impl Routes {
    /// Needs a tokio runtime.
    pub fn open() -> Result<Self, DiscoverError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(DiscoverError::Open)?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
        })
    }

    /// Whether packets to an address are delivered to a socket of this network namespace. `false` where there is no route.
    pub async fn is_local(&self, address: IpAddr) -> Result<bool, DiscoverError> {
        // FIB_MATCH returns the entry itself: an ordinary look-up gives `lo` for every local address.
        let found = self.look_up(address, RouteFlags::FibMatch).await?;
        Ok(found.is_some_and(|route| {
            route.header.kind == RouteType::Local
                && interface_of(&route)
                    .and_then(|index| if_indextoname(index).ok())
                    .is_none_or(|name| name.to_bytes() != VIRTUAL.as_bytes())
        }))
    }

    /// The interface that packets to an address leave by.
    pub async fn interface(&self, address: IpAddr) -> Result<Option<u32>, DiscoverError> {
        let found = self.look_up(address, RouteFlags::empty()).await?;
        Ok(found.as_ref().and_then(interface_of))
    }

    async fn look_up(
        &self,
        address: IpAddr,
        flags: RouteFlags,
    ) -> Result<Option<RouteMessage>, DiscoverError> {
        let message = to(address, flags);
        let mut replies = std::pin::pin!(self.handle.route().get(message).execute());
        match replies.try_next().await {
            Ok(route) => Ok(route),
            // No route: the kernel has several error codes for that.
            Err(rtnetlink::Error::NetlinkError(error)) if error.code.is_some() => Ok(None),
            Err(error) => Err(DiscoverError::Route(error)),
        }
    }
}

/// The request for the route to an address.
fn to(address: IpAddr, flags: RouteFlags) -> RouteMessage {
    let mut message = RouteMessage::default();
    let (family, length, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, 32, RouteAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, 128, RouteAddress::Inet6(address)),
    };
    message.header.address_family = family;
    message.header.destination_prefix_length = length;
    message.header.flags = flags;
    message
        .attributes
        .push(RouteAttribute::Destination(destination));
    message
}

/// [`Routes::interface`] without a runtime, some microseconds.
pub fn interface_to(address: IpAddr) -> io::Result<Option<u32>> {
    let request = to(address, RouteFlags::empty());
    let mut message = NetlinkMessage::from(RouteNetlinkMessage::GetRoute(request));
    message.header.flags = NLM_F_REQUEST;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    socket.send(&bytes, 0)?;
    // The kernel has replied before it returns.
    let (reply, _) = socket.recv_from_full()?;
    let reply = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&reply)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    Ok(match reply.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewRoute(route)) => interface_of(&route),
        // No route: the kernel has several error codes for that.
        _ => None,
    })
}

/// The interfaces that default routes leave by.
pub(super) async fn uplinks(handle: &Handle) -> Result<HashSet<u32>, DiscoverError> {
    let mut uplinks = HashSet::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        let mut routes = std::pin::pin!(handle.route().get(message).execute());
        loop {
            match routes.try_next().await {
                Ok(Some(route)) if is_default(&route) => {
                    uplinks.extend(next_hop_interfaces(&route))
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                // A kernel without IPv6 has no such routes.
                Err(rtnetlink::Error::NetlinkError(error)) if error.code.is_some() => break,
                Err(error) => return Err(DiscoverError::Route(error)),
            }
        }
    }
    Ok(uplinks)
}

/// Whether a route is a default route to elsewhere.
pub(super) fn is_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0 && route.header.kind == RouteType::Unicast
}

/// The interface of a route, or of each of its next hops.
fn next_hop_interfaces(route: &RouteMessage) -> Vec<u32> {
    let mut indexes: Vec<u32> = interface_of(route).into_iter().collect();
    for attribute in &route.attributes {
        if let RouteAttribute::MultiPath(hops) = attribute {
            indexes.extend(hops.iter().map(|hop| hop.interface_index));
        }
    }
    indexes
}

impl Drop for Routes {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The addresses that the node may send from.
pub fn own_addresses() -> nix::Result<HashSet<IpAddr>> {
    Ok(getifaddrs()?
        .filter(|entry| entry.interface_name != VIRTUAL)
        .filter_map(|entry| {
            let address = entry.address?;
            let v4 = address.as_sockaddr_in().map(|v4| v4.ip().into());
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| v6.ip().into()))
        })
        .collect())
}

fn interface_of(route: &RouteMessage) -> Option<u32> {
    route
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_is_local_and_documentation_is_not() {
        let routes = Routes::open().unwrap();
        assert!(
            routes
                .is_local("127.0.0.53".parse().unwrap())
                .await
                .unwrap()
        );
        for elsewhere in ["192.0.2.1", "2001:db8::1"] {
            assert!(!routes.is_local(elsewhere.parse().unwrap()).await.unwrap());
        }
        let loopback = routes.interface("127.0.0.1".parse().unwrap()).await;
        assert_eq!(loopback.unwrap(), Some(1));
        for loopback in ["127.0.0.1", "::1"] {
            let found = interface_to(loopback.parse().unwrap());
            assert_eq!(found.unwrap(), Some(1), "{loopback}");
        }
        for nowhere in ["0.0.0.0", "fe80::1"] {
            assert_ne!(interface_to(nowhere.parse().unwrap()).ok(), Some(Some(2)));
        }
        assert!(
            own_addresses()
                .unwrap()
                .contains(&"127.0.0.1".parse().unwrap())
        );
    }
}
