//! The subcommands as a user runs them on the node, and the pages that a scraper reads: exit codes, the lines that users rely
//! on, and the names that must not appear.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_names,
    reason = "a panic is the report, and foo is the tenant's name"
)]

mod e2e;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::Command,
};

use e2e::{Metrics, Wire, addresses, exchange_from, lines_said, qualified, sorted, until};
use gregor_tests::{
    lab::{
        ARTICLE_TEMPLATE, CacheKind, ClusterKind, Gregor, Lab,
        world::{
            BROKER, CLUSTER_DNS_V4, ExternalName, FOO_ADDRESSES, FOO_ENDPOINT, FOREIGN,
            NODE_LOCAL_V4,
        },
    },
    tools,
};
use hickory_proto::{op::Message, rr::RecordType};
use nix::sys::signal::Signal;

const CACHE: IpAddr = IpAddr::V4(NODE_LOCAL_V4);

/// The result of a command.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn has(&self, lines: &[&str]) {
        for line in lines {
            let text = self.out.lines().map(squeezed).any(|l| l.contains(line));
            assert!(text, "no `{line}` in:\n{}{}", self.out, self.err);
        }
    }
}

/// Columns are for the eye.
fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run(lab: &Lab, arguments: &[&str]) -> Ran {
    let mut command = Command::new(tools::gregor().unwrap());
    command.args(arguments).env_remove("RUST_LOG");
    ran(lab, command)
}

