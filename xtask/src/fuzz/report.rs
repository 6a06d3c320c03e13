//! What libFuzzer's log says about a run.

/// Executions, coverage, and what was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub executions: u64,
    /// Edges of the control flow that were taken.
    pub covered: u64,
    /// Those of the whole program, dead code included.
    pub instrumented: u64,
    /// Edges, how often they were taken, and what was compared there.
    pub features: u64,
    /// Inputs that reach everything reached.
    pub corpus: u64,
    pub finding: Option<Finding>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub what: String,
    /// Where the input is.
    pub input: String,
}

impl Report {
    pub fn read(log: &str, success: bool) -> Self {
        let mut report = Self::default();
        let mut panicked = None;
        let mut error = None;
        let mut input = None;
        let mut lines = log.lines();
        while let Some(line) = lines.next() {
            if let Some(rest) = line.strip_prefix("INFO: Loaded ") {
                report.instrumented += between(rest, "(", " ").unwrap_or(0);
            } else if line.starts_with('#') {
                let mut words = line.split_whitespace();
                let number = words.next().and_then(|word| word[1..].parse().ok());
                report.executions = report.executions.max(number.unwrap_or(0));
                report.covered = after(line, "cov: ").unwrap_or(report.covered);
                report.features = after(line, "ft: ").unwrap_or(report.features);
                report.corpus = after(line, "corp: ").unwrap_or(report.corpus);
            } else if let Some(rest) = line.strip_prefix("stat::number_of_executed_units:") {
                report.executions = rest.trim().parse().unwrap_or(report.executions);
            } else if line.contains("panicked at ") {
                // The message is on the line behind it.
                panicked.get_or_insert(format!("{line} {}", lines.next().unwrap_or("")));
            } else if line.contains("ERROR: ") {
                error.get_or_insert(line.trim_start_matches('=').to_owned());
            } else if let Some((_, path)) = line.split_once("Test unit written to ") {
                input = Some(path.to_owned());
            }
        }
        if !success {
            report.finding = Some(Finding {
                what: panicked
                    .or(error)
                    .unwrap_or_else(|| "the program ended badly".to_owned()),
                input: input.unwrap_or_else(|| "no input was written".to_owned()),
            });
        }
        report
    }

    pub fn edges(&self) -> String {
        format!("{} of {}", self.covered, self.instrumented)
    }
}

fn after(line: &str, key: &str) -> Option<u64> {
    let rest = line.split_once(key)?.1;
    let digits = rest.find(|letter: char| !letter.is_ascii_digit());
    rest[..digits.unwrap_or(rest.len())].parse().ok()
}

fn between(line: &str, start: &str, end: &str) -> Option<u64> {
    line.split_once(start)?.1.split_once(end)?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLEAN: &str = "INFO: Running with entropic power schedule (0xFF, 100).\n\
        INFO: Loaded 1 modules   (116442 inline 8-bit counters): 116442 [0x1, 0x2), \n\
        #254\tINITED cov: 11 ft: 12 corp: 13/54Kb exec/s: 0 rss: 100Mb\n\
        #112937\tDONE   cov: 11815 ft: 14359 corp: 240/54Kb lim: 2017 exec/s: 10267 rss: 356Mb\n\
        stat::number_of_executed_units: 112938\n";

    #[test]
    fn counts_are_those_of_the_last_line() {
        let expected = Report {
            executions: 112_938,
            covered: 11_815,
            instrumented: 116_442,
            features: 14_359,
            corpus: 240,
            finding: None,
        };
        assert_eq!(Report::read(CLEAN, true), expected);
    }

    #[test]
    fn a_finding_is_named_by_its_panic() {
        let log = format!(
            "{CLEAN}thread '<unnamed>' (7) panicked at src/x.rs:1:2:\nleft is not right\nstack backtrace:\n\
             ==29637== ERROR: libFuzzer: deadly signal\n\
             artifact_prefix='/x/'; Test unit written to /x/crash-1\n"
        );
        let finding = Report::read(&log, false).finding.expect("a finding");
        assert_eq!(
            finding.what,
            "thread '<unnamed>' (7) panicked at src/x.rs:1:2: left is not right"
        );
        assert_eq!(finding.input, "/x/crash-1");
        assert!(Report::read("", false).finding.is_some());
    }
}
