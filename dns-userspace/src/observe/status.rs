//! One snapshot of the state of gregor: `gregor status`, `/metrics`, `/healthz` and `/readyz` are views of it.

use std::{borrow::Cow, collections::BTreeMap, net::IpAddr};

use dns_common::verdict::{EXPIRED, REFRESHED, Reason, Verdict};
use serde::{Deserialize, Serialize};

use crate::{
    identity::{IdentityStatus, WhoStatus},
    nameservers,
    resolve::ResponderStatus,
    sources::{ApiStatus, SelectedStatus},
    tcp,
};

/// A ring loop whose last turn is this long ago hangs: it makes several turns a second.
const STUCK_SECONDS: f64 = 10.0;

/// The state of a running gregor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    /// The node that it runs on.
    pub node: String,
    /// Seconds since the process started to serve.
    pub uptime_seconds: f64,
    pub readiness: Readiness,
    pub config: ConfigStatus,
    pub hook: String,
    pub order: String,
    pub servers: Vec<IpAddr>,
    /// From where servers are learnt, with `"auto"` among them in the configuration.
    pub learnt: Vec<nameservers::Source>,
    pub rules: Vec<RuleStatus>,
    pub interfaces: Vec<InterfaceStatus>,
    /// Seconds since the ring loop last renewed the programs' deadline; absent before the first time.
    pub heartbeat_age_seconds: Option<f64>,
    pub kernel: KernelStatus,
    pub responder: ResponderStatus,
    pub tcp: TcpStatus,
    pub kubernetes: ApiStatus,
    /// The namespaces that rules select by labels.
    pub selected: SelectedStatus,
    pub identity: IdentityStatus,
    pub claims: ClaimsStatus,
    /// Errors of rtnetlink, after each of which all interfaces were listed again.
    pub interface_resyncs: u64,
    /// Tasks that panicked since the start.
    pub panics: u64,
}

/// The inputs of `/readyz`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Readiness {
    /// A configuration is loaded and its programs are in the kernel.
    pub loaded: bool,
    /// The interfaces present at the start were all tried, and each is attached.
    pub attached: bool,
    /// The ring is drained and the deadline renewed.
    pub serving: bool,
    /// SIGTERM came.
    pub stopping: bool,
    /// Everything is prepared, and another gregor serves until it hands over.
    pub standby: bool,
}

/// The inputs of `/healthz` and `/readyz`: without the numbers of the programs, whose tables others may be writing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vital {
    pub readiness: Readiness,
    /// See [`Status::heartbeat_age_seconds`].
    pub heartbeat_age_seconds: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigStatus {
    pub path: String,
    /// Loads that took effect, the first included.
    pub loads: u64,
    /// Loads that were refused; the last good one stayed in force.
    pub failures: u64,
    /// Why the last one was refused, if it was.
    pub error: Option<String>,
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RuleStatus {
    pub name: String,
    pub pattern: String,
    pub target: String,
    /// The namespaces that it is for; absent where it is for all.
    pub namespaces: Option<Vec<String>>,
    /// The labels that these have, where they are selected by them; `namespaces` is absent then while that is not known, and the rule is
    /// for none.
    pub namespace_labels: Option<String>,
    /// Whom it is for, where that is not everybody.
    pub clients: Option<String>,
    /// It only counts what it matches.
    pub observes: bool,
}

/// The names that tenants claim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimsStatus {
    /// Whether anything may be claimed.
    pub is_on: bool,
    /// Of each Service that claims any, in the namespaces that have pods here.
    pub claims: Vec<ClaimStatus>,
    /// Names that are refused, by reason.
    pub refused: BTreeMap<Cow<'static, str>, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClaimStatus {
    pub namespace: String,
    pub service: String,
    pub accepted: Vec<String>,
    /// The first few names that are refused, each with the reason.
    pub refused: Vec<(String, String)>,
    /// How many more are.
    pub unlisted: usize,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InterfaceStatus {
    pub index: u32,
    pub name: String,
    /// The mode of XDP: `native` in the driver, `generic` in the kernel.
    pub mode: Option<String>,
    /// Why it is not attached, if it is not.
    pub error: Option<String>,
    /// Programs that get its frames before gregor's, which sees only what they pass on.
    pub in_front: Vec<InFrontStatus>,
    /// The pod behind it, where that is known.
    pub who: Option<WhoStatus>,
    /// Why it is not; absent without a source of identity.
    pub nobody: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InFrontStatus {
    /// `tcx` or `clsact`.
    pub hook: String,
    pub program: String,
}

/// The state of the programs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KernelStatus {
    pub requests: Vec<Counter>,
    /// Names that a rule matched in `mode = "observe"`, by rule.
    pub observed: BTreeMap<String, u64>,
    /// Queries to port 53 of addresses that are not among the servers.
    pub other_servers: BTreeMap<String, u64>,
    pub answers: AnswersStatus,
    /// Programs that another process detached.
    pub removed: u64,
    /// How often gregor moved its program in front of one that had come later.
    pub moved: u64,
    pub program: Option<ProgramStatus>,
}

/// The answers that the program in force serves by itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AnswersStatus {
    /// Answers in its tables.
    pub entries: u64,
    /// Targets in its tables that do not exist.
    pub no_target: u64,
    /// Answers that found no place.
    pub unplaced: u64,
    /// Refreshes that it asked for.
    pub refreshes: u64,
    /// Expired answers given while no responder was running.
    pub expired: u64,
    /// Answers given, by rule; over all programs, as are the namespaces.
    pub rules: BTreeMap<String, u64>,
    /// Answers given, by the namespace that a rule captured.
    pub namespaces: BTreeMap<String, u64>,
}

