//! Which names a run asks for: matched, foreign or a mix of both, from a set that can be warmed or never asked before.

use std::iter;

/// What part of the queries a rule of gregor matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Traffic {
    Matched,
    Foreign,
    /// Matched queries among a hundred.
    Mixed(u8),
}

impl Traffic {
    pub fn label(self) -> String {
        match self {
            Self::Matched => "matched".to_owned(),
            Self::Foreign => "foreign".to_owned(),
            Self::Mixed(percent) => format!("mixed-{percent}"),
        }
    }

    /// Whether the query at this place of a sequence is a matched one; the mix is even, not random.
    fn is_matched(self, index: usize) -> bool {
        match self {
            Self::Matched => true,
            Self::Foreign => false,
            Self::Mixed(percent) => {
                let percent = usize::from(percent);
                (index + 1) * percent / 100 > index * percent / 100
            }
        }
    }
}

/// The matched part of a broker's name, behind its first label and before the namespace.
const BROKERS: &str = "eu-west-1.aws.private.kafka.managed";
const CLUSTER: &str = "svc.cluster.local";

/// Names of a run, without their final dot.
#[derive(Clone, Debug)]
pub struct Names {
    pub traffic: Traffic,
    /// Kubernetes namespaces that matched names are spread over.
    pub namespaces: Vec<String>,
    /// Different first labels; every name is asked equally often.
    pub labels: usize,
    /// Number of the first of them: another one makes names that were not asked for before.
    pub first: usize,
    /// In place of the labels between the first one and the namespace, and of those behind it.
    pub around: (String, String),
    /// Length of matched names in presentation format; shorter ones get longer first labels.
    pub length: Option<usize>,
}

impl Names {
    /// `labels` names of one namespace.
    pub fn of(traffic: Traffic, namespace: &str, labels: usize) -> Self {
        Self {
            traffic,
            namespaces: vec![namespace.to_owned()],
            labels,
            first: 0,
            around: (BROKERS.to_owned(), CLUSTER.to_owned()),
            length: None,
        }
    }

    /// The names in the order in which they are asked.
    pub fn list(&self, count: usize) -> Vec<String> {
        (0..count).map(|index| self.name(index)).collect()
    }

    fn name(&self, index: usize) -> String {
        let label = format!("lkc-{}", self.first + index % self.labels.max(1));
        if !self.traffic.is_matched(index) {
            return format!("{label}.example.com");
        }
        let namespace = &self.namespaces[index % self.namespaces.len()];
        let (before, behind) = &self.around;
        let name = format!("{label}.{before}.{namespace}.{behind}");
        match self.length {
            Some(length) => lengthen(&name, length),
            None => name,
        }
    }
}

/// Puts labels in front until the name has `length` characters; a name that is longer stays as it is.
fn lengthen(name: &str, length: usize) -> String {
    let mut name = name.to_owned();
    while name.len() < length {
        // A label and its dot; never so long that one character alone would be left.
        let missing = length - name.len();
        let label = match missing {
            1 => {
                name.insert(0, 'x');
                continue;
            }
            2..=41 => missing - 1,
            _ => 39,
        };
        name.insert(0, '.');
        name.insert_str(0, &iter::repeat_n('x', label).collect::<String>());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mix_has_its_share() {
        let matched = |traffic: Traffic| (0..1000).filter(|&i| traffic.is_matched(i)).count();
        assert_eq!(matched(Traffic::Matched), 1000);
        assert_eq!(matched(Traffic::Foreign), 0);
        assert_eq!(matched(Traffic::Mixed(1)), 10);
        assert_eq!(matched(Traffic::Mixed(50)), 500);
    }

    #[test]
    fn names_have_the_length_that_is_asked_for() {
        for length in 70..=250 {
            let names = Names {
                length: Some(length),
                ..Names::of(Traffic::Matched, "foo", 10)
            };
            for name in names.list(10) {
                assert_eq!(name.len(), length, "{name}");
                assert!(name.split('.').all(|label| (1..64).contains(&label.len())));
                assert!(name.ends_with(".aws.private.kafka.managed.foo.svc.cluster.local"));
            }
        }
    }

    #[test]
    fn names_of_another_start_are_new() {
        let hot = Names::of(Traffic::Matched, "foo", 100);
        let cold = Names {
            first: 100,
            ..hot.clone()
        };
        let hot = hot.list(100);
        assert!(cold.list(100).iter().all(|name| !hot.contains(name)));
    }

    #[test]
    fn every_name_is_asked_equally_often() {
        let names = Names::of(Traffic::Matched, "foo", 3).list(9);
        for name in &names[..3] {
            assert_eq!(names.iter().filter(|other| *other == name).count(), 3);
        }
    }
}
