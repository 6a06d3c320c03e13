//! From a frame to a verdict: the one path that every program and every test takes.

mod closed;
mod datagram;
mod host;
#[cfg(not(target_arch = "bpf"))]
mod memory;
mod stages;

use crate::{
    abi::{MAX_FRAME, mapped},
    answer::{Captures, Found, Located, SECTION_LEN, asks},
    client::Who,
    edns::{Edns, parse_additional, plain_opt},
    packet::{Packet, frame_offset},
    reply::Replied,
    scratch::{Frame, NAME_COPY, Scratch},
    verdict::{Reason, Verdict},
    wire::*,
};

pub use closed::{is_kept, is_unread};
pub use host::{Address, Host, Matched};
#[cfg(not(target_arch = "bpf"))]
pub use memory::MemoryHost;
pub use stages::{
    BySuffix, Chosen, MAX_CHOICES, Recognised, choose_next, go_through, is_first, locate,
    locate_by_own_suffix, locate_by_suffix, recognise, reply,
};

use self::datagram::{Datagram, may_be_replied_to, parse_datagram, parse_dns_header, source};

/// Decides about one frame, and makes it its answer where that is known. The scratch is asked for only once a frame is a
/// query to one of the servers.
#[inline(always)]
pub fn intercept<'s, P: Packet, H: Host<P>>(
    packet: &mut P,
    host: &H,
    scratch: impl FnOnce() -> Option<&'s mut Scratch>,
) -> Verdict {
    match decide(packet, host, scratch) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Pass(reason),
    }
}

/// The verdict on a frame that is to pass for this reason, perhaps before its name is known. Not asked for about names that are
/// recognised by their end as no rule's.
#[inline(always)]
fn pass_or_keep<P: Packet, H: Host<P>>(packet: &P, host: &H, reason: Reason) -> Verdict {
    if host.protection() != 0 && is_unread(reason) && host.keeps(packet, reason) {
        Verdict::Unanswered
    } else {
        Verdict::Pass(reason)
    }
}

/// The headers of a plain query to a server, with the flags and the number of additional records.
#[inline(always)]
fn headers<P: Packet, H: Host<P>>(packet: &P, host: &H) -> Result<(Datagram, u16, u16), Reason> {
    let datagram = parse_datagram(packet, host)?;
    // The second bound follows from the first, which the verifier does not know.
    let frame_len = packet.len();
    if packet.is_gso() || frame_len > MAX_FRAME as u32 || datagram.end > MAX_FRAME as u32 {
        return Err(Reason::Oversize);
    }
    let (flags, additional) = parse_dns_header(packet, &datagram)?;
    Ok((datagram, flags, additional))
}

#[inline(always)]
fn decide<'s, P: Packet, H: Host<P>>(
    packet: &mut P,
    host: &H,
    scratch: impl FnOnce() -> Option<&'s mut Scratch>,
) -> Result<Verdict, Reason> {
    let (datagram, flags, additional) = match headers(packet, host) {
        Ok(headers) => headers,
        Err(reason) => return Ok(pass_or_keep(packet, host, reason)),
    };
    // Without additional records, or with nothing but a plain OPT, the message ends in root label, qtype, qclass and that
    // OPT: most foreign names need no copy, then. Where there is no root label, the slow path says what is wrong.
    let plain = if additional == 0 {
        Edns::NONE
    } else {
        plain_opt(packet, datagram.end)
    };
    if plain.is_simple {
        let question_end = datagram.end - plain.reply_len();
        let end_of_name = packet
            .load::<u64>(frame_offset(question_end - QUESTION_TAIL - 8))
            .map(u64::from_le)
            .ok_or(Reason::Truncated)?;
        if end_of_name >> 56 == 0 && !host.may_match(end_of_name) {
            return Err(Reason::NoRule);
        }
    }
    if H::CHECKS_SOURCES && !host.allows(source(packet, &datagram).ok_or(Reason::Truncated)?) {
        return Err(Reason::Source);
    }
    let scratch = scratch().ok_or(Reason::Internal)?;
    if !scratch.enter() {
        return Ok(pass_or_keep(packet, host, Reason::Internal));
    }

    scratch.set_frame(&Frame {
        l3_offset: datagram.l3_offset,
        question_at: datagram.dns_offset + DNS_HEADER_LEN,
        end: datagram.end,
        is_v6: u32::from(datagram.is_v6),
        flags: u32::from(flags),
        additional: u32::from(additional),
    });
    scratch.set_edns(&plain);
    scratch.set_echoed(0, 0);
    scratch.asked.server = datagram.server;
    scratch.asked.client = 0;
    scratch.asked.takes_expired = 0;
    scratch.asked.captures = Captures::NEVER;
    let verdict = host.finish(packet, scratch);
    scratch.leave();
    Ok(match verdict {
        Verdict::Pass(reason) => pass_or_keep(packet, host, reason),
        _ => verdict,
    })
}

