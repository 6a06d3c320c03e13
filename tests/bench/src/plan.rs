//! What a run measures: the named cells, in groups whose rounds are interleaved, and how long each takes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    contenders::{
        COREDNS, DISCARD, GREGOR_COREDNS, GREGOR_NODELOCAL, NODELOCAL, REFLECTOR, REFLECTOR_LONG,
        RESPONDER, UNBOUND,
    },
    load::{flow::Span, names::Traffic},
};

/// How thorough a run is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    Quick,
    Full,
}

/// What one cell measures.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// Answers per second and what they cost the machine, names warm.
    Throughput {
        traffic: Traffic,
    },
    /// The same for names that were not asked for before.
    Cold,
    /// The same, measured by dnsperf.
    Dnsperf,
    /// One query after the other.
    Closed,
    /// So many per second at intended times.
    Open {
        per_second: u32,
    },
    /// With gregor attached and without, in turn, over the same cache.
    Pair(Pair),
    /// Until it answers, and how much memory it then has.
    Start,
    /// Time of the kernel program itself, by kind of frame.
    Program,
    Growth(Axis),
}

/// What is compared with gregor attached and without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    DnsThroughput,
    DnsLatency,
    Tcp,
    Udp,
}

/// What grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    Rules,
    Namespaces,
    Interfaces,
    NameLength,
}

impl Axis {
    pub fn id(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Namespaces => "namespaces",
            Self::Interfaces => "interfaces",
            Self::NameLength => "name-length",
        }
    }

    pub fn points(self, mode: Mode) -> &'static [usize] {
        match (self, mode) {
            (Self::Rules, Mode::Full) => &[1, 10, 1000, 5000],
            (Self::Rules, Mode::Quick) => &[1, 1000],
            (Self::Namespaces, Mode::Full) => &[1, 100, 5000, 50_000],
            (Self::Namespaces, Mode::Quick) => &[1, 1000],
            (Self::Interfaces, Mode::Full) => &[1, 10, 100, 500],
            (Self::Interfaces, Mode::Quick) => &[1, 100],
            (Self::NameLength, Mode::Full) => &[20, 75, 150, 250],
            (Self::NameLength, Mode::Quick) => &[20, 250],
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq)]
pub struct Cell {
    pub id: String,
    /// None where the cell compares by itself.
    pub contender: Option<&'static str>,
    pub pods: usize,
    pub what: What,
}

/// Cells whose rounds are interleaved, since what disturbs one then disturbs all.
#[derive(Clone, Debug)]
pub struct Group {
    pub title: String,
    pub cells: Vec<Cell>,
    pub rounds: usize,
}

/// Everything that a run does.
#[derive(Clone, Debug)]
pub struct Plan {
    pub mode: Mode,
    pub groups: Vec<Group>,
}

/// Different names that warm traffic asks for.
pub const LABELS: usize = 192;
/// Queries under way at once: what dnsperf does by default and the smallest socket buffer holds.
pub const WINDOW: u64 = 100;
/// Rate of the open loop, which every contender keeps up with on two cores.
const OPEN_RATE: u32 = 5000;

impl Mode {
    pub fn span(self) -> Span {
        match self {
            Self::Quick => Span {
                warm_up: Duration::from_millis(50),
                duration: Duration::from_millis(250),
            },
            Self::Full => Span {
                warm_up: Duration::from_millis(300),
                duration: Duration::from_millis(1500),
            },
        }
    }

    /// Of a latency measurement.
    pub fn latency(self) -> Duration {
        match self {
            Self::Quick => Duration::from_millis(300),
            Self::Full => Duration::from_millis(2000),
        }
    }

    /// Turns of each pod of a pair; none where both ask at once.
    pub fn turns(self, pair: Pair) -> usize {
        match (self, pair) {
            (_, Pair::DnsLatency) => 0,
            (Self::Quick, Pair::DnsThroughput) => 16,
            (Self::Full, Pair::DnsThroughput) => 300,
            (Self::Quick, Pair::Tcp | Pair::Udp) => 2,
            (Self::Full, Pair::Tcp | Pair::Udp) => 10,
        }
    }

