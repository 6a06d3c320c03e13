//! docs/kernels.md and the figures beside it: what a full run writes, and the baseline of every run.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use gregor_lab::guest::INSTRUCTIONS_MAX;

use super::report::{Column, KernelReport, Mark, Report, thousands};
use crate::machine;

const TEMPLATE: &str = include_str!("page.md");

/// The last full run of each architecture.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Records(BTreeMap<String, Run>);

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Run {
    commit: String,
    /// The programs, by object and name, in their order.
    columns: Vec<Column>,
    /// The items of the tables and the lab, in their order.
    items: Vec<String>,
    kernels: Vec<Row>,
}

/// A kernel of the table.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Row {
    name: String,
    title: String,
    /// By object and program.
    programs: Vec<Program>,
    right: Vec<String>,
    wrong: Vec<String>,
    /// What is not there, with the items that need it.
    lacks: BTreeMap<String, Vec<String>>,
    reasons: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Program {
    object: String,
    program: String,
    instructions: u32,
    states: u32,
}

impl Records {
    /// Where the figures are.
    fn path() -> Result<PathBuf> {
        Ok(machine::root()?.join("docs/kernels.json"))
    }

    /// Those of the checkout; none before the first full run.
    pub fn read() -> Result<Self> {
        let path = Self::path()?;
        if !path.exists() {
            return Ok(Self::default());
        }
        let text = fs::read_to_string(&path)?;
        serde_json::from_str(&text).with_context(|| format!("reading {}", path.display()))
    }

    /// What a program cost on a kernel of this name.
    pub fn instructions(&self, architecture: &str, kernel: &str, column: &Column) -> Option<u32> {
        let rows = &self.0.get(architecture)?.kernels;
        let row = rows.iter().find(|row| row.name == kernel)?;
        row.program(column).map(|program| program.instructions)
    }

    /// Replaces the last run by this one and writes figures and page; returns the page's path.
    pub fn write(mut self, report: &Report) -> Result<PathBuf> {
        self.0.insert(report.architecture.clone(), Run::of(report));
        write(&Self::path()?, &self.json()?)?;
        let page = machine::root()?.join("docs/kernels.md");
        write(&page, &self.page())?;
        Ok(page)
    }

    /// A kernel a line, so that a change shows what it changes.
    fn json(&self) -> Result<String> {
        let mut runs = Vec::new();
        for (architecture, run) in &self.0 {
            let mut kernels = Vec::new();
            for row in &run.kernels {
                kernels.push(format!("    {}", serde_json::to_string(row)?));
            }
            runs.push(format!(
                "{}:\n  {{\"commit\": {}, \"columns\": {}, \"items\": {}, \"kernels\": [\n{}\n  ]}}",
                serde_json::to_string(architecture)?,
                serde_json::to_string(&run.commit)?,
                serde_json::to_string(&run.columns)?,
                serde_json::to_string(&run.items)?,
                kernels.join(",\n")
            ));
        }
        Ok(format!("{{{}\n}}\n", runs.join(",\n")))
    }

