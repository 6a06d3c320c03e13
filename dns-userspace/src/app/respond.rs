//! The responder in force; a reload that changes nothing of it leaves it, and with it the last good answers, in place.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU32},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;

use super::{kernel::End, settings::Settings, state::Responding};
use crate::{
    datapath::{Intercepted, ReturnPath, one_line},
    inject::Injector,
    monitor::Hub,
    observe::{MAX_NAMESPACES, OTHER_NAMESPACES, ResponderStatus},
    resolve::{DnsSource, Responder, Snapshot, Steer, StreamQuery},
    tcp::Answer,
};

type Live = Responder<DnsSource, Injector>;

/// Hands queries to the responder in force.
pub struct Respond {
    live: ArcSwap<Live>,
    /// Closed at the end.
    return_path: Mutex<Option<ReturnPath>>,
    /// Its index, which changes when it is made anew.
    return_device: Arc<AtomicU32>,
    steer: Arc<dyn Steer>,
    hub: Arc<Hub>,
    kept: Mutex<Kept>,
}

/// A responder that nobody asks yet.
pub struct Prepared {
    live: Arc<Live>,
    settings: Settings,
}

struct Kept {
    settings: Settings,
    /// Responders that were replaced and may still answer, and so count.
    replaced: Vec<Arc<Live>>,
    /// What responders that are gone have counted.
    before: ResponderStatus,
}

impl Kept {
    /// Takes over the counts of the replaced responders that nobody uses any more: no query is being handed to them,
    /// and none waits.
    fn settle(&mut self) {
        let before = &mut self.before;
        self.replaced.retain_mut(|old| {
            let gone = Arc::get_mut(old).is_some();
            if gone {
                add(before, &told(&old.snapshot()));
            }
            !gone
        });
    }
}

impl Respond {
    pub fn new(
        settings: &Settings,
        steer: Arc<dyn Steer>,
        hub: Arc<Hub>,
    ) -> anyhow::Result<Arc<Self>> {
        let return_path = ReturnPath::open()
            .map_err(|error| anyhow::anyhow!("queries cannot pass: {}", one_line(&error)))?;
        let return_device = Arc::clone(return_path.index());
        Ok(Arc::new(Self {
            live: ArcSwap::from_pointee(open(settings, &return_device, &steer, &hub).context(
                "cannot open the sockets for replies; CAP_NET_RAW is needed, `gregor check` says what is missing",
            )?),
            return_path: Mutex::new(Some(return_path)),
            return_device,
            steer,
            hub,
            kept: Mutex::new(Kept {
                settings: settings.clone(),
                replaced: Vec::new(),
                before: ResponderStatus::default(),
            }),
        }))
    }

    /// Answers, passes on, or lets wait.
    pub fn handle(&self, query: Intercepted) {
        self.live.load().handle(query);
    }

    /// Forgets what is kept on the account of an interface that is gone.
    pub fn release_interface(&self, index: u32) {
        self.live.load().release_interface(index);
    }

    /// Opens the responder of another configuration, `None` when the one in force serves it as well. It is put to work by
    /// [`Respond::commit`].
    pub fn prepare(&self, settings: &Settings) -> io::Result<Option<Prepared>> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.settings.same_responder(settings) {
            return Ok(None);
        }
        Ok(Some(Prepared {
            live: Arc::new(open(settings, &self.return_device, &self.steer, &self.hub)?),
            settings: settings.clone(),
        }))
    }

    /// Puts another responder to work. Queries that wait at the one before are answered by it.
    pub fn commit(&self, prepared: Prepared) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.live.swap(prepared.live);
        kept.settle();
        kept.replaced.push(old);
        kept.settings = prepared.settings;
    }

    /// Makes the device by which queries pass anew where another process took it or its program away.
    pub fn mend(&self) {
        let mut path = self
            .return_path
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match path.as_mut().map_or(Ok(false), ReturnPath::mend) {
            Ok(false) => {}
            Ok(true) => tracing::warn!(
                "another process took away the device by which queries pass, or its program; it is back"
            ),
            Err(error) => tracing::warn!(
                error = one_line(&error),
                "another process took away the device by which queries pass; will try again"
            ),
        }
    }

    /// Removes the device by which queries pass, unless a successor uses it: the last thing, since those that wait may pass
    /// until then.
    pub fn close(&self, end: End) {
        let path = self.return_path.lock();
        let path = path.unwrap_or_else(PoisonError::into_inner).take();
        match (path, end) {
            (Some(path), End::Leave) => path.leave(),
            (path, _) => drop(path),
        }
    }

    /// Returns once nobody waits for an answer.
    pub async fn idle(&self) {
        self.live.load_full().drained().await;
    }
}

impl Responding for Respond {
    fn status(&self) -> ResponderStatus {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.settle();
        let mut status = told(&self.live.load().snapshot());
        let gauges = (status.chases_in_flight, std::mem::take(&mut status.stores));
        add(&mut status, &kept.before);
        for old in &kept.replaced {
            add(&mut status, &told(&old.snapshot()));
        }
        (status.chases_in_flight, status.stores) = gauges;
        status
    }
}

