//! `gregor status`: the state of the running gregor, over its control socket.

use std::{
    fmt::Write as _,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

use crate::{
    identity::IdentityStatus,
    nameservers::{Source, reason},
    observe::{self, ClaimStatus, ClaimsStatus, RuleStatus, Section, Status, fetch_status},
    sources::SelectedStatus,
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor status
  gregor status --json

The exit code says only whether a gregor answered; /readyz says whether it is ready.")]
pub struct Args {
    /// Print everything as one JSON object.
    #[arg(long)]
    json: bool,
    /// Where the running gregor listens.
    #[arg(long, value_name = "PATH", default_value = super::CONTROL)]
    control: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let status = super::block_on(async { Ok(fetch_status(&args.control).await?) })?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", render(&status));
    }
    Ok(ExitCode::SUCCESS)
}

/// What one source of servers has named.
fn learnt(source: &Source) -> String {
    let servers: Vec<String> = source.servers.iter().map(ToString::to_string).collect();
    match (&servers[..], &source.error) {
        ([], _) => format!("nothing from {}", reason(source)),
        (_, None) => format!("{} from {}", servers.join(" "), source.name),
        (_, Some(error)) => format!(
            "{} from {}, before this: {error}",
            servers.join(" "),
            source.name
        ),
    }
}

/// Who claims what.
fn claims(text: &mut String, status: &ClaimsStatus) {
    if !status.is_on {
        return;
    }
    let _ = writeln!(text, "\nclaims ({} Services)", status.claims.len());
    for claim in &status.claims {
        let ClaimStatus {
            namespace, service, ..
        } = claim;
        let accepted = match &claim.accepted[..] {
            [] => "nothing".to_owned(),
            names => names.join(" "),
        };
        let _ = writeln!(text, "  {namespace}/{service}: {accepted}");
        for (name, why) in &claim.refused {
            let _ = writeln!(text, "    REFUSED {name}: {why}");
        }
        if claim.unlisted > 0 {
            let _ = writeln!(text, "    REFUSED {} more", claim.unlisted);
        }
    }
}

/// For people.
fn render(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:<12} {value}");
    };
    let uptime = Duration::from_secs(status.uptime_seconds as u64);
    line(
        "gregor",
        &format!(
            "{}{}, up {}",
            status.version,
            match status.node.as_str() {
                "" => String::new(),
                node => format!(" on {node}"),
            },
            humantime::format_duration(uptime)
        ),
    );
    let missing = status.vital().not_ready();
    line(
        "ready",
        &if missing.is_empty() {
            "yes".to_owned()
        } else {
            format!("no: {}", missing.join("; "))
        },
    );
    line(
        "config",
        &format!(
            "{} (loaded {} times, refused {})",
            status.config.path, status.config.loads, status.config.failures
        ),
    );
    if let Some(error) = &status.config.error {
        let consequence = if status.readiness.loaded {
            "REFUSED, the last good one stays in force"
        } else {
            "WAITING, nothing is attached"
        };
        line("", &format!("{consequence}: {error}"));
    }
    for warning in &status.config.warnings {
        line("", &format!("warning: {warning}"));
    }
    // There is one program on XDP, so no order.
    line(
        "hook",
        &match status.hook.as_str() {
            "xdp" => status.hook.clone(),
            hook => format!("{hook}, {}", status.order),
        },
    );
    line(
        "servers",
        &status
            .servers
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(" "),
    );
    for (number, source) in status.learnt.iter().enumerate() {
        line(if number == 0 { "learnt" } else { "" }, &learnt(source));
    }
    line(
        "heartbeat",
        &match status.heartbeat_age_seconds {
            Some(age) => format!("{:.0} ms ago", age * 1000.0),
            None => "never yet".to_owned(),
        },
    );
    if let Some(program) = &status.kernel.program {
        line(
            "program",
            &format!(
                "id {}, {} verified instructions, loaded in {:.0} ms, {} kB matcher",
                program.id,
                program.verified_instructions,
                program.load_seconds * 1000.0,
                program.table_bytes.div_ceil(1024),
            ),
        );
    }

    let _ = writeln!(text, "\nrules ({})", status.rules.len());
    for rule in &status.rules {
        let _ = writeln!(
            text,
            "  {}: {} → {}{}{}",
            rule.name,
            rule.pattern,
            rule.target,
            namespaces(rule)
                + &rule
                    .clients
                    .as_ref()
                    .map(|clients| format!(", for {clients}"))
                    .unwrap_or_default(),
            if rule.observes { ", ONLY OBSERVES" } else { "" }
        );
    }
    claims(&mut text, &status.claims);
    let _ = writeln!(
        text,
        "\ninterfaces ({} of {} attached)",
        status.attached(),
        status.interfaces.len()
    );
    if status.kernel.removed > 0 {
        let _ = writeln!(
            text,
            "  other processes detached programs {} times; they are attached again",
            status.kernel.removed
        );
    }
    if status.kernel.moved > 0 {
        let _ = writeln!(
            text,
            "  other programs came in front {} times; gregor's moved in front of them",
            status.kernel.moved
        );
    }
    for interface in &status.interfaces {
        let _ = match &interface.error {
            None => {
                let mode = interface.mode.as_deref().map(|mode| format!(" {mode}"));
                writeln!(
                    text,
                    "  {} ({}){}",
                    interface.name,
                    interface.index,
                    mode.unwrap_or_default()
                )
            }
            Some(error) => writeln!(
                text,
                "  {} ({}) NOT ATTACHED: {error}",
                interface.name, interface.index
            ),
        };
        if let Some(who) = &interface.who {
            let addresses: Vec<String> = who.addresses.iter().map(ToString::to_string).collect();
            let since = UNIX_EPOCH + Duration::from_secs(who.since);
            let _ = writeln!(
                text,
                "    {}/{} ({}) {}, since {}",
                who.namespace,
                who.pod,
                who.source,
                addresses.join(" "),
                humantime::format_rfc3339_seconds(since)
            );
        }
        if let Some(why) = &interface.nobody {
            let _ = writeln!(text, "    nobody: {why}");
        }
        for found in &interface.in_front {
            let _ = writeln!(
                text,
                "    IN FRONT OF GREGOR: {} ({}); gregor does not answer queries that it does not pass on",
                found.program, found.hook
            );
        }
    }

    if !status.identity.sources.is_empty() {
        identity(&mut text, &status.identity);
    }

    let _ = writeln!(text, "\nrequests in the kernel");
    if !counts(&mut text, status, Section::Requests) {
        let _ = writeln!(text, "  none yet");
    }
    if !status.kernel.observed.is_empty() {
        let _ = writeln!(text, "\nobserved");
        counts(&mut text, status, Section::Observed);
    }
    if !status.kernel.other_servers.is_empty() {
        let _ = writeln!(
            text,
            "\nWARNING: pods also ask servers that are not in [intercept] servers, past gregor; musl asks all of a pod's at once \
             and takes the first NXDOMAIN"
        );
        counts(&mut text, status, Section::OtherServers);
    }

    let answers = &status.kernel.answers;
    if answers.entries > 0 || !answers.rules.is_empty() {
        let _ = writeln!(
            text,
            "\nanswers in the kernel ({} entries, {} without target)",
            answers.entries, answers.no_target
        );
        counts(&mut text, status, Section::Answers);
    }

    let _ = writeln!(text, "\nresponder");
    if !counts(&mut text, status, Section::Responder) {
        let _ = writeln!(text, "  nothing yet");
    }

    let tcp = &status.tcp;
    let _ = writeln!(text, "\ntcp ({})", tcp.mode);
    if let Some(error) = &tcp.error {
        let _ = writeln!(
            text,
            "  NOT STEERED, it reaches the existing cache: {error}"
        );
    }
    let local: Vec<String> = tcp.local_servers.iter().map(ToString::to_string).collect();
    let _ = match local.as_slice() {
        [] => writeln!(
            text,
            "  no server is local to the node: none of it is steered"
        ),
        _ => writeln!(text, "  {:<22} {}", "local servers", local.join(" ")),
    };
    counts(&mut text, status, Section::Tcp);

    let api = &status.kubernetes;
    let _ = writeln!(text, "\nkubernetes services ({})", api.mode);
    if api.mode == "on" {
        let age = match api.age_seconds {
            Some(age) => format!(", heard {age:.0} s ago"),
            None => ", not listed yet".to_owned(),
        };
        let _ = writeln!(
            text,
            "  {:<22} {} of {} up to date{age}",
            "watches",
            api.connected,
            api.watches.len()
        );
        for watch in &api.watches {
            let _ = writeln!(text, "    {watch}");
        }
    }
    if let Some(error) = &api.error {
        let _ = writeln!(text, "  NOT WATCHED, DNS says what targets are: {error}");
    }
    counts(&mut text, status, Section::Kubernetes);
    selected(&mut text, &status.selected);
    text
}

