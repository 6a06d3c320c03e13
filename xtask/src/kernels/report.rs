//! The result of each kernel: as a table on the terminal, as JSON, and whether all of it passed.

use std::collections::BTreeMap;

use gregor_lab::guest::{Load, Outcome, Record, Test};
use serde::{Deserialize, Serialize};

/// A run of the matrix.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Of the checkout, with a `+` when it had changes.
    pub commit: String,
    pub architecture: String,
    pub kernels: Vec<KernelReport>,
}

/// A kernel of the matrix.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct KernelReport {
    /// As it was asked for.
    pub name: String,
    /// What `uname -r` says there.
    pub release: String,
    pub processors: u32,
    pub seconds: u64,
    pub loads: Vec<Load>,
    pub tests: Vec<Test>,
    /// What is wrong with the run itself, with the kernel's log or with the numbers.
    pub troubles: Vec<String>,
    /// Why it was not run at all.
    pub not_run: Option<String>,
    /// Why it had no live lab.
    pub no_lab: Option<String>,
}

/// The result of an item on a kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mark {
    Right,
    Wrong,
    /// Not run there, and why.
    NotApplicable(String),
    /// Not asked for.
    Absent,
}

impl KernelReport {
    pub fn add(&mut self, records: Vec<Record>) {
        for record in records {
            match record {
                Record::Booted { release, .. } => self.release = release,
                Record::Load(load) => self.loads.push(load),
                Record::Test(test) => self.tests.push(test),
                Record::Kernel { line } => self.troubles.push(format!("kernel log: {line}")),
                Record::Done => {}
            }
        }
    }

    pub fn is_right(&self) -> bool {
        self.troubles.is_empty()
            && self
                .tests
                .iter()
                .all(|test| test.outcome != Outcome::Failed)
            && self
                .loads
                .iter()
                .all(|load| load.refused.is_none() || load.lacks.is_some())
    }

    /// Every reason why this kernel is not green, one a line.
    pub fn reasons(&self) -> Vec<String> {
        let mut reasons: Vec<String> = self
            .loads
            .iter()
            .filter(|load| load.lacks.is_none())
            .filter_map(|load| {
                let why = load.refused.as_ref()?;
                Some(format!("{} {}: {why}", load.object, load.program))
            })
            .collect();
        let mut failed: Vec<&Test> = self
            .tests
            .iter()
            .filter(|test| test.outcome == Outcome::Failed)
            // A program that did not load is reported above.
            .filter(|test| test.group != "load" || !self.refuses(&test.name))
            .collect();
        if self.refuses("tc") {
            let (of_it, others): (Vec<&Test>, Vec<&Test>) =
                failed.into_iter().partition(|test| test.group != "load");
            failed = others;
            if !of_it.is_empty() {
                reasons.push(format!(
                    "{} tests of packets and of the lab failed, as they must without the program",
                    of_it.len()
                ));
            }
        }
        reasons.extend(
            failed
                .iter()
                .map(|test| format!("{}: {}", item(test), test.why)),
        );
        reasons.extend(self.troubles.clone());
        reasons
    }

    fn refuses(&self, object: &str) -> bool {
        self.loads
            .iter()
            .any(|load| load.object.replace('-', "_") == object && load.refused.is_some())
    }

    /// The loads by column.
    pub fn load(&self, column: &Column) -> Option<&Load> {
        self.loads.iter().find(|load| column.is_of(load))
    }

    /// An item of the lab or a table of packets.
    pub fn mark(&self, name: &str) -> Mark {
        let mut mark = match &self.no_lab {
            Some(why) => Mark::NotApplicable(why.clone()),
            None => Mark::Absent,
        };
        let mut seen = false;
        for test in self.tests.iter().filter(|test| item(test) == name) {
            mark = match test.outcome {
                Outcome::Failed => return Mark::Wrong,
                Outcome::Skipped => Mark::NotApplicable(test.why.clone()),
                Outcome::Passed if seen && matches!(mark, Mark::NotApplicable(_)) => mark,
                Outcome::Passed => Mark::Right,
            };
            seen = true;
        }
        mark
    }
}

