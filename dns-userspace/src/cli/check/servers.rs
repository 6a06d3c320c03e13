//! TCP and the existing cache, at each server of the configuration.

use std::{net::SocketAddr, time::Duration};

use dns_common::wire::DNS_PORT;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use super::{super::explain::rcode, finding::Finding};
use crate::{
    app::settings::{Settings, tcp_name},
    datapath::SteerMode,
    discover,
    resolve::{Explanation, explain as chase, wire_name},
    rules::Rule,
};

/// The captured label in a probe; no tenant has this name.
const PROBE: &str = "gregor-check-probe";

/// What TCP will do at each server.
pub async fn tcp(settings: &Settings) -> Vec<Finding> {
    let routes = match discover::Routes::open() {
        Ok(routes) => routes,
        Err(error) => {
            return vec![Finding::error(
                "tcp",
                error.to_string(),
                "gregor needs NETLINK_ROUTE in this network namespace",
            )];
        }
    };
    let mut findings = Vec::new();
    let protects = settings.rules.protected().next().is_some();
    for &server in &settings.servers {
        let what = format!("tcp {server}");
        findings.push(match routes.is_local(server).await {
            Ok(local) => judge_tcp(what, settings.tcp, local, protects),
            Err(error) => Finding::warning(what, error.to_string(), "run this as root"),
        });
    }
    findings
}

fn judge_tcp(what: String, mode: SteerMode, local: bool, protects: bool) -> Finding {
    let consequence = match (local, mode) {
        (true, SteerMode::AfterTruncation) => {
            "a client whose answer does not fit gets TC=1, and the responder answers when it retries over TCP"
        }
        (true, SteerMode::Always) => {
            "the responder answers what a rule matches over TCP and relays the rest"
        }
        (true, SteerMode::Required) => {
            "the responder answers what a rule matches over TCP and relays the rest; without a responder pods have no TCP"
        }
        (false, SteerMode::Required) => {
            "pods have no TCP there: a reply that does not fit reaches them over UDP alone"
        }
        (_, SteerMode::Never) | (false, _) => {
            "TCP reaches the existing cache; an answer that does not fit carries as many addresses as do"
        }
    };
    let place = if local {
        "local to the node"
    } else {
        "not local to the node"
    };
    let detail = format!("{place}, tcp = \"{}\": {consequence}", tcp_name(mode));
    if mode == SteerMode::Required {
        return match local {
            true => Finding::ok(what, detail),
            false => Finding::warning(
                what,
                detail,
                "let pods ask a cache on the node; with tcp = \"always\" TCP passes, and every protected target can be resolved over it",
            ),
        };
    }
    if !protects {
        return Finding::ok(what, detail);
    }
    Finding::warning(
        what,
        format!("{detail}; over TCP pods get the targets that protect_targets refuses"),
        "remove `tcp` from [intercept]: with protect_targets all TCP goes by gregor then",
    )
}

/// Whether the servers answer, and what they say to names that the rules match.
pub async fn cache(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for server in &settings.servers {
        let server = SocketAddr::new(*server, DNS_PORT);
        for rule in settings.rules.rules() {
            let what = format!("cache {}", server.ip());
            let Some(name) = probe_name(rule).filter(|name| {
                // What another rule would take says nothing about this one.
                let matching = settings.rules.matching(&wire_name(name));
                let mut answering = matching
                    .into_iter()
                    .map(|index| &settings.rules.rules()[index])
                    .filter(|rule| !rule.is_observing());
                answering
                    .next()
                    .is_some_and(|first| std::ptr::eq(first, rule))
            }) else {
                findings.push(Finding::ok(
                    what,
                    format!("rule `{}`: no name to ask for can be made up", rule.name()),
                ));
                continue;
            };
            let reply = chase(&name, RecordType::A, server, probe_timeout(settings)).await;
            let reached = reply.steps.first().is_some_and(|step| step.reply.is_ok());
            findings.push(judge_probe(
                what,
                rule.name(),
                rule.is_for_own_namespace(),
                &reply,
            ));
            if !reached {
                // The other rules would wait for the same silence.
                break;
            }
        }
    }
    findings
}

fn probe_timeout(settings: &Settings) -> Duration {
    settings.timeout.min(Duration::from_secs(2))
}

/// A name that a rule matches and no pod asks for; `None` for a regex.
fn probe_name(rule: &Rule) -> Option<Name> {
    if rule.is_regex() {
        return None;
    }
    Name::from_ascii(probe_text(rule.pattern())).ok()
}

fn probe_text(pattern: &str) -> String {
    let labels: Vec<&str> = pattern
        .trim_end_matches('.')
        .split('.')
        .map(|label| match label {
            "*" => PROBE,
            capture if capture.starts_with('{') => PROBE,
            literal => literal,
        })
        .collect();
    format!("{}.", labels.join("."))
}

fn judge_probe(what: String, rule: &str, is_own: bool, reply: &Explanation) -> Finding {
    let Some(step) = reply.steps.first() else {
        return Finding::warning(what, "was not asked", "ask again");
    };
    match &step.reply {
        Err(failure) => Finding::warning(
            what,
            format!("does not answer ({})", failure.label()),
            "run this in the node's network namespace; correct [intercept] servers if the address is wrong",
        ),
        Ok(reply)
            if is_own && reply.rcode == ResponseCode::NoError && !reply.records.is_empty() =>
        {
            Finding::error(
                what,
                format!(
                    "answers names of rule `{rule}` by itself (a template, say): whoever asks for another namespace's \
                     gets its endpoint from there, whatever `clients` says"
                ),
                "remove the template from the cache",
            )
        }
        Ok(reply) if reply.rcode == ResponseCode::NoError && !reply.records.is_empty() => {
            Finding::ok(
                what,
                format!(
                    "answers names of rule `{rule}` by itself (a template, say): queries that pass are answered, also \
                     while gregor is down"
                ),
            )
        }
        Ok(reply) => Finding::ok(
            what,
            format!(
                "says {} to names of rule `{rule}`: while gregor is down, clients go on to the public name; a template \
                 in the cache would prevent that",
                rcode(reply.rcode)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn tcp_is_only_steered_where_it_ends() {
        for (mode, local, part) in [
            (SteerMode::AfterTruncation, true, "gets TC=1"),
            (
                SteerMode::AfterTruncation,
                false,
                "reaches the existing cache",
            ),
            (SteerMode::Always, true, "relays the rest"),
            (SteerMode::Always, false, "reaches the existing cache"),
            (SteerMode::Never, true, "reaches the existing cache"),
            (SteerMode::Required, true, "relays the rest"),
            (SteerMode::Required, false, "no TCP"),
        ] {
            let is_required = mode == SteerMode::Required;
            let finding = judge_tcp("tcp".to_owned(), mode, local, false);
            assert_eq!(finding.level == Level::Ok, local || !is_required);
            assert!(finding.detail.contains(part), "{finding:?}");
            assert_eq!(finding.detail.starts_with("local"), local, "{finding:?}");
            let finding = judge_tcp("tcp".to_owned(), mode, local, true);
            assert_eq!(
                finding.level == Level::Ok,
                local && is_required,
                "{finding:?}"
            );
        }
    }

    #[test]
    fn probes_are_names_that_the_pattern_matches() {
        assert_eq!(
            probe_text("*.kafka.{namespace}.svc.cluster.local"),
            "gregor-check-probe.kafka.gregor-check-probe.svc.cluster.local."
        );
        assert_eq!(probe_text("db.example.com."), "db.example.com.");
    }
}
