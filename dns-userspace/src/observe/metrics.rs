//! The one definition of every metric: `/metrics`, the counts of `gregor status` and docs/metrics.md come from it.

use std::collections::BTreeMap;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use super::status::{ProgramStatus, Status};

/// The content type of `/metrics`.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PREFIX: &str = "gregor";

/// A family of series, read from a [`Status`].
pub struct Metric {
    /// Without the prefix, and without the suffix that OpenMetrics gives to counters.
    name: &'static str,
    kind: MetricType,
    labels: &'static [&'static str],
    help: &'static str,
    /// What an operator does about it.
    #[cfg_attr(not(test), expect(dead_code, reason = "a test writes docs/metrics.md"))]
    advice: &'static str,
    /// The part of `gregor status` that shows it, and what its lines begin with.
    shown: Option<(Section, &'static str)>,
    read: fn(&Status) -> Vec<Sample<'_>>,
}

/// Values of the labels, and the value: as large as counts get, an `f64` is exact.
type Sample<'a> = (Vec<&'a str>, f64);

/// The parts of `gregor status` that are counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    Requests,
    Observed,
    OtherServers,
    Answers,
    Responder,
    Tcp,
    Kubernetes,
}

impl Metric {
    const fn counter(
        name: &'static str,
        help: &'static str,
        read: fn(&Status) -> Vec<Sample<'_>>,
    ) -> Metric {
        Metric {
            name,
            kind: MetricType::Counter,
            labels: &[],
            help,
            advice: "",
            shown: None,
            read,
        }
    }

    const fn gauge(
        name: &'static str,
        help: &'static str,
        read: fn(&Status) -> Vec<Sample<'_>>,
    ) -> Metric {
        Metric {
            kind: MetricType::Gauge,
            ..Metric::counter(name, help, read)
        }
    }

    const fn by(self, labels: &'static [&'static str]) -> Metric {
        Metric { labels, ..self }
    }

    const fn advice(self, advice: &'static str) -> Metric {
        Metric { advice, ..self }
    }

    const fn shown(self, section: Section, line: &'static str) -> Metric {
        Metric {
            shown: Some((section, line)),
            ..self
        }
    }

    /// In seconds and bytes, as the name says.
    #[cfg(test)]
    fn unit(&self) -> &'static str {
        match self.name.rsplit('_').next() {
            Some("seconds") => "seconds",
            Some("bytes") => "bytes",
            _ => "",
        }
    }
}

/// A metric without labels.
fn one(value: f64) -> Vec<Sample<'static>> {
    vec![(Vec::new(), value)]
}

fn count(value: u64) -> Vec<Sample<'static>> {
    one(value as f64)
}

fn yes(value: bool) -> Vec<Sample<'static>> {
    one(f64::from(u8::from(value)))
}

/// A metric with one label.
fn each<L: AsRef<str>>(counts: &BTreeMap<L, u64>) -> Vec<Sample<'_>> {
    let counts = counts.iter();
    counts
        .map(|(label, count)| (vec![label.as_ref()], *count as f64))
        .collect()
}

