//! The servers that pods ask, where `servers = "auto"` leaves it to gregor to learn them: what the kubelet's configuration and the
//! Services of the cluster DNS say, and what follows from it, without I/O.

pub mod kubelet;
#[cfg(feature = "kubernetes")]
pub mod services;

use std::{fmt, net::IpAddr};

use dns_common::abi::MAX_SERVERS;
use serde::{Deserialize, Serialize};

/// Where the cluster's DNS has its Services, and their label.
pub const NAMESPACE: &str = "kube-system";
pub const LABEL: &str = "k8s-app=kube-dns";

/// One place from which servers are learnt.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Source {
    /// For people.
    pub name: String,
    /// The last ones that it named.
    pub servers: Vec<IpAddr>,
    /// Why it names none now, if so. The last ones stay.
    pub error: Option<String>,
}

impl Source {
    /// One that has named none so far, and why.
    pub fn silent(name: impl Into<String>, why: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            servers: Vec::new(),
            error: Some(why.into()),
        }
    }

    /// The Services of the cluster DNS, which have named none so far.
    pub fn services(why: impl Into<String>) -> Self {
        Self::silent(
            format!("the Services with {LABEL} in {NAMESPACE}"),
            why.into(),
        )
    }

    /// What it says now. A source that names none any more leaves what it named: a file that is being written is empty for a
    /// moment, and pods still ask the address of a Service that is being made anew.
    pub fn take(&mut self, said: Result<Vec<IpAddr>, String>) {
        self.error = match said {
            Ok(servers) => {
                let servers = usable(servers);
                if servers.is_empty() {
                    Some("names no server".to_owned())
                } else {
                    self.servers = servers;
                    None
                }
            }
            Err(error) => Some(error),
        };
    }
}

/// Each once, and only what can be the address of a server.
fn usable(servers: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut found: Vec<IpAddr> = Vec::new();
    for server in servers {
        if !server.is_unspecified() && !server.is_multicast() && !found.contains(&server) {
            found.push(server);
        }
    }
    found
}

/// Why the servers are not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// No source names any.
    Nothing(Vec<Source>),
    /// More than a family may have.
    TooMany(Vec<IpAddr>),
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unknown::Nothing(sources) => {
                let said: Vec<String> = sources.iter().map(reason).collect();
                write!(
                    f,
                    "intercept.servers: \"auto\", and no server is learnt ({}); make one of them readable for gregor \
                     ([kubernetes] kubelet_config, watch), or write the addresses",
                    said.join("; ")
                )
            }
            Unknown::TooMany(servers) => {
                let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
                write!(
                    f,
                    "intercept.servers: more than {MAX_SERVERS} addresses of one family with those that are learnt ({}); \
                     write the ones that pods ask in place of \"auto\"",
                    servers.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for Unknown {}

/// What a source says, in words.
pub fn reason(source: &Source) -> String {
    match &source.error {
        Some(error) => format!("{}: {error}", source.name),
        None => format!("{}: nothing", source.name),
    }
}

/// The servers to intercept: those that are written in the configuration, then those that are learnt.
///
/// # Errors
/// Without any, or with more than the programs have place for.
pub fn join(written: &[IpAddr], sources: &[Source]) -> Result<Vec<IpAddr>, Unknown> {
    let learnt = sources.iter().flat_map(|source| &source.servers);
    let servers = usable(written.iter().chain(learnt).copied().collect());
    if servers.is_empty() {
        return Err(Unknown::Nothing(sources.to_vec()));
    }
    let v4 = servers.iter().filter(|server| server.is_ipv4()).count();
    if v4 > MAX_SERVERS || servers.len() - v4 > MAX_SERVERS {
        return Err(Unknown::TooMany(servers));
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn source(name: &str, servers: &[&str]) -> Source {
        let mut source = Source::silent(name, "not yet");
        if !servers.is_empty() {
            source.take(Ok(ips(servers)));
        }
        source
    }

    #[test]
    fn written_and_learnt_servers_are_joined_each_once() {
        let sources = [
            source("kubelet", &["169.254.20.10", "0.0.0.0", "fd00::a"]),
            source("services", &["10.96.0.10", "fd00::a", "ff02::1"]),
        ];
        assert_eq!(
            join(&ips(&["192.0.2.1", "10.96.0.10"]), &sources).unwrap(),
            ips(&["192.0.2.1", "10.96.0.10", "169.254.20.10", "fd00::a"])
        );
        assert_eq!(
            join(&ips(&["192.0.2.1"]), &[source("kubelet", &[])]).unwrap(),
            ips(&["192.0.2.1"])
        );
    }

    #[test]
    fn where_nothing_is_learnt_each_source_says_why() {
        let sources = [
            Source::silent("/x/config.yaml", "cannot be read: no such file"),
            Source::services("not in a cluster"),
        ];
        let error = join(&[], &sources).unwrap_err().to_string();
        for part in [
            "intercept.servers",
            "/x/config.yaml: cannot be read: no such file",
            "the Services with k8s-app=kube-dns in kube-system: not in a cluster",
            "kubelet_config",
        ] {
            assert!(error.contains(part), "no {part} in {error}");
        }
    }

    #[test]
    fn more_than_the_programs_have_place_for_are_refused() {
        let many: Vec<String> = (0..=MAX_SERVERS).map(|n| format!("10.0.0.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(join(&ips(&many[1..]), &[source("x", &["fd00::a"])]).is_ok());
        let error = join(&ips(&many[1..]), &[source("x", &["10.0.0.0"])]).unwrap_err();
        assert!(matches!(error, Unknown::TooMany(_)));
        assert!(error.to_string().contains("10.0.0.0"));
    }

    #[test]
    fn a_source_that_names_none_any_more_leaves_what_it_named() {
        let mut source = source("x", &["10.0.0.1"]);
        for said in [Ok(Vec::new()), Err("gone".to_owned())] {
            source.take(said);
            assert_eq!(source.servers, ips(&["10.0.0.1"]));
            assert!(source.error.is_some());
        }
        source.take(Ok(ips(&["10.0.0.2"])));
        assert_eq!((source.servers, source.error), (ips(&["10.0.0.2"]), None));
    }
}
