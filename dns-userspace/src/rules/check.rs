//! Rules against each other: names given twice, rules that say the same, targets that lead back to a rule.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use super::clients::Clients;
use super::labels::is_rfc1123;
use super::pattern::{Part, Pattern, PatternLabel, Template};
use super::{Complaint, Key, Matcher, Rule};

/// Names given twice and rules that say the same; `rules` holds each rule that is sound by itself, with its index.
pub(super) fn duplicates(names: &[&str], rules: &[(usize, Rule)]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    let mut by_name: HashMap<&str, usize> = HashMap::new();
    for (index, name) in names.iter().enumerate() {
        if name.is_empty() {
            continue;
        }
        if let Some(first) = by_name.get(name) {
            complaints.push(Complaint::new(
                index,
                Key::Name,
                format!("`{name}` is the name of rule {} too", first + 1),
                "give every rule a name of its own; of a rule that was imported twice, remove one",
            ));
        } else {
            by_name.insert(name, index);
        }
    }
    let mut by_match: HashMap<String, usize> = HashMap::new();
    for (position, (index, rule)) in rules.iter().enumerate() {
        let (key, text) = match &rule.matcher {
            Matcher::Pattern(pattern) => (Key::Match, pattern.anonymous()),
            Matcher::Regex(_) => (Key::Regex, format!("/{}", rule.pattern)),
        };
        // What a selector stands for changes.
        let text = match &rule.namespace_labels {
            Some(labels) => format!("{} with {labels:?}", rule.pattern.to_ascii_lowercase()),
            None => text,
        };
        // Others may have the next rule.
        let text = match &rule.asks.clients {
            Clients::Any => text,
            clients => format!("{text} for {clients:?}"),
        };
        let Some(&first) = by_match.get(&text) else {
            by_match.insert(text, position);
            continue;
        };
        let first = &rules[first].1;
        complaints.push(if first.cname == rule.cname {
            Complaint::new(
                *index,
                key,
                format!("the same rule as `{}`", first.name),
                "remove one of the two",
            )
        } else {
            Complaint::new(
                *index,
                key,
                format!(
                    "matches the same names as `{}`, which points elsewhere",
                    first.name
                ),
                "remove one of the two, or make their patterns differ",
            )
        });
    }
    complaints
}

/// The rules that each rule's target may match, as far as one name represents all where a `regex` takes part.
pub(super) fn leads_to(rules: &[(usize, Rule)]) -> Vec<Vec<usize>> {
    let index = LabelIndex::new(rules);
    rules
        .iter()
        .map(|(_, rule)| {
            // Its target is looked up, whatever it is called.
            if !rule.follow {
                return Vec::new();
            }
            let target = general_target(rule);
            let mut next: Vec<usize> = index
                .candidates(&target)
                .into_iter()
                .filter(|&other| !rules[other].1.is_observing() && !rules[other].1.is_claimed())
                .filter(|&other| apply(&rules[other].1, &target).is_some())
                .collect();
            next.sort_unstable();
            // Where nothing in the target varies, the first rule for everybody that matches is the last one that does.
            let varies = |label| !matches!(label, &Symbol::Literal(_));
            if !target.iter().any(varies)
                && let Some(last) = next.iter().position(|&at| !rules[at].1.asks_who())
            {
                next.truncate(last + 1);
            }
            next
        })
        .collect()
}

/// Targets that match their own rule or lead back to it over others.
pub(super) fn loops(rules: &[(usize, Rule)], leads_to: &[Vec<usize>]) -> Vec<Complaint> {
    let mut complaints = Vec::new();
    for cycle in cycles(leads_to) {
        if !closes(rules, &cycle) {
            continue;
        }
        let (first, rule) = (&rules[cycle[0]].0, &rules[cycle[0]].1);
        let problem = if let [_] = cycle[..] {
            format!("the target `{}` matches the rule itself", rule.cname)
        } else {
            let others: Vec<_> = cycle[1..]
                .iter()
                .map(|&other| format!("`{}`", rules[other].1.name))
                .collect();
            format!(
                "the target `{}` leads back to this rule over {}",
                rule.cname,
                others.join(", ")
            )
        };
        complaints.push(Complaint::new(
            *first,
            Key::Cname,
            problem,
            "point `cname` to a name that no rule matches",
        ));
    }
    complaints
}

/// The earlier rule that matches all names of a later one, if it is a single one.
pub(super) fn shadow(rules: &[Rule], later: usize) -> Option<&Rule> {
    let Matcher::Pattern(pattern) = &rules[later].matcher else {
        return None;
    };
    rules[..later]
        .iter()
        .filter(|rule| !rule.asks_who())
        .find(|rule| matches!(&rule.matcher, Matcher::Pattern(earlier) if earlier.covers(pattern)))
}

