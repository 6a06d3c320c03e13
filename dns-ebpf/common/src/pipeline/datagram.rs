//! The headers of a frame down to that of DNS: whether it is a plain query to one of the servers, and where its parts are.

use super::host::{Address, Host};
use crate::{
    abi::{MAX_SERVERS, Servers},
    packet::{Packet, be16, frame_offset},
    verdict::Reason,
    verifier,
    wire::*,
};

/// Offsets of the parts of a query to port 53.
pub(super) struct Datagram {
    pub l3_offset: u32,
    pub is_v6: bool,
    /// See [`Servers::ids`].
    pub server: u32,
    /// First byte of the DNS header.
    pub dns_offset: u32,
    /// First byte after the DNS message.
    pub end: u32,
}

/// Ethernet, at most two tags, IP and UDP, to port 53 of one of the servers.
#[inline(always)]
pub(super) fn parse_datagram<P: Packet, H: Host<P>>(
    packet: &P,
    host: &H,
) -> Result<Datagram, Reason> {
    let (ethertype, l3_offset) = network(packet).ok_or(Reason::NotDns)?;
    match ethertype {
        ETH_P_IP => parse_ipv4(packet, host, l3_offset),
        ETH_P_IPV6 => parse_ipv6(packet, host, l3_offset),
        _ => Err(Reason::NotDns),
    }
}

/// The ethertype behind at most two tags, and where what it names begins.
#[inline(always)]
pub(super) fn network<P: Packet>(packet: &P) -> Option<(u16, u32)> {
    let mut ethertype = be16(packet, ETHERTYPE_OFFSET)?;
    let mut l3_offset = ETH_LEN;
    if ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD {
        ethertype = be16(packet, ETHERTYPE_OFFSET + VLAN_LEN)?;
        l3_offset += VLAN_LEN;
        if ethertype == ETH_P_8021Q {
            ethertype = be16(packet, ETHERTYPE_OFFSET + 2 * VLAN_LEN)?;
            l3_offset += VLAN_LEN;
        }
    }
    Some((ethertype, l3_offset))
}

#[inline(always)]
fn parse_ipv4<P: Packet, H: Host<P>>(packet: &P, host: &H, l3: u32) -> Result<Datagram, Reason> {
    if be16(packet, l3 + 8).ok_or(Reason::NotDns)? as u8 != IPPROTO_UDP {
        return Err(Reason::NotDns);
    }
    let version_ihl = (be16(packet, l3).ok_or(Reason::NotDns)? >> 8) as u8;
    let fragment = be16(packet, l3 + 6).ok_or(Reason::NotDns)? & 0x3fff;
    if version_ihl != 0x45 {
        return Err(options_or_other(packet, l3, version_ihl));
    }
    // A later fragment has no UDP header, so its "port" says nothing.
    if fragment != 0 {
        return Err(Reason::Fragment);
    }
    if be16(packet, l3 + IPV4_LEN + 2).ok_or(Reason::NotDns)? != DNS_PORT {
        return Err(Reason::NotDns);
    }
    let destination: u32 = packet.load(l3 + 16).ok_or(Reason::Truncated)?;
    let servers = host.servers().ok_or(Reason::Internal)?;
    let Some(index) = server_v4(servers, destination) else {
        host.saw_other_server(Address::V4(destination));
        return Err(Reason::OtherServer);
    };
    let total = u32::from(be16(packet, l3 + 2).ok_or(Reason::Truncated)?);
    if total < IPV4_LEN {
        return Err(Reason::Truncated);
    }
    let udp = parse_udp(packet, l3, l3 + IPV4_LEN, total - IPV4_LEN)?;
    Ok(Datagram {
        server: server_id(servers, index),
        ..udp
    })
}

/// A header with options is only worth a counter when it goes to port 53.
#[inline(always)]
fn options_or_other<P: Packet>(packet: &P, l3: u32, version_ihl: u8) -> Reason {
    let header_len = u32::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || header_len <= IPV4_LEN {
        return Reason::NotDns;
    }
    match be16(packet, l3 + header_len + 2) {
        Some(DNS_PORT) => Reason::IpOptions,
        _ => Reason::NotDns,
    }
}

#[inline(always)]
fn parse_ipv6<P: Packet, H: Host<P>>(packet: &P, host: &H, l3: u32) -> Result<Datagram, Reason> {
    // Extension headers pass with everything else that is not UDP: what follows them is not parsed.
    if (be16(packet, l3 + 6).ok_or(Reason::NotDns)? >> 8) as u8 != IPPROTO_UDP {
        return Err(Reason::NotDns);
    }
    if be16(packet, l3).ok_or(Reason::NotDns)? >> 12 != 6 {
        return Err(Reason::NotDns);
    }
    if be16(packet, l3 + IPV6_LEN + 2).ok_or(Reason::NotDns)? != DNS_PORT {
        return Err(Reason::NotDns);
    }
    let destination = [
        packet.load::<u64>(l3 + 24).ok_or(Reason::Truncated)?,
        packet.load::<u64>(l3 + 32).ok_or(Reason::Truncated)?,
    ];
    let servers = host.servers().ok_or(Reason::Internal)?;
    let Some(index) = server_v6(servers, destination) else {
        host.saw_other_server(Address::V6(destination));
        return Err(Reason::OtherServer);
    };
    let payload = u32::from(be16(packet, l3 + 4).ok_or(Reason::Truncated)?);
    let udp = parse_udp(packet, l3, l3 + IPV6_LEN, payload)?;
    Ok(Datagram {
        is_v6: true,
        server: server_id(servers, MAX_SERVERS as u32 + index),
        ..udp
    })
}

