//! EDNS as clients send it, in the query shapes of ISC's compliance suite and around them, asked for names that gregor
//! answers: each reply is read by two unrelated parsers and held to RFC 6891.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use e2e::{
    Metrics, exchange_from, exchange_tcp, exchange_within, qualified, until_the_programs_answer,
    without_id_and_ttls,
};
use gregor_tests::{
    lab::{
        CacheKind, ClusterKind, Gregor, Lab,
        world::{
            BAR_ADDRESSES, BAR_ENDPOINT, Data, ExternalName, FOO_ADDRESSES, FOO_ENDPOINT,
            NODE_LOCAL_V4, NODE_LOCAL_V6, Record as WorldRecord, World,
        },
    },
    reading::{self, OptOption, Reading},
    tools,
};
use hickory_proto::rr::RecordType;

const SERVERS: [IpAddr; 2] = [IpAddr::V4(NODE_LOCAL_V4), IpAddr::V6(NODE_LOCAL_V6)];

/// What gregor advertises, and the most that it sends.
const OWN_SIZE: u16 = 1232;
const DO: u16 = 0x8000;
const RD: u16 = 0x0100;
const AD: u16 = 0x0020;
const CD: u16 = 0x0010;
/// Options of more bytes than this go to the responder, and more options than [`KERNEL_OPTION_COUNT`].
const KERNEL_OPTIONS: usize = 256;
const KERNEL_OPTION_COUNT: usize = 16;

const NSID: u16 = 3;
const CLIENT_SUBNET: u16 = 8;
const EXPIRE: u16 = 9;
const COOKIE: u16 = 10;
const KEEPALIVE: u16 = 11;
const PADDING: u16 = 12;
const CHAIN: u16 = 13;
const EDE: u16 = 15;
const UNKNOWN: u16 = 100;
const LOCAL: u16 = 65_001;

/// How long a reply is waited for that may never come: a server may ignore what it cannot read.
const SILENCE: Duration = Duration::from_secs(1);

/// How a question is put.
#[derive(Clone, Debug)]
struct Shape {
    what: &'static str,
    /// RD, AD, CD.
    flags: u16,
    opt: Option<Opt>,
}

#[derive(Clone, Debug)]
struct Opt {
    size: u16,
    version: u8,
    /// DO and those without a meaning.
    flags: u16,
    options: Vec<u8>,
}

fn plain(what: &'static str) -> Shape {
    Shape {
        what,
        flags: RD,
        opt: None,
    }
}

fn edns(what: &'static str) -> Shape {
    Shape {
        opt: Some(Opt {
            size: OWN_SIZE,
            version: 0,
            flags: 0,
            options: Vec::new(),
        }),
        ..plain(what)
    }
}

impl Shape {
    fn header(mut self, flags: u16) -> Self {
        self.flags = flags;
        self
    }

    fn opt(mut self, change: impl FnOnce(&mut Opt)) -> Self {
        change(self.opt.as_mut().unwrap());
        self
    }

    fn size(self, size: u16) -> Self {
        self.opt(|opt| opt.size = size)
    }

    fn version(self, version: u8) -> Self {
        self.opt(|opt| opt.version = version)
    }

    fn edns_flags(self, flags: u16) -> Self {
        self.opt(|opt| opt.flags = flags)
    }

    fn option(self, code: u16, data: &[u8]) -> Self {
        self.opt(|opt| {
            opt.options.extend(code.to_be_bytes());
            opt.options.extend((data.len() as u16).to_be_bytes());
            opt.options.extend(data);
        })
    }

    /// Pads to this length of all options together.
    fn padded_to(self, length: usize) -> Self {
        let have = self.opt.as_ref().unwrap().options.len();
        self.option(PADDING, &vec![0; length - have - 4])
    }

    fn query(&self, qname: &str, qtype: RecordType) -> Vec<u8> {
        let mut bytes = rand::random::<u16>().to_be_bytes().to_vec();
        bytes.extend(self.flags.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0, 0, u8::from(self.opt.is_some())]);
        for label in qname.split('.') {
            bytes.push(label.len() as u8);
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(u16::from(qtype).to_be_bytes());
        bytes.extend([0, 1]);
        if let Some(opt) = &self.opt {
            bytes.extend([0, 0, 41]);
            bytes.extend(opt.size.to_be_bytes());
            bytes.extend([0, opt.version]);
            bytes.extend(opt.flags.to_be_bytes());
            bytes.extend((opt.options.len() as u16).to_be_bytes());
            bytes.extend(&opt.options);
        }
        bytes
    }