/// The rule that answers everybody every name of a pattern, if it is a single one.
pub(super) fn covering<'r>(rules: &'r [Rule], pattern: &Pattern) -> Option<&'r Rule> {
    rules
        .iter()
        .filter(|rule| !rule.asks_who() && !rule.is_observing())
        .find(|rule| matches!(&rule.matcher, Matcher::Pattern(earlier) if earlier.covers(pattern)))
}

/// A label of a target whose captures are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Symbol {
    Literal(String),
    /// Any RFC 1123 label, the same one wherever the number is the same.
    Label(usize),
    /// A label with these bytes at its ends.
    Around(String, String),
}

fn general_target(rule: &Rule) -> Vec<Symbol> {
    // A group of a `regex` may be more than a label; a loop that needs that is not found.
    let captures = (0..rule.captures.len()).map(Symbol::Label).collect();
    target_for(rule, captures)
}

/// The target of a rule, with what it takes from who asks: the same in all rules.
fn target_for(rule: &Rule, mut captures: Vec<Symbol>) -> Vec<Symbol> {
    captures.extend(rule.asks.takes.iter().map(|one| {
        let mut hash = DefaultHasher::new();
        one.hash(&mut hash);
        // Beyond all captures.
        Symbol::Label(hash.finish() as usize | 1 << 63)
    }));
    target(&rule.target, &captures)
}

fn target(template: &Template<usize>, captures: &[Symbol]) -> Vec<Symbol> {
    let mut labels: Vec<Vec<Symbol>> = vec![Vec::new()];
    for part in &template.parts {
        match part {
            Part::Text(text) => {
                for (index, piece) in text.split('.').enumerate() {
                    if index > 0 {
                        labels.push(Vec::new());
                    }
                    if !piece.is_empty()
                        && let Some(label) = labels.last_mut()
                    {
                        label.push(Symbol::Literal(piece.to_owned()));
                    }
                }
            }
            Part::Capture(capture) => {
                if let (Some(label), Some(value)) = (labels.last_mut(), captures.get(*capture)) {
                    label.push(value.clone());
                }
            }
        }
    }
    labels.into_iter().map(join).collect()
}

fn join(pieces: Vec<Symbol>) -> Symbol {
    if let [only] = &pieces[..] {
        return only.clone();
    }
    let fixed: Option<String> = pieces
        .iter()
        .map(|piece| match piece {
            Symbol::Literal(text) => Some(text.as_str()),
            _ => None,
        })
        .collect();
    if let Some(text) = fixed {
        return Symbol::Literal(text);
    }
    let start = match pieces.first() {
        Some(Symbol::Literal(text) | Symbol::Around(text, _)) => text.clone(),
        _ => String::new(),
    };
    let end = match pieces.last() {
        Some(Symbol::Literal(text) | Symbol::Around(_, text)) => text.clone(),
        _ => String::new(),
    };
    Symbol::Around(start, end)
}

/// The target that a rule gives a name with unknown labels, or `None` when it cannot match it.
fn apply(rule: &Rule, name: &[Symbol]) -> Option<Vec<Symbol>> {
    match &rule.matcher {
        Matcher::Pattern(pattern) => {
            let captures = unify(rule, pattern, name)?;
            Some(target_for(rule, captures))
        }
        Matcher::Regex(regex) => {
            // One name represents all: enough to see a loop that every name takes.
            let sample: Vec<String> = name
                .iter()
                .map(|label| match label {
                    Symbol::Literal(text) => text.clone(),
                    Symbol::Label(number) => format!("x{number}"),
                    Symbol::Around(start, end) => format!("{start}x{end}"),
                })
                .collect();
            let labels: Vec<&[u8]> = sample.iter().map(|label| label.as_bytes()).collect();
            let groups = regex.captured(&labels)?;
            let literals = groups
                .into_iter()
                .map(|group| Symbol::Literal(group.unwrap_or_default()));
            Some(target_for(rule, literals.collect()))
        }
    }
}

/// Whether a capture may be this label, now or once other namespaces have the labels that the rule names.
fn may_be(rule: &Rule, pattern: &Pattern, capture: &str, label: &str) -> bool {
    rule.namespace_labels.is_some() || pattern.allows(capture, label)
}

