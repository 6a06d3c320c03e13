//! What people's Corefiles look like, kind by kind: the rules, and what is said instead of or besides them.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use corefile::{Matches, NoteKind};

const KAFKA: &str = "template IN ANY kafka.example {\n match ^.+\\.kafka\\.example\\.$\n answer \"{{ .Name }} 60 IN CNAME entry.test.\"\n fallthrough\n}\n";
const RULE: &str = "*.kafka.example -> entry.test";

struct Read {
    rules: Vec<String>,
    left_out: Vec<String>,
    warnings: Vec<String>,
}

fn read(text: &str) -> Read {
    let import = corefile::import(text.as_bytes());
    let notes = |kind| {
        let notes = import.notes.iter().filter(|note| note.kind == kind);
        notes
            .map(|note| format!("{}: {}", note.line, note.text))
            .collect()
    };
    Read {
        rules: import
            .rules
            .iter()
            .map(|rule| match &rule.matches {
                Matches::Pattern(text) => format!("{text} -> {}", rule.cname),
                Matches::Regex(text) => format!("/{text}/ -> {}", rule.cname),
            })
            .collect(),
        left_out: notes(NoteKind::LeftOut),
        warnings: notes(NoteKind::Warning),
    }
}

/// Checks the rules of a text, and that each of the parts is in what is left out or warned of, one note each.
#[track_caller]
fn check(text: &str, rules: &[&str], left_out: &[&str], warnings: &[&str]) {
    let read = read(text);
    assert_eq!(
        read.rules, rules,
        "{text}\n{:#?}\n{:#?}",
        read.left_out, read.warnings
    );
    for (notes, parts) in [(&read.left_out, left_out), (&read.warnings, warnings)] {
        let said = notes.len() == parts.len()
            && notes
                .iter()
                .zip(parts)
                .all(|(note, part)| note.contains(part));
        assert!(said, "{text}\n{notes:#?}\n{parts:#?}");
    }
}

fn block(key: &str, content: &str) -> String {
    format!("{key} {{\n{content}}}\n")
}

fn template(zone: &str, expression: &str, target: &str) -> String {
    format!(
        "template IN ANY {zone} {{\n match \"{expression}\"\n answer \"{{{{ .Name }}}} 60 IN CNAME {target}\"\n fallthrough\n}}\n"
    )
}

const CNAME: &str = "answers under the name that was asked";
const REGEX: &str = "as a `regex`, the responder answers";

#[test]
fn everything_dropped_has_a_note() {
    // Whatever is around the words, there are rules or notes.
    for text in [
        "template",
        "rewrite name a b",
        "x: template",
        "# rewrite\n",
        ". {\n  forward . template\n}\n",
        ". {\n  other {\n    deeper {\n      rewrite name a b\n    }\n  }\n}\n",
        "(snippet) {\n  template IN ANY a {\n  }\n}\n. {\n}\n",
        "{\"a\": [\"template\"]}",
        "data:\n  Corefile: |\n    . {\n    }\n  note: the rewrite was here\n",
        "<html>template</html>",
        "{{ template \"x\" . }}",
    ] {
        let read = read(text);
        let said = read.rules.len() + read.left_out.len() + read.warnings.len();
        assert!(said > 0, "{text}");
    }
    // Words that are read as nothing are an error, unless they are in comments or keys of other things.
    for text in [
        "<html>\n template\n</html>",
        ". {\n  forward . template\n}\n",
        "just some text about a rewrite",
        "data:\n  Corefile: |\n    . {\n    }\nplugins: [template]\n",
    ] {
        let read = read(text);
        assert_eq!((read.rules.len(), read.left_out.len()), (0, 1), "{text}");
    }
    for text in [
        ". {\n  errors # no template\n}\n",
        "kind: Deployment\nspec:\n  template:\n    x: y\n---\ndata:\n  Corefile: |\n    . {\n    }\n",
    ] {
        let read = read(text);
        assert_eq!((read.left_out.len(), read.warnings.len()), (0, 1), "{text}");
    }
    // And nothing where the words are not.
    for text in [
        "",
        ". {\n  forward . 10.0.0.2\n}\n",
        "kind: X\ndata:\n  a: b\n",
        ". {\n rewrites a\n}\n",
    ] {
        check(text, &[], &[], &[]);
    }
}

