//! `gregor check`: kernel, privileges, programs, hooks, configuration and the existing cache, before anything is attached.
//!
//! What can be tried is tried: the programs are loaded as `gregor run` would. Facts are gathered in thin functions and judged
//! in pure ones.

mod answers;
mod claims;
mod control;
mod finding;
mod identity;
mod interfaces;
mod metrics;
mod nameservers;
mod namespaces;
mod node;
mod programs;
mod report;
mod return_path;
mod servers;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use self::{
    finding::{Finding, Level},
    report::Report,
};
use super::learn;
use crate::{
    app::settings::Settings,
    datapath::{Node, STATE},
    nameservers::kubelet,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor check
  gregor check --config /etc/gregor/gregor.toml
  gregor check --config gregor.toml --json

Exits with 0 when `gregor run` would work, with 1 when it would not. Warnings do not count.
The programs are loaded with the configuration's rules, and attached to no interface of a pod's; the devices by which queries pass
are made and removed again; with a configuration, its servers are
asked for one made-up name per rule.")]
pub struct Args {
    /// The configuration to check as well; without, only the node is looked at.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the kubelet's configuration says which nameservers pods ask; a file that is not there is left out.
    #[arg(long, value_name = "FILE", default_value = kubelet::CONFIG)]
    kubelet_config: PathBuf,
    /// The control socket of a running gregor, for the nameservers that it has seen; none need be there.
    #[arg(long, value_name = "PATH", default_value = super::CONTROL)]
    control: PathBuf,
    /// Where maps and links would be pinned.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// Print the findings as one JSON object.
    #[arg(long)]
    json: bool,
    /// How long the kernel may take to load the programs.
    #[arg(long, value_name = "TIME", default_value = super::LOAD_TIMEOUT, value_parser = humantime::parse_duration)]
    load_timeout: Duration,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let node = Node::look();
    let mut findings = Vec::new();
    let (learnt, (labelled, unknown)) = match &args.config {
        None => Default::default(),
        Some(path) => super::block_on(async {
            let learnt = learn::sources(path, &args.control).await;
            Ok((learnt, learn::namespaces(path, &args.control).await))
        })?,
    };
    let settings = match &args.config {
        None => None,
        Some(path) => match Settings::load(path, &[], &learnt, &labelled) {
            Ok(settings) => {
                findings.push(Finding::ok(
                    "configuration",
                    format!(
                        "{}: {} rule(s), {} server(s)",
                        path.display(),
                        settings.rules.rules().len(),
                        settings.servers.len()
                    ),
                ));
                for warning in &settings.warnings {
                    findings.push(Finding {
                        level: Level::Warning,
                        ..Finding::ok("configuration", warning)
                    });
                }
                findings.extend(learnt.iter().map(nameservers::learnt));
                findings.extend(namespaces::judge(&settings.rules, unknown.as_deref()));
                findings.extend(answers::max_ttl(settings.max_ttl));
                Some(settings)
            }
            Err(error) => {
                findings.push(Finding {
                    level: Level::Error,
                    ..Finding::ok("configuration", format!("{error:#}"))
                });
                None
            }
        },
    };
    let example = Settings::example()?;
    let tried = programs::load(settings.as_ref().unwrap_or(&example), args.load_timeout);
    findings.splice(
        0..0,
        node::judge(&node, &tried.wanted, tried.is_loaded(), &args.state),
    );
    findings.push(control::judge(&args.control));
    findings.extend(tried.findings());
    findings.push(return_path::try_out());
    if let Some(settings) = &settings {
        findings.push(metrics::judge(settings.listen));
    }
    findings.push(interfaces::hook(
        settings.as_ref().and_then(|settings| settings.hook),
    ));
    let more = super::block_on(async {
        let mut findings = interfaces::look(settings.as_ref()).await;
        if let Some(settings) = &settings {
            findings.extend(identity::look(settings).await);
            if let Some(platform) = &settings.platform {
                findings.push(claims::judge(&platform.tenants, claims::is_in_cluster()));
            }
            findings.extend(servers::tcp(settings).await);
            findings.extend(servers::cache(settings).await);
            findings.extend(
                nameservers::look(&settings.servers, &args.kubelet_config, &args.control).await,
            );
        }
        Ok(findings)
    })?;
    findings.extend(more);

    let report = Report::new(findings, tried.programs);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", report.render());
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
