//! Bytes of the frames that gregor sends, made from the frame that came in; no I/O.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use dns_common::wire::{ETH_LEN, ETHERTYPE_OFFSET, IPPROTO_UDP, IPV4_LEN, IPV6_LEN, UDP_LEN};

use super::QueryFrame;
use crate::model::{Headers, VlanTag, be16};

const IPV6: usize = IPV6_LEN as usize;
const UDP: usize = UDP_LEN as usize;
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;

/// Addresses and offsets of an intercepted frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// The pod.
    pub source: SocketAddr,
    /// The server that it asked.
    pub destination: SocketAddr,
    /// The IP packet, without what Ethernet padded it with.
    pub packet: Range<usize>,
    /// The UDP header and what follows it.
    pub udp: Range<usize>,
    /// The DNS message.
    pub message: Range<usize>,
}

impl Datagram {
    /// Finds the headers again. `None` when the frame is not an unfragmented UDP datagram without IPv4 options or IPv6
    /// extension headers, or when its lengths disagree.
    pub fn parse(frame: &[u8], l3_offset: usize) -> Option<Datagram> {
        let ip = frame.get(l3_offset..)?;
        let Headers {
            source,
            destination,
            ip_len: header,
            packet_len: length,
        } = Headers::parse(ip)?;
        let udp = ip.get(header..length)?;
        if udp.len() < UDP || usize::from(be16(udp, 4)?) != udp.len() {
            return None;
        }
        let start = l3_offset + header;
        let end = l3_offset + length;
        Some(Datagram {
            source,
            destination,
            packet: l3_offset..end,
            udp: start..end,
            message: start + UDP..end,
        })
    }
}

/// The frame that answers `query` with `message`: every address swapped, every header fresh, checksums full.
///
/// `None` when the query is not a datagram that gregor answers, or the message does not fit into one.
pub fn reply(query: &QueryFrame, message: &[u8]) -> Option<Vec<u8>> {
    let datagram = Datagram::parse(&query.frame, query.l3_offset)?;
    let l2 = query.frame.get(..query.l3_offset)?;
    let udp_len = u16::try_from(UDP + message.len()).ok()?;

    let mut frame = Vec::with_capacity(l2.len() + 4 + IPV6 + usize::from(udp_len));
    push_l2(&mut frame, l2, query.vlan)?;
    push_ip(
        &mut frame,
        datagram.destination.ip(),
        datagram.source.ip(),
        udp_len,
    )?;
    let udp_at = frame.len();
    frame.extend_from_slice(&datagram.destination.port().to_be_bytes());
    frame.extend_from_slice(&datagram.source.port().to_be_bytes());
    frame.extend_from_slice(&udp_len.to_be_bytes());
    frame.extend_from_slice(&[0; 2]);
    frame.extend_from_slice(message);
    let sum = udp_checksum(
        datagram.destination.ip(),
        datagram.source.ip(),
        &frame[udp_at..],
    );
    frame[udp_at + 6..udp_at + 8].copy_from_slice(&sum.to_be_bytes());
    Some(frame)
}

/// The frame of the query as the pod sent it, with the tag that the kernel keeps outside the frame, and with a complete
/// UDP checksum in place of a partial one of a local pod. A wrong checksum stays wrong, and a missing one stays missing.
pub fn original_frame(query: &QueryFrame) -> Option<Vec<u8>> {
    let datagram = Datagram::parse(&query.frame, query.l3_offset)?;
    let mut whole = query.frame.clone();
    let (source, destination) = (datagram.source.ip(), datagram.destination.ip());
    let field = datagram.udp.start + 6..datagram.udp.start + 8;
    let sum = u16::from_be_bytes([whole[field.start], whole[field.start + 1]]);
    if sum == partial_checksum(source, destination, datagram.udp.len()) {
        whole[field.clone()].fill(0);
        let sum = udp_checksum(source, destination, &whole[datagram.udp.clone()]);
        whole[field].copy_from_slice(&sum.to_be_bytes());
    }
    let addresses = ETHERTYPE_OFFSET as usize;
    if let Some(tag) = query.vlan {
        let bytes = [tag.tpid.to_be_bytes(), tag.tci.to_be_bytes()].concat();
        whole.splice(addresses..addresses, bytes);
    }
    Some(whole)
}

/// Ethernet addresses swapped, the tag that was kept outside first, then all bytes between the addresses and IP.
fn push_l2(frame: &mut Vec<u8>, l2: &[u8], vlan: Option<VlanTag>) -> Option<()> {
    if l2.len() < ETH_LEN as usize {
        return None;
    }
    let addresses = ETHERTYPE_OFFSET as usize;
    frame.extend_from_slice(&l2[6..addresses]);
    frame.extend_from_slice(&l2[..6]);
    if let Some(tag) = vlan {
        frame.extend_from_slice(&tag.tpid.to_be_bytes());
        frame.extend_from_slice(&tag.tci.to_be_bytes());
    }
    frame.extend_from_slice(&l2[addresses..]);
    Some(())
}

fn push_ip(frame: &mut Vec<u8>, source: IpAddr, destination: IpAddr, udp_len: u16) -> Option<()> {
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let start = frame.len();
            let total = udp_len.checked_add(IPV4_LEN as u16)?;
            frame.extend_from_slice(&[0x45, 0]);
            frame.extend_from_slice(&total.to_be_bytes());
            // An atomic datagram needs no identification (RFC 6864 §4.1).
            frame.extend_from_slice(&[0; 2]);
            frame.extend_from_slice(&DONT_FRAGMENT.to_be_bytes());
            frame.extend_from_slice(&[TTL, IPPROTO_UDP, 0, 0]);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&destination.octets());
            let sum = !fold(add(0, &frame[start..]));
            frame[start + 10..start + 12].copy_from_slice(&sum.to_be_bytes());
            Some(())
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            frame.extend_from_slice(&[0x60, 0, 0, 0]);
            frame.extend_from_slice(&udp_len.to_be_bytes());
            frame.extend_from_slice(&[IPPROTO_UDP, TTL]);
            frame.extend_from_slice(&source.octets());
            frame.extend_from_slice(&destination.octets());
            Some(())
        }
        _ => None,
    }
}

/// The value of a checksum that the network card is to complete (CHECKSUM_PARTIAL): the sum of the pseudo-header.
fn partial_checksum(source: IpAddr, destination: IpAddr, udp_len: usize) -> u16 {
    fold(pseudo_header(source, destination, udp_len))
}

fn pseudo_header(source: IpAddr, destination: IpAddr, udp_len: usize) -> u64 {
    [source, destination].into_iter().fold(
        u64::from(IPPROTO_UDP) + udp_len as u64,
        |sum, address| match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        },
    )
}

/// The checksum of RFC 768 and RFC 8200 §8.1 over `udp`, whose own checksum field is zero. Never 0, which would mean
/// "none" and is forbidden in IPv6.
fn udp_checksum(source: IpAddr, destination: IpAddr, udp: &[u8]) -> u16 {
    match !fold(add(pseudo_header(source, destination, udp.len()), udp)) {
        0 => 0xffff,
        sum => sum,
    }
}

/// Adds 16-bit words in network byte order; the last one is filled up with a zero byte.
fn add(sum: u64, bytes: &[u8]) -> u64 {
    bytes.chunks(2).fold(sum, |sum, pair| {
        sum + (u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0)))
    })
}

fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests;