#[test]
fn wrappings_give_rules_with_the_lines_of_the_file() {
    let yaml = format!(
        "apiVersion: v1\ndata:\n  Corefile: |\n    .:53 {{\n{}    }}\n",
        KAFKA
            .lines()
            .map(|line| format!("        {line}\n"))
            .collect::<String>()
    );
    let import = corefile::import(yaml.as_bytes());
    assert_eq!(import.rules[0].line, 5);
    let json = format!(
        "{{\"data\":{{\"Corefile\":\"{}\"}}}}",
        block(".:53", KAFKA)
            .replace('\\', "\\\\")
            .replace('"', "\\\"")
            .replace('\n', "\\n")
    );
    check(&json, &[RULE], &[], &[]);
    check(&format!("\u{feff}{KAFKA}"), &[RULE], &[], &[]);
    let terraform = format!(
        "resource \"x\" \"y\" {{\n data = {{\n  Corefile = <<-EOT\n{}EOT\n }}\n}}\n",
        block(".:53", KAFKA)
    );
    check(&terraform, &[RULE], &[], &[]);
    let latin1 = [b"# caf\xe9\n", block(".", KAFKA).as_bytes()].concat();
    assert_eq!(corefile::import(&latin1).rules.len(), 1);
    // Parts of a ConfigMap go where the Corefile imports them.
    let list = "items:\n- data:\n    Corefile: |\n      .:53 {\n        import custom/*.override\n      }\n      import custom/*.server\n- data:\n    a.override: |\n      rewrite name a.x b.y\n    b.server: |\n      k.example {\n        rewrite name c.k.example d.y\n      }\n";
    check(
        list,
        &["c.k.example -> d.y", "a.x -> b.y"],
        &[],
        &[CNAME, CNAME],
    );
    // What Terraform or envsubst is still to put in.
    let open = block(".", &KAFKA.replace("entry.test", "entry.${var.domain}"));
    check(&open, &[], &["placeholder"], &[]);
}

#[test]
fn charts_are_read_as_far_as_they_have_literal_text() {
    let helm = KAFKA.replace("{{ .Name }}", "{{`{{ .Name }}`}}");
    let text = block(
        ".",
        &format!("{{{{- if .Values.kafka }}}}\n{helm}{{{{- end }}}}\n"),
    );
    check(&text, &[RULE], &[], &["is not evaluated"]);
    let text = block(
        ".",
        &format!("{KAFKA}{{{{- include \"x.rules\" . | nindent 4 }}}}\n"),
    );
    check(&text, &[RULE], &["render the chart"], &[]);
    let text = block("{{ .Values.zone }}:53", &template("", "^a", "b."));
    assert!(read(&text).rules.is_empty());
    assert!(!read(&text).left_out.is_empty());
    let text = template("", r"^.+\.a\.{{ .Values.zone }}\.$", "b.");
    check(&text, &[], &["placeholder"], &[]);
}

#[test]
fn stars_are_literal() {
    let star = "literal star";
    for text in [
        "rewrite name exact *.a.example b.\n".to_owned(),
        "rewrite name *.a.example b.\n".to_owned(),
        "rewrite stop name exact a.*.example b.\n".to_owned(),
        "rewrite {\n name exact *.a.example b.\n}\n".to_owned(),
        "rewrite name exact a.example *.b.\n".to_owned(),
        template("*.a.example", ".*", "b."),
        block("*.a.example:53", &template("", ".*", "b.")),
    ] {
        check(&text, &[], &[star], &[]);
    }
}

