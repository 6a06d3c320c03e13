//! The configuration file: TOML to typed values, checked as a whole, every complaint with file, line, key and remedy.

mod clients;
mod diagnostic;
mod identity;
mod kubernetes;
mod labels;
mod namespaces;
mod reader;
mod tenants;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use dns_common::abi::MAX_SERVERS;
use globset::{Glob, GlobSet, GlobSetBuilder};
use ipnet::IpNet;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use diagnostic::{ConfigErrors, Diagnostic};
pub use identity::{Identity, load_pods};
pub use kubernetes::Kubernetes;
pub use tenants::parse_claims;

use crate::claims::Tenants;
use crate::rules::{
    Budget, Complaint, DEFAULT_TTL, Key, MAX_TTL, MatchSpec, Mode, RuleSet, RuleSpec,
    selector::{Labelled, Labels},
};
use diagnostic::Source;
use reader::{At, Reader, Section, address};

/// Largest file that is read.
pub const MAX_FILE: u64 = 16 << 20;
/// Most entries of `interfaces` and of `allow_sources`.
const MAX_LIST: usize = 256;

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct Config {
    pub intercept: Intercept,
    pub upstream: Upstream,
    pub answer: Answer,
    pub limits: Limits,
    pub metrics: Metrics,
    pub kubernetes: Kubernetes,
    pub identity: Identity,
    /// Where `protect_targets` is on, its place in the file.
    protect_targets: Option<Range<usize>>,
    /// What tenants may claim.
    pub tenants: Tenants,
    /// Checked one by one; [`RuleSet::compile`] checks them against each other.
    pub rules: Vec<RuleSpec>,
    file: PathBuf,
    warnings: Vec<Diagnostic>,
    positions: Vec<RulePosition>,
}

/// `[intercept]`: whose queries are looked at, and where.
#[derive(Clone, Debug)]
pub struct Intercept {
    /// Addresses whose port 53 is looked at: up to 16 of each family, each once; at least one, unless there are more to learn.
    pub servers: Vec<IpAddr>,
    /// Whether there are: `"auto"` is in the list, or in its place.
    pub learns_servers: bool,
    /// Interfaces by name; `None` for every veth whose peer lives in another network namespace.
    pub interfaces: Option<InterfaceGlobs>,
    pub hook: Hook,
    pub order: Order,
    /// `None` where it is left out; see [`Config::tcp`].
    pub tcp: Option<Tcp>,
    /// With [`Mode::Observe`] so do all rules.
    pub mode: Mode,
    /// Source addresses that are served with [`Hook::Xdp`], where there is at least one; not looked at elsewhere.
    pub allow_sources: Vec<IpNet>,
}

/// Patterns of interface names.
#[derive(Clone, Debug)]
pub struct InterfaceGlobs {
    patterns: Vec<String>,
    set: GlobSet,
}

impl InterfaceGlobs {
    pub fn is_match(&self, interface: &str) -> bool {
        self.set.is_match(interface)
    }

    /// As they are written.
    pub fn patterns(&self) -> &[String] {
        &self.patterns
    }
}

impl PartialEq for InterfaceGlobs {
    fn eq(&self, other: &Self) -> bool {
        self.patterns == other.patterns
    }
}

/// Where programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hook {
    /// tcx where the kernel has it, clsact elsewhere.
    #[default]
    Auto,
    Tcx,
    Clsact,
    /// For interfaces where frames arrive from a wire.
    Xdp,
}

/// Where among the programs on the hook.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    First,
    Last,
}

/// Which TCP queries are answered, where the asked address is local to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tcp {
    /// Those of a client that has just received TC=1.
    AfterTruncation,
    Always,
    /// All, and none reaches the cache that gregor does not get.
    Required,
    Never,
}

/// `[upstream]`: the server that is asked for a rule's target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub server: UpstreamServer,
    /// For one look-up, retries included.
    pub timeout: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamServer {
    /// The server that the pod asked.
    #[default]
    Same,
    Address(SocketAddr),
}

/// `[answer]`: how long answers live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Cap on the TTL of every answer, in whole seconds.
    pub max_ttl: Duration,
    /// How long a last good answer may outlive its TTL when the upstream fails.
    pub serve_stale: Duration,
    /// Whether the programs answer what they can by themselves.
    pub kernel: bool,
}

/// `[limits]`: what one pod, and all of them, may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Intercepted queries of one interface per second; 0 for no limit.
    pub queries_per_second: u32,
    /// How many of them may come at once.
    pub burst: u32,
    /// Queries of one interface that may wait for the upstream.
    pub chases_per_interface: usize,
    /// Answers that are kept.
    pub answers: usize,
}

/// `[metrics]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Metrics {
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub listen: SocketAddr,
}

impl Default for Upstream {
    fn default() -> Self {
        Self {
            server: UpstreamServer::Same,
            timeout: Duration::from_secs(2),
        }
    }
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            max_ttl: Duration::from_secs(30),
            serve_stale: Duration::from_secs(3600),
            kernel: true,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            queries_per_second: 2000,
            burst: 400,
            chases_per_interface: 256,
            answers: 8_192,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 9753)),
        }
    }
}

/// The position of a rule in the file.
#[derive(Clone, Debug, Default)]
struct RulePosition {
    table: Range<usize>,
    keys: HashMap<Key, Range<usize>>,
}

