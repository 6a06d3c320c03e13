//! Random rules, names that nearly match them, and two other engines that decide which rule matches: for tests only.

use regex::bytes::Regex;

use super::{ClientsSpec, DEFAULT_TTL, MatchSpec, Mode, RuleSpec};

/// A small generator (SplitMix64), so that a failure is named by its seed alone and is the same everywhere.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.word() % bound as u64) as usize
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }
}

/// A set of rules as a large cluster may have it: tenant wildcards, exact overrides, captures in front, plain domains.
pub fn realistic_rules(count: usize) -> Vec<RuleSpec> {
    (0..count)
        .map(|n| {
            let (pattern, cname) = match n % 4 {
                0 => (
                    format!("*.svc{n}.managed.{{namespace}}.svc.cluster.local"),
                    format!("svc{n}-upstream.{{namespace}}.svc.cluster.local"),
                ),
                1 => (
                    format!("broker-{n}.team{}.svc.cluster.local", n % 97),
                    format!("vpce-{n}.eu-west-1.vpce.amazonaws.com"),
                ),
                2 => (
                    format!("{{namespace}}.{{zone}}.kafka{n}.internal.example"),
                    format!("{{zone}}.up{n}.{{namespace}}.example"),
                ),
                _ => (
                    format!("*.tenant{n}.saas-{}.example.com", n % 13),
                    format!("endpoint{n}.private.example.net"),
                ),
            };
            RuleSpec {
                name: format!("rule{n}"),
                matches: MatchSpec::Pattern(pattern),
                cname,
                ttl_seconds: DEFAULT_TTL,
                follow: true,
                ..RuleSpec::default()
            }
        })
        .collect()
}

/// Random rules that compile together: patterns over few labels, so that they meet, and here and there a `regex`.
pub fn random_rules(random: &mut Rng, most: usize) -> Vec<RuleSpec> {
    const LABELS: [&str; 10] = [
        "a", "b", "ab", "svc", "cluster", "local", "_tcp", "x-1", "foo", "9",
    ];
    const REGEXES: [&str; 12] = [
        r"^[^.]+\.(.+)\.svc\.",
        r"a+\.b",
        r"^(?:a|b|ab)\.(?:svc|local)\.$",
        r"svc\.cluster\.local\.$",
        r".+\.foo\.(.+)\.svc\.cluster\.local",
        r"^x-[0-9]+\..*\.local\.",
        r"(?i)SVC\.[a-z]*\.$",
        r"[^a-m.]{2,4}\.$",
        r"^.{1,9}$",
        r"^\.|b\.\.|^foo\.$",
        r"\.(_tcp|[a-f]+)\.(?:.*\.)?local",
        r"local\.?$|^(9|ab)",
    ];
    let count = 1 + random.below(most);
    let mut seen: Vec<String> = Vec::new();
    let mut specs = Vec::new();
    while specs.len() < count {
        let index = specs.len();
        let mut cname = format!("t{index}");
        let (text, matches) = if random.once_in(6) {
            let regex = random.pick(&REGEXES);
            for group in 1..Regex::new(regex).map_or(1, |regex| regex.captures_len()) {
                cname.push_str(&format!(".g{{{group}}}"));
            }
            (regex.to_owned(), MatchSpec::Regex(regex.to_owned()))
        } else {
            let mut labels: Vec<String> = Vec::new();
            if random.once_in(2) {
                labels.push("*".to_owned());
            }
            let mut captures = vec!["namespace", "c"];
            for _ in 0..1 + random.below(4) {
                if random.once_in(4)
                    && let Some(capture) = captures.pop()
                {
                    labels.push(format!("{{{capture}}}"));
                    cname.push_str(&format!(".{{{capture}}}"));
                } else {
                    labels.push(random.pick(&LABELS).to_owned());
                }
            }
            if random.once_in(2) {
                labels.extend(["svc", "cluster", "local"].map(str::to_owned));
            }
            let text = labels.join(".");
            (anonymous(&text), MatchSpec::Pattern(text))
        };
        if seen.contains(&text) {
            if random.once_in(4) {
                break;
            }
            continue;
        }
        seen.push(text);
        let has_namespace =
            matches!(&matches, MatchSpec::Pattern(text) if text.contains("{namespace}"));
        let namespaces = (has_namespace && random.once_in(2)).then(|| {
            const GLOBS: [&str; 8] = ["a", "foo", "f*", "*-1", "x-*", "*o*", "lkc-*b", "sv*c"];
            (0..1 + random.below(3))
                .map(|_| random.pick(&GLOBS).to_owned())
                .collect()
        });
        let mode = if random.once_in(4) {
            Mode::Observe
        } else {
            Mode::Answer
        };
        // A target that no such pattern matches: its last label is neither among them nor one to capture.
        cname.push_str(".Target_zone");
        specs.push(RuleSpec {
            name: format!("r{index}"),
            matches,
            cname,
            ttl_seconds: DEFAULT_TTL,
            follow: true,
            namespaces,
            namespace_labels: None,
            clients: ClientsSpec::Any,
            mode,
        });
    }
    specs
}

