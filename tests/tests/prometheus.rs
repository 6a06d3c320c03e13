//! The chart's alerts fire when they should and at no other time, and its dashboard's queries return data: by a real Prometheus.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use e2e::{qualified, until};
use gregor_tests::{
    lab::{
        Ask, Lab,
        world::{ExternalName, NODE_LOCAL_V4},
    },
    tools,
};
use hickory_proto::rr::RecordType;
use serde_json::Value;

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/helm")
}

fn promtool() -> Command {
    Command::new(tools::prometheus().unwrap().with_file_name("promtool"))
}

/// Standard output of a command that must succeed.
fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}:\n{said}\n{error}");
    said
}

/// The rules as Prometheus reads them from a file: what the chart's PrometheusRule has under `spec`.
fn rules() -> String {
    let mut helm = Command::new(tools::helm().unwrap());
    helm.args(["template", "gregor"])
        .arg(chart())
        .args(["--namespace", "kube-system", "--kube-version", "1.36.3"])
        .args(["--set", "prometheusRule.enabled=true,preset=nodelocal"])
        .args(["--show-only", "templates/prometheusrule.yaml"]);
    let manifest = output(&mut helm);
    let (_, spec) = manifest.split_once("\nspec:\n").unwrap();
    spec.lines().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{}", line.strip_prefix("  ").unwrap_or(line));
        text
    })
}

struct Alert {
    name: &'static str,
    /// Series of the node `n1`, one sample each 15 s, that fire it.
    series: &'static [(&'static str, &'static str)],
    /// Minutes after which it fires, and until which it must not.
    fires_after: u32,
    quiet_until: u32,
    severity: &'static str,
    summary: &'static str,
    /// Labels besides those of every series.
    labels: &'static str,
}

const EVERY: &str = "job=\"kube-system/gregor\",node=\"n1\"";

const ALERTS: &[Alert] = &[
    Alert {
        name: "GregorDown",
        series: &[("up", "0x40")],
        fires_after: 3,
        quiet_until: 1,
        severity: "critical",
        summary: "gregor on n1 cannot be scraped.",
        labels: EVERY,
    },
    Alert {
        name: "GregorNotReady",
        series: &[("gregor_ready", "0x40")],
        fires_after: 3,
        quiet_until: 1,
        severity: "critical",
        summary: "gregor on n1 is not ready; 'gregor status' there says why.",
        labels: EVERY,
    },
    Alert {
        name: "GregorStuck",
        series: &[("gregor_heartbeat_age_seconds", "0x8 0+15x40")],
        fires_after: 4,
        quiet_until: 2,
        severity: "critical",
        summary: "The ring of gregor on n1 is not drained: only known names are answered.",
        labels: EVERY,
    },
    Alert {
        name: "GregorConfigRefused",
        series: &[("gregor_config_last_load_successful", "1x8 0x40")],
        fires_after: 5,
        quiet_until: 3,
        severity: "warning",
        summary: "gregor on n1 refused its configuration; the last good one is in force.",
        labels: EVERY,
    },
    Alert {
        name: "GregorInterfaceUnattached",
        series: &[("gregor_unattached_interfaces", "2x80")],
        fires_after: 6,
        quiet_until: 4,
        severity: "warning",
        summary: "2 interfaces on n1 have no program of gregor.",
        labels: EVERY,
    },
    Alert {
        name: "GregorProgramsRemoved",
        series: &[("gregor_programs_removed_total", "0x8 0+1x40")],
        fires_after: 5,
        quiet_until: 2,
        severity: "warning",
        summary: "Another process takes programs of gregor off interfaces on n1.",
        labels: EVERY,
    },
    Alert {
        name: "GregorLookupsFailing",
        series: &[
            ("gregor_chase_failures_total{reason=\"timeout\"}", "0+2x80"),
            ("gregor_chases_total", "0+10x80"),
        ],
        fires_after: 8,
        quiet_until: 4,
        severity: "warning",
        summary: "More than a tenth of the look-ups of targets fail on n1.",
        labels: "node=\"n1\"",
    },
    Alert {
        name: "GregorStaleAnswers",
        series: &[("gregor_stale_answers_total", "0+1x80")],
        fires_after: 8,
        quiet_until: 4,
        severity: "warning",
        summary: "Pods on n1 get last good answers because the upstream fails.",
        labels: EVERY,
    },
    Alert {
        name: "GregorAnswersPastTheirTime",
        series: &[("gregor_kernel_expired_total", "0x8 7x40")],
        fires_after: 3,
        quiet_until: 1,
        severity: "warning",
        summary: "On n1 answers were given past their time, because no responder was there.",
        labels: EVERY,
    },
    Alert {
        name: "GregorTargetWithoutAddress",
        series: &[("gregor_targets_without_address_total", "0x8 1x40")],
        fires_after: 3,
        quiet_until: 1,
        severity: "warning",
        summary: "A tenant's target exists without an address: an ExternalName that is an IP address, for instance.",
        labels: EVERY,
    },
    Alert {
        name: "GregorAnswersUnplaced",
        series: &[("gregor_kernel_unplaced_total", "0+1x100")],
        fires_after: 12,
        quiet_until: 9,
        severity: "warning",
        summary: "The table of answers on n1 is full: raise [limits] answers.",
        labels: EVERY,
    },
    Alert {
        name: "GregorServicesNotWatched",
        series: &[
            ("gregor_kubernetes_watches", "1x100"),
            ("gregor_kubernetes_watches_connected", "0x100"),
        ],
        fires_after: 16,
        quiet_until: 14,
        severity: "warning",
        summary: "gregor on n1 does not watch the Services; 'gregor status' there says why. Targets come from DNS.",
        labels: EVERY,
    },
    Alert {
        name: "GregorPanicked",
        series: &[("gregor_panics_total", "0x8 1x40")],
        fires_after: 3,
        quiet_until: 1,
        severity: "warning",
        summary: "A task of gregor on n1 panicked.",
        labels: EVERY,
    },
];

