//! The table: frames, the expected results, and why. Cases are data; every engine must agree on all of them.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::SystemTime,
};

use dns_common::verdict::Reason;
use gregor::{
    model::{Identity, IdentitySource},
    rules::{ClientsSpec, MatchSpec, Mode, RuleSpec},
};

use super::build::*;

/// One frame and its expected result.
#[derive(Clone, Debug)]
pub struct Case {
    pub name: &'static str,
    pub why: &'static str,
    pub frame: Frame,
    pub expect: Expect,
    pub engines: Engines,
}

/// The expected result for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// It passes unchanged, counted under this reason.
    Pass(Reason),
    /// It goes to userspace whole, under the rule of this index in [`SEVERAL`], with its IP header at this offset.
    Taken { rule: u32, l3_offset: u16 },
}

/// Which engines a frame can be put through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Engines {
    /// The pipeline over a byte slice.
    pub slice: bool,
    /// The loaded program under BPF_PROG_TEST_RUN.
    pub test_run: bool,
    /// The loaded XDP program under BPF_PROG_TEST_RUN.
    pub xdp: bool,
    /// The attached program on a veth.
    pub veth: bool,
}

impl Engines {
    /// Every engine that can take this frame.
    pub fn for_frame(frame: &Frame) -> Self {
        let len = frame.bytes.len();
        let shortest = match frame.bytes.get(12..14) {
            Some([0x08, 0x00]) => 34,
            Some([0x86, 0xdd]) => 54,
            _ => 15,
        };
        Self {
            slice: true,
            // It needs a whole IP header and one page, without GSO and pages.
            test_run: (shortest..=3000).contains(&len) && frame.gso_size.is_none() && !frame.paged,
            // It wants an Ethernet header, and makes several buffers of what is larger than a page.
            xdp: len >= 14 && frame.gso_size.is_none() && !frame.paged,
            // AF_PACKET wants a whole Ethernet header.
            veth: len >= 14,
        }
    }
}

/// One rule of a fixture.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    pub name: &'static str,
    pub pattern: &'static str,
    pub cname: &'static str,
    /// What `{namespace}` may be; empty for all.
    pub namespaces: &'static [&'static str],
    pub mode: Mode,
    pub clients: Clients,
}

/// Whom a rule of a fixture is for.
#[derive(Clone, Copy, Debug)]
pub enum Clients {
    Any,
    OwnNamespace,
    /// Those with this label.
    Labelled(&'static str, &'static str),
}

/// The namespace and the label of the pod that the cases are from.
pub const CLIENT: (&str, (&str, &str)) = ("foo", ("tier", "gold"));

/// The pod that the cases are from, with the addresses of [`udp_to`].
pub fn client() -> Identity {
    let (namespace, (key, value)) = CLIENT;
    Identity {
        namespace: namespace.to_owned(),
        pod: "client-0".to_owned(),
        uid: "uid-0".to_owned(),
        labels: Some([(key.to_owned(), value.to_owned())].into()),
        addresses: vec![POD_V4.into(), POD_V6.into()],
        source: IdentitySource::File,
        since: SystemTime::UNIX_EPOCH,
    }
}

impl Clients {
    /// Whether the pod that the cases are from is among them.
    pub fn have_the_pod(self) -> bool {
        match self {
            Clients::Any | Clients::OwnNamespace => true,
            Clients::Labelled(key, value) => CLIENT.1 == (key, value),
        }
    }
}

impl Rule {
    /// For all namespaces and clients, and answered.
    pub const fn new(name: &'static str, pattern: &'static str, cname: &'static str) -> Rule {
        Rule {
            name,
            pattern,
            cname,
            namespaces: &[],
            mode: Mode::Answer,
            clients: Clients::Any,
        }
    }

    /// As a configuration has it.
    pub fn spec(&self) -> RuleSpec {
        let namespaces = self.namespaces.iter().map(|&glob| glob.to_owned());
        RuleSpec {
            name: self.name.to_owned(),
            matches: MatchSpec::Pattern(self.pattern.to_owned()),
            cname: self.cname.to_owned(),
            ttl_seconds: 60,
            follow: true,
            namespaces: (!self.namespaces.is_empty()).then(|| namespaces.collect()),
            namespace_labels: None,
            clients: match self.clients {
                Clients::Any => ClientsSpec::Any,
                Clients::OwnNamespace => ClientsSpec::OwnNamespace,
                Clients::Labelled(key, value) => {
                    ClientsSpec::Labels([(key.to_owned(), vec![value.to_owned()])].into())
                }
            },
            mode: self.mode,
        }
    }
}

/// The article's rule.
const KAFKA: Rule = Rule::new(
    "kafka",
    "*.aws.private.kafka.managed.{namespace}.svc.cluster.local",
    "kafka-upstream.{namespace}.svc.cluster.local",
);
const OBSERVED: Rule = Rule {
    mode: Mode::Observe,
    ..Rule::new("observed", "*.seen.test", "six.target.test")
};
const BEHIND_OBSERVED: Rule = Rule::new("behind-observed", "*.b.seen.test", "seven.target.test");
const TEAMS: Rule = Rule {
    namespaces: &["foo", "team-*"],
    ..Rule::new(
        "teams",
        "*.{namespace}.team.test",
        "{namespace}.eight.target.test",
    )
};
const OWN: Rule = Rule {
    clients: Clients::OwnNamespace,
    ..Rule::new(
        "own",
        "*.{namespace}.own.test",
        "{namespace}.nine.target.test",
    )
};
const OTHERS: Rule = Rule::new("others", "*.bar.own.test", "ten.target.test");
const MINE: Rule = Rule::new("mine", "*.mine.test", "{client.namespace}.mine.target.test");
const GOLD: Rule = Rule {
    clients: Clients::Labelled("tier", "gold"),
    ..Rule::new("gold", "*.gold.test", "eleven.target.test")
};
const SILVER: Rule = Rule {
    clients: Clients::Labelled("tier", "silver"),
    ..Rule::new("silver", "*.silver.test", "twelve.target.test")
};
const OBSERVED_SILVER: Rule = Rule {
    clients: Clients::Labelled("tier", "silver"),
    mode: Mode::Observe,
    ..Rule::new("observed-silver", "*.seen.silver.test", "x.target.test")
};
const TIER: Rule = Rule::new(
    "tier",
    "*.tier.silver.test",
    "{client.label.tier}.target.test",
);
const EXACT: Rule = Rule::new("exact", "broker-1.example.test", "one.target.test");
const WIDE: Rule = Rule::new("wide", "*.wide.test", "two.target.test");
const TINY_LABELS: Rule = Rule::new("tiny-labels", "*.x.y", "three.target.test");
const ONE_LABEL: Rule = Rule::new("one-label", "localkafka", "four.target.test");
const CAPTURE_FIRST: Rule = Rule::new(
    "capture-first",
    "{namespace}.db.test",
    "db.{namespace}.target.test",
);

/// The rules that the cases are written for. Their patterns share no suffix.
pub const SEVERAL: &[Rule] = &[
    KAFKA,
    EXACT,
    WIDE,
    TINY_LABELS,
    ONE_LABEL,
    CAPTURE_FIRST,
    OBSERVED,
    BEHIND_OBSERVED,
    TEAMS,
    OWN,
    OTHERS,
    MINE,
    GOLD,
    SILVER,
    OBSERVED_SILVER,
    TIER,
];
/// The first of them alone: the matcher compares its literal suffix in words before it takes a step.
pub const ALONE: &[Rule] = &[KAFKA];

impl Case {
    /// Whether the case holds when only [`ALONE`] is loaded.
    pub fn holds_alone(&self) -> bool {
        !matches!(
            self.expect,
            Expect::Taken { rule: 1.., .. }
                | Expect::Pass(
                    Reason::Observed
                        | Reason::UnknownClient
                        | Reason::ForgedClient
                        | Reason::OtherClient
                )
        )
    }
}

/// The configured servers, in their order: 16 of each family.
pub fn servers() -> Vec<IpAddr> {
    let v4 = (0..16u8).map(|i| match i {
        0 => FIRST_V4,
        15 => LAST_V4,
        i => Ipv4Addr::new(10, 96, 0, i).into(),
    });
    let v6 = (0..16u16).map(|i| match i {
        0 => FIRST_V6,
        15 => LAST_V6,
        i => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, i).into(),
    });
    v4.chain(v6).collect()
}