fn anonymous(pattern: &str) -> String {
    pattern.replace("{namespace}", "{}").replace("{c}", "{}")
}

/// A name that some rule matches, or one that differs from it in one or two respects; in wire format.
pub fn random_name(random: &mut Rng, specs: &[RuleSpec]) -> Vec<u8> {
    let mut labels = seed_labels(random, specs);
    let mutations = [0, 0, 1, 1, 1, 2][random.below(6)];
    for _ in 0..mutations {
        mutate(random, &mut labels);
    }
    for byte in labels.iter_mut().flatten() {
        if byte.is_ascii_alphabetic() && random.once_in(4) {
            *byte ^= 0x20;
        }
    }
    to_wire(&labels)
}

fn seed_labels(random: &mut Rng, specs: &[RuleSpec]) -> Vec<Vec<u8>> {
    const ANY: [&[u8]; 8] = [
        b"a",
        b"foo",
        b"x-1",
        b"_tcp",
        b"svc",
        b"local",
        b"\x00",
        b"lkc-1a2b",
    ];
    let text = match &specs[random.below(specs.len())].matches {
        MatchSpec::Pattern(text) => text.clone(),
        MatchSpec::Regex(_) => [
            "a.b.svc.cluster.local",
            "a.svc",
            "ab.local",
            "q.foo.ns.svc.cluster.local",
            "x-1.a.b.local.a",
            "foo",
            "xyz.cluster.svc.svcs",
            "a._tcp.local",
            "9.ab.foo.svc.x",
        ][random.below(9)]
        .to_owned(),
    };
    let mut labels = Vec::new();
    for label in text.split('.') {
        if label == "*" {
            for _ in 0..1 + random.below(3) {
                labels.push(random.pick(&ANY).to_vec());
            }
        } else if label.starts_with('{') {
            labels.push(random.pick(&ANY).to_vec());
        } else {
            labels.push(label.as_bytes().to_vec());
        }
    }
    labels
}

fn mutate(random: &mut Rng, labels: &mut Vec<Vec<u8>>) {
    if labels.is_empty() {
        labels.push(b"a".to_vec());
    }
    let at = random.below(labels.len());
    match random.below(14) {
        0 => {
            labels.remove(at);
        }
        1 => labels.insert(at, labels[at].clone()),
        2 => labels.push(b"com".to_vec()),
        3 => labels.insert(0, b"more".to_vec()),
        4 | 5 => {
            // A byte that the walk must not take for a boundary, or one outside of host names.
            let byte =
                [b'.', 0xff, b'-', b'_', 0, b'@', 0x80, b' ', b'\\', 1, 63][random.below(11)];
            let inside = random.below(labels[at].len() + 1);
            labels[at].insert(inside, byte);
        }
        6 => labels[at] = vec![b'a' + random.below(26) as u8; 63],
        7 => {
            // Up to 255 bytes, by one-byte labels: up to 127 of them.
            while wire_len(labels) + 2 <= 255 {
                labels.insert(0, b"n".to_vec());
            }
        }
        8 => {
            while wire_len(labels) + 64 <= 255 {
                labels.insert(0, vec![b'z'; 63]);
            }
            let left = 255usize.saturating_sub(wire_len(labels));
            if left >= 2 {
                labels.insert(0, vec![b'y'; left - 1]);
            }
        }
        9 => {
            let last = labels[at].len() - 1;
            labels[at][last] = random.word() as u8;
        }
        10 => {
            // Two labels become one with a dot or a separator in it.
            if at + 1 < labels.len() {
                let next = labels.remove(at + 1);
                labels[at].push([b'.', 0xff][random.below(2)]);
                labels[at].extend(next);
            }
        }
        11 => {
            let keep = 1 + random.below(labels[at].len());
            labels[at].truncate(keep);
        }
        12 => labels.swap(0, at),
        _ => labels.truncate(at + 1),
    }
    for label in labels.iter_mut() {
        label.truncate(63);
    }
    while wire_len(labels) > 255 {
        labels.remove(0);
    }
}