fn ran(lab: &Lab, command: Command) -> Ran {
    let output = lab.node().output(command).unwrap();
    Ran {
        code: output.status.code().unwrap(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

fn start(lab: &Lab, config: &str) -> Gregor {
    lab.start_gregor(&tools::gregor().unwrap(), config).unwrap()
}

/// A file in the lab's directory.
fn file(lab: &Lab, name: &str, text: &str) -> String {
    let path = lab.directory().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

fn lab(cache: CacheKind) -> Lab {
    let cluster = match cache {
        CacheKind::CoreDns { .. } => ClusterKind::CoreDns,
        _ => ClusterKind::Embedded,
    };
    Lab::builder("e2ecli")
        .pod("foo")
        .pod("baz")
        .cache(cache)
        .cluster(cluster)
        .start()
        .unwrap()
}

#[test]
fn check_reports_whether_the_node_is_suitable() {
    let lab = lab(CacheKind::CoreDns { template: true });
    let config = file(&lab, "check.toml", &lab.gregor_config());
    let alone = run(&lab, &["check"]);
    assert_eq!(alone.code, 0, "{}{}", alone.out, alone.err);
    alone.has(&[
        "ok kernel ",
        "ok capabilities CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_NET_RAW",
        "ok bpffs /sys/fs/bpf/gregor",
        "ok memlock ",
        "ok program gregor ",
        "ok program gregor_tcp ",
        "ok maps about ",
        "ok return path made its veths and their program, and removed them",
        "hook",
        "ok interface veth-foo free",
        "`gregor run` would work",
    ]);

    let before = run(&lab, &["check", "--config", &config]);
    assert_eq!(before.code, 0, "{}{}", before.out, before.err);
    before.has(&[
        "check.toml: 1 rule(s), 4 server(s)",
        "ok cache 169.254.20.10 answers names of rule `kafka` by itself",
        "ok cache fd00:10::a answers names of rule `kafka` by itself",
        "ok cache 172.20.0.10 says NXDOMAIN to names of rule `kafka`",
    ]);
    let _gregor = start(&lab, &lab.gregor_config());
    let during = run(&lab, &["check", "--config", &config]);
    assert_eq!(during.code, 0, "{}{}", during.out, during.err);
    during.has(&["ok interface veth-foo gregor is on it"]);

    // The kubelet names a nameserver that the configuration does not, and then none.
    for (listed, said) in [
        ("- 169.254.20.10\n- 10.250.0.2\n", "WARN"),
        ("- 169.254.20.10\n", "ok"),
    ] {
        let kubelet = file(&lab, "kubelet.yaml", &format!("clusterDNS:\n{listed}"));
        let arguments = ["check", "--config", &config, "--kubelet-config", &kubelet];
        let found = run(&lab, &arguments);
        let line = found.out.lines().find(|line| line.contains("kubelet"));
        let line = line.unwrap_or_else(|| panic!("{}", found.out));
        assert!(line.starts_with(said), "{line}");
        assert_eq!(line.contains("10.250.0.2"), said == "WARN", "{line}");
    }
    let json = run(&lab, &["check", "--json", "--config", &config]);
    assert_eq!(json.code, 0);
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["ok"], true);
    let findings = report["findings"].as_array().unwrap();
    assert!(findings.len() >= 10, "{report}");
    for finding in findings {
        assert!(
            matches!(finding["level"].as_str(), Some("ok" | "warning")),
            "{finding}"
        );
        assert!(
            finding["what"].is_string() && finding["detail"].is_string(),
            "{finding}"
        );
    }
    let programs = report["programs"].as_array().unwrap();
    let names: Vec<_> = programs.iter().map(|program| &program["name"]).collect();
    assert_eq!(names, ["gregor", "gregor_tcp"]);
    for program in programs {
        assert_eq!(program["loaded"], true, "{program}");
        assert!(program["load_seconds"].as_f64().unwrap() > 0.0, "{program}");
    }
    // It leaves nothing on the interface beside the running gregor.
    assert_eq!(e2e::programs_on(&lab, "veth-foo"), ["gregor"]);

    // A day is allowed, with a warning.
    let day = format!("{}[answer]\nmax_ttl = \"1day\"\n", lab.gregor_config());
    let day = run(&lab, &["check", "--config", &file(&lab, "day.toml", &day)]);
    assert_eq!(day.code, 0, "{}{}", day.out, day.err);
    day.has(&["WARNING answers max_ttl = \"1day\": clients keep an address for that long"]);
    assert!(!before.out.contains("max_ttl"), "{}", before.out);

    // What is not configured is not loaded, or not reported.
    let never = lab.gregor_config().replace(
        "[intercept]\n",
        "[intercept]\ntcp = \"never\"\nhook = \"xdp\"\ninterfaces = [\"veth-foo\"]\nallow_sources = [\"10.0.0.0/8\"]\n",
    );
    let xdp = run(
        &lab,
        &["check", "--config", &file(&lab, "xdp.toml", &never)],
    );
    xdp.has(&["ok program gregor_xdp ", "ok hook xdp"]);
    assert!(!xdp.out.contains("gregor_tcp"), "{}", xdp.out);
}

/// As the kernel of this machine refuses them: to a process without the capabilities. What other kernels say is in the unit
/// tests of `datapath::diagnosis`.
#[test]
fn a_refusal_is_one_line_with_its_remedy() {
    let lab = lab(CacheKind::None);
    let config = file(&lab, "refused.toml", &lab.gregor_config());
    let control = lab.directory().join("refused.sock");
    let run_arguments = [
        "run",
        "--config",
        &config,
        "--control",
        control.to_str().unwrap(),
    ];
    let with = |capabilities: &str, arguments: &[&str]| {
        let mut command = Command::new(e2e::gregor_with(&lab, capabilities));
        command
            .args(arguments)
            .env_remove("RUST_LOG")
            .env("TMPDIR", lab.directory());
        ran(&lab, command)
    };

    // The verifier's reason, of which the whole log is kept for the owner only.
    let verifier = "+bpf,+net_admin,+net_raw";
    let check = with(verifier, &["check", "--json", "--config", &config]);
    assert_eq!(check.code, 1, "{}{}", check.out, check.err);
    let report: serde_json::Value = serde_json::from_str(&check.out).unwrap();
    let program = &report["programs"][0];
    assert_eq!(
        (&program["name"], &program["loaded"]),
        (&"gregor".into(), &false.into())
    );
    let reason = program["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("the kernel refuses program gregor: R"),
        "{reason}"
    );
    let remedy = program["remedy"].as_str().unwrap();
    assert!(remedy.starts_with("missing CAP_PERFMON; "), "{remedy}");
    let log = PathBuf::from(program["log"].as_str().unwrap());
    assert_eq!(log.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("processed "), "{text}");
    assert!(
        text.contains(
            reason
                .rsplit(": ")
                .next()
                .unwrap()
                .split(';')
                .next()
                .unwrap()
        ),
        "{text}"
    );

    let check = with(verifier, &["check", "--config", &config]);
    check.has(&[&format!(
        "ERROR program gregor {reason}; {remedy}; the verifier's log is in "
    )]);
    let run = with(verifier, &run_arguments);
    assert_eq!(run.code, 1);
    let expected = format!("gregor: cannot load: {reason}; {remedy}; the verifier's log is in ");
    assert!(run.err.contains(&expected), "{}", run.err);
    assert_eq!(lines_said(&run.err), 1, "{}", run.err);

    // Not one map without CAP_BPF, and nothing to be found out of RLIMIT_MEMLOCK.
    let unprivileged = "+perfmon,+net_admin,+net_raw";
    let check = with(unprivileged, &["check", "--config", &config]);
    assert_eq!(check.code, 1);
    check.has(&["ERROR capabilities missing CAP_BPF", "ok memlock unknown"]);
    let run = with(unprivileged, &run_arguments);
    assert_eq!(run.code, 1);
    for part in ["map ", "cannot be created: EPERM", "missing CAP_BPF; "] {
        assert!(run.err.contains(part), "{part}: {}", run.err);
    }
    assert_eq!(lines_said(&run.err), 1, "{}", run.err);

    // Break-glass is what needs CAP_SYS_ADMIN, and says so.
    let detach = with(e2e::DOCUMENTED_CAPABILITIES, &["detach", "--all"]);
    assert_eq!(detach.code, 1);
    detach.has(&["FAILED: links (tcx, XDP, TCP): "]);
    for part in ["EPERM", "CAP_SYS_ADMIN"] {
        assert!(detach.out.contains(part), "{}", detach.out);
    }
}

/// As in a pod, where no program can be looked at by its id.
#[test]
fn check_with_the_documented_capabilities_recognises_gregors_own_program() {
    let lab = Lab::builder("clicheckown").pod("foo").start().unwrap();
    let gregor = lab
        .start_gregor(&tools::gregor().unwrap(), &lab.gregor_config())
        .unwrap();
    let script = e2e::gregor_with(&lab, e2e::DOCUMENTED_CAPABILITIES);
    let mut command = Command::new(script);
    command
        .args(["check", "--config"])
        .arg(gregor.config_path());
    let output = lab.node().output(command).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text
        .lines()
        .find(|line| line.contains("interface veth-foo"));
    let line = line.unwrap_or_else(|| panic!("{text}"));
    assert!(line.starts_with("ok"), "{line}");
    assert!(line.contains("gregor is on it"), "{line}");
    gregor.stop();
}

#[test]
fn loading_ends_at_the_time_limit() {
    let lab = lab(CacheKind::None);
    let config = file(&lab, "slow.toml", &lab.gregor_config());
    let control = lab.directory().join("slow.sock");
    let control = control.to_str().unwrap();
    for arguments in [
        &["check", "--config", &config, "--load-timeout", "0s"][..],
        &[
            "run",
            "--config",
            &config,
            "--control",
            control,
            "--load-timeout",
            "0s",
        ],
    ] {
        let late = run(&lab, arguments);
        assert_eq!(late.code, 1, "{}{}", late.out, late.err);
        let text = late.out + &late.err;
        let line = text.lines().find(|line| line.contains("has not finished"));
        assert!(
            line.is_some_and(|line| line.contains("--load-timeout")),
            "{text}"
        );
    }
}

#[test]
fn check_reports_problems() {
    let lab = lab(CacheKind::None);
    let config = lab.gregor_config();
    // There is no listener at NodeLocal's address: a warning, since it may start later.
    let silent = run(
        &lab,
        &["check", "--config", &file(&lab, "ok.toml", &config)],
    );
    assert_eq!(silent.code, 0, "{}{}", silent.out, silent.err);
    silent.has(&[
        "WARNING cache 169.254.20.10 does not answer",
        "correct [intercept] servers",
    ]);

    // Something else has the name of one of gregor's devices.
    lab.node()
        .ip("link add gregor0-peer type veth peer name other\n")
        .unwrap();
    let taken = run(&lab, &["check"]);
    assert_eq!(taken.code, 1, "{}{}", taken.out, taken.err);
    taken.has(&[
        "ERROR return path queries cannot pass: the pair of veths by which queries pass (gregor0 and gregor0-peer)",
        "whatever else has the names of these devices",
    ]);
    lab.node().ip("link del gregor0-peer\n").unwrap();

    let bad = config.replace("cname =", "cnam =");
    let line = bad
        .lines()
        .position(|line| line.starts_with("cnam"))
        .unwrap()
        + 1;
    let bad = file(&lab, "bad.toml", &bad);
    let refused = run(&lab, &["check", "--config", &bad]);
    assert_eq!(refused.code, 1, "{}{}", refused.out, refused.err);
    refused.has(&[
        "ERROR configuration",
        &format!("bad.toml:{line}"),
        "`gregor run` would not work as it should",
    ]);
    let json = run(&lab, &["check", "--json", "--config", &bad]);
    assert_eq!(json.code, 1);
    let report: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(report["ok"], false);
    // `run` refuses it with the same place.
    let run_bad = run(
        &lab,
        &["run", "--config", &bad, "--control", &file(&lab, "x", "")],
    );
    assert_eq!(run_bad.code, 1);
    assert!(
        run_bad.err.contains(&format!("bad.toml:{line}")),
        "{}",
        run_bad.err
    );

    let missing = run(&lab, &["check", "--config", "/nowhere/gregor.toml"]);
    assert_eq!(missing.code, 1);
    missing.has(&["ERROR configuration", "/nowhere/gregor.toml"]);
}

#[test]
fn status_shows_the_state_of_the_daemon() {
    let lab = lab(CacheKind::Embedded);
    let control = lab.directory().join("gregor.sock");
    let control = control.to_str().unwrap();
    let no_daemon = run(&lab, &["status", "--control", control]);
    assert_eq!(no_daemon.code, 1);
    assert!(
        no_daemon.out.is_empty() && no_daemon.err.contains(control),
        "{}",
        no_daemon.err
    );

    let gregor = start(&lab, &lab.gregor_config());
    assert!(!lab.pod("foo").getent(BROKER).unwrap().is_empty());
    assert!(!lab.pod("baz").getent(BROKER).unwrap().is_empty());
    let status = run(&lab, &["status", "--control", control]);
    assert_eq!(status.code, 0, "{}", status.err);
    status.has(&[
        "ready yes",
        "hook tcx, first",
        "servers 169.254.20.10 172.20.0.10 fd00:10::a fd00:20::a",
        "heartbeat ",
        "rules (1)",
        "kafka: *.aws.private.kafka.managed.{namespace}.svc.cluster.local → kafka-upstream.{namespace}.svc.cluster.local",
        "interfaces (",
        "veth-foo (",
        "veth-baz (",
        "taken matched ",
        "pass no_rule ",
        "reply NOERROR 2",
        "passed on no_target ",
    ]);
    let json = run(&lab, &["status", "--json", "--control", control]);
    assert_eq!(json.code, 0);
    let status: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(status["readiness"]["serving"], true);
    assert_eq!(status["rules"][0]["name"], "kafka");
    assert_eq!(status["responder"]["replies"]["NOERROR"], 2);
    assert_eq!(status["responder"]["namespaces"]["foo"]["answer"], 2);
    assert_eq!(status["kernel"]["requests"][1]["verdict"], "taken");
    // Of baz's two queries the second may come when the program has the denial of the first.
    let no_target = Metrics::of(&gregor).passed("no_target");
    let count = |value: &serde_json::Value| value.as_u64().unwrap() as f64;
    let taken = count(&status["kernel"]["requests"][1]["count"]);
    assert_eq!(taken + no_target, 4.0);
    let passed_on = count(&status["responder"]["passed_on"]["no_target"]);
    assert_eq!(passed_on + no_target, 2.0);
    // In the program's table from now on.
    assert_eq!(status["kernel"]["requests"][0]["verdict"], "answered");
    assert_eq!(status["kernel"]["answers"]["entries"], 2);
    assert_eq!(status["kernel"]["answers"]["no_target"], 1);
    assert_eq!(
        status["config"]["path"],
        gregor.config_path().to_str().unwrap()
    );

    // A second one on this node is refused, and the first keeps running.
    let config = gregor.config_path().to_str().unwrap();
    let second = run(&lab, &["run", "--config", config, "--control", control]);
    assert_eq!(second.code, 1);
    assert!(
        second.err.contains("another gregor (pid "),
        "{}",
        second.err
    );
    assert_eq!(
        lab.pod("foo").getent(BROKER).unwrap(),
        sorted(FOO_ADDRESSES)
    );

    // There is a warning about a pod that asks another server.
    let (query, _) = Wire::new("www.example.com", RecordType::A).bytes();
    let elsewhere = IpAddr::from([10, 250, 0, 2]);
    e2e::exchange_within(
        lab.pod("foo"),
        elsewhere,
        &query,
        std::time::Duration::from_millis(100),
    );
    let status = run(&lab, &["status", "--control", control]);
    status.has(&["WARNING: pods also ask servers", "10.250.0.2 1"]);
}

#[test]
fn explain_shows_the_reply_that_the_pod_gets() {
    let lab = lab(CacheKind::CoreDns { template: false });
    let config = file(&lab, "explain.toml", &lab.gregor_config());
    let explain = |arguments: &[&str]| {
        let ran = run(
            &lab,
            &[&["explain", "--config", &config], arguments].concat(),
        );
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        ran
    };
    let foo = explain(&[BROKER, "--namespace", "foo"]);
    foo.has(&[
        &format!("A pod in namespace foo asks 169.254.20.10 for {BROKER} A."),
        &format!("1. {}. A", qualified("foo")),
        "rule `kafka`: *.aws.private.kafka.managed.{namespace}.svc.cluster.local",
        "{namespace} = foo",
        "target kafka-upstream.foo.svc.cluster.local.",
        "the pod gets: NOERROR, CNAME kafka-upstream.foo.svc.cluster.local.",
        "3 A record(s), TTL",
        "10.10.1.11",
    ]);
    assert!(
        !foo.out.contains("2. "),
        "the resolver is content: {}",
        foo.out
    );
    explain(&[BROKER, "--namespace", "foo", "--type", "AAAA"]).has(&["no AAAA there (NODATA)"]);
    explain(&[&qualified("foo"), "--type", "AXFR"]).has(&["gregor leaves type AXFR to the cache"]);
    for qtype in ["ANY", "CNAME"] {
        explain(&[&qualified("foo"), "--type", qtype]).has(&[
            "the pod gets: NOERROR, CNAME kafka-upstream.foo.svc.cluster.local. alone, TTL",
        ]);
    }

    // A search list of the pod's own, and resolvers that have none.
    let list = "a.example,foo.svc.cluster.local,c.example,d.example,e.example,f.example,g.example";
    explain(&[BROKER, "--search", list, "--ndots", "7"]).has(&[
        "takes the first 6 of 7 domains",
        &format!("1. {BROKER}.a.example. A"),
        &format!("2. {BROKER}.foo.svc.cluster.local. A"),
        "10.10.1.11",
    ]);
    for list in ["", "."] {
        let never = explain(&[BROKER, "--search", list]);
        never.has(&[
            &format!("1. {BROKER}. A"),
            "a resolver that never searches asks for nothing else",
        ]);
        assert!(!never.out.contains("2. "), "{}", never.out);
    }
    explain(&[&format!("{BROKER}."), "--namespace", "foo"])
        .has(&["With a dot at its end the search list is not used"]);

    let baz = explain(&[BROKER, "--namespace", "baz"]);
    baz.has(&[
        "{namespace} = baz",
        "the target does not exist (NXDOMAIN): this tenant has none, so the existing cache answers",
        "passes untouched to the existing cache, which says:",
        "→ resolvers go on to the next name",
        &format!("4. {BROKER}. A"),
        "203.0.113.7",
    ]);
    let foreign = explain(&[&format!("{FOREIGN}.")]);
    foreign.has(&[
        "no rule matches",
        "passes untouched to the existing cache",
        "192.0.2.80",
    ]);
    let near = explain(&["a.aws.private.kafka.managed.x_y.svc.cluster.local."]);
    near.has(&[
        "nearest: rule `kafka`",
        "`x_y` cannot be {namespace}: no RFC 1123 label",
    ]);
    explain(&[BROKER, "--server", "10.1.2.3"]).has(&[
        "10.1.2.3 is not in [intercept] servers",
        "they pass untouched",
    ]);

    // The pod gets what it says.
    let _gregor = start(&lab, &lab.gregor_config());
    let (query, _) = Wire::new(&qualified("foo"), RecordType::A).bytes();
    let reply = exchange_from(lab.pod("foo"), CACHE, &query).unwrap();
    let reply = Message::from_vec(&reply).unwrap();
    assert_eq!(addresses(&reply), sorted(FOO_ADDRESSES));

    let unknown = run(
        &lab,
        &["explain", BROKER, "--type", "NOPE", "--config", &config],
    );
    assert_eq!(unknown.code, 2);
    assert!(unknown.err.contains("NOPE"), "{}", unknown.err);
    let missing = run(
        &lab,
        &["explain", BROKER, "--config", "/nowhere/gregor.toml"],
    );
    assert_eq!(missing.code, 1);
    assert!(
        missing.err.contains("/nowhere/gregor.toml"),
        "{}",
        missing.err
    );
}

#[test]
fn the_articles_corefile_is_imported_and_its_rule_works() {
    let lab = lab(CacheKind::CoreDns { template: false });
    let corefile = file(
        &lab,
        "Corefile",
        &format!("cluster.local:53 {{\n{ARTICLE_TEMPLATE}    forward . 172.20.0.10\n}}\n"),
    );
    let import = run(&lab, &["import", "corefile", &corefile]);
    assert_eq!(import.code, 0, "{}", import.err);
    import.has(&[
        "[[rule]]",
        "match = \"*.aws.private.kafka.managed.{namespace}.svc.cluster.local\"",
        "cname = \"kafka-upstream.{namespace}.svc.cluster.local\"",
        "ttl = 60",
    ]);
    assert!(
        import.err.contains("Corefile:") && import.err.contains("warning"),
        "{}",
        import.err
    );
    assert!(
        import.err.contains("spanned several labels"),
        "{}",
        import.err
    );
    let config = format!(
        "[intercept]\nservers = [\"{NODE_LOCAL_V4}\"]\n\n{}",
        import.out
    );
    let gregor = start(&lab, &config);
    assert_eq!(
        lab.pod("foo").getent(BROKER).unwrap(),
        sorted(FOO_ADDRESSES)
    );
    assert_eq!(Metrics::of(&gregor).namespace("foo", "answer"), 2.0);

    // What cannot be said is left out, and the exit code says so.
    let odd = file(
        &lab,
        "Odd",
        ".:53 {\n    template IN A example.org {\n        answer \"{{ .Name }} 60 IN A 10.0.0.1\"\n    }\n}\n",
    );
    let odd = run(&lab, &["import", "corefile", &odd]);
    assert_eq!(odd.code, 1);
    assert!(!odd.out.contains("[[rule]]"), "{}", odd.out);
    assert!(
        odd.err.contains("Odd:") && odd.err.contains("not imported"),
        "{}",
        odd.err
    );
}

#[test]
fn detach_requires_all() {
    let lab = lab(CacheKind::None);
    let ran = run(&lab, &["detach"]);
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("--all"), "{}", ran.err);
}

/// What scrapers rely on in the text format: HELP and TYPE before the samples of a family, each series once.
fn lint(page: &str) {
    assert!(page.ends_with("# EOF\n"), "{page}");
    let mut kinds = BTreeMap::new();
    let mut series = BTreeSet::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap();
            assert!(kinds.insert(family, kind).is_none(), "{family} twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (sample, value) = line.rsplit_once(' ').unwrap();
        assert!(value.parse::<f64>().unwrap() >= 0.0, "{line}");
        assert!(series.insert(sample), "{line} twice");
        let name = sample.split('{').next().unwrap();
        let known = kinds.iter().any(|(family, kind)| {
            name == match *kind {
                "counter" => format!("{family}_total"),
                "info" => format!("{family}_info"),
                _ => (*family).to_owned(),
            }
        });
        assert!(known && name.starts_with("gregor_"), "{line}");
    }
    assert!(series.len() > 30, "{page}");
}

#[test]
fn the_pages_and_the_log_contain_no_query_names() {
    let tenant = "tenant-quux-with-a-long-name";
    let mut lab = Lab::builder("e2epages").pod("baz").start().unwrap();
    let target = |namespace: &str, target: &str| ExternalName {
        service: "kafka-upstream".to_owned(),
        namespace: namespace.to_owned(),
        target: target.to_owned(),
    };
    lab.change_world(|world| {
        world.external_names.push(target(tenant, FOO_ENDPOINT));
        world
            .external_names
            .push(target("broken", "nowhere.vpce.amazonaws.com."));
    });
    lab.add_pod(tenant).unwrap();
    lab.add_pod("broken").unwrap();
    let gregor = start(&lab, &lab.gregor_config());
    let ask = |pod: &str, server: IpAddr, name: &str, qtype: RecordType| {
        let (query, _) = Wire::new(name, qtype).edns(0).bytes();
        exchange_from(lab.pod(pod), server, &query).unwrap();
    };
    let secret = |namespace: &str| format!("s3cret.{}", qualified(namespace));
    // Answered, of a type not kept, passed on, foreign, and behind a server that has ended.
    ask(tenant, CACHE, &secret(tenant), RecordType::A);
    ask(tenant, CACHE, &secret(tenant), RecordType::TXT);
    ask("baz", CACHE, &secret("made-up-namespace"), RecordType::A);
    ask("baz", CACHE, "s3cret.example.com", RecordType::A);
    gregor.signal(Signal::SIGHUP);
    until("the reload", || {
        gregor.log().contains("is in force").then_some(())
    });
    let page = gregor.metrics().unwrap();
    lint(&page);
    let log = gregor.log();
    assert!(log.contains("INFO") && log.contains("ready"), "{log}");
    for (what, text) in [("metrics", &page), ("log", &log)] {
        for name in [
            "s3cret",
            "lkc-",
            "kafka-upstream",
            "vpce",
            "made-up-namespace",
            "s3cret.example",
        ] {
            assert!(!text.contains(name), "{name} in the {what}:\n{text}");
        }
    }
    // A namespace with a target has a line in the metrics, and none in the log.
    assert_eq!(Metrics::parse(&page).namespace(tenant, "answer"), 2.0);
    assert!(!log.contains(tenant), "{log}");

    // Replies get lost; without a route the query would pass.
    for arguments in [
        "add table inet lost",
        "add chain inet lost in { type filter hook prerouting priority -300 ; }",
        "add rule inet lost in iifname uplink drop",
    ] {
        let mut command = Command::new(tools::nft().unwrap());
        command.args(arguments.split(' '));
        assert!(lab.node().output(command).unwrap().status.success());
    }
    ask(
        "baz",
        IpAddr::V4(CLUSTER_DNS_V4),
        &secret("unreachable"),
        RecordType::A,
    );
    let metrics = Metrics::of(&gregor);
    assert!(metrics.responses("SERVFAIL") >= 1.0);
    assert_eq!(metrics.namespace("_other", "servfail"), 1.0);
    let text = gregor.metrics().unwrap() + &gregor.log();
    assert!(
        !text.contains("unreachable.") && !text.contains("s3cret"),
        "{text}"
    );

    let (code, body) = gregor.get("/healthz").unwrap();
    assert_eq!((code, body.as_str()), (200, "ok\n"));
    let (code, body) = gregor.get("/readyz").unwrap();
    assert_eq!((code, body.as_str()), (200, "ready\n"));
    assert_eq!(gregor.get("/nothing").unwrap().0, 404);
}

/// The one line of the log that names a tenant: its own Service leads nowhere, which the operator has to know. Rate-limited,
/// and without the name that was asked for.
#[test]
fn a_broken_chain_names_the_tenant_and_nothing_else() {
    let lab = Lab::builder("e2ewarn")
        .pod("foo")
        .cache(CacheKind::None)
        .start()
        .unwrap();
    lab.change_world(|world| {
        world.external_names[0].target = "nowhere.vpce.amazonaws.com.".to_owned();
    });
    let gregor = start(&lab, &lab.gregor_config());
    let (query, _) = Wire::new(&format!("s3cret.{}", qualified("foo")), RecordType::A).bytes();
    let reply = exchange_from(lab.pod("foo"), IpAddr::V4(CLUSTER_DNS_V4), &query).unwrap();
    assert_eq!(reply[3] & 0x0f, 2, "SERVFAIL");
    let log = gregor.log();
    let warnings: Vec<&str> = log.lines().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{log}");
    assert!(warnings[0].contains("foo"), "{log}");
    assert!(!log.contains("s3cret") && !log.contains("nowhere"), "{log}");
}