    /// The most bytes that a reply may have (RFC 6891 §6.2.3, and what gregor keeps to by itself).
    fn limit(&self) -> usize {
        let advertised = self.opt.as_ref().map_or(512, |opt| opt.size);
        advertised.clamp(512, OWN_SIZE).into()
    }

    /// Whether the programs answer it, if they have the answer.
    fn stays_in_the_kernel(&self) -> bool {
        let mut options = self.opt.as_ref().map_or(&[][..], |opt| &opt.options);
        let length = options.len();
        let mut count = 0;
        while let [_, _, a, b, rest @ ..] = options {
            options = &rest[usize::from(u16::from_be_bytes([*a, *b]))..];
            count += 1;
        }
        length <= KERNEL_OPTIONS
            && count <= KERNEL_OPTION_COUNT
            && (count == 1 && self.echoed().is_some()
                || !self.cookies().any(|cookie| cookie.len() > 8))
    }

    /// The values of its COOKIE options.
    fn cookies(&self) -> impl Iterator<Item = &[u8]> {
        let mut options = self.opt.as_ref().map_or(&[][..], |opt| &opt.options);
        std::iter::from_fn(move || {
            let [code @ .., a, b] = options.first_chunk::<4>()?;
            let length = usize::from(u16::from_be_bytes([*a, *b]));
            let (value, rest) = options[4..].split_at(length);
            options = rest;
            Some((u16::from_be_bytes(*code), value))
        })
        .filter(|(code, _)| *code == COOKIE)
        .map(|(_, value)| value)
    }

    /// What is echoed: a cookie of another server behind the address (RFC 7873 §5.3).
    fn echoed(&self) -> Option<&[u8]> {
        let first = self.cookies().next()?;
        (16..=40).contains(&first.len()).then_some(first)
    }
}

/// The suite's shapes that are asked over UDP with version 0, by its names. It does not set RD.
fn suite() -> Vec<Shape> {
    vec![
        plain("dns").header(0),
        edns("edns").header(0),
        edns("edns@512").header(0).size(512).edns_flags(DO),
        edns("ednsopt").header(0).option(UNKNOWN, &[]),
        edns("do").header(0).edns_flags(DO),
        edns("ednsflags").header(0).edns_flags(0x0080),
        edns("docookie")
            .header(0)
            .edns_flags(DO)
            .option(COOKIE, &[1, 2, 3, 4, 5, 6, 7, 8]),
        edns("optlist")
            .header(0)
            .option(NSID, &[])
            .option(CLIENT_SUBNET, &[0, 1, 0, 0])
            .option(EXPIRE, &[])
            .option(COOKIE, &[1, 2, 3, 4, 5, 6, 7, 8]),
    ]
}

/// What else clients send, and what they should not.
fn more() -> Vec<Shape> {
    let many = |what, count| (0..count).fold(edns(what), |shape, _| shape.option(LOCAL, &[]));
    vec![
        plain("RD"),
        plain("AD and CD").header(RD | AD | CD),
        edns("RD, AD and CD with OPT").header(RD | AD | CD),
        edns("a cookie of 24 bytes").option(COOKIE, &[7; 24]),
        edns("a cookie of 16 bytes").option(COOKIE, &[7; 16]),
        edns("a cookie of 40 bytes").option(COOKIE, &[7; 40]),
        edns("a cookie of 24 bytes among others")
            .option(NSID, &[])
            .option(COOKIE, &[7; 24])
            .option(KEEPALIVE, &[]),
        edns("a cookie of a wrong length").option(COOKIE, &[7; 3]),
        edns("a cookie of another wrong length").option(COOKIE, &[7; 41]),
        edns("keepalive").option(KEEPALIVE, &[]),
        edns("padding").padded_to(128),
        edns("client subnet, IPv4").option(CLIENT_SUBNET, &[0, 1, 24, 0, 192, 0, 2]),
        edns("client subnet, IPv6")
            .option(CLIENT_SUBNET, &[0, 2, 56, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0]),
        edns("chain").option(CHAIN, &[0]),
        edns("an extended error in a query").option(EDE, &[0, 1]),
        edns("the same option twice")
            .option(COOKIE, &[1; 8])
            .option(COOKIE, &[2; 8]),
        edns("a local option").option(LOCAL, b"whatever"),
        many("16 options", KERNEL_OPTION_COUNT),
        many("17 options", KERNEL_OPTION_COUNT + 1),
        many("150 options", 150),
        edns("256 bytes of options").padded_to(KERNEL_OPTIONS),
        edns("257 bytes of options").padded_to(KERNEL_OPTIONS + 1),
        edns("1,000 bytes of options")
            .option(LOCAL, &[0xff; 500])
            .padded_to(1000),
        edns("every flag").edns_flags(0xffff),
        edns("every flag but DO").edns_flags(0x7fff),
        edns("size 0").size(0),
        edns("size 511").size(511),
        edns("size 513").size(513),
        edns("size 4096").size(4096),
        edns("size 65535").size(65_535),
    ]
}

