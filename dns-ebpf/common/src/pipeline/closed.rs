//! Where the names of targets are protected: what does not pass because a server might find a query in it that the program does
//! not.

use super::{
    datagram::{network, server_v4, server_v6},
    host::{Address, Host},
};
use crate::{
    abi::protection,
    packet::{Packet, be16},
    verdict::Reason,
    wire::*,
};

/// The reasons for which a frame may pass before its name is known, as bits.
const UNREAD: u32 = 1 << Reason::NotDns as u32
    | 1 << Reason::IpOptions as u32
    | 1 << Reason::Fragment as u32
    | 1 << Reason::Oversize as u32
    | 1 << Reason::Truncated as u32
    | 1 << Reason::Opcode as u32
    | 1 << Reason::Counts as u32
    | 1 << Reason::BadName as u32
    | 1 << Reason::Internal as u32;
const _: () = assert!(Reason::ALL.len() <= u32::BITS as usize);

/// Whether the name of what passes for this reason is unknown.
#[inline(always)]
pub fn is_unread(reason: Reason) -> bool {
    UNREAD >> reason as u32 & 1 != 0
}

/// Whether a frame [whose name is unknown](is_unread) is kept from a server: by [`protection::UNREAD`] where it may be a query,
/// by [`protection::TCP`] where it is of a connection that the responder does not get.
#[inline(always)]
pub fn is_kept<P: Packet, H: Host<P>>(packet: &P, host: &H, reason: Reason) -> bool {
    let is_kept = match reason {
        Reason::NotDns | Reason::IpOptions | Reason::Fragment => {
            is_kept_from_server(packet, host).unwrap_or(false)
        }
        // It was seen to be for a server.
        _ => host.protection() & protection::UNREAD != 0,
    };
    is_kept && (!H::CHECKS_SOURCES || source(packet).is_some_and(|source| host.allows(source)))
}

#[inline(always)]
fn source<P: Packet>(packet: &P) -> Option<Address> {
    let (ethertype, l3) = network(packet)?;
    Some(match ethertype {
        ETH_P_IPV6 => Address::V6([packet.load(l3 + 8)?, packet.load(l3 + 16)?]),
        _ => Address::V4(packet.load(l3 + 12)?),
    })
}

/// `None` where it is not for a server.
#[inline(always)]
fn is_kept_from_server<P: Packet, H: Host<P>>(packet: &P, host: &H) -> Option<bool> {
    match network(packet)? {
        (ETH_P_IP, l3) => is_kept_from_v4(packet, host, l3),
        (ETH_P_IPV6, l3) => is_kept_from_v6(packet, host, l3),
        _ => None,
    }
}

#[inline(always)]
fn is_kept_from_v4<P: Packet, H: Host<P>>(packet: &P, host: &H, l3: u32) -> Option<bool> {
    let protocol = be16(packet, l3 + 8)? as u8;
    // UDP with options, or a fragment: the first one has the port, without which no others become a datagram.
    if !matches!(protocol, IPPROTO_TCP | IPPROTO_UDP) || !keeps(host, protocol) {
        return Some(false);
    }
    let header_len = u32::from(be16(packet, l3)? >> 8 & 0x0f) * 4;
    if be16(packet, l3 + header_len + 2)? != DNS_PORT {
        return Some(false);
    }
    let address: u32 = packet.load(l3 + 16)?;
    server_v4(host.servers()?, address)?;
    Some(protocol != IPPROTO_TCP || !host.is_steered(Address::V4(address)))
}

#[inline(always)]
fn is_kept_from_v6<P: Packet, H: Host<P>>(packet: &P, host: &H, l3: u32) -> Option<bool> {
    let protocol = (be16(packet, l3 + 6)? >> 8) as u8;
    match protocol {
        // To another port than DNS's, or read.
        IPPROTO_UDP | IPPROTO_ICMPV6 | IPPROTO_NONE => return Some(false),
        IPPROTO_TCP if be16(packet, l3 + IPV6_LEN + 2)? != DNS_PORT => return Some(false),
        // What follows an extension header is not parsed.
        _ if !keeps(host, protocol) => return Some(false),
        _ => {}
    }
    let address = [packet.load(l3 + 24)?, packet.load(l3 + 32)?];
    server_v6(host.servers()?, address)?;
    Some(protocol != IPPROTO_TCP || !host.is_steered(Address::V6(address)))
}

/// Whether something of a protocol is kept.
#[inline(always)]
fn keeps<P, H: Host<P>>(host: &H, protocol: u8) -> bool {
    let bit = match protocol {
        IPPROTO_TCP => protection::TCP,
        _ => protection::UNREAD,
    };
    host.protection() & bit != 0
}