    pub fn cold_names(self) -> usize {
        match self {
            Self::Quick => 3000,
            Self::Full => 20_000,
        }
    }

    fn rounds(self) -> usize {
        match self {
            Self::Quick => 3,
            Self::Full => 11,
        }
    }
}

impl Plan {
    pub fn new(mode: Mode) -> Self {
        let throughput = |contender, traffic: Traffic| Cell {
            id: format!("throughput/{}/{contender}", traffic.label()),
            contender: Some(contender),
            pods: 1,
            what: What::Throughput { traffic },
        };
        let of = |kind: &str, contender, what| Cell {
            id: format!("{kind}/{contender}"),
            contender: Some(contender),
            pods: 1,
            what,
        };
        let mut one_pod: Vec<Cell> = [
            DISCARD,
            REFLECTOR,
            REFLECTOR_LONG,
            COREDNS,
            NODELOCAL,
            UNBOUND,
            GREGOR_COREDNS,
            GREGOR_NODELOCAL,
            RESPONDER,
        ]
        .map(|contender| throughput(contender, Traffic::Matched))
        .to_vec();
        for traffic in [Traffic::Mixed(1), Traffic::Mixed(50)] {
            one_pod.extend([NODELOCAL, GREGOR_NODELOCAL].map(|it| throughput(it, traffic)));
        }
        one_pod.extend([NODELOCAL, GREGOR_NODELOCAL].map(|it| of("cold", it, What::Cold)));
        one_pod.extend([NODELOCAL, GREGOR_NODELOCAL].map(|it| of("dnsperf", it, What::Dnsperf)));
        let latency = [REFLECTOR, NODELOCAL, UNBOUND, GREGOR_NODELOCAL, RESPONDER];
        one_pod.extend(latency.map(|it| of("latency", it, What::Closed)));
        let open = What::Open {
            per_second: OPEN_RATE,
        };
        one_pod.extend(
            [REFLECTOR, NODELOCAL, GREGOR_NODELOCAL]
                .map(|it| of(&format!("latency-at-{OPEN_RATE}"), it, open)),
        );
        let mut groups = vec![Group {
            title: "one pod".to_owned(),
            cells: one_pod,
            rounds: mode.rounds(),
        }];

        let pods: &[usize] = match mode {
            Mode::Quick => &[10],
            Mode::Full => &[10, 100],
        };
        for &pods in pods {
            groups.push(Group {
                title: format!("{pods} pods"),
                cells: [NODELOCAL, GREGOR_NODELOCAL]
                    .map(|contender| Cell {
                        id: format!("throughput/{pods}-pods/{contender}"),
                        contender: Some(contender),
                        pods,
                        what: What::Throughput {
                            traffic: Traffic::Matched,
                        },
                    })
                    .to_vec(),
                rounds: mode.rounds(),
            });
        }

        let pair = |kind: &str, pair| Cell {
            id: format!("pair/{kind}"),
            contender: None,
            pods: 1,
            what: What::Pair(pair),
        };
        groups.push(Group {
            title: "foreign queries with gregor and without".to_owned(),
            cells: vec![
                pair("foreign-throughput", Pair::DnsThroughput),
                pair("foreign-latency", Pair::DnsLatency),
            ],
            rounds: 30,
        });
        groups.push(Group {
            title: "other traffic with gregor and without".to_owned(),
            cells: vec![pair("tcp", Pair::Tcp), pair("udp", Pair::Udp)],
            rounds: match mode {
                // The fewest that an interval can be given for.
                Mode::Quick => super::stats::FEWEST,
                Mode::Full => 30,
            },
        });
        groups.push(Group {
            title: "the program".to_owned(),
            cells: vec![Cell {
                id: "program".to_owned(),
                contender: None,
                pods: 0,
                what: What::Program,
            }],
            rounds: mode.rounds(),
        });
        groups.push(Group {
            title: "start and memory".to_owned(),
            cells: [NODELOCAL, GREGOR_NODELOCAL]
                .map(|it| of("start", it, What::Start))
                .to_vec(),
            rounds: match mode {
                Mode::Quick => 1,
                Mode::Full => 5,
            },
        });
        for axis in [
            Axis::Rules,
            Axis::Namespaces,
            Axis::Interfaces,
            Axis::NameLength,
        ] {
            groups.push(Group {
                title: format!("growth: {}", axis.id()),
                cells: vec![Cell {
                    id: format!("growth/{}", axis.id()),
                    contender: None,
                    pods: 1,
                    what: What::Growth(axis),
                }],
                rounds: match mode {
                    Mode::Quick => 3,
                    Mode::Full => 7,
                },
            });
        }
        Self { mode, groups }
    }