/// Namespaces of a rule that are listed: there may be thousands.
const LISTED: usize = 10;

/// Those that a rule is for.
fn namespaces(rule: &RuleStatus) -> String {
    let list = rule.namespaces.as_ref().map(|names| {
        let more = match names.len().saturating_sub(LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        let first = names.iter().take(LISTED).map(String::as_str);
        first.collect::<Vec<_>>().join(" ") + &more
    });
    match (&rule.namespace_labels, list.as_deref()) {
        (None, None) => String::new(),
        (None, Some(list)) => format!(", for {list}"),
        (Some(labels), None) => format!(", for namespaces with {labels}: NOT KNOWN, so for none"),
        (Some(labels), Some("")) => format!(", for namespaces with {labels}: none"),
        (Some(labels), Some(list)) => format!(", for namespaces with {labels}: {list}"),
    }
}

/// The namespaces that rules select by labels, where any does.
fn selected(text: &mut String, selected: &SelectedStatus) {
    if selected.selectors == 0 {
        return;
    }
    let _ = writeln!(text, "\nkubernetes namespaces");
    let age = match selected.age_seconds {
        Some(age) => format!(", heard {age:.0} s ago"),
        None => ", not heard yet".to_owned(),
    };
    let _ = writeln!(
        text,
        "  {:<22} {}{age}",
        "selected by labels", selected.namespaces
    );
    if let Some(error) = &selected.error {
        let _ = writeln!(text, "  NOT WATCHED, what was known last counts: {error}");
    }
}

/// The sources of identity, in the order of trust.
fn identity(text: &mut String, identity: &IdentityStatus) {
    let names: Vec<&str> = identity
        .sources
        .iter()
        .map(|source| source.source.as_str())
        .collect();
    let _ = writeln!(text, "\nidentity ({})", names.join(", "));
    if let Some(error) = &identity.error {
        let _ = writeln!(text, "  NOBODY IS KNOWN ANEW: {error}");
    }
    for source in &identity.sources {
        let _ = writeln!(text, "  {:<22} {} pods", source.source, source.pods);
        for (why, count) in &source.ignored {
            let _ = writeln!(text, "    ignored: {count} files, {why}");
        }
        if let Some(error) = &source.error {
            let _ = writeln!(
                text,
                "    CANNOT BE READ, what it said last counts: {error}"
            );
        }
    }
}

/// What was counted, if anything was.
fn counts(text: &mut String, status: &Status, section: Section) -> bool {
    let before = text.len();
    for (name, count) in observe::lines(status, section) {
        let _ = writeln!(text, "  {name:<22} {count}");
    }
    text.len() > before
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{SourceStatus, WhoStatus};
    use crate::observe::{Counter, InFrontStatus, InterfaceStatus, Readiness};

    fn example() -> Status {
        let mut status = Status {
            version: "0.1.0".to_owned(),
            node: "node-7".to_owned(),
            uptime_seconds: 3723.4,
            readiness: Readiness {
                standby: false,
                loaded: true,
                attached: true,
                serving: true,
                stopping: false,
            },
            hook: "tcx".to_owned(),
            order: "first".to_owned(),
            servers: vec![
                "169.254.20.10".parse().unwrap(),
                "172.20.0.10".parse().unwrap(),
            ],
            heartbeat_age_seconds: Some(0.12),
            rules: vec![RuleStatus {
                name: "kafka".to_owned(),
                pattern: "*.kafka.{namespace}.svc".to_owned(),
                target: "up.{namespace}.svc".to_owned(),
                ..RuleStatus::default()
            }],
            interfaces: vec![InterfaceStatus {
                index: 7,
                name: "veth7".to_owned(),
                mode: None,
                error: None,
                in_front: Vec::new(),
                ..InterfaceStatus::default()
            }],
            ..Default::default()
        };
        status.config.path = "/etc/gregor/gregor.toml".to_owned();
        status.config.loads = 1;
        status.kernel.requests = vec![
            Counter {
                verdict: "taken".to_owned(),
                reason: "matched".to_owned(),
                count: 12,
            },
            Counter {
                verdict: "pass".to_owned(),
                reason: "no_rule".to_owned(),
                count: 0,
            },
        ];
        status.responder.queries = 12;
        status.responder.replies.insert("NOERROR".into(), 11);
        status.responder.passed_on.insert("no_target".into(), 1);
        status.responder.chases = 2;
        status.responder.truncated = 3;
        status.tcp.mode = "after-truncation".to_owned();
        status.kubernetes.mode = "off: not in a cluster".to_owned();
        status.tcp.local_servers = vec!["169.254.20.10".parse().unwrap()];
        status.tcp.counters.connections = 2;
        status
    }

    #[test]
    fn a_healthy_node() {
        assert_eq!(
            render(&example()),
            "\
gregor       0.1.0 on node-7, up 1h 2m 3s
ready        yes
config       /etc/gregor/gregor.toml (loaded 1 times, refused 0)
hook         tcx, first
servers      169.254.20.10 172.20.0.10
heartbeat    120 ms ago

rules (1)
  kafka: *.kafka.{namespace}.svc → up.{namespace}.svc

interfaces (1 of 1 attached)
  veth7 (7)

requests in the kernel
  taken matched          12

responder
  queries                12
  reply NOERROR          11
  passed on no_target    1
  chases                 2

tcp (after-truncation)
  local servers          169.254.20.10
  replies with TC        3
  connections            2

kubernetes services (off: not in a cluster)
"
        );
    }

    #[test]
    fn who_is_behind_an_interface_is_shown() {
        let mut status = example();
        status.interfaces[0].who = Some(WhoStatus {
            namespace: "foo".to_owned(),
            pod: "web-0".to_owned(),
            uid: "1".to_owned(),
            labels: None,
            addresses: vec!["10.0.0.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            source: "cni".to_owned(),
            since: 1_800_000_000,
        });
        status.interfaces.push(InterfaceStatus {
            index: 8,
            name: "veth8".to_owned(),
            nobody: Some("no source knows a pod for it".to_owned()),
            ..InterfaceStatus::default()
        });
        status.identity.sources = vec![SourceStatus {
            source: "cni".to_owned(),
            pods: 3,
            ignored: [("of no pod".into(), 2)].into(),
            error: Some("no".to_owned()),
        }];
        let text = render(&status);
        for part in [
            "  veth7 (7)\n    foo/web-0 (cni) 10.0.0.5 fd00::5, since 2027-01-15T08:00:00Z\n",
            "  veth8 (8)\n    nobody: no source knows a pod for it\n",
            "\nidentity (cni)\n  cni                    3 pods\n    ignored: 2 files, of no pod\n    CANNOT BE READ, what it said last counts: no\n",
        ] {
            assert!(text.contains(part), "missing {part}\n{text}");
        }
    }

    #[test]
    fn learnt_servers_are_shown_with_their_sources() {
        let mut status = example();
        let mut kubelet = Source::silent("clusterDNS in /k.yaml", "not read yet");
        kubelet.take(Ok(vec!["169.254.20.10".parse().unwrap()]));
        status.learnt = vec![kubelet.clone(), Source::services("not in a cluster")];
        assert!(render(&status).contains(
            "
servers      169.254.20.10 172.20.0.10
learnt       169.254.20.10 from clusterDNS in /k.yaml
             nothing from the Services with k8s-app=kube-dns in kube-system: not in a cluster
heartbeat    120 ms ago
"
        ));
        kubelet.take(Err("cannot be read".to_owned()));
        status.learnt = vec![kubelet];
        let text = render(&status);
        let expected = "169.254.20.10 from clusterDNS in /k.yaml, before this: cannot be read";
        assert!(text.contains(expected), "{text}");
        status.readiness.loaded = false;
        status.config.error = Some("no server is learnt".to_owned());
        let text = render(&status);
        assert!(
            text.contains("WAITING, nothing is attached: no server is learnt"),
            "{text}"
        );
    }

    #[test]
    fn the_mode_of_an_xdp_program_is_shown() {
        let mut status = example();
        status.hook = "xdp".to_owned();
        status.interfaces[0].mode = Some("generic".to_owned());
        assert!(render(&status).contains("\n  veth7 (7) generic\n"));
    }

    #[test]
    fn watches_and_their_age_are_shown() {
        let mut status = example();
        let api = &mut status.kubernetes;
        api.mode = "on".to_owned();
        api.watches = vec!["up in every namespace".to_owned()];
        api.connected = 1;
        api.age_seconds = Some(12.3);
        api.services.insert("external_name".into(), 2);
        assert!(render(&status).ends_with(
            "
kubernetes services (on)
  watches                1 of 1 up to date, heard 12 s ago
    up in every namespace
  services external_name 2
"
        ));
        status.kubernetes.error = Some("services is forbidden (403)".to_owned());
        let text = render(&status);
        let expected = "NOT WATCHED, DNS says what targets are: services is forbidden (403)";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn problems_are_shown() {
        let mut status = example();
        status.readiness.attached = false;
        status.interfaces[0].error = Some("it is busy".to_owned());
        status.config.error = Some("line 3: no".to_owned());
        status.config.warnings = vec!["rule `kafka` is shadowed".to_owned()];
        status.kernel.other_servers.insert("8.8.8.8".to_owned(), 4);
        status.interfaces[0].in_front.push(InFrontStatus {
            hook: "tcx".to_owned(),
            program: "policy".to_owned(),
        });
        let text = render(&status);
        for part in [
            "ready        no: not every interface that is present is attached",
            "REFUSED, the last good one stays in force: line 3: no",
            "warning: rule `kafka` is shadowed",
            "interfaces (0 of 1 attached)",
            "veth7 (7) NOT ATTACHED: it is busy",
            "IN FRONT OF GREGOR: policy (tcx);",
            "WARNING: pods also ask servers",
            "8.8.8.8                4",
        ] {
            assert!(text.contains(part), "missing {part}\n{text}");
        }
    }

    #[test]
    fn namespaces_by_label_and_what_is_known_of_them() {
        let mut status = example();
        assert!(!render(&status).contains("kubernetes namespaces"));
        status.rules[0].namespace_labels = Some("tier=gold".to_owned());
        status.selected = SelectedStatus {
            selectors: 1,
            unknown: 1,
            error: Some("not in a cluster".to_owned()),
            ..SelectedStatus::default()
        };
        let text = render(&status);
        for part in [
            "for namespaces with tier=gold: NOT KNOWN, so for none",
            "NOT WATCHED, what was known last counts: not in a cluster",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let names = (0..12).map(|number| format!("n{number}"));
        status.rules[0].namespaces = Some(names.collect());
        status.selected = SelectedStatus {
            selectors: 1,
            namespaces: 12,
            age_seconds: Some(3.2),
            ..SelectedStatus::default()
        };
        let text = render(&status);
        for part in [
            "for namespaces with tier=gold: n0 n1 n2 n3 n4 n5 n6 n7 n8 n9 and 2 more",
            "selected by labels     12, heard 3 s ago",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        status.rules[0].namespaces = Some(Vec::new());
        assert!(render(&status).contains("with tier=gold: none"));
    }
}
