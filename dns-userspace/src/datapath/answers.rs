//! The answers that the programs give by themselves: which there are, and on whose account.
//!
//! Userspace is the only writer of the tables; programs read them and count. The tables outlive programs and processes: what
//! a table holds is keyed by numbers that mean the same in all of them. What depends on the rule set of one program is its
//! [`View`].

mod accounts;
mod table;

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aya::Ebpf;
use dns_common::{
    abi::maps as names,
    answer::{self, Absent, Body, Key, Lifetime, Settings, Slot, SuffixSettings, WAYS, Ways},
    wire::KEPT_QTYPES,
    word::Word,
};
use hickory_proto::rr::Name;

pub use self::accounts::Given;
use self::{
    accounts::{Accounts, Hits},
    table::Table,
};
use super::{
    DatapathError,
    clients::{Clients, Known},
    heartbeat::monotonic_ns,
    mapping::Mapping,
    object::mapping,
    server_id::server_id,
};
use crate::{
    fair::Limits,
    model::{Changes, LastGood, Publish, PublishedEntry, Term},
    rules::RuleSet,
};

/// What the programs may answer by themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnswerOptions {
    /// Answers in all, and as many targets that do not exist; 0 for a program that answers nothing.
    pub total: usize,
    /// Of one interface.
    pub per_interface: usize,
    /// Whether answers depend on the server that was asked.
    pub per_server: bool,
    /// Most seconds of TTL of an answer that is given past its time while no responder is there; 0 for none.
    pub stale_ttl: u32,
}

impl AnswerOptions {
    /// The program answers nothing.
    pub const NONE: AnswerOptions = AnswerOptions {
        total: 0,
        per_interface: 0,
        per_server: true,
        stale_ttl: 0,
    };

    fn buckets(&self) -> usize {
        // Two slots in a bucket of eight on average: one that is full has a chance of about one in 4,000.
        (self.total / (WAYS / 4)).next_power_of_two()
    }

    fn limits(&self) -> Limits {
        Limits {
            total: self.total,
            per_interface: self.per_interface,
        }
    }
}

/// How much there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswerSizes {
    pub answers: usize,
    pub absent: usize,
    /// Answers that found no place in the index.
    pub unplaced: u64,
}

/// What of the answers depends on one program: its rules and servers, and the index by the ends of names, which only holds
/// for its rule set.
pub(super) struct View {
    servers: Vec<IpAddr>,
    per_server: bool,
    stale_ttl: u32,
    rules: Arc<RuleSet>,
    clients: Arc<Clients>,
    suffixes: SuffixSettings,
    suffix_index: Mapping<Ways>,
}

impl View {
    /// Takes the index of a program.
    pub fn open(
        ebpf: &mut Ebpf,
        options: &AnswerOptions,
        servers: &[IpAddr],
        rules: &Arc<RuleSet>,
        clients: Arc<Clients>,
    ) -> Result<Self, DatapathError> {
        let suffix_index: Mapping<Ways> = mapping(ebpf, names::SUFFIX_INDEX)?;
        let mut suffixes = SuffixSettings {
            mask: suffix_index.len() as u32 - 1,
            ..SuffixSettings::NONE
        };
        for factor in &mut suffixes.factors {
            *factor = rand::random::<u64>() | 1;
        }
        for (place, (starter, asks)) in suffixes.starters.iter_mut().zip(rules.starters()) {
            *place = starter;
            suffixes.asks |= u32::from(asks) << suffixes.starter_count;
            suffixes.starter_count += 1;
        }
        Ok(Self {
            servers: servers.to_vec(),
            per_server: options.per_server,
            stale_ttl: options.stale_ttl,
            rules: Arc::clone(rules),
            clients,
            suffixes,
            suffix_index,
        })
    }

    pub fn clients(&self) -> &Arc<Clients> {
        &self.clients
    }

