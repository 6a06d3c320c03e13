//! The cluster: its networks, its nodes' namespaces, and the removal of all of it.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::tools;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use super::{
    cgroups,
    components::Components,
    config::{self, NodeName},
    images::PAUSE,
    pki::{API_SERVICE, Authority, Subject},
};

/// All nodes; the first one has the control plane.
pub const NODES: [NodeName; 2] = [NodeName(1), NodeName(2)];
/// The network namespace of the wire between them.
const WIRE: &str = "gregor-wire";
/// What the kubelet sets for the whole machine.
const SYSCTLS: [&str; 5] = [
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
];

/// What to remove when the process ends.
static LEFT: Mutex<Option<Left>> = Mutex::new(None);

/// Removes the cluster, if there is one. Safe to call at any time, and again.
pub fn remove() {
    let mut left = LEFT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(mut left) = left.take() {
        left.remove();
    }
}

#[derive(Debug, Default)]
struct Left {
    directory: PathBuf,
    launchers: Vec<Child>,
    sysctls: Vec<(PathBuf, String)>,
}

impl Left {
    fn remove(&mut self) {
        // `unshare --kill-child` takes the first process of the node with it, and that one everything else.
        for launcher in &mut self.launchers {
            let _ = launcher.kill();
            let _ = launcher.wait();
        }
        for node in NODES {
            let name = node.netns();
            end_all_in(&name);
            delete_netns(&name);
        }
        end_all_in(WIRE);
        delete_netns(WIRE);
        let _ = fs::remove_dir_all(self.directory.join(WIRE));
        for node in NODES {
            cgroups::remove(&node.cgroup());
        }
        for (file, value) in self.sysctls.drain(..) {
            let _ = fs::write(file, value);
        }
        let _ = fs::remove_file(self.directory.join("sysctls"));
        for node in NODES {
            // Nothing of it is mounted any more: mounts ended with the namespace.
            let _ = fs::remove_dir_all(self.directory.join(node.to_string()));
        }
    }
}

fn end_all_in(netns: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", netns]).output() else {
        return;
    };
    for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
        if let Ok(pid) = pid.parse() {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn delete_netns(name: &str) {
    if Path::new("/run/netns").join(name).exists() {
        let _ = Command::new("ip").args(["netns", "del", name]).status();
    }
}

/// A running cluster, removed when dropped.
pub struct Cluster {
    pub directory: PathBuf,
    components: Components,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        remove();
    }
}

impl Cluster {
    /// Starts the nodes, with the images in `DIRECTORY/images`, and returns when they are ready.
    pub fn start(directory: &Path, components: &Components) -> Result<Self> {
        let cluster = Self {
            directory: directory.to_owned(),
            components: components.clone(),
        };
        // Of a run that was killed.
        let mut stale = Left {
            directory: directory.to_owned(),
            sysctls: saved_sysctls(directory),
            ..Left::default()
        };
        stale.remove();
        fs::create_dir_all(directory.join("log"))?;
        let _ = fs::remove_file(directory.join("log").join(config::AUDIT_LOG));
        let sysctls = current_sysctls();
        fs::write(directory.join("sysctls"), serde_json::to_vec(&sysctls)?)?;
        *LEFT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(Left {
            directory: directory.to_owned(),
            launchers: Vec::new(),
            sysctls,
        });
        cluster.certificates()?;
        cluster.networks()?;
        for node in NODES {
            cluster.launch(node)?;
        }
        for node in NODES {
            cluster.wait_until(
                &format!("{node} is ready"),
                Duration::from_secs(120),
                || {
                    cluster.ensure_alive()?;
                    let node = cluster.json(&["get", "node", &node.to_string()])?;
                    Ok(condition(&node, "Ready"))
                },
            )?;
        }
        // Pods are refused until these are there.
        cluster.wait_until(
            "the default service account",
            Duration::from_secs(30),
            || {
                let namespace = "--namespace=default";
                cluster.kubectl(&["get", namespace, "serviceaccount", "default"])?;
                cluster.kubectl(&["get", namespace, "configmap", "kube-root-ca.crt"])?;
                Ok(true)
            },
        )?;
        Ok(cluster)
    }

