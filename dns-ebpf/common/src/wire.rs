//! Offsets and constants of Ethernet (IEEE 802.3, 802.1Q), IP (RFC 791, RFC 8200), UDP (RFC 768) and DNS (RFC 1035).

pub const ETH_LEN: u32 = 14;
pub const ETHERTYPE_OFFSET: u32 = 12;
pub const VLAN_LEN: u32 = 4;
pub const ETH_P_IP: u16 = 0x0800;
pub const ETH_P_IPV6: u16 = 0x86dd;
pub const ETH_P_8021Q: u16 = 0x8100;
pub const ETH_P_8021AD: u16 = 0x88a8;

pub const IPV4_LEN: u32 = 20;
pub const IPV6_LEN: u32 = 40;
pub const IPPROTO_TCP: u8 = 6;
pub const IPPROTO_UDP: u8 = 17;
pub const IPPROTO_ICMPV6: u8 = 58;
/// No next header (RFC 8200 §4.7).
pub const IPPROTO_NONE: u8 = 59;
pub const UDP_LEN: u32 = 8;
pub const DNS_PORT: u16 = 53;

pub const DNS_HEADER_LEN: u32 = 12;
/// Longest name on the wire, root label included (RFC 1035 §2.3.4).
pub const MAX_NAME: u32 = 255;
/// qtype and qclass.
pub const QUESTION_TAIL: u32 = 4;
/// An OPT record without options: root owner, type, class, TTL, RDLENGTH (RFC 6891 §6.1.2).
pub const OPT_LEN: u32 = 11;

/// The UDP size that gregor advertises, and the most that it sends (DNS flag day 2020).
pub const UDP_SIZE: u32 = 1232;
/// The limit of a client without OPT (RFC 1035 §4.2.1).
pub const PLAIN_SIZE: u32 = 512;
/// The DO bit of an OPT's flags (RFC 3225).
pub const FLAG_DO: u16 = 0x8000;

/// RFC 7873 §4.
pub const OPTION_COOKIE: u16 = 10;
/// Bytes of a cookie without a server part.
pub const CLIENT_COOKIE_LEN: u32 = 8;
/// Fewest and most bytes of a cookie with one.
pub const FULL_COOKIE_LEN: core::ops::RangeInclusive<u32> = 16..=40;

pub const FLAG_QR: u16 = 0x8000;
pub const FLAG_OPCODE: u16 = 0x7800;
pub const FLAG_TC: u16 = 0x0200;
pub const FLAG_RD: u16 = 0x0100;
pub const FLAG_RA: u16 = 0x0080;
pub const FLAG_AD: u16 = 0x0020;
pub const FLAG_CD: u16 = 0x0010;

pub const CLASS_IN: u16 = 1;
pub const TYPE_A: u16 = 1;
pub const TYPE_CNAME: u16 = 5;
pub const TYPE_SOA: u16 = 6;
pub const TYPE_AAAA: u16 = 28;
pub const TYPE_OPT: u16 = 41;
pub const TYPE_SVCB: u16 = 64;
pub const TYPE_HTTPS: u16 = 65;
pub const TYPE_ANY: u16 = 255;

/// Whether gregor leaves a qtype to the cache: 0, OPT, and the meta types 128–254 (TKEY, TSIG, IXFR, AXFR, MAILB, MAILA;
/// RFC 6895 §3.1). Not ANY: the cache would deny the name, which has a target.
#[inline(always)]
pub const fn qtype_passes(qtype: u16) -> bool {
    qtype == 0 || qtype == TYPE_OPT || (qtype >= 128 && qtype < TYPE_ANY)
}

/// Whether answers for a qtype are kept; the others are few, and one pod could ask for 65,535 of them.
#[inline(always)]
pub const fn qtype_is_kept(qtype: u16) -> bool {
    matches!(
        qtype,
        TYPE_A | TYPE_AAAA | TYPE_HTTPS | TYPE_SVCB | TYPE_CNAME
    )
}

/// The types of [`qtype_is_kept`].
pub const KEPT_QTYPES: [u16; 5] = [TYPE_A, TYPE_AAAA, TYPE_HTTPS, TYPE_SVCB, TYPE_CNAME];
