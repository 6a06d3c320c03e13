//! `cargo xtask run`: gregor in a lab, or on this node.

use std::{
    collections::BTreeSet,
    fs,
    net::IpAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use gregor_lab::{
    CacheKind, ClusterKind, Gregor, Lab, LoggedQuery, exit_code_on_interrupt, gregor_toml,
    tools::{self, say},
    world::{
        BAR_ADDRESSES, BROKER, FOO_ADDRESSES, FOREIGN, FOREIGN_ADDRESSES, NODE_LOCAL_V4,
        PUBLIC_ADDRESS,
    },
};

use crate::{
    build, machine, setup,
    table::{self, Cell, Colour, bold, cell},
};

#[derive(Debug, Args)]
pub struct Options {
    /// End after the demonstration: exit code 0, or 1 when an answer was not the expected one
    #[arg(long)]
    once: bool,
    /// The cache that the node has already
    #[arg(long, value_enum, default_value = "embedded")]
    cache: Cache,
    /// The lab alone: what the pods get without gregor
    #[arg(long)]
    without_gregor: bool,
    /// The build that nodes get, which takes minutes, for the lab too
    #[arg(long)]
    release: bool,
    /// No lab: run gregor on this node with this configuration
    #[arg(long, value_name = "FILE", conflicts_with_all = ["once", "cache", "without_gregor"])]
    config: Option<PathBuf>,
    /// No lab: run gregor on this node, on this interface (may be repeated)
    #[arg(long, value_name = "IF", conflicts_with_all = ["once", "cache", "without_gregor"])]
    interface: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(
    clippy::enum_variant_names,
    reason = "node-cache is that program's name"
)]
enum Cache {
    /// A small forwarding cache inside this command: nothing to install
    Embedded,
    /// CoreDNS as NodeLocal DNSCache configures it
    Coredns,
    /// The node-cache binary from PATH
    NodeCache,
    /// unbound
    Unbound,
}

impl Cache {
    fn kind(self) -> CacheKind {
        match self {
            Self::Embedded => CacheKind::Embedded,
            Self::Coredns => CacheKind::CoreDns { template: false },
            Self::NodeCache => CacheKind::NodeCache,
            Self::Unbound => CacheKind::Unbound,
        }
    }

    fn describe(self) -> &'static str {
        match self {
            Self::Embedded => "the existing cache (embedded)",
            Self::Coredns => "the existing cache (CoreDNS as NodeLocal)",
            Self::NodeCache => "the existing cache (node-cache)",
            Self::Unbound => "the existing cache (unbound)",
        }
    }
}

pub fn run(options: &Options) -> Result<ExitCode> {
    setup::ensure_run()?;
    if options.config.is_some() || !options.interface.is_empty() {
        let binary = gregor(true)?;
        return Err(run_on_node(options, &binary));
    }
    let binary = if options.without_gregor {
        None
    } else {
        // Compiled with little optimisation, and in part already: for this command.
        Some(gregor(options.release)?)
    };
    in_lab(options, binary.as_deref())
}

/// `GREGOR_BINARY`, for a binary built elsewhere, or a fresh build.
fn gregor(release: bool) -> Result<PathBuf> {
    match std::env::var_os("GREGOR_BINARY") {
        Some(path) => Ok(path.into()),
        None => build::run(&build::Options {
            release,
            ..Default::default()
        }),
    }
}

/// Becomes gregor; returns only when that fails.
fn run_on_node(options: &Options, binary: &Path) -> anyhow::Error {
    let config = match options.config.clone().map_or_else(config_for_this_node, Ok) {
        Ok(config) => config,
        Err(error) => return error,
    };
    let mut command = Command::new(binary);
    command.arg("run").arg("--config").arg(&config);
    for interface in &options.interface {
        command.arg("--interface").arg(interface);
    }
    say(&format!("running {command:?}"));
    anyhow::Error::new(command.exec()).context(format!("running {}", binary.display()))
}

/// The README's configuration with this node's nameservers and NodeLocal's address.
fn config_for_this_node() -> Result<PathBuf> {
    let resolv_conf = fs::read_to_string("/etc/resolv.conf").context("reading /etc/resolv.conf")?;
    let mut servers: Vec<IpAddr> = resolv_conf
        .lines()
        .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
        .collect();
    if !servers.contains(&NODE_LOCAL_V4.into()) {
        servers.push(NODE_LOCAL_V4.into());
    }
    let path = machine::target_directory()?.join("gregor.toml");
    fs::write(&path, gregor_toml(&servers, 60))?;
    say(&format!(
        "no --config: using {}, made for the nameservers {servers:?}",
        path.display()
    ));
    Ok(path)
}

