//! What has been measured so far, one line each, so that an interrupted run can go on.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};

use super::{
    latency::Recorded,
    machine::Machine,
    plan::{Mode, Plan},
    schema::{Build, Sample},
};

/// What a journal belongs to: measurements of another build, machine or plan are not to be mixed with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub gregor: Build,
    pub mode: Mode,
    pub machine: Machine,
    pub cells: Vec<String>,
    /// Seconds since 1970, and share of processor time that others used; not compared.
    pub started: u64,
    pub background: f64,
}

impl Head {
    pub fn new(plan: &Plan, gregor: Build, machine: Machine, background: f64) -> Self {
        Self {
            gregor,
            mode: plan.mode,
            machine,
            cells: plan.cells().map(|cell| cell.id.clone()).collect(),
            started: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            background,
        }
    }

    /// Why the other one's measurements cannot go on as this one's.
    fn differs(&self, other: &Self) -> Option<&'static str> {
        [
            ("commit", self.gregor != other.gregor),
            ("mode", self.mode != other.mode),
            ("machine", self.machine != other.machine),
            ("cells", self.cells != other.cells),
        ]
        .into_iter()
        .find_map(|(what, differs)| differs.then_some(what))
    }
}

/// A measurement as a line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub cell: String,
    pub sample: Sample,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latency: Option<Recorded>,
    /// What it took.
    pub seconds: f64,
}

/// The file and what it holds.
pub struct Journal {
    file: File,
    pub head: Head,
    pub entries: Vec<Entry>,
}

impl Journal {
    /// Begins anew.
    pub fn create(path: &Path, head: Head) -> Result<Self> {
        let mut file = File::create(path).with_context(|| path.display().to_string())?;
        writeln!(file, "{}", serde_json::to_string(&head)?)?;
        Ok(Self {
            file,
            head,
            entries: Vec::new(),
        })
    }

    /// Goes on with what is there, or begins when nothing is.
    pub fn resume(path: &Path, head: Head) -> Result<Self> {
        if !path.exists() {
            return Self::create(path, head);
        }
        let (found, entries) = read(path)?;
        if let Some(what) = found.differs(&head) {
            bail!(
                "{} was begun with another {what}: run without --resume to begin anew",
                path.display()
            );
        }
        // Rewritten, because its last line may have been cut short.
        let mut journal = Self::create(path, found)?;
        for entry in entries {
            journal.add(entry)?;
        }
        Ok(journal)
    }

    pub fn add(&mut self, entry: Entry) -> Result<()> {
        writeln!(self.file, "{}", serde_json::to_string(&entry)?)?;
        self.file.flush()?;
        self.entries.push(entry);
        Ok(())
    }

    pub fn has(&self, cell: &str, round: usize, point: Option<usize>) -> bool {
        self.entries.iter().any(|entry| {
            entry.cell == cell && entry.sample.round == round && entry.sample.point == point
        })
    }

    /// By cell, in the order of measuring.
    pub fn by_cell(&self) -> HashMap<&str, Vec<&Entry>> {
        let mut cells: HashMap<&str, Vec<&Entry>> = HashMap::new();
        for entry in &self.entries {
            cells.entry(&entry.cell).or_default().push(entry);
        }
        cells
    }

    /// What measuring has taken in all.
    pub fn seconds(&self) -> f64 {
        self.entries.iter().map(|entry| entry.seconds).sum()
    }
}

fn read(path: &Path) -> Result<(Head, Vec<Entry>)> {
    let file = OpenOptions::new().read(true).open(path)?;
    let mut lines = BufReader::new(file).lines();
    let head = lines.next().context("an empty journal")??;
    let head = serde_json::from_str(&head).context("the journal's first line")?;
    let mut entries = Vec::new();
    for line in lines {
        // The one that was being written when the run ended.
        let Ok(entry) = serde_json::from_str(&line?) else {
            break;
        };
        entries.push(entry);
    }
    Ok((head, entries))
}

/// A span of time as people write it.
pub fn duration_text(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        _ => format!("{} min {:02} s", seconds / 60, seconds % 60),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn head(commit: &str) -> Head {
        let gregor = Build {
            version: "0.1.0".to_owned(),
            commit: Some(commit.to_owned()),
            modified: false,
        };
        let machine = Machine {
            cpu: "a processor".to_owned(),
            cores: 2,
            memory_kib: 1,
            kernel: "6.18".to_owned(),
            virtual_machine: true,
            governor: None,
        };
        Head::new(&Plan::new(Mode::Quick), gregor, machine, 0.25)
    }

    fn entry(cell: &str, round: usize, value: f64) -> Entry {
        Entry {
            cell: cell.to_owned(),
            sample: Sample {
                round,
                point: None,
                values: [("p50_us".to_owned(), value)].into(),
            },
            latency: Some(Recorded {
                buckets: vec![(100, 3)],
            }),
            seconds: 0.5,
        }
    }

    #[test]
    fn an_interrupted_run_is_resumed() {
        let directory = std::env::temp_dir().join(format!("journal-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("samples.jsonl");

        let mut journal = Journal::resume(&path, head("a")).unwrap();
        journal.add(entry("latency/x", 0, 1.25)).unwrap();
        journal.add(entry("latency/x", 1, 1.5)).unwrap();
        drop(journal);
        // Killed while it wrote.
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, &whole[..whole.len() - 20]).unwrap();

        let mut journal = Journal::resume(&path, head("a")).unwrap();
        assert_eq!(journal.entries, [entry("latency/x", 0, 1.25)]);
        assert!(journal.has("latency/x", 0, None));
        assert!(!journal.has("latency/x", 1, None));
        assert!(!journal.has("latency/x", 0, Some(1)));
        journal.add(entry("latency/x", 1, 1.75)).unwrap();
        drop(journal);
        let journal = Journal::resume(&path, head("a")).unwrap();
        assert_eq!(journal.entries.len(), 2);
        assert_eq!(journal.seconds(), 1.0);

        let error = Journal::resume(&path, head("b")).err().unwrap();
        assert!(error.to_string().contains("another commit"), "{error}");
        let journal = Journal::create(&path, head("b")).unwrap();
        assert!(journal.entries.is_empty());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn times_are_formatted() {
        assert_eq!(duration_text(Duration::from_secs(59)), "59 s");
        assert_eq!(duration_text(Duration::from_secs(61)), "1 min 01 s");
    }
}
