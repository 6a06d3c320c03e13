//! `gregor check`: kernel, privileges, hooks, configuration and the existing cache, before anything is attached.
//!
//! Facts are gathered in thin functions and judged in pure ones.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use caps::{CapSet, Capability, CapsHashSet};
use dns_common::wire::DNS_PORT;
use futures::TryStreamExt as _;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};
use nix::sys::{
    resource::{Resource, getrlimit},
    statfs::{BPF_FS_MAGIC, statfs},
};
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcOption};
use serde::Serialize;

use super::explain::rcode;
use crate::{
    app::settings::{Settings, hook_name, tcp_name},
    datapath::{
        Hook, Interface, PROGRAM, SteerMode, XdpMode, detect_hook, programs_on,
        vlan_offload_remedy, xdp_modes,
    },
    discover,
    resolve::{Explanation, explain as chase, wire_name},
    rules::Rule,
};

/// The oldest kernel with everything that the programs use.
const OLDEST: (u32, u32) = (5, 10);
/// The oldest one with what the XDP program uses.
const OLDEST_FOR_XDP: (u32, u32) = (5, 18);
/// From here on memory of maps and programs is not charged to RLIMIT_MEMLOCK.
const NO_MEMLOCK: (u32, u32) = (5, 11);
/// Room for the maps where it is charged.
const MEMLOCK_NEEDED: u64 = 64 << 20;
/// Stands for a captured label in a probe; no tenant is called that.
const PROBE: &str = "gregor-check-probe";

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor check
  gregor check --config /etc/gregor/gregor.toml
  gregor check --config gregor.toml --json

Exits with 0 when nothing stands in the way of `gregor run`, with 1 when something does. Warnings do not count.
Nothing is attached; with a configuration, its servers are asked for one made-up name per rule.")]
pub struct Args {
    /// The configuration to check as well; without, only the node is looked at.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print the findings as one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warning,
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    what: String,
    detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what: what.into(),
            detail: detail.into(),
            remedy: None,
        }
    }

    fn warning(what: impl Into<String>, detail: impl Into<String>, remedy: &str) -> Self {
        Self {
            level: Level::Warning,
            remedy: Some(remedy.to_owned()),
            ..Self::ok(what, detail)
        }
    }

    fn error(what: impl Into<String>, detail: impl Into<String>, remedy: &str) -> Self {
        Self {
            level: Level::Error,
            remedy: Some(remedy.to_owned()),
            ..Self::ok(what, detail)
        }
    }
}

#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    findings: Vec<Finding>,
}