/// What comes of a verdict of [`finish`] on a name that the responder refuses: it never passes, be there a responder or not.
#[inline(always)]
pub fn refuse(verdict: Verdict, scratch: &Scratch) -> Verdict {
    if scratch.asked.captures.kept == Captures::REFUSED && matches!(verdict, Verdict::Pass(_)) {
        Verdict::Unanswered
    } else {
        verdict
    }
}

/// The second half of [`intercept`], which begins with nothing but what the first has left in the scratch: the verifier
/// walks it once, whatever headers there were.
#[inline(always)]
pub fn finish<P: Packet, H: Host<P>>(packet: &mut P, host: &H, scratch: &mut Scratch) -> Verdict {
    match answer_or_hand_over(packet, host, scratch) {
        Ok(verdict) => verdict,
        Err(reason) => Verdict::Pass(reason),
    }
}

#[inline(always)]
fn answer_or_hand_over<P: Packet, H: Host<P>>(
    packet: &mut P,
    host: &H,
    scratch: &mut Scratch,
) -> Result<Verdict, Reason> {
    let frame = scratch.frame();
    let l3_offset = frame.l3_offset;
    let question_at = frame.question_at & 127;
    let end = frame.end & 0x1_ffff;

    let available = end - question_at;
    let copied = if available > NAME_COPY {
        NAME_COPY
    } else {
        available
    };
    if copied < 1 + QUESTION_TAIL || !packet.copy_name(question_at, copied, scratch) {
        return Err(Reason::Truncated);
    }
    scratch.asked.copied = copied;

    let mut located = match host.locate_by_suffix(scratch) {
        BySuffix::Entry => true,
        BySuffix::AsksWho => {
            identify(packet, host, scratch) == Who::Known && host.locate_by_own_suffix(scratch)
        }
        BySuffix::Nowhere => false,
    };
    if !located {
        let rule = match host.recognise(scratch) {
            Recognised::Rule(rule) => rule,
            Recognised::None => return Err(Reason::NoRule),
            Recognised::BadName => return Err(Reason::BadName),
            Recognised::Truncated => return Err(Reason::Truncated),
        };
        let name_len = scratch.name_len & 0xff;
        let mut entry = host.rule(rule).ok_or(Reason::Internal)?;
        scratch.asked.client = 0;
        if entry.is_choice() {
            let chosen = choose(packet, host, scratch, rule, entry.identifies != 0)?;
            // Not kept meanwhile: the stack has no room.
            entry = host.rule(chosen).ok_or(Reason::Internal)?;
            if entry.asks != asks::NOBODY {
                scratch.asked.client = scratch.asked.identified;
            }
        }
        scratch.lookup.rule = entry.id;
        scratch.asked.rule = entry.id;
        scratch.asked.captures = entry.captures;
        scratch.ask()?;
        let edns = parse_additional(
            packet,
            frame.additional,
            question_at + name_len + QUESTION_TAIL,
            end,
            scratch,
        )?;
        scratch.set_edns(&edns);
        scratch.asked.now_ns = host.now_ns();
        match host.locate(scratch) {
            Located::NoTarget => return Err(Reason::NoTarget),
            Located::Entry => located = true,
            Located::Nowhere => {}
        }
    } else {
        scratch.asked.now_ns = host.now_ns();
    }

    if !may_be_replied_to(packet, l3_offset, frame.is_v6 != 0) {
        return Err(Reason::Source);
    }
    let now_ns = scratch.asked.now_ns;
    let mut matched = Matched {
        rule: scratch.lookup.rule,
        client: scratch.asked.client,
        l3_offset,
        frame_len: packet.len(),
        is_answered: false,
    };
    let mut found = Found::Nothing;
    if located {
        found = host.read_answer(scratch);
    }
    if found == Found::Stale {
        matched.is_answered = true;
    }
    if found == Found::Stale || found == Found::Nothing {
        let handed_over = host
            .admit(packet, now_ns)
            .and_then(|()| host.hand_over(packet, &matched));
        match handed_over {
            Ok(()) if found == Found::Nothing => return Ok(Verdict::Taken),
            Ok(()) => host.claim(scratch),
            // A newer answer is for another time.
            Err(_) if found == Found::Stale => {}
            // A pass would be a denial of a name that has a target: better what was known.
            Err(reason) => {
                let reason = scratch.forget(reason as u32);
                scratch.asked.takes_expired = 1;
                if located {
                    found = host.read_answer(scratch);
                }
                if found == Found::Nothing {
                    return unless_known(host, scratch, located, reason);
                }
            }
        }
    }
    match host.reply(packet, scratch) {
        Replied::Answered => {
            if found == Found::Expired {
                host.served_expired();
            }
            Ok(Verdict::Answered)
        }
        Replied::Spoiled => Ok(Verdict::Spoiled),
        Replied::Untouched => {
            matched.is_answered = false;
            let handed_over = host
                .admit(packet, now_ns)
                .and_then(|()| host.hand_over(packet, &matched));
            match handed_over {
                Ok(()) => Ok(Verdict::Taken),
                Err(Reason::NoResponder) => Err(Reason::NoResponder),
                Err(_) => Ok(Verdict::Unanswered),
            }
        }
    }
}

