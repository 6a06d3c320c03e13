//! Whether this kernel takes the programs, each with what its verifier had to do for that. Wants root.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

mod verifier;

use std::time::Duration;

use gregor::datapath::{Datapath, Hook, LoadOptions, PROGRAM, XDP_PROGRAM};
use gregor_tests::{
    lab::{
        guest::{INSTRUCTIONS_MAX, Load, Record, Walk},
        skip,
    },
    packets::{loaded::answering, probe},
};
use verifier::Judged;

fn options(hook: Hook) -> LoadOptions {
    LoadOptions {
        hook,
        ..answering()
    }
}

/// Loads an object, reports every program in it, and returns what the verifier said of them.
fn load(object: &str, options: &LoadOptions, logging: bool) -> Vec<Judged> {
    verifier::take();
    let lacks = match options.hook {
        Hook::Xdp => probe::lacks_for_xdp(),
        Hook::Tcx | Hook::Clsact => None,
    };
    let loaded = if logging {
        Datapath::load_logging(options)
    } else {
        Datapath::load(options)
    };
    let mut judged = verifier::take();
    let own = match options.hook {
        Hook::Xdp => XDP_PROGRAM,
        Hook::Tcx | Hook::Clsact => PROGRAM,
    };
    if let Err(error) = &loaded
        && !judged.iter().any(|judged| judged.program == own)
    {
        // Refused before the kernel was asked.
        judged.push(Judged {
            program: own.to_owned(),
            time: Duration::ZERO,
            walk: Walk::default(),
            refused: Some(error.to_string()),
        });
    }
    for judged in &judged {
        println!("{object}: {judged:?}");
        Record::Load(Load {
            object: object.to_owned(),
            program: judged.program.clone(),
            milliseconds: judged.time.as_millis() as u64,
            walk: judged.walk,
            refused: judged.refused.clone(),
            lacks: lacks.clone(),
        })
        .report();
    }
    let refused = judged.iter().any(|judged| judged.refused.is_some());
    if refused && let Some(lacks) = lacks {
        skip(object, &lacks);
        return Vec::new();
    }
    assert!(
        !judged.is_empty(),
        "no program was loaded: {:?}",
        loaded.err()
    );
    for judged in &judged {
        assert_eq!(judged.refused, None, "{}", judged.program);
        let instructions = judged.walk.instructions;
        assert!(instructions > 0, "{}: no statistics", judged.program);
        assert!(
            instructions < INSTRUCTIONS_MAX,
            "{}: {instructions} instructions, {INSTRUCTIONS_MAX} or more",
            judged.program
        );
    }
    loaded.unwrap();
    judged
}

/// With it comes the program for TCP.
#[test]
fn tc() {
    let judged = load("tc", &options(Hook::Tcx), false);
    let names: Vec<&str> = judged.iter().map(|j| j.program.as_str()).collect();
    for name in [PROGRAM, "gregor_tcp"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
}

#[test]
fn xdp() {
    load("xdp", &options(Hook::Xdp), false);
}

/// The object of `--debug-bpf`.
#[test]
fn tc_debug() {
    load("tc-debug", &options(Hook::Tcx), true);
}

#[test]
fn xdp_debug() {
    load("xdp-debug", &options(Hook::Xdp), true);
}
