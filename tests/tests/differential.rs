//! gregor against CoreDNS with the article's template: the same questions to two nodes, of which one has gregor and the other
//! the template. What differs in an answer is on the list of deviations below, or the test fails. It also fails when a
//! deviation on that list never occurs. Wants root and CoreDNS.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use gregor_tests::{
    lab::{
        CacheKind, ClusterKind, Lab, Pod, tools,
        world::{Data, ExternalName, NODE_LOCAL_V4, Record, World, Zone},
    },
    packets::{
        build::{RD, labels_of, opt, question},
        oracle,
    },
};
use hickory_proto::{
    op::{Message, ResponseCode},
    rr::{Name, RData, RecordType, rdata::opt::EdnsCode},
};
use rand::{Rng, RngExt as _, SeedableRng as _, rngs::StdRng};
use regex::Regex;
use serde_json::Value;

const PATTERN: &str = "*.aws.private.kafka.managed.{namespace}.svc.cluster.local";
const SUFFIX: &str = "aws.private.kafka.managed";
/// What the article's template matches, on the presentation form.
const TEMPLATE: &str = r"^.*.+\.aws\.private\.kafka\.managed\.(.+)\.svc\.cluster\.local";
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;

const TYPES: [u16; 13] = [
    A, AAAA, CNAME, TXT, HTTPS, SVCB, MX, SRV, ANY, HINFO, SOA, NS, PRIVATE,
];
const A: u16 = 1;
const NS: u16 = 2;
const CNAME: u16 = 5;
const SOA: u16 = 6;
const HINFO: u16 = 13;
const MX: u16 = 15;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;
const SVCB: u16 = 64;
const HTTPS: u16 = 65;
const ANY: u16 = 255;
const PRIVATE: u16 = 65_280;

/// Namespaces with a target, by what their chain ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Addresses of one family at least.
    Addresses,
    /// A name without addresses.
    Nothing,
    /// A name that does not exist.
    Missing,
    /// More aliases than are followed, or aliases that come back to where they were.
    Endless,
}

/// A tenant with a Service `kafka-upstream`.
#[derive(Clone, Debug)]
struct Tenant {
    namespace: String,
    /// The target and every alias behind it.
    chain: Vec<String>,
    v4: u8,
    v6: u8,
    end: End,
}

impl Tenant {
    fn new(namespace: &str, aliases: usize, v4: u8, v6: u8, end: End) -> Self {
        let label = namespace.get(..20).unwrap_or(namespace);
        let chain = (0..=aliases)
            .map(|step| format!("vpce-{step}-{label}.eu-west-1.vpce.amazonaws.com."))
            .collect();
        Self {
            namespace: namespace.to_owned(),
            chain,
            v4,
            v6,
            end,
        }
    }

    /// Addresses of a type, in presentation form.
    fn addresses(&self, qtype: u16, number: u8) -> BTreeSet<String> {
        match qtype {
            A => (0..self.v4).map(|n| v4(number, n).to_string()).collect(),
            AAAA => (0..self.v6).map(|n| v6(number, n).to_string()).collect(),
            _ => BTreeSet::new(),
        }
    }
}

fn v4(tenant: u8, number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 99, tenant, number + 1)
}

fn v6(tenant: u8, number: u8) -> Ipv6Addr {
    Ipv6Addr::new(
        0xfd00,
        0x99,
        tenant.into(),
        0,
        0,
        0,
        0,
        u16::from(number) + 1,
    )
}

fn tenants() -> Vec<Tenant> {
    let longest = "n".repeat(63);
    let mut mixed = Tenant::new("mixed", 1, 2, 1, End::Addresses);
    for name in &mut mixed.chain {
        *name = name.replace("vpce-", "VPCE-Mixed-");
    }
    vec![
        Tenant::new("foo", 0, 3, 0, End::Addresses),
        Tenant::new("bar", 0, 2, 1, End::Addresses),
        Tenant::new("six", 0, 0, 2, End::Addresses),
        Tenant::new("chain", 3, 1, 1, End::Addresses),
        Tenant::new("long", 7, 2, 2, End::Addresses),
        Tenant::new("many", 0, 100, 60, End::Addresses),
        mixed,
        Tenant::new(&longest, 0, 1, 1, End::Addresses),
        // A namespace called like a label of the suffix.
        Tenant::new("svc", 0, 1, 0, End::Addresses),
        Tenant::new(LATE, 0, 2, 1, End::Addresses),
        Tenant::new("empty", 0, 0, 0, End::Nothing),
        Tenant::new("empty-far", 2, 0, 0, End::Nothing),
        Tenant::new("broken", 0, 0, 0, End::Missing),
        Tenant::new("broken-far", 2, 0, 0, End::Missing),
        Tenant::new("toolong", 14, 1, 1, End::Endless),
        Tenant::new("loop", 3, 0, 0, End::Endless),
    ]
}

/// The tenant whose target is not asked for before the upstream fails.
const LATE: &str = "late";

/// Namespaces that have no target: one that exists, and some that do not.
const WITHOUT: [&str; 4] = ["baz", "ghost", "x", "a-b-c"];

