//! The order of loads in the machine code that the JIT of this kernel emits for the programs. On arm64 only, where branches
//! order none; wants root.
#![cfg(target_arch = "aarch64")]
#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use std::{collections::BTreeSet, os::fd::AsFd as _};

use gregor::datapath::{Datapath, Hook, LoadOptions};
use gregor_tests::{
    arm64::{
        Fault, check,
        jited::{functions, functions_by_id},
        sample::{Dependencies, load_reader},
    },
    lab::skip,
    packets::{loaded::answering, probe},
};

/// Readers and kinds of faults in what the JIT makes of a reader.
fn of_sample(dependencies: Dependencies) -> (usize, BTreeSet<&'static str>) {
    let program = load_reader(dependencies).unwrap();
    let functions = functions(program.as_fd()).unwrap();
    assert_eq!(functions.len(), 1);
    let report = check(&functions[0]).unwrap_or_else(|error| panic!("{error}: {functions:x?}"));
    println!("{dependencies:?}: {report:?} in {:08x?}", functions[0]);
    let kinds = report.faults.iter().map(|fault| match fault {
        Fault::Early { .. } => "early",
        Fault::Unwitnessed { .. } => "unwitnessed",
        Fault::Late { .. } => "late",
        Fault::Unmatched { .. } => "unmatched",
        Fault::Empty { .. } => "empty",
    });
    (report.readers.len(), kinds.collect())
}

#[test]
fn jit_keeps_dependencies() {
    assert_eq!(of_sample(Dependencies::Both), (1, BTreeSet::new()));
}

/// The check can fail.
#[test]
fn missing_dependencies_are_seen_in_jited_code() {
    assert_eq!(of_sample(Dependencies::None), (0, BTreeSet::new()));
    let faults = BTreeSet::from(["early", "unmatched"]);
    assert_eq!(of_sample(Dependencies::NoFirst), (0, faults.clone()));
    assert_eq!(of_sample(Dependencies::NoSecond), (0, faults));
}

/// Places that read an entry after a look at its sequence number: by suffix, by key, where there is no target, and the copy.
const READERS_MIN: usize = 4;

/// Goes through every function of a loaded program.
fn reads_in_order(hook: Hook) {
    let options = LoadOptions {
        hook,
        ..answering()
    };
    let mut datapath = Datapath::load(&options).unwrap();
    let summary = datapath.summary().unwrap();
    println!(
        "{hook:?}: {} instructions, {} bytes of code, {:?}",
        summary.verified_instructions, summary.jited_bytes, summary.load_time
    );
    let mut readers = 0;
    for (number, function) in functions_by_id(summary.id).unwrap().iter().enumerate() {
        let report = check(function).unwrap_or_else(|error| panic!("function {number}: {error}"));
        println!("{hook:?}: function {number}: {report:?}");
        assert_eq!(report.faults, BTreeSet::new(), "function {number}");
        let firsts: BTreeSet<usize> = report.readers.iter().map(|reader| reader.first).collect();
        readers += firsts.len();
    }
    assert!(readers >= READERS_MIN, "{readers} readers");
}

#[test]
fn tc_reads_in_order() {
    reads_in_order(Hook::Clsact);
}

#[test]
fn xdp_reads_in_order() {
    match probe::lacks_for_xdp() {
        Some(lacks) => skip("xdp_reads_in_order", &lacks),
        None => reads_in_order(Hook::Xdp),
    }
}
