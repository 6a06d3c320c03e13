//! Histograms of waiting times, and their quantiles.

use std::time::Duration;

use anyhow::Result;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// From 100 ns to 10 s with three significant digits.
pub fn histogram() -> Result<Histogram<u64>> {
    Ok(Histogram::new_with_bounds(100, 10_000_000_000, 3)?)
}

/// A time as histograms count it: nanoseconds.
pub fn units(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub fn microseconds(histogram: &Histogram<u64>, quantile: f64) -> f64 {
    histogram.value_at_quantile(quantile) as f64 / 1000.0
}

/// A histogram as a report holds it: the counts of the buckets that have any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Highest value of a bucket in nanoseconds, and how many times fell into it; ascending.
    pub buckets: Vec<(u64, u64)>,
}

impl From<&Histogram<u64>> for Recorded {
    fn from(histogram: &Histogram<u64>) -> Self {
        Self {
            buckets: histogram
                .iter_recorded()
                .map(|step| (step.value_iterated_to(), step.count_at_value()))
                .collect(),
        }
    }
}

impl Recorded {
    pub fn histogram(&self) -> Result<Histogram<u64>> {
        let mut histogram = histogram()?;
        for &(value, count) in &self.buckets {
            histogram.record_n(value, count)?;
        }
        Ok(histogram)
    }

    /// All of them in one.
    pub fn merge<'a>(all: impl IntoIterator<Item = &'a Self>) -> Result<Histogram<u64>> {
        let mut merged = histogram()?;
        for recorded in all {
            merged.add(recorded.histogram()?)?;
        }
        Ok(merged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorded(values: impl IntoIterator<Item = u64>) -> Recorded {
        let mut histogram = histogram().unwrap();
        for value in values {
            histogram.record(value).unwrap();
        }
        Recorded::from(&histogram)
    }

    #[test]
    fn merging_counts_every_value_once() {
        let fast = recorded((1..=900).map(|n| n * 100));
        let slow = recorded((1..=100).map(|n| n * 1_000_000));
        let merged = Recorded::merge([&fast, &slow]).unwrap();
        assert_eq!(merged.len(), 1000);
        let p90 = merged.value_at_quantile(0.9);
        assert!((89_900..=90_200).contains(&p90), "{p90}");
        assert!(merged.value_at_quantile(0.999) > 98_000_000);
    }

    #[test]
    fn a_record_keeps_the_quantiles() {
        let first = recorded((0..10_000).map(|n| 1000 + n * n));
        let again = Recorded::from(&first.histogram().unwrap());
        assert_eq!(first, again);
        let text = serde_json::to_string(&first).unwrap();
        assert_eq!(serde_json::from_str::<Recorded>(&text).unwrap(), first);
    }
}
