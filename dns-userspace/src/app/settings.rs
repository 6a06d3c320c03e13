//! A configuration in the form that the parts are made from.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    claims::{self, Decision, Platform, Refusal, Snapshot, Verdict},
    config::{self, Config, Diagnostic},
    datapath::{
        AnswerOptions, HIT_LANES, Hook, Limit, LoadOptions, Order, Protection, SteerMode,
        detect_hook,
    },
    discover::Selection,
    nameservers::{self, Source},
    observe::{ClaimStatus, ClaimsStatus, RuleStatus},
    resolve::{ResponderOptions, Upstream},
    rules::{
        Budget, RuleSet,
        selector::{self, Labelled},
    },
    sources::{ClusterDomain, Selector, selectors},
    tcp::Served,
};

/// Space for some 5,000 queries of common size that wait for the responder.
const RING_BYTES: u32 = 1 << 20;
/// Largest TTL of an expired answer, in seconds.
const STALE_TTL: u32 = 30;
/// One interface may keep this share of all answers.
const INTERFACE_SHARE: usize = 16;

/// What `gregor run` is made from, and the tools look at.
#[derive(Clone, Debug)]
pub struct Settings {
    pub servers: Vec<IpAddr>,
    pub selection: Selection,
    /// `None` for the best that the kernel has.
    pub hook: Option<Hook>,
    pub order: Order,
    /// The only addresses whose queries are looked at with XDP.
    pub sources: Vec<IpNet>,
    pub tcp: SteerMode,
    /// Whether names of targets are refused.
    pub protects_targets: bool,
    pub limit: Limit,
    pub rules: Arc<RuleSet>,
    /// The server that is asked for targets; `None` for the one that the pod asked.
    pub upstream: Option<SocketAddr>,
    pub timeout: Duration,
    pub max_ttl: Duration,
    pub serve_stale: Duration,
    pub chases_per_interface: usize,
    pub answers: usize,
    /// Whether the program answers what it can.
    pub kernel_answers: bool,
    pub listen: SocketAddr,
    /// Whether the Services that rules lead to are watched.
    pub watches_services: bool,
    /// Whether those get Events.
    pub sends_events: bool,
    pub cluster_domain: ClusterDomain,
    /// What says who is behind an interface.
    pub identity: config::Identity,
    /// What tenants may claim, and the rules without what they do; `None` where nothing may be claimed.
    pub platform: Option<Arc<Platform>>,
    /// What became of the claims that are among the rules.
    pub claims: Arc<Decision>,
    pub warnings: Vec<String>,
}

impl Settings {
    /// Reads a file. `interfaces`, when given, take the place of those in the file; `learnt` is from where servers are learnt, if
    /// the file says so; `labelled` is what is known of the namespaces that rules select by labels.
    ///
    /// # Errors
    /// Where something is wrong with the file, or no server is known.
    pub fn load(
        path: &Path,
        interfaces: &[String],
        learnt: &[Source],
        labelled: &Labelled,
    ) -> anyhow::Result<Self> {
        let (mut config, rules, warnings) = config::load_for(path, labelled)?;
        if config.intercept.learns_servers {
            config.intercept.servers = nameservers::join(&config.intercept.servers, learnt)?;
        }
        Self::new(config, rules, &warnings, interfaces)
    }

    /// What a small cluster has, for `gregor check` without a configuration.
    pub fn example() -> anyhow::Result<Self> {
        const TEXT: &str = r#"
            [intercept]
            servers = ["169.254.20.10"]
            [[rule]]
            name = "example"
            match = "*.example.com.{namespace}.svc.cluster.local"
            cname = "example.{namespace}.svc.cluster.local"
        "#;
        let (config, rules, warnings) = config::compile(Path::new("example"), TEXT)?;
        Self::new(config, rules, &warnings, &[])
    }

