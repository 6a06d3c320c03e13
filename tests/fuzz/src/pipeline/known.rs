//! The answers in the tables, and the compose step's replies from each: both must give the same bytes.

use dns_common::{
    answer::{Absent, Key, Lifetime, MemoryTables, RuleEntry, Settings, Slot, Tables, Ways},
    wire::KEPT_QTYPES,
};
use gregor::{
    resolve::{Answer, Query, Section, fuzzing},
    rules::RuleSet,
};
use hickory_proto::rr::{Name, RecordType, rdata::SOA};

/// The time of every run.
pub const NOW_NS: u64 = 1_000_000_000_000;
const SECOND: u64 = 1_000_000_000;

/// The captures, so that each question finds another entry.
const FRESH: &str = "foo";
const FIXED: &str = "bar";
const STALE: &str = "a";
const OVER: &str = "over";
const GONE: &str = "gone";
/// Servers with answers, by their index: the first and the last of each family.
const SERVERS: [u16; 4] = [0, 15, 16, 31];

/// One answer of the tables.
pub struct Known {
    rule: usize,
    qtype: u16,
    /// The first capture, which says how old the answer is; none for a rule without captures.
    first: Option<&'static str>,
    section: Section,
    records: usize,
}

/// The expected result of a look-up.
pub enum Says<'a> {
    /// No entry.
    Nothing,
    /// There is no target.
    NoTarget,
    /// An answer, and whether a newer one should be asked for.
    Answer(&'a Known, bool),
}

impl Known {
    fn ttl(&self) -> u32 {
        match self.first {
            Some(FIXED) => 7,
            Some(STALE) => 1,
            // 20.5 seconds are left.
            _ => 21,
        }
    }

    /// Every reply that the compose step could give, by rotation.
    pub fn replies(&self, query: &Query) -> impl Iterator<Item = Vec<u8>> {
        (0..self.records.max(1))
            .filter_map(|rotation| fuzzing::answer(query, &self.section, self.ttl(), rotation))
    }

    /// Whether a reply to this query is complete.
    pub fn fits(&self, query: &Query) -> bool {
        let limit = query
            .edns
            .map_or(512, |edns| usize::from(edns.udp_size).clamp(512, 1232));
        // A cookie with a server part is repeated.
        let opt = query.edns.map_or(0, |edns| {
            11 + edns.cookie.map_or(0, |cookie| 4 + cookie.as_bytes().len())
        });
        12 + query.question().len() + self.section.len() + opt <= limit
    }
}

/// Tables that every run reads.
pub struct Shared<'a>(pub &'a MemoryTables);

impl dns_common::client::Clients for Shared<'_> {}

impl Tables for Shared<'_> {
    fn settings(&self) -> Option<&Settings> {
        self.0.settings()
    }

    fn rule(&self, index: u32) -> Option<RuleEntry> {
        self.0.rule(index)
    }

    fn is_unattended(&self, now_ns: u64) -> bool {
        self.0.is_unattended(now_ns)
    }

    fn ways(&self, bucket: u32) -> Option<&Ways> {
        self.0.ways(bucket)
    }

    fn slot(&self, slot: u32) -> Option<&Slot> {
        self.0.slot(slot)
    }

    fn absent_ways(&self, bucket: u32) -> Option<&Ways> {
        self.0.absent_ways(bucket)
    }

    fn absent(&self, slot: u32) -> Option<&Absent> {
        self.0.absent(slot)
    }

    fn suffix_ways(&self, bucket: u32) -> Option<&Ways> {
        self.0.suffix_ways(bucket)
    }

    fn count(&self, slot: u32) -> u32 {
        self.0.count(slot)
    }
}