    /// Who asks the questions with this key, `Ok(None)` for anybody; an error for somebody who is not known any more.
    fn client(&self, key: &Key) -> Result<Option<Known>, Forgotten> {
        match key.client() {
            0 => Ok(None),
            id => self.clients.known(id).map(Some).ok_or(Forgotten),
        }
    }

    /// Whether answers with this key can be asked for under this configuration.
    fn knows(&self, key: &Key) -> bool {
        let server = if self.per_server {
            self.servers
                .iter()
                .any(|server| server_id(*server) == key.server())
        } else {
            key.server() == 0
        };
        let captures: Vec<_> = key.labels().collect();
        let captures = captures.iter().map(|(label, len)| &label[..*len]);
        let Ok(client) = self.client(key) else {
            return false;
        };
        server
            && match client {
                // An earlier process has kept it, and knew more.
                Some(Known {
                    client,
                    is_confirmed: false,
                }) => self.rules.may_answer(key.rule, captures, &client.namespace),
                client => {
                    let client = client.as_ref().map(|known| &*known.client);
                    self.rules.answers(key.rule, captures, client)
                }
            }
    }

    /// What names with this key end with, and its hash; `None` where that does not settle the key.
    fn suffix(&self, key: &Key) -> Option<(Vec<u8>, u64)> {
        let captures: Vec<_> = key.labels().collect();
        let captures = captures.iter().map(|(label, len)| &label[..*len]);
        let rule = self.rules.index_of(key.rule)?;
        let suffix = self.rules.suffix(rule, captures)?;
        let hash = self.suffixes.hash(&suffix, key)?;
        Some((suffix, hash))
    }

    /// The targets of the questions with this key, where one of them has changed.
    fn changed_targets(&self, key: &Key, changes: &Changes) -> Option<Vec<Name>> {
        let rule = self.rules.index_of(key.rule)?;
        let captures: Vec<String> = key
            .labels()
            .map(|(label, len)| String::from_utf8_lossy(&label[..len]).into_owned())
            .collect();
        let client = self.client(key).ok()?;
        let client = client.as_ref().map(|known| &*known.client);
        if self.rules.has_one_target(rule) {
            let target = self.rules.first_target(rule, &captures, client)?;
            if !changes.has_text(&target) {
                return None;
            }
        }
        let targets = self.rules.targets(rule, &captures, client);
        changes.concern(&targets).then_some(targets)
    }

    fn hide_suffix(&self, key: &Key, slot: u32) {
        if let Some((_, hash)) = self.suffix(key) {
            table::clear(table::ways(&self.suffix_index, hash), slot);
        }
    }
}

/// A client is not known any more.
struct Forgotten;

/// The tables themselves.
pub(super) struct Tables {
    options: AnswerOptions,
    seed: u64,
    answers: Table<Slot>,
    absent: Table<Absent>,
    /// Answers given, by slot within lane.
    hits: Mapping<Word>,
    lanes: usize,
    shares_lanes: bool,
    /// Hits of a slot when it came to its key, or when this process did.
    before: Vec<u64>,
}

impl Tables {
    /// Takes the maps, with what is in them.
    pub fn open(
        ebpf: &mut Ebpf,
        options: &AnswerOptions,
        seed: u64,
        shares_lanes: bool,
    ) -> Result<Self, DatapathError> {
        let limits = options.limits();
        let now = monotonic_ns();
        let hits: Mapping<Word> = mapping(ebpf, names::HITS)?;
        let mut tables = Self {
            options: *options,
            seed,
            answers: Table::open(ebpf, names::INDEX, names::ANSWERS, limits, seed, now)?,
            absent: Table::open(ebpf, names::ABSENT_INDEX, names::ABSENT, limits, seed, now)?,
            lanes: hits.len().checked_div(options.total).unwrap_or(0),
            shares_lanes,
            hits,
            before: Vec::new(),
        };
        tables.before = (0..options.total as u32)
            .map(|slot| tables.hits(slot))
            .collect();
        Ok(tables)
    }

