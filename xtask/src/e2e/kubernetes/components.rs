//! The programs of the cluster: built from their Go modules once, or installed from the distribution.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::tools::{self, apt_install, run_quietly};
use serde_json::Value;

/// Of every component that comes from k8s.io/kubernetes.
pub const KUBERNETES_VERSION: &str = "1.36.3";
/// Where the custom resources of the chart's PodMonitor and PrometheusRule come from.
const PROMETHEUS_OPERATOR: &str = "github.com/prometheus-operator/prometheus-operator@v0.85.0";
const CUSTOM_RESOURCES: [&str; 2] = ["podmonitors", "prometheusrules"];

/// Its command line applies a policy as its webhook does.
const KYVERNO_VERSION: &str = "1.19.1";

/// Where everything is.
#[derive(Clone, Debug)]
pub struct Components {
    /// A directory with kube-apiserver, kubelet, etcd and so on.
    pub binaries: PathBuf,
    pub helm: PathBuf,
    pub coredns: PathBuf,
    pub kyverno: PathBuf,
    /// Manifests of custom resources.
    pub custom_resources: Vec<PathBuf>,
}

impl Components {
    /// Finds, installs or builds; the first time takes some quarter of an hour, nearly all of it the compilation of the API server
    /// and of Kyverno.
    pub fn ensure() -> Result<Self> {
        packages()?;
        let marker = tools::build_once_as(
            "kubernetes",
            KUBERNETES_VERSION,
            "bin/kubelet",
            &build_kubernetes,
        )?;
        let binaries = marker
            .parent()
            .context("the programs have a directory")?
            .to_owned();
        Ok(Self {
            binaries,
            helm: tools::helm()?,
            coredns: tools::coredns()?,
            kyverno: tools::build_once_as("kyverno", KYVERNO_VERSION, "kyverno", &build_kyverno)?,
            custom_resources: custom_resources()?,
        })
    }

    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }
}

/// What the distribution has.
fn packages() -> Result<()> {
    let missing: Vec<&str> = [
        ("containerd", tools::find("containerd").is_some()),
        ("runc", tools::find("runc").is_some()),
        (
            "containernetworking-plugins",
            Path::new("/usr/lib/cni/bridge").exists(),
        ),
        ("busybox-static", Path::new("/bin/busybox").exists()),
        ("iptables", tools::find("iptables").is_some()),
        ("nftables", tools::find("nft").is_some()),
        ("conntrack", tools::find("conntrack").is_some()),
        ("iproute2", tools::find("ip").is_some()),
        ("bpftool", tools::find("bpftool").is_some()),
    ]
    .into_iter()
    .filter_map(|(package, there)| (!there).then_some(package))
    .collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_install(&missing)
}

fn build_kubernetes(directory: &Path) -> Result<()> {
    let source = directory.join("source");
    fs::create_dir_all(&source)?;
    fs::write(source.join("go.mod"), go_mod()?)?;
    let version = format!("v{KUBERNETES_VERSION}");
    let (major, rest) = KUBERNETES_VERSION
        .split_once('.')
        .context("a version has a dot")?;
    let minor = rest.split('.').next().unwrap_or_default();
    let flags = format!(
        "-s -w -X k8s.io/component-base/version.gitVersion={version} -X k8s.io/component-base/version.gitMajor={major} -X k8s.io/component-base/version.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion={version}"
    );
    let bin = directory.join("bin");
    fs::create_dir_all(&bin)?;
    // One after the other, the kubelet last: where it is, all are.
    for (name, package) in [
        ("etcd", "go.etcd.io/etcd/server/v3"),
        ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
        ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
        (
            "kube-controller-manager",
            "k8s.io/kubernetes/cmd/kube-controller-manager",
        ),
        ("kube-scheduler", "k8s.io/kubernetes/cmd/kube-scheduler"),
        ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
        ("kubelet", "k8s.io/kubernetes/cmd/kubelet"),
    ] {
        let mut go = tools::go_command()?;
        go.args(["build", "-mod=mod", "-ldflags", &flags, "-o"])
            .arg(bin.join(name))
            .arg(package)
            .current_dir(&source);
        run_quietly(&format!("building {name} {version}"), &mut go)?;
    }
    Ok(())
}

