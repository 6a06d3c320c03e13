//! `[tenants]`: which names tenants may claim by an annotation of their Services.

use std::path::Path;

use super::{
    ConfigErrors, Hook, Identity, Kubernetes,
    reader::{Reader, Section, read_tables},
};
use crate::{
    claims::{MAX_NAMES_PER_NAMESPACE, NamePattern, RULE_NAME, Tenants},
    identity::is_label,
    model::{Claimant, claim_text},
    rules::RuleSpec,
};

/// Most entries of `may_claim`.
const MAX_ALLOWED: usize = 256;

/// What has to be there beside the section.
pub(super) struct Needs<'a> {
    pub hook: Hook,
    pub identity: &'a Identity,
    pub kubernetes: &'a Kubernetes,
    pub rules: &'a [RuleSpec],
}

pub(super) fn read(reader: &mut Reader<'_>, root: &Section<'_, '_>, needs: &Needs<'_>) -> Tenants {
    let section = reader.section(root, "tenants");
    reader.refuse_unknown(&section, &["may_claim", "names_per_namespace", "file"]);
    let mut tenants = Tenants::default();
    let limit = reader.number(
        &section,
        "names_per_namespace",
        1..=MAX_NAMES_PER_NAMESPACE as u64,
        "names",
    );
    if let Some(limit) = limit {
        tenants.names_per_namespace = limit as usize;
    }
    let remedy = "write the path from the root, as in \"/etc/gregor/claims.toml\"";
    tenants.file = reader.absolute(&section, "file", "/etc/gregor/claims.toml", remedy);
    let key = section.key("may_claim");
    let texts = reader.strings(&section, "may_claim", "[\"*.confluent.cloud\"]");
    let texts = texts.unwrap_or_default();
    if texts.len() > MAX_ALLOWED {
        reader.complain(
            &section.span_of("may_claim"),
            &*key,
            format!("there are {} entries", texts.len()),
            format!("keep to {MAX_ALLOWED}: a domain with `*.` stands for all names below it"),
        );
    }
    let domain = needs.kubernetes.cluster_domain.domain();
    for text in &texts {
        match NamePattern::parse(&text.value) {
            Err(problem) => reader.complain(
                &text.span,
                &*key,
                format!("\"{}\" cannot be claimed: {problem}", text.value),
                "write a name, or `*.` and a domain, as in \"*.confluent.cloud\"",
            ),
            Ok(pattern) if pattern.meets(&domain) => reader.complain(
                &text.span,
                &*key,
                format!(
                    "\"{}\" has names of the cluster's domain {domain}",
                    text.value
                ),
                "leave it out: a tenant could take other tenants' Services for its pods",
            ),
            Ok(pattern) => tenants.may_claim.push(pattern),
        }
    }
    if texts.is_empty() {
        return tenants;
    }
    let missing = [
        (
            needs.identity.sources.is_empty(),
            "without a source of identity no claim is ever in force",
            "name the sources in [identity], as in sources = [\"cni\", \"kubernetes\"]",
        ),
        (
            !needs.kubernetes.watch && section.get("file").is_none(),
            "claims are annotations of Services, and [kubernetes] watch is false",
            "write watch = true, or name a static `file` of claims",
        ),
        (
            needs.hook == Hook::Xdp,
            "with hook = \"xdp\" nobody is known, so no claim is ever in force",
            "use another hook, or remove `may_claim`",
        ),
        (
            needs.rules.iter().any(|rule| rule.name == RULE_NAME),
            "a [[rule]] is called `claims`, as those that tenants claim",
            "give that rule another name",
        ),
    ];
    for (_, problem, remedy) in missing.into_iter().filter(|(is_missing, ..)| *is_missing) {
        reader.complain(&section.span_of("may_claim"), &*key, problem, remedy);
    }
    tenants
}

/// Reads the text of a static file of claims: one `[[claim]]` for each Service.
pub fn parse_claims(path: &Path, text: &str) -> Result<Vec<Claimant>, ConfigErrors> {
    read_tables(path, text, "claim", read_claim)
}

