//! Which promises a chaos run has broken: a pure function of the events and of what the pods saw.
//!
//! A query that is lost is excused only where the documents say so: the responder had it when it was killed and no successor came
//! in time, it was
//! handed over before the programs noticed that there was no process, the existing cache lost it, or another agent had just
//! changed what is on the pod's interface.

use std::{collections::BTreeMap, time::Duration};

use dns_common::abi::SUSPECT_NS;

use super::{
    counts::{Merge as _, counts},
    load::{Counts, Incident, Kind, Late, Problem, Seen, TIMEOUT},
};

/// A fault, injected into gregor or its environment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Fault {
    /// Nothing.
    Quiet,
    /// A successor takes over, the predecessor gets SIGTERM.
    Upgrade,
    /// The same with a successor of another ABI version that has the same layouts, and back.
    OtherAbi,
    /// The same with one that has others.
    OtherLayout,
    /// SIGKILL, and a start at once.
    Kill,
    /// SIGKILL, and a start after a while.
    Absence,
    /// SIGSTOP for a while.
    Stop,
    /// Killed by the kernel, because its cgroup is out of memory.
    OutOfMemory,
    /// Another configuration.
    Reload,
    /// Pods are added and removed.
    Churn,
    /// Another agent detaches the program.
    Purge,
    /// The existing cache is restarted.
    Cache,
}

impl Fault {
    pub fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Upgrade => "upgrade",
            Self::OtherAbi => "other ABI",
            Self::OtherLayout => "other layout",
            Self::Kill => "kill -9",
            Self::Absence => "kill -9, absent",
            Self::Stop => "SIGSTOP",
            Self::OutOfMemory => "out of memory",
            Self::Reload => "reload",
            Self::Churn => "pods come and go",
            Self::Purge => "foreign agent",
            Self::Cache => "cache restarted",
        }
    }

    /// Whether a gregor serves new names all the time.
    fn is_served_throughout(self) -> bool {
        matches!(
            self,
            Self::Quiet | Self::Upgrade | Self::OtherAbi | Self::Reload | Self::Churn
        )
    }
}

/// One fault, with what follows until the next one. Times are since the start of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Round {
    pub fault: Fault,
    pub events: Vec<Event>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// gregor died at `at`, and the next one was ready at `served`.
    Died { at: Duration, served: Duration },
    /// gregor was asked to end, and ended; the one that waited for it was ready at `served`.
    Replaced {
        asked: Duration,
        ended: Duration,
        served: Duration,
    },
    /// gregor was stopped, and went on.
    Stopped { at: Duration, until: Duration },
    /// The existing cache was stopped.
    CacheAway { from: Duration, until: Duration },
    /// It left a query of the node itself unanswered.
    CacheSilent { at: Duration },
    /// Another agent detached the program from this pod's interface.
    Purged { pod: String, at: Duration },
}

/// How long after its last heartbeat the responder still gets the queries for expired answers.
const SUSPECT: Duration = Duration::from_nanos(SUSPECT_NS);
/// A successor that comes within this time serves the queries that still wait.
const IN_TIME: Duration = Duration::from_secs(4);
/// The programs hand queries over until this long after the last heartbeat.
const DEADLINE: Duration = Duration::from_secs(1);
/// A program that another agent detached is attached again within this time.
const PUT_BACK: Duration = Duration::from_secs(5);
/// Between an event and the moment at which the harness noted it, on a busy machine.
const SLACK: Duration = Duration::from_millis(300);
/// Of new names, how many of a thousand the cache may answer while a gregor serves: a machine that stalls for a second
/// looks like a responder that does.
const PASSED_PER_MILLE: u64 = 50;

