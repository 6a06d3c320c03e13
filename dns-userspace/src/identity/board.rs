//! The latest of each interface and of each source, for `gregor status` and the metrics.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use crate::model::{Identity, IdentitySource, Who, WhyNot};

/// Takes who is behind an interface, each time when that changes.
pub trait Sink: Send + Sync + 'static {
    fn publish(&self, index: u32, who: Who);
    /// The interface is gone; its index may be used again.
    fn gone(&self, index: u32);
}

/// Who is behind an interface, for `gregor status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct WhoStatus {
    pub namespace: String,
    pub pod: String,
    pub uid: String,
    /// Absent as long as no source has said.
    pub labels: Option<BTreeMap<String, String>>,
    pub addresses: Vec<IpAddr>,
    /// `cni`, `kubernetes` or `file`.
    pub source: String,
    /// Seconds since 1970.
    pub since: u64,
}

/// The state of a source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceStatus {
    /// `cni`, `kubernetes` or `file`.
    pub source: String,
    /// Pods that it knows.
    pub pods: u64,
    /// Files that are no results of pods, by why not.
    pub ignored: BTreeMap<Cow<'static, str>, u64>,
    /// Why it cannot be read, while it cannot.
    pub error: Option<String>,
}

/// The identities of all interfaces.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IdentityStatus {
    /// In the order of trust.
    pub sources: Vec<SourceStatus>,
    /// Interfaces by the source that says who is behind them, or by why nobody is known.
    pub interfaces: BTreeMap<Cow<'static, str>, u64>,
    /// Why interfaces cannot be read, while they cannot.
    pub error: Option<String>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Board(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    interfaces: BTreeMap<u32, Who>,
    sources: Vec<SourceStatus>,
    error: Option<String>,
}

impl Board {
    /// Who is behind an interface; `None` where that is not looked for.
    pub fn who(&self, index: u32) -> Option<Who> {
        self.lock().interfaces.get(&index).cloned()
    }

    pub fn status(&self) -> IdentityStatus {
        const SOURCES: [IdentitySource; 3] = [
            IdentitySource::Cni,
            IdentitySource::Kubernetes,
            IdentitySource::File,
        ];
        let inner = self.lock();
        let labels = SOURCES.iter().map(|source| source.as_str());
        let labels = labels.chain(WhyNot::ALL.iter().map(|why| why.label()));
        let mut interfaces: BTreeMap<Cow<'static, str>, u64> =
            labels.map(|label| (label.into(), 0)).collect();
        for who in inner.interfaces.values() {
            let label = match who {
                Ok(identity) => identity.source.as_str(),
                Err(why) => why.label(),
            };
            *interfaces.entry(label.into()).or_default() += 1;
        }
        IdentityStatus {
            sources: inner.sources.clone(),
            interfaces,
            error: inner.error.clone(),
        }
    }

    pub(super) fn set_sources(&self, sources: Vec<SourceStatus>, error: Option<String>) {
        let mut inner = self.lock();
        (inner.sources, inner.error) = (sources, error);
    }

    /// A panic elsewhere leaves plain data behind.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sink for Board {
    fn publish(&self, index: u32, who: Who) {
        self.lock().interfaces.insert(index, who);
    }

    fn gone(&self, index: u32) {
        self.lock().interfaces.remove(&index);
    }
}

impl From<&Identity> for WhoStatus {
    fn from(identity: &Identity) -> WhoStatus {
        WhoStatus {
            namespace: identity.namespace.clone(),
            pod: identity.pod.clone(),
            uid: identity.uid.clone(),
            labels: identity.labels.clone(),
            addresses: identity.addresses.clone(),
            source: identity.source.as_str().to_owned(),
            since: seconds(identity.since),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_counted_by_source_or_reason() {
        let board = Board::default();
        board.publish(1, Err(WhyNot::Unknown));
        board.publish(2, Err(WhyNot::Ambiguous));
        board.publish(2, Err(WhyNot::Unknown));
        board.publish(3, Err(WhyNot::Off));
        board.gone(3);
        let counts = board.status().interfaces;
        assert_eq!(
            (counts["unknown"], counts["ambiguous"], counts["off"]),
            (2, 0, 0)
        );
        assert_eq!(counts.len(), 3 + WhyNot::ALL.len());
        assert_eq!(board.who(1), Some(Err(WhyNot::Unknown)));
        assert_eq!(board.who(3), None);
    }
}