    fn page(&self) -> String {
        let mut tables = String::new();
        let mut items: Vec<&String> = Vec::new();
        for (architecture, run) in &self.0 {
            let _ = write!(
                tables,
                "## {architecture}\n\nAt commit {}.\n\n{}\n",
                run.commit,
                run.table()
            );
            for item in &run.items {
                if !items.contains(&item) {
                    items.push(item);
                }
            }
        }
        let list: Vec<String> = items.iter().map(|item| format!("- {item}")).collect();
        TEMPLATE
            .replace("{tables}", tables.trim_end())
            .replace("{items}", &list.join("\n"))
            .replace("{max}", &thousands(INSTRUCTIONS_MAX))
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

impl Run {
    fn of(report: &Report) -> Self {
        let items = report.items();
        Self {
            commit: report.commit.clone(),
            columns: report.columns(),
            kernels: report
                .kernels
                .iter()
                .filter(|kernel| kernel.not_run.is_none())
                .map(|kernel| Row::of(kernel, report, &items))
                .collect(),
            items,
        }
    }

    fn table(&self) -> String {
        let mut text = String::from("| kernel |");
        for column in &self.columns {
            let _ = write!(text, " {} |", column.title());
        }
        let _ = writeln!(
            text,
            " passed | not there |\n|---|{}---|---|",
            "---|".repeat(self.columns.len())
        );
        for row in &self.kernels {
            let _ = write!(text, "| {} |", row.title);
            for column in &self.columns {
                let _ = match row.program(column) {
                    Some(program) => write!(
                        text,
                        " {} ({}) |",
                        thousands(program.instructions),
                        thousands(program.states)
                    ),
                    None => write!(text, " – |"),
                };
            }
            let run = row.right.len() + row.wrong.len();
            let mut passed = format!("{} of {run}", row.right.len());
            if !row.wrong.is_empty() {
                let _ = write!(passed, "; **failed: {}**", row.wrong.join(", "));
            }
            let lacks: Vec<String> = row
                .lacks
                .iter()
                .map(|(why, items)| format!("{why} ({})", items.join(", ")))
                .collect();
            let _ = writeln!(text, " {passed} | {} |", lacks.join("; "));
        }
        let reasons: Vec<String> = self
            .kernels
            .iter()
            .flat_map(|row| {
                row.reasons
                    .iter()
                    .map(|why| format!("- {}: {why}", row.title))
            })
            .collect();
        if !reasons.is_empty() {
            let _ = write!(text, "\n{}\n", reasons.join("\n"));
        }
        text
    }
}

impl Row {
    fn program(&self, column: &Column) -> Option<&Program> {
        self.programs.iter().find(|program| {
            (&program.object, &program.program) == (&column.object, &column.program)
        })
    }

    fn of(kernel: &KernelReport, report: &Report, items: &[String]) -> Self {
        let mut row = Self {
            name: kernel.name.clone(),
            title: kernel.title(),
            reasons: kernel.reasons(),
            ..Self::default()
        };
        for column in report.columns() {
            if let Some(load) = kernel.load(&column)
                && load.refused.is_none()
            {
                row.programs.push(Program {
                    object: column.object,
                    program: column.program,
                    instructions: load.walk.instructions,
                    states: load.walk.states,
                });
            }
        }
        for item in items {
            match kernel.mark(item) {
                Mark::Right => row.right.push(item.clone()),
                Mark::Wrong => row.wrong.push(item.clone()),
                // All of the lab alike.
                Mark::NotApplicable(why) if kernel.no_lab.as_ref() == Some(&why) => {
                    row.lacks.insert(why, vec!["the lab".to_owned()]);
                }
                Mark::NotApplicable(why) => {
                    row.lacks.entry(why).or_default().push(item.clone());
                }
                Mark::Absent => {}
            }
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use gregor_lab::guest::{Load, Outcome, Test, Walk};

    use super::*;

    fn report() -> Report {
        let test = |name: &str, outcome, why: &str| Test {
            group: "lab".to_owned(),
            program: "node".to_owned(),
            name: name.to_owned(),
            outcome,
            why: why.to_owned(),
            seconds: 1.0,
        };
        Report {
            commit: "abc".to_owned(),
            architecture: "x86_64".to_owned(),
            kernels: vec![KernelReport {
                name: "5.10-cloud".to_owned(),
                release: "5.10.0-46-cloud-amd64".to_owned(),
                loads: vec![Load {
                    object: "tc".to_owned(),
                    program: "gregor".to_owned(),
                    milliseconds: 1,
                    walk: Walk {
                        instructions: 49_377,
                        states: 2986,
                        ..Walk::default()
                    },
                    refused: None,
                    lacks: None,
                }],
                tests: vec![
                    test("clsact", Outcome::Passed, ""),
                    test("netkit", Outcome::Skipped, "no netkit"),
                ],
                ..KernelReport::default()
            }],
        }
    }

    #[test]
    fn the_written_figures_are_the_baseline_of_the_next_run() {
        let mut records = Records::default();
        records.0.insert("x86_64".to_owned(), Run::of(&report()));
        let read: Records = serde_json::from_str(&records.json().unwrap()).unwrap();
        let column = Column {
            object: "tc".to_owned(),
            program: "gregor".to_owned(),
        };
        assert_eq!(
            read.instructions("x86_64", "5.10-cloud", &column),
            Some(49_377)
        );
        assert_eq!(read.instructions("aarch64", "5.10-cloud", &column), None);
        assert_eq!(read.page(), records.page());
    }

    #[test]
    fn the_page_has_a_row_per_kernel() {
        let mut records = Records::default();
        records.0.insert("x86_64".to_owned(), Run::of(&report()));
        let page = records.page();
        assert!(
            page.contains(
                "| 5.10.0-46-cloud-amd64 | 49,377 (2,986) | 1 of 1 | no netkit (netkit) |"
            ),
            "{page}"
        );
        assert!(!page.contains('{'), "{page}");
    }
}
