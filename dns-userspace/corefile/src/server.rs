//! The keys of server blocks: zones, transport, port; and which words are names at all.

use crate::language::Zone;
use crate::parser::Block;

/// What pods ask in.
pub const DNS_PORT: u16 = 53;
const TRANSPORTS: [&str; 8] = [
    "dns", "tls", "quic", "grpc", "https3", "https", "unix", "doh",
];

/// Where a key listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    Number(u16),
    /// A variable or a placeholder.
    Unknown,
}

/// A key of a server block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub text: String,
    pub transport: &'static str,
    pub port: Port,
    /// Its zones, of which a prefix of addresses may be several; or why they are not known.
    pub zones: Result<Vec<Zone>, String>,
}

impl Key {
    /// Whether it answers plain DNS, over UDP and TCP.
    pub fn is_plain(&self) -> bool {
        self.transport == "dns"
    }
}

/// The keys of a block.
pub fn keys(block: &Block) -> Vec<Key> {
    block.keys.iter().map(|text| key(text)).collect()
}

fn key(text: &str) -> Key {
    let (transport, rest) = TRANSPORTS
        .into_iter()
        .find_map(|transport| {
            let rest = text.strip_prefix(transport)?.strip_prefix("://")?;
            Some((transport, rest))
        })
        .unwrap_or(("dns", text));
    let (zone, port) = match rest.rsplit_once(':') {
        Some((zone, port)) if port.parse::<u16>().is_ok() => {
            (zone, Port::Number(port.parse().unwrap_or(DNS_PORT)))
        }
        Some((zone, port)) if is_variable(port) => (zone, Port::Unknown),
        _ => (rest, Port::Number(DNS_PORT)),
    };
    Key {
        text: text.to_owned(),
        transport,
        port,
        zones: zones(zone),
    }
}

fn is_variable(text: &str) -> bool {
    text.contains(['{', '$', '%', '<']) || placeholder(text).is_some()
}

/// The zones that a word names: one, or those of a prefix of addresses.
pub fn zones(text: &str) -> Result<Vec<Zone>, String> {
    if let Some((address, length)) = text.split_once('/')
        && let (Ok(address), Ok(length)) = (address.parse(), length.parse())
        && let Some(zones) = reverse(address, length)
    {
        return Ok(zones);
    }
    Ok(vec![zone(text)?])
}

/// The zones of an argument of a plugin, which may have a port behind it that does not count.
pub fn argument_zones(text: &str) -> Result<Vec<Zone>, String> {
    match text.rsplit_once(':') {
        Some((zone, port)) if port.parse::<u16>().is_ok() => zones(zone),
        _ => zones(text),
    }
}

/// A zone or another name as it is written in a Corefile; or why it is not one that a rule can have.
pub fn zone(text: &str) -> Result<Zone, String> {
    if let Some(reason) = placeholder(text) {
        return Err(reason);
    }
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.is_empty() {
        return Ok(Zone(name));
    }
    if name.split('.').any(|label| label == "*") {
        return Err(format!(
            "`*` in `{text}` is a literal star to CoreDNS, not a wildcard: it is only for queries with a star in them"
        ));
    }
    let plain = name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        });
    if plain {
        Ok(Zone(name))
    } else {
        Err(format!("`{text}` is not a plain name"))
    }
}

/// Why a text is to be replaced before it means anything.
pub fn placeholder(text: &str) -> Option<String> {
    let shouted = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .any(|word| {
            word.contains('_')
                && word.starts_with(|c: char| c.is_ascii_uppercase())
                && !word.contains(|c: char| c.is_ascii_lowercase())
        });
    let bracketed = text.starts_with('<') && text.ends_with('>');
    if shouted || bracketed {
        return Some(to_be_replaced(text));
    }
    variable(text)
}

/// The same for a text that may hold words in capitals of its own, as an expression or a template does.
pub fn variable(text: &str) -> Option<String> {
    let opened = [
        "{$",
        "{%",
        "${",
        "$(",
        "{{ .Values",
        "{{.Values",
        "@@",
        "<%",
    ]
    .into_iter()
    .any(|start| text.contains(start));
    let enclosed = text
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .any(|word| word.len() > 4 && word.starts_with("__") && word.ends_with("__"));
    (opened || enclosed).then(|| to_be_replaced(text))
}

fn to_be_replaced(text: &str) -> String {
    format!("`{text}` holds a variable or a placeholder: put its value in and import again")
}

/// The zones of a prefix of addresses, in the way of RFC 1035 §3.5 and RFC 3596 §2.5.
fn reverse(address: std::net::IpAddr, length: u32) -> Option<Vec<Zone>> {
    let (digits, bits, suffix): (Vec<u32>, u32, &str) = match address {
        std::net::IpAddr::V4(address) => {
            let octets = address.octets();
            (octets.map(u32::from).to_vec(), 8, "in-addr.arpa")
        }
        std::net::IpAddr::V6(address) => {
            let octets = address.octets();
            let nibbles = octets
                .iter()
                .flat_map(|b| [u32::from(b >> 4), u32::from(b & 15)]);
            (nibbles.collect(), 4, "ip6.arpa")
        }
    };
    if length as usize > digits.len() * bits as usize {
        return None;
    }
    let whole = (length / bits) as usize;
    let rest = length % bits;
    let spell = |digit: u32| {
        if bits == 8 {
            digit.to_string()
        } else {
            format!("{digit:x}")
        }
    };
    let name = |last: Option<u32>| {
        let labels = last
            .into_iter()
            .chain(digits[..whole].iter().rev().copied());
        let mut text: String = labels.map(|digit| spell(digit) + ".").collect();
        text.push_str(suffix);
        Zone(text)
    };
    if rest == 0 {
        return Some(vec![name(None)]);
    }
    let count = 1 << (bits - rest);
    let first = digits[whole] / count * count;
    Some(
        (first..first + count)
            .map(|digit| name(Some(digit)))
            .collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_all_kinds() {
        let read = |text: &str| {
            let key = key(text);
            let zones = key.zones.map(|zones| {
                zones
                    .iter()
                    .map(Zone::to_string)
                    .collect::<Vec<_>>()
                    .join(" ")
            });
            (key.transport, key.port, zones)
        };
        let number = Port::Number;
        let zones = |text: &str| Ok(text.to_owned());
        assert_eq!(read(".:53"), ("dns", number(53), zones(".")));
        assert_eq!(read(":1053"), ("dns", number(1053), zones(".")));
        assert_eq!(
            read("tls://A.example.:853"),
            ("tls", number(853), zones("a.example"))
        );
        assert_eq!(read("https://."), ("https", number(53), zones(".")));
        assert_eq!(
            read("a.example:{$PORT}"),
            ("dns", Port::Unknown, zones("a.example"))
        );
        assert_eq!(
            read("10.0.0.0/8"),
            ("dns", number(53), zones("10.in-addr.arpa"))
        );
        assert_eq!(
            read("10.2.0.0/15:53").2,
            zones("2.10.in-addr.arpa 3.10.in-addr.arpa")
        );
        assert_eq!(read("fd00::/12").2, zones("0.d.f.ip6.arpa"));
        for odd in [
            "__PILLAR__DNS__DOMAIN__:53",
            "{$ZONE}:53",
            "CLUSTER_DOMAIN",
            "${zone}",
            "a b",
            "*.x",
            "a..b",
        ] {
            assert!(read(odd).2.is_err(), "{odd}");
        }
    }
}
