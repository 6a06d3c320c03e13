//! The command line: one file per subcommand.

mod check;
mod detach;
mod explain;
pub mod import;
mod learn;
mod monitor;
mod probe;
mod run;
mod status;

use std::{io::IsTerminal as _, process::ExitCode};

use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Where `gregor run` listens for `gregor status` and `gregor monitor`.
const CONTROL: &str = "/run/gregor/gregor.sock";
/// Where the configuration is looked for.
const CONFIG: &str = "/etc/gregor/gregor.toml";
/// How long the kernel may take to load the programs: a hundred times what it takes where they load, and less than the
/// startup probe of deploy/helm waits.
const LOAD_TIMEOUT: &str = "45s";

const AFTER_HELP: &str = "\
Example:
  gregor check --config /etc/gregor/gregor.toml && gregor run --config /etc/gregor/gregor.toml

Exit codes:
  0  done; for `check`: no errors
  1  it failed, or `check` found an error; the reason is on standard error or in the report
  2  the command line is not understood";

/// Gives every tenant of a Kubernetes node its own answer for a wildcard of DNS names.
#[derive(Debug, Parser)]
#[command(
    name = "gregor",
    version,
    max_term_width = 100,
    after_help = AFTER_HELP
)]
struct Cli {
    /// What to log, as in `info` or `gregor=debug,warn`; RUST_LOG says the same.
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Attach to the pods' interfaces and answer until SIGTERM.
    Run(run::Args),
    /// Look at kernel, privileges, hooks and configuration before anything is attached.
    Check(check::Args),
    /// Show the state of the running gregor.
    Status(status::Args),
    /// Show the outcome of each intercepted query, as it happens.
    Monitor(monitor::Args),
    /// Whether the running gregor is alive or ready, as an exit code.
    Probe(probe::Args),
    /// Say what would happen to a query, and why.
    Explain(explain::Args),
    /// Turn another program's configuration into rules.
    Import(import::ImportArgs),
    /// Take every program of gregor off this node, also while a hung gregor holds them.
    Detach(detach::Args),
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = start_logging(cli.log.as_deref(), &cli.command).and_then(|()| match cli.command {
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(args),
        Command::Status(args) => status::run(args),
        Command::Monitor(args) => monitor::run(args),
        Command::Probe(args) => probe::run(args),
        Command::Explain(args) => explain::run(args),
        Command::Import(args) => import::run(args).map(|()| ExitCode::SUCCESS),
        Command::Detach(args) => detach::run(args),
    });
    result.unwrap_or_else(|error| {
        eprintln!("gregor: {error:#}");
        ExitCode::FAILURE
    })
}

/// `--log`, else RUST_LOG, else `info` for the daemon and `warn` for the tools.
fn start_logging(flag: Option<&str>, command: &Command) -> anyhow::Result<()> {
    let from_environment = std::env::var(EnvFilter::DEFAULT_ENV).ok();
    let (origin, text) = match (flag, &from_environment) {
        (Some(flag), _) => ("--log", flag),
        (None, Some(text)) if !text.is_empty() => (EnvFilter::DEFAULT_ENV, text.as_str()),
        _ if matches!(command, Command::Run(args) if args.debug_bpf) => {
            ("default", "info,gregor::bpf=debug,aya::sys=error")
        }
        // aya warns of a limit that cannot be raised, which gregor says with a remedy.
        _ if matches!(command, Command::Run(_)) => ("default", "info,aya::sys=error"),
        _ => ("default", "warn,aya::sys=error"),
    };
    let filter = EnvFilter::try_new(text).map_err(|error| {
        anyhow::anyhow!("{origin}: `{text}` is not a log filter ({error}); write for example `info` or `gregor=debug`")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}

/// Runs a future on this thread; the tools need no more.
fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_help_shows_an_example_and_describes_every_argument() {
        let mut cli = Cli::command();
        cli.build();
        let mut commands = vec![cli];
        let mut seen = 0;
        while let Some(mut command) = commands.pop() {
            let name = command.get_name().to_owned();
            if name == "help" {
                continue;
            }
            seen += 1;
            let help = command.render_long_help().to_string();
            if !command.has_subcommands() || name == "gregor" {
                assert!(help.contains("Example"), "gregor {name} --help:\n{help}");
            }
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "gregor {name}: {} is not described",
                    argument.get_id()
                );
            }
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(seen >= 8);
    }

    #[test]
    fn examples_in_the_help_parse() {
        let mut cli = Cli::command();
        cli.build();
        let mut commands = vec![cli];
        let mut parsed = 0;
        while let Some(mut command) = commands.pop() {
            for line in command.render_long_help().to_string().lines() {
                for example in line.trim().split(" && ") {
                    let example = example.split('#').next().unwrap_or("").trim();
                    if line.starts_with("  gregor ") {
                        let result = Cli::try_parse_from(example.split_whitespace());
                        assert!(result.is_ok(), "{example}: {}", result.unwrap_err());
                        parsed += 1;
                    }
                }
            }
            commands.extend(command.get_subcommands().cloned());
        }
        assert!(parsed >= 6, "{parsed} examples");
    }

    #[test]
    fn errors_name_what_is_missing() {
        for (line, part) in [
            ("gregor", "Usage: gregor"),
            ("gregor explain", "<NAME>"),
            ("gregor detach", "--all"),
            ("gregor explain a.b --type NOPE", "NOPE"),
            ("gregor run --config", "--config <FILE>"),
            ("gregor frobnicate", "frobnicate"),
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(part), "{line}: {error}");
        }
    }

    #[test]
    fn the_overview_reads_like_this() {
        let help = Cli::command().render_help().to_string();
        let expected = "\
Gives every tenant of a Kubernetes node its own answer for a wildcard of DNS names

Usage: gregor [OPTIONS] <COMMAND>

Commands:
";
        assert!(help.starts_with(expected), "{help}");
        for command in [
            "  run      Attach to the pods' interfaces and answer until SIGTERM",
            "  check    Look at kernel, privileges, hooks and configuration before anything is attached",
            "  status   Show the state of the running gregor",
            "  monitor  Show the outcome of each intercepted query, as it happens",
            "  explain  Say what would happen to a query, and why",
            "  import   Turn another program's configuration into rules",
            "  detach   Take every program of gregor off this node, also while a hung gregor holds them",
        ] {
            assert!(help.contains(command), "missing {command}\n{help}");
        }
    }
}
