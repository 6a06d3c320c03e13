//! Judges a frame that was made the answer to another: its addresses, its message, and its checksums.

use gregor::resolve::Query;

use super::{expected::Expected, known::Known};

/// # Panics
/// When `reply` is not the answer to `frame` that the compose step would have given.
pub fn judge(frame: &[u8], reply: &[u8], expected: &Expected, query: &Query, known: &Known) {
    let message = expected.message.start;
    let answered = &reply[message..];
    let mut possible = known.replies(query);
    assert!(
        possible.any(|reply| reply == answered),
        "no answer of the responder's: {answered:02x?}"
    );

    assert_eq!((&reply[..6], &reply[6..12]), (&frame[6..12], &frame[..6]));
    let (l3, udp) = (expected.l3_offset, message - 8);
    assert_eq!(reply[12..l3], frame[12..l3], "tags and ethertype");
    let (source, destination) = if udp - l3 == 20 {
        assert_eq!(word(reply, l3 + 2), reply.len() - l3);
        // Version, type of service, identification, flags, TTL and protocol.
        assert_eq!(reply[l3..l3 + 2], frame[l3..l3 + 2]);
        assert_eq!(reply[l3 + 4..l3 + 10], frame[l3 + 4..l3 + 10]);
        if ipv4_is_right(frame, l3) {
            assert!(ipv4_is_right(reply, l3), "header checksum");
        }
        (l3 + 12..l3 + 16, l3 + 16..l3 + 20)
    } else {
        assert_eq!(word(reply, l3 + 4), reply.len() - udp);
        assert_eq!(reply[l3..l3 + 4], frame[l3..l3 + 4]);
        assert_eq!(reply[l3 + 6..l3 + 8], frame[l3 + 6..l3 + 8]);
        (l3 + 8..l3 + 24, l3 + 24..l3 + 40)
    };
    assert_eq!(reply[source.clone()], frame[destination.clone()]);
    assert_eq!(reply[destination], frame[source]);
    assert_eq!(reply[udp..udp + 2], frame[udp + 2..udp + 4]);
    assert_eq!(reply[udp + 2..udp + 4], frame[udp..udp + 2]);
    assert_eq!(word(reply, udp + 4), reply.len() - udp);
    if word(frame, udp + 6) == 0 {
        assert_eq!(word(reply, udp + 6), 0, "a checksum that was not asked for");
    } else if udp_is_right(frame, l3, udp, expected.message.end) {
        assert!(udp_is_right(reply, l3, udp, reply.len()), "UDP checksum");
        assert_ne!(
            word(reply, udp + 6),
            0,
            "this would mean that there is none"
        );
    }
}

/// Puts the checksums of a query right, so that those of the reply can be judged.
pub fn correct_checksums(frame: &mut [u8], expected: &Expected) {
    let (l3, udp, end) = (
        expected.l3_offset,
        expected.message.start - 8,
        expected.message.end,
    );
    if udp - l3 == 20 {
        frame[l3 + 10..l3 + 12].fill(0);
        let checksum = !folded(sum(&frame[l3..udp]));
        frame[l3 + 10..l3 + 12].copy_from_slice(&checksum.to_be_bytes());
    }
    frame[udp + 6..udp + 8].fill(0);
    let checksum = match !folded(udp_sum(frame, l3, udp, end)) {
        0 => 0xffff,
        checksum => checksum,
    };
    frame[udp + 6..udp + 8].copy_from_slice(&checksum.to_be_bytes());
}

fn ipv4_is_right(frame: &[u8], l3: usize) -> bool {
    folded(sum(&frame[l3..l3 + 20])) == 0xffff
}

fn udp_is_right(frame: &[u8], l3: usize, udp: usize, end: usize) -> bool {
    folded(udp_sum(frame, l3, udp, end)) == 0xffff
}

/// The datagram and its pseudo-header (RFC 768, RFC 8200 §8.1).
fn udp_sum(frame: &[u8], l3: usize, udp: usize, end: usize) -> u64 {
    let addresses = if udp - l3 == 20 {
        l3 + 12..l3 + 20
    } else {
        l3 + 8..l3 + 40
    };
    sum(&frame[addresses]) + 17 + (end - udp) as u64 + sum(&frame[udp..end])
}

fn sum(bytes: &[u8]) -> u64 {
    bytes
        .chunks(2)
        .map(|pair| u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low)))
        .sum()
}

fn folded(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}
