//! Tenant rules: from patterns to one reversed DFA, and from a matched name to its captures and its target.
//!
//! A `match` is a leading `*` (one or more labels), literal labels, `{namespace}` and at most one more `{capture}` (each
//! exactly one RFC 1123 label); its `cname` uses the captures by name, anywhere in a label. `namespaces` may name the labels
//! that `{namespace}` is for, or select them by labels of the Kubernetes kind. A `regex` is matched as
//! CoreDNS's `template` does it: unanchored, on the lower-cased name with its final dot; its `cname` uses groups as
//! `{1}` or, where they are named (`(?P<namespace>…)`), as `{namespace}`. The first rule that
//! matches and answers wins; those in front of it that observe count the name.

mod allowed;
mod budget;
mod check;
mod choices;
mod clients;
pub mod corefile;
mod costs;
mod ids;
mod labels;
mod language;
mod namespaces;
mod pattern;
mod protect;
mod regex;
pub mod selector;
mod suffix_decided;
mod table;
#[doc(hidden)]
pub mod testing;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dns_common::{
    answer::{Captures, RuleEntry, STARTERS, asks},
    dfa,
    name::LiteralWord,
    scratch::{NAME_AT, Scratch},
};
use hickory_proto::rr::Name;

pub use budget::Budget;
pub use clients::{Claims, ClientsSpec};
pub use labels::{MAX_LABEL, MAX_NAME, NAMESPACE};
pub use pattern::template_labels;
pub use protect::Protected;
pub use table::Table;

use crate::model::{Client, wire_name};
use budget::Spent;
use choices::{Choices, Kind};
use clients::{Asks, Clients, FromClient};
use labels::Problem;
use namespaces::Namespaces;
use pattern::{Pattern, PatternLabel, Template};
use protect::Guards;
use regex::RegexMatcher;
use selector::Labels;

/// Longest `name` of a rule.
pub const MAX_RULE_NAME: usize = 63;
/// What a rule's `ttl` is when it is left out, in seconds.
pub const DEFAULT_TTL: u32 = 60;
/// Largest `ttl`, in seconds: a day.
pub const MAX_TTL: u32 = 86_400;

/// Most rules that are applied to one name in a row.
const MAX_FOLLOWED: usize = 10;

/// A rule as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleSpec {
    pub name: String,
    pub matches: MatchSpec,
    pub cname: String,
    pub ttl_seconds: u32,
    /// Whether a target that is another rule's name is resolved by that rule.
    pub follow: bool,
    /// What `{namespace}` may be: names and globs; `None` for all.
    pub namespaces: Option<Vec<String>>,
    /// The same by the labels of namespaces. `namespaces` has the names of those that have them, `None` while that is not known: then
    /// the rule is for none.
    pub namespace_labels: Option<Labels>,
    /// Whom the rule is for.
    pub clients: ClientsSpec,
    pub mode: Mode,
}

/// What becomes of the names that a rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Answer,
    /// They are counted; nothing else happens by this rule, as if it were not there.
    Observe,
}

impl Mode {
    /// As it is spelled in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Answer => "answer",
            Mode::Observe => "observe",
        }
    }
}

/// What a rule matches, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MatchSpec {
    /// The `match` key.
    Pattern(String),
    /// The `regex` key.
    Regex(String),
}

impl Default for MatchSpec {
    fn default() -> Self {
        MatchSpec::Pattern(String::new())
    }
}

/// The key of a rule that a complaint is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Name,
    Match,
    Regex,
    Cname,
    Ttl,
    Namespaces,
    Clients,
}

impl Key {
    /// As it is spelled in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Key::Name => "name",
            Key::Match => "match",
            Key::Regex => "regex",
            Key::Cname => "cname",
            Key::Ttl => "ttl",
            Key::Namespaces => "namespaces",
            Key::Clients => "clients",
        }
    }
}

/// What is wrong with one of the rules.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rule {}: {}: {problem}; {remedy}", .rule + 1, .key.as_str())]
pub struct Complaint {
    /// Index of the rule.
    pub rule: usize,
    pub key: Key,
    pub problem: String,
    pub remedy: String,
    /// Other rules that have the same part in it.
    pub others: Vec<usize>,
}

impl Complaint {
    pub fn new(
        rule: usize,
        key: Key,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            rule,
            key,
            problem: problem.into(),
            remedy: remedy.into(),
            others: Vec::new(),
        }
    }
}

/// Every rule of a configuration, compiled; immutable, shared by the programs' tables and the responder.
#[derive(Debug)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// Behind them: see [`protect`].
    guards: Guards,
    /// The index of each id; those of guards follow on those of rules.
    ids: HashMap<u64, usize>,
    table: Table,
    choices: Choices,
    warnings: Vec<Complaint>,
    /// Of each rule, whether the last labels of a name decide that it matches.
    suffix_decided: Vec<bool>,
    /// Labels of clients that rules look at.
    client_labels: BTreeSet<String>,
    /// Of each rule, whether its target may be another rule's name.
    leads_on: Vec<bool>,
    has_regex: bool,
    /// Of each namespace, the Service that each pattern leads to that it claims.
    claims: BTreeMap<String, BTreeMap<String, String>>,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    id: u64,
    name: String,
    ttl_seconds: u32,
    follow: bool,
    mode: Mode,
    /// Whether it refuses what it matches: see [`protect`].
    refuses: bool,
    namespaces: Option<Vec<String>>,
    namespace_labels: Option<Labels>,
    asks: Asks,
    /// The `match` or `regex` key and the `cname` key as written.
    pattern: String,
    cname: String,
    matcher: Matcher,
    /// Names of the captures in the order of [`Match::captures`]; groups may have none.
    captures: Vec<Option<String>>,
    /// The capture that is called so.
    namespace: Option<usize>,
    /// What it refers to: captures, and behind them what is taken from who asks.
    target: Template<usize>,
}

#[derive(Debug)]
enum Matcher {
    Pattern(Pattern),
    Regex(Box<RegexMatcher>),
}

/// The result of applying a rule to a name that it matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// The captured labels in the order of the pattern, lower-cased; for a `regex` rule its groups.
    pub captures: Vec<String>,
    /// The capture named `namespace`, if the rule has one.
    pub namespace: Option<String>,
    /// Where the CNAME points: absolute, lower case.
    pub target: Name,
}

impl RuleSet {
    /// Compiles rules within what this process may spend, or says everything that is wrong with them.
    pub fn compile(specs: &[RuleSpec]) -> Result<Self, Vec<Complaint>> {
        Self::compile_within(specs, "", &Budget::of_this_process())
    }

    /// Compiles rules, or says everything that is wrong with them. Where they take more than the budget, the complaints are
    /// about the rules that cost most. Ids are others where `terms` are: what answers depend on beside their rule.
    pub fn compile_within(
        specs: &[RuleSpec],
        terms: &str,
        budget: &Budget,
    ) -> Result<Self, Vec<Complaint>> {
        Self::compile_and_protect(specs, terms, budget, false)
    }

