//! Joins what the sources say into who is behind each interface; no I/O, no clock.
//!
//! The CNI and the API decide whose an address is; what is configured behind a veth, which a pod with CAP_NET_ADMIN can change,
//! proves nothing by itself: it only says which veth an address lives on, and only as long as nothing speaks against it. Whatever
//! is read takes time: it comes back with the generation of the interface that it was read for, and is dropped where that is gone.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::SystemTime,
};

use super::facts::{CniResult, Entry, Look, Peer, Pod, PodKey, PodReport, is_ones_own};
use crate::model::{Identity, IdentitySource, Who, WhyNot};

/// Addresses of interfaces that are gone, which are remembered.
const MAX_HELD: usize = 8192;

/// See the module.
#[derive(Debug, Default)]
pub struct Registry {
    /// Most trusted first.
    order: Vec<IdentitySource>,
    /// Counts what happens: generations and moments are numbers of it.
    clock: u64,
    links: BTreeMap<u32, Link>,
    /// By the name of the file.
    cni: HashMap<String, CniResult>,
    /// Names of files by the names of their host interfaces.
    cni_names: HashMap<String, BTreeSet<String>>,
    /// By UID.
    pods: BTreeMap<String, Listed>,
    /// The API server has said which pods there are.
    has_listed: bool,
    entries: Vec<Entry>,
    /// The interface that the node's host routes lead to, and the moment at which they were read.
    routes: (u64, HashMap<IpAddr, u32>),
    /// Addresses that were behind interfaces that are gone, with the moment when those went.
    held: HashMap<IpAddr, u64>,
    /// An interface went before its addresses were read: any may be used again.
    has_missed: bool,
}

/// An interface that is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pub index: u32,
    generation: u64,
    /// When the reading begins.
    moment: u64,
}

#[derive(Debug)]
struct Link {
    name: String,
    generation: u64,
    look: Option<Look>,
    /// When it was read.
    looked: u64,
    /// The addresses that it came with: the first that were seen behind it.
    origin: BTreeSet<IpAddr>,
    /// When it was read first: what is read later is of the same interface, as long as its MAC address is.
    first_looked: Option<u64>,
    /// Who it was, and what said so. It is nobody else's for as long as it exists.
    bound: Option<(IdentitySource, PodKey)>,
    /// UID of the pod, once the API had it.
    confirmed: Option<String>,
    published: Option<Who>,
}

#[derive(Debug)]
struct Listed {
    pod: Pod,
    /// When the API had an address of it first.
    since: HashMap<IpAddr, u64>,
}

/// A pod that a source says is behind an interface.
#[derive(Clone, Debug)]
struct Found {
    source: IdentitySource,
    key: PodKey,
    addresses: Vec<IpAddr>,
    /// Of the source; those of the API go first.
    labels: Option<BTreeMap<String, String>>,
}

/// What one source says of one interface.
enum Says {
    /// Nothing.
    Nothing,
    Pod(Found),
    Not(WhyNot),
    /// Something that does not fit the interface, about these pods.
    Disagrees(Vec<PodKey>),
}

/// Who an address belongs to.
#[derive(Debug)]
struct Owner {
    rank: usize,
    key: PodKey,
    /// Where the source says which.
    link: Option<u32>,
}

type Owners = HashMap<IpAddr, Vec<Owner>>;

/// What the API has of a pod.
enum Api<'a> {
    /// Nothing, or it is no source.
    Silent,
    Not(WhyNot),
    Lives(&'a Pod),
}

impl Registry {
    pub fn new(order: Vec<IdentitySource>) -> Registry {
        Registry {
            order,
            ..Registry::default()
        }
    }

    /// Other sources, or another order of trust. Nothing that was bound stays bound.
    pub fn select(&mut self, order: Vec<IdentitySource>) {
        if order == self.order {
            return;
        }
        self.order = order;
        for link in self.links.values_mut() {
            (link.bound, link.confirmed) = (None, None);
        }
    }