impl Report {
    fn new(findings: Vec<Finding>) -> Self {
        Self {
            ok: findings.iter().all(|finding| finding.level != Level::Error),
            findings,
        }
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut findings = node();
    let settings = match &args.config {
        None => None,
        Some(path) => match Settings::load(path, &[]) {
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
    findings.push(judge_hook(
        detect_hook(),
        settings.as_ref().and_then(|settings| settings.hook),
        &release(),
    ));
    let more = super::block_on(async {
        let mut findings = interfaces(settings.as_ref()).await;
        if let Some(settings) = &settings {
            findings.extend(tcp(settings).await);
            findings.extend(cache(settings).await);
        }
        Ok(findings)
    })?;
    findings.extend(more);

    let report = Report::new(findings);
    if args.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        print!("{}", render(&report));
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn render(report: &Report) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let level = match finding.level {
            Level::Ok => "ok     ",
            Level::Warning => "WARNING",
            Level::Error => "ERROR  ",
        };
        let mut lines = finding.detail.lines();
        let _ = writeln!(
            text,
            "{level}  {:<20} {}",
            finding.what,
            lines.next().unwrap_or_default()
        );
        for line in lines {
            let _ = writeln!(text, "{:<30}{line}", "");
        }
        if let Some(remedy) = &finding.remedy {
            let _ = writeln!(text, "{:<30}→ {remedy}", "");
        }
    }
    let _ = writeln!(
        text,
        "{}",
        if report.ok {
            "nothing stands in the way of `gregor run`"
        } else {
            "`gregor run` would not work as it should: see the errors above"
        }
    );
    text
}

/// What has nothing to do with the configuration.
fn node() -> Vec<Finding> {
    let release = release();
    let memlock = getrlimit(Resource::RLIMIT_MEMLOCK).map_or(0, |(soft, _)| soft);
    vec![
        judge_kernel(&release),
        judge_jit(
            std::fs::read_to_string("/proc/sys/net/core/bpf_jit_enable")
                .ok()
                .as_deref(),
        ),
        judge_btf(Path::new("/sys/kernel/btf/vmlinux").exists()),
        judge_bpffs(statfs("/sys/fs/bpf").is_ok_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)),
        judge_capabilities(&caps::read(None, CapSet::Effective).unwrap_or_default()),
        judge_memlock(&release, memlock),
    ]
}

fn release() -> String {
    nix::sys::utsname::uname()
        .map(|uname| uname.release().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// `6.18.44-flavour` → (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn judge_kernel(release: &str) -> Finding {
    match version(release) {
        Some(version) if version >= OLDEST => Finding::ok("kernel", release),
        Some(_) => Finding::error(
            "kernel",
            format!("{release} is too old"),
            &format!("gregor needs Linux {}.{} or later", OLDEST.0, OLDEST.1),
        ),
        None => Finding::warning(
            "kernel",
            format!("`{release}` is no version that can be read"),
            "make sure that it is Linux 5.10 or later",
        ),
    }
}

fn judge_jit(setting: Option<&str>) -> Finding {
    match setting.map(str::trim) {
        Some("0") => Finding::warning(
            "jit",
            "off: programs are interpreted, several times slower",
            "sysctl net.core.bpf_jit_enable=1",
        ),
        Some(_) => Finding::ok("jit", "on"),
        // The sysctl belongs to the first network namespace only.
        None => Finding::ok("jit", "cannot be told from this network namespace"),
    }
}

fn judge_btf(present: bool) -> Finding {
    if present {
        Finding::ok("btf", "/sys/kernel/btf/vmlinux")
    } else {
        Finding::warning(
            "btf",
            "the kernel has no type information; gregor works without, `bpftool` shows less",
            "a kernel with CONFIG_DEBUG_INFO_BTF has it",
        )
    }
}

fn judge_bpffs(mounted: bool) -> Finding {
    if mounted {
        Finding::ok("bpffs", "/sys/fs/bpf")
    } else {
        Finding::warning(
            "bpffs",
            "not mounted at /sys/fs/bpf; nothing is pinned yet, so gregor works without",
            "mount -t bpf bpf /sys/fs/bpf",
        )
    }
}

fn judge_capabilities(effective: &CapsHashSet) -> Finding {
    let has = |capability| effective.contains(&capability);
    let admin = has(Capability::CAP_SYS_ADMIN);
    let missing: Vec<&str> = [
        ("CAP_BPF", admin || has(Capability::CAP_BPF)),
        ("CAP_PERFMON", admin || has(Capability::CAP_PERFMON)),
        ("CAP_NET_ADMIN", has(Capability::CAP_NET_ADMIN)),
        ("CAP_NET_RAW", has(Capability::CAP_NET_RAW)),
    ]
    .into_iter()
    .filter_map(|(name, there)| (!there).then_some(name))
    .collect();
    if missing.is_empty() {
        Finding::ok(
            "capabilities",
            "CAP_BPF CAP_PERFMON CAP_NET_ADMIN CAP_NET_RAW",
        )
    } else {
        Finding::error(
            "capabilities",
            format!("missing {}", missing.join(" ")),
            "run as root, or add them to the container's securityContext.capabilities",
        )
    }
}

fn judge_memlock(release: &str, soft: u64) -> Finding {
    let charged = version(release).is_some_and(|version| version < NO_MEMLOCK);
    match (charged, soft) {
        (false, _) => Finding::ok("memlock", "not charged by this kernel"),
        (true, libc::RLIM_INFINITY) => Finding::ok("memlock", "unlimited"),
        (true, soft) if soft >= MEMLOCK_NEEDED => {
            Finding::ok("memlock", format!("{} MiB", soft >> 20))
        }
        (true, soft) => Finding::error(
            "memlock",
            format!("{} kiB, too little for the maps", soft >> 10),
            "ulimit -l unlimited, LimitMEMLOCK=infinity in the unit, or CAP_SYS_RESOURCE",
        ),
    }
}

fn judge_hook(best: Hook, configured: Option<Hook>, release: &str) -> Finding {
    match (configured, best) {
        (Some(Hook::Xdp), _)
            if version(release).is_some_and(|version| version < OLDEST_FOR_XDP) =>
        {
            Finding::error(
                "hook",
                format!("the configuration says xdp, for which {release} is too old"),
                "set [intercept] hook = \"auto\"; xdp needs Linux 5.18",
            )
        }
        (Some(Hook::Tcx), Hook::Clsact) => Finding::error(
            "hook",
            "the configuration says tcx, which this kernel does not have",
            "set [intercept] hook = \"auto\"; tcx needs Linux 6.6",
        ),
        (None, Hook::Clsact) => Finding::ok(
            "hook",
            "clsact; after a crash its filter stays until gregor starts again or `gregor detach --all`",
        ),
        (hook, _) => Finding::ok("hook", hook_name(hook.unwrap_or(best))),
    }
}

/// The interfaces that would be attached, and what is on them already.
async fn interfaces(settings: Option<&Settings>) -> Vec<Finding> {
    let selection = settings.map_or(discover::Selection::PodVeths, |settings| {
        settings.selection.clone()
    });
    let present = match discover::present(&selection).await {
        Ok(present) => present,
        Err(error) => {
            return vec![Finding::error(
                "interfaces",
                error.to_string(),
                "gregor needs NETLINK_ROUTE in this network namespace",
            )];
        }
    };
    if present.is_empty() {
        return vec![Finding::warning(
            "interfaces",
            "none would be attached now",
            "run this in the node's network namespace; with a CNI without veths, set [intercept] interfaces",
        )];
    }
    if settings.is_some_and(|settings| settings.hook == Some(Hook::Xdp)) {
        let indexes: Vec<u32> = present.iter().map(|interface| interface.index).collect();
        return present
            .iter()
            .zip(xdp_modes(&indexes))
            .map(|(interface, mode)| {
                judge_xdp(interface, mode, vlan_offload_remedy(&interface.name))
            })
            .collect();
    }
    let mut findings = Vec::new();
    for interface in present {
        let tcx = programs_on(&interface.name).unwrap_or_default();
        let clsact = clsact_filters(&interface).await.unwrap_or_default();
        findings.push(judge_interface(&interface, &tcx, &clsact));
    }
    findings
}

fn judge_xdp(
    interface: &Interface,
    mode: Option<XdpMode>,
    remedy: std::io::Result<Option<String>>,
) -> Finding {
    let what = format!("interface {}", interface.name);
    match (remedy, mode) {
        (Err(error), _) => Finding::error(
            what,
            format!("cannot tell whether it takes VLAN tags out of frames: {error}"),
            "make sure that it is there",
        ),
        (Ok(Some(command)), _) => Finding::error(
            what,
            "takes VLAN tags out of frames before a program sees them, so an answer would go to the wrong network",
            &command,
        ),
        (Ok(None), Some(XdpMode::Native)) => {
            Finding::ok(what, "native XDP: the driver runs the program")
        }
        (Ok(None), Some(XdpMode::Generic)) => Finding::ok(
            what,
            "generic XDP: the driver runs no programs as this interface is set up, so the kernel does, later and slower",
        ),
        (Ok(None), None) => Finding::ok(
            what,
            "native XDP where the driver can, else generic; Linux 6.3 and later tell which beforehand",
        ),
    }
}

/// Names of the BPF filters on the clsact ingress of an interface.
async fn clsact_filters(interface: &Interface) -> anyhow::Result<Vec<String>> {
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let driver = tokio::spawn(connection);
    let filters: Result<Vec<_>, _> = handle
        .traffic_filter(interface.index as i32)
        .get()
        .ingress()
        .execute()
        .try_collect()
        .await;
    driver.abort();
    Ok(filters?
        .into_iter()
        .filter_map(|filter| {
            filter
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    TcAttribute::Options(options) => {
                        options.iter().find_map(|option| match option {
                            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
                            _ => None,
                        })
                    }
                    _ => None,
                })
        })
        .collect())
}