/// What a test is listed as: the tables of packets are one item for each program, a test of the lab is one by itself.
pub fn item(test: &Test) -> String {
    match test.group.as_str() {
        "tables" => format!(
            "{} tables",
            if test.program == "xdp" { "XDP" } else { "TC" }
        ),
        "load" => format!("load {}", test.name.replace('_', "-")),
        _ => test.name.replace('_', " "),
    }
}

/// A program of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    pub object: String,
    pub program: String,
}

impl Column {
    fn is_of(&self, load: &Load) -> bool {
        self.object == load.object && self.program == load.program
    }

    pub fn title(&self) -> String {
        match (self.object.as_str(), self.program.as_str()) {
            ("tc", "gregor") | ("xdp", "gregor_xdp") => self.object.to_uppercase(),
            (_, "gregor_tcp") => "TCP (sk_lookup)".to_owned(),
            (object, "gregor" | "gregor_xdp") => object
                .replace("tc", "TC")
                .replace("xdp", "XDP")
                .replace('-', ", "),
            (object, program) => format!("{object} {program}"),
        }
    }
}

impl Report {
    /// Adds to each kernel's troubles what is wrong with its numbers. `recorded` is what a program cost on a kernel of a name
    /// in the last full run.
    pub fn judge(&mut self, recorded: impl Fn(&str, &Column) -> Option<u32>) {
        let columns = self.columns();
        for kernel in &mut self.kernels {
            if kernel.not_run.is_none() && kernel.release.is_empty() {
                kernel.troubles.push("it did not boot".to_owned());
            }
            for column in &columns {
                let Some(load) = kernel.load(column).filter(|load| load.refused.is_none()) else {
                    continue;
                };
                let now = load.walk.instructions;
                let before = recorded(&kernel.name, column);
                if let Some(before) = before.filter(|before| is_growth(*before, now)) {
                    kernel.troubles.push(format!(
                        "{}: {} instructions, more than a tenth above the {} of docs/kernels.json",
                        column.title(),
                        thousands(now),
                        thousands(before)
                    ));
                }
            }
        }
    }

    pub fn is_right(&self) -> bool {
        self.kernels.iter().all(KernelReport::is_right)
    }

    /// The programs that any kernel was given; that for TCP is in every object and listed once.
    pub fn columns(&self) -> Vec<Column> {
        let mut columns: Vec<Column> = Vec::new();
        for load in self.kernels.iter().flat_map(|kernel| &kernel.loads) {
            let column = Column {
                object: load.object.clone(),
                program: load.program.clone(),
            };
            let again = load.program == "gregor_tcp" && load.object != "tc";
            if !again && !columns.contains(&column) {
                columns.push(column);
            }
        }
        let order = ["tc", "xdp", "tc-debug", "xdp-debug"];
        columns.sort_by_key(|column| order.iter().position(|object| column.object == *object));
        columns
    }

    /// The tables of packets and the items of the lab, in the order in which they ran.
    pub fn items(&self) -> Vec<String> {
        let mut items: Vec<String> = Vec::new();
        for kernel in &self.kernels {
            for test in kernel.tests.iter().filter(|test| test.group != "load") {
                let item = item(test);
                if !items.contains(&item) {
                    items.push(item);
                }
            }
        }
        items
    }

    /// What was not run where and why: the reason, the kernel, the items.
    pub fn not_applicable(&self) -> BTreeMap<(String, String), Vec<String>> {
        let mut found: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
        let mut add = |why: &String, kernel: &KernelReport, item: String| {
            let items = found.entry((why.clone(), kernel.title())).or_default();
            if !items.contains(&item) {
                items.push(item);
            }
        };
        for kernel in &self.kernels {
            for load in &kernel.loads {
                if let (Some(lacks), Some(_)) = (&load.lacks, &load.refused) {
                    add(lacks, kernel, format!("load {}", load.object));
                }
            }
            for item in self.items() {
                if let Mark::NotApplicable(why) = kernel.mark(&item) {
                    let is_lab = kernel.no_lab.as_ref() == Some(&why);
                    add(
                        &why,
                        kernel,
                        if is_lab { "the lab".to_owned() } else { item },
                    );
                }
            }
        }
        found
    }
}