    /// This moment, for what is read from now on.
    pub fn moment(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// An interface is there. One with its index before it is gone.
    pub fn appeared(&mut self, index: u32, name: &str) {
        self.vanished(index);
        let generation = self.moment();
        self.links.insert(
            index,
            Link {
                name: name.to_owned(),
                generation,
                look: None,
                looked: 0,
                origin: BTreeSet::new(),
                first_looked: None,
                bound: None,
                confirmed: None,
                published: None,
            },
        );
    }

    pub fn renamed(&mut self, index: u32, name: &str) {
        if let Some(link) = self.links.get_mut(&index) {
            name.clone_into(&mut link.name);
            link.look = None;
        }
    }

    pub fn vanished(&mut self, index: u32) {
        let now = self.moment();
        let Some(link) = self.links.remove(&index) else {
            return;
        };
        self.has_missed |= link.origin.is_empty();
        for address in link.origin.iter().chain(link.inside()) {
            self.held.insert(*address, now);
        }
        if self.held.len() > MAX_HELD {
            let mut moments: Vec<u64> = self.held.values().copied().collect();
            let (_, middle, _) = moments.select_nth_unstable(MAX_HELD / 2);
            let middle = *middle;
            self.held.retain(|_, moment| *moment >= middle);
        }
    }

    /// An interface, to be read from now on.
    pub fn ticket(&mut self, index: u32) -> Option<Ticket> {
        let moment = self.moment();
        let generation = self.links.get(&index)?.generation;
        Some(Ticket {
            index,
            generation,
            moment,
        })
    }

    /// The indexes of all interfaces.
    pub fn indexes(&self) -> Vec<u32> {
        self.links.keys().copied().collect()
    }

    /// Those for which nobody is known.
    pub fn unknown(&self) -> Vec<u32> {
        let links = self.links.iter();
        links
            .filter(|(_, link)| !matches!(link.published, Some(Ok(_))))
            .map(|(index, _)| *index)
            .collect()
    }

    /// The interfaces of this name.
    pub fn named(&self, name: &str) -> Vec<u32> {
        let links = self.links.iter();
        links
            .filter(|(_, link)| link.name == name)
            .map(|(index, _)| *index)
            .collect()
    }

    /// Whether nothing was seen behind it yet.
    pub fn is_empty(&self, index: u32) -> bool {
        let link = self.links.get(&index);
        link.is_some_and(|link| link.origin.is_empty())
    }

    /// All addresses that are behind interfaces.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.links
            .values()
            .flat_map(Link::inside)
            .copied()
            .collect()
    }

    /// An interface was read. `false` where it is another one by now.
    pub fn looked(&mut self, ticket: Ticket, look: Option<Look>) -> bool {
        let now = self.moment();
        let Some(link) = self.links.get_mut(&ticket.index) else {
            return false;
        };
        if link.generation != ticket.generation {
            return false;
        }
        let Some(look) = look else {
            // It is gone, and the message that says so is on its way.
            link.look = None;
            return true;
        };
        if look.name != link.name {
            link.look = None;
            return false;
        }
        let before = link.look.as_ref().map(|look| look.mac);
        if before.is_some_and(|before| before != look.mac) {
            // Of the same name and index, and another one.
            link.generation = now;
            link.origin.clear();
            link.first_looked = None;
            (link.bound, link.confirmed) = (None, None);
        }
        link.look = Some(look);
        link.looked = ticket.moment;
        link.first_looked.get_or_insert(ticket.moment);
        if link.origin.is_empty() {
            link.origin = link.inside().copied().collect();
        }
        true
    }

    /// The node's host routes, as of a moment.
    pub fn routed(&mut self, moment: u64, routes: HashMap<IpAddr, u32>) {
        self.routes = (moment, routes);
    }

    /// A result of the CNI, or that its file is gone or no good.
    pub fn cni(&mut self, file: &str, result: Option<CniResult>) {
        if let Some(before) = self.cni.remove(file) {
            for (name, _) in &before.host {
                if let Some(files) = self.cni_names.get_mut(name) {
                    files.remove(file);
                    if files.is_empty() {
                        self.cni_names.remove(name);
                    }
                }
            }
        }
        if let Some(result) = result {
            for (name, _) in &result.host {
                let files = self.cni_names.entry(name.clone()).or_default();
                files.insert(file.to_owned());
            }
            self.cni.insert(file.to_owned(), result);
        }
    }

