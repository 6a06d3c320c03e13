//! What the API server has reported of Services, and which targets a report changes; no I/O, simulated clock.
//!
//! A Service of type ExternalName is an alias, whatever caches say. One that was deleted does not exist, as long as caches may
//! still have it. Everything else is left to DNS: Services of other types, and those that were never seen, since a target may
//! come from elsewhere in DNS. An alias of another alias that is watched as well is one of what that leads to.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use hickory_proto::rr::Name;

use super::selector::{ClusterDomain, Selector};
use crate::model::{Changes, Known};

/// How long a deleted Service counts as absent: twice what the caches of a cluster keep a name, which is 30 s.
pub const ABSENT_FOR: Duration = Duration::from_secs(60);
/// How long what was reported last counts while the API server cannot be reached. DNS is asked after that: the connection of
/// this node alone may be gone, while the cluster DNS knows better.
pub const LOST_FOR: Duration = Duration::from_secs(300);
/// Services that lead to one another, one behind the other; DNS is asked from there on.
const MAX_LINKS: usize = 8;
/// Deleted Services that are remembered.
const MAX_ABSENT: usize = 10_000;

/// A Service as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    pub kind: Kind,
}

/// What a Service is to DNS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An ExternalName.
    Alias(Name),
    /// Of another type, or an ExternalName that is not a name.
    Other,
}

/// What the API server says.
#[derive(Clone, Debug)]
pub enum Report {
    /// All Services of the selector.
    Listed(Vec<Service>),
    /// One was created or changed.
    Applied(Service),
    /// One was deleted, by namespace and name; or is no longer selected.
    Deleted(String, String),
    /// Nothing has changed up to now.
    Heard,
    /// The connection is lost.
    Lost,
}

type Id = (String, String);

/// See the module.
#[derive(Debug)]
pub struct Services {
    domain: ClusterDomain,
    watches: Vec<Watch>,
}

/// The Services of one selector.
#[derive(Debug)]
struct Watch {
    selector: Selector,
    services: HashMap<Id, Service>,
    /// Those that are aliases of names of Services, and of which.
    links: HashMap<Id, Id>,
    /// When Services were deleted.
    absent: HashMap<Id, Instant>,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There was no list yet.
    Never,
    /// Since the last report.
    Connected {
        heard: Instant,
    },
    Lost {
        heard: Instant,
        since: Instant,
    },
}

/// How much is known, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Summary {
    pub watches: usize,
    /// Of those, the ones that are up to date.
    pub connected: usize,
    pub aliases: usize,
    pub others: usize,
    /// Since the watch that was silent for the longest was heard last; `None` before each has a list.
    pub age: Option<Duration>,
}

impl Services {
    pub fn new(domain: ClusterDomain, selectors: Vec<Selector>) -> Services {
        let watches = selectors.into_iter().map(Watch::new).collect();
        Services { domain, watches }
    }

    /// The same for other selectors. What is known of those that stay is kept.
    pub fn select(&mut self, domain: ClusterDomain, selectors: Vec<Selector>) {
        let mut before = std::mem::take(&mut self.watches);
        if domain != self.domain {
            before.clear();
            self.domain = domain;
        }
        self.watches = selectors
            .into_iter()
            .map(|selector| {
                let at = before.iter().position(|watch| watch.selector == selector);
                at.map_or_else(|| Watch::new(selector), |at| before.swap_remove(at))
            })
            .collect();
    }

