//! Domain names in wire format (RFC 1035 §3.1).

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