/// How many requests met one verdict for one reason.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counter {
    /// `answered`, `taken`, `pass`, `spoiled` or `unanswered`.
    pub verdict: String,
    /// Why it passes; `matched` otherwise.
    pub reason: String,
    pub count: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgramStatus {
    pub id: u32,
    pub verified_instructions: u64,
    pub load_seconds: f64,
    pub jited_bytes: u64,
    /// Cells of the matcher.
    pub table_bytes: u64,
}

/// The steering of TCP.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct TcpStatus {
    /// As the configuration spells it.
    pub mode: String,
    /// Why nothing is steered although the mode says so.
    pub error: Option<String>,
    /// The servers whose packets end in the node's network namespace: only their TCP can be steered.
    pub local_servers: Vec<IpAddr>,
    #[serde(flatten)]
    pub counters: tcp::Counters,
}

impl KernelStatus {
    /// From counters indexed by [`Verdict::counter`]. Packets other than DNS are not counted, so not listed.
    pub fn requests(counters: &[u64]) -> Vec<Counter> {
        let passes = Reason::ALL
            .iter()
            .filter(|reason| **reason != Reason::NotDns)
            .map(|reason| (Verdict::Pass(*reason), "pass", reason.label()));
        [
            (Verdict::Answered, "answered", "matched"),
            (Verdict::Taken, "taken", "matched"),
            (Verdict::Spoiled, "spoiled", "matched"),
            (Verdict::Unanswered, "unanswered", "matched"),
        ]
        .into_iter()
        .chain(passes)
        .map(|(verdict, label, reason)| Counter {
            verdict: label.to_owned(),
            reason: reason.to_owned(),
            count: counters.get(verdict.counter()).copied().unwrap_or(0),
        })
        .collect()
    }

    /// Refreshes that the programs asked for, from the same counters.
    pub fn refreshes(counters: &[u64]) -> u64 {
        counters.get(REFRESHED).copied().unwrap_or(0)
    }

    /// Expired answers that the programs gave, from the same counters.
    pub fn expired(counters: &[u64]) -> u64 {
        counters.get(EXPIRED).copied().unwrap_or(0)
    }
}

impl Vital {
    /// What still keeps `/readyz` from saying yes.
    pub fn not_ready(&self) -> Vec<String> {
        let readiness = &self.readiness;
        let mut missing = Vec::new();
        if readiness.standby && !readiness.stopping {
            return missing;
        }
        if readiness.stopping {
            missing.push("stopping".to_owned());
        }
        if !readiness.loaded {
            missing.push("no configuration is loaded".to_owned());
        }
        if !readiness.attached {
            missing.push("not every interface that is present is attached".to_owned());
        }
        if !readiness.serving {
            missing.push("the ring is not being drained".to_owned());
        }
        missing
    }

    /// Why `/healthz` says no: a restart would help.
    pub fn unhealthy(&self) -> Option<String> {
        let age = self.heartbeat_age_seconds?;
        (age > STUCK_SECONDS && !self.readiness.stopping)
            .then(|| format!("the ring loop has not come round for {age:.0} s"))
    }
}

impl Status {
    /// The inputs of health and readiness.
    pub fn vital(&self) -> Vital {
        Vital {
            readiness: self.readiness.clone(),
            heartbeat_age_seconds: self.heartbeat_age_seconds,
        }
    }

    /// Programs on a hook that get the frames of an interface before gregor's.
    pub fn in_front(&self, hook: &str) -> usize {
        self.interfaces
            .iter()
            .flat_map(|interface| &interface.in_front)
            .filter(|found| found.hook == hook)
            .count()
    }

    /// Interfaces with a program on them.
    pub fn attached(&self) -> usize {
        self.interfaces
            .iter()
            .filter(|interface| interface.error.is_none())
            .count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counted_verdict_is_listed_once() {
        let counters: Vec<u64> = (0..32).collect();
        let requests = KernelStatus::requests(&counters);
        assert_eq!(requests.len(), Reason::ALL.len() + 3);
        let find = |reason: &str| {
            requests
                .iter()
                .find(|counter| counter.reason == reason && counter.verdict != "answered")
                .map(|counter| (counter.verdict.as_str(), counter.count))
        };
        assert_eq!(find("no_rule"), Some(("pass", Reason::NoRule as u64)));
        assert_eq!(find("matched"), Some(("taken", Reason::ALL.len() as u64)));
        assert_eq!(find("not_dns"), None);
        // Counters of an older program may be fewer.
        assert!(KernelStatus::requests(&[]).iter().all(|c| c.count == 0));
    }

    #[test]
    fn readiness_and_health() {
        let mut status = Vital::default();
        assert_eq!(status.not_ready().len(), 3);
        assert_eq!(status.unhealthy(), None, "starting is not being ill");
        status.readiness = Readiness {
            loaded: true,
            attached: true,
            serving: true,
            ..Readiness::default()
        };
        status.heartbeat_age_seconds = Some(0.2);
        assert!(status.not_ready().is_empty());
        assert_eq!(status.unhealthy(), None);
        status.heartbeat_age_seconds = Some(11.0);
        assert!(status.unhealthy().unwrap().contains("11 s"));
        status.readiness.stopping = true;
        assert_eq!(status.unhealthy(), None, "draining is not being ill");
        assert_eq!(status.not_ready(), ["stopping"]);
        let mut standby = Vital::default();
        standby.readiness.standby = true;
        assert!(standby.not_ready().is_empty() && standby.unhealthy().is_none());
        standby.readiness.stopping = true;
        assert!(!standby.not_ready().is_empty());
    }
}
