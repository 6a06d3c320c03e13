//! How often the claims of a namespace may change: one that changes them all the time keeps those it had for a while, and no
//! other waits for it. No I/O, simulated clock.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use crate::model::Claimant;

/// Changes that a namespace may make at once, and how long it takes until it may make another.
const BURST: u32 = 5;
const REFILL: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub struct Damper {
    namespaces: HashMap<String, Taken>,
}

#[derive(Debug)]
struct Taken {
    claimants: Vec<Claimant>,
    /// The time that its changes take, from which the limit follows.
    full_until: Instant,
}

impl Damper {
    /// Takes what is claimed now. Returns what counts, and after which time to ask again where something is held back.
    pub fn take(
        &mut self,
        claimants: Vec<Claimant>,
        now: Instant,
    ) -> (Vec<Claimant>, Option<Duration>) {
        let mut by_namespace: HashMap<String, Vec<Claimant>> = HashMap::new();
        for claimant in claimants {
            let own = by_namespace.entry(claimant.namespace.clone()).or_default();
            own.push(claimant);
        }
        // Those that claim nothing any more, too.
        for namespace in self.namespaces.keys() {
            by_namespace.entry(namespace.clone()).or_default();
        }
        let mut wait: Option<Duration> = None;
        for (namespace, mut claimants) in by_namespace {
            claimants.sort_by(|a, b| a.service.cmp(&b.service));
            let Some(taken) = self.namespaces.get_mut(&namespace) else {
                let full_until = now;
                self.namespaces.insert(
                    namespace,
                    Taken {
                        claimants,
                        full_until,
                    },
                );
                continue;
            };
            if taken.claimants == claimants {
                continue;
            }
            let filled = taken.full_until.max(now) + REFILL;
            let most = now + REFILL * BURST;
            if filled > most {
                let until = filled - most;
                wait = Some(wait.map_or(until, |wait| wait.min(until)));
                continue;
            }
            taken.full_until = filled;
            taken.claimants = claimants;
        }
        self.namespaces
            .retain(|_, taken| !taken.claimants.is_empty() || taken.full_until > now);
        let all = self.namespaces.values().flat_map(|taken| &taken.claimants);
        (all.cloned().collect(), wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(namespace: &str, names: &str) -> Vec<Claimant> {
        if names.is_empty() {
            return Vec::new();
        }
        vec![Claimant {
            namespace: namespace.to_owned(),
            service: "up".to_owned(),
            names: names.to_owned(),
            ..Claimant::default()
        }]
    }

    /// What counts of a namespace.
    fn of(all: &[Claimant], namespace: &str) -> String {
        let own = all.iter().find(|one| one.namespace == namespace);
        own.map(|one| one.names.clone()).unwrap_or_default()
    }

    #[test]
    fn one_that_changes_all_the_time_is_held_back_and_no_other() {
        let mut damper = Damper::default();
        let mut now = Instant::now();
        let mut changes = 0;
        let mut last = String::new();
        // 100 times a second for a minute.
        for turn in 0..6000 {
            let hostile = if turn % 3 == 2 {
                String::new()
            } else {
                format!("{turn}.example")
            };
            let foo = format!("{}.example", turn / 1500);
            let all = [claims("hostile", &hostile), claims("foo", &foo)].concat();
            let (all, wait) = damper.take(all, now);
            assert_eq!(of(&all, "foo"), foo, "the others' are taken at once");
            let counts = of(&all, "hostile");
            changes += u32::from(counts != last);
            assert!(wait.is_some() || counts == hostile);
            last = counts;
            now += Duration::from_millis(10);
        }
        assert!((8..=14).contains(&changes), "{changes}");
        // What it says in the end counts, after the time that was told.
        let end = || [claims("hostile", "end.example"), claims("foo", "3.example")].concat();
        let (all, wait) = damper.take(end(), now);
        if of(&all, "hostile") != "end.example" {
            let (all, wait) = damper.take(end(), now + wait.unwrap());
            assert_eq!((of(&all, "hostile").as_str(), wait), ("end.example", None));
        }
    }

    #[test]
    fn who_claims_nothing_any_more_is_forgotten_but_not_its_changes() {
        let mut damper = Damper::default();
        let now = Instant::now();
        damper.take(claims("foo", "a.example"), now);
        damper.take(Vec::new(), now);
        assert_eq!(damper.namespaces.len(), 1);
        assert_eq!(
            damper.take(Vec::new(), now + REFILL * BURST),
            (Vec::new(), None)
        );
        assert!(damper.namespaces.is_empty());
    }
}
