//! `[identity]`: what says who is behind an interface; and the static file that may.

use std::{
    collections::{BTreeMap, HashSet},
    net::IpAddr,
    ops::Range,
    path::{Path, PathBuf},
};

use super::{
    ConfigErrors, MAX_FILE,
    diagnostic::Diagnostic,
    reader::{At, Reader, Section, address, read_tables},
};
use crate::{
    identity::{Entry, PodKey, is_label},
    model::IdentitySource,
};

/// Where libcni keeps its results.
pub const CNI_RESULTS: &str = "/var/lib/cni/results";
const SOURCES: [(&str, IdentitySource); 3] = [
    (IdentitySource::Cni.as_str(), IdentitySource::Cni),
    (
        IdentitySource::Kubernetes.as_str(),
        IdentitySource::Kubernetes,
    ),
    (IdentitySource::File.as_str(), IdentitySource::File),
];
pub(super) const PROTECT_TARGETS: &str = "protect_targets";
const SOURCES_EXAMPLE: &str = "[\"cni\", \"kubernetes\"]";

/// What says who is behind an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Most trusted first; empty where nobody is to be known.
    pub sources: Vec<IdentitySource>,
    /// Folder of libcni's results.
    pub cni_results: PathBuf,
    /// The static file.
    pub file: Option<PathBuf>,
}

impl Default for Identity {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            cni_results: CNI_RESULTS.into(),
            file: None,
        }
    }
}

/// The section, and where `protect_targets` is on, its place in the file.
pub(super) fn read(
    reader: &mut Reader<'_>,
    root: &Section<'_, '_>,
) -> (Identity, Option<Range<usize>>) {
    let section = reader.section(root, "identity");
    reader.refuse_unknown(
        &section,
        &["sources", "cni_results", "file", PROTECT_TARGETS],
    );
    let mut identity = Identity {
        sources: read_sources(reader, &section),
        ..Identity::default()
    };
    if let Some(path) = absolute(reader, &section, "cni_results", CNI_RESULTS) {
        identity.cni_results = path;
    }
    identity.file = absolute(reader, &section, "file", "/etc/gregor/pods.toml");
    let needs_file = identity.sources.contains(&IdentitySource::File);
    if needs_file && section.get("file").is_none() {
        reader.complain(
            &section.span_of("sources"),
            section.key("sources"),
            "\"file\" needs the path of one",
            "add file = \"/etc/gregor/pods.toml\"",
        );
    }
    let protects = reader.boolean(&section, PROTECT_TARGETS) == Some(true);
    let protects = protects.then(|| section.span_of(PROTECT_TARGETS));
    (identity, protects)
}

