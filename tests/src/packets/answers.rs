//! The table of answers: the entries of a program, a query, and the expected frame, byte for byte.
//!
//! An answer is described by its names and records, and encoded here a second time, without the product's encoder, so that a
//! mistake of that encoder is found.

use std::{net::IpAddr, sync::Arc, time::Duration};

use dns_common::answer::{Body, MAX_POINTERS, MAX_RECORDS, SECTION_LEN};
use gregor::{
    datapath::Term,
    resolve::{self, Section},
    rules::{MatchSpec, RuleSet, RuleSpec},
};
use hickory_proto::rr::{Name, rdata::SOA};

use super::{
    build::*,
    table::{BROKER, Engines, FIRST_V4, FIRST_V6, LAST_V4, LAST_V6, Rule, SEVERAL},
};
use crate::reading::Reading;

const A: u16 = 1;
const CNAME: u16 = 5;
const SOA_TYPE: u16 = 6;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;

const QR: u16 = 0x8000;
const RA: u16 = 0x0080;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;
const DO: u32 = 0x8000;

// Rules of the fixture, the first six of which are those of the table of packets.
const KAFKA: usize = 0;
const EXACT: usize = 1;
const WIDE: usize = 2;
const TINY_LABELS: usize = 3;
const ONE_LABEL: usize = 4;
const CAPTURE_FIRST: usize = 5;
const TWO: usize = SEVERAL.len();
const REGEX: usize = SEVERAL.len() + 1;

/// The fixture's rules.
pub fn rules() -> Arc<RuleSet> {
    let two = Rule::new(
        "two",
        "*.{cluster}.apart.{namespace}.two.test",
        "{cluster}.{namespace}.target.test",
    );
    let regex = r"^broker-[0-9]\.(?P<namespace>[a-z]+)\.regex\.test\.$";
    let regex = RuleSpec {
        name: "regex".to_owned(),
        matches: MatchSpec::Regex(regex.to_owned()),
        ..Rule::new("", "", "{namespace}.target.test").spec()
    };
    let patterns = SEVERAL.iter().chain([&two]).map(Rule::spec);
    let specs: Vec<RuleSpec> = patterns.chain([regex]).collect();
    Arc::new(RuleSet::compile(&specs).expect("rules of a fixture"))
}

/// An answer in names and rdata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub qtype: u16,
    /// The target of each CNAME.
    pub chain: Vec<String>,
    /// Of the RRset at the chain's end.
    pub rdata: Vec<Vec<u8>>,
    /// The zone whose SOA a NODATA has.
    pub zone: Option<String>,
}

const SERIAL: u32 = 2_026_112_101;
const INTERVALS: [u32; 4] = [7200, 1800, 86_400, 5];

impl Answer {
    /// The form for the program, made by the product; `None` where it must not answer.
    pub fn body(&self) -> Option<Body> {
        self.section().body()
    }

    /// The same as the responder keeps it.
    pub fn section(&self) -> Section {
        let name = |text: &String| Name::from_ascii(format!("{text}.")).expect("a name");
        let soa = self.zone.as_ref().map(|zone| {
            let [refresh, retry, expire, minimum] = INTERVALS;
            let (mname, rname) = soa_names(zone);
            let soa = SOA::new(
                name(&mname),
                name(&rname),
                SERIAL,
                refresh as i32,
                retry as i32,
                expire as i32,
                minimum,
            );
            Box::new((name(zone), soa))
        });
        Section::new(&resolve::Answer {
            qtype: self.qtype.into(),
            names: self.chain.iter().map(name).collect(),
            rdata: self.rdata.clone(),
            soa,
            ttl_seconds: 30,
        })
        .expect("a section that pointers reach")
    }

    /// The reply to a query for a name of one question, the RRset beginning with the record of index `rotation`.
    pub fn message(&self, query: &Message, ttl_seconds: u32, rotation: usize) -> Vec<u8> {
        let question = &query.questions[0];
        let mut writer = Writer {
            message: Vec::new(),
            names: Vec::new(),
        };
        for field in [
            query.id,
            QR | RA | query.flags & (RD | CD),
            1,
            (self.chain.len() + self.rdata.len()) as u16,
            u16::from(self.zone.is_some()),
            query.additional.len() as u16,
        ] {
            writer.message.extend(field.to_be_bytes());
        }
        writer.message.extend(question);
        let mut owner: Option<&str> = None;
        for target in &self.chain {
            writer.record(owner, CNAME, ttl_seconds, |writer| writer.name(target));
            owner = Some(target);
        }
        for index in 0..self.rdata.len() {
            let rdata = &self.rdata[(rotation + index) % self.rdata.len()];
            writer.record(owner, self.qtype, ttl_seconds, |writer| {
                writer.message.extend(rdata);
            });
        }
        if let Some(zone) = &self.zone {
            let (mname, rname) = soa_names(zone);
            writer.record(Some(zone), SOA_TYPE, ttl_seconds, |writer| {
                writer.name(&mname);
                writer.name(&rname);
                writer.message.extend(SERIAL.to_be_bytes());
                for interval in INTERVALS {
                    writer.message.extend(interval.to_be_bytes());
                }
            });
        }
        if let [record] = &query.additional[..] {
            // Its flags are the last two bytes of what other records have their TTL in.
            let dnssec_ok = u32::from(record[7] & 0x80) << 8;
            let options = echoed(record);
            writer
                .message
                .extend(super::build::record(&[0], 41, 1232, dnssec_ok, options));
        }
        writer.message
    }

