//! Compares the capabilities of a running gregor, thread by thread, with the table in docs/security.md.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use anyhow::{Context as _, Result, bail, ensure};

/// Numbers of the capabilities by their names.
const CAPABILITIES: [(&str, u8); 6] = [
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_NET_ADMIN", 12),
    ("CAP_NET_RAW", 13),
    ("CAP_SYS_RESOURCE", 24),
    ("CAP_PERFMON", 38),
    ("CAP_BPF", 39),
];
/// Threads that a gregor has which serves.
const LASTING: [&str; 7] = [
    "gregor",
    "kernel",
    "identity",
    "return",
    "ring",
    "tokio-rt-worker",
    "notify-rs inoti",
];
/// Threads that load programs.
const LOADING: [&str; 3] = ["gregor", "privileged", "load"];

/// The bits of capabilities, their names apart by spaces.
pub fn set_of(names: &str) -> Result<u64> {
    names.split_whitespace().try_fold(0, |set, name| {
        let known = CAPABILITIES.iter().find(|known| known.0 == name);
        let (_, number) = known.with_context(|| format!("{name} is unknown here"))?;
        Ok(set | 1 << number)
    })
}

/// Version of the kernel, in two numbers.
pub fn kernel_version() -> Result<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    version(&release).with_context(|| format!("no version: {release}"))
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Whether a condition of the table holds here, such as `before 5.17`; for maps, only where the sysctl is set.
fn holds(condition: &str) -> Result<bool> {
    let before = condition
        .strip_prefix("before ")
        .and_then(version)
        .with_context(|| format!("no condition: {condition}"))?;
    let unprivileged = fs::read_to_string("/proc/sys/kernel/unprivileged_bpf_disabled");
    Ok(kernel_version()? < before
        && (before != (5, 19) || unprivileged.is_ok_and(|value| value.trim() != "0")))
}

/// What the page says that each thread has here.
fn documented() -> Result<BTreeMap<String, u64>> {
    let page = include_str!("../../../docs/security.md");
    let (_, table) = page
        .split_once("| thread | does |")
        .context("docs/security.md has no table of threads")?;
    table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let [_, thread, _, now, older, ..] = cells.as_slice() else {
                bail!("not a row: {line}");
            };
            let names = match older.split_once(": ") {
                Some((condition, names)) if holds(condition)? => names,
                _ => now,
            };
            Ok((thread.trim_matches('`').to_owned(), set_of(names)?))
        })
        .collect()
}

/// # Errors
/// When a thread of the process has other capabilities than the page says, can get others, or is not on the page. `more` is what
/// those have beside that load programs.
pub fn are_as_documented(pid: u32, more: &str) -> Result<()> {
    let documented = documented()?;
    let mut seen = BTreeSet::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // One that ends meanwhile.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else {
            continue;
        };
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.map(str::trim)
                .with_context(|| format!("no {name} in {status}"))
        };
        let set = |name| -> Result<u64> { Ok(u64::from_str_radix(field(name)?, 16)?) };
        let thread = field("Name:")?;
        let expected = documented.get(thread);
        let mut expected =
            *expected.with_context(|| format!("{thread} is not in docs/security.md"))?;
        if LOADING.contains(&thread) {
            expected |= set_of(more)?;
        }
        for (name, expected) in [
            ("CapEff:", expected),
            ("CapPrm:", expected),
            ("CapInh:", 0),
            ("CapAmb:", 0),
        ] {
            let found = set(name)?;
            ensure!(
                found == expected,
                "{thread}: {name} {found:016x}, docs/security.md says {expected:016x}"
            );
        }
        ensure!(field("NoNewPrivs:")? == "1", "{thread}: {status}");
        seen.insert(thread.to_owned());
    }
    for thread in LASTING {
        ensure!(seen.contains(thread), "no {thread} in {seen:?}");
    }
    Ok(())
}