    /// The same; with `protects`, the targets of namespaces are refused to others.
    pub fn compile_and_protect(
        specs: &[RuleSpec],
        terms: &str,
        budget: &Budget,
        protects: bool,
    ) -> Result<Self, Vec<Complaint>> {
        let mut complaints = Vec::new();
        if specs.len() > dfa::MAX_RULES {
            return Err(vec![Complaint::new(
                dfa::MAX_RULES,
                Key::Match,
                format!("there are {} rules", specs.len()),
                format!(
                    "keep to {}: captures let one rule serve many names",
                    dfa::MAX_RULES
                ),
            )]);
        }
        let mut rules = Vec::with_capacity(specs.len());
        let mut languages = Vec::with_capacity(specs.len());
        for (index, spec) in specs.iter().enumerate() {
            if let Some((rule, language)) =
                Rule::compile(index, spec, terms, budget, &mut complaints)
            {
                rules.push((index, rule));
                languages.push(language);
            }
        }
        let is_claimed = |spec: &&RuleSpec| matches!(spec.clients, ClientsSpec::Claimed(_));
        // Claims have one name, and come behind all others.
        let own = specs.iter().filter(|spec| !is_claimed(spec));
        let names: Vec<&str> = own.map(|spec| spec.name.as_str()).collect();
        complaints.extend(check::duplicates(&names, &rules));
        let leads_to = check::leads_to(&rules);
        complaints.extend(check::loops(&rules, &leads_to));
        let has_regex = rules.iter().any(|(_, rule)| rule.is_regex());
        ids::depend_on_all(&mut rules, specs, |position| {
            has_regex || !leads_to[position].is_empty()
        });
        let mut ids = ids::by_id(&rules, &mut complaints);
        if !complaints.is_empty() {
            complaints.sort_by_key(|complaint| complaint.rule);
            return Err(complaints);
        }
        let mut unprotected = Vec::new();
        let guards = if protects {
            Guards::of(&rules, specs, budget, &mut languages, &mut unprotected)
        } else {
            Guards::default()
        };
        for (at, guard) in guards.rules().iter().enumerate() {
            ids.insert(guard.id, rules.len() + at);
        }
        let of_rules = rules.iter().map(|(_, rule)| (rule, false));
        let of_guards = guards.rules().iter().map(|rule| (rule, true));
        let mut choices = Choices::new(of_rules.chain(of_guards).map(|(rule, is_guard)| Kind {
            mode: rule.mode,
            asks: rule.asks.anything(),
            is_guard,
        }));
        let table = table::build(&languages, &mut choices, budget)
            .map_err(|spent| vec![costs::too_costly(&rules, &languages, budget, spent)])?;
        let rules: Vec<Rule> = rules.into_iter().map(|(_, rule)| rule).collect();
        let mut warnings = warnings(&rules, choices.reached());
        warnings.extend(unprotected);
        let patterns: Vec<Option<&Pattern>> = rules
            .iter()
            .map(|rule| match &rule.matcher {
                Matcher::Pattern(pattern) => Some(pattern),
                Matcher::Regex(_) => None,
            })
            .collect();
        let client_labels = rules.iter().flat_map(|rule| rule.asks.labels());
        let mut claims: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for rule in &rules {
            if let Clients::Claimed(of_rule) = &rule.asks.clients {
                for (namespace, service) in &of_rule.services {
                    let own = claims.entry(namespace.clone()).or_default();
                    own.insert(of_rule.pattern.clone(), service.clone());
                }
            }
        }
        Ok(Self {
            claims,
            client_labels: client_labels.map(str::to_owned).collect(),
            suffix_decided: suffix_decided::by_rule(&patterns),
            leads_on: leads_to.iter().map(|next| !next.is_empty()).collect(),
            has_regex,
            rules,
            guards,
            ids,
            table,
            choices,
            warnings,
        })
    }

    /// The rules in the order of the configuration; the index is the one that the kernel reports.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// What becomes of the name of a target, by the index that the kernel reports; `None` for the index of a rule, and where
    /// the name is none of a target after all.
    pub fn protection_at(
        &self,
        index: usize,
        qname: &[u8],
        client: Option<&Client>,
    ) -> Option<Protected> {
        let at = index.checked_sub(self.rules.len())?;
        self.guards.protection(at, qname, client)
    }

    /// The same for a name that no rule answers for this client, with the index.
    pub fn protection(&self, qname: &[u8], client: Option<&Client>) -> Option<(usize, Protected)> {
        let mut numbers = self.choices.rules(self.choice(qname)?).into_iter();
        let all = self.rules.iter().chain(self.guards.rules());
        let index = numbers.find(|&index| {
            let rule = all.clone().nth(index);
            rule.is_some_and(|rule| !rule.is_observing() && rule.is_for_question(qname, client))
        })?;
        Some((index, self.protection_at(index, qname, client)?))
    }

    /// Whether names are refused by the index that the kernel reports.
    pub fn refuses(&self, index: usize) -> bool {
        let at = index.checked_sub(self.rules.len());
        at.is_some_and(|at| self.guards.refuses(at))
    }

    /// What is shown of the index that the kernel reports: the name of the rule, or `protect_targets`.
    pub fn shown_name(&self, index: usize) -> Option<&str> {
        let of_guard = || {
            let at = index.checked_sub(self.rules.len())?;
            self.guards.rules().get(at).map(|_| protect::KEY)
        };
        self.rules.get(index).map(Rule::name).or_else(of_guard)
    }

    /// The patterns of the targets that others than their namespace are refused.
    pub fn protected(&self) -> impl Iterator<Item = &Rule> {
        self.guards.patterns()
    }

    /// Index of the rule with this id.
    pub fn index_of(&self, id: u64) -> Option<usize> {
        self.ids.get(&id).copied()
    }

    fn with_id(&self, id: u64) -> Option<&Rule> {
        let index = self.index_of(id)?;
        let guard = || self.guards.rules().get(index - self.rules.len());
        self.rules.get(index).or_else(guard)
    }

    pub fn table(&self) -> &Table {
        &self.table
    }

    /// What the program finds under the number that its table gives for a name.
    pub fn entries(&self) -> Vec<RuleEntry> {
        self.choices
            .entries(self.rules.iter().chain(self.guards.rules()))
    }

    /// The same with the index of a rule in the place of its id.
    #[doc(hidden)]
    pub fn entries_by_index(&self) -> Vec<RuleEntry> {
        let by_index = |mut entry: RuleEntry| {
            entry.id = self.ids.get(&entry.id).map_or(u64::MAX, |&at| at as u64);
            entry
        };
        self.entries().into_iter().map(by_index).collect()
    }

    /// How many those are.
    pub fn entry_count(&self) -> usize {
        self.choices.count()
    }

    /// Rules that observe, in the order of the program's counters of them.
    pub fn observing(&self) -> impl Iterator<Item = &Rule> {
        self.rules.iter().filter(|rule| rule.is_observing())
    }

