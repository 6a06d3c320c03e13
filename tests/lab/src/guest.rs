//! The protocol between `cargo xtask kernels` and process 1 of its guests.

use std::{fs::OpenOptions, io::Write as _};

use serde::{Deserialize, Serialize};

/// Where the guest finds its [`Plan`].
pub const PLAN: &str = "/plan.json";
/// What a line of the console begins with when a [`Record`] follows.
pub const MARK: &str = "@gregor ";
/// The environment variable that names the file to which a test adds [`Record`]s, one a line.
pub const RECORDS_FILE: &str = "GREGOR_RECORDS_FILE";

/// The environment variable that tests find in a guest, which is theirs to change as they like.
pub const GUEST: &str = "GREGOR_GUEST";

/// Whether this runs in one.
#[must_use]
pub fn is_guest() -> bool {
    std::env::var_os(GUEST).is_some()
}

/// No program may cost a verifier as much, on any kernel: far from its own limit of a million.
pub const INSTRUCTIONS_MAX: u32 = 250_000;

/// What the guest is to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Module files in the order in which they are loaded.
    pub modules: Vec<String>,
    /// What the tests find in their environment.
    pub environment: Vec<(String, String)>,
    pub steps: Vec<Step>,
}

/// Tests of one libtest program, each run in a process of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// What the tests are listed under: `load`, `tables` or `lab`.
    pub group: String,
    pub program: String,
    /// Exact names; all tests of the program when empty.
    pub tests: Vec<String>,
    /// How long one test may take.
    pub limit_seconds: u64,
    /// For guests that are booted with this on the kernel's command line, and for no others; empty for the usual ones.
    pub boot: String,
}

/// What the guest reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "lowercase")]
pub enum Record {
    Booted {
        release: String,
        processors: usize,
    },
    Load(Load),
    Test(Test),
    /// A line of the kernel's log that reports a defect.
    Kernel {
        line: String,
    },
    /// Every step was run.
    Done,
}

/// One BPF_PROG_LOAD of a program of gregor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Load {
    /// Which object was being loaded, and for what: `tc`, `xdp`, `tc-debug`, `xdp-debug`.
    pub object: String,
    /// The program's name in the kernel's listings.
    pub program: String,
    pub milliseconds: u64,
    pub walk: Walk,
    /// The kernel's reason in one line, when it refused.
    pub refused: Option<String>,
    /// Why a refusal is expected: what this kernel lacks.
    pub lacks: Option<String>,
}

/// The verifier's statistics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Walk {
    pub instructions: u32,
    pub states: u32,
    pub peak_states: u32,
    pub states_per_instruction: u32,
}

/// One test.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Test {
    pub group: String,
    pub program: String,
    pub name: String,
    pub outcome: Outcome,
    /// Why it failed or did not run, in one line.
    pub why: String,
    pub seconds: f64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    Passed,
    Failed,
    Skipped,
}

impl Record {
    /// Adds it to the file that [`RECORDS_FILE`] names, if it names one.
    ///
    /// # Panics
    /// When it cannot be added: a test that ran unseen is worse than one that failed.
    pub fn report(&self) {
        let Some(path) = std::env::var_os(RECORDS_FILE) else {
            return;
        };
        let line = serde_json::to_string(self).expect("plain data");
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(path)
            .and_then(|mut file| writeln!(file, "{line}"));
        if let Err(error) = written {
            panic!("{line} could not be reported: {error}");
        }
    }
}
