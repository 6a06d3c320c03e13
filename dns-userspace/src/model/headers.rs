//! The IP and UDP headers in front of a DNS message: the one place in userspace that reads them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dns_common::wire::{IPPROTO_UDP, IPV4_LEN, IPV6_LEN};

/// The headers of a UDP datagram that may have been cut off behind them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    pub source: SocketAddr,
    pub destination: SocketAddr,
    /// Bytes of the IP header.
    pub ip_len: usize,
    /// Bytes of the IP packet, as its header says.
    pub packet_len: usize,
}

impl Headers {
    /// Reads a packet from its IP header on. `None` when it is not an unfragmented UDP datagram without IPv4 options or IPv6
    /// extension headers.
    pub fn parse(ip: &[u8]) -> Option<Headers> {
        let (ip_len, packet_len, protocol, source, destination) = match ip.first()? >> 4 {
            4 => {
                let header: &[u8; IPV4_LEN as usize] = ip.first_chunk()?;
                let fragment = be16(header, 6)? & 0x3fff;
                if header[0] != 0x45 || fragment != 0 {
                    return None;
                }
                let source = Ipv4Addr::from(*header[12..].first_chunk::<4>()?);
                let destination = Ipv4Addr::from(*header[16..].first_chunk::<4>()?);
                let length = usize::from(be16(header, 2)?);
                let ends = (IpAddr::from(source), IpAddr::from(destination));
                (header.len(), length, header[9], ends.0, ends.1)
            }
            6 => {
                let header: &[u8; IPV6_LEN as usize] = ip.first_chunk()?;
                let source = Ipv6Addr::from(*header[8..].first_chunk::<16>()?);
                let destination = Ipv6Addr::from(*header[24..].first_chunk::<16>()?);
                let length = header.len() + usize::from(be16(header, 4)?);
                (
                    header.len(),
                    length,
                    header[6],
                    source.into(),
                    destination.into(),
                )
            }
            _ => return None,
        };
        if protocol != IPPROTO_UDP {
            return None;
        }
        Some(Headers {
            source: SocketAddr::new(source, be16(ip, ip_len)?),
            destination: SocketAddr::new(destination, be16(ip, ip_len + 2)?),
            ip_len,
            packet_len,
        })
    }
}

/// Two bytes in network byte order.
pub fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let pair = bytes.get(at..)?.first_chunk::<2>()?;
    Some(u16::from_be_bytes(*pair))
}
