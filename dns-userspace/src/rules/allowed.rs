//! For which namespaces rules lead to a Service: a tenant may have made one that no rule is for.

use super::{NAMESPACE, Rule, RuleSet, clients::Clients, pattern::template_labels};

/// What one rule says of a Service.
enum Word {
    /// It does not lead there.
    Elsewhere,
    /// It leads there, or may.
    Leads,
    /// It leads to Services of this name, and is not for this namespace.
    NotFor,
}

impl RuleSet {
    /// Whether rules lead to Services of this name, and none to that of this namespace: then the first of those rules. `suffix` is what
    /// the names of Services end with, in lower case. In doubt, which also is while the namespaces of a rule are not known, it is `None`.
    pub fn leave_out(&self, service: &str, namespace: &str, suffix: &str) -> Option<&Rule> {
        let mut found = None;
        for rule in self.rules() {
            match rule.word_on(service, namespace, suffix) {
                Word::Leads => return None,
                // Nothing would be answered if it were for this namespace.
                Word::NotFor if rule.is_observing() => {}
                Word::NotFor => {
                    found.get_or_insert(rule);
                }
                Word::Elsewhere => {}
            }
        }
        found
    }

    /// Whether any Service can be left out.
    pub fn has_allow_lists(&self) -> bool {
        let limits = |rule: &Rule| {
            rule.namespaces.is_some()
                || rule.namespace_labels.is_some()
                || matches!(rule.asks.clients, Clients::Namespaces(_))
        };
        self.rules().iter().any(limits)
    }
}

impl Rule {
    fn word_on(&self, service: &str, namespace: &str, suffix: &str) -> Word {
        let cname = self.cname().trim_end_matches('.').to_ascii_lowercase();
        let Some(front) = cname
            .strip_suffix(suffix)
            .and_then(|front| front.strip_suffix('.'))
        else {
            return Word::Elsewhere;
        };
        let labels: Vec<&str> = template_labels(front).collect();
        if let Clients::Claimed(claims) = &self.asks.clients {
            let claimed = claims.services.get(namespace);
            return match claimed.is_some_and(|claimed| claimed == service) {
                true => Word::Leads,
                false => Word::Elsewhere,
            };
        }
        let varies = |label: &str| label.contains('{');
        let [name, place] = labels[..] else {
            // A group of an expression may have several labels.
            let may_lead = labels.iter().any(|label| varies(label)) && self.is_regex();
            return if may_lead {
                Word::Leads
            } else {
                Word::Elsewhere
            };
        };
        if !varies(name) && name != service || !varies(place) && place != namespace {
            return Word::Elsewhere;
        }
        if varies(name) || self.is_regex() || self.is_unknown() {
            return Word::Leads;
        }
        let is_for = match place
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
        {
            Some(NAMESPACE) => self.is_for(namespace),
            Some("client.namespace") => match &self.asks.clients {
                Clients::Namespaces(namespaces) => namespaces.contains(namespace),
                Clients::OwnNamespace => self.is_for(namespace),
                Clients::Any | Clients::Labels(_) | Clients::Claimed(_) => true,
            },
            _ => true,
        };
        if is_for { Word::Leads } else { Word::NotFor }
    }