/// In its own module, whose replacements a dependency does not have.
fn build_kyverno(directory: &Path) -> Result<()> {
    let module = format!("github.com/kyverno/kyverno@v{KYVERNO_VERSION}");
    let source = downloaded(&module, "Dir")?;
    let mut go = tools::go_command()?;
    go.args(["build", "-ldflags", "-s -w", "-o"])
        .arg(directory.join("kyverno"))
        .arg("./cmd/cli/kubectl-kyverno")
        .current_dir(source);
    run_quietly(&format!("building Kyverno {KYVERNO_VERSION}"), &mut go)
}

/// A module that can build the commands: the staging modules, which k8s.io/kubernetes replaces by its own directories, replace
/// their published copies, and everything else has the version that k8s.io/kubernetes has.
fn go_mod() -> Result<String> {
    let module = format!("k8s.io/kubernetes@v{KUBERNETES_VERSION}");
    let upstream = fs::read_to_string(downloaded(&module, "GoMod")?)?;
    let staging = KUBERNETES_VERSION
        .split_once('.')
        .map(|(_, rest)| format!("v0.{rest}"))
        .context("a version has a dot")?;
    let mut text = format!(
        "module gregor/kubernetes\ngo 1.26.0\nrequire k8s.io/kubernetes v{KUBERNETES_VERSION}\n"
    );
    text.push_str("replace (\n");
    for name in upstream.lines().filter_map(staging_module) {
        let _ = writeln!(text, "{name} => {name} {staging}");
    }
    text.push_str(")\nrequire (\n");
    let mut inside = false;
    for line in upstream.lines() {
        match line {
            "require (" => inside = true,
            ")" => inside = false,
            _ if inside && staging_module(line).is_none() => {
                let _ = writeln!(text, "{line}");
            }
            _ => {}
        }
    }
    text.push_str(")\n");
    Ok(text)
}

/// The module of a `require` line for a staging module, whose version means a directory.
fn staging_module(line: &str) -> Option<&str> {
    let (module, rest) = line.trim().split_once(' ')?;
    (module.starts_with("k8s.io/") && rest.starts_with("v0.0.0") && !rest.starts_with("v0.0.0-"))
        .then_some(module)
}

/// A field of what `go mod download` says of a module.
fn downloaded(module: &str, field: &str) -> Result<PathBuf> {
    let output = tools::go_command()?
        .args(["mod", "download", "-json", module])
        .current_dir("/")
        .stderr(Stdio::inherit())
        .output()
        .context("running go")?;
    if !output.status.success() {
        bail!("go mod download {module}: {}", output.status);
    }
    let said: Value = serde_json::from_slice(&output.stdout)?;
    let path = said[field]
        .as_str()
        .with_context(|| format!("go says no {field} of {module}"))?;
    Ok(path.into())
}

fn custom_resources() -> Result<Vec<PathBuf>> {
    let directory = downloaded(PROMETHEUS_OPERATOR, "Dir")?.join("example/prometheus-operator-crd");
    CUSTOM_RESOURCES
        .iter()
        .map(|name| {
            let path = directory.join(format!("monitoring.coreos.com_{name}.yaml"));
            if !path.exists() {
                bail!("{PROMETHEUS_OPERATOR} has no {}", path.display());
            }
            Ok(path)
        })
        .collect()
}

/// The libraries that a dynamically linked program is started with.
pub fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let output = Command::new("ldd").arg(program).output()?;
    Ok(String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
        .map(PathBuf::from)
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staging_modules_are_recognised() {
        assert_eq!(staging_module("\tk8s.io/api v0.0.0"), Some("k8s.io/api"));
        assert_eq!(
            staging_module("\tk8s.io/kube-openapi v0.0.0-20260317180543-43fb72c5454a"),
            None
        );
        assert_eq!(staging_module("\tk8s.io/klog/v2 v2.140.0"), None);
        assert_eq!(staging_module(")"), None);
    }
}