    /// What a program needs to know.
    pub fn settings(&self, view: &View) -> Settings {
        Settings {
            seed: self.seed,
            bucket_mask: self.answers.buckets() as u32 - 1,
            absent_mask: self.absent.buckets() as u32 - 1,
            lane_mask: self.lanes.saturating_sub(1) as u16,
            shares_lanes: self.shares_lanes.into(),
            slots: self.options.total as u32,
            stale_ttl: view.stale_ttl,
            padding: 0,
            suffixes: view.suffixes,
        }
    }

    /// Answers given from a slot, whichever keys it had.
    fn hits(&self, slot: u32) -> u64 {
        let slots = self.hits.len() / self.lanes.max(1);
        (0..self.lanes)
            .filter_map(|lane| self.hits.element(lane * slots + slot as usize))
            .map(Word::load)
            .fold(0, u64::wrapping_add)
    }

    /// What a slot has counted for the key that it has.
    fn hits_in(&self, view: &View, slot: u32) -> Option<Hits> {
        let key = answer::key_of(self.answers.entry(slot)?.as_ref())?;
        hits_of(view, &key, self, slot)
    }

    /// Copies the entries of a table of another size; what has no room is left out.
    pub fn import(&mut self, other: &Mapping<Slot>) {
        let now = monotonic_ns();
        let slots = (0..other.len()).filter_map(|index| other.element(index));
        let with_key = slots.filter_map(|slot| Some((answer::key_of(&slot.entry)?, slot)));
        let valid = with_key.filter(|(_, slot)| answer::until_of(&slot.entry) > now);
        self.copy_newest(valid.collect());
    }

    /// Copies as many as there is room for, those that were published last as the newest.
    fn copy_newest(&mut self, mut slots: Vec<(Key, &Slot)>) {
        slots.sort_by_key(|(_, slot)| answer::until_of(&slot.entry));
        let left_out = slots.len().saturating_sub(self.options.total);
        for (key, from) in &slots[left_out..] {
            self.copy(key, from);
        }
    }

    /// Copies an entry. The view that is put in force next writes its suffix.
    fn copy(&mut self, key: &Key, from: &Slot) {
        let Some(place) = self.answers.place_unowned(key, self.seed) else {
            return;
        };
        if let Some(slot) = self.answers.entry(place.slot) {
            answer::copy_from(&slot.entry, &from.entry, || {
                answer::write_suffix(&slot.suffix, &[])
            });
        }
        self.before[place.slot as usize] = self.hits(place.slot);
        self.answers.show(&place);
    }

    /// Every slot, to be copied from.
    fn slots(&self) -> impl Iterator<Item = (Key, &Slot)> {
        self.answers
            .keys()
            .filter_map(|(key, slot)| Some((*key, self.answers.entry(slot)?)))
    }
}

/// The tables with the view that is in force. They are let go of when another process is to write them.
pub struct Answers {
    inner: Mutex<Option<Inner>>,
    /// Held while a sum is made: one at a time.
    sum: Mutex<()>,
}

struct Inner {
    tables: Tables,
    view: View,
    accounts: Accounts,
    unplaced: u64,
}

impl Answers {
    pub(super) fn new(tables: Tables, view: View) -> Self {
        let mut inner = Inner {
            tables,
            view,
            accounts: Accounts::default(),
            unplaced: 0,
        };
        inner.conform();
        Self {
            inner: Mutex::new(Some(inner)),
            sum: Mutex::default(),
        }
    }

    /// A panic elsewhere leaves the tables in a state that only costs room.
    fn lock(&self) -> MutexGuard<'_, Option<Inner>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes no more from here on: the tables are another process's.
    pub fn let_go(&self) {
        *self.lock() = None;
    }

