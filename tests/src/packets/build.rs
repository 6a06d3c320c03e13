//! Builds frames byte by byte, independently of the pipeline that reads them, so that no mistake is shared.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// A frame as an engine gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// From the Ethernet header on, tags included.
    pub bytes: Vec<u8>,
    /// Segment size, when the buffer is several datagrams (UDP_SEGMENT).
    pub gso_size: Option<u16>,
    /// Whether only the Ethernet header is in the linear part of the buffer.
    pub paged: bool,
}

impl From<Vec<u8>> for Frame {
    fn from(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            gso_size: None,
            paged: false,
        }
    }
}

/// An 802.1Q or 802.1ad tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag {
    pub tpid: u16,
    pub tci: u16,
}

/// What is put into a UDP checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    Right,
    Zero,
    Wrong,
}

/// A packet in its layers. Lengths, counts and checksums are right unless a field says otherwise.
#[derive(Clone, Debug)]
pub struct Packet {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    /// Outermost first.
    pub tags: Vec<Tag>,
    /// In place of that of the IP version.
    pub ethertype: Option<u16>,
    pub source: IpAddr,
    pub destination: IpAddr,
    /// First byte of the IP header, in place of the right one.
    pub version_ihl: Option<u8>,
    /// ToS or traffic class.
    pub traffic_class: u8,
    pub flow_label: u32,
    pub ttl: u8,
    /// Flags and fragment offset (IPv4).
    pub fragment: u16,
    /// IPv4 options, a multiple of four bytes; or IPv6 extension headers, of which the first has number
    /// `extension`.
    pub options: Vec<u8>,
    pub extension: u8,
    /// Added to the total length (IPv4) or the payload length (IPv6).
    pub ip_length_off_by: i32,
    pub transport: Transport,
    /// Behind the IP packet, as Ethernet padding is.
    pub trailer: Vec<u8>,
    /// Length that the frame is cut to in the end.
    pub cut: Option<usize>,
}

/// What the IP header carries.
#[derive(Clone, Debug)]
pub enum Transport {
    Udp(Udp),
    /// Protocol number and bytes.
    Other(u8, Vec<u8>),
}

#[derive(Clone, Debug)]
pub struct Udp {
    pub source_port: u16,
    pub destination_port: u16,
    /// Added to the length field.
    pub length_off_by: i32,
    pub checksum: Checksum,
    pub payload: Vec<u8>,
}

/// The pod's addresses.
pub const POD_V4: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 3);
pub const POD_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 2, 3, 0, 0, 0, 5);

/// A UDP packet from a pod to port 53 of `server`.
pub fn udp_to(server: IpAddr, payload: Vec<u8>) -> Packet {
    Packet {
        destination_mac: [0x02, 0, 0, 0, 0, 0x01],
        source_mac: [0x02, 0, 0, 0, 0, 0x02],
        tags: Vec::new(),
        ethertype: None,
        source: match server {
            IpAddr::V4(_) => POD_V4.into(),
            IpAddr::V6(_) => POD_V6.into(),
        },
        destination: server,
        version_ihl: None,
        traffic_class: 0,
        flow_label: 0,
        ttl: 64,
        fragment: 0,
        options: Vec::new(),
        extension: 0,
        ip_length_off_by: 0,
        transport: Transport::Udp(Udp {
            source_port: 41_234,
            destination_port: 53,
            length_off_by: 0,
            checksum: Checksum::Right,
            payload,
        }),
        trailer: Vec::new(),
        cut: None,
    }
}

/// A frame that is not IP, or not whole: an Ethernet header and `bytes`.
pub fn ethernet(ethertype: u16, bytes: &[u8]) -> Frame {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(bytes);
    frame.into()
}

impl Packet {
    /// Changes whatever a case is about.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// Changes the UDP header; the packet carries UDP.
    pub fn with_udp(mut self, change: impl FnOnce(&mut Udp)) -> Self {
        match &mut self.transport {
            Transport::Udp(udp) => change(udp),
            Transport::Other(..) => panic!("not UDP"),
        }
        self
    }

    /// Puts a tag inside those that are there.
    pub fn tag(mut self, tpid: u16, tci: u16) -> Self {
        self.tags.push(Tag { tpid, tci });
        self
    }

