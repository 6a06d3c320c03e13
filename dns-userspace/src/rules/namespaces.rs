//! The namespaces that a rule is for: names and globs of RFC 1123 labels, matched by text and as a language of the matcher.

use std::collections::BTreeSet;

use regex_syntax::hir::Hir;

use super::labels::{MAX_LABEL, Problem, is_rfc1123};
use super::language::{class, repeat};

/// What `*` stands for in a glob: any number of letters, digits and hyphens, as far as the whole is a label.
const STAR: char = '*';

/// A list of them, in order; a namespace is in it when one of them matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Namespaces(Vec<LabelGlob>);

/// A label with `*` anywhere in it: the literal pieces around those, in lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct LabelGlob(Vec<String>);

impl Namespaces {
    /// Reads a list; says everything that is wrong with it, with the index of each.
    pub fn parse(texts: &[String]) -> Result<Self, Vec<(usize, Problem)>> {
        let mut problems = Vec::new();
        let mut globs = Vec::new();
        if texts.is_empty() {
            let problem = Problem::new(
                "the list is empty, so the rule is for no namespace",
                "name some, as in [\"foo\", \"team-*\"], or leave the key out for all",
            );
            return Err(vec![(0, problem)]);
        }
        for (index, text) in texts.iter().enumerate() {
            match LabelGlob::parse(text) {
                Ok(glob) => globs.push(glob),
                Err(problem) => problems.push((index, problem)),
            }
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        globs.sort();
        globs.dedup();
        Ok(Self(globs))
    }

    /// Those of these names, which may be none; what is no RFC 1123 label in lower case is left out.
    pub fn of_names(names: &BTreeSet<String>) -> Self {
        let is_name = |name: &&String| {
            is_rfc1123(name.as_bytes()) && !name.bytes().any(|byte| byte.is_ascii_uppercase())
        };
        let names = names.iter().filter(is_name);
        Self(names.map(|name| LabelGlob(vec![name.clone()])).collect())
    }

    /// Whether a label, in any case, is one of them.
    pub fn contains(&self, label: &str) -> bool {
        let label = label.to_ascii_lowercase();
        if !is_rfc1123(label.as_bytes()) {
            return false;
        }
        // There may be thousands of names.
        let mut globs = self.0.iter().filter(|glob| glob.0.len() > 1);
        globs.any(|glob| glob.matches(&label))
            || self.0.binary_search(&LabelGlob(vec![label])).is_ok()
    }

    /// Whether each of `others` is one of these. Conservative: `false` may be wrong.
    pub fn covers(&self, others: &Self) -> bool {
        others.0.iter().all(|other| {
            self.0.contains(other) || matches!(&other.0[..], [label] if self.contains(label))
        })
    }

    /// All of them as one language, in the form of [`super::table`].
    pub fn language(&self) -> Hir {
        let (names, globs): (Vec<&LabelGlob>, Vec<&LabelGlob>) =
            self.0.iter().partition(|glob| glob.0.len() == 1);
        let names = names.iter().flat_map(|name| &name.0);
        let mut names: Vec<&[u8]> = names.map(String::as_bytes).collect();
        names.sort_by(|a, b| a.iter().rev().cmp(b.iter().rev()));
        let globs = globs.into_iter().map(LabelGlob::language);
        Hir::alternation(std::iter::once(by_ends(&names)).chain(globs).collect())
    }

    /// The same for two lists that mean the same.
    pub fn text(&self) -> String {
        let globs: Vec<String> = self.0.iter().map(|glob| glob.0.join("*")).collect();
        globs.join("|")
    }
}

/// Names in the order of their reversed bytes, as a tree of their ends: matching goes backwards, and thousands of names side by side
/// would each be a path of its own to the compiler. No name twice.
fn by_ends(names: &[&[u8]]) -> Hir {
    let [first, .., last] = names else {
        let only = names.first().map(|name| literal(name));
        return only.unwrap_or_else(Hir::fail);
    };
    // What the first and the last have in common, all have.
    let common = first.iter().rev().zip(last.iter().rev());
    let common = common.take_while(|(a, b)| a == b).count();
    let end = literal(&first[first.len() - common..]);
    let rests: Vec<&[u8]> = names
        .iter()
        .map(|name| &name[..name.len() - common])
        .collect();
    let branches = rests.chunk_by(|a, b| a.last() == b.last());
    let branches = branches.map(|branch| match branch {
        [[]] => Hir::empty(),
        branch => by_ends(branch),
    });
    Hir::concat(vec![Hir::alternation(branches.collect()), end])
}

/// In any case.
fn literal(text: &[u8]) -> Hir {
    let bytes = text.iter().map(|expected| {
        let expected = expected.to_ascii_lowercase();
        class(move |byte| byte.to_ascii_lowercase() == expected)
    });
    Hir::concat(bytes.collect())
}

impl LabelGlob {
    fn parse(text: &str) -> Result<Self, Problem> {
        let is_possible = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == STAR;
        let remedy = "write the name of a namespace, or a part of one with `*`, as in \"team-*\"";
        if let Some(c) = text.chars().find(|&c| !is_possible(c)) {
            return Err(Problem::new(format!("`{c}` in \"{text}\""), remedy));
        }
        let mut glob = text.to_ascii_lowercase();
        while glob.contains("**") {
            glob = glob.replace("**", "*");
        }
        let pieces: Vec<String> = glob.split(STAR).map(str::to_owned).collect();
        let shortest: usize = pieces.iter().map(String::len).sum();
        let is_cut = text.is_empty() || text.starts_with('-') || text.ends_with('-');
        if is_cut || shortest > MAX_LABEL {
            return Err(Problem::new(
                format!("no namespace can be called \"{text}\""),
                remedy,
            ));
        }
        Ok(Self(pieces))
    }

