//! Numbers for rules that mean the same in every process: answers that are kept in the kernel outlive the process that put them
//! there.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::{Complaint, Key, MatchSpec, Rule, RuleSpec};

/// A hash of a rule and of the terms that its answers are given on. The name is in it because answers are counted by name; the
/// namespaces are not, because an answer is the same whichever others have one.
pub(super) fn id(spec: &RuleSpec, terms: &str) -> u64 {
    let (kind, matches) = match &spec.matches {
        MatchSpec::Pattern(text) => ("match", text),
        MatchSpec::Regex(text) => ("regex", text),
    };
    let mut hash = Sha256::new();
    for part in [&spec.name, kind, matches, &spec.cname, terms] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update(spec.ttl_seconds.to_le_bytes());
    hash.update([u8::from(spec.follow)]);
    first_word(hash)
}

/// Gives the rules another id that may lead on to others: their answers depend on all rules that answer, and on their order.
pub(super) fn depend_on_all(
    rules: &mut [(usize, Rule)],
    specs: &[RuleSpec],
    leads_on: impl Fn(usize) -> bool,
) {
    let mut all = Sha256::new();
    // No target leads to a claim.
    let is_one = |rule: &Rule| !rule.is_observing() && !rule.is_claimed();
    for (index, rule) in rules.iter().filter(|(_, rule)| is_one(rule)) {
        all.update(rule.id.to_le_bytes());
        for text in specs[*index].namespaces.iter().flatten() {
            all.update((text.len() as u64).to_le_bytes());
            all.update(text);
        }
    }
    for (position, (_, rule)) in rules.iter_mut().enumerate() {
        if rule.follow && leads_on(position) {
            let mut hash = all.clone();
            hash.update(rule.id.to_le_bytes());
            rule.id = first_word(hash);
        }
    }
}

fn first_word(hash: Sha256) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = <[u8; 32]>::from(hash.finalize());
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

/// The rules by their ids, which must differ.
pub(super) fn by_id(
    rules: &[(usize, Rule)],
    complaints: &mut Vec<Complaint>,
) -> HashMap<u64, usize> {
    let mut ids: HashMap<u64, (usize, &String)> = HashMap::with_capacity(rules.len());
    for (index, rule) in rules {
        // Of two rules of one name there is a complaint already; for others this is one case in 2^64, unless it is searched
        // for.
        if let Some((other, name)) = ids.insert(rule.id, (*index, &rule.name))
            && *name != rule.name
        {
            complaints.push(Complaint::new(
                *index,
                Key::Name,
                format!("the rule has the same id as rule {}", other + 1),
                "give it another name",
            ));
        }
    }
    ids.into_iter()
        .map(|(id, (index, _))| (id, index))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::RuleSet, *};

    fn spec() -> RuleSpec {
        RuleSpec {
            name: "kafka".to_owned(),
            matches: MatchSpec::Pattern("*.kafka.{namespace}.svc.cluster.local".to_owned()),
            cname: "kafka-upstream.{namespace}.svc.cluster.local".to_owned(),
            ttl_seconds: 60,
            follow: true,
            ..RuleSpec::default()
        }
    }

    /// Pinned tables have it.
    #[test]
    fn the_id_of_a_rule_is_the_same_for_ever() {
        assert_eq!(id(&spec(), "terms"), 16_985_004_117_172_470_938);
    }

    #[test]
    fn the_answers_of_a_rule_that_leads_on_depend_on_the_others() {
        let rule = |name: &str, pattern: &str, cname: &str| RuleSpec {
            name: name.to_owned(),
            matches: MatchSpec::Pattern(pattern.to_owned()),
            cname: cname.to_owned(),
            ..spec()
        };
        let first = rule("first", "one.test", "two.test");
        let alone = rule("alone", "*.kafka.test", "up.other");
        let ids = |second: &str| {
            let second = rule("second", "two.test", second);
            let rules = RuleSet::compile(&[first.clone(), second, alone.clone()]).unwrap();
            rules.rules().iter().map(Rule::id).collect::<Vec<_>>()
        };
        let (before, after) = (ids("a.other"), ids("b.other"));
        assert_ne!(before[0], after[0], "it leads to the second");
        assert_ne!(before[1], after[1]);
        assert_eq!(before[2], after[2], "nothing of it has changed");
    }

    #[test]
    fn whatever_an_answer_depends_on_makes_another_id() {
        let one = id(&spec(), "");
        let others = [
            id(
                &RuleSpec {
                    name: "kafka2".to_owned(),
                    ..spec()
                },
                "",
            ),
            id(
                &RuleSpec {
                    matches: MatchSpec::Pattern(
                        "*.kafka2.{namespace}.svc.cluster.local".to_owned(),
                    ),
                    ..spec()
                },
                "",
            ),
            id(
                &RuleSpec {
                    matches: MatchSpec::Regex("*.kafka.{namespace}.svc.cluster.local".to_owned()),
                    ..spec()
                },
                "",
            ),
            id(
                &RuleSpec {
                    cname: "kafka-upstream2.{namespace}.svc.cluster.local".to_owned(),
                    ..spec()
                },
                "",
            ),
            id(
                &RuleSpec {
                    ttl_seconds: 61,
                    ..spec()
                },
                "",
            ),
            id(&spec(), "max_ttl"),
            id(
                &RuleSpec {
                    follow: false,
                    ..spec()
                },
                "",
            ),
        ];
        for other in others {
            assert_ne!(one, other);
        }
    }
}