    /// Whether parsers read this answer from the reply, whichever record is first.
    fn is_read_in(&self, query: &Message, reading: &Reading) -> bool {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let question = &query.questions[0];
        let qname = hex(&question[..question.len() - 4]);
        let targets: Vec<String> = self.chain.iter().map(|target| hex(&name(target))).collect();
        let owners = [std::slice::from_ref(&qname), &targets].concat();
        let mut expected: Vec<(String, u16, String)> = targets
            .iter()
            .zip(&owners)
            .map(|(target, owner)| (owner.clone(), CNAME, target.clone()))
            .collect();
        let end = &owners[owners.len() - 1];
        expected.extend(
            self.rdata
                .iter()
                .map(|rdata| (end.clone(), self.qtype, hex(rdata))),
        );
        let mut read: Vec<(String, u16, String)> = reading
            .answer
            .iter()
            .map(|record| (record.name.clone(), record.rtype, record.data.clone()))
            .collect();
        let ends = self.chain.len();
        let flags = (
            reading.qr, reading.aa, reading.tc, reading.ra, reading.ad, reading.z,
        );
        if read.len() != expected.len() || flags != (true, false, false, true, false, false) {
            return false;
        }
        expected[ends..].sort();
        read[ends..].sort();
        let zone: Vec<String> = self.zone.iter().map(|zone| hex(&name(zone))).collect();
        let read_zone: Vec<String> = reading
            .authority
            .iter()
            .map(|soa| soa.name.clone())
            .collect();
        let ttls: Vec<u32> = (reading.answer.iter().chain(&reading.authority))
            .map(|record| record.ttl)
            .collect();
        read == expected
            && reading.question.len() == 1
            && reading.question[0].name == qname
            && zone == read_zone
            && reading.rcode == 0
            && reading.additional.is_empty()
            && ttls.iter().all(|ttl| *ttl == ttls[0] && *ttl > 0)
            && match &reading.opt {
                None => query.additional.is_empty(),
                Some(opt) => {
                    query.additional.len() == 1
                        && (opt.size, opt.version, opt.z) == (1232, 0, 0)
                        && opt
                            .options
                            .iter()
                            .map(|option| (option.code, option.data.clone()))
                            .eq(echoed(&query.additional[0])
                                .get(4..)
                                .map(|cookie| (10, hex(cookie))))
                }
            }
    }
}

/// The options of an OPT record where they are one cookie with a server part (RFC 7873 §4, §5.3).
fn echoed(record: &[u8]) -> &[u8] {
    match &record[11..] {
        options @ [0, 10, 0, length @ 16..=40, cookie @ ..]
            if cookie.len() == usize::from(*length) =>
        {
            options
        }
        _ => &[],
    }
}

fn soa_names(zone: &str) -> (String, String) {
    (format!("ns.dns.{zone}"), format!("hostmaster.{zone}"))
}

/// Encodes a message with compression within its answers.
struct Writer {
    message: Vec<u8>,
    /// Names and suffixes of names, and their offsets.
    names: Vec<(Vec<u8>, usize)>,
}

impl Writer {
    /// No owner means the question's name.
    fn record(&mut self, owner: Option<&str>, rtype: u16, ttl: u32, rdata: impl FnOnce(&mut Self)) {
        match owner {
            Some(owner) => self.name(owner),
            None => self.message.extend([0xc0, 12]),
        }
        for field in [rtype, 1, (ttl >> 16) as u16, ttl as u16, 0] {
            self.message.extend(field.to_be_bytes());
        }
        let at = self.message.len();
        rdata(self);
        let len = (self.message.len() - at) as u16;
        self.message[at - 2..at].copy_from_slice(&len.to_be_bytes());
    }

    fn name(&mut self, text: &str) {
        let mut rest = &name(text)[..];
        while rest[0] != 0 {
            if let Some((_, at)) = self.names.iter().find(|(name, _)| name == rest) {
                self.message.extend((0xc000 | *at as u16).to_be_bytes());
                return;
            }
            self.names.push((rest.to_vec(), self.message.len()));
            let (label, behind) = rest.split_at(1 + usize::from(rest[0]));
            self.message.extend(label);
            rest = behind;
        }
        self.message.push(0);
    }
}

/// An entry of a program's tables.
#[derive(Clone, Debug)]
pub struct Entry {
    pub rule: usize,
    pub qtype: u16,
    pub server: IpAddr,
    pub captures: Vec<String>,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Answer(Answer, Term),
    /// For an hour.
    NoTarget,
    /// No longer.
    NoTargetBefore,
    /// Written, and removed again.
    TakenAway(Answer, Term),
}

/// The expected result for a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It is answered with the first entry.
    Answered,
    /// So it is, and userspace is asked for a refresh.
    Refreshed,
    /// Userspace has to answer.
    Taken,
    /// There is no target, so it passes.
    NoTarget,
}

/// The entries of the tables, a query, and the expected result.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub why: &'static str,
    pub cached: Vec<Entry>,
    pub rule: usize,
    pub query: Packet,
    pub message: Message,
    pub paged: bool,
    pub expect: Expect,
}

impl Case {
    pub fn frame(&self) -> Frame {
        Frame {
            paged: self.paged,
            ..self.query.build()
        }
    }

    pub fn engines(&self) -> Engines {
        Engines::for_frame(&self.frame())
    }

    /// Where the IP header of the query starts.
    pub fn l3_offset(&self) -> u16 {
        14 + 4 * self.query.tags.len() as u16
    }

    /// Every frame that is right, when the entry was written at most `elapsed` before the answer.
    pub fn replies(&self, elapsed: Duration) -> Vec<Vec<u8>> {
        let What::Answer(answer, term) = &self.cached[0].what else {
            panic!("{}: no answer to be given", self.name);
        };
        let ceil = |left: Duration| left.as_nanos().div_ceil(1_000_000_000) as u32;
        let ttls = match (self.expect, term.fixed_ttl) {
            (Expect::Refreshed, _) => 1..=1,
            (_, Some(ttl)) => ttl..=ttl,
            _ => ceil(term.fresh.saturating_sub(elapsed)).max(1)..=ceil(term.fresh),
        };
        let mut replies = Vec::new();
        for ttl in ttls {
            for rotation in 0..answer.rdata.len().max(1) {
                replies.push(self.reply(answer.message(&self.message, ttl, rotation)));
            }
        }
        replies
    }