/// A tenant with more addresses than fit into any reply over UDP.
const BIG: &str = "big";
const BIG_ENDPOINT: &str = "vpce-big.eu-west-1.vpce.amazonaws.com.";
/// A tenant whose answers have about 512 bytes, as long as the name that is asked for makes them.
const MEDIUM: &str = "medium";
const MEDIUM_ENDPOINT: &str = "vpce-medium.eu-west-1.vpce.amazonaws.com.";

fn big_addresses() -> Vec<IpAddr> {
    numbered(30, 120, 60)
}

fn medium_addresses() -> Vec<IpAddr> {
    numbered(31, 18, 10)
}

fn numbered(net: u8, v4: u8, v6: u16) -> Vec<IpAddr> {
    let v4 = (0..v4).map(|i| IpAddr::V4(Ipv4Addr::new(10, net, 0, i)));
    let v6 = (0..v6).map(|i| IpAddr::V6(Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, i)));
    v4.chain(v6).collect()
}

fn world() -> World {
    let mut world = World::default();
    let zone = world
        .zones
        .iter_mut()
        .find(|zone| zone.apex == "vpce.amazonaws.com.")
        .unwrap();
    for (namespace, endpoint, addresses) in [
        (BIG, BIG_ENDPOINT, big_addresses()),
        (MEDIUM, MEDIUM_ENDPOINT, medium_addresses()),
    ] {
        world.namespaces.push(namespace.to_owned());
        world.external_names.push(ExternalName {
            service: "kafka-upstream".to_owned(),
            namespace: namespace.to_owned(),
            target: endpoint.to_owned(),
        });
        let records = addresses.into_iter().map(|address| WorldRecord {
            owner: endpoint.to_owned(),
            ttl: 60,
            data: match address {
                IpAddr::V4(address) => Data::A(address),
                IpAddr::V6(address) => Data::Aaaa(address),
            },
        });
        zone.records.extend(records);
    }
    world
}

/// gregor on the interface of `foo`, which asks for every tenant; `ref` asks as if there were none.
fn lab_with_gregor(cache: CacheKind, cluster: ClusterKind) -> (Lab, Gregor) {
    let lab = Lab::builder("edns")
        .pod("foo")
        .pod("ref")
        .cache(cache)
        .cluster(cluster)
        .world(world())
        .start()
        .unwrap();
    let config = lab.gregor_config().replace(
        "[intercept]\n",
        "[intercept]\ninterfaces = [\"veth-foo\"]\n",
    );
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &config)
        .unwrap();
    (lab, gregor)
}

/// A name of the tenant in a case of its own, as a client with 0x20 spells it.
fn spelled(namespace: &str) -> String {
    qualified(namespace)
        .chars()
        .map(|c| match rand::random() {
            true => c.to_ascii_uppercase(),
            false => c,
        })
        .collect()
}

fn wire_name(name: &str) -> String {
    let mut text = String::new();
    for label in name.trim_end_matches('.').split('.') {
        text += &format!("{:02x}", label.len());
        text.extend(label.bytes().map(|byte| format!("{byte:02x}")));
    }
    text + "00"
}

fn rdata(address: &IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{:08x}", address.to_bits()),
        IpAddr::V6(address) => format!("{:032x}", address.to_bits()),
    }
}

/// A question, how it is put, and to whom.
struct Case<'a> {
    shape: &'a Shape,
    server: IpAddr,
    namespace: &'a str,
    qtype: RecordType,
}

/// What came back, for the parsers.
struct Reply {
    what: String,
    qname: String,
    query: Vec<u8>,
    bytes: Vec<u8>,
    read: Reading,
}

