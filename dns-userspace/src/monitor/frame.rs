//! Client, server and question, read from the beginning of a frame; no I/O.

use std::net::SocketAddr;

use dns_common::wire::{
    DNS_HEADER_LEN, ETH_LEN, ETH_P_8021AD, ETH_P_8021Q, ETHERTYPE_OFFSET, FLAG_QR, UDP_LEN,
    VLAN_LEN,
};
use hickory_proto::{op::ResponseCode, rr::RecordType};

use crate::model::{Headers, be16, name_length};

/// A query or the reply to one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The pod.
    pub client: SocketAddr,
    /// The server that it asked.
    pub server: SocketAddr,
    /// In wire format, in the case that it was sent in.
    pub qname: Vec<u8>,
    pub qtype: u16,
    /// Of a reply; `None` for a query.
    pub rcode: Option<u8>,
}

impl Exchange {
    /// Reads a frame that may have been cut off behind its question. `None` when it is not DNS over UDP over IP without
    /// options or extension headers.
    pub fn parse(frame: &[u8]) -> Option<Exchange> {
        let mut at = ETHERTYPE_OFFSET as usize;
        while [ETH_P_8021Q, ETH_P_8021AD].contains(&be16(frame, at)?) {
            at += VLAN_LEN as usize;
        }
        Exchange::of_packet(frame.get(at + (ETH_LEN - ETHERTYPE_OFFSET) as usize..)?)
    }

    fn of_packet(ip: &[u8]) -> Option<Exchange> {
        let Headers {
            source,
            destination,
            ip_len,
            ..
        } = Headers::parse(ip)?;
        let message = ip.get(ip_len + UDP_LEN as usize..)?;
        let flags = be16(message, 2)?;
        let (qname, qtype) = question(message.get(DNS_HEADER_LEN as usize..)?)?;
        let is_reply = flags & FLAG_QR != 0;
        let (client, server) = if is_reply {
            (destination, source)
        } else {
            (source, destination)
        };
        Some(Exchange {
            client,
            server,
            qname: qname.to_vec(),
            qtype,
            rcode: is_reply.then_some(flags as u8 & 0xf),
        })
    }

    /// The qname as text: escaped as in a zone file (RFC 1035 §5.1), so that no name can write anything else to a
    /// terminal than itself.
    pub fn qname_text(&self) -> String {
        let mut text = String::new();
        let mut rest = self.qname.as_slice();
        while let Some((&length, tail)) = rest.split_first() {
            let Some((label, tail)) = tail.split_at_checked(length.into()) else {
                break;
            };
            if length == 0 {
                break;
            }
            for &byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b'(' | b')' | b';' | b'@' | b'$' => {
                        text.push('\\');
                        text.push(byte.into());
                    }
                    b'!'..=b'~' => text.push(byte.into()),
                    _ => text.push_str(&format!("\\{byte:03}")),
                }
            }
            text.push('.');
            rest = tail;
        }
        if text.is_empty() {
            text.push('.');
        }
        text
    }

    /// The rcode as text, spelled as in RFC 1035 and its successors.
    pub fn rcode_text(&self) -> Option<String> {
        let code = ResponseCode::from(0, self.rcode?);
        Some(format!("{code:?}").to_ascii_uppercase())
    }

    /// The qtype as text (RFC 3597 §5 where it has no name).
    pub fn qtype_text(&self) -> String {
        match RecordType::from(self.qtype) {
            RecordType::Unknown(number) => format!("TYPE{number}"),
            named => named.to_string(),
        }
    }
}

/// The qname and the qtype that a question section begins with.
fn question(bytes: &[u8]) -> Option<(&[u8], u16)> {
    let at = name_length(bytes)?;
    Some((&bytes[..at], be16(bytes, at)?))
}

#[cfg(test)]
pub(super) mod tests {
    use std::net::Ipv6Addr;

    use dns_common::wire::IPPROTO_UDP;

    use super::*;