    /// Whether it selects namespaces that are not known yet.
    fn is_unknown(&self) -> bool {
        self.namespace_labels.is_some() && self.namespaces.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::{ClientsSpec, DEFAULT_TTL, MatchSpec, Mode, RuleSpec, selector::Labels};

    const SUFFIX: &str = "svc.cluster.local";

    fn rule(name: &str, cname: &str, namespaces: &[&str]) -> RuleSpec {
        let names = namespaces.iter().map(|&text| text.to_owned());
        RuleSpec {
            name: name.to_owned(),
            matches: MatchSpec::Pattern(format!("*.{name}.{{namespace}}.example.com")),
            cname: cname.to_owned(),
            ttl_seconds: DEFAULT_TTL,
            namespaces: (!namespaces.is_empty()).then(|| names.collect()),
            ..RuleSpec::default()
        }
    }

    fn left_out(rules: &[RuleSpec], service: &str, namespace: &str) -> Option<String> {
        let rules = RuleSet::compile(rules).unwrap();
        let rule = rules.leave_out(service, namespace, SUFFIX);
        assert!(rule.is_none() || rules.has_allow_lists());
        rule.map(|rule| rule.name().to_owned())
    }

    #[test]
    fn a_service_in_a_namespace_that_no_rule_is_for_is_left_out() {
        const CNAME: &str = "Up.{namespace}.svc.cluster.local.";
        let foo = || rule("kafka", CNAME, &["foo", "team-*"]);
        let left_out_of = |rules: &[RuleSpec], namespace: &str| left_out(rules, "up", namespace);
        assert_eq!(left_out_of(&[foo()], "bar").as_deref(), Some("kafka"));
        assert_eq!(left_out_of(&[foo()], "foo"), None);
        assert_eq!(left_out_of(&[foo()], "team-a"), None);
        assert_eq!(left_out(&[foo()], "other", "bar"), None);
        // Another rule leads there.
        for other in [
            rule("other", CNAME, &["bar"]),
            rule("other", CNAME, &[]),
            rule("other", "up.bar.svc.cluster.local", &["foo"]),
            rule("other", "{namespace}.bar.svc.cluster.local", &["foo"]),
        ] {
            assert_eq!(
                left_out_of(&[foo(), other.clone()], "bar"),
                None,
                "{other:?}"
            );
        }
        for other in [
            rule("other", CNAME, &["baz"]),
            rule("other", "up.{namespace}.svc.other.local", &[]),
            rule("other", "down.{namespace}.svc.cluster.local", &[]),
            rule("other", "up.baz.svc.cluster.local", &["foo"]),
        ] {
            let found = left_out_of(&[foo(), other.clone()], "bar");
            assert_eq!(found.as_deref(), Some("kafka"), "{other:?}");
        }
    }

    #[test]
    fn in_doubt_nothing_is_left_out() {
        const CNAME: &str = "up.{namespace}.svc.cluster.local";
        let mut unknown = rule("kafka", CNAME, &[]);
        unknown.namespace_labels = Some(Labels::from([("a".to_owned(), vec!["b".to_owned()])]));
        assert_eq!(left_out(std::slice::from_ref(&unknown), "up", "bar"), None);
        unknown.namespaces = Some(vec!["foo".to_owned()]);
        assert_eq!(left_out(&[unknown], "up", "bar").as_deref(), Some("kafka"));
        let mut observing = rule("kafka", CNAME, &["foo"]);
        observing.mode = Mode::Observe;
        assert_eq!(left_out(&[observing], "up", "bar"), None);
        let regex = RuleSpec {
            matches: MatchSpec::Regex(r"^.+\.(?P<x>[a-z]+)\.example\.org\.$".to_owned()),
            ..rule("regex", "up.{x}.svc.cluster.local", &[])
        };
        let kafka = rule("kafka", CNAME, &["foo"]);
        assert_eq!(left_out(&[kafka, regex], "up", "bar"), None);
    }

    #[test]
    fn a_list_of_clients_is_one_of_namespaces_where_the_target_is_the_clients_own() {
        let own = |clients| RuleSpec {
            matches: MatchSpec::Pattern("*.example.com".to_owned()),
            clients,
            ..rule("own", "up.{client.namespace}.svc.cluster.local", &[])
        };
        let listed = own(ClientsSpec::Namespaces(vec!["team-*".to_owned()]));
        assert_eq!(
            left_out(std::slice::from_ref(&listed), "up", "bar").as_deref(),
            Some("own")
        );
        assert_eq!(left_out(&[listed], "up", "team-a"), None);
        let labels = Labels::from([("app".to_owned(), vec!["x".to_owned()])]);
        for clients in [ClientsSpec::Any, ClientsSpec::Labels(labels)] {
            assert_eq!(left_out(&[own(clients)], "up", "bar"), None);
        }
    }
}
