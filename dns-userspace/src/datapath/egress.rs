//! How answers leave an interface: straight into the pod's end of its veth, or as any frame where there is no such end.
//!
//! `bpf_redirect_peer` bypasses the egress path: the queueing discipline, a second interrupt, and the programs and
//! filters there, which have never seen a query that was answered on the way in; one that tracks connections would drop
//! the reply. It needs a veth whose peer lives in another network namespace: for any other interface it would drop the
//! frame.

use std::{collections::HashSet, io};

use dns_common::abi;

use super::netlink::{Netlink, attributes};

/// struct ifinfomsg.
const LINK_MESSAGE: usize = 16;

/// Interfaces of the calling thread's network namespace that are one end of a veth whose other end is elsewhere.
#[derive(Debug, Default)]
pub(super) struct PeersElsewhere(HashSet<u32>);

impl PeersElsewhere {
    /// Looks at one interface.
    pub(super) fn of(ifindex: u32) -> Self {
        Self::ask(Some(ifindex))
    }

    /// Looks at all of them at once.
    pub(super) fn of_all() -> Self {
        Self::ask(None)
    }

    /// Where that cannot be found out, the interface counts as one without such a peer, which costs time, not answers.
    fn ask(ifindex: Option<u32>) -> Self {
        Self(found(ifindex).unwrap_or_default())
    }

    /// One of [`abi::BY_EGRESS`] and [`abi::TO_PEER`].
    pub(super) fn reply_path(&self, ifindex: u32) -> u64 {
        if self.0.contains(&ifindex) {
            abi::TO_PEER
        } else {
            abi::BY_EGRESS
        }
    }
}

fn found(ifindex: Option<u32>) -> io::Result<HashSet<u32>> {
    let mut request = [0; LINK_MESSAGE];
    request[4..8].copy_from_slice(&ifindex.unwrap_or(0).to_ne_bytes());
    let mut found = HashSet::new();
    let netlink = Netlink::open(libc::NETLINK_ROUTE)?;
    netlink.ask(libc::RTM_GETLINK, ifindex.is_none(), &request, |_, body| {
        let Some((message, rest)) = body.split_at_checked(LINK_MESSAGE) else {
            return;
        };
        let (mut is_veth, mut is_elsewhere) = (false, false);
        for (kind, value) in attributes(rest) {
            if kind == libc::IFLA_LINK_NETNSID {
                is_elsewhere = true;
            }
            if kind == libc::IFLA_LINKINFO {
                is_veth = attributes(value)
                    .any(|(kind, value)| kind == libc::IFLA_INFO_KIND && value == b"veth\0");
            }
        }
        if is_veth && is_elsewhere {
            let index = [message[4], message[5], message[6], message[7]];
            found.insert(u32::from_ne_bytes(index));
        }
    })?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_no_peer() {
        for peers in [PeersElsewhere::of(1), PeersElsewhere::of_all()] {
            assert_eq!(peers.reply_path(1), abi::BY_EGRESS);
        }
        assert!(found(Some(1)).unwrap().is_empty());
        assert!(found(None).is_ok());
        assert!(found(Some(u32::MAX >> 1)).is_err());
    }
}
