//! Names that tenants claim by an annotation of their Services: what becomes a rule, and what is refused and why; no I/O.
//!
//! Claims of one pattern are one rule, with a Service for each namespace, and are looked at behind the configuration's rules.
//! What one namespace claims changes nothing for the pods of another.

mod damper;
mod decide;
mod pattern;
mod refusal;

pub use damper::Damper;
pub use decide::{Decision, Platform, RULE_NAME, Snapshot, Verdict, compile, decide};
pub use pattern::NamePattern;
pub use refusal::Refusal;

use std::path::PathBuf;

/// The `[tenants]` section: what may be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenants {
    /// Names and patterns; empty where nothing may be.
    pub may_claim: Vec<NamePattern>,
    /// How many names a namespace may claim.
    pub names_per_namespace: usize,
    /// The static file of claims, in the place of annotations.
    pub file: Option<PathBuf>,
}

/// What `names_per_namespace` is when it is left out.
pub const NAMES_PER_NAMESPACE: usize = 32;
/// Its largest value.
pub const MAX_NAMES_PER_NAMESPACE: usize = 256;

impl Default for Tenants {
    fn default() -> Self {
        Self {
            may_claim: Vec::new(),
            names_per_namespace: NAMES_PER_NAMESPACE,
            file: None,
        }
    }
}

impl Tenants {
    /// Whether anything may be claimed.
    pub fn is_on(&self) -> bool {
        !self.may_claim.is_empty()
    }
}