/// Reads and checks a file: its values, its rules compiled, and what is worth a warning.
pub fn load(path: &Path) -> Result<(Config, RuleSet, Vec<Diagnostic>), ConfigErrors> {
    load_for(path, &Labelled::default())
}

/// [`load`], with what is known of the namespaces that rules select by labels.
pub fn load_for(
    path: &Path,
    labelled: &Labelled,
) -> Result<(Config, RuleSet, Vec<Diagnostic>), ConfigErrors> {
    compile_for(path, &read_text(path)?, labelled)
}

/// What a configuration leaves to be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToLearn {
    /// The servers that it has beside `"auto"`.
    pub written: Vec<IpAddr>,
    /// Where to look.
    pub kubernetes: Kubernetes,
}

/// What a file leaves to be learnt, if anything. Its rules are not compiled.
pub fn to_learn(path: &Path) -> Result<Option<ToLearn>, ConfigErrors> {
    let config = Config::parse(path, &read_text(path)?)?;
    Ok(config.intercept.learns_servers.then_some(ToLearn {
        written: config.intercept.servers,
        kubernetes: config.kubernetes,
    }))
}

/// The selectors by which rules of a file select namespaces, each once, and whether the API server may be watched for them.
pub fn to_select(path: &Path) -> Result<(Vec<Labels>, bool), ConfigErrors> {
    let config = Config::parse(path, &read_text(path)?)?;
    Ok((config.selectors(), config.kubernetes.watch))
}

/// Reads a file of a configuration.
pub fn read_text(path: &Path) -> Result<String, ConfigErrors> {
    let unreadable = |problem: String, remedy: &str| {
        ConfigErrors(vec![Diagnostic {
            file: path.to_owned(),
            line: 1,
            column: 1,
            key: "file".to_owned(),
            problem,
            remedy: remedy.to_owned(),
        }])
    };
    let metadata = std::fs::metadata(path).map_err(|error| {
        unreadable(
            format!("cannot be read: {error}"),
            "give the path of a configuration file that gregor may read",
        )
    })?;
    if metadata.len() > MAX_FILE {
        return Err(unreadable(
            format!("has {} bytes", metadata.len()),
            "give a configuration file of at most 16 MiB",
        ));
    }
    std::fs::read_to_string(path).map_err(|error| {
        unreadable(
            format!("cannot be read: {error}"),
            "give a UTF-8 text file that gregor may read",
        )
    })
}

impl Config {
    /// What the answers of all rules depend on, beside the rules.
    pub fn terms(&self) -> String {
        let upstream = match self.upstream.server {
            UpstreamServer::Same => "same".to_owned(),
            UpstreamServer::Address(address) => address.to_string(),
        };
        let (max_ttl, stale) = (self.answer.max_ttl, self.answer.serve_stale);
        format!("{upstream} {} {}", max_ttl.as_secs(), stale.as_secs())
    }
}

/// [`load`] for a text in memory.
pub fn compile(
    path: &Path,
    text: &str,
) -> Result<(Config, RuleSet, Vec<Diagnostic>), ConfigErrors> {
    compile_within(path, text, &Budget::of_this_process())
}

/// [`compile`], with what is known of the namespaces that rules select by labels.
pub fn compile_for(
    path: &Path,
    text: &str,
    labelled: &Labelled,
) -> Result<(Config, RuleSet, Vec<Diagnostic>), ConfigErrors> {
    finish(path, text, labelled, &Budget::of_this_process())
}

/// [`compile`], with this budget for the compilation of the rules.
pub fn compile_within(
    path: &Path,
    text: &str,
    budget: &Budget,
) -> Result<(Config, RuleSet, Vec<Diagnostic>), ConfigErrors> {
    finish(path, text, &Labelled::default(), budget)
}

fn finish(
    path: &Path,
    text: &str,
    labelled: &Labelled,
    budget: &Budget,
) -> Result<(Config, RuleSet, Vec<Diagnostic>), ConfigErrors> {
    let (mut config, mut errors) = Config::read(path, text);
    namespaces::fill(&mut config.rules, labelled);
    let source = Source { file: path, text };
    let protects = config.protects_targets();
    match RuleSet::compile_and_protect(&config.rules, &config.terms(), budget, protects) {
        Ok(rules) if errors.is_empty() => {
            let mut warnings = config.warnings.clone();
            warnings.extend(
                rules
                    .warnings()
                    .iter()
                    .map(|complaint| config.locate(&source, complaint)),
            );
            warnings.extend(
                config
                    .unknown_clients(&rules)
                    .map(|complaint| config.locate(&source, &complaint)),
            );
            warnings.extend(config.hardly_protecting(&source, &rules));
            in_order(&mut warnings);
            Ok((config, rules, warnings))
        }
        Ok(_) => Err(sorted(errors)),
        Err(complaints) => {
            errors.extend(
                complaints
                    .iter()
                    .map(|complaint| config.locate(&source, complaint)),
            );
            Err(sorted(errors))
        }
    }
}

fn sorted(mut errors: Vec<Diagnostic>) -> ConfigErrors {
    in_order(&mut errors);
    ConfigErrors(errors)
}

fn in_order(diagnostics: &mut [Diagnostic]) {
    diagnostics.sort_by_key(|diagnostic| (diagnostic.line, diagnostic.column));
}

