//! The lab itself: a node, its pods, the existing cache and the cluster DNS, wired up.

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use hickory_proto::{op::Message, rr::RecordType};

use crate::{
    capabilities,
    cleanup::{self, Made},
    client::Ask,
    config,
    dns::{Cache, Embedded, LoggedQuery, Role},
    gregor::Gregor,
    netns::Netns,
    patience,
    process::Process,
    sync::lock,
    tools,
    world::{CLUSTER_DNS_V4, CLUSTER_DNS_V6, NODE_LOCAL_V4, NODE_LOCAL_V6, World},
};

/// Between the node and the cluster DNS.
const UPLINK_NODE: &str = "10.250.0.1";
const UPLINK_DNS: &str = "10.250.0.2";
const UPLINK_NODE_V6: &str = "fd00:250::1";
const UPLINK_DNS_V6: &str = "fd00:250::2";

const SERVER_TIMEOUT: Duration = Duration::from_secs(30);

/// How long after its reply a server may take to write the query into its log.
const LOG_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest interface name, IFNAMSIZ without its NUL.
const INTERFACE_NAME_MAX: usize = 15;

static NUMBER: AtomicUsize = AtomicUsize::new(0);

/// The existing DNS cache of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheKind {
    /// A forwarding cache inside this process: nothing to install.
    Embedded,
    /// CoreDNS as NodeLocal configures it, with or without the article's `template` block.
    CoreDns {
        template: bool,
    },
    /// The node-cache binary, from PATH.
    NodeCache,
    Unbound,
    /// unbound with `answer-cookie: yes` (RFC 7873).
    UnboundWithCookies,
    /// BIND, which gives out server cookies (RFC 7873).
    Bind,
    /// Nothing listens: what passes goes unanswered.
    None,
}

/// The server for the cluster zone and the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterKind {
    Embedded,
    CoreDns,
    /// None yet: [`Lab::start_in_cluster`] starts a server.
    None,
}

/// What a lab is to be made of.
#[derive(Clone, Debug)]
pub struct Builder {
    prefix: String,
    pods: Vec<String>,
    cache: CacheKind,
    cluster: ClusterKind,
    world: World,
}

impl Builder {
    /// Adds a pod in a Kubernetes namespace of this name; one pod per namespace.
    pub fn pod(mut self, namespace: &str) -> Self {
        self.pods.push(namespace.to_owned());
        self
    }

    pub fn cache(mut self, cache: CacheKind) -> Self {
        self.cache = cache;
        self
    }

    pub fn cluster(mut self, cluster: ClusterKind) -> Self {
        self.cluster = cluster;
        self
    }

    /// The DNS data to begin with.
    pub fn world(mut self, world: World) -> Self {
        self.world = world;
        self
    }

    /// Makes it; what was made before an error is removed again.
    pub fn start(self) -> Result<Lab> {
        Lab::make(self)
    }
}

/// A pod: a network namespace with `eth0`, a default route and a resolv.conf.
#[derive(Debug)]
pub struct Pod {
    /// The Kubernetes namespace.
    pub namespace: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
    /// The veth's end on the node: where gregor attaches.
    pub host_interface: String,
    netns: Arc<Netns>,
}

impl Pod {
    pub fn netns(&self) -> &Arc<Netns> {
        &self.netns
    }

    /// Runs a program in the pod to its end, with the pod's own resolv.conf.
    pub fn output(&self, command: Command) -> Result<Output> {
        self.netns.output(command)
    }

    /// Asks a server directly from the pod.
    pub fn ask(&self, ask: Ask) -> Result<Message> {
        self.netns.enter(move || ask.send())?
    }

    /// The addresses that glibc finds for a name (`getent ahosts`), sorted; empty when it finds none.
    pub fn getent(&self, name: &str) -> Result<Vec<IpAddr>> {
        let mut command = Command::new("getent");
        command.args(["ahosts", name]);
        let output = self.output(command)?;
        let mut addresses: Vec<IpAddr> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.split_whitespace().next()?.parse().ok())
            .collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses)
    }
}

/// A DNS server of the lab.
#[derive(Debug)]
pub struct Server {
    addresses: Vec<IpAddr>,
    running: Running,
    /// Bytes of the log that [`Server::forget`] skips.
    forgotten: Mutex<usize>,
}

#[derive(Debug)]
enum Running {
    Embedded(Embedded),
    Process(Process),
    Nothing,
}