    /// The files of results.
    pub fn cni_files(&self) -> impl Iterator<Item = &str> {
        self.cni.keys().map(String::as_str)
    }

    pub fn pods(&mut self, report: PodReport) {
        let now = self.moment();
        self.has_listed = true;
        match report {
            PodReport::Listed(pods) => {
                let mut before = std::mem::take(&mut self.pods);
                for pod in pods {
                    let listed = before.remove(&pod.key.uid);
                    self.list(pod, listed, now);
                }
            }
            PodReport::Applied(pod) => {
                let listed = self.pods.remove(&pod.key.uid);
                self.list(pod, listed, now);
            }
            PodReport::Deleted(key) => {
                self.pods.remove(&key.uid);
            }
        }
    }

    fn list(&mut self, pod: Pod, before: Option<Listed>, now: u64) {
        let before = before.map(|listed| listed.since).unwrap_or_default();
        let since = pod.addresses.iter();
        let since = since
            .map(|address| (*address, before.get(address).copied().unwrap_or(now)))
            .collect();
        self.pods.insert(pod.key.uid.clone(), Listed { pod, since });
    }

    /// How many pods the API has.
    pub fn pod_count(&self) -> usize {
        self.pods.len()
    }

    /// How many pods the static file has.
    pub fn entry_count(&self) -> usize {
        self.entries.len()
    }

    /// What the static file has.
    pub fn entries(&mut self, entries: Vec<Entry>) {
        if entries != self.entries {
            self.entries = entries;
            // The operator has the last word on what the file said before.
            for link in self.links.values_mut() {
                if matches!(link.bound, Some((IdentitySource::File, _))) {
                    link.bound = None;
                }
            }
        }
    }

    /// Decides anew, and returns what has changed.
    pub fn settle(&mut self, now: SystemTime) -> Vec<(u32, Who)> {
        let owners = self.owners();
        let decided: Vec<(u32, Result<Found, WhyNot>)> = self
            .links
            .iter()
            .map(|(index, link)| (*index, self.decide(*index, link, &owners)))
            .collect();
        let mut changed = Vec::new();
        for (index, decision) in decided {
            let who = decision.map(|found| self.identity(index, found, now));
            let Some(link) = self.links.get_mut(&index) else {
                continue;
            };
            if link.published.as_ref() != Some(&who) {
                link.published = Some(who.clone());
                changed.push((index, who));
            }
        }
        changed
    }

    /// Binds an interface to what was found.
    fn identity(&mut self, index: u32, found: Found, now: SystemTime) -> Arc<Identity> {
        let (labels, confirmed) = match self.api(&found.key) {
            Api::Lives(pod) => (Some(pod.labels.clone()), Some(pod.key.uid.clone())),
            _ => (found.labels, None),
        };
        let mut identity = Identity {
            namespace: found.key.namespace.clone(),
            pod: found.key.pod.clone(),
            uid: found.key.uid.clone(),
            labels,
            addresses: found.addresses,
            source: found.source,
            since: now,
        };
        if let Some(link) = self.links.get_mut(&index) {
            if confirmed.is_some() {
                link.confirmed = confirmed;
            }
            link.bound = Some((found.source, found.key));
            if let Some(Ok(before)) = &link.published {
                let same = (&before.namespace, &before.pod, &before.uid, before.source)
                    == (
                        &identity.namespace,
                        &identity.pod,
                        &identity.uid,
                        identity.source,
                    );
                if same {
                    identity.since = before.since;
                }
            }
        }
        Arc::new(identity)
    }