pub const FIRST_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 20, 10));
pub const LAST_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(172, 20, 0, 10));
pub const FIRST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x10));
pub const LAST_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253));

/// Reasons that no frame can bring about by itself, and where they are tested.
pub const NOT_FROM_A_FRAME: &[(Reason, &str)] = &[
    (Reason::NoResponder, "programs.rs: the heartbeat's deadline"),
    (
        Reason::RateLimited,
        "programs.rs: an interface's token bucket",
    ),
    (Reason::RingFull, "programs.rs: a ring that is not drained"),
    (Reason::NoTarget, "an entry of the responder's"),
    (
        Reason::Internal,
        "a map is missing, which the loader does not let happen",
    ),
];

const A: u16 = 1;
const AAAA: u16 = 28;

/// A broker's name under the article's rule.
pub const BROKER: &str = "lkc-1.eu-west-1.aws.private.kafka.managed.foo.svc.cluster.local";

/// A query for [`BROKER`] as musl sends it.
pub fn broker_query() -> Packet {
    broker_query_of(A)
}

pub fn broker_query_of(qtype: u16) -> Packet {
    v4(question(name(BROKER), qtype))
}

fn v4(message: Message) -> Packet {
    udp_to(FIRST_V4, message.build())
}

fn v6(message: Message) -> Packet {
    udp_to(FIRST_V6, message.build())
}

/// From this address to the first server of its family.
fn from(source: &str, message: Message) -> Packet {
    let source: IpAddr = source.parse().expect("an address");
    let server = if source.is_ipv4() { FIRST_V4 } else { FIRST_V6 };
    let mut packet = udp_to(server, message.build());
    packet.source = source;
    packet
}

fn broker() -> Message {
    question(name(BROKER), A)
}

/// A query of type A for this name.
fn ask(wire: Vec<u8>) -> Packet {
    v4(question(wire, A))
}

/// A query for a name of the article's rule with these labels in the place of the namespace.
fn in_namespace(labels: &[&[u8]]) -> Packet {
    let mut all: Vec<&[u8]> = vec![b"lkc-1", b"aws", b"private", b"kafka", b"managed"];
    all.extend(labels);
    all.extend([&b"svc"[..], b"cluster", b"local"]);
    ask(labels_of(&all))
}

/// A query for a name of the article's rule with these labels in the place of `*`.
fn with_leading(labels: &[&[u8]]) -> Packet {
    let mut all = labels.to_vec();
    all.extend([&b"aws"[..], b"private", b"kafka", b"managed", b"foo"]);
    all.extend([&b"svc"[..], b"cluster", b"local"]);
    ask(labels_of(&all))
}

/// A message whose UDP and IP lengths are right for this many bytes of [`broker_query`]'s message.
fn short_message(len: usize) -> Packet {
    let mut bytes = broker().build();
    assert!(len <= bytes.len());
    bytes.truncate(len);
    udp_to(FIRST_V4, bytes)
}

const BROKER_NAME_LEN: usize = BROKER.len() + 2;
const V4_DNS: usize = 14 + 20 + 8;

struct Table(Vec<Case>);

impl Table {
    fn case(
        &mut self,
        name: &'static str,
        frame: impl IntoFrame,
        expect: Expect,
        why: &'static str,
    ) -> &mut Case {
        let frame = frame.into_frame();
        self.0.push(Case {
            name,
            why,
            engines: Engines::for_frame(&frame),
            frame,
            expect,
        });
        self.0.last_mut().expect("just pushed")
    }

    fn pass(
        &mut self,
        name: &'static str,
        frame: impl IntoFrame,
        reason: Reason,
        why: &'static str,
    ) -> &mut Case {
        self.case(name, frame, Expect::Pass(reason), why)
    }

    /// Taken under the first rule, untagged.
    fn taken(&mut self, name: &'static str, frame: impl IntoFrame, why: &'static str) {
        self.taken_by(0, name, frame, why);
    }

    fn taken_by(
        &mut self,
        rule: u32,
        name: &'static str,
        frame: impl IntoFrame,
        why: &'static str,
    ) -> &mut Case {
        let expect = Expect::Taken {
            rule,
            l3_offset: 14,
        };
        self.case(name, frame, expect, why)
    }
}

trait IntoFrame {
    fn into_frame(self) -> Frame;
}

impl IntoFrame for Frame {
    fn into_frame(self) -> Frame {
        self
    }
}

impl IntoFrame for Packet {
    fn into_frame(self) -> Frame {
        self.build()
    }
}

impl IntoFrame for Message {
    fn into_frame(self) -> Frame {
        v4(self).build()
    }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut table = Table(Vec::new());
    queries_that_are_taken(&mut table);
    names(&mut table);
    modes_and_namespaces(&mut table);
    clients(&mut table);
    types_and_classes(&mut table);
    dns_header(&mut table);
    records_behind_the_question(&mut table);
    lengths(&mut table);
    ethernet_and_tags(&mut table);
    ipv4(&mut table);
    ipv6(&mut table);
    other_traffic(&mut table);
    buffers(&mut table);
    table.0
}

fn queries_that_are_taken(t: &mut Table) {
    t.taken("plain A", broker(), "the main case, as musl sends it");
    t.taken(
        "glibc with edns0",
        broker().additional(opt(1200, 0, &[])),
        "an OPT without options is what most clients send",
    );
    t.taken(
        "dig",
        broker()
            .flags(RD | 0x0020)
            .additional(opt(1232, 0, &[(10, &[7; 8])])),
        "AD in a query asks for the AD bit (RFC 6840 §5.7), and a cookie is no reason to pass",
    );
    t.taken(
        "AD and CD",
        broker().flags(RD | 0x0030),
        "both are a validating client's and both are copied or ignored, not odd",
    );
    t.taken(
        "RD clear",
        broker().flags(0),
        "the tenant's answer does not depend on recursion being asked for",
    );
    t.taken(
        "ID 0",
        broker().with(|m| m.id = 0),
        "RFC 8484 clients and some forwarders use ID 0",
    );
    t.taken(
        "0x20",
        ask(name(
            "LkC-1.eU-wEsT-1.AwS.PrIvAtE.kAfKa.MaNaGeD.fOo.SvC.ClUsTeR.lOcAl",
        )),
        "matching ignores ASCII case (RFC 4343); forwarders with 0x20 randomise it",
    );
    t.taken(
        "upper case",
        ask(name(&BROKER.to_uppercase())),
        "the namespace is captured in lower case, so FOO is foo",
    );
    t.taken(
        "last IPv4 server",
        udp_to(LAST_V4, broker().build()),
        "position 16 of 16: the list is searched to its end",
    );
    t.taken(
        "last IPv6 server",
        udp_to(LAST_V6, broker().build()),
        "position 16 of 16: the list is searched to its end",
    );
    t.taken(
        "source port 53",
        v4(broker()).with_udp(|udp| udp.source_port = 53),
        "a forwarder in a pod may ask from port 53; only the destination says that it is a query",
    );
    t.taken(
        "source port 65535",
        v4(broker()).with_udp(|udp| udp.source_port = 65_535),
        "ports are unsigned",
    );
    for (name, source) in [
        ("source 0.0.0.0", "0.0.0.0"),
        ("source 0.255.255.255", "0.255.255.255"),
        ("source 224.0.0.1", "224.0.0.1"),
        ("source 239.255.255.255", "239.255.255.255"),
        ("source 240.0.0.1", "240.0.0.1"),
        ("source 255.255.255.255", "255.255.255.255"),
        ("source ::", "::"),
        ("source ff00::1", "ff00::1"),
        ("source ff02::fb", "ff02::fb"),
    ] {
        t.pass(
            name,
            from(source, broker()),
            Reason::Source,
            "no host has this address (RFC 1122 §3.2.1.3, RFC 4291 §2.5.2 and §2.7)",
        );
    }
    for (name, source) in [
        ("source 1.0.0.0", "1.0.0.0"),
        ("source 223.255.255.255", "223.255.255.255"),
        ("source ::1:0", "::1:0"),
        ("source 1::", "1::"),
        ("source fe80::1", "fe80::1"),
        ("source feff::1", "feff::1"),
    ] {
        t.taken(
            name,
            from(source, broker()),
            "any other address may be a pod's",
        );
    }
}