#[test]
fn rules_do_not_depend_on_the_client_or_the_address_that_was_asked() {
    let tenant = "view a {\n expr incidr(client_ip(), '10.1.0.0/16')\n}\n";
    let (one, two) = (
        template("a.example", ".*", "t."),
        template("b.example", ".*", "t."),
    );
    let text = block(".:53", &format!("{tenant}{one}")) + &block(".:53", &two);
    check(&text, &[], &["`view`", "depends on the client"], &[]);
    let text = block(".:53", &two) + &block(".:53", &format!("{one}{tenant}"));
    check(&text, &[], &["depends on the client", "`view`"], &[]);
    // A view on a part takes only that away.
    let text = block("a.example:53", tenant) + &block(".:53", &format!("{one}{two}"));
    check(
        &text,
        &["b.example -> t", "*.b.example -> t"],
        &["depends on the client"],
        &[],
    );
    // Two blocks for one zone on different addresses.
    let bound = |address: &str, content: &str| block(".:53", &format!("bind {address}\n{content}"));
    let text = bound("10.0.0.1", &one) + &bound("10.0.0.2", &two);
    check(
        &text,
        &[],
        &["the address that was asked", "the address that was asked"],
        &[],
    );
    check(
        &block(".", &format!("acl {{\n block net 10.0.0.0/8\n}}\n{KAFKA}")),
        &[RULE],
        &[],
        &["`acl`"],
    );
}

#[test]
fn other_transports_and_ports() {
    for key in [
        "tls://.:853",
        "https://.",
        "grpc://.:443",
        "quic://.",
        "https3://.:8443",
    ] {
        check(&block(key, KAFKA), &[], &["pods ask plain DNS"], &[]);
    }
    // The block is for plain DNS as well.
    check(&block("tls://.:853 .:53", KAFKA), &[RULE], &[], &[]);
    check(&block("dns://.", KAFKA), &[RULE], &[], &[]);
    check(&block(".:{$PORT}", KAFKA), &[RULE], &[], &[]);
    // All that there is on another port may be what pods reach; beside port 53, it is not.
    check(&block(".:5353", KAFKA), &[RULE], &[], &["port 5353"]);
    check(
        &(block(".:53", "log\n") + &block("kafka.example:5353", KAFKA)),
        &[],
        &["port 5353"],
        &[],
    );
}

#[test]
fn zones_that_a_block_is_not_asked_for() {
    for (key, zone) in [
        ("cluster.local:53", "bus.example"),
        ("cluster.local:53 in-addr.arpa", "bus.example test"),
        ("a.example", "example.a"),
        ("10.0.0.0/8", "11.in-addr.arpa"),
    ] {
        check(
            &block(key, &template(zone, ".*", "t.")),
            &[],
            &[],
            &["never used: the zone"],
        );
    }
    check(
        &block(
            "cluster.local",
            "rewrite name a.example b.example\nrewrite name a.cluster.local b.example\n",
        ),
        &["a.cluster.local -> b.example"],
        &[],
        &["never used", CNAME],
    );
    // A wider zone is the block's.
    let wider = template(".", ".*", "t.");
    check(
        &block("a.example", &wider),
        &["a.example -> t", "*.a.example -> t"],
        &[],
        &[],
    );
    check(
        &block(
            "b.a.example",
            &template("a.example", ".*", "up.{{ .Zone }}"),
        ),
        &[
            "b.a.example -> up.a.example",
            "*.b.a.example -> up.a.example",
        ],
        &[],
        &[],
    );
}

