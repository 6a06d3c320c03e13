//! Turns the frame of a query into that of its answer, in place.
//!
//! The question stays where it is, byte for byte. Behind it come the sections that `answer::read` left in the scratch and
//! an OPT record where the query had one; addresses and ports change places; lengths and checksums are put right by what
//! has changed, because a frame from a local pod has only begun its UDP checksum and nothing in it says so.

use crate::{
    checksum::{aligned, fold},
    packet::Packet,
    scratch::Scratch,
    wire::*,
};

/// Offsets of the parts of a matched query from the start of the frame.
#[derive(Clone, Copy)]
pub struct Place {
    pub l3_offset: u32,
    /// First byte of the UDP header.
    pub udp_at: u32,
    /// First byte after the question.
    pub question_end: u32,
    /// First byte after the DNS message.
    pub end: u32,
    pub is_v6: bool,
}

/// What became of a frame that was to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Replied {
    /// It is the answer.
    Answered = 0,
    /// It is as it was.
    Untouched = 1,
    /// It is neither, and must not go on.
    Spoiled = 2,
}

impl Replied {
    /// The inverse of `as u32`.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Replied {
        match code {
            0 => Replied::Answered,
            1 => Replied::Untouched,
            _ => Replied::Spoiled,
        }
    }
}

/// Makes the frame the answer. `flags` are those of the query.
#[inline(always)]
pub fn answer<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    place: &Place,
    flags: u16,
) -> Replied {
    let edns = scratch.edns();
    let [echoed, echoed_sum] = scratch.echoed();
    let lookup = scratch.lookup;
    let len = lookup.len & 0x3ff;
    if edns.is_present {
        // Root, type OPT, our size, extended rcode and version 0, DO; then the length of the options.
        let size = UDP_SIZE;
        let word = 0x29 << 16
            | u64::from(size >> 8) << 24
            | u64::from(size & 0xff) << 32
            | u64::from(edns.dnssec_ok >> 8) << 56;
        scratch.set_reply_word(len, word);
        scratch.set_reply32(len + 8, echoed << 8);
        if echoed != 0 {
            scratch.put_cookie(len + OPT_LEN);
        }
    }
    let added = len + edns.reply_len() + echoed;
    let reply_end = place.question_end + added;
    let new_flags = FLAG_QR | FLAG_RA | flags & (FLAG_RD | FLAG_CD);

    let old_len = place.end - place.udp_at;
    let new_len = reply_end - place.udp_at;
    let section_offset = place.question_end - place.udp_at;
    let mut new = u32::from(new_flags) + lookup.answers + lookup.authorities + new_len;
    new += aligned(lookup.sum, section_offset);
    let mut old = u32::from(flags) + old_len;
    if edns.is_present {
        new += aligned(
            0x2900
                + (UDP_SIZE >> 8)
                + ((UDP_SIZE & 0xff) << 8)
                + u32::from(edns.dnssec_ok >> 8)
                + (echoed << 8)
                + echoed_sum,
            section_offset + len,
        );
        old += aligned(edns.sum, section_offset);
    }
    let delta = fold(new + 0xffff - u32::from(fold(old)));

    if !packet.resize(reply_end) {
        return Replied::Untouched;
    }
    let headers_len = place.udp_at + UDP_LEN + DNS_HEADER_LEN;
    let (udp_sum, lens) = (place.udp_at + 6, [old_len as u16, new_len as u16]);
    let written = packet.write(place.question_end, scratch, added)
        && packet.take_headers(headers_len, scratch)
        && packet.change_udp_checksum(udp_sum, delta, lens[0], lens[1], scratch)
        && headers(packet, scratch, place, new_flags, new_len, old_len)
        && packet.put_headers(headers_len, scratch);
    if written {
        Replied::Answered
    } else {
        Replied::Spoiled
    }
}

/// Addresses and ports change places; lengths and the DNS header become those of the reply.
#[inline(always)]
fn headers<P: Packet>(
    packet: &mut P,
    scratch: &mut Scratch,
    place: &Place,
    flags: u16,
    len: u32,
    old_len: u32,
) -> bool {
    let (answers, authorities) = (scratch.lookup.answers, scratch.lookup.authorities);
    let Some(ethernet) = packet.window::<12>(0, scratch) else {
        return false;
    };
    let (to, from) = (ethernet.get::<u32>(0), ethernet.get::<u32>(6));
    let (to_end, from_end) = (ethernet.get::<u16>(4), ethernet.get::<u16>(10));
    ethernet.put(0, from);
    ethernet.put(4, from_end);
    ethernet.put(6, to);
    ethernet.put(10, to_end);

    let dns = if place.is_v6 {
        const UDP: usize = IPV6_LEN as usize;
        let Some(ip) = packet.window::<{ UDP + 20 }>(place.l3_offset, scratch) else {
            return false;
        };
        ip.put(4, (len as u16).to_be());
        let source = [ip.get::<u64>(8), ip.get::<u64>(16)];
        let destination = [ip.get::<u64>(24), ip.get::<u64>(32)];
        ip.put(8, destination[0]);
        ip.put(16, destination[1]);
        ip.put(24, source[0]);
        ip.put(32, source[1]);
        let ports = ip.get::<u32>(UDP);
        ip.put(UDP, ports.rotate_left(16));
        ip.put(UDP + 4, (len as u16).to_be());
        ip.dns_header(UDP + 8)
    } else {
        const UDP: usize = IPV4_LEN as usize;
        let Some(ip) = packet.window::<{ UDP + 20 }>(place.l3_offset, scratch) else {
            return false;
        };
        ip.put(2, ((len + IPV4_LEN) as u16).to_be());
        // RFC 1624: the sum of the header changes by what its length does.
        let sum = u32::from(!u16::from_be(ip.get::<u16>(10))) + 0xffff
            - ((old_len + IPV4_LEN) & 0xffff)
            + len
            + IPV4_LEN;
        ip.put(10, (!fold(sum)).to_be());
        let (source, destination) = (ip.get::<u32>(12), ip.get::<u32>(16));
        ip.put(12, destination);
        ip.put(16, source);
        let ports = ip.get::<u32>(UDP);
        ip.put(UDP, ports.rotate_left(16));
        ip.put(UDP + 4, (len as u16).to_be());
        ip.dns_header(UDP + 8)
    };
    dns.put(2, flags.to_be());
    dns.put(6, (answers as u16).to_be());
    dns.put(8, (authorities as u16).to_be());
    true
}
