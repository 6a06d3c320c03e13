//! Random Corefiles whose parts meet one another, and names that nearly match them.

use rand::{Rng, RngExt as _};

const ZONES: [&str; 7] = [
    ".",
    "example",
    "bus.example",
    "a.bus.example",
    "svc.cluster.local",
    "cluster.local",
    "test",
];
const LABELS: [&str; 12] = [
    "a", "b", "ab", "bus", "example", "svc", "cluster", "local", "lkc-1", "foo", "x-y", "9",
];
/// Expressions, and how many groups each has.
const MATCHES: [(&str, usize); 29] = [
    (r"(.*)", 1),
    (r"(.+)bus", 1),
    (r"(.*?)\.(.*)", 2),
    (r"^.+\.bus\.example\.$", 0),
    (r"^.+[.]bus[.]example[.]?$", 0),
    (r"\.bus\.example\.$", 0),
    (r"(^|\.)bus\.example\.$", 1),
    (r"bus\.example", 0),
    (r"^(.*)\.bus\.example\.$", 1),
    (r"^([a-z0-9-]+)\.bus\.example\.$", 1),
    (r"^(?P<a>[^.]+)\.(?P<b>[^.]+)\.example\.$", 2),
    (r"^a\.bus\.example\.$", 0),
    (r"^a\..*example\.$", 0),
    (r"^.+\.svc\.cluster\.local\.$", 0),
    (r"^.+\.bus\.([^.]+)\.svc\.cluster\.local\.$", 1),
    (r".+\.bus\.(.+)\.svc\.cluster\.local", 1),
    (r"^bus\.(.+)\.svc\.cluster\.local\.$", 1),
    (r"bus\.(.+)\.svc", 1),
    (r"\.bus\.([a-z0-9-]+)\.svc\.cluster\.local\.$", 1),
    (r"^(lkc|pkc)-([a-z0-9]+)\.(.*)\.$", 3),
    (r"^(?P<p>[a-z]+)\.(?P<rest>.*)\.$", 2),
    (r"^(?:a|b|ab)\.(.*)$", 1),
    (r"^(.+?)\.(.+)\.example\.$", 2),
    (r"^(?i)A\.BUS\.example\.$", 0),
    (r"^[^.]+\.[^.]+\.$", 0),
    (r"^(a(b)?)\.(.+)\.example\.$", 3),
    (r"a|b", 0),
    (r".*", 0),
    (r"^B\.example\.$", 0),
];

fn pick<T: Copy>(random: &mut impl Rng, from: &[T]) -> T {
    from[random.random_range(0..from.len())]
}

fn once_in(random: &mut impl Rng, times: u32) -> bool {
    random.random_range(0..times) == 0
}

/// Labels in front of a zone, or any labels at all.
pub fn name(random: &mut impl Rng) -> String {
    let zone = pick(random, &ZONES);
    let count = random.random_range(0..=4);
    let mut labels: Vec<&str> = (0..count).map(|_| pick(random, &LABELS)).collect();
    if zone != "." {
        labels.push(zone);
    }
    if labels.is_empty() {
        labels.push("foo");
    }
    format!("{}.", labels.join("."))
}

/// A Corefile, in which each block forwards to FORWARD, on PORT.
pub fn corefile(random: &mut impl Rng) -> String {
    let mut text = String::new();
    let snippet = once_in(random, 3);
    if snippet {
        text += "(common) {\n";
        for _ in 0..random.random_range(0..3) {
            text += &directive(random, "    ");
        }
        text += "    errors\n}\n";
    }
    let mut zones: Vec<&str> = ZONES.to_vec();
    for _ in 0..random.random_range(1..=3) {
        let mut keys = Vec::new();
        for _ in 0..random.random_range(1..=2) {
            let zone = zones.swap_remove(random.random_range(0..zones.len()));
            keys.push(match random.random_range(0..3) {
                0 => zone.to_owned(),
                1 => format!("{zone}:53"),
                _ => format!("dns://{zone}:53"),
            });
        }
        text += &format!("{} {{\n", keys.join(pick(random, &[" ", ", ", ",\n"])));
        if snippet && once_in(random, 2) {
            text += "    import common # shared\n";
        }
        for _ in 0..random.random_range(1..=4) {
            text += &directive(random, "    ");
        }
        text += "    forward . 10.0.0.2\n}\n";
    }
    text
}

fn directive(random: &mut impl Rng, indent: &str) -> String {
    if once_in(random, 3) {
        rewrite(random, indent)
    } else {
        template(random, indent)
    }
}

fn rewrite(random: &mut impl Rng, indent: &str) -> String {
    let (from, to) = (name(random), name(random));
    let mode = pick(random, &["", "stop ", "continue "]);
    match random.random_range(0..8) {
        0 => format!("{indent}rewrite {mode}name suffix .b.example. .a.test.\n"),
        1 => format!(
            "{indent}rewrite {mode}name regex ^b\\.(.*)\\.test\\.$ {{1}}.example. answer auto\n"
        ),
        2 => format!("{indent}rewrite {mode}{{\n{indent}    name exact {from} {to}\n{indent}}}\n"),
        3 => format!("{indent}rewrite {mode}name {from} {to}\n"),
        _ => format!("{indent}rewrite {mode}name exact {from} {to}\n"),
    }
}

fn template(random: &mut impl Rng, indent: &str) -> String {
    let class = pick(random, &["IN", "IN", "IN", "ANY"]);
    let qtype = pick(random, &["ANY", "ANY", "ANY", "ANY", "ANY", "TXT"]);
    let mut text = format!("{indent}template {class} {qtype}");
    for _ in 0..pick(random, &[0, 1, 1, 1, 2]) {
        text += &format!(" {}", pick(random, &ZONES));
    }
    text += " {\n";
    let mut groups = 0;
    if !once_in(random, 6) {
        let (expression, own) = pick(random, &MATCHES);
        groups = own;
        text += &format!("{indent}    match \"{expression}\"\n");
    }
    let ttl = pick(random, &["60", "1m", ""]);
    let mut target = pick(
        random,
        &[
            "t.target",
            "up.target.",
            "in.{{ .Zone }}",
            "{{ .Zone }}target.",
            "{{ index .Match 0 }}target.",
        ],
    )
    .to_owned();
    for group in 1..=groups {
        if once_in(random, 2) {
            target = format!("{{{{ index .Match {group} }}}}.{target}");
        }
    }
    match random.random_range(0..8) {
        0 => text += &format!("{indent}    rcode NXDOMAIN\n"),
        1 => text += &format!("{indent}    answer \"{{{{ .Name }}}} 60 IN A 192.0.2.1\"\n"),
        _ => text += &format!("{indent}    answer \"{{{{ .Name }}}} {ttl} IN CNAME {target}\"\n"),
    }
    if !once_in(random, 4) {
        text += &format!(
            "{indent}    fallthrough{}\n",
            pick(random, &["", "", "", " example", " test bus.example"])
        );
    }
    text + indent + "}\n"
}
