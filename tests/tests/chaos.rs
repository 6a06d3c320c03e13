//! Fault injection in its short form, on both hooks; and planted faults are found. Wants root.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::time::Duration;

use gregor::datapath::has_tcx;
use gregor_tests::{
    chaos::{self, Fault, Place, Plan, Plant, QUICK, Run, Verdict},
    lab::{guest, skip},
};

/// Three pods; the order of the faults is another one each time, and printed.
fn run_of(plan: Plan, place: Place, plant: Option<Plant>) -> Run {
    Run {
        plan,
        place,
        pods: 3,
        seed: rand::random(),
        plant,
        only: Vec::new(),
        time: None,
    }
}

fn run(plan: Plan, place: Place, plant: Option<Plant>) -> Verdict {
    let outcome = chaos::run("e2echaos", &run_of(plan, place, plant)).unwrap();
    println!("{}", chaos::render(&outcome.verdict));
    for skipped in &outcome.skipped {
        println!("skipped: {skipped}");
    }
    outcome.verdict
}

fn can_use_tcx(test: &str) -> bool {
    let can = has_tcx().unwrap();
    if !can {
        skip(test, "this kernel has no tcx");
    }
    can
}

fn promises_are_kept(place: Place) {
    let verdict = run(QUICK, place, None);
    assert_eq!(verdict.broken, Vec::<String>::new());
    let sent: u64 = verdict.rows.values().flat_map(|row| row.counts.sent).sum();
    assert!(sent > 10_000, "{sent} queries: too few for a result");
}

#[test]
fn promises_are_kept_on_tcx() {
    if can_use_tcx("promises_are_kept_on_tcx") {
        promises_are_kept(Place::Tcx);
    }
}

#[test]
fn promises_are_kept_on_clsact() {
    promises_are_kept(Place::Clsact);
}

/// Few queries and few faults, on whatever hook this kernel has: `cargo xtask kernels` runs it where the processor is emulated. How
/// many new names pass while a process loads its programs says nothing there.
const SHORT: Plan = Plan {
    faults: &[
        (Fault::Upgrade, 2),
        (Fault::Kill, 2),
        (Fault::Absence, 1),
        (Fault::Stop, 1),
        (Fault::Reload, 1),
        (Fault::Churn, 1),
        (Fault::Purge, 1),
    ],
    absence: Duration::from_secs(3),
    rate: 20,
    queries: 0,
};

/// [`SHORT`], with fewer queries in a guest: one emulated processor verifies the programs and runs the existing cache too, and on
/// Linux 7.2 and 7.3 replies of the cache came after the clients' timeout at 20 queries a second.
fn short() -> Plan {
    match guest::is_guest() {
        true => Plan { rate: 8, ..SHORT },
        false => SHORT,
    }
}

#[test]
fn a_short_run() {
    let place = match has_tcx().unwrap() {
        true => Place::Tcx,
        false => Place::Clsact,
    };
    let verdict = run(short(), place, None);
    let is_about_time = |line: &String| line.contains("new names were left to the cache");
    let (_, broken): (Vec<String>, Vec<String>) =
        verdict.broken.into_iter().partition(is_about_time);
    assert_eq!(broken, Vec::<String>::new());
    let sent: u64 = verdict.rows.values().flat_map(|row| row.counts.sent).sum();
    assert!(sent > 500, "{sent} queries: too few for a result");
}

/// By the limit of a cgroup: of version 2 in guests of `cargo xtask kernels`.
#[test]
fn killed_for_lack_of_memory() {
    const TEST: &str = "killed_for_lack_of_memory";
    let place = match has_tcx().unwrap() {
        true => Place::Tcx,
        false => Place::Clsact,
    };
    let plan = Plan {
        faults: &[(Fault::OutOfMemory, 2)],
        ..short()
    };
    let outcome = chaos::run("e2echaos", &run_of(plan, place, None)).unwrap();
    println!("{}", chaos::render(&outcome.verdict));
    if let Some(why) = outcome.skipped.first() {
        return skip(TEST, why);
    }
    // An emulated processor may take longer than a client waits, to load the programs alone.
    let is_guest = guest::is_guest();
    let counts = |line: &&String| {
        let is_lost = is_guest && line.contains(" lost queries");
        !line.contains("new names were left to the cache") && !is_lost
    };
    let broken: Vec<&String> = outcome.verdict.broken.iter().filter(counts).collect();
    assert_eq!(broken, Vec::<&String>::new());
}

/// A plan of one fault, twice.
fn twice(fault: &'static [(Fault, usize)]) -> Plan {
    Plan {
        faults: fault,
        absence: Duration::from_secs(2),
        ..QUICK
    }
}

#[test]
fn missing_pins_are_found() {
    if !can_use_tcx("missing_pins_are_found") {
        return;
    }
    let plan = twice(&[(Fault::Absence, 2)]);
    let broken = run(plan, Place::Tcx, Some(Plant::Pins)).broken;
    let is_found = |line: &String| line.contains("known names without their endpoint");
    assert!(broken.iter().any(is_found), "{broken:?}");
    // The same without the fault.
    let broken = run(plan, Place::Tcx, None).broken;
    assert_eq!(broken, Vec::<String>::new());
}

#[test]
fn a_heartbeat_that_is_never_renewed_is_found() {
    let plan = twice(&[(Fault::Quiet, 2)]);
    let broken = run(plan, Place::Clsact, Some(Plant::Heartbeat)).broken;
    let is_found = |line: &String| line.contains("new names were left to the cache");
    assert!(broken.iter().any(is_found), "{broken:?}");
    let broken = run(plan, Place::Clsact, None).broken;
    assert_eq!(broken, Vec::<String>::new());
}
