//! The cluster DNS behind every contender: CoreDNS that has an ExternalName Service in each namespace there might be.

use std::{fs, process::Command};

use anyhow::Result;
use gregor_lab::{
    Lab, Process, tools,
    world::{CLUSTER_DNS_V4, CLUSTER_TTL},
};

/// Starts it and waits until it answers.
pub fn start(lab: &Lab, ttl: Option<u32>) -> Result<Process> {
    let directory = lab.directory().join("bench-cluster");
    fs::create_dir_all(&directory)?;
    let path = directory.join("Corefile");
    fs::write(&path, corefile(ttl))?;
    let mut command = Command::new(tools::coredns()?);
    command.arg("-conf").arg(&path).current_dir(&directory);
    lab.start_in_cluster(command, "bench-cluster/log", CLUSTER_DNS_V4.into())
}

/// Templates in place of the kubernetes plugin, which needs an API server: any number of namespaces, and the same
/// answers as for an ExternalName, whose target it chases for A.
fn corefile(ttl: Option<u32>) -> String {
    let (service_ttl, address_ttl) = (ttl.unwrap_or(CLUSTER_TTL), ttl.unwrap_or(60));
    let endpoint =
        "vpce-0123456789abcdef0-abcdefgh.vpce-svc-0123456789abcdef0.eu-west-1.vpce.amazonaws.com.";
    let soa = "ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5";
    format!(
        r#".:53 {{
    errors
    bind {CLUSTER_DNS_V4}
    template IN A cluster.local {{
        match "^kafka-upstream\.[a-z0-9-]+\.svc\.cluster\.local\.$"
        answer "{{{{ .Name }}}} {service_ttl} IN CNAME {endpoint}"
        fallthrough
    }}
    template IN ANY cluster.local {{
        rcode NXDOMAIN
        authority "cluster.local. 5 IN SOA {soa}"
    }}
    template IN A vpce.amazonaws.com {{
        answer "{{{{ .Name }}}} {address_ttl} IN A 10.10.1.11"
        answer "{{{{ .Name }}}} {address_ttl} IN A 10.10.2.11"
        answer "{{{{ .Name }}}} {address_ttl} IN A 10.10.3.11"
    }}
    template IN A example.com {{
        answer "{{{{ .Name }}}} 300 IN A 192.0.2.80"
    }}
    template IN ANY . {{
        rcode NXDOMAIN
        authority ". 30 IN SOA a.root-servers.net. nstld.verisign-grs.com. 1 1800 900 604800 30"
    }}
}}
"#
    )
}