    /// The way back of the query's packet, with this in it.
    fn reply(&self, message: Vec<u8>) -> Vec<u8> {
        let mut reply = self.query.clone().with_udp(|udp| {
            std::mem::swap(&mut udp.source_port, &mut udp.destination_port);
            udp.payload = message;
        });
        std::mem::swap(&mut reply.source, &mut reply.destination);
        std::mem::swap(&mut reply.source_mac, &mut reply.destination_mac);
        reply.trailer.clear();
        reply.build().bytes
    }

    /// The DNS message in a frame of this case.
    pub fn message_in<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        let ip = if self.query.source.is_ipv4() { 20 } else { 40 };
        &frame[usize::from(self.l3_offset()) + ip + 8..]
    }

    /// Whether parsers read the entry in a reply.
    pub fn is_read_in(&self, reading: &Reading) -> bool {
        match &self.cached[0].what {
            What::Answer(answer, _) => answer.is_read_in(&self.message, reading),
            _ => false,
        }
    }
}

/// Addresses of an RRset.
pub fn addresses(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|i| vec![10, 77, 3 * i, 201 - i]).collect()
}

fn addresses_v6(count: u8) -> Vec<Vec<u8>> {
    (0..count)
        .map(|i| [&[0xfd, 0x77][..], &[i; 13], &[200 - i]].concat())
        .collect()
}

/// The article's target, an endpoint behind it, and its addresses.
pub fn endpoint() -> Answer {
    Answer {
        qtype: A,
        chain: vec![
            "kafka-upstream.foo.svc.cluster.local".to_owned(),
            "vpce-0a1b2c3d4e5f.kafka.eu-west-1.vpce.amazonaws.com".to_owned(),
        ],
        rdata: addresses(3),
        zone: None,
    }
}

/// A target with this many addresses right behind it.
fn plain(count: u8) -> Answer {
    Answer {
        chain: vec!["kafka-upstream.foo.svc.cluster.local".to_owned()],
        rdata: addresses(count),
        ..endpoint()
    }
}

pub const HALF_MINUTE: Term = Term {
    fresh: Duration::from_secs(30),
    grace: Duration::ZERO,
    fixed_ttl: None,
    unattended: Duration::ZERO,
};

/// A namespace's answer under the article's rule, to queries of the first IPv4 server.
pub fn cached(namespace: &str, answer: Answer) -> Entry {
    Entry {
        rule: KAFKA,
        qtype: answer.qtype,
        server: FIRST_V4,
        captures: vec![namespace.to_owned()],
        what: What::Answer(answer, HALF_MINUTE),
    }
}

impl Entry {
    fn by(mut self, rule: usize, captures: &[&str]) -> Self {
        self.rule = rule;
        self.captures = captures.iter().map(|label| (*label).to_owned()).collect();
        self
    }

    pub fn at(mut self, server: IpAddr) -> Self {
        self.server = server;
        self
    }

    pub fn for_term(mut self, term: Term) -> Self {
        if let What::Answer(_, own) = &mut self.what {
            *own = term;
        }
        self
    }

    fn is(mut self, what: What) -> Self {
        self.what = what;
        self
    }
}

struct Table(Vec<Case>);

impl Table {
    fn add(
        &mut self,
        expect: Expect,
        name: impl Into<String>,
        cached: Vec<Entry>,
        rule: usize,
        (query, message): (Packet, Message),
        why: &'static str,
    ) -> &mut Case {
        self.0.push(Case {
            name: name.into(),
            why,
            cached,
            rule,
            query,
            message,
            paged: false,
            expect,
        });
        self.0.last_mut().expect("just pushed")
    }

    /// Answered with the entry.
    fn answered(
        &mut self,
        name: impl Into<String>,
        cached: Entry,
        query: (Packet, Message),
        why: &'static str,
    ) -> &mut Case {
        let rule = cached.rule;
        self.add(Expect::Answered, name, vec![cached], rule, query, why)
    }

    /// Handed over despite the entry.
    fn taken(
        &mut self,
        name: impl Into<String>,
        cached: Entry,
        query: (Packet, Message),
        why: &'static str,
    ) -> &mut Case {
        let rule = cached.rule;
        self.add(Expect::Taken, name, vec![cached], rule, query, why)
    }
}

/// A query to a server, and its message.
fn ask_at(server: IpAddr, message: Message) -> (Packet, Message) {
    (udp_to(server, message.build()), message)
}

fn ask(message: Message) -> (Packet, Message) {
    ask_at(FIRST_V4, message)
}

fn broker() -> Message {
    question(name(BROKER), A)
}

fn map(
    (packet, message): (Packet, Message),
    change: impl FnOnce(Packet) -> Packet,
) -> (Packet, Message) {
    (change(packet), message)
}

/// A name of the article's rule in a namespace.
fn in_namespace(namespace: &str) -> Vec<u8> {
    name(&format!(
        "lkc-1.aws.private.kafka.managed.{namespace}.svc.cluster.local"
    ))
}

/// A name of the article's rule in namespace foo that has this many bytes on the wire.
pub fn name_of(len: usize) -> Vec<u8> {
    let suffix = name("aws.private.kafka.managed.foo.svc.cluster.local").len();
    let mut left = len - suffix;
    assert!(left >= 2, "shorter than the rule");
    let mut labels = Vec::new();
    while left > 0 {
        // No label may be left with a length byte alone.
        let take = match left {
            0..=64 => left,
            65 => 63,
            _ => 64,
        };
        labels.push(vec![b'a' + (take % 26) as u8; take - 1]);
        left -= take;
    }
    let mut labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
    labels.extend([
        &b"aws"[..],
        b"private",
        b"kafka",
        b"managed",
        b"foo",
        b"svc",
        b"cluster",
        b"local",
    ]);
    let wire = labels_of(&labels);
    assert_eq!(wire.len(), len);
    wire
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut table = Table(Vec::new());
    types(&mut table);
    families_and_tags(&mut table);
    headers(&mut table);
    sums_of_zero(&mut table);
    names(&mut table);
    captures(&mut table);
    edns(&mut table);
    sizes(&mut table);
    ages(&mut table);
    keys(&mut table);
    table.0
}

