//! From a frame to a verdict: the one path that every program and every test takes.

use crate::{
    abi::{EventHeader, MAX_FRAME, MAX_SERVERS, Servers},
    dfa::{self, NAME_AT, NAME_COPY, NameError, Scratch},
    packet::Packet,
    verdict::{Reason, Verdict},
    wire::*,
};

/// What the pipeline needs around it: tables, clock, the way to the responder.
pub trait Host<P> {
    /// The server addresses of the configuration.
    fn servers(&self) -> Option<&Servers>;

    /// Called for each query to port 53 of an address that is not a server.
    fn saw_other_server(&self, address: Address);

    /// Whether a name can match whose last seven bytes and root label, as they stand on the wire, are this word; the
    /// first byte is the lowest.
    fn may_match(&self, end_of_name: u64) -> bool;

    /// The rule that the name in the scratch matches.
    fn find_rule(&self, scratch: &mut Scratch) -> Option<u32>;

    /// Whether the responder may be asked now on behalf of this packet's interface.
    fn admit(&self, packet: &P) -> Result<(), Reason>;

    /// Hands the frame to the responder.
    fn hand_over(&self, packet: &P, matched: &Matched) -> Result<(), Reason>;
}

/// Destination address of a query, in the byte order of the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    V4(u32),
    V6([u64; 2]),
}

/// A query that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Matched {
    pub rule: u32,
    /// Where the IP header starts.
    pub l3_offset: u32,
    /// Bytes of the frame.
    pub frame_len: u32,
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
        }
    }
}

/// Decides about one frame. Reads only; what it changes is the scratch, which is asked for only once a frame is a query
/// to one of the servers.
#[inline(always)]
pub fn intercept<'s, P: Packet, H: Host<P>>(
    packet: &P,
    host: &H,
    scratch: impl FnOnce() -> Option<&'s mut Scratch>,
) -> Verdict {
    match decide(packet, host, scratch) {
        Ok(()) => Verdict::Taken,
        Err(reason) => Verdict::Pass(reason),
    }
}

/// Where the parts of a query to port 53 stand.
struct Datagram {
    l3_offset: u32,
    /// First byte of the DNS header.
    dns_offset: u32,
    /// First byte after the DNS message.
    end: u32,
}