fn world(tenants: &[Tenant]) -> World {
    let mut world = World::default();
    world.external_names.clear();
    world.namespaces = vec!["default".to_owned(), "baz".to_owned()];
    let mut records = Vec::new();
    let mut push = |owner: &str, data| {
        records.push(Record {
            owner: owner.to_owned(),
            ttl: 60,
            data,
        });
    };
    for (number, tenant) in tenants.iter().enumerate() {
        let number = number as u8;
        world.namespaces.push(tenant.namespace.clone());
        world.external_names.push(ExternalName {
            service: "kafka-upstream".to_owned(),
            namespace: tenant.namespace.clone(),
            target: tenant.chain[0].clone(),
        });
        for pair in tenant.chain.windows(2) {
            push(&pair[0], Data::Cname(pair[1].clone()));
        }
        let last = &tenant.chain[tenant.chain.len() - 1];
        (0..tenant.v4).for_each(|n| push(last, Data::A(v4(number, n))));
        (0..tenant.v6).for_each(|n| push(last, Data::Aaaa(v6(number, n))));
        match tenant.end {
            // An empty non-terminal.
            End::Nothing => push(&format!("below.{last}"), Data::A(v4(number, 0))),
            End::Endless if tenant.v4 == 0 => push(last, Data::Cname(tenant.chain[1].clone())),
            _ => {}
        }
    }
    world
        .zones
        .retain(|zone| zone.apex != "vpce.amazonaws.com.");
    world.zones.push(Zone {
        apex: "vpce.amazonaws.com.".to_owned(),
        records,
    });
    world
}

/// One question, with its header flags and EDNS.
#[derive(Clone, Debug)]
struct Question {
    /// Wire format.
    qname: Vec<u8>,
    qtype: u16,
    flags: u16,
    /// UDP size and DO.
    edns: Option<(u16, bool)>,
}

impl Question {
    fn message(&self, id: u16) -> Vec<u8> {
        let mut message = question(&self.qname, self.qtype).flags(self.flags);
        message.id = id;
        if let Some((size, dnssec_ok)) = self.edns {
            let mut record = opt(size, 0, &[]);
            record[7] = u8::from(dnssec_ok) << 7;
            message = message.additional(record);
        }
        message.build()
    }
}

/// Wire names to ask for: every kind of matching name for every namespace, and what nearly matches or does not at all.
fn names(rng: &mut impl Rng, tenants: &[Tenant]) -> Vec<Vec<u8>> {
    let namespaces: Vec<&str> = tenants
        .iter()
        .map(|tenant| tenant.namespace.as_str())
        .filter(|namespace| *namespace != LATE)
        .chain(WITHOUT)
        .collect();
    let mut names = BTreeSet::new();
    for namespace in &namespaces {
        let tail = format!("{SUFFIX}.{namespace}.svc.cluster.local");
        let mut add = |brokers: &[&[u8]], case: bool| {
            let labels: Vec<Vec<u8>> = brokers
                .iter()
                .copied()
                .chain(tail.split('.').map(str::as_bytes))
                .map(<[u8]>::to_vec)
                .collect();
            names.insert(wire(rng_case(labels, case, namespace)));
        };
        for _ in 0..5 {
            let broker = random_label(rng, 12);
            add(&[&broker, b"eu-west-1"], false);
        }
        add(&[&random_label(rng, 8)], false);
        add(&[b"lkc-1", b"eu-west-1"], true);
        add(&[&random_label(rng, 5), b"a", b"b-c", b"0", b"_x"], true);
        add(&[&random_label(rng, 63)], false);
        add(&[&random_label(rng, 63), b"Eu-West-1"], true);
        let room = 255 - 2 - tail.len();
        let mut full: Vec<Vec<u8>> = Vec::new();
        let mut left = room;
        while left > 1 {
            let len = (left - 1).min(60);
            full.push(random_label(rng, len));
            left -= len + 1;
        }
        let full: Vec<&[u8]> = full.iter().map(Vec::as_slice).collect();
        add(&full, false);
        add(&[b"odd \x00\\\"(;)@'\x80", b"eu"], false);
    }
    for namespace in ["foo", "bar", "baz", "ghost"] {
        for text in [
            // No broker's label, no namespace, or too many.
            format!("{SUFFIX}.{namespace}.svc.cluster.local"),
            format!("b.{SUFFIX}.svc.cluster.local"),
            format!("b.{SUFFIX}.one.{namespace}.svc.cluster.local"),
            format!("b.{SUFFIX}.a.b.{namespace}.svc.cluster.local"),
            format!("b.{SUFFIX}.{namespace}.svc.cluster.local.svc.cluster.local"),
            // No RFC 1123 labels.
            format!("b.{SUFFIX}.-{namespace}.svc.cluster.local"),
            format!("b.{SUFFIX}.{namespace}-.svc.cluster.local"),
            format!("b.{SUFFIX}.{namespace}_.svc.cluster.local"),
            // Next door.
            format!("b.{SUFFIX}x.{namespace}.svc.cluster.local"),
            format!("b.x{SUFFIX}.{namespace}.svc.cluster.local"),
            format!("b.{SUFFIX}.{namespace}.pod.cluster.local"),
            format!("b.{SUFFIX}.{namespace}.svc.cluster.locals"),
            format!("b.{SUFFIX}.{namespace}.svc.cluster.local.example"),
            format!("b.{SUFFIX}.{namespace}.xsvc.cluster.local"),
            format!("kafka.{namespace}.svc.cluster.local"),
            format!("{namespace}.svc.cluster.local"),
            format!("b.eu-west-1.{SUFFIX}"),
            format!("{namespace}.b.{SUFFIX}"),
            format!("{namespace}.example.com"),
        ] {
            names.insert(wire(text.split('.').map(|l| l.as_bytes().to_vec())));
        }
        // A dot or a separator inside a label is no boundary.
        let tail = [
            "aws", "private", "kafka", "managed", namespace, "svc", "cluster", "local",
        ];
        for broker in [&b"a.b"[..], b"a\xffb", b"b.aws"] {
            names.insert(wire(
                std::iter::once(broker.to_vec()).chain(tail.map(|l| l.as_bytes().to_vec())),
            ));
        }
    }
    for text in [
        "",
        "local",
        "cluster.local",
        "svc.cluster.local",
        "com",
        "www.example.com",
        "WWW.Example.COM",
        "kafka.managed",
        "vpce.amazonaws.com",
        "managed",
        "nothing.test",
        "10.in-addr.arpa",
        SUFFIX,
    ] {
        names.insert(wire(
            text.split('.')
                .filter(|l| !l.is_empty())
                .map(|l| l.as_bytes().to_vec()),
        ));
    }
    names.into_iter().collect()
}