    /// What a program with another view needs to know; `tables` where it has others than those in use.
    pub(super) fn settings(&self, tables: Option<&Tables>, view: &View) -> Option<Settings> {
        match tables {
            Some(tables) => Some(tables.settings(view)),
            None => Some(self.lock().as_ref()?.tables.settings(view)),
        }
    }

    /// Puts another view in force, and other tables where there are some, with the answers of those before. Returns what was
    /// in force.
    pub(super) fn switch(
        &self,
        tables: Option<Tables>,
        view: View,
    ) -> Option<(Option<Tables>, View)> {
        let mut guard = self.lock();
        let inner = guard.as_mut()?;
        inner.settle_all();
        let tables = tables.map(|mut tables| {
            tables.copy_newest(inner.tables.slots().collect());
            std::mem::replace(&mut inner.tables, tables)
        });
        let limits = inner.tables.options;
        inner.tables.options = AnswerOptions {
            per_server: view.per_server,
            stale_ttl: view.stale_ttl,
            ..limits
        };
        let view = std::mem::replace(&mut inner.view, view);
        inner.conform();
        Some((tables, view))
    }

    /// The key of a question, if its answer may be kept here: not for servers of one link.
    pub fn key(
        &self,
        rule: u64,
        qtype: u16,
        server: IpAddr,
        captures: &[String],
        client: u32,
    ) -> Option<Key> {
        let guard = self.lock();
        let view = &guard.as_ref()?.view;
        let mut id = 0;
        if view.per_server {
            if matches!(server, IpAddr::V6(server) if server.is_unicast_link_local()) {
                return None;
            }
            id = server_id(server);
        }
        let captures: Vec<&[u8]> = captures.iter().map(String::as_bytes).collect();
        let key = Key::new(rule, qtype, id, &captures)?.of_client(client);
        view.knows(&key).then_some(key)
    }

    /// What the programs have of the question with this key, whichever process has published it.
    pub fn last_good(&self, key: &Key) -> LastGood {
        self.lock()
            .as_ref()
            .map_or_else(LastGood::default, |inner| inner.last_good(key))
    }

    /// Lets the programs answer from now on, or with something else than before. An answer that has no room is answered
    /// by userspace.
    pub fn publish(&self, ifindex: u32, key: &Key, body: &Body, term: &Term) {
        if !body.fits() {
            self.remove(key);
            return;
        }
        let now = monotonic_ns();
        let after = |from: u64, time: Duration| from.saturating_add(time.as_nanos() as u64);
        let fresh_until_ns = after(now, term.fresh);
        let lifetime = Lifetime {
            fresh_until_ns,
            serve_until_ns: after(fresh_until_ns, term.grace),
            stale_until_ns: after(now, term.unattended),
            fixed_ttl: term.fixed_ttl.unwrap_or(0),
        };
        if let Some(inner) = self.lock().as_mut() {
            inner.publish(ifindex, key, body, &lifetime);
        }
    }

    /// Lets the programs pass the queries of a target that does not exist.
    pub fn publish_absent(&self, ifindex: u32, key: &Key, left: Duration) {
        let until = monotonic_ns().saturating_add(left.as_nanos() as u64);
        if let Some(inner) = self.lock().as_mut() {
            inner.publish_absent(ifindex, &key.with_qtype(0), until);
        }
    }

    /// Takes an answer away from the programs.
    pub fn remove(&self, key: &Key) {
        if let Some(inner) = self.lock().as_mut() {
            inner.remove(key);
        }
    }

