//! The maps that outlive a loaded program, each opened once: a reload adds a program that uses the same ones.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, MapData, PerCpuArray, RingBuf},
};
use aya_obj::Object;
use dns_common::{
    abi::{Trailer, maps as names},
    answer::Slot,
    verdict::COUNTERS,
};

use super::{
    Answers, DatapathError, Heartbeat, Hook, Switch,
    answers::{Tables, View},
    clients::Clients,
    interfaces::Interfaces,
    journal::{self, Journal, TAKEN},
    mapping::Mapping,
    meta::{self, Secrets},
    object::{mapping, take},
    observed::{Counters, Observed},
    other_version::{OtherRing, OtherVersions},
    pins::{Shape, State, make_directory, unpin},
    pod::Plain,
    reinjections::Reinjections,
    rule_sets::RuleSets,
    steer::SteeringMaps,
};
use crate::{
    model::{Client, Identify, Identity},
    rules::RuleSet,
};

/// The maps that are shared by programs. All others belong to one rule set.
pub(super) const SHARED: [&str; 20] = [
    names::COUNTERS,
    names::RING,
    names::HEARTBEAT,
    names::INTERFACES,
    names::MORE_INTERFACES,
    names::OTHER_SERVERS,
    names::STEERING,
    names::STEERED,
    names::LISTENERS,
    names::OWN,
    names::MONITOR,
    names::MONITOR_RING,
    names::CLIENT_INDEX,
    names::CLIENTS,
    names::PERMITS,
    names::INDEX,
    names::ANSWERS,
    names::ABSENT_INDEX,
    names::ABSENT,
    names::HITS,
];
/// Those of them that belong together: where one has another size, all are created again.
const TABLES: [&str; 5] = [
    names::INDEX,
    names::ANSWERS,
    names::ABSENT_INDEX,
    names::ABSENT,
    names::HITS,
];