    /// Cuts the frame to `len` bytes; the headers go on promising the rest.
    pub fn cut(mut self, len: usize) -> Self {
        self.cut = Some(len);
        self
    }

    pub fn build(&self) -> Frame {
        let mut transport = match &self.transport {
            Transport::Udp(udp) => self.udp(udp),
            Transport::Other(_, bytes) => bytes.clone(),
        };
        let protocol = match &self.transport {
            Transport::Udp(_) => 17,
            Transport::Other(protocol, _) => *protocol,
        };

        let mut frame = Vec::new();
        frame.extend(self.destination_mac);
        frame.extend(self.source_mac);
        for tag in &self.tags {
            frame.extend(tag.tpid.to_be_bytes());
            frame.extend(tag.tci.to_be_bytes());
        }
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                frame.extend(self.ethertype.unwrap_or(0x0800).to_be_bytes());
                let header_len = 20 + self.options.len();
                let total = off_by(header_len + transport.len(), self.ip_length_off_by);
                let mut header = vec![
                    self.version_ihl.unwrap_or(0x40 | (header_len / 4) as u8),
                    self.traffic_class,
                ];
                header.extend(total.to_be_bytes());
                header.extend(0x1234u16.to_be_bytes());
                header.extend(self.fragment.to_be_bytes());
                header.extend([self.ttl, protocol, 0, 0]);
                header.extend(source.octets());
                header.extend(destination.octets());
                header.extend(&self.options);
                let sum = internet_checksum(&[&header]);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend(header);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                frame.extend(self.ethertype.unwrap_or(0x86dd).to_be_bytes());
                let first = u32::from(self.version_ihl.map_or(6, |byte| byte >> 4)) << 28
                    | u32::from(self.traffic_class) << 20
                    | self.flow_label;
                frame.extend(first.to_be_bytes());
                let payload = off_by(self.options.len() + transport.len(), self.ip_length_off_by);
                frame.extend(payload.to_be_bytes());
                let next = if self.options.is_empty() {
                    protocol
                } else {
                    self.extension
                };
                frame.extend([next, self.ttl]);
                frame.extend(source.octets());
                frame.extend(destination.octets());
                frame.extend(&self.options);
            }
            _ => panic!("addresses of two families"),
        }
        frame.append(&mut transport);
        frame.extend(&self.trailer);
        if let Some(len) = self.cut {
            assert!(len <= frame.len(), "a cut makes a frame shorter");
            frame.truncate(len);
        }
        frame.into()
    }

    fn udp(&self, udp: &Udp) -> Vec<u8> {
        let len = off_by(8 + udp.payload.len(), udp.length_off_by);
        let mut bytes = Vec::new();
        bytes.extend(udp.source_port.to_be_bytes());
        bytes.extend(udp.destination_port.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend([0, 0]);
        bytes.extend(&udp.payload);
        let mut pseudo = Vec::new();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                pseudo.extend(source.octets());
                pseudo.extend(destination.octets());
            }
            _ => panic!("addresses of two families"),
        }
        pseudo.extend([0, 17]);
        pseudo.extend(len.to_be_bytes());
        let right = match internet_checksum(&[&pseudo, &bytes]) {
            0 => 0xffff,
            sum => sum,
        };
        let sum = match udp.checksum {
            Checksum::Right => right,
            Checksum::Zero => 0,
            Checksum::Wrong => !right,
        };
        bytes[6..8].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

fn off_by(right: usize, lie: i32) -> u16 {
    u16::try_from(right as i64 + i64::from(lie)).expect("a length of 16 bits")
}

/// The ones' complement sum of RFC 1071 over the concatenation of `parts`, each of which has an even length but the last.
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(pair[0]) << 8 | u64::from(pair.get(1).copied().unwrap_or(0));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A DNS message; counts are those of the sections unless `counts` says otherwise.
#[derive(Clone, Debug)]
pub struct Message {
    pub id: u16,
    pub flags: u16,
    /// QDCOUNT, ANCOUNT, NSCOUNT, ARCOUNT.
    pub counts: [Option<u16>; 4],
    pub questions: Vec<Vec<u8>>,
    pub answers: Vec<Vec<u8>>,
    pub authorities: Vec<Vec<u8>>,
    pub additional: Vec<Vec<u8>>,
    /// Behind the last record.
    pub rest: Vec<u8>,
}

/// RD, as every stub resolver sets it.
pub const RD: u16 = 0x0100;

