//! Configuration files: each is refused with complaints that can be found in it, or its rules compile and match as they
//! read.

use std::{collections::HashSet, net::IpAddr, path::Path, time::Duration};

use dns_common::abi::MAX_SERVERS;
use gregor::{
    config::{self, Config},
    rules::{
        MAX_TTL, MatchSpec, Mode, RuleSet, RuleSpec,
        testing::{Oracle, Rng, random_name},
    },
};

pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    match config::compile(Path::new("fuzz.toml"), text) {
        Ok((config, rules, warnings)) => {
            judge_values(&config);
            assert_eq!(config.rules.len(), rules.rules().len());
            for warning in &warnings {
                judge(text, warning);
            }
            judge_rules(&config.rules, &rules, data.len() as u64);
        }
        Err(errors) => {
            assert!(!errors.0.is_empty(), "refused without a word");
            for error in &errors.0 {
                judge(text, error);
            }
        }
    }
}

/// The properties that the rest of the program relies on.
fn judge_values(config: &Config) {
    let servers = &config.intercept.servers;
    let (v4, v6) = servers
        .iter()
        .partition::<Vec<IpAddr>, _>(|server| server.is_ipv4());
    let least = usize::from(!config.intercept.learns_servers);
    assert!((least..=MAX_SERVERS * 2).contains(&servers.len()));
    assert!(v4.len() <= MAX_SERVERS && v6.len() <= MAX_SERVERS);
    assert_eq!(servers.iter().collect::<HashSet<_>>().len(), servers.len());
    let seconds = config.answer.max_ttl.as_secs();
    assert!((1..=u64::from(MAX_TTL)).contains(&seconds));
    assert_eq!(config.answer.max_ttl, Duration::from_secs(seconds));
    assert!(config.answer.serve_stale <= Duration::from_secs(7 * 86_400));
    let timeout = config.upstream.timeout;
    assert!((Duration::from_millis(10)..=Duration::from_secs(30)).contains(&timeout));
    assert!(config.limits.burst >= 1);
    assert!(config.limits.answers >= 1);
}

/// A complaint is one line that says where, what and what to do.
fn judge(text: &str, complaint: &config::Diagnostic) {
    // An empty file has a first line, and what is missing is missed behind the last one.
    let lines = text.split('\n').count();
    assert!((1..=lines).contains(&complaint.line), "{complaint}");
    assert!(complaint.column >= 1, "{complaint}");
    assert!(!complaint.key.is_empty(), "{complaint}");
    assert!(!complaint.problem.is_empty() && !complaint.remedy.is_empty());
    assert!(!complaint.to_string().contains('\n'), "{complaint}");
}

/// The table and a comparison label by label agree on names that nearly match, and on one that does.
fn judge_rules(specs: &[RuleSpec], rules: &RuleSet, seed: u64) {
    if specs.is_empty() || specs.len() > 8 {
        return;
    }
    let mut specs = specs.to_vec();
    for (index, spec) in specs.iter_mut().enumerate() {
        let MatchSpec::Pattern(pattern) = &mut spec.matches else {
            return;
        };
        // The oracle takes names without the final dot.
        if pattern.ends_with('.') {
            pattern.pop();
        }
        // Of the others the oracle knows more.
        if spec.namespaces.is_some() || spec.mode == Mode::Observe {
            continue;
        }
        let found = rules.find(&example(pattern), None);
        assert!(found.is_some_and(|found| found <= index), "{pattern}");
    }
    let oracle = Oracle::new(&specs);
    let mut random = Rng::new(seed);
    for _ in 0..8 {
        let name = random_name(&mut random, &specs);
        // A pattern of nearly 255 bytes is too long with more than one label for its `*`.
        if name.len() > 255 {
            continue;
        }
        assert_eq!(
            rules.find(&name, None),
            oracle.by_labels(&name).answering,
            "{}",
            name.escape_ascii()
        );
    }
}

/// A name in wire format that the pattern must match: `*` and each capture are one label of one letter.
fn example(pattern: &str) -> Vec<u8> {
    let mut wire = Vec::new();
    for label in pattern.split('.') {
        let label = match label {
            "*" => "a",
            capture if capture.starts_with('{') => "b",
            literal => literal,
        };
        wire.push(label.len() as u8);
        wire.extend_from_slice(label.as_bytes());
    }
    wire.push(0);
    wire
}