    fn certificates(&self) -> Result<()> {
        let pki = self.directory.join("pki");
        let authority = Authority::new(&pki, config::API_SERVER)?;
        let client = |file: &str, name: &str, organisation: Option<&str>| {
            authority.issue(
                file,
                &Subject {
                    name,
                    organisation,
                    addresses: &[],
                    names: &[],
                },
            )
        };
        authority.issue(
            "apiserver",
            &Subject {
                name: "kube-apiserver",
                organisation: None,
                addresses: &[API_SERVICE, NODES[0].address().into()],
                names: &["kubernetes", "kubernetes.default.svc.cluster.local"],
            },
        )?;
        client(
            "apiserver-kubelet",
            "apiserver-kubelet",
            Some("system:masters"),
        )?;
        client("admin", "admin", Some("system:masters"))?;
        client("controller-manager", "system:kube-controller-manager", None)?;
        client("scheduler", "system:kube-scheduler", None)?;
        client("proxy", "system:kube-proxy", None)?;
        for node in NODES {
            let name = node.to_string();
            authority.issue(
                &name,
                &Subject {
                    name: &format!("system:node:{node}"),
                    organisation: Some("system:nodes"),
                    addresses: &[node.address().into()],
                    names: &[&name],
                },
            )?;
        }
        Ok(())
    }

    /// A wire with a gateway that leads nowhere, and the nodes on it. The machine's own namespace is not connected to it, so
    /// that nothing of the cluster can leave by it.
    fn networks(&self) -> Result<()> {
        let ip = |namespace: &str, arguments: &str| {
            let mut command = Command::new("ip");
            command.args(["-n", namespace]).args(arguments.split(' '));
            succeed(&mut command)
        };
        succeed(Command::new("ip").args(["netns", "add", WIRE]))?;
        ip(WIRE, "link add br0 type bridge")?;
        ip(WIRE, &format!("addr add {}/24 dev br0", config::GATEWAY))?;
        ip(WIRE, "link set br0 up")?;
        // For what runs beside the cluster.
        ip(WIRE, "link set lo up")?;
        for node in NODES {
            let name = node.netns();
            succeed(Command::new("ip").args(["netns", "add", &name]))?;
            ip(
                WIRE,
                &format!("link add {node} type veth peer name eth0 netns {name}"),
            )?;
            ip(WIRE, &format!("link set {node} master br0 up"))?;
            ip(&name, "link set lo up")?;
            ip(&name, &format!("addr add {}/24 dev eth0", node.address()))?;
            ip(&name, "link set eth0 up")?;
            ip(&name, &format!("route add default via {}", config::GATEWAY))?;
            // The device of the node's cache; a bridge without ports serves as a dummy.
            ip(&name, "link add nodelocaldns type bridge")?;
            ip(
                &name,
                &format!("addr add {}/32 dev nodelocaldns", config::NODE_LOCAL),
            )?;
            ip(&name, "link set nodelocaldns up")?;
        }
        for node in NODES {
            let route = format!("route add {} via {}", node.pods(), node.address());
            ip(WIRE, &route)?;
            for other in NODES.into_iter().filter(|other| *other != node) {
                let route = format!("route add {} via {}", other.pods(), other.address());
                ip(&node.netns(), &route)?;
            }
        }
        Ok(())
    }

    fn launch(&self, node: NodeName) -> Result<()> {
        let own = self.directory.join(node.to_string());
        fs::create_dir_all(&own)?;
        let pki = self.directory.join("pki").display().to_string();
        let runc = tools::find("runc").context("no runc on PATH")?;
        let write = |name: &str, text: String| {
            let path = own.join(name);
            fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
        };
        write("audit.json", config::audit_file().to_string())?;
        write("kubelet.json", config::kubelet_file(node, &pki).to_string())?;
        write(
            "kube-proxy.json",
            config::proxy_file(node, &pki).to_string(),
        )?;
        write("cni.conflist", config::cni_file(node).to_string())?;
        write(
            "containerd.toml",
            config::containerd_file(PAUSE, &runc.display().to_string()),
        )?;
        let log = File::create(self.directory.join("log").join(format!("{node}.log")))?;
        // Not `ip netns exec`, which mounts a /sys without cgroups. Whatever ends this process takes the node with it.
        let launcher = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/run/netns/{}", node.netns()))
            .args(["unshare", "--mount", "--uts", "--ipc", "--pid", "--fork"])
            .args(["--kill-child", "--propagation", "private"])
            .arg(std::env::current_exe()?)
            .args([
                "e2e",
                "node",
                "--number",
                &node.0.to_string(),
                "--directory",
            ])
            .arg(&self.directory)
            .arg("--binaries")
            .arg(&self.components.binaries)
            // Ctrl-C in a terminal is for this process alone.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting a node (setpriv, nsenter and unshare are of util-linux)")?;
        let mut left = LEFT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if let Some(left) = left.as_mut() {
            left.launchers.push(launcher);
        }
        Ok(())
    }