    /// Only the cells whose name contains one of `wanted`.
    pub fn keep(&mut self, wanted: &[String]) {
        for group in &mut self.groups {
            group
                .cells
                .retain(|cell| wanted.iter().any(|part| cell.id.contains(part.as_str())));
        }
        self.groups.retain(|group| !group.cells.is_empty());
    }

    pub fn cells(&self) -> impl Iterator<Item = &Cell> {
        self.groups.iter().flat_map(|group| &group.cells)
    }
}

impl Cell {
    /// Places on the horizontal axis that each round measures; one without a value where nothing grows.
    pub fn points(&self, mode: Mode) -> Vec<Option<usize>> {
        match self.what {
            What::Growth(axis) => axis.points(mode).iter().copied().map(Some).collect(),
            _ => vec![None],
        }
    }

    /// What one measurement takes, labs aside.
    pub fn expected(&self, mode: Mode) -> Duration {
        let span = mode.span();
        let run = span.warm_up + span.duration;
        let overhead = Duration::from_millis(60);
        overhead
            + match self.what {
                What::Throughput { .. } => 2 * run,
                What::Cold => run,
                What::Dnsperf => Duration::from_millis(1300),
                What::Closed => mode.latency(),
                What::Open { .. } => mode.latency() + Duration::from_millis(500),
                What::Pair(pair) => {
                    let turn = match pair {
                        Pair::Tcp | Pair::Udp => Duration::from_millis(350),
                        Pair::DnsThroughput | Pair::DnsLatency => Duration::from_millis(13),
                    };
                    let at_once = match pair {
                        Pair::DnsLatency => mode.latency(),
                        _ => Duration::ZERO,
                    };
                    2 * mode.turns(pair) as u32 * turn + at_once + Duration::from_millis(400)
                }
                What::Start => Duration::from_millis(1500),
                What::Program => Duration::from_millis(100),
                What::Growth(_) => 2 * run,
            }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn expected(plan: &Plan) -> Duration {
        plan.groups
            .iter()
            .flat_map(|group| {
                group.cells.iter().map(|cell| {
                    let points = cell.points(plan.mode).len() as u32;
                    cell.expected(plan.mode) * points * group.rounds as u32
                })
            })
            .sum()
    }

    #[test]
    fn a_plan_is_small_enough_to_look_at() {
        for mode in [Mode::Quick, Mode::Full] {
            let plan = Plan::new(mode);
            let ids: HashSet<&str> = plan.cells().map(|cell| cell.id.as_str()).collect();
            assert_eq!(ids.len(), plan.cells().count(), "ids are unique");
            assert!(ids.len() <= 40, "{}", ids.len());
        }
    }

    #[test]
    fn every_contender_has_a_cell() {
        let plan = Plan::new(Mode::Quick);
        for contender in super::super::contenders::all() {
            assert!(
                plan.cells()
                    .any(|cell| cell.contender == Some(contender.id())),
                "{}",
                contender.id()
            );
        }
    }

    #[test]
    fn runs_fit_into_their_time() {
        // What is left over is for making labs.
        assert!(expected(&Plan::new(Mode::Quick)) < Duration::from_secs(150));
        assert!(expected(&Plan::new(Mode::Full)) < Duration::from_secs(50 * 60));
    }

    #[test]
    fn cells_can_be_chosen() {
        let mut plan = Plan::new(Mode::Full);
        plan.keep(&["pair/".to_owned(), "cold".to_owned()]);
        assert_eq!(plan.cells().count(), 6);
    }
}
