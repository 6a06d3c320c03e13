//! The plots: bars with every round's figure on them, waiting times on a log axis, growth curves, ratios of pairs.

use hdrhistogram::Histogram;

use super::svg::{Anchor, Scale, Svg};
use crate::{
    contenders::{DISCARD, REFLECTOR, REFLECTOR_LONG},
    figures,
    stats::Interval,
};

const WIDTH: f64 = 900.0;

/// A line of a bar chart.
pub struct Bar {
    pub label: String,
    /// Decides the colour.
    pub contender: String,
    pub median: f64,
    pub rounds: Vec<f64>,
}

/// Horizontal bars of medians, with a dot for every round. On a log axis where they differ by more than a hundredfold.
pub fn bars(label: &str, unit: &str, bars: &[Bar]) -> String {
    const LEFT: f64 = 220.0;
    const RIGHT: f64 = 90.0;
    const ROW: f64 = 30.0;
    let height = bars.len() as f64 * ROW + 34.0;
    let mut svg = Svg::new(WIDTH, height);
    let highest = bars
        .iter()
        .flat_map(|bar| bar.rounds.iter().copied().chain([bar.median]))
        .fold(0.0, f64::max);
    let lowest = bars
        .iter()
        .map(|bar| bar.median)
        .filter(|median| *median > 0.0)
        .fold(highest, f64::min);
    let place = (LEFT, WIDTH - RIGHT);
    let scale = if lowest > 0.0 && highest / lowest > 100.0 {
        Scale::log((10f64.powf(lowest.log10().floor()), highest), place)
    } else {
        Scale::linear((0.0, highest.max(f64::MIN_POSITIVE)), place)
    };
    let bottom = height - 24.0;
    for tick in scale.ticks() {
        let x = scale.place(tick);
        svg.line("grid", (x, 4.0), (x, bottom));
        svg.text(
            "tick",
            (x, bottom + 16.0),
            Anchor::Middle,
            &figures::value(tick, unit),
        );
    }
    for (row, bar) in bars.iter().enumerate() {
        let y = row as f64 * ROW + 8.0;
        let end = scale.place(bar.median.max(0.0));
        svg.text("name", (LEFT - 10.0, y + 15.0), Anchor::End, &bar.label);
        svg.rect(
            &format!("bar {}", colour(&bar.contender)),
            LEFT,
            y,
            end - LEFT,
            20.0,
        );
        for value in &bar.rounds {
            let title = figures::value(*value, unit);
            svg.dot("round", scale.place(value.max(0.0)), y + 10.0, 2.2, &title);
        }
        let furthest = bar.rounds.iter().copied().fold(bar.median, f64::max);
        let x = scale.place(furthest.max(0.0)) + 8.0;
        svg.text(
            "value",
            (x, y + 15.0),
            Anchor::Start,
            &figures::value(bar.median, unit),
        );
    }
    svg.finish(label)
}

/// A line with its colour.
pub struct Curve {
    pub label: String,
    pub contender: String,
    pub times: Histogram<u64>,
}