fn modes_and_namespaces(t: &mut Table) {
    t.pass(
        "observed",
        v4(question(name("a.seen.test"), A)),
        Reason::Observed,
        "a rule that observes changes nothing",
    );
    t.taken_by(
        7,
        "observed in front of another rule",
        v4(question(name("a.b.seen.test"), A)),
        "a rule that observes changes nothing, also for names that another one answers",
    );
    t.taken_by(
        8,
        "a namespace that the rule names",
        v4(question(name("a.FOO.team.test"), A)),
        "it is for these",
    );
    t.taken_by(
        8,
        "a namespace that a glob of the rule is for",
        v6(question(name("a.team-1.team.test"), AAAA)),
        "it is for these",
    );
    for (case, namespace) in [
        ("another namespace", "bar"),
        ("a namespace that begins like one of the rule's", "foo1"),
        (
            "a namespace that ends where the star of a glob begins",
            "team-",
        ),
    ] {
        let asked = name(&format!("a.{namespace}.team.test"));
        t.pass(
            case,
            v4(question(asked, A)),
            Reason::NoRule,
            "others get what they got before",
        );
    }
}

fn clients(t: &mut Table) {
    let from_others = |message: Message| {
        v4(message).with(|packet| packet.source = Ipv4Addr::new(10, 1, 2, 250).into())
    };
    let on_a_veth = |case: &mut Case| case.engines.xdp = false;
    on_a_veth(t.taken_by(
        9,
        "the client's own namespace",
        v4(question(name("a.FOO.own.test"), A)),
        "whoever is behind the veth is in this namespace",
    ));
    on_a_veth(t.taken_by(
        9,
        "the client's own namespace over IPv6",
        v6(question(name("a.b.foo.own.test"), AAAA)),
        "it has addresses of both families",
    ));
    for (case, namespace) in [
        ("the namespace of another client", "baz"),
        ("a namespace that begins like the client's", "foo1"),
        ("a namespace that the client's begins like", "fo"),
        (
            "a namespace as long as the client's by a multiple of eight",
            "foo-foo-foo",
        ),
    ] {
        on_a_veth(t.pass(
            case,
            v4(question(name(&format!("a.{namespace}.own.test")), A)),
            Reason::OtherClient,
            "a question about another namespace is nobody's here",
        ));
    }
    t.taken_by(
        10,
        "the next rule for a namespace that is not the client's",
        v4(question(name("a.bar.own.test"), A)),
        "the first rule that is for the client is the one",
    );
    on_a_veth(t.pass(
        "a forged source",
        from_others(question(name("a.foo.own.test"), A)),
        Reason::ForgedClient,
        "the address is not one of the pod's",
    ));
    on_a_veth(t.taken_by(
        11,
        "a target that depends on the client",
        v4(question(name("a.mine.test"), A)),
        "the rule is for everybody who is known",
    ));
    on_a_veth(t.pass(
        "a forged source asks for its target",
        from_others(question(name("a.mine.test"), A)),
        Reason::ForgedClient,
        "whose target that would be is not known",
    ));
    on_a_veth(t.taken_by(
        12,
        "a label that the rule selects",
        v4(question(name("a.gold.test"), A)),
        "the pod has it",
    ));
    on_a_veth(t.pass(
        "a label that the pod has not",
        v4(question(name("a.silver.test"), A)),
        Reason::OtherClient,
        "the rule is for others",
    ));
    on_a_veth(t.pass(
        "observed for others",
        v4(question(name("a.seen.silver.test"), A)),
        Reason::OtherClient,
        "neither rule is for this pod",
    ));
    on_a_veth(t.taken_by(
        15,
        "a label that goes into the target",
        v4(question(name("a.tier.silver.test"), A)),
        "an earlier rule is for others",
    ));
    for (case, asked) in [
        ("a namespace on a wire", "wire.foo.own.test"),
        ("a target for a client on a wire", "wire.mine.test"),
        ("a label on a wire", "wire.gold.test"),
    ] {
        let case = t.pass(
            case,
            v4(question(name(asked), A)),
            Reason::UnknownClient,
            "many may be behind one interface",
        );
        case.engines = Engines {
            slice: false,
            test_run: false,
            xdp: true,
            veth: false,
        };
    }
}