fn types(t: &mut Table) {
    t.answered(
        "A",
        cached("foo", endpoint()),
        ask(broker()),
        "the main case",
    );
    for count in [1, 2, 3, 5, 16, 20] {
        t.answered(
            format!("{count} addresses"),
            cached("foo", plain(count)),
            ask(broker().additional(opt(1232, 0, &[]))),
            "any rotation of them is one piece of the entry",
        );
    }
    let of = |qtype, rdata: Vec<Vec<u8>>| Answer {
        qtype,
        rdata,
        ..endpoint()
    };
    let asks = |qtype| ask(question(name(BROKER), qtype));
    t.answered(
        "AAAA",
        cached("foo", of(AAAA, addresses_v6(3))),
        asks(AAAA),
        "the other half of every getaddrinfo",
    );
    let alpn = b"\0\x01\0\0\x01\0\x03\x02h2\0\x03\0\x02\x01\xbb";
    for (label, qtype) in [("HTTPS", HTTPS), ("SVCB", SVCB)] {
        let even = [&alpn[..], &[0, 4, 0, 4, 192, 0, 2, 7]].concat();
        let other = [&alpn[..7], b"\x02h3"].concat();
        assert_eq!((even.len() % 2, other.len() % 2), (0, 0));
        t.answered(
            format!("{label} of one record"),
            cached("foo", of(qtype, vec![even.clone()])),
            asks(qtype),
            "rdata of any kind is bytes",
        );
        t.taken(
            format!("{label} with rdata of an odd length"),
            cached(
                "foo",
                of(qtype, vec![[&even[..], &[0xff, 0, 0, 1, 9]].concat()]),
            ),
            asks(qtype),
            "records that do not all begin at offsets of one parity have no sum in advance",
        );
        t.taken(
            format!("{label} of two lengths"),
            cached("foo", of(qtype, vec![even, other])),
            asks(qtype),
            "they cannot be rotated by moving one piece",
        );
    }
    for qtype in [A, AAAA, HTTPS, SVCB] {
        for zone in [Some("vpce.amazonaws.com"), Some("svc.cluster.local"), None] {
            let answer = Answer {
                zone: zone.map(str::to_owned),
                ..of(qtype, Vec::new())
            };
            t.answered(
                format!("NODATA of type {qtype} with the SOA of {zone:?}"),
                cached("foo", answer),
                ask(question(name(BROKER), qtype).additional(opt(1232, 0, &[]))),
                "the chain, and how long there is nothing at its end (RFC 2308 §3)",
            );
        }
    }
    let alias = Answer {
        qtype: CNAME,
        chain: endpoint().chain[..1].to_vec(),
        rdata: Vec::new(),
        zone: None,
    };
    t.answered(
        "CNAME",
        cached("foo", alias),
        asks(CNAME),
        "the CNAME alone",
    );
    for qtype in [MX, TXT, 2, 33, 65_280] {
        t.taken(
            format!("type {qtype}"),
            cached("foo", endpoint()),
            asks(qtype),
            "types beside the five are never kept",
        );
    }
    t.taken(
        "another qtype",
        cached("foo", of(AAAA, addresses_v6(2))),
        asks(A),
        "addresses of one family are no answer for the other",
    );
}

fn families_and_tags(t: &mut Table) {
    for (label, server) in [
        ("first IPv4", FIRST_V4),
        ("last IPv4", LAST_V4),
        ("first IPv6", FIRST_V6),
        ("last IPv6", LAST_V6),
    ] {
        t.answered(
            format!("{label} server"),
            cached("foo", endpoint()).at(server),
            ask_at(server, broker()),
            "source and destination change places",
        );
        for (tags, list) in [
            ("802.1Q", &[(0x8100, 7)][..]),
            ("802.1Q with priority", &[(0x8100, 0xe005)]),
            ("802.1ad", &[(0x88a8, 100)]),
            ("QinQ", &[(0x88a8, 100), (0x8100, 200)]),
            ("802.1Q twice", &[(0x8100, 100), (0x8100, 0x6fff)]),
        ] {
            for message in [broker(), broker().additional(opt(4096, 0, &[]))] {
                let edns = message.additional.len();
                t.answered(
                    format!("{tags} to the {label} server with {edns} OPT"),
                    cached("foo", endpoint()).at(server),
                    map(ask_at(server, message), |packet| {
                        (list.iter()).fold(packet, |packet, (tpid, tci)| packet.tag(*tpid, *tci))
                    }),
                    "the reply leaves with the tags that the query had",
                );
            }
        }
        t.answered(
            format!("padding behind a query to the {label} server"),
            cached("foo", endpoint()).at(server),
            map(ask_at(server, broker()), |packet| {
                packet.with(|p| p.trailer = vec![0x5a; 11])
            }),
            "what follows the IP packet is not part of the reply",
        );
        t.answered(
            format!("traffic class, flow label and TTL to the {label} server"),
            cached("foo", endpoint()).at(server),
            map(ask_at(server, broker()), |packet| {
                packet.with(|p| {
                    p.traffic_class = 0xb8;
                    p.flow_label = 0xf_1234;
                    p.ttl = 1;
                })
            }),
            "the rest of the headers is as it came",
        );
        t.answered(
            format!("non-linear buffer to the {label} server"),
            cached("foo", endpoint()).at(server),
            ask_at(server, broker().additional(opt(1232, 0, &[(10, &[7; 8])]))),
            "only the Ethernet header is in the linear part",
        )
        .paged = true;
    }
    t.answered(
        "no UDP checksum",
        cached("foo", endpoint()),
        map(ask(broker()), |packet| {
            packet.with_udp(|udp| udp.checksum = Checksum::Zero)
        }),
        "none in the query, none in the reply (RFC 768)",
    );
    for port in [1, 53, 5353, 65_535] {
        t.answered(
            format!("source port {port}"),
            cached("foo", endpoint()),
            map(ask(broker()), |packet| {
                packet.with_udp(|udp| udp.source_port = port)
            }),
            "the reply goes where the query came from",
        );
    }
}