counts! {
    /// The results of the rounds with one fault.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub struct Row {
        pub rounds: u64,
        pub counts: Counts,
        /// Lost without an excuse.
        pub lost: u64,
        /// The responder had them when it died.
        pub outstanding: u64,
        /// Handed over after the death, from an interface where the process had not been found yet, and no successor came
        /// in time.
        pub unnoticed: u64,
        /// Lost by the existing cache: it was away, or its socket was full.
        pub lost_by_cache: u64,
        /// Replies that the kernel dropped at the full socket of a pod.
        pub lost_by_load: u64,
        pub wrong: u64,
        /// Known names without their endpoint.
        pub leaked: u64,
        /// The same, or lost, while another agent had removed the program: an interface stops for a moment when its queueing
        /// discipline is removed or added.
        pub exposed: u64,
    }
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub rows: BTreeMap<Fault, Row>,
    /// How long after gregor was stopped new names were still handed over to it; the longest time of all. `None` where it never
    /// was.
    pub fail_open: Option<Duration>,
    /// One line for each kind of broken promise and fault, with an example.
    pub broken: Vec<String>,
}

/// Why a query may be lost.
enum Excuse {
    Outstanding,
    Unnoticed,
    Cache,
}

/// So long before and after a query that the cache leaves unanswered it may leave others so.
const SILENCE: Duration = Duration::from_secs(1);

/// Queries that the kernel dropped at the existing cache's socket, which was full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drops {
    pub from: Duration,
    pub until: Duration,
    pub count: u64,
}

/// Judges what pods have seen in these rounds.
pub fn judge(rounds: &[Round], seen: &Seen, drops: &[Drops]) -> Verdict {
    let mut drops = drops.to_vec();
    let mut verdict = Verdict::default();
    for round in rounds {
        verdict.rows.entry(round.fault).or_default().rounds += 1;
    }
    let fault_of = |number: usize| rounds.get(number).map(|round| round.fault);
    for (number, counts) in &seen.counts {
        if let Some(fault) = fault_of(*number) {
            let row = verdict.rows.entry(fault).or_default();
            row.counts.merge(counts);
        }
    }
    let events: Vec<&Event> = rounds.iter().flat_map(|round| &round.events).collect();
    verdict.fail_open = fail_open(&events, &seen.late);
    let mut examples: BTreeMap<(Fault, &str), (u64, String)> = BTreeMap::new();
    for incident in &seen.incidents {
        let Some(fault) = fault_of(incident.round) else {
            continue;
        };
        let row = verdict.rows.entry(fault).or_default();
        let promise = match &incident.what {
            Problem::Wrong(_) => {
                row.wrong += 1;
                "wrong answers"
            }
            Problem::Dropped => {
                row.lost_by_load += 1;
                continue;
            }
            Problem::Leaked(_) | Problem::Lost if is_exposed(&events, incident) => {
                row.exposed += 1;
                continue;
            }
            Problem::Leaked(_) => {
                row.leaked += 1;
                "known names without their endpoint"
            }
            Problem::Lost => match excuse(&events, incident) {
                Some(Excuse::Outstanding) => {
                    row.outstanding += 1;
                    continue;
                }
                Some(Excuse::Unnoticed) => {
                    row.unnoticed += 1;
                    continue;
                }
                Some(Excuse::Cache) => {
                    row.lost_by_cache += 1;
                    continue;
                }
                None if take(&mut drops, incident) => {
                    row.lost_by_cache += 1;
                    continue;
                }
                None => {
                    row.lost += 1;
                    "lost queries"
                }
            },
        };
        let example = examples
            .entry((fault, promise))
            .or_insert_with(|| (0, describe(incident)));
        example.0 += 1;
    }
    for ((fault, promise), (count, example)) in examples {
        let name = fault.name();
        verdict
            .broken
            .push(format!("{name}: {count} {promise}, the first: {example}"));
    }
    for (fault, row) in &verdict.rows {
        let name = fault.name();
        let new = row.counts.sent[Kind::New as usize];
        if fault.is_served_throughout() && row.counts.passed * 1000 > new * PASSED_PER_MILLE {
            verdict.broken.push(format!(
                "{name}: {} of {new} new names were left to the cache while a gregor was to serve them",
                row.counts.passed
            ));
        }
        if row.counts.twice > 0 {
            let twice = row.counts.twice;
            verdict
                .broken
                .push(format!("{name}: {twice} queries got two replies"));
        }
    }
    verdict
}

