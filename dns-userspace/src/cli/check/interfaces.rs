//! The hook, the interfaces that would be attached, and what is on them already.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use rtnetlink::packet_route::tc::{TcAttribute, TcFilterBpfOption, TcOption};

use super::finding::Finding;
use crate::{
    app::settings::{Settings, hook_name},
    datapath::{
        Hook, Interface, Order, PROGRAM, XdpMode, has_tcx, programs_on, vlan_offload_remedy,
        xdp_modes,
    },
    discover::{self, Left, Link, Selection},
};

/// The hook that would be used.
pub fn hook(configured: Option<Hook>) -> Finding {
    judge_hook(has_tcx(), configured)
}

fn judge_hook(has_tcx: std::io::Result<bool>, configured: Option<Hook>) -> Finding {
    match (configured, has_tcx) {
        (Some(Hook::Tcx), Ok(false)) => Finding::error(
            "hook",
            "the configuration says tcx, which this kernel does not have",
            "set [intercept] hook = \"auto\"; tcx came with Linux 6.6",
        ),
        (None | Some(Hook::Tcx), Err(error)) => Finding::warning(
            "hook",
            format!("the kernel does not say whether it has tcx: {error}"),
            "run as root, or with CAP_NET_ADMIN",
        ),
        (None | Some(Hook::Tcx), Ok(true)) => Finding::ok("hook", hook_name(Hook::Tcx)),
        (None, Ok(false)) => Finding::ok(
            "hook",
            "clsact; after a crash its filter stays until gregor starts again or `gregor detach --all`",
        ),
        (Some(hook), _) => Finding::ok("hook", hook_name(hook)),
    }
}

/// The interfaces that would be attached, and what is on them already.
pub async fn look(settings: Option<&Settings>) -> Vec<Finding> {
    let selection = settings.map_or(Selection::PodVeths, |settings| settings.selection.clone());
    let links = match discover::all().await {
        Ok(links) => links,
        Err(error) => {
            return vec![Finding::error(
                "interfaces",
                error.to_string(),
                "gregor needs NETLINK_ROUTE in this network namespace",
            )];
        }
    };
    let mut findings = left_alone(&selection, &links);
    let present: Vec<Interface> = links
        .into_iter()
        .filter(|link| selection.wants(link))
        .map(|link| Interface {
            index: link.index,
            name: link.name,
        })
        .collect();
    if present.is_empty() {
        findings.push(Finding::warning(
            "interfaces",
            "none would be attached now",
            "run this in the node's network namespace; with a CNI without veths, set [intercept] interfaces",
        ));
        return findings;
    }
    if settings.is_some_and(|settings| settings.hook == Some(Hook::Xdp)) {
        let indexes: Vec<u32> = present.iter().map(|interface| interface.index).collect();
        let modes = present.iter().zip(xdp_modes(&indexes));
        findings.extend(modes.map(|(interface, mode)| {
            judge_xdp(interface, mode, vlan_offload_remedy(&interface.name))
        }));
        return findings;
    }
    for interface in present {
        let tcx = programs_on(&interface.name).unwrap_or_default();
        let clsact = clsact_filters(&interface).await.unwrap_or_default();
        let order = settings.map_or(Order::First, |settings| settings.order);
        findings.push(judge_interface(&interface, &tcx, &clsact, order));
    }
    findings
}

/// Names of one reason that are listed; a node may have hundreds.
const MAX_NAMES: usize = 8;

/// The links that gregor does not attach to, by the reason for that.
fn left_alone(selection: &Selection, links: &[Link]) -> Vec<Finding> {
    let mut by_reason: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for link in links {
        if let Err(left) = selection.judge(link)
            && let Some(reason) = reason(left, link)
        {
            by_reason.entry(reason).or_default().push(&link.name);
        }
    }
    let finding = |(reason, names): (String, Vec<&str>)| {
        let listed = names[..names.len().min(MAX_NAMES)].join(", ");
        let more = match names.len().saturating_sub(MAX_NAMES) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        Finding::ok("left alone", format!("{listed}{more}: {reason}"))
    };
    by_reason.into_iter().map(finding).collect()
}