/// Waiting time by percentile, both axes logarithmic: the last nines get as much room as the first.
pub fn latency(label: &str, curves: &[Curve]) -> String {
    const LEFT: f64 = 70.0;
    const RIGHT: f64 = 190.0;
    const HEIGHT: f64 = 340.0;
    const BOTTOM: f64 = HEIGHT - 40.0;
    /// Percentiles that are labelled, and the last with enough queries.
    const QUANTILES: [f64; 6] = [0.0, 0.5, 0.9, 0.99, 0.999, 0.9999];
    let mut svg = Svg::new(WIDTH, HEIGHT);
    let micro = |times: &Histogram<u64>, quantile: f64| {
        (times.value_at_quantile(quantile) as f64 / 1000.0).max(0.1)
    };
    let low = curves
        .iter()
        .map(|curve| micro(&curve.times, 0.01))
        .min_by(f64::total_cmp)
        .unwrap_or(1.0);
    let high = curves
        .iter()
        .map(|curve| micro(&curve.times, 0.9999))
        .fold(low * 2.0, f64::max);
    let across = Scale::log((1.0, 10_000.0), (LEFT, WIDTH - RIGHT));
    let up = Scale::log((low * 0.8, high * 1.2), (BOTTOM, 10.0));
    for quantile in QUANTILES {
        let x = across.place(1.0 / (1.0 - quantile));
        svg.line("grid", (x, 10.0), (x, BOTTOM));
        let text = format!("{} %", (quantile * 1e6).round() / 1e4);
        svg.text("tick", (x, BOTTOM + 18.0), Anchor::Middle, &text);
    }
    for tick in up.ticks() {
        let y = up.place(tick);
        svg.line("grid", (LEFT, y), (WIDTH - RIGHT, y));
        svg.text(
            "tick",
            (LEFT - 8.0, y + 4.0),
            Anchor::End,
            &figures::value(tick, "µs"),
        );
    }
    let mut labels = Vec::new();
    for curve in curves {
        // No further than where ten queries are left.
        let last = 1.0 - (10.0 / curve.times.len().max(20) as f64);
        let points: Vec<(f64, f64)> = (0..=160)
            .map(|step| 1.0 - 10f64.powf(-4.0 * f64::from(step) / 160.0))
            .filter(|quantile| *quantile <= last)
            .map(|quantile| {
                (
                    across.place(1.0 / (1.0 - quantile)),
                    up.place(micro(&curve.times, quantile)),
                )
            })
            .collect();
        svg.path(&format!("curve {}", colour(&curve.contender)), &points);
        if let Some(end) = points.last() {
            labels.push((end.1, curve));
        }
    }
    place_labels(&mut svg, labels, WIDTH - RIGHT + 8.0, BOTTOM);
    svg.text(
        "axis",
        ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 4.0),
        Anchor::Middle,
        "queries answered within the time on the left",
    );
    svg.finish(label)
}

/// Labels at the ends of curves, moved apart where they would overlap.
fn place_labels(svg: &mut Svg, mut labels: Vec<(f64, &Curve)>, x: f64, bottom: f64) {
    const APART: f64 = 17.0;
    labels.sort_by(|one, other| one.0.total_cmp(&other.0));
    // From above, and then up again from the last that would leave the plot.
    let mut places: Vec<f64> = Vec::new();
    for (y, _) in &labels {
        let least = places.last().map_or(14.0, |above| above + APART);
        places.push(y.max(least));
    }
    let mut most = bottom;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - APART;
    }
    for ((_, curve), y) in labels.iter().zip(places) {
        svg.text(
            &format!("curve-name {}", colour(&curve.contender)),
            (x, y + 4.0),
            Anchor::Start,
            &curve.label,
        );
    }
}