    fn new(
        config: Config,
        rules: RuleSet,
        warnings: &[Diagnostic],
        interfaces: &[String],
    ) -> anyhow::Result<Self> {
        let rules = Arc::new(rules);
        let platform = config.tenants.is_on().then(|| Platform {
            terms: config.terms(),
            protects: config.protects_targets(),
            tenants: config.tenants.clone(),
            cluster_domain: config.kubernetes.cluster_domain.domain(),
            specs: config.rules.clone(),
            rules: Arc::clone(&rules),
            mode: config.intercept.mode,
        });
        let platform = platform.map(Arc::new);
        let globs = match &config.intercept.interfaces {
            _ if !interfaces.is_empty() => interfaces,
            Some(globs) => globs.patterns(),
            None => &[],
        };
        let tcp = match config.tcp() {
            config::Tcp::AfterTruncation => SteerMode::AfterTruncation,
            config::Tcp::Always => SteerMode::Always,
            config::Tcp::Required => SteerMode::Required,
            config::Tcp::Never => SteerMode::Never,
        };
        // Tenants add rules with targets.
        let has_targets = rules.protected().next().is_some() || platform.is_some();
        Ok(Self {
            tcp,
            protects_targets: config.protects_targets() && has_targets,
            platform,
            claims: Arc::default(),
            selection: Selection::new(globs)?,
            servers: config.intercept.servers,
            hook: match config.intercept.hook {
                config::Hook::Auto => None,
                config::Hook::Tcx => Some(Hook::Tcx),
                config::Hook::Clsact => Some(Hook::Clsact),
                config::Hook::Xdp => Some(Hook::Xdp),
            },
            order: match config.intercept.order {
                config::Order::First => Order::First,
                config::Order::Last => Order::Last,
            },
            sources: config.intercept.allow_sources,
            limit: Limit {
                queries_per_second: config.limits.queries_per_second,
                burst: config.limits.burst,
            },
            rules,
            upstream: match config.upstream.server {
                config::UpstreamServer::Same => None,
                config::UpstreamServer::Address(address) => Some(address),
            },
            timeout: config.upstream.timeout,
            max_ttl: config.answer.max_ttl,
            serve_stale: config.answer.serve_stale,
            chases_per_interface: config.limits.chases_per_interface,
            answers: config.limits.answers,
            kernel_answers: config.answer.kernel,
            listen: config.metrics.listen,
            watches_services: config.kubernetes.watch,
            sends_events: config.kubernetes.events,
            cluster_domain: config.kubernetes.cluster_domain,
            identity: config.identity,
            warnings: warnings.iter().map(ToString::to_string).collect(),
        })
    }

    /// The same with what tenants claim, in the place of what they claimed before.
    pub fn with_claims(mut self, snapshot: &Snapshot) -> Self {
        if let Some(platform) = &self.platform {
            let (rules, decision) = claims::compile(platform, snapshot, Budget::of_this_process);
            self.rules = rules;
            self.claims = Arc::new(decision);
        }
        self
    }

    /// Whether the rules are those of these claims; then what became of each claim is taken from them.
    pub fn has_rules_of(&mut self, snapshot: &Snapshot) -> bool {
        let Some(platform) = &self.platform else {
            return true;
        };
        match self.claims.with_the_same_rules(platform, snapshot) {
            Some(decision) => {
                self.claims = Arc::new(decision);
                true
            }
            None => false,
        }
    }

    /// What `gregor status` shows of the claims.
    pub(super) fn claims_status(&self) -> ClaimsStatus {
        let claim = |verdict: &Verdict| ClaimStatus {
            namespace: verdict.namespace.clone(),
            service: verdict.service.clone(),
            accepted: verdict.accepted.clone(),
            refused: verdict
                .refused
                .iter()
                .map(|(name, why)| (name.clone(), why.to_string()))
                .collect(),
            unlisted: verdict.unlisted(),
        };
        let verdicts = &self.claims.verdicts;
        let mut refused: BTreeMap<Cow<'static, str>, u64> =
            Refusal::LABELS.map(|label| (label.into(), 0)).into();
        for (label, count) in verdicts.iter().flat_map(|verdict| &verdict.counts) {
            *refused.entry((*label).into()).or_default() += *count as u64;
        }
        ClaimsStatus {
            is_on: self.platform.is_some(),
            claims: verdicts.iter().map(claim).collect(),
            refused,
        }
    }

    /// What the program is loaded with.
    pub fn load_options(&self) -> LoadOptions {
        LoadOptions {
            servers: self.servers.clone(),
            rules: Arc::clone(&self.rules),
            hook: self.hook.unwrap_or_else(detect_hook),
            order: self.order,
            sources: match self.hook {
                Some(Hook::Xdp) => self.sources.clone(),
                _ => Vec::new(),
            },
            ring_bytes: RING_BYTES,
            limit: self.limit,
            answers: if self.kernel_answers {
                AnswerOptions {
                    total: self.answers,
                    per_interface: self.answers_per_interface(),
                    per_server: self.upstream.is_none(),
                    stale_ttl: self.stale_ttl(),
                }
            } else {
                AnswerOptions::NONE
            },
            hit_lanes: HIT_LANES,
            protection: Protection {
                keeps_unread: self.protects_targets,
                requires_tcp: self.tcp == SteerMode::Required,
            },
        }
    }