impl Case<'_> {
    fn what(&self) -> String {
        format!(
            "{}: {} of {}, asking {}",
            self.shape.what, self.qtype, self.namespace, self.server
        )
    }

    fn ask(&self, lab: &Lab) -> Reply {
        self.ask_for(lab, spelled(self.namespace))
    }

    fn ask_for(&self, lab: &Lab, qname: String) -> Reply {
        let what = self.what();
        let query = self.shape.query(&qname, self.qtype);
        let reply = exchange_from(lab.pod("foo"), self.server, &query);
        let bytes = reply.unwrap_or_else(|| panic!("{what}: no reply"));
        let read = reading::hickory(&bytes).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        Reply {
            what,
            qname,
            query,
            bytes,
            read,
        }
    }

    /// Everything but the answer section: header, question, OPT, size.
    fn frame_is_right(&self, reply: &Reply) {
        let Reply { what, read, .. } = reply;
        assert_eq!(read.id.to_be_bytes(), reply.query[..2], "{what}");
        assert!(read.qr && read.ra, "{what}: {read:#?}");
        assert!(!read.aa && !read.ad && !read.z, "{what}: {read:#?}");
        assert_eq!((read.opcode, read.rcode), (0, 0), "{what}");
        assert_eq!(read.rd, self.shape.flags & RD != 0, "{what}: RD");
        assert_eq!(read.cd, self.shape.flags & CD != 0, "{what}: CD");
        let [question] = &read.question[..] else {
            panic!("{what}: {read:#?}");
        };
        assert_eq!(question.name, wire_name(&reply.qname), "{what}");
        assert_eq!(question.qtype, u16::from(self.qtype), "{what}");
        assert_eq!(question.class, 1, "{what}");
        assert_eq!(read.additional, [], "{what}");
        match (&self.shape.opt, &read.opt) {
            (None, None) => {}
            (Some(asked), Some(opt)) => {
                assert_eq!(opt.version, 0, "{what}");
                assert_eq!(opt.size, OWN_SIZE, "{what}");
                assert_eq!(opt.dnssec_ok, asked.flags & DO != 0, "{what}: DO");
                assert_eq!(opt.z, 0, "{what}: flags without a meaning");
                let hexadecimal = |cookie: &[u8]| -> String {
                    cookie.iter().map(|byte| format!("{byte:02x}")).collect()
                };
                let echoed = self.shape.echoed().map(|cookie| OptOption {
                    code: COOKIE,
                    data: hexadecimal(cookie),
                });
                assert_eq!(opt.options, Vec::from_iter(echoed), "{what}");
            }
            (asked, opt) => panic!("{what}: asked with {asked:?}, answered with {opt:?}"),
        }
        let (length, limit) = (reply.bytes.len(), self.shape.limit());
        assert!(length <= limit, "{what}: {length} bytes, limit {limit}");
    }

    /// The chain to the tenant's endpoint and all of `addresses` of the family asked for, or NODATA.
    fn answer_is_whole(&self, reply: &Reply, endpoint: &str, addresses: &[IpAddr]) {
        let Reply { what, read, .. } = reply;
        assert!(!read.tc, "{what}");
        let service = format!("kafka-upstream.{}.svc.cluster.local.", self.namespace);
        let mut names = vec![
            wire_name(&reply.qname),
            wire_name(&service),
            wire_name(endpoint),
        ];
        if self.qtype == RecordType::CNAME {
            names.truncate(2);
        }
        let length = names.len() - 1;
        assert!(read.answer.len() >= length, "{what}: {read:#?}");
        let (chain, rrset) = read.answer.split_at(length);
        for (record, link) in chain.iter().zip(names.windows(2)) {
            assert_eq!(record.rtype, u16::from(RecordType::CNAME), "{what}");
            assert_eq!((&record.name, &record.data), (&link[0], &link[1]), "{what}");
        }
        let mut found = Vec::new();
        for record in rrset {
            assert_eq!(record.rtype, u16::from(self.qtype), "{what}");
            assert_eq!(record.name, names[length], "{what}");
            found.push(record.data.clone());
        }
        found.sort();
        assert_eq!(found, self.wanted(addresses), "{what}");
        let nodata = found.is_empty() && self.qtype != RecordType::CNAME;
        let authority: Vec<u16> = read.authority.iter().map(|record| record.rtype).collect();
        let soa = nodata.then_some(u16::from(RecordType::SOA));
        assert_eq!(authority, Vec::from_iter(soa), "{what}");
        let mut ttls: Vec<u32> = read.answer.iter().map(|record| record.ttl).collect();
        ttls.extend(read.authority.iter().map(|record| record.ttl));
        ttls.dedup();
        assert!(
            ttls.len() == 1 && (1..=30).contains(&ttls[0]),
            "{what}: {ttls:?}"
        );
    }

    fn wanted(&self, addresses: &[IpAddr]) -> Vec<String> {
        let mut wanted: Vec<String> = addresses
            .iter()
            .filter(|address| {
                let family = match address {
                    IpAddr::V4(_) => RecordType::A,
                    IpAddr::V6(_) => RecordType::AAAA,
                };
                family == self.qtype
            })
            .map(rdata)
            .collect();
        wanted.sort();
        wanted
    }
}

