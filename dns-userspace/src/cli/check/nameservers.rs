//! Nameservers that pods ask and the configuration does not name: what the kubelet writes into resolv.conf, and what a
//! running gregor has seen. musl asks all of them at once and takes the first reply, an NXDOMAIN included.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use super::finding::Finding;
use crate::observe::fetch_status;

const REMEDY: &str =
    "list every nameserver address of the pods' resolv.conf in [intercept] servers";

/// The findings, where there is anything to look at.
pub async fn look(servers: &[IpAddr], kubelet: &Path, control: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(text) = std::fs::read_to_string(kubelet) {
        let named = cluster_dns(&text);
        findings.extend(judge(
            "clusterDNS of the kubelet",
            servers,
            named.into_iter(),
        ));
    }
    if let Ok(status) = fetch_status(control).await {
        let seen = status.kernel.other_servers;
        let seen = seen.keys().filter_map(|address| address.parse().ok());
        findings.extend(judge("the running gregor has seen", servers, seen));
    }
    findings
}

fn judge(source: &str, servers: &[IpAddr], asked: impl Iterator<Item = IpAddr>) -> Option<Finding> {
    let asked: BTreeSet<IpAddr> = asked.collect();
    let missing: Vec<String> = asked
        .iter()
        .filter(|address| !servers.contains(address))
        .map(ToString::to_string)
        .collect();
    if asked.is_empty() {
        return None;
    }
    Some(if missing.is_empty() {
        Finding::ok("nameservers", format!("{source}: all of them in servers"))
    } else {
        Finding::warning(
            "nameservers",
            format!(
                "{source}: {} not in servers; queries to it pass gregor, and musl takes its NXDOMAIN for the tenant's name",
                missing.join(", ")
            ),
            REMEDY,
        )
    })
}

/// The addresses of `clusterDNS` in a KubeletConfiguration, as a block or in brackets.
fn cluster_dns(text: &str) -> Vec<IpAddr> {
    let address = |item: &str| {
        let item = item.split('#').next().unwrap_or_default();
        let item = item.trim().trim_matches(['"', '\'']);
        item.parse::<IpAddr>().ok()
    };
    let mut lines = text.lines();
    let Some(first) = lines.find_map(|line| line.strip_prefix("clusterDNS:")) else {
        return Vec::new();
    };
    let inline = first.trim();
    if let Some(items) = inline.strip_prefix('[') {
        let items = items.split(']').next().unwrap_or_default();
        return items.split(',').filter_map(address).collect();
    }
    lines
        .map(str::trim)
        .take_while(|line| line.is_empty() || line.starts_with(['-', '#']))
        .filter_map(|line| address(line.strip_prefix('-')?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_nameserver_that_is_not_listed_is_named() {
        let servers = [ip("169.254.20.10"), ip("172.20.0.10")];
        let judge = |asked: &[&str]| judge("x", &servers, asked.iter().map(|text| ip(text)));
        assert_eq!(judge(&[]), None);
        assert_eq!(judge(&["169.254.20.10"]).unwrap().level, Level::Ok);
        for asked in [
            &["169.254.20.10", "10.0.0.2"][..],
            &["10.0.0.2"],
            &["10.0.0.2", "fd00::a"],
        ] {
            let finding = judge(asked).unwrap();
            assert_eq!(finding.level, Level::Warning);
            assert!(finding.detail.contains("10.0.0.2"), "{finding:?}");
            assert!(!finding.detail.contains("169.254"), "{finding:?}");
        }
    }

    #[test]
    fn the_kubelets_list_in_each_of_its_forms() {
        for text in [
            "clusterDNS:\n- 172.20.0.10\n- fd00:20::a\nclusterDomain: cluster.local\n",
            "kind: KubeletConfiguration\nclusterDNS:\n  # both\n  - \"172.20.0.10\"\n  - 'fd00:20::a' # v6\nmaxPods: 3\n",
            "clusterDNS: [172.20.0.10, \"fd00:20::a\"]\n",
            "clusterDNS: # here\n- 172.20.0.10\n\n- fd00:20::a\n",
        ] {
            assert_eq!(
                cluster_dns(text),
                [ip("172.20.0.10"), ip("fd00:20::a")],
                "{text}"
            );
        }
        for text in [
            "",
            "clusterDomain: x\n",
            "clusterDNS: []\n",
            "  clusterDNS:\n",
        ] {
            assert!(cluster_dns(text).is_empty(), "{text}");
        }
    }
}
