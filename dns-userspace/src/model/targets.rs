//! What another source than DNS knows of targets, and which answers a change of it contradicts; no I/O, no clock.

use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
};

use hickory_proto::rr::Name;

/// What is known of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing: DNS is asked.
    Nothing,
    /// It is an alias of this name.
    Alias(Name),
    /// It does not exist, whatever caches still say.
    Absent,
}

/// Knows targets without asking a DNS server.
pub trait Targets: Debug + Send + Sync + 'static {
    fn find(&self, target: &Name) -> Known;
}

/// What is known now of targets that have changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    targets: HashMap<Name, Known>,
    /// In lower-case presentation form without the final dot, as rules spell targets.
    texts: HashSet<String>,
}

impl Changes {
    /// A later change of a target takes the place of an earlier one.
    pub fn add(&mut self, target: Name, known: Known) {
        let text = target.to_ascii().to_ascii_lowercase();
        let text = text.strip_suffix('.').unwrap_or(&text);
        self.texts.insert(text.to_owned());
        self.targets.insert(target, known);
    }

    pub fn extend(&mut self, later: Changes) {
        self.targets.extend(later.targets);
        self.texts.extend(later.texts);
    }

    pub fn is_empty(&self) -> bool {
        self.targets.is_empty()
    }

    pub fn len(&self) -> usize {
        self.targets.len()
    }

    pub fn get(&self, target: &Name) -> Option<&Known> {
        self.targets.get(target)
    }

    /// Whether a target is among them that is spelled like this: in lower case, without the final dot.
    pub fn has_text(&self, target: &str) -> bool {
        self.texts.contains(target)
    }

    /// Whether one of the targets of a query is among them.
    pub fn concern<'a>(&self, targets: impl IntoIterator<Item = &'a Name>) -> bool {
        targets
            .into_iter()
            .any(|target| self.targets.contains_key(target))
    }

    /// Whether an answer is no longer right. `targets` are those that the rules gave the query, `chain` is what the answer
    /// leads over, without the query's own name. An answer with `only_target` ends at the target, whatever that is an alias of.
    pub fn contradict<'a>(
        &self,
        targets: impl IntoIterator<Item = &'a Name>,
        chain: &[Name],
        only_target: bool,
    ) -> bool {
        targets.into_iter().any(|target| {
            let Some(known) = self.targets.get(target) else {
                return false;
            };
            let at = chain.iter().position(|name| name == target);
            match (known, at) {
                (Known::Nothing, _) => true,
                (Known::Absent, at) => at.is_some(),
                (Known::Alias(alias), Some(at)) => match chain.get(at + 1) {
                    Some(next) => next != alias,
                    None => !only_target,
                },
                // The target did not exist when the answer was looked up.
                (Known::Alias(_), None) => true,
            }
        })
    }

    /// Whether a denial of the targets is no longer right.
    pub fn contradict_denial<'a>(&self, targets: impl IntoIterator<Item = &'a Name>) -> bool {
        targets.into_iter().any(|target| {
            self.targets
                .get(target)
                .is_some_and(|known| *known != Known::Absent)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        let mut name = Name::from_ascii(text).unwrap();
        name.set_fqdn(true);
        name
    }

    fn names(texts: &[&str]) -> Vec<Name> {
        texts.iter().map(|text| name(text)).collect()
    }

    fn change(target: &str, known: Known) -> Changes {
        let mut changes = Changes::default();
        changes.add(name(target), known);
        changes
    }

    #[test]
    fn an_answer_goes_when_its_target_has_another_alias_or_none() {
        let targets = names(&["up.foo"]);
        let old = names(&["up.foo", "old.example", "a.example"]);
        let new = names(&["up.foo", "new.example"]);
        let alias = change("up.foo", Known::Alias(name("new.example")));
        assert!(alias.contradict(&targets, &old, false));
        assert!(!alias.contradict(&targets, &new, false));
        // A Service with addresses of its own has become an alias.
        assert!(alias.contradict(&targets, &targets, false));
        assert!(!alias.contradict(&targets, &targets, true));
        for known in [Known::Absent, Known::Nothing] {
            let gone = change("up.foo", known);
            assert!(gone.contradict(&targets, &new, false));
            assert!(gone.contradict(&targets, &targets, true));
        }
        let other = change("up.bar", Known::Absent);
        assert!(!other.contradict(&targets, &old, false));
        assert!(!other.concern(&targets));
    }

    #[test]
    fn an_answer_of_an_earlier_target_goes_when_the_last_one_appears() {
        let targets = names(&["up.foo", "better.foo"]);
        let earlier = names(&["up.foo", "old.example"]);
        let appeared = change("better.foo", Known::Alias(name("new.example")));
        assert!(appeared.contradict(&targets, &earlier, false));
        let gone = change("better.foo", Known::Absent);
        assert!(!gone.contradict(&targets, &earlier, false));
    }

    #[test]
    fn a_denial_goes_unless_the_target_is_gone() {
        let targets = names(&["up.foo"]);
        let denial = |known| change("up.foo", known).contradict_denial(&targets);
        assert!(denial(Known::Alias(name("new.example"))));
        assert!(denial(Known::Nothing));
        assert!(!denial(Known::Absent));
    }

    #[test]
    fn targets_are_found_as_rules_spell_them() {
        let changes = change("Up.Foo.svc", Known::Absent);
        assert!(changes.has_text("up.foo.svc"));
        assert!(!changes.has_text("up.foo.svc."));
        assert!(changes.concern(&names(&["up.foo.svc"])));
    }
}
