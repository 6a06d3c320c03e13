//! `protect_targets`: the names of targets in which a namespace is, as rules behind all others. A name goes on untouched for a
//! client of that namespace, and is refused for everybody else.

use std::collections::BTreeMap;

use regex_syntax::hir::Hir;

use super::clients::{Clients, ClientsSpec, FromClient};
use super::pattern::template_labels;
use super::{Budget, Complaint, DEFAULT_TTL, Key, MatchSpec, NAMESPACE, Rule, RuleSpec};
use crate::model::Client;

/// What becomes of the name of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Protected {
    /// The client's own, which passes: that is kept under the id of this rule with these captures.
    Own { rule: u64, captures: Vec<String> },
    /// It is refused.
    Foreign,
}

/// The reference to a claimed Service.
const CLAIMED: &str = "{client.claim}";

/// As it is spelled in the file.
pub(super) const KEY: &str = "protect_targets";

/// Names of the two rules of each pattern, which no one sees; their ids depend on them.
const OWN: &str = "protected.own";
const FOREIGN: &str = "protected.foreign";

/// The rules for all patterns: for each the one for its own clients, then the one for everybody.
#[derive(Debug, Default)]
pub(super) struct Guards {
    rules: Vec<Rule>,
}

/// A pattern and the namespaces that it is for.
type Names = (String, Option<Vec<String>>);

impl Guards {
    /// Those of rules that answer; `specs` by the index of each. Languages are added for each rule here, and a warning for
    /// each target that cannot be protected.
    pub fn of(
        rules: &[(usize, Rule)],
        specs: &[RuleSpec],
        budget: &Budget,
        languages: &mut Vec<Hir>,
        warnings: &mut Vec<Complaint>,
    ) -> Self {
        let mut all: Vec<Names> = Vec::new();
        for (index, rule) in rules.iter().filter(|(_, rule)| !rule.is_observing()) {
            match names_of(rule, &specs[*index]) {
                Ok(found) => {
                    for names in found {
                        if !all.contains(&names) {
                            all.push(names);
                        }
                    }
                }
                Err(problem) => warnings.push(Complaint::new(
                    *index,
                    Key::Cname,
                    format!("{KEY} does not protect this target: {problem}"),
                    "let the namespace be a whole label of it, and the only reference",
                )),
            }
        }
        let mut guards = Self::default();
        for (pattern, namespaces) in all {
            let terms = namespaces.as_deref().unwrap_or_default().join(" ");
            for (name, clients) in [
                (OWN, ClientsSpec::OwnNamespace),
                (FOREIGN, ClientsSpec::Any),
            ] {
                let spec = RuleSpec {
                    name: name.to_owned(),
                    matches: MatchSpec::Pattern(pattern.clone()),
                    cname: pattern.clone(),
                    ttl_seconds: DEFAULT_TTL,
                    namespaces: namespaces.clone(),
                    clients,
                    ..RuleSpec::default()
                };
                // What is a target is a pattern, too.
                let compiled = Rule::compile(0, &spec, &terms, budget, &mut Vec::new());
                if let Some((mut rule, language)) = compiled {
                    rule.refuses = name == FOREIGN;
                    guards.rules.push(rule);
                    languages.push(language);
                } else {
                    debug_assert!(false, "{pattern} is not a pattern");
                }
            }
        }
        guards
    }

    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What becomes of a name in wire format by the rule with this place; `None` where it is none of its names.
    pub fn protection(
        &self,
        at: usize,
        qname: &[u8],
        client: Option<&Client>,
    ) -> Option<Protected> {
        let rule = self.rules.get(at)?;
        if rule.is_for_own_namespace()
            && let Some(matched) = rule.apply(qname, client)
        {
            return Some(Protected::Own {
                rule: rule.id(),
                captures: matched.captures,
            });
        }
        rule.is_of(qname).then_some(Protected::Foreign)
    }

    /// Whether the rule with this place is for everybody else than the names' own clients.
    pub fn refuses(&self, at: usize) -> bool {
        let rule = self.rules.get(at);
        rule.is_some_and(|rule| !rule.is_for_own_namespace())
    }

    /// Each pattern once.
    pub fn patterns(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.is_for_own_namespace())
    }
}