fn names(t: &mut Table) {
    t.taken(
        "several labels under the star",
        ask(name(
            "b0.use1-az1.lkc-9.eu-west-1.aws.private.kafka.managed.foo.svc.cluster.local",
        )),
        "`*` is one or more labels: zonal brokers have more of them",
    );
    t.pass(
        "no label under the star",
        ask(name("aws.private.kafka.managed.foo.svc.cluster.local")),
        Reason::NoRule,
        "`*` is at least one label: the suffix itself is not a broker",
    );
    t.pass(
        "suffix without a namespace",
        in_namespace(&[]),
        Reason::NoRule,
        "none is not exactly one label",
    );
    t.pass(
        "two labels as namespace",
        in_namespace(&[b"a", b"b"]),
        Reason::NoRule,
        "`{namespace}` is exactly one label, or one tenant could speak for another",
    );
    t.pass(
        "dot inside the namespace label",
        in_namespace(&[b"a.b"]),
        Reason::NoRule,
        "in presentation form an escaped dot looks like two labels; on the wire it is one",
    );
    t.pass(
        "separator byte inside the namespace label",
        in_namespace(&[b"a\xffb"]),
        Reason::NoRule,
        "0xFF is the label boundary in the matcher and must not be one when it is data",
    );
    t.pass(
        "NUL inside the namespace label",
        in_namespace(&[b"a\0b"]),
        Reason::NoRule,
        "not RFC 1123, and a length of zero must not be read into it",
    );
    t.pass(
        "underscore in the namespace",
        in_namespace(&[b"foo_bar"]),
        Reason::NoRule,
        "not an RFC 1123 label, so no Kubernetes namespace",
    );
    t.pass(
        "leading hyphen in the namespace",
        in_namespace(&[b"-foo"]),
        Reason::NoRule,
        "RFC 1123 labels begin with a letter or digit",
    );
    t.pass(
        "trailing hyphen in the namespace",
        in_namespace(&[b"foo-"]),
        Reason::NoRule,
        "RFC 1123 labels end with a letter or digit",
    );
    t.taken(
        "hyphens and digits in the namespace",
        in_namespace(&[b"0-team--a-9"]),
        "RFC 1123 allows a digit in front and hyphens inside",
    );
    t.taken(
        "namespace of one letter",
        in_namespace(&[b"x"]),
        "the first character of a label is also its last",
    );
    t.taken(
        "namespace of 63 characters",
        in_namespace(&[&[b'n'; 63]]),
        "the longest label that there is",
    );
    t.pass(
        "dot inside a leading label",
        with_leading(&[b"lkc.1"]),
        Reason::NoRule,
        "an escaped dot makes a name that no client types and that the target cannot carry",
    );
    t.pass(
        "separator byte inside a leading label",
        with_leading(&[b"lkc\xff1"]),
        Reason::NoRule,
        "one separator more than there are labels",
    );
    t.pass(
        "dot in the first of many leading labels",
        with_leading(&[b"x.y", b"b", b"c", b"eu-west-1", b"lkc-0123456789abcdef"]),
        Reason::NoRule,
        "what `*` skips without steps is still looked at",
    );
    t.taken(
        "UTF-8 in a leading label",
        with_leading(&["brök€r".as_bytes()]),
        "`*` takes labels of any bytes but the two that are boundaries",
    );
    t.pass(
        "separator byte in place of a boundary of the literal part",
        ask(labels_of(&[
            b"lkc-1",
            b"aws\xffprivate",
            b"kafka",
            b"managed",
            b"foo",
            b"svc",
            b"cluster",
            b"local",
        ])),
        Reason::NoRule,
        "after the boundaries are replaced the bytes are those of a name that matches",
    );
    t.pass(
        "separator byte in place of a boundary of the suffix",
        ask(labels_of(&[
            b"lkc-1",
            b"aws",
            b"private",
            b"kafka",
            b"managed",
            b"foo",
            b"svc",
            b"cluster\xfflocal",
        ])),
        Reason::NoRule,
        "the same within the words that are compared before the first step",
    );
    t.pass(
        "separator byte between star and literal part",
        ask(labels_of(&[
            b"lkc-1\xffaws",
            b"private",
            b"kafka",
            b"managed",
            b"foo",
            b"svc",
            b"cluster",
            b"local",
        ])),
        Reason::NoRule,
        "the label that `*` would need is not one",
    );
    t.pass(
        "dots in place of boundaries",
        ask(labels_of(&[
            b"lkc-1.aws.private.kafka.managed.foo.svc",
            b"cluster",
            b"local",
        ])),
        Reason::NoRule,
        "a name that prints like a broker's and is none",
    );
    t.pass(
        "literal part glued to a label",
        ask(name("lkc-1aws.private.kafka.managed.foo.svc.cluster.local")),
        Reason::NoRule,
        "suffixes are compared by label, not by character",
    );
    t.pass(
        "more labels behind the suffix",
        ask(name(
            "lkc-1.aws.private.kafka.managed.foo.svc.cluster.local.eu-west-1.compute.internal",
        )),
        Reason::NoRule,
        "what the rest of the search list makes of the name goes to the cache",
    );
    t.pass(
        "another service of the cluster",
        ask(name("kubernetes.default.svc.cluster.local")),
        Reason::NoRule,
        "most of a pod's queries end in the same suffix",
    );
    t.pass(
        "foreign name",
        ask(name("sts.eu-west-1.amazonaws.com")),
        Reason::NoRule,
        "nothing of the name is ours",
    );
    t.pass(
        "the target's own name",
        ask(name("kafka-upstream.foo.svc.cluster.local")),
        Reason::NoRule,
        "the responder's own look-up must reach the cache",
    );
    t.pass(
        "letters of the literal part off by 0x20",
        ask(labels_of(&[
            b"lkc-1",
            b"aws",
            b"private",
            b"kafka",
            b"managed",
            b"foo",
            b"svc",
            b"cluster",
            b"loc\x01l",
        ])),
        Reason::NoRule,
        "case folding is for letters: 0x01 has no 0x40",
    );
    t.pass(
        "hyphen less 0x20",
        ask(labels_of(&[b"broker\x0d1", b"example", b"test"])),
        Reason::NoRule,
        "0x0D | 0x20 is a hyphen, so a fold of every byte would match",
    );
    t.pass(
        "digit less 0x20",
        ask(labels_of(&[b"broker-\x11", b"example", b"test"])),
        Reason::NoRule,
        "0x11 | 0x20 is '1', so a fold of every byte would match",
    );
    t.taken_by(
        1,
        "exact override",
        ask(name("Broker-1.Example.TEST")),
        "a pattern without `*` or captures is one name",
    );
    t.pass(
        "below an exact override",
        ask(name("x.broker-1.example.test")),
        Reason::NoRule,
        "an exact override has no subtree",
    );
    t.taken_by(
        4,
        "name of one label",
        ask(name("localkafka")),
        "a name may be one label",
    );
    t.taken_by(
        5,
        "capture first",
        ask(name("tenant-7.db.test")),
        "the walk ends inside a capture and accepts there",
    );
    t.pass(
        "two labels before a capture's literal part",
        ask(name("a.tenant-7.db.test")),
        Reason::NoRule,
        "a capture in front is still one label",
    );
    t.pass(
        "root",
        ask(name("")),
        Reason::NoRule,
        "`. NS` is what a resolver's priming asks: no labels at all",
    );
    t.taken_by(
        3,
        "127 labels",
        ask([&[1, b'a'].repeat(125)[..], b"\x01x\x01y\0"].concat()),
        "the most labels that fit into 255 bytes",
    );
    t.pass(
        "127 labels that do not match",
        ask([&[1, b'a'].repeat(125)[..], b"\x01x\x01z\0"].concat()),
        Reason::NoRule,
        "as many labels, one letter off",
    );
    t.pass(
        "122 labels in 257 bytes",
        ask([&[1, b'a'].repeat(119)[..], &name("svc.cluster.local")].concat()),
        Reason::BadName,
        "two more than a name may have (RFC 1035 §2.3.4)",
    );
    t.taken(
        "255 bytes",
        with_leading(&[&[b'p'; 63], &[b'q'; 63], &[b'r'; 63], &[b's'; 13]]),
        "the longest name on the wire, root label included",
    );
    t.pass(
        "256 bytes",
        with_leading(&[&[b'p'; 63], &[b'q'; 63], &[b'r'; 63], &[b's'; 14]]),
        Reason::BadName,
        "one more than a name may have",
    );
    t.pass(
        "1,000 bytes of labels",
        ask([&[63; 64].repeat(15)[..], &name("svc.cluster.local")].concat()),
        Reason::BadName,
        "the walk over labels ends long before the name does",
    );
    t.taken_by(
        2,
        "labels as long as a hyphen, a dot, a digit and a letter",
        ask(labels_of(&[
            &[b'a'; 45],
            &[b'a'; 46],
            &[b'a'; 57],
            &[b'-'; 55],
            b"wide",
            b"test",
        ])),
        "length bytes 45 to 63 are characters too, and must not be read as such",
    );
    t.taken_by(
        2,
        "NUL inside a leading label",
        ask(labels_of(&[b"a\0b", b"wide", b"test"])),
        "a NUL inside a label does not end the name",
    );
    t.pass(
        "compressed name",
        ask(b"\x05lkc-1\xc0\x0c".to_vec()),
        Reason::BadName,
        "a pointer in a question has nothing before it to point to but itself",
    );
    t.pass(
        "name that is a pointer",
        ask(b"\xc0\x0c".to_vec()),
        Reason::BadName,
        "it points to itself (RFC 9267 §2)",
    );
    t.pass(
        "pointer behind a matching suffix",
        ask([&name(BROKER)[..BROKER_NAME_LEN - 1], b"\xc0\x0c"].concat()),
        Reason::BadName,
        "a pointer in place of the root label",
    );
    t.pass(
        "label type 01",
        ask([b"\x41\x01", &name(BROKER)[..]].concat()),
        Reason::BadName,
        "extended labels (RFC 6891 §5) are obsolete and parsers disagree on them",
    );
    t.pass(
        "label type 10",
        ask([b"\x80", &name(BROKER)[..]].concat()),
        Reason::BadName,
        "unassigned (RFC 1035 §4.1.4)",
    );
    t.pass(
        "label of 64 bytes",
        ask([&[64u8][..], &[b'a'; 64], &name("svc.cluster.local")].concat()),
        Reason::BadName,
        "64 is not a length but label type 01",
    );
}