#[test]
fn expressions_stay_within_their_zone() {
    for (expression, rule) in [
        (
            r"kafka\.(.+)\.svc",
            r"/kafka\.(.+)\.svc(?:.*\.cluster\.local\.)$/ -> t.{1}.test",
        ),
        (
            r"^kafka-(.+)",
            r"/^kafka-(.+)(?:.*\.cluster\.local\.|\.cluster\.local\.|cluster\.local\.|\.)$/ -> t.{1}.test",
        ),
        (
            r"^([a-z]+)-.*$",
            r"/^([a-z]+)-(?:.*\.cluster\.local\.|cluster\.local\.)$/ -> t.{1}.test",
        ),
        (
            r"^(lkc|pkc)-.+\.$",
            r"/^(lkc|pkc)-(?:.*\.cluster\.local|cluster\.local)\.$/ -> t.{1}.test",
        ),
    ] {
        let read = read(&block(
            "cluster.local:53",
            &template(".", expression, "t.{{ index .Match 1 }}.test."),
        ));
        assert_eq!(read.left_out, Vec::<String>::new(), "{expression}");
        assert_eq!(read.rules.len(), 1, "{expression}");
        if expression.contains("kafka\\.") {
            assert_eq!(read.rules, [rule]);
        }
        // Whatever it is spelled like, it has the zone at its end.
        let text = read.rules[0].split("/ -> ").next().unwrap();
        assert!(text.contains("cluster") && text.ends_with('$'), "{text}");
    }
    // All of a name, its final dot included.
    for (expression, group, rule) in [
        ("(.*)", 1, r"/^((?:.*\.a\.x\.|a\.x\.))$/ -> {1}cdn.test"),
        (r"^(.+)\.$", 1, r"/^((?:.*\.a\.x|a\.x))\.$/ -> {1}cdn.test"),
        (".*", 0, r"/^((?:.*\.a\.x\.|a\.x\.))$/ -> {1}cdn.test"),
        (
            r"^(b|c)\.a\.x\.$",
            0,
            r"/(^(?:b|c)\.a\.x\.$)/ -> {1}cdn.test",
        ),
    ] {
        let target = format!("{{{{ index .Match {group} }}}}cdn.test.");
        check(
            &block(".", &template("a.x:53", expression, &target)),
            &[rule],
            &[],
            &[REGEX],
        );
    }
    // Where the end cannot be said, there is no rule.
    check(
        &block(
            "cluster.local:53",
            &template(".", r"^([a-z.-]+)$", "t.{{ index .Match 1 }}."),
        ),
        &[],
        &["beyond the zone cluster.local"],
        &[],
    );
}

#[test]
fn zones_end_with_a_dot() {
    let zone = |target: &str| block("bus.example", &template("", r"^a\.bus\.example\.$", target));
    for (target, rule) in [
        ("inner.{{ .Zone }}", "a.bus.example -> inner.bus.example"),
        (
            "{{ .Zone }}internal.test.",
            "a.bus.example -> bus.example.internal.test",
        ),
        ("{{ .Zone }}", "a.bus.example -> bus.example"),
        ("x-{{ .Zone }}y", "a.bus.example -> x-bus.example.y"),
    ] {
        check(&zone(target), &[rule], &[], &[]);
    }
    for target in ["inner.{{ .Zone }}.", "{{ .Zone }}.x.", "{{ .Zone }}."] {
        check(&zone(target), &[], &["a dot of its own"], &[]);
    }
}