/// The names of a rule's targets, where the namespace of who may have them is in them; an error says why that cannot be
/// recognised.
fn names_of(rule: &Rule, spec: &RuleSpec) -> Result<Vec<Names>, &'static str> {
    let cname = rule.cname().trim_end_matches('.');
    let Clients::Claimed(claims) = &rule.asks.clients else {
        return Ok(names_by(rule, spec, cname)?.into_iter().collect());
    };
    // The Services that tenants have named: of their own namespaces alone.
    let mut namespaces: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for (namespace, service) in &claims.services {
        let of_service = namespaces.entry(service).or_default();
        of_service.push(namespace.clone());
    }
    let mut names = Vec::new();
    for (service, namespaces) in namespaces {
        let cname = cname.replace(CLAIMED, service);
        let found = names_by(rule, spec, &cname)?;
        names.extend(found.map(|(pattern, _)| (pattern, Some(namespaces))));
    }
    Ok(names)
}

/// The same for one template.
fn names_by(rule: &Rule, spec: &RuleSpec, cname: &str) -> Result<Option<Names>, &'static str> {
    let is_own = |reference: &str| {
        matches!(
            FromClient::parse(reference),
            Some(Ok(FromClient::Namespace))
        )
    };
    let is_captured = |reference: &str| {
        let position = reference.parse::<usize>().ok().filter(|_| rule.is_regex());
        reference == NAMESPACE
            || position.is_some_and(|number| rule.namespace.is_some_and(|at| at + 1 == number))
    };
    let mut labels: Vec<String> = Vec::new();
    let mut namespaces = 0;
    let mut others = 0;
    let mut problem = None;
    let mut allowed = None;
    for label in template_labels(cname) {
        if !label.contains('{') {
            labels.push(label.to_owned());
            continue;
        }
        let whole = label.strip_prefix('{').and_then(|rest| {
            let rest = rest.strip_suffix('}')?;
            (!rest.contains('{')).then_some(rest)
        });
        match whole {
            Some(reference) if is_own(reference) || is_captured(reference) => {
                namespaces += 1;
                labels.push(format!("{{{NAMESPACE}}}"));
                allowed = match (&rule.asks.clients, is_own(reference)) {
                    (Clients::Namespaces(_), true) => match &spec.clients {
                        ClientsSpec::Namespaces(texts) => Some(texts.clone()),
                        _ => None,
                    },
                    (_, true) => None,
                    (_, false) => spec.namespaces.clone(),
                };
            }
            Some(_) => others += 1,
            None => {
                let references = label
                    .split('{')
                    .skip(1)
                    .filter_map(|rest| rest.split('}').next());
                let mut references =
                    references.map(|reference| is_own(reference) || is_captured(reference));
                if references.any(|is_namespace| is_namespace) {
                    problem = Some("the namespace is only a part of its label");
                } else {
                    others += 1;
                }
            }
        }
    }
    match (namespaces, others) {
        _ if problem.is_some() => Err(problem.unwrap_or_default()),
        (0, _) => Ok(None),
        (1, 0) => Ok(Some((labels.join("."), allowed))),
        (1, _) => Err("another reference beside the namespace may stand for any Service of it"),
        _ => Err("the namespace is in it more than once"),
    }
}

#[cfg(test)]
mod tests {
    use dns_common::{
        answer::{Captures, asks},
        pipeline::MAX_CHOICES,
    };

    use super::*;
    use crate::rules::{Claims, RuleSet};

    fn spec(number: usize, matches: MatchSpec, cname: &str) -> RuleSpec {
        RuleSpec {
            name: format!("rule-{number}"),
            matches,
            cname: cname.to_owned(),
            ttl_seconds: 60,
            follow: true,
            ..RuleSpec::default()
        }
    }

    fn rule(pattern: &str, cname: &str) -> RuleSpec {
        spec(0, MatchSpec::Pattern(pattern.to_owned()), cname)
    }

    fn compile(specs: impl IntoIterator<Item = RuleSpec>) -> RuleSet {
        let named = specs.into_iter().enumerate();
        let specs: Vec<RuleSpec> = named
            .map(|(number, spec)| RuleSpec {
                name: format!("rule-{number}"),
                ..spec
            })
            .collect();
        RuleSet::compile_and_protect(&specs, "", &Budget::of_this_process(), true).unwrap()
    }

    fn patterns(rules: &RuleSet) -> Vec<&str> {
        rules.protected().map(Rule::pattern).collect()
    }