/// Both parsers read each of these messages, and the same in it.
fn both_parsers_agree(replies: &[Reply]) {
    let messages: Vec<&[u8]> = replies.iter().map(|reply| &reply.bytes[..]).collect();
    for (reply, read) in replies.iter().zip(reading::both(&messages).unwrap()) {
        assert_eq!(reply.read, read, "{}", reply.what);
    }
}

fn every_shape_is_answered(cache: CacheKind, cluster: ClusterKind) {
    let (lab, gregor) = lab_with_gregor(cache, cluster);
    let mut replies = Vec::new();
    let tenants = [
        ("foo", FOO_ENDPOINT, FOO_ADDRESSES),
        ("bar", BAR_ENDPOINT, BAR_ADDRESSES),
    ];
    for shape in &[suite(), more()].concat() {
        for (namespace, endpoint, addresses) in tenants {
            for qtype in [RecordType::A, RecordType::AAAA, RecordType::CNAME] {
                let before = Metrics::of(&gregor);
                let mut asked = 0.0;
                let mut ask = || {
                    for server in SERVERS {
                        let case = Case {
                            shape,
                            server,
                            namespace,
                            qtype,
                        };
                        let reply = case.ask(&lab);
                        case.frame_is_right(&reply);
                        case.answer_is_whole(&reply, endpoint, &addresses);
                        replies.push(reply);
                        asked += 1.0;
                    }
                };
                if shape.stays_in_the_kernel() {
                    until_the_programs_answer(&gregor, shape.what, |_| ask());
                } else {
                    ask();
                }
                let after = Metrics::of(&gregor);
                let what = format!("{}: {qtype} of {namespace}", shape.what);
                let grown = |value: fn(&Metrics) -> f64| value(&after) - value(&before);
                assert_eq!(grown(Metrics::intercepted), asked, "{what}");
                if !shape.stays_in_the_kernel() {
                    assert_eq!(grown(Metrics::answered), 0.0, "{what}");
                }
            }
        }
    }
    both_parsers_agree(&replies);
}

#[test]
fn every_shape_is_answered_behind_the_embedded_cache() {
    every_shape_is_answered(CacheKind::Embedded, ClusterKind::Embedded);
}

#[test]
fn every_shape_is_answered_behind_coredns() {
    every_shape_is_answered(CacheKind::CoreDns { template: false }, ClusterKind::CoreDns);
}

#[test]
fn every_shape_is_answered_behind_unbound() {
    every_shape_is_answered(CacheKind::Unbound, ClusterKind::CoreDns);
}

/// A list of options that is too long for the kernel is answered by the responder, any other by the program too. Apart from the
/// TTL and the order of the addresses the two are the same.
#[test]
fn replies_of_the_program_and_the_responder_are_alike() {
    let (lab, gregor) = lab_with_gregor(CacheKind::Embedded, ClusterKind::Embedded);
    let mut replies = Vec::new();
    for namespace in ["foo", "bar"] {
        for qtype in [RecordType::A, RecordType::AAAA] {
            for server in SERVERS {
                let mut ask = |shape: &Shape| {
                    let case = Case {
                        shape,
                        server,
                        namespace,
                        qtype,
                    };
                    let reply = case.ask(&lab);
                    case.frame_is_right(&reply);
                    let seen = alike(&reply);
                    replies.push(reply);
                    seen
                };
                for (shape, flags) in [
                    (plain("no OPT"), 0),
                    (edns("OPT"), 0),
                    (edns("DO").edns_flags(DO), DO),
                ] {
                    let what = format!("{}: {qtype} of {namespace}", shape.what);
                    let long = edns("options too long for the kernel")
                        .edns_flags(flags)
                        .padded_to(KERNEL_OPTIONS + 1);
                    let before = Metrics::of(&gregor);
                    let (mut responders, mut length) = ask(&long);
                    let after = Metrics::of(&gregor);
                    assert_eq!(after.taken() - before.taken(), 1.0, "{what}");
                    if shape.opt.is_none() {
                        responders.opt = None;
                        length -= 11;
                    }
                    until_the_programs_answer(&gregor, &what, |_| {
                        assert_eq!(ask(&shape), (responders.clone(), length), "{what}");
                    });
                }
            }
        }
    }
    both_parsers_agree(&replies);
}

