use super::*;

/// Key, text and first line.
type Part = (Option<String>, String, usize);

/// The documents, and the lines of problems.
fn found(text: &str) -> (Vec<Part>, Vec<usize>) {
    let found = find(text);
    let documents = found
        .documents
        .into_iter()
        .map(|document| {
            let line = document.source_line(1);
            (document.name, document.text, line)
        })
        .collect();
    (
        documents,
        found.problems.iter().map(|(line, _)| *line).collect(),
    )
}

const COREFILE: &str = ".:53 {\n    errors\n    rewrite name a.example \"b.example\"\n}\n";

fn indented(by: usize) -> String {
    COREFILE
        .lines()
        .map(|line| format!("{}{line}\n", " ".repeat(by)))
        .collect()
}

fn escaped() -> String {
    COREFILE.replace('"', "\\\"").replace('\n', "\\n")
}

#[test]
fn one_corefile_in_many_wrappings() {
    let (four, six) = (indented(4), indented(6));
    let escaped = escaped();
    let json =
        format!(r#"{{"apiVersion":"v1","data":{{"Corefile":"{escaped}"}},"kind":"ConfigMap"}}"#);
    for (what, text, line) in [
        (
            "a flow mapping",
            format!("data: {{Corefile: \"{escaped}\"}}\n"),
            1,
        ),
        (
            "block scalar",
            format!("apiVersion: v1\ndata:\n  Corefile: |\n{four}kind: ConfigMap\n"),
            4,
        ),
        (
            "kept and indented",
            format!("kind: ConfigMap\ndata:\n  Corefile: |2+\n{four}\nmetadata:\n  name: x\n"),
            4,
        ),
        (
            "quoted key",
            format!("data:\n  \"Corefile\": |-\n{four}"),
            3,
        ),
        (
            "two documents",
            format!("kind: Namespace\n---\ndata:\n  Corefile: |\n{four}---\nkind: X\n"),
            5,
        ),
        (
            "a list",
            format!(
                "apiVersion: v1\nitems:\n- apiVersion: v1\n  data:\n    Corefile: |\n{six}  kind: ConfigMap\nkind: List\n"
            ),
            6,
        ),
        (
            "escaped scalar",
            format!("apiVersion: v1\ndata:\n  Corefile: \"{escaped}\"\nkind: ConfigMap\n"),
            3,
        ),
        (
            "escaped scalar, folded",
            format!(
                "data:\n  Corefile: \"{}\"\n",
                escaped
                    .replace("errors", "errors\\\n    ")
                    .replace("rewrite name", "rewrite\n    name")
            ),
            2,
        ),
        ("JSON of one line", json.clone(), 1),
        (
            "JSON",
            json.replace(',', ",\n")
                .replace('{', "{\n  ")
                .replace(".:53 {\n  ", ".:53 {"),
            4,
        ),
        (
            "a list in JSON",
            format!("{{\"items\":[\n{json}],\n\"kind\":\"List\"}}"),
            2,
        ),
        (
            "YAML in YAML",
            format!(
                "files:\n  cm.yaml: |\n    apiVersion: v1\n    data:\n      Corefile: |\n{}",
                indented(8)
            ),
            6,
        ),
        ("JSON in YAML", format!("manifest: '{json}'\nkind: X\n"), 1),
        (
            "values of a chart",
            format!("coredns:\n  extra:\n    zoneFile: |\n{six}"),
            4,
        ),
        (
            "describe",
            format!(
                "Name:         coredns\nNamespace:    kube-system\n\nData\n====\nCorefile:\n----\n{COREFILE}\n\nBinaryData\n====\n\nEvents:  <none>\n"
            ),
            8,
        ),
        (
            "Terraform",
            format!(
                "resource \"kubernetes_config_map\" \"x\" {{\n  data = {{\n    Corefile = <<EOT\n{COREFILE}EOT\n  }}\n}}\n"
            ),
            4,
        ),
        (
            "Terraform, indented",
            format!(
                "resource \"x\" \"y\" {{\n  data = {{\n    \"Corefile\" = <<-EOF\n{six}    EOF\n  }}\n}}\n"
            ),
            4,
        ),
        (
            "Terraform, quoted",
            format!("resource \"x\" \"y\" {{\n  data = {{ Corefile = \"{escaped}\" }}\n}}\n"),
            2,
        ),
        (
            "Terraform, YAML inside",
            format!(
                "resource \"kubectl_manifest\" \"x\" {{\n  yaml_body = <<YAML\ndata:\n  Corefile: |\n{four}YAML\n}}\n"
            ),
            5,
        ),
        (
            "a script",
            format!("kubectl apply -f - <<EOF\napiVersion: v1\ndata:\n  Corefile: |\n{four}EOF\n"),
            5,
        ),
        (
            "Helm around it",
            format!(
                "{{{{- if .Values.dns }}}}\nkind: ConfigMap\ndata:\n  Corefile: |\n{four}{{{{- end }}}}\n"
            ),
            5,
        ),
        (
            "Ansible",
            format!("- name: dns\n  copy:\n    content: |\n{six}    dest: /etc/coredns/Corefile\n"),
            4,
        ),
        (
            "a kustomization",
            format!(
                "configMapGenerator:\n- name: coredns\n  literals:\n  - |\n    Corefile: |\n{six}"
            ),
            6,
        ),
    ] {
        let (documents, problems) = found(&text);
        assert_eq!(problems, Vec::<usize>::new(), "{what}:\n{text}");
        let [(_, own, first)] = &documents[..] else {
            panic!("{what}: {documents:?}\n{text}");
        };
        let own: Vec<Vec<&str>> = own
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|words| !words.is_empty())
            .collect();
        let expected: Vec<Vec<&str>> = COREFILE
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(own, expected, "{what}:\n{text}");
        assert_eq!(*first, line, "{what}:\n{text}");
    }
}

