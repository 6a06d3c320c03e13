//! A Kubernetes node as DNS sees it, in network namespaces: pods, an existing cache, a cluster DNS, and gregor if asked.
//!
//! Shared by `cargo xtask run` and the end-to-end tests. Everything that a [`Lab`] makes is removed when it is dropped, when
//! the process panics or gets SIGTERM, and, after a SIGKILL, when the next lab of the same prefix starts.

mod capabilities;
mod cleanup;
mod client;
mod config;
mod datagrams;
mod dns;
mod gregor;
pub mod guest;
mod netns;
mod node;
mod patience;
mod process;
mod skip;
mod sync;
pub mod threads;
pub mod tools;
pub mod world;

pub use capabilities::{
    enter_group, enter_profile, enter_type, forbid_bpf, keep as keep_capabilities, limit_memlock,
};
pub use cleanup::{exit_code_on_interrupt, sweep};
pub use client::{Ask, Transport};
pub use config::{ARTICLE_TEMPLATE, gregor_toml};
pub use datagrams::{dropped_at, hold_bursts};
pub use dns::LoggedQuery;
pub use gregor::Gregor;
pub use netns::Netns;
pub use node::{Builder, CacheKind, ClusterKind, Lab, Pod, Server};
pub use patience::{PATIENCE, patience};
pub use process::Process;
pub use skip::{SKIPPED_FILE, skip};
