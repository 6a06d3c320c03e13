//! How answers leave an interface: as any frame, or past the programs on its egress.
//!
//! A program on the way out has never seen a query that a program on the way in has answered; one that tracks connections
//! would drop the reply. Where there is one, and the interface is a veth whose peer lives in another network namespace,
//! `bpf_redirect_peer` puts the answer straight into that namespace. For any other interface it would drop the frame.

use std::io;

use aya::programs::{SchedClassifier, TcAttachType};
use dns_common::abi;

use super::{
    Interface,
    netlink::{Netlink, attributes},
};

/// Egress filters of clsact: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS).
const CLSACT_EGRESS: u32 = 0xffff_fff3;
/// struct tcmsg and struct ifinfomsg.
const TC_MESSAGE: usize = 20;
const LINK_MESSAGE: usize = 16;

/// One of [`abi::BY_EGRESS`] and [`abi::TO_PEER`], for an interface of the calling thread's network namespace. Whatever
/// cannot be found out is taken for the usual case.
pub(super) fn way_out(interface: &Interface) -> u64 {
    let has_tcx = SchedClassifier::query_tcx(&interface.name, TcAttachType::Egress)
        .is_ok_and(|(_, programs)| !programs.is_empty());
    let has_programs = has_tcx || has_clsact_filter(interface.index).unwrap_or(false);
    if has_programs && peer_is_elsewhere(interface.index).unwrap_or(false) {
        abi::TO_PEER
    } else {
        abi::BY_EGRESS
    }
}

fn has_clsact_filter(ifindex: u32) -> io::Result<bool> {
    let mut body = [0; TC_MESSAGE];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    body[12..16].copy_from_slice(&CLSACT_EGRESS.to_ne_bytes());
    let mut found = false;
    Netlink::open(libc::NETLINK_ROUTE)?.ask(libc::RTM_GETTFILTER, true, &body, |kind, _| {
        found |= kind == libc::RTM_NEWTFILTER;
    })?;
    Ok(found)
}

/// Whether an interface is one of a pair whose other end is in another network namespace.
fn peer_is_elsewhere(ifindex: u32) -> io::Result<bool> {
    let mut body = [0; LINK_MESSAGE];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let (mut is_veth, mut is_elsewhere) = (false, false);
    Netlink::open(libc::NETLINK_ROUTE)?.ask(libc::RTM_GETLINK, false, &body, |_, body| {
        for (kind, value) in attributes(body.get(LINK_MESSAGE..).unwrap_or(&[])) {
            if kind == libc::IFLA_LINK_NETNSID {
                is_elsewhere = true;
            }
            if kind == libc::IFLA_LINKINFO {
                is_veth = attributes(value)
                    .any(|(kind, value)| kind == libc::IFLA_INFO_KIND && value == b"veth\0");
            }
        }
    })?;
    Ok(is_veth && is_elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_has_no_peer() {
        let loopback = Interface {
            index: 1,
            name: "lo".to_owned(),
        };
        assert!(!peer_is_elsewhere(1).unwrap());
        assert_eq!(way_out(&loopback), abi::BY_EGRESS);
    }
}