impl Answer for Respond {
    fn answer(&self, query: StreamQuery) {
        self.live.load().handle_stream(query);
    }
}

fn open(
    settings: &Settings,
    return_device: &Arc<AtomicU32>,
    steer: &Arc<dyn Steer>,
    hub: &Arc<Hub>,
) -> io::Result<Live> {
    let responder = Responder::new(
        settings.responder_options(),
        DnsSource::new(settings.timeout),
        Injector::open(Arc::clone(return_device))?,
    );
    let responder = responder.with_steering(Arc::clone(steer));
    Ok(responder.with_monitor(Arc::clone(hub)))
}

fn told(snapshot: &Snapshot) -> ResponderStatus {
    let owned = |map: &std::collections::BTreeMap<&'static str, u64>| {
        map.iter()
            .map(|(label, count)| ((*label).to_owned(), *count))
            .collect()
    };
    ResponderStatus {
        queries: snapshot.queries,
        replies: owned(&snapshot.replies),
        passed_on: owned(&snapshot.passed),
        chases: snapshot.chases,
        chase_failures: owned(&snapshot.chase_failures),
        broken_chains: snapshot.broken_chains,
        targets_without_address: snapshot.no_address,
        stale_answers: snapshot.stale_answers,
        unanswered: snapshot.unanswered,
        truncated: snapshot.truncated,
        send_errors: snapshot.send_errors,
        refreshes: snapshot.refreshes,
        refreshes_refused: snapshot.refreshes_refused,
        chases_in_flight: snapshot.in_flight as u64,
        stores: [
            ("answers", snapshot.store.answers),
            ("other_types", snapshot.store.other_types),
            ("no_target", snapshot.store.no_target),
            ("trouble", snapshot.store.failures),
        ]
        .map(|(store, entries)| (store.to_owned(), entries as u64))
        .into(),
        namespaces: snapshot
            .namespaces
            .iter()
            .map(|(namespace, counts)| {
                let results = [
                    ("answer", counts.answers),
                    ("stale", counts.stale),
                    ("servfail", counts.servfail),
                ];
                (
                    namespace.clone(),
                    results
                        .map(|(result, count)| (result.to_owned(), count))
                        .into(),
                )
            })
            .collect(),
    }
}

/// Adds the counters of `more`; a namespace that only `more` knows is added too, so the bound of a responder holds
/// for each of them.
fn add(sum: &mut ResponderStatus, more: &ResponderStatus) {
    sum.queries += more.queries;
    sum.chases += more.chases;
    sum.broken_chains += more.broken_chains;
    sum.targets_without_address += more.targets_without_address;
    sum.stale_answers += more.stale_answers;
    sum.unanswered += more.unanswered;
    sum.truncated += more.truncated;
    sum.send_errors += more.send_errors;
    sum.refreshes += more.refreshes;
    sum.refreshes_refused += more.refreshes_refused;
    for (sum, more) in [
        (&mut sum.replies, &more.replies),
        (&mut sum.passed_on, &more.passed_on),
        (&mut sum.chase_failures, &more.chase_failures),
    ] {
        for (label, count) in more {
            *sum.entry(label.clone()).or_default() += count;
        }
    }
    for (namespace, results) in &more.namespaces {
        let known = sum.namespaces.contains_key(namespace);
        let room = sum.namespaces.len() < MAX_NAMESPACES;
        let line = if known || room {
            namespace
        } else {
            OTHER_NAMESPACES
        };
        let line = sum.namespaces.entry(line.to_owned()).or_default();
        for (result, count) in results {
            *line.entry(result.clone()).or_default() += count;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::resolve::NamespaceCounts;

    fn snapshot(queries: u64, namespaces: std::ops::Range<usize>) -> Snapshot {
        Snapshot {
            queries,
            replies: BTreeMap::from([("NOERROR", queries)]),
            namespaces: namespaces
                .map(|number| {
                    let counts = NamespaceCounts {
                        answers: 1,
                        ..Default::default()
                    };
                    (format!("tenant-{number:05}"), counts)
                })
                .collect(),
            ..Default::default()
        }
    }

    #[test]
    fn counters_add_up_over_responders_and_namespaces_stay_bounded() {
        let mut sum = told(&snapshot(5, 0..MAX_NAMESPACES));
        for round in 1..10 {
            let start = round * MAX_NAMESPACES;
            add(&mut sum, &told(&snapshot(7, start..start + MAX_NAMESPACES)));
        }
        assert_eq!(sum.queries, 5 + 9 * 7);
        assert_eq!(sum.replies["NOERROR"], 5 + 9 * 7);
        assert_eq!(sum.namespaces.len(), MAX_NAMESPACES + 1);
        assert_eq!(
            sum.namespaces[OTHER_NAMESPACES]["answer"],
            9 * MAX_NAMESPACES as u64
        );
    }
}
