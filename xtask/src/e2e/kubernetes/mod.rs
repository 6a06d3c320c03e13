//! `cargo xtask e2e kubernetes`: a real cluster of two nodes on this machine, gregor in it, and what its pods see.

mod cgroups;
mod checks;
mod claims;
mod cluster;
mod components;
mod config;
mod figures;
mod identity;
mod images;
mod kafka;
mod labels;
mod learnt;
mod load;
mod manifests;
mod monitoring;
mod node;
mod page;
mod pki;
mod pods;
mod policies;
mod protected;
mod results;
mod services;
mod taint;

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use gregor_lab::tools::say;
use nix::sys::signal::{SigSet, Signal};

use self::{cluster::Cluster, components::Components, results::Results};
use crate::{image, machine, setup};

pub use node::{NodeOptions, node};

#[derive(Debug, Args)]
pub struct Options {
    /// Leave the cluster up until Ctrl-C
    #[arg(long)]
    keep: bool,
    /// Only start the cluster with its DNS and its tenants, without gregor, and leave it up
    #[arg(long, conflicts_with = "keep")]
    bare: bool,
    /// Write the result into docs/kubernetes.md
    #[arg(long)]
    page: bool,
    /// Make only the checks with one of these in their names, beside the installation and the removal
    #[arg(
        long,
        value_name = "TEXT",
        value_delimiter = ',',
        conflicts_with = "page"
    )]
    only: Vec<String>,
}

/// Of everything after the components are built; something hangs when it takes longer.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// The second image of a rollout.
const NEXT: &str = "next";

pub fn run(options: &Options) -> Result<ExitCode> {
    if !machine::is_root() {
        bail!("a cluster takes namespaces, mounts and cgroups: run it as root");
    }
    setup::ensure_run()?;
    let components = Components::ensure()?;
    let directory = machine::target_directory()?.join("e2e/kubernetes");
    let images = directory.join("images");
    fs::create_dir_all(&images)?;
    images::write(&images, &components)?;
    let image = if options.bare {
        None
    } else {
        Some(image(&images)?)
    };
    watch_signals()?;
    let started = Instant::now();
    if !options.keep && !options.bare {
        watch_time()?;
    }

    say("starting a cluster of two nodes");
    let cluster = Cluster::start(&directory, &components)?;
    let mut results = Results::new(image, started.elapsed(), options.only.clone());
    let outcome = if options.bare {
        checks::prepare(&cluster, &mut results)
    } else {
        checks::all(&cluster, &components, &mut results)
    };
    if let Err(error) = outcome {
        results.fail("all checks were made", &error);
    }
    if options.keep || options.bare {
        results.print();
        println!(
            "\nThe cluster stays up until Ctrl-C. In another terminal:\n\n  {}",
            format!(
                "{:?}",
                cluster.kubectl_command(&["get", "pods", "--all-namespaces"])
            )
            .replace('"', "")
        );
        loop {
            thread::park();
        }
    }
    drop(cluster);
    results.step("the machine is as it was before", || {
        let traces = cluster::traces(&directory);
        if traces.is_empty() {
            return Ok(String::new());
        }
        bail!("{}", traces.join("; "))
    });
    results.took(started.elapsed());
    results.print();
    if options.page {
        page::write(&results)?;
    }
    Ok(if results.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The image under test, and the same under another name, for a rollout.
fn image(images: &std::path::Path) -> Result<image::Written> {
    let next = image::write(&image::Options {
        tag: Some(format!("gregor:{NEXT}")),
        ..image::Options::default()
    })?;
    fs::copy(next.path, images.join("gregor-next.tar"))?;
    let written = image::write(&image::Options::default())?;
    fs::copy(&written.path, images.join("gregor.tar"))?;
    Ok(written)
}

/// Whatever ends the process removes the cluster first.
fn watch_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        signals.add(signal);
    }
    // In this thread, and so in those that it starts; programs are started with none blocked.
    signals.thread_block().context("blocking signals")?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            let code = match signals.wait() {
                Ok(signal) => 128 + signal as i32,
                Err(_) => 1,
            };
            say("removing the cluster");
            cluster::remove();
            std::process::exit(code);
        })?;
    Ok(())
}

fn watch_time() -> Result<()> {
    thread::Builder::new().name("limit".into()).spawn(|| {
        thread::sleep(LIMIT);
        say(&format!(
            "not done after {} s: removing the cluster",
            LIMIT.as_secs()
        ));
        cluster::remove();
        std::process::exit(1);
    })?;
    Ok(())
}

/// Where the repository has the chart.
fn chart() -> Result<PathBuf> {
    Ok(machine::root()?.join("deploy/helm"))
}