    fn wire(name: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        for label in name.split('.') {
            wire.push(label.len() as u8);
            wire.extend(label.bytes());
        }
        wire.push(0);
        wire
    }

    fn client(namespace: &str) -> Client {
        Client {
            namespace: namespace.to_owned(),
            ..Client::default()
        }
    }

    /// What becomes of a name, for foo and for an unidentified client: `+` passes, `-` is refused, `.` is not protected.
    fn becomes(rules: &RuleSet, name: &str) -> String {
        let foo = client("foo");
        [Some(&foo), None]
            .map(|client| match rules.protection(&wire(name), client) {
                Some((_, Protected::Own { .. })) => '+',
                Some((_, Protected::Foreign)) => '-',
                None => '.',
            })
            .iter()
            .collect()
    }

    const UNMODIFIED: &str = "*.confluent.cloud";
    const TARGET: &str = "kafka-upstream.{client.namespace}.svc.cluster.local";

    #[test]
    fn a_target_is_its_own_namespaces_alone() {
        let rules = compile([
            rule(UNMODIFIED, TARGET),
            // The same names.
            rule(
                "*.kafka.{namespace}.svc.cluster.local",
                "kafka-upstream.{namespace}.svc.cluster.local",
            ),
            rule("exact.example.com", "shared.infra.svc.cluster.local"),
        ]);
        assert_eq!(
            patterns(&rules),
            ["kafka-upstream.{namespace}.svc.cluster.local"]
        );
        for (name, expected) in [
            ("kafka-upstream.foo.svc.cluster.local", "+-"),
            ("KAFKA-Upstream.FOO.svc.Cluster.local", "+-"),
            ("kafka-upstream.bar.svc.cluster.local", "--"),
            ("kafka-upstream.not_a_label.svc.cluster.local", ".."),
            ("a.kafka-upstream.bar.svc.cluster.local", ".."),
            (
                "kafka-upstream.bar.svc.cluster.local.foo.svc.cluster.local",
                "..",
            ),
            ("kafka-upstream.svc.cluster.local", ".."),
            ("shared.infra.svc.cluster.local", ".."),
            ("a.kafka.bar.svc.cluster.local", ".."),
            ("exact.example.com", ".."),
        ] {
            assert_eq!(becomes(&rules, name), expected, "{name}");
            // No rule of the configuration has it.
            if expected != ".." {
                assert_eq!(rules.matching(&wire(name)), [] as [usize; 0]);
                assert!(!rules.matches(&wire(name)));
                assert_eq!(rules.find_for_anybody(&wire(name)), None);
            }
        }
        assert_eq!(rules.rules().len(), 3);
        assert!(rules.warnings().is_empty());
    }

    #[test]
    fn the_program_finds_the_rule_for_the_own_namespace_and_behind_it_the_one_for_everybody() {
        let rules = compile([rule(UNMODIFIED, TARGET)]);
        let name = wire("kafka-upstream.foo.svc.cluster.local");
        let foo = client("foo");
        let (own, protected) = rules.protection(&name, Some(&foo)).unwrap();
        let Protected::Own { rule, captures } = protected else {
            panic!("it is refused");
        };
        let (foreign, _) = rules.protection(&name, None).unwrap();
        let entries = rules.entries();
        assert_eq!(entries[own].id, rule);
        assert_eq!((entries[own].asks, entries[own].own), (asks::KNOWN, 1));
        assert_eq!(entries[own].captures.kept, 1);
        assert_eq!(entries[foreign].asks, asks::NOBODY);
        assert_eq!(entries[foreign].captures.kept, Captures::REFUSED);
        assert_eq!(rules.index_of(rule), Some(own));
        assert_eq!(rules.index_of(entries[foreign].id), Some(foreign));
        // What is kept of a client's own target is known again, and of nobody else's.
        let labels: Vec<&[u8]> = captures.iter().map(String::as_bytes).collect();
        assert!(rules.answers(rule, labels.clone(), Some(&foo)));
        assert!(rules.may_answer(rule, labels.clone(), "foo"));
        assert!(!rules.answers(rule, labels.clone(), Some(&client("bar"))));
        assert!(!rules.may_answer(rule, labels, "bar"));
        // Somebody else's name, handed over as one's own.
        let bars = wire("kafka-upstream.bar.svc.cluster.local");
        assert_eq!(
            rules.protection_at(own, &bars, Some(&foo)),
            Some(Protected::Foreign)
        );
        let none = wire("a.example.com");
        assert_eq!(rules.protection_at(foreign, &none, None), None);
        assert_eq!(rules.protection_at(0, &name, None), None);
    }