/// The tables of a rule set, and what is in them.
pub fn fill(rules: &RuleSet) -> (MemoryTables, Vec<Known>) {
    let entries = rules.entries_by_index();
    let mut tables = MemoryTables::new(4096, Vec::new()).with_rules(entries.clone());
    let mut known = Vec::new();
    let of_rules = entries.into_iter().take(rules.rules().len());
    for (index, RuleEntry { captures, .. }) in of_rules.enumerate() {
        if captures.kept == 0 {
            continue;
        }
        let firsts: &[Option<&'static str>] = match captures.count {
            0 => &[None],
            _ => &[
                Some(FRESH),
                Some(FIXED),
                Some(STALE),
                Some(OVER),
                Some(GONE),
            ],
        };
        for &first in firsts {
            // A second capture is the same as the first.
            let labels: Vec<&[u8]> = first
                .iter()
                .cycle()
                .take(usize::from(captures.count))
                .map(|label| label.as_bytes())
                .collect();
            for qtype in KEPT_QTYPES {
                let found = found(index, qtype);
                let section = Section::new(&found).expect("a short answer");
                for server in SERVERS {
                    let key = Key::new(index as u64, qtype, server.into(), &labels)
                        .expect("captures that fit");
                    if first == Some(GONE) {
                        let key = key.with_qtype(0);
                        assert!(qtype != 1 || tables.insert_absent(&key, NOW_NS + 1));
                    } else if let Some(body) = section.body() {
                        assert!(tables.insert(&key, &body, &lifetime(first)), "no room");
                    }
                }
                if section.body().is_some() {
                    known.push(Known {
                        rule: index,
                        qtype,
                        first,
                        records: found.rdata.len(),
                        section,
                    });
                }
            }
        }
    }
    (tables, known)
}

/// The result of a look-up in the tables of [`fill`].
pub fn says<'a>(
    known: &'a [Known],
    rule: usize,
    qtype: u16,
    captures: &[String],
    server: usize,
) -> Says<'a> {
    let first = captures.first();
    if !SERVERS.iter().any(|known| usize::from(*known) == server)
        || captures.iter().any(|capture| Some(capture) != first)
        || !KEPT_QTYPES.contains(&qtype)
    {
        return Says::Nothing;
    }
    let found = known.iter().find(|known| {
        known.rule == rule && known.qtype == qtype && known.first == first.map(String::as_str)
    });
    match (first.map(String::as_str), found) {
        (Some(GONE), _) => Says::NoTarget,
        (Some(OVER), _) | (_, None) => Says::Nothing,
        (first, Some(known)) => Says::Answer(known, first == Some(STALE)),
    }
}

fn lifetime(first: Option<&str>) -> Lifetime {
    let (fresh_until_ns, serve_until_ns) = match first {
        Some(STALE) => (NOW_NS, NOW_NS + 1),
        Some(OVER) => (NOW_NS - 1, NOW_NS),
        _ => (NOW_NS + 20 * SECOND + SECOND / 2, NOW_NS + 30 * SECOND),
    };
    Lifetime {
        fresh_until_ns,
        serve_until_ns,
        // An expired entry stays expired.
        stale_until_ns: serve_until_ns,
        fixed_ttl: if first == Some(FIXED) { 7 } else { 0 },
    }
}

/// Something of another shape for each rule and qtype: chains and RRsets of many lengths, an SOA.
fn found(rule: usize, qtype: u16) -> Answer {
    let name = |text: &str| Name::from_ascii(text).expect("a name");
    let mut names = vec![name(&format!("up{rule}.foo.svc.cluster.local."))];
    for alias in 0..rule % 4 {
        names.push(name(&format!(
            "vpce-{alias}.odd.eu-west-1.vpce.amazonaws.com."
        )));
    }
    let rdata: Vec<Vec<u8>> = match qtype {
        1 => (0..=(rule * 7 % 28) as u8)
            .map(|last| vec![10, 0, 0, last])
            .collect(),
        28 if rule.is_multiple_of(2) => (0..3u8).map(|last| vec![last; 16]).collect(),
        65 => vec![b"\x00\x01\x00\x00\x01\x00\x03\x02h2".to_vec()],
        _ => Vec::new(),
    };
    let soa = SOA::new(
        name("ns.dns.cluster.local."),
        name("hostmaster.cluster.local."),
        7,
        7200,
        1800,
        86_400,
        5,
    );
    let zone = name("amazonaws.com.");
    Answer {
        qtype: RecordType::from(qtype),
        soa: (rdata.is_empty() && qtype != 5).then(|| Box::new((zone, soa))),
        names,
        rdata,
        ttl_seconds: 60,
    }
}
