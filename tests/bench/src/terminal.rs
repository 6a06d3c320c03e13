//! Tables for the terminal: a group's figures when it is done, and the claims at the end.

use super::{
    figures, metric,
    schema::{CellReport, Claim, Figure, Report, Required},
};

/// What a line shows of a cell, in this order; the rest is in the report.
const SHOWN: [&str; 12] = [
    metric::ANSWERS,
    metric::SENT,
    metric::BUSY,
    metric::P50,
    metric::P99,
    metric::RATIO,
    metric::READY,
    metric::RESIDENT,
    metric::PROGRAM_NOT_DNS,
    metric::PROGRAM_FOREIGN,
    metric::PROGRAM_ANSWERED,
    metric::PROGRAM_WHOLE_REFLECTOR,
];

/// Prints the figures of one group.
pub fn group(cells: &[CellReport], title: &str) {
    println!("\n{title}");
    for cell in cells.iter().filter(|cell| cell.group == title) {
        let mut points: Vec<Option<usize>> =
            cell.figures.iter().map(|figure| figure.point).collect();
        points.sort();
        points.dedup();
        for point in points {
            let name = match point {
                Some(point) => format!("{} at {point}", cell.id),
                None => cell.id.clone(),
            };
            let figures: Vec<String> = SHOWN
                .iter()
                .filter_map(|metric| cell.figure(metric, point))
                .map(one)
                .collect();
            println!("  {name:<42} {}", figures.join("   "));
        }
    }
}

/// The median, and half of the width that the middle half of all rounds has.
fn one(figure: &Figure) -> String {
    let summary = &figure.summary;
    let label = match figure.metric.as_str() {
        metric::BUSY => "busy/M ",
        metric::P50 => "p50 ",
        metric::P99 => "p99 ",
        metric::READY => "ready ",
        metric::RESIDENT => "resident ",
        metric::PROGRAM_NOT_DNS => "not DNS ",
        metric::PROGRAM_FOREIGN => "foreign ",
        metric::PROGRAM_ANSWERED => "answered ",
        metric::PROGRAM_WHOLE_REFLECTOR => "as long a fixed answer ",
        _ => "",
    };
    let text = format!("{label}{}", figures::value(summary.median, &figure.unit));
    match summary.count {
        1 => text,
        _ => format!("{text} ± {:.0} %", summary.spread() * 50.0),
    }
}

/// Prints what the run shows of what gregor is to show.
pub fn claims(report: &Report) {
    println!("\nclaims");
    for claim in &report.claims {
        println!(
            "  {:<14} {:<84} {}",
            verdict(claim),
            claim.text,
            measured(claim)
        );
        if let Some(cause) = &claim.cause {
            println!("  {:<14} {cause}", "");
        }
    }
}

pub fn verdict(claim: &Claim) -> &'static str {
    match (claim.holds, claim.measured) {
        (Some(true), _) => "holds",
        (Some(false), _) => "DOES NOT HOLD",
        (None, Some(_)) => "too few rounds",
        (None, None) => "not measured",
    }
}

pub fn measured(claim: &Claim) -> String {
    let required = match claim.required {
        Required::AtLeast(least) => format!("at least {}", figures::ratio(least)),
        Required::AtMost(most) => format!("at most {}", figures::ratio(most)),
        Required::IntervalAtLeast(least) => format!("interval above {}", figures::ratio(least)),
        Required::IntervalAtMost(most) => format!("interval below {}", figures::ratio(most)),
    };
    let Some(value) = claim.measured else {
        return required;
    };
    let interval = claim.interval.map_or(String::new(), |interval| {
        format!(
            " [{} to {}]",
            figures::digits(interval.low),
            figures::digits(interval.high)
        )
    });
    format!("{}{interval}, {required}", figures::ratio(value))
}
