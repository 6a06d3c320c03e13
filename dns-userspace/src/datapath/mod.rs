//! The one user of aya: loads the programs, attaches them, reads their maps.
//!
//! A [`Datapath`] is one loaded program with one immutable rule set. A reload loads a second one beside it and replaces
//! the program on each interface in one step ([`Datapath::adopt`]): there is no moment at which a packet meets half of
//! an old table and half of a new one, and no table is ever sized for a rule set other than its own.

mod answers;
mod attach;
mod breakglass;
mod egress;
mod event;
mod heartbeat;
mod interfaces;
mod load;
mod log;
mod mapping;
mod monitor;
mod netdev;
mod netlink;
mod offload;
mod pod;
mod ring;
mod steer;

pub use answers::{AnswerOptions, AnswerSizes, Answers, Given, Publish, Term};
pub use attach::{Hook, Interface, Order, XdpMode, detect_hook, programs_on};
pub use breakglass::{DetachReport, detach_all};
pub use event::{Intercepted, VlanTag};
pub use heartbeat::Heartbeat;
pub use load::{Datapath, DatapathError, Limit, LoadOptions, ProgramSummary, TestOutcome};
pub use log::{LOG_TARGET, ProgramLog};
pub use monitor::{Decided, Decision, Decisions, Switch};
pub use netdev::xdp_modes;
pub use offload::vlan_offload_remedy;
pub use ring::Ring;
pub use steer::{Listeners, SteerMode, Steered, SteeringSummary, open_listeners};

/// Name of the TC program in the kernel's listings; `detach --all` goes by it.
pub const PROGRAM: &str = "gregor";
/// Name of the XDP program.
pub const XDP_PROGRAM: &str = "gregor_xdp";
