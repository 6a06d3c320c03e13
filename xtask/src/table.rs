//! Tables and colours for a terminal; plain text elsewhere.

use std::io::{IsTerminal as _, stdout};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    Plain,
    Green,
    Yellow,
    Red,
    Bold,
}

/// A table cell.
#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    colour: Colour,
}

impl Cell {
    pub fn new(text: impl Into<String>, colour: Colour) -> Self {
        Self {
            text: text.into(),
            colour,
        }
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::new(text, Colour::Plain)
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text, Colour::Plain)
    }
}

/// Prints rows in columns; a cell may have several lines.
pub fn print(head: &[&str], rows: &[Vec<Cell>]) {
    print!("{}", render(head, rows, colours()));
}

/// Colours are for people at a terminal who have not asked for none.
pub fn colours() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

pub fn paint(text: &str, colour: Colour, colours: bool) -> String {
    let code = match colour {
        _ if !colours => return text.to_owned(),
        Colour::Plain => return text.to_owned(),
        Colour::Green => 32,
        Colour::Yellow => 33,
        Colour::Red => 31,
        Colour::Bold => 1,
    };
    format!("\x1b[{code}m{text}\x1b[0m")
}

fn render(head: &[&str], rows: &[Vec<Cell>], colours: bool) -> String {
    let mut widths: Vec<usize> = head.iter().map(|text| text.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            let longest = cell.text.lines().map(|line| line.chars().count()).max();
            *width = (*width).max(longest.unwrap_or(0));
        }
    }
    let mut out = String::new();
    let mut line = |cells: Vec<(&str, Colour)>| {
        let mut text = String::new();
        for (index, (cell, colour)) in cells.iter().enumerate() {
            let padding = widths[index].saturating_sub(cell.chars().count());
            text.push_str(&paint(cell, *colour, colours));
            if index + 1 < cells.len() {
                text.push_str(&" ".repeat(padding + 2));
            }
        }
        out.push_str(text.trim_end());
        out.push('\n');
    };
    line(head.iter().map(|text| (*text, Colour::Bold)).collect());
    for row in rows {
        let height = row.iter().map(|cell| cell.text.lines().count()).max();
        for index in 0..height.unwrap_or(0) {
            line(
                row.iter()
                    .map(|cell| (cell.text.lines().nth(index).unwrap_or(""), cell.colour))
                    .collect(),
            );
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_cells_may_have_several_lines() {
        let rows = [vec![Cell::from("foo"), Cell::from("1\n2"), Cell::from("x")]];
        assert_eq!(
            render(&["pod", "address", "who"], &rows, false),
            "pod  address  who\nfoo  1        x\n     2\n"
        );
    }
}