    fn decide(&self, index: u32, link: &Link, owners: &Owners) -> Result<Found, WhyNot> {
        if self.order.is_empty() {
            return Err(WhyNot::Off);
        }
        let look = link.look.as_ref().ok_or(WhyNot::Unread)?;
        match &look.peer {
            Peer::None => return Err(WhyNot::NotPodVeth),
            Peer::Unreadable => return Err(WhyNot::Unreadable),
            Peer::Inside { .. } => {}
        }
        let mut refused: Vec<PodKey> = Vec::new();
        for (rank, source) in self.order.iter().enumerate() {
            let says = match source {
                IdentitySource::Cni => self.by_cni(link, look),
                IdentitySource::Kubernetes => self.by_api(index, link),
                IdentitySource::File => self.by_file(index, link),
            };
            match says {
                Says::Nothing => {}
                Says::Disagrees(keys) => refused.extend(keys),
                Says::Not(_) if !refused.is_empty() => return Err(WhyNot::Disagrees),
                Says::Not(why) => return Err(why),
                // What is left of an earlier interface of this name, or a pod that changed what can be seen of it: nobody
                // else can be made of it.
                Says::Pod(found)
                    if !refused.is_empty()
                        && !refused.iter().any(|key| key.has_name_of(&found.key)) =>
                {
                    return Err(WhyNot::Disagrees);
                }
                Says::Pod(found) => return self.verify(index, link, rank, found, owners),
            }
        }
        let is_to_come = self.order.contains(&IdentitySource::Kubernetes) && !self.has_listed;
        Err(if !refused.is_empty() {
            WhyNot::Disagrees
        } else if is_to_come {
            WhyNot::Unlisted
        } else {
            WhyNot::Unknown
        })
    }

    /// Whether anything speaks against what was found.
    fn verify(
        &self,
        index: u32,
        link: &Link,
        rank: usize,
        mut found: Found,
        owners: &Owners,
    ) -> Result<Found, WhyNot> {
        if !is_label(&found.key.namespace) {
            return Err(WhyNot::NotALabel);
        }
        if let Some((source, bound)) = &link.bound {
            let trusted = self.order.iter().position(|other| other == source);
            let overrides = trusted.is_none_or(|trusted| rank < trusted);
            // What was left of an earlier pod of this name may have come first.
            if !overrides && !bound.is(&found.key) && !bound.has_name_of(&found.key) {
                return Err(WhyNot::Changed);
            }
        }
        for address in link.inside() {
            let all = owners.get(address).map(Vec::as_slice).unwrap_or_default();
            let top = all.iter().map(|owner| owner.rank).min();
            let mut top = all
                .iter()
                .filter(|owner| Some(owner.rank) == top)
                .peekable();
            if top.peek().is_some() && !top.any(|owner| owner.key.is(&found.key)) {
                return Err(WhyNot::ForeignAddress);
            }
        }
        found.addresses.retain(is_ones_own);
        found.addresses.sort();
        found.addresses.dedup();
        if found.addresses.is_empty() {
            return Err(WhyNot::NoAddress);
        }
        let key = found.key.clone();
        found.addresses.retain(|address| {
            let all = owners.get(address).map(Vec::as_slice).unwrap_or_default();
            let rivals: Vec<&Owner> = all
                .iter()
                .filter(|owner| owner.rank <= rank && !owner.key.is(&key))
                .collect();
            rivals.is_empty() || self.prevails(index, link, address, &rivals)
        });
        if found.addresses.is_empty() {
            return Err(WhyNot::Ambiguous);
        }
        Ok(found)
    }

    /// Whether an address that others claim too lives on this interface for certain.
    fn prevails(&self, index: u32, link: &Link, address: &IpAddr, rivals: &[&Owner]) -> bool {
        match self.route(address) {
            Some(routed) => routed == index,
            None => {
                link.holds(address)
                    && rivals.iter().all(|rival| {
                        let other = rival.link.and_then(|index| self.links.get(&index));
                        other.is_some_and(|other| other.look.is_some() && !other.holds(address))
                    })
            }
        }
    }

