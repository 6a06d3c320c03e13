//! The table of a chaos run.

use std::{fmt::Write as _, time::Duration};

use super::{
    judge::{Row, Verdict},
    load::Kind,
};

const HEAD: [&str; 16] = [
    "fault",
    "times",
    "queries",
    "lost",
    "at death",
    "unnoticed",
    "by cache",
    "wrong",
    "known leaked",
    "exposed",
    "new passed",
    "twice",
    "gap known",
    "gap new",
    "gap foreign",
    "oldest s",
];

/// What the columns mean.
const LEGEND: &str = "\
lost: no reply within 5 s, without an excuse. at death: the responder had them when it was killed. unnoticed: handed over \
within a second after a death, and no successor within 4 s.
by cache: while the existing cache was away. wrong: an address that is not the name's and never was. known leaked: known names \
answered by anything but their endpoint; exposed: the same, or lost, within 5 s after another agent had removed the program.
new passed: new names that the existing cache answered. gap: longest time in ms without a reply to a pod's queries of that kind.
oldest: the age of the oldest answer, in steps of 3 s.
";

pub fn render(verdict: &Verdict) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    let mut total = Row::default();
    for (fault, row) in &verdict.rows {
        rows.push(cells(fault.name(), row));
        total.add(row);
    }
    rows.push(cells("all", &total));
    let widths: Vec<usize> = (0..HEAD.len())
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
    text
}

fn cells(name: &str, row: &Row) -> [String; HEAD.len()] {
    let counts = &row.counts;
    let gap = |kind: Kind| milliseconds(counts.gap[kind as usize]);
    [
        name.to_owned(),
        row.rounds.to_string(),
        counts.sent.iter().sum::<u64>().to_string(),
        row.lost.to_string(),
        row.outstanding.to_string(),
        row.unnoticed.to_string(),
        row.lost_by_cache.to_string(),
        row.wrong.to_string(),
        row.leaked.to_string(),
        row.exposed.to_string(),
        counts.passed.to_string(),
        counts.twice.to_string(),
        gap(Kind::Known),
        gap(Kind::New),
        gap(Kind::Foreign),
        counts.oldest.as_secs().to_string(),
    ]
}

fn milliseconds(time: Duration) -> String {
    time.as_millis().to_string()
}

impl Row {
    fn add(&mut self, other: &Self) {
        self.rounds += other.rounds;
        self.counts.add(&other.counts);
        self.lost += other.lost;
        self.outstanding += other.outstanding;
        self.unnoticed += other.unnoticed;
        self.lost_by_cache += other.lost_by_cache;
        self.wrong += other.wrong;
        self.leaked += other.leaked;
        self.exposed += other.exposed;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::chaos::judge::Fault;

    #[test]
    fn a_line_for_each_fault_and_one_for_all() {
        let row = Row {
            rounds: 2,
            lost: 1,
            ..Row::default()
        };
        let verdict = Verdict {
            rows: BTreeMap::from([(Fault::Upgrade, row.clone()), (Fault::Kill, row)]),
            broken: Vec::new(),
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
    }
}
