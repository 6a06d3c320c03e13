//! When a node reports Services in namespaces that no rule is for; no I/O, simulated clock and chance.
//!
//! Every node knows all of these Services, whether or not their pods run there, and no look-up is the occasion: if each reported each,
//! that would be one request for each node and Service. So each speaks by chance, and a node whose Event was there already does so half as
//! often from then on: in the end some two of all nodes report each Service. That takes neither a lease nor a right to one.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::events::{PERIOD, Subject};

/// The rules and the namespaces may be about to change as well: a tenant is made by several requests.
const SETTLE: Duration = Duration::from_secs(5);
/// Nodes do not speak at once, but some time within this.
const SPREAD: Duration = Duration::from_secs(60);
/// After an Event that was there already, a node reports nothing for so long: what it has learnt counts for the next one.
const PAUSE: Duration = Duration::from_secs(30);
/// How often the chance of one Service is tried in a period. It doubles each time, so that hardly any is left unreported.
const TRIES: u32 = 3;
/// The least chance.
const LEAST: f64 = 1.0 / 4096.0;
/// Services that are remembered.
const MAX_SERVICES: usize = 10_000;

/// See the module.
#[derive(Debug)]
pub struct Denials {
    /// By uid.
    noticed: HashMap<String, Noticed>,
    chance: f64,
    silent_until: Option<Instant>,
}

#[derive(Debug)]
struct Noticed {
    /// The period that it is about.
    period: u64,
    due: Instant,
    tries: u32,
    is_done: bool,
}

impl Default for Denials {
    fn default() -> Self {
        Self {
            noticed: HashMap::new(),
            chance: 1.0,
            silent_until: None,
        }
    }
}

impl Denials {
    /// Takes all Services that are left out now; returns the one to report. `random` gives numbers from 0 to 1.
    pub fn look(
        &mut self,
        left_out: &[Subject],
        now: Instant,
        unix_seconds: u64,
        mut random: impl FnMut() -> f64,
    ) -> Option<Subject> {
        let current: HashSet<&str> = left_out.iter().map(|one| one.uid.as_str()).collect();
        self.noticed.retain(|uid, _| current.contains(uid.as_str()));
        let period = unix_seconds / PERIOD;
        for one in left_out.iter().take(MAX_SERVICES) {
            let is_known = |noticed: &Noticed| noticed.period == period;
            if self.noticed.get(&one.uid).is_some_and(is_known) {
                continue;
            }
            let noticed = Noticed {
                period,
                due: now + SETTLE + SPREAD.mul_f64(random()),
                tries: 0,
                is_done: false,
            };
            self.noticed.insert(one.uid.clone(), noticed);
        }
        if self.silent_until.is_some_and(|until| now < until) {
            return None;
        }
        for one in left_out {
            let Some(noticed) = self.noticed.get_mut(&one.uid) else {
                continue;
            };
            if noticed.is_done || now < noticed.due {
                continue;
            }
            let chance = self.chance * f64::from(1 << noticed.tries);
            noticed.tries += 1;
            noticed.is_done = noticed.tries >= TRIES;
            noticed.due = now + SPREAD.mul_f64(1.0 + random());
            if random() < chance {
                noticed.is_done = true;
                return Some(one.clone());
            }
        }
        None
    }

    /// The last one was reported: `is_first` where no other node had.
    pub fn reported(&mut self, is_first: bool, now: Instant) {
        if is_first {
            self.chance = (self.chance * 2.0).min(1.0);
        } else {
            self.chance = (self.chance / 2.0).max(LEAST);
            self.silent_until = Some(now + PAUSE);
        }
    }

    /// It was not reported after all.
    pub fn again(&mut self, uid: &str, now: Instant) {
        if let Some(noticed) = self.noticed.get_mut(uid) {
            noticed.is_done = false;
            noticed.tries = 0;
            noticed.due = now + PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::rr::Name;

    use super::*;

    const AT: u64 = 1_800_000_000 / PERIOD * PERIOD;
    /// How often a node looks.
    const LOOK: u64 = 5;

    fn subjects(count: usize) -> Vec<Subject> {
        let subject = |number: usize| Subject {
            namespace: format!("ns-{number}"),
            name: "up".to_owned(),
            uid: number.to_string(),
            alias: Name::from_ascii("a.example.").unwrap(),
        };
        (0..count).map(subject).collect()
    }

    /// The same numbers in each run.
    fn random() -> impl FnMut() -> f64 {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        }
    }

    /// Requests of so many nodes in each period, and Services that were not reported.
    fn simulate(nodes: usize, services: usize, periods: u64) -> Vec<(usize, usize)> {
        let mut random = random();
        let left_out = subjects(services);
        let mut all: Vec<Denials> = (0..nodes).map(|_| Denials::default()).collect();
        let start = Instant::now();
        let mut outcome = Vec::new();
        for period in 0..periods {
            let mut created = HashSet::new();
            let mut requests = 0;
            for step in 0..PERIOD / LOOK {
                let seconds = period * PERIOD + step * LOOK;
                let now = start + Duration::from_secs(seconds);
                for node in &mut all {
                    if let Some(one) = node.look(&left_out, now, AT + seconds, &mut random) {
                        requests += 1;
                        node.reported(created.insert(one.uid), now);
                    }
                }
            }
            outcome.push((requests, services - created.len()));
        }
        outcome
    }

    #[test]
    fn one_node_reports_each_service_once_in_a_period() {
        assert_eq!(simulate(1, 20, 3), [(20, 0); 3]);
    }

    #[test]
    fn many_nodes_report_each_service_and_few_of_them_each() {
        let periods = simulate(300, 20, 4);
        println!("{periods:?}");
        let (first, missed) = periods[0];
        // Each would be 6,000.
        assert!(first < 3000 && missed <= 1, "{periods:?}");
        for &(requests, missed) in &periods[1..] {
            assert!(requests < 20 * 20 && missed <= 1, "{periods:?}");
        }
    }

    #[test]
    fn what_is_no_longer_left_out_is_forgotten_and_what_failed_is_tried_again() {
        let mut denials = Denials::default();
        let all = subjects(1);
        let start = Instant::now();
        let look = |denials: &mut Denials, all: &[Subject], seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            denials.look(all, now, AT + seconds, || 0.5).is_some()
        };
        assert!(
            !look(&mut denials, &all, 0),
            "it may be about to be allowed"
        );
        assert!(!look(&mut denials, &[], 34));
        assert!(!look(&mut denials, &all, 35), "noticed anew");
        assert!(look(&mut denials, &all, 70));
        assert!(!look(&mut denials, &all, 200));
        denials.again("0", start + Duration::from_secs(200));
        assert!(!look(&mut denials, &all, 210));
        assert!(look(&mut denials, &all, 230));
        // The API server forgets Events.
        assert!(!look(&mut denials, &all, PERIOD));
        assert!(look(&mut denials, &all, PERIOD + 35));
    }
}
