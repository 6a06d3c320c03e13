//! The infra cache: the form in which each server has to be asked; no I/O, no clock.
//!
//! Some servers do not support EDNS (RFC 6891 §6.2.2), some do not keep the case of a question, some have names in lower case only.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, ResponseCode},
    rr::RecordType,
};
use tracing::info;

/// How long a server is asked in the form that it was found to need. Then one question finds out whether it still does.
pub const REMEMBERED_FOR: Duration = Duration::from_secs(600);
/// Most servers in the cache. Few are ever asked; link-local ones count once per interface.
const MAX_SERVERS: usize = 256;

/// The form of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// An OPT.
    pub edns: bool,
    /// Letters in random case (0x20).
    pub mixed_case: bool,
}

#[cfg(test)]
impl Style {
    /// The form for a server that is not in the cache.
    pub const FULL: Style = Style {
        edns: true,
        mixed_case: true,
    };
}

/// Why a server was asked once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryReason {
    /// It refuses the OPT, or gives no reply while there is one.
    WithoutEdns,
    /// It changed the case of the question.
    CaseNotKept,
    /// It denied or refused a name in mixed case.
    LowerCase,
}

impl fmt::Display for RetryReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RetryReason::WithoutEdns => "the server does not take EDNS; asked again without",
            RetryReason::CaseNotKept => {
                "the server does not keep the question's case; asked again in lower case"
            }
            RetryReason::LowerCase => "asked once more in lower case",
        })
    }
}

/// Why a reply to a question in mixed case has to be confirmed in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseDoubt {
    /// A denial: the server may have the name in lower case only.
    Denied,
    /// An error: it is the reply if none comes to the question in lower case.
    Failed,
}

/// Whether a reply to a question in mixed case may be due to that case.
pub fn case_doubt(reply: &Message) -> Option<CaseDoubt> {
    match reply.metadata.response_code {
        ResponseCode::NXDomain => Some(CaseDoubt::Denied),
        ResponseCode::NoError => {
            // Neither records nor a denial of the type.
            let says_nothing = reply.answers.is_empty()
                && !reply
                    .authorities
                    .iter()
                    .any(|record| matches!(record.record_type(), RecordType::SOA | RecordType::NS));
            says_nothing.then_some(CaseDoubt::Failed)
        }
        _ => Some(CaseDoubt::Failed),
    }
}

/// Whether the reply in lower case shows that the one before was due to the case alone. A failure of the server for a moment is
/// not recorded.
pub fn case_matters(first: &Message, second: &Message) -> bool {
    let positive = second.metadata.response_code == ResponseCode::NoError
        && (!second.answers.is_empty() || case_doubt(second).is_none());
    positive && first.metadata.response_code != ResponseCode::ServFail
}

/// See the module.
#[derive(Debug, Default)]
pub struct InfraCache {
    servers: Mutex<HashMap<SocketAddr, Entry>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    /// Until when it is asked without an OPT, and in lower case.
    without_edns: Option<Instant>,
    lower_case: Option<Instant>,
}

impl InfraCache {
    /// How to ask a server now.
    pub fn style(&self, server: SocketAddr, now: Instant) -> Style {
        let servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = servers.get(&server).copied().unwrap_or_default();
        let lasts = |until: Option<Instant>| until.is_some_and(|until| now < until);
        Style {
            edns: !lasts(known.without_edns),
            mixed_case: !lasts(known.lower_case),
        }
    }

    /// Records that a server needs queries without an OPT, or in lower case.
    pub fn learn(&self, server: SocketAddr, reason: RetryReason, now: Instant) {
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.len() >= MAX_SERVERS && !servers.contains_key(&server) {
            servers.retain(|_, known| {
                [known.without_edns, known.lower_case]
                    .into_iter()
                    .flatten()
                    .any(|until| now < until)
            });
            if servers.len() >= MAX_SERVERS {
                return;
            }
        }
        let known = servers.entry(server).or_default();
        let (place, how) = match reason {
            RetryReason::WithoutEdns => (&mut known.without_edns, "without EDNS"),
            RetryReason::CaseNotKept | RetryReason::LowerCase => {
                (&mut known.lower_case, "in lower case")
            }
        };
        let was_known = place
            .replace(now + REMEMBERED_FOR)
            .is_some_and(|until| now < until);
        if !was_known {
            info!(
                %server,
                minutes = REMEMBERED_FOR.as_secs() / 60,
                "an upstream has to be asked {how}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resolve::testing::*;

    fn server(number: u16) -> SocketAddr {
        ([127, 0, 0, 1], number).into()
    }

    #[test]
    fn an_entry_holds_for_one_server_and_expires() {
        let (infra, now) = (InfraCache::default(), Instant::now());
        infra.learn(server(1), RetryReason::WithoutEdns, now);
        infra.learn(server(2), RetryReason::CaseNotKept, now);
        infra.learn(server(3), RetryReason::LowerCase, now);
        for (number, edns, mixed_case) in [
            (1, false, true),
            (2, true, false),
            (3, true, false),
            (4, true, true),
        ] {
            let style = Style { edns, mixed_case };
            assert_eq!(infra.style(server(number), now), style, "{number}");
            let later = now + REMEMBERED_FOR;
            assert_eq!(infra.style(server(number), later), Style::FULL);
        }
    }

    #[test]
    fn the_number_of_servers_is_bounded_and_old_ones_are_evicted() {
        let (infra, now) = (InfraCache::default(), Instant::now());
        for number in 0..2 * MAX_SERVERS as u16 {
            infra.learn(server(number), RetryReason::WithoutEdns, now);
        }
        assert_eq!(infra.servers.lock().unwrap().len(), MAX_SERVERS);
        let later = now + REMEMBERED_FOR;
        infra.learn(server(9999), RetryReason::LowerCase, later);
        assert!(!infra.style(server(9999), later).mixed_case);
        assert_eq!(infra.servers.lock().unwrap().len(), 1);
    }

    #[test]
    fn replies_that_may_be_due_to_the_case() {
        use ResponseCode::*;
        let owner = "kafka-upstream.foo.svc.cluster.local.";
        let positive = message(NoError, vec![a(owner, 9, [10, 0, 0, 1])], vec![]);
        let nodata = message(NoError, vec![], vec![soa("cluster.local.", 9, 9)]);
        let nothing = message(NoError, vec![], vec![]);
        for (reply, expected) in [
            (&positive, None),
            (&nodata, None),
            (&nothing, Some(CaseDoubt::Failed)),
            (&message(NXDomain, vec![], vec![]), Some(CaseDoubt::Denied)),
            (&message(Refused, vec![], vec![]), Some(CaseDoubt::Failed)),
            (&message(ServFail, vec![], vec![]), Some(CaseDoubt::Failed)),
            (&message(NotAuth, vec![], vec![]), Some(CaseDoubt::Failed)),
        ] {
            assert_eq!(case_doubt(reply), expected, "{reply:?}");
        }
        for (first, second, expected) in [
            (NXDomain, &positive, true),
            (Refused, &nodata, true),
            (NotAuth, &positive, true),
            (NXDomain, &nothing, false),
            (ServFail, &positive, false),
        ] {
            let first = message(first, vec![], vec![]);
            assert_eq!(case_matters(&first, second), expected, "{first:?}");
        }
    }
}
