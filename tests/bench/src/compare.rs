//! Two reports beside each other, figure by figure, and whether what differs is more than noise.

use std::path::Path;

use anyhow::Result;

use super::{
    figures, metric,
    schema::{Better, CellReport, Figure, Report},
};

#[derive(Debug, clap::Args)]
pub struct Options {
    /// The older report.json
    before: std::path::PathBuf,
    /// The newer one
    after: std::path::PathBuf,
    /// Compare ratios between contenders of the same run alone, which hold across machines
    #[arg(long)]
    ratios: bool,
    /// A ratio that is worse by more than this part is a regression, when its interval does not reach back either
    #[arg(long, default_value_t = 0.1, value_name = "PART")]
    tolerance: f64,
}

/// How a figure has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Better,
    Worse,
    /// Within the tolerance, or within the noise of either run.
    Same,
}

/// A value with the range that its noise spans.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Value {
    median: f64,
    low: f64,
    high: f64,
}

/// Prints the comparison; `false` when something is worse.
pub fn run(options: &Options) -> Result<bool> {
    let before = Report::read(&options.before)?;
    let after = Report::read(&options.after)?;
    header(&options.before, &before);
    header(&options.after, &after);
    if before.machine != after.machine && !options.ratios {
        println!("different machines: only --ratios can be compared");
    }
    let mut worse = 0;
    for cell in &after.cells {
        let Some(old) = before.cell(&cell.id) else {
            println!("  {:<58} new", cell.id);
            continue;
        };
        for (label, better, from, to) in pairs(old, cell, options.ratios) {
            let change = judge(better, from, to, options.tolerance);
            worse += usize::from(change == Change::Worse);
            let mark = match change {
                Change::Better => "better",
                Change::Worse => "WORSE",
                Change::Same => "",
            };
            println!(
                "  {label:<58} {:>10} → {:>10}  {:+6.1} %  {mark}",
                figures::digits(from.median),
                figures::digits(to.median),
                (to.median / from.median - 1.0) * 100.0
            );
        }
    }
    for cell in &before.cells {
        if after.cell(&cell.id).is_none() {
            println!("  {:<58} not measured any more", cell.id);
        }
    }
    println!("{worse} worse");
    Ok(worse == 0)
}

fn header(path: &Path, report: &Report) {
    let commit = report.gregor.commit.as_deref().unwrap_or("no commit");
    println!(
        "{}: {}{}, {} cores, {}",
        path.display(),
        commit.get(..12).unwrap_or(commit),
        if report.gregor.modified {
            " modified"
        } else {
            ""
        },
        report.machine.cores,
        report.machine.kernel
    );
}

fn pairs(
    before: &CellReport,
    after: &CellReport,
    ratios: bool,
) -> Vec<(String, Better, Value, Value)> {
    let mut pairs = Vec::new();
    for figure in &after.figures {
        let Some(old) = before.figure(&figure.metric, figure.point) else {
            continue;
        };
        let at = figure
            .point
            .map_or(String::new(), |point| format!(" at {point}"));
        let name = format!("{}{at} {}", after.id, figure.metric);
        if ratios {
            for (other, to) in &figure.ratios {
                if let Some(from) = old.ratios.get(other) {
                    let label = format!("{name} / {other}");
                    pairs.push((label, figure.better, of_ratio(from), of_ratio(to)));
                }
            }
        }
        let comparable = metric::by_name(&figure.metric).is_some_and(|metric| metric.ratio);
        if (!ratios && comparable) || figure.metric == metric::RATIO {
            pairs.push((name, figure.better, of_figure(old), of_figure(figure)));
        }
    }
    pairs
}

fn of_figure(figure: &Figure) -> Value {
    let (low, high) = match figure.interval {
        Some(interval) => (interval.low, interval.high),
        None => (figure.summary.min, figure.summary.max),
    };
    Value {
        median: figure.summary.median,
        low,
        high,
    }
}

fn of_ratio(ratio: &super::schema::Ratio) -> Value {
    let (low, high) = match ratio.interval {
        Some(interval) => (interval.low, interval.high),
        None => (ratio.median, ratio.median),
    };
    Value {
        median: ratio.median,
        low,
        high,
    }
}

fn judge(better: Better, from: Value, to: Value, tolerance: f64) -> Change {
    let apart = to.low > from.high || to.high < from.low;
    let change = to.median / from.median - 1.0;
    if !apart || change.abs() <= tolerance {
        return Change::Same;
    }
    match (better, change > 0.0) {
        (Better::Higher, true) | (Better::Lower, false) => Change::Better,
        _ => Change::Worse,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(median: f64, noise: f64) -> Value {
        Value {
            median,
            low: median - noise,
            high: median + noise,
        }
    }

    #[test]
    fn noise_and_small_changes_do_not_count_as_changes() {
        let judge = |better, from, to| judge(better, from, to, 0.1);
        let quiet = value(100.0, 1.0);
        assert_eq!(judge(Better::Higher, quiet, value(95.0, 1.0)), Change::Same);
        assert_eq!(
            judge(Better::Higher, quiet, value(80.0, 30.0)),
            Change::Same
        );
        assert_eq!(
            judge(Better::Higher, quiet, value(80.0, 1.0)),
            Change::Worse
        );
        assert_eq!(
            judge(Better::Lower, quiet, value(80.0, 1.0)),
            Change::Better
        );
        assert_eq!(
            judge(Better::Lower, quiet, value(120.0, 1.0)),
            Change::Worse
        );
    }
}
