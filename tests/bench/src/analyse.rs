//! From samples to figures: medians, intervals, ratios of the same round.

use std::collections::BTreeMap;

use super::{
    metric::{self, Metric},
    schema::{CellReport, Figure, Ratio, Sample},
    stats::{Interval, Summary, median},
};

/// What growth cells compare their points with.
pub const FIRST: &str = "first";

/// Values by round.
type Series = BTreeMap<usize, f64>;

fn series(samples: &[Sample], metric: &str, point: Option<usize>) -> Series {
    samples
        .iter()
        .filter(|sample| sample.point == point)
        .filter_map(|sample| Some((sample.round, *sample.values.get(metric)?)))
        .collect()
}

/// Ratios of rounds that both have. None where the noise is larger than what was measured, as a busy time below zero shows: a
/// ratio of what is left would be misleading.
fn ratio(of: &Series, to: &Series) -> Option<Ratio> {
    if of.values().chain(to.values()).any(|value| *value <= 0.0) {
        return None;
    }
    let ratios: Vec<f64> = of
        .iter()
        .filter_map(|(round, value)| Some(value / to.get(round)?))
        .filter(|ratio| ratio.is_finite())
        .collect();
    Some(Ratio {
        median: median(&ratios)?,
        interval: Interval::of(&ratios),
    })
}

/// The last part of a cell's name, which is its contender, and what comes before it.
fn split(id: &str) -> (&str, &str) {
    id.rsplit_once('/').unwrap_or((id, ""))
}

/// Fills in the figures of all cells.
pub fn figures(cells: &mut [CellReport]) {
    let all: Vec<(String, Vec<Sample>)> = cells
        .iter()
        .map(|cell| (cell.id.clone(), cell.samples.clone()))
        .collect();
    for cell in cells {
        cell.figures = cell_figures(cell, &all);
    }
}

fn cell_figures(cell: &CellReport, all: &[(String, Vec<Sample>)]) -> Vec<Figure> {
    let mut points: Vec<Option<usize>> = cell.samples.iter().map(|sample| sample.point).collect();
    points.sort();
    points.dedup();
    let mut figures = Vec::new();
    for metric in &metric::ALL {
        for &point in &points {
            let values = series(&cell.samples, metric.name, point);
            let plain: Vec<f64> = values.values().copied().collect();
            let Some(summary) = Summary::of(&plain) else {
                continue;
            };
            figures.push(Figure {
                metric: metric.name.to_owned(),
                unit: metric.unit.to_owned(),
                better: metric.better,
                point,
                summary,
                interval: Interval::of(&plain),
                ratios: ratios(cell, metric, point, points.first().copied().flatten(), all),
            });
        }
    }
    figures
}