impl Config {
    /// Reads the text of a file, which `path` names in messages. The rules are only checked by [`compile`] and
    /// [`load`].
    pub fn parse(path: &Path, text: &str) -> Result<Self, ConfigErrors> {
        let (config, errors) = Self::read(path, text);
        if errors.is_empty() {
            Ok(config)
        } else {
            Err(sorted(errors))
        }
    }

    /// What is valid but hardly intended; warnings about rules come from [`compile`] and [`load`].
    pub fn warnings(&self) -> &[Diagnostic] {
        &self.warnings
    }

    /// Complaints about rules that depend on who asks where nobody is ever known.
    fn unknown_clients(&self, rules: &RuleSet) -> impl Iterator<Item = Complaint> {
        let why = if self.intercept.hook == Hook::Xdp {
            Some((
                "depends on who asks, and with hook = \"xdp\" nobody is known",
                "use another hook, or rules for everybody",
            ))
        } else if self.identity.sources.is_empty() {
            Some((
                "depends on who asks, and no source says who that is: no query is answered by it",
                "name the sources in [identity], as in sources = [\"cni\", \"kubernetes\"]",
            ))
        } else {
            None
        };
        let asking = rules.rules().iter().enumerate();
        let asking = asking.filter(|(_, rule)| rule.asks_who());
        let complaints = asking.filter_map(move |(index, rule)| {
            let (problem, remedy) = why?;
            let key = if rule.is_for_some() {
                Key::Clients
            } else {
                Key::Cname
            };
            Some(Complaint::new(index, key, problem, remedy))
        });
        complaints.collect::<Vec<_>>().into_iter()
    }

    /// The selectors by which rules select namespaces, each once.
    pub fn selectors(&self) -> Vec<Labels> {
        namespaces::selectors(&self.rules)
    }

    /// Complaints about `protect_targets` where it does nothing, or refuses everybody.
    fn hardly_protecting(&self, source: &Source<'_>, rules: &RuleSet) -> Option<Diagnostic> {
        let span = self.protect_targets.clone()?;
        // Tenants add rules with targets.
        let is_empty = rules.protected().next().is_none() && !self.tenants.is_on();
        let (problem, remedy) = if is_empty {
            (
                "no target of a rule that answers has a namespace in it: nothing is protected",
                "use {namespace} or {client.namespace} as a label of `cname`, or remove the key",
            )
        } else if self.intercept.hook == Hook::Xdp {
            (
                "with hook = \"xdp\" clients are not identified: every pod is refused the names of targets, its own too",
                "use another hook, or remove the key",
            )
        } else if self.identity.sources.is_empty() {
            (
                "no source says who asks: every pod is refused the names of targets, its own too",
                "name the sources, as in sources = [\"cni\", \"kubernetes\"]",
            )
        } else {
            return None;
        };
        let key = format!("identity.{}", identity::PROTECT_TARGETS);
        Some(source.diagnostic(&span, key, problem, remedy))
    }

    /// Whether the names of targets are refused to other namespaces.
    pub fn protects_targets(&self) -> bool {
        self.protect_targets.is_some()
    }

    /// Which TCP queries are answered: all, where names are refused that TCP would else reach.
    pub fn tcp(&self) -> Tcp {
        self.intercept.tcp.unwrap_or(if self.protects_targets() {
            Tcp::Required
        } else {
            Tcp::AfterTruncation
        })
    }

    /// The file that the configuration was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    fn read(path: &Path, text: &str) -> (Self, Vec<Diagnostic>) {
        let (document, syntax) = DeTable::parse_recoverable(text);
        let mut reader = Reader {
            source: Source { file: path, text },
            errors: Vec::new(),
        };
        reader.complain_of_syntax(&syntax);
        // What follows a syntax error may be read wrongly: complaints about it would mislead.
        let table = syntax.is_empty().then(|| document.get_ref());
        let root = Section::new("", table, 0..0);
        reader.refuse_unknown(
            &root,
            &[
                "intercept",
                "upstream",
                "answer",
                "limits",
                "metrics",
                "kubernetes",
                "identity",
                "tenants",
                "rule",
            ],
        );
        let intercept = read_intercept(&mut reader, &root, table.is_some());
        let upstream = read_upstream(&mut reader, &root);
        let answer = read_answer(&mut reader, &root);
        let limits = read_limits(&mut reader, &root);
        let metrics = read_metrics(&mut reader, &root);
        let kubernetes = kubernetes::read(&mut reader, &root);
        let (identity, protect_targets) = identity::read(&mut reader, &root);
        let (mut rules, positions) = read_rules(&mut reader, &root);
        let needs = tenants::Needs {
            hook: intercept.hook,
            identity: &identity,
            kubernetes: &kubernetes,
            rules: &rules,
        };
        let tenants = tenants::read(&mut reader, &root, &needs);
        if intercept.mode == Mode::Observe {
            for rule in &mut rules {
                rule.mode = Mode::Observe;
            }
        }
        let mut warnings = Vec::new();
        if rules.is_empty() && !tenants.is_on() && syntax.is_empty() && root.get("rule").is_none() {
            warnings.push(reader.source.diagnostic(
                &(0..0),
                "rule",
                "there is no rule, so every query passes",
                "add a [[rule]] with `name`, `match` and `cname`",
            ));
        }
        let config = Self {
            intercept,
            upstream,
            answer,
            limits,
            metrics,
            kubernetes,
            identity,
            protect_targets,
            tenants,
            rules,
            file: path.to_owned(),
            warnings,
            positions,
        };
        (config, reader.errors)
    }

    fn locate(&self, source: &Source<'_>, complaint: &Complaint) -> Diagnostic {
        let position = self.positions.get(complaint.rule);
        let span = position
            .map(|position| {
                let key = position.keys.get(&complaint.key);
                key.unwrap_or(&position.table).clone()
            })
            .unwrap_or(0..0);
        source.diagnostic(
            &span,
            format!("rule.{}", complaint.key.as_str()),
            &complaint.problem,
            &complaint.remedy,
        )
    }
}