fn fail_open(events: &[&Event], late: &[Late]) -> Option<Duration> {
    let longest = |event: &&Event| {
        let Event::Stopped { at, until } = **event else {
            return None;
        };
        let waited = late
            .iter()
            .filter(|late| (at..until).contains(&late.sent) && late.replied >= until);
        let after = waited.map(|late| late.sent - at).max();
        Some(after.unwrap_or_default())
    };
    events.iter().filter_map(longest).max()
}

fn describe(incident: &Incident) -> String {
    let what = match &incident.what {
        Problem::Lost | Problem::Dropped => "no reply",
        Problem::Wrong(text) | Problem::Leaked(text) => text,
    };
    format!(
        "{} ({}) from pod {} at {:.3} s: {what}",
        incident.qname,
        incident.kind.name(),
        incident.pod,
        incident.sent.as_secs_f64()
    )
}

/// Whether one of the drops at the cache may be this query, which is then counted. One for a new name may have waited at the
/// responder before it passed.
fn take(drops: &mut [Drops], incident: &Incident) -> bool {
    let from = incident.sent;
    let until = match incident.kind {
        // The program answers it.
        Kind::Known => return false,
        Kind::New => from + TIMEOUT,
        Kind::Foreign => from,
    };
    let found = drops.iter_mut().find(|drops| {
        drops.count > 0 && drops.until + SLACK >= from && drops.from <= until + SLACK
    });
    found.is_some_and(|drops| {
        drops.count -= 1;
        true
    })
}

fn is_exposed(events: &[&Event], incident: &Incident) -> bool {
    events.iter().any(|event| match event {
        Event::Purged { pod, at } => {
            *pod == incident.pod
                && incident.sent + SLACK >= *at
                && incident.sent <= *at + PUT_BACK + SLACK
        }
        _ => false,
    })
}

fn excuse(events: &[&Event], incident: &Incident) -> Option<Excuse> {
    let sent = incident.sent;
    let outlived = |at: Duration| sent <= at && sent + TIMEOUT >= at;
    // A successor in time answers what the one before had taken.
    let is_late = |at: Duration, served: Duration| {
        served.saturating_sub(at) > IN_TIME || served + 2 * SLACK >= sent + TIMEOUT
    };
    events.iter().find_map(|event| match event {
        // The program answers cached names, and foreign names pass: a death does not affect them. But a cached name whose
        // answer has expired is handed over like a new one: before the missing process is noticed, while the responder waits for a
        // cache that is away, and when a process goes on that was stopped.
        Event::Died { at, served }
            if incident.kind == Kind::Known
                && outlived(*at)
                && (is_late(*at, *served) || asked_while_away(events, sent)) =>
        {
            Some(Excuse::Outstanding)
        }
        Event::Died { at, served } if incident.kind == Kind::Known => (sent + SLACK >= *at
            && sent <= *at + SUSPECT + SLACK
            && served.saturating_sub(*at) > IN_TIME)
            .then_some(Excuse::Unnoticed),
        Event::Died { at, served } if incident.kind == Kind::New => {
            if outlived(*at) {
                is_late(*at, *served).then_some(Excuse::Outstanding)
            } else if sent > *at
                && sent <= *at + DEADLINE + SLACK
                && served.saturating_sub(*at) > IN_TIME
            {
                Some(Excuse::Unnoticed)
            } else {
                None
            }
        }
        // It leaves what it has not taken to the successor.
        Event::Replaced {
            asked,
            ended,
            served,
        } if incident.kind != Kind::Foreign && served.saturating_sub(*ended) > IN_TIME => {
            let noticed = match incident.kind {
                Kind::Known => SUSPECT,
                _ => DEADLINE,
            };
            (sent + SLACK >= *asked && sent <= *ended + noticed + SLACK)
                .then_some(Excuse::Unnoticed)
        }
        Event::CacheAway { .. } if incident.kind != Kind::Known => {
            asked_while_away(std::slice::from_ref(event), sent).then_some(Excuse::Cache)
        }
        Event::CacheSilent { at } => {
            // A responder may ask it for as long as the client waits.
            let patience = match incident.kind {
                Kind::Known => return None,
                Kind::New => TIMEOUT,
                Kind::Foreign => Duration::ZERO,
            };
            (sent <= *at + SILENCE && sent + patience + SILENCE >= *at).then_some(Excuse::Cache)
        }
        _ => None,
    })
}

