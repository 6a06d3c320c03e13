//! Mutates frames of the table at random.

use rand::{Rng, RngExt as _};

/// Bytes that parsers treat specially.
const SPECIAL_BYTES: &[u8] = &[
    0, 1, 5, 6, 17, 0x29, 0x35, 0x3f, 0x40, 0x45, 0x46, 0x7f, 0x80, 0x81, 0xc0, 0xff,
];

/// A frame made of `frame` and, now and then, of `other`: some bytes changed, added, lost or cut, and in half of them
/// the lengths put right again, or few would get past the first check.
pub fn mutate(rng: &mut impl Rng, frame: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        if bytes.len() < 20 {
            break;
        }
        // Mostly behind the addresses, which most checks look at.
        let from = if rng.random_bool(0.7) {
            20.min(bytes.len() - 1)
        } else {
            12
        };
        let at = rng.random_range(from..bytes.len());
        match rng.random_range(0..8) {
            0 | 1 => bytes[at] ^= 1 << rng.random_range(0..8),
            2 => bytes[at] = SPECIAL_BYTES[rng.random_range(0..SPECIAL_BYTES.len())],
            3 => bytes[at] = rng.random(),
            4 => bytes.insert(at, SPECIAL_BYTES[rng.random_range(0..SPECIAL_BYTES.len())]),
            5 => {
                let end = (at + rng.random_range(1..8)).min(bytes.len());
                bytes.drain(at..end);
            }
            6 => bytes.truncate(at),
            _ => {
                let tail = other.get(at..).unwrap_or_default();
                bytes.truncate(at);
                bytes.extend(tail);
            }
        }
    }
    if rng.random_bool(0.5) {
        correct_lengths(&mut bytes);
    }
    bytes
}

/// Makes the lengths of an untagged UDP frame those of its bytes.
fn correct_lengths(bytes: &mut [u8]) {
    let len = bytes.len();
    let (ip_field, ip_len, l4) = match bytes.get(12..15) {
        Some([0x08, 0x00, 0x45]) if len >= 42 => (16, len - 14, 34),
        Some([0x86, 0xdd, _]) if len >= 62 => (18, len - 54, 54),
        _ => return,
    };
    bytes[ip_field..ip_field + 2].copy_from_slice(&(ip_len as u16).to_be_bytes());
    bytes[l4 + 4..l4 + 6].copy_from_slice(&((len - l4) as u16).to_be_bytes());
}
