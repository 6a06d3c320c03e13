//! The one user of aya: loads the programs, attaches them, reads their maps.
//!
//! A [`Datapath`] is one loaded program with one immutable rule set. A reload loads a second one beside it and replaces
//! the program on each interface in one step ([`Datapath::adopt`]): there is no moment at which a packet meets half of
//! an old matcher and half of a new one. The maps that do not depend on the rule set are shared ([`Base`]): answers,
//! counters, interfaces and the ring outlive the program, and the process too where they are pinned.

mod answers;
mod attach;
mod attempt;
mod base;
mod bounded;
mod breakglass;
mod causes;
mod clients;
mod clsact;
mod confinement;
mod diagnosis;
mod egress;
mod error;
mod filter_changes;
mod footprint;
mod heap;
mod heartbeat;
mod interfaces;
mod journal;
mod link;
mod load;
mod log;
mod mapping;
mod memlock;
mod meta;
mod monitor;
mod netdev;
mod netlink;
mod node;
mod notes;
mod object;
mod observed;
mod offload;
mod options;
mod other_version;
mod pins;
mod pod;
mod probe;
mod program;
mod reinjections;
mod return_path;
mod ring;
mod rule_sets;
mod server_id;
mod shared;
mod stage;
mod steer;
mod succession;
mod sys;
mod verifier;

pub use answers::{AnswerOptions, AnswerSizes, Answers, Given};
pub use attach::{Hook, InFront, Order, detect_hook, has_tcx, programs_on};
pub use attempt::{Attempt, verifier_log};
pub use base::Base;
pub use breakglass::{DetachReport, detach_all};
pub use diagnosis::{
    ALLOW_CAPABILITIES, Diagnosis, Wanted, missing_capabilities_remedy, size, withheld_capabilities,
};
pub use error::{DatapathError, Refused, one_line};
pub use filter_changes::FilterChanges;
pub use heap::trim_heap;
pub use heartbeat::{HEARTBEAT_VALID, Heartbeat};
pub use log::{LOG_TARGET, ProgramLog};
pub use memlock::{Memlock, maps_take_bpf, raise_memlock};
pub use monitor::{Decided, Decision, Decisions, Switch};
pub use netdev::{XdpMode, xdp_modes};
pub use netlink::{Netlink, attributes};
pub use node::{Node, missing_capabilities};
pub use offload::vlan_offload_remedy;
pub use options::{HIT_LANES, LoadOptions, Protection, wanted};
pub use pins::{Claim, STATE, State, StateError, forget};
pub use program::{Datapath, ProgramSummary, TestOutcome};
pub use return_path::ReturnPath;
pub use ring::Ring;
pub use shared::Shared;
pub use stage::Stage;
pub use steer::{Steered, SteeringSummary};

// What callers pass in and get out.
pub use crate::model::{
    Intercepted, Interface, Limit, Listeners, Publish, RETURN_DEVICES, SteerMode, Term, VlanTag,
};

/// Name of the TC program in the kernel's listings.
pub const PROGRAM: &str = "gregor";
/// Name of the XDP program.
pub const XDP_PROGRAM: &str = "gregor_xdp";