impl Server {
    /// Addresses that it answers at, IPv4 first.
    pub fn addresses(&self) -> &[IpAddr] {
        &self.addresses
    }

    /// The queries that it has seen since the start or since [`Server::forget`], cache hits included.
    pub fn asked(&self) -> Vec<LoggedQuery> {
        match &self.running {
            Running::Embedded(server) => server.asked(),
            Running::Process(process) => {
                let log = process.log();
                let from = *lock(&self.forgotten);
                log.get(from..)
                    .unwrap_or_default()
                    .lines()
                    .filter_map(parse_log_line)
                    .collect()
            }
            Running::Nothing => Vec::new(),
        }
    }

    /// Waits until it has seen a query that `wanted` accepts, and says whether it did: CoreDNS writes its log after the reply.
    pub fn saw(&self, wanted: impl Fn(&LoggedQuery) -> bool) -> bool {
        let deadline = Instant::now() + patience(LOG_TIMEOUT);
        loop {
            if self.asked().iter().any(&wanted) {
                return true;
            }
            if !matches!(self.running, Running::Process(_)) || Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Empties the list of queries.
    pub fn forget(&self) {
        match &self.running {
            Running::Embedded(server) => server.forget(),
            Running::Process(process) => *lock(&self.forgotten) = process.log().len(),
            Running::Nothing => {}
        }
    }

    /// The process, unless it is embedded.
    pub fn process(&self) -> Option<&Process> {
        match &self.running {
            Running::Process(process) => Some(process),
            _ => None,
        }
    }
}

/// A query line of CoreDNS (`… query 10.1.2.3 A name.`), of unbound (`… info: 10.1.2.3 name. A IN`) or of BIND
/// (`… client @0x7f 10.1.2.3#4567 (name): query: name IN A …`).
fn parse_log_line(line: &str) -> Option<LoggedQuery> {
    let (client, qname, qtype) = if let Some((head, rest)) = line.split_once("): query: ") {
        let (client, _) = head.split_once('#')?;
        let mut words = rest.split_whitespace();
        let (qname, _class, qtype) = (words.next()?, words.next()?, words.next()?);
        return Some(LoggedQuery {
            client: client.rsplit(' ').next()?.parse().ok()?,
            qname: qname.to_ascii_lowercase() + ".",
            qtype: qtype.to_owned(),
        });
    } else if let Some((_, rest)) = line.split_once(" query ") {
        let mut words = rest.split_whitespace();
        let (client, qtype, qname) = (words.next()?, words.next()?, words.next()?);
        (client, qname, qtype)
    } else {
        let (_, rest) = line.split_once(" info: ")?;
        let mut words = rest.split_whitespace();
        let asked = (words.next()?, words.next()?, words.next()?);
        if words.next() != Some("IN") {
            return None;
        }
        asked
    };
    Some(LoggedQuery {
        client: client.trim_matches(['[', ']']).parse().ok()?,
        qname: qname.to_ascii_lowercase(),
        qtype: qtype.to_owned(),
    })
}

/// A node with everything around it. Dropping it removes all of it.
#[derive(Debug)]
pub struct Lab {
    name: String,
    directory: PathBuf,
    pods: BTreeMap<String, Pod>,
    cache_kind: CacheKind,
    world: Arc<RwLock<World>>,
    // Dropped in this order: servers live in threads inside the namespaces.
    cache: Server,
    cluster: Server,
    node: Arc<Netns>,
    dns: Arc<Netns>,
    made: Arc<Mutex<Made>>,
}

impl Lab {
    /// Pods in foo, bar and baz (which has no target), both servers embedded. `prefix` starts every name that the lab makes.
    pub fn new(prefix: &str) -> Result<Self> {
        Self::builder(prefix)
            .pod("foo")
            .pod("bar")
            .pod("baz")
            .start()
    }

    /// A lab without pods and with embedded servers, to be added to.
    pub fn builder(prefix: &str) -> Builder {
        Builder {
            prefix: prefix.to_owned(),
            pods: Vec::new(),
            cache: CacheKind::Embedded,
            cluster: ClusterKind::Embedded,
            world: World::default(),
        }
    }

    fn make(builder: Builder) -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces need root");
        }
        tools::iproute2()?;
        cleanup::sweep(&builder.prefix);
        let name = cleanup::lab_name(&builder.prefix, NUMBER.fetch_add(1, Ordering::Relaxed));
        let made = cleanup::register();
        match Self::make_in(&builder, &name, &made) {
            Ok(lab) => Ok(lab),
            Err(error) => {
                lock(&made).remove();
                Err(error)
            }
        }
    }

