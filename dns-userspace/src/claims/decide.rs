//! Which claims become rules, in which order, and what is said of the others.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{NamePattern, Refusal, Tenants};
use crate::{
    model::Claimant,
    rules::{
        Budget, Claims, ClientsSpec, DEFAULT_TTL, MatchSpec, Mode, RuleSet, RuleSpec, check_pattern,
    },
};

/// The name of every rule that comes from claims.
pub const RULE_NAME: &str = "claims";
/// Most patterns that claims may add to a node's rules.
const MAX_PATTERNS: usize = 4096;
/// Refusals that are kept of each Service: the message of an Event has at most 1,024 bytes.
const MAX_REFUSED: usize = 4;

/// What does not depend on the tenants: of one configuration.
#[derive(Debug)]
pub struct Platform {
    pub tenants: Tenants,
    /// As in `[kubernetes] cluster_domain`.
    pub cluster_domain: String,
    /// The configuration's rules, as they are written and compiled.
    pub specs: Vec<RuleSpec>,
    pub rules: Arc<RuleSet>,
    /// What the answers of all rules depend on beside them.
    pub terms: String,
    /// Whether the targets of namespaces are refused to others.
    pub protects: bool,
    pub mode: Mode,
}

/// What is known of the tenants at some time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The Services with the annotation, of any namespace, in any order.
    pub claimants: Vec<Claimant>,
    /// The namespaces that have pods on this node.
    pub namespaces: BTreeSet<String>,
}

/// What became of one Service's claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub namespace: String,
    pub service: String,
    pub uid: String,
    pub accepted: Vec<String>,
    /// The first few that were refused.
    pub refused: Vec<(String, Refusal)>,
    /// How many by [`Refusal::label`], those included.
    pub counts: BTreeMap<&'static str, usize>,
}

/// What becomes of all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// To be appended to the configuration's.
    pub rules: Vec<RuleSpec>,
    /// By namespace and Service.
    pub verdicts: Vec<Verdict>,
}

impl Decision {
    /// What becomes of these claims, where they are the same rules. Where not all found room, they are not, so that a change is a
    /// reason to try again.
    pub fn with_the_same_rules(&self, platform: &Platform, snapshot: &Snapshot) -> Option<Self> {
        let decision = decide(platform, snapshot, MAX_PATTERNS);
        (decision.rules == self.rules).then_some(decision)
    }
}

impl Verdict {
    fn of(claimant: &Claimant) -> Verdict {
        Verdict {
            namespace: claimant.namespace.clone(),
            service: claimant.service.clone(),
            uid: claimant.uid.clone(),
            ..Verdict::default()
        }
    }

    /// How many were refused beyond those that are listed.
    pub fn unlisted(&self) -> usize {
        self.counts.values().sum::<usize>() - self.refused.len()
    }

    /// For the tenant: what is refused; `None` where nothing is.
    pub fn message(&self) -> Option<String> {
        if self.refused.is_empty() {
            return None;
        }
        let refused: Vec<String> = self
            .refused
            .iter()
            .map(|(name, why)| format!("{name}: {why}"))
            .collect();
        let more = match self.unlisted() {
            0 => String::new(),
            count => format!("; and {count} more"),
        };
        Some(format!(
            "gregor does not take these names for the pods of this namespace: {}{more}",
            refused.join("; ")
        ))
    }

    fn refuse(&mut self, name: &str, why: Refusal) {
        *self.counts.entry(why.label()).or_default() += 1;
        if self.refused.len() < MAX_REFUSED {
            self.refused.push((shortened(name), why));
        }
    }
}

/// The rules of the configuration and the claims' behind them, compiled. Where that takes more than the budget, each namespace
/// has room for fewer, until it does not; the configuration's rules alone were compiled before.
pub fn compile(
    platform: &Platform,
    snapshot: &Snapshot,
    budget: impl Fn() -> Budget,
) -> (Arc<RuleSet>, Decision) {
    let mut room = MAX_PATTERNS;
    loop {
        let decision = decide(platform, snapshot, room);
        if decision.rules.is_empty() {
            return (Arc::clone(&platform.rules), decision);
        }
        let specs: Vec<RuleSpec> = platform
            .specs
            .iter()
            .chain(&decision.rules)
            .cloned()
            .collect();
        let protects = platform.protects;
        match RuleSet::compile_and_protect(&specs, &platform.terms, &budget(), protects) {
            Ok(rules) => return (Arc::new(rules), decision),
            Err(complaints) => {
                let complaint = complaints.first().map(ToString::to_string);
                tracing::warn!(
                    problem = complaint.unwrap_or_default(),
                    "the rules that tenants claim do not compile; with fewer of each namespace"
                );
                room /= 2;
            }
        }
    }
}

