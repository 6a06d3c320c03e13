//! The clients behind the interfaces, as the programs have them: who each is, under which id, and which rules are for it.
//!
//! All pods that no rule tells apart are one client and have one id. Ids are random and never given twice, so an answer that is
//! kept for one is never another one's. What an earlier process has left stays in force until its source says something else;
//! the labels of such a client are not known before.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aya::{
    Ebpf,
    maps::{HashMap as BpfHashMap, MapData},
};
use dns_common::{
    abi::maps as names,
    answer::Ways,
    client::{
        CLIENT_ADDRESSES, Client as Entry, ClientRecord, DIGEST_WORDS, Permit, client_bucket,
        client_hash, release_client,
    },
    word::Word,
};
use sha2::{Digest as _, Sha256};

use super::{
    DatapathError,
    mapping::Mapping,
    object::{mapping, take},
    pod::Plain,
    server_id::halves,
};
use crate::{
    model::{Client, Identity},
    rules::RuleSet,
};

/// Clients that no interface has any more, kept with their answers for pods to come.
const MAX_IDLE: usize = 1024;

/// See the module. The tables are let go of when another process is to write them.
pub struct Clients(Mutex<Option<Inner>>);

/// A client that answers are kept for.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub client: Arc<Client>,
    /// Whether its labels are known.
    pub is_confirmed: bool,
}

type Digest = [u64; DIGEST_WORDS];

struct Inner {
    rules: Arc<RuleSet>,
    tables: Tables,
    interfaces: HashMap<u32, Behind>,
    clients: HashMap<u32, Class>,
    ids: HashMap<Digest, u32>,
}

struct Class {
    known: Known,
    digest: Digest,
    interfaces: usize,
}

struct Behind {
    slot: u32,
    record: ClientRecord,
    /// `None` as long as only an earlier process has said so.
    identity: Option<Arc<Identity>>,
}

struct Tables {
    index: Mapping<Ways>,
    entries: Mapping<Entry>,
    /// Those that were free for longest come first: readers may still be at the last ones.
    free: VecDeque<u32>,
    permits: BpfHashMap<MapData, Plain<Permit>, u8>,
    permitted: HashSet<Permit>,
}

impl Clients {
    /// Takes the maps, with what an earlier process has left in them.
    pub(super) fn open(ebpf: &mut Ebpf, rules: &Arc<RuleSet>) -> Result<Self, DatapathError> {
        // Missing in objects of before, which measurements compare with.
        if ebpf.map(names::CLIENTS).is_none() {
            return Ok(Self(Mutex::new(None)));
        }
        let mut inner = Inner {
            rules: Arc::clone(rules),
            tables: Tables::open(ebpf)?,
            interfaces: HashMap::new(),
            clients: HashMap::new(),
            ids: HashMap::new(),
        };
        inner.adopt();
        inner.tables.sync_permits(&inner.rules, &inner.clients);
        Ok(Self(Mutex::new(Some(inner))))
    }

    /// A panic elsewhere leaves an entry that only costs room.
    fn lock(&self) -> MutexGuard<'_, Option<Inner>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes no more from here on: the tables are another process's.
    pub(super) fn let_go(&self) {
        *self.lock() = None;
    }

    /// Another rule set is in force. Returns whether answers are to be looked at again, as [`Clients::set`] does.
    pub(super) fn put_in_force(&self, rules: &Arc<RuleSet>) -> bool {
        let mut guard = self.lock();
        guard
            .as_mut()
            .is_some_and(|inner| inner.put_in_force(rules))
    }

    /// Says who is behind an interface; `None` for nobody. Returns whether answers are to be looked at again: they may be of a
    /// client that is no longer known, or for which a rule no longer is.
    pub(super) fn set(&self, ifindex: u32, identity: Option<Arc<Identity>>) -> bool {
        let mut guard = self.lock();
        let Some(inner) = guard.as_mut() else {
            return false;
        };
        match identity {
            Some(identity) => inner.set(ifindex, identity),
            None => inner.remove(ifindex),
        }
    }

