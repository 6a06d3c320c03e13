//! `gregor explain`: what would happen to a pod's query, and why; decided by the same code as in `gregor run`.

mod asker;
mod miss;
mod search;

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::bail;
use dns_common::wire::DNS_PORT;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use self::{
    miss::nearest,
    search::{candidates, parse_list, search_list, warning},
};
use crate::{
    app::settings::Settings,
    claims::Snapshot,
    model::{Claimant, Client, Known},
    observe::{Status, fetch_status, fetch_target},
    resolve::{
        Answer, Outcome, Step, explain as chase, explain_known, looks_like_address, wire_name,
    },
    rules::{Match, Protected, Rule, RuleSet},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor explain lkc-1.eu-west-1.aws.private.kafka.managed --namespace foo
  gregor explain lkc-1.aws.private.kafka.managed.foo.svc.cluster.local. --type AAAA --config gregor.toml
  gregor explain lkc-1.eu-west-1.aws.private.confluent.cloud --pod foo/web-0
  gregor explain lkc-1.kafka.managed --search foo.svc.cluster.local,svc.cluster.local,example.com --ndots 5

With --namespace the name goes through that namespace's search list as a pod's resolver takes it (ndots says when), with
--search through that of the pod's resolv.conf; without, or with a dot at its end, it is asked as it is. Resolvers that never
search ask as with --search ''. Look-ups are made now, from this network namespace. A running gregor
is asked what the Kubernetes API says of the target; its kept answers are not looked at.")]
pub struct Args {
    /// The name that the pod asks for.
    name: String,
    /// The record type that it asks for.
    #[arg(long = "type", value_name = "TYPE", default_value = "A", value_parser = record_type)]
    qtype: RecordType,
    /// The pod's namespace, for its search list and for rules that depend on who asks.
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
    /// A pod that the running gregor knows, in the place of --namespace and --label.
    #[arg(long, value_name = "NS/NAME", conflicts_with_all = ["namespace", "labels", "interface"])]
    pod: Option<String>,
    /// The pod behind an interface that the running gregor is attached to.
    #[arg(long, value_name = "IF", conflicts_with_all = ["namespace", "labels"])]
    interface: Option<String>,
    /// A label of the pod, for rules that look at it; may be given again.
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, requires = "namespace")]
    labels: Vec<(String, String)>,
    /// The search list of the pod's resolv.conf, in the place of the namespace's; empty for a resolver that never searches.
    #[arg(long, value_name = "DOMAINS")]
    search: Option<Vec<String>>,
    /// The pod's ndots option.
    #[arg(long, value_name = "N", default_value_t = 7)]
    ndots: usize,
    /// The cluster's domain, for the search list.
    #[arg(long, value_name = "DOMAIN", default_value = "cluster.local")]
    cluster_domain: String,
    /// The nameserver that the pod asks, if not the first of `[intercept] servers`.
    #[arg(long, value_name = "ADDRESS")]
    server: Option<IpAddr>,
    /// The configuration.
    #[arg(long, value_name = "FILE", default_value = super::CONFIG)]
    config: PathBuf,
    /// Where the running gregor listens, if there is one.
    #[arg(long, value_name = "PATH", default_value = super::CONTROL)]
    control: PathBuf,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write it as KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn record_type(text: &str) -> Result<RecordType, String> {
    text.to_ascii_uppercase()
        .parse()
        .map_err(|_| format!("{text} is not a record type; write for example A, AAAA or HTTPS"))
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sources = super::learn::sources(&args.config, &args.control);
    let namespaces = super::learn::namespaces(&args.config, &args.control);
    let (learnt, (labelled, unknown)) =
        super::block_on(async { Ok((sources.await, namespaces.await)) })?;
    let mut settings = Settings::load(&args.config, &[], &learnt, &labelled)?;
    if let Some(why) = unknown {
        println!("Note: not known which namespaces have the labels that rules name: {why}.");
    }
    let asked = match args.server.or_else(|| settings.servers.first().copied()) {
        Some(server) => server,
        None => bail!("no server to ask; give one with --server"),
    };
    if !settings.servers.contains(&asked) {
        println!(
            "{asked} is not in [intercept] servers: gregor does not look at queries to it, they pass untouched."
        );
        return Ok(ExitCode::SUCCESS);
    }
    let mut asker = asker::find(&args)?;
    let claims_note = if settings.platform.is_some() {
        let status = super::block_on(async { Ok(fetch_status(&args.control).await.ok()) })?;
        match status.and_then(|status| claimed(&status)) {
            Some(snapshot) => {
                settings = settings.with_claims(&snapshot);
                if let Some(client) = &mut asker.client {
                    client.claims = settings.rules.claims_of(&client.namespace);
                }
                None
            }
            None => Some(
                "what tenants claim is known to a running gregor alone: here it is as if nobody claimed any name",
            ),
        }
    } else {
        None
    };
    let search = match (&args.search, &asker.namespace) {
        (Some(lists), _) => parse_list(lists),
        (None, Some(namespace)) => search_list(namespace, &args.cluster_domain),
        (None, None) => Vec::new(),
    };
    let candidates = candidates(&args.name, &search, args.ndots)?;
    println!(
        "A pod{} asks {asked} for {} {}.",
        asker.text, args.name, args.qtype
    );
    if let Some(why) = &asker.unknown {
        println!("Nobody is known there ({why}): no rule that depends on who asks answers.");
    }
    for note in claims_note
        .map(str::to_owned)
        .into_iter()
        .chain(warning(&search))
    {
        println!("Note: {note}.");
    }
    let no_rule = candidates.iter().all(|candidate| {
        let wire = wire_name(candidate);
        let client = asker.client.as_ref();
        !settings.rules.matches(&wire) && settings.rules.protection(&wire, client).is_none()
    });
    super::block_on(async {
        for (number, candidate) in candidates.iter().enumerate() {
            println!("\n{}. {candidate} {}", number + 1, args.qtype);
            let step = Explainer {
                settings: &settings,
                qtype: args.qtype,
                cache: SocketAddr::new(asked, DNS_PORT),
                control: &args.control,
                client: asker.client.clone(),
            };
            let (text, next) = step.explain(candidate).await;
            print!("{text}");
            match next {
                Next::Stop => return Ok(()),
                Next::Continue if number + 1 < candidates.len() => {
                    println!("   → resolvers go on to the next name");
                }
                Next::Continue => {}
            }
        }
        Ok(())
    })?;
    if no_rule {
        println!("\n{}", no_candidate(&args, candidates.len()));
    }
    Ok(ExitCode::SUCCESS)
}