    /// The interface that the node's host route to an address leads to, if that was there when the routes were read.
    fn route(&self, address: &IpAddr) -> Option<u32> {
        let (moment, routes) = &self.routes;
        let index = *routes.get(address)?;
        let link = self.links.get(&index)?;
        (link.generation < *moment).then_some(index)
    }

    fn owners(&self) -> Owners {
        let mut owners = Owners::new();
        let mut own = |address: &IpAddr, rank: usize, key: &PodKey, link: Option<u32>| {
            let key = key.clone();
            let owner = Owner { rank, key, link };
            owners.entry(*address).or_default().push(owner);
        };
        for (rank, source) in self.order.iter().enumerate() {
            match source {
                IdentitySource::Cni => {
                    for (index, link) in &self.links {
                        let Some(look) = &link.look else { continue };
                        for result in self.living(link, self.fitting(link, look).0).0 {
                            for address in &result.addresses {
                                own(address, rank, &result.pod, Some(*index));
                            }
                        }
                    }
                }
                IdentitySource::Kubernetes => {
                    for Listed { pod, .. } in self.pods.values() {
                        if !pod.host_network && !pod.is_finished {
                            for address in &pod.addresses {
                                own(address, rank, &pod.key, None);
                            }
                        }
                    }
                }
                IdentitySource::File => {
                    for entry in &self.entries {
                        let Some(name) = &entry.interface else {
                            for address in &entry.addresses {
                                own(address, rank, &entry.key, None);
                            }
                            continue;
                        };
                        for index in self.named(name) {
                            let Some(link) = self.links.get(&index) else {
                                continue;
                            };
                            for address in link.addresses_of(entry) {
                                own(&address, rank, &entry.key, Some(index));
                            }
                        }
                    }
                }
            }
        }
        owners
    }

    /// The results of the CNI that name this interface: those that fit it, and the pods of the others.
    fn fitting(&self, link: &Link, look: &Look) -> (Vec<&CniResult>, Vec<PodKey>) {
        let (mut fit, mut refused) = (Vec::new(), Vec::new());
        let Peer::Inside { mac: inside, .. } = look.peer else {
            return (fit, refused);
        };
        let files = self.cni_names.get(&link.name).into_iter().flatten();
        for result in files.filter_map(|file| self.cni.get(file)) {
            let host = result.host.iter();
            let host = host
                .filter(|(name, _)| *name == link.name)
                .find_map(|(_, mac)| *mac);
            let macs = [(host, look.mac), (result.inside, inside)];
            let both: Vec<bool> = macs
                .iter()
                .filter_map(|(said, read)| Some(said.as_ref()? == read.as_ref()?))
                .collect();
            let came_with = result
                .addresses
                .iter()
                .any(|address| link.origin.contains(address));
            // Some plugins say no MAC address: then it has to have come with an address.
            if both.iter().all(|agrees| *agrees) && (!both.is_empty() || came_with) {
                fit.push(result);
            } else {
                refused.push(result.pod.clone());
            }
        }
        (fit, refused)
    }

    fn by_cni(&self, link: &Link, look: &Look) -> Says {
        let (fit, refused) = self.fitting(link, look);
        if fit.is_empty() {
            return if refused.is_empty() {
                Says::Nothing
            } else {
                Says::Disagrees(refused)
            };
        }
        let (alive, why) = self.living(link, fit);
        let Some(newest) = alive.first() else {
            return Says::Not(why.unwrap_or(WhyNot::Unknown));
        };
        if !alive.iter().all(|other| other.pod.is(&newest.pod)) {
            return Says::Not(WhyNot::Ambiguous);
        }
        Says::Pod(Found {
            source: IdentitySource::Cni,
            key: newest.pod.clone(),
            addresses: alive.iter().flat_map(|one| one.addresses.clone()).collect(),
            labels: None,
        })
    }