/// `None` where that is what anyone expects.
fn reason(left: Left, link: &Link) -> Option<String> {
    const BY_NAME: &str = "[intercept] interfaces names such, where pods are behind them";
    let reason = match (left, link.kind.as_str()) {
        (Left::Own, _) => return None,
        _ if link.name == "lo" => return None,
        (Left::Uplink, _) => "the node's uplink: a default route leaves by it".to_owned(),
        (Left::PeerHere, _) => "veths whose other end is in this network namespace too".to_owned(),
        (Left::NotNamed, "veth") if link.peer_elsewhere && !link.is_uplink => {
            "veths of pods that [intercept] interfaces does not name".to_owned()
        }
        (Left::NotNamed, _) => return None,
        (Left::Kind, "") => {
            format!("network cards; {BY_NAME}")
        }
        (Left::Kind, "bridge") => "bridges: the pods are behind their ports".to_owned(),
        (Left::Kind, "netkit") => format!("netkit; {BY_NAME}"),
        (Left::Kind, "tun") => format!("tap or tun, as of virtual machines; {BY_NAME}"),
        (Left::Kind, kind @ ("macvlan" | "macvtap" | "ipvlan" | "ipvtap")) => {
            format!(
                "{kind}: what pods send by their own does not come past the node's network, and cannot be served"
            )
        }
        (Left::Kind, kind) => format!("{kind}, which no pod is behind"),
    };
    Some(reason)
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
            format!("cannot find out whether it takes VLAN tags out of frames: {error}"),
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
            "native XDP where the driver can, else generic; Linux 6.3 and later say which beforehand",
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

/// The programs that run before gregor's, and whether that is against `order`; `None` where gregor's is not there.
fn in_front(tcx: &[String], clsact: &[String], order: Order) -> Option<(Vec<String>, bool)> {
    let named = |names: &[String], hook: &str| -> Vec<String> {
        let name = |name: &String| format!("{name} ({hook})");
        names.iter().map(name).collect()
    };
    let place = |names: &[String]| names.iter().position(|name| name == PROGRAM);
    if let Some(place) = place(tcx) {
        return Some((
            named(&tcx[..place], "tcx"),
            order == Order::First && place > 0,
        ));
    }
    let place = place(clsact)?;
    let mut found = named(tcx, "tcx");
    found.extend(named(&clsact[..place], "clsact"));
    Some((found, order == Order::First && place > 0))
}

fn judge_interface(
    interface: &Interface,
    tcx: &[String],
    clsact: &[String],
    order: Order,
) -> Finding {
    let what = format!("interface {}", interface.name);
    if let Some((found, is_against_order)) = in_front(tcx, clsact, order)
        && !found.is_empty()
    {
        let found = found.join(", ");
        let detail = format!("in front of gregor: {found}; it sees only what these pass on");
        return if is_against_order {
            Finding::error(
                what,
                detail,
                "order = \"first\" is not in force: restart gregor to have it in front, or have the other program come \
                 later; a program that denies on purpose wants order = \"last\"",
            )
        } else {
            Finding::warning(
                what,
                detail,
                "they have to return TCX_NEXT or TC_ACT_UNSPEC for what they pass on: TC_ACT_OK ends the chain",
            )
        };
    }
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

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn hooks() {
        for (has_tcx, configured, level, part) in [
            (true, None, Level::Ok, "tcx"),
            (false, None, Level::Ok, "clsact"),
            (true, Some(Hook::Clsact), Level::Ok, "clsact"),
            (true, Some(Hook::Tcx), Level::Ok, "tcx"),
            (false, Some(Hook::Tcx), Level::Error, "does not have"),
            (false, Some(Hook::Xdp), Level::Ok, "xdp"),
        ] {
            let finding = judge_hook(Ok(has_tcx), configured);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.detail.contains(part), "{finding:?}");
        }
        let forbidden = || Err(std::io::Error::from_raw_os_error(libc::EPERM));
        let finding = judge_hook(forbidden(), None);
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.detail.contains("not permitted"), "{finding:?}");
        assert_eq!(judge_hook(forbidden(), Some(Hook::Clsact)).level, Level::Ok);
    }

    #[test]
    fn other_programs_are_listed() {
        let interface = Interface {
            index: 7,
            name: "veth7".to_owned(),
        };
        let judge_interface = |interface: &Interface, tcx: &[String], clsact: &[String]| {
            judge_interface(interface, tcx, clsact, Order::First)
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
    fn programs_in_front_agree_with_the_order_or_not() {
        let interface = Interface {
            index: 7,
            name: "veth7".to_owned(),
        };
        let list =
            |names: &str| -> Vec<String> { names.split_whitespace().map(str::to_owned).collect() };
        for (tcx, clsact, order, level) in [
            ("x gregor", "", Order::First, Level::Error),
            ("x gregor", "", Order::Last, Level::Warning),
            ("", "x gregor", Order::First, Level::Error),
            ("", "x gregor", Order::Last, Level::Warning),
            // Whatever the order, tcx comes first.
            ("x", "gregor", Order::First, Level::Warning),
        ] {
            let finding = judge_interface(&interface, &list(tcx), &list(clsact), order);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.detail.starts_with("in front of gregor: x ("));
        }
        for (tcx, clsact) in [("gregor x", ""), ("", "gregor x"), ("gregor", "x")] {
            let finding = judge_interface(&interface, &list(tcx), &list(clsact), Order::First);
            assert_eq!(finding.level, Level::Warning);
            assert!(finding.detail.starts_with("gregor is on it, with x"));
        }
    }

    #[test]
    fn xdp_modes_and_what_prevents_them() {
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
}