fn unify(rule: &Rule, pattern: &Pattern, name: &[Symbol]) -> Option<Vec<Symbol>> {
    let free = name.len().checked_sub(pattern.labels.len())?;
    if pattern.any_labels != (free > 0) {
        return None;
    }
    let mut bound: HashMap<usize, &str> = HashMap::new();
    let mut captures = Vec::new();
    for (expected, label) in pattern.labels.iter().zip(&name[free..]) {
        match (expected, label) {
            (PatternLabel::Literal(text), Symbol::Literal(own)) if text == own => {}
            (PatternLabel::Literal(text), Symbol::Label(number)) => {
                let known = *bound.entry(*number).or_insert(text);
                if known != text || !is_rfc1123(text.as_bytes()) {
                    return None;
                }
            }
            (PatternLabel::Literal(text), Symbol::Around(start, end))
                if text.len() > start.len() + end.len()
                    && text.starts_with(start.as_str())
                    && text.ends_with(end.as_str()) => {}
            (PatternLabel::Literal(_), _) => return None,
            (PatternLabel::Capture(name), Symbol::Literal(text))
                if !is_rfc1123(text.as_bytes()) || !may_be(rule, pattern, name, text) =>
            {
                return None;
            }
            (PatternLabel::Capture(_), label) => captures.push(label.clone()),
        }
    }
    for capture in &mut captures {
        if let Symbol::Label(number) = capture
            && let Some(text) = bound.get(number)
        {
            *capture = Symbol::Literal((*text).to_owned());
        }
    }
    Some(captures)
}

/// Whether the target of the first rule of a cycle can really come back to it.
fn closes(rules: &[(usize, Rule)], cycle: &[usize]) -> bool {
    let mut name = general_target(&rules[cycle[0]].1);
    for &next in cycle[1..].iter().chain(&cycle[..1]) {
        match apply(&rules[next].1, &name) {
            Some(target) => name = target,
            None => return false,
        }
    }
    true
}

/// At most one cycle through each rule, found depth first.
fn cycles(leads_to: &[Vec<usize>]) -> Vec<Vec<usize>> {
    const NEW: u8 = 0;
    const OPEN: u8 = 1;
    const DONE: u8 = 2;
    let mut mark = vec![NEW; leads_to.len()];
    let mut found = Vec::new();
    for root in 0..leads_to.len() {
        if mark[root] != NEW {
            continue;
        }
        mark[root] = OPEN;
        // The path, and how many successors of each of its rules were looked at.
        let mut path: Vec<(usize, usize)> = vec![(root, 0)];
        while let Some((rule, looked_at)) = path.last_mut() {
            let rule = *rule;
            let Some(&next) = leads_to[rule].get(*looked_at) else {
                mark[rule] = DONE;
                path.pop();
                continue;
            };
            *looked_at += 1;
            if mark[next] == NEW {
                mark[next] = OPEN;
                path.push((next, 0));
            } else if mark[next] == OPEN
                && let Some(start) = path.iter().position(|(rule, _)| *rule == next)
            {
                let mut cycle: Vec<usize> = path[start..].iter().map(|(rule, _)| *rule).collect();
                if let Some(least) = (0..cycle.len()).min_by_key(|&at| cycle[at]) {
                    cycle.rotate_left(least);
                }
                found.push(cycle);
            }
        }
    }
    found.sort();
    found
}

/// The patterns by their labels from the root on, so that few of them are looked at for a target.
#[derive(Default)]
struct LabelIndex {
    root: Node,
    regexes: Vec<usize>,
}

#[derive(Default)]
struct Node {
    literals: HashMap<String, Node>,
    capture: Option<Box<Node>>,
    /// Rules whose `*` is here.
    any_labels: Vec<usize>,
    /// Rules that end here.
    ends: Vec<usize>,
}

impl LabelIndex {
    fn new(rules: &[(usize, Rule)]) -> Self {
        let mut index = Self::default();
        for (position, (_, rule)) in rules.iter().enumerate() {
            let Matcher::Pattern(pattern) = &rule.matcher else {
                index.regexes.push(position);
                continue;
            };
            let mut node = &mut index.root;
            for label in pattern.labels.iter().rev() {
                node = match label {
                    PatternLabel::Literal(text) => node.literals.entry(text.clone()).or_default(),
                    PatternLabel::Capture(_) => node.capture.get_or_insert_default(),
                };
            }
            if pattern.any_labels {
                node.any_labels.push(position);
            } else {
                node.ends.push(position);
            }
        }
        index
    }

    fn candidates(&self, name: &[Symbol]) -> Vec<usize> {
        let mut found = self.regexes.clone();
        let mut pending = vec![(&self.root, name)];
        while let Some((node, rest)) = pending.pop() {
            let Some((label, rest)) = rest.split_last() else {
                found.extend(&node.ends);
                continue;
            };
            found.extend(&node.any_labels);
            match label {
                Symbol::Literal(text) => {
                    pending.extend(node.literals.get(text).map(|child| (child, rest)));
                }
                _ => pending.extend(node.literals.values().map(|child| (child, rest))),
            }
            pending.extend(node.capture.as_deref().map(|child| (child, rest)));
        }
        found
    }
}