    fn make_in(builder: &Builder, name: &str, made: &Arc<Mutex<Made>>) -> Result<Self> {
        let directory = std::env::temp_dir().join(name);
        lock(made).directories.push(directory.clone());
        fs::create_dir_all(&directory)?;
        let world = Arc::new(RwLock::new(builder.world.clone()));

        let node = namespace(made, &format!("{name}.node"), &[], true)?;
        let dns = namespace(made, &format!("{name}.dns"), &[], false)?;
        wire_node(&node, &dns)?;

        let cluster = start_cluster(builder, &directory, &dns, &world, made)?;
        let cache = start_cache(builder.cache, &directory, &node, made)?;
        let mut lab = Self {
            name: name.to_owned(),
            directory,
            pods: BTreeMap::new(),
            cache_kind: builder.cache,
            world,
            cache,
            cluster,
            node,
            dns,
            made: made.clone(),
        };
        lab.wait_for_servers()?;
        for namespace in &builder.pods {
            lab.add_pod(namespace)?;
        }
        Ok(lab)
    }

    /// What every namespace's name starts with.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory that is removed with the lab.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn node(&self) -> &Arc<Netns> {
        &self.node
    }

    /// The pod of a Kubernetes namespace. Panics when there is none: the caller made the lab.
    pub fn pod(&self, namespace: &str) -> &Pod {
        self.pods
            .get(namespace)
            .unwrap_or_else(|| panic!("no pod in namespace {namespace}"))
    }

    pub fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The existing cache on the node: NodeLocal's place.
    pub fn cache(&self) -> &Server {
        &self.cache
    }

    /// Ends the existing cache, with what it has cached.
    pub fn stop_cache(&mut self) {
        if let Running::Process(process) = &self.cache.running {
            process.stop();
        }
        self.cache.running = Running::Nothing;
    }

    /// Starts another one of the same kind in its place, and waits until it answers.
    pub fn start_cache(&mut self) -> Result<()> {
        self.cache = start_cache(self.cache_kind, &self.directory, &self.node, &self.made)?;
        self.wait_for_servers()
    }

    /// The cluster DNS behind the node.
    pub fn cluster(&self) -> &Server {
        &self.cluster
    }

    /// Where the cluster DNS runs, for a server of the caller's own ([`ClusterKind::None`]).
    pub fn cluster_netns(&self) -> &Arc<Netns> {
        &self.dns
    }

    /// Changes the data of an embedded cluster DNS; CoreDNS keeps what it was started with.
    pub fn change_world(&self, change: impl FnOnce(&mut World)) {
        change(&mut self.world.write().unwrap_or_else(PoisonError::into_inner));
    }

    /// Adds a pod that asks NodeLocal's address, and returns it.
    pub fn add_pod(&mut self, namespace: &str) -> Result<&Pod> {
        self.add_pod_asking(namespace, &[NODE_LOCAL_V4.into()])
    }

    /// Adds a pod with these nameservers in its resolv.conf.
    pub fn add_pod_asking(
        &mut self,
        kubernetes_namespace: &str,
        servers: &[IpAddr],
    ) -> Result<&Pod> {
        if self.pods.contains_key(kubernetes_namespace) {
            bail!("there is a pod in namespace {kubernetes_namespace} already");
        }
        let is_free = |index: &u8| self.pods.values().all(|pod| pod.v4.octets()[2] != *index);
        let index = (1..=u8::MAX)
            .find(is_free)
            .context("a lab has at most 255 pods at a time")?;
        let files = [
            (
                "resolv.conf",
                config::resolv_conf(kubernetes_namespace, servers),
            ),
            ("nsswitch.conf", "hosts: files dns\n".to_owned()),
            ("hosts", "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
        ];
        let netns = namespace(
            &self.made,
            &format!("{}.{kubernetes_namespace}", self.name),
            &files,
            false,
        )?;
        let mut host_interface = format!("veth-{kubernetes_namespace}");
        if host_interface.len() > INTERFACE_NAME_MAX {
            host_interface = format!("veth-{index}");
        }
        let v4 = Ipv4Addr::new(10, 244, index, 10);
        let v6 = Ipv6Addr::new(0xfd00, 0x244, index.into(), 0, 0, 0, 0, 0x10);
        no_address_detection(&netns)?;
        self.node.ip(&format!(
            "link add {host_interface} type veth peer name eth0 netns {}
addr add 10.244.{index}.1/24 dev {host_interface}
addr add fd00:244:{index:x}::1/64 dev {host_interface} nodad
link set {host_interface} up
",
            netns.name()
        ))?;
        netns.ip(&format!(
            "addr add {v4}/24 dev eth0
addr add {v6}/64 dev eth0 nodad
link set eth0 up
route add default via 10.244.{index}.1
route add ::/0 via fd00:244:{index:x}::1
"
        ))?;
        let pod = Pod {
            namespace: kubernetes_namespace.to_owned(),
            v4,
            v6,
            host_interface,
            netns,
        };
        Ok(self
            .pods
            .entry(kubernetes_namespace.to_owned())
            .or_insert(pod))
    }

    /// Removes a pod with its veth.
    pub fn remove_pod(&mut self, namespace: &str) -> Result<()> {
        let pod = self.pods.remove(namespace).context("no such pod")?;
        self.node.ip(&format!("link del {}\n", pod.host_interface))
    }

    /// A configuration with the kafka rule and every server address of the lab.
    pub fn gregor_config(&self) -> String {
        let servers = [
            NODE_LOCAL_V4.into(),
            CLUSTER_DNS_V4.into(),
            NODE_LOCAL_V6.into(),
            CLUSTER_DNS_V6.into(),
        ];
        config::gregor_toml(&servers, 60)
    }

    /// Starts gregor in the node with this configuration and waits until it is ready.
    pub fn start_gregor(&self, binary: &Path, config: &str) -> Result<Gregor> {
        let gregor = self.spawn_gregor(binary, config)?;
        gregor.wait_ready()?;
        Ok(gregor)
    }

    /// The same without waiting, for configurations that fail.
    pub fn spawn_gregor(&self, binary: &Path, config: &str) -> Result<Gregor> {
        self.spawn_gregor_as(Command::new(binary), binary, config)
    }

    /// [`Lab::start_gregor`] with no capabilities but these, as a container of a DaemonSet gets them.
    pub fn start_gregor_with(
        &self,
        binary: &Path,
        config: &str,
        capabilities: &[u8],
    ) -> Result<Gregor> {
        let mut command = Command::new(binary);
        capabilities::keep(&mut command, capabilities);
        self.start_gregor_as(command, binary, config)
    }

    /// [`Lab::start_gregor`] by a command that executes it.
    pub fn start_gregor_as(&self, command: Command, binary: &Path, config: &str) -> Result<Gregor> {
        let gregor = self.spawn_gregor_as(command, binary, config)?;
        gregor.wait_ready()?;
        Ok(gregor)
    }

    fn spawn_gregor_as(&self, command: Command, binary: &Path, config: &str) -> Result<Gregor> {
        self.spawn_gregor_named("gregor", command, binary, config)
    }

    /// One that takes over from its predecessor and leaves to its successor; `name` is that of its files.
    pub fn spawn_successor(&self, name: &str, binary: &Path, config: &str) -> Result<Gregor> {
        self.spawn_successor_with(name, binary, config, &[])
    }

    /// The same with more options.
    pub fn spawn_successor_with(
        &self,
        name: &str,
        binary: &Path,
        config: &str,
        options: &[&str],
    ) -> Result<Gregor> {
        let mut command = Command::new(binary);
        command.args(["run", "--handover"]).args(options);
        self.spawn_gregor_named(name, command, binary, config)
    }

    fn spawn_gregor_named(
        &self,
        name: &str,
        mut command: Command,
        binary: &Path,
        config: &str,
    ) -> Result<Gregor> {
        let file = |extension: &str| self.directory.join(format!("{name}.{extension}"));
        let path = file("toml");
        fs::write(&path, config)?;
        let control = file("sock");
        if command.get_args().next().is_none() {
            command.arg("run");
        }
        command.arg("--config").arg(&path);
        command.arg("--control").arg(&control);
        let log = file("log");
        let process = start(&self.made, &self.node, command, &log)?;
        Ok(Gregor {
            binary: binary.to_owned(),
            config: path,
            control,
            process,
            netns: self.node.clone(),
        })
    }

    /// Starts a server of the caller's own in the node, and waits until it answers at `address`. Its output goes to a
    /// file `log` in the lab's directory; it ends with the lab.
    pub fn start_in_node(&self, command: Command, log: &str, address: IpAddr) -> Result<Process> {
        self.start_server(&self.node, command, log, address)
    }

    /// The same where the cluster DNS is.
    pub fn start_in_cluster(
        &self,
        command: Command,
        log: &str,
        address: IpAddr,
    ) -> Result<Process> {
        self.start_server(&self.dns, command, log, address)
    }

    /// Starts any other program of the caller's own in the node; it ends with the lab.
    pub fn spawn_in_node(&self, command: Command, log: &str) -> Result<Process> {
        start(&self.made, &self.node, command, &self.directory.join(log))
    }

    fn start_server(
        &self,
        netns: &Netns,
        command: Command,
        log: &str,
        address: IpAddr,
    ) -> Result<Process> {
        let process = start(&self.made, netns, command, &self.directory.join(log))?;
        wait_for_dns(netns, address, &process)?;
        Ok(process)
    }

    fn wait_for_servers(&self) -> Result<()> {
        for server in [&self.cluster, &self.cache] {
            if let (Running::Process(process), Some(address)) =
                (&server.running, server.addresses.first())
            {
                wait_for_dns(&self.node, *address, process)?;
                server.forget();
            }
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        lock(&self.made).remove();
    }
}

fn wait_for_dns(netns: &Netns, server: IpAddr, process: &Process) -> Result<()> {
    let deadline = Instant::now() + patience(SERVER_TIMEOUT);
    let mut ask = Ask::new(server, "lab-is-ready.invalid", RecordType::A);
    ask.timeout = patience(Duration::from_millis(500));
    loop {
        if let Some(status) = process.exited() {
            bail!("{} ended with {status}:\n{}", server, process.log());
        }
        let question = ask.clone();
        if netns.enter(move || question.send())?.is_ok() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("{server} does not answer:\n{}", process.log());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The node's own addresses, and the way to the cluster DNS.
fn wire_node(node: &Netns, dns: &Netns) -> Result<()> {
    no_address_detection(node)?;
    no_address_detection(dns)?;
    node.sysctl("net/ipv4/ip_forward", "1")?;
    node.sysctl("net/ipv6/conf/all/forwarding", "1")?;
    // A bridge without ports replaces NodeLocal's dummy device: not every kernel has the latter.
    node.ip(&format!(
        "link add nodelocaldns type bridge
addr add {NODE_LOCAL_V4}/32 dev nodelocaldns
addr add {NODE_LOCAL_V6}/128 dev nodelocaldns nodad
link set nodelocaldns up
link add uplink type veth peer name eth0 netns {}
addr add {UPLINK_NODE}/30 dev uplink
addr add {UPLINK_NODE_V6}/126 dev uplink nodad
link set uplink up
",
        dns.name()
    ))?;
    dns.ip(&format!(
        "addr add {CLUSTER_DNS_V4}/32 dev lo
addr add {CLUSTER_DNS_V6}/128 dev lo nodad
addr add {UPLINK_DNS}/30 dev eth0
addr add {UPLINK_DNS_V6}/126 dev eth0 nodad
link set eth0 up
route add default via {UPLINK_NODE}
route add ::/0 via {UPLINK_NODE_V6}
"
    ))?;
    node.ip(&format!(
        "route add {CLUSTER_DNS_V4}/32 via {UPLINK_DNS}
route add {CLUSTER_DNS_V6}/128 via {UPLINK_DNS_V6}
"
    ))
}

/// Addresses are usable at once: duplicate address detection would take a second or two.
fn no_address_detection(netns: &Netns) -> Result<()> {
    netns.sysctl("net/ipv6/conf/all/accept_dad", "0")?;
    netns.sysctl("net/ipv6/conf/default/accept_dad", "0")
}

fn namespace(
    made: &Mutex<Made>,
    name: &str,
    files: &[(&str, String)],
    bpffs: bool,
) -> Result<Arc<Netns>> {
    // Held while it is made, so that an interrupt removes all of it or comes before any of it.
    let mut made = lock(made);
    made.namespaces.push(name.to_owned());
    Ok(Arc::new(Netns::create(name, files, bpffs)?))
}

fn start(made: &Mutex<Made>, netns: &Netns, command: Command, log: &Path) -> Result<Process> {
    let mut made = lock(made);
    let process = Process::start(netns, command, log)?;
    made.processes.push(process.clone());
    Ok(process)
}

fn start_cluster(
    builder: &Builder,
    directory: &Path,
    netns: &Netns,
    world: &Arc<RwLock<World>>,
    made: &Mutex<Made>,
) -> Result<Server> {
    let addresses = vec![CLUSTER_DNS_V4.into(), CLUSTER_DNS_V6.into()];
    let running = match builder.cluster {
        ClusterKind::Embedded => Running::Embedded(Embedded::start(
            netns,
            &addresses,
            Role::Authority(world.clone()),
        )?),
        ClusterKind::CoreDns => {
            let directory = directory.join("cluster");
            fs::create_dir_all(&directory)?;
            for zone in &builder.world.zones {
                fs::write(
                    directory.join(config::zone_file_name(zone)),
                    config::zone_file(zone),
                )?;
            }
            let corefile = config::cluster_corefile(&builder.world, &addresses);
            Running::Process(start_coredns(&directory, netns, &corefile, made)?)
        }
        ClusterKind::None => Running::Nothing,
    };
    Ok(server(addresses, running))
}

fn start_cache(
    kind: CacheKind,
    directory: &Path,
    netns: &Netns,
    made: &Mutex<Made>,
) -> Result<Server> {
    let addresses: Vec<IpAddr> = vec![NODE_LOCAL_V4.into(), NODE_LOCAL_V6.into()];
    let upstream: IpAddr = CLUSTER_DNS_V4.into();
    let directory = directory.join("cache");
    fs::create_dir_all(&directory)?;
    let running = match kind {
        CacheKind::Embedded => Running::Embedded(Embedded::start(
            netns,
            &addresses,
            Role::Cache(Cache::new(upstream)),
        )?),
        CacheKind::CoreDns { template } => {
            let corefile = config::node_local_corefile(&addresses, upstream, template);
            Running::Process(start_coredns(&directory, netns, &corefile, made)?)
        }
        CacheKind::NodeCache => {
            let corefile = directory.join("Corefile");
            fs::write(
                &corefile,
                config::node_local_corefile(&addresses, upstream, false),
            )?;
            let mut command = Command::new(tools::node_cache()?);
            command
                .args(["-localip", &NODE_LOCAL_V4.to_string(), "-conf"])
                .arg(&corefile)
                .args(["-setupinterface=false", "-setupiptables=false"]);
            Running::Process(start(made, netns, command, &directory.join("log"))?)
        }
        CacheKind::Unbound | CacheKind::UnboundWithCookies => {
            let path = directory.join("unbound.conf");
            let text = config::unbound_conf(&addresses, upstream);
            let program = if kind == CacheKind::Unbound {
                fs::write(&path, text)?;
                tools::unbound()?
            } else {
                fs::write(&path, config::with_cookies(&text))?;
                tools::unbound_with_cookies()?
            };
            let mut command = Command::new(program);
            command.arg("-d").arg("-c").arg(&path);
            Running::Process(start(made, netns, command, &directory.join("log"))?)
        }
        CacheKind::Bind => {
            let path = directory.join("named.conf");
            fs::write(&path, config::named_conf(&directory, &addresses, upstream))?;
            let mut command = Command::new(tools::named()?);
            command.args(["-g", "-n", "1", "-c"]).arg(&path);
            Running::Process(start(made, netns, command, &directory.join("log"))?)
        }
        CacheKind::None => Running::Nothing,
    };
    Ok(server(addresses, running))
}

fn start_coredns(
    directory: &Path,
    netns: &Netns,
    corefile: &str,
    made: &Mutex<Made>,
) -> Result<Process> {
    let path = directory.join("Corefile");
    fs::write(&path, corefile)?;
    let mut command = Command::new(tools::coredns()?);
    command.arg("-conf").arg(&path).current_dir(directory);
    start(made, netns, command, &directory.join("log"))
}

fn server(addresses: Vec<IpAddr>, running: Running) -> Server {
    Server {
        addresses,
        running,
        forgotten: Mutex::new(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_lines_of_coredns_unbound_and_bind_are_read() {
        let expected = LoggedQuery {
            client: IpAddr::from([10, 244, 1, 10]),
            qname: "www.example.com.".to_owned(),
            qtype: "AAAA".to_owned(),
        };
        for line in [
            "[INFO] query 10.244.1.10 AAAA WWW.example.com.",
            "[1700000000] unbound[7:0] info: 10.244.1.10 www.example.com. AAAA IN",
            "26-Nov-2026 13:00:00.000 client @0x7f0011223344 10.244.1.10#41234 (WWW.example.com): query: WWW.example.com IN AAAA +E(0)K (169.254.20.10)",
        ] {
            assert_eq!(parse_log_line(line), Some(expected.clone()), "{line}");
        }
        assert_eq!(
            parse_log_line("[1700000000] unbound[7:0] info: start of service (unbound 1.17.1)."),
            None
        );
    }
}