fn read_claim(reader: &mut Reader<'_>, section: &Section<'_, '_>) -> Option<Claimant> {
    reader.refuse_unknown(section, &["namespace", "service", "names"]);
    let mut required = |key: &str, example: &str| {
        let text = reader.required(section, key, example)?;
        if !is_label(&text.value) {
            reader.complain(
                &text.span,
                section.key(key),
                format!("\"{}\" is no RFC 1123 label in lower case", text.value),
                format!("write it as in {example}"),
            );
        }
        Some(text.value)
    };
    let namespace = required("namespace", "\"foo\"");
    let service = required("service", "\"kafka-upstream\"");
    let names = reader.required(section, "names", "\"*.confluent.cloud, lkc-1.example.net\"");
    let (names, is_cut) = claim_text(&names?.value);
    Some(Claimant {
        namespace: namespace?,
        service: service?,
        names,
        is_cut,
        ..Claimant::default()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    const KNOWN: &str = "[identity]\nsources = [\"cni\"]\n";

    fn parse(head: &str, section: &str) -> Result<Tenants, String> {
        let text =
            format!("[intercept]\nservers = [\"169.254.20.10\"]\n{head}\n[tenants]\n{section}\n");
        Config::parse(Path::new("c.toml"), &text)
            .map(|config| config.tenants)
            .map_err(|errors| errors.to_string())
    }

    #[test]
    fn nothing_may_be_claimed_by_default() {
        let none = parse("", "").unwrap();
        assert!(!none.is_on());
        assert_eq!(none.names_per_namespace, 32);
        assert_eq!(
            parse("", "may_claim = []\nnames_per_namespace = 5")
                .unwrap()
                .names_per_namespace,
            5
        );
        let some = parse(
            KNOWN,
            "may_claim = [\"*.Confluent.cloud\", \"lkc-1.example.net\"]",
        );
        let some: Vec<String> = some
            .unwrap()
            .may_claim
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(some, ["*.confluent.cloud", "lkc-1.example.net"]);
    }

    #[test]
    fn mistakes_are_named_with_line_and_key() {
        const MAY: &str = "may_claim = [\"*.confluent.cloud\"]";
        for (head, section, line, parts) in [
            (
                KNOWN,
                "may_claim = \"*.a.b\"",
                7,
                ["tenants.may_claim", "array of strings"],
            ),
            (
                KNOWN,
                "may_claim = [\"*.cloud\"]",
                7,
                ["tenants.may_claim", "one label"],
            ),
            (
                KNOWN,
                "may_claim = [\"a.*.b\"]",
                7,
                ["tenants.may_claim", "first label"],
            ),
            (
                KNOWN,
                "may_claim = [\"*.foo.svc.cluster.local\"]",
                7,
                ["tenants.may_claim", "cluster's domain"],
            ),
            (
                "[identity]\nsources = [\"cni\"]\n[kubernetes]\ncluster_domain = \"k8s.example.com\"",
                "may_claim = [\"*.example.com\"]",
                8,
                ["tenants.may_claim", "cluster's domain k8s.example.com"],
            ),
            ("", MAY, 5, ["tenants.may_claim", "source of identity"]),
            (
                "[identity]\nsources = [\"cni\"]\n[kubernetes]\nwatch = false",
                MAY,
                8,
                ["tenants.may_claim", "watch is false"],
            ),
            (
                "hook = \"xdp\"\ninterfaces = [\"eth0\"]\nallow_sources = [\"10.0.0.0/8\"]\n[identity]\nsources = [\"cni\"]",
                MAY,
                9,
                ["tenants.may_claim", "nobody is known"],
            ),
            (
                "[identity]\nsources = [\"cni\"]\n[[rule]]\nname = \"claims\"\nmatch = \"a.b\"\ncname = \"c.d\"",
                MAY,
                10,
                ["tenants.may_claim", "another name"],
            ),
            (
                KNOWN,
                "names_per_namespace = 0",
                7,
                ["tenants.names_per_namespace", "out of range"],
            ),
            (
                KNOWN,
                "may_claims = []",
                7,
                ["tenants.may_claims", "`may_claim`"],
            ),
        ] {
            let said = parse(head, section).unwrap_err();
            let place = format!("c.toml:{line}:");
            for part in parts.iter().copied().chain([place.as_str()]) {
                assert!(said.contains(part), "{section}: no {part} in {said}");
            }
        }
    }

    #[test]
    fn a_file_of_claims() {
        let parse = |text: &str| parse_claims(Path::new("claims.toml"), text);
        let good = "[[claim]]\nnamespace = \"foo\"\nservice = \"up\"\nnames = \"*.a.b, c.d\"\n";
        let claims = parse(good).unwrap();
        assert_eq!(claims.len(), 1);
        assert_eq!(
            (
                &*claims[0].namespace,
                &*claims[0].service,
                &*claims[0].names
            ),
            ("foo", "up", "*.a.b, c.d")
        );
        assert_eq!(parse("").unwrap(), []);
        for (from, to, part) in [
            ("service", "services", "did you mean `service`"),
            ("\"foo\"", "\"Foo\"", "RFC 1123"),
            ("[[claim]]", "[claim]", "array of tables"),
            ("names", "name", "claim.names"),
        ] {
            let said = parse(&good.replace(from, to)).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        }
        let claims = "[tenants]\nfile = \"claims.toml\"";
        assert!(
            super::tests::parse("", &claims["[tenants]\n".len()..])
                .unwrap_err()
                .contains("absolute")
        );
        let with_file = "[identity]\nsources = [\"cni\"]\n[kubernetes]\nwatch = false";
        let tenants =
            super::tests::parse(with_file, "may_claim = [\"*.a.b\"]\nfile = \"/c.toml\"").unwrap();
        assert!(tenants.is_on() && tenants.file.is_some());
    }
}
