//! Matches the replies of the server to the messages that were relayed to it; no I/O.
//!
//! Only the ID of a message is changed, and only while another one with the same ID is outstanding: a server may reply out of
//! order (RFC 7766 §7), and only ID and question say which reply it is.

use std::collections::HashMap;

use dns_common::wire::{DNS_HEADER_LEN, FLAG_QR};

use crate::model::name_length;

const HEADER: usize = DNS_HEADER_LEN as usize;
const QUESTION_TAIL: usize = 4;
const TYPE_IXFR: u16 = 251;
const TYPE_AXFR: u16 = 252;

/// Messages that the server has not answered.
#[derive(Debug, Default)]
pub struct Relay {
    /// By the ID that they were relayed with.
    outstanding: HashMap<u16, Outstanding>,
    /// Those that take a single reply.
    awaited: usize,
}

#[derive(Debug)]
struct Outstanding {
    /// The client's ID.
    id: [u8; 2],
    /// Its question section; `None` when it has not exactly one plain question.
    question: Option<Box<[u8]>>,
    /// A zone transfer is as many messages as the server likes (RFC 5936 §2.2).
    transfer: bool,
}

impl Relay {
    /// Prepares a message for the server: another ID where its own is taken. `random` proposes IDs.
    pub fn send(&mut self, message: &mut [u8], mut random: impl FnMut() -> u16) {
        let Some(&id) = message.first_chunk::<2>() else {
            return;
        };
        let mut own = u16::from_be_bytes(id);
        while self.outstanding.contains_key(&own) {
            own = random();
        }
        message[..2].copy_from_slice(&own.to_be_bytes());
        let question = question(message).map(Into::into);
        let transfer = question.as_deref().is_some_and(is_transfer);
        self.awaited += usize::from(!transfer);
        let outstanding = Outstanding {
            id,
            question,
            transfer,
        };
        self.outstanding.insert(own, outstanding);
    }

    /// Gives a reply the ID of its message. `false` when no message is outstanding for it.
    pub fn receive(&mut self, reply: &mut [u8]) -> bool {
        let Some(header) = reply.first_chunk::<HEADER>() else {
            return false;
        };
        let own = u16::from_be_bytes([header[0], header[1]]);
        let is_reply = header[2] & (FLAG_QR >> 8) as u8 != 0;
        let Some(sent) = self.outstanding.get(&own).filter(|_| is_reply) else {
            return false;
        };
        let belongs = match (&sent.question, &header[4..6]) {
            // An error may come without the question, and so do the later messages of a transfer.
            (_, [0, 0]) | (None, _) => true,
            (Some(asked), _) => {
                question(reply).is_some_and(|question| question.eq_ignore_ascii_case(asked))
            }
        };
        if belongs {
            reply[..2].copy_from_slice(&sent.id);
            if !sent.transfer {
                self.outstanding.remove(&own);
                self.awaited -= 1;
            }
        }
        belongs
    }

    /// Replies that are due.
    pub fn awaited(&self) -> usize {
        self.awaited
    }

    /// Messages that may still be answered, transfers included.
    pub fn len(&self) -> usize {
        self.outstanding.len()
    }

    /// Removes all messages: the connection to the server is closed.
    pub fn clear(&mut self) {
        self.outstanding.clear();
        self.awaited = 0;
    }
}

/// The question section of a message with one uncompressed question.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let body = message.get(HEADER..)?;
    body.get(..name_length(body)? + QUESTION_TAIL)
}