    /// Those of the results whose pod the API does not rule out, the newest first; or why it does. Of pods of one name only the
    /// newest: two of a name never live at once.
    fn living<'a>(
        &self,
        link: &Link,
        fit: Vec<&'a CniResult>,
    ) -> (Vec<&'a CniResult>, Option<WhyNot>) {
        let mut why = None;
        let mut alive = fit;
        alive.retain(|result| match self.status(link, &result.pod) {
            Api::Not(not) => {
                why = Some(not);
                false
            }
            _ => true,
        });
        alive.sort_by_key(|result| std::cmp::Reverse(result.written));
        if let Some(newest) = alive.first().copied() {
            alive.retain(|other| other.pod.is(&newest.pod) || !other.pod.has_name_of(&newest.pod));
        }
        (alive, why)
    }

    /// What the API has of the pod that an interface may be.
    fn status(&self, link: &Link, key: &PodKey) -> Api<'_> {
        match self.api(key) {
            Api::Silent if link.confirmed.is_some() && link.confirmed == Some(key.uid.clone()) => {
                Api::Not(WhyNot::Finished)
            }
            api => api,
        }
    }

    fn api(&self, key: &PodKey) -> Api<'_> {
        if !self.order.contains(&IdentitySource::Kubernetes) {
            return Api::Silent;
        }
        let listed = if key.uid.is_empty() {
            let mut pods = self.pods.values();
            pods.find(|listed| listed.pod.key.has_name_of(key))
        } else {
            self.pods.get(&key.uid)
        };
        match listed.map(|listed| &listed.pod) {
            None => Api::Silent,
            Some(pod) if pod.host_network => Api::Not(WhyNot::HostNetwork),
            Some(pod) if pod.is_finished => Api::Not(WhyNot::Finished),
            Some(pod) => Api::Lives(pod),
        }
    }

    fn by_api(&self, index: u32, link: &Link) -> Says {
        let mut why = None;
        let mut pods: Vec<&Listed> = Vec::new();
        let mut is_contested = false;
        for address in link.inside() {
            let mut count = 0;
            for listed in self.pods.values() {
                if !listed.pod.addresses.contains(address) {
                    continue;
                }
                if listed.pod.host_network {
                    why = Some(WhyNot::HostNetwork);
                } else if listed.pod.is_finished {
                    why = Some(WhyNot::Finished);
                } else {
                    count += 1;
                    if !pods.iter().any(|other| std::ptr::eq(*other, listed)) {
                        pods.push(listed);
                    }
                }
            }
            is_contested |= count > 1;
        }
        if is_contested {
            return Says::Not(WhyNot::Ambiguous);
        }
        let listed = match pods[..] {
            [] => return why.map_or(Says::Nothing, Says::Not),
            [listed] => listed,
            _ => return Says::Not(WhyNot::ForeignAddress),
        };
        let pod = &listed.pod;
        let is_bound = link.is_bound_to(&pod.key);
        if pod.is_deleted && !is_bound {
            return Says::Not(WhyNot::Finished);
        }
        let elsewhere =
            |(other, link): (&u32, &Link)| *other != index && link.is_bound_to(&pod.key);
        if self.links.iter().any(elsewhere) {
            return Says::Not(WhyNot::ForeignAddress);
        }
        let mut why = WhyNot::Unknown;
        let mut lives_here = is_bound;
        for address in pod.addresses.iter().filter(|address| link.holds(address)) {
            let route = self.route(address);
            if route.is_some_and(|other| other != index) {
                return Says::Not(WhyNot::ForeignAddress);
            }
            // The interface that had it is gone. What the API said before this one was seen may be about the pod of that one.
            let is_reused = self.has_missed || self.held.contains_key(address);
            let since = listed.since.get(address).copied().unwrap_or_default();
            if link.looked < since {
                // What was read may be of an interface that is gone by now.
                why = WhyNot::Unread;
            } else if is_reused && link.first_looked.is_none_or(|first| since < first) {
                why = WhyNot::Ambiguous;
            } else if route.is_some() {
                lives_here = true;
            } else if !link.origin.contains(address) {
                why = WhyNot::ForeignAddress;
            } else if self.is_behind_another(index, address, &pod.key) {
                why = WhyNot::Ambiguous;
            } else {
                lives_here = true;
            }
        }
        if !lives_here {
            return Says::Not(why);
        }
        Says::Pod(Found {
            source: IdentitySource::Kubernetes,
            key: pod.key.clone(),
            addresses: pod.addresses.clone(),
            labels: None,
        })
    }

    /// Whether an address is behind another interface that may be its owner's. One that is known to be somebody else's, or that
    /// has addresses of others too, is not.
    fn is_behind_another(&self, index: u32, address: &IpAddr, key: &PodKey) -> bool {
        let is_anothers = |link: &Link| match &link.bound {
            Some((_, bound)) => !bound.is(key),
            None => link.inside().any(|one| self.is_of_another(one, key)),
        };
        let mut links = self.links.iter();
        links.any(|(other, link)| *other != index && link.holds(address) && !is_anothers(link))
    }

    fn is_of_another(&self, address: &IpAddr, key: &PodKey) -> bool {
        let mut pods = self.pods.values();
        pods.any(|listed| {
            let pod = &listed.pod;
            !pod.is_finished && !pod.key.is(key) && pod.addresses.contains(address)
        })
    }

    fn by_file(&self, index: u32, link: &Link) -> Says {
        let by_name: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.interface.as_deref() == Some(&link.name))
            .collect();
        match by_name[..] {
            [] => {}
            [entry] => return Says::Pod(found_in_file(entry, link.addresses_of(entry))),
            _ => return Says::Not(WhyNot::Ambiguous),
        }
        let by_address: Vec<&Entry> = self
            .entries
            .iter()
            .filter(|entry| entry.interface.is_none())
            .filter(|entry| entry.addresses.iter().any(|address| link.holds(address)))
            .collect();
        let entry = match by_address[..] {
            [] => return Says::Nothing,
            [entry] => entry,
            _ => return Says::Not(WhyNot::ForeignAddress),
        };
        let mut lives_here = link.is_bound_to(&entry.key);
        let mut why = WhyNot::ForeignAddress;
        for address in entry.addresses.iter().filter(|address| link.holds(address)) {
            match self.route(address) {
                Some(other) if other != index => return Says::Not(WhyNot::ForeignAddress),
                Some(_) => lives_here = true,
                None if !link.origin.contains(address) => {}
                None if self.is_behind_another(index, address, &entry.key) => {
                    why = WhyNot::Ambiguous;
                }
                None => lives_here = true,
            }
        }
        if lives_here {
            Says::Pod(found_in_file(entry, entry.addresses.clone()))
        } else {
            Says::Not(why)
        }
    }
}

