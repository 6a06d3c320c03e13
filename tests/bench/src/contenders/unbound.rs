//! unbound that holds the answers as local data: as fast as a server in userspace gets, and no work left to do.

use std::{fmt::Write as _, fs, process::Command, thread::available_parallelism};

use anyhow::Result;
use gregor_lab::{
    tools,
    world::{CLUSTER_DNS_V4, NODE_LOCAL_V4},
};

use super::{Contender, Needs, Testbed, testbed::namespace};

pub struct Unbound;

impl Contender for Unbound {
    fn id(&self) -> &'static str {
        super::UNBOUND
    }

    fn title(&self) -> &'static str {
        "unbound, local data"
    }

    fn about(&self) -> String {
        format!(
            "unbound with a thread per core and this configuration:\n{}",
            configuration(1, cores())
        )
    }

    fn start(&self, needs: &Needs) -> Result<Testbed> {
        let mut testbed = Testbed::new(needs)?;
        let directory = testbed.lab.directory().join("bench-cache");
        fs::create_dir_all(&directory)?;
        let path = directory.join("unbound.conf");
        fs::write(&path, configuration(needs.pods, cores()))?;
        let mut command = Command::new(tools::unbound()?);
        command.arg("-d").arg("-c").arg(&path);
        testbed.start_server(command)?;
        Ok(testbed)
    }
}

fn cores() -> usize {
    available_parallelism().map_or(1, usize::from)
}

/// One zone per namespace that answers every name below it with the addresses of the endpoint.
fn configuration(namespaces: usize, threads: usize) -> String {
    let mut text = format!(
        r#"server:
    do-daemonize: no
    username: ""
    chroot: ""
    pidfile: ""
    use-syslog: no
    logfile: ""
    module-config: "iterator"
    do-not-query-localhost: no
    access-control: 0.0.0.0/0 allow
    num-threads: {threads}
    so-reuseport: yes
    interface: {NODE_LOCAL_V4}
"#
    );
    for index in 0..namespaces {
        let zone = format!(
            "aws.private.kafka.managed.{}.svc.cluster.local.",
            namespace(index)
        );
        let _ = writeln!(text, "    local-zone: \"{zone}\" redirect");
        for address in ["10.10.1.11", "10.10.2.11", "10.10.3.11"] {
            let _ = writeln!(text, "    local-data: \"{zone} 60 IN A {address}\"");
        }
    }
    let _ = write!(
        text,
        r#"remote-control:
    control-enable: no
forward-zone:
    name: "."
    forward-addr: {CLUSTER_DNS_V4}
"#
    );
    text
}
