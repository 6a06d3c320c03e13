//! A pod's DNS message, as far as an answer needs it; no I/O.
//!
//! The programs have checked the framing already. It is checked again, because the reply repeats it, and what does not parse is
//! passed to the existing cache, which may have a better answer than an error.

use dns_common::wire::{
    CLASS_IN, DNS_HEADER_LEN, FLAG_CD, FLAG_OPCODE, FLAG_QR, FLAG_RD, FULL_COOKIE_LEN, OPT_LEN,
    OPTION_COOKIE, QUESTION_TAIL, TYPE_ANY, TYPE_OPT, qtype_passes,
};
use hickory_proto::rr::RecordType;

use crate::model::name_length;

const HEADER: usize = DNS_HEADER_LEN as usize;
const OPT: usize = OPT_LEN as usize;
/// RFC 1035 §3.2.3.
const DO: u16 = 0x8000;

/// The question of a query, and what its reply must repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Query {
    pub id: u16,
    /// RD and CD as sent; no other bit.
    pub flags: u16,
    /// qname, qtype and qclass byte for byte as sent (0x20).
    question: Vec<u8>,
    pub qtype: u16,
    pub edns: Option<Edns>,
}

/// What the OPT record of a query says (RFC 6891 §6.1.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edns {
    /// As advertised; below 512 it means 512.
    pub udp_size: u16,
    /// DO, which a reply copies.
    pub dnssec_ok: bool,
    /// A cookie with a server part, which a reply copies.
    pub cookie: Option<Cookie>,
}

/// A COOKIE option with a server part (RFC 7873 §4): another server behind this address has issued it, and its client takes
/// no reply without one from then on. It is opaque here, and echoed unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cookie {
    bytes: [u8; MAX_COOKIE],
    len: u8,
}

/// Client part of 8 bytes, server part of 8 to 32.
pub const MAX_COOKIE: usize = *FULL_COOKIE_LEN.end() as usize;
const MIN_COOKIE: usize = *FULL_COOKIE_LEN.start() as usize;

