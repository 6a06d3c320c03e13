//! XDP: the table of packets, who is listened to, and a wire behind which clients are answered by the responder and by the
//! program, natively and generically. Wants root and Linux 5.18.

#![allow(clippy::unwrap_used, reason = "a panic is the report")]

use dns_common::verdict::Reason;
use gregor::datapath::{Hook, LoadOptions};
use gregor_tests::packets::{
    engine::{Outcome, Xdp, agree},
    loaded::{LOOPBACK, Loaded, compile, options},
    table::{ALONE, SEVERAL, broker_query, cases},
};

fn xdp() -> LoadOptions {
    LoadOptions {
        hook: Hook::Xdp,
        ..options(compile(SEVERAL))
    }
}

#[test]
fn the_table() {
    let cases = cases();
    let ran = agree(&mut Xdp::new(SEVERAL).unwrap(), cases.iter());
    assert_eq!(ran, cases.iter().filter(|c| c.engines.xdp).count());
    assert!(ran > 200, "{ran}");
}

#[test]
fn the_table_with_one_rule() {
    let cases = cases();
    let ran = agree(
        &mut Xdp::new(ALONE).unwrap(),
        cases.iter().filter(|case| case.holds_alone()),
    );
    assert!(ran > 180, "{ran}");
}

/// What every reload pays; see `programs.rs` for the TC program's.
#[test]
fn verifier_budget() {
    let mut loaded = Loaded::new(&xdp()).unwrap();
    let summary = loaded.datapath.summary().unwrap();
    println!(
        "{} instructions verified, {} bytes of machine code, loaded in {:?}",
        summary.verified_instructions, summary.jited_bytes, summary.load_time
    );
    assert!(summary.verified_instructions > 0);
    assert!(
        summary.verified_instructions < 50_000,
        "{}",
        summary.verified_instructions
    );
}

#[test]
fn only_allowed_sources_are_listened_to() {
    let query = broker_query().build().bytes;
    let source: std::net::IpAddr = <[u8; 4]>::try_from(&query[26..30]).unwrap().into();
    let outcome = |sources: &[&str]| {
        let mut loaded = Loaded::new(&LoadOptions {
            sources: sources.iter().map(|net| net.parse().unwrap()).collect(),
            ..xdp()
        })
        .unwrap();
        loaded.datapath.allow_interface(LOOPBACK).unwrap();
        loaded.test_run(&query).unwrap()
    };
    let alone = format!("{source}/32");
    assert!(matches!(outcome(&[&alone]), Outcome::Taken(_)));
    for refused in [&[][..], &["203.0.113.0/24"], &["fd00::/8"]] {
        assert_eq!(outcome(refused), Outcome::Passed(Reason::Source));
    }
}
