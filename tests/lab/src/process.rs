//! A program that runs in a lab, its output in a file.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{netns::Netns, patience, sync::lock};

/// How long a program may take to end by itself.
const GRACE: Duration = Duration::from_secs(5);

/// A child process; clones are the same one.
#[derive(Clone, Debug)]
pub struct Process {
    child: Arc<Mutex<Child>>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `netns` with both outputs going to `log`.
    pub(crate) fn start(netns: &Netns, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        Ok(Self {
            child: Arc::new(Mutex::new(netns.spawn(command)?)),
            log: log.to_owned(),
        })
    }

    pub fn pid(&self) -> u32 {
        lock(&self.child).id()
    }

    /// Its exit status if it has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        lock(&self.child).try_wait().ok().flatten()
    }

    /// Sends a signal unless it has ended.
    pub fn signal(&self, signal: Signal) {
        let mut child = lock(&self.child);
        // Not yet waited for, so the id cannot belong to another process.
        if matches!(child.try_wait(), Ok(None)) {
            let _ = kill(Pid::from_raw(child.id() as i32), signal);
        }
    }

    /// SIGTERM, and SIGKILL when that does not end it; its status.
    pub fn stop(&self) -> Option<ExitStatus> {
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + patience(GRACE);
        while Instant::now() < deadline {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            thread::sleep(Duration::from_millis(10));
        }
        self.signal(Signal::SIGKILL);
        lock(&self.child).wait().ok()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Where it writes to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }
}
