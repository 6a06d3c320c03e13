//! The rule sets and servers that frames are put through with.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::LazyLock,
};

use dns_common::{abi::Servers, answer::MemoryTables};
use gregor::rules::{
    MatchSpec, Mode, RuleSet, RuleSpec,
    testing::{Oracle, realistic_rules},
};

use super::known::{Known, fill};

/// A compiled rule set and what judges it.
pub struct Fixture {
    pub rules: RuleSet,
    pub oracle: Oracle,
    pub servers: Servers,
    pub answers: MemoryTables,
    /// What is in them.
    pub known: Vec<Known>,
}

/// Patterns of the packet table of the end-to-end tests, in its order, so that its frames are seeds here.
const SEVERAL: [(&str, &str); 6] = [
    (
        "*.aws.private.kafka.managed.{namespace}.svc.cluster.local",
        "kafka-upstream.{namespace}.svc.cluster.local",
    ),
    ("broker-1.example.test", "one.target.test"),
    ("*.wide.test", "two.target.test"),
    ("*.x.y", "three.target.test"),
    ("localkafka", "four.target.test"),
    ("{namespace}.db.test", "db.{namespace}.target.test"),
];

/// Expressions, which the table decides about with no pattern's help.
const REGEXES: [(&str, &str); 3] = [
    (
        r"^[^.]+\.kafka\.(.+)\.svc\.cluster\.local\.$",
        "k.{1}.target",
    ),
    (r"\.(_tcp|[a-f]+)\.(?:.*\.)?local", "t.{1}.target"),
    (r"^[a-z0-9]{1,3}\.test\.$", "short.target"),
];

/// Each rule set with the same servers.
pub fn fixtures() -> &'static [Fixture] {
    static FIXTURES: LazyLock<Vec<Fixture>> = LazyLock::new(|| {
        let patterns = |pairs: &[(&str, &str)]| specs(pairs, MatchSpec::Pattern);
        let mut mixed = specs(&REGEXES, MatchSpec::Regex);
        mixed.extend(realistic_rules(24));
        let mut observed = patterns(&[("*.{namespace}.svc.cluster.local", "new.{namespace}.test")]);
        observed[0].name = "new".to_owned();
        observed[0].mode = Mode::Observe;
        observed.extend(patterns(&SEVERAL));
        observed[1].namespaces = Some(vec!["foo".to_owned(), "*-1".to_owned()]);
        [patterns(&SEVERAL), observed, mixed, Vec::new()]
            .iter()
            .map(|specs| Fixture::new(specs))
            .collect()
    });
    &FIXTURES
}

fn specs(pairs: &[(&str, &str)], matches: impl Fn(String) -> MatchSpec) -> Vec<RuleSpec> {
    pairs
        .iter()
        .enumerate()
        .map(|(index, (pattern, cname))| RuleSpec {
            name: format!("rule-{index}"),
            matches: matches((*pattern).to_owned()),
            cname: (*cname).to_owned(),
            ttl_seconds: 60,
            follow: true,
            ..RuleSpec::default()
        })
        .collect()
}

impl Fixture {
    fn new(specs: &[RuleSpec]) -> Self {
        let rules = RuleSet::compile(specs)
            .unwrap_or_else(|complaints| panic!("rules of a fixture: {complaints:?}"));
        let (answers, known) = fill(&rules);
        Self {
            rules,
            answers,
            known,
            oracle: Oracle::new(specs),
            servers: in_packet_order(&servers()),
        }
    }
}

/// 16 of each family, among them the first and the last of the packet table.
pub fn servers() -> Vec<IpAddr> {
    let v4 = (0..16u8).map(|last| match last {
        0 => Ipv4Addr::new(169, 254, 20, 10).into(),
        15 => Ipv4Addr::new(172, 20, 0, 10).into(),
        last => Ipv4Addr::new(10, 96, 0, last).into(),
    });
    let v6 = (0..16u16).map(|last| match last {
        0 => Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x10).into(),
        15 => Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x253).into(),
        last => Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, last).into(),
    });
    v4.chain(v6).collect()
}

fn in_packet_order(addresses: &[IpAddr]) -> Servers {
    let mut servers = Servers::default();
    for address in addresses {
        match address {
            IpAddr::V4(address) => {
                servers.v4[servers.v4_count as usize] = u32::from_ne_bytes(address.octets());
                servers.v4_count += 1;
            }
            IpAddr::V6(address) => {
                let octets = address.octets();
                let half = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| octets[at + i]));
                servers.v6[servers.v6_count as usize] = [half(0), half(8)];
                servers.v6_count += 1;
            }
        }
    }
    servers
}
