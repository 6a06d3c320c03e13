//! Tables and colours for a terminal; plain text elsewhere.

use std::io::{IsTerminal as _, stdout};

use comfy_table::{Attribute, Table, presets::NOTHING};
pub use comfy_table::{Cell, Color as Colour};

/// Prints rows in columns; a cell may have several lines.
pub fn print(head: &[&str], rows: Vec<Vec<Cell>>) {
    println!("{}", table(head, rows, colours()).trim_fmt());
}

pub fn cell(text: impl ToString, colour: Colour) -> Cell {
    Cell::new(text).fg(colour)
}

pub fn bold(text: impl ToString) -> Cell {
    Cell::new(text).add_attribute(Attribute::Bold)
}

/// Colours are for a terminal, unless NO_COLOR is set.
fn colours() -> bool {
    stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// A line by itself.
pub fn line(cell: Cell) -> String {
    table(&[], vec![vec![cell]], colours()).trim_fmt()
}

fn table(head: &[&str], rows: Vec<Vec<Cell>>, colours: bool) -> Table {
    let mut table = Table::new();
    table.load_style(NOTHING).add_rows(rows);
    if !head.is_empty() {
        table.set_header(head.iter().map(bold));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    if colours {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    table
}
