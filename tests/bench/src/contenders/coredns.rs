//! CoreDNS with the article's template and a cache: as a plain forwarder, and as NodeLocal configures it.

use std::{fs, path::PathBuf, process::Command};

use anyhow::Result;
use gregor_lab::{
    ARTICLE_TEMPLATE, tools,
    world::{CLUSTER_DNS_V4, NODE_LOCAL_V4},
};

use super::{Contender, Needs, Testbed};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Plain,
    NodeLocal,
}

pub struct CoreDns {
    kind: Kind,
    id: &'static str,
    title: &'static str,
}

pub const COREDNS: CoreDns = CoreDns {
    kind: Kind::Plain,
    id: super::COREDNS,
    title: "CoreDNS, plain",
};

pub const NODELOCAL: CoreDns = CoreDns {
    kind: Kind::NodeLocal,
    id: super::NODELOCAL,
    title: "CoreDNS as NodeLocal",
};

impl Contender for CoreDns {
    fn id(&self) -> &'static str {
        self.id
    }

    fn title(&self) -> &'static str {
        self.title
    }

    fn about(&self) -> String {
        let (program, corefile) = (program_name(self.kind), corefile(self.kind, None));
        format!("{program} with this Corefile:\n{corefile}")
    }

    fn start(&self, needs: &Needs) -> Result<Testbed> {
        let mut testbed = Testbed::new(needs)?;
        start(&mut testbed, self.kind, needs)?;
        Ok(testbed)
    }
}

/// Starts it in the testbed's node.
pub fn start(testbed: &mut Testbed, kind: Kind, needs: &Needs) -> Result<()> {
    let directory = testbed.lab.directory().join("bench-cache");
    fs::create_dir_all(&directory)?;
    let path = directory.join("Corefile");
    fs::write(&path, corefile(kind, needs.ttl))?;
    let mut command = match node_cache(kind) {
        Some(program) => {
            let mut command = Command::new(program);
            command
                .args(["-localip", &NODE_LOCAL_V4.to_string()])
                .args(["-setupinterface=false", "-setupiptables=false"]);
            command
        }
        None => Command::new(tools::coredns()?),
    };
    command.arg("-conf").arg(&path).current_dir(&directory);
    testbed.start_server(command)
}

/// NodeLocal's own binary, which is CoreDNS with the interface and the rules around it, where there is one.
fn node_cache(kind: Kind) -> Option<PathBuf> {
    match kind {
        Kind::Plain => None,
        Kind::NodeLocal => tools::node_cache().ok(),
    }
}

fn program_name(kind: Kind) -> &'static str {
    match node_cache(kind) {
        Some(_) => "node-cache",
        None => "CoreDNS",
    }
}

/// As in the article and in NodeLocal's manifest; without `log`, which is usually off under load. Where answers are to last,
/// NodeLocal's cache is as large and keeps as long as they need.
fn corefile(kind: Kind, ttl: Option<u32>) -> String {
    let (size, longest) = ttl.map_or((9984, 30), |ttl| (1 << 18, ttl));
    match kind {
        Kind::Plain => format!(
            ".:53 {{
    errors
    cache 30
    bind {NODE_LOCAL_V4}
{ARTICLE_TEMPLATE}    forward . {CLUSTER_DNS_V4}
}}
"
        ),
        Kind::NodeLocal => format!(
            "cluster.local:53 {{
    errors
    cache {{
        success {size} {longest}
        denial 9984 5
    }}
    loop
    bind {NODE_LOCAL_V4}
{ARTICLE_TEMPLATE}    forward . {CLUSTER_DNS_V4} {{
        force_tcp
    }}
}}
.:53 {{
    errors
    cache 30
    loop
    bind {NODE_LOCAL_V4}
    forward . {CLUSTER_DNS_V4} {{
        force_tcp
    }}
}}
"
        ),
    }
}
