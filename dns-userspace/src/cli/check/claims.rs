//! Whether what tenants claim can be known.

use super::finding::Finding;
use crate::{claims::Tenants, config};

const WHAT: &str = "tenants";

/// A finding where anything may be claimed. `is_in_cluster` where there is an API server to ask.
pub fn judge(tenants: &Tenants, is_in_cluster: bool) -> Finding {
    let allowed: Vec<String> = tenants.may_claim.iter().map(ToString::to_string).collect();
    let may_claim = format!("may claim {}", allowed.join(" "));
    let Some(file) = &tenants.file else {
        return if is_in_cluster {
            Finding::ok(WHAT, format!("{may_claim}, by annotations of Services"))
        } else {
            Finding::warning(
                WHAT,
                format!(
                    "{may_claim}, and the API server that has the annotations is not known here"
                ),
                "run it in a pod of the chart, or name a static [tenants] file",
            )
        };
    };
    let claims = config::read_text(file).and_then(|text| config::parse_claims(file, &text));
    match claims {
        Ok(claims) => Finding::ok(
            WHAT,
            format!(
                "{may_claim}; {} has {} claims",
                file.display(),
                claims.len()
            ),
        ),
        Err(error) => Finding::error(
            WHAT,
            error.to_string(),
            "correct it: nothing is claimed by a file that is refused",
        ),
    }
}

/// Whether this gregor speaks to an API server here.
pub fn is_in_cluster() -> bool {
    #[cfg(feature = "kubernetes")]
    return crate::sources::client::is_in_cluster();
    #[cfg(not(feature = "kubernetes"))]
    false
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;
    use crate::claims::NamePattern;

    #[test]
    fn claims_that_nobody_can_know_are_worth_a_word() {
        let mut tenants = Tenants {
            may_claim: vec![NamePattern::parse("*.confluent.cloud").unwrap()],
            ..Tenants::default()
        };
        assert_eq!(judge(&tenants, true).level, Level::Ok);
        assert_eq!(judge(&tenants, false).level, Level::Warning);
        tenants.file = Some("/nowhere/claims.toml".into());
        assert_eq!(judge(&tenants, true).level, Level::Error);
    }
}
