//! The expected result for a frame, read from its bytes with slices and `Option` alone.

use std::{net::IpAddr, ops::Range};

use dns_common::abi::MAX_FRAME;

use super::{Fixture, servers};
use crate::wire::Message;

/// A query that must be taken or answered.
#[derive(Debug, PartialEq, Eq)]
pub struct Expected {
    pub rule: usize,
    pub l3_offset: usize,
    /// The offset of the DNS message.
    pub message: Range<usize>,
    /// Index of the server asked.
    pub server: usize,
    /// Whether the programs look at its EDNS options, if there are any.
    pub has_short_options: bool,
    /// Whether its options end in what looks like the end of a question and an OPT without options. The programs, which
    /// look there first, may let it pass like a name of no rule (docs/edns.md).
    pub ends_like_another: bool,
}

/// `None` for a frame that must pass.
pub fn expected(fixture: &Fixture, frame: &[u8], gso: bool) -> Option<Expected> {
    if gso || frame.len() > MAX_FRAME {
        return None;
    }
    let (l3_offset, ethertype) = network_layer(frame)?;
    let (udp, destination) = match ethertype {
        0x0800 => ipv4(frame, l3_offset)?,
        0x86dd => ipv6(frame, l3_offset)?,
        _ => return None,
    };
    // What lies behind the IP packet is padding.
    let datagram = frame.get(udp.clone())?;
    if word(datagram, 2)? != 53 || usize::from(word(datagram, 4)?) != datagram.len() {
        return None;
    }
    let server = servers().iter().position(|server| *server == destination)?;
    let message = datagram.get(8..)?;
    let (rule, has_short_options) = question(fixture, message)?;
    let name_len = crate::wire::to_wire(&Message::parse(message)?.questions[0].name).len();
    Some(Expected {
        rule,
        l3_offset,
        message: udp.start + 8..udp.end,
        server,
        has_short_options,
        ends_like_another: ends_like_another(&message[12 + name_len + 4..]),
    })
}

/// At most two tags, an outer one of either kind and an inner one of 802.1Q.
fn network_layer(frame: &[u8]) -> Option<(usize, u16)> {
    match word(frame, 12)? {
        0x8100 | 0x88a8 => match word(frame, 16)? {
            0x8100 => Some((22, word(frame, 20)?)),
            other => Some((18, other)),
        },
        other => Some((14, other)),
    }
}

/// The bytes of the UDP datagram, and where it goes.
fn ipv4(frame: &[u8], at: usize) -> Option<(Range<usize>, IpAddr)> {
    let header = frame.get(at..at + 20)?;
    let plain = header[0] == 0x45 && header[9] == 17 && word(header, 6)? & 0x3fff == 0;
    let source: [u8; 4] = *header[12..].first_chunk()?;
    if !(1..224).contains(&source[0]) {
        return None;
    }
    let destination: [u8; 4] = *header[16..].first_chunk()?;
    let end = at + usize::from(word(header, 2)?);
    (plain && end >= at + 20).then_some((at + 20..end, destination.into()))
}

fn ipv6(frame: &[u8], at: usize) -> Option<(Range<usize>, IpAddr)> {
    let header = frame.get(at..at + 40)?;
    let plain = header[0] >> 4 == 6 && header[6] == 17;
    let source: [u8; 16] = *header[8..].first_chunk()?;
    if source[0] == 0xff || source == [0; 16] {
        return None;
    }
    let destination: [u8; 16] = *header[24..].first_chunk()?;
    let end = at + 40 + usize::from(word(header, 4)?);
    plain.then_some((at + 40..end, destination.into()))
}

/// The rule of a plain query and whether its options are few, or `None`.
fn question(fixture: &Fixture, message: &[u8]) -> Option<(usize, bool)> {
    // QR and opcode.
    if word(message, 2)? & 0xf800 != 0 {
        return None;
    }
    let counts = [4, 6, 8, 10].map(|at| word(message, at));
    let [Some(1), Some(0), Some(0), Some(additional @ 0..=1)] = counts else {
        return None;
    };
    let parsed = Message::parse(message)?;
    let name = crate::wire::to_wire(&parsed.questions[0].name);
    // The only question has no earlier name to point to; a name that is longer than its labels was compressed.
    if message.get(12..12 + name.len())? != name {
        return None;
    }
    let (qtype, qclass) = (parsed.questions[0].qtype, parsed.questions[0].qclass);
    if qclass != 1 || matches!(qtype, 0 | 41 | 128..=254) {
        return None;
    }
    let mut has_short_options = true;
    if additional == 1 {
        let opt = &parsed.additionals[0];
        let at = 12 + name.len() + 4;
        if message[at] != 0 || opt.rtype != 41 || opt.ttl >> 16 & 0xff != 0 {
            return None;
        }
        has_short_options = is_full_cookie(opt.rdata)
            || opt.rdata.len() <= 256 && options(opt.rdata) <= 16 && !has_server_cookie(opt.rdata);
    }
    Some((
        fixture.oracle.by_labels(&name).answering?,
        has_short_options,
    ))
}

/// Whether a root label, qtype and qclass, and an OPT of version 0 without options end the options of an OPT.
fn ends_like_another(additional: &[u8]) -> bool {
    const OPT: usize = 11;
    let Some(start) = additional.len().checked_sub(OPT + 5) else {
        return false;
    };
    let (question, opt) = additional[start..].split_at(5);
    start > 0 && question[0] == 0 && opt[..3] == [0, 0, 41] && opt[6] == 0 && opt[9..] == [0, 0]
}

/// Whether the options are one cookie with both parts, which the programs echo.
fn is_full_cookie(rdata: &[u8]) -> bool {
    matches!(rdata, [0, 10, 0, length @ 16..=40, cookie @ ..] if cookie.len() == usize::from(*length))
}

/// Whether one of the options is a cookie with more than the client's part.
fn has_server_cookie(mut rdata: &[u8]) -> bool {
    while let (Some(code), Some(length)) = (word(rdata, 0), word(rdata, 2)) {
        if code == 10 && length > 8 {
            return true;
        }
        rdata = rdata.get(4 + usize::from(length)..).unwrap_or_default();
    }
    false
}

/// How many options there are in an OPT's rdata, as far as it is a list.
fn options(mut rdata: &[u8]) -> usize {
    let mut count = 0;
    while let (true, Some(length)) = (!rdata.is_empty(), word(rdata, 2)) {
        count += 1;
        rdata = rdata.get(4 + usize::from(length)..).unwrap_or_default();
    }
    count
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}