fn ratios(
    cell: &CellReport,
    metric: &Metric,
    point: Option<usize>,
    first: Option<usize>,
    all: &[(String, Vec<Sample>)],
) -> BTreeMap<String, Ratio> {
    if !metric.ratio {
        return BTreeMap::new();
    }
    let of = series(&cell.samples, metric.name, point);
    if point.is_some() {
        let to = series(&cell.samples, metric.name, first);
        return ratio(&of, &to)
            .map(|ratio| (FIRST.to_owned(), ratio))
            .into_iter()
            .collect();
    }
    let (work, own) = split(&cell.id);
    all.iter()
        .filter_map(|(id, samples)| {
            let (other_work, other) = split(id);
            if other_work != work || other == own {
                return None;
            }
            let ratio = ratio(&of, &series(samples, metric.name, None))?;
            Some((other.to_owned(), ratio))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::claims::claims, *};

    fn sample(round: usize, point: Option<usize>, metric: &str, value: f64) -> Sample {
        Sample {
            round,
            point,
            values: [(metric.to_owned(), value)].into(),
        }
    }

    fn cell(id: &str, samples: Vec<Sample>) -> CellReport {
        CellReport {
            id: id.to_owned(),
            group: String::new(),
            contender: Some(split(id).1.to_owned()),
            samples,
            figures: Vec::new(),
            latency: None,
        }
    }

    fn rounds(metric: &str, values: &[f64]) -> Vec<Sample> {
        values
            .iter()
            .enumerate()
            .map(|(round, &value)| sample(round, None, metric, value))
            .collect()
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        // The machine is half as fast in every other round, for both.
        let mut cells = [
            cell(
                "throughput/matched/gregor+nodelocal",
                rounds(metric::ANSWERS, &[95.0, 47.5, 95.0, 47.5, 95.0, 47.5, 95.0]),
            ),
            cell(
                "throughput/matched/reflector",
                rounds(
                    metric::ANSWERS,
                    &[100.0, 50.0, 100.0, 50.0, 100.0, 50.0, 100.0],
                ),
            ),
            cell(
                "throughput/mixed-1/reflector",
                rounds(metric::ANSWERS, &[1.0; 7]),
            ),
        ];
        figures(&mut cells);
        let ratio = cells[0].figure(metric::ANSWERS, None).unwrap().ratios["reflector"];
        assert!((ratio.median - 0.95).abs() < 1e-9);
        let interval = ratio.interval.unwrap();
        assert!(interval.high - interval.low < 1e-9, "{interval:?}");
        assert!(
            cells[2]
                .figure(metric::ANSWERS, None)
                .unwrap()
                .ratios
                .is_empty()
        );
        let claims = claims(&cells);
        assert_eq!(claims[0].holds, Some(true));
        assert_eq!(claims[1].measured, None, "nothing was measured for it");
        assert_eq!(claims[1].holds, None);
    }

    #[test]
    fn busy_time_is_turned_into_answers() {
        let mut cells = [
            cell(
                "throughput/matched/gregor+nodelocal",
                rounds(metric::BUSY, &[0.5, 0.5]),
            ),
            cell(
                "throughput/matched/nodelocal",
                rounds(metric::BUSY, &[15.0, 15.0]),
            ),
        ];
        figures(&mut cells);
        let claims = claims(&cells);
        assert!((claims[2].measured.unwrap() - 30.0).abs() < 1e-9);
        assert_eq!(claims[2].holds, Some(true));
    }

    #[test]
    fn noise_larger_than_the_figure_gives_no_ratio() {
        let mut cells = [
            cell(
                "throughput/matched/gregor+nodelocal",
                rounds(metric::BUSY, &[0.5, -0.1, 0.6]),
            ),
            cell(
                "throughput/matched/nodelocal",
                rounds(metric::BUSY, &[15.0, 15.0, 15.0]),
            ),
        ];
        figures(&mut cells);
        assert!(
            cells[0]
                .figure(metric::BUSY, None)
                .unwrap()
                .ratios
                .is_empty()
        );
        assert_eq!(claims(&cells)[2].holds, None);
    }

    #[test]
    fn growth_is_against_its_first_point() {
        let samples = (0..7)
            .flat_map(|round| {
                [(1, 1000.0), (5000, 500.0)]
                    .map(|(point, value)| sample(round, Some(point), metric::ANSWERS, value))
            })
            .collect();
        let mut cells = [cell("growth/rules", samples)];
        figures(&mut cells);
        let claims = claims(&cells);
        let growth = claims
            .iter()
            .find(|c| c.text.contains("5000 rules"))
            .unwrap();
        assert!((growth.measured.unwrap() - 2.0).abs() < 1e-9);
        assert_eq!(growth.holds, Some(false));
    }

    #[test]
    fn a_loss_within_the_interval_is_not_excluded() {
        let values: Vec<f64> = (0..30).map(|n| 0.93 + f64::from(n) / 300.0).collect();
        let mut cells = [cell(
            "pair/foreign-throughput",
            rounds(metric::RATIO, &values),
        )];
        figures(&mut cells);
        let claims = claims(&cells);
        let pair = claims
            .iter()
            .find(|c| c.text.contains("throughput of the cache"));
        assert!(pair.unwrap().measured.unwrap() > 0.97);
        assert_eq!(pair.unwrap().holds, Some(false));
    }
}