    /// Whether somebody is behind an interface who is only known from an earlier process.
    pub(super) fn is_unconfirmed(&self, ifindex: u32) -> bool {
        let guard = self.lock();
        let behind = guard
            .as_ref()
            .and_then(|inner| inner.interfaces.get(&ifindex));
        behind.is_some_and(|behind| behind.identity.is_none())
    }

    /// The client with this id.
    pub(super) fn known(&self, id: u32) -> Option<Known> {
        Some(self.lock().as_ref()?.clients.get(&id)?.known.clone())
    }

    /// The id of the client behind an interface, and who that is, where its source has said so.
    pub(super) fn behind(&self, ifindex: u32) -> Option<(u32, Arc<Client>)> {
        let guard = self.lock();
        let inner = guard.as_ref()?;
        let id = inner.interfaces.get(&ifindex)?.record.id;
        let known = &inner.clients.get(&id)?.known;
        Some((id, Arc::clone(&known.client)))
    }

    /// Interfaces with somebody behind them.
    pub(super) fn interfaces(&self) -> Vec<u32> {
        let guard = self.lock();
        let interfaces = guard.iter().flat_map(|inner| inner.interfaces.keys());
        interfaces.copied().collect()
    }

    /// The client behind an interface, where it asks from this address.
    pub(super) fn asking(&self, ifindex: u32, source: IpAddr) -> Option<(u32, Arc<Client>)> {
        let guard = self.lock();
        let inner = guard.as_ref()?;
        let record = &inner.interfaces.get(&ifindex)?.record;
        let known = &inner.clients.get(&record.id)?.known;
        let is_own = record.addresses.contains(&as_ipv6(source));
        is_own.then(|| (record.id, Arc::clone(&known.client)))
    }
}

impl Inner {
    fn adopt(&mut self) {
        let mut taken = HashSet::new();
        for bucket in 0..self.tables.index.len() {
            for way in self.tables.index.element(bucket).into_iter().flatten() {
                let word = way.load();
                let slot = (word as u32).wrapping_sub(1);
                let entry = self.tables.entries.element(slot as usize);
                let record = entry.and_then(ClientRecord::read);
                let record = record.filter(|record| {
                    client_hash(record.ifindex) == word >> 32 << 32
                        && client_bucket(record.ifindex) as usize == bucket
                        && !self.interfaces.contains_key(&record.ifindex)
                        && self
                            .clients
                            .get(&record.id)
                            .is_none_or(|class| class.digest == record.digest)
                });
                let Some(record) = record else {
                    way.store(0);
                    continue;
                };
                taken.insert(slot);
                self.ids.insert(record.digest, record.id);
                let class = self.clients.entry(record.id).or_insert_with(|| Class {
                    known: Known {
                        client: Arc::new(Client {
                            namespace: record.namespace.clone(),
                            ..Client::default()
                        }),
                        is_confirmed: false,
                    },
                    digest: record.digest,
                    interfaces: 0,
                });
                class.interfaces += 1;
                let behind = Behind {
                    slot,
                    record,
                    identity: None,
                };
                self.interfaces.insert(behind.record.ifindex, behind);
            }
        }
        self.tables.free = (0..self.tables.entries.len() as u32)
            .filter(|slot| !taken.contains(slot))
            .collect();
    }

    fn put_in_force(&mut self, rules: &Arc<RuleSet>) -> bool {
        let looks_at_others = self.rules.client_labels() != rules.client_labels();
        let claims_others = !self.rules.has_claims_of(rules);
        let looks_at_more = !self.rules.asks_who() && rules.asks_who();
        self.rules = Arc::clone(rules);
        if looks_at_others || looks_at_more || claims_others {
            let all: Vec<(u32, Arc<Identity>)> = self
                .interfaces
                .iter()
                .filter_map(|(ifindex, behind)| Some((*ifindex, behind.identity.clone()?)))
                .collect();
            for (ifindex, identity) in all {
                self.set(ifindex, identity);
            }
        }
        // With other claims it is another client: the permits of this one would take the place of others'.
        let before = self.clients.len();
        self.clients.retain(|_, class| {
            let client = &class.known.client;
            class.interfaces > 0 || client.claims == rules.claims_of(&client.namespace)
        });
        self.ids.retain(|_, id| self.clients.contains_key(id));
        self.tables.sync_permits(&self.rules, &self.clients);
        self.clients.len() != before
    }

