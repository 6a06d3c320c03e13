//! The pipeline over random rules and clients: it takes a query under the rule that the responder would apply for the client,
//! and an answer that is kept for one client is never another one's.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use dns_common::{
    abi::{Servers, protection},
    answer::{Key, Lifetime, MemoryTables},
    client::{ClientRecord, Permit},
    packet::SlicePacket,
    pipeline::{Matched, MemoryHost, intercept},
    scratch::Scratch,
    verdict::{Reason, Verdict},
};
use gregor::{
    model::Client,
    resolve::wire_name,
    rules::{
        Budget, Claims, ClientsSpec, MatchSpec, Protected, RuleSet, RuleSpec,
        testing::{Rng, random_name, random_rules},
    },
};
use gregor_tests::packets::{
    answers::{Answer, endpoint},
    build::{question, udp_to},
};

const NOW_NS: u64 = 1 << 40;
const SERVER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(169, 254, 20, 10));

/// Who asks: nobody known, or one of these.
fn clients() -> Vec<Client> {
    let of = |namespace: &str, labels: &[(&str, &str)]| Client {
        namespace: namespace.to_owned(),
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect(),
        ..Client::default()
    };
    vec![
        of("foo", &[("tier", "gold")]),
        of("foo", &[("tier", "silver"), ("x", "9")]),
        of("svc", &[]),
        of("a", &[("tier", "not.a.label")]),
        of("a-namespace-of-exactly-thirty-2", &[("x", "b")]),
    ]
}

/// Rules that are for some clients, or take something from them.
fn with_clients(random: &mut Rng, specs: &mut Vec<RuleSpec>) {
    for spec in specs.iter_mut() {
        let MatchSpec::Pattern(pattern) = &spec.matches else {
            continue;
        };
        spec.clients = match random.below(6) {
            0 if pattern.contains("{namespace}") => ClientsSpec::OwnNamespace,
            1 => ClientsSpec::Namespaces(vec![random.pick(&["foo", "a*", "*"]).to_owned()]),
            2 => {
                let values = vec![random.pick(&["gold", "silver", "*"]).to_owned()];
                ClientsSpec::Labels([("tier".to_owned(), values)].into())
            }
            _ => ClientsSpec::Any,
        };
        match random.below(6) {
            0 => spec.cname.insert_str(0, "{client.namespace}."),
            1 => spec.cname.insert_str(0, "{client.label.x}."),
            _ => {}
        }
    }
    // The same names again, for the others.
    let all: Vec<RuleSpec> = specs.clone();
    for mut spec in all {
        if spec.clients != ClientsSpec::Any && random.once_in(2) {
            spec.name.push_str("-again");
            spec.clients = ClientsSpec::Any;
            specs.push(spec);
        }
    }
}

/// What some namespaces claim: names of the rules in front, and names below theirs.
fn with_claims(random: &mut Rng, specs: &mut Vec<RuleSpec>) {
    let patterns = specs.iter().filter_map(|spec| match &spec.matches {
        MatchSpec::Pattern(pattern) if !pattern.contains('{') => Some(pattern.to_ascii_lowercase()),
        _ => None,
    });
    let mut patterns: Vec<String> = patterns.collect();
    let below: Vec<String> = patterns
        .iter()
        .filter_map(|pattern| Some(format!("*.b.{}", pattern.strip_prefix("*.")?)))
        .collect();
    patterns.extend(below);
    patterns.sort();
    patterns.dedup();
    for pattern in patterns {
        let mut services = BTreeMap::new();
        for client in clients() {
            if random.once_in(2) {
                let service = random.pick(&["up", "second"]).to_owned();
                services.insert(client.namespace, service);
            }
        }
        if !services.is_empty() {
            specs.push(RuleSpec {
                name: "claims".to_owned(),
                matches: MatchSpec::Pattern(pattern.clone()),
                cname: "{client.claim}.{client.namespace}.svc.claimed".to_owned(),
                ttl_seconds: 60,
                clients: ClientsSpec::Claimed(Claims { pattern, services }),
                ..RuleSpec::default()
            });
        }
    }
}

fn servers() -> Servers {
    let mut servers = Servers::default();
    let IpAddr::V4(server) = SERVER else {
        unreachable!()
    };
    servers.v4[0] = u32::from_ne_bytes(server.octets());
    servers.v4_count = 1;
    servers
}

/// The interface and the id of a client; 0 has nobody behind it.
fn interface(client: usize) -> u32 {
    client as u32 * 1024 + 1
}

fn id(client: usize) -> u32 {
    client as u32 + 500
}

/// An answer that says under which rule and for whom it is kept.
fn marked(rule: usize, client: u32) -> Answer {
    Answer {
        rdata: vec![vec![10, rule as u8, (client >> 8) as u8, client as u8]],
        ..endpoint()
    }
}

struct Tables {
    rules: RuleSet,
    clients: Vec<Client>,
    tables: MemoryTables,
    scratch: Scratch,
}

