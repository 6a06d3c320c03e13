//! The section of docs/kubernetes.md that a run writes.

use std::{fmt::Write as _, fs};

use anyhow::{Context as _, Result};
use gregor_lab::tools::say;

use super::{components::KUBERNETES_VERSION, results::Results};
use crate::machine;

const BEGIN: &str = "<!-- written by `cargo xtask e2e kubernetes --page` -->\n";
const END: &str = "<!-- end of what is written -->\n";

pub fn write(results: &Results) -> Result<()> {
    let path = machine::root()?.join("docs/kubernetes.md");
    let text = fs::read_to_string(&path)?;
    fs::write(&path, replaced(&text, &section(results))?)?;
    say(&format!("wrote {}", path.display()));
    Ok(())
}

fn section(results: &Results) -> String {
    let release = machine::kernel_release();
    let mut text = format!(
        "Kubernetes {KUBERNETES_VERSION}, kernel {}, two nodes on one machine, image of {:.1} MiB: {} passed, {} failed; the nodes were ready after {:.0} s, all took {} s.\n\n| | check | figures |\n|---|---|---|\n",
        release.split('-').next().unwrap_or_default(),
        results
            .image
            .as_ref()
            .map_or(0.0, |image| image.bytes as f64 / f64::from(1 << 20)),
        results.lines.len() - results.failed(),
        results.failed(),
        results.ready.as_secs_f64(),
        results.took.as_secs(),
    );
    for line in &results.lines {
        let mark = if line.passed { "ok" } else { "**failed**" };
        let said = line.said.replace('|', "\\|").replace('\n', " ");
        let _ = writeln!(text, "| {mark} | {} | {said} |", line.what);
    }
    text
}

fn replaced(page: &str, section: &str) -> Result<String> {
    let (head, rest) = page
        .split_once(BEGIN)
        .context("docs/kubernetes.md has no place for the result")?;
    let (_, tail) = rest
        .split_once(END)
        .context("docs/kubernetes.md has no end of the result")?;
    Ok(format!("{head}{BEGIN}\n{section}\n{END}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_between_the_marks_is_replaced() {
        let page = format!("a\n{BEGIN}old\n{END}b\n");
        let page = replaced(&page, "new\n").unwrap();
        assert_eq!(page, format!("a\n{BEGIN}\nnew\n\n{END}b\n"));
        assert!(replaced("a\n", "new\n").is_err());
    }
}