fn wire(labels: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let labels: Vec<Vec<u8>> = labels.into_iter().collect();
    let labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
    labels_of(&labels)
}

/// Upper case for letters in places that depend on `salt` alone.
fn rng_case(mut labels: Vec<Vec<u8>>, change: bool, salt: &str) -> Vec<Vec<u8>> {
    if change {
        let mut at = salt.len();
        for byte in labels.iter_mut().flatten() {
            at = at * 5 + 3;
            if at % 16 < 8 {
                byte.make_ascii_uppercase();
            }
            at %= 1 << 20;
        }
    }
    labels
}

fn random_label(rng: &mut impl Rng, len: usize) -> Vec<u8> {
    const CHARACTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..len)
        .map(|_| CHARACTERS[rng.random_range(0..CHARACTERS.len())])
        .collect()
}

fn corpus(rng: &mut impl Rng, names: &[Vec<u8>]) -> Vec<Question> {
    // No EDNS as glibc asks, then sizes, DO, and header bits; each name meets them in another order of types.
    let ways: [(u16, Option<(u16, bool)>); 9] = [
        (RD, None),
        (RD, Some((1232, false))),
        (RD, Some((4096, true))),
        (RD, Some((512, false))),
        (RD | CD, None),
        (RD | AD, Some((1232, true))),
        (0, None),
        (RD, Some((100, false))),
        (CD | AD, Some((4096, false))),
    ];
    let mut corpus = Vec::new();
    for name in names {
        let first = rng.random_range(0..ways.len());
        for (number, qtype) in TYPES.into_iter().enumerate() {
            let (flags, edns) = ways[(first + number) % ways.len()];
            corpus.push(Question {
                qname: name.clone(),
                qtype,
                flags,
                edns,
            });
        }
    }
    corpus
}

/// The parts of an answer that are compared.
#[derive(Clone, Debug)]
struct Answer {
    rcode: ResponseCode,
    /// Owners and targets in order, lower case.
    chain: Vec<(String, String)>,
    /// Everything else in the answer section.
    records: BTreeSet<String>,
    truncated: bool,
    authoritative: bool,
    recursion_available: bool,
    /// RD, AD and CD.
    bits: [bool; 3],
    /// Records of the authority section.
    authority: BTreeSet<String>,
    /// Size and DO of the OPT.
    opt: Option<(u16, bool)>,
    /// Whether it has an extended error (RFC 8914).
    extended_error: bool,
    /// The first owner, as it is spelled.
    first_owner: Option<String>,
    ttls: Vec<u32>,
    len: usize,
}

impl Answer {
    fn read(asked: &Question, reply: &[u8]) -> Self {
        let message = Message::from_vec(reply)
            .unwrap_or_else(|error| panic!("{}: {error}: {reply:02x?}", shown(asked)));
        let question = &message.queries[0];
        // Byte for byte, also from servers that answer in lower case (0x20).
        assert_eq!(spelled(question.name()), asked.qname, "{}", shown(asked));
        let mut chain = Vec::new();
        let mut records = BTreeSet::new();
        for record in &message.answers {
            match &record.data {
                RData::CNAME(target) => chain.push((
                    record.name.to_lowercase().to_string(),
                    target.0.to_lowercase().to_string(),
                )),
                data => drop(records.insert(data.to_string())),
            }
        }
        let bits = &message.metadata;
        Self {
            rcode: bits.response_code,
            chain,
            records,
            truncated: bits.truncation,
            authoritative: bits.authoritative,
            recursion_available: bits.recursion_available,
            bits: [
                bits.recursion_desired,
                bits.authentic_data,
                bits.checking_disabled,
            ],
            authority: message
                .authorities
                .iter()
                .map(|record| {
                    format!("{} {}", record.name, record.record_type()).to_ascii_lowercase()
                })
                .collect(),
            opt: message
                .edns
                .as_ref()
                .map(|edns| (edns.max_payload(), edns.flags().dnssec_ok)),
            extended_error: message
                .edns
                .as_ref()
                .is_some_and(|edns| edns.option(EdnsCode::from(15)).is_some()),
            first_owner: message
                .answers
                .first()
                .map(|record| escaped(&spelled(&record.name))),
            ttls: message
                .answers
                .iter()
                .chain(&message.authorities)
                .map(|record| record.ttl)
                .collect(),
            len: reply.len(),
        }
    }

    fn is_servfail(&self) -> bool {
        self.rcode == ResponseCode::ServFail && self.chain.is_empty() && self.records.is_empty()
    }