impl Tables {
    fn new(rules: RuleSet) -> Self {
        let mut clients = clients();
        for client in &mut clients {
            client.claims = rules.claims_of(&client.namespace);
        }
        let mut tables = MemoryTables::new(4096, Vec::new())
            .with_rules(rules.entries_by_index())
            .with_starters(&rules.starters());
        for (index, client) in clients.iter().enumerate() {
            tables = tables.with_client(&ClientRecord {
                ifindex: interface(index),
                id: id(index),
                addresses: vec![source()],
                namespace: client.namespace.clone(),
                digest: [0; 4],
            });
            for rule in rules.permits(client).filter_map(|id| rules.index_of(id)) {
                tables = tables.with_permit(Permit::new(rule as u64, id(index)));
            }
        }
        Self {
            rules,
            clients,
            tables,
            scratch: Scratch::new(),
        }
    }

    /// Keeps an answer for a client's question, where the program may.
    fn keep(&mut self, qname: &[u8], client: usize) {
        let asking = self.clients.get(client);
        let Some(index) = self.rules.find(qname, asking) else {
            return;
        };
        let rule = &self.rules.rules()[index];
        let Some(matched) = rule.apply(qname, asking).filter(|_| !rule.is_regex()) else {
            return;
        };
        let asked_by = if rule.asks_who() { id(client) } else { 0 };
        let captures: Vec<&[u8]> = matched.captures.iter().map(String::as_bytes).collect();
        let Some(key) = Key::new(index as u64, 1, 0, &captures) else {
            return;
        };
        let key = key.of_client(asked_by);
        let lifetime = Lifetime {
            fresh_until_ns: NOW_NS + 1_000_000_000,
            serve_until_ns: NOW_NS + 1_000_000_000,
            ..Lifetime::default()
        };
        let body = marked(index, asked_by).body().expect("a body");
        // Without room it is simply not kept.
        match self.rules.suffix(index, captures.iter().copied()) {
            Some(suffix) => {
                self.tables
                    .insert_with_suffix(&key, &body, &lifetime, &suffix);
            }
            None => {
                self.tables.insert(&key, &body, &lifetime);
            }
        }
    }

    /// The verdict for a question from this interface, the reply, and what was handed over.
    fn ask(
        &mut self,
        qname: &[u8],
        ifindex: u32,
        admission: Result<(), Reason>,
    ) -> (Verdict, Vec<u8>, Vec<Matched>) {
        let frame = udp_to(SERVER, question(qname, 1).build()).build();
        let len = frame.bytes.len();
        let mut bytes = frame.bytes;
        bytes.resize(len + 1024, 0);
        let mut packet = SlicePacket::with_room(&mut bytes, len);
        let handed_over = RefCell::new(Vec::new());
        let host = MemoryHost {
            servers: servers(),
            header: &self.rules.table().header,
            table: &self.rules.table().entries,
            tails: &self.rules.table().tails,
            answers: &self.tables,
            now_ns: NOW_NS,
            ifindex,
            admission,
            protection: match self.rules.protected().next() {
                Some(_) => protection::UNREAD,
                None => 0,
            },
            sink: RefCell::new(|query| handed_over.borrow_mut().push(query)),
        };
        let verdict = intercept(&mut packet, &host, || Some(&mut self.scratch));
        let reply = packet.bytes().to_vec();
        (verdict, reply, handed_over.into_inner())
    }
}

/// Of [`udp_to`].
fn source() -> [u64; 2] {
    let bits = std::net::Ipv4Addr::new(10, 1, 2, 3)
        .to_ipv6_mapped()
        .to_bits();
    [(bits >> 64) as u64, bits as u64].map(u64::to_be)
}

#[derive(Default, Debug)]
struct Seen {
    taken: usize,
    taken_for_a_client: usize,
    answered: usize,
    answered_for_a_client: usize,
    passed_on_account_of_clients: usize,
    of_a_later_rule: usize,
    own_targets: usize,
    foreign_targets: usize,
    claimed: usize,
}

#[test]
fn the_program_and_the_responder_agree_on_who_gets_what() {
    let mut seen = Seen::default();
    for seed in 0..300 {
        let mut random = Rng::new(seed);
        let mut specs = random_rules(&mut random, 6);
        with_clients(&mut random, &mut specs);
        with_claims(&mut random, &mut specs);
        let protects = random.once_in(2);
        let budget = Budget::of_this_process();
        let Ok(rules) = RuleSet::compile_and_protect(&specs, "", &budget, protects) else {
            continue;
        };
        let mut tables = Tables::new(rules);
        let nobody = tables.clients.len();
        let mut names: Vec<Vec<u8>> = (0..40)
            .map(|_| random_name(&mut random, &specs))
            .filter(|name| name.len() > 1)
            .collect();
        if protects {
            names.extend(targets(&tables, &names));
        }
        for name in &names {
            if random.once_in(2) {
                tables.keep(name, random.below(nobody));
            }
        }
        for name in &names {
            for client in 0..=nobody {
                check(
                    &mut tables,
                    name,
                    client,
                    &mut seen,
                    &format!("seed {seed}"),
                );
            }
        }
    }
    println!("{seen:?}");
    assert!(
        seen.taken > 1000 && seen.taken_for_a_client > 500,
        "{seen:?}"
    );
    assert!(
        seen.answered > 500 && seen.answered_for_a_client > 200,
        "{seen:?}"
    );
    assert!(seen.passed_on_account_of_clients > 500, "{seen:?}");
    assert!(seen.of_a_later_rule > 200, "{seen:?}");
    assert!(
        seen.own_targets > 100 && seen.foreign_targets > 500,
        "{seen:?}"
    );
    assert!(seen.claimed > 100, "{seen:?}");
}