    /// Takes answers away whose target has changed, and lets the programs ask for targets again that they pass.
    pub fn remove_changed(
        &self,
        changes: &Changes,
        is_outdated: &dyn Fn(&[Name], &PublishedEntry<'_>) -> bool,
    ) {
        if let Some(inner) = self.lock().as_mut() {
            inner.remove_changed(changes, is_outdated);
        }
    }

    /// Drops what is kept for clients that are not known any more, or that a rule is no longer for.
    pub(super) fn forget_unknown(&self) {
        if let Some(inner) = self.lock().as_mut() {
            inner.forget_unknown();
        }
    }

    /// Leaves the entries of an interface that is gone on no account.
    pub fn release_interface(&self, ifindex: u32) {
        if let Some(inner) = self.lock().as_mut() {
            inner.tables.answers.release_interface(ifindex);
            inner.tables.absent.release_interface(ifindex);
        }
    }

    pub fn sizes(&self) -> AnswerSizes {
        self.lock()
            .as_ref()
            .map_or_else(AnswerSizes::default, |inner| AnswerSizes {
                answers: inner.tables.answers.len(),
                absent: inner.tables.absent.len(),
                unplaced: inner.unplaced,
            })
    }

    /// What the programs have answered since this process took the tables. Publishing goes on meanwhile.
    pub fn given(&self) -> Given {
        let _one = self.sum.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = self.lock().as_mut() {
            inner.accounts.begin();
        }
        loop {
            let mut guard = self.lock();
            let Some(inner) = guard.as_mut() else {
                return Given::default();
            };
            let Inner {
                tables,
                view,
                accounts,
                ..
            } = inner;
            let slots = tables.options.total as u32;
            if let Some(given) = accounts.step(slots, |slot| tables.hits_in(view, slot)) {
                return given;
            }
        }
    }
}

impl Inner {
    /// Drops what the view does not know, and fills its index.
    fn conform(&mut self) {
        let keys: Vec<(Key, u32)> = self
            .tables
            .answers
            .keys()
            .map(|(key, slot)| (*key, slot))
            .collect();
        for (key, mut slot) in keys {
            if !self.view.knows(&key) {
                self.tables.answers.remove(&key, self.tables.seed);
                continue;
            }
            let suffix = self.view.suffix(&key);
            let bytes = suffix.as_ref().map_or(&[][..], |(suffix, _)| suffix);
            let entry = self.tables.answers.entry(slot);
            if entry.is_some_and(|entry| !answer::has_suffix(entry, bytes)) {
                slot = self.write_beside(&key, bytes).unwrap_or(slot);
            }
            if let Some((_, hash)) = suffix {
                table::show(&self.view.suffix_index, hash, slot);
            }
        }
        let absent: Vec<Key> = self.tables.absent.keys().map(|(key, _)| *key).collect();
        for key in absent {
            if !self.view.knows(&key) {
                self.tables.absent.remove(&key, self.tables.seed);
            }
        }
    }

    /// Writes an entry again with another suffix, and returns its slot.
    fn write_beside(&mut self, key: &Key, suffix: &[u8]) -> Option<u32> {
        let Self {
            tables,
            view,
            accounts,
            ..
        } = self;
        let place = tables.answers.beside(key, tables.seed)?;
        let slot = tables.answers.entry(place.slot)?;
        match place.before.and_then(|before| tables.answers.entry(before)) {
            Some(from) => {
                tables.before[place.slot as usize] = tables.hits(place.slot);
                answer::copy_from(&slot.entry, &from.entry, || {
                    answer::write_suffix(&slot.suffix, suffix);
                });
            }
            None => answer::change_suffix(slot, suffix),
        }
        tables.answers.show(&place);
        leave_before(tables, view, accounts, key, &place);
        Some(place.slot)
    }

    fn forget_unknown(&mut self) {
        let of_clients = |key: &&Key| key.client() != 0;
        let tables = &self.tables;
        let answers = tables.answers.keys().map(|(key, _)| key).filter(of_clients);
        let absent = tables.absent.keys().map(|(key, _)| key).filter(of_clients);
        let unknown = |key: &&Key| !self.view.knows(key);
        let answers: Vec<Key> = answers.filter(unknown).copied().collect();
        let absent: Vec<Key> = absent.filter(unknown).copied().collect();
        for key in answers {
            self.remove(&key);
        }
        for key in absent {
            self.tables.absent.remove(&key, self.tables.seed);
        }
    }