/// What a node has on which nothing is wrong, on another node so that it meets no alert's series.
const HEALTHY: &[(&str, &str)] = &[
    ("up", "1x120"),
    ("gregor_ready", "1x120"),
    ("gregor_heartbeat_age_seconds", "0.2x120"),
    ("gregor_config_last_load_successful", "1x120"),
    ("gregor_unattached_interfaces", "0x120"),
    ("gregor_programs_removed_total", "3x120"),
    ("gregor_chase_failures_total{reason=\"timeout\"}", "5x120"),
    ("gregor_chases_total", "0+10x120"),
    ("gregor_stale_answers_total", "9x120"),
    ("gregor_kernel_expired_total", "4x120"),
    ("gregor_targets_without_address_total", "1x120"),
    ("gregor_kernel_unplaced_total", "2x120"),
    ("gregor_panics_total", "1x120"),
    ("gregor_kubernetes_watches", "1x120"),
    ("gregor_kubernetes_watches_connected", "1x120"),
];

fn with_labels(series: &str, labels: &str) -> String {
    match series.strip_suffix('}') {
        Some(open) => format!("{open},{labels}}}"),
        None => format!("{series}{{{labels}}}"),
    }
}

/// A file for `promtool test rules`.
fn tests_of_alerts() -> String {
    let mut text = String::from("rule_files: [rules.yaml]\nevaluation_interval: 15s\ntests:\n");
    let series = |text: &mut String, all: &[(&str, &str)], labels: &str| {
        text.push_str("  - interval: 15s\n    input_series:\n");
        for (name, values) in all {
            let name = with_labels(name, labels);
            let _ = writeln!(text, "      - {{series: '{name}', values: '{values}'}}");
        }
        text.push_str("    alert_rule_test:\n");
    };
    for alert in ALERTS {
        series(&mut text, alert.series, EVERY);
        let _ = writeln!(
            text,
            "      - {{eval_time: {}m, alertname: {}}}",
            alert.quiet_until, alert.name
        );
        let labels = alert.labels.replace('=', ": ");
        let summary = alert.summary.replace('\'', "''");
        let _ = writeln!(
            text,
            "      - eval_time: {}m\n        alertname: {}\n        exp_alerts:\n          - exp_labels: {{severity: {}, {labels}}}\n            exp_annotations:\n              summary: '{summary}'\n              runbook_url: https://github.com/gregor-dns/gregor/blob/main/docs/kubernetes.md#{}",
            alert.fires_after,
            alert.name,
            alert.severity,
            alert.name.to_lowercase(),
        );
    }
    series(&mut text, HEALTHY, "job=\"kube-system/gregor\",node=\"n2\"");
    for alert in ALERTS {
        for minutes in [1, 10, 28] {
            let _ = writeln!(
                text,
                "      - {{eval_time: {minutes}m, alertname: {}}}",
                alert.name
            );
        }
    }
    text
}