fn judge_interface(interface: &Interface, tcx: &[String], clsact: &[String]) -> Finding {
    let what = format!("interface {}", interface.name);
    let others: Vec<String> = tcx
        .iter()
        .map(|name| format!("{name} (tcx)"))
        .chain(clsact.iter().map(|name| format!("{name} (clsact)")))
        .filter(|name| !name.starts_with(PROGRAM))
        .collect();
    let ours = tcx.iter().chain(clsact).any(|name| name == PROGRAM);
    let detail = match (ours, others.is_empty()) {
        (false, true) => "free".to_owned(),
        (true, true) => "gregor is on it".to_owned(),
        (false, false) => format!("other programs on its ingress: {}", others.join(", ")),
        (true, false) => format!("gregor is on it, with {}", others.join(", ")),
    };
    if others.is_empty() {
        Finding::ok(what, detail)
    } else {
        Finding::warning(
            what,
            detail,
            "with [intercept] order = \"first\" a query that gregor takes is not seen by them; \
             \"last\" lets them see it first",
        )
    }
}

/// What TCP will do at each server.
async fn tcp(settings: &Settings) -> Vec<Finding> {
    let routes = match discover::Routes::open() {
        Ok(routes) => routes,
        Err(error) => {
            return vec![Finding::error(
                "tcp",
                error.to_string(),
                "gregor needs NETLINK_ROUTE in this network namespace",
            )];
        }
    };
    let mut findings = Vec::new();
    for &server in &settings.servers {
        let what = format!("tcp {server}");
        findings.push(match routes.is_local(server).await {
            Ok(local) => judge_tcp(what, settings.tcp, local),
            Err(error) => Finding::warning(what, error.to_string(), "run this as root"),
        });
    }
    findings
}