    fn publish(&mut self, ifindex: u32, key: &Key, body: &Body, lifetime: &Lifetime) {
        // A query of before a reload.
        if !self.view.knows(key) {
            return;
        }
        let Self {
            tables,
            view,
            accounts,
            unplaced,
        } = self;
        tables.absent.remove(&key.with_qtype(0), tables.seed);
        let mut gone = None;
        let place = tables
            .answers
            .place(ifindex, key, tables.seed, |key, slot| {
                gone = Some((*key, slot))
            });
        if let Some((gone, slot)) = gone {
            if let Some(hits) = hits_of(view, &gone, tables, slot) {
                accounts.settle(slot, &hits);
            }
            view.hide_suffix(&gone, slot);
        }
        let Some(place) = place else {
            *unplaced += u64::from(tables.options.total > 0);
            return;
        };
        let is_new = place.is_new();
        if is_new {
            tables.before[place.slot as usize] = tables.hits(place.slot);
        }
        let suffix = if is_new { view.suffix(key) } else { None };
        if let Some(slot) = tables.answers.entry(place.slot) {
            answer::write_with(&slot.entry, key, body, lifetime, || {
                // Without a suffix of its own, too: a reader that was led here by the slot's last key must not find
                // that key's suffix beside this answer.
                if is_new {
                    let suffix = suffix.as_ref().map_or(&[][..], |(suffix, _)| suffix);
                    answer::write_suffix(&slot.suffix, suffix);
                }
            });
        }
        tables.answers.show(&place);
        if let Some((_, hash)) = suffix {
            table::show(&view.suffix_index, hash, place.slot);
        }
        leave_before(tables, view, accounts, key, &place);
    }

    fn last_good(&self, key: &Key) -> LastGood {
        let now = monotonic_ns();
        let find = |qtype: u16| {
            let entry = &self.tables.answers.find(&key.with_qtype(qtype))?.entry;
            let left = answer::until_of(entry).checked_sub(now)?;
            Some((entry, Duration::from_nanos(left)))
        };
        LastGood {
            answer: find(key.qtype()).map(|(entry, left)| (answer::body_of(entry), left)),
            exists: KEPT_QTYPES.into_iter().any(|qtype| find(qtype).is_some()),
        }
    }

    /// `key` has a qtype of 0.
    fn publish_absent(&mut self, ifindex: u32, key: &Key, until_ns: u64) {
        if !self.view.knows(key) {
            return;
        }
        for qtype in KEPT_QTYPES {
            self.remove(&key.with_qtype(qtype));
        }
        let seed = self.tables.seed;
        let absent = &mut self.tables.absent;
        if let Some(place) = absent.place(ifindex, key, seed, |_, _| {}) {
            if let Some(entry) = absent.entry(place.slot) {
                answer::write_absent(entry, key, until_ns);
            }
            absent.show(&place);
            absent.release_before(&place);
        }
    }

    fn remove(&mut self, key: &Key) {
        if let Some(slot) = self.tables.answers.remove(key, self.tables.seed) {
            if let Some(hits) = hits_of(&self.view, key, &self.tables, slot) {
                self.accounts.settle(slot, &hits);
            }
            self.view.hide_suffix(key, slot);
        }
    }