    /// Whether names with these captures are answered for a client by the rule with this id.
    pub fn answers<'c>(
        &self,
        id: u64,
        captures: impl IntoIterator<Item = &'c [u8]>,
        client: Option<&Client>,
    ) -> bool {
        let Some(rule) = self.with_id(id) else {
            return false;
        };
        // The answers of one kind of rule are none of the other's.
        if rule.is_observing() || rule.asks.anything() != client.is_some() {
            return false;
        }
        let captures: Vec<String> = captures
            .into_iter()
            .map(|label| String::from_utf8_lossy(label).into_owned())
            .collect();
        let namespace = rule.namespace.and_then(|at| captures.get(at));
        if !rule.is_for_client(client, namespace.map(String::as_str)) {
            return false;
        }
        let Matcher::Pattern(pattern) = &rule.matcher else {
            return true;
        };
        let mut captured = pattern.captures().zip(&captures);
        captured.all(|(name, label)| pattern.allows(name, label))
    }

    /// The same for a client of whom no more than the namespace is known: whether that does not speak against it.
    pub fn may_answer<'c>(
        &self,
        id: u64,
        captures: impl IntoIterator<Item = &'c [u8]>,
        namespace: &str,
    ) -> bool {
        let Some(rule) = self.with_id(id) else {
            return false;
        };
        let mut captures = captures.into_iter();
        let asked = rule.namespace.and_then(|at| captures.nth(at));
        !rule.is_observing()
            && rule.asks_who()
            && (rule.asks.clients != Clients::OwnNamespace
                || asked.is_some_and(|label| label.eq_ignore_ascii_case(namespace.as_bytes())))
    }

    /// Labels of clients that rules look at, each once.
    pub fn client_labels(&self) -> &BTreeSet<String> {
        &self.client_labels
    }

    /// What a namespace claims: patterns, each with the Service that it leads to.
    pub fn claims_of(&self, namespace: &str) -> BTreeMap<String, String> {
        self.claims.get(namespace).cloned().unwrap_or_default()
    }

    /// Whether each namespace claims the same by both.
    pub fn has_claims_of(&self, other: &Self) -> bool {
        self.claims == other.claims
    }

    /// The rule for everybody that takes all names of a pattern, if it is a single one.
    pub fn covering(&self, pattern: &str) -> Option<&Rule> {
        let pattern = Pattern::parse(pattern).ok()?;
        check::covering(&self.rules, &pattern)
    }

    /// Whether any rule depends on who asks.
    pub fn asks_who(&self) -> bool {
        let mut all = self.rules.iter().chain(self.guards.rules());
        all.any(Rule::asks_who)
    }

    /// Ids of the rules that need a permit for each of their clients, and are for this one.
    pub fn permits<'a>(&'a self, client: &'a Client) -> impl Iterator<Item = u64> + 'a {
        self.rules
            .iter()
            .filter(|rule| rule.asks.code() == asks::PERMITTED && rule.asks.permits(client))
            .map(Rule::id)
    }

    /// The suffix of the names that a rule matches, given its captures: in wire format and lower case. `None` where the suffix
    /// does not decide the rule.
    pub fn suffix<'c>(
        &self,
        rule: usize,
        captures: impl IntoIterator<Item = &'c [u8]>,
    ) -> Option<Vec<u8>> {
        let pattern = self.suffix_decided_pattern(rule)?;
        let mut captures = captures.into_iter();
        let mut wire = Vec::new();
        for label in &pattern.labels {
            let label = match label {
                PatternLabel::Literal(text) => text.as_bytes(),
                PatternLabel::Capture(name) => {
                    let label = captures.next()?;
                    if !pattern.allows(name, &String::from_utf8_lossy(label)) {
                        return None;
                    }
                    label
                }
            };
            wire.push(label.len() as u8);
            wire.extend(label.iter().map(u8::to_ascii_lowercase));
        }
        wire.push(0);
        Some(wire)
    }

    /// The first literal bytes of such suffixes, up to eight, of the first rules that have them, and whether these depend on who
    /// asks.
    pub fn starters(&self) -> Vec<(LiteralWord, bool)> {
        let mut starters: Vec<(LiteralWord, bool)> = Vec::new();
        for rule in 0..self.rules.len() {
            let starter = self.suffix_decided_pattern(rule).and_then(starter);
            let is_new = |starter: &LiteralWord| starters.iter().all(|(word, _)| word != starter);
            if let Some(starter) = starter.filter(is_new) {
                starters.push((starter, self.rules[rule].asks_who()));
            }
            if starters.len() == STARTERS {
                break;
            }
        }
        starters
    }

    fn suffix_decided_pattern(&self, rule: usize) -> Option<&Pattern> {
        match &self.rules.get(rule)?.matcher {
            Matcher::Pattern(pattern)
                if *self.suffix_decided.get(rule)? && !self.rules[rule].is_observing() =>
            {
                Some(pattern)
            }
            _ => None,
        }
    }

    /// Complaints about rules that are valid but hardly intended.
    pub fn warnings(&self) -> &[Complaint] {
        &self.warnings
    }

    /// The match of a rule with a name, then those of the rules that its target leads to. Never empty; `None` when the rule
    /// does not match the name after all, or is not for this client.
    pub fn follow(
        &self,
        index: usize,
        qname: &[u8],
        client: Option<&Client>,
    ) -> Option<Vec<(&Rule, Match)>> {
        let rule = self.rules.get(index)?;
        let mut chain = vec![(rule, rule.apply(qname, client)?)];
        // The analysis of targets assumes that a capture is one label, which a group of an expression need not be.
        if !self.leads_on(index) && !self.has_regex {
            return Some(chain);
        }
        while let Some((rule, last)) = chain.last()
            && rule.follow
            && chain.len() < MAX_FOLLOWED
        {
            let target = wire_name(&last.target);
            let next = self.next(&target, client);
            let next = next.map(|index| &self.rules[index]);
            let applied = next.and_then(|rule| Some((rule, rule.apply(&target, client)?)));
            let Some((rule, matched)) = applied else {
                break;
            };
            // Loops are refused when the rules are compiled, but for those that need a group of several labels.
            if chain
                .iter()
                .any(|(_, earlier)| earlier.target == matched.target)
            {
                break;
            }
            chain.push((rule, matched));
        }
        Some(chain)
    }

    /// The target that a rule gives these captures, in lower case without the final dot, before other rules take it further.
    pub fn first_target(
        &self,
        index: usize,
        captures: &[String],
        client: Option<&Client>,
    ) -> Option<String> {
        self.rules.get(index)?.fill(captures, client)
    }

    /// Every target that a rule gives these captures: its own, then those of the rules that it leads to.
    pub fn targets(&self, index: usize, captures: &[String], client: Option<&Client>) -> Vec<Name> {
        let Some(rule) = self.rules.get(index) else {
            return Vec::new();
        };
        let first = rule.fill(captures, client);
        let Some(first) = first.and_then(|text| absolute(&text)) else {
            return Vec::new();
        };
        let wire = wire_name(&first);
        let mut targets = vec![first];
        if rule.follow
            && (self.leads_on(index) || self.has_regex)
            && let Some(next) = self.next(&wire, client)
        {
            let chain = self.follow(next, &wire, client).into_iter().flatten();
            targets.extend(chain.map(|(_, matched)| matched.target));
        }
        targets
    }

    /// Whether the first target of a rule is its only one.
    pub fn has_one_target(&self, index: usize) -> bool {
        !self.leads_on(index) && !self.has_regex
    }

    /// Whether the answers of a rule depend on other rules too, because its target may be the name of one: they are then no
    /// longer right when any rule has changed.
    pub fn leads_on(&self, rule: usize) -> bool {
        self.leads_on.get(rule).copied().unwrap_or_default()
    }

    /// The first rule that answers a client's question for a name in wire format (uncompressed, root label included, any case).
    pub fn find(&self, qname: &[u8], client: Option<&Client>) -> Option<usize> {
        let matching = self.matching(qname).into_iter();
        let mut answering = matching.filter(|&index| !self.rules[index].is_observing());
        answering.find(|&index| self.rules[index].is_for_question(qname, client))
    }

    /// The rule that a target leads to: one of the configuration, never a tenant's claim. Answers would depend on the claims of
    /// others otherwise.
    fn next(&self, target: &[u8], client: Option<&Client>) -> Option<usize> {
        let matching = self.matching(target).into_iter();
        let mut answering = matching.filter(|&index| {
            let rule = &self.rules[index];
            !rule.is_observing() && !rule.is_claimed()
        });
        answering.find(|&index| self.rules[index].is_for_question(target, client))
    }

    /// The same where nobody can say who asks: none where a rule in front depends on it.
    pub fn find_for_anybody(&self, qname: &[u8]) -> Option<usize> {
        let mut matching = self.matching(qname).into_iter();
        let last = matching.find(|&index| {
            let rule = &self.rules[index];
            rule.asks_who() || !rule.is_observing()
        })?;
        (!self.rules[last].asks_who()).then_some(last)
    }

    /// The rules in front of [`RuleSet::find`]'s that match the name and observe.
    pub fn observed(&self, qname: &[u8], client: Option<&Client>) -> Vec<&Rule> {
        let rules = self.matching(qname).into_iter();
        rules
            .map(|index| &self.rules[index])
            .filter(|rule| rule.is_for_question(qname, client))
            .take_while(|rule| rule.is_observing())
            .collect()
    }

    /// The rules that are looked at for a name, in their order; for a client the first one that answers it is the last.
    pub fn matching(&self, qname: &[u8]) -> Vec<usize> {
        let choice = self.choice(qname);
        let mut numbers = choice.map_or_else(Vec::new, |choice| self.choices.rules(choice));
        numbers.retain(|&index| index < self.rules.len());
        numbers
    }

    /// Whether any rule matches a name, also if it only observes.
    pub fn matches(&self, qname: &[u8]) -> bool {
        !self.matching(qname).is_empty()
    }

    fn choice(&self, qname: &[u8]) -> Option<u32> {
        if qname.len() > MAX_NAME {
            return None;
        }
        let mut scratch = Scratch::new();
        scratch.bytes[NAME_AT as usize..][..qname.len()].copy_from_slice(qname);
        scratch.split_labels(qname.len() as u32).ok()?;
        dfa::find(
            &self.table.header,
            &self.table.entries,
            self.table.tails.as_slice(),
            &mut scratch,
        )
    }
}