fn judge_tcp(what: String, mode: SteerMode, local: bool) -> Finding {
    let consequence = match (local, mode) {
        (true, SteerMode::AfterTruncation) => {
            "a client whose answer does not fit is told TC=1, and the responder answers when it returns over TCP"
        }
        (true, SteerMode::Always) => {
            "the responder answers what a rule matches over TCP and relays the rest"
        }
        (_, SteerMode::Never) | (false, _) => {
            "TCP reaches the existing cache; an answer that does not fit carries as many addresses as do"
        }
    };
    let place = if local {
        "local to the node"
    } else {
        "not local to the node"
    };
    Finding::ok(
        what,
        format!("{place}, tcp = \"{}\": {consequence}", tcp_name(mode)),
    )
}

/// Whether the servers answer, and what they say to names that the rules match.
async fn cache(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for server in &settings.servers {
        let server = SocketAddr::new(*server, DNS_PORT);
        for rule in settings.rules.rules() {
            let what = format!("cache {}", server.ip());
            let Some(name) = probe_name(rule).filter(|name| {
                // What another rule would take says nothing about this one.
                settings
                    .rules
                    .find(&wire_name(name))
                    .is_some_and(|index| std::ptr::eq(&settings.rules.rules()[index], rule))
            }) else {
                findings.push(Finding::ok(
                    what,
                    format!("rule `{}`: no name to ask for can be made up", rule.name()),
                ));
                continue;
            };
            let reply = chase(&name, RecordType::A, server, probe_timeout(settings)).await;
            let reached = reply.steps.first().is_some_and(|step| step.reply.is_ok());
            findings.push(judge_probe(what, rule.name(), &reply));
            if !reached {
                // The other rules would wait for the same silence.
                break;
            }
        }
    }
    findings
}

