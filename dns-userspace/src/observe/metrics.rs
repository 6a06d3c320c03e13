//! `/metrics`: a [`Status`] in the OpenMetrics text format, in names that a CoreDNS dashboard's reader knows.

use std::collections::BTreeMap;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text::encode},
    metrics::MetricType,
    registry::Registry,
};

use super::status::Status;

/// What a scraper is told to expect.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The page.
pub fn render(status: Status) -> Result<String, std::fmt::Error> {
    let mut registry = Registry::with_prefix("gregor");
    registry.register_collector(Box::new(Page(status)));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

#[derive(Debug)]
struct Page(Status);

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let mut page = Writer(encoder);
        let status = &self.0;

        page.info("build", "What is running", &[("version", &*status.version)])?;
        page.gauge(
            "uptime_seconds",
            "Time since the start",
            status.uptime_seconds,
        )?;

        page.counters(
            "dns_requests",
            "Requests seen by the programs, by verdict and reason",
            status.kernel.requests.iter().map(|counter| {
                (
                    [("verdict", &*counter.verdict), ("reason", &*counter.reason)],
                    counter.count,
                )
            }),
        )?;
        page.by_label(
            "dns_other_server_requests",
            "Requests to port 53 of addresses that are not among the configured servers",
            "server",
            &status.kernel.other_servers,
        )?;

        let answers = &status.kernel.answers;
        page.by_label(
            "kernel_answers",
            "Answers given by the programs, by rule",
            "rule",
            &answers.rules,
        )?;
        page.by_label(
            "kernel_namespace_answers",
            "Answers given by the programs, by the namespace that a rule captured",
            "namespace",
            &answers.namespaces,
        )?;
        page.gauges(
            "kernel_entries",
            "Entries that the program has, by table",
            [
                ([("table", "answers")], answers.entries as f64),
                ([("table", "no_target")], answers.no_target as f64),
            ],
        )?;
        page.counter(
            "kernel_unplaced",
            "Answers that found no place among those of the program",
            answers.unplaced,
        )?;
        page.counter(
            "kernel_refreshes",
            "Newer answers that the programs asked for",
            answers.refreshes,
        )?;
        page.counter(
            "kernel_expired",
            "Answers that the programs gave past their time, while no responder was there",
            answers.expired,
        )?;

        let responder = &status.responder;
        page.counter(
            "responder_refreshes",
            "Look-ups for newer answers than a program has",
            responder.refreshes,
        )?;
        page.counter(
            "responder_refreshes_refused",
            "The same, refused because too many were under way",
            responder.refreshes_refused,
        )?;
        page.counter(
            "responder_queries",
            "Queries that reached the responder",
            responder.queries,
        )?;
        page.by_label(
            "dns_responses",
            "Replies sent to pods by the responder, by rcode",
            "rcode",
            &responder.replies,
        )?;
        page.by_label(
            "responder_passed_on",
            "Queries that the responder passed on to the existing cache, by reason",
            "reason",
            &responder.passed_on,
        )?;
        page.counter(
            "chases",
            "Look-ups of a target at the upstream",
            responder.chases,
        )?;
        page.by_label(
            "chase_failures",
            "Look-ups that failed, by reason",
            "reason",
            &responder.chase_failures,
        )?;
        page.counter(
            "broken_chains",
            "Targets that exist while the end of their chain does not",
            responder.broken_chains,
        )?;
        page.counter(
            "targets_without_address",
            "Targets that exist without an address of either family, such as an ExternalName that is an IP address",
            responder.targets_without_address,
        )?;
        page.counter(
            "stale_answers",
            "Last good answers given, to a pod or to its program, because the upstream failed",
            responder.stale_answers,
        )?;
        page.counter(
            "responder_unanswered",
            "Queries for names that exist, left without a reply because the node could not look them up",
            responder.unanswered,
        )?;
        page.counter(
            "truncated_responses",
            "Replies with TC=1, to clients whose TCP is steered then",
            responder.truncated,
        )?;
        let tcp = &status.tcp;
        page.counter(
            "tcp_connections",
            "TCP connections steered to the responder",
            tcp.connections,
        )?;
        page.counter(
            "tcp_connections_refused",
            "Steered connections that were closed at once because there were too many",
            tcp.refused,
        )?;
        page.gauge(
            "tcp_connections_open",
            "Steered connections that stand",
            tcp.open as f64,
        )?;
        page.counters(
            "tcp_queries",
            "Messages over steered connections, by what became of them",
            [
                ([("result", "answered")], tcp.answered),
                ([("result", "relayed")], tcp.relayed),
                ([("result", "lost")], tcp.lost),
            ],
        )?;
        page.gauge(
            "chases_in_flight",
            "Look-ups in flight",
            responder.chases_in_flight as f64,
        )?;
        page.gauges(
            "store_entries",
            "Entries kept, by store",
            responder
                .stores
                .iter()
                .map(|(store, entries)| ([("store", &**store)], *entries as f64)),
        )?;
        page.counter(
            "send_errors",
            "Replies and queries passed on that could not be sent",
            responder.send_errors,
        )?;
        page.counters(
            "namespace_responses",
            "Replies by the namespace that a rule captured, by result",
            responder
                .namespaces
                .iter()
                .flat_map(|(namespace, results)| {
                    results.iter().map(move |(result, count)| {
                        ([("namespace", &**namespace), ("result", &**result)], *count)
                    })
                }),
        )?;

        page.gauge(
            "attached_interfaces",
            "Interfaces with a program on them",
            status.attached() as f64,
        )?;
        page.gauge(
            "unattached_interfaces",
            "Interfaces that are wanted and could not be attached to",
            (status.interfaces.len() - status.attached()) as f64,
        )?;
        page.gauge("rules", "Rules in force", status.rules.len() as f64)?;
        if let Some(age) = status.heartbeat_age_seconds {
            page.gauge(
                "heartbeat_age_seconds",
                "Time since the ring loop last renewed the programs' deadline",
                age,
            )?;
        }
        page.gauge(
            "ready",
            "1 when /readyz says so",
            f64::from(u8::from(status.vital().not_ready().is_empty())),
        )?;
        page.counters(
            "config_loads",
            "Configurations loaded, by result",
            [
                ([("result", "success")], status.config.loads),
                ([("result", "failure")], status.config.failures),
            ],
        )?;
        page.gauge(
            "config_last_load_successful",
            "0 when the last configuration was refused and the one before goes on",
            f64::from(u8::from(status.config.error.is_none())),
        )?;
        if let Some(program) = &status.kernel.program {
            page.gauge(
                "program_verified_instructions",
                "Instructions that the verifier walked",
                program.verified_instructions as f64,
            )?;
            page.gauge(
                "program_load_seconds",
                "Time that loading the program took",
                program.load_seconds,
            )?;
            page.gauge(
                "table_bytes",
                "Memory of the matcher",
                program.table_bytes as f64,
            )?;
        }
        page.counter(
            "interface_resyncs",
            "Errors of rtnetlink, after each of which all interfaces were listed anew",
            status.interface_resyncs,
        )?;
        page.counter(
            "programs_removed",
            "Programs that another process took off an interface; they are put back",
            status.kernel.removed,
        )?;
        page.gauges(
            "programs_in_front",
            "Programs that get the frames of an interface before gregor's, by hook",
            ["tcx", "clsact"].map(|hook| ([("hook", hook)], status.in_front(hook) as f64)),
        )?;
        page.counter(
            "programs_moved",
            "Programs moved in front of one that had come later",
            status.kernel.moved,
        )?;
        page.counter("panics", "Tasks that panicked", status.panics)
    }
}