#[inline(always)]
fn decide<'s, P: Packet, H: Host<P>>(
    packet: &P,
    host: &H,
    scratch: impl FnOnce() -> Option<&'s mut Scratch>,
) -> Result<(), Reason> {
    let datagram = parse_datagram(packet, host)?;
    // The second bound follows from the first, which the verifier does not know.
    let frame_len = packet.len();
    if packet.is_gso() || frame_len > MAX_FRAME as u32 || datagram.end > MAX_FRAME as u32 {
        return Err(Reason::Oversize);
    }
    let additional = parse_dns_header(packet, &datagram)?;
    if additional == 0 {
        // Without additional records the root label stands in front of qtype and qclass, which end the message: most
        // foreign names need no copy, then. Where it does not, the long way says what is wrong.
        let end_of_name = packet
            .load::<u64>(datagram.end - QUESTION_TAIL - 8)
            .map(u64::from_le)
            .ok_or(Reason::Truncated)?;
        if end_of_name >> 56 == 0 && !host.may_match(end_of_name) {
            return Err(Reason::NoRule);
        }
    }
    let scratch = scratch().ok_or(Reason::Internal)?;

    // One path from here on, whatever the headers were.
    let l3_offset = scratch.forget(datagram.l3_offset);
    let question_at = scratch.forget(datagram.dns_offset + DNS_HEADER_LEN) & 127;
    let end = scratch.forget(datagram.end) & 0x1_ffff;
    let additional = scratch.forget(u32::from(additional));

    let available = end - question_at;
    let copied = scratch.forget(if available > NAME_COPY {
        NAME_COPY
    } else {
        available
    });
    if copied < 1 + QUESTION_TAIL || !packet.copy_name(question_at, copied, scratch) {
        return Err(Reason::Truncated);
    }
    match scratch.split_labels(copied) {
        Ok(()) => {}
        Err(NameError::Invalid) => return Err(Reason::BadName),
        Err(NameError::Truncated) => return Err(Reason::Truncated),
    }
    let name_len = scratch.name_len & 0xff;
    if name_len + QUESTION_TAIL > copied {
        return Err(Reason::Truncated);
    }

    let rule = host.find_rule(scratch).ok_or(Reason::NoRule)?;

    let qtype = scratch.be16(NAME_AT + name_len);
    let qclass = scratch.be16(NAME_AT + name_len + 2);
    if qclass != CLASS_IN || qtype_passes(qtype) {
        return Err(Reason::Qtype);
    }
    parse_additional(
        packet,
        additional,
        question_at + name_len + QUESTION_TAIL,
        end,
    )?;

    host.admit(packet)?;
    host.hand_over(
        packet,
        &Matched {
            rule,
            l3_offset,
            frame_len,
        },
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
        if index >= servers.v4_count || index >= MAX_SERVERS as u32 {
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
    parse_udp(packet, l3, l3 + IPV4_LEN, total - IPV4_LEN)
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
    // Extension headers pass with everything else that is not UDP: what stands behind them is not looked for.
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
        if index >= servers.v6_count || index >= MAX_SERVERS as u32 {
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
    parse_udp(packet, l3, l3 + IPV6_LEN, payload)
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
        dns_offset: l4 + UDP_LEN,
        end,
    })
}

/// The header of a plain query; returns ARCOUNT, 0 or 1.
#[inline(always)]
fn parse_dns_header<P: Packet>(packet: &P, datagram: &Datagram) -> Result<u16, Reason> {
    let at = datagram.dns_offset;
    let flags = be16(packet, at + 2).ok_or(Reason::Truncated)?;
    if flags & FLAG_QR != 0 {
        return Err(Reason::Response);
    }
    if flags & !(FLAG_RD | FLAG_AD | FLAG_CD) != 0 {
        return Err(Reason::Opcode);
    }
    let questions = be16(packet, at + 4).ok_or(Reason::Truncated)?;
    let answers = be16(packet, at + 6).ok_or(Reason::Truncated)?;
    let authorities = be16(packet, at + 8).ok_or(Reason::Truncated)?;
    let additional = be16(packet, at + 10).ok_or(Reason::Truncated)?;
    if questions != 1 || answers != 0 || authorities != 0 || additional > 1 {
        return Err(Reason::Counts);
    }
    Ok(additional)
}

/// Nothing but at most one OPT of version 0 between the question and the end of the message (RFC 6891 §6.1.1).
#[inline(always)]
fn parse_additional<P: Packet>(packet: &P, count: u32, at: u32, end: u32) -> Result<(), Reason> {
    if count == 0 {
        return if at == end {
            Ok(())
        } else {
            Err(Reason::Additional)
        };
    }
    if at + OPT_LEN > end {
        return Err(Reason::Truncated);
    }
    let owner = be16(packet, at).ok_or(Reason::Truncated)? >> 8;
    let rtype = be16(packet, at + 1).ok_or(Reason::Truncated)?;
    if owner != 0 || rtype != TYPE_OPT {
        return Err(Reason::Additional);
    }
    // Version is the second byte of the TTL field.
    if be16(packet, at + 6).ok_or(Reason::Truncated)? >> 8 != 0 {
        return Err(Reason::EdnsVersion);
    }
    let rdata_len = u32::from(be16(packet, at + 9).ok_or(Reason::Truncated)?);
    match at + OPT_LEN + rdata_len {
        opt_end if opt_end == end => Ok(()),
        opt_end if opt_end > end => Err(Reason::Truncated),
        _ => Err(Reason::Additional),
    }
}

#[inline(always)]
fn be16<P: Packet>(packet: &P, offset: u32) -> Option<u16> {
    packet.load::<u16>(offset).map(u16::from_be)
}

/// A host whose tables are in memory, for tests and fuzzing.
pub struct MemoryHost<'a, S: FnMut(Matched)> {
    pub servers: Servers,
    pub header: &'a dfa::Header,
    pub table: &'a dfa::Table,
    pub tails: &'a [dfa::Tail],
    /// What `admit` answers.
    pub admission: Result<(), Reason>,
    /// Called for each frame handed over.
    pub sink: core::cell::RefCell<S>,
}

impl<P: Packet, S: FnMut(Matched)> Host<P> for MemoryHost<'_, S> {
    fn servers(&self) -> Option<&Servers> {
        Some(&self.servers)
    }

    fn saw_other_server(&self, _address: Address) {}

    fn may_match(&self, end_of_name: u64) -> bool {
        self.header.may_match(end_of_name)
    }

    fn find_rule(&self, scratch: &mut Scratch) -> Option<u32> {
        dfa::find(self.header, self.table, self.tails, scratch)
    }

    fn admit(&self, _packet: &P) -> Result<(), Reason> {
        self.admission
    }

    fn hand_over(&self, _packet: &P, matched: &Matched) -> Result<(), Reason> {
        (self.sink.borrow_mut())(*matched);
        Ok(())
    }
}
