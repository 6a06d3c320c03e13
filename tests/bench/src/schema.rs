//! The report as data: what `report.json` holds. docs/bench-report.md describes it for other programs.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use super::{
    latency::Recorded,
    machine::Machine,
    plan::Mode,
    stats::{Interval, Summary},
};

/// Goes up when a reader of the old one would misread the new one.
pub const SCHEMA: u32 = 1;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub schema: u32,
    /// What was measured.
    pub gregor: Build,
    pub mode: Mode,
    /// Seconds since 1970.
    pub started: u64,
    /// Seconds that measuring took, interruptions aside.
    pub seconds: f64,
    pub machine: Machine,
    /// Share of all processor time that others used before the run, when nothing was measured.
    pub background: f64,
    pub contenders: Vec<ContenderText>,
    pub cells: Vec<CellReport>,
    pub claims: Vec<Claim>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Build {
    pub version: String,
    /// None outside a git repository.
    pub commit: Option<String>,
    /// Whether the tree differed from the commit.
    pub modified: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContenderText {
    pub id: String,
    pub title: String,
    pub about: String,
}

/// One cell with all that was measured for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CellReport {
    pub id: String,
    pub group: String,
    pub contender: Option<String>,
    pub samples: Vec<Sample>,
    /// By metric and point; in the order of the points.
    pub figures: Vec<Figure>,
    /// Waiting times of all rounds together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Recorded>,
}

/// One measurement.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    pub round: usize,
    /// What has grown, where something grows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<usize>,
    pub values: BTreeMap<String, f64>,
}

/// A metric over all rounds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    pub metric: String,
    pub unit: String,
    pub better: Better,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub point: Option<usize>,
    pub summary: Summary,
    /// 95 %, from six rounds on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// To other contenders in the same work, round by round; by contender. In growth cells, `first` is the first point.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ratios: BTreeMap<String, Ratio>,
}

/// Median of the ratios of each round, and its interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    pub median: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    Higher,
    Lower,
}

/// Something that gregor is to show, and whether this run shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    pub text: String,
    /// The ratio that was measured; none when a cell for it was not.
    pub measured: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    pub required: Required,
    pub holds: Option<bool>,
    /// What is known of why it does not hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Required {
    AtLeast(f64),
    AtMost(f64),
    /// The whole interval.
    IntervalAtLeast(f64),
    IntervalAtMost(f64),
}

impl Report {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let any: serde_json::Value = serde_json::from_str(&text)?;
        let schema = any.get("schema").and_then(serde_json::Value::as_u64);
        ensure!(
            schema == Some(SCHEMA.into()),
            "{} has schema {schema:?}, this program reads {SCHEMA}",
            path.display()
        );
        serde_json::from_value(any).with_context(|| path.display().to_string())
    }

    /// Writes aside and renames: what is there is always whole.
    pub fn write(&self, path: &Path) -> Result<()> {
        let aside = path.with_extension("new");
        fs::write(&aside, serde_json::to_string_pretty(self)?)?;
        Ok(fs::rename(aside, path)?)
    }

    pub fn cell(&self, id: &str) -> Option<&CellReport> {
        self.cells.iter().find(|cell| cell.id == id)
    }

    pub fn title(&self, contender: &str) -> String {
        self.contenders
            .iter()
            .find(|text| text.id == contender)
            .map_or_else(|| contender.to_owned(), |text| text.title.clone())
    }
}

impl CellReport {
    pub fn figure(&self, metric: &str, point: Option<usize>) -> Option<&Figure> {
        self.figures
            .iter()
            .find(|figure| figure.metric == metric && figure.point == point)
    }

    /// What the contender is compared in: the cell's name without its last part.
    pub fn work(&self) -> &str {
        self.id.rsplit_once('/').map_or("", |(work, _)| work)
    }
}

/// A report with a cell of each kind, for tests of what reads reports.
#[cfg(test)]
pub fn sample_report() -> Report {
    use super::{analyse, claims, metric};

    let sample = |round: usize, point, values: &[(&str, f64)]| Sample {
        round,
        point,
        values: values
            .iter()
            .map(|(name, value)| ((*name).to_owned(), *value))
            .collect(),
    };
    let cell = |id: &str, contender: Option<&str>, samples| CellReport {
        id: id.to_owned(),
        group: "a group".to_owned(),
        contender: contender.map(str::to_owned),
        samples,
        figures: Vec::new(),
        latency: None,
    };
    let rates = |rate: f64| -> Vec<Sample> {
        (0..7)
            .map(|round| {
                let noise = 1.0 + round as f64 / 100.0;
                sample(
                    round,
                    None,
                    &[(metric::ANSWERS, rate * noise), (metric::BUSY, 1e6 / rate)],
                )
            })
            .collect()
    };
    let mut cells = vec![
        cell(
            "throughput/matched/reflector",
            Some("reflector"),
            rates(8e5),
        ),
        cell(
            "throughput/matched/nodelocal",
            Some("nodelocal"),
            rates(5e4),
        ),
        cell(
            "throughput/matched/gregor+nodelocal",
            Some("gregor+nodelocal"),
            rates(6e5),
        ),
        CellReport {
            latency: Some(Recorded {
                buckets: vec![(4000, 900), (9000, 90), (40_000, 10)],
            }),
            ..cell(
                "latency/gregor+nodelocal",
                Some("gregor+nodelocal"),
                vec![sample(0, None, &[(metric::P50, 4.0)])],
            )
        },
        cell(
            "pair/foreign-throughput",
            None,
            (0..30)
                .map(|round| sample(round, None, &[(metric::RATIO, 0.99)]))
                .collect(),
        ),
        cell(
            "growth/rules",
            None,
            (0..7)
                .flat_map(|round| {
                    [1, 5000].map(|point| sample(round, Some(point), &[(metric::ANSWERS, 1e5)]))
                })
                .collect(),
        ),
    ];
    analyse::figures(&mut cells);
    Report {
        schema: SCHEMA,
        gregor: Build {
            version: "0.1.0".to_owned(),
            commit: Some("0123456789abcdef".to_owned()),
            modified: true,
        },
        mode: Mode::Full,
        started: 1_700_000_000,
        seconds: 1234.5,
        machine: Machine {
            cpu: "a processor".to_owned(),
            cores: 2,
            memory_kib: 8 << 20,
            kernel: "6.18".to_owned(),
            virtual_machine: true,
            governor: None,
        },
        background: 0.5,
        contenders: super::contenders::all()
            .iter()
            .map(|contender| ContenderText {
                id: contender.id().to_owned(),
                title: contender.title().to_owned(),
                about: contender.about(),
            })
            .collect(),
        claims: claims::claims(&cells),
        cells,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let report = sample_report();
        let path = std::env::temp_dir().join(format!("report-{}.json", std::process::id()));
        report.write(&path).unwrap();
        // To the last digit, and without printing all of it when it is not.
        assert!(Report::read(&path).unwrap() == report);

        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"schema\": 1", "\"schema\": 99")).unwrap();
        let error = Report::read(&path).unwrap_err().to_string();
        assert!(error.contains("99"), "{error}");
        fs::remove_file(path).unwrap();
    }
}