    fn set(&mut self, ifindex: u32, identity: Arc<Identity>) -> bool {
        let client = client_of(&identity, &self.rules);
        let digest = digest(&client);
        let (id, mut is_changed) = self.id_of(client, digest);
        let addresses: Vec<[u64; 2]> = identity
            .addresses
            .iter()
            .take(CLIENT_ADDRESSES)
            .map(|address| as_ipv6(*address))
            .collect();
        if addresses.is_empty() {
            return self.remove(ifindex) | is_changed;
        }
        let record = ClientRecord {
            ifindex,
            id,
            addresses,
            namespace: identity.namespace.clone(),
            digest,
        };
        if let Some(behind) = self.interfaces.get_mut(&ifindex)
            && behind.record == record
        {
            behind.identity = Some(identity);
            return is_changed;
        }
        let Some(slot) = self.tables.write(&record) else {
            tracing::warn!("too many interfaces: rules that ask who the client is leave some out");
            return self.remove(ifindex) | is_changed;
        };
        if let Some(class) = self.clients.get_mut(&id) {
            class.interfaces += 1;
        }
        let behind = Behind {
            slot,
            record,
            identity: Some(identity),
        };
        if let Some(before) = self.interfaces.insert(ifindex, behind) {
            self.tables.free.push_back(before.slot);
            is_changed |= self.left(before.record.id);
        }
        is_changed
    }

    fn remove(&mut self, ifindex: u32) -> bool {
        let Some(before) = self.interfaces.remove(&ifindex) else {
            return false;
        };
        self.tables.hide(ifindex);
        if let Some(entry) = self.tables.entries.element(before.slot as usize) {
            release_client(entry);
        }
        self.tables.free.push_back(before.slot);
        self.left(before.record.id)
    }

    /// The id of a client, and whether more is known of it than before.
    fn id_of(&mut self, client: Client, digest: Digest) -> (u32, bool) {
        if let Some(&id) = self.ids.get(&digest)
            && let Some(class) = self.clients.get_mut(&id)
        {
            if class.known.is_confirmed {
                return (id, false);
            }
            class.known = Known {
                client: Arc::new(client),
                is_confirmed: true,
            };
            self.tables.permit(&self.rules, id, &class.known.client);
            return (id, true);
        }
        let id = loop {
            let id = rand::random::<u32>();
            if id != 0 && !self.clients.contains_key(&id) {
                break id;
            }
        };
        self.tables.permit(&self.rules, id, &client);
        let class = Class {
            known: Known {
                client: Arc::new(client),
                is_confirmed: true,
            },
            digest,
            interfaces: 0,
        };
        self.clients.insert(id, class);
        self.ids.insert(digest, id);
        (id, false)
    }

    /// An interface is no longer this client's. Returns whether clients were forgotten.
    fn left(&mut self, id: u32) -> bool {
        let Some(class) = self.clients.get_mut(&id) else {
            return false;
        };
        class.interfaces -= 1;
        let is_idle = |class: &Class| class.interfaces == 0;
        let idle = self.clients.values().filter(|class| is_idle(class)).count();
        if idle <= MAX_IDLE {
            return false;
        }
        self.clients.retain(|_, class| !is_idle(class));
        self.ids.retain(|_, id| self.clients.contains_key(id));
        self.tables.sync_permits(&self.rules, &self.clients);
        true
    }
}

impl Tables {
    fn open(ebpf: &mut Ebpf) -> Result<Self, DatapathError> {
        let permits: BpfHashMap<_, Plain<Permit>, u8> = take(ebpf, names::PERMITS)?;
        let permitted = permits.keys().filter_map(Result::ok);
        Ok(Self {
            index: mapping(ebpf, names::CLIENT_INDEX)?,
            entries: mapping(ebpf, names::CLIENTS)?,
            free: VecDeque::new(),
            permitted: permitted.map(|Plain(permit)| permit).collect(),
            permits,
        })
    }

