//! All findings of a check, as lines and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::{
    finding::{Finding, Level},
    programs::Program,
};

#[derive(Debug, Serialize)]
pub struct Report {
    pub ok: bool,
    findings: Vec<Finding>,
    programs: Vec<Program>,
}

impl Report {
    pub fn new(findings: Vec<Finding>, programs: Vec<Program>) -> Self {
        Self {
            ok: findings.iter().all(|finding| finding.level != Level::Error),
            findings,
            programs,
        }
    }

    /// For people.
    pub fn render(&self) -> String {
        let mut text = String::new();
        for finding in &self.findings {
            let level = match finding.level {
                Level::Ok => "ok     ",
                Level::Warning => "WARNING",
                Level::Error => "ERROR  ",
            };
            let detail = match &finding.remedy {
                Some(remedy) if finding.on_one_line => format!("{}; {remedy}", finding.detail),
                _ => finding.detail.clone(),
            };
            let mut lines = detail.lines();
            let _ = writeln!(
                text,
                "{level}  {:<20} {}",
                finding.what,
                lines.next().unwrap_or_default()
            );
            for line in lines {
                let _ = writeln!(text, "{:<30}{line}", "");
            }
            if let Some(remedy) = &finding.remedy
                && !finding.on_one_line
            {
                let _ = writeln!(text, "{:<30}→ {remedy}", "");
            }
        }
        let _ = writeln!(
            text,
            "{}",
            if self.ok {
                "`gregor run` would work"
            } else {
                "`gregor run` would not work as it should: see the errors above"
            }
        );
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_make_the_check_fail() {
        let ok = Finding::ok("a", "fine");
        let warning = Finding::warning("b", "hm\nmore", "do this");
        let error = Finding::error("c", "no", "do that");
        assert!(Report::new(vec![ok.clone(), warning.clone()], Vec::new()).ok);
        let report = Report::new(vec![ok, warning, error], Vec::new());
        assert!(!report.ok);
        assert_eq!(
            report.render(),
            "\
ok       a                    fine
WARNING  b                    hm
                              more
                              → do this
ERROR    c                    no
                              → do that
`gregor run` would not work as it should: see the errors above
"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["ok"], false);
        assert_eq!(json["findings"][2]["level"], "error");
        assert!(json["findings"][0].get("remedy").is_none());
    }
}