fn read_sources(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Vec<IdentitySource> {
    let is_word = section
        .get("sources")
        .is_some_and(|value| value.get_ref().as_str().is_some());
    let texts: Vec<At<String>> = if is_word {
        let word = reader.string(section, "sources", SOURCES_EXAMPLE);
        word.into_iter().collect()
    } else {
        let words = reader.strings(section, "sources", SOURCES_EXAMPLE);
        words.unwrap_or_default()
    };
    let mut sources = Vec::new();
    for text in &texts {
        if text.value == "none" {
            if texts.len() > 1 {
                reader.complain(
                    &text.span,
                    section.key("sources"),
                    "\"none\" beside sources",
                    "remove it, or write sources = \"none\"",
                );
            }
            continue;
        }
        let found = SOURCES.iter().find(|(word, _)| *word == text.value);
        match found {
            None => reader.complain(
                &text.span,
                section.key("sources"),
                format!("\"{}\" is not a source", text.value),
                "write \"cni\", \"kubernetes\" and \"file\", the most trusted first, or \"none\"",
            ),
            Some((_, source)) if sources.contains(source) => reader.complain(
                &text.span,
                section.key("sources"),
                format!("\"{}\" is there twice", text.value),
                "remove one: the order is the order of trust",
            ),
            Some((_, source)) => sources.push(*source),
        }
    }
    sources
}

fn absolute(
    reader: &mut Reader<'_>,
    section: &Section<'_, '_>,
    key: &str,
    example: &str,
) -> Option<PathBuf> {
    let remedy = format!("write it from the root, as in \"{example}\"");
    reader.absolute(section, key, example, &remedy)
}

/// Reads the static file: one `[[pod]]` for each pod.
pub fn load_pods(path: &Path) -> Result<Vec<Entry>, ConfigErrors> {
    let unreadable = |problem: String| {
        ConfigErrors(vec![Diagnostic {
            file: path.to_owned(),
            line: 1,
            column: 1,
            key: "file".to_owned(),
            problem,
            remedy: "give the path of a file of at most 16 MiB that gregor may read".to_owned(),
        }])
    };
    let text = std::fs::metadata(path)
        .and_then(|metadata| {
            if metadata.len() > MAX_FILE || !metadata.is_file() {
                return Err(std::io::Error::other("no file, or too large a one"));
            }
            std::fs::read_to_string(path)
        })
        .map_err(|error| unreadable(format!("cannot be read: {error}")))?;
    parse_pods(path, &text)
}

/// [`load_pods`] for a text in memory.
pub fn parse_pods(path: &Path, text: &str) -> Result<Vec<Entry>, ConfigErrors> {
    read_tables(path, text, "pod", read_pod)
}

fn read_pod(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<Entry> {
    reader.refuse_unknown(
        section,
        &[
            "namespace",
            "pod",
            "uid",
            "interface",
            "addresses",
            "labels",
        ],
    );
    let mut required = |key: &str, example: &str| reader.required(section, key, example);
    let namespace = required("namespace", "\"foo\"");
    let pod = required("pod", "\"web-0\"");
    if let Some(namespace) = namespace.as_ref().filter(|text| !is_label(&text.value)) {
        reader.complain(
            &namespace.span,
            section.key("namespace"),
            format!("\"{}\" is no RFC 1123 label in lower case", namespace.value),
            "write the name of a namespace, as in \"foo\"",
        );
    }
    let uid = reader.string(section, "uid", "\"1a2b\"");
    let interface = reader.string(section, "interface", "\"veth1a2b\"");
    let texts = reader.strings(section, "addresses", "[\"10.0.0.5\"]");
    let mut addresses: Vec<IpAddr> = Vec::new();
    let mut seen = HashSet::new();
    for text in texts.into_iter().flatten() {
        match address(&text.value) {
            Some(address) if seen.insert(address) => addresses.push(address),
            Some(_) => {}
            None => reader.complain(
                &text.span,
                section.key("addresses"),
                format!("\"{}\" is not an address", text.value),
                "write addresses without prefix or port, as in \"10.0.0.5\"",
            ),
        }
    }
    if section.get("interface").is_none() && section.get("addresses").is_none() {
        reader.complain(
            &section.span,
            section.key("interface"),
            "neither `interface` nor `addresses` is there",
            "say which interface is the pod's, or which addresses it has",
        );
    }
    let labels = read_labels(reader, section);
    Some(Entry {
        key: PodKey {
            namespace: namespace?.value,
            pod: pod?.value,
            uid: uid.map(|uid| uid.value).unwrap_or_default(),
        },
        labels,
        interface: interface.map(|interface| interface.value),
        addresses,
    })
}

fn read_labels(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> BTreeMap<String, String> {
    const EXAMPLE: &str = "labels = { tier = \"gold\" }";
    let mut labels = BTreeMap::new();
    let Some(value) = section.get("labels") else {
        return labels;
    };
    let Some(table) = value.get_ref().as_table() else {
        reader.wrong_type(value, section.key("labels"), "a table", EXAMPLE);
        return labels;
    };
    for (name, value) in table.iter() {
        match value.get_ref().as_str() {
            Some(text) => {
                labels.insert(name.get_ref().to_string(), text.to_owned());
            }
            None => reader.wrong_type(value, section.key("labels"), "a string", EXAMPLE),
        }
    }
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Tcp};

    const SERVERS: &str = "[intercept]\nservers = [\"169.254.20.10\"]\n";

    fn parse(text: &str) -> Result<Identity, String> {
        let text = format!("{SERVERS}{text}");
        Config::parse(Path::new("c.toml"), &text)
            .map(|config| config.identity)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn sources_are_in_the_order_of_trust_and_none_by_default() {
        use IdentitySource::*;
        assert_eq!(parse("").unwrap(), Identity::default());
        for (text, sources) in [
            ("sources = [\"cni\", \"kubernetes\"]", vec![Cni, Kubernetes]),
            ("sources = [\"kubernetes\", \"cni\"]", vec![Kubernetes, Cni]),
            ("sources = \"none\"", vec![]),
            ("sources = [\"none\"]", vec![]),
            ("sources = []", vec![]),
            ("sources = \"cni\"", vec![Cni]),
            ("sources = [\"file\"]\nfile = \"/p.toml\"", vec![File]),
        ] {
            let identity = parse(&format!("[identity]\n{text}")).unwrap();
            assert_eq!(identity.sources, sources, "{text}");
        }
        let identity = parse("[identity]\ncni_results = \"/a\"\nfile = \"/b\"").unwrap();
        assert_eq!(identity.cni_results, Path::new("/a"));
        assert_eq!(identity.file.as_deref(), Some(Path::new("/b")));
    }

    #[test]
    fn targets_are_protected_where_the_file_says_so() {
        const RULES: &str = "
            [[rule]]
            name = \"shared\"
            match = \"shared.example.com\"
            cname = \"shared.svc.cluster.local\"
            [[rule]]
            name = \"own\"
            match = \"*.confluent.cloud\"
            cname = \"kafka-upstream.{client.namespace}.svc.cluster.local\"";
        let compile = |head: &str, rules: &str| {
            let text = format!("{SERVERS}{head}\n{rules}");
            let (_, rules, warnings) = crate::config::compile(Path::new("c.toml"), &text).unwrap();
            let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            (rules.protected().count(), warnings)
        };
        let known = "[identity]\nsources = \"cni\"\n";
        for (text, count) in [
            ("", 0),
            ("protect_targets = false", 0),
            ("protect_targets = true", 1),
        ] {
            let text = format!("{known}{text}");
            assert_eq!(compile(&text, RULES), (count, vec![]), "{text}");
        }
        for (tcp, protects, expected) in [
            ("", "false", Tcp::AfterTruncation),
            ("", "true", Tcp::Required),
            ("tcp = \"required\"", "false", Tcp::Required),
            ("tcp = \"always\"", "true", Tcp::Always),
            ("tcp = \"never\"", "true", Tcp::Never),
            ("tcp = \"always\"", "false", Tcp::Always),
        ] {
            let text = format!("{SERVERS}{tcp}\n{known}protect_targets = {protects}\n{RULES}");
            let (config, _, _) = crate::config::compile(Path::new("c.toml"), &text).unwrap();
            assert_eq!(config.tcp(), expected, "{text}");
        }
        let shared = &RULES[..RULES.rfind("[[rule]]").unwrap()];
        let observing = format!("{RULES}\nmode = \"observe\"");
        for (head, rules, part) in [
            (
                "[identity]\nprotect_targets = true",
                RULES,
                "no source says who asks",
            ),
            (
                "interfaces = [\"eth0\"]\nhook = \"xdp\"\nallow_sources = [\"10.0.0.0/8\"]\n[identity]\nsources = \"cni\"\nprotect_targets = true",
                RULES,
                "its own too",
            ),
            (
                "[identity]\nsources = \"cni\"\nprotect_targets = true",
                shared,
                "nothing is protected",
            ),
            (
                "[identity]\nsources = \"cni\"\nprotect_targets = true",
                observing.as_str(),
                "nothing is protected",
            ),
        ] {
            let (_, warnings) = compile(head, rules);
            let said = warnings
                .iter()
                .find(|text| text.contains("identity.protect_targets"));
            let said = said.unwrap_or_else(|| panic!("{head}: {warnings:?}"));
            assert!(said.contains(part), "{said}");
        }
    }

    #[test]
    fn mistakes_are_named_with_line_and_key() {
        for (text, parts) in [
            (
                "sources = [\"cnl\"]",
                ["c.toml:4", "identity.sources", "\"cnl\" is not a source"],
            ),
            (
                "sources = [\"cni\", \"cni\"]",
                ["c.toml:4", "identity.sources", "twice"],
            ),
            (
                "sources = [\"cni\", \"none\"]",
                ["c.toml:4", "identity.sources", "beside"],
            ),
            (
                "sources = 3",
                ["c.toml:4", "identity.sources", "array of strings"],
            ),
            (
                "sources = [\"file\"]",
                ["c.toml:4", "identity.sources", "add file ="],
            ),
            (
                "cni_results = \"results\"",
                ["c.toml:4", "identity.cni_results", "absolute"],
            ),
            (
                "protect_targets = \"yes\"",
                ["c.toml:4", "identity.protect_targets", "true or false"],
            ),
            (
                "cni_result = \"/a\"",
                ["c.toml:4", "identity.cni_result", "`cni_results`"],
            ),
        ] {
            let said = parse(&format!("[identity]\n{text}")).unwrap_err();
            for part in parts {
                assert!(said.contains(part), "{text}: no {part} in {said}");
            }
        }
    }

    #[test]
    fn a_file_of_pods() {
        let text = "
            [[pod]]
            namespace = \"foo\"
            pod = \"web-0\"
            interface = \"veth1\"
            labels = { tier = \"gold\", \"app.kubernetes.io/name\" = \"web\" }
            [[pod]]
            namespace = \"bar\"
            pod = \"db-0\"
            uid = \"7\"
            addresses = [\"10.0.0.5\", \"fd00::5\", \"10.0.0.5\"]
        ";
        let entries = parse_pods(Path::new("p.toml"), text).unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].interface.as_deref(), Some("veth1"));
        assert_eq!(entries[0].labels["app.kubernetes.io/name"], "web");
        assert_eq!(entries[1].addresses.len(), 2);
        assert_eq!(entries[1].key.uid, "7");
        assert_eq!(parse_pods(Path::new("p.toml"), ""), Ok(Vec::new()));
    }

    #[test]
    fn mistakes_in_it_are_named_too() {
        for (text, parts) in [
            (
                "[[pod]]\npod = \"a\"\ninterface = \"b\"",
                ["p.toml:1", "pod.namespace", "missing"],
            ),
            (
                "[[pod]]\nnamespace = \"a\"\npod = \"a\"",
                ["p.toml:1", "pod.interface", "neither"],
            ),
            (
                "[[pod]]\nnamespace = \"A.b\"\npod = \"a\"\ninterface = \"b\"",
                ["p.toml:2", "pod.namespace", "RFC 1123"],
            ),
            (
                "[[pod]]\nnamespace = \"a\"\npod = \"a\"\naddresses = [\"10.0.0.5/24\"]",
                ["p.toml:4", "pod.addresses", "10.0.0.5/24"],
            ),
            (
                "[[pod]]\nnamespace = \"a\"\npod = \"a\"\ninterface = \"b\"\nlabels = { a = 1 }",
                ["p.toml:5", "pod.labels", "a string"],
            ),
            (
                "[pod]\nnamespace = \"a\"",
                ["p.toml:1", "pod", "array of tables"],
            ),
            ("pods = 1", ["p.toml:1", "pods", "unknown key"]),
            ("[[pod]", ["p.toml:1", "toml", "valid TOML"]),
        ] {
            let said = parse_pods(Path::new("p.toml"), text)
                .unwrap_err()
                .to_string();
            for part in parts {
                assert!(said.contains(part), "{text}: no {part} in {said}");
            }
        }
    }
}
