//! One network namespace with a mount namespace of its own, and running things in it.

use std::{
    fs::{self, File},
    io::Write as _,
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, setns, unshare},
};

type Job = Box<dyn FnOnce() + Send>;

/// Where iproute2 keeps named namespaces, and the files that `ip netns exec` binds over those in /etc.
const RUN_NETNS: &str = "/run/netns";
const ETC_NETNS: &str = "/etc/netns";

/// A named network namespace. A thread lives in it: what that thread spawns, threads and processes alike, inherits its
/// network and its mounts, so nothing has to run between fork and exec.
#[derive(Debug)]
pub struct Netns {
    name: String,
    jobs: Option<mpsc::Sender<Job>>,
    worker: Option<JoinHandle<()>>,
}

impl Netns {
    /// Creates the namespace with loopback up. `files` (name in /etc, content) are seen in place of the machine's own, also
    /// by `ip netns exec`. With `bpffs`, an empty bpffs is mounted at /sys/fs/bpf.
    pub fn create(name: &str, files: &[(&str, String)], bpffs: bool) -> Result<Self> {
        let etc = etc_dir(name);
        fs::create_dir_all(&etc).with_context(|| format!("creating {}", etc.display()))?;
        for (file, content) in files {
            fs::write(etc.join(file), content)?;
        }
        run(Command::new("ip").args(["netns", "add", name]))?;
        run(Command::new("ip").args(["-n", name, "link", "set", "lo", "up"]))?;

        let (jobs, queue) = mpsc::channel::<Job>();
        let (entered, outcome) = mpsc::sync_channel(1);
        let own = name.to_owned();
        let binds: Vec<PathBuf> = files.iter().map(|(file, _)| etc.join(file)).collect();
        let worker = thread::Builder::new()
            .name(format!("in {name}"))
            .spawn(move || {
                let result = enter(&own, &binds, bpffs);
                let inside = result.is_ok();
                if entered.send(result).is_ok() && inside {
                    queue.into_iter().for_each(|job| job());
                }
            })?;
        outcome
            .recv()
            .context("the namespace's thread died")?
            .with_context(|| format!("entering network namespace {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            jobs: Some(jobs),
            worker: Some(worker),
        })
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `f` in a new thread inside the namespace and waits for it. A panic goes on in the caller.
    pub fn enter<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        Ok(self
            .enter_detached(f)?
            .join()
            .unwrap_or_else(|panic| resume_unwind(panic)))
    }

    /// Starts `f` in a new thread inside the namespace.
    pub fn enter_detached<T: Send + 'static>(
        &self,
        f: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>> {
        self.on_worker(move || thread::Builder::new().spawn(f))?
            .context("starting a thread in a namespace")
    }

    /// Starts a program inside the namespace.
    pub fn spawn(&self, mut command: Command) -> Result<Child> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.on_worker(move || command.spawn())?
            .with_context(|| format!("starting {program} in {}", self.name))
    }

    /// Runs a program inside the namespace to its end.
    pub fn output(&self, mut command: Command) -> Result<Output> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Ok(self.spawn(command)?.wait_with_output()?)
    }

    /// Runs lines of `ip -batch` inside the namespace.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut child = Command::new("ip")
            .args(["-n", &self.name, "-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("running `ip` (package iproute2)")?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(batch.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "`ip` in {}: {}\n{batch}",
                self.name,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(())
    }

    /// Sets a sysctl of the namespace, by its path below /proc/sys.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        let file = Path::new("/proc/sys").join(path);
        let value = value.to_owned();
        self.on_worker(move || {
            fs::write(&file, &value).with_context(|| format!("setting {}", file.display()))
        })?
    }

    fn on_worker<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let (done, result) = mpsc::sync_channel(1);
        let job = Box::new(move || {
            // The caller waits below, so both ends exist.
            let _ = done.send(f());
        });
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(job).ok())
            .context("the namespace is gone")?;
        result.recv().context("the namespace's thread died")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(worker) = self.worker.take() {
            let _ = worker.join();
        }
        delete(&self.name);
    }
}

/// Ends what still runs in a namespace and removes its name and its files. Errors are ignored here.
pub(crate) fn delete(name: &str) {
    let path = Path::new(RUN_NETNS).join(name);
    if path.exists() {
        if let Ok(output) = Command::new("ip").args(["netns", "pids", name]).output() {
            for pid in String::from_utf8_lossy(&output.stdout).split_whitespace() {
                if let Ok(pid) = pid.parse() {
                    let pid = nix::unistd::Pid::from_raw(pid);
                    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
                }
            }
        }
        let _ = Command::new("ip")
            .args(["netns", "del", name])
            .stderr(Stdio::null())
            .status();
    }
    let _ = fs::remove_dir_all(etc_dir(name));
    // Kept while it has files of others.
    let _ = fs::remove_dir(ETC_NETNS);
}

/// Names of the namespaces that exist.
pub(crate) fn names() -> Vec<String> {
    fs::read_dir(RUN_NETNS)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

pub(crate) fn etc_dir(name: &str) -> PathBuf {
    Path::new(ETC_NETNS).join(name)
}

/// Moves the calling thread into a namespace, as `ip netns exec` does it.
fn enter(name: &str, binds: &[PathBuf], bpffs: bool) -> Result<()> {
    let file = File::open(Path::new(RUN_NETNS).join(name))?;
    unshare(CloneFlags::CLONE_NEWNS).context("unshare")?;
    setns(file, CloneFlags::CLONE_NEWNET).context("setns")?;
    const NONE: Option<&str> = None;
    // A slave mount, so that the removal of a namespace's name outside is propagated.
    mount(NONE, "/", NONE, MsFlags::MS_SLAVE | MsFlags::MS_REC, NONE).context("mount /")?;
    // sysfs shows the devices of the namespace that it was mounted in.
    mount(Some(name), "/sys", Some("sysfs"), MsFlags::empty(), NONE).context("mount /sys")?;
    if bpffs {
        let to = "/sys/fs/bpf";
        mount(Some("bpf"), to, Some("bpf"), MsFlags::empty(), NONE).context("mount bpffs")?;
    }
    for from in binds {
        let to = Path::new("/etc").join(from.file_name().context("a file without a name")?);
        mount(Some(from), &to, NONE, MsFlags::MS_BIND, NONE)
            .with_context(|| format!("binding {} over {}", from.display(), to.display()))?;
    }
    // A name service cache daemon would ask in the machine's namespace instead of ours.
    if Path::new("/run/nscd").is_dir() {
        mount(
            Some("none"),
            "/run/nscd",
            Some("tmpfs"),
            MsFlags::empty(),
            NONE,
        )?;
    }
    Ok(())
}

/// Runs a command and makes its standard error the error.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("running {:?}", command.get_program()))?;
    if !output.status.success() {
        bail!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
