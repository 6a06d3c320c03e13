//! Errors of rtnetlink.

use std::io;

/// An error of rtnetlink.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    #[error(
        "cannot listen for interfaces over rtnetlink: {0}; is the process confined by seccomp?"
    )]
    Open(#[source] io::Error),
    #[error("cannot read interface changes from rtnetlink: {0}")]
    Read(#[source] io::Error),
    #[error("cannot list interfaces over rtnetlink: {0}")]
    Dump(#[source] rtnetlink::Error),
    #[error("cannot look a route up over rtnetlink: {0}")]
    Route(#[source] rtnetlink::Error),
}