struct Writer<'a>(DescriptorEncoder<'a>);

impl Writer<'_> {
    fn info(
        &mut self,
        name: &str,
        help: &str,
        labels: &impl EncodeLabelSet,
    ) -> Result<(), std::fmt::Error> {
        self.0
            .encode_descriptor(name, help, None, MetricType::Info)?
            .encode_info(labels)
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), std::fmt::Error> {
        self.0
            .encode_descriptor(name, help, None, MetricType::Gauge)?
            .encode_gauge(&value)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> Result<(), std::fmt::Error> {
        self.0
            .encode_descriptor(name, help, None, MetricType::Counter)?
            .encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauges<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, f64)>,
    ) -> Result<(), std::fmt::Error> {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            family.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<L: EncodeLabelSet>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (L, u64)>,
    ) -> Result<(), std::fmt::Error> {
        let mut family = self
            .0
            .encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            family
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn by_label(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        samples: &BTreeMap<String, u64>,
    ) -> Result<(), std::fmt::Error> {
        self.counters(
            name,
            help,
            samples
                .iter()
                .map(|(value, count)| ([(label, &**value)], *count)),
        )
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;
    use crate::observe::{
        AnswersStatus, ConfigStatus, InFrontStatus, InterfaceStatus, KernelStatus, ProgramStatus,
        Readiness, ResponderStatus, RuleStatus, TcpStatus,
    };

    /// Something in every field.
    pub fn full() -> Status {
        let map = |pairs: &[(&str, u64)]| {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), *value))
                .collect::<BTreeMap<_, _>>()
        };
        Status {
            version: "0.1.0".to_owned(),
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
            hook: "tcx".to_owned(),
            order: "first".to_owned(),
            servers: vec!["169.254.20.10".parse().unwrap()],
            rules: vec![RuleStatus {
                name: "kafka".to_owned(),
                pattern: "*.kafka.{namespace}.svc".to_owned(),
                target: "up.{namespace}.svc".to_owned(),
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
                },
                InterfaceStatus {
                    index: 5,
                    name: "veth5".to_owned(),
                    mode: None,
                    error: Some("no".to_owned()),
                    in_front: Vec::new(),
                },
            ],
            heartbeat_age_seconds: Some(0.1),
            kernel: KernelStatus {
                requests: KernelStatus::requests(&(0..32).collect::<Vec<_>>()),
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
                    ("foo".to_owned(), map(&[("answer", 6), ("stale", 1)])),
                    ("bar".to_owned(), map(&[("answer", 4)])),
                ]),
            },
            tcp: TcpStatus {
                mode: "after-truncation".to_owned(),
                error: Some("no".to_owned()),
                local_servers: vec!["169.254.20.10".parse().unwrap()],
                connections: 5,
                refused: 1,
                open: 2,
                answered: 6,
                relayed: 7,
                lost: 1,
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
                assert!(series.insert((name, labels)), "{line} told twice");
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
    fn the_page_keeps_the_format() {
        lint(&render(full()).unwrap());
        lint(&render(Status::default()).unwrap());
    }

    #[test]
    fn values_arrive_under_their_names() {
        let text = render(full()).unwrap();
        for line in [
            "gregor_build_info{version=\"0.1.0\"} 1",
            "gregor_dns_requests_total{verdict=\"taken\",reason=\"matched\"} 20",
            "gregor_dns_requests_total{verdict=\"pass\",reason=\"no_rule\"} 12",
            "gregor_dns_responses_total{rcode=\"NOERROR\"} 8",
            "gregor_responder_passed_on_total{reason=\"no_target\"} 1",
            "gregor_namespace_responses_total{namespace=\"foo\",result=\"answer\"} 6",
            "gregor_attached_interfaces 1.0",
            "gregor_unattached_interfaces 1.0",
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
                "store",
                "table",
                "verdict",
                "version"
            ])
        );
    }
}
