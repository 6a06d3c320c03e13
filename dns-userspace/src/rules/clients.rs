//! Whom a rule is for, and what its `cname` takes from who asks.

use std::collections::BTreeMap;

use dns_common::answer::asks;

use super::labels::{Problem, is_rfc1123};
use super::namespaces::Namespaces;
use super::selector::{self, Labels};
use crate::model::Client;

/// The prefix of references to who asks.
const CLIENT: &str = "client.";
/// The reference to the Service that who asks has claimed the rule's names for, behind [`CLIENT`].
const CLAIMED: &str = "claim";
/// The prefix of references to a label of who asks, behind [`CLIENT`].
const LABEL: &str = "label.";

/// The `clients` key as it is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientsSpec {
    #[default]
    Any,
    OwnNamespace,
    /// Names and globs.
    Namespaces(Vec<String>),
    Labels(Labels),
    /// The namespaces that claim the names of the pattern, each for a Service of its own.
    Claimed(Claims),
}

/// What tenants make of a pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// In lower case: a rule's `match`.
    pub pattern: String,
    /// The Service of each namespace.
    pub services: BTreeMap<String, String>,
}

/// Whom a rule is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Clients {
    Any,
    /// Those whose namespace is the one that the name has.
    OwnNamespace,
    Namespaces(Namespaces),
    Labels(Labels),
    Claimed(Claims),
}

/// What a `cname` takes from who asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum FromClient {
    Namespace,
    Label(String),
    /// The Service of its claim.
    Claimed,
}

impl Clients {
    /// Reads the key; says everything that is wrong with it.
    pub fn parse(spec: &ClientsSpec) -> Result<Self, Vec<Problem>> {
        match spec {
            ClientsSpec::Any => Ok(Clients::Any),
            ClientsSpec::OwnNamespace => Ok(Clients::OwnNamespace),
            ClientsSpec::Claimed(claims) => Ok(Clients::Claimed(claims.clone())),
            ClientsSpec::Namespaces(texts) => Namespaces::parse(texts)
                .map(Clients::Namespaces)
                .map_err(|found| found.into_iter().map(|(_, problem)| problem).collect()),
            ClientsSpec::Labels(labels) => {
                let problems: Vec<Problem> = selector::check(labels).collect();
                if problems.is_empty() {
                    Ok(Clients::Labels(labels.clone()))
                } else {
                    Err(problems)
                }
            }
        }
    }

    /// For people; `None` for everybody.
    pub fn text(&self) -> Option<String> {
        match self {
            Clients::Any => None,
            Clients::OwnNamespace => Some("clients in that namespace".to_owned()),
            Clients::Claimed(claims) => Some(match claims.services.len() {
                1 => "clients in the namespace that claims it".to_owned(),
                count => format!("clients in the {count} namespaces that claim it"),
            }),
            Clients::Namespaces(namespaces) => Some(format!(
                "clients in {}",
                namespaces.text().replace('|', " ")
            )),
            Clients::Labels(labels) => Some(format!("clients with {}", selector::text(labels))),
        }
    }

    /// Labels that it looks at.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        let labels = match self {
            Clients::Labels(labels) => Some(labels.keys().map(String::as_str)),
            _ => None,
        };
        labels.into_iter().flatten()
    }

    /// Whether a client is among them, as far as that does not depend on the name that it asks for.
    fn contains(&self, client: &Client) -> bool {
        match self {
            Clients::Any | Clients::OwnNamespace => true,
            Clients::Namespaces(namespaces) => namespaces.contains(&client.namespace),
            // Those of the client, not of the rule: an answer is kept for a client with just these.
            Clients::Claimed(claims) => client.claims.contains_key(&claims.pattern),
            Clients::Labels(labels) => selector::selects(labels, &client.labels),
        }
    }
}

impl FromClient {
    /// What a reference stands for; `None` where it is none to who asks.
    pub fn parse(reference: &str) -> Option<Result<Self, Problem>> {
        let rest = reference.strip_prefix(CLIENT)?;
        if rest == super::NAMESPACE {
            return Some(Ok(FromClient::Namespace));
        }
        if rest == CLAIMED {
            return Some(Ok(FromClient::Claimed));
        }
        let Some(key) = rest.strip_prefix(LABEL) else {
            return Some(Err(Problem::new(
                format!("`{{{reference}}}` is not known of a client"),
                "write `{client.namespace}` or `{client.label.KEY}`",
            )));
        };
        Some(match selector::check_key(key) {
            Some(problem) => Err(problem),
            None => Ok(FromClient::Label(key.to_owned())),
        })
    }