fn probe_timeout(settings: &Settings) -> Duration {
    settings.timeout.min(Duration::from_secs(2))
}

/// A name that a rule matches and no pod asks for; `None` for a regex.
fn probe_name(rule: &Rule) -> Option<Name> {
    if rule.is_regex() {
        return None;
    }
    Name::from_ascii(probe_text(rule.pattern())).ok()
}

fn probe_text(pattern: &str) -> String {
    let labels: Vec<&str> = pattern
        .trim_end_matches('.')
        .split('.')
        .map(|label| match label {
            "*" => PROBE,
            capture if capture.starts_with('{') => PROBE,
            literal => literal,
        })
        .collect();
    format!("{}.", labels.join("."))
}

fn judge_probe(what: String, rule: &str, reply: &Explanation) -> Finding {
    let Some(step) = reply.steps.first() else {
        return Finding::warning(what, "was not asked", "ask again");
    };
    match &step.reply {
        Err(failure) => Finding::warning(
            what,
            format!("does not answer ({})", failure.label()),
            "run this in the node's network namespace; correct [intercept] servers if the address is wrong",
        ),
        Ok(reply) if reply.rcode == ResponseCode::NoError && !reply.records.is_empty() => {
            Finding::ok(
                what,
                format!(
                    "answers names of rule `{rule}` by itself (a template, say): queries that pass are answered, also \
                     while gregor is down"
                ),
            )
        }
        Ok(reply) => Finding::ok(
            what,
            format!(
                "says {} to names of rule `{rule}`: while gregor is down, clients go on to the public name; a template \
                 in the cache would prevent that",
                rcode(reply.rcode)
            ),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels() {
        for (release, level) in [
            ("6.18.44-fc-v595", Level::Ok),
            ("5.10.0-32-amd64", Level::Ok),
            ("5.9.16", Level::Error),
            ("4.19.0-26-amd64", Level::Error),
            ("10.0", Level::Ok),
            ("", Level::Warning),
            ("mainline", Level::Warning),
        ] {
            assert_eq!(judge_kernel(release).level, level, "{release}");
        }
    }

    #[test]
    fn capabilities() {
        let set = |names: &[Capability]| names.iter().copied().collect::<CapsHashSet>();
        use Capability::*;
        let least = set(&[CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW]);
        assert_eq!(judge_capabilities(&least).level, Level::Ok);
        let old = set(&[CAP_SYS_ADMIN, CAP_NET_ADMIN, CAP_NET_RAW]);
        assert_eq!(judge_capabilities(&old).level, Level::Ok);
        let finding = judge_capabilities(&set(&[CAP_BPF, CAP_NET_ADMIN]));
        assert_eq!(finding.level, Level::Error);
        assert_eq!(finding.detail, "missing CAP_PERFMON CAP_NET_RAW");
        assert!(finding.remedy.unwrap().contains("securityContext"));
    }

    #[test]
    fn memlock_counts_only_where_it_is_charged() {
        assert_eq!(judge_memlock("6.1.0", 0).level, Level::Ok);
        assert_eq!(judge_memlock("5.10.0", 64 << 10).level, Level::Error);
        assert_eq!(
            judge_memlock("5.10.0", libc::RLIM_INFINITY).level,
            Level::Ok
        );
    }

    #[test]
    fn hooks() {
        for (best, configured, level, part) in [
            (Hook::Tcx, None, Level::Ok, "tcx"),
            (Hook::Clsact, None, Level::Ok, "clsact"),
            (Hook::Tcx, Some(Hook::Clsact), Level::Ok, "clsact"),
            (Hook::Clsact, Some(Hook::Tcx), Level::Error, "does not have"),
            (Hook::Clsact, Some(Hook::Xdp), Level::Ok, "xdp"),
        ] {
            let finding = judge_hook(best, configured, "6.1.0");
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.detail.contains(part), "{finding:?}");
        }
        let finding = judge_hook(Hook::Clsact, Some(Hook::Xdp), "5.15.0-91-generic");
        assert_eq!(finding.level, Level::Error);
        assert!(finding.detail.contains("too old"), "{finding:?}");
    }

    #[test]
    fn xdp_modes_and_what_stands_in_their_way() {
        let interface = Interface {
            index: 2,
            name: "eth0".to_owned(),
        };
        for (mode, part) in [
            (Some(XdpMode::Native), "native XDP"),
            (Some(XdpMode::Generic), "generic XDP"),
            (None, "else generic"),
        ] {
            let finding = judge_xdp(&interface, mode, Ok(None));
            assert_eq!(finding.level, Level::Ok, "{finding:?}");
            assert!(finding.detail.contains(part), "{finding:?}");
        }
        let command = "ethtool -K eth0 rxvlan off".to_owned();
        let finding = judge_xdp(&interface, Some(XdpMode::Native), Ok(Some(command.clone())));
        assert_eq!(finding.level, Level::Error);
        assert_eq!(finding.remedy, Some(command));
        let gone = Err(std::io::Error::from_raw_os_error(libc::ENODEV));
        assert_eq!(judge_xdp(&interface, None, gone).level, Level::Error);
    }

    #[test]
    fn other_programs_are_told() {
        let interface = Interface {
            index: 7,
            name: "veth7".to_owned(),
        };
        let free = judge_interface(&interface, &[], &[]);
        assert_eq!((free.level, free.detail.as_str()), (Level::Ok, "free"));
        let own = judge_interface(&interface, &[PROGRAM.to_owned()], &[]);
        assert_eq!(own.level, Level::Ok);
        let shared = judge_interface(&interface, &["cil_from_cont".to_owned()], &["x".to_owned()]);
        assert_eq!(shared.level, Level::Warning);
        assert_eq!(
            shared.detail,
            "other programs on its ingress: cil_from_cont (tcx), x (clsact)"
        );
    }

    #[test]
    fn tcp_is_only_steered_where_it_ends() {
        for (mode, local, part) in [
            (SteerMode::AfterTruncation, true, "told TC=1"),
            (
                SteerMode::AfterTruncation,
                false,
                "reaches the existing cache",
            ),
            (SteerMode::Always, true, "relays the rest"),
            (SteerMode::Always, false, "reaches the existing cache"),
            (SteerMode::Never, true, "reaches the existing cache"),
        ] {
            let finding = judge_tcp("tcp".to_owned(), mode, local);
            assert_eq!(finding.level, Level::Ok);
            assert!(finding.detail.contains(part), "{finding:?}");
            assert_eq!(finding.detail.starts_with("local"), local, "{finding:?}");
        }
    }

    #[test]
    fn probes_are_names_that_the_pattern_matches() {
        assert_eq!(
            probe_text("*.kafka.{namespace}.svc.cluster.local"),
            "gregor-check-probe.kafka.gregor-check-probe.svc.cluster.local."
        );
        assert_eq!(probe_text("db.example.com."), "db.example.com.");
    }

    #[test]
    fn only_errors_make_the_check_fail() {
        let ok = Finding::ok("a", "fine");
        let warning = Finding::warning("b", "hm\nmore", "do this");
        let error = Finding::error("c", "no", "do that");
        assert!(Report::new(vec![ok.clone(), warning.clone()]).ok);
        let report = Report::new(vec![ok, warning, error]);
        assert!(!report.ok);
        assert_eq!(
            render(&report),
            "\
ok       a                    fine
WARNING  b                    hm
                              more
                              → do this
ERROR    c                    no
                              → do that
`gregor run` would not work as it should: see the errors above
"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"][2]["level"], "error");
        assert!(json["findings"][0].get("remedy").is_none());
    }
}
