//! `gregor detach --all`: break-glass.

use std::{fmt::Write as _, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::datapath::{DetachReport, STATE, detach_all, forget};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor detach --all
  gregor detach --all --stay

Pods then ask the existing cache as if gregor were not there. A gregor that still runs does not attach again by itself;
restart it for that. clsact filters (Linux before 6.6) are found in this network namespace only. Links of other processes (tcx, XDP, TCP) are
opened by id, which needs CAP_SYS_ADMIN; `gregor run` does not.")]
pub struct Args {
    /// Every program and pin that any gregor made. There is no other kind yet: the flag makes sure you mean it.
    #[arg(long, required = true)]
    all: bool,
    /// The directory of bpffs that gregor was given.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// When everything is detached, wait for SIGTERM: what a DaemonSet runs must not end by itself.
    #[arg(long)]
    stay: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let report = detach_all(&args.state)?;
    print!("{}", render(&report));
    if !report.failures.is_empty() {
        return Ok(ExitCode::FAILURE);
    }
    if args.stay {
        super::block_on(terminated())?;
        // A gregor that ran meanwhile has ended: its marker is of no use any more.
        forget(&args.state);
    }
    Ok(ExitCode::SUCCESS)
}

async fn terminated() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handling SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handling SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn render(report: &DetachReport) -> String {
    let mut text = String::new();
    for link in &report.links {
        let _ = writeln!(text, "detached {link}");
    }
    for interface in &report.filters {
        let _ = writeln!(text, "removed the clsact filter of {interface}");
    }
    for device in &report.devices {
        let _ = writeln!(text, "removed interface {device}");
    }
    for pin in &report.pins {
        let _ = writeln!(text, "removed {}", pin.display());
    }
    for failure in &report.failures {
        let _ = writeln!(text, "FAILED: {failure}");
    }
    if text.is_empty() {
        text.push_str("nothing of gregor is attached\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_lists_the_removed_items() {
        assert_eq!(
            render(&DetachReport::default()),
            "nothing of gregor is attached\n"
        );
        let report = DetachReport {
            links: vec!["link 7 on interface 3".to_owned()],
            filters: vec!["veth1".to_owned()],
            devices: vec!["gregor0".to_owned()],
            pins: vec!["/sys/fs/bpf/gregor/x".into()],
            failures: vec!["link 8: Operation not permitted".to_owned()],
        };
        assert_eq!(
            render(&report),
            "detached link 7 on interface 3\n\
             removed the clsact filter of veth1\n\
             removed interface gregor0\n\
             removed /sys/fs/bpf/gregor/x\n\
             FAILED: link 8: Operation not permitted\n"
        );
    }
}