/// The place of an address among the servers.
#[inline(always)]
pub(super) fn server_v4(servers: &Servers, address: u32) -> Option<u32> {
    let mut index = 0u32;
    loop {
        if index >= MAX_SERVERS as u32 || index >= verifier::reread(&servers.v4_count) {
            return None;
        }
        // SAFETY: index < MAX_SERVERS.
        if unsafe { *servers.v4.as_ptr().add(index as usize) } == address {
            return Some(index);
        }
        index += 1;
    }
}

/// The same for IPv6.
#[inline(always)]
pub(super) fn server_v6(servers: &Servers, address: [u64; 2]) -> Option<u32> {
    let mut index = 0u32;
    loop {
        if index >= MAX_SERVERS as u32 || index >= verifier::reread(&servers.v6_count) {
            return None;
        }
        // SAFETY: index < MAX_SERVERS.
        let server = unsafe { &*servers.v6.as_ptr().add(index as usize) };
        if server[0] == address[0] && server[1] == address[1] {
            return Some(index);
        }
        index += 1;
    }
}

#[inline(always)]
fn server_id(servers: &Servers, index: u32) -> u32 {
    let index = verifier::index::<{ 2 * MAX_SERVERS as u32 - 1 }>(index);
    // SAFETY: masked to the length of the array.
    unsafe { servers.ids.as_ptr().add(index).read_volatile() }
}

/// UDP whose length agrees with that of IP; what lies behind is Ethernet padding.
#[inline(always)]
fn parse_udp<P: Packet>(packet: &P, l3: u32, l4: u32, ip_payload: u32) -> Result<Datagram, Reason> {
    let udp_len = u32::from(be16(packet, l4 + 4).ok_or(Reason::Truncated)?);
    let end = l4 + ip_payload;
    if udp_len != ip_payload || udp_len < UDP_LEN + DNS_HEADER_LEN || end > packet.len() {
        // Several datagrams in one buffer have lengths of their own.
        return Err(if packet.is_gso() {
            Reason::Oversize
        } else {
            Reason::Truncated
        });
    }
    Ok(Datagram {
        l3_offset: l3,
        is_v6: false,
        server: 0,
        dns_offset: l4 + UDP_LEN,
        end,
    })
}

/// The header of a plain query; returns its flags and ARCOUNT, 0 or 1.
#[inline(always)]
pub(super) fn parse_dns_header<P: Packet>(
    packet: &P,
    datagram: &Datagram,
) -> Result<(u16, u16), Reason> {
    let at = datagram.dns_offset;
    let flags = be16(packet, at + 2).ok_or(Reason::Truncated)?;
    if flags & FLAG_QR != 0 {
        return Err(Reason::Response);
    }
    // All other bits mean nothing in a query (RFC 8906 §8.1.3.3).
    if flags & FLAG_OPCODE != 0 {
        return Err(Reason::Opcode);
    }
    let questions = be16(packet, at + 4).ok_or(Reason::Truncated)?;
    let answers = be16(packet, at + 6).ok_or(Reason::Truncated)?;
    let authorities = be16(packet, at + 8).ok_or(Reason::Truncated)?;
    let additional = be16(packet, at + 10).ok_or(Reason::Truncated)?;
    if questions != 1 || answers != 0 || authorities != 0 || additional > 1 {
        return Err(Reason::Counts);
    }
    Ok((flags, additional))
}

#[inline(always)]
pub(super) fn source<P: Packet>(packet: &P, datagram: &Datagram) -> Option<Address> {
    let l3 = datagram.l3_offset;
    if datagram.is_v6 {
        Some(Address::V6([packet.load(l3 + 8)?, packet.load(l3 + 16)?]))
    } else {
        Some(Address::V4(packet.load(l3 + 12)?))
    }
}

/// Whether the source is an address that one host can have: not multicast, broadcast, reserved or zero (RFC 1122 §3.2.1.3,
/// RFC 4291 §2.5.2 and §2.7).
#[inline(always)]
pub(super) fn may_be_replied_to<P: Packet>(packet: &P, l3: u32, is_v6: bool) -> bool {
    if is_v6 {
        let source = (
            packet.load::<u64>(frame_offset(l3 + 8)),
            packet.load::<u64>(frame_offset(l3 + 16)),
        );
        let (Some(high), Some(low)) = source else {
            return false;
        };
        u64::from_be(high) >> 56 != 0xff && high | low != 0
    } else {
        let first = packet
            .load::<u32>(frame_offset(l3 + 12))
            .map_or(0, u32::from_be)
            >> 24;
        (1..224).contains(&first)
    }
}