/// The claims that a running gregor has accepted, of the namespaces that have pods on its node.
fn claimed(status: &Status) -> Option<Snapshot> {
    if !status.claims.is_on {
        return None;
    }
    let mut snapshot = Snapshot::default();
    for claim in &status.claims.claims {
        snapshot.namespaces.insert(claim.namespace.clone());
        snapshot.claimants.push(Claimant {
            namespace: claim.namespace.clone(),
            service: claim.service.clone(),
            names: claim.accepted.join(","),
            ..Claimant::default()
        });
    }
    Some(snapshot)
}

/// Why none of the names reaches a rule, as far as the pod's resolver is the reason.
fn no_candidate(args: &Args, asked: usize) -> &'static str {
    if args.name.ends_with('.') {
        "No rule takes this name. With a dot at its end the search list is not used, so it never contains the namespace."
    } else if asked == 1 {
        "No rule takes this name, and there is no search list: a resolver that never searches asks for nothing else."
    } else {
        "No rule takes any of these names."
    }
}

enum Next {
    /// The resolver has what it wants, or stops for another reason.
    Stop,
    Continue,
}

struct Explainer<'a> {
    settings: &'a Settings,
    qtype: RecordType,
    /// The existing cache, where queries pass to.
    cache: SocketAddr,
    /// The control socket of the running gregor.
    control: &'a Path,
    /// The pod that asks.
    client: Option<Client>,
}

