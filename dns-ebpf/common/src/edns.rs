//! The OPT record of a query: what it says, whether a reply can be made without its options, and which of them the reply
//! repeats.

use crate::{
    checksum::fold,
    packet::{MAX_OPTIONS, Packet, be16, frame_offset},
    scratch::Scratch,
    verdict::Reason,
    verifier,
    wire::*,
};

/// What the OPT record of a query says (RFC 6891 §6.1.2).
#[derive(Clone, Copy)]
pub struct Edns {
    pub is_present: bool,
    /// Whether a reply can be made without reading its options again.
    pub is_simple: bool,
    pub udp_size: u16,
    /// DO in its place, nothing else.
    pub dnssec_ok: u16,
    /// Ones' complement sum of the record as if it began at an even offset, folded once.
    pub sum: u32,
}

impl Edns {
    pub const NONE: Edns = Edns {
        is_present: false,
        is_simple: true,
        udp_size: 0,
        dnssec_ok: 0,
        sum: 0,
    };

    /// Of the fields of an OPT record; its options are added to the sum by their reader.
    #[inline(always)]
    pub fn new(udp_size: u16, extended_rcode: u8, flags: u16, rdata_len: u16) -> Edns {
        Edns {
            is_present: true,
            is_simple: true,
            udp_size,
            dnssec_ok: flags & FLAG_DO,
            // All but the first two of its fields begin at an odd offset.
            sum: ((TYPE_OPT as u32) << 8)
                + u32::from(extended_rcode)
                + u32::from(udp_size.swap_bytes())
                + u32::from(flags.swap_bytes())
                + u32::from(rdata_len.swap_bytes()),
        }
    }

    /// Most bytes of a DNS message in reply (SEMANTICS: min(max(512, advertised), 1232); RFC 1035 §4.2.1 without OPT).
    #[inline(always)]
    pub fn limit(&self) -> u32 {
        let size = u32::from(self.udp_size);
        if !self.is_present || size < PLAIN_SIZE {
            PLAIN_SIZE
        } else if size > UDP_SIZE {
            UDP_SIZE
        } else {
            size
        }
    }

    /// Bytes of the OPT record in reply, without options.
    #[inline(always)]
    pub fn reply_len(&self) -> u32 {
        if self.is_present { OPT_LEN } else { 0 }
    }
}

impl Scratch {
    /// Keeps what the OPT record says where the verifier does not look: decisions about it would else be known from then
    /// on, and each combination of them walked by itself.
    #[inline(always)]
    pub(crate) fn set_edns(&mut self, edns: &Edns) {
        let words = [
            u32::from(edns.is_present) | u32::from(edns.is_simple) << 1,
            u32::from(edns.udp_size),
            u32::from(edns.dnssec_ok),
            edns.sum,
        ];
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.edns).write_volatile(words) };
    }

    /// What was kept last.
    #[inline(always)]
    pub(crate) fn edns(&self) -> Edns {
        // SAFETY: a field of ours.
        let words = unsafe { (&raw const self.edns).read_volatile() };
        Edns {
            is_present: words[0] & 1 != 0,
            is_simple: words[0] & 2 != 0,
            udp_size: words[1] as u16,
            dnssec_ok: words[2] as u16,
            sum: words[3],
        }
    }

    /// Says that the reply repeats the option that was kept, of so many bytes and with this sum as a part of that of the
    /// OPT record; 0 for none.
    #[inline(always)]
    pub(crate) fn set_echoed(&mut self, len: u32, sum: u32) {
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.echoed).write_volatile([len, sum]) };
    }

    /// What was said last.
    #[inline(always)]
    pub(crate) fn echoed(&self) -> [u32; 2] {
        // SAFETY: a field of ours.
        unsafe { (&raw const self.echoed).read_volatile() }
    }
}

/// The OPT that ends a message, if it looks like one of version 0 without options. Bytes that only look so cannot turn a
/// query into one that is answered: the name in front has to end where this begins.
#[inline(always)]
pub(crate) fn plain_opt<P: Packet>(packet: &P, end: u32) -> Edns {
    // Not an `Option`: the payload of a `None` must not be read, and LLVM would read it.
    let other = Edns {
        is_simple: false,
        ..Edns::NONE
    };
    let at = frame_offset(end - OPT_LEN);
    // Root, type, size, extended rcode, version, half of the flags; then the flags and the length of no options.
    let (Some(head), Some(tail)) = (packet.load::<u64>(at), packet.load::<u32>(at + 7)) else {
        return other;
    };
    let (head, tail) = (u64::from_be(head), u32::from_be(tail));
    if head >> 40 != u64::from(TYPE_OPT) || head >> 8 & 0xff != 0 || tail & 0xffff != 0 {
        return other;
    }
    Edns::new(
        (head >> 24) as u16,
        (head >> 16) as u8,
        (tail >> 16) as u16,
        0,
    )
}