/// A reply without what differs from one to the next anyway.
fn alike(reply: &Reply) -> (Reading, usize) {
    let mut read = reply.read.clone();
    read.id = 0;
    for question in &mut read.question {
        question.name.clear();
    }
    for record in read.answer.iter_mut().chain(&mut read.authority) {
        record.ttl = 0;
        if record.name == wire_name(&reply.qname) {
            record.name.clear();
        }
    }
    let addresses = read
        .answer
        .iter()
        .position(|record| record.rtype != u16::from(RecordType::CNAME));
    read.answer[addresses.unwrap_or_default()..].sort();
    (read, reply.bytes.len())
}

/// With more addresses than fit, as many come as do; or else TC, and all of them over TCP.
#[test]
fn a_large_answer_stays_within_the_advertised_size() {
    let (lab, gregor) = lab_with_gregor(CacheKind::Embedded, ClusterKind::Embedded);
    let shapes = [
        plain("dns"),
        edns("edns@512").size(512).edns_flags(DO),
        edns("size 0").size(0),
        edns("size 700, a cookie").size(700).option(COOKIE, &[1; 8]),
        edns("edns"),
        edns("size 4096").size(4096),
        edns("size 65535, long options")
            .size(65_535)
            .padded_to(KERNEL_OPTIONS + 1),
    ];
    let mut replies = Vec::new();
    for shape in &shapes {
        for qtype in [RecordType::A, RecordType::AAAA] {
            for server in SERVERS {
                let case = Case {
                    shape,
                    server,
                    namespace: BIG,
                    qtype,
                };
                let before = Metrics::of(&gregor);
                for _ in 0..3 {
                    let reply = case.ask(&lab);
                    case.frame_is_right(&reply);
                    case.large_answer_is_right(&lab, &reply, &big_addresses());
                    replies.push(reply);
                }
                let after = Metrics::of(&gregor);
                assert_eq!(after.intercepted() - before.intercepted(), 3.0);
            }
        }
    }
    both_parsers_agree(&replies);
}

/// Around the limit byte by byte: what just fits is complete, and one byte less costs an address.
#[test]
fn an_answer_that_just_fits_is_whole() {
    let (lab, gregor) = lab_with_gregor(CacheKind::Embedded, ClusterKind::Embedded);
    let mut replies = Vec::new();
    for qtype in [RecordType::A, RecordType::AAAA] {
        for server in SERVERS {
            let mut ask = |shape: &Shape, qname: &str| {
                let case = Case {
                    shape,
                    server,
                    namespace: MEDIUM,
                    qtype,
                };
                let reply = case.ask_for(&lab, qname.to_owned());
                case.frame_is_right(&reply);
                let fits = reply.read.answer.len() == 2 + case.wanted(&medium_addresses()).len();
                if fits {
                    case.answer_is_whole(&reply, MEDIUM_ENDPOINT, &medium_addresses());
                } else {
                    case.large_answer_is_right(&lab, &reply, &medium_addresses());
                }
                let length = reply.bytes.len();
                replies.push(reply);
                (fits, length)
            };
            // How long it is with a first label of one byte, and without OPT.
            let (fits, length) = ask(&edns("edns"), &under(MEDIUM, 1));
            assert!(fits);
            let shortest = length - 11;
            let mut checks = 0;
            for (label, whole) in (1..=63).map(|label| (label, shortest - 1 + label)) {
                let qname = under(MEDIUM, label);
                let mut check = |shape: &Shape, whole: usize| {
                    checks += 1;
                    let what = format!("{}: {qtype} in {whole} bytes", shape.what);
                    let fits = whole <= shape.limit();
                    let mut ask = || {
                        let (found, length) = ask(shape, &qname);
                        assert_eq!(found, fits, "{what}");
                        assert!(!fits || length == whole, "{what}: {length}");
                    };
                    match fits {
                        true => until_the_programs_answer(&gregor, &what, |_| ask()),
                        false => ask(),
                    }
                };
                if (510..=514).contains(&whole) {
                    check(&plain("no OPT"), whole);
                }
                if (510..=514).contains(&(whole + 11)) {
                    check(&edns("size 512").size(512), whole + 11);
                    check(&edns("size 0").size(0), whole + 11);
                }
                if label == 63 {
                    for size in whole + 9..whole + 13 {
                        check(&edns("a size of its own").size(size as u16), whole + 11);
                    }
                }
            }
            assert_eq!(checks, 5 + 2 * 5 + 4, "both sides of 512 were reached");
        }
    }
    both_parsers_agree(&replies);
}