/// Whether a query that was sent then may have been asked of a cache that was away.
fn asked_while_away(events: &[&Event], sent: Duration) -> bool {
    events.iter().any(|event| match event {
        Event::CacheAway { from, until } => sent + DEADLINE >= *from && sent <= *until + SLACK,
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    fn round(fault: Fault, events: &[Event]) -> Round {
        Round {
            fault,
            events: events.to_vec(),
        }
    }

    fn incident(sent: f64, kind: Kind, what: Problem) -> Incident {
        Incident {
            sent: at(sent),
            round: 0,
            pod: "foo".to_owned(),
            kind,
            qname: "name".to_owned(),
            what,
        }
    }

    fn seen(incidents: &[Incident]) -> Seen {
        let counts = Counts {
            sent: [600, 100, 300],
            ..Counts::default()
        };
        Seen {
            counts: BTreeMap::from([(0, counts)]),
            incidents: incidents.to_vec(),
            late: Vec::new(),
        }
    }

    fn broken(round: Round, incidents: &[Incident]) -> Vec<String> {
        judge(&[round], &seen(incidents), &[]).broken
    }

    #[test]
    fn a_run_without_incidents_breaks_nothing() {
        let verdict = judge(&[round(Fault::Upgrade, &[])], &seen(&[]), &[]);
        assert_eq!(verdict.broken, Vec::<String>::new());
        assert_eq!(verdict.rows[&Fault::Upgrade].counts.sent[0], 600);
    }

    #[test]
    fn nothing_may_be_lost_in_an_upgrade() {
        for kind in Kind::ALL {
            let lost = incident(7.0, kind, Problem::Lost);
            let broken = broken(round(Fault::Upgrade, &[]), &[lost]);
            assert!(broken[0].contains("1 lost queries"), "{broken:?}");
        }
    }

    #[test]
    fn a_successor_that_is_late_excuses_what_was_left_to_it() {
        let row = |served, kind, sent| {
            let replaced = Event::Replaced {
                asked: at(10.0),
                ended: at(10.5),
                served: at(served),
            };
            let lost = incident(sent, kind, Problem::Lost);
            let round = round(Fault::Upgrade, &[replaced]);
            let row = judge(&[round], &seen(&[lost]), &[]).rows[&Fault::Upgrade].clone();
            (row.lost, row.unnoticed)
        };
        for kind in [Kind::New, Kind::Known] {
            assert_eq!(row(14.4, kind, 10.2), (1, 0));
            assert_eq!(row(14.6, kind, 10.2), (0, 1));
            assert_eq!(row(14.6, kind, 9.6), (1, 0));
            assert_eq!(row(14.6, kind, 11.9), (1, 0));
        }
        assert_eq!(row(14.6, Kind::New, 11.7), (0, 1));
        assert_eq!(row(14.6, Kind::Foreign, 10.2), (1, 0));
    }

    #[test]
    fn a_death_excuses_only_what_the_responder_had_and_no_successor_answered() {
        let died = |served| Event::Died {
            at: at(10.0),
            served: at(served),
        };
        let row = |served, kind, sent| {
            let lost = incident(sent, kind, Problem::Lost);
            let verdict = judge(&[round(Fault::Kill, &[died(served)])], &seen(&[lost]), &[]);
            let row = verdict.rows[&Fault::Kill].clone();
            (row.lost, row.outstanding, row.unnoticed)
        };
        assert_eq!(row(11.0, Kind::New, 9.9), (1, 0, 0));
        assert_eq!(row(11.0, Kind::Known, 9.9), (1, 0, 0));
        assert_eq!(row(70.0, Kind::New, 9.9), (0, 1, 0));
        assert_eq!(row(70.0, Kind::Known, 9.9), (0, 1, 0));
        assert_eq!(row(70.0, Kind::Foreign, 9.9), (1, 0, 0));
        // The client had given up.
        assert_eq!(row(11.0, Kind::New, 6.2), (0, 1, 0));
        assert_eq!(row(11.0, Kind::Foreign, 9.9), (1, 0, 0));
        // The next one serves it.
        assert_eq!(row(11.0, Kind::New, 10.5), (1, 0, 0));
        // No successor does.
        assert_eq!(row(70.0, Kind::New, 10.5), (0, 0, 1));
        assert_eq!(row(70.0, Kind::New, 11.5), (1, 0, 0));
        assert_eq!(row(70.0, Kind::Known, 10.4), (0, 0, 1));
        assert_eq!(row(70.0, Kind::Known, 11.0), (1, 0, 0));
        assert_eq!(row(11.0, Kind::Known, 10.4), (1, 0, 0));
        assert_eq!(row(70.0, Kind::New, 4.0), (1, 0, 0));
    }

    #[test]
    fn a_wrong_answer_is_never_excused() {
        let events = [
            Event::Died {
                at: at(10.0),
                served: at(70.0),
            },
            Event::Purged {
                pod: "foo".to_owned(),
                at: at(10.0),
            },
        ];
        let wrong = incident(10.0, Kind::New, Problem::Wrong("10.0.0.9".to_owned()));
        let broken = broken(round(Fault::Absence, &events), &[wrong]);
        assert!(broken[0].contains("1 wrong answers"), "{broken:?}");
    }

    #[test]
    fn known_names_keep_their_endpoint_but_for_a_purged_interface() {
        let leaked = |sent| incident(sent, Kind::Known, Problem::Leaked("NXDOMAIN".to_owned()));
        let found = broken(round(Fault::Absence, &[]), &[leaked(10.0)]);
        assert!(found[0].contains("without their endpoint"), "{found:?}");
        let purged = |pod: &str| {
            let event = Event::Purged {
                pod: pod.to_owned(),
                at: at(10.0),
            };
            round(Fault::Purge, &[event])
        };
        assert!(broken(purged("foo"), &[leaked(14.0)]).is_empty());
        assert_eq!(broken(purged("foo"), &[leaked(16.0)]).len(), 1);
        assert_eq!(broken(purged("bar"), &[leaked(14.0)]).len(), 1);
        let lost = incident(10.0, Kind::Known, Problem::Lost);
        assert!(broken(purged("foo"), std::slice::from_ref(&lost)).is_empty());
        assert_eq!(broken(purged("bar"), &[lost]).len(), 1);
    }

    #[test]
    fn queries_that_the_cache_loses_are_excused() {
        let away = Event::CacheAway {
            from: at(10.0),
            until: at(12.0),
        };
        let lost = |kind, sent| {
            let lost = incident(sent, kind, Problem::Lost);
            broken(round(Fault::Cache, std::slice::from_ref(&away)), &[lost]).len()
        };
        assert_eq!(lost(Kind::Foreign, 11.0), 0);
        assert_eq!(lost(Kind::New, 11.0), 0);
        assert_eq!(lost(Kind::Known, 11.0), 1);
        assert_eq!(lost(Kind::Foreign, 14.0), 1);

        // It answered a client of the node no more than the pods.
        let lost = |kind, sent| {
            let lost = incident(sent, kind, Problem::Lost);
            let silent = Event::CacheSilent { at: at(10.0) };
            broken(round(Fault::Reload, &[silent]), &[lost]).len()
        };
        for sent in [9.1, 10.9] {
            assert_eq!(lost(Kind::Foreign, sent), 0);
            assert_eq!(lost(Kind::New, sent), 0);
            assert_eq!(lost(Kind::Known, sent), 1);
        }
        assert_eq!(lost(Kind::Foreign, 8.9), 1);
        assert_eq!(lost(Kind::New, 4.1), 0);
        assert_eq!(lost(Kind::New, 3.9), 1);
        assert_eq!(lost(Kind::Foreign, 11.1), 1);

        // A known name waited at a responder that is killed then.
        let died = Event::Died {
            at: at(13.0),
            served: at(13.5),
        };
        let lost = |sent| {
            let lost = incident(sent, Kind::Known, Problem::Lost);
            let events = [away.clone(), died.clone()];
            broken(round(Fault::Kill, &events), &[lost]).len()
        };
        assert_eq!(lost(11.0), 0);
        assert_eq!(lost(12.6), 1);
        assert_eq!(lost(7.9), 1);
    }

    #[test]
    fn the_program_hands_over_until_the_last_query_that_waited() {
        let stopped = Event::Stopped {
            at: at(10.0),
            until: at(13.0),
        };
        let late = |sent, replied| Late {
            sent: at(sent),
            replied: at(replied),
        };
        let mut seen = seen(&[]);
        // Waited before; waited; looked up slowly elsewhere.
        seen.late = vec![
            late(9.9, 13.1),
            late(10.9, 13.1),
            late(11.5, 12.0),
            late(14.0, 15.0),
        ];
        let fail_open =
            |events: &[Event]| judge(&[round(Fault::Stop, events)], &seen, &[]).fail_open;
        assert_eq!(fail_open(&[stopped]), Some(at(10.9) - at(10.0)));
        assert_eq!(fail_open(&[]), None);
    }

    /// As many as the kernel has counted, and no more.
    #[test]
    fn drops_at_the_cache_excuse_as_many_queries() {
        let drops = [Drops {
            from: at(10.0),
            until: at(10.2),
            count: 2,
        }];
        let lost = |kind, sent: &[f64]| {
            let lost = |sent: &f64| incident(*sent, kind, Problem::Lost);
            let lost: Vec<Incident> = sent.iter().map(lost).collect();
            let verdict = judge(&[round(Fault::Stop, &[])], &seen(&lost), &drops);
            let row = verdict.rows[&Fault::Stop].clone();
            (row.lost, row.lost_by_cache)
        };
        assert_eq!(lost(Kind::Foreign, &[10.0, 10.1, 10.1]), (1, 2));
        assert_eq!(lost(Kind::Foreign, &[9.0, 11.0]), (2, 0));
        assert_eq!(lost(Kind::New, &[4.0, 9.0, 11.0]), (2, 1));
        assert_eq!(lost(Kind::Known, &[10.1]), (1, 0));
        let dropped = incident(10.0, Kind::Known, Problem::Dropped);
        let verdict = judge(&[round(Fault::Stop, &[])], &seen(&[dropped]), &[]);
        assert_eq!(verdict.broken, Vec::<String>::new());
        assert_eq!(verdict.rows[&Fault::Stop].lost_by_load, 1);
    }

    #[test]
    fn new_names_are_served_where_a_gregor_is() {
        let mut seen = seen(&[]);
        let counts = seen.counts.get_mut(&0).unwrap();
        counts.passed = 50;
        let quiet = round(Fault::Quiet, &[]);
        assert_eq!(
            judge(std::slice::from_ref(&quiet), &seen, &[]).broken.len(),
            1
        );
        assert_eq!(
            judge(&[round(Fault::Absence, &[])], &seen, &[])
                .broken
                .len(),
            0
        );
        seen.counts.get_mut(&0).unwrap().passed = 5;
        assert_eq!(judge(&[quiet], &seen, &[]).broken.len(), 0);
    }

    #[test]
    fn a_second_reply_to_a_query_breaks_a_promise() {
        let mut seen = seen(&[]);
        seen.counts.get_mut(&0).unwrap().twice = 1;
        let broken = judge(&[round(Fault::Upgrade, &[])], &seen, &[]).broken;
        assert_eq!(broken, ["upgrade: 1 queries got two replies"]);
    }
}