fn fixed<const N: usize>(counts: [(&'static str, u64); N]) -> Vec<Sample<'static>> {
    counts
        .map(|(label, count)| (vec![label], count as f64))
        .into()
}

/// All of them.
pub const METRICS: &[Metric] = &[
    Metric {
        kind: MetricType::Info,
        ..Metric::gauge("build", "What is running", |status| {
            vec![(vec![status.version.as_str()], 1.0)]
        })
        .by(&["version"])
        .advice("several versions on one cluster for long: a rollout is stuck")
    },
    Metric::gauge("uptime_seconds", "Time since the start", |status| {
        one(status.uptime_seconds)
    })
    .advice("falls back again and again: the agent is restarted; its log says why"),
    Metric::counter(
        "dns_requests",
        "Requests seen by the programs, by verdict and reason",
        |status| {
            let requests = status.kernel.requests.iter();
            requests
                .map(|counter| {
                    let labels = vec![counter.verdict.as_str(), counter.reason.as_str()];
                    (labels, counter.count as f64)
                })
                .collect()
        },
    )
    .by(&["verdict", "reason"])
    .shown(Section::Requests, "")
    .advice(
        "`answered` and `taken` are gregor's share. `pass` with `no_responder`, `ring_full` or `rate_limited`: the cache decided \
         about a name that a rule matches; see CPU limits and `[limits]`. With `protect_targets` the programs count a client's own \
         target as `no_target`",
    ),
    Metric::counter(
        "dns_other_server_requests",
        "Requests to port 53 of addresses that are not among the configured servers",
        |status| each(&status.kernel.other_servers),
    )
    .by(&["server"])
    .shown(Section::OtherServers, "")
    .advice("add the address to `[intercept] servers` if pods have it in their resolv.conf"),
    Metric::counter(
        "observed_requests",
        "Requests whose name a rule in `mode = \"observe\"` matched, by rule",
        |status| each(&status.kernel.observed),
    )
    .by(&["rule"])
    .shown(Section::Observed, "rule")
    .advice("what the rule would take if it answered"),
    Metric::counter("kernel_answers", "Answers given by the programs, by rule", |status| {
        each(&status.kernel.answers.rules)
    })
    .by(&["rule"])
    .shown(Section::Answers, "rule")
    .advice("none for a rule that is in use: its answers do not stay, see `gregor_kernel_unplaced_total`"),
    Metric::counter(
        "kernel_namespace_answers",
        "Answers given by the programs, by the namespace that a rule captured",
        |status| each(&status.kernel.answers.namespaces),
    )
    .by(&["namespace"])
    .advice("the namespaces with most queries; those past the first 1,024 are `_other`"),
    Metric::gauge(
        "kernel_entries",
        "Entries in the tables of the program, by table",
        |status| {
            let answers = &status.kernel.answers;
            fixed([
                ("answers", answers.entries),
                ("no_target", answers.no_target),
            ])
        },
    )
    .by(&["table"])
    .advice("near the room that `gregor check` states: raise `[limits] answers`"),
    Metric::counter(
        "kernel_refreshes",
        "Refreshes that the programs asked for",
        |status| count(status.kernel.answers.refreshes),
    )
    .shown(Section::Answers, "refreshes")
    .advice("about one for each entry in use and its TTL"),
    Metric::counter(
        "kernel_expired",
        "Expired answers that the programs gave while no responder was running",
        |status| count(status.kernel.answers.expired),
    )
    .shown(Section::Answers, "expired")
    .advice("grows outside of upgrades: the responder hangs or is down"),
    Metric::counter(
        "kernel_unplaced",
        "Answers for which the table of the program had no space",
        |status| count(status.kernel.answers.unplaced),
    )
    .shown(Section::Answers, "unplaced")
    .advice("grows: raise `[limits] answers`"),
    Metric::counter(
        "responder_queries",
        "Queries that reached the responder",
        |status| count(status.responder.queries),
    )
    .shown(Section::Responder, "queries")
    .advice("should be a small part of the matched ones: the programs answer the rest"),
    Metric::counter(
        "dns_responses",
        "Replies sent to pods by the responder, by rcode",
        |status| each(&status.responder.replies),
    )
    .by(&["rcode"])
    .shown(Section::Responder, "reply")
    .advice("SERVFAIL: see `gregor_chase_failures_total` and `gregor_broken_chains_total`. REFUSED: with `protect_targets`, targets of other namespaces"),
    Metric::counter(
        "responder_passed_on",
        "Queries that the responder passed on to the existing cache, by reason",
        |status| each(&status.responder.passed_on),
    )
    .by(&["reason"])
    .shown(Section::Responder, "passed on")
    .advice("`no_target` and `own_target` are normal. `busy`, `rate_limited`: see `[limits]`. `local_failure`: descriptors, memory or routes of the node"),
    Metric::counter("chases", "Look-ups of a target at the upstream", |status| {
        count(status.responder.chases)
    })
    .shown(Section::Responder, "chases")
    .advice("many times the targets in use within a TTL: short TTLs at the upstream"),
    Metric::gauge("chases_in_flight", "Look-ups in flight", |status| {
        count(status.responder.chases_in_flight)
    })
    .shown(Section::Responder, "chases in flight")
    .advice("stays high: the upstream is slow"),
    Metric::counter("chase_failures", "Look-ups that failed, by reason", |status| {
        each(&status.responder.chase_failures)
    })
    .by(&["reason"])
    .shown(Section::Responder, "chase failed")
    .advice("`gregor explain NAME` repeats a look-up step by step. `timeout`, `network`: the upstream or the way to it"),
    Metric::counter(
        "broken_chains",
        "Targets that exist while the end of their chain does not",
        |status| count(status.responder.broken_chains),
    )
    .shown(Section::Responder, "broken chains")
    .advice("the log names the namespace: its Service points to a name that does not exist"),
    Metric::counter(
        "targets_without_address",
        "Targets that exist without an address of either family, such as an ExternalName that is an IP address",
        |status| count(status.responder.targets_without_address),
    )
    .shown(Section::Responder, "no address")
    .advice("the log names the namespace: an `externalName` must be a name"),
    Metric::counter(
        "stale_answers",
        "Last good answers given, to a pod or to its program, because the upstream failed",
        |status| count(status.responder.stale_answers),
    )
    .shown(Section::Responder, "stale answers")
    .advice("tenants notice nothing yet: repair the upstream within `[answer] serve_stale`"),
    Metric::counter(
        "responder_unanswered",
        "Queries for names that exist, left without a reply because the node could not look them up",
        |status| count(status.responder.unanswered),
    )
    .shown(Section::Responder, "unanswered")
    .advice("descriptors, memory or routes of the node, or `[limits]`"),
    Metric::counter(
        "responder_refreshes",
        "Look-ups that refresh published answers",
        |status| count(status.responder.refreshes),
    )
    .shown(Section::Responder, "refreshes"),
    Metric::counter(
        "responder_refreshes_refused",
        "The same, refused because too many were under way",
        |status| count(status.responder.refreshes_refused),
    )
    .shown(Section::Responder, "refreshes refused")
    .advice("the answers run out and are looked up when they are asked for: a slower first answer, nothing else"),
    Metric::counter(
        "send_errors",
        "Replies and queries passed on that could not be sent",
        |status| count(status.responder.send_errors),
    )
    .shown(Section::Responder, "send errors")
    .advice("a few when pods end; many: the log at `debug` has the error"),
    Metric::counter(
        "interface_resyncs",
        "Errors of rtnetlink, after each of which all interfaces were listed again",
        |status| count(status.interface_resyncs),
    )
    .shown(Section::Responder, "interface resyncs")
    .advice("now and then on a node with many pods that come and go; steadily: too little CPU"),
    Metric::counter("panics", "Tasks that panicked", |status| count(status.panics))
        .shown(Section::Responder, "panics")
        .advice("0 always; report the line of the log"),
    Metric::gauge("store_entries", "Entries kept, by store", |status| {
        each(&status.responder.stores)
    })
    .by(&["store"])
    .shown(Section::Responder, "entries:")
    .advice("memory of the responder; bounded by `[limits]`"),
    Metric::counter(
        "namespace_responses",
        "Replies by the namespace that a rule captured, by result",
        |status| {
            let namespaces = status.responder.namespaces.iter();
            namespaces
                .flat_map(|(namespace, results)| {
                    results
                        .iter()
                        .map(move |(result, count)| (vec![&**namespace, &**result], *count as f64))
                })
                .collect()
        },
    )
    .by(&["namespace", "result"])
    .advice("whose target fails; namespaces past the first 1,000, and names without a target, are `_other`"),
    Metric::counter(
        "truncated_responses",
        "Replies with TC=1, to clients whose TCP is then steered",
        |status| count(status.responder.truncated),
    )
    .shown(Section::Tcp, "replies with TC"),
    Metric::counter(
        "tcp_connections",
        "TCP connections steered to the responder",
        |status| count(status.tcp.counters.connections),
    )
    .shown(Section::Tcp, "connections"),
    Metric::counter(
        "tcp_connections_refused",
        "Steered connections that were closed at once because there were too many",
        |status| count(status.tcp.counters.refused),
    )
    .shown(Section::Tcp, "refused")
    .advice("one client opens too many (32 at a time; 256 per pod interface, 1,024 in all)"),
    Metric::gauge("tcp_connections_open", "Open steered TCP connections", |status| {
        count(status.tcp.counters.open)
    })
    .shown(Section::Tcp, "open"),
    Metric::counter(
        "tcp_queries",
        "Messages over steered connections, by result",
        |status| {
            let tcp = &status.tcp.counters;
            fixed([
                ("answered", tcp.answered),
                ("relayed", tcp.relayed),
                ("lost", tcp.lost),
                ("unread", tcp.unread),
            ])
        },
    )
    .by(&["result"])
    .shown(Section::Tcp, "")
    .advice(
        "`lost` with a client that stays: the server that it asked is slow over TCP. `unread`, with `protect_targets`: what may hide \
         the name of a target, and closes its connection",
    ),
    Metric::gauge(
        "attached_interfaces",
        "Interfaces with a program on them",
        |status| one(status.attached() as f64),
    )
    .advice("0 on a node with pods: see `[intercept] interfaces`"),
    Metric::gauge(
        "unattached_interfaces",
        "Interfaces that are wanted and could not be attached to",
        |status| one((status.interfaces.len() - status.attached()) as f64),
    )
    .advice("not 0: their pods are not served; `gregor status` says why"),
    Metric::gauge(
        "identity_interfaces",
        "Interfaces by the source that identifies their pod, or by why it is not identified",
        |status| each(&status.identity.interfaces),
    )
    .by(&["state"])
    .advice("`ambiguous`, `foreign_address`, `disagrees`, `changed`: `gregor status` says which interfaces; see [identity.md](identity.md)"),
    Metric::gauge(
        "claims_accepted",
        "Names that tenants claim and get, over the Services of the namespaces that have pods here",
        |status| {
            let claims = status.claims.claims.iter();
            one(claims.map(|claim| claim.accepted.len()).sum::<usize>() as f64)
        },
    ),
    Metric::gauge(
        "claims_refused",
        "Names that tenants claim and do not get, by reason",
        |status| each(&status.claims.refused),
    )
    .by(&["reason"])
    .advice("the tenant's Service has an Event that says which; `no_room`: more namespaces on the node than it has rules for; see [identity.md](identity.md#self-service)"),
    Metric::gauge("rules", "Rules in force", |status| {
        one(status.rules.len() as f64)
    }),
    Metric::gauge(
        "heartbeat_age_seconds",
        "Time since the ring loop last renewed the programs' deadline",
        |status| status.heartbeat_age_seconds.map_or_else(Vec::new, one),
    )
    .advice("over 1: unknown names pass to the cache; over 10: `/healthz` fails"),
    Metric::gauge("ready", "1 when /readyz says so", |status| {
        yes(status.vital().not_ready().is_empty())
    })
    .advice("0 for long: `/readyz` and `gregor status` say what is missing"),
    Metric::counter("config_loads", "Configurations loaded, by result", |status| {
        fixed([
            ("success", status.config.loads),
            ("failure", status.config.failures),
        ])
    })
    .by(&["result"]),
    Metric::gauge(
        "config_last_load_successful",
        "0 when the last configuration was refused and the previous one stays in force",
        |status| yes(status.config.error.is_none()),
    )
    .advice("0: `gregor check --config FILE` lists every error"),
    Metric::gauge(
        "program_verified_instructions",
        "Instructions that the verifier walked",
        |status| program(status, |program| program.verified_instructions as f64),
    )
    .advice("the kernel refuses more than 1,000,000"),
    Metric::gauge(
        "program_load_seconds",
        "Time that loading the program took",
        |status| program(status, |program| program.load_seconds),
    ),
    Metric::gauge("table_bytes", "Memory of the matcher", |status| {
        program(status, |program| program.table_bytes as f64)
    })
    .advice("grows with the rules; `gregor check` says what a configuration takes"),
    Metric::counter(
        "programs_removed",
        "Programs that another process detached from an interface; they are attached again",
        |status| count(status.kernel.removed),
    )
    .advice("grows: another agent and gregor fight for the hook, see [life.md](life.md)"),
    Metric::gauge(
        "programs_in_front",
        "Programs that get the frames of an interface before gregor's, by hook",
        |status| {
            ["tcx", "clsact"]
                .map(|hook| (vec![hook], status.in_front(hook) as f64))
                .into()
        },
    )
    .by(&["hook"])
    .advice("not 0: what such a program drops or redirects gregor never sees, see [policy.md](policy.md)"),
    Metric::counter(
        "programs_moved",
        "Programs moved in front of one that had come later",
        |status| count(status.kernel.moved),
    )
    .advice("grows: another agent and gregor fight for the front of the hook, see [policy.md](policy.md)"),
    Metric::gauge(
        "kubernetes_watches",
        "Watches of Services that rules lead to",
        |status| one(status.kubernetes.watches.len() as f64),
    )
    .advice("more than one per rule never; [kubernetes.md](kubernetes.md) has what that costs the API server"),
    Metric::gauge(
        "kubernetes_watches_connected",
        "Those of them that are up to date",
        |status| count(status.kubernetes.connected),
    )
    .advice("below `gregor_kubernetes_watches` for minutes: `gregor status` has the error; DNS serves meanwhile"),
    Metric::gauge(
        "kubernetes_state_age_seconds",
        "Time since the API server said something about the Services, on the watch that is silent for the longest; absent before the first list",
        |status| status.kubernetes.age_seconds.map_or_else(Vec::new, one),
    )
    .advice("the server says something every minute; over 300 with no watch connected, targets come from DNS alone"),
    Metric::gauge(
        "kubernetes_services",
        "Services known that may be targets, by type",
        |status| each(&status.kubernetes.services),
    )
    .by(&["type"])
    .shown(Section::Kubernetes, "services"),
    Metric::counter(
        "kubernetes_lists",
        "Lists of Services that the API server gave",
        |status| count(status.kubernetes.lists),
    )
    .shown(Section::Kubernetes, "lists")
    .advice("one per watch after the start; grows steadily: watches are cut, or too slow to keep up (`gone`)"),
    Metric::counter(
        "kubernetes_target_changes",
        "Targets that the API server reported as created, changed or deleted, those of the first list included",
        |status| count(status.kubernetes.changes),
    )
    .shown(Section::Kubernetes, "target changes"),
    Metric::counter(
        "kubernetes_errors",
        "Lists and watches that failed, by reason",
        |status| each(&status.kubernetes.errors),
    )
    .by(&["reason"])
    .shown(Section::Kubernetes, "error")
    .advice("`forbidden`: the role of the chart is missing; others: the API server, or the way to it"),
    Metric::counter(
        "kubernetes_events",
        "Events on the tenants' Services, by result",
        |status| each(&status.kubernetes.events),
    )
    .by(&["result"])
    .shown(Section::Kubernetes, "event")
    .advice("`exists`: another node was first, as it should be; `refused`: the role may not create Events"),
    Metric::gauge(
        "kubernetes_selected_namespaces",
        "Namespaces that rules select by labels; absent where no rule does",
        |status| match status.selected.selectors {
            0 => Vec::new(),
            _ => one(status.selected.namespaces as f64),
        },
    ),
    Metric::gauge(
        "kubernetes_selectors_unknown",
        "Selectors of namespaces of which the API server has said nothing yet: their rules are for no namespace; absent where no rule has one",
        |status| match status.selected.selectors {
            0 => Vec::new(),
            _ => one(status.selected.unknown as f64),
        },
    )
    .advice("not 0: `gregor status` has the reason: no API server, or no right to list and watch namespaces"),
    Metric::gauge(
        "kubernetes_namespaces_age_seconds",
        "Time since the API server said something about the namespaces that rules select by labels; absent before the first list",
        |status| status.selected.age_seconds.map_or_else(Vec::new, one),
    )
    .advice("over 300: the labels are those of then; `gregor status` has the reason"),
];

fn program(status: &Status, value: fn(&ProgramStatus) -> f64) -> Vec<Sample<'_>> {
    let program = status.kernel.program.as_ref();
    program.map_or_else(Vec::new, |program| one(value(program)))
}

/// The lines of a part of `gregor status`: what is not zero.
pub fn lines(status: &Status, section: Section) -> impl Iterator<Item = (String, f64)> {
    METRICS.iter().flat_map(move |metric| {
        let prefix = metric
            .shown
            .and_then(|(its, prefix)| (its == section).then_some(prefix));
        prefix.into_iter().flat_map(move |prefix| {
            let samples = (metric.read)(status).into_iter();
            samples
                .filter(|(_, value)| *value != 0.0)
                .map(move |(labels, value)| {
                    let line = format!("{prefix} {}", labels.join(" "));
                    (line.trim().to_owned(), value)
                })
        })
    })
}

/// The page.
pub fn render(status: Status) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Page(status)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Page(Status);

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        for metric in METRICS {
            let samples = (metric.read)(&self.0);
            if samples.is_empty() && metric.labels.is_empty() {
                continue;
            }
            let mut family =
                encoder.encode_descriptor(metric.name, metric.help, None, metric.kind)?;
            for (values, value) in samples {
                let labels: Vec<_> = metric.labels.iter().copied().zip(values).collect();
                if let MetricType::Info = metric.kind {
                    family.encode_info(&labels)?;
                } else if labels.is_empty() {
                    encode_value(family, metric.kind, value)?;
                    break;
                } else {
                    encode_value(family.encode_family(&labels)?, metric.kind, value)?;
                }
            }
        }
        Ok(())
    }
}

