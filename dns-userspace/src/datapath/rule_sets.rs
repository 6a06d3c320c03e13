//! The rule sets that queries in the ring may belong to: that of the programs, and the one before.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::rules::RuleSet;

/// See the module.
pub(super) struct RuleSets(Mutex<[Arc<RuleSet>; 2]>);

impl RuleSets {
    pub fn new(rules: &Arc<RuleSet>) -> Self {
        Self(Mutex::new([Arc::clone(rules), Arc::clone(rules)]))
    }

    pub fn put_in_force(&self, rules: &Arc<RuleSet>) {
        let mut sets = self.lock();
        if !Arc::ptr_eq(&sets[0], rules) {
            sets.swap(0, 1);
            sets[0] = Arc::clone(rules);
        }
    }

    pub fn current(&self) -> Arc<RuleSet> {
        Arc::clone(&self.lock()[0])
    }

    /// The rule with this id, in the newest set that has it.
    pub fn find(&self, id: u64) -> Option<(Arc<RuleSet>, usize)> {
        self.lock()
            .iter()
            .find_map(|rules| Some((Arc::clone(rules), rules.index_of(id)?)))
    }

    /// A panic while the lock was held leaves data behind that is right as it is.
    fn lock(&self) -> MutexGuard<'_, [Arc<RuleSet>; 2]> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