    /// An untagged frame over IPv4 from 10.0.0.2:5353 to 169.254.20.10:53 that asks for `name` A.
    pub fn query(name: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend_from_slice(&ETH_P_IP.to_be_bytes());
        frame.extend_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 64, IPPROTO_UDP, 0, 0]);
        frame.extend_from_slice(&[10, 0, 0, 2, 169, 254, 20, 10]);
        frame.extend_from_slice(&[0x14, 0xe9, 0, 53, 0, 0, 0, 0]);
        frame.extend_from_slice(&[0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        frame.extend_from_slice(name);
        frame.extend_from_slice(&[0, 1, 0, 1]);
        frame
    }

    use dns_common::wire::ETH_P_IP;

    #[test]
    fn a_query_and_its_reply_name_the_same_two() {
        let frame = query(b"\x01a\x02Bc\0");
        let asked = Exchange::parse(&frame).unwrap();
        assert_eq!(asked.client, "10.0.0.2:5353".parse().unwrap());
        assert_eq!(asked.server, "169.254.20.10:53".parse().unwrap());
        assert_eq!((asked.qname_text().as_str(), asked.rcode), ("a.Bc.", None));
        assert_eq!(asked.qtype_text(), "A");

        let mut reply = frame;
        let (source, destination): (Vec<u8>, Vec<u8>) =
            (reply[26..30].to_vec(), reply[30..34].to_vec());
        reply[26..30].copy_from_slice(&destination);
        reply[30..34].copy_from_slice(&source);
        reply.swap(34, 36);
        reply.swap(35, 37);
        reply[44] |= 0x80;
        reply[45] = 0x83;
        reply.extend_from_slice(b"whatever follows, cut off any");
        let read = Exchange::parse(&reply).unwrap();
        assert_eq!(read.rcode, Some(3));
        assert_eq!(
            (read.client, read.server, read.qname),
            (asked.client, asked.server, asked.qname)
        );
    }

    #[test]
    fn tags_are_stepped_over() {
        let mut frame = query(b"\0");
        frame.splice(12..12, [0x88, 0xa8, 0, 5, 0x81, 0x00, 0, 6]);
        let asked = Exchange::parse(&frame).unwrap();
        assert_eq!(asked.client.port(), 5353);
        assert_eq!(asked.qname_text(), ".");
    }

    #[test]
    fn ipv6() {
        let mut frame = query(b"\x01a\0");
        frame.splice(14..34, {
            let mut header = vec![0x60, 0, 0, 0, 0, 0, IPPROTO_UDP, 64];
            header.extend_from_slice(&"fd00::2".parse::<Ipv6Addr>().unwrap().octets());
            header.extend_from_slice(&"fd00::a".parse::<Ipv6Addr>().unwrap().octets());
            header
        });
        let asked = Exchange::parse(&frame).unwrap();
        assert_eq!(asked.client, "[fd00::2]:5353".parse().unwrap());
        assert_eq!(asked.server, "[fd00::a]:53".parse().unwrap());
    }

    #[test]
    fn no_beginning_and_no_changed_byte_makes_it_panic() {
        let frame = query(b"\x01a\x02Bc\0");
        for end in 0..frame.len() {
            let cut = Exchange::parse(&frame[..end]);
            assert_eq!(cut.is_some(), end + 2 >= frame.len(), "{end} bytes");
        }
        for at in 0..frame.len() {
            for value in 0..=255 {
                let mut changed = frame.clone();
                changed[at] = value;
                if let Some(exchange) = Exchange::parse(&changed) {
                    let text = exchange.qname_text();
                    assert!(text.bytes().all(|byte| byte.is_ascii_graphic()), "{text:?}");
                    assert!(!exchange.qtype_text().is_empty());
                }
            }
        }
    }

    #[test]
    fn names_cannot_write_to_a_terminal() {
        let frame = query(b"\x05\x1b[2J.\x02 \xff\0");
        assert_eq!(
            Exchange::parse(&frame).unwrap().qname_text(),
            "\\027[2J\\..\\032\\255."
        );
    }

    #[test]
    fn a_type_without_a_name_has_a_number() {
        let mut frame = query(b"\0");
        let at = frame.len() - 4;
        frame[at..at + 2].copy_from_slice(&65_400u16.to_be_bytes());
        assert_eq!(Exchange::parse(&frame).unwrap().qtype_text(), "TYPE65400");
    }
}
