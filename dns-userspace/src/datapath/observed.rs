//! How many names each rule that observes has matched, since this process began: the counters of the program in force, and the
//! sums of those before it.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use aya::maps::{MapData, PerCpuArray};

use crate::rules::RuleSet;

/// The counters of one program; without a map where the program has none.
pub(super) struct Counters {
    map: Option<PerCpuArray<MapData, u64>>,
    /// Rules in the order of the counters.
    names: Vec<String>,
    /// The sums when the program was first put in force.
    before: Option<BTreeMap<String, u64>>,
}

impl Counters {
    pub fn new(map: Option<PerCpuArray<MapData, u64>>, rules: &RuleSet) -> Self {
        let names = rules.observing().map(|rule| rule.name().to_owned());
        Self {
            map,
            names: names.collect(),
            before: None,
        }
    }

    /// A counter that cannot be read is left out.
    fn sums(&self) -> BTreeMap<String, u64> {
        let mut sums = self.before.clone().unwrap_or_default();
        for (index, name) in (0u32..).zip(&self.names) {
            let counts = self.map.as_ref().map(|map| map.get(&index, 0));
            if let Some(Ok(counts)) = counts {
                *sums.entry(name.clone()).or_default() += counts.iter().sum::<u64>();
            }
        }
        sums
    }
}

/// See the module.
pub(super) struct Observed(Mutex<Counters>);

impl Observed {
    pub fn new(counters: Counters) -> Self {
        Self(Mutex::new(counters))
    }

    /// Another program is in force; returns the counters of the one before.
    pub fn put_in_force(&self, mut counters: Counters) -> Counters {
        let mut current = self.lock();
        counters.before.get_or_insert_with(|| current.sums());
        std::mem::replace(&mut *current, counters)
    }

    /// By rule.
    pub fn sums(&self) -> BTreeMap<String, u64> {
        self.lock().sums()
    }

    /// A panic while the lock was held leaves data behind that is right as it is.
    fn lock(&self) -> MutexGuard<'_, Counters> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
