//! How answers leave an interface: as any frame, or past the programs on its egress.
//!
//! A program on the way out has never seen a query that a program on the way in has answered; one that tracks connections
//! would drop the reply. Where there is one, and the interface is a veth whose peer lives in another network namespace,
//! `bpf_redirect_peer` puts the answer straight into that namespace. For any other interface it would drop the frame.

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use aya::programs::{SchedClassifier, TcAttachType};
use dns_common::abi;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send,
    setsockopt, socket, sockopt::ReceiveTimeout,
};

use super::Interface;

/// Egress filters of clsact: TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS).
const CLSACT_EGRESS: u32 = 0xffff_fff3;
const HEADER: usize = 16;
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
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16;
    let mut found = false;
    ask(libc::RTM_GETTFILTER, flags, &body, |kind, _| {
        found |= kind == libc::RTM_NEWTFILTER;
    })?;
    Ok(found)
}

/// Whether an interface is one of a pair whose other end is in another network namespace.
fn peer_is_elsewhere(ifindex: u32) -> io::Result<bool> {
    let mut body = [0; LINK_MESSAGE];
    body[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    let (mut is_veth, mut is_elsewhere) = (false, false);
    let flags = libc::NLM_F_REQUEST as u16;
    ask(libc::RTM_GETLINK, flags, &body, |_, body| {
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

/// Attributes of a netlink message: type and value.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*bytes.first_chunk()?));
        let kind = u16::from_ne_bytes(*bytes.get(2..)?.first_chunk()?);
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        // Without the bits for nesting and byte order.
        Some((kind & 0x3fff, value))
    })
}

/// Sends one request and visits every message of the answer.
fn ask(kind: u16, flags: u16, body: &[u8], mut visit: impl FnMut(u16, &[u8])) -> io::Result<()> {
    let socket: OwnedFd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkRoute,
    )?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    // The kernel answers at once; this is for a kernel that does not.
    setsockopt(&socket, ReceiveTimeout, &nix::sys::time::TimeVal::new(1, 0))?;
    let mut request = ((HEADER + body.len()) as u32).to_ne_bytes().to_vec();
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend([0; 8]);
    request.extend_from_slice(body);
    send(socket.as_raw_fd(), &request, MsgFlags::empty())?;

    let is_dump = flags & libc::NLM_F_DUMP as u16 == libc::NLM_F_DUMP as u16;
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut rest = &buffer[..length];
        while let Some(header) = rest.first_chunk::<HEADER>() {
            let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
            let kind = u16::from_ne_bytes([header[4], header[5]]);
            let Some(message) = rest.get(HEADER..length) else {
                return Ok(());
            };
            match i32::from(kind) {
                libc::NLMSG_DONE | libc::NLMSG_ERROR => return Ok(()),
                _ => visit(kind, message),
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
        }
        if !is_dump {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_end_where_their_lengths_lie() {
        let bytes = [
            8, 0, 3, 0x80, 1, 2, 3, 4, 5, 0, 1, 0, 9, 0, 0, 0, 200, 0, 7, 0,
        ];
        let found: Vec<(u16, &[u8])> = attributes(&bytes).collect();
        assert_eq!(found, [(3, &[1, 2, 3, 4][..]), (1, &[9][..])]);
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0);
    }

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
