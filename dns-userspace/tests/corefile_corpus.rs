//! Every Corefile of `tests/corpus/corefile` becomes the rules and draws the notes that the `.expected` file beside it
//! lists, no more and no fewer.

use std::fs;
use std::path::Path;
use std::time::Duration;

use gregor::config;
use gregor::rules::corefile::{self, Import, NoteKind};
use gregor::rules::{Budget, MatchSpec};

/// As much memory as there is for the rules of a Corefile on the smallest node, and no limit of time: what is too much must
/// not depend on the machine.
fn import(bytes: &[u8]) -> Import {
    corefile::import(bytes, &Budget::new(Duration::from_secs(3600), 16 << 20))
}

fn rules(import: &Import) -> Vec<String> {
    import
        .rules
        .iter()
        .map(|imported| {
            let rule = &imported.rule;
            let pattern = match &rule.matches {
                MatchSpec::Pattern(text) => text.clone(),
                MatchSpec::Regex(text) => format!("/{text}/"),
            };
            format!("{pattern} -> {} {}", rule.cname, rule.ttl_seconds)
        })
        .collect()
}

#[test]
fn corefiles_become_what_is_expected() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus/corefile");
    let mut count = 0;
    let mut wrong = String::new();
    for entry in fs::read_dir(directory).expect("the corpus is in the repository") {
        let path = entry.expect("a readable directory").path();
        if path
            .extension()
            .is_none_or(|extension| extension != "corefile")
        {
            continue;
        }
        count += 1;
        let name = path.file_name().expect("a file").display().to_string();
        let bytes = fs::read(&path).expect("a readable file");
        let expected = fs::read_to_string(path.with_extension("expected")).expect("expectations");
        let import = import(&bytes);

        let expected_rules: Vec<&str> = expected
            .lines()
            .filter_map(|line| line.strip_prefix("rule: "))
            .collect();
        if rules(&import) != expected_rules {
            wrong += &format!("{name}: {:#?}, {:#?}\n", rules(&import), import.notes);
        }

        let expected_notes: Vec<&str> = expected
            .lines()
            .filter_map(|line| line.strip_prefix("note: "))
            .collect();
        let notes: Vec<String> = import.notes.iter().map(ToString::to_string).collect();
        let announced = notes.len() == expected_notes.len()
            && notes.iter().zip(expected_notes).all(|(note, expected)| {
                // LINE: KIND: a part of the text
                let text_at = expected
                    .match_indices(": ")
                    .nth(1)
                    .map_or(0, |(at, _)| at + 2);
                let (place, part) = expected.split_at(text_at);
                note.starts_with(place) && note.contains(part)
            });
        if !announced {
            wrong += &format!("{name}: {notes:#?}\n");
        }

        // What was printed is a part of a valid file.
        let file = format!(
            "[intercept]\nservers = [\"10.0.0.10\"]\n{}",
            import.to_toml()
        );
        if let Err(errors) = config::compile(&path, &file) {
            wrong += &format!("{name}: {errors}\n{file}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(count >= 50, "only {count} Corefiles");
}

#[test]
fn the_block_of_the_article_is_the_documented_rule() {
    let text = include_str!("../../tests/corpus/corefile/article.corefile");
    let import = import(text.as_bytes());
    assert!(
        import
            .notes
            .iter()
            .all(|note| note.kind == NoteKind::Warning)
    );
    assert_eq!(import.left_out(), 0);
    assert_eq!(
        import.to_toml(),
        "# line 1 of the Corefile\n[[rule]]\nname = \"template-svc.cluster.local-26714590\"\n\
         match = \"*.aws.private.kafka.managed.{namespace}.svc.cluster.local\"\n\
         cname = \"kafka-upstream.{namespace}.svc.cluster.local\"\nttl = 60\n"
    );
}

#[test]
fn several_imports_can_be_in_one_file() {
    let template = |target: &str| {
        format!(
            ".:53 {{\n  template IN ANY a.example {{\n    match ^.+\\.{target}\\.a\\.example\\.$\n    answer \"{{{{ .Name }}}} 60 IN CNAME {target}.test.\"\n    fallthrough\n  }}\n  rewrite name exact {target}.example {target}.test\n}}\n"
        )
    };
    let file = |imports: &[&Import]| {
        let mut text = "[intercept]\nservers = [\"10.0.0.10\"]\n".to_owned();
        for import in imports {
            text += &import.to_toml();
        }
        text
    };
    // The same zones and lines, as copies of one file for several clusters have them.
    let imports: Vec<Import> = ["one", "two", "three"]
        .iter()
        .map(|target| import(template(target).as_bytes()))
        .collect();
    let all: Vec<&Import> = imports.iter().collect();
    let (config, _, _) = config::compile(Path::new("x.toml"), &file(&all)).expect("they fit");
    assert_eq!(config.rules.len(), 6);
    // Of a rule that comes twice, one is to be removed.
    let twice = file(&[&imports[0], &imports[0]]);
    let errors = config::compile(Path::new("x.toml"), &twice).expect_err("each rule comes twice");
    let text = errors.to_string();
    assert!(
        text.contains("of a rule that was imported twice, remove one"),
        "{text}"
    );
    assert!(text.contains("the same rule as"), "{text}");
}

/// CoreDNS runs one rewrite: no rule goes on where it ends.
#[test]
fn a_rewrite_ends_at_its_target() {
    let text =
        ".:53 {\n  rewrite name exact a.example.org b.example.org\n  forward . 192.0.2.1\n}\n";
    let toml = import(text.as_bytes()).to_toml();
    assert!(toml.contains("cname = \"b.example.org\""), "{toml}");
    assert!(toml.ends_with("follow = false\n"), "{toml}");
}
