//! The names that a pod's resolver asks for, one after the other.

use anyhow::Context as _;
use hickory_proto::rr::Name;

/// Domains that glibc takes up to 2.25 (resolv.conf(5)).
const OLD_DOMAINS: usize = 6;
/// What musl takes: with `search ` and the end of the line it fills a buffer of 256 bytes.
const MUSL_BYTES: usize = 247;

/// The search list that the kubelet writes for a namespace.
pub(super) fn search_list(namespace: &str, domain: &str) -> Vec<String> {
    let domain = domain.trim_end_matches('.');
    vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.to_owned(),
    ]
}

/// The domains of a list as resolv.conf has it; commas are taken for blanks.
pub(super) fn parse_list(lists: &[String]) -> Vec<String> {
    lists
        .iter()
        .flat_map(|list| list.split([' ', ',', '\t']))
        .filter(|domain| !domain.is_empty())
        .map(|domain| match domain.trim_end_matches('.') {
            "" => ".".to_owned(),
            domain => domain.to_owned(),
        })
        .collect()
}

/// Warns of a list that resolvers cut or leave out.
pub(super) fn warning(search: &[String]) -> Option<String> {
    let bytes = search.join(" ").len();
    let mut limits = Vec::new();
    if search.len() > OLD_DOMAINS {
        limits.push(format!(
            "glibc before 2.26 takes the first {OLD_DOMAINS} of {} domains",
            search.len()
        ));
    }
    if bytes > MUSL_BYTES {
        limits.push(format!(
            "musl leaves out a list of more than {MUSL_BYTES} bytes, and this one has {bytes}"
        ));
    }
    (!limits.is_empty()).then(|| limits.join("; "))
}

/// The names that a resolver asks for, in its order (resolv.conf(5), `ndots`).
pub(super) fn candidates(name: &str, search: &[String], ndots: usize) -> anyhow::Result<Vec<Name>> {
    let absolute = |text: &str| {
        let mut name = Name::from_ascii(text).with_context(|| {
            format!("`{text}` is not a domain name; labels have 1 to 63 bytes, names at most 255")
        })?;
        name.set_fqdn(true);
        Ok::<_, anyhow::Error>(name)
    };
    if name.ends_with('.') {
        return Ok(vec![absolute(name)?]);
    }
    let own = absolute(name)?;
    // A suffix with which the name gets too long is skipped, as resolvers do. The root is the name as it is.
    let searched = search.iter().filter_map(|suffix| match suffix.as_str() {
        "." => Some(own.clone()),
        suffix => absolute(&format!("{name}.{suffix}")).ok(),
    });
    let dots = name.matches('.').count();
    let mut names: Vec<Name> = if dots >= ndots {
        std::iter::once(own.clone()).chain(searched).collect()
    } else {
        searched.chain(std::iter::once(own.clone())).collect()
    };
    // Asked for once, where it comes first.
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    Ok(names)
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
        assert!(
            error.to_string().contains("is not a domain name"),
            "{error}"
        );
        let long = vec!["x".repeat(60); 4].join(".");
        assert_eq!(
            names(&long, &search_list("foo", "cluster.local"), 7).len(),
            1
        );
    }

    #[test]
    fn lists_as_resolv_conf_has_them() {
        let list = |text: &str| parse_list(&[text.to_owned()]);
        assert_eq!(list("a.example b.example."), ["a.example", "b.example"]);
        assert_eq!(list("a.example,b.example"), ["a.example", "b.example"]);
        assert_eq!(list("."), ["."]);
        assert!(list("").is_empty());
    }

    #[test]
    fn without_a_search_list_only_the_name_itself_is_asked_for() {
        assert_eq!(
            names("lkc-1.kafka.managed", &[], 7),
            ["lkc-1.kafka.managed."]
        );
        // `search .`, in any place: once.
        for list in [&["."][..], &[".", "."]] {
            let list: Vec<String> = list.iter().map(|&domain| domain.to_owned()).collect();
            assert_eq!(names("a.b", &list, 7), ["a.b."]);
        }
        let list = [".".to_owned(), "x.example".to_owned()];
        assert_eq!(names("a.b", &list, 7), ["a.b.", "a.b.x.example."]);
    }

    #[test]
    fn seven_domains_are_all_asked_and_older_resolvers_are_named() {
        let seven: Vec<String> = (1..=7).map(|n| format!("d{n}.example")).collect();
        assert_eq!(names("a.b", &seven, 7).len(), 8);
        assert_eq!(warning(&seven[..6]), None);
        assert!(warning(&seven).unwrap().contains("first 6 of 7"));
        let long = vec!["x".repeat(60); 5];
        assert!(warning(&long).unwrap().contains("musl"));
        let just = vec![
            "x".repeat(61),
            "x".repeat(61),
            "x".repeat(61),
            "x".repeat(61),
        ];
        assert_eq!(just.join(" ").len(), 247);
        assert_eq!(warning(&just), None);
    }
}