impl Rule {
    fn compile(
        index: usize,
        spec: &RuleSpec,
        terms: &str,
        budget: &Budget,
        complaints: &mut Vec<Complaint>,
    ) -> Option<(Self, regex_syntax::hir::Hir)> {
        let before = complaints.len();
        let mut complain = |key: Key, problem: Problem| {
            complaints.push(Complaint::new(index, key, problem.problem, problem.remedy));
        };
        if let Err(problem) = check_rule_name(&spec.name) {
            complain(Key::Name, problem);
        }
        if !(1..=MAX_TTL).contains(&spec.ttl_seconds) {
            complain(
                Key::Ttl,
                Problem::new(
                    format!("{} is out of range", spec.ttl_seconds),
                    format!("write a number of seconds from 1 to {MAX_TTL}"),
                ),
            );
        }
        let (key, numbers, text) = match &spec.matches {
            MatchSpec::Pattern(text) => (Key::Match, false, text),
            MatchSpec::Regex(text) => (Key::Regex, true, text),
        };
        let namespaces = match namespaces_of(spec) {
            Ok(namespaces) => namespaces,
            Err(problems) => {
                for problem in problems {
                    complain(Key::Namespaces, problem);
                }
                None
            }
        };
        let is_restricted = namespaces.is_some();
        let parsed = match &spec.matches {
            MatchSpec::Pattern(text) => Pattern::parse(text).map(|mut pattern| {
                pattern.namespaces = namespaces;
                let captures = pattern.captures().map(|name| Some(name.to_owned()));
                let captures: Vec<_> = captures.collect();
                let language = table::language(&pattern);
                (Matcher::Pattern(pattern), captures, language)
            }),
            MatchSpec::Regex(text) => RegexMatcher::parse(text)
                .and_then(|(regex, language)| {
                    match table::check_size(&language, budget) {
                        // Then all the rules take too long, which is reported once.
                        Ok(()) | Err(Spent::Time) => {}
                        Err(Spent::Memory | Spent::Table) => {
                            return Err(Problem::new(
                                "the expression needs too large a table",
                                "use smaller repetition counts and fewer `.*`, or split the rule",
                            ));
                        }
                    }
                    let captures = regex.groups().map(|name| name.map(str::to_owned)).collect();
                    Ok((Matcher::Regex(Box::new(regex)), captures, language))
                })
                .map_err(|problem| vec![problem]),
        };
        let parsed = parsed.map_err(|problems| {
            for problem in problems {
                complain(key, problem);
            }
        });
        let template = Template::parse(&spec.cname, numbers).map_err(|problems| {
            for problem in problems {
                complain(Key::Cname, problem);
            }
        });
        let (Ok((matcher, captures, language)), Ok(template)) = (parsed, template) else {
            return None;
        };

        let clients = Clients::parse(&spec.clients).unwrap_or_else(|problems| {
            for problem in problems {
                complain(Key::Clients, problem);
            }
            Clients::Any
        });
        let mut takes: Vec<FromClient> = Vec::new();
        for reference in template.references() {
            match FromClient::parse(reference) {
                Some(Ok(FromClient::Claimed)) if !matches!(clients, Clients::Claimed(_)) => {
                    complain(
                        Key::Cname,
                        Problem::new(
                            format!("`{{{reference}}}` is known of tenants' claims alone"),
                            "write `{client.namespace}` or `{client.label.KEY}`",
                        ),
                    );
                }
                Some(Ok(one)) => takes.push(one),
                Some(Err(problem)) => complain(Key::Cname, problem),
                None => {}
            }
        }

        let position = |reference: &str| {
            if let Some(Ok(one)) = FromClient::parse(reference) {
                let at = takes.iter().position(|taken| *taken == one)?;
                return Some(captures.len() + at);
            }
            let number = reference.parse::<usize>().ok().filter(|_| numbers);
            match number {
                Some(number) => number.checked_sub(1).filter(|&at| at < captures.len()),
                None => captures
                    .iter()
                    .position(|name| name.as_deref() == Some(reference)),
            }
        };
        let mut used = vec![false; captures.len() + takes.len()];
        for reference in template.references() {
            match position(reference) {
                None if FromClient::is_reference(reference) => {}
                Some(at) => used[at] = true,
                None => complain(Key::Cname, unknown_capture(reference, &captures, numbers)),
            }
        }
        let namespace = captures
            .iter()
            .position(|name| name.as_deref() == Some(NAMESPACE));
        let is_own = clients == Clients::OwnNamespace;
        for (at, _) in used.iter().enumerate().filter(|(_, used)| !**used) {
            if !((is_restricted || is_own) && namespace == Some(at)) {
                complain(key, unused_capture(at, &captures, numbers));
            }
        }
        if is_own && (namespace.is_none() || numbers) {
            complain(
                Key::Clients,
                Problem::new(
                    "there is no `{namespace}` in the rule's `match` that could be the client's own",
                    "capture it, or take the client's own with `{client.namespace}` in `cname`",
                ),
            );
        }
        if is_restricted && namespace.is_none() {
            complain(
                Key::Namespaces,
                Problem::new(
                    "the rule's `match` has no `{namespace}`",
                    "capture it, or leave `namespaces` out",
                ),
            );
        }
        let target = template.resolve(position)?;
        if complaints.len() > before {
            return None;
        }
        let rule = Self {
            id: ids::id(spec, terms),
            name: spec.name.clone(),
            ttl_seconds: spec.ttl_seconds,
            follow: spec.follow,
            mode: spec.mode,
            refuses: false,
            namespaces: spec.namespaces.clone(),
            namespace_labels: spec.namespace_labels.clone(),
            asks: Asks { clients, takes },
            pattern: text.clone(),
            cname: spec.cname.clone(),
            matcher,
            captures,
            namespace,
            target,
        };
        Some((rule, language))
    }

    fn key(&self) -> Key {
        match self.matcher {
            Matcher::Pattern(_) => Key::Match,
            Matcher::Regex(_) => Key::Regex,
        }
    }

    /// The rule's `name` key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rule's own cap on the TTL of answers.
    pub fn ttl_seconds(&self) -> u32 {
        self.ttl_seconds
    }

    /// The `match` key, or the `regex` key of a rule that has one.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// The `namespaces` key, or the names of the namespaces that it selects, as far as that is known.
    pub fn namespaces(&self) -> Option<&[String]> {
        self.namespaces.as_deref()
    }

    /// The `namespaces` key where it selects by labels.
    pub fn namespace_labels(&self) -> Option<&Labels> {
        self.namespace_labels.as_ref()
    }

    /// Whether the rule is for this namespace.
    pub fn is_for(&self, namespace: &str) -> bool {
        match &self.matcher {
            Matcher::Pattern(pattern) => pattern.allows(NAMESPACE, namespace),
            Matcher::Regex(_) => true,
        }
    }

    /// Whether the rule depends on who asks.
    pub fn asks_who(&self) -> bool {
        self.asks.anything()
    }

    /// Whether tenants claim its names.
    pub fn is_claimed(&self) -> bool {
        matches!(self.asks.clients, Clients::Claimed(_))
    }

    /// Whether the rule is not for everybody who is known.
    pub fn is_for_some(&self) -> bool {
        self.asks.clients != Clients::Any
    }

    /// Whom the rule is for, for people; `None` for everybody.
    pub fn clients_text(&self) -> Option<String> {
        self.asks.clients.text().or_else(|| {
            let takes = !self.asks.takes.is_empty();
            takes.then(|| "whoever is known".to_owned())
        })
    }

    /// Whether the rule answers each client about its own namespace alone.
    pub fn is_for_own_namespace(&self) -> bool {
        self.asks.clients == Clients::OwnNamespace
    }

    /// Whether the rule is for a client that asks for a name with this `{namespace}`.
    fn is_for_client(&self, client: Option<&Client>, namespace: Option<&str>) -> bool {
        if !self.asks.anything() {
            return true;
        }
        client.is_some_and(|client| {
            let is_own = || namespace.is_some_and(|name| name == client.namespace);
            self.asks.permits(client) && (self.asks.clients != Clients::OwnNamespace || is_own())
        })
    }

    /// Whether a name in wire format is one that the rule matches, whoever asks; not for a `regex`.
    fn is_of(&self, qname: &[u8]) -> bool {
        let Matcher::Pattern(pattern) = &self.matcher else {
            return false;
        };
        pattern::wire_labels(qname).is_some_and(|labels| pattern.captured(&labels).is_some())
    }

    /// The same for a name in wire format that the rule matches.
    fn is_for_question(&self, qname: &[u8], client: Option<&Client>) -> bool {
        !self.asks.anything() || self.apply(qname, client).is_some()
    }

    /// The target for these captures, in lower case without the final dot.
    fn fill(&self, captures: &[String], client: Option<&Client>) -> Option<String> {
        if self.asks.takes.is_empty() {
            return self.target.fill(captures);
        }
        let mut values = captures.to_vec();
        values.extend(self.asks.values(client?)?);
        self.target.fill(&values)
    }

    /// Whether the rule only counts what it matches.
    pub fn is_observing(&self) -> bool {
        self.mode == Mode::Observe
    }

