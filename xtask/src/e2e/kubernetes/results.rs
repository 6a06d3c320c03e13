//! What the checks have found out, line by line.

use std::time::{Duration, Instant};

use anyhow::Result;
use gregor_lab::tools::say;

use crate::{
    image::Written,
    table::{self, Cell, Colour, cell},
};

/// One line of the result.
#[derive(Debug)]
pub struct Line {
    pub what: String,
    pub passed: bool,
    pub said: String,
}

/// Everything that was found out.
#[derive(Debug)]
pub struct Results {
    pub lines: Vec<Line>,
    /// None without gregor.
    pub image: Option<Written>,
    pub ready: Duration,
    pub took: Duration,
    /// Only checks with one of these in their names are made, beside the steps that others rest on; all where there is none.
    only: Vec<String>,
}

impl Results {
    pub fn new(image: Option<Written>, ready: Duration, only: Vec<String>) -> Self {
        Self {
            only,
            lines: Vec::new(),
            image,
            ready,
            took: ready,
        }
    }

    /// Runs a check; the next one runs whatever its result.
    pub fn check(&mut self, what: &str, check: impl FnOnce() -> Result<String>) {
        if self.only.is_empty() || self.only.iter().any(|text| what.contains(text)) {
            self.step(what, check);
        }
    }

    /// Runs a check that others rest on.
    pub fn step(&mut self, what: &str, check: impl FnOnce() -> Result<String>) {
        let started = Instant::now();
        let result = check();
        let took = started.elapsed().as_secs_f64();
        match result {
            Ok(said) => {
                say(&format!(
                    "ok      {took:5.1} s  {what}{}",
                    if said.is_empty() {
                        String::new()
                    } else {
                        format!(": {said}")
                    }
                ));
                self.lines.push(Line {
                    what: what.to_owned(),
                    passed: true,
                    said,
                });
            }
            Err(error) => self.fail(what, &error),
        }
    }

    pub fn fail(&mut self, what: &str, error: &anyhow::Error) {
        say(&format!("FAILED  {what}: {error:#}"));
        self.lines.push(Line {
            what: what.to_owned(),
            passed: false,
            said: format!("{error:#}"),
        });
    }

    pub fn took(&mut self, took: Duration) {
        self.took = took;
    }

    pub fn failed(&self) -> usize {
        self.lines.iter().filter(|line| !line.passed).count()
    }

    pub fn print(&self) {
        let rows: Vec<Vec<Cell>> = self
            .lines
            .iter()
            .map(|line| {
                let (mark, colour) = match line.passed {
                    true => ("ok", Colour::Green),
                    false => ("FAILED", Colour::Red),
                };
                vec![
                    cell(mark, colour),
                    line.what.as_str().into(),
                    line.said.as_str().into(),
                ]
            })
            .collect();
        println!();
        table::print(&["", "check", ""], rows);
        println!(
            "\n{} passed, {} failed; the cluster was ready after {:.1} s, all took {} s",
            self.lines.len() - self.failed(),
            self.failed(),
            self.ready.as_secs_f64(),
            self.took.as_secs()
        );
    }
}