/// The first targets of names for the clients that they have any for, each once.
fn targets(tables: &Tables, names: &[Vec<u8>]) -> BTreeSet<Vec<u8>> {
    let of = |name: &Vec<u8>, client: &Client| {
        let index = tables.rules.find(name, Some(client))?;
        let matched = tables.rules.rules()[index].apply(name, Some(client))?;
        Some(wire_name(&matched.target))
    };
    let pairs = names
        .iter()
        .flat_map(|name| tables.clients.iter().map(move |client| (name, client)));
    pairs
        .filter_map(|(name, client)| of(name, client))
        .collect()
}

/// The name of a target is its own namespace's to pass, and is refused to everybody else: it never passes, be there a responder or
/// not.
fn check_protected(
    tables: &mut Tables,
    name: &[u8],
    client: usize,
    expected: &(usize, Protected),
    seen: &mut Seen,
    context: &str,
) {
    let (index, protected) = expected;
    let is_own = matches!(protected, Protected::Own { .. });
    let (verdict, _, handed_over) = tables.ask(name, interface(client), Ok(()));
    assert_eq!(verdict, Verdict::Taken, "{context}");
    assert_eq!(handed_over[0].rule as usize, *index, "{context}");
    let asked_by = if is_own { id(client) } else { 0 };
    assert_eq!(handed_over[0].client, asked_by, "{context}");
    for reason in [Reason::RateLimited, Reason::RingFull, Reason::NoResponder] {
        let (verdict, _, handed_over) = tables.ask(name, interface(client), Err(reason));
        let expected = if is_own {
            Verdict::Pass(reason)
        } else {
            Verdict::Unanswered
        };
        assert_eq!(verdict, expected, "{context}");
        assert!(handed_over.is_empty(), "{context}");
    }
    if is_own {
        seen.own_targets += 1;
    } else {
        seen.foreign_targets += 1;
    }
}

fn check(tables: &mut Tables, name: &[u8], client: usize, seen: &mut Seen, context: &str) {
    let asking = tables.clients.get(client).cloned();
    let expected = tables.rules.find(name, asking.as_ref());
    let matching = tables.rules.matching(name);
    let context = format!("{context}, {asking:?}: {}", name.escape_ascii());
    if let Some(protected) = tables.rules.protection(name, asking.as_ref()) {
        assert_eq!(expected, None, "{context}");
        return check_protected(tables, name, client, &protected, seen, &context);
    }
    let (verdict, reply, handed_over) = tables.ask(name, interface(client), Ok(()));
    let asks = |index: usize| tables.rules.rules()[index].asks_who();
    let of_client = |index: usize| if asks(index) { id(client) } else { 0 };
    match verdict {
        Verdict::Taken => {
            let index = handed_over[0].rule as usize;
            assert_eq!(Some(index), expected, "{context}");
            assert_eq!(handed_over[0].client, of_client(index), "{context}");
            seen.taken += 1;
            seen.taken_for_a_client += usize::from(asks(index));
            seen.claimed += usize::from(tables.rules.rules()[index].is_claimed());
            seen.of_a_later_rule += usize::from(matching.first() != Some(&index));
        }
        Verdict::Answered => {
            let index = expected.unwrap_or_else(|| panic!("{context}: no rule"));
            let [.., 10, rule, high, low] = reply[..] else {
                panic!("{context}: {reply:02x?}");
            };
            assert_eq!(usize::from(rule), index, "{context}");
            let kept_for = u32::from(high) << 8 | u32::from(low);
            assert_eq!(kept_for, of_client(index), "{context}");
            seen.answered += 1;
            seen.answered_for_a_client += usize::from(asks(index));
            seen.claimed += usize::from(tables.rules.rules()[index].is_claimed());
        }
        Verdict::Pass(Reason::UnknownClient | Reason::OtherClient) => {
            assert_eq!(expected, None, "{context}");
            assert!(matching.iter().any(|&index| asks(index)), "{context}");
            let is_unknown = verdict == Verdict::Pass(Reason::UnknownClient);
            assert_eq!(is_unknown, asking.is_none(), "{context}");
            seen.passed_on_account_of_clients += 1;
        }
        Verdict::Pass(Reason::NoRule | Reason::BadName) => {
            assert_eq!(matching, [0usize; 0], "{context}");
        }
        Verdict::Pass(Reason::Observed) => assert_eq!(expected, None, "{context}"),
        verdict => panic!("{context}: {verdict:?}"),
    }
}
