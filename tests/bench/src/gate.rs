//! Judges what Criterion has measured by ratios between benches of the same run, so that any machine can be the judge.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

use super::figures;

#[derive(Debug, clap::Args)]
pub struct Options {
    /// Where Criterion has left its estimates
    #[arg(long, default_value = "target/criterion", value_name = "DIRECTORY")]
    criterion: std::path::PathBuf,
}

/// A bench, what it is compared with, and the largest ratio of their times.
struct Limit {
    of: &'static str,
    to: &'static str,
    most: f64,
    why: &'static str,
}

/// Each with room for noise: what these catch is something that became quadratic, or slow beyond reason.
const LIMITS: [Limit; 4] = [
    Limit {
        of: "compile/1000",
        to: "compile/500-twice",
        most: 1.5,
        why: "twice the rules take about twice as long to compile",
    },
    Limit {
        of: "find/1000",
        to: "find/10",
        most: 2.0,
        why: "a look-up does not depend on the number of rules",
    },
    Limit {
        of: "parse/gregor",
        to: "parse/hickory",
        most: 0.4,
        why: "a query is parsed as far as an answer needs it, not into owned records",
    },
    Limit {
        of: "compose/gregor",
        to: "compose/hickory",
        most: 2.0,
        why: "an answer is encoded once, for any question",
    },
];

/// Prints every ratio; `false` when one is over its limit.
pub fn run(options: &Options) -> Result<bool> {
    let mut within = true;
    for limit in &LIMITS {
        let of = median_ns(&options.criterion, limit.of)?;
        let to = median_ns(&options.criterion, limit.to)?;
        let ok = of / to <= limit.most;
        within &= ok;
        println!(
            "  {:<7} {} / {}: {} at most {} ({})",
            if ok { "within" } else { "OVER" },
            limit.of,
            limit.to,
            figures::ratio(of / to),
            figures::ratio(limit.most),
            limit.why
        );
    }
    Ok(within)
}

fn median_ns(directory: &Path, bench: &str) -> Result<f64> {
    let path = directory.join(bench).join("new/estimates.json");
    let text = fs::read_to_string(&path)
        .with_context(|| format!("{}: run `cargo xtask bench host` first", path.display()))?;
    let estimates: serde_json::Value = serde_json::from_str(&text)?;
    estimates
        .pointer("/median/point_estimate")
        .and_then(serde_json::Value::as_f64)
        .with_context(|| format!("no median in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimates(directory: &Path, bench: &str, nanoseconds: f64) {
        let place = directory.join(bench).join("new");
        fs::create_dir_all(&place).unwrap();
        let text = format!(r#"{{"median":{{"point_estimate":{nanoseconds}}}}}"#);
        fs::write(place.join("estimates.json"), text).unwrap();
    }

    #[test]
    fn a_ratio_over_its_limit_closes_the_gate() {
        let criterion = std::env::temp_dir().join(format!("gate-{}", std::process::id()));
        let options = Options {
            criterion: criterion.clone(),
        };
        assert!(run(&options).is_err(), "nothing was measured");
        for limit in &LIMITS {
            estimates(&criterion, limit.to, 1000.0);
            estimates(&criterion, limit.of, 1000.0 * limit.most);
        }
        assert!(run(&options).unwrap());
        // As on a machine that is half as fast.
        for limit in &LIMITS {
            estimates(&criterion, limit.to, 2000.0);
            estimates(&criterion, limit.of, 2000.0 * limit.most);
        }
        assert!(run(&options).unwrap());
        estimates(&criterion, LIMITS[1].of, 2001.0 * LIMITS[1].most);
        assert!(!run(&options).unwrap());
        fs::remove_dir_all(criterion).unwrap();
    }
}
