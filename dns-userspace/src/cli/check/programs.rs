//! Loads the programs as `gregor run` would.

use std::{path::Path, time::Duration};

use serde::Serialize;

use super::finding::{Finding, Level};
use crate::{
    app::{
        load::{self, Failure, log_directories, progress_line},
        settings::Settings,
    },
    datapath::{Attempt, Base, Datapath, SteerMode, Wanted, size, wanted},
};

/// The result of loading one program.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Program {
    /// `maps` when the maps could not be created.
    name: String,
    loaded: bool,
    /// Instructions that the verifier walked; absent where the kernel does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    verified_instructions: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    load_seconds: Option<f64>,
    /// Why it is not loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
    /// Where the verifier's log is.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// Whether gregor does without it.
    #[serde(skip)]
    is_optional: bool,
}

/// The results of loading all of them.
#[derive(Clone, Debug)]
pub struct LoadResults {
    pub programs: Vec<Program>,
    /// What the maps take.
    pub wanted: Wanted,
}

impl LoadResults {
    /// Whether `gregor run` could load them too.
    pub fn is_loaded(&self) -> bool {
        self.programs
            .iter()
            .all(|program| program.loaded || program.is_optional)
    }

    pub fn findings(&self) -> Vec<Finding> {
        let mut findings: Vec<Finding> = self.programs.iter().map(Program::finding).collect();
        if self.is_loaded() {
            findings.push(Finding::ok("maps", maps_line(&self.wanted)));
        }
        findings
    }
}

impl Program {
    fn loaded(name: &str, verified_instructions: u32, took: Duration) -> Self {
        Self {
            name: name.to_owned(),
            loaded: true,
            verified_instructions: (verified_instructions > 0).then_some(verified_instructions),
            load_seconds: Some(took.as_secs_f64()),
            reason: None,
            remedy: None,
            log: None,
            is_optional: false,
        }
    }

    fn failed(failure: &Failure) -> Self {
        Self {
            name: failure.diagnosis.program.unwrap_or("maps").to_owned(),
            loaded: false,
            verified_instructions: None,
            load_seconds: None,
            reason: Some(failure.diagnosis.reason.clone()),
            remedy: failure.diagnosis.remedy.clone(),
            log: failure.log.as_ref().map(|path| path.display().to_string()),
            is_optional: false,
        }
    }

    fn finding(&self) -> Finding {
        let what = match self.name.as_str() {
            "maps" => "maps".to_owned(),
            name => format!("program {name}"),
        };
        let Some(reason) = &self.reason else {
            let verified = match self.verified_instructions {
                Some(count) => format!("{count} instructions verified"),
                None => {
                    "loaded; this kernel does not say how many instructions it verified".to_owned()
                }
            };
            let seconds = self.load_seconds.unwrap_or_default();
            return Finding::ok(what, format!("{verified}, in {:.0} ms", seconds * 1e3));
        };
        let log = self
            .log
            .as_ref()
            .map(|path| format!("the verifier's log is in {path}"));
        let remedy: Vec<String> = self.remedy.iter().cloned().chain(log).collect();
        Finding {
            level: if self.is_optional {
                Level::Warning
            } else {
                Level::Error
            },
            what,
            detail: reason.clone(),
            remedy: (!remedy.is_empty()).then(|| remedy.join("; ")),
            on_one_line: true,
        }
    }
}

/// Loads the programs, and unloads them.
pub fn load(settings: &Settings, limit: Duration) -> LoadResults {
    let options = settings.load_options();
    let directories = log_directories(Path::new(super::super::CONTROL));
    let attempt = Attempt {
        base: Base::default(),
        logging: false,
        limit,
    };
    let result = load::load(&options, &attempt, &directories, &mut |stage, took| {
        eprintln!("{}", progress_line(stage, took));
    });
    let mut programs = Vec::new();
    match result {
        Err(failure) => programs.push(Program::failed(&failure)),
        Ok(mut datapath) => {
            programs.extend(main_program(&mut datapath));
            if settings.tcp != SteerMode::Never {
                programs.push(match datapath.steering_summary() {
                    Ok(summary) => Program::loaded(
                        summary.name,
                        summary.verified_instructions,
                        summary.verify_time,
                    ),
                    // TCP then reaches the existing cache.
                    Err(error) => Program {
                        is_optional: true,
                        ..Program::failed(&Failure::of(&error, &options, &directories))
                    },
                });
            }
        }
    }
    LoadResults {
        programs,
        wanted: wanted(&options),
    }
}

