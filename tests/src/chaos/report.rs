//! The table of a chaos run.

use std::fmt::Write as _;

use dns_common::abi::HEARTBEAT_VALID_NS;

use super::{
    counts::Merge as _,
    judge::{Fault, Row, Verdict},
    load::Kind,
};

/// A column: its title, and its cell in a row.
type Column = (&'static str, fn(&Row) -> String);

/// Behind that of the fault.
const COLUMNS: [Column; 16] = [
    ("times", |row| row.rounds.to_string()),
    ("queries", |row| {
        row.counts.sent.iter().sum::<u64>().to_string()
    }),
    ("lost", |row| row.lost.to_string()),
    ("at death", |row| row.outstanding.to_string()),
    ("unnoticed", |row| row.unnoticed.to_string()),
    ("by cache", |row| row.lost_by_cache.to_string()),
    ("by load", |row| row.lost_by_load.to_string()),
    ("wrong", |row| row.wrong.to_string()),
    ("known leaked", |row| row.leaked.to_string()),
    ("exposed", |row| row.exposed.to_string()),
    ("new passed", |row| row.counts.passed.to_string()),
    ("twice", |row| row.counts.twice.to_string()),
    ("gap known", |row| gap(row, Kind::Known)),
    ("gap new", |row| gap(row, Kind::New)),
    ("gap foreign", |row| gap(row, Kind::Foreign)),
    ("oldest s", |row| row.counts.oldest.as_secs().to_string()),
];

/// What the columns mean.
const LEGEND: &str = "\
lost: no reply within 5 s, without an excuse. at death: the responder had them when it was killed, and no successor came in time. unnoticed: handed over \
within a second after a death, or while one ended that was asked to, and no successor within 4 s.
by cache: while the existing cache was away, or as many as the kernel dropped at its full socket; by load: the same of a pod's \
socket. wrong: an address that is not the name's and never was. known leaked: known names \
answered by anything but their endpoint; exposed: the same, or lost, within 5 s after another agent had removed the program.
new passed: new names that the existing cache answered. gap: longest time in ms without a reply to a pod's queries of that kind.
oldest: the age of the oldest answer, in steps of 3 s.
";

pub fn render(verdict: &Verdict) -> String {
    let mut titles = vec!["fault"];
    titles.extend(COLUMNS.map(|(title, _)| title));
    let mut rows = vec![titles.into_iter().map(str::to_owned).collect()];
    let mut total = Row::default();
    for (fault, row) in &verdict.rows {
        rows.push(cells(fault.name(), row));
        total.merge(row);
    }
    rows.push(cells("all", &total));
    let widths: Vec<usize> = (0..=COLUMNS.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = format!("{:<width$}", row[0], width = widths[0]);
        for (cell, width) in row.iter().zip(&widths).skip(1) {
            let _ = write!(line, "  {cell:>width$}");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text.push('\n');
    text.push_str(LEGEND);
    if let Some(fail_open) = verdict.fail_open {
        let stopped = verdict.rows.get(&Fault::Stop).cloned().unwrap_or_default();
        let _ = writeln!(
            text,
            "after SIGSTOP new names pass within {} ms (the deadline of the programs is {} ms); longest gap of known names meanwhile {} ms, of foreign ones {} ms",
            fail_open.as_millis(),
            HEARTBEAT_VALID_NS / 1_000_000,
            gap(&stopped, Kind::Known),
            gap(&stopped, Kind::Foreign),
        );
    }
    text
}

fn cells(name: &str, row: &Row) -> Vec<String> {
    let counts = COLUMNS.iter().map(|(_, cell)| cell(row));
    std::iter::once(name.to_owned()).chain(counts).collect()
}

/// In milliseconds.
fn gap(row: &Row, kind: Kind) -> String {
    row.counts.gap[kind as usize].as_millis().to_string()
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::*;
    use crate::chaos::load::Counts;

    #[test]
    fn a_line_for_each_fault_and_one_for_all() {
        let row = Row {
            rounds: 2,
            lost: 1,
            counts: Counts {
                twice: 3,
                gap: [7, 8, 9].map(Duration::from_millis),
                ..Counts::default()
            },
            ..Row::default()
        };
        let verdict = Verdict {
            rows: BTreeMap::from([(Fault::Upgrade, row.clone()), (Fault::Kill, row)]),
            ..Verdict::default()
        };
        let text = render(&verdict);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .take(4)
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1][..4], ["upgrade", "2", "0", "1"]);
        assert_eq!(lines[2][..5], ["kill", "-9", "2", "0", "1"]);
        assert_eq!(lines[3][..4], ["all", "4", "0", "2"]);
        assert_eq!(lines[3][12..16], ["6", "7", "8", "9"]);
    }
}