    #[test]
    fn without_it_nothing_is_protected_and_nobody_asked_for() {
        let specs = [rule(
            "*.kafka.{namespace}.svc.cluster.local",
            "kafka-upstream.{namespace}.svc.cluster.local",
        )];
        let plain = RuleSet::compile(&specs).unwrap();
        assert_eq!(patterns(&plain), [] as [&str; 0]);
        assert!(!plain.asks_who());
        assert_eq!(
            becomes(&plain, "kafka-upstream.bar.svc.cluster.local"),
            ".."
        );
        let protecting = compile(specs);
        assert!(protecting.asks_who());
        // The rule is the same, so what is kept of its answers stays.
        assert_eq!(plain.rules()[0].id(), protecting.rules()[0].id());
        assert!(!protecting.rules()[0].asks_who());
    }

    #[test]
    fn rules_come_first() {
        let answered = "kafka-upstream.{namespace}.svc.cluster.local";
        let for_all = compile([
            rule(UNMODIFIED, TARGET),
            rule(answered, "up.{namespace}.example.com"),
        ]);
        let bars = "kafka-upstream.bar.svc.cluster.local";
        assert_eq!(becomes(&for_all, bars), "..");
        assert_eq!(for_all.find(&wire(bars), None), Some(1));
        // Of what they do not answer the rest is refused.
        let for_own = compile([
            rule(UNMODIFIED, TARGET),
            RuleSpec {
                clients: ClientsSpec::OwnNamespace,
                ..rule(answered, "up.{namespace}.example.com")
            },
        ]);
        assert_eq!(becomes(&for_own, bars), "--");
        assert_eq!(
            becomes(&for_own, "kafka-upstream.foo.svc.cluster.local"),
            ".-"
        );
        let observing = RuleSpec {
            mode: crate::rules::Mode::Observe,
            ..rule(answered, "up.{namespace}.example.com")
        };
        let observed = compile([rule(UNMODIFIED, TARGET), observing]);
        assert_eq!(
            patterns(&observed).len(),
            1,
            "the target of one that observes is none"
        );
        assert_eq!(becomes(&observed, bars), "--");
    }

    #[test]
    fn rules_are_followed_as_without_it() {
        let rules = compile([
            rule(UNMODIFIED, "{client.namespace}.kafka.example.com"),
            rule(
                "{namespace}.kafka.example.com",
                "up.{namespace}.svc.cluster.local",
            ),
        ]);
        assert_eq!(
            patterns(&rules),
            [
                "{namespace}.kafka.example.com",
                "up.{namespace}.svc.cluster.local"
            ]
        );
        let foo = client("foo");
        let asked = wire("a.confluent.cloud");
        let first = rules.find(&asked, Some(&foo)).unwrap();
        let chain = rules.follow(first, &asked, Some(&foo)).unwrap();
        let targets: Vec<String> = chain
            .iter()
            .map(|(_, found)| found.target.to_ascii())
            .collect();
        assert_eq!(
            targets,
            ["foo.kafka.example.com.", "up.foo.svc.cluster.local."]
        );
    }

    #[test]
    fn the_own_target_passes_behind_many_rules_too() {
        // All of them match the names of targets, each for another namespace.
        let many = (0..MAX_CHOICES + 3).map(|number| RuleSpec {
            clients: ClientsSpec::Namespaces(vec![format!("client-{number}")]),
            namespaces: Some(vec!["team-*".to_owned(), format!("only-{number}")]),
            ..rule(
                "kafka-upstream.{namespace}.svc.cluster.local",
                "up.{namespace}.example.com",
            )
        });
        let rules = compile(many.chain([rule(UNMODIFIED, TARGET)]));
        let name = wire("kafka-upstream.team-14.svc.cluster.local");
        assert_eq!(rules.matching(&name).len(), MAX_CHOICES as usize - 2);
        let own = rules.protection(&name, Some(&client("team-14")));
        assert!(matches!(own, Some((_, Protected::Own { .. }))), "{own:?}");
        let foreign = rules.protection(&name, Some(&client("foo")));
        assert!(
            matches!(foreign, Some((_, Protected::Foreign))),
            "{foreign:?}"
        );
    }