fn headers(t: &mut Table) {
    for flags in [0, RD, CD, RD | CD, RD | AD, RD | AD | CD] {
        t.answered(
            format!("flags {flags:#06x}"),
            cached("foo", endpoint()),
            ask(broker().flags(flags)),
            "RD and CD are copied; RA is set; AA, AD and Z never are",
        );
    }
    for id in [0, 1, 0x00ff, 0xff00, 0xfffe, 0xffff] {
        t.answered(
            format!("ID {id:#06x}"),
            cached("foo", endpoint()),
            ask(broker().with(|m| m.id = id)),
            "the ID is the query's",
        );
    }
    for id in 0..64u16 {
        t.answered(
            format!("ID {} of a series", id * 1021),
            cached("foo", plain(1)),
            ask(broker().with(|m| m.id = id * 1021)),
            "any sum is right",
        );
    }
}

/// The UDP checksum of a frame without tags.
fn udp_checksum(frame: &[u8]) -> u16 {
    let at = if frame[12..14] == [0x08, 0] { 40 } else { 60 };
    u16::from_be_bytes([frame[at], frame[at + 1]])
}

/// A sum of 0 is sent as ones: 0 means that there is none (RFC 768), and IPv6 has no such thing (RFC 8200 §8.1).
fn sums_of_zero(t: &mut Table) {
    for server in [FIRST_V4, FIRST_V6] {
        let entry = cached("foo", plain(1)).at(server).for_term(Term {
            fixed_ttl: Some(9),
            ..HALF_MINUTE
        });
        let with_id = |id| ask_at(server, broker().with(|m| m.id = id));
        let mut other = Table(Vec::new());
        let zero = other
            .answered("", entry.clone(), with_id(0), "")
            .replies(Duration::ZERO);
        // The checksum of a message whose ID is 0 is what its ID has to grow by.
        let reply_id = udp_checksum(&zero[0]);
        let query_id = udp_checksum(&with_id(0).0.build().bytes);
        for (label, id) in [("reply", reply_id), ("query", query_id)] {
            let case = t.answered(
                format!("a {label} to {server} whose sum is zero"),
                entry.clone(),
                with_id(id),
                "sent as ones",
            );
            let frame = match label {
                "reply" => case.replies(Duration::ZERO).remove(0),
                _ => case.frame().bytes,
            };
            assert_eq!(udp_checksum(&frame), 0xffff, "{label}");
        }
    }
}

fn names(t: &mut Table) {
    let shortest = name_of(name("a.aws.private.kafka.managed.foo.svc.cluster.local").len()).len();
    for len in (shortest..=255).filter(|len| len % 9 < 2 || *len > 250) {
        for message in [
            question(name_of(len), A),
            question(name_of(len), A).additional(opt(1232, 0, &[])),
        ] {
            let edns = message.additional.len();
            t.answered(
                format!("name of {len} bytes with {edns} OPT"),
                cached("foo", endpoint()),
                ask(message),
                "pointers count from where the question ends, and so does the parity of the sum",
            );
        }
    }
    t.answered(
        "one label",
        cached("", plain(2)).by(ONE_LABEL, &[]),
        ask(question(name("localkafka"), A)),
        "a name may be one label",
    );
    t.answered(
        "the shortest name of a rule",
        cached("", plain(2)).by(TINY_LABELS, &[]),
        ask(question(name("a.x.y"), A)),
        "seven bytes",
    );
    t.answered(
        "127 labels",
        cached("", plain(2)).by(TINY_LABELS, &[]),
        ask(question(
            [&[1, b'a'].repeat(125)[..], b"\x01x\x01y\0"].concat(),
            A,
        )),
        "the most labels that fit into 255 bytes",
    );
    t.answered(
        "exact override",
        cached("", plain(2)).by(EXACT, &[]),
        ask(question(name("BROKER-1.example.TEST"), A)),
        "a rule without captures has one entry",
    );
    t.answered(
        "any bytes under a star",
        cached("", plain(2)).by(WIDE, &[]),
        ask(question(labels_of(&[b"a\0b\x01", b"wide", b"test"]), A)),
        "the question is echoed, whatever it is",
    );
    for text in [
        BROKER.to_uppercase(),
        "LkC-1.eU-wEsT-1.AwS.PrIvAtE.kAfKa.MaNaGeD.fOo.SvC.ClUsTeR.lOcAl".to_owned(),
        "lkc-1.aws.private.kafka.managed.FOO.svc.cluster.local".to_owned(),
        "lkc-1.aws.private.kafka.managed.fOO.SVC.cluster.local".to_owned(),
    ] {
        t.answered(
            format!("case of {text}"),
            cached("foo", endpoint()),
            ask(question(name(&text), A)),
            "echoed byte for byte (0x20), and looked up in lower case",
        );
    }
}

/// A label of a namespace's letters.
fn label(len: usize, seed: usize) -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyz0123456789";
    let mut label: String = (0..len)
        .map(|at| char::from(letters[(at * 7 + seed + len) % letters.len()]))
        .collect();
    if len > 2 {
        label.replace_range(1..2, "-");
    }
    label
}