    /// NXDOMAIN or NODATA with the zone's SOA and nothing else, as from a cache that has no rule.
    fn is_negative(&self) -> bool {
        matches!(self.rcode, ResponseCode::NXDomain | ResponseCode::NoError)
            && self.chain.is_empty()
            && self.records.is_empty()
            && !self.authority.is_empty()
    }
}

fn spelled(name: &Name) -> Vec<u8> {
    let labels: Vec<&[u8]> = name.iter().collect();
    labels_of(&labels)
}

fn escaped(wire: &[u8]) -> String {
    wire.escape_ascii().to_string()
}

fn shown(asked: &Question) -> String {
    let qtype = RecordType::from(asked.qtype);
    format!(
        "{} {qtype} flags {:#06x} edns {:?}",
        asked.qname.escape_ascii(),
        asked.flags,
        asked.edns
    )
}

/// The parts of an answer that can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Rcode,
    Chain,
    Records,
    Truncated,
    Authoritative,
    RecursionAvailable,
    HeaderBits,
    Authority,
    Opt,
    OptSize,
    OwnerCase,
}

fn differing(ours: &Answer, theirs: &Answer) -> Vec<Part> {
    let dnssec_ok = |answer: &Answer| answer.opt.map(|(_, dnssec_ok)| dnssec_ok);
    let size = |answer: &Answer| answer.opt.map(|(size, _)| size);
    [
        (Part::Rcode, ours.rcode != theirs.rcode),
        (Part::Chain, ours.chain != theirs.chain),
        (Part::Records, ours.records != theirs.records),
        (Part::Truncated, ours.truncated != theirs.truncated),
        (
            Part::Authoritative,
            ours.authoritative != theirs.authoritative,
        ),
        (
            Part::RecursionAvailable,
            ours.recursion_available != theirs.recursion_available,
        ),
        (Part::HeaderBits, ours.bits != theirs.bits),
        (Part::Authority, ours.authority != theirs.authority),
        (Part::Opt, dnssec_ok(ours) != dnssec_ok(theirs)),
        (Part::OptSize, size(ours) != size(theirs)),
        (
            Part::OwnerCase,
            matches!((&ours.first_owner, &theirs.first_owner), (Some(a), Some(b)) if a != b),
        ),
    ]
    .into_iter()
    .filter_map(|(part, differs)| differs.then_some(part))
    .collect()
}

/// How the two match a name.
#[derive(Clone, Copy, Debug)]
enum Kind<'a> {
    /// The rule and the template match, and the namespace has a target (its number among the tenants).
    Tenant(&'a Tenant, u8),
    /// Both match, and there is no target.
    NoTarget,
    /// Only the template matches.
    TemplateOnly,
    /// Neither.
    Foreign,
}

struct Case<'a> {
    asked: &'a Question,
    name: Kind<'a>,
    ours: Answer,
    theirs: Answer,
    /// Whether the cluster DNS has ended.
    upstream_fails: bool,
}

impl Case<'_> {
    /// The tenant whose chain gregor must have looked at.
    fn tenant(&self) -> Option<(&Tenant, u8)> {
        match self.name {
            Kind::Tenant(tenant, number) => Some((tenant, number)),
            _ => None,
        }
    }

    fn limit(&self) -> usize {
        self.asked
            .edns
            .map_or(512, |(size, _)| usize::from(size).clamp(512, 1232))
    }

    /// The template's own answer, bare or with the chased records.
    fn template_answered(&self) -> bool {
        self.theirs.rcode == ResponseCode::NoError && !self.theirs.chain.is_empty()
    }
}