impl KernelReport {
    pub fn title(&self) -> String {
        let release = if self.release.is_empty() {
            &self.name
        } else {
            &self.release
        };
        let processors = match self.processors {
            0 | 1 => String::new(),
            more => format!(", {more} processors"),
        };
        let selinux = match self.name.ends_with("+selinux") {
            true => ", SELinux",
            false => "",
        };
        format!("{release}{processors}{selinux}")
    }
}

/// More than a tenth above the recorded figure.
fn is_growth(before: u32, now: u32) -> bool {
    u64::from(now) * 10 > u64::from(before) * 11
}

/// `49377` as `49,377`.
pub fn thousands(number: u32) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use gregor_lab::guest::Walk;

    use super::*;

    fn load(object: &str, refused: Option<&str>, lacks: Option<&str>) -> Load {
        Load {
            object: object.to_owned(),
            program: if object.starts_with("xdp") {
                "gregor_xdp"
            } else {
                "gregor"
            }
            .to_owned(),
            milliseconds: 1500,
            walk: Walk {
                instructions: 49_377,
                states: 2986,
                ..Walk::default()
            },
            refused: refused.map(str::to_owned),
            lacks: lacks.map(str::to_owned),
        }
    }

    fn test(group: &str, name: &str, outcome: Outcome, why: &str) -> Test {
        Test {
            group: group.to_owned(),
            program: "programs".to_owned(),
            name: name.to_owned(),
            outcome,
            why: why.to_owned(),
            seconds: 1.0,
        }
    }

    #[test]
    fn items_that_are_not_applicable_neither_pass_nor_fail() {
        let kernel = KernelReport {
            loads: vec![
                load("tc", None, None),
                load("xdp", Some("EINVAL"), Some("no helper")),
            ],
            tests: vec![
                test("lab", "netkit", Outcome::Skipped, "no netkit"),
                test("lab", "veth", Outcome::Passed, ""),
            ],
            ..KernelReport::default()
        };
        assert!(kernel.is_right());
        assert_eq!(
            kernel.mark("netkit"),
            Mark::NotApplicable("no netkit".to_owned())
        );
        assert_eq!(kernel.mark("veth"), Mark::Right);
        assert_eq!(kernel.mark("vlan"), Mark::Absent);
        assert_eq!(kernel.reasons(), Vec::<String>::new());
    }

    #[test]
    fn a_refusal_is_listed_once_in_the_kernels_words() {
        let kernel = KernelReport {
            loads: vec![load("tc", Some("R1 offset is outside of the packet"), None)],
            tests: vec![
                test("load", "tc", Outcome::Failed, "assertion failed"),
                test("tables", "the_table", Outcome::Failed, "no program"),
                test("tables", "answers", Outcome::Passed, ""),
            ],
            ..KernelReport::default()
        };
        assert!(!kernel.is_right());
        assert_eq!(kernel.mark("TC tables"), Mark::Wrong);
        assert_eq!(
            kernel.reasons(),
            [
                "tc gregor: R1 offset is outside of the packet",
                "1 tests of packets and of the lab failed, as they must without the program"
            ]
        );
    }

    #[test]
    fn growth_is_more_than_a_tenth() {
        assert!(!is_growth(1000, 900));
        assert!(!is_growth(1000, 1100));
        assert!(is_growth(1000, 1101));
    }

    #[test]
    fn numbers_have_their_commas() {
        assert_eq!(thousands(7), "7");
        assert_eq!(thousands(49_377), "49,377");
        assert_eq!(thousands(1_000_001), "1,000,001");
    }
}