fn captures(t: &mut Table) {
    for len in 1..=63 {
        let namespace = label(len, 0);
        let asked = |label: &str| ask(question(in_namespace(label), A));
        t.answered(
            format!("capture of {len} bytes"),
            cached(&namespace, plain(2)),
            asked(&namespace.to_uppercase()),
            "the whole label is the key, in words",
        );
        let mut other = namespace.clone();
        other.replace_range(len - 1.., if namespace.ends_with('z') { "y" } else { "z" });
        t.taken(
            format!("capture of {len} bytes, the last of them another"),
            cached(&namespace, plain(2)),
            asked(&other),
            "one tenant's answer is never another's",
        );
        if len < 63 {
            t.taken(
                format!("capture of {len} bytes and one more"),
                cached(&namespace, plain(2)),
                asked(&format!("{namespace}0")),
                "nor is that of a namespace whose name begins alike",
            );
        }
    }
    let two = |first: &str, second: &str| {
        ask(question(
            name(&format!("b-1.{first}.apart.{second}.two.test")),
            A,
        ))
    };
    for (first, second) in [
        (1, 1),
        (1, 63),
        (63, 1),
        (7, 8),
        (8, 7),
        (8, 8),
        (9, 16),
        (63, 63),
    ] {
        let (first, second) = (label(first, 3), label(second, 11));
        t.answered(
            format!("captures {first} and {second}"),
            cached("", plain(2)).by(TWO, &[&first, &second]),
            two(&first, &second),
            "two are the most that a key has room for",
        );
        if first != second {
            t.taken(
                format!("captures {first} and {second} the other way round"),
                cached("", plain(2)).by(TWO, &[&second, &first]),
                two(&first, &second),
                "each is in its own place",
            );
        }
    }
    t.taken(
        "captures of the same letters",
        cached("", plain(2)).by(TWO, &["ab", "c"]),
        two("a", "bc"),
        "lengths are part of the key",
    );
    t.answered(
        "capture in front",
        cached("", plain(2)).by(CAPTURE_FIRST, &["tenant-7"]),
        ask(question(name("tenant-7.db.test"), A)),
        "there is nothing in front of it",
    );
    t.taken(
        "rule by regex",
        cached("", plain(2)).by(REGEX, &["foo"]),
        ask(question(name("broker-1.foo.regex.test"), A)),
        "what it captures is not known to the program",
    );
}

fn edns(t: &mut Table) {
    let with = |record: Vec<u8>| broker().additional(record);
    for size in [0, 100, 511, 512, 513, 1231, 1232, 1233, 4096, 65_535] {
        t.answered(
            format!("OPT of {size}"),
            cached("foo", endpoint()),
            ask(with(opt(size, 0, &[]))),
            "an OPT for an OPT, with our own size",
        );
    }
    for (label, flags) in [
        ("DO", DO),
        ("DO and unknown flags", 0xffff),
        ("unknown flags", 0x7fff),
    ] {
        for options in [&[][..], &[0, 10, 0, 8, 1, 2, 3, 4, 5, 6, 7, 8][..]] {
            t.answered(
                format!("{label} with {} bytes of options", options.len()),
                cached("foo", endpoint()),
                ask(with(record(&[0], 41, 1232, flags, options))),
                "DO is copied, and no other flag (RFC 6891 §6.1.4)",
            );
        }
    }
    t.answered(
        "an extended rcode in a query",
        cached("foo", endpoint()),
        ask(with(record(&[0], 41, 1232, 0xab00_0000, &[]))),
        "it means nothing there, and the reply's is 0",
    );
    for len in 16..=40usize {
        let cookie: Vec<u8> = (0..len).map(|at| (at * 29 + 167) as u8).collect();
        let record = opt(1232, 0, &[(10, &cookie)]);
        for message in [
            with(record.clone()),
            question(name_of(61), A).additional(record),
        ] {
            t.answered(
                format!(
                    "a cookie of {len} bytes behind a question of {}",
                    message.questions[0].len()
                ),
                cached("foo", endpoint()),
                ask(message),
                "a server part is echoed (RFC 7873 §5.3), at any parity",
            );
        }
    }
    for len in [9, 15, 41, 100] {
        t.taken(
            format!("a cookie of {len} bytes"),
            cached("foo", endpoint()),
            ask(with(opt(1232, 0, &[(10, &vec![0xa5; len])]))),
            "no length that a cookie may have (RFC 7873 §4): userspace decides",
        );
    }
    let full = [0xa5; 24];
    for (label, options) in [
        (
            "a cookie with a server part behind padding",
            [(12, &[0; 7][..]), (10, &full)],
        ),
        (
            "a cookie with a server part before padding",
            [(10, &full), (12, &[0; 7])],
        ),
        ("two cookies with a server part", [(10, &full), (10, &full)]),
    ] {
        t.taken(
            label,
            cached("foo", endpoint()),
            ask(with(opt(1232, 0, &options))),
            "userspace echoes a cookie that is not alone",
        );
    }
    let full: [(&str, u16, &[u8]); 7] = [
        ("cookie", 10, &[1, 2, 3, 4, 5, 6, 7, 8]),
        ("padding", 12, &[0; 100]),
        ("client subnet", 8, &[0, 1, 24, 0, 192, 0, 2]),
        ("keepalive", 11, &[]),
        ("NSID", 3, &[]),
        ("unknown option", 65_001, b"what is this"),
        ("DAU", 5, &[8, 13, 15]),
    ];
    for (label, code, data) in full {
        t.answered(
            label,
            cached("foo", endpoint()),
            ask(with(opt(1232, 0, &[(code, data)]))),
            "ignored and not echoed (SEMANTICS rule 8)",
        );
    }
    for len in 0..=33usize {
        let data: Vec<u8> = (0..len).map(|at| (at * 37 + 201) as u8).collect();
        for message in [with(opt(1232, 0, &[(65_002, &data)])), {
            let odd = question(name_of(61), A);
            odd.additional(opt(1232, 0, &[(65_002, &data)]))
        }] {
            t.answered(
                format!(
                    "option of {len} bytes behind a question of {}",
                    message.questions[0].len()
                ),
                cached("foo", endpoint()),
                ask(message),
                "what is taken out leaves the sum, at any parity",
            );
        }
    }
    let options = |count: usize| vec![(65_003u16, &b"x"[..]); count];
    for count in [2, 15, 16] {
        t.answered(
            format!("{count} options"),
            cached("foo", endpoint()),
            ask(with(opt(1232, 0, &options(count)))),
            "as many as are walked",
        );
    }
    for count in [17, 40] {
        t.taken(
            format!("{count} options"),
            cached("foo", endpoint()),
            ask(with(opt(1232, 0, &options(count)))),
            "a longer list is userspace's to read",
        );
    }
    for (len, expect) in [
        (255, Expect::Answered),
        (256, Expect::Answered),
        (257, Expect::Taken),
        (900, Expect::Taken),
    ] {
        let data = vec![0xe7; len - 4];
        t.add(
            expect,
            format!("{len} bytes of options"),
            vec![cached("foo", endpoint())],
            KAFKA,
            ask(with(opt(1232, 0, &[(12, &data)]))),
            "what is not looked at has no sum that could be taken out",
        );
    }
    for (label, options) in [
        (
            "an option longer than the list",
            &[0, 10, 0, 9, 1, 2, 3, 4, 5, 6, 7, 8][..],
        ),
        (
            "an option shorter than the list",
            &[0, 10, 0, 7, 1, 2, 3, 4, 5, 6, 7, 8],
        ),
        ("an option of 65,535 bytes", &[0, 10, 0xff, 0xff]),
        ("half an option", &[0, 10]),
        ("three bytes of an option", &[0, 10, 0]),
        ("an option and a byte", &[0, 11, 0, 0, 0]),
    ] {
        t.taken(
            label,
            cached("foo", endpoint()),
            ask(with(record(&[0], 41, 1232, 0, options))),
            "a list that does not end where it should is userspace's to judge",
        );
    }
}