    /// Whether a text between braces is such a reference, right or wrong.
    pub fn is_reference(text: &str) -> bool {
        text.starts_with(CLIENT)
    }

    /// Its text for a client: an RFC 1123 label in lower case, or nothing.
    pub fn of(&self, client: &Client) -> Option<String> {
        let text = match self {
            FromClient::Namespace => &client.namespace,
            FromClient::Label(key) => client.labels.get(key)?,
            // It depends on the rule: see `Asks`.
            FromClient::Claimed => return None,
        };
        is_rfc1123(text.as_bytes()).then(|| text.to_ascii_lowercase())
    }
}

/// Of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Asks {
    pub clients: Clients,
    /// In the order of their places behind the captures.
    pub takes: Vec<FromClient>,
}

impl Asks {
    /// Whether the rule depends on who asks.
    pub fn anything(&self) -> bool {
        self.clients != Clients::Any || !self.takes.is_empty()
    }

    /// What the program is to look for: one of the constants of [`asks`].
    pub fn code(&self) -> u8 {
        let is_for_all = matches!(self.clients, Clients::Any | Clients::OwnNamespace)
            && self.takes.iter().all(|one| *one == FromClient::Namespace);
        match (self.anything(), is_for_all) {
            (false, _) => asks::NOBODY,
            (true, true) => asks::KNOWN,
            (true, false) => asks::PERMITTED,
        }
    }

    /// Whether the rule is for a client, as far as that does not depend on the name.
    pub fn permits(&self, client: &Client) -> bool {
        self.clients.contains(client) && self.values(client).is_some()
    }

    /// What `cname` takes from a client; `None` where it has not all of it.
    pub fn values(&self, client: &Client) -> Option<Vec<String>> {
        let takes = self.takes.iter();
        takes
            .map(|one| match (one, &self.clients) {
                (FromClient::Claimed, Clients::Claimed(claims)) => {
                    client.claims.get(&claims.pattern).cloned()
                }
                _ => one.of(client),
            })
            .collect()
    }

    /// Labels that the rule looks at.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        let taken = self.takes.iter().filter_map(|one| match one {
            FromClient::Label(key) => Some(key.as_str()),
            FromClient::Namespace | FromClient::Claimed => None,
        });
        self.clients.labels().chain(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(namespace: &str, labels: &[(&str, &str)]) -> Client {
        let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
        Client {
            namespace: namespace.to_owned(),
            labels: labels.iter().map(owned).collect(),
            ..Client::default()
        }
    }

    #[test]
    fn what_cannot_be_a_label_is_refused() {
        for spec in [
            ClientsSpec::Labels(Labels::new()),
            ClientsSpec::Labels([("a".to_owned(), Vec::new())].into()),
            ClientsSpec::Labels([("a b".to_owned(), vec!["x".to_owned()])].into()),
            ClientsSpec::Namespaces(Vec::new()),
            ClientsSpec::Namespaces(vec!["a_b".to_owned()]),
        ] {
            assert!(Clients::parse(&spec).is_err());
        }
    }

    #[test]
    fn only_labels_of_names_are_taken() {
        let tenant = FromClient::parse("client.label.example.com/tenant").unwrap();
        let tenant = tenant.unwrap();
        let of = |value| tenant.of(&client("foo", &[("example.com/tenant", value)]));
        assert_eq!(of("Tenant-1"), Some("tenant-1".to_owned()));
        for bad in ["", "a.b", "a_b", "-a"] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert_eq!(tenant.of(&client("foo", &[])), None);
        assert!(FromClient::parse("namespace").is_none());
        assert!(FromClient::parse("client.pod").unwrap().is_err());
        assert!(FromClient::parse("client.label.").unwrap().is_err());
    }

    #[test]
    fn a_rule_asks_for_no_more_than_it_needs() {
        let code = |clients, takes| Asks { clients, takes }.code();
        let label = FromClient::Label("a".to_owned());
        assert_eq!(code(Clients::Any, vec![]), asks::NOBODY);
        assert_eq!(code(Clients::OwnNamespace, vec![]), asks::KNOWN);
        assert_eq!(code(Clients::Any, vec![FromClient::Namespace]), asks::KNOWN);
        assert_eq!(code(Clients::Any, vec![label]), asks::PERMITTED);
        let named = Namespaces::parse(&["foo".to_owned()]).unwrap();
        assert_eq!(code(Clients::Namespaces(named), vec![]), asks::PERMITTED);
    }
}
