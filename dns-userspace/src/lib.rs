//! gregor: gives every tenant of a Kubernetes node its own answer for a wildcard of DNS names.
//!
//! Data flows one way: [`config`] → [`rules`] → [`datapath`]; packets → [`resolve`] → [`inject`]; connections →
//! [`tcp`] → [`resolve`]. Modules that decide do
//! no I/O; modules that touch the kernel or the network are thin. [`model`] has the types between them. [`app`] puts them
//! together.

pub mod app;
mod cgroup;
pub mod claims;
pub mod cli;
pub mod config;
pub mod datapath;
pub mod discover;
mod fair;
pub mod identity;
pub mod inject;
pub mod model;
pub mod monitor;
pub mod nameservers;
pub mod observe;
mod privileges;
pub mod resolve;
pub mod rules;
pub mod sources;
pub mod tcp;
