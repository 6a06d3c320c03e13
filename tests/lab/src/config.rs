//! Configuration files of what runs in the lab: the existing caches, the cluster DNS, the pods' resolver, gregor.

use std::{fmt::Write as _, net::IpAddr, path::Path};

use crate::world::{CLUSTER_TTL, Data, World, Zone};

/// What the article's pods have: the search list of their namespace, and ndots 7.
pub fn resolv_conf(namespace: &str, servers: &[IpAddr]) -> String {
    let mut text = String::new();
    for server in servers {
        let _ = writeln!(text, "nameserver {server}");
    }
    let _ = writeln!(
        text,
        "search {namespace}.svc.cluster.local svc.cluster.local cluster.local"
    );
    text.push_str("options ndots:7\n");
    text
}

/// The article's `template` block, as it is in a Corefile.
pub const ARTICLE_TEMPLATE: &str = r#"    template IN ANY svc.cluster.local {
        match ".+\.aws\.private\.kafka\.managed\.(.+)\.svc\.cluster\.local"
        answer "{{ .Name }} 60 IN CNAME kafka-upstream.{{ index .Match 1 }}.svc.cluster.local"
        fallthrough
    }
"#;

/// CoreDNS as NodeLocal configures it: one cache per zone, TCP to the cluster DNS.
pub fn node_local_corefile(binds: &[IpAddr], upstream: IpAddr, template: bool) -> String {
    let bind = join(binds);
    let upstream = bracketed(upstream);
    let template = if template { ARTICLE_TEMPLATE } else { "" };
    format!(
        "cluster.local:53 {{
    log . \"query {{remote}} {{type}} {{name}}\"
    errors
    cache {{
        success 9984 30
        denial 9984 5
    }}
    loop
    bind {bind}
{template}    forward . {upstream} {{
        force_tcp
    }}
}}
.:53 {{
    log . \"query {{remote}} {{type}} {{name}}\"
    errors
    cache 30
    loop
    bind {bind}
    forward . {upstream} {{
        force_tcp
    }}
}}
"
    )
}

pub fn unbound_conf(binds: &[IpAddr], upstream: IpAddr) -> String {
    let mut text = String::from(
        "server:
    do-daemonize: no
    username: \"\"
    chroot: \"\"
    pidfile: \"\"
    use-syslog: no
    logfile: \"\"
    log-queries: yes
    module-config: \"iterator\"
    do-not-query-localhost: no
    access-control: 0.0.0.0/0 allow
    access-control: ::/0 allow
    num-threads: 1
    so-rcvbuf: 0
",
    );
    for bind in binds {
        let _ = writeln!(text, "    interface: {bind}");
    }
    let _ = write!(
        text,
        "remote-control:
    control-enable: no
forward-zone:
    name: \".\"
    forward-addr: {upstream}
"
    );
    text
}

/// The same with cookies, which unbound 1.18 and later can give out.
pub fn with_cookies(unbound_conf: &str) -> String {
    unbound_conf.replacen("server:\n", "server:\n    answer-cookie: yes\n", 1)
}

/// BIND as a forwarding cache, with the cookies that it gives out by default.
pub fn named_conf(directory: &Path, binds: &[IpAddr], upstream: IpAddr) -> String {
    let of = |is_v6: bool| -> String {
        let list = binds.iter().filter(|bind| bind.is_ipv6() == is_v6);
        list.map(|bind| format!("{bind}; ")).collect()
    };
    format!(
        "options {{
    directory \"{directory}\";
    pid-file none;
    session-keyfile none;
    listen-on {{ {v4}}};
    listen-on-v6 {{ {v6}}};
    allow-query {{ any; }};
    allow-recursion {{ any; }};
    forwarders {{ {upstream}; }};
    forward only;
    dnssec-validation no;
    empty-zones-enable no;
    querylog yes;
}};
controls {{ }};
logging {{
    channel out {{ stderr; severity info; print-category yes; }};
    category default {{ out; }};
    category queries {{ out; }};
}};
",
        directory = directory.display(),
        v4 = of(false),
        v6 = of(true),
    )
}