    /// Takes a report; returns the targets that it changes.
    pub fn take(&mut self, selector: &Selector, report: Report, now: Instant) -> Changes {
        let domain = &self.domain;
        let Some(watch) = self
            .watches
            .iter_mut()
            .find(|watch| watch.selector == *selector)
        else {
            // Of before a reload.
            return Changes::default();
        };
        let mut all = Vec::new();
        let mut changed = |id: &Id, known: Known| all.push((id.clone(), known));
        match report {
            Report::Listed(services) => {
                let mut gone: HashSet<Id> = watch.services.keys().cloned().collect();
                for service in services {
                    let id = id_of(&service);
                    gone.remove(&id);
                    // What is an alias is reported even if it is no news here: there may be answers of an earlier process.
                    let known = watch.apply(service, domain).or_else(|| {
                        let known = watch.find(&id, now);
                        matches!(known, Known::Alias(_)).then_some(known)
                    });
                    if let Some(known) = known {
                        changed(&id, known);
                    }
                }
                for id in gone {
                    if let Some(known) = watch.delete(&id, now) {
                        changed(&id, known);
                    }
                }
                watch.heard(now);
            }
            Report::Applied(service) => {
                let id = id_of(&service);
                if let Some(known) = watch.apply(service, domain) {
                    changed(&id, known);
                }
                watch.heard(now);
            }
            Report::Deleted(namespace, name) => {
                let id = (namespace, name);
                if let Some(known) = watch.delete(&id, now) {
                    changed(&id, known);
                }
                watch.heard(now);
            }
            Report::Heard => watch.heard(now),
            Report::Lost => {
                if let State::Connected { heard } = watch.state {
                    watch.state = State::Lost { heard, since: now };
                }
            }
        }
        self.changes(all, now)
    }

    /// The targets of Services that have changed, and of those that lead to them.
    fn changes(&self, changed: Vec<(Id, Known)>, now: Instant) -> Changes {
        let mut changes = Changes::default();
        let ids: HashSet<Id> = changed.iter().map(|(id, _)| id.clone()).collect();
        let leading = self.watches.iter().flat_map(|watch| &watch.links);
        let leading = leading.filter(|(id, _)| !ids.is_empty() && !ids.contains(*id));
        let dependent = leading.filter(|(_, next)| {
            let mut behind = self.behind(next);
            behind.any(|link| ids.contains(link))
        });
        let dependent: Vec<(Id, Known)> = dependent
            .filter_map(|(id, _)| Some((id.clone(), self.watch_of_id(id)?.find(id, now))))
            .collect();
        for (id, known) in changed.into_iter().chain(dependent) {
            if let Some(target) = self.domain.target_of(&id.0, &id.1) {
                changes.add(target, self.end(&id, known, now));
            }
        }
        changes
    }

    /// This Service and those that it leads to, by their names.
    fn behind<'s>(&'s self, id: &'s Id) -> impl Iterator<Item = &'s Id> {
        let next = |id: &&'s Id| self.watch_of_id(id)?.links.get(*id);
        std::iter::successors(Some(id), next).take(MAX_LINKS)
    }

    /// What a Service is an alias of in the end, as far as that is known; `known` is what is known of itself.
    fn end(&self, id: &Id, known: Known, now: Instant) -> Known {
        let Known::Alias(mut alias) = known else {
            return known;
        };
        for link in self.behind(id).skip(1) {
            // One that leads back to the first is for DNS to complain about.
            let watch = self.watch_of_id(link).filter(|watch| watch.counts(now));
            match watch.map(|watch| watch.find(link, now)) {
                Some(Known::Alias(next)) if link != id => alias = next,
                _ => break,
            }
        }
        Known::Alias(alias)
    }

    /// What is known of a target.
    pub fn find(&self, target: &Name, now: Instant) -> Known {
        let Some((id, watch)) = self.watch_of(target) else {
            return Known::Nothing;
        };
        if watch.counts(now) {
            self.end(&id, watch.find(&id, now), now)
        } else {
            Known::Nothing
        }
    }

    /// The Service that a target names, and how long ago the API server was heard last. `None` for what is not known.
    pub fn service(&self, target: &Name, now: Instant) -> Option<(&Service, Duration)> {
        let (id, watch) = self.watch_of(target)?;
        let service = watch.services.get(&id).filter(|_| watch.counts(now))?;
        Some((service, watch.age(now)?))
    }

    /// The Services of watches that are up to date.
    pub fn connected(&self) -> impl Iterator<Item = &Service> {
        let watches = self
            .watches
            .iter()
            .filter(|watch| matches!(watch.state, State::Connected { .. }));
        watches.flat_map(|watch| watch.services.values())
    }

