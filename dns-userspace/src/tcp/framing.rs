//! DNS messages in a byte stream, each behind two bytes of length (RFC 1035 §4.2.2); no I/O.

use dns_common::wire::DNS_HEADER_LEN;

/// No message is shorter than its header.
const SHORTEST: usize = DNS_HEADER_LEN as usize;
const PREFIX: usize = 2;
/// What is read at once. The buffer grows as bytes arrive, never by the announced length.
const CHUNK: usize = 4096;

/// A length that no DNS message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Bytes that were read and not yet taken.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// How many bytes of it were taken.
    taken: usize,
}

impl Inbox {
    /// The buffer to append to, with spare capacity. At most one message and a chunk is kept, if [`Inbox::next`] is called
    /// until it has none.
    pub fn spare(&mut self) -> &mut Vec<u8> {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        if self.bytes.is_empty() && self.bytes.capacity() > 2 * CHUNK {
            self.bytes = Vec::new();
        }
        self.bytes.reserve(CHUNK);
        &mut self.bytes
    }

    /// The next whole message.
    pub fn next(&mut self) -> Option<Result<Vec<u8>, Malformed>> {
        let rest = &self.bytes[self.taken..];
        let length = usize::from(u16::from_be_bytes(*rest.first_chunk()?));
        if length < SHORTEST {
            return Some(Err(Malformed));
        }
        let message = rest.get(PREFIX..PREFIX + length)?.to_vec();
        self.taken += PREFIX + length;
        Some(Ok(message))
    }

    /// Whether a message has begun that is not whole, or was not taken.
    pub fn is_partial(&self) -> bool {
        self.taken < self.bytes.len()
    }
}

/// What is to be written.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    written: usize,
}

impl Outbox {
    /// Messages longer than a prefix can say are none.
    pub fn push(&mut self, message: &[u8]) {
        let Ok(length) = u16::try_from(message.len()) else {
            return;
        };
        // In one piece, so that it leaves in one segment where it can (RFC 7766 §8).
        self.bytes.extend_from_slice(&length.to_be_bytes());
        self.bytes.extend_from_slice(message);
    }

    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// So many bytes of [`Outbox::pending`] are written.
    pub fn advance(&mut self, written: usize) {
        self.written += written;
        if self.written >= self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(CHUNK);
            self.written = 0;
        }
    }

    pub fn is_empty(&self) -> bool {
        self.pending().is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(message: &[u8]) -> Vec<u8> {
        [&(message.len() as u16).to_be_bytes()[..], message].concat()
    }

    proptest! {
        /// However the stream is cut into reads, the messages come out.
        #[test]
        fn messages_survive_any_cut(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 12..600), 0..6),
            cuts in proptest::collection::vec(1usize..40, 1..20),
        ) {
            let stream: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
            let mut inbox = Inbox::default();
            let mut found = Vec::new();
            let mut rest = &stream[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (read, left) = rest.split_at((*cut).min(rest.len()));
                inbox.spare().extend_from_slice(read);
                rest = left;
                while let Some(message) = inbox.next() {
                    found.push(message.unwrap());
                }
            }
            prop_assert_eq!(found, messages);
            prop_assert!(!inbox.is_partial());
        }

        #[test]
        fn pushed_messages_are_written_in_order(
            messages in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..6),
            steps in proptest::collection::vec(1usize..50, 1..10),
        ) {
            let mut outbox = Outbox::default();
            let mut written = Vec::new();
            let mut steps = steps.iter().cycle();
            for message in &messages {
                outbox.push(message);
                let step = (*steps.next().unwrap()).min(outbox.pending().len());
                written.extend_from_slice(&outbox.pending()[..step]);
                outbox.advance(step);
            }
            written.extend_from_slice(outbox.pending());
            outbox.advance(outbox.pending().len());
            prop_assert!(outbox.is_empty());
            let expected: Vec<u8> = messages.iter().flat_map(|message| framed(message)).collect();
            prop_assert_eq!(written, expected);
        }
    }

    #[test]
    fn lengths_below_a_header_are_malformed() {
        for length in 0..12u8 {
            let mut inbox = Inbox::default();
            inbox.spare().extend_from_slice(&[0, length]);
            assert_eq!(inbox.next(), Some(Err(Malformed)), "{length}");
        }
        let mut inbox = Inbox::default();
        inbox.spare().extend_from_slice(&[0xff, 0xff]);
        assert_eq!(inbox.next(), None);
        assert!(inbox.is_partial());
        // An announced length alone takes no memory.
        assert!(inbox.spare().capacity() <= 2 * CHUNK);
    }
}
