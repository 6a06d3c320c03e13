//! The stages that look a name up, each in terms of the scratch alone, so that a host may make each a function of its own.

use crate::{
    answer::{self, Located, RuleEntry, asks},
    client::{Permit, is_own_namespace},
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

/// Most rules that are looked at for one name.
pub const MAX_CHOICES: u32 = 12;

/// Which of the rules that match a name is the one for its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// The one with this place.
    Rule(u32),
    /// None; some have observed it.
    Observed,
    /// None.
    None,
}

impl Chosen {
    /// As one register.
    #[inline(always)]
    pub const fn code(self) -> u32 {
        match self {
            Chosen::None => 0,
            Chosen::Rule(rule) => rule + 1,
            Chosen::Observed => u32::MAX,
        }
    }

    /// The inverse.
    #[inline(always)]
    pub const fn from_code(code: u32) -> Chosen {
        match code {
            0 => Chosen::None,
            u32::MAX => Chosen::Observed,
            code => Chosen::Rule(code - 1),
        }
    }
}

/// What [`choose_next`] found: in the lower half the place of an entry.
const IS_CHOSEN: u32 = 1 << 31;
const HAS_OBSERVED: u32 = 1 << 30;
const PLACE: u32 = 0xffff;

/// Whether the first turn of [`go_through`], which is [`choose_next`], was the last.
#[inline(always)]
pub fn is_first(found: u32) -> bool {
    found & IS_CHOSEN != 0
}

/// Goes through the rules that match a name, behind the one of which [`choose_next`] has `found` this, up to the first that
/// answers the client in the scratch, 0 for nobody. `next` is [`choose_next`].
#[inline(always)]
pub fn go_through(mut found: u32, mut next: impl FnMut(u32) -> u32) -> Chosen {
    let mut observed = found;
    let mut round = 1;
    loop {
        let index = found & PLACE;
        if found & IS_CHOSEN != 0 {
            return Chosen::Rule(index);
        }
        if round >= MAX_CHOICES || index == 0 {
            break;
        }
        found = next(index - 1);
        observed |= found;
        round += 1;
    }
    if observed & HAS_OBSERVED != 0 {
        Chosen::Observed
    } else {
        Chosen::None
    }
}

/// One turn of [`go_through`]: looks at the rule of one entry, and counts the name where it observes.
#[inline(always)]
pub fn choose_next<T: answer::Tables + ?Sized>(
    tables: &T,
    index: u32,
    scratch: &mut Scratch,
    count: impl Fn(u32),
) -> u32 {
    let Some(rule) = tables.rule(index) else {
        return 0;
    };
    let mut next = u32::from(rule.next);
    if is_for(tables, &rule, scratch) {
        if rule.observed == 0 {
            return IS_CHOSEN | index & PLACE;
        }
        count(u32::from(rule.observed) - 1);
        next |= HAS_OBSERVED;
    }
    next
}

#[inline(always)]
fn is_for<T: answer::Tables + ?Sized>(tables: &T, rule: &RuleEntry, scratch: &mut Scratch) -> bool {
    let client = scratch.asked.identified;
    if rule.asks == asks::NOBODY {
        return true;
    }
    client != 0
        && (rule.own == 0 || is_own_namespace(tables, scratch, rule.captures, rule.own))
        && (rule.asks != asks::PERMITTED || tables.permits(&Permit::new(rule.id, client)))
}

/// Where the fast path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum BySuffix {
    Nowhere = 0,
    /// To an entry, named in the scratch.
    Entry = 1,
    /// To one that depends on the client: [`locate_by_own_suffix`] comes next.
    AsksWho = 2,
}

impl BySuffix {
    #[inline(always)]
    pub const fn from_code(code: u32) -> BySuffix {
        match code {
            1 => BySuffix::Entry,
            2 => BySuffix::AsksWho,
            _ => BySuffix::Nowhere,
        }
    }
}

/// Tries the fast path to an answer, for a message that seems to end behind its question or a plain OPT.
#[inline(always)]
pub fn locate_by_suffix<T: answer::Tables + ?Sized>(tables: &T, scratch: &mut Scratch) -> BySuffix {
    let (edns, frame) = (scratch.edns(), scratch.frame());
    let name_len = frame
        .end
        .wrapping_sub(edns.reply_len() + QUESTION_TAIL)
        .wrapping_sub(frame.question_at);
    if !edns.is_simple || name_len > MAX_NAME || name_len + QUESTION_TAIL > scratch.asked.copied {
        return BySuffix::Nowhere;
    }
    scratch.name_len = name_len;
    // In this order: most names have no such suffix.
    let (at, asks) = answer::suffix_of(tables, scratch);
    if at == 0 || scratch.ask().is_err() {
        BySuffix::Nowhere
    } else if asks {
        scratch.asked.suffix_at = at;
        BySuffix::AsksWho
    } else if answer::locate_by_suffix(tables, scratch, at) {
        BySuffix::Entry
    } else {
        BySuffix::Nowhere
    }
}

/// The second half of the fast path for an answer that depends on the client, which is known by now.
#[inline(always)]
pub fn locate_by_own_suffix<T: answer::Tables + ?Sized>(tables: &T, scratch: &mut Scratch) -> bool {
    scratch.asked.client = scratch.asked.identified;
    let at = scratch.asked.suffix_at;
    answer::locate_by_suffix(tables, scratch, at)
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