/// The pinned maps as a program is to find them.
pub(super) struct Pinned {
    /// Where each map is, or will be.
    pub paths: Vec<(&'static str, std::path::PathBuf)>,
    /// Paths at which there was no map before.
    pub new: Vec<std::path::PathBuf>,
    /// The answers of tables that are created again.
    pub import: Option<Mapping<Slot>>,
    /// Rings that programs of another version hand over to.
    pub other_rings: Vec<OtherRing>,
    /// Whether the tables are created again.
    pub new_tables: bool,
    pub secrets: Secrets,
}

impl Pinned {
    /// Looks at what is pinned. Maps that do not fit an object with these sizes are unpinned, so that loading it makes others;
    /// the caller has the lock.
    pub fn prepare(
        state: &State,
        object: &[u8],
        sizes: &[(&'static str, u32)],
        others: OtherVersions,
    ) -> Result<Self, DatapathError> {
        let OtherVersions {
            answers: mut other_answers,
            rings: other_rings,
        } = others;
        let object = Object::parse(object).map_err(|error| DatapathError::Object(error.into()))?;
        let fits = |name: &str| {
            let map = object.maps.get(name)?;
            let elements = sizes
                .iter()
                .find(|(sized, _)| *sized == name)
                .map_or(map.max_entries(), |(_, elements)| *elements);
            let wanted = Shape {
                kind: map.map_type(),
                key_bytes: map.key_size(),
                value_bytes: map.value_size(),
                elements,
            };
            Some(Shape::of_pin(&state.map(name)) == Some(wanted))
        };
        let mut prepared = Self {
            // No program has it; it is pinned again with the others.
            paths: vec![(meta::META, state.map(meta::META))],
            new: Vec::new(),
            import: None,
            other_rings,
            new_tables: TABLES.iter().any(|name| fits(name) == Some(false)),
            secrets: meta::secrets(state)?,
        };
        for name in SHARED {
            let Some(fits) = fits(name) else { continue };
            let path = state.map(name);
            let renewed = prepared.new_tables && TABLES.contains(&name);
            if renewed && name == names::ANSWERS {
                prepared.import = old_answers(&path).or_else(|| other_answers.take());
            }
            if !fits || renewed {
                unpin(&path);
                prepared.new.push(path.clone());
            }
            prepared.paths.push((name, path));
        }
        prepared.paths.push((TAKEN, journal::prepare(state)?));
        Ok(prepared)
    }
}

/// The answers in a table that is about to be replaced; `None` where there is none.
fn old_answers(path: &std::path::Path) -> Option<Mapping<Slot>> {
    let map = path.exists().then(|| MapData::from_pin(path).ok())??;
    Mapping::new(aya::maps::Map::Array(map)).ok()
}

/// See the module.
pub struct Shared {
    interfaces: Mutex<Interfaces>,
    counters: PerCpuArray<MapData, Plain<[u64; COUNTERS]>>,
    other_servers: BpfHashMap<MapData, [u64; 2], u64>,
    pub(super) clients: Arc<Clients>,
    pub(super) answers: Arc<Answers>,
    pub(super) switch: Arc<Switch>,
    pub(super) heartbeat: Arc<Heartbeat>,
    /// Missing in objects that hold nothing but a program for interfaces.
    pub(super) steering: Option<Arc<SteeringMaps>>,
    ring: Mutex<Option<RingBuf<MapData>>>,
    other_rings: Mutex<Vec<OtherRing>>,
    decisions: Mutex<Option<RingBuf<MapData>>>,
    pub(super) observed: Observed,
    pub(super) rules: Arc<RuleSets>,
    pub(super) reinjections: Arc<Reinjections>,
    /// Every shared map once more, to pin it again where its pin was removed.
    pins: Mutex<Vec<(std::path::PathBuf, MapData)>>,
    /// Where there is one: once the ring is read.
    journal: OnceLock<Arc<Journal>>,
}

impl Shared {
    /// Takes the maps of the first program.
    pub(super) fn open(
        ebpf: &mut Ebpf,
        tables: Tables,
        view: View,
        observed: Counters,
        rules: &Arc<RuleSet>,
        trailer: Trailer,
        hook: Hook,
    ) -> Result<Self, DatapathError> {
        Ok(Self {
            interfaces: Mutex::new(Interfaces::new(ebpf)?),
            counters: take(ebpf, names::COUNTERS)?,
            other_servers: take(ebpf, names::OTHER_SERVERS)?,
            clients: Arc::clone(view.clients()),
            answers: Arc::new(Answers::new(tables, view)),
            switch: Arc::new(Switch::open(ebpf)?),
            heartbeat: Arc::new(Heartbeat::new(mapping(ebpf, names::HEARTBEAT)?)),
            steering: SteeringMaps::open(ebpf)?.map(Arc::new),
            ring: Mutex::new(Some(take(ebpf, names::RING)?)),
            other_rings: Mutex::default(),
            decisions: Mutex::new(Some(take(ebpf, names::MONITOR_RING)?)),
            observed: Observed::new(observed),
            rules: Arc::new(RuleSets::new(rules)),
            reinjections: Arc::new(Reinjections::new(trailer, hook)),
            pins: Mutex::default(),
            journal: OnceLock::new(),
        })
    }

    pub(super) fn interfaces(&self) -> MutexGuard<'_, Interfaces> {
        lock(&self.interfaces)
    }

    pub(super) fn take_ring(&self) -> Option<RingBuf<MapData>> {
        lock(&self.ring).take()
    }

    pub(super) fn put_other_rings(&self, rings: Vec<OtherRing>) {
        *lock(&self.other_rings) = rings;
    }

    pub(super) fn take_other_rings(&self) -> Vec<OtherRing> {
        std::mem::take(&mut *lock(&self.other_rings))
    }

    pub(super) fn take_decisions(&self) -> Option<RingBuf<MapData>> {
        lock(&self.decisions).take()
    }

    pub(super) fn keep_journal(&self, journal: &Arc<Journal>) {
        // The ring is taken once, and this with it.
        let _ = self.journal.set(Arc::clone(journal));
    }

    /// A successor has it from here on.
    pub(super) fn let_go_of_journal(&self) {
        if let Some(journal) = self.journal.get() {
            journal.let_go();
        }
    }

    /// Keeps the pinned maps open, so that [`Shared::pin_again`] can.
    pub(super) fn keep(
        &self,
        paths: &[(&'static str, std::path::PathBuf)],
    ) -> Result<(), DatapathError> {
        let mut pins = Vec::new();
        for (name, path) in paths {
            let map =
                MapData::from_pin(path).map_err(|error| DatapathError::Map { name, error })?;
            pins.push((path.clone(), map));
        }
        *lock(&self.pins) = pins;
        Ok(())
    }

    /// Pins again what is no longer pinned, or where another map is pinned: after a load that failed, or after bpffs was
    /// mounted anew.
    pub(super) fn pin_again(&self) -> Result<(), DatapathError> {
        for (path, map) in lock(&self.pins).iter() {
            let own = map.info().map(|info| info.id()).ok();
            let there = path
                .exists()
                .then(|| {
                    aya::maps::MapInfo::from_pin(path)
                        .map(|info| info.id())
                        .ok()
                })
                .flatten();
            if there.is_some() && there == own {
                continue;
            }
            if let Some(directory) = path.parent() {
                // Pinning the map reports what is wrong with it.
                let _ = make_directory(directory);
            }
            unpin(path);
            map.pin(path).map_err(|error| DatapathError::Pin {
                path: path.clone(),
                error,
            })?;
        }
        Ok(())
    }

    /// Says who is behind an interface; `None` for nobody.
    pub fn identify(&self, ifindex: u32, identity: Option<Arc<Identity>>) {
        if self.clients.set(ifindex, identity) {
            self.answers.forget_unknown();
        }
    }

    /// Nobody is known any more.
    pub fn forget_clients(&self) {
        for ifindex in self.clients.interfaces() {
            self.identify(ifindex, None);
        }
    }

    /// Whether somebody is known behind an interface.
    pub fn has_client(&self, ifindex: u32) -> bool {
        self.clients.behind(ifindex).is_some()
    }

    /// Whether somebody is behind an interface who is only known from an earlier process.
    pub fn is_unconfirmed(&self, ifindex: u32) -> bool {
        self.clients.is_unconfirmed(ifindex)
    }

    /// The answers that the programs serve by themselves.
    pub fn answers(&self) -> &Arc<Answers> {
        &self.answers
    }

    /// Whether the programs report their decisions.
    pub fn switch(&self) -> &Switch {
        &self.switch
    }

    /// Verdicts over all processors, indexed by [`dns_common::verdict::Verdict::counter`].
    pub fn counters(&self) -> Result<Vec<u64>, DatapathError> {
        let per_cpu = self
            .counters
            .get(&0, 0)
            .map_err(|error| DatapathError::Map {
                name: names::COUNTERS,
                error,
            })?;
        let mut sum = vec![0u64; COUNTERS];
        for counters in per_cpu.iter() {
            for (total, value) in sum.iter_mut().zip(counters.0) {
                *total += value;
            }
        }
        Ok(sum)
    }

    /// Names that rules have observed, by rule.
    pub fn observed(&self) -> BTreeMap<String, u64> {
        self.observed.sums()
    }

    /// Addresses outside the configuration that were asked on port 53, with how often; at most 64.
    pub fn other_servers(&self) -> Vec<(IpAddr, u64)> {
        self.other_servers
            .iter()
            .filter_map(Result::ok)
            .map(|(key, count)| {
                let mut octets = [0; 16];
                octets[..8].copy_from_slice(&key[0].to_ne_bytes());
                octets[8..].copy_from_slice(&key[1].to_ne_bytes());
                (Ipv6Addr::from(octets).to_canonical(), count)
            })
            .collect()
    }
}

impl Identify for Shared {
    fn asking(&self, ifindex: u32, source: IpAddr) -> Option<(u32, Arc<Client>)> {
        self.clients.asking(ifindex, source)
    }
}

/// A panic while a lock was held leaves data behind that is right as it is.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