fn is_transfer(question: &[u8]) -> bool {
    let Some(tail) = question.last_chunk::<QUESTION_TAIL>() else {
        return false;
    };
    matches!(
        u16::from_be_bytes([tail[0], tail[1]]),
        TYPE_AXFR | TYPE_IXFR
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(id: u16, flags: u8, name: &[u8], qtype: u8) -> Vec<u8> {
        let mut message = id.to_be_bytes().to_vec();
        message.extend([flags, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
        message.push(name.len() as u8);
        message.extend(name);
        message.extend([0, 0, qtype, 0, 1]);
        message
    }

    fn query(id: u16, name: &[u8]) -> Vec<u8> {
        message(id, 1, name, 1)
    }

    fn reply_to(sent: &[u8]) -> Vec<u8> {
        let mut reply = sent.to_vec();
        reply[2] |= 0x80;
        reply
    }

    fn no_random() -> u16 {
        panic!("the ID is free")
    }

    #[test]
    fn a_message_and_its_reply_are_relayed_unchanged() {
        let mut relay = Relay::default();
        let mut sent = query(7, b"Www");
        let before = sent.clone();
        relay.send(&mut sent, no_random);
        assert_eq!(sent, before);
        let mut reply = reply_to(&sent);
        let before = reply.clone();
        assert_eq!(relay.awaited(), 1);
        assert!(relay.receive(&mut reply));
        assert_eq!(reply, before);
        assert_eq!((relay.awaited(), relay.len()), (0, 0));
        assert!(!relay.receive(&mut reply), "a second reply to one query");
    }

    #[test]
    fn equal_ids_are_replaced_and_restored() {
        let mut relay = Relay::default();
        let mut proposals = [7, 8, 7, 8, 9].into_iter();
        let sent: Vec<Vec<u8>> = [b"a", b"b", b"c"]
            .iter()
            .map(|name| {
                let mut message = query(7, *name);
                relay.send(&mut message, || proposals.next().unwrap());
                message
            })
            .collect();
        let ids: Vec<u8> = sent.iter().map(|message| message[1]).collect();
        assert_eq!(ids, [7, 8, 9]);
        for message in sent.iter().rev() {
            let mut reply = reply_to(message);
            assert!(relay.receive(&mut reply));
            assert_eq!(reply[..2], [0, 7]);
            assert_eq!(reply[2..], reply_to(message)[2..]);
        }
    }

    #[test]
    fn a_message_with_another_question_or_id_or_a_query_is_not_a_reply() {
        let mut relay = Relay::default();
        relay.send(&mut query(7, b"a"), no_random);
        assert!(!relay.receive(&mut reply_to(&query(7, b"b"))));
        assert!(!relay.receive(&mut reply_to(&message(7, 1, b"a", 28))));
        assert!(!relay.receive(&mut reply_to(&query(8, b"a"))));
        assert!(!relay.receive(&mut query(7, b"a")));
        assert!(!relay.receive(&mut [0, 7, 0x80]));
        assert_eq!(relay.awaited(), 1);
        // Some servers lower-case what they echo.
        assert!(relay.receive(&mut reply_to(&query(7, b"A"))));
    }

    #[test]
    fn an_error_without_question_answers() {
        let mut relay = Relay::default();
        relay.send(&mut query(7, b"a"), no_random);
        assert!(relay.receive(&mut [0, 7, 0x80, 1, 0, 0, 0, 0, 0, 0, 0, 0]));
    }

    #[test]
    fn odd_messages_are_matched_by_their_id() {
        let mut relay = Relay::default();
        // Two questions, and a name that ends nowhere.
        let mut two = query(7, b"a");
        two[5] = 2;
        let cut = query(8, b"abc")[..14].to_vec();
        relay.send(&mut two.clone(), no_random);
        relay.send(&mut cut.clone(), no_random);
        assert!(relay.receive(&mut reply_to(&two)));
        assert!(relay.receive(&mut reply_to(&cut)));
    }

    #[test]
    fn a_transfer_is_many_messages_and_is_not_waited_for() {
        let mut relay = Relay::default();
        let transfer = message(7, 0, b"zone", 252);
        relay.send(&mut transfer.clone(), no_random);
        assert_eq!((relay.awaited(), relay.len()), (0, 1));
        for _ in 0..3 {
            assert!(relay.receive(&mut reply_to(&transfer)));
        }
        relay.clear();
        assert!(!relay.receive(&mut reply_to(&transfer)));
    }
}