impl Link {
    /// What is behind it, but for addresses that everybody has.
    fn inside(&self) -> impl Iterator<Item = &IpAddr> {
        let addresses = match self.look.as_ref().map(|look| &look.peer) {
            Some(Peer::Inside { addresses, .. }) => Some(addresses),
            _ => None,
        };
        addresses
            .into_iter()
            .flatten()
            .filter(|address| is_ones_own(address))
    }

    fn holds(&self, address: &IpAddr) -> bool {
        self.inside().any(|one| one == address)
    }

    fn is_bound_to(&self, key: &PodKey) -> bool {
        let bound = self.bound.as_ref();
        bound.is_some_and(|(_, bound)| bound.is(key))
    }

    /// Those that an entry says, or that this interface came with.
    fn addresses_of(&self, entry: &Entry) -> Vec<IpAddr> {
        if entry.addresses.is_empty() {
            self.origin.iter().copied().collect()
        } else {
            entry.addresses.clone()
        }
    }
}

fn found_in_file(entry: &Entry, addresses: Vec<IpAddr>) -> Found {
    Found {
        source: IdentitySource::File,
        key: entry.key.clone(),
        addresses,
        labels: Some(entry.labels.clone()),
    }
}

/// Whether a text is an RFC 1123 label in lower case, as the names of namespaces are.
pub fn is_label(text: &str) -> bool {
    let is_inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    text.len() <= 63
        && !text.is_empty()
        && !text.starts_with('-')
        && !text.ends_with('-')
        && text.as_bytes().iter().all(is_inner)
}

#[cfg(test)]
mod tests;