impl Explainer<'_> {
    async fn explain(&self, name: &Name) -> (String, Next) {
        let mut text = String::new();
        let rules = &self.settings.rules;
        let observing = rules.observed(&wire_name(name), self.client.as_ref());
        for rule in &observing {
            let _ = writeln!(
                text,
                "   rule `{}`: {} matches, and only observes",
                rule.name(),
                rule.pattern()
            );
        }
        let Some(chain) = apply(rules, name, self.client.as_ref()) else {
            let protected = rules.protection(&wire_name(name), self.client.as_ref());
            if !observing.is_empty() && protected.is_none() {
                return self.pass(text, name).await;
            }
            let matching = rules.matching(&wire_name(name));
            if matching.is_empty() && protected.is_none() {
                let _ = writeln!(text, "   no rule matches");
            }
            for rule in matching {
                let _ = writeln!(
                    text,
                    "   rule `{}`: {} matches, and is not for this pod",
                    rules.rules()[rule].name(),
                    rules.rules()[rule].pattern()
                );
            }
            if let Some((_, protected)) = protected {
                if protected == Protected::Foreign {
                    let gets = if dns_common::wire::qtype_passes(self.qtype.into()) {
                        "no reply"
                    } else {
                        "REFUSED"
                    };
                    let _ = writeln!(
                        text,
                        "   protect_targets: the name of a target that is not the pod's own\n   the pod gets: {gets}; \
                         over TCP only where that is steered"
                    );
                    return (text, Next::Continue);
                }
                let _ = writeln!(text, "   protect_targets: the target of its own namespace");
                return self.pass(text, name).await;
            }
            if let Some(miss) = nearest(rules.rules(), name) {
                let _ = writeln!(text, "   nearest: {miss}");
            }
            return self.pass(text, name).await;
        };
        for (number, (rule, matched)) in chain.iter().enumerate() {
            if number > 0 {
                let _ = writeln!(text, "   which is the name of another rule:");
            }
            let _ = writeln!(text, "   rule `{}`: {}", rule.name(), rule.pattern());
            for (capture, value) in rule.capture_names().zip(&matched.captures) {
                let _ = writeln!(text, "     {{{capture}}} = {value}");
            }
            if number == 0 && dns_common::wire::qtype_passes(self.qtype.into()) {
                let _ = writeln!(
                    text,
                    "   but gregor leaves type {} to the cache",
                    self.qtype
                );
                return self.pass(text, name).await;
            }
            let _ = writeln!(text, "   target {}", matched.target);
        }
        match self.look_up(&mut text, &chain).await {
            Outcome::Answer(answer) => {
                text.push_str(&self.answer(&chain, &answer));
                (text, Next::Stop)
            }
            Outcome::NoTarget => {
                let _ = writeln!(
                    text,
                    "   the target does not exist (NXDOMAIN): this tenant has none, so the existing cache answers"
                );
                self.pass(text, name).await
            }
            Outcome::BrokenChain => {
                let _ = writeln!(
                    text,
                    "   the pod gets: SERVFAIL. The target exists, the end of its chain does not: correct the \
                     Service's externalName"
                );
                (text, Next::Continue)
            }
            Outcome::NoAddress(end) => {
                let why = if looks_like_address(&end) {
                    format!(
                        "externalName looks like an address ({}): it must be a name. Use a Service without selector and \
                         an EndpointSlice for an address",
                        end.to_ascii().trim_end_matches('.')
                    )
                } else {
                    format!("{end} has no address of either family: correct the Service")
                };
                let _ = writeln!(text, "   the pod gets: SERVFAIL. {why}");
                (text, Next::Continue)
            }
            Outcome::Failed(failure) => {
                let _ = writeln!(
                    text,
                    "   the look-up failed ({}): the pod gets the last good answer if there is one not older than \
                     {}, else SERVFAIL",
                    failure.label(),
                    humantime::format_duration(self.settings.serve_stale)
                );
                (text, Next::Continue)
            }
        }
    }

    /// The type that is looked up: ANY gets the CNAME alone.
    fn looked_up(&self) -> RecordType {
        match self.qtype {
            RecordType::ANY => RecordType::CNAME,
            qtype => qtype,
        }
    }

    /// Looks up the last target; where that does not exist, the ones before it.
    async fn look_up(&self, text: &mut String, chain: &[(&Rule, Match)]) -> Outcome {
        let upstream = self.settings.upstream.unwrap_or(self.cache);
        for (_, matched) in chain.iter().rev() {
            let known = self.known(text, &matched.target).await;
            let chase = explain_known(
                &matched.target,
                known,
                self.looked_up(),
                upstream,
                self.settings.timeout,
            )
            .await;
            for step in &chase.steps {
                text.push_str(&step_text(step));
            }
            if chase.outcome != Outcome::NoTarget {
                return chase.outcome;
            }
        }
        Outcome::NoTarget
    }

    /// What the running gregor knows of a target by the Kubernetes API.
    async fn known(&self, text: &mut String, target: &Name) -> Known {
        // It may not run, or be of an earlier version.
        let Ok(service) = fetch_target(self.control, &target.to_ascii()).await else {
            return Known::Nothing;
        };
        let alias = service
            .alias
            .as_deref()
            .and_then(|alias| Name::from_ascii(alias).ok());
        let end = service
            .end
            .as_deref()
            .and_then(|end| Name::from_ascii(end).ok());
        match (service.known.as_str(), alias) {
            ("alias", Some(alias)) => {
                let further = end.as_ref().map_or_else(String::new, |end| {
                    format!(", which leads by other Services to {end}")
                });
                let _ = writeln!(
                    text,
                    "     the Kubernetes API says: externalName {alias}{further} (heard {} s ago)",
                    service.age_seconds
                );
                Known::Alias(end.unwrap_or(alias))
            }
            ("absent", _) => {
                let _ = writeln!(
                    text,
                    "     the Kubernetes API says: it was deleted a moment ago"
                );
                Known::Absent
            }
            _ => {
                let _ = writeln!(
                    text,
                    "     the Kubernetes API says nothing of it, DNS is asked"
                );
                Known::Nothing
            }
        }
    }

    fn answer(&self, chain: &[(&Rule, Match)], answer: &Answer) -> String {
        let ttl = chain
            .iter()
            .map(|(rule, _)| u64::from(rule.ttl_seconds()))
            .chain([self.settings.max_ttl.as_secs()])
            .fold(answer.ttl_seconds.into(), u64::min)
            .max(1);
        // Targets of rules lead to the one that was found.
        let names: Vec<String> = chain
            .iter()
            .map(|(_, matched)| &matched.target)
            .take_while(|target| answer.names.first() != Some(target))
            .chain(&answer.names)
            .map(ToString::to_string)
            .collect();
        if self.looked_up() == RecordType::CNAME {
            return format!(
                "   the pod gets: NOERROR, CNAME {} alone, TTL {ttl}\n",
                names.first().map_or("", String::as_str)
            );
        }
        let names = names.join(" → ");
        if answer.rdata.is_empty() {
            format!(
                "   the pod gets: NOERROR, CNAME {names}, no {} there (NODATA), TTL {ttl}\n",
                self.qtype
            )
        } else {
            format!(
                "   the pod gets: NOERROR, CNAME {names}, {} {} record(s), TTL {ttl}\n",
                answer.rdata.len(),
                answer.qtype
            )
        }
    }

    /// What the existing cache says.
    async fn pass(&self, mut text: String, name: &Name) -> (String, Next) {
        let _ = writeln!(
            text,
            "   passes untouched to the existing cache, which says:"
        );
        let reply = chase(name, self.qtype, self.cache, self.settings.timeout).await;
        // Its chain does not matter here: the first reply is what the pod gets.
        let Some(step) = reply.steps.first() else {
            return (text, Next::Continue);
        };
        text.push_str(&step_text(step));
        let stops = matches!(&step.reply, Ok(reply) if !reply.records.is_empty());
        (text, if stops { Next::Stop } else { Next::Continue })
    }
}

