//! `gregor explain`: what would happen to a pod's query, and why; decided by the same code as in `gregor run`.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use dns_common::wire::{DNS_PORT, qtype_passes};
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};

use crate::{
    app::settings::Settings,
    resolve::{Outcome, Step, explain as chase, wire_name},
    rules::{Rule, RuleSet},
};

#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  gregor explain lkc-1.eu-west-1.aws.private.kafka.managed --namespace foo
  gregor explain lkc-1.aws.private.kafka.managed.foo.svc.cluster.local. --type AAAA --config gregor.toml

With --namespace the name goes through that namespace's search list as a pod's resolver takes it (ndots says when);
without, or with a dot at its end, it is asked as it is. Look-ups are made now, from this network namespace; a running
gregor is not asked and its kept answers are not looked at.")]
pub struct Args {
    /// The name that the pod asks for.
    name: String,
    /// The record type that it asks for.
    #[arg(long = "type", value_name = "TYPE", default_value = "A", value_parser = record_type)]
    qtype: RecordType,
    /// The pod's namespace, for its search list.
    #[arg(long, value_name = "NS")]
    namespace: Option<String>,
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
}

fn record_type(text: &str) -> Result<RecordType, String> {
    text.to_ascii_uppercase()
        .parse()
        .map_err(|_| format!("{text} is no record type; write for example A, AAAA or HTTPS"))
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.config, &[])?;
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
    let search = match &args.namespace {
        Some(namespace) => search_list(namespace, &args.cluster_domain),
        None => Vec::new(),
    };
    let candidates = candidates(&args.name, &search, args.ndots)?;
    println!(
        "A pod{} asks {asked} for {} {}.",
        args.namespace
            .as_ref()
            .map(|namespace| format!(" in namespace {namespace}"))
            .unwrap_or_default(),
        args.name,
        args.qtype
    );
    super::block_on(async {
        for (number, candidate) in candidates.iter().enumerate() {
            println!("\n{}. {candidate} {}", number + 1, args.qtype);
            let step = Explainer {
                settings: &settings,
                qtype: args.qtype,
                cache: SocketAddr::new(asked, DNS_PORT),
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
    Ok(ExitCode::SUCCESS)
}

/// The search list that the kubelet writes for a namespace.
fn search_list(namespace: &str, domain: &str) -> Vec<String> {
    let domain = domain.trim_end_matches('.');
    vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.to_owned(),
    ]
}

/// The names that a resolver asks for, in its order (resolv.conf(5), `ndots`).
fn candidates(name: &str, search: &[String], ndots: usize) -> anyhow::Result<Vec<Name>> {
    let absolute = |text: &str| {
        let mut name = Name::from_ascii(text).with_context(|| {
            format!("`{text}` is no domain name; labels have 1 to 63 bytes, names at most 255")
        })?;
        name.set_fqdn(true);
        Ok::<_, anyhow::Error>(name)
    };
    if name.ends_with('.') {
        return Ok(vec![absolute(name)?]);
    }
    // A suffix with which the name gets too long is skipped, as resolvers do.
    let searched = search
        .iter()
        .filter_map(|suffix| absolute(&format!("{name}.{suffix}")).ok());
    let own = absolute(name)?;
    let dots = name.matches('.').count();
    Ok(if dots >= ndots {
        std::iter::once(own).chain(searched).collect()
    } else {
        searched.chain(std::iter::once(own)).collect()
    })
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
}

impl Explainer<'_> {
    async fn explain(&self, name: &Name) -> (String, Next) {
        let mut text = String::new();
        let rules = &self.settings.rules;
        let Some((rule, matched)) = apply(rules, name) else {
            let _ = writeln!(text, "   no rule matches");
            if let Some(miss) = nearest(rules.rules(), name) {
                let _ = writeln!(text, "   nearest: {miss}");
            }
            return self.pass(text, name).await;
        };
        let _ = writeln!(text, "   rule `{}`: {}", rule.name(), rule.pattern());
        for (capture, value) in rule.capture_names().zip(&matched.captures) {
            let _ = writeln!(text, "     {{{capture}}} = {value}");
        }
        if qtype_passes(self.qtype.into()) {
            let _ = writeln!(
                text,
                "   but gregor leaves type {} to the cache",
                self.qtype
            );
            return self.pass(text, name).await;
        }
        let _ = writeln!(text, "   target {}", matched.target);
        let upstream = self.settings.upstream.unwrap_or(self.cache);
        let chase = chase(&matched.target, self.qtype, upstream, self.settings.timeout).await;
        for step in &chase.steps {
            text.push_str(&told(step));
        }
        match chase.outcome {
            Outcome::Answer(answer) => {
                let ttl = u64::from(answer.ttl_seconds)
                    .min(rule.ttl_seconds().into())
                    .min(self.settings.max_ttl.as_secs())
                    .max(1);
                let chain = answer
                    .names
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
                    .join(" → ");
                if answer.rdata.is_empty() && self.qtype != RecordType::CNAME {
                    let _ = writeln!(
                        text,
                        "   the pod gets: NOERROR, CNAME {chain}, no {} there (NODATA), TTL {ttl}",
                        self.qtype
                    );
                    (text, Next::Stop)
                } else {
                    let _ = writeln!(
                        text,
                        "   the pod gets: NOERROR, CNAME {chain}, {} {} record(s), TTL {ttl}",
                        answer.rdata.len(),
                        answer.qtype
                    );
                    (text, Next::Stop)
                }
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

    /// What the existing cache says.
    async fn pass(&self, mut text: String, name: &Name) -> (String, Next) {
        let _ = writeln!(
            text,
            "   passes untouched to the existing cache, which says:"
        );
        let reply = chase(name, self.qtype, self.cache, self.settings.timeout).await;
        // Its own chain is its own business: the first reply is what the pod gets.
        let Some(step) = reply.steps.first() else {
            return (text, Next::Continue);
        };
        text.push_str(&told(step));
        let stops = matches!(&step.reply, Ok(reply) if !reply.records.is_empty());
        (text, if stops { Next::Stop } else { Next::Continue })
    }
}

fn told(step: &Step) -> String {
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
            for reason in &reply.again {
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

fn apply<'a>(rules: &'a RuleSet, name: &Name) -> Option<(&'a Rule, crate::rules::Match)> {
    let wire = wire_name(name);
    let rule = &rules.rules()[rules.find(&wire)?];
    Some((rule, rule.apply(&wire)?))
}

/// The rule that a name fails latest, seen from the root, and at which label.
fn nearest(rules: &[Rule], name: &Name) -> Option<String> {
    let labels: Vec<String> = name
        .iter()
        .map(|label| String::from_utf8_lossy(label).to_ascii_lowercase())
        .collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    rules
        .iter()
        .filter(|rule| !rule.is_regex())
        .filter_map(|rule| Some((rule, miss(rule.pattern(), &labels)?)))
        .max_by_key(|(_, miss)| miss.matched)
        // A shared `local` or `com` tells nothing.
        .filter(|(_, miss)| miss.matched >= 2)
        .map(|(rule, miss)| format!("rule `{}` ({}): {}", rule.name(), rule.pattern(), miss.why))
}

/// Where a name stops following a pattern.
#[derive(Debug, PartialEq, Eq)]
struct Miss {
    /// Labels from the root that do follow it.
    matched: usize,
    why: String,
}

/// Compares label by label from the root; `None` when the name matches after all.
fn miss(pattern: &str, labels: &[&str]) -> Option<Miss> {
    let pattern: Vec<&str> = pattern.trim_end_matches('.').split('.').collect();
    let (any, fixed) = match pattern.split_first() {
        Some((&"*", rest)) => (true, rest),
        _ => (false, &pattern[..]),
    };
    for (matched, (expected, found)) in fixed.iter().rev().zip(labels.iter().rev()).enumerate() {
        if let Some(capture) = expected
            .strip_prefix('{')
            .and_then(|text| text.strip_suffix('}'))
        {
            if !is_rfc1123(found) {
                return Some(Miss {
                    matched,
                    why: format!("`{found}` cannot be {{{capture}}}: no RFC 1123 label"),
                });
            }
        } else if !expected.eq_ignore_ascii_case(found) {
            return Some(Miss {
                matched,
                why: format!("`{found}` stands where it says `{expected}`"),
            });
        }
    }
    let matched = fixed.len().min(labels.len());
    if labels.len() < fixed.len() {
        let missing = &fixed[fixed.len() - labels.len() - 1];
        return Some(Miss {
            matched,
            why: format!("the name ends where it says `{missing}`"),
        });
    }
    let more = labels.len() - fixed.len();
    match (any, more) {
        (true, 0) => Some(Miss {
            matched,
            why: "`*` is one or more labels, and there is none".to_owned(),
        }),
        (false, 1..) => Some(Miss {
            matched,
            why: format!("`{}` is one label too many", labels[more - 1]),
        }),
        _ => None,
    }
}

fn is_rfc1123(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(name: &str, search: &[String], ndots: usize) -> Vec<String> {
        candidates(name, search, ndots)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn the_search_list_comes_first_below_ndots() {
        let search = search_list("foo", "cluster.local.");
        assert_eq!(
            names("lkc-1.kafka.managed", &search, 7),
            [
                "lkc-1.kafka.managed.foo.svc.cluster.local.",
                "lkc-1.kafka.managed.svc.cluster.local.",
                "lkc-1.kafka.managed.cluster.local.",
                "lkc-1.kafka.managed.",
            ]
        );
        // As many dots as ndots: as it is first.
        assert_eq!(names("a.b.c", &search, 2)[0], "a.b.c.");
        assert_eq!(names("a.b.c", &search, 2).len(), 4);
        assert_eq!(
            names("a.b.c", &search, 3)[0],
            "a.b.c.foo.svc.cluster.local."
        );
        assert_eq!(names("a.b.c.", &search, 7), ["a.b.c."]);
        assert_eq!(names("a.b.c", &[], 7), ["a.b.c."]);
    }

    #[test]
    fn a_name_that_is_none_is_refused_and_a_suffix_too_long_is_skipped() {
        let error = candidates(&"a".repeat(64), &[], 7).unwrap_err();
        assert!(error.to_string().contains("is no domain name"), "{error}");
        let long = vec!["x".repeat(60); 4].join(".");
        assert_eq!(
            names(&long, &search_list("foo", "cluster.local"), 7).len(),
            1
        );
    }

    #[test]
    fn the_failing_label_is_named() {
        let pattern = "*.kafka.{namespace}.svc.cluster.local";
        for (name, matched, why) in [
            (
                "a.kafka.foo.svc.cluster.com",
                0,
                "`com` stands where it says `local`",
            ),
            (
                "a.kafka.foo.pod.cluster.local",
                2,
                "`pod` stands where it says `svc`",
            ),
            (
                "a.kafka.fo_o.svc.cluster.local",
                3,
                "`fo_o` cannot be {namespace}: no RFC 1123 label",
            ),
            (
                "a.kafka.foo.bar.svc.cluster.local",
                4,
                "`foo` stands where it says `kafka`",
            ),
            (
                "kafka.foo.svc.cluster.local",
                5,
                "`*` is one or more labels, and there is none",
            ),
            (
                "svc.cluster.local",
                3,
                "the name ends where it says `{namespace}`",
            ),
        ] {
            let labels: Vec<&str> = name.split('.').collect();
            assert_eq!(
                miss(pattern, &labels),
                Some(Miss {
                    matched,
                    why: why.to_owned()
                }),
                "{name}"
            );
        }
        let labels = ["b", "a", "kafka", "foo", "svc", "cluster", "local"];
        assert_eq!(miss(pattern, &labels), None);
        assert_eq!(
            miss("kafka.example.com", &["a", "kafka", "example", "com"]),
            Some(Miss {
                matched: 3,
                why: "`a` is one label too many".to_owned()
            })
        );
        assert_eq!(
            miss("kafka.example.com", &["kafka", "example", "com"]),
            None
        );
    }

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
