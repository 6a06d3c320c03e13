//! The number of a server address in the keys of answers.

use std::net::{IpAddr, Ipv6Addr};

use dns_common::abi;

/// The number of a server in the keys of answers.
pub(super) fn server_id(address: IpAddr) -> u32 {
    let mapped = match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    abi::server_id(halves(mapped))
}

/// An address in network byte order.
pub(super) fn halves(address: Ipv6Addr) -> [u64; 2] {
    let bits = address.to_bits();
    [(bits >> 64) as u64, bits as u64].map(u64::to_be)
}
