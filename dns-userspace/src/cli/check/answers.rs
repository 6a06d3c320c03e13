//! How long answers live: what the configuration allows, judged.

use std::time::Duration;

use super::finding::Finding;

/// Longer than this, clients and programs go on with an address that its tenant no longer uses.
const LONG: Duration = Duration::from_secs(3600);

/// A warning for a `max_ttl` of more than an hour.
pub fn max_ttl(max_ttl: Duration) -> Option<Finding> {
    (max_ttl > LONG).then(|| {
        Finding::warning(
            "answers",
            format!(
                "max_ttl = \"{}\": clients keep an address for that long after its target has changed, and the program \
                 gives it for that long after gregor has stopped",
                humantime::format_duration(max_ttl)
            ),
            "an hour or less suits targets that change; the default is 30s",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::{super::finding::Level, *};

    #[test]
    fn more_than_an_hour_is_a_warning() {
        assert_eq!(max_ttl(Duration::from_secs(30)), None);
        assert_eq!(max_ttl(LONG), None);
        let finding = max_ttl(Duration::from_secs(86_400)).unwrap();
        assert_eq!(finding.level, Level::Warning);
        assert!(finding.detail.contains("max_ttl = \"1day\""), "{finding:?}");
    }
}