fn sizes(t: &mut Table) {
    // Header, question, a CNAME of 50 bytes and 20 addresses of 16.
    let rest = 12 + 4 + 50 + 20 * 16;
    for (label, opt_len, record) in [
        ("without OPT", 0, None),
        ("with an OPT of 512", 11, Some(opt(512, 0, &[]))),
        ("with an OPT of 100", 11, Some(opt(100, 0, &[]))),
        ("with an OPT of 0", 11, Some(opt(0, 0, &[]))),
        ("with a cookie", 11, Some(opt(512, 0, &[(10, &[9; 8])]))),
        (
            "with a cookie to be echoed",
            11 + 4 + 40,
            Some(opt(512, 0, &[(10, &[9; 40])])),
        ),
    ] {
        for (message_len, expect) in [
            (511, Expect::Answered),
            (512, Expect::Answered),
            (513, Expect::Taken),
            (514, Expect::Taken),
        ] {
            let mut message = question(name_of(message_len - rest - opt_len), A);
            message.additional.extend(record.clone());
            t.add(
                expect,
                format!("{message_len} bytes {label}"),
                vec![cached("foo", plain(20))],
                KAFKA,
                ask(message),
                "512 is the least that every client takes, and the most without OPT (RFC 1035 §4.2.1)",
            );
        }
    }
    for (advertised, message_len, expect) in [
        (600, 599, Expect::Answered),
        (600, 600, Expect::Answered),
        (600, 601, Expect::Taken),
        (640, 640, Expect::Answered),
        (640, 641, Expect::Taken),
    ] {
        let name = name_of(message_len - rest - 11);
        t.add(
            expect,
            format!("{message_len} bytes where {advertised} are taken"),
            vec![cached("foo", plain(20))],
            KAFKA,
            ask(question(name, A).additional(opt(advertised, 0, &[]))),
            "never more than the client has said",
        );
    }
    // An entry has the chain once and the RRset twice; a CNAME takes 12 bytes beside its target.
    let target_len = SECTION_LEN - 2 * 16 * 20 - 12;
    for (len, expect) in [
        (target_len - 1, Expect::Answered),
        (target_len, Expect::Answered),
        (target_len + 1, Expect::Taken),
        (target_len + 2, Expect::Taken),
    ] {
        let answer = Answer {
            chain: vec![text_of(len)],
            ..plain(20)
        };
        t.add(
            expect,
            format!("a chain of {} bytes and 20 addresses", 12 + len),
            vec![cached("foo", answer)],
            KAFKA,
            ask(broker().additional(opt(1232, 0, &[]))),
            "an entry is as large as it is; what does not fit is userspace's",
        );
    }
    let most = MAX_RECORDS as u8;
    for (count, expect) in [(most, Expect::Answered), (most + 1, Expect::Taken)] {
        let answer = Answer {
            chain: vec!["t.test".to_owned()],
            ..plain(count)
        };
        t.add(
            expect,
            format!("{count} addresses behind a short target"),
            vec![cached("foo", answer)],
            KAFKA,
            ask(broker().additional(opt(1232, 0, &[]))),
            "as many as a program counts",
        );
    }
    // Behind the longest name, with the longest entry: the largest reply of all. An owner that is a pointer takes two
    // bytes, like that to the question.
    let rest = SECTION_LEN - (12 + 255) - (12 + 253) - 12;
    for (label, third, expect) in [
        ("the largest reply", rest, Expect::Answered),
        ("one byte more", rest + 1, Expect::Taken),
    ] {
        let answer = Answer {
            chain: [255, 253, third].map(text_of).to_vec(),
            rdata: Vec::new(),
            ..endpoint()
        };
        t.add(
            expect,
            label,
            vec![cached("foo", answer)],
            KAFKA,
            ask(question(name_of(255), A).additional(opt(1232, 0, &[]))),
            "no entry makes a reply of 1,232 bytes",
        );
    }
    // Each alias behind the first is a pointer for its owner and one for its own end.
    let most = 1 + MAX_POINTERS / 2;
    for (aliases, expect) in [(most, Expect::Answered), (most + 1, Expect::Taken)] {
        let answer = Answer {
            chain: (0..aliases)
                .map(|i| format!("step-{i}.chain.test"))
                .collect(),
            ..plain(4)
        };
        t.add(
            expect,
            format!("{aliases} aliases"),
            vec![cached("foo", answer)],
            KAFKA,
            ask(broker().additional(opt(1232, 0, &[]))),
            "as many pointers as an entry has places for",
        );
    }
}

