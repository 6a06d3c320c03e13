//! The stages that look a name up, each in terms of the scratch alone, so that a host may make each a function of its own.

use crate::{
    answer::{self, Located},
    dfa,
    name::NameError,
    packet::Packet,
    reply::{self, Place, Replied},
    scratch::{NAME_AT, Scratch},
    verdict::Reason,
    wire::*,
};

/// What the name in the scratch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recognised {
    /// One that this rule matches.
    Rule(u32),
    /// One that no rule matches.
    None,
    /// None that a question may have.
    BadName,
    /// One that does not end where the message does.
    Truncated,
}

impl Recognised {
    /// As one register.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Recognised::None => 0,
            Recognised::Rule(rule) => rule + 1,
            Recognised::BadName => u32::MAX - 1,
            Recognised::Truncated => u32::MAX,
        }
    }

    /// The inverse.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Recognised {
        match code {
            0 => Recognised::None,
            u32::MAX => Recognised::Truncated,
            code if code == u32::MAX - 1 => Recognised::BadName,
            code => Recognised::Rule(code - 1),
        }
    }
}

/// Splits the name in the scratch into its labels and looks for its rule.
#[inline(always)]
pub fn recognise<T: dfa::Tails + ?Sized>(
    header: &dfa::Header,
    table: &dfa::Table,
    tails: &T,
    scratch: &mut Scratch,
) -> Recognised {
    let copied = scratch.asked.copied;
    match scratch.split_labels(copied) {
        Ok(()) => {}
        Err(NameError::Invalid) => return Recognised::BadName,
        Err(NameError::Truncated) => return Recognised::Truncated,
    }
    if (scratch.name_len & 0xff) + QUESTION_TAIL > copied {
        return Recognised::Truncated;
    }
    match dfa::find(header, table, tails, scratch) {
        Some(rule) => Recognised::Rule(rule),
        None => Recognised::None,
    }
}

/// Most rules that observe one name.
pub const MAX_OBSERVING: u32 = 8;

/// Counts a name, whose entry in the rule set is `index`, for the rules that observe it. The place of the rule that answers it,
/// if there is one.
#[inline(always)]
pub fn observe<T: answer::Tables + ?Sized>(
    tables: &T,
    mut index: u32,
    count: impl Fn(u32),
) -> Option<u32> {
    let mut round = 0;
    while round < MAX_OBSERVING {
        let rule = tables.rule(index)?;
        if rule.observed == 0 {
            return Some(index);
        }
        count(u32::from(rule.observed) - 1);
        index = u32::from(rule.next).checked_sub(1)?;
        round += 1;
    }
    Some(index)
}

/// Tries the fast path to an answer, for a message that seems to end behind its question or a plain OPT.
#[inline(always)]
pub fn locate_by_suffix<T: answer::Tables + ?Sized>(tables: &T, scratch: &mut Scratch) -> bool {
    let (edns, frame) = (scratch.edns(), scratch.frame());
    let name_len = frame
        .end
        .wrapping_sub(edns.reply_len() + QUESTION_TAIL)
        .wrapping_sub(frame.question_at);
    if !edns.is_simple || name_len > MAX_NAME || name_len + QUESTION_TAIL > scratch.asked.copied {
        return false;
    }
    scratch.name_len = name_len;
    // In this order: most names have no such suffix.
    match answer::suffix_of(tables, scratch) {
        0 => false,
        at => scratch.ask().is_ok() && answer::locate_by_suffix(tables, scratch, at),
    }
}

/// Looks for the answer to a recognised question, if it is of a kind that is kept.
#[inline(always)]
pub fn locate<T: answer::Tables + ?Sized>(tables: &T, scratch: &mut Scratch) -> Located {
    if !scratch.edns().is_simple || !qtype_is_kept(scratch.asked.qtype as u16) {
        return Located::Nowhere;
    }
    scratch.make_room();
    answer::locate(tables, scratch)
}

impl Scratch {
    /// Notes what the question asks for and what room its answer has; its name's length is known.
    #[inline(always)]
    pub(super) fn ask(&mut self) -> Result<(), Reason> {
        let name_len = self.name_len & 0xff;
        let qtype = self.be16(NAME_AT + name_len);
        let qclass = self.be16(NAME_AT + name_len + 2);
        if qclass != CLASS_IN || qtype_passes(qtype) {
            return Err(Reason::Qtype);
        }
        self.asked.qtype = u32::from(qtype);
        self.make_room();
        Ok(())
    }

    #[inline(always)]
    fn make_room(&mut self) {
        let (edns, name_len) = (self.edns(), self.name_len & 0xff);
        let [echoed, _] = self.echoed();
        self.asked.room = edns
            .limit()
            .saturating_sub(DNS_HEADER_LEN + name_len + QUESTION_TAIL + edns.reply_len() + echoed);
    }
}

/// Makes the frame the answer that is in the scratch.
#[inline(always)]
pub fn reply<P: Packet>(packet: &mut P, scratch: &mut Scratch) -> Replied {
    let frame = scratch.frame();
    let question_at = frame.question_at & 127;
    let place = Place {
        l3_offset: frame.l3_offset,
        udp_at: question_at - DNS_HEADER_LEN - UDP_LEN,
        question_end: question_at + (scratch.name_len & 0xff) + QUESTION_TAIL,
        end: frame.end & 0x1_ffff,
        is_v6: frame.is_v6 != 0,
    };
    reply::answer(packet, scratch, &place, frame.flags as u16)
}