fn types_and_classes(t: &mut Table) {
    let of_type = |qtype| question(name(BROKER), qtype);
    t.taken("AAAA", of_type(AAAA), "the other half of every getaddrinfo");
    t.taken("HTTPS", of_type(65), "browsers and curl ask it first");
    t.taken("SVCB", of_type(64), "as HTTPS");
    t.taken("CNAME", of_type(5), "answered with the CNAME alone");
    t.taken("TXT", of_type(16), "other types are chased each time");
    t.taken("SRV", of_type(33), "some Kafka clients look for one");
    t.taken("NS", of_type(2), "no exception for types of delegation");
    t.taken("SOA", of_type(6), "no exception for types of delegation");
    t.taken("type 127", of_type(127), "the last below the meta types");
    t.taken(
        "type 256",
        of_type(256),
        "URI, the first above the meta types",
    );
    t.taken("type 65535", of_type(65_535), "types are 16 bits, unsigned");
    t.pass(
        "type 0",
        of_type(0),
        Reason::Qtype,
        "reserved (RFC 6895 §3.1)",
    );
    t.pass(
        "OPT as qtype",
        of_type(41),
        Reason::Qtype,
        "a pseudo type cannot be asked for",
    );
    t.taken(
        "HINFO",
        of_type(13),
        "no exception: a denial would be of the name",
    );
    t.taken("ANY", of_type(255), "the CNAME alone (RFC 8482 §4.1)");
    t.pass(
        "MAILA",
        of_type(254),
        Reason::Qtype,
        "the last meta type but ANY",
    );
    t.pass(
        "AXFR",
        of_type(252),
        Reason::Qtype,
        "a transfer is not a look-up",
    );
    t.pass(
        "IXFR",
        of_type(251),
        Reason::Qtype,
        "a transfer is not a look-up",
    );
    t.pass("TKEY", of_type(249), Reason::Qtype, "a meta type");
    t.pass(
        "type 128",
        of_type(128),
        Reason::Qtype,
        "the first meta type",
    );
    t.pass(
        "HINFO of a foreign name",
        question(name("1234.5678.example"), 13),
        Reason::NoRule,
        "the name is looked at before the type",
    );
    let in_class = |qclass| question_in_class(name(BROKER), A, qclass);
    t.pass(
        "class CH",
        in_class(3),
        Reason::Qtype,
        "version.bind and its like",
    );
    t.pass("class 0", in_class(0), Reason::Qtype, "reserved");
    t.pass(
        "class NONE",
        in_class(254),
        Reason::Qtype,
        "only in updates",
    );
    t.pass("class ANY", in_class(255), Reason::Qtype, "not IN alone");
    t.pass(
        "class IN with a high bit",
        in_class(0x8001),
        Reason::Qtype,
        "mDNS's unicast-response bit means nothing here",
    );
}

fn dns_header(t: &mut Table) {
    t.pass(
        "QR=1",
        broker().flags(0x8180),
        Reason::Response,
        "a response to port 53 is a mistake or an attack, not a query",
    );
    for (case, flags, why) in [
        ("opcode IQUERY", 0x0800, "obsolete (RFC 3425)"),
        ("opcode STATUS", 0x1000, "not QUERY"),
        ("opcode NOTIFY", 0x2000, "not QUERY"),
        (
            "opcode UPDATE",
            0x2800,
            "not QUERY; its QDCOUNT is a zone count",
        ),
        ("opcode 15", 0x7800, "unassigned"),
    ] {
        t.pass(case, broker().flags(RD | flags), Reason::Opcode, why);
    }
    for (case, flags, why) in [
        (
            "AA in a query",
            0x0400,
            "it means nothing there (RFC 8906 §8.1.3.3)",
        ),
        ("TC in a query", 0x0200, "likewise: the question is whole"),
        ("RA in a query", 0x0080, "likewise"),
        (
            "Z in a query",
            0x0040,
            "must be zero (RFC 1035 §4.1.1), and is ignored",
        ),
        ("RCODE in a query", 0x0003, "likewise"),
    ] {
        t.taken(case, broker().flags(RD | flags), why);
    }
    t.pass(
        "QDCOUNT 0",
        broker().with(|m| m.questions.clear()),
        Reason::Counts,
        "a header alone, as a cookie refresh sends it (RFC 7873 §5.4)",
    );
    t.pass(
        "QDCOUNT 0 with a question",
        broker().with(|m| m.counts[0] = Some(0)),
        Reason::Counts,
        "the count says what is there, not the bytes",
    );
    t.pass(
        "two questions",
        broker().with(|m| {
            m.questions
                .push(question(name(BROKER), AAAA).questions.remove(0))
        }),
        Reason::Counts,
        "RFC 9619: one",
    );
    t.pass(
        "QDCOUNT 257",
        broker().with(|m| m.counts[0] = Some(0x0101)),
        Reason::Counts,
        "both bytes of a count count",
    );
    let address = record(&name("x"), A, 1, 60, &[10, 0, 0, 1]);
    t.pass(
        "an answer in a query",
        broker().with(|m| m.answers.push(address.clone())),
        Reason::Counts,
        "ANCOUNT > 0",
    );
    t.pass(
        "an authority in a query",
        broker().with(|m| m.authorities.push(address.clone())),
        Reason::Counts,
        "NSCOUNT > 0, as in an IXFR query",
    );
    t.pass(
        "ANCOUNT without an answer",
        broker().with(|m| m.counts[1] = Some(256)),
        Reason::Counts,
        "the high byte alone",
    );
    t.pass(
        "NSCOUNT without an authority",
        broker().with(|m| m.counts[2] = Some(1)),
        Reason::Counts,
        "a count that lies",
    );
    t.pass(
        "ARCOUNT 256",
        broker()
            .additional(opt(1232, 0, &[]))
            .with(|m| m.counts[3] = Some(0x0100)),
        Reason::Counts,
        "both bytes of a count count",
    );
}

fn records_behind_the_question(t: &mut Table) {
    t.taken(
        "OPT with DO",
        broker().additional(record(&[0], 41, 4096, 0x8000, &[])),
        "DO is copied into the answer",
    );
    t.taken(
        "OPT with unknown flags",
        broker().additional(record(&[0], 41, 1232, 0x7fff, &[])),
        "Z bits of EDNS are ignored by a receiver (RFC 6891 §6.1.4)",
    );
    t.taken(
        "OPT with an extended rcode",
        broker().additional(record(&[0], 41, 1232, 0x0100_0000, &[])),
        "means nothing in a query, and is not the version",
    );
    t.taken(
        "OPT of size 0",
        broker().additional(opt(0, 0, &[])),
        "treated as 512 (RFC 6891 §6.2.3)",
    );
    t.taken(
        "OPT of size 65535",
        broker().additional(opt(65_535, 0, &[])),
        "the answer has a limit of its own",
    );
    t.taken(
        "padding and client subnet",
        broker().additional(opt(
            1232,
            0,
            &[(12, &[0; 128]), (8, b"\0\x01\x18\0\x0a\x01\x02")],
        )),
        "options that are unknown here are ignored",
    );
    t.taken(
        "an option longer than its rdata",
        broker().additional(record(&[0], 41, 1232, 0, b"\0\x0a\xff\xff\x01")),
        "options are the responder's to ignore, whatever their lengths say",
    );
    t.taken(
        "250 options",
        broker().additional(opt(1232, 0, &[(65_001, &[][..]); 250])),
        "options are skipped by their total length, not one by one (RFC 9267)",
    );
    t.pass(
        "EDNS version 1",
        broker().additional(opt(1232, 1, &[])),
        Reason::EdnsVersion,
        "BADVERS is the cache's to say (RFC 6891 §6.1.3)",
    );
    t.pass(
        "EDNS version 255",
        broker().additional(opt(1232, 255, &[])),
        Reason::EdnsVersion,
        "every version but 0",
    );
    t.pass(
        "two OPTs",
        broker()
            .additional(opt(1232, 0, &[]))
            .additional(opt(1232, 0, &[])),
        Reason::Counts,
        "FORMERR by RFC 6891 §6.1.1",
    );
    t.pass(
        "two OPTs counted as one",
        broker()
            .additional(opt(1232, 0, &[]))
            .additional(opt(1232, 0, &[]))
            .with(|m| m.counts[3] = Some(1)),
        Reason::NoRule,
        "the second is bytes behind the message, and read as its end there is no name of a rule in front of it",
    );
    t.pass(
        "OPT with an owner",
        broker().additional(record(&name("x"), 41, 1232, 0, &[])),
        Reason::Additional,
        "an OPT's owner is the root (RFC 6891 §6.1.2)",
    );
    t.pass(
        "OPT whose owner is a pointer",
        broker().additional(record(b"\xc0\x0c", 41, 1232, 0, &[])),
        Reason::Additional,
        "even one that points to a root label",
    );
    let tsig = record(
        &name("key.example"),
        250,
        255,
        0,
        &[&name("hmac-sha256")[..], &[0; 48]].concat(),
    );
    t.pass(
        "TSIG",
        broker().additional(tsig.clone()),
        Reason::Additional,
        "a signed query wants a signed answer (RFC 8945)",
    );
    t.pass(
        "OPT and TSIG",
        broker().additional(opt(1232, 0, &[])).additional(tsig),
        Reason::Counts,
        "as TSIG alone",
    );
    t.pass(
        "SIG(0)",
        broker().additional(record(&[0], 24, 255, 0, &[0; 40])),
        Reason::Additional,
        "RFC 2931: its owner is the root, as OPT's is",
    );
    t.pass(
        "an address in the additional section",
        broker().additional(record(&name("x"), A, 1, 60, &[10, 0, 0, 1])),
        Reason::Additional,
        "no client sends it",
    );
    t.pass(
        "root-owned record that is not OPT",
        broker().additional(record(&[0], A, 1, 60, &[10, 0, 0, 1])),
        Reason::Additional,
        "the type says what it is, not the owner",
    );
    t.pass(
        "ARCOUNT 0 with an OPT",
        broker()
            .additional(opt(1232, 0, &[]))
            .with(|m| m.counts[3] = Some(0)),
        Reason::NoRule,
        "a record that no count announces: the message does not end as one with such a name would",
    );
    t.pass(
        "trailing byte",
        broker().with(|m| m.rest = vec![0]),
        Reason::NoRule,
        "a byte behind the message: it does not end as one with such a name would",
    );
    t.pass(
        "trailing bytes behind OPT",
        broker()
            .additional(opt(1232, 0, &[]))
            .with(|m| m.rest = vec![0; 12]),
        Reason::Additional,
        "as without OPT",
    );
    t.pass(
        "RDLENGTH of OPT too long by one",
        broker().additional(b"\0\0\x29\x04\xd0\0\0\0\0\0\x01".to_vec()),
        Reason::Truncated,
        "a length beyond the message",
    );
    t.pass(
        "RDLENGTH 65535",
        broker().additional(b"\0\0\x29\x04\xd0\0\0\0\0\xff\xff".to_vec()),
        Reason::Truncated,
        "a length far beyond the message must not wrap around",
    );
    t.pass(
        "RDLENGTH of OPT too short by one",
        broker().additional(b"\0\0\x29\x04\xd0\0\0\0\0\0\x04\0\x0a\0\x01\x07".to_vec()),
        Reason::Additional,
        "the last byte belongs to nothing",
    );
    t.pass(
        "ARCOUNT 1 with nothing",
        broker().with(|m| m.counts[3] = Some(1)),
        Reason::Truncated,
        "the record is missing",
    );
    t.pass(
        "OPT without its last byte",
        broker().additional(b"\0\0\x29\x04\xd0\0\0\0\0\0".to_vec()),
        Reason::Truncated,
        "ten of eleven bytes",
    );
}