impl Cookie {
    fn of(option: &[u8]) -> Option<Self> {
        let mut bytes = [0; MAX_COOKIE];
        if option.len() < MIN_COOKIE {
            return None;
        }
        bytes.get_mut(..option.len())?.copy_from_slice(option);
        Some(Self {
            bytes,
            len: option.len() as u8,
        })
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl Query {
    /// Parses one question of class IN and at most one OPT of version 0. `None` for everything else.
    pub fn parse(message: &[u8]) -> Option<Query> {
        let header: &[u8; HEADER] = message.first_chunk()?;
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let flags = word(2);
        let additional = word(10);
        // All other bits mean nothing in a query (RFC 8906 §8.1.3.3).
        if flags & (FLAG_QR | FLAG_OPCODE) != 0
            || (word(4), word(6), word(8)) != (1, 0, 0)
            || additional > 1
        {
            return None;
        }
        let body = &message[HEADER..];
        let name_len = name_length(body)?;
        let question = body.get(..name_len + QUESTION_TAIL as usize)?;
        let tail = &question[name_len..];
        let qtype = u16::from_be_bytes([tail[0], tail[1]]);
        let qclass = u16::from_be_bytes([tail[2], tail[3]]);
        if qclass != CLASS_IN || qtype_passes(qtype) {
            return None;
        }
        let rest = &body[question.len()..];
        let edns = match additional {
            0 if rest.is_empty() => None,
            0 => return None,
            _ => Some(parse_opt(rest)?),
        };
        Some(Query {
            id: word(0),
            flags: flags & (FLAG_RD | FLAG_CD),
            question: question.to_vec(),
            qtype,
            edns,
        })
    }

    /// The type that is looked up for it. ANY gets the CNAME alone (RFC 8482 §4.1).
    pub fn looked_up(&self) -> RecordType {
        match self.qtype {
            TYPE_ANY => RecordType::CNAME,
            qtype => qtype.into(),
        }
    }

    /// The question section as sent.
    pub fn question(&self) -> &[u8] {
        &self.question
    }

    /// The name in wire format, in the case that it was sent in.
    pub fn qname(&self) -> &[u8] {
        &self.question[..self.question.len() - QUESTION_TAIL as usize]
    }
}

/// The name of the only question of a message; `None` where that is compressed, too long or not whole, or there are others.
pub fn only_qname(message: &[u8]) -> Option<&[u8]> {
    let header: &[u8; HEADER] = message.first_chunk()?;
    if header[4..6] != [0, 1] {
        return None;
    }
    let body = &message[HEADER..];
    let name_len = name_length(body)?;
    body.get(..name_len + QUESTION_TAIL as usize)?;
    Some(&body[..name_len])
}

/// One OPT and nothing behind it; its options are walked once, so that a list with wrong lengths is refused.
fn parse_opt(record: &[u8]) -> Option<Edns> {
    let fixed: &[u8; OPT] = record.first_chunk()?;
    let word = |at: usize| u16::from_be_bytes([fixed[at], fixed[at + 1]]);
    let version = fixed[6];
    if fixed[0] != 0 || word(1) != TYPE_OPT || version != 0 {
        return None;
    }
    let mut options = &record[OPT..];
    if options.len() != usize::from(word(9)) {
        return None;
    }
    let mut cookie = None;
    while !options.is_empty() {
        let header: &[u8; 4] = options.first_chunk()?;
        let code = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let (option, rest) = options[4..].split_at_checked(length)?;
        // Those after the first are ignored (RFC 7873 §5.2).
        if code == OPTION_COOKIE && cookie.is_none() {
            cookie = Some(Cookie::of(option));
        }
        options = rest;
    }
    Some(Edns {
        udp_size: word(3),
        dnssec_ok: word(7) & DO != 0,
        cookie: cookie.flatten(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a.Bc.` A IN with RD, ID 0x1234.
    const PLAIN: &[u8] = b"\x12\x34\x01\x00\0\x01\0\0\0\0\0\0\x01a\x02Bc\0\0\x01\0\x01";

    fn with_opt(tail: &[u8]) -> Vec<u8> {
        let mut message = PLAIN.to_vec();
        message[11] = 1;
        message.extend_from_slice(tail);
        message
    }

    #[test]
    fn a_plain_query_keeps_its_question_byte_for_byte() {
        let query = Query::parse(PLAIN).unwrap();
        assert_eq!(query.id, 0x1234);
        assert_eq!(query.flags, FLAG_RD);
        assert_eq!(query.qname(), b"\x01a\x02Bc\0");
        assert_eq!(query.question(), &PLAIN[12..]);
        assert_eq!((query.qtype, query.edns), (1, None));
    }

    #[test]
    fn opt_gives_size_and_do() {
        let opt = b"\0\0\x29\x04\xd0\0\0\x80\0\0\x07\0\x0a\0\x03abc";
        let query = Query::parse(&with_opt(opt)).unwrap();
        let edns = Edns {
            udp_size: 1232,
            dnssec_ok: true,
            cookie: None,
        };
        assert_eq!(query.edns, Some(edns));
    }

    #[test]
    fn a_cookie_with_a_server_part_is_kept() {
        let cookie = |lengths: &[usize]| {
            let options: Vec<u8> = lengths
                .iter()
                .enumerate()
                .flat_map(|(index, length)| {
                    [&[0, 10, 0, *length as u8][..], &vec![index as u8; *length]].concat()
                })
                .collect();
            let mut opt = b"\0\0\x29\x04\xd0\0\0\0\0\0".to_vec();
            opt.push(options.len() as u8);
            opt.extend(options);
            let query = Query::parse(&with_opt(&opt)).unwrap();
            let cookie = query.edns.unwrap().cookie;
            cookie.map(|cookie| cookie.as_bytes().to_vec())
        };
        assert_eq!(cookie(&[16]), Some(vec![0; 16]));
        assert_eq!(cookie(&[40]), Some(vec![0; 40]));
        for none in [0, 7, 8, 9, 15, 41] {
            assert_eq!(cookie(&[none]), None, "{none}");
        }
        assert_eq!(cookie(&[24, 32]), Some(vec![0; 24]));
        assert_eq!(cookie(&[8, 32]), None, "those after the first are ignored");
    }

    #[test]
    fn option_lists_with_wrong_lengths_are_refused() {
        for opt in [
            // RDLENGTH beyond the end, before the end, an option beyond RDATA, half an option header.
            &b"\0\0\x29\x04\xd0\0\0\0\0\0\x08\0\x0a\0\x03abc"[..],
            b"\0\0\x29\x04\xd0\0\0\0\0\0\x06\0\x0a\0\x03abc",
            b"\0\0\x29\x04\xd0\0\0\0\0\0\x07\0\x0a\0\x04abc",
            b"\0\0\x29\x04\xd0\0\0\0\0\0\x02\0\x0a",
            // Version 1, an owner, another type.
            b"\0\0\x29\x04\xd0\0\x01\0\0\0\0",
            b"\x01a\0\x29\x04\xd0\0\0\0\0\0\0",
            b"\0\0\xfa\x04\xd0\0\0\0\0\0\0",
        ] {
            assert_eq!(Query::parse(&with_opt(opt)), None, "{opt:02x?}");
        }
    }

    #[test]
    fn no_prefix_and_no_changed_byte_makes_it_panic() {
        let whole = with_opt(b"\0\0\x29\x04\xd0\0\0\x80\0\0\x07\0\x0a\0\x03abc");
        for end in 0..whole.len() {
            assert_eq!(Query::parse(&whole[..end]), None, "prefix of {end} bytes");
        }
        for at in 0..whole.len() {
            for value in 0..=255 {
                let mut changed = whole.clone();
                changed[at] = value;
                if let Some(query) = Query::parse(&changed) {
                    assert!(query.qname().len() <= 255);
                }
            }
        }
    }

    #[test]
    fn header_bits_without_a_meaning_are_ignored() {
        let plain = Query::parse(PLAIN).unwrap();
        for (at, value) in [(2, 0x05), (2, 0x03), (3, 0x80), (3, 0x40), (3, 0x07)] {
            let mut message = PLAIN.to_vec();
            message[at] = value;
            assert_eq!(Query::parse(&message).as_ref(), Some(&plain), "byte {at}");
        }
    }

    #[test]
    fn other_classes_types_and_counts_are_left_to_the_cache() {
        for (at, value) in [
            (2, 0x81),
            (2, 0x10),
            (5, 2),
            (7, 1),
            (9, 1),
            (19, 252),
            (21, 3),
        ] {
            let mut message = PLAIN.to_vec();
            message[at] = value;
            assert_eq!(Query::parse(&message), None, "byte {at}");
        }
    }
}
