//! Accounts of the answers that programs gave, by rule and namespace: what slots counted for keys that have left them, and a
//! sum over all slots that is made in steps, so that a writer of the tables waits for one step at most.

use std::{collections::BTreeMap, ops::Range};

/// Most namespaces that hits are counted for.
const MAX_NAMESPACES: usize = 1024;
/// Slots that one step of a sum looks at.
const STEP: u32 = 256;

/// Answers that the programs gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// By name of the rule.
    pub rules: BTreeMap<String, u64>,
    /// By namespace, up to 1,024 of them.
    pub namespaces: BTreeMap<String, u64>,
    /// Of all other namespaces.
    pub other_namespaces: u64,
}

/// Hits of one slot for the key that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hits {
    pub rule: String,
    pub namespace: Option<String>,
    pub count: u64,
}

impl Given {
    fn add(&mut self, hits: &Hits) {
        let Hits {
            rule,
            namespace,
            count,
        } = hits;
        add(&mut self.rules, rule, *count);
        let Some(namespace) = namespace else {
            return;
        };
        if self.namespaces.len() < MAX_NAMESPACES || self.namespaces.contains_key(namespace) {
            add(&mut self.namespaces, namespace, *count);
        } else {
            self.other_namespaces += count;
        }
    }
}

fn add(accounts: &mut BTreeMap<String, u64>, name: &str, count: u64) {
    match accounts.get_mut(name) {
        Some(before) => *before += count,
        None => drop(accounts.insert(name.to_owned(), count)),
    }
}

/// See the module.
#[derive(Default)]
pub(super) struct Accounts {
    settled: Given,
    sum: Option<Sum>,
}

/// A sum of which the slots before `next` are a part.
struct Sum {
    given: Given,
    next: u32,
}

impl Accounts {
    /// Counts the hits of a slot whose key leaves it.
    pub fn settle(&mut self, slot: u32, hits: &Hits) {
        self.settled.add(hits);
        if let Some(sum) = &mut self.sum
            && slot >= sum.next
        {
            sum.given.add(hits);
        }
    }

    /// Counts the hits of all slots, which then begin at zero.
    pub fn settle_all(&mut self, slots: u32, hits: impl Fn(u32) -> Option<Hits>) {
        for hits in (0..slots).filter_map(hits) {
            self.settled.add(&hits);
        }
        if self.sum.is_some() {
            self.begin();
        }
    }

    /// Begins a sum, in the place of one that was begun.
    pub fn begin(&mut self) {
        self.sum = Some(Sum {
            given: self.settled.clone(),
            next: 0,
        });
    }

    /// Goes on with the sum that was begun. Returns it when it is complete; nothing is left of it then.
    pub fn step(&mut self, slots: u32, hits: impl Fn(u32) -> Option<Hits>) -> Option<Given> {
        let sum = self.sum.as_mut()?;
        let step: Range<u32> = sum.next..slots.min(sum.next.saturating_add(STEP));
        sum.next = step.end;
        for hits in step.filter_map(hits) {
            sum.given.add(&hits);
        }
        if sum.next < slots {
            return None;
        }
        self.sum.take().map(|sum| sum.given)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hits(namespace: &str, count: u64) -> Hits {
        Hits {
            rule: "kafka".to_owned(),
            namespace: Some(namespace.to_owned()),
            count,
        }
    }

    #[test]
    fn namespaces_beyond_the_limit_share_an_account() {
        let mut accounts = Accounts::default();
        for number in 0..MAX_NAMESPACES + 2 {
            accounts.settle(0, &hits(&format!("ns-{number}"), 1));
        }
        accounts.settle(0, &hits("ns-0", 5));
        accounts.begin();
        let given = accounts.step(0, |_| None).unwrap();
        assert_eq!(given.namespaces.len(), MAX_NAMESPACES);
        assert_eq!((given.namespaces["ns-0"], given.other_namespaces), (6, 2));
        assert_eq!(given.rules["kafka"], MAX_NAMESPACES as u64 + 7);
    }

    proptest! {
        /// Slots change keys while the sum is made: each hit of before it began is in it, and none twice.
        #[test]
        fn no_hit_is_missed_or_counted_twice(
            slots in 1..4 * STEP,
            before in prop::collection::vec((0..4 * STEP, 1..9u64), 0..50),
            during in prop::collection::vec((0..4 * STEP, 0..5u64), 0..50),
        ) {
            let mut accounts = Accounts::default();
            let mut live = vec![0; slots as usize];
            let mut all = 0;
            for (slot, count) in before {
                live[(slot % slots) as usize] += count;
                all += count;
            }
            accounts.begin();
            let mut during = during.into_iter();
            let given = loop {
                let found = live.clone();
                let found = accounts.step(slots, |slot| Some(hits("foo", found[slot as usize])));
                if let Some(given) = found {
                    break given;
                }
                // A slot is settled and counts for another key from then on.
                for (slot, new) in during.by_ref().take(10) {
                    let slot = slot % slots;
                    accounts.settle(slot, &hits("foo", live[slot as usize]));
                    live[slot as usize] = 0;
                    // A hit of during the sum may be in it or in the next one.
                    if new == 0 {
                        accounts.settle_all(slots, |slot| Some(hits("foo", live[slot as usize])));
                        live.fill(0);
                    }
                }
            };
            prop_assert_eq!(given.rules["kafka"], all);
        }
    }
}