/// A point of a growth curve.
pub struct Point {
    pub at: usize,
    /// In parts of the first point's time per answer: median, and where the middle half lies.
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// Time per answer as one thing grows, in parts of the first point, with the limit drawn in.
pub fn growth(label: &str, points: &[Point], limit: Option<f64>) -> String {
    const SIZE: (f64, f64) = (440.0, 230.0);
    const LEFT: f64 = 56.0;
    const BOTTOM: f64 = SIZE.1 - 40.0;
    let mut svg = Svg::new(SIZE.0, SIZE.1);
    let first = points.first().map_or(1, |point| point.at).max(1) as f64;
    let last = points.last().map_or(2, |point| point.at).max(2) as f64;
    let highest = points
        .iter()
        .map(|point| point.high)
        .chain(limit)
        .fold(1.5, f64::max);
    let across = Scale::log((first, last), (LEFT + 14.0, SIZE.0 - 24.0));
    let up = Scale::linear((0.0, highest * 1.05), (BOTTOM, 10.0));
    for tick in up.ticks() {
        let y = up.place(tick);
        svg.line("grid", (LEFT, y), (SIZE.0 - 10.0, y));
        let text = format!("{} ×", (tick * 100.0).round() / 100.0);
        svg.text("tick", (LEFT - 6.0, y + 4.0), Anchor::End, &text);
    }
    if let Some(limit) = limit {
        let y = up.place(limit);
        svg.line("limit", (LEFT, y), (SIZE.0 - 10.0, y));
    }
    let place = |point: &Point, value: f64| (across.place(point.at as f64), up.place(value));
    let mut band: Vec<(f64, f64)> = points.iter().map(|p| place(p, p.high)).collect();
    band.extend(points.iter().rev().map(|p| place(p, p.low)));
    svg.area("band", &band);
    let line: Vec<(f64, f64)> = points.iter().map(|p| place(p, p.median)).collect();
    svg.path("curve ours", &line);
    for point in points {
        let (x, y) = place(point, point.median);
        svg.dot("point", x, y, 3.5, &figures::ratio(point.median));
        svg.text(
            "tick",
            (x, BOTTOM + 18.0),
            Anchor::Middle,
            &point.at.to_string(),
        );
        svg.text(
            "value",
            (x, y - 9.0),
            Anchor::Middle,
            &figures::digits(point.median),
        );
    }
    svg.text(
        "axis",
        ((LEFT + SIZE.0) / 2.0, SIZE.1 - 4.0),
        Anchor::Middle,
        label,
    );
    svg.finish(label)
}

/// The ratio of each pair, its median's interval, and the bound that the interval is to keep.
pub fn pairs(label: &str, ratios: &[f64], interval: Option<Interval>, bound: f64) -> String {
    const LEFT: f64 = 30.0;
    const HEIGHT: f64 = 92.0;
    const BOTTOM: f64 = HEIGHT - 26.0;
    let mut svg = Svg::new(WIDTH, HEIGHT);
    // Wide enough for the middle of them; the rest is at the edge.
    let reach = interval
        .map_or(0.1, |i| (i.high - 1.0).abs().max((i.low - 1.0).abs()))
        .max((bound - 1.0).abs())
        .clamp(0.05, 0.9)
        * 2.0;
    let scale = Scale::linear(((1.0 - reach).max(0.0), 1.0 + reach), (LEFT, WIDTH - LEFT));
    for tick in scale.ticks() {
        let x = scale.place(tick);
        svg.line("grid", (x, 6.0), (x, BOTTOM));
        let text = format!("{} ×", (tick * 1000.0).round() / 1000.0);
        svg.text("tick", (x, BOTTOM + 17.0), Anchor::Middle, &text);
    }
    let one = scale.place(1.0);
    svg.line("zero", (one, 6.0), (one, BOTTOM));
    let limit = scale.place(bound);
    svg.line("limit", (limit, 6.0), (limit, BOTTOM));
    if let Some(interval) = interval {
        let (low, high) = (scale.place(interval.low), scale.place(interval.high));
        svg.rect("interval", low, 12.0, (high - low).max(2.0), 14.0);
        let median = scale.place(interval.median);
        svg.line("median", (median, 9.0), (median, 29.0));
    }
    for (index, ratio) in ratios.iter().enumerate() {
        let y = 36.0 + (index % 5) as f64 * 6.0;
        svg.dot(
            "round",
            scale.place(*ratio),
            y,
            2.6,
            &figures::ratio(*ratio),
        );
    }
    svg.finish(label)
}

/// The colour of a contender: limits, gregor, and what people run today.
fn colour(contender: &str) -> &'static str {
    match contender {
        DISCARD | REFLECTOR | REFLECTOR_LONG => "bound",
        "responder+nodelocal" => "ours-too",
        "unbound" => "theirs-too",
        _ if contender.starts_with("gregor") => "ours",
        _ => "theirs",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_show_every_round() {
        let chart = bars(
            "answers",
            "1/s",
            &[Bar {
                label: "gregor".to_owned(),
                contender: "gregor+nodelocal".to_owned(),
                median: 2.0,
                rounds: vec![1.0, 2.0, 3.0],
            }],
        );
        assert_eq!(chart.matches("<circle").count(), 3);
        assert!(chart.contains("bar ours"));
        assert!(!chart.contains("NaN"), "{chart}");
    }

    #[test]
    fn charts_of_nothing_are_drawn() {
        for chart in [
            bars("a", "1/s", &[]),
            latency("a", &[]),
            growth("a", &[], Some(1.2)),
            pairs("a", &[], None, 0.97),
        ] {
            assert!(
                chart.starts_with("<svg") && !chart.contains("NaN"),
                "{chart}"
            );
        }
    }
}