/// Decides; `room` is how many patterns there may be.
pub fn decide(platform: &Platform, snapshot: &Snapshot, room: usize) -> Decision {
    // The same for each namespace, however much the others claim.
    let share = room / snapshot.namespaces.len().max(1);
    let mut by_namespace: BTreeMap<&str, Vec<&Claimant>> = BTreeMap::new();
    for claimant in &snapshot.claimants {
        if snapshot.namespaces.contains(&claimant.namespace) {
            let own = by_namespace.entry(&claimant.namespace).or_default();
            own.push(claimant);
        }
    }
    let mut services: HashMap<NamePattern, BTreeMap<String, String>> = HashMap::new();
    let mut verdicts = Vec::new();
    for (namespace, mut claimants) in by_namespace {
        claimants.sort_by_key(|claimant| (claimant.created, &claimant.service));
        let mut own: HashMap<NamePattern, &str> = HashMap::new();
        for claimant in claimants {
            let mut verdict = Verdict::of(claimant);
            for text in texts(claimant) {
                let found = judge(platform, text).and_then(|pattern| {
                    match own.get(&pattern) {
                        Some(&service) if service == claimant.service => return Ok(None),
                        Some(&service) => {
                            return Err(Refusal::Contradiction(service.to_owned()));
                        }
                        None => {}
                    }
                    let limit = platform.tenants.names_per_namespace;
                    if own.len() >= limit {
                        return Err(Refusal::TooMany(limit));
                    }
                    if own.len() >= share {
                        return Err(Refusal::NoRoom(share));
                    }
                    Ok(Some(pattern))
                });
                match found {
                    Ok(None) => {}
                    Ok(Some(pattern)) => {
                        verdict.accepted.push(pattern.to_string());
                        own.insert(pattern, &claimant.service);
                    }
                    Err(why) => verdict.refuse(text, why),
                }
            }
            if claimant.is_cut {
                let limit = platform.tenants.names_per_namespace;
                verdict.refuse("what follows", Refusal::TooMany(limit));
            }
            verdicts.push(verdict);
        }
        for (pattern, service) in own {
            let of_pattern = services.entry(pattern).or_default();
            of_pattern.insert(namespace.to_owned(), service.to_owned());
        }
    }
    verdicts.sort_by(|a, b| (&a.namespace, &a.service).cmp(&(&b.namespace, &b.service)));
    let mut services: Vec<_> = services.into_iter().collect();
    services.sort_by(|(a, _), (b, _)| a.rank().cmp(&b.rank()));
    let rules = services.into_iter().map(|(pattern, services)| {
        let pattern = pattern.to_string();
        RuleSpec {
            name: RULE_NAME.to_owned(),
            matches: MatchSpec::Pattern(pattern.clone()),
            cname: format!(
                "{{client.claim}}.{{client.namespace}}.svc.{}",
                platform.cluster_domain
            ),
            ttl_seconds: DEFAULT_TTL,
            // The Service is looked up, whatever rules there are.
            follow: false,
            namespaces: None,
            namespace_labels: None,
            clients: ClientsSpec::Claimed(Claims { pattern, services }),
            mode: platform.mode,
        }
    });
    Decision {
        rules: rules.collect(),
        verdicts,
    }
}

/// The names in an annotation.
fn texts(claimant: &Claimant) -> impl Iterator<Item = &str> {
    let texts = claimant.names.split(',').map(str::trim);
    texts.filter(|text| !text.is_empty())
}

/// What a name is, if it may be claimed at all.
fn judge(platform: &Platform, text: &str) -> Result<NamePattern, Refusal> {
    let pattern = NamePattern::parse(text).map_err(Refusal::Malformed)?;
    // What cannot be a rule would have all claims refused.
    check_pattern(&pattern.to_string()).map_err(Refusal::Malformed)?;
    if pattern.meets(&platform.cluster_domain) {
        return Err(Refusal::ClusterDomain);
    }
    let may = &platform.tenants.may_claim;
    if !may.iter().any(|allowed| pattern.is_within(allowed)) {
        return Err(Refusal::NotAllowed);
    }
    match platform.rules.covering(&pattern.to_string()) {
        Some(rule) => Err(Refusal::Shadowed(rule.name().to_owned())),
        None => Ok(pattern),
    }
}

/// For people: names have up to 253 bytes, and what is none may have more.
fn shortened(text: &str) -> String {
    const MOST: usize = 80;
    match text.char_indices().nth(MOST) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests;
