//! Packet fixtures: one table of frames and verdicts, and the engines that must all agree with it.

pub mod answers;
pub mod build;
pub mod engine;
pub mod loaded;
pub mod mutate;
pub mod observer;
pub mod oracle;
pub mod probe;
pub mod table;
pub mod wire;
