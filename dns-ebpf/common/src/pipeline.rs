//! From a frame to a verdict: the one path that every program and every test takes.

use crate::{
    abi::{EventHeader, IS_ANSWERED, MAX_FRAME, MAX_SERVERS, Servers},
    answer::{self, Found, Located, RuleEntry, SECTION_LEN},
    dfa::{self, NAME_AT, NAME_COPY, NameError, Scratch},
    packet::{MAX_OPTIONS, Packet},
    reply::{self, Edns, Place, Replied, fold},
    verdict::{Reason, Verdict},
    verifier,
    wire::*,
};

/// What the pipeline needs around it: tables, clock, the way to the responder.
pub trait Host<P> {
    /// The server addresses of the configuration.
    fn servers(&self) -> Option<&Servers>;

    /// Whether queries are looked at from some sources only.
    const CHECKS_SOURCES: bool = false;

    /// Whether queries from this address are looked at; asked for those to a server that may match.
    fn allows(&self, _source: Address) -> bool {
        true
    }

    /// Called for each query to port 53 of an address that is not a server.
    fn saw_other_server(&self, address: Address);

    /// Whether a name can match whose last seven bytes and root label on the wire are this word; the
    /// first byte is the lowest.
    fn may_match(&self, end_of_name: u64) -> bool;

    /// See [`recognise`].
    fn recognise(&self, scratch: &mut Scratch) -> Recognised;

    /// Nanoseconds of the clock that lifetimes are written in.
    fn now_ns(&self) -> u64;

    /// The rule with this place in the rule set.
    fn rule(&self, index: u32) -> Option<RuleEntry>;

    /// See [`locate_by_suffix`].
    fn locate_by_suffix(&self, scratch: &mut Scratch) -> bool;

    /// See [`locate`].
    fn locate(&self, scratch: &mut Scratch) -> Located;

    /// See [`answer::read`].
    fn read_answer(&self, scratch: &mut Scratch) -> Found;

    /// Says that the answer in the scratch is being refreshed.
    fn claim(&self, scratch: &Scratch);

    /// Counts an answer that is given past its time.
    fn served_expired(&self);

    /// Whether the responder may be asked now on behalf of this packet's interface.
    fn admit(&self, packet: &P, now_ns: u64) -> Result<(), Reason>;

    /// Hands the frame to the responder.
    fn hand_over(&self, packet: &P, matched: &Matched) -> Result<(), Reason>;

    /// [`finish`]; a host may put it into a function of its own.
    #[inline(always)]
    fn finish(&self, packet: &mut P, scratch: &mut Scratch) -> Verdict
    where
        P: Packet,
        Self: Sized,
    {
        finish(packet, self, scratch)
    }

    /// [`reply`]; a host may put it into a function of its own.
    #[inline(always)]
    fn reply(&self, packet: &mut P, scratch: &mut Scratch) -> Replied
    where
        P: Packet,
    {
        reply(packet, scratch)
    }
}

/// Source or destination address of a query, in the byte order of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4(u32),
    V6([u64; 2]),
}

impl Address {
    /// As IPv6 (RFC 4291 §2.5.5.2), in the byte order of the packet.
    #[inline(always)]
    pub fn mapped(self) -> [u64; 2] {
        match self {
            Address::V4(address) => [0, u64::from(0xffff_u32.to_be()) | u64::from(address) << 32],
            Address::V6(halves) => halves,
        }
    }
}

/// A query that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    /// Id of the rule.
    pub rule: u64,
    /// Where the IP header starts.
    pub l3_offset: u32,
    /// Bytes of the frame.
    pub frame_len: u32,
    /// Whether the program answers it itself, and wants a newer answer.
    pub is_answered: bool,
}

impl Matched {
    /// The event header of this query.
    #[inline(always)]
    pub fn event(&self, ifindex: u32) -> EventHeader {
        EventHeader {
            ifindex,
            rule: self.rule,
            frame_len: self.frame_len as u16,
            l3_offset: self.l3_offset as u16,
            vlan_tci: 0,
            vlan_tpid: 0,
            flags: if self.is_answered { IS_ANSWERED } else { 0 },
        }
    }
}

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

/// Offsets of the parts of a query to port 53.
struct Datagram {
    l3_offset: u32,
    is_v6: bool,
    /// See [`Servers::ids`].
    server: u32,
    /// First byte of the DNS header.
    dns_offset: u32,
    /// First byte after the DNS message.
    end: u32,
}

