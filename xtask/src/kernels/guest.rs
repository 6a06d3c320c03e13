//! One guest under qemu without hardware support: boots it, reads its console, and ends it.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use gregor_lab::guest::{MARK, Record};

use super::Architecture;

/// The files of a guest.
#[derive(Clone, Debug)]
pub struct Machine<'a> {
    pub architecture: Architecture,
    pub processors: u32,
    pub kernel: &'a Path,
    pub initramfs: &'a Path,
    /// Everything that its console says goes here.
    pub log: &'a Path,
    pub limit: Duration,
    /// More for the kernel's command line.
    pub boot: &'a str,
}

/// Its result.
#[derive(Debug)]
pub struct Ended {
    pub records: Vec<Record>,
    pub time: Duration,
    /// Why not everything was run.
    pub trouble: Option<String>,
}

const MEMORY_MB: u32 = 2048;

impl Machine<'_> {
    /// Runs it to its end; `seen` is shown each record when it comes.
    pub fn run(&self, mut seen: impl FnMut(&Record)) -> Result<Ended> {
        let started = Instant::now();
        let mut log =
            File::create(self.log).with_context(|| format!("creating {}", self.log.display()))?;
        let mut child = self
            .command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log.try_clone()?)
            .spawn()
            .context("starting qemu through setpriv (package util-linux)")?;
        let console = child.stdout.take().context("stdout is piped")?;

        // The console ends with qemu.
        let ended = Arc::new(AtomicBool::new(false));
        let late = Arc::new(AtomicBool::new(false));
        let watch = {
            let (ended, late) = (ended.clone(), late.clone());
            let deadline = started + self.limit;
            thread::spawn(move || {
                while !ended.load(Ordering::Relaxed) && Instant::now() < deadline {
                    thread::sleep(Duration::from_millis(200));
                }
                late.store(!ended.load(Ordering::Relaxed), Ordering::Relaxed);
                let _ = child.kill();
                child.wait()
            })
        };
        let mut records = Vec::new();
        let mut last = String::new();
        let read = || -> Result<()> {
            for line in BufReader::new(console).split(b'\n') {
                let line = line?;
                let line = String::from_utf8_lossy(&line);
                let line = line.trim_end_matches('\r');
                writeln!(log, "{line}")?;
                if let Some(text) = line.strip_prefix(MARK) {
                    match serde_json::from_str(text) {
                        Ok(record) => {
                            seen(&record);
                            records.push(record);
                        }
                        Err(error) => writeln!(log, "xtask: {error}: {text}")?,
                    }
                } else if !line.trim().is_empty() {
                    last = line.trim().to_owned();
                }
            }
            Ok(())
        };
        let outcome = read();
        ended.store(true, Ordering::Relaxed);
        let status = watch
            .join()
            .map_err(|_| anyhow::anyhow!("the watch died"))?;
        outcome?;

        let trouble = if late.load(Ordering::Relaxed) {
            Some(format!("not done within {} s", self.limit.as_secs()))
        } else if records.contains(&Record::Done) {
            None
        } else if !status.as_ref().is_ok_and(std::process::ExitStatus::success) {
            Some(format!("qemu ended with {status:?}: {last}"))
        } else {
            Some(format!("the guest ended early: {last}"))
        };
        Ok(Ended {
            records,
            time: started.elapsed(),
            trouble,
        })
    }

    fn command(&self) -> Command {
        let (program, machine, console) = match self.architecture {
            Architecture::X86_64 => ("qemu-system-x86_64", "q35", "ttyS0"),
            Architecture::Aarch64 => ("qemu-system-aarch64", "virt", "ttyAMA0"),
        };
        // It is killed with this process, however that ends.
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", program])
            .args(["-machine", machine, "-accel", "tcg", "-cpu", "max"])
            .args(["-smp", &self.processors.to_string()])
            .args(["-m", &MEMORY_MB.to_string()])
            .args(["-nodefaults", "-no-reboot", "-display", "none"])
            .args(["-serial", "stdio", "-monitor", "none"])
            .arg("-kernel")
            .arg(self.kernel)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            .arg(format!(
                // On a busy machine the timer's first interrupt may come too late for the kernel's own check.
                "console={console} panic=-1 quiet loglevel=4 net.ifnames=0 no_timer_check {}",
                self.boot
            ));
        // Two network cards on one wire that ends inside qemu.
        for card in ["a", "b"] {
            command
                .args(["-netdev", &format!("hubport,id={card},hubid=0")])
                .args(["-device", &format!("virtio-net-pci,netdev={card},romfile=")]);
        }
        command
    }
}
