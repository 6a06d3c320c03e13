//! `gregor probe`: liveness and readiness for exec probes, over the process's own control socket.

use std::{path::PathBuf, process::ExitCode};

use crate::observe::fetch_page;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor probe live
  gregor probe ready --control /run/gregor/gregor.sock

The metrics address may be a predecessor's while one pod takes over from another on a node; the control socket is each
process's own. A gregor that waits to take over is ready.

Exit codes: 0 yes, 1 no; the reason is on standard error.")]
pub struct Args {
    /// What is asked.
    what: What,
    /// Where the gregor in question listens.
    #[arg(long, value_name = "PATH", default_value = super::CONTROL)]
    control: PathBuf,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum What {
    /// The process drains the ring, or is starting.
    Live,
    /// It serves, or waits to take over.
    Ready,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let page = match args.what {
        What::Live => "/healthz",
        What::Ready => "/readyz",
    };
    let page = super::block_on(async { Ok(fetch_page(&args.control, page).await?) })?;
    if page.is_ok {
        return Ok(ExitCode::SUCCESS);
    }
    eprint!("{}", page.text);
    Ok(ExitCode::FAILURE)
}
