//! What the thread of identity is told.

use std::path::PathBuf;

use super::facts::PodReport;
use crate::{config, discover::Event};

/// See the module.
#[derive(Debug)]
pub enum Input {
    /// Interfaces that gregor is attached to, or will be.
    Links(Vec<Event>),
    /// What to follow from now on.
    Configure(config::Identity),
    Pods(PodReport),
    /// The API server was heard, or cannot be.
    Api(Option<String>),
    /// Files or folders that are other than before.
    Paths(Vec<PathBuf>),
    /// Changes of files were lost.
    Rescan,
    Stop,
}