/// A broker's name of the tenant whose first label has this length.
fn under(namespace: &str, label: usize) -> String {
    let name = qualified(namespace);
    let (_, rest) = name.split_once('.').unwrap();
    format!("{}.{rest}", "b".repeat(label))
}

impl Case<'_> {
    fn large_answer_is_right(&self, lab: &Lab, reply: &Reply, addresses: &[IpAddr]) {
        let Reply { what, read, .. } = reply;
        let wanted = self.wanted(addresses);
        let given = |read: &Reading| {
            let mut given: Vec<String> = read
                .answer
                .iter()
                .filter(|record| record.rtype == u16::from(self.qtype))
                .map(|record| record.data.clone())
                .collect();
            given.sort();
            given
        };
        if read.tc {
            let query = self.shape.query(&reply.qname, self.qtype);
            let whole = exchange_tcp(lab.pod("foo"), self.server, &query);
            let whole = whole.unwrap_or_else(|| panic!("{what}: TC, and no answer over TCP"));
            let [whole] = &reading::both(&[whole]).unwrap()[..] else {
                panic!("one message, one reading");
            };
            assert!(!whole.tc, "{what}");
            assert_eq!(given(whole), wanted, "{what}, over TCP");
            return;
        }
        let mut found = given(read);
        assert!(!found.is_empty(), "{what}: a bare CNAME");
        assert!(
            found.iter().all(|address| wanted.contains(address)),
            "{what}"
        );
        // A pointer, type, class, TTL, length, the address.
        let another = 12 + found[0].len() / 2;
        assert!(
            reply.bytes.len() + another > self.shape.limit(),
            "{what}: {} bytes, and another would have fitted",
            reply.bytes.len()
        );
        found.dedup();
        assert_eq!(found, given(read), "{what}: one twice");
    }
}

/// Versions other than 0 are left to the existing cache: a pod gets what it would get without gregor.
fn version_one_is_the_caches(cache: CacheKind, cluster: ClusterKind) {
    let (lab, gregor) = lab_with_gregor(cache, cluster);
    let shapes = [
        edns("edns1").header(0).version(1),
        edns("edns1opt").header(0).version(1).option(UNKNOWN, &[]),
        edns("version 255").version(255),
    ];
    // Cached answers of the kernel must not be used for these.
    let warm = edns("edns");
    for _ in 0..3 {
        let case = Case {
            shape: &warm,
            server: SERVERS[0],
            namespace: "foo",
            qtype: RecordType::A,
        };
        case.frame_is_right(&case.ask(&lab));
    }
    let mut messages = Vec::new();
    for shape in &shapes {
        for server in SERVERS {
            let what = format!("{}, asking {server}", shape.what);
            let query = shape.query(&qualified("foo"), RecordType::A);
            let reference = exchange_from(lab.pod("ref"), server, &query);
            let before = Metrics::of(&gregor);
            let reply = exchange_from(lab.pod("foo"), server, &query);
            let after = Metrics::of(&gregor);
            let (reply, reference) = (reply.unwrap(), reference.unwrap());
            assert_eq!(
                without_id_and_ttls(&reply),
                without_id_and_ttls(&reference),
                "{what}"
            );
            let passed = |metrics: &Metrics| metrics.passed("edns_version");
            assert_eq!(passed(&after) - passed(&before), 1.0, "{what}");
            assert_eq!(after.intercepted(), before.intercepted(), "{what}");
            messages.push(reply);
        }
    }
    for read in reading::both(&messages).unwrap() {
        let opt = read.opt.as_ref().unwrap();
        assert_eq!(opt.version, 0, "{read:#?}");
        assert!(
            opt.options.iter().all(|option| option.code != UNKNOWN),
            "{read:#?}"
        );
        // More than passing unchanged is checked for real servers only.
        if cache != CacheKind::Embedded {
            assert_eq!(read.rcode, 16, "BADVERS: {read:#?}");
        }
    }
}

