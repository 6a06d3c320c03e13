//! Types that the deciding modules share with the datapath: interfaces, queries, limits, publication of answers.
//!
//! Nothing here uses aya or tokio, so that whatever decides builds and is tested without a kernel. The datapath converts
//! from the kernel's ABI where it reads and writes maps.

mod claimant;
mod client;
mod headers;
mod identity;
mod interface;
mod limit;
mod name;
mod outcomes;
mod publish;
mod query;
mod steering;
mod targets;
mod transport;

pub use claimant::{Claimant, NAMES_ANNOTATION, claim_text};
pub use client::{Client, Identify};
pub use headers::{Headers, be16};
pub use identity::{Identity, IdentitySource, Who, WhyNot};
pub use interface::{Interface, RETURN_DEVICES};
pub use limit::Limit;
pub use name::{name_length, wire_name};
pub use outcomes::{Outcomes, TargetState};
pub use publish::{LastGood, Publish, PublishedEntry, Term};
pub use query::{Held, Intercepted, Reinjection, VlanTag};
pub use steering::{Listeners, SteerMode, SteeredClients};
pub use targets::{Changes, Known, Targets};
pub use transport::Transport;