fn read_intercept(reader: &mut Reader<'_>, root: &Section<'_, '_>, complete: bool) -> Intercept {
    let section = reader.section(root, "intercept");
    reader.refuse_unknown(
        &section,
        &[
            "servers",
            "interfaces",
            "hook",
            "order",
            "tcp",
            "mode",
            "allow_sources",
        ],
    );
    let (servers, learns_servers) = read_servers(reader, &section, complete);
    let mode = read_mode(reader, &section);
    let interfaces = read_interfaces(reader, &section);
    let allow_sources = read_allow_sources(reader, &section);
    let hook = reader.choice(
        &section,
        "hook",
        &[
            ("auto", Hook::Auto),
            ("tcx", Hook::Tcx),
            ("clsact", Hook::Clsact),
            ("xdp", Hook::Xdp),
        ],
    );
    if let Some(At {
        value: Hook::Xdp,
        span,
    }) = &hook
    {
        if section.get("allow_sources").is_none_or(is_empty_array) {
            reader.complain(
                span,
                section.key("hook"),
                "\"xdp\" needs `allow_sources`: a frame from a wire may come from any host",
                "write allow_sources = [\"10.0.0.0/8\"], with the pods' addresses",
            );
        }
        if section.get("interfaces").is_none() {
            reader.complain(
                span,
                section.key("hook"),
                "\"xdp\" needs `interfaces`: it is not for the veths of this node's pods",
                "write interfaces = [\"eth0\"], with those where the pods' queries arrive from a wire",
            );
        }
    }
    let order = reader.choice(
        &section,
        "order",
        &[("first", Order::First), ("last", Order::Last)],
    );
    let tcp = reader.choice(
        &section,
        "tcp",
        &[
            ("after-truncation", Tcp::AfterTruncation),
            ("always", Tcp::Always),
            ("required", Tcp::Required),
            ("never", Tcp::Never),
        ],
    );
    Intercept {
        servers,
        learns_servers,
        interfaces,
        hook: hook.map(|hook| hook.value).unwrap_or_default(),
        order: order.map(|order| order.value).unwrap_or_default(),
        tcp: tcp.map(|tcp| tcp.value),
        mode,
        allow_sources,
    }
}

/// What stands for the servers that are learnt.
const AUTO: &str = "auto";

/// The addresses, and whether more are learnt.
fn read_servers(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
    complete: bool,
) -> (Vec<IpAddr>, bool) {
    const EXAMPLE: &str = "[\"169.254.20.10\", \"172.20.0.10\"]";
    let key = section.key("servers");
    let whole = section.get("servers").map(Spanned::get_ref);
    if whole.and_then(DeValue::as_str) == Some(AUTO) {
        return (Vec::new(), true);
    }
    if section.get("servers").is_none() && complete {
        reader.complain(
            &section.span,
            &key,
            "missing",
            format!(
                "add servers = {EXAMPLE}: every nameserver address in the pods' resolv.conf; or servers = \"auto\", \
                 which learns them from the kubelet and the cluster DNS's Service"
            ),
        );
    }
    let Some(texts) = reader.strings(section, "servers", EXAMPLE) else {
        return (Vec::new(), false);
    };
    if texts.is_empty() && section.get("servers").is_some_and(is_empty_array) {
        reader.complain(
            &section.span_of("servers"),
            &key,
            "no address is given",
            format!("write servers = {EXAMPLE}: every nameserver address in the pods' resolv.conf"),
        );
    }
    let mut servers: Vec<IpAddr> = Vec::new();
    let mut learns = false;
    for text in texts {
        if text.value == AUTO && !learns {
            learns = true;
            continue;
        }
        let Some(server) = address(&text.value) else {
            let remedy = match text.value.parse::<SocketAddr>() {
                Ok(with_port) if with_port.port() == 53 => {
                    format!("write \"{}\"; the port is always 53", with_port.ip())
                }
                Ok(_) => "write the address alone; only port 53 can be intercepted".to_owned(),
                Err(_) if text.value == AUTO => "remove one of the two".to_owned(),
                Err(_) => {
                    "write an IPv4 or IPv6 address, as in \"169.254.20.10\", or \"auto\"".to_owned()
                }
            };
            let problem = match text.value.as_str() {
                AUTO => "\"auto\" is listed twice".to_owned(),
                other => format!("\"{other}\" is not an IP address"),
            };
            reader.complain(&text.span, &key, problem, remedy);
            continue;
        };
        if server.is_unspecified() || server.is_multicast() {
            reader.complain(
                &text.span,
                &key,
                format!("{server} is not the address of a server"),
                "write a nameserver address of the pods' resolv.conf",
            );
        } else if servers.contains(&server) {
            reader.complain(
                &text.span,
                &key,
                format!("{server} is listed twice"),
                "remove one of the two",
            );
        } else if servers
            .iter()
            .filter(|other| other.is_ipv4() == server.is_ipv4())
            .count()
            >= MAX_SERVERS
        {
            let family = if server.is_ipv4() { "IPv4" } else { "IPv6" };
            reader.complain(
                &text.span,
                &key,
                format!("more than {MAX_SERVERS} {family} addresses"),
                format!("keep at most {MAX_SERVERS} addresses of each family"),
            );
            break;
        } else {
            servers.push(server);
        }
    }
    (servers, learns)
}