fn lengths(t: &mut Table) {
    let whole = broker_query().build().bytes.len();
    for (case, len, reason, why) in [
        (
            "a byte short of Ethernet",
            13,
            Reason::NotDns,
            "no whole Ethernet header",
        ),
        (
            "Ethernet header alone",
            14,
            Reason::NotDns,
            "nothing behind it",
        ),
        (
            "cut before the protocol",
            14 + 9,
            Reason::NotDns,
            "what it carries is not known",
        ),
        (
            "28 bytes",
            28,
            Reason::NotDns,
            "the IPv4 header is not whole",
        ),
        (
            "cut in the IPv4 header",
            14 + 19,
            Reason::NotDns,
            "one byte short of the header",
        ),
        ("IPv4 header alone", 14 + 20, Reason::NotDns, "no port"),
        (
            "cut in the port",
            14 + 20 + 3,
            Reason::NotDns,
            "half a port",
        ),
        (
            "cut behind the ports",
            14 + 20 + 4,
            Reason::Truncated,
            "to a server, without a length",
        ),
        (
            "UDP header alone",
            14 + 20 + 8,
            Reason::Truncated,
            "the lengths promise a message",
        ),
        (
            "cut in the DNS header",
            V4_DNS + 11,
            Reason::Truncated,
            "the lengths promise more",
        ),
        (
            "DNS header alone",
            V4_DNS + 12,
            Reason::Truncated,
            "the lengths promise more",
        ),
        (
            "cut in the name",
            V4_DNS + 12 + 20,
            Reason::Truncated,
            "the lengths promise more",
        ),
        (
            "cut behind the name",
            V4_DNS + 12 + BROKER_NAME_LEN,
            Reason::Truncated,
            "the lengths promise more",
        ),
        (
            "without the last byte",
            whole - 1,
            Reason::Truncated,
            "one byte less than promised",
        ),
    ] {
        t.pass(case, broker_query().cut(len), reason, why);
    }
    t.pass(
        "empty UDP",
        udp_to(FIRST_V4, Vec::new()),
        Reason::Truncated,
        "28 bytes of IP: a probe, or a keep-alive",
    );
    for (case, len, why) in [
        (
            "UDP of one byte",
            1,
            "lengths agree, but there is no DNS header",
        ),
        (
            "DNS header less one byte",
            11,
            "lengths agree, but the header is not whole",
        ),
        (
            "DNS header that promises a question",
            12,
            "QDCOUNT 1 and no bytes",
        ),
        ("first length byte alone", 13, "a label that does not come"),
        ("message that ends inside a label", 16, "a label cut short"),
        (
            "message without the root label",
            12 + BROKER_NAME_LEN - 1,
            "the name does not end",
        ),
        (
            "message without qtype",
            12 + BROKER_NAME_LEN,
            "the question is cut short",
        ),
        (
            "message with half a qtype",
            12 + BROKER_NAME_LEN + 1,
            "the question is cut short",
        ),
        (
            "message without qclass",
            12 + BROKER_NAME_LEN + 2,
            "the question is cut short",
        ),
        (
            "message with half a qclass",
            12 + BROKER_NAME_LEN + 3,
            "the question is cut short",
        ),
    ] {
        // What is cut within the name's first labels does not end as a message with such a name would, and is judged by
        // its end.
        let reason = match len {
            12..=16 => Reason::NoRule,
            _ => Reason::Truncated,
        };
        t.pass(case, short_message(len), reason, why);
    }
    t.pass(
        "root name cut behind qtype",
        udp_to(FIRST_V4, question(name(""), A).build()[..15].to_vec()),
        Reason::NoRule,
        "the shortest question, and still too short",
    );
    let ip = |lie| broker_query().with(|p| p.ip_length_off_by = lie);
    t.pass(
        "IP length one too long",
        ip(1),
        Reason::Truncated,
        "the lengths disagree",
    );
    t.pass(
        "IP length one too short",
        ip(-1),
        Reason::Truncated,
        "the lengths disagree",
    );
    t.pass(
        "IP length 19",
        ip(19 - (whole as i32 - 14)),
        Reason::Truncated,
        "less than the header",
    );
    t.pass(
        "IP length 0",
        ip(14 - whole as i32),
        Reason::Truncated,
        "as TSO leaves it, and a lie",
    );
    t.pass(
        "IP length 65535",
        ip(65_535 - (whole as i32 - 14)),
        Reason::Truncated,
        "far too long",
    );
    let udp = |lie| broker_query().with_udp(|udp| udp.length_off_by = lie);
    t.pass(
        "UDP length one too long",
        udp(1),
        Reason::Truncated,
        "the lengths disagree",
    );
    t.pass(
        "UDP length one too short",
        udp(-1),
        Reason::Truncated,
        "the lengths disagree",
    );
    t.pass(
        "UDP length 7",
        udp(7 - (whole as i32 - 34)),
        Reason::Truncated,
        "less than its header",
    );
    t.pass(
        "UDP length 0",
        udp(34 - whole as i32),
        Reason::Truncated,
        "a jumbogram's, or a lie",
    );
    t.pass(
        "both lengths too long",
        ip(100).with_udp(|udp| udp.length_off_by = 100),
        Reason::Truncated,
        "they agree, but the frame ends before",
    );
    t.pass(
        "both lengths too short for the message",
        ip(-4).with_udp(|udp| udp.length_off_by = -4),
        Reason::Truncated,
        "the question is in the frame but not in the datagram",
    );
    t.pass(
        "both lengths within the OPT",
        v4(broker().additional(opt(1232, 0, &[])))
            .with(|p| p.ip_length_off_by = -1)
            .with_udp(|udp| udp.length_off_by = -1),
        Reason::Truncated,
        "the frame holds the last byte of the OPT, the datagram does not",
    );
    t.taken(
        "Ethernet padding",
        broker_query().with(|p| p.trailer = vec![0; 6]),
        "padding is not part of the datagram (RFC 894)",
    );
    t.taken(
        "padding that looks like more DNS",
        broker_query().with(|p| p.trailer = opt(1232, 1, &[])),
        "what lies behind the datagram is not read",
    );
    t.taken(
        "zero checksum",
        broker_query().with_udp(|udp| udp.checksum = Checksum::Zero),
        "no checksum, which IPv4 allows (RFC 768)",
    );
    t.taken(
        "wrong checksum",
        broker_query().with_udp(|udp| udp.checksum = Checksum::Wrong),
        "a pod's packet carries a partial sum, so the program cannot judge it",
    );
    let options = |len: usize| {
        let padding = vec![0; len - whole - 11 - 4];
        broker().additional(opt(1232, 0, &[(12, &padding)]))
    };
    t.taken(
        "1,536 bytes",
        options(1536),
        "the largest frame that an event carries",
    );
    t.pass("1,537 bytes", options(1537), Reason::Oversize, "one more");
    t.pass(
        "5,000 bytes",
        options(5000),
        Reason::Oversize,
        "a jumbo frame",
    );
}

