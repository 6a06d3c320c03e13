//! Nameservers that pods ask and the configuration does not name: what the kubelet writes into resolv.conf, and what a
//! running gregor has seen. musl asks all of them at once and takes the first reply, an NXDOMAIN included.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use super::finding::Finding;
use crate::{
    nameservers::{Source, kubelet, reason},
    observe::fetch_status,
};

const REMEDY: &str =
    "list every nameserver address of the pods' resolv.conf in [intercept] servers";

/// What one source of servers names, with `servers = "auto"`.
pub fn learnt(source: &Source) -> Finding {
    const WHAT: &str = "servers";
    if source.servers.is_empty() {
        return Finding::warning(
            WHAT,
            format!("nothing is learnt from {}", reason(source)),
            "the other sources go on; make it readable, or write its addresses beside \"auto\"",
        );
    }
    let servers: Vec<String> = source.servers.iter().map(ToString::to_string).collect();
    Finding::ok(WHAT, format!("{}: {}", source.name, servers.join(", ")))
}

/// The findings, where there is anything to look at.
pub async fn look(servers: &[IpAddr], kubelet_config: &Path, control: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Ok(named) = kubelet::read(kubelet_config, None) {
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
    fn what_is_learnt_is_said_and_what_is_not_is_a_warning() {
        let mut source = Source::silent("the file", "not there");
        let finding = learnt(&source);
        assert_eq!(finding.level, Level::Warning);
        assert!(
            finding.detail.contains("the file: not there"),
            "{finding:?}"
        );
        source.take(Ok(vec![ip("10.0.0.1"), ip("fd00::a")]));
        let finding = learnt(&source);
        assert_eq!(finding.level, Level::Ok);
        assert_eq!(finding.detail, "the file: 10.0.0.1, fd00::a");
    }
}