fn step_text(step: &Step) -> String {
    let mut text = String::new();
    let head = format!(
        "     {} asked for {} {}",
        step.server, step.name, step.qtype
    );
    match &step.reply {
        Ok(reply) => {
            let _ = writeln!(
                text,
                "{head}: {} in {:.1} ms",
                rcode(reply.rcode),
                step.elapsed.as_secs_f64() * 1000.0
            );
            for reason in &reply.retries {
                let _ = writeln!(text, "       ({reason})");
            }
            for record in &reply.records {
                let _ = writeln!(text, "       {record}");
            }
        }
        Err(failure) => {
            let _ = writeln!(text, "{head}: {}", failure.label());
        }
    }
    text
}

/// As RFC 1035 and its successors spell it.
pub(super) fn rcode(code: ResponseCode) -> String {
    format!("{code:?}").to_ascii_uppercase()
}

/// Applies the rules to a name, one after the other.
fn apply<'a>(
    rules: &'a RuleSet,
    name: &Name,
    client: Option<&Client>,
) -> Option<Vec<(&'a Rule, Match)>> {
    let wire = wire_name(name);
    rules.follow(rules.find(&wire, client)?, &wire, client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_wire_format() {
        let name = Name::from_ascii("a.bc.").unwrap();
        assert_eq!(wire_name(&name), b"\x01a\x02bc\x00");
        assert_eq!(wire_name(&Name::root()), b"\x00");
    }

    #[test]
    fn rcodes_as_the_rfcs_spell_them() {
        assert_eq!(rcode(ResponseCode::NXDomain), "NXDOMAIN");
        assert_eq!(rcode(ResponseCode::ServFail), "SERVFAIL");
        assert_eq!(rcode(ResponseCode::NoError), "NOERROR");
    }

    #[test]
    fn record_types_in_any_case() {
        assert_eq!(record_type("aaaa"), Ok(RecordType::AAAA));
        assert!(
            record_type("nope")
                .unwrap_err()
                .contains("write for example")
        );
    }
}