#[test]
fn version_one_is_left_to_the_embedded_cache() {
    version_one_is_the_caches(CacheKind::Embedded, ClusterKind::Embedded);
}

#[test]
fn version_one_is_left_to_coredns() {
    version_one_is_the_caches(CacheKind::CoreDns { template: true }, ClusterKind::CoreDns);
}

#[test]
fn version_one_is_left_to_unbound() {
    version_one_is_the_caches(CacheKind::Unbound, ClusterKind::CoreDns);
}

/// A malformed OPT is left to the existing cache: a pod gets what it would get without gregor.
fn malformed_is_the_caches(cache: CacheKind) {
    let (lab, gregor) = lab_with_gregor(cache, ClusterKind::CoreDns);
    let qname = qualified("foo");
    let good = edns("OPT").query(&qname, RecordType::A);
    let (message, opt) = good.split_at(good.len() - 11);
    let with_options = |options: &[u8]| {
        let shape = edns("").opt(|opt| opt.options = options.to_vec());
        shape.query(&qname, RecordType::A)
    };
    let with_records = |count: u8, records: &[&[u8]]| {
        let mut message = message.to_vec();
        message[11] = count;
        [message, records.concat()].concat()
    };
    let mut too_long = good.clone();
    *too_long.last_mut().unwrap() = 4;
    let cases = [
        (
            "an option that ends too late",
            with_options(&[0, 10, 0, 9, 1]),
        ),
        ("half an option's header", with_options(&[0, 10, 0])),
        ("options that are announced and not there", too_long),
        ("two OPTs", with_records(2, &[opt, opt])),
        ("an OPT of another owner", with_records(1, &[b"\x01a", opt])),
        ("a byte behind OPT", with_records(1, &[opt, &[0]])),
        ("OPT announced and not there", with_records(1, &[])),
    ];
    for (what, query) in cases {
        for server in SERVERS {
            let what = format!("{what}, asking {server}");
            let ask = |pod| {
                let reply = exchange_within(lab.pod(pod), server, &query, SILENCE);
                reply.map(|reply| without_id_and_ttls(&reply))
            };
            let reference = ask("ref");
            let before = Metrics::of(&gregor);
            assert_eq!(ask("foo"), reference, "{what}");
            let after = Metrics::of(&gregor);
            assert_eq!(after.answered(), before.answered(), "{what}");
            for rcode in ["NOERROR", "SERVFAIL"] {
                assert_eq!(after.responses(rcode), before.responses(rcode), "{what}");
            }
        }
    }
}

#[test]
fn malformed_is_left_to_coredns() {
    malformed_is_the_caches(CacheKind::CoreDns { template: true });
}

#[test]
fn malformed_is_left_to_unbound() {
    malformed_is_the_caches(CacheKind::Unbound);
}

/// The suite's edns512tcp: the size is UDP's and does not hold over TCP.
#[test]
fn the_udp_size_does_not_limit_answers_over_tcp() {
    let (lab, _gregor) =
        lab_with_gregor(CacheKind::CoreDns { template: true }, ClusterKind::CoreDns);
    let shape = edns("edns512tcp").header(0).size(512).edns_flags(DO);
    for server in SERVERS {
        for (namespace, endpoint, addresses) in [
            ("foo", FOO_ENDPOINT, FOO_ADDRESSES.to_vec()),
            (BIG, BIG_ENDPOINT, big_addresses()),
        ] {
            let query = shape.query(&qualified(namespace), RecordType::A);
            let reply = exchange_tcp(lab.pod("foo"), server, &query).unwrap();
            let [read] = &reading::both(&[reply]).unwrap()[..] else {
                panic!("one message, one reading");
            };
            assert!(!read.tc && read.rcode == 0, "{read:#?}");
            let opt = read.opt.as_ref().unwrap();
            assert_eq!((opt.version, opt.z, opt.options.len()), (0, 0, 0));
            assert!(opt.dnssec_ok, "{opt:?}");
            let given = |record: &&reading::Record| record.rtype == u16::from(RecordType::A);
            let mut found: Vec<&str> = read
                .answer
                .iter()
                .filter(given)
                .inspect(|record| assert_eq!(record.name, wire_name(endpoint)))
                .map(|record| record.data.as_str())
                .collect();
            found.sort_unstable();
            let v4 = addresses.iter().filter(|address| address.is_ipv4());
            let mut wanted: Vec<String> = v4.map(rdata).collect();
            wanted.sort();
            assert_eq!(found, wanted);
        }
    }
}
