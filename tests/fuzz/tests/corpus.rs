//! Every input of the corpora, the findings of former runs among them, passes the checks of its target.

use std::panic::catch_unwind;

use gregor_fuzz::corpus::inputs;

fn replay(name: &str, target: fn(&[u8]), at_least: usize) {
    let inputs = inputs(name).expect("the corpus is in the repository");
    assert!(inputs.len() >= at_least, "only {} inputs", inputs.len());
    let failed: Vec<_> = inputs
        .iter()
        .filter(|(_, data)| catch_unwind(|| target(data)).is_err())
        .map(|(name, _)| name)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn pipeline() {
    replay("pipeline", gregor_fuzz::pipeline::target, 100);
}

#[test]
fn compose() {
    replay("compose", gregor_fuzz::compose::target, 30);
}

#[test]
fn upstream() {
    replay("upstream", gregor_fuzz::upstream::target, 50);
}

#[test]
fn config() {
    replay("config", gregor_fuzz::config::target, 300);
}

#[test]
fn corefile() {
    replay("corefile", gregor_fuzz::corefile::target, 300);
}