#[test]
fn names_that_another_directive_takes() {
    let wild = template("a.example", r"^.+\.a\.example\.$", "t.");
    let rule = "*.a.example -> t";
    let exception = |property: &str| {
        format!("template IN ANY a.example {{\n match ^canary\\.\n {property}\n fallthrough\n}}\n")
    };
    let takes = "takes names away from it, such as `canary.a.example`";
    check(
        &block(".", &(exception("rcode NXDOMAIN") + &wild)),
        &[rule],
        &["rcode"],
        &[takes],
    );
    check(
        &block(
            ".",
            &(exception("answer \"{{ .Name }} 60 IN A 192.0.2.1\"") + &wild),
        ),
        &[rule],
        &["type A"],
        &[takes],
    );
    check(
        &block(".", &(exception("rcode REFUSED") + &wild)),
        &[rule],
        &["rcode"],
        &[takes],
    );
    // Behind it, it takes nothing.
    check(
        &block(".", &(wild.clone() + &exception("rcode NXDOMAIN"))),
        &[rule],
        &["rcode"],
        &[],
    );
    // A rewrite that no rule says.
    check(
        &block(
            ".",
            &format!("{wild}rewrite name suffix .x.a.example .b.example\n"),
        ),
        &[rule],
        &["suffix"],
        &["takes names away from it, such as `a.x.a.example`"],
    );
    // A block that has no rule.
    check(
        &(block(".", &wild) + &block("x.a.example", "forward . 10.0.0.1\n")),
        &[rule],
        &[],
        &["the block on line 8 takes names away from it, such as `x.a.example`"],
    );
    // A template that does not let others pass.
    let first = template("a.example", r"^one\.", "o.").replace(" fallthrough\n", "");
    check(
        &block(".", &(first.clone() + &wild)),
        &["/^one\\.(?:.*\\.a\\.example\\.|a\\.example\\.)$/ -> o"],
        &[],
        &["without `fallthrough`", REGEX, "never used"],
    );
    // What a pattern leaves of an expression, a later rule would take.
    let several = template(
        "a.example",
        r"^bus\.(.+)\.svc\.a\.example\.$",
        "up.{{ index .Match 1 }}.",
    );
    check(
        &block(".", &(several + &wild)),
        &["bus.{namespace}.svc.a.example -> up.{namespace}", rule],
        &[],
        &[
            "spanned several labels",
            "takes names away from it, such as `bus._.svc.a.example`",
        ],
    );
    // Only one type of query.
    let typed = exception("rcode NOERROR").replace("IN ANY", "IN AAAA");
    check(
        &block(".", &(typed + &wild)),
        &[rule],
        &["0 answers"],
        &["type AAAA"],
    );
}

#[test]
fn the_longest_zone_comes_first_and_rewrites_before_templates() {
    let (wide, narrow) = (
        template("", r"^.+\.example\.$", "wide."),
        template("", r"^.+\.bus\.example\.$", "narrow."),
    );
    let rules = ["*.bus.example -> narrow", "*.example -> wide"];
    let warned = ["takes names away from it, such as `bus.example`"];
    check(
        &(block(".", &wide) + &block("bus.example", &narrow)),
        &rules,
        &[],
        &warned,
    );
    check(
        &(block("bus.example", &narrow) + &block(".", &wide)),
        &rules,
        &[],
        &warned,
    );
    check(
        &(block("example", &wide)
            + &block("x.bus.example", "log\n")
            + &block("bus.example", &narrow)),
        &rules,
        &[],
        &[
            "such as `x.bus.example`",
            "such as `bus.example`",
            "such as `x.bus.example`",
        ],
    );
}

#[test]
fn rewrites_before_templates() {
    let wild = template("a.example", r"^.+\.a\.example\.$", "t.");
    check(
        &block(
            ".",
            &format!("{wild}rewrite name exact x.a.example other.test\n"),
        ),
        &["x.a.example -> other.test", "*.a.example -> t"],
        &[],
        &[CNAME],
    );
    // The template answers what the rewrite makes.
    check(
        &block(
            ".",
            &format!("rewrite name exact old.example x.a.example\n{wild}"),
        ),
        &["old.example -> t", "*.a.example -> t"],
        &[],
        &[CNAME, "goes on to line 3"],
    );
    // A chain goes on with `continue`, and ends without.
    let chain =
        |mode: &str| format!("rewrite {mode} name exact a.x b.x\nrewrite name exact b.x c.x\n");
    check(
        &block(".", &chain("continue")),
        &["a.x -> c.x", "b.x -> c.x"],
        &[],
        &[CNAME, "goes on to line 3", CNAME],
    );
    check(
        &block(".", &chain("stop")),
        &["a.x -> b.x", "b.x -> c.x"],
        &[],
        &[CNAME, "does not go on with line 3", CNAME],
    );
    // In what a rewrite leads to, its new name becomes the old one again.
    check(
        &block(
            ".",
            &format!(
                "rewrite name exact old.example x.a.example\n{}",
                wild.replace("t.", "t.x.a.example.")
            ),
        ),
        &["*.a.example -> t.x.a.example"],
        &["goes on to line 3, and what that makes of it is not a rule"],
        &[],
    );
    // The second of two for one name never counts.
    check(
        &block(".", "rewrite name a.x b.x\nrewrite name a.x c.x\n"),
        &["a.x -> b.x"],
        &[],
        &[CNAME, "never used"],
    );
    // One that a rule cannot say comes first.
    check(
        &block(".", "rewrite name suffix .x .y\nrewrite name a.x c.x\n"),
        &[],
        &["suffix"],
        &["never used: line 2"],
    );
}