/// The place of the rule that answers a query, of several that match it or that are not for everybody.
#[inline(always)]
fn choose<P: Packet, H: Host<P>>(
    packet: &P,
    host: &H,
    scratch: &mut Scratch,
    rule: u32,
    identifies: bool,
) -> Result<u32, Reason> {
    let mut none = Reason::OtherClient;
    scratch.asked.identified = 0;
    if identifies {
        none = match identify(packet, host, scratch) {
            Who::Known => Reason::OtherClient,
            Who::Impostor => Reason::ForgedClient,
            Who::Unknown => Reason::UnknownClient,
        };
    }
    match host.choose(rule, scratch) {
        Chosen::Rule(rule) => Ok(rule),
        Chosen::Observed => Err(Reason::Observed),
        Chosen::None => Err(none),
    }
}

/// Looks for who asks.
#[inline(always)]
fn identify<P: Packet, H: Host<P>>(packet: &P, host: &H, scratch: &mut Scratch) -> Who {
    if !H::KNOWS_CLIENTS {
        return Who::Unknown;
    }
    let frame = scratch.frame();
    let l3 = frame.l3_offset;
    let source = if frame.is_v6 != 0 {
        packet
            .load::<u64>(frame_offset(l3 + 8))
            .and_then(|high| Some([high, packet.load::<u64>(frame_offset(l3 + 16))?]))
    } else {
        packet.load::<u32>(frame_offset(l3 + 12)).map(mapped)
    };
    let Some(source) = source else {
        return Who::Unknown;
    };
    scratch.asked.ifindex = host.ifindex(packet);
    scratch.asked.source = source;
    host.identify(scratch)
}

/// What becomes of a query that has no answer here and that the responder cannot be asked: where the name is known to exist
/// and a limit is all that is in the way, no reply; else it passes. Without a responder that would be for as long as there
/// is none.
#[inline(always)]
fn unless_known<P: Packet, H: Host<P>>(
    host: &H,
    scratch: &mut Scratch,
    located: bool,
    reason: u32,
) -> Result<Verdict, Reason> {
    let passes = Ok(Verdict::from_counter(reason));
    if reason == Reason::NoResponder as u32 {
        return passes;
    }
    // Whatever its size.
    scratch.set_edns(&Edns::NONE);
    // Another type is enough: a name exists for all types or for none.
    let is_located =
        located || is_located_as(host, scratch, TYPE_A) || is_located_as(host, scratch, TYPE_AAAA);
    scratch.asked.room = SECTION_LEN as u32;
    if !is_located || host.read_answer(scratch) == Found::Nothing {
        return passes;
    }
    Ok(Verdict::Unanswered)
}

#[inline(always)]
fn is_located_as<P: Packet, H: Host<P>>(host: &H, scratch: &mut Scratch, qtype: u16) -> bool {
    scratch.asked.qtype = u32::from(qtype);
    host.locate(scratch) == Located::Entry
}
