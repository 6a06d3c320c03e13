//! The working memory of a program for one frame: what its stages leave for each other, and nothing that they do with it.
//!
//! It is too large for the stack of a program, and there is one for each processor. Stages share it instead of arguments: the
//! verifier then checks each of them once, whatever the one before has found.

mod access;

use crate::{
    key::{Captures, Key},
    wire::{FULL_COOKIE_LEN, MAX_NAME, QUESTION_TAIL},
};

/// Where the name starts in the scratch: room in front, so that words read from the end never run below zero.
pub const NAME_AT: u32 = 64;
/// Most bytes copied there: the longest name, qtype and qclass.
pub const NAME_COPY: u32 = MAX_NAME + QUESTION_TAIL;

/// Words of a COOKIE option with the longest cookie.
pub(crate) const COOKIE_WORDS: usize = (4 + *FULL_COOKIE_LEN.end() as usize).div_ceil(8);

const SCRATCH_MASK: u32 = 511;
/// A word may start at the last masked index.
const SCRATCH_LEN: usize = SCRATCH_MASK as usize + 1 + 8;

/// Bytes of the scratch that hold a reply's section, and a mask for positions in it.
pub const REPLY_LEN: usize = 1024;
const REPLY_MASK: u32 = REPLY_LEN as u32 - 1;
/// Bytes of a reply that are written at a time.
pub(crate) const STRIDE: usize = 32;

/// Room for the headers of a frame: Ethernet, two tags, IPv6, UDP and DNS are 82 bytes.
pub const HEADERS: usize = 128;

/// Per-processor working memory, too large for the stack of a program.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Scratch {
    pub bytes: [u8; SCRATCH_LEN],
    /// Number of labels, the root not counted.
    pub label_count: u32,
    /// Bytes of the name on the wire, the root label included.
    pub name_len: u32,
    /// See [`Scratch::enter`].
    in_use: u32,
    /// See [`Scratch::forget`].
    forgotten: u32,
    /// See [`Scratch::set_rounds`].
    rounds: u32,
    /// See [`Scratch::edns`].
    pub(crate) edns: [u32; 4],
    pub(crate) frame: Frame,
    /// See [`Scratch::echoed`].
    pub(crate) echoed: [u32; 2],
    /// Where each label begins, its length byte included, counted from the start of the name; then the root label.
    labels: [u8; 128],
    /// What is asked of the table of answers, and what it said.
    pub asked: Asked,
    pub lookup: Lookup,
    pub(crate) key: Key,
    /// The headers of a frame that becomes a reply.
    pub headers: [u8; HEADERS],
    /// A COOKIE option that the reply repeats, and what follows it.
    cookie: [u64; COOKIE_WORDS],
    /// A reply's sections, from the answer section on. A stride may start at the last masked index.
    pub reply: [u8; REPLY_LEN + STRIDE],
}

impl Scratch {
    pub const fn new() -> Self {
        Self {
            bytes: [0; SCRATCH_LEN],
            label_count: 0,
            name_len: 0,
            in_use: 0,
            forgotten: 0,
            rounds: 0,
            edns: [0; 4],
            frame: Frame::NONE,
            echoed: [0; 2],
            labels: [0; 128],
            asked: Asked {
                now_ns: 0,
                rule: 0,
                captures: Captures::NEVER,
                qtype: 0,
                server: 0,
                client: 0,
                room: 0,
                copied: 0,
                takes_expired: 0,
                ifindex: 0,
                source: [0; 2],
                identified: 0,
                client_slot: 0,
                client_sequence: 0,
                suffix_at: 0,
                padding: 0,
            },
            lookup: Lookup {
                sequence: 0,
                slot: 0,
                len: 0,
                answers: 0,
                authorities: 0,
                sum: 0,
                found: 0,
                rule: 0,
            },
            key: Key::EMPTY,
            headers: [0; HEADERS],
            cookie: [0; COOKIE_WORDS],
            reply: [0; REPLY_LEN + STRIDE],
        }
    }

    /// Takes the scratch for one frame, unless a program has it that this one interrupts: programs of one processor may nest
    /// where softirqs can be preempted (PREEMPT_RT). The one that interrupts ends first, so no atomic operation is needed.
    #[inline(always)]
    #[must_use]
    pub fn enter(&mut self) -> bool {
        let in_use = &raw mut self.in_use;
        // SAFETY: a field of ours.
        unsafe {
            let is_free = in_use.read_volatile() == 0;
            if is_free {
                in_use.write_volatile(1);
            }
            is_free
        }
    }

    /// Whether a program has it.
    pub fn is_in_use(&self) -> bool {
        self.in_use != 0
    }

    /// Gives it back.
    #[inline(always)]
    pub fn leave(&mut self) {
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.in_use).write_volatile(0) };
    }
}

impl Default for Scratch {
    fn default() -> Self {
        Self::new()
    }
}

/// What is known of a frame once its headers are.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    pub l3_offset: u32,
    /// First byte of the question.
    pub question_at: u32,
    /// First byte after the DNS message.
    pub end: u32,
    pub is_v6: u32,
    /// Of the DNS header.
    pub flags: u32,
    /// ARCOUNT.
    pub additional: u32,
}

impl Frame {
    pub(crate) const NONE: Frame = Frame {
        l3_offset: 0,
        question_at: 0,
        end: 0,
        is_v6: 0,
        flags: 0,
        additional: 0,
    };
}

/// The parameters of a look-up.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Asked {
    pub now_ns: u64,
    /// Id of the rule.
    pub rule: u64,
    pub captures: Captures,
    pub qtype: u32,
    /// Id of the server; see [`crate::abi::Servers`].
    pub server: u32,
    /// Id of the client; 0 as long as answers do not depend on it.
    pub client: u32,
    /// Most bytes of an answer section.
    pub room: u32,
    /// Bytes of the message from the question on that are in the scratch.
    pub copied: u32,
    /// Not 0 where an answer past its time will do.
    pub takes_expired: u32,
    /// Interface and source address of the query, as IPv6: for [`crate::client::identify`], which leaves the rest.
    pub ifindex: u32,
    pub source: [u64; 2],
    /// Id of the client that asks; 0 for none.
    pub identified: u32,
    /// Where the entry of that client is, and the sequence number that it was read under.
    pub client_slot: u32,
    pub client_sequence: u64,
    /// Where the suffix begins that is to be looked for.
    pub suffix_at: u32,
    #[doc(hidden)]
    pub padding: u32,
}

/// What was found, beside the bytes in the scratch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Lookup {
    /// Sequence number of the entry.
    pub sequence: u64,
    pub slot: u32,
    /// Bytes of the section.
    pub len: u32,
    /// ANCOUNT.
    pub answers: u32,
    /// NSCOUNT.
    pub authorities: u32,
    /// Ones' complement sum of the section as if it began at an even offset, not folded.
    pub sum: u32,
    /// A `Found`.
    pub found: u32,
    /// Id of the rule.
    pub rule: u64,
}