/// Nothing but at most one OPT of version 0 between the question and the end of the message (RFC 6891 §6.1.1).
#[inline(always)]
pub(crate) fn parse_additional<P: Packet>(
    packet: &P,
    count: u32,
    at: u32,
    end: u32,
    scratch: &mut Scratch,
) -> Result<Edns, Reason> {
    if count == 0 {
        return if at == end {
            Ok(Edns::NONE)
        } else {
            Err(Reason::Additional)
        };
    }
    if at + OPT_LEN > end {
        return Err(Reason::Truncated);
    }
    let at = frame_offset(at);
    let owner = be16(packet, at).ok_or(Reason::Truncated)? >> 8;
    let rtype = be16(packet, at + 1).ok_or(Reason::Truncated)?;
    if owner != 0 || rtype != TYPE_OPT {
        return Err(Reason::Additional);
    }
    let udp_size = be16(packet, at + 3).ok_or(Reason::Truncated)?;
    // Extended rcode and version: the first half of the TTL field.
    let extended = be16(packet, at + 5).ok_or(Reason::Truncated)?;
    if extended & 0xff != 0 {
        return Err(Reason::EdnsVersion);
    }
    let flags = be16(packet, at + 7).ok_or(Reason::Truncated)?;
    let rdata_len = u32::from(be16(packet, at + 9).ok_or(Reason::Truncated)?);
    match at + OPT_LEN + rdata_len {
        opt_end if opt_end == end => {}
        opt_end if opt_end > end => return Err(Reason::Truncated),
        _ => return Err(Reason::Additional),
    }
    let mut edns = Edns::new(udp_size, (extended >> 8) as u8, flags, rdata_len as u16);
    if rdata_len != 0 {
        let options = rdata_len;
        if options > MAX_OPTIONS || !packet.copy_options(at + OPT_LEN, options, scratch) {
            edns.is_simple = false;
        } else if scratch.options_are_a_full_cookie(options) {
            scratch.take_cookie();
            let sum = u32::from(scratch.options_sum(options).swap_bytes());
            edns.sum += sum;
            scratch.set_echoed(options, sum);
        } else if scratch.options_may_be_ignored(options) {
            edns.sum += u32::from(scratch.options_sum(options).swap_bytes());
        } else {
            edns.is_simple = false;
        }
    }
    Ok(edns)
}

/// Options that are walked; a longer list goes to userspace.
const OPTIONS: u32 = 16;

impl Scratch {
    /// Whether the options in the reply's place are one cookie with a server part and nothing else.
    #[inline(always)]
    fn options_are_a_full_cookie(&self, len: u32) -> bool {
        let length = u32::from(self.reply16(2));
        self.reply16(0) == OPTION_COOKIE && len == 4 + length && FULL_COOKIE_LEN.contains(&length)
    }

    /// Whether the options in the reply's place are a list that ends where it should, and none of them is to be echoed.
    #[inline(always)]
    fn options_may_be_ignored(&mut self, len: u32) -> bool {
        let mut position = 0u32;
        let mut option = 0;
        let mut echoed = 0u64;
        while option < OPTIONS {
            if position + 4 > len {
                break;
            }
            let length = u32::from(self.reply16(position + 2));
            // A cookie with a server part among other options: userspace echoes it (RFC 7873 §5.3). Without branches: the
            // verifier would go on from each.
            let other = u64::from(self.reply16(position) ^ OPTION_COOKIE);
            let spare = u64::from(CLIENT_COOKIE_LEN).wrapping_sub(length.into());
            echoed |= verifier::spread_sign(other.wrapping_sub(1)) & verifier::spread_sign(spare);
            position += 4 + length;
            option += 1;
        }
        position == len && echoed == 0
    }

    /// Ones' complement sum of the options as if they began at an even offset.
    #[inline(always)]
    fn options_sum(&mut self, len: u32) -> u16 {
        // What is left of the last word counts as zero.
        self.set_reply_word(len, 0);
        let mut sum = 0u64;
        let mut at = 0u32;
        self.set_rounds(len);
        while at < MAX_OPTIONS && at < self.rounds() {
            let word = self.reply_word(at);
            sum += (word >> 32) + (word & 0xffff_ffff);
            at += 8;
        }
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        let sum = (sum >> 32) + (sum & 0xffff_ffff);
        fold(sum as u32).to_be()
    }
}