/// A query with one question.
pub fn question(name: impl AsRef<[u8]>, qtype: u16) -> Message {
    question_in_class(name, qtype, 1)
}

pub fn question_in_class(name: impl AsRef<[u8]>, qtype: u16, qclass: u16) -> Message {
    let mut bytes = name.as_ref().to_vec();
    bytes.extend(qtype.to_be_bytes());
    bytes.extend(qclass.to_be_bytes());
    Message {
        id: 0x4242,
        flags: RD,
        counts: [None; 4],
        questions: vec![bytes],
        answers: Vec::new(),
        authorities: Vec::new(),
        additional: Vec::new(),
        rest: Vec::new(),
    }
}

impl Message {
    /// Changes whatever a case is about.
    pub fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn additional(mut self, record: Vec<u8>) -> Self {
        self.additional.push(record);
        self
    }

    pub fn flags(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    pub fn build(&self) -> Vec<u8> {
        let sections = [
            &self.questions,
            &self.answers,
            &self.authorities,
            &self.additional,
        ];
        let mut bytes = Vec::new();
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.flags.to_be_bytes());
        for (section, count) in sections.iter().zip(self.counts) {
            bytes.extend(count.unwrap_or(section.len() as u16).to_be_bytes());
        }
        bytes.extend(sections.into_iter().flatten().flatten());
        bytes.extend(&self.rest);
        bytes
    }
}

/// A name in wire format from its presentation form, without escapes.
pub fn name(text: &str) -> Vec<u8> {
    let labels: Vec<&[u8]> = text.split('.').map(str::as_bytes).collect();
    labels_of(&labels)
}

/// A name in wire format from labels of any bytes.
pub fn labels_of(labels: &[&[u8]]) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in labels.iter().filter(|label| !label.is_empty()) {
        assert!(label.len() < 64, "a label of {} bytes", label.len());
        wire.push(label.len() as u8);
        wire.extend(*label);
    }
    wire.push(0);
    wire
}

/// A resource record.
pub fn record(owner: &[u8], rtype: u16, class: u16, ttl: u32, rdata: &[u8]) -> Vec<u8> {
    let mut bytes = owner.to_vec();
    bytes.extend(rtype.to_be_bytes());
    bytes.extend(class.to_be_bytes());
    bytes.extend(ttl.to_be_bytes());
    bytes.extend((rdata.len() as u16).to_be_bytes());
    bytes.extend(rdata);
    bytes
}

/// An OPT record of the given size, version and options.
pub fn opt(udp_size: u16, version: u8, options: &[(u16, &[u8])]) -> Vec<u8> {
    let mut rdata = Vec::new();
    for (code, data) in options {
        rdata.extend(code.to_be_bytes());
        rdata.extend((data.len() as u16).to_be_bytes());
        rdata.extend(*data);
    }
    record(&[0], 41, udp_size, u32::from(version) << 16, &rdata)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_frame() {
        // Sums computed by hand, so that the builder is not checked against itself.
        let packet = udp_to(Ipv4Addr::new(10, 1, 2, 4).into(), vec![1, 2, 3]).with(|p| p.ttl = 1);
        let bytes = packet.build().bytes;
        assert_eq!(bytes.len(), 14 + 20 + 8 + 3);
        assert_eq!(&bytes[14..18], [0x45, 0, 0, 31]);
        assert_eq!(internet_checksum(&[&bytes[14..34]]), 0);
        // 4500 + 001f + 1234 + 0000 + 0111 + 0a01 + 0203 + 0a01 + 0204 = 706d
        assert_eq!(&bytes[24..26], (!0x706du16).to_be_bytes());
        // 0a01 + 0203 + 0a01 + 0204 + 0011 + 000b + a112 + 0035 + 000b + 0102 + 0300 = bd79
        assert_eq!(&bytes[40..42], (!0xbd79u16).to_be_bytes());
    }

    #[test]
    fn names_and_counts() {
        assert_eq!(name("a.bc"), b"\x01a\x02bc\0");
        assert_eq!(name(""), b"\0");
        let message = question(name("a"), 28)
            .additional(opt(1232, 0, &[]))
            .build();
        assert_eq!(
            message,
            b"\x42\x42\x01\x00\0\x01\0\0\0\0\0\x01\x01a\0\0\x1c\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0"
        );
    }
}
