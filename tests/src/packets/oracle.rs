//! Matches patterns label by label: without automaton and table, independent of the code under test.

/// Index of the first pattern that matches a name in wire format.
pub fn find<'a>(patterns: impl IntoIterator<Item = &'a str>, wire: &[u8]) -> Option<usize> {
    let labels = labels(wire);
    patterns
        .into_iter()
        .position(|pattern| matches(pattern, &labels))
}

/// The labels of a name in wire format, the root not among them.
fn labels(mut wire: &[u8]) -> Vec<&[u8]> {
    let mut labels = Vec::new();
    while let [length @ 1..=63, rest @ ..] = wire {
        let (label, rest) = rest.split_at(usize::from(*length));
        labels.push(label);
        wire = rest;
    }
    labels
}

fn matches(pattern: &str, labels: &[&[u8]]) -> bool {
    let wanted: Vec<&str> = pattern.split('.').collect();
    let (wanted, labels) = match wanted.split_first() {
        Some((&"*", rest)) => {
            let Some(under_star) = labels.len().checked_sub(rest.len()) else {
                return false;
            };
            let (star, labels) = labels.split_at(under_star);
            if star.is_empty() || !star.iter().copied().all(is_plain) {
                return false;
            }
            (rest, labels)
        }
        _ => (wanted.as_slice(), labels),
    };
    wanted.len() == labels.len()
        && wanted.iter().zip(labels).all(|(wanted, label)| {
            if wanted.starts_with('{') {
                is_rfc1123(label)
            } else {
                wanted.as_bytes().eq_ignore_ascii_case(label)
            }
        })
}

/// Neither of the two bytes that are boundaries, in presentation form and in the matcher.
fn is_plain(label: &[u8]) -> bool {
    !label.iter().any(|byte| [b'.', 0xff].contains(byte))
}

fn is_rfc1123(label: &[u8]) -> bool {
    let inner = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'-';
    label.iter().all(inner)
        && label.first().is_some_and(u8::is_ascii_alphanumeric)
        && label.last().is_some_and(u8::is_ascii_alphanumeric)
}