fn in_lab(options: &Options, binary: Option<&Path>) -> Result<ExitCode> {
    let cluster = if options.cache == Cache::Coredns {
        ClusterKind::CoreDns
    } else {
        ClusterKind::Embedded
    };
    say("making a node, pods in foo, bar and baz, a cache and a cluster DNS in network namespaces");
    let lab = Lab::builder("gregor-run")
        .pod("foo")
        .pod("bar")
        .pod("baz")
        .cache(options.cache.kind())
        .cluster(cluster)
        .start()
        .context("making the lab")?;
    let gregor = match binary {
        Some(binary) => {
            say("starting gregor on the node");
            Some(lab.start_gregor(binary, &lab.gregor_config())?)
        }
        None => None,
    };

    let as_expected = demonstrate(&lab, options.cache, gregor.is_some())?;
    if let Some(gregor) = &gregor {
        print_counters(gregor)?;
    }
    if !as_expected {
        println!("\nNot every answer is the expected one.");
        if let Some(gregor) = &gregor {
            println!("gregor said:\n{}", gregor.log());
        }
        return Ok(ExitCode::FAILURE);
    }
    if !options.once {
        exit_code_on_interrupt(0);
        print_commands(&lab, gregor.as_ref(), binary);
        stay(gregor.as_ref())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A question of a pod, and the expected answer.
struct Question {
    pod: &'static str,
    name: &'static str,
    addresses: Vec<IpAddr>,
    /// Whether gregor gives the answer when it runs.
    ours: bool,
}

fn questions(with_gregor: bool) -> Vec<Question> {
    let broker = |pod, endpoint: &[IpAddr]| Question {
        pod,
        name: BROKER,
        addresses: if with_gregor {
            endpoint.to_vec()
        } else {
            vec![PUBLIC_ADDRESS]
        },
        ours: with_gregor,
    };
    vec![
        broker("foo", &FOO_ADDRESSES),
        broker("bar", &BAR_ADDRESSES),
        Question {
            ours: false,
            ..broker("baz", &[PUBLIC_ADDRESS])
        },
        Question {
            pod: "foo",
            name: FOREIGN,
            addresses: FOREIGN_ADDRESSES.to_vec(),
            ours: false,
        },
    ]
}

/// Asks, prints, and returns whether every answer was the expected one.
fn demonstrate(lab: &Lab, cache: Cache, with_gregor: bool) -> Result<bool> {
    let mut rows = Vec::new();
    let mut as_expected = true;
    for question in questions(with_gregor) {
        let pod = lab.pod(question.pod);
        lab.cache().forget();
        let found = pod.getent(question.name)?;
        // The server that was asked for the first name of the search list, from the pod's own address.
        let first = format!("{}.{}.svc.cluster.local.", question.name, question.pod);
        let of_pod = |asked: &LoggedQuery| {
            asked.qname == first && [IpAddr::V4(pod.v4), pod.v6.into()].contains(&asked.client)
        };
        let cache_was_asked = if question.ours {
            lab.cache().asked().iter().any(of_pod)
        } else {
            lab.cache().saw(of_pod)
        };

        let right = same(&found, &question.addresses) && cache_was_asked != question.ours;
        as_expected &= right;
        let who = match (found.is_empty(), cache_was_asked) {
            (true, _) => "none".to_owned(),
            (false, true) => format!("{}\nwhich saw {}", cache.describe(), pod.v4),
            (false, false) => "gregor".to_owned(),
        };
        let addresses: Vec<String> = found.iter().map(IpAddr::to_string).collect();
        let colour = match (right, question.ours) {
            (false, _) => Colour::Red,
            (true, true) => Colour::Green,
            (true, false) => Colour::Reset,
        };
        rows.push(vec![
            bold(question.pod),
            Cell::from(question.name),
            cell(addresses.join("\n"), colour),
            cell(who, colour),
            cell(if right { "" } else { "not expected" }, Colour::Red),
        ]);
    }
    println!(
        "\nAsked with getent in each pod (search <namespace>.svc.cluster.local svc.cluster.local cluster.local, ndots 7):\n"
    );
    table::print(&["pod", "question", "answer", "from", ""], rows);
    println!("\nfoo and bar own a Service `kafka-upstream` of type ExternalName; baz does not.",);
    Ok(as_expected)
}

fn same(found: &[IpAddr], expected: &[IpAddr]) -> bool {
    let set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
    set(found) == set(expected)
}

fn print_counters(gregor: &Gregor) -> Result<()> {
    println!("\ngregor status:\n");
    for line in gregor.status_text(&[])?.lines() {
        println!("  {line}");
    }
    Ok(())
}

fn print_commands(lab: &Lab, gregor: Option<&Gregor>, binary: Option<&Path>) {
    let name = lab.name();
    println!("\nThe lab stays up until Ctrl-C. To try by hand, as root in another terminal:\n");
    println!(
        "  ip netns exec {name}.foo getent ahosts {}",
        BROKER.replacen('1', "2", 1)
    );
    println!("  ip netns exec {name}.bar getent ahosts {BROKER}");
    println!("  ip netns exec {name}.baz getent ahosts {BROKER}");
    if let (Some(gregor), Some(binary)) = (gregor, binary) {
        let gregor_in_node = format!("ip netns exec {name}.node {}", binary.display());
        println!(
            "  {gregor_in_node} status --control {}",
            gregor.control_path().display()
        );
        println!(
            "  {gregor_in_node} explain {BROKER} --namespace foo --config {}",
            gregor.config_path().display()
        );
        println!("  tail -f {}", gregor.process().log_path().display());
    }
    if tools::find("tcpdump").is_some() {
        println!("  ip netns exec {name}.node tcpdump -lni any port 53");
    }
}

/// Waits for Ctrl-C, which the lab's own signal handler cleans up after, or for gregor's end.
fn stay(gregor: Option<&Gregor>) -> Result<()> {
    loop {
        thread::sleep(Duration::from_millis(500));
        if let Some(gregor) = gregor
            && let Some(status) = gregor.process().exited()
        {
            bail!("gregor ended with {status}:\n{}", gregor.log());
        }
    }
}
