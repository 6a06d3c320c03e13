//! One finding: what was checked, with what result, and the remedy.

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    Warning,
    Error,
}

/// The result of one check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub level: Level,
    pub what: String,
    pub detail: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// On the line of the detail: `gregor run` says the same, on one line.
    #[serde(skip)]
    pub on_one_line: bool,
}

impl Finding {
    pub fn ok(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            level: Level::Ok,
            what: what.into(),
            detail: detail.into(),
            remedy: None,
            on_one_line: false,
        }
    }

    pub fn warning(what: impl Into<String>, detail: impl Into<String>, remedy: &str) -> Self {
        Self {
            level: Level::Warning,
            remedy: Some(remedy.to_owned()),
            ..Self::ok(what, detail)
        }
    }

    pub fn error(what: impl Into<String>, detail: impl Into<String>, remedy: &str) -> Self {
        Self {
            level: Level::Error,
            remedy: Some(remedy.to_owned()),
            ..Self::ok(what, detail)
        }
    }
}
