//! The load generator: whole frames from inside the pods' namespaces, where a packet sender saturates before dnsperf
//! does, and ordinary sockets where what counts is the time that a client waits.

pub mod closed;
pub mod flow;
pub mod frames;
pub mod names;
pub mod open;
pub mod replies;
pub mod socket;