/// A deviation that is intended.
struct Deviation {
    /// Of SEMANTICS.md.
    rule: u8,
    name: &'static str,
    reason: &'static str,
    parts: &'static [Part],
    applies: fn(&Case<'_>) -> bool,
}

const DEVIATIONS: &[Deviation] = &[
    Deviation {
        rule: 1,
        name: "no target",
        reason: "libc resolvers stop at the template's bare CNAME; gregor lets the existing cache answer",
        parts: &[
            Part::Rcode,
            Part::Chain,
            Part::Authority,
            Part::Authoritative,
            Part::RecursionAvailable,
        ],
        applies: |case| {
            matches!(case.name, Kind::NoTarget)
                && case.theirs.chain.len() == 1
                && case.template_answered()
                && case.theirs.records.is_empty()
                && case.ours.rcode == ResponseCode::NXDomain
                && case.ours.is_negative()
        },
    },
    Deviation {
        rule: 2,
        name: "NODATA with SOA",
        reason: "the template returns what it chased without the SOA, so that no resolver can cache it as NODATA",
        parts: &[Part::Authority],
        applies: |case| {
            case.tenant().is_some()
                && case.asked.qtype != CNAME
                && case.ours.rcode == ResponseCode::NoError
                && case.ours.records.is_empty()
                && !case.ours.chain.is_empty()
                && case
                    .ours
                    .authority
                    .iter()
                    .all(|record| record.ends_with(" soa"))
                && case.ours.authority.len() == 1
                && case.theirs.records.is_empty()
                && case.theirs.authority.is_empty()
        },
    },
    Deviation {
        rule: 2,
        name: "end missing or no address",
        reason: "the template drops what it chased ended in and answers NOERROR; a CNAME without any address stops glibc",
        parts: &[Part::Rcode, Part::Chain, Part::Authority],
        applies: |case| {
            case.tenant()
                .is_some_and(|(tenant, _)| matches!(tenant.end, End::Missing | End::Nothing))
                && matches!(case.asked.qtype, A | AAAA)
                && case.template_answered()
                && case.theirs.records.is_empty()
                && case.ours.is_servfail()
        },
    },
    Deviation {
        rule: 4,
        name: "not one label",
        reason: "`(.+)` also spans dots and takes anything for a namespace; `{namespace}` is one RFC 1123 label, and a dot or a separator in a label is no boundary",
        parts: &[
            Part::Rcode,
            Part::Chain,
            Part::Records,
            Part::Authority,
            Part::Authoritative,
            Part::RecursionAvailable,
        ],
        applies: |case| {
            matches!(case.name, Kind::TemplateOnly)
                && case.template_answered()
                && case.ours.is_negative()
        },
    },
    Deviation {
        rule: 5,
        name: "owner as asked",
        reason: "the template answers with an owner in lower case; gregor points to the question (0x20)",
        parts: &[Part::OwnerCase],
        applies: |case| {
            let lower = case.asked.qname.to_ascii_lowercase();
            case.tenant().is_some()
                && case.ours.first_owner == Some(escaped(&case.asked.qname))
                && case.theirs.first_owner == Some(escaped(&lower))
        },
    },
    Deviation {
        rule: 8,
        name: "own UDP size",
        reason: "the template echoes the client's size; gregor sends its own",
        parts: &[Part::OptSize],
        applies: |case| {
            case.tenant().is_some()
                && case.ours.opt.is_some_and(|(size, _)| size == 1232)
                && case.theirs.opt.map(|(size, _)| size)
                    == case.asked.edns.map(|(size, _)| size.max(512))
        },
    },
    Deviation {
        rule: 9,
        name: "as many addresses as fit",
        reason: "CoreDNS cuts elsewhere; or sends up to 4,096 bytes, which may be fragmented, where gregor sets TC",
        parts: &[Part::Chain, Part::Records, Part::Truncated],
        applies: |case| {
            let Some((tenant, number)) = case.tenant() else {
                return false;
            };
            let all = tenant.addresses(case.asked.qtype, number);
            let record = if case.asked.qtype == A { 16 } else { 28 };
            let room_for_another = case.ours.len + record <= case.limit();
            case.ours.rcode == ResponseCode::NoError
                && !case.ours.records.is_empty()
                && case.ours.records.is_subset(&all)
                && (case.ours.records == all || !room_for_another)
                // Both truncate at the end.
                && case.ours.chain.starts_with(&case.theirs.chain)
                && (case.theirs.truncated || case.theirs.len > case.limit())
        },
    },
    Deviation {
        rule: 9,
        name: "not one address fits",
        reason: "half a chain is of no use: TC alone sends the client to TCP, where all of it is",
        parts: &[Part::Chain, Part::Records, Part::Truncated],
        applies: |case| {
            case.tenant()
                .is_some_and(|(tenant, _)| tenant.chain.len() > 3)
                && case.limit() == 512
                && (case.theirs.truncated || case.theirs.len > case.limit())
                && case.ours.truncated
                && case.ours.chain.is_empty()
                && case.ours.records.is_empty()
        },
    },
    Deviation {
        rule: 10,
        name: "AA=0",
        reason: "the template calls itself authoritative; gregor answers what it looked up",
        parts: &[Part::Authoritative],
        applies: |case| {
            case.tenant().is_some() && !case.ours.authoritative && case.theirs.authoritative
        },
    },
    Deviation {
        rule: 10,
        name: "RA=1",
        reason: "the template says that there is no recursion; the pod asked a recursive server",
        parts: &[Part::RecursionAvailable],
        applies: |case| {
            case.tenant().is_some()
                && case.ours.recursion_available
                && !case.theirs.recursion_available
        },
    },
    Deviation {
        rule: 12,
        name: "upstream fails",
        reason: "the template answers NOERROR with a bare CNAME, which is then cached as success",
        parts: &[Part::Rcode, Part::Chain],
        applies: |case| {
            case.upstream_fails
                && case
                    .tenant()
                    .is_some_and(|(tenant, _)| tenant.namespace == LATE)
                && case.template_answered()
                && case.theirs.records.is_empty()
                && case.ours.is_servfail()
        },
    },
    Deviation {
        rule: 12,
        name: "last good answer",
        reason: "only a positive answer keeps a client on the private endpoint while the upstream fails",
        parts: &[Part::Chain, Part::Records],
        applies: |case| {
            case.upstream_fails
                && case.template_answered()
                && case.theirs.records.is_empty()
                && case.ours.chain.starts_with(&case.theirs.chain)
                && case.tenant().is_some_and(|(tenant, number)| {
                    case.ours.records == tenant.addresses(case.asked.qtype, number)
                })
        },
    },
    Deviation {
        rule: 13,
        name: "endless chain",
        reason: "loops and chains of more than ten aliases are failures, not answers",
        parts: &[
            Part::Rcode,
            Part::Chain,
            Part::Records,
            Part::Authority,
            Part::Truncated,
        ],
        applies: |case| {
            case.tenant()
                .is_some_and(|(tenant, _)| tenant.end == End::Endless)
                && matches!(case.asked.qtype, A | AAAA)
                && case.ours.is_servfail()
        },
    },
];

/// Queries for types that are not kept may come at this pace, whatever the machine: the limit is 20 a second.
const UNKEPT_EVERY: Duration = Duration::from_millis(60);

/// Asks from a pod, one question after the other; every one is answered.
fn ask_from(pod: &Pod, questions: Vec<Question>, matched: Vec<bool>) -> Vec<Answer> {
    pod.netns()
        .enter(move || {
            let mut unkept_at = Instant::now();
            questions
                .iter()
                .zip(matched)
                .map(|(asked, matched)| {
                    if matched && !matches!(asked.qtype, A | AAAA | CNAME | HTTPS | SVCB) {
                        thread::sleep(unkept_at.saturating_duration_since(Instant::now()));
                        unkept_at = Instant::now() + UNKEPT_EVERY;
                    }
                    exchange(asked)
                })
                .collect()
        })
        .unwrap()
}

fn exchange(asked: &Question) -> Answer {
    let server = SocketAddr::new(IpAddr::V4(NODE_LOCAL_V4), 53);
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    socket.connect(server).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(20)))
        .unwrap();
    let id: u16 = rand::random();
    socket.send(&asked.message(id)).unwrap();
    let mut buffer = [0; 65_535];
    loop {
        let length = socket
            .recv(&mut buffer)
            .unwrap_or_else(|error| panic!("{}: {error}", shown(asked)));
        if buffer[..2] == id.to_be_bytes() {
            return Answer::read(asked, &buffer[..length]);
        }
    }
}