fn ethernet_and_tags(t: &mut Table) {
    let mut tagged = |name, packet: Packet, l3_offset, why| {
        t.case(name, packet, Expect::Taken { rule: 0, l3_offset }, why);
    };
    tagged(
        "802.1Q",
        broker_query().tag(0x8100, 100),
        18,
        "a pod on a trunk; on a wire the kernel moves the tag out of the frame",
    );
    tagged(
        "802.1Q with priority and DEI",
        broker_query().tag(0x8100, 0xf064),
        18,
        "the whole TCI comes back with the reply",
    );
    tagged(
        "priority tag",
        broker_query().tag(0x8100, 0xa000),
        18,
        "VID 0 is a tag all the same",
    );
    tagged(
        "802.1ad alone",
        broker_query().tag(0x88a8, 7),
        18,
        "a service tag without a customer tag",
    );
    tagged(
        "QinQ",
        broker_query().tag(0x88a8, 7).tag(0x8100, 100),
        22,
        "802.1ad: the outer tag is the provider's",
    );
    tagged(
        "QinQ of two 802.1Q tags",
        broker_query().tag(0x8100, 7).tag(0x8100, 4094),
        22,
        "what most switches called QinQ before 802.1ad",
    );
    tagged(
        "tagged IPv6",
        v6(broker()).tag(0x8100, 100),
        18,
        "offsets add up",
    );
    t.pass(
        "tagged foreign name",
        ask(name("example.com")).tag(0x8100, 100),
        Reason::NoRule,
        "a tag changes nothing",
    );
    t.pass(
        "three tags in the frame",
        broker_query().tag(0x8100, 1).tag(0x8100, 2).tag(0x8100, 3),
        Reason::NotDns,
        "two tags are looked behind, not three",
    )
    // There the outer one is not in the frame: the next case.
    .engines
    .veth = false;
    t.case(
        "three tags, one of them outside the frame",
        broker_query().tag(0x88a8, 1).tag(0x8100, 2).tag(0x8100, 3),
        Expect::Taken {
            rule: 0,
            l3_offset: 26,
        },
        "the tag that the kernel keeps is none of the two",
    )
    .engines = Engines {
        slice: false,
        test_run: false,
        xdp: false,
        veth: true,
    };
    t.pass(
        "four tags",
        broker_query()
            .tag(0x88a8, 1)
            .tag(0x8100, 2)
            .tag(0x8100, 3)
            .tag(0x8100, 4),
        Reason::NotDns,
        "no network does that",
    );
    t.pass(
        "tag that hides a tag cut short",
        broker_query().tag(0x8100, 1).tag(0x8100, 2).cut(21),
        Reason::NotDns,
        "no ethertype behind the second tag",
    );
    t.pass(
        "tag alone",
        broker_query().tag(0x8100, 1).cut(16),
        Reason::NotDns,
        "no ethertype behind the tag",
    )
    // The kernel drops it before any program sees it: it cannot move the tag out of the frame.
    .engines
    .veth = false;
    t.pass(
        "tagged and cut in the IP header",
        broker_query().tag(0x8100, 1).cut(14 + 4 + 10),
        Reason::NotDns,
        "boundaries move with the tag",
    );
    t.taken(
        "another host's MAC",
        broker_query().with(|p| p.destination_mac = [0x02, 9, 9, 9, 9, 9]),
        "pkt_type is OTHERHOST on a bridge with a MAC of its own",
    );
    t.taken(
        "broadcast MAC",
        broker_query().with(|p| p.destination_mac = [0xff; 6]),
        "pkt_type is not looked at",
    );
    t.taken(
        "multicast MAC",
        broker_query().with(|p| p.destination_mac = [0x01, 0, 0x5e, 0, 0, 1]),
        "pkt_type is not looked at",
    );
}

fn ipv4(t: &mut Table) {
    t.taken(
        "DF",
        broker_query().with(|p| p.fragment = 0x4000),
        "path MTU discovery is no fragment",
    );
    t.taken(
        "reserved bit",
        broker_query().with(|p| p.fragment = 0x8000),
        "RFC 3514 in earnest: no fragment either",
    );
    t.taken(
        "ToS",
        broker_query().with(|p| p.traffic_class = 0xb8),
        "DSCP and ECN are the network's",
    );
    t.taken(
        "TTL 1",
        broker_query().with(|p| p.ttl = 1),
        "the server is one hop away",
    );
    t.pass(
        "first fragment",
        broker_query().with(|p| p.fragment = 0x2000),
        Reason::Fragment,
        "the rest of the message is elsewhere",
    );
    t.pass(
        "later fragment",
        broker_query().with(|p| p.fragment = 0x2000 | 10),
        Reason::Fragment,
        "its first bytes are not a UDP header, however much they look like one",
    );
    t.pass(
        "last fragment",
        broker_query().with(|p| p.fragment = 185),
        Reason::Fragment,
        "MF is clear, but the offset is not 0",
    );
    t.pass(
        "fragment offset 8191",
        broker_query().with(|p| p.fragment = 0x1fff),
        Reason::Fragment,
        "all thirteen bits",
    );
    t.pass(
        "router alert",
        broker_query().with(|p| p.options = vec![0x94, 4, 0, 0]),
        Reason::IpOptions,
        "options move everything behind them; no client sends DNS so",
    );
    t.pass(
        "40 bytes of options",
        broker_query().with(|p| p.options = vec![1; 40]),
        Reason::IpOptions,
        "the longest IPv4 header",
    );
    t.pass(
        "options to another port",
        broker_query()
            .with(|p| p.options = vec![1; 4])
            .with_udp(|udp| udp.destination_port = 123),
        Reason::NotDns,
        "only DNS is worth a counter",
    );
    t.pass(
        "options that are not there",
        broker_query().with(|p| p.version_ihl = Some(0x4f)).cut(60),
        Reason::NotDns,
        "IHL says 60 bytes, the frame has 46",
    );
    t.pass(
        "IHL 4",
        broker_query().with(|p| p.version_ihl = Some(0x44)),
        Reason::NotDns,
        "less than the smallest header",
    );
    t.pass(
        "version 5",
        broker_query().with(|p| p.version_ihl = Some(0x55)),
        Reason::NotDns,
        "IPv4 by ethertype, not by itself",
    );
    t.pass(
        "other server",
        udp_to(Ipv4Addr::new(8, 8, 8, 8).into(), broker().build()),
        Reason::OtherServer,
        "a pod with a resolver of its own; `status` warns of it",
    );
    t.pass(
        "neighbour of a server",
        udp_to(Ipv4Addr::new(169, 254, 20, 11).into(), broker().build()),
        Reason::OtherServer,
        "all four bytes are compared",
    );
    t.pass(
        "address 0.0.0.0",
        udp_to(Ipv4Addr::UNSPECIFIED.into(), broker().build()),
        Reason::OtherServer,
        "unused places in the list are zero and must not match",
    );
}