fn is_empty_array(value: &Spanned<DeValue<'_>>) -> bool {
    value
        .get_ref()
        .as_array()
        .is_some_and(|array| array.is_empty())
}

fn read_interfaces(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<InterfaceGlobs> {
    let key = section.key("interfaces");
    let texts = reader.strings(section, "interfaces", "[\"eni*\", \"cali*\"]")?;
    if section.get("interfaces").is_some_and(is_empty_array) {
        reader.complain(
            &section.span_of("interfaces"),
            &key,
            "the list is empty, so nothing would be attached",
            "remove the key to attach to every pod's veth, or write globs as in [\"eni*\"]",
        );
    }
    if texts.len() > MAX_LIST {
        reader.complain(
            &section.span_of("interfaces"),
            &key,
            format!("{} entries", texts.len()),
            format!("write at most {MAX_LIST}; globs such as \"eni*\" match many interfaces"),
        );
        return None;
    }
    let mut set = GlobSetBuilder::new();
    let mut patterns = Vec::new();
    for text in texts {
        match Glob::new(&text.value) {
            Ok(glob) if !text.value.is_empty() => {
                set.add(glob);
                patterns.push(text.value);
            }
            result => {
                let reason = match result {
                    Err(error) => format!(" ({})", error.kind()),
                    Ok(_) => String::new(),
                };
                reader.complain(
                    &text.span,
                    &key,
                    format!("\"{}\" is not a glob{reason}", text.value),
                    "write an interface name, in which `*`, `?` and `[…]` match other characters",
                );
            }
        }
    }
    let set = set.build().ok()?;
    Some(InterfaceGlobs { patterns, set })
}

fn read_allow_sources(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Vec<IpNet> {
    let key = section.key("allow_sources");
    let mut nets: Vec<IpNet> = Vec::new();
    let texts = reader
        .strings(section, "allow_sources", "[\"10.0.0.0/8\"]")
        .unwrap_or_default();
    if texts.len() > MAX_LIST {
        reader.complain(
            &section.span_of("allow_sources"),
            &key,
            format!("{} entries", texts.len()),
            format!("write at most {MAX_LIST}, with shorter prefixes"),
        );
        return nets;
    }
    for text in texts {
        match text.value.parse::<IpNet>() {
            Ok(net) if net.trunc() != net => reader.complain(
                &text.span,
                &key,
                format!("{net} has bits set behind its prefix"),
                format!("write \"{}\"", net.trunc()),
            ),
            Ok(net) if nets.contains(&net) => reader.complain(
                &text.span,
                &key,
                format!("{net} is listed twice"),
                "remove one of the two",
            ),
            Ok(net) => nets.push(net),
            Err(_) => {
                let remedy = match address(&text.value) {
                    Some(address) => format!("write \"{}\"", IpNet::from(address)),
                    None => "write a network, as in \"10.0.0.0/8\" or \"fd00::/8\"".to_owned(),
                };
                reader.complain(
                    &text.span,
                    &key,
                    format!("\"{}\" is not a network", text.value),
                    remedy,
                );
            }
        }
    }
    nets
}

fn read_upstream(reader: &mut Reader<'_>, root: &Section<'_, '_>) -> Upstream {
    let section = reader.section(root, "upstream");
    reader.refuse_unknown(&section, &["server", "timeout"]);
    let mut upstream = Upstream::default();
    if let Some(text) = reader.string(&section, "server", "\"same\"") {
        let address = match text.value.as_str() {
            "same" => Some(UpstreamServer::Same),
            other => address(other)
                .map(|address| SocketAddr::new(address, 53))
                .or_else(|| other.parse().ok())
                .filter(|address| !address.ip().is_unspecified() && address.port() != 0)
                .map(UpstreamServer::Address),
        };
        match address {
            Some(server) => upstream.server = server,
            None => reader.complain(
                &text.span,
                section.key("server"),
                format!("\"{}\" is neither \"same\" nor an address", text.value),
                "write \"same\", an address, or an address and port as in \"172.20.0.10:53\" or \"[fd00::a]:53\"",
            ),
        }
    }
    let range = Duration::from_millis(10)..=Duration::from_secs(30);
    if let Some(timeout) = reader.duration(&section, "timeout", range) {
        upstream.timeout = timeout;
    }
    upstream
}

fn read_answer(reader: &mut Reader<'_>, root: &Section<'_, '_>) -> Answer {
    let section = reader.section(root, "answer");
    reader.refuse_unknown(&section, &["max_ttl", "serve_stale", "kernel"]);
    let mut answer = Answer::default();
    let range = Duration::from_secs(1)..=Duration::from_secs(u64::from(MAX_TTL));
    if let Some(max_ttl) = reader.duration(&section, "max_ttl", range) {
        if max_ttl.subsec_nanos() == 0 {
            answer.max_ttl = max_ttl;
        } else {
            reader.complain(
                &section.span_of("max_ttl"),
                section.key("max_ttl"),
                "a TTL is a number of whole seconds",
                format!("write \"{}s\"", max_ttl.as_secs()),
            );
        }
    }
    let range = Duration::ZERO..=Duration::from_secs(7 * 86_400);
    if let Some(serve_stale) = reader.duration(&section, "serve_stale", range) {
        answer.serve_stale = serve_stale;
    }
    if let Some(kernel) = reader.boolean(&section, "kernel") {
        answer.kernel = kernel;
    }
    answer
}

fn read_limits(reader: &mut Reader<'_>, root: &Section<'_, '_>) -> Limits {
    let section = reader.section(root, "limits");
    reader.refuse_unknown(
        &section,
        &[
            "queries_per_second",
            "burst",
            "chases_per_interface",
            "answers",
        ],
    );
    let default = Limits::default();
    let mut number = |key, range, unit, default: usize| {
        reader
            .number(&section, key, range, unit)
            .and_then(|number| usize::try_from(number).ok())
            .unwrap_or(default)
    };
    let rate = number(
        "queries_per_second",
        0..=1_000_000,
        "queries (0: no limit)",
        default.queries_per_second as usize,
    );
    let burst = number("burst", 1..=100_000, "queries", default.burst as usize);
    Limits {
        queries_per_second: rate as u32,
        burst: burst as u32,
        chases_per_interface: number(
            "chases_per_interface",
            1..=65_536,
            "look-ups",
            default.chases_per_interface,
        ),
        answers: number("answers", 1..=10_000_000, "answers", default.answers),
    }
}

fn read_metrics(reader: &mut Reader<'_>, root: &Section<'_, '_>) -> Metrics {
    let section = reader.section(root, "metrics");
    reader.refuse_unknown(&section, &["listen"]);
    let mut metrics = Metrics::default();
    if let Some(text) = reader.string(&section, "listen", "\"127.0.0.1:9753\"") {
        match text.value.parse() {
            Ok(listen) => metrics.listen = listen,
            Err(_) => reader.complain(
                &text.span,
                section.key("listen"),
                format!("\"{}\" is not an address and port", text.value),
                "write both, as in \"127.0.0.1:9753\" or \"[::]:9753\"",
            ),
        }
    }
    metrics
}

fn read_rules(
    reader: &mut Reader<'_>,
    root: &Section<'_, '_>,
) -> (Vec<RuleSpec>, Vec<RulePosition>) {
    let mut rules = Vec::new();
    let mut positions = Vec::new();
    let Some(value) = root.get("rule") else {
        return (rules, positions);
    };
    let Some(array) = value.get_ref().as_array() else {
        reader.wrong_type(value, "rule", "an array of tables", "[[rule]]");
        return (rules, positions);
    };
    for element in array.iter() {
        let Some(table) = element.get_ref().as_table() else {
            reader.wrong_type(element, "rule", "a table", "[[rule]]");
            continue;
        };
        let section = Section::new("rule", Some(table), element.span());
        if let Some((rule, position)) = read_rule(reader, &section) {
            rules.push(rule);
            positions.push(position);
        }
    }
    (rules, positions)
}

fn read_mode(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Mode {
    let modes = [Mode::Answer, Mode::Observe].map(|mode| (mode.as_str(), mode));
    let mode = reader.choice(section, "mode", &modes);
    mode.map_or_else(Mode::default, |mode| mode.value)
}

/// A rule, if enough of it is there to be checked further.
fn read_rule(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
) -> Option<(RuleSpec, RulePosition)> {
    reader.refuse_unknown(
        section,
        &[
            "name",
            "match",
            "regex",
            "cname",
            "ttl",
            "follow",
            "namespaces",
            "clients",
            "mode",
        ],
    );
    let mut required = |key: &str, example: &str| reader.required(section, key, example);
    let name = required("name", "\"kafka\"");
    let cname = required("cname", "\"kafka-upstream.{namespace}.svc.cluster.local\"");
    let pattern = reader.string(
        section,
        "match",
        "\"*.kafka.managed.{namespace}.svc.cluster.local\"",
    );
    let regex = reader.string(section, "regex", "'^(.+)\\.example\\.com\\.$'");
    let ttl_seconds = reader
        .number(section, "ttl", 1..=u64::from(MAX_TTL), "seconds")
        .map_or(DEFAULT_TTL, |ttl| ttl as u32);
    let follow = reader.boolean(section, "follow").unwrap_or(true);
    let (namespaces, namespace_labels) = namespaces::read(reader, section);
    let clients = clients::read(reader, section);
    let mode = read_mode(reader, section);
    let given = [section.get("match"), section.get("regex")];
    match given {
        [Some(_), Some(regex)] => reader.complain(
            &regex.span(),
            section.key("regex"),
            "the rule has `match` and `regex`",
            "keep one of the two",
        ),
        [None, None] => reader.complain(
            &section.span,
            section.key("match"),
            "missing",
            "add match = \"*.kafka.managed.{namespace}.svc.cluster.local\", or `regex`",
        ),
        _ => {}
    }
    let (matches, match_at) = match (pattern, regex) {
        (Some(pattern), _) => (MatchSpec::Pattern(pattern.value), pattern.span),
        (None, Some(regex)) => (MatchSpec::Regex(regex.value), regex.span),
        (None, None) => return None,
    };
    let (name, cname) = (name?, cname?);
    let keys = HashMap::from([
        (Key::Name, name.span),
        (Key::Match, match_at.clone()),
        (Key::Regex, match_at),
        (Key::Cname, cname.span),
        (Key::Ttl, section.span_of("ttl")),
        (Key::Namespaces, section.span_of("namespaces")),
        (Key::Clients, section.span_of("clients")),
    ]);
    let rule = RuleSpec {
        name: name.value,
        matches,
        cname: cname.value,
        ttl_seconds,
        follow,
        namespaces,
        namespace_labels,
        clients,
        mode,
    };
    let position = RulePosition {
        table: section.span.clone(),
        keys,
    };
    Some((rule, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DESIGN: &str = r#"
[intercept]
servers = ["169.254.20.10", "172.20.0.10"]
hook = "auto"
order = "first"
tcp = "after-truncation"

[upstream]
server = "same"
timeout = "2s"

[answer]
max_ttl = "30s"
serve_stale = "1h"

[metrics]
listen = "127.0.0.1:9753"

[[rule]]
name  = "kafka"
match = "*.aws.private.kafka.managed.{namespace}.svc.cluster.local"
cname = "kafka-upstream.{namespace}.svc.cluster.local"
ttl   = 60
"#;

    fn parse(text: &str) -> Result<Config, ConfigErrors> {
        Config::parse(Path::new("gregor.toml"), text)
    }

    #[test]
    fn the_documented_file_is_the_default() {
        let (config, rules, warnings) = compile(Path::new("gregor.toml"), DESIGN).unwrap();
        assert_eq!(warnings, []);
        assert_eq!(config.intercept.servers.len(), 2);
        assert_eq!(config.intercept.interfaces, None);
        assert_eq!(config.upstream, Upstream::default());
        assert_eq!(config.answer, Answer::default());
        assert_eq!(config.metrics, Metrics::default());
        assert_eq!(config.limits, Limits::default());
        assert_eq!(rules.rules()[0].ttl_seconds(), 60);
    }

    #[test]
    fn namespaces_and_modes_of_rules() {
        let text = |more: &str| format!("{DESIGN}{more}");
        let rule = |text: &str| parse(text).unwrap().rules[0].clone();
        assert_eq!(rule(DESIGN).namespaces, None);
        assert_eq!(rule(DESIGN).mode, Mode::Answer);
        let config = text("namespaces = [\"foo\", \"team-*\"]\nmode = \"observe\"");
        let one = rule(&config);
        assert_eq!(one.namespaces, Some(vec!["foo".into(), "team-*".into()]));
        assert_eq!(one.mode, Mode::Observe);
        let all = DESIGN.replace("[intercept]", "[intercept]\nmode = \"observe\"");
        assert_eq!(rule(&all).mode, Mode::Observe);

        for (more, key, problem) in [
            ("namespaces = []", "rule.namespaces", "no namespace"),
            (
                "namespaces = [\"a_b\"]",
                "rule.namespaces",
                "`_` in \"a_b\"",
            ),
            (
                "namespaces = [\"-a\"]",
                "rule.namespaces",
                "no namespace can be called",
            ),
            (
                "namespaces = \"foo\"",
                "rule.namespaces",
                "expected an array",
            ),
            ("mode = \"watch\"", "rule.mode", "not a value"),
        ] {
            let errors = compile(Path::new("gregor.toml"), &text(more)).unwrap_err();
            let [error] = &errors.0[..] else {
                panic!("{more}: {errors}");
            };
            assert_eq!((error.key.as_str(), error.line), (key, 24), "{error}");
            assert!(error.problem.contains(problem), "{more}: {error}");
        }
        for (from, to, problem) in [
            (
                "{namespace}",
                "foo",
                "the rule's `match` has no `{namespace}`",
            ),
            (
                "match = \"*.aws.private.kafka.managed.{namespace}.svc.cluster.local\"",
                "regex = '^(?P<namespace>[a-z]+)\\.x\\.$'",
                "a rule with `regex`",
            ),
        ] {
            let text = text("namespaces = [\"foo\"]").replace(from, to);
            let errors = compile(Path::new("gregor.toml"), &text).unwrap_err();
            assert!(errors.0[0].problem.contains(problem), "{errors}");
        }
    }

    #[test]
    fn rules_are_followed_unless_configured_otherwise() {
        let text = |more: &str| format!("{DESIGN}{more}");
        let chain = |more: &str| {
            let next = "[[rule]]\nname = \"next\"\nmatch = \"kafka-upstream.{namespace}.svc.cluster.local\"\n\
                        cname = \"end.{namespace}.svc.cluster.local\"\n";
            let (_, rules, _) =
                compile(Path::new("gregor.toml"), &text(&format!("{more}\n{next}")))?;
            let name = crate::model::wire_name(
                &"a.aws.private.kafka.managed.foo.svc.cluster.local."
                    .parse()
                    .unwrap(),
            );
            Ok::<_, ConfigErrors>(rules.follow(0, &name, None).unwrap().len())
        };
        for (more, length) in [("", 2), ("follow = true", 2), ("follow = false", 1)] {
            assert_eq!(chain(more).unwrap(), length, "{more}");
        }
        assert!(chain("follow = \"no\"").is_err());
    }

    #[test]
    fn every_key_is_read() {
        let config = parse(
            r#"
            [intercept]
            servers = ["10.0.0.10", "fd00::a"]
            interfaces = ["eni*", "cali?"]
            hook = "clsact"
            order = "last"
            tcp = "never"
            allow_sources = ["10.0.0.0/8", "fd00::/8"]
            [upstream]
            server = "[fd00::b]:5353"
            timeout = "1s 500ms"
            [answer]
            max_ttl = "5s"
            serve_stale = "0s"
            [limits]
            queries_per_second = 0
            burst = 7
            chases_per_interface = 8
            answers = 1_000
            [metrics]
            listen = "[::]:1"
            "#,
        )
        .unwrap();
        let intercept = &config.intercept;
        assert!(intercept.interfaces.as_ref().unwrap().is_match("eni12"));
        assert!(!intercept.interfaces.as_ref().unwrap().is_match("cali12"));
        assert_eq!(
            (intercept.hook, intercept.order, intercept.tcp),
            (Hook::Clsact, Order::Last, Some(Tcp::Never))
        );
        assert_eq!(intercept.allow_sources.len(), 2);
        let server = "[fd00::b]:5353".parse().unwrap();
        assert_eq!(config.upstream.server, UpstreamServer::Address(server));
        assert_eq!(config.upstream.timeout, Duration::from_millis(1500));
        assert_eq!(config.answer.serve_stale, Duration::ZERO);
        assert_eq!(
            config.limits,
            Limits {
                queries_per_second: 0,
                burst: 7,
                chases_per_interface: 8,
                answers: 1000
            }
        );
        assert_eq!(config.warnings().len(), 1);
    }

    #[test]
    fn every_complaint_is_reported_at_once_in_the_order_of_the_file() {
        let text = "[intercept]\nservers = [\"x\"]\nhok = \"tcx\"\n[answer]\nmax_ttl = 3\n[[rule]]\nname = \"a\"\nmatch = \"a..b\"\ncname = \"c.d\"\n";
        let errors = compile(Path::new("dir/g.toml"), text).unwrap_err();
        let lines: Vec<String> = errors.to_string().lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 4, "{errors}");
        assert!(lines[0].starts_with("dir/g.toml:2:12: intercept.servers: \"x\" is not an IP"));
        assert_eq!(
            lines[1],
            "dir/g.toml:3:1: intercept.hok: unknown key; did you mean `hook`?"
        );
        assert!(lines[2].starts_with("dir/g.toml:5:11: answer.max_ttl: expected a duration"));
        assert!(lines[3].starts_with("dir/g.toml:8:9: rule.match: a label is empty"));
    }

    #[test]
    fn servers_may_be_left_to_be_learnt() {
        let parse = |servers: &str| {
            let text = format!("[intercept]\nservers = {servers}\n");
            Config::parse(Path::new("x.toml"), &text)
                .map(|config| (config.intercept.servers, config.intercept.learns_servers))
                .map_err(|errors| errors.to_string())
        };
        let written: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap()];
        assert_eq!(parse("\"auto\"").unwrap(), (Vec::new(), true));
        assert_eq!(parse("[\"auto\"]").unwrap(), (Vec::new(), true));
        assert_eq!(
            parse("[\"10.0.0.1\", \"auto\"]").unwrap(),
            (written.clone(), true)
        );
        assert_eq!(parse("[\"10.0.0.1\"]").unwrap(), (written, false));
        for (servers, part) in [
            ("[\"auto\", \"auto\"]", "\"auto\" is listed twice"),
            ("\"Auto\"", "expected an array of strings"),
            ("[\"automatic\"]", "or \"auto\""),
        ] {
            let error = parse(servers).unwrap_err();
            assert!(error.contains(part), "{servers}: {error}");
        }
    }

    #[test]
    fn rules_that_cost_too_much_are_refused_at_the_line_of_the_costliest() {
        let mut text = DESIGN.to_owned();
        for (name, regex) in [
            ("one", ".*ads.*pixel.*"),
            ("two", "track.*beacon"),
            ("three", "^.*metric.*stat.*"),
            ("four", "click.*[0-9].*promo"),
            ("five", r"^banner\.example\.org\.$"),
        ] {
            text += &format!("[[rule]]\nname = '{name}'\nregex = '{regex}'\ncname = 'sink.test'\n");
        }
        let small = Budget::new(Duration::from_secs(3600), 256 << 10);
        let errors = compile_within(Path::new("x.toml"), &text, &small).unwrap_err();
        let [error] = &errors.0[..] else {
            panic!("{errors}");
        };
        let message = error.to_string();
        for part in ["rule.regex", "cost most", "`four`"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(
            !message.contains("`kafka`") && !message.contains("`five`"),
            "{message}"
        );
        let line = text.lines().nth(error.line - 1).unwrap_or_default();
        assert!(line.starts_with("regex = '"), "{line}");
    }
}