/// The cluster DNS: ExternalName Services as the kubernetes plugin answers them, and the zones from files beside it.
///
/// `template` chases a CNAME for A and AAAA and drops the rcode of what it chased; the kubernetes plugin does the same
/// for an ExternalName. Other types get NODATA there, so ANY must not fall into the CNAME template.
pub fn cluster_corefile(world: &World, binds: &[IpAddr]) -> String {
    let bind = join(binds);
    let mut text = format!(
        "cluster.local:53 {{
    log . \"query {{remote}} {{type}} {{name}}\"
    errors
    bind {bind}
"
    );
    let soa = format!("authority \"{}\"", cluster_soa());
    for service in &world.external_names {
        let pattern = format!("^{}$", service.owner().replace('.', "\\."));
        for qtype in ["A", "AAAA", "CNAME"] {
            let _ = write!(
                text,
                "    template IN {qtype} cluster.local {{
        match \"{pattern}\"
        answer \"{{{{ .Name }}}} {CLUSTER_TTL} IN CNAME {}\"
        fallthrough
    }}
",
                service.target
            );
        }
    }
    for name in existing_cluster_names(world) {
        let _ = write!(
            text,
            "    template IN ANY cluster.local {{
        match \"^{}$\"
        rcode NOERROR
        {soa}
        fallthrough
    }}
",
            name.replace('.', "\\.")
        );
    }
    let _ = write!(
        text,
        "    template IN ANY cluster.local {{
        rcode NXDOMAIN
        {soa}
    }}
}}
"
    );
    for zone in &world.zones {
        let _ = write!(
            text,
            "{apex}:53 {{
    log . \"query {{remote}} {{type}} {{name}}\"
    errors
    bind {bind}
    file {file}
}}
",
            apex = zone.apex.trim_end_matches('.'),
            file = zone_file_name(zone)
        );
    }
    let _ = write!(
        text,
        ".:53 {{
    log . \"query {{remote}} {{type}} {{name}}\"
    errors
    bind {bind}
    template IN ANY . {{
        rcode NXDOMAIN
        authority \". 30 IN SOA a.root-servers.net. nstld.verisign-grs.com. 1 1800 900 604800 30\"
    }}
}}
"
    );
    text
}

/// Names in the cluster zone that have no A of their own but are not NXDOMAIN.
pub fn existing_cluster_names(world: &World) -> Vec<String> {
    let mut names: Vec<String> = world.external_names.iter().map(|s| s.owner()).collect();
    names.extend(
        world
            .namespaces
            .iter()
            .map(|namespace| format!("{namespace}.svc.cluster.local.")),
    );
    names.extend(["svc.cluster.local.".to_owned(), "cluster.local.".to_owned()]);
    names
}

fn cluster_soa() -> String {
    format!(
        "cluster.local. {CLUSTER_TTL} IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 {CLUSTER_TTL}"
    )
}

pub fn zone_file_name(zone: &Zone) -> String {
    format!("{}zone", zone.apex)
}

/// A zone in master file format (RFC 1035 §5).
pub fn zone_file(zone: &Zone) -> String {
    let apex = &zone.apex;
    let mut text = format!(
        "{apex} 30 IN SOA ns.{apex} hostmaster.{apex} 1 7200 1800 86400 30\n{apex} 30 IN NS ns.{apex}\n"
    );
    for record in &zone.records {
        let (rtype, data) = match &record.data {
            Data::A(address) => ("A", address.to_string()),
            Data::Aaaa(address) => ("AAAA", address.to_string()),
            Data::Cname(target) => ("CNAME", target.clone()),
        };
        let _ = writeln!(text, "{} {} IN {rtype} {data}", record.owner, record.ttl);
    }
    text
}

/// The configuration of the README for a node with NodeLocal DNSCache, and the TTL of its rule.
pub fn gregor_toml(servers: &[IpAddr], ttl: u32) -> String {
    let servers: Vec<String> = servers.iter().map(|s| format!("\"{s}\"")).collect();
    format!(
        r#"[intercept]
servers = [{}]

[[rule]]
name  = "kafka"
match = "*.aws.private.kafka.managed.{{namespace}}.svc.cluster.local"
cname = "kafka-upstream.{{namespace}}.svc.cluster.local"
ttl   = {ttl}
"#,
        servers.join(", ")
    )
}

fn join(addresses: &[IpAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(IpAddr::to_string).collect();
    texts.join(" ")
}

fn bracketed(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    }
}