/// Three pods ask a third of the corpus each, at the same time.
fn ask_all(lab: &Lab, corpus: &[Question], matched: &[bool]) -> Vec<Answer> {
    let pods: Vec<&Pod> = lab.pods().collect();
    let mut answers: Vec<Option<Answer>> = vec![None; corpus.len()];
    thread::scope(|scope| {
        let threads: Vec<_> = pods
            .iter()
            .enumerate()
            .map(|(share, pod)| {
                let of = |index: &usize| index % pods.len() == share;
                let mine: Vec<usize> = (0..corpus.len()).filter(of).collect();
                let questions = mine.iter().map(|&index| corpus[index].clone()).collect();
                let matched = mine.iter().map(|&index| matched[index]).collect();
                scope.spawn(move || (mine, ask_from(pod, questions, matched)))
            })
            .collect();
        for thread in threads {
            let (mine, found) = thread.join().unwrap();
            for (index, answer) in mine.into_iter().zip(found) {
                answers[index] = Some(answer);
            }
        }
    });
    answers.into_iter().map(Option::unwrap).collect()
}

fn lab(world: &World, template: bool) -> Lab {
    Lab::builder("diff")
        .pod("foo")
        .pod("bar")
        .pod("baz")
        .cache(CacheKind::CoreDns { template })
        .cluster(ClusterKind::CoreDns)
        .world(world.clone())
        .start()
        .unwrap()
}

/// Of a name, without help from the product.
fn classify<'a>(asked: &Question, tenants: &'a [Tenant], template: &Regex) -> Kind<'a> {
    let name = presentation(&asked.qname);
    if oracle::find([PATTERN], &asked.qname).is_some() {
        let namespace = name.trim_end_matches(".svc.cluster.local.");
        let namespace = namespace.rsplit('.').next().unwrap();
        return match tenants.iter().position(|t| t.namespace == namespace) {
            Some(number) => Kind::Tenant(&tenants[number], number as u8),
            None => Kind::NoTarget,
        };
    }
    if name.ends_with(".svc.cluster.local.") && template.is_match(&name) {
        return Kind::TemplateOnly;
    }
    Kind::Foreign
}

/// Lower case, escaped as CoreDNS does it.
fn presentation(wire: &[u8]) -> String {
    let mut text = String::new();
    let mut rest = wire;
    while let [length @ 1..=63, tail @ ..] = rest {
        let (label, tail) = tail.split_at(usize::from(*length));
        for &byte in label {
            match byte {
                b'.' | b' ' | b'\'' | b'@' | b';' | b'(' | b')' | b'"' | b'\\' => {
                    text.extend(['\\', char::from(byte)]);
                }
                0x21..=0x7e => text.push(char::from(byte.to_ascii_lowercase())),
                _ => text.push_str(&format!("\\{byte:03}")),
            }
        }
        text.push('.');
        rest = tail;
    }
    text
}