#[test]
fn each_alert_fires_and_none_on_a_healthy_node() {
    let directory = std::env::temp_dir().join(format!("gregor-alerts-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let (rules, tests) = (directory.join("rules.yaml"), directory.join("tests.yaml"));
    let text = self::rules();
    fs::write(&rules, &text).unwrap();
    fs::write(&tests, tests_of_alerts()).unwrap();
    output(promtool().args(["check", "rules"]).arg(&rules));
    output(promtool().args(["test", "rules"]).arg(&tests));
    fs::remove_dir_all(&directory).unwrap();

    let alerts = text.lines().filter_map(|line| line.split_once("alert: "));
    let alerts: BTreeSet<&str> = alerts.map(|(_, name)| name).collect();
    let tested = ALERTS.iter().map(|alert| alert.name).collect();
    assert_eq!(alerts, tested, "each alert has a row");
    // Its runbook is there.
    let page = fs::read_to_string(chart().join("../../docs/kubernetes.md")).unwrap();
    for alert in alerts {
        assert!(page.contains(&format!("\n### {alert}\n")), "{alert}");
    }
}

/// The queries of the dashboard, for any node.
fn queries() -> Vec<String> {
    let dashboard = fs::read_to_string(chart().join("dashboards/gregor.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap().iter();
    panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten()
        .map(|target| target["expr"].as_str().unwrap())
        .map(|expr| {
            expr.replace("$node", ".*")
                .replace("$__rate_interval", "10s")
        })
        .collect()
}

#[test]
fn each_query_of_the_dashboard_returns_data() {
    let lab = Lab::builder("e2eprom").pod("foo").start().unwrap();
    let foo = lab.pod("foo");
    // A target whose look-up fails.
    lab.change_world(|world| {
        world.external_names.push(ExternalName {
            service: "kafka-upstream".to_owned(),
            namespace: "broken".to_owned(),
            target: "broken.kafka-upstream.broken.svc.cluster.local".to_owned(),
        });
    });
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let config = lab.directory().join("prometheus.yml");
    let scrape = "scrape_configs:\n- job_name: gregor\n  scrape_interval: 1s\n  scrape_timeout: 1s\n  \
                  static_configs:\n  - targets: ['127.0.0.1:9753']\n    labels: {node: n1}\n";
    fs::write(&config, scrape).unwrap();
    let mut command = Command::new(tools::prometheus().unwrap());
    command
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            lab.directory().join("prometheus").display()
        ))
        .arg("--web.listen-address=127.0.0.1:9090");
    let prometheus = lab.spawn_in_node(command, "prometheus.log").unwrap();

    let queries = queries();
    assert!(queries.len() >= 11, "{queries:?}");
    let ask = |namespace: &str| {
        let name = qualified(namespace);
        foo.ask(Ask::new(NODE_LOCAL_V4.into(), &name, RecordType::A))
            .unwrap()
    };
    for query in queries {
        until(&query, || {
            for namespace in ["foo", "baz", "broken"] {
                ask(namespace);
            }
            let mut promtool = promtool();
            promtool.args(["query", "instant", "http://127.0.0.1:9090", &query]);
            let output = lab.node().output(promtool).unwrap();
            assert!(prometheus.exited().is_none(), "{}", prometheus.log());
            eprintln!("{output:?}");
            (output.status.success() && !output.stdout.trim_ascii().is_empty()).then_some(())
        });
    }
    drop(gregor);
}