#[inline(always)]
fn decide<'s, P: Packet, H: Host<P>>(
    packet: &mut P,
    host: &H,
    scratch: impl FnOnce() -> Option<&'s mut Scratch>,
) -> Result<Verdict, Reason> {
    let datagram = parse_datagram(packet, host)?;
    // The second bound follows from the first, which the verifier does not know.
    let frame_len = packet.len();
    if packet.is_gso() || frame_len > MAX_FRAME as u32 || datagram.end > MAX_FRAME as u32 {
        return Err(Reason::Oversize);
    }
    let (flags, additional) = parse_dns_header(packet, &datagram)?;
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
        return Err(Reason::Internal);
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
    let verdict = host.finish(packet, scratch);
    scratch.leave();
    Ok(verdict)
}

#[inline(always)]
fn source<P: Packet>(packet: &P, datagram: &Datagram) -> Option<Address> {
    let l3 = datagram.l3_offset;
    if datagram.is_v6 {
        Some(Address::V6([packet.load(l3 + 8)?, packet.load(l3 + 16)?]))
    } else {
        Some(Address::V4(packet.load(l3 + 12)?))
    }
}

/// What is known of a frame once its headers are.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Frame {
    l3_offset: u32,
    /// First byte of the question.
    question_at: u32,
    /// First byte after the DNS message.
    end: u32,
    is_v6: u32,
    /// Of the DNS header.
    flags: u32,
    /// ARCOUNT.
    additional: u32,
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

    let mut located = host.locate_by_suffix(scratch);
    if !located {
        let rule = match host.recognise(scratch) {
            Recognised::Rule(rule) => rule,
            Recognised::None => return Err(Reason::NoRule),
            Recognised::BadName => return Err(Reason::BadName),
            Recognised::Truncated => return Err(Reason::Truncated),
        };
        let name_len = scratch.name_len & 0xff;
        let rule = host.rule(rule).ok_or(Reason::Internal)?;
        scratch.lookup.rule = rule.id;
        scratch.asked.rule = rule.id;
        scratch.asked.captures = rule.captures;
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

/// Whether the source is an address that one host can have: not multicast, broadcast, reserved or zero (RFC 1122 §3.2.1.3,
/// RFC 4291 §2.5.2 and §2.7).
#[inline(always)]
fn may_be_replied_to<P: Packet>(packet: &P, l3: u32, is_v6: bool) -> bool {
    if is_v6 {
        let source = (
            packet.load::<u64>(frame_offset(l3 + 8)),
            packet.load::<u64>(frame_offset(l3 + 16)),
        );
        let (Some(high), Some(low)) = source else {
            return false;
        };
        u64::from_be(high) >> 56 != 0xff && high | low != 0
    } else {
        let first = packet
            .load::<u32>(frame_offset(l3 + 12))
            .map_or(0, u32::from_be)
            >> 24;
        (1..224).contains(&first)
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
    #[inline(always)]
    fn set_frame(&mut self, frame: &Frame) {
        // SAFETY: a field of ours.
        unsafe { (&raw mut self.frame).write_volatile(*frame) };
    }

    #[inline(always)]
    fn frame(&self) -> Frame {
        // SAFETY: a field of ours.
        unsafe { (&raw const self.frame).read_volatile() }
    }

    /// First byte after the message of the query that [`finish`] is to look at.
    #[inline(always)]
    pub fn end(&self) -> u32 {
        self.frame().end
    }

    /// Notes what the question asks for and what room its answer has; its name's length is known.
    #[inline(always)]
    fn ask(&mut self) -> Result<(), Reason> {
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

/// The OPT that ends a message, if it looks like one of version 0 without options. Bytes that only look so cannot turn a
/// query into one that is answered: the name in front has to end where this begins.
#[inline(always)]
fn plain_opt<P: Packet>(packet: &P, end: u32) -> Edns {
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

/// Ethernet, at most two tags, IP and UDP, to port 53 of one of the servers.
#[inline(always)]
fn parse_datagram<P: Packet, H: Host<P>>(packet: &P, host: &H) -> Result<Datagram, Reason> {
    let mut ethertype = be16(packet, ETHERTYPE_OFFSET).ok_or(Reason::NotDns)?;
    let mut l3_offset = ETH_LEN;
    if ethertype == ETH_P_8021Q || ethertype == ETH_P_8021AD {
        ethertype = be16(packet, ETHERTYPE_OFFSET + VLAN_LEN).ok_or(Reason::NotDns)?;
        l3_offset += VLAN_LEN;
        if ethertype == ETH_P_8021Q {
            ethertype = be16(packet, ETHERTYPE_OFFSET + 2 * VLAN_LEN).ok_or(Reason::NotDns)?;
            l3_offset += VLAN_LEN;
        }
    }
    match ethertype {
        ETH_P_IP => parse_ipv4(packet, host, l3_offset),
        ETH_P_IPV6 => parse_ipv6(packet, host, l3_offset),
        _ => Err(Reason::NotDns),
    }
}

#[inline(always)]
fn parse_ipv4<P: Packet, H: Host<P>>(packet: &P, host: &H, l3: u32) -> Result<Datagram, Reason> {
    if be16(packet, l3 + 8).ok_or(Reason::NotDns)? as u8 != IPPROTO_UDP {
        return Err(Reason::NotDns);
    }
    let version_ihl = (be16(packet, l3).ok_or(Reason::NotDns)? >> 8) as u8;
    let fragment = be16(packet, l3 + 6).ok_or(Reason::NotDns)? & 0x3fff;
    if version_ihl != 0x45 {
        return Err(options_or_other(packet, l3, version_ihl));
    }
    // A later fragment has no UDP header, so its "port" says nothing.
    if fragment != 0 {
        return Err(Reason::Fragment);
    }
    if be16(packet, l3 + IPV4_LEN + 2).ok_or(Reason::NotDns)? != DNS_PORT {
        return Err(Reason::NotDns);
    }
    let destination: u32 = packet.load(l3 + 16).ok_or(Reason::Truncated)?;
    let servers = host.servers().ok_or(Reason::Internal)?;
    let mut index = 0u32;
    loop {
        if index >= MAX_SERVERS as u32 || index >= verifier::reread(&servers.v4_count) {
            host.saw_other_server(Address::V4(destination));
            return Err(Reason::OtherServer);
        }
        // SAFETY: index < MAX_SERVERS.
        if unsafe { *servers.v4.as_ptr().add(index as usize) } == destination {
            break;
        }
        index += 1;
    }
    let total = u32::from(be16(packet, l3 + 2).ok_or(Reason::Truncated)?);
    if total < IPV4_LEN {
        return Err(Reason::Truncated);
    }
    let udp = parse_udp(packet, l3, l3 + IPV4_LEN, total - IPV4_LEN)?;
    Ok(Datagram {
        server: server_id(servers, index),
        ..udp
    })
}

/// A header with options is only worth a counter when it goes to port 53.
#[inline(always)]
fn options_or_other<P: Packet>(packet: &P, l3: u32, version_ihl: u8) -> Reason {
    let header_len = u32::from(version_ihl & 0x0f) * 4;
    if version_ihl >> 4 != 4 || header_len <= IPV4_LEN {
        return Reason::NotDns;
    }
    match be16(packet, l3 + header_len + 2) {
        Some(DNS_PORT) => Reason::IpOptions,
        _ => Reason::NotDns,
    }
}

#[inline(always)]
fn parse_ipv6<P: Packet, H: Host<P>>(packet: &P, host: &H, l3: u32) -> Result<Datagram, Reason> {
    // Extension headers pass with everything else that is not UDP: what follows them is not parsed.
    if (be16(packet, l3 + 6).ok_or(Reason::NotDns)? >> 8) as u8 != IPPROTO_UDP {
        return Err(Reason::NotDns);
    }
    if be16(packet, l3).ok_or(Reason::NotDns)? >> 12 != 6 {
        return Err(Reason::NotDns);
    }
    if be16(packet, l3 + IPV6_LEN + 2).ok_or(Reason::NotDns)? != DNS_PORT {
        return Err(Reason::NotDns);
    }
    let destination = [
        packet.load::<u64>(l3 + 24).ok_or(Reason::Truncated)?,
        packet.load::<u64>(l3 + 32).ok_or(Reason::Truncated)?,
    ];
    let servers = host.servers().ok_or(Reason::Internal)?;
    let mut index = 0u32;
    loop {
        if index >= MAX_SERVERS as u32 || index >= verifier::reread(&servers.v6_count) {
            host.saw_other_server(Address::V6(destination));
            return Err(Reason::OtherServer);
        }
        // SAFETY: index < MAX_SERVERS.
        let server = unsafe { &*servers.v6.as_ptr().add(index as usize) };
        if server[0] == destination[0] && server[1] == destination[1] {
            break;
        }
        index += 1;
    }
    let payload = u32::from(be16(packet, l3 + 4).ok_or(Reason::Truncated)?);
    let udp = parse_udp(packet, l3, l3 + IPV6_LEN, payload)?;
    Ok(Datagram {
        is_v6: true,
        server: server_id(servers, MAX_SERVERS as u32 + index),
        ..udp
    })
}

#[inline(always)]
fn server_id(servers: &Servers, index: u32) -> u32 {
    let index = verifier::index::<{ 2 * MAX_SERVERS as u32 - 1 }>(index);
    // SAFETY: masked to the length of the array.
    unsafe { servers.ids.as_ptr().add(index).read_volatile() }
}

/// UDP whose length agrees with that of IP; what lies behind is Ethernet padding.
#[inline(always)]
fn parse_udp<P: Packet>(packet: &P, l3: u32, l4: u32, ip_payload: u32) -> Result<Datagram, Reason> {
    let udp_len = u32::from(be16(packet, l4 + 4).ok_or(Reason::Truncated)?);
    let end = l4 + ip_payload;
    if udp_len != ip_payload || udp_len < UDP_LEN + DNS_HEADER_LEN || end > packet.len() {
        // Several datagrams in one buffer have lengths of their own.
        return Err(if packet.is_gso() {
            Reason::Oversize
        } else {
            Reason::Truncated
        });
    }
    Ok(Datagram {
        l3_offset: l3,
        is_v6: false,
        server: 0,
        dns_offset: l4 + UDP_LEN,
        end,
    })
}

/// The header of a plain query; returns its flags and ARCOUNT, 0 or 1.
#[inline(always)]
fn parse_dns_header<P: Packet>(packet: &P, datagram: &Datagram) -> Result<(u16, u16), Reason> {
    let at = datagram.dns_offset;
    let flags = be16(packet, at + 2).ok_or(Reason::Truncated)?;
    if flags & FLAG_QR != 0 {
        return Err(Reason::Response);
    }
    // All other bits mean nothing in a query (RFC 8906 §8.1.3.3).
    if flags & FLAG_OPCODE != 0 {
        return Err(Reason::Opcode);
    }
    let questions = be16(packet, at + 4).ok_or(Reason::Truncated)?;
    let answers = be16(packet, at + 6).ok_or(Reason::Truncated)?;
    let authorities = be16(packet, at + 8).ok_or(Reason::Truncated)?;
    let additional = be16(packet, at + 10).ok_or(Reason::Truncated)?;
    if questions != 1 || answers != 0 || authorities != 0 || additional > 1 {
        return Err(Reason::Counts);
    }
    Ok((flags, additional))
}

/// Nothing but at most one OPT of version 0 between the question and the end of the message (RFC 6891 §6.1.1).
#[inline(always)]
fn parse_additional<P: Packet>(
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

/// An offset of a frame whose length was checked, where the verifier sees its bound: a pointer that is moved by more has
/// none to it.
#[inline(always)]
fn frame_offset(offset: u32) -> u32 {
    verifier::index::<{ MAX_FRAME.next_power_of_two() as u32 - 1 }>(offset) as u32
}

#[inline(always)]
fn be16<P: Packet>(packet: &P, offset: u32) -> Option<u16> {
    packet.load::<u16>(offset).map(u16::from_be)
}

/// A host whose tables are in memory, for tests and fuzzing.
pub struct MemoryHost<'a, T, S: FnMut(Matched)> {
    pub servers: Servers,
    pub header: &'a dfa::Header,
    pub table: &'a dfa::Table,
    pub tails: &'a [dfa::Tail],
    /// The tables of answers.
    pub answers: T,
    pub now_ns: u64,
    /// What `admit` answers.
    pub admission: Result<(), Reason>,
    /// Called for each frame handed over.
    pub sink: core::cell::RefCell<S>,
}

impl<P: Packet, T: answer::Tables, S: FnMut(Matched)> Host<P> for MemoryHost<'_, T, S> {
    fn servers(&self) -> Option<&Servers> {
        Some(&self.servers)
    }

    fn saw_other_server(&self, _address: Address) {}

    fn may_match(&self, end_of_name: u64) -> bool {
        self.header.may_match(end_of_name)
    }

    fn recognise(&self, scratch: &mut Scratch) -> Recognised {
        recognise(self.header, self.table, self.tails, scratch)
    }

    fn now_ns(&self) -> u64 {
        self.now_ns
    }

    fn rule(&self, index: u32) -> Option<RuleEntry> {
        self.answers.rule(index)
    }

    fn served_expired(&self) {}

    fn locate_by_suffix(&self, scratch: &mut Scratch) -> bool {
        locate_by_suffix(&self.answers, scratch)
    }

    fn locate(&self, scratch: &mut Scratch) -> Located {
        locate(&self.answers, scratch)
    }

    fn read_answer(&self, scratch: &mut Scratch) -> Found {
        answer::read(&self.answers, scratch)
    }

    fn claim(&self, scratch: &Scratch) {
        answer::claim(&self.answers, &scratch.lookup);
    }

    fn admit(&self, _packet: &P, _now_ns: u64) -> Result<(), Reason> {
        self.admission
    }

    fn hand_over(&self, _packet: &P, matched: &Matched) -> Result<(), Reason> {
        (self.sink.borrow_mut())(*matched);
        Ok(())
    }
}