fn wire_len(labels: &[Vec<u8>]) -> usize {
    labels.iter().map(|label| label.len() + 1).sum::<usize>() + 1
}

fn to_wire(labels: &[Vec<u8>]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(wire_len(labels));
    for label in labels {
        wire.push(label.len() as u8);
        wire.extend(label);
    }
    wire.push(0);
    wire
}

/// The two other engines, for one set of rules: regular expressions on the presentation form, and labels compared one
/// by one. They share no code with the table nor with each other.
#[derive(Debug)]
pub struct Oracle {
    rules: Vec<OracleRule>,
}

#[derive(Debug)]
struct OracleRule {
    /// `None` for a `regex` rule, which has no labels.
    labels: Option<Vec<String>>,
    regex: Regex,
    /// Whether only names without escapes are matched.
    unescaped_only: bool,
    /// Globs, one of which the label in the place of `{namespace}` must match.
    namespaces: Option<Vec<String>>,
    observes: bool,
}

impl Oracle {
    /// # Panics
    /// On rules that do not compile: the oracle is for sets that do.
    pub fn new(specs: &[RuleSpec]) -> Self {
        let rules = specs
            .iter()
            .map(|spec| match &spec.matches {
                MatchSpec::Regex(text) => OracleRule {
                    labels: None,
                    regex: bytes_regex(text),
                    unescaped_only: true,
                    namespaces: None,
                    observes: spec.mode == Mode::Observe,
                },
                MatchSpec::Pattern(text) => {
                    let text = text.to_ascii_lowercase();
                    let labels: Vec<String> = text.split('.').map(str::to_owned).collect();
                    OracleRule {
                        regex: bytes_regex(&as_regex(&labels)),
                        labels: Some(labels),
                        unescaped_only: false,
                        namespaces: spec.namespaces.clone(),
                        observes: spec.mode == Mode::Observe,
                    }
                }
            })
            .collect();
        Self { rules }
    }

    /// The rules whose regular expression matches the presentation form.
    pub fn by_regex(&self, wire: &[u8]) -> Expected {
        self.first(wire, |rule, labels| {
            let (name, escaped) = escape(labels);
            if rule.unescaped_only && escaped {
                return false;
            }
            match (rule.regex.captures(&name), &rule.namespaces) {
                (None, _) => false,
                (Some(_), None) => true,
                (Some(captures), Some(globs)) => captures
                    .name("namespace")
                    .is_some_and(|label| globs.iter().any(|glob| fits(glob, label.as_bytes()))),
            }
        })
    }

    /// The rules whose labels match; a `regex` rule is asked as in [`Self::by_regex`].
    pub fn by_labels(&self, wire: &[u8]) -> Expected {
        self.first(wire, |rule, labels| match &rule.labels {
            Some(pattern) => labels_match(pattern, rule.namespaces.as_deref(), labels),
            None => {
                let (name, escaped) = escape(labels);
                !escaped && rule.regex.is_match(&name)
            }
        })
    }

    fn first(&self, wire: &[u8], matches: impl Fn(&OracleRule, &[&[u8]]) -> bool) -> Expected {
        let mut expected = Expected::default();
        let Some(labels) = split(wire).filter(|labels| !labels.is_empty()) else {
            return expected;
        };
        for (index, rule) in self.rules.iter().enumerate() {
            if !matches(rule, &labels) {
                continue;
            }
            if !rule.observes {
                expected.answering = Some(index);
                break;
            }
            expected.observing.push(index);
        }
        expected
    }
}

