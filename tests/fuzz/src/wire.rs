//! A reader of DNS messages (RFC 1035 §4) that shares no code with the product nor with hickory.

/// A name as its labels, from the first to the one before the root.
pub type Labels = Vec<Vec<u8>>;

/// A message that parses to its last byte.
#[derive(Debug)]
pub struct Message<'a> {
    pub id: u16,
    pub flags: u16,
    pub questions: Vec<Question>,
    pub answers: Vec<Record<'a>>,
    pub authorities: Vec<Record<'a>>,
    pub additionals: Vec<Record<'a>>,
}

#[derive(Debug)]
pub struct Question {
    pub name: Labels,
    pub qtype: u16,
    pub qclass: u16,
}

#[derive(Debug)]
pub struct Record<'a> {
    pub owner: Labels,
    pub rtype: u16,
    pub class: u16,
    pub ttl: u32,
    pub rdata: &'a [u8],
    /// The name that the rdata begins with, of types whose rdata does.
    pub target: Option<Labels>,
}

const CNAME: u16 = 5;
const SOA: u16 = 6;

impl<'a> Message<'a> {
    /// `None` when anything is missing, left over or malformed.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor { bytes, at: 0 };
        let id = cursor.u16()?;
        let flags = cursor.u16()?;
        let counts = [cursor.u16()?, cursor.u16()?, cursor.u16()?, cursor.u16()?];
        let mut questions = Vec::new();
        for _ in 0..counts[0] {
            questions.push(Question {
                name: cursor.name()?,
                qtype: cursor.u16()?,
                qclass: cursor.u16()?,
            });
        }
        let mut section = |count: u16| -> Option<Vec<Record<'a>>> {
            let mut records = Vec::new();
            for _ in 0..count {
                records.push(cursor.record()?);
            }
            Some(records)
        };
        let message = Self {
            id,
            flags,
            questions,
            answers: section(counts[1])?,
            authorities: section(counts[2])?,
            additionals: section(counts[3])?,
        };
        (cursor.at == bytes.len()).then_some(message)
    }
}

/// Compares as DNS does: ASCII letters without their case.
pub fn same_name(one: &[Vec<u8>], other: &[Vec<u8>]) -> bool {
    one.len() == other.len()
        && one
            .iter()
            .zip(other)
            .all(|(one, other)| one.eq_ignore_ascii_case(other))
}

/// The uncompressed wire format.
pub fn to_wire(labels: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in labels {
        wire.push(label.len() as u8);
        wire.extend_from_slice(label);
    }
    wire.push(0);
    wire
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(*self.take(2)?.first_chunk()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(*self.take(4)?.first_chunk()?))
    }

    /// A name; pointers may only go back, and the whole is at most 255 bytes.
    fn name(&mut self) -> Option<Labels> {
        let mut labels = Vec::new();
        let mut at = self.at;
        let mut wire_len = 1;
        // Every pointer goes to before where the last one started from.
        let mut before = self.at;
        let mut end = None;
        loop {
            let length = usize::from(*self.bytes.get(at)?);
            match length {
                0 => {
                    self.at = end.unwrap_or(at + 1);
                    return Some(labels);
                }
                1..=63 => {
                    labels.push(self.bytes.get(at + 1..at + 1 + length)?.to_vec());
                    at += 1 + length;
                    wire_len += 1 + length;
                    if wire_len > 255 {
                        return None;
                    }
                }
                0xc0.. => {
                    let to = (length & 0x3f) << 8 | usize::from(*self.bytes.get(at + 1)?);
                    end.get_or_insert(at + 2);
                    if to >= before {
                        return None;
                    }
                    before = to;
                    at = to;
                }
                _ => return None,
            }
        }
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let owner = self.name()?;
        let (rtype, class, ttl) = (self.u16()?, self.u16()?, self.u32()?);
        let length = usize::from(self.u16()?);
        let start = self.at;
        let rdata = self.take(length)?;
        let mut target = None;
        if matches!(rtype, CNAME | SOA) {
            let mut inner = Cursor {
                bytes: self.bytes,
                at: start,
            };
            target = Some(inner.name()?);
            if rtype == SOA {
                inner.name()?;
                inner.take(20)?;
            }
            if inner.at != self.at {
                return None;
            }
        }
        Some(Record {
            owner,
            rtype,
            class,
            ttl,
            rdata,
            target,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compressed_names_are_read_and_loops_are_not() {
        let message = b"\x12\x34\x81\x80\0\x01\0\x01\0\0\0\0\x01a\x02bc\0\0\x01\0\x01\
            \xc0\x0c\0\x05\0\x01\0\0\0\x3c\0\x04\x01x\xc0\x0e";
        let parsed = Message::parse(message).expect("well-formed");
        assert_eq!(parsed.answers[0].owner, [b"a".to_vec(), b"bc".to_vec()]);
        assert_eq!(
            parsed.answers[0].target,
            Some(vec![b"x".to_vec(), b"bc".to_vec()])
        );
        let mut looping = message.to_vec();
        // The owner points to itself.
        looping[22] = 21;
        assert!(Message::parse(&looping).is_none());
        for end in 0..message.len() {
            assert!(Message::parse(&message[..end]).is_none(), "{end} bytes");
        }
        assert!(Message::parse(&[&message[..], &[0]].concat()).is_none());
    }
}