fn ipv6(t: &mut Table) {
    t.taken(
        "IPv6",
        v6(broker()),
        "the same question over the other family",
    );
    t.taken(
        "IPv6 with OPT",
        v6(question(name(BROKER), AAAA).additional(opt(1232, 0, &[(10, &[1; 8])]))),
        "as over IPv4",
    );
    t.taken(
        "IPv6 flow label and traffic class",
        v6(broker()).with(|p| {
            p.flow_label = 0xf_ffff;
            p.traffic_class = 0xff;
        }),
        "Linux sets a flow label by itself",
    );
    t.taken(
        "IPv6 with a zero checksum",
        v6(broker()).with_udp(|udp| udp.checksum = Checksum::Zero),
        "not allowed (RFC 8200 §8.1), but checksums are not the program's to judge",
    );
    t.pass(
        "IPv6 other server",
        udp_to(
            "2001:4860:4860::8888".parse().expect("an address"),
            broker().build(),
        ),
        Reason::OtherServer,
        "a pod with a resolver of its own",
    );
    t.pass(
        "IPv6 server but for its first half",
        udp_to(
            "fd01:ec2::10".parse().expect("an address"),
            broker().build(),
        ),
        Reason::OtherServer,
        "both halves are compared",
    );
    t.pass(
        "IPv6 server but for its last byte",
        udp_to(
            "fd00:ec2::11".parse().expect("an address"),
            broker().build(),
        ),
        Reason::OtherServer,
        "both halves are compared",
    );
    t.pass(
        "IPv4-mapped server",
        udp_to(
            "::ffff:169.254.20.10".parse().expect("an address"),
            broker().build(),
        ),
        Reason::OtherServer,
        "never on a wire; not the same server",
    );
    for (case, number, why) in [
        (
            "hop-by-hop options",
            0,
            "what follows an extension header is not looked for",
        ),
        ("routing header", 43, "as hop-by-hop options"),
        ("destination options", 60, "as hop-by-hop options"),
        ("IPv6 fragment", 44, "the only way to say fragment in IPv6"),
        ("authentication header", 51, "as hop-by-hop options"),
    ] {
        t.pass(
            case,
            v6(broker()).with(|p| {
                p.extension = number;
                p.options = vec![17, 0, 0, 0, 0, 0, 0, 0];
            }),
            Reason::NotDns,
            why,
        );
    }
    let whole = v6(broker()).build().bytes.len();
    let lie = |lie| v6(broker()).with(|p| p.ip_length_off_by = lie);
    t.pass(
        "IPv6 length one too long",
        lie(1),
        Reason::Truncated,
        "the lengths disagree",
    );
    t.pass(
        "IPv6 length one too short",
        lie(-1),
        Reason::Truncated,
        "the lengths disagree",
    );
    t.pass(
        "IPv6 length 0",
        lie(54 - whole as i32),
        Reason::Truncated,
        "a jumbogram's",
    );
    t.pass(
        "IPv6 empty UDP",
        udp_to(FIRST_V6, Vec::new()),
        Reason::Truncated,
        "no DNS header",
    );
    t.pass(
        "IPv6 cut in its header",
        v6(broker()).cut(14 + 39),
        Reason::NotDns,
        "no port",
    );
    t.pass(
        "IPv6 header alone",
        v6(broker()).cut(54),
        Reason::NotDns,
        "no port",
    );
    t.pass(
        "IPv6 cut behind the ports",
        v6(broker()).cut(58),
        Reason::Truncated,
        "no length",
    );
    t.pass(
        "IPv6 cut in the name",
        v6(broker()).cut(54 + 8 + 30),
        Reason::Truncated,
        "not whole",
    );
    t.pass(
        "IPv6 by ethertype, version 4",
        v6(broker()).with(|p| p.version_ihl = Some(0x45)),
        Reason::NotDns,
        "the header says what it is as well",
    );
    t.pass(
        "IPv4 packet under the IPv6 ethertype",
        broker_query().with(|p| p.ethertype = Some(0x86dd)),
        Reason::NotDns,
        "no guessing",
    );
}

fn other_traffic(t: &mut Table) {
    let tcp = |server| {
        let mut segment = vec![0; 20];
        segment[..4].copy_from_slice(&[0xa1, 0x12, 0, 53]);
        segment[12] = 0x50;
        segment[13] = 2;
        segment.extend(broker().build());
        udp_to(server, Vec::new()).with(|p| p.transport = Transport::Other(6, segment))
    };
    t.pass(
        "TCP to port 53",
        tcp(FIRST_V4),
        Reason::NotDns,
        "TCP passes here",
    );
    t.pass(
        "TCP to port 53 over IPv6",
        tcp(FIRST_V6),
        Reason::NotDns,
        "TCP passes here",
    );
    t.pass(
        "UDP-Lite to port 53",
        broker_query().with(|p| {
            let datagram = match &p.transport {
                Transport::Udp(udp) => {
                    [&[0xa1, 0x12, 0, 53, 0, 0, 0, 0], &udp.payload[..]].concat()
                }
                Transport::Other(..) => unreachable!(),
            };
            p.transport = Transport::Other(136, datagram);
        }),
        Reason::NotDns,
        "ports in the same place, another protocol",
    );
    t.pass(
        "ICMP",
        broker_query().with(|p| p.transport = Transport::Other(1, vec![8, 0, 0, 53, 0, 1, 0, 1])),
        Reason::NotDns,
        "its third and fourth bytes are no port",
    );
    t.pass(
        "mDNS",
        broker_query().with_udp(|udp| udp.destination_port = 5353),
        Reason::NotDns,
        "another port of a server's address",
    );
    t.pass(
        "port 53 in the wrong byte order",
        broker_query().with_udp(|udp| udp.destination_port = 0x3500),
        Reason::NotDns,
        "13568 is not 53",
    );
    t.pass(
        "a reply from port 53",
        broker_query().with_udp(|udp| {
            udp.source_port = 53;
            udp.destination_port = 41_234;
        }),
        Reason::NotDns,
        "only the destination counts",
    );
    t.pass(
        "ARP",
        ethernet(0x0806, &[&[0, 1, 8, 0, 6, 4, 0, 1][..], &[0; 20]].concat()),
        Reason::NotDns,
        "not IP",
    );
    t.pass("LLDP", ethernet(0x88cc, &[0; 46]), Reason::NotDns, "not IP");
    t.pass(
        "802.3 length",
        ethernet(46, &[0xaa; 46]),
        Reason::NotDns,
        "a length, not an ethertype",
    );
    t.pass(
        "a query under another ethertype",
        broker_query().with(|p| p.ethertype = Some(0x8847)),
        Reason::NotDns,
        "MPLS",
    );
}

fn buffers(t: &mut Table) {
    let paged = |packet: Packet| Frame {
        paged: true,
        ..packet.build()
    };
    t.taken(
        "paged buffer",
        paged(broker_query()),
        "only the Ethernet header is linear: every byte behind it takes a helper",
    );
    t.taken(
        "paged buffer over IPv6",
        paged(v6(broker().additional(opt(1232, 0, &[])))),
        "as over IPv4",
    );
    t.pass(
        "paged buffer with a foreign name",
        paged(ask(name("example.com"))),
        Reason::NoRule,
        "a page is no reason to take or to pass",
    );
    t.pass(
        "paged buffer cut in the name",
        paged(broker_query().cut(V4_DNS + 20)),
        Reason::Truncated,
        "the end of a page is the end of the frame",
    );
    let gso = |packet: Packet, size| Frame {
        gso_size: Some(size),
        ..packet.build()
    };
    t.pass(
        "GSO",
        gso(broker_query(), 40),
        Reason::Oversize,
        "three datagrams in one buffer that reads like one query",
    );
    t.pass(
        "GSO with lengths of a segment",
        gso(
            broker_query().with_udp(|udp| {
                udp.length_off_by = 40 - udp.payload.len() as i32;
            }),
            40,
        ),
        Reason::Oversize,
        "the UDP length may be that of the first segment",
    );
    let queries = [broker().build(), broker().build()].concat();
    t.pass(
        "two queries by GSO",
        gso(udp_to(FIRST_V4, queries), broker().build().len() as u16),
        Reason::Oversize,
        "a UDP_SEGMENT send: one buffer, two queries",
    );
}
