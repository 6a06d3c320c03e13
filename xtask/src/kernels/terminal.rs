//! A report on the terminal: a row per kernel, and below it the meaning of the marks.

use gregor_lab::guest::Load;

use super::report::{Column, Mark, Report, thousands};
use crate::table::{Cell, Colour, cell};

impl Report {
    /// The terminal's table: a row per kernel, and below it why something is red or not applicable.
    pub fn rows(&self) -> (Vec<String>, Vec<Vec<Cell>>) {
        let (columns, items) = (self.columns(), self.items());
        let mut head = vec!["kernel".to_owned()];
        head.extend(columns.iter().map(Column::title));
        // Long names would make long columns: numbers, and a legend below.
        head.extend((1..=items.len()).map(|number| number.to_string()));
        head.push("s".to_owned());
        let rows = self
            .kernels
            .iter()
            .map(|kernel| {
                let colour = if kernel.is_right() {
                    Colour::Green
                } else {
                    Colour::Red
                };
                let mut row = vec![cell(kernel.title(), colour)];
                row.extend(columns.iter().map(|column| load_cell(kernel.load(column))));
                row.extend(items.iter().map(|item| mark_cell(&kernel.mark(item))));
                row.push(kernel.seconds.to_string().into());
                row
            })
            .collect();
        (head, rows)
    }

    /// The meaning of the marks, each with its kernels.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        for (number, item) in self.items().iter().enumerate() {
            notes.push(format!("{}: {item}", number + 1));
        }
        for ((why, kernel), items) in self.not_applicable() {
            notes.push(format!("n/a on {kernel}, {why}: {}", items.join(", ")));
        }
        for kernel in &self.kernels {
            if let Some(why) = &kernel.not_run {
                notes.push(format!("{} was not run: {why}", kernel.name));
            }
            for reason in kernel.reasons() {
                notes.push(format!("{}: {reason}", kernel.title()));
            }
        }
        notes
    }
}

fn load_cell(load: Option<&Load>) -> Cell {
    match load {
        None => Cell::from("-"),
        Some(load) => match (&load.refused, &load.lacks) {
            (None, _) => cell(
                format!(
                    "{} insns\n{} states\n{:.1} s",
                    thousands(load.walk.instructions),
                    thousands(load.walk.states),
                    load.milliseconds as f64 / 1e3
                ),
                Colour::Green,
            ),
            (Some(_), Some(_)) => cell("n/a", Colour::Yellow),
            (Some(_), None) => cell(
                format!("✗\n{} insns", thousands(load.walk.instructions)),
                Colour::Red,
            ),
        },
    }
}

fn mark_cell(mark: &Mark) -> Cell {
    match mark {
        Mark::Right => cell("✓", Colour::Green),
        Mark::Wrong => cell("✗", Colour::Red),
        Mark::NotApplicable(_) => cell("n/a", Colour::Yellow),
        Mark::Absent => Cell::from("-"),
    }
}