#[test]
fn spellings_that_are_as_good() {
    for expression in [
        r"^.+\.kafka\.example\.$",
        r"^.+[.]kafka[.]example[.]$",
        r"^.+\.kafka\.example\.?$",
        r"^.*\.kafka\.example[.]?$",
        r"\.kafka\.example\.$",
        r".+\.kafka\.example\.$",
        r"^(.+)\.kafka\.example\.$",
        r"^(?:.+)\.[k]afka\.example\.\z",
    ] {
        check(
            &block(".", &template("kafka.example", expression, "entry.test.")),
            &[RULE],
            &[],
            &[],
        );
    }
    for text in [
        KAFKA.replace("IN ANY", "ANY ANY"),
        KAFKA.replace("60 IN", "1m IN"),
        KAFKA.replace("60 IN", "IN 60"),
        KAFKA.replace("IN CNAME", "CNAME"),
        KAFKA.replace("{{ .Name }}", "{{- .Name }}"),
        KAFKA.replace("{{ .Name }}", "{{.Name}}"),
        KAFKA
            .replace("fallthrough", "fallthrough#all")
            .replace("match", "match\t"),
        KAFKA.replace("{\n match", "{ # why\n match"),
        KAFKA.replace('\n', "\r\n"),
        KAFKA.replace("kafka.example {", "KAFKA.example. {"),
        KAFKA.replace("fallthrough", "upstream\n rcode NOERROR\n fallthrough ."),
    ] {
        check(&block(".", &text), &[RULE], &[], &[]);
    }
    check(
        &block(
            ".",
            &KAFKA.replace(r"^.+\.kafka\.example\.$", r"(^|\.)kafka\.example\.$"),
        ),
        &["kafka.example -> entry.test", RULE],
        &[],
        &[],
    );
    for rewrite in [
        "rewrite name exact a.x b.y answer auto",
        "rewrite name a.x b.y",
        "rewrite {\n name exact a.x b.y\n}",
        "rewrite continue {\n name exact a.x b.y\n answer auto\n}",
        "rewrite stop name exact A.x. b.y. answer name b\\.y a.x",
    ] {
        check(
            &block(".", &format!("{rewrite}\n")),
            &["a.x -> b.y"],
            &[],
            &[CNAME],
        );
    }
    check(&block(".", &format!("{KAFKA}{KAFKA}")), &[RULE], &[], &[]);
    check(&format!("kafka.example:53\n{KAFKA}"), &[RULE], &[], &[]);
    check(&format!("kafka.example\n{{\n{KAFKA}}}"), &[RULE], &[], &[]);
}

#[test]
fn snippets_are_followed() {
    let snippet = format!("(kafka) {{\n{KAFKA}}}\n(logging) {{\n log\n}}\n");
    check(
        &format!("{snippet}.:53 {{\n import logging\n import kafka\n}}\n"),
        &[RULE],
        &[],
        &[],
    );
    check(
        &format!("{snippet}cluster.local {{\n import kafka\n}}\n. {{\n import kafka\n}}\n"),
        &[RULE],
        &[],
        &["never used: the zone"],
    );
    check(
        "(logging) {\n log\n}\n. {\n import logging\n rewrite name a.x b.y\n}\n",
        &["a.x -> b.y"],
        &[],
        &[CNAME],
    );
    check(
        "(m) {\n match ^a\\.x\\.$\n}\n. {\n template IN ANY x {\n  import m\n  answer \"{{ .Name }} 60 IN CNAME b.\"\n  fallthrough\n }\n}\n",
        &["a.x -> b"],
        &[],
        &[],
    );
    check(
        &format!("{snippet}. {{\n log\n}}\n"),
        &[],
        &[],
        &["imported nowhere"],
    );
    check(
        ". {\n import /etc/coredns/custom/*.override\n log\n}\n",
        &[],
        &["is not followed"],
        &[],
    );
}

