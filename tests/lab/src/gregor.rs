//! gregor running in the lab's node, and its status and logs.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{netns::Netns, patience, process::Process};

/// Where gregor serves its pages unless its configuration says otherwise.
const PAGES: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9753);
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// A running gregor; dropped with its lab.
#[derive(Debug)]
pub struct Gregor {
    pub(crate) binary: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) control: PathBuf,
    pub(crate) process: Process,
    pub(crate) netns: Arc<Netns>,
}

impl Gregor {
    /// Waits until `/readyz` answers 200; its log is the error when that does not come.
    pub(crate) fn wait_ready(&self) -> Result<()> {
        let deadline = Instant::now() + patience(START_TIMEOUT);
        loop {
            if let Some(status) = self.process.exited() {
                bail!("gregor ended with {status}:\n{}", self.process.log());
            }
            if matches!(self.get("/readyz"), Ok((200, _))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!(
                    "gregor is not ready after {START_TIMEOUT:?}:\n{}",
                    self.process.log()
                );
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// A page of gregor's own server: status code and body.
    pub fn get(&self, path: &str) -> Result<(u16, String)> {
        let path = path.to_owned();
        self.netns.enter(move || http_get(PAGES, &path))?
    }

    /// The page `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        let (status, body) = self.get("/metrics")?;
        if status != 200 {
            bail!("/metrics answered {status}");
        }
        Ok(body)
    }

    /// Runs another subcommand of gregor in the node.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        self.netns.output(command)
    }

    /// `gregor status --json`.
    pub fn status(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.status_text(&["--json"])?)
            .context("reading what `gregor status --json` says")
    }

    /// What `gregor status` prints, with these options.
    pub fn status_text(&self, options: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.binary);
        command
            .arg("status")
            .arg("--control")
            .arg(&self.control)
            .args(options);
        let output = self.netns.output(command)?;
        if !output.status.success() {
            bail!(
                "gregor status: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Where it listens for `gregor status`: in the lab's own directory, since all namespaces share /run.
    pub fn control_path(&self) -> &Path {
        &self.control
    }

    /// Its configuration file, for tests that change it.
    pub fn config_path(&self) -> &Path {
        &self.config
    }

    /// Replaces the configuration file in one step, as an editor or a ConfigMap would.
    pub fn write_config(&self, text: &str) -> Result<()> {
        let new = self.config.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &self.config)?)
    }

    pub fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    /// What gregor has logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// SIGTERM, and its exit status.
    pub fn stop(self) -> Option<ExitStatus> {
        self.process.stop()
    }
}

fn http_get(server: SocketAddr, path: &str) -> Result<(u16, String)> {
    let timeout = patience(Duration::from_secs(5));
    let mut stream = TcpStream::connect_timeout(&server, timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(
        format!("GET {path} HTTP/1.0\r\nHost: {server}\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut reply = String::new();
    stream.read_to_string(&mut reply)?;
    let (head, body) = reply.split_once("\r\n\r\n").context("half a reply")?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context("no status code")?;
    Ok((status, body.to_owned()))
}
