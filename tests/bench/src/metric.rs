//! The metrics of a report: their names, units, and which way is better.

use super::schema::Better;

/// A metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub unit: &'static str,
    pub better: Better,
    /// Whether ratios of it mean anything: not where it is near zero.
    pub ratio: bool,
}

const fn higher(name: &'static str, unit: &'static str) -> Metric {
    Metric {
        name,
        unit,
        better: Better::Higher,
        ratio: true,
    }
}

const fn lower(name: &'static str, unit: &'static str) -> Metric {
    Metric {
        name,
        unit,
        better: Better::Lower,
        ratio: true,
    }
}

const fn share(name: &'static str) -> Metric {
    Metric {
        name,
        unit: "",
        better: Better::Lower,
        ratio: false,
    }
}

pub const ANSWERS: &str = "answers_per_second";
pub const SENT: &str = "sent_per_second";
/// Processor time of the whole machine for a million answers, less what the generator takes for a million queries.
pub const BUSY: &str = "busy_seconds_per_million";
pub const LOST: &str = "lost_share";
/// Replies that are not what was asked for: NXDOMAIN, SERVFAIL, truncated, empty.
pub const WRONG: &str = "wrong_share";
pub const P50: &str = "p50_us";
pub const P99: &str = "p99_us";
pub const P999: &str = "p999_us";
/// With gregor, in parts of without.
pub const RATIO: &str = "with_to_without";
pub const WITH: &str = "with";
pub const WITHOUT: &str = "without";
/// What the reflector does with the same names.
pub const REFLECTED: &str = "reflector_answers_per_second";
pub const READY: &str = "ready_ms";
pub const RESIDENT: &str = "resident_kib";
pub const MAPS: &str = "maps_kib";

// Time of one run of a program, net of an empty one.
pub const PROGRAM_REFLECTOR: &str = "program_reflector_ns";
/// Of the reflector with as many bytes as a tenant's usual answer.
pub const PROGRAM_WHOLE_REFLECTOR: &str = "program_whole_reflector_ns";
pub const PROGRAM_NOT_DNS: &str = "program_not_dns_ns";
pub const PROGRAM_FOREIGN: &str = "program_foreign_ns";
pub const PROGRAM_CLUSTER: &str = "program_cluster_ns";
pub const PROGRAM_RECOGNISED: &str = "program_recognised_ns";
pub const PROGRAM_HANDED_OVER: &str = "program_handed_over_ns";
pub const PROGRAM_ANSWERED: &str = "program_answered_ns";

pub const ALL: [Metric; 23] = [
    higher(ANSWERS, "1/s"),
    higher(SENT, "1/s"),
    higher(REFLECTED, "1/s"),
    lower(BUSY, "s"),
    share(LOST),
    share(WRONG),
    lower(P50, "µs"),
    lower(P99, "µs"),
    lower(P999, "µs"),
    Metric {
        name: RATIO,
        unit: "×",
        better: Better::Higher,
        ratio: false,
    },
    Metric {
        name: WITH,
        unit: "",
        better: Better::Higher,
        ratio: false,
    },
    Metric {
        name: WITHOUT,
        unit: "",
        better: Better::Higher,
        ratio: false,
    },
    lower(READY, "ms"),
    lower(RESIDENT, "KiB"),
    lower(MAPS, "KiB"),
    lower(PROGRAM_REFLECTOR, "ns"),
    lower(PROGRAM_WHOLE_REFLECTOR, "ns"),
    lower(PROGRAM_NOT_DNS, "ns"),
    lower(PROGRAM_FOREIGN, "ns"),
    lower(PROGRAM_CLUSTER, "ns"),
    lower(PROGRAM_RECOGNISED, "ns"),
    lower(PROGRAM_HANDED_OVER, "ns"),
    lower(PROGRAM_ANSWERED, "ns"),
];

pub fn by_name(name: &str) -> Option<&'static Metric> {
    ALL.iter().find(|metric| metric.name == name)
}
