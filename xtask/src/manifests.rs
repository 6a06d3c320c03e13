//! `cargo xtask manifests`: the chart rendered as plain manifests, and the check that they are what the chart says.

use std::{
    fs,
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use gregor_lab::tools::{self, say};

use crate::machine;

#[derive(Debug, Args)]
pub struct Options {
    /// Change nothing; fail where a file is not what the chart makes
    #[arg(long)]
    check: bool,
}

/// Files of deploy/manifests with the values that make them.
const FILES: [(&str, &[&str]); 3] = [
    ("gregor.yaml", &["--set", "clusterDNS={172.20.0.10}"]),
    (
        "detach.yaml",
        &["--set", "clusterDNS={172.20.0.10},detach=true"],
    ),
    (
        "monitoring.yaml",
        &[
            "--set",
            "clusterDNS={172.20.0.10},podMonitor.enabled=true,prometheusRule.enabled=true,dashboard.enabled=true",
            "--show-only",
            "templates/podmonitor.yaml",
            "--show-only",
            "templates/prometheusrule.yaml",
            "--show-only",
            "templates/dashboard.yaml",
        ],
    ),
];

/// What the chart is rendered for where there is no cluster.
pub const KUBE_VERSION: &str = "1.36.0";

/// Values, and the expected manifests.
const MAKES: &[(&str, &str)] = &[
    ("preset=nodelocal", "servers = [\"169.254.20.10\"]"),
    (
        "preset=aks",
        "servers = [\"169.254.10.11\",\"169.254.10.10\",\"10.0.0.10\"]",
    ),
    (
        "preset=gke,clusterDNS={10.52.0.10}",
        "servers = [\"169.254.20.10\",\"169.254.169.254\",\"10.52.0.10\"]",
    ),
    (
        "preset=eks",
        "servers = [\"169.254.20.10\",\"172.20.0.10\",\"10.100.0.10\"]",
    ),
    (
        "preset=eks-auto",
        "servers = [\"169.254.20.10\",\"172.20.0.10\",\"10.100.0.10\"]",
    ),
    (
        "preset=service,clusterDNS={10.96.0.10,fd00::a}",
        "servers = [\"10.96.0.10\",\"fd00::a\"]",
    ),
    ("servers={192.0.2.1}", "servers = [\"192.0.2.1\"]"),
    (
        "servers={auto,192.0.2.1}",
        "servers = [\"auto\",\"192.0.2.1\"]",
    ),
    ("preset=auto", "servers = [\"auto\"]"),
    (
        "preset=auto",
        "kubelet_config = \"/var/lib/kubelet/config.yaml\"",
    ),
    ("preset=auto", "mountPath: /var/lib/kubelet/config.yaml"),
    (
        "preset=auto,kubernetes.kubeletConfigDir=/etc/kubelet.d",
        "kubelet_config_dir = \"/etc/kubelet.d\"",
    ),
    (
        "preset=auto,kubernetes.kubeletConfigDir=/etc/kubelet.d",
        "path: /etc/kubelet.d\n            type: Directory",
    ),
    (
        "preset=auto,kubernetes.kubeletConfig=,kubernetes.kubeletConfigDir=/x",
        "cluster_domain = \"cluster.local\"\n\n    [[rule]]",
    ),
    (
        "image.digest=sha256:0123456789012345678901234567890123456789012345678901234567890123",
        "gregor@sha256:0123",
    ),
    (
        "image.repository=r.example/gregor,image.tag=v2",
        "image: r.example/gregor:v2",
    ),
    ("image.pullPolicy=Always", "imagePullPolicy: Always"),
    ("imagePullSecrets[0].name=secret", "- name: secret"),
    (
        "metrics.address=0.0.0.0,metrics.port=9999",
        "listen = \"0.0.0.0:9999\"",
    ),
    ("metrics.address=::1", "listen = \"[::1]:9753\""),
    ("config=[intercept]", "    [intercept]"),
    ("extraConfig=[limits]", "    [limits]"),
    (
        "identity.sources={cni},detach=false",
        "cname = \"kafka-upstream.{namespace}.svc.cluster.local\"\n    ttl = 60\n    clients = \"own-namespace\"",
    ),
    (
        "rules[0].name=a,rules[0].match=a.b,rules[0].cname=c.d,rules[0].clients={foo,bar}",
        "clients = [\"foo\",\"bar\"]",
    ),
    (
        "rules[0].name=a,rules[0].match=a.b,rules[0].cname=c.d,rules[0].clients.tier=gold,rules[0].clients.app={x,y}",
        "clients = { \"app\" = [\"x\",\"y\"], \"tier\" = \"gold\" }",
    ),
    (
        "rules[0].name=a,rules[0].match=a.\\{namespace\\}.b,rules[0].cname=c.d,rules[0].namespaces={foo,team-*}",
        "namespaces = [\"foo\",\"team-*\"]",
    ),
    (
        "rules[0].name=a,rules[0].match=a.\\{namespace\\}.b,rules[0].cname=c.d,rules[0].namespaces.tier=gold,rules[0].namespaces.app={x,y}",
        "namespaces = { \"app\" = [\"x\",\"y\"], \"tier\" = \"gold\" }",
    ),
    (
        "rules[0].name=a,rules[0].match=a.\\{namespace\\}.b,rules[0].cname=c.d,rules[0].namespaces.tier=gold",
        "resources: [\"namespaces\"]\n    verbs: [\"list\", \"watch\"]",
    ),
    (
        "config=namespaces = { tier = 'gold' }",
        "resources: [\"namespaces\"]",
    ),
    (
        "identity.sources={cni},rules[0].name=a,rules[0].match=a.\\{namespace\\}.b,rules[0].cname=c.d,rules[0].clients=any",
        "clients = \"any\"",
    ),
    (
        "rules[0].name=a,rules[0].match=a.b,rules[0].cname=c.d,rules[0].follow=false",
        "follow = false",
    ),
    ("kubernetes.watch=true", "verbs: [\"list\", \"watch\"]"),
    (
        "kubernetes.watch=true",
        "automountServiceAccountToken: true",
    ),
    ("kubernetes.watch=false", "watch = false"),
    ("kubernetes.events=true", "verbs: [\"create\"]"),
    ("kubernetes.events=false", "events = false"),
    (
        "kubernetes.clusterDomain=k8s.example",
        "cluster_domain = \"k8s.example\"",
    ),
    ("identity.sources={kubernetes}", "resources: [\"pods\"]"),
    (
        "identity.sources={kubernetes},kubernetes.watch=false",
        "automountServiceAccountToken: true",
    ),
    ("identity.sources={cni}", "type: DirectoryOrCreate"),
    (
        "identity.sources={cni,kubernetes},identity.cniResults=/var/lib/cni/cache/results",
        "cni_results = \"/var/lib/cni/cache/results\"",
    ),
    (
        "identity.sources={cni,kubernetes}",
        "sources = [\"cni\",\"kubernetes\"]",
    ),
    (
        "identity.sources={cni},identity.protectTargets=true",
        "protect_targets = true",
    ),
    (
        "identity.sources={cni},tenants.mayClaim={*.confluent.cloud,a.example.net},tenants.namesPerNamespace=5",
        "[tenants]\n    may_claim = [\"*.confluent.cloud\",\"a.example.net\"]\n    names_per_namespace = 5\n",
    ),
    ("handover=false", "maxUnavailable: 1"),
    ("privileged=true", "privileged: true"),
    ("detach=true", "- SYS_ADMIN"),
    ("seccompProfile.type=Unconfined", "type: Unconfined"),
    (
        "handover=true",
        "        appArmorProfile:\n          type: Unconfined\n",
    ),
    (
        "appArmorProfile.type=RuntimeDefault",
        "        appArmorProfile:\n          type: RuntimeDefault\n",
    ),
    ("extraArgs={--log,debug}", "- \"debug\""),
    ("podAnnotations.a=b", "a: b"),
    ("podMonitor.enabled=true,metrics.port=9000", "$1:9000"),
    ("capabilities={BPF,SYS_RESOURCE}", "- SYS_RESOURCE"),
];

/// The last minor version of Kubernetes that takes profiles of AppArmor by annotations alone, values, and the expected annotation.
const BY_ANNOTATION: [(&str, &str, &str); 3] = [
    ("1.29.0", "detach=false", "/gregor: unconfined\n"),
    ("1.29.0", "detach=true", "/detach: unconfined\n"),
    (
        "1.29.0",
        "appArmorProfile.type=Localhost,appArmorProfile.localhostProfile=own",
        "/gregor: localhost/own\n",
    ),
];

/// Values that it refuses, and what its message names.
const REFUSES: &[(&str, &str)] = &[
    ("preset=azure", "preset"),
    ("preset=service", "clusterDNS"),
    ("unknown=1", "unknown"),
    ("servers={automatic}", "servers"),
    (
        "preset=auto,kubernetes.kubeletConfig=config.yaml",
        "kubeletConfig",
    ),
    (
        "preset=auto,kubernetes.kubeletConfig=,kubernetes.watch=false",
        "kubeletConfig",
    ),
    ("clusterDNS={kube-dns}", "clusterDNS"),
    ("capabilities={CAP_BPF}", "capabilities"),
    ("metrics.port=0", "port"),
    ("image.digest=latest", "digest"),
    ("kubernetes.watch=yes", "watch"),
    ("identity.sources={guess}", "sources"),
    ("identity.cniResults=results", "cniResults"),
    ("identity.protectTargets=yes", "protectTargets"),
    ("identity.protectTargets=true", "identity.sources"),
    ("kubernetes.clusterDomain=a b", "clusterDomain"),
    ("tenants.mayClaim={*.confluent.cloud}", "identity.sources"),
    (
        "identity.sources={cni},tenants.mayClaim={*.confluent.cloud},kubernetes.watch=false",
        "kubernetes.watch",
    ),
    (
        "identity.sources={cni},tenants.mayClaim={*.cloud}",
        "mayClaim",
    ),
    ("tenants.namesPerNamespace=0", "namesPerNamespace"),
    ("handover=yes", "handover"),
    ("rules[0].name=a,rules[0].cname=b", "rules"),
    ("podMonitor.interval=soon", "interval"),
];

pub fn run(options: &Options) -> Result<ExitCode> {
    if options.check {
        let checked = check()?;
        say(&format!("{checked} renderings are as they should be"));
        return Ok(ExitCode::SUCCESS);
    }
    for (file, values) in FILES {
        let path = manifests()?.join(file);
        fs::write(&path, render(values)?)?;
        say(&format!("wrote {}", path.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Lints the chart, compares the files, and tries values. Returns how many renderings that were.
pub fn check() -> Result<usize> {
    let mut lint = helm("lint")?;
    lint.args(["--strict", "--set", "clusterDNS={172.20.0.10}"])
        .arg(chart()?);
    output(&mut lint)?;
    for (file, values) in FILES {
        let path = manifests()?.join(file);
        let there = fs::read_to_string(&path).unwrap_or_default();
        if there != render(values)? {
            bail!(
                "{} is not what the chart makes: run `cargo xtask manifests`",
                path.display()
            );
        }
    }
    for (values, expected) in MAKES {
        let text = render(&["--set", values])?;
        if !text.contains(expected) {
            bail!("with {values} the chart makes no {expected}:\n{text}");
        }
    }
    for (version, values, expected) in BY_ANNOTATION {
        let text = render(&["--set", values, "--kube-version", version])?;
        if !text.contains(expected) || text.contains("appArmorProfile:") {
            bail!("for {version}, with {values} the chart makes no annotation {expected}:\n{text}");
        }
    }
    for (values, named) in REFUSES {
        match render(&["--set", values]) {
            Ok(_) => bail!("the chart takes {values}"),
            Err(error) if format!("{error:#}").contains(named) => {}
            Err(error) => bail!("with {values} the chart names no {named}: {error:#}"),
        }
    }
    Ok(1 + FILES.len() + MAKES.len() + BY_ANNOTATION.len() + REFUSES.len())
}

fn render(values: &[&str]) -> Result<String> {
    let mut template = helm("template")?;
    template
        .arg("gregor")
        .arg(chart()?)
        .arg("--namespace=kube-system")
        .args(values);
    output(&mut template)
}

fn helm(command: &str) -> Result<Command> {
    let mut helm = Command::new(tools::helm()?);
    // Without a cluster it goes by what it was built with, which was nothing.
    helm.args([command, "--kube-version", KUBE_VERSION]);
    Ok(helm)
}

fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("running helm")?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout)
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn chart() -> Result<PathBuf> {
    Ok(machine::root()?.join("deploy/helm"))
}

fn manifests() -> Result<PathBuf> {
    Ok(machine::root()?.join("deploy/manifests"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every value of the schema is in values.yaml and the other way round; the schema says nothing of a value that is not there.
    #[test]
    fn schema_and_values_name_the_same() {
        let chart = chart().unwrap();
        let schema = fs::read_to_string(chart.join("values.schema.json")).unwrap();
        let schema: serde_json::Value = serde_json::from_str(&schema).unwrap();
        let of_schema: BTreeSet<&str> = schema["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            // Helm's own.
            .filter(|key| *key != "global")
            .collect();
        let values = fs::read_to_string(chart.join("values.yaml")).unwrap();
        let of_values: BTreeSet<&str> = values
            .lines()
            .filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()))
            .filter_map(|line| Some(line.split_once(':')?.0))
            .collect();
        assert_eq!(of_schema, of_values);
    }

    #[test]
    fn chart_and_workspace_have_one_version() {
        let chart = fs::read_to_string(chart().unwrap().join("Chart.yaml")).unwrap();
        let version = env!("CARGO_PKG_VERSION");
        for key in ["version", "appVersion"] {
            let line = format!("{key}: {version}");
            assert!(chart.lines().any(|l| l == line), "{line}");
        }
    }

    #[test]
    fn each_alert_has_a_runbook() {
        let root = machine::root().unwrap();
        let page = fs::read_to_string(root.join("docs/kubernetes.md")).unwrap();
        let rules = chart().unwrap().join("templates/prometheusrule.yaml");
        let rules = fs::read_to_string(rules).unwrap();
        let alerts: Vec<&str> = rules
            .lines()
            .filter_map(|line| line.trim().strip_prefix("- alert: "))
            .collect();
        assert!(!alerts.is_empty());
        for alert in alerts {
            assert!(page.contains(&format!("### {alert}\n")), "{alert}");
            let anchor = format!("#{}", alert.to_lowercase());
            assert!(
                rules.contains(&format!("runbooks }}}}{anchor}\n")),
                "{anchor}"
            );
        }
    }
}
