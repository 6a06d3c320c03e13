//! A Service whose annotation claims names for its namespace, as the API server has it.

use serde::{Deserialize, Serialize};

/// The annotation.
pub const NAMES_ANNOTATION: &str = "gregor-dns.github.io/names";
/// Longest text of an annotation that is kept, in bytes; what is behind the last comma in it is cut off.
const MAX_TEXT: usize = 8 << 10;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claimant {
    pub namespace: String,
    pub service: String,
    pub uid: String,
    /// When the Service was created, in seconds since 1970: of two, the older one counts.
    pub created: i64,
    /// The annotation.
    pub names: String,
    /// Whether the annotation was longer than what is kept.
    pub is_cut: bool,
}

/// What is kept of an annotation, and whether that is not all of it.
pub fn claim_text(text: &str) -> (String, bool) {
    if text.len() <= MAX_TEXT {
        return (text.to_owned(), false);
    }
    let bytes = text.as_bytes().get(..MAX_TEXT).unwrap_or_default();
    let end = bytes.iter().rposition(|&byte| byte == b',').unwrap_or(0);
    (text[..end].to_owned(), true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_annotations_are_cut_behind_a_name() {
        assert_eq!(claim_text("a.b,c.d"), ("a.b,c.d".to_owned(), false));
        let names = vec!["ä.example"; 2000].join(",");
        let (kept, is_cut) = claim_text(&names);
        assert!(is_cut && kept.len() <= MAX_TEXT && kept.len() > MAX_TEXT - 20);
        assert!(kept.split(',').all(|name| name == "ä.example"));
        assert_eq!(claim_text(&"x".repeat(MAX_TEXT + 1)), (String::new(), true));
    }
}
