//! Domain names in wire format (RFC 1035 §3.1).

use dns_common::wire::MAX_NAME;
use hickory_proto::rr::Name;

/// A name in wire format, uncompressed, root label included.
pub fn wire_name(name: &Name) -> Vec<u8> {
    let mut wire = Vec::with_capacity(255);
    for label in name.iter() {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label);
    }
    wire.push(0);
    wire
}

/// Bytes of the uncompressed name that `bytes` begins with, root label included; `None` where there is none.
pub fn name_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1 + length;
        if length > 63 || at > MAX_NAME as usize {
            return None;
        }
        if length == 0 {
            return Some(at);
        }
    }
}