    /// Whether the rule has a `regex` key.
    pub fn is_regex(&self) -> bool {
        matches!(self.matcher, Matcher::Regex(_))
    }

    /// Position of the capture named `namespace` among [`Match::captures`].
    pub fn namespace(&self) -> Option<usize> {
        self.namespace
    }

    /// A hash of everything that its answers depend on: the same in every process that has this rule.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The rule as the program has it, where it answers.
    fn entry(&self) -> RuleEntry {
        RuleEntry {
            id: self.id,
            captures: self.captures_of_program(),
            asks: self.asks.code(),
            own: match (&self.asks.clients, self.namespace) {
                (Clients::OwnNamespace, Some(at)) => at as u8 + 1,
                _ => 0,
            },
            ..RuleEntry::default()
        }
    }

    /// What the program needs to find this rule's answers; those of a `regex` it never keeps.
    fn captures_of_program(&self) -> Captures {
        let Matcher::Pattern(pattern) = &self.matcher else {
            return Captures::NEVER;
        };
        let mut captures = Captures {
            kept: if self.refuses { Captures::REFUSED } else { 1 },
            ..Captures::NEVER
        };
        for behind in pattern.labels_behind_captures() {
            let Some(place) = captures.behind.get_mut(usize::from(captures.count)) else {
                return Captures::NEVER;
            };
            *place = behind as u8;
            captures.count += 1;
        }
        captures
    }

    /// The `cname` key.
    pub fn cname(&self) -> &str {
        &self.cname
    }

    /// The reference to each of [`Match::captures`] in `pattern`: a capture's name, or a group's name or number.
    pub fn capture_names(&self) -> impl Iterator<Item = String> {
        self.captures
            .iter()
            .enumerate()
            .map(|(index, name)| name.clone().unwrap_or_else(|| (index + 1).to_string()))
    }

    /// The captures and the target for a client's question for a name in wire format, or `None` when the rule does not match it
    /// after all, when it is not for the client, or when the target would not be a name.
    pub fn apply(&self, qname: &[u8], client: Option<&Client>) -> Option<Match> {
        let labels = pattern::wire_labels(qname)?;
        let (captures, namespace) = match &self.matcher {
            Matcher::Pattern(pattern) => {
                let captures = pattern.captured(&labels)?;
                let namespace = self.namespace.map(|at| captures[at].clone());
                (captures, namespace)
            }
            Matcher::Regex(regex) => {
                let groups = regex.captured(&labels)?;
                let namespace = self.namespace.and_then(|at| groups[at].clone());
                let captures = groups.into_iter().map(Option::unwrap_or_default).collect();
                (captures, namespace)
            }
        };
        if !self.is_for_client(client, namespace.as_deref()) {
            return None;
        }
        let target = self.fill(&captures, client)?;
        Some(Match {
            target: absolute(&target)?,
            captures,
            namespace,
        })
    }
}

/// Says what is wrong with a `match`.
pub fn check_pattern(text: &str) -> Result<(), String> {
    let problems = match Pattern::parse(text) {
        Ok(_) => return Ok(()),
        Err(problems) => problems,
    };
    let problems: Vec<String> = problems.into_iter().map(|one| one.problem).collect();
    Err(problems.join(", "))
}

/// The literal bytes that a pattern's first fixed labels begin with on the wire, as one word.
fn starter(pattern: &Pattern) -> Option<LiteralWord> {
    let mut bytes = Vec::new();
    for label in &pattern.labels {
        let PatternLabel::Literal(text) = label else {
            break;
        };
        bytes.push(text.len() as u8);
        bytes.extend(text.bytes());
    }
    if bytes.is_empty() {
        return None;
    }
    let mut word = LiteralWord::NONE;
    for (at, byte) in bytes.iter().take(8).enumerate() {
        let byte = byte.to_ascii_lowercase();
        word.care |= 0xff << (8 * at);
        word.value |= u64::from(byte) << (8 * at);
        if byte.is_ascii_lowercase() {
            word.fold |= 0x20 << (8 * at);
        }
    }
    Some(word)
}