    /// An error with the ends of the logs when a node has ended.
    fn ensure_alive(&self) -> Result<()> {
        let mut left = LEFT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for launcher in left.iter_mut().flat_map(|left| &mut left.launchers) {
            if let Some(status) = launcher.try_wait()? {
                bail!("a node ended: {status}\n{}", self.log_tails());
            }
        }
        Ok(())
    }

    fn log_tails(&self) -> String {
        NODES
            .iter()
            .map(|node| {
                let path = self.directory.join("log").join(format!("{node}.log"));
                let text = fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                let tail = &lines[lines.len().saturating_sub(15)..];
                format!("{}:\n{}\n", path.display(), tail.join("\n"))
            })
            .collect()
    }

    /// Runs a program in a node's network namespace.
    fn in_node(&self, node: NodeName, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/run/netns/{}", node.netns()))
            .arg(program);
        command
    }

    /// Runs a program at the gateway, beside the cluster. It ends with this process.
    pub fn on_wire(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "nsenter"])
            .arg(format!("--net=/run/netns/{WIRE}"))
            .arg(program)
            // Ctrl-C in a terminal is for this process alone.
            .process_group(0)
            .stdin(Stdio::null());
        command
    }

    /// Gives the gateway an address, beside the cluster's.
    pub fn add_address(&self, address: &str) -> Result<()> {
        let address = format!("{address}/32");
        succeed(Command::new("ip").args(["-n", WIRE, "addr", "add", &address, "dev", "lo"]))
    }

    /// A directory of a program beside the cluster, removed with it.
    pub fn beside(&self, name: &str) -> Result<PathBuf> {
        let directory = self.directory.join(WIRE).join(name);
        fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    fn admin(&self) -> String {
        format!(
            "--kubeconfig={}",
            self.directory.join("pki/admin.kubeconfig").display()
        )
    }

    /// `kubectl`, with its output.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        text(self.kubectl_command(arguments))
    }

    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.in_node(NODES[0], &self.components.binary("kubectl"));
        command.arg(self.admin()).args(arguments);
        command
    }

    /// `kubectl … --output=json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let output = self.kubectl(&[arguments, &["--output=json"]].concat())?;
        Ok(serde_json::from_str(&output)?)
    }

    /// `kubectl apply` of manifests.
    pub fn apply(&self, manifests: &str, options: &[&str]) -> Result<String> {
        let mut command = self.kubectl_command(&["apply", "--filename=-"]);
        let mut child = command
            .args(options)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        child
            .stdin
            .take()
            .context("stdin is piped")?
            .write_all(manifests.as_bytes())?;
        checked("kubectl apply", child.wait_with_output()?)
    }

    pub fn helm(&self, arguments: &[&str]) -> Result<String> {
        let mut command = self.in_node(NODES[0], &self.components.helm);
        // Its repositories and plugins are not needed here.
        command
            .env("HELM_CACHE_HOME", self.directory.join("helm"))
            .env("HELM_CONFIG_HOME", self.directory.join("helm"))
            .env("HELM_DATA_HOME", self.directory.join("helm"))
            .arg(self.admin())
            .args(arguments);
        text(command)
    }

    /// Runs a program in a node and returns its output.
    pub fn on_node(&self, node: NodeName, program: &str, arguments: &[&str]) -> Result<String> {
        let mut command = self.in_node(node, Path::new(program));
        command.args(arguments);
        text(command)
    }

    /// Files of a directory as the node sees it, sorted; none where it is not there.
    pub fn files_on_node(&self, node: NodeName, directory: &str) -> Result<Vec<String>> {
        let first = self.first_process(node)?;
        let path = Path::new("/proc").join(first.to_string()).join("root");
        let mut names: Vec<String> = fs::read_dir(path.join(&directory[1..]))
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        Ok(names)
    }

    /// The id of the node's first process on the machine.
    fn first_process(&self, node: NodeName) -> Result<u32> {
        let left = LEFT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let launcher = left
            .as_ref()
            .and_then(|left| left.launchers.get(usize::from(node.0) - 1))
            .context("the node is gone")?
            .id();
        let children = fs::read_to_string(format!("/proc/{launcher}/task/{launcher}/children"))?;
        children
            .split_whitespace()
            .next()
            .and_then(|pid| pid.parse().ok())
            .context("the node has no process")
    }

    /// Runs a program of a pod's own in the namespaces of its first process.
    pub fn in_pod(&self, pod: &Value, program: &str, arguments: &[&str]) -> Result<String> {
        let processes = self.processes(pod)?;
        let process = processes.first().context("the pod has no process")?;
        let mut command = Command::new("nsenter");
        command
            .args(["--mount", "--net", &format!("--target={process}"), program])
            .args(arguments);
        text(command)
    }

    /// The processes of a pod, as the machine numbers them.
    pub fn processes(&self, pod: &Value) -> Result<Vec<u32>> {
        let mut found = Vec::new();
        for container in self.cgroups(pod)? {
            let procs = fs::read_to_string(container.join("cgroup.procs")).unwrap_or_default();
            for pid in procs.split_whitespace() {
                found.push(pid.parse()?);
            }
        }
        Ok(found)
    }

    /// The cgroups of a pod's containers, in the hierarchy that counts memory.
    pub fn cgroups(&self, pod: &Value) -> Result<Vec<PathBuf>> {
        let id = pod["metadata"]["uid"].as_str().context("a pod has an id")?;
        let name = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let node = NODES
            .into_iter()
            .find(|node| node.to_string() == name)
            .with_context(|| format!("pod {id} is on no node"))?;
        let root = cgroups::of_memory()
            .context("no cgroup hierarchy counts memory")?
            .join(node.cgroup());
        let group = find_directory(&root, &format!("pod{id}"))
            .with_context(|| format!("pod {id} has no cgroup below {}", root.display()))?;
        // That of the sandbox is another one.
        Ok(pod["status"]["containerStatuses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|container| container["containerID"].as_str()?.rsplit('/').next())
            .map(|container| group.join(container))
            .filter(|path| path.is_dir())
            .collect())
    }

    /// Polls until something is so. An error of the probe counts as "not yet", and is reported at the end.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> Result<bool>,
    ) -> Result<Duration> {
        let started = Instant::now();
        loop {
            let outcome = probe();
            if matches!(outcome, Ok(true)) {
                return Ok(started.elapsed());
            }
            self.ensure_alive()?;
            if started.elapsed() > limit {
                let why = outcome
                    .err()
                    .map_or_else(String::new, |error| format!(": {error:#}"));
                bail!("not so after {} s: {what}{why}", limit.as_secs());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn find_directory(root: &Path, name: &str) -> Option<PathBuf> {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if !path.is_dir() {
            continue;
        }
        if entry.file_name() == name {
            return Some(path);
        }
        if let Some(found) = find_directory(&path, name) {
            return Some(found);
        }
    }
    None
}

/// Whether a condition of an object's status holds.
pub fn condition(object: &Value, name: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == name && condition["status"] == "True")
}

fn current_sysctls() -> Vec<(PathBuf, String)> {
    SYSCTLS
        .iter()
        .filter_map(|name| {
            let file = Path::new("/proc/sys").join(name);
            let value = fs::read_to_string(&file).ok()?;
            Some((file, value.trim().to_owned()))
        })
        .collect()
}

fn saved_sysctls(directory: &Path) -> Vec<(PathBuf, String)> {
    fs::read(directory.join("sysctls"))
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default()
}

/// What is left of a cluster on the machine.
pub fn traces(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let namespaces = NODES.map(NodeName::netns);
    for name in namespaces.iter().map(String::as_str).chain([WIRE]) {
        if Path::new("/run/netns").join(name).exists() {
            found.push(format!("network namespace {name}"));
        }
    }
    for hierarchy in cgroups::hierarchies() {
        for node in NODES {
            let group = hierarchy.join(node.cgroup());
            if group.exists() {
                found.push(format!("cgroup {}", group.display()));
            }
        }
    }
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let own = directory.display().to_string();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&own))
            .map(|line| format!("mount {line}")),
    );
    // The first process of a node, and whatever was given a file of the cluster.
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if pid != std::process::id() && command.contains(&own) {
            found.push(format!("process {pid} {command}"));
        }
    }
    found
}

fn text(mut command: Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output();
    let what = format!("{command:?}");
    checked(&what, output.with_context(|| format!("running {what}"))?)
}

fn checked(what: &str, output: Output) -> Result<String> {
    if !output.status.success() {
        bail!(
            "{what}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim(),
            String::from_utf8_lossy(&output.stdout).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn succeed(command: &mut Command) -> Result<()> {
    let output = command.stdin(Stdio::null()).output()?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
