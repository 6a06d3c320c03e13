//! Corefiles through the import: whatever becomes a rule compiles, and the file that is printed says the same rules.

use std::{path::Path, time::Duration};

use gregor::{
    config,
    rules::{
        Budget, RuleSet, RuleSpec,
        corefile::{NoteKind, import},
    },
};

pub fn target(data: &[u8]) {
    // Less than what reads the rules back has.
    let import = import(data, &Budget::new(Duration::from_secs(2), 8 << 20));
    let lines = data.split(|&byte| byte == b'\n').count();
    for note in &import.notes {
        assert!((1..=lines).contains(&note.line), "{note}");
        assert!(!note.text.is_empty());
    }
    let left_out = import
        .notes
        .iter()
        .filter(|note| note.kind == NoteKind::LeftOut)
        .count();
    assert_eq!(import.left_out(), left_out);

    let specs: Vec<RuleSpec> = import
        .rules
        .iter()
        .map(|imported| imported.rule.clone())
        .collect();
    for imported in &import.rules {
        assert!((1..=lines).contains(&imported.line));
        if let Err(complaints) = RuleSet::compile(std::slice::from_ref(&imported.rule)) {
            panic!("{:?}: {complaints:?}", imported.rule);
        }
    }
    let file = format!(
        "[intercept]\nservers = [\"10.0.0.10\"]\n{}",
        import.to_toml()
    );
    match config::compile(Path::new("imported.toml"), &file) {
        Ok((config, _, _)) => assert_eq!(config.rules, specs),
        Err(errors) if specs.is_empty() => {
            // There is no complaint about a single rule.
            assert_eq!(errors.0.len(), 1, "{errors}");
        }
        Err(errors) => panic!("{errors}\n{file}"),
    }
}