    /// `label` is an RFC 1123 label in lower case.
    fn matches(&self, label: &str) -> bool {
        let [first, middle @ .., last] = &self.0[..] else {
            return self.0.first().is_some_and(|only| only == label);
        };
        let Some(rest) = label
            .strip_prefix(first.as_str())
            .and_then(|rest| rest.strip_suffix(last.as_str()))
        else {
            return false;
        };
        // The leftmost place of each piece leaves most to the next.
        middle
            .iter()
            .try_fold(rest, |rest, piece| {
                rest.find(piece.as_str())
                    .map(|at| &rest[at + piece.len()..])
            })
            .is_some()
    }

    fn language(&self) -> Hir {
        let inner = || class(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        let end = || class(|byte| byte.is_ascii_alphanumeric());
        let any = || Hir::repetition(repeat(0, None, inner()));
        let literal = |text: &str| literal(text.as_bytes());
        let [first, middle @ .., last] = &self.0[..] else {
            return literal(self.0.first().map_or("", String::as_str));
        };
        // A label has a letter or digit at both of its ends: where a star is there, it has it, unless it is empty.
        let mut parts = Vec::new();
        let is_only_star = middle.is_empty() && first.is_empty() && last.is_empty();
        if is_only_star {
            let rest = Hir::concat(vec![any(), end()]);
            return Hir::concat(vec![end(), Hir::repetition(repeat(0, Some(1), rest))]);
        }
        let second = middle.first().unwrap_or(last);
        let one_before_last = middle.last().unwrap_or(first);
        if first.is_empty() {
            let star = Hir::concat(vec![end(), any()]);
            let least = u32::from(second.starts_with('-'));
            parts.push(Hir::repetition(repeat(least, Some(1), star)));
        } else {
            parts.push(literal(first));
        }
        for (index, piece) in middle.iter().enumerate() {
            if index > 0 || !first.is_empty() {
                parts.push(any());
            }
            parts.push(literal(piece));
        }
        if last.is_empty() {
            let star = Hir::concat(vec![any(), end()]);
            let least = u32::from(one_before_last.ends_with('-'));
            parts.push(Hir::repetition(repeat(least, Some(1), star)));
        } else {
            if !middle.is_empty() || !first.is_empty() {
                parts.push(any());
            }
            parts.push(literal(last));
        }
        Hir::concat(parts)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use regex_automata::{Anchored, Input, meta};

    use super::*;

    fn list(texts: &[&str]) -> Namespaces {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        Namespaces::parse(&texts).unwrap()
    }

    fn accepts(namespaces: &Namespaces, label: &str) -> bool {
        let regex = meta::Builder::new()
            .configure(meta::Config::new().utf8_empty(false))
            .build_from_hir(&namespaces.language())
            .unwrap();
        let input = Input::new(label.as_bytes()).anchored(Anchored::Yes);
        // The longest match is not what leftmost-first finds: try for the whole.
        let whole = Hir::concat(vec![
            namespaces.language(),
            Hir::look(regex_syntax::hir::Look::End),
        ]);
        let whole = meta::Builder::new()
            .configure(meta::Config::new().utf8_empty(false))
            .build_from_hir(&whole)
            .unwrap();
        let found = whole.find(input.clone()).is_some();
        assert!(!found || regex.find(input).is_some());
        found
    }

    #[test]
    fn names_and_globs() {
        for (glob, yes, no) in [
            ("foo", vec!["foo", "FOO"], vec!["fo", "fooo", "xfoo"]),
            (
                "team-*",
                vec!["team-a", "Team-a-b"],
                vec!["team-", "team", "xteam-a", "team-a-"],
            ),
            ("team*", vec!["team", "teams", "team-a"], vec!["tea"]),
            ("*-prod", vec!["a-prod", "a-b-prod"], vec!["-prod", "prod"]),
            ("*prod", vec!["prod", "a-prod", "aprod"], vec!["-prod"]),
            ("a*z", vec!["az", "a-z", "abz"], vec!["a", "z", "za"]),
            ("a-*-z", vec!["a--z", "a-b-z"], vec!["a-z", "a-b-"]),
            ("*a*", vec!["a", "ba", "ab", "bab"], vec!["b", "-a", "a-"]),
            ("*-*", vec!["a-b", "a--b"], vec!["a", "-", "a-"]),
            (
                "*",
                vec!["a", "ab", "a-b"],
                vec!["", "-", "a-", "-a", "a_b"],
            ),
            ("a**b", vec!["ab", "axb"], vec!["a"]),
        ] {
            let namespaces = list(&[glob]);
            for label in yes {
                assert!(namespaces.contains(label), "{glob} {label}");
                assert!(accepts(&namespaces, label), "{glob} {label}");
            }
            for label in no {
                assert!(!namespaces.contains(label), "{glob} {label}");
                assert!(!accepts(&namespaces, label), "{glob} {label}");
            }
        }
    }

    #[test]
    fn what_cannot_be_a_namespace_is_refused() {
        let long = "a".repeat(64);
        for text in ["", "-a", "a-", "a_b", "a.b", "ä", "{x}", "a?", &long] {
            let problems = Namespaces::parse(&[text.to_owned()]).unwrap_err();
            assert_eq!(problems.len(), 1, "{text}");
        }
        assert!(Namespaces::parse(&[]).is_err());
        let both = ["ok".to_owned(), "a_b".to_owned()];
        assert_eq!(Namespaces::parse(&both).unwrap_err()[0].0, 1);
    }

    #[test]
    fn a_list_covers_what_it_names() {
        let all = list(&["team-*", "foo"]);
        assert!(all.covers(&list(&["foo"])));
        assert!(all.covers(&list(&["team-a", "team-*"])));
        assert!(!all.covers(&list(&["bar"])));
        assert!(!list(&["foo"]).covers(&all));
        assert_eq!(list(&["b", "a", "a"]), list(&["A", "b"]));
    }

    proptest! {
        /// The same for many names, which the language has as a tree.
        #[test]
        fn the_language_has_every_name(names in proptest::collection::vec("[ab]{1,4}", 0..12), label in "[ab]{0,5}") {
            let names: BTreeSet<String> = names.into_iter().collect();
            let namespaces = Namespaces::of_names(&names);
            for name in names.iter().chain([&label]) {
                prop_assert_eq!(names.contains(name), namespaces.contains(name));
                prop_assert_eq!(names.contains(name), accepts(&namespaces, name), "{}", name);
            }
        }

        /// The text and the language agree on every label.
        #[test]
        fn the_language_is_what_the_text_says(glob in "[ab*-]{1,6}", label in "[ab-]{0,7}") {
            if let Ok(namespaces) = Namespaces::parse(&[glob]) {
                prop_assert_eq!(namespaces.contains(&label), accepts(&namespaces, &label));
            }
        }
    }
}