#[test]
fn inactive_parts_are_not_read() {
    let escaped = escaped();
    let old = escaped
        .replace("a.example", "old.example")
        .replace('"', "\\\"");
    let annotation = format!(
        "{{\\\"data\\\":{{\\\"Corefile\\\":\\\"{}\\\"}}}}",
        old.replace('\\', "\\\\")
    );
    for text in [
        format!(
            "data:\n  Corefile: |\n{}metadata:\n  annotations:\n    kubectl.kubernetes.io/last-applied-configuration: |\n      {{\"data\":{{\"Corefile\":\"{old}\"}}}}\n",
            indented(4)
        ),
        format!(
            "{{\"metadata\":{{\"annotations\":{{\"kubectl.kubernetes.io/last-applied-configuration\":\"{annotation}\"}}}},\"data\":{{\"Corefile\":\"{escaped}\"}}}}"
        ),
    ] {
        let (documents, problems) = found(&text);
        assert_eq!(documents.len(), 1, "{text}");
        assert!(!documents[0].1.contains("old"), "{text}");
        assert!(problems.is_empty());
        assert!(find(&text).outside.is_empty(), "{text}");
    }
}

#[test]
fn parts_have_the_names_of_their_keys() {
    let text = "kind: ConfigMap\ndata:\n  a.override: |\n    rewrite name a b\n  b.server: |\n    b.example {\n      log\n    }\n";
    let (documents, _) = found(text);
    let names: Vec<_> = documents.iter().map(|(name, ..)| name.as_deref()).collect();
    assert_eq!(names, [Some("a.override"), Some("b.server")]);
}

#[test]
fn directive_names_outside_of_a_corefile_are_reported() {
    for (text, line) in [
        // Values that a chart makes a Corefile from.
        (
            "servers:\n- plugins:\n  - name: template\n    parameters: IN ANY x\n",
            3,
        ),
        ("[{\"name\": \"rewrite\", \"parameters\": \"name a b\"}]", 1),
        ("kind: X\nspec:\n  rewrite: [a, b]\n", 3),
        (
            "resource \"x\" \"y\" {\n  plugins = [\"errors\", \"template\"]\n}\n",
            2,
        ),
        (
            "const corefile: string = `\n.:53 {\nrewrite name a b\n}`\ndata:\n",
            3,
        ),
    ] {
        let (documents, problems) = found(text);
        assert_eq!((documents.len(), &problems[..]), (0, &[line][..]), "{text}");
        assert!(find(text).problems[0].1.contains("jsonpath"));
    }
    // A pod's template is not a plugin.
    let manifest = format!(
        "kind: Deployment\nspec:\n  template:\n    spec: {{}}\n---\ndata:\n  Corefile: |\n{}",
        indented(4)
    );
    let found = find(&manifest);
    assert_eq!((found.documents.len(), found.outside.len()), (1, 0));
}

#[test]
fn a_plain_corefile_is_not_unwrapped() {
    for text in [
        COREFILE.to_owned(),
        "# kind: ConfigMap\n. {\n}\n".to_owned(),
        "template IN ANY a.example {\n    answer \"{{ .Name }} 60 IN CNAME b.\"\n}\n".to_owned(),
        "dns://.:53 tls://.:853 {\n log\n}\n".to_owned(),
        ". {\n  prometheus :9153\n  forward . [fd00::1]:53\n  etcd {\n   path /x\n  }\n}\n"
            .to_owned(),
        "{{- if .Values.x }}\n. {\n}\n{{- end }}\n".to_owned(),
    ] {
        let (documents, _) = found(&text);
        assert_eq!(documents.len(), 1, "{text}");
        assert_eq!(documents[0].0, None, "{text}");
    }
}

#[test]
fn encodings() {
    let utf16 = |text: &str, big: bool| -> Vec<u8> {
        text.encode_utf16()
            .flat_map(|unit| {
                if big {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            })
            .collect()
    };
    assert_eq!(decode(b"\xef\xbb\xbfa"), "a");
    assert_eq!(decode(&utf16("\u{feff}a\u{1f600}", false)), "a\u{1f600}");
    assert_eq!(decode(&utf16("\u{feff}ab", true)), "ab");
    assert_eq!(decode(b"# caf\xe9\n. {\n}"), "# caf\u{fffd}\n. {\n}");
}

#[test]
fn scalars_of_yaml() {
    let one = |text: &str| {
        let mut scalars = scalars::scalars(text);
        assert_eq!(scalars.len(), 1, "{text:?}: {scalars:?}");
        let scalar = scalars.remove(0);
        (scalar.text, scalar.lines)
    };
    assert_eq!(one("a: \"x \\\n  y\"").0, "x y");
    assert_eq!(one("a: \"x\n  y\n\n  z\"").0, "x y\nz");
    assert_eq!(one("a: \"x\\n\n  \\  y\\u0041\\x42\"").0, "x\n   yAB");
    assert_eq!(one("a: 'it''s\n  x'").0, "it's x");
    assert_eq!(one("a: >\n  x\n  y\n\n  z\n   w\n  v\n").0, "x y\nz\n w\nv");
    assert_eq!(
        one("a: |\n  x\n   y\n\n  z\n\nb: c\n"),
        ("x\n y\n\nz".into(), vec![1, 2, 3, 4])
    );
    assert_eq!(one("- - a: |-\n      x\n").0, "x");
    assert_eq!(one("a: \"{\\n  b\\n\n    }\"").1, [0, 0, 1]);
    assert!(scalars::scalars("a: \"x").is_empty());
}