    pub fn selectors(&self) -> impl Iterator<Item = &Selector> {
        self.watches.iter().map(|watch| &watch.selector)
    }

    pub fn summary(&self, now: Instant) -> Summary {
        let mut summary = Summary {
            watches: self.watches.len(),
            ..Summary::default()
        };
        let ages: Option<Vec<Duration>> = self.watches.iter().map(|watch| watch.age(now)).collect();
        summary.age = ages.and_then(|ages| ages.into_iter().max());
        for watch in &self.watches {
            summary.connected += usize::from(matches!(watch.state, State::Connected { .. }));
            for service in watch.services.values() {
                match service.kind {
                    Kind::Alias(_) => summary.aliases += 1,
                    Kind::Other => summary.others += 1,
                }
            }
        }
        summary
    }

    fn watch_of(&self, target: &Name) -> Option<(Id, &Watch)> {
        let id = self.domain.service_of(target)?;
        let watch = self.watch_of_id(&id)?;
        Some((id, watch))
    }

    fn watch_of_id(&self, (namespace, name): &Id) -> Option<&Watch> {
        self.watches
            .iter()
            .find(|watch| watch.selector.selects(namespace, name))
    }
}

impl Watch {
    fn new(selector: Selector) -> Watch {
        Watch {
            selector,
            services: HashMap::new(),
            links: HashMap::new(),
            absent: HashMap::new(),
            state: State::Never,
        }
    }

    fn heard(&mut self, now: Instant) {
        self.state = State::Connected { heard: now };
    }

    /// Whether what is known here still counts.
    fn counts(&self, now: Instant) -> bool {
        match self.state {
            State::Never => false,
            State::Connected { .. } => true,
            State::Lost { since, .. } => now.saturating_duration_since(since) < LOST_FOR,
        }
    }

    fn age(&self, now: Instant) -> Option<Duration> {
        match self.state {
            State::Never => None,
            State::Connected { heard } | State::Lost { heard, .. } => {
                Some(now.saturating_duration_since(heard))
            }
        }
    }

    fn find(&self, id: &Id, now: Instant) -> Known {
        match self.services.get(id).map(|service| &service.kind) {
            Some(Kind::Alias(name)) => Known::Alias(name.clone()),
            Some(Kind::Other) => Known::Nothing,
            None => match self.absent.get(id) {
                Some(&at) if now < at + ABSENT_FOR => Known::Absent,
                _ => Known::Nothing,
            },
        }
    }

    /// What is known of it now, if that is another thing than before.
    fn apply(&mut self, service: Service, domain: &ClusterDomain) -> Option<Known> {
        let id = id_of(&service);
        self.absent.remove(&id);
        let link = match &service.kind {
            Kind::Alias(name) => domain.service_of(name),
            Kind::Other => None,
        };
        match link {
            Some(link) => self.links.insert(id.clone(), link),
            None => self.links.remove(&id),
        };
        let known = match &service.kind {
            Kind::Alias(name) => Known::Alias(name.clone()),
            Kind::Other => Known::Nothing,
        };
        let before = self.services.insert(id, service);
        let kind = before.map(|service| match service.kind {
            Kind::Alias(name) => Known::Alias(name),
            Kind::Other => Known::Nothing,
        });
        // The first list is full of Services that DNS has known for long.
        let is_news = match kind {
            Some(before) => before != known,
            None => known != Known::Nothing || self.state != State::Never,
        };
        is_news.then_some(known)
    }

    /// The same for one that is gone.
    fn delete(&mut self, id: &Id, now: Instant) -> Option<Known> {
        self.services.remove(id)?;
        self.links.remove(id);
        if !self.selector.has_all_types() {
            // It may have become another type.
            return Some(Known::Nothing);
        }
        self.absent.retain(|_, at| now < *at + ABSENT_FOR);
        if self.absent.len() >= MAX_ABSENT {
            return Some(Known::Nothing);
        }
        self.absent.insert(id.clone(), now);
        Some(Known::Absent)
    }
}

fn id_of(service: &Service) -> Id {
    (service.namespace.clone(), service.name.clone())
}

#[cfg(test)]
mod tests;
