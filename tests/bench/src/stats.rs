//! Medians, spread and intervals: statistics of repeated measurements without assumptions on their distribution.

use serde::{Deserialize, Serialize};

/// Repeated measurements of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub count: usize,
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// Where the middle half lies.
    pub lower_quartile: f64,
    pub upper_quartile: f64,
}

impl Summary {
    /// None of no measurements.
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        Some(Self {
            count: sorted.len(),
            median: quantile(&sorted, 0.5)?,
            min: *sorted.first()?,
            max: *sorted.last()?,
            lower_quartile: quantile(&sorted, 0.25)?,
            upper_quartile: quantile(&sorted, 0.75)?,
        })
    }

    /// Width of the middle half in parts of the median.
    pub fn spread(&self) -> f64 {
        (self.upper_quartile - self.lower_quartile) / self.median.abs()
    }
}

pub fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// Between the two nearest of sorted values.
fn quantile(sorted: &[f64], quantile: f64) -> Option<f64> {
    let place = quantile * (sorted.len().checked_sub(1)? as f64);
    let below = sorted[place.floor() as usize];
    let above = sorted[place.ceil() as usize];
    Some(below + (above - below) * place.fract())
}

/// A median and the interval that holds the true one with at least 95 %, from order statistics: no assumption on
/// how values are distributed, so that a few disturbed measurements do no harm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    pub count: usize,
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

/// Fewest measurements that such an interval can be made of.
pub const FEWEST: usize = 6;

impl Interval {
    pub fn of(values: &[f64]) -> Option<Self> {
        let sorted = sorted(values);
        let rank = rank_95(sorted.len())?;
        Some(Self {
            count: sorted.len(),
            median: quantile(&sorted, 0.5)?,
            low: sorted[rank - 1],
            high: sorted[sorted.len() - rank],
        })
    }
}

/// The largest rank from either end at which an order statistic bounds the median with 2.5 % at most on that side: the
/// number of values below the median is binomial with one half.
fn rank_95(count: usize) -> Option<usize> {
    // Far beyond any number of rounds, and one half to the power of it is still a number.
    if !(FEWEST..=1000).contains(&count) {
        return None;
    }
    let mut probability = 0.5f64.powi(count as i32);
    let (mut sum, mut rank) = (0.0, 0);
    while rank < count / 2 {
        sum += probability;
        if sum > 0.025 {
            break;
        }
        probability *= (count - rank) as f64 / (rank + 1) as f64;
        rank += 1;
    }
    (rank > 0).then_some(rank)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        let summary = Summary::of(&[5.0, 1.0, 2.0, 4.0, 3.0]).unwrap();
        assert_eq!((summary.lower_quartile, summary.upper_quartile), (2.0, 4.0));
        assert_eq!((summary.min, summary.max, summary.count), (1.0, 5.0, 5));
        assert!((summary.spread() - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(Summary::of(&[]), None);
    }

    #[test]
    fn ranks_are_those_of_the_tables() {
        // Conover, Practical Nonparametric Statistics, confidence intervals for the median at 95 %.
        for (count, rank) in [(6, 1), (8, 1), (9, 2), (11, 2), (20, 6), (30, 10), (50, 18)] {
            assert_eq!(rank_95(count), Some(rank), "{count}");
        }
        assert_eq!(rank_95(5), None);
    }

    #[test]
    fn the_interval_has_the_stated_coverage() {
        let mut random = gregor::rules::testing::Rng::new(7);
        let mut held = 0;
        const TRIALS: usize = 4000;
        for _ in 0..TRIALS {
            // Skewed, as times are; its median is ln 2.
            let values: Vec<f64> = (0..31)
                .map(|_| -((random.below(1 << 30) as f64 + 0.5) / (1u64 << 30) as f64).ln())
                .collect();
            let interval = Interval::of(&values).unwrap();
            held += usize::from((interval.low..=interval.high).contains(&2f64.ln()));
        }
        let share = held as f64 / TRIALS as f64;
        assert!((0.94..0.985).contains(&share), "{share}");
    }

    #[test]
    fn disturbed_measurements_move_the_interval_little() {
        let mut values: Vec<f64> = (0..30).map(|n| 1.0 + f64::from(n % 5) / 100.0).collect();
        values[3] = 50.0;
        values[17] = 0.01;
        let interval = Interval::of(&values).unwrap();
        assert!(interval.low >= 1.0 && interval.high <= 1.04, "{interval:?}");
    }
}