/// The name of this presentation form, if it is one within the limits; no escapes.
fn absolute(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    let good = text.len() + 2 <= MAX_NAME
        && text
            .split('.')
            .all(|label| (1..=MAX_LABEL).contains(&label.len()));
    if !good {
        return None;
    }
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

/// What is read of a rule's `namespaces`.
fn namespaces_of(spec: &RuleSpec) -> Result<Option<Namespaces>, Vec<Problem>> {
    if spec.namespaces.is_none() && spec.namespace_labels.is_none() {
        return Ok(None);
    }
    if matches!(spec.matches, MatchSpec::Regex(_)) {
        return Err(vec![Problem::new(
            "a rule with `regex` cannot have it",
            "write the namespaces into the expression, or use `match` with `{namespace}`",
        )]);
    }
    let texts = spec.namespaces.as_deref().unwrap_or_default();
    if let Some(selector) = &spec.namespace_labels {
        let wrong = selector::check_for_api(selector);
        if !wrong.is_empty() {
            return Err(wrong);
        }
        return Ok(Some(Namespaces::of_names(&texts.iter().cloned().collect())));
    }
    let problems =
        |problems: Vec<(usize, Problem)>| problems.into_iter().map(|(_, problem)| problem);
    Namespaces::parse(texts)
        .map(Some)
        .map_err(|found| problems(found).collect())
}

fn check_rule_name(name: &str) -> Result<(), Problem> {
    let good = (1..=MAX_RULE_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if good {
        return Ok(());
    }
    Err(Problem::new(
        "this cannot be a rule's name",
        "use 1 to 63 letters, digits, `-`, `_` and `.`: metrics and logs show it",
    ))
}

fn spelled(at: usize, captures: &[Option<String>]) -> String {
    match captures.get(at) {
        Some(Some(name)) => format!("`{{{name}}}`"),
        _ => format!("`{{{}}}`", at + 1),
    }
}

fn unknown_capture(reference: &str, captures: &[Option<String>], numbers: bool) -> Problem {
    let known: Vec<String> = (0..captures.len())
        .map(|at| spelled(at, captures))
        .collect();
    let source = if numbers { "regex" } else { "match" };
    let remedy = if known.is_empty() {
        format!("capture it in `{source}`, or write the label out")
    } else {
        format!("use {}, or capture it in `{source}`", known.join(" or "))
    };
    Problem::new(
        format!("`{{{reference}}}` is not captured by the rule's `{source}`"),
        remedy,
    )
}

fn unused_capture(at: usize, captures: &[Option<String>], numbers: bool) -> Problem {
    let name = spelled(at, captures);
    if numbers {
        Problem::new(
            format!("the group {name} is not used by `cname`"),
            format!("use {name} in `cname`, or write the group as `(?:…)`"),
        )
    } else {
        Problem::new(
            format!("{name} is captured but not used by `cname`"),
            format!("use {name} in `cname`, or write the label out"),
        )
    }
}

fn warnings(rules: &[Rule], reached: &[bool]) -> Vec<Complaint> {
    let mut warnings = Vec::new();
    // Of a claim its Service says so.
    let own = rules
        .iter()
        .enumerate()
        .filter(|(_, rule)| !rule.is_claimed());
    for (index, rule) in own {
        if let Some(labels) = &rule.namespace_labels
            && rule.namespaces.iter().flatten().next().is_none()
        {
            warnings.push(for_no_namespace(index, rule, labels));
            continue;
        }
        if !reached.get(index).copied().unwrap_or(true) {
            warnings.push(match check::shadow(rules, index) {
                Some(earlier) => Complaint::new(
                    index,
                    rule.key(),
                    format!(
                        "never used: `{}` matches the same names first",
                        earlier.name
                    ),
                    "put the narrower rule first, or remove it",
                ),
                None => Complaint::new(
                    index,
                    rule.key(),
                    "never used: earlier rules take all its names, or it matches none",
                    "put the narrower rule first, or remove it",
                ),
            });
        }
    }
    warnings
}

fn for_no_namespace(index: usize, rule: &Rule, labels: &Labels) -> Complaint {
    let labels = selector::text(labels);
    let (problem, remedy) = if rule.namespaces.is_some() {
        (
            format!("no namespace has the labels {labels}: the rule is for none"),
            "label one, as in `kubectl label namespace NAME KEY=VALUE`",
        )
    } else {
        (
            format!("which namespaces have the labels {labels} is not known: the rule is for none"),
            "the API server has to say it: in a cluster, with [kubernetes] watch, and the right to list and watch namespaces",
        )
    };
    Complaint::new(index, Key::Namespaces, problem, remedy)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn spec(name: &str, pattern: &str, cname: &str) -> RuleSpec {
        RuleSpec {
            name: name.into(),
            matches: match pattern.strip_prefix('/') {
                Some(regex) => MatchSpec::Regex(regex.into()),
                None => MatchSpec::Pattern(pattern.into()),
            },
            cname: cname.into(),
            ttl_seconds: DEFAULT_TTL,
            follow: true,
            ..RuleSpec::default()
        }
    }

    fn compile(rules: &[(&str, &str)]) -> Result<RuleSet, Vec<Complaint>> {
        let specs: Vec<_> = rules
            .iter()
            .enumerate()
            .map(|(index, (pattern, cname))| spec(&format!("r{}", index + 1), pattern, cname))
            .collect();
        RuleSet::compile(&specs)
    }

    /// A name in wire format; labels are parted by dots.
    fn wire(name: &str) -> Vec<u8> {
        let mut wire = Vec::new();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            wire.push(label.len() as u8);
            wire.extend(label.bytes());
        }
        wire.push(0);
        wire
    }

    const KAFKA: (&str, &str) = (
        "*.aws.private.kafka.managed.{namespace}.svc.cluster.local",
        "kafka-upstream.{namespace}.svc.cluster.local",
    );

    #[test]
    fn the_rule_of_the_documentation() {
        let rules = compile(&[KAFKA]).unwrap();
        let name = wire("lkc-1.eu-west-1.AWS.private.kafka.managed.Foo.svc.cluster.LOCAL");
        assert_eq!(rules.find(&name, None), Some(0));
        let found = rules.rules()[0].apply(&name, None).unwrap();
        assert_eq!(found.captures, ["foo"]);
        assert_eq!(found.namespace.as_deref(), Some("foo"));
        assert_eq!(
            found.target.to_string(),
            "kafka-upstream.foo.svc.cluster.local."
        );
        for other in [
            "aws.private.kafka.managed.foo.svc.cluster.local",
            "x.aws.private.kafka.managed.foo.bar.svc.cluster.local",
            "x.aws.private.kafka.managed.svc.cluster.local",
            "x.aws.private.kafka.managed.-foo.svc.cluster.local",
            "x.aws.private.kafka.managed.foo.svc.cluster.local.example",
            "svc.cluster.local",
            "amazonaws.com",
            "",
        ] {
            assert_eq!(rules.find(&wire(other), None), None, "{other}");
        }
        assert_eq!(rules.find(b"\x03a.b\x03aws\x07private\x05kafka\x07managed\x03foo\x03svc\x07cluster\x05local\x00", None), None);
    }

    #[test]
    fn the_shared_suffix_and_the_wildcard_shorten_the_walk() {
        let rules = compile(&[KAFKA]).unwrap();
        let header = &rules.table().header;
        assert_eq!(header.heads[0].len, 18);
        // `*.a` needs no step but the separator in front of `a`.
        let rules = compile(&[("*.example.com", "a.b")]).unwrap();
        let header = &rules.table().header;
        assert_eq!(header.heads[0].len, 11);
        let entries = &rules.table().entries;
        let separator = header.classes[0xff];
        let after = entries[header.heads[0].start as usize + usize::from(separator)];
        assert_eq!(after & 0xff, u32::from(separator));
        let after = after >> 8;
        assert!(after >= header.last_from);
        assert_eq!(
            entries[after as usize + usize::from(dfa::ANY_LABELS)],
            dfa::entry(dfa::ANY_LABELS, 1)
        );
        assert_eq!(rules.find(&wire("x.y.example.com"), None), Some(0));
        assert_eq!(rules.find(&wire("example.com"), None), None);
        assert_eq!(rules.find(b"\x03x\xffy\x07example\x03com\x00", None), None);
        assert_eq!(rules.find(b"\x03x.y\x07example\x03com\x00", None), None);
    }

    #[test]
    fn an_exact_name_within_the_suffix() {
        let rules = compile(&[("A_b.c", "x.y")]).unwrap();
        assert_eq!(rules.table().header.heads[0].len, 6);
        assert_eq!(rules.find(&wire("a_B.c"), None), Some(0));
        assert_eq!(rules.find(&wire("x.a_b.c"), None), None);
        assert_eq!(rules.find(b"\x05a_b\xffc\x00", None), None);
    }

    #[test]
    fn the_first_rule_wins_also_below_a_wildcard() {
        let rules = compile(&[
            ("one.example.com", "t.one"),
            ("*.example.com", "t.any"),
            ("*.two.example.com", "t.two"),
        ])
        .unwrap();
        assert_eq!(rules.find(&wire("one.example.com"), None), Some(0));
        assert_eq!(rules.find(&wire("x.one.example.com"), None), Some(1));
        assert_eq!(rules.find(&wire("x.two.example.com"), None), Some(1));
        assert_eq!(rules.warnings().len(), 1);
        assert_eq!(rules.warnings()[0].rule, 2);
        assert!(rules.warnings()[0].problem.contains("`r2`"));
    }

    #[test]
    fn regexes_match_as_coredns_does() {
        let rules = compile(&[(
            r"/^[^.]+\.(?P<namespace>[a-z]+)\.svc\.Cluster|^a(.*)z\.$",
            "{namespace}.up{2}.x",
        )])
        .unwrap();
        assert_eq!(
            rules.warnings(),
            [],
            "the second alternative can still match"
        );
        assert_eq!(rules.find(&wire("x.ns.svc.cluster.local"), None), None);
        assert_eq!(rules.find(&wire("AB.cz"), None), Some(0));
        let rules = compile(&[(r"/\.(.+)\.svc\.cluster", "{1}.up.x")]).unwrap();
        for name in ["x.NS.svc.cluster", "y.x.a.b.svc.clusters.z"] {
            assert_eq!(rules.find(&wire(name), None), Some(0), "{name}");
        }
        for name in ["ns.svc.cluster", "x.ns.svc.cluste"] {
            assert_eq!(rules.find(&wire(name), None), None, "{name}");
        }
        let found = rules.rules()[0]
            .apply(&wire("x.a.B.svc.cluster"), None)
            .unwrap();
        assert_eq!(found.captures, ["a.b"]);
        assert_eq!(found.target.to_string(), "a.b.up.x.");
        assert_eq!(
            rules.find(b"\x01x\x03a@b\x03svc\x07cluster\x00", None),
            None
        );
    }

    #[test]
    fn templates_without_a_valid_name_give_no_target() {
        let rules = compile(&[("{a}.example", "{a}-{a}.target")]).unwrap();
        let long = "a".repeat(40);
        let name = wire(&format!("{long}.example"));
        assert_eq!(rules.find(&name, None), Some(0));
        assert_eq!(rules.rules()[0].apply(&name, None), None);
    }

    #[test]
    fn rules_that_only_differ_in_their_namespaces_are_two() {
        let of = |name: &str, cname: &str, namespaces: &[&str]| RuleSpec {
            namespaces: Some(namespaces.iter().map(|&glob| glob.to_owned()).collect()),
            ..spec(name, KAFKA.0, cname)
        };
        let foo = of("foo", "a.{namespace}.test", &["foo", "x*"]);
        let rest = spec("rest", KAFKA.0, "b.{namespace}.test");
        let rules = RuleSet::compile(&[foo.clone(), rest.clone()]).unwrap();
        assert_eq!(rules.warnings(), []);
        // The other way round the narrower one is never used.
        let rules = RuleSet::compile(&[rest.clone(), foo.clone()]).unwrap();
        assert_eq!(rules.warnings().len(), 1);
        // The same list twice.
        let again = of("again", "c.{namespace}.test", &["X*", "foo"]);
        assert!(RuleSet::compile(&[foo.clone(), again]).is_err());
        // A rule that observes takes nothing from the next one, and leads nowhere.
        let observing = RuleSpec {
            mode: Mode::Observe,
            ..rest
        };
        let rules = RuleSet::compile(&[observing, foo]).unwrap();
        assert_eq!(rules.warnings(), []);
        let [observing, foo] = rules.rules() else {
            panic!("two rules");
        };
        let captures = |label: &'static str| [label.as_bytes()];
        assert!(rules.answers(foo.id(), captures("foo"), None));
        assert!(!rules.answers(foo.id(), captures("bar"), None));
        assert!(!rules.answers(observing.id(), captures("foo"), None));
        assert_eq!(rules.suffix(1, captures("bar")), None);
    }

    #[test]
    fn no_rules_match_nothing() {
        let rules = compile(&[]).unwrap();
        assert_eq!(rules.find(&wire("a.b"), None), None);
        assert_eq!(rules.find(&[0], None), None);
        assert_eq!(rules.find(&[0; 300], None), None);
    }

    #[test]
    fn rules_that_are_refused_together() {
        let complaint = |rules: &[(&str, &str)]| {
            let complaints = compile(rules).unwrap_err();
            assert!(complaints.iter().all(|c| !c.remedy.is_empty()));
            complaints[0].to_string()
        };
        for (rules, expected) in [
            (&[("*.a.b", "x.a.b")][..], "matches the rule itself"),
            (&[("{x}.a.b", "c.{x}.b")], "matches the rule itself"),
            (&[("*.{x}.b", "u.{x}.b")], "matches the rule itself"),
            (
                &[("*.a.b", "x.c.b"), ("*.c.b", "x.d.b"), ("*.d.b", "x.a.b")],
                "back to this rule over `r2`, `r3`",
            ),
            (&[(r"/^(.+)\.a\.", "{1}.a.b")], "matches the rule itself"),
            (&[("a.b", "c.d"), ("A.b.", "c.d")], "the same rule as `r1`"),
            (
                &[("{x}.b", "{x}.d"), ("{y}.b", "{y}.e")],
                "the same names as `r1`",
            ),
            (&[("{x}.b", "c.d")], "`{x}` is captured but not used"),
            (&[("{x}.b", "{y}.d")], "`{y}` is not captured"),
            (&[("/(a)b", "c.d")], "the group `{1}` is not used"),
            (&[("/(a)b", "{1}.{2}.d")], "`{2}` is not captured"),
            (&[("/(a)b", "{0}.{1}.d")], "`{0}` is not captured"),
            (&[(r"/([^.]{60}\.){60}.*[a-f]{30}", "c.d")], "too large"),
        ] {
            let complaint = complaint(rules);
            assert!(complaint.contains(expected), "{rules:?}: {complaint}");
        }
        let same_name = [spec("a", "a.b", "c.d"), spec("a", "b.b", "c.d")];
        let complaints = RuleSet::compile(&same_name).unwrap_err();
        assert_eq!(complaints[0].key, Key::Name);
        assert_eq!(complaints[0].rule, 1);
    }

    /// Rules that each multiply the states of the others: letters in between, in any label.
    fn loose(count: usize) -> Vec<RuleSpec> {
        const WORDS: [&str; 13] = [
            "ads", "pixel", "track", "beacon", "metric", "stat", "click", "count", "banner",
            "promo", "spy", "tag", "log",
        ];
        (0..count)
            .map(|n| {
                let regex = match n % 3 {
                    0 => format!("/.*{}.*{}.*", WORDS[n], WORDS[(n + 4) % 13]),
                    1 => format!("/{}.*{}", WORDS[n], WORDS[(n + 2) % 13]),
                    _ => format!("/^.*{}[0-9]*.*{}.*$", WORDS[n], WORDS[(n + 7) % 13]),
                };
                spec(&format!("loose{n}"), &regex, "sink.test")
            })
            .collect()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn loose_expressions_are_refused_within_the_budget() {
        let mut specs = vec![spec("kafka", KAFKA.0, KAFKA.1)];
        specs.extend(loose(12));
        specs.push(spec(
            "anchored",
            r"/^lkc-[a-z0-9]+\.example\.org\.$",
            "x.test",
        ));
        for (budget, said) in [
            (Budget::new(HOUR, 4 << 20), "more than 4 MiB"),
            (Budget::new(Duration::ZERO, 128 << 20), "more than 0s"),
        ] {
            let complaints = RuleSet::compile_within(&specs, "", &budget).unwrap_err();
            let [complaint] = &complaints[..] else {
                panic!("{complaints:?}");
            };
            assert!(complaint.problem.contains(said), "{complaint}");
            // Three of the loose ones are named, and none that adds little.
            assert_eq!(
                complaint.problem.matches("`loose").count(),
                3,
                "{complaint}"
            );
            assert!(!complaint.problem.contains("anchored"), "{complaint}");
            assert_eq!(complaint.others.len(), 2);
            assert!(specs[complaint.rule].name.starts_with("loose"));
        }
        // As many as the budget allows are fine.
        for count in 1..=3 {
            RuleSet::compile_within(&loose(count), "", &Budget::new(HOUR, 32 << 20)).unwrap();
        }
    }

    #[test]
    fn patterns_that_are_too_many_are_refused_without_naming_any() {
        let specs = testing::realistic_rules(2000);
        let complaints =
            RuleSet::compile_within(&specs, "", &Budget::new(HOUR, 1 << 20)).unwrap_err();
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints[0].problem.ends_with("1 MiB to compile"),
            "{}",
            complaints[0]
        );
        assert!(complaints[0].remedy.contains("fewer rules"));
    }

    #[test]
    fn rules_whose_target_may_be_a_rules_name_lead_on() {
        let specs = [
            spec(
                "global",
                "boot.{namespace}.svc.cluster.local",
                "b1.kafka.{namespace}.svc.cluster.local",
            ),
            spec(
                "zonal",
                "*.kafka.{namespace}.svc.cluster.local",
                "up.{namespace}.svc.cluster.local",
            ),
            spec(
                "any",
                "{other}.{namespace}.example",
                "{other}.{namespace}.test",
            ),
            spec("by-regex", "x.example.com", "e-1.vendor.example.com"),
            RuleSpec {
                matches: MatchSpec::Regex(r"^e-[0-9]+\.vendor\.example\.com\.$".to_owned()),
                ..spec("regex", "", "end.example.com")
            },
            RuleSpec {
                follow: false,
                ..spec("ends", "y.example.com", "boot.foo.svc.cluster.local")
            },
        ];
        let rules = RuleSet::compile(&specs).unwrap();
        let leads_on: Vec<bool> = (0..specs.len()).map(|rule| rules.leads_on(rule)).collect();
        assert_eq!(leads_on, [true, false, false, true, false, false]);
        let rules = RuleSet::compile(&specs[1..3]).unwrap();
        let name = b"\x01a\x05kafka\x03foo\x03svc\x07cluster\x05local\0";
        assert_eq!(rules.follow(0, name, None).unwrap().len(), 1);
    }

    #[test]
    fn rules_that_are_not_followed_make_no_loop_and_end_where_they_say() {
        // As in CoreDNS: `rewrite` runs once, so names can change places.
        let rewrite = |name: &str, from: &str, to: &str| RuleSpec {
            follow: false,
            ..spec(name, from, to)
        };
        let swap = [
            rewrite("a", "a.example.com", "b.example.com"),
            rewrite("b", "b.example.com", "a.example.com"),
        ];
        let rules = RuleSet::compile(&swap).unwrap();
        let name = b"\x01a\x07example\x03com\0";
        let chain = rules.follow(0, name, None).unwrap();
        assert_eq!(chain.len(), 1);
        assert_eq!(chain[0].1.target.to_ascii(), "b.example.com.");

        // Followed by default, to the rule that says no more.
        let specs = [
            spec("a", "a.example.com", "b.example.com"),
            rewrite("b", "b.example.com", "c.example.com"),
            spec("c", "c.example.com", "d.example.com"),
        ];
        let rules = RuleSet::compile(&specs).unwrap();
        let targets: Vec<String> = rules
            .follow(0, name, None)
            .unwrap()
            .iter()
            .map(|(_, matched)| matched.target.to_ascii())
            .collect();
        assert_eq!(targets, ["b.example.com.", "c.example.com."]);

        let followed = [
            spec("a", "a.example.com", "b.example.com"),
            spec("b", "b.example.com", "a.example.com"),
        ];
        assert!(RuleSet::compile(&followed).is_err());
    }

    #[test]
    fn targets_near_other_rules_do_not_count_as_loops() {
        for rules in [
            &[
                KAFKA,
                (
                    "*.m.{namespace}.svc.cluster.local",
                    "u.{namespace}.svc.cluster.local",
                ),
            ][..],
            &[("a.b", "c.d"), ("c.d", "e.f")],
            // From foo.x to bar.y to bar.x, and no further.
            &[("foo.x", "bar.y"), ("{a}.y", "{a}.x")],
            // An exact rule matches the target before the wildcard.
            &[("t.a.b", "c.d"), ("*.a.b", "t.a.b")],
        ] {
            if let Err(complaints) = compile(rules) {
                panic!("{rules:?}: {complaints:?}");
            }
        }
    }

    fn client(namespace: &str, labels: &[(&str, &str)]) -> Client {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Client {
            namespace: namespace.to_owned(),
            labels: labels.iter().map(owned).collect(),
            ..Client::default()
        }
    }

    #[test]
    fn a_target_is_the_clients_own() {
        let rules = compile(&[(
            "*.private.example.com",
            "up.{client.namespace}.svc.cluster.local",
        )])
        .unwrap();
        let name = wire("lkc-1.private.example.com");
        let target = |client: &Client| {
            let chain = rules.follow(rules.find(&name, Some(client))?, &name, Some(client))?;
            Some(chain[0].1.target.to_ascii())
        };
        let foo = client("foo", &[]);
        assert_eq!(target(&foo).as_deref(), Some("up.foo.svc.cluster.local."));
        assert_eq!(
            target(&client("bar", &[])).as_deref(),
            Some("up.bar.svc.cluster.local.")
        );
        assert_eq!(rules.find(&name, None), None, "nobody is known");
        assert_eq!(rules.find_for_anybody(&name), None);
        let id = rules.rules()[0].id();
        let none = || std::iter::empty::<&[u8]>();
        assert!(rules.answers(id, none(), Some(&foo)));
        assert!(!rules.answers(id, none(), None));
        assert_eq!(
            rules.permits(&foo).count(),
            0,
            "it is for all who are known"
        );
    }

    #[test]
    fn the_first_rule_for_the_client_is_the_one() {
        let mut own = spec("own", "*.k.{namespace}.svc", "up.{namespace}.test");
        own.clients = ClientsSpec::OwnNamespace;
        let mut teams = spec("teams", "*.k.{namespace}.svc", "teams.{namespace}.test");
        teams.clients = ClientsSpec::Namespaces(vec!["team-*".into()]);
        let labelled = spec(
            "labelled",
            "*.b.k.{namespace}.svc",
            "{client.label.t}.{namespace}.test",
        );
        let all = spec("all", "*.c.k.{namespace}.svc", "all.{namespace}.test");
        let rules = RuleSet::compile(&[own, teams, labelled, all]).unwrap();
        assert_eq!(rules.warnings(), []);
        let (foo, team) = (client("foo", &[]), client("team-1", &[("t", "x")]));
        let bad = client("bar", &[("t", "not.a.label")]);
        let find = |name: &str, client: &Client| rules.find(&wire(name), Some(client));
        assert_eq!(find("a.k.foo.svc", &foo), Some(0));
        assert_eq!(find("a.k.foo.svc", &team), Some(1));
        assert_eq!(find("a.k.team-1.svc", &team), Some(0));
        assert_eq!(find("a.b.k.foo.svc", &team), Some(1));
        assert_eq!(
            find("a.b.k.foo.svc", &client("bar", &[("t", "y")])),
            Some(2)
        );
        assert_eq!(
            find("a.b.k.foo.svc", &bad),
            None,
            "its value is no label of a name"
        );
        assert_eq!(find("a.c.k.foo.svc", &bad), Some(3));
        assert_eq!(find("a.k.foo.svc", &bad), None);
        assert_eq!(rules.find_for_anybody(&wire("a.c.k.foo.svc")), None);
        assert_eq!(rules.client_labels().iter().collect::<Vec<_>>(), ["t"]);
        let permitted: Vec<u64> = rules.permits(&team).collect();
        let ids = [rules.rules()[1].id(), rules.rules()[2].id()];
        assert_eq!(permitted, ids);
    }

    #[test]
    fn what_a_rule_wants_of_clients_is_checked() {
        for (pattern, cname, clients, key, expected) in [
            (
                "*.k.test",
                "up.{client.pod}.test",
                ClientsSpec::Any,
                Key::Cname,
                "not known",
            ),
            (
                "*.k.test",
                "{client.label.-}.test",
                ClientsSpec::Any,
                Key::Cname,
                "key of a label",
            ),
            (
                "*.k.test",
                "up.test",
                ClientsSpec::OwnNamespace,
                Key::Clients,
                "no `{namespace}`",
            ),
            (
                "/^(?P<namespace>[a-z]+)[.]k[.]$",
                "up.{namespace}.test",
                ClientsSpec::OwnNamespace,
                Key::Clients,
                "no `{namespace}`",
            ),
            (
                "*.k.test",
                "up.test",
                ClientsSpec::Namespaces(vec![]),
                Key::Clients,
                "empty",
            ),
        ] {
            let mut rule = spec("r", pattern, cname);
            rule.clients = clients;
            let complaints = RuleSet::compile(&[rule]).unwrap_err();
            assert!(
                complaints
                    .iter()
                    .any(|one| one.key == key && one.problem.contains(expected)),
                "{pattern} {cname}: {complaints:?}"
            );
        }
        // A loop goes through whoever asks.
        let back = compile(&[("*.{client}.test", "a.{client.namespace}.test")]);
        assert!(back.is_err());
        let own = compile(&[("*.a.test", "x.{client.namespace}.test")]).unwrap_err();
        assert!(
            own[0].problem.contains("matches the rule itself"),
            "{own:?}"
        );
    }

    fn labelled(names: impl IntoIterator<Item = String>) -> RuleSpec {
        RuleSpec {
            namespaces: Some(names.into_iter().collect()),
            namespace_labels: Some(Labels::from([("tier".to_owned(), vec!["gold".to_owned()])])),
            ..spec("gold", KAFKA.0, KAFKA.1)
        }
    }

    #[test]
    fn a_rule_whose_labels_no_namespace_has_is_for_none_and_the_next_rule_is_used() {
        let all = spec(
            "all",
            "*.managed.{namespace}.svc.cluster.local",
            "up.{namespace}.test",
        );
        let name = wire("a.aws.private.kafka.managed.foo.svc.cluster.local");
        for unknown in [false, true] {
            let mut none = labelled([]);
            if unknown {
                none.namespaces = None;
            }
            let alone = RuleSet::compile(std::slice::from_ref(&none)).unwrap();
            assert_eq!(alone.find(&name, None), None);
            assert!(!alone.rules()[0].is_for("foo"));
            let [warning] = alone.warnings() else {
                panic!("{:?}", alone.warnings());
            };
            assert_eq!(warning.key, Key::Namespaces);
            assert_eq!(warning.problem.contains("is not known"), unknown);
            let both = RuleSet::compile(&[none, all.clone()]).unwrap();
            assert_eq!(both.find(&name, None), Some(1));
            assert_eq!(both.warnings().len(), 1);
        }
        let both = RuleSet::compile(&[labelled(["foo".to_owned()]), all]).unwrap();
        assert_eq!(both.find(&name, None), Some(0));
        assert_eq!(both.warnings(), []);
        // What is known of the namespaces that stay is known still.
        let ids = [vec!["foo"], vec!["foo", "bar"], vec![]].map(|names| {
            let names = names.into_iter().map(str::to_owned);
            RuleSet::compile(&[labelled(names)]).unwrap().rules()[0].id()
        });
        assert_eq!(ids, [ids[0]; 3]);
    }

    /// A thousand with the memory that rules have in any case.
    #[test]
    fn thousands_of_namespaces_may_be_selected() {
        for (count, mib) in [(1000, 8), (5000, 32)] {
            let names = (0..count).map(|number| format!("team-{}-{number}", number * 7919 % 1000));
            let budget = Budget::new(Duration::from_secs(3600), mib << 20);
            let rules = RuleSet::compile_within(&[labelled(names)], "", &budget).unwrap();
            println!("{count}: {} kB of the table", rules.table().bytes() >> 10);
            let find = |namespace: &str| {
                let name = format!("a.aws.private.kafka.managed.{namespace}.svc.cluster.local");
                rules.find(&wire(&name), None)
            };
            assert_eq!(find("Team-0-0"), Some(0));
            assert_eq!(find("team-81-999"), Some(0));
            assert_eq!(find("team-82-999"), None);
            assert_eq!(find("team-0-00"), None);
        }
    }
}