#[test]
fn gregor_answers_as_the_articles_template_except_for_listed_deviations() {
    let seed = std::env::var("GREGOR_SEED").map_or(3, |seed| seed.parse().unwrap());
    println!("GREGOR_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let tenants = tenants();
    let world = world(&tenants);
    let template = Regex::new(TEMPLATE).unwrap();
    let names = names(&mut rng, &tenants);
    assert!(names.len() >= 300, "{} names", names.len());
    let corpus = corpus(&mut rng, &names);
    let kinds: Vec<Kind<'_>> = corpus
        .iter()
        .map(|asked| classify(asked, &tenants, &template))
        .collect();
    let matched: Vec<bool> = kinds
        .iter()
        .map(|kind| matches!(kind, Kind::Tenant(..) | Kind::NoTarget))
        .collect();

    let with_template = lab(&world, true);
    let with_gregor = lab(&world, false);
    let config = with_gregor.gregor_config()
        + "[upstream]\ntimeout = \"15s\"\n[limits]\nqueries_per_second = 0\n";
    let gregor = with_gregor
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let (theirs, ours) = thread::scope(|scope| {
        let theirs = scope.spawn(|| ask_all(&with_template, &corpus, &vec![false; corpus.len()]));
        let ours = scope.spawn(|| ask_all(&with_gregor, &corpus, &matched));
        (theirs.join().unwrap(), ours.join().unwrap())
    });

    let mut report = Report::default();
    let answers = ours.into_iter().zip(theirs);
    for ((asked, name), (ours, theirs)) in corpus.iter().zip(kinds).zip(answers) {
        report.judge(&Case {
            asked,
            name,
            ours,
            theirs,
            upstream_fails: false,
        });
    }

    // gregor answered what it should, and nothing was passed for lack of space.
    let status = gregor.status().unwrap();
    let responder = &status["responder"];
    for reason in ["busy", "rate_limited", "abandoned", "query", "no_rule"] {
        assert_eq!(responder["passed_on"][reason], 0, "{responder:#}");
    }
    let expected = matched
        .iter()
        .zip(&corpus)
        .filter(|(matched, _)| **matched)
        .count();
    let seen = responder["queries"].as_u64().unwrap() + by_the_program(&status);
    assert_eq!(seen, expected as u64, "{status:#}");
    assert_eq!(responder["send_errors"], 0, "{responder:#}");

    let corpus_without = corpus_without_upstream();
    for lab in [&with_template, &with_gregor] {
        lab.cluster().process().unwrap().stop();
        wait_until_expired(lab, &["foo", "bar", LATE]);
    }
    for asked in &corpus_without {
        report.judge(&Case {
            asked,
            name: classify(asked, &tenants, &template),
            ours: ask_from(with_gregor.pod("foo"), vec![asked.clone()], vec![false]).remove(0),
            theirs: ask_from(with_template.pod("foo"), vec![asked.clone()], vec![false]).remove(0),
            upstream_fails: true,
        });
    }

    println!(
        "{} names, {} questions, {} answers equal in every part",
        names.len(),
        corpus.len() + corpus_without.len(),
        report.equal
    );
    println!("{:>4}  {:<28}{:>7}  why", "rule", "deviation", "times");
    for (number, deviation) in DEVIATIONS.iter().enumerate() {
        let count = report.seen.get(&number).copied().unwrap_or(0);
        println!(
            "{:>4}  {:<28}{count:>7}  {}",
            deviation.rule, deviation.name, deviation.reason
        );
    }
    let complaints: Vec<String> = report
        .unexplained
        .iter()
        .map(|(what, (count, example))| format!("{count} times: {what}\n  {example}"))
        .collect();
    assert!(
        complaints.is_empty(),
        "differences that no deviation explains:\n{}",
        complaints.join("\n")
    );
    let never: Vec<&str> = (0..DEVIATIONS.len())
        .filter(|number| !report.seen.contains_key(number))
        .map(|number| DEVIATIONS[number].name)
        .collect();
    assert!(never.is_empty(), "deviations that never showed: {never:?}");
}

/// An operator may keep the template in the cache. The template then answers what gregor passes (no target, no match, other
/// types), bit for bit as without gregor.
#[test]
fn passed_queries_get_the_answer_of_a_template_in_the_cache() {
    let mut rng = StdRng::seed_from_u64(4);
    let tenants = tenants();
    let world = world(&tenants);
    let template = Regex::new(TEMPLATE).unwrap();
    let names = names(&mut rng, &tenants);
    let corpus: Vec<Question> = corpus(&mut rng, &names)
        .into_iter()
        .filter(|asked| !matches!(classify(asked, &tenants, &template), Kind::Tenant(..)))
        .collect();
    let kinds: Vec<Kind<'_>> = corpus
        .iter()
        .map(|asked| classify(asked, &tenants, &template))
        .collect();
    let matched: Vec<bool> = kinds
        .iter()
        .map(|kind| matches!(kind, Kind::NoTarget))
        .collect();
    assert!(matched.iter().filter(|matched| **matched).count() > 300);

    let without_gregor = lab(&world, true);
    let with_gregor = lab(&world, true);
    let config = with_gregor.gregor_config()
        + "[upstream]\ntimeout = \"15s\"\n[limits]\nqueries_per_second = 0\n";
    let gregor = with_gregor
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    let (theirs, ours) = thread::scope(|scope| {
        let theirs = scope.spawn(|| ask_all(&without_gregor, &corpus, &matched));
        let ours = scope.spawn(|| ask_all(&with_gregor, &corpus, &matched));
        (theirs.join().unwrap(), ours.join().unwrap())
    });
    let mut by_the_template = 0;
    for ((asked, kind), (ours, theirs)) in
        corpus.iter().zip(kinds).zip(ours.into_iter().zip(theirs))
    {
        let parts = differing(&ours, &theirs);
        assert!(
            parts.is_empty(),
            "{} ({kind:?}): {parts:?} differ\n  with    {ours:?}\n  without {theirs:?}",
            shown(asked)
        );
        by_the_template += usize::from(!ours.chain.is_empty());
    }
    println!(
        "{} questions, {by_the_template} answered by the template",
        corpus.len()
    );
    assert!(by_the_template > 500, "{by_the_template}");
    let status = gregor.status().unwrap();
    let no_target = status["responder"]["passed_on"]["no_target"]
        .as_u64()
        .unwrap();
    assert!(no_target + by_the_program(&status) > 300, "{status:#}");
}

/// Queries that the program answered, or passed because it had an entry without target.
fn by_the_program(status: &Value) -> u64 {
    status["kernel"]["requests"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|counter| counter["verdict"] == "answered" || counter["reason"] == "no_target")
        .map(|counter| counter["count"].as_u64().unwrap())
        .sum()
}

#[derive(Default)]
struct Report {
    equal: usize,
    /// How often each deviation occurred, by its number.
    seen: BTreeMap<usize, usize>,
    /// For each kind of unintended difference, how often, and the first.
    unexplained: BTreeMap<String, (usize, String)>,
}

impl Report {
    fn judge(&mut self, case: &Case<'_>) {
        if let Err(broken) = invariants(case) {
            self.complain(format!("not as gregor answers: {broken}"), case);
        }
        let parts = differing(&case.ours, &case.theirs);
        self.equal += usize::from(parts.is_empty());
        let mut left: BTreeSet<Part> = parts.iter().copied().collect();
        for (number, deviation) in DEVIATIONS.iter().enumerate() {
            let explains = deviation.parts.iter().any(|part| parts.contains(part));
            if explains && (deviation.applies)(case) {
                *self.seen.entry(number).or_default() += 1;
                left.retain(|part| !deviation.parts.contains(part));
            }
        }
        if !left.is_empty() {
            self.complain(format!("{left:?} differ"), case);
        }
    }

    fn complain(&mut self, what: String, case: &Case<'_>) {
        let Case {
            asked,
            name,
            ours,
            theirs,
            ..
        } = case;
        let example = format!(
            "{} ({name:?})\n    gregor  {ours:?}\n    CoreDNS {theirs:?}",
            shown(asked)
        );
        self.unexplained.entry(what).or_insert((0, example)).0 += 1;
    }
}

/// Questions for when the cluster DNS has ended, with names that no cache has seen.
fn corpus_without_upstream() -> Vec<Question> {
    let mut corpus = Vec::new();
    for namespace in [LATE, "foo", "bar"] {
        for edns in [None, Some((1232, false))] {
            for qtype in [A, AAAA] {
                // A NODATA of the template has no addresses.
                if namespace == "foo" && qtype == AAAA {
                    continue;
                }
                let size = edns.map_or(0, |(size, _)| size);
                let name = format!("gone-{size}.eu.{SUFFIX}.{namespace}.svc.cluster.local");
                corpus.push(Question {
                    qname: wire(name.split('.').map(|l| l.as_bytes().to_vec())),
                    qtype,
                    flags: RD,
                    edns,
                });
            }
        }
    }
    corpus
}

/// Waits until these namespaces' targets have expired in the node's cache: it keeps them for 30 s at most.
fn wait_until_expired(lab: &Lab, namespaces: &[&str]) {
    let deadline = Instant::now() + Duration::from_secs(90);
    for namespace in namespaces {
        for qtype in [A, AAAA] {
            let name = format!("kafka-upstream.{namespace}.svc.cluster.local");
            let asked = Question {
                qname: wire(name.split('.').map(|l| l.as_bytes().to_vec())),
                qtype,
                flags: RD,
                edns: None,
            };
            while !ask_from(lab.pod("foo"), vec![asked.clone()], vec![false])[0].is_servfail() {
                assert!(Instant::now() < deadline, "{} stays", shown(&asked));
                thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

/// What holds for gregor's own answers whatever CoreDNS says (rules 3, 8, 9 and 10).
fn invariants(case: &Case<'_>) -> Result<(), String> {
    let Some((tenant, number)) = case.tenant() else {
        return Ok(());
    };
    let answer = &case.ours;
    let is_whole = !matches!(case.asked.qtype, A | AAAA)
        || answer.is_servfail()
        || answer.records == tenant.addresses(case.asked.qtype, number);
    let edns = case.asked.edns;
    let bits = [
        case.asked.flags & RD != 0,
        false,
        case.asked.flags & CD != 0,
    ];
    let checks = [
        (
            "one TTL, 1 to 30 s",
            answer.ttls.iter().all(|&ttl| (1..=30).contains(&ttl))
                && answer.ttls.windows(2).all(|pair| pair[0] == pair[1]),
        ),
        ("at most the limit", answer.len <= case.limit()),
        // The server is local to the node: TCP has the rest.
        (
            "TC if and only if something is missing",
            answer.truncated != is_whole,
        ),
        (
            "AA=0, RA=1",
            !answer.authoritative && answer.recursion_available,
        ),
        ("RD and CD copied, AD=0", answer.bits == bits),
        (
            "OPT if and only if asked with one",
            answer.opt == edns.map(|(_, dnssec_ok)| (1232, dnssec_ok)),
        ),
        (
            "SERVFAIL says why where OPT allows",
            answer.extended_error == (answer.is_servfail() && edns.is_some()),
        ),
        (
            "a chain for every tenant with a target",
            answer.is_servfail()
                || (answer.truncated && answer.chain.is_empty())
                || answer.chain.first().is_some_and(|(owner, target)| {
                    *owner == lower_name(&case.asked.qname)
                        && *target
                            == format!("kafka-upstream.{}.svc.cluster.local.", tenant.namespace)
                }),
        ),
    ];
    match checks.iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err((*what).to_owned()),
        None => Ok(()),
    }
}

fn lower_name(wire: &[u8]) -> String {
    let mut labels: Vec<&[u8]> = Vec::new();
    let mut rest = wire;
    while let [length @ 1..=63, tail @ ..] = rest {
        let (label, tail) = tail.split_at(usize::from(*length));
        labels.push(label);
        rest = tail;
    }
    let mut name = Name::from_labels(labels).unwrap().to_lowercase();
    name.set_fqdn(true);
    name.to_string()
}
