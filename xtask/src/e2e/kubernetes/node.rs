//! The first process of a node: it mounts what a machine has, starts the node's programs, and reaps orphans.
//!
//! It runs in namespaces of its own (mount, uts, ipc, pid, network). When it ends, everything in them ends.

use std::{
    fs::{self, File},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use nix::{
    errno::Errno,
    mount::{MsFlags, mount},
    sys::{
        signal::Signal,
        wait::{WaitStatus, wait},
    },
    unistd::sethostname,
};

use super::{
    cgroups,
    config::{self, NodeName},
};

#[derive(Debug, Args)]
pub struct NodeOptions {
    /// The directory of the cluster
    #[arg(long)]
    directory: PathBuf,
    /// Where the programs are
    #[arg(long)]
    binaries: PathBuf,
    /// Which node it is; 1 has the control plane
    #[arg(long)]
    number: u8,
}

/// How long a program of the node may take to serve.
const PATIENCE: Duration = Duration::from_secs(90);

const API_SERVER: &str = "kube-apiserver";
/// How long it stays away when it is killed.
pub const API_SERVER_DOWN: Duration = Duration::from_secs(5);

const CGROUPS: &str = "/sys/fs/cgroup";

pub fn node(options: &NodeOptions) -> Result<ExitCode> {
    let node = Node {
        name: NodeName(options.number),
        cluster: options.directory.clone(),
        binaries: options.binaries.clone(),
        started: Vec::new(),
    };
    node.live()?;
    Ok(ExitCode::SUCCESS)
}

struct Node {
    name: NodeName,
    cluster: PathBuf,
    binaries: PathBuf,
    started: Vec<(i32, &'static str)>,
}

impl Node {
    fn live(mut self) -> Result<()> {
        self.mounts().context("mounting what a node has")?;
        cgroups::create(&self.name.cgroup()).context("making the node's cgroups")?;
        sethostname(self.name.to_string())?;
        for (key, value) in [
            ("net/ipv4/ip_forward", "1"),
            ("net/bridge/bridge-nf-call-iptables", "1"),
        ] {
            // The second one is there with the module br_netfilter only.
            let _ = fs::write(Path::new("/proc/sys").join(key), value);
        }
        if self.name.has_control_plane() {
            self.start("etcd", &config::etcd())?;
        }
        let containerd = self.file("containerd.toml");
        self.start("containerd", &["--config".into(), containerd])?;
        if self.name.has_control_plane() {
            self.start(API_SERVER, &self.api_server())?;
        }
        self.import_images()?;
        self.wait_for_api_server()?;
        if self.name.has_control_plane() {
            self.start(
                "kube-controller-manager",
                &config::controller_manager(&self.pki()),
            )?;
            self.start("kube-scheduler", &config::scheduler(&self.pki()))?;
        }
        let directory = Path::new(config::KUBELET_CONFIG).parent();
        fs::create_dir_all(directory.context("a file is in a directory")?)?;
        fs::copy(self.file("kubelet.json"), config::KUBELET_CONFIG)?;
        let arguments = config::kubelet(&self.name, &self.pki(), config::KUBELET_CONFIG);
        self.start("kubelet", &arguments)?;
        let proxy = self.file("kube-proxy.json");
        self.start("kube-proxy", &[format!("--config={proxy}")])?;
        self.reap()
    }

    fn own(&self) -> PathBuf {
        self.cluster.join(self.name.to_string())
    }

    fn file(&self, name: &str) -> String {
        self.own().join(name).display().to_string()
    }

    fn pki(&self) -> String {
        self.cluster.join("pki").display().to_string()
    }

    fn api_server(&self) -> Vec<String> {
        let logs = self.cluster.join("log").display().to_string();
        config::api_server(&self.pki(), &self.file("audit.json"), &logs)
    }

    fn mounts(&self) -> Result<()> {
        const NONE: Option<&str> = None;
        let none = MsFlags::empty();
        // The kubelet's volumes and the pods' namespaces are mounted by programs in other mount namespaces below this one.
        let shared = MsFlags::MS_REC | MsFlags::MS_SHARED;
        mount(NONE, "/", NONE, shared, NONE)?;
        mount(Some("proc"), "/proc", Some("proc"), none, NONE)?;
        // A sysfs of this network namespace, with the machine's cgroups carried over and a bpffs of the node's own.
        let carried = self.own().join("cgroups");
        fs::create_dir_all(&carried)?;
        let recursive = MsFlags::MS_BIND | MsFlags::MS_REC;
        mount(Some(CGROUPS), &carried, NONE, recursive, NONE)?;
        mount(Some("sysfs"), "/sys", Some("sysfs"), none, NONE)?;
        mount(Some(&carried), CGROUPS, NONE, recursive, NONE)?;
        mount(Some("bpf"), "/sys/fs/bpf", Some("bpf"), none, NONE)?;
        // What these programs keep is the node's, and nothing is made in the machine's own directories.
        for directory in ["/var/lib", "/var/log"] {
            let own = self.own().join(&directory[1..]);
            fs::create_dir_all(&own)?;
            mount(Some(&own), directory, NONE, MsFlags::MS_BIND, NONE)?;
            mount(NONE, directory, NONE, shared, NONE)?;
        }
        mount(Some("tmpfs"), "/run", Some("tmpfs"), none, Some("mode=755"))?;
        mount(NONE, "/run", NONE, shared, NONE)?;
        fs::create_dir_all("/run/netns")?;
        fs::create_dir_all("/run/cni/net.d")?;
        symlink(
            self.own().join("cni.conflist"),
            "/run/cni/net.d/10-e2e.conflist",
        )?;
        let resolver = self.own().join("resolv.conf");
        fs::write(&resolver, format!("nameserver {}\n", config::GATEWAY))?;
        mount(
            Some(&resolver),
            "/etc/resolv.conf",
            NONE,
            MsFlags::MS_BIND,
            NONE,
        )?;
        Ok(())
    }

    fn start(&mut self, name: &'static str, arguments: &[String]) -> Result<()> {
        let own = self.binaries.join(name);
        let program = if own.exists() { own } else { name.into() };
        let log = File::create(
            self.cluster
                .join("log")
                .join(format!("{}-{name}.log", self.name)),
        )?;
        let child = Command::new(&program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", program.display()))?;
        self.started.push((child.id() as i32, name));
        Ok(())
    }

    fn import_images(&self) -> Result<()> {
        until("containerd", || quiet(Command::new("ctr").arg("version")))?;
        let mut archives: Vec<PathBuf> = fs::read_dir(self.cluster.join("images"))?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        archives.sort();
        for archive in archives {
            let status = Command::new("ctr")
                .args(["--namespace", "k8s.io", "images", "import"])
                .arg(&archive)
                .stdin(Stdio::null())
                .status()?;
            if !status.success() {
                bail!("ctr images import {}: {status}", archive.display());
            }
        }
        Ok(())
    }

    fn wait_for_api_server(&self) -> Result<()> {
        let mut kubectl = Command::new(self.binaries.join("kubectl"));
        kubectl
            .arg(format!("--kubeconfig={}/admin.kubeconfig", self.pki()))
            .args(["get", "--raw=/readyz"]);
        until("the API server", || quiet(&mut kubectl))
    }

    /// Orphans of containers come to the first process. An end of one of the node's programs is the end of the test; but an API
    /// server that was killed comes back.
    fn reap(&mut self) -> Result<()> {
        loop {
            let ended = match wait() {
                Ok(WaitStatus::Exited(pid, code)) => (pid, format!("exit code {code}")),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, signal.to_string()),
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(error) => return Err(error).context("waiting for children"),
            };
            let name = self
                .started
                .iter()
                .find(|(pid, _)| *pid == ended.0.as_raw());
            if let Some((_, API_SERVER)) = name
                && ended.1 == Signal::SIGKILL.to_string()
            {
                thread::sleep(API_SERVER_DOWN);
                self.start(API_SERVER, &self.api_server())?;
                continue;
            }
            if let Some((_, name)) = name {
                bail!("{name} ended: {}", ended.1);
            }
        }
    }
}

fn quiet(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

fn until(what: &str, mut works: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !works() {
        if Instant::now() > deadline {
            bail!("{what} does not serve after {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(200));
    }
    Ok(())
}
