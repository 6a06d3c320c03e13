use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::model::Reinjection;

const POD_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// A frame as a pod sends it, with a UDP checksum that is only begun.
fn query(source: &str, destination: &str, tags: &[u8], message: &[u8]) -> QueryFrame {
    let source: SocketAddr = source.parse().unwrap();
    let destination: SocketAddr = destination.parse().unwrap();
    let mut frame = [HOST_MAC, POD_MAC].concat();
    frame.extend_from_slice(tags);
    frame.extend_from_slice(if source.is_ipv4() {
        &[8, 0]
    } else {
        &[0x86, 0xdd]
    });
    let l3_offset = frame.len();
    let udp_len = (8 + message.len()) as u16;
    push_ip(&mut frame, source.ip(), destination.ip(), udp_len).unwrap();
    for word in [source.port(), destination.port(), udp_len, 0xdead] {
        frame.extend_from_slice(&word.to_be_bytes());
    }
    frame.extend_from_slice(message);
    // Ethernet padding is not part of the packet.
    frame.extend_from_slice(&[0xee; 5]);
    QueryFrame {
        held: None,
        ifindex: 7,
        vlan: None,
        reinjection: Reinjection::default(),
        l3_offset,
        frame,
    }
}

/// Sums an IPv4 header, or UDP with its pseudo-header, from the bytes of the frame: correct when it gives 0xffff.
fn sums(frame: &[u8], l3: usize) -> (u16, u16) {
    let ip = &frame[l3..];
    let (header, addresses) = match ip[0] >> 4 {
        4 => (20, &ip[12..20]),
        _ => (40, &ip[8..40]),
    };
    let udp = &ip[header..];
    let pseudo = add(17 + udp.len() as u64, addresses);
    let ip_sum = if header == 20 {
        fold(add(0, &ip[..20]))
    } else {
        0xffff
    };
    (ip_sum, fold(add(pseudo, udp)))
}

const V4: (&str, &str) = ("10.9.0.2:40000", "169.254.20.10:53");
const V6: (&str, &str) = ("[fd09::2]:40000", "[fd00:20::10]:53");

#[test]
fn a_reply_swaps_every_address_and_its_sums_are_right() {
    for (pod, server) in [V4, V6] {
        let query = query(pod, server, &[], b"question");
        let reply = reply(&query, b"odd answer!").unwrap();
        assert_eq!(reply[..12], [POD_MAC, HOST_MAC].concat());
        assert_eq!(reply[12..14], query.frame[12..14]);
        let datagram = Datagram::parse(&reply, 14).unwrap();
        assert_eq!(datagram.source, server.parse().unwrap());
        assert_eq!(datagram.destination, pod.parse().unwrap());
        assert_eq!(&reply[datagram.message.clone()], b"odd answer!");
        assert_eq!(datagram.packet.end, reply.len());
        assert_eq!(sums(&reply, 14), (0xffff, 0xffff));
    }
}

#[test]
fn tags_inside_and_outside_the_frame_come_back_in_order() {
    let mut query = query(V4.0, V4.1, &[0x81, 0, 0, 9], b"question");
    query.vlan = Some(VlanTag {
        tci: 0x2005,
        tpid: 0x88a8,
    });
    let reply = reply(&query, b"answer").unwrap();
    assert_eq!(reply[12..22], [0x88, 0xa8, 0x20, 5, 0x81, 0, 0, 9, 8, 0]);
    assert_eq!(sums(&reply, 22), (0xffff, 0xffff));
}

#[test]
fn the_original_frame_has_its_padding_and_a_begun_checksum_is_complete() {
    for (pod, server) in [V4, V6] {
        let mut query = query(pod, server, &[], b"question");
        let datagram = Datagram::parse(&query.frame, 14).unwrap();
        let checksum = datagram.udp.start + 6;
        let wrong = query.frame.clone();
        assert_eq!(original_frame(&query), Some(wrong));

        let begun = partial_checksum(
            datagram.source.ip(),
            datagram.destination.ip(),
            datagram.udp.len(),
        );
        query.frame[checksum..checksum + 2].copy_from_slice(&begun.to_be_bytes());
        let whole = original_frame(&query).unwrap();
        assert_eq!(sums(&whole[..datagram.packet.end], 14).1, 0xffff);
        assert_eq!(whole[..checksum], query.frame[..checksum]);
        assert_eq!(whole[checksum + 2..], query.frame[checksum + 2..]);
    }
}

#[test]
fn the_original_frame_has_the_tag_that_was_outside() {
    let mut query = query(V4.0, V4.1, &[0x81, 0, 0, 9], b"question");
    query.vlan = Some(VlanTag {
        tci: 0x2005,
        tpid: 0x88a8,
    });
    let whole = original_frame(&query).unwrap();
    assert_eq!(whole[..12], query.frame[..12]);
    assert_eq!(whole[12..22], [0x88, 0xa8, 0x20, 5, 0x81, 0, 0, 9, 8, 0]);
    assert_eq!(whole[16..], query.frame[12..]);
}

#[test]
fn what_is_no_plain_datagram_is_refused() {
    let good = query(V4.0, V4.1, &[], b"question");
    for (at, value) in [
        (14, 0x46),
        (14, 0x65),
        (20, 0x20),
        (21, 1),
        (23, 6),
        (17, 200),
        (39, 3),
    ] {
        let mut bad = good.clone();
        bad.frame[at] = value;
        assert_eq!(reply(&bad, b"answer"), None, "byte {at}");
        assert_eq!(original_frame(&bad), None, "byte {at}");
    }
}

#[test]
fn an_answer_too_long_for_udp_is_refused() {
    assert_eq!(reply(&query(V4.0, V4.1, &[], b"q"), &[0; 65_530]), None);
}

proptest! {
    #[test]
    fn checksums_hold_for_any_message(message in prop::collection::vec(any::<u8>(), 0..1300), v6: bool) {
        let (pod, server) = if v6 { V6 } else { V4 };
        let reply = reply(&query(pod, server, &[], b"q"), &message).unwrap();
        let datagram = Datagram::parse(&reply, 14).unwrap();
        prop_assert_eq!(sums(&reply, 14), (0xffff, 0xffff));
        prop_assert_ne!(&reply[datagram.udp.start + 6..datagram.udp.start + 8], &[0, 0]);
    }

    #[test]
    fn no_frame_makes_it_panic(frame in prop::collection::vec(any::<u8>(), 0..120), l3_offset in 0..130usize) {
        let query = QueryFrame { held: None, ifindex: 1, vlan: None, reinjection: Reinjection::default(), l3_offset, frame };
        let _ = reply(&query, b"answer");
        let _ = original_frame(&query);
    }
}