fn maps_line(wanted: &Wanted) -> String {
    format!(
        "about {}, of which {} for each of {} possible processor(s); {} more while a reload replaces the matcher",
        size(wanted.bytes),
        size(wanted.per_processor),
        wanted.processors,
        size(wanted.of_reload)
    )
}

fn main_program(datapath: &mut Datapath) -> Option<Program> {
    let summary = datapath.summary().ok()?;
    Some(Program::loaded(
        summary.name,
        summary.verified_instructions,
        summary.verify_time,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::Diagnosis;

    fn failed() -> Program {
        Program::failed(&Failure {
            diagnosis: Diagnosis {
                program: Some("gregor"),
                reason: "the kernel refuses program gregor: R4 invalid zero-sized read".to_owned(),
                remedy: Some("use another kernel".to_owned()),
            },
            log: Some("/run/gregor/gregor-verifier.log".into()),
        })
    }

    #[test]
    fn loaded_programs_have_their_figures() {
        let program = Program::loaded("gregor", 12_345, Duration::from_millis(80));
        let finding = program.finding();
        assert_eq!(
            (finding.level, finding.what.as_str()),
            (Level::Ok, "program gregor")
        );
        assert_eq!(finding.detail, "12345 instructions verified, in 80 ms");
        let json = serde_json::to_value(&program).unwrap();
        assert_eq!(json["verified_instructions"], 12_345);
        assert_eq!(json["load_seconds"], 0.08);
        assert!(json.get("reason").is_none());
        let old = Program::loaded("gregor", 0, Duration::ZERO);
        assert!(old.finding().detail.contains("does not say"));
        assert!(
            serde_json::to_value(&old)
                .unwrap()
                .get("verified_instructions")
                .is_none()
        );
    }

    #[test]
    fn refused_programs_have_reason_remedy_and_log_on_one_line() {
        let program = failed();
        let finding = program.finding();
        assert_eq!(finding.level, Level::Error);
        assert!(finding.on_one_line);
        assert_eq!(
            format!("{}; {}", finding.detail, finding.remedy.unwrap()),
            "the kernel refuses program gregor: R4 invalid zero-sized read; use another kernel; the verifier's log is in \
             /run/gregor/gregor-verifier.log"
        );
        let json = serde_json::to_value(&program).unwrap();
        assert_eq!(json["loaded"], false);
        assert_eq!(json["remedy"], "use another kernel");
        assert_eq!(json["log"], "/run/gregor/gregor-verifier.log");
    }

    #[test]
    fn the_line_about_maps_has_the_part_of_each_processor() {
        let wanted = Wanted {
            bytes: 20 << 20,
            of_reload: 5 << 20,
            processors: 256,
            per_processor: 3000,
            unsupported: Vec::new(),
        };
        assert_eq!(
            maps_line(&wanted),
            "about 20 MiB, of which 3 KiB for each of 256 possible processor(s); 5 MiB more while a reload replaces the matcher"
        );
    }

    #[test]
    fn steering_is_optional() {
        let steering = Program {
            is_optional: true,
            ..failed()
        };
        assert_eq!(steering.finding().level, Level::Warning);
        let tried = |programs| LoadResults {
            programs,
            wanted: Wanted::default(),
        };
        assert!(tried(vec![steering]).is_loaded());
        assert!(!tried(vec![failed()]).is_loaded());
    }
}