/// A name of this many bytes on the wire that shares no end with others of another length.
fn text_of(len: usize) -> String {
    let mut labels = Vec::new();
    let mut left = len - 1;
    while left > 0 {
        let take = match left {
            0..=64 => left,
            65 => 63,
            _ => 64,
        };
        labels.push(String::from_utf8(vec![b'a' + (len % 26) as u8; take - 1]).expect("letters"));
        left -= take;
    }
    let text = labels.join(".");
    assert_eq!(name(&text).len(), len);
    text
}

fn ages(t: &mut Table) {
    let expiring_in = |fresh_ms, grace, fixed_ttl| {
        cached("foo", endpoint()).for_term(Term {
            fresh: Duration::from_millis(fresh_ms),
            grace: Duration::from_secs(grace),
            fixed_ttl,
            ..Term::default()
        })
    };
    for seconds in [20, 30, 3600, 86_400, 604_800] {
        t.answered(
            format!("{seconds} s left"),
            expiring_in(seconds * 1000, 5, None),
            ask(broker()),
            "the TTL counts down",
        );
    }
    for (label, answer) in [
        ("a chain of 62 bytes", plain(3)),
        (
            "a NODATA",
            Answer {
                rdata: Vec::new(),
                zone: Some("cluster.local".to_owned()),
                ..endpoint()
            },
        ),
    ] {
        let term = Term {
            fresh: Duration::from_secs(200_000),
            ..HALF_MINUTE
        };
        t.answered(
            format!("a TTL of both halves on {label}"),
            cached("foo", answer).for_term(term),
            ask(broker().additional(opt(1232, 0, &[]))),
            "a TTL over 65,535 s has an upper half",
        );
    }
    t.add(
        Expect::Refreshed,
        "grace",
        vec![expiring_in(0, 60, None)],
        KAFKA,
        ask(broker()),
        "answered with a TTL of 1 while userspace asks again",
    );
    t.add(
        Expect::Refreshed,
        "grace, IPv6, QinQ, OPT",
        vec![expiring_in(0, 60, None).at(FIRST_V6)],
        KAFKA,
        map(
            ask_at(
                FIRST_V6,
                broker().additional(opt(1232, 0, &[(10, &[7; 8])])),
            ),
            |packet| packet.tag(0x88a8, 100).tag(0x8100, 200),
        ),
        "userspace gets the query as it came",
    );
    t.add(
        Expect::Refreshed,
        "grace of an answer with a fixed TTL",
        vec![expiring_in(0, 60, Some(30))],
        KAFKA,
        ask(broker()),
        "in its grace everything is answered with a TTL of 1",
    );
    t.taken(
        "past its grace",
        expiring_in(0, 0, None),
        ask(broker()),
        "too old for any use",
    );
    t.answered(
        "fixed TTL",
        expiring_in(600_000, 5, Some(17)),
        ask(broker()),
        "what outlived its TTL is answered with one that does not count down (RFC 8767 §4)",
    );
}

fn keys(t: &mut Table) {
    let absent = |entry: Entry| entry.is(What::NoTarget);
    for qtype in [A, AAAA, CNAME, HTTPS, SVCB] {
        t.add(
            Expect::NoTarget,
            format!("no target, type {qtype}"),
            vec![absent(cached("foo", endpoint()))],
            KAFKA,
            ask(question(name(BROKER), qtype)),
            "a name that does not exist has no type",
        );
    }
    t.add(
        Expect::NoTarget,
        "no target, IPv6 and QinQ",
        vec![absent(cached("foo", endpoint())).at(FIRST_V6)],
        KAFKA,
        map(ask_at(FIRST_V6, broker()), |packet| {
            packet.tag(0x88a8, 100).tag(0x8100, 200)
        }),
        "it passes as it came",
    );
    t.taken(
        "no target, type MX",
        absent(cached("foo", endpoint())),
        ask(question(name(BROKER), MX)),
        "of types that are not kept, userspace knows",
    );
    t.taken(
        "no target for another namespace",
        absent(cached("fop", endpoint())),
        ask(broker()),
        "one tenant's lack is never another's",
    );
    t.taken(
        "no target at another server",
        absent(cached("foo", endpoint())).at(LAST_V4),
        ask(broker()),
        "servers may know different things",
    );
    t.taken(
        "no target until just now",
        cached("foo", endpoint()).is(What::NoTargetBefore),
        ask(broker()),
        "a target may appear",
    );
    t.add(
        Expect::NoTarget,
        "no target any more",
        vec![cached("foo", endpoint()), absent(cached("foo", endpoint()))],
        KAFKA,
        ask(broker()),
        "an answer goes with its target",
    );
    t.add(
        Expect::Answered,
        "a target after all",
        vec![cached("foo", endpoint())],
        KAFKA,
        ask(broker()),
        "the last entry holds",
    )
    .cached
    .insert(1, absent(cached("bar", endpoint())));
    t.taken(
        "taken away",
        cached("foo", endpoint()).is(What::TakenAway(endpoint(), HALF_MINUTE)),
        ask(broker()),
        "an answer that is no longer right is gone at once",
    );
    for (label, server) in [
        ("the other IPv4 server", LAST_V4),
        ("a server of the other family", FIRST_V6),
    ] {
        t.taken(
            format!("an entry for {label}"),
            cached("foo", endpoint()).at(server),
            ask(broker()),
            "answers of one server are not another's",
        );
    }
    t.taken(
        "an entry of another rule",
        cached("foo", endpoint()).by(CAPTURE_FIRST, &["foo"]),
        ask(broker()),
        "rules may have different targets for one namespace",
    )
    .rule = KAFKA;
    t.add(
        Expect::Answered,
        "a thousand namespaces",
        std::iter::once(cached("foo", endpoint()))
            .chain((0..999).map(|i| cached(&format!("team-{i}"), plain((i % 20) as u8 + 1))))
            .collect(),
        KAFKA,
        ask(broker()),
        "each has its own",
    );
    t.taken(
        "empty tables",
        cached("bar", endpoint()),
        ask(broker()),
        "what is not known is asked for",
    );
}
