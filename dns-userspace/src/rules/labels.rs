//! What every part of the rule language says of names and labels, and how a complaint about them is put.

/// Longest name on the wire, root label included (RFC 1035 §2.3.4).
pub const MAX_NAME: usize = 255;
/// Longest label (RFC 1035 §2.3.4).
pub const MAX_LABEL: usize = 63;
/// The capture that names the tenant.
pub const NAMESPACE: &str = "namespace";

/// What is wrong with a text, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub problem: String,
    pub remedy: String,
}

impl Problem {
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            remedy: remedy.into(),
        }
    }
}

/// Whether a label is one of RFC 1123 §2.1: letters, digits and inner hyphens.
pub fn is_rfc1123(label: &[u8]) -> bool {
    let ends = [label.first(), label.last()];
    label.len() <= MAX_LABEL
        && ends
            .iter()
            .all(|end| end.is_some_and(|b| b.is_ascii_alphanumeric()))
        && label
            .iter()
            .all(|&b| b.is_ascii_alphanumeric() || b == b'-')
}