#[test]
fn placeholders_are_not_names() {
    for text in [
        block("__PILLAR__DNS__DOMAIN__:53", &template("", ".*", "t.")),
        block("CLUSTER_DOMAIN", &template("", ".*", "t.")),
        block("{$ZONE}:53", &template("", ".*", "t.")),
        template("{$ZONE}", ".*", "t."),
        template("a.example", r"^.+\.__ZONE__\.$", "t."),
        template("a.example", ".*", "t.{$ZONE}."),
        template("a.example", ".*", "t.svc.CLUSTER_DOMAIN."),
        "rewrite name exact a.{%ZONE%} b.\n".to_owned(),
        "rewrite name exact a.x __PILLAR__LOCAL__DNS__\n".to_owned(),
        "rewrite name exact a.${domain} b.\n".to_owned(),
    ] {
        check(&text, &[], &["placeholder"], &[]);
    }
    // A block that may be for the names of a rule.
    let text = block("__PILLAR__DNS__DOMAIN__:53", "errors\n") + &block(".:53", KAFKA);
    check(
        &text,
        &[RULE],
        &[],
        &["1: which names the block takes away is not known"],
    );
    // In what is not read, they do no harm; and capitals in the names of groups are none.
    check(
        &block(
            ".:53",
            &format!("bind __PILLAR__LOCAL__DNS__\n{KAFKA}forward . {{$UP}}\n"),
        ),
        &[RULE],
        &[],
        &[],
    );
    check(
        &template(
            "a.x",
            r"^(?P<MY_NS>[a-z0-9-]+)-q\.a\.x\.$",
            "{{ .Group.MY_NS }}.t.",
        ),
        &[r"/^(?P<MY_NS>[a-z0-9-]+)-q\.a\.x\.$/ -> {MY_NS}.t"],
        &[],
        &[REGEX],
    );
}

#[test]
fn conditions_of_other_plugins_are_reported() {
    for text in [
        "expression \"x\" {\n rewrite name a.x b.y\n}\n",
        "tenant a {\n template IN ANY a.x {\n  rcode NXDOMAIN\n }\n}\n",
        "other {\n deeper {\n  rewrite name a.x b.y\n }\n}\n",
    ] {
        check(&block(".", text), &[], &["a rule has no conditions"], &[]);
    }
}

#[test]
fn rules_of_several_imports_have_names_of_their_own() {
    let name = |text: &str| corefile::import(text.as_bytes()).rules.remove(0).name;
    let (one, other) = (name(KAFKA), name(&KAFKA.replace("entry", "other")));
    assert_ne!(one, other);
    assert!(one.starts_with("template-kafka.example-"), "{one}");
    // It does not depend on the place.
    assert_eq!(one, name(&block(".", &format!("log\n{KAFKA}"))));
    let long = format!("{}.example", "a".repeat(60));
    let long = name(&template(&long, ".*", "t."));
    assert!(long.len() <= 63, "{long}");
    assert!(name("rewrite name a.x b.y\n").starts_with("rewrite-a.x-"));
}

#[test]
fn many_directives_are_read_in_time() {
    let mut text = String::new();
    for n in 0..300 {
        text += &template(
            &format!("z{n}.example"),
            &format!(r"^.+\.z{n}\.example\.$"),
            "t.",
        );
        text += &format!("rewrite name exact a{n}.x b{n}.y\n");
    }
    let read = read(&block(".", &text));
    assert_eq!((read.rules.len(), read.left_out.len()), (600, 0));
}