    /// The Services that rules lead to.
    pub(super) fn selectors(&self) -> Vec<Selector> {
        if !self.watches_services {
            return Vec::new();
        }
        let rules = self.rules.rules().iter();
        // Nothing is looked up for a rule that only observes. What tenants claim changes nothing here: a watch that begins anew
        // is a list.
        let cnames = rules
            .filter(|rule| !rule.is_observing() && !rule.is_claimed())
            .map(|rule| rule.cname());
        let mut selectors = selectors(cnames, &self.cluster_domain);
        if self.watches_claims() && !selectors.contains(&Selector::ANY) {
            selectors.push(Selector::ANY);
        }
        selectors
    }

    /// Whether annotations of Services are claims.
    pub(super) fn watches_claims(&self) -> bool {
        let platform = self.platform.as_ref();
        platform.is_some_and(|platform| platform.tenants.file.is_none())
    }

    /// What is served over TCP.
    pub(super) fn served(&self) -> Served {
        Served {
            servers: self.servers.clone(),
            rules: Arc::clone(&self.rules),
            limit: self.limit,
        }
    }

    /// TTL of stale answers (RFC 8767 §4).
    fn stale_ttl(&self) -> u32 {
        if self.serve_stale.is_zero() {
            return 0;
        }
        STALE_TTL.min(self.max_ttl.as_secs() as u32)
    }

    fn answers_per_interface(&self) -> usize {
        (self.answers / INTERFACE_SHARE).max(1)
    }

    /// What the responder is made with.
    pub(super) fn responder_options(&self) -> ResponderOptions {
        ResponderOptions {
            upstream: self.upstream.map_or(Upstream::Same, Upstream::Addr),
            max_ttl: self.max_ttl,
            serve_stale: self.serve_stale,
            chases_per_interface: self.chases_per_interface,
            max_answers: self.answers,
            answers_per_interface: self.answers_per_interface(),
        }
    }

    /// Whether the responder can stay as it is, cache included.
    pub(super) fn same_responder(&self, other: &Self) -> bool {
        (
            self.hook,
            self.upstream,
            self.timeout,
            self.max_ttl,
            self.serve_stale,
            self.chases_per_interface,
            self.answers,
        ) == (
            other.hook,
            other.upstream,
            other.timeout,
            other.max_ttl,
            other.serve_stale,
            other.chases_per_interface,
            other.answers,
        )
    }

    /// What `gregor status` shows of it.
    pub(super) fn view(&self) -> ConfigView {
        ConfigView {
            hook: hook_name(self.hook.unwrap_or_else(detect_hook)).to_owned(),
            order: match self.order {
                Order::First => "first",
                Order::Last => "last",
            }
            .to_owned(),
            servers: self.servers.clone(),
            rules: self
                .rules
                .rules()
                .iter()
                .map(|rule| RuleStatus {
                    name: rule.name().to_owned(),
                    pattern: rule.pattern().to_owned(),
                    target: rule.cname().to_owned(),
                    namespaces: rule.namespaces().map(<[String]>::to_vec),
                    namespace_labels: rule.namespace_labels().map(selector::text),
                    clients: rule.clients_text(),
                    observes: rule.is_observing(),
                })
                .collect(),
        }
    }
}

/// What `gregor status` shows of a configuration.
#[derive(Clone, Debug, Default)]
pub struct ConfigView {
    pub hook: String,
    pub order: String,
    pub servers: Vec<IpAddr>,
    pub rules: Vec<RuleStatus>,
}

/// As the configuration spells it.
pub fn tcp_name(mode: SteerMode) -> &'static str {
    match mode {
        SteerMode::Never => "never",
        SteerMode::AfterTruncation => "after-truncation",
        SteerMode::Always => "always",
        SteerMode::Required => "required",
    }
}

/// As the configuration spells it.
pub fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Tcx => "tcx",
        Hook::Clsact => "clsact",
        Hook::Xdp => "xdp",
    }
}