    #[test]
    fn only_namespaces_that_the_rule_is_for_are_protected() {
        let teams = || vec!["team-*".to_owned(), "foo".to_owned()];
        let by_name = RuleSpec {
            namespaces: Some(teams()),
            ..rule(
                "*.kafka.{namespace}.svc.cluster.local",
                "up.{namespace}.svc.cluster.local",
            )
        };
        let by_client = RuleSpec {
            clients: ClientsSpec::Namespaces(teams()),
            ..rule(UNMODIFIED, "up.{client.namespace}.svc.cluster.local")
        };
        for spec in [by_name, by_client] {
            let rules = compile([spec]);
            for (name, expected) in [
                ("up.foo.svc.cluster.local", "+-"),
                ("up.team-1.svc.cluster.local", "--"),
                ("up.shared.svc.cluster.local", ".."),
            ] {
                assert_eq!(becomes(&rules, name), expected, "{name}");
            }
        }
    }

    /// A claimed Service is protected where it is claimed: others may call theirs the same.
    #[test]
    fn the_services_of_claims_are_protected_in_the_namespaces_that_claim() {
        let services = [("foo", "up"), ("bar", "web"), ("baz", "up")];
        let claims = Claims {
            pattern: UNMODIFIED.to_owned(),
            services: services
                .map(|(namespace, service)| (namespace.to_owned(), service.to_owned()))
                .into(),
        };
        let rules = compile([RuleSpec {
            clients: ClientsSpec::Claimed(claims),
            ..rule(
                UNMODIFIED,
                "{client.claim}.{client.namespace}.svc.cluster.local",
            )
        }]);
        assert!(rules.warnings().is_empty());
        for (name, expected) in [
            ("up.foo.svc.cluster.local", "+-"),
            ("up.baz.svc.cluster.local", "--"),
            ("web.bar.svc.cluster.local", "--"),
            ("web.foo.svc.cluster.local", ".."),
            ("up.bar.svc.cluster.local", ".."),
            ("other.baz.svc.cluster.local", ".."),
        ] {
            assert_eq!(becomes(&rules, name), expected, "{name}");
        }
    }

    #[test]
    fn what_is_not_a_whole_label_is_not_protected_and_said() {
        let regex = |text: &str, cname: &str| spec(0, MatchSpec::Regex(text.to_owned()), cname);
        for (spec, expected) in [
            (
                rule(UNMODIFIED, "{client.label.tier}.{client.namespace}.svc"),
                Err("another reference"),
            ),
            (
                rule(UNMODIFIED, "up-{client.label.tier}.{client.namespace}.svc"),
                Err("another reference"),
            ),
            (
                regex(r"^a\.(?P<namespace>[a-z]+)\.b\.$", "up.{namespace}.svc"),
                Ok("up.{namespace}.svc"),
            ),
            (
                regex(r"^a\.(?P<namespace>[a-z]+)\.b\.$", "up.{1}.svc"),
                Ok("up.{namespace}.svc"),
            ),
            (
                rule(UNMODIFIED, "up-{client.namespace}.svc"),
                Err("only a part"),
            ),
            (
                rule(
                    UNMODIFIED,
                    "{client.label.a}.{client.label.b}.{client.namespace}.svc",
                ),
                Err("another reference"),
            ),
            (
                rule("*.{namespace}.b", "{namespace}.{client.namespace}.svc"),
                Err("more than once"),
            ),
            // Nobody's in particular.
            (rule(UNMODIFIED, "{client.label.tier}.svc"), Ok("")),
            (regex(r"^([a-z]+)\.b\.$", "up.{1}.svc"), Ok("")),
        ] {
            let cname = spec.cname.clone();
            let rules = compile([spec]);
            let said: Vec<&Complaint> = rules.warnings().iter().collect();
            match expected {
                Ok("") => assert!(patterns(&rules).is_empty() && said.is_empty(), "{cname}"),
                Ok(pattern) => {
                    assert_eq!(patterns(&rules), [pattern], "{cname}");
                    assert!(said.is_empty(), "{cname}");
                }
                Err(part) => {
                    assert!(patterns(&rules).is_empty(), "{cname}");
                    assert_eq!(said.len(), 1, "{cname}");
                    assert_eq!(said[0].key, Key::Cname);
                    assert!(said[0].problem.contains(part), "{}", said[0].problem);
                }
            }
        }
    }
}