/// What the rules have to say about a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// The first rule that answers it.
    pub answering: Option<usize>,
    /// Those in front of that one which observe it.
    pub observing: Vec<usize>,
}

/// Whether a label is one that a glob stands for, by trying every length of each star.
fn fits(glob: &str, label: &[u8]) -> bool {
    match (glob.as_bytes(), label) {
        ([], []) => true,
        ([b'*', ..], _) => (0..=label.len()).any(|skipped| fits(&glob[1..], &label[skipped..])),
        ([a, ..], [b, rest @ ..]) => a.eq_ignore_ascii_case(b) && fits(&glob[1..], rest),
        _ => false,
    }
}

fn bytes_regex(text: &str) -> Regex {
    match regex::bytes::RegexBuilder::new(text).unicode(false).build() {
        Ok(regex) => regex,
        Err(error) => panic!("{text}: {error}"),
    }
}

/// A pattern as an expression on the escaped presentation form.
fn as_regex(labels: &[String]) -> String {
    let mut text = String::from("^");
    for label in labels {
        text.push_str(&if label == "*" {
            // Any label in which no byte is `\.` or `\255`.
            r"(?:(?:[^.\\]|\\[^0-9.]|\\(?:[01][0-9][0-9]|2[0-4][0-9]|25[0-4]))+\.)*(?:[^.\\]|\\[^0-9.]|\\(?:[01][0-9][0-9]|2[0-4][0-9]|25[0-4]))+".to_owned()
        } else if label.starts_with('{') {
            let host = "[a-z0-9](?:[a-z0-9-]*[a-z0-9])?";
            if label == "{namespace}" {
                format!("(?P<namespace>{host})")
            } else {
                host.to_owned()
            }
        } else {
            regex::escape(label)
        });
        text.push_str(r"\.");
    }
    text.push('$');
    text
}

fn labels_match(pattern: &[String], namespaces: Option<&[String]>, labels: &[&[u8]]) -> bool {
    let mut labels = labels.iter().rev();
    for expected in pattern.iter().rev() {
        if expected == "*" {
            // The rest, at least one.
            return labels.len() > 0
                && labels.all(|label| !label.iter().any(|&b| b == b'.' || b == 0xff));
        }
        let Some(label) = labels.next() else {
            return false;
        };
        let fits = if expected.starts_with('{') {
            let host = |b: &u8| b.is_ascii_alphanumeric() || *b == b'-';
            let is_allowed = || match namespaces {
                Some(globs) if expected == "{namespace}" => {
                    globs.iter().any(|glob| fits(glob, label))
                }
                _ => true,
            };
            label.iter().all(host)
                && label[0] != b'-'
                && label[label.len() - 1] != b'-'
                && is_allowed()
        } else {
            label.to_ascii_lowercase() == expected.as_bytes()
        };
        if !fits {
            return false;
        }
    }
    labels.len() == 0
}

fn split(wire: &[u8]) -> Option<Vec<&[u8]>> {
    let mut labels = Vec::new();
    let mut at = 0;
    while *wire.get(at)? != 0 {
        let length = usize::from(wire[at]);
        labels.push(wire.get(at + 1..at + 1 + length)?);
        at += 1 + length;
    }
    Some(labels)
}

/// The lower-cased presentation form, and whether anything in it is escaped.
fn escape(labels: &[&[u8]]) -> (Vec<u8>, bool) {
    let mut name = Vec::new();
    let mut escaped = false;
    for label in labels {
        for &byte in *label {
            match byte {
                b'.' | b' ' | b'\'' | b'@' | b';' | b'(' | b')' | b'"' | b'\\' => {
                    escaped = true;
                    name.extend([b'\\', byte]);
                }
                0x21..=0x7e => name.push(byte.to_ascii_lowercase()),
                _ => {
                    escaped = true;
                    name.extend(format!("\\{byte:03}").bytes());
                }
            }
        }
        name.push(b'.');
    }
    (name, escaped)
}