    /// Writes an entry and lets the programs find it, in the place of the interface's last one in one step.
    fn write(&mut self, record: &ClientRecord) -> Option<u32> {
        let ways = self.index.element(client_bucket(record.ifindex) as usize)?;
        let hash = client_hash(record.ifindex);
        let is_own = |way: &&Word| way.load() >> 32 << 32 == hash && way.load() != 0;
        let way = ways.iter().find(is_own);
        let way = way.or_else(|| ways.iter().find(|way| way.load() == 0))?;
        let slot = self.free.pop_front()?;
        record.write(self.entries.element(slot as usize)?);
        way.store(hash | u64::from(slot + 1));
        Some(slot)
    }

    fn hide(&self, ifindex: u32) {
        let ways = self.index.element(client_bucket(ifindex) as usize);
        for way in ways.into_iter().flatten() {
            if way.load() != 0 && way.load() >> 32 << 32 == client_hash(ifindex) {
                way.store(0);
            }
        }
    }

    /// Gives a client its permits.
    fn permit(&mut self, rules: &RuleSet, id: u32, client: &Client) {
        for rule in rules.permits(client) {
            self.allow(Permit::new(rule, id));
        }
    }

    fn allow(&mut self, permit: Permit) {
        if self.permitted.contains(&permit) {
            return;
        }
        match self.permits.insert(Plain(permit), 1, 0) {
            Ok(()) => {
                self.permitted.insert(permit);
            }
            // The rule is not for the client then: its queries have the next rule.
            Err(error) => tracing::warn!(
                error = super::one_line(&error),
                "a rule leaves a client out"
            ),
        }
    }

    /// Makes the permits those of these rules. A client whose labels are not known keeps those that it has.
    fn sync_permits(&mut self, rules: &RuleSet, clients: &HashMap<u32, Class>) {
        let mut wanted = HashSet::new();
        for (id, class) in clients {
            if class.known.is_confirmed {
                let permits = rules.permits(&class.known.client);
                wanted.extend(permits.map(|rule| Permit::new(rule, *id)));
            }
        }
        let is_unconfirmed = |id: &u32| {
            clients
                .get(id)
                .is_some_and(|class| !class.known.is_confirmed)
        };
        let unwanted: Vec<Permit> = self
            .permitted
            .iter()
            .filter(|permit| !wanted.contains(permit) && !is_unconfirmed(&permit.client))
            .copied()
            .collect();
        for permit in unwanted {
            // One that is missing is not there, either.
            let _ = self.permits.remove(&Plain(permit));
            self.permitted.remove(&permit);
        }
        for permit in wanted {
            self.allow(permit);
        }
    }
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let guard = self.lock();
        let interfaces = guard.as_ref().map(|inner| inner.interfaces.len());
        f.debug_struct("Clients")
            .field("interfaces", &interfaces)
            .finish_non_exhaustive()
    }
}

/// What rules see of an identity.
fn client_of(identity: &Identity, rules: &RuleSet) -> Client {
    let labels = rules.client_labels();
    let all = identity.labels.iter().flatten();
    Client {
        namespace: identity.namespace.clone(),
        labels: all
            .filter(|(key, _)| labels.contains(*key))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect(),
        claims: rules.claims_of(&identity.namespace),
    }
}

/// The same for clients that are the same, and for no others.
fn digest(client: &Client) -> Digest {
    let mut hash = Sha256::new();
    // No key of a label.
    let between = (!client.claims.is_empty()).then(String::new);
    let labels = client.labels.iter().flat_map(|(key, value)| [key, value]);
    let claims = client.claims.iter().flat_map(|(key, value)| [key, value]);
    let texts = std::iter::once(&client.namespace).chain(labels);
    for text in texts.chain(&between).chain(claims) {
        hash.update((text.len() as u64).to_le_bytes());
        hash.update(text);
    }
    let bytes = <[u8; 32]>::from(hash.finalize());
    let (words, _) = bytes.as_chunks::<8>();
    std::array::from_fn(|index| u64::from_le_bytes(words[index]))
}

fn as_ipv6(address: IpAddr) -> [u64; 2] {
    match address {
        IpAddr::V4(address) => halves(address.to_ipv6_mapped()),
        IpAddr::V6(address) => halves(address),
    }
}