    fn remove_changed(
        &mut self,
        changes: &Changes,
        is_outdated: &dyn Fn(&[Name], &PublishedEntry<'_>) -> bool,
    ) {
        let Self { tables, view, .. } = self;
        let answers = tables.answers.keys().filter(|(key, slot)| {
            let targets = view.changed_targets(key, changes);
            targets.is_some_and(|targets| {
                let entry = tables.answers.entry(*slot);
                entry.is_some_and(|slot| {
                    let body = answer::body_of(&slot.entry);
                    is_outdated(&targets, &PublishedEntry::Answer(key.qtype(), &body))
                })
            })
        });
        let answers: Vec<Key> = answers.map(|(key, _)| *key).collect();
        let absent = tables.absent.keys().filter(|(key, _)| {
            let targets = view.changed_targets(key, changes);
            targets.is_some_and(|targets| is_outdated(&targets, &PublishedEntry::NoTarget))
        });
        let absent: Vec<Key> = absent.map(|(key, _)| *key).collect();
        for key in answers {
            self.remove(&key);
        }
        for key in absent {
            self.tables.absent.remove(&key, self.tables.seed);
        }
    }

    /// Adds the hits of all slots to the accounts; the slots then begin at zero.
    fn settle_all(&mut self) {
        let Self {
            tables,
            view,
            accounts,
            ..
        } = self;
        accounts.settle_all(tables.options.total as u32, |slot| {
            tables.hits_in(view, slot)
        });
        tables.before = (0..tables.options.total as u32)
            .map(|slot| tables.hits(slot))
            .collect();
    }
}

/// Releases the slot that a key has had, of which programs have another one now.
fn leave_before(
    tables: &mut Tables,
    view: &View,
    accounts: &mut Accounts,
    key: &Key,
    place: &table::Place,
) {
    let Some(before) = place.before else {
        return;
    };
    if let Some(hits) = hits_of(view, key, tables, before) {
        accounts.settle(before, &hits);
    }
    tables.answers.release_before(place);
}

/// What a slot has counted for a key since it came to it.
fn hits_of(view: &View, key: &Key, tables: &Tables, slot: u32) -> Option<Hits> {
    let since = tables.before.get(slot as usize).copied().unwrap_or(0);
    let count = tables.hits(slot).wrapping_sub(since);
    if count == 0 {
        return None;
    }
    let rule = view.rules.rules().get(view.rules.index_of(key.rule)?)?;
    let label = rule.namespace().and_then(|at| key.labels().nth(at));
    let captured = label.map(|(label, len)| String::from_utf8_lossy(&label[..len]).into_owned());
    let of_client = || Some(view.client(key).ok()??.client.namespace.clone());
    Some(Hits {
        rule: rule.name().to_owned(),
        namespace: captured.or_else(of_client),
        count,
    })
}

impl Publish for Answers {
    fn key(
        &self,
        rule: u64,
        qtype: u16,
        server: IpAddr,
        captures: &[String],
        client: u32,
    ) -> Option<Key> {
        Answers::key(self, rule, qtype, server, captures, client)
    }

    fn last_good(&self, key: &Key) -> LastGood {
        Answers::last_good(self, key)
    }

    fn answer(&self, ifindex: u32, key: &Key, body: &Body, term: &Term) {
        self.publish(ifindex, key, body, term);
    }

    fn no_target(&self, ifindex: u32, key: &Key, left: Duration) {
        self.publish_absent(ifindex, key, left);
    }

    fn withdraw(&self, key: &Key) {
        self.remove(key);
    }

    fn withdraw_changed(
        &self,
        changes: &Changes,
        is_outdated: &dyn Fn(&[Name], &PublishedEntry<'_>) -> bool,
    ) {
        self.remove_changed(changes, is_outdated);
    }
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers")
            .field("sizes", &self.sizes())
            .finish_non_exhaustive()
    }
}

/// Sizes of the maps: name and elements.
pub(super) fn sizes(options: &AnswerOptions, lanes: usize) -> [(&'static str, u32); 6] {
    let slots = options.total.max(1);
    let buckets = options.buckets();
    [
        (names::INDEX, buckets),
        (names::ANSWERS, slots),
        (names::ABSENT_INDEX, buckets),
        (names::ABSENT, slots),
        (names::SUFFIX_INDEX, buckets),
        (names::HITS, slots * lanes),
    ]
    .map(|(name, elements)| (name, elements as u32))
}
