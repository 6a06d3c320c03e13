//! `gregor run`: attach and serve until SIGTERM.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use crate::{
    app,
    datapath::{STATE, maps_take_bpf, raise_memlock},
    privileges::{Role, restrict_process, restrict_thread},
};

/// Worker threads: the responder waits for the network more than it computes.
const WORKERS: usize = 4;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor run --config /etc/gregor/gregor.toml
  gregor run --config gregor.toml --interface veth0 --log gregor=debug
  gregor run --config gregor.toml --debug-bpf

SIGHUP or a change of the file loads the configuration again; a bad one leaves the last good one running.
SIGTERM and SIGINT end it in order, a second one at once.")]
pub struct Args {
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = super::CONFIG)]
    config: PathBuf,
    /// Attach to this interface only; a glob, and may be given several times. Overrides `[intercept] interfaces`.
    #[arg(long = "interface", value_name = "IF")]
    interfaces: Vec<String>,
    /// Where to listen for `gregor status` and `gregor monitor`.
    #[arg(long, value_name = "PATH", default_value = super::CONTROL)]
    control: PathBuf,
    /// Directory of bpffs for what outlives this process: programs on interfaces, what they answer, the queries that wait.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// Wait for a gregor that runs to end and take over from it in its place; at SIGTERM leave the programs to a successor, with
    /// all that they can answer. Without it, SIGTERM takes everything off the node.
    #[arg(long)]
    handover: bool,
    /// Load programs that log every decision, and show it as `gregor::bpf` at debug level. Slower; for looking for a
    /// fault.
    #[arg(long)]
    pub(super) debug_bpf: bool,
    /// How long the kernel may take to load the programs.
    #[arg(long, value_name = "TIME", default_value = super::LOAD_TIMEOUT, value_parser = humantime::parse_duration)]
    load_timeout: Duration,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    restrict_process();
    // With CAP_SYS_RESOURCE, which no thread has from here on.
    raise_memlock();
    let worker = Role::Worker {
        maps_take_bpf: maps_take_bpf(),
    };
    restrict_thread(Role::Start);
    let workers = std::thread::available_parallelism().map_or(1, |cores| cores.get().min(WORKERS));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .on_thread_start(move || restrict_thread(worker))
        .enable_all()
        .build()?;
    let result = runtime.block_on(app::run(app::Options {
        config: args.config,
        interfaces: args.interfaces,
        control: args.control,
        state: args.state,
        handover: args.handover,
        debug_bpf: args.debug_bpf,
        load_timeout: args.load_timeout,
        worker,
    }));
    // Not waiting for programs that the kernel still verifies: that ends with the process.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}