fn encode_value(
    mut encoder: MetricEncoder<'_>,
    kind: MetricType,
    value: f64,
) -> Result<(), std::fmt::Error> {
    match kind {
        MetricType::Counter => encoder.encode_counter::<NoLabelSet, _, u64>(&(value as u64), None),
        _ => encoder.encode_gauge(&value),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use crate::observe::{
        AnswersStatus, ClaimStatus, ClaimsStatus, ConfigStatus, InFrontStatus, InterfaceStatus,
        KernelStatus, ProgramStatus, Readiness, RuleStatus, TcpStatus,
    };
    use crate::{
        identity::IdentityStatus,
        sources::{ApiStatus, SelectedStatus},
    };
    use crate::{resolve::ResponderStatus, tcp};

    /// Something in every field.
    pub fn full() -> Status {
        fn map<L: From<&'static str> + Ord>(pairs: &[(&'static str, u64)]) -> BTreeMap<L, u64> {
            pairs
                .iter()
                .map(|(name, value)| ((*name).into(), *value))
                .collect()
        }
        let namespace = |answers, stale| {
            let results = [("answer", answers), ("stale", stale), ("servfail", 0)];
            map(&results)
        };
        Status {
            version: "0.1.0".to_owned(),
            node: String::new(),
            uptime_seconds: 12.5,
            readiness: Readiness {
                standby: false,
                loaded: true,
                attached: true,
                serving: true,
                stopping: false,
            },
            config: ConfigStatus {
                path: "/etc/gregor/gregor.toml".to_owned(),
                loads: 2,
                failures: 1,
                error: Some("line 3".to_owned()),
                warnings: vec!["a warning".to_owned()],
            },
            claims: ClaimsStatus {
                is_on: true,
                claims: vec![ClaimStatus {
                    accepted: vec!["a.example".to_owned(), "b.example".to_owned()],
                    ..ClaimStatus::default()
                }],
                refused: [("too_many".into(), 3)].into(),
            },
            hook: "tcx".to_owned(),
            order: "first".to_owned(),
            servers: vec!["169.254.20.10".parse().unwrap()],
            learnt: Vec::new(),
            rules: vec![RuleStatus {
                name: "kafka".to_owned(),
                pattern: "*.kafka.{namespace}.svc".to_owned(),
                target: "up.{namespace}.svc".to_owned(),
                ..RuleStatus::default()
            }],
            interfaces: vec![
                InterfaceStatus {
                    index: 4,
                    name: "veth4".to_owned(),
                    mode: Some("native".to_owned()),
                    error: None,
                    in_front: vec![InFrontStatus {
                        hook: "clsact".to_owned(),
                        program: "policy".to_owned(),
                    }],
                    ..InterfaceStatus::default()
                },
                InterfaceStatus {
                    index: 5,
                    name: "veth5".to_owned(),
                    mode: None,
                    error: Some("no".to_owned()),
                    nobody: Some("no source knows a pod for it".to_owned()),
                    ..InterfaceStatus::default()
                },
            ],
            heartbeat_age_seconds: Some(0.1),
            kernel: KernelStatus {
                requests: KernelStatus::requests(&(0..32).collect::<Vec<_>>()),
                observed: map(&[("new", 6)]),
                other_servers: map(&[("8.8.8.8", 7)]),
                answers: AnswersStatus {
                    entries: 3,
                    no_target: 1,
                    unplaced: 2,
                    refreshes: 5,
                    expired: 7,
                    rules: map(&[("kafka", 40)]),
                    namespaces: map(&[("foo", 30), ("bar", 10)]),
                },
                removed: 3,
                moved: 4,
                program: Some(ProgramStatus {
                    id: 9,
                    verified_instructions: 12_345,
                    load_seconds: 0.02,
                    jited_bytes: 4_096,
                    table_bytes: 1 << 20,
                }),
            },
            responder: ResponderStatus {
                refreshes: 6,
                refreshes_refused: 1,
                queries: 10,
                replies: map(&[("NOERROR", 8), ("SERVFAIL", 1)]),
                passed_on: map(&[("no_target", 1)]),
                chases: 3,
                chase_failures: map(&[("timeout", 1)]),
                broken_chains: 1,
                targets_without_address: 2,
                stale_answers: 2,
                unanswered: 5,
                truncated: 4,
                chases_in_flight: 1,
                stores: map(&[("answers", 3), ("no_target", 1)]),
                send_errors: 1,
                namespaces: BTreeMap::from([
                    ("foo".to_owned(), namespace(6, 1)),
                    ("bar".to_owned(), namespace(4, 0)),
                ]),
            },
            tcp: TcpStatus {
                mode: "after-truncation".to_owned(),
                error: Some("no".to_owned()),
                local_servers: vec!["169.254.20.10".parse().unwrap()],
                counters: tcp::Counters {
                    connections: 5,
                    refused: 1,
                    open: 2,
                    answered: 6,
                    relayed: 7,
                    lost: 1,
                    unread: 0,
                },
            },
            identity: IdentityStatus {
                interfaces: map(&[("cni", 1), ("unknown", 1)]),
                ..IdentityStatus::default()
            },
            kubernetes: ApiStatus {
                mode: "on".to_owned(),
                watches: vec!["up in every namespace".to_owned()],
                connected: 1,
                age_seconds: Some(12.5),
                services: map(&[("external_name", 3), ("other", 1)]),
                lists: 2,
                changes: 5,
                errors: map(&[("forbidden", 1)]),
                events: map(&[("created", 2)]),
                error: None,
            },
            selected: SelectedStatus {
                selectors: 2,
                unknown: 1,
                namespaces: 3,
                age_seconds: Some(4.5),
                error: None,
            },
            interface_resyncs: 2,
            panics: 0,
        }
    }

    /// Name and label set of a sample line.
    fn sample(line: &str) -> (&str, &str, f64) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = match series.split_once('{') {
            Some((name, labels)) => (name, labels.strip_suffix('}').unwrap()),
            None => (series, ""),
        };
        (name, labels, value.parse().unwrap())
    }

    /// The rules of the text format that scrapers rely on.
    pub fn lint(text: &str) {
        let mut types: HashMap<&str, &str> = HashMap::new();
        let mut helps = BTreeSet::new();
        let mut series = BTreeSet::new();
        let mut current = "";
        assert!(text.ends_with("# EOF\n"));
        for line in text.lines().filter(|line| *line != "# EOF") {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, text) = help.split_once(' ').unwrap();
                assert!(helps.insert(name), "{name} described twice");
                assert!(!text.is_empty());
                current = name;
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').unwrap();
                assert_eq!(name, current, "TYPE apart from HELP");
                types.insert(name, kind);
            } else {
                let (name, labels, value) = sample(line);
                let kind = types[current];
                let suffixes: &[&str] = match kind {
                    "counter" => &["_total"],
                    "gauge" => &[""],
                    "info" => &["_info"],
                    "histogram" => &["_sum", "_count", "_bucket"],
                    other => panic!("unknown type {other}"),
                };
                assert!(
                    suffixes
                        .iter()
                        .any(|suffix| name == format!("{current}{suffix}")),
                    "{name} belongs to no family that was announced"
                );
                assert!(name.starts_with("gregor_"), "{name}");
                assert!(series.insert((name, labels)), "{line} is there twice");
                assert!(value >= 0.0, "{line}");
            }
        }
        assert_eq!(
            helps.len(),
            types.len(),
            "every family has both HELP and TYPE"
        );
    }

    #[test]
    fn the_page_is_valid_openmetrics() {
        lint(&render(full()).unwrap());
        lint(&render(Status::default()).unwrap());
    }

    #[test]
    fn values_arrive_under_their_names() {
        let text = render(full()).unwrap();
        for line in [
            "gregor_build_info{version=\"0.1.0\"} 1",
            "gregor_dns_requests_total{verdict=\"taken\",reason=\"matched\"} 24",
            "gregor_dns_requests_total{verdict=\"pass\",reason=\"no_rule\"} 12",
            "gregor_dns_responses_total{rcode=\"NOERROR\"} 8",
            "gregor_responder_passed_on_total{reason=\"no_target\"} 1",
            "gregor_namespace_responses_total{namespace=\"foo\",result=\"answer\"} 6",
            "gregor_attached_interfaces 1.0",
            "gregor_identity_interfaces{state=\"unknown\"} 1.0",
            "gregor_unattached_interfaces 1.0",
            "gregor_claims_accepted 2.0",
            "gregor_claims_refused{reason=\"too_many\"} 3.0",
            "gregor_rules 1.0",
            "gregor_heartbeat_age_seconds 0.1",
            "gregor_config_loads_total{result=\"failure\"} 1",
            "gregor_config_last_load_successful 0.0",
            "gregor_interface_resyncs_total 2",
            "gregor_programs_removed_total 3",
            "gregor_programs_in_front{hook=\"tcx\"} 0.0",
            "gregor_programs_in_front{hook=\"clsact\"} 1.0",
            "gregor_programs_moved_total 4",
            "gregor_panics_total 0",
            "gregor_responder_unanswered_total 5",
            "gregor_kubernetes_state_age_seconds 12.5",
            "gregor_kubernetes_services{type=\"external_name\"} 3.0",
            "gregor_kubernetes_errors_total{reason=\"forbidden\"} 1",
            "gregor_kubernetes_selected_namespaces 3.0",
            "gregor_kubernetes_selectors_unknown 1.0",
            "gregor_kubernetes_namespaces_age_seconds 4.5",
            "gregor_truncated_responses_total 4",
            "gregor_tcp_connections_total 5",
            "gregor_tcp_queries_total{result=\"relayed\"} 7",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "missing: {line}\n{text}"
            );
        }
    }

    #[test]
    fn label_names_are_a_fixed_set() {
        let text = render(full()).unwrap();
        let found: BTreeSet<&str> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .flat_map(|line| sample(line).1.split(','))
            .filter_map(|label| label.split_once('=').map(|(name, _)| name))
            .collect();
        assert_eq!(
            found,
            BTreeSet::from([
                "hook",
                "namespace",
                "rcode",
                "reason",
                "result",
                "rule",
                "server",
                "state",
                "store",
                "table",
                "type",
                "verdict",
                "version"
            ])
        );
    }

    /// docs/metrics.md.
    fn documentation() -> String {
        let mut text = "\
# Metrics

`[metrics] listen` (127.0.0.1:9753 by default) serves `/metrics` in the OpenMetrics format, over HTTP without authentication. `gregor status` shows most of
the same numbers. Counters count from the start of the process, those of the programs from the first time that they were pinned. No name that a pod asks
for is a label; namespaces are bounded.

| metric | type | labels | unit | meaning | what to do |
|---|---|---|---|---|---|
"
        .to_owned();
        for metric in METRICS {
            let (kind, suffix) = match metric.kind {
                MetricType::Counter => ("counter", "_total"),
                MetricType::Info => ("info", "_info"),
                _ => ("gauge", ""),
            };
            let labels: Vec<String> = metric.labels.iter().map(|l| format!("`{l}`")).collect();
            let name = format!("`{PREFIX}_{}{suffix}`", metric.name);
            let cells = [
                name.as_str(),
                kind,
                &labels.join(", "),
                metric.unit(),
                metric.help,
                metric.advice,
            ];
            text += &format!("| {} |\n", cells.join(" | "));
        }
        text
    }

    /// With `WRITE_DOCS=1` the page is written.
    #[test]
    fn documentation_lists_every_metric() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let text = documentation();
        if std::env::var_os("WRITE_DOCS").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        assert!(
            std::fs::read_to_string(path).unwrap_or_default() == text,
            "docs/metrics.md is not what the metrics are; WRITE_DOCS=1 cargo test -p dns-userspace documentation"
        );
    }

    #[test]
    fn samples_have_a_value_for_each_label() {
        let status = full();
        let mut names = BTreeSet::new();
        for metric in METRICS {
            assert!(names.insert(metric.name), "{} twice", metric.name);
            let samples = (metric.read)(&status);
            assert!(!samples.is_empty(), "{}", metric.name);
            for (values, _) in samples {
                assert_eq!(values.len(), metric.labels.len(), "{}", metric.name);
            }
        }
    }
}
