//! A question to an upstream, and how a received message relates to it; no I/O.

use dns_common::wire::{
    CLASS_IN, DNS_HEADER_LEN, FLAG_OPCODE, FLAG_QR, FLAG_RD, FLAG_TC, TYPE_OPT,
};
use hickory_proto::{
    op::Message,
    rr::{Name, RecordType},
};

use super::infra::Style;
use crate::{
    model::{Transport, wire_name},
    resolve::compose::UDP_SIZE,
};

pub const HEADER: usize = DNS_HEADER_LEN as usize;
/// Replies with more records are not looked at: no message of 64 KiB holds as many addresses.
const MAX_RECORDS: usize = 4096;

const RCODE: u16 = 0x000f;
const FORMERR: u16 = 1;
const SERVFAIL: u16 = 2;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
/// The OPT has the upper bits of it.
const BADVERS: u16 = 16;

/// A query, and what its reply must repeat.
#[derive(Debug)]
pub struct Question {
    message: Vec<u8>,
    /// End of the question section; what follows is the OPT, if there is one.
    end: usize,
}

/// What a message is to a question.
#[derive(Debug)]
pub enum Check {
    Reply(Box<Message>),
    /// The reply, cut (TC=1).
    Truncated,
    /// The server does not take the OPT: FORMERR, NOTIMP or BADVERS (RFC 6891 §6.2.2, §7), with or without the question.
    NoEdns,
    /// The reply in all but the case of the question's letters.
    OtherCase,
    /// An error without the question that it belongs to. Only the ID vouches for it.
    BareError,
    Ignored,
}

impl Question {
    /// RD set; letters in the case that `random` decides (0x20) and an OPT with [`UDP_SIZE`] if `style` says so.
    pub fn new(
        qname: &Name,
        qtype: RecordType,
        id: u16,
        style: Style,
        mut random: impl FnMut() -> bool,
    ) -> Question {
        let lower = qname.to_lowercase();
        let mut question = Question::with(&lower, qtype, id, || style.mixed_case && random());
        if !style.edns {
            question.message.truncate(question.end);
            question.message[11] = 0;
        }
        question
    }

    /// With an OPT, and the letters changed that `flip` says.
    pub fn with(
        qname: &Name,
        qtype: RecordType,
        id: u16,
        mut flip: impl FnMut() -> bool,
    ) -> Question {
        let mut message = Vec::with_capacity(HEADER + 255 + 4 + 11);
        message.extend_from_slice(&id.to_be_bytes());
        message.extend_from_slice(&FLAG_RD.to_be_bytes());
        message.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, 1]);
        message.extend(wire_name(qname).into_iter().map(|byte| {
            // Length bytes are below 64 and no letters.
            if byte.is_ascii_alphabetic() && flip() {
                byte ^ 0x20
            } else {
                byte
            }
        }));
        message.extend_from_slice(&u16::from(qtype).to_be_bytes());
        message.extend_from_slice(&CLASS_IN.to_be_bytes());
        let end = message.len();
        message.push(0);
        message.extend_from_slice(&TYPE_OPT.to_be_bytes());
        message.extend_from_slice(&UDP_SIZE.to_be_bytes());
        message.extend_from_slice(&[0; 6]);
        Question { message, end }
    }

    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// The same query without its OPT.
    pub fn without_edns(&self) -> Vec<u8> {
        let mut message = self.message[..self.end].to_vec();
        message[10..12].fill(0);
        message
    }

    pub fn has_edns(&self) -> bool {
        self.message.len() > self.end
    }

    /// Whether a server that compares names byte by byte may miss it.
    pub fn is_mixed_case(&self) -> bool {
        self.section().iter().any(u8::is_ascii_uppercase)
    }

    /// The question section.
    pub fn section(&self) -> &[u8] {
        &self.message[HEADER..self.end]
    }

    /// Whether `reply` is the reply to this question, and well-formed.
    pub fn check(&self, reply: &[u8], transport: Transport) -> Check {
        let Some(header) = reply.first_chunk::<HEADER>() else {
            return Check::Ignored;
        };
        let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        if header[..2] != self.message[..2] || word(2) & (FLAG_QR | FLAG_OPCODE) != FLAG_QR {
            return Check::Ignored;
        }
        let rcode = word(2) & RCODE;
        let refuses_edns = self.has_edns() && matches!(rcode, FORMERR | NOTIMP);
        // Some servers send back the header alone, whatever its counts say.
        if reply.len() == HEADER || word(4) == 0 {
            return match rcode {
                FORMERR | NOTIMP | SERVFAIL | REFUSED if self.has_edns() => Check::NoEdns,
                FORMERR | NOTIMP | SERVFAIL | REFUSED => Check::BareError,
                _ => Check::Ignored,
            };
        }
        let records = [6, 8, 10]
            .map(|at| usize::from(word(at)))
            .iter()
            .sum::<usize>();
        let asked = self.section();
        let Some(question) = reply.get(HEADER..self.end) else {
            return Check::Ignored;
        };
        if word(4) != 1 || !question.eq_ignore_ascii_case(asked) || records > MAX_RECORDS {
            return Check::Ignored;
        }
        if refuses_edns {
            return Check::NoEdns;
        }
        // A connection is hard to forge, so that case need not vouch for it.
        if transport == Transport::Udp && question != asked {
            return Check::OtherCase;
        }
        if word(2) & FLAG_TC != 0 {
            return Check::Truncated;
        }
        match Message::from_vec(reply) {
            Ok(message) if u16::from(message.metadata.response_code) == BADVERS => {
                if self.has_edns() {
                    Check::NoEdns
                } else {
                    Check::Ignored
                }
            }
            Ok(message) => Check::Reply(Box::new(message)),
            Err(_) => Check::Ignored,
        }
    }
}
